//! The log lines of Jepsen's older tests, as in Porcupine's etcd data: one register with read, write
//! and cas. The order of the lines is the order of the events.

use std::io::BufRead;

use super::{
    FormatError, lines,
    pairing::{OperationLabel, PairingSink},
};
use crate::{Completion, Invocation};

/// The name given to the one register.
const KEY: &str = "register";

const MARK: &str = "jepsen.util - ";

pub(super) fn stream(
    input: &mut dyn BufRead,
    pairs: &mut PairingSink<'_>,
) -> Result<(), FormatError> {
    lines(input, |number, line, _| {
        let Ok(text) = std::str::from_utf8(line) else {
            return Err(FormatError::new(number, 1, "not UTF-8"));
        };
        if text.trim().is_empty() { Ok(()) } else { event(number, text, pairs) }
    })
}

fn event(number: usize, text: &str, pairs: &mut PairingSink<'_>) -> Result<(), FormatError> {
    let Some(at) = text.find(MARK) else {
        return Err(FormatError::new(number, 1, format!("a line without '{MARK}'")));
    };
    let start = at + MARK.len();
    let rest = &text[start..];
    let column = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize + 1;
    // Some files separate fields by spaces, others by tabs.
    let words: Vec<&str> = rest.split_whitespace().collect();
    let process = words.first().copied().unwrap_or_default();
    if process == ":nemesis" {
        return Ok(());
    }
    let malformed = |part: &str, reason: String| {
        let inside = !part.is_empty();
        Err(FormatError::new(number, if inside { column(part) } else { text.len() + 1 }, reason))
    };
    let Ok(process) = process.parse::<u64>() else {
        return malformed(
            process,
            format!("'{process}' is not a process: expected a number or :nemesis"),
        );
    };
    let [kind, f] = [1, 2].map(|at| words.get(at).copied().unwrap_or_default());
    let value = &words[words.len().min(3)..];
    let first = value.first().copied().unwrap_or_default();
    let timed_out = first == ":timed-out";
    // A keyword in place of the value is the reason of the completion.
    let written = (!first.is_empty() && !first.starts_with(':')).then(|| value.join(" "));
    let read = OperationLabel { process, f, key: Some(KEY), value: None };
    let write = OperationLabel { value: written.as_deref(), ..read };
    let paired = match (kind, f) {
        (":invoke", ":read") => pairs.invoke(read, Invocation::Get),
        (":invoke", ":write") if first == "nil" => pairs.invoke(write, Invocation::Del),
        (":invoke", ":write") if !first.is_empty() => pairs.invoke(write, Invocation::Put(first)),
        (":invoke", ":cas") => match old_and_new(value) {
            Some((from, to)) => {
                let [from, to] = [from, to].map(|value| (value != "nil").then_some(value));
                pairs.invoke(write, Invocation::Cas(from, to))
            }
            None => return malformed(first, "a cas needs [old new]".to_owned()),
        },
        (":ok", ":read") if first == "nil" => pairs.complete(read, Completion::Ok(None)),
        (":ok", ":read") if !first.is_empty() => pairs.complete(read, Completion::Ok(Some(first))),
        (":ok", ":write" | ":cas") => pairs.complete(write, Completion::Ok(None)),
        (":fail", ":cas") if !timed_out => pairs.complete(write, Completion::Mismatch),
        (":fail", ":read") => pairs.complete(read, Completion::Fail),
        (":fail", ":write" | ":cas") => pairs.complete(write, Completion::Fail),
        (":info", ":read") => pairs.complete(read, Completion::Info),
        (":info", ":write" | ":cas") => pairs.complete(write, Completion::Info),
        (":invoke" | ":ok", ":read" | ":write") => {
            return malformed(first, format!("{kind} {f} needs a value"));
        }
        (":invoke" | ":ok" | ":fail" | ":info", _) => {
            return malformed(
                f,
                format!("unknown operation '{f}': expected :read, :write or :cas"),
            );
        }
        _ => {
            return malformed(
                kind,
                format!("unknown type '{kind}': expected :invoke, :ok, :fail or :info"),
            );
        }
    };
    paired.map_err(|error| FormatError::new(number, start + 1, error.to_string()))
}

/// Parses `[old new]`.
fn old_and_new<'a>(value: &[&'a str]) -> Option<(&'a str, &'a str)> {
    let [from, to] = value else { return None };
    let (from, to) = (from.strip_prefix('[')?, to.strip_suffix(']')?);
    (!from.is_empty() && !to.is_empty()).then_some((from, to))
}
