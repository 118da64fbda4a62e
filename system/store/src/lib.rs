//! A durable store: a write-ahead log in front of LMDB, and a model of it in memory.
//!
//! By itself it is a key/value library:
//!
//! ```
//! use store::{Database, StoreOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let parent = tempfile::tempdir()?;
//! # let dir = parent.path().join("fruit");
//! let fruit = Database::open(&dir, StoreOptions { create: true, ..StoreOptions::default() })?;
//! let first = fruit.put(b"apple", b"green")?; // durable when it returns
//! let second = fruit.put(b"apple", b"red")?;
//! assert!(second > first);
//! fruit.close()?;
//!
//! let fruit = Database::open(&dir, StoreOptions::default())?;
//! let (version, value) = fruit.get(b"apple")?.expect("the apple is durable");
//! assert_eq!((version, &value[..]), (second, &b"red"[..]));
//! fruit.del(b"apple")?;
//! assert_eq!(fruit.get(b"apple")?, None);
//! # Ok(()) }
//! ```
//!
//! An application with records of its own uses [`Store`]. It implements [`Schema`], which defines how
//! a record changes the state and how it is encoded. It appends records; reads see them immediately,
//! and a writer thread makes them durable in groups. [`Memory`] has the same semantics without a
//! disk. It distinguishes data in the process, in the operating system and on the disk, for models
//! and simulators.
//!
//! The parts: each group of records is appended to the write-ahead log (`wal`) and applied to the
//! newest state, which is kept in memory (`memtable`). When a segment of the WAL is full, the writer
//! checkpoints that state to LMDB in one synced transaction (`checkpoint`), stamps it with the WAL
//! generation, and goes on in the other segment. Opening a store verifies the LMDB file (`verify`) and
//! replays the WAL. `rules` names what all of this relies on.

mod checkpoint;
mod codec;
mod database;
mod environment;
mod error;
mod id;
mod limits;
mod memory;
mod memtable;
mod mistakes;
mod page;
mod range;
mod rules;
mod schema;
mod space;
mod store;
mod upgrade;
mod verify;
mod wal;
mod writer;

pub use database::{Database, Value};
pub use error::StoreError;
pub use id::StoreId;
pub use limits::{KEY_BYTES_MAX, LimitError, Limits};
pub use memory::{Memory, State};
pub use mistakes::Mistake;
pub use page::{EntryPage, PageSize};
pub use range::RangeRows;
pub use rules::{Rule, Rules};
pub use schema::{Bytes, RowError, RowKey, Schema, Versioned, Write, decode_write, encode_write};
pub use store::{Entries, Opened, Store, StoreOptions, SyncMode};
pub use writer::{Observer, OnPersisted};

/// The position of a record in the sequence appended since the store was opened, from 1.
pub type Lsn = u64;
