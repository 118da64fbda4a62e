//! Reads a recorded history back, with the exact place of whatever is wrong with it.
//! Knows the lines, not what operations they make.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use super::Event;

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not what it should be.
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

/// A history as far as it was wholly written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Whole {
    /// The events; that of line `n` is at `n - 1`.
    pub events: Vec<Event>,
    /// Whether the file ended in the middle of a line, as a killed harness leaves it. That line is
    /// left out.
    pub torn: bool,
}

/// Reads a history, one event a line.
///
/// # Errors
/// The file cannot be read, or a line that was wholly written is no event or out of order.
pub fn read(path: &Path) -> Result<Whole, ReadError> {
    let mut events = Events::open(path)?;
    let read = events.by_ref().collect::<Result<_, _>>()?;
    Ok(Whole { events: read, torn: events.torn })
}

/// The order of events: every index follows the last, from 0, and no time lies before the last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sequence {
    next_index: u64,
    time: u64,
}

impl Sequence {
    /// Takes in the next event.
    ///
    /// # Errors
    /// In words: it is not the next.
    pub(super) fn next(&mut self, index: u64, time: u64) -> Result<(), String> {
        let Sequence { next_index, time: last } = *self;
        if index != next_index {
            let missing = if index > next_index { ": events are missing" } else { "" };
            return Err(format!("index {index} where {next_index} should be{missing}"));
        }
        if time < last {
            return Err(format!("time {time} after time {last}"));
        }
        *self = Sequence { next_index: index + 1, time };
        Ok(())
    }
}

/// The events of a history, read one at a time.
pub struct Events {
    input: Box<dyn BufRead>,
    path: PathBuf,
    line: Vec<u8>,
    /// How many were read.
    count: usize,
    sequence: Sequence,
    torn: bool,
}

impl Events {
    /// The events of a file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Events, ReadError> {
        let io = |source| ReadError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        Ok(Events::of(Box::new(BufReader::with_capacity(1 << 18, file)), path))
    }

    /// The events of anything; the path is for messages.
    fn of(input: Box<dyn BufRead>, path: &Path) -> Events {
        let path = path.to_owned();
        Events {
            input,
            path,
            line: Vec::new(),
            count: 0,
            sequence: Sequence::default(),
            torn: false,
        }
    }

    fn event(&mut self) -> Result<Event, ReadError> {
        let malformed = |column, reason| ReadError::Malformed {
            path: self.path.clone(),
            line: self.count + 1,
            column,
            reason,
        };
        let event: Event = serde_json::from_slice(&self.line).map_err(|error| {
            // serde_json appends its own idea of the place, where the line is always 1.
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or(&reason).to_owned();
            malformed(error.column().max(1), reason)
        })?;
        self.sequence.next(event.index, event.time).map_err(|reason| malformed(1, reason))?;
        self.count += 1;
        Ok(event)
    }
}

impl Iterator for Events {
    type Item = Result<Event, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.line.clear();
        match self.input.read_until(b'\n', &mut self.line) {
            Err(source) => Some(Err(ReadError::Io { path: self.path.clone(), source })),
            Ok(0) => None,
            Ok(_) if self.line.pop() != Some(b'\n') => {
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

    fn text(text: &str) -> Result<Whole, String> {
        let input = Box::new(Cursor::new(text.as_bytes().to_vec()));
        let mut events = Events::of(input, Path::new("h"));
        let read = events.by_ref().collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        Ok(Whole { events: read, torn: events.torn })
    }

    #[test]
    fn a_torn_last_line_is_left_out() {
        let whole = text(&format!("{GOOD}\n{}", &GOOD[..30])).expect("a killed harness leaves it");
        assert_eq!((whole.events.len(), whole.torn), (1, true));
        let whole = text(&format!("{GOOD}\n")).expect("a whole history");
        assert_eq!((whole.events.len(), whole.torn), (1, false));
    }

    #[test]
    fn the_place_of_an_error_is_told() {
        let error = text(&format!("{GOOD}\n{{\"index\":1,\"time\":x}}\n")).expect_err("x");
        assert_eq!(error, "h:2:19: expected value");
        let error = text(&format!("{GOOD}\n{GOOD}\n")).expect_err("the same index twice");
        assert_eq!(error, "h:2:1: index 0 where 1 should be");
        let error =
            text(&format!("{}\n", GOOD.replace(":0,", ":1,"))).expect_err("there was one before");
        assert_eq!(error, "h:1:1: index 1 where 0 should be: events are missing");
        let earlier = GOOD.replace(":0,", ":1,").replace(":1,\"process", ":0,\"process");
        let error = text(&format!("{GOOD}\n{earlier}\n")).expect_err("time goes back");
        assert_eq!(error, "h:2:1: time 0 after time 1");
        let error = text("\n").expect_err("an empty line is no event");
        assert!(error.starts_with("h:1:1: "), "{error}");
        let error = read(Path::new("/nonexistent/h")).expect_err("no such file").to_string();
        assert!(error.starts_with("/nonexistent/h: "), "{error}");
    }
}
