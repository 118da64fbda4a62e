//! Reads, rule R1: a replica that serves a key has applied the last decided write of the key and is
//! not in doubt about a write of it. An in-doubt key is never read, whatever the outcome will be.
//! From the journals, since the master may repair a get that a client would otherwise have seen
//! stale.

use std::collections::{BTreeMap, BTreeSet};

use checker::{CheckResult, Finding, finding};
use system::protocol::{Key, Node, TxnId};

use super::{
    Run,
    evidence::{Evidence, FactKind, JournalPosition, NodeFacts},
};
use crate::payload::key_bytes;

/// The name of the check.
pub const NAME: &str = "reads";

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    run.evidence.complete(&mut check_result);
    let mut served = 0;
    for (node, facts) in run.evidence.replicas() {
        served += replica(node, facts, &run.evidence, &mut check_result);
    }
    check_result.measure("served", served);
    check_result
}

/// The last write of a key that was decided before this time.
fn last_decided<'a>(
    evidence: &'a Evidence,
    key: &Key,
    before: i64,
) -> Option<&'a (JournalPosition, TxnId)> {
    let decisions = evidence.transactions.decided_by_key.get(key)?;
    let count = decisions.partition_point(|(position, _)| position.time < before);
    decisions[..count].last()
}

/// Follows the locks and applied writes of a replica through its journal, and checks what it
/// served.
fn replica(
    node: Node,
    facts: &NodeFacts,
    evidence: &Evidence,
    check_result: &mut CheckResult,
) -> usize {
    let mut served = 0;
    let mut locked: BTreeMap<TxnId, Key> = BTreeMap::new();
    let mut applied: BTreeSet<TxnId> = BTreeSet::new();
    // Those that the last start has found.
    let mut recovered: BTreeSet<TxnId> = BTreeSet::new();
    for fact in &facts.facts {
        match &fact.kind {
            FactKind::Started { fresh, undecided } => {
                if *fresh {
                    applied.clear();
                }
                locked.clear();
                recovered = undecided.iter().map(|(txn, _)| *txn).collect();
                for (txn, write) in undecided {
                    // A commit that was lost in the crash.
                    applied.remove(txn);
                    locked.insert(*txn, write.key.clone());
                }
            }
            FactKind::Prepared(txn, write) => {
                locked.insert(*txn, write.key.clone());
            }
            FactKind::Committed(txn) => {
                locked.remove(txn);
                applied.insert(*txn);
            }
            FactKind::Aborted(txn) | FactKind::Vetoed(txn) => {
                locked.remove(txn);
            }
            FactKind::Served(key) => {
                served += 1;
                let position = fact.position;
                let last = last_decided(evidence, key, position.time);
                let holder = locked.iter().find(|(_, locks)| *locks == key).map(|(txn, _)| txn);
                if let Some(holder) = holder {
                    let decided = match last {
                        Some((decided, txn)) if txn == holder => {
                            finding!(line(decided); ", which was decided before ({decided})")
                        }
                        _ => Finding::default(),
                    };
                    let cause = if recovered.contains(holder) {
                        "the lock is from before its last start, which has lost it, unless reads ignore all locks"
                    } else {
                        "the read ignored the lock"
                    };
                    check_result.violation(finding!(
                        key(key), line(position), transaction(holder), nested(decided);
                        "{node} answered a read of {key} ({position}) while {holder} locked it, which {node} had begun \
                         to prepare and not heard the outcome of{decided}: {cause}"
                    ));
                } else if let Some((decided, txn)) = last
                    && !applied.contains(txn)
                {
                    check_result.violation(finding!(
                        key(key), line(position), transaction(txn), line(decided);
                        "{node} served {key} ({position}) without {txn}, decided before \
                         ({decided}), which it has not applied and does not hold locked"
                    ));
                }
            }
            FactKind::ServedPage(range) => {
                served += 1;
                let position = fact.position;
                let is_covered = |name: &Key| range.contains(&key_bytes(&name.to_string()).into());
                if let Some((holder, key)) = locked.iter().find(|(_, key)| is_covered(key)) {
                    check_result.violation(finding!(
                        key(key), line(position), transaction(holder);
                        "{node} read a page that covers {key} ({position}) while {holder} locked it, which {node} \
                         had begun to prepare and not heard the outcome of"
                    ));
                }
                let decided = &evidence.transactions.decided_by_key;
                for key in decided.keys().filter(|key| is_covered(key)) {
                    if let Some((decided, txn)) = last_decided(evidence, key, position.time)
                        && !applied.contains(txn)
                        && !locked.contains_key(txn)
                    {
                        check_result.violation(finding!(
                            key(key), line(position), transaction(txn), line(decided);
                            "{node} read a page that covers {key} ({position}) without {txn}, decided before \
                             ({decided}), which it has not applied and does not hold locked"
                        ));
                    }
                }
            }
            _ => {}
        }
    }
    served
}
