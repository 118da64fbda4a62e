//! Operations with a start and an end, a line each: JSON objects or CSV. The lines may be in any order,
//! so that the whole history is in memory while it is sorted.

mod call;
mod sorted;

use std::{collections::HashMap, io::BufRead};

use ahash::RandomState;

use self::sorted::{Argument, Content, Interval, Intervals};
use super::{
    Ambiguous, FormatError,
    events::{Operation, is_no_key},
    json,
    pairing::PairingSink,
};
use crate::{Value, value::DecimalNumber};

/// Reads JSON objects.
pub(super) fn stream_json(
    input: &mut dyn BufRead,
    ambiguous: Ambiguous,
    pairs: &mut PairingSink<'_>,
) -> Result<u64, FormatError> {
    let mut intervals = Intervals::default();
    json::objects(input, &mut |object| {
        let mut row = Row::default();
        for (name, value) in object {
            match Field::named(&name) {
                Some(field) => row.put(field, &name, json::value(value)?)?,
                None => is_no_key(&name)?,
            }
        }
        add(&mut intervals, row, Source::Json)
    })?;
    intervals.stream(ambiguous, pairs).map_err(|reason| FormatError::new(1, 1, reason))
}

/// Reads CSV with a header. Cells are compared as texts.
pub(super) fn stream_csv(
    input: &mut dyn BufRead,
    ambiguous: Ambiguous,
    pairs: &mut PairingSink<'_>,
) -> Result<u64, FormatError> {
    let mut intervals = Intervals::default();
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::Headers).from_reader(input);
    let header = reader.headers().map_err(malformed_csv)?.clone();
    let is_of_results = |name| matches!(Field::named(name), Some(Field::Value | Field::Output));
    let has_results = header.iter().any(is_of_results);
    for name in header.iter().filter(|name| Field::named(name).is_none()) {
        is_no_key(name).map_err(|reason| FormatError::new(1, 1, reason))?;
    }
    let mut blanks = Blanks::default();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(malformed_csv)? {
        let line = record.position().map_or(1, csv::Position::line);
        let at_line = |reason| FormatError::new(usize::try_from(line).unwrap_or(1), 1, reason);
        let mut row = Row::default();
        for (name, cell) in header.iter().zip(&record) {
            let Some(field) = Field::named(name) else { continue };
            blanks.take(field, cell).map_err(at_line)?;
            let value = match cell.trim() {
                "" => continue,
                "nil" | "null" => Value::Nil,
                // Symbols are written as they are.
                text => Value::Symbol(text.to_owned().into()),
            };
            row.put(field, name, value).map_err(at_line)?;
        }
        add(&mut intervals, row, Source::Csv { has_results }).map_err(at_line)?;
    }
    intervals.stream(ambiguous, pairs).map_err(|reason| FormatError::new(1, 1, reason))
}

/// Blanks around the texts that are compared. Those around commas do not count, and those in quotes might;
/// which ones they are is not known, so a text is either always written with the same blanks, or refused.
#[derive(Default)]
struct Blanks {
    /// Of keys and of values: by the hash of a text without its blanks, that of the text as it was written first. The
    /// texts themselves would take more memory than all else. That two have one hash is as good as impossible, and
    /// would refuse a file.
    written: [HashMap<u64, u64, RandomState>; 2],
    hashes: RandomState,
}

impl Blanks {
    fn take(&mut self, field: Field, cell: &str) -> Result<(), String> {
        use Field::{Input, Key, New, Old, Output, Value};
        let written = match field {
            Key => &mut self.written[0],
            Value | Old | New | Input | Output => &mut self.written[1],
            _ => return Ok(()),
        };
        let text = cell.trim();
        if text.is_empty() {
            return Ok(());
        }
        let hash = self.hashes.hash_one(cell);
        match *written.entry(self.hashes.hash_one(text)).or_insert(hash) == hash {
            true => Ok(()),
            false => Err(format!(
                "the texts '{cell}' and one above differ only in blanks: write equal ones alike"
            )),
        }
    }
}

fn malformed_csv(error: csv::Error) -> FormatError {
    let position = error.position().map_or(1, csv::Position::line);
    let reason = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} columns, but the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
        csv::ErrorKind::Io(_) => String::new(),
        _ => error.to_string(),
    };
    match error.into_kind() {
        csv::ErrorKind::Io(source) => FormatError::Io(source),
        _ => FormatError::new(usize::try_from(position).unwrap_or(1), 1, reason),
    }
}

/// A field of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Client,
    Op,
    Key,
    Value,
    Old,
    New,
    Input,
    Output,
    Start,
    End,
    Ok,
    Error,
}

impl Field {
    /// The number of fields.
    const COUNT: usize = Field::Error as usize + 1;

    /// The field with this name, in any case. `None`: the field is ignored.
    pub(super) fn named(name: &str) -> Option<Field> {
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "client" | "client_id" | "clientid" | "process" | "thread" | "worker" => Field::Client,
            "op" | "operation" | "f" => Field::Op,
            "key" | "k" => Field::Key,
            "value" | "val" | "v" => Field::Value,
            "old" | "from" | "expected" => Field::Old,
            "new" | "to" => Field::New,
            "input" | "arg" | "argument" => Field::Input,
            "output" | "result" => Field::Output,
            "start" | "call" | "invoke" | "invoked" | "begin" => Field::Start,
            "end" | "return" | "returned" | "complete" | "completed" | "finish" => Field::End,
            "ok" | "status" | "outcome" => Field::Ok,
            "error" | "err" | "exception" => Field::Error,
            _ => return None,
        })
    }
}

/// The fields of an operation.
#[derive(Default)]
struct Row<'a> {
    fields: [Option<Value<'a>>; Field::COUNT],
}

impl<'a> Row<'a> {
    fn put(&mut self, field: Field, name: &str, value: Value<'a>) -> Result<(), String> {
        match self.fields[field as usize].replace(value) {
            None => Ok(()),
            Some(_) => Err(format!("{name}: the operation has another field for the same")),
        }
    }

    fn get(&self, field: Field) -> Option<&Value<'a>> {
        self.fields[field as usize].as_ref()
    }

    /// A time, in billionths of its unit.
    fn time(&self, field: Field, name: &str) -> Result<Option<i128>, String> {
        let text = match self.get(field) {
            None | Some(Value::Nil) => return Ok(None),
            Some(Value::Number(_, text) | Value::Symbol(text)) => text,
            Some(other) => return Err(format!("{name} {other}: expected a number")),
        };
        let number = DecimalNumber::parse(text).and_then(|number| number.scaled(9));
        number.map(Some).ok_or_else(|| {
            format!("{name} {text}: expected a number with at most nine decimal places")
        })
    }

    /// The error, if there is one: words for none are not one.
    fn error(&self) -> Option<&Value<'a>> {
        let is_none = |error: &&Value<'_>| match error {
            Value::Nil | Value::Bool(false) => true,
            Value::Number(_, digits) => digits == "0",
            other => other.name().is_some_and(|name| {
                let name = name.trim().to_ascii_lowercase();
                matches!(&*name, "" | "-" | "0" | "no" | "nil" | "null" | "none" | "false")
            }),
        };
        self.get(Field::Error).filter(|error| !is_none(error))
    }

    /// What two fields say that stand for the same. The one for results, or arguments, may be alone;
    /// the one for either is often empty beside it.
    fn one_of(&self, either: Field, special: Field) -> Result<Option<&Value<'a>>, String> {
        match (self.get(either), self.get(special)) {
            (None | Some(Value::Nil), Some(value)) | (Some(value), None) => Ok(Some(value)),
            (Some(one), Some(other)) if one == other => Ok(Some(one)),
            (Some(one), Some(other)) => {
                Err(format!("two values for the same, {one} and {other}: expected one"))
            }
            (None, None) => Ok(None),
        }
    }

    fn outcome(&self) -> Result<Outcome, String> {
        let value = match self.get(Field::Ok) {
            None | Some(Value::Nil) => return Ok(Outcome::Unsaid),
            Some(value) => value,
        };
        let text = match value {
            Value::Bool(true) => "true",
            Value::Bool(false) => "false",
            other => other.name().unwrap_or_default(),
        };
        Ok(match text.to_ascii_lowercase().as_str() {
            "true" | "ok" => Outcome::Ok,
            "false" => Outcome::NotOk,
            "fail" | "failed" => Outcome::Fail,
            "info" | "unknown" | "timeout" => Outcome::Info,
            _ => {
                return Err(format!(
                    "ok {value}: expected true, false, ok, fail (it did not happen) or info (unknown)"
                ));
            }
        })
    }
}

/// What an operation says of its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    /// It did not happen, or nobody knows: the history does not say which.
    NotOk,
    Fail,
    Info,
    Unsaid,
}

/// Where operations come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Json,
    Csv {
        /// There is a column for what reads returned, so that an empty cell of it stands for nothing.
        has_results: bool,
    },
}

/// Adds an operation to a history.
fn add(intervals: &mut Intervals, mut row: Row<'_>, source: Source) -> Result<(), String> {
    call::expand(&mut row, source)?;
    let f = row.get(Field::Op).ok_or("an operation without a field op")?;
    let f = f.name().ok_or_else(|| format!("op {f}: expected a name, such as read"))?;
    let operation = Operation::named(&f.to_ascii_lowercase())?;
    let start = row.time(Field::Start, "start")?;
    let start = start.ok_or("an operation without a field start (or call)")?;
    let end = row.time(Field::End, "end")?;
    let outcome = match (row.outcome()?, end) {
        (Outcome::Unsaid, None) => Outcome::Info,
        (Outcome::Unsaid, Some(_)) if row.error().is_some() => Outcome::NotOk,
        (Outcome::Unsaid, Some(_)) => Outcome::Ok,
        (Outcome::Ok, None) => {
            return Err("an operation that is ok needs an end (or return)".to_owned());
        }
        (Outcome::Ok, Some(_)) if row.error().is_some() => {
            return Err("an operation that is ok and has an error".to_owned());
        }
        (said, _) => said,
    };
    let outcome =
        if operation == Operation::Read { outcome } else { returned(&row, operation, outcome)? };
    if end.is_some_and(|end| end < start) {
        return Err("an operation that ends before it starts".to_owned());
    }
    let may_omit = matches!(source, Source::Csv { has_results: true });
    let argument = argument(&row, operation, outcome, may_omit)?;
    let key = row.get(Field::Key).filter(|key| **key != Value::Nil);
    let [client, key] = [row.get(Field::Client), key]
        .map(|name| name.map(|name| intervals.named(name.to_string())));
    intervals.add(Interval { client, operation, key, argument, start, end, outcome })
}

/// The outcome of a write in the light of what it returned: a cas that returned false did not happen.
fn returned(row: &Row<'_>, operation: Operation, outcome: Outcome) -> Result<Outcome, String> {
    let Some(output) = row.get(Field::Output) else { return Ok(outcome) };
    let text = match output {
        Value::Nil | Value::Bool(true) => "ok",
        Value::Bool(false) => "false",
        other => other.name().unwrap_or_default(),
    };
    match (text.to_ascii_lowercase().as_str(), operation, outcome) {
        ("ok" | "true", ..) => Ok(outcome),
        ("false" | "fail", Operation::Cas, Outcome::Ok) => Ok(Outcome::Fail),
        ("false" | "fail", _, Outcome::Ok) => Ok(Outcome::NotOk),
        ("false" | "fail", ..) => Ok(outcome),
        _ => Err(format!(
            "output {output} of an operation that reads nothing: expected true or false"
        )),
    }
}

/// What an operation wrote or read.
fn argument(
    row: &Row<'_>,
    operation: Operation,
    outcome: Outcome,
    may_omit: bool,
) -> Result<Argument, String> {
    match operation {
        Operation::Read if outcome != Outcome::Ok => Ok(Argument::None),
        // An empty cell is a value that is absent, a field that is missing is an oversight.
        Operation::Read => match row.one_of(Field::Value, Field::Output)? {
            None if !may_omit => Err("a read without a value: null if there was none".to_owned()),
            value => Ok(Argument::Value(value.and_then(Content::of))),
        },
        Operation::Write | Operation::Append => match row.one_of(Field::Value, Field::Input)? {
            None => Err("a write without a value".to_owned()),
            Some(value) => Ok(Argument::Value(Content::of(value))),
        },
        Operation::Cas => {
            let argument = row.one_of(Field::Value, Field::Input)?;
            let pair = match (row.get(Field::Old), row.get(Field::New), argument) {
                (Some(old), Some(new), _) | (Some(old), None, Some(new)) => Some((old, new)),
                (None, None, Some(Value::List(pair))) if pair.len() == 2 => {
                    Some((&pair[0], &pair[1]))
                }
                _ => None,
            };
            let (old, new) =
                pair.ok_or("a cas needs the fields old and new, or [old, new] as value")?;
            Ok(Argument::Cas(Content::of(old), Content::of(new)))
        }
        Operation::Delete | Operation::Acquire | Operation::Release => Ok(Argument::None),
    }
}
