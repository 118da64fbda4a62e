//! Pairs the events of a history into operations. Knows nothing of what they should have returned.

use std::collections::HashMap;

use system::protocol::TxnId;

use super::{Action, ClientEvent, Event, Function, Kind};

/// An operation of a client: its invocation, and its completion if there was one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who did it.
    pub process: u64,
    /// What it does.
    pub f: Function,
    /// The key that it concerns.
    pub key: String,
    /// A put: the value that it writes. A get that is `Ok`: what it found, none if nothing.
    pub value: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// When `Ok`: the version that was written or found.
    pub version: Option<TxnId>,
    /// When it failed or its end is unknown: why.
    pub error: Option<String>,
    /// The index of its invocation.
    pub invoked_index: u64,
    /// The time of its invocation, nanoseconds since the history began.
    pub invoked: u64,
    /// The time of its completion, likewise. None if it is open for ever, because its end is
    /// unknown.
    pub returned: Option<u64>,
    /// The index of the event that ended it, also of an `info`; none if the history ends before.
    pub returned_index: Option<u64>,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It happened.
    Ok,
    /// It certainly did not happen.
    Fail,
    /// It may have happened, may yet happen, or never will.
    Info,
}

impl Operation {
    /// Whether another operation was under way at some moment at which this one was.
    #[must_use]
    pub fn overlaps(&self, other: &Operation) -> bool {
        let before =
            |a: &Operation, b: &Operation| a.returned.is_some_and(|returned| returned < b.invoked);
        !before(self, other) && !before(other, self)
    }
}

/// Why events do not pair into operations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {index}: {reason}")]
pub struct PairError {
    /// The event's index.
    pub index: u64,
    /// Its place among the events, from 0.
    pub position: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Pairs events into operations, in the order of their invocations. An operation without a
/// completion is open for ever, like one that ended with `info`.
///
/// # Errors
/// An event that completes nothing, completes something else, or begins an operation of a process
/// that has one already or is retired.
pub fn pair(events: &[Event]) -> Result<Vec<Operation>, PairError> {
    let mut operations: Vec<Operation> = Vec::with_capacity(events.len() / 2 + 1);
    let mut open: HashMap<u64, Option<usize>> = HashMap::new();
    for (position, event) in events.iter().enumerate() {
        let Action::Client(client) = &event.action else { continue };
        let wrong = |reason| PairError { index: event.index, position, reason };
        let process = client.process;
        if client.kind == Kind::Invoke {
            match open.insert(process, Some(operations.len())) {
                None => operations.push(begin(event, client)),
                Some(Some(_)) => {
                    return Err(wrong(format!("process {process} has an operation under way")));
                }
                Some(None) => {
                    return Err(wrong(format!("process {process} was retired by an info")));
                }
            }
            continue;
        }
        let Some(Some(place)) = open.remove(&process) else {
            return Err(wrong(format!("process {process} completes what it has not begun")));
        };
        let operation = &mut operations[place];
        if operation.f != client.f || operation.key != client.key {
            return Err(wrong(format!(
                "process {process} completes {} of {}, but has begun {} of {}",
                client.f, client.key, operation.f, operation.key
            )));
        }
        let (began, ends) = (&operation.value, &client.value);
        if client.f.is_write() && ends.is_some() && ends != began {
            let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
            return Err(wrong(format!(
                "process {process} completes {} of {} with the value {}, but has begun it with {}",
                client.f,
                client.key,
                text(ends),
                text(began)
            )));
        }
        if client.kind == Kind::Info {
            open.insert(process, None);
        }
        end(operation, event, client);
    }
    Ok(operations)
}

fn begin(event: &Event, client: &ClientEvent) -> Operation {
    Operation {
        process: client.process,
        f: client.f,
        key: client.key.clone(),
        value: client.value.clone(),
        outcome: Outcome::Info,
        version: None,
        error: None,
        invoked_index: event.index,
        invoked: event.time,
        returned: None,
        returned_index: None,
    }
}

fn end(operation: &mut Operation, event: &Event, client: &ClientEvent) {
    operation.returned_index = Some(event.index);
    operation.version = client.version;
    operation.error.clone_from(&client.error);
    operation.outcome = match client.kind {
        Kind::Ok => Outcome::Ok,
        Kind::Fail => Outcome::Fail,
        Kind::Info | Kind::Invoke => Outcome::Info,
    };
    if operation.outcome != Outcome::Info {
        operation.returned = Some(event.time);
    }
    if operation.f == Function::Get {
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
        };
        Event { index, time: index * 10, action: Action::Client(client) }
    }

    #[test]
    fn completions_find_their_invocations() {
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
    fn events_that_do_not_pair_are_refused() {
        use Function::{Del, Get};
        for (events, reason) in [
            (vec![event(0, 1, Kind::Ok, Get)], "completes what it has not begun"),
            (
                vec![event(0, 1, Kind::Invoke, Get), event(1, 1, Kind::Invoke, Get)],
                "has an operation under way",
            ),
            (
                vec![
                    event(0, 1, Kind::Invoke, Get),
                    event(1, 1, Kind::Info, Get),
                    event(2, 1, Kind::Invoke, Get),
                ],
                "was retired",
            ),
            (
                vec![event(0, 1, Kind::Invoke, Get), event(1, 1, Kind::Ok, Del)],
                "completes del of a, but has begun get of a",
            ),
        ] {
            let error = pair(&events).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
        let put = |index, kind, written: &str| {
            let mut event = event(index, 1, kind, Function::Put);
            let Action::Client(client) = &mut event.action else {
                unreachable!("it is a client's")
            };
            client.value = Some(written.to_owned());
            event
        };
        let error = pair(&[put(0, Kind::Invoke, "x"), put(1, Kind::Ok, "y")]).expect_err("y");
        assert!(error.to_string().contains("with the value y, but has begun it with x"), "{error}");
    }
}
