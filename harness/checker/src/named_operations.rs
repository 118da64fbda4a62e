//! The operations that explanations show, as the history has them.

use std::collections::HashMap;

use history::{Completion, Invocation, MalformedHistory, Sink, formats::NAMED_PROCESSES};

use crate::linearizability::{KeyVerdict, ShownOperation, Verdict};

/// Collects the few operations that explanations name, from a second pass over the history.
#[derive(Default)]
pub(crate) struct NamedOperations {
    /// By number: the operation, once it was found.
    shown: HashMap<u64, Option<ShownOperation>>,
    /// The open operation of each process.
    open: HashMap<u64, u64>,
    operations: u64,
    events: u64,
    /// The last process that has a name instead of a number, and its name.
    named_process: Option<(u64, String)>,
}

impl NamedOperations {
    pub(crate) fn of(verdicts: &[KeyVerdict]) -> Self {
        let mut named = NamedOperations::default();
        for KeyVerdict { verdict, numbers, .. } in verdicts {
            let Verdict::Invalid(counterexample) = verdict else { continue };
            let number = |position: u32| (u64::from(numbers[position as usize]), None);
            named.shown.extend(counterexample.named().map(number));
        }
        named
    }

    /// Whether no explanation names an operation.
    pub(crate) fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    pub(crate) fn shown(&self, number: u32) -> ShownOperation {
        let shown = self.shown.get(&number.into()).cloned().flatten();
        shown.expect("the second pass reads the same file and finds every named operation")
    }

    pub(crate) fn invoked(&mut self, number: u64, process: u64, invocation: Invocation<'_>) {
        let invoked = self.events;
        self.events += 1;
        if let Some(shown) = self.shown.get_mut(&number) {
            let or_nothing = |value: Option<&str>| value.unwrap_or("nothing").to_owned();
            let text = match invocation {
                Invocation::Get => "get".to_owned(),
                Invocation::Put(value) => format!("put {value}"),
                Invocation::Del => "del".to_owned(),
                lock if lock == Invocation::acquire() => "acquire".to_owned(),
                lock if lock == Invocation::release() => "release".to_owned(),
                Invocation::Cas(from, to) => format!("cas {} {}", or_nothing(from), or_nothing(to)),
                Invocation::Append(text) => format!("append {text}"),
            };
            let number = u32::try_from(number).expect("numbers of verdicts fit in 32 bits");
            let (process, text) = match &self.named_process {
                Some((named, name)) if *named == process => match name.parse() {
                    Ok(process) => (Some(process), text),
                    Err(_) if name.is_empty() => (None, text),
                    Err(_) => (None, format!("{text} by {name}")),
                },
                _ => ((process < NAMED_PROCESSES).then_some(process), text),
            };
            *shown = Some(ShownOperation { number, process, text, invoked, returned: None });
        }
    }

    pub(crate) fn completed(&mut self, number: u64, completion: Completion<'_>) {
        let now = self.events;
        self.events += 1;
        let Some(Some(shown)) = self.shown.get_mut(&number) else { return };
        match completion {
            Completion::Ok(value) => {
                shown.returned = Some(now);
                let by = shown.text.strip_prefix("get").map(str::to_owned);
                if let Some(by) = by.filter(|by| by.is_empty() || by.starts_with(" by ")) {
                    shown.text = format!("get = {}{by}", value.unwrap_or("nothing"));
                }
            }
            Completion::Mismatch => {
                shown.returned = Some(now);
                shown.text.push_str(": mismatch");
            }
            Completion::Fail | Completion::Info => {}
        }
    }
}

impl Sink for NamedOperations {
    fn name_process(&mut self, process: u64, name: &str) {
        self.named_process = Some((process, name.to_owned()));
    }

    fn invoke(
        &mut self,
        process: u64,
        _key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        self.invoked(self.operations, process, invocation);
        self.open.insert(process, self.operations);
        self.operations += 1;
        Ok(())
    }

    fn complete(
        &mut self,
        process: u64,
        completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        if let Some(number) = self.open.remove(&process) {
            self.completed(number, completion);
        }
        Ok(())
    }
}
