//! What a record does: the one definition of the state that a sequence of records leaves, for the
//! store on disk and for the one in memory. A fold, not a log: superfluous facts are gone at once.
//! Knows nothing of where the state is kept.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::protocol::{Key, Node, Record, TxnId, Value, Version, Write};

/// What a durable fact is about. There is at most one fact about each; their order is the canonical
/// order of the records that a recovery sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Slot {
    /// The epoch taken.
    Epoch,
    /// The epoch promised.
    Promise,
    /// The starts counted.
    Incarnation,
    /// Everything below is settled.
    Watermark,
    /// Whose store is whose.
    Member(Node),
    /// That the votes decide in this cluster.
    Votes,
    /// Up to where yes votes are final.
    Frozen,
    /// The master's decision to commit.
    Decided(TxnId),
    /// What became of a transaction at a replica: prepared, or its outcome. The last of the
    /// variants, so that those below a watermark are the head of a range that has no end.
    Txn(TxnId),
}

impl Slot {
    /// What a record is about.
    pub(super) fn of(record: &Record) -> Slot {
        match *record {
            Record::Epoch { .. } => Slot::Epoch,
            Record::Promise { .. } => Slot::Promise,
            Record::Incarnation { .. } => Slot::Incarnation,
            Record::Watermark { .. } => Slot::Watermark,
            Record::Member { node, .. } => Slot::Member(node),
            Record::Votes => Slot::Votes,
            Record::Frozen { .. } => Slot::Frozen,
            Record::Decided { txn, .. } | Record::End { txn } => Slot::Decided(txn),
            Record::Prepare { txn, .. }
            | Record::Commit { txn }
            | Record::Abort { txn }
            | Record::Refused { txn } => Slot::Txn(txn),
        }
    }
}

/// The facts that records leave, without the key/value data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Facts(BTreeMap<Slot, Record>);

impl Facts {
    /// Takes up a fact that a store kept. `records` of any [`Facts`] give the same ones again.
    pub(super) fn restore(&mut self, record: Record) {
        self.0.insert(Slot::of(&record), record);
    }

    /// Every fact, in canonical order.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.0.values()
    }

    /// The fact about something, if there is one.
    fn about(&self, slot: Slot) -> Option<&Record> {
        self.0.get(&slot)
    }

    /// Takes up a record. Of a commit that says something new: the write that takes effect by it,
    /// under the version that is its transaction.
    ///
    /// # Panics
    /// On a commit of what is not prepared: without its write it has no meaning.
    pub(super) fn apply(&mut self, record: &Record) -> Option<(Version, Write)> {
        let slot = Slot::of(record);
        if let Record::End { .. } = record {
            self.0.remove(&slot);
            return None;
        }
        let held = match self.0.entry(slot) {
            Entry::Occupied(held) if says_nothing(record, held.get()) => return None,
            held => held,
        };
        if let Record::Commit { txn } = record {
            let prepared = match &held {
                Entry::Occupied(held) => matches!(held.get(), Record::Prepare { .. }),
                Entry::Vacant(_) => false,
            };
            assert!(prepared, "{txn} is committed, though it was not prepared: {held:?}");
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
                self.forget_below(*watermark);
                None
            }
            _ => None,
        }
    }

    /// Takes out what is said about transactions below a watermark.
    fn forget_below(&mut self, watermark: TxnId) {
        let mut kept = self.0.split_off(&Slot::Txn(watermark));
        self.0.split_off(&Slot::Txn(TxnId::default()));
        self.0.append(&mut kept);
    }
}

/// Whether a record says nothing beside the fact that is held about the same thing.
fn says_nothing(record: &Record, held: &Record) -> bool {
    match (record, held) {
        // The greatest counts.
        (
            Record::Epoch { .. }
            | Record::Promise { .. }
            | Record::Incarnation { .. }
            | Record::Watermark { .. }
            | Record::Frozen { .. },
            held,
        ) => held >= record,
        // An outcome outweighs the prepare, and a commit outweighs all. A refusal outweighs an
        // abort, which may be dropped at any time. So the order in which a machine that broke a
        // rule says these does not matter, as it does not when a machine recovers from them.
        (Record::Prepare { .. }, _)
        | (Record::Commit { .. }, Record::Commit { .. })
        | (Record::Abort { .. }, Record::Refused { .. } | Record::Commit { .. })
        | (Record::Refused { .. }, Record::Commit { .. }) => true,
        (_, held) => held == record,
    }
}

/// Everything that a sequence of records leaves: the facts and the key/value data.
///
/// Invariant: the version of a live key only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    facts: Facts,
    entries: BTreeMap<Key, (Version, Value)>,
}

impl State {
    /// The facts, as the records that a recovery sees, in canonical order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.facts.records()
    }

    /// What a replica knows of a transaction: that it is prepared, or how it ended.
    #[must_use]
    pub fn of_txn(&self, txn: TxnId) -> Option<&Record> {
        self.facts.about(Slot::Txn(txn))
    }

    /// Below this a replica has dropped what it knew.
    #[must_use]
    pub fn watermark(&self) -> TxnId {
        match self.facts.about(Slot::Watermark) {
            Some(Record::Watermark { watermark }) => *watermark,
            _ => TxnId::default(),
        }
    }

    /// A live key's version and value.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&(Version, Value)> {
        self.entries.get(key)
    }

    /// Every live key with its version and value, in the order of the keys.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &(Version, Value))> {
        self.entries.iter()
    }

    /// Takes up a record.
    ///
    /// # Panics
    /// When the record cannot follow those before it: a commit of what is not prepared, or that
    /// takes a live key back to an earlier version.
    pub fn apply(&mut self, record: &Record) {
        let Some((txn, Write { key, value })) = self.facts.apply(record) else { return };
        let before = match value {
            Some(value) => self.entries.insert(key, (txn, value)),
            None => self.entries.remove(&key),
        };
        if let Some((version, _)) = before {
            assert!(version < txn, "a key goes back from version {version} to {txn}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::StoreId;

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

    fn after(records: &[Record]) -> State {
        let mut state = State::default();
        records.iter().for_each(|record| state.apply(record));
        state
    }

    fn left(records: &[Record]) -> Vec<Record> {
        after(records).records().cloned().collect()
    }

    #[test]
    fn the_greatest_epoch_promise_incarnation_and_watermark_count() {
        let epoch = |epoch| Record::Epoch { epoch, replicas: 3 };
        assert_eq!(left(&[epoch(2), epoch(3), epoch(1)]), [epoch(3)]);
        let promise = |epoch| Record::Promise { epoch };
        assert_eq!(left(&[promise(9), promise(9), promise(2)]), [promise(9)]);
        let incarnation = |incarnation| Record::Incarnation { incarnation };
        assert_eq!(left(&[incarnation(1), incarnation(2)]), [incarnation(2)]);
        assert_eq!(left(&[watermark(7), watermark(3)]), [watermark(7)]);
    }

    #[test]
    fn each_node_has_one_store() {
        let member = |node, store| Record::Member { node, store: StoreId(store) };
        let (master, r1) = (Node::Master, Node::Replica(1));
        assert_eq!(
            left(&[member(r1, 1), member(master, 2), member(r1, 3)]),
            [member(master, 2), member(r1, 3)]
        );
    }

    #[test]
    fn an_end_erases_the_decision() {
        let decided = |seq| Record::Decided { txn: txn(seq), key: "k".into() };
        let end = |seq| Record::End { txn: txn(seq) };
        assert_eq!(left(&[decided(1), decided(2), end(1)]), [decided(2)]);
        assert_eq!(left(&[end(1)]), []);
    }

    #[test]
    fn a_commit_applies_the_prepared_write_and_replaces_it() {
        let state = after(&[put(1, "k", "a"), put(2, "l", "b"), commit(1)]);
        assert_eq!(state.get(&"k".into()), Some(&(txn(1), "a".into())));
        assert_eq!(state.get(&"l".into()), None);
        assert_eq!(state.records().cloned().collect::<Vec<_>>(), [commit(1), put(2, "l", "b")]);

        let mut state = after(&[put(1, "k", "a"), commit(1), del(2, "k")]);
        assert!(state.get(&"k".into()).is_some());
        state.apply(&commit(2));
        assert_eq!(state.get(&"k".into()), None);
    }

    #[test]
    fn an_outcome_outweighs_the_prepare_a_refusal_an_abort_and_a_commit_all() {
        let prepare = put(1, "k", "a");
        assert_eq!(left(&[prepare.clone(), abort(1)]), [abort(1)]);
        assert_eq!(left(&[abort(1), prepare.clone()]), [abort(1)]);
        assert_eq!(left(&[prepare.clone(), refused(1)]), [refused(1)]);
        assert_eq!(left(&[abort(1), refused(1)]), [refused(1)]);
        assert_eq!(left(&[refused(1), abort(1), prepare.clone()]), [refused(1)]);
        let committed = [prepare.clone(), commit(1)];
        for later in [prepare, commit(1), abort(1), refused(1)] {
            let state = after(&[&committed[..], &[later]].concat());
            assert_eq!(state, after(&committed));
        }
    }

    #[test]
    fn a_watermark_erases_what_is_below_and_nothing_else() {
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
        let state = after(&records);
        assert_eq!(
            state.records().cloned().collect::<Vec<_>>(),
            [Record::Epoch { epoch: 1, replicas: 3 }, watermark(5), put(5, "m", "b")]
        );
        assert_eq!(state.get(&"k".into()), Some(&(txn(1), "a".into())));
    }

    #[test]
    #[should_panic(expected = "goes back from version 1.2 to 1.1")]
    fn the_version_of_a_live_key_grows() {
        after(&[put(1, "k", "a"), put(2, "k", "b"), commit(2), commit(1)]);
    }

    #[test]
    #[should_panic(expected = "was not prepared")]
    fn nothing_is_committed_that_was_not_prepared() {
        after(&[commit(1)]);
    }
}
