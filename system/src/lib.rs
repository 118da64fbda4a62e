//! A durable, replicated key/value store: two-phase commit over gRPC on LMDB.

pub mod journal;
pub mod protocol;
pub mod store;
