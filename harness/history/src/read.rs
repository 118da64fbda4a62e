//! Reads a recorded history back and reports errors with file, line and column. Does not know which
//! operations the events make.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use super::{Event, event::check_time};

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A line is malformed.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong.
        reason: String,
    },
}

impl ReadError {
    /// The file that cannot be read.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            ReadError::Io { path, .. } | ReadError::Malformed { path, .. } => path,
        }
    }
}

/// A recorded history, up to the last line that was written completely.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordedHistory {
    /// The events. The event of line `n` is at `n - 1`.
    pub events: Vec<Event>,
    /// Whether the file ends in the middle of an event, as a killed recorder leaves it. That line is
    /// ignored.
    pub torn: bool,
}

/// Whether a last line without a newline was cut. An event that is one whole JSON object was not: nothing but
/// the newline is missing.
pub(super) fn is_cut(line: &[u8]) -> bool {
    !line.starts_with(b"{") || serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err()
}

/// Reads a history, one event a line.
///
/// # Errors
/// The file cannot be read, or a complete line is not an event or is out of order.
pub fn read(path: &Path) -> Result<RecordedHistory, ReadError> {
    let mut events = EventReader::open(path)?;
    let read = events.by_ref().collect::<Result<_, _>>()?;
    Ok(RecordedHistory { events: read, torn: events.torn })
}

/// Checks the order of events: indices count from 0 without gaps, and time never goes back nor passes the
/// maximum.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EventOrder {
    next_index: u64,
    time: u64,
}

impl EventOrder {
    /// Takes the next event.
    ///
    /// # Errors
    /// The event is out of order, in words.
    pub(super) fn next(&mut self, index: u64, time: u64) -> Result<(), String> {
        let EventOrder { next_index, time: last } = *self;
        if index != next_index {
            let missing = if index > next_index { ": events are missing" } else { "" };
            return Err(format!("index {index}, expected {next_index}{missing}"));
        }
        check_time(time)?;
        if time < last {
            return Err(format!("time {time} after time {last}"));
        }
        *self = EventOrder { next_index: index + 1, time };
        Ok(())
    }
}

/// Reads the events of a history one at a time.
pub struct EventReader {
    input: Box<dyn BufRead>,
    path: PathBuf,
    line: Vec<u8>,
    /// Lines read so far.
    lines: usize,
    sequence: EventOrder,
    torn: bool,
}

impl EventReader {
    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> Result<EventReader, ReadError> {
        let io = |source| ReadError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        Ok(EventReader::of(Box::new(BufReader::with_capacity(1 << 18, file)), path))
    }

    /// Reads any input; the path is for error messages.
    fn of(input: Box<dyn BufRead>, path: &Path) -> EventReader {
        let path = path.to_owned();
        EventReader {
            input,
            path,
            line: Vec::new(),
            lines: 0,
            sequence: EventOrder::default(),
            torn: false,
        }
    }

    fn event(&mut self) -> Result<Event, ReadError> {
        let malformed = |column, reason| ReadError::Malformed {
            path: self.path.clone(),
            line: self.lines + 1,
            column,
            reason,
        };
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let event: Event = serde_json::from_slice(line).map_err(|error| {
            // serde_json appends its own position, in which the line is always 1.
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or(&reason).to_owned();
            malformed(error.column().max(1), reason)
        })?;
        self.sequence.next(event.index, event.time).map_err(|reason| malformed(1, reason))?;
        self.lines += 1;
        Ok(event)
    }
}

impl Iterator for EventReader {
    type Item = Result<Event, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.line.clear();
        match self.input.read_until(b'\n', &mut self.line) {
            Err(source) => Some(Err(ReadError::Io { path: self.path.clone(), source })),
            Ok(0) => None,
            Ok(_) if self.line.last() != Some(&b'\n') && is_cut(&self.line) => {
                self.torn = true;
                None
            }
            Ok(_) => Some(self.event()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const GOOD: &str = r#"{"index":0,"time":1,"process":1,"type":"invoke","f":"get","key":"a"}"#;

    fn text(text: &str) -> Result<RecordedHistory, String> {
        let input = Box::new(Cursor::new(text.as_bytes().to_vec()));
        let mut events = EventReader::of(input, Path::new("h"));
        let read = events.by_ref().collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        Ok(RecordedHistory { events: read, torn: events.torn })
    }

    #[test]
    fn a_torn_last_line_is_ignored() {
        let history =
            text(&format!("{GOOD}\n{}", &GOOD[..30])).expect("a killed recorder leaves it");
        assert_eq!((history.events.len(), history.torn), (1, true));
        let history = text(&format!("{GOOD}\n")).expect("a complete history");
        assert_eq!((history.events.len(), history.torn), (1, false));
    }

    #[test]
    fn a_whole_event_without_a_newline_is_read() {
        let second = GOOD.replace(":0,", ":1,");
        let history = text(&format!("{GOOD}\n{second}")).expect("only the newline is missing");
        assert_eq!((history.events.len(), history.torn), (2, false));
        let error = text(&format!("{GOOD}\n{GOOD}")).expect_err("it is not ignored");
        assert_eq!(error, "h:2:1: index 0, expected 1");
        // Numbers and texts that are cut may be JSON as well; they are no events.
        for cut in ["1", "\"a\"", "[]", " "] {
            let history = text(&format!("{GOOD}\n{cut}")).expect("torn");
            assert_eq!((history.events.len(), history.torn), (1, true), "{cut}");
        }
    }

    #[test]
    fn errors_name_their_position() {
        let error = text(&format!("{GOOD}\n{{\"index\":1,\"time\":x}}\n")).expect_err("x");
        assert_eq!(error, "h:2:19: expected value");
        let error = text(&format!("{GOOD}\n{GOOD}\n")).expect_err("the same index twice");
        assert_eq!(error, "h:2:1: index 0, expected 1");
        let error = text(&format!("{}\n", GOOD.replace(":0,", ":1,")))
            .expect_err("the first event is missing");
        assert_eq!(error, "h:1:1: index 1, expected 0: events are missing");
        let earlier = GOOD.replace(":0,", ":1,").replace(":1,\"process", ":0,\"process");
        let error = text(&format!("{GOOD}\n{earlier}\n")).expect_err("time goes back");
        assert_eq!(error, "h:2:1: time 0 after time 1");
        let late = GOOD.replace("\"time\":1", &format!("\"time\":{}", u64::MAX));
        let error = text(&format!("{late}\n")).expect_err("no clock shows it");
        assert!(error.starts_with("h:1:") && error.contains("is later than"), "{error}");
        let error = text("\n").expect_err("an empty line is not an event");
        assert!(error.starts_with("h:1:1: "), "{error}");
        let error = read(Path::new("/nonexistent/h")).expect_err("no such file").to_string();
        assert!(error.starts_with("/nonexistent/h: "), "{error}");
    }

    #[test]
    fn the_example_in_the_readme_is_a_history() {
        let readme = include_str!("../README.md");
        let (_, example) = readme.split_once("```json\n").expect("an example");
        let (lines, _) = example.split_once("```").expect("the end of the example");
        let history = text(lines).expect("well formed");
        assert_eq!(history.events.len(), 10);
        let operations = crate::pair(&history.events).expect("well formed");
        assert_eq!(operations.len(), 4);
    }
}
