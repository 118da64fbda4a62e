//! A segment of the write-ahead log: a file of fixed size that holds the frames of one generation at
//! a time. Creates, opens, resizes, writes and syncs it. Does not know what the pages mean.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use super::page::PAGE;
use crate::{
    StoreError, StoreId, SyncMode,
    environment::{self, PRIVATE_FILE},
};

/// The names of the segments in the directory. Those of even generations are in the first.
pub(crate) const SEGMENT_FILES: [&str; 2] = ["wal-0", "wal-1"];
/// The first bytes of a segment.
const MAGIC: [u8; 8] = *b"2pc wal\0";
/// Magic, store id, number of the segment, checksum of these.
const HEAD_BYTES: usize = 8 + 8 + 4 + 4;
/// The offset of the first frame.
pub(super) const FRAMES_AT: u64 = PAGE as u64;

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    path: PathBuf,
    /// The length of the file.
    len: u64,
    sync_mode: SyncMode,
}

/// Creates the segments of a new WAL, or replaces those of a store that does not use them yet. Their
/// content is durable, their directory entries are not. Each has at least `bytes` bytes, rounded up
/// to whole pages.
pub(crate) fn create(dir: &Path, id: StoreId, bytes: u64) -> Result<(), StoreError> {
    for (number, name) in (0..).zip(SEGMENT_FILES) {
        let path = dir.join(name);
        let write = || {
            let mut new = OpenOptions::new();
            let file =
                new.write(true).create(true).truncate(true).mode(PRIVATE_FILE).open(&path)?;
            file.write_all_at(&head(id, number), 0)?;
            resize(&file, FRAMES_AT, rounded_size(bytes))
        };
        write().map_err(environment::io(&path, "cannot create the WAL"))?;
    }
    Ok(())
}

impl Segment {
    /// Opens a segment and reads all of it.
    pub(super) fn open(
        dir: &Path,
        id: StoreId,
        number: usize,
        sync_mode: SyncMode,
    ) -> Result<(Segment, Vec<u8>), StoreError> {
        let path = dir.join(SEGMENT_FILES[number]);
        let io = |doing| environment::io(&path, doing);
        let lost = |state| StoreError::DataLost { file: path.clone(), store: id, state };
        let file = match open_direct(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(lost("missing")),
            open => open.map_err(io("cannot open the WAL"))?,
        };
        let bytes = std::fs::read(&path).map_err(io("cannot read the WAL"))?;
        if bytes.is_empty() {
            return Err(lost("empty"));
        }
        match store_of(&bytes) {
            Some((found, at)) if found == id && at == number as u32 => {}
            Some((found, _)) if found != id => {
                return Err(StoreError::Swapped { file: path.clone(), found, expected: id });
            }
            Some(_) => {
                let what = "it is the other segment of this store".to_owned();
                return Err(StoreError::Damaged { file: path, what });
            }
            None => {
                let what = "it does not name the store that it belongs to".to_owned();
                return Err(StoreError::Damaged { file: path, what });
            }
        }
        let len = bytes.len() as u64;
        Ok((Segment { file, path, len, sync_mode }, bytes))
    }

    /// The length of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The file was enlarged.
    pub(super) fn set_len(&mut self, len: u64) {
        self.len = len;
    }

    /// The path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Resizes the file, which must not hold frames that are still needed.
    pub(super) fn resize(&mut self, bytes: u64) -> Result<(), StoreError> {
        let to = rounded_size(bytes);
        if self.len != to {
            let file = OpenOptions::new().write(true).open(&self.path);
            let resized = file.and_then(|file| resize(&file, self.len, to));
            resized.map_err(environment::io(&self.path, "cannot resize the WAL"))?;
            self.len = to;
        }
        Ok(())
    }

    /// Reads whole pages into an aligned buffer.
    pub(super) fn read(&self, pages: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let read = self.file.read_exact_at(pages, offset);
        read.map_err(environment::io(&self.path, "cannot read the WAL"))
    }

    /// Writes whole pages from an aligned buffer.
    pub(super) fn write(&self, pages: &[u8], offset: u64) -> Result<(), StoreError> {
        let written = self.file.write_all_at(pages, offset);
        written.map_err(environment::io(&self.path, "cannot write the WAL"))
    }

    /// Makes the file durable, including what an earlier process wrote.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        if self.sync_mode == SyncMode::None {
            return Ok(());
        }
        self.file.sync_data().map_err(environment::io(&self.path, "cannot sync the WAL"))
    }
}

/// The first page of a segment.
fn head(id: StoreId, number: u32) -> [u8; PAGE] {
    let mut head = [0; PAGE];
    head[..8].copy_from_slice(&MAGIC);
    head[8..16].copy_from_slice(&id.0.to_be_bytes());
    head[16..20].copy_from_slice(&number.to_be_bytes());
    let sum = crc32c::crc32c(&head[..20]);
    head[20..HEAD_BYTES].copy_from_slice(&sum.to_be_bytes());
    head
}

/// The store that a file belongs to and its number, if it is a segment.
fn store_of(bytes: &[u8]) -> Option<(StoreId, u32)> {
    let (identity, sum) = bytes.get(..HEAD_BYTES)?.split_at(HEAD_BYTES - 4);
    let (id, number) = identity.strip_prefix(&MAGIC)?.split_first_chunk()?;
    let number = u32::from_be_bytes(number.try_into().ok()?);
    let intact = crc32c::crc32c(identity).to_be_bytes() == sum;
    intact.then_some((StoreId(u64::from_be_bytes(*id)), number))
}

/// Opens the file with O_DIRECT, if the file system supports it: frames are not read again until the
/// next start, and a sync then waits for the disk only.
fn open_direct(path: &Path) -> io::Result<File> {
    let open = |flags: OFlag| {
        OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)
    };
    match open(OFlag::O_DIRECT) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => open(OFlag::empty()),
        open => open,
    }
}

/// Enlarges a segment that holds no frames which are still needed. Returns its new length, which is the old
/// one if there is no room.
pub(super) fn enlarge(path: &Path, len: u64, bytes: u64) -> Result<u64, StoreError> {
    let to = rounded_size(bytes);
    if to <= len {
        return Ok(len);
    }
    let io = |doing| environment::io(path, doing);
    let file = OpenOptions::new().write(true).open(path).map_err(io("cannot open the WAL"))?;
    match resize(&file, len, to) {
        Ok(()) => Ok(to),
        Err(_) => file.set_len(len).map(|()| len).map_err(io("cannot resize the WAL")),
    }
}

/// Rounds a file size up to whole pages.
fn rounded_size(bytes: u64) -> u64 {
    bytes.next_multiple_of(FRAMES_AT).max(FRAMES_AT)
}

/// Fills the file with zeros up to a length, or truncates it, and makes that durable. A sync of a
/// frame then never waits for the file system to allocate space.
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
