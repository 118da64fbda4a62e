//! Queues: what was put in and acknowledged comes out, once everything is taken out at the end. A dequeue
//! whose outcome is unknown may have taken an element out, so as many losses are unexplained, not wrong; a drain
//! may have taken any number. That an element comes out twice is wrong only if the queue claims exactly-once.

use std::{collections::BTreeMap, fmt};

use history::{Function, Operation, Outcome};
use serde_json::Value as Json;

use super::{Named, Run, lost_data, may_return};
use crate::{CheckResult, levels::Level};

/// The name of the check.
const NAME: &str = "queue";

pub(super) fn check(run: &Run<'_>, claim: Level) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let (mut lost_total, mut twice) = (0_usize, 0_u64);
    for (key, operations) in run.by_key() {
        let puts = puts(&operations);
        let taken = taken(&operations);
        for (value, takes) in &taken {
            let puts = puts.get(value).map_or(&[][..], Vec::as_slice);
            if let Err(sentence) = may_return(value, takes[0], puts, "put in") {
                check_result.violation(sentence);
            }
            if let Some((in_times, out_times)) = too_often(takes, puts) {
                twice += 1;
                if claim == Level::ExactlyOnce {
                    check_result.violation(format!(
                        "{value} was put in {in_times} times at most and came out {out_times} times: {} \
                         and {}",
                        Named(takes[0]),
                        Named(takes[in_times])
                    ));
                }
            }
        }
        if !is_drained(run, key, &operations) {
            check_result.unknown(format!(
                "{key} was not emptied after the end of all faults, so what is left in it is not known"
            ));
            continue;
        }
        let lost: Vec<&Operation> = puts
            .iter()
            .flat_map(|(value, puts)| {
                let acknowledged = puts.iter().filter(|put| put.outcome == Outcome::Ok);
                acknowledged.skip(taken.get(value).map_or(0, Vec::len))
            })
            .copied()
            .collect();
        lost_total += lost.len();
        losses(key, &lost, &Unseen::of(&operations), &mut check_result);
    }
    check_result.measure("lost", lost_total);
    check_result.measure("delivered_twice", twice);
    check_result
}

/// The operations that put each element in. An element may be put in several times.
fn puts<'a>(operations: &[&'a Operation]) -> BTreeMap<String, Vec<&'a Operation>> {
    let mut puts: BTreeMap<String, Vec<&Operation>> = BTreeMap::new();
    for put in operations.iter().filter(|operation| operation.f == Function::Enqueue) {
        if let Some(value) = &put.value {
            puts.entry(value.clone()).or_default().push(put);
        }
    }
    puts
}

/// If an element had come out more often than it had been put in until then: how often in and out. That it came out
/// before it was put in at all is another matter.
fn too_often(takes: &[&Operation], puts: &[&Operation]) -> Option<(usize, usize)> {
    let mut invoked: Vec<u64> = puts
        .iter()
        .filter(|put| put.outcome != Outcome::Fail)
        .map(|put| put.invoked_index)
        .collect();
    invoked.sort_unstable();
    let is_early = |at: &usize| match invoked.get(*at) {
        Some(invoked) => takes[*at].returned_index < Some(*invoked),
        None => true,
    };
    let at = (1..takes.len()).find(is_early)?;
    Some((at, if at < invoked.len() { at + 1 } else { takes.len() }))
}

/// Reports what was acknowledged and did not come out.
fn losses(key: &str, lost: &[&Operation], unseen: &Unseen, check_result: &mut CheckResult) {
    if lost.is_empty() {
        return;
    }
    let first = Named(lost[0]);
    if unseen.explains(lost.len()) {
        check_result.unknown(format!(
            "{} acknowledged elements of {key} did not come out; {unseen} of unknown outcome may have \
             taken them; one is that of the {first}",
            lost.len()
        ));
    } else {
        check_result.violation(lost_data(format!(
            "{key} lost {} acknowledged elements, of which at most {} can have been taken out by \
             dequeues of unknown outcome; one is that of the {first}",
            lost.len(),
            unseen.dequeues
        )));
    }
}

/// The elements that came out, with the operations that returned them, in the order in which these were over.
fn taken<'a>(operations: &[&'a Operation]) -> BTreeMap<String, Vec<&'a Operation>> {
    let mut taken: BTreeMap<String, Vec<&Operation>> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.outcome != Outcome::Fail) {
        let values = match (operation.f, operation.json()) {
            (Function::Dequeue, Some(value)) => vec![value],
            (Function::Drain, Some(Json::Array(values))) => values,
            _ => continue,
        };
        for value in values {
            taken.entry(value.to_string()).or_default().push(operation);
        }
    }
    taken.values_mut().for_each(|takes| takes.sort_by_key(|take| take.returned_index));
    taken
}

/// The operations of unknown outcome that may have taken out what nobody saw.
struct Unseen {
    /// Each may have taken one element. One that says which it took has taken no other.
    dequeues: usize,
    /// Each may have taken any number, whatever it says that it delivered.
    drains: usize,
}

impl Unseen {
    fn of(operations: &[&Operation]) -> Unseen {
        let unknown = |operation: &&&Operation| operation.outcome == Outcome::Info;
        let count = |takes: fn(&Operation) -> bool| {
            operations.iter().filter(unknown).filter(|operation| takes(operation)).count()
        };
        Unseen {
            dequeues: count(|take| take.f == Function::Dequeue && take.value.is_none()),
            drains: count(|take| take.f == Function::Drain),
        }
    }

    fn explains(&self, lost: usize) -> bool {
        self.drains > 0 || lost <= self.dequeues
    }
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.dequeues, self.drains) {
            (dequeues, 0) => write!(f, "{dequeues} dequeues"),
            (0, drains) => write!(f, "{drains} drains"),
            (dequeues, drains) => write!(f, "{dequeues} dequeues and {drains} drains"),
        }
    }
}

/// Whether the queue was found empty after the end of all faults.
fn is_drained(run: &Run<'_>, key: &str, operations: &[&Operation]) -> bool {
    let is_unread = run.unread().is_none_or(|unread| unread.iter().any(|name| names(name, key)));
    let emptied = |operation: &&&Operation| {
        let empties = operation.f == Function::Dequeue && operation.value.is_none()
            || operation.f == Function::Drain;
        operation.outcome == Outcome::Ok && run.is_final(operation) && empties
    };
    !is_unread && operations.iter().any(|operation| emptied(&operation))
}

/// Whether what was left unread is this object: `q1` or `q1 at n2`.
fn names(unread: &str, key: &str) -> bool {
    unread.split(' ').next() == Some(key)
}
