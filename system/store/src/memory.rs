//! A store without a disk, for the model and the simulator. Records have the same meaning as on
//! disk. The store distinguishes three levels of safety, so that a crash loses exactly what a crash
//! may lose.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Bound,
    sync::Arc,
};

use crate::{EntryPage, Lsn, PageSize, RangeRows, Schema, Versioned, Write};

/// The state after a sequence of records: the facts and the entries.
///
/// Invariant: the version of a live key only increases.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State<S: Schema> {
    facts: S::Facts,
    entries: BTreeMap<S::Key, Versioned<S>>,
    /// The live keys whose entries are damaged.
    damaged: BTreeSet<S::Key>,
}

impl<S: Schema> Default for State<S> {
    fn default() -> Self {
        State { facts: S::Facts::default(), entries: BTreeMap::new(), damaged: BTreeSet::new() }
    }
}

impl<S: Schema> State<S> {
    /// The facts.
    #[must_use]
    pub fn facts(&self) -> &S::Facts {
        &self.facts
    }

    /// The facts as the records that recovery sees, in canonical order.
    pub fn records(&self) -> impl Iterator<Item = &S::Record> {
        S::records(&self.facts)
    }

    /// A live key's version and value, as they are or were if the entry is damaged.
    #[must_use]
    pub fn get(&self, key: &S::Key) -> Option<&Versioned<S>> {
        self.entries.get(key)
    }

    /// Whether the entry of a key is damaged.
    #[must_use]
    pub fn is_damaged(&self, key: &S::Key) -> bool {
        self.damaged.contains(key)
    }

    /// The live keys whose entries are damaged.
    pub fn damaged(&self) -> impl Iterator<Item = &S::Key> {
        self.damaged.iter()
    }

    /// Every live key with its version and value, in key order.
    pub fn entries(&self) -> impl Iterator<Item = (&S::Key, &Versioned<S>)> {
        self.entries.iter()
    }

    /// Summarizes a range as [`Store::summarize`](crate::Store::summarize) does, by another digest.
    #[must_use]
    pub fn summarize(
        &self,
        after: Option<&S::Key>,
        upto: Option<&S::Key>,
        rows_max: usize,
        below: S::Version,
    ) -> RangeRows<S> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let intact = self.entries.range((from, Bound::Unbounded));
        let intact = intact
            .filter(|(key, _)| !self.is_damaged(key))
            .take_while(|(key, _)| upto.is_none_or(|upto| *key <= upto));
        let mut digest = DefaultHasher::new();
        let mut summary = RangeRows { upto: None, version: None, rows: 0, digest: 0 };
        for (key, (version, value)) in intact.take(rows_max) {
            let counts = *version < below;
            if counts {
                summary.rows += 1;
                (key, version, value).hash(&mut digest);
            }
            (summary.upto, summary.version) = (Some(key.clone()), counts.then_some(*version));
        }
        summary.digest = digest.finish();
        summary
    }

    /// A page of entries, as [`Store::page`](crate::Store::page).
    ///
    /// # Errors
    /// The entry of this key is damaged.
    pub fn page(
        &self,
        start: Bound<&S::Key>,
        to: Option<&S::Key>,
        size: PageSize,
    ) -> Result<EntryPage<S>, S::Key> {
        let mut page = EntryPage::default();
        let mut room = size.room();
        let entries = self.entries.range::<S::Key, _>((start, Bound::Unbounded));
        for (key, (version, value)) in entries.take_while(|(key, _)| to.is_none_or(|to| *key < to))
        {
            if self.is_damaged(key) {
                return Err(key.clone());
            }
            if !room.take(key.as_ref(), value.as_ref()) {
                page.end = Some(key.clone());
                break;
            }
            page.entries.push((key.clone(), *version, value.clone()));
        }
        Ok(page)
    }

    /// Applies a record.
    ///
    /// # Panics
    /// If the record cannot follow the earlier ones: as [`Schema::apply`], or because it takes a live
    /// key back to an earlier version.
    pub fn apply(&mut self, record: &S::Record) {
        let Some(write) = S::apply(&mut self.facts, record) else { return };
        // Nothing is known of what a damaged entry holds.
        let was_damaged = self.damaged.remove(&write.key);
        if let Some((before, _)) = self.entries.get(&write.key)
            && !was_damaged
        {
            let version = write.version;
            assert!(
                write.may_follow(*before),
                "a key goes back from version {before} to {version}"
            );
        }
        let Write { key, version, value, .. } = write;
        match value {
            Some(value) => self.entries.insert(key, (version, value)),
            None => self.entries.remove(&key),
        };
    }
}

/// A node's store in memory.
///
/// A record is *volatile* when it is appended: it is in the process, and SIGKILL loses it. Then it
/// is *written*: it is in the operating system, and a loss of power loses it. Then it is *synced*,
/// that is, durable. Each level holds a prefix of the one before. Synced records are folded into a
/// [`State`]; the others are kept as records, because they are few. Clones share their states until
/// one of them changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory<S: Schema> {
    /// The state on the disk.
    synced: Arc<State<S>>,
    /// The state that reads see: the synced state plus the tail.
    current: Arc<State<S>>,
    /// The records that are not synced, in the order appended.
    tail: Vec<S::Record>,
    /// The number of records of the tail that are written.
    written: usize,
    /// The number of records of the tail from before the last crash.
    inherited: usize,
    /// The number of records of this incarnation that are synced.
    synced_lsn: Lsn,
}

impl<S: Schema> Default for Memory<S> {
    fn default() -> Self {
        Memory {
            synced: Arc::default(),
            current: Arc::default(),
            tail: Vec::new(),
            written: 0,
            inherited: 0,
            synced_lsn: 0,
        }
    }
}

impl<S: Schema> Memory<S> {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Memory::default()
    }

    /// Appends a record, which reads see immediately. Positions start from 1 after each crash.
    ///
    /// # Panics
    /// As [`State::apply`].
    pub fn append(&mut self, record: S::Record) -> Lsn {
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
    /// # Panics
    /// If the record was not appended.
    pub fn write_up_to(&mut self, lsn: Lsn) {
        self.written = self.written.max(self.position(lsn));
    }

    /// Makes every record up to this one durable, and with them the records from before the last
    /// crash.
    ///
    /// # Panics
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
    /// # Panics
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

    /// Damages the entry of a key on the disk. Returns whether it is possible: the entry is there, is not
    /// damaged yet, and no later write of it is on its way to the disk.
    pub fn damage(&mut self, key: &S::Key) -> bool {
        let is_on_disk = self.synced.get(key).is_some()
            && self.synced.get(key) == self.current.get(key)
            && !self.is_damaged(key)
            && !self.synced.is_damaged(key);
        if is_on_disk {
            Arc::make_mut(&mut self.synced).damaged.insert(key.clone());
            Arc::make_mut(&mut self.current).damaged.insert(key.clone());
        }
        is_on_disk
    }

    /// Whether the entry of a key is damaged, after every record appended so far.
    #[must_use]
    pub fn is_damaged(&self, key: &S::Key) -> bool {
        self.current.is_damaged(key)
    }

    /// Restarts the numbering of positions after the last synced record, so that two stores of
    /// equal content compare equal.
    pub fn rebase(&mut self) {
        self.synced_lsn = 0;
    }

    /// The state on the disk.
    #[must_use]
    pub fn durable(&self) -> &State<S> {
        &self.synced
    }

    /// The records that are not synced, in the order appended: those from before the last crash,
    /// and those of this incarnation.
    #[must_use]
    pub fn tail(&self) -> (&[S::Record], &[S::Record]) {
        self.tail.split_at(self.inherited)
    }

    /// The state after every record appended so far. After a crash: after those that survived.
    #[must_use]
    pub fn current(&self) -> &State<S> {
        &self.current
    }

    /// What recovery sees: the facts of the surviving records, in canonical order.
    #[must_use]
    pub fn records(&self) -> Vec<S::Record> {
        self.current.records().cloned().collect()
    }

    /// A live key's version and value after every record appended so far.
    #[must_use]
    pub fn get(&self, key: &S::Key) -> Option<&Versioned<S>> {
        self.current.get(key)
    }

    /// Every live key with its version and value in key order, after every record appended so far.
    pub fn entries(&self) -> impl Iterator<Item = (&S::Key, &Versioned<S>)> {
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
impl<S: Schema> Hash for Memory<S> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Memory { synced, current: _, tail, written, inherited, synced_lsn } = self;
        (synced, tail, written, inherited, synced_lsn).hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Value,
        database::{DatabaseRecord, DatabaseSchema},
    };

    type Memory = super::Memory<DatabaseSchema>;

    fn counter(count: u64) -> DatabaseRecord {
        DatabaseRecord::Next { version: count }
    }

    fn bytes(text: &str) -> Value {
        text.as_bytes().into()
    }

    fn staged(version: u64, key: &str, value: Option<&str>) -> DatabaseRecord {
        DatabaseRecord::Staged { version, key: bytes(key), value: value.map(bytes) }
    }

    fn write(memory: &mut Memory, version: u64, key: &str, value: Option<&str>) -> Lsn {
        memory.append(staged(version, key, value));
        memory.append(DatabaseRecord::Applied { version })
    }

    #[test]
    #[should_panic(expected = "goes back from version 2 to 1")]
    fn the_version_of_a_live_key_increases() {
        let applied = |version| DatabaseRecord::Applied { version };
        let mut state = State::<DatabaseSchema>::default();
        let writes = [staged(1, "k", Some("a")), staged(2, "k", Some("b"))];
        writes.iter().chain(&[applied(2), applied(1)]).for_each(|record| state.apply(record));
    }

    #[test]
    fn a_kill_loses_volatile_records_and_power_loss_loses_unsynced_ones() {
        let mut memory = Memory::new();
        for n in 1..=4 {
            assert_eq!(memory.append(counter(n)), n);
        }
        memory.sync_up_to(1);
        memory.write_up_to(3);
        assert_eq!((memory.synced(), memory.written(), memory.last()), (1, 3, 4));
        assert_eq!(memory.unsynced(), 2);

        let mut killed = memory.clone();
        killed.kill();
        assert_eq!(killed.records(), [counter(3)]);
        assert_eq!((killed.last(), killed.unsynced()), (0, 2));
        // Records from before the kill can still be lost, until the next sync.
        for (keep, left) in [(0, 1), (1, 2), (2, 3)] {
            let mut after = killed.clone();
            after.power_loss(keep);
            assert_eq!(after.records(), [counter(left)]);
            let mut after = memory.clone();
            after.power_loss(keep);
            assert_eq!(after.records(), [counter(left)]);
        }
        assert_eq!(killed.append(counter(5)), 1);
        killed.sync_up_to(1);
        killed.power_loss(0);
        assert_eq!(killed.records(), [counter(5)]);
    }

    #[test]
    fn a_sync_includes_the_records_from_before_a_kill() {
        let mut memory = Memory::new();
        write(&mut memory, 1, "k", Some("a"));
        memory.write_up_to(2);
        memory.kill();
        let lsn = memory.append(counter(2));
        assert_eq!((lsn, memory.written()), (1, 0));
        memory.sync_up_to(lsn);
        memory.power_loss(0);
        assert_eq!(memory.get(&bytes("k")), Some(&(1, bytes("a"))));
    }

    #[test]
    fn damage_stays_until_a_write_that_is_durable() {
        let mut memory = Memory::new();
        let key = bytes("k");
        let lsn = write(&mut memory, 1, "k", Some("a"));
        assert!(!memory.damage(&key), "it is not on the disk yet");
        memory.sync_up_to(lsn);
        assert!(memory.damage(&key) && !memory.damage(&key));
        let lsn = write(&mut memory, 2, "k", Some("b"));
        assert!(!memory.is_damaged(&key));
        memory.kill();
        assert!(memory.is_damaged(&key), "the write that replaced it is lost");
        write(&mut memory, 2, "k", Some("b"));
        memory.sync_up_to(lsn - 2);
        memory.kill();
        assert!(!memory.is_damaged(&key));
        assert_eq!(memory.get(&key), Some(&(2, bytes("b"))));
    }

    #[test]
    fn stores_of_equal_content_are_equal() {
        let (mut one, mut other) = (Memory::new(), Memory::new());
        one.append(counter(1));
        one.append(counter(2));
        one.sync_up_to(2);
        one.kill();
        other.append(counter(2));
        other.sync_up_to(1);
        other.power_loss(0);
        assert_eq!(one, other);
    }

    #[test]
    fn reads_see_records_before_they_are_durable() {
        let mut memory = Memory::new();
        let key = bytes("k");
        assert_eq!(memory.get(&key), None);
        let lsn = write(&mut memory, 1, "k", Some("a"));
        assert_eq!(memory.get(&key), Some(&(1, bytes("a"))));
        memory.sync_up_to(lsn - 1);
        assert_eq!(memory.get(&key), Some(&(1, bytes("a"))));
        write(&mut memory, 2, "l", Some("b"));
        write(&mut memory, 3, "k", None);
        assert_eq!(memory.get(&key), None);
        let entries: Vec<_> = memory.entries().collect();
        assert_eq!(entries, [(&bytes("l"), &(2, bytes("b")))]);
        memory.kill();
        assert_eq!(
            memory.get(&key),
            None,
            "the staged write is synced, the record that applies it is not"
        );
    }
}
