//! A directory whose write-ahead log holds arbitrary bytes. Called by libFuzzer and by
//! `tests/fuzz_targets.rs`.

use std::{collections::BTreeMap, fs, iter, path::Path, slice, sync::OnceLock};

use store::{Database, StoreOptions, SyncMode};
use tempfile::TempDir;

/// The segment of generation 1, which is the first one.
const SEGMENT: &str = "wal-1";
/// The first page says whose segment it is. Frames follow, each in pages of its own.
const PAGE: usize = 4096;
/// Generation, salt, frame, index, checksum of the page before, and length of the body, after the page's
/// own checksum.
const HEADER: usize = 40;

/// Opening a store refuses what its log holds and changes nothing, or opens it; then opening it
/// again finds the same entries.
///
/// The first byte chooses what the others are: the segment's bytes behind its first page; the bodies of
/// frames of the right salt, with good checksums; or such frames, with changes to their headers under
/// good checksums. No mutation of a page would get past these.
pub(crate) fn target(bytes: &[u8]) {
    let directory = store_of(bytes);
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

/// The store that the target opens for an input.
pub(crate) fn store_of(bytes: &[u8]) -> TempDir {
    let (form, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let template = template();
    let whole = &template[SEGMENT];
    let segment = match form % 3 {
        0 => pages(whole, bytes),
        1 => frames(whole, bytes, &mut [].iter()),
        _ => {
            let (changes, bytes) = bytes.split_at(bytes.len().min(24));
            frames(whole, bytes, &mut changes.iter())
        }
    };
    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in template {
        fs::write(directory.path().join(name), content).expect("a file can be written");
    }
    fs::write(directory.path().join(SEGMENT), segment).expect("a file can be written");
    directory
}

/// A segment of arbitrary pages.
fn pages(whole: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut segment = whole[..PAGE].to_vec();
    segment.extend_from_slice(bytes);
    segment.resize(segment.len().next_multiple_of(PAGE).max(whole.len()), 0);
    segment
}

/// A segment of frames with good checksums. Each body is preceded by its length, in two bytes. Each page
/// takes three bytes of `changes`, while there are any: where its header is changed, how, and whether.
fn frames(whole: &[u8], mut bytes: &[u8], changes: &mut slice::Iter<'_, u8>) -> Vec<u8> {
    let mut segment = whole[..PAGE].to_vec();
    let generation_and_salt = &whole[PAGE + 8..PAGE + 24];
    let mut previous = [0; 4];
    let mut frame: u64 = 0;
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (body, rest) = rest.split_at(length);
        // An empty frame is a seal, of two pages.
        let parts = body.len().div_ceil(PAGE - HEADER).max(if body.is_empty() { 2 } else { 1 });
        for index in 0..parts {
            let part = body.chunks(PAGE - HEADER).nth(index).unwrap_or_default();
            let mut page = u32::try_from(index).expect("few pages").to_be_bytes().to_vec();
            page.extend_from_slice(generation_and_salt);
            page.extend_from_slice(&frame.to_be_bytes());
            page.extend_from_slice(&previous);
            page.extend_from_slice(&u32::try_from(length).expect("from two bytes").to_be_bytes());
            page.extend_from_slice(part);
            page.resize(PAGE - 4, 0);
            let mut change = || changes.next().copied().unwrap_or_default();
            let (at, how, whether) = (change(), change(), change());
            if whether % 2 == 1 {
                page[usize::from(at) % (HEADER - 4)] ^= how;
            }
            previous = crc32c::crc32c(&page).to_be_bytes();
            segment.extend(previous);
            segment.extend(page);
        }
        frame += 1;
        bytes = rest;
    }
    segment.resize(segment.len().max(whole.len()), 0);
    segment
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
        // Closing would move them to the tables.
        contents(directory.path())
    })
}

fn options() -> StoreOptions {
    StoreOptions {
        map_bytes: 1 << 20,
        wal_bytes: 64 << 10,
        sync_mode: SyncMode::None,
        ..StoreOptions::default()
    }
}

/// What a store holds, or why it cannot be opened. An entry that is damaged is an error of its own.
pub(crate) fn entries(directory: &Path) -> Result<Vec<String>, String> {
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
