//! A run in a terminal: what was asked, what was struck, and how long it took to come back. Counts
//! what was recorded; judges nothing.

use std::{collections::BTreeMap, fmt};

use serde_json::Value as Json;

use crate::checker::faults::lost;
use crate::history::{Action, Event, Function, Kind, NemesisEvent};
use crate::nemesis::matrix::Coverage;

/// What happened in a run, counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How operations ended, by what they did.
    operations: BTreeMap<Function, Ends>,
    /// What was done by each fault.
    faults: BTreeMap<String, FaultTally>,
    /// How much of the crash matrix was done.
    coverage: Coverage,
    /// Nodes that ended though nobody had asked them to, and what was seen of it.
    deaths: Vec<String>,
    /// What was seen to be wrong while the run went on.
    broken: Option<Broken>,
    /// Nanoseconds of the last event.
    length: u64,
}

/// A key whose history was seen to be beyond repair.
#[derive(Clone, Debug)]
struct Broken {
    key: String,
    /// When, in nanoseconds of the history.
    at: u64,
    /// The run ended then.
    ended: bool,
}

#[derive(Clone, Debug, Default)]
struct Ends {
    invoked: u64,
    ok: u64,
    fail: u64,
    info: u64,
}

#[derive(Clone, Debug, Default)]
struct FaultTally {
    /// The strikes at each point, or at any time.
    points: BTreeMap<String, PointTally>,
    /// Points that were armed and not reached, messages that were waited for and not sent.
    missed: u64,
    /// How much was lost with the power: pages, and changes of directories.
    lost: u64,
    /// How often messages were struck.
    disturbed: u64,
    /// How many messages of each kind were.
    messages: BTreeMap<String, u64>,
    /// How often a node that must be refused was, was let in, and was seen to do neither.
    refused: u64,
    admitted: u64,
    neither: u64,
    /// How long it took until all that was in doubt was decided, in milliseconds.
    resolved: Vec<u64>,
    /// How long it took until every node was ready again, in milliseconds.
    ready: Vec<u64>,
    /// How often the cluster did not come back before the next strike.
    stuck: u64,
}

#[derive(Clone, Debug, Default)]
struct PointTally {
    kills: u64,
    pauses: u64,
    cuts: u64,
    /// How many strikes found so many replicas in doubt.
    in_doubt: BTreeMap<u64, u64>,
}

impl Tally {
    /// Counts the events of a history.
    #[must_use]
    pub fn of(events: &[Event]) -> Self {
        let mut tally = Tally::default();
        for event in events {
            tally.length = event.time;
            match &event.action {
                Action::Client(event) => {
                    let ends = tally.operations.entry(event.f).or_default();
                    match event.kind {
                        Kind::Invoke => ends.invoked += 1,
                        Kind::Ok => ends.ok += 1,
                        Kind::Fail => ends.fail += 1,
                        Kind::Info => ends.info += 1,
                    }
                }
                Action::Nemesis(event) => tally.nemesis(event),
            }
        }
        tally
    }

    fn nemesis(&mut self, event: &NemesisEvent) {
        self.coverage.add(&event.f, &event.value);
        match event.f.as_str() {
            "died" => {
                let [node, status] = ["node", "status"].map(|name| event.text(name).unwrap_or("?"));
                self.deaths.push(format!("{node}: {status}"));
            }
            "broken" => {
                let ended = event.value.get("ended").and_then(Json::as_bool).unwrap_or(true);
                let key = event.text("key").unwrap_or("?").to_owned();
                self.broken = Some(Broken { key, at: self.length, ended });
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
                    _ => &mut point.cuts,
                } += 1;
                tally.lost += lost(event);
                if let Some(replicas) = number("in_doubt") {
                    *point.in_doubt.entry(replicas).or_default() += 1;
                }
            }
            "miss" => tally.missed += 1,
            "network-restored" | "mend" => {
                let intercepted =
                    event.value.get("intercepted").or_else(|| event.value.get("struck"));
                let kinds = intercepted.and_then(|it| it.get("kinds")?.as_object());
                let kinds = kinds.into_iter().flatten();
                let before = tally.messages.values().sum::<u64>();
                for (kind, count) in kinds {
                    *tally.messages.entry(kind.clone()).or_default() += count.as_u64().unwrap_or(0);
                }
                tally.disturbed += u64::from(tally.messages.values().sum::<u64>() > before);
            }
            f if f == fault => {
                let is = |name| event.value.get(name).and_then(Json::as_bool);
                match (is("refused"), is("admitted")) {
                    (Some(true), _) => tally.refused += 1,
                    (_, Some(true)) => tally.admitted += 1,
                    (Some(false), _) => tally.neither += 1,
                    (None, _) => {}
                }
            }
            "recovered" => match (number("resolved_ms"), number("ready_ms")) {
                (Some(resolved), Some(ready)) => {
                    tally.resolved.push(resolved);
                    tally.ready.push(ready);
                }
                _ => tally.stuck += 1,
            },
            _ => {}
        }
    }

    /// How much of the crash matrix was done.
    #[must_use]
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// How many operations were asked.
    #[must_use]
    pub fn invoked(&self) -> u64 {
        self.operations.values().map(|ends| ends.invoked).sum()
    }

    /// In a few words, how long it took after a strike until nothing was in doubt.
    #[must_use]
    pub fn recovery(&self) -> String {
        let resolved: Vec<_> =
            self.faults.values().flat_map(|fault| fault.resolved.iter().copied()).collect();
        let stuck: u64 = self.faults.values().map(|fault| fault.stuck).sum();
        match (Times::of(&resolved), stuck) {
            (None, 0) => "nothing to resolve".to_owned(),
            (Some(times), 0) => format!("resolved {times}"),
            (_, stuck) => format!("not back in time {stuck} times"),
        }
    }

    /// How often a fault happened.
    #[must_use]
    pub fn strikes(&self) -> u64 {
        self.faults.values().map(FaultTally::strikes).sum()
    }
}

impl FaultTally {
    fn strikes(&self) -> u64 {
        let points: u64 = self.points.values().map(|it| it.kills + it.pauses + it.cuts).sum();
        // A message that was held while a node was killed or paused is part of that strike.
        points.max(self.disturbed) + self.refused + self.admitted + self.neither
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.length as f64 / 1e9;
        writeln!(f, "Operations: {} in {seconds:.1} s", self.invoked())?;
        for (function, ends) in &self.operations {
            let Ends { invoked, ok, fail, info } = ends;
            writeln!(f, "  {function}  {invoked:>7}: {ok} ok, {fail} fail, {info} info")?;
        }
        for (name, fault) in &self.faults {
            write!(f, "Fault {name}: {} times", fault.strikes())?;
            if fault.missed > 0 {
                write!(f, ", {} more not reached", fault.missed)?;
            }
            writeln!(f)?;
            // What the matrix reached is told below, by cell.
            let told = name == "crash-matrix" && !self.coverage.is_empty();
            let points = fault.points.iter().filter(|_| !told);
            let width = fault.points.keys().map(String::len).max().unwrap_or(0);
            for (name, point) in points {
                let PointTally { kills, pauses, cuts, in_doubt } = point;
                let in_doubt: Vec<_> = in_doubt
                    .iter()
                    .map(|(replicas, times)| format!("{replicas} ({times}×)"))
                    .collect();
                write!(f, "  {name:width$}  {kills:>3} killed, {pauses:>3} paused")?;
                if *cuts > 0 {
                    write!(f, ", {cuts:>3} without power")?;
                }
                writeln!(f, "; replicas in doubt: {}", in_doubt.join(", "))?;
            }
            if fault.lost > 0 {
                writeln!(f, "  lost with the power: {} pages and names", fault.lost)?;
            }
            if !fault.messages.is_empty() {
                let kinds: Vec<_> =
                    fault.messages.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
                writeln!(f, "  messages struck: {}", kinds.join(", "))?;
            }
            if fault.refused + fault.admitted + fault.neither > 0 {
                write!(f, "  refused: {}, let in: {}", fault.refused, fault.admitted)?;
                if fault.neither > 0 {
                    write!(f, ", neither: {}", fault.neither)?;
                }
                writeln!(f)?;
            }
            if let (Some(resolved), Some(ready)) =
                (Times::of(&fault.resolved), Times::of(&fault.ready))
            {
                writeln!(f, "  back after it: nothing in doubt {resolved}, all ready {ready}")?;
            }
            if fault.stuck > 0 {
                writeln!(f, "  not back in time: {} times", fault.stuck)?;
            }
        }
        if !self.coverage.is_empty() {
            write!(f, "{}", self.coverage)?;
        }
        for death in &self.deaths {
            writeln!(f, "Died unasked: {death}")?;
        }
        if let Some(Broken { key, at, ended }) = &self.broken {
            if *ended {
                write!(f, "Ended early")?;
            } else {
                write!(f, "Seen after {:.1} s", *at as f64 / 1e9)?;
            }
            writeln!(f, ": what clients saw of {key} cannot become right any more")?;
        }
        Ok(())
    }
}

/// Some times in short.
struct Times {
    median: u64,
    max: u64,
}

impl Times {
    fn of(times: &[u64]) -> Option<Times> {
        let mut times = times.to_vec();
        times.sort_unstable();
        Some(Times { median: *times.get(times.len() / 2)?, max: *times.last()? })
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in {} ms (median; at most {} ms)", self.median, self.max)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::ClientEvent;

    #[test]
    fn strikes_are_counted_by_point_with_what_followed() {
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
        assert_eq!((tally.invoked(), tally.strikes()), (1, 4));
        let text = tally.to_string();
        for part in [
            "Operations: 1 in 13.0 s",
            "del        1: 0 ok, 0 fail, 1 info",
            "master-uncertainty: 2 times, 1 more not reached",
            "1 killed,   1 paused; replicas in doubt: 3 (2×)",
            "nothing in doubt in 20 ms (median; at most 20 ms), all ready in 30 ms",
            "not back in time: 1 times",
            "Died unasked: r1: exit status: 3",
            "what clients saw of k13",
            "partition: 1 times\n  messages struck: ack 2, prepare 3",
            "second-master: 1 times\n  refused: 1, let in: 0",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
