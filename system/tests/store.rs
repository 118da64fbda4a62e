//! The store on a real disk: what survives, what is refused, and in which words. Each kind of damage
//! is done to the files by hand.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use nix::sys::signal::{Signal, raise};
use system::{
    protocol::{Key, Lsn, Node, Record, StoreId, TxnId, Value, Version, Write},
    store::{Database, LimitError, Observer, Opened, Store, StoreError, StoreOptions},
};
use tempfile::TempDir;

/// Far above what any wait takes, and far below what a person would wait for.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a store says of its progress.
type Told = mpsc::Receiver<Result<Lsn, Arc<StoreError>>>;

fn create() -> StoreOptions {
    StoreOptions { create: true, ..StoreOptions::default() }
}

fn open(dir: &TempDir, options: StoreOptions) -> Result<(Opened, Told), StoreError> {
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

    let (Opened { mut store, id: again, records }, told) =
        open(&dir, StoreOptions::default()).unwrap();
    assert_eq!(again, id);
    let left = [
        Record::Incarnation { incarnation: 1 },
        member.clone(),
        commit(1),
        commit(2),
        put(3, "c", "3"),
        commit(4),
    ];
    assert_eq!(records, left);
    assert_eq!(entries(&store), [entry(2, "b", "2")]);
    assert_eq!(store.append(commit(3)), 1, "positions count from 1 at each start");
    let watermark = Record::Watermark { watermark: txn(4) };
    let last = store.append(watermark.clone());
    store.force(last);
    wait_for(&told, last);
    assert_eq!(entries(&store), [entry(2, "b", "2"), entry(3, "c", "3")]);
    drop(store);

    let (Opened { store, records, .. }, _told) = open(&dir, StoreOptions::default()).unwrap();
    assert_eq!(records, [Record::Incarnation { incarnation: 1 }, watermark, member, commit(4)]);
    assert_eq!(entries(&store), [entry(2, "b", "2"), entry(3, "c", "3")]);
}

#[test]
fn records_that_nobody_forces_become_durable_by_themselves() {
    let dir = TempDir::new().unwrap();
    let (Opened { mut store, .. }, told) = open(&dir, create()).unwrap();
    let lsn = store.append(Record::Incarnation { incarnation: 1 });
    wait_for(&told, lsn);
    let lsn = store.append(Record::Incarnation { incarnation: 2 });
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
    let options = StoreOptions { idle: DEADLINE, ..create() };
    let observer = Box::new(Slow(batch, gone, commits));
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
    go.send(()).unwrap();
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), (1, 1));
    assert_eq!(batches.recv_timeout(DEADLINE).unwrap(), incarnations[1..], "forced or not");
    go.send(()).unwrap();
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), (5, 2));
    store.close().unwrap();
    assert!(batches.try_recv().is_err(), "two commits have done it");
}

#[test]
fn what_the_tables_are_taking_up_is_read_meanwhile_and_counts() {
    /// Tells that the tables are about to take something up, and stands until it is told to go on.
    struct Gate(mpsc::Sender<()>, mpsc::Receiver<()>);

    impl Observer for Gate {
        fn before(&mut self, _: &[Record]) {
            self.0.send(()).unwrap();
            self.1.recv_timeout(DEADLINE).expect("let go in time");
        }

        fn after(&mut self, _: &[Record]) {}
    }

    let dir = TempDir::new().unwrap();
    let (tell, told) = mpsc::channel();
    let (stand, standing) = mpsc::channel();
    let (go, gone) = mpsc::channel();
    let options = StoreOptions { wal_bytes: 0, idle: DEADLINE, ..create() };
    let persisted = Box::new(move |durable| tell.send(durable).unwrap());
    let observer = Box::new(Gate(stand, gone));
    let Opened { mut store, .. } =
        Store::open_observed(dir.path(), options, persisted, Some(observer)).unwrap();

    store.append(put(2, "a", "second"));
    let first = store.append(commit(2));
    store.force(first);
    standing.recv_timeout(DEADLINE).expect("the tables are asked");
    assert_eq!(store.get(&"a".into()).unwrap(), Some((txn(2), "second".into())));
    assert_eq!(entries(&store), [entry(2, "a", "second")]);

    // Neither in the tables yet nor beside them: but not forgotten.
    store.append(put(1, "a", "first, and too late"));
    let late = store.append(commit(1));
    store.force(late);
    go.send(()).unwrap();
    assert_eq!(told.recv_timeout(DEADLINE).unwrap().unwrap(), first);
    let error = told.recv_timeout(DEADLINE).unwrap().unwrap_err();
    assert!(matches!(*error, StoreError::VersionOrder { .. }), "{error}");
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let dir = TempDir::new().unwrap();
    let (first, _told) = open(&dir, create()).unwrap();
    let error = open(&dir, StoreOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    drop(first);
    open(&dir, StoreOptions::default()).unwrap();
}

#[test]
fn an_earlier_short_value_does_not_come_back_when_a_long_one_is_deleted() {
    let dir = TempDir::new().unwrap();
    let (Opened { mut store, .. }, _told) = open(&dir, create()).unwrap();
    let long = "long".repeat(1000);
    for record in [put(1, "a", "short"), commit(1), put(2, "a", &long), commit(2), del(3, "a")] {
        store.append(record);
    }
    assert_eq!(entries(&store), [entry(2, "a", &long)]);
    store.append(commit(3));
    store.close().unwrap();
    let (Opened { store, .. }, _told) = open(&dir, StoreOptions::default()).unwrap();
    assert_eq!(store.get(&"a".into()).unwrap(), None);
    assert_eq!(entries(&store), []);
}

#[test]
fn an_id_is_drawn_for_each_store() {
    let ids: Vec<StoreId> =
        (0..2).map(|_| open(&TempDir::new().unwrap(), create()).unwrap().0.id).collect();
    assert_ne!(ids[0], ids[1]);
    assert_ne!(ids[0], StoreId::default());
}

#[test]
fn the_room_of_long_values_is_used_again() {
    let dir = TempDir::new().unwrap();
    let long = "v".repeat(100_000);
    let size = || fs::metadata(dir.path().join("data.mdb")).unwrap().len();
    let in_one_commit = StoreOptions { idle: DEADLINE, wal_bytes: 0, ..create() };
    let (Opened { mut store, .. }, told) = open(&dir, in_one_commit).unwrap();
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
        wait_for(&told, lsn);
        if round == 4 {
            early = size();
        }
    }
    assert!(size() < early + 100_000, "grew from {early} to {} bytes", size());
}

#[test]
fn a_force_is_heard_whatever_the_writer_is_about() {
    let dir = TempDir::new().unwrap();
    let patient = StoreOptions { idle: DEADLINE * 2, ..create() };
    let (Opened { mut store, .. }, told) = open(&dir, patient).unwrap();
    // Longer and longer pauses find the writer awake, going to sleep, and asleep.
    for incarnation in 1..=200 {
        let lsn = store.append(Record::Incarnation { incarnation });
        for _ in 0..incarnation * 100 {
            std::hint::spin_loop();
        }
        store.force(lsn);
        wait_for(&told, lsn);
    }
}

#[test]
fn a_database_takes_writes_of_many_threads_and_counts_their_versions() {
    const THREADS: u64 = 8;
    const WRITES: u64 = 25;
    let dir = TempDir::new().unwrap();
    let database = Database::open(dir.path(), create()).unwrap();
    let mut versions = thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let database = &database;
                scope.spawn(move || {
                    let write = |n: u64| {
                        let key = format!("{thread}-{n}");
                        let version = database.put(key.as_bytes(), key.as_bytes()).unwrap();
                        let read = database.get(key.as_bytes()).unwrap();
                        assert_eq!(read, Some((version, key.as_str().into())));
                        version
                    };
                    (0..WRITES).map(write).collect::<Vec<_>>()
                })
            })
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    versions.sort();
    let counted: Vec<_> = (1..=THREADS * WRITES).map(|seq| TxnId::new(0, seq)).collect();
    assert_eq!(versions, counted);

    let deleted = database.del(b"0-0").unwrap();
    assert!(deleted > versions[versions.len() - 1]);
    assert_eq!(database.get(b"0-0").unwrap(), None);
    database.close().unwrap();

    let database = Database::open(dir.path(), StoreOptions::default()).unwrap();
    let entries: Vec<_> = database.entries().unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.len() as u64, THREADS * WRITES - 1);
    assert!(entries.is_sorted_by(|(one, ..), (other, ..)| one < other));
    assert!(database.put(b"0-0", b"").unwrap() > deleted, "versions go on");
    assert_eq!(database.get(b"0-0").unwrap().unwrap().1, "".into());
}

#[test]
fn a_database_refuses_what_is_out_of_bounds_and_goes_on() {
    let dir = TempDir::new().unwrap();
    let database = Database::open(dir.path(), create()).unwrap();
    let limit = |result: Result<Version, StoreError>| match result {
        Err(StoreError::Limit(limit)) => limit,
        other => panic!("{other:?}"),
    };
    let long = vec![0; (1 << 20) + 1];
    assert_eq!(limit(database.put(b"", b"v")), LimitError::EmptyKey);
    assert_eq!(limit(database.put(&long[..512], b"v")), LimitError::LongKey { len: 512 });
    assert_eq!(limit(database.del(&[])), LimitError::EmptyKey);
    let too_long = LimitError::LongValue { len: (1 << 20) + 1, max: 1 << 20 };
    assert_eq!(limit(database.put(b"k", &long)), too_long);

    let largest = (&long[..511], &long[..1 << 20]);
    let version = database.put(largest.0, largest.1).unwrap();
    assert_eq!(version, TxnId::new(0, 1), "refusals do not count");
    database.close().unwrap();
    let database = Database::open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(database.get(largest.0).unwrap(), Some((version, largest.1.into())));
}

#[test]
fn entries_are_those_of_one_moment() {
    let dir = TempDir::new().unwrap();
    let database = Database::open(dir.path(), create()).unwrap();
    for key in ["a", "b", "c"] {
        database.put(key.as_bytes(), b"before").unwrap();
    }
    let mut entries = database.entries().unwrap();
    assert_eq!(entries.next().unwrap().unwrap().0, "a".into());
    for key in ["b", "bb", "d"] {
        database.put(key.as_bytes(), b"after").unwrap();
    }
    database.del(b"c").unwrap();
    let rest: Vec<_> = entries.map(Result::unwrap).collect();
    assert_eq!(
        rest,
        [
            ("b".into(), TxnId::new(0, 2), "before".into()),
            ("c".into(), TxnId::new(0, 3), "before".into())
        ]
    );
}

// ---- Processes that are killed ----
//
// The children are this very test program, asked for one of the tests below that do nothing unless
// this variable says in which directory.
const CHILD: &str = "STORE_TEST_CHILD";

/// Starts a test of this program as a process of its own.
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

/// The directory and the argument, if this process is such a child.
fn as_child() -> Option<(std::path::PathBuf, String)> {
    Some((env::var_os(CHILD)?.into(), env::var("STORE_TEST_ARGUMENT").ok()?))
}

/// As a child: puts without end, by several threads, and tells of each put that has returned.
#[test]
fn child_that_puts() {
    let Some((dir, round)) = as_child() else { return };
    let database = Database::open(&dir, create()).unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let (database, round) = (&database, &round);
            scope.spawn(move || {
                for n in 0.. {
                    let key = format!("{thread}");
                    let value = format!("{round}-{n:06}");
                    let version = database.put(key.as_bytes(), value.as_bytes()).unwrap();
                    println!("\nack {thread} {value} {version}");
                }
            });
        }
    });
}

#[test]
fn a_process_killed_amid_its_puts_keeps_what_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let mut last: [Option<(String, TxnId)>; 4] = [const { None }; 4];
    for round in 0..6 {
        let mut child = child("child_that_puts", dir.path(), &round.to_string());
        let acks = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut taken = 0;
        // The kill comes after some acknowledgements; those that are still in the pipe count.
        for line in acks {
            let line = line.unwrap();
            let Some(ack) = line.strip_prefix("ack ") else { continue };
            let [thread, value, version] = ack.split(' ').collect::<Vec<_>>()[..] else {
                // The kill has cut the last line short.
                continue;
            };
            let Ok(version) = version.parse() else { continue };
            let known = &mut last[thread.parse::<usize>().unwrap()];
            if known.as_ref().is_none_or(|(_, known)| *known < version) {
                *known = Some((value.to_owned(), version));
            }
            taken += 1;
            if taken == 40 + round * 17 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(taken >= 40 + round * 17, "the child puts until it is killed: {taken}");

        let database = Database::open(dir.path(), StoreOptions::default()).unwrap();
        for (thread, acknowledged) in last.iter().enumerate() {
            let Some((value, version)) = acknowledged else { continue };
            let key = thread.to_string();
            let (found_version, found) = database.get(key.as_bytes()).unwrap().expect("a value");
            // A put that was not acknowledged may have taken effect after it.
            assert!(
                found_version >= *version,
                "{key}: {found_version} {found}, not {version} {value}"
            );
            if found_version == *version {
                assert_eq!(found, value.as_str().into());
            }
        }
    }
}

/// As a child: holds a store until its standard input ends.
#[test]
fn child_that_holds_a_store() {
    let Some((dir, _)) = as_child() else { return };
    let _opened = Store::open(&dir, StoreOptions::default(), Box::new(|_| ())).unwrap();
    println!("\nready");
    std::io::stdin().lines().for_each(drop);
}

#[test]
fn another_process_is_refused_unless_it_breaks_the_rule() {
    let dir = TempDir::new().unwrap();
    let (Opened { mut store, .. }, _told) = open(&dir, create()).unwrap();
    store.append(Record::Epoch { epoch: 1, replicas: 3 });
    store.close().unwrap();

    let mut holder = child("child_that_holds_a_store", dir.path(), "");
    let mut said = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "ready"));
    let error = open(&dir, StoreOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    let error = open(&dir, create()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");

    let second = StoreOptions { exclusive: false, ..StoreOptions::default() };
    let (Opened { mut store, records, .. }, told) = open(&dir, second).unwrap();
    assert_eq!(records, [Record::Epoch { epoch: 1, replicas: 3 }]);
    let lsn = store.append(Record::Epoch { epoch: 2, replicas: 3 });
    store.force(lsn);
    wait_for(&told, lsn);
    drop(store);

    // The lock goes with the process, however it dies.
    holder.kill().unwrap();
    holder.wait().unwrap();
    let (Opened { records, .. }, _told) = open(&dir, StoreOptions::default()).unwrap();
    assert_eq!(records, [Record::Epoch { epoch: 2, replicas: 3 }]);
}

/// As a child: appends records in batches, and is killed around the commit of one.
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

    impl Observer for Killer {
        fn before(&mut self, batch: &[Record]) {
            self.at("before", batch);
        }

        fn after(&mut self, batch: &[Record]) {
            self.at("after", batch);
        }
    }

    let Some((dir, point)) = as_child() else { return };
    let point = if point == "before" { "before" } else { "after" };
    let (tell, told) = mpsc::channel();
    let persisted = Box::new(move |durable: Result<Lsn, _>| tell.send(durable.unwrap()).unwrap());
    let options = StoreOptions { idle: DEADLINE, ..create() };
    let killer = Box::new(Killer(point, 3));
    let Opened { mut store, .. } =
        Store::open_observed(&dir, options, persisted, Some(killer)).unwrap();
    for incarnation in 1..=5 {
        store.append(put(incarnation, "k", &incarnation.to_string()));
        store.append(commit(incarnation));
        let lsn = store.append(Record::Incarnation { incarnation });
        store.force(lsn);
        assert_eq!(told.recv_timeout(DEADLINE).unwrap(), lsn);
    }
}

#[test]
fn a_batch_survives_a_kill_after_its_commit_and_none_of_it_one_before() {
    for (point, incarnation) in [("before", 2), ("after", 3)] {
        let dir = TempDir::new().unwrap();
        let status =
            child("child_that_is_killed_around_a_commit", dir.path(), point).wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{point}");
        let (Opened { store, records, .. }, _told) = open(&dir, StoreOptions::default()).unwrap();
        let mut left = vec![Record::Incarnation { incarnation }];
        left.extend((1..=incarnation).map(commit));
        assert_eq!(records, left, "{point}");
        assert_eq!(entries(&store), [entry(incarnation, "k", &incarnation.to_string())], "{point}");
    }
}
