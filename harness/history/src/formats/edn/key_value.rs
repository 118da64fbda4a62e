//! Porcupine's key/value data: maps with a `:key`, texts as values, and appends.

use super::{
    super::{
        events::{EventFields, EventOrder, Processes, keyword},
        pairing::{OperationLabel, PairingSink},
    },
    EventMaps,
};
use crate::{Completion, Invocation, Value};

/// Passes the events of a history on to a sink.
pub(super) struct KeyValueTranslator<'p, 's> {
    pairs: &'p mut PairingSink<'s>,
    order: EventOrder,
    processes: Processes,
}

impl<'p, 's> KeyValueTranslator<'p, 's> {
    pub(super) fn new(pairs: &'p mut PairingSink<'s>) -> Self {
        KeyValueTranslator { pairs, order: EventOrder::default(), processes: Processes::default() }
    }
}

impl EventMaps for KeyValueTranslator<'_, '_> {
    fn take(&mut self, fields: &EventFields<'_>) -> Result<(), String> {
        self.order.next(fields.index.as_ref())?;
        let Some(process) = self.processes.number(fields.process.as_ref(), self.pairs)? else {
            return Ok(());
        };
        let kind = keyword("type", fields.kind.as_ref())?;
        let f = keyword("f", fields.f.as_ref())?;
        let Some(Value::Text(key)) = &fields.key else {
            return Err("an event without a :key that is text".to_owned());
        };
        let is_unfinished = matches!(kind, "fail" | "info");
        let text = match &fields.value {
            _ if is_unfinished => "",
            None if matches!((kind, f), ("invoke", "put" | "append") | ("ok", "get")) => {
                return Err(format!(":{kind} :{f} without a :value"));
            }
            None | Some(Value::Nil) => "",
            Some(Value::Text(text)) => text,
            Some(other) => {
                return Err(format!(
                    ":value {other}: expected text or nil; --format edn reads other values"
                ));
            }
        };
        let get = OperationLabel { process, f, key: Some(key), value: None };
        let is_given = kind == "invoke" || matches!(fields.value, Some(Value::Text(_)));
        let is_written = is_given && !is_unfinished;
        let write = OperationLabel { value: is_written.then_some(text), ..get };
        let paired = match (kind, f) {
            ("invoke", "get") => self.pairs.invoke(get, Invocation::Get),
            ("invoke", "put") => self.pairs.invoke(write, Invocation::Put(text)),
            ("invoke", "append") => self.pairs.invoke(write, Invocation::Append(text)),
            ("ok", "get") => self.pairs.complete(get, Completion::Ok(Some(text))),
            ("ok", "put" | "append") => self.pairs.complete(write, Completion::Ok(None)),
            ("fail", "get" | "put" | "append") => self.pairs.complete(write, Completion::Fail),
            ("info", "get" | "put" | "append") => self.pairs.complete(write, Completion::Info),
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
