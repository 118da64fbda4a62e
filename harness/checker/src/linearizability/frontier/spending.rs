//! The indeterminate operations, and how configurations count those that have taken effect.

use std::{collections::HashMap, iter};

use ahash::RandomState;

use super::{
    Overflow,
    config::{Config, has, set},
    steps::{Step, TimedStep},
};

/// Bits that are set one after the other, each time that one of a number of indeterminate operations
/// takes effect. So of two configurations the one that used fewer of them has a subset of the bits of
/// the other, and the intersection is what both have used at least.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// The first bit, and the number of bits.
    bit: usize,
    size: usize,
    /// The weight of each.
    weight: u32,
    /// Number of operations invoked so far.
    invoked: usize,
}

impl Counter {
    /// Takes the next bits.
    fn place(&mut self, weights: &mut Vec<u32>) {
        self.bit = weights.len();
        weights.extend(iter::repeat_n(self.weight, self.size));
    }

    /// How many have taken effect, `None` if all that were invoked have.
    fn used(&self, config: &Config) -> Option<usize> {
        (0..self.invoked).find(|at| !has(&config.spent, self.bit + at))
    }
}

/// Indeterminate operations that do the same.
#[derive(Clone, Debug)]
struct Class {
    step: Step,
    /// Positions of all, in the order of their invocations, in which they take effect.
    members: Vec<u32>,
    counter: Counter,
    /// The counter of all classes that lead to the same state.
    group: Option<usize>,
}

/// All classes.
#[derive(Clone, Debug, Default)]
pub(super) struct Spending {
    classes: Vec<Class>,
    class_of: HashMap<Step, usize, RandomState>,
    /// When configurations are joined, what all classes with the same state have used together would be
    /// lost: the one used one operation, the other another, both is none. So it is counted as well.
    groups: Vec<Counter>,
    /// The weight of each bit of a configuration.
    pub(super) weights: Vec<u32>,
}

/// What it costs to use indeterminate operations. Those that lead to a state that was missing in an
/// earlier attempt cost more: they are to be saved for it.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    of_state: HashMap<u32, u32, RandomState>,
}

impl Weights {
    /// An attempt ended since this step was not possible.
    pub fn learn(&mut self, step: Step) {
        if let Step::Read(state) | Step::Cas(state, _) = step {
            *self.of_state.entry(state).or_insert(1) += 1;
        }
    }

    /// The weight of a step.
    fn of(&self, step: Step) -> u32 {
        match step {
            Step::Write(to) | Step::Cas(_, to) => self.of_state.get(&to).copied().unwrap_or(1),
            Step::Append(_) | Step::Read(_) | Step::Mismatch(_) => 1,
        }
    }
}

impl Spending {
    /// Sorts indeterminate operations into classes.
    pub(super) fn new<'o>(
        operations: impl Iterator<Item = (u32, &'o TimedStep)>,
        overflow: Overflow,
        weights: &Weights,
    ) -> Self {
        let mut spending = Spending::default();
        for (position, op) in operations {
            let classes = &mut spending.classes;
            let class = *spending.class_of.entry(op.step).or_insert_with(|| {
                let counter = Counter::default();
                classes.push(Class { step: op.step, members: Vec::new(), counter, group: None });
                classes.len() - 1
            });
            classes[class].members.push(position);
            classes[class].counter.size += 1;
        }
        if matches!(overflow, Overflow::Join(_)) {
            spending.group();
        }
        let Spending { classes, groups, weights: of_bits, .. } = &mut spending;
        for class in classes {
            class.counter.weight = weights.of(class.step);
            // A group has the weight of its classes, which lead to the same state.
            if let Some(group) = class.group {
                groups[group].weight = class.counter.weight;
            }
            class.counter.place(of_bits);
        }
        for group in groups {
            group.place(of_bits);
        }
        spending
    }

    /// Groups the classes by the states that they lead to.
    fn group(&mut self) {
        let mut of_state: HashMap<u32, usize, RandomState> = HashMap::default();
        for class in &mut self.classes {
            if let Step::Write(to) | Step::Cas(_, to) = class.step {
                let group = *of_state.entry(to).or_insert_with(|| {
                    self.groups.push(Counter::default());
                    self.groups.len() - 1
                });
                self.groups[group].size += class.counter.size;
                class.group = Some(group);
            }
        }
    }

    /// An indeterminate operation is invoked.
    pub(super) fn invoke(&mut self, position: u32, step: Step) {
        let Some(class) = self.class_of.get(&step) else { return };
        let class = &mut self.classes[*class];
        // An operation that is of no use was left out.
        if class.members.get(class.counter.invoked) == Some(&position) {
            class.counter.invoked += 1;
            if let Some(group) = class.group {
                self.groups[group].invoked += 1;
            }
        }
    }

    /// Number of classes.
    pub(super) fn len(&self) -> usize {
        self.classes.len()
    }

    /// What a class does.
    pub(super) fn step(&self, class: usize) -> Step {
        self.classes[class].step
    }

    /// What the classes do of which an operation was invoked.
    pub(super) fn invoked(&self) -> impl Iterator<Item = Step> {
        self.classes.iter().filter(|class| class.counter.invoked > 0).map(|class| class.step)
    }

    /// Whether an operation of the class can take effect in a configuration.
    pub(super) fn is_left(&self, class: usize, config: &Config) -> bool {
        let class = &self.classes[class];
        let group = class.group.map(|group| &self.groups[group]);
        class.counter.used(config).is_some()
            && group.is_none_or(|group| group.used(config).is_some())
    }

    /// The next operation of a class takes effect, if one is left. Returns its position.
    pub(super) fn spend(&self, class: usize, config: &mut Config) -> Option<u32> {
        let class = &self.classes[class];
        let used = class.counter.used(config)?;
        if let Some(group) = class.group {
            let group = &self.groups[group];
            let used = group.used(config)?;
            set(&mut config.spent, group.bit + used);
            config.cost += u64::from(group.weight);
        }
        set(&mut config.spent, class.counter.bit + used);
        config.cost += u64::from(class.counter.weight);
        Some(class.members[used])
    }
}
