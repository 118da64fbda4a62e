//! The store on a real disk: what survives, what is refused, and in which words. Each kind of damage
//! is done to the files by hand.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use system::{
    protocol::{Key, Lsn, Node, Record, StoreId, TxnId, Value, Version, Write},
    store::{Observer, Opened, Options, Store, StoreError},
};
use tempfile::TempDir;

/// Far above what any wait takes, and far below what a person would wait for.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a store says of its progress.
type Told = mpsc::Receiver<Result<Lsn, Arc<StoreError>>>;

fn create() -> Options {
    Options { create: true, ..Options::default() }
}

fn open(dir: &TempDir, options: Options) -> Result<(Opened, Told), StoreError> {
    let (tell, told) = mpsc::channel();
    let opened = Store::open(
        dir.path(),
        options,
        Box::new(move |durable| {
            // A test that has seen enough listens no more.
            let _ = tell.send(durable);
        }),
    )?;
    Ok((opened, told))
}

fn wait_for(told: &Told, lsn: Lsn) {
    while told.recv_timeout(DEADLINE).expect("told in time").expect("writing works") < lsn {}
}

fn txn(seq: u64) -> TxnId {
    TxnId::new(1, seq)
}

fn put(seq: u64, key: &str, value: &str) -> Record {
    let write = Write { key: key.into(), value: Some(value.into()) };
    Record::Prepare { txn: txn(seq), write }
}

fn del(seq: u64, key: &str) -> Record {
    Record::Prepare { txn: txn(seq), write: Write { key: key.into(), value: None } }
}

fn commit(seq: u64) -> Record {
    Record::Commit { txn: txn(seq) }
}

fn entries(store: &Store) -> Vec<(Key, Version, Value)> {
    store.entries().expect("readable").collect::<Result<_, _>>().expect("readable")
}

fn entry(seq: u64, key: &str, value: &str) -> (Key, Version, Value) {
    (key.into(), txn(seq), value.into())
}

#[test]
fn what_was_appended_is_read_at_once_and_found_again_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let (Opened { mut store, id, records }, _told) = open(&dir, create()).unwrap();
    assert_eq!(records, []);
    let member = Record::Member { node: Node::Replica(1), store: id };
    for record in [
        Record::Boot { boot: 1 },
        member.clone(),
        put(1, "a", "1"),
        put(2, "b", "2"),
        put(3, "c", "3"),
        commit(1),
        commit(2),
        del(4, "a"),
    ] {
        store.append(record);
    }
    assert_eq!(store.last(), 8);
    assert_eq!(store.get(&"a".into()).unwrap(), Some((txn(1), "1".into())));
    assert_eq!(store.get(&"c".into()).unwrap(), None, "prepared only");
    assert_eq!(entries(&store), [entry(1, "a", "1"), entry(2, "b", "2")]);
    store.append(commit(4));
    assert_eq!(store.get(&"a".into()).unwrap(), None);
    assert_eq!(entries(&store), [entry(2, "b", "2")]);
    store.close().unwrap();

    let (Opened { mut store, id: again, records }, told) = open(&dir, Options::default()).unwrap();
    assert_eq!(again, id);
    let left = [
        Record::Boot { boot: 1 },
        member.clone(),
        commit(1),
        commit(2),
        put(3, "c", "3"),
        commit(4),
    ];
    assert_eq!(records, left);
    assert_eq!(entries(&store), [entry(2, "b", "2")]);
    assert_eq!(store.append(commit(3)), 1, "positions count from 1 at each start");
    let floor = Record::Floor { floor: txn(4) };
    let last = store.append(floor.clone());
    store.force(last);
    wait_for(&told, last);
    assert_eq!(entries(&store), [entry(2, "b", "2"), entry(3, "c", "3")]);
    drop(store);

    let (Opened { store, records, .. }, _told) = open(&dir, Options::default()).unwrap();
    assert_eq!(records, [Record::Boot { boot: 1 }, floor, member, commit(4)]);
    assert_eq!(entries(&store), [entry(2, "b", "2"), entry(3, "c", "3")]);
}

#[test]
fn records_that_nobody_forces_become_durable_by_themselves() {
    let dir = TempDir::new().unwrap();
    let (Opened { mut store, .. }, told) = open(&dir, create()).unwrap();
    let lsn = store.append(Record::Boot { boot: 1 });
    wait_for(&told, lsn);
    let lsn = store.append(Record::Boot { boot: 2 });
    wait_for(&told, lsn);
}

#[test]
fn what_is_queued_during_a_commit_goes_into_the_next_one_as_a_whole() {
    /// Tells of each batch, and lets the first commit go on when it is told to.
    struct Slow(mpsc::Sender<Vec<Record>>, mpsc::Receiver<()>, Arc<Mutex<u32>>);

    impl Observer for Slow {
        fn before(&mut self, batch: &[Record]) {
            self.0.send(batch.to_vec()).unwrap();
            self.1.recv_timeout(DEADLINE).expect("let go in time");
        }

        fn after(&mut self, _: &[Record]) {
            *self.2.lock().unwrap() += 1;
        }
    }

    let dir = TempDir::new().unwrap();
    let (tell, told) = mpsc::channel();
    let (batch, batches) = mpsc::channel();
    let (go, gone) = mpsc::channel();
    let commits = Arc::new(Mutex::new(0));
    let persisted = {
        let commits = commits.clone();
        Box::new(move |durable: Result<Lsn, _>| {
            tell.send((durable.unwrap(), *commits.lock().unwrap())).unwrap();
        })
    };
    let options = Options { idle: DEADLINE, ..create() };
    let observer = Box::new(Slow(batch, gone, commits));
    let Opened { mut store, .. } =
        Store::open_observed(dir.path(), options, persisted, Some(observer)).unwrap();

    let boots: Vec<_> = (1..=5).map(|boot| Record::Boot { boot }).collect();
    store.append(boots[0].clone());
    store.force(1);
    assert_eq!(batches.recv_timeout(DEADLINE).unwrap(), boots[..1]);
    for boot in &boots[1..4] {
        let lsn = store.append(boot.clone());
        store.force(lsn);
    }
    store.append(boots[4].clone());
    go.send(()).unwrap();
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), (1, 1));
    assert_eq!(batches.recv_timeout(DEADLINE).unwrap(), boots[1..], "forced or not");
    go.send(()).unwrap();
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), (5, 2));
    store.close().unwrap();
    assert!(batches.try_recv().is_err(), "two commits have done it");
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let dir = TempDir::new().unwrap();
    let (first, _told) = open(&dir, create()).unwrap();
    let error = open(&dir, Options::default()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    drop(first);
    open(&dir, Options::default()).unwrap();
}

#[test]
fn an_id_is_drawn_for_each_store() {
    let ids: Vec<StoreId> =
        (0..2).map(|_| open(&TempDir::new().unwrap(), create()).unwrap().0.id).collect();
    assert_ne!(ids[0], ids[1]);
    assert_ne!(ids[0], StoreId::default());
}
