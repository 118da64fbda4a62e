//! Faults: each requested fault was injected, how often, and at which points. A run without one of
//! them proves nothing about it. From the history alone.

use std::collections::BTreeMap;

use checker::CheckResult;
use history::{
    Action, NemesisEvent,
    nemesis::{ForbiddenStart, Injected, InjectionKind, LostWrites},
};
use serde::Serialize;
use serde_json::json;
use system::{node::Role, protocol::Node};

use super::Run;
use crate::{CrashPoint, faults::FaultName, matrix::Coverage};

/// The name of the check.
pub const NAME: &str = "faults";

/// The effect of flipped bits that a node reports in its log: entries that it does not serve.
pub const DAMAGED_ENTRIES: &str = "damaged_entries";

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
    nemesis.iter().for_each(|event| coverage.add(event));
    // Together with other faults a point may be unreachable for as long as they last.
    if run.parameters.faults == [FaultName::CrashMatrix.name()] {
        for cell in coverage.vacuous() {
            check_result.unknown(format!("{cell} was armed but never reached"));
        }
    }
    for fault in &run.parameters.faults {
        let tally = InjectionTally::of(fault, &nemesis);
        if tally.injected == 0 {
            check_result.unknown(format!("{fault} was requested but never injected"));
        }
        // Among other faults there may be too few flips, and what they hit may be overwritten unread.
        let is_alone = run.parameters.faults.len() == 1;
        if fault == FaultName::BitFlip.name() && is_alone && !flips_seen(&nemesis) {
            check_result
                .unknown(format!("{fault} was injected, but no node noticed a flipped bit"));
        }
        if fault == FaultName::PowerLoss.name() && tally.power_losses > 0 && tally.lost == 0 {
            check_result.unknown(format!("{fault} was injected, but nothing was lost"));
        }
        check_result.measure(fault, json!(tally));
    }
    check_result
}

/// Whether a node refused a store with flipped bits, or found a damaged entry.
fn flips_seen(nemesis: &[&NemesisEvent]) -> bool {
    nemesis.iter().any(|event| match event {
        NemesisEvent::Injected(InjectionKind::BitFlip, injected) => {
            matches!(injected.start, ForbiddenStart::Refused(_))
        }
        NemesisEvent::DiskRestored(restored) => restored.effects.contains_key(DAMAGED_ENTRIES),
        _ => false,
    })
}

/// How often a fault was injected, where, and what it did.
#[derive(Default, Serialize)]
struct InjectionTally {
    #[serde(rename = "fired")]
    injected: usize,
    /// Injections by crash point.
    points: BTreeMap<String, usize>,
    /// Injections by the number of replicas in doubt.
    replicas_in_doubt: BTreeMap<u64, usize>,
    #[serde(rename = "cuts")]
    power_losses: usize,
    /// Pages and directory changes that were lost with the power.
    lost: u64,
}

impl InjectionTally {
    fn of(fault: &str, nemesis: &[&NemesisEvent]) -> Self {
        let mut tally = InjectionTally::default();
        for event in nemesis.iter().filter(|event| is_injection_of(event, fault)) {
            tally.injected += 1;
            let (kind, injected) = match event {
                NemesisEvent::Injected(kind, injected) => (Some(*kind), &**injected),
                // A network fault counts at its end, when it is known what it did.
                _ => (None, &Injected::default()),
            };
            let point = injected.at.as_deref().unwrap_or("any time").to_owned();
            *tally.points.entry(point).or_default() += 1;
            if let Some(replicas) = injected.in_doubt.count {
                *tally.replicas_in_doubt.entry(replicas).or_default() += 1;
            }
            if kind == Some(InjectionKind::PowerLoss) {
                tally.power_losses += 1;
                tally.lost += lost(injected);
            }
        }
        tally
    }
}

/// What was lost with the power: pages of files, and changes of directories. LMDB's lock file does
/// not count, since its content is meaningless after a restart.
#[must_use]
pub fn lost(injected: &Injected) -> u64 {
    let lost = |lost: &LostWrites| {
        let pages = lost.pages.iter().filter(|(file, _)| !file.ends_with("lock.mdb"));
        pages.map(|(_, pages)| pages).sum::<u64>() + lost.entries
    };
    injected.dropped.values().map(lost).sum()
}

/// Whether a nemesis event is an injection of this fault. Events that prepare, miss or undo it are
/// not. A network fault counts only if messages were affected, which is known at its end; an attempt
/// whose outcome nobody observed proves nothing. A kill or pause names its fault; in records of
/// earlier versions that do not, the target and the point decide.
fn is_injection_of(event: &NemesisEvent, fault: &str) -> bool {
    let Some(name) = FaultName::find(fault) else { return false };
    let is_named = |other: &Option<String>| {
        other.as_deref().is_some_and(|other| FaultName::find(other) == Some(name))
    };
    match (name, event) {
        (FaultName::Partition | FaultName::Messages, NemesisEvent::NetworkRestored(restored)) => {
            is_named(&restored.fault) && restored.intercepted.messages > 0
        }
        (FaultName::SecondMaster, NemesisEvent::Injected(InjectionKind::SecondInstance, start))
        | (FaultName::WipeReplica, NemesisEvent::Injected(InjectionKind::Wipe, start)) => {
            !matches!(start.start, ForbiddenStart::Undecided { .. })
        }
        (FaultName::RestoredCopy, NemesisEvent::Injected(InjectionKind::RestoredCopy, start)) => {
            !matches!(start.start, ForbiddenStart::Undecided { .. })
        }
        (FaultName::BitFlip, NemesisEvent::Injected(InjectionKind::BitFlip, injected)) => {
            !injected.flipped.is_empty() && !injected.after_load
        }
        // A disk fault counts at its end, when it is known whether anybody noticed.
        (
            FaultName::DiskFull | FaultName::DiskError | FaultName::DiskSlow | FaultName::DiskStall,
            NemesisEvent::DiskRestored(restored),
        ) => is_named(&restored.fault) && !restored.effects.is_empty(),
        (
            FaultName::Partition
            | FaultName::Messages
            | FaultName::DiskFull
            | FaultName::DiskError
            | FaultName::DiskSlow
            | FaultName::DiskStall
            | FaultName::BitFlip
            | FaultName::RestoredCopy,
            _,
        ) => false,
        (_, NemesisEvent::Injected(kind, injected)) => match kind {
            InjectionKind::Kill
            | InjectionKind::Pause
            | InjectionKind::PowerLoss
            | InjectionKind::Terminate
            | InjectionKind::HostileClient => {
                if injected.fault.is_some() {
                    is_named(&injected.fault)
                } else {
                    is_unnamed_injection_of(*kind, injected, name)
                }
            }
            _ => false,
        },
        _ => false,
    }
}

/// Whether an injection that names no fault is one of this fault.
fn is_unnamed_injection_of(kind: InjectionKind, injected: &Injected, fault: FaultName) -> bool {
    let node = injected.node.as_ref().and_then(|node| node.parse().ok());
    let master = node == Some(Node::Master);
    let replica = matches!(node, Some(Node::Replica(_)));
    let point: Option<CrashPoint> = injected.at.as_ref().and_then(|at| at.parse().ok());
    let role = point.map(CrashPoint::role);
    match fault {
        FaultName::KillMaster => kind == InjectionKind::Kill && master,
        FaultName::KillReplica => kind == InjectionKind::Kill && replica,
        FaultName::PauseMaster => kind == InjectionKind::Pause && master,
        FaultName::PauseReplica => kind == InjectionKind::Pause && replica,
        FaultName::MasterUncertainty => role == Some(Role::Master),
        FaultName::ReplicaUncertainty => role == Some(Role::Replica),
        FaultName::PowerLoss => kind == InjectionKind::PowerLoss,
        FaultName::CrashMatrix => point.is_some(),
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
        let injected: Injected = serde_json::from_value(dropped).expect("its form");
        assert_eq!((lost(&injected), lost(&Injected::default())), (4, 0));
    }

    #[test]
    fn events_are_injections_of_their_faults() {
        let event =
            |f: &str, value| NemesisEvent::new(f, value).unwrap_or_else(|why| panic!("{why}"));
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
        for f in ["arm", "hold", "intercepted"] {
            let prepared = event(f, json!({ "fault": "kill-replica" }));
            assert!(!is_injection_of(&prepared, "kill-replica"), "{f}");
        }
        let missed = event("miss", json!({ "fault": "kill-replica", "why": "late" }));
        assert!(!is_injection_of(&missed, "kill-replica"));
        assert!(is_injection_of(&event("power-loss", json!({})), "power-loss"));
        let second_instance = event("second-master", json!({ "refused": true, "status": "1" }));
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
