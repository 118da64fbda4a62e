//! Values of histories as their formats compare them.
//!
//! Two [`Value`]s are equal exactly if EDN, or JSON, says so: maps and sets have no order, vectors and
//! lists with the same elements are equal, a set is no vector, `7` is `7N` but not `7.0`, and tags
//! count. JSON has one type of number: there `1` is `1.0`. Values are normalised when they are built,
//! so that equality is structural, and so that two values are equal exactly if their texts
//! ([`Display`](fmt::Display)) are. Readers pass values on in this text form; see [`Sink`](crate::Sink).

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

/// A value as sentences and figures show it: in quotes if its end could not be seen otherwise, because it is empty or
/// has spaces, or if it could be taken for the word for no value.
///
/// ```
/// let shown = ["3-12", "", "nothing", "a b"].map(history::shown);
/// assert_eq!(shown, ["3-12", "''", "'nothing'", "'a b'"]);
/// ```
#[must_use]
pub fn shown(value: &str) -> Cow<'_, str> {
    let is_plain = !value.is_empty() && value != "nothing" && !value.contains(char::is_whitespace);
    if is_plain { value.into() } else { format!("'{value}'").into() }
}

/// A value, borrowed from the text where possible.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value<'a> {
    /// EDN's `nil`, JSON's `null`.
    Nil,
    /// `true` or `false`.
    Bool(bool),
    /// A number. The text is the same exactly for equal numbers of a kind.
    Number(NumberKind, Cow<'a, str>),
    /// A character, such as `\a`.
    Char(char),
    /// A string.
    Text(Cow<'a, str>),
    /// A keyword, without its colon.
    Keyword(Cow<'a, str>),
    /// A symbol.
    Symbol(Cow<'a, str>),
    /// A regular expression as Clojure prints it, `#"..."`: what is between the quotes.
    Regex(Cow<'a, str>),
    /// A vector, list or array.
    List(Vec<Value<'a>>),
    /// A set: sorted, without duplicates.
    Set(Vec<Value<'a>>),
    /// A map or object: sorted by key, without duplicates.
    Map(Vec<(Value<'a>, Value<'a>)>),
    /// A tag and its value.
    Tagged(Cow<'a, str>, Box<Value<'a>>),
}

/// The kinds of numbers. Numbers of different kinds are never equal. JSON's integers and floats are
/// told apart by their value, not by how they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NumberKind {
    /// An integer of any size: `7`, `7N`.
    Integer,
    /// A ratio that is no integer: `1/2`.
    Ratio,
    /// A floating-point number: `7.0`. Not a number (`##NaN`) equals itself: what was written can be
    /// read.
    Float,
    /// A decimal of arbitrary precision: `7.0M`.
    Decimal,
}

impl<'a> Value<'a> {
    /// A set.
    ///
    /// # Errors
    /// An element occurs twice.
    pub fn set(mut elements: Vec<Value<'a>>) -> Result<Value<'a>, String> {
        elements.sort_unstable();
        match elements.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("a set that contains {} twice", pair[0])),
            None => Ok(Value::Set(elements)),
        }
    }

    /// A map.
    ///
    /// # Errors
    /// A key occurs twice.
    pub fn map(mut entries: Vec<(Value<'a>, Value<'a>)>) -> Result<Value<'a>, String> {
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        match entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(format!("a map that contains the key {} twice", pair[0].0)),
            None => Ok(Value::Map(entries)),
        }
    }

    /// An integer, given its sign and decimal digits.
    pub(crate) fn integer(text: &'a str) -> Value<'a> {
        let (minus, digits) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let digits = digits.trim_start_matches('0');
        Value::Number(
            NumberKind::Integer,
            match (minus, digits) {
                (_, "") => "0".into(),
                (true, digits) if digits.len() + 1 == text.len() => text.into(),
                (true, digits) => format!("-{digits}").into(),
                (false, digits) => digits.into(),
            },
        )
    }

    /// The name of a keyword, symbol or string.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Value::Keyword(name) | Value::Symbol(name) | Value::Text(name) => Some(name),
            _ => None,
        }
    }

    /// The value in its text form without a copy where it is written as it was read.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Value::Nil => "nil".into(),
            Value::Number(NumberKind::Integer, digits) => Cow::Borrowed(digits),
            other => other.to_string().into(),
        }
    }
}

/// A decimal number in normal form: equal exactly for equal numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DecimalNumber {
    minus: bool,
    /// The digits, without zeros at either end. Zero has none.
    digits: String,
    /// The power of ten to multiply the digits by.
    power: i64,
}

impl DecimalNumber {
    /// Parses digits with an optional sign, point and exponent. `None` if the text is not a number.
    pub(crate) fn parse(text: &str) -> Option<DecimalNumber> {
        let (minus, text) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() || ![whole, fraction].iter().all(|part| is_digits(part)) {
            return None;
        }
        let all = [whole, fraction].concat();
        let digits = all.trim_end_matches('0');
        let dropped = i64::try_from(all.len() - digits.len()).ok()?;
        let power = i64::from(exponent) - i64::try_from(fraction.len()).ok()? + dropped;
        let digits = digits.trim_start_matches('0').to_owned();
        let is_zero = digits.is_empty();
        let power = if is_zero { 0 } else { power };
        Some(DecimalNumber { minus: minus && !is_zero, digits, power })
    }

    /// Whether it is an integer that is short enough to be written in digits.
    pub(crate) fn is_integer(&self) -> bool {
        (0..=WRITTEN_ZEROS_MAX).contains(&self.power)
    }

    /// The number in units of ten to the power of `-places`. `None` if it has more places or is too
    /// large.
    pub(crate) fn scaled(&self, places: u32) -> Option<i128> {
        let power = u32::try_from(self.power + i64::from(places)).ok()?;
        let digits: i128 = if self.digits.is_empty() { 0 } else { self.digits.parse().ok()? };
        let scaled = digits.checked_mul(10_i128.checked_pow(power)?)?;
        Some(if self.minus { -scaled } else { scaled })
    }
}

/// The most zeros that a number is written with instead of a power of ten.
const WRITTEN_ZEROS_MAX: i64 = 400;

impl fmt::Display for DecimalNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DecimalNumber { minus, digits, power } = self;
        if *minus {
            f.write_char('-')?;
        }
        let count = digits.len() as i64;
        if digits.is_empty() {
            f.write_char('0')
        } else if self.is_integer() {
            write!(f, "{digits}{:0>1$}", "", *power as usize)
        } else if *power < 0 && count + power > 0 {
            let (whole, fraction) = digits.split_at((count + power) as usize);
            write!(f, "{whole}.{fraction}")
        } else {
            write!(f, "{digits}e{power}")
        }
    }
}

/// Whether a text consists of decimal digits, or of nothing.
pub(crate) fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Display for Value<'_> {
    /// The value as EDN. Texts are equal exactly if the values are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Nil => f.write_str("nil"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(_, text) | Value::Symbol(text) => f.write_str(text),
            Value::Char(letter) => character(*letter, f),
            Value::Text(text) => quoted(text, f),
            Value::Keyword(name) => write!(f, ":{name}"),
            Value::Regex(text) => write!(f, "#\"{text}\""),
            Value::List(values) => separated(f, "[", values, "]", fmt::Display::fmt),
            Value::Set(values) => separated(f, "#{", values, "}", fmt::Display::fmt),
            Value::Map(entries) => {
                separated(f, "{", entries, "}", |(key, value), f| write!(f, "{key} {value}"))
            }
            Value::Tagged(tag, value) => write!(f, "#{tag} {value}"),
        }
    }
}

fn separated<T>(
    f: &mut fmt::Formatter<'_>,
    open: &str,
    values: &[T],
    close: &str,
    each: impl Fn(&T, &mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    f.write_str(open)?;
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            f.write_char(' ')?;
        }
        each(value, f)?;
    }
    f.write_str(close)
}

/// The names of characters that would be invisible.
pub(crate) const CHARACTERS: [(&str, char); 6] = [
    ("newline", '\n'),
    ("space", ' '),
    ("tab", '\t'),
    ("return", '\r'),
    ("formfeed", '\u{c}'),
    ("backspace", '\u{8}'),
];

fn character(letter: char, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match CHARACTERS.iter().find(|(_, named)| *named == letter) {
        Some((name, _)) => write!(f, "\\{name}"),
        None if letter.is_control() => write!(f, "\\u{:04x}", u32::from(letter)),
        None => write!(f, "\\{letter}"),
    }
}

/// A text as an EDN string.
pub(crate) fn quoted(text: &str, f: &mut impl fmt::Write) -> fmt::Result {
    f.write_char('"')?;
    for letter in text.chars() {
        match letter {
            '"' => f.write_str("\\\""),
            '\\' => f.write_str("\\\\"),
            '\n' => f.write_str("\\n"),
            '\r' => f.write_str("\\r"),
            '\t' => f.write_str("\\t"),
            other if other.is_control() => write!(f, "\\u{:04x}", u32::from(other)),
            other => f.write_char(other),
        }?;
    }
    f.write_char('"')
}
