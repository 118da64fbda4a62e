//! The harness: runs a system, injects faults, records what its clients observe, and checks the
//! record.

pub mod blocking;
pub mod cli;
pub mod commands;
pub mod model;
pub mod progress;
pub mod report_twopc;
pub mod rules;
pub mod runner;
pub mod schedule;
pub mod sim;
pub mod systems;
pub mod twopc;

pub use checker;
pub use history;

/// Moved to the crate `lab`. The old path stays while the extraction is in progress.
pub mod generator {
    pub use lab::{seeds::*, workload::*};
}

/// Moved to the crate `twopc`. The old path stays while the extraction is in progress.
pub mod nemesis {
    pub use ::twopc::{faults::*, matrix};
}
