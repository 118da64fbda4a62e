//! The tiers of the linearizability checker against each other, on a great many small histories.
//! The plain search is the oracle. On a mismatch the history is made as small as it still
//! disagrees, and printed with the seed. Certificates go through the verifier, and counterexamples
//! are held against the oracle too.
//!
//! `FUZZ_HISTORIES=6250000 cargo test --release -p harness --test fuzz` for a long run, of so many
//! histories of each of the four kinds; each seed is a history, from `FUZZ_SEED` (0) on.

mod histories;

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use harness::checker::linearizability::{
    Ask, Bounds, Call, Counterexample, End, Found, Key, Keys, Limits, Spec, Start, Verdict, accept,
    decide,
    frontier::{OPEN, Operation, Step},
    search,
};
use histories::Observed;
use stateright::semantics::SequentialSpec;

/// So many histories a kind, unless the environment says otherwise.
const HISTORIES: u64 = 250_000;

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}"))
    })
}

/// The object that all steps are of: it says whether a step is possible.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Cell(u32);

impl SequentialSpec for Cell {
    type Op = Step;
    type Ret = bool;

    fn invoke(&mut self, step: &Step) -> bool {
        match *step {
            Step::Write(value) => self.0 = value,
            Step::Read(value) => return self.0 == value,
            Step::Differs(value) => return self.0 != value,
            Step::Cas(from, _) if self.0 != from => return false,
            Step::Cas(_, to) => self.0 = to,
            // Texts are numbers in base 4, without the digit 0.
            Step::Append(digit) => self.0 = self.0 * 4 + digit,
        }
        true
    }
}

/// The plain search's answer: none if there is an order, or else where it breaks.
fn oracle(operations: &[Operation]) -> Option<u32> {
    let calls: Vec<Call<Step, bool>> = operations
        .iter()
        .map(|op| {
            let returned = (op.returned != OPEN).then_some(u64::from(op.returned));
            let ret = returned.map(|_| true);
            Call { op: op.step, ret, failed: false, invoked: op.invoked.into(), returned }
        })
        .collect();
    match search(&Cell(0), &calls, &Bounds::default()) {
        Found::Valid(_) => None,
        Found::Invalid(shortest) => {
            Some(u32::try_from(shortest.breaks_at).expect("a small history"))
        }
        Found::Unknown(bound) => panic!("a small history is decided: {bound}"),
    }
}

/// What of a history says something.
fn told(observed: &[Observed]) -> Vec<Operation> {
    observed.iter().filter(|observed| !observed.silent).map(|observed| observed.op).collect()
}

/// The observations as a client's recorder would tell them to the checker, event by event.
fn recorded(observed: &[Observed], appends: bool) -> Keys {
    let spec = if appends { Spec::Append } else { Spec::Register };
    let mut events: Vec<(u32, usize, bool)> = Vec::new();
    for (at, Observed { op, .. }) in observed.iter().enumerate() {
        events.push((op.invoked, at, false));
        // Of those that never return, half are given up at once, and half are still under way.
        if op.returned != OPEN {
            events.push((op.returned, at, true));
        } else if op.invoked % 2 == 0 {
            events.push((op.invoked, at, true));
        }
    }
    events.sort_unstable();
    let mut keys = Keys::new(spec);
    for (_, at, is_end) in events {
        let Observed { op, silent } = observed[at];
        let text = |value: u32| if appends { text(value) } else { value.to_string() };
        let some = |value: u32| (value != 0 || appends).then(|| text(value));
        let process = at as u64;
        let done = if is_end {
            match op.step {
                Step::Read(_) if silent && op.invoked % 2 == 0 => keys.end(process, End::Info),
                _ if silent => keys.end(process, End::Fail),
                _ if op.returned == OPEN => keys.end(process, End::Info),
                Step::Read(found) => keys.end(process, End::Ok(some(found).as_deref())),
                Step::Differs(_) => keys.end(process, End::Differs),
                _ => keys.end(process, End::Ok(None)),
            }
        } else {
            match op.step {
                Step::Read(_) => keys.invoke(process, "k", Ask::Get),
                Step::Write(0) => keys.invoke(process, "k", Ask::Del),
                Step::Write(value) => keys.invoke(process, "k", Ask::Put(&text(value))),
                Step::Differs(from) => {
                    keys.invoke(process, "k", Ask::Cas(some(from).as_deref(), Some("other")))
                }
                Step::Cas(from, to) => {
                    let [from, to] = [from, to].map(some);
                    keys.invoke(process, "k", Ask::Cas(from.as_deref(), to.as_deref()))
                }
                Step::Append(digit) => keys.invoke(process, "k", Ask::Append(&text(digit))),
            }
        };
        done.expect("well formed");
    }
    keys
}

/// The number that the checker's state stands for.
fn number_of(key: &Key, counterexample: &Counterexample, state: u32) -> u32 {
    if let Some(text) = counterexample.texts.get(&state) {
        return text.chars().fold(0, |number, digit| {
            number * 4 + digit.to_digit(4).expect("what is put and appended has digits alone")
        });
    }
    key.text(state).map_or(0, |text| text.parse().unwrap_or(u32::MAX))
}

/// The text that a number stands for where there are appends: its digits in base 4. A number with a
/// digit 0 is no such text; it gets one that nothing else has.
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

/// What is wrong with the checker's answer, if anything.
fn judge(observed: &[Observed], appends: bool) -> Result<bool, String> {
    let operations = told(observed);
    let breaks_at = oracle(&operations);
    let keys = recorded(observed, appends);
    let key = &keys.keys()[0];
    for certify in [false, true] {
        let mut packed = key.history(keys.spec());
        if packed.numbers.len() != operations.len() {
            return Err(format!("{packed:?} has what says nothing, or lacks what says something"));
        }
        match (decide(&mut packed, &Limits::default(), certify), breaks_at) {
            (Verdict::Valid(order), None) => {
                if let Some(order) = order {
                    accept(&packed, &order).map_err(|refusal| refusal.to_string())?;
                } else if certify {
                    return Err("it has no certificate".to_owned());
                }
            }
            (Verdict::Invalid(mut counterexample), Some(at)) => {
                if !certify {
                    let told = counterexample.clone();
                    for state in counterexample.from.iter_mut().flat_map(|start| &mut start.held) {
                        *state = number_of(key, &told, *state);
                    }
                    explained(&operations, &counterexample, at)?;
                }
            }
            (verdict, _) => return Err(format!("the checker says {verdict:?}")),
        }
    }
    Ok(breaks_at.is_none())
}

/// What is wrong with a counterexample, if anything.
fn explained(
    operations: &[Operation],
    counterexample: &Counterexample,
    at: u32,
) -> Result<(), String> {
    if counterexample.breaks_at != at {
        return Err(format!("it breaks at {at}, not as {counterexample:?} says"));
    }
    let until = operations[at as usize].returned;
    let part: Vec<Operation> = counterexample
        .operations
        .iter()
        .map(|place| operations[*place as usize])
        .map(|op| Operation {
            returned: if op.returned > until { OPEN } else { op.returned },
            ..op
        })
        .collect();
    let has_order = match &counterexample.from {
        None => oracle(&part).is_none(),
        Some(start) => follows(operations, start, &part)?,
    };
    if has_order { Err(format!("{counterexample:?} has an order")) } else { Ok(()) }
}

/// Whether a part of a history has an order from what the key held at its start, in some way: each
/// operation that was under way then may have taken effect before.
fn follows(operations: &[Operation], start: &Start, part: &[Operation]) -> Result<bool, String> {
    let after = operations[start.after as usize].returned;
    let earlier: Vec<Operation> =
        operations.iter().copied().filter(|op| op.invoked < after).collect();
    if earlier.iter().all(|op| op.returned <= after) {
        // All was over then: what the key held can be read off.
        for value in 0..4 {
            let read = Operation { invoked: OPEN - 2, returned: OPEN - 1, step: Step::Read(value) };
            let with_read: Vec<Operation> = earlier.iter().copied().chain([read]).collect();
            if start.held.contains(&value) != oracle(&with_read).is_none() {
                return Err(format!("{value} may have been held after {start:?}, or may not"));
            }
        }
    }
    let under_way: Vec<usize> = (0..part.len())
        .filter(|at| part[*at].invoked < after && part[*at].returned != OPEN)
        .collect();
    Ok(start.held.iter().any(|state| {
        (0..1_u32 << under_way.len()).any(|done| {
            let is_done = |at| {
                under_way.iter().position(|other| *other == at).is_some_and(|n| done >> n & 1 == 1)
            };
            let first = Operation { invoked: 0, returned: 1, step: Step::Write(*state) };
            let rest = (0..part.len()).filter(|at| !is_done(*at)).map(|at| Operation {
                invoked: part[at].invoked.max(after) + 2,
                returned: part[at].returned.saturating_add(2),
                ..part[at]
            });
            oracle(&std::iter::once(first).chain(rest).collect::<Vec<_>>()).is_none()
        })
    }))
}

/// Takes operations away, one at a time, as long as the checker is still wrong.
fn shrink(mut observed: Vec<Observed>, appends: bool) -> Vec<Observed> {
    let mut at = 0;
    while at < observed.len() {
        let mut fewer = observed.clone();
        fewer.remove(at);
        if !fewer.is_empty() && judge(&fewer, appends).is_err() {
            observed = fewer;
            at = 0;
        } else {
            at += 1;
        }
    }
    observed
}

/// Tries many histories, on all cores.
fn fuzz(make: impl Fn(u64) -> Vec<Observed> + Sync, appends: bool) {
    let first = number("FUZZ_SEED", 0);
    let end = first + number("FUZZ_HISTORIES", HISTORIES);
    let next = AtomicU64::new(first);
    let valid = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(1000, Ordering::Relaxed);
                    for seed in from..(from + 1000).min(end) {
                        let observed = make(seed);
                        match judge(&observed, appends) {
                            Ok(is_valid) => {
                                valid.fetch_add(is_valid.into(), Ordering::Relaxed);
                            }
                            Err(why) => {
                                next.store(end, Ordering::Relaxed);
                                let small = shrink(observed, appends);
                                let now = judge(&small, appends).expect_err("it is still wrong");
                                let oracle = oracle(&told(&small));
                                panic!(
                                    "FUZZ_SEED={seed}: {why}\nin short: {now}\n\
                                     the search says {oracle:?} of {small:#?}"
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
    // Both answers must be common, or agreement means little.
    assert!(valid * 10 > all && valid * 10 < all * 9, "{valid} of {all} were valid");
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

/// Tier 2, with cas that succeed and that find something else.
#[test]
fn compare_and_swap() {
    fuzz(histories::with_cas, false);
}

/// Tier 2, with appends.
#[test]
fn appends() {
    fuzz(histories::with_appends, true);
}

/// Of two equal appends under way the one that returns first is to be buried under a put, so that
/// the other can be seen: found by a long run, and too rare for a short one.
#[test]
fn an_append_is_buried_and_its_equal_is_seen() {
    let observed = [
        (0, 6, Step::Append(1)),
        (1, 2, Step::Write(2)),
        (3, 8, Step::Append(1)),
        (4, 5, Step::Read(9)),
        (9, 13, Step::Read(39)),
        (10, 11, Step::Append(3)),
    ];
    let observed = observed.map(|(invoked, returned, step)| Observed {
        op: Operation { invoked, returned, step },
        silent: false,
    });
    assert_eq!(judge(&observed, true), Ok(true));
}
