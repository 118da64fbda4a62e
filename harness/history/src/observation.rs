//! What clients observe, event by event and without copies: the form in which a reader passes a
//! history on.

use crate::{Kind, Outcome, Value};

/// What a client asks of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invocation<'a> {
    /// Reads the value.
    Get,
    /// Writes a value.
    Put(&'a str),
    /// Deletes the key.
    Del,
    /// Compare-and-set: writes the second value if the key holds the first. `None` stands for an
    /// absent key.
    Cas(Option<&'a str>, Option<&'a str>),
    /// Appends text to the value.
    Append(&'a str),
}

/// What a lock holds while it is held. A lock that is free is absent. No value of EDN or JSON is
/// written like this.
const HELD: &str = "(held)";

impl Invocation<'_> {
    /// Takes a lock that is free. Any process may release it.
    #[must_use]
    pub fn acquire() -> Self {
        Invocation::Cas(None, Some(HELD))
    }

    /// Releases a lock that is held.
    #[must_use]
    pub fn release() -> Self {
        Invocation::Cas(Some(HELD), None)
    }
}

/// How an operation completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion<'a> {
    /// It took effect. A get returned this value, `None` if the key was absent.
    Ok(Option<&'a str>),
    /// It certainly had no effect and never will.
    Fail,
    /// A compare-and-set found a value other than the expected one.
    Mismatch,
    /// The outcome is unknown: it took effect, will take effect later, or never does.
    Info,
}

/// What a micro-operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MicroFunction {
    /// Appends an element to the list of a key.
    Append,
    /// Reads a key: the list of its elements, or the value of a register.
    Read,
    /// Writes the value of a register.
    Write,
}

impl MicroFunction {
    /// The function with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<MicroFunction> {
        Some(match name {
            "append" => MicroFunction::Append,
            "r" | "read" => MicroFunction::Read,
            "w" | "write" => MicroFunction::Write,
            _ => return None,
        })
    }

    /// The name, as Jepsen writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            MicroFunction::Append => "append",
            MicroFunction::Read => "r",
            MicroFunction::Write => "w",
        }
    }
}

/// A micro-operation: one step of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MicroOp<'v, 'a> {
    /// What it does.
    pub f: MicroFunction,
    /// The key.
    pub key: &'v Value<'a>,
    /// What it appends or writes; of a read, what it returned. A read has no value before it
    /// completed, and [`Value::Nil`] stands for that too.
    pub value: &'v Value<'a>,
    /// The version of the key that it wrote or read, if the system says so: later versions of a key are
    /// greater. Only of a completion that is ok.
    pub version: Option<u64>,
}

/// Takes the events of a history, in the order in which they were observed.
///
/// A history consists of operations on single keys, or of transactions. A sink takes those that it
/// implements, and refuses the others.
///
/// A process has one open operation at a time, and none after [`Completion::Info`]. Keys and values are
/// texts that are equal exactly if the keys and values of the history are, as its format compares them
/// ([`Value`](crate::Value)).
pub trait Sink {
    /// The process of the next event has this name in the history. Called for processes that are not
    /// numbered there.
    fn name_process(&mut self, _process: u64, _name: &str) {}

    /// The next event has this number in the history. Not called by readers of files, whose events are numbered
    /// from 0 without gaps.
    fn number_event(&mut self, _index: u64) {}

    /// The order of the events that follow means nothing between processes: the history does not say when
    /// operations began and ended. Called before the first event.
    fn without_real_time(&mut self) {}

    /// A process invokes an operation.
    ///
    /// # Errors
    /// The invocation does not fit the events before it.
    fn invoke(
        &mut self,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory>;

    /// The open operation of a process completes.
    ///
    /// # Errors
    /// The completion does not fit the events before it.
    fn complete(
        &mut self,
        process: u64,
        completion: Completion<'_>,
    ) -> Result<(), MalformedHistory>;

    /// Whether events of operations on keys are passed to [`object`](Self::object) as they are, since objects that are
    /// read whole are expected.
    fn takes_objects(&self) -> bool {
        false
    }

    /// An event of an operation on an object. Called if this sink takes objects, instead of `invoke` and
    /// `complete`.
    ///
    /// # Errors
    /// It is none of an object.
    fn object(&mut self, event: &ObjectEvent<'_, '_>) -> Result<(), MalformedHistory> {
        Err(MalformedHistory(format!("{} is no operation on a key", event.f)))
    }

    /// A process invokes a transaction. Its reads have no values yet.
    ///
    /// # Errors
    /// The transaction does not fit the events before it, or this sink takes no transactions.
    fn invoke_transaction(
        &mut self,
        _process: u64,
        ops: &[MicroOp<'_, '_>],
    ) -> Result<(), MalformedHistory> {
        Err(MalformedHistory::is_transaction(ops))
    }

    /// The open transaction of a process completes. If it is ok, `ops` are those of the invocation
    /// with what its reads returned; else there are none, since nothing was observed.
    ///
    /// # Errors
    /// The completion does not fit the events before it, or this sink takes no transactions.
    fn complete_transaction(
        &mut self,
        process: u64,
        _ops: &[MicroOp<'_, '_>],
        _outcome: Outcome,
    ) -> Result<(), MalformedHistory> {
        Err(MalformedHistory::not_invoked(process))
    }
}

/// An event of an operation on an object that is read whole, as the history has it.
#[derive(Clone, Copy, Debug)]
pub struct ObjectEvent<'v, 'a> {
    /// The process.
    pub process: u64,
    /// Invocation, or how the operation completed.
    pub kind: Kind,
    /// What the operation does, as the history calls it.
    pub f: &'v str,
    /// The field `key`.
    pub key: Option<&'v Value<'a>>,
    /// The field `node`: where the client is connected to.
    pub node: Option<&'v Value<'a>>,
    /// The value.
    pub value: Option<&'v Value<'a>>,
}

/// Why events cannot be a history, in words. The caller adds the position in the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedHistory(pub String);

impl MalformedHistory {
    /// A process invokes an operation while it has one open, or after an info retired it.
    #[must_use]
    pub fn not_idle(process: u64, retired: bool) -> Self {
        MalformedHistory(if retired {
            format!("process {process} invokes an operation although an info has retired it")
        } else {
            format!("process {process} invokes an operation while another one is open")
        })
    }

    /// A transaction where only operations on single keys are expected.
    #[must_use]
    pub fn is_transaction(ops: &[MicroOp<'_, '_>]) -> Self {
        let steps: Vec<String> =
            ops.iter().map(|op| format!("[:{} {} {}]", op.f.name(), op.key, op.value)).collect();
        MalformedHistory(format!(
            "[{}] is a transaction, and only operations on single keys are expected here",
            steps.join(" ")
        ))
    }

    /// A process completes an operation while it has none open.
    #[must_use]
    pub fn not_invoked(process: u64) -> Self {
        MalformedHistory(format!("process {process} completes an operation it has not invoked"))
    }
}
