//! The store of one replica, with the records that its machine would append.

use std::{path::Path, sync::mpsc};

use system::{
    protocol::{Key, Record, TxnId, Value, Write},
    store::{Opened, Store, StoreOptions},
};

/// The number of keys that the writes cycle through.
const KEYS: u64 = 25_600;
const VALUE_BYTES: usize = 128;
/// The number of transactions after which a replica raises its watermark.
const WATERMARK_BATCH: u64 = 256;

/// A replica's store, and the state that determines the next records.
pub struct Replica {
    store: Store,
    persisted: mpsc::Receiver<u64>,
    /// The last transaction, and the last committed one.
    last: u64,
    committed: u64,
    watermark: u64,
}

impl Replica {
    /// Opens a new store in a directory.
    ///
    /// # Panics
    /// The store cannot be created.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        let (sender, receiver) = mpsc::channel();
        let report = Box::new(move |lsn: Result<u64, _>| {
            // The receiver is gone once the benchmark ends.
            let _ = sender.send(lsn.expect("the store can write"));
        });
        let options = StoreOptions { create: true, ..StoreOptions::default() };
        let Opened { store, .. } = Store::open(dir, options, report).expect("a new store");
        Replica { store, persisted: receiver, last: 0, committed: 0, watermark: 0 }
    }

    /// Prepares `size` writes, commits those of the previous group, and waits until all of it is
    /// durable: one group commit of the store.
    ///
    /// # Panics
    /// The store fails.
    pub fn group(&mut self, size: u64) {
        let before = self.last;
        for _ in 0..size {
            self.last += 1;
            // A large prime factor scatters the keys.
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
        while self.persisted.recv().expect("the writer thread is running") < last {}
    }
}
