//! When each fault was in force, derived from the nemesis events of a history. Works for any fault
//! and any node names: it relies only on the event names that begin and end a fault.

use std::collections::BTreeSet;

use history::{Action, Event, NemesisEvent};
use serde::Serialize;
use serde_json::Value as Json;

/// An interval of the run during which a fault was in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FaultInterval {
    /// The name of the fault.
    pub fault: String,
    /// The action of the nemesis: `kill`, `pause` and so on.
    pub action: String,
    /// The nodes it was applied to. Empty if it targets no node in particular.
    pub nodes: Vec<String>,
    /// Whether the nodes did not run during the interval: they were dead or stopped.
    pub inactive: bool,
    /// The crash point, or the messages, at which it was injected. `None` if at any time.
    pub at: Option<String>,
    /// The transaction that was at the crash point.
    pub txn: Option<String>,
    /// When it was injected, in nanoseconds of the history.
    pub from: u64,
    /// When it was undone, in nanoseconds of the history.
    pub to: u64,
    /// When every node was ready again with no transaction in doubt. `None` if this was not
    /// observed, or did not happen within the deadline.
    pub recovered: Option<u64>,
    /// The number of replicas in doubt at the injection.
    pub in_doubt: Option<u64>,
    /// The names of those replicas.
    pub in_doubt_at: Vec<String>,
    /// Milliseconds from the end of the fault until no transaction was in doubt.
    pub resolved_ms: Option<u64>,
    /// Milliseconds from the end of the fault until every node was ready.
    pub ready_ms: Option<u64>,
    /// The index of the event that began it.
    pub index: u64,
    /// Whether an event ended it.
    #[serde(skip)]
    pub(super) closed: bool,
}

/// Actions that leave a node dead or stopped until it is started or resumed.
const STOPPING_ACTIONS: &[&str] = &[
    "kill",
    "pause",
    "hold",
    "died",
    "power-loss",
    "wipe-replica",
    "second-master",
    "twin-master",
];

/// Actions that bring a dead or stopped node back.
const STARTING_ACTIONS: &[&str] = &["restart", "resume"];

/// Actions that undo any other fault.
const REPAIRING_ACTIONS: &[&str] = &["network-restored", "mend", "restore"];

impl FaultInterval {
    fn applies_to(&self, nodes: &[String]) -> bool {
        self.nodes.iter().any(|node| nodes.contains(node))
    }

    /// The action and its nodes.
    #[must_use]
    pub fn title(&self) -> String {
        let nodes = self.nodes.join(", ");
        match nodes.as_str() {
            "" => self.action.clone(),
            nodes => format!("{} {nodes}", self.action),
        }
    }

    fn close(&mut self, time: u64) {
        if !self.closed {
            self.closed = true;
            self.to = time;
        }
    }
}

/// The fault intervals of a history, in the order in which they began. A fault that was never undone
/// lasts until the last event.
#[must_use]
pub fn fault_intervals(events: &[Event]) -> Vec<FaultInterval> {
    let mut intervals: Vec<FaultInterval> = Vec::new();
    for event in events {
        if let Action::Nemesis(nemesis) = &event.action {
            apply(&mut intervals, event, nemesis);
        }
    }
    let end = events.last().map_or(0, |event| event.time);
    for interval in intervals.iter_mut().filter(|interval| !interval.closed) {
        interval.to = end;
    }
    intervals
}

/// Begins or ends intervals as one nemesis event says.
fn apply(intervals: &mut Vec<FaultInterval>, event: &Event, nemesis: &NemesisEvent) {
    let nodes = nodes_of(&nemesis.value);
    let fault = nemesis.text("fault");
    let action = nemesis.f.as_str();
    match action {
        "recovered" => {
            let recovered = intervals.iter_mut().rev().find(|interval| {
                Some(interval.fault.as_str()) == fault
                    && (nodes.is_empty() || interval.applies_to(&nodes))
            });
            if let Some(interval) = recovered {
                let number = |name| nemesis.value.get(name).and_then(Json::as_u64);
                interval.resolved_ms = number("resolved_ms");
                interval.ready_ms = number("ready_ms");
                interval.recovered =
                    interval.resolved_ms.and(interval.ready_ms).map(|_| event.time);
                interval.close(event.time);
            }
        }
        "heal" => intervals.iter_mut().for_each(|interval| interval.close(event.time)),
        "miss" | "settled" | "final" | "broken" | "dump-failed" | "unseen" => {}
        _ if STARTING_ACTIONS.contains(&action) => {
            let ended = intervals
                .iter_mut()
                .filter(|interval| interval.inactive && interval.applies_to(&nodes));
            ended.for_each(|interval| interval.close(event.time));
        }
        _ if REPAIRING_ACTIONS.contains(&action) => {
            let ended = intervals.iter_mut().filter(|interval| {
                !interval.inactive
                    && (nodes.is_empty() || interval.applies_to(&nodes))
                    && fault.is_none_or(|fault| interval.fault == fault)
            });
            ended.for_each(|interval| interval.close(event.time));
        }
        "died" => intervals.push(interval_from(event, nemesis, nodes, "died")),
        _ => {
            if let Some(fault) = fault {
                // A node held at a crash point is then either killed there or resumed.
                let held = intervals
                    .iter_mut()
                    .filter(|interval| interval.action == "hold" && interval.applies_to(&nodes));
                held.for_each(|interval| interval.close(event.time));
                intervals.push(interval_from(event, nemesis, nodes, fault));
            }
        }
    }
}

/// The interval that an event begins.
fn interval_from(
    event: &Event,
    nemesis: &NemesisEvent,
    nodes: Vec<String>,
    fault: &str,
) -> FaultInterval {
    let text = |name| nemesis.text(name).map(str::to_owned);
    let names = |name| match nemesis.value.get(name) {
        Some(Json::Array(list)) => {
            list.iter().filter_map(Json::as_str).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    };
    FaultInterval {
        fault: fault.to_owned(),
        action: nemesis.f.clone(),
        nodes,
        inactive: STOPPING_ACTIONS.contains(&nemesis.f.as_str()),
        at: text("at").or_else(|| intercepted_messages(&nemesis.value)),
        txn: text("txn"),
        from: event.time,
        to: event.time,
        in_doubt: nemesis.value.get("in_doubt").and_then(Json::as_u64),
        in_doubt_at: names("in_doubt_at"),
        index: event.index,
        ..FaultInterval::default()
    }
}

/// The messages that a fault intercepts, and what it does to them.
fn intercepted_messages(value: &Json) -> Option<String> {
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value.get("messages") {
        Some(Json::Array(rules)) => {
            let describe = |rule: &Json| {
                format!(
                    "{} {}",
                    rule.get("pattern").or_else(|| rule.get("what")).map_or_else(String::new, text),
                    rule.get("action").or_else(|| rule.get("is")).map_or_else(String::new, text)
                )
            };
            Some(rules.iter().map(describe).collect::<Vec<_>>().join(", "))
        }
        _ => Some(format!(
            "{} {}",
            text(value.get("message_action").or_else(|| value.get("did"))?),
            text(value.get("message")?)
        )),
    }
}

/// The nodes that an event names, in any of the fields that can name nodes.
fn nodes_of(value: &Json) -> Vec<String> {
    let mut nodes = BTreeSet::new();
    for field in ["node", "nodes", "from", "to", "between", "cut"] {
        match value.get(field) {
            Some(Json::String(node)) => {
                nodes.insert(node.clone());
            }
            Some(Json::Array(list)) => {
                nodes.extend(list.iter().filter_map(Json::as_str).map(str::to_owned));
            }
            _ => {}
        }
    }
    nodes.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn history(events: &[(&str, Json)]) -> Vec<Event> {
        let event = |(index, (f, value)): (u64, &(&str, Json))| Event {
            index,
            time: index * 100,
            action: Action::Nemesis(NemesisEvent { f: (*f).to_owned(), value: value.clone() }),
        };
        (0..).zip(events).map(event).collect()
    }

    #[test]
    fn a_fault_lasts_until_it_is_undone_and_recovers_when_an_event_says_so() {
        let intervals = fault_intervals(&history(&[
            ("hold", json!({ "fault": "m", "node": "master", "at": "p", "in_doubt": 3 })),
            ("kill", json!({ "fault": "m", "node": "master", "at": "p", "txn": "1.7" })),
            ("pause", json!({ "fault": "r", "node": "r2" })),
            ("restart", json!({ "node": "master" })),
            (
                "recovered",
                json!({ "fault": "m", "node": "master", "resolved_ms": 1, "ready_ms": 2 }),
            ),
            ("resume", json!({ "node": "r2" })),
            (
                "disturb",
                json!({ "fault": "partition", "nodes": ["r1", "r3"],
                    "messages": [{ "what": "master > r1", "is": "lost" }] }),
            ),
            ("miss", json!({ "fault": "m", "node": "master" })),
            ("heal", json!({ "nodes": [] })),
            ("kill", json!({ "fault": "r", "node": "r3" })),
            ("final", json!({})),
        ]));
        let spans: Vec<_> =
            intervals.iter().map(|i| (i.title(), i.from, i.to, i.recovered, i.inactive)).collect();
        let span = |title: &str, from, to, recovered, inactive| {
            (title.to_owned(), from, to, recovered, inactive)
        };
        assert_eq!(
            spans,
            [
                span("hold master", 0, 100, None, true),
                span("kill master", 100, 300, Some(400), true),
                span("pause r2", 200, 500, None, true),
                span("disturb r1, r3", 600, 800, None, false),
                span("kill r3", 900, 1000, None, true),
            ]
        );
        assert_eq!(intervals[3].at.as_deref(), Some("master > r1 lost"));
        assert_eq!((intervals[0].in_doubt, intervals[1].txn.as_deref()), (Some(3), Some("1.7")));
    }
}
