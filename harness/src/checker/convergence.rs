//! After the last heal nothing stays in doubt and nothing stays locked for longer than a deadline;
//! and how long it took, after each repair and after the last. From the journals of the replicas.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use system::protocol::{Key, Node, TxnId};

use super::{
    CheckResult, Run,
    evidence::{NodeFacts, What},
};
use crate::history::Action;

/// The check's name.
pub const NAME: &str = "convergence";

/// A key that was locked at a replica by a transaction without a decision.
struct Lock {
    node: Node,
    txn: TxnId,
    key: Key,
    /// When it was taken, in nanoseconds of the history.
    from: i64,
    /// When it was released; none if the journal ends before.
    until: Option<i64>,
    /// The time of the journal's last event.
    seen_until: i64,
}

/// Judges a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    run.evidence.complete(&mut check_result);
    let locks: Vec<Lock> =
        run.evidence.replicas().flat_map(|(node, facts)| locks(node, facts)).collect();
    let repairs = times(run, |f| matches!(f, "restart" | "resume" | "network-restored" | "mend"));
    let settled: Vec<i64> = repairs.iter().map(|repair| settle_time(&locks, *repair)).collect();
    check_result.measure("after_repairs", quantiles(settled));
    let healed = times(run, |f| f == "heal").into_iter().max();
    let faults = run.setup.real_faults().next().is_some();
    let from = match healed {
        Some(healed) => healed,
        None if faults => {
            check_result.unknown("the run ended before the faults were healed");
            return check_result;
        }
        // Nothing was broken: every lock counts.
        None => 0,
    };
    check_result.measure("after_last_heal_ms", milliseconds(settle_time(&locks, from)));
    let limit = i64::try_from(run.setup.convergence_deadline_ms).unwrap_or(i64::MAX);
    let limit = limit.saturating_mul(1_000_000);
    for lock in &locks {
        late(lock, from, limit, &mut check_result);
    }
    settled_at_all(run, &mut check_result);
    match &run.remained {
        None => check_result.unknown("the run ended before the final states were read"),
        Some(remained) => {
            for (node, replica) in &remained.replicas {
                for (txn, key) in &replica.in_doubt {
                    check_result.violation(format!(
                        "{node} was in doubt about {txn}, which locks {key}, when the final \
                         states were read"
                    ));
                }
            }
            match &remained.master_unsettled {
                None => check_result.unknown("the master did not tell its final state"),
                Some(unsettled) => {
                    for (txn, key) in unsettled {
                        check_result.violation(format!(
                            "the master had not finished with {txn} of {key} when the final \
                             states were read"
                        ));
                    }
                }
            }
        }
    }
    check_result
}

/// What the run itself saw after the last heal: whether every node was ready and had nothing open
/// within the deadline, and whether every key could be read then.
fn settled_at_all(run: &Run, check_result: &mut CheckResult) {
    for event in &run.events {
        let Action::Nemesis(nemesis) = &event.action else { continue };
        match nemesis.f.as_str() {
            "settled" if nemesis.value.get("ms").is_some_and(Json::is_null) => {
                check_result.violation(format!(
                    "the nodes were not all ready, with nothing open, within {} ms of the last heal",
                    run.setup.convergence_deadline_ms
                ));
            }
            "final" => {
                let unread = nemesis.value.get("unread").and_then(Json::as_array);
                for key in unread.into_iter().flatten().filter_map(Json::as_str) {
                    check_result.unknown(format!("{key} could not be read after the last heal"));
                }
            }
            _ => {}
        }
    }
}

/// Judges one lock: from the last heal on, it must not be held for longer than the limit.
fn late(lock: &Lock, from: i64, limit: i64, check_result: &mut CheckResult) {
    let since = lock.from.max(from);
    let until = lock.until.unwrap_or(lock.seen_until);
    if until - since <= limit {
        return;
    }
    let Lock { node, txn, key, .. } = lock;
    let what = if lock.until.is_some() { "was in doubt for" } else { "is in doubt since" };
    check_result.violation(format!(
        "{node} {what} {} ms after the last heal about {txn}, which locks {key}; the limit is {} ms",
        milliseconds(until - since),
        milliseconds(limit)
    ));
}

/// The times at which the nemesis did such a thing.
fn times(run: &Run, which: impl Fn(&str) -> bool) -> Vec<i64> {
    run.events
        .iter()
        .filter(|event| matches!(&event.action, Action::Nemesis(nemesis) if which(&nemesis.f)))
        .map(|event| i64::try_from(event.time).unwrap_or(i64::MAX))
        .collect()
}

/// How long after this time the last of the locks held at it was released, in nanoseconds.
fn settle_time(locks: &[Lock], at: i64) -> i64 {
    locks
        .iter()
        .filter(|lock| lock.from <= at)
        .map(|lock| lock.until.unwrap_or(lock.seen_until) - at)
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

/// The locks of a replica: from the PREPARE to the outcome, over restarts. A PREPARE that a crash
/// took back locks no longer.
fn locks(node: Node, facts: &NodeFacts) -> Vec<Lock> {
    let mut held: BTreeMap<TxnId, (i64, Key)> = BTreeMap::new();
    let mut locks = Vec::new();
    let seen_until = facts.last_time;
    let mut release = |txn: TxnId, (from, key): (i64, Key), until: Option<i64>| {
        locks.push(Lock { node, txn, key, from, until, seen_until });
    };
    for fact in &facts.facts {
        let time = fact.place.time;
        match &fact.what {
            What::Started { undecided, .. } => {
                let mut before = std::mem::take(&mut held);
                for (txn, write) in undecided {
                    let since = before.remove(txn).map_or(time, |(since, _)| since);
                    held.insert(*txn, (since, write.key.clone()));
                }
                for (txn, lock) in before {
                    release(txn, lock, Some(time));
                }
            }
            What::Prepared(txn, write) => {
                held.insert(*txn, (time, write.key.clone()));
            }
            What::Committed(txn) | What::Aborted(txn) | What::Vetoed(txn) => {
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
