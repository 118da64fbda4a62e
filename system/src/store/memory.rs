//! A store without a disk, for the model and the simulator: the same records with the same meaning,
//! and three stages of safety told apart, so that a crash can take exactly what a crash may take.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::State;
use crate::protocol::{Key, Lsn, Record, Value, Version};

/// A node's store in memory.
///
/// A record is *volatile* when it is appended (in the process: a SIGKILL takes it), then *written*
/// (in the operating system: a loss of power takes it), then *synced* (durable). Each stage holds a
/// prefix of the one before. What is synced is folded into a [`State`]; the rest is kept as records,
/// few as they are. States are shared between clones until one of them changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What is on the disk.
    synced: Arc<State>,
    /// What reads see: the synced state and then the tail.
    current: Arc<State>,
    /// The records after that, in the order appended.
    tail: Vec<Record>,
    /// How many of the tail are written.
    written: usize,
    /// How many of the tail are left from before the last crash.
    inherited: usize,
    /// How many records of this incarnation are synced.
    synced_lsn: Lsn,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Memory::default()
    }

    /// Appends a record; reads see it at once. Positions count from 1 after each crash.
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

    /// How many records are written but not synced: a loss of power may take any number of the last
    /// of them. Those from before the last crash count.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.written
    }

    /// The operating system takes every record up to this one.
    ///
    /// # Panics
    /// When the record was not appended.
    pub fn write_up_to(&mut self, lsn: Lsn) {
        self.written = self.written.max(self.position(lsn));
    }

    /// Every record up to this one is durable, and with it what an earlier crash has left.
    ///
    /// # Panics
    /// When the record was not appended.
    pub fn sync_up_to(&mut self, lsn: Lsn) {
        let count = self.position(lsn);
        if count > 0 {
            self.settle(count);
            self.written = self.written.saturating_sub(count);
            self.inherited = 0;
            self.synced_lsn = lsn;
        }
    }

    /// The process is killed: what it had not written is lost.
    pub fn kill(&mut self) {
        self.lose(self.written);
        self.inherited = self.written;
    }

    /// The power is cut: of the records that are written but not synced the first `keep` survive,
    /// and are durable from now on, since the next start reads them from the disk itself. All
    /// others are lost.
    ///
    /// # Panics
    /// When `keep` is more than [`unsynced`](Memory::unsynced).
    pub fn power_loss(&mut self, keep: usize) {
        assert!(
            keep <= self.written,
            "{keep} records cannot survive: {} are written",
            self.written
        );
        self.lose(keep);
        self.settle(keep);
        self.written = 0;
        self.inherited = 0;
    }

    /// Counts positions from the last one that is synced on, so that two stores of the same contents
    /// are equal however they came about.
    pub fn rebase(&mut self) {
        self.synced_lsn = 0;
    }

    /// What is on the disk.
    #[must_use]
    pub fn durable(&self) -> &State {
        &self.synced
    }

    /// The records that are not synced, in the order appended: those that the last crash left, and
    /// those of this incarnation.
    #[must_use]
    pub fn tail(&self) -> (&[Record], &[Record]) {
        self.tail.split_at(self.inherited)
    }

    /// What all records appended so far leave, or those that survived the last crash.
    #[must_use]
    pub fn current(&self) -> &State {
        &self.current
    }

    /// What a recovery sees: the facts of the records that survived the last crash, in canonical
    /// order.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.current.records().cloned().collect()
    }

    /// A live key's version and value, as all records appended so far have it.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&(Version, Value)> {
        self.current.get(key)
    }

    /// Every live key with its version and value, in the order of the keys, as all records appended
    /// so far have it.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &(Version, Value))> {
        self.current.entries()
    }

    /// Folds the first of the tail into what is synced.
    fn settle(&mut self, count: usize) {
        // Not shared with `current`, or the next record would have to copy it all.
        let synced = Arc::make_mut(&mut self.synced);
        self.tail.drain(..count).for_each(|record| synced.apply(&record));
    }

    /// Loses all of the tail but the first of it.
    fn lose(&mut self, keep: usize) {
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

    /// How many of the tail a position stands for.
    fn position(&self, lsn: Lsn) -> usize {
        assert!(lsn <= self.last(), "record {lsn} was not appended: the last is {}", self.last());
        match lsn.saturating_sub(self.synced_lsn) {
            0 => 0,
            beyond => self.inherited + beyond as usize,
        }
    }
}

/// Without what follows from the rest.
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
    fn a_kill_takes_what_is_volatile_and_a_power_cut_what_is_not_synced() {
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
        // What the kill left can still be lost, until the next sync.
        for (keep, left) in [(0, 1), (1, 2), (2, 3)] {
            let mut cut = killed.clone();
            cut.power_loss(keep);
            assert_eq!(cut.records(), [incarnation(left)]);
            let mut cut = memory.clone();
            cut.power_loss(keep);
            assert_eq!(cut.records(), [incarnation(left)]);
        }
        assert_eq!(killed.append(incarnation(5)), 1);
        killed.sync_up_to(1);
        killed.power_loss(0);
        assert_eq!(killed.records(), [incarnation(5)]);
    }

    #[test]
    fn a_sync_takes_with_it_what_a_kill_has_left() {
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
    fn equal_contents_are_equal_stores() {
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
    fn reads_see_what_is_appended_before_it_is_safe() {
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
