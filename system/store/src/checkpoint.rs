//! Checkpoints: one transaction writes everything that the tables do not contain yet. Data that is
//! superseded between two checkpoints never reaches the tables, and a key that is written often is
//! written once. Knows facts, entries and rows, but not the WAL or threads.

use std::{collections::BTreeMap, sync::Arc};

use heed::RwTxn;

use crate::{
    RowError, Schema, StoreError, codec,
    environment::{Environment, Table},
    memtable::{Change, Changes},
    wal::Anchor,
};

/// Rows longer than this may be stored in overflow pages.
const OVERFLOW_BYTES: usize = 1 << 10;

/// Reads and writes the tables of an environment.
pub(crate) struct Checkpointer {
    environment: Arc<Environment>,
    row: Vec<u8>,
}

impl Checkpointer {
    pub(crate) fn new(environment: Arc<Environment>) -> Checkpointer {
        Checkpointer { environment, row: Vec::new() }
    }

    /// Reads the facts in the tables.
    pub(crate) fn load_facts<S: Schema>(&self) -> Result<S::Facts, StoreError> {
        let environment = &self.environment;
        let mut facts = S::Facts::default();
        let txn = environment.read()?;
        for row in environment.facts(&txn)? {
            let (key, row) = row.map_err(environment.error("cannot read the records"))?;
            let record = codec::decode_fact::<S>(key, row).map_err(|error| match error {
                RowError::Foreign => environment.foreign_records(),
                RowError::Invalid(why) => {
                    let name = S::describe(key);
                    environment.damaged(format!("record '{name}' is invalid: {why}"))
                }
            })?;
            S::check_fact(&record).map_err(|why| {
                environment.damaged(format!("record '{}' is invalid: {why}", S::describe(key)))
            })?;
            S::restore(&mut facts, record);
        }
        Ok(facts)
    }

    /// Checks the versions of writes against the tables.
    ///
    /// # Errors
    /// A key would go back to an earlier version.
    pub(crate) fn check_versions<S: Schema>(&self, changed: &Changes<S>) -> Result<(), StoreError> {
        let environment = &self.environment;
        let txn = environment.read()?;
        for (key, change) in changed {
            let row = environment.entries.get(&txn, key.as_ref());
            let row = row.map_err(environment.error("cannot read"))?;
            let current = row.and_then(|row| codec::version_of_entry::<S>(key.as_ref(), row));
            self.check_version_grows::<S>(change, current)?;
        }
        Ok(())
    }

    /// Replaces the facts in the tables, writes the changed entries, and records the anchor of the WAL,
    /// in one durable transaction.
    ///
    /// # Errors
    /// The tables cannot be written, or a key would go back to an earlier version.
    pub(crate) fn write<S: Schema>(
        &mut self,
        facts: &S::Facts,
        changed: &Changes<S>,
        anchor: &Anchor,
    ) -> Result<(), StoreError> {
        let environment = self.environment.clone();
        let mut txn = environment.write()?;
        self.write_facts::<S>(&mut txn, facts)?;
        self.write_entries::<S>(&mut txn, changed)?;
        environment.set_anchor(&mut txn, anchor)?;
        environment.set_format(&mut txn)?;
        txn.commit().map_err(environment.error("cannot commit"))
    }

    /// Facts are few, so the differences are found by reading all of them.
    fn write_facts<S: Schema>(
        &mut self,
        txn: &mut RwTxn<'_>,
        facts: &S::Facts,
    ) -> Result<(), StoreError> {
        let environment = self.environment.clone();
        let failed = environment.error("cannot write");
        let key_of = |record| S::row_key(record).as_bytes().to_vec();
        let mut new: BTreeMap<_, _> =
            S::records(facts).map(|record| (key_of(record), record)).collect();
        let mut gone = Vec::new();
        for stored in environment.facts(txn)? {
            let (key, stored) = stored.map_err(&failed)?;
            match new.get(key) {
                None => gone.push(key.to_vec()),
                Some(record) => {
                    codec::encode_fact::<S>(key, record, &mut self.row);
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
            codec::encode_fact::<S>(&key, record, &mut self.row);
            let before = environment.facts.get(txn, &key).map_err(&failed)?.map(<[u8]>::len);
            replace(environment.facts, txn, &key, before, &self.row).map_err(&failed)?;
        }
        Ok(())
    }

    fn write_entries<S: Schema>(
        &mut self,
        txn: &mut RwTxn<'_>,
        changed: &Changes<S>,
    ) -> Result<(), StoreError> {
        let environment = self.environment.clone();
        let failed = environment.error("cannot write");
        let entries = environment.entries;
        // In key order, because neighbours share a page.
        let mut changed: Vec<_> = changed.iter().collect();
        changed.sort_unstable_by_key(|(key, _)| *key);
        for (key, change) in changed {
            let before = entries.get(txn, key.as_ref()).map_err(&failed)?;
            let current = before.and_then(|row| codec::version_of_entry::<S>(key.as_ref(), row));
            self.check_version_grows::<S>(change, current)?;
            let before = before.map(<[u8]>::len);
            if before.is_none() {
                self.remove_rotten_row::<S>(txn, key)?;
            }
            if let Some(value) = &change.value {
                codec::encode_entry::<S>(key, change.version, value, &mut self.row);
                replace(entries, txn, key.as_ref(), before, &self.row).map_err(&failed)?;
            } else if before.is_some() {
                entries.delete(txn, key.as_ref()).map_err(&failed)?;
            }
        }
        Ok(())
    }

    /// Removes the entry of a key that is not found because its key in the tables has rotted: it is the row
    /// before or after the place of the key.
    fn remove_rotten_row<S: Schema>(
        &self,
        txn: &mut RwTxn<'_>,
        key: &S::Key,
    ) -> Result<(), StoreError> {
        let (entries, key) = (self.environment.entries, key.as_ref());
        let failed = self.environment.error("cannot write");
        let mut rotten = None;
        for row in [entries.get_lower_than(txn, key), entries.get_greater_than(txn, key)] {
            if let Some((other, row)) = row.map_err(&failed)?
                && codec::was_entry_of::<S>(key, other, row)
            {
                rotten = Some(other.to_vec());
            }
        }
        if let Some(rotten) = rotten {
            entries.delete(txn, &rotten).map_err(&failed)?;
        }
        Ok(())
    }

    /// Checks that the version of a live key increases.
    fn check_version_grows<S: Schema>(
        &self,
        change: &Change<S>,
        current: Option<S::Version>,
    ) -> Result<(), StoreError> {
        match current {
            Some(current) if !change.may_follow(current) => {
                Err(self.environment.version_order(&change.version, &current))
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
