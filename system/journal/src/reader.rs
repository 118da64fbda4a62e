//! Reads a journal, also while its node writes it.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use flate2::{Decompress, FlushDecompress, Status};

use crate::{
    Entry,
    frame::{self, BATCH_BYTES_MAX, Kind, MAGIC},
};

/// How much is read from the file at a time.
const READ_BYTES: usize = 1 << 18;

/// How much a frame is inflated by at a time.
const INFLATE_BYTES: usize = 1 << 14;

/// The lines of a journal, each the JSON text of an [`Entry`].
///
/// A journal without frames, as earlier versions wrote it, is plain lines and is read as such.
#[derive(Debug)]
pub struct Lines {
    file: File,
    /// What was read from the file; decoded up to `decoded`.
    encoded: Vec<u8>,
    decoded: usize,
    /// The position in the file at which `encoded` begins.
    position: u64,
    /// `None` until the first bytes of the file have been read.
    format: Option<Format>,
    /// Decoded text, returned up to `returned`. Complete lines, but for the last one of a plain file.
    text: Vec<u8>,
    returned: usize,
    number: usize,
}

#[derive(Debug)]
enum Format {
    Frames(Box<Inflate>),
    PlainLines,
}

impl Lines {
    /// Opens a journal.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Lines> {
        Ok(Lines {
            file: File::open(path)?,
            encoded: Vec::new(),
            decoded: 0,
            position: 0,
            format: None,
            text: Vec::new(),
            returned: 0,
            number: 0,
        })
    }

    /// The next line and its number from 1; `None` at the end of what was completely written. A
    /// journal that is still being written can be asked again later.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged; the message says at which byte.
    pub fn next_line(&mut self) -> io::Result<Option<(usize, &[u8])>> {
        let end = loop {
            if let Some(length) = memchr::memchr(b'\n', &self.text[self.returned..]) {
                break self.returned + length;
            }
            self.text.drain(..std::mem::take(&mut self.returned));
            while !self.decode()? {
                if !self.read_on()? {
                    return Ok(None);
                }
            }
        };
        let line = self.returned..end;
        self.returned = end + 1;
        self.number += 1;
        Ok(Some((self.number, &self.text[line])))
    }

    /// Reads what the file has next. Returns false at its end.
    fn read_on(&mut self) -> io::Result<bool> {
        self.position += self.decoded as u64;
        self.encoded.drain(..std::mem::take(&mut self.decoded));
        // Not all of it, since the journal of a long run does not fit into memory.
        Ok((&self.file).take(READ_BYTES as u64).read_to_end(&mut self.encoded)? > 0)
    }

    /// Decodes one frame, or all of a plain file, of what was read. Returns false if nothing complete
    /// was read.
    fn decode(&mut self) -> io::Result<bool> {
        if self.format.is_none() {
            if self.encoded.starts_with(&MAGIC) {
                self.decoded = MAGIC.len();
                self.format = Some(Format::Frames(Box::default()));
            } else if MAGIC.starts_with(&self.encoded) {
                return Ok(false);
            } else {
                self.format = Some(Format::PlainLines);
            }
        }
        let encoded = &self.encoded[self.decoded..];
        let Some(Format::Frames(inflate)) = &mut self.format else {
            self.text.extend_from_slice(encoded);
            let any = !encoded.is_empty();
            self.decoded = self.encoded.len();
            return Ok(any);
        };
        let position = self.position + self.decoded as u64;
        let damaged = |reason: &str| frame::damaged(position, reason);
        let Some(frame) = frame::parse(encoded).map_err(damaged)? else { return Ok(false) };
        let complete = self.text.len();
        if let Err(why) = inflate.append(frame.kind, frame.body, &mut self.text) {
            self.text.truncate(complete);
            return Err(damaged(&why));
        }
        self.decoded += frame.bytes();
        Ok(true)
    }
}

/// Decompresses the bodies of frames, in order.
#[derive(Debug)]
struct Inflate {
    decompress: Decompress,
    /// What the decompressor returns at a time.
    inflated: [u8; INFLATE_BYTES],
}

impl Default for Inflate {
    fn default() -> Self {
        Inflate { decompress: Decompress::new(false), inflated: [0; INFLATE_BYTES] }
    }
}

impl Inflate {
    /// Appends the text of a frame. The error says why its body is damaged.
    fn append(&mut self, kind: Kind, body: &[u8], text: &mut Vec<u8>) -> Result<(), String> {
        if kind == Kind::Begins {
            self.decompress.reset(false);
        }
        let (before, mut rest) = (text.len(), body);
        loop {
            let (read, made) = (self.decompress.total_in(), self.decompress.total_out());
            let status = self
                .decompress
                .decompress(rest, &mut self.inflated, FlushDecompress::Sync)
                .map_err(|error| error.to_string())?;
            let read = (self.decompress.total_in() - read) as usize;
            let made = (self.decompress.total_out() - made) as usize;
            text.extend_from_slice(&self.inflated[..made]);
            rest = &rest[read..];
            if text.len() - before > BATCH_BYTES_MAX {
                return Err("the frame is longer than any batch".to_owned());
            }
            // Room left after the last input means that everything was returned. Room left before it
            // does not: a call may return only what the one before had no room for.
            let done = rest.is_empty() && made < self.inflated.len();
            if done || status == Status::StreamEnd || (made == 0 && read == 0) {
                break;
            }
        }
        // The writer flushes after whole lines only.
        if rest.is_empty() && text.len() > before && text.last() == Some(&b'\n') {
            Ok(())
        } else {
            Err("the frame does not contain complete lines".to_owned())
        }
    }
}

/// Reads a journal entry by entry, each with its line number from 1, up to the end of what was
/// completely written. What follows is the remains of an interrupted write: its effects were not
/// performed.
///
/// # Errors
/// The file cannot be opened. As an item: the file cannot be read, is damaged, or a line is not an
/// entry.
pub fn read(path: &Path) -> io::Result<impl Iterator<Item = io::Result<(usize, Entry)>> + use<>> {
    let mut lines = Lines::open(path)?;
    Ok(std::iter::from_fn(move || {
        let (number, line) = match lines.next_line() {
            Ok(line) => line?,
            Err(error) => return Some(Err(error)),
        };
        Some(match serde_json::from_slice(line) {
            Ok(entry) => Ok((number, entry)),
            Err(error) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("line {number}, column {}: {error}", error.column()),
            )),
        })
    }))
}
