//! Disks: what the store promises of a disk that is full, fails, hangs or rots. A replica without room accepts no
//! value; a node ends at the first error of its disk, and says why; it notices a force that takes long; it
//! starts on flipped bits or says that the store is damaged; what replaces a damaged entry is what it was. From the
//! history and the journals.

use std::{collections::HashMap, time::Duration};

use checker::{CheckResult, finding};
use history::{
    Action, ErrorCode, Event, Function, NemesisEvent, Outcome,
    nemesis::{DiskRestored, Exit, ForbiddenStart, Injected, InjectionKind},
};
use system::protocol::{Key, Node, TxnId, Value, Write};

use super::{Run, evidence::FactKind};
use crate::faults::FaultName;

/// The name of the check.
pub const NAME: &str = "disks";

/// The effect of flipped bits: replicas that have not compared all of their entries in time.
pub const UNSCRUBBED: &str = "unscrubbed_replicas";

/// The effect of flipped bits: replicas with entries that are damaged, or differ from those of another one, after all
/// replicas have compared all of their entries.
pub const UNHEALED: &str = "unhealed_replicas";

/// What a node says when it ends because of its disk.
const DURABLE: &str = "durable data is safe";

/// The least age of a force that a node has to notice before the force is [long](super::evidence::LONG_FORCE).
const NOTICED_MIN: Duration = Duration::from_secs(2);

/// How long after the disk is full a replica may not have asked for its free space, in nanoseconds.
const NOTICE_TIME: u64 = 100_000_000;

/// How long after the end of a stall a force may be reported as done.
const REPORT_TIME: u64 = 1_000_000_000;

/// A time with a faulty disk.
struct Interval<'a> {
    kind: InjectionKind,
    begin: &'a Event,
    injected: &'a Injected,
    end: &'a Event,
    restored: &'a DiskRestored,
}

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let mut refused = 0;
    for interval in intervals(&run.events) {
        match interval.kind {
            InjectionKind::DiskFull => refused += full(run, &interval, &mut check_result),
            InjectionKind::DiskStall => stalled(run, &interval, &mut check_result),
            InjectionKind::DiskError => failed(&interval, &mut check_result),
            _ => {}
        }
        ended(&interval, &mut check_result);
    }
    check_result.measure("refused_as_full", refused);
    let (damaged, healed) = healed(run, &mut check_result);
    check_result.measure("damage_found", damaged);
    check_result.measure("healed", healed);
    for event in &run.events {
        if let Action::Nemesis(NemesisEvent::DiskRestored(restored)) = &event.action {
            for (name, what) in [
                (UNSCRUBBED, "replicas have not compared their entries with all others in time"),
                (UNHEALED, "replicas hold damaged or other entries after all were compared"),
            ] {
                match effect(restored, name) {
                    0 => {}
                    count => check_result.violation(format!("{count} {what}")),
                }
            }
        }
        if let Action::Nemesis(NemesisEvent::Injected(InjectionKind::BitFlip, injected)) =
            &event.action
            && let ForbiddenStart::Exited(Exit { status, last_log_line }) = &injected.start
        {
            let node = injected.node.as_deref().unwrap_or("?");
            check_result.violation(format!(
                "{node} neither started on flipped bits nor said that its store is damaged, but ended \
                 with {status}: {last_log_line}"
            ));
        }
    }
    check_result
}

fn intervals(events: &[Event]) -> Vec<Interval<'_>> {
    let mut intervals = Vec::new();
    for (at, begin) in events.iter().enumerate() {
        let Action::Nemesis(NemesisEvent::Injected(kind, injected)) = &begin.action else {
            continue;
        };
        if !kind.is_disk_fault() {
            continue;
        }
        let end = events[at..].iter().find_map(|event| match &event.action {
            Action::Nemesis(NemesisEvent::DiskRestored(restored)) => {
                (restored.node == injected.node).then_some((event, restored))
            }
            _ => None,
        });
        if let Some((end, restored)) = end {
            intervals.push(Interval { kind: *kind, begin, injected, end, restored });
        }
    }
    intervals
}

fn effect(restored: &DiskRestored, name: &str) -> u64 {
    restored.effects.get(name).copied().unwrap_or(0)
}

/// No value is accepted while a replica has no room for it. Returns how many were refused.
fn full(run: &Run, interval: &Interval<'_>, check_result: &mut CheckResult) -> u64 {
    let node = interval.injected.node.as_deref().unwrap_or("?");
    if !matches!(node.parse(), Ok(Node::Replica(_))) {
        return 0;
    }
    let held = interval.restored.held_ms.unwrap_or(0).saturating_mul(1_000_000);
    let until = interval.begin.time.saturating_add(held);
    let mut refused = 0_u64;
    for put in run.operations.iter().filter(|operation| operation.f == Function::Put) {
        let is_within = put.invoked > interval.begin.time.saturating_add(NOTICE_TIME)
            && put.returned.is_some_and(|returned| returned < until);
        let code = put.error.as_deref().and_then(ErrorCode::of);
        refused += u64::from(is_within && code == Some(ErrorCode::Full));
        if is_within && put.outcome == Outcome::Ok {
            let (key, value) = (&put.key, put.value.as_deref().unwrap_or_default());
            check_result.violation(finding!(
                key(key);
                "put {key} = '{value}' was accepted while {node} had no room for it"
            ));
        }
    }
    refused
}

/// A node whose disk has failed a request ends.
fn failed(interval: &Interval<'_>, check_result: &mut CheckResult) {
    let node = interval.injected.node.as_deref().unwrap_or("?");
    let (writes, syncs) =
        (effect(interval.restored, "failed_writes"), effect(interval.restored, "failed_syncs"));
    if writes + syncs > 0 && interval.restored.exit.is_none() {
        check_result.violation(format!(
            "{node} went on although {writes} writes and {syncs} syncs of its disk had failed"
        ));
    }
}

/// What replaces a damaged entry is the write that was damaged: the last one that the replica has applied. Without
/// flipped bits no entry is taken for damaged or lost.
/// Returns how many entries were found damaged, and how many were replaced by a peer's copy.
fn healed(run: &Run, check_result: &mut CheckResult) -> (u64, u64) {
    let (mut damaged, mut healed) = (0, 0);
    // Entries of simulated nodes rot at times that the seed chooses, whatever the faults.
    let has_rotted = |event: &Event| {
        matches!(&event.action, Action::Nemesis(NemesisEvent::Injected(InjectionKind::BitFlip, _)))
    };
    let rots = run.parameters.faults.iter().any(|fault| *fault == FaultName::BitFlip.name())
        || run.events.iter().any(has_rotted);
    for (node, facts) in &run.evidence.nodes {
        let mut prepared: HashMap<TxnId, &Write> = HashMap::new();
        let mut applied: HashMap<&Key, (TxnId, Option<&Value>)> = HashMap::new();
        for fact in &facts.facts {
            match &fact.kind {
                FactKind::Prepared(txn, write) => {
                    prepared.insert(*txn, write);
                }
                FactKind::Started { undecided, .. } => {
                    prepared = undecided.iter().map(|(txn, write)| (*txn, write)).collect();
                }
                FactKind::Committed(txn) => {
                    if let Some(Write { key, value }) = prepared.remove(txn) {
                        applied.insert(key, (*txn, value.as_ref()));
                    }
                }
                FactKind::Damaged(key) => {
                    damaged += 1;
                    if !rots {
                        let position = fact.position;
                        check_result.violation(finding!(
                            key(key), line(position);
                            "{node} took the entry of {key} for damaged, but nothing has rotted ({position})"
                        ));
                    }
                }
                FactKind::Lost(key) if !rots => {
                    let position = fact.position;
                    check_result.violation(finding!(
                        key(key), line(position);
                        "{node} reported that the entry of {key} is lost, but nothing has rotted ({position})"
                    ));
                }
                FactKind::Healed { key, version, value } => {
                    healed += 1;
                    let position = fact.position;
                    match applied.get(key) {
                        Some((last, Some(written))) if last == version && *written == value => {}
                        Some((last, _)) if last == version => check_result.violation(finding!(
                            key(key), transaction(last), line(position);
                            "{node} replaced the damaged entry of {key} by another value than its last write \
                             {last} has ({position})"
                        )),
                        Some((last, _)) => check_result.violation(finding!(
                            key(key), transaction(last), line(position);
                            "{node} replaced the damaged entry of {key} by a copy of version {version}, \
                             but its last write of it is {last} ({position})"
                        )),
                        None => check_result.violation(finding!(
                            key(key), line(position);
                            "{node} replaced the damaged entry of {key} by a copy of version {version}, \
                             but has applied no write of it ({position})"
                        )),
                    }
                }
                _ => {}
            }
        }
    }
    (damaged, healed)
}

/// A node that ends because of its disk says so.
fn ended(interval: &Interval<'_>, check_result: &mut CheckResult) {
    let Some(Exit { status, last_log_line }) = &interval.restored.exit else { return };
    let node = interval.injected.node.as_deref().unwrap_or("?");
    // A disk that has room for what was accepted is no reason to end.
    let has_reason = ["refused", "failed_writes", "failed_syncs"]
        .into_iter()
        .any(|name| effect(interval.restored, name) > 0);
    if !has_reason || !last_log_line.contains(DURABLE) {
        check_result.violation(format!(
            "{node} ended during {} ({status}); its log ends: {last_log_line}",
            interval.kind.name()
        ));
    }
}

/// A node notices that a force takes long.
fn stalled(run: &Run, interval: &Interval<'_>, check_result: &mut CheckResult) {
    let node = interval.injected.node.as_deref().unwrap_or("?");
    let Some(facts) = node.parse().ok().and_then(|node: Node| run.evidence.nodes.get(&node)) else {
        return;
    };
    let (from, to) = (interval.begin.time, interval.end.time.saturating_add(REPORT_TIME));
    for fact in &facts.facts {
        let FactKind::LongForce { took, noticed } = fact.kind else { continue };
        let is_within = u64::try_from(fact.position.time).is_ok_and(|at| (from..to).contains(&at));
        if is_within && noticed < NOTICED_MIN {
            check_result.violation(finding!(
                line(position = fact.position);
                "{node} did not notice that a force took {} ms ({position})", took.as_millis()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use checker::Validity;
    use serde_json::{Value as Json, json};

    use super::*;

    /// The verdict on a disk fault that ended like this.
    fn verdict(f: &str, restored: Json) -> (Validity, String) {
        let events: Vec<Event> = [(f, json!({ "node": "r1" })), ("disk-restored", restored)]
            .into_iter()
            .zip(0..)
            .map(|((f, value), index)| Event {
                index,
                time: index,
                action: Action::Nemesis(NemesisEvent::new(f, value).expect("its form")),
            })
            .collect();
        let mut check_result = CheckResult::new(NAME);
        for interval in intervals(&events) {
            failed(&interval, &mut check_result);
            ended(&interval, &mut check_result);
        }
        (check_result.verdict, serde_json::to_string(&check_result).expect("it has a JSON form"))
    }

    #[test]
    fn a_node_ends_at_the_first_error_of_its_disk_and_says_why() {
        let log = "r1: store: cannot sync the WAL; durable data is safe";
        let exit = json!({ "status": "exit status: 1", "last_log_line": log });
        let effects = json!({ "failed_syncs": 1 });
        let restored = json!({ "node": "r1", "effects": effects, "exit": exit });
        assert_eq!(verdict("disk-error", restored).0, Validity::Valid);

        let went_on = json!({ "node": "r1", "effects": effects });
        let (found, words) = verdict("disk-error", went_on);
        assert!(found == Validity::Invalid && words.contains("r1 went on although"), "{words}");

        let silent = json!({ "status": "signal: 6", "last_log_line": "oh" });
        let silent = json!({ "node": "r1", "effects": effects, "exit": silent });
        let (found, words) = verdict("disk-error", silent);
        assert!(found == Validity::Invalid && words.contains("ended during"), "{words}");

        let (found, words) = verdict("disk-full", json!({ "node": "r1", "exit": exit }));
        assert!(found == Validity::Invalid && words.contains("ended during"), "{words}");
        let other = json!({ "node": "r2", "effects": effects });
        assert_eq!(verdict("disk-error", other).0, Validity::Valid, "the disk of another node");
    }
}
