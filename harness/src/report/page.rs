//! The page of a run: one self-contained HTML file. It starts with the verdict and its reasons; a timeline
//! of the whole run follows. Text, tables and plots need no scripts; the script adds the timeline, the
//! search and the message diagram.

use std::{cmp::Reverse, collections::BTreeMap};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value as Json;
use system::protocol::TxnId;

use super::{
    citations::{Segment, segments},
    counterexample::{describe, figure},
    journals::Trace,
    page_data::PageData,
    plots::Plot,
};
use crate::{
    checker::{CheckResult, Validity},
    history::{Function, Operation, Outcome},
};

/// The style sheet that all pages share.
pub(crate) const THEME: &str = include_str!("theme.css");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The most rows of a table that are written; further rows are counted.
const ROWS_MAX: usize = 200;

/// The property that a check verifies.
pub(crate) fn check_property(check: &str) -> &'static str {
    match check {
        "linearizability" => {
            "Every operation appears to take effect at one moment between its invocation and its \
             completion."
        }
        "atomicity" => {
            "Every transaction commits at all replicas or at none, no decision is reversed (AC1 to \
             AC5), and the replicas are equal at the end."
        }
        "reads" => {
            "No replica serves a key while a write of it is in doubt, or before it has applied the \
             last committed write of it."
        }
        "durability" => {
            "At the end, every replica holds every acknowledged write or a later version of its key."
        }
        "reply-soundness" => {
            "A client is told Ok only if its write is committed, and Aborted only if it never takes \
             effect."
        }
        "conflicts" => "Every write aborted for a conflict overlaps another write of its key.",
        "convergence" => {
            "After the last fault is healed, all transactions are decided and all locks released \
             within the deadline."
        }
        "unexpected-exits" => {
            "No process exits unless the test stops it, and a node that must be refused is refused."
        }
        "faults" => "Every requested fault was injected.",
        "statistics" => "Operation counts, latency and availability.",
        "invariant-monitor" => "Every state that the simulator visits satisfies the invariants.",
        _ => "",
    }
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

/// The page.
pub(super) fn page(data: &PageData<'_>, plots: &[Plot]) -> String {
    let results = data.results;
    let name = data.test.get("name").and_then(Json::as_str).unwrap_or("a recorded run");
    let invalid = results.verdict == Validity::Invalid;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { (results.verdict) ": " (name) }
                style { (PreEscaped(THEME)) (PreEscaped(STYLE)) }
            }
            body {
                (header(data, name))
                main {
                    @if invalid { (violations(data)) }
                    (checks(data))
                    (timeline())
                    (transactions(data))
                    (counts(data))
                    (faults(data))
                    (indeterminate(data))
                    (plot_section(plots))
                    (footer(data))
                }
                script type="application/octet-stream" id="run" { (PreEscaped(&data.packed)) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

fn header(data: &PageData<'_>, name: &str) -> Markup {
    let results = data.results;
    let text = |field: &str| data.test.get(field).and_then(Json::as_str);
    let seconds = data.run.events.last().map_or(0.0, |event| event.time as f64 / 1e9);
    let injections = data.faults.iter().filter(|fault| fault.action != "hold").count();
    let broken: Vec<&str> = data
        .test
        .get("broken")
        .and_then(Json::as_array)
        .map(|rules| rules.iter().filter_map(Json::as_str).collect())
        .unwrap_or_default();
    html! {
        header.verdict.(results.verdict.to_string()) {
            p.crumb { (name) @if let Some(started) = text("started") { " · " (started) } }
            h1 { (verdict_mark(results.verdict)) span { (results.verdict) } }
            p.outcome { (verdict_sentence(data)) }
            p.facts {
                (counted(data.run.operations.len() as u64, "operation")) " by "
                (counted(data.concurrency(), "client")) " in " (format!("{seconds:.1}")) " s, "
                (counted(data.run.description.replicas.into(), "replica")) ", "
                @if injections == 0 { "no faults" } @else { (counted(injections as u64, "fault")) }
                "."
                @if !broken.is_empty() {
                    " A protocol rule was disabled (--break): "
                    strong { (broken.join(", ")) } "."
                }
            }
            @if let Some(command) = text("command") {
                p.command { "Repeat with " code { (command) } }
            }
        }
    }
}

/// A count with its noun, in singular or plural.
fn counted(count: u64, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{s}")
}

/// The verdict in a sentence.
fn verdict_sentence(data: &PageData<'_>) -> Markup {
    let checks = &data.results.checks;
    let of = |verdict| checks.iter().filter(move |check| check.verdict == verdict);
    let names =
        |verdict| of(verdict).map(|check| check.check.as_str()).collect::<Vec<_>>().join(", ");
    match data.results.verdict {
        Validity::Valid => html! { "All " (checks.len()) " checks passed." },
        Validity::Unknown => html! { "Undetermined: " (names(Validity::Unknown)) "." },
        Validity::Invalid => html! {
            (of(Validity::Invalid).count()) " of " (checks.len()) " checks failed: "
            (names(Validity::Invalid)) "."
        },
    }
}

/// A sentence with links to the transactions and journal lines that it mentions.
pub(crate) fn linked(sentence: &str) -> Markup {
    html! {
        @for segment in segments(sentence) {
            @match segment {
                Segment::Text(text) => { (text) }
                Segment::Txn(txn) => { a.txn href=(format!("#txn={txn}")) { (txn) } }
                Segment::Line(node, line, text) => {
                    a.line href=(format!("#line={node}:{line}")) { (text) }
                }
            }
        }
    }
}

/// The counterexamples and the first violation of each failed check.
fn violations(data: &PageData<'_>) -> Markup {
    let operations = &data.run.operations;
    let others = data.results.checks.iter().filter(|check| {
        check.verdict == Validity::Invalid
            && (check.check != "linearizability" || data.broken.is_empty())
    });
    html! {
        section #violations {
            h2 { "Violations" }
            @for (broken, at) in data.broken.iter().take(3).zip(0..) {
                article.counterexample {
                    h3 { "The history of " code { (broken.explanation.key) } " is not linearizable" }
                    p.reason { (capitalized(&broken.explanation.sentence)) "." }
                    (figure(broken, operations))
                    (prefix(broken, operations))
                    p.script-only {
                        button type="button" data-counterexample=(at) { "Show in the timeline" }
                    }
                }
            }
            @if data.broken.len() > 3 {
                p { (data.broken.len() - 3) " more keys are not linearizable; see the check below." }
            }
            @for check_result in others {
                article.violation {
                    h3 { (capitalized(&check_result.check)) }
                    @if let Some(sentence) = check_result.violations.first() {
                        p.reason { (linked(sentence)) "." }
                    }
                    @if check_result.violations_total > 1 {
                        p.more { "The first of " (check_result.violations_total) " violations; the check below lists more." }
                    }
                }
            }
        }
    }
}

/// The end of the longest linearizable prefix.
fn prefix(
    broken: &crate::checker::linearizability::NonLinearizableKey,
    operations: &[Operation],
) -> Markup {
    const SHOWN: usize = 8;
    let last = broken.prefix.len().saturating_sub(SHOWN);
    html! {
        @if !broken.prefix.is_empty() {
            p { "Up to that point the history is linearizable. The numbered points in the figure are "
                "one possible linearization; it ends with:" }
            ol.order start=(last + 1) {
                @for number in &broken.prefix[last..] {
                    @let operation = &operations[*number as usize];
                    li { (describe(operation)) small { " p" (operation.process) } }
                }
                li.unplaced { (describe(&operations[broken.breaks_at as usize]))
                    small { " p" (operations[broken.breaks_at as usize].process) " cannot be placed" } }
            }
        }
    }
}

fn capitalized(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

fn checks(data: &PageData<'_>) -> Markup {
    let mut checks: Vec<&CheckResult> = data.results.checks.iter().collect();
    checks.sort_by_key(|check| Reverse(check.verdict));
    html! {
        section #checks {
            h2 { "Checks" }
            div.checks {
                @for check_result in checks { (check(check_result)) }
            }
        }
    }
}

fn check(check_result: &CheckResult) -> Markup {
    const SHOWN: usize = 3;
    let CheckResult { check, verdict, violations, violations_total, unknown_because, .. } =
        check_result;
    let item = |text: &String| {
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        html! { li { (linked(first)) @if !rest.is_empty() { pre { (rest) } } } }
    };
    html! {
        div.check.(verdict.to_string()) id=(format!("check-{check}")) {
            h3 { (verdict_mark(*verdict)) (check) span.result { (verdict) } }
            p.property { (check_property(check)) }
            @if !violations.is_empty() {
                ul.findings { @for text in violations.iter().take(SHOWN) { (item(text)) } }
            }
            @if violations.len() > SHOWN {
                details {
                    summary { (violations_total - SHOWN) " more" }
                    ul.findings { @for text in violations.iter().skip(SHOWN) { (item(text)) } }
                    @if *violations_total > violations.len() {
                        p { "Only the first " (violations.len()) " are listed." }
                    }
                }
            }
            @if !unknown_because.is_empty() {
                ul.findings { @for reason in unknown_because { li { (linked(reason)) } } }
            }
        }
    }
}

fn timeline() -> Markup {
    let key = |class: &str, text: &str| html! { li { i.(class) {} (text) } };
    html! {
        section #timeline {
            h2 { "Timeline" }
            noscript {
                p { "The timeline and the message diagram need JavaScript. The rest of the page does not." }
            }
            div.script-only {
                form.tools {
                    input type="search" name="find" size="22" autocomplete="off" aria-label="Search"
                        placeholder="key, transaction, process, index";
                    select name="key" aria-label="Filter by key" { option value="" { "all keys" } }
                    button type="button" data-action="first-error" { "First error" }
                    button type="button" data-action="previous-fault" aria-label="Previous fault" { "‹ fault" }
                    button type="button" data-action="next-fault" aria-label="Next fault" { "fault ›" }
                    button type="button" data-action="zoom-in" aria-label="Zoom in" { "+" }
                    button type="button" data-action="zoom-out" aria-label="Zoom out" { "−" }
                    button type="button" data-action="whole-run" { "Whole run" }
                    output name="status" {}
                }
                canvas #overview height="46" aria-label="Overview of the whole run. Drag to select a time range" {}
                div #lanes tabindex="0" role="application"
                    aria-label="Timeline. Arrow keys pan, plus and minus zoom, e shows the first error" {
                    div #names {}
                    canvas #canvas {}
                }
                ul.legend {
                    (key("ok", "ok"))
                    (key("fail", "fail: no effect"))
                    (key("info", "info: indeterminate"))
                    (key("pending", "PREPARE not durable"))
                    (key("in-doubt", "in doubt, key locked"))
                    (key("applied", "applied"))
                    (key("aborted", "aborted"))
                    (key("force", "log force"))
                    (key("down", "node down or paused"))
                }
                p.hint { "Drag or use the arrow keys to pan. Ctrl + wheel or + and − to zoom. "
                    kbd { "0" } " whole run, " kbd { "e" } " first error, " kbd { "n" } " " kbd { "p" } " next and previous fault, " kbd { "/" } " search, "
                    "click to pin the details, " kbd { "Esc" } " to unpin." }
                pre #detail aria-live="polite" { "Hover over an operation, a fault or a transaction to see its details." }
            }
        }
    }
}

fn transactions(data: &PageData<'_>) -> Markup {
    html! {
        section #messages {
            h2 { "Messages of a transaction" }
            @if let (Some(txn), true) = (data.first, !data.traces.is_empty()) {
                form.tools.script-only {
                    label { "Transaction " select name="transaction" {} }
                    button type="button" data-action="show-transaction" { "Show in the timeline" }
                }
                div #diagram.script-only {}
                @if let Some(trace) = data.traces.get(&txn) {
                    details #trace {
                        summary { "Transaction " (txn) " as text" }
                        (trace_list(data, txn, trace))
                    }
                    noscript { (trace_list(data, txn, trace)) }
                }
            } @else {
                p { "The journals record no transaction." }
            }
        }
    }
}

/// A trace as text, one line per event.
fn trace_list(data: &PageData<'_>, txn: TxnId, trace: &Trace) -> Markup {
    let mut lines: BTreeMap<(i64, usize), String> = BTreeMap::new();
    let mut n = 0;
    let mut add = |t: i64, text: String| {
        n += 1;
        lines.insert((t, n), text);
    };
    for event in &trace.events {
        add(event.t, format!("{}: {}", event.node, event.text));
    }
    for message in &trace.messages {
        let end = match (message.sent, message.received) {
            (Some((sent, _)), Some((received, _))) => {
                format!("received after {:.3} ms", (received - sent) as f64 / 1e6)
            }
            (Some(_), None) => "never received".to_owned(),
            _ => "received, a duplicate".to_owned(),
        };
        add(
            message.time(),
            format!("{} to {}: {} ({end})", message.from, message.to, message.text),
        );
    }
    let operation = data.operation_of(txn);
    html! {
        @if let Some(operation) = operation {
            p { "Operation " (describe(operation)) " of process " (operation.process) ", outcome "
                (outcome(operation.outcome)) "." }
        }
        ol.trace {
            @for ((t, _), text) in &lines {
                li { time { (format!("{:.6}", *t as f64 / 1e9)) " s" } " " (text) }
            }
        }
        @if trace.left_out > 0 { p { (trace.left_out) " more events in the middle are omitted." } }
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Fail => "fail",
        Outcome::Info => "info",
    }
}

fn counts(data: &PageData<'_>) -> Markup {
    let mut counts: BTreeMap<Function, [usize; 3]> = BTreeMap::new();
    for operation in &data.run.operations {
        counts.entry(operation.f).or_default()[operation.outcome as usize] += 1;
    }
    let measured = data.results.check("statistics").map(|check_result| &check_result.measured);
    let latency = |f: Function, name: &str| {
        let of = measured?.get("latency_us")?.get(f.to_string())?;
        let us = of.get(name)?.as_f64()?;
        Some(format!("{:.1}", us / 1000.0))
    };
    html! {
        section #counts {
            h2 { "Operations" }
            table {
                thead { tr {
                    th { "operation" } th.n { "invoked" } th.n { "ok" } th.n { "fail" } th.n { "info" }
                    th.n { "p50, ms" } th.n { "p95, ms" } th.n { "p99, ms" } th.n { "max, ms" }
                } }
                tbody { @for (f, [ok, fail, info]) in &counts { tr {
                    th scope="row" { (f) } td.n { (ok + fail + info) } td.n { (ok) } td.n { (fail) }
                    td.n { (info) }
                    @for name in ["p50", "p95", "p99", "max"] {
                        td.n { (latency(*f, name).unwrap_or_else(|| "–".to_owned())) }
                    }
                } } }
            }
        }
    }
}

fn faults(data: &PageData<'_>) -> Markup {
    let ms = |from: u64, to: u64| format!("{:.0}", to.saturating_sub(from) as f64 / 1e6);
    let number = |n: Option<u64>| n.map_or_else(|| "–".to_owned(), |n| n.to_string());
    html! {
        section #faults {
            h2 { "Faults and replicas in doubt" }
            @if data.faults.is_empty() {
                p { "None." }
            } @else {
                div.scroll { table {
                    thead { tr {
                        th.n { "at, s" } th { "fault" } th { "crash point or messages" } th { "transaction" }
                        th { "replicas in doubt" } th.n { "duration, ms" }
                        th.n title="from the end of the fault until no transaction was in doubt" { "resolved, ms" }
                        th.n title="from the end of the fault until every node was ready" { "all ready, ms" }
                    } }
                    tbody { @for fault in data.faults.iter().take(ROWS_MAX) { tr {
                        td.n { a href=(format!("#time={}", fault.from)) {
                            (format!("{:.3}", fault.from as f64 / 1e9)) } }
                        td { (fault.title()) small { " " (fault.fault) } }
                        td { (fault.at.as_deref().unwrap_or("at any time")) }
                        td { @if let Some(txn) = &fault.txn {
                            a.txn href=(format!("#txn={txn}")) { (txn) } } }
                        td { (number(fault.in_doubt)) @if !fault.in_doubt_at.is_empty() {
                            ": " (fault.in_doubt_at.join(", ")) } }
                        td.n { (ms(fault.from, fault.to)) }
                        td.n { (number(fault.resolved_ms)) } td.n { (number(fault.ready_ms)) }
                    } } }
                } }
                @if data.faults.len() > ROWS_MAX {
                    p { (data.faults.len() - ROWS_MAX) " more are not listed." }
                }
            }
        }
    }
}

fn indeterminate(data: &PageData<'_>) -> Markup {
    let all: Vec<&Operation> =
        data.run.operations.iter().filter(|operation| operation.outcome == Outcome::Info).collect();
    let resolutions = resolutions(data, &all);
    html! {
        section #indeterminate {
            h2 { "Indeterminate operations" }
            @if all.is_empty() {
                p { "None." }
            } @else {
                p { "The client received no conclusive reply, so each may or may not have taken effect. "
                    "The last column is what the journals show in retrospect." }
                div.scroll { table {
                    thead { tr {
                        th.n { "index" } th.n { "at, s" } th.n { "process" } th { "operation" }
                        th { "error" } th { "according to the journals" }
                    } }
                    tbody { @for (operation, resolution) in all.iter().zip(&resolutions).take(ROWS_MAX) { tr {
                        td.n { a href=(format!("#index={}", operation.invoked_index)) {
                            (operation.invoked_index) } }
                        td.n { (format!("{:.3}", operation.invoked as f64 / 1e9)) }
                        td.n { (operation.process) } td { code { (describe(operation)) } }
                        td { (operation.error.as_deref().unwrap_or("the run ended first")) }
                        td { (resolution) }
                    } } }
                } }
                @if all.len() > ROWS_MAX { p { (all.len() - ROWS_MAX) " more are not listed." } }
            }
        }
    }
}

/// What the journals show about indeterminate operations. A put is recognised by its value, which is
/// unique.
fn resolutions(data: &PageData<'_>, operations: &[&Operation]) -> Vec<Markup> {
    let transactions = &data.run.evidence.transactions.by_id;
    let by_value: BTreeMap<String, TxnId> = transactions
        .iter()
        .filter_map(|(txn, t)| Some((t.write.as_ref()?.value.as_ref()?.to_string(), *txn)))
        .collect();
    let mut resolutions = Vec::new();
    for operation in operations {
        let txn = operation.value.as_ref().and_then(|value| by_value.get(value));
        let txn = txn.filter(|_| operation.f == Function::Put);
        resolutions.push(match txn.and_then(|txn| Some((txn, transactions.get(txn)?))) {
            Some((txn, transaction)) => {
                let outcome = match (transaction.commit(), transaction.aborted.is_empty()) {
                    (Some(_), true) => "committed",
                    (Some(_), false) => "committed and aborted",
                    (None, false) => "aborted",
                    (None, true) => "undecided",
                };
                html! { (outcome) " as " a.txn href=(format!("#txn={txn}")) { (txn) } }
            }
            None if operation.f == Function::Put => html! { "never prepared" },
            None => html! { "not identifiable" },
        });
    }
    resolutions
}

fn plot_section(plots: &[Plot]) -> Markup {
    html! {
        section #plots {
            h2 { "Latency and throughput" }
            @for plot in plots {
                figure {
                    figcaption { strong { (plot.title) } " " (plot.note) }
                    (PreEscaped(&plot.svg))
                }
            }
            p.hint { "Fault intervals are shaded." }
        }
    }
}

fn footer(data: &PageData<'_>) -> Markup {
    html! {
        footer {
            @if data.run.torn { p { "The history is truncated: the harness was killed." } }
            @if !data.left_out.is_empty() {
                p { "To limit its size, this page omits data: " (data.left_out.join("; ")) "." }
            }
            p { "Files of this run: " @for (name, number) in
                ["history.jsonl", "results.json", "test.json", "final.json", "nodes"].iter().zip(0..) {
                @if number > 0 { ", " } a href=(name) { (name) }
            } "." }
        }
    }
}
