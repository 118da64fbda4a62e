//! What changes leave that the tables do not have yet, folded as it comes, and how all of it is
//! written to the tables at once. So what comes and goes between two such times costs them nothing,
//! and what is written often is written once. Knows changes and rows; nothing of logs or threads.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    ops::Bound,
    sync::Arc,
};

use heed::{RoTxn, RwTxn, WithoutTls};

use super::{
    super::{
        StoreError,
        fold::{Change, Facts, Slot},
    },
    environment::{Environment, Table},
    rows::{self, FactKey},
};
use crate::protocol::{Key, Record, TxnId, Value, Version, Write};

/// A row that is longer may have pages of its own.
const LONG: usize = 1 << 10;

/// The tables, and what they do not have yet.
pub(super) struct Tables {
    environment: Arc<Environment>,
    /// Every fact, and whether the tables have it.
    facts: BTreeMap<Slot, Fact>,
    /// Rows of facts that are none any more.
    gone: Vec<Slot>,
    /// Rows of transactions below are no facts any more.
    floor: Option<TxnId>,
    /// The last writes of keys that changed.
    entries: HashMap<Key, (Version, Option<Value>)>,
    row: Vec<u8>,
}

struct Fact {
    record: Record,
    /// There is a row of its slot.
    row: bool,
    /// The row says this.
    stored: bool,
}

impl Tables {
    /// Begins with what the tables hold.
    pub(super) fn load(environment: Arc<Environment>) -> Result<(Facts, Tables), StoreError> {
        let mut facts = Facts::default();
        let mut mirror = BTreeMap::new();
        let txn = environment.read()?;
        for row in environment.facts(&txn)? {
            let (key, row) = row.map_err(environment.error("cannot read the records"))?;
            let record = rows::decode_fact(key, row).map_err(|why| {
                let name = rows::name_of_fact(key);
                environment.damaged(format!("the record '{name}' is bad: {why}"))
            })?;
            let slot = Slot::of(&record);
            mirror.insert(slot, Fact { record: record.clone(), row: true, stored: true });
            facts.restore(record);
        }
        drop(txn);
        let tables = Tables {
            environment,
            facts: mirror,
            gone: Vec::new(),
            floor: None,
            entries: HashMap::new(),
            row: Vec::new(),
        };
        Ok((facts, tables))
    }

    /// The writes that the tables do not have.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Key, &(Version, Option<Value>))> {
        self.entries.iter()
    }

    /// Takes up changes, in order.
    ///
    /// # Errors
    /// A key would go back to an earlier version: the changes from that one on are not taken up.
    pub(super) fn take(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let environment = self.environment.clone();
        let mut txn = None;
        for change in changes {
            match change {
                Change::Nothing => {}
                Change::Put(record) => self.put(Slot::of(record), record.clone()),
                Change::Erase(slot) => {
                    if self.facts.remove(slot).is_some_and(|fact| fact.row) {
                        self.gone.push(*slot);
                    }
                }
                Change::Apply { txn: id, write: Write { key, value } } => {
                    let txn = match &txn {
                        Some(txn) => txn,
                        None => txn.insert(environment.read()?),
                    };
                    let version = self.version(txn, key)?;
                    if let Some(version) = version.filter(|version| version >= id) {
                        let dir = environment.dir().to_owned();
                        return Err(StoreError::VersionOrder { dir, txn: *id, version });
                    }
                    self.put(Slot::Txn(*id), Record::Commit { txn: *id });
                    self.entries.insert(key.clone(), (*id, value.clone()));
                }
                Change::Raise { floor } => {
                    let least = Slot::Txn(TxnId::default());
                    while let Some((&settled, _)) =
                        self.facts.range(least..Slot::Txn(*floor)).next()
                    {
                        self.facts.remove(&settled);
                    }
                    self.put(Slot::Floor, Record::Floor { floor: *floor });
                    self.floor = Some(*floor);
                }
            }
        }
        Ok(())
    }

    /// Writes everything that the tables do not have, and how far the log is applied with that, in
    /// one durable commit. Says what the key/value table has now, and had not before.
    pub(super) fn write(&mut self, generation: u64) -> Result<Vec<(Key, Version)>, StoreError> {
        let environment = self.environment.clone();
        let refused = environment.error("cannot write");
        let Environment { facts, entries, .. } = &*environment;
        let mut txn = environment.write()?;
        if let Some(floor) = self.floor {
            below(*facts, &mut txn, floor).map_err(&refused)?;
        }
        for slot in &self.gone {
            facts.delete(&mut txn, FactKey::from(*slot).as_bytes()).map_err(&refused)?;
        }
        for (slot, fact) in &self.facts {
            if !fact.stored {
                let key = FactKey::from(*slot);
                rows::encode_fact(&key, &fact.record, &mut self.row);
                replace(*facts, &mut txn, key.as_bytes(), &self.row).map_err(&refused)?;
            }
        }
        // Neighbours are on one page.
        let mut changed: Vec<_> = self.entries.iter().collect();
        changed.sort_unstable_by_key(|(key, _)| *key);
        for (key, (version, value)) in &changed {
            if let Some(value) = value {
                rows::encode_entry(key, *version, value, &mut self.row);
                replace(*entries, &mut txn, key.as_bytes(), &self.row).map_err(&refused)?;
            } else {
                entries.delete(&mut txn, key.as_bytes()).map_err(&refused)?;
            }
        }
        environment.set_applied(&mut txn, generation)?;
        txn.commit().map_err(environment.error("cannot commit"))?;

        self.floor = None;
        self.gone.clear();
        for fact in self.facts.values_mut() {
            fact.row = true;
            fact.stored = true;
        }
        let written = mem::take(&mut self.entries).into_iter();
        Ok(written.map(|(key, (version, _))| (key, version)).collect())
    }

    fn put(&mut self, slot: Slot, record: Record) {
        let fact = self.facts.entry(slot);
        let fact =
            fact.or_insert_with(|| Fact { record: record.clone(), row: false, stored: false });
        fact.record = record;
        fact.stored = false;
    }

    /// The version of a live key.
    fn version(
        &self,
        txn: &RoTxn<'_, WithoutTls>,
        key: &Key,
    ) -> Result<Option<Version>, StoreError> {
        if let Some((version, value)) = self.entries.get(key) {
            return Ok(value.as_ref().map(|_| *version));
        }
        let row = self.environment.entries.get(txn, key.as_bytes());
        let row = row.map_err(self.environment.error("cannot read"))?;
        Ok(row.and_then(rows::version_of_entry))
    }
}

/// Takes away the rows of transactions below a floor.
fn below(facts: Table, txn: &mut RwTxn<'_>, floor: TxnId) -> heed::Result<()> {
    let (least, floor) = (Slot::Txn(TxnId::default()).into(), Slot::Txn(floor).into());
    let (least, floor): (FactKey, FactKey) = (least, floor);
    let range = (Bound::Included(least.as_bytes()), Bound::Excluded(floor.as_bytes()));
    facts.delete_range(txn, &range).map(drop)
}

/// Puts a row in the place of the one that is there, if any.
///
/// LMDB leaves a row in the pages of its own that it once needed, however short it becomes. So a
/// long row that becomes shorter is taken away first.
fn replace(table: Table, txn: &mut RwTxn<'_>, key: &[u8], row: &[u8]) -> heed::Result<()> {
    let before = table.get(txn, key)?.map_or(0, <[u8]>::len);
    if before > LONG && before > row.len() {
        table.delete(txn, key)?;
    }
    table.put(txn, key, row)
}
