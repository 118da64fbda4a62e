//! Cobra's logs: a directory with a binary file `T*.log` for each session. Records begin with a letter and
//! have big-endian numbers of eight bytes: `S` transaction, `W` write key value-hash, `R` transaction write
//! key value-hash, `C` transaction, `A` transaction. What was written is told by the number of the write.
//!
//! The logs are read one after the other as one stream, each after a mark.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use super::{
    super::{FormatError, pairing::PairingSink},
    Access, SessionTransaction, Sessions,
};
use crate::Outcome;

/// What comes before each log in the stream.
const MARK: u8 = b'T';

/// Writes that stand for none: of a key that was never written, and of one that was loaded before.
const NOT_WRITTEN: [u64; 2] = [0xdead_beef, 0xbebe_ebee];

/// The logs in a directory, in the order of their numbers. `None` if it is not one of Cobra's.
pub(in super::super) fn logs(directory: &Path) -> Option<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).ok()?;
    let is_log = |path: &PathBuf| {
        let is_named =
            path.file_stem().is_some_and(|name| name.as_encoded_bytes().starts_with(b"T"));
        let mut first = [0];
        is_named
            && path.extension() == Some(OsStr::new("log"))
            && File::open(path).and_then(|mut file| file.read(&mut first)).is_ok()
            && matches!(first, [b'S' | 0])
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut logs: Vec<PathBuf> = paths.filter(is_log).collect();
    logs.sort_unstable_by_key(|path| (path.as_os_str().len(), path.clone()));
    let begins = |path: &PathBuf| path.metadata().is_ok_and(|metadata| metadata.len() > 0);
    logs.iter().any(begins).then_some(logs)
}

/// The stream of a directory's logs.
pub(in super::super) fn open(logs: Vec<PathBuf>) -> Logs {
    Logs { rest: logs.into_iter(), current: None }
}

/// Logs one after the other.
pub(in super::super) struct Logs {
    rest: std::vec::IntoIter<PathBuf>,
    current: Option<BufReader<File>>,
}

impl Read for Logs {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Some(log) = &mut self.current {
            let count = log.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
        }
        let Some(next) = self.rest.next() else { return Ok(0) };
        buffer[0] = MARK;
        self.current = Some(BufReader::new(File::open(next)?));
        Ok(1)
    }
}

struct Reader<'i> {
    input: &'i mut dyn BufRead,
    /// Number of the log, and offset in it.
    log: u64,
    offset: u64,
}

impl Reader<'_> {
    fn error(&self, reason: &str) -> FormatError {
        let Reader { log, offset, .. } = self;
        let column = usize::try_from(*offset).unwrap_or(usize::MAX);
        FormatError::new(1, column, format!("log {log}, byte {offset}: {reason}"))
    }

    fn letter(&mut self) -> Result<Option<u8>, FormatError> {
        let Some(letter) = self.input.fill_buf().map_err(FormatError::Io)?.first().copied() else {
            return Ok(None);
        };
        self.input.consume(1);
        self.offset += 1;
        Ok(Some(letter))
    }

    fn number(&mut self) -> Result<u64, FormatError> {
        let mut bytes = [0; 8];
        self.input
            .read_exact(&mut bytes)
            .map_err(|_| self.error("the log ends in the middle of a record"))?;
        self.offset += 8;
        Ok(u64::from_be_bytes(bytes))
    }
}

/// Reads the stream of a directory's logs.
pub(in super::super) fn stream(
    input: &mut dyn BufRead,
    pairs: &mut PairingSink<'_>,
) -> Result<(), FormatError> {
    let mut reader = Reader { input, log: 0, offset: 0 };
    let mut sessions = Sessions::default();
    let mut open: Option<(u64, Vec<Access>)> = None;
    let mut session: Vec<SessionTransaction> = Vec::new();
    let mut end_session = |session: &mut Vec<SessionTransaction>,
                           open: Option<(u64, Vec<Access>)>| {
        // Whether the last transaction of a log was committed is not known.
        session.extend(
            open.map(|(_, accesses)| SessionTransaction { accesses, outcome: Outcome::Info }),
        );
        let number = sessions.names.len() as u64;
        *sessions.add(number, None) = std::mem::take(session);
    };
    while let Some(letter) = reader.letter()? {
        match (letter, &mut open) {
            (MARK, _) => {
                if reader.log > 0 {
                    end_session(&mut session, open.take());
                }
                reader.log += 1;
                reader.offset = 0;
            }
            (b'S', None) => open = Some((reader.number()?, Vec::new())),
            (b'W', Some((_, accesses))) => {
                let [write, key, _] = [reader.number()?, reader.number()?, reader.number()?];
                accesses.push(Access { is_write: true, key, value: Some(write) });
            }
            (b'R', Some((_, accesses))) => {
                let [_, write, key, _] =
                    [reader.number()?, reader.number()?, reader.number()?, reader.number()?];
                let value = (!NOT_WRITTEN.contains(&write)).then_some(write);
                accesses.push(Access { is_write: false, key, value });
            }
            (b'C' | b'A', Some((started, accesses))) => {
                let number = reader.number()?;
                if number != *started {
                    return Err(reader.error(&format!(
                        "transaction {number} ends, but transaction {started} has begun"
                    )));
                }
                let accesses = std::mem::take(accesses);
                let outcome = if letter == b'C' { Outcome::Ok } else { Outcome::Fail };
                session.push(SessionTransaction { accesses, outcome });
                open = None;
            }
            _ => {
                return Err(reader.error(&format!(
                    "unexpected record {:?}: expected S, then W, R, C or A",
                    char::from(letter)
                )));
            }
        }
    }
    end_session(&mut session, open.take());
    sessions.pass_on(pairs).map_err(|error| FormatError::new(1, 1, error.to_string()))
}
