//! Versions of lists: the place of each element in the list of its key, and which transactions count
//! as committed.
//!
//! The order of a key's versions is the longest list that was read of it. Where reads disagree, only
//! the prefix that all of them share is an order.

use std::collections::HashSet;

use history::Outcome;

use super::{
    derive::{Rule, applies},
    history::{NONE, Step, TransactionHistory, Workload},
};

/// What is known of the versions of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyState {
    /// The number of elements at the start of the list whose order is certain.
    pub(super) certain: u32,
    /// All reads agree, and no element occurs twice: whatever is not in the list comes after it.
    pub(super) is_whole: bool,
    /// The workload appends each element once: an element has one writer.
    pub(super) is_usable: bool,
}

/// The versions of all keys of a history.
#[derive(Debug)]
pub(super) struct Versions {
    pub(super) keys: Vec<KeyState>,
    /// By element: its position in the list of its key; [`NONE`] if it is not in it.
    pub(super) positions: Vec<u32>,
    /// By transaction: whether it counts as committed. It is ok, or of unknown outcome and an ok
    /// transaction read one of its writes.
    committed: Vec<u64>,
    /// By key, where the committed transactions begin that append to it what no read returned.
    unread_starts: Vec<u32>,
    unread: Vec<u32>,
    /// Elements that occur twice in one read, with the key and a transaction that read it, if it is
    /// known.
    pub(super) repeated: Vec<(u32, Option<u32>)>,
}

impl Versions {
    pub(super) fn of(history: &mut TransactionHistory) -> Versions {
        let keys = history.keys();
        let mut versions = Versions {
            keys: vec![KeyState { certain: 0, is_whole: true, is_usable: true }; keys],
            positions: vec![NONE; history.elements.len()],
            committed: vec![0; history.len().div_ceil(64)],
            unread_starts: Vec::new(),
            unread: Vec::new(),
            repeated: Vec::new(),
        };
        versions.settle_writers(history);
        versions.place(history);
        versions.commit(history);
        versions.collect_unread(history);
        versions
    }

    /// Finds the writer of elements that are written again. A transaction that failed certainly wrote
    /// nothing; of two others nobody knows which one a read observed.
    fn settle_writers(&mut self, history: &mut TransactionHistory) {
        for (element, other) in std::mem::take(&mut history.rewritten) {
            let writer = history.elements[element as usize].writer;
            let failed = |transaction: u32| {
                history.transactions[transaction as usize].outcome == Outcome::Fail
            };
            if failed(writer) {
                history.elements[element as usize].writer = other;
            } else if !failed(other) {
                history.unusable.push(history.elements[element as usize].key);
            }
        }
        for key in &history.unusable {
            self.keys[*key as usize].is_usable = false;
        }
    }

    fn place(&mut self, history: &TransactionHistory) {
        for (key, list) in history.lists.iter().enumerate() {
            let state = &mut self.keys[key];
            state.certain = list.len() as u32;
            for (at, element) in list.iter().enumerate() {
                let position = &mut self.positions[*element as usize];
                if *position == NONE {
                    *position = at as u32;
                } else {
                    state.certain = state.certain.min(at as u32);
                    state.is_whole = false;
                    self.repeated.push((*element, None));
                }
            }
        }
        for divergence in &history.divergences {
            let state = &mut self.keys[divergence.key as usize];
            state.certain = state.certain.min(divergence.common);
            state.is_whole = false;
            let mut seen: HashSet<u32> = HashSet::new();
            let twice = divergence.elements.iter().find(|element| !seen.insert(**element));
            self.repeated.extend(twice.map(|element| (*element, Some(divergence.transaction))));
        }
    }

    fn commit(&mut self, history: &TransactionHistory) {
        for (transaction, observed) in history.transactions.iter().enumerate() {
            if observed.outcome == Outcome::Ok {
                self.committed[transaction / 64] |= 1 << (transaction % 64);
            }
        }
        if !applies(Rule::InfoCommittedIfRead) {
            return;
        }
        let divergent = history.divergences.iter().map(|divergence| &divergence.elements);
        for element in history.lists.iter().chain(divergent).flatten() {
            self.commit_writer(history, *element);
        }
        if history.workload == Some(Workload::Registers) {
            let is_ok =
                |number: &u32| history.transactions[*number as usize].outcome == Outcome::Ok;
            for step in (0..history.len() as u32).filter(is_ok).flat_map(|one| history.steps(one)) {
                if let Step::Register { value: Some(value), .. } = step {
                    self.commit_writer(history, value);
                }
            }
        }
    }

    /// Counts the writer of an element that was read as committed, unless it failed.
    fn commit_writer(&mut self, history: &TransactionHistory, element: u32) {
        let writer = history.elements[element as usize].writer;
        let observed = history.transactions.get(writer as usize);
        if observed.is_some_and(|observed| observed.outcome == Outcome::Info) {
            self.committed[writer as usize / 64] |= 1 << (writer % 64);
        }
    }

    fn collect_unread(&mut self, history: &TransactionHistory) {
        let mut all: Vec<(u32, u32)> = Vec::new();
        for transaction in self.committed(history) {
            for step in history.steps(transaction) {
                if let Step::Append { key, element } = step
                    && self.positions[element as usize] == NONE
                    && self.keys[key as usize].is_usable
                    && self.keys[key as usize].is_whole
                {
                    all.push((key, transaction));
                }
            }
        }
        all.sort_unstable();
        all.dedup();
        self.unread_starts = vec![0; history.keys() + 1];
        for (key, _) in &all {
            self.unread_starts[*key as usize + 1] += 1;
        }
        for key in 0..history.keys() {
            self.unread_starts[key + 1] += self.unread_starts[key];
        }
        self.unread = all.into_iter().map(|(_, transaction)| transaction).collect();
    }

    /// Whether a transaction that is ok read a key that is left out, since nobody knows whose elements it has.
    pub(super) fn has_reads_left_out(&self, history: &TransactionHistory) -> bool {
        let is_left_out = |step: Step| match step {
            Step::List { key, .. } | Step::Divergent { key, .. } | Step::Register { key, .. } => {
                !self.keys[key as usize].is_usable
            }
            Step::Append { .. } | Step::Write { .. } | Step::Unread { .. } => false,
        };
        let is_ok = |number: &u32| history.transactions[*number as usize].outcome == Outcome::Ok;
        self.keys.iter().any(|key| !key.is_usable)
            && (0..history.len() as u32)
                .filter(is_ok)
                .flat_map(|number| history.steps(number))
                .any(is_left_out)
    }

    /// Whether a transaction counts as committed. Nobody's writes are not.
    pub(super) fn is_committed(&self, transaction: u32) -> bool {
        transaction != NONE
            && self.committed[transaction as usize / 64] >> (transaction % 64) & 1 == 1
    }

    /// The committed transactions, in the order of their invocations.
    pub(super) fn committed<'h>(
        &'h self,
        history: &'h TransactionHistory,
    ) -> impl Iterator<Item = u32> + 'h {
        (0..history.len() as u32).filter(|transaction| self.is_committed(*transaction))
    }

    /// The committed transactions that append to a key what no read returned, in order.
    pub(super) fn unread(&self, key: u32) -> &[u32] {
        let [start, end] = [key, key + 1].map(|at| self.unread_starts[at as usize] as usize);
        &self.unread[start..end]
    }

    /// The last committed element before a position of a key's list.
    pub(super) fn before(
        &self,
        history: &TransactionHistory,
        key: u32,
        position: u32,
    ) -> Option<u32> {
        let list = &history.lists[key as usize][..position as usize];
        let is_committed =
            |element: &&u32| self.is_committed(history.elements[**element as usize].writer);
        list.iter().rev().find(is_committed).copied()
    }

    /// The first committed element at or after a position of a key's list, as far as its order is
    /// certain.
    pub(super) fn after(
        &self,
        history: &TransactionHistory,
        key: u32,
        position: u32,
    ) -> Option<u32> {
        let certain = self.keys[key as usize].certain;
        let list = history.lists[key as usize].get(position as usize..certain as usize)?;
        let is_committed =
            |element: &&u32| self.is_committed(history.elements[**element as usize].writer);
        list.iter().find(is_committed).copied()
    }
}
