//! Histories of objects that are read whole: Jepsen's sets, counters, queues and banks. Their events become
//! recorded events, whose values are JSON. Does not know what a read should have returned.

use std::{collections::HashMap, io::BufRead, path::Path};

use serde_json::{Map, Value as Json};

use super::{Format, stream_from};
use crate::{
    Action, ClientEvent, Completion, Event, Function, Invocation, Kind, MalformedHistory, Number,
    ObjectEvent, ReadError, Sink, Value, value::NumberKind,
};

/// A history of one kind of object.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectHistory {
    /// The workload: `set`, `counter`, `queue` or `bank`.
    pub workload: &'static str,
    /// Its events, numbered in their order. They have no times.
    pub events: Vec<Event>,
}

/// The key of a history that names none.
const OBJECT: &str = "object";

/// Whether a history is one of objects: whether what it does besides reading is done to one. Reads to its
/// first such operation.
///
/// # Errors
/// The input cannot be read. What is malformed is an error for who reads the history.
pub fn is_of_objects(
    input: &mut dyn BufRead,
    format: Format,
    path: &Path,
) -> Result<bool, ReadError> {
    let mut first = FirstOperation::default();
    match stream_from(input, format, &mut first, path) {
        Err(error @ ReadError::Io { .. }) => Err(error),
        // Nothing but reads, of a map with a balance of each account.
        Ok(()) => Ok(first.is_object.unwrap_or(first.reads_maps)),
        Err(ReadError::Malformed { .. }) => Ok(first.is_object.unwrap_or(false)),
    }
}

/// Reads a history of objects.
///
/// # Errors
/// The input cannot be read or is malformed, or its operations are not of one kind of object.
pub fn objects(
    input: &mut dyn BufRead,
    format: Format,
    path: &Path,
) -> Result<ObjectHistory, ReadError> {
    let mut collected = Objects::default();
    stream_from(input, format, &mut collected, path)?;
    collected.history().map_err(|reason| ReadError::Malformed {
        path: path.to_owned(),
        line: 1,
        column: 1,
        reason,
    })
}

/// What an operation on an object does, and whether its value is to be negated.
fn function(f: &str) -> Option<(Function, bool)> {
    Some(match f {
        "read" | "get" | "r" => (Function::Read, false),
        "add" => (Function::Add, false),
        "inc" | "incr" | "increment" => (Function::Inc, false),
        "dec" | "decr" | "decrement" => (Function::Inc, true),
        "enqueue" => (Function::Enqueue, false),
        "dequeue" => (Function::Dequeue, false),
        "drain" => (Function::Drain, false),
        "transfer" => (Function::Transfer, false),
        _ => return None,
    })
}

/// Finds out whether the first operation that is no read is one on an object.
#[derive(Default)]
struct FirstOperation {
    is_object: Option<bool>,
    reads_maps: bool,
}

impl Sink for FirstOperation {
    fn takes_objects(&self) -> bool {
        true
    }

    fn object(&mut self, event: &ObjectEvent<'_, '_>) -> Result<(), MalformedHistory> {
        match function(event.f) {
            Some((Function::Read, _)) => {
                self.reads_maps |= matches!(event.value, Some(Value::Map(_)));
                Ok(())
            }
            found => {
                self.is_object = Some(found.is_some());
                // The end of the reading.
                Err(MalformedHistory(String::new()))
            }
        }
    }

    fn invoke(
        &mut self,
        process: u64,
        _key: &str,
        _invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        Err(MalformedHistory::not_idle(process, false))
    }

    fn complete(
        &mut self,
        process: u64,
        _completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        Err(MalformedHistory::not_invoked(process))
    }
}

/// Collects events of objects.
#[derive(Default)]
struct Objects {
    events: Vec<Collected>,
}

/// An event, as far as it is understood while others follow.
struct Collected {
    process: u64,
    kind: Kind,
    f: Function,
    /// The field `key`.
    key: Option<String>,
    node: Option<String>,
    value: Option<Json>,
}

impl Sink for Objects {
    fn takes_objects(&self) -> bool {
        true
    }

    fn object(&mut self, event: &ObjectEvent<'_, '_>) -> Result<(), MalformedHistory> {
        let ObjectEvent { process, kind, f: name, key, node, value } = *event;
        let Some((f, is_negated)) = function(name) else {
            return Err(MalformedHistory(format!(
                "{name} in a history of an object: expected read, and add, inc, dec, enqueue, dequeue, \
                 drain or transfer"
            )));
        };
        // What fail and info say of a value is nothing that was observed.
        let value = value.filter(|_| matches!(kind, Kind::Invoke | Kind::Ok)).map(json);
        let mut value = value.filter(|value| !value.is_null());
        if f == Function::Inc && kind == Kind::Invoke {
            value.get_or_insert(1.into());
        }
        if is_negated
            && let Some(amount) = value.as_mut().and_then(amount_mut)
            && let Some(Number::Integer(integer)) = Number::of(amount)
        {
            *amount = Number::json(-integer);
        }
        let key = key.map(Value::to_string);
        let node = node.filter(|node| **node != Value::Nil);
        let node = node.map(|node| node.name().map_or_else(|| node.to_string(), str::to_owned));
        self.events.push(Collected { process, kind, f, key, node, value });
        Ok(())
    }

    fn invoke(
        &mut self,
        process: u64,
        _key: &str,
        _invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        Err(MalformedHistory::not_idle(process, false))
    }

    fn complete(
        &mut self,
        process: u64,
        _completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        Err(MalformedHistory::not_invoked(process))
    }
}

/// The amount in the value of a decrement, which may be a pair of key and amount.
fn amount_mut(value: &mut Json) -> Option<&mut Json> {
    match value {
        Json::Array(pair) => pair.get_mut(1),
        amount => Some(amount),
    }
}

impl Objects {
    /// The history that the events are.
    ///
    /// # Errors
    /// They are of several kinds of objects, or of none.
    fn history(mut self) -> Result<ObjectHistory, String> {
        self.split_tuples()?;
        let workload = self.workload()?;
        // A completion that names no key is on that of its invocation.
        let mut open: HashMap<u64, String> = HashMap::new();
        let mut events = Vec::with_capacity(self.events.len());
        for (index, event) in (0..).zip(self.events) {
            let Collected { process, kind, mut f, key, node, value } = event;
            if f == Function::Add && workload == "counter" {
                f = Function::Inc;
            }
            let key = match (key, kind) {
                (None, Kind::Ok | Kind::Fail | Kind::Info) => open.get(&process).cloned(),
                (key, _) => key,
            };
            let key = key.unwrap_or_else(|| OBJECT.to_owned());
            if kind == Kind::Invoke {
                open.insert(process, key.clone());
            }
            let value = value.filter(|_| kind != Kind::Invoke || f.needs_value());
            if kind == Kind::Invoke && f.needs_value() && value.is_none() {
                return Err(format!("process {process} invokes {f} without a value"));
            }
            let is_whole = matches!(f, Function::Read | Function::Drain);
            let value = value.map(|value| if is_whole { elements(value) } else { value });
            let value = value.map(|value| value.to_string());
            let client =
                ClientEvent { process, kind, f, key, value, version: None, error: None, node };
            events.push(Event { index, time: index, action: Action::Client(client) });
        }
        Ok(ObjectHistory { workload, events })
    }

    /// Splits values of the form `[key value]` (Jepsen's `independent`), if a read is invoked with `[key nil]`.
    fn split_tuples(&mut self) -> Result<(), String> {
        let is_tuple = |event: &Collected| {
            let asks = event.kind == Kind::Invoke && event.f.returns_value();
            let pair = event.value.as_ref().and_then(Json::as_array);
            asks && pair.is_some_and(|pair| pair.len() == 2 && pair[1].is_null())
        };
        if !self.events.iter().any(is_tuple) {
            return Ok(());
        }
        for event in &mut self.events {
            let Some(value) = event.value.take() else { continue };
            let pair: Result<[Json; 2], Json> = match value {
                Json::Array(pair) => pair.try_into().map_err(|pair: Vec<Json>| Json::Array(pair)),
                other => Err(other),
            };
            let [key, value] = pair.map_err(|value| {
                format!(
                    "{} with the value {value}: expected [key value], as in other events",
                    event.f
                )
            })?;
            if event.key.is_some() {
                return Err(format!(
                    "{} with a field key and the value [{key} {value}]: two keys of one event",
                    event.f
                ));
            }
            let name = key.as_str().filter(|name| is_plain(name));
            event.key = Some(name.map_or_else(|| key.to_string(), str::to_owned));
            event.value = (!value.is_null()).then_some(value);
        }
        Ok(())
    }

    /// The workload whose operations these are.
    fn workload(&self) -> Result<&'static str, String> {
        let has_adds = self.events.iter().any(|event| event.f == Function::Add);
        let adds = if has_adds && self.reads_numbers()? { "counter" } else { "set" };
        let mut workload = None;
        for event in &self.events {
            let of = match event.f {
                Function::Add => adds,
                Function::Inc => "counter",
                Function::Enqueue | Function::Dequeue | Function::Drain => "queue",
                Function::Transfer => "bank",
                _ => continue,
            };
            match workload {
                None => workload = Some(of),
                Some(first) if first == of => {}
                Some(first) => {
                    return Err(format!(
                        "operations on a {first} and on a {of} in one history: check them apart"
                    ));
                }
            }
        }
        // Of a history without writes it is known that it reads maps.
        Ok(workload.unwrap_or("bank"))
    }

    /// Whether reads return numbers, as those of counters do, and not collections.
    fn reads_numbers(&self) -> Result<bool, String> {
        let read = |event: &&Collected| event.kind == Kind::Ok && event.f == Function::Read;
        let mut reads = self.events.iter().filter(read).filter_map(|event| event.value.as_ref());
        let is_number = |read: &Json| Number::of(read).is_some();
        let Some(first) = reads.next() else { return Ok(false) };
        match reads.find(|read| is_number(read) != is_number(first)) {
            None => Ok(is_number(first)),
            Some(other) => Err(format!(
                "one read returned {first} and another one {other}: neither a set nor a counter"
            )),
        }
    }
}

/// A value as JSON. Equal values have equal texts, and different ones different texts.
fn json(value: &Value<'_>) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Text(text) => Json::String(text.to_string()),
        Value::List(values) => values.iter().map(json).collect(),
        // Unlike a list, a set is no array: one of the two may be an element, and not the other.
        Value::Set(values) => only_member("set", values.iter().map(json).collect()),
        Value::Map(entries) => {
            let entry = |(key, value): &(Value<'_>, Value<'_>)| (member(key), json(value));
            Json::Object(entries.iter().map(entry).collect::<Map<_, _>>())
        }
        Value::Number(NumberKind::Integer, digits) if digits.parse::<i64>().is_ok() => {
            digits.parse::<i64>().map_or(Json::Null, Json::from)
        }
        // What JSON does not have is written as EDN, as the only member of an object.
        other => only_member("edn", other.to_string().into()),
    }
}

fn only_member(name: &str, value: Json) -> Json {
    Json::Object([(name.to_owned(), value)].into_iter().collect())
}

/// What a read of a whole object returned: the elements of a set are those of the list that others return.
fn elements(value: Json) -> Json {
    match value {
        Json::Object(mut members) if members.get("set").is_some_and(Json::is_array) => {
            members.remove("set").unwrap_or_default()
        }
        other => other,
    }
}

/// The key of a map, such as `:from` or the number of an account, as the name of a member. Different keys have
/// different names.
fn member(key: &Value<'_>) -> String {
    match key {
        Value::Text(text) if is_plain(text) => text.to_string(),
        Value::Symbol(name) => format!("'{name}"),
        other => other.to_string(),
    }
}

/// Whether a text is written without quotes: it is no other value, and none of the names above.
fn is_plain(text: &str) -> bool {
    text.starts_with(char::is_alphabetic)
        && !matches!(text, "nil" | "null" | "true" | "false" | "edn" | "set")
}
