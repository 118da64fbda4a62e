//! Read committed, read atomic and causal consistency as Biswas and Enea define them (OOPSLA 2019), for
//! transactions on registers: a family of its own beside Adya's levels, with the order of sessions
//! (*so*) always included.
//!
//! A history is of a level if the committed transactions have an order, the *commit order*, that extends so
//! and wr, so that every read of `x` by `r` from a writer `w` satisfies: any other transaction `o` that
//! writes `x` comes before `w`, if `o`
//!
//! - *read committed*: is one that `r` has read from before;
//! - *read atomic*: is one that `r` reads from at all, or comes before `r` in its session;
//! - *causal consistency*: comes before `r` by so and wr, in any number of steps.
//!
//! A register that was never written counts as written before everything else. Each level asks for edges `o`
//! to `w`; the history is of the level if these, so and wr have no cycle. As in AWDIT (PLDI 2025), only edges
//! are derived that do not follow from others: from the last of a session's writers, and to the next read of
//! a key. The cost is that of the smaller of two sets for each pair of reader and writer, and of the sessions
//! for causal consistency.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use ahash::RandomState;

use super::{
    Standing,
    derive::{Rule, applies, sessions},
    graph::{EdgeKind, Graph, Kinds},
    history::{NONE, Step, TransactionHistory},
    versions::Versions,
};

/// A level of Biswas and Enea.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AxiomaticLevel {
    /// Later reads of a transaction do not miss what its earlier reads saw.
    ReadCommitted,
    /// The reads of a transaction see another one entirely or not at all.
    ReadAtomic,
    /// Reads do not miss what comes before them through sessions and reads.
    CausalConsistency,
}

impl AxiomaticLevel {
    /// Every level, from the weakest on.
    pub const ALL: [AxiomaticLevel; 3] = [
        AxiomaticLevel::ReadCommitted,
        AxiomaticLevel::ReadAtomic,
        AxiomaticLevel::CausalConsistency,
    ];
}

/// What is known of the levels, and why one is ruled out.
#[derive(Debug)]
pub(super) struct Axiomatic {
    pub(super) standings: [Standing; 3],
    /// A cycle that rules out the weakest of the levels that a cycle rules out.
    pub(super) cycle: Option<CommitCycle>,
}

/// A cycle of a commit order: the edges that it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommitCycle {
    pub(super) level: AxiomaticLevel,
    pub(super) edges: Vec<CommitEdge>,
}

/// Why one transaction must commit before another. [`NONE`] stands for the registers as they are at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CommitEdge {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) why: Why,
}

/// The reason of an edge of a commit order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// They are of one session.
    Session,
    /// The second reads what the first wrote.
    Read,
    /// The reader read the key from the second, and the first, which the level makes visible to it, writes
    /// the key too.
    Visible { reader: u32, key: u32 },
}

const CAUSAL: Kinds = Kinds::PROCESS.and(Kinds::WR);
const COMMIT: Kinds = CAUSAL.and(Kinds::WW);

/// The most bytes of vector clocks that are kept at a time.
const CLOCKS_MAX: usize = 4 << 30;
/// The most entries of vector clocks that are computed: some minutes of work.
const CLOCK_ENTRIES_MAX: u64 = 1 << 38;

/// Decides the levels of a history on registers. `is_consistent`: reads return what was committed last by
/// whoever they read from, and own writes; else all levels are ruled out.
pub(super) fn decide(
    history: &TransactionHistory,
    versions: &Versions,
    is_consistent: bool,
) -> Axiomatic {
    if !is_consistent {
        let standings = [Standing::RuledOut, Standing::RuledOut, Standing::RuledOut];
        return Axiomatic { standings, cycle: None };
    }
    let accesses = Accesses::of(history, versions);
    let is_usable = versions.keys.iter().all(|key| key.is_usable);
    let mut standings = [const { Standing::Holds }; 3];
    let mut cycle = None;
    for level in AxiomaticLevel::ALL {
        let is_out = standings[..level as usize].contains(&Standing::RuledOut);
        standings[level as usize] = match accesses.check(level) {
            _ if is_out => Standing::RuledOut,
            Checked::Cycle(edges) => {
                cycle = Some(CommitCycle { level, edges });
                Standing::RuledOut
            }
            checked => checked.standing(is_usable),
        };
    }
    Axiomatic { standings, cycle }
}

/// Decides one level alone.
pub(super) fn decide_one(
    history: &TransactionHistory,
    versions: &Versions,
    level: AxiomaticLevel,
) -> Standing {
    let is_usable = versions.keys.iter().all(|key| key.is_usable);
    Accesses::of(history, versions).check(level).standing(is_usable)
}

/// Whether the edges that a level asks for have a cycle.
enum Checked {
    Free,
    Cycle(Vec<CommitEdge>),
    TooLarge,
}

impl Checked {
    /// `is_usable`: nobody wrote a value twice.
    fn standing(&self, is_usable: bool) -> Standing {
        match self {
            Checked::Cycle(_) => Standing::RuledOut,
            Checked::TooLarge => Standing::Unknown(
                "there are too many transactions and sessions for its vector clocks".to_owned(),
            ),
            Checked::Free if is_usable => Standing::Holds,
            Checked::Free => Standing::Unknown(
                "keys have a value that is written twice, so nobody knows whose was read"
                    .to_owned(),
            ),
        }
    }
}

/// A read of what another transaction wrote; the writer is [`NONE`] if nobody did.
#[derive(Clone, Copy)]
struct Read {
    key: u32,
    writer: u32,
}

/// What the committed transactions read and write.
struct Accesses {
    transactions: u32,
    keys: u32,
    /// By transaction, where its reads begin, in order.
    read_starts: Vec<u32>,
    reads: Vec<Read>,
    /// By transaction, where the keys begin that it writes, sorted.
    write_starts: Vec<u32>,
    writes: Vec<u32>,
    /// The transactions of each session.
    sessions: Vec<Vec<u32>>,
    /// The session of a transaction, and its position there.
    places: Vec<(u32, u32)>,
    /// so between neighbours, and wr.
    causal: Graph,
}

impl Accesses {
    fn of(history: &TransactionHistory, versions: &Versions) -> Accesses {
        let mut all = Accesses {
            transactions: history.len() as u32,
            keys: history.keys() as u32,
            read_starts: vec![0],
            reads: Vec::new(),
            write_starts: vec![0],
            writes: Vec::new(),
            sessions: vec![Vec::new(); history.processes.len()],
            places: vec![(NONE, NONE); history.len()],
            causal: Graph::new(0, 0, |_| {}),
        };
        for number in 0..history.len() as u32 {
            if versions.is_committed(number) {
                let session = history.transactions[number as usize].process;
                let members = &mut all.sessions[session as usize];
                all.places[number as usize] = (session, members.len() as u32);
                members.push(number);
                all.add(history, versions, number);
            }
            all.read_starts.push(all.reads.len() as u32);
            all.write_starts.push(all.writes.len() as u32);
        }
        all.causal = Graph::new(all.transactions, all.transactions, |emit| {
            sessions(history, versions, |before, after| emit(before, after, EdgeKind::Process));
            for reader in 0..all.transactions {
                let mut last = NONE;
                for read in all.reads(reader) {
                    if read.writer != NONE && read.writer != last {
                        emit(read.writer, reader, EdgeKind::Wr);
                    }
                    last = read.writer;
                }
            }
        });
        all
    }

    fn add(&mut self, history: &TransactionHistory, versions: &Versions, number: u32) {
        let is_ok = history.transactions[number as usize].outcome == history::Outcome::Ok;
        let start = self.writes.len();
        for step in history.steps(number) {
            match step {
                Step::Write { key, .. } if versions.keys[key as usize].is_usable => {
                    self.writes.push(key);
                }
                // Reads after own writes are internal.
                Step::Register { key, value }
                    if is_ok
                        && versions.keys[key as usize].is_usable
                        && !self.writes[start..].contains(&key) =>
                {
                    let writer =
                        value.map_or(NONE, |value| history.elements[value as usize].writer);
                    self.reads.push(Read { key, writer });
                }
                _ => {}
            }
        }
        self.writes[start..].sort_unstable();
        let mut kept = start;
        for at in start..self.writes.len() {
            if at == start || self.writes[at] != self.writes[kept - 1] {
                self.writes[kept] = self.writes[at];
                kept += 1;
            }
        }
        self.writes.truncate(kept);
    }

    fn reads(&self, transaction: u32) -> &[Read] {
        let [start, end] =
            [0, 1].map(|more| self.read_starts[transaction as usize + more] as usize);
        &self.reads[start..end]
    }

    fn writes(&self, transaction: u32) -> &[u32] {
        let [start, end] =
            [0, 1].map(|more| self.write_starts[transaction as usize + more] as usize);
        &self.writes[start..end]
    }

    fn check(&self, level: AxiomaticLevel) -> Checked {
        if let Some(cycle) = shortest_cycle(&self.causal, CAUSAL) {
            return Checked::Cycle(self.explained(level, &cycle));
        }
        let mut asked: Vec<(u32, u32)> = Vec::new();
        let mut before_first = None;
        let is_complete = self.each(level, &mut |from, to, reader, key| match to {
            NONE => before_first = before_first.or(Some((from, reader, key))),
            _ => asked.push((from, to)),
        });
        if !is_complete {
            return Checked::TooLarge;
        }
        if let Some((from, reader, key)) = before_first {
            let why = Why::Visible { reader, key };
            return Checked::Cycle(vec![CommitEdge { from, to: NONE, why }]);
        }
        let graph = Graph::new(self.transactions, self.transactions, |emit| {
            for node in 0..self.transactions {
                let edges = self.causal.all_edges(node);
                edges.iter().for_each(|edge| emit(node, edge.target(), edge.kind()));
            }
            asked.iter().for_each(|(from, to)| emit(*from, *to, EdgeKind::Ww));
        });
        match shortest_cycle(&graph, COMMIT) {
            Some(cycle) => Checked::Cycle(self.explained(level, &cycle)),
            None => Checked::Free,
        }
    }

    /// Calls `ask` with the edges that a level asks for: from, to, and the reader and key that ask for it.
    /// False if that takes too much.
    fn each(&self, level: AxiomaticLevel, ask: &mut dyn FnMut(u32, u32, u32, u32)) -> bool {
        match level {
            AxiomaticLevel::ReadCommitted => self.read_committed(ask),
            AxiomaticLevel::ReadAtomic => self.read_atomic(ask),
            AxiomaticLevel::CausalConsistency => return self.causal_consistency(ask),
        }
        true
    }

    /// Each read is compared with the next read of each key: a later one follows from reads between.
    fn read_committed(&self, ask: &mut dyn FnMut(u32, u32, u32, u32)) {
        let mut next = Marks::new(self.keys);
        let mut first = Marks::new(self.transactions);
        let mut pending: Vec<u32> = Vec::new();
        for reader in 0..self.transactions {
            let reads = self.reads(reader);
            if reads.len() < 2 {
                continue;
            }
            pending.clear();
            for (at, read) in reads.iter().enumerate().rev() {
                if read.writer != NONE {
                    first.set(reader, read.writer, at as u32);
                }
            }
            for (at, read) in reads.iter().enumerate().rev() {
                let Read { key, writer } = *read;
                let after = next.get(reader, key);
                if let Some(after) = after
                    && after != writer
                    && writer != NONE
                    && applies(Rule::NextRead)
                {
                    ask(writer, after, reader, key);
                }
                if writer != NONE && first.get(reader, writer) == Some(at as u32) {
                    self.intersect(writer, &pending, |other| {
                        if let Some(after) = next.get(reader, other)
                            && after != writer
                            && applies(Rule::ReadBefore)
                        {
                            ask(writer, after, reader, other);
                        }
                    });
                }
                if after.is_none() {
                    pending.push(key);
                }
                next.set(reader, key, writer);
            }
        }
    }

    fn read_atomic(&self, ask: &mut dyn FnMut(u32, u32, u32, u32)) {
        let mut from = Marks::new(self.keys);
        let mut seen = Marks::new(self.transactions);
        let mut written = Marks::new(self.keys);
        let mut keys: Vec<u32> = Vec::new();
        for (session, members) in self.sessions.iter().enumerate() {
            for reader in members.iter().copied() {
                keys.clear();
                for Read { key, writer } in self.reads(reader) {
                    match from.get(reader, *key) {
                        None => {
                            from.set(reader, *key, *writer);
                            keys.push(*key);
                        }
                        // Two versions of a key: each writer has to come before the other.
                        Some(before) if before != *writer => {
                            for (one, other) in [(before, *writer), (*writer, before)] {
                                if one != NONE && applies(Rule::OneVersion) {
                                    ask(one, other, reader, *key);
                                }
                            }
                        }
                        Some(_) => {}
                    }
                }
                for key in &keys {
                    let writer = from.get(reader, *key).unwrap_or(NONE);
                    if let Some(before) = written.get(session as u32, *key)
                        && before != writer
                        && applies(Rule::AtomicSession)
                    {
                        ask(before, writer, reader, *key);
                    }
                }
                for Read { writer, .. } in self.reads(reader) {
                    if *writer == NONE || seen.get(reader, *writer).is_some() {
                        continue;
                    }
                    seen.set(reader, *writer, 0);
                    self.intersect(*writer, &keys, |key| {
                        if let Some(other) = from.get(reader, key)
                            && other != *writer
                            && applies(Rule::AtomicRead)
                        {
                            ask(*writer, other, reader, key);
                        }
                    });
                }
                for key in self.writes(reader) {
                    written.set(session as u32, *key, reader);
                }
            }
        }
    }

    /// The last writer of a key in each session that is before the reader. False if that takes too much.
    fn causal_consistency(&self, ask: &mut dyn FnMut(u32, u32, u32, u32)) -> bool {
        // By key, session and position.
        let mut starts = vec![0_u32; self.keys as usize + 1];
        self.writes.iter().for_each(|key| starts[*key as usize + 1] += 1);
        for key in 0..self.keys as usize {
            starts[key + 1] += starts[key];
        }
        let mut writers = vec![(0_u32, 0_u32); self.writes.len()];
        let mut ends = starts.clone();
        for (session, members) in self.sessions.iter().enumerate() {
            for (at, writer) in members.iter().enumerate() {
                for key in self.writes(*writer) {
                    let end = &mut ends[*key as usize];
                    writers[*end as usize] = (session as u32, at as u32);
                    *end += 1;
                }
            }
        }
        self.each_clock(|reader, clock| {
            for Read { key, writer } in self.reads(reader) {
                let [start, end] = [0, 1].map(|more| starts[*key as usize + more] as usize);
                for group in writers[start..end].chunk_by(|one, other| one.0 == other.0) {
                    let session = group[0].0 as usize;
                    let before = group.partition_point(|(_, at)| *at < clock[session]);
                    if let Some(last) = before.checked_sub(1) {
                        let other = self.sessions[session][group[last].1 as usize];
                        if other != *writer && applies(Rule::Causal) {
                            ask(other, *writer, reader, *key);
                        }
                    }
                }
            }
        })
    }

    /// Calls `each` with the vector clock of every committed transaction: how many transactions of each
    /// session come before it by so and wr. A clock is kept until all that follow directly have theirs.
    /// False, and some are left out: that takes too much.
    fn each_clock(&self, mut each: impl FnMut(u32, &[u32])) -> bool {
        let width = self.sessions.len();
        if u64::from(self.transactions) * width as u64 > CLOCK_ENTRIES_MAX {
            return false;
        }
        let before = Graph::new(self.transactions, self.transactions, |emit| {
            for node in 0..self.transactions {
                let edges = self.causal.all_edges(node);
                edges.iter().for_each(|edge| emit(edge.target(), node, edge.kind()));
            }
        });
        let count = |graph: &Graph| -> Vec<u32> {
            (0..self.transactions).map(|node| graph.all_edges(node).len() as u32).collect()
        };
        let (mut waits_for, mut awaited_by) = (count(&before), count(&self.causal));
        let mut clocks: HashMap<u32, Vec<u32>, RandomState> = HashMap::default();
        let mut spare: Vec<Vec<u32>> = Vec::new();
        let is_ready = |node: &u32| waits_for[*node as usize] == 0;
        // In the order of invocations as far as possible: then few clocks are kept.
        let mut ready: BinaryHeap<Reverse<u32>> =
            (0..self.transactions).filter(is_ready).map(Reverse).collect();
        while let Some(Reverse(node)) = ready.pop() {
            let mut clock = spare.pop().unwrap_or_default();
            clock.clear();
            clock.resize(width, 0);
            for edge in before.all_edges(node) {
                let from = edge.target();
                let known = clocks.get(&from).expect("it is kept while somebody waits for it");
                clock.iter_mut().zip(known).for_each(|(own, other)| *own = (*own).max(*other));
                let (session, at) = self.places[from as usize];
                clock[session as usize] = clock[session as usize].max(at + 1);
                awaited_by[from as usize] -= 1;
                if awaited_by[from as usize] == 0 {
                    spare.extend(clocks.remove(&from));
                }
            }
            if self.places[node as usize].0 != NONE {
                each(node, &clock);
            }
            for edge in self.causal.all_edges(node) {
                let waits_for = &mut waits_for[edge.target() as usize];
                *waits_for -= 1;
                if *waits_for == 0 {
                    ready.push(Reverse(edge.target()));
                }
            }
            match awaited_by[node as usize] {
                0 => spare.push(clock),
                _ => drop(clocks.insert(node, clock)),
            }
            if clocks.len() * width * size_of::<u32>() > CLOCKS_MAX {
                return false;
            }
        }
        true
    }

    /// Calls `each` with the keys of a list that a transaction writes, and perhaps with others that it
    /// writes.
    fn intersect(&self, writer: u32, keys: &[u32], mut each: impl FnMut(u32)) {
        let writes = self.writes(writer);
        if keys.len() <= writes.len() {
            let is_written = |key: &&u32| writes.binary_search(key).is_ok();
            keys.iter().filter(is_written).for_each(|key| each(*key));
        } else {
            writes.iter().for_each(|key| each(*key));
        }
    }

    /// A cycle with the reason for each edge.
    fn explained(&self, level: AxiomaticLevel, cycle: &[(u32, EdgeKind)]) -> Vec<CommitEdge> {
        let is_asked = |(at, (_, kind)): (usize, &(u32, EdgeKind))| {
            (*kind == EdgeKind::Ww).then(|| (cycle[at].0, cycle[(at + 1) % cycle.len()].0))
        };
        let asked: Vec<(u32, u32)> = cycle.iter().enumerate().filter_map(is_asked).collect();
        let mut reasons: Vec<(u32, u32, Why)> = Vec::new();
        if !asked.is_empty() {
            self.each(level, &mut |from, to, reader, key| {
                if asked.contains(&(from, to)) {
                    reasons.push((from, to, Why::Visible { reader, key }));
                }
            });
        }
        let edge = |at: usize| {
            let (from, kind) = cycle[at];
            let to = cycle[(at + 1) % cycle.len()].0;
            let why = match kind {
                EdgeKind::Process => Why::Session,
                EdgeKind::Wr => Why::Read,
                _ => {
                    let found = reasons.iter().find(|reason| (reason.0, reason.1) == (from, to));
                    found.expect("it was asked for").2
                }
            };
            CommitEdge { from, to, why }
        };
        (0..cycle.len()).map(edge).collect()
    }
}

/// A number for each of some things, valid for one owner at a time: clearing costs nothing.
struct Marks(Vec<(u32, u32)>);

impl Marks {
    fn new(count: u32) -> Marks {
        Marks(vec![(NONE, 0); count as usize])
    }

    fn get(&self, owner: u32, of: u32) -> Option<u32> {
        let (set_by, number) = self.0[of as usize];
        (set_by == owner).then_some(number)
    }

    fn set(&mut self, owner: u32, of: u32, number: u32) {
        self.0[of as usize] = (owner, number);
    }
}

/// A cycle of a graph: nodes, each with the kind of the edge to the next. None through the same node is
/// shorter.
fn shortest_cycle(graph: &Graph, kinds: Kinds) -> Option<Vec<(u32, EdgeKind)>> {
    let mut component: Vec<u32> = Vec::new();
    graph.each_component(kinds, |found| {
        let is_better = component.is_empty() || found.len() < component.len();
        if found.len() > 1 && is_better {
            component = found.to_vec();
        }
    });
    component.sort_unstable();
    let start = *component.first()?;
    let position = |node: u32| component.binary_search(&node).ok();
    let mut reached: Vec<Option<(u32, EdgeKind)>> = vec![None; component.len()];
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for edge in graph.edges(node, kinds) {
            let Some(at) = position(edge.target()) else { continue };
            if reached[at].is_some() {
                continue;
            }
            reached[at] = Some((node, edge.kind()));
            if edge.target() == start {
                queue.clear();
                break;
            }
            queue.push_back(edge.target());
        }
    }
    let mut cycle = Vec::new();
    let mut node = start;
    loop {
        let (before, kind) = reached[position(node)?]?;
        cycle.push((before, kind));
        node = before;
        if node == start {
            break;
        }
    }
    cycle.reverse();
    Some(cycle)
}
