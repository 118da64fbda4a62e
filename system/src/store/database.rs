//! The store as a key/value library: `put`, `del` and `get` by any number of threads, durable when
//! they return. A write is the same records that a replica appends, of epoch 0. Knows nothing of
//! clusters.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{Entries, Opened, Store, StoreError, StoreOptions};
use crate::protocol::{Key, Lsn, Record, TxnId, Value, Version, Write};

/// A durable key/value store in a directory of its own.
///
/// Concurrent writes share a commit. A read sees what was last written, durable already or about
/// to be. See the [module's](super) example.
#[derive(Debug)]
pub struct Database {
    inner: Mutex<Inner>,
    progress: Arc<Progress>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    /// The version of the next write.
    next: TxnId,
}

/// How far writing has come.
#[derive(Debug, Default)]
struct Progress {
    state: Mutex<(Lsn, Option<Arc<StoreError>>)>,
    changed: Condvar,
}

impl Database {
    /// Opens the database of a directory.
    ///
    /// # Errors
    /// The directory holds no database that can be used; or it holds the store of a cluster's node.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Database, StoreError> {
        let progress = Arc::new(Progress::default());
        let told = progress.clone();
        let Opened { store, records, .. } =
            Store::open(dir, options, Box::new(move |durable| told.set(durable)))?;
        // The watermark is what a write leaves: all writes below are done.
        let next = match records[..] {
            [] => TxnId::new(0, 1),
            [Record::Watermark { watermark }] => watermark,
            _ => {
                return Err(StoreError::Purpose {
                    dir: dir.to_owned(),
                    owner: "a node of a cluster",
                    wanted: "a database by itself",
                });
            }
        };
        Ok(Database { inner: Mutex::new(Inner { store, next }), progress })
    }

    /// Stores a value under a key. It is durable when this returns, and has the version returned,
    /// which is above that of every earlier write.
    ///
    /// # Errors
    /// The key or the value is out of bounds: nothing was done. Or the write failed, and nothing
    /// more is done until the database is opened anew: whether this write took effect shows then.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<Version, StoreError> {
        self.write(Write { key: key.into(), value: Some(value.into()) })
    }

    /// Deletes a key, whether it is there or not. Durable when this returns.
    ///
    /// # Errors
    /// As for [`Database::put`].
    pub fn del(&self, key: &[u8]) -> Result<Version, StoreError> {
        self.write(Write { key: key.into(), value: None })
    }

    /// A key's version and value, if it is there.
    ///
    /// # Errors
    /// The entry is damaged or cannot be read, or a write has failed before.
    pub fn get(&self, key: &[u8]) -> Result<Option<(Version, Value)>, StoreError> {
        self.inner().store.get(&Key::from(key))
    }

    /// Every key with its version and value, in the order of the keys, as they are now.
    ///
    /// # Errors
    /// The database cannot be read, or a write has failed before.
    pub fn entries(&self) -> Result<Entries, StoreError> {
        self.inner().store.entries()
    }

    /// Ends. Dropping the database does the same, and does not tell of errors.
    ///
    /// # Errors
    /// A write had failed.
    pub fn close(self) -> Result<(), StoreError> {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner).store.close()
    }

    fn write(&self, write: Write) -> Result<Version, StoreError> {
        let (txn, lsn) = {
            let mut inner = self.inner();
            inner.store.limits().check(&write.key, write.value.as_ref())?;
            let txn = inner.next;
            inner.next.seq += 1;
            let watermark = inner.next;
            inner.store.append(Record::Prepare { txn, write });
            inner.store.append(Record::Commit { txn });
            let lsn = inner.store.append(Record::Watermark { watermark });
            inner.store.force(lsn);
            (txn, lsn)
        };
        self.progress.wait_for(lsn)?;
        Ok(txn)
    }

    /// A thread that panicked while it held this has broken nothing: each append is whole.
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
