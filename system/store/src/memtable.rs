//! The memtable: the newest state, as far as the tables may not contain it. It holds all facts, and
//! the entries that changed since the last checkpoint. Does not know about queues, threads or files.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
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
    /// The first write with a version that does not increase, and the version of its key.
    version_conflict: Option<(S::Version, S::Version)>,
}

impl<S: Schema> Memtable<S> {
    /// Starts from the facts in the tables.
    pub(crate) fn new(facts: S::Facts) -> Self {
        Memtable {
            facts,
            changed: HashMap::default(),
            checkpointing: Arc::default(),
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

    /// Begins a checkpoint of the changes. Reads still find them until it is done.
    pub(crate) fn begin_checkpoint(&mut self) -> Arc<Changes<S>> {
        self.checkpointing = Arc::new(mem::take(&mut self.changed));
        self.checkpointing.clone()
    }

    /// Takes back the changes of a checkpoint that has not begun.
    pub(crate) fn thaw(&mut self) {
        for (key, change) in mem::take(&mut self.checkpointing).iter() {
            self.changed.entry(key.clone()).or_insert_with(|| change.clone());
        }
    }

    /// The tables contain the changes of the last checkpoint. The caller should still hold them,
    /// because dropping that many under a lock could take long.
    pub(crate) fn checkpoint_done(&mut self) {
        self.checkpointing = Arc::default();
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
