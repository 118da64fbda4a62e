//! What changes leave that the tables do not have yet, folded as it comes, and how all of it is
//! written to the tables at once. So what comes and goes between two such times costs them nothing,
//! and what is written often is written once. Knows changes and rows; nothing of logs or threads.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    mem,
    ops::Bound,
    sync::Arc,
};

use ahash::RandomState;
use heed::RwTxn;

use super::{
    super::{
        StoreError,
        fold::{self, Change, Facts, Slot},
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
    /// Every fact, and whether the tables have it. In order, so that what concerns neighbouring
    /// transactions, as most of it does, lies together.
    facts: BTreeMap<Slot, Fact>,
    /// Rows of facts that are none any more.
    gone: Vec<Slot>,
    /// Rows of facts about transactions below are none any more.
    floor: Option<TxnId>,
    /// The last writes of keys that changed.
    entries: HashMap<Key, (Version, Option<Value>), RandomState>,
    row: Vec<u8>,
}

struct Fact {
    record: Record,
    /// There is a row of its slot, which the floor lets be.
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
            entries: HashMap::default(),
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
        for change in changes {
            match change {
                Change::Nothing => {}
                Change::Put(record) => self.put(Slot::of(record), record.clone()),
                Change::Erase(slot) => {
                    if self.facts.remove(slot).is_some_and(|fact| fact.row) {
                        self.gone.push(*slot);
                    }
                }
                Change::Apply { txn, write: Write { key, value } } => {
                    // The tables' own is looked at when they are written.
                    let before = self.entries.get(key);
                    let version = before.filter(|(_, value)| value.is_some()).map(|(id, _)| *id);
                    self.check(*txn, version)?;
                    self.put(Slot::Txn(*txn), Record::Commit { txn: *txn });
                    self.entries.insert(key.clone(), (*txn, value.clone()));
                }
                Change::Raise { floor } => {
                    self.put(Slot::Floor, Record::Floor { floor: *floor });
                    self.floor = Some(*floor);
                    fold::forget_below(&mut self.facts, *floor);
                }
            }
        }
        Ok(())
    }

    /// Checks what was taken up against the tables.
    ///
    /// # Errors
    /// A key would go back to an earlier version.
    pub(super) fn check_versions(&self) -> Result<(), StoreError> {
        let environment = &self.environment;
        let txn = environment.read()?;
        for (key, (version, _)) in &self.entries {
            let row = environment.entries.get(&txn, key.as_bytes());
            let row = row.map_err(environment.error("cannot read"))?;
            self.check(*version, row.and_then(rows::version_of_entry))?;
        }
        Ok(())
    }

    /// Writes everything that the tables do not have, and how far the log is applied with that, in
    /// one durable commit. Says what the key/value table has now, and had not before.
    ///
    /// # Errors
    /// The tables cannot be written, or a key would go back to an earlier version.
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
                let before = facts.get(&txn, key.as_bytes()).map_err(&refused)?.map(<[u8]>::len);
                replace(*facts, &mut txn, key.as_bytes(), before, &self.row).map_err(&refused)?;
            }
        }
        // Neighbours are on one page.
        let mut changed: Vec<_> = self.entries.iter().collect();
        changed.sort_unstable_by_key(|(key, _)| *key);
        for (key, (version, value)) in changed {
            let before = entries.get(&txn, key.as_bytes()).map_err(&refused)?;
            self.check(*version, before.and_then(rows::version_of_entry))?;
            let before = before.map(<[u8]>::len);
            if let Some(value) = value {
                rows::encode_entry(key, *version, value, &mut self.row);
                replace(*entries, &mut txn, key.as_bytes(), before, &self.row).map_err(&refused)?;
            } else if before.is_some() {
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

    /// The version of a live key grows.
    fn check(&self, txn: TxnId, version: Option<Version>) -> Result<(), StoreError> {
        match version {
            Some(version) if version >= txn => {
                let dir = self.environment.dir().to_owned();
                Err(StoreError::VersionOrder { dir, txn, version })
            }
            _ => Ok(()),
        }
    }

    fn put(&mut self, slot: Slot, record: Record) {
        match self.facts.entry(slot) {
            Entry::Occupied(mut fact) => {
                let fact = fact.get_mut();
                *fact = Fact { record, row: fact.row, stored: false };
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Fact { record, row: false, stored: false });
            }
        }
    }
}

/// Takes away the rows of transactions below a floor.
fn below(facts: Table, txn: &mut RwTxn<'_>, floor: TxnId) -> heed::Result<()> {
    let (least, floor) = (Slot::Txn(TxnId::default()).into(), Slot::Txn(floor).into());
    let (least, floor): (FactKey, FactKey) = (least, floor);
    let range = (Bound::Included(least.as_bytes()), Bound::Excluded(floor.as_bytes()));
    facts.delete_range(txn, &range).map(drop)
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
