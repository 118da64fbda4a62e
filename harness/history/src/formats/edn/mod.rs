//! EDN as Jepsen and Porcupine write it: Jepsen's `history.edn`, with or without `independent`
//! tuples, and Porcupine's key/value data. Unknown fields are ignored, except those that may name a key. One
//! operation and the bytes read ahead of it are in memory at a time.

mod key_value;
pub(super) mod parser;

use std::io::BufRead;

use self::{
    key_value::KeyValueTranslator,
    parser::{DEPTH_MAX, Form, Parser, Position},
};
use super::{
    FormatError,
    events::{EventFields, EventTranslator, is_no_key},
    pairing::PairingSink,
};
use crate::Value;

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
    /// A form, which should be an event.
    Form(Form<'a>),
    /// A value after `#_`, which EDN ignores.
    Discarded,
}

/// Parses one value.
///
/// # Errors
/// The text is not one EDN value.
pub(super) fn parse(text: &str) -> Result<Value<'_>, String> {
    let mut parser = Parser::new(text.as_bytes(), Position { line: 1, column: 1 });
    let value = parser.value(0);
    parser.skip_space();
    match value {
        Ok(Some(value)) if parser.at == text.len() => Ok(value),
        Err(FormatError::Malformed { reason, .. }) => Err(format!("'{text}': {reason}")),
        _ => Err(format!("'{text}': expected one EDN value")),
    }
}

/// Takes the maps of a history.
trait EventMaps {
    /// Takes the next map.
    ///
    /// # Errors
    /// It is not an event, or does not fit the ones before it.
    fn take(&mut self, fields: &EventFields<'_>) -> Result<(), String>;
}

impl EventMaps for EventTranslator<'_, '_> {
    fn take(&mut self, fields: &EventFields<'_>) -> Result<(), String> {
        EventTranslator::take(self, fields)
    }
}

/// Reads a history of Jepsen's: a sequence of maps, or vectors of maps.
pub(super) fn stream(
    input: &mut dyn BufRead,
    pairs: &mut PairingSink<'_>,
) -> Result<(), FormatError> {
    let mut events = EventTranslator::new(pairs);
    maps(input, &mut events)?;
    events.finish()
}

/// Reads Porcupine's key/value data.
pub(super) fn stream_key_value(
    input: &mut dyn BufRead,
    pairs: &mut PairingSink<'_>,
) -> Result<(), FormatError> {
    maps(input, &mut KeyValueTranslator::new(pairs))
}

fn maps(input: &mut dyn BufRead, events: &mut dyn EventMaps) -> Result<(), FormatError> {
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
            Item::Form(Form::Map(entries)) => {
                let fields = event_fields(entries).map_err(|reason| here().error(reason))?;
                events.take(&fields).map_err(|reason| here().error(reason))?;
            }
            Item::Form(Form::Other(value)) => {
                let reason = format!("expected a map such as {{:process 0, ...}}, found {value}");
                return Err(here().error(reason));
            }
            Item::Discarded => {}
        }
        let count = parser.at;
        buffer.consume(count);
    }
}

/// The fields of an event in a map.
pub(super) fn event_fields<'a>(
    entries: Vec<(Value<'a>, Value<'a>)>,
) -> Result<EventFields<'a>, String> {
    let mut fields = EventFields::default();
    for (name, value) in entries {
        let Value::Keyword(name) = name else {
            name.name().map_or(Ok(()), is_no_key)?;
            continue;
        };
        let Some(field) = fields.named(&name) else {
            is_no_key(&name)?;
            continue;
        };
        if field.replace(value).is_some() {
            return Err(format!("an event with two fields :{name}"));
        }
    }
    Ok(fields)
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
        Some(_) => Ok(parser.form()?.map_or(Item::Discarded, Item::Form)),
    }
}
