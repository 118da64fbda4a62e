//! The checks of a recorded run of our own store, one module each. They read what was recorded (the
//! history, the journals of the nodes, the final states), never a running system.
//!
//! Does not know how a run was made. What is general (linearizability, statistics, check results) is
//! in the crate [`checker`].

pub mod atomicity;
pub mod conflicts;
pub mod convergence;
pub mod durability;
mod errors;
pub mod evidence;
pub mod exits;
pub mod faults;
pub mod reads;
pub mod replay;
pub mod reply_soundness;
mod run;

use std::{fs, io, path::Path};

use checker::{CheckResult, Limits, Results, linearizability, statistics};

pub use errors::error_of;
pub use run::{
    FinalReplicaState, FinalState, JOURNAL, LoadError, Run, RunParameters, SECOND_INSTANCE_JOURNAL,
    find_journals, read_json, version_of,
};

/// Checks a run.
#[must_use]
pub fn check(run: &Run, limits: &Limits) -> Results {
    let monitored = run
        .final_state
        .iter()
        .filter_map(|final_state| final_state.invariant_violations.as_deref());
    let monitored = monitored.map(|violations| {
        let mut check_result = CheckResult::new("invariant-monitor");
        violations.iter().for_each(|violation| check_result.violation(violation.clone()));
        check_result
    });
    let recorded = [
        linearizability::check(&run.operations, limits),
        atomicity::check(run),
        reads::check(run),
        durability::check(run),
        reply_soundness::check(run),
        conflicts::check(run),
        convergence::check(run),
        exits::check(run),
        faults::check(run),
        statistics::check(&run.events, &run.operations),
    ];
    Results::new(monitored.chain(recorded).collect())
}

/// Checks a run directory and writes its `results.json`.
///
/// # Errors
/// The run cannot be read, or the results cannot be written.
pub fn check_run(directory: &Path, limits: &Limits) -> Result<(Run, Results), LoadError> {
    if !directory.join("history.jsonl").exists() {
        return Err(LoadError::NoRun { path: directory.to_owned() });
    }
    let run = Run::load(directory)?;
    let results = check(&run, limits);
    let path = directory.join("results.json");
    let write = || {
        let mut text = serde_json::to_string_pretty(&results).map_err(io::Error::from)?;
        text.push('\n');
        fs::write(&path, text)
    };
    write().map_err(|source| LoadError::File { path: path.clone(), source })?;
    Ok((run, results))
}
