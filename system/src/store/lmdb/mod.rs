//! The store on disk, as a node uses it: records appended and read at once, made durable in groups
//! by a thread of their own, in a log first and in LMDB's tables when that is full. One owner appends
//! and reads. Knows nothing of what the machine that appends is about.

mod environment;
mod log;
mod pages;
mod rows;
mod tables;
mod writer;

use std::{
    fmt,
    iter::Peekable,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
    vec,
};

use heed::{RoTxn, WithoutTls};

pub use self::writer::{Observer, Persisted};
use self::{
    environment::Environment,
    tables::{Change, Tables},
    writer::{Shared, Writer},
};
use super::{Limits, StoreError};
use crate::protocol::{Key, Lsn, Record, StoreId, Value, Version};

/// How a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Create the store if its directory is missing or empty. Default no: then that is an error.
    pub create: bool,
    /// Hold the directory's lock, so that no other process opens the store. Default yes; no breaks
    /// the rule `exclusive-store`.
    pub exclusive: bool,
    /// The most that the store may take, in bytes. Address space is set aside for all of it, disk
    /// space is not. Default 16 GiB.
    pub map_bytes: u64,
    /// Records that nobody forces are made durable after this time. Default 10 ms.
    pub idle: Duration,
    /// The size of the log, in bytes: what is durable there before the tables of LMDB take it up,
    /// all together, when the log is full. A commit that does not fit goes to the tables at once; 0:
    /// every one. Not used without the directory's lock. Default 16 MiB.
    pub wal_bytes: u64,
    /// The bounds of keys and values. The store relies on whoever appends to keep them.
    pub limits: Limits,
    /// What a commit waits for. Default all of it.
    pub syncs: SyncMode,
}

/// What of a commit is on the disk before it counts as done. Everything but [`SyncMode::All`] loses
/// acknowledged records with the power, and is there so that a harness can be seen to notice; no
/// program of the store offers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SyncMode {
    /// The frame of the log; and where the tables take the log up, their pages, and then the meta
    /// page that makes them count.
    #[default]
    All,
    /// All but the meta page, which goes with the next commit to the tables (LMDB's `NOMETASYNC`).
    NoMeta,
    /// Nothing (LMDB's `NOSYNC`).
    None,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            create: false,
            exclusive: true,
            map_bytes: 16 << 30,
            idle: Duration::from_millis(10),
            wal_bytes: 16 << 20,
            limits: Limits::default(),
            syncs: SyncMode::All,
        }
    }
}

/// A store that was opened, and what it kept.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// The identity of its directory.
    pub id: StoreId,
    /// The surviving records, in canonical order, for the machine's recovery.
    pub records: Vec<Record>,
}

/// A node's records and key/value data on disk.
///
/// Dropping it closes it.
pub struct Store {
    environment: Arc<Environment>,
    shared: Arc<Shared>,
    last: Lsn,
    limits: Limits,
    writer: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the store of a directory. `persisted` is told what has become durable.
    ///
    /// # Errors
    /// The directory holds no store that can be used: see [`StoreError`] for all that is checked.
    pub fn open(
        dir: &Path,
        options: StoreOptions,
        persisted: Persisted,
    ) -> Result<Opened, StoreError> {
        Store::open_observed(dir, options, persisted, None)
    }

    /// Opens the store of a directory, with an observer of its commits.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn open_observed(
        dir: &Path,
        options: StoreOptions,
        persisted: Persisted,
        observer: Option<Box<dyn Observer>>,
    ) -> Result<Opened, StoreError> {
        let (environment, mut log, logged) = Environment::open(dir, &options)?;
        let environment = Arc::new(environment);
        let tables = Tables::new(environment.clone());
        let shared = Arc::new(Shared::new(tables.facts()?, &logged));
        shared.in_order(&environment)?;
        tables.check(&shared.all_changed())?;
        log.resize(options.wal_bytes)?;
        let records = shared.facts();
        let writer = Writer {
            environment: environment.clone(),
            log,
            tables,
            syncs: options.syncs,
            shared: shared.clone(),
            idle: options.idle,
            observer,
            persisted,
        };
        let writer = thread::Builder::new()
            .name("store".to_owned())
            .spawn(|| writer.run())
            .map_err(|source| {
                let doing = "cannot start the writer's thread";
                StoreError::Io { path: dir.to_owned(), doing, source }
            })?;
        let id = environment.id;
        let store =
            Store { environment, shared, last: 0, limits: options.limits, writer: Some(writer) };
        Ok(Opened { store, id, records })
    }

    /// The bounds of keys and values.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Appends a record, and says its position, counted from 1 since the store was opened. Reads
    /// see it at once; it becomes durable with the next force, or after a while without one.
    ///
    /// Takes no part in failures: when writing has failed, what is appended is never reported as
    /// persisted.
    ///
    /// # Panics
    /// On a commit of what is not prepared: no machine asks for that.
    pub fn append(&mut self, record: Record) -> Lsn {
        self.last = self.shared.append(record);
        self.last
    }

    /// Asks that every record up to this one be durable as soon as possible. Returns at once;
    /// `persisted` is told when it is done, or that it has failed; it is not told a second time of
    /// what is durable already.
    pub fn force(&mut self, up_to: Lsn) {
        self.shared.force(up_to);
    }

    /// The position of the last record appended, or 0.
    #[must_use]
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// A live key's version and value, as all records appended so far have it. Does not wait for a
    /// commit that is under way.
    ///
    /// # Errors
    /// The entry is damaged or cannot be read, or a write has failed before.
    pub fn get(&self, key: &Key) -> Result<Option<(Version, Value)>, StoreError> {
        self.shared.check()?;
        if let Some((version, value)) = self.shared.changed(key) {
            return Ok(value.map(|value| (version, value)));
        }
        let txn = self.environment.read()?;
        let row = self.environment.entries.get(&txn, key.as_bytes());
        match row.map_err(self.environment.error("cannot read"))? {
            Some(row) => entry(&self.environment, key.as_bytes(), row).map(Some),
            None => Ok(None),
        }
    }

    /// Every live key with its version and value, in the order of the keys, as all records appended
    /// so far have it, whatever is appended while the iterator lives. While it does, the database
    /// cannot use the room of what was overwritten.
    ///
    /// # Errors
    /// The store cannot be read, or a write has failed before.
    pub fn entries(&self) -> Result<Entries, StoreError> {
        self.shared.check()?;
        let mut changed: Vec<_> = self.shared.all_changed().into_iter().collect();
        changed.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let changed = changed.into_iter().peekable();
        // After the changes: what the tables have taken up in between is found twice, not never.
        let txn = self.environment.read_on()?;
        let environment = self.environment.clone();
        Ok(Entries { txn, environment, changed, last: None, stored: None, done: false })
    }

    /// Makes everything durable that was appended, and ends.
    ///
    /// # Errors
    /// Not everything has become durable.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.end();
        self.shared.check()
    }

    fn end(&mut self) {
        if let Some(writer) = self.writer.take() {
            self.shared.close();
            // The writer catches its panics itself.
            let _ = writer.join();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.environment.dir())
            .field("id", &self.environment.id)
            .field("last", &self.last)
            .field("durable", &self.shared.durable())
            .finish_non_exhaustive()
    }
}

/// All live keys of a [`Store`] at one moment, each with its version and value.
pub struct Entries {
    /// Before the environment, which it reads.
    txn: RoTxn<'static, WithoutTls>,
    environment: Arc<Environment>,
    /// What the database may not have as it is now.
    changed: Peekable<vec::IntoIter<(Key, Change)>>,
    /// The last key read from the database.
    last: Option<Key>,
    /// Read from the database, and not handed out yet.
    stored: Option<(Key, Version, Value)>,
    /// Everything was read from the database, or it failed.
    done: bool,
}

impl Entries {
    /// Reads the next entry of the database.
    fn advance(&mut self) -> Result<(), StoreError> {
        let entries = &self.environment.entries;
        let next = match &self.last {
            Some(last) => entries.get_greater_than(&self.txn, last.as_bytes()),
            None => entries.first(&self.txn),
        };
        self.stored = match next.map_err(self.environment.error("cannot read"))? {
            Some((key, row)) => {
                let (version, value) = entry(&self.environment, key, row)?;
                let key = Key::from(key);
                self.last = Some(key.clone());
                Some((key, version, value))
            }
            None => {
                self.done = true;
                None
            }
        };
        Ok(())
    }
}

impl Iterator for Entries {
    type Item = Result<(Key, Version, Value), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.stored.is_none()
                && !self.done
                && let Err(error) = self.advance()
            {
                self.done = true;
                self.changed = Vec::new().into_iter().peekable();
                return Some(Err(error));
            }
            // Where both have a key, the database has it as it was, or the same.
            let changed = match (&self.stored, self.changed.peek()) {
                (None, None) => return None,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((stored, ..)), Some((changed, _))) => changed <= stored,
            };
            if !changed {
                return self.stored.take().map(Ok);
            }
            if let Some((key, (version, value))) = self.changed.next() {
                self.stored.take_if(|(stored, ..)| *stored == key);
                if let Some(value) = value {
                    return Some(Ok((key, version, value)));
                }
            }
        }
    }
}

/// Reads a row of the key/value data.
fn entry(
    environment: &Environment,
    key: &[u8],
    row: &[u8],
) -> Result<(Version, Value), StoreError> {
    rows::decode_entry(key, row).map_err(|why| {
        let name = key.escape_ascii();
        environment.damaged(format!("the value of key '{name}' is bad: {why}"))
    })
}
