//! Judges recorded runs: a check a file, each with a verdict. Reads what was recorded, never a
//! running system.

pub mod atomicity;
pub mod command;
pub mod conflicts;
pub mod durability;
pub mod evidence;
pub mod faults;
pub mod file;
pub mod linearizability;
pub mod nodes;
pub mod online;
pub mod reads;
pub mod replay;
pub mod resolution;
mod run;
mod spill;
pub mod statistics;
pub mod truthfulness;
mod verdict;

pub(crate) use run::read_json;
pub use run::{Final, FinalReplica, LoadError, Run, Setup, find_journals};
pub use verdict::{Judgement, Results, Validity};

use linearizability::Limits;

/// Judges a run by every check.
#[must_use]
pub fn check(run: &Run, limits: &Limits) -> Results {
    Results::new(vec![
        linearizability::check(run, limits),
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
