//! The summary of a run for a terminal: operations by outcome, injections by fault and crash point, and
//! recovery times. Counts recorded events; does not check them.

use std::{collections::BTreeMap, fmt};

use history::{Action, Event, Function, Kind, NemesisEvent};
use serde_json::Value as Json;

/// The counts of a run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Operations by function.
    operations: BTreeMap<Function, OutcomeCounts>,
    /// Injections by fault.
    faults: BTreeMap<String, FaultTally>,
    /// Text that is printed in place of the crash points of a fault.
    details: BTreeMap<String, String>,
    /// Lines that are added to a fault.
    notes: BTreeMap<String, Vec<String>>,
    /// Nodes that exited unexpectedly, with their exit status.
    unexpected_exits: Vec<String>,
    /// The violation that the online checker found during the run.
    online_violation: Option<OnlineViolation>,
    /// The time of the last event, in nanoseconds.
    end: u64,
}

/// A key whose history was found not linearizable during the run.
#[derive(Clone, Debug)]
struct OnlineViolation {
    key: String,
    /// When it was found, in nanoseconds of the history.
    at: u64,
    /// Whether the run was ended because of it.
    ended: bool,
}

#[derive(Clone, Debug, Default)]
struct OutcomeCounts {
    invoked: u64,
    ok: u64,
    fail: u64,
    info: u64,
}

#[derive(Clone, Debug, Default)]
struct FaultTally {
    /// Injections by crash point, or `at any time`.
    points: BTreeMap<String, PointTally>,
    /// Crash points that were armed but not hit, and intercept rules that matched no message.
    missed: u64,
    /// Injections that affected at least one message.
    with_messages: u64,
    /// Affected messages by kind.
    messages: BTreeMap<String, u64>,
    /// Starts of a node that must be refused: refused, admitted, and neither observed.
    refused: u64,
    admitted: u64,
    undetermined: u64,
    /// Milliseconds from each repair until no transaction was in doubt.
    resolved: Vec<u64>,
    /// Milliseconds from each repair until every node was ready.
    ready: Vec<u64>,
    /// Repairs after which the cluster did not recover before the next injection.
    unrecovered: u64,
}

#[derive(Clone, Debug, Default)]
struct PointTally {
    kills: u64,
    pauses: u64,
    power_losses: u64,
    /// Injections by the number of replicas in doubt.
    in_doubt: BTreeMap<u64, u64>,
}

impl Tally {
    /// Counts the events of a history.
    #[must_use]
    pub fn of(events: &[Event]) -> Self {
        let mut tally = Tally::default();
        for event in events {
            tally.end = event.time;
            match &event.action {
                Action::Client(event) => {
                    let counts = tally.operations.entry(event.f).or_default();
                    match event.kind {
                        Kind::Invoke => counts.invoked += 1,
                        Kind::Ok => counts.ok += 1,
                        Kind::Fail => counts.fail += 1,
                        Kind::Info => counts.info += 1,
                    }
                }
                Action::Nemesis(event) => tally.nemesis(event),
            }
        }
        tally
    }

    fn nemesis(&mut self, event: &NemesisEvent) {
        match event.f.as_str() {
            "died" => {
                let [node, status] = ["node", "status"].map(|name| event.text(name).unwrap_or("?"));
                self.unexpected_exits.push(format!("{node}: {status}"));
            }
            "broken" => {
                let ended = event.value.get("ended").and_then(Json::as_bool).unwrap_or(true);
                let key = event.text("key").unwrap_or("?").to_owned();
                self.online_violation = Some(OnlineViolation { key, at: self.end, ended });
            }
            _ => {}
        }
        let Some(fault) = event.text("fault") else { return };
        let tally = self.faults.entry(fault.to_owned()).or_default();
        let number = |name| event.value.get(name).and_then(Json::as_u64);
        match event.f.as_str() {
            f @ ("kill" | "pause" | "power-loss") => {
                let point = event.text("at").unwrap_or("at any time").to_owned();
                let point = tally.points.entry(point).or_default();
                *match f {
                    "kill" => &mut point.kills,
                    "pause" => &mut point.pauses,
                    _ => &mut point.power_losses,
                } += 1;
                if let Some(replicas) = number("in_doubt") {
                    *point.in_doubt.entry(replicas).or_default() += 1;
                }
            }
            "miss" => tally.missed += 1,
            "network-restored" | "mend" => {
                let intercepted =
                    event.value.get("intercepted").or_else(|| event.value.get("struck"));
                let kinds = intercepted.and_then(|messages| messages.get("kinds")?.as_object());
                let kinds = kinds.into_iter().flatten();
                let before = tally.messages.values().sum::<u64>();
                for (kind, count) in kinds {
                    *tally.messages.entry(kind.clone()).or_default() += count.as_u64().unwrap_or(0);
                }
                tally.with_messages += u64::from(tally.messages.values().sum::<u64>() > before);
            }
            f if f == fault => {
                let is = |name| event.value.get(name).and_then(Json::as_bool);
                match (is("refused"), is("admitted")) {
                    (Some(true), _) => tally.refused += 1,
                    (_, Some(true)) => tally.admitted += 1,
                    (Some(false), _) => tally.undetermined += 1,
                    (None, _) => {}
                }
            }
            "recovered" => match (number("resolved_ms"), number("ready_ms")) {
                (Some(resolved), Some(ready)) => {
                    tally.resolved.push(resolved);
                    tally.ready.push(ready);
                }
                _ => tally.unrecovered += 1,
            },
            _ => {}
        }
    }

    /// Adds a line to what is printed about a fault.
    pub fn add_note(&mut self, fault: &str, line: impl Into<String>) {
        self.notes.entry(fault.to_owned()).or_default().push(line.into());
    }

    /// Prints a text in place of the crash points of a fault.
    pub fn set_details(&mut self, fault: &str, text: impl Into<String>) {
        self.details.insert(fault.to_owned(), text.into());
    }

    /// The number of operations invoked.
    #[must_use]
    pub fn invoked(&self) -> u64 {
        self.operations.values().map(|counts| counts.invoked).sum()
    }

    /// A phrase that says how long the cluster took to resolve transactions in doubt after a repair.
    #[must_use]
    pub fn recovery(&self) -> String {
        let resolved: Vec<_> =
            self.faults.values().flat_map(|fault| fault.resolved.iter().copied()).collect();
        let unrecovered: u64 = self.faults.values().map(|fault| fault.unrecovered).sum();
        match (Latencies::of(&resolved), unrecovered) {
            (None, 0) => "nothing to resolve".to_owned(),
            (Some(latencies), 0) => format!("resolved {latencies}"),
            (_, unrecovered) => format!("not recovered in time {unrecovered} times"),
        }
    }

    /// The number of injections.
    #[must_use]
    pub fn injections(&self) -> u64 {
        self.faults.values().map(FaultTally::injections).sum()
    }
}

impl FaultTally {
    fn injections(&self) -> u64 {
        let points: u64 =
            self.points.values().map(|point| point.kills + point.pauses + point.power_losses).sum();
        // Holding a message while a node is killed or paused is part of the same injection.
        points.max(self.with_messages) + self.refused + self.admitted + self.undetermined
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.end as f64 / 1e9;
        writeln!(f, "Operations: {} in {seconds:.1} s", self.invoked())?;
        for (function, counts) in &self.operations {
            let OutcomeCounts { invoked, ok, fail, info } = counts;
            writeln!(f, "  {function}  {invoked:>7}: {ok} ok, {fail} fail, {info} info")?;
        }
        for (name, fault) in &self.faults {
            write!(f, "Fault {name}: {} injected", fault.injections())?;
            if fault.missed > 0 {
                write!(f, ", {} not reached", fault.missed)?;
            }
            writeln!(f)?;
            let replaced = self.details.contains_key(name);
            let points = fault.points.iter().filter(|_| !replaced);
            let width = fault.points.keys().map(String::len).max().unwrap_or(0);
            for (name, point) in points {
                let PointTally { kills, pauses, power_losses, in_doubt } = point;
                let in_doubt: Vec<_> = in_doubt
                    .iter()
                    .map(|(replicas, times)| format!("{replicas} ({times}×)"))
                    .collect();
                write!(f, "  {name:width$}  {kills:>3} killed, {pauses:>3} paused")?;
                if *power_losses > 0 {
                    write!(f, ", {power_losses:>3} power losses")?;
                }
                writeln!(f, "; replicas in doubt: {}", in_doubt.join(", "))?;
            }
            for note in self.notes.get(name).into_iter().flatten() {
                writeln!(f, "  {note}")?;
            }
            if !fault.messages.is_empty() {
                let kinds: Vec<_> =
                    fault.messages.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
                writeln!(f, "  messages affected: {}", kinds.join(", "))?;
            }
            if fault.refused + fault.admitted + fault.undetermined > 0 {
                write!(f, "  refused: {}, admitted: {}", fault.refused, fault.admitted)?;
                if fault.undetermined > 0 {
                    write!(f, ", undetermined: {}", fault.undetermined)?;
                }
                writeln!(f)?;
            }
            if let (Some(resolved), Some(ready)) =
                (Latencies::of(&fault.resolved), Latencies::of(&fault.ready))
            {
                writeln!(f, "  recovery: nothing in doubt {resolved}, all nodes ready {ready}")?;
            }
            if fault.unrecovered > 0 {
                writeln!(f, "  not recovered in time: {} times", fault.unrecovered)?;
            }
        }
        for text in self.details.values() {
            f.write_str(text)?;
        }
        for exit in &self.unexpected_exits {
            writeln!(f, "Unexpected exit: {exit}")?;
        }
        if let Some(OnlineViolation { key, at, ended }) = &self.online_violation {
            if *ended {
                write!(f, "Ended early")?;
            } else {
                write!(f, "Found after {:.1} s", *at as f64 / 1e9)?;
            }
            writeln!(f, ": the history of {key} is not linearizable")?;
        }
        Ok(())
    }
}

/// The median and maximum of some latencies, in milliseconds.
struct Latencies {
    median: u64,
    max: u64,
}

impl Latencies {
    fn of(times: &[u64]) -> Option<Latencies> {
        let mut times = times.to_vec();
        times.sort_unstable();
        Some(Latencies { median: *times.get(times.len() / 2)?, max: *times.last()? })
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} ms (median; at most {} ms)", self.median, self.max)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use history::ClientEvent;

    #[test]
    fn injections_are_counted_by_crash_point_with_their_recovery() {
        let nemesis = |f: &str, value| Action::Nemesis(NemesisEvent { f: f.to_owned(), value });
        let point = "master:after-persist:commit";
        let hit =
            json!({ "fault": "master-uncertainty", "node": "master", "at": point, "in_doubt": 3 });
        let client = |kind| {
            Action::Client(ClientEvent {
                process: 0,
                kind,
                f: Function::Del,
                key: "k".to_owned(),
                value: None,
                version: None,
                error: None,
            })
        };
        let actions = [
            client(Kind::Invoke),
            nemesis("hold", hit.clone()),
            nemesis("kill", hit.clone()),
            client(Kind::Info),
            nemesis("restart", json!({ "node": "master", "in_doubt": 3 })),
            nemesis(
                "recovered",
                json!({ "fault": "master-uncertainty", "resolved_ms": 20, "ready_ms": 30 }),
            ),
            nemesis("miss", hit.clone()),
            nemesis("pause", hit),
            nemesis("recovered", json!({ "fault": "master-uncertainty", "resolved_ms": null })),
            nemesis("broken", json!({ "key": "k13" })),
            nemesis("died", json!({ "node": "r1", "status": "exit status: 3" })),
            nemesis("mend", json!({ "fault": "partition", "struck": { "kinds": {} } })),
            nemesis(
                "mend",
                json!({ "fault": "partition", "struck": { "kinds": { "ack": 2, "prepare": 3 } } }),
            ),
            nemesis("second-master", json!({ "fault": "second-master", "refused": true })),
        ];
        let events: Vec<_> = actions
            .into_iter()
            .zip(0..)
            .map(|(action, index)| Event { index, time: index * 1_000_000_000, action })
            .collect();
        let tally = Tally::of(&events);
        assert_eq!((tally.invoked(), tally.injections()), (1, 4));
        let text = tally.to_string();
        for part in [
            "Operations: 1 in 13.0 s",
            "del        1: 0 ok, 0 fail, 1 info",
            "master-uncertainty: 2 injected, 1 not reached",
            "1 killed,   1 paused; replicas in doubt: 3 (2×)",
            "nothing in doubt after 20 ms (median; at most 20 ms), all nodes ready after 30 ms",
            "not recovered in time: 1 times",
            "Unexpected exit: r1: exit status: 3",
            "the history of k13 is not linearizable",
            "partition: 1 injected\n  messages affected: ack 2, prepare 3",
            "second-master: 1 injected\n  refused: 1, admitted: 0",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
