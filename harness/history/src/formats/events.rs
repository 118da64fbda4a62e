//! Turns events of Jepsen's shape into invocations and completions of operations on registers and
//! locks, and of transactions. EDN, JSON and log lines have such events. Does not know how they are written.

use std::collections::HashMap;

use ahash::RandomState;

use super::{
    FormatError,
    pairing::{OperationLabel, PairingSink},
};
use crate::{
    Completion, Invocation, Kind, MicroFunction, MicroOp, ObjectEvent, Outcome, Value,
    value::NumberKind,
};

/// The fields of an event that matter here. All others are ignored.
#[derive(Debug, Default)]
pub(super) struct EventFields<'a> {
    pub(super) index: Option<Value<'a>>,
    pub(super) process: Option<Value<'a>>,
    /// The field `type`.
    pub(super) kind: Option<Value<'a>>,
    pub(super) f: Option<Value<'a>>,
    pub(super) key: Option<Value<'a>>,
    pub(super) node: Option<Value<'a>>,
    pub(super) value: Option<Value<'a>>,
    /// Of the steps of a transaction.
    pub(super) versions: Option<Value<'a>>,
}

impl<'a> EventFields<'a> {
    /// The field with this name, `None` if it is ignored.
    pub(super) fn named(&mut self, name: &str) -> Option<&mut Option<Value<'a>>> {
        Some(match name {
            "index" => &mut self.index,
            "process" => &mut self.process,
            "type" => &mut self.kind,
            "f" => &mut self.f,
            "key" => &mut self.key,
            "node" => &mut self.node,
            "value" => &mut self.value,
            "versions" => &mut self.versions,
            _ => return None,
        })
    }
}

/// Refuses a field that is not known, but that may name what an operation is on. Ignoring it would mix
/// up keys: a wrong value of one could be a right one of another.
pub(super) fn is_no_key(name: &str) -> Result<(), String> {
    let name_lower = name.to_ascii_lowercase();
    let may_be = name_lower.contains("key")
        || matches!(
            name_lower.as_str(),
            "k" | "register"
                | "object"
                | "obj"
                | "variable"
                | "var"
                | "item"
                | "resource"
                | "lock"
                | "path"
                | "table"
                | "database"
                | "db"
                | "bucket"
                | "namespace"
                | "collection"
                | "tenant"
                | "document"
                | "doc"
                | "row"
                | "column"
                | "cell"
                | "account"
                | "address"
                | "addr"
                | "name"
        );
    if may_be {
        return Err(format!(
            "the field {name} may say what an operation is on: call it key, or combine it with the \
             field key, or remove it"
        ));
    }
    Ok(())
}

/// Checks that the indices of events grow, where they have some. An excerpt keeps the indices of the
/// whole history, so they may have gaps. Times are not checked, since old versions of Jepsen do not
/// always write them in order.
#[derive(Debug, Default)]
pub(super) struct EventOrder {
    last: Option<i128>,
}

impl EventOrder {
    pub(super) fn next(&mut self, index: Option<&Value<'_>>) -> Result<(), String> {
        let index = match index {
            None | Some(Value::Nil) => return Ok(()),
            Some(Value::Number(NumberKind::Integer, digits)) => digits.parse::<i128>().ok(),
            Some(_) => None,
        }
        .ok_or_else(|| format!("index {}: expected a number", index.unwrap_or(&Value::Nil)))?;
        match self.last {
            Some(last) if index <= last => Err(format!("index {index} after index {last}")),
            _ => {
                self.last = Some(index);
                Ok(())
            }
        }
    }
}

/// Numbers the processes. A process can have any name; only the nemesis is the nemesis.
#[derive(Debug, Default)]
pub(super) struct Processes {
    named: HashMap<String, u64, RandomState>,
}

/// The number of the first process that is not a number itself.
pub const NAMED_PROCESSES: u64 = 1 << 63;

impl Processes {
    /// The number of a process, `None` for the nemesis.
    pub(super) fn number(
        &mut self,
        process: Option<&Value<'_>>,
        pairs: &mut PairingSink<'_>,
    ) -> Result<Option<u64>, String> {
        let name = match process {
            None | Some(Value::Nil) => {
                return Err(
                    "an event without a process: expected the fields process, type and f, \
                            as in {:process 0, :type :invoke, :f :read}"
                        .to_owned(),
                );
            }
            Some(Value::Keyword(name) | Value::Symbol(name) | Value::Text(name))
                if matches!(&**name, "nemesis" | ":nemesis") =>
            {
                return Ok(None);
            }
            Some(name) => name,
        };
        if let Value::Number(NumberKind::Integer, digits) = name
            && let Ok(number) = digits.parse()
            && number < NAMED_PROCESSES
        {
            return Ok(Some(number));
        }
        Ok(Some(self.named(&name.to_string(), pairs)))
    }

    /// The number of a process that is not a number.
    pub(super) fn named(&mut self, name: &str, pairs: &mut PairingSink<'_>) -> u64 {
        let next = NAMED_PROCESSES + self.named.len() as u64;
        let number = match self.named.get(name) {
            Some(number) => *number,
            None => *self.named.entry(name.to_owned()).or_insert(next),
        };
        pairs.name_process(number, name);
        number
    }
}

/// A field that names something.
pub(super) fn keyword<'v>(field: &str, value: Option<&'v Value<'_>>) -> Result<&'v str, String> {
    let value = value.ok_or_else(|| format!("an event without {field}"))?;
    let name = value.name().ok_or_else(|| format!("{field} {value}: expected a name"))?;
    Ok(name.strip_prefix(':').unwrap_or(name))
}

fn unknown_kind(kind: &str) -> String {
    format!("unknown type {kind}: expected invoke, ok, fail or info")
}

/// What is checked, for messages about everything else.
const CHECKED: &str = "registers (read, write, cas, delete), locks (acquire, release), transactions of \
                       reads, writes and appends, and, in events of Jepsen's shape, sets, counters, \
                       queues and banks are checked, each in a history of its own";

/// What events of transactions look like.
const TRANSACTIONS: &str = "with a value such as [[:append x 1] [:r y nil]]";

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Write,
    Delete,
    Cas,
    Append,
    Acquire,
    Release,
}

impl Operation {
    /// The operation with this name.
    ///
    /// # Errors
    /// It is one of another object than a register or a lock.
    pub(super) fn named(f: &str) -> Result<Operation, String> {
        let object = match f {
            "read" | "get" | "r" => return Ok(Operation::Read),
            "write" | "put" | "set" | "w" => return Ok(Operation::Write),
            "del" | "delete" => return Ok(Operation::Delete),
            "cas" => return Ok(Operation::Cas),
            "append" => return Ok(Operation::Append),
            "acquire" | "lock" => return Ok(Operation::Acquire),
            "release" | "unlock" => return Ok(Operation::Release),
            "txn" | "transaction" => {
                return Err(format!(
                    "{f} is a transaction: these are read as events, {TRANSACTIONS}"
                ));
            }
            "add" => "an operation on a set or a counter",
            "inc" | "incr" | "increment" | "dec" | "decr" | "decrement" => {
                "an operation on a counter"
            }
            "enqueue" | "dequeue" | "drain" => "an operation on a queue",
            "transfer" => "a transfer of a bank",
            _ => {
                return Err(format!(
                    "unknown operation {f}: expected read, write, cas, delete, acquire or release"
                ));
            }
        };
        Err(format!("{f} is {object}: {CHECKED}"))
    }

    pub(super) fn is_of_lock(self) -> bool {
        matches!(self, Operation::Acquire | Operation::Release)
    }
}

/// Where the events of a history name the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keying {
    /// In the field `key`.
    Field,
    /// In the value, an `independent` tuple `[key value]`.
    Tuple,
    /// Nowhere: there is one register.
    OneRegister,
}

/// The key of a history with one register, and of one with one lock.
pub(super) const REGISTER: &str = "register";
pub(super) const LOCK: &str = "lock";

/// Passes the events of a history on to a sink.
pub(super) struct EventTranslator<'p, 's> {
    pairs: &'p mut PairingSink<'s>,
    order: EventOrder,
    processes: Processes,
    /// Where keys are named, and whether they are locks: what the first invocation says.
    shape: Option<(Keying, bool)>,
    /// Whether anything but reads was invoked.
    has_writes: bool,
    /// The first map or set that was read.
    collection: Option<String>,
}

/// An event with its names resolved.
#[derive(Clone, Copy)]
struct ClientEvent<'v, 'a> {
    process: u64,
    f: &'v str,
    operation: Operation,
    key: Option<&'v Value<'a>>,
    value: Option<&'v Value<'a>>,
}

impl<'p, 's> EventTranslator<'p, 's> {
    pub(super) fn new(pairs: &'p mut PairingSink<'s>) -> Self {
        EventTranslator {
            pairs,
            order: EventOrder::default(),
            processes: Processes::default(),
            shape: None,
            has_writes: false,
            collection: None,
        }
    }

    /// Takes the end of the history.
    ///
    /// # Errors
    /// The history is one of another object than registers or locks.
    pub(super) fn finish(self) -> Result<(), FormatError> {
        match self.collection {
            Some(read) if !self.has_writes => Err(FormatError::new(
                1,
                1,
                format!(
                    "reads of collections such as {read}, and no writes: a bank, a set or another \
                     object; {CHECKED}"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Takes the next event of a client or of the nemesis.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn take(&mut self, fields: &EventFields<'_>) -> Result<(), String> {
        self.order.next(fields.index.as_ref())?;
        let process = self.processes.number(fields.process.as_ref(), self.pairs)?;
        let Some(process) = process else { return Ok(()) };
        let kind = keyword("type", fields.kind.as_ref())?;
        if self.is_transaction(process, fields) {
            let value = fields.value.as_ref();
            let versions = fields.versions.as_ref().map(versions).transpose()?;
            return transaction(process, kind, value, versions.as_deref(), self.pairs);
        }
        let f = keyword("f", fields.f.as_ref())?;
        if self.pairs.takes_objects() {
            return self.object(process, kind, f, fields);
        }
        let operation = Operation::named(f)?;
        let (key, value) = (fields.key.as_ref(), fields.value.as_ref());
        let event = ClientEvent { process, f, operation, key, value };
        match kind {
            "invoke" => self.invoke(event),
            "ok" => self.complete(event),
            // What they say of key and value is nothing that was observed.
            "fail" => self.complete_without_effect(event, Completion::Fail),
            "info" => self.complete_without_effect(event, Completion::Info),
            other => Err(unknown_kind(other)),
        }
    }

    /// Whether an event is one of a transaction: by its name, by its value, or since it completes one.
    fn is_transaction(&self, process: u64, fields: &EventFields<'_>) -> bool {
        let f = fields.f.as_ref().and_then(Value::name);
        f.is_some_and(|f| matches!(f.strip_prefix(':').unwrap_or(f), "txn" | "transaction"))
            || fields.value.as_ref().is_some_and(is_transaction)
            || self.pairs.is_in_transaction(process)
    }

    /// Passes an event on as one of an object.
    fn object(
        &mut self,
        process: u64,
        kind: &str,
        f: &str,
        fields: &EventFields<'_>,
    ) -> Result<(), String> {
        let kind = match kind {
            "invoke" => Kind::Invoke,
            "ok" => Kind::Ok,
            "fail" => Kind::Fail,
            "info" => Kind::Info,
            other => return Err(unknown_kind(other)),
        };
        let [key, node, value] = [&fields.key, &fields.node, &fields.value].map(Option::as_ref);
        let event = ObjectEvent { process, kind, f, key, node, value };
        self.pairs.object(&event).map_err(|error| error.to_string())
    }

    fn invoke(&mut self, event: ClientEvent<'_, '_>) -> Result<(), String> {
        let ClientEvent { process, f, operation, .. } = event;
        self.has_writes |= operation != Operation::Read;
        let keying = self.keying(event)?;
        let (key, value) = split(event, keying)?;
        let written = match operation {
            Operation::Write => value.map(Value::text),
            _ => None,
        };
        let label = OperationLabel { process, f, key: Some(&key), value: written.as_deref() };
        let invocation = match operation {
            Operation::Read => Invocation::Get,
            Operation::Delete | Operation::Write if value == Some(&Value::Nil) => Invocation::Del,
            Operation::Delete => Invocation::Del,
            Operation::Write => match &written {
                Some(written) => Invocation::Put(written),
                None => return Err(format!("invoke {f} without a value")),
            },
            Operation::Cas => return self.invoke_cas(event, label, value),
            Operation::Acquire => Invocation::acquire(),
            Operation::Release => Invocation::release(),
            Operation::Append => {
                return Err(format!(
                    "{f}: appends to texts are read in history.jsonl, in lines with start and end, and \
                     in Porcupine's data; appends to lists are transactions, {TRANSACTIONS}"
                ));
            }
        };
        self.pairs.invoke(label, invocation).map_err(|error| error.to_string())
    }

    fn invoke_cas(
        &mut self,
        event: ClientEvent<'_, '_>,
        label: OperationLabel<'_>,
        value: Option<&Value<'_>>,
    ) -> Result<(), String> {
        let pair = match (value, event.value) {
            (Some(Value::List(pair)), _) if pair.len() == 2 => pair,
            // [key old new] is [key [old new]].
            (_, Some(Value::List(all))) if all.len() == 3 && value.is_none() => &all[1..],
            _ => {
                return Err(format!(
                    "{} of {}: expected [old new], or with a key [key [old new]] or [key old new]",
                    event.f,
                    event.value.unwrap_or(&Value::Nil)
                ));
            }
        };
        let [from, to] =
            [&pair[0], &pair[1]].map(|value| (*value != Value::Nil).then(|| value.text()));
        let written = format!("[{} {}]", pair[0], pair[1]);
        let label = OperationLabel { value: Some(&written), ..label };
        self.pairs
            .invoke(label, Invocation::Cas(from.as_deref(), to.as_deref()))
            .map_err(|error| error.to_string())
    }

    fn complete(&mut self, event: ClientEvent<'_, '_>) -> Result<(), String> {
        let ClientEvent { process, f, operation, .. } = event;
        let keying = self.shape.map_or(Keying::OneRegister, |(keying, _)| keying);
        let is_omitted = matches!(event.value, None | Some(Value::Nil));
        let label = OperationLabel { process, f, key: None, value: None };
        let completed = if operation == Operation::Read {
            if event.value.is_none() {
                return Err(format!("ok {f} without a value: expected what it read"));
            }
            let (key, value) = split_completion(event, keying)?;
            if let Some(read @ (Value::Map(_) | Value::Set(_))) = value {
                self.collection.get_or_insert_with(|| read.to_string());
            }
            let read = value.filter(|value| **value != Value::Nil).map(Value::text);
            let label = OperationLabel { key: key.as_deref(), ..label };
            self.pairs.complete(label, Completion::Ok(read.as_deref()))
        } else if is_omitted && event.key.is_none() {
            self.pairs.complete(label, Completion::Ok(None))
        } else {
            let (key, value) = split_completion(event, keying)?;
            let written = match (operation, value, event.value) {
                (Operation::Cas, None, Some(Value::List(all))) if all.len() == 3 => {
                    Some(format!("[{} {}]", all[1], all[2]))
                }
                (Operation::Write | Operation::Cas, Some(value), _) if *value != Value::Nil => {
                    Some(value.to_string())
                }
                _ => None,
            };
            let label = OperationLabel { key: key.as_deref(), value: written.as_deref(), ..label };
            self.pairs.complete(label, Completion::Ok(None))
        };
        completed.map_err(|error| error.to_string())
    }

    fn complete_without_effect(
        &mut self,
        event: ClientEvent<'_, '_>,
        completion: Completion<'_>,
    ) -> Result<(), String> {
        let ClientEvent { process, f, .. } = event;
        let label = OperationLabel { process, f, key: None, value: None };
        self.pairs.complete(label, completion).map_err(|error| error.to_string())
    }

    /// Where an invocation names its key. All invocations of a history must agree.
    fn keying(&mut self, event: ClientEvent<'_, '_>) -> Result<Keying, String> {
        let ClientEvent { f, operation, key, value, .. } = event;
        let keying = match (key, value) {
            (Some(key), _) if *key != Value::Nil => Keying::Field,
            (_, Some(value)) if is_tuple(operation, value) => Keying::Tuple,
            _ => Keying::OneRegister,
        };
        if let (Keying::Field, Operation::Read, Some(Value::List(pair))) =
            (keying, operation, value)
            && matches!(pair.as_slice(), [_, Value::Nil])
        {
            let value = &pair[0];
            return Err(format!(
                "{f} with a key and the value [{value} nil]: two keys of one event"
            ));
        }
        let is_lock = operation.is_of_lock();
        match *self.shape.get_or_insert((keying, is_lock)) {
            (_, was_lock) if was_lock != is_lock => Err(format!(
                "{f}: operations on registers and on locks in one history: check them apart"
            )),
            // [old new] and [key value] look alike: what the other events say decides.
            (Keying::OneRegister, _) if operation == Operation::Cas && key.is_none() => {
                Ok(Keying::OneRegister)
            }
            (first, _) if first != keying => Err(format!(
                "{f} with the value {}: some events of this history name a key ([key value], or a \
                 field key), and some do not",
                value.unwrap_or(&Value::Nil)
            )),
            (first, _) => Ok(first),
        }
    }
}

/// Whether a value of an invocation is an `independent` tuple.
fn is_tuple(operation: Operation, value: &Value<'_>) -> bool {
    match value {
        Value::List(values) if operation == Operation::Cas => match values.as_slice() {
            [_, Value::List(pair)] => pair.len() == 2,
            [_, _, _] => true,
            _ => false,
        },
        Value::List(values) => values.len() == 2,
        _ => false,
    }
}

/// Whether a value is a list of reads and writes: `[[:r 1 nil] [:append 2 3]]`.
fn is_transaction(value: &Value<'_>) -> bool {
    micro_ops(value).is_some_and(|ops| !ops.is_empty())
}

/// The micro-operations in a value such as `[[:r 1 nil] [:append 2 3]]`.
fn micro_ops<'v, 'a>(value: &'v Value<'a>) -> Option<Vec<MicroOp<'v, 'a>>> {
    let Value::List(steps) = value else { return None };
    let step = |step: &'v Value<'a>| match step {
        Value::List(parts) if parts.len() == 3 => {
            let name = parts[0].name()?;
            let f = MicroFunction::named(name.strip_prefix(':').unwrap_or(name))?;
            Some(MicroOp { f, key: &parts[1], value: &parts[2], version: None })
        }
        _ => None,
    };
    steps.iter().map(step).collect()
}

/// Passes an event of a transaction on. The versions are those of its steps, if the system says them.
pub(super) fn transaction(
    process: u64,
    kind: &str,
    value: Option<&Value<'_>>,
    versions: Option<&[Option<u64>]>,
    pairs: &mut PairingSink<'_>,
) -> Result<(), String> {
    let ops = || {
        let value = value.unwrap_or(&Value::Nil);
        let ops = micro_ops(value).ok_or_else(|| {
            format!(
                "a transaction with the value {value}: expected a list of [:append key element], \
                 [:r key result] and [:w key value]"
            )
        })?;
        match ops.iter().find(|op| op.f != MicroFunction::Read && *op.value == Value::Nil) {
            Some(op) => Err(format!("{} of {} without a value", op.f.name(), op.key)),
            None => Ok(ops),
        }
    };
    let paired = match kind {
        "invoke" => pairs.invoke_transaction(process, &ops()?),
        "ok" => {
            let mut ops = ops()?;
            add_versions(&mut ops, versions.unwrap_or_default())?;
            pairs.complete_transaction(process, &ops, Outcome::Ok)
        }
        // What they say of reads is nothing that was observed.
        "fail" => pairs.complete_transaction(process, &[], Outcome::Fail),
        "info" => pairs.complete_transaction(process, &[], Outcome::Info),
        other => return Err(unknown_kind(other)),
    };
    paired.map_err(|error| error.to_string())
}

/// The versions of the steps of a transaction.
fn versions(value: &Value<'_>) -> Result<Vec<Option<u64>>, String> {
    let malformed =
        || format!("versions {value}: expected a list of whole numbers, null where there is none");
    let Value::List(versions) = value else { return Err(malformed()) };
    let version = |version: &Value<'_>| match version {
        Value::Nil => Ok(None),
        Value::Number(NumberKind::Integer, digits) => {
            digits.parse().map(Some).map_err(|_| malformed())
        }
        _ => Err(malformed()),
    };
    versions.iter().map(version).collect()
}

/// Adds what the system says of the version that each step wrote or read.
fn add_versions(ops: &mut [MicroOp<'_, '_>], versions: &[Option<u64>]) -> Result<(), String> {
    if !versions.is_empty() && versions.len() != ops.len() {
        return Err(format!(
            "versions: {} for {} steps; expected one for each, null where there is none",
            versions.len(),
            ops.len()
        ));
    }
    for (op, version) in ops.iter_mut().zip(versions) {
        op.version = *version;
    }
    Ok(())
}

/// Splits an event into the text of its key, and its value. A `[key old new]` has no value by itself.
fn split<'v, 'a>(
    event: ClientEvent<'v, 'a>,
    keying: Keying,
) -> Result<(String, Option<&'v Value<'a>>), String> {
    let ClientEvent { f, operation, key, value, .. } = event;
    match (keying, key, value) {
        (Keying::Field, Some(key), value) => Ok((key.to_string(), value)),
        (Keying::Field, None, _) => Err(format!("{f} without a key")),
        (Keying::Tuple, _, Some(Value::List(pair))) if pair.len() == 2 => {
            Ok((pair[0].to_string(), Some(&pair[1])))
        }
        (Keying::Tuple, _, Some(Value::List(triple)))
            if triple.len() == 3 && operation == Operation::Cas =>
        {
            Ok((triple[0].to_string(), None))
        }
        (Keying::Tuple, _, value) => Err(format!(
            "{f} with the value {}: expected [key value], as in the events before",
            value.unwrap_or(&Value::Nil)
        )),
        (Keying::OneRegister, _, value) => {
            let name = if operation.is_of_lock() { LOCK } else { REGISTER };
            Ok((name.to_owned(), value))
        }
    }
}

/// Like [`split`], for a completion. It may omit the field `key`.
fn split_completion<'v, 'a>(
    event: ClientEvent<'v, 'a>,
    keying: Keying,
) -> Result<(Option<String>, Option<&'v Value<'a>>), String> {
    match (keying, event.key) {
        (Keying::Field, None) => Ok((None, event.value)),
        _ => split(event, keying).map(|(key, value)| (Some(key), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::is_no_key;

    #[test]
    fn a_field_that_may_be_a_key_is_refused_and_others_are_ignored() {
        for name in ["k", "Key", "keys", "key_name", "Register", "table"] {
            let why = is_no_key(name).expect_err(name);
            assert!(why.contains(&format!("the field {name} may say")), "{why}");
        }
        for name in ["time", "error", "node", "clock", "link", "ok"] {
            is_no_key(name).unwrap_or_else(|why| panic!("{why}"));
        }
    }
}
