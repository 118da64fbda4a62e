//! The store of a node: the crate `store` with the protocol's records.

pub use ::store::{
    Database, KEY_BYTES_MAX, LimitError, Limits, Observer, OnPersisted, StoreError, StoreId,
    StoreOptions, SyncMode,
};

use crate::records::NodeSchema;

/// The records and the key/value data of a node, on disk.
pub type Store = ::store::Store<NodeSchema>;
/// An opened store and its recovered records.
pub type Opened = ::store::Opened<NodeSchema>;
/// Every live key of a store at one moment, with its version and value.
pub type Entries = ::store::Entries<NodeSchema>;
/// A node's store in memory.
pub type Memory = ::store::Memory<NodeSchema>;
/// The state after a sequence of records.
pub type State = ::store::State<NodeSchema>;
