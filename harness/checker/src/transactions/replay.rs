//! A search for an order of transactions on registers that explains every read.
//!
//! Transactions are placed one after the other. One may be next if everything that certainly comes before
//! it has been placed, if its reads return what the registers hold, and if nobody who is still to be placed
//! reads a version that it replaces: a value is written once, so a version that was replaced never comes
//! back. Who only reads is placed at once. Only the choice among writers is taken back, depth first. A
//! search that ends without an order has shown that there is none.

use std::collections::{BTreeSet, HashMap, HashSet};

use ahash::RandomState;

use super::{
    frontier::{Held, REMEMBERED_MAX, Waiting, last_writes},
    graph::Graph,
    history::TransactionHistory,
    registers::Registers,
    versions::Versions,
};

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Replayed {
    /// An order.
    Order(Vec<u32>),
    /// There is none.
    None,
    /// It takes more steps than allowed.
    Unknown,
}

/// A step that can be taken back.
struct Placed {
    transaction: u32,
    /// Registers that it changed, and what they held.
    replaced: Vec<(u32, u32)>,
    /// Writers that could have been placed instead, the best last.
    others: Vec<u32>,
}

struct Search<'s> {
    waiting: Waiting<'s>,
    /// Transactions that nothing certain must come before, by when they returned.
    ready: BTreeSet<(u32, u32)>,
    returned: Vec<u32>,
    held: Held,
    /// By key and value: readers that are not placed.
    readers: HashMap<(u32, u32), u32, RandomState>,
    /// By transaction: keys and values that it reads, and the last ones that it writes.
    reads: Vec<Vec<(u32, u32)>>,
    writes: Vec<Vec<(u32, u32)>>,
    placed: Vec<Placed>,
}

/// Searches for an order. The graph has the certain edges, and auxiliary nodes after the transactions.
pub(super) fn replay(
    history: &TransactionHistory,
    versions: &Versions,
    registers: &Registers,
    graph: &Graph,
    mut steps: u64,
) -> Replayed {
    let mut search = Search::new(history, versions, registers, graph);
    let count = versions.committed(history).count();
    let mut seen: HashSet<u128, RandomState> = HashSet::default();
    while search.placed.len() < count {
        let mut options = search.options(&mut steps);
        if steps == 0 {
            return Replayed::Unknown;
        }
        loop {
            if let Some(next) = options.pop() {
                search.place(next, options);
                let writes = search.placed.last().is_some_and(|last| !last.replaced.is_empty());
                // Without memory left it searches the same again, which is slower and as exact.
                if !writes || seen.len() >= REMEMBERED_MAX || seen.insert(search.held.state) {
                    break;
                }
            }
            match search.take_back() {
                Some(others) => options = others,
                None => return Replayed::None,
            }
        }
    }
    Replayed::Order(search.placed.iter().map(|placed| placed.transaction).collect())
}

impl<'s> Search<'s> {
    fn new(
        history: &TransactionHistory,
        versions: &Versions,
        registers: &Registers,
        graph: &'s Graph,
    ) -> Self {
        let count = history.len();
        let mut search = Search {
            waiting: Waiting::new(graph),
            ready: BTreeSet::new(),
            returned: history.transactions.iter().map(|one| one.returned).collect(),
            held: Held::new(history.keys()),
            readers: HashMap::default(),
            reads: vec![Vec::new(); count],
            writes: vec![Vec::new(); count],
            placed: Vec::new(),
        };
        for read in &registers.reads {
            let version = (read.key, read.value);
            search.reads[read.transaction as usize].push(version);
            *search.readers.entry(version).or_default() += 1;
        }
        for transaction in versions.committed(history) {
            search.writes[transaction as usize] = last_writes(history, versions, transaction);
            if !search.waiting.is_waiting(transaction) {
                search.ready.insert((search.returned[transaction as usize], transaction));
            }
        }
        search
    }

    /// What may be placed next: somebody who only reads, which is never wrong, or all who write.
    fn options(&self, steps: &mut u64) -> Vec<u32> {
        let mut writers = Vec::new();
        for (_, transaction) in &self.ready {
            *steps = steps.saturating_sub(1);
            if self.may_be_next(*transaction) {
                if self.writes[*transaction as usize].is_empty() {
                    return vec![*transaction];
                }
                writers.push(*transaction);
            }
        }
        // Who returned first probably took effect first.
        writers.reverse();
        writers
    }

    fn may_be_next(&self, transaction: u32) -> bool {
        let reads = &self.reads[transaction as usize];
        let is_free = |(key, _): &(u32, u32)| {
            let version = (*key, self.held.value(*key));
            let own = u32::from(reads.contains(&version));
            self.readers.get(&version).copied().unwrap_or(0) == own
        };
        self.held.are(reads) && self.writes[transaction as usize].iter().all(is_free)
    }

    fn place(&mut self, transaction: u32, others: Vec<u32>) {
        self.ready.remove(&(self.returned[transaction as usize], transaction));
        for version in &self.reads[transaction as usize] {
            *self.readers.entry(*version).or_default() -= 1;
        }
        let replaced = self.held.write(&self.writes[transaction as usize]);
        self.held.toggle(transaction);
        let Search { waiting, ready, returned, .. } = self;
        waiting.release(transaction, |next| {
            ready.insert((returned[next as usize], next));
        });
        self.placed.push(Placed { transaction, replaced, others });
    }

    /// Takes back the last step, and returns what could have been placed instead.
    fn take_back(&mut self) -> Option<Vec<u32>> {
        let Placed { transaction, replaced, others } = self.placed.pop()?;
        let Search { waiting, ready, returned, .. } = self;
        waiting.retract(transaction, |next| {
            ready.remove(&(returned[next as usize], next));
        });
        self.held.toggle(transaction);
        self.held.write(&replaced);
        for version in &self.reads[transaction as usize] {
            *self.readers.entry(*version).or_default() += 1;
        }
        self.ready.insert((self.returned[transaction as usize], transaction));
        Some(others)
    }
}
