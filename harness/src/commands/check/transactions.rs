//! Prints what was found in a history of transactions.

use std::io::{self, Write};

use checker::transactions::{ReportedAnomaly, TransactionReport};

/// Prints anomalies, lost appends and levels.
pub(super) fn print(report: &TransactionReport, out: &mut impl Write) -> io::Result<()> {
    let mut before = None;
    for anomaly in &report.anomalies {
        let ReportedAnomaly { name, count, text, meaning, rules_out, .. } = anomaly;
        if before != Some(name) {
            let count = if *count > 1 { format!(", {count} times") } else { String::new() };
            writeln!(
                out,
                "  {name}{count}: rules out {}",
                list(rules_out, "and all that is stronger")
            )?;
            writeln!(out, "    {meaning}")?;
            before = Some(name);
        }
        writeln!(out, "    {}", text.replace('\n', "\n      "))?;
    }
    for lost in &report.lost {
        writeln!(out, "  lost: {lost}")?;
    }
    if report.lost_total > report.lost.len() {
        writeln!(out, "  and {} more lost appends", report.lost_total - report.lost.len())?;
    }
    if let Some((_, reason)) = report.undecided.first() {
        let names: Vec<String> = report.undecided.iter().map(|(name, _)| name.clone()).collect();
        writeln!(out, "  undecided: {}: {reason}", list(&names, ""))?;
    }
    let strongest = match report.strongest.as_slice() {
        [] => "every level is ruled out".to_owned(),
        levels => format!("strongest levels not ruled out: {}", list(levels, "")),
    };
    if let Some(told) = &report.told_versions {
        writeln!(out, "  versions: {told}")?;
    }
    if let Some(cycle) = &report.commit_cycle {
        writeln!(out, "  {}", cycle.replace('\n', "\n    "))?;
    }
    if let Some(strongest) = &report.strongest_axiomatic {
        writeln!(out, "  strongest level of Biswas and Enea not ruled out: {strongest}")?;
    }
    match &report.claim {
        Some(claim) => writeln!(out, "  claim: {claim}; {strongest}"),
        None => writeln!(out, "  {strongest}"),
    }
}

/// Names in a row, and what follows them.
fn list(names: &[String], rest: &str) -> String {
    let mut text = names.join(", ");
    if !rest.is_empty() {
        text.push_str(", ");
        text.push_str(rest);
    }
    text
}
