//! The checks of runs of any system: one module for each kind of object, and those that hold for all. They
//! read the history alone.
//!
//! The verdict is about what the system claims ([`Level`]): with no claim, only about durability. What is
//! found beyond that is measured, not judged. An operation whose outcome is unknown may have happened, may
//! happen later, and may never happen.

mod activity;
mod bank;
mod counter;
mod durability;
mod environment;
mod lock;
mod log;
mod queue;
mod set;

use std::{collections::BTreeMap, fmt};

use history::{Action, Event, Function, NemesisEvent, Operation, Outcome, RunDescription};

use crate::{CheckResult, Limits, Results, levels::Level, linearizability, statistics};

/// A recorded run of a workload.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadRun<'a> {
    /// What was run.
    pub description: &'a RunDescription,
    /// The events of the history.
    pub events: &'a [Event],
    /// The operations that they make.
    pub operations: &'a [Operation],
}

/// Checks a run. The description names the workload and the claim.
///
/// # Errors
/// There is no such workload or claim; in words.
pub fn check(run: &WorkloadRun<'_>, limits: &Limits) -> Result<Results, String> {
    let run = &Run::new(run);
    let workload = run.description.workload.as_deref().ok_or("missing field `workload`")?;
    let claim = match &run.description.claim {
        None => Level::Durable,
        Some(name) => Level::of(name, workload)?,
    };
    let mut results = match workload {
        "register" | "cas-register" => registers(run, claim, limits),
        "set" => vec![set::check(run, claim)],
        "counter" => vec![counter::check(run, claim)],
        "queue" => vec![queue::check(run, claim)],
        "log" => vec![log::check(run, claim)],
        "bank" => vec![bank::check(run, claim)],
        "lock" => vec![lock::check(run, claim)],
        other => return Err(format!("there is no workload '{other}'")),
    };
    results.push(activity::check(run));
    results.push(environment::clients(run));
    results.push(environment::exits(run));
    results.push(environment::faults(run));
    results.push(statistics::check(run.events, run.operations));
    Ok(Results::new(results))
}

fn registers(run: &Run<'_>, claim: Level, limits: &Limits) -> Vec<CheckResult> {
    let mut results = vec![durability::check(run)];
    let linearizable = linearizability::check(run.operations, limits);
    if claim == Level::Linearizable {
        results.insert(0, linearizable);
    } else {
        // Not claimed: what one might ask is reported beside it.
        results[0].measure("linearizable", linearizable.verdict.to_string());
    }
    results
}

/// A run as the checks see it.
#[derive(Clone, Copy, Debug)]
struct Run<'a> {
    description: &'a RunDescription,
    events: &'a [Event],
    operations: &'a [Operation],
    /// The index of the event after which nothing but final reads happens. `None` if the run ended before,
    /// or the nodes were not all ready.
    settled: Option<u64>,
}

impl<'a> Run<'a> {
    fn new(run: &WorkloadRun<'a>) -> Self {
        let WorkloadRun { description, events, operations } = *run;
        let settled = |event: &&Event| match &event.action {
            Action::Nemesis(NemesisEvent::Settled(settled)) => settled.ms.is_some(),
            _ => false,
        };
        let settled = events.iter().find(settled).map(|event| event.index);
        Run { description, events, operations, settled }
    }

    /// The operations on each object.
    fn by_key(&self) -> BTreeMap<&str, Vec<&Operation>> {
        let mut objects: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
        for operation in self.operations {
            objects.entry(&operation.key).or_default().push(operation);
        }
        objects
    }

    /// What could not be read at the end.
    fn unread(&self) -> Option<&[String]> {
        self.events.iter().find_map(|event| match &event.action {
            Action::Nemesis(NemesisEvent::FinalReads(reads)) => Some(reads.unread.as_slice()),
            _ => None,
        })
    }

    /// Whether an operation was invoked after the last fault was undone and the load had ended.
    fn is_final(&self, operation: &Operation) -> bool {
        self.settled.is_some_and(|settled| operation.invoked_index > settled)
    }
}

/// Whether an operation of this function returned.
fn is_ok(operation: &Operation, f: Function) -> bool {
    operation.f == f && operation.outcome == Outcome::Ok
}

/// Whether one operation had returned when the other was invoked.
fn precedes(one: &Operation, other: &Operation) -> bool {
    one.outcome == Outcome::Ok
        && one.returned_index.is_some_and(|returned| returned < other.invoked_index)
}

/// An operation in a sentence: `read of s3 by process 7 at n2 (event 812)`.
struct Named<'a>(&'a Operation);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { process, f: function, key, invoked_index, node, .. } = self.0;
        write!(f, "{function} of {key} by process {process}")?;
        if let Some(node) = node {
            write!(f, " at {node}")?;
        }
        write!(f, " (event {invoked_index})")
    }
}

/// What is said of a value that was read although its write failed.
fn failed_value(value: &dyn fmt::Display, write: &Operation, read: &Operation) -> String {
    format!(
        "{} returned {value}, but the {} had failed: either a failed operation had an effect, or the \
         client reports as fail what may have happened",
        Named(read),
        Named(write)
    )
}

#[cfg(test)]
mod tests;
