//! Parses EDN values, as Clojure prints them, and tracks their positions.

use std::borrow::Cow;

use super::super::FormatError;
use crate::value::{CHARACTERS, DecimalNumber, NumberKind, Value, is_digits};

/// Maximum nesting depth of values.
pub(in super::super) const DEPTH_MAX: usize = 64;

/// A position in a file. Line and column count from 1.
#[derive(Clone, Copy)]
pub(in super::super) struct Position {
    pub(in super::super) line: usize,
    pub(in super::super) column: usize,
}

impl Position {
    /// The position after a text that begins here.
    pub(in super::super) fn after(self, text: &[u8]) -> Position {
        match text.iter().rposition(|byte| *byte == b'\n') {
            None => Position { column: self.column + text.len(), ..self },
            Some(last) => Position {
                line: self.line + text[..=last].iter().filter(|byte| **byte == b'\n').count(),
                column: text.len() - last,
            },
        }
    }

    pub(in super::super) fn error(self, reason: impl Into<String>) -> FormatError {
        FormatError::new(self.line, self.column, reason)
    }
}

/// What stands at the top level of a history.
pub(in super::super) enum Form<'a> {
    /// A map, with its entries in the order of the text: an event. Its tag, the name of a record, is
    /// dropped.
    Map(Vec<(Value<'a>, Value<'a>)>),
    /// Another value.
    Other(Value<'a>),
}

/// Parses values from the text in memory.
pub(in super::super) struct Parser<'a> {
    text: &'a [u8],
    /// Bytes before this offset are parsed.
    pub(in super::super) at: usize,
    /// The position of the text in the file.
    position: Position,
    /// The parser has met the end of the text, so that more text could change the result.
    pub(in super::super) reached_end: bool,
}

/// What follows a `#`.
enum Dispatched<'a> {
    Value(Value<'a>),
    /// A value after `#_`, which EDN ignores.
    Discarded,
    /// A tag, whose value follows.
    Tag(&'a str),
}

impl<'a> Parser<'a> {
    pub(in super::super) fn new(text: &'a [u8], position: Position) -> Self {
        Parser { text, at: 0, position, reached_end: false }
    }

    fn error(&self, at: usize, reason: impl Into<String>) -> FormatError {
        self.position.after(&self.text[..at.min(self.text.len())]).error(reason)
    }

    pub(in super::super) fn peek(&mut self) -> Option<u8> {
        let next = self.text.get(self.at).copied();
        self.reached_end |= next.is_none();
        next
    }

    pub(in super::super) fn skip_space(&mut self) {
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

    /// The next form at the top level, `None` at the end of the text or after a discarded value.
    pub(in super::super) fn form(&mut self) -> Result<Option<Form<'a>>, FormatError> {
        let mut tag = None;
        loop {
            self.skip_space();
            let start = self.at;
            let form = match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    Some(Form::Map(self.entries(start, 0)?))
                }
                Some(b'#') => match self.dispatched(0)? {
                    Dispatched::Tag(_) => {
                        tag = tag.or(Some(start));
                        continue;
                    }
                    Dispatched::Value(value) => Some(Form::Other(value)),
                    Dispatched::Discarded => None,
                },
                _ => self.value(0)?.map(Form::Other),
            };
            return match (form, tag) {
                (None, Some(tag)) => Err(self.error(tag, "a tag without a value")),
                (form, _) => Ok(form),
            };
        }
    }

    /// The next value, `None` at the end of the text or after a discarded value at it.
    pub(in super::super) fn value(
        &mut self,
        depth: usize,
    ) -> Result<Option<Value<'a>>, FormatError> {
        self.skip_space();
        let start = self.at;
        let Some(byte) = self.peek() else { return Ok(None) };
        if depth > DEPTH_MAX {
            return Err(self.error(start, "values are nested too deeply"));
        }
        let value = match byte {
            b'"' => Value::Text(self.string()?),
            b'[' | b'(' => {
                self.at += 1;
                let close = if byte == b'[' { b']' } else { b')' };
                Value::List(self.sequence(close, start, depth)?)
            }
            b'{' => {
                self.at += 1;
                let entries = self.entries(start, depth)?;
                Value::map(entries).map_err(|reason| self.error(start, reason))?
            }
            b'\\' => self.character()?,
            b'#' => match self.dispatched(depth)? {
                Dispatched::Value(value) => value,
                Dispatched::Tag(tag) => {
                    let value = self.required(start, depth)?;
                    Value::Tagged(tag.into(), Box::new(value))
                }
                Dispatched::Discarded => return self.value(depth + 1),
            },
            b']' | b')' | b'}' => {
                return Err(self.error(start, format!("unmatched '{}'", char::from(byte))));
            }
            b'^' | b'\'' | b'`' | b'~' | b'@' => {
                let reason = format!("'{}' is Clojure's, but not EDN", char::from(byte));
                return Err(self.error(start, reason));
            }
            _ => self.atom()?,
        };
        Ok(Some(value))
    }

    /// What follows a `#`, which is next.
    fn dispatched(&mut self, depth: usize) -> Result<Dispatched<'a>, FormatError> {
        let start = self.at;
        self.at += 1;
        Ok(match self.peek() {
            Some(b'{') => {
                self.at += 1;
                let elements = self.sequence(b'}', start, depth)?;
                let set = Value::set(elements).map_err(|reason| self.error(start, reason))?;
                Dispatched::Value(set)
            }
            Some(b'_') => {
                self.at += 1;
                self.required(start, depth)?;
                Dispatched::Discarded
            }
            Some(b'#') => {
                self.at += 1;
                let kind = NumberKind::Float;
                Dispatched::Value(match self.token()? {
                    "NaN" => Value::Number(kind, "##NaN".into()),
                    "Inf" => Value::Number(kind, "##Inf".into()),
                    "-Inf" => Value::Number(kind, "##-Inf".into()),
                    other => {
                        let reason = format!("'##{other}': expected ##NaN, ##Inf or ##-Inf");
                        return Err(self.error(start, reason));
                    }
                })
            }
            Some(b'"') => Dispatched::Value(Value::Regex(self.regex()?)),
            Some(b'\'') => Dispatched::Value(Value::Symbol(format!("#{}", self.token()?).into())),
            Some(b':') => {
                let namespace = &self.token()?[1..];
                Dispatched::Value(self.namespaced(namespace, start, depth)?)
            }
            Some(byte) if byte.is_ascii_alphabetic() => Dispatched::Tag(self.token()?),
            _ => return Err(self.error(start, "expected a tag, a set or #_ after '#'")),
        })
    }

    /// A map after `#:namespace`, which applies to keywords and symbols without one.
    fn namespaced(
        &mut self,
        namespace: &str,
        start: usize,
        depth: usize,
    ) -> Result<Value<'a>, FormatError> {
        self.skip_space();
        if self.peek() != Some(b'{') || namespace.is_empty() {
            return Err(self.error(start, "expected #:namespace{...}"));
        }
        self.at += 1;
        let mut entries = self.entries(start, depth)?;
        for (key, _) in &mut entries {
            let (Value::Keyword(name) | Value::Symbol(name)) = key else { continue };
            match name.strip_prefix("_/") {
                Some(bare) => *name = bare.to_owned().into(),
                None if !name.contains('/') => *name = format!("{namespace}/{name}").into(),
                None => {}
            }
        }
        Value::map(entries).map_err(|reason| self.error(start, reason))
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
                // A discarded value may be the last one before the end.
                Some(b'#') if self.text.get(self.at + 1) == Some(&b'_') => {
                    self.at += 2;
                    self.required(start, depth)?;
                }
                Some(_) => values.push(self.required(start, depth)?),
            }
        }
    }

    fn entries(
        &mut self,
        start: usize,
        depth: usize,
    ) -> Result<Vec<(Value<'a>, Value<'a>)>, FormatError> {
        let values = self.sequence(b'}', start, depth)?;
        if values.len() % 2 == 1 {
            return Err(self.error(start, "a map with a key without a value"));
        }
        let mut entries = Vec::with_capacity(values.len() / 2);
        let mut values = values.into_iter();
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            entries.push((key, value));
        }
        Ok(entries)
    }

    /// The text up to the next delimiter, at least one byte.
    fn token(&mut self) -> Result<&'a str, FormatError> {
        let start = self.at;
        self.skip_token();
        self.text_from(start)
    }

    fn skip_token(&mut self) {
        self.at += 1;
        while let Some(byte) = self.peek() {
            let is_delimiter =
                matches!(byte, b',' | b';' | b'"' | b'[' | b']' | b'(' | b')' | b'{' | b'}');
            if is_delimiter || byte.is_ascii_whitespace() {
                break;
            }
            self.at += 1;
        }
    }

    /// The text between an offset and the next byte.
    fn text_from(&self, start: usize) -> Result<&'a str, FormatError> {
        let end = self.text.len();
        str::from_utf8(&self.text[start.min(end)..self.at.min(end)])
            .map_err(|_| self.error(start, "not UTF-8"))
    }

    /// A keyword, number, symbol or one of the three constants.
    fn atom(&mut self) -> Result<Value<'a>, FormatError> {
        let start = self.at;
        let token = self.token()?;
        let after_sign = token.strip_prefix(['+', '-']).unwrap_or(token);
        Ok(match token {
            "nil" => Value::Nil,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            ":" => return Err(self.error(start, "a keyword without a name")),
            // Two values that were cut may have been different.
            "..." => return Err(self.error(start, "a value that was cut when it was printed")),
            _ if token.starts_with(':') => Value::Keyword(token[1..].into()),
            _ if after_sign.starts_with(|first: char| first.is_ascii_digit()) => number(token)
                .ok_or_else(|| {
                    let reason =
                        format!("'{token}' is not a number: expected 7, 7N, 1/2, 7.0 or 7.0M");
                    self.error(start, reason)
                })?,
            _ => Value::Symbol(token.into()),
        })
    }

    /// What follows a backslash, which is next.
    fn character(&mut self) -> Result<Value<'a>, FormatError> {
        let start = self.at;
        self.at += 1;
        // The first character may be a delimiter.
        self.skip_token();
        let name = self.text_from(start + 1)?;
        let mut letters = name.chars();
        let named = CHARACTERS.iter().find(|(known, _)| *known == name).map(|(_, letter)| *letter);
        let code = name.strip_prefix('u').filter(|digits| digits.len() == 4);
        let letter = match (letters.next(), letters.next()) {
            (Some(letter), None) => Some(letter),
            _ => named.or_else(|| char::from_u32(u32::from_str_radix(code?, 16).ok()?)),
        };
        letter
            .map(Value::Char)
            .ok_or_else(|| self.error(start, format!("'\\{name}' is not a character")))
    }

    /// What is between the quotes of a regular expression. Its escapes are not EDN's and stay.
    fn regex(&mut self) -> Result<Cow<'a, str>, FormatError> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(self.error(start, "not closed")),
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
        let text = self.text_from(start + 1)?;
        self.at += 1;
        Ok(text.into())
    }

    fn string(&mut self) -> Result<Cow<'a, str>, FormatError> {
        let start = self.at;
        self.at += 1;
        while self.peek().is_some_and(|byte| byte != b'"' && byte != b'\\') {
            self.at += 1;
        }
        let plain = &self.text[start + 1..self.at];
        if self.peek() == Some(b'"') {
            self.at += 1;
            return match str::from_utf8(plain) {
                Ok(text) => Ok(text.into()),
                Err(_) => Err(self.error(start, "not UTF-8")),
            };
        }
        let mut bytes = plain.to_vec();
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
            Ok(text) => Ok(text.into()),
            Err(_) => Err(self.error(start, "not UTF-8")),
        }
    }

    /// What follows a backslash in a string.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), FormatError> {
        let start = self.at - 1;
        let escaped = self.peek();
        self.at += 1;
        match escaped {
            Some(b'n') => bytes.push(b'\n'),
            Some(b't') => bytes.push(b'\t'),
            Some(b'r') => bytes.push(b'\r'),
            Some(b'b') => bytes.push(8),
            Some(b'f') => bytes.push(12),
            Some(same @ (b'"' | b'\\')) => bytes.push(same),
            Some(b'0'..=b'7') => {
                self.at -= 1;
                let letter = self.octal();
                let letter =
                    letter.ok_or_else(|| self.error(start, "an octal escape past \\377"))?;
                bytes.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Some(b'u') => {
                let letter = self.utf16(start)?;
                bytes.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return Err(self.error(start, "unknown escape")),
        }
        Ok(())
    }

    /// One to three octal digits. `None` if they are more than a byte.
    fn octal(&mut self) -> Option<char> {
        let mut code = 0;
        for _ in 0..3 {
            let Some(digit @ b'0'..=b'7') = self.peek() else { break };
            self.at += 1;
            code = 8 * code + u32::from(digit - b'0');
        }
        u8::try_from(code).ok().map(char::from)
    }

    /// A character after `\u`: one unit of UTF-16, or two with `\u` between them.
    fn utf16(&mut self, start: usize) -> Result<char, FormatError> {
        let high = self.code_unit(start)?;
        if let Some(letter) = char::from_u32(high) {
            return Ok(letter);
        }
        let escape = self.text.get(self.at..self.at + 2);
        self.reached_end |= escape.is_none();
        let half = "\\u is half of a character: the other half does not follow";
        if high >= 0xdc00 || escape != Some(b"\\u") {
            return Err(self.error(start, half));
        }
        self.at += 2;
        let low = self.code_unit(start)?;
        match low {
            0xdc00..=0xdfff => char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)),
            _ => None,
        }
        .ok_or_else(|| self.error(start, half))
    }

    fn code_unit(&mut self, start: usize) -> Result<u32, FormatError> {
        let digits = self.text.get(self.at..self.at + 4);
        self.reached_end |= digits.is_none();
        let code = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += 4;
        code.ok_or_else(|| self.error(start, "\\u needs four hexadecimal digits"))
    }
}

/// A number. `None` if the text is not one of EDN's.
fn number(token: &str) -> Option<Value<'_>> {
    let unsigned = token.strip_prefix(['+', '-']).unwrap_or(token);
    let has_leading_zero = |digits: &str| digits.len() > 1 && digits.starts_with('0');
    let digits = unsigned.strip_suffix('N').unwrap_or(unsigned);
    if is_digits(digits) {
        // Clojure reads 017 as an octal number, other readers do not.
        let text = token.strip_suffix('N').unwrap_or(token);
        return (!has_leading_zero(digits)).then(|| Value::integer(text));
    }
    if let Some(digits) = unsigned.strip_prefix("0x") {
        return hexadecimal(token.starts_with('-'), digits);
    }
    if let Some((over, under)) = unsigned.split_once('/') {
        return ratio(token.starts_with('-'), over, under);
    }
    if has_leading_zero(unsigned) && unsigned.as_bytes()[1].is_ascii_digit() {
        return None;
    }
    if let Some(decimal) = token.strip_suffix('M') {
        let decimal = DecimalNumber::parse(decimal)?;
        return Some(Value::Number(NumberKind::Decimal, format!("{decimal}M").into()));
    }
    // Checks the syntax: Rust's parser accepts more.
    DecimalNumber::parse(token)?;
    let float: f64 = token.parse().ok()?;
    let text = match float {
        0.0 => "0.0".to_owned(),
        float if float.is_infinite() => {
            if float > 0.0 {
                "##Inf".to_owned()
            } else {
                "##-Inf".to_owned()
            }
        }
        float => format!("{float:?}"),
    };
    Some(Value::Number(NumberKind::Float, text.into()))
}

/// An integer in base 16, as Clojure prints addresses. `None` if it is too large or not a number.
fn hexadecimal(minus: bool, digits: &str) -> Option<Value<'static>> {
    let is_number = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u128::from_str_radix(digits, 16).ok().filter(|_| is_number)?;
    let sign = if minus && number > 0 { "-" } else { "" };
    Some(Value::Number(NumberKind::Integer, format!("{sign}{number}").into()))
}

/// A ratio in lowest terms. `None` if it is too large or not a number.
fn ratio(minus: bool, over: &str, under: &str) -> Option<Value<'static>> {
    if !is_digits(over) || !is_digits(under) {
        return None;
    }
    let (over, under): (u128, u128) = (over.parse().ok()?, under.parse().ok()?);
    let (mut divisor, mut rest) = (over, under);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    if under == 0 {
        return None;
    }
    let (over, under) = (over / divisor, under / divisor);
    let sign = if minus && over > 0 { "-" } else { "" };
    Some(if under == 1 {
        Value::Number(NumberKind::Integer, format!("{sign}{over}").into())
    } else {
        Value::Number(NumberKind::Ratio, format!("{sign}{over}/{under}").into())
    })
}
