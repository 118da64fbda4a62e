//! Transactions on registers: what is certain about the order of versions, and anomalies.
//!
//! A value is written to a key at most once, so a read tells whose write it saw (*wr*). The order of the
//! versions of a key is not seen, and only what is certain counts:
//!
//! - nothing comes before a key that was never written: who read that comes before all its writers;
//! - who read a version and then wrote the key made a later one;
//! - writes of a process, where sessions count, and writes that do not overlap, where real time does;
//! - what the system says itself, where it returns versions ([`super::given`]).
//!
//! Each certain successor of a version that was read is an anti-dependency (*rw*). What this leaves open
//! is decided by a search for an order ([`super::replay`]).

use std::collections::HashMap;

use ahash::RandomState;
use history::Outcome;

use super::{
    anomalies::{Anomalies, AnomalyKind, Evidence},
    cycles::Order,
    derive::{DIRECT_MAX, Rule, UPDATERS_MAX, applies, instants, real_time_edges, sessions},
    given::GivenOrders,
    graph::EdgeKind,
    history::{NONE, Step, TransactionHistory},
    versions::Versions,
};

/// A read of what others wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ExternalRead {
    pub(super) key: u32,
    /// The value, and [`NONE`] if the key was never written.
    pub(super) value: u32,
    pub(super) transaction: u32,
}

/// What committed transactions do to registers.
#[derive(Debug, Default)]
pub(super) struct Registers {
    /// Reads of what others wrote, by key and value.
    pub(super) reads: Vec<ExternalRead>,
    /// Keys and the transactions that write them, in order.
    pub(super) writers: Vec<(u32, u32)>,
    /// Versions that were read and then replaced by the same transaction.
    pub(super) replaced: Vec<ExternalRead>,
    /// The orders of versions that the system tells.
    pub(super) given: GivenOrders,
}

/// What a transaction has done to a key so far.
#[derive(Clone, Copy)]
struct Own {
    written: Option<u32>,
    /// The first read, if it came before every write.
    first_read: Option<u32>,
}

/// Goes through the committed transactions, and finds the anomalies that need no cycle.
pub(super) fn observe(history: &TransactionHistory, versions: &Versions) -> (Registers, Anomalies) {
    let mut registers = Registers::default();
    let mut anomalies = Anomalies::default();
    // By version: the transaction that replaced it after reading it first.
    let mut updates: HashMap<(u32, u32), u32, RandomState> = HashMap::default();
    let mut own: HashMap<u32, Own, RandomState> = HashMap::default();
    for transaction in versions.committed(history) {
        let is_ok = history.transactions[transaction as usize].outcome == Outcome::Ok;
        own.clear();
        for step in history.steps(transaction) {
            let (Step::Write { key, .. } | Step::Register { key, .. }) = step else { continue };
            if !versions.keys[key as usize].is_usable {
                continue;
            }
            let own = own.entry(key).or_insert(Own { written: None, first_read: None });
            match step {
                Step::Write { value, .. } => {
                    if own.written.is_none() {
                        registers.writers.push((key, transaction));
                        if let Some(read) = own.first_read {
                            registers.replaced.push(ExternalRead { key, value: read, transaction });
                            let before = *updates.entry((key, read)).or_insert(transaction);
                            if before != transaction {
                                let transactions = [before, transaction];
                                let evidence =
                                    Evidence::Updates { transactions, key, version: read };
                                anomalies.add(AnomalyKind::LostUpdate, evidence);
                            }
                        }
                    }
                    own.written = Some(value);
                }
                Step::Register { value, .. } if is_ok => {
                    if let Some(written) = own.written {
                        if value != Some(written) {
                            let value = value.unwrap_or(NONE);
                            let evidence =
                                Evidence::OwnValue { reader: transaction, written, value };
                            anomalies.add(AnomalyKind::Internal, evidence);
                        }
                        continue;
                    }
                    let value = value.unwrap_or(NONE);
                    if is_readable(history, versions, transaction, value, &mut anomalies) {
                        own.first_read.get_or_insert(value);
                        registers.reads.push(ExternalRead { key, value, transaction });
                    }
                }
                _ => {}
            }
        }
    }
    registers.reads.sort_unstable();
    registers.reads.dedup();
    registers.writers.sort_unstable();
    registers.replaced.sort_unstable();
    registers.given = GivenOrders::of(history, versions, &mut anomalies);
    (registers, anomalies)
}

/// Whether a read returned a version that another transaction committed, or none.
fn is_readable(
    history: &TransactionHistory,
    versions: &Versions,
    reader: u32,
    value: u32,
    anomalies: &mut Anomalies,
) -> bool {
    if value == NONE {
        return true;
    }
    let written = history.elements[value as usize];
    let kind = if written.writer == reader {
        anomalies
            .add(AnomalyKind::FutureRead, Evidence::Misplaced { writer: reader, element: value });
        return false;
    } else if written.writer == NONE {
        AnomalyKind::GarbageRead
    } else if !versions.is_committed(written.writer) {
        AnomalyKind::G1a
    } else if last_write(history, written.writer, written.key) != Some(value) {
        AnomalyKind::G1b
    } else {
        return true;
    };
    anomalies.add(kind, Evidence::Read { reader, element: value });
    false
}

/// The last value that a transaction writes to a key.
fn last_write(history: &TransactionHistory, transaction: u32, key: u32) -> Option<u32> {
    history.steps(transaction).rev().find_map(|step| match step {
        Step::Write { key: of, value } if of == key => Some(value),
        _ => None,
    })
}

/// The certain edges between transactions on registers, with what an order adds.
pub(super) struct RegisterEdges<'h> {
    pub(super) history: &'h TransactionHistory,
    pub(super) versions: &'h Versions,
    pub(super) registers: &'h Registers,
    pub(super) order: Order,
    /// Number of instants, which real time needs.
    pub(super) instants: u32,
}

impl<'h> RegisterEdges<'h> {
    pub(super) fn new(
        history: &'h TransactionHistory,
        versions: &'h Versions,
        registers: &'h Registers,
        order: Order,
    ) -> Self {
        let instants = match order {
            Order::RealTime => instants(history, versions),
            _ => 0,
        };
        RegisterEdges { history, versions, registers, order, instants }
    }

    /// Number of nodes: transactions, instants, and one for each key.
    pub(super) fn nodes(&self) -> u32 {
        self.history.len() as u32 + self.instants + self.history.keys() as u32
    }

    /// Calls `emit` with each edge.
    pub(super) fn each(&self, emit: &mut dyn FnMut(u32, u32, EdgeKind)) {
        let RegisterEdges { history, versions, registers, order, .. } = *self;
        for reads in
            registers.reads.chunk_by(|one, other| (one.key, one.value) == (other.key, other.value))
        {
            let ExternalRead { key, value, .. } = reads[0];
            if value == NONE && !registers.given.is_ordered(key) {
                self.before_all_writers(key, reads, emit);
                continue;
            }
            if value != NONE {
                let writer = history.elements[value as usize].writer;
                reads.iter().for_each(|read| emit(writer, read.transaction, EdgeKind::Wr));
            }
            self.successors(key, value, &mut |next| {
                for read in reads.iter().filter(|read| read.transaction != next) {
                    emit(read.transaction, next, EdgeKind::Rw);
                }
            });
        }
        let writer = |value: u32| history.elements[value as usize].writer;
        if applies(Rule::GivenWriteWrite) {
            registers.given.neighbours(|_, [one, other]| {
                emit(writer(one), writer(other), EdgeKind::Ww);
            });
        }
        if order >= Order::Process {
            sessions(history, versions, |before, after| emit(before, after, EdgeKind::Process));
        }
        if order == Order::RealTime {
            real_time_edges(history, versions, emit);
        }
    }

    /// The edges from who found a key unwritten to all who write it: through a node of the key if there
    /// are many.
    fn before_all_writers(
        &self,
        key: u32,
        reads: &[ExternalRead],
        emit: &mut dyn FnMut(u32, u32, EdgeKind),
    ) {
        let writers = of_key(&self.registers.writers, key, |writer| writer.0);
        let node = self.history.len() as u32 + self.instants + key;
        let mut is_used = false;
        for ExternalRead { transaction, .. } in reads {
            let is_writer = writers.binary_search(&(key, *transaction)).is_ok();
            if writers.len() > DIRECT_MAX && !is_writer {
                emit(*transaction, node, EdgeKind::Rw);
                is_used = true;
                continue;
            }
            // Two that find a key unwritten and write it are a lost update, so this is enough of them.
            for (_, writer) in writers.iter().take(UPDATERS_MAX) {
                if writer != transaction {
                    emit(*transaction, *writer, EdgeKind::Rw);
                }
            }
        }
        if is_used {
            writers.iter().for_each(|(_, writer)| emit(node, *writer, EdgeKind::Onward));
        }
    }

    /// Calls `each` with the transactions that certainly made a later version of a key than one that was
    /// read.
    pub(super) fn successors(&self, key: u32, value: u32, each: &mut dyn FnMut(u32)) {
        let RegisterEdges { history, registers, order, .. } = *self;
        let writers = of_key(&registers.writers, key, |writer| writer.0);
        if applies(Rule::GivenReadWrite)
            && let Some(next) = registers.given.after(history, key, value)
        {
            each(history.elements[next as usize].writer);
        }
        if registers.given.is_ordered(key) {
            return;
        }
        if value == NONE {
            return writers.iter().for_each(|(_, writer)| each(*writer));
        }
        let at = |replaced: &ExternalRead| (replaced.key, replaced.value);
        of_key(&registers.replaced, (key, value), at)
            .iter()
            .for_each(|replaced| each(replaced.transaction));
        let writer = history.elements[value as usize].writer;
        let written = history.transactions[writer as usize];
        if order == Order::Dependencies || written.outcome != Outcome::Ok {
            return;
        }
        let mut earliest_return = NONE;
        for (_, next) in writers {
            let other = history.transactions[*next as usize];
            if other.invoked < written.returned {
                continue;
            }
            if order == Order::Process {
                if other.process == written.process {
                    return each(*next);
                }
                continue;
            }
            // What comes after another successor follows from that.
            if other.invoked > earliest_return {
                return;
            }
            each(*next);
            if other.outcome == Outcome::Ok {
                earliest_return = earliest_return.min(other.returned);
            }
        }
    }
}

/// The part of a sorted slice with a key.
pub(super) fn of_key<T, K: Ord>(sorted: &[T], key: K, of: impl Fn(&T) -> K) -> &[T] {
    let start = sorted.partition_point(|item| of(item) < key);
    let end = sorted.partition_point(|item| of(item) <= key);
    &sorted[start..end]
}
