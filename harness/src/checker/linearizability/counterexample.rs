//! Why a history is not linearizable, made small: a few operations that have no order whatever
//! else happened. Knows nothing of how they are shown.
//!
//! Sound, because a linearizable history stays so when gets, or all operations of a value, are
//! taken out of it; and when deletes are that no get of nothing that is left can have seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

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
    /// Where it begins, if not with the history.
    pub from: Option<Start>,
    /// Why.
    pub why: Why,
    /// Texts of states that no operation names.
    pub texts: BTreeMap<u32, String>,
}

/// A moment in a history, and all that matters of what lies before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// When this operation, by its place, had returned,
    pub after: u32,
    /// the key held one of these, or what operations that were under way then made of it.
    pub held: Vec<u32>,
}

/// Why operations have no order; values are numbers, operations places in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A rule of tier 1.
    Rule(Violation),
    /// Tier 2: every order of what had happened before leads to something else than the operation
    /// needs.
    Stuck {
        /// What the operation did.
        step: Step,
        /// What the key can have held just before.
        held: Vec<u32>,
    },
}

impl Counterexample {
    /// Every operation that is to be named, by its place.
    pub(in crate::checker) fn named(&self) -> impl Iterator<Item = u32> {
        let by_rule = match &self.why {
            Why::Rule(
                Violation::DeleteBlocked { delete: place, .. }
                | Violation::NothingBlocked { get: place, .. }
                | Violation::NoDelete { get: place, .. },
            ) => Some(*place),
            _ => None,
        };
        let start = self.from.as_ref().map(|start| start.after);
        self.operations.iter().copied().chain([self.breaks_at]).chain(by_rule).chain(start)
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
    Counterexample {
        operations,
        breaks_at: told(breaks_at),
        from: None,
        why: Why::Rule(violation),
        texts: BTreeMap::new(),
    }
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

/// So many operations before the break are made small, and so many if some of them append, for then
/// every state is a text of its own; more would take long.
const SHRUNK_MAX: usize = 20_000;
const SHRUNK_APPENDS_MAX: usize = 2_000;

/// Making a counterexample small takes at most so long.
const SHRINKING_MAX: Duration = Duration::from_secs(10);

/// A counterexample of so many operations is small enough.
const SMALL: usize = 6;

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
    let looks = |op: &Operation| matches!(op.step, Step::Read(_) | Step::Differs(_));
    let part: Vec<u32> = (0_u32..)
        .zip(&prefix)
        .filter(|(_, op)| op.returned != frontier::OPEN || !looks(op))
        .map(|(place, _)| place)
        .collect();
    let step = operations[breaks_at as usize].step;
    let mut found = Counterexample {
        operations: part,
        breaks_at,
        from: None,
        why: Why::Stuck { step, held: possible },
        texts: BTreeMap::new(),
    };
    let appends = prefix.iter().any(|op| matches!(op.step, Step::Append(_)));
    let shrunk_max = if appends { SHRUNK_APPENDS_MAX } else { SHRUNK_MAX };
    if found.operations.len() > shrunk_max {
        return found;
    }
    let limits = Limits { time: limits.time.min(SHRINKING_MAX), ..*limits };
    let mut shrinking =
        Shrinking { prefix: &prefix, states, deadline: Instant::now() + limits.time, limits };
    let held = shrinking.held(&found.operations);
    if let Some((_, held)) = held.last() {
        found.why = Why::Stuck { step, held: held.clone() };
    }
    // From the start if that is short, or else from some later moment on.
    let sharp = prefix.iter().any(|op| !matches!(op.step, Step::Read(_) | Step::Write(_)));
    if !sharp || found.operations.len() <= SMALL {
        found.operations = shrinking.shrink(found.operations.clone(), None);
    }
    if found.operations.len() > SMALL {
        match shrinking.later_start(&found.operations, &held) {
            Some((start, part)) if part.len() < found.operations.len() => {
                found.operations = part;
                found.from = Some(start);
            }
            _ if sharp => found.operations = shrinking.shrink(found.operations, None),
            _ => {}
        }
    }
    let Why::Stuck { held, .. } = &found.why else { return found };
    let told = held.iter().chain(found.from.iter().flat_map(|start| &start.held));
    found.texts = told
        .filter_map(|state| {
            Some((*state, String::from_utf8_lossy(shrinking.states.text(*state)?).into_owned()))
        })
        .collect();
    found
}

/// So many moments are tried as beginnings, each of which has at most so many states, operations
/// under way, and operations in all.
const STARTS_MAX: usize = 200;
const HELD_MAX: usize = 4;
const UNDER_WAY_MAX: usize = 6;
const LATER_MAX: usize = 60;

/// What is needed to make a part of a history small.
struct Shrinking<'a> {
    prefix: &'a [Operation],
    states: &'a mut States,
    limits: Limits,
    deadline: Instant,
}

impl Shrinking<'_> {
    fn of(&self, part: &[u32]) -> Vec<Operation> {
        part.iter().map(|place| self.prefix[*place as usize]).collect()
    }

    /// What the key can have held after each return of the part.
    fn held(&mut self, part: &[u32]) -> Vec<(u32, Vec<u32>)> {
        let operations = self.of(part);
        let held = frontier::held(&operations, self.states, &self.limits).unwrap_or_default();
        held.into_iter().map(|(at, held)| (part[at as usize], held)).collect()
    }

    /// Whether a part has no order, from the start or from some moment on.
    fn is_bad(&self, part: &[u32], start: Option<&Start>) -> bool {
        if Instant::now() >= self.deadline {
            return false;
        }
        let bad = |operations: &[Operation]| {
            let answer = frontier::check(operations, &mut self.states.clone(), &self.limits, false);
            matches!(answer, Answer::Invalid { .. })
        };
        let operations = self.of(part);
        match start {
            None => bad(&operations),
            Some(start) => {
                let after = self.prefix[start.after as usize].returned;
                start.held.iter().all(|state| ways(&operations, after, *state).all(|way| bad(&way)))
            }
        }
    }

    /// The latest moment from which the rest has no order, whatever of what was under way had
    /// taken effect, and that rest, made small.
    fn later_start(&self, part: &[u32], held: &[(u32, Vec<u32>)]) -> Option<(Start, Vec<u32>)> {
        // After the last return the operation that breaks it is under way alone: too late.
        held.iter().rev().take(STARTS_MAX).find_map(|(after, held)| {
            let from = self.prefix[*after as usize].returned;
            let later: Vec<u32> = part
                .iter()
                .copied()
                .filter(|place| self.prefix[*place as usize].returned > from)
                .collect();
            let under_way = later.iter().map(|place| self.prefix[*place as usize]);
            let under_way =
                under_way.filter(|op| op.invoked < from && op.returned != frontier::OPEN).count();
            let start = Start { after: *after, held: held.clone() };
            let small =
                held.len() <= HELD_MAX && under_way <= UNDER_WAY_MAX && later.len() <= LATER_MAX;
            (small && self.is_bad(&later, Some(&start))).then(|| {
                let part = self.shrink(later, Some(&start));
                (start, part)
            })
        })
    }

    /// Takes out what only looks, and all that concerns some values: those operations leave a value
    /// that only they need. What needs a value that a cas makes goes with what needs the value that
    /// the cas finds; and then whatever found that something was not there goes, too.
    fn shrink(&self, part: Vec<u32>, start: Option<&Start>) -> Vec<u32> {
        let step = |place: &u32| self.prefix[*place as usize].step;
        let mut units: Vec<Vec<u32>> = Vec::new();
        if !part.iter().any(|place| matches!(step(place), Step::Append(_))) {
            let values: BTreeSet<u32> = part
                .iter()
                .flat_map(|place| match step(place) {
                    Step::Cas(from, to) => [from, to],
                    Step::Read(value) | Step::Write(value) => [value, value],
                    Step::Differs(_) | Step::Append(_) => [NOTHING, NOTHING],
                })
                .collect();
            for value in values.into_iter().filter(|value| *value != NOTHING) {
                let gone = closed(value, part.iter().map(step));
                let concerned = |place: &&u32| match step(place) {
                    Step::Cas(from, to) => gone.contains(&from) || gone.contains(&to),
                    Step::Read(value) | Step::Write(value) => gone.contains(&value),
                    Step::Differs(_) => true,
                    Step::Append(_) => false,
                };
                units.push(part.iter().filter(concerned).copied().collect());
            }
        }
        let looks = |place: &u32| matches!(step(place), Step::Read(_) | Step::Differs(_));
        units.extend(part.iter().copied().filter(looks).map(|place| vec![place]));
        take_out(part, units, |rest| self.is_bad(rest, start))
    }
}

/// The values that cas make of this one, and of those, and so on.
fn closed(value: u32, steps: impl Iterator<Item = Step> + Clone) -> BTreeSet<u32> {
    let mut all = BTreeSet::from([value]);
    loop {
        let before = all.len();
        for step in steps.clone() {
            if let Step::Cas(from, to) = step
                && all.contains(&from)
            {
                all.insert(to);
            }
        }
        if all.len() == before {
            return all;
        }
    }
}

/// The histories that may follow a moment at which the key held this, one for each choice of which
/// of the operations under way had already taken effect.
fn ways(operations: &[Operation], after: u32, state: u32) -> impl Iterator<Item = Vec<Operation>> {
    let under_way = move |op: &Operation| op.invoked < after && op.returned != frontier::OPEN;
    let count = operations.iter().filter(|op| under_way(op)).count();
    (0..1_u32 << count).map(move |done| {
        let first = Operation { invoked: 0, returned: 1, step: Step::Write(state) };
        let mut choice = done;
        let rest = operations.iter().filter_map(|op| {
            if under_way(op) {
                choice = choice.rotate_right(1);
                if choice >> 31 == 1 {
                    return None;
                }
            }
            let returned =
                if op.returned == frontier::OPEN { op.returned } else { op.returned + 2 };
            Some(Operation { invoked: op.invoked.max(after) + 2, returned, ..*op })
        });
        std::iter::once(first).chain(rest).collect()
    })
}
