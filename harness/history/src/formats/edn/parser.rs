//! Parses EDN values and tracks their positions.

use std::fmt::Write as _;

use super::super::FormatError;

/// An EDN value, borrowed from the text where possible.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Nil,
    /// A number, symbol, character or boolean in its text form.
    Atom(&'a str),
    Keyword(&'a str),
    Text(String),
    /// A vector, list or set.
    Sequence(Vec<Value<'a>>),
    Map(Vec<(Value<'a>, Value<'a>)>),
}

impl<'a> Value<'a> {
    pub(super) fn field(&self, name: &str) -> Option<&Value<'a>> {
        let Value::Map(entries) = self else { return None };
        entries.iter().find(|(key, _)| *key == Value::Keyword(name)).map(|(_, value)| value)
    }

    /// The value as text. Texts are equal exactly if the values are.
    pub(super) fn written(&self) -> String {
        match self {
            Value::Nil => "nil".to_owned(),
            Value::Atom(text) => (*text).to_owned(),
            Value::Keyword(name) => format!(":{name}"),
            Value::Text(text) => format!("{text:?}"),
            Value::Sequence(values) => {
                let mut written = "[".to_owned();
                for value in values {
                    // Writing to a string cannot fail.
                    let _ = write!(written, "{} ", value.written());
                }
                written + "]"
            }
            Value::Map(entries) => {
                let mut written = "{".to_owned();
                for (key, value) in entries {
                    let _ = write!(written, "{} {} ", key.written(), value.written());
                }
                written + "}"
            }
        }
    }
}

/// Maximum nesting depth of values.
pub(super) const DEPTH_MAX: usize = 64;

/// A position in a file. Line and column count from 1.
#[derive(Clone, Copy)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Position {
    /// The position after a text that begins here.
    pub(super) fn after(self, text: &[u8]) -> Position {
        match text.iter().rposition(|byte| *byte == b'\n') {
            None => Position { column: self.column + text.len(), ..self },
            Some(last) => Position {
                line: self.line + text[..=last].iter().filter(|byte| **byte == b'\n').count(),
                column: text.len() - last,
            },
        }
    }

    pub(super) fn error(self, reason: impl Into<String>) -> FormatError {
        FormatError::new(self.line, self.column, reason)
    }
}

/// Parses values from the text in memory.
pub(super) struct Parser<'a> {
    text: &'a [u8],
    /// Bytes before this offset are parsed.
    pub(super) at: usize,
    /// The position of the text in the file.
    position: Position,
    /// The parser has met the end of the text, so that more text could change the result.
    pub(super) reached_end: bool,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a [u8], position: Position) -> Self {
        Parser { text, at: 0, position, reached_end: false }
    }

    fn error(&self, at: usize, reason: impl Into<String>) -> FormatError {
        self.position.after(&self.text[..at.min(self.text.len())]).error(reason)
    }

    pub(super) fn peek(&mut self) -> Option<u8> {
        let next = self.text.get(self.at).copied();
        self.reached_end |= next.is_none();
        next
    }

    pub(super) fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b';' => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.at += 1;
                    }
                }
                b',' => self.at += 1,
                byte if byte.is_ascii_whitespace() => self.at += 1,
                _ => return,
            }
        }
    }

    /// The next value, `None` at the end of the text or after a discarded value at it.
    pub(super) fn value(&mut self, depth: usize) -> Result<Option<Value<'a>>, FormatError> {
        self.skip_space();
        let start = self.at;
        let Some(byte) = self.peek() else { return Ok(None) };
        if depth > DEPTH_MAX {
            return Err(self.error(start, "values are nested too deeply"));
        }
        match byte {
            b'"' => self.string().map(Some),
            b'[' | b'(' => {
                self.at += 1;
                let close = if byte == b'[' { b']' } else { b')' };
                Ok(Some(Value::Sequence(self.sequence(close, start, depth)?)))
            }
            b'{' => {
                self.at += 1;
                self.map(start, depth).map(Some)
            }
            b'#' => {
                self.at += 1;
                match self.peek() {
                    Some(b'{') => {
                        self.at += 1;
                        Ok(Some(Value::Sequence(self.sequence(b'}', start, depth)?)))
                    }
                    Some(b'_') => {
                        self.at += 1;
                        self.required(start, depth)?;
                        self.value(depth + 1)
                    }
                    // A tag names the type of the value that follows. Only the value matters here.
                    _ => {
                        self.token();
                        self.required(start, depth).map(Some)
                    }
                }
            }
            b']' | b')' | b'}' => {
                Err(self.error(start, format!("unmatched '{}'", char::from(byte))))
            }
            _ => {
                let token = self.token();
                let token =
                    std::str::from_utf8(token).map_err(|_| self.error(start, "not UTF-8"))?;
                Ok(Some(match token.strip_prefix(':') {
                    Some(name) => Value::Keyword(name),
                    None if token == "nil" => Value::Nil,
                    None => Value::Atom(token),
                }))
            }
        }
    }

    fn required(&mut self, start: usize, depth: usize) -> Result<Value<'a>, FormatError> {
        match self.value(depth + 1)? {
            Some(value) => Ok(value),
            None => Err(self.error(start, "a value is missing at the end of the text")),
        }
    }

    fn sequence(
        &mut self,
        close: u8,
        start: usize,
        depth: usize,
    ) -> Result<Vec<Value<'a>>, FormatError> {
        let mut values = Vec::new();
        loop {
            self.skip_space();
            match self.peek() {
                None => return Err(self.error(start, "not closed")),
                Some(byte) if byte == close => {
                    self.at += 1;
                    return Ok(values);
                }
                Some(_) => values.push(self.required(start, depth)?),
            }
        }
    }

    fn map(&mut self, start: usize, depth: usize) -> Result<Value<'a>, FormatError> {
        let values = self.sequence(b'}', start, depth)?;
        if values.len() % 2 == 1 {
            return Err(self.error(start, "a map with a key without a value"));
        }
        let mut entries = Vec::with_capacity(values.len() / 2);
        let mut values = values.into_iter();
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            entries.push((key, value));
        }
        Ok(Value::Map(entries))
    }

    fn token(&mut self) -> &'a [u8] {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek() {
            if byte.is_ascii_whitespace() || b",;\"[](){}".contains(&byte) {
                break;
            }
            self.at += 1;
        }
        &self.text[start..self.at.min(self.text.len())]
    }

    fn string(&mut self) -> Result<Value<'a>, FormatError> {
        let start = self.at;
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            let Some(byte) = self.peek() else { return Err(self.error(start, "not closed")) };
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => self.escape(&mut bytes)?,
                byte => bytes.push(byte),
            }
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Value::Text(text)),
            Err(_) => Err(self.error(start, "not UTF-8")),
        }
    }

    /// What follows a backslash in a string.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), FormatError> {
        let escaped = self.peek();
        self.at += 1;
        match escaped {
            Some(b'n') => bytes.push(b'\n'),
            Some(b't') => bytes.push(b'\t'),
            Some(b'r') => bytes.push(b'\r'),
            Some(same @ (b'"' | b'\\')) => bytes.push(same),
            Some(b'u') => {
                let digits = self.text.get(self.at..self.at + 4);
                self.reached_end |= digits.is_none();
                let letter = digits
                    .and_then(|digits| std::str::from_utf8(digits).ok())
                    .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                    .and_then(char::from_u32);
                let Some(letter) = letter else {
                    return Err(self.error(self.at - 2, "\\u needs four digits"));
                };
                self.at += 4;
                bytes.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return Err(self.error(self.at - 2, "unknown escape")),
        }
        Ok(())
    }
}
