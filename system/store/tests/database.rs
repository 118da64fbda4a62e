//! The store as a key/value library: concurrent writes, limits, snapshots, and processes that are
//! killed.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use store::{Database, LimitError, StoreError, StoreOptions};
use tempfile::TempDir;

fn create() -> StoreOptions {
    StoreOptions { create: true, ..StoreOptions::default() }
}

fn bytes(text: &str) -> store::Value {
    text.as_bytes().into()
}

#[test]
fn a_database_accepts_writes_from_many_threads() {
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
                        assert_eq!(read, Some((version, bytes(&key))));
                        version
                    };
                    (0..WRITES).map(write).collect::<Vec<_>>()
                })
            })
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    versions.sort();
    let counted: Vec<_> = (1..=THREADS * WRITES).collect();
    assert_eq!(versions, counted);

    let deleted = database.del(b"0-0").unwrap();
    assert!(deleted > versions[versions.len() - 1]);
    assert_eq!(database.get(b"0-0").unwrap(), None);
    database.close().unwrap();

    let database = Database::open(dir.path(), StoreOptions::default()).unwrap();
    let entries: Vec<_> = database.entries().unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.len() as u64, THREADS * WRITES - 1);
    assert!(entries.is_sorted_by(|(one, ..), (other, ..)| one < other));
    assert!(database.put(b"0-0", b"").unwrap() > deleted, "versions continue");
    assert_eq!(database.get(b"0-0").unwrap().unwrap().1, bytes(""));
}

#[test]
fn a_database_refuses_oversized_writes_and_continues() {
    let dir = TempDir::new().unwrap();
    let database = Database::open(dir.path(), create()).unwrap();
    let limit = |result: Result<u64, StoreError>| match result {
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
    assert_eq!(version, 1, "refused writes use no version");
    database.close().unwrap();
    let database = Database::open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(database.get(largest.0).unwrap(), Some((version, largest.1.into())));
}

#[test]
fn entries_are_a_snapshot() {
    let dir = TempDir::new().unwrap();
    let database = Database::open(dir.path(), create()).unwrap();
    for key in ["a", "b", "c"] {
        database.put(key.as_bytes(), b"before").unwrap();
    }
    let mut entries = database.entries().unwrap();
    assert_eq!(entries.next().unwrap().unwrap().0, bytes("a"));
    for key in ["b", "bb", "d"] {
        database.put(key.as_bytes(), b"after").unwrap();
    }
    database.del(b"c").unwrap();
    let rest: Vec<_> = entries.map(Result::unwrap).collect();
    assert_eq!(rest, [(bytes("b"), 2, bytes("before")), (bytes("c"), 3, bytes("before"))]);
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

/// In a child process: puts continuously from several threads, and prints each put that has
/// returned.
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
fn acknowledged_puts_survive_a_kill() {
    let dir = TempDir::new().unwrap();
    let mut last: [Option<(String, u64)>; 4] = [const { None }; 4];
    for round in 0..6 {
        let mut child = child("child_that_puts", dir.path(), &round.to_string());
        let acks = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut taken = 0;
        // The kill follows some acknowledgements. Those still in the pipe count as well.
        for line in acks {
            let line = line.unwrap();
            let Some(ack) = line.strip_prefix("ack ") else { continue };
            let [thread, value, version] = ack.split(' ').collect::<Vec<_>>()[..] else {
                // The kill truncated the last line.
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
        assert!(taken >= 40 + round * 17, "the child ended early, after {taken} puts");

        let database = Database::open(dir.path(), StoreOptions::default()).unwrap();
        for (thread, acknowledged) in last.iter().enumerate() {
            let Some((value, version)) = acknowledged else { continue };
            let key = thread.to_string();
            let (found_version, found) = database.get(key.as_bytes()).unwrap().expect("a value");
            // A later put that was not acknowledged may have taken effect.
            assert!(
                found_version >= *version,
                "{key}: version {found_version}, not {version} {value}"
            );
            if found_version == *version {
                assert_eq!(found, bytes(value));
            }
        }
    }
}

#[test]
fn a_key_whose_bytes_have_rotted_is_not_absent() {
    let dir = TempDir::new().unwrap();
    let database = Database::open(dir.path(), create()).unwrap();
    for key in ["before", "c-needle", "later"] {
        database.put(key.as_bytes(), b"value").unwrap();
    }
    database.close().unwrap();
    let file = dir.path().join("data.mdb");
    let mut bytes = fs::read(&file).unwrap();
    let places: Vec<usize> =
        (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"c-needle")).collect();
    assert!(!places.is_empty());
    // Another key, in the same place among the others.
    places.into_iter().for_each(|at| bytes[at] ^= 4);
    fs::write(&file, bytes).unwrap();

    let database = Database::open(dir.path(), StoreOptions::default()).unwrap();
    for key in ["c-needle", "g-needle"] {
        let found = database.get(key.as_bytes());
        assert!(matches!(found, Err(StoreError::DamagedEntry { .. })), "{key}: {found:?}");
    }
    for key in ["before", "later"] {
        assert!(database.get(key.as_bytes()).unwrap().is_some(), "{key}");
    }
    assert_eq!(database.get(b"zzz").unwrap(), None);
}
