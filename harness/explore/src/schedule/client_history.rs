//! The history of the clients' operations on each key, tested for linearizability by stateright's
//! tester as it grows. Exponential: for the few operations of a model.

use std::collections::BTreeMap;

use protocol::{CallId, Key, Query, Reply, Request, Snapshot, Value};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// The operations of the clients, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ClientHistory(BTreeMap<Key, LinearizabilityTester<CallId, Register>>);

impl ClientHistory {
    /// A client invokes an operation.
    pub(super) fn invoke(&mut self, call: CallId, request: &Request) {
        for (key, operation) in register_operations(request) {
            let new = || LinearizabilityTester::new(Register(None));
            let history = self.0.entry(key.clone()).or_insert_with(new);
            // Each call is a thread of its own, so invocations cannot overlap within one.
            let _ = history.on_invoke(call, operation);
        }
    }

    /// An operation returns. Whether the histories of its keys are still linearizable.
    pub(super) fn complete(&mut self, call: CallId, request: &Request, reply: &Reply) -> bool {
        let read = |found: &Option<(_, Value)>| {
            RegisterReturn::Read(found.as_ref().map(|(_, value)| value.clone()))
        };
        let returned = |at: usize| match reply {
            Reply::Committed { .. } => RegisterReturn::Written,
            Reply::Value(found) => read(found),
            Reply::Snapshot { snapshot: Snapshot::Keys(all), .. } => {
                all.get(at).map_or(RegisterReturn::NoEffect, read)
            }
            Reply::Aborted(_) | Reply::Snapshot { .. } | Reply::Unavailable => {
                RegisterReturn::NoEffect
            }
        };
        register_operations(request).into_iter().enumerate().all(|(at, (key, _))| {
            self.0.get_mut(key).is_none_or(|history| {
                let _ = history.on_return(call, returned(at));
                history.is_consistent()
            })
        })
    }
}

/// A key as a register: the value that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Register(Option<Value>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum RegisterOperation {
    Read,
    Write(Option<Value>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum RegisterReturn {
    Written,
    NoEffect,
    Read(Option<Value>),
}

impl SequentialSpec for Register {
    type Op = RegisterOperation;
    type Ret = RegisterReturn;

    fn invoke(&mut self, operation: &RegisterOperation) -> RegisterReturn {
        match operation {
            RegisterOperation::Read => RegisterReturn::Read(self.0.clone()),
            RegisterOperation::Write(value) => {
                self.0.clone_from(value);
                RegisterReturn::Written
            }
        }
    }

    fn is_valid_step(&mut self, operation: &RegisterOperation, returned: &RegisterReturn) -> bool {
        *returned == RegisterReturn::NoEffect || self.invoke(operation) == *returned
    }
}

/// What a request does to registers. A range says only in its answer which keys it concerns, and is left out.
fn register_operations(request: &Request) -> Vec<(&Key, RegisterOperation)> {
    match request {
        Request::Write(write) => vec![(&write.key, RegisterOperation::Write(write.value.clone()))],
        Request::Get { key, .. } => vec![(key, RegisterOperation::Read)],
        Request::Snapshot { query: Query::Keys(keys), .. } => {
            keys.iter().map(|key| (key, RegisterOperation::Read)).collect()
        }
        Request::Snapshot { query: Query::Range(_), .. } => Vec::new(),
    }
}
