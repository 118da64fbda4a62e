//! What a node must find at its next start: every record that was durable, and of the others those that
//! it appended first. From the records of its journal alone. A crash keeps a prefix of what was appended,
//! and this prefix includes everything that was reported as durable.

use std::collections::VecDeque;

use system::protocol::{Facts, Record, TxnId};

/// The records of a node, as its journal tells them.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// After every record that is known to be durable.
    durable: Facts,
    /// The records after those, each with its position; 0 for one from before the last start.
    tail: VecDeque<(u64, Record)>,
    /// The records that this incarnation has appended.
    appended: u64,
    /// The journal has begun, and its records can follow each other.
    follows: bool,
}

/// What a start has found that it should not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unkept {
    /// A durable record that is missing, or one that is there and was never appended.
    pub record: Box<Record>,
    /// It is missing.
    pub missing: bool,
}

impl Unkept {
    /// The transaction of the record, if it has one.
    #[must_use]
    pub fn txn(&self) -> Option<TxnId> {
        match *self.record {
            Record::CommitDecision { txn, .. }
            | Record::End { txn }
            | Record::Prepare { txn, .. }
            | Record::Commit { txn }
            | Record::Abort { txn }
            | Record::Refused { txn } => Some(txn),
            _ => None,
        }
    }
}

impl Kept {
    /// The node started and found these records. Returns what is wrong with them.
    pub(super) fn started(&mut self, found: &[Record]) -> Option<Unkept> {
        self.appended = 0;
        if !self.follows {
            self.begin(found);
            return None;
        }
        let facts_found = facts_of(found);
        let mut facts = self.durable.clone();
        let mut kept = 0;
        loop {
            if facts == facts_found {
                self.tail.truncate(kept);
                self.tail.iter_mut().for_each(|(lsn, _)| *lsn = 0);
                return None;
            }
            let Some((_, record)) = self.tail.get(kept) else { break };
            if !can_follow(&facts, record) {
                self.begin(found);
                return None;
            }
            facts.apply(record);
            kept += 1;
        }
        // Not a prefix. What no later record has replaced says the most.
        let last: Vec<&Record> = facts.records().collect();
        let lost =
            self.durable.records().find(|record| last.contains(record) && !found.contains(record));
        let appended = |record: &Record| self.tail.iter().any(|(_, tail)| tail == record);
        let is_new = |record: &&Record| {
            !appended(record) && !self.durable.records().any(|durable| durable == *record)
        };
        let unkept =
            match (lost, found.iter().find(is_new), last.iter().find(|it| !found.contains(it))) {
                (Some(record), ..) => Unkept { record: Box::new(record.clone()), missing: true },
                (None, Some(record), _) => {
                    Unkept { record: Box::new(record.clone()), missing: false }
                }
                (None, None, Some(record)) => {
                    Unkept { record: Box::new((*record).clone()), missing: true }
                }
                // The same records as the last, but for one that was replaced.
                (None, None, None) => Unkept {
                    record: Box::new(found.first().or(last.first().copied())?.clone()),
                    missing: false,
                },
            };
        self.begin(found);
        Some(unkept)
    }

    /// Starts from what a node has found.
    fn begin(&mut self, found: &[Record]) {
        self.durable = facts_of(found);
        self.tail.clear();
        self.follows = true;
    }

    pub(super) fn append(&mut self, record: &Record) {
        self.appended += 1;
        self.tail.push_back((self.appended, record.clone()));
    }

    pub(super) fn persisted(&mut self, lsn: u64) {
        while let Some((_, record)) = self.tail.front().filter(|(at, _)| *at <= lsn) {
            if !can_follow(&self.durable, record) {
                // Another check reports what such a machine does.
                self.follows = false;
                self.tail.clear();
                return;
            }
            self.durable.apply(record);
            self.tail.pop_front();
        }
    }
}

/// The facts that a node has found. A store returns them as they are, one record for each; a simulated one may
/// return all that were appended.
fn facts_of(found: &[Record]) -> Facts {
    let mut facts = Facts::default();
    for record in found {
        match record {
            // HEAL is no fact.
            Record::End { .. } | Record::Heal { .. } => drop(facts.apply(record)),
            _ => facts.restore(record.clone()),
        }
    }
    facts
}

/// Whether a record can be applied: a commit needs the write that it commits.
fn can_follow(facts: &Facts, record: &Record) -> bool {
    let Record::Commit { txn } = record else { return true };
    matches!(facts.of_txn(*txn), Some(Record::Prepare { .. } | Record::Commit { .. }))
}

#[cfg(test)]
mod tests {
    use system::protocol::Write;

    use super::*;

    fn prepare(seq: u64) -> Record {
        let write = Write { key: "k".into(), value: Some("v".into()) };
        Record::Prepare { txn: TxnId::new(1, seq), write }
    }

    fn commit(seq: u64) -> Record {
        Record::Commit { txn: TxnId::new(1, seq) }
    }

    /// A node that has appended PREPARE and COMMIT of 1.1 and PREPARE of 1.2; the first two are durable.
    fn node() -> Kept {
        let mut kept = Kept::default();
        assert_eq!(kept.started(&[]), None);
        for record in [prepare(1), commit(1), prepare(2)] {
            kept.append(&record);
        }
        kept.persisted(2);
        kept
    }

    #[test]
    fn a_crash_keeps_a_prefix_that_includes_what_was_durable() {
        assert_eq!(node().started(&[commit(1)]), None);
        assert_eq!(node().started(&[commit(1), prepare(2)]), None);
        let lost = node().started(&[prepare(1)]).expect("COMMIT was durable");
        assert!(lost.missing && lost.txn() == Some(TxnId::new(1, 1)), "{lost:?}");
        let lost = node().started(&[prepare(2)]).expect("COMMIT was durable");
        assert!(lost.missing && *lost.record == commit(1), "{lost:?}");
        let made_up = node().started(&[commit(1), prepare(3)]).expect("it was never appended");
        assert!(!made_up.missing && *made_up.record == prepare(3), "{made_up:?}");
    }

    #[test]
    fn what_a_kill_kept_may_be_lost_with_the_power_until_the_first_sync() {
        let mut kept = node();
        assert_eq!(kept.started(&[commit(1), prepare(2)]), None);
        let mut lost = node();
        assert_eq!(lost.started(&[commit(1), prepare(2)]), None);
        assert_eq!(lost.started(&[commit(1)]), None, "PREPARE was not synced yet");
        kept.append(&Record::Incarnation { incarnation: 2 });
        kept.persisted(1);
        assert!(kept.started(&[commit(1)]).is_some(), "the sync included PREPARE");
    }
}
