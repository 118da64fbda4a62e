//! The tiers of the linearizability checker against each other, on a great many small histories.
//! The plain search is the oracle. On a mismatch the history is made as small as it still
//! disagrees, and printed with the seed. Certificates go through the verifier, and counterexamples
//! are held against the oracle too.
//!
//! `FUZZ_HISTORIES=25000000 cargo test --release -p harness --test fuzz` for a long run; each seed
//! is a history, from `FUZZ_SEED` (0) on.

mod histories;

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use harness::checker::linearizability::{
    Bounds, Call, Counterexample, Found, Limits, Packed, Shape, Verdict, accept, decide,
    frontier::{OPEN, Operation, States, Step},
    key::{KeyHistory, Op, What},
    search,
};
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

/// As the checker packs it: plain if it can be.
fn packed(operations: &[Operation], appends: bool) -> Packed {
    let plain: Option<Vec<Op>> = operations
        .iter()
        .map(|op| {
            let what = match op.step {
                Step::Write(value) => What::Write(value),
                Step::Read(value) => What::Read(value),
                _ => return None,
            };
            Some(Op { invoked: op.invoked, returned: op.returned, what })
        })
        .collect();
    let numbers = (0_u32..).take(operations.len()).collect();
    let shape = match plain {
        Some(ops) if !appends => Shape::Plain(KeyHistory::new(ops)),
        _ => Shape::General(operations.to_vec(), states(appends)),
    };
    Packed { shape, numbers }
}

/// Texts for the numbers that a small history can reach.
fn states(appends: bool) -> States {
    if !appends {
        return States::default();
    }
    let mut states = States::with_texts();
    let text = |number: u32| -> Vec<u8> {
        let mut digits = Vec::new();
        let mut rest = number;
        while rest > 0 {
            digits.push(b'0' + u8::try_from(rest % 4).expect("a digit"));
            rest /= 4;
        }
        digits.reverse();
        digits
    };
    // A number with a digit 0 is no text; it gets one that nothing else has.
    for number in 0..256 {
        let digits = text(number);
        let given = if digits.contains(&b'0') { format!("x{number}").into_bytes() } else { digits };
        assert_eq!(states.number(&given), number);
    }
    states
}

/// What is wrong with the checker's answer, if anything.
fn judge(operations: &[Operation], appends: bool) -> Result<bool, String> {
    let breaks_at = oracle(operations);
    for certify in [false, true] {
        let mut packed = packed(operations, appends);
        match (decide(&mut packed, &Limits::default(), certify), breaks_at) {
            (Verdict::Valid(order), None) => {
                if let Some(order) = order {
                    accept(&packed, &order)?;
                }
            }
            (Verdict::Invalid(counterexample), Some(at)) => {
                if !certify {
                    explained(operations, &counterexample, at)?;
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
    if oracle(&part).is_none() {
        return Err(format!("{counterexample:?} has an order"));
    }
    Ok(())
}

/// Takes operations away, one at a time, as long as the checker is still wrong.
fn shrink(mut operations: Vec<Operation>, appends: bool) -> Vec<Operation> {
    let mut at = 0;
    while at < operations.len() {
        let mut fewer = operations.clone();
        fewer.remove(at);
        if judge(&fewer, appends).is_err() {
            operations = fewer;
            at = 0;
        } else {
            at += 1;
        }
    }
    operations
}

/// Tries many histories, on all cores.
fn fuzz(make: impl Fn(u64) -> Vec<Operation> + Sync, appends: bool) {
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
                        let operations = make(seed);
                        match judge(&operations, appends) {
                            Ok(is_valid) => {
                                valid.fetch_add(is_valid.into(), Ordering::Relaxed);
                            }
                            Err(why) => {
                                next.store(end, Ordering::Relaxed);
                                let small = shrink(operations, appends);
                                let now = judge(&small, appends).expect_err("it is still wrong");
                                let oracle = oracle(&small);
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
