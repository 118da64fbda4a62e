//! Tests the tiers of the linearizability checker against each other on many small histories. The
//! plain search is the oracle. On a mismatch the history is made as small as possible while the
//! tiers still disagree, and printed with the seed. Certificates are verified, and counterexamples
//! are checked against the oracle as well.
//!
//! `FUZZ_HISTORIES=6250000 cargo test --release -p checker --test fuzz` is a long run with that
//! number of histories of each of the five kinds. Each seed is a history, counting from `FUZZ_SEED`
//! (0).

mod histories;

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use checker::{
    Completion, Invocation,
    linearizability::{
        Counterexample, Encoding, Limits, Observations, ObservedCall, ObservedKey, PackedHistory,
        SearchLimits, SearchResult, SequentialSpec, Spec, StartState, Verdict, decide,
        frontier::{
            Effort, FrontierResult, OPEN, Overflow, States, Step, TimedStep, Weights, follow,
        },
        search, timed_steps, verify_order,
    },
};
use histories::Observed;

/// The number of histories of each kind, unless the environment sets another one.
const HISTORIES: u64 = 250_000;

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}"))
    })
}

/// The object that steps apply to: it tells whether a step is possible.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Cell(u32);

impl SequentialSpec for Cell {
    type Op = Step;
    type Ret = bool;

    fn invoke(&mut self, step: &Step) -> bool {
        match *step {
            Step::Write(value) => self.0 = value,
            Step::Read(value) => return self.0 == value,
            Step::Mismatch(value) => return self.0 != value,
            Step::Cas(from, _) if self.0 != from => return false,
            Step::Cas(_, to) => self.0 = to,
            // Texts are numbers in base 4 without the digit 0.
            Step::Append(digit) => self.0 = self.0 * 4 + digit,
        }
        true
    }
}

/// The result of the plain search: `None` if there is an order, or else where the history breaks.
fn oracle(operations: &[TimedStep]) -> Option<u32> {
    let calls: Vec<ObservedCall<Step, bool>> = operations
        .iter()
        .map(|op| {
            let returned = (op.returned != OPEN).then_some(u64::from(op.returned));
            let ret = returned.map(|_| true);
            ObservedCall { op: op.step, ret, failed: false, invoked: op.invoked.into(), returned }
        })
        .collect();
    match search(&Cell(0), &calls, &SearchLimits::default()) {
        SearchResult::Valid(_) => None,
        SearchResult::Invalid(shortest) => {
            Some(u32::try_from(shortest.breaks_at).expect("a small history"))
        }
        SearchResult::Unknown(limit) => panic!("a small history is decided: {limit}"),
    }
}

/// The operations that have or may have an effect.
fn effective(observed: &[Observed]) -> Vec<TimedStep> {
    observed.iter().filter(|observed| !observed.omitted).map(|observed| observed.op).collect()
}

/// The observations as a client's recorder reports them, event by event.
fn recorded(observed: &[Observed], appends: bool) -> Observations {
    let spec = if appends { Spec::Append } else { Spec::Register };
    let mut events: Vec<(u32, usize, bool)> = Vec::new();
    for (at, Observed { op, .. }) in observed.iter().enumerate() {
        events.push((op.invoked, at, false));
        // Of the operations that never return, half complete with info at once and half stay open.
        if op.returned != OPEN {
            events.push((op.returned, at, true));
        } else if op.invoked % 2 == 0 {
            events.push((op.invoked, at, true));
        }
    }
    events.sort_unstable();
    let mut observations = Observations::new(spec);
    for (_, at, is_completion) in events {
        let Observed { op, omitted } = observed[at];
        let text = |value: u32| if appends { text(value) } else { value.to_string() };
        let some = |value: u32| (value != 0 || appends).then(|| text(value));
        let process = at as u64;
        let observed = if is_completion {
            match op.step {
                Step::Read(_) if omitted && op.invoked % 2 == 0 => {
                    observations.complete(process, Completion::Info)
                }
                _ if omitted => observations.complete(process, Completion::Fail),
                _ if op.returned == OPEN => observations.complete(process, Completion::Info),
                Step::Read(found) => {
                    observations.complete(process, Completion::Ok(some(found).as_deref()))
                }
                Step::Mismatch(_) => observations.complete(process, Completion::Mismatch),
                _ => observations.complete(process, Completion::Ok(None)),
            }
        } else {
            match op.step {
                Step::Read(_) => observations.invoke(process, "k", Invocation::Get),
                Step::Write(0) => observations.invoke(process, "k", Invocation::Del),
                Step::Write(value) => {
                    observations.invoke(process, "k", Invocation::Put(&text(value)))
                }
                Step::Mismatch(from) => observations.invoke(
                    process,
                    "k",
                    Invocation::Cas(some(from).as_deref(), Some("other")),
                ),
                Step::Cas(from, to) => {
                    let [from, to] = [from, to].map(some);
                    observations.invoke(
                        process,
                        "k",
                        Invocation::Cas(from.as_deref(), to.as_deref()),
                    )
                }
                Step::Append(digit) => {
                    observations.invoke(process, "k", Invocation::Append(&text(digit)))
                }
            }
        };
        observed.expect("well formed");
    }
    observations
}

/// The number of a state of the checker.
fn number_of(key: &ObservedKey, counterexample: &Counterexample, state: u32) -> u32 {
    if let Some(text) = counterexample.texts.get(&state) {
        return text.chars().fold(0, |number, digit| {
            number * 4
                + digit.to_digit(4).expect("texts that are put or appended consist of digits")
        });
    }
    key.text(state).map_or(0, |text| text.parse().unwrap_or(u32::MAX))
}

/// The text of a number in a history with appends: its digits in base 4. A number with a digit 0
/// has no such text, and gets one that is unique.
fn text(number: u32) -> String {
    let mut digits = Vec::new();
    let mut rest = number;
    while rest > 0 {
        digits.push(char::from_digit(rest % 4, 4).expect("a digit"));
        rest /= 4;
    }
    digits.reverse();
    if digits.contains(&'0') { format!("x{number}") } else { digits.into_iter().collect() }
}

/// Compares the checker's result with the oracle's. An error describes how they differ.
fn check(observed: &[Observed], appends: bool, decided: &Decided) -> Result<bool, String> {
    let operations = effective(observed);
    let breaks_at = oracle(&operations);
    let observations = recorded(observed, appends);
    let key = &observations.keys()[0];
    for certify in [false, true] {
        let mut packed = key.history(observations.spec());
        if packed.numbers.len() != operations.len() {
            return Err(format!("{packed:?} contains operations without effect, or lacks others"));
        }
        match (decide(&mut packed, &Limits::default(), certify), breaks_at) {
            (Verdict::Valid(order), None) => {
                if let Some(order) = order {
                    verify_order(&packed, &order).map_err(|rejection| rejection.to_string())?;
                } else if certify {
                    return Err("there is no certificate".to_owned());
                }
            }
            (Verdict::Invalid(mut counterexample), Some(at)) => {
                if !certify {
                    let original = counterexample.clone();
                    for state in counterexample.start.iter_mut().flat_map(|start| &mut start.held) {
                        *state = number_of(key, &original, *state);
                    }
                    check_counterexample(&operations, &counterexample, at)?;
                }
            }
            (verdict, _) => return Err(format!("the checker's verdict is {verdict:?}")),
        }
    }
    check_methods(&key.history(observations.spec()), &operations, breaks_at, decided)?;
    Ok(breaks_at.is_none())
}

/// How the frontier deals with too many configurations: the widths are so small that it has to even in
/// small histories.
const OVERFLOWS: [Overflow; 5] = [
    Overflow::Keep,
    Overflow::Drop { width: 1, search: 1 },
    Overflow::Drop { width: 2, search: 3 },
    Overflow::Join(1),
    Overflow::Join(2),
];

/// How often each of these has decided a valid history, and an invalid one.
type Decided = [[AtomicU64; 2]; OVERFLOWS.len()];

/// Compares each method by itself with the oracle.
fn check_methods(
    packed: &PackedHistory,
    operations: &[TimedStep],
    breaks_at: Option<u32>,
    decided: &Decided,
) -> Result<(), String> {
    for (overflow, decided) in OVERFLOWS.into_iter().zip(decided) {
        let (steps, mut states) = match &packed.encoding {
            Encoding::Register(history) => (timed_steps(history), States::default()),
            Encoding::Steps(steps, states) => (steps.clone(), states.clone()),
        };
        let effort = &mut Effort::new(&Limits::default());
        let result = follow(&steps, &mut states, overflow, &Weights::default(), effort, true);
        let is_right = match (&result, breaks_at) {
            (FrontierResult::Valid(order), None) => {
                verify_order(packed, order).map_err(|rejection| rejection.to_string())?;
                true
            }
            (FrontierResult::Invalid { breaks_at, is_shortest, .. }, Some(at)) => {
                let returned = |at: u32| operations[at as usize].returned;
                *breaks_at == at || !is_shortest && returned(*breaks_at) > returned(at)
            }
            (FrontierResult::Undecided { .. }, _) => overflow != Overflow::Keep,
            _ => false,
        };
        if !is_right {
            return Err(format!("{overflow:?} says {result:?}"));
        }
        if !matches!(result, FrontierResult::Undecided { .. }) {
            decided[usize::from(breaks_at.is_some())].fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Checks a counterexample against the oracle. An error describes what is wrong with it.
fn check_counterexample(
    operations: &[TimedStep],
    counterexample: &Counterexample,
    at: u32,
) -> Result<(), String> {
    if counterexample.breaks_at != at {
        return Err(format!("the history breaks at {at}, unlike {counterexample:?}"));
    }
    let until = operations[at as usize].returned;
    let part: Vec<TimedStep> = counterexample
        .operations
        .iter()
        .map(|position| operations[*position as usize])
        .map(|op| TimedStep {
            returned: if op.returned > until { OPEN } else { op.returned },
            ..op
        })
        .collect();
    let has_order = match &counterexample.start {
        None => oracle(&part).is_none(),
        Some(start) => has_order_from(operations, start, &part)?,
    };
    if has_order { Err(format!("{counterexample:?} has an order")) } else { Ok(()) }
}

/// Whether a part of a history has an order from what the key held at its start, for some choice of
/// the operations that were open then and had taken effect.
fn has_order_from(
    operations: &[TimedStep],
    start: &StartState,
    part: &[TimedStep],
) -> Result<bool, String> {
    let after = operations[start.after as usize].returned;
    let earlier: Vec<TimedStep> =
        operations.iter().copied().filter(|op| op.invoked < after).collect();
    if earlier.iter().all(|op| op.returned <= after) {
        // Nothing was open then, so a read determines what the key held.
        for value in 0..4 {
            let read = TimedStep { invoked: OPEN - 2, returned: OPEN - 1, step: Step::Read(value) };
            let with_read: Vec<TimedStep> = earlier.iter().copied().chain([read]).collect();
            if start.held.contains(&value) != oracle(&with_read).is_none() {
                return Err(format!("{value} is wrongly possible or impossible after {start:?}"));
            }
        }
    }
    let open: Vec<usize> = (0..part.len())
        .filter(|at| part[*at].invoked < after && part[*at].returned != OPEN)
        .collect();
    Ok(start.held.iter().any(|state| {
        (0..1_u32 << open.len()).any(|done| {
            let has_taken_effect =
                |at| open.iter().position(|other| *other == at).is_some_and(|n| done >> n & 1 == 1);
            let first = TimedStep { invoked: 0, returned: 1, step: Step::Write(*state) };
            let rest = (0..part.len()).filter(|at| !has_taken_effect(*at)).map(|at| TimedStep {
                invoked: part[at].invoked.max(after) + 2,
                returned: part[at].returned.saturating_add(2),
                ..part[at]
            });
            oracle(&std::iter::once(first).chain(rest).collect::<Vec<_>>()).is_none()
        })
    }))
}

/// Removes operations, one at a time, as long as the checker is still wrong.
fn shrink(mut observed: Vec<Observed>, appends: bool) -> Vec<Observed> {
    let mut at = 0;
    while at < observed.len() {
        let mut fewer = observed.clone();
        fewer.remove(at);
        if !fewer.is_empty() && check(&fewer, appends, &Decided::default()).is_err() {
            observed = fewer;
            at = 0;
        } else {
            at += 1;
        }
    }
    observed
}

/// Checks many histories on all cores.
fn fuzz(make: impl Fn(u64) -> Vec<Observed> + Sync, appends: bool) {
    let first = number("FUZZ_SEED", 0);
    let end = first + number("FUZZ_HISTORIES", HISTORIES);
    let next = AtomicU64::new(first);
    let valid = AtomicU64::new(0);
    let decided = &Decided::default();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(1000, Ordering::Relaxed);
                    for seed in from..(from + 1000).min(end) {
                        let observed = make(seed);
                        match check(&observed, appends, decided) {
                            Ok(is_valid) => {
                                valid.fetch_add(is_valid.into(), Ordering::Relaxed);
                            }
                            Err(why) => {
                                next.store(end, Ordering::Relaxed);
                                let small = shrink(observed, appends);
                                let now = check(&small, appends, &Decided::default())
                                    .expect_err("the checker is still wrong");
                                let oracle = oracle(&effective(&small));
                                panic!(
                                    "FUZZ_SEED={seed}: {why}\nminimized: {now}\n\
                                     the oracle's result is {oracle:?} for {small:#?}"
                                );
                            }
                        }
                    }
                    if from >= end {
                        return;
                    }
                }
            });
        }
    });
    let (valid, all) = (valid.into_inner(), end - first);
    // Both verdicts must be common, or agreement means little.
    assert!(valid * 10 > all && valid * 10 < all * 9, "{valid} of {all} were valid");
    // Each method by itself has been compared on both.
    for (overflow, decided) in OVERFLOWS.into_iter().zip(decided) {
        let [of_valid, of_invalid] = decided.each_ref().map(|count| count.load(Ordering::Relaxed));
        assert!(of_valid > 0 && of_invalid > 0, "{overflow:?}: {decided:?}");
    }
}

/// Tier 1.
#[test]
fn unique_values() {
    fuzz(histories::unique, false);
}

/// Tier 2.
#[test]
fn repeated_values() {
    fuzz(histories::repeated, false);
}

/// Tier 2, with cas that succeed and that complete with a mismatch.
#[test]
fn compare_and_swap() {
    fuzz(histories::with_cas, false);
}

/// Tier 2, with many operations that never return.
#[test]
fn indeterminate() {
    fuzz(histories::indeterminate, false);
}

/// Tier 2, with appends.
#[test]
fn appends() {
    fuzz(histories::with_appends, true);
}

/// Of two equal open appends, the one that returns first has to be hidden under a put so that the
/// other can be observed. Found by a long run; too rare for a short one.
#[test]
fn an_append_is_hidden_and_an_equal_one_is_observed() {
    let observed = [
        (0, 6, Step::Append(1)),
        (1, 2, Step::Write(2)),
        (3, 8, Step::Append(1)),
        (4, 5, Step::Read(9)),
        (9, 13, Step::Read(39)),
        (10, 11, Step::Append(3)),
    ];
    let observed = observed.map(|(invoked, returned, step)| Observed {
        op: TimedStep { invoked, returned, step },
        omitted: false,
    });
    assert_eq!(check(&observed, true, &Decided::default()), Ok(true));
}
