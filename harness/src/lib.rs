//! The harness: runs a system, injects faults, records what its clients observe, and checks the
//! record.

pub mod blocking;
pub mod cli;
pub mod commands;
pub mod model;
pub mod progress;
pub mod report_twopc;
pub mod rules;
mod run_progress;
pub mod schedule;
pub mod sim;

pub use checker;
pub use history;

// Moved to the crates `lab` and `twopc`. The old paths stay for modules that are still to be
// extracted from this crate.
pub use ::twopc::checks as twopc;

pub(crate) mod generator {
    pub(crate) use lab::workload::*;
}

pub(crate) mod nemesis {
    pub(crate) use ::twopc::matrix;
}

pub(crate) mod runner {
    pub(crate) use lab::duration::parse_duration;

    pub(crate) mod rundir {
        pub(crate) use lab::run_directory::{RunDirectory as RunDir, utc};
    }
}
