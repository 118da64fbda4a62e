//! A durable, replicated key/value store: two-phase commit over gRPC on LMDB. This crate joins the
//! state machines of the crate `protocol` and the crate `store` to nodes, and has the client library
//! and the programs.

mod answer;
pub mod cli;
pub mod client;
pub mod config;
mod connection;
mod excerpt;
pub mod hooks;
mod meter;
pub mod node;
pub mod store;
pub mod tls;
pub mod wire;

#[cfg(feature = "test-hooks")]
pub use journal;
pub use protocol;
pub use records;
