//! Counterexamples from tier 1.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        packed::{ABSENT, Access, PackedOp, RegisterHistory},
        zones::{self, ZoneViolation},
    },
    Counterexample, Reason, remove_units,
};

/// The counterexample of a rule that is violated.
#[must_use]
pub(in super::super) fn from_violation(
    history: &RegisterHistory,
    mut violation: ZoneViolation,
) -> Counterexample {
    // Finds the shortest prefix without an order: while the prefix that ends before the last event of
    // the reason has no order either, the reason is an earlier one.
    let mut part = involved(history, violation);
    let mut prefix = history.clone();
    let mut positions: Vec<u32> = (0_u32..).take(history.ops.len()).collect();
    let breaks_at = loop {
        let returned = part.iter().copied().filter(|at| prefix.ops[*at as usize].took_effect());
        let last = returned.max_by_key(|at| prefix.ops[*at as usize].returned);
        let last = last.expect("operations without a return alone always have an order");
        let until = prefix.ops[last as usize].returned - 1;
        let (ops, kept) = prefix.prefix(until);
        let shorter = RegisterHistory { ops, values: history.values, unique: true };
        let Err(earlier) = zones::check(&shorter) else { break last };
        positions = kept.iter().map(|at| positions[*at as usize]).collect();
        prefix = shorter;
        violation = earlier;
        part = involved(&prefix, violation);
    };
    let small = shrink(&prefix, part);
    let in_history = |at: u32| positions[at as usize];
    let violation = match violation {
        ZoneViolation::DeleteBlocked { delete, by } => {
            ZoneViolation::DeleteBlocked { delete: in_history(delete), by }
        }
        ZoneViolation::EmptyGetBlocked { get, by } => {
            ZoneViolation::EmptyGetBlocked { get: in_history(get), by }
        }
        ZoneViolation::NoDelete { get, from, to, after } => {
            ZoneViolation::NoDelete { get: in_history(get), from, to, after }
        }
        other => other,
    };
    let mut operations: Vec<u32> = small.into_iter().map(in_history).collect();
    operations.sort_unstable();
    Counterexample {
        operations,
        breaks_at: in_history(breaks_at),
        start: None,
        reason: Reason::Rule(violation),
        texts: BTreeMap::new(),
    }
}

/// The operations that a violation involves: those that determine the zones.
fn involved(history: &RegisterHistory, violation: ZoneViolation) -> Vec<u32> {
    let mut part = BTreeSet::new();
    let of_value =
        |value: u32| (0_u32..).zip(&history.ops).filter(move |(_, op)| op.access.value() == value);
    let put_and_first_return = |part: &mut BTreeSet<u32>, value: u32| {
        let put = of_value(value).find(|(_, op)| matches!(op.access, Access::Write(_)));
        part.extend(put.map(|(at, _)| at));
        part.extend(of_value(value).min_by_key(|(_, op)| op.returned).map(|(at, _)| at));
    };
    let cluster = |part: &mut BTreeSet<u32>, value: u32| {
        put_and_first_return(part, value);
        part.extend(of_value(value).max_by_key(|(_, op)| op.invoked).map(|(at, _)| at));
    };
    match violation {
        ZoneViolation::NoWriter { value } | ZoneViolation::ReadBeforeWrite { value } => {
            put_and_first_return(&mut part, value);
        }
        ZoneViolation::Overlap { first, second } => {
            cluster(&mut part, first);
            cluster(&mut part, second);
        }
        ZoneViolation::Inside { inner, outer } => {
            cluster(&mut part, inner);
            cluster(&mut part, outer);
        }
        ZoneViolation::DeleteBlocked { delete: position, by }
        | ZoneViolation::EmptyGetBlocked { get: position, by } => {
            part.insert(position);
            cluster(&mut part, by);
        }
        ZoneViolation::NoDelete { get, from, .. } => return neighbourhood(history, get, from),
    }
    part.into_iter().collect()
}

/// The neighbourhood of an empty get, as large as needed to have no order by itself.
fn neighbourhood(history: &RegisterHistory, get: u32, from: i64) -> Vec<u32> {
    let until = history.ops[get as usize].returned;
    let from = u32::try_from(from.max(0)).unwrap_or(0);
    let mut reach = 16;
    loop {
        let start = from.saturating_sub(reach);
        let is_near = |op: &PackedOp| op.invoked <= until && op.returned >= start;
        let near = history.ops.iter().filter(|op| is_near(op));
        let values: BTreeSet<u32> = near.map(|op| op.access.value()).collect();
        let part: Vec<u32> = (0_u32..)
            .zip(&history.ops)
            .filter(|(_, op)| match op.access.value() {
                ABSENT => is_near(op),
                value => values.contains(&value),
            })
            .map(|(position, _)| position)
            .collect();
        if has_no_order(history, &part) || start == 0 {
            return part;
        }
        reach = reach.saturating_mul(4);
    }
}

fn at_positions(history: &RegisterHistory, part: &[u32]) -> RegisterHistory {
    let ops = part.iter().map(|position| history.ops[*position as usize]).collect();
    RegisterHistory { ops, values: history.values, unique: true }
}

fn has_no_order(history: &RegisterHistory, part: &[u32]) -> bool {
    // Renumbers the values: the cost of a check grows with the greatest number.
    let mut values: Vec<u32> =
        part.iter().map(|position| history.ops[*position as usize].access.value()).collect();
    values.push(ABSENT);
    values.sort_unstable();
    values.dedup();
    let number = |value: u32| {
        let at = values.binary_search(&value).expect("every value is among them");
        u32::try_from(at).expect("fewer than before")
    };
    let mut history = at_positions(history, part);
    for op in &mut history.ops {
        op.access = match op.access {
            Access::Write(value) => Access::Write(number(value)),
            Access::Read(value) => Access::Read(number(value)),
        };
    }
    history.values = u32::try_from(values.len()).expect("fewer than before");
    zones::check(&history).is_err()
}

/// Removes gets and values as long as the rest has no order, then the deletes that no remaining get
/// can have observed.
fn shrink(history: &RegisterHistory, part: Vec<u32>) -> Vec<u32> {
    let op = |position: u32| history.ops[position as usize];
    // A unit is everything of one value, or one get.
    let mut units: Vec<Vec<u32>> = Vec::new();
    let values: BTreeSet<u32> = part.iter().map(|at| op(*at).access.value()).collect();
    for value in values.into_iter().filter(|value| *value != ABSENT) {
        let of_value = part.iter().copied().filter(|at| op(*at).access.value() == value);
        units.push(of_value.collect());
    }
    let gets = part.iter().copied().filter(|at| matches!(op(*at).access, Access::Read(_)));
    units.extend(gets.map(|at| vec![at]));
    let part = remove_units(part, units, |part| has_no_order(history, part));
    let unobserved = unobserved_deletes(history, &part);
    let fewer: Vec<u32> = part.iter().copied().filter(|at| !unobserved.contains(at)).collect();
    // A delete without a slot of its own is the reason, observed or not.
    if has_no_order(history, &fewer) { fewer } else { part }
}

/// The deletes that none of the empty gets in the part can have observed.
fn unobserved_deletes(history: &RegisterHistory, part: &[u32]) -> BTreeSet<u32> {
    let windows = zones::windows(&at_positions(history, part));
    part.iter()
        .copied()
        .filter(|position| {
            let op = history.ops[*position as usize];
            op.access == Access::Write(ABSENT)
                && windows.as_ref().is_some_and(|windows| {
                    windows.iter().all(|(from, to)| {
                        i64::from(op.invoked) > i64::from(*to) || i64::from(op.returned) <= *from
                    })
                })
        })
        .collect()
}
