//! Durable storage: a node's records and the key/value data that they change, on LMDB or in memory.
//! Knows what a record does to the stored state; knows nothing of messages, votes or networks.
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
//! let first = fruit.put(b"apple", b"green")?; // durable now, whatever happens next
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
//! A node uses [`Store`]: it appends the [`Record`](crate::protocol::Record)s that its machine asks
//! for, reads see them at once, and a writer thread makes them durable in groups. [`Memory`] means
//! the same without a disk, and tells what is in the process, in the operating system and on the
//! disk apart, for the model and the simulator. What a record does is defined once, in `fold`, for
//! both.

mod database;
mod error;
mod fold;
mod limits;
mod lmdb;
mod memory;

pub use database::Database;
pub use error::StoreError;
pub use fold::State;
pub use limits::{KEY_BYTES_MAX, LimitError, Limits};
pub use lmdb::{Entries, Observer, Opened, Persisted, Store, StoreOptions, SyncMode};
pub use memory::Memory;
