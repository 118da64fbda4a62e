//! Chooses the tier for a key and makes its answer a verdict. Knows the tiers, not how they work.

use std::fmt;

use super::{
    Limits,
    counterexample::{self, Counterexample},
    frontier::{self, Answer, Operation, States, Step},
    key::{KeyHistory, NOTHING, What},
    keys::{Packed, Shape},
    order,
    verify::{self, Refusal},
    zones,
};

/// The answer to "is it linearizable?", with what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes: this shows it.
    Valid(Certificate),
    /// No: this shows it.
    Invalid(Box<Counterexample>),
    /// It would take more than the limits allow.
    Unknown(Exhausted),
}

/// The operations that took effect, by their places, in the order of their linearization points;
/// none if it was not asked for, or would take more memory than allowed.
pub type Certificate = Option<Vec<u32>>;

/// Which limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// The time.
    Time(std::time::Duration),
    /// The configurations that may be possible at a time.
    Configurations(usize),
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exhausted::Time(limit) => write!(f, "no answer within {limit:?}"),
            Exhausted::Configurations(limit) => {
                write!(f, "no answer with {limit} configurations at a time")
            }
        }
    }
}

/// Decides the history of a key; with `certify`, a valid one comes with its certificate.
#[must_use]
pub fn decide(packed: &mut Packed, limits: &Limits, certify: bool) -> Verdict {
    match &mut packed.shape {
        Shape::Plain(history) if history.unique => by_zones(history, certify),
        Shape::Plain(history) => {
            let operations = general(history);
            by_frontier(&operations, &mut States::default(), limits, certify)
        }
        Shape::General(operations, states) => by_frontier(operations, states, limits, certify),
    }
}

fn by_zones(history: &KeyHistory, certify: bool) -> Verdict {
    let answer = if certify {
        order::order(history).map(Some)
    } else {
        zones::check(history).map(|()| None)
    };
    match answer {
        Ok(certificate) => Verdict::Valid(certificate),
        Err(violation) => {
            Verdict::Invalid(Box::new(counterexample::of_violation(history, violation)))
        }
    }
}

fn by_frontier(
    operations: &[Operation],
    states: &mut States,
    limits: &Limits,
    certify: bool,
) -> Verdict {
    let mut answer = frontier::check(operations, states, limits, certify);
    let mut certify = certify;
    if certify && matches!(answer, Answer::TooMany(_)) {
        // Remembering how each configuration came to be takes memory as well.
        certify = false;
        answer = frontier::check(operations, states, limits, certify);
    }
    match answer {
        Answer::Valid(order) => Verdict::Valid(certify.then_some(order)),
        Answer::TooMany(limit) => Verdict::Unknown(Exhausted::Configurations(limit)),
        Answer::Late(limit) => Verdict::Unknown(Exhausted::Time(limit)),
        Answer::Invalid { breaks_at, states: possible } => Verdict::Invalid(Box::new(
            counterexample::of_stuck(operations, states, limits, breaks_at, possible),
        )),
    }
}

/// A plain history in the terms of tier 2.
#[must_use]
pub fn general(history: &KeyHistory) -> Vec<Operation> {
    let step = |what| match what {
        What::Write(value) => Step::Write(value),
        What::Read(value) => Step::Read(value),
    };
    history
        .ops
        .iter()
        .map(|op| Operation { invoked: op.invoked, returned: op.returned, step: step(op.what) })
        .collect()
}

/// Judges a certificate by the independent verifier.
///
/// # Errors
/// What is wrong with it.
pub fn accept(packed: &Packed, order: &[u32]) -> Result<(), Refusal> {
    let time = |invoked: u32, returned: u32| {
        (u64::from(invoked), (returned != frontier::OPEN).then_some(u64::from(returned)))
    };
    match &packed.shape {
        Shape::Plain(history) => {
            let times = history.ops.iter().map(|op| time(op.invoked, op.returned));
            let mut held = NOTHING;
            verify::verify(times, order, |place| match history.ops[place as usize].what {
                What::Write(value) => {
                    held = value;
                    true
                }
                What::Read(found) => found == held,
            })
        }
        Shape::General(operations, states) => {
            let times = operations.iter().map(|op| time(op.invoked, op.returned));
            let text = |state: u32| match states.text(state) {
                Some(text) => text.to_vec(),
                None => state.to_le_bytes().to_vec(),
            };
            let mut held = text(NOTHING);
            verify::verify(times, order, |place| match operations[place as usize].step {
                Step::Write(value) => {
                    held = text(value);
                    true
                }
                Step::Append(more) => {
                    held.extend(text(more));
                    true
                }
                Step::Read(found) => held == text(found),
                Step::Differs(from) => held != text(from),
                Step::Cas(from, to) => {
                    let swaps = held == text(from);
                    held = text(to);
                    swaps
                }
            })
        }
    }
}
