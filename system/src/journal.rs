//! A node's journal: everything that its machine was told and everything that it wanted, one JSON
//! object a line, so that a run can be judged and replayed afterwards. Knows nothing of what the
//! machine does with it.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::protocol::{Config, Effect, Event, Record};

/// A line of a journal. An event is followed by the effects that it caused, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The machine is recovered from these records; the effects of doing so follow.
    Start {
        /// Nanoseconds of the system's monotonic clock, the same for all processes.
        t: u64,
        /// What the machine was told about itself.
        config: Config,
        /// What it found in its store.
        records: Vec<Record>,
    },
    /// Something happened to the machine.
    Event {
        /// Nanoseconds of the system's monotonic clock, taken before the effects are performed.
        t: u64,
        /// What happened.
        event: Event,
    },
    /// The machine wanted this done.
    Effect(Effect),
}

/// Appends to a journal, a batch of entries with one write(2) each, so that a killed process
/// loses no line that came before an effect.
#[derive(Debug)]
pub struct Writer {
    file: File,
    batch: Vec<u8>,
}

impl Writer {
    /// Opens a journal to append to, behind its last whole line.
    ///
    /// # Errors
    /// The file cannot be opened, created or read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        cut_torn_line(&file)?;
        Ok(Writer { file, batch: Vec::new() })
    }

    /// Adds an entry to the batch.
    pub fn add(&mut self, entry: &Entry) {
        serde_json::to_writer(&mut self.batch, entry).expect("an entry has a JSON form");
        self.batch.push(b'\n');
    }

    /// Writes the batch.
    ///
    /// # Errors
    /// The file cannot be written: the effects of the batch must not be performed.
    pub fn write(&mut self) -> io::Result<()> {
        self.file.write_all(&self.batch)?;
        self.batch.clear();
        Ok(())
    }
}

/// A kill in the middle of a write leaves a piece of a line, which nothing may be glued to. What it
/// was about was never done.
fn cut_torn_line(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut block = [0; 4096];
    while end > 0 {
        let from = end.saturating_sub(block.len() as u64);
        let piece = &mut block[..(end - from) as usize];
        file.read_exact_at(piece, from)?;
        if let Some(newline) = piece.iter().rposition(|byte| *byte == b'\n') {
            end = from + newline as u64 + 1;
            break;
        }
        end = from;
    }
    if end < length { file.set_len(end) } else { Ok(()) }
}

/// Reads a journal, line by line, each with its number from 1. A last line without its newline is
/// what a kill left of a batch: its effects were never performed, and it is left out.
///
/// # Errors
/// The file cannot be opened; or, as an item, a line cannot be read or is no entry.
pub fn read(path: &Path) -> io::Result<impl Iterator<Item = io::Result<(usize, Entry)>> + use<>> {
    let mut lines = BufReader::with_capacity(1 << 18, File::open(path)?);
    let mut number = 0;
    let mut line = Vec::new();
    Ok(std::iter::from_fn(move || {
        line.clear();
        number += 1;
        match lines.read_until(b'\n', &mut line) {
            Err(error) => Some(Err(error)),
            Ok(_) if line.last() != Some(&b'\n') => None,
            Ok(_) => Some(match serde_json::from_slice(&line) {
                Ok(entry) => Ok((number, entry)),
                Err(error) => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("line {number}, column {}: {error}", error.column()),
                )),
            }),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_cut_off_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        let entry = Entry::Event { t: 7, event: Event::Persisted(1) };
        for torn in [0, 1, 4095, 4096, 10_000] {
            let mut writer = Writer::open(&path).expect("it opens");
            writer.add(&entry);
            writer.write().expect("it is written");
            drop(writer);
            let mut file = OpenOptions::new().append(true).open(&path).expect("it opens");
            file.write_all(&vec![b'{'; torn]).expect("it is written");
        }
        drop(Writer::open(&path).expect("it opens"));
        let entries: Vec<_> =
            read(&path).expect("it opens").map(|line| line.expect("an entry").1).collect();
        assert_eq!(entries, vec![entry; 5]);

        std::fs::write(&path, "no line at all").expect("it is written");
        drop(Writer::open(&path).expect("it opens"));
        assert_eq!(std::fs::read(&path).expect("it is there"), b"");
    }
}
