//! Configurations, and the set of those that no other one dominates.

use smallvec::SmallVec;

use super::{
    steps::{Step, TimedStep},
    trail::NO_LINK,
};

/// A set of bits. All sets of a frontier have the same number of words.
pub(super) type Words = SmallVec<[u64; 4]>;

/// Whether a bit is set.
pub(super) fn has(words: &[u64], bit: usize) -> bool {
    words[bit / 64] >> (bit % 64) & 1 == 1
}

/// Sets a bit.
pub(super) fn set(words: &mut [u64], bit: usize) {
    words[bit / 64] |= 1 << (bit % 64);
}

/// Clears a bit.
pub(super) fn clear(words: &mut [u64], bit: usize) {
    words[bit / 64] &= !(1 << (bit % 64));
}

/// Whether every bit of `a` is one of `b`.
pub(super) fn is_subset(a: &[u64], b: &[u64]) -> bool {
    a.iter().zip(b).all(|(a, b)| a & !b == 0)
}

/// Whether every bit of both `a` and `of` is one of `b`.
pub(super) fn is_subset_in(a: &[u64], of: &[u64], b: &[u64]) -> bool {
    a.iter().zip(of).zip(b).all(|((a, of), b)| a & of & !b == 0)
}

/// The sum of the weights of bits.
fn weight(words: impl Iterator<Item = u64>, weights: &[u32]) -> u64 {
    let mut sum = 0;
    for (word, weights) in words.zip(weights.chunks(64)) {
        let mut rest = word;
        while rest != 0 {
            sum += u64::from(weights[rest.trailing_zeros() as usize]);
            rest &= rest - 1;
        }
    }
    sum
}

/// A state that the key may have, and the operations that have taken effect to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) state: u32,
    /// The event at which a blind write last took effect, plus one. An operation invoked before it
    /// can be hidden under that write.
    pub(super) hides_before: u32,
    /// The last link of its trail, [`NO_LINK`] if there is none.
    pub(super) trail: u32,
    /// The weights of the indeterminate operations that have taken effect.
    pub(super) cost: u64,
    /// The open operations that have taken effect, by slot.
    pub(super) done: Words,
    /// The indeterminate operations that have taken effect, by [`super::spending::Counter`].
    pub(super) spent: Words,
}

impl Config {
    /// The weakest configuration that can do everything that either of two can, which differ in
    /// nothing but the indeterminate operations used.
    pub(super) fn joined(&self, other: &Config, weights: &[u32]) -> Config {
        let spent: Words = self.spent.iter().zip(&other.spent).map(|(a, b)| a & b).collect();
        let cost = weight(spent.iter().copied(), weights);
        Config { cost, spent, trail: NO_LINK, ..self.clone() }
    }

    /// The weight of the indeterminate operations used by one of two configurations and not by the
    /// other.
    pub(super) fn distance(&self, other: &Config, weights: &[u32]) -> u64 {
        weight(self.spent.iter().zip(&other.spent).map(|(a, b)| a ^ b), weights)
    }

    /// Whether it used a subset of the indeterminate operations of another one.
    pub(super) fn spent_less(&self, other: &Config) -> bool {
        self.cost <= other.cost && is_subset(&self.spent, &other.spent)
    }

    /// Whether they differ in nothing but the indeterminate operations used.
    pub(super) fn differs_in_spent_only(&self, other: &Config) -> bool {
        self.state == other.state
            && self.hides_before == other.hides_before
            && self.done == other.done
    }
}

/// An open operation that will return.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenStep {
    pub(super) slot: usize,
    pub(super) position: u32,
    pub(super) op: TimedStep,
}

/// The slots of open operations by what their steps can do.
#[derive(Debug, Default)]
pub(super) struct OpenSlots {
    pub(super) read_only: Words,
    pub(super) blind: Words,
    pub(super) others: Words,
}

impl OpenSlots {
    pub(super) fn new(words: usize) -> Self {
        let none = || SmallVec::from_elem(0, words);
        OpenSlots { read_only: none(), blind: none(), others: none() }
    }

    pub(super) fn of_kind(&mut self, step: Step) -> &mut Words {
        if step.is_read_only() {
            &mut self.read_only
        } else if step.is_blind() {
            &mut self.blind
        } else {
            &mut self.others
        }
    }
}

/// Configurations of which none dominates another.
#[derive(Default)]
pub(super) struct Antichain {
    /// A list, since there are few states at a time.
    by_state: Vec<(u32, Vec<Config>)>,
    pub(super) count: usize,
    /// Number of comparisons made.
    pub(super) comparisons: u64,
}

impl Antichain {
    /// Adds a configuration unless another one dominates it, and drops those that it dominates. If
    /// more than `width` would differ in the indeterminate operations used alone, the nearest are
    /// joined. Returns whether that happened.
    pub(super) fn add(
        &mut self,
        mut config: Config,
        width: usize,
        weights: &[u32],
        open: &[OpenStep],
        slots: &OpenSlots,
    ) -> bool {
        let Some(at) = self.by_state.iter().position(|(state, _)| *state == config.state) else {
            self.by_state.push((config.state, vec![config]));
            self.count += 1;
            return false;
        };
        let same_state = &mut self.by_state[at].1;
        let mut has_joined = false;
        loop {
            self.comparisons += same_state.len() as u64;
            if same_state.iter().any(|other| dominates(other, &config, open, slots)) {
                return has_joined;
            }
            let before = same_state.len();
            same_state.retain(|other| !dominates(&config, other, open, slots));
            self.count -= before - same_state.len();
            let alike = |(_, other): &(usize, &Config)| config.differs_in_spent_only(other);
            if same_state.len() < width
                || same_state.iter().enumerate().filter(alike).count() < width
            {
                break;
            }
            let alike = same_state.iter().enumerate().filter(alike);
            let nearest = alike.min_by_key(|(_, other)| config.distance(other, weights));
            let Some((nearest, _)) = nearest else { break };
            config = config.joined(&same_state.swap_remove(nearest), weights);
            self.count -= 1;
            has_joined = true;
        }
        same_state.push(config);
        self.count += 1;
        has_joined
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Config> {
        self.by_state.iter_mut().flat_map(|(_, configs)| configs)
    }

    pub(super) fn into_configs(self) -> impl Iterator<Item = Config> {
        self.by_state.into_iter().flat_map(|(_, configs)| configs)
    }
}

/// Whether `a` can do everything that `b`, of the same state, can.
fn dominates(a: &Config, b: &Config, open: &[OpenStep], slots: &OpenSlots) -> bool {
    // It has observed as much, and agrees on the operations whose order matters.
    if !a.spent_less(b)
        || !is_subset_in(&b.done, &slots.read_only, &a.done)
        || !is_subset_in(&a.done, &slots.blind, &b.done)
        || !is_subset_in(&a.done, &slots.others, &b.done)
        || !is_subset_in(&b.done, &slots.others, &a.done)
    {
        return false;
    }
    // A blind operation that `a` still has to do and that costs `b` nothing, because it is done or
    // can be hidden, must be one that `a` can hide as well.
    let same = a.hides_before >= b.hides_before && a.done == b.done;
    same || open.iter().all(|other| {
        let is_due = other.op.step.is_blind() && !has(&a.done, other.slot);
        let is_free_for_b = has(&b.done, other.slot) || other.op.invoked < b.hides_before;
        !(is_due && is_free_for_b) || other.op.invoked < a.hides_before
    })
}
