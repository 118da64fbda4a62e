//! A run as one HTML file that needs nothing else: the verdict first, then why, then everything
//! that happened on one axis of time. What is told in words and tables is there without scripts;
//! `page.js` adds what can be moved. Finds nothing out: it shows what a scene holds.

use std::{cmp::Reverse, collections::BTreeMap};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value as Json;
use system::protocol::TxnId;

use super::{
    cite::{Piece, pieces},
    figure::{figure, words},
    journals::Story,
    plots::Plot,
    scene::Scene,
};
use crate::{
    checker::{CheckResult, Validity},
    history::{Function, Operation, Outcome},
};

/// What all pages of the harness look like.
pub(crate) const THEME: &str = include_str!("theme.css");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Rows of a table that are written out; the rest is counted.
const ROWS_MAX: usize = 200;

/// What a check asks, in words.
pub(crate) fn about(check: &str) -> &'static str {
    match check {
        "linearizability" => {
            "Could clients have seen what they saw if every operation had taken effect at one \
             moment between its beginning and its end?"
        }
        "atomicity" => {
            "Did every transaction happen at all replicas or at none, by decisions that nobody \
             reversed (AC1 to AC5), and do the replicas hold the same in the end?"
        }
        "reads" => {
            "Did no replica serve a key that it was in doubt about, or whose last decided write it \
             lacked?"
        }
        "durability" => {
            "Is every write that was answered Ok held by every replica, or overwritten?"
        }
        "reply-soundness" => {
            "Was every client told the truth: Ok only for what is committed, Aborted only for what \
             never takes effect?"
        }
        "conflicts" => "Did every abort for a conflict overlap another write of its key?",
        "convergence" => {
            "Was everything decided and unlocked soon after the last fault was healed?"
        }
        "unexpected-exits" => "Did no process end that nobody ended?",
        "faults" => "Did every fault that was asked for really happen?",
        "statistics" => "What was done, and how long it took.",
        "invariant-monitor" => {
            "Did every state that the simulator went through have what every state must?"
        }
        _ => "",
    }
}

/// A mark for a verdict that differs in shape as well as in colour.
pub(crate) fn mark(verdict: Validity) -> Markup {
    let (class, sign) = match verdict {
        Validity::Valid => ("valid", "✓"),
        Validity::Unknown => ("unknown", "?"),
        Validity::Invalid => ("invalid", "✕"),
    };
    html! { span.mark.(class) aria-hidden="true" { (sign) } }
}

/// The page.
pub(super) fn page(scene: &Scene<'_>, plots: &[Plot]) -> String {
    let results = scene.results;
    let name = scene.test.get("name").and_then(Json::as_str).unwrap_or("a recorded run");
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
                (header(scene, name))
                main {
                    @if invalid { (wrong(scene)) }
                    (checks(scene))
                    (timeline())
                    (messages(scene))
                    (counts(scene))
                    (faults(scene))
                    (indeterminate(scene))
                    (pictures(plots))
                    (ending(scene))
                }
                script type="application/octet-stream" id="run" { (PreEscaped(&scene.packed)) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

fn header(scene: &Scene<'_>, name: &str) -> Markup {
    let results = scene.results;
    let text = |field: &str| scene.test.get(field).and_then(Json::as_str);
    let seconds = scene.run.events.last().map_or(0.0, |event| event.time as f64 / 1e9);
    let strikes = scene.windows.iter().filter(|window| window.action != "hold").count();
    let broken: Vec<&str> = scene
        .test
        .get("broken")
        .and_then(Json::as_array)
        .map(|rules| rules.iter().filter_map(Json::as_str).collect())
        .unwrap_or_default();
    html! {
        header.verdict.(results.verdict.to_string()) {
            p.crumb { (name) @if let Some(started) = text("started") { " · " (started) } }
            h1 { (mark(results.verdict)) span { (results.verdict) } }
            p.gist { (gist(scene)) }
            p.facts {
                (counted(scene.run.operations.len() as u64, "operation")) " by "
                (counted(scene.concurrency(), "client")) " in " (format!("{seconds:.1}")) " s, "
                (counted(scene.run.description.replicas.into(), "replica")) ", "
                @if strikes == 0 { "no faults" } @else { (counted(strikes as u64, "fault")) }
                "."
                @if !broken.is_empty() {
                    " Made with a rule of the protocol switched off: "
                    strong { (broken.join(", ")) } "."
                }
            }
            @if let Some(command) = text("command") {
                p.again { "Again with " code { (command) } }
            }
        }
    }
}

/// So many of them, in words.
fn counted(count: u64, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}

/// The verdict in a sentence.
fn gist(scene: &Scene<'_>) -> Markup {
    let checks = &scene.results.checks;
    let of = |verdict| checks.iter().filter(move |check| check.verdict == verdict);
    let names =
        |verdict| of(verdict).map(|check| check.check.as_str()).collect::<Vec<_>>().join(", ");
    match scene.results.verdict {
        Validity::Valid => html! { "All " (checks.len()) " checks hold." },
        Validity::Unknown => html! { "It cannot be said: " (names(Validity::Unknown)) "." },
        Validity::Invalid => html! {
            (of(Validity::Invalid).count()) " of " (checks.len()) " checks fail: "
            (names(Validity::Invalid)) "."
        },
    }
}

/// A sentence whose transactions and lines of journals lead to them.
pub(crate) fn cited(sentence: &str) -> Markup {
    html! {
        @for piece in pieces(sentence) {
            @match piece {
                Piece::Text(text) => { (text) }
                Piece::Txn(txn) => { a.txn href=(format!("#txn={txn}")) { (txn) } }
                Piece::Line(node, line, text) => {
                    a.line href=(format!("#line={node}:{line}")) { (text) }
                }
            }
        }
    }
}

/// The counterexample: what an invalid run is looked at for.
fn wrong(scene: &Scene<'_>) -> Markup {
    let operations = &scene.run.operations;
    let others = scene.results.checks.iter().filter(|check| {
        check.verdict == Validity::Invalid
            && (check.check != "linearizability" || scene.broken.is_empty())
    });
    html! {
        section #wrong {
            h2 { "What went wrong" }
            @for (broken, at) in scene.broken.iter().take(3).zip(0..) {
                article.counterexample {
                    h3 { "What clients saw of " code { (broken.explanation.key) } " has no order" }
                    p.why { (capital(&broken.explanation.sentence)) "." }
                    (figure(broken, operations))
                    (prefix(broken, operations))
                    p.script-only {
                        button type="button" data-broken=(at) { "Show it in the timeline" }
                    }
                }
            }
            @if scene.broken.len() > 3 {
                p { "And " (scene.broken.len() - 3) " more keys; see the check below." }
            }
            @for check_result in others {
                article.violation {
                    h3 { (capital(&check_result.check)) " is broken" }
                    @if let Some(sentence) = check_result.violations.first() {
                        p.why { (cited(sentence)) "." }
                    }
                    @if check_result.violations_total > 1 {
                        p.more { "The first of " (check_result.violations_total) "; the others stand "
                            "under the check below." }
                    }
                }
            }
        }
    }
}

/// The end of the longest prefix that has an order.
fn prefix(
    broken: &crate::checker::linearizability::NonLinearizableKey,
    operations: &[Operation],
) -> Markup {
    const TOLD: usize = 8;
    let last = broken.prefix.len().saturating_sub(TOLD);
    html! {
        @if !broken.prefix.is_empty() {
            p { "Until then there was an order; the numbers in the picture stand at moments at which "
                "the operations can have taken effect. It ended like this:" }
            ol.order start=(last + 1) {
                @for number in &broken.prefix[last..] {
                    @let operation = &operations[*number as usize];
                    li { (words(operation)) small { " p" (operation.process) } }
                }
                li.stuck { (words(&operations[broken.breaks_at as usize]))
                    small { " p" (operations[broken.breaks_at as usize].process) " has no place" } }
            }
        }
    }
}

fn capital(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

fn checks(scene: &Scene<'_>) -> Markup {
    let mut checks: Vec<&CheckResult> = scene.results.checks.iter().collect();
    checks.sort_by_key(|check| Reverse(check.verdict));
    html! {
        section #checks {
            h2 { "What was checked" }
            div.checks {
                @for check_result in checks { (check(check_result)) }
            }
        }
    }
}

fn check(check_result: &CheckResult) -> Markup {
    const TOLD: usize = 3;
    let CheckResult { check, verdict, violations, violations_total, unknown_because, .. } =
        check_result;
    let sentence = |text: &String| {
        let (first, drawn) = text.split_once('\n').unwrap_or((text, ""));
        html! { li { (cited(first)) @if !drawn.is_empty() { pre { (drawn) } } } }
    };
    html! {
        div.check.(verdict.to_string()) id=(format!("check-{check}")) {
            h3 { (mark(*verdict)) (check) span.said { (verdict) } }
            p.about { (about(check)) }
            @if !violations.is_empty() {
                ul.said { @for text in violations.iter().take(TOLD) { (sentence(text)) } }
            }
            @if violations.len() > TOLD {
                details {
                    summary { (violations_total - TOLD) " more" }
                    ul.said { @for text in violations.iter().skip(TOLD) { (sentence(text)) } }
                    @if *violations_total > violations.len() {
                        p { "The first " (violations.len()) " are told." }
                    }
                }
            }
            @if !unknown_because.is_empty() {
                ul.said { @for doubt in unknown_because { li { (cited(doubt)) } } }
            }
        }
    }
}

fn timeline() -> Markup {
    let key = |class: &str, text: &str| html! { li { i.(class) {} (text) } };
    html! {
        section #timeline {
            h2 { "What happened" }
            noscript {
                p { "The timeline and the messages need scripts. Everything else on this page does "
                    "not." }
            }
            div.script-only {
                form.tools {
                    input type="search" name="find" size="22" autocomplete="off" aria-label="Search"
                        placeholder="key, transaction, process, index";
                    select name="key" aria-label="Only this key" { option value="" { "every key" } }
                    button type="button" data-do="error" { "First error" }
                    button type="button" data-do="before" aria-label="Previous fault" { "‹ fault" }
                    button type="button" data-do="after" aria-label="Next fault" { "fault ›" }
                    button type="button" data-do="in" aria-label="Zoom in" { "+" }
                    button type="button" data-do="out" aria-label="Zoom out" { "−" }
                    button type="button" data-do="all" { "Whole run" }
                    output name="said" {}
                }
                canvas #overview height="46" aria-label="The whole run: drag to look at a part" {}
                div #lanes tabindex="0" role="application"
                    aria-label="Timeline. Arrows move, plus and minus zoom, e goes to the first error" {
                    div #names {}
                    canvas #canvas {}
                }
                ul.legend {
                    (key("ok", "ok"))
                    (key("fail", "fail: no effect"))
                    (key("info", "info: may have happened"))
                    (key("pend", "PREPARE not durable"))
                    (key("doubt", "in doubt, key locked"))
                    (key("applied", "applied"))
                    (key("aborted", "aborted"))
                    (key("force", "force"))
                    (key("down", "down or stopped"))
                }
                p.hint { "Drag or arrow keys to move, Ctrl and wheel or + and − to zoom, "
                    kbd { "0" } " whole run, " kbd { "e" } " first error, " kbd { "/" } " search, "
                    "click to pin, " kbd { "Esc" } " to let go." }
                pre #detail aria-live="polite" { "Point at something." }
            }
        }
    }
}

fn messages(scene: &Scene<'_>) -> Markup {
    html! {
        section #messages {
            h2 { "Messages of a transaction" }
            @if let (Some(txn), true) = (scene.first, !scene.stories.is_empty()) {
                form.tools.script-only {
                    label { "Transaction " select name="story" {} }
                    button type="button" data-do="there" { "Show in the timeline" }
                }
                div #diagram.script-only {}
                @if let Some(story) = scene.stories.get(&txn) {
                    details #told {
                        summary { "Transaction " (txn) " in words" }
                        (story_list(scene, txn, story))
                    }
                    noscript { (story_list(scene, txn, story)) }
                }
            } @else {
                p { "No journal tells of a transaction." }
            }
        }
    }
}

/// A story as a list of sentences.
fn story_list(scene: &Scene<'_>, txn: TxnId, story: &Story) -> Markup {
    let mut lines: BTreeMap<(i64, usize), String> = BTreeMap::new();
    let mut n = 0;
    let mut tell = |t: i64, text: String| {
        n += 1;
        lines.insert((t, n), text);
    };
    for note in &story.notes {
        tell(note.t, format!("{}: {}", note.node, note.text));
    }
    for arrow in &story.arrows {
        let end = match (arrow.sent, arrow.got) {
            (Some((sent, _)), Some((got, _))) => {
                format!("arrives after {:.3} ms", (got - sent) as f64 / 1e6)
            }
            (Some(_), None) => "never arrives".to_owned(),
            _ => "arrives without having been sent again".to_owned(),
        };
        tell(arrow.time(), format!("{} to {}: {} ({end})", arrow.from, arrow.to, arrow.text));
    }
    let operation = scene.operation_of(txn);
    html! {
        @if let Some(operation) = operation {
            p { "Operation " (words(operation)) " of process " (operation.process) ", which ended "
                (outcome(operation.outcome)) "." }
        }
        ol.told {
            @for ((t, _), text) in &lines {
                li { time { (format!("{:.6}", *t as f64 / 1e9)) " s" } " " (text) }
            }
        }
        @if story.left_out > 0 { p { (story.left_out) " more between these." } }
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Fail => "fail",
        Outcome::Info => "info",
    }
}

fn counts(scene: &Scene<'_>) -> Markup {
    let mut counts: BTreeMap<Function, [usize; 3]> = BTreeMap::new();
    for operation in &scene.run.operations {
        counts.entry(operation.f).or_default()[operation.outcome as usize] += 1;
    }
    let measured = scene.results.check("statistics").map(|check_result| &check_result.measured);
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
                    th { "operation" } th.n { "asked" } th.n { "ok" } th.n { "fail" } th.n { "info" }
                    th.n { "p50, ms" } th.n { "p95, ms" } th.n { "p99, ms" } th.n { "longest, ms" }
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

fn faults(scene: &Scene<'_>) -> Markup {
    let ms = |from: u64, to: u64| format!("{:.0}", to.saturating_sub(from) as f64 / 1e6);
    let number = |n: Option<u64>| n.map_or_else(|| "–".to_owned(), |n| n.to_string());
    html! {
        section #faults {
            h2 { "Faults, and what was in doubt" }
            @if scene.windows.is_empty() {
                p { "None." }
            } @else {
                div.scroll { table {
                    thead { tr {
                        th.n { "at, s" } th { "what" } th { "where in the protocol" } th { "about" }
                        th { "replicas in doubt" } th.n { "for, ms" }
                        th.n title="after it was undone" { "resolved, ms" }
                        th.n title="after it was undone" { "all ready, ms" }
                    } }
                    tbody { @for window in scene.windows.iter().take(ROWS_MAX) { tr {
                        td.n { a href=(format!("#time={}", window.from)) {
                            (format!("{:.3}", window.from as f64 / 1e9)) } }
                        td { (window.title()) small { " " (window.fault) } }
                        td { (window.at.as_deref().unwrap_or("at any time")) }
                        td { @if let Some(txn) = &window.txn {
                            a.txn href=(format!("#txn={txn}")) { (txn) } } }
                        td { (number(window.in_doubt)) @if !window.in_doubt_at.is_empty() {
                            ": " (window.in_doubt_at.join(", ")) } }
                        td.n { (ms(window.from, window.to)) }
                        td.n { (number(window.resolved_ms)) } td.n { (number(window.ready_ms)) }
                    } } }
                } }
                @if scene.windows.len() > ROWS_MAX {
                    p { "And " (scene.windows.len() - ROWS_MAX) " more." }
                }
            }
        }
    }
}

fn indeterminate(scene: &Scene<'_>) -> Markup {
    let all: Vec<&Operation> = scene
        .run
        .operations
        .iter()
        .filter(|operation| operation.outcome == Outcome::Info)
        .collect();
    let fate_of = outcomes(scene, &all);
    html! {
        section #indeterminate {
            h2 { "Operations whose end nobody was told" }
            @if all.is_empty() {
                p { "None." }
            } @else {
                p { "The client was not answered. Each may or may not have taken effect; what the "
                    "journals say of it came out only afterwards." }
                div.scroll { table {
                    thead { tr {
                        th.n { "index" } th.n { "at, s" } th.n { "process" } th { "operation" }
                        th { "what the client knew" } th { "what became of it" }
                    } }
                    tbody { @for (operation, became) in all.iter().zip(&fate_of).take(ROWS_MAX) { tr {
                        td.n { a href=(format!("#index={}", operation.invoked_index)) {
                            (operation.invoked_index) } }
                        td.n { (format!("{:.3}", operation.invoked as f64 / 1e9)) }
                        td.n { (operation.process) } td { code { (words(operation)) } }
                        td { (operation.error.as_deref().unwrap_or("the run ended first")) }
                        td { (became) }
                    } } }
                } }
                @if all.len() > ROWS_MAX { p { "And " (all.len() - ROWS_MAX) " more." } }
            }
        }
    }
}

/// What became of operations, by the values that only they wrote.
fn outcomes(scene: &Scene<'_>, operations: &[&Operation]) -> Vec<Markup> {
    let transactions = &scene.run.evidence.transactions.by_id;
    let by_value: BTreeMap<String, TxnId> = transactions
        .iter()
        .filter_map(|(txn, t)| Some((t.write.as_ref()?.value.as_ref()?.to_string(), *txn)))
        .collect();
    let mut told = Vec::new();
    for operation in operations {
        let txn = operation.value.as_ref().and_then(|value| by_value.get(value));
        let txn = txn.filter(|_| operation.f == Function::Put);
        told.push(match txn.and_then(|txn| Some((txn, transactions.get(txn)?))) {
            Some((txn, transaction)) => {
                let outcome = match (transaction.commit(), transaction.aborted.is_empty()) {
                    (Some(_), true) => "committed",
                    (Some(_), false) => "committed, and aborted",
                    (None, false) => "aborted",
                    (None, true) => "never decided",
                };
                html! { (outcome) " as " a.txn href=(format!("#txn={txn}")) { (txn) } }
            }
            None if operation.f == Function::Put => html! { "never prepared" },
            None => html! { "not told by its value" },
        });
    }
    told
}

fn pictures(plots: &[Plot]) -> Markup {
    html! {
        section #plots {
            h2 { "Over time" }
            @for plot in plots {
                figure {
                    figcaption { strong { (plot.title) } " " (plot.note) }
                    (PreEscaped(&plot.svg))
                }
            }
            p.hint { "Faults are shaded." }
        }
    }
}

fn ending(scene: &Scene<'_>) -> Markup {
    html! {
        footer {
            @if scene.run.torn { p { "The history breaks off: the harness was killed." } }
            @if !scene.left_out.is_empty() {
                p { "Left out here, to keep the page light: " (scene.left_out.join("; ")) "." }
            }
            p { "Beside this page: " @for (name, at) in
                ["history.jsonl", "results.json", "test.json", "final.json", "nodes"].iter().zip(0..) {
                @if at > 0 { ", " } a href=(name) { (name) }
            } "." }
        }
    }
}
