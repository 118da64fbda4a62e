//! Infers which transactions on registers come before which in every order that explains the reads.
//!
//! Let a reader see a writer's version of a key, and let another transaction write the key too. It comes
//! before the writer or after the reader. If the writer is known to come before it, the reader does too; if
//! it is known to come before the reader, it comes before the writer too. This is repeated until nothing
//! new follows. What stays open is left to the search.

use super::{
    graph::{EdgeKind, Graph, Kinds},
    history::{NONE, TransactionHistory},
    registers::{Registers, of_key},
};

/// The most nodes for which it is done: a table has a bit for each pair.
const SATURATED_MAX: u32 = 20_000;

const ALL: Kinds =
    Kinds::WW.and(Kinds::WR).and(Kinds::RW).and(Kinds::PROCESS).and(Kinds::REAL_TIME);

/// Adds the edges that follow. `None`: they close a cycle, so there is no order. A large graph is
/// returned as it is.
pub(super) fn saturate(
    history: &TransactionHistory,
    registers: &Registers,
    mut graph: Graph,
) -> Option<Graph> {
    if graph.nodes() > SATURATED_MAX {
        return Some(graph);
    }
    loop {
        let reach = Reach::of(&graph)?;
        let added = inferred(history, registers, &reach);
        if added.is_empty() {
            return Some(graph);
        }
        graph = Graph::new(graph.transactions, graph.nodes(), |emit| {
            for node in 0..graph.nodes() {
                graph
                    .all_edges(node)
                    .iter()
                    .for_each(|edge| emit(node, edge.target(), edge.kind()));
            }
            added.iter().for_each(|(from, to)| emit(*from, *to, EdgeKind::Rw));
        });
    }
}

/// The edges that follow and are not known.
fn inferred(history: &TransactionHistory, registers: &Registers, reach: &Reach) -> Vec<(u32, u32)> {
    let mut added = Vec::new();
    for read in registers.reads.iter().filter(|read| read.value != NONE) {
        let reader = read.transaction;
        let writer = history.elements[read.value as usize].writer;
        for (_, other) in of_key(&registers.writers, read.key, |writer| writer.0) {
            if *other == writer || *other == reader {
                continue;
            }
            if reach.has(writer, *other) && !reach.has(reader, *other) {
                added.push((reader, *other));
            }
            if reach.has(*other, reader) && !reach.has(*other, writer) {
                added.push((*other, writer));
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
