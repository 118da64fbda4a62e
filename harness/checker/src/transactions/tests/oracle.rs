//! Decides small histories by trying everything: every choice of the transactions of unknown outcome
//! that took effect, every order of the transactions, and every order of the versions of each key.
//! Shares nothing with the checker.
//!
//! Serializability replays permutations. Snapshot isolation replays every order of starts and commits.
//! The levels below try version orders against Adya's definitions.

use history::Outcome;

use super::super::{AxiomaticLevel, BaseLevel, Order};

/// A micro-operation of a small history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Append(u8, u8),
    /// Reads a list. Without a result the transaction is not ok.
    Read(u8, Option<Vec<u8>>),
}

/// A transaction of a small history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Txn {
    pub(super) process: u64,
    pub(super) ops: Vec<Op>,
    /// What the system says of the version that each operation wrote or read; empty if it says nothing.
    pub(super) versions: Vec<Option<u64>>,
    pub(super) outcome: Outcome,
    pub(super) invoked: u32,
    pub(super) returned: u32,
}

impl Txn {
    fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }

    /// What it appends to a key, in order.
    fn appends(&self, key: u8) -> impl Iterator<Item = u8> + '_ {
        self.ops.iter().filter_map(move |op| match op {
            Op::Append(of, element) if *of == key => Some(*element),
            _ => None,
        })
    }
}

/// What the transactions of a history do. On registers, an append is a write, and a read returns a list
/// of at most one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Objects {
    Lists,
    Registers,
    /// Registers of which the system tells versions.
    VersionedRegisters,
}

impl Objects {
    pub(super) fn are_registers(self) -> bool {
        self != Objects::Lists
    }
}

/// What transactions work on, and what orders them.
#[derive(Clone, Copy)]
struct Rules {
    objects: Objects,
    order: Order,
}

/// The number of keys of small histories.
pub(super) const KEYS: u8 = 3;

/// Whether a history is one of a level.
pub(super) fn holds(objects: Objects, history: &[Txn], base: BaseLevel, order: Order) -> bool {
    let rules = Rules { objects, order };
    any_outcome(history, |committed| match base {
        BaseLevel::Serializable | BaseLevel::RepeatableRead => is_serializable(committed, rules),
        BaseLevel::SnapshotIsolation => is_snapshot(committed, rules),
        _ => has_versions(committed, base, rules),
    })
}

/// Whether a history is allowed with some choice of the transactions of unknown outcome that took effect.
fn any_outcome(history: &[Txn], is_allowed: impl Fn(&[&Txn]) -> bool) -> bool {
    let open: Vec<usize> =
        (0..history.len()).filter(|at| history[*at].outcome == Outcome::Info).collect();
    (0..1_u32 << open.len()).any(|chosen| {
        let took_effect = |at: &usize| match history[*at].outcome {
            Outcome::Ok => true,
            Outcome::Fail => false,
            Outcome::Info => {
                open.iter().position(|one| one == at).is_some_and(|bit| chosen >> bit & 1 == 1)
            }
        };
        let committed: Vec<&Txn> =
            (0..history.len()).filter(took_effect).map(|at| &history[at]).collect();
        is_allowed(&committed)
    })
}

/// Whether a history on registers is one of a level of Biswas and Enea: tries all orders of commits.
pub(super) fn is_axiomatic(history: &[Txn], level: AxiomaticLevel) -> bool {
    any_outcome(history, |committed| {
        let Some(reads) = external_reads(committed) else { return false };
        let mut order: Vec<usize> = (0..committed.len()).collect();
        loop {
            if commits(committed, &reads, &order, level) {
                return true;
            }
            let ascends = (1..order.len()).rev().find(|at| order[at - 1] < order[*at]);
            let Some(at) = ascends else { return false };
            let larger = (at..order.len()).rev().find(|other| order[*other] > order[at - 1]);
            order.swap(at - 1, larger.expect("the one at the place is"));
            order[at..].reverse();
        }
    })
}

/// A read of a register: its key, and who wrote what it returned, `None` if nobody did.
type ExternalRead = (u8, Option<usize>);

/// By transaction, what it reads of others, in order. `None`: some read cannot be.
fn external_reads(committed: &[&Txn]) -> Option<Vec<Vec<ExternalRead>>> {
    let mut all = Vec::new();
    for (at, txn) in committed.iter().enumerate() {
        let mut reads = Vec::new();
        let mut own: Vec<(u8, u8)> = Vec::new();
        for op in txn.ops.iter().filter(|_| txn.is_ok()) {
            match op {
                Op::Append(key, value) => own.push((*key, *value)),
                Op::Read(key, read) => {
                    let read = read.as_ref().and_then(|read| read.last().copied());
                    let written = own.iter().rfind(|(of, _)| of == key).map(|(_, value)| *value);
                    if written.is_some() {
                        (written == read).then_some(())?;
                        continue;
                    }
                    let Some(value) = read else {
                        reads.push((*key, None));
                        continue;
                    };
                    let wrote = |other: &Txn| other.appends(*key).last() == Some(value);
                    let writer = committed.iter().position(|other| wrote(other))?;
                    (writer != at).then_some(())?;
                    reads.push((*key, Some(writer)));
                }
            }
        }
        all.push(reads);
    }
    Some(all)
}

/// Whether an order of commits is allowed.
fn commits(
    committed: &[&Txn],
    reads: &[Vec<ExternalRead>],
    order: &[usize],
    level: AxiomaticLevel,
) -> bool {
    let count = committed.len();
    let place = |of: usize| order.iter().position(|one| *one == of);
    let rules = Rules { objects: Objects::Registers, order: Order::Process };
    let mut before = vec![vec![false; count]; count];
    for one in 0..count {
        for other in 0..count {
            let is_read = reads[other].iter().any(|(_, writer)| *writer == Some(one));
            let is_session = one != other && precedes(committed[one], committed[other], rules);
            before[one][other] = is_read || is_session;
            if before[one][other] && place(one) >= place(other) {
                return false;
            }
        }
    }
    let direct = before.clone();
    for middle in 0..count {
        for from in 0..count {
            for to in 0..count {
                before[from][to] |= before[from][middle] && before[middle][to];
            }
        }
    }
    (0..count).all(|reader| {
        (0..reads[reader].len()).all(|at| {
            let (key, writer) = reads[reader][at];
            (0..count).all(|other| {
                let is_visible = match level {
                    AxiomaticLevel::ReadCommitted => {
                        reads[reader][..at].iter().any(|(_, from)| *from == Some(other))
                    }
                    AxiomaticLevel::ReadAtomic => direct[other][reader],
                    AxiomaticLevel::CausalConsistency => before[other][reader],
                };
                let writes = committed[other].appends(key).next().is_some();
                let is_free = Some(other) == writer || !is_visible || !writes;
                is_free || writer.is_some_and(|writer| place(other) < place(writer))
            })
        })
    })
}

/// Whether one transaction must come before another.
fn precedes(one: &Txn, other: &Txn, rules: Rules) -> bool {
    one.is_ok()
        && match rules.order {
            Order::Dependencies => false,
            Order::Process => one.process == other.process && one.returned < other.invoked,
            Order::RealTime => one.returned < other.invoked,
        }
}

/// Applies a transaction to lists, and compares what it reads with them.
fn replay(txn: &Txn, lists: &mut [Vec<u8>], objects: Objects) -> bool {
    txn.ops.iter().all(|op| match op {
        Op::Append(key, element) => {
            lists[usize::from(*key)].push(*element);
            true
        }
        Op::Read(key, read) => {
            let held = &lists[usize::from(*key)];
            !txn.is_ok()
                || read.as_ref().is_some_and(|read| match objects {
                    Objects::Lists => read == held,
                    Objects::Registers | Objects::VersionedRegisters => read.last() == held.last(),
                })
        }
    })
}

/// The versions that the system tells of the last value that a transaction writes to a key.
fn told(committed: &[&Txn], writer: &Txn, key: u8) -> Vec<u64> {
    let Some(last) = writer.appends(key).last() else { return Vec::new() };
    let mut told = Vec::new();
    for txn in committed.iter().filter(|txn| txn.is_ok()) {
        for (op, version) in txn.ops.iter().zip(&txn.versions) {
            let is_it = match op {
                Op::Append(of, value) => *of == key && *value == last,
                Op::Read(of, read) => {
                    let value = read.as_ref().and_then(|read| read.last());
                    *of == key && value == Some(&last) && txn.appends(key).all(|own| own != last)
                }
            };
            told.extend(version.filter(|_| is_it));
        }
    }
    told.sort_unstable();
    told.dedup();
    told
}

/// Whether the orders of versions are those that the system tells, where it does, and it does not contradict
/// itself.
fn agrees_with_versions(committed: &[&Txn], lists: &[Vec<u8>]) -> bool {
    (0..KEYS).all(|key| {
        let mut before = None;
        lists[usize::from(key)].iter().all(|value| {
            let is_last = |txn: &&&Txn| txn.appends(key).last() == Some(*value);
            let Some(writer) = committed.iter().find(is_last) else { return true };
            match told(committed, writer, key).as_slice() {
                [] => true,
                [version] => before.replace(*version).is_none_or(|before| before < *version),
                _ => false,
            }
        })
    })
}

/// Whether the order of all versions follows from what the system tells.
pub(super) fn tells_every_version(history: &[Txn]) -> bool {
    let is_read = |key: u8, value: u8| {
        let reads = history.iter().filter(|txn| txn.is_ok()).flat_map(|txn| &txn.ops);
        let is_it = |op: &Op| matches!(op, Op::Read(of, Some(read)) if *of == key && read.last() == Some(&value));
        reads.into_iter().any(is_it)
    };
    let is_committed = |txn: &&Txn| match txn.outcome {
        Outcome::Ok => true,
        Outcome::Fail => false,
        Outcome::Info => (0..KEYS).any(|key| txn.appends(key).any(|value| is_read(key, value))),
    };
    let committed: Vec<&Txn> = history.iter().filter(is_committed).collect();
    let is_told = |writer: &&Txn, key: u8| !told(&committed, writer, key).is_empty();
    let tells_any = (0..KEYS).any(|key| committed.iter().any(|writer| is_told(writer, key)));
    tells_any
        && (0..KEYS).all(|key| {
            let writers: Vec<&Txn> =
                committed.iter().copied().filter(|txn| txn.appends(key).next().is_some()).collect();
            writers.len() < 2 || writers.iter().all(|writer| is_told(writer, key))
        })
}

fn is_serializable(committed: &[&Txn], rules: Rules) -> bool {
    fn extend(committed: &[&Txn], done: u32, lists: &[Vec<u8>], rules: Rules) -> bool {
        if done.count_ones() as usize == committed.len() {
            return agrees_with_versions(committed, lists);
        }
        (0..committed.len()).any(|next| {
            let is_left = |at: usize| done >> at & 1 == 0;
            let must_wait = (0..committed.len()).any(|other| {
                other != next
                    && is_left(other)
                    && precedes(committed[other], committed[next], rules)
            });
            let mut lists = lists.to_vec();
            is_left(next)
                && !must_wait
                && replay(committed[next], &mut lists, rules.objects)
                && extend(committed, done | 1 << next, &lists, rules)
        })
    }
    extend(committed, 0, &vec![Vec::new(); usize::from(KEYS)], rules)
}

/// Snapshot isolation as a database does it: a transaction reads a snapshot of its start, and commits only
/// if nobody has committed to its keys since.
fn is_snapshot(committed: &[&Txn], rules: Rules) -> bool {
    #[derive(Clone)]
    struct State {
        lists: Vec<Vec<u8>>,
        /// By key: how often it was committed to.
        versions: Vec<u32>,
        /// By transaction: the versions at its start, once it has started.
        started: Vec<Option<Vec<u32>>>,
        committed: u32,
    }
    fn extend(all: &[&Txn], state: &State, rules: Rules) -> bool {
        if state.committed.count_ones() as usize == all.len() {
            return agrees_with_versions(all, &state.lists);
        }
        (0..all.len()).any(|at| {
            if state.committed >> at & 1 == 1 {
                return false;
            }
            let mut next = state.clone();
            match &state.started[at] {
                None => {
                    let must_wait = (0..all.len()).any(|other| {
                        state.committed >> other & 1 == 0 && precedes(all[other], all[at], rules)
                    });
                    next.started[at] = Some(state.versions.clone());
                    !must_wait
                        && replay(all[at], &mut state.lists.clone(), rules.objects)
                        && extend(all, &next, rules)
                }
                Some(versions) => {
                    for key in 0..KEYS {
                        let at_key = usize::from(key);
                        if all[at].appends(key).next().is_some() {
                            if versions[at_key] != state.versions[at_key] {
                                return false;
                            }
                            next.versions[at_key] += 1;
                            next.lists[at_key].extend(all[at].appends(key));
                        }
                    }
                    next.committed |= 1 << at;
                    extend(all, &next, rules)
                }
            }
        })
    }
    let state = State {
        lists: vec![Vec::new(); usize::from(KEYS)],
        versions: vec![0; usize::from(KEYS)],
        started: vec![None; committed.len()],
        committed: 0,
    };
    extend(committed, &state, rules)
}

/// Tries all orders of the versions of each key: orders of its committed elements.
fn has_versions(committed: &[&Txn], base: BaseLevel, rules: Rules) -> bool {
    fn choose(
        committed: &[&Txn],
        chosen: &mut Vec<Vec<u8>>,
        base: BaseLevel,
        rules: Rules,
    ) -> bool {
        let key = chosen.len() as u8;
        if key == KEYS {
            return is_allowed(committed, chosen, base, rules);
        }
        let reads = committed.iter().filter(|txn| txn.is_ok()).flat_map(|txn| &txn.ops);
        let longest = reads
            .filter_map(|op| match op {
                Op::Read(of, Some(read)) if *of == key && rules.objects == Objects::Lists => {
                    Some(read.as_slice())
                }
                _ => None,
            })
            .max_by_key(|read| read.len())
            .unwrap_or_default();
        let queues: Vec<Vec<u8>> = committed.iter().map(|txn| txn.appends(key).collect()).collect();
        interleave(&queues, longest, &mut Vec::new(), &mut |list| {
            chosen.push(list.to_vec());
            let found = choose(committed, chosen, base, rules);
            chosen.pop();
            found
        })
    }
    choose(committed, &mut Vec::new(), base, rules)
}

/// Calls `each` with the orders of all elements that keep the order of each queue and begin with a read,
/// until it returns true.
fn interleave(
    queues: &[Vec<u8>],
    read: &[u8],
    list: &mut Vec<u8>,
    each: &mut dyn FnMut(&[u8]) -> bool,
) -> bool {
    if queues.iter().all(Vec::is_empty) {
        return list.len() >= read.len() && each(list);
    }
    (0..queues.len()).any(|at| {
        let Some(next) = queues[at].first().copied() else { return false };
        if read.get(list.len()).is_some_and(|wanted| *wanted != next) {
            return false;
        }
        let mut rest = queues.to_vec();
        rest[at].remove(0);
        list.push(next);
        let found = interleave(&rest, read, list, each);
        list.pop();
        found
    })
}

/// The kinds of edges of the oracle's graph.
const WW: u8 = 1;
const WR: u8 = 2;
const RW: u8 = 4;
const BEFORE: u8 = 8;

/// Whether a level allows a history with these orders of versions.
fn is_allowed(committed: &[&Txn], lists: &[Vec<u8>], base: BaseLevel, rules: Rules) -> bool {
    if !agrees_with_versions(committed, lists) {
        return false;
    }
    let count = committed.len();
    let mut edges = vec![vec![0_u8; count]; count];
    let writer = |key: u8, element: u8| {
        committed.iter().position(|txn| txn.appends(key).any(|own| own == element))
    };
    for (at, txn) in committed.iter().enumerate() {
        for other in 0..count {
            if other != at && precedes(txn, committed[other], rules) {
                edges[at][other] |= BEFORE;
            }
        }
        for key in 0..KEYS {
            let list = &lists[usize::from(key)];
            // Own elements keep their order.
            let own: Vec<u8> = list
                .iter()
                .filter(|one| txn.appends(key).any(|own| own == **one))
                .copied()
                .collect();
            if own != txn.appends(key).collect::<Vec<_>>() {
                return false;
            }
            for pair in list.windows(2) {
                let [one, other] =
                    [pair[0], pair[1]].map(|element| writer(key, element).expect("committed"));
                if one != other {
                    edges[one][other] |= WW;
                }
            }
        }
        if !txn.is_ok() {
            continue;
        }
        let mut own: Vec<(u8, u8)> = Vec::new();
        for op in &txn.ops {
            let (key, read) = match op {
                Op::Append(key, element) => {
                    own.push((*key, *element));
                    continue;
                }
                Op::Read(key, read) => (*key, read.as_ref().expect("it is ok")),
            };
            let list = &lists[usize::from(key)];
            let tail: Vec<u8> =
                own.iter().filter(|(of, _)| *of == key).map(|(_, element)| *element).collect();
            // A read of a register is one of all versions up to its value.
            let mut versions: &[u8] = read;
            if rules.objects.are_registers() {
                if let Some(written) = tail.last() {
                    if read.last() != Some(written) {
                        return false;
                    }
                    continue;
                }
                let up_to = |value: &u8| list.iter().position(|one| one == value).map(|at| at + 1);
                match read.last().map_or(Some(0), up_to) {
                    Some(length) => versions = &list[..length],
                    None => return false,
                }
                if versions.last().is_some_and(|value| writer(key, *value) == Some(at)) {
                    return false;
                }
            }
            let read = versions;
            // What is read is a state of the list, and ends in the own appends.
            if !list.starts_with(read) || !read.ends_with(&tail) {
                return false;
            }
            let external = &read[..read.len() - tail.len()];
            let is_list = rules.objects == Objects::Lists;
            if is_list && external.iter().any(|element| writer(key, *element) == Some(at)) {
                return false;
            }
            if let Some(last) = external.last() {
                let from = writer(key, *last).expect("committed");
                if committed[from].appends(key).last() != Some(*last) {
                    return false; // G1b
                }
                edges[from][at] |= WR;
            }
            if let Some(next) = list.get(external.len()) {
                let to = writer(key, *next).expect("committed");
                if to != at {
                    edges[at][to] |= RW;
                }
            }
        }
    }
    if base >= BaseLevel::CursorStability && has_lost_update(committed) {
        return false;
    }
    let dependencies = WW | WR | BEFORE;
    let reach = closure(&edges, dependencies);
    let has_cycle = (0..count).any(|at| reach[at][at]);
    let has_single =
        (0..count).any(|from| (0..count).any(|to| edges[from][to] & RW != 0 && reach[to][from]));
    match base {
        BaseLevel::ReadCommitted | BaseLevel::CursorStability => !has_cycle,
        BaseLevel::ConsistentView => !has_cycle && !has_single,
        _ => unreachable!("decided by replay"),
    }
}

/// Which nodes reach which by edges of some kinds.
fn closure(edges: &[Vec<u8>], kinds: u8) -> Vec<Vec<bool>> {
    let count = edges.len();
    let mut reach: Vec<Vec<bool>> =
        edges.iter().map(|row| row.iter().map(|edge| edge & kinds != 0).collect()).collect();
    for middle in 0..count {
        for from in 0..count {
            for to in 0..count {
                reach[from][to] |= reach[from][middle] && reach[middle][to];
            }
        }
    }
    reach
}

/// P4: two ok transactions read the same version of a key first, and both append to it later.
fn has_lost_update(committed: &[&Txn]) -> bool {
    let updates = |txn: &Txn, key: u8| -> Option<Vec<u8>> {
        let of_key = |op: &&Op| matches!(op, Op::Append(of, _) | Op::Read(of, _) if *of == key);
        let mut steps = txn.ops.iter().filter(of_key);
        let first = match steps.next() {
            Some(Op::Read(_, Some(read))) => read.clone(),
            _ => return None,
        };
        steps.any(|op| matches!(op, Op::Append(..))).then_some(first)
    };
    (0..KEYS).any(|key| {
        let found: Vec<Vec<u8>> = committed
            .iter()
            .filter(|txn| txn.is_ok())
            .filter_map(|txn| updates(txn, key))
            .collect();
        (1..found.len()).any(|at| found[..at].contains(&found[at]))
    })
}
