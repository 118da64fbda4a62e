//! The harness: runs a system, breaks it on purpose, records what its clients saw, and judges it.

pub mod checker;
pub mod history;
