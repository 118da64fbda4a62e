//! A node's journal, read while the node writes it.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use system::{
    journal::Entry,
    protocol::{Effect, Event, Lsn},
};

/// A journal that grows.
pub(super) struct JournalTail {
    path: PathBuf,
    /// How many bytes were read.
    read: u64,
    /// How many records were appended since the last start.
    pub(super) appended: Lsn,
    /// How many of them are durable.
    pub(super) durable: Lsn,
    entries: Vec<Entry>,
    /// How many entries belong to earlier steps.
    consumed: usize,
}

impl JournalTail {
    /// The journal at this path. What it contains already belongs to earlier steps.
    pub(super) fn new(path: PathBuf) -> Self {
        let mut tail = JournalTail {
            path,
            read: 0,
            appended: 0,
            durable: 0,
            entries: Vec::new(),
            consumed: 0,
        };
        tail.refresh();
        tail.consumed = tail.entries.len();
        tail
    }

    /// Reads the complete lines that were added since the last call.
    pub(super) fn refresh(&mut self) {
        let Ok(mut file) = File::open(&self.path) else { return };
        let mut text = Vec::new();
        if file.seek(SeekFrom::Start(self.read)).is_err() || file.read_to_end(&mut text).is_err() {
            return;
        }
        let complete = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read += complete as u64;
        for line in text[..complete].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Ok(entry) = serde_json::from_slice::<Entry>(line) else { continue };
            match &entry {
                Entry::Start { .. } => (self.appended, self.durable) = (0, 0),
                Entry::Effect(Effect::Append(_)) => self.appended += 1,
                Entry::Event { event: Event::Persisted(lsn), .. } => self.durable = *lsn,
                _ => {}
            }
            self.entries.push(entry);
        }
    }

    /// Whether every record is durable.
    pub(super) fn is_durable(&self) -> bool {
        self.durable > 0 && self.durable >= self.appended
    }

    /// Whether an event that satisfies the condition has occurred since the last match. If so, the
    /// entries up to it are consumed.
    pub(super) fn matches(&mut self, condition: impl Fn(&Event) -> bool) -> bool {
        self.refresh();
        let found = self.entries[self.consumed..]
            .iter()
            .position(|entry| matches!(entry, Entry::Event { event, .. } if condition(event)));
        if let Some(found) = found {
            self.consumed += found + 1;
        }
        found.is_some()
    }
}
