//! The operations of a history in memory, in the order of time.

use std::{borrow::Cow, collections::HashMap};

use ahash::RandomState;

use super::{
    super::{
        Ambiguous,
        events::{LOCK, NAMED_PROCESSES, Operation, REGISTER},
        pairing::PairingSink,
    },
    Outcome,
};
use crate::{Completion, Invocation, Value};

/// The number of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name(u32);

/// An operation of a history.
pub(super) struct Interval {
    pub(super) client: Option<Name>,
    pub(super) operation: Operation,
    pub(super) key: Option<Name>,
    pub(super) argument: Argument,
    pub(super) start: i128,
    /// `None` if it never ended.
    pub(super) end: Option<i128>,
    pub(super) outcome: Outcome,
}

/// What an operation wrote, or read.
pub(super) enum Argument {
    None,
    Value(Option<Content>),
    Cas(Option<Content>, Option<Content>),
}

/// A value.
pub(super) struct Content {
    /// The text itself, or how another value is written.
    text: Box<str>,
    kind: ContentKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ContentKind {
    /// A text that is written with quotes.
    Text,
    /// A text that is written as it is.
    Plain,
    Other,
}

impl Content {
    /// A value, `None` if it stands for an absent key.
    pub(super) fn of(value: &Value<'_>) -> Option<Content> {
        let (text, kind) = match value {
            Value::Nil => return None,
            Value::Text(text) => (text.to_string(), ContentKind::Text),
            Value::Symbol(text) => (text.to_string(), ContentKind::Plain),
            other => (other.to_string(), ContentKind::Other),
        };
        Some(Content { text: text.into(), kind })
    }

    fn written(&self) -> Cow<'_, str> {
        match self.kind {
            ContentKind::Text => Value::Text(Cow::Borrowed(&self.text)).to_string().into(),
            ContentKind::Plain | ContentKind::Other => Cow::Borrowed(&self.text),
        }
    }
}

/// The operations of a history.
#[derive(Default)]
pub(super) struct Intervals {
    operations: Vec<Interval>,
    has_appends: bool,
    names: Vec<Box<str>>,
    numbers: HashMap<Box<str>, Name, RandomState>,
}

impl Intervals {
    /// The number of a client or key.
    pub(super) fn named(&mut self, name: String) -> Name {
        if let Some(number) = self.numbers.get(&*name) {
            return *number;
        }
        let number = Name(u32::try_from(self.names.len()).expect("fewer names than fit in memory"));
        self.names.push(name.clone().into());
        self.numbers.insert(name.into(), number);
        number
    }

    /// Adds an operation.
    pub(super) fn add(&mut self, operation: Interval) -> Result<(), String> {
        if let Some(first) = self.operations.first() {
            if first.key.is_some() != operation.key.is_some() {
                return Err(
                    "some operations of this history have a key, and some do not".to_owned()
                );
            }
            if first.operation.is_of_lock() != operation.operation.is_of_lock() {
                return Err("operations on registers and on locks in one history".to_owned());
            }
        }
        self.has_appends |= operation.operation == Operation::Append;
        self.operations.push(operation);
        Ok(())
    }

    /// Passes the operations on in the order of time. At equal times they are concurrent: invocations
    /// come first. Returns how many outcomes are ambiguous.
    pub(super) fn stream(
        self,
        ambiguous: Ambiguous,
        pairs: &mut PairingSink<'_>,
    ) -> Result<u64, String> {
        let mut events: Vec<(i128, bool, usize)> = Vec::with_capacity(2 * self.operations.len());
        let mut count = 0;
        for (at, operation) in self.operations.iter().enumerate() {
            events.push((operation.start, false, at));
            count += u64::from(operation.outcome == Outcome::NotOk);
            match (operation.outcome, operation.end) {
                (Outcome::Info, _) => {}
                (Outcome::NotOk, _) if ambiguous == Ambiguous::Info => {}
                // When it failed does not matter.
                (_, end) => events.push((end.unwrap_or(operation.start), true, at)),
            }
        }
        events.sort_unstable();
        for (_, is_end, at) in events {
            let operation = &self.operations[at];
            // The operations of a client may overlap, so each has a process of its own.
            let process = NAMED_PROCESSES + at as u64;
            pairs.name_process(process, operation.client.map_or("", |client| self.name(client)));
            if is_end {
                self.complete(operation, process, pairs)?;
            } else {
                self.invoke(operation, process, pairs)?;
            }
        }
        Ok(count)
    }

    fn name(&self, name: Name) -> &str {
        &self.names[name.0 as usize]
    }

    /// A value as the sink takes it. Where texts are appended, all values must be texts.
    fn text<'c>(&self, content: Option<&'c Content>) -> Result<Option<Cow<'c, str>>, String> {
        match content {
            Some(content) if !self.has_appends => Ok(Some(content.written())),
            Some(content) if content.kind == ContentKind::Other => {
                let value = content.written();
                Err(format!("the value {value} in a history with appends: expected a text"))
            }
            Some(content) => Ok(Some(Cow::Borrowed(&content.text))),
            None => Ok(None),
        }
    }

    fn invoke(
        &self,
        interval: &Interval,
        process: u64,
        pairs: &mut PairingSink<'_>,
    ) -> Result<(), String> {
        let operation = interval.operation;
        let (first, second) = match &interval.argument {
            Argument::None => (None, None),
            Argument::Value(value) => (self.text(value.as_ref())?, None),
            Argument::Cas(from, to) => (self.text(from.as_ref())?, self.text(to.as_ref())?),
        };
        let invocation = match (operation, &first) {
            (Operation::Read, _) => Invocation::Get,
            (Operation::Write, Some(value)) => Invocation::Put(value),
            (Operation::Write, None) | (Operation::Delete, _) => Invocation::Del,
            (Operation::Append, value) => Invocation::Append(value.as_deref().unwrap_or_default()),
            (Operation::Cas, from) => Invocation::Cas(from.as_deref(), second.as_deref()),
            (Operation::Acquire, _) => Invocation::acquire(),
            (Operation::Release, _) => Invocation::release(),
        };
        let only = if operation.is_of_lock() { LOCK } else { REGISTER };
        let key = interval.key.map_or(only, |key| self.name(key));
        pairs.pass_invocation(process, key, invocation).map_err(|error| error.to_string())
    }

    fn complete(
        &self,
        interval: &Interval,
        process: u64,
        pairs: &mut PairingSink<'_>,
    ) -> Result<(), String> {
        let read = match (interval.operation, &interval.argument) {
            (Operation::Read, Argument::Value(value)) => self.text(value.as_ref())?,
            _ => None,
        };
        let completion = match interval.outcome {
            Outcome::Ok => Completion::Ok(read.as_deref()),
            _ => Completion::Fail,
        };
        pairs.pass_completion(process, completion).map_err(|error| error.to_string())
    }
}
