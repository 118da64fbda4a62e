//! Pairs invocations and completions into operations. Does not know what they should have returned.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::{Action, ClientEvent, Event, Function, Kind, MalformedHistory, Version};

/// An operation of a client: its invocation, and its completion if there was one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The client process.
    pub process: u64,
    /// What it does.
    pub f: Function,
    /// The key.
    pub key: String,
    /// Put: the value written. Get that is `Ok`: the value read, `None` if the key was absent.
    pub value: Option<String>,
    /// How it completed.
    pub outcome: Outcome,
    /// If `Ok`: the version written or read.
    pub version: Option<Version>,
    /// If `Fail` or `Info`: the reason.
    pub error: Option<String>,
    /// The node that the client was connected to, where that is recorded.
    pub node: Option<String>,
    /// Event index of the invocation.
    pub invoked_index: u64,
    /// Time of the invocation, in nanoseconds since the history began.
    pub invoked: u64,
    /// Time of the completion. `None` if the outcome is unknown: such an operation stays open for
    /// ever.
    pub returned: Option<u64>,
    /// Event index of the completion, `info` included. `None` if the history ends before.
    pub returned_index: Option<u64>,
}

/// How an operation completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It took effect.
    Ok,
    /// It certainly had no effect.
    Fail,
    /// The outcome is unknown: it took effect, will take effect later, or never does.
    Info,
}

impl Operation {
    /// The value of a function whose [values are JSON](Function::has_json_value). `None` if there is
    /// none, or it is no JSON.
    #[must_use]
    pub fn json(&self) -> Option<Json> {
        serde_json::from_str(self.value.as_deref()?).ok()
    }

    /// What a compare-and-set expects and what it writes. `None` if its value has another form.
    #[must_use]
    pub fn cas(&self) -> Option<(Option<String>, Option<String>)> {
        serde_json::from_str(self.value.as_deref()?).ok()
    }

    /// Whether it may or may not have taken effect. A get has no effect, also if it never completed.
    #[must_use]
    pub fn is_indeterminate(&self) -> bool {
        self.outcome == Outcome::Info && self.f.is_write()
    }

    /// Whether the two operations are concurrent: both open at some moment.
    #[must_use]
    pub fn overlaps(&self, other: &Operation) -> bool {
        let before =
            |a: &Operation, b: &Operation| a.returned.is_some_and(|returned| returned < b.invoked);
        !before(self, other) && !before(other, self)
    }
}

/// Why events cannot be paired into operations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {index}: {reason}")]
pub struct PairError {
    /// The event's index.
    pub index: u64,
    /// The event's position in the list, from 0.
    pub position: usize,
    /// What is wrong with the event.
    pub reason: String,
}

/// Pairs events into operations, in the order of their invocations. An operation without a
/// completion stays open for ever, like one that completed with `info`.
///
/// # Errors
/// A completion without an invocation, or of another operation than was invoked; or an invocation by
/// a process that has an open operation or is retired.
pub fn pair(events: &[Event]) -> Result<Vec<Operation>, PairError> {
    let mut operations: Vec<Operation> = Vec::with_capacity(events.len() / 2 + 1);
    // The open operation of each process, `None` once an info has retired the process.
    let mut open: HashMap<u64, Option<usize>> = HashMap::new();
    for (position, event) in events.iter().enumerate() {
        let Action::Client(client) = &event.action else { continue };
        let malformed = |reason| PairError { index: event.index, position, reason };
        let process = client.process;
        if client.kind == Kind::Invoke {
            if let Some(before) = open.insert(process, Some(operations.len())) {
                return Err(malformed(MalformedHistory::not_idle(process, before.is_none()).0));
            }
            operations.push(invoke(event, client));
            continue;
        }
        let Some(Some(at)) = open.remove(&process) else {
            return Err(malformed(MalformedHistory::not_invoked(process).0));
        };
        let operation = &mut operations[at];
        agrees(operation, client).map_err(malformed)?;
        if client.kind == Kind::Info {
            open.insert(process, None);
        }
        complete(operation, event, client);
    }
    Ok(operations)
}

/// Checks that a completion names the function, the key and the written value of its invocation.
fn agrees(operation: &Operation, completion: &ClientEvent) -> Result<(), String> {
    let ClientEvent { process, f, key, value, .. } = completion;
    if operation.f != *f || operation.key != *key {
        return Err(format!(
            "process {process} completes {f} of {key}, but invoked {} of {}",
            operation.f, operation.key
        ));
    }
    if !f.returns_value() && value.is_some() && *value != operation.value {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        return Err(format!(
            "process {process} completes {f} of {key} with the value {}, but invoked it with {}",
            text(value),
            text(&operation.value)
        ));
    }
    Ok(())
}

fn invoke(event: &Event, client: &ClientEvent) -> Operation {
    Operation {
        process: client.process,
        f: client.f,
        key: client.key.clone(),
        value: client.value.clone(),
        outcome: Outcome::Info,
        version: None,
        error: None,
        node: client.node.clone(),
        invoked_index: event.index,
        invoked: event.time,
        returned: None,
        returned_index: None,
    }
}

fn complete(operation: &mut Operation, event: &Event, client: &ClientEvent) {
    operation.returned_index = Some(event.index);
    operation.version.clone_from(&client.version);
    operation.error.clone_from(&client.error);
    if operation.node.is_none() {
        operation.node.clone_from(&client.node);
    }
    operation.outcome = match client.kind {
        Kind::Ok => Outcome::Ok,
        Kind::Fail => Outcome::Fail,
        Kind::Info | Kind::Invoke => Outcome::Info,
    };
    if operation.outcome != Outcome::Info {
        operation.returned = Some(event.time);
    }
    // A transaction without an answer is still known by what it was asked to do.
    let is_asked = operation.f.needs_value() && client.value.is_none();
    if operation.f.returns_value() && !is_asked {
        operation.value.clone_from(&client.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(index: u64, process: u64, kind: Kind, f: Function) -> Event {
        let client = ClientEvent {
            process,
            kind,
            f,
            key: "a".into(),
            value: None,
            version: None,
            error: None,
            node: None,
        };
        Event { index, time: index * 10, action: Action::Client(client) }
    }

    #[test]
    fn completions_are_paired_with_invocations() {
        use Function::{Del, Get};
        let operations = pair(&[
            event(0, 1, Kind::Invoke, Get),
            event(1, 2, Kind::Invoke, Del),
            event(2, 1, Kind::Ok, Get),
            event(3, 2, Kind::Info, Del),
            event(4, 1, Kind::Invoke, Del),
        ])
        .expect("well formed");
        let outcomes: Vec<_> =
            operations.iter().map(|op| (op.process, op.outcome, op.invoked, op.returned)).collect();
        assert_eq!(
            outcomes,
            [
                (1, Outcome::Ok, 0, Some(20)),
                (2, Outcome::Info, 10, None),
                (1, Outcome::Info, 40, None)
            ]
        );
        assert!(operations[1].overlaps(&operations[2]) && !operations[0].overlaps(&operations[2]));
    }

    #[test]
    fn events_that_do_not_pair_are_rejected() {
        use Function::{Del, Get};
        for (events, reason) in [
            (vec![event(0, 1, Kind::Ok, Get)], "completes an operation it has not invoked"),
            (
                vec![event(0, 1, Kind::Invoke, Get), event(1, 1, Kind::Invoke, Get)],
                "while another one is open",
            ),
            (
                vec![
                    event(0, 1, Kind::Invoke, Get),
                    event(1, 1, Kind::Info, Get),
                    event(2, 1, Kind::Invoke, Get),
                ],
                "an info has retired it",
            ),
            (
                vec![event(0, 1, Kind::Invoke, Get), event(1, 1, Kind::Ok, Del)],
                "completes del of a, but invoked get of a",
            ),
        ] {
            let error = pair(&events).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
        let put = |index, kind, written: &str| {
            let mut event = event(index, 1, kind, Function::Put);
            let Action::Client(client) = &mut event.action else {
                unreachable!("it is a client event")
            };
            client.value = Some(written.to_owned());
            event
        };
        let error = pair(&[put(0, Kind::Invoke, "x"), put(1, Kind::Ok, "y")]).expect_err("y");
        assert!(error.to_string().contains("with the value y, but invoked it with x"), "{error}");
    }
}
