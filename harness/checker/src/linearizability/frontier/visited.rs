//! The configurations visited while one operation returns, and those of them that are still to be
//! expanded, the ones that used the fewest indeterminate operations first.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use ahash::RandomState;
use smallvec::SmallVec;

use super::{
    Overflow,
    config::{Config, Words},
};

struct Node {
    config: Config,
    /// Another one can do everything that it can, so it is not expanded.
    is_replaced: bool,
}

/// Configurations that were visited, in groups of those that differ in the indeterminate operations
/// used alone. In a group none used a subset of those of another.
pub(super) struct Visited {
    groups: HashMap<(u32, u32, Words), SmallVec<[u32; 4]>, RandomState>,
    nodes: Vec<Node>,
    /// Nodes to expand, by cost.
    queue: BinaryHeap<Reverse<(u64, u32)>>,
    overflow: Overflow,
    /// Number of comparisons made.
    pub(super) comparisons: u64,
    /// Configurations were dropped or joined.
    pub(super) is_inexact: bool,
}

impl Visited {
    pub(super) fn new(overflow: Overflow) -> Self {
        Visited {
            groups: HashMap::default(),
            nodes: Vec::new(),
            queue: BinaryHeap::new(),
            overflow,
            comparisons: 0,
            is_inexact: false,
        }
    }

    pub(super) fn clear(&mut self) {
        if !self.nodes.is_empty() {
            self.groups.clear();
            self.nodes.clear();
            self.queue.clear();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Takes the next configuration to expand.
    pub(super) fn pop(&mut self) -> Option<Config> {
        while let Some(Reverse((_, node))) = self.queue.pop() {
            let node = &self.nodes[node as usize];
            if !node.is_replaced {
                return Some(node.config.clone());
            }
        }
        None
    }

    /// Adds a configuration unless one was visited that can do everything that it can.
    pub(super) fn push(&mut self, mut config: Config, weights: &[u32]) {
        let key = (config.state, config.hides_before, config.done.clone());
        let group = self.groups.entry(key).or_default();
        let nodes = &mut self.nodes;
        loop {
            self.comparisons += group.len() as u64;
            if group.iter().any(|at| nodes[*at as usize].config.spent_less(&config)) {
                return;
            }
            group.retain(|at| {
                let node = &mut nodes[*at as usize];
                node.is_replaced = config.spent_less(&node.config);
                !node.is_replaced
            });
            let cost = |at: &usize| nodes[group[*at] as usize].config.cost;
            match self.overflow {
                Overflow::Drop { width, .. } if group.len() >= (width / 8).max(1) => {
                    self.is_inexact = true;
                    let most =
                        (0..group.len()).max_by_key(cost).filter(|at| cost(at) > config.cost);
                    let Some(most) = most else { return };
                    nodes[group.swap_remove(most) as usize].is_replaced = true;
                }
                Overflow::Join(width) if group.len() >= width => {
                    self.is_inexact = true;
                    let distance =
                        |at: &usize| config.distance(&nodes[group[*at] as usize].config, weights);
                    let Some(nearest) = (0..group.len()).min_by_key(distance) else { break };
                    let nearest = &mut nodes[group.swap_remove(nearest) as usize];
                    nearest.is_replaced = true;
                    config = config.joined(&nearest.config, weights);
                    continue;
                }
                _ => {}
            }
            break;
        }
        let node = u32::try_from(nodes.len()).expect("fewer configurations than 2^32");
        group.push(node);
        self.queue.push(Reverse((config.cost, node)));
        nodes.push(Node { config, is_replaced: false });
    }
}
