//! Histories as files in the formats that are known, streamed into whoever wants their operations.
//! The format is found by content. Knows nothing of verdicts.

mod edn;
mod jepsen_log;
mod jsonl;
mod pairs;

use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    str::FromStr,
};

use self::pairs::Pairs;
use super::ReadError;
use crate::checker::linearizability::{Ask, End, Keys, MalformedHistory, Spec};

/// Takes operations in, event by event.
pub trait Sink {
    /// A process begins an operation.
    ///
    /// # Errors
    /// It cannot.
    fn invoke(&mut self, process: u64, key: &str, ask: Ask<'_>) -> Result<(), MalformedHistory>;

    /// A process's operation ends.
    ///
    /// # Errors
    /// It cannot.
    fn end(&mut self, process: u64, end: End<'_>) -> Result<(), MalformedHistory>;
}

impl Sink for Keys {
    fn invoke(&mut self, process: u64, key: &str, ask: Ask<'_>) -> Result<(), MalformedHistory> {
        Keys::invoke(self, process, key, ask)
    }

    fn end(&mut self, process: u64, end: End<'_>) -> Result<(), MalformedHistory> {
        Keys::end(self, process, end)
    }
}

/// A format of histories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Our own: a JSON object a line.
    Jsonl,
    /// Jepsen's `history.edn`: a map a line, or one vector of them.
    Edn,
    /// The log lines of Jepsen's older tests.
    JepsenLog,
    /// Porcupine's key/value data: a map a line, with a `:key`.
    Porcupine,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 4] = [Format::Jsonl, Format::Edn, Format::JepsenLog, Format::Porcupine];

    /// Its name, as typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Jsonl => "jsonl",
            Format::Edn => "edn",
            Format::JepsenLog => "jepsen-log",
            Format::Porcupine => "porcupine",
        }
    }

    /// What its keys are, unless somebody says otherwise.
    #[must_use]
    pub fn spec(self) -> Spec {
        if self == Format::Porcupine { Spec::Append } else { Spec::Register }
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
            format!("'{text}' is no format: want one of {}", names.join(", "))
        })
    }
}

/// Finds the format of a file by what it begins with.
///
/// # Errors
/// It cannot be read, or begins like none.
pub fn detect(path: &Path) -> Result<Format, ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let mut input = BufReader::new(File::open(path).map_err(io)?);
    let start = input.fill_buf().map_err(io)?;
    recognise(start).ok_or_else(|| ReadError::Malformed {
        path: path.to_owned(),
        line: 1,
        column: 1,
        reason: "no history of a known format: it begins neither with a JSON object, nor with an \
                 EDN map or vector, nor with a log line of jepsen.util"
            .to_owned(),
    })
}

/// The format of what begins like this.
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

/// Reads a history into a sink.
///
/// # Errors
/// The file cannot be read, or something in it is not what it should be: where, and why.
pub fn stream(path: &Path, format: Format, sink: &mut dyn Sink) -> Result<(), ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    stream_from(&mut BufReader::with_capacity(1 << 18, file), format, sink, path)
}

/// Reads a history from anywhere, never more than a little at a time.
///
/// # Errors
/// It cannot be read, or something in it is not what it should be; the path is for the message.
pub fn stream_from(
    input: &mut dyn BufRead,
    format: Format,
    sink: &mut dyn Sink,
    path: &Path,
) -> Result<(), ReadError> {
    let mut pairs = Pairs::new(sink);
    let read = match format {
        Format::Jsonl => jsonl::stream(input, &mut pairs),
        Format::JepsenLog => jepsen_log::stream(input, &mut pairs),
        Format::Edn | Format::Porcupine => {
            edn::stream(input, format == Format::Porcupine, &mut pairs)
        }
    };
    read.map_err(|fault| fault.at(path))
}

/// What is wrong with a file, and where.
enum Fault {
    Io(std::io::Error),
    Malformed { line: usize, column: usize, reason: String },
}

impl Fault {
    fn new(line: usize, column: usize, reason: impl Into<String>) -> Fault {
        Fault::Malformed { line, column, reason: reason.into() }
    }

    fn at(self, path: &Path) -> ReadError {
        let path = path.to_owned();
        match self {
            Fault::Io(source) => ReadError::Io { path, source },
            Fault::Malformed { line, column, reason } => {
                ReadError::Malformed { path, line, column, reason }
            }
        }
    }
}

/// Calls with each line and its number; a last line without its end is told as such.
fn lines(
    input: &mut dyn BufRead,
    mut each: impl FnMut(usize, &[u8], bool) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        if input.read_until(b'\n', &mut line).map_err(Fault::Io)? == 0 {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n');
        let end = line.len() - usize::from(whole);
        each(number, &line[..end], whole)?;
    }
}

#[cfg(test)]
mod tests;
