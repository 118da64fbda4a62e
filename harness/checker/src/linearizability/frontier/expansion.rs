//! Follows the set of possible configurations through the events of a history.

use std::collections::{HashMap, HashSet};

use ahash::RandomState;
use smallvec::SmallVec;

use super::{
    CONFIGURATION_BYTES, Effort, Overflow,
    config::{Antichain, Config, OpenSlots, OpenStep, Words, clear, has, set},
    observability::Observability,
    spending::{Spending, Weights},
    steps::{OPEN, States, Step, TimedStep, UNOBSERVABLE, slots_needed},
    trail::{Link, NO_LINK, link, order},
    visited::Visited,
};

/// Comparisons of configurations, and bytes of texts, that take about as long as the rest of a step.
const COMPARISONS_PER_STEP: u64 = 16;
const BYTES_PER_STEP: u64 = 64;

/// Why a frontier stops before the end of the history.
pub(super) enum StopReason {
    /// No configuration is possible. These states were possible right before.
    NoConfig(Vec<u32>),
    /// The configurations take more memory than allowed.
    TooManyConfigs,
    /// The steps are used up.
    OutOfSteps,
    TimedOut,
}

/// The distinct states of configurations, sorted.
pub(super) fn states_of(configs: &[Config]) -> Vec<u32> {
    let mut states: Vec<u32> = configs.iter().map(|config| config.state).collect();
    states.sort_unstable();
    states.dedup();
    states
}

/// The set of possible configurations, and what is open, at one event of a history.
pub(super) struct Frontier<'a> {
    configs: Vec<Config>,
    /// In the order of their returns.
    open: Vec<OpenStep>,
    /// Slots that were used and are free again, and the number of all slots.
    free_slots: Vec<usize>,
    slots: usize,
    /// The open reads of each state.
    readers: HashMap<u32, Words, RandomState>,
    open_slots: OpenSlots,
    spending: Spending,
    observability: Observability,
    states: &'a mut States,
    /// The history contains a [`Step::Mismatch`].
    has_mismatches: bool,
    /// The links of all trails, if an order is requested.
    links: Option<Vec<Link>>,
    operations: &'a [TimedStep],
    /// The history contains steps other than reads and writes.
    is_general: bool,
    overflow: Overflow,
    /// Configurations were dropped or joined.
    pub(super) is_inexact: bool,
    visited: Visited,
    /// Bytes of texts handled since they were last counted as steps.
    text_bytes: u64,
    /// The states from which indeterminate cas lead to one that an open operation observes.
    goals: HashSet<u32, RandomState>,
}

impl<'a> Frontier<'a> {
    pub(super) fn new(
        operations: &'a [TimedStep],
        states: &'a mut States,
        mut observability: Observability,
        order: bool,
        overflow: Overflow,
        weights: &Weights,
    ) -> Self {
        let is_register = |op: &TimedStep| matches!(op.step, Step::Read(_) | Step::Write(_));
        let has_mismatches = operations.iter().any(|op| matches!(op.step, Step::Mismatch(_)));
        let useful = |(_, op): &(u32, &TimedStep)| {
            // An operation whose effect nobody can observe may as well not have happened.
            op.returned == OPEN
                && match op.step {
                    Step::Write(to) | Step::Cas(_, to) if !has_mismatches => {
                        observability.until(to, states) > op.invoked
                    }
                    _ => true,
                }
        };
        let spending = Spending::new((0_u32..).zip(operations).filter(useful), overflow, weights);
        let words = slots_needed(operations).div_ceil(64).max(1);
        let initial = Config {
            state: 0,
            hides_before: 0,
            trail: NO_LINK,
            cost: 0,
            done: SmallVec::from_elem(0, words),
            spent: SmallVec::from_elem(0, spending.weights.len().div_ceil(64)),
        };
        Frontier {
            configs: vec![initial],
            open: Vec::new(),
            free_slots: Vec::new(),
            slots: 0,
            readers: HashMap::default(),
            open_slots: OpenSlots::new(words),
            spending,
            observability,
            states,
            has_mismatches,
            links: order.then(Vec::new),
            operations,
            is_general: !operations.iter().all(is_register),
            overflow,
            is_inexact: false,
            visited: Visited::new(overflow),
            text_bytes: 0,
            goals: HashSet::default(),
        }
    }

    /// Goes through all events and calls `each` with the configurations after each return. If it
    /// stops early: the operation at whose return, by position, and why.
    pub(super) fn run(
        &mut self,
        effort: &mut Effort,
        mut each: impl FnMut(u32, &[Config]),
    ) -> Option<(u32, StopReason)> {
        let mut returns: Vec<(u32, u32)> = (0_u32..)
            .zip(self.operations)
            .filter(|(_, op)| op.returned != OPEN)
            .map(|(position, op)| (op.returned, position))
            .collect();
        returns.sort_unstable();
        let mut next = 0;
        for (returned, position) in returns {
            while let Some(op) = self.operations.get(next)
                && op.invoked < returned
            {
                self.invoke(u32::try_from(next).expect("positions fit in 32 bits"), *op);
                next += 1;
            }
            if let Some(stop) = self.complete(position, effort) {
                return Some((position, stop));
            }
            each(position, &self.configs);
        }
        None
    }

    fn invoke(&mut self, position: u32, op: TimedStep) {
        if op.returned == OPEN {
            self.spending.invoke(position, op.step);
            return;
        }
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots += 1;
            self.slots - 1
        });
        let at = self.open.partition_point(|other| other.op.returned < op.returned);
        self.open.insert(at, OpenStep { slot, position, op });
        set(self.open_slots.of_kind(op.step), slot);
        let words = self.open_slots.blind.len();
        if let Step::Read(state) = op.step {
            let readers = self.readers.entry(state);
            set(readers.or_insert_with(|| SmallVec::from_elem(0, words)), slot);
        }
        for config in &mut self.configs {
            let observes = match op.step {
                Step::Read(state) => config.state == state,
                Step::Mismatch(state) => config.state != state,
                _ => return,
            };
            if observes {
                set(&mut config.done, slot);
                link(&mut self.links, config, position, false);
            }
        }
    }

    /// An operation returns: every configuration in which it has not taken effect is expanded until
    /// it has, or is dropped.
    fn complete(&mut self, position: u32, effort: &mut Effort) -> Option<StopReason> {
        let at = self.open.iter().position(|other| other.position == position);
        let target = self.open[at.expect("it was invoked")];
        self.find_goals();
        let mut next = Antichain::default();
        let before = std::mem::take(&mut self.configs);
        let mut states = states_of(&before);
        self.visited.clear();
        for config in before {
            if has(&config.done, target.slot) {
                self.keep(config, &target, &mut next);
            } else {
                self.start(config, &target, &mut next);
            }
        }
        while let Some(config) = self.visited.pop() {
            let comparisons = std::mem::take(&mut self.visited.comparisons)
                + std::mem::take(&mut next.comparisons);
            effort.steps += 1 + comparisons / COMPARISONS_PER_STEP;
            effort.steps += std::mem::take(&mut self.text_bytes) / BYTES_PER_STEP;
            let stop = effort.exceeded(self.weight(self.visited.len() + next.count));
            if stop.is_some() {
                return stop;
            }
            self.expand(&config, &target, &mut next);
            // Those that used the fewest are expanded first, so the rest would hardly be kept.
            if let Overflow::Drop { width, search } = self.overflow
                && next.count >= width.saturating_mul(search)
            {
                self.is_inexact = true;
                break;
            }
        }
        self.is_inexact |= self.visited.is_inexact;
        self.close(&target);
        self.configs = self.merge_unobservable(next, target.op.returned);
        self.narrow();
        if !self.configs.is_empty() {
            return None;
        }
        states.retain(|state| *state != UNOBSERVABLE);
        Some(StopReason::NoConfig(states))
    }

    /// Drops the configurations that used the most indeterminate operations, if only some are to be
    /// kept.
    fn narrow(&mut self) {
        if let Overflow::Drop { width, .. } = self.overflow
            && self.configs.len() > width
        {
            self.configs.sort_by_key(|config| config.cost);
            self.configs.truncate(width);
            self.is_inexact = true;
        }
    }

    /// Replaces states that nobody can observe after this event by [`UNOBSERVABLE`].
    fn merge_unobservable(&mut self, mut next: Antichain, now: u32) -> Vec<Config> {
        let mut changed = false;
        for config in next.iter_mut() {
            if config.state != UNOBSERVABLE
                && self.observability.until(config.state, self.states) <= now
            {
                config.state = UNOBSERVABLE;
                changed = true;
            }
        }
        if changed {
            let mut merged = Antichain::default();
            for config in next.into_configs() {
                self.add(config, &mut merged);
            }
            next = merged;
        }
        next.into_configs().collect()
    }

    /// Removes an operation from the open ones.
    fn close(&mut self, target: &OpenStep) {
        self.open.retain(|other| other.position != target.position);
        self.free_slots.push(target.slot);
        clear(self.open_slots.of_kind(target.op.step), target.slot);
        if let Step::Read(state) = target.op.step
            && let Some(readers) = self.readers.get_mut(&state)
        {
            clear(readers, target.slot);
            if readers.iter().all(|word| *word == 0) {
                self.readers.remove(&state);
            }
        }
    }

    /// Keeps a configuration in which the target has taken effect.
    fn keep(&mut self, mut config: Config, target: &OpenStep, next: &mut Antichain) {
        clear(&mut config.done, target.slot);
        self.add(config, next);
    }

    fn add(&mut self, config: Config, to: &mut Antichain) {
        let width = match self.overflow {
            Overflow::Join(width) => width,
            Overflow::Keep | Overflow::Drop { .. } => usize::MAX,
        };
        self.is_inexact |=
            to.add(config, width, &self.spending.weights, &self.open, &self.open_slots);
    }

    /// The number of configurations of usual size that take as much memory as this many take now.
    fn weight(&self, configurations: usize) -> usize {
        let usual = size_of::<Config>();
        let words = |inline: &Words| if inline.spilled() { inline.len() * 8 + 16 } else { 0 };
        let more =
            self.configs.first().map_or(0, |config| words(&config.done) + words(&config.spent));
        let links = self.links.as_ref().map_or(0, Vec::len) * size_of::<Link>();
        configurations * (usual + more) / usual + links / CONFIGURATION_BYTES
    }

    /// Finds the states that an indeterminate operation may have to lead to: those that open
    /// operations observe, and those from which an indeterminate cas leads to one.
    fn find_goals(&mut self) {
        self.goals.clear();
        if self.spending.len() == 0 {
            return;
        }
        let observed = self.open.iter().filter_map(|other| match other.op.step {
            Step::Read(state) | Step::Cas(state, _) => Some(state),
            _ => None,
        });
        self.goals.extend(observed);
        loop {
            let before = self.goals.len();
            for step in self.spending.invoked() {
                if let Step::Cas(from, to) = step
                    && self.goals.contains(&to)
                {
                    self.goals.insert(from);
                }
            }
            if self.goals.len() == before {
                return;
            }
        }
    }

    /// Starts to expand a configuration in which the target has not taken effect.
    fn start(&mut self, config: Config, target: &OpenStep, next: &mut Antichain) {
        let step = target.op.step;
        if step.is_blind() && target.op.invoked < config.hides_before {
            let mut hidden = config.clone();
            link(&mut self.links, &mut hidden, target.position, true);
            self.keep(hidden, target, next);
            // If nobody can observe the write, hiding it is at least as good as anything else.
            if let Step::Write(state) = step
                && !self.has_mismatches
                && self.observability.until(state, self.states) <= target.op.returned
            {
                return;
            }
        }
        self.visited.push(config, &self.spending.weights);
    }

    /// Lets the target take effect, and every other operation whose effect can be observed before.
    fn expand(&mut self, config: &Config, target: &OpenStep, next: &mut Antichain) {
        if let Some(mut after) = self.after(config, target.op.step, target.op.returned) {
            set(&mut after.done, target.slot);
            link(&mut self.links, &mut after, target.position, false);
            self.settle(&mut after);
            self.keep(after, target, next);
        }
        let now = target.op.returned;
        // With appends also whether the step can be hidden: see the equal operations above.
        let step = target.op.step;
        let mut tried: SmallVec<[(Step, bool); 16]> = SmallVec::new();
        tried.extend([(step, false), (step, true)]);
        for at in 0..self.open.len() {
            let OpenStep { slot, position, op } = self.open[at];
            let can_hide = matches!(op.step, Step::Append(_)) && op.invoked < config.hides_before;
            let is_tried = |tried: &[(Step, bool)]| tried.contains(&(op.step, can_hide));
            if has(&config.done, slot) || op.step.is_read_only() || is_tried(&tried) {
                continue;
            }
            tried.push((op.step, can_hide));
            if let Some(mut after) = self.observable_after(config, op.step, now, false) {
                set(&mut after.done, slot);
                link(&mut self.links, &mut after, position, false);
                self.continue_with(after, target, next);
            }
        }
        for class in 0..self.spending.len() {
            let step = self.spending.step(class);
            if matches!(step, Step::Cas(from, _) if from != config.state)
                || tried.iter().any(|(other, _)| *other == step)
                || !self.spending.is_left(class, config)
            {
                continue;
            }
            if let Some(mut after) = self.observable_after(config, step, now, true)
                && let Some(position) = self.spending.spend(class, &mut after)
            {
                link(&mut self.links, &mut after, position, false);
                self.continue_with(after, target, next);
            }
        }
    }

    /// Keeps a configuration if the target has taken effect in it, or else expands it further.
    fn continue_with(&mut self, mut after: Config, target: &OpenStep, next: &mut Antichain) {
        self.settle(&mut after);
        if has(&after.done, target.slot) {
            self.keep(after, target, next);
        } else {
            self.visited.push(after, &self.spending.weights);
        }
    }

    /// The configuration after a step, `None` if the step is impossible.
    fn after(&mut self, config: &Config, step: Step, now: u32) -> Option<Config> {
        let is_possible = match step {
            Step::Cas(state, _) | Step::Read(state) => config.state == state,
            Step::Mismatch(state) => config.state != state,
            Step::Write(_) | Step::Append(_) => true,
        };
        if !is_possible {
            return None;
        }
        let mut after = config.clone();
        match step {
            Step::Write(state) => {
                after.state = state;
                after.hides_before = now;
            }
            Step::Cas(_, to) => after.state = to,
            Step::Append(text) if config.state != UNOBSERVABLE => {
                let always = self.observability.is_unlimited();
                let (appended, bytes) = self.states.appended(config.state, text, always);
                self.text_bytes += bytes;
                after.state = appended
                    .filter(|state| self.observability.until(*state, self.states) >= now)
                    .unwrap_or(UNOBSERVABLE);
            }
            Step::Append(_) | Step::Read(_) | Step::Mismatch(_) => {}
        }
        Some(after)
    }

    /// The configuration after a step, if the step is possible and its effect can be observed.
    fn observable_after(
        &mut self,
        config: &Config,
        step: Step,
        now: u32,
        is_indeterminate: bool,
    ) -> Option<Config> {
        let after = self.after(config, step, now)?;
        self.is_observable(config, &after, step, now, is_indeterminate).then_some(after)
    }

    /// Whether an open operation can observe the state after a step, or what the step makes
    /// possible.
    fn is_observable(
        &mut self,
        before: &Config,
        after: &Config,
        step: Step,
        now: u32,
        is_indeterminate: bool,
    ) -> bool {
        let state = after.state;
        if let Some(readers) = self.readers.get(&state)
            && readers.iter().zip(&before.done).any(|(readers, done)| readers & !done != 0)
        {
            return true;
        }
        if !self.is_general {
            return false;
        }
        let alive = state != UNOBSERVABLE && self.observability.until(state, self.states) >= now;
        // A cas that returns cannot be hidden: it takes effect where its expected state is, observed
        // or not.
        if matches!(step, Step::Cas(..)) && !is_indeterminate
            || alive && matches!(step, Step::Append(_))
        {
            return true;
        }
        let observes = |step: Step| match step {
            Step::Cas(from, _) => from == state,
            Step::Append(_) => alive,
            Step::Mismatch(other) => other == before.state && other != state,
            Step::Read(_) | Step::Write(_) => false,
        };
        if self.open.iter().any(|other| observes(other.op.step) && !has(&before.done, other.slot)) {
            return true;
        }
        self.spending.invoked().any(|step| match step {
            Step::Cas(from, to) => {
                from == state && (self.has_mismatches || self.goals.contains(&to))
            }
            step => observes(step),
        })
    }

    /// Lets every open read take effect that observed the current state.
    fn settle(&mut self, config: &mut Config) {
        if self.links.is_some() {
            for at in 0..self.open.len() {
                let OpenStep { slot, position, op } = self.open[at];
                let observes = match op.step {
                    Step::Read(state) => state == config.state,
                    Step::Mismatch(state) => state != config.state,
                    _ => false,
                };
                if observes && !has(&config.done, slot) {
                    set(&mut config.done, slot);
                    link(&mut self.links, config, position, false);
                }
            }
            return;
        }
        if let Some(readers) = self.readers.get(&config.state) {
            for (done, readers) in config.done.iter_mut().zip(readers) {
                *done |= readers;
            }
        }
        if self.has_mismatches {
            for OpenStep { slot, op, .. } in &self.open {
                if matches!(op.step, Step::Mismatch(state) if state != config.state) {
                    set(&mut config.done, *slot);
                }
            }
        }
    }

    /// An order of all operations that took effect, from the trail of a configuration.
    pub(super) fn order(&self) -> Vec<u32> {
        let trail = self.configs.first().map_or(NO_LINK, |config| config.trail);
        order(self.links.as_deref().unwrap_or_default(), trail, self.operations)
    }
}
