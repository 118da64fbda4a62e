//! Which kinds of cycles a graph has, and one shortest cycle of each kind to show.
//!
//! What levels rule out is decided by linear passes over components ([`CycleKinds`]). The searches for
//! cycles to show go through candidates edge by edge; they stop after a number of steps.

use std::collections::VecDeque;

use super::{
    graph::{Edge, EdgeKind, Graph, Kinds},
    open::{self, Forbidden, Settled},
};

/// The orders that may close a cycle besides dependencies, from the weakest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// Dependencies alone.
    Dependencies,
    /// The order of a process, too.
    Process,
    /// Real time, too.
    RealTime,
}

impl Order {
    /// Every order.
    pub const ALL: [Order; 3] = [Order::Dependencies, Order::Process, Order::RealTime];

    /// The kinds of edges that it adds.
    pub(super) fn kinds(self) -> Kinds {
        match self {
            Order::Dependencies => Kinds::NONE,
            Order::Process => Kinds::PROCESS,
            Order::RealTime => Kinds::PROCESS.and(Kinds::REAL_TIME),
        }
    }
}

const WRITES: Kinds = Kinds::WW;
const READS: Kinds = Kinds::WW.and(Kinds::WR);
const ALL: Kinds = READS.and(Kinds::RW);

/// The kinds of cycles, as Adya and Elle name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum CycleKind {
    /// Writes alone: a dirty write.
    G0,
    /// Writes and reads, at least one read: circular information flow.
    G1c,
    /// Exactly one anti-dependency: read skew.
    GSingle,
    /// Several anti-dependencies, none of them next to another.
    GNonadjacent,
    /// Anti-dependencies side by side: write skew and others.
    G2Item,
}

impl CycleKind {
    /// Every kind.
    pub(super) const ALL: [CycleKind; 5] = [
        CycleKind::G0,
        CycleKind::G1c,
        CycleKind::GSingle,
        CycleKind::GNonadjacent,
        CycleKind::G2Item,
    ];
}

/// Which kinds of cycles there are with an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CycleKinds {
    /// Of writes alone.
    pub(super) writes: bool,
    /// Of writes and reads.
    pub(super) reads: bool,
    /// With exactly one anti-dependency, or fewer. `None`: undecided.
    pub(super) single: Option<bool>,
    /// Without two anti-dependencies side by side.
    pub(super) nonadjacent: bool,
    /// Any.
    pub(super) any: bool,
    /// Like `single`, in every order of the appends that no read returned.
    pub(super) single_in_every_order: Option<bool>,
    /// Like `nonadjacent`, in every order of the appends that no read returned. `None`: undecided.
    pub(super) nonadjacent_in_every_order: Option<bool>,
}

/// A cycle: transactions, and the kind of the edge from each to the next, the last to the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cycle {
    pub(super) kind: CycleKind,
    pub(super) order: Order,
    pub(super) edges: Vec<(u32, EdgeKind)>,
    /// No cycle of the kind and order is shorter.
    pub(super) is_shortest: bool,
}

/// What is found in a graph.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// By order.
    pub(super) kinds: [CycleKinds; 3],
    pub(super) cycles: Vec<Cycle>,
}

impl Found {
    /// Nothing: the graph has no cycle.
    pub(super) fn nothing() -> Found {
        let none = CycleKinds {
            single: Some(false),
            single_in_every_order: Some(false),
            nonadjacent_in_every_order: Some(false),
            ..CycleKinds::default()
        };
        Found { kinds: [none; 3], cycles: Vec::new() }
    }
}

/// Whether a graph has a cycle with at most one anti-dependency. `None`: that takes too many steps.
pub(super) fn has_single(graph: &Graph, order: Order, steps: u64) -> Option<bool> {
    if graph.has_cycle(READS.and(order.kinds())) {
        return Some(true);
    }
    let mut search = Search::new(graph, steps);
    match search.shortest(CycleKind::GSingle, order) {
        Some(_) => Some(true),
        None if search.is_exhausted() => None,
        None => Some(false),
    }
}

/// Finds the kinds of cycles of a graph, and one shortest cycle of each to show. `open` are
/// transactions that append to one key in an unknown order, by key. Only these orders are looked at, from
/// the weakest on.
pub(super) fn find(graph: &Graph, orders: &[Order], open: &[&[u32]], steps: u64) -> Found {
    let everything = ALL.and(Order::RealTime.kinds());
    let groups = graph.components(everything);
    let mut found = Found::nothing();
    if groups.is_empty() {
        return found;
    }
    let (part, nodes) = graph.part(&groups, everything);
    for order in orders.iter().copied() {
        let kinds = &mut found.kinds[order as usize];
        let with = |base: Kinds| base.and(order.kinds());
        kinds.any = part.has_cycle(with(ALL));
        if kinds.any {
            kinds.writes = part.has_cycle(with(WRITES));
            kinds.reads = kinds.writes || part.has_cycle(with(READS));
            kinds.nonadjacent = kinds.reads
                || part.without_adjacent_rw(with(ALL)).has_cycle(ALL.and(Order::RealTime.kinds()));
            kinds.single = match (kinds.reads, kinds.nonadjacent) {
                (true, _) => Some(true),
                (_, false) => Some(false),
                _ => None,
            };
        }
    }
    let mut search = Search::new(&part, steps);
    for order in orders.iter().copied() {
        for kind in CycleKind::ALL {
            let is_told = found.cycles.iter().any(|cycle| {
                // Whatever a cycle rules out, a lesser one of a weaker order does too.
                cycle.kind == kind || (cycle.order < order && cycle.kind < kind)
            });
            let kinds = &mut found.kinds[order as usize];
            let is_possible = match kind {
                CycleKind::G0 => kinds.writes,
                CycleKind::G1c => kinds.reads,
                CycleKind::GSingle | CycleKind::GNonadjacent => kinds.nonadjacent,
                CycleKind::G2Item => kinds.any,
            };
            if is_told || !is_possible {
                continue;
            }
            let shortest = search.shortest(kind, order);
            if kind == CycleKind::GSingle && kinds.single.is_none() {
                kinds.single = match &shortest {
                    Some(_) => Some(true),
                    None if search.is_exhausted() => None,
                    None => Some(false),
                };
            }
            if let Some(mut cycle) = shortest {
                cycle.edges.iter_mut().for_each(|(node, _)| *node = nodes[*node as usize]);
                found.cycles.push(cycle);
            }
        }
    }
    // A cycle with one anti-dependency is one with every stronger order.
    for at in 1..3 {
        if found.kinds[at - 1].single == Some(true) {
            found.kinds[at].single = Some(true);
        }
    }
    for order in Order::ALL {
        let kinds = &mut found.kinds[order as usize];
        if kinds.any {
            let groups = open_groups(&part, &nodes, open, order);
            kinds.settle(&part, &groups, order);
        }
    }
    found
}

/// The open appends whose order matters: to one key, and in one component.
fn open_groups(part: &Graph, nodes: &[u32], open: &[&[u32]], order: Order) -> Vec<Vec<u32>> {
    if open.is_empty() {
        return Vec::new();
    }
    let mut labels = vec![0; nodes.len()];
    let mut label = 0;
    part.each_component(ALL.and(order.kinds()), |component| {
        label += 1;
        component.iter().for_each(|node| labels[*node as usize] = label);
    });
    let mut groups = Vec::new();
    for unread in open {
        let found = unread.iter().filter_map(|node| nodes.binary_search(node).ok());
        let mut members: Vec<(u32, u32)> = found.map(|at| (labels[at], at as u32)).collect();
        members.sort_unstable();
        for group in members.chunk_by(|one, other| one.0 == other.0) {
            if group.len() > 1 {
                groups.push(group.iter().map(|(_, node)| *node).collect());
            }
        }
    }
    groups
}

impl CycleKinds {
    /// Decides what depends on the order of open appends.
    fn settle(&mut self, part: &Graph, groups: &[Vec<u32>], order: Order) {
        self.nonadjacent_in_every_order = Some(self.nonadjacent);
        self.single_in_every_order = self.single;
        if groups.is_empty() || self.reads {
            return;
        }
        let settle = |forbidden| match open::settle(part, groups, order, forbidden) {
            Settled::Possible => Some(false),
            Settled::Impossible => Some(true),
            Settled::Unknown => None,
        };
        if !self.nonadjacent {
            self.nonadjacent_in_every_order = settle(Forbidden::Nonadjacent);
        }
        if self.nonadjacent_in_every_order == Some(false) {
            self.single_in_every_order = Some(false);
        } else if self.single == Some(false) {
            self.single_in_every_order = settle(Forbidden::Single);
        }
    }
}

/// A state of the search: a node, and what the path to it has.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    node: u32,
    /// Bit 0: the last edge is an anti-dependency. Bit 1: the path has one.
    path: u8,
}

/// Where a state was reached from.
#[derive(Clone, Copy)]
struct Reached {
    state: State,
    kind: EdgeKind,
    distance: u32,
}

/// A search for shortest paths.
struct Search<'g> {
    graph: &'g Graph,
    steps: u64,
    round: u32,
    /// By node: its component by the kinds of edges that are followed, 0 if it is one by itself.
    labels: Vec<u32>,
    /// By state: the round in which it was reached.
    rounds: Vec<u32>,
    reached: Vec<Reached>,
    queue: VecDeque<State>,
}

/// Which paths a search follows.
#[derive(Clone, Copy)]
struct Paths {
    kinds: Kinds,
    /// A node that they avoid.
    avoided: Option<u32>,
    /// They have no anti-dependencies side by side, and at least one, but not at the end.
    is_nonadjacent: bool,
}

impl<'g> Search<'g> {
    fn new(graph: &'g Graph, steps: u64) -> Self {
        let nodes = graph.nodes() as usize;
        let state = State { node: 0, path: 0 };
        Search {
            graph,
            steps,
            round: 0,
            labels: Vec::new(),
            rounds: vec![0; 4 * nodes],
            reached: vec![Reached { state, kind: EdgeKind::Ww, distance: 0 }; 4 * nodes],
            queue: VecDeque::new(),
        }
    }

    fn is_exhausted(&self) -> bool {
        self.steps == 0
    }

    /// A shortest cycle of a kind, with the edges that an order adds.
    fn shortest(&mut self, kind: CycleKind, order: Order) -> Option<Cycle> {
        let with = |base: Kinds| Paths {
            kinds: base.and(order.kinds()),
            avoided: None,
            is_nonadjacent: false,
        };
        self.label(with(if kind == CycleKind::G0 {
            WRITES
        } else if kind == CycleKind::G1c {
            READS
        } else {
            ALL
        }));
        let edges = match kind {
            CycleKind::G0 => self.through(EdgeKind::Ww, with(WRITES)),
            CycleKind::G1c => self.through(EdgeKind::Wr, with(READS)),
            CycleKind::GSingle => self.through(EdgeKind::Rw, with(READS)),
            CycleKind::GNonadjacent => {
                self.through(EdgeKind::Rw, Paths { is_nonadjacent: true, ..with(ALL) })
            }
            CycleKind::G2Item => self.through_two(with(ALL)),
        };
        edges.map(|edges| {
            // A cycle may need less than was allowed.
            let has = |wanted| edges.iter().any(|(_, kind)| *kind == wanted);
            let order = match (has(EdgeKind::RealTime), has(EdgeKind::Process)) {
                (true, _) => Order::RealTime,
                (_, true) => Order::Process,
                _ => Order::Dependencies,
            };
            Cycle { kind, order, edges, is_shortest: !self.is_exhausted() }
        })
    }

    fn label(&mut self, paths: Paths) {
        self.labels.clear();
        self.labels.resize(self.graph.nodes() as usize, 0);
        let mut label = 0;
        let labels = &mut self.labels;
        self.graph.each_component(paths.kinds, |component| {
            if component.len() > 1 {
                label += 1;
                component.iter().for_each(|node| labels[*node as usize] = label);
            }
        });
    }

    /// Whether a cycle may lead through both nodes.
    fn is_together(&self, one: u32, other: u32) -> bool {
        let label = self.labels[one as usize];
        label != 0 && label == self.labels[other as usize]
    }

    /// The shortest cycle through an edge of a kind and a path back.
    fn through(&mut self, kind: EdgeKind, paths: Paths) -> Option<Vec<(u32, EdgeKind)>> {
        let graph = self.graph;
        let mut best: Option<Vec<(u32, EdgeKind)>> = None;
        for from in 0..graph.transactions {
            for to in heads(graph, from, kind) {
                if !self.is_together(from, to) {
                    continue;
                }
                let most = best.as_ref().map_or(u32::MAX, |best| best.len() as u32);
                if most <= 2 || self.is_exhausted() {
                    return best;
                }
                let start = State { node: to, path: u8::from(paths.is_nonadjacent) };
                if let Some(mut path) = self.path(start, from, paths, most - 2) {
                    path.insert(0, (from, kind));
                    if is_simple(&path) {
                        best = Some(path);
                    }
                }
            }
        }
        best
    }

    /// The shortest cycle through two anti-dependencies side by side.
    fn through_two(&mut self, paths: Paths) -> Option<Vec<(u32, EdgeKind)>> {
        let graph = self.graph;
        let mut best: Option<Vec<(u32, EdgeKind)>> = None;
        for from in 0..graph.transactions {
            for middle in heads(graph, from, EdgeKind::Rw) {
                if !self.is_together(from, middle) {
                    continue;
                }
                for to in heads(graph, middle, EdgeKind::Rw) {
                    if to == from {
                        return Some(vec![(from, EdgeKind::Rw), (middle, EdgeKind::Rw)]);
                    }
                    let most = best.as_ref().map_or(u32::MAX, |best| best.len() as u32);
                    if !self.is_together(middle, to) {
                        continue;
                    }
                    // The only shorter one is the one above.
                    if most <= 3 {
                        continue;
                    }
                    if self.is_exhausted() {
                        return best;
                    }
                    let paths = Paths { avoided: Some(middle), ..paths };
                    let start = State { node: to, path: 0 };
                    if let Some(path) = self.path(start, from, paths, most - 3) {
                        let mut edges = vec![(from, EdgeKind::Rw), (middle, EdgeKind::Rw)];
                        edges.extend(path);
                        best = Some(edges);
                    }
                }
            }
        }
        best
    }

    /// A shortest path of at most this many edges, without auxiliary nodes: the nodes, each with the
    /// kind of the edge that leaves it, without the last node.
    fn path(
        &mut self,
        start: State,
        end: u32,
        paths: Paths,
        most: u32,
    ) -> Option<Vec<(u32, EdgeKind)>> {
        self.round += 1;
        self.queue.clear();
        let kind = EdgeKind::Ww;
        self.reach(start, Reached { state: start, kind, distance: 0 });
        self.queue.push_back(start);
        while let Some(state) = self.queue.pop_front() {
            let is_end = state.node == end && (!paths.is_nonadjacent || state.path == 2);
            if is_end {
                return Some(self.way(start, state));
            }
            let distance = self.reached[index(state)].distance;
            // An edge that leaves a transaction counts; its second half, from an auxiliary node on, does
            // not.
            let is_counted = self.graph.is_transaction(state.node);
            if is_counted && distance >= most {
                continue;
            }
            for edge in self.graph.edges(state.node, paths.kinds) {
                self.steps = self.steps.saturating_sub(1);
                if let Some(next) = step(state, edge, paths)
                    && self.is_together(state.node, next.node)
                {
                    let distance = distance + u32::from(is_counted);
                    let is_new = self.rounds[index(next)] != self.round
                        || self.reached[index(next)].distance > distance;
                    if is_new {
                        self.reach(next, Reached { state, kind: edge.kind(), distance });
                        if is_counted {
                            self.queue.push_back(next);
                        } else {
                            self.queue.push_front(next);
                        }
                    }
                }
            }
            if self.steps == 0 {
                return None;
            }
        }
        None
    }

    fn reach(&mut self, state: State, from: Reached) {
        self.rounds[index(state)] = self.round;
        self.reached[index(state)] = from;
    }

    /// The path to a state that was reached.
    fn way(&self, start: State, end: State) -> Vec<(u32, EdgeKind)> {
        let mut way = Vec::new();
        let mut at = end;
        while at != start {
            let Reached { state, kind, .. } = self.reached[index(at)];
            if self.graph.is_transaction(state.node) {
                way.push((state.node, kind));
            }
            at = state;
        }
        way.reverse();
        way
    }
}

/// The state after an edge, if paths may take it.
fn step(state: State, edge: Edge, paths: Paths) -> Option<State> {
    let node = edge.target();
    if paths.avoided == Some(node) {
        return None;
    }
    let path = match edge.kind() {
        _ if !paths.is_nonadjacent => 0,
        EdgeKind::Rw if state.path & 1 == 1 => return None,
        EdgeKind::Rw => 3,
        EdgeKind::Onward => state.path,
        _ => state.path & 2,
    };
    Some(State { node, path })
}

fn index(state: State) -> usize {
    4 * state.node as usize + usize::from(state.path)
}

/// The transactions that edges of a kind lead to from a transaction, also by way of an auxiliary node.
fn heads(graph: &Graph, from: u32, kind: EdgeKind) -> impl Iterator<Item = u32> + '_ {
    let is_wanted = move |edge: &&Edge| edge.kind() == kind;
    graph.all_edges(from).iter().filter(is_wanted).flat_map(move |edge| {
        let to = edge.target();
        let direct = graph.is_transaction(to).then_some(to);
        let onward = if direct.is_none() { graph.all_edges(to) } else { &[] };
        direct.into_iter().chain(onward.iter().map(|edge| edge.target()))
    })
}

/// Whether no transaction occurs twice.
fn is_simple(cycle: &[(u32, EdgeKind)]) -> bool {
    let mut nodes: Vec<u32> = cycle.iter().map(|(node, _)| *node).collect();
    nodes.sort_unstable();
    nodes.windows(2).all(|pair| pair[0] != pair[1])
}
