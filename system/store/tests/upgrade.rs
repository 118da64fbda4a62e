//! A store of format 4, as an earlier version of this crate left it when it was killed: upgraded at its
//! first opening, whatever interrupts that.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use store::{Database, StoreError, StoreOptions};
use tempfile::TempDir;

const FILES: [&str; 3] = ["LOCK", "data.mdb", "log"];

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-4")
}

fn old_store() -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in FILES {
        fs::copy(fixture().join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn open(dir: &TempDir) -> Result<Database, StoreError> {
    Database::open(dir.path(), StoreOptions::default())
}

fn entries(database: &Database) -> BTreeMap<String, (u64, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let entries = database.entries().unwrap().map(Result::unwrap);
    entries.map(|(key, version, value)| (text(&key), (version, text(&value)))).collect()
}

/// What the old store holds: twenty entries in its tables, of which its log overwrites one and deletes one.
fn expected() -> BTreeMap<String, (u64, String)> {
    let checkpointed = |n: u64| (format!("key{n:02}"), (n + 1, format!("checkpointed {n}")));
    let mut expected: BTreeMap<_, _> = (0..20).map(checkpointed).collect();
    expected.insert("key03".to_owned(), (21, "from the log".to_owned()));
    expected.remove("key04");
    expected
}

fn names(dir: &TempDir) -> Vec<String> {
    let files = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name());
    let mut names: Vec<_> = files.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_store_of_format_4_is_upgraded() {
    let dir = old_store();
    let database = open(&dir).unwrap();
    assert_eq!(entries(&database), expected());
    assert_eq!(names(&dir), ["LOCK", "data.mdb", "lock.mdb", "wal-0", "wal-1"]);
    assert_eq!(database.put(b"key20", b"new").unwrap(), 23, "versions continue");
    database.close().unwrap();
    let database = open(&dir).unwrap();
    assert_eq!(entries(&database).len(), 20);
    // What an earlier version looks at first.
    let data = fs::read(dir.path().join("data.mdb")).unwrap();
    let format = |number: u8| [&b"\0store\0\0\0"[..], &[number]].concat();
    let current = newest_pages(&data);
    assert!(current.windows(10).any(|bytes| bytes == format(5)));
    assert!(!current.windows(10).any(|bytes| bytes == format(4)));
}

/// The leaf page of the unnamed table, which is small: the root that the newer meta page names.
fn newest_pages(data: &[u8]) -> &[u8] {
    let number = |at: usize| u64::from_ne_bytes(data[at..at + 8].try_into().unwrap());
    let meta = if number(144) > number(4096 + 144) { 0 } else { 4096 };
    let root = usize::try_from(number(meta + 128)).unwrap();
    &data[root * 4096..(root + 1) * 4096]
}

#[test]
fn an_interrupted_upgrade_is_repeated_or_finished() {
    // Before the commit: one segment, or both, whatever they hold.
    for segments in [&["wal-0"][..], &["wal-0", "wal-1"]] {
        let dir = old_store();
        for name in segments {
            fs::write(dir.path().join(name), [7; 9000]).unwrap();
        }
        assert_eq!(entries(&open(&dir).unwrap()), expected());
    }
    // After the commit: the old log is still there, and must not be read again.
    let dir = old_store();
    open(&dir).unwrap().close().unwrap();
    let database = open(&dir).unwrap();
    database.put(b"key03", b"newer").unwrap();
    drop(database);
    fs::copy(fixture().join("log"), dir.path().join("log")).unwrap();
    let database = open(&dir).unwrap();
    assert_eq!(entries(&database)["key03"], (23, "newer".to_owned()));
    assert!(!dir.path().join("log").exists());
}

#[test]
fn a_damaged_old_log_is_refused_and_left_unchanged() {
    let dir = old_store();
    let log = dir.path().join("log");
    let mut bytes = fs::read(&log).unwrap();
    bytes[4096 + 30] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let error = open(&dir).unwrap_err().to_string();
    assert!(error.contains("torn, but a later one at byte 8192 is intact"), "{error}");
    assert_eq!(names(&dir), ["LOCK", "data.mdb", "lock.mdb", "log"]);
    assert_eq!(fs::read(&log).unwrap(), bytes);
    fs::remove_file(&log).unwrap();
    let error = open(&dir).unwrap_err();
    assert!(matches!(error, StoreError::DataLost { state: "missing", .. }), "{error}");
    let shared = StoreOptions { exclusive: false, ..StoreOptions::default() };
    let error = Database::open(old_store().path(), shared).unwrap_err();
    assert!(matches!(error, StoreError::Format { found: 4, expected: 5, .. }), "{error}");
}
