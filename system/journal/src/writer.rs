//! Appends entries to a journal: one frame, and one write(2), for each batch.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use flate2::{Compress, Compression, FlushCompress};

use crate::{
    Entry,
    frame::{self, BATCH_BYTES_MAX, HEADER_BYTES, Kind, MAGIC},
};

/// How many compressed bytes are made at a time.
const COMPRESS_BYTES: usize = 1 << 14;

/// The end of a flush: the length of an empty block, and its complement.
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];

/// Appends to a journal. A batch is one write, so that a killed process loses no entry that precedes
/// a performed effect.
#[derive(Debug)]
pub struct Writer {
    file: File,
    compress: Compress,
    /// Of the next frame.
    kind: Kind,
    /// The lines of the entries that are not written yet.
    batch: Vec<u8>,
    /// The frame that is being made; kept for its capacity.
    frame: Vec<u8>,
    /// What the compressor returns at a time.
    compressed: Box<[u8]>,
}

impl Writer {
    /// Opens a journal for appending after its last complete frame, and creates it, for its owner alone,
    /// if it does not exist: it holds keys and values. The incomplete frame that a kill in the middle of a write leaves is cut off: its
    /// effects were not performed.
    ///
    /// # Errors
    /// The file cannot be opened, created, read or written, or it is not an intact journal.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut open = OpenOptions::new();
        let mut file = open.create(true).mode(0o600).read(true).append(true).open(path)?;
        let mut bytes = Vec::new();
        // As much as it has, since a device may never end.
        let length = file.metadata()?.len();
        Read::by_ref(&mut file).take(length).read_to_end(&mut bytes)?;
        let intact = intact_bytes(&bytes)?;
        if intact < bytes.len() {
            file.set_len(intact as u64)?;
        }
        if intact == 0 {
            file.write_all(&MAGIC)?;
        }
        Ok(Writer {
            file,
            compress: Compress::new(Compression::fast(), false),
            kind: Kind::Begins,
            batch: Vec::new(),
            frame: Vec::new(),
            compressed: vec![0; COMPRESS_BYTES].into(),
        })
    }

    /// Adds an entry to the batch.
    pub fn add(&mut self, entry: &Entry) {
        serde_json::to_writer(&mut self.batch, entry).expect("entries serialise to JSON");
        self.batch.push(b'\n');
    }

    /// Writes the batch.
    ///
    /// # Errors
    /// The file cannot be written. The effects of the batch must then not be performed.
    pub fn write(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        if self.batch.len() > BATCH_BYTES_MAX {
            let reason = format!("a batch of {} bytes is too long for a journal", self.batch.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        self.frame.clear();
        self.frame.resize(HEADER_BYTES, 0);
        self.compress_batch()?;
        let header = frame::header(self.kind, &self.frame[HEADER_BYTES..]);
        self.frame[..HEADER_BYTES].copy_from_slice(&header);
        self.file.write_all(&self.frame)?;
        self.batch.clear();
        self.kind = Kind::Continues;
        Ok(())
    }

    /// Appends the compressed batch to the frame, flushed, so that it can be read without the next.
    fn compress_batch(&mut self) -> io::Result<()> {
        let mut rest = &self.batch[..];
        loop {
            let (read, made) = (self.compress.total_in(), self.compress.total_out());
            self.compress.compress(rest, &mut self.compressed, FlushCompress::Sync)?;
            let read = (self.compress.total_in() - read) as usize;
            let made = (self.compress.total_out() - made) as usize;
            self.frame.extend_from_slice(&self.compressed[..made]);
            rest = &rest[read..];
            // A flush ends with an empty block. Room left does not mean that it is complete: the
            // compressor may return with all input read and some of it not yet compressed. Asked again
            // after the end, it would add another block.
            if rest.is_empty() && self.frame.ends_with(&FLUSHED) {
                return Ok(());
            }
            if read == 0 && made == 0 {
                return Err(io::Error::other("the compressor does not end a batch"));
            }
        }
    }
}

/// How many bytes the magic and the complete frames take.
///
/// # Errors
/// The bytes are not a journal.
fn intact_bytes(bytes: &[u8]) -> io::Result<usize> {
    if !bytes.starts_with(&MAGIC) {
        return if MAGIC.starts_with(bytes) {
            Ok(0)
        } else {
            Err(frame::damaged(0, NOT_A_JOURNAL))
        };
    }
    let mut at = MAGIC.len();
    while let Some(frame) =
        frame::parse(&bytes[at..]).map_err(|reason| frame::damaged(at as u64, reason))?
    {
        at += frame.bytes();
    }
    Ok(at)
}

const NOT_A_JOURNAL: &str = "the file does not begin as a journal does";
