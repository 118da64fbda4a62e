//! The sections that the script fills: the timeline and the messages of a transaction. The first trace is
//! written as text as well, for readers without scripts.

use maud::{Markup, html};

use super::outcome_name;
use crate::{
    counterexample::describe,
    page_data::PageData,
    sections::{Term, Trace},
};

/// The timeline with its tools and its legend.
pub(super) fn timeline(data: &PageData<'_>) -> Markup {
    html! {
        section #timeline {
            h2 { "Timeline" }
            noscript {
                p { "The timeline and the message diagram need JavaScript. The rest of the page does not." }
            }
            div.script-only {
                (tools())
                canvas #overview height="46"
                    aria-label="Overview of the whole run. Drag to select a time range" {}
                div #lanes tabindex="0" role="application"
                    aria-label="Timeline. Arrow keys pan, plus and minus zoom, e shows the first error" {
                    div #names {}
                    canvas #canvas {}
                }
                (legend(data))
                p.hint {
                    "Drag or use the arrow keys to pan, Ctrl + wheel or " kbd { "+" } " " kbd { "−" }
                    " to zoom, " kbd { "0" } " for the whole run. " kbd { "e" } " shows the first error, "
                    kbd { "n" } " and " kbd { "p" } " the next and the previous fault, " kbd { "/" }
                    " searches. Click to pin the details, " kbd { "Esc" } " to unpin them."
                }
                pre #detail aria-live="polite" {}
            }
        }
    }
}

fn tools() -> Markup {
    html! {
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
    }
}

fn legend(data: &PageData<'_>) -> Markup {
    html! {
        ul.legend {
            @if !data.errors.is_empty() { li { i.error {} "a violation" } }
            li { i.ok {} "ok" }
            li { i.ok.get {} "ok: a get" }
            li { i.fail {} "fail: no effect" }
            li { i.info {} "info: indeterminate" }
            @for entry in &data.sections.legend {
                li { i.(entry.swatch.name()).(entry.tone.name()) {} (entry.text) }
            }
            @if !data.sections.lanes.is_empty() { li { i.hatched {} "node down or paused" } }
            @if data.faults.iter().any(|fault| fault.recovered.is_some()) {
                li { i.down.line {} "until every node was ready and none in doubt" }
            }
        }
    }
}

/// The message diagram, with the first trace as text.
pub(super) fn messages(data: &PageData<'_>, glossary: &[Term]) -> Markup {
    let sections = &data.sections;
    let first = sections.first_transaction.as_ref();
    let first = first.and_then(|id| sections.traces.iter().find(|t| t.transaction == *id));
    html! {
        @if let Some(trace) = first {
            section #messages {
                h2 { "Messages of a transaction" }
                form.tools.script-only {
                    label { "Transaction " select name="transaction" {} }
                    button type="button" data-action="show-transaction" { "Show in the timeline" }
                }
                @if !glossary.is_empty() {
                    details #glossary {
                        summary { "What the words in the diagram mean" }
                        dl.terms { @for (name, meaning) in glossary { div { dt { (name) ": " } dd { (meaning) } } } }
                    }
                }
                div #diagram.script-only {}
                details #trace.script-only { summary {} div.words {} }
                noscript { (trace_text(data, trace)) }
            }
        }
    }
}

/// A trace as text, one line per event.
fn trace_text(data: &PageData<'_>, trace: &Trace) -> Markup {
    let events = trace.events.iter();
    let mut lines: Vec<(i64, String)> =
        events.map(|event| (event.time, format!("{}: {}", event.node, event.text))).collect();
    for message in &trace.messages {
        let arrival = match (message.sent, message.received) {
            (Some(sent), Some(received)) => {
                let ns = received.time.saturating_sub(sent.time);
                format!("received after {:.3} ms", ns as f64 / 1e6)
            }
            (Some(_), None) => "never received".to_owned(),
            (None, _) => "received a second time, or its sending is not recorded".to_owned(),
        };
        let text = format!("{} to {}: {} ({arrival})", message.from, message.to, message.text);
        lines.push((message.time(), text));
    }
    lines.sort_by_key(|(time, _)| *time);
    let operation = trace.operation.and_then(|number| data.run.operations.get(number));
    html! {
        p { "Transaction " (trace.transaction) " in words:" }
        @if let Some(operation) = operation {
            p { "Operation " (describe(operation)) " of process " (operation.process) ", outcome "
                (outcome_name(operation.outcome)) "." }
        }
        ol.trace {
            @for (time, text) in &lines {
                li { time { (format!("{:.6}", *time as f64 / 1e9)) " s" } " " (text) }
            }
        }
        @if trace.omitted > 0 { p { (trace.omitted) " more events in the middle are omitted." } }
    }
}
