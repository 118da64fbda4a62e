//! EDN as Jepsen and Porcupine write it: Jepsen's `history.edn`, with or without `independent`
//! tuples, and Porcupine's key/value data. Unknown fields are ignored. One operation and the bytes
//! read ahead of it are in memory at a time.

mod events;
mod parser;

use std::io::BufRead;

use self::{
    events::EventTranslator,
    parser::{DEPTH_MAX, Parser, Position, Value},
};
use super::{FormatError, pairing::PairingSink};

/// The part of the input that is in memory.
struct ReadBuffer<'i> {
    input: &'i mut dyn BufRead,
    text: Vec<u8>,
    /// Bytes before this offset are consumed.
    at: usize,
    /// The position of that offset in the file.
    position: Position,
    /// The text extends to the end of the input.
    is_complete: bool,
}

impl ReadBuffer<'_> {
    /// Drops what is consumed and doubles the rest, or finds the end of the input.
    fn grow(&mut self) -> Result<(), FormatError> {
        self.text.drain(..self.at);
        self.at = 0;
        let wanted = 2 * self.text.len() + 1;
        while self.text.len() < wanted && !self.is_complete {
            let ahead = self.input.fill_buf().map_err(FormatError::Io)?;
            let count = ahead.len();
            self.text.extend_from_slice(ahead);
            self.input.consume(count);
            self.is_complete = count == 0;
        }
        Ok(())
    }

    /// Advances over bytes that were parsed.
    fn consume(&mut self, count: usize) {
        let end = self.at + count;
        self.position = self.position.after(&self.text[self.at..end]);
        self.at = end;
    }
}

/// One step at the top level of the input.
enum Item<'a> {
    /// The end of the input.
    End,
    /// The start of a vector or list, with the byte that closes it.
    Open(u8),
    /// The end of the innermost open vector or list.
    Close,
    /// A value.
    Value(Value<'a>),
    /// A value after `#_`, which EDN ignores.
    Discarded,
}

/// Reads a history: a sequence of maps, or vectors of maps.
pub(super) fn stream(
    input: &mut dyn BufRead,
    porcupine: bool,
    pairs: &mut PairingSink<'_>,
) -> Result<(), FormatError> {
    let mut events = EventTranslator::new(pairs);
    let position = Position { line: 1, column: 1 };
    let mut buffer = ReadBuffer { input, text: Vec::new(), at: 0, position, is_complete: false };
    // The vectors around the maps are not parsed as values: their maps are read one at a time.
    let mut open: Vec<(u8, Position)> = Vec::new();
    loop {
        let text = &buffer.text[buffer.at..];
        let mut parser = Parser::new(text, buffer.position);
        parser.skip_space();
        let start = parser.at;
        let item = item(&mut parser, open.last().map(|(close, _)| *close), open.len());
        if parser.reached_end && !buffer.is_complete {
            // With more bytes the result may be another one: parse again.
            buffer.grow()?;
            continue;
        }
        let here = || buffer.position.after(&text[..start]);
        match item? {
            Item::End => {
                return open.last().map_or(Ok(()), |(_, opened)| Err(opened.error("not closed")));
            }
            Item::Open(close) => open.push((close, here())),
            Item::Close => drop(open.pop()),
            Item::Value(value) => {
                events.take(&value, porcupine).map_err(|reason| here().error(reason))?;
            }
            Item::Discarded => {}
        }
        let count = parser.at;
        buffer.consume(count);
    }
}

fn item<'a>(
    parser: &mut Parser<'a>,
    close: Option<u8>,
    depth: usize,
) -> Result<Item<'a>, FormatError> {
    match parser.peek() {
        None => Ok(Item::End),
        Some(byte @ (b'[' | b'(')) if depth < DEPTH_MAX => {
            parser.at += 1;
            Ok(Item::Open(if byte == b'[' { b']' } else { b')' }))
        }
        Some(byte) if Some(byte) == close => {
            parser.at += 1;
            Ok(Item::Close)
        }
        Some(_) => Ok(parser.value(0)?.map_or(Item::Discarded, Item::Value)),
    }
}
