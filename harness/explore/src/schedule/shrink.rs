//! Minimizes a schedule that violates a property, until no step can be removed. Delta debugging:
//! large chunks first, then single steps.

use std::collections::BTreeMap;

use protocol::{Body, CallId, Effect, TxnId};

use super::{Cluster, Property, Schedule, Step, renumber::renumbered};

/// The smallest schedule that can be reached by removing steps and that still violates the property.
/// The schedule itself if it does not violate it.
#[must_use]
pub fn shrink(schedule: Schedule, property: Property) -> Schedule {
    let original = BTreeMap::new();
    let Some(mut smallest) = reproduce(&schedule, &schedule.steps, &original, property) else {
        return schedule;
    };
    // Removing a call removes everything about its transaction, so calls come first: the schedule
    // that remains is short, and every single step of it can be tried.
    let is_call = |step: &Step| matches!(step, Step::Client { .. });
    let is_fault = |step: &Step| {
        !matches!(step, Step::Client { .. } | Step::Deliver { .. } | Step::Force { .. })
    };
    let kinds: [fn(&Step) -> bool; 3] = [is_call, is_fault, |_| true];
    for kind in kinds {
        smallest = minimize(&schedule, smallest, property, kind);
    }
    Schedule { steps: smallest.steps, violated: vec![property], ..schedule }
}

/// Removes those steps of a kind that are not needed.
fn minimize(
    schedule: &Schedule,
    mut smallest: Reproduction,
    property: Property,
    kind: fn(&Step) -> bool,
) -> Reproduction {
    let positions = |steps: &[Step]| -> Vec<usize> {
        let of_kind = steps.iter().enumerate().filter(|(_, step)| kind(step));
        of_kind.map(|(position, _)| position).collect()
    };
    let mut candidates = positions(&smallest.steps);
    let mut chunk = candidates.len().div_ceil(2);
    while chunk > 0 {
        let mut before = usize::MAX;
        // Removing one step may make another unnecessary that was needed when it was tried.
        while candidates.len() < before {
            before = candidates.len();
            let mut end = candidates.len();
            while end > 0 {
                let start = end.saturating_sub(chunk);
                let removed = &candidates[start..end];
                let kept = smallest.steps.iter().enumerate();
                let kept = kept.filter(|(position, _)| removed.binary_search(position).is_err());
                let fewer: Vec<_> = kept.map(|(_, step)| step.clone()).collect();
                if let Some(smaller) = reproduce(schedule, &fewer, &smallest.started, property) {
                    smallest = smaller;
                    candidates = positions(&smallest.steps);
                }
                end = start.min(candidates.len());
            }
        }
        chunk /= 2;
    }
    smallest
}

/// Steps that violate a property, each possible where it stands.
struct Reproduction {
    steps: Vec<Step>,
    /// The transaction of each call that started one.
    started: BTreeMap<CallId, TxnId>,
}

/// Runs the steps, leaving out those that are not possible. If the property is violated, returns the
/// steps up to the violation. `original` maps calls to the transaction ids that the steps use for
/// them: with some calls removed, the others get other ids.
fn reproduce(
    schedule: &Schedule,
    steps: &[Step],
    original: &BTreeMap<CallId, TxnId>,
    property: Property,
) -> Option<Reproduction> {
    let mut cluster = Cluster::new(schedule.setup.clone());
    let mut reproduction = Reproduction { steps: Vec::new(), started: BTreeMap::new() };
    let mut new_ids: BTreeMap<TxnId, Option<TxnId>> =
        original.values().map(|txn| (*txn, None)).collect();
    for step in steps {
        let new_id = |txn| new_ids.get(&txn).copied().unwrap_or(Some(txn));
        let Some(step) = renumbered(step, &new_id) else { continue };
        let Ok(effects) = cluster.apply(&step) else { continue };
        if let Step::Client { call, .. } = step
            && let Some(txn) = started_txn(&effects)
        {
            reproduction.started.insert(call, txn);
            if let Some(old) = original.get(&call) {
                new_ids.insert(*old, Some(txn));
            }
        }
        reproduction.steps.push(step);
        if cluster.checker().is_violated(property) {
            return Some(reproduction);
        }
    }
    cluster.violates(property).then_some(reproduction)
}

/// The transaction that a client's call started.
fn started_txn(effects: &[Effect]) -> Option<TxnId> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send { message, .. } => match message.body {
            Body::Prepare { txn, .. } => Some(txn),
            _ => None,
        },
        _ => None,
    })
}
