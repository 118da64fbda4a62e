//! The store on disk. Records are appended and visible to reads immediately. A
//! writer thread makes them durable in groups: in the WAL first, and in the LMDB tables when the
//! WAL is full. One owner appends and reads. Does not know the purpose of the records.

use std::{
    fmt,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use heed::{RoTxn, WithoutTls};

use crate::{
    Limits, Lsn, Mistake, Observer, OnPersisted, Rules, Schema, StoreError, StoreId, Versioned,
    checkpoint::Checkpointer,
    codec,
    environment::{Environment, Log},
    memtable::Change,
    space::{Need, Space},
    upgrade,
    writer::{Background, Shared, Writer, segment_bytes},
};

/// How to open a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Create the store if its directory is missing or empty. Default false: that is an error.
    pub create: bool,
    /// Lock the directory, so that no other process opens the store. Default true. Tests set it to
    /// false to show what goes wrong; the store is then opened without its WAL.
    pub exclusive: bool,
    /// The maximum size of the database, in bytes. It reserves address space, not disk space.
    /// Default 16 GiB.
    pub map_bytes: u64,
    /// Records that are not forced become durable after this time. Default 10 ms.
    pub flush_interval: Duration,
    /// The size of each of the two segments of the write-ahead log, in bytes. It grows with the data,
    /// up to 8 times this. When one is nearly full, the newest state is checkpointed to the tables in
    /// the background, while records go to the other. With 0, and for a group that does not fit, every
    /// group is written to the tables directly. Not used without the directory's lock. Default 16
    /// MiB.
    pub wal_bytes: u64,
    /// The size limits of keys and values. Callers of `append` must check them.
    pub limits: Limits,
    /// What a commit waits for. Default all syncs.
    pub sync_mode: SyncMode,
    /// The rules in force. Default all. Tests break one to show what goes wrong.
    pub rules: Rules,
}

/// Which syncs a commit waits for. Every mode but [`SyncMode::All`] loses acknowledged records when
/// power is lost. They exist to show that a test detects the loss; no program of the store offers
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SyncMode {
    /// The frame of the WAL. For a checkpoint: the pages, and then the meta page that makes them
    /// current.
    #[default]
    All,
    /// All except the meta page, which is synced by the next checkpoint (LMDB's `NOMETASYNC`).
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
            flush_interval: Duration::from_millis(10),
            wal_bytes: 16 << 20,
            limits: Limits::default(),
            sync_mode: SyncMode::All,
            rules: Rules::ALL,
        }
    }
}

/// An opened store and its recovered records.
#[derive(Debug)]
pub struct Opened<S: Schema> {
    /// The store.
    pub store: Store<S>,
    /// The identity of its directory.
    pub id: StoreId,
    /// The facts, in canonical order, for the application's recovery.
    pub records: Vec<S::Record>,
}

/// The records and the key/value data of an application, on disk.
///
/// Dropping it closes it.
pub struct Store<S: Schema> {
    pub(crate) environment: Arc<Environment>,
    pub(crate) shared: Arc<Shared<S>>,
    space: Arc<Space>,
    last: Lsn,
    limits: Limits,
    rules: Rules,
    writer: Option<JoinHandle<()>>,
}

impl<S: Schema> Store<S> {
    /// Opens the store of a directory. `persisted` is called when records become durable.
    ///
    /// # Errors
    /// The directory holds no usable store: see [`StoreError`].
    pub fn open(
        dir: &Path,
        options: StoreOptions,
        persisted: OnPersisted,
    ) -> Result<Opened<S>, StoreError> {
        Store::open_observed(dir, options, persisted, None)
    }

    /// Opens the store of a directory, with an observer of its writer.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn open_observed(
        dir: &Path,
        options: StoreOptions,
        persisted: OnPersisted,
        observer: Option<Box<dyn Observer<S::Record>>>,
    ) -> Result<Opened<S>, StoreError> {
        let (environment, log, logged) = Environment::open::<S>(dir, &options)?;
        let environment = Arc::new(environment);
        let mut checkpointer = Checkpointer::new(environment.clone());
        let shared = Shared::new(checkpointer.load_facts::<S>()?, &logged);
        let shared = Arc::new(shared.map_err(|why| StoreError::Damaged {
            file: dir.to_owned(),
            what: format!("a record of the WAL cannot follow what is before it: {why}"),
        })?);
        shared.check_versions(&environment)?;
        checkpointer.check_versions::<S>(&shared.changes())?;
        let mut wal = match log {
            Log::Old(applied) => {
                upgrade::upgrade(&environment, &mut checkpointer, &shared, applied, &options)?
            }
            Log::Current(wal) => *wal,
        };
        if options.exclusive {
            upgrade::remove_old_log(dir)?;
            if wal.fills_both_segments() {
                // A checkpoint was interrupted. There is no third segment to go on in.
                let anchor = wal.next_anchor();
                shared.checkpoint_now(|facts, changed| {
                    checkpointer.write::<S>(facts, changed, &anchor)
                })?;
                wal.start_next_generation(&anchor)?;
                wal.set_next_salt(&anchor);
            }
        }
        wal.resize(segment_bytes(options.wal_bytes, environment.entry_bytes()?))?;
        let records = shared.facts();
        let space = Arc::new(Space::new(&environment, options.rules)?);
        let writer = Writer {
            environment: environment.clone(),
            wal,
            background: Background::Idle(checkpointer),
            space: space.clone(),
            sync_mode: options.sync_mode,
            wal_bytes: options.wal_bytes,
            rules: options.rules,
            shared: shared.clone(),
            flush_interval: options.flush_interval,
            observer,
            persisted,
        };
        let writer = thread::Builder::new()
            .name("store".to_owned())
            .spawn(|| writer.run())
            .map_err(|source| {
                let doing = "cannot start the writer thread";
                StoreError::Io { path: dir.to_owned(), doing, source }
            })?;
        let id = environment.id;
        let store = Store {
            environment,
            shared,
            space,
            last: 0,
            limits: options.limits,
            rules: options.rules,
            writer: Some(writer),
        };
        Ok(Opened { store, id, records })
    }

    /// The size limits of keys and values.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Checks that there is room for some writes that store values, with this many bytes of keys and
    /// values together, besides everything that was appended. Callers of `append` must check it; deletes
    /// need no check.
    ///
    /// # Errors
    /// There is none.
    pub fn check_room(&self, writes: usize, bytes: usize) -> Result<(), StoreError> {
        let mut need = self.shared.need();
        if let Some(most) = bytes.checked_div(writes) {
            // As if they were of one size: the estimate is linear but for the rounding.
            (0..writes).for_each(|_| need.add(Need::of(most as u64 + 1)));
        }
        if self.space.has_room_for(need) {
            Ok(())
        } else {
            Err(StoreError::NearlyFull { dir: self.environment.dir().to_owned() })
        }
    }

    /// Appends a record and returns its position, counted from 1 since the store was opened. Reads
    /// see it immediately. It becomes durable with the next force, or after the flush interval.
    ///
    /// Never fails: once writing has failed, appended records are never reported as persisted.
    ///
    /// # Panics
    /// As [`Schema::apply`].
    pub fn append(&mut self, record: S::Record) -> Lsn {
        self.last = self.shared.append(record);
        self.last
    }

    /// Requests that every record up to this one become durable as soon as possible. Returns
    /// immediately. `persisted` is called when it is done or has failed, but not again for records
    /// that are already durable.
    pub fn force(&mut self, up_to: Lsn) {
        self.shared.force(up_to);
    }

    /// The position of the last appended record, or 0.
    #[must_use]
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// Has the tables contain every record up to this one, and those of earlier openings. Returns whether they
    /// do. If not, a checkpoint begins with the next group of records, in the background, or after the flush
    /// interval if there is none.
    pub fn checkpoint(&mut self, up_to: Lsn) -> bool {
        self.shared.checkpoint(up_to)
    }

    /// The number of checkpoints since the store was opened.
    #[must_use]
    pub fn checkpoints(&self) -> u64 {
        self.shared.checkpoints()
    }

    /// A live key's version and value after every record appended so far. Does not wait for a
    /// commit in progress.
    ///
    /// # Errors
    /// The entry is damaged or cannot be read, or an earlier write failed.
    pub fn get(&self, key: &S::Key) -> Result<Option<Versioned<S>>, StoreError> {
        let makes = |mistake| self.rules.makes(mistake);
        let cut = |bytes: &[u8], bits: u32| bytes[..bytes.len() % (1 << bits)].to_vec();
        let found = if makes(Mistake::KeyLengthInEightBits) {
            self.find(&S::Key::from(&cut(key.as_ref(), 8)))?
        } else {
            self.find(key)?
        };
        Ok(found.map(|(version, value)| match makes(Mistake::ValueLengthInSixteenBits) {
            true => (version, S::Value::from(&cut(value.as_ref(), 16))),
            false => (version, value),
        }))
    }

    fn find(&self, key: &S::Key) -> Result<Option<Versioned<S>>, StoreError> {
        self.shared.check()?;
        if let Some(Change { version, value, .. }) = self.shared.changed(key) {
            let empty = self.rules.makes(Mistake::DeleteReadAsEmpty).then(|| S::Value::from(&[]));
            return Ok(value.or(empty).map(|value| (version, value)));
        }
        let txn = self.environment.read()?;
        let row = self.environment.entries.get(&txn, key.as_ref());
        match row.map_err(self.environment.error("cannot read"))? {
            Some(row) => entry::<S>(&self.environment, key.as_ref(), row).map(Some),
            None => self.require_intact_neighbours(&txn, key.as_ref()).map(|()| None),
        }
    }

    /// A key that is not found may be there with damaged bytes. The page was verified, so it has kept its
    /// place: it is the entry before or the one after, and its checksum is wrong.
    fn require_intact_neighbours(
        &self,
        txn: &RoTxn<'_, WithoutTls>,
        key: &[u8],
    ) -> Result<(), StoreError> {
        let entries = &self.environment.entries;
        for row in [entries.get_lower_than(txn, key), entries.get_greater_than(txn, key)] {
            let row = row.map_err(self.environment.error("cannot read"))?;
            let Some((other, row)) = row else { continue };
            let is_changed = |key: &S::Key| self.shared.changed(key).is_some();
            if codec::version_of_entry::<S>(other, row).is_none()
                && !is_replaced::<S>(&self.environment, txn, other, row, is_changed)
            {
                let why = "it is missing, and may be the damaged entry beside its place";
                return Err(self.environment.damaged_entry(key, why));
            }
        }
        Ok(())
    }

    /// Every live key with its version and value in key order, after every record appended so far;
    /// later records are not seen. While the iterator lives, the database cannot reuse the space of
    /// overwritten entries.
    ///
    /// # Errors
    /// The store cannot be read, or an earlier write failed.
    pub fn entries(&self) -> Result<Entries<S>, StoreError> {
        self.entries_from(None)
    }

    /// The entries whose keys are greater than this one, as [`Store::entries`].
    ///
    /// # Errors
    /// As for [`Store::entries`].
    pub fn entries_after(&self, after: &S::Key) -> Result<Entries<S>, StoreError> {
        self.entries_from(Some(after.clone()))
    }

    fn entries_from(&self, last: Option<S::Key>) -> Result<Entries<S>, StoreError> {
        self.shared.check()?;
        let later = |key: &S::Key| last.as_ref().is_none_or(|last| key > last);
        let mut changed: Vec<_> =
            self.shared.changes().into_iter().filter(|(key, _)| later(key)).collect();
        changed.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        // Start the read transaction after copying the changes: an entry that is checkpointed in
        // between is then found twice, rather than not at all.
        let txn = self.environment.read_static()?;
        let environment = self.environment.clone();
        Ok(Entries { txn, environment, changed, next: 0, last, stored: None, done: false })
    }

    /// Makes every record durable and closes the store.
    ///
    /// # Errors
    /// Not every record has become durable.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.end();
        self.shared.check()
    }

    fn end(&mut self) {
        if let Some(writer) = self.writer.take() {
            self.shared.close();
            // The writer catches its own panics.
            let _ = writer.join();
        }
    }
}

impl<S: Schema> Drop for Store<S> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<S: Schema> fmt::Debug for Store<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.environment.dir())
            .field("id", &self.environment.id)
            .field("last", &self.last)
            .field("durable", &self.shared.durable())
            .finish_non_exhaustive()
    }
}

/// A key, and its entry or how that is damaged.
type Stored<S> = (<S as Schema>::Key, Result<Versioned<S>, StoreError>);

/// Every live key of a [`Store`] at one moment, with its version and value.
pub struct Entries<S: Schema> {
    /// Declared before the environment, so that it is dropped first.
    txn: RoTxn<'static, WithoutTls>,
    environment: Arc<Environment>,
    /// The changes that the database may not contain, in key order.
    changed: Vec<(S::Key, Change<S>)>,
    /// The first of them that was not returned.
    next: usize,
    /// The last key read from the database.
    last: Option<S::Key>,
    /// The next entry of the database, not returned yet. If it is damaged, a change of its key may hide
    /// that.
    stored: Option<Stored<S>>,
    /// The database is exhausted or has failed.
    done: bool,
}

impl<S: Schema> Entries<S> {
    /// Ends with an error.
    fn end(&mut self, error: StoreError) -> Option<<Self as Iterator>::Item> {
        self.done = true;
        self.stored = None;
        self.changed = Vec::new();
        Some(Err(error))
    }

    /// Reads the next entry of the database.
    fn advance(&mut self) -> Result<(), StoreError> {
        let entries = &self.environment.entries;
        let next = match &self.last {
            Some(last) => entries.get_greater_than(&self.txn, last.as_ref()),
            None => entries.first(&self.txn),
        };
        self.stored = match next.map_err(self.environment.error("cannot read"))? {
            Some((key, row)) => {
                let entry = entry::<S>(&self.environment, key, row);
                let is_changed = |key: &S::Key| {
                    self.changed.binary_search_by(|(changed, _)| changed.cmp(key)).is_ok()
                };
                let replaced = entry.is_err()
                    && is_replaced::<S>(&self.environment, &self.txn, key, row, is_changed);
                let key = S::Key::from(key);
                if replaced {
                    self.last = Some(key);
                    return self.advance();
                }
                self.last = Some(key.clone());
                Some((key, entry))
            }
            None => {
                self.done = true;
                None
            }
        };
        Ok(())
    }
}

impl<S: Schema> Iterator for Entries<S> {
    type Item = Result<(S::Key, S::Version, S::Value), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.stored.is_none()
                && !self.done
                && let Err(error) = self.advance()
            {
                return self.end(error);
            }
            // If both have a key, the database has an earlier write of it, or the same.
            let changed = match (&self.stored, self.changed.get(self.next)) {
                (None, None) => return None,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((stored, ..)), Some((changed, _))) => changed <= stored,
            };
            if !changed {
                return match self.stored.take()? {
                    (key, Ok((version, value))) => Some(Ok((key, version, value))),
                    (_, Err(error)) => self.end(error),
                };
            }
            if let Some((key, change)) = self.changed.get(self.next) {
                self.next += 1;
                self.stored.take_if(|(stored, ..)| stored == key);
                if let Some(value) = &change.value {
                    return Some(Ok((key.clone(), change.version, value.clone())));
                }
            }
        }
    }
}

/// Whether a damaged row is the entry of another key, whose bytes have rotted, and that key was written since: the
/// row is of no use any more. It stays until the key's next checkpoint finds it beside the place of the key.
pub(crate) fn is_replaced<S: Schema>(
    environment: &Environment,
    txn: &RoTxn<'_, WithoutTls>,
    rotten: &[u8],
    row: &[u8],
    is_changed: impl Fn(&S::Key) -> bool,
) -> bool {
    let Some(key) = codec::key_before_rot::<S>(rotten, row) else { return false };
    let is_intact = |row: &[u8]| codec::version_of_entry::<S>(&key, row).is_some();
    is_changed(&S::Key::from(&key))
        || environment.entries.get(txn, &key).is_ok_and(|row| row.is_some_and(is_intact))
}

/// Decodes the row of an entry.
fn entry<S: Schema>(
    environment: &Environment,
    key: &[u8],
    row: &[u8],
) -> Result<Versioned<S>, StoreError> {
    codec::decode_entry::<S>(key, row).map_err(|why| environment.damaged_entry(key, why))
}
