//! The tables of the page: operation counts, faults, and indeterminate operations.

use std::collections::BTreeMap;

use history::{Function, Operation};
use maud::{Markup, html};

use super::counted;
use crate::{
    FaultInterval, counterexample::describe, page_data::PageData, sections::Resolution,
    summary::Tally,
};

/// The most rows of a table that are written; further rows are counted.
const ROWS_MAX: usize = 200;

/// A number, or a dash if there is none.
fn number(n: Option<u64>) -> String {
    n.map_or_else(|| "–".to_owned(), |n| n.to_string())
}

fn further_rows(total: usize) -> Markup {
    html! { @if total > ROWS_MAX { p { (total - ROWS_MAX) " more are not listed." } } }
}

/// Operations by function, with their outcomes and latencies.
pub(super) fn counts(data: &PageData<'_>) -> Markup {
    let mut counts: BTreeMap<Function, [usize; 3]> = BTreeMap::new();
    for operation in data.run.operations {
        counts.entry(operation.f).or_default()[operation.outcome as usize] += 1;
    }
    let statistics = data.run.results.check("statistics").map(|check| &check.measured);
    let latency = |f: Function, quantile: &str| {
        let latencies = statistics?.get("latency_us")?.get(f.to_string())?;
        let us = latencies.get(quantile)?.as_f64()?;
        Some(format!("{:.1}", us / 1000.0))
    };
    html! {
        section #counts {
            h2 { "Operations" }
            div.scroll { table {
                thead { tr {
                    th { "operation" } th.n { "invoked" } th.n { "ok" } th.n { "fail" } th.n { "info" }
                    th.n { "p50, ms" } th.n { "p95, ms" } th.n { "p99, ms" } th.n { "max, ms" }
                } }
                tbody { @for (f, [ok, fail, info]) in &counts { tr {
                    th scope="row" { (f) } td.n { (ok + fail + info) } td.n { (ok) } td.n { (fail) }
                    td.n { (info) }
                    @for quantile in ["p50", "p95", "p99", "max"] {
                        td.n { (latency(*f, quantile).unwrap_or_else(|| "–".to_owned())) }
                    }
                } } }
            } }
        }
    }
}

/// The fault intervals, with the replicas in doubt and the recovery times.
pub(super) fn faults(data: &PageData<'_>) -> Markup {
    let ms = |from: u64, to: u64| format!("{:.0}", to.saturating_sub(from) as f64 / 1e6);
    html! {
        section #faults {
            h2 { "Faults and replicas in doubt" }
            @if data.faults.is_empty() {
                p { "None." }
            } @else {
                p { (counted(Tally::of(data.run.events).injections(), "fault")) " injected."
                    @let exits = data.faults.iter().filter(|fault| fault.is_exit()).count();
                    @if exits > 0 { " " (counted(exits as u64, "time"))
                        " a node exited by itself, which is no fault of the test." }
                    @if data.faults.iter().any(FaultInterval::is_without_effect) {
                        " What affected nothing is not counted." }
                }
                div.scroll { table {
                    thead { tr {
                        th.n { "at, s" } th { "fault" } th { "crash point or messages" }
                        th { "transaction" } th { "replicas in doubt" } th.n { "duration, ms" }
                        th.n title="from the end of the fault until no transaction was in doubt"
                            { "resolved, ms" }
                        th.n title="from the end of the fault until every node was ready"
                            { "all ready, ms" }
                    } }
                    // A node that is held at a crash point is then killed or paused there, which is the next row.
                    tbody { @for fault in data.faults.iter().filter(|it| !it.is_hold()).take(ROWS_MAX) { tr {
                        td.n { a href=(format!("#time={}", fault.from)) {
                            (format!("{:.3}", fault.from as f64 / 1e9)) } }
                        td { (fault.title()) small { " " (fault.fault) } }
                        td { @if fault.is_exit() { "–" } @else { (fault.at.as_deref().unwrap_or("at any time")) }
                            @if fault.is_without_effect() { small { " affected nothing" } }
                            @if fault.is_part { small { " part of the injection above" } } }
                        td { @if let Some(id) = &fault.txn {
                            a.transaction href=(format!("#transaction={id}")) { (id) } } }
                        td { (number(fault.in_doubt)) @if !fault.in_doubt_at.is_empty() {
                            ": " (fault.in_doubt_at.join(", ")) } }
                        td.n { (ms(fault.from, fault.to)) }
                        td.n { (number(fault.resolved_ms)) } td.n { (number(fault.ready_ms)) }
                    } } }
                } }
                (further_rows(data.faults.len()))
            }
        }
    }
}

/// The operations whose clients received no conclusive reply.
pub(super) fn indeterminate(data: &PageData<'_>) -> Markup {
    let operations = data.run.operations.iter().enumerate();
    let indeterminate: Vec<(usize, &Operation)> =
        operations.filter(|(_, operation)| operation.is_indeterminate()).collect();
    let resolutions = &data.sections.links.resolutions;
    html! {
        section #indeterminate {
            h2 { "Indeterminate operations" }
            @if indeterminate.is_empty() {
                p { "None." }
            } @else {
                p { "The client received no conclusive reply, so each may or may not have taken effect."
                    @if !resolutions.is_empty() {
                        " The last column is what the records of the nodes show in retrospect."
                    }
                }
                div.scroll { table {
                    thead { tr {
                        th.n { "index" } th.n { "at, s" } th.n { "process" } th { "operation" }
                        th { "error" } @if !resolutions.is_empty() { th { "recorded outcome" } }
                    } }
                    tbody { @for (number, operation) in indeterminate.iter().take(ROWS_MAX) { tr {
                        td.n { a href=(format!("#index={}", operation.invoked_index)) {
                            (operation.invoked_index) } }
                        td.n { (format!("{:.3}", operation.invoked as f64 / 1e9)) }
                        td.n { (operation.process) } td { code { (describe(operation)) } }
                        td { (operation.error.as_deref().unwrap_or("the run ended first")) }
                        @if !resolutions.is_empty() {
                            td { @if let Some(known) = resolutions.get(number) { (resolution(known)) } }
                        }
                    } } }
                } }
                (further_rows(indeterminate.len()))
            }
        }
    }
}

fn resolution(resolution: &Resolution) -> Markup {
    html! {
        (resolution.text)
        @if let Some(id) = &resolution.transaction {
            " as " a.transaction href=(format!("#transaction={id}")) { (id) }
        }
    }
}
