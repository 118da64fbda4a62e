//! What a store refuses to open, or fails on, with which message. Each fault is made by hand. A
//! refusal must leave the directory unchanged, and none may crash the process.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    ops::Bound,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use heed::{CommitOrAbort, EnvOpenOptions, types::Bytes};
use system::{
    protocol::{Key, Lsn, Record, TxnId, Value, Version, Write},
    store::{Database, Opened, PageSize, Store, StoreError, StoreOptions},
};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);
const PAGE: usize = 4096;

fn create() -> StoreOptions {
    StoreOptions { create: true, ..no_wal() }
}

/// Without a WAL, every group is written to the tables.
fn no_wal() -> StoreOptions {
    StoreOptions { wal_bytes: 0, ..StoreOptions::default() }
}

fn ignore(_: Result<Lsn, Arc<StoreError>>) {}

fn open(dir: &Path, options: StoreOptions) -> Result<Opened, StoreError> {
    Store::open(dir, options, Box::new(ignore))
}

/// Opens the store, which must fail, and checks that the directory is unchanged.
fn refusal(dir: &Path, options: StoreOptions) -> StoreError {
    let before = contents(dir);
    let error = open(dir, options).expect_err("must be refused");
    assert_eq!(contents(dir), before, "a refusal must not change anything");
    let message = error.to_string();
    assert!(message.starts_with(&dir.display().to_string()), "names the place: {message}");
    error
}

/// Every file in a directory except LMDB's own lock file, whose content does not matter.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let Ok(names) = fs::read_dir(dir) else { return BTreeMap::new() };
    names
        .map(|name| name.unwrap().path())
        .filter(|path| !path.ends_with("lock.mdb"))
        .map(|path| (path.clone(), fs::read(path).ok()))
        .collect()
}

fn data(dir: &TempDir) -> PathBuf {
    dir.path().join("data.mdb")
}

fn txn(seq: u64) -> TxnId {
    TxnId::new(7, seq)
}

fn write(store: &mut Store, seq: u64, key: &str, value: Vec<u8>) -> Lsn {
    let write = Write { key: key.into(), value: Some(value.into()) };
    store.append(Record::Prepare { txn: txn(seq), write });
    store.append(Record::Commit { txn: txn(seq) })
}

/// A store with a few records, entries with short and long values, and free pages.
fn filled() -> TempDir {
    let dir = TempDir::new().unwrap();
    let Opened { mut store, .. } = open(dir.path(), create()).unwrap();
    store.append(Record::Incarnation { incarnation: 1 });
    for seq in 1..=40 {
        write(&mut store, seq, &format!("key{seq:02}"), format!("needle{seq:02}").into());
    }
    write(&mut store, 41, "long", vec![b'v'; 3 * PAGE]);
    store.close().unwrap();
    let Opened { mut store, .. } = open(dir.path(), no_wal()).unwrap();
    store.append(Record::Watermark { watermark: txn(39) });
    let kept = Write { key: "kept".into(), value: Some("prepared value".into()) };
    store.append(Record::Prepare { txn: txn(50), write: kept });
    store.close().unwrap();
    dir
}

/// Changes the bytes of the data file.
fn damage(dir: &TempDir, how: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(data(dir)).unwrap();
    how(&mut bytes);
    fs::write(data(dir), bytes).unwrap();
}

/// Replaces every occurrence of some bytes by others of the same length.
fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let mut found = false;
    for at in 0..=bytes.len() - from.len() {
        if &bytes[at..at + from.len()] == from {
            bytes[at..at + from.len()].copy_from_slice(to);
            found = true;
        }
    }
    assert!(found, "'{}' is in the file", from.escape_ascii());
}

#[test]
fn a_store_without_its_data_file_is_not_recreated() {
    let dir = filled();
    let bytes = fs::read(data(&dir)).unwrap();
    for options in [StoreOptions::default(), create()] {
        fs::remove_file(data(&dir)).unwrap();
        let error = refusal(dir.path(), options);
        assert!(matches!(error, StoreError::DataLost { state: "missing", .. }), "{error}");
        fs::write(data(&dir), "").unwrap();
        let error = refusal(dir.path(), options);
        assert!(matches!(error, StoreError::DataLost { state: "empty", .. }), "{error}");
    }
    fs::write(data(&dir), bytes).unwrap();
    open(dir.path(), StoreOptions::default()).unwrap();
}

#[test]
fn the_data_file_of_another_store_is_refused() {
    let (dir, other) = (filled(), filled());
    fs::copy(data(&other), data(&dir)).unwrap();
    let error = refusal(dir.path(), StoreOptions::default());
    assert!(matches!(error, StoreError::Swapped { .. }), "{error}");
}

#[test]
fn a_truncated_data_file_is_refused() {
    let dir = filled();
    let whole = fs::read(data(&dir)).unwrap();
    for len in (1..whole.len()).step_by(PAGE / 2) {
        fs::write(data(&dir), &whole[..len]).unwrap();
        let error = refusal(dir.path(), StoreOptions::default());
        match error {
            StoreError::Truncated { len: found, want, .. } => {
                assert_eq!(found, len as u64);
                assert!(want > found && want <= whole.len() as u64, "{error}");
            }
            StoreError::NotLmdb { .. } if len < 152 => {}
            _ => panic!("{len} bytes: {error}"),
        }
    }
    fs::write(data(&dir), whole).unwrap();
    open(dir.path(), StoreOptions::default()).unwrap();
}

/// Allocates pages at the end of a data file for a long value, and frees them unwritten.
fn allocate_and_free_pages(dir: &Path) {
    let mut options = EnvOpenOptions::new();
    options.map_size(1 << 20).max_dbs(1);
    // SAFETY: nobody else has the file open.
    #[expect(unsafe_code, reason = "LMDB maps the file")]
    let env = unsafe { options.open(dir) }.unwrap();
    // LMDB frees unwritten pages once it has had pages to reuse.
    for round in 0..5 {
        let txn = env.write_txn().unwrap();
        env.create_databases_and_commit(txn, |create, txn| {
            let table = create.create_database::<Bytes, Bytes>(txn, None)?;
            table.put(txn, b"x", &u64::to_be_bytes(round))?;
            if round == 4 {
                table.put(txn, b"long", &[b'v'; 16 * PAGE])?;
                table.delete(txn, b"long")?;
            }
            table.delete(txn, b"x")?;
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(table))
        })
        .unwrap();
    }
}

#[test]
fn a_file_may_end_before_its_last_page_if_those_pages_are_free() {
    let dir = TempDir::new().unwrap();
    let Opened { mut store, .. } = open(dir.path(), create()).unwrap();
    store.append(Record::Incarnation { incarnation: 1 });
    store.close().unwrap();
    allocate_and_free_pages(dir.path());
    let last_page = |bytes: &[u8]| {
        let meta = |at: usize| {
            let number = |at| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
            (number(at + 144), number(at + 136))
        };
        meta(0).max(meta(PAGE)).1
    };
    let bytes = fs::read(data(&dir)).unwrap();
    let (len, last) = (bytes.len() / PAGE, last_page(&bytes));
    assert!(len as u64 <= last, "{len} pages, but the last one used is {last}");
    let Opened { mut store, records, .. } = open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(records, [Record::Incarnation { incarnation: 1 }]);
    write(&mut store, 301, "k", vec![b'w'; 40 * PAGE]);
    store.close().unwrap();
    open(dir.path(), StoreOptions::default()).unwrap();
}

#[test]
fn invalid_meta_pages_are_refused() {
    let dir = filled();
    let whole = fs::read(data(&dir)).unwrap();
    // Magic, version, kind, and the transaction that tells which page is current.
    for at in [16, 20, 10, 144, 151] {
        for (bad, both) in [(&[0][..], false), (&[PAGE], false), (&[0, PAGE], true)] {
            if both && at >= 100 {
                continue;
            }
            fs::write(data(&dir), &whole).unwrap();
            damage(&dir, |bytes| bad.iter().for_each(|page| bytes[page + at] ^= 0x55));
            let error = refusal(dir.path(), StoreOptions::default());
            if both {
                assert!(matches!(error, StoreError::NotLmdb { .. }), "{at}: {error}");
                assert!(error.to_string().contains("both meta pages"), "{error}");
            } else {
                assert!(matches!(error, StoreError::Damaged { .. }), "{at}: {error}");
                assert!(error.to_string().contains("meta page"), "{error}");
            }
        }
    }
}

#[test]
fn a_used_page_in_the_free_list_is_refused() {
    fn number(bytes: &[u8], at: usize) -> u64 {
        u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    let dir = filled();
    let whole = fs::read(data(&dir)).unwrap();
    let meta = if number(&whole, 144) > number(&whole, PAGE + 144) { 0 } else { PAGE };
    let (free_root, main_root) = (number(&whole, meta + 80), number(&whole, meta + 128));

    // The last allocated page, decreased: LMDB would allocate the later ones again.
    damage(&dir, |bytes| bytes[meta + 136..][..8].copy_from_slice(&main_root.to_ne_bytes()));
    let error = refusal(dir.path(), StoreOptions::default());
    assert!(error.to_string().contains("in use, beyond the last allocated page"), "{error}");

    // The first free list: node header, key, count, and then the first page number.
    let page = free_root as usize * PAGE;
    let node = page + u16::from_ne_bytes([whole[page + 16], whole[page + 17]]) as usize;
    assert!(number(&whole, node + 16) > 0, "there are free pages");
    for taken in [main_root, free_root, 1, 1 << 40] {
        fs::write(data(&dir), &whole).unwrap();
        damage(&dir, |bytes| bytes[node + 24..][..8].copy_from_slice(&taken.to_ne_bytes()));
        let error = refusal(dir.path(), StoreOptions::default());
        assert!(
            error.to_string().contains(&format!("page {taken} is wrongly in the free list")),
            "{error}"
        );
    }
}

#[test]
fn a_store_of_another_format_is_refused() {
    let dir = filled();
    damage(&dir, |bytes| replace(bytes, b"\0store\0\0\0\x05", b"\0store\0\0\0\x01"));
    let error = refusal(dir.path(), StoreOptions::default());
    assert!(matches!(error, StoreError::Format { found: 1, expected: 5, .. }), "{error}");
}

#[test]
fn a_record_with_a_wrong_checksum_is_refused_on_open() {
    let dir = filled();
    damage(&dir, |bytes| replace(bytes, b"prepared value", b"prepared valux"));
    let error = refusal(dir.path(), StoreOptions::default());
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("record 't 7.50' is invalid: wrong checksum"), "{message}");
}

#[test]
fn a_value_with_a_wrong_checksum_is_refused_on_read() {
    let dir = filled();
    damage(&dir, |bytes| replace(bytes, b"needle40", b"needle4x"));
    damage(&dir, |bytes| replace(bytes, &[b'v'; 3 * PAGE], &[b'w'; 3 * PAGE]));
    let Opened { store, .. } = open(dir.path(), StoreOptions::default()).unwrap();
    assert!(store.get(&"key39".into()).unwrap().is_some());
    for key in ["key40", "long"] {
        let error = store.get(&key.into()).unwrap_err();
        assert!(matches!(error, StoreError::DamagedEntry { .. }), "{error}");
        let message = error.to_string();
        let expected = format!("key '{key}' is damaged: wrong checksum");
        assert!(message.contains(&expected), "{message}");
    }
    let read: Vec<_> = store.entries().unwrap().collect();
    assert_eq!(read.iter().filter(|entry| entry.is_ok()).count(), 39);
    assert!(
        matches!(read.last(), Some(Err(StoreError::DamagedEntry { .. }))),
        "the iterator ends at the error"
    );
}

#[test]
fn a_write_repairs_a_damaged_entry_whatever_its_version_has_become() {
    let dir = filled();
    // The version stands between the checksum and the value: 7.40 becomes 0xff..., later than any other.
    let version = |seq: u8| [&7_u64.to_be_bytes()[..], &u64::from(seq).to_be_bytes()].concat();
    let row = |version: &[u8]| [version, b"needle40"].concat();
    let high = [&[0xff; 8][..], &40_u64.to_be_bytes()].concat();
    damage(&dir, |bytes| replace(bytes, &row(&version(40)), &row(&high)));
    for (seq, value) in [(60, Some("repaired")), (61, None)] {
        let Opened { mut store, .. } = open(dir.path(), StoreOptions::default()).unwrap();
        if seq == 60 {
            assert!(matches!(store.get(&"key40".into()), Err(StoreError::DamagedEntry { .. })));
        }
        let write = Write { key: "key40".into(), value: value.map(Value::from) };
        store.append(Record::Prepare { txn: txn(seq), write });
        store.append(Record::Commit { txn: txn(seq) });
        let expected = value.map(|value| (txn(seq), Value::from(value)));
        assert_eq!(store.get(&"key40".into()).unwrap(), expected);
        store.close().unwrap();
        let Opened { store, .. } = open(dir.path(), StoreOptions::default()).unwrap();
        assert_eq!(store.get(&"key40".into()).unwrap(), expected);
    }
}

/// What a store holds.
type Contents = (Vec<Record>, Vec<(Key, Version, Value)>);

/// What a store holds, or the first error.
fn all(dir: &Path) -> Result<Contents, StoreError> {
    // Without a WAL, which would be read each time.
    let Opened { store, records, .. } = open(dir, no_wal())?;
    Ok((records, store.entries()?.collect::<Result<_, _>>()?))
}

#[test]
fn a_flipped_bit_is_detected_or_harmless() {
    let dir = filled();
    let whole = fs::read(data(&dir)).unwrap();
    let healthy = all(dir.path()).unwrap();
    let (mut found, mut harmless) = (0, 0);
    // A step without a common factor reaches every kind of location; the bit changes with it.
    for (round, at) in (0..whole.len()).step_by(37).enumerate() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (round % 8);
        fs::write(data(&dir), &bytes).unwrap();
        match all(dir.path()) {
            Ok(read) => {
                assert_eq!(read, healthy, "byte {at}, bit {}", round % 8);
                harmless += 1;
            }
            Err(_) => found += 1,
        }
    }
    assert!(found > 100 && harmless > 100, "{found} found, {harmless} harmless");
}

#[test]
fn a_full_map_stops_the_store_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let small = StoreOptions { map_bytes: 256 << 10, ..create() };
    let (report, reports) = mpsc::channel();
    let persisted = Box::new(move |durable| report.send(durable).unwrap());
    let Opened { mut store, .. } = Store::open(dir.path(), small, persisted).unwrap();
    let mut durable = 0;
    let error = loop {
        let seq = durable + 1;
        let lsn = write(&mut store, seq, &format!("key{seq}"), vec![b'v'; 1000]);
        store.force(lsn);
        match reports.recv_timeout(DEADLINE).expect("a report") {
            Ok(_) => durable = seq,
            Err(error) => break error,
        }
    };
    assert!(matches!(*error, StoreError::MapFull { map_bytes: 0x40000, .. }), "{error}");
    assert!(durable > 20, "only {durable} fit");

    let lsn = write(&mut store, durable + 2, "later", vec![]);
    store.force(lsn);
    let error = store.get(&"key1".into()).unwrap_err();
    assert!(matches!(error, StoreError::Failed(_)), "{error}");
    assert!(store.entries().is_err());
    assert!(store.close().is_err());
    assert!(reports.try_recv().is_err(), "no further report");

    let Opened { store, .. } =
        open(dir.path(), StoreOptions { map_bytes: 1 << 20, ..create() }).unwrap();
    assert_eq!(store.entries().unwrap().map(Result::unwrap).count(), durable as usize);
}

#[test]
fn a_directory_without_permission_is_refused() {
    let dir = filled();
    let allow = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let usual = fs::metadata(data(&dir)).unwrap().permissions().mode();
    allow(&data(&dir), 0o000);
    let ignored = fs::File::open(data(&dir)).is_ok();
    allow(&data(&dir), usual);
    if ignored {
        // Past the capture of the test harness, which would hide it.
        let why = "file permissions do not apply to this user, probably root";
        let _ = writeln!(io::stderr(), "skipped: {why}");
        return;
    }
    for (path, mode) in [(dir.path().to_owned(), 0o000), (data(&dir), 0o000), (data(&dir), 0o400)] {
        let usual = fs::metadata(&path).unwrap().permissions().mode();
        allow(&path, mode);
        let error = open(dir.path(), StoreOptions::default()).unwrap_err();
        allow(&path, usual);
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
        assert!(error.to_string().contains("grant the user of this process"), "{error}");
    }
    open(dir.path(), StoreOptions::default()).unwrap();
}

#[test]
fn a_write_with_a_lower_version_is_refused() {
    let dir = TempDir::new().unwrap();
    for (name, options) in [("tables", no_wal()), ("wal", StoreOptions::default())] {
        let (report, reports) = mpsc::channel();
        let persisted = Box::new(move |durable| report.send(durable).unwrap());
        let dir = dir.path().join(name);
        let options = StoreOptions { create: true, ..options };
        let Opened { mut store, .. } = Store::open(&dir, options, persisted).unwrap();
        let lsn = write(&mut store, 2, "k", b"later".to_vec());
        store.force(lsn);
        assert_eq!(reports.recv_timeout(DEADLINE).unwrap().unwrap(), lsn);
        let lsn = write(&mut store, 1, "k", b"earlier".to_vec());
        store.force(lsn);
        let error = reports.recv_timeout(DEADLINE).unwrap().unwrap_err();
        assert!(matches!(*error, StoreError::VersionOrder { .. }), "{error}");
        drop(store);
        let Opened { store, .. } = open(&dir, StoreOptions::default()).unwrap();
        assert_eq!(store.get(&"k".into()).unwrap(), Some((txn(2), "later".into())));
        store.close().unwrap();
    }

    // A conflict with the tables is found at the checkpoint, and on every open before it.
    let dir = dir.path().join("wal");
    let Opened { mut store, .. } = open(&dir, StoreOptions::default()).unwrap();
    write(&mut store, 1, "k", b"earlier".to_vec());
    let error = store.close().unwrap_err().to_string();
    assert!(error.contains("already has version 7.2"), "{error}");
    let error = open(&dir, StoreOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::VersionOrder { .. }), "{error}");
}

#[test]
fn the_store_of_a_node_is_refused_as_a_database() {
    // Records in the tables, and records in a WAL that a killed process has left.
    let killed = TempDir::new().unwrap();
    let running = TempDir::new().unwrap();
    let options = StoreOptions { create: true, ..StoreOptions::default() };
    let (report, reports) = mpsc::channel();
    let persisted = Box::new(move |durable| report.send(durable).unwrap());
    let Opened { mut store, .. } = Store::open(running.path(), options, persisted).unwrap();
    let lsn = write(&mut store, 1, "k", b"value".to_vec());
    store.force(lsn);
    assert_eq!(reports.recv_timeout(DEADLINE).unwrap().unwrap(), lsn);
    for file in ["LOCK", "data.mdb", "wal-0", "wal-1"] {
        fs::copy(running.path().join(file), killed.path().join(file)).unwrap();
    }
    for dir in [filled(), killed] {
        let before = contents(dir.path());
        let error = Database::open(dir.path(), StoreOptions::default()).unwrap_err();
        assert!(matches!(error, StoreError::ForeignRecords { .. }), "{error}");
        assert_eq!(contents(dir.path()), before, "a refusal must not change anything");
        open(dir.path(), StoreOptions::default()).unwrap();
    }
}

/// A key whose bytes rot leaves its entry unfindable. Only a comparison of the ranges shows that, unless somebody
/// asks for the key. A write of it removes what is left of the row.
#[test]
fn a_key_that_rots_is_missing_in_its_range_until_it_is_written() {
    let dir = filled();
    let below = TxnId::new(8, 0);
    let all = |store: &Store| store.summarize(None, None, 1000, below).unwrap();
    let Opened { store, .. } = open(dir.path(), no_wal()).unwrap();
    let whole = all(&store);
    assert_eq!((whole.rows, whole.upto.clone()), (41, Some("long".into())));
    let half = store.summarize(None, Some(&"key20".into()), 1000, below).unwrap();
    assert_eq!(half.rows, 20);
    let next = store.summarize(Some(&"key20".into()), None, 1, below).unwrap();
    assert_eq!((next.upto, next.version), (Some("key21".into()), Some(txn(21))));
    assert_eq!(store.summarize(None, None, 1000, txn(11)).unwrap().rows, 10, "versions below 7.11");
    store.close().unwrap();

    // 'key39' becomes 'key3y', and stays in its place: before 'key40', as "3y" < "40".
    damage(&dir, |bytes| replace(bytes, b"key39", b"key3y"));
    let Opened { mut store, .. } = open(dir.path(), no_wal()).unwrap();
    let rotten = all(&store);
    assert_eq!(rotten.rows, 40, "one is missing");
    assert_ne!(rotten.digest, whole.digest);
    assert!(matches!(store.get(&"key39".into()), Err(StoreError::DamagedEntry { .. })));
    assert!(store.entries().unwrap().any(|entry| entry.is_err()));
    // A page that may lack it is refused: those that end or begin beside it, too.
    let page = |store: &Store, from: &str, to: Option<&str>| {
        let (from, to) = (Key::from(from), to.map(Key::from));
        let size = PageSize { entries_max: 100, bytes_max: 1 << 20 };
        store.page(Bound::Included(&from), to.as_ref(), size).map(|page| page.entries.len())
    };
    assert_eq!(page(&store, "key01", Some("key38")).unwrap(), 37);
    for (from, to) in [("a", None), ("key38", Some("key39")), ("key40", None)] {
        match page(&store, from, to) {
            Err(StoreError::DamagedEntry { key, .. }) => assert_eq!(key, b"key39", "{from}"),
            other => panic!("{from}: {other:?}"),
        }
    }
    let copy = Record::Heal { key: "key39".into(), version: txn(39), value: "needle39".into() };
    let lsn = store.append(copy);
    let entries = |store: &Store| store.entries().unwrap().collect::<Result<Vec<_>, _>>();
    assert_eq!(entries(&store).expect("the copy replaces it").len(), 41);
    assert_eq!(page(&store, "a", None).expect("the copy replaces it"), 41);
    assert_eq!(page(&store, "key38", Some("key40")).expect("the copy replaces it"), 2);
    store.force(lsn);
    let deadline = std::time::Instant::now() + DEADLINE;
    while !store.checkpoint(lsn) {
        assert!(std::time::Instant::now() < deadline, "the checkpoint is done");
        std::thread::yield_now();
    }
    assert_eq!(all(&store), whole, "as before, without the rotten row");
    store.close().unwrap();
    let Opened { store, .. } = open(dir.path(), no_wal()).unwrap();
    assert_eq!(entries(&store).expect("intact").len(), 41);
}

/// A checkpoint that is asked for is made in the background, also when nothing is appended.
#[test]
fn a_checkpoint_can_be_asked_for() {
    let dir = TempDir::new().unwrap();
    let options = StoreOptions { create: true, ..StoreOptions::default() };
    let Opened { mut store, .. } = open(dir.path(), options).unwrap();
    let below = TxnId::new(8, 0);
    for round in 1..=3 {
        let lsn = write(&mut store, round, &format!("key{round}"), b"value".to_vec());
        let deadline = std::time::Instant::now() + DEADLINE;
        while !store.checkpoint(lsn) {
            assert!(std::time::Instant::now() < deadline, "the checkpoint is done");
            std::thread::yield_now();
        }
        assert_eq!(store.summarize(None, None, 1000, below).unwrap().rows, round);
    }
    assert!(store.checkpoints() >= 3);
    // Behind the tables: what was written since does not count until it is there.
    write(&mut store, 4, "key2", b"other".to_vec());
    assert_eq!(store.summarize(None, None, 1000, below).unwrap().rows, 2);
    store.close().unwrap();
    let Opened { store, .. } = open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(store.entries().unwrap().count(), 3);
}
