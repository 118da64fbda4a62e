//! The memtable: the newest state, as far as the tables may not contain it. It holds all facts, and
//! the entries that changed since the last checkpoint. Does not know about queues, threads or files.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    mem,
    ops::Bound,
    sync::Arc,
};

use ahash::RandomState;

use crate::{Schema, Write, schema::may_follow};

/// The last write of a key.
#[derive(Clone, Debug)]
pub(crate) struct Change<S: Schema> {
    pub(crate) version: S::Version,
    /// No value means a delete.
    pub(crate) value: Option<S::Value>,
    /// It may have the version that the tables have: see [`Write::heals`].
    pub(crate) heals: bool,
}

impl<S: Schema> Change<S> {
    /// Whether the change may follow a write of this version in the tables.
    pub(crate) fn may_follow(&self, current: S::Version) -> bool {
        may_follow(self.version, self.heals, current)
    }
}

/// The last writes of the keys that changed.
pub(crate) type Changes<S> = HashMap<<S as Schema>::Key, Change<S>, RandomState>;

/// The newest state.
pub(crate) struct Memtable<S: Schema> {
    /// The facts after every applied record.
    facts: S::Facts,
    /// The entries that changed since the last checkpoint began.
    changed: Changes<S>,
    /// The entries that a running checkpoint writes to the tables.
    checkpointing: Arc<Changes<S>>,
    /// The keys of both in order, for ranges. None until the first range is read, so that only stores of
    /// which ranges are read pay for it.
    index: Option<Index<S::Key>>,
    /// The first write with a version that does not increase, and the version of its key.
    version_conflict: Option<(S::Version, S::Version)>,
}

/// The keys of the changes, in order.
struct Index<K> {
    changed: BTreeSet<K>,
    checkpointing: BTreeSet<K>,
}

impl<S: Schema> Memtable<S> {
    /// Starts from the facts in the tables.
    pub(crate) fn new(facts: S::Facts) -> Self {
        Memtable {
            facts,
            changed: HashMap::default(),
            checkpointing: Arc::default(),
            index: None,
            version_conflict: None,
        }
    }

    /// Applies a record. Checks versions against the changes in memory; the checkpoint checks them
    /// against the tables.
    ///
    /// # Panics
    /// As [`Schema::apply`].
    pub(crate) fn apply(&mut self, record: &S::Record) {
        let Some(write) = S::apply(&mut self.facts, record) else { return };
        let Write { key, version, value, heals } = write;
        let change = Change { version, value, heals };
        let before = match self.changed.entry(key) {
            Entry::Occupied(mut changed) => live::<S>(&changed.insert(change)),
            Entry::Vacant(vacant) => {
                let before = self.checkpointing.get(vacant.key()).and_then(live::<S>);
                if let Some(index) = &mut self.index {
                    index.changed.insert(vacant.key().clone());
                }
                vacant.insert(change);
                before
            }
        };
        if let Some(before) = before.filter(|before| !may_follow(version, heals, *before)) {
            self.version_conflict.get_or_insert((version, before));
        }
    }

    /// The facts.
    pub(crate) fn facts(&self) -> &S::Facts {
        &self.facts
    }

    /// The last write of a key, if the tables may not contain it.
    pub(crate) fn get(&self, key: &S::Key) -> Option<&Change<S>> {
        self.changed.get(key).or_else(|| self.checkpointing.get(key))
    }

    /// The last writes that the tables may not contain.
    pub(crate) fn changes(&self) -> Changes<S> {
        let mut all = (*self.checkpointing).clone();
        all.extend(self.changed.iter().map(|(key, change)| (key.clone(), change.clone())));
        all
    }

    /// The first of the last writes that the tables may not contain of the keys in a range, in key order: as
    /// many as it takes to have `live` that are not deletes.
    pub(crate) fn changes_in(
        &mut self,
        start: Bound<&S::Key>,
        to: Option<&S::Key>,
        mut live: usize,
    ) -> Vec<(S::Key, Change<S>)> {
        let Memtable { changed, checkpointing, index, .. } = self;
        let index = index.get_or_insert_with(|| Index {
            changed: changed.keys().cloned().collect(),
            checkpointing: checkpointing.keys().cloned().collect(),
        });
        let range = (start, Bound::Unbounded);
        let mut newer = index.changed.range::<S::Key, _>(range).peekable();
        let mut older = index.checkpointing.range::<S::Key, _>(range).peekable();
        let mut changes = Vec::new();
        while live > 0 {
            let key = match (newer.peek(), older.peek()) {
                (Some(one), Some(other)) => (*one).min(*other),
                (one, other) => match one.or(other) {
                    Some(key) => *key,
                    None => break,
                },
            };
            newer.next_if(|newer| *newer == key);
            older.next_if(|older| *older == key);
            if to.is_some_and(|to| key >= to) {
                break;
            }
            let change = changed.get(key).or_else(|| checkpointing.get(key));
            if let Some(change) = change {
                live -= usize::from(change.value.is_some());
                changes.push((key.clone(), change.clone()));
            }
        }
        changes
    }

    /// Begins a checkpoint of the changes. Reads still find them until it is done.
    pub(crate) fn begin_checkpoint(&mut self) -> Arc<Changes<S>> {
        if let Some(index) = &mut self.index {
            index.checkpointing = mem::take(&mut index.changed);
        }
        self.checkpointing = Arc::new(mem::take(&mut self.changed));
        self.checkpointing.clone()
    }

    /// Takes back the changes of a checkpoint that has not begun.
    pub(crate) fn thaw(&mut self) {
        if let Some(index) = &mut self.index {
            index.changed.append(&mut index.checkpointing);
        }
        for (key, change) in mem::take(&mut self.checkpointing).iter() {
            self.changed.entry(key.clone()).or_insert_with(|| change.clone());
        }
    }

    /// The tables contain the changes of the last checkpoint. The caller should still hold them, and drop
    /// their keys, which this returns, later: dropping that many under a lock could take long.
    pub(crate) fn checkpoint_done(&mut self) -> BTreeSet<S::Key> {
        self.checkpointing = Arc::default();
        self.index.as_mut().map(|index| mem::take(&mut index.checkpointing)).unwrap_or_default()
    }

    /// The first write with a version that does not increase, and the version of its key.
    pub(crate) fn version_conflict(&self) -> Option<(S::Version, S::Version)> {
        self.version_conflict
    }
}

/// The version of the key after a change, if it is live.
fn live<S: Schema>(change: &Change<S>) -> Option<S::Version> {
    change.value.as_ref().map(|_| change.version)
}
