//! Why a history is not linearizable, made small: a few operations that have no order whatever
//! else happened. Knows nothing of how they are shown.
//!
//! Sound, because a linearizable history stays so when gets, or all operations of a value, are
//! taken out of it; and when deletes are that no get of nothing that is left can have seen.

use std::collections::BTreeSet;

use super::{
    frontier::{self, Answer, Limits, Operation, States, Step},
    key::{KeyHistory, NOTHING, Op, What},
    zones::{self, Violation},
};

/// Operations without an order, by their places, and why they have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// The smallest part of the history that was found to have no order.
    pub operations: Vec<u32>,
    /// The operation whose return ends the shortest prefix of the history without an order.
    pub breaks_at: u32,
    /// Why.
    pub why: Why,
}

/// Why operations have no order; values are numbers, operations places in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A rule of tier 1.
    Rule(Violation),
    /// Tier 2: when the operation returned, every order of those before had led to another state
    /// than it needs; these are the states that somebody could still see.
    Stuck(Vec<u32>),
}

impl Why {
    /// The operations that the reason names by themselves.
    pub(in crate::checker) fn named(&self) -> Option<u32> {
        match self {
            Why::Rule(
                Violation::DeleteBlocked { delete: place, .. }
                | Violation::NothingBlocked { get: place, .. }
                | Violation::NoDelete { get: place, .. },
            ) => Some(*place),
            _ => None,
        }
    }
}

/// Explains what tier 1 found.
#[must_use]
pub(super) fn of_violation(history: &KeyHistory, violation: Violation) -> Counterexample {
    // The shortest bad prefix: as long as what ends before the last event of the reason is bad
    // too, its reason is an earlier one.
    let mut violation = violation;
    let mut part = reason(history, violation);
    let mut prefix = history.clone();
    let mut places: Vec<u32> = (0_u32..).take(history.ops.len()).collect();
    let breaks_at = loop {
        let last = part.iter().copied().filter(|place| prefix.ops[*place as usize].happened());
        let last = last.max_by_key(|place| prefix.ops[*place as usize].returned);
        let last = last.expect("what never returned can always be left out");
        let until = prefix.ops[last as usize].returned - 1;
        let (ops, kept) = prefix.prefix(until);
        let shorter = KeyHistory { ops, values: history.values, unique: true };
        let Err(earlier) = zones::check(&shorter) else { break last };
        places = kept.iter().map(|place| places[*place as usize]).collect();
        prefix = shorter;
        violation = earlier;
        part = reason(&prefix, violation);
    };
    let small = shrink_plain(&prefix, part);
    let told = |place: u32| places[place as usize];
    let violation = match violation {
        Violation::DeleteBlocked { delete, by } => {
            Violation::DeleteBlocked { delete: told(delete), by }
        }
        Violation::NothingBlocked { get, by } => Violation::NothingBlocked { get: told(get), by },
        Violation::NoDelete { get, from, to, after } => {
            Violation::NoDelete { get: told(get), from, to, after }
        }
        other => other,
    };
    let mut operations: Vec<u32> = small.into_iter().map(told).collect();
    operations.sort_unstable();
    Counterexample { operations, breaks_at: told(breaks_at), why: Why::Rule(violation) }
}

/// The operations that a violation names: those that make the zones what they are.
fn reason(history: &KeyHistory, violation: Violation) -> Vec<u32> {
    let mut part = BTreeSet::new();
    let cluster = |part: &mut BTreeSet<u32>, value: u32| {
        let ops = || (0_u32..).zip(&history.ops).filter(move |(_, op)| op.what.value() == value);
        part.extend(ops().find(|(_, op)| matches!(op.what, What::Write(_))).map(|(at, _)| at));
        part.extend(ops().min_by_key(|(_, op)| op.returned).map(|(at, _)| at));
        part.extend(ops().max_by_key(|(_, op)| op.invoked).map(|(at, _)| at));
    };
    match violation {
        Violation::NoWriter { value } | Violation::ReadBeforeWrite { value } => {
            let ops =
                || (0_u32..).zip(&history.ops).filter(move |(_, op)| op.what.value() == value);
            part.extend(ops().find(|(_, op)| matches!(op.what, What::Write(_))).map(|(at, _)| at));
            part.extend(ops().min_by_key(|(_, op)| op.returned).map(|(at, _)| at));
        }
        Violation::Overlap { first, second } => {
            cluster(&mut part, first);
            cluster(&mut part, second);
        }
        Violation::Inside { inner, outer } => {
            cluster(&mut part, inner);
            cluster(&mut part, outer);
        }
        Violation::DeleteBlocked { delete: place, by }
        | Violation::NothingBlocked { get: place, by } => {
            part.insert(place);
            cluster(&mut part, by);
        }
        Violation::NoDelete { get, from, .. } => return window(history, get, from),
    }
    part.into_iter().collect()
}

/// The neighbourhood of a get of nothing, as much of it as has no order by itself.
fn window(history: &KeyHistory, get: u32, from: i64) -> Vec<u32> {
    let until = history.ops[get as usize].returned;
    let from = u32::try_from(from.max(0)).unwrap_or(0);
    let mut reach = 16;
    loop {
        let start = from.saturating_sub(reach);
        let near = |op: &Op| op.invoked <= until && op.returned >= start;
        let values: BTreeSet<u32> =
            history.ops.iter().filter(|op| near(op)).map(|op| op.what.value()).collect();
        let part: Vec<u32> = (0_u32..)
            .zip(&history.ops)
            .filter(|(_, op)| match op.what.value() {
                NOTHING => near(op),
                value => values.contains(&value),
            })
            .map(|(place, _)| place)
            .collect();
        if is_bad(history, &part) || start == 0 {
            return part;
        }
        reach = reach.saturating_mul(4);
    }
}

fn of_places(history: &KeyHistory, part: &[u32]) -> KeyHistory {
    let ops = part.iter().map(|place| history.ops[*place as usize]).collect();
    KeyHistory { ops, values: history.values, unique: true }
}

fn is_bad(history: &KeyHistory, part: &[u32]) -> bool {
    // Few operations of great numbers: number them anew, or every try costs as much as all values.
    let mut values: Vec<u32> =
        part.iter().map(|place| history.ops[*place as usize].what.value()).collect();
    values.push(NOTHING);
    values.sort_unstable();
    values.dedup();
    let number = |value: u32| {
        let at = values.binary_search(&value).expect("every value is among them");
        u32::try_from(at).expect("fewer than before")
    };
    let mut history = of_places(history, part);
    for op in &mut history.ops {
        op.what = match op.what {
            What::Write(value) => What::Write(number(value)),
            What::Read(value) => What::Read(number(value)),
        };
    }
    history.values = u32::try_from(values.len()).expect("fewer than before");
    zones::check(&history).is_err()
}

/// Takes out what need not be there: halves, quarters and so on of the gets and the values, then
/// the deletes that nobody left can have seen.
fn shrink_plain(history: &KeyHistory, part: Vec<u32>) -> Vec<u32> {
    let op = |place: u32| history.ops[place as usize];
    // What may go: all of a value, or one get.
    let mut units: Vec<Vec<u32>> = Vec::new();
    let values: BTreeSet<u32> = part.iter().map(|place| op(*place).what.value()).collect();
    for value in values.into_iter().filter(|value| *value != NOTHING) {
        units.push(part.iter().copied().filter(|place| op(*place).what.value() == value).collect());
    }
    let gets = part.iter().copied().filter(|place| matches!(op(*place).what, What::Read(_)));
    units.extend(gets.map(|place| vec![place]));
    let bad = |part: &[u32]| is_bad(history, part);
    let part = take_out(part, units, bad);
    let unseen = seen_by_nobody(history, &part);
    let fewer: Vec<u32> = part.iter().copied().filter(|place| !unseen.contains(place)).collect();
    // A delete that has no room itself is the reason, seen or not.
    if bad(&fewer) { fewer } else { part }
}

/// The deletes that no get of nothing among these can have seen.
fn seen_by_nobody(history: &KeyHistory, part: &[u32]) -> BTreeSet<u32> {
    let windows = zones::windows(&of_places(history, part));
    part.iter()
        .copied()
        .filter(|place| {
            let op = history.ops[*place as usize];
            op.what == What::Write(NOTHING)
                && windows.as_ref().is_some_and(|windows| {
                    windows.iter().all(|(from, to)| {
                        i64::from(op.invoked) > i64::from(*to) || i64::from(op.returned) <= *from
                    })
                })
        })
        .collect()
}

/// Takes units out, many at a time as long as that goes, while the rest stays bad.
fn take_out(mut part: Vec<u32>, units: Vec<Vec<u32>>, bad: impl Fn(&[u32]) -> bool) -> Vec<u32> {
    let mut size = units.len().next_power_of_two();
    let mut units = units;
    while size > 0 {
        let mut at = 0;
        while at < units.len() {
            let end = (at + size).min(units.len());
            let gone: BTreeSet<u32> = units[at..end].iter().flatten().copied().collect();
            let rest: Vec<u32> =
                part.iter().copied().filter(|place| !gone.contains(place)).collect();
            if rest.len() < part.len() && bad(&rest) {
                part = rest;
                units.drain(at..end);
            } else {
                at = end;
            }
        }
        size /= 2;
    }
    part
}

/// So many operations before the break are made small; more would take long.
const SHRUNK_MAX: usize = 20_000;

/// Explains what tier 2 found.
#[must_use]
pub(super) fn of_stuck(
    operations: &[Operation],
    states: &mut States,
    limits: &Limits,
    breaks_at: u32,
    possible: Vec<u32>,
) -> Counterexample {
    let until = operations[breaks_at as usize].returned;
    let count = operations.partition_point(|op| op.invoked <= until);
    let mut prefix: Vec<Operation> = operations[..count].to_vec();
    for op in &mut prefix {
        if op.returned > until {
            op.returned = frontier::OPEN;
        }
    }
    let all = (0_u32..).zip(&prefix);
    let kept = all.filter(|(_, op)| {
        op.returned != frontier::OPEN || !matches!(op.step, Step::Read(_) | Step::Differs(_))
    });
    let part: Vec<u32> = kept.map(|(place, _)| place).collect();
    let mut part = part;
    if part.len() <= SHRUNK_MAX {
        part = shrink_general(&prefix, states, limits, part);
    }
    Counterexample { operations: part, breaks_at, why: Why::Stuck(possible) }
}

/// Takes out reads, and all that concerns a value that only plain writes and reads do.
fn shrink_general(
    prefix: &[Operation],
    states: &States,
    limits: &Limits,
    part: Vec<u32>,
) -> Vec<u32> {
    let op = |place: &u32| prefix[*place as usize];
    let sharp = part.iter().any(|place| !matches!(op(place).step, Step::Read(_) | Step::Write(_)));
    let mut units: Vec<Vec<u32>> = Vec::new();
    if !sharp {
        let value = |place: &u32| match op(place).step {
            Step::Read(value) | Step::Write(value) => value,
            _ => unreachable!("only reads and writes are left"),
        };
        let values: BTreeSet<u32> = part.iter().map(value).collect();
        for one in values.into_iter().filter(|value| *value != NOTHING) {
            units.push(part.iter().copied().filter(|place| value(place) == one).collect());
        }
    }
    let looks = |place: &u32| matches!(op(place).step, Step::Read(_) | Step::Differs(_));
    units.extend(part.iter().copied().filter(looks).map(|place| vec![place]));
    let deadline = std::time::Instant::now() + limits.time;
    take_out(part, units, |rest| {
        let rest: Vec<Operation> = rest.iter().map(op).collect();
        std::time::Instant::now() < deadline
            && matches!(
                frontier::check(&rest, &mut states.clone(), limits, false),
                Answer::Invalid { .. }
            )
    })
}
