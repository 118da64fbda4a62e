//! Turns the maps of a history into invocations and completions.

use super::{
    super::pairing::{OperationLabel, PairingSink},
    parser::Value,
};
use crate::{Completion, Invocation};

/// Passes the events of a history on to a sink.
pub(super) struct EventTranslator<'p, 's> {
    pairs: &'p mut PairingSink<'s>,
    /// Whether values are `independent` tuples, which name the key. `None` before the first event.
    has_tuples: Option<bool>,
    /// The last index. It only has to grow: an excerpt keeps the indices of the whole history. Times
    /// are not checked, since old versions of Jepsen do not always write them in order.
    last_index: Option<u64>,
}

impl<'p, 's> EventTranslator<'p, 's> {
    pub(super) fn new(pairs: &'p mut PairingSink<'s>) -> Self {
        EventTranslator { pairs, has_tuples: None, last_index: None }
    }

    /// Takes the next value of the history: an operation's event, or one of the nemesis.
    pub(super) fn take(&mut self, map: &Value<'_>, porcupine: bool) -> Result<(), String> {
        if !matches!(map, Value::Map(_)) {
            return Err("expected a map".to_owned());
        }
        let field = |name: &str| map.field(name).ok_or_else(|| format!("an event without :{name}"));
        if let Some(index) = map.field("index") {
            self.in_order(index)?;
        }
        let process = match field("process")? {
            Value::Atom(number) => match number.parse::<u64>() {
                Ok(process) => process,
                Err(_) => return Err(format!("'{number}' is not a process")),
            },
            // The nemesis, under any name.
            Value::Keyword(_) => return Ok(()),
            other => return Err(format!("'{}' is not a process", other.written())),
        };
        let (Value::Keyword(kind), Value::Keyword(f)) = (field("type")?, field("f")?) else {
            return Err(":type and :f must be keywords".to_owned());
        };
        let event = EventFields { process, kind, f, value: map.field("value") };
        if porcupine {
            return self.key_value(map, event);
        }
        if map.field("key").is_some() {
            let reason = "an event with a :key: Jepsen's histories name the key in the value, [key \
                          value]; --format porcupine reads a :key";
            return Err(reason.to_owned());
        }
        self.register(event)
    }

    fn in_order(&mut self, index: &Value<'_>) -> Result<(), String> {
        let Value::Atom(text) = index else {
            return Err(format!(":index {}: expected a number", index.written()));
        };
        let index = text.parse().map_err(|_| format!(":index {text}: expected a number"))?;
        match self.last_index {
            Some(last) if index <= last => Err(format!(":index {index} after :index {last}")),
            _ => {
                self.last_index = Some(index);
                Ok(())
            }
        }
    }

    /// An event of Jepsen's, on one register or on the registers that tuples name.
    fn register(&mut self, event: EventFields<'_, '_>) -> Result<(), String> {
        let EventFields { process, kind, f, value: written } = event;
        let (key, value) = tuple(f, written.unwrap_or(&Value::Nil));
        if kind == "invoke" && key.is_some() != *self.has_tuples.get_or_insert(key.is_some()) {
            return Err(format!(
                ":{f} with the value {}: some events of this history name a key, [key value], and \
                 some do not",
                written.unwrap_or(&Value::Nil).written()
            ));
        }
        let key = key.unwrap_or_else(|| "register".to_owned());
        let text = value.written();
        let reads = matches!(f, "read" | "get");
        let label =
            OperationLabel { process, f, key: Some(&key), value: (!reads).then_some(&text) };
        // A fail or info may have a keyword or nothing in place of key and value.
        let is_omitted = matches!(written, None | Some(Value::Nil | Value::Keyword(_)));
        let completed =
            if is_omitted { OperationLabel { key: None, value: None, ..label } } else { label };
        let paired = match (kind, f) {
            ("invoke" | "ok", "write" | "put" | "read" | "get") if written.is_none() => {
                return Err(format!(":{kind} :{f} without a :value"));
            }
            ("invoke", "read" | "get") => self.pairs.invoke(label, Invocation::Get),
            ("invoke", "write" | "put") => match value {
                Value::Nil => self.pairs.invoke(label, Invocation::Del),
                _ => self.pairs.invoke(label, Invocation::Put(&text)),
            },
            ("invoke", "del" | "delete") => self.pairs.invoke(label, Invocation::Del),
            ("invoke", "cas") => match value {
                Value::Sequence(pair) if pair.len() == 2 => {
                    let [from, to] = [&pair[0], &pair[1]]
                        .map(|value| (*value != Value::Nil).then(|| value.written()));
                    self.pairs.invoke(label, Invocation::Cas(from.as_deref(), to.as_deref()))
                }
                _ => return Err("a cas needs [old new]".to_owned()),
            },
            ("ok", "read" | "get") => match value {
                Value::Nil => self.pairs.complete(label, Completion::Ok(None)),
                _ => self.pairs.complete(label, Completion::Ok(Some(&text))),
            },
            ("ok", "write" | "put" | "del" | "delete" | "cas") => {
                self.pairs.complete(label, Completion::Ok(None))
            }
            ("fail", "read" | "get" | "write" | "put" | "del" | "delete" | "cas") => {
                self.pairs.complete(completed, Completion::Fail)
            }
            ("info", "read" | "get" | "write" | "put" | "del" | "delete" | "cas") => {
                self.pairs.complete(completed, Completion::Info)
            }
            ("invoke" | "ok" | "fail" | "info", other) => {
                return Err(format!("unknown operation :{other}: expected read, write or cas"));
            }
            (other, _) => {
                return Err(format!("unknown type :{other}: expected invoke, ok, fail or info"));
            }
        };
        paired.map_err(|error| error.to_string())
    }

    /// An event of Porcupine's key/value data.
    fn key_value(&mut self, map: &Value<'_>, event: EventFields<'_, '_>) -> Result<(), String> {
        let EventFields { process, kind, f, value } = event;
        let text = match value {
            None if matches!((kind, f), ("invoke", "put" | "append") | ("ok", "get")) => {
                return Err(format!(":{kind} :{f} without a :value"));
            }
            None | Some(Value::Nil) => "",
            Some(Value::Text(text)) => text,
            Some(other) => return Err(format!(":value {}: expected text or nil", other.written())),
        };
        let Some(Value::Text(key)) = map.field("key") else {
            return Err("an event without a :key that is text".to_owned());
        };
        let get = OperationLabel { process, f, key: Some(key), value: None };
        let is_given = kind == "invoke" || matches!(value, Some(Value::Text(_)));
        let write = OperationLabel { value: is_given.then_some(text), ..get };
        let paired = match (kind, f) {
            ("invoke", "get") => self.pairs.invoke(get, Invocation::Get),
            ("invoke", "put") => self.pairs.invoke(write, Invocation::Put(text)),
            ("invoke", "append") => self.pairs.invoke(write, Invocation::Append(text)),
            ("ok", "get") => self.pairs.complete(get, Completion::Ok(Some(text))),
            ("ok", "put" | "append") => self.pairs.complete(write, Completion::Ok(None)),
            ("fail", "get") => self.pairs.complete(get, Completion::Fail),
            ("fail", "put" | "append") => self.pairs.complete(write, Completion::Fail),
            ("info", "get") => self.pairs.complete(get, Completion::Info),
            ("info", "put" | "append") => self.pairs.complete(write, Completion::Info),
            ("invoke" | "ok" | "fail" | "info", other) => {
                return Err(format!("unknown operation :{other}: expected get, put or append"));
            }
            (other, _) => {
                return Err(format!("unknown type :{other}: expected invoke, ok, fail or info"));
            }
        };
        paired.map_err(|error| error.to_string())
    }
}

/// The fields that every event of a client has.
#[derive(Clone, Copy)]
struct EventFields<'v, 'a> {
    process: u64,
    kind: &'a str,
    f: &'a str,
    /// `None` if the field is absent.
    value: Option<&'v Value<'a>>,
}

/// Splits a value into key and value if it is an `independent` tuple.
fn tuple<'v, 'a>(f: &str, value: &'v Value<'a>) -> (Option<String>, &'v Value<'a>) {
    match value {
        Value::Sequence(pair)
            if pair.len() == 2 && (f != "cas" || matches!(pair[1], Value::Sequence(_))) =>
        {
            (Some(pair[0].written()), &pair[1])
        }
        _ => (None, value),
    }
}
