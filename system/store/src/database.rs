//! The store as a key/value library: `put`, `del` and `get` from any number of threads, durable when
//! they return.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::{
    Entries, Lsn, Opened, RowError, RowKey, Schema, Store, StoreError, StoreOptions, Write,
    schema::{decode_write, encode_write},
};

/// A value that a [`Database`] returns. Cheap to clone.
pub type Value = Arc<[u8]>;

/// A durable key/value store in a directory of its own.
///
/// Concurrent writes share one sync. A read sees the last write, whether it is durable yet or not.
/// See the example of the [crate](crate).
#[derive(Debug)]
pub struct Database {
    inner: Mutex<Inner>,
    progress: Arc<Progress>,
}

#[derive(Debug)]
struct Inner {
    store: Store<DatabaseSchema>,
    /// The version of the next write.
    next: u64,
}

/// The progress of the writer thread.
#[derive(Debug, Default)]
struct Progress {
    state: Mutex<(Lsn, Option<Arc<StoreError>>)>,
    changed: Condvar,
}

impl Database {
    /// Opens the database of a directory.
    ///
    /// # Errors
    /// The directory holds no usable database, or a store that another application has written.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Database, StoreError> {
        let progress = Arc::new(Progress::default());
        let reporter = progress.clone();
        let Opened { store, records, .. } =
            Store::open(dir, options, Box::new(move |durable| reporter.set(durable)))?;
        let next = records.iter().find_map(|record| match record {
            DatabaseRecord::Next { version } => Some(*version),
            _ => None,
        });
        let next = next.unwrap_or(1);
        Ok(Database { inner: Mutex::new(Inner { store, next }), progress })
    }

    /// Stores a value under a key. The write is durable when this returns. Returns its version, which
    /// is greater than that of every earlier write.
    ///
    /// # Errors
    /// The key or the value is out of bounds, and nothing was written. Or the write failed; the
    /// database then refuses all further work until it is opened again, which shows whether this
    /// write took effect.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<u64, StoreError> {
        self.write(key, Some(value))
    }

    /// Deletes a key, whether it exists or not. The write is durable when this returns.
    ///
    /// # Errors
    /// As for [`Database::put`].
    pub fn del(&self, key: &[u8]) -> Result<u64, StoreError> {
        self.write(key, None)
    }

    /// A key's version and value, if the key exists.
    ///
    /// # Errors
    /// The entry is damaged or cannot be read, or an earlier write failed.
    pub fn get(&self, key: &[u8]) -> Result<Option<(u64, Value)>, StoreError> {
        self.inner().store.get(&key.into())
    }

    /// Every key with its version and value in key order, as of now.
    ///
    /// # Errors
    /// The database cannot be read, or an earlier write failed.
    pub fn entries(
        &self,
    ) -> Result<impl Iterator<Item = Result<(Value, u64, Value), StoreError>> + use<>, StoreError>
    {
        let entries: Entries<DatabaseSchema> = self.inner().store.entries()?;
        Ok(entries)
    }

    /// Closes the database. Dropping it does the same, but hides errors.
    ///
    /// # Errors
    /// A write failed.
    pub fn close(self) -> Result<(), StoreError> {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner).store.close()
    }

    fn write(&self, key: &[u8], value: Option<&[u8]>) -> Result<u64, StoreError> {
        let (version, lsn) = {
            let mut inner = self.inner();
            inner.store.limits().check(key, value)?;
            if let Some(value) = value {
                inner.store.check_room(1, key.len() + value.len())?;
            }
            let version = inner.next;
            inner.next += 1;
            let next = inner.next;
            let (key, value) = (key.into(), value.map(Into::into));
            inner.store.append(DatabaseRecord::Staged { version, key, value });
            inner.store.append(DatabaseRecord::Applied { version });
            let lsn = inner.store.append(DatabaseRecord::Next { version: next });
            inner.store.force(lsn);
            (version, lsn)
        };
        self.progress.wait_for(lsn)?;
        Ok(version)
    }

    /// Ignores poisoning: each append is atomic, so a thread that panicked has left no partial state.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn set(&self, durable: Result<Lsn, Arc<StoreError>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match durable {
            Ok(lsn) => state.0 = lsn,
            Err(error) => state.1 = Some(error),
        }
        drop(state);
        self.changed.notify_all();
    }

    fn wait_for(&self, lsn: Lsn) -> Result<(), StoreError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |state: &mut (Lsn, Option<_>)| state.0 < lsn && state.1.is_none();
        let state = self.changed.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner);
        match &state.1 {
            Some(error) if state.0 < lsn => Err(StoreError::Failed(error.clone())),
            _ => Ok(()),
        }
    }
}

/// The schema of a [`Database`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct DatabaseSchema;

/// The records of a [`Database`]. A write is three of them in one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DatabaseRecord {
    /// The write of this version.
    Staged { version: u64, key: Value, value: Option<Value> },
    /// The staged write takes effect.
    Applied { version: u64 },
    /// The version of the next write. The records of lower versions are obsolete.
    Next { version: u64 },
}

/// The facts of a [`Database`]: after each complete write, just a `Next`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct DatabaseFacts {
    next: Option<DatabaseRecord>,
    writes: BTreeMap<u64, DatabaseRecord>,
}

/// The row key of `Next`.
const NEXT: u8 = b'f';
/// The letter in the row key of a write.
const WRITE: u8 = b't';
/// The row value of `Applied`.
const APPLIED: &[u8] = b"C";

impl Schema for DatabaseSchema {
    type Record = DatabaseRecord;
    type Facts = DatabaseFacts;
    type Key = Value;
    type Value = Value;
    type Version = u64;

    fn apply(facts: &mut DatabaseFacts, record: &DatabaseRecord) -> Option<Write<Self>> {
        match record {
            DatabaseRecord::Applied { version } => {
                let staged = facts.writes.insert(*version, record.clone());
                match staged {
                    Some(DatabaseRecord::Staged { version, key, value }) => {
                        Some(Write { key, version, value, heals: false })
                    }
                    _ => panic!("version {version} is applied but was not staged"),
                }
            }
            DatabaseRecord::Next { version } => {
                facts.writes = facts.writes.split_off(version);
                facts.next = Some(record.clone());
                None
            }
            DatabaseRecord::Staged { .. } => {
                Self::restore(facts, record.clone());
                None
            }
        }
    }

    fn check(facts: &DatabaseFacts, record: &DatabaseRecord) -> Result<(), &'static str> {
        match record {
            DatabaseRecord::Applied { version } => match facts.writes.get(version) {
                Some(DatabaseRecord::Staged { .. }) => Ok(()),
                _ => Err("a write is applied but was not staged"),
            },
            _ => Ok(()),
        }
    }

    fn growth(record: &DatabaseRecord) -> Option<usize> {
        match record {
            DatabaseRecord::Staged { key, value: Some(value), .. } => Some(key.len() + value.len()),
            _ => None,
        }
    }

    fn restore(facts: &mut DatabaseFacts, record: DatabaseRecord) {
        match &record {
            DatabaseRecord::Staged { version, .. } | DatabaseRecord::Applied { version } => {
                facts.writes.insert(*version, record);
            }
            DatabaseRecord::Next { .. } => facts.next = Some(record),
        }
    }

    fn records(facts: &DatabaseFacts) -> impl Iterator<Item = &DatabaseRecord> {
        facts.next.iter().chain(facts.writes.values())
    }

    fn row_key(record: &DatabaseRecord) -> RowKey {
        match record {
            DatabaseRecord::Staged { version, .. } | DatabaseRecord::Applied { version } => {
                RowKey::new(WRITE, &Self::version_to_bytes(*version))
            }
            DatabaseRecord::Next { .. } => RowKey::new(NEXT, &[]),
        }
    }

    fn encode(record: &DatabaseRecord, into: &mut Vec<u8>) {
        match record {
            DatabaseRecord::Staged { key, value, .. } => encode_write(key, value.as_deref(), into),
            DatabaseRecord::Applied { .. } => into.extend_from_slice(APPLIED),
            DatabaseRecord::Next { version } => {
                into.extend_from_slice(&Self::version_to_bytes(*version));
            }
        }
    }

    fn decode(row_key: &[u8], value: &[u8]) -> Result<DatabaseRecord, RowError> {
        let version = |bytes: &[u8]| {
            let bytes = bytes.try_into().map_err(|_| "not a version")?;
            Self::version_from_bytes(bytes).ok_or(RowError::Foreign)
        };
        match row_key.split_first() {
            Some((&NEXT, [])) => Ok(DatabaseRecord::Next { version: version(value)? }),
            Some((&WRITE, rest)) => {
                let version = version(rest)?;
                if value == APPLIED {
                    return Ok(DatabaseRecord::Applied { version });
                }
                let (key, value) = decode_write(value)?;
                let (key, value) = (key.into(), value.map(Into::into));
                Ok(DatabaseRecord::Staged { version, key, value })
            }
            _ => Err(RowError::Foreign),
        }
    }

    fn version_to_bytes(version: u64) -> [u8; 16] {
        u128::from(version).to_be_bytes()
    }

    fn version_from_bytes(bytes: [u8; 16]) -> Option<u64> {
        u128::from_be_bytes(bytes).try_into().ok()
    }
}
