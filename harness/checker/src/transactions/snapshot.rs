//! A search for an execution under snapshot isolation that explains every read of registers.
//!
//! A transaction reads at its start and writes at its commit, and of two that write the same key one
//! commits before the other starts. A history is one of snapshot isolation if its starts and commits can be
//! ordered so (Cerone and Gotsman). They are placed one after the other, as in [`super::replay`].
//!
//! A start is delayed until something needs it: the commit of the transaction itself, or a commit that
//! replaces what it reads. Nothing else waits for a start, and a later one conflicts with fewer others, so
//! only the order of the commits of writers is searched.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
};

use ahash::RandomState;

use super::{
    frontier::{Held, REMEMBERED_MAX, Waiting, last_writes},
    graph::{EdgeKind, Graph},
    history::{NONE, TransactionHistory},
    registers::{Registers, of_key},
    saturate::{Ends, saturate},
    versions::Versions,
};

/// Whether there is such an execution; `None` if that takes more steps than allowed. The graph has the
/// certain edges, and auxiliary nodes after the transactions.
pub(super) fn is_explained(
    history: &TransactionHistory,
    versions: &Versions,
    registers: &Registers,
    graph: &Graph,
    mut steps: u64,
) -> Option<bool> {
    let ends = Ends::Apart(graph.transactions);
    let Some(graph) = saturate(history, registers, ends, Cow::Owned(apart(graph, ends))) else {
        return Some(false);
    };
    let mut search = Search::new(history, versions, registers, &graph, ends);
    let mut seen: HashSet<u128, RandomState> = HashSet::default();
    search.place_readers(&mut steps);
    while search.committed < search.transactions {
        let mut options = search.options();
        loop {
            if steps == 0 {
                return None;
            }
            if let Some(next) = options.pop() {
                if !search.place(next, &mut options, &mut steps) {
                    continue;
                }
                // Without memory left it searches the same again, which is slower and as exact.
                if seen.len() >= REMEMBERED_MAX || seen.insert(search.held.state) {
                    break;
                }
            }
            match search.take_back() {
                Some(others) => options = others,
                None => return Some(false),
            }
        }
    }
    Some(true)
}

/// The graph whose nodes are starts and commits. Who depends on another starts after its commit; who
/// overwrites what another read commits after its start.
fn apart(graph: &Graph, ends: Ends) -> Graph {
    let transactions = graph.transactions;
    let auxiliary = |node: u32| node + transactions;
    Graph::new(2 * transactions, graph.nodes() + transactions, |emit| {
        for node in 0..transactions {
            emit(ends.start(node), ends.commit(node), EdgeKind::Onward);
        }
        for node in 0..graph.nodes() {
            for edge in graph.all_edges(node) {
                let (to, kind) = (edge.target(), edge.kind());
                let from = match kind {
                    _ if !graph.is_transaction(node) => auxiliary(node),
                    EdgeKind::Rw => ends.start(node),
                    _ => ends.commit(node),
                };
                let to = match kind {
                    _ if !graph.is_transaction(to) => auxiliary(to),
                    EdgeKind::Rw | EdgeKind::Onward => ends.commit(to),
                    _ => ends.start(to),
                };
                emit(from, to, kind);
            }
        }
    })
}

/// An event that can be taken back.
enum Event {
    Start(u32),
    /// A commit, with the registers that it changed and what they held.
    Commit(u32, Vec<(u32, u32)>),
}

/// The commit of a writer, with what came with it.
struct Placed {
    /// Number of events before it.
    events: usize,
    /// Writers that could have been placed instead, the best last.
    others: Vec<u32>,
}

struct Search<'s> {
    history: &'s TransactionHistory,
    registers: &'s Registers,
    ends: Ends,
    waiting: Waiting<'s>,
    /// Transactions that have not committed and whose start waits for nothing, by when they returned.
    ready: BTreeSet<(u32, u32)>,
    has_started: Vec<bool>,
    held: Held,
    /// By key: who has started, will write it, and has not committed.
    writing: Vec<u32>,
    /// By transaction: keys and values that it reads, and the last ones that it writes.
    reads: Vec<Vec<(u32, u32)>>,
    writes: Vec<Vec<(u32, u32)>>,
    /// By transaction: others that start before it commits.
    starts_before: Vec<Vec<u32>>,
    /// Number of transactions that have committed, and of all.
    committed: usize,
    transactions: usize,
    events: Vec<Event>,
    placed: Vec<Placed>,
}

/// A transaction, by when it returned.
fn entry(history: &TransactionHistory, transaction: u32) -> (u32, u32) {
    (history.transactions[transaction as usize].returned, transaction)
}

impl<'s> Search<'s> {
    fn new(
        history: &'s TransactionHistory,
        versions: &Versions,
        registers: &'s Registers,
        graph: &'s Graph,
        ends: Ends,
    ) -> Self {
        let count = history.len();
        let mut search = Search {
            history,
            registers,
            ends,
            waiting: Waiting::new(graph),
            ready: BTreeSet::new(),
            has_started: vec![false; count],
            held: Held::new(history.keys()),
            writing: vec![NONE; history.keys()],
            reads: vec![Vec::new(); count],
            writes: vec![Vec::new(); count],
            starts_before: vec![Vec::new(); count],
            committed: 0,
            transactions: versions.committed(history).count(),
            events: Vec::new(),
            placed: Vec::new(),
        };
        for read in &registers.reads {
            search.reads[read.transaction as usize].push((read.key, read.value));
        }
        for transaction in versions.committed(history) {
            search.writes[transaction as usize] = last_writes(history, versions, transaction);
            for edge in graph.all_edges(ends.start(transaction)) {
                if let Some(other) = ends.committing(edge.target()).filter(|it| *it != transaction)
                {
                    search.starts_before[other as usize].push(transaction);
                }
            }
            if !search.waiting.is_waiting(ends.start(transaction)) {
                search.ready.insert(entry(history, transaction));
            }
        }
        search
    }

    /// The writers whose commit might be next. Who returned first probably took effect first.
    fn options(&self) -> Vec<u32> {
        let ready = self.ready.iter().rev().map(|(_, transaction)| *transaction);
        ready.filter(|transaction| !self.writes[*transaction as usize].is_empty()).collect()
    }

    /// Starts and commits everybody who only reads and can. That is never wrong: nobody waits longer for it.
    fn place_readers(&mut self, steps: &mut u64) {
        loop {
            *steps = steps.saturating_sub(self.ready.len() as u64);
            let may_be_next = |transaction: u32| {
                self.writes[transaction as usize].is_empty()
                    && (self.has_started[transaction as usize]
                        || self.reads_what_is_held(transaction))
            };
            let ready = self.ready.iter().map(|(_, transaction)| *transaction);
            let readers: Vec<u32> = ready.filter(|transaction| may_be_next(*transaction)).collect();
            if readers.is_empty() {
                return;
            }
            for reader in readers {
                if self.has_started[reader as usize] || self.start(reader) {
                    self.commit(reader);
                }
            }
        }
    }

    /// Places the commit of a writer, with the starts that it needs. False, and nothing is placed: it
    /// cannot be next.
    fn place(&mut self, transaction: u32, others: &mut Vec<u32>, steps: &mut u64) -> bool {
        let events = self.events.len();
        let mut starts = vec![transaction];
        starts.extend(&self.starts_before[transaction as usize]);
        for (key, _) in &self.writes[transaction as usize] {
            let version = (*key, self.held.value(*key));
            let readers = of_key(&self.registers.reads, version, |read| (read.key, read.value));
            starts.extend(readers.iter().map(|read| read.transaction));
        }
        *steps = steps.saturating_sub(starts.len() as u64);
        for other in starts {
            if !self.has_started[other as usize] && !self.start(other) {
                self.undo(events);
                return false;
            }
        }
        if self.waiting.is_waiting(self.ends.commit(transaction)) {
            self.undo(events);
            return false;
        }
        self.commit(transaction);
        self.place_readers(steps);
        self.placed.push(Placed { events, others: std::mem::take(others) });
        true
    }

    /// Takes back the last commit of a writer, and returns what could have been placed instead.
    fn take_back(&mut self) -> Option<Vec<u32>> {
        let Placed { events, others } = self.placed.pop()?;
        self.undo(events);
        Some(others)
    }

    fn reads_what_is_held(&self, transaction: u32) -> bool {
        self.held.are(&self.reads[transaction as usize])
    }

    /// Places the start of a transaction, if it can be next.
    fn start(&mut self, transaction: u32) -> bool {
        let node = self.ends.start(transaction);
        let is_free = |(key, _): &(u32, u32)| self.writing[*key as usize] == NONE;
        if self.waiting.is_waiting(node)
            || !self.reads_what_is_held(transaction)
            || !self.writes[transaction as usize].iter().all(is_free)
        {
            return false;
        }
        self.mark_writing(transaction, transaction);
        self.has_started[transaction as usize] = true;
        self.held.toggle((transaction, "start"));
        self.events.push(Event::Start(transaction));
        self.release(node);
        true
    }

    /// Places the commit of a transaction that has started.
    fn commit(&mut self, transaction: u32) {
        let replaced = self.held.write(&self.writes[transaction as usize]);
        self.mark_writing(transaction, NONE);
        self.ready.remove(&entry(self.history, transaction));
        self.committed += 1;
        self.held.toggle((transaction, "commit"));
        self.events.push(Event::Commit(transaction, replaced));
        self.release(self.ends.commit(transaction));
    }

    /// Takes back the events after the first ones.
    fn undo(&mut self, events: usize) {
        while self.events.len() > events {
            match self.events.pop().expect("there are more") {
                Event::Start(transaction) => {
                    self.retract(self.ends.start(transaction));
                    self.held.toggle((transaction, "start"));
                    self.has_started[transaction as usize] = false;
                    self.mark_writing(transaction, NONE);
                }
                Event::Commit(transaction, replaced) => {
                    self.retract(self.ends.commit(transaction));
                    self.held.toggle((transaction, "commit"));
                    self.committed -= 1;
                    self.ready.insert(entry(self.history, transaction));
                    self.mark_writing(transaction, transaction);
                    self.held.write(&replaced);
                }
            }
        }
    }

    fn mark_writing(&mut self, transaction: u32, by: u32) {
        for (key, _) in &self.writes[transaction as usize] {
            self.writing[*key as usize] = by;
        }
    }

    /// Lets go what waits for a node.
    fn release(&mut self, node: u32) {
        let Search { waiting, ready, history, ends, .. } = self;
        waiting.release(node, |next| {
            if ends.committing(next).is_none() {
                ready.insert(entry(history, next));
            }
        });
    }

    /// The opposite.
    fn retract(&mut self, node: u32) {
        let Search { waiting, ready, history, ends, .. } = self;
        waiting.retract(node, |next| {
            if ends.committing(next).is_none() {
                ready.remove(&entry(history, next));
            }
        });
    }
}
