//! Draws a linearizability counterexample: the operations as intervals, and the linearization points
//! of the longest linearizable prefix. The axis shows the order of events, not their distance in time.

use std::collections::BTreeMap;

use checker::linearizability::NonLinearizableKey;
use history::{Function, Operation, Outcome, shown};
use maud::{Markup, html};

const ROW: u32 = 34;
const LEFT: u32 = 230;
const WIDTH: u32 = 920;
const TOP: u32 = 26;

/// The most operations that are drawn. Nobody reads a larger figure.
const ROWS_MAX: usize = 24;

/// Draws a counterexample as SVG.
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
    let title = format!("Operations on {} that cannot be linearized", broken.explanation.key);
    html! {
        svg.figure viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(title) {
            @if let Some(at) = breaks {
                line.break x1=(at) x2=(at) y1="14" y2=(height - 18) {}
                text.reason x=(at) y="10" text-anchor="middle" { "not linearizable from here on" }
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
                    text.process x="4" y=(y + 4) { "p" (operation.process) }
                    text.operation x="52" y=(y + 4) { (describe(operation)) }
                    rect.bar x=(from) y=(y - 8) width=(to.unwrap_or(WIDTH - 8) - from) height="16" rx="3" {
                        title { (describe(operation)) " by process " (operation.process) ", event "
                            (operation.invoked_index) }
                    }
                    @if to.is_none() {
                        path.open d=(format!("M{} {} l8 8 l-8 8", WIDTH - 10, y - 8)) {}
                    }
                    @if let Some((at, share, rank)) = points.get(number) {
                        @let dot = x(*at).saturating_sub(step) + (f64::from(step) * share) as u32;
                        circle.point cx=(dot) cy=(y) r="9" {
                            title { "linearization point: number " (rank) " in the order" }
                        }
                        text.rank x=(dot) y=(y + 4) text-anchor="middle" { (rank) }
                    }
                }
            }
            text.axis x=(LEFT + 20) y=(height - 4) { "time (the order of events, not to scale)" }
        }
    }
}

/// The linearization points of the drawn operations, by operation number: the number of events
/// before it, the fraction of the way to the next event, and its rank among the drawn operations.
fn points(
    broken: &NonLinearizableKey,
    operations: &[Operation],
    events: &[u64],
) -> BTreeMap<u32, (usize, f64, usize)> {
    let drawn: Vec<u32> = broken.explanation.operations.iter().map(|op| op.number).collect();
    let mut slots: Vec<(u32, usize)> = Vec::new();
    let mut earliest = 0;
    // The earliest possible point: neither before the invocation nor before the point of the
    // operation that precedes it in the order.
    for number in &broken.prefix {
        earliest = earliest.max(operations[*number as usize].invoked_index);
        if drawn.contains(number) {
            slots.push((*number, events.partition_point(|event| *event <= earliest)));
        }
    }
    let mut points = BTreeMap::new();
    for (rank, (number, slot)) in slots.iter().enumerate() {
        let sharing = slots.iter().filter(|(_, other)| other == slot).count();
        let before = slots[..rank].iter().filter(|(_, other)| other == slot).count();
        let share = (before + 1) as f64 / (sharing + 1) as f64;
        points.insert(*number, (*slot, share, rank + 1));
    }
    points
}

/// An operation in short, such as `put k1 = 3-7`.
pub(super) fn describe(operation: &Operation) -> String {
    let Operation { f, key, value, outcome, .. } = operation;
    let value = value.as_deref().map_or("nothing".into(), shown);
    match (f, outcome) {
        (Function::Get, Outcome::Ok) => format!("get {key} = {value}"),
        (Function::Put, _) => format!("put {key} = {value}"),
        (_, Outcome::Ok) if f.returns_value() => format!("{f} {key} = {value}"),
        _ if operation.value.is_some() => format!("{f} {key} {value}"),
        _ => format!("{f} {key}"),
    }
}
