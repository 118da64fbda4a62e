//! Dependencies between transactions on lists, derived from what they read.
//!
//! For each committed transaction, and each key whose versions are known:
//!
//! - *wr*: from the writer of the last element that it read, without its own, to it;
//! - *rw*: from it to the writer of the next element; if it read the longest list, to every
//!   transaction that appended what no read returned;
//! - *ww*: from the writer of the element before to it; elements that no read returned come after the
//!   longest list, in no order among themselves.
//!
//! Sessions are edges between neighbours. Real time is a chain of *instants*: a transaction leads to the
//! instant at which it returns, an instant to the next, and to the transactions that are invoked after
//! it. So there are at most three edges for each transaction, and a path through instants stands for one
//! edge. Instants and the other auxiliary nodes have numbers after those of the transactions.

use history::Outcome;

use super::{
    graph::EdgeKind,
    history::{NONE, Step, TransactionHistory},
    versions::{KeyState, Versions},
};

/// The rules of derivation. Tests switch them off one by one, to show that each is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// The writer of the last element read comes before the reader.
    WriteRead,
    /// The reader comes before the writer of the next element.
    ReadWrite,
    /// Neighbours in a list are ordered.
    WriteWrite,
    /// What no read returned comes after what was read.
    UnreadAfterLongest,
    /// Who read the longest list comes before those who append what no read returned.
    LongestBeforeUnread,
    /// A read leaves out the transaction's own appends.
    OwnAppends,
    /// A transaction of unknown outcome is committed if somebody read one of its writes.
    InfoCommittedIfRead,
    /// What a transaction of unknown outcome writes elsewhere counts too.
    InfoWritesAll,
    /// Transactions of a process are ordered.
    Session,
    /// A transaction that returned comes before those invoked later.
    RealTime,
    /// A transaction of unknown outcome comes after what returned before it.
    InfoAfterReturned,
    /// Read committed: what was read from is visible to later reads of other keys.
    ReadBefore,
    /// Read committed: what was read from is visible to the next read of the key.
    NextRead,
    /// Read atomic: what is read from is visible to all reads.
    AtomicRead,
    /// Read atomic: all reads of a key see one version.
    OneVersion,
    /// Read atomic: what the session wrote before is visible.
    AtomicSession,
    /// Causal consistency: what comes before by sessions and reads is visible.
    Causal,
    /// A value has the version that its writer was told.
    VersionOfWrite,
    /// A value has the version that its readers were told.
    VersionOfRead,
    /// Neighbours in the order of versions that the system tells are ordered.
    GivenWriteWrite,
    /// A reader comes before the writer of the next version that the system tells.
    GivenReadWrite,
    /// A value has one version.
    OneVersionOfValue,
    /// A version of a key has one value.
    OneValueOfVersion,
    /// What follows for the order of versions is inferred before it is searched for. Verdicts do not
    /// need it: it makes the search shorter.
    Saturate,
}

impl Rule {
    /// Every rule.
    #[cfg(test)]
    pub(super) const ALL: [Rule; 11] = [
        Rule::WriteRead,
        Rule::ReadWrite,
        Rule::WriteWrite,
        Rule::UnreadAfterLongest,
        Rule::LongestBeforeUnread,
        Rule::OwnAppends,
        Rule::InfoCommittedIfRead,
        Rule::InfoWritesAll,
        Rule::Session,
        Rule::RealTime,
        Rule::InfoAfterReturned,
    ];

    /// The rules that only the levels of Biswas and Enea need.
    #[cfg(test)]
    pub(super) const AXIOMATIC: [Rule; 6] = [
        Rule::ReadBefore,
        Rule::NextRead,
        Rule::AtomicRead,
        Rule::OneVersion,
        Rule::AtomicSession,
        Rule::Causal,
    ];

    /// The rules about versions that the system tells.
    #[cfg(test)]
    pub(super) const GIVEN: [Rule; 6] = [
        Rule::VersionOfWrite,
        Rule::VersionOfRead,
        Rule::GivenWriteWrite,
        Rule::GivenReadWrite,
        Rule::OneVersionOfValue,
        Rule::OneValueOfVersion,
    ];
}

#[cfg(test)]
thread_local! {
    /// The rule that a test has switched off in this thread.
    pub(super) static SWITCHED_OFF: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

/// Whether a rule applies: always, except in tests.
#[cfg(test)]
pub(super) fn applies(rule: Rule) -> bool {
    SWITCHED_OFF.get() != Some(rule)
}

/// Whether a rule applies: always, except in tests.
#[cfg(not(test))]
#[inline(always)]
pub(super) const fn applies(_rule: Rule) -> bool {
    true
}

/// A step of a committed transaction on a usable key, compared with the transaction's own appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    /// An append, and the position of its element in the list; [`NONE`] if no read returned it.
    Append { key: u32, element: u32, position: u32, misplaced: Option<Misplaced> },
    /// A read of this many elements of others.
    Read { key: u32, external: u32, is_first: bool },
    /// A read that does not end in exactly the transaction's own earlier appends. `length` is that of
    /// the list.
    Internal { key: u32, length: u32 },
    /// A read that disagrees with others, of a position in
    /// [`divergences`](TransactionHistory::divergences).
    Divergent { key: u32, at: u32 },
}

/// How a transaction's own append is out of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misplaced {
    /// Before an earlier one of the same transaction, or after one that is missing.
    Order,
    /// An earlier read of the same transaction returned it.
    Future,
}

/// What a transaction has done to a key so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Own {
    /// The transaction, plus one.
    transaction: u32,
    appends: u32,
    /// Position of its first append, and of its last.
    first: u32,
    last: u32,
    /// Its appends stand side by side in the list.
    is_contiguous: bool,
    /// Number of elements that its reads before its first append returned at most, plus one.
    read: u32,
}

/// Calls `each` with the steps of all committed transactions on usable keys.
pub(super) fn observe(
    history: &TransactionHistory,
    versions: &Versions,
    mut each: impl FnMut(u32, Observed),
) {
    let mut own = vec![Own::default(); history.keys()];
    for transaction in versions.committed(history) {
        observe_one(history, versions, transaction, &mut own, &mut each);
    }
}

/// Calls `each` with the steps of a committed transaction on usable keys. `own` is by key.
pub(super) fn observe_one(
    history: &TransactionHistory,
    versions: &Versions,
    transaction: u32,
    own: &mut [Own],
    each: &mut impl FnMut(u32, Observed),
) {
    let is_ok = history.transactions[transaction as usize].outcome == Outcome::Ok;
    for step in history.steps(transaction) {
        let (Step::Append { key, .. } | Step::List { key, .. } | Step::Divergent { key, .. }) =
            step
        else {
            continue;
        };
        let state = versions.keys[key as usize];
        if !state.is_usable {
            continue;
        }
        let own = &mut own[key as usize];
        if own.transaction != transaction + 1 {
            *own = Own { transaction: transaction + 1, is_contiguous: true, ..Own::default() };
        }
        match step {
            Step::Append { element, .. } => {
                let position = versions.positions[element as usize];
                if is_ok || applies(Rule::InfoWritesAll) || position != NONE {
                    each(transaction, own.append(state, key, element, position));
                }
            }
            Step::List { length, .. } if is_ok => each(transaction, own.read(key, length)),
            Step::Divergent { at, .. } if is_ok => {
                each(transaction, own.divergent(history, key, at));
            }
            _ => {}
        }
    }
}

impl Own {
    fn append(&mut self, state: KeyState, key: u32, element: u32, position: u32) -> Observed {
        let is_certain = |position: u32| state.is_whole || position < state.certain;
        let misplaced = if position != NONE && position + 1 < self.read {
            Some(Misplaced::Future)
        } else if self.appends > 0
            && position != NONE
            && (self.last == NONE || position < self.last)
            && is_certain(position)
            && is_certain(self.last)
        {
            Some(Misplaced::Order)
        } else {
            None
        };
        if self.appends == 0 {
            self.first = position;
            self.is_contiguous = position != NONE;
        } else {
            self.is_contiguous = self.is_contiguous && position == self.first + self.appends;
        }
        self.last = position;
        self.appends += 1;
        Observed::Append { key, element, position, misplaced }
    }

    fn read(&mut self, key: u32, length: u32) -> Observed {
        if !applies(Rule::OwnAppends) {
            return Observed::Read { key, external: length, is_first: true };
        }
        let is_first = self.read == 0 && self.appends == 0;
        if self.appends == 0 {
            self.read = self.read.max(length + 1);
            return Observed::Read { key, external: length, is_first };
        }
        if self.is_contiguous && length == self.first + self.appends {
            return Observed::Read { key, external: self.first, is_first };
        }
        Observed::Internal { key, length }
    }

    /// A read that disagrees with others ends in the own appends too, or else it is internal.
    fn divergent(&self, history: &TransactionHistory, key: u32, at: u32) -> Observed {
        let read = &history.divergences[at as usize].elements;
        let count = self.appends as usize;
        let tail = read.len().checked_sub(count).map(|start| read.split_at(start));
        let own = self.transaction - 1;
        let is_own = |element: &u32| history.elements[*element as usize].writer == own;
        match tail {
            Some((external, tail)) if tail.iter().all(is_own) && !external.iter().any(is_own) => {
                Observed::Divergent { key, at }
            }
            _ => Observed::Internal { key, length: read.len() as u32 },
        }
    }
}

/// The most transactions for which a reader has an edge to each; beyond, one auxiliary node stands for
/// them all.
pub(super) const DIRECT_MAX: usize = 4;
/// The most edges from a transaction that reads the longest list and appends to it itself, where there
/// are more such: any two of them are a lost update.
pub(super) const UPDATERS_MAX: usize = 64;

/// The edges of a history.
pub(super) struct Edges<'h> {
    history: &'h TransactionHistory,
    versions: &'h Versions,
    /// Number of instants.
    instants: u32,
    /// By key with many unread appends: its auxiliary node, counting from 0.
    ends: Vec<u32>,
    ends_count: u32,
}

impl<'h> Edges<'h> {
    pub(super) fn new(history: &'h TransactionHistory, versions: &'h Versions) -> Self {
        let mut ends = Vec::new();
        let mut ends_count = 0;
        for key in 0..history.keys() as u32 {
            if versions.unread(key).len() > DIRECT_MAX {
                ends.resize(key as usize + 1, NONE);
                ends[key as usize] = ends_count;
                ends_count += 1;
            }
        }
        let instants = instants(history, versions);
        Edges { history, versions, instants, ends, ends_count }
    }

    /// Number of transactions: the first nodes.
    pub(super) fn transactions(&self) -> u32 {
        self.history.len() as u32
    }

    /// Number of all nodes.
    pub(super) fn nodes(&self) -> u32 {
        self.transactions() + self.instants + self.ends_count
    }

    /// Calls `emit` with each edge, in the same order each time.
    pub(super) fn each(&self, mut emit: impl FnMut(u32, u32, EdgeKind)) {
        let Edges { history, versions, .. } = *self;
        observe(history, versions, |transaction, observed| match observed {
            Observed::Append { key, position, .. } => {
                if let Some(before) = self.predecessor(key, position)
                    && before != transaction
                {
                    emit(before, transaction, EdgeKind::Ww);
                }
            }
            Observed::Read { key, external, .. } => {
                self.edges_of_read(transaction, key, external, &mut emit);
            }
            Observed::Internal { .. } | Observed::Divergent { .. } => {}
        });
        self.ends(&mut emit);
        sessions(history, versions, |before, after| emit(before, after, EdgeKind::Process));
        real_time_edges(history, versions, &mut emit);
    }

    /// The transaction whose append comes before an element.
    pub(super) fn predecessor(&self, key: u32, position: u32) -> Option<u32> {
        let Edges { history, versions, .. } = *self;
        let state = versions.keys[key as usize];
        let before = if position < state.certain && applies(Rule::WriteWrite) {
            versions.before(history, key, position)
        } else if position == NONE && state.is_whole && applies(Rule::UnreadAfterLongest) {
            versions.before(history, key, state.certain)
        } else {
            None
        };
        before.map(|element| history.elements[element as usize].writer)
    }

    pub(super) fn edges_of_read(
        &self,
        transaction: u32,
        key: u32,
        external: u32,
        emit: &mut impl FnMut(u32, u32, EdgeKind),
    ) {
        let Edges { history, versions, .. } = *self;
        let state = versions.keys[key as usize];
        let writer = |element: u32| history.elements[element as usize].writer;
        let last = versions.before(history, key, external.min(state.certain)).map(writer);
        if let Some(last) = last
            && last != transaction
            && applies(Rule::WriteRead)
        {
            emit(last, transaction, EdgeKind::Wr);
        }
        if external > state.certain {
            return;
        }
        match versions.after(history, key, external).map(writer) {
            // The rest of what the same transaction wrote: that is an intermediate read.
            Some(next) if Some(next) == last => {}
            Some(next) if next != transaction && applies(Rule::ReadWrite) => {
                emit(transaction, next, EdgeKind::Rw);
            }
            None if state.is_whole && applies(Rule::LongestBeforeUnread) => {
                self.before_unread(transaction, key, last, emit);
            }
            _ => {}
        }
    }

    /// The edges from who read the longest list to those who append what no read returned.
    fn before_unread(
        &self,
        transaction: u32,
        key: u32,
        last: Option<u32>,
        emit: &mut impl FnMut(u32, u32, EdgeKind),
    ) {
        let unread = self.versions.unread(key);
        let others = || {
            unread.iter().filter(|other| **other != transaction && Some(**other) != last).copied()
        };
        let is_among = |one: u32| unread.binary_search(&one).is_ok();
        if unread.len() <= DIRECT_MAX {
            others().for_each(|other| emit(transaction, other, EdgeKind::Rw));
        } else if is_among(transaction) || last.is_some_and(is_among) {
            let most = UPDATERS_MAX;
            others().take(most).for_each(|other| emit(transaction, other, EdgeKind::Rw));
        } else {
            emit(transaction, self.end(key), EdgeKind::Rw);
        }
    }

    /// The auxiliary node before the unread appends of a key.
    pub(super) fn end(&self, key: u32) -> u32 {
        self.transactions() + self.instants + self.ends[key as usize]
    }

    fn ends(&self, emit: &mut impl FnMut(u32, u32, EdgeKind)) {
        for (key, end) in self.ends.iter().enumerate() {
            if *end != NONE {
                let key = key as u32;
                for unread in self.versions.unread(key) {
                    emit(self.end(key), *unread, EdgeKind::Onward);
                }
            }
        }
    }
}

/// Number of instants of a history.
pub(super) fn instants(history: &TransactionHistory, versions: &Versions) -> u32 {
    let mut instants = 0;
    real_time(history, versions, |instant, _| instants = instants.max(instant + 1));
    instants
}

/// Calls `emit` with the edges of real time, through instants that are numbered after the transactions.
pub(super) fn real_time_edges(
    history: &TransactionHistory,
    versions: &Versions,
    mut emit: impl FnMut(u32, u32, EdgeKind),
) {
    let first = history.len() as u32;
    let mut last = 0;
    real_time(history, versions, |instant, side| {
        if instant > last {
            emit(first + last, first + instant, EdgeKind::RealTime);
            last = instant;
        }
        match side {
            Side::Returned(transaction) => {
                emit(transaction, first + instant, EdgeKind::RealTime);
            }
            Side::Invoked(transaction) => {
                emit(first + instant, transaction, EdgeKind::RealTime);
            }
        }
    });
}

/// Calls `each` with the neighbours in each session. Nothing follows a transaction of unknown outcome.
pub(super) fn sessions(
    history: &TransactionHistory,
    versions: &Versions,
    mut each: impl FnMut(u32, u32),
) {
    if !applies(Rule::Session) {
        return;
    }
    let mut last = vec![NONE; history.processes.len()];
    for transaction in versions.committed(history) {
        let observed = history.transactions[transaction as usize];
        let last = &mut last[observed.process as usize];
        if *last != NONE {
            each(*last, transaction);
        }
        *last = if observed.outcome == Outcome::Ok { transaction } else { NONE };
    }
}

/// A side of an instant.
#[derive(Clone, Copy)]
enum Side {
    /// The transaction returned at this instant.
    Returned(u32),
    /// The transaction was invoked after this instant, and before the next.
    Invoked(u32),
}

/// Calls `each` with the instants, and who returns at them or is invoked after them. Returns without an
/// invocation between them share an instant.
fn real_time(history: &TransactionHistory, versions: &Versions, mut each: impl FnMut(u32, Side)) {
    if !applies(Rule::RealTime) || !history.has_real_time() {
        return;
    }
    let mut returns = history.returns.iter().copied().peekable();
    let mut instants = 0;
    let mut is_open = false;
    for transaction in versions.committed(history) {
        let observed = history.transactions[transaction as usize];
        let is_before =
            |other: &u32| history.transactions[*other as usize].returned < observed.invoked;
        while let Some(returned) = returns.next_if(is_before) {
            if !is_open {
                instants += 1;
                is_open = true;
            }
            each(instants - 1, Side::Returned(returned));
        }
        is_open = false;
        let is_exempt = observed.outcome != Outcome::Ok && !applies(Rule::InfoAfterReturned);
        if instants > 0 && !is_exempt {
            each(instants - 1, Side::Invoked(transaction));
        }
    }
}
