//! Infers which transactions on registers come before which in every order that explains the reads.
//!
//! Let a reader see a writer's version of a key, and let another transaction write the key too. It comes
//! before the writer or after the reader. If the writer is known to come before it, the reader does too; if
//! it is known to come before the reader, it comes before the writer too. This is repeated until nothing
//! new follows. What stays open is left to the search.
//!
//! Under snapshot isolation a transaction is two nodes, its start and its commit ([`Ends::Apart`]). It reads
//! at its start and writes at its commit, and of two that write a key one commits before the other starts.

use std::borrow::Cow;

use super::{
    derive::{Rule, applies},
    graph::{EdgeKind, Graph, Kinds},
    history::{NONE, TransactionHistory},
    registers::{Registers, of_key},
};

/// The most nodes for which it is done: a table has a bit for each pair.
const SATURATED_MAX: u32 = 20_000;

const ALL: Kinds =
    Kinds::WW.and(Kinds::WR).and(Kinds::RW).and(Kinds::PROCESS).and(Kinds::REAL_TIME);

/// The nodes that a transaction has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// One: it takes place at an instant.
    Together,
    /// Two, of this number of transactions: the starts, then the commits, then auxiliary nodes.
    Apart(u32),
}

impl Ends {
    /// The node of a transaction's start.
    pub(super) fn start(self, transaction: u32) -> u32 {
        transaction
    }

    /// The node of its commit.
    pub(super) fn commit(self, transaction: u32) -> u32 {
        match self {
            Ends::Together => transaction,
            Ends::Apart(transactions) => transactions + transaction,
        }
    }

    /// The transaction whose commit a node is, apart from its start.
    pub(super) fn committing(self, node: u32) -> Option<u32> {
        match self {
            Ends::Together => None,
            Ends::Apart(transactions) => {
                node.checked_sub(transactions).filter(|transaction| *transaction < transactions)
            }
        }
    }
}

/// Adds the edges that follow. `None`: they close a cycle, so there is no order. A large graph is
/// returned as it is.
pub(super) fn saturate<'g>(
    history: &TransactionHistory,
    registers: &Registers,
    ends: Ends,
    mut graph: Cow<'g, Graph>,
) -> Option<Cow<'g, Graph>> {
    if graph.nodes() > SATURATED_MAX || !applies(Rule::Saturate) {
        return Some(graph);
    }
    loop {
        let reach = Reach::of(&graph)?;
        let added = inferred(history, registers, ends, &reach);
        if added.is_empty() {
            return Some(graph);
        }
        let larger = Graph::new(graph.transactions, graph.nodes(), |emit| {
            for node in 0..graph.nodes() {
                graph
                    .all_edges(node)
                    .iter()
                    .for_each(|edge| emit(node, edge.target(), edge.kind()));
            }
            added.iter().for_each(|(from, to)| emit(*from, *to, EdgeKind::Rw));
        });
        graph = Cow::Owned(larger);
    }
}

/// The edges that follow and are not known.
fn inferred(
    history: &TransactionHistory,
    registers: &Registers,
    ends: Ends,
    reach: &Reach,
) -> Vec<(u32, u32)> {
    let mut added = Vec::new();
    let mut add = |from: u32, to: u32| {
        if !reach.has(from, to) {
            added.push((from, to));
        }
    };
    for read in registers.reads.iter().filter(|read| read.value != NONE) {
        let reader = read.transaction;
        let writer = history.elements[read.value as usize].writer;
        for (_, other) in of_key(&registers.writers, read.key, |writer| writer.0) {
            if *other == writer || *other == reader {
                continue;
            }
            if reach.has(ends.start(writer), ends.commit(*other)) {
                add(ends.start(reader), ends.commit(*other));
            }
            if reach.has(ends.commit(*other), ends.start(reader)) {
                add(ends.commit(*other), ends.start(writer));
            }
        }
    }
    if ends != Ends::Together {
        for writers in registers.writers.chunk_by(|one, other| one.0 == other.0) {
            let pairs =
                writers.iter().flat_map(|one| writers.iter().map(move |other| (one, other)));
            for ((_, one), (_, other)) in pairs.filter(|(one, other)| one != other) {
                if reach.has(ends.start(*one), ends.commit(*other)) {
                    add(ends.commit(*one), ends.start(*other));
                }
            }
        }
    }
    added.sort_unstable();
    added.dedup();
    added
}

/// Which nodes reach which.
struct Reach {
    words: usize,
    bits: Vec<u64>,
}

impl Reach {
    /// `None` if there is a cycle.
    fn of(graph: &Graph) -> Option<Reach> {
        let words = graph.nodes().div_ceil(64) as usize;
        let mut bits = vec![0_u64; words * graph.nodes() as usize];
        let mut row = vec![0_u64; words];
        let mut has_cycle = false;
        // A component comes after all that it leads to.
        graph.each_component(ALL, |component| {
            has_cycle |= component.len() > 1;
            let node = component[0];
            row.fill(0);
            for edge in graph.all_edges(node) {
                let to = edge.target() as usize;
                row[to / 64] |= 1 << (to % 64);
                let below = &bits[to * words..(to + 1) * words];
                row.iter_mut().zip(below).for_each(|(word, below)| *word |= below);
            }
            let start = node as usize * words;
            bits[start..start + words].copy_from_slice(&row);
        });
        (!has_cycle).then_some(Reach { words, bits })
    }

    fn has(&self, from: u32, to: u32) -> bool {
        self.bits[from as usize * self.words + to as usize / 64] >> (to % 64) & 1 == 1
    }
}
