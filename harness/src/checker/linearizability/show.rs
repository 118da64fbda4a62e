//! Tells people why a history is not linearizable: in words, and as a small timeline.
//! Knows nothing of how it was found out.

use std::fmt::Write as _;

use super::{
    counterexample::{Counterexample, Why},
    keys::Key,
    zones::Violation,
};

/// An operation as people are shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its number in the whole history, from 0 in the order of the invocations.
    pub number: u32,
    /// Who did it.
    pub process: u64,
    /// What was done and found, such as `put 3-12` or `get = nothing`.
    pub text: String,
    /// When it was invoked; only compared with others.
    pub invoked: u64,
    /// When it returned, none if it never did.
    pub returned: Option<u64>,
}

impl Shown {
    fn named(&self) -> String {
        format!("'{}' of process {} (operation {})", self.text, self.process, self.number)
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
    let last = shown(counterexample.breaks_at);
    let why = match &counterexample.why {
        Why::Rule(violation) => rule(key, *violation, &shown),
        Why::Stuck(states) => {
            let mut possible: Vec<String> =
                states.iter().map(|state| value(key, *state)).take(6).collect();
            if states.len() > 6 {
                possible.push("others".to_owned());
            }
            if possible.is_empty() {
                "everything that could be there by then can be seen by nobody any more".to_owned()
            } else {
                format!(
                    "what could be there just before its return was {}, and no order of the \
                     operations under way leads from there to what it needs",
                    possible.join(" or ")
                )
            }
        }
    };
    let sentence = format!("no order can be found once {} has returned: {why}", last.named());
    let timeline = timeline(&operations);
    Explanation { key: key.name.to_string(), sentence, timeline, operations }
}

/// A value in words.
fn value(key: &Key, number: u32) -> String {
    key.text(number).map_or_else(|| "nothing".to_owned(), |text| format!("'{text}'"))
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
            "{} must have been there from before to after a moment at which {} must have been \
             there, each of them written once",
            value(key, first),
            value(key, second)
        ),
        Violation::Inside { inner, outer } => format!(
            "{} must have been there at some moment of a time throughout which {} must have been \
             there",
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
    let width = operations.iter().map(|operation| operation.text.chars().count()).max();
    let width = width.unwrap_or(0).min(40);
    let mut text = String::new();
    for operation in operations {
        let from = column(operation.invoked);
        let bar = match operation.returned {
            Some(returned) => format!("├{}┤", "─".repeat(column(returned) - from - 1)),
            None => format!("├{}→", "─".repeat(times.len() * step - from)),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "p{:<4} {:<width$}  {}{bar}",
            operation.process,
            operation.text,
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
            process,
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
