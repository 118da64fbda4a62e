//! Faults: each requested fault was injected, how often, and at which points. A run without one of
//! them proves nothing about it. From the history alone.

use std::collections::BTreeMap;

use checker::CheckResult;
use history::{Action, NemesisEvent};
use serde_json::{Value as Json, json};

use super::Run;
use crate::{faults::FaultName, matrix::Coverage};

/// The name of the check.
pub const NAME: &str = "faults";

/// Checks a run.
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
    // Together with other faults a point may be unreachable for as long as they last.
    if run.description.real_faults().eq([FaultName::CrashMatrix.name()]) {
        for cell in coverage.vacuous() {
            check_result.unknown(format!("{cell} was armed but never reached"));
        }
    }
    for fault in run.description.real_faults() {
        let injected: Vec<_> =
            nemesis.iter().filter(|event| is_injection_of(event, fault)).collect();
        if injected.is_empty() {
            check_result.unknown(format!("{fault} was requested but never injected"));
        }
        let power_losses: Vec<_> =
            injected.iter().filter(|event| event.f == "power-loss").collect();
        let lost: u64 = power_losses.iter().map(|event| lost(event)).sum();
        if fault == FaultName::PowerLoss.name() && !power_losses.is_empty() && lost == 0 {
            check_result.unknown(format!("{fault} was injected, but nothing was lost"));
        }
        let mut points: BTreeMap<&str, usize> = BTreeMap::new();
        let mut in_doubt: BTreeMap<u64, usize> = BTreeMap::new();
        for event in &injected {
            *points.entry(event.text("at").unwrap_or("any time")).or_default() += 1;
            if let Some(replicas) = event.value.get("in_doubt").and_then(Json::as_u64) {
                *in_doubt.entry(replicas).or_default() += 1;
            }
        }
        let in_doubt: BTreeMap<String, usize> =
            in_doubt.into_iter().map(|(replicas, hits)| (replicas.to_string(), hits)).collect();
        check_result.measure(
            fault,
            json!({
                "fired": injected.len(),
                "points": points,
                "replicas_in_doubt": in_doubt,
                "cuts": power_losses.len(),
                "lost": lost,
            }),
        );
    }
    check_result
}

/// What was lost with the power: pages of files, and changes of directories. LMDB's lock file does
/// not count, since its content is meaningless after a restart.
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

/// Whether a nemesis event is an injection of this fault: a node was killed or paused, or the event
/// has the fault's own name. Events that prepare, miss or undo it are not. A kill or pause names
/// its fault in the field `fault`. Without the field, the target and the point decide.
fn is_injection_of(event: &NemesisEvent, fault: &str) -> bool {
    if matches!(fault, "partition" | "messages") {
        // Counts only if messages were really affected, which is known at the end.
        // `mend`, `struck`: the names in records of earlier versions.
        let intercepted = event.value.get("intercepted").or_else(|| event.value.get("struck"));
        let messages = intercepted.and_then(|intercepted| intercepted.get("messages")?.as_u64());
        return matches!(&*event.f, "network-restored" | "mend")
            && event.text("fault") == Some(fault)
            && messages > Some(0);
    }
    if !matches!(event.f.as_str(), "kill" | "pause" | "power-loss") {
        // An attempt whose outcome nobody observed proves nothing.
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
    fn the_loss_of_lock_files_does_not_count() {
        let dropped = json!({ "dropped": {
            "r1": { "pages": { "store/data.mdb": 3, "store/lock.mdb": 2 }, "entries": 1, "kept": 9 },
            "r2": { "pages": { "store/lock.mdb": 1 }, "entries": 0, "kept": 0 },
        } });
        let event = NemesisEvent { f: "power-loss".to_owned(), value: dropped };
        assert_eq!(lost(&event), 4);
        assert_eq!(lost(&NemesisEvent { f: "kill".to_owned(), value: json!({}) }), 0);
    }

    #[test]
    fn events_are_injections_of_their_faults() {
        let event = |f: &str, value| NemesisEvent { f: f.into(), value };
        let hit = event("kill", json!({"node":"master","at":"master:after-persist:commit"}));
        assert!(
            is_injection_of(&hit, "master-uncertainty") && is_injection_of(&hit, "kill-master")
        );
        assert!(
            !is_injection_of(&hit, "replica-uncertainty") && !is_injection_of(&hit, "pause-master")
        );
        let named = event("kill", json!({"node":"master","fault":"kill-master","at":"master:x"}));
        assert!(
            is_injection_of(&named, "kill-master")
                && !is_injection_of(&named, "master-uncertainty")
        );
        assert!(!is_injection_of(&event("restart", json!({"node":"r1"})), "kill-replica"));
        for f in ["arm", "miss", "hold", "recovered"] {
            assert!(
                !is_injection_of(&event(f, json!({"fault":"kill-replica"})), "kill-replica"),
                "{f}"
            );
        }
        assert!(is_injection_of(&event("power-loss", json!({})), "power-loss"));
        let second_instance = event("second-master", json!({ "refused": true }));
        assert!(is_injection_of(&second_instance, "second-master"));
        let second_instance =
            event("second-master", json!({ "refused": false, "undecided": "in time" }));
        assert!(!is_injection_of(&second_instance, "second-master"));
        let mend = |messages| {
            event("mend", json!({ "fault": "partition", "struck": { "messages": messages } }))
        };
        assert!(is_injection_of(&mend(3), "partition") && !is_injection_of(&mend(3), "messages"));
        assert!(!is_injection_of(&mend(0), "partition"), "nothing was sent");
        let killed = event("kill", json!({ "fault": "messages", "node": "r1" }));
        assert!(!is_injection_of(&killed, "messages"));
    }
}
