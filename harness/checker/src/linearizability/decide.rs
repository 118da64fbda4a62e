//! Chooses the tier for a key and turns its result into a verdict. Does not know how the tiers
//! work.

use std::fmt;

use super::{
    Limits,
    counterexample::{self, Break, Counterexample},
    frontier::{self, Effort, States, Step, TimedStep},
    observations::{Encoding, PackedHistory},
    order,
    packed::{ABSENT, Access, RegisterHistory},
    portfolio::{self, Decision},
    verify::{self, Rejection},
    zones::{self, ZoneViolation},
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
    /// Steps of the search, after which another key was found not to be linearizable.
    Steps(u64),
}

impl fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitExceeded::Time(limit) => write!(f, "no verdict within {limit:?}"),
            LimitExceeded::Configurations(limit) => {
                write!(f, "no verdict with {limit} configurations at a time")
            }
            LimitExceeded::Steps(limit) => write!(
                f,
                "no verdict within {limit} steps, and no further search, since another key is not \
                 linearizable"
            ),
        }
    }
}

/// Decides the history of a key. With `certify`, a valid verdict comes with its certificate.
#[must_use]
pub fn decide(packed: &mut PackedHistory, limits: &Limits, certify: bool) -> Verdict {
    let outcome = search(packed, limits, u64::MAX, certify);
    explain_outcome(packed, outcome, limits, counterexample::STEPS_MAX)
}

/// A verdict without its counterexample, which takes more work.
#[derive(Debug)]
pub(super) enum Outcome {
    Valid(Certificate),
    Unknown(LimitExceeded),
    /// Not linearizable: tier 1's reason.
    Violation(ZoneViolation),
    /// Not linearizable: tier 2's reason.
    Break(Break),
}

impl Outcome {
    pub(super) fn is_invalid(&self) -> bool {
        matches!(self, Outcome::Violation(_) | Outcome::Break(_))
    }
}

/// Decides the history of a key within a number of steps, which does not concern tier 1.
pub(super) fn search(
    packed: &mut PackedHistory,
    limits: &Limits,
    steps: u64,
    certify: bool,
) -> Outcome {
    let mut effort = Effort::new(limits);
    effort.steps_max = steps;
    let mut by_portfolio = |operations: &[TimedStep], states: &mut States| {
        portfolio::decide(operations, states, limits, &mut effort, portfolio::IN_ORDER, certify)
    };
    let decision = match &mut packed.encoding {
        Encoding::Register(history) if history.unique => {
            let result = if certify {
                order::order(history).map(Some)
            } else {
                zones::check(history).map(|()| None)
            };
            return result.map_or_else(Outcome::Violation, Outcome::Valid);
        }
        Encoding::Register(history) => by_portfolio(&timed_steps(history), &mut States::default()),
        Encoding::Steps(operations, states) => by_portfolio(operations, states),
    };
    match decision {
        Decision::Valid(order) => Outcome::Valid(order),
        Decision::Unknown(limit) => Outcome::Unknown(limit),
        Decision::Invalid(found) => Outcome::Break(found),
    }
}

/// Adds the counterexample to an outcome, and spends at most this many steps on it.
pub(super) fn explain_outcome(
    packed: &mut PackedHistory,
    outcome: Outcome,
    limits: &Limits,
    steps: u64,
) -> Verdict {
    let counterexample = match (outcome, &mut packed.encoding) {
        (Outcome::Valid(order), _) => return Verdict::Valid(order),
        (Outcome::Unknown(limit), _) => return Verdict::Unknown(limit),
        (Outcome::Violation(violation), Encoding::Register(history)) => {
            counterexample::from_violation(history, violation)
        }
        (Outcome::Violation(_), Encoding::Steps(..)) => {
            unreachable!("tier 1 decides the other encoding")
        }
        (Outcome::Break(found), Encoding::Register(history)) => {
            let operations = timed_steps(history);
            counterexample::from_break(&operations, &mut States::default(), limits, found, steps)
        }
        (Outcome::Break(found), Encoding::Steps(operations, states)) => {
            counterexample::from_break(operations, states, limits, found, steps)
        }
    };
    Verdict::Invalid(Box::new(counterexample))
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
        Encoding::Steps(operations, states) => verify_steps(operations, states, order),
    }
}

/// Checks an order of steps with the independent verifier.
pub(super) fn verify_steps(
    operations: &[TimedStep],
    states: &States,
    order: &[u32],
) -> Result<(), Rejection> {
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

/// An interval as the verifier takes it.
fn time(invoked: u32, returned: u32) -> (u64, Option<u64>) {
    (u64::from(invoked), (returned != frontier::OPEN).then_some(u64::from(returned)))
}
