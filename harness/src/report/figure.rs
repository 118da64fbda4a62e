//! A counterexample as a picture: who did what from when to when, and where the operations took
//! effect as long as there was an order. Only the order of events is to scale. Knows nothing of how
//! it was found.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::{
    checker::linearizability::NonLinearizableKey,
    history::{Operation, Outcome},
};

const ROW: u32 = 34;
const LEFT: u32 = 230;
const WIDTH: u32 = 920;
const TOP: u32 = 26;

/// So many rows are drawn at most: a larger part would not be read.
const ROWS_MAX: usize = 24;

/// Draws a counterexample.
pub(super) fn figure(broken: &NonLinearizableKey, operations: &[Operation]) -> Markup {
    let mut rows: Vec<(u32, &Operation)> = broken
        .explanation
        .operations
        .iter()
        .map(|shown| (shown.number, &operations[shown.number as usize]))
        .collect();
    if !rows.iter().any(|(number, _)| *number == broken.breaks_at) {
        rows.push((broken.breaks_at, &operations[broken.breaks_at as usize]));
    }
    rows.sort_by_key(|(_, operation)| operation.invoked_index);
    rows.truncate(ROWS_MAX);
    let mut events: Vec<u64> = rows
        .iter()
        .flat_map(|(_, op)| [Some(op.invoked_index), op.returned.and(op.returned_index)])
        .flatten()
        .collect();
    events.sort_unstable();
    let step = (WIDTH - LEFT - 40) / u32::try_from(events.len().max(1)).unwrap_or(u32::MAX).max(1);
    let x = |rank: usize| LEFT + 20 + u32::try_from(rank).unwrap_or(0) * step;
    let rank = |index: u64| events.partition_point(|event| *event < index);
    let points = points(broken, operations, &events);
    let height = TOP + ROW * u32::try_from(rows.len()).unwrap_or(0) + 24;
    let breaks = operations[broken.breaks_at as usize].returned_index.map(|index| x(rank(index)));
    let title =
        format!("Timeline of the operations on {} that have no order", broken.explanation.key);
    html! {
        svg.figure viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(title) {
            @if let Some(at) = breaks {
                line.break x1=(at) x2=(at) y1="14" y2=(height - 18) {}
                text.why x=(at) y="10" text-anchor="middle" { "no order from here on" }
            }
            @for ((number, operation), row) in rows.iter().zip(0_u32..) {
                @let y = TOP + row * ROW + ROW / 2;
                @let from = x(rank(operation.invoked_index));
                @let to = operation.returned.and(operation.returned_index).map(|index| x(rank(index)));
                @let class = match operation.outcome {
                    Outcome::Ok => "ok",
                    Outcome::Fail => "fail",
                    Outcome::Info => "info",
                };
                g.(class).breaks[*number == broken.breaks_at] data-op=(number) {
                    text.who x="4" y=(y + 4) { "p" (operation.process) }
                    text.what x="52" y=(y + 4) { (words(operation)) }
                    rect.bar x=(from) y=(y - 8) width=(to.unwrap_or(WIDTH - 8) - from) height="16" rx="3" {
                        title { (words(operation)) " by process " (operation.process) ", event "
                            (operation.invoked_index) }
                    }
                    @if to.is_none() {
                        path.open d=(format!("M{} {} l8 8 l-8 8", WIDTH - 10, y - 8)) {}
                    }
                    @if let Some((at, share, place)) = points.get(number) {
                        @let dot = x(*at).saturating_sub(step) + (f64::from(step) * share) as u32;
                        circle.point cx=(dot) cy=(y) r="9" {
                            title { "takes effect here: number " (place) " in the order" }
                        }
                        text.place x=(dot) y=(y + 4) text-anchor="middle" { (place) }
                    }
                }
            }
            text.axis x=(LEFT + 20) y=(height - 4) { "time: only the order of events is to scale" }
        }
    }
}

/// Where the drawn operations take effect, by number: after so many of the events, at which share
/// of the way to the next, and their place in the order of those that are drawn.
fn points(
    broken: &NonLinearizableKey,
    operations: &[Operation],
    events: &[u64],
) -> BTreeMap<u32, (usize, f64, usize)> {
    let drawn: Vec<u32> = broken.explanation.operations.iter().map(|op| op.number).collect();
    let mut slots: Vec<(u32, usize)> = Vec::new();
    let mut soonest = 0;
    // As soon as each can: not before it was invoked, nor before those that come before it.
    for number in &broken.prefix {
        soonest = soonest.max(operations[*number as usize].invoked_index);
        if drawn.contains(number) {
            slots.push((*number, events.partition_point(|event| *event <= soonest)));
        }
    }
    let mut points = BTreeMap::new();
    for (place, (number, slot)) in slots.iter().enumerate() {
        let mates = slots.iter().filter(|(_, other)| other == slot).count();
        let before = slots[..place].iter().filter(|(_, other)| other == slot).count();
        let share = (before + 1) as f64 / (mates + 1) as f64;
        points.insert(*number, (*slot, share, place + 1));
    }
    points
}

/// An operation in a few words.
pub(super) fn words(operation: &Operation) -> String {
    let Operation { f, key, value, outcome, .. } = operation;
    let value = value.as_deref().unwrap_or("nothing");
    match (f, outcome) {
        (crate::history::Function::Get, Outcome::Ok) => format!("get {key} = {value}"),
        (crate::history::Function::Put, _) => format!("put {key} = {value}"),
        _ => format!("{f} {key}"),
    }
}
