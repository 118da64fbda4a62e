//! Follows the set of possible configurations through the events of a history.

use std::collections::{HashMap, HashSet};

use super::{
    super::{deadline::Deadline, slot_set::SlotSet},
    CONFIGURATION_BYTES, Limits,
    config::{Antichain, Class, Config, Link, NO_LINK, OpenSlots, OpenStep, link},
    observability::Observability,
    steps::{OPEN, States, Step, TimedStep, UNOBSERVABLE},
};

/// Limits with the time that has been spent.
struct Budget<'l> {
    limits: &'l Limits,
    deadline: Deadline,
}

impl Budget<'_> {
    /// The limit that is exceeded with this many configurations in memory, if any.
    fn exceeded(&mut self, configurations: usize) -> Option<StopReason> {
        if configurations > self.limits.configurations {
            return Some(StopReason::TooManyConfigs);
        }
        self.deadline.has_passed().then_some(StopReason::TimedOut)
    }
}

/// Why a frontier stops before the end of the history.
pub(super) enum StopReason {
    /// No configuration is possible. These states were possible right before.
    NoConfig(Vec<u32>),
    TooManyConfigs,
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
    readers: HashMap<u32, SlotSet>,
    open_slots: OpenSlots,
    classes: Vec<Class>,
    class_of: HashMap<Step, usize>,
    observability: Observability,
    states: &'a mut States,
    /// The history contains a [`Step::Mismatch`].
    has_mismatches: bool,
    /// The links of all trails, if an order is requested.
    links: Option<Vec<Link>>,
    operations: &'a [TimedStep],
    /// The history contains steps other than reads and writes.
    is_general: bool,
}

impl<'a> Frontier<'a> {
    pub(super) fn new(
        operations: &'a [TimedStep],
        states: &'a mut States,
        observability: Observability,
        order: bool,
    ) -> Self {
        let initial = Config {
            state: 0,
            hides_before: 0,
            done: SlotSet::default(),
            used: Vec::new(),
            trail: NO_LINK,
        };
        let is_register = |op: &TimedStep| matches!(op.step, Step::Read(_) | Step::Write(_));
        Frontier {
            configs: vec![initial],
            open: Vec::new(),
            free_slots: Vec::new(),
            slots: 0,
            readers: HashMap::new(),
            open_slots: OpenSlots::default(),
            classes: Vec::new(),
            class_of: HashMap::new(),
            observability,
            states,
            has_mismatches: operations.iter().any(|op| matches!(op.step, Step::Mismatch(_))),
            links: order.then(Vec::new),
            operations,
            is_general: !operations.iter().all(is_register),
        }
    }

    /// Goes through all events and calls `each` with the configurations after each return. If it
    /// stops early: the operation at whose return, by position, and why.
    pub(super) fn run(
        &mut self,
        limits: &Limits,
        mut each: impl FnMut(u32, &[Config]),
    ) -> Option<(u32, StopReason)> {
        let mut budget = Budget { limits, deadline: Deadline::new(limits.time) };
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
            if let Some(stop) = self.complete(position, &mut budget) {
                return Some((position, stop));
            }
            each(position, &self.configs);
        }
        None
    }

    fn invoke(&mut self, position: u32, op: TimedStep) {
        if op.returned == OPEN {
            let class = *self.class_of.entry(op.step).or_insert_with(|| {
                self.classes.push(Class { step: op.step, members: Vec::new() });
                self.classes.len() - 1
            });
            self.classes[class].members.push(position);
            return;
        }
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots += 1;
            self.slots - 1
        });
        let at = self.open.partition_point(|other| other.op.returned < op.returned);
        self.open.insert(at, OpenStep { slot, position, op });
        self.open_slots.of_kind(op.step).insert(slot);
        let observes: Box<dyn Fn(u32) -> bool> = match op.step {
            Step::Read(state) => {
                self.readers.entry(state).or_default().insert(slot);
                Box::new(move |now| now == state)
            }
            Step::Mismatch(state) => Box::new(move |now| now != state),
            _ => return,
        };
        for config in &mut self.configs {
            if observes(config.state) {
                config.done.insert(slot);
                link(&mut self.links, config, position, false);
            }
        }
    }

    /// An operation returns: every configuration in which it has not taken effect is expanded until
    /// it has, or is dropped.
    fn complete(&mut self, position: u32, budget: &mut Budget<'_>) -> Option<StopReason> {
        let at = self.open.iter().position(|other| other.position == position);
        let target = self.open[at.expect("it was invoked")];
        let mut next = Antichain::default();
        let mut seen: HashSet<Config> = HashSet::new();
        let before = std::mem::take(&mut self.configs);
        for config in &before {
            if config.done.contains(target.slot) {
                self.keep(config.clone(), &target, &mut next);
                continue;
            }
            let stop = self.expand(config.clone(), &target, &mut seen, &mut next, budget);
            if stop.is_some() {
                return stop;
            }
        }
        self.close(&target);
        self.configs = self.merge_unobservable(next, target.op.returned);
        if !self.configs.is_empty() {
            return None;
        }
        let mut states = states_of(&before);
        states.retain(|state| *state != UNOBSERVABLE);
        Some(StopReason::NoConfig(states))
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
                merged.add(config, &self.open, &self.open_slots);
            }
            next = merged;
        }
        next.into_configs().collect()
    }

    /// Removes an operation from the open ones.
    fn close(&mut self, target: &OpenStep) {
        self.open.retain(|other| other.position != target.position);
        self.free_slots.push(target.slot);
        self.open_slots.of_kind(target.op.step).remove(target.slot);
        if let Step::Read(state) = target.op.step
            && let Some(readers) = self.readers.get_mut(&state)
        {
            readers.remove(target.slot);
            if *readers == SlotSet::default() {
                self.readers.remove(&state);
            }
        }
    }

    /// Keeps a configuration in which the target has taken effect.
    fn keep(&self, mut config: Config, target: &OpenStep, next: &mut Antichain) {
        config.done.remove(target.slot);
        next.add(config, &self.open, &self.open_slots);
    }

    /// The number of configurations of usual size that take as much memory as this many take now.
    fn weight(&self, configurations: usize) -> usize {
        let usual = size_of::<Config>();
        let more = self.classes.len() * size_of::<u32>() + self.slots / 8;
        let links = self.links.as_ref().map_or(0, Vec::len) * size_of::<Link>();
        configurations * (usual + more) / usual + links / CONFIGURATION_BYTES
    }

    /// Lets the target take effect in every way that can matter. Returns the limit that stopped it,
    /// if one did.
    fn expand(
        &mut self,
        config: Config,
        target: &OpenStep,
        seen: &mut HashSet<Config>,
        next: &mut Antichain,
        budget: &mut Budget<'_>,
    ) -> Option<StopReason> {
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
                return None;
            }
        }
        let mut stack = vec![config];
        while let Some(config) = stack.pop() {
            let stop = budget.exceeded(self.weight(seen.len() + stack.len() + next.count));
            if stop.is_some() {
                return stop;
            }
            // The trail says how a configuration was reached, which does not distinguish it.
            if !seen.insert(Config { trail: NO_LINK, ..config.clone() }) {
                continue;
            }
            if let Some(mut after) = self.after(&config, target.op.step, target.op.returned) {
                after.done.insert(target.slot);
                link(&mut self.links, &mut after, target.position, false);
                self.settle(&mut after);
                self.keep(after, target, next);
            }
            self.expand_others(&config, target, &mut stack, next);
        }
        None
    }

    /// Lets every other operation take effect whose effect can be observed before the target.
    fn expand_others(
        &mut self,
        config: &Config,
        target: &OpenStep,
        stack: &mut Vec<Config>,
        next: &mut Antichain,
    ) {
        let now = target.op.returned;
        // With appends also whether the step can be hidden: see the equal operations above.
        let step = target.op.step;
        let mut tried: Vec<(Step, bool)> = vec![(step, false), (step, true)];
        for at in 0..self.open.len() {
            let OpenStep { slot, position, op } = self.open[at];
            let can_hide = matches!(op.step, Step::Append(_)) && op.invoked < config.hides_before;
            let is_tried = tried.contains(&(op.step, can_hide));
            if config.done.contains(slot) || op.step.is_read_only() || is_tried {
                continue;
            }
            tried.push((op.step, can_hide));
            if let Some(mut after) = self.observable_after(config, op.step, now) {
                after.done.insert(slot);
                link(&mut self.links, &mut after, position, false);
                self.continue_with(after, target, stack, next);
            }
        }
        for class in 0..self.classes.len() {
            let Class { step, members } = &self.classes[class];
            let step = *step;
            let used = config.used.get(class).copied().unwrap_or(0) as usize;
            let Some(&position) = members.get(used) else { continue };
            if tried.iter().any(|(other, _)| *other == step) {
                continue;
            }
            if let Some(mut after) = self.observable_after(config, step, now) {
                if after.used.len() <= class {
                    after.used.resize(class + 1, 0);
                }
                after.used[class] += 1;
                link(&mut self.links, &mut after, position, false);
                self.continue_with(after, target, stack, next);
            }
        }
    }

    /// Keeps a configuration if the target has taken effect in it, or else expands it further.
    fn continue_with(
        &mut self,
        mut after: Config,
        target: &OpenStep,
        stack: &mut Vec<Config>,
        next: &mut Antichain,
    ) {
        self.settle(&mut after);
        if after.done.contains(target.slot) {
            self.keep(after, target, next);
        } else {
            stack.push(after);
        }
    }

    /// The configuration after a step, `None` if the step is impossible.
    fn after(&mut self, config: &Config, step: Step, now: u32) -> Option<Config> {
        let mut after = config.clone();
        match step {
            Step::Write(state) => {
                after.state = state;
                after.hides_before = now;
            }
            Step::Cas(from, to) if config.state == from => after.state = to,
            Step::Append(_) if config.state == UNOBSERVABLE => {}
            Step::Append(text) => {
                let text = self.states.appended(config.state, text);
                // A text that nobody can observe does not get a number.
                let until = match self.states.find(&text) {
                    Some(state) => self.observability.until(state, self.states),
                    None => self.observability.text_until(&text),
                };
                after.state = if until >= now { self.states.number(&text) } else { UNOBSERVABLE };
            }
            Step::Read(state) if config.state == state => {}
            Step::Mismatch(state) if config.state != state => {}
            Step::Cas(..) | Step::Read(_) | Step::Mismatch(_) => return None,
        }
        Some(after)
    }

    /// The configuration after a step, if the step is possible and its effect can be observed.
    fn observable_after(&mut self, config: &Config, step: Step, now: u32) -> Option<Config> {
        let after = self.after(config, step, now)?;
        self.is_observable(config, &after, step, now).then_some(after)
    }

    /// Whether an open operation can observe the state after a step, or what the step makes
    /// possible.
    fn is_observable(&mut self, before: &Config, after: &Config, step: Step, now: u32) -> bool {
        let state = after.state;
        if let Some(readers) = self.readers.get(&state)
            && !readers.intersection_is_subset(readers, &before.done)
        {
            return true;
        }
        if !self.is_general {
            return false;
        }
        let alive = state != UNOBSERVABLE && self.observability.until(state, self.states) >= now;
        // A cas cannot be hidden: it takes effect where its expected state is, observed or not.
        if matches!(step, Step::Cas(..)) || alive && matches!(step, Step::Append(_)) {
            return true;
        }
        let observes = |step: Step| match step {
            Step::Cas(from, _) => from == state,
            Step::Append(_) => alive,
            Step::Mismatch(other) => other == before.state && other != state,
            Step::Read(_) | Step::Write(_) => false,
        };
        self.open.iter().any(|other| observes(other.op.step) && !before.done.contains(other.slot))
            || self.classes.iter().any(|class| observes(class.step))
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
                if observes && !config.done.contains(slot) {
                    config.done.insert(slot);
                    link(&mut self.links, config, position, false);
                }
            }
            return;
        }
        if let Some(readers) = self.readers.get(&config.state) {
            config.done.insert_all(readers);
        }
        if self.has_mismatches {
            for OpenStep { slot, op, .. } in &self.open {
                if matches!(op.step, Step::Mismatch(state) if state != config.state) {
                    config.done.insert(*slot);
                }
            }
        }
    }

    /// An order of all operations that took effect, from the trail of a configuration.
    pub(super) fn order(&self) -> Vec<u32> {
        let links = self.links.as_deref().unwrap_or_default();
        let mut chain = Vec::new();
        let mut at = self.configs.first().map_or(NO_LINK, |config| config.trail);
        while at != NO_LINK {
            let link = links[at as usize];
            chain.push((link.position, link.hidden));
            at = link.before;
        }
        // From the end: a hidden operation waits for the blind write that it comes right before.
        let mut order = Vec::with_capacity(chain.len());
        let mut hidden: Vec<u32> = Vec::new();
        for (position, is_hidden) in chain {
            if is_hidden {
                hidden.push(position);
                continue;
            }
            order.push(position);
            if matches!(self.operations[position as usize].step, Step::Write(_)) {
                order.append(&mut hidden);
            }
        }
        order.reverse();
        order
    }
}
