//! Each fault that was asked for really happened: how often, and at which points. A run in which
//! one never did proves nothing about it. From the history alone.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::{CheckResult, Run};
use crate::{
    history::{Action, NemesisEvent},
    nemesis::{FaultName, matrix::Coverage},
};

/// The check's name.
pub const NAME: &str = "faults";

/// Judges a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let nemesis: Vec<&NemesisEvent> = run
        .events
        .iter()
        .filter_map(|event| match &event.action {
            Action::Nemesis(event) => Some(event),
            Action::Client(_) => None,
        })
        .collect();
    let mut coverage = Coverage::default();
    nemesis.iter().for_each(|event| coverage.add(&event.f, &event.value));
    // Beside other faults a point may be out of reach for as long as they last.
    if run.setup.real_faults().eq([FaultName::CrashMatrix.name()]) {
        for cell in coverage.vacuous() {
            check_result.unknown(format!("{cell} was waited for and never happened"));
        }
    }
    for fault in run.setup.real_faults() {
        let fired: Vec<_> = nemesis.iter().filter(|event| belongs(event, fault)).collect();
        if fired.is_empty() {
            check_result.unknown(format!("{fault} was asked for and never happened"));
        }
        let cuts: Vec<_> = fired.iter().filter(|event| event.f == "power-loss").collect();
        let lost: u64 = cuts.iter().map(|event| lost(event)).sum();
        if fault == FaultName::PowerLoss.name() && !cuts.is_empty() && lost == 0 {
            check_result.unknown(format!("{fault} cut the power and nothing was lost by it"));
        }
        let mut points: BTreeMap<&str, usize> = BTreeMap::new();
        let mut in_doubt: BTreeMap<u64, usize> = BTreeMap::new();
        for event in &fired {
            *points.entry(event.text("at").unwrap_or("any time")).or_default() += 1;
            if let Some(replicas) = event.value.get("in_doubt").and_then(serde_json::Value::as_u64)
            {
                *in_doubt.entry(replicas).or_default() += 1;
            }
        }
        let in_doubt: BTreeMap<String, usize> =
            in_doubt.into_iter().map(|(replicas, hits)| (replicas.to_string(), hits)).collect();
        check_result.measure(
            fault,
            json!({
                "fired": fired.len(),
                "points": points,
                "replicas_in_doubt": in_doubt,
                "cuts": cuts.len(),
                "lost": lost,
            }),
        );
    }
    check_result
}

/// How much was lost with the power: pages of files, and changes of directories. What LMDB keeps
/// in its lock file means nothing after a restart, so that its loss is none.
#[must_use]
pub fn lost(event: &NemesisEvent) -> u64 {
    let Some(nodes) = event.value.get("dropped").and_then(Json::as_object) else { return 0 };
    let pages = nodes
        .values()
        .filter_map(|lost| lost.get("pages")?.as_object())
        .flatten()
        .filter(|(file, _)| !file.ends_with("lock.mdb"))
        .filter_map(|(_, pages)| pages.as_u64());
    let entries = nodes.values().filter_map(|lost| lost.get("entries")?.as_u64());
    pages.chain(entries).sum()
}

/// Whether what the nemesis did is this fault happening: a node was killed or paused, or the event
/// has the fault's own name. What only prepared it, missed or undid it is not. A kill or pause says
/// in its field `fault` what it belongs to; otherwise what was done to whom and at which point
/// tells.
fn belongs(event: &NemesisEvent, fault: &str) -> bool {
    if matches!(fault, "partition" | "messages") {
        // Only what was really done to a message counts, and that is known at the end.
        let intercepted = event.value.get("intercepted").or_else(|| event.value.get("struck"));
        let messages = intercepted.and_then(|it| it.get("messages")?.as_u64());
        return matches!(&*event.f, "network-restored" | "mend")
            && event.text("fault") == Some(fault)
            && messages > Some(0);
    }
    if !matches!(event.f.as_str(), "kill" | "pause" | "power-loss") {
        // A start of which nobody saw what became of it shows nothing.
        return event.f == fault && event.value.get("undecided").is_none();
    }
    if let Some(name) = event.text("fault") {
        return name == fault;
    }
    let node = event.text("node").unwrap_or_default();
    let replica = node.strip_prefix('r').is_some_and(|slot| slot.parse::<u8>().is_ok());
    let at = event.text("at").unwrap_or_default();
    match fault {
        "kill-master" => event.f == "kill" && node == "master",
        "kill-replica" => event.f == "kill" && replica,
        "pause-master" => event.f == "pause" && node == "master",
        "pause-replica" => event.f == "pause" && replica,
        "master-uncertainty" => at.starts_with("master:"),
        "replica-uncertainty" => at.starts_with("replica:"),
        "power-loss" => event.f == "power-loss",
        "crash-matrix" => !at.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cut_took_is_counted_without_the_locks() {
        let dropped = json!({ "dropped": {
            "r1": { "pages": { "store/data.mdb": 3, "store/lock.mdb": 2 }, "entries": 1, "kept": 9 },
            "r2": { "pages": { "store/lock.mdb": 1 }, "entries": 0, "kept": 0 },
        } });
        let event = NemesisEvent { f: "power-loss".to_owned(), value: dropped };
        assert_eq!(lost(&event), 4);
        assert_eq!(lost(&NemesisEvent { f: "kill".to_owned(), value: json!({}) }), 0);
    }

    #[test]
    fn events_belong_to_faults() {
        let event = |f: &str, value| NemesisEvent { f: f.into(), value };
        let hit = event("kill", json!({"node":"master","at":"master:after-persist:commit"}));
        assert!(belongs(&hit, "master-uncertainty") && belongs(&hit, "kill-master"));
        assert!(!belongs(&hit, "replica-uncertainty") && !belongs(&hit, "pause-master"));
        let named = event("kill", json!({"node":"master","fault":"kill-master","at":"master:x"}));
        assert!(belongs(&named, "kill-master") && !belongs(&named, "master-uncertainty"));
        assert!(!belongs(&event("restart", json!({"node":"r1"})), "kill-replica"));
        for f in ["arm", "miss", "hold", "recovered"] {
            assert!(!belongs(&event(f, json!({"fault":"kill-replica"})), "kill-replica"), "{f}");
        }
        assert!(belongs(&event("power-loss", json!({})), "power-loss"));
        let second_instance = event("second-master", json!({ "refused": true }));
        assert!(belongs(&second_instance, "second-master"));
        let second_instance =
            event("second-master", json!({ "refused": false, "undecided": "in time" }));
        assert!(!belongs(&second_instance, "second-master"));
        let mend = |messages| {
            event("mend", json!({ "fault": "partition", "struck": { "messages": messages } }))
        };
        assert!(belongs(&mend(3), "partition") && !belongs(&mend(3), "messages"));
        assert!(!belongs(&mend(0), "partition"), "nothing was sent");
        let killed = event("kill", json!({ "fault": "messages", "node": "r1" }));
        assert!(!belongs(&killed, "messages"));
    }
}
