//! Whether a run did enough to say anything. A run that is vacuous is unknown, never valid.

use std::collections::{BTreeMap, HashMap};

use history::{Action, Event, Function, NemesisEvent, Operation, Outcome, nemesis::InjectionKind};
use serde_json::json;

use super::{End, Run};
use crate::CheckResult;

/// The name of the check.
const NAME: &str = "activity";

/// The fewest operations of a kind that must succeed.
const OK_MIN: usize = 10;

pub(super) fn check(run: &Run<'_>) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let ok: Vec<&Operation> =
        run.operations.iter().filter(|operation| operation.outcome == Outcome::Ok).collect();
    // A kind of operation that was never invoked has proved as little as one that never succeeded.
    let workload = run.description.workload.as_deref().unwrap_or_default();
    let mut counts: BTreeMap<Function, usize> =
        kinds(workload).iter().map(|kind| (*kind, 0)).collect();
    for operation in run.operations {
        *counts.entry(operation.f).or_default() += usize::from(operation.outcome == Outcome::Ok);
    }
    for (f, count) in counts {
        if count < OK_MIN {
            check_result.unknown(format!(
                "{count} of the operations {f} succeeded; fewer than {OK_MIN} prove nothing"
            ));
        }
    }
    let after = |index: Option<u64>| {
        index.is_none_or(|index| ok.iter().any(|operation| operation.invoked_index > index))
    };
    if !after(first_fault(run.events)) {
        check_result.unknown("no operation succeeded after the first fault");
    }
    let End::Recorded { settled } = run.end else { return check_result };
    match settled {
        None => check_result.unknown(
            "the nodes were not all ready after the end of all faults, so nothing can be said of what they \
             hold",
        ),
        // Of locks, nothing is read at the end.
        Some(_) if run.description.workload.as_deref() == Some("lock") => {}
        Some(settled) if !after(Some(settled)) => {
            check_result.unknown("no operation succeeded after the end of all faults");
        }
        Some(_) => {}
    }
    let clients = run.description.concurrency.unwrap_or(1);
    if clients > 1 && !any_overlap(run.operations) {
        check_result.unknown(format!(
            "no two operations on one key were concurrent, with {clients} clients: raise --concurrency or \
             lower --keys"
        ));
    }
    check_result.measure("errors", json!(errors(run.operations)));
    check_result
}

/// The kinds of operations that a workload consists of.
fn kinds(workload: &str) -> &'static [Function] {
    match workload {
        "register" => &[Function::Get, Function::Put],
        "cas-register" => &[Function::Get, Function::Put, Function::Cas],
        "set" => &[Function::Add, Function::Read],
        "counter" => &[Function::Inc, Function::Read],
        "queue" => &[Function::Enqueue, Function::Dequeue],
        "log" => &[Function::Append, Function::Poll],
        "bank" => &[Function::Transfer, Function::Read],
        "lock" => &[Function::Lock, Function::Unlock],
        "append" | "rw" => &[Function::Txn],
        _ => &[],
    }
}

fn first_fault(events: &[Event]) -> Option<u64> {
    let is_fault = |event: &&Event| match &event.action {
        Action::Nemesis(NemesisEvent::Injected(kind, _)) => *kind != InjectionKind::Hold,
        _ => false,
    };
    events.iter().find(is_fault).map(|event| event.index)
}

fn any_overlap(operations: &[Operation]) -> bool {
    // The event at which the last operation on each key returns.
    let mut until: HashMap<&str, u64> = HashMap::new();
    operations.iter().any(|operation| {
        let end = operation.returned.and(operation.returned_index).unwrap_or(u64::MAX);
        let last = until.entry(&operation.key).or_insert(0);
        let overlaps = *last > operation.invoked_index;
        *last = end.max(*last);
        overlaps
    })
}

/// Operations without success by their class: what is before the colon of their error.
fn errors(operations: &[Operation]) -> BTreeMap<String, u64> {
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    for error in operations.iter().filter_map(|operation| operation.error.as_deref()) {
        let class = error.split(':').next().unwrap_or(error).trim();
        *errors.entry(class.to_owned()).or_default() += 1;
    }
    errors
}
