//! What a change does to the tables, within one transaction of LMDB. Facts are written at once, and
//! so is what a commit says; the key/value table follows behind, until when the record of the commit
//! keeps its write. Knows changes and rows; nothing of queues or threads.
//!
//! Invariants of what is durable: the last write of a key is in the key/value table or in the
//! record of its transaction; and of the records about transactions below the floor, which say
//! nothing any more, those that are gone are all below those that are still there. So of several
//! records that keep writes of one key the greatest is the last write, and it is there for as long
//! as any of the others.

use std::{mem, ops::Bound, sync::Arc};

use heed::{PutFlags, RoTxn, RwTxn};

use super::{
    super::{
        StoreError,
        fold::{Change, Facts, Slot},
    },
    behind::Behind,
    environment::{Environment, Table},
    rows::{self, Fact, FactKey},
};
use crate::protocol::{Key, Record, TxnId, Value, Version, Write};

/// A row that is longer may have pages of its own.
const LONG: usize = 1 << 10;
/// Records below the floor that a commit erases, at least. More come than go only for a moment.
const ERASE: usize = 256;

/// Writes changes.
pub(super) struct Applier {
    environment: Arc<Environment>,
    behind: Behind,
    /// Nothing more gets behind.
    at_once: bool,
    floor: TxnId,
    /// Records of lesser transactions are erased.
    erased: TxnId,
    row: Vec<u8>,
    /// What the key/value table has now, and had not before.
    applied: Vec<(Key, Version)>,
}

impl Applier {
    /// Begins with what the tables hold: the facts, and, in the applier, what is behind. A
    /// generation of what gets behind has so many records; with none nothing does.
    pub(super) fn load(
        environment: Arc<Environment>,
        records_max: usize,
    ) -> Result<(Facts, Applier), StoreError> {
        let mut facts = Facts::default();
        let mut this = Applier {
            behind: Behind::new(records_max),
            at_once: records_max == 0,
            floor: TxnId::default(),
            erased: TxnId::default(),
            row: Vec::new(),
            applied: Vec::new(),
            environment: environment.clone(),
        };
        let txn = environment.read()?;
        // In the order of the transactions, and the floor before them.
        for row in environment.facts(&txn)? {
            let (key, row) = row.map_err(environment.error("cannot read the records"))?;
            let Fact { record, write } = rows::decode_fact(key, row).map_err(|why| {
                let name = rows::name_of_fact(key);
                environment.damaged(format!("the record '{name}' is bad: {why}"))
            })?;
            if let Record::Floor { floor } = &record {
                this.floor = *floor;
            }
            let slot = Slot::of(&record);
            if let (Slot::Txn(id), Some(Write { key, value })) = (slot, write) {
                this.restore(&txn, id, key, value)?;
            }
            // What was not erased yet says nothing any more.
            if !matches!(slot, Slot::Txn(id) if id < this.floor) {
                facts.restore(record);
            }
        }
        Ok((facts, this))
    }

    /// A record keeps its write: was it applied?
    fn restore(
        &mut self,
        txn: &RoTxn<'_>,
        id: TxnId,
        key: Key,
        value: Option<Value>,
    ) -> Result<(), StoreError> {
        let row = self.environment.entries.get(txn, key.as_bytes());
        let row = row.map_err(self.environment.error("cannot read the records"))?;
        let stored = row.and_then(rows::version_of_entry);
        let behind = match &value {
            Some(_) => stored.is_none_or(|version| version < id),
            None => stored.is_some_and(|version| version < id),
        };
        if behind {
            self.behind.add(key, id, value);
        } else {
            // An earlier record of the key may have seemed to be behind.
            self.behind.forget(&key);
        }
        Ok(())
    }

    /// What is behind, for whoever reads.
    pub(super) fn behind(&self) -> impl Iterator<Item = (&Key, &(Version, Option<Value>))> {
        self.behind.iter()
    }

    /// What the key/value table has since it was last asked for.
    pub(super) fn applied(&mut self) -> Vec<(Key, Version)> {
        mem::take(&mut self.applied)
    }

    /// Writes a change.
    pub(super) fn write(&mut self, txn: &mut RwTxn<'_>, change: &Change) -> Result<(), StoreError> {
        let environment = self.environment.clone();
        let facts = environment.facts;
        let refused = environment.error("cannot write");
        match change {
            Change::Nothing => Ok(()),
            Change::Put(record) => {
                let key = FactKey::from(Slot::of(record));
                rows::encode_fact(&key, record, &mut self.row);
                let fresh = matches!(record, Record::Prepare { .. });
                if fresh && self.append(txn, &key).map_err(&refused)? {
                    return Ok(());
                }
                let before = facts.get(txn, key.as_bytes()).map_err(&refused)?.map(<[u8]>::len);
                replace(facts, txn, key.as_bytes(), before, &self.row).map_err(&refused)
            }
            Change::Erase(slot) => {
                facts.delete(txn, FactKey::from(*slot).as_bytes()).map_err(&refused)?;
                Ok(())
            }
            Change::Apply { txn: id, write } => self.commit(txn, *id, write),
            Change::Raise { floor } => {
                self.floor = *floor;
                let key = FactKey::from(Slot::Floor);
                rows::encode_fact(&key, &Record::Floor { floor: *floor }, &mut self.row);
                facts.put(txn, key.as_bytes(), &self.row).map_err(&refused)
            }
        }
    }

    /// Puts a fact behind all others, if that is its place: pages fill up, and none is searched for.
    fn append(&self, txn: &mut RwTxn<'_>, key: &FactKey) -> heed::Result<bool> {
        let flags = PutFlags::APPEND;
        let put = self.environment.facts.put_with_flags(txn, flags, key.as_bytes(), &self.row);
        match put {
            Err(heed::Error::Mdb(heed::MdbError::KeyExist)) => Ok(false),
            put => put.map(|()| true),
        }
    }

    /// Writes that a transaction is committed, with its write, which is behind from now on. Where
    /// long rows come or go there is nothing to be saved by waiting.
    fn commit(
        &mut self,
        txn: &mut RwTxn<'_>,
        id: TxnId,
        Write { key, value }: &Write,
    ) -> Result<(), StoreError> {
        let environment = self.environment.clone();
        let Environment { facts, entries, .. } = &*environment;
        let refused = environment.error("cannot write");
        let len = |value: &Option<Value>| value.as_ref().map(|value| value.as_bytes().len());

        let before = entries.get(txn, key.as_bytes()).map_err(&refused)?;
        let stored = before.and_then(rows::version_of_entry);
        let before = before.map(<[u8]>::len);
        let version = match self.behind.get(key) {
            Some((version, value)) => value.as_ref().map(|_| *version),
            None => stored,
        };
        if let Some(version) = version
            && version >= id
        {
            let dir = environment.dir().to_owned();
            return Err(StoreError::VersionOrder { dir, txn: id, version });
        }

        let long = [len(value), before].iter().flatten().any(|len| *len > LONG);
        let fact = FactKey::from(Slot::Txn(id));
        let at_once = long || self.at_once;
        if at_once && value.is_some() {
            rows::encode_fact(&fact, &Record::Commit { txn: id }, &mut self.row);
        } else {
            // That a key is deleted cannot be seen in the key/value table, so it is kept here even
            // when it is applied at once.
            rows::encode_kept(&fact, key, value.as_ref(), &mut self.row);
        }
        let prepared = len(value);
        replace(*facts, txn, fact.as_bytes(), prepared, &self.row).map_err(&refused)?;
        if at_once {
            self.behind.forget(key);
            self.apply(txn, key.clone(), id, value.as_ref(), before)
        } else {
            self.behind.add(key.clone(), id, value.clone());
            Ok(())
        }
    }

    /// Brings the key/value table up to date, as far as this commit has to, and erases records that
    /// say nothing any more.
    pub(super) fn catch_up(&mut self, txn: &mut RwTxn<'_>) -> Result<(), StoreError> {
        let environment = self.environment.clone();
        let refused = environment.error("cannot write");
        for (key, id, value) in self.behind.take() {
            let before = environment.entries.get(txn, key.as_bytes()).map_err(&refused)?;
            let before = before.map(<[u8]>::len);
            self.apply(txn, key, id, value.as_ref(), before)?;
        }
        self.erase(txn)
    }

    fn apply(
        &mut self,
        txn: &mut RwTxn<'_>,
        key: Key,
        id: TxnId,
        value: Option<&Value>,
        before: Option<usize>,
    ) -> Result<(), StoreError> {
        let entries = self.environment.entries;
        let refused = self.environment.error("cannot write");
        if let Some(value) = value {
            rows::encode_entry(&key, id, value, &mut self.row);
            replace(entries, txn, key.as_bytes(), before, &self.row).map_err(refused)?;
        } else if before.is_some() {
            entries.delete(txn, key.as_bytes()).map_err(refused)?;
        }
        self.applied.push((key, id));
        Ok(())
    }

    fn erase(&mut self, txn: &mut RwTxn<'_>) -> Result<(), StoreError> {
        let until = self.floor.min(self.behind.clear());
        if until <= self.erased {
            return Ok(());
        }
        let facts = self.environment.facts;
        let refused = self.environment.error("cannot write");
        let least = FactKey::from(Slot::Txn(TxnId::default()));
        let end = FactKey::from(Slot::Txn(until));
        let range = (Bound::Included(least.as_bytes()), Bound::Excluded(end.as_bytes()));
        let last = facts.range(txn, &range).map_err(&refused)?.nth(ERASE + self.applied.len());
        let last = last.transpose().map_err(&refused)?.and_then(|(key, _)| rows::txn_of_fact(key));
        self.erased = last.unwrap_or(until);
        let end = FactKey::from(Slot::Txn(self.erased));
        let range = (Bound::Included(least.as_bytes()), Bound::Excluded(end.as_bytes()));
        facts.delete_range(txn, &range).map_err(&refused)?;
        Ok(())
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
