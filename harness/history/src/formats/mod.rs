//! Reads histories in any known format and streams their events into a [`Sink`]. The format is
//! detected from the structure of the content.

mod detect;
mod edn;
mod events;
mod intervals;
mod json;
mod jsonl;
mod log;
mod objects;
mod pairing;
mod sessions;

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    str::FromStr,
};

use self::pairing::PairingSink;
pub use self::{
    detect::{detect, recognise},
    events::NAMED_PROCESSES,
    objects::{ObjectHistory, is_of_objects, objects},
};
use crate::{Action, Event, Function, ReadError, Sink, Value, Version};

/// A file format of histories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Recorded by [`Recorder`](crate::Recorder): one JSON object a line.
    Jsonl,
    /// Jepsen's `history.edn`: one map a line, or a vector of maps.
    Edn,
    /// Jepsen's log, in which operations are among other lines.
    JepsenLog,
    /// Jepsen's `history.txt`: one operation a line.
    JepsenText,
    /// Events of Jepsen's shape as JSON: an array, or one object after the other.
    Json,
    /// Porcupine's key/value data: one map a line, with a `:key`. An absent key reads as the empty
    /// text.
    Porcupine,
    /// Operations with a start and an end as JSON objects.
    Intervals,
    /// Operations with a start and an end as CSV with a header.
    Csv,
    /// Transactions on registers by session, one access a line: the text of Plume and PolySI.
    Plume,
    /// Transactions on registers by session, between lines of `-` and `=`: AWDIT's tests.
    Awdit,
    /// dbcop's `history.bincode`.
    Dbcop,
    /// A directory with Cobra's logs.
    Cobra,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 12] = [
        Format::Jsonl,
        Format::Edn,
        Format::JepsenLog,
        Format::JepsenText,
        Format::Json,
        Format::Porcupine,
        Format::Intervals,
        Format::Csv,
        Format::Plume,
        Format::Awdit,
        Format::Dbcop,
        Format::Cobra,
    ];

    /// The name, as typed after `--format`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Jsonl => "jsonl",
            Format::Edn => "edn",
            Format::JepsenLog => "jepsen-log",
            Format::JepsenText => "jepsen-txt",
            Format::Json => "json",
            Format::Porcupine => "porcupine",
            Format::Intervals => "intervals",
            Format::Csv => "csv",
            Format::Plume => "plume",
            Format::Awdit => "awdit",
            Format::Dbcop => "dbcop",
            Format::Cobra => "cobra",
        }
    }

    /// A value as the reader of this format passes it on. The text is written as in the format: EDN,
    /// JSON, or plain text. `nil` and `null` stand for an absent key: `None`.
    ///
    /// # Errors
    /// The text is not a value of the format.
    pub fn value(self, text: &str) -> Result<Option<String>, String> {
        if matches!(text, "nil" | "null") {
            return Ok(None);
        }
        let value = match self {
            Format::Jsonl
            | Format::Csv
            | Format::Porcupine
            | Format::Plume
            | Format::Awdit
            | Format::Dbcop
            | Format::Cobra => return Ok(Some(text.to_owned())),
            // Values are printed as EDN, so they are understood like that too. JSON has no symbols: a
            // word without quotes is a text.
            Format::Json | Format::Intervals => match (json::parse(text), edn::parse(text)) {
                (Err(_), Ok(Value::Symbol(word))) => Value::Text(word),
                (Err(_), Ok(value)) => value,
                (value, _) => value?,
            },
            Format::Edn | Format::JepsenLog | Format::JepsenText => edn::parse(text)?,
        };
        Ok((value != Value::Nil).then(|| value.to_string()))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Format::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| {
            let names: Vec<_> = Format::ALL.iter().map(|format| format.name()).collect();
            format!("unknown format '{text}': expected one of {}", names.join(", "))
        })
    }
}

/// What an operation did whose line only says that it is not ok.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ambiguous {
    /// Its outcome is unknown.
    #[default]
    Info,
    /// It did not happen.
    Fail,
}

/// What a reader found besides events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadSummary {
    /// Number of operations with an [`Ambiguous`] outcome.
    pub ambiguous: u64,
}

/// Reads the history in a file into a sink.
///
/// # Errors
/// The file cannot be read or is malformed. The error names line, column and reason.
pub fn stream(path: &Path, format: Format, sink: &mut dyn Sink) -> Result<(), ReadError> {
    let opened = open(path).map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
    stream_from(&mut BufReader::with_capacity(1 << 18, opened.input), format, sink, path)
}

/// A history on disk, opened for a reader.
pub struct Opened {
    /// Its bytes; of a directory with Cobra's logs, those of all logs.
    pub input: Box<dyn Read>,
    /// Number of bytes.
    pub bytes: u64,
}

/// Opens a history file, or a directory with Cobra's logs.
///
/// # Errors
/// It cannot be opened.
pub fn open(path: &Path) -> io::Result<Opened> {
    if let Some(logs) = path.is_dir().then(|| sessions::cobra::logs(path)).flatten() {
        let size = |log: &std::path::PathBuf| log.metadata().map(|metadata| metadata.len());
        let bytes = logs.iter().map(size).sum::<io::Result<u64>>()?;
        return Ok(Opened { input: Box::new(sessions::cobra::open(logs)), bytes });
    }
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Opened { input: Box::new(file), bytes })
}

/// Whether a directory is a history by itself: one with Cobra's logs.
#[must_use]
pub fn is_directory_history(path: &Path) -> bool {
    sessions::cobra::logs(path).is_some()
}

/// Passes the transactions of recorded events on to a sink. Other operations are left out.
///
/// # Errors
/// A transaction is malformed or does not fit the events before it; in words.
pub fn transactions(recorded: &[Event], sink: &mut dyn Sink) -> Result<(), String> {
    let mut pairs = PairingSink::new(sink);
    for event in recorded {
        let Action::Client(client) = &event.action else { continue };
        if client.f != Function::Txn {
            continue;
        }
        let explain = |why: String| format!("event {}: {why}", event.index);
        let value = client.value.as_deref().map(json::parse).transpose().map_err(explain)?;
        let kind = client.kind.to_string();
        pairs.number_event(event.index);
        let versions = client.version.as_ref().and_then(Version::steps);
        let (value, versions) = (value.as_ref(), versions.as_deref());
        events::transaction(client.process, &kind, value, versions, &mut pairs).map_err(explain)?;
    }
    Ok(())
}

/// Reads a history from any input into a sink. Holds one event in memory at a time, except that
/// operations with a start and an end are sorted in memory. The path is for error messages.
///
/// # Errors
/// The input cannot be read or is malformed.
pub fn stream_from(
    input: &mut dyn BufRead,
    format: Format,
    sink: &mut dyn Sink,
    path: &Path,
) -> Result<(), ReadError> {
    stream_with(input, format, Ambiguous::default(), sink, path).map(drop)
}

/// Like [`stream_from`], with the meaning of ambiguous outcomes.
///
/// # Errors
/// The input cannot be read or is malformed.
pub fn stream_with(
    input: &mut dyn BufRead,
    format: Format,
    ambiguous: Ambiguous,
    sink: &mut dyn Sink,
    path: &Path,
) -> Result<ReadSummary, ReadError> {
    let mut pairs = PairingSink::new(sink);
    let start = after_byte_order_mark(input).map_err(|error| error.in_file(path))?;
    let input: &mut dyn BufRead = if start.is_empty() { input } else { &mut start.chain(input) };
    let read = match format {
        Format::Jsonl => jsonl::stream(input, &mut pairs).map(|()| 0),
        Format::Edn => edn::stream(input, &mut pairs).map(|()| 0),
        Format::JepsenLog => log::stream_log(input, &mut pairs).map(|()| 0),
        Format::JepsenText => log::stream_text(input, &mut pairs).map(|()| 0),
        Format::Json => json::stream(input, &mut pairs).map(|()| 0),
        Format::Porcupine => edn::stream_key_value(input, &mut pairs).map(|()| 0),
        Format::Intervals => intervals::stream_json(input, ambiguous, &mut pairs),
        Format::Csv => intervals::stream_csv(input, ambiguous, &mut pairs),
        Format::Plume => sessions::text::stream_plume(input, &mut pairs).map(|()| 0),
        Format::Awdit => sessions::text::stream_awdit(input, &mut pairs).map(|()| 0),
        Format::Dbcop => sessions::dbcop::stream(input, &mut pairs).map(|()| 0),
        Format::Cobra => sessions::cobra::stream(input, &mut pairs).map(|()| 0),
    };
    read.map(|ambiguous| ReadSummary { ambiguous }).map_err(|error| error.in_file(path))
}

/// The byte order mark that some editors write before UTF-8.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// The bytes at the start of an input that might be a byte order mark, and are none.
fn after_byte_order_mark(input: &mut dyn BufRead) -> Result<&'static [u8], FormatError> {
    // An input may return its bytes one by one.
    for (at, byte) in BYTE_ORDER_MARK.iter().enumerate() {
        if input.fill_buf().map_err(FormatError::Io)?.first() != Some(byte) {
            return Ok(&BYTE_ORDER_MARK[..at]);
        }
        input.consume(1);
    }
    Ok(&[])
}

/// Why an input cannot be read as a history, and where.
enum FormatError {
    Io(std::io::Error),
    Malformed { line: usize, column: usize, reason: String },
}

impl FormatError {
    fn new(line: usize, column: usize, reason: impl Into<String>) -> FormatError {
        FormatError::Malformed { line, column, reason: reason.into() }
    }

    fn in_file(self, path: &Path) -> ReadError {
        let path = path.to_owned();
        match self {
            FormatError::Io(source) => ReadError::Io { path, source },
            FormatError::Malformed { line, column, reason } => {
                ReadError::Malformed { path, line, column, reason }
            }
        }
    }
}

/// Calls `each` with the number of each line, the line, and whether it ends with a newline.
fn lines(
    input: &mut dyn BufRead,
    mut each: impl FnMut(usize, &[u8], bool) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        if input.read_until(b'\n', &mut line).map_err(FormatError::Io)? == 0 {
            return Ok(());
        }
        let complete = line.last() == Some(&b'\n');
        let end = line.len() - usize::from(complete);
        each(number, &line[..end], complete)?;
    }
}

#[cfg(test)]
mod tests;
