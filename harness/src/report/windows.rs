//! When faults were in force, told from what the nemesis recorded: by whatever name, against
//! whatever nodes. Knows no fault in particular.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value as Json;

use crate::history::{Action, Event, NemesisEvent};

/// A time in which a fault was in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The fault that it is a case of.
    pub fault: String,
    /// What was done: `kill`, `pause` and so on.
    pub action: String,
    /// To whom; empty if it concerns no node in particular.
    pub nodes: Vec<String>,
    /// Whether the nodes did nothing meanwhile: they were dead, or stopped.
    pub silent: bool,
    /// The crash point, if it was done at one.
    pub at: Option<String>,
    /// The transaction that it was about, if it was about one.
    pub txn: Option<String>,
    /// From when, in nanoseconds of the history.
    pub from: u64,
    /// Until when it was undone.
    pub to: u64,
    /// When all that it had left in doubt was decided and every node was ready; none if nobody
    /// watched, or it did not happen in time.
    pub back: Option<u64>,
    /// How many replicas were in doubt, and which.
    pub in_doubt: Option<u64>,
    /// Their names.
    pub in_doubt_at: Vec<String>,
    /// Milliseconds from the undoing until nothing was in doubt.
    pub resolved_ms: Option<u64>,
    /// Milliseconds from the undoing until every node was ready.
    pub ready_ms: Option<u64>,
    /// The index of the event that began it.
    pub index: u64,
    /// Whether an event said that it was undone.
    #[serde(skip)]
    closed: bool,
}

/// What brings a node back that was dead or stopped.
const REVIVES: &[&str] = &["restart", "resume"];

/// What undoes any other fault.
const MENDS: &[&str] = &["network-restored", "mend", "restore"];

impl Window {
    fn applies_to(&self, nodes: &[String]) -> bool {
        self.nodes.iter().any(|node| nodes.contains(node))
    }

    /// In a few words: what was done to whom.
    #[must_use]
    pub fn title(&self) -> String {
        let nodes = self.nodes.join(", ");
        match nodes.as_str() {
            "" => self.action.clone(),
            nodes => format!("{} {nodes}", self.action),
        }
    }
}

/// The faults of a history in the order in which they began. What was never undone lasts until the
/// end.
#[must_use]
pub fn windows(events: &[Event]) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for event in events {
        if let Action::Nemesis(nemesis) = &event.action {
            take(&mut windows, event, nemesis);
        }
    }
    let end = events.last().map_or(0, |event| event.time);
    for window in windows.iter_mut().filter(|window| !window.closed) {
        window.to = end;
    }
    windows
}

fn take(windows: &mut Vec<Window>, event: &Event, nemesis: &NemesisEvent) {
    let nodes = nodes_of(&nemesis.value);
    let fault = nemesis.text("fault");
    let name = nemesis.f.as_str();
    match name {
        "recovered" => {
            let of_it = windows.iter_mut().rev().find(|window| {
                Some(window.fault.as_str()) == fault
                    && (nodes.is_empty() || window.applies_to(&nodes))
            });
            if let Some(window) = of_it {
                let number = |name| nemesis.value.get(name).and_then(Json::as_u64);
                window.resolved_ms = number("resolved_ms");
                window.ready_ms = number("ready_ms");
                window.back = window.resolved_ms.and(window.ready_ms).map(|_| event.time);
                close(window, event.time);
            }
        }
        "heal" => windows.iter_mut().for_each(|window| close(window, event.time)),
        "miss" | "settled" | "final" | "broken" | "dump-failed" | "unseen" => {}
        _ if REVIVES.contains(&name) => {
            let undone = windows.iter_mut().filter(|w| w.silent && w.applies_to(&nodes));
            undone.for_each(|window| close(window, event.time));
        }
        _ if MENDS.contains(&name) => {
            let undone = windows.iter_mut().filter(|window| {
                !window.silent
                    && (nodes.is_empty() || window.applies_to(&nodes))
                    && fault.is_none_or(|fault| window.fault == fault)
            });
            undone.for_each(|window| close(window, event.time));
        }
        "died" => windows.push(begun(event, nemesis, nodes, "died")),
        _ => {
            if let Some(fault) = fault {
                // A node that was held at its point is killed there, or is continued.
                let held =
                    windows.iter_mut().filter(|w| w.action == "hold" && w.applies_to(&nodes));
                held.for_each(|window| close(window, event.time));
                windows.push(begun(event, nemesis, nodes, fault));
            }
        }
    }
}

fn begun(event: &Event, nemesis: &NemesisEvent, nodes: Vec<String>, fault: &str) -> Window {
    let text = |name| nemesis.text(name).map(str::to_owned);
    let names = |name| match nemesis.value.get(name) {
        Some(Json::Array(list)) => {
            list.iter().filter_map(Json::as_str).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    };
    Window {
        fault: fault.to_owned(),
        action: nemesis.f.clone(),
        nodes,
        silent: SILENCES.contains(&nemesis.f.as_str()),
        at: text("at").or_else(|| messages(&nemesis.value)),
        txn: text("txn"),
        from: event.time,
        to: event.time,
        in_doubt: nemesis.value.get("in_doubt").and_then(Json::as_u64),
        in_doubt_at: names("in_doubt_at"),
        index: event.index,
        ..Window::default()
    }
}

/// What leaves a node dead or stopped until it is brought back.
const SILENCES: &[&str] = &[
    "kill",
    "pause",
    "hold",
    "died",
    "power-loss",
    "wipe-replica",
    "second-master",
    "twin-master",
];

/// Which messages a fault is about, and what is done to them.
fn messages(value: &Json) -> Option<String> {
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value.get("messages") {
        Some(Json::Array(list)) => {
            let told = |one: &Json| {
                format!(
                    "{} {}",
                    one.get("pattern").or_else(|| one.get("what")).map_or_else(String::new, text),
                    one.get("action").or_else(|| one.get("is")).map_or_else(String::new, text)
                )
            };
            Some(list.iter().map(told).collect::<Vec<_>>().join(", "))
        }
        _ => Some(format!(
            "{} {}",
            text(value.get("message_action").or_else(|| value.get("did"))?),
            text(value.get("message")?)
        )),
    }
}

fn close(window: &mut Window, time: u64) {
    if !window.closed {
        window.closed = true;
        window.to = time;
    }
}

/// The nodes that an event names, in whatever field: `node`, `nodes`, `from`, `to`, `between`.
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
    fn a_fault_lasts_until_it_is_undone_and_is_back_when_somebody_saw_it() {
        let told = windows(&history(&[
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
            told.iter().map(|w| (w.title(), w.from, w.to, w.back, w.silent)).collect();
        let span = |title: &str, from, to, back, silent| (title.to_owned(), from, to, back, silent);
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
        assert_eq!(told[3].at.as_deref(), Some("master > r1 lost"));
        assert_eq!((told[0].in_doubt, told[1].txn.as_deref()), (Some(3), Some("1.7")));
    }
}
