//! The functions that clients invoke. Does not know what a correct answer is.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    /// Reads a key.
    Get,
    /// Writes a value.
    Put,
    /// Deletes a key.
    Del,
    /// Compare-and-set: `[expected, new]`, texts, or null for an absent key.
    Cas,
    /// Reads a whole object: the elements of a set, the value of a counter, the balances of a bank.
    Read,
    /// Adds an element to a set.
    Add,
    /// Adds an integer, which may be negative, to a counter.
    Inc,
    /// Puts an element into a queue.
    Enqueue,
    /// Takes an element out of a queue. Returns null if it is empty.
    Dequeue,
    /// Takes every element out of a queue. Returns them as a list.
    Drain,
    /// Appends an element to a log. Its offset is the version.
    Append,
    /// Reads the next records of a log: a list of `[offset, element]`.
    Poll,
    /// Takes a lock. Its fencing token, if there is one, is the version.
    Lock,
    /// Releases a lock.
    Unlock,
    /// Moves money between accounts of a bank: `{"from": A, "to": B, "amount": N}`.
    Transfer,
    /// Executes a transaction, a list of steps: `["r", key, null]`, `["append", key, element]` and `["w", key,
    /// value]`. Returns the list with what its reads returned.
    Txn,
    /// Reads several keys, or the keys of a range, as of one instant. Its value is an object, in the form of the
    /// system under test.
    Snapshot,
}

impl Function {
    /// Every function and its name.
    const NAMES: [(Function, &str); 17] = [
        (Function::Get, "get"),
        (Function::Put, "put"),
        (Function::Del, "del"),
        (Function::Cas, "cas"),
        (Function::Read, "read"),
        (Function::Add, "add"),
        (Function::Inc, "inc"),
        (Function::Enqueue, "enqueue"),
        (Function::Dequeue, "dequeue"),
        (Function::Drain, "drain"),
        (Function::Append, "append"),
        (Function::Poll, "poll"),
        (Function::Lock, "lock"),
        (Function::Unlock, "unlock"),
        (Function::Transfer, "transfer"),
        (Function::Txn, "txn"),
        (Function::Snapshot, "snapshot"),
    ];

    /// The name in histories.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Function::NAMES.into_iter().find(|(function, _)| *function == self);
        found.expect("every function has a name").1
    }

    /// The position in the list of all functions, by which a page refers to it.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The functions of keys that are registers: what linearizability is checked of.
    #[must_use]
    pub fn is_on_register(self) -> bool {
        matches!(self, Function::Get | Function::Put | Function::Del | Function::Cas)
    }

    /// Whether it has an effect: an operation whose outcome is unknown may have had one.
    #[must_use]
    pub fn is_write(self) -> bool {
        !matches!(self, Function::Get | Function::Read | Function::Snapshot)
    }

    /// Whether its value is any JSON value, and not a text.
    #[must_use]
    pub fn has_json_value(self) -> bool {
        !matches!(self, Function::Get | Function::Put | Function::Del)
    }

    /// Whether the value of a completion is what the operation returned. Otherwise it is the value of
    /// the invocation.
    #[must_use]
    pub fn returns_value(self) -> bool {
        matches!(
            self,
            Function::Get
                | Function::Read
                | Function::Dequeue
                | Function::Drain
                | Function::Poll
                | Function::Txn
                | Function::Snapshot
        )
    }

    /// Whether an invocation has a value.
    #[must_use]
    pub fn needs_value(self) -> bool {
        let without = matches!(self, Function::Del | Function::Lock | Function::Unlock);
        matches!(self, Function::Txn | Function::Snapshot) || (!without && !self.returns_value())
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Function {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Function::NAMES.into_iter().find(|(_, name)| *name == text);
        found.map(|(function, _)| function).ok_or_else(|| {
            let names = Function::NAMES.map(|(_, name)| name).join(", ");
            format!("unknown operation '{text}': expected one of {names}")
        })
    }
}
