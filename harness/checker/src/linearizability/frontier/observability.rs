//! Until when some operation can still observe a state.

use std::collections::HashMap;

use super::steps::{OPEN, States, Step, TimedStep};

/// For each state, the last time at which an operation can observe it.
pub(super) struct Observability {
    /// By observed state: the last return of an operation that observes it.
    last: HashMap<u32, u32>,
    /// With appends: the observed texts, sorted. A text can be observed as long as one that begins
    /// with it can.
    texts: Vec<Box<[u8]>>,
    /// Element `i` of level `n`: the greatest return of the texts `i..i + 2^n`.
    levels: Vec<Vec<u32>>,
    /// Cached results for states.
    cache: HashMap<u32, u32>,
    /// Every state counts as observable.
    is_unlimited: bool,
}

impl Observability {
    pub(super) fn new(operations: &[TimedStep], states: &States) -> Self {
        let mut last: HashMap<u32, u32> = HashMap::new();
        let mut has_appends = false;
        for op in operations {
            match op.step {
                Step::Read(state) | Step::Cas(state, _) | Step::Mismatch(state) => {
                    let until = last.entry(state).or_default();
                    *until = (*until).max(op.returned);
                }
                Step::Append(_) => has_appends = true,
                Step::Write(_) => {}
            }
        }
        let mut texts = Vec::new();
        let mut levels = Vec::new();
        if has_appends {
            let mut observed: Vec<(Box<[u8]>, u32)> =
                last.iter().map(|(state, until)| (states.bytes(*state).into(), *until)).collect();
            observed.sort_unstable();
            let (sorted, mut level): (Vec<_>, Vec<_>) = observed.into_iter().unzip();
            texts = sorted;
            let mut width = 1;
            while !level.is_empty() {
                let next = (0..level.len().saturating_sub(width))
                    .map(|at| level[at].max(level[at + width]))
                    .collect();
                levels.push(std::mem::replace(&mut level, next));
                width *= 2;
            }
        }
        Observability { last, texts, levels, cache: HashMap::new(), is_unlimited: false }
    }

    /// Makes every state observable for ever, so that all states are distinguished.
    pub(super) fn unlimited(self) -> Self {
        Observability { is_unlimited: true, ..self }
    }

    /// Whether every state counts as observable for ever.
    pub(super) fn is_unlimited(&self) -> bool {
        self.is_unlimited
    }

    /// The last time at which an operation may observe the state, or a text that begins with it.
    pub(super) fn until(&mut self, state: u32, states: &States) -> u32 {
        if self.is_unlimited {
            return OPEN;
        }
        if self.texts.is_empty() {
            return self.last.get(&state).copied().unwrap_or(0);
        }
        if let Some(until) = self.cache.get(&state) {
            return *until;
        }
        let until = self.text_until(states.bytes(state));
        self.cache.insert(state, until);
        until
    }

    /// The same for a text.
    fn text_until(&self, text: &[u8]) -> u32 {
        let from = self.texts.partition_point(|other| **other < *text);
        let count = self.texts[from..].partition_point(|other| other.starts_with(text));
        match count.checked_ilog2() {
            None => 0,
            Some(power) => {
                let level = &self.levels[power as usize];
                level[from].max(level[from + count - (1 << power)])
            }
        }
    }
}
