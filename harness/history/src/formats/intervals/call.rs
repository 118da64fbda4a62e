//! Operations as Porcupine describes them: `put('x', 'y')`, `get('x') -> 'y'`, `cas(1, 2) -> ok`.

use super::{Field, Row, Source};
use crate::{
    Value,
    formats::{events::Operation, json},
};

/// Sets the fields of an operation that is written as a call. Another name stays as it is.
pub(super) fn expand(row: &mut Row<'_>, source: Source) -> Result<(), String> {
    let Some(text) = row.get(Field::Op).and_then(Value::name) else { return Ok(()) };
    if !text.contains('(') {
        return Ok(());
    }
    let text = text.to_owned();
    let malformed =
        || format!("'{text}': expected a call, such as put('x', 'y') or get('x') -> 'y'");
    let (name, rest) = text.split_once('(').ok_or_else(malformed)?;
    let name = name.trim();
    let (arguments, rest) = arguments(rest).ok_or_else(malformed)?;
    let result = match rest.trim() {
        "" => None,
        rest => Some(rest.strip_prefix("->").ok_or_else(malformed)?.trim()),
    };
    let operation = Operation::named(&name.to_ascii_lowercase())?;
    let fields: &[Field] = match (operation, arguments.len()) {
        (Operation::Write | Operation::Append, 1) => &[Field::Value],
        (Operation::Write | Operation::Append, 2) => &[Field::Key, Field::Value],
        (Operation::Cas, 2) => &[Field::Old, Field::New],
        (Operation::Cas, 3) => &[Field::Key, Field::Old, Field::New],
        (Operation::Write | Operation::Append | Operation::Cas, _) => return Err(malformed()),
        (_, 0) => &[],
        (_, 1) => &[Field::Key],
        _ => return Err(malformed()),
    };
    row.fields[Field::Op as usize] = Some(Value::Symbol(name.to_owned().into()));
    for (field, argument) in fields.iter().zip(arguments) {
        row.put(*field, &text, argument.value(source))?;
    }
    let Some(result) = result else { return Ok(()) };
    match (operation, result) {
        (_, "unknown" | "info") => row.put(Field::Ok, &text, Value::Symbol("info".into())),
        (Operation::Read, _) => {
            let (result, rest) = word(result).ok_or_else(malformed)?;
            if !rest.trim().is_empty() {
                return Err(malformed());
            }
            row.put(Field::Value, &text, result.value(source))
        }
        (_, "ok" | "true" | "fail" | "false") => {
            row.put(Field::Output, &text, Value::Symbol(result.to_owned().into()))
        }
        _ => Err(malformed()),
    }
}

/// An argument or a result.
struct Word {
    text: String,
    is_quoted: bool,
}

impl Word {
    /// The value, written as the other fields have theirs, so that they can be compared. In CSV quotes do not
    /// count, except that a word in quotes is no absent key.
    fn value(self, source: Source) -> Value<'static> {
        let Word { text, is_quoted } = self;
        match (source, is_quoted, &*text) {
            (_, false, "nil" | "null") => Value::Nil,
            (Source::Csv { .. }, ..) => Value::Symbol(text.into()),
            (Source::Json, true, _) => Value::Text(text.into()),
            (Source::Json, false, _) => match json::parse(&text) {
                Ok(Value::Number(kind, digits)) => Value::Number(kind, digits.into_owned().into()),
                Ok(Value::Bool(value)) => Value::Bool(value),
                _ => Value::Text(text.into()),
            },
        }
    }
}

/// The arguments up to the closing bracket, and what follows it.
fn arguments(text: &str) -> Option<(Vec<Word>, &str)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    if let Some(rest) = rest.strip_prefix(')') {
        return Some((found, rest));
    }
    loop {
        let (argument, after) = word(rest)?;
        found.push(argument);
        let after = after.trim_start();
        if let Some(rest) = after.strip_prefix(')') {
            return Some((found, rest));
        }
        rest = after.strip_prefix(',')?.trim_start();
    }
}

/// The word at the start of a text, in quotes or up to a delimiter, and what follows it.
fn word(text: &str) -> Option<(Word, &str)> {
    let quote = text.chars().next().filter(|first| matches!(first, '\'' | '"'));
    let (word, rest) = match quote {
        Some(quote) => text[1..].split_once(quote)?,
        None => text.split_at(text.find([',', ')', '(', '\'', '"']).unwrap_or(text.len())),
    };
    let is_quoted = quote.is_some();
    let word = if is_quoted { word } else { word.trim() };
    // What an escape stands for is not known, nor what an empty word does.
    let is_plain = !word.contains('\\') && (is_quoted || !word.is_empty());
    is_plain.then(|| (Word { text: word.to_owned(), is_quoted }, rest))
}
