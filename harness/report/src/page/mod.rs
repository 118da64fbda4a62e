//! The page of a run: one self-contained HTML file. It starts with the verdict and its reasons; a timeline
//! of the whole run follows. Text, tables and plots need no scripts; the script adds the timeline, the
//! search and the message diagram.

mod findings;
mod tables;
mod timeline;

use std::io;

use checker::{Validity, transactions::TransactionReport};
use history::Outcome;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    packed,
    page_data::PageData,
    plots::Plot,
    sections::{ShownSchedule, SystemEvidence},
    store::readable_time,
    summary::Tally,
    transactions::{ANOMALIES_STYLE, anomalies, levels},
};

/// The style sheet that this page shares with those of the server.
pub(crate) const THEME: &str = include_str!("theme.css");
const STYLE: &str = include_str!("page.css");

/// The script of the page, in one strict function scope, so that nothing becomes global. A file may use
/// the constants of those before it and the functions of all. The files up to `trace.js` use neither the
/// document nor the state of the page: `tests/page/` tests them under Node.js.
const SCRIPT: &str = concat!(
    "\"use strict\";\n(() => {\n",
    include_str!("decode.js"),
    include_str!("model.js"),
    include_str!("scale.js"),
    include_str!("lanes.js"),
    include_str!("hit.js"),
    include_str!("trace.js"),
    include_str!("state.js"),
    include_str!("draw.js"),
    include_str!("overview.js"),
    include_str!("details.js"),
    include_str!("diagram.js"),
    include_str!("navigate.js"),
    include_str!("input.js"),
    include_str!("main.js"),
    "})();\n",
);

/// The property that a check verifies, if it is one that a run of any system can have.
#[must_use]
pub fn check_property(check: &str) -> Option<&'static str> {
    Some(match check {
        "linearizability" => {
            "Every operation appears to take effect at one moment between its invocation and its \
             completion."
        }
        "unexpected-exits" => {
            "No process exits unless the test stops it, and a node that must be refused is refused."
        }
        "faults" => "Every requested fault was injected.",
        "set" => "No element that is known to be in the set is lost.",
        "counter" => "Every read lies between what must and what may have been counted.",
        "queue" => "What was put in and acknowledged comes out.",
        "log" => "What was appended and acknowledged stays at its offset.",
        "bank" => "Every read of all balances has the same total.",
        "lock" => "No two processes hold a lock at the same time.",
        "transactions" => "No anomaly that the level forbids, and no acknowledged append is lost.",
        "activity" => "The run did enough to prove something.",
        "clients" => "The clients kept the rules of clients.",
        "statistics" => "Operation counts, latency and availability.",
        _ => return None,
    })
}

/// A mark for a verdict. Marks differ in shape as well as in colour.
pub(crate) fn verdict_mark(verdict: Validity) -> Markup {
    let (class, sign) = match verdict {
        Validity::Valid => ("valid", "✓"),
        Validity::Unknown => ("unknown", "?"),
        Validity::Invalid => ("invalid", "✕"),
    };
    html! { span.mark.(class) aria-hidden="true" { (sign) } }
}

/// Renders the page.
///
/// # Errors
/// The data for the script cannot be serialised.
pub(super) fn page(
    data: &PageData<'_>,
    plots: &[Plot],
    evidence: &dyn SystemEvidence,
) -> io::Result<String> {
    let verdict = data.run.results.verdict;
    let packed = packed::pack(data)?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { (verdict) ": " (data.name()) }
                style {
                    (PreEscaped(THEME)) (PreEscaped(STYLE))
                    @if data.run.transactions.is_some() { (PreEscaped(ANOMALIES_STYLE)) }
                }
            }
            body {
                (header(data, evidence))
                main {
                    @if verdict == Validity::Invalid { (findings::violations(data, evidence)) }
                    (findings::checks(data, evidence))
                    @if let Some(report) = data.run.transactions { (transactions(report)) }
                    (timeline::timeline(data))
                    (timeline::messages(data, evidence.glossary()))
                    @for name in &data.test.broken {
                        @if let Some(schedule) = evidence.shortest_schedule(name) { (shortest(&schedule)) }
                    }
                    (tables::counts(data))
                    (tables::faults(data))
                    (tables::indeterminate(data))
                    (plot_section(plots))
                    (footer(data))
                }
                script type="application/octet-stream" id="run" { (PreEscaped(packed)) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string())
}

/// The verdict, and what kind of run it was.
fn header(data: &PageData<'_>, evidence: &dyn SystemEvidence) -> Markup {
    let results = data.run.results;
    let seconds = data.run.end() as f64 / 1e9;
    let injections = Tally::of(data.run.events).injections();
    let broken = &data.test.broken;
    html! {
        header.verdict.(results.verdict.to_string()) {
            p.crumb {
                // Shown where a server has the list of runs.
                a.back hidden href="../../../" { "All runs" } " "
                (data.name())
                @if let Some(started) = &data.test.started {
                    " · " span title=(started) { (readable_time(started)) " UTC" }
                }
            }
            h1 { (verdict_mark(results.verdict)) span { (results.verdict) } }
            p.outcome { (verdict_sentence(data)) }
            @if let Some(why) = ended_early(data) { p.facts { "Ended early: " (why) "." } }
            p.facts {
                (counted(data.run.operations.len() as u64, "operation")) " by "
                (counted(data.concurrency(), "client")) " in " (format!("{seconds:.1}")) " s, "
                @if let Some(replicas) = data.test.replicas {
                    (counted(replicas.into(), "replica")) ", "
                }
                @if injections == 0 { "no faults" } @else { (counted(injections, "fault")) }
                "."
            }
            @for name in broken {
                p.facts {
                    "Broken on purpose: " strong { (name) }
                    @if let Some(does) = evidence.mutation(name) { ": the system " (does) }
                    "."
                    @if evidence.shortest_schedule(name).is_some() {
                        " " a href=(format!("#schedule-{name}")) { "How that goes wrong, step by step" } "."
                    }
                }
            }
            @if let Some(command) = &data.test.command {
                p.command { "Repeat with " code { (command) } }
            }
        }
    }
}

/// Why the run ended before its time, if it did.
fn ended_early(data: &PageData<'_>) -> Option<String> {
    Tally::of(data.run.events).ended_early()
}

/// The levels that the transactions leave, and each anomaly.
fn transactions(report: &TransactionReport) -> Markup {
    html! {
        section #transactions {
            h2 { "Transactions" }
            (levels(report))
            (anomalies(report))
        }
    }
}

/// The shortest way in which something broken shows.
fn shortest(schedule: &ShownSchedule) -> Markup {
    let ShownSchedule { title, steps, violated, command } = schedule;
    html! {
        section id=(format!("schedule-{title}")) {
            h2 { "How a cluster without " (title) " goes wrong" }
            p { "The shortest schedule that the model checker finds: " (counted(steps.len() as u64, "step"))
                " in the smallest cluster that shows it. It is not this run." }
            ol.schedule { @for step in steps { li { (step) } } }
            ul.findings { @for (name, claim) in violated { li { "Violated: " strong { (name) } ": " (claim) } } }
            @if !command.is_empty() { p.command { "Found by " code { (command) } } }
        }
    }
}

/// A count with its noun, in singular or plural.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{s}")
}

/// The verdict in a sentence.
fn verdict_sentence(data: &PageData<'_>) -> Markup {
    let checks = &data.run.results.checks;
    let of = |verdict| checks.iter().filter(move |check| check.verdict == verdict);
    let names =
        |verdict| of(verdict).map(|check| check.check.as_str()).collect::<Vec<_>>().join(", ");
    match data.run.results.verdict {
        Validity::Valid => html! { "All " (checks.len()) " checks passed." },
        Validity::Unknown => html! { "Undetermined: " (names(Validity::Unknown)) "." },
        Validity::Invalid => html! {
            (of(Validity::Invalid).count()) " of " (checks.len()) " checks failed: "
            (names(Validity::Invalid)) "."
        },
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Fail => "fail",
        Outcome::Info => "info",
    }
}

fn plot_section(plots: &[Plot]) -> Markup {
    html! {
        section #plots {
            h2 { "Plots" }
            @for plot in plots {
                figure {
                    figcaption { strong { (plot.title) } " " (plot.caption) }
                    (PreEscaped(&plot.svg))
                }
            }
            p.hint { "Fault intervals are shaded." }
        }
    }
}

fn footer(data: &PageData<'_>) -> Markup {
    let omissions = data.omissions();
    let files = ["history.jsonl", "results.json", "test.json", "final.json", "nodes"];
    let files = files.iter().filter(|name| data.run.directory.join(name).exists());
    html! {
        footer {
            @if data.run.torn { p { "The history is truncated: the harness was killed." } }
            @if !omissions.is_empty() {
                p { "To limit its size, this page omits data: " (omissions.join("; ")) "." }
            }
            p { "Files of this run: " @for (number, name) in files.enumerate() {
                @if number > 0 { ", " } a href=(name) { (name) }
            } "." }
        }
    }
}
