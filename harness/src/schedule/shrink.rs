//! Makes a schedule smaller that shows something broken, until no step can be left out. Delta
//! debugging: large pieces first, then single steps.

use std::collections::BTreeMap;

use system::protocol::{Body, CallId, Effect, TxnId};

use super::{Cluster, Property, Schedule, Step, rename::renamed};

/// The smallest schedule that leaving out steps of this one leads to and that still breaks the
/// property; the schedule itself if it does not break it.
#[must_use]
pub fn shrink(schedule: Schedule, property: Property) -> Schedule {
    let none = BTreeMap::new();
    let Some(mut shown) = shows(&schedule, &schedule.steps, &none, property) else {
        return schedule;
    };
    // A call takes all that was done about its transaction with it, so calls come first: what is
    // left is then short, and every step of it can be tried.
    let fault = |step: &Step| {
        !matches!(step, Step::Client { .. } | Step::Deliver { .. } | Step::Force { .. })
    };
    let call = |step: &Step| matches!(step, Step::Client { .. });
    let kinds: [fn(&Step) -> bool; 3] = [call, fault, |_| true];
    for kind in kinds {
        shown = reduce(&schedule, shown, property, kind);
    }
    Schedule { steps: shown.steps, broken: vec![property], ..schedule }
}

/// Leaves out what can be left out of the steps of a kind.
fn reduce(
    schedule: &Schedule,
    mut shown: Shown,
    property: Property,
    kind: fn(&Step) -> bool,
) -> Shown {
    let places = |steps: &[Step]| -> Vec<usize> {
        let all = steps.iter().enumerate().filter(|(_, step)| kind(step));
        all.map(|(place, _)| place).collect()
    };
    let mut left = places(&shown.steps);
    let mut piece = left.len().div_ceil(2);
    while piece > 0 {
        let mut before = usize::MAX;
        // Leaving out one step may make another superfluous that was needed when it was tried.
        while left.len() < before {
            before = left.len();
            let mut end = left.len();
            while end > 0 {
                let start = end.saturating_sub(piece);
                let out = &left[start..end];
                let kept = shown.steps.iter().enumerate();
                let kept = kept.filter(|(place, _)| out.binary_search(place).is_err());
                let fewer: Vec<_> = kept.map(|(_, step)| step.clone()).collect();
                if let Some(shorter) = shows(schedule, &fewer, &shown.begun, property) {
                    shown = shorter;
                    left = places(&shown.steps);
                }
                end = start.min(left.len());
            }
        }
        piece /= 2;
    }
    shown
}

/// Steps that break a property, all of them possible.
struct Shown {
    steps: Vec<Step>,
    /// The transaction of each call that began one.
    begun: BTreeMap<CallId, TxnId>,
}

/// Runs these steps, leaving out those that are not possible. If the property is broken, the steps
/// that were taken until it was. `named` says by which transactions the steps mean those of calls:
/// with calls left out the others get other numbers.
fn shows(
    schedule: &Schedule,
    steps: &[Step],
    named: &BTreeMap<CallId, TxnId>,
    property: Property,
) -> Option<Shown> {
    let mut cluster = Cluster::new(schedule.setup.clone());
    let mut shown = Shown { steps: Vec::new(), begun: BTreeMap::new() };
    let mut numbers: BTreeMap<TxnId, Option<TxnId>> =
        named.values().map(|txn| (*txn, None)).collect();
    for step in steps {
        let new = |txn| numbers.get(&txn).copied().unwrap_or(Some(txn));
        let Some(step) = renamed(step, &new) else { continue };
        let Ok(effects) = cluster.apply(&step) else { continue };
        if let Step::Client { call, .. } = step
            && let Some(txn) = begun(&effects)
        {
            shown.begun.insert(call, txn);
            if let Some(old) = named.get(&call) {
                numbers.insert(*old, Some(txn));
            }
        }
        shown.steps.push(step);
        if cluster.judge().found(property) {
            return Some(shown);
        }
    }
    cluster.breaks(property).then_some(shown)
}

/// The transaction that a client's call began.
fn begun(effects: &[Effect]) -> Option<TxnId> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send { message, .. } => match message.body {
            Body::Prepare { txn, .. } => Some(txn),
            _ => None,
        },
        _ => None,
    })
}
