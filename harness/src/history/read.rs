//! Reads a recorded history back, with the exact place of whatever is wrong with it.
//! Knows the lines, not what operations they make.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
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
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    read_from(File::open(path).map_err(io)?, path)
}

/// Reads a history from anything; the path is for messages.
pub(super) fn read_from(from: impl Read, path: &Path) -> Result<Whole, ReadError> {
    let mut input = BufReader::with_capacity(1 << 18, from);
    let mut whole = Whole::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let io = |source| ReadError::Io { path: path.to_owned(), source };
        if input.read_until(b'\n', &mut line).map_err(io)? == 0 {
            return Ok(whole);
        }
        let malformed = |column, reason| ReadError::Malformed {
            path: path.to_owned(),
            line: whole.events.len() + 1,
            column,
            reason,
        };
        if line.pop() != Some(b'\n') {
            whole.torn = true;
            return Ok(whole);
        }
        let event: Event = serde_json::from_slice(&line).map_err(|error| {
            // serde_json appends its own idea of the place, where the line is always 1.
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or(&reason).to_owned();
            malformed(error.column().max(1), reason)
        })?;
        if let Some(last) = whole.events.last() {
            if event.index <= last.index {
                let reason = format!("index {} after index {}", event.index, last.index);
                return Err(malformed(1, reason));
            }
            if event.time < last.time {
                let reason = format!("time {} after time {}", event.time, last.time);
                return Err(malformed(1, reason));
            }
        }
        whole.events.push(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"index":0,"time":1,"process":1,"type":"invoke","f":"get","key":"a"}"#;

    fn text(text: &str) -> Result<Whole, String> {
        read_from(text.as_bytes(), Path::new("h")).map_err(|error| error.to_string())
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
        assert_eq!(error, "h:2:1: index 0 after index 0");
        let error = text("\n").expect_err("an empty line is no event");
        assert!(error.starts_with("h:1:1: "), "{error}");
        let error = read(Path::new("/nonexistent/h")).expect_err("no such file").to_string();
        assert!(error.starts_with("/nonexistent/h: "), "{error}");
    }
}
