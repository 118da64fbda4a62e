//! The log lines of Jepsen's tests of every age, and its `history.txt`: process, type, function and
//! value, each an EDN form, and perhaps an error. The order of the lines is the order of the events.

use std::io::BufRead;

use super::{
    FormatError,
    edn::parser::{Parser, Position},
    events::{EventFields, EventTranslator},
    lines,
    pairing::PairingSink,
};
use crate::Value;

/// What comes before an operation in a log. Between it and the operation is ` - `, `: ` or a blank,
/// depending on the year.
const LOGGER: &str = "jepsen.util";

/// The types of events.
const TYPES: [&str; 4] = [":invoke", ":ok", ":fail", ":info"];

/// Reads the operations in a log. Other lines are ignored.
pub(super) fn stream_log(
    input: &mut dyn BufRead,
    pairs: &mut PairingSink<'_>,
) -> Result<(), FormatError> {
    let mut events = EventTranslator::new(pairs);
    lines(input, |number, line, _| match logged(line) {
        Some((text, start)) => {
            let position = Position { line: number, column: start + 1 };
            event(text, position, &mut events).map(drop)
        }
        None if is_cut(line) => Err(FormatError::new(
            number,
            1,
            "a line of jepsen.util that is no operation: expected process, type, function and \
             value, separated by tabs",
        )),
        None => Ok(()),
    })?;
    events.finish()
}

/// Reads a `history.txt`.
pub(super) fn stream_text(
    input: &mut dyn BufRead,
    pairs: &mut PairingSink<'_>,
) -> Result<(), FormatError> {
    let mut events = EventTranslator::new(pairs);
    // An error is printed as it is, and may have several lines.
    let mut in_error = false;
    lines(input, |number, line, _| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match str::from_utf8(line) {
            Ok(text) if is_operation(text) => {
                in_error = event(text, Position { line: number, column: 1 }, &mut events)?;
                Ok(())
            }
            _ if in_error && !is_cut_operation(&String::from_utf8_lossy(line)) => Ok(()),
            _ if line.trim_ascii().is_empty() => Ok(()),
            _ => Err(FormatError::new(
                number,
                1,
                "expected process, type, function and value, as in '0 :invoke :read nil'",
            )),
        }
    })?;
    events.finish()
}

/// The operation in a line of a log, and its offset. `None` if the line is none of an operation.
pub(super) fn logged(line: &[u8]) -> Option<(&str, usize)> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = str::from_utf8(line).ok()?;
    text.match_indices(LOGGER).find_map(|(at, _)| {
        let after = at + LOGGER.len();
        let rest = &text[after..];
        let operation = [" - ", ": ", " "].iter().find_map(|mark| rest.strip_prefix(mark))?;
        let operation = operation.trim_start();
        let start = text.len() - operation.len();
        is_operation(operation).then_some((operation, start))
    })
}

/// Whether a line of a log should have been an operation: it comes from where operations are logged,
/// and has fields, or a process and another keyword.
fn is_cut(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    text.match_indices(LOGGER).any(|(at, _)| {
        let rest = &text[at + LOGGER.len()..];
        let fields = rest.trim_start_matches([' ', '-', ':']);
        rest.starts_with([' ', ':'])
            && (is_cut_operation(fields) || rest.matches('\t').count() >= 2)
    })
}

/// Whether a text begins like an operation: with a process and a keyword.
fn is_cut_operation(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace();
    let is_process = words
        .next()
        .is_some_and(|word| word.starts_with([':', '"']) || word.parse::<i64>().is_ok());
    is_process && words.next().is_some_and(|word| word.starts_with(':'))
}

/// Whether a text begins with a process and a type.
pub(super) fn is_operation(text: &str) -> bool {
    let mut parser = Parser::new(text.as_bytes(), Position { line: 1, column: 1 });
    if !matches!(parser.value(0), Ok(Some(_))) {
        return false;
    }
    let rest = text.get(parser.at..).unwrap_or_default();
    rest.starts_with([' ', '\t'])
        && rest.split_ascii_whitespace().next().is_some_and(|kind| TYPES.contains(&kind))
}

/// Takes an operation and returns whether an error follows it.
fn event(
    text: &str,
    position: Position,
    events: &mut EventTranslator<'_, '_>,
) -> Result<bool, FormatError> {
    let mut parser = Parser::new(text.as_bytes(), position);
    let mut form = || -> Result<Option<Value<'_>>, FormatError> { parser.value(0) };
    let process = form()?;
    let kind = form()?;
    let f = form()?;
    let is_unfinished = kind.as_ref().and_then(Value::name).is_some_and(|kind| {
        // What failed and unfinished operations say of their value is nothing that was observed, and
        // is not always EDN.
        matches!(kind, "fail" | "info")
    });
    let value = if is_unfinished { None } else { form()? };
    let rest = text.get(parser.at..).unwrap_or_default();
    let has_error = if is_unfinished {
        rest.trim_ascii().contains('\t')
    } else {
        let blank = rest.len() - rest.trim_start().len();
        // A blank may be part of a value that is not EDN, a tab is the end of the column.
        if blank < rest.len() && !rest[..blank].contains('\t') {
            let at = position.after(&text.as_bytes()[..parser.at + blank]);
            return Err(at.error(format!(
                "'{}' follows the value: expected one EDN value, or a tab and an error",
                rest.trim()
            )));
        }
        blank < rest.len()
    };
    let fields = EventFields { process, kind, f, value, ..EventFields::default() };
    events.take(&fields).map_err(|reason| position.error(reason))?;
    Ok(has_error)
}
