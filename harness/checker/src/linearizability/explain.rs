//! Explains to people why a history is not linearizable: in a sentence and as a small timeline. Does
//! not know how the counterexample was found.

use std::fmt::{self, Write as _};

use super::{
    counterexample::{Counterexample, Reason},
    frontier::Step,
    observations::ObservedKey,
    packed::{ABSENT, Access, OPEN},
    zones::ZoneViolation,
};
use crate::{Citation, Finding, Reference};

/// An operation in the form shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownOperation {
    /// Number in the whole history, from 0 in the order of the invocations.
    pub number: u32,
    /// The process, if it is known.
    pub process: Option<u64>,
    /// What it did and observed, such as `put 3-12` or `get = nothing`.
    pub text: String,
    /// Time of the invocation. Times are only compared with each other.
    pub invoked: u64,
    /// Time of the return, `None` if it never returned.
    pub returned: Option<u64>,
}

impl ShownOperation {
    /// The operation of a key with this number.
    pub(super) fn of(key: &ObservedKey, number: u32) -> ShownOperation {
        let (op, step) = key.operation(number);
        let text = |value: u32| key.text(value).map_or("nothing".into(), history::shown);
        let text = match (step, op.access) {
            (Some(Step::Cas(from, to)), _) => format!("cas {} {}", text(from), text(to)),
            (Some(Step::Mismatch(from)), to) => {
                format!("cas {} {}: mismatch", text(from), text(to.value()))
            }
            (Some(Step::Append(more)), _) => format!("append {}", text(more)),
            (_, Access::Write(value)) => match key.text(value) {
                Some(text) => format!("put {}", history::shown(text)),
                None => "del".to_owned(),
            },
            (_, Access::Read(value)) => format!("get = {}", text(value)),
        };
        let returned = (op.returned != OPEN).then(|| op.returned.into());
        ShownOperation { number, process: None, text, invoked: op.invoked.into(), returned }
    }

    fn name(&self) -> String {
        let text = shortened(&self.text);
        match self.process {
            Some(process) => format!("'{text}' of process {process} (operation {})", self.number),
            None => format!("'{text}' (operation {})", self.number),
        }
    }
}

/// A counterexample in the form shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The key.
    pub key: String,
    /// Why there is no linearization, naming rule and operations.
    pub sentence: String,
    /// The operations as a timeline, one a line.
    pub timeline: String,
    /// The operations.
    pub operations: Vec<ShownOperation>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not linearizable: {}\n{}", self.key, self.sentence, self.timeline)
    }
}

impl From<&Explanation> for Finding {
    /// The explanation as text, with a reference to its key.
    fn from(explanation: &Explanation) -> Finding {
        let reference = Reference::Key(explanation.key.clone());
        let key = Citation { range: 0..explanation.key.len(), reference };
        Finding::new(explanation.to_string(), [key])
    }
}

/// Explains a counterexample. `shown` returns the operation at a position of the key's history.
#[must_use]
pub fn explain(
    key: &ObservedKey,
    counterexample: &Counterexample,
    shown: impl Fn(u32) -> ShownOperation,
) -> Explanation {
    let mut operations: Vec<ShownOperation> =
        counterexample.operations.iter().map(|position| shown(*position)).collect();
    operations.sort_by_key(|operation| operation.invoked);
    if let Some(start) = &counterexample.start {
        operations.insert(0, shown(start.after));
    }
    let last = shown(counterexample.breaks_at).name();
    let text = |state: u32| match counterexample.texts.get(&state) {
        Some(text) => quoted(text),
        None => value(key, state),
    };
    let reason = match &counterexample.reason {
        Reason::Rule(violation) => rule(key, *violation, &shown),
        Reason::Unreachable { step, held } => {
            let held = held.as_ref().map(|held| any_of(held, text));
            unreachable_step(*step, held.as_deref(), text)
        }
    };
    let mut sentence = format!("no order of the operations explains {last}: {reason}");
    let mut timeline = timeline(&operations);
    if let Some(start) = &counterexample.start {
        let held = any_of(&start.held, text);
        // Writing to a string cannot fail.
        let _ = write!(
            sentence,
            ". In every order of the earlier operations the key held {held} when {} returned, or \
             what the operations open then made of it",
            shown(start.after).name()
        );
        // The first line is the operation that returns at the start.
        let first = timeline.find('\n').map_or(0, |end| end + 1);
        timeline.insert_str(first, &format!("{:5} then the key held {held}\n", ""));
    }
    Explanation { key: key.name.to_string(), sentence, timeline, operations }
}

/// The most values that are listed as alternatives.
const ALTERNATIVES_MAX: usize = 6;

/// Alternative values in words.
fn any_of(values: &[u32], text: impl Fn(u32) -> String) -> String {
    let mut listed: Vec<String> =
        values.iter().take(ALTERNATIVES_MAX).map(|value| text(*value)).collect();
    if values.len() > ALTERNATIVES_MAX {
        listed.push("another value".to_owned());
    }
    listed.join(" or ")
}

/// Why a step is impossible in all possible states, in words.
fn unreachable_step(step: Step, held: Option<&str>, text: impl Fn(u32) -> String) -> String {
    let needs = match step {
        Step::Read(read) => format!("it read {}", text(read)),
        Step::Cas(from, _) => format!("it must have read {}", text(from)),
        Step::Mismatch(from) => format!("it read something other than {}", text(from)),
        Step::Write(_) | Step::Append(_) => String::new(),
    };
    let Some(held) = held else {
        let needs = if needs.is_empty() { "" } else { &format!("{needs}, but ") };
        return format!("{needs}no order of the operations before it allows that");
    };
    let held = if held.is_empty() { "a value that nobody can observe" } else { held };
    let held = format!("right before its return the key held {held}");
    let goal = match step {
        Step::Read(state) | Step::Cas(state, _) => text(state),
        Step::Mismatch(_) => "anything else".to_owned(),
        Step::Write(_) | Step::Append(_) => return held,
    };
    format!("{needs}, but {held}, and no order of the open operations leads to {goal}")
}

/// A value in words.
fn value(key: &ObservedKey, number: u32) -> String {
    key.text(number).map_or_else(|| "nothing".to_owned(), quoted)
}

/// The most characters of a text that are shown.
const SHOWN_MAX: usize = 48;

/// A text in quotes, without its middle if it is long.
fn quoted(text: &str) -> String {
    format!("'{}'", shortened(text))
}

fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= SHOWN_MAX {
        return text.to_owned();
    }
    let start: String = text.chars().take(SHOWN_MAX / 3).collect();
    let end: String = text.chars().skip(count - SHOWN_MAX / 2).collect();
    format!("{start}…{end}")
}

/// A violated rule of tier 1 in words.
fn rule(
    key: &ObservedKey,
    violation: ZoneViolation,
    shown: &impl Fn(u32) -> ShownOperation,
) -> String {
    let value = |number| value(key, number);
    match violation {
        ZoneViolation::NoWriter { value: read } if key.has_failed(read) => {
            format!("{} was read, but its only write failed", value(read))
        }
        ZoneViolation::NoWriter { value: read } => {
            format!("{} was read, but nobody wrote it", value(read))
        }
        ZoneViolation::ReadBeforeWrite { value: read } => {
            format!("{} was read before its put was invoked", value(read))
        }
        ZoneViolation::Overlap { first, second } => format!(
            "the key must hold both {} and {} at one moment: each was written once, had taken \
             effect before it, and was read after it",
            value(first),
            value(second)
        ),
        ZoneViolation::Inside { inner, outer } => {
            format!(
                "at every moment when the key can hold {}, it must hold {}",
                value(inner),
                value(outer)
            )
        }
        ZoneViolation::DeleteBlocked { delete, by } => format!(
            "{} must take effect while the key must hold {}",
            shown(delete).name(),
            value(by)
        ),
        ZoneViolation::EmptyGetBlocked { get, by } => {
            let initial = value(ABSENT);
            format!("{} found {initial} while the key must hold {}", shown(get).name(), value(by))
        }
        ZoneViolation::NoDelete { get, after, .. } => {
            let after = after.map_or_else(String::new, |after| format!(" after {}", value(after)));
            let (found, write) = match key.text(ABSENT) {
                None => ("nothing".to_owned(), "delete"),
                Some(_) => (value(ABSENT), "write of it"),
            };
            format!(
                "{} found {found}, but there is no {write}{after} that it can have observed",
                shown(get).name()
            )
        }
    }
}

/// Draws operations, one a line: process, text and interval. Only the order of the events is to
/// scale.
#[must_use]
pub fn timeline(operations: &[ShownOperation]) -> String {
    let mut times: Vec<u64> = operations
        .iter()
        .flat_map(|operation| [Some(operation.invoked), operation.returned])
        .flatten()
        .collect();
    times.sort_unstable();
    times.dedup();
    let step = if times.len() > 24 { 2 } else { 4 };
    let column = |time: u64| times.partition_point(|other| *other < time) * step;
    let texts: Vec<String> =
        operations.iter().map(|operation| shortened(&operation.text)).collect();
    let width = texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (operation, shown) in operations.iter().zip(texts) {
        let from = column(operation.invoked);
        let bar = match operation.returned {
            Some(returned) => format!("├{}┤", "─".repeat(column(returned) - from - 1)),
            None => format!("├{}→", "─".repeat(times.len() * step - from)),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<5} {:<width$}  {}{bar}",
            match operation.process {
                Some(process) => format!("p{process}"),
                None => format!("#{}", operation.number),
            },
            shown,
            " ".repeat(from)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeline_draws_intervals_in_the_order_of_events() {
        let shown = |process, text: &str, invoked, returned| ShownOperation {
            number: 0,
            process: Some(process),
            text: text.to_owned(),
            invoked,
            returned,
        };
        let drawn = timeline(&[
            shown(1, "put a", 10, Some(30)),
            shown(2, "get = nothing", 20, Some(50)),
            shown(13, "del", 40, None),
        ]);
        let expected = "\
p1    put a          ├───────┤
p2    get = nothing      ├───────────┤
p13   del                        ├────────→
";
        assert_eq!(drawn, expected);
    }
}
