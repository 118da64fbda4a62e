//! Checks that each completion agrees with its invocation on function, key and written value. Does
//! not know any format, nor what an operation should have returned.

use std::{collections::HashMap, fmt::Write as _};

use ahash::RandomState;

use crate::{
    Completion, Invocation, MalformedHistory, MicroFunction, MicroOp, ObjectEvent, Outcome, Sink,
};

/// How an event identifies its operation, as far as it does.
#[derive(Clone, Copy)]
pub(super) struct OperationLabel<'a> {
    pub(super) process: u64,
    pub(super) f: &'a str,
    /// `None` if the event omits it.
    pub(super) key: Option<&'a str>,
    /// The value that the operation writes, never one that it reads. `None` if the event omits it
    /// or nothing is written.
    pub(super) value: Option<&'a str>,
}

/// Passes events on to a sink, completions only if they agree with their invocations.
pub(super) struct PairingSink<'s> {
    sink: &'s mut dyn Sink,
    takes_objects: bool,
    /// The label of the last invocation of each process that is not retired.
    invoked: HashMap<u64, InvocationLabel, RandomState>,
    /// The open transaction of each process: what it does, without what its reads return. Empty if
    /// none is open.
    transactions: HashMap<u64, String, RandomState>,
}

/// The label of an invocation. The next invocation of a process overwrites it in place, so that
/// strings are rarely allocated.
#[derive(Default)]
struct InvocationLabel {
    f: String,
    key: String,
    value: Option<String>,
}

impl<'s> PairingSink<'s> {
    pub(super) fn new(sink: &'s mut dyn Sink) -> Self {
        let takes_objects = sink.takes_objects();
        let (invoked, transactions) = (HashMap::default(), HashMap::default());
        PairingSink { sink, takes_objects, invoked, transactions }
    }

    /// Names the process of the next event.
    pub(super) fn name_process(&mut self, process: u64, name: &str) {
        self.sink.name_process(process, name);
    }

    /// Says which number the next event has in the history.
    pub(super) fn number_event(&mut self, index: u64) {
        self.sink.number_event(index);
    }

    /// Whether events of operations on keys are passed on by [`object`](Self::object).
    pub(super) fn takes_objects(&self) -> bool {
        self.takes_objects
    }

    /// Passes on an event of an operation on an object.
    pub(super) fn object(&mut self, event: &ObjectEvent<'_, '_>) -> Result<(), MalformedHistory> {
        self.sink.object(event)
    }

    /// Says that the order of the events is not that of real time.
    pub(super) fn without_real_time(&mut self) {
        self.sink.without_real_time();
    }

    /// Passes on a transaction whose completion is known to agree with it.
    pub(super) fn pass_transaction(
        &mut self,
        process: u64,
        ops: &[MicroOp<'_, '_>],
    ) -> Result<(), MalformedHistory> {
        self.sink.invoke_transaction(process, ops)
    }

    /// Passes on the completion of such a transaction.
    pub(super) fn pass_outcome(
        &mut self,
        process: u64,
        ops: &[MicroOp<'_, '_>],
        outcome: Outcome,
    ) -> Result<(), MalformedHistory> {
        self.sink.complete_transaction(process, ops, outcome)
    }

    /// Passes on an invocation that is known to agree with its completion.
    pub(super) fn pass_invocation(
        &mut self,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        self.sink.invoke(process, key, invocation)
    }

    /// Passes on a completion that is known to agree with its invocation.
    pub(super) fn pass_completion(
        &mut self,
        process: u64,
        completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        self.sink.complete(process, completion)
    }

    pub(super) fn invoke(
        &mut self,
        label: OperationLabel<'_>,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        let OperationLabel { process, f, key, value } = label;
        let key = key.ok_or_else(|| MalformedHistory(format!("{f} without a key")))?;
        self.sink.invoke(process, key, invocation)?;
        let invoked = self.invoked.entry(process).or_default();
        overwrite(&mut invoked.f, f);
        overwrite(&mut invoked.key, key);
        match value {
            Some(value) => overwrite(invoked.value.get_or_insert_default(), value),
            None => invoked.value = None,
        }
        Ok(())
    }

    pub(super) fn complete(
        &mut self,
        label: OperationLabel<'_>,
        completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        let process = label.process;
        // Without an invocation there is nothing to compare with: the sink rejects the completion.
        if let Some(invoked) = self.invoked.get(&process) {
            invoked.agrees_with(label)?;
        }
        if completion == Completion::Info {
            self.invoked.remove(&process);
        }
        self.sink.complete(process, completion)
    }
}

impl PairingSink<'_> {
    /// Whether a process has a transaction open.
    pub(super) fn is_in_transaction(&self, process: u64) -> bool {
        self.transactions.get(&process).is_some_and(|steps| !steps.is_empty())
    }

    pub(super) fn invoke_transaction(
        &mut self,
        process: u64,
        ops: &[MicroOp<'_, '_>],
    ) -> Result<(), MalformedHistory> {
        self.sink.invoke_transaction(process, ops)?;
        write_steps(ops, self.transactions.entry(process).or_default());
        Ok(())
    }

    /// Completes a transaction. Without operations it is not ok.
    pub(super) fn complete_transaction(
        &mut self,
        process: u64,
        ops: &[MicroOp<'_, '_>],
        outcome: Outcome,
    ) -> Result<(), MalformedHistory> {
        if outcome == Outcome::Ok
            && let Some(invoked) = self.transactions.get(&process)
            && !invoked.is_empty()
        {
            let mut completed = String::new();
            write_steps(ops, &mut completed);
            if completed != *invoked {
                return Err(MalformedHistory(format!(
                    "process {process} completes the transaction {completed}, but invoked {invoked}"
                )));
            }
        }
        self.transactions.entry(process).or_default().clear();
        self.sink.complete_transaction(process, ops, outcome)
    }
}

/// What a transaction does, without what its reads return. Not empty.
fn write_steps(ops: &[MicroOp<'_, '_>], text: &mut String) {
    text.clear();
    text.push('[');
    for MicroOp { f, key, value, .. } in ops {
        let separator = if text.len() > 1 { " " } else { "" };
        // Writing to a string cannot fail.
        let _ = match f {
            MicroFunction::Read => write!(text, "{separator}[r {key}]"),
            _ => write!(text, "{separator}[{} {key} {value}]", f.name()),
        };
    }
    text.push(']');
}

impl InvocationLabel {
    fn agrees_with(&self, completed: OperationLabel<'_>) -> Result<(), MalformedHistory> {
        let OperationLabel { process, f, key, value } = completed;
        let same_value = value.is_none() || value == self.value.as_deref();
        if f == self.f && key.is_none_or(|key| key == self.key) && same_value {
            return Ok(());
        }
        let describe = |f: &str, key: &str, value: Option<&str>| match value {
            // The value is only worth its space where it is what differs.
            Some(value) if !same_value => format!("{f} {value} of {key}"),
            _ => format!("{f} of {key}"),
        };
        let completed = describe(f, key.unwrap_or(&self.key), value);
        let invoked = describe(&self.f, &self.key, self.value.as_deref());
        Err(MalformedHistory(format!(
            "process {process} completes {completed}, but invoked {invoked}"
        )))
    }
}

fn overwrite(text: &mut String, with: &str) {
    text.clear();
    text.push_str(with);
}
