//! A node's journal, read while the node writes it.

use std::{io, path::PathBuf};

use system::{
    journal::{Entry, Lines},
    protocol::{Effect, Event, Lsn},
};

/// A journal that grows.
pub(super) struct JournalTail {
    path: PathBuf,
    /// `None` while the file does not exist.
    lines: Option<Lines>,
    /// How many records were appended since the last start.
    pub(super) appended: Lsn,
    /// How many of them are durable.
    pub(super) durable: Lsn,
    entries: Vec<Entry>,
    /// How many entries belong to earlier steps.
    consumed: usize,
}

impl JournalTail {
    /// The journal at this path, which a node may not have created yet. What it contains already
    /// belongs to earlier steps.
    pub(super) fn new(path: PathBuf) -> Self {
        let mut tail = JournalTail {
            path,
            lines: None,
            appended: 0,
            durable: 0,
            entries: Vec::new(),
            consumed: 0,
        };
        // What cannot be read now cannot be read by the first `refresh` either.
        let _ = tail.read_on();
        tail.consumed = tail.entries.len();
        tail
    }

    /// Reads what was added since the last call.
    ///
    /// # Errors
    /// The journal cannot be read; the message names it.
    pub(super) fn refresh(&mut self) -> Result<(), String> {
        self.read_on().map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn read_on(&mut self) -> io::Result<()> {
        if self.lines.is_none() && !self.path.exists() {
            return Ok(());
        }
        let lines = match &mut self.lines {
            Some(lines) => lines,
            none => none.insert(Lines::open(&self.path)?),
        };
        while let Some((_, line)) = lines.next_line()? {
            let entry: Entry = serde_json::from_slice(line)?;
            match &entry {
                Entry::Start { .. } => (self.appended, self.durable) = (0, 0),
                Entry::Effect(Effect::Append(_)) => self.appended += 1,
                Entry::Event { event: Event::Persisted(lsn), .. } => self.durable = *lsn,
                _ => {}
            }
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Whether every record is durable.
    pub(super) fn is_durable(&self) -> bool {
        self.durable > 0 && self.durable >= self.appended
    }

    /// Whether an event that satisfies the condition has occurred since the last match. If so, the
    /// entries up to it are consumed.
    pub(super) fn matches(&mut self, condition: impl Fn(&Event) -> bool) -> Result<bool, String> {
        self.refresh()?;
        let found = self.entries[self.consumed..]
            .iter()
            .position(|entry| matches!(entry, Entry::Event { event, .. } if condition(event)));
        if let Some(found) = found {
            self.consumed += found + 1;
        }
        Ok(found.is_some())
    }
}
