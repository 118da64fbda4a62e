//! Renders the pages of the server.

use std::collections::BTreeSet;

use checker::Validity;
use history::RunDescription;
use maud::{DOCTYPE, Markup, html};
use serde_json::Value as Json;

use super::{CheckProperty, store::RunSummary};
use crate::{PAGE, links::linked, verdict_mark};

/// The style sheet of the server's pages, and their script. They are files, so that the pages can forbid
/// scripts and styles inside.
pub(super) const STYLE: &str = concat!(include_str!("../page/theme.css"), include_str!("web.css"));
pub(super) const SCRIPT: &str = include_str!("web.js");

fn page(title: &str, content: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                link rel="icon" href="data:,";
                title { (title) }
                link rel="stylesheet" href="/web.css";
            }
            body {
                nav { a href="/" { "All runs" } }
                main { (content) }
                script src="/web.js" {}
            }
        }
    }
    .into_string()
}

pub(super) fn not_found(reason: &str) -> String {
    page("Not found", &html! { h1 { "Not found" } p { (reason) } })
}

/// The verdict of a run, or its state if it has none.
fn verdict(run: &RunSummary) -> Markup {
    match run.verdict() {
        Some(verdict) => html! { (verdict_mark(verdict)) (verdict) },
        None if run.running => html! { span.mark.running aria-hidden="true" { "▸" } "running" },
        None => html! { span.mark.none aria-hidden="true" { "–" } "not checked" },
    }
}

fn figure(number: Option<f64>) -> String {
    number.map_or_else(|| "–".to_owned(), |number| format!("{number:.0}"))
}

fn milliseconds(us: Option<f64>) -> String {
    us.map_or_else(|| "–".to_owned(), |us| format!("{:.1}", us / 1000.0))
}

pub(super) fn list(runs: &[RunSummary]) -> String {
    let count = |verdict| runs.iter().filter(|run| run.verdict() == verdict).count();
    // Runs without a verdict.
    let others = [("running", true), ("not checked", false)].map(|(what, running)| {
        let of = |run: &&RunSummary| run.verdict().is_none() && run.running == running;
        (runs.iter().filter(of).count(), what)
    });
    let content = html! {
        h1 { "Runs" }
        @if runs.is_empty() {
            p { "This store has no runs yet. " code { "harness --faults master-uncertainty" }
                " records one." }
        } @else {
            p { (runs.len()) " runs: " (count(Some(Validity::Valid))) " valid, "
                (count(Some(Validity::Invalid))) " invalid, " (count(Some(Validity::Unknown)))
                " unknown"
                @for (count, what) in others.iter().filter(|(count, _)| *count > 0) {
                    ", " (count) " " (what)
                }
                "." }
            form.tools action="/compare" {
                input type="search" name="filter" size="34" autocomplete="off" aria-label="Filter"
                    placeholder="filter: a fault, a verdict, a seed";
                button { "Compare the two selected" }
                output name="status" {}
            }
            div.wide { table #runs {
                thead { tr {
                    th {} @for (name, class) in [("verdict", ""), ("started", ""), ("faults", ""),
                        ("disabled rule", ""), ("seed", "n"), ("operations", "n"), ("seconds", "n"),
                        ("ok per second", "n"), ("put p99, ms", "n")]
                    { th.(class) { button type="button" { (name) } } }
                    th {}
                } }
                tbody { @for run in runs { (row(run)) } }
            } }
        }
    };
    page("Runs", &content)
}

fn row(run: &RunSummary) -> Markup {
    let path = run.id.path();
    let faults = run.test.faults.join(", ");
    html! { tr {
        td { input type="checkbox" name="run" value=(path) aria-label=(format!("compare {path}")); }
        td.verdict { (verdict(run)) }
        td { a href=(format!("/run/{path}/")) { (run.id.name) } }
        td { @if faults.is_empty() { "none" } @else { (faults) } }
        td { (run.test.broken.join(", ")) }
        td.n { @if let Some(seed) = run.test.seed { (seed) } }
        td.n { (figure(run.operations())) }
        td.n { (figure(run.measured(&["seconds"]))) }
        td.n { (figure(run.measured(&["ok_per_second"]))) }
        td.n { (milliseconds(run.measured(&["latency_us", "put", "p99"]))) }
        td { a href=(format!("/archive/{path}.tar.gz")) download { "tar.gz" } }
    } }
}

/// A part of a run's description, as text.
type Described = fn(&RunDescription) -> String;

/// What the comparison shows of the descriptions of the runs, with its titles.
const COMPARED: &[(&str, Described)] = &[
    ("faults", |run| run.faults.join(", ")),
    ("disabled rule", |run| run.broken.join(", ")),
    ("seed", |run| shown(run.seed)),
    ("clients", |run| shown(run.concurrency)),
    ("keys", |run| option(run, "keys")),
    ("replicas", |run| shown(run.replicas)),
    ("mix", |run| option(run, "mix")),
    ("rate", |run| option(run, "rate")),
    ("time, ms", |run| option(run, "time_limit_ms")),
];

fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn option(run: &RunDescription, name: &str) -> String {
    match run.options.get(name) {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// A run that is compared, and the plots that it has.
pub(super) struct ComparedRun {
    pub(super) run: RunSummary,
    pub(super) plots: Vec<String>,
}

/// Two runs side by side.
pub(super) fn compare(runs: &[ComparedRun; 2], check_property: CheckProperty) -> String {
    let both = [&runs[0].run, &runs[1].run];
    let differs = |a: &str, b: &str| if a == b { "" } else { "differs" };
    let results = both.iter().filter_map(|run| run.results.as_ref());
    let mut checks: Vec<&str> = Vec::new();
    for check_result in results.flat_map(|results| &results.checks) {
        if !checks.contains(&check_result.check.as_str()) {
            checks.push(&check_result.check);
        }
    }
    let plots: BTreeSet<&String> = runs.iter().flat_map(|run| &run.plots).collect();
    let content = html! {
        h1 { "Two runs" }
        table.compare {
            thead { tr { th {} @for run in both { th {
                a href=(format!("/run/{}/", run.id.path())) { (run.id.name) }
                br; small { (run.id.group) }
            } } } }
            tbody {
                tr { th scope="row" { "verdict" } @for run in both { td.verdict { (verdict(run)) } } }
                @for (title, text) in COMPARED {
                    @let texts = both.map(|run| text(&run.test));
                    tr class=(differs(&texts[0], &texts[1])) {
                        th scope="row" { (title) } @for text in &texts { td { (text) } }
                    }
                }
                @for (title, texts) in measurements(both) {
                    tr { th scope="row" { (title) } @for text in texts { td { (text) } } }
                }
                @for check in checks { tr {
                    @let property = crate::check_property(check).or_else(|| check_property(check));
                    th scope="row" title=[property] { (check) }
                    @for run in both { td { (compared_check(run, check)) } }
                } }
            }
        }
        div.pair { @for plot in plots { @for ComparedRun { run, plots } in runs { div {
            @if plots.contains(plot) {
                @let path = format!("/run/{}/{plot}", run.id.path());
                img src=(path) loading="lazy" alt=(format!("{plot} of {}", run.id.name));
            }
        } } } }
    };
    page("Two runs", &content)
}

/// Measurements of two runs, with their titles.
fn measurements(both: [&RunSummary; 2]) -> Vec<(String, [String; 2])> {
    let mut rows = vec![
        ("operations".to_owned(), both.map(|run| figure(run.operations()))),
        ("ok per second".to_owned(), both.map(|run| figure(run.measured(&["ok_per_second"])))),
    ];
    for f in ["get", "put", "del"] {
        for quantile in ["p50", "p95", "p99", "max"] {
            let latency =
                |run: &RunSummary| milliseconds(run.measured(&["latency_us", f, quantile]));
            rows.push((format!("{f} {quantile}, ms"), both.map(latency)));
        }
    }
    for when in ["during_faults", "between_faults"] {
        let share = |run: &RunSummary| {
            let share = run.measured(&["availability", when]);
            share.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0))
        };
        rows.push((format!("ok {}", when.replace('_', " ")), both.map(share)));
    }
    rows
}

/// The result of a check with its first finding.
fn compared_check(run: &RunSummary, check: &str) -> Markup {
    let Some(result) = run.results.as_ref().and_then(|results| results.check(check)) else {
        return html! { "–" };
    };
    let run_page = format!("/run/{}/{}", run.id.path(), PAGE);
    html! {
        (verdict_mark(result.verdict)) (result.verdict)
        @if let Some(first) = result.violations.first().or(result.unknown_because.first()) {
            p.first { (linked(&first.split_first_line().0, &run_page)) }
        }
    }
}

/// The page of a running test.
pub(super) fn live(run: &RunSummary) -> String {
    let path = run.id.path();
    let content = html! {
        h1 { span.mark.running aria-hidden="true" { "▸" } " " span #state { "Running" } }
        p { (run.id.group) " · " (run.id.name) }
        p.again { code { (run.test.command.as_deref().unwrap_or_default()) } }
        section #live data-run=(path) {
            p.big { span #clock { "0.0" } " s, " span #total { "0" } " operations, "
                span #faults-total { "0" } " faults" }
            canvas #rate height="120" aria-label="Operations per second" {}
            table { thead { tr { th { "operation" } th.n { "invoked" } th.n { "ok" } th.n { "fail" }
                th.n { "info" } } } tbody #counts {} }
            h2 { "Recent faults" }
            table { thead { tr { th.n { "at, s" } th { "action" } th { "fault" } th { "crash point or messages" }
                th.n { "in doubt" } th.n { "duration, ms" } } } tbody #faults {} }
        }
    };
    page("Running test", &content)
}

pub(super) fn unchecked(run: &RunSummary) -> String {
    let path = run.id.path();
    let content = html! {
        h1 { "No page yet" }
        p { (path) @if run.results.is_some() { " was checked, but its page was not written." }
            @else { " was not checked: the harness exited before." } }
        p { code { "harness check STORE/" (path) } " checks it and writes its page." }
        p { a href=(format!("/run/{path}/nodes")) { "Files of its nodes" } ", "
            a href=(format!("/run/{path}/history.jsonl")) { "history" } "." }
    };
    page("No page yet", &content)
}

pub(super) fn directory(path: &str, names: &[String]) -> String {
    let content = html! {
        h1 { (path) }
        ul { @for name in names { li { a href=(name) { (name) } } } }
    };
    page(path, &content)
}
