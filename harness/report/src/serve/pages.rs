//! Renders the pages of the server.

use std::collections::BTreeSet;

use checker::Validity;
use maud::{DOCTYPE, Markup, html};

use super::CheckProperty;
use crate::{
    PAGE,
    compare::{ComparedRow, check_names, compare},
    links::linked,
    plots,
    store::{RunId, RunSummary, readable_time},
    verdict_mark,
};

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
        None if run.judging => {
            html! { span.mark.running aria-hidden="true" { "▸" } "being judged" }
        }
        None if run.failed.is_some() => {
            html! { span.mark.none aria-hidden="true" { "!" } "not made" }
        }
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
    let of = |state: fn(&RunSummary) -> bool| {
        runs.iter().filter(|run| run.verdict().is_none() && state(run)).count()
    };
    let others = [
        (of(|run| run.running), "running"),
        (of(|run| run.judging), "being judged"),
        (of(|run| run.failed.is_some()), "could not be made"),
        (of(|run| !run.running && !run.judging && run.failed.is_none()), "not checked"),
    ];
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
    html! { tr {
        td { input type="checkbox" name="run" value=(path) aria-label=(format!("compare {path}")); }
        td.verdict { (verdict(run)) }
        td data-sort=(run.id.name) {
            a href=(format!("/run/{path}/")) title=(run.id.name) { (readable_time(&run.id.name)) }
        }
        td data-label="faults" {
            (folded_faults(&run.test.faults))
            @if let Some(why) = &run.failed { p.first { (why) } }
        }
        td data-label=[(!run.test.broken.is_empty()).then_some("disabled rule")] {
            (run.test.broken.join(", ")) }
        td.n data-label="seed" { @if let Some(seed) = run.test.seed { (seed) } }
        td.n data-label="operations" { (figure(run.operations())) }
        td.n data-label="seconds" { (figure(run.measured(&["seconds"]))) }
        td.n data-label="ok per second" { (figure(run.measured(&["ok_per_second"]))) }
        td.n data-label="put p99, ms" { (milliseconds(run.measured(&["latency_us", "put", "p99"]))) }
        td { a href=(format!("/archive/{path}.tar.gz")) download { "tar.gz" } }
    } }
}

/// The most faults of a run that are listed without a click.
const FAULTS_SHOWN: usize = 3;

/// Names of faults, folded if there are many.
fn folded_faults(faults: &[String]) -> Markup {
    let all = faults.join(", ");
    html! {
        @if faults.is_empty() { "none" }
        @else if faults.len() <= FAULTS_SHOWN { (all) }
        @else {
            details.faults {
                summary { (faults[..FAULTS_SHOWN - 1].join(", ")) " and " (faults.len() + 1 - FAULTS_SHOWN) " more" }
                (all)
            }
        }
    }
}

/// A run that is compared, and the plots that it has.
pub(super) struct ComparedRun {
    pub(super) run: RunSummary,
    pub(super) plots: Vec<String>,
}

/// Two runs side by side.
pub(super) fn comparison(runs: &[ComparedRun; 2], check_property: CheckProperty) -> String {
    let both = [&runs[0].run, &runs[1].run];
    let files: BTreeSet<&String> = runs.iter().flat_map(|run| &run.plots).collect();
    let content = html! {
        h1 { "Two runs" }
        div.wide { table.compare {
            thead { tr { th {} @for run in both { th {
                a href=(format!("/run/{}/", run.id.path())) title=(run.id.name) {
                    (readable_time(&run.id.name)) }
                br; small { (run.id.group) }
            } } th { "difference" } } }
            tbody {
                tr { th scope="row" { "verdict" } @for run in both { td.verdict { (verdict(run)) } } td {} }
                @for group in compare(both) {
                    tr.group { th colspan="4" scope="rowgroup" { (group.title) } }
                    @for ComparedRow { title, texts, difference } in &group.rows {
                        @let is_other = difference.is_empty() && texts[0] != texts[1];
                        tr.differs[is_other] {
                            th scope="row" { (title) }
                            @for text in texts { td {
                                @if text.is_empty() { "–" }
                                @else if title == "faults" {
                                    (folded_faults(&text.split(", ").map(str::to_owned).collect::<Vec<_>>())) }
                                @else { (text) }
                            } }
                            td.difference { (difference) }
                        }
                    }
                }
                tr.group { th colspan="4" scope="rowgroup" { "checks" } }
                @for check in check_names(both) { tr {
                    @let property = crate::check_property(check).or_else(|| check_property(check));
                    th scope="row" title=[property] { (check) }
                    @for run in both { td { (compared_check(run, check)) } } td {}
                } }
            }
        } }
        @for plot in files {
            h2 { (plot_title(plot)) }
            @if !plots::SHARED.contains(&plot.as_str()) { p.hint { "Each with its own axes." } }
            div.pair { @for ComparedRun { run, plots } in runs { figure {
                figcaption { (readable_time(&run.id.name)) }
                @if plots.contains(plot) {
                    img src=(plot_address(both, run, plot)) loading="lazy" alt=(format!("{plot} of {}", run.id.name));
                } @else { p { "none" } }
            } } }
        }
    };
    page("Two runs", &content)
}

/// The title of a plot, by its file.
fn plot_title(file: &str) -> String {
    match file {
        "latency.svg" => "Latency of each operation".to_owned(),
        "quantiles.svg" => "Latency quantiles".to_owned(),
        "rate.svg" => "Completed operations per second".to_owned(),
        "in-doubt.svg" => "Transactions in doubt by replica".to_owned(),
        other => other.trim_end_matches(".svg").to_owned(),
    }
}

/// Where a plot of a run is, drawn with the axes that it has in common with the other run.
fn plot_address(both: [&RunSummary; 2], run: &RunSummary, plot: &str) -> String {
    let other = both.into_iter().find(|other| other.id != run.id).unwrap_or(run);
    format!("/plot/{}/{plot}?axes={}", run.id.path(), other.id.path())
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
        p { (run.id.group) " · " span title=(run.id.name) { (readable_time(&run.id.name)) " UTC" } }
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

/// The page of a run that has none: it could not be made, or was never checked. `logs` are the last lines of the
/// nodes' logs.
pub(super) fn unchecked(run: &RunSummary, logs: &[(String, String)]) -> String {
    let path = run.id.path();
    if let Some(why) = &run.failed {
        let content = html! {
            h1 { "This run could not be made" }
            p { (run.id.group) " · " span title=(run.id.name) { (readable_time(&run.id.name)) " UTC" } }
            p.why { (why) "." }
            @if !logs.is_empty() {
                p { "The logs of its nodes end:" }
                ul { @for (node, line) in logs { li { strong { (node) } ": " code { (line) } } } }
            }
            p { a href=(format!("/run/{path}/nodes/")) { "Files of its nodes" } "." }
        };
        return page("A run that could not be made", &content);
    }
    let content = html! {
        h1 { "No page yet" }
        p { (path) @if run.results.is_some() { " was checked, but its page was not written." }
            @else { " was not checked: the harness exited before." } }
        p { code { "harness check STORE/" (path) } " checks it and writes its page." }
        p { a href=(format!("/run/{path}/nodes/")) { "Files of its nodes" } ", "
            a href=(format!("/run/{path}/history.jsonl")) { "history" } "." }
    };
    page("No page yet", &content)
}

pub(super) fn directory(id: &RunId, path: &str, names: &[String]) -> String {
    let content = html! {
        p { a href=(format!("/run/{}/", id.path())) { "The run of " (readable_time(&id.name)) } }
        h1 { (path) }
        ul { @for name in names { li { a href=(name) { (name) } } } }
    };
    page(path, &content)
}
