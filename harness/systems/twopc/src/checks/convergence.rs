//! Convergence: after the last heal, nothing stays in doubt or locked for longer than a deadline.
//! Also measures how long it took after each repair and after the last heal. From the journals of
//! the replicas.

use std::collections::BTreeMap;

use checker::{CheckResult, Impact, finding};
use history::{
    Action, ErrorCode, NemesisEvent, Operation, Outcome,
    nemesis::{FinalReads, Settled},
};
use serde_json::{Value as Json, json};
use system::protocol::{Key, Node, TxnId};

use super::{
    Run,
    evidence::{FactKind, NodeFacts},
};

/// The name of the check.
pub const NAME: &str = "convergence";

/// A key locked at a replica by a prepared transaction.
struct HeldLock {
    node: Node,
    txn: TxnId,
    key: Key,
    /// When it was locked, in nanoseconds of the history.
    from: i64,
    /// When it was unlocked, `None` if the journal ends before.
    until: Option<i64>,
    /// The time of the last event in the journal.
    journal_end: i64,
}

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    run.evidence.complete(&mut check_result);
    let locks: Vec<HeldLock> =
        run.evidence.replicas().flat_map(|(node, facts)| locks(node, facts)).collect();
    let repairs = times(run, |event| {
        matches!(
            event,
            NemesisEvent::Returned(..)
                | NemesisEvent::NetworkRestored(_)
                | NemesisEvent::DiskRestored(_)
        )
    });
    let settled: Vec<i64> = repairs.iter().map(|repair| settle_time(&locks, *repair)).collect();
    check_result.measure("after_repairs", quantiles(settled));
    let healed = times(run, |event| matches!(event, NemesisEvent::Healed(_))).into_iter().max();
    let faults = !run.parameters.faults.is_empty();
    let from = match healed {
        Some(healed) => healed,
        None if faults => {
            check_result.unknown("the run ended before the faults were healed");
            return check_result;
        }
        // There was no fault, so every lock counts.
        None => 0,
    };
    check_result.measure("after_last_heal_ms", milliseconds(settle_time(&locks, from)));
    let limit = i64::try_from(run.parameters.convergence_deadline_ms).unwrap_or(i64::MAX);
    let limit = limit.saturating_mul(1_000_000);
    for lock in &locks {
        released_in_time(lock, from, limit, &mut check_result);
    }
    observed_convergence(run, &mut check_result);
    settled_answers(run, &mut check_result);
    match &run.final_state {
        None => check_result.unknown("the run ended before the final states were read"),
        Some(final_state) => {
            for (node, replica) in &final_state.replicas {
                for (txn, key) in &replica.in_doubt {
                    check_result.violation(finding!(
                        transaction(txn), key(key);
                        "{node} was in doubt about {txn}, which locks {key}, when the final \
                         states were read"
                    ));
                }
            }
            match &final_state.master_unsettled {
                None => check_result.unknown("the master did not report its final state"),
                Some(unsettled) => {
                    for (txn, key) in unsettled {
                        check_result.violation(finding!(
                            transaction(txn), key(key);
                            "the master had not finished with {txn} of {key} when the final \
                             states were read"
                        ));
                    }
                }
            }
        }
    }
    check_result.with_impact(Impact::Stopped)
}

/// What the run observed after the last heal: whether every node was ready, without open
/// transactions, within the deadline, and whether every key could be read then.
fn observed_convergence(run: &Run, check_result: &mut CheckResult) {
    for event in &run.events {
        let Action::Nemesis(nemesis) = &event.action else { continue };
        match nemesis {
            NemesisEvent::Settled(Settled { ms: None, ended }) if ended.is_empty() => {
                check_result.violation(format!(
                    "the nodes were not all ready, without open transactions, within {} ms of the last heal",
                    run.parameters.convergence_deadline_ms
                ));
            }
            NemesisEvent::Settled(Settled { ms: None, ended }) => {
                check_result.violation(format!(
                    "the nodes could not settle after the last heal: {} had ended",
                    ended.join(", ")
                ));
            }
            NemesisEvent::FinalReads(FinalReads { unread }) => {
                for key in unread {
                    check_result
                        .unknown(finding!(key(key); "{key} could not be read after the last heal"));
                }
            }
            _ => {}
        }
    }
}

/// What is refused for longer than this by a settled cluster is refused for good, in nanoseconds.
const REFUSED_MIN: u64 = 3_000_000_000;

/// A settled cluster answers: every key can be read, and written. Attempts that the nodes did not refuse, but that
/// took too long, prove nothing.
fn settled_answers(run: &Run, check_result: &mut CheckResult) {
    let settled = run.events.iter().find_map(|event| match &event.action {
        Action::Nemesis(NemesisEvent::Settled(Settled { ms, .. })) => Some(ms.map(|_| event.time)),
        _ => None,
    });
    let Some(Some(settled)) = settled else { return };
    let mut attempts: BTreeMap<(&str, bool), Vec<&Operation>> = BTreeMap::new();
    for operation in run.operations.iter().filter(|operation| operation.invoked >= settled) {
        let attempt = (operation.key.as_str(), operation.f.is_write());
        attempts.entry(attempt).or_default().push(operation);
    }
    for ((key, is_write), attempts) in attempts {
        let verb = if is_write { "written" } else { "read" };
        if attempts.iter().any(|attempt| attempt.outcome == Outcome::Ok) {
            continue;
        }
        let refused: Vec<_> = attempts.iter().filter_map(|attempt| refusal(attempt)).collect();
        let since = attempts.first().map_or(0, |attempt| attempt.invoked);
        let until = attempts.last().and_then(|attempt| attempt.returned).unwrap_or(since);
        // What could not be read is listed with the final reads.
        match refused.last() {
            Some(why) if refused.len() > 1 && until.saturating_sub(since) >= REFUSED_MIN => {
                check_result.violation(finding!(
                    key(key);
                    "{key} could not be {verb}, though the cluster had settled: it was refused {} times in {} ms, \
                     the last time with '{why}'",
                    refused.len(), (until - since) / 1_000_000
                ));
            }
            _ if !is_write => {}
            _ => check_result.unknown(finding!(
                key(key); "{key} could not be {verb} after the last heal, and was not refused either"
            )),
        }
    }
}

/// The error with which a node refused an operation.
fn refusal(operation: &Operation) -> Option<&str> {
    let error = operation.error.as_deref().filter(|_| operation.outcome == Outcome::Fail)?;
    match ErrorCode::of(error)? {
        // Nobody answered in time, or has answered for a while, which may be due to the machine.
        ErrorCode::Timeout | ErrorCode::Unavailable => None,
        _ => Some(error),
    }
}

/// Checks one lock. After the last heal it must not be held for longer than the limit.
fn released_in_time(lock: &HeldLock, from: i64, limit: i64, check_result: &mut CheckResult) {
    let since = lock.from.max(from);
    let until = lock.until.unwrap_or(lock.journal_end);
    if until - since <= limit {
        return;
    }
    let HeldLock { node, txn, key, .. } = lock;
    let verb = if lock.until.is_some() { "was in doubt for" } else { "has been in doubt for" };
    check_result.violation(finding!(
        transaction(txn), key(key);
        "{node} {verb} {} ms after the last heal about {txn}, which locks {key}; the limit is {} ms",
        milliseconds(until - since),
        milliseconds(limit)
    ));
}

/// The times at which the nemesis did what `which` selects.
fn times(run: &Run, which: impl Fn(&NemesisEvent) -> bool) -> Vec<i64> {
    run.events
        .iter()
        .filter(|event| matches!(&event.action, Action::Nemesis(nemesis) if which(nemesis)))
        .map(|event| i64::try_from(event.time).unwrap_or(i64::MAX))
        .collect()
}

/// How long after this time the last of the locks held at it was released, in nanoseconds.
fn settle_time(locks: &[HeldLock], at: i64) -> i64 {
    locks
        .iter()
        .filter(|lock| lock.from <= at)
        .map(|lock| lock.until.unwrap_or(lock.journal_end) - at)
        .max()
        .unwrap_or(0)
        .max(0)
}

fn milliseconds(nanoseconds: i64) -> i64 {
    nanoseconds / 1_000_000
}

fn quantiles(mut times: Vec<i64>) -> Json {
    times.sort_unstable();
    let (Some(max), Some(median)) = (times.last(), times.get(times.len() / 2)) else {
        return json!({ "repairs": 0 });
    };
    json!({
        "repairs": times.len(),
        "median_ms": milliseconds(*median),
        "max_ms": milliseconds(*max),
    })
}

/// The locks of a replica, from PREPARE to outcome, across restarts. A PREPARE lost in a crash does
/// not lock any more.
fn locks(node: Node, facts: &NodeFacts) -> Vec<HeldLock> {
    let mut held: BTreeMap<TxnId, (i64, Key)> = BTreeMap::new();
    let mut locks = Vec::new();
    let journal_end = facts.last_time;
    let mut release = |txn: TxnId, (from, key): (i64, Key), until: Option<i64>| {
        locks.push(HeldLock { node, txn, key, from, until, journal_end });
    };
    for fact in &facts.facts {
        let time = fact.position.time;
        match &fact.kind {
            FactKind::Started { undecided, .. } => {
                let mut before = std::mem::take(&mut held);
                for (txn, write) in undecided {
                    let since = before.remove(txn).map_or(time, |(since, _)| since);
                    held.insert(*txn, (since, write.key.clone()));
                }
                for (txn, lock) in before {
                    release(txn, lock, Some(time));
                }
            }
            FactKind::Prepared(txn, write) => {
                held.insert(*txn, (time, write.key.clone()));
            }
            FactKind::Committed(txn) | FactKind::Aborted(txn) | FactKind::Vetoed(txn) => {
                if let Some(lock) = held.remove(txn) {
                    release(*txn, lock, Some(time));
                }
            }
            _ => {}
        }
    }
    for (txn, lock) in held {
        release(txn, lock, None);
    }
    locks
}
