//! Writes that are committed and durable as records, and not in the key/value table yet. Applied
//! one by one, each would cost a page of that table; in the order of their keys, and many at a
//! time, several share one. Knows nothing of pages or rows.
//!
//! Writes gather in a young generation. When as many records as it may hold have come, it becomes
//! the old one, and is handed out in the order of its keys, in step with the records that the next
//! young one takes up. So there are never many more records than twice as many as a generation
//! holds, whatever keys they write, and each commit applies its share.

use std::collections::BTreeMap;

use crate::protocol::{Key, TxnId, Value, Version};

/// A write that is to be applied: its key, its transaction, and its value, if it has one.
pub(super) type Due = (Key, Version, Option<Value>);

type Generation = BTreeMap<Key, (Version, Option<Value>)>;

/// The last write of each key that is not in the key/value table. A key is in one generation.
#[derive(Debug)]
pub(super) struct Behind {
    /// Records of a generation, at least one.
    records_max: usize,
    young: Generation,
    /// Records that the young generation has taken up, superseded ones too.
    records: usize,
    /// Records since something was handed out.
    added: usize,
    old: Generation,
    /// How many keys the old generation began with.
    old_keys: usize,
    /// Every write of a lesser transaction is in the table, or superseded by one that is here.
    clear: TxnId,
}

/// Above every transaction.
const ALL: TxnId = TxnId::new(u64::MAX, u64::MAX);

impl Behind {
    /// Nothing is behind.
    pub(super) fn new(records_max: usize) -> Behind {
        Behind {
            records_max: records_max.max(1),
            young: Generation::new(),
            records: 0,
            added: 0,
            old: Generation::new(),
            old_keys: 0,
            clear: ALL,
        }
    }

    /// Takes up a write, in place of an earlier one of its key.
    pub(super) fn add(&mut self, key: Key, txn: Version, value: Option<Value>) {
        self.old.remove(&key);
        self.young.insert(key, (txn, value));
        self.records += 1;
        self.added += 1;
        self.clear = self.clear.min(txn);
    }

    /// A later write of the key is in the table.
    pub(super) fn forget(&mut self, key: &Key) {
        self.old.remove(key);
        self.young.remove(key);
    }

    /// The write of a key that is behind.
    pub(super) fn get(&self, key: &Key) -> Option<&(Version, Option<Value>)> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Everything that is behind.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &(Version, Option<Value>))> {
        self.old.iter().chain(&self.young)
    }

    /// What is to be applied with this commit.
    pub(super) fn take(&mut self) -> Vec<Due> {
        let share = (self.old_keys * self.added.max(1)).div_ceil(self.records_max);
        self.added = 0;
        let due = std::iter::from_fn(|| self.old.pop_first()).take(share);
        let due = due.map(|(key, (txn, value))| (key, txn, value)).collect();
        if self.old.is_empty() && self.records >= self.records_max {
            self.clear = self.young.values().map(|(txn, _)| *txn).min().unwrap_or(ALL);
            self.old = std::mem::take(&mut self.young);
            self.old_keys = self.old.len();
            self.records = 0;
        }
        due
    }

    /// Every write of a lesser transaction is in the table, or superseded by one whose record has a
    /// greater transaction.
    pub(super) fn clear(&self) -> TxnId {
        self.clear
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txn(seq: u64) -> TxnId {
        TxnId::new(1, seq)
    }

    fn key(n: u64) -> Key {
        Key::from(format!("{n:04}").as_str())
    }

    #[test]
    fn what_fills_a_generation_is_due_with_the_next_commit() {
        let mut behind = Behind::new(1);
        behind.add(key(1), txn(1), None);
        assert_eq!(behind.take(), []);
        assert_eq!(behind.clear(), txn(1));
        assert_eq!(behind.take(), [(key(1), txn(1), None)]);
        assert_eq!(behind.iter().count(), 0);
    }

    #[test]
    fn a_generation_is_handed_out_by_key_while_the_next_one_gathers() {
        let mut behind = Behind::new(100);
        for n in 0..100 {
            behind.add(key(99 - n), txn(n), None);
            assert_eq!(behind.take(), []);
        }
        // Each of the next 100 records takes one of the first with it.
        for n in 0..100 {
            behind.add(key(n), txn(100 + n), None);
            let due: Vec<_> = behind.take().into_iter().map(|(key, ..)| key).collect();
            // The first of the old ones was superseded: each takes the one behind its own key.
            let expected: Vec<_> = (n < 99).then(|| key(n + 1)).into_iter().collect();
            assert_eq!(due, expected, "{n}");
        }
        assert_eq!(behind.clear(), txn(100), "the first generation is gone");
    }

    #[test]
    fn one_key_that_is_never_written_again_holds_nothing_back_for_long() {
        let mut behind = Behind::new(10);
        behind.add(key(0), txn(0), None);
        for n in 1..40 {
            behind.add(key(1), txn(n), None);
            behind.take();
            assert!(behind.clear() >= txn(n.saturating_sub(21)), "{n}: {:?}", behind.clear());
        }
    }

    #[test]
    fn a_late_commit_of_an_early_transaction_counts() {
        let mut behind = Behind::new(10);
        behind.add(key(0), txn(7), None);
        behind.add(key(1), txn(3), None);
        assert_eq!(behind.clear(), txn(3));
        behind.forget(&key(1));
        assert_eq!(behind.get(&key(1)), None);
        assert_eq!(behind.get(&key(0)), Some(&(txn(7), None)));
    }
}
