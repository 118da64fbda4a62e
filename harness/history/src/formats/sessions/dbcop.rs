//! dbcop's `history.bincode`: little-endian, counts of eight bytes before what they count. Five numbers of
//! parameters; three texts: what it is, start and end; then sessions of transactions of accesses. An access
//! is a byte (1: write), key, value, and a byte (1: it was done); a transaction ends with a byte (1:
//! committed).

use std::io::BufRead;

use super::{
    super::{FormatError, pairing::PairingSink},
    Access, SessionTransaction, Sessions,
};
use crate::Outcome;

/// The most bytes of a text in the header.
const TEXT_MAX: u64 = 4096;

/// Whether a file begins like one of dbcop's: the second and the third text are dates.
pub(in super::super) fn is_dbcop(start: &[u8]) -> bool {
    let mut rest: &[u8] = start;
    let mut reader = Reader { input: &mut rest, offset: 0 };
    reader.header().is_ok()
}

struct Reader<'i> {
    input: &'i mut dyn BufRead,
    offset: u64,
}

impl Reader<'_> {
    fn error(&self, reason: &str) -> FormatError {
        FormatError::new(
            1,
            usize::try_from(self.offset).unwrap_or(usize::MAX),
            format!("byte {}: {reason}", self.offset),
        )
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut bytes = [0; N];
        self.input
            .read_exact(&mut bytes)
            .map_err(|_| self.error("the file ends in the middle of a history"))?;
        self.offset += N as u64;
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, FormatError> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool, FormatError> {
        match self.bytes::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.error(&format!("expected 0 or 1, found {other}"))),
        }
    }

    fn text(&mut self) -> Result<String, FormatError> {
        let length = self.number()?;
        if length > TEXT_MAX {
            return Err(self.error("a text of more than 4096 bytes: no history of dbcop's"));
        }
        let mut bytes = Vec::new();
        for _ in 0..length {
            bytes.extend(self.bytes::<1>()?);
        }
        String::from_utf8(bytes).map_err(|_| self.error("a text that is not UTF-8"))
    }

    fn header(&mut self) -> Result<(), FormatError> {
        for _ in 0..5 {
            self.number()?;
        }
        self.text()?;
        for _ in 0..2 {
            let date = self.text()?;
            let bytes = date.as_bytes();
            if bytes.len() < 19 || bytes[4] != b'-' || bytes[7] != b'-' || bytes[10] != b'T' {
                return Err(self.error(&format!("expected a date, found '{date}'")));
            }
        }
        Ok(())
    }

    fn transaction(&mut self) -> Result<SessionTransaction, FormatError> {
        let mut accesses = Vec::new();
        // Counts are not believed: nothing is allocated for what is not there.
        for _ in 0..self.number()? {
            let is_write = self.flag()?;
            let [key, value] = [self.number()?, self.number()?];
            if self.flag()? {
                accesses.push(Access { is_write, key, value: Some(value) });
            }
        }
        let outcome = if self.flag()? { Outcome::Ok } else { Outcome::Fail };
        Ok(SessionTransaction { accesses, outcome })
    }
}

/// Reads dbcop's histories.
pub(in super::super) fn stream(
    input: &mut dyn BufRead,
    pairs: &mut PairingSink<'_>,
) -> Result<(), FormatError> {
    let mut reader = Reader { input, offset: 0 };
    reader.header()?;
    let mut sessions = Sessions::default();
    for session in 0..reader.number()? {
        let count = reader.number()?;
        let transactions = sessions.add(session, None);
        for _ in 0..count {
            transactions.push(reader.transaction()?);
        }
    }
    if !reader.input.fill_buf().map_err(FormatError::Io)?.is_empty() {
        return Err(reader.error("more follows the last session"));
    }
    sessions.zero_is_initial();
    sessions.pass_on(pairs).map_err(|error| FormatError::new(1, 1, error.to_string()))
}
