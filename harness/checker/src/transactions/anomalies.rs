//! Anomalies that need no cycle, and the names of all.

use std::collections::HashMap;

use ahash::RandomState;
use history::Outcome;

use super::{
    cycles::{Cycle, CycleKind, Order},
    derive::{Misplaced, Observed, observe},
    given::Given,
    graph::EdgeKind,
    history::{NONE, TransactionHistory},
    versions::Versions,
};

/// The kinds of anomalies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnomalyKind {
    /// A read returned an element twice.
    DuplicateElements,
    /// A transaction does not read, or see in order, its own writes.
    Internal,
    /// Dirty write: a cycle of writes.
    G0,
    /// Aborted read.
    G1a,
    /// Intermediate read.
    G1b,
    /// Circular information flow.
    G1c,
    /// A committed write on top of an aborted one.
    DirtyUpdate,
    /// Reads of a key that are not prefixes of one order.
    IncompatibleOrder,
    /// Versions of a register that contradict each other.
    IncompatibleVersions,
    /// A read of what nobody wrote.
    GarbageRead,
    /// A read of what the same transaction writes later.
    FutureRead,
    /// P4: two transactions read a version and both replace it.
    LostUpdate,
    /// Read skew.
    GSingle,
    /// Several anti-dependencies, never two in a row.
    GNonadjacent,
    /// Two readers see two writes in opposite orders: a kind of G-nonadjacent.
    LongFork,
    /// Write skew and others.
    G2Item,
}

impl AnomalyKind {
    /// Its name, as Elle gives it where Elle has one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AnomalyKind::DuplicateElements => "duplicate-elements",
            AnomalyKind::Internal => "internal",
            AnomalyKind::G0 => "G0",
            AnomalyKind::G1a => "G1a",
            AnomalyKind::G1b => "G1b",
            AnomalyKind::G1c => "G1c",
            AnomalyKind::DirtyUpdate => "dirty-update",
            AnomalyKind::IncompatibleOrder => "incompatible-order",
            AnomalyKind::IncompatibleVersions => "incompatible-versions",
            AnomalyKind::GarbageRead => "garbage-read",
            AnomalyKind::FutureRead => "future-read",
            AnomalyKind::LostUpdate => "lost-update",
            AnomalyKind::GSingle => "G-single",
            AnomalyKind::GNonadjacent => "G-nonadjacent",
            AnomalyKind::LongFork => "long-fork",
            AnomalyKind::G2Item => "G2-item",
        }
    }
}

impl AnomalyKind {
    /// Whether it is a cycle of dependencies.
    #[must_use]
    pub fn is_cycle(self) -> bool {
        matches!(
            self,
            AnomalyKind::G0
                | AnomalyKind::G1c
                | AnomalyKind::GSingle
                | AnomalyKind::GNonadjacent
                | AnomalyKind::LongFork
                | AnomalyKind::G2Item
        )
    }

    /// Whether it is about what a read returned, and so forbidden by every level that asks for anything about
    /// reads.
    pub(super) fn is_of_reads(self) -> bool {
        let is_other = matches!(self, AnomalyKind::LostUpdate | AnomalyKind::IncompatibleVersions);
        !self.is_cycle() && !is_other
    }

    /// What the name means, in a few sentences.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            AnomalyKind::DuplicateElements => {
                "An element was appended once and occurs twice. An append took effect twice, for example \
                 by a retry."
            }
            AnomalyKind::Internal => {
                "A transaction must see its own earlier writes, in their order, and nothing after them."
            }
            AnomalyKind::G0 => {
                "Dirty write: the writes of transactions are interleaved, so no transaction came first. \
                 Each key shows another order of them."
            }
            AnomalyKind::G1a => {
                "Aborted read: a transaction read what a transaction wrote that failed. What was read \
                 never existed."
            }
            AnomalyKind::G1b => {
                "Intermediate read: a transaction read a value that its writer replaced before it \
                 committed."
            }
            AnomalyKind::G1c => {
                "Circular information flow: each transaction read from, or overwrote, the one before it, \
                 and the first one the last. A transaction was visible before it committed."
            }
            AnomalyKind::DirtyUpdate => {
                "Dirty update: a committed transaction built on the state of one that failed, so the \
                 failed write is in the committed state."
            }
            AnomalyKind::IncompatibleOrder => {
                "Reads of a list disagree on its order. One of them saw a state that was never \
                 committed, for example on another replica."
            }
            AnomalyKind::IncompatibleVersions => {
                "The versions that the system returned contradict each other: one version of a key has two \
                 values, or one value has two versions. What its versions show otherwise about this key is \
                 not used."
            }
            AnomalyKind::GarbageRead => "A read returned what no transaction of the history wrote.",
            AnomalyKind::FutureRead => {
                "A transaction read what it wrote only later. Its read saw the future."
            }
            AnomalyKind::LostUpdate => {
                "Lost update (P4): two transactions read the same version and both replaced it. One of \
                 them overwrote the other without having seen it. Typical of read, compute, write \
                 without a lock or a check."
            }
            AnomalyKind::GSingle => {
                "Read skew: a transaction saw a part of the effects of another one, and missed the rest. \
                 Exactly one edge of the cycle is an anti-dependency (rw): a read of a state before a \
                 write. Under snapshot isolation a transaction sees all of another, or nothing."
            }
            AnomalyKind::GNonadjacent => {
                "Transactions read states before writes (rw) at several places of the cycle, but never \
                 twice in a row. Each of them is consistent by itself; together they have no order. \
                 Snapshots of one order of commits never do that."
            }
            AnomalyKind::LongFork => {
                "Long fork (a G-nonadjacent): two writes are independent, and two readers see them in \
                 opposite orders. The state forked. Parallel snapshot isolation allows it, snapshot \
                 isolation does not."
            }
            AnomalyKind::G2Item => {
                "Write skew, or a longer cycle with anti-dependencies (rw) side by side: transactions read \
                 what the others overwrite, and each decides on a state that the others change. Snapshot \
                 isolation allows it, serializability does not."
            }
        }
    }
}

/// What shows an anomaly that needs no cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// A transaction read an element: of an aborted transaction, of an unfinished one, or of nobody.
    Read { reader: u32, element: u32 },
    /// A transaction read a list that does not end in its own appends.
    Own { reader: u32, key: u32, length: u32 },
    /// A transaction wrote a value of a register and then read another one, or none.
    OwnValue { reader: u32, written: u32, value: u32 },
    /// A transaction's own element is out of place.
    Misplaced { writer: u32, element: u32 },
    /// A committed element after an aborted one.
    OnTop { aborted: u32, element: u32 },
    /// A read that disagrees with others: a position in the divergences.
    Divergent { at: u32 },
    /// An element occurs twice in a read; of whom, if it is known.
    Twice { reader: Option<u32>, element: u32 },
    /// Two transactions read this many elements of a key, and both append to it; of a register, they
    /// read this value.
    Updates { transactions: [u32; 2], key: u32, version: u32 },
    /// The system told two versions of a value of a register.
    TwoVersions { value: u32, given: [Given; 2] },
    /// The system told one version of two values.
    TwoValues { values: [u32; 2] },
    /// A cycle of dependencies.
    Cycle(Cycle),
}

/// An anomaly that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Anomaly {
    pub(super) kind: AnomalyKind,
    /// What is needed besides dependencies.
    pub(super) order: Order,
    pub(super) evidence: Evidence,
}

/// Anomalies of a history: a number of each kind is kept, all are counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Anomalies {
    pub(super) found: Vec<Anomaly>,
    pub(super) counts: HashMap<AnomalyKind, usize, RandomState>,
}

/// The most anomalies of a kind that are kept.
const KEPT_MAX: usize = 8;

impl Anomalies {
    pub(super) fn add(&mut self, kind: AnomalyKind, evidence: Evidence) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= KEPT_MAX {
            self.found.push(Anomaly { kind, order: Order::Dependencies, evidence });
        }
    }

    /// Whether a cycle of the same kind or worse, with the same order or a weaker one, is known.
    pub(super) fn has_as_bad(&self, cycle: &Cycle) -> bool {
        self.found.iter().any(|known| match &known.evidence {
            Evidence::Cycle(known) => {
                known.kind == cycle.kind || (known.kind < cycle.kind && known.order < cycle.order)
            }
            _ => false,
        })
    }

    /// Adds a cycle.
    pub(super) fn add_cycle(&mut self, cycle: Cycle) {
        let kind = kind_of(&cycle);
        *self.counts.entry(kind).or_default() += 1;
        self.found.push(Anomaly { kind, order: cycle.order, evidence: Evidence::Cycle(cycle) });
    }
}

/// The name of a cycle.
fn kind_of(cycle: &Cycle) -> AnomalyKind {
    let count = |wanted| cycle.edges.iter().filter(|(_, kind)| *kind == wanted).count();
    match cycle.kind {
        CycleKind::G0 => AnomalyKind::G0,
        CycleKind::G1c => AnomalyKind::G1c,
        CycleKind::GSingle => AnomalyKind::GSingle,
        CycleKind::GNonadjacent
            if count(EdgeKind::Rw) == 2 && count(EdgeKind::Wr) == 2 && cycle.edges.len() == 4 =>
        {
            AnomalyKind::LongFork
        }
        CycleKind::GNonadjacent => AnomalyKind::GNonadjacent,
        CycleKind::G2Item => AnomalyKind::G2Item,
    }
}

/// Finds the anomalies of transactions on lists that need no cycle.
pub(super) fn find(history: &TransactionHistory, versions: &Versions) -> Anomalies {
    let mut anomalies = Anomalies::default();
    let is_usable = |key: u32| versions.keys[key as usize].is_usable;
    let key_of = |element: u32| history.elements[element as usize].key;
    for (element, reader) in &versions.repeated {
        if is_usable(key_of(*element)) {
            let evidence = Evidence::Twice { reader: *reader, element: *element };
            anomalies.add(AnomalyKind::DuplicateElements, evidence);
        }
    }
    let lists = Lists::of(history, versions, &mut anomalies);
    // The transaction that last read each version as its first read of the key.
    let mut updates = vec![NONE; lists.starts.last().copied().unwrap_or(0) as usize];
    let mut first_reads: HashMap<u32, (u32, u32), RandomState> = HashMap::default();
    observe(history, versions, |transaction, observed| match observed {
        Observed::Read { key, external, is_first } => {
            lists.read(transaction, key, external, &mut anomalies);
            if is_first {
                first_reads.insert(key, (transaction, external));
            }
        }
        Observed::Append { key, element, position, misplaced } => {
            let is_ok = history.transactions[transaction as usize].outcome == Outcome::Ok;
            if let Some(misplaced) = misplaced {
                let kind = match misplaced {
                    Misplaced::Order => AnomalyKind::Internal,
                    Misplaced::Future => AnomalyKind::FutureRead,
                };
                anomalies.add(kind, Evidence::Misplaced { writer: transaction, element });
            } else if position != NONE {
                lists.on_top(element, position, &mut anomalies);
            }
            if let Some((reader, version)) = first_reads.get(&key)
                && *reader == transaction
                && is_ok
            {
                let other = &mut updates[(lists.starts[key as usize] + version) as usize];
                if *other == NONE {
                    *other = transaction;
                } else if *other != transaction {
                    let transactions = [*other, transaction];
                    let evidence = Evidence::Updates { transactions, key, version: *version };
                    anomalies.add(AnomalyKind::LostUpdate, evidence);
                }
                first_reads.remove(&key);
            }
        }
        Observed::Internal { key, length } => {
            let evidence = Evidence::Own { reader: transaction, key, length };
            anomalies.add(AnomalyKind::Internal, evidence);
        }
        Observed::Divergent { at, .. } => {
            anomalies.add(AnomalyKind::IncompatibleOrder, Evidence::Divergent { at });
        }
    });
    anomalies
}

/// What is wrong with lists, whoever reads them.
struct Lists<'h> {
    history: &'h TransactionHistory,
    versions: &'h Versions,
    /// By key: where its versions begin, counting those of all keys.
    starts: Vec<u32>,
    /// By key with a bad element, its first one: aborted, or of nobody.
    first_bad: HashMap<u32, u32, RandomState>,
}

impl<'h> Lists<'h> {
    fn of(
        history: &'h TransactionHistory,
        versions: &'h Versions,
        anomalies: &mut Anomalies,
    ) -> Self {
        let mut starts = vec![0];
        let mut first_bad = HashMap::default();
        for (key, list) in history.lists.iter().enumerate() {
            starts.push(starts[key] + list.len() as u32 + 1);
            if !versions.keys[key].is_usable {
                continue;
            }
            for (at, element) in list.iter().enumerate() {
                if !versions.is_committed(history.elements[*element as usize].writer) {
                    first_bad.entry(key as u32).or_insert(at as u32);
                }
            }
        }
        for divergence in &history.divergences {
            if versions.keys[divergence.key as usize].is_usable {
                let rest = &divergence.elements[divergence.common as usize..];
                let bad = rest.iter().find(|element| {
                    !versions.is_committed(history.elements[**element as usize].writer)
                });
                if let Some(element) = bad {
                    let reader = divergence.transaction;
                    anomalies.add(
                        bad_read(history, *element),
                        Evidence::Read { reader, element: *element },
                    );
                }
            }
        }
        Lists { history, versions, starts, first_bad }
    }

    fn read(&self, reader: u32, key: u32, external: u32, anomalies: &mut Anomalies) {
        let list = &self.history.lists[key as usize];
        if let Some(bad) = self.first_bad.get(&key)
            && *bad < external
        {
            let element = list[*bad as usize];
            let kind = bad_read(self.history, element);
            anomalies.add(kind, Evidence::Read { reader, element });
        }
        let Some(last) = external.checked_sub(1).map(|at| list[at as usize]) else { return };
        let writer = self.history.elements[last as usize].writer;
        if writer != reader
            && self.versions.is_committed(writer)
            && self.is_intermediate(last, writer)
        {
            anomalies.add(AnomalyKind::G1b, Evidence::Read { reader, element: last });
        }
    }

    /// Whether the writer of an element appends to its key again.
    fn is_intermediate(&self, element: u32, writer: u32) -> bool {
        let key = self.history.elements[element as usize].key;
        let last = self.history.steps(writer).rev().find_map(|step| match step {
            super::history::Step::Append { key: of, element } if of == key => Some(element),
            _ => None,
        });
        last != Some(element)
    }

    /// A committed element directly after an aborted one.
    fn on_top(&self, element: u32, position: u32, anomalies: &mut Anomalies) {
        let key = self.history.elements[element as usize].key;
        let list = &self.history.lists[key as usize];
        let Some(aborted) = position.checked_sub(1).map(|at| list[at as usize]) else { return };
        let writer = self.history.elements[aborted as usize].writer;
        if writer != NONE && !self.versions.is_committed(writer) {
            anomalies.add(AnomalyKind::DirtyUpdate, Evidence::OnTop { aborted, element });
        }
    }
}

/// The anomaly of reading an element that no committed transaction wrote.
fn bad_read(history: &TransactionHistory, element: u32) -> AnomalyKind {
    match history.elements[element as usize].writer {
        NONE => AnomalyKind::GarbageRead,
        _ => AnomalyKind::G1a,
    }
}
