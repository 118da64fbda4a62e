//! A durable store on LMDB with a write-ahead log in front, and a model of it in memory. Defines
//! how records change the stored state. Does not know about messages, votes or networks.
//!
//! By itself it is a durable key/value library:
//!
//! ```
//! use system::store::{Database, StoreOptions};
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
//! assert_eq!((version, value.as_bytes()), (second, &b"red"[..]));
//! fruit.del(b"apple")?;
//! assert_eq!(fruit.get(b"apple")?, None);
//! # Ok(()) }
//! ```
//!
//! A node uses [`Store`]. It appends the [`Record`](crate::protocol::Record)s that its machine asks
//! for. Reads see them immediately, and a writer thread makes them durable in groups. [`Memory`]
//! has the same semantics without a disk. It distinguishes data in the process, in the operating
//! system and on the disk, for the model and the simulator. What a record does is defined once for
//! both, in `memtable`.
//!
//! The parts: each group of records is appended to the write-ahead log (`wal`). The newest state is
//! kept in memory. When the WAL is full, the writer checkpoints that state to LMDB in one synced
//! transaction (`checkpoint`), stamps it with the WAL generation, and reuses the file.

mod database;
mod error;
mod limits;
mod lmdb;
mod memory;
mod memtable;

pub use database::Database;
pub use error::StoreError;
pub use limits::{KEY_BYTES_MAX, LimitError, Limits};
pub use lmdb::{Entries, Observer, OnPersisted, Opened, Store, StoreOptions, SyncMode};
pub use memory::Memory;
pub use memtable::State;
