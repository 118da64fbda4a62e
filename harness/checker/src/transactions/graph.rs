//! Graphs as compressed rows, and their strongly connected components.
//!
//! Nodes are transactions, followed by auxiliary nodes. An edge takes four bytes: its target, and its
//! kind in the upper three bits.

/// The kinds of edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(super) enum EdgeKind {
    /// Both write a key, the first before the second.
    Ww,
    /// The second reads what the first wrote.
    Wr,
    /// The second overwrites what the first read.
    Rw,
    /// The first precedes the second in one process.
    Process,
    /// The first returned before the second was invoked; or a part of a path through instants.
    RealTime,
    /// From an auxiliary node onward: the second half of an edge.
    Onward,
}

/// A set of kinds of edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    pub(super) const NONE: Kinds = Kinds(0);
    pub(super) const WW: Kinds = Kinds(1 << EdgeKind::Ww as u8);
    pub(super) const WR: Kinds = Kinds(1 << EdgeKind::Wr as u8);
    pub(super) const RW: Kinds = Kinds(1 << EdgeKind::Rw as u8 | 1 << EdgeKind::Onward as u8);
    pub(super) const PROCESS: Kinds = Kinds(1 << EdgeKind::Process as u8);
    pub(super) const REAL_TIME: Kinds = Kinds(1 << EdgeKind::RealTime as u8);

    #[must_use]
    pub(super) const fn and(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }
}

const KIND_SHIFT: u32 = 29;
const TARGET: u32 = (1 << KIND_SHIFT) - 1;

/// The most nodes of a graph.
pub(super) const NODES_MAX: u32 = TARGET;

/// An edge as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge(u32);

impl Edge {
    fn new(target: u32, kind: EdgeKind) -> Edge {
        Edge(target | (kind as u32) << KIND_SHIFT)
    }

    #[inline]
    pub(super) fn target(self) -> u32 {
        self.0 & TARGET
    }

    #[inline]
    pub(super) fn kind(self) -> EdgeKind {
        match self.0 >> KIND_SHIFT {
            0 => EdgeKind::Ww,
            1 => EdgeKind::Wr,
            2 => EdgeKind::Rw,
            3 => EdgeKind::Process,
            4 => EdgeKind::RealTime,
            _ => EdgeKind::Onward,
        }
    }

    #[inline]
    fn is_of(self, kinds: Kinds) -> bool {
        kinds.0 >> (self.0 >> KIND_SHIFT) & 1 == 1
    }
}

/// A graph as compressed rows.
#[derive(Clone, Debug)]
pub(super) struct Graph {
    /// Nodes before this one are transactions.
    pub(super) transactions: u32,
    /// Where the edges of each node begin, and at last the number of edges.
    starts: Vec<u32>,
    edges: Vec<Edge>,
}

impl Graph {
    /// The graph with these edges, which are asked for twice: to count them, and to store them.
    pub(super) fn new(
        transactions: u32,
        nodes: u32,
        edges: impl Fn(&mut dyn FnMut(u32, u32, EdgeKind)),
    ) -> Graph {
        let mut starts = vec![0_u32; nodes as usize + 2];
        edges(&mut |from, _, _| starts[from as usize + 2] += 1);
        for node in 2..starts.len() {
            starts[node] += starts[node - 1];
        }
        let count = starts.last().copied().unwrap_or(0);
        let mut stored = vec![Edge(0); count as usize];
        edges(&mut |from, to, kind| {
            let next = &mut starts[from as usize + 1];
            stored[*next as usize] = Edge::new(to, kind);
            *next += 1;
        });
        starts.pop();
        Graph { transactions, starts, edges: stored }
    }

    /// Number of nodes.
    pub(super) fn nodes(&self) -> u32 {
        self.starts.len() as u32 - 1
    }

    /// Number of edges.
    pub(super) fn edge_count(&self) -> usize {
        self.edges.len()
    }

    /// The edges of a node.
    #[inline]
    pub(super) fn all_edges(&self, node: u32) -> &[Edge] {
        &self.edges[self.starts[node as usize] as usize..self.starts[node as usize + 1] as usize]
    }

    /// The edges of a node that are of these kinds.
    pub(super) fn edges(&self, node: u32, kinds: Kinds) -> impl Iterator<Item = Edge> + '_ {
        self.all_edges(node).iter().copied().filter(move |edge| edge.is_of(kinds))
    }

    /// Whether a node is a transaction.
    pub(super) fn is_transaction(&self, node: u32) -> bool {
        node < self.transactions
    }

    /// The graph whose nodes are pairs of a node and whether the last edge was an anti-dependency
    /// (rw), without edges of that kind after one another. A node has the numbers `2 * node` and
    /// `2 * node + 1`. Its cycles are those without two anti-dependencies side by side.
    pub(super) fn without_adjacent_rw(&self, kinds: Kinds) -> Graph {
        let edges = |emit: &mut dyn FnMut(u32, u32, EdgeKind)| {
            for node in 0..self.nodes() {
                for edge in self.edges(node, kinds) {
                    let (to, kind) = (2 * edge.target(), edge.kind());
                    match kind {
                        EdgeKind::Rw => emit(2 * node, to + 1, kind),
                        EdgeKind::Onward => emit(2 * node + 1, to + 1, kind),
                        _ => {
                            emit(2 * node, to, kind);
                            emit(2 * node + 1, to, kind);
                        }
                    }
                }
            }
        };
        Graph::new(0, 2 * self.nodes(), edges)
    }

    /// The part of the graph on these nodes, with edges of these kinds between nodes of one group.
    /// Nodes get new numbers, in the order of the old ones; the old ones are returned.
    pub(super) fn part(&self, groups: &[Vec<u32>], kinds: Kinds) -> (Graph, Vec<u32>) {
        let mut nodes: Vec<(u32, u32)> = Vec::new();
        for (group, members) in groups.iter().enumerate() {
            nodes.extend(members.iter().map(|node| (*node, group as u32)));
        }
        nodes.sort_unstable();
        let find = |node: u32| nodes.binary_search_by_key(&node, |(node, _)| *node).ok();
        let edges = |emit: &mut dyn FnMut(u32, u32, EdgeKind)| {
            for (from, (node, group)) in nodes.iter().enumerate() {
                for edge in self.edges(*node, kinds) {
                    if let Some(to) = find(edge.target())
                        && nodes[to].1 == *group
                    {
                        emit(from as u32, to as u32, edge.kind());
                    }
                }
            }
        };
        let transactions = nodes.partition_point(|(node, _)| self.is_transaction(*node)) as u32;
        let part = Graph::new(transactions, nodes.len() as u32, edges);
        (part, nodes.into_iter().map(|(node, _)| node).collect())
    }

    /// The strongly connected components with more than one node, by edges of these kinds.
    pub(super) fn components(&self, kinds: Kinds) -> Vec<Vec<u32>> {
        let mut found = Vec::new();
        self.each_component(kinds, |component| {
            if component.len() > 1 {
                found.push(component.to_vec());
            }
        });
        found
    }

    /// Whether there is a cycle of edges of these kinds.
    pub(super) fn has_cycle(&self, kinds: Kinds) -> bool {
        let mut found = false;
        self.each_component(kinds, |component| found |= component.len() > 1);
        found
    }

    /// Calls `each` with the strongly connected components by edges of these kinds, one after all that
    /// can be reached from it. This is Tarjan's algorithm with a stack of its own, since a path may
    /// lead through every node.
    pub(super) fn each_component(&self, kinds: Kinds, mut each: impl FnMut(&[u32])) {
        const UNSEEN: u32 = 0;
        const DONE: u32 = u32::MAX;
        // Set in a path entry whose node reaches an earlier one that is open: it is no root.
        const REACHES_BACK: u32 = 1 << 31;
        let nodes = self.nodes();
        // The least number of a node that is reached from this one and still open.
        let mut low = vec![UNSEEN; nodes as usize];
        let mut open: Vec<u32> = Vec::new();
        // The path: a node, and its next edge.
        let mut path: Vec<(u32, u32)> = Vec::new();
        let mut numbered = 0;
        for root in 0..nodes {
            if low[root as usize] != UNSEEN {
                continue;
            }
            let mut entered = Some(root);
            loop {
                if let Some(node) = entered.take() {
                    numbered += 1;
                    low[node as usize] = numbered;
                    open.push(node);
                    path.push((node, self.starts[node as usize]));
                }
                let Some((entry, next)) = path.last_mut() else { break };
                let node = *entry & !REACHES_BACK;
                let end = self.starts[node as usize + 1];
                let mut lowest = low[node as usize];
                while *next < end {
                    let edge = self.edges[*next as usize];
                    *next += 1;
                    if !edge.is_of(kinds) {
                        continue;
                    }
                    let seen = low[edge.target() as usize];
                    if seen == UNSEEN {
                        entered = Some(edge.target());
                        break;
                    }
                    // What is done has the greatest number.
                    if seen < lowest {
                        lowest = seen;
                        *entry |= REACHES_BACK;
                    }
                }
                low[node as usize] = lowest;
                if entered.is_some() {
                    continue;
                }
                let is_root = *entry & REACHES_BACK == 0;
                path.pop();
                if is_root {
                    let start =
                        open.iter().rposition(|other| *other == node).expect("it is still open");
                    each(&open[start..]);
                    open.drain(start..).for_each(|member| low[member as usize] = DONE);
                } else if let Some((parent, _)) = path.last_mut() {
                    let lowest_of_parent = &mut low[(*parent & !REACHES_BACK) as usize];
                    if lowest < *lowest_of_parent {
                        *lowest_of_parent = lowest;
                        *parent |= REACHES_BACK;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Kinds = Kinds(u8::MAX);

    fn graph(nodes: u32, edges: &[(u32, u32, EdgeKind)]) -> Graph {
        Graph::new(nodes, nodes, |emit| {
            edges.iter().for_each(|(from, to, kind)| emit(*from, *to, *kind));
        })
    }

    #[test]
    fn components_are_found_by_kind() {
        use EdgeKind::{Rw, Wr, Ww};
        let graph = graph(5, &[(0, 1, Ww), (1, 2, Wr), (2, 0, Rw), (2, 3, Ww), (3, 4, Ww)]);
        let mut found = graph.components(ALL);
        found.iter_mut().for_each(|component| component.sort_unstable());
        assert_eq!(found, [vec![0, 1, 2]]);
        assert!(!graph.has_cycle(Kinds::WW.and(Kinds::WR)));
        let mut order = Vec::new();
        graph.each_component(Kinds::WW.and(Kinds::WR), |component| order.push(component[0]));
        order.reverse();
        assert_eq!(order, [0, 1, 2, 3, 4], "what depends on others comes after them");
    }

    #[test]
    fn a_cycle_of_adjacent_rw_is_no_cycle_of_the_doubled_graph() {
        use EdgeKind::{Rw, Wr};
        let skew = graph(2, &[(0, 1, Rw), (1, 0, Rw)]);
        assert!(skew.has_cycle(ALL) && !skew.without_adjacent_rw(ALL).has_cycle(ALL));
        let fork = graph(4, &[(0, 1, Rw), (1, 2, Wr), (2, 3, Rw), (3, 0, Wr)]);
        assert!(fork.without_adjacent_rw(ALL).has_cycle(ALL));
        // Two cycles that only meet in a node, where one would have to turn from rw to rw.
        let eight = graph(3, &[(0, 1, Rw), (1, 0, Rw), (0, 2, Wr), (2, 0, Rw)]);
        assert!(eight.without_adjacent_rw(ALL).has_cycle(ALL), "0, 2, 0 has a single rw");
    }

    #[test]
    fn a_long_path_takes_no_stack() {
        let nodes = 200_000;
        let graph = Graph::new(nodes, nodes, |emit| {
            (0..nodes).for_each(|node| emit(node, (node + 1) % nodes, EdgeKind::Ww));
        });
        assert_eq!(graph.components(ALL)[0].len(), 200_000);
    }
}
