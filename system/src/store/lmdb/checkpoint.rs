//! Checkpoints: one transaction writes everything that the tables do not contain yet. Data that is
//! superseded between two checkpoints never reaches the tables, and a key that is written often is
//! written once. Knows facts, entries and rows, but not the WAL or threads.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ahash::RandomState;
use heed::RwTxn;

use super::{
    super::{
        StoreError,
        memtable::{Facts, Slot},
    },
    codec::{self, FactKey},
    environment::{Environment, Table},
};
use crate::protocol::{Key, TxnId, Value, Version};

/// Rows longer than this may be stored in overflow pages.
const OVERFLOW_BYTES: usize = 1 << 10;

/// The last write of a key; no value means a delete.
pub(super) type Change = (Version, Option<Value>);
/// The last writes of the keys that changed.
pub(super) type Changed = HashMap<Key, Change, RandomState>;

/// Reads and writes the tables of an environment.
pub(super) struct Checkpointer {
    environment: Arc<Environment>,
    row: Vec<u8>,
}

impl Checkpointer {
    pub(super) fn new(environment: Arc<Environment>) -> Checkpointer {
        Checkpointer { environment, row: Vec::new() }
    }

    /// Reads the facts in the tables.
    pub(super) fn load_facts(&self) -> Result<Facts, StoreError> {
        let environment = &self.environment;
        let mut facts = Facts::default();
        let txn = environment.read()?;
        for row in environment.facts(&txn)? {
            let (key, row) = row.map_err(environment.error("cannot read the records"))?;
            let record = codec::decode_fact(key, row).map_err(|why| {
                let name = codec::name_of_fact(key);
                environment.damaged(format!("record '{name}' is invalid: {why}"))
            })?;
            facts.restore(record);
        }
        Ok(facts)
    }

    /// Checks the versions of writes against the tables.
    ///
    /// A key would go back to an earlier version.
    pub(super) fn check_versions(&self, changed: &Changed) -> Result<(), StoreError> {
        let environment = &self.environment;
        let txn = environment.read()?;
        for (key, (version, _)) in changed {
            let row = environment.entries.get(&txn, key.as_bytes());
            let row = row.map_err(environment.error("cannot read"))?;
            self.check_version_grows(*version, row.and_then(codec::version_of_entry))?;
        }
        Ok(())
    }

    /// Replaces the facts in the tables, writes the changed entries, and records the WAL
    /// generation, in one durable transaction.
    ///
    /// # Errors
    /// The tables cannot be written, or a key would go back to an earlier version.
    pub(super) fn write(
        &mut self,
        facts: &Facts,
        changed: &Changed,
        generation: u64,
    ) -> Result<(), StoreError> {
        let environment = self.environment.clone();
        let mut txn = environment.write()?;
        self.write_facts(&mut txn, facts)?;
        self.write_entries(&mut txn, changed)?;
        environment.set_checkpoint_generation(&mut txn, generation)?;
        txn.commit().map_err(environment.error("cannot commit"))
    }

    /// Facts are few, so the differences are found by reading all of them.
    fn write_facts(&mut self, txn: &mut RwTxn<'_>, facts: &Facts) -> Result<(), StoreError> {
        let environment = self.environment.clone();
        let failed = environment.error("cannot write");
        let key_of = |record| FactKey::from(Slot::of(record)).as_bytes().to_vec();
        let mut new: BTreeMap<_, _> = facts.records().map(|it| (key_of(it), it)).collect();
        let mut gone = Vec::new();
        for stored in environment.facts(txn)? {
            let (key, stored) = stored.map_err(&failed)?;
            match new.get(key) {
                None => gone.push(key.to_vec()),
                Some(record) => {
                    codec::encode_fact(key, record, &mut self.row);
                    if self.row == stored {
                        new.remove(key);
                    }
                }
            }
        }
        for key in gone {
            environment.facts.delete(txn, &key).map_err(&failed)?;
        }
        for (key, record) in new {
            codec::encode_fact(&key, record, &mut self.row);
            let before = environment.facts.get(txn, &key).map_err(&failed)?.map(<[u8]>::len);
            replace(environment.facts, txn, &key, before, &self.row).map_err(&failed)?;
        }
        Ok(())
    }

    fn write_entries(&mut self, txn: &mut RwTxn<'_>, changed: &Changed) -> Result<(), StoreError> {
        let environment = self.environment.clone();
        let failed = environment.error("cannot write");
        let entries = environment.entries;
        // In key order, because neighbours share a page.
        let mut changed: Vec<_> = changed.iter().collect();
        changed.sort_unstable_by_key(|(key, _)| *key);
        for (key, (version, value)) in changed {
            let before = entries.get(txn, key.as_bytes()).map_err(&failed)?;
            self.check_version_grows(*version, before.and_then(codec::version_of_entry))?;
            let before = before.map(<[u8]>::len);
            if let Some(value) = value {
                codec::encode_entry(key, *version, value, &mut self.row);
                replace(entries, txn, key.as_bytes(), before, &self.row).map_err(&failed)?;
            } else if before.is_some() {
                entries.delete(txn, key.as_bytes()).map_err(&failed)?;
            }
        }
        Ok(())
    }

    /// Checks that the version of a live key increases.
    fn check_version_grows(&self, txn: TxnId, version: Option<Version>) -> Result<(), StoreError> {
        match version {
            Some(version) if version >= txn => {
                let dir = self.environment.dir().to_owned();
                Err(StoreError::VersionOrder { dir, txn, version })
            }
            _ => Ok(()),
        }
    }
}

/// Replaces a row of `before` bytes, if any.
///
/// LMDB leaves a row in its overflow pages, however short it becomes. So a long row that becomes
/// shorter is deleted first.
fn replace(
    table: Table,
    txn: &mut RwTxn<'_>,
    key: &[u8],
    before: Option<usize>,
    row: &[u8],
) -> heed::Result<()> {
    if before.is_some_and(|before| before > OVERFLOW_BYTES && before > row.len()) {
        table.delete(txn, key)?;
    }
    table.put(txn, key, row)
}
