//! The store on a real disk: what survives, and what is refused.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use nix::sys::signal::{Signal, raise};
use system::{
    protocol::{Key, Lsn, Node, Record, StoreId, TxnId, Value, Version, Write},
    store::{Observer, Opened, Store, StoreError, StoreOptions},
};
use tempfile::TempDir;

/// Far longer than any wait takes, but short for a person.
const DEADLINE: Duration = Duration::from_secs(30);

/// The reports of a store's writer.
type Reports = mpsc::Receiver<Result<Lsn, Arc<StoreError>>>;

fn create() -> StoreOptions {
    StoreOptions { create: true, ..StoreOptions::default() }
}

fn open(dir: &TempDir, options: StoreOptions) -> Result<(Opened, Reports), StoreError> {
    let (report, reports) = mpsc::channel();
    let opened = Store::open(
        dir.path(),
        options,
        Box::new(move |durable| {
            // The test may have stopped receiving.
            let _ = report.send(durable);
        }),
    )?;
    Ok((opened, reports))
}

fn wait_for(reports: &Reports, lsn: Lsn) {
    while reports.recv_timeout(DEADLINE).expect("a report").expect("written") < lsn {}
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
fn appended_records_are_visible_immediately_and_survive_a_restart() {
    let dir = TempDir::new().unwrap();
    let (Opened { mut store, id, records }, _reports) = open(&dir, create()).unwrap();
    assert_eq!(records, []);
    let member = Record::Member { node: Node::Replica(1), store: StoreId(id.0) };
    for record in [
        Record::Incarnation { incarnation: 1 },
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

    let (Opened { mut store, id: again, records }, reports) =
        open(&dir, StoreOptions::default()).unwrap();
    assert_eq!(again, id);
    let expected = [
        Record::Incarnation { incarnation: 1 },
        member.clone(),
        commit(1),
        commit(2),
        put(3, "c", "3"),
        commit(4),
    ];
    assert_eq!(records, expected);
    assert_eq!(entries(&store), [entry(2, "b", "2")]);
    assert_eq!(store.append(commit(3)), 1, "positions count from 1 at each start");
    let watermark = Record::Watermark { watermark: txn(4) };
    let last = store.append(watermark.clone());
    store.force(last);
    wait_for(&reports, last);
    assert_eq!(entries(&store), [entry(2, "b", "2"), entry(3, "c", "3")]);
    drop(store);

    let (Opened { store, records, .. }, _reports) = open(&dir, StoreOptions::default()).unwrap();
    assert_eq!(records, [Record::Incarnation { incarnation: 1 }, watermark, member, commit(4)]);
    assert_eq!(entries(&store), [entry(2, "b", "2"), entry(3, "c", "3")]);
}

#[test]
fn records_become_durable_without_a_force() {
    let dir = TempDir::new().unwrap();
    let (Opened { mut store, .. }, reports) = open(&dir, create()).unwrap();
    let lsn = store.append(Record::Incarnation { incarnation: 1 });
    wait_for(&reports, lsn);
    let lsn = store.append(Record::Incarnation { incarnation: 2 });
    wait_for(&reports, lsn);
}

#[test]
fn records_queued_during_a_sync_form_the_next_group() {
    /// Reports each group, and lets it continue when released.
    struct Paced(mpsc::Sender<Vec<Record>>, mpsc::Receiver<()>, Arc<Mutex<u32>>);

    impl Observer<Record> for Paced {
        fn before(&mut self, batch: &[Record]) {
            self.0.send(batch.to_vec()).unwrap();
            self.1.recv_timeout(DEADLINE).expect("released in time");
        }

        fn after(&mut self, _: &[Record]) {
            *self.2.lock().unwrap() += 1;
        }
    }

    let dir = TempDir::new().unwrap();
    let (report, reports) = mpsc::channel();
    let (batch, batches) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let commits = Arc::new(Mutex::new(0));
    let persisted = {
        let commits = commits.clone();
        Box::new(move |durable: Result<Lsn, _>| {
            report.send((durable.unwrap(), *commits.lock().unwrap())).unwrap();
        })
    };
    let options = StoreOptions { flush_interval: DEADLINE, ..create() };
    let observer = Box::new(Paced(batch, released, commits));
    let Opened { mut store, .. } =
        Store::open_observed(dir.path(), options, persisted, Some(observer)).unwrap();

    let incarnations: Vec<_> =
        (1..=5).map(|incarnation| Record::Incarnation { incarnation }).collect();
    store.append(incarnations[0].clone());
    store.force(1);
    assert_eq!(batches.recv_timeout(DEADLINE).unwrap(), incarnations[..1]);
    for incarnation in &incarnations[1..4] {
        let lsn = store.append(incarnation.clone());
        store.force(lsn);
    }
    store.append(incarnations[4].clone());
    release.send(()).unwrap();
    assert_eq!(reports.recv_timeout(DEADLINE).unwrap(), (1, 1));
    assert_eq!(batches.recv_timeout(DEADLINE).unwrap(), incarnations[1..], "forced or not");
    release.send(()).unwrap();
    assert_eq!(reports.recv_timeout(DEADLINE).unwrap(), (5, 2));
    store.close().unwrap();
    assert!(batches.try_recv().is_err(), "there were two groups");
}

#[test]
fn entries_of_a_running_checkpoint_are_visible_and_checked() {
    /// Reports that a checkpoint is about to start, and waits until it is released.
    struct Gate(mpsc::Sender<()>, mpsc::Receiver<()>);

    impl Observer<Record> for Gate {
        fn before(&mut self, _: &[Record]) {
            self.0.send(()).unwrap();
            self.1.recv_timeout(DEADLINE).expect("released in time");
        }

        fn after(&mut self, _: &[Record]) {}
    }

    let dir = TempDir::new().unwrap();
    let (report, reports) = mpsc::channel();
    let (started, starts) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let options = StoreOptions { wal_bytes: 0, flush_interval: DEADLINE, ..create() };
    let persisted = Box::new(move |durable| report.send(durable).unwrap());
    let observer = Box::new(Gate(started, released));
    let Opened { mut store, .. } =
        Store::open_observed(dir.path(), options, persisted, Some(observer)).unwrap();

    store.append(put(2, "a", "second"));
    let first = store.append(commit(2));
    store.force(first);
    starts.recv_timeout(DEADLINE).expect("the checkpoint has started");
    assert_eq!(store.get(&"a".into()).unwrap(), Some((txn(2), "second".into())));
    assert_eq!(entries(&store), [entry(2, "a", "second")]);

    // Neither in the tables yet nor among the newer changes, but not forgotten.
    store.append(put(1, "a", "first, too late"));
    let late = store.append(commit(1));
    store.force(late);
    release.send(()).unwrap();
    assert_eq!(reports.recv_timeout(DEADLINE).unwrap().unwrap(), first);
    let error = reports.recv_timeout(DEADLINE).unwrap().unwrap_err();
    assert!(matches!(*error, StoreError::VersionOrder { .. }), "{error}");
}

#[test]
fn a_second_open_is_refused_while_the_first_is_open() {
    let dir = TempDir::new().unwrap();
    let (first, _reports) = open(&dir, create()).unwrap();
    let error = open(&dir, StoreOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    drop(first);
    open(&dir, StoreOptions::default()).unwrap();
}

#[test]
fn deleting_a_long_value_does_not_restore_an_earlier_short_one() {
    let dir = TempDir::new().unwrap();
    let (Opened { mut store, .. }, _reports) = open(&dir, create()).unwrap();
    let long = "long".repeat(1000);
    for record in [put(1, "a", "short"), commit(1), put(2, "a", &long), commit(2), del(3, "a")] {
        store.append(record);
    }
    assert_eq!(entries(&store), [entry(2, "a", &long)]);
    store.append(commit(3));
    store.close().unwrap();
    let (Opened { store, .. }, _reports) = open(&dir, StoreOptions::default()).unwrap();
    assert_eq!(store.get(&"a".into()).unwrap(), None);
    assert_eq!(entries(&store), []);
}

#[test]
fn each_store_has_its_own_id() {
    let ids: Vec<_> =
        (0..2).map(|_| open(&TempDir::new().unwrap(), create()).unwrap().0.id).collect();
    assert_ne!(ids[0], ids[1]);
    assert_ne!(ids[0].0, 0);
}

#[test]
fn the_space_of_long_values_is_reused() {
    let dir = TempDir::new().unwrap();
    let long = "v".repeat(100_000);
    let size = || fs::metadata(dir.path().join("data.mdb")).unwrap().len();
    let in_one_commit = StoreOptions { flush_interval: DEADLINE, wal_bytes: 0, ..create() };
    let (Opened { mut store, .. }, reports) = open(&dir, in_one_commit).unwrap();
    let mut early = 0;
    for round in 0..20 {
        let key = format!("key{round}");
        let seq = 3 * round;
        store.append(put(seq, &key, &long));
        store.append(commit(seq));
        store.append(put(seq + 1, &key, "short"));
        store.append(commit(seq + 1));
        store.append(put(seq + 2, &key, &long));
        let lsn = store.append(Record::Abort { txn: txn(seq + 2) });
        store.force(lsn);
        wait_for(&reports, lsn);
        if round == 4 {
            early = size();
        }
    }
    assert!(size() < early + 100_000, "grew from {early} to {} bytes", size());
}

#[test]
fn a_force_takes_effect_in_every_state_of_the_writer() {
    let dir = TempDir::new().unwrap();
    let lazy = StoreOptions { flush_interval: DEADLINE * 2, ..create() };
    let (Opened { mut store, .. }, reports) = open(&dir, lazy).unwrap();
    // Increasing pauses find the writer awake, about to wait, and waiting.
    for incarnation in 1..=200 {
        let lsn = store.append(Record::Incarnation { incarnation });
        for _ in 0..incarnation * 100 {
            std::hint::spin_loop();
        }
        store.force(lsn);
        wait_for(&reports, lsn);
    }
}

// ---- Processes that are killed ----
//
// The child processes are this test program, started with one of the tests below. These tests do
// nothing unless this variable names the directory.
const CHILD: &str = "STORE_TEST_CHILD";

/// Starts a test of this program in a child process.
fn child(test: &str, dir: &Path, argument: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .env("STORE_TEST_ARGUMENT", argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The directory and the argument, if this is a child process.
fn as_child() -> Option<(std::path::PathBuf, String)> {
    Some((env::var_os(CHILD)?.into(), env::var("STORE_TEST_ARGUMENT").ok()?))
}

/// In a child process: keeps a store open until its standard input is closed.
#[test]
fn child_that_holds_a_store() {
    let Some((dir, _)) = as_child() else { return };
    let _opened = Store::open(&dir, StoreOptions::default(), Box::new(|_| ())).unwrap();
    println!("\nready");
    std::io::stdin().lines().for_each(drop);
}

#[test]
fn a_second_process_is_refused_unless_the_rule_is_broken() {
    let dir = TempDir::new().unwrap();
    let (Opened { mut store, .. }, _reports) = open(&dir, create()).unwrap();
    store.append(Record::Epoch { epoch: 1, replicas: 3 });
    store.close().unwrap();

    let mut holder = child("child_that_holds_a_store", dir.path(), "");
    let mut output = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(output.any(|line| line.unwrap() == "ready"));
    let error = open(&dir, StoreOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    let error = open(&dir, create()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");

    let second = StoreOptions { exclusive: false, ..StoreOptions::default() };
    let (Opened { mut store, records, .. }, reports) = open(&dir, second).unwrap();
    assert_eq!(records, [Record::Epoch { epoch: 1, replicas: 3 }]);
    let lsn = store.append(Record::Epoch { epoch: 2, replicas: 3 });
    store.force(lsn);
    wait_for(&reports, lsn);
    drop(store);

    // The lock is released with the process, however it ends.
    holder.kill().unwrap();
    holder.wait().unwrap();
    let (Opened { records, .. }, _reports) = open(&dir, StoreOptions::default()).unwrap();
    assert_eq!(records, [Record::Epoch { epoch: 2, replicas: 3 }]);
}

/// In a child process: appends groups of records, and is killed before or after one becomes
/// durable.
#[test]
fn child_that_is_killed_around_a_commit() {
    /// Kills its own process at a commit.
    struct Killer(&'static str, u64);

    impl Killer {
        fn at(&mut self, point: &str, batch: &[Record]) {
            if point == self.0 && batch.contains(&Record::Incarnation { incarnation: self.1 }) {
                raise(Signal::SIGKILL).unwrap();
            }
        }
    }

    impl Observer<Record> for Killer {
        fn before(&mut self, batch: &[Record]) {
            self.at("before", batch);
        }

        fn after(&mut self, batch: &[Record]) {
            self.at("after", batch);
        }
    }

    let Some((dir, point)) = as_child() else { return };
    let point = if point == "before" { "before" } else { "after" };
    let (report, reports) = mpsc::channel();
    let persisted = Box::new(move |durable: Result<Lsn, _>| report.send(durable.unwrap()).unwrap());
    let options = StoreOptions { flush_interval: DEADLINE, ..create() };
    let killer = Box::new(Killer(point, 3));
    let Opened { mut store, .. } =
        Store::open_observed(&dir, options, persisted, Some(killer)).unwrap();
    for incarnation in 1..=5 {
        store.append(put(incarnation, "k", &incarnation.to_string()));
        store.append(commit(incarnation));
        let lsn = store.append(Record::Incarnation { incarnation });
        store.force(lsn);
        assert_eq!(reports.recv_timeout(DEADLINE).unwrap(), lsn);
    }
}

#[test]
fn a_group_is_atomic_around_a_kill() {
    for (point, incarnation) in [("before", 2), ("after", 3)] {
        let dir = TempDir::new().unwrap();
        let status =
            child("child_that_is_killed_around_a_commit", dir.path(), point).wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{point}");
        let (Opened { store, records, .. }, _reports) =
            open(&dir, StoreOptions::default()).unwrap();
        let mut expected = vec![Record::Incarnation { incarnation }];
        expected.extend((1..=incarnation).map(commit));
        assert_eq!(records, expected, "{point}");
        assert_eq!(entries(&store), [entry(incarnation, "k", &incarnation.to_string())], "{point}");
    }
}
