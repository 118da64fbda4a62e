//! Judges recorded runs: a check a file, each with a verdict. Reads what was recorded, never a
//! running system.

pub mod atomicity;
pub mod command;
pub mod conflicts;
pub mod durability;
pub mod evidence;
pub mod faults;
pub mod linearizability;
pub mod nodes;
pub mod reads;
pub mod replay;
pub mod resolution;
mod run;
pub mod statistics;
pub mod truthfulness;
mod verdict;

pub use run::{Final, FinalReplica, LoadError, Run, Setup, find_journals};
pub use verdict::{Judgement, Results, Validity};

use linearizability::Bounds;

/// Judges a run by every check.
#[must_use]
pub fn check(run: &Run, bounds: &Bounds) -> Results {
    Results::new(vec![
        linearizability::check(run, bounds),
        atomicity::check(run),
        reads::check(run),
        durability::check(run),
        truthfulness::check(run),
        conflicts::check(run),
        resolution::check(run),
        nodes::check(run),
        faults::check(run),
        statistics::check(run),
    ])
}
