//! The harness: runs a system, injects faults, records what its clients observe, and checks the
//! record.

pub mod blocking;
pub mod cli;
pub mod commands;
pub mod model;
pub mod progress;
pub mod rules;
mod run_progress;
pub mod schedule;
pub mod sim;
