//! A directory whose write-ahead log holds arbitrary bytes. Called by libFuzzer and by
//! `tests/fuzz_targets.rs`.

use std::{collections::BTreeMap, fs, iter, path::Path, sync::OnceLock};

use store::{Database, StoreOptions, SyncMode};

/// The name of the log in a store's directory.
const LOG: &str = "log";
/// The first page says whose log it is. Frames follow, each in pages of its own.
const PAGE: usize = 4096;

/// Opening a store refuses what its log holds and changes nothing, or opens it; then opening it
/// again finds the same entries.
///
/// The first byte chooses whether the others are the log's bytes behind its first page, or the bodies
/// of frames with good checksums: no mutation of a frame would get past these.
pub(crate) fn target(bytes: &[u8]) {
    let Some((form, bytes)) = bytes.split_first() else { return };
    let template = template();
    let whole = &template[LOG];
    let log = if form % 2 == 0 { pages(whole, bytes) } else { frames(whole, bytes) };

    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in template {
        fs::write(directory.path().join(name), content).expect("a file can be written");
    }
    fs::write(directory.path().join(LOG), log).expect("a file can be written");
    let before = contents(directory.path());
    match entries(directory.path()) {
        Ok(found) => {
            let again = entries(directory.path()).expect("what was opened can be opened again");
            assert_eq!(again, found);
        }
        Err(refusal) => {
            assert_eq!(contents(directory.path()), before, "a refusal changes files: {refusal}");
        }
    }
}

/// A log of arbitrary pages.
fn pages(whole: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut log = whole[..PAGE].to_vec();
    log.extend_from_slice(bytes);
    log.resize(log.len().next_multiple_of(PAGE).max(whole.len()), 0);
    log
}

/// A log of frames with good checksums. Each body is preceded by its length, in two bytes.
fn frames(whole: &[u8], mut bytes: &[u8]) -> Vec<u8> {
    let mut log = whole[..PAGE].to_vec();
    // Length and checksum of a frame stand before its generation.
    let generation = &whole[PAGE + 8..PAGE + 16];
    let mut last = [0; 4];
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (body, rest) = rest.split_at(length);
        let mut frame = u32::try_from(length).expect("from two bytes").to_be_bytes().to_vec();
        frame.extend_from_slice(generation);
        frame.extend_from_slice(&last);
        frame.extend_from_slice(body);
        last = crc32fast::hash(&frame).to_be_bytes();
        log.extend(last);
        log.extend(frame);
        log.resize(log.len().next_multiple_of(PAGE), 0);
        bytes = rest;
    }
    log.resize(log.len().max(whole.len()), 0);
    log
}

/// The files of a store with a few entries, all of them in its log.
fn template() -> &'static BTreeMap<String, Vec<u8>> {
    static TEMPLATE: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let options = StoreOptions { create: true, ..options() };
        let database = Database::open(directory.path(), options).expect("a new database");
        for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            database.put(key.as_bytes(), value.as_bytes()).expect("an entry can be written");
        }
        database.close().expect("a database can be closed");
        contents(directory.path())
    })
}

fn options() -> StoreOptions {
    StoreOptions {
        map_bytes: 1 << 20,
        wal_bytes: 16 << 10,
        sync_mode: SyncMode::None,
        ..StoreOptions::default()
    }
}

/// What a store holds, or why it cannot be opened. An entry that is damaged is an error of its own.
fn entries(directory: &Path) -> Result<Vec<String>, String> {
    let database = Database::open(directory, options()).map_err(|error| error.to_string())?;
    let mut entries = database.entries().expect("an open database");
    let found = iter::from_fn(|| entries.next()).map(|entry| format!("{entry:?}")).collect();
    drop(entries);
    database.close().expect("a database can be closed");
    Ok(found)
}

/// Every file of a directory but LMDB's lock file, whose content does not count.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(directory).expect("a directory").map(|file| file.expect("a file"));
    files
        .map(|file| (file.file_name().into_string().expect("UTF-8"), file.path()))
        .filter(|(name, _)| name != "lock.mdb")
        .map(|(name, path)| (name, fs::read(path).expect("a file can be read")))
        .collect()
}
