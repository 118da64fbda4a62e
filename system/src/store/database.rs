//! The store as a key/value library: `put`, `del` and `get` from any number of threads, durable
//! when they return. A write appends the same records as a replica does, in epoch 0. Does not know
//! about clusters.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{Entries, Opened, Store, StoreError, StoreOptions};
use crate::protocol::{Key, Lsn, Record, TxnId, Value, Version, Write};

/// A durable key/value store in a directory of its own.
///
/// Concurrent writes share one sync. A read sees the last write, whether it is durable yet or not.
/// See the example of the [module](super).
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

/// The progress of the writer thread.
#[derive(Debug, Default)]
struct Progress {
    state: Mutex<(Lsn, Option<Arc<StoreError>>)>,
    changed: Condvar,
}

impl Database {
    /// Opens the database of a directory.
    ///
    /// The directory holds no usable database, or it holds the store of a cluster's node.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Database, StoreError> {
        let progress = Arc::new(Progress::default());
        let reporter = progress.clone();
        let Opened { store, records, .. } =
            Store::open(dir, options, Box::new(move |durable| reporter.set(durable)))?;
        // Each write appends a watermark, so the records are one watermark, or none.
        let next = match records[..] {
            [] => TxnId::new(0, 1),
            [Record::Watermark { watermark }] => watermark,
            _ => {
                return Err(StoreError::Purpose {
                    dir: dir.to_owned(),
                    owner: "a node of a cluster",
                    wanted: "a plain database",
                });
            }
        };
        Ok(Database { inner: Mutex::new(Inner { store, next }), progress })
    }

    /// Stores a value under a key. The write is durable when this returns. Returns its version,
    /// which is greater than that of every earlier write.
    ///
    /// The key or the value is out of bounds, and nothing was written. Or the write failed; the
    /// database then refuses all further work until it is opened again, which shows whether this
    /// write took effect.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<Version, StoreError> {
        self.write(Write { key: key.into(), value: Some(value.into()) })
    }

    /// Deletes a key, whether it exists or not. The write is durable when this returns.
    ///
    /// # Errors
    /// As for [`Database::put`].
    pub fn del(&self, key: &[u8]) -> Result<Version, StoreError> {
        self.write(Write { key: key.into(), value: None })
    }

    /// A key's version and value, if the key exists.
    ///
    /// The entry is damaged or cannot be read, or an earlier write failed.
    pub fn get(&self, key: &[u8]) -> Result<Option<(Version, Value)>, StoreError> {
        self.inner().store.get(&Key::from(key))
    }

    /// Every key with its version and value in key order, as of now.
    ///
    /// The database cannot be read, or an earlier write failed.
    pub fn entries(&self) -> Result<Entries, StoreError> {
        self.inner().store.entries()
    }

    /// Closes the database. Dropping it does the same, but hides errors.
    ///
    /// A write failed.
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

    /// Ignores poisoning: each append is atomic, so a thread that panicked has left no partial
    /// state.
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
