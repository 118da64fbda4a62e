//! What the searches for an order of transactions keep while they place one after the other, and take
//! steps back: which nodes still wait for others, and what each register holds.

use std::hash::Hash;

use ahash::RandomState;

use super::{
    graph::Graph,
    history::{NONE, Step, TransactionHistory},
    versions::Versions,
};

/// The most states that a search remembers.
pub(super) const REMEMBERED_MAX: usize = 1 << 20;

/// By node of a graph: the edges from nodes that have not been placed.
pub(super) struct Waiting<'g> {
    graph: &'g Graph,
    counts: Vec<u32>,
}

impl<'g> Waiting<'g> {
    /// Nothing has been placed.
    pub(super) fn new(graph: &'g Graph) -> Self {
        let mut counts = vec![0; graph.nodes() as usize];
        for node in 0..graph.nodes() {
            graph.all_edges(node).iter().for_each(|edge| counts[edge.target() as usize] += 1);
        }
        Waiting { graph, counts }
    }

    /// Whether a node waits for another.
    pub(super) fn is_waiting(&self, node: u32) -> bool {
        self.counts[node as usize] > 0
    }

    /// Places a node, and calls `each` with the transactions that wait for nothing any more. Auxiliary
    /// nodes are placed as soon as they can be.
    pub(super) fn release(&mut self, node: u32, mut each: impl FnMut(u32)) {
        let mut nodes = vec![node];
        while let Some(node) = nodes.pop() {
            for edge in self.graph.all_edges(node) {
                let to = edge.target();
                let count = &mut self.counts[to as usize];
                *count -= 1;
                if *count > 0 {
                    continue;
                }
                if self.graph.is_transaction(to) { each(to) } else { nodes.push(to) }
            }
        }
    }

    /// The opposite: takes a node back, and calls `each` with the transactions that wait again.
    pub(super) fn retract(&mut self, node: u32, mut each: impl FnMut(u32)) {
        let mut nodes = vec![node];
        while let Some(node) = nodes.pop() {
            for edge in self.graph.all_edges(node) {
                let to = edge.target();
                let count = &mut self.counts[to as usize];
                *count += 1;
                if *count > 1 {
                    continue;
                }
                if self.graph.is_transaction(to) { each(to) } else { nodes.push(to) }
            }
        }
    }
}

/// What each register holds, with a hash of it and of what has been placed: searches with the same hash go
/// on alike.
pub(super) struct Held {
    values: Vec<u32>,
    /// The hash. 128 bits: two states with the same one do not occur.
    pub(super) state: u128,
    hashers: [RandomState; 2],
}

impl Held {
    /// No register has been written.
    pub(super) fn new(keys: usize) -> Self {
        let hashers = [RandomState::new(), RandomState::new()];
        Held { values: vec![NONE; keys], state: 0, hashers }
    }

    /// What a register holds; [`NONE`] before it is written.
    pub(super) fn value(&self, key: u32) -> u32 {
        self.values[key as usize]
    }

    /// Whether registers hold these values.
    pub(super) fn are(&self, values: &[(u32, u32)]) -> bool {
        values.iter().all(|(key, value)| self.value(*key) == *value)
    }

    /// Writes registers, and returns what they held.
    pub(super) fn write(&mut self, values: &[(u32, u32)]) -> Vec<(u32, u32)> {
        values.iter().map(|(key, value)| (*key, self.replace(*key, *value))).collect()
    }

    fn replace(&mut self, key: u32, value: u32) -> u32 {
        let before = std::mem::replace(&mut self.values[key as usize], value);
        self.toggle((key, before));
        self.toggle((key, value));
        before
    }

    /// Adds something that was placed to the hash, or removes it.
    pub(super) fn toggle(&mut self, placed: impl Hash) {
        let [high, low] = &self.hashers;
        self.state ^= u128::from(high.hash_one(&placed)) << 64 | u128::from(low.hash_one(&placed));
    }
}

/// The last value that a transaction writes to each key.
pub(super) fn last_writes(
    history: &TransactionHistory,
    versions: &Versions,
    transaction: u32,
) -> Vec<(u32, u32)> {
    let mut writes: Vec<(u32, u32)> = Vec::new();
    for step in history.steps(transaction) {
        if let Step::Write { key, value } = step
            && versions.keys[key as usize].is_usable
        {
            writes.retain(|(of, _)| *of != key);
            writes.push((key, value));
        }
    }
    writes
}
