//! A run in a terminal: shows operation counts, faults with the replicas in doubt,
//! indeterminate operations, counterexamples, and the check results. Reads the history and
//! `results.json`, not the journals, so it is fast also for long runs.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anstyle::Style;
use checker::{
    Results, Validity,
    linearizability::{self, Limits, NonLinearizableKey, ShownOperation, timeline},
};
use history::{Event, Operation, Outcome, PairError, ReadError, RunDescription};
use serde_json::{Value as Json, json};

use super::{
    FaultInterval, fault_intervals, read_json,
    sections::Term,
    summary::Tally,
    terminal::{Escaped, StyledText, escape_line},
    verdict::{BAD, BOLD, Detail, FAINT, WARN, indented, results_text, style_of},
};

/// Selects operations and faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only operations on these keys. Empty for all.
    pub keys: Vec<String>,
    /// Only operations of these processes. Empty for all.
    pub processes: Vec<u64>,
    /// Only what was in progress at or after this time, in nanoseconds of the history.
    pub from: Option<u64>,
    /// Only what began at or before this time, in nanoseconds of the history.
    pub to: Option<u64>,
}

impl Filter {
    /// Whether operations are listed one by one.
    fn lists_operations(&self) -> bool {
        *self != Filter::default()
    }

    fn selects(&self, operation: &Operation) -> bool {
        (self.keys.is_empty() || self.keys.contains(&operation.key))
            && (self.processes.is_empty() || self.processes.contains(&operation.process))
            && self.overlaps(operation.invoked, operation.returned.unwrap_or(u64::MAX))
    }

    fn overlaps(&self, from: u64, to: u64) -> bool {
        self.from.is_none_or(|after| to >= after) && self.to.is_none_or(|before| from <= before)
    }
}

/// How a run is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text with styles. A writer that is not a terminal should strip them.
    Text,
    /// One JSON object.
    Json,
}

/// How long counterexamples are searched for.
const SEARCH_LIMIT: Duration = Duration::from_secs(5);

/// A recorded run, without its journals.
struct LoadedRun {
    events: Vec<Event>,
    torn: bool,
    operations: Vec<Operation>,
    faults: Vec<FaultInterval>,
    test: RunDescription,
    results: Option<Results>,
    broken: Vec<NonLinearizableKey>,
}

impl LoadedRun {
    fn load(directory: &Path) -> Result<LoadedRun, InspectError> {
        let file = |name: &str| {
            let path = directory.join(name);
            move |source| InspectError::File { path, source }
        };
        if !directory.join("test.json").exists() {
            return Err(InspectError::NotARun(directory.to_owned()));
        }
        let test = read_json(&directory.join("test.json")).map_err(file("test.json"))?;
        let path = directory.join("history.jsonl");
        let history::RecordedHistory { events, torn } = history::read(&path)?;
        let operations =
            history::pair(&events).map_err(|error| InspectError::Pair { path, error })?;
        let faults = fault_intervals(&events);
        let path = directory.join("results.json");
        let results: Option<Results> = match path.exists() {
            true => Some(read_json(&path).map_err(file("results.json"))?),
            false => None,
        };
        let check = results.as_ref().and_then(|results| results.check(linearizability::NAME));
        let invalid = check.is_some_and(|check| check.verdict == Validity::Invalid);
        let limits = Limits { time: SEARCH_LIMIT, ..Limits::default() };
        let broken = if invalid {
            linearizability::non_linearizable_keys(&operations, &limits)
        } else {
            Vec::new()
        };
        Ok(LoadedRun { events, torn, operations, faults, test, results, broken })
    }

    fn verdict(&self) -> Validity {
        self.results.as_ref().map_or(Validity::Unknown, |results| results.verdict)
    }
}

/// Why a run cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The history cannot be read.
    #[error(transparent)]
    History(#[from] ReadError),
    /// The events of the history do not form operations.
    #[error("{}:{}: {}", path.display(), error.position + 1, error.reason)]
    Pair {
        /// The history.
        path: PathBuf,
        /// The event and what is wrong with it.
        error: PairError,
    },
    /// Another file of the run cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory is not that of a run.
    #[error("{}: not a run directory, which has a test.json", .0.display())]
    NotARun(PathBuf),
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Prints the run in a directory. The check results are read from `results.json`; the verdict of a run
/// that was not checked is unknown. `summarize` counts the events, as [`Tally::of`] does; `terms` are the terms
/// that a check uses.
///
/// # Errors
/// A file of the run cannot be read, or the output cannot be written.
pub fn inspect(
    directory: &Path,
    filter: &Filter,
    format: Format,
    summarize: fn(&[Event]) -> Tally,
    terms: fn(&str) -> &'static [Term],
    out: &mut impl Write,
) -> Result<Validity, InspectError> {
    let run = LoadedRun::load(directory)?;
    match format {
        Format::Json => {
            let mut out = Escaped::new(out);
            serde_json::to_writer(&mut out, &as_json(&run, filter)).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        Format::Text => {
            let mut text = StyledText::default();
            write_text(&mut text, &run, directory, filter, summarize, terms)
                .expect("writing to a string cannot fail");
            out.write_all(text.as_bytes())?;
        }
    }
    Ok(run.verdict())
}

/// The run as text.
fn write_text(
    out: &mut StyledText,
    run: &LoadedRun,
    directory: &Path,
    filter: &Filter,
    summarize: fn(&[Event]) -> Tally,
    terms: fn(&str) -> &'static [Term],
) -> fmt::Result {
    for (title, text) in [("Started", &run.test.started), ("Repeat with", &run.test.command)] {
        if let Some(text) = text {
            out.styled(FAINT, format_args!("{title}:"))?;
            writeln!(out, " {}", escape_line(text))?;
        }
    }
    if filter.lists_operations() {
        operations(out, run, filter)?;
    } else {
        write!(out, "{}", summarize(&run.events))?;
    }
    if run.torn {
        writeln!(out, "The history is truncated: the harness was killed.")?;
    }
    faults(out, run, filter)?;
    indeterminate(out, run, filter)?;
    for broken in &run.broken {
        counterexample(out, broken, &run.operations)?;
    }
    if let Some(results) = &run.results {
        headline(out, BOLD, "Checks")?;
        // The counterexamples above show the violations of linearizability.
        results_text(out, results, Detail::Usual, terms, Some(linearizability::NAME))?;
    }
    out.styled(style_of(run.verdict()), run.verdict())?;
    write!(out, ": {}", escape_line(&directory.to_string_lossy()))?;
    writeln!(
        out,
        "{}",
        if run.results.is_none() { ": not checked yet; run harness check" } else { "" }
    )
}

fn headline(out: &mut StyledText, style: Style, text: impl fmt::Display) -> fmt::Result {
    out.styled(style, text)?;
    writeln!(out)
}

/// The most rows of a table that are printed; further rows are counted.
const ROWS_MAX: usize = 40;

fn seconds(time: u64) -> f64 {
    time as f64 / 1e9
}

/// Prints a table. Columns of numbers are right-aligned.
fn table(out: &mut StyledText, head: &[&str], rows: &[Vec<String>]) -> fmt::Result {
    let shown = rows.iter().take(ROWS_MAX);
    let shown: Vec<Vec<Cow<'_, str>>> =
        shown.map(|row| row.iter().map(|cell| escape_line(cell)).collect()).collect();
    let width = |at: usize| {
        let cells = shown.iter().filter_map(|row| row.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(head[at].chars().count())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let number = |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit() || c == '–');
    let mut names = String::new();
    for (name, width) in head.iter().zip(&widths) {
        write!(names, "  {name:<width$}")?;
    }
    headline(out, FAINT, names)?;
    for row in &shown {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            if number(cell) {
                write!(line, "  {cell:>width$}")?;
            } else {
                write!(line, "  {cell:<width$}")?;
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    if rows.len() > ROWS_MAX {
        writeln!(out, "  and {} more; --json lists all", rows.len() - ROWS_MAX)?;
    }
    Ok(())
}

fn faults(out: &mut StyledText, run: &LoadedRun, filter: &Filter) -> fmt::Result {
    let number = |n: Option<u64>| n.map_or_else(|| "–".to_owned(), |n| n.to_string());
    let shown = run.faults.iter().filter(|fault| filter.overlaps(fault.from, fault.to));
    let rows: Vec<Vec<String>> = shown
        .map(|fault| {
            let mut in_doubt = number(fault.in_doubt);
            if !fault.in_doubt_at.is_empty() {
                let _ = write!(in_doubt, ": {}", fault.in_doubt_at.join(" "));
            }
            vec![
                format!("{:.3}", seconds(fault.from)),
                fault.title(),
                fault.at.clone().unwrap_or_else(|| "at any time".to_owned()),
                fault.txn.clone().unwrap_or_default(),
                in_doubt,
                format!("{:.0}", seconds(fault.to.saturating_sub(fault.from)) * 1e3),
                number(fault.resolved_ms),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    headline(out, BOLD, "Faults, and the replicas in doubt when they were injected")?;
    let head =
        ["at, s", "fault", "point", "transaction", "in doubt", "duration, ms", "resolved, ms"];
    table(out, &head, &rows)
}

fn indeterminate(out: &mut StyledText, run: &LoadedRun, filter: &Filter) -> fmt::Result {
    let open = run.operations.iter().filter(|op| op.is_indeterminate() && filter.selects(op));
    let rows: Vec<Vec<String>> = open
        .map(|op| {
            let error = op.error.as_deref().unwrap_or("the run ended first");
            vec![
                op.invoked_index.to_string(),
                format!("{:.3}", seconds(op.invoked)),
                format!("p{}", op.process),
                super::counterexample::describe(op),
                error.chars().take(60).collect(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    headline(out, BOLD, "Indeterminate operations: each may or may not have taken effect")?;
    table(out, &["index", "at, s", "process", "operation", "error"], &rows)
}

/// The selected operations, one per line.
fn operations(out: &mut StyledText, run: &LoadedRun, filter: &Filter) -> fmt::Result {
    let shown: Vec<&Operation> = run.operations.iter().filter(|op| filter.selects(op)).collect();
    headline(out, BOLD, format_args!("{} operations", shown.len()))?;
    for operation in shown {
        let took = operation.returned.map_or_else(
            || "no completion".to_owned(),
            |returned| {
                format!("{:.3} ms", seconds(returned.saturating_sub(operation.invoked)) * 1e3)
            },
        );
        let style = match operation.outcome {
            Outcome::Ok => Style::new(),
            Outcome::Fail => FAINT,
            Outcome::Info => WARN,
        };
        let (sign, rest) = match operation.outcome {
            Outcome::Ok => {
                ("ok  ", operation.version.as_ref().map_or_else(String::new, ToString::to_string))
            }
            Outcome::Fail => ("fail", operation.error.clone().unwrap_or_default()),
            Outcome::Info => ("info", operation.error.clone().unwrap_or_default()),
        };
        let line = format!(
            "  {:>7}  {:>11.6} s  p{:<4} {sign}  {:<22} {took:>14}  {rest}",
            operation.invoked_index,
            seconds(operation.invoked),
            operation.process,
            super::counterexample::describe(operation),
        );
        headline(out, style, escape_line(&line))?;
    }
    Ok(())
}

fn counterexample(
    out: &mut StyledText,
    broken: &NonLinearizableKey,
    operations: &[Operation],
) -> fmt::Result {
    let title = format!("The history of {} is not linearizable", broken.explanation.key);
    headline(out, BAD, escape_line(&title))?;
    writeln!(out, "  {}", indented(&broken.explanation.sentence, 4))?;
    let breaks = |shown: &ShownOperation| shown.number == broken.breaks_at;
    for (line, shown) in
        timeline(&broken.explanation.operations).lines().zip(&broken.explanation.operations)
    {
        let style = if breaks(shown) { BAD } else { Style::new() };
        write!(out, "    ")?;
        headline(out, style, line)?;
    }
    if !broken.prefix.is_empty() {
        let last = &broken.prefix[broken.prefix.len().saturating_sub(6)..];
        let order: Vec<String> = last
            .iter()
            .map(|at| super::counterexample::describe(&operations[*at as usize]))
            .collect();
        let more = if broken.prefix.len() > last.len() { "… " } else { "" };
        let order = order.join(", ");
        let order = escape_line(&order);
        writeln!(out, "  the longest linearizable prefix ends with: {more}{order}")?;
    }
    Ok(())
}

/// The run as a JSON object.
fn as_json(run: &LoadedRun, filter: &Filter) -> Json {
    let operation = |op: &Operation| {
        json!({
            "index": op.invoked_index, "time": op.invoked, "returned": op.returned,
            "process": op.process, "f": op.f, "key": op.key, "value": op.value,
            "type": match op.outcome { Outcome::Ok => "ok", Outcome::Fail => "fail", Outcome::Info => "info" },
            "version": op.version, "error": op.error,
        })
    };
    let selected = || run.operations.iter().filter(|op| filter.selects(op));
    let number = |number: u32| run.operations[number as usize].invoked_index;
    let broken = run.broken.iter().map(|broken| {
        json!({
            "key": broken.explanation.key,
            "explanation": broken.explanation.sentence,
            "operations":
                broken.explanation.operations.iter().map(|op| number(op.number)).collect::<Vec<_>>(),
            "breaks_at": number(broken.breaks_at),
            "longest_prefix": broken.prefix.iter().map(|at| number(*at)).collect::<Vec<_>>(),
        })
    });
    let faults = run.faults.iter().filter(|fault| filter.overlaps(fault.from, fault.to));
    json!({
        "verdict": run.verdict(),
        "test": run.test,
        "checks": run.results.as_ref().map(|results| &results.checks),
        "torn": run.torn,
        "faults": faults.collect::<Vec<_>>(),
        "operations_total": run.operations.len(),
        "indeterminate":
            selected().filter(|op| op.is_indeterminate()).map(operation).collect::<Vec<_>>(),
        "counterexamples": broken.collect::<Vec<_>>(),
        "operations": filter.lists_operations().then(|| selected().map(operation).collect::<Vec<_>>()),
    })
}
