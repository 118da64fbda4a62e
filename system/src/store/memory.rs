//! A store without a disk, for the model and the simulator. Records have the same meaning as on
//! disk. The store distinguishes three levels of safety, so that a crash loses exactly what a crash
//! may lose.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::State;
use crate::protocol::{Key, Lsn, Record, Value, Version};

/// A node's store in memory.
///
/// A record is *volatile* when it is appended: it is in the process, and SIGKILL loses it. Then it
/// is *written*: it is in the operating system, and a loss of power loses it. Then it is *synced*,
/// that is, durable. Each level holds a prefix of the one before. Synced records are folded into a
/// [`State`]; the others are kept as records, because they are few. Clones share their states until
/// one of them changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The state on the disk.
    synced: Arc<State>,
    /// The state that reads see: the synced state plus the tail.
    current: Arc<State>,
    /// The records that are not synced, in the order appended.
    tail: Vec<Record>,
    /// The number of records of the tail that are written.
    written: usize,
    /// The number of records of the tail from before the last crash.
    inherited: usize,
    /// The number of records of this incarnation that are synced.
    synced_lsn: Lsn,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Memory::default()
    }

    /// Appends a record, which reads see immediately. Positions start from 1 after each crash.
    ///
    /// # Panics
    /// As [`State::apply`].
    pub fn append(&mut self, record: Record) -> Lsn {
        Arc::make_mut(&mut self.current).apply(&record);
        self.tail.push(record);
        self.last()
    }

    /// The position of the last record appended since the last crash, or 0.
    #[must_use]
    pub fn last(&self) -> Lsn {
        self.synced_lsn + (self.tail.len() - self.inherited) as Lsn
    }

    /// The last position that is synced, or 0.
    #[must_use]
    pub fn synced(&self) -> Lsn {
        self.synced_lsn
    }

    /// The last position that is written, or 0.
    #[must_use]
    pub fn written(&self) -> Lsn {
        self.synced_lsn + self.written.saturating_sub(self.inherited) as Lsn
    }

    /// The number of records that are written but not synced. A loss of power may lose any suffix
    /// of them. Records from before the last crash count.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.written
    }

    /// Hands every record up to this one to the operating system.
    ///
    /// If the record was not appended.
    pub fn write_up_to(&mut self, lsn: Lsn) {
        self.written = self.written.max(self.position(lsn));
    }

    /// Makes every record up to this one durable, and with them the records from before the last
    /// crash.
    ///
    /// If the record was not appended.
    pub fn sync_up_to(&mut self, lsn: Lsn) {
        let count = self.position(lsn);
        if count > 0 {
            self.fold(count);
            self.written = self.written.saturating_sub(count);
            self.inherited = 0;
            self.synced_lsn = lsn;
        }
    }

    /// Kills the process: volatile records are lost.
    pub fn kill(&mut self) {
        self.truncate(self.written);
        self.inherited = self.written;
    }

    /// Loses power. Of the records that are written but not synced, the first `keep` survive. They
    /// are durable from now on, because the next start reads them from the disk itself. All others
    /// are lost.
    ///
    /// If `keep` is more than [`unsynced`](Memory::unsynced).
    pub fn power_loss(&mut self, keep: usize) {
        assert!(
            keep <= self.written,
            "{keep} records cannot survive: only {} are written",
            self.written
        );
        self.truncate(keep);
        self.fold(keep);
        self.written = 0;
        self.inherited = 0;
    }

    /// Restarts the numbering of positions after the last synced record, so that two stores of
    /// equal content compare equal.
    pub fn rebase(&mut self) {
        self.synced_lsn = 0;
    }

    /// The state on the disk.
    #[must_use]
    pub fn durable(&self) -> &State {
        &self.synced
    }

    /// The records that are not synced, in the order appended: those from before the last crash,
    /// and those of this incarnation.
    #[must_use]
    pub fn tail(&self) -> (&[Record], &[Record]) {
        self.tail.split_at(self.inherited)
    }

    /// The state after every record appended so far. After a crash: after those that survived.
    #[must_use]
    pub fn current(&self) -> &State {
        &self.current
    }

    /// What recovery sees: the facts of the surviving records, in canonical order.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.current.records().cloned().collect()
    }

    /// A live key's version and value after every record appended so far.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&(Version, Value)> {
        self.current.get(key)
    }

    /// Every live key with its version and value in key order, after every record appended so far.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &(Version, Value))> {
        self.current.entries()
    }

    /// Folds the first records of the tail into the synced state.
    fn fold(&mut self, count: usize) {
        // Do not share this with `current`, or the next record would have to copy all of it.
        let synced = Arc::make_mut(&mut self.synced);
        self.tail.drain(..count).for_each(|record| synced.apply(&record));
    }

    /// Drops all but the first `keep` records of the tail.
    fn truncate(&mut self, keep: usize) {
        if keep < self.tail.len() {
            self.tail.truncate(keep);
            self.current = self.synced.clone();
            if keep > 0 {
                let current = Arc::make_mut(&mut self.current);
                self.tail.iter().for_each(|record| current.apply(record));
            }
        }
        self.synced_lsn = 0;
    }

    /// The number of records of the tail up to a position.
    fn position(&self, lsn: Lsn) -> usize {
        assert!(lsn <= self.last(), "record {lsn} was not appended: the last is {}", self.last());
        match lsn.saturating_sub(self.synced_lsn) {
            0 => 0,
            beyond => self.inherited + beyond as usize,
        }
    }
}

/// Skips `current`, which follows from the other fields.
impl Hash for Memory {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Memory { synced, current: _, tail, written, inherited, synced_lsn } = self;
        (synced, tail, written, inherited, synced_lsn).hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{TxnId, Write};

    fn incarnation(incarnation: u64) -> Record {
        Record::Incarnation { incarnation }
    }

    fn write(memory: &mut Memory, seq: u64, key: &str, value: Option<&str>) -> Lsn {
        let txn = TxnId::new(1, seq);
        let write = Write { key: key.into(), value: value.map(Value::from) };
        memory.append(Record::Prepare { txn, write });
        memory.append(Record::Commit { txn })
    }

    #[test]
    fn a_kill_loses_volatile_records_and_power_loss_loses_unsynced_ones() {
        let mut memory = Memory::new();
        for n in 1..=4 {
            assert_eq!(memory.append(incarnation(n)), n);
        }
        memory.sync_up_to(1);
        memory.write_up_to(3);
        assert_eq!((memory.synced(), memory.written(), memory.last()), (1, 3, 4));
        assert_eq!(memory.unsynced(), 2);

        let mut killed = memory.clone();
        killed.kill();
        assert_eq!(killed.records(), [incarnation(3)]);
        assert_eq!((killed.last(), killed.unsynced()), (0, 2));
        // Records from before the kill can still be lost, until the next sync.
        for (keep, left) in [(0, 1), (1, 2), (2, 3)] {
            let mut after = killed.clone();
            after.power_loss(keep);
            assert_eq!(after.records(), [incarnation(left)]);
            let mut after = memory.clone();
            after.power_loss(keep);
            assert_eq!(after.records(), [incarnation(left)]);
        }
        assert_eq!(killed.append(incarnation(5)), 1);
        killed.sync_up_to(1);
        killed.power_loss(0);
        assert_eq!(killed.records(), [incarnation(5)]);
    }

    #[test]
    fn a_sync_includes_the_records_from_before_a_kill() {
        let mut memory = Memory::new();
        write(&mut memory, 1, "k", Some("a"));
        memory.write_up_to(2);
        memory.kill();
        let incarnation = memory.append(incarnation(2));
        assert_eq!((incarnation, memory.written()), (1, 0));
        memory.sync_up_to(incarnation);
        memory.power_loss(0);
        assert_eq!(memory.get(&"k".into()), Some(&(TxnId::new(1, 1), "a".into())));
    }

    #[test]
    fn stores_of_equal_content_are_equal() {
        let (mut one, mut other) = (Memory::new(), Memory::new());
        one.append(incarnation(1));
        one.append(incarnation(2));
        one.sync_up_to(2);
        one.kill();
        other.append(incarnation(2));
        other.sync_up_to(1);
        other.power_loss(0);
        assert_eq!(one, other);
    }

    #[test]
    fn reads_see_records_before_they_are_durable() {
        let mut memory = Memory::new();
        let key = Key::from("k");
        assert_eq!(memory.get(&key), None);
        let lsn = write(&mut memory, 1, "k", Some("a"));
        assert_eq!(memory.get(&key), Some(&(TxnId::new(1, 1), "a".into())));
        memory.sync_up_to(lsn - 1);
        assert_eq!(memory.get(&key), Some(&(TxnId::new(1, 1), "a".into())));
        write(&mut memory, 2, "l", Some("b"));
        write(&mut memory, 3, "k", None);
        assert_eq!(memory.get(&key), None);
        let entries: Vec<_> = memory.entries().collect();
        assert_eq!(entries, [(&"l".into(), &(TxnId::new(1, 2), "b".into()))]);
        memory.kill();
        assert_eq!(memory.get(&key), None, "the prepare is synced, the commit is not");
    }
}
