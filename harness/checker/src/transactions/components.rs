//! Components of a history of transactions: sets of transactions of which no two touch a key in common. Each is decided
//! by itself, so machines can share them.
//!
//! A dependency is between transactions that touch the same key, so no cycle of dependencies leaves a component. Real
//! time orders transactions across components, and yet is local: a cycle through several components has two
//! transactions of one component at its ends there, or else each of two transactions would have begun after the other
//! ended, and these two close the cycle within the component, with no more kinds of dependencies. (This is the argument
//! by which linearizability is local, of Herlihy and Wing, 1990.) The order of sessions is not local: each of two sessions
//! may see one component late. So where sessions count, those whose transactions touch two components join these.

use std::collections::{HashMap, HashSet};

use ahash::RandomState;
use history::{
    Completion, Invocation, MalformedHistory, MicroFunction, MicroOp, Outcome, Shard, Sink,
};

use super::history::{TransactionHistory, Workload, mixed};

/// The shard of each key.
#[derive(Debug)]
pub(crate) struct KeyShards {
    /// By key, as it is displayed: the number of the shard.
    shards: HashMap<String, u32, RandomState>,
    /// Number of components.
    pub(crate) components: usize,
    /// Number of transactions in all of them.
    pub(crate) transactions: u64,
    /// By number of the shard, from 1: the number of micro-operations. The first is of no shard.
    pub(crate) micro_ops: Vec<u64>,
}

/// Finds the components of a history that is streamed into it.
#[derive(Debug, Default)]
pub(crate) struct Components {
    /// By key, as it is displayed: its node.
    keys: HashMap<String, u32, RandomState>,
    /// By process: its node, where sessions count.
    sessions: Option<HashMap<u64, u32, RandomState>>,
    /// By node: another node of its component that is nearer to the root.
    parents: Vec<u32>,
    /// By node: the number of micro-operations whose transactions begin with it.
    weights: Vec<u64>,
    workload: Option<Workload>,
    /// By process: whether an info has retired it. Idle ones are absent.
    busy: HashMap<u64, bool, RandomState>,
    transactions: u64,
}

impl Components {
    /// Components of a history; where sessions count, a session belongs to one.
    pub(crate) fn new(sessions_count: bool) -> Self {
        Components { sessions: sessions_count.then(HashMap::default), ..Components::default() }
    }

    fn node(parents: &mut Vec<u32>, weights: &mut Vec<u64>) -> u32 {
        let node = parents.len() as u32;
        parents.push(node);
        weights.push(0);
        node
    }

    fn root(&mut self, mut node: u32) -> u32 {
        loop {
            let parent = self.parents[node as usize];
            if parent == node {
                return node;
            }
            let next = self.parents[parent as usize];
            self.parents[node as usize] = next;
            node = next;
        }
    }

    fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (self.root(one), self.root(other));
        // The older node stays the root, so that the result depends on the history alone.
        self.parents[one.max(other) as usize] = one.min(other);
    }

    /// Distributes the components over the shards: the largest first, each to the shard that has least.
    pub(crate) fn distribute(mut self, of: u32) -> KeyShards {
        let mut sizes: HashMap<u32, u64> = HashMap::new();
        for node in 0..self.parents.len() as u32 {
            let root = self.root(node);
            *sizes.entry(root).or_default() += self.weights[node as usize];
        }
        let mut sorted: Vec<(u32, u64)> = sizes.into_iter().collect();
        sorted.sort_unstable_by_key(|(root, size)| (std::cmp::Reverse(*size), *root));
        let mut micro_ops = vec![0_u64; of as usize + 1];
        let mut shard_of = HashMap::new();
        for (root, size) in &sorted {
            let least = (1..=of).min_by_key(|shard| micro_ops[*shard as usize]).unwrap_or(1);
            micro_ops[least as usize] += size;
            shard_of.insert(*root, least);
        }
        let nodes = std::mem::take(&mut self.keys);
        let shards =
            nodes.into_iter().map(|(key, node)| (key, shard_of[&self.root(node)])).collect();
        let (components, transactions) = (sorted.len(), self.transactions);
        KeyShards { shards, components, transactions, micro_ops }
    }
}

impl Sink for Components {
    fn invoke(
        &mut self,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        TransactionHistory::default().invoke(process, key, invocation)
    }

    fn complete(
        &mut self,
        process: u64,
        _completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        Err(MalformedHistory::not_invoked(process))
    }

    fn invoke_transaction(
        &mut self,
        process: u64,
        ops: &[MicroOp<'_, '_>],
    ) -> Result<(), MalformedHistory> {
        if let Some(retired) = self.busy.insert(process, false) {
            return Err(MalformedHistory::not_idle(process, retired));
        }
        self.transactions += 1;
        let mut first = None;
        for op in ops {
            let workload = match op.f {
                MicroFunction::Read => None,
                MicroFunction::Append => Some(Workload::ListAppend),
                MicroFunction::Write => Some(Workload::Registers),
            };
            if let Some(workload) = workload
                && *self.workload.get_or_insert(workload) != workload
            {
                return Err(mixed());
            }
            let Components { keys, parents, weights, .. } = self;
            let key = op.key.to_string();
            let node = *keys.entry(key).or_insert_with(|| Components::node(parents, weights));
            let first = *first.get_or_insert(node);
            self.join(first, node);
        }
        let Some(first) = first else { return Ok(()) };
        self.weights[first as usize] += ops.len() as u64;
        let Components { sessions, parents, weights, .. } = self;
        if let Some(sessions) = sessions {
            let session =
                *sessions.entry(process).or_insert_with(|| Components::node(parents, weights));
            self.join(first, session);
        }
        Ok(())
    }

    fn complete_transaction(
        &mut self,
        process: u64,
        _ops: &[MicroOp<'_, '_>],
        outcome: Outcome,
    ) -> Result<(), MalformedHistory> {
        match self.busy.remove(&process) {
            Some(false) => {}
            _ => return Err(MalformedHistory::not_invoked(process)),
        }
        if outcome == Outcome::Info {
            self.busy.insert(process, true);
        }
        Ok(())
    }
}

/// Passes the transactions of a shard on to a history. They keep the numbers of their events.
pub(crate) struct ShardSink<'s> {
    history: &'s mut TransactionHistory,
    keys: &'s KeyShards,
    shard: Shard,
    /// The processes with an open transaction of another shard.
    foreign: HashSet<u64, RandomState>,
    events: u64,
}

impl<'s> ShardSink<'s> {
    pub(crate) fn new(
        history: &'s mut TransactionHistory,
        keys: &'s KeyShards,
        shard: Shard,
    ) -> Self {
        ShardSink { history, keys, shard, foreign: HashSet::default(), events: 0 }
    }

    fn next_event(&mut self) {
        self.history.number_event(self.events);
        self.events += 1;
    }
}

impl Sink for ShardSink<'_> {
    fn name_process(&mut self, process: u64, name: &str) {
        self.history.name_process(process, name);
    }

    fn without_real_time(&mut self) {
        self.history.without_real_time();
    }

    fn invoke(
        &mut self,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        self.history.invoke(process, key, invocation)
    }

    fn complete(
        &mut self,
        process: u64,
        completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        self.history.complete(process, completion)
    }

    fn invoke_transaction(
        &mut self,
        process: u64,
        ops: &[MicroOp<'_, '_>],
    ) -> Result<(), MalformedHistory> {
        self.next_event();
        // A transaction that touches no key is decided by the first shard.
        let of = ops.first().and_then(|op| self.keys.shards.get(&op.key.to_string()));
        if *of.unwrap_or(&1) == self.shard.number {
            return self.history.invoke_transaction(process, ops);
        }
        self.foreign.insert(process);
        Ok(())
    }

    fn complete_transaction(
        &mut self,
        process: u64,
        ops: &[MicroOp<'_, '_>],
        outcome: Outcome,
    ) -> Result<(), MalformedHistory> {
        self.next_event();
        if self.foreign.remove(&process) {
            return Ok(());
        }
        self.history.complete_transaction(process, ops, outcome)
    }
}
