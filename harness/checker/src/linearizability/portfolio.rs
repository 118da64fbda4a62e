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
    counterexample::Break,
    decide::{LimitExceeded, verify_steps},
    frontier::{Effort, FrontierResult, Limits, Overflow, States, TimedStep, Weights, follow},
};

/// Steps of each method in the first round, and for each operation. They are quadrupled from round to
/// round.
const FIRST_STEPS: u64 = 50_000;
const STEPS_PER_OPERATION: u64 = 20;

/// The widths to begin with. A width is doubled when a method has come to an end without a decision.
const DIVE_WIDTH: usize = 4;
const JOIN_WIDTH: usize = 1;

/// What a dive does with a width, in turn: see [`Overflow::Drop`]. The one is fast, the other finds more.
const SEARCHES: [usize; 2] = [1, 3];

/// What the methods found.
pub(super) enum Decision {
    /// Linearizable. If an order was requested: the operations that took effect, in an order that shows
    /// it, unless it takes more memory than allowed.
    Valid(Option<Vec<u32>>),
    /// Not linearizable.
    Invalid(Break),
    /// Not decided within the limits.
    Unknown(LimitExceeded),
}

/// A method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Exact,
    Dive,
    Join,
}

/// The order of the methods. A short dive decides most valid histories, and is exact as long as it has
/// to drop nothing. What the exact frontier finds needs no search for the shortest prefix.
pub(super) const IN_ORDER: [Method; 3] = [Method::Dive, Method::Exact, Method::Join];

/// A method's turn.
enum Turn {
    Decided(Decision),
    /// It needs more steps.
    OutOfSteps,
    /// It needs more memory than allowed.
    OutOfMemory,
}

/// The methods on one history, and what they have learned.
struct Portfolio<'a> {
    operations: &'a [TimedStep],
    states: &'a mut States,
    limits: &'a Limits,
    certify: bool,
    /// The trails of an exact frontier take memory: if they take too much, it does without.
    trails: bool,
    dives: usize,
    dive_width: usize,
    join_width: usize,
    weights: Weights,
}

/// Decides the history of a key. With `certify`, a valid decision comes with an order.
///
/// # Panics
/// If the verifier rejects the order that a dive found, which is a bug of this crate.
pub(super) fn decide(
    operations: &[TimedStep],
    states: &mut States,
    limits: &Limits,
    effort: &mut Effort,
    methods: [Method; 3],
    certify: bool,
) -> Decision {
    let mut portfolio = Portfolio {
        operations,
        states,
        limits,
        certify,
        trails: certify,
        dives: 0,
        dive_width: DIVE_WIDTH,
        join_width: JOIN_WIDTH,
        weights: Weights::default(),
    };
    let mut steps = FIRST_STEPS + STEPS_PER_OPERATION * operations.len() as u64;
    let mut methods = methods.to_vec();
    while !methods.is_empty() {
        let mut decision = None;
        methods.retain(|method| {
            if decision.is_some() {
                return true;
            }
            match effort.within(steps, |effort| portfolio.turn(*method, effort)) {
                Turn::Decided(found) => decision = Some(found),
                Turn::OutOfSteps => {}
                Turn::OutOfMemory => return false,
            }
            true
        });
        if let Some(decision) = decision {
            return decision;
        }
        if effort.is_used_up() {
            return Decision::Unknown(LimitExceeded::Steps(effort.steps_max));
        }
        steps = steps.saturating_mul(4);
    }
    Decision::Unknown(LimitExceeded::Configurations(limits.configurations))
}

impl Portfolio<'_> {
    /// Lets a method search until it has decided, or its steps are used up.
    fn turn(&mut self, method: Method, effort: &mut Effort) -> Turn {
        loop {
            let (overflow, order) = match method {
                Method::Exact => (Overflow::Keep, self.trails),
                // What a dive finds is verified in any case. Its trail takes little memory.
                Method::Dive => {
                    let search = SEARCHES[self.dives % SEARCHES.len()];
                    (Overflow::Drop { width: self.dive_width, search }, true)
                }
                Method::Join => (Overflow::Join(self.join_width), false),
            };
            let Portfolio { operations, states, weights, .. } = self;
            let result = follow(operations, states, overflow, weights, effort, order);
            match result {
                FrontierResult::Valid(found) => {
                    if method == Method::Dive
                        && let Err(rejection) = verify_steps(operations, states, &found)
                    {
                        panic!("the order that a dive found is wrong: {rejection}");
                    }
                    let found = (order && self.certify).then_some(found);
                    return Turn::Decided(Decision::Valid(found));
                }
                FrontierResult::Invalid { breaks_at, states, is_shortest } => {
                    return Turn::Decided(Decision::Invalid(Break {
                        at: breaks_at,
                        states,
                        is_shortest,
                    }));
                }
                FrontierResult::TimedOut => {
                    let limit = LimitExceeded::Time(self.limits.time);
                    return Turn::Decided(Decision::Unknown(limit));
                }
                FrontierResult::OutOfSteps => return Turn::OutOfSteps,
                FrontierResult::TooManyConfigs if method == Method::Exact && self.trails => {
                    self.trails = false;
                }
                FrontierResult::TooManyConfigs => return Turn::OutOfMemory,
                FrontierResult::Undecided { stuck_at } => self.learn(method, stuck_at),
            }
        }
    }

    /// An attempt has come to an end without a decision.
    fn learn(&mut self, method: Method, stuck_at: Option<u32>) {
        match method {
            Method::Dive => {
                self.dives += 1;
                if self.dives.is_multiple_of(SEARCHES.len()) {
                    self.dive_width = self.dive_width.saturating_mul(2);
                }
            }
            _ => self.join_width = self.join_width.saturating_mul(2),
        }
        if let Some(at) = stuck_at {
            self.weights.learn(self.operations[at as usize].step);
        }
    }
}
