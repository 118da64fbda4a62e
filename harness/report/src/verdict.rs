//! The results of a run in a terminal: the cause of an invalid verdict and what follows from it, and a line
//! for each check with what it found.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    io,
};

use anstyle::{AnsiColor, Effects, Style};
use checker::{CheckResult, Finding, Results, Validity, ViolationId};

use crate::{
    sections::Term,
    terminal::{Escaped, StyledText, escape_line},
};

pub(crate) const BOLD: Style = Style::new().effects(Effects::BOLD);
pub(crate) const FAINT: Style = Style::new().effects(Effects::DIMMED);
pub(crate) const BAD: Style = AnsiColor::Red.on_default().effects(Effects::BOLD);
const GOOD: Style = AnsiColor::Green.on_default().effects(Effects::BOLD);
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default().effects(Effects::BOLD);

pub(crate) fn style_of(verdict: Validity) -> Style {
    match verdict {
        Validity::Valid => GOOD,
        Validity::Unknown => WARN,
        Validity::Invalid => BAD,
    }
}

/// How much of the results is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The checks that are not valid.
    Quiet,
    /// Every check, with the first violations of each.
    Usual,
    /// Every check, with all violations that are kept, and what was measured.
    Verbose,
}

/// The most violations of a check that are usually printed.
const PRINTED_MAX: usize = 6;

/// The most consequences of a check that are usually printed.
const CONSEQUENCES_MAX: usize = 3;

/// Writes results with styles. A writer that is no terminal should strip them. `terms` are the terms that a
/// check uses.
///
/// # Errors
/// They cannot be written.
pub fn write_results(
    results: &Results,
    detail: Detail,
    terms: fn(&str) -> &'static [Term],
    out: &mut Escaped<impl io::Write>,
) -> io::Result<()> {
    let mut text = StyledText::default();
    results_text(&mut text, results, detail, terms, None).expect("writing to a string cannot fail");
    out.write_styled(&text)
}

/// Writes results. Of the check `drawn`, whose violations are shown elsewhere, only the verdict.
pub(crate) fn results_text(
    out: &mut StyledText,
    results: &Results,
    detail: Detail,
    terms: fn(&str) -> &'static [Term],
    drawn: Option<&str>,
) -> fmt::Result {
    cause(out, results, terms)?;
    for check_result in &results.checks {
        if detail != Detail::Quiet || check_result.verdict != Validity::Valid {
            let is_drawn = drawn == Some(&check_result.check);
            check(out, results, check_result, if is_drawn { None } else { Some(detail) })?;
        }
    }
    Ok(())
}

/// What the verdict comes from, in a few lines.
fn cause(
    out: &mut StyledText,
    results: &Results,
    terms: fn(&str) -> &'static [Term],
) -> fmt::Result {
    let Some(cause) = &results.cause else { return Ok(()) };
    let when = cause.finding.at().filter(|at| *at >= 0);
    let when = when.map_or_else(String::new, |at| format!(" after {:.3} s", at as f64 / 1e9));
    out.styled(BAD, format_args!("Cause{when}"))?;
    writeln!(out, " ({}):", escape_line(&cause.first.check))?;
    writeln!(out, "  {}", escape_line(cause.finding.text()))?;
    for more in [&cause.trigger, &cause.fault].into_iter().flatten() {
        writeln!(out, "  {}", escape_line(more.text()))?;
    }
    for (name, meaning) in terms_used(terms(&cause.first.check), [&cause.finding]) {
        writeln!(out, "  {name}: {meaning}")?;
    }
    writeln!(out, "  {}", escape_line(&cause.meaning()))?;
    let mut rest = Vec::new();
    match cause.consequences.len() {
        0 => {}
        1 => rest.push("1 later violation follows from it (↳ below)".to_owned()),
        n => rest.push(format!("{n} later violations follow from it (↳ below)")),
    }
    rest.extend(cause.others_in_words());
    if !rest.is_empty() {
        writeln!(out, "  {}.", rest.join("; "))?;
    }
    Ok(())
}

/// The terms that findings use.
pub(crate) fn terms_used<'a>(
    terms: &'static [Term],
    findings: impl IntoIterator<Item = &'a Finding>,
) -> Vec<Term> {
    let text: Vec<&str> = findings.into_iter().map(Finding::text).collect();
    let is_used = |name: &str| {
        text.iter().any(|text| text.split(|c: char| !c.is_alphanumeric()).any(|word| word == name))
    };
    terms.iter().copied().filter(|(name, _)| is_used(name)).collect()
}

fn check(
    out: &mut StyledText,
    results: &Results,
    check_result: &CheckResult,
    detail: Option<Detail>,
) -> fmt::Result {
    let CheckResult { check, verdict, violations, violations_total, unknown_because, .. } =
        check_result;
    write!(out, "  {:<16} ", escape_line(check))?;
    out.styled(style_of(*verdict), verdict)?;
    writeln!(out)?;
    let Some(detail) = detail else { return Ok(()) };
    let follows: BTreeSet<usize> = results
        .cause
        .iter()
        .flat_map(|cause| &cause.consequences)
        .filter(|ViolationId { check, .. }| *check == check_result.check)
        .map(|id| id.number)
        .collect();
    let limit = |usual| if detail == Detail::Verbose { usize::MAX } else { usual };
    let all = || violations.iter().enumerate();
    let first = results.cause.as_ref().map(|cause| &cause.first);
    let first = first.filter(|first| first.check == check_result.check).map(|first| first.number);
    let cause = all().filter(|(n, _)| Some(*n) == first);
    let later = all().filter(|(n, _)| follows.contains(n)).take(limit(CONSEQUENCES_MAX));
    let others = all().filter(|(n, _)| !follows.contains(n) && Some(*n) != first);
    let mut printed = 0;
    for (n, finding) in cause.chain(later).chain(others.take(limit(PRINTED_MAX))) {
        let sign = if follows.contains(&n) { "  ↳ " } else { "" };
        writeln!(out, "    {sign}{}", indented(finding, 6))?;
        printed += 1;
    }
    if *violations_total > printed {
        let (more, kept) = (violations_total - printed, violations.len());
        writeln!(out, "    and {more} more; results.json has the first {kept}")?;
    }
    for reason in unknown_because {
        writeln!(out, "    {}", indented(reason, 6))?;
    }
    if detail == Detail::Verbose {
        for (name, value) in &check_result.measured {
            let measured = format!("{name}: {value}");
            out.styled(FAINT, format_args!("    {}", escape_line(&measured)))?;
            writeln!(out)?;
        }
    }
    Ok(())
}

/// A text whose further lines are indented, so that none of them is taken for a line of the program.
pub(crate) fn indented(text: &str, columns: usize) -> String {
    text.trim_end().replace('\n', &format!("\n{:columns$}", ""))
}
