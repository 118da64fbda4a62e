//! A node's journal: every event that its machine processed and every effect that followed, one
//! JSON object per line, so that a run can be checked and replayed afterwards. Does not know what
//! the machine does with them.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use serde::{Deserialize, Serialize};

use protocol::{Config, Effect, Event, Record};

/// An entry of a journal. An event is followed by its effects, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The machine was recovered from these records; the resulting effects follow.
    Start {
        /// Nanoseconds of the system's monotonic clock, which all processes of a machine share.
        t: u64,
        /// The configuration of the machine.
        config: Config,
        /// The records in its store.
        records: Vec<Record>,
    },
    /// The machine processed an event.
    Event {
        /// Nanoseconds of the system's monotonic clock, taken before the effects are performed.
        t: u64,
        /// The event.
        event: Event,
    },
    /// An effect of the entry before.
    Effect(Effect),
}

/// Appends to a journal, with one write(2) for each batch of entries, so that a killed process
/// loses no line that precedes a performed effect.
#[derive(Debug)]
pub struct Writer {
    file: File,
    batch: Vec<u8>,
}

impl Writer {
    /// Opens a journal for appending after its last complete line.
    ///
    /// # Errors
    /// The file cannot be opened, created or read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        truncate_torn_line(&file)?;
        Ok(Writer { file, batch: Vec::new() })
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
        self.file.write_all(&self.batch)?;
        self.batch.clear();
        Ok(())
    }
}

/// Removes the partial line that a kill in the middle of a write leaves, so that nothing is
/// appended to it. Its effects were not performed.
fn truncate_torn_line(file: &File) -> io::Result<()> {
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

/// Reads a journal entry by entry, each with its line number from 1. A last line without a newline
/// is the remains of an interrupted write: its effects were not performed, and it is skipped.
///
/// # Errors
/// The file cannot be opened. As an item: a line cannot be read or decoded.
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
    fn only_a_torn_line_is_truncated() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        let entry = Entry::Event { t: 7, event: Event::Persisted(1) };
        for torn in [0, 1, 4095, 4096, 10_000] {
            let mut writer = Writer::open(&path).expect("opened");
            writer.add(&entry);
            writer.write().expect("written");
            drop(writer);
            let mut file = OpenOptions::new().append(true).open(&path).expect("opened");
            file.write_all(&vec![b'{'; torn]).expect("written");
        }
        drop(Writer::open(&path).expect("opened"));
        let entries: Vec<_> =
            read(&path).expect("opened").map(|line| line.expect("an entry").1).collect();
        assert_eq!(entries, vec![entry; 5]);

        std::fs::write(&path, "no line at all").expect("written");
        drop(Writer::open(&path).expect("opened"));
        assert_eq!(std::fs::read(&path).expect("readable"), b"");
    }
}
