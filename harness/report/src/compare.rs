//! Two runs side by side: how they were made, and their figures with what they differ by. The server and the
//! command `runs compare` show the same rows.

use std::collections::BTreeSet;

use history::RunDescription;
use serde_json::Value as Json;

use crate::store::RunSummary;

/// Rows that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedGroup {
    /// What they are about.
    pub title: String,
    /// The rows.
    pub rows: Vec<ComparedRow>,
}

/// A quantity of both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedRow {
    /// Its name, with the unit.
    pub title: String,
    /// Of each run.
    pub texts: [String; 2],
    /// By how much the second run differs from the first; of figures only, and empty if one is missing.
    pub difference: String,
}

/// A part of a run's description, as text.
type Described = fn(&RunDescription) -> String;

/// What is compared of the descriptions of the runs.
const DESCRIBED: &[(&str, Described)] = &[
    ("system", |run| shown(run.system.as_deref())),
    ("workload", |run| shown(run.workload.as_deref())),
    ("claim", |run| shown(run.claim.as_deref())),
    ("faults", |run| run.faults.join(", ")),
    ("disabled rule", |run| run.broken.join(", ")),
    ("seed", |run| shown(run.seed)),
    ("clients", |run| shown(run.concurrency)),
    ("keys", |run| option(run, "keys")),
    ("replicas", |run| shown(run.replicas)),
    ("mix", |run| option(run, "mix")),
    ("rate", |run| option(run, "rate")),
    ("TLS", |run| option(run, "tls")),
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

/// Compares two runs. Rows that neither of them has are left out.
#[must_use]
pub fn compare(both: [&RunSummary; 2]) -> Vec<ComparedGroup> {
    let described = DESCRIBED.iter().map(|(title, text)| ComparedRow {
        title: (*title).to_owned(),
        texts: both.map(|run| text(&run.test)),
        difference: String::new(),
    });
    let mut groups = vec![group("how they were made", described.collect())];
    let throughput = [
        figure("operations", both.map(RunSummary::operations), 0),
        figure("ok per second", both.map(|run| run.measured(&["ok_per_second"])), 0),
        figure("seconds", both.map(|run| run.measured(&["seconds"])), 1),
    ];
    groups.push(group("operations", throughput.into()));
    for function in functions(both) {
        let row = |quantile: &str| {
            let us = both.map(|run| run.measured(&["latency_us", &function, quantile]));
            figure(&format!("{quantile}, ms"), us.map(|us| us.map(|us| us / 1000.0)), 1)
        };
        let rows = ["p50", "p95", "p99", "max"].map(row);
        groups.push(group(&format!("latency of {function}"), rows.into()));
    }
    let shares = ["during_faults", "between_faults"].map(|when| {
        let share = both.map(|run| run.measured(&["availability", when]));
        figure(
            &format!("{}, %", when.replace('_', " ")),
            share.map(|it| it.map(|it| it * 100.0)),
            1,
        )
    });
    groups.push(group("operations that were ok", shares.into()));
    groups.retain(|group| !group.rows.is_empty());
    groups
}

/// The names of the checks of two runs, in their order.
#[must_use]
pub fn check_names(both: [&RunSummary; 2]) -> Vec<&str> {
    let results = both.into_iter().filter_map(|run| run.results.as_ref());
    let mut names: Vec<&str> = Vec::new();
    for check_result in results.flat_map(|results| &results.checks) {
        if !names.contains(&check_result.check.as_str()) {
            names.push(&check_result.check);
        }
    }
    names
}

fn group(title: &str, mut rows: Vec<ComparedRow>) -> ComparedGroup {
    rows.retain(|row| row.texts.iter().any(|text| !text.is_empty()));
    ComparedGroup { title: title.to_owned(), rows }
}

/// The functions whose latency one of the runs has measured.
fn functions(both: [&RunSummary; 2]) -> BTreeSet<String> {
    let results = both.into_iter().filter_map(|run| run.results.as_ref()?.check("statistics"));
    let latencies =
        results.filter_map(|statistics| statistics.measured.get("latency_us")?.as_object());
    latencies.flat_map(serde_json::Map::keys).cloned().collect()
}

/// A row of figures, with so many decimal places.
fn figure(title: &str, values: [Option<f64>; 2], places: usize) -> ComparedRow {
    let difference = match values {
        [Some(one), Some(other)] if one != 0.0 => {
            let percent = (other - one) / one * 100.0;
            if percent.abs() < 0.5 { "same".to_owned() } else { format!("{percent:+.0} %") }
        }
        _ => String::new(),
    };
    let text = |value: Option<f64>| value.map_or_else(String::new, |it| format!("{it:.places$}"));
    ComparedRow { title: title.to_owned(), texts: values.map(text), difference }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_differences_where_both_runs_have_them() {
        let difference = |one, other| figure("n", [one, other], 1).difference;
        assert_eq!(difference(Some(100.0), Some(150.0)), "+50 %");
        assert_eq!(difference(Some(3.0), Some(1.0)), "-67 %");
        assert_eq!(difference(Some(1000.0), Some(1001.0)), "same");
        assert_eq!(difference(Some(0.0), Some(1.0)), "");
        assert_eq!(difference(None, Some(1.0)), "");
        assert_eq!(figure("n", [None, Some(1.25)], 1).texts, ["", "1.2"]);
    }
}
