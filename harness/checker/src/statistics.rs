//! How much a run did and how it went: counts, latencies, throughput, and availability with and
//! without an active fault. Never finds a run invalid. A run in which nothing succeeded is unknown,
//! since it tests nothing.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::{Map, Value as Json, json};

use history::{Action, Event, NemesisEvent, Operation, Outcome};

use crate::CheckResult;

/// The name of the check.
pub const NAME: &str = "statistics";

/// Measures a history, given by its events and the operations that they make.
#[must_use]
pub fn check(events: &[Event], operations: &[Operation]) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    if operations.is_empty() {
        check_result.unknown("the history contains no operations");
        return check_result;
    }
    require_successes(operations, &mut check_result);
    check_result.measure("counts", counts(operations));
    check_result.measure("latency_us", latencies(operations));
    let end = events.last().map_or(0, |event| event.time);
    let begin = operations.first().map_or(0, |operation| operation.invoked);
    let seconds = seconds(end.saturating_sub(begin));
    let ok = operations.iter().filter(|operation| operation.outcome == Outcome::Ok).count();
    check_result.measure("seconds", round(seconds));
    check_result.measure("ok_per_second", round(ratio(ok, 1) / seconds.max(1e-9)));
    check_result.measure("availability", availability(events, operations, end));
    check_result
}

/// A kind of operation that never succeeds makes the run unknown: the other checks are vacuous for it.
fn require_successes(operations: &[Operation], check_result: &mut CheckResult) {
    for (name, write) in [("get", false), ("write", true)] {
        let all = || operations.iter().filter(|operation| operation.f.is_write() == write);
        let any_ok = all().any(|operation| operation.outcome == Outcome::Ok);
        let invoked = all().count();
        if invoked > 0 && !any_ok {
            check_result.unknown(format!(
                "no {name} completed with ok ({invoked} invoked): nothing was tested"
            ));
        }
    }
}

/// Operations by function and outcome.
fn counts(operations: &[Operation]) -> Json {
    let mut counts: BTreeMap<String, BTreeMap<&str, usize>> = BTreeMap::new();
    for operation in operations {
        for name in [operation.f.to_string(), "all".to_owned()] {
            *counts.entry(name).or_default().entry(outcome(operation)).or_default() += 1;
        }
    }
    json!(counts)
}

fn outcome(operation: &Operation) -> &'static str {
    match operation.outcome {
        Outcome::Ok => "ok",
        Outcome::Fail => "fail",
        Outcome::Info => "info",
    }
}

/// Quantiles of the latencies of successful operations, in microseconds, by function.
fn latencies(operations: &[Operation]) -> Json {
    let mut histograms: BTreeMap<String, Histogram<u64>> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.outcome == Outcome::Ok) {
        let Some(returned) = operation.returned else { continue };
        let histogram = histograms.entry(operation.f.to_string()).or_insert_with(|| {
            Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("constant bounds in order")
        });
        histogram.saturating_record((returned.saturating_sub(operation.invoked)) / 1000);
    }
    let quantiles = |histogram: &Histogram<u64>| {
        json!({
            "p50": histogram.value_at_quantile(0.5),
            "p95": histogram.value_at_quantile(0.95),
            "p99": histogram.value_at_quantile(0.99),
            "max": histogram.max(),
        })
    };
    let all: Map<String, Json> =
        histograms.iter().map(|(f, histogram)| (f.clone(), quantiles(histogram))).collect();
    Json::Object(all)
}

/// The share of successful operations, of those invoked while a node was down or paused and of the
/// others.
fn availability(events: &[Event], operations: &[Operation], end: u64) -> Json {
    let faulty = fault_intervals(events, end);
    let mut groups: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for operation in operations {
        let at = faulty.partition_point(|(from, _)| *from <= operation.invoked);
        let within = at > 0 && operation.invoked < faulty[at - 1].1;
        let name = if within { "during_faults" } else { "between_faults" };
        let (ok, all) = groups.entry(name).or_default();
        *ok += usize::from(operation.outcome == Outcome::Ok);
        *all += 1;
    }
    let down: u64 = faulty.iter().map(|(from, to)| to - from).sum();
    let mut shares: Map<String, Json> = groups
        .iter()
        .map(|(name, (ok, all))| ((*name).to_owned(), json!(round(ratio(*ok, *all)))))
        .collect();
    shares.insert("seconds_with_a_fault".to_owned(), json!(round(seconds(down))));
    Json::Object(shares)
}

/// The intervals in which some node was down or paused, sorted and disjoint.
fn fault_intervals(events: &[Event], end: u64) -> Vec<(u64, u64)> {
    let mut since: BTreeMap<&str, u64> = BTreeMap::new();
    let mut times: Vec<(u64, u64)> = Vec::new();
    let mut began = 0;
    for event in events {
        let Action::Nemesis(nemesis) = &event.action else { continue };
        let was_healthy = since.is_empty();
        match nemesis {
            NemesisEvent::Injected(kind, injected) if kind.is_outage() => {
                since.insert(injected.node.as_deref().unwrap_or_default(), event.time);
                if was_healthy {
                    began = event.time;
                }
            }
            NemesisEvent::Returned(_, returned) => {
                since.remove(returned.node.as_deref().unwrap_or_default());
            }
            NemesisEvent::Healed(_) => since.clear(),
            _ => {}
        }
        if !was_healthy && since.is_empty() {
            times.push((began, event.time));
        }
    }
    if !since.is_empty() {
        times.push((began, end));
    }
    times
}

#[expect(clippy::cast_precision_loss, reason = "a figure for display")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[expect(clippy::cast_precision_loss, reason = "a figure for display")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Rounds to three decimals.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
