//! When each fault was in force, derived from the nemesis events of a history. Works for any fault
//! and any node names: it relies only on the kinds of event that begin and end a fault.

use history::{
    Action, Event, NemesisEvent,
    nemesis::{ClockRestored, DiskRestored, Injected, InjectionKind, NetworkRestored},
};
use serde::Serialize;
use serde_json::Value as Json;

/// The action of an interval in which a node is down that ended by itself.
const DIED: &str = "died";

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
    /// Of a fault of the network, a disk or a clock that ended: how many messages, requests or processes it affected.
    #[serde(skip)]
    pub(super) affected: Option<u64>,
    /// Whether it is a part of the injection that holds a message.
    #[serde(skip)]
    pub(super) is_part: bool,
    /// Whether an event ended it.
    #[serde(skip)]
    pub(super) closed: bool,
}

impl FaultInterval {
    /// Whether it counts as an injection. A node that ends by itself is down, but that is no fault of the test. A node
    /// that is held at a crash point is then killed or paused there, and one that is killed or paused while a message
    /// is held is part of that. What affected nothing does not count.
    #[must_use]
    pub fn is_injection(&self) -> bool {
        !self.is_exit() && !self.is_hold() && !self.is_part && !self.is_without_effect()
    }

    /// Whether a node ended by itself.
    #[must_use]
    pub fn is_exit(&self) -> bool {
        self.action == DIED
    }

    /// Whether a node is held at a crash point.
    pub(super) fn is_hold(&self) -> bool {
        self.action == InjectionKind::Hold.name()
    }

    /// Whether there was nothing that it could affect: no message, no request of a disk, or no process.
    pub(super) fn is_without_effect(&self) -> bool {
        self.affected == Some(0)
    }

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
    match nemesis {
        NemesisEvent::Recovered(recovered) => {
            let interval = intervals.iter_mut().rev().find(|interval| {
                Some(&interval.fault) == recovered.fault.as_ref()
                    && recovered.node.as_ref().is_none_or(|node| interval.nodes.contains(node))
            });
            if let Some(interval) = interval {
                interval.resolved_ms = recovered.resolved_ms;
                interval.ready_ms = recovered.ready_ms;
                // Not every system says what is in doubt.
                let is_resolved = recovered.resolved_ms.is_some() || recovered.in_doubt.is_none();
                interval.recovered = interval.ready_ms.filter(|_| is_resolved).map(|_| event.time);
                interval.close(event.time);
            }
        }
        NemesisEvent::Healed(_) => {
            intervals.iter_mut().for_each(|interval| interval.close(event.time));
        }
        NemesisEvent::Returned(_, returned) => {
            let nodes = returned.all_nodes();
            let ended = intervals
                .iter_mut()
                .filter(|interval| interval.inactive && interval.applies_to(&nodes));
            ended.for_each(|interval| interval.close(event.time));
        }
        NemesisEvent::NetworkRestored(NetworkRestored { fault, node, intercepted }) => {
            let affected = intercepted.kinds.values().fold(0_u64, |sum, n| sum.saturating_add(*n));
            end_unless_inactive(intervals, fault.as_deref(), node.as_deref(), affected, event.time);
        }
        NemesisEvent::DiskRestored(DiskRestored { fault, node, held_ms, effects, .. }) => {
            let affected = effects.values().fold(0_u64, |sum, n| sum.saturating_add(*n));
            let affected = held_ms.map_or(0, |_| affected);
            end_unless_inactive(intervals, fault.as_deref(), node.as_deref(), affected, event.time);
        }
        NemesisEvent::ClockRestored(ClockRestored { fault, node, processes, .. }) => {
            let affected = processes.len() as u64;
            end_unless_inactive(intervals, fault.as_deref(), node.as_deref(), affected, event.time);
        }
        NemesisEvent::Died(died) => intervals.push(FaultInterval {
            fault: "exited by itself".to_owned(),
            action: DIED.to_owned(),
            nodes: vec![died.node.clone()],
            inactive: true,
            ..interval_at(event)
        }),
        NemesisEvent::Injected(kind, injected) => {
            let Some(fault) = &injected.fault else { return };
            let nodes = injected.all_nodes();
            // A node held at a crash point is then either killed there or resumed.
            let held = intervals.iter_mut().filter(|interval| {
                interval.action == InjectionKind::Hold.name() && interval.applies_to(&nodes)
            });
            held.for_each(|interval| interval.close(event.time));
            let mut interval = interval_of(event, *kind, fault, injected);
            if matches!(kind, InjectionKind::HostileClient | InjectionKind::Promote) {
                // It ends by itself: nothing is undone.
                let duration = injected.duration_ms.unwrap_or_default();
                interval.close(event.time.saturating_add(duration.saturating_mul(1_000_000)));
            }
            intervals.push(interval);
        }
        NemesisEvent::Missed(_)
        | NemesisEvent::Settled(_)
        | NemesisEvent::EndedEarly(_)
        | NemesisEvent::Compared(_)
        | NemesisEvent::NetworkHealth(_)
        | NemesisEvent::FinalReads(_)
        | NemesisEvent::DumpFailed(_)
        | NemesisEvent::Violated(_)
        | NemesisEvent::ClientFailed(_)
        | NemesisEvent::OpensFailed(_)
        | NemesisEvent::Step(_)
        | NemesisEvent::Other { .. } => {}
    }
}

/// Ends the intervals of a fault at a node, or all without these, in which the node runs.
fn end_unless_inactive(
    intervals: &mut [FaultInterval],
    fault: Option<&str>,
    node: Option<&str>,
    affected: u64,
    time: u64,
) {
    let ended = intervals.iter_mut().filter(|interval| {
        !interval.inactive
            && !interval.closed
            && node.is_none_or(|node| interval.nodes.iter().any(|other| other == node))
            && fault.is_none_or(|fault| interval.fault == fault)
    });
    for interval in ended {
        interval.affected = Some(affected);
        interval.close(time);
    }
}

/// An interval that begins at an event.
fn interval_at(event: &Event) -> FaultInterval {
    let (from, to, index) = (event.time, event.time, event.index);
    FaultInterval { from, to, index, ..FaultInterval::default() }
}

/// The interval that an injection begins.
fn interval_of(
    event: &Event,
    kind: InjectionKind,
    fault: &str,
    injected: &Injected,
) -> FaultInterval {
    FaultInterval {
        fault: fault.to_owned(),
        action: kind.name().to_owned(),
        nodes: injected.all_nodes(),
        inactive: kind.stops_node(),
        at: injected
            .at
            .clone()
            .or_else(|| intercepted_messages(injected))
            .or_else(|| injected.disk.clone())
            .or_else(|| injected.clock.map(|clock| clock.to_string())),
        txn: injected.txn.clone(),
        affected: (kind == InjectionKind::BitFlip).then_some(injected.flipped.len() as u64),
        is_part: kind.stops_node() && injected.message_action.is_some(),
        in_doubt: injected.in_doubt.count,
        in_doubt_at: injected.in_doubt.nodes.clone(),
        ..interval_at(event)
    }
}

/// The messages that a fault intercepts, and what it does to them.
fn intercepted_messages(injected: &Injected) -> Option<String> {
    if !injected.messages.is_empty() {
        let rules = injected.messages.iter();
        let rules = rules.map(|rule| format!("{} {}", in_words(&rule.pattern), rule.action));
        return Some(rules.collect::<Vec<_>>().join(", "));
    }
    let (action, message) = (injected.message_action.as_ref()?, injected.message.as_ref()?);
    Some(format!("{action} {}", in_words(message)))
}

/// The most elements of a list that are named.
const NAMED_MAX: usize = 4;

/// A pattern of messages in words, whatever its system calls the parts. Parts that select nothing are left out: an empty
/// list, `null`, a number 0, and a share of 1.
fn in_words(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Array(elements) if elements.len() > NAMED_MAX => {
            let named: Vec<String> = elements[..NAMED_MAX - 1].iter().map(in_words).collect();
            format!("{} and {} more", named.join(", "), elements.len() + 1 - NAMED_MAX)
        }
        Json::Array(elements) => elements.iter().map(in_words).collect::<Vec<_>>().join(", "),
        Json::Object(parts) => {
            let selects = |(name, part): &(&String, &Json)| match part {
                Json::Null => false,
                Json::Array(elements) => !elements.is_empty(),
                Json::Number(number) => {
                    number.as_f64() != Some(if name.as_str() == "share" { 1.0 } else { 0.0 })
                }
                _ => true,
            };
            let parts = parts.iter().filter(selects);
            let parts: Vec<String> =
                parts.map(|(name, part)| format!("{name} {}", in_words(part))).collect();
            if parts.is_empty() { "all".to_owned() } else { parts.join("; ") }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn history(events: &[(&str, Json)]) -> Vec<Event> {
        let event = |(index, (f, value)): (u64, &(&str, Json))| Event {
            index,
            time: index * 100,
            action: Action::Nemesis(NemesisEvent::new(f, value.clone()).expect("its form")),
        };
        (0..).zip(events).map(event).collect()
    }

    #[test]
    fn patterns_of_messages_are_told_in_words() {
        let words = |pattern: Json| in_words(&pattern);
        assert_eq!(words(json!("master > r1")), "master > r1");
        assert_eq!(
            words(json!({ "kinds": ["ack"], "share": 1.0, "skip": 0, "ways": ["r1>master"] })),
            "kinds ack; ways r1>master"
        );
        assert_eq!(
            words(json!({ "share": 0.5, "ways": ["a", "b", "c", "d", "e"] })),
            "share 0.5; ways a, b, c and 2 more"
        );
        assert_eq!(words(json!({ "txns": [], "share": 1.0 })), "all");
    }

    #[test]
    fn what_is_part_of_another_injection_or_affects_nothing_is_none() {
        let held =
            json!({ "fault": "m", "node": "master", "message_action": "held", "message": "x" });
        let partition = json!({ "fault": "p", "node": "r1", "messages": [] });
        let restored = |kinds: Json| json!({ "fault": "p", "node": "r1", "intercepted": { "messages": 1, "kinds": kinds } });
        let intervals = fault_intervals(&history(&[
            ("intercepted", held.clone()),
            ("pause", held),
            ("network-fault", partition.clone()),
            ("network-restored", restored(json!({ "ack": 2 }))),
            ("network-fault", partition),
            ("network-restored", restored(json!({}))),
            ("died", json!({ "node": "r2", "status": "exit status: 1", "log": "" })),
            ("clock", json!({ "fault": "clock", "node": "r1", "clock": { "jump_ms": 5000 } })),
            (
                "clock-restored",
                json!({ "fault": "clock", "node": "r1", "processes": [{ "pid": 7, "name": "x" }] }),
            ),
            ("clock", json!({ "fault": "clock", "node": "r1", "clock": { "jump_ms": 5000 } })),
            ("clock-restored", json!({ "fault": "clock", "node": "r1", "refused": [["x", "no"]] })),
        ]));
        let clock = &intervals[5];
        assert_eq!((clock.from, clock.to, clock.inactive), (700, 800, false));
        assert_eq!(clock.at.as_deref(), Some("the clock is 5 s ahead"));
        let counted: Vec<bool> = intervals.iter().map(FaultInterval::is_injection).collect();
        assert_eq!(counted, [true, false, true, false, false, true, false]);
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
            ("miss", json!({ "fault": "m", "node": "master", "why": "late" })),
            ("heal", json!({ "nodes": [] })),
            ("kill", json!({ "fault": "r", "node": "r3" })),
            ("final", json!({ "unread": [] })),
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
                span("network-fault r1, r3", 600, 800, None, false),
                span("kill r3", 900, 1000, None, true),
            ]
        );
        assert_eq!(intervals[3].at.as_deref(), Some("master > r1 lost"));
        assert_eq!((intervals[0].in_doubt, intervals[1].txn.as_deref()), (Some(3), Some("1.7")));
    }
}
