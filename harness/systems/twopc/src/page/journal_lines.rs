//! Reads the lines of a journal without decoding them: what kind of line it is, and which transactions it
//! names. A line is decoded only when [`Line::entry`] is called.
//!
//! A page needs a few hundred lines of journals that have millions. Recognising the others by their first
//! bytes is an order of magnitude faster than decoding them. This is the only place that knows how entries
//! are written.

use std::{io, path::Path};

use system::{
    journal::{self, Entry},
    protocol::TxnId,
};

use crate::payload;

/// FactKind a line records, as far as a page needs to know of every line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The machine was recovered from its records.
    Start,
    /// The effect: force the log up to this position.
    Force { lsn: u64 },
    /// The event: the log is durable up to this position.
    Persisted { lsn: u64 },
    /// The event: a client request.
    ClientRequest,
    /// The effect: a reply to a client request.
    Reply { call: u64 },
    /// The effect: append a record to the log.
    Append,
    /// The effect: send a Prepare.
    SendPrepare { txn: TxnId },
    /// Another event.
    Event,
    /// Another effect.
    Effect,
}

/// A line that is longer than this is not shown as it is, in bytes.
const TEXT_BYTES_MAX: usize = 1000;

/// A line of a journal.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Its number, counted from 1.
    pub(super) number: usize,
    /// The time of the event that it belongs to, in nanoseconds of the system's monotonic clock.
    pub(super) clock: u64,
    pub(super) kind: Kind,
    bytes: Vec<u8>,
}

impl Line {
    /// The text of the line. A long one has the names of its keys and values instead of their bytes.
    pub(super) fn text(&self) -> String {
        let named = (self.bytes.len() > TEXT_BYTES_MAX).then(|| self.entry().ok()).flatten();
        let named = named.and_then(|mut entry| {
            payload::name_in(&mut entry);
            serde_json::to_string(&entry).ok()
        });
        named.unwrap_or_else(|| String::from_utf8_lossy(&self.bytes).into_owned())
    }

    /// Decodes the line.
    ///
    /// # Errors
    /// It is not a journal entry; the message has the number of the line.
    pub(super) fn entry(&self) -> io::Result<Entry> {
        serde_json::from_slice(&self.bytes).map_err(|error| {
            let reason = format!("line {}: {error}", self.number);
            io::Error::new(io::ErrorKind::InvalidData, reason)
        })
    }

    /// The transactions that the line names, in its order. May include other texts of the same form, such
    /// as a value `1.7`.
    pub(super) fn transactions(&self) -> impl Iterator<Item = TxnId> + '_ {
        memchr::memchr_iter(b'"', &self.bytes).filter_map(|at| {
            let rest = &self.bytes[at + 1..];
            if !rest.first()?.is_ascii_digit() {
                return None;
            }
            text_to_quote(rest)?.parse().ok()
        })
    }
}

/// The text up to the next quotation mark, if it can be an identifier.
fn text_to_quote(bytes: &[u8]) -> Option<&str> {
    const LENGTH_MAX: usize = 44;
    let end = memchr::memchr(b'"', &bytes[..bytes.len().min(LENGTH_MAX)])?;
    std::str::from_utf8(&bytes[..end]).ok()
}

/// The number at the beginning of a text.
fn number(text: &[u8]) -> u64 {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0_u64, |n, digit| n.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
}

/// The text after the first occurrence of a pattern.
fn after<'a>(bytes: &'a [u8], pattern: &[u8]) -> Option<&'a [u8]> {
    memchr::memmem::find(bytes, pattern).map(|at| &bytes[at + pattern.len()..])
}

/// A journal that is being read.
pub(super) struct Lines {
    lines: journal::Lines,
    clock: u64,
}

impl Lines {
    /// Opens a journal.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn open(path: &Path) -> io::Result<Lines> {
        Ok(Lines { lines: journal::Lines::open(path)?, clock: 0 })
    }

    /// Reads the next line into `line`. Returns false at the end.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub(super) fn read(&mut self, line: &mut Line) -> io::Result<bool> {
        let Some((number, bytes)) = self.lines.next_line()? else { return Ok(false) };
        line.bytes.clear();
        line.bytes.extend_from_slice(bytes);
        let (kind, clock) = recognize(&line.bytes);
        self.clock = clock.unwrap_or(self.clock);
        (line.number, line.clock, line.kind) = (number, self.clock, kind);
        Ok(true)
    }
}

impl Default for Line {
    fn default() -> Self {
        Line { number: 0, clock: 0, kind: Kind::Event, bytes: Vec::new() }
    }
}

/// The kind of a line, and its time if it has one: effects belong to the event before them.
fn recognize(line: &[u8]) -> (Kind, Option<u64>) {
    if let Some(rest) = line.strip_prefix(b"{\"start\":{\"t\":") {
        return (Kind::Start, Some(number(rest)));
    }
    if let Some(rest) = line.strip_prefix(b"{\"event\":{\"t\":") {
        let kind = if let Some(lsn) = after(rest, b"\"event\":{\"persisted\":") {
            Kind::Persisted { lsn: number(lsn) }
        } else if after(rest, b"\"event\":{\"client\":").is_some() {
            Kind::ClientRequest
        } else {
            Kind::Event
        };
        return (kind, Some(number(rest)));
    }
    let kind = if let Some(lsn) = line.strip_prefix(b"{\"effect\":{\"force\":") {
        Kind::Force { lsn: number(lsn) }
    } else if let Some(call) = line.strip_prefix(b"{\"effect\":{\"reply\":{\"call\":") {
        Kind::Reply { call: number(call) }
    } else if line.starts_with(b"{\"effect\":{\"append\":") {
        Kind::Append
    } else if let Some(txn) = after(line, b"\"body\":{\"prepare\":{\"txn\":\"")
        .and_then(text_to_quote)
        .and_then(|text| text.parse().ok())
    {
        Kind::SendPrepare { txn }
    } else {
        Kind::Effect
    };
    (kind, None)
}

#[cfg(test)]
mod tests {
    use system::protocol::{Body, Effect, Event};

    use super::*;
    use crate::checks::JOURNAL;

    /// The kind of an entry, by decoding it.
    fn kind_of(entry: &Entry) -> Kind {
        match entry {
            Entry::Start { .. } => Kind::Start,
            Entry::Event { event: Event::Persisted(lsn), .. } => Kind::Persisted { lsn: *lsn },
            Entry::Event { event: Event::Client { .. }, .. } => Kind::ClientRequest,
            Entry::Event { .. } => Kind::Event,
            Entry::Effect(Effect::Force(lsn)) => Kind::Force { lsn: *lsn },
            Entry::Effect(Effect::Reply { call, .. }) => Kind::Reply { call: *call },
            Entry::Effect(Effect::Append(_)) => Kind::Append,
            Entry::Effect(Effect::Send { message, .. }) => match &message.body {
                Body::Prepare { txn, .. } => Kind::SendPrepare { txn: *txn },
                _ => Kind::Effect,
            },
            Entry::Effect(_) => Kind::Effect,
        }
    }

    #[test]
    fn every_line_of_a_journal_is_recognised_as_what_it_decodes_to() {
        let run = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../../histories/golden/caught/ack-after-durable/nodes");
        let mut kinds = std::collections::HashMap::new();
        for node in ["master", "r1", "r2", "r3"] {
            let mut lines = Lines::open(&run.join(node).join(JOURNAL)).expect("a journal");
            let mut line = Line::default();
            let mut clock = 0;
            while lines.read(&mut line).expect("it can be read") {
                let entry = line.entry().expect("an entry");
                if let Entry::Start { t, .. } | Entry::Event { t, .. } = &entry {
                    clock = *t;
                }
                assert_eq!(line.kind, kind_of(&entry), "{}", line.text());
                assert_eq!(line.clock, clock, "{}", line.text());
                if let Kind::SendPrepare { txn } = line.kind {
                    assert!(line.transactions().any(|named| named == txn));
                }
                *kinds.entry(std::mem::discriminant(&line.kind)).or_insert(0) += 1;
            }
        }
        assert_eq!(kinds.len(), 9, "the journals have lines of every kind: {kinds:?}");
    }
}
