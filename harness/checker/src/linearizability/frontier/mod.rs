//! Tier 2: decides any history of one key by following, event by event, the set of all
//! configurations that are possible. Memory is that set alone. Handles registers with put, del, get
//! and cas, and texts with append.
//!
//! A *configuration* is a state that the key may have, together with the open operations that have
//! already taken effect and the number of indeterminate ones of each class that have. Just-in-time
//! linearization (Lowe 2017): a configuration is expanded only when an operation returns that has
//! not taken effect in it, and only until it has. Reductions, all exact:
//!
//! - A matching read takes effect at once: it changes nothing.
//! - Equal indeterminate operations form a class with a count.
//! - Of equal open operations the one that returns first takes effect first. An indeterminate one
//!   takes effect only when no equal operation is open that returns. An append that can be hidden
//!   (below) is not equal to one that cannot: the one costs nothing, the other has to be observed.
//! - *Hiding*: a blind write or append that nobody observes may as well have taken effect right
//!   before a blind write that took effect while it was open. So no choice is made when that write
//!   takes effect. The configuration records when it last did, and an operation that was invoked
//!   before may return without changing the state.
//! - A write takes effect before its return is due only if an open operation can observe it.
//! - All states that nobody can observe any more are equivalent.
//! - A configuration is dropped if another one dominates it, that is, can do everything it can.

mod config;
mod expansion;
mod observability;
mod steps;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::steps::{OPEN, States, Step, TimedStep, UNOBSERVABLE};
use self::{
    expansion::{Frontier, StopReason, states_of},
    observability::Observability,
};

/// The result for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrontierResult {
    /// Linearizable. If an order was requested: the operations that took effect, in an order that
    /// shows it.
    Valid(Vec<u32>),
    /// Not linearizable.
    Invalid {
        /// The operation whose return ends the shortest prefix without an order, by position.
        breaks_at: u32,
        /// The states that were possible right before, sorted, without [`UNOBSERVABLE`].
        states: Vec<u32>,
    },
    /// More configurations are needed than this limit allows.
    TooManyConfigs(usize),
    /// This time limit has passed.
    TimedOut(Duration),
}

/// Memory of a configuration with up to a dozen classes, in bytes, an upper estimate. In a hash set
/// that is about to grow a configuration takes 220 bytes (measured with 220 thousand and 1.6 million
/// of them), of which 83 are its bucket. A set that has just grown has two buckets for each, and
/// during the growth the old buckets exist as well.
pub const CONFIGURATION_BYTES: usize = 384;

/// What deciding one key may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Configurations at a time, of [`CONFIGURATION_BYTES`] each. A larger one counts as several.
    pub configurations: usize,
    /// Time.
    pub time: Duration,
}

impl Default for Limits {
    /// A million configurations, which take at most 384 MiB, and a minute.
    fn default() -> Self {
        Limits { configurations: 1 << 20, time: Duration::from_secs(60) }
    }
}

/// Decides the history of one key. Operations must be in the order of their invocations, and reads
/// must have returned. With `order`, a valid result comes with an order of the operations.
#[must_use]
pub fn check(
    operations: &[TimedStep],
    states: &mut States,
    limits: &Limits,
    order: bool,
) -> FrontierResult {
    let observability = Observability::new(operations, states);
    let mut frontier = Frontier::new(operations, states, observability, order);
    match frontier.run(limits, |_, _| {}) {
        None => FrontierResult::Valid(if order { frontier.order() } else { Vec::new() }),
        Some((position, StopReason::NoConfig(states))) => {
            FrontierResult::Invalid { breaks_at: position, states }
        }
        Some((_, StopReason::TooManyConfigs)) => {
            FrontierResult::TooManyConfigs(limits.configurations)
        }
        Some((_, StopReason::TimedOut)) => FrontierResult::TimedOut(limits.time),
    }
}

/// The states that are possible right after each return, for messages: by position of the operations
/// in the order of their returns, up to the first impossible return. An open operation that nobody
/// has observed may still change the state. `None` if it takes more than the limits allow.
pub(super) fn possible_states(
    operations: &[TimedStep],
    states: &mut States,
    limits: &Limits,
) -> Option<Vec<(u32, Vec<u32>)>> {
    let observability = Observability::new(operations, states).unlimited();
    let mut frontier = Frontier::new(operations, states, observability, false);
    let mut possible = Vec::new();
    let stopped = frontier.run(limits, |position, configs| {
        possible.push((position, states_of(configs)));
    });
    matches!(stopped, None | Some((_, StopReason::NoConfig(_)))).then_some(possible)
}
