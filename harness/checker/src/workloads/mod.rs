//! The checks of runs of any system: one module for each kind of object, and those that hold for all. They
//! read the history alone.
//!
//! The verdict is about what the system claims ([`Level`]): with no claim, only about durability. What is
//! found beyond that is measured, not judged. An operation whose outcome is unknown may have happened, may
//! happen later, and may never happen.

mod activity;
mod agreement;
mod bank;
mod counter;
mod durability;
mod environment;
mod lock;
mod log;
mod queue;
mod set;
mod transactions;

use std::{collections::BTreeMap, fmt};

use history::{Action, Event, Function, NemesisEvent, Operation, Outcome, RunDescription};

use crate::{
    CheckResult, Finding, Impact, Limits, Results,
    levels::Level,
    linearizability, statistics,
    transactions::{BaseLevel, Order, TransactionReport},
};

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

/// Checks a history of objects that nobody describes: of a `set`, `counter`, `queue` or `bank`.
///
/// # Errors
/// The operations cannot be judged as the claim; in words.
pub(crate) fn check_objects(
    workload: &str,
    operations: &[Operation],
    claim: Option<Level>,
) -> Result<CheckResult, String> {
    let serializable =
        crate::transactions::Level { base: BaseLevel::Serializable, order: Order::Dependencies };
    let claim = claim.unwrap_or(match workload {
        // What these show are wrong values, which only levels like these rule out.
        "counter" => Level::Linearizable,
        "bank" => Level::Isolation(serializable),
        _ => Level::Durable,
    });
    if !claim.is_of(workload) {
        Level::of(&claim.name(), workload)?;
    }
    let puts = operations.iter().filter(|put| is_ok(put, Function::Enqueue));
    let end = End::Untold { last_put: puts.filter_map(|put| put.returned_index).max() };
    let run = &Run { description: &RunDescription::default(), events: &[], operations, end };
    match workload {
        "set" => Ok(set::check(run, claim)),
        "counter" => Ok(counter::check(run, claim)),
        "queue" => Ok(queue::check(run, claim)),
        "bank" => Ok(bank::check(run, claim)),
        other => Err(format!("there is no check of a history of a {other}")),
    }
}

/// What the checks of a run found.
#[derive(Clone, Debug)]
pub struct WorkloadResults {
    /// The result of each check.
    pub results: Results,
    /// Of a run of transactions: their anomalies, and the levels that these rule out.
    pub transactions: Option<TransactionReport>,
}

/// Checks a run. The description names the workload and the claim.
///
/// # Errors
/// There is no such workload or claim; in words.
pub fn check(run: &WorkloadRun<'_>, limits: &Limits) -> Result<WorkloadResults, String> {
    let run = &Run::new(run);
    let workload = run.description.workload.as_deref().ok_or("missing field `workload`")?;
    let claim = match &run.description.claim {
        None => Level::Durable,
        Some(name) => Level::of(name, workload)?,
    };
    let mut transactions = None;
    let mut results = match workload {
        "register" | "cas-register" => registers(run, claim, limits),
        "set" => vec![set::check(run, claim)],
        "counter" => vec![counter::check(run, claim)],
        "queue" => vec![queue::check(run, claim)],
        "log" => vec![log::check(run, claim)],
        "bank" => vec![bank::check(run, claim)],
        "lock" => vec![lock::check(run, claim)],
        "append" | "rw" => {
            let (result, report) = transactions::check(run, claim);
            transactions = report;
            vec![result]
        }
        other => return Err(format!("there is no workload '{other}'")),
    };
    results.extend(agreement::check(run));
    results.push(activity::check(run));
    results.push(environment::clients(run));
    results.push(environment::exits(run));
    results.push(environment::faults(run));
    results.push(statistics::check(run.events, run.operations));
    // What a check does not say itself: the checks of clients' answers find wrong ones.
    let results = results.into_iter().map(|check_result| {
        let is_durability = check_result.check == durability::NAME;
        check_result.with_impact(match is_durability {
            true => Impact::DataLost,
            false => Impact::WrongAnswer,
        })
    });
    Ok(WorkloadResults { results: Results::new(results.collect()), transactions })
}

/// A finding that an acknowledged element or write is missing.
fn lost_data(sentence: String) -> Finding {
    Finding::from(sentence).with_impact(Impact::DataLost)
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
    end: End,
}

/// What is known of the end of a run.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The index of the event after which nothing but final reads happens. `None` if the run ended before,
    /// or the nodes were not all ready.
    Recorded { settled: Option<u64> },
    /// Nothing: the history is all that there is. As in Jepsen, every read counts, and what empties a queue
    /// does so after the event at which the last element was put in.
    Untold { last_put: Option<u64> },
}

impl<'a> Run<'a> {
    fn new(run: &WorkloadRun<'a>) -> Self {
        let WorkloadRun { description, events, operations } = *run;
        let settled = |event: &&Event| match &event.action {
            Action::Nemesis(NemesisEvent::Settled(settled)) => settled.ms.is_some(),
            _ => false,
        };
        let settled = events.iter().find(settled).map(|event| event.index);
        Run { description, events, operations, end: End::Recorded { settled } }
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
        if matches!(self.end, End::Untold { .. }) {
            return Some(&[]);
        }
        self.events.iter().find_map(|event| match &event.action {
            Action::Nemesis(NemesisEvent::FinalReads(reads)) => Some(reads.unread.as_slice()),
            _ => None,
        })
    }

    /// Whether an operation was invoked after the last fault was undone and the load had ended.
    fn is_final(&self, operation: &Operation) -> bool {
        match self.end {
            End::Recorded { settled } => {
                settled.is_some_and(|settled| operation.invoked_index > settled)
            }
            End::Untold { last_put }
                if matches!(operation.f, Function::Dequeue | Function::Drain) =>
            {
                last_put.is_none_or(|last| operation.invoked_index > last)
            }
            End::Untold { .. } => true,
        }
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

/// Whether an operation can have returned an element, of which these are all writes. `wrote` says what they do, in
/// the past: put in, appended.
fn may_return(
    value: &str,
    read: &Operation,
    writes: &[&Operation],
    wrote: &str,
) -> Result<(), String> {
    let Some(any) = writes.first() else {
        return Err(format!("{} returned {value}, which nobody {wrote}", Named(read)));
    };
    let effective = writes.iter().filter(|write| write.outcome != Outcome::Fail);
    let Some(write) = effective.min_by_key(|write| write.invoked_index) else {
        return Err(failed_value(&value, any, read));
    };
    if read.returned_index < Some(write.invoked_index) {
        return Err(format!(
            "{} returned {value} before the {} was invoked",
            Named(read),
            Named(write)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
