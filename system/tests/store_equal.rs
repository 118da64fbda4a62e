//! The store on disk and the one in memory are equivalent: for every valid sequence of records,
//! whatever is forced and wherever it crashes, both recover the same records and entries.

use std::{
    collections::BTreeMap,
    fs,
    ops::{Bound, RangeBounds as _},
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use proptest::prelude::*;
use system::{
    protocol::{Key, Lsn, Node, Record, StoreId, TxnId, Value, Version, Write},
    store::{Memory, Opened, PageSize, Store, StoreError, StoreOptions},
};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);

/// A drawn step. Its meaning depends on the steps before, so that every sequence is valid.
#[derive(Clone, Debug)]
enum Draw {
    Prepare {
        key: u8,
        value: Option<Vec<u8>>,
    },
    Commit {
        which: usize,
    },
    Abort {
        which: usize,
    },
    RefuseNext,
    Watermark {
        which: usize,
    },
    Counter {
        which: u8,
        to: u64,
    },
    Member {
        node: u8,
        store: u64,
    },
    CommitDecision {
        key: u8,
    },
    End {
        which: usize,
    },
    NewEpoch,
    /// Make every record durable.
    Force,
    /// Lose the records that are not durable, and restart.
    Crash,
    /// Close the store, and restart.
    Close,
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    let value = prop_oneof![
        1 => Just(None),
        4 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Some),
        // Long enough for overflow pages.
        1 => (any::<u8>(), 2_000..9_000_usize).prop_map(|(byte, len)| Some(vec![byte; len])),
    ];
    let which = any::<usize>();
    let draw = prop_oneof![
        6 => (0..5_u8, value).prop_map(|(key, value)| Draw::Prepare { key, value }),
        5 => which.prop_map(|which| Draw::Commit { which }),
        2 => which.prop_map(|which| Draw::Abort { which }),
        1 => Just(Draw::RefuseNext),
        1 => which.prop_map(|which| Draw::Watermark { which }),
        1 => (0..3_u8, 1..5_u64).prop_map(|(which, to)| Draw::Counter { which, to }),
        1 => (0..3_u8, 1..3_u64).prop_map(|(node, store)| Draw::Member { node, store }),
        2 => (0..5_u8).prop_map(|key| Draw::CommitDecision { key }),
        1 => which.prop_map(|which| Draw::End { which }),
        1 => Just(Draw::NewEpoch),
        2 => Just(Draw::Force),
        1 => Just(Draw::Crash),
        1 => Just(Draw::Close),
    ];
    prop::collection::vec(draw, 1..60)
}

/// Turns steps into records that may follow the earlier ones.
struct Generator {
    next: TxnId,
    prepared: BTreeMap<TxnId, Key>,
    /// Transactions with an outcome.
    ended: Vec<TxnId>,
    commit_decisions: Vec<TxnId>,
}

impl Generator {
    fn after(memory: &Memory, next: TxnId) -> Generator {
        let mut generator = Generator {
            next,
            prepared: BTreeMap::new(),
            ended: Vec::new(),
            commit_decisions: Vec::new(),
        };
        for record in memory.records() {
            match record {
                Record::Prepare { txn, write } => drop(generator.prepared.insert(txn, write.key)),
                Record::Commit { txn } | Record::Abort { txn } | Record::Refused { txn } => {
                    generator.ended.push(txn);
                }
                Record::CommitDecision { txn, .. } => generator.commit_decisions.push(txn),
                _ => {}
            }
        }
        generator
    }

    fn next(&mut self) -> TxnId {
        self.next.seq += 1;
        self.next
    }

    fn record(&mut self, draw: &Draw) -> Option<Record> {
        let key = |key: &u8| Key::from(format!("key{key}").into_bytes());
        let pick = |from: &[TxnId], which: usize| from.get(which % from.len().max(1)).copied();
        let prepared: Vec<_> = self.prepared.keys().copied().collect();
        Some(match draw {
            Draw::Prepare { key: number, value } => {
                let key = key(number);
                if self.prepared.values().any(|locked| *locked == key) {
                    return None;
                }
                let txn = self.next();
                self.prepared.insert(txn, key.clone());
                Record::Prepare { txn, write: Write { key, value: value.clone().map(Value::from) } }
            }
            Draw::Commit { which } => {
                let txn = pick(&prepared, *which)?;
                self.prepared.remove(&txn);
                self.ended.push(txn);
                Record::Commit { txn }
            }
            // Of a prepared transaction, or again of one with an outcome.
            Draw::Abort { which } => {
                let txn = pick(&[prepared, self.ended.clone()].concat(), *which)?;
                self.prepared.remove(&txn);
                self.ended.push(txn);
                Record::Abort { txn }
            }
            Draw::RefuseNext => {
                let txn = self.next();
                self.ended.push(txn);
                Record::Refused { txn }
            }
            Draw::Watermark { which } => {
                let watermark = pick(&self.ended, *which)?;
                self.prepared.retain(|txn, _| *txn >= watermark);
                self.ended.retain(|txn| *txn >= watermark);
                Record::Watermark { watermark }
            }
            Draw::Counter { which: 0, to } => Record::Incarnation { incarnation: *to },
            Draw::Counter { which: 1, to } => Record::Promise { epoch: *to },
            Draw::Counter { to, .. } => Record::Epoch { epoch: *to, replicas: 3 },
            Draw::Member { node, store } => {
                let node = if *node == 0 { Node::Master } else { Node::Replica(*node) };
                Record::Member { node, store: StoreId(*store) }
            }
            Draw::CommitDecision { key: number } => {
                let txn = self.next();
                self.commit_decisions.push(txn);
                Record::CommitDecision { txn, key: key(number) }
            }
            Draw::End { which } => Record::End { txn: pick(&self.commit_decisions, *which)? },
            Draw::NewEpoch => {
                self.next = TxnId::new(self.next.epoch + 1, 0);
                return None;
            }
            Draw::Force | Draw::Crash | Draw::Close => return None,
        })
    }
}

/// A store on disk that makes nothing durable without a force.
struct Disk {
    dir: TempDir,
    wal_bytes: u64,
    opened: Opened,
    reports: mpsc::Receiver<Result<Lsn, Arc<StoreError>>>,
    /// The last durable position reported.
    durable: Lsn,
}

impl Disk {
    fn open(dir: TempDir, wal_bytes: u64) -> Disk {
        let (report, reports) = mpsc::channel();
        let persisted = Box::new(move |durable| {
            // Closing reports once more, and the receiver may be gone.
            let _ = report.send(durable);
        });
        let options = StoreOptions {
            create: true,
            flush_interval: DEADLINE,
            map_bytes: 64 << 20,
            wal_bytes,
            ..StoreOptions::default()
        };
        let opened = Store::open(dir.path(), options, persisted).unwrap();
        Disk { dir, wal_bytes, opened, reports, durable: 0 }
    }

    fn force(&mut self) {
        let last = self.opened.store.last();
        self.opened.store.force(last);
        while self.durable < last {
            self.durable = self.reports.recv_timeout(DEADLINE).expect("a report").unwrap();
        }
    }

    /// A crash leaves what the files contain while no write is in progress.
    fn crash(self) -> Disk {
        let copied = TempDir::new().unwrap();
        copy(self.dir.path(), copied.path());
        Disk::open(copied, self.wal_bytes)
    }

    fn close(self) -> Disk {
        self.opened.store.close().unwrap();
        Disk::open(self.dir, self.wal_bytes)
    }

    fn entries(&self) -> Vec<(Key, Version, Value)> {
        self.opened.store.entries().unwrap().collect::<Result<_, _>>().unwrap()
    }
}

fn copy(from: &Path, to: &Path) {
    for file in ["LOCK", "data.mdb", "wal-0", "wal-1"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

fn entries(memory: &Memory) -> Vec<(Key, Version, Value)> {
    let copied = memory.entries();
    copied.map(|(key, (version, value))| (key.clone(), *version, value.clone())).collect()
}

/// Pages of both, which begin, end and break off at different places.
fn pages_are_equal(store: &Store, memory: &Memory) -> Result<(), TestCaseError> {
    let key = |number: u8| Key::from(format!("key{number}").into_bytes());
    let all = entries(memory);
    let (one, two, three) = (key(1), key(2), key(3));
    let starts = [Bound::Unbounded, Bound::Included(&one), Bound::Excluded(&two)];
    for (start, to) in starts.into_iter().zip([None, Some(&three), Some(&one)]) {
        for (entries_max, bytes_max) in [(1, 1 << 20), (2, 150), (9, 1 << 20)] {
            let size = PageSize { entries_max, bytes_max };
            let page = store.page(start, to, size).unwrap();
            let expected = memory.current().page(start, to, size);
            prop_assert_eq!(Ok(&page), expected.as_ref());
            let is_in =
                |key: &Key| (start, Bound::Unbounded).contains(key) && to.is_none_or(|to| key < to);
            let mut left = all.iter().filter(|(key, ..)| is_in(key));
            for entry in &page.entries {
                prop_assert_eq!(Some(entry), left.next());
            }
            prop_assert_eq!(page.end.as_ref(), left.next().map(|(key, ..)| key));
            prop_assert!(page.entries.len() <= entries_max);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn disk_and_memory_are_equivalent(
        draws in draws(),
        wal_bytes in prop_oneof![Just(0), 4096..16384_u64, Just(1 << 20)],
    ) {
        let mut memory = Memory::new();
        let mut disk = Disk::open(TempDir::new().unwrap(), wal_bytes);
        let mut generator = Generator::after(&memory, TxnId::new(1, 0));
        for draw in draws.iter().chain([&Draw::Crash]) {
            match draw {
                Draw::Force => {
                    disk.force();
                    memory.sync_up_to(memory.last());
                }
                Draw::Crash => {
                    disk = disk.crash();
                    memory.kill();
                }
                Draw::Close => {
                    disk = disk.close();
                    memory.sync_up_to(memory.last());
                    memory.kill();
                }
                _ => {
                    let Some(record) = generator.record(draw) else { continue };
                    let lsn = memory.append(record.clone());
                    prop_assert_eq!(disk.opened.store.append(record), lsn);
                }
            }
            if matches!(draw, Draw::Crash | Draw::Close) {
                prop_assert_eq!(&disk.opened.records, &memory.records());
                // The ids of lost transactions are not reused.
                generator = Generator::after(&memory, generator.next);
            }
            prop_assert_eq!(disk.entries(), entries(&memory));
            pages_are_equal(&disk.opened.store, &memory)?;
            for number in 0..5 {
                let key = Key::from(format!("key{number}").into_bytes());
                let read = disk.opened.store.get(&key).unwrap();
                prop_assert_eq!(read.as_ref(), memory.get(&key));
            }
        }
    }
}
