//! Counterexamples from tier 2.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    super::{
        frontier::{self, Effort, Limits, States, Step, TimedStep},
        packed::ABSENT,
        portfolio::{self, Decision, Method},
    },
    Counterexample, Reason, StartState, remove_units,
};

/// Histories with more operations before the break are not made small, since it would take long. With
/// appends the limit is lower, since every state is a text of its own.
const SHRUNK_MAX: usize = 20_000;
const SHRUNK_APPENDS_MAX: usize = 2_000;

/// The most steps and time to spend on counterexamples. The time is a precaution: steps take a fraction
/// of a microsecond.
pub(in super::super) const STEPS_MAX: u64 = 4_000_000;
const TIME_MAX: Duration = Duration::from_secs(10);

/// The most steps to spend on the question whether one part has no order.
const STEPS_OF_PART: u64 = 200_000;

/// The most steps to spend on the states that were possible. With indeterminate operations, or with
/// appends, there are soon too many to be of use.
const STEPS_OF_STATES: u64 = 4_000;

/// A counterexample with this many operations is small enough.
const SMALL: usize = 6;

/// Moments that are tried as a later start, and the most states, open operations and operations that
/// a counterexample with a later start has.
const STARTS_MAX: usize = 200;
const HELD_MAX: usize = 4;
const OPEN_MAX: usize = 6;
const LATER_MAX: usize = 60;

/// A prefix of a history that has no order.
#[derive(Debug)]
pub(in super::super) struct Break {
    /// The operation whose return ends it, by position.
    pub(in super::super) at: u32,
    /// The states that were possible right before.
    pub(in super::super) states: Vec<u32>,
    /// It is the shortest such prefix.
    pub(in super::super) is_shortest: bool,
}

/// The counterexample of an operation that is impossible in every possible state. Spends at most this
/// many steps on it.
#[must_use]
pub(in super::super) fn from_break(
    operations: &[TimedStep],
    states: &mut States,
    limits: &Limits,
    mut found: Break,
    steps: u64,
) -> Counterexample {
    let limits = Limits { time: limits.time.min(TIME_MAX), ..*limits };
    let mut effort = Effort::new(&limits);
    effort.steps_max = steps;
    let methods = if found.is_shortest {
        [Method::Exact, Method::Dive, Method::Join]
    } else {
        [Method::Dive, Method::Join, Method::Exact]
    };
    if !found.is_shortest {
        shorten(operations, states, &limits, (&mut effort, methods), &mut found);
    }
    let prefix = prefix_until(operations, operations[found.at as usize].returned);
    let has_result = |op: &TimedStep| op.returned != frontier::OPEN || !is_read_only(op.step);
    let part: Vec<u32> =
        (0_u32..).zip(&prefix).filter(|(_, op)| has_result(op)).map(|(at, _)| at).collect();
    let step = operations[found.at as usize].step;
    let held = found.is_shortest.then_some(found.states);
    let mut found = Counterexample {
        operations: part,
        breaks_at: found.at,
        start: None,
        reason: Reason::Unreachable { step, held },
        texts: BTreeMap::new(),
    };
    let has_appends = prefix.iter().any(|op| matches!(op.step, Step::Append(_)));
    let shrunk_max = if has_appends { SHRUNK_APPENDS_MAX } else { SHRUNK_MAX };
    if found.operations.len() > shrunk_max {
        return found;
    }
    let mut minimizer = Minimizer { methods, prefix: &prefix, states, limits, effort };
    minimizer.minimize(&mut found, step);
    let Reason::Unreachable { held, .. } = &found.reason else { return found };
    let start = found.start.iter().flat_map(|start| &start.held);
    let named = held.iter().flatten().chain(start);
    found.texts = named
        .filter_map(|state| {
            let text = minimizer.states.text(*state)?;
            Some((*state, String::from_utf8_lossy(text).into_owned()))
        })
        .collect();
    found
}

/// Looks for a shorter prefix without an order, by bisection: every prefix of a linearizable history is
/// linearizable.
fn shorten(
    operations: &[TimedStep],
    states: &mut States,
    limits: &Limits,
    (effort, methods): (&mut Effort, [Method; 3]),
    found: &mut Break,
) {
    let until = operations[found.at as usize].returned;
    let mut returns: Vec<(u32, u32)> = (0_u32..)
        .zip(operations)
        .filter(|(_, op)| op.returned <= until)
        .map(|(at, op)| (op.returned, at))
        .collect();
    returns.sort_unstable();
    // The first `good` of these returns have an order, the first `bad` have none. Most often the
    // prefix found is the shortest, so the one before it comes first.
    let (mut good, mut bad) = (0, returns.len());
    let mut middle = bad - 1;
    while bad - good > 1 {
        let prefix = prefix_until(operations, returns[middle - 1].0);
        match portfolio::decide(&prefix, states, limits, effort, methods, false) {
            Decision::Valid(_) => good = middle,
            Decision::Invalid(shorter) => {
                *found = shorter;
                if found.is_shortest {
                    return;
                }
                let until = operations[found.at as usize].returned;
                bad = returns.partition_point(|(returned, _)| *returned <= until);
            }
            Decision::Unknown(_) => return,
        }
        middle = good.midpoint(bad);
    }
}

/// The operations invoked up to a time. Those that return later are open.
fn prefix_until(operations: &[TimedStep], until: u32) -> Vec<TimedStep> {
    let count = operations.partition_point(|op| op.invoked <= until);
    let mut prefix: Vec<TimedStep> = operations[..count].to_vec();
    for op in &mut prefix {
        if op.returned > until {
            op.returned = frontier::OPEN;
        }
    }
    prefix
}

fn is_read_only(step: Step) -> bool {
    matches!(step, Step::Read(_) | Step::Mismatch(_))
}

/// Makes a part of a history small.
struct Minimizer<'a> {
    /// The methods to decide parts with: first the one that has decided the whole.
    methods: [Method; 3],
    prefix: &'a [TimedStep],
    states: &'a mut States,
    limits: Limits,
    effort: Effort,
}

impl Minimizer<'_> {
    /// Shrinks the part from the start of the history if it is a register's or already small, since
    /// that is cheap. If it is still large, looks for a later start.
    fn minimize(&mut self, found: &mut Counterexample, step: Step) {
        let possible = self.possible_states(&found.operations);
        if let Some((_, held)) = possible.last() {
            found.reason = Reason::Unreachable { step, held: Some(held.clone()) };
        }
        let is_register = |op: &TimedStep| matches!(op.step, Step::Read(_) | Step::Write(_));
        let is_general = !self.prefix.iter().all(is_register);
        if !is_general || found.operations.len() <= SMALL {
            found.operations = self.shrink(found.operations.clone(), None);
        }
        if found.operations.len() <= SMALL {
            return;
        }
        match self.later_start(&found.operations, &possible) {
            Some((start, part)) if part.len() < found.operations.len() => {
                found.operations = part;
                found.start = Some(start);
            }
            _ if is_general => found.operations = self.shrink(found.operations.clone(), None),
            _ => {}
        }
    }

    fn steps_at(&self, part: &[u32]) -> Vec<TimedStep> {
        part.iter().map(|position| self.prefix[*position as usize]).collect()
    }

    /// The states possible right after each return in the part. Empty if that takes too many steps.
    fn possible_states(&mut self, part: &[u32]) -> Vec<(u32, Vec<u32>)> {
        let operations = self.steps_at(part);
        let possible = self.effort.within(STEPS_OF_STATES, |effort| {
            frontier::possible_states(&operations, self.states, effort)
        });
        let possible = possible.unwrap_or_default().into_iter();
        possible.map(|(at, held)| (part[at as usize], held)).collect()
    }

    /// Whether a part certainly has no order, from the start of the history or from a later one.
    fn has_no_order(&mut self, part: &[u32], start: Option<&StartState>) -> bool {
        if self.effort.is_used_up() {
            return false;
        }
        let operations = self.steps_at(part);
        let Minimizer { states, limits, effort, methods, .. } = self;
        let mut is_invalid = |operations: &[TimedStep]| {
            let decision = effort.within(STEPS_OF_PART, |effort| {
                portfolio::decide(operations, states, limits, effort, *methods, false)
            });
            matches!(decision, Decision::Invalid(_))
        };
        match start {
            None => is_invalid(&operations),
            Some(start) => {
                let after = self.prefix[start.after as usize].returned;
                start.held.iter().all(|state| {
                    continuations(&operations, after, *state).all(|history| is_invalid(&history))
                })
            }
        }
    }

    /// The latest start from which the rest of the part has no order, whichever of the operations
    /// open at that moment had taken effect; and that rest, made small.
    fn later_start(
        &mut self,
        part: &[u32],
        possible: &[(u32, Vec<u32>)],
    ) -> Option<(StartState, Vec<u32>)> {
        // The latest first. After the last return only the operation at the break is open, which
        // makes no counterexample.
        possible.iter().rev().take(STARTS_MAX).find_map(|(after, held)| {
            let from = self.prefix[*after as usize].returned;
            let returned = |position: &u32| self.prefix[*position as usize].returned;
            let later: Vec<u32> = part.iter().copied().filter(|at| returned(at) > from).collect();
            let is_open = |op: &TimedStep| op.invoked < from && op.returned != frontier::OPEN;
            let open = later.iter().filter(|at| is_open(&self.prefix[**at as usize])).count();
            let start = StartState { after: *after, held: held.clone() };
            let is_small = held.len() <= HELD_MAX && open <= OPEN_MAX && later.len() <= LATER_MAX;
            (is_small && self.has_no_order(&later, Some(&start))).then(|| {
                let part = self.shrink(later, Some(&start));
                (start, part)
            })
        })
    }

    /// Removes read-only operations, and all operations of some values: those set a value that only
    /// they need. If a cas makes a value of a removed one, the operations of that value are removed as
    /// well, and with them every mismatch.
    fn shrink(&mut self, part: Vec<u32>, start: Option<&StartState>) -> Vec<u32> {
        let prefix = self.prefix;
        let step = |position: &u32| prefix[*position as usize].step;
        let mut units: Vec<Vec<u32>> = Vec::new();
        if !part.iter().any(|position| matches!(step(position), Step::Append(_))) {
            let values: BTreeSet<u32> = part
                .iter()
                .flat_map(|position| match step(position) {
                    Step::Cas(from, to) => [from, to],
                    Step::Read(value) | Step::Write(value) => [value, value],
                    Step::Mismatch(_) | Step::Append(_) => [ABSENT, ABSENT],
                })
                .collect();
            for value in values.into_iter().filter(|value| *value != ABSENT) {
                let removed = derived_values(value, part.iter().map(step));
                let is_concerned = |position: &&u32| match step(position) {
                    Step::Cas(from, to) => removed.contains(&from) || removed.contains(&to),
                    Step::Read(value) | Step::Write(value) => removed.contains(&value),
                    Step::Mismatch(_) => true,
                    Step::Append(_) => false,
                };
                units.push(part.iter().filter(is_concerned).copied().collect());
            }
        }
        let read_only = part.iter().copied().filter(|position| is_read_only(step(position)));
        units.extend(read_only.map(|position| vec![position]));
        remove_units(part, units, |rest| self.has_no_order(rest, start))
    }
}

/// A value, and all values that cas steps make of it or of one of those.
fn derived_values(value: u32, steps: impl Iterator<Item = Step> + Clone) -> BTreeSet<u32> {
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

/// The histories that can follow a moment at which the key had this state, one for each choice of the
/// open operations that had already taken effect.
fn continuations(
    operations: &[TimedStep],
    after: u32,
    state: u32,
) -> impl Iterator<Item = Vec<TimedStep>> {
    let is_open = move |op: &TimedStep| op.invoked < after && op.returned != frontier::OPEN;
    let count = operations.iter().filter(|op| is_open(op)).count();
    (0..1_u32 << count).map(move |done| {
        let first = TimedStep { invoked: 0, returned: 1, step: Step::Write(state) };
        let mut choice = done;
        let rest = operations.iter().filter_map(|op| {
            if is_open(op) {
                choice = choice.rotate_right(1);
                if choice >> 31 == 1 {
                    return None;
                }
            }
            let returned =
                if op.returned == frontier::OPEN { op.returned } else { op.returned + 2 };
            Some(TimedStep { invoked: op.invoked.max(after) + 2, returned, ..*op })
        });
        std::iter::once(first).chain(rest).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_prefix_is_found() {
        let steps = [1, 2, 1, 3, 1, 4].map(Step::Read);
        let mut operations = vec![TimedStep { invoked: 0, returned: 1, step: Step::Write(1) }];
        operations.extend((1..).zip(steps).map(|(at, step)| TimedStep {
            invoked: 2 * at,
            returned: 2 * at + 1,
            step,
        }));
        // 2 is read before 3 and 4, and none of them was written.
        let found = Break { at: 6, states: Vec::new(), is_shortest: false };
        let (states, limits) = (&mut States::default(), &Limits::default());
        let counterexample = from_break(&operations, states, limits, found, STEPS_MAX);
        assert_eq!(counterexample.breaks_at, 2);
        assert_eq!(counterexample.operations, [2]);
    }
}
