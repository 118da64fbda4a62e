//! A durable, replicated key/value store: two-phase commit over gRPC on LMDB.

mod answer;
pub mod cli;
pub mod client;
pub mod config;
mod connection;
pub mod journal;
mod meter;
pub mod node;
pub mod protocol;
pub mod store;
pub mod wire;
