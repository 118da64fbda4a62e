//! The log lines of Jepsen's older tests, as in Porcupine's etcd data: one register, read, write
//! and cas. The order of the lines is the order of the events.

use std::io::BufRead;

use super::{
    Ask, End, Fault, lines,
    pairs::{Named, Pairs},
};

/// The one register's name.
const KEY: &str = "register";

const MARK: &str = "jepsen.util - ";

pub(super) fn stream(input: &mut dyn BufRead, pairs: &mut Pairs<'_>) -> Result<(), Fault> {
    lines(input, |number, line, _| {
        let Ok(text) = std::str::from_utf8(line) else {
            return Err(Fault::new(number, 1, "no text in UTF-8"));
        };
        if text.trim().is_empty() { Ok(()) } else { event(number, text, pairs) }
    })
}

fn event(number: usize, text: &str, pairs: &mut Pairs<'_>) -> Result<(), Fault> {
    let Some(at) = text.find(MARK) else {
        return Err(Fault::new(number, 1, format!("no '{MARK}' in a line of the log")));
    };
    let start = at + MARK.len();
    let rest = &text[start..];
    let column = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize + 1;
    // Some files have runs of spaces where others have a tab.
    let compact: Vec<&str> = rest.split_whitespace().collect();
    let process = compact.first().copied().unwrap_or_default();
    if process == ":nemesis" {
        return Ok(());
    }
    let wrong = |part: &str, reason: String| {
        let inside = !part.is_empty();
        Err(Fault::new(number, if inside { column(part) } else { text.len() + 1 }, reason))
    };
    let Ok(process) = process.parse::<u64>() else {
        return wrong(process, format!("'{process}' is no process: want a number or :nemesis"));
    };
    let [kind, f] = [1, 2].map(|at| compact.get(at).copied().unwrap_or_default());
    let value = &compact[compact.len().min(3)..];
    let first = value.first().copied().unwrap_or_default();
    let timed_out = first == ":timed-out";
    // A keyword in place of the value says why it ended so.
    let written = (!first.is_empty() && !first.starts_with(':')).then(|| value.join(" "));
    let read = Named { process, f, key: Some(KEY), value: None };
    let write = Named { value: written.as_deref(), ..read };
    let done = match (kind, f) {
        (":invoke", ":read") => pairs.invoke(read, Ask::Get),
        (":invoke", ":write") if first == "nil" => pairs.invoke(write, Ask::Del),
        (":invoke", ":write") if !first.is_empty() => pairs.invoke(write, Ask::Put(first)),
        (":invoke", ":cas") => match pair(value) {
            Some((from, to)) => {
                let [from, to] = [from, to].map(|value| (value != "nil").then_some(value));
                pairs.invoke(write, Ask::Cas(from, to))
            }
            None => return wrong(first, "a cas needs [old new]".to_owned()),
        },
        (":ok", ":read") if first == "nil" => pairs.end(read, End::Ok(None)),
        (":ok", ":read") if !first.is_empty() => pairs.end(read, End::Ok(Some(first))),
        (":ok", ":write" | ":cas") => pairs.end(write, End::Ok(None)),
        (":fail", ":cas") if !timed_out => pairs.end(write, End::Differs),
        (":fail", ":read") => pairs.end(read, End::Fail),
        (":fail", ":write" | ":cas") => pairs.end(write, End::Fail),
        (":info", ":read") => pairs.end(read, End::Info),
        (":info", ":write" | ":cas") => pairs.end(write, End::Info),
        (":invoke" | ":ok", ":read" | ":write") => {
            return wrong(first, format!("{kind} {f} needs a value"));
        }
        (":invoke" | ":ok" | ":fail" | ":info", _) => {
            return wrong(f, format!("'{f}' is no operation: want :read, :write or :cas"));
        }
        _ => {
            return wrong(kind, format!("'{kind}': want :invoke, :ok, :fail or :info"));
        }
    };
    done.map_err(|nonsense| Fault::new(number, start + 1, nonsense.to_string()))
}

/// `[a b]`
fn pair<'a>(value: &[&'a str]) -> Option<(&'a str, &'a str)> {
    let [from, to] = value else { return None };
    let (from, to) = (from.strip_prefix('[')?, to.strip_suffix(']')?);
    (!from.is_empty() && !to.is_empty()).then_some((from, to))
}
