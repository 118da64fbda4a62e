//! Which records matter for recovery: the *facts* are the records that no later record has made
//! obsolete. A store keeps them instead of all records. Does not know where they are kept.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{Node, Record, TxnId, Version, Write};

/// What a fact is about. There is at most one fact per slot. The order of the slots is the
/// canonical order of the records that recovery sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Slot {
    /// The master's epoch.
    Epoch,
    /// The promised epoch.
    Promise,
    /// The number of starts.
    Incarnation,
    /// The watermark.
    Watermark,
    /// The store of a node.
    Member(Node),
    /// The identity of the cluster.
    Cluster,
    /// The nonce of an epoch.
    Start(u64),
    /// The number of commits.
    Commits,
    /// What a replica's store was known to hold.
    Seen(u8),
    /// The mark of votes mode.
    Votes,
    /// The last transaction whose yes vote is final.
    Frozen,
    /// The master's commit decision.
    CommitDecision(TxnId),
    /// The state of a transaction at a replica: prepared, or its outcome. Must be the last variant,
    /// so that the transactions from a watermark on are the tail of the map.
    Txn(TxnId),
}

impl Slot {
    /// The slot of a record.
    fn of(record: &Record) -> Slot {
        match *record {
            Record::Epoch { .. } => Slot::Epoch,
            Record::Promise { .. } => Slot::Promise,
            Record::Incarnation { .. } => Slot::Incarnation,
            Record::Watermark { .. } => Slot::Watermark,
            Record::Member { node, .. } => Slot::Member(node),
            Record::Cluster { .. } => Slot::Cluster,
            Record::Start { epoch, .. } => Slot::Start(epoch),
            Record::Commits { .. } => Slot::Commits,
            Record::Seen { slot, .. } => Slot::Seen(slot),
            Record::Votes => Slot::Votes,
            Record::Frozen { .. } => Slot::Frozen,
            Record::CommitDecision { txn, .. } | Record::End { txn } => Slot::CommitDecision(txn),
            Record::Prepare { txn, .. }
            | Record::Commit { txn }
            | Record::Abort { txn }
            | Record::Refused { txn } => Slot::Txn(txn),
            Record::Heal { .. } => unreachable!("HEAL takes effect at once, and is no fact"),
        }
    }
}

/// The facts after a sequence of records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Facts(BTreeMap<Slot, Record>);

impl Facts {
    /// Adds a fact that was read back from a store. Restoring the `records` of any [`Facts`] gives
    /// equal facts.
    pub fn restore(&mut self, record: Record) {
        self.0.insert(Slot::of(&record), record);
    }

    /// Every fact, in canonical order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.0.values()
    }

    /// The state of a transaction at a replica: prepared, or its outcome.
    #[must_use]
    pub fn of_txn(&self, txn: TxnId) -> Option<&Record> {
        self.0.get(&Slot::Txn(txn))
    }

    /// The watermark: a replica has dropped its facts about transactions below it.
    #[must_use]
    pub fn watermark(&self) -> TxnId {
        match self.0.get(&Slot::Watermark) {
            Some(Record::Watermark { watermark }) => *watermark,
            _ => TxnId::default(),
        }
    }

    /// Applies a record. If it is a commit that was not applied before, returns the write that
    /// takes effect; its version is the transaction. HEAL returns the write that it repeats.
    ///
    /// # Panics
    /// On a commit of a transaction that is not prepared, because its write is not known.
    pub fn apply(&mut self, record: &Record) -> Option<(Version, Write)> {
        if let Record::Heal { key, version, value } = record {
            return Some((*version, Write { key: key.clone(), value: Some(value.clone()) }));
        }
        let slot = Slot::of(record);
        if let Record::End { .. } = record {
            self.0.remove(&slot);
            return None;
        }
        let held = match self.0.entry(slot) {
            Entry::Occupied(held) if is_obsolete(record, held.get()) => return None,
            held => held,
        };
        if let Record::Commit { txn } = record {
            let prepared = match &held {
                Entry::Occupied(held) => matches!(held.get(), Record::Prepare { .. }),
                Entry::Vacant(_) => false,
            };
            assert!(prepared, "{txn} is committed but was not prepared: {held:?}");
        }
        let before = match held {
            Entry::Occupied(mut held) => Some(held.insert(record.clone())),
            Entry::Vacant(vacant) => {
                vacant.insert(record.clone());
                None
            }
        };
        match (record, before) {
            (Record::Commit { txn }, Some(Record::Prepare { write, .. })) => Some((*txn, write)),
            (Record::Watermark { watermark }, _) => {
                self.remove_below(*watermark);
                None
            }
            _ => None,
        }
    }

    /// Removes the facts about transactions below a watermark.
    fn remove_below(&mut self, watermark: TxnId) {
        let mut kept = self.0.split_off(&Slot::Txn(watermark));
        self.0.split_off(&Slot::Txn(TxnId::default()));
        self.0.append(&mut kept);
    }
}

/// Whether a record changes nothing, given the fact in its slot.
fn is_obsolete(record: &Record, held: &Record) -> bool {
    match (record, held) {
        // The greatest value counts.
        (
            Record::Epoch { .. }
            | Record::Promise { .. }
            | Record::Incarnation { .. }
            | Record::Watermark { .. }
            | Record::Commits { .. }
            | Record::Frozen { .. },
            held,
        ) => held >= record,
        // An outcome overrides the prepare, a refusal overrides an abort (which may be dropped at
        // any time), and a commit overrides everything. So the order in which a machine with a
        // broken rule appends them does not matter, as it does not matter to a machine that
        // recovers from them.
        (Record::Prepare { .. }, _)
        | (Record::Commit { .. }, Record::Commit { .. })
        | (Record::Abort { .. }, Record::Refused { .. } | Record::Commit { .. })
        | (Record::Refused { .. }, Record::Commit { .. }) => true,
        (_, held) => held == record,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, StoreId, Value};

    fn txn(seq: u64) -> TxnId {
        TxnId::new(1, seq)
    }

    fn put(seq: u64, key: &str, value: &str) -> Record {
        let write = Write { key: key.into(), value: Some(value.into()) };
        Record::Prepare { txn: txn(seq), write }
    }

    fn del(seq: u64, key: &str) -> Record {
        Record::Prepare { txn: txn(seq), write: Write { key: key.into(), value: None } }
    }

    fn commit(seq: u64) -> Record {
        Record::Commit { txn: txn(seq) }
    }

    fn abort(seq: u64) -> Record {
        Record::Abort { txn: txn(seq) }
    }

    fn refused(seq: u64) -> Record {
        Record::Refused { txn: txn(seq) }
    }

    fn watermark(seq: u64) -> Record {
        Record::Watermark { watermark: txn(seq) }
    }

    /// Applies records, and returns the facts and the writes that took effect.
    fn apply(records: &[Record]) -> (Facts, Vec<(Version, Write)>) {
        let mut facts = Facts::default();
        let writes = records.iter().filter_map(|record| facts.apply(record)).collect();
        (facts, writes)
    }

    fn facts(records: &[Record]) -> Vec<Record> {
        apply(records).0.records().cloned().collect()
    }

    #[test]
    fn the_greatest_epoch_promise_incarnation_and_watermark_count() {
        let epoch = |epoch| Record::Epoch { epoch, replicas: 3 };
        assert_eq!(facts(&[epoch(2), epoch(3), epoch(1)]), [epoch(3)]);
        let promise = |epoch| Record::Promise { epoch };
        assert_eq!(facts(&[promise(9), promise(9), promise(2)]), [promise(9)]);
        let incarnation = |incarnation| Record::Incarnation { incarnation };
        assert_eq!(facts(&[incarnation(1), incarnation(2)]), [incarnation(2)]);
        assert_eq!(facts(&[watermark(7), watermark(3)]), [watermark(7)]);
    }

    #[test]
    fn each_node_has_one_store() {
        let member = |node, store| Record::Member { node, store: StoreId(store) };
        let (master, r1) = (Node::Master, Node::Replica(1));
        assert_eq!(
            facts(&[member(r1, 1), member(master, 2), member(r1, 3)]),
            [member(master, 2), member(r1, 3)]
        );
    }

    #[test]
    fn an_end_erases_the_commit_decision() {
        let decided = |seq| Record::CommitDecision { txn: txn(seq), key: "k".into() };
        let end = |seq| Record::End { txn: txn(seq) };
        assert_eq!(facts(&[decided(1), decided(2), end(1)]), [decided(2)]);
        assert_eq!(facts(&[end(1)]), []);
    }

    fn write(key: &str, value: Option<&str>) -> Write {
        Write { key: Key::from(key), value: value.map(Value::from) }
    }

    #[test]
    fn a_commit_applies_the_prepared_write_and_replaces_it() {
        let prepared = [put(1, "k", "a"), put(2, "l", "b")];
        assert_eq!(apply(&prepared).1, []);
        let records = [&prepared[..], &[commit(1)]].concat();
        assert_eq!(apply(&records).1, [(txn(1), write("k", Some("a")))]);
        assert_eq!(facts(&records), [commit(1), put(2, "l", "b")]);

        let (_, writes) = apply(&[put(1, "k", "a"), commit(1), del(2, "k"), commit(2)]);
        assert_eq!(writes, [(txn(1), write("k", Some("a"))), (txn(2), write("k", None))]);
    }

    #[test]
    fn an_outcome_overrides_the_prepare_a_refusal_an_abort_and_a_commit_everything() {
        let prepare = put(1, "k", "a");
        assert_eq!(facts(&[prepare.clone(), abort(1)]), [abort(1)]);
        assert_eq!(facts(&[abort(1), prepare.clone()]), [abort(1)]);
        assert_eq!(facts(&[prepare.clone(), refused(1)]), [refused(1)]);
        assert_eq!(facts(&[abort(1), refused(1)]), [refused(1)]);
        assert_eq!(facts(&[refused(1), abort(1), prepare.clone()]), [refused(1)]);
        let committed = [prepare.clone(), commit(1)];
        for later in [prepare, commit(1), abort(1), refused(1)] {
            assert_eq!(apply(&[&committed[..], &[later]].concat()), apply(&committed));
        }
    }

    #[test]
    fn a_watermark_erases_transactions_below_it_only() {
        let records = [
            Record::Epoch { epoch: 1, replicas: 3 },
            put(1, "k", "a"),
            commit(1),
            abort(2),
            refused(3),
            put(4, "l", "left over"),
            put(5, "m", "b"),
            watermark(5),
        ];
        let (left, writes) = apply(&records);
        assert_eq!(
            left.records().cloned().collect::<Vec<_>>(),
            [Record::Epoch { epoch: 1, replicas: 3 }, watermark(5), put(5, "m", "b")]
        );
        assert_eq!(left.watermark(), txn(5));
        assert_eq!((left.of_txn(txn(4)), left.of_txn(txn(5))), (None, Some(&put(5, "m", "b"))));
        assert_eq!(writes, [(txn(1), write("k", Some("a")))]);
    }

    #[test]
    #[should_panic(expected = "was not prepared")]
    fn a_commit_needs_a_prepare() {
        apply(&[commit(1)]);
    }
}
