//! A run in a terminal: what was asked, what was struck and what was in doubt, what nobody was told,
//! and the counterexample. Reads the history and what the checks found, never the journals, so that
//! it is quick. Judges nothing.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anstyle::{AnsiColor, Effects, Style};
use clap::Args;
use serde_json::{Value as Json, json};

use super::{
    summary::Tally,
    windows::{Window, windows},
};
use crate::{
    checker::{
        CheckResult, Results, Validity,
        linearizability::{self, Limits, NonLinearizableKey, ShownOperation, timeline},
    },
    history::{self, Event, Operation, Outcome},
    runner::parse_duration,
    twopc::{LoadError, read_json},
};

/// What to show of which run.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// The run directory.
    #[arg(value_name = "PATH", default_value = "histories/latest")]
    pub path: PathBuf,

    /// Only operations on this key, each on a line. May be given more than once.
    #[arg(long, value_name = "KEY")]
    pub key: Vec<String>,

    /// Only operations of this process, each on a line. May be given more than once.
    #[arg(long, value_name = "N")]
    pub process: Vec<u64>,

    /// Only what was under way after this time of the history: 1.5s, 800ms.
    #[arg(long, value_name = "TIME", value_parser = nanoseconds)]
    pub from: Option<u64>,

    /// Only what had begun before this time of the history.
    #[arg(long, value_name = "TIME", value_parser = nanoseconds)]
    pub to: Option<u64>,

    /// Print one JSON object instead: everything below, by name.
    #[arg(long)]
    pub json: bool,
}

fn nanoseconds(text: &str) -> Result<u64, String> {
    parse_duration(text).map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

impl InspectArgs {
    /// Whether operations are wanted one by one.
    fn picks(&self) -> bool {
        !self.key.is_empty() || !self.process.is_empty() || self.timed()
    }

    fn timed(&self) -> bool {
        self.from.is_some() || self.to.is_some()
    }

    fn wants(&self, operation: &Operation) -> bool {
        (self.key.is_empty() || self.key.contains(&operation.key))
            && (self.process.is_empty() || self.process.contains(&operation.process))
            && self.within(operation.invoked, operation.returned.unwrap_or(u64::MAX))
    }

    fn within(&self, from: u64, to: u64) -> bool {
        self.from.is_none_or(|after| to >= after) && self.to.is_none_or(|before| from <= before)
    }
}

const BOLD: Style = Style::new().effects(Effects::BOLD);
const FAINT: Style = Style::new().effects(Effects::DIMMED);
const BAD: Style = AnsiColor::Red.on_default().effects(Effects::BOLD);
const GOOD: Style = AnsiColor::Green.on_default().effects(Effects::BOLD);
const ODD: Style = AnsiColor::Yellow.on_default().effects(Effects::BOLD);

/// Text in a style; what prints it takes the style away where there is no terminal.
struct Styled<T>(Style, T);

impl<T: fmt::Display> fmt::Display for Styled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Styled(style, text) = self;
        write!(f, "{style}{text}{style:#}")
    }
}

fn styled(verdict: Validity) -> Styled<Validity> {
    let style = match verdict {
        Validity::Valid => GOOD,
        Validity::Unknown => ODD,
        Validity::Invalid => BAD,
    };
    Styled(style, verdict)
}

/// A run as it is shown.
struct Seen {
    events: Vec<Event>,
    torn: bool,
    operations: Vec<Operation>,
    windows: Vec<Window>,
    test: Json,
    results: Option<Results>,
    broken: Vec<NonLinearizableKey>,
}

impl Seen {
    fn load(directory: &Path) -> Result<Seen, LoadError> {
        let test = read_json(&directory.join("test.json"))?;
        let path = directory.join("history.jsonl");
        let history::RecordedHistory { events, torn } = history::read(&path)?;
        let operations = history::pair(&events).map_err(|error| LoadError::Pair { path, error })?;
        let windows = windows(&events);
        let path = directory.join("results.json");
        let results: Option<Results> = if path.exists() { Some(read_json(&path)?) } else { None };
        let invalid = results.as_ref().and_then(|results| results.check(linearizability::NAME));
        let invalid = invalid.is_some_and(|check| check.verdict == Validity::Invalid);
        let limits = Limits { time: std::time::Duration::from_secs(5), ..Limits::default() };
        let broken = if invalid {
            linearizability::non_linearizable_keys(&operations, &limits)
        } else {
            Vec::new()
        };
        Ok(Seen { events, torn, operations, windows, test, results, broken })
    }

    fn verdict(&self) -> Validity {
        self.results.as_ref().map_or(Validity::Unknown, |results| results.verdict)
    }
}

/// Why a run cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It cannot be printed.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Shows a run. What its checks found is read, not found again; a run that was not judged is
/// unknown.
///
/// # Errors
/// A file of the run cannot be read.
pub fn inspect(args: &InspectArgs, out: &mut impl Write) -> Result<Validity, InspectError> {
    let seen = Seen::load(&args.path)?;
    if args.json {
        serde_json::to_writer(&mut *out, &as_json(&seen, args)).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(seen.verdict());
    }
    let mut text = String::new();
    tell(&mut text, &seen, args).expect("a string takes everything");
    out.write_all(text.as_bytes())?;
    Ok(seen.verdict())
}

fn tell(out: &mut String, seen: &Seen, args: &InspectArgs) -> fmt::Result {
    for (title, field) in [("Started", "started"), ("Again with", "command")] {
        if let Some(text) = seen.test.get(field).and_then(Json::as_str) {
            writeln!(out, "{FAINT}{title}:{FAINT:#} {text}")?;
        }
    }
    if args.picks() {
        picked(out, seen, args)?;
    } else {
        write!(out, "{}", Tally::of(&seen.events))?;
    }
    if seen.torn {
        writeln!(out, "The history breaks off: the harness was killed.")?;
    }
    faults(out, seen, args)?;
    indeterminate(out, seen, args)?;
    for broken in &seen.broken {
        counterexample(out, broken, &seen.operations)?;
    }
    let Some(results) = &seen.results else {
        return writeln!(
            out,
            "{}: {}: not judged yet: harness check does it",
            styled(Validity::Unknown),
            args.path.display()
        );
    };
    writeln!(out, "{}", Styled(BOLD, "Checks"))?;
    for check_result in &results.checks {
        check(out, check_result)?;
    }
    writeln!(out, "{}: {}", styled(results.verdict), args.path.display())
}

/// Rows of a table in a terminal; the rest is counted.
const ROWS_MAX: usize = 40;

fn seconds(time: u64) -> f64 {
    time as f64 / 1e9
}

/// Columns side by side, numbers to the right.
fn table(out: &mut String, head: &[&str], rows: &[Vec<String>]) -> fmt::Result {
    let width = |at: usize| {
        let cells = rows.iter().take(ROWS_MAX).filter_map(|row| row.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(head[at].chars().count())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let number = |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit() || c == '–');
    write!(out, "{FAINT}")?;
    for (name, width) in head.iter().zip(&widths) {
        write!(out, "  {name:<width$}")?;
    }
    writeln!(out, "{FAINT:#}")?;
    for row in rows.iter().take(ROWS_MAX) {
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
        writeln!(out, "  and {} more; --json has them all", rows.len() - ROWS_MAX)?;
    }
    Ok(())
}

fn faults(out: &mut String, seen: &Seen, args: &InspectArgs) -> fmt::Result {
    let number = |n: Option<u64>| n.map_or_else(|| "–".to_owned(), |n| n.to_string());
    let shown = seen.windows.iter().filter(|window| args.within(window.from, window.to));
    let rows: Vec<Vec<String>> = shown
        .map(|window| {
            let mut doubt = number(window.in_doubt);
            if !window.in_doubt_at.is_empty() {
                let _ = write!(doubt, ": {}", window.in_doubt_at.join(" "));
            }
            vec![
                format!("{:.3}", seconds(window.from)),
                window.title(),
                window.at.clone().unwrap_or_else(|| "at any time".to_owned()),
                window.txn.clone().unwrap_or_default(),
                doubt,
                format!("{:.0}", seconds(window.to - window.from) * 1e3),
                number(window.resolved_ms),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "{}", Styled(BOLD, "Faults, and the replicas in doubt then"))?;
    let head = ["at, s", "what", "where", "about", "in doubt", "for, ms", "resolved, ms"];
    table(out, &head, &rows)
}

fn indeterminate(out: &mut String, seen: &Seen, args: &InspectArgs) -> fmt::Result {
    let open = seen.operations.iter().filter(|op| op.outcome == Outcome::Info && args.wants(op));
    let rows: Vec<Vec<String>> = open
        .map(|op| {
            let why = op.error.as_deref().unwrap_or("the run ended first");
            vec![
                op.invoked_index.to_string(),
                format!("{:.3}", seconds(op.invoked)),
                format!("p{}", op.process),
                super::figure::words(op),
                why.chars().take(60).collect(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "{}", Styled(BOLD, "Indeterminate: they may or may not have happened"))?;
    table(out, &["index", "at, s", "who", "operation", "what the client knew"], &rows)
}

/// Operations that were asked for one by one.
fn picked(out: &mut String, seen: &Seen, args: &InspectArgs) -> fmt::Result {
    let shown: Vec<&Operation> = seen.operations.iter().filter(|op| args.wants(op)).collect();
    writeln!(out, "{}", Styled(BOLD, format!("{} operations", shown.len())))?;
    for operation in shown {
        let took = operation.returned.map_or_else(
            || "never returned".to_owned(),
            |returned| format!("{:.3} ms", seconds(returned - operation.invoked) * 1e3),
        );
        let style = match operation.outcome {
            Outcome::Ok => Style::new(),
            Outcome::Fail => FAINT,
            Outcome::Info => ODD,
        };
        let (sign, rest) = match operation.outcome {
            Outcome::Ok => {
                ("ok  ", operation.version.as_ref().map_or_else(String::new, |v| v.to_string()))
            }
            Outcome::Fail => ("fail", operation.error.clone().unwrap_or_default()),
            Outcome::Info => ("info", operation.error.clone().unwrap_or_default()),
        };
        writeln!(
            out,
            "{style}  {:>7}  {:>11.6} s  p{:<4} {sign}  {:<22} {took:>14}  {rest}{style:#}",
            operation.invoked_index,
            seconds(operation.invoked),
            operation.process,
            super::figure::words(operation),
        )?;
    }
    Ok(())
}

fn counterexample(
    out: &mut String,
    broken: &NonLinearizableKey,
    operations: &[Operation],
) -> fmt::Result {
    let title = format!("What clients saw of {} has no order", broken.explanation.key);
    writeln!(out, "{}", Styled(BAD, title))?;
    writeln!(out, "  {}", broken.explanation.sentence)?;
    let breaks = |shown: &ShownOperation| shown.number == broken.breaks_at;
    for (line, shown) in
        timeline(&broken.explanation.operations).lines().zip(&broken.explanation.operations)
    {
        let style = if breaks(shown) { BAD } else { Style::new() };
        writeln!(out, "    {style}{line}{style:#}")?;
    }
    if !broken.prefix.is_empty() {
        let last = &broken.prefix[broken.prefix.len().saturating_sub(6)..];
        let order: Vec<String> =
            last.iter().map(|at| super::figure::words(&operations[*at as usize])).collect();
        let more = if broken.prefix.len() > last.len() { "… " } else { "" };
        writeln!(out, "  the longest prefix with an order ends: {more}{}", order.join(", "))?;
    }
    Ok(())
}

/// Violations of a check that are given room.
const SAID_MAX: usize = 6;

fn check(out: &mut String, check_result: &CheckResult) -> fmt::Result {
    let CheckResult { check, verdict, violations, violations_total, unknown_because, .. } =
        check_result;
    writeln!(out, "  {check:<16} {}", styled(*verdict))?;
    // What linearizability found has been drawn above.
    let told = if check == linearizability::NAME { 0 } else { violations.len().min(SAID_MAX) };
    for sentence in &violations[..told] {
        writeln!(out, "    {}", sentence.trim_end().replace('\n', "\n      "))?;
    }
    if told > 0 && *violations_total > told {
        writeln!(out, "    and {} more; results.json has the first", violations_total - told)?;
    }
    for doubt in unknown_because {
        writeln!(out, "    {doubt}")?;
    }
    Ok(())
}

/// Everything by name.
fn as_json(seen: &Seen, args: &InspectArgs) -> Json {
    let operation = |op: &Operation| {
        json!({
            "index": op.invoked_index, "time": op.invoked, "returned": op.returned,
            "process": op.process, "f": op.f, "key": op.key, "value": op.value,
            "type": match op.outcome { Outcome::Ok => "ok", Outcome::Fail => "fail", Outcome::Info => "info" },
            "version": op.version, "error": op.error,
        })
    };
    let wanted = || seen.operations.iter().filter(|op| args.wants(op));
    let number = |number: u32| seen.operations[number as usize].invoked_index;
    let broken = seen.broken.iter().map(|broken| {
        json!({
            "key": broken.explanation.key,
            "why": broken.explanation.sentence,
            "operations":
                broken.explanation.operations.iter().map(|op| number(op.number)).collect::<Vec<_>>(),
            "breaks_at": number(broken.breaks_at),
            "order_until_then": broken.prefix.iter().map(|at| number(*at)).collect::<Vec<_>>(),
        })
    });
    let windows = seen.windows.iter().filter(|window| args.within(window.from, window.to));
    json!({
        "verdict": seen.verdict(),
        "test": seen.test,
        "checks": seen.results.as_ref().map(|results| &results.checks),
        "torn": seen.torn,
        "faults": windows.collect::<Vec<_>>(),
        "operations_total": seen.operations.len(),
        "indeterminate":
            wanted().filter(|op| op.outcome == Outcome::Info).map(operation).collect::<Vec<_>>(),
        "counterexamples": broken.collect::<Vec<_>>(),
        "operations": args.picks().then(|| wanted().map(operation).collect::<Vec<_>>()),
    })
}
