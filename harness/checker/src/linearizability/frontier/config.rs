//! Configurations, and the set of those that no other one dominates.

use super::{
    super::slot_set::SlotSet,
    steps::{Step, TimedStep},
};

/// A state that the key may have, and the open operations that have taken effect to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Config {
    pub(super) state: u32,
    /// The event at which a blind write last took effect, plus one. An operation invoked before it
    /// can be hidden under that write.
    pub(super) hides_before: u32,
    /// The open operations that have taken effect, by slot.
    pub(super) done: SlotSet,
    /// How many indeterminate operations of each class have taken effect, without trailing zeros.
    pub(super) used: Vec<u32>,
    /// The last link of its trail, [`NO_LINK`] if there is none.
    pub(super) trail: u32,
}

/// An open operation that will return.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenStep {
    pub(super) slot: usize,
    pub(super) position: u32,
    pub(super) op: TimedStep,
}

/// Indeterminate operations that do the same.
#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) step: Step,
    /// Positions of those invoked so far.
    pub(super) members: Vec<u32>,
}

/// One operation that took effect, in the linked list that is the trail of a configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) before: u32,
    pub(super) position: u32,
    /// It took effect right before the last blind write.
    pub(super) hidden: bool,
}

/// The end of a trail.
pub(super) const NO_LINK: u32 = u32::MAX;

/// Appends an operation to the trail of a configuration, if trails are kept.
pub(super) fn link(
    links: &mut Option<Vec<Link>>,
    config: &mut Config,
    position: u32,
    hidden: bool,
) {
    if let Some(links) = links {
        let here = u32::try_from(links.len()).expect("fewer links than 2^32");
        links.push(Link { before: config.trail, position, hidden });
        config.trail = here;
    }
}

/// The slots of open operations by what their steps can do.
#[derive(Debug, Default)]
pub(super) struct OpenSlots {
    pub(super) read_only: SlotSet,
    pub(super) blind: SlotSet,
    pub(super) others: SlotSet,
}

impl OpenSlots {
    pub(super) fn of_kind(&mut self, step: Step) -> &mut SlotSet {
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
}

impl Antichain {
    /// Adds a configuration unless another one dominates it, and drops those that it dominates.
    pub(super) fn add(&mut self, config: Config, open: &[OpenStep], slots: &OpenSlots) {
        let Some(at) = self.by_state.iter().position(|(state, _)| *state == config.state) else {
            self.by_state.push((config.state, vec![config]));
            self.count += 1;
            return;
        };
        let same_state = &mut self.by_state[at].1;
        if same_state.iter().any(|other| dominates(other, &config, open, slots)) {
            return;
        }
        let before = same_state.len();
        same_state.retain(|other| !dominates(&config, other, open, slots));
        self.count -= before - same_state.len();
        same_state.push(config);
        self.count += 1;
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
    if !b.done.intersection_is_subset(&slots.read_only, &a.done)
        || !a.done.intersection_is_subset(&slots.blind, &b.done)
        || !a.done.intersection_is_subset(&slots.others, &b.done)
        || !b.done.intersection_is_subset(&slots.others, &a.done)
    {
        return false;
    }
    let used = |config: &Config, class: usize| config.used.get(class).copied().unwrap_or(0);
    if (0..a.used.len()).any(|class| used(a, class) > used(b, class)) {
        return false;
    }
    // A blind operation that `a` still has to do and that costs `b` nothing, because it is done or
    // can be hidden, must be one that `a` can hide as well.
    let same = a.hides_before >= b.hides_before && a.done == b.done;
    same || open.iter().all(|other| {
        let is_due = other.op.step.is_blind() && !a.done.contains(other.slot);
        let is_free_for_b = b.done.contains(other.slot) || other.op.invoked < b.hides_before;
        !(is_due && is_free_for_b) || other.op.invoked < a.hides_before
    })
}
