//! Small counterexamples: a few operations that have no order whatever else happened.
//!
//! Removing operations is sound. A linearizable history stays linearizable when gets, or all
//! operations of a value, are removed; and when deletes are removed that none of the remaining empty
//! gets can have observed.

mod register;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

pub(super) use self::{
    register::from_violation,
    steps::{Break, STEPS_MAX, from_break},
};
use super::{frontier::Step, zones::ZoneViolation};

/// Operations that have no order, by position, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// The smallest part of the history found that has no order.
    pub operations: Vec<u32>,
    /// The operation whose return ends the shortest prefix of the history without an order that was
    /// found. It is the shortest of all unless finding that takes too many steps.
    pub breaks_at: u32,
    /// Where the part begins, `None` if with the history.
    pub start: Option<StartState>,
    /// Why the part has no order.
    pub reason: Reason,
    /// Texts of states that no operation writes or reads.
    pub texts: BTreeMap<u32, String>,
}

/// A moment in a history, and the states possible then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartState {
    /// The operation that has just returned, by position.
    pub after: u32,
    /// The states that the key may have had. Operations open at that moment may have changed it
    /// further.
    pub held: Vec<u32>,
}

/// Why operations have no order. Values are numbers, operations are positions in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Tier 1: a rule is violated.
    Rule(ZoneViolation),
    /// Tier 2: no order of the operations before leads to a state in which the operation is possible.
    Unreachable {
        /// What the operation does.
        step: Step,
        /// The states possible right before its return, `None` if finding them takes too many steps.
        held: Option<Vec<u32>>,
    },
}

impl Counterexample {
    /// Every operation that an explanation names, by position.
    pub(crate) fn named(&self) -> impl Iterator<Item = u32> {
        let by_rule = match &self.reason {
            Reason::Rule(
                ZoneViolation::DeleteBlocked { delete: position, .. }
                | ZoneViolation::EmptyGetBlocked { get: position, .. }
                | ZoneViolation::NoDelete { get: position, .. },
            ) => Some(*position),
            _ => None,
        };
        let start = self.start.as_ref().map(|start| start.after);
        self.operations.iter().copied().chain([self.breaks_at]).chain(by_rule).chain(start)
    }
}

/// Removes units of operations from a part as long as the rest has no order: halves of all units
/// first, then quarters and so on.
fn remove_units(
    mut part: Vec<u32>,
    mut units: Vec<Vec<u32>>,
    mut has_no_order: impl FnMut(&[u32]) -> bool,
) -> Vec<u32> {
    let mut size = units.len().next_power_of_two();
    while size > 0 {
        let mut at = 0;
        while at < units.len() {
            let end = (at + size).min(units.len());
            let removed: BTreeSet<u32> = units[at..end].iter().flatten().copied().collect();
            let rest: Vec<u32> =
                part.iter().copied().filter(|position| !removed.contains(position)).collect();
            if rest.len() < part.len() && has_no_order(&rest) {
                part = rest;
                units.drain(at..end);
            } else {
                at = end;
            }
        }
        size /= 2;
    }
    part
}
