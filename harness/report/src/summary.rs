//! The summary of a run for a terminal: operations by outcome, injections by fault and crash point, and
//! recovery times. Counts recorded events; does not check them.

use std::{collections::BTreeMap, fmt};

use crate::{fault_intervals, terminal::escape_line};
use history::{
    Action, Event, Function, Kind, NemesisEvent,
    nemesis::{ForbiddenStart, Injected, InjectionKind},
};

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
    /// The violation that the online checker found during the run.
    online_violation: Option<OnlineViolation>,
    /// Why the run ended before its time, if not for that violation.
    ended_early: Option<String>,
    /// The time of the last event, in nanoseconds.
    end: u64,
}

/// A violation that was found during the run.
#[derive(Clone, Debug)]
struct OnlineViolation {
    /// What was found, in words.
    what: String,
    /// When, in nanoseconds of the history.
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
    /// Injections. What holds a message or a node until it is killed or paused is one of them together with that.
    injected: u64,
    /// Injections by crash point, or `at any time`.
    points: BTreeMap<String, PointTally>,
    /// Crash points that were armed but not hit, and intercept rules that matched no message.
    missed: u64,
    /// Affected messages by kind.
    messages: BTreeMap<String, u64>,
    /// What came of times with a faulty disk.
    disk_effects: BTreeMap<String, u64>,
    /// How often the node's process ended of it.
    disk_exits: u64,
    /// In how many processes the clock was wrong, and in how many it could not be made so.
    clocks: u64,
    clocks_refused: u64,
    /// How often bits were flipped, and how often the node refused to start on them.
    bit_flips: u64,
    bit_flips_refused: u64,
    /// What hostile clients did, and how often.
    attacks: BTreeMap<String, u64>,
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

impl FaultTally {
    /// Counts an injection of the fault.
    fn injected(&mut self, kind: InjectionKind, injected: &Injected) {
        if kind == InjectionKind::BitFlip {
            self.bit_flips += u64::from(!injected.flipped.is_empty());
            let is_refused = matches!(injected.start, ForbiddenStart::Refused(_));
            self.bit_flips_refused += u64::from(is_refused);
            return;
        }
        match injected.start {
            ForbiddenStart::None => {}
            ForbiddenStart::Refused(_) => self.refused += 1,
            ForbiddenStart::Admitted => self.admitted += 1,
            ForbiddenStart::Exited(_) | ForbiddenStart::Undecided { .. } => self.undetermined += 1,
        }
        let count: fn(&mut PointTally) -> &mut u64 = match kind {
            InjectionKind::Kill => |point| &mut point.kills,
            InjectionKind::Terminate => |point| &mut point.terminations,
            InjectionKind::Pause => |point| &mut point.pauses,
            InjectionKind::PowerLoss => |point| &mut point.power_losses,
            InjectionKind::Hold
            | InjectionKind::Wipe
            | InjectionKind::SecondInstance
            | InjectionKind::Intercept
            | InjectionKind::NetworkFault
            | InjectionKind::DiskFull
            | InjectionKind::DiskError
            | InjectionKind::DiskSlow
            | InjectionKind::DiskStall
            | InjectionKind::BitFlip
            | InjectionKind::RestoredCopy
            | InjectionKind::Replace
            | InjectionKind::Promote
            | InjectionKind::Clock => return,
            InjectionKind::HostileClient => {
                let attack = injected.attack.clone().unwrap_or_default();
                *self.attacks.entry(attack).or_default() += 1;
                return;
            }
        };
        let name = injected.at.as_deref().unwrap_or("at any time").to_owned();
        let point = self.points.entry(name).or_default();
        *count(point) += 1;
        if let Some(replicas) = injected.in_doubt.count {
            *point.in_doubt.entry(replicas).or_default() += 1;
        }
    }
}

#[derive(Clone, Debug, Default)]
struct PointTally {
    kills: u64,
    terminations: u64,
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
        for interval in fault_intervals(events).iter().filter(|interval| interval.is_injection()) {
            tally.faults.entry(interval.fault.clone()).or_default().injected += 1;
        }
        tally
    }

    fn nemesis(&mut self, event: &NemesisEvent) {
        match event {
            NemesisEvent::Violated(violated) => {
                let (what, at, ended) = (violated.what(), self.end, violated.ended);
                self.online_violation = Some(OnlineViolation { what, at, ended });
            }
            NemesisEvent::EndedEarly(ended) => self.ended_early = Some(ended.why.clone()),
            NemesisEvent::Injected(kind, injected) => {
                if let Some(fault) = &injected.fault {
                    self.faults.entry(fault.clone()).or_default().injected(*kind, injected);
                }
            }
            NemesisEvent::Missed(missed) => {
                if let Some(fault) = &missed.injected.fault {
                    self.faults.entry(fault.clone()).or_default().missed += 1;
                }
            }
            NemesisEvent::NetworkRestored(restored) => {
                let Some(fault) = &restored.fault else { return };
                let tally = self.faults.entry(fault.clone()).or_default();
                let kinds = &restored.intercepted.kinds;
                for (kind, count) in kinds {
                    let total = tally.messages.entry(kind.clone()).or_default();
                    *total = total.saturating_add(*count);
                }
            }
            NemesisEvent::DiskRestored(restored) => {
                let Some(fault) = &restored.fault else { return };
                let tally = self.faults.entry(fault.clone()).or_default();
                tally.disk_exits += u64::from(restored.exit.is_some());
                for (effect, count) in &restored.effects {
                    let total = tally.disk_effects.entry(effect.clone()).or_default();
                    *total = total.saturating_add(*count);
                }
            }
            NemesisEvent::ClockRestored(restored) => {
                let Some(fault) = &restored.fault else { return };
                let tally = self.faults.entry(fault.clone()).or_default();
                tally.clocks += restored.processes.len() as u64;
                tally.clocks_refused += restored.refused.len() as u64;
            }
            NemesisEvent::Recovered(recovered) => {
                let Some(fault) = &recovered.fault else { return };
                let tally = self.faults.entry(fault.clone()).or_default();
                match (recovered.resolved_ms, recovered.ready_ms) {
                    (Some(resolved), Some(ready)) => {
                        tally.resolved.push(resolved);
                        tally.ready.push(ready);
                    }
                    // A system that does not say what is in doubt.
                    (None, Some(ready)) if recovered.in_doubt.is_none() => tally.ready.push(ready),
                    _ => tally.unrecovered += 1,
                }
            }
            NemesisEvent::Died(_)
            | NemesisEvent::Returned(..)
            | NemesisEvent::Healed(_)
            | NemesisEvent::Settled(_)
            | NemesisEvent::Compared(_)
            | NemesisEvent::NetworkHealth(_)
            | NemesisEvent::FinalReads(_)
            | NemesisEvent::DumpFailed(_)
            | NemesisEvent::ClientFailed(_)
            | NemesisEvent::OpensFailed(_)
            | NemesisEvent::Step(_)
            | NemesisEvent::Other { .. } => {}
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

    /// Why the run ended before its time. `None` if it did not.
    #[must_use]
    pub fn ended_early(&self) -> Option<String> {
        let found = self.online_violation.iter().find(|found| found.ended);
        found.map(|found| found.what.clone()).or_else(|| self.ended_early.clone())
    }

    /// The number of injections.
    #[must_use]
    pub fn injections(&self) -> u64 {
        self.faults.values().map(|fault| fault.injected).sum()
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
            write!(f, "Fault {}: {} injected", escape_line(name), fault.injected)?;
            if fault.missed > 0 {
                write!(f, ", {} not reached", fault.missed)?;
            }
            writeln!(f)?;
            let replaced = self.details.contains_key(name);
            let points = fault.points.iter().filter(|_| !replaced);
            let width = fault.points.keys().map(String::len).max().unwrap_or(0);
            for (name, point) in points {
                let PointTally { kills, terminations, pauses, power_losses, in_doubt } = point;
                let in_doubt: Vec<_> = in_doubt
                    .iter()
                    .map(|(replicas, times)| format!("{replicas} ({times}×)"))
                    .collect();
                let name = escape_line(name);
                write!(f, "  {name:width$}  {kills:>3} killed, {pauses:>3} paused")?;
                if *terminations > 0 {
                    write!(f, ", {terminations:>3} ended by SIGTERM")?;
                }
                if *power_losses > 0 {
                    write!(f, ", {power_losses:>3} power losses")?;
                }
                if !in_doubt.is_empty() {
                    write!(f, "; replicas in doubt: {}", in_doubt.join(", "))?;
                }
                writeln!(f)?;
            }
            for note in self.notes.get(name).into_iter().flatten() {
                writeln!(f, "  {note}")?;
            }
            if !fault.messages.is_empty() {
                let kinds: Vec<_> =
                    fault.messages.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
                writeln!(f, "  messages affected: {}", escape_line(&kinds.join(", ")))?;
            }
            if !fault.disk_effects.is_empty() {
                let effects = fault.disk_effects.iter();
                let effects: Vec<_> =
                    effects.map(|(effect, count)| format!("{effect} {count}")).collect();
                write!(f, "  disks: {}", escape_line(&effects.join(", ")))?;
                if fault.disk_exits > 0 {
                    write!(f, "; nodes that ended: {}", fault.disk_exits)?;
                }
                writeln!(f)?;
            }
            if fault.clocks + fault.clocks_refused > 0 {
                write!(f, "  clocks: wrong in {} processes", fault.clocks)?;
                if fault.clocks_refused > 0 {
                    write!(f, ", and could not be changed in {}", fault.clocks_refused)?;
                }
                writeln!(f)?;
            }
            if fault.bit_flips > 0 {
                writeln!(f, "  refused to start on flipped bits: {}", fault.bit_flips_refused)?;
            }
            if !fault.attacks.is_empty() {
                let kinds: Vec<_> =
                    fault.attacks.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
                writeln!(f, "  attacks: {}", escape_line(&kinds.join(", ")))?;
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
            } else if let Some(ready) = Latencies::of(&fault.ready) {
                writeln!(f, "  recovery: all nodes ready {ready}")?;
            }
            if fault.unrecovered > 0 {
                writeln!(f, "  not recovered in time: {} times", fault.unrecovered)?;
            }
        }
        for text in self.details.values() {
            f.write_str(text)?;
        }
        if let Some(why) = self.ended_early() {
            writeln!(f, "Ended early: {}", escape_line(&why))?;
        } else if let Some(OnlineViolation { what, at, .. }) = &self.online_violation {
            writeln!(f, "Found after {:.1} s: {}", *at as f64 / 1e9, escape_line(what))?;
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
        let nemesis = |f: &str, value| {
            Action::Nemesis(NemesisEvent::new(f, value).unwrap_or_else(|why| panic!("{why}")))
        };
        let point = "master:after-persist:commit";
        let hit =
            json!({ "fault": "master-uncertainty", "node": "master", "at": point, "in_doubt": 3 });
        let missed = json!({ "fault": "master-uncertainty", "at": point, "why": "late" });
        let client = |kind| {
            Action::Client(ClientEvent {
                process: 0,
                kind,
                f: Function::Del,
                key: "k".to_owned(),
                value: None,
                version: None,
                error: None,
                node: None,
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
            nemesis("miss", missed),
            nemesis("pause", hit),
            nemesis(
                "recovered",
                json!({ "fault": "master-uncertainty", "in_doubt": 1, "resolved_ms": null, "ready_ms": 3 }),
            ),
            nemesis("broken", json!({ "key": "k13", "ended": true })),
            nemesis("died", json!({ "node": "r1", "status": "exit status: 3" })),
            nemesis("disturb", json!({ "fault": "partition", "nodes": ["r1"], "messages": [] })),
            nemesis("mend", json!({ "fault": "partition", "struck": { "messages": 0 } })),
            nemesis("disturb", json!({ "fault": "partition", "nodes": ["r1"], "messages": [] })),
            nemesis(
                "mend",
                json!({
                    "fault": "partition",
                    "struck": { "messages": 5, "kinds": { "ack": 2, "prepare": 3 } },
                }),
            ),
            nemesis(
                "second-master",
                json!({ "fault": "second-master", "refused": true, "status": "exit status: 1" }),
            ),
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
            "Operations: 1 in 15.0 s",
            "del        1: 0 ok, 0 fail, 1 info",
            "master-uncertainty: 2 injected, 1 not reached",
            "1 killed,   1 paused; replicas in doubt: 3 (2×)",
            "nothing in doubt after 20 ms (median; at most 20 ms), all nodes ready after 30 ms",
            "not recovered in time: 1 times",
            "the history of k13 is not linearizable",
            "partition: 1 injected\n  messages affected: ack 2, prepare 3",
            "second-master: 1 injected\n  refused: 1, admitted: 0",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
