//! A replica's store alone, and what its machine would append to it. Knows nothing of clusters.

use std::{path::Path, sync::mpsc};

use system::{
    protocol::{Key, Record, TxnId, Value, Write},
    store::{Opened, Store, StoreOptions},
};

/// Keys that the writes go round.
const KEYS: u64 = 25_600;
const VALUE_BYTES: usize = 128;
/// As often as a replica raises its watermark.
const WATERMARK_BATCH: u64 = 256;

/// A replica's store, and what its machine would append to it.
pub struct Replica {
    store: Store,
    told: mpsc::Receiver<u64>,
    /// The last transaction, and the last that is committed.
    last: u64,
    committed: u64,
    watermark: u64,
}

impl Replica {
    /// Opens a new store in a directory.
    ///
    /// # Panics
    /// If that cannot be done.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        let (tell, told) = mpsc::channel();
        let persisted = Box::new(move |lsn: Result<u64, _>| {
            // Nobody listens at the end.
            let _ = tell.send(lsn.expect("the disk takes it"));
        });
        let options = StoreOptions { create: true, ..StoreOptions::default() };
        let Opened { store, .. } = Store::open(dir, options, persisted).expect("a new store");
        Replica { store, told, last: 0, committed: 0, watermark: 0 }
    }

    /// Prepares so many writes, commits those of the group before, and waits until all that is
    /// durable: one commit of the store.
    ///
    /// # Panics
    /// If the disk does not take it.
    pub fn group(&mut self, size: u64) {
        let before = self.last;
        for _ in 0..size {
            self.last += 1;
            // A large odd factor scatters the keys.
            let key = Key::from(format!("key{:08}", self.last * 7919 % KEYS).as_str());
            let value = Some(Value::from(vec![b'v'; VALUE_BYTES]));
            let txn = TxnId::new(1, self.last);
            self.store.append(Record::Prepare { txn, write: Write { key, value } });
        }
        for seq in self.committed + 1..=before {
            self.store.append(Record::Commit { txn: TxnId::new(1, seq) });
        }
        self.committed = before;
        if before - self.watermark >= WATERMARK_BATCH {
            self.watermark = before;
            self.store.append(Record::Watermark { watermark: TxnId::new(1, before + 1) });
        }
        let last = self.store.last();
        self.store.force(last);
        while self.told.recv().expect("the writer lives") < last {}
    }
}
