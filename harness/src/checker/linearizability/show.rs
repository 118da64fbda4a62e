//! Tells people why a history is not linearizable: in words, and as a small timeline.
//! Knows nothing of how it was found out.

use std::fmt::{self, Write as _};

use super::{
    counterexample::{Counterexample, Why},
    frontier::Step,
    key::{NOTHING, OPEN, What},
    keys::Key,
    zones::Violation,
};

/// An operation as people are shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its number in the whole history, from 0 in the order of the invocations.
    pub number: u32,
    /// Who did it, if that is known.
    pub process: Option<u64>,
    /// What was done and found, such as `put 3-12` or `get = nothing`.
    pub text: String,
    /// When it was invoked; only compared with others.
    pub invoked: u64,
    /// When it returned, none if it never did.
    pub returned: Option<u64>,
}

impl Shown {
    /// The operation of this number of a key.
    pub(super) fn of(key: &Key, number: u32) -> Shown {
        let (op, step) = key.operation(number);
        let text = |value: u32| key.text(value).unwrap_or("nothing");
        let text = match (step, op.what) {
            (Some(Step::Cas(from, to)), _) => format!("cas {} {}", text(from), text(to)),
            (Some(Step::Differs(from)), to) => {
                format!("cas {} {}: differs", text(from), text(to.value()))
            }
            (Some(Step::Append(more)), _) => format!("append {}", text(more)),
            (_, What::Write(NOTHING)) => "del".to_owned(),
            (_, What::Write(value)) => format!("put {}", text(value)),
            (_, What::Read(value)) => format!("get = {}", text(value)),
        };
        let returned = (op.returned != OPEN).then(|| op.returned.into());
        Shown { number, process: None, text, invoked: op.invoked.into(), returned }
    }

    fn named(&self) -> String {
        let text = shortened(&self.text);
        match self.process {
            Some(process) => format!("'{text}' of process {process} (operation {})", self.number),
            None => format!("'{text}' (operation {})", self.number),
        }
    }
}

/// A counterexample as people are shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The key.
    pub key: String,
    /// One sentence: which rule, which operations.
    pub sentence: String,
    /// The operations as a timeline, a line each.
    pub timeline: String,
    /// The operations.
    pub operations: Vec<Shown>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n{}", self.key, self.sentence, self.timeline)
    }
}

/// Explains a counterexample. `shown` gives an operation by its place in the key's history.
#[must_use]
pub fn explain(
    key: &Key,
    counterexample: &Counterexample,
    shown: impl Fn(u32) -> Shown,
) -> Explanation {
    let mut operations: Vec<Shown> =
        counterexample.operations.iter().map(|place| shown(*place)).collect();
    operations.sort_by_key(|operation| operation.invoked);
    if let Some(start) = &counterexample.from {
        operations.insert(0, shown(start.after));
    }
    let last = shown(counterexample.breaks_at).named();
    let text = |state: u32| match counterexample.texts.get(&state) {
        Some(text) => quoted(text),
        None => value(key, state),
    };
    let why = match &counterexample.why {
        Why::Rule(violation) => rule(key, *violation, &shown),
        Why::Stuck { step, held } => stuck(*step, &either(held, text), text),
    };
    let mut sentence = format!("no order can be found once {last} has returned: {why}");
    let mut timeline = timeline(&operations);
    if let Some(start) = &counterexample.from {
        let held = either(&start.held, text);
        // Writing to a string cannot fail.
        let _ = write!(
            sentence,
            ". In whatever order all before took effect, when {} had returned the key held {held}, \
             or what those under way then made of it",
            shown(start.after).named()
        );
        // The first line is the operation after which that was so.
        let first = timeline.find('\n').map_or(0, |end| end + 1);
        timeline.insert_str(first, &format!("{:5} then {held} was there\n", ""));
    }
    Explanation { key: key.name.to_string(), sentence, timeline, operations }
}

/// Some of several values in words.
fn either(values: &[u32], text: impl Fn(u32) -> String) -> String {
    let mut said: Vec<String> = values.iter().take(6).map(|value| text(*value)).collect();
    if values.len() > 6 {
        said.push("something else".to_owned());
    }
    said.join(" or ")
}

/// Why an operation could not happen, in words.
fn stuck(step: Step, held: &str, text: impl Fn(u32) -> String) -> String {
    let no_order = "and no order of the operations under way makes of it";
    let held =
        if held.is_empty() { "something that nobody could see".to_owned() } else { held.into() };
    match step {
        Step::Read(found) => format!(
            "it found {}, but what was there before it returned was {held}, {no_order} {0}",
            text(found)
        ),
        Step::Cas(from, _) => format!(
            "it must have found {}, but what was there before it returned was {held}, {no_order} \
             {0}",
            text(from)
        ),
        Step::Differs(from) => format!(
            "it found something other than {}, but what was there before it returned was {held}, \
             {no_order} anything else",
            text(from)
        ),
        Step::Write(_) | Step::Append(_) => {
            format!("what was there before it returned was {held}")
        }
    }
}

/// A value in words.
fn value(key: &Key, number: u32) -> String {
    key.text(number).map_or_else(|| "nothing".to_owned(), quoted)
}

/// The most letters of a text that are shown.
const SHOWN_MAX: usize = 48;

/// A text between quotes, its middle left out if it is long.
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

/// A broken rule in words.
fn rule(key: &Key, violation: Violation, shown: &impl Fn(u32) -> Shown) -> String {
    match violation {
        Violation::NoWriter { value: found } if key.has_failed(found) => {
            format!("{} was found, and the only write of it had failed", value(key, found))
        }
        Violation::NoWriter { value: found } => {
            format!("{} was found, which nobody wrote", value(key, found))
        }
        Violation::ReadBeforeWrite { value: found } => {
            format!("{} was found before its put was invoked", value(key, found))
        }
        Violation::Overlap { first, second } => format!(
            "there is a moment at which both {} and {} must have been there: each of them was \
             written once, had taken effect before it, and was still to be seen after it",
            value(key, first),
            value(key, second)
        ),
        Violation::Inside { inner, outer } => format!(
            "at every moment at which {} can have been there, {} must have been there",
            value(key, inner),
            value(key, outer)
        ),
        Violation::DeleteBlocked { delete, by } => format!(
            "{} must have taken effect during a time throughout which {} must have been there",
            shown(delete).named(),
            value(key, by)
        ),
        Violation::NothingBlocked { get, by } => format!(
            "{} found nothing during a time throughout which {} must have been there",
            shown(get).named(),
            value(key, by)
        ),
        Violation::NoDelete { get, after, .. } => {
            let since = after.map_or_else(String::new, |after| {
                format!(" since {} must have been there", value(key, after))
            });
            format!(
                "{} found nothing, and there is no delete that it can have seen{since}",
                shown(get).named()
            )
        }
    }
}

/// Draws operations, a line each: who, what, and from when to when. Only the order of the events
/// is to scale.
#[must_use]
pub fn timeline(operations: &[Shown]) -> String {
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
    fn a_timeline_is_drawn() {
        let shown = |process, text: &str, invoked, returned| Shown {
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
