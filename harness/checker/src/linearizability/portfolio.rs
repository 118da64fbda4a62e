//! Decides a key with several methods in turn, each within a budget of steps that grows from round to
//! round. Steps are counted, so the same history gets the same verdict from the same method on any
//! machine; the clock only ends the search.

use super::{
    decide::LimitExceeded,
    frontier::{Effort, FrontierResult, Limits, Overflow, States, TimedStep, follow},
};

/// Steps of the first round, for each method.
const FIRST_ROUND: u64 = 100_000;

/// The factor by which budgets and widths grow from one round to the next.
const GROWTH: u32 = 4;

/// The widths of the first round.
const DIVE_WIDTH: usize = 8;
const JOIN_WIDTH: usize = 2;

/// What the methods found.
pub(super) enum Decision {
    /// Linearizable, with an order of the operations that took effect if there is one.
    Valid(Option<Vec<u32>>),
    /// Not linearizable. The fields are those of [`FrontierResult::Invalid`].
    Invalid { breaks_at: u32, states: Vec<u32>, is_shortest: bool },
    /// Not decided within the limits.
    Unknown(LimitExceeded),
}

/// Decides the history of a key.
pub(super) fn decide(
    operations: &[TimedStep],
    states: &mut States,
    limits: &Limits,
    effort: &mut Effort,
    certify: bool,
) -> Decision {
    let methods: Vec<char> =
        std::env::var("METHODS").unwrap_or("edj".to_owned()).chars().collect();
    let mut certify_exact = certify;
    for round in 0_u32.. {
        let growth = (GROWTH as usize).saturating_pow(round);
        let mut all_full = true;
        for method in &methods {
            let (overflow, order) = match method {
                'e' => (Overflow::Keep, certify_exact),
                'd' => (Overflow::Drop(DIVE_WIDTH.saturating_mul(1 << round)), true),
                _ => (Overflow::Join(JOIN_WIDTH.saturating_mul(1 << round)), false),
            };
            effort.steps_max =
                effort.steps.saturating_add(FIRST_ROUND.saturating_mul(growth as u64));
            let before = effort.steps;
            let result = follow(operations, states, overflow, effort, order);
            if std::env::var("TRACE").is_ok() {
                let what = match &result {
                    FrontierResult::Valid(_) => "valid".to_owned(),
                    other => format!("{other:?}"),
                };
                println!("    {round} {overflow:?}: {what} {} steps", effort.steps - before);
            }
            match result {
                FrontierResult::Valid(found) => {
                    return Decision::Valid((order && certify).then_some(found));
                }
                FrontierResult::Invalid { breaks_at, states, is_shortest } => {
                    return Decision::Invalid { breaks_at, states, is_shortest };
                }
                FrontierResult::TimedOut => {
                    return Decision::Unknown(LimitExceeded::Time(limits.time));
                }
                FrontierResult::TooManyConfigs if *method == 'e' && certify_exact => {
                    certify_exact = false;
                    all_full = false;
                }
                FrontierResult::TooManyConfigs => {}
                FrontierResult::Undecided | FrontierResult::OutOfSteps => all_full = false,
            }
        }
        if all_full {
            break;
        }
    }
    Decision::Unknown(LimitExceeded::Configurations(limits.configurations))
}
