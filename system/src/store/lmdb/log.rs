//! The log: one file of fixed size in which a commit is durable with one write and one sync, before
//! the tables have it. Knows how records are framed, and what a crash can leave of them; nothing of
//! tables or threads.
//!
//! The file begins with a page that says whose it is. Frames follow it, each the records of one
//! commit:
//!
//! | bytes | |
//! |---|---|
//! | 4 | CRC-32 of the rest |
//! | 4 | length of the body |
//! | 8 | generation |
//! | 4 | CRC-32 of the frame before in its generation, 0 for the first |
//! | | the body: for each record the length (1 byte) and the bytes of its key, the length (4 bytes) and the bytes of what it says, as the rows of the tables have them |
//!
//! filled up to whole pages, so that a page that holds something durable is never written again
//! before the next generation. All numbers are big-endian.
//!
//! When the next frame does not fit, all of the file is applied to the tables, and they say which
//! generation they have come to; then the next generation begins at the front and overwrites what is
//! there. The room was written once, when the file was made: a sync never waits for more than the
//! frame's own pages. And these go to the disk past the page cache, where the file system offers it,
//! for nobody reads them again: so a sync waits for the disk alone.
//!
//! Invariants: no frame is written before the one before it is durable, so a crash leaves whole
//! frames and at most one, the last, that is not; and no generation begins before the tables have
//! the one before durably. So whatever else is found is damage: a whole frame behind one that is
//! not, or a generation that is ahead of the tables. What cannot be told is damage to the very last
//! frame: it looks like one that was cut short.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    ops::RangeBounds,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use super::{
    super::{StoreError, fold::Slot},
    SyncMode, environment,
    rows::{self, FactKey},
};
use crate::protocol::{Record, StoreId};

/// What the file begins with.
const MAGIC: [u8; 8] = *b"2pc log\0";
/// Magic, store id, checksum of both.
const HEAD_BYTES: usize = 8 + 8 + 4;
/// What is written begins and ends with pages of this size, in the file as in memory.
const PAGE: usize = 4096;
/// Where the frames begin.
const FRAMES_AT: u64 = PAGE as u64;
/// Checksum, length, generation, checksum of the frame before.
const FRAME_HEAD_BYTES: usize = 4 + 4 + 8 + 4;

/// The log of a store, open to append.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
    /// Where the file ends, or ends for this process: nothing is appended if there is no room.
    end: u64,
    generation: u64,
    /// Where the next frame goes.
    at: u64,
    /// The checksum of the last frame, 0 if there is none.
    last: u32,
    /// The frame to append next.
    frame: Vec<u8>,
    /// Room for whole pages of it.
    pages: Vec<u8>,
    syncs: SyncMode,
}

impl Log {
    /// Makes the log of a new store, durably but for its name. It has so many bytes, or just enough
    /// to say whose it is.
    pub(super) fn create(path: &Path, id: StoreId, bytes: u64) -> Result<(), StoreError> {
        let write = || {
            let file = File::create_new(path)?;
            let mut head = [0; PAGE];
            head[..8].copy_from_slice(&MAGIC);
            head[8..16].copy_from_slice(&id.0.to_be_bytes());
            let sum = crc32fast::hash(&head[..16]);
            head[16..HEAD_BYTES].copy_from_slice(&sum.to_be_bytes());
            file.write_all_at(&head, 0)?;
            resize(&file, FRAMES_AT, size(bytes))
        };
        write().map_err(environment::io(path, "cannot make the log"))
    }

    /// Opens the log of a store whose tables have come to a generation, and reads the records that
    /// they do not have. What is appended from now on follows these.
    ///
    /// Where nobody may append (there may be another who does) it has no room.
    pub(super) fn open(
        path: &Path,
        id: StoreId,
        applied: u64,
        append: bool,
        syncs: SyncMode,
    ) -> Result<(Log, Vec<Record>), StoreError> {
        let io = |doing| environment::io(path, doing);
        let file = match open_direct(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let file = path.to_owned();
                return Err(StoreError::DataLost { file, store: id, state: "missing" });
            }
            open => open.map_err(io("cannot open the log"))?,
        };
        let found = std::fs::read(path).map_err(io("cannot read the log"))?;
        let damaged = |what: String| StoreError::Damaged { file: path.to_owned(), what };
        if found.is_empty() {
            let file = path.to_owned();
            return Err(StoreError::DataLost { file, store: id, state: "empty" });
        }
        match owner(&found) {
            None => return Err(damaged("it does not say which store it belongs to".into())),
            Some(found) if found != id => {
                return Err(StoreError::Swapped { file: path.to_owned(), found, expected: id });
            }
            Some(_) => {}
        }

        let generation = applied + 1;
        let mut log = Log {
            file,
            path: path.to_owned(),
            end: if append { found.len() as u64 } else { 0 },
            generation,
            at: FRAMES_AT,
            last: 0,
            frame: Vec::new(),
            pages: Vec::new(),
            syncs,
        };
        let mut records = Vec::new();
        while let Some(frame) = frame_at(&found, log.at, generation..) {
            if frame.generation > generation {
                let (ahead, applied) = (frame.generation - 1, applied);
                return Err(damaged(format!(
                    "it goes on from generation {ahead}, and the tables have come to {applied}: \
                     what lies between is lost"
                )));
            }
            if frame.before != log.last {
                break;
            }
            read_body(frame.body, &mut records)
                .map_err(|why| damaged(format!("the frame at byte {} is bad: {why}", log.at)))?;
            log.last = frame.sum;
            log.at += frame.len;
        }
        let mut later = (log.at..found.len() as u64).step_by(PAGE).skip(1);
        if let Some(at) = later.find(|at| frame_at(&found, *at, generation..=generation).is_some())
        {
            return Err(damaged(format!(
                "the frame at byte {} is bad, and one that was written later, at byte {at}, is \
                 whole",
                log.at
            )));
        }
        Ok((log, records))
    }

    /// Gives the log another size, if nothing is in it and anything may be appended.
    pub(super) fn resize(&mut self, bytes: u64) -> Result<(), StoreError> {
        let to = size(bytes);
        if self.is_empty() && self.end != 0 && self.end != to {
            let file = OpenOptions::new().write(true).open(&self.path);
            let resized = file.and_then(|file| resize(&file, self.end, to));
            resized.map_err(environment::io(&self.path, "cannot change the size of the log"))?;
            self.end = to;
        }
        Ok(())
    }

    /// Whether nothing is in the log that the tables may not have.
    pub(super) fn is_empty(&self) -> bool {
        self.at == FRAMES_AT
    }

    /// The generation that frames are appended to.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Makes a frame of records, to be appended next. False: there is no room for it.
    pub(super) fn frame(&mut self, records: &[Record]) -> bool {
        let room = self.end.saturating_sub(self.at);
        self.frame.clear();
        self.frame.resize(FRAME_HEAD_BYTES, 0);
        for record in records {
            write_record(record, &mut self.frame);
            if self.frame.len().next_multiple_of(PAGE) as u64 > room {
                return false;
            }
        }
        let Ok(body) = u32::try_from(self.frame.len() - FRAME_HEAD_BYTES) else { return false };
        self.frame[4..8].copy_from_slice(&body.to_be_bytes());
        self.frame[8..16].copy_from_slice(&self.generation.to_be_bytes());
        self.frame[16..20].copy_from_slice(&self.last.to_be_bytes());
        let sum = crc32fast::hash(&self.frame[4..]);
        self.frame[..4].copy_from_slice(&sum.to_be_bytes());
        true
    }

    /// Appends the frame that was made last, durably.
    pub(super) fn append(&mut self) -> Result<(), StoreError> {
        let len = self.frame.len().next_multiple_of(PAGE);
        self.pages.resize(self.pages.len().max(len + PAGE), 0);
        let from = self.pages.as_ptr().align_offset(PAGE);
        let pages = &mut self.pages[from..from + len];
        pages[..self.frame.len()].copy_from_slice(&self.frame);
        pages[self.frame.len()..].fill(0);
        let written = self.file.write_all_at(pages, self.at);
        written.map_err(environment::io(&self.path, "cannot write the log"))?;
        self.sync()?;
        self.last = self.frame.first_chunk().map_or(0, |sum| u32::from_be_bytes(*sum));
        self.at += len as u64;
        Ok(())
    }

    /// Makes durable what is there, whoever has written it.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        if self.syncs == SyncMode::None {
            return Ok(());
        }
        self.file.sync_data().map_err(environment::io(&self.path, "cannot sync the log"))
    }

    /// The tables have everything that was appended, durably: begins the next generation.
    pub(super) fn restart(&mut self) {
        self.generation += 1;
        self.at = FRAMES_AT;
        self.last = 0;
    }
}

/// Opens a log so that what is written goes past the page cache, if the file system offers it.
fn open_direct(path: &Path) -> io::Result<File> {
    let open = |flags: OFlag| {
        OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)
    };
    match open(OFlag::O_DIRECT) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => open(OFlag::empty()),
        open => open,
    }
}

/// The size of a log that is to have about so many bytes.
fn size(bytes: u64) -> u64 {
    bytes.next_multiple_of(FRAMES_AT).max(FRAMES_AT)
}

/// Writes the room of a log once, or cuts it off, and makes that durable.
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

/// The store that a log belongs to, if it is one.
fn owner(log: &[u8]) -> Option<StoreId> {
    let head = log.get(..HEAD_BYTES)?;
    let (said, sum) = head.split_at(HEAD_BYTES - 4);
    let id = said.strip_prefix(&MAGIC)?;
    let whole = crc32fast::hash(said).to_be_bytes() == sum;
    whole.then(|| id.try_into().map(u64::from_be_bytes).map(StoreId).ok())?
}

struct Frame<'a> {
    sum: u32,
    generation: u64,
    before: u32,
    body: &'a [u8],
    /// With all that fills it up.
    len: u64,
}

/// The frame that begins here, if it is whole and of one of these generations.
fn frame_at(log: &[u8], at: u64, generations: impl RangeBounds<u64>) -> Option<Frame<'_>> {
    let rest = log.get(usize::try_from(at).ok()?..)?;
    let (sum, rest) =
        rest.split_first_chunk().map(|(sum, rest)| (u32::from_be_bytes(*sum), rest))?;
    let (len, fields) = rest.split_first_chunk()?;
    let len = u32::from_be_bytes(*len) as usize;
    let (generation, fields) = fields.split_first_chunk()?;
    let (before, fields) = fields.split_first_chunk()?;
    let generation = u64::from_be_bytes(*generation);
    let body = fields.get(..len).filter(|_| generations.contains(&generation))?;
    let whole = crc32fast::hash(&rest[..FRAME_HEAD_BYTES - 4 + len]) == sum;
    whole.then(|| Frame {
        sum,
        generation,
        before: u32::from_be_bytes(*before),
        body,
        len: (FRAME_HEAD_BYTES + len).next_multiple_of(PAGE) as u64,
    })
}

fn write_record(record: &Record, into: &mut Vec<u8>) {
    let key = FactKey::from(Slot::of(record));
    let key = key.as_bytes();
    into.push(u8::try_from(key.len()).expect("keys of facts are short"));
    into.extend_from_slice(key);
    let len_at = into.len();
    into.extend_from_slice(&[0; 4]);
    rows::encode_record(record, into);
    let len = u32::try_from(into.len() - len_at - 4).expect("limits keep values short");
    into[len_at..len_at + 4].copy_from_slice(&len.to_be_bytes());
}

/// Reads the records of a frame.
fn read_body(mut body: &[u8], records: &mut Vec<Record>) -> Result<(), &'static str> {
    const CUT: &str = "a record is cut off";
    while let Some((len, rest)) = body.split_first() {
        let (key, rest) = rest.split_at_checked(usize::from(*len)).ok_or(CUT)?;
        let (len, rest) = rest.split_first_chunk().ok_or(CUT)?;
        let len = u32::from_be_bytes(*len) as usize;
        let (said, rest) = rest.split_at_checked(len).ok_or(CUT)?;
        records.push(rows::decode_record(key, said)?);
        body = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::protocol::{TxnId, Write};

    const ID: StoreId = StoreId(7);
    const BYTES: u64 = 4 * FRAMES_AT;

    fn incarnation(incarnation: u64) -> Record {
        Record::Incarnation { incarnation }
    }

    fn put(seq: u64, value: &str) -> Record {
        let write = Write { key: "key".into(), value: Some(value.into()) };
        Record::Prepare { txn: TxnId::new(1, seq), write }
    }

    fn new() -> (TempDir, PathBuf) {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("log");
        Log::create(&path, ID, BYTES).expect("a log");
        (dir, path)
    }

    fn open(path: &Path, applied: u64) -> Result<(Log, Vec<Record>), StoreError> {
        Log::open(path, ID, applied, true, SyncMode::All)
    }

    fn append(log: &mut Log, records: &[Record]) {
        assert!(log.frame(records), "there is room");
        log.append().expect("the disk takes it");
    }

    #[test]
    fn what_was_appended_is_read_and_what_comes_next_follows_it() {
        let (_dir, path) = new();
        let (mut log, records) = open(&path, 0).expect("a log");
        assert_eq!(records, []);
        let end = Record::End { txn: TxnId::new(1, 2) };
        append(&mut log, &[incarnation(1), put(1, "a")]);
        append(&mut log, std::slice::from_ref(&end));
        let (mut log, records) = open(&path, 0).expect("a log");
        assert_eq!(records, [incarnation(1), put(1, "a"), end.clone()]);
        append(&mut log, &[incarnation(2)]);
        let (_, records) = open(&path, 0).expect("a log");
        assert_eq!(records, [incarnation(1), put(1, "a"), end, incarnation(2)]);
    }

    #[test]
    fn a_frame_that_does_not_fit_is_not_written() {
        let (_dir, path) = new();
        let (mut log, _) = open(&path, 0).expect("a log");
        let page = "v".repeat(PAGE);
        append(&mut log, &[put(1, &page)]);
        assert!(!log.frame(&[put(2, &page)]), "one page is left of three");
        append(&mut log, &[incarnation(9)]);
        assert!(!log.frame(&[incarnation(10)]), "none is left");
        let (mut log, records) = open(&path, 0).expect("a log");
        assert_eq!(records.len(), 2);
        log.restart();
        append(&mut log, &[incarnation(10)]);
        // What is left of the generation before means nothing.
        let (log, records) = open(&path, 1).expect("a log");
        assert_eq!((log.generation(), records), (2, vec![incarnation(10)]));
    }

    #[test]
    fn of_a_frame_that_was_cut_short_anywhere_nothing_is_read() {
        let (_dir, path) = new();
        let (mut log, _) = open(&path, 0).expect("a log");
        append(&mut log, &[incarnation(1)]);
        let from = usize::try_from(log.at).expect("a small file");
        append(&mut log, &[put(1, "value"), put(2, "value")]);
        let to = from + log.frame.len();
        let whole = fs::read(&path).expect("readable");
        for cut in from..to {
            let mut bytes = whole.clone();
            bytes[cut..].fill(0);
            fs::write(&path, bytes).expect("writable");
            let (mut log, records) = open(&path, 0).expect("a log");
            assert_eq!(records, [incarnation(1)], "{cut}");
            append(&mut log, &[incarnation(2)]);
            assert_eq!(open(&path, 0).expect("a log").1, [incarnation(1), incarnation(2)]);
        }
    }

    #[test]
    fn a_bit_changed_before_the_last_frame_is_found() {
        let (_dir, path) = new();
        let (mut log, _) = open(&path, 0).expect("a log");
        append(&mut log, &[put(1, "value")]);
        append(&mut log, &[put(2, "value")]);
        let last = usize::try_from(log.at).expect("a small file");
        append(&mut log, &[incarnation(1)]);
        let whole = fs::read(&path).expect("readable");
        let records = open(&path, 0).expect("a log").1;
        let (mut found, mut harmless) = (0, 0);
        // The frames, and a little of what fills them up.
        for byte in (PAGE..last).filter(|byte| byte % PAGE < 128) {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[byte] ^= 1 << bit;
                fs::write(&path, bytes).expect("writable");
                match open(&path, 0) {
                    Err(StoreError::Damaged { .. }) => found += 1,
                    Err(error) => panic!("byte {byte}: {error}"),
                    // What fills frames up says nothing.
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
    fn a_log_that_is_ahead_of_the_tables_or_of_another_store_is_refused() {
        let (_dir, path) = new();
        let (mut log, _) = open(&path, 0).expect("a log");
        append(&mut log, &[incarnation(1)]);
        log.restart();
        append(&mut log, &[incarnation(2)]);
        let error = open(&path, 0).expect_err("what lies between is lost").to_string();
        assert!(
            error.contains("goes on from generation 1, and the tables have come to 0"),
            "{error}"
        );
        let other = Log::open(&path, StoreId(8), 1, true, SyncMode::All);
        assert!(matches!(other, Err(StoreError::Swapped { found: ID, .. })), "{other:?}");
        fs::write(&path, "").expect("writable");
        let error = open(&path, 0).expect_err("it is empty");
        assert!(matches!(error, StoreError::DataLost { state: "empty", .. }), "{error}");
        fs::write(&path, "letter").expect("writable");
        let error = open(&path, 0).expect_err("it is no log");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        fs::remove_file(&path).expect("removable");
        let error = open(&path, 0).expect_err("it is missing");
        assert!(matches!(error, StoreError::DataLost { state: "missing", .. }), "{error}");
    }
}
