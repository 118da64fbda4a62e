//! Reads histories in any known format and streams their events into a [`Sink`]. The format is
//! detected from the content.

mod edn;
mod jepsen_log;
mod jsonl;
mod pairing;

use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    str::FromStr,
};

use self::pairing::PairingSink;
use crate::{ReadError, Sink};

/// A file format of histories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Recorded by [`Recorder`](crate::Recorder): one JSON object a line.
    Jsonl,
    /// Jepsen's `history.edn`: one map a line, or a vector of maps.
    Edn,
    /// The log lines of Jepsen's older tests.
    JepsenLog,
    /// Porcupine's key/value data: one map a line, with a `:key`. An absent key reads as the empty
    /// text.
    Porcupine,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 4] = [Format::Jsonl, Format::Edn, Format::JepsenLog, Format::Porcupine];

    /// The name, as typed after `--format`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Jsonl => "jsonl",
            Format::Edn => "edn",
            Format::JepsenLog => "jepsen-log",
            Format::Porcupine => "porcupine",
        }
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

/// Detects the format of a file from its first bytes.
///
/// # Errors
/// The file cannot be read, or its format is unknown.
pub fn detect(path: &Path) -> Result<Format, ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let mut input = BufReader::new(File::open(path).map_err(io)?);
    let start = input.fill_buf().map_err(io)?;
    recognise(start).ok_or_else(|| ReadError::Malformed {
        path: path.to_owned(),
        line: 1,
        column: 1,
        reason: "unknown format: expected a JSON object, an EDN map or vector, or a log line of \
                 jepsen.util at the start"
            .to_owned(),
    })
}

/// The format of a text that begins with these bytes, `None` if it is unknown.
#[must_use]
pub fn recognise(start: &[u8]) -> Option<Format> {
    let start = String::from_utf8_lossy(start);
    let first =
        start.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(';'));
    let first = first.unwrap_or_default();
    if first.contains("jepsen.util - ") {
        return Some(Format::JepsenLog);
    }
    if first.starts_with("{\"") || first.is_empty() && start.is_empty() {
        return Some(Format::Jsonl);
    }
    if first.starts_with(['{', '[', '#', '(']) {
        let map = first.find('{').map_or(&*start, |at| &first[at..]);
        return Some(if map.contains(":key ") { Format::Porcupine } else { Format::Edn });
    }
    None
}

/// Reads the history in a file into a sink.
///
/// # Errors
/// The file cannot be read or is malformed. The error names line, column and reason.
pub fn stream(path: &Path, format: Format, sink: &mut dyn Sink) -> Result<(), ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    stream_from(&mut BufReader::with_capacity(1 << 18, file), format, sink, path)
}

/// Reads a history from any input into a sink. Holds one event in memory at a time. The path
/// is for error messages.
///
/// # Errors
/// The input cannot be read or is malformed.
pub fn stream_from(
    input: &mut dyn BufRead,
    format: Format,
    sink: &mut dyn Sink,
    path: &Path,
) -> Result<(), ReadError> {
    let mut pairs = PairingSink::new(sink);
    let read = match format {
        Format::Jsonl => jsonl::stream(input, &mut pairs),
        Format::JepsenLog => jepsen_log::stream(input, &mut pairs),
        Format::Edn | Format::Porcupine => {
            edn::stream(input, format == Format::Porcupine, &mut pairs)
        }
    };
    read.map_err(|error| error.in_file(path))
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
