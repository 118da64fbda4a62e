//! The checks of a recorded run of our own store, one module each. They read what was recorded (the
//! history, the journals of the nodes, the final states), never a running system.
//!
//! Does not know how a run was made. What is general (linearizability, statistics, check results) is
//! in the crate [`checker`].

pub mod atomicity;
pub mod conflicts;
pub mod convergence;
pub mod disks;
pub mod durability;
mod errors;
pub mod evidence;
pub mod exits;
pub mod faults;
pub mod liveness;
pub mod messages;
pub mod read_balance;
pub mod reads;
pub mod recovery;
pub mod replay;
pub mod reply_soundness;
pub mod resources;
mod run;
pub mod snapshots;
mod trigger;

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::Path,
};

use checker::{CheckResult, Impact, Limits, Reference, Results, linearizability, statistics};
use history::Operation;
use system::protocol::TxnId;

use crate::snapshots::on_registers;
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
        check_result.with_impact(Impact::Divergence)
    });
    let recorded = [
        linearizability(run, limits),
        atomicity::check(run),
        reads::check(run),
        snapshots::check(run),
        durability::check(run),
        recovery::check(run),
        reply_soundness::check(run),
        conflicts::check(run),
        convergence::check(run),
        liveness::check(run),
        messages::check(run),
        read_balance::check(run),
        resources::check(run),
        exits::check(run),
        disks::check(run),
        faults::check(run),
        statistics::check(&run.events, &run.operations),
    ];
    let mut all: Vec<CheckResult> = monitored.chain(recorded).collect();
    all.iter_mut().for_each(|check_result| time_by_operations(run, check_result));
    Results::new(all)
}

/// Findings that name an operation and no journal line became true when the operation ended.
fn time_by_operations(run: &Run, check_result: &mut CheckResult) {
    for finding in &mut check_result.violations {
        if finding.at().is_some() {
            continue;
        }
        let ended = finding.references().filter_map(|reference| {
            let Reference::Operation { index } = reference else { return None };
            let at = run.operations.binary_search_by_key(index, |op| op.invoked_index).ok()?;
            i64::try_from(run.operations[at].returned?).ok()
        });
        let at = ended.max();
        *finding = std::mem::take(finding).with_time(at);
    }
}

/// Whether clients saw a linearizable store. A violation is about the transactions of the operations that it
/// shows, so that it meets what the journals say of them.
fn linearizability(run: &Run, limits: &Limits) -> CheckResult {
    let mut check_result = linearizability::check(&on_registers(&run.operations), limits);
    let operations: HashMap<u64, &Operation> =
        run.operations.iter().map(|operation| (operation.invoked_index, operation)).collect();
    let writers = run.evidence.transactions.writers();
    for finding in &mut check_result.violations {
        let shown = finding.subjects().filter_map(|subject| match subject {
            Reference::Operation { index } => operations.get(index),
            _ => None,
        });
        let transaction = |operation: &&Operation| {
            let value = operation.value.clone()?;
            let by_value = || writers.get(&(operation.key.clone(), value)).copied();
            version_of(operation).or_else(by_value)
        };
        let transactions: BTreeSet<TxnId> = shown.filter_map(transaction).collect();
        let about = transactions.iter().map(|txn| Reference::Transaction(txn.to_string()));
        *finding = std::mem::take(finding).about(about);
    }
    check_result
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
    let mut results = check(&run, limits);
    // What other checks find is about something that a node has not done, or about several nodes.
    if let Some(mut cause) = results.cause.take_if(|it| it.first.check == atomicity::NAME) {
        let journals = find_journals(directory)?;
        cause.trigger = trigger::of(&cause.finding, &journals, run.parameters.clock_origin)
            .map_err(|source| LoadError::File { path: directory.join("nodes"), source })?;
        cause.fault = trigger::fault_after(&results, &cause, &run.events);
        results.cause = Some(cause);
    }
    let path = directory.join("results.json");
    let write = || {
        let mut text = serde_json::to_string_pretty(&results).map_err(io::Error::from)?;
        text.push('\n');
        fs::write(&path, text)
    };
    write().map_err(|source| LoadError::File { path: path.clone(), source })?;
    Ok((run, results))
}
