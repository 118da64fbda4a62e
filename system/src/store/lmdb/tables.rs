//! How the tables are brought up to date: everything that they do not have yet is written at once.
//! So what comes and goes between two such times costs them nothing, and what is written often is
//! written once. Knows facts, entries and rows; nothing of logs or threads.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ahash::RandomState;
use heed::RwTxn;

use super::{
    super::{
        StoreError,
        fold::{Facts, Slot},
    },
    environment::{Environment, Table},
    rows::{self, FactKey},
};
use crate::protocol::{Key, TxnId, Value, Version};

/// A row that is longer may have pages of its own.
const LONG: usize = 1 << 10;

/// The last write of a key: no value if that deleted it.
pub(super) type Change = (Version, Option<Value>);
/// The last writes of keys that changed.
pub(super) type Changed = HashMap<Key, Change, RandomState>;

/// The tables of an environment.
pub(super) struct Tables {
    environment: Arc<Environment>,
    row: Vec<u8>,
}

impl Tables {
    pub(super) fn new(environment: Arc<Environment>) -> Tables {
        Tables { environment, row: Vec::new() }
    }

    /// The facts that the tables hold.
    pub(super) fn facts(&self) -> Result<Facts, StoreError> {
        let environment = &self.environment;
        let mut facts = Facts::default();
        let txn = environment.read()?;
        for row in environment.facts(&txn)? {
            let (key, row) = row.map_err(environment.error("cannot read the records"))?;
            let record = rows::decode_fact(key, row).map_err(|why| {
                let name = rows::name_of_fact(key);
                environment.damaged(format!("the record '{name}' is bad: {why}"))
            })?;
            facts.restore(record);
        }
        Ok(facts)
    }

    /// Checks writes against the tables.
    ///
    /// # Errors
    /// A key would go back to an earlier version.
    pub(super) fn check(&self, changed: &Changed) -> Result<(), StoreError> {
        let environment = &self.environment;
        let txn = environment.read()?;
        for (key, (version, _)) in changed {
            let row = environment.entries.get(&txn, key.as_bytes());
            let row = row.map_err(environment.error("cannot read"))?;
            self.grows(*version, row.and_then(rows::version_of_entry))?;
        }
        Ok(())
    }

    /// Makes the facts of the tables these, and writes the entries that changed, and how far the log
    /// is applied with that, in one durable commit.
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
        environment.set_applied(&mut txn, generation)?;
        txn.commit().map_err(environment.error("cannot commit"))
    }

    /// There are few facts: so what differs is found by looking through all of them.
    fn write_facts(&mut self, txn: &mut RwTxn<'_>, facts: &Facts) -> Result<(), StoreError> {
        let environment = self.environment.clone();
        let refused = environment.error("cannot write");
        let key_of = |record| FactKey::from(Slot::of(record)).as_bytes().to_vec();
        let mut new: BTreeMap<_, _> = facts.records().map(|it| (key_of(it), it)).collect();
        let mut gone = Vec::new();
        for stored in environment.facts(txn)? {
            let (key, stored) = stored.map_err(&refused)?;
            match new.get(key) {
                None => gone.push(key.to_vec()),
                Some(record) => {
                    rows::encode_fact(key, record, &mut self.row);
                    if self.row == stored {
                        new.remove(key);
                    }
                }
            }
        }
        for key in gone {
            environment.facts.delete(txn, &key).map_err(&refused)?;
        }
        for (key, record) in new {
            rows::encode_fact(&key, record, &mut self.row);
            let before = environment.facts.get(txn, &key).map_err(&refused)?.map(<[u8]>::len);
            replace(environment.facts, txn, &key, before, &self.row).map_err(&refused)?;
        }
        Ok(())
    }

    fn write_entries(&mut self, txn: &mut RwTxn<'_>, changed: &Changed) -> Result<(), StoreError> {
        let environment = self.environment.clone();
        let refused = environment.error("cannot write");
        let entries = environment.entries;
        // Neighbours are on one page.
        let mut changed: Vec<_> = changed.iter().collect();
        changed.sort_unstable_by_key(|(key, _)| *key);
        for (key, (version, value)) in changed {
            let before = entries.get(txn, key.as_bytes()).map_err(&refused)?;
            self.grows(*version, before.and_then(rows::version_of_entry))?;
            let before = before.map(<[u8]>::len);
            if let Some(value) = value {
                rows::encode_entry(key, *version, value, &mut self.row);
                replace(entries, txn, key.as_bytes(), before, &self.row).map_err(&refused)?;
            } else if before.is_some() {
                entries.delete(txn, key.as_bytes()).map_err(&refused)?;
            }
        }
        Ok(())
    }

    /// The version of a live key grows.
    fn grows(&self, txn: TxnId, version: Option<Version>) -> Result<(), StoreError> {
        match version {
            Some(version) if version >= txn => {
                let dir = self.environment.dir().to_owned();
                Err(StoreError::VersionOrder { dir, txn, version })
            }
            _ => Ok(()),
        }
    }
}

/// Puts a row in the place of one of `before` bytes, if any.
///
/// LMDB leaves a row in the pages of its own that it once needed, however short it becomes. So a
/// long row that becomes shorter is taken away first.
fn replace(
    table: Table,
    txn: &mut RwTxn<'_>,
    key: &[u8],
    before: Option<usize>,
    row: &[u8],
) -> heed::Result<()> {
    if before.is_some_and(|before| before > LONG && before > row.len()) {
        table.delete(txn, key)?;
    }
    table.put(txn, key, row)
}
