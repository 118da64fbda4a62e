//! Chooses the tier for a key and turns its result into a verdict. Does not know how the tiers
//! work.

use std::fmt;

use super::{
    Limits,
    counterexample::{self, Counterexample},
    frontier::{self, Effort, States, Step, TimedStep},
    observations::{Encoding, PackedHistory},
    order,
    packed::{ABSENT, Access, RegisterHistory},
    portfolio::{self, Decision},
    verify::{self, Rejection},
    zones,
};

/// The answer to "is it linearizable?", with the evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Linearizable, with the certificate if one was requested.
    Valid(Certificate),
    /// Not linearizable, with a counterexample.
    Invalid(Box<Counterexample>),
    /// Deciding takes more than the limits allow.
    Unknown(LimitExceeded),
}

/// The operations that took effect, by position, in the order of their linearization points. `None`
/// if no certificate was requested or it would take more memory than allowed.
pub type Certificate = Option<Vec<u32>>;

/// The limit that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitExceeded {
    /// Time.
    Time(std::time::Duration),
    /// Configurations held at a time.
    Configurations(usize),
    /// Steps of the search.
    Steps(u64),
}

impl fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitExceeded::Time(limit) => write!(f, "no verdict within {limit:?}"),
            LimitExceeded::Configurations(limit) => {
                write!(f, "no verdict with {limit} configurations at a time")
            }
            LimitExceeded::Steps(limit) => write!(f, "no verdict within {limit} steps"),
        }
    }
}

/// Decides the history of a key. With `certify`, a valid verdict comes with its certificate.
#[must_use]
pub fn decide(packed: &mut PackedHistory, limits: &Limits, certify: bool) -> Verdict {
    match &mut packed.encoding {
        Encoding::Register(history) if history.unique => by_zones(history, certify),
        Encoding::Register(history) => {
            let operations = timed_steps(history);
            by_search(&operations, &mut States::default(), limits, certify)
        }
        Encoding::Steps(operations, states) => by_search(operations, states, limits, certify),
    }
}

fn by_zones(history: &RegisterHistory, certify: bool) -> Verdict {
    let result = if certify {
        order::order(history).map(Some)
    } else {
        zones::check(history).map(|()| None)
    };
    match result {
        Ok(certificate) => Verdict::Valid(certificate),
        Err(violation) => {
            Verdict::Invalid(Box::new(counterexample::from_violation(history, violation)))
        }
    }
}

fn by_search(
    operations: &[TimedStep],
    states: &mut States,
    limits: &Limits,
    certify: bool,
) -> Verdict {
    let effort = &mut Effort::new(limits);
    match portfolio::decide(operations, states, limits, effort, portfolio::IN_ORDER, certify) {
        Decision::Valid(order) => Verdict::Valid(order),
        Decision::Unknown(limit) => Verdict::Unknown(limit),
        Decision::Invalid { breaks_at, states: possible, is_shortest } => {
            let found = counterexample::Break { at: breaks_at, states: possible, is_shortest };
            Verdict::Invalid(Box::new(counterexample::from_break(
                operations, states, limits, found,
            )))
        }
    }
}

/// The steps of a register history, as tier 2 takes them.
#[must_use]
pub fn timed_steps(history: &RegisterHistory) -> Vec<TimedStep> {
    let step = |what| match what {
        Access::Write(value) => Step::Write(value),
        Access::Read(value) => Step::Read(value),
    };
    history
        .ops
        .iter()
        .map(|op| TimedStep { invoked: op.invoked, returned: op.returned, step: step(op.access) })
        .collect()
}

/// Checks a certificate with the independent verifier.
///
/// # Errors
/// The certificate is wrong.
pub fn verify_order(packed: &PackedHistory, order: &[u32]) -> Result<(), Rejection> {
    let time = |invoked: u32, returned: u32| {
        (u64::from(invoked), (returned != frontier::OPEN).then_some(u64::from(returned)))
    };
    match &packed.encoding {
        Encoding::Register(history) => {
            let times = history.ops.iter().map(|op| time(op.invoked, op.returned));
            let mut held = ABSENT;
            verify::verify(times, order, |position| match history.ops[position as usize].access {
                Access::Write(value) => {
                    held = value;
                    true
                }
                Access::Read(value) => value == held,
            })
        }
        Encoding::Steps(operations, states) => {
            let times = operations.iter().map(|op| time(op.invoked, op.returned));
            let text = |state: u32| match states.text(state) {
                Some(text) => text.to_vec(),
                None => state.to_le_bytes().to_vec(),
            };
            let mut held = text(ABSENT);
            verify::verify(times, order, |position| match operations[position as usize].step {
                Step::Write(value) => {
                    held = text(value);
                    true
                }
                Step::Append(more) => {
                    held.extend(text(more));
                    true
                }
                Step::Read(value) => held == text(value),
                Step::Mismatch(from) => held != text(from),
                Step::Cas(from, to) => {
                    let swaps = held == text(from);
                    held = text(to);
                    swaps
                }
            })
        }
    }
}
