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
//! - A write takes effect before its return is due only if an open operation can observe it; an
//!   indeterminate operation, only if it leads to a state that an open operation observes, by itself or by
//!   indeterminate cas.
//! - An indeterminate operation whose effect nothing observes after its invocation is left out.
//! - All states that nobody can observe any more are equivalent.
//! - A configuration is dropped if another one dominates it, that is, can do everything it can.
//!
//! With many indeterminate operations the configurations that differ in those used alone are the many.
//! [`Overflow`] says what to do with them: keep all, or become sound for one of the two verdicts only.

mod config;
mod expansion;
mod observability;
mod spending;
mod steps;
#[cfg(test)]
mod tests;
mod trail;
mod visited;

use std::time::Duration;

use super::deadline::Deadline;

pub use self::spending::Weights;
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
        /// The operation whose return ends a prefix without an order, by position.
        breaks_at: u32,
        /// The states that were possible right before, sorted, without [`UNOBSERVABLE`].
        states: Vec<u32>,
        /// It is the shortest such prefix, and exactly these states were possible.
        is_shortest: bool,
    },
    /// Neither is known, since configurations were dropped or joined.
    Undecided {
        /// The operation at whose return no configuration was left, by position.
        stuck_at: Option<u32>,
    },
    /// The configurations take more memory than allowed.
    TooManyConfigs,
    /// The steps are used up.
    OutOfSteps,
    /// The time limit has passed.
    TimedOut,
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

/// What happens to configurations that differ in the indeterminate operations used, if there are more
/// of them than a width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// All are kept: the frontier is exact.
    Keep,
    /// Those that cost the least are kept: if the end is reached, the history is linearizable.
    Drop {
        /// The most that are kept.
        width: usize,
        /// When an operation returns, the search for those to keep ends with this many times as many.
        search: usize,
    },
    /// The nearest are joined, so that of those that are alike but for what they used at most this many
    /// remain: if no configuration remains, the history is not linearizable.
    Join(usize),
}

/// What has been spent and may be spent, by one frontier or several one after the other.
#[derive(Debug)]
pub struct Effort {
    /// Steps so far. A step expands a configuration, or compares a few.
    pub steps: u64,
    /// The most steps.
    pub steps_max: u64,
    /// The most configurations.
    pub configurations: usize,
    /// The time limit.
    deadline: Deadline,
}

impl Effort {
    /// No steps so far, and no limit to them.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Effort {
            steps: 0,
            steps_max: u64::MAX,
            configurations: limits.configurations,
            deadline: Deadline::new(limits.time),
        }
    }

    /// Lets `run` take at most this many steps.
    pub fn within<R>(&mut self, steps: u64, run: impl FnOnce(&mut Effort) -> R) -> R {
        let all = self.steps_max;
        self.steps_max = all.min(self.steps.saturating_add(steps));
        let result = run(self);
        self.steps_max = all;
        result
    }

    /// Whether the steps are used up.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.steps > self.steps_max
    }

    /// The limit that is exceeded with this many configurations in memory, if any.
    fn exceeded(&mut self, configurations: usize) -> Option<StopReason> {
        if configurations > self.configurations {
            return Some(StopReason::TooManyConfigs);
        }
        if self.is_used_up() {
            return Some(StopReason::OutOfSteps);
        }
        self.deadline.has_passed().then_some(StopReason::TimedOut)
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
    let effort = &mut Effort::new(limits);
    follow(operations, states, Overflow::Keep, &Weights::default(), effort, order)
}

/// Like [`check`], with a way to deal with too many configurations.
#[must_use]
pub fn follow(
    operations: &[TimedStep],
    states: &mut States,
    overflow: Overflow,
    weights: &Weights,
    effort: &mut Effort,
    order: bool,
) -> FrontierResult {
    let observability = Observability::new(operations, states);
    let mut frontier = Frontier::new(operations, states, observability, order, overflow, weights);
    let stopped = frontier.run(effort, |_, _| {});
    let is_inexact = frontier.is_inexact;
    match (stopped, overflow) {
        (None, Overflow::Join(_)) if is_inexact => FrontierResult::Undecided { stuck_at: None },
        (None, _) => FrontierResult::Valid(if order { frontier.order() } else { Vec::new() }),
        (Some((position, StopReason::NoConfig(_))), Overflow::Drop { .. }) if is_inexact => {
            FrontierResult::Undecided { stuck_at: Some(position) }
        }
        (Some((position, StopReason::NoConfig(states))), _) => {
            FrontierResult::Invalid { breaks_at: position, states, is_shortest: !is_inexact }
        }
        (Some((_, StopReason::TooManyConfigs)), _) => FrontierResult::TooManyConfigs,
        (Some((_, StopReason::OutOfSteps)), _) => FrontierResult::OutOfSteps,
        (Some((_, StopReason::TimedOut)), _) => FrontierResult::TimedOut,
    }
}

/// The states that are possible right after each return, for messages: by position of the operations
/// in the order of their returns, up to the first impossible return. An open operation that nobody
/// has observed may still change the state. `None` if it takes more than the limits allow.
pub(super) fn possible_states(
    operations: &[TimedStep],
    states: &mut States,
    effort: &mut Effort,
) -> Option<Vec<(u32, Vec<u32>)>> {
    let observability = Observability::new(operations, states).unlimited();
    let weights = &Weights::default();
    let mut frontier =
        Frontier::new(operations, states, observability, false, Overflow::Keep, weights);
    let mut possible = Vec::new();
    let stopped = frontier.run(effort, |position, configs| {
        possible.push((position, states_of(configs)));
    });
    matches!(stopped, None | Some((_, StopReason::NoConfig(_)))).then_some(possible)
}
