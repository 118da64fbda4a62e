//! What is shown of transactions: each anomaly with a drawing, what its name means, and the levels that it
//! rules out. Part of the page of a run, and a page by itself for a history in a file: one self-contained
//! HTML file without a script.
//!
//! In a drawing each transaction is a bar on a lane of its own, from its invocation to its completion. The
//! axis shows the order of events, not their distance in time. The edges of a cycle are numbered arrows;
//! below, each is told with the two operations that prove it.

use checker::{
    Validity,
    transactions::{ReportedAnomaly, ShownEdge, ShownTransaction, TransactionReport},
};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::page::{THEME, verdict_mark};

/// The style of the header of the page.
const STYLE: &str = include_str!("page/transactions.css");
/// The style of anomalies.
pub(crate) const ANOMALIES_STYLE: &str = include_str!("page/anomalies.css");

const WIDTH: u32 = 920;
const LEFT: u32 = 130;
const RIGHT: u32 = 24;
const LANE: u32 = 76;
const TOP: u32 = 10;
const BAR: u32 = 20;
/// The most letters of a transaction's steps that are drawn; the list of operations has all.
const STEPS_MAX: usize = 84;

/// Renders the page.
#[must_use]
pub fn page(name: &str, verdict: Validity, report: &TransactionReport) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { (verdict) ": " (name) }
                style { (PreEscaped(THEME)) (PreEscaped(STYLE)) (PreEscaped(ANOMALIES_STYLE)) }
            }
            body {
                (header(name, verdict, report))
                main { (anomalies(report)) }
            }
        }
    };
    page.into_string()
}

/// Each anomaly, and what was lost.
pub(crate) fn anomalies(report: &TransactionReport) -> Markup {
    html! {
        div.anomalies {
            @for same in report.anomalies.chunk_by(|one, other| one.name == other.name) {
                (anomaly(same))
            }
            (lost(report))
            @if let Some(cycle) = &report.commit_cycle { (commit_cycle(cycle)) }
        }
    }
}

/// The verdict, and the levels that are left.
fn header(name: &str, verdict: Validity, report: &TransactionReport) -> Markup {
    let TransactionReport { transactions, micro_ops, .. } = report;
    html! {
        header.verdict.(verdict.to_string()) {
            p.crumb { (name) }
            h1 { (verdict_mark(verdict)) span { (verdict) } }
            (levels(report))
            p.facts { (transactions) " transactions with " (micro_ops) " operations." }
        }
    }
}

/// What is claimed, and which levels are left.
pub(crate) fn levels(report: &TransactionReport) -> Markup {
    let TransactionReport { claim, strongest, undecided, .. } = report;
    html! {
        p.outcome {
            @match claim {
                Some(claim) => { "Claimed: " strong { (claim) } ". " }
                None => "No level is claimed, so only lost writes count. ",
            }
            @if strongest.is_empty() { "Every level is ruled out." } @else {
                "Strongest levels not ruled out: " strong { (strongest.join(", ")) } "."
            }
        }
        @if let Some(strongest) = &report.strongest_axiomatic {
            p.outcome { "Of the levels of Biswas and Enea: " strong { (strongest) } "." }
        }
        @if let Some(told) = &report.told_versions { p.outcome { "Versions: " (told) "." } }
        @if let Some((_, reason)) = undecided.first() {
            @let names: Vec<&str> = undecided.iter().map(|(name, _)| name.as_str()).collect();
            p.outcome { "Undecided: " (names.join(", ")) ": " (reason) "." }
        }
    }
}

/// All that is shown of one kind of anomaly.
fn anomaly(same: &[ReportedAnomaly]) -> Markup {
    let ReportedAnomaly { name, count, meaning, rules_out, .. } = &same[0];
    html! {
        section id=(name) {
            h2 { (name) @if *count > 1 { small { " " (count) " times" } } }
            p { (meaning) }
            p { "Rules out "
                @for (at, level) in rules_out.iter().enumerate() {
                    @if at > 0 { ", " } strong { (level) }
                }
                " and every stronger level."
            }
            @for one in same {
                @let (first, _) = one.text.split_once('\n').unwrap_or((&one.text, ""));
                article {
                    p.reason { (first) "." }
                    div.scroll { (figure(one)) }
                    (edges(&one.edges))
                    (operations(&one.shown))
                }
            }
        }
    }
}

/// The edges in words.
fn edges(edges: &[ShownEdge]) -> Markup {
    html! {
        @if !edges.is_empty() {
            ol.edges {
                @for ShownEdge { from, to, kind, why } in edges {
                    li { span.kind.(class(kind)) { "T" (from) " " (kind) " T" (to) } " " (why) }
                }
            }
        }
    }
}

/// The transactions with all of their steps.
fn operations(shown: &[ShownTransaction]) -> Markup {
    html! {
        details {
            summary { "The transactions" }
            dl.transactions { @for one in shown {
                dt { "T" (one.number) small { " process " (one.process) ", " (interval(one)) } }
                dd { @for step in &one.steps { code { (step) } } }
            } }
        }
    }
}

fn interval(one: &ShownTransaction) -> String {
    let ShownTransaction { invoked, returned, outcome, .. } = one;
    match returned {
        Some(returned) => format!("events {invoked} to {returned}, {outcome}"),
        None => format!("event {invoked}, never returned"),
    }
}

/// The class of a kind of edge.
fn class(kind: &str) -> &'static str {
    match kind {
        "ww" => "ww",
        "wr" => "wr",
        "rw" => "rw",
        _ => "before",
    }
}

/// A bar of the drawing.
struct Bar<'s> {
    shown: &'s ShownTransaction,
    from: u32,
    to: u32,
    middle: u32,
}

/// Draws an anomaly as SVG.
fn figure(anomaly: &ReportedAnomaly) -> Markup {
    let bars = bars(&anomaly.shown);
    let height = TOP + LANE * bars.len() as u32 + 22;
    let title = format!("{}: transactions and what orders them", anomaly.name);
    html! {
        svg.figure viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(title) {
            @for bar in &bars { (draw_bar(bar)) }
            @for (number, edge) in anomaly.edges.iter().enumerate() {
                (draw_edge(&bars, &anomaly.edges, number, edge))
            }
            // Above the arrows, so that these do not cross them out.
            @for bar in &bars { (draw_steps(bar)) }
            text.axis x=(LEFT) y=(height - 5) { "time (the order of events, not to scale)" }
        }
    }
}

/// The bars, in the order of the invocations.
fn bars(shown: &[ShownTransaction]) -> Vec<Bar<'_>> {
    let mut sorted: Vec<&ShownTransaction> = shown.iter().collect();
    sorted.sort_by_key(|one| one.invoked);
    sorted.dedup_by_key(|one| one.number);
    let mut events: Vec<u32> =
        sorted.iter().flat_map(|one| [Some(one.invoked), one.returned]).flatten().collect();
    events.sort_unstable();
    let step = (WIDTH - LEFT - RIGHT) / (events.len().max(2) as u32 - 1);
    let x = |event: u32| LEFT + step * events.partition_point(|other| *other < event) as u32;
    let mut bars = Vec::new();
    for (shown, lane) in sorted.into_iter().zip(0..) {
        let to = shown.returned.map_or(WIDTH - RIGHT + 10, x);
        bars.push(Bar { shown, from: x(shown.invoked), to, middle: TOP + LANE * lane + 46 });
    }
    bars
}

fn draw_bar(bar: &Bar<'_>) -> Markup {
    let Bar { shown, from, to, middle } = bar;
    let name = format!("T{}", shown.number);
    html! {
        g.(shown.outcome) {
            text.name x="4" y=(middle + 5) { (name) }
            text.process x=(16 + 8 * name.len()) y=(middle + 5) { "p" (shown.process) }
            rect.bar x=(from) y=(middle - BAR / 2) width=((to - from).max(6)) height=(BAR) rx="3" {
                title { (name) ": " (interval(shown)) }
            }
        }
    }
}

/// What a transaction does, above its bar.
fn draw_steps(bar: &Bar<'_>) -> Markup {
    let mut steps = bar.shown.steps.join(", ");
    if let Some((end, _)) = steps.char_indices().nth(STEPS_MAX) {
        steps.truncate(end);
        steps.push('…');
    }
    // A long text that begins on the right would leave the drawing: it ends there.
    let is_right = bar.from + 8 * steps.chars().count() as u32 > WIDTH;
    let (x, anchor) = if is_right { (WIDTH - 4, "end") } else { (bar.from, "start") };
    html! {
        text.steps x=(x) y=(bar.middle - BAR / 2 - 6) text-anchor=(anchor) { (steps) }
    }
}

/// An arrow from bar to bar with its number. The ends on a bar stand side by side.
fn draw_edge(bars: &[Bar<'_>], edges: &[ShownEdge], number: usize, edge: &ShownEdge) -> Markup {
    let find = |of: u32| bars.iter().find(|bar| bar.shown.number == of);
    let (Some(from), Some(to)) = (find(edge.from), find(edge.to)) else { return html! {} };
    let end = |bar: &Bar<'_>, is_start: bool| {
        let of = bar.shown.number;
        let ends = edges.iter().enumerate().flat_map(|(at, edge)| {
            [(edge.from == of).then_some((at, true)), (edge.to == of).then_some((at, false))]
        });
        let ends: Vec<(usize, bool)> = ends.flatten().collect();
        let place = ends.iter().position(|one| *one == (number, is_start)).unwrap_or(0);
        bar.from + (bar.to - bar.from) * (place as u32 + 1) / (ends.len() as u32 + 1)
    };
    let (start, finish) = (end(from, true), end(to, false));
    let is_down = to.middle > from.middle;
    let (leaves, arrives, back) = if is_down {
        (from.middle + BAR / 2, to.middle - BAR / 2, to.middle - BAR / 2 - 9)
    } else {
        (from.middle - BAR / 2, to.middle + BAR / 2, to.middle + BAR / 2 + 9)
    };
    // Below the bars there is room; above them are the steps.
    let between = u32::midpoint(leaves, arrives) - 8;
    let line = format!(
        "M{start} {leaves} C{start} {between} {finish} {between} {finish} {back} \
         M{} {back} L{finish} {arrives} L{} {back}",
        finish - 5,
        finish + 5
    );
    let (x, y) = (u32::midpoint(start, finish), between);
    html! {
        g.edge.(class(edge.kind)) {
            path d=(line) {}
            circle cx=(x) cy=(y) r="10" { title { (edge.why) } }
            text x=(x) y=(y + 4) text-anchor="middle" { (number + 1) }
            text.kind x=(x + 14) y=(y + 4) { (edge.kind) }
        }
    }
}

fn lost(report: &TransactionReport) -> Markup {
    html! {
        @if !report.lost.is_empty() {
            section #lost {
                h2 { "Lost writes" small { " " (report.lost_total) } }
                p { "They were acknowledged, and a read that began later does not have them." }
                ul { @for lost in &report.lost { li { (lost) } } }
                @if report.lost_total > report.lost.len() {
                    p { "Only the first " (report.lost.len()) " are listed." }
                }
            }
        }
    }
}

fn commit_cycle(cycle: &str) -> Markup {
    let mut lines = cycle.lines();
    html! {
        section #commit-order {
            h2 { "Commit order" }
            p { (lines.next().unwrap_or_default()) "." }
            ol { @for line in lines { li { (line) } } }
        }
    }
}
