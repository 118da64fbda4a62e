//! The store of a node: the crate `store` with the protocol's records.

pub use ::store::{
    Database, KEY_BYTES_MAX, LimitError, Limits, Mistake, Observer, OnPersisted, PageSize, Rule,
    Rules, StoreError, StoreId, StoreOptions, SyncMode,
};

use records::NodeSchema;
pub use records::{Memory, State, page, range_summary};

/// The records and the key/value data of a node, on disk.
pub type Store = ::store::Store<NodeSchema>;
/// An opened store and its recovered records.
pub type Opened = ::store::Opened<NodeSchema>;
/// Every live key of a store at one moment, with its version and value.
pub type Entries = ::store::Entries<NodeSchema>;
