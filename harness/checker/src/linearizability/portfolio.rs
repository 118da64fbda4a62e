//! Decides a key with several methods in turn, each within a budget that grows from round to round. No
//! method is the fastest on every history:
//!
//! - the exact frontier decides both ways, unless there are too many configurations;
//! - a *dive* keeps the few configurations that used the fewest indeterminate operations. If one
//!   reaches the end, its trail is an order: valid. If none does, nothing is known;
//! - a *join* keeps few configurations by replacing those that are nearest to each other by one that can
//!   do everything that either can. If none is left, nothing is possible: invalid. If one reaches the
//!   end, nothing is known.
//!
//! Budgets are counted in steps, and the methods have a fixed order. So the same history gets the same
//! verdict from the same method on any machine, unless the clock ends the search first: then the verdict
//! is unknown.

use super::{
    decide::LimitExceeded,
    frontier::{Effort, FrontierResult, Limits, Overflow, States, TimedStep, follow},
};

/// Steps of each method in the first round. They are quadrupled from round to round, and the widths
/// doubled.
const FIRST_STEPS: u64 = 100_000;

/// The widths of the first round.
const DIVE_WIDTH: usize = 8;
const JOIN_WIDTH: usize = 2;

/// What the methods found.
pub(super) enum Decision {
    /// Linearizable. If an order was requested: the operations that took effect, in an order that shows
    /// it, unless it takes more memory than allowed.
    Valid(Option<Vec<u32>>),
    /// Not linearizable. The fields are those of [`FrontierResult::Invalid`].
    Invalid { breaks_at: u32, states: Vec<u32>, is_shortest: bool },
    /// Not decided within the limits.
    Unknown(LimitExceeded),
}

/// Decides the history of a key. With `certify`, a valid decision comes with an order.
pub(super) fn decide(
    operations: &[TimedStep],
    states: &mut States,
    limits: &Limits,
    effort: &mut Effort,
    certify: bool,
) -> Decision {
    // The trails of an exact frontier take memory: if they take too much, it is tried without.
    let mut trails = certify;
    for round in 0_u32.. {
        let steps = FIRST_STEPS.saturating_mul(4_u64.saturating_pow(round));
        let width = |first: usize| first.saturating_mul(2_usize.saturating_pow(round));
        let mut is_limited_by_memory = true;
        for overflow in
            [Overflow::Keep, Overflow::Drop(width(DIVE_WIDTH)), Overflow::Join(width(JOIN_WIDTH))]
        {
            // The trail of a dive is short, and costs little.
            let order = matches!(overflow, Overflow::Drop(_)) && certify
                || overflow == Overflow::Keep && trails;
            let result =
                effort.within(steps, |effort| follow(operations, states, overflow, effort, order));
            if std::env::var("TRACE").is_ok() {
                let what = match &result {
                    FrontierResult::Valid(_) => "valid".to_owned(),
                    other => format!("{other:?}"),
                };
                println!("    {round} {overflow:?}: {what} {} steps", effort.steps);
            }
            match result {
                FrontierResult::Valid(found) => return Decision::Valid(order.then_some(found)),
                FrontierResult::Invalid { breaks_at, states, is_shortest } => {
                    return Decision::Invalid { breaks_at, states, is_shortest };
                }
                FrontierResult::TimedOut => {
                    return Decision::Unknown(LimitExceeded::Time(limits.time));
                }
                FrontierResult::TooManyConfigs if overflow == Overflow::Keep && trails => {
                    trails = false;
                    is_limited_by_memory = false;
                }
                FrontierResult::TooManyConfigs => {}
                FrontierResult::Undecided | FrontierResult::OutOfSteps => {
                    is_limited_by_memory = false;
                }
            }
        }
        if effort.is_used_up() {
            return Decision::Unknown(LimitExceeded::Steps(effort.steps_max));
        }
        if is_limited_by_memory {
            break;
        }
    }
    Decision::Unknown(LimitExceeded::Configurations(limits.configurations))
}
