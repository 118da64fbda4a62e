//! The write-ahead log: one file of fixed size in which a group of records becomes durable with one
//! write and one sync, before the tables contain it. Knows the framing and what a crash can leave
//! of it, but not tables or threads.
//!
//! The file starts with a page that identifies the store. Frames follow it, each with the records
//! of one group:
//!
//! | bytes | |
//! |---|---|
//! | 4 | CRC-32 of the rest |
//! | 4 | length of the body |
//! | 8 | generation |
//! | 4 | CRC-32 of the previous frame in the generation, 0 for the first |
//! | | the body: for each record the length (1 byte) and the bytes of its key, the length (4 bytes) and the bytes of its value, encoded as in the rows of the tables |
//!
//! Frames are padded to whole pages, so that a page that holds durable data is not written again
//! before the next generation. All numbers are big-endian.
//!
//! When the next frame does not fit, the writer checkpoints: the tables take over everything in the
//! file and record its generation. Then the next generation starts at the front and overwrites the
//! previous one. The file is filled with zeros when it is created, so a sync never waits for more
//! than the pages of its own frame. If the file system supports it, frames bypass the page cache
//! (O_DIRECT), because they are not read again until the next start. A sync then waits for the disk
//! only.
//!
//! Invariants: no frame is written before the previous one is durable, so a crash leaves intact
//! frames followed by at most one torn frame. No generation starts before the tables contain the
//! previous one durably. Every other content is damage: an intact frame after a torn one, or a
//! generation that is ahead of the tables. Damage to the very last frame cannot be detected,
//! because it looks like a torn frame.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    ops::RangeBounds,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use crate::{
    RowError, Schema, StoreError, StoreId, SyncMode,
    environment::{self, PRIVATE_FILE},
};

/// The first bytes of the file.
const MAGIC: [u8; 8] = *b"2pc log\0";
/// Magic, store id, checksum of both.
const HEAD_BYTES: usize = 8 + 8 + 4;
/// The alignment of writes, in the file and in memory.
const PAGE: usize = 4096;
/// The offset of the first frame.
const FRAMES_AT: u64 = PAGE as u64;
/// Checksum, body length, generation, checksum of the previous frame.
const FRAME_HEAD_BYTES: usize = 4 + 4 + 8 + 4;

/// The write-ahead log of a store, open for appending.
#[derive(Debug)]
pub(crate) struct Wal {
    file: File,
    path: PathBuf,
    /// The length of the file. 0 if this process must not append: no frame fits then.
    len: u64,
    generation: u64,
    /// The offset of the next frame.
    offset: u64,
    /// The checksum of the last frame, 0 if there is none.
    last_sum: u32,
    /// The next frame.
    frame: Vec<u8>,
    /// An aligned buffer for the pages of the frame.
    pages: Vec<u8>,
    sync_mode: SyncMode,
}

impl Wal {
    /// Creates the WAL of a new store. Its content is durable, its directory entry is not. It has
    /// at least `bytes` bytes, rounded up to whole pages.
    pub(crate) fn create(path: &Path, id: StoreId, bytes: u64) -> Result<(), StoreError> {
        let write = || {
            let mut new = OpenOptions::new();
            let file = new.write(true).create_new(true).mode(PRIVATE_FILE).open(path)?;
            let mut head = [0; PAGE];
            head[..8].copy_from_slice(&MAGIC);
            head[8..16].copy_from_slice(&id.0.to_be_bytes());
            let sum = crc32fast::hash(&head[..16]);
            head[16..HEAD_BYTES].copy_from_slice(&sum.to_be_bytes());
            file.write_all_at(&head, 0)?;
            resize(&file, FRAMES_AT, rounded_size(bytes))
        };
        write().map_err(environment::io(path, "cannot create the WAL"))
    }

    /// Opens the WAL of a store whose tables contain everything up to generation `applied`, and
    /// reads the records that they do not contain. Further frames are appended after these.
    ///
    /// With `append` false (another process may be appending) no frame fits.
    pub(crate) fn open<S: Schema>(
        path: &Path,
        id: StoreId,
        applied: u64,
        append: bool,
        sync_mode: SyncMode,
    ) -> Result<(Wal, Vec<S::Record>), StoreError> {
        let io = |doing| environment::io(path, doing);
        let file = match open_direct(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let file = path.to_owned();
                return Err(StoreError::DataLost { file, store: id, state: "missing" });
            }
            open => open.map_err(io("cannot open the WAL"))?,
        };
        let bytes = std::fs::read(path).map_err(io("cannot read the WAL"))?;
        let damaged = |what: String| StoreError::Damaged { file: path.to_owned(), what };
        if bytes.is_empty() {
            let file = path.to_owned();
            return Err(StoreError::DataLost { file, store: id, state: "empty" });
        }
        match store_of(&bytes) {
            None => return Err(damaged("it does not name the store that it belongs to".into())),
            Some(found) if found != id => {
                return Err(StoreError::Swapped { file: path.to_owned(), found, expected: id });
            }
            Some(_) => {}
        }

        let generation = applied + 1;
        let mut wal = Wal {
            file,
            path: path.to_owned(),
            len: if append { bytes.len() as u64 } else { 0 },
            generation,
            offset: FRAMES_AT,
            last_sum: 0,
            frame: Vec::new(),
            pages: Vec::new(),
            sync_mode,
        };
        let mut records = Vec::new();
        while let Some(frame) = frame_at(&bytes, wal.offset, generation..) {
            if frame.generation > generation {
                let (ahead, applied) = (frame.generation - 1, applied);
                return Err(damaged(format!(
                    "it continues from generation {ahead}, but the tables contain generation \
                     {applied}: the records in between are lost"
                )));
            }
            if frame.previous_sum != wal.last_sum {
                break;
            }
            decode_body::<S>(frame.body, &mut records).map_err(|error| match error {
                RowError::Foreign => {
                    let dir = path.parent().unwrap_or(path).to_owned();
                    StoreError::ForeignRecords { dir }
                }
                RowError::Invalid(why) => {
                    damaged(format!("the frame at byte {} is invalid: {why}", wal.offset))
                }
            })?;
            wal.last_sum = frame.sum;
            wal.offset += frame.len;
        }
        let mut later = (wal.offset..bytes.len() as u64).step_by(PAGE).skip(1);
        if let Some(at) = later.find(|at| frame_at(&bytes, *at, generation..=generation).is_some())
        {
            return Err(damaged(format!(
                "the frame at byte {} is torn, but a later one at byte {at} is intact",
                wal.offset
            )));
        }
        Ok((wal, records))
    }

    /// Resizes the file, if it holds no frames and this process may append.
    pub(crate) fn resize(&mut self, bytes: u64) -> Result<(), StoreError> {
        let to = rounded_size(bytes);
        if self.is_empty() && self.len != 0 && self.len != to {
            let file = OpenOptions::new().write(true).open(&self.path);
            let resized = file.and_then(|file| resize(&file, self.len, to));
            resized.map_err(environment::io(&self.path, "cannot resize the WAL"))?;
            self.len = to;
        }
        Ok(())
    }

    /// Whether the tables contain everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.offset == FRAMES_AT
    }

    /// The current generation.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Builds the next frame from records. Returns false if it does not fit.
    pub(crate) fn prepare_frame<S: Schema>(&mut self, records: &[S::Record]) -> bool {
        let room = self.len.saturating_sub(self.offset);
        self.frame.clear();
        self.frame.resize(FRAME_HEAD_BYTES, 0);
        for record in records {
            encode_record::<S>(record, &mut self.frame);
            if self.frame.len().next_multiple_of(PAGE) as u64 > room {
                return false;
            }
        }
        let Ok(body) = u32::try_from(self.frame.len() - FRAME_HEAD_BYTES) else { return false };
        self.frame[4..8].copy_from_slice(&body.to_be_bytes());
        self.frame[8..16].copy_from_slice(&self.generation.to_be_bytes());
        self.frame[16..20].copy_from_slice(&self.last_sum.to_be_bytes());
        let sum = crc32fast::hash(&self.frame[4..]);
        self.frame[..4].copy_from_slice(&sum.to_be_bytes());
        true
    }

    /// Appends the frame built last, and syncs it.
    pub(crate) fn append_frame(&mut self) -> Result<(), StoreError> {
        let len = self.frame.len().next_multiple_of(PAGE);
        self.pages.resize(self.pages.len().max(len + PAGE), 0);
        let from = self.pages.as_ptr().align_offset(PAGE);
        let pages = &mut self.pages[from..from + len];
        pages[..self.frame.len()].copy_from_slice(&self.frame);
        pages[self.frame.len()..].fill(0);
        let written = self.file.write_all_at(pages, self.offset);
        written.map_err(environment::io(&self.path, "cannot write the WAL"))?;
        self.sync()?;
        self.last_sum = self.frame.first_chunk().map_or(0, |sum| u32::from_be_bytes(*sum));
        self.offset += len as u64;
        Ok(())
    }

    /// Makes the file durable, including what an earlier process wrote.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        if self.sync_mode == SyncMode::None {
            return Ok(());
        }
        self.file.sync_data().map_err(environment::io(&self.path, "cannot sync the WAL"))
    }

    /// Starts the next generation. The tables must durably contain this one.
    pub(crate) fn start_next_generation(&mut self) {
        self.generation += 1;
        self.offset = FRAMES_AT;
        self.last_sum = 0;
    }
}

/// Opens the file with O_DIRECT, if the file system supports it.
fn open_direct(path: &Path) -> io::Result<File> {
    let open = |flags: OFlag| {
        OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)
    };
    match open(OFlag::O_DIRECT) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => open(OFlag::empty()),
        open => open,
    }
}

/// Rounds a file size up to whole pages.
fn rounded_size(bytes: u64) -> u64 {
    bytes.next_multiple_of(FRAMES_AT).max(FRAMES_AT)
}

/// Fills the file with zeros up to a length, or truncates it, and makes that durable.
fn resize(file: &File, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    file.set_len(to)?;
    let mut at = from;
    while at < to {
        let len = (to - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..usize::try_from(len).unwrap_or(ZEROS.len())], at)?;
        at += len;
    }
    file.sync_all()
}

/// The store that the file belongs to, if it is a WAL.
fn store_of(bytes: &[u8]) -> Option<StoreId> {
    let head = bytes.get(..HEAD_BYTES)?;
    let (identity, sum) = head.split_at(HEAD_BYTES - 4);
    let id = identity.strip_prefix(&MAGIC)?;
    let intact = crc32fast::hash(identity).to_be_bytes() == sum;
    intact.then(|| id.try_into().map(u64::from_be_bytes).map(StoreId).ok())?
}

struct Frame<'a> {
    sum: u32,
    generation: u64,
    previous_sum: u32,
    body: &'a [u8],
    /// The length with padding.
    len: u64,
}

/// The frame at an offset, if it is intact and of one of these generations.
fn frame_at(bytes: &[u8], at: u64, generations: impl RangeBounds<u64>) -> Option<Frame<'_>> {
    let rest = bytes.get(usize::try_from(at).ok()?..)?;
    let (sum, rest) =
        rest.split_first_chunk().map(|(sum, rest)| (u32::from_be_bytes(*sum), rest))?;
    let (len, fields) = rest.split_first_chunk()?;
    let len = u32::from_be_bytes(*len) as usize;
    let (generation, fields) = fields.split_first_chunk()?;
    let (previous_sum, fields) = fields.split_first_chunk()?;
    let generation = u64::from_be_bytes(*generation);
    let body = fields.get(..len).filter(|_| generations.contains(&generation))?;
    let intact = crc32fast::hash(&rest[..FRAME_HEAD_BYTES - 4 + len]) == sum;
    intact.then(|| Frame {
        sum,
        generation,
        previous_sum: u32::from_be_bytes(*previous_sum),
        body,
        len: (FRAME_HEAD_BYTES + len).next_multiple_of(PAGE) as u64,
    })
}

fn encode_record<S: Schema>(record: &S::Record, into: &mut Vec<u8>) {
    let key = S::row_key(record);
    let key = key.as_bytes();
    into.push(u8::try_from(key.len()).expect("row keys have at most 17 bytes"));
    into.extend_from_slice(key);
    let len_at = into.len();
    into.extend_from_slice(&[0; 4]);
    S::encode(record, into);
    let len =
        u32::try_from(into.len() - len_at - 4).expect("the limits bound the length of values");
    into[len_at..len_at + 4].copy_from_slice(&len.to_be_bytes());
}

/// Decodes the records of a frame.
fn decode_body<S: Schema>(mut body: &[u8], records: &mut Vec<S::Record>) -> Result<(), RowError> {
    const TRUNCATED: &str = "a record is truncated";
    while let Some((len, rest)) = body.split_first() {
        let (key, rest) = rest.split_at_checked(usize::from(*len)).ok_or(TRUNCATED)?;
        let (len, rest) = rest.split_first_chunk().ok_or(TRUNCATED)?;
        let len = u32::from_be_bytes(*len) as usize;
        let (value, rest) = rest.split_at_checked(len).ok_or(TRUNCATED)?;
        records.push(S::decode(key, value)?);
        body = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::{RowKey, Write};

    const ID: StoreId = StoreId(7);
    const BYTES: u64 = 4 * FRAMES_AT;

    /// Records that are just a row key and a value.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
    struct Raw;

    type Record = (Vec<u8>, Vec<u8>);

    impl Schema for Raw {
        type Record = Record;
        type Facts = ();
        type Key = Vec<u8>;
        type Value = Vec<u8>;
        type Version = u64;

        fn apply((): &mut (), _: &Record) -> Option<Write<Self>> {
            None
        }

        fn restore((): &mut (), _: Record) {}

        fn records((): &()) -> impl Iterator<Item = &Record> {
            [].into_iter()
        }

        fn row_key((key, _): &Record) -> RowKey {
            RowKey::new(key[0], &key[1..])
        }

        fn encode((_, value): &Record, into: &mut Vec<u8>) {
            into.extend_from_slice(value);
        }

        fn decode(row_key: &[u8], value: &[u8]) -> Result<Record, RowError> {
            Ok((row_key.to_vec(), value.to_vec()))
        }

        fn version_to_bytes(version: u64) -> [u8; 16] {
            u128::from(version).to_be_bytes()
        }

        fn version_from_bytes(bytes: [u8; 16]) -> Option<u64> {
            u128::from_be_bytes(bytes).try_into().ok()
        }
    }

    fn counter(count: u64) -> Record {
        (b"b".to_vec(), count.to_be_bytes().to_vec())
    }

    fn put(seq: u64, value: &str) -> Record {
        let key = [&b"t"[..], &u128::from(seq).to_be_bytes()].concat();
        (key, format!("P..key{value}").into_bytes())
    }

    fn new() -> (TempDir, PathBuf) {
        let dir = TempDir::new().expect("temporary directory");
        let path = dir.path().join("log");
        Wal::create(&path, ID, BYTES).expect("a WAL");
        (dir, path)
    }

    fn open(path: &Path, applied: u64) -> Result<(Wal, Vec<Record>), StoreError> {
        Wal::open::<Raw>(path, ID, applied, true, SyncMode::All)
    }

    fn append(wal: &mut Wal, records: &[Record]) {
        assert!(wal.prepare_frame::<Raw>(records), "the frame fits");
        wal.append_frame().expect("written");
    }

    #[test]
    fn appended_frames_are_read_back_and_appending_continues() {
        let (_dir, path) = new();
        let (mut wal, records) = open(&path, 0).expect("a WAL");
        assert_eq!(records, []);
        let end = (b"d".to_vec(), Vec::new());
        append(&mut wal, &[counter(1), put(1, "a")]);
        append(&mut wal, std::slice::from_ref(&end));
        let (mut wal, records) = open(&path, 0).expect("a WAL");
        assert_eq!(records, [counter(1), put(1, "a"), end.clone()]);
        append(&mut wal, &[counter(2)]);
        let (_, records) = open(&path, 0).expect("a WAL");
        assert_eq!(records, [counter(1), put(1, "a"), end, counter(2)]);
    }

    #[test]
    fn a_frame_that_does_not_fit_is_not_written() {
        let (_dir, path) = new();
        let (mut wal, _) = open(&path, 0).expect("a WAL");
        let page = "v".repeat(PAGE);
        append(&mut wal, &[put(1, &page)]);
        assert!(!wal.prepare_frame::<Raw>(&[put(2, &page)]), "one of three pages is left");
        append(&mut wal, &[counter(9)]);
        assert!(!wal.prepare_frame::<Raw>(&[counter(10)]), "no page is left");
        let (mut wal, records) = open(&path, 0).expect("a WAL");
        assert_eq!(records.len(), 2);
        wal.start_next_generation();
        append(&mut wal, &[counter(10)]);
        // The remaining frames of the previous generation are ignored.
        let (wal, records) = open(&path, 1).expect("a WAL");
        assert_eq!((wal.generation(), records), (2, vec![counter(10)]));
    }

    #[test]
    fn a_torn_frame_is_ignored() {
        let (_dir, path) = new();
        let (mut wal, _) = open(&path, 0).expect("a WAL");
        append(&mut wal, &[counter(1)]);
        let from = usize::try_from(wal.offset).expect("a small file");
        append(&mut wal, &[put(1, "value"), put(2, "value")]);
        let to = from + wal.frame.len();
        let whole = fs::read(&path).expect("readable");
        for cut in from..to {
            let mut bytes = whole.clone();
            bytes[cut..].fill(0);
            fs::write(&path, bytes).expect("writable");
            let (mut wal, records) = open(&path, 0).expect("a WAL");
            assert_eq!(records, [counter(1)], "{cut}");
            append(&mut wal, &[counter(2)]);
            assert_eq!(open(&path, 0).expect("a WAL").1, [counter(1), counter(2)]);
        }
    }

    #[test]
    fn a_flipped_bit_before_the_last_frame_is_detected() {
        let (_dir, path) = new();
        let (mut wal, _) = open(&path, 0).expect("a WAL");
        append(&mut wal, &[put(1, "value")]);
        append(&mut wal, &[put(2, "value")]);
        let last = usize::try_from(wal.offset).expect("a small file");
        append(&mut wal, &[counter(1)]);
        let whole = fs::read(&path).expect("readable");
        let records = open(&path, 0).expect("a WAL").1;
        let (mut found, mut harmless) = (0, 0);
        // The frames, and part of their padding.
        for byte in (PAGE..last).filter(|byte| byte % PAGE < 128) {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[byte] ^= 1 << bit;
                fs::write(&path, bytes).expect("writable");
                match open(&path, 0) {
                    Err(StoreError::Damaged { .. }) => found += 1,
                    Err(error) => panic!("byte {byte}: {error}"),
                    // Padding is not checked.
                    Ok((_, read)) => {
                        assert_eq!(read, records, "byte {byte}");
                        harmless += 1;
                    }
                }
            }
        }
        assert!(found > 500 && harmless > 500, "{found}, {harmless}");
    }

    #[test]
    fn a_wal_ahead_of_the_tables_or_of_another_store_is_refused() {
        let (_dir, path) = new();
        let (mut wal, _) = open(&path, 0).expect("a WAL");
        append(&mut wal, &[counter(1)]);
        wal.start_next_generation();
        append(&mut wal, &[counter(2)]);
        let error = open(&path, 0).expect_err("a generation is missing").to_string();
        assert!(
            error.contains("continues from generation 1, but the tables contain generation 0"),
            "{error}"
        );
        let other = Wal::open::<Raw>(&path, StoreId(8), 1, true, SyncMode::All);
        assert!(matches!(other, Err(StoreError::Swapped { found: ID, .. })), "{other:?}");
        fs::write(&path, "").expect("writable");
        let error = open(&path, 0).expect_err("empty file");
        assert!(matches!(error, StoreError::DataLost { state: "empty", .. }), "{error}");
        fs::write(&path, "letter").expect("writable");
        let error = open(&path, 0).expect_err("not a WAL");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        fs::remove_file(&path).expect("removable");
        let error = open(&path, 0).expect_err("missing file");
        assert!(matches!(error, StoreError::DataLost { state: "missing", .. }), "{error}");
    }
}
