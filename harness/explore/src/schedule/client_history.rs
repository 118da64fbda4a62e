//! The history of the clients' operations on each key, tested for linearizability by stateright's
//! tester as it grows. Exponential: for the few operations of a model.

use std::collections::BTreeMap;

use protocol::{CallId, Key, Reply, Request, Value};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// The operations of the clients, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ClientHistory(BTreeMap<Key, LinearizabilityTester<CallId, Register>>);

impl ClientHistory {
    /// A client invokes an operation.
    pub(super) fn invoke(&mut self, call: CallId, request: &Request) {
        let (key, operation) = register_operation(request);
        let history =
            self.0.entry(key.clone()).or_insert_with(|| LinearizabilityTester::new(Register(None)));
        // Each call is a thread of its own, so invocations cannot overlap within one.
        let _ = history.on_invoke(call, operation);
    }

    /// An operation returns. Whether the history of its key is still linearizable.
    pub(super) fn complete(&mut self, call: CallId, request: &Request, reply: &Reply) -> bool {
        let (key, _) = register_operation(request);
        let returned = match reply {
            Reply::Committed { .. } => RegisterReturn::Written,
            Reply::Aborted(_) | Reply::Unavailable => RegisterReturn::NoEffect,
            Reply::Value(found) => {
                RegisterReturn::Read(found.as_ref().map(|(_, value)| value.clone()))
            }
        };
        self.0.get_mut(key).is_none_or(|history| {
            let _ = history.on_return(call, returned);
            history.is_consistent()
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

fn register_operation(request: &Request) -> (&Key, RegisterOperation) {
    match request {
        Request::Write(write) => (&write.key, RegisterOperation::Write(write.value.clone())),
        Request::Get { key, .. } => (key, RegisterOperation::Read),
    }
}
