//! R1: a replica that serves a key has applied the key's last decided write, and is not in doubt
//! about a write of it: an in-doubt key is never read, either way. From the journals, because a
//! get at the master may repair what a client would otherwise have seen stale. Knows nothing of
//! clients.

use std::collections::{BTreeMap, BTreeSet};

use system::protocol::{Key, Node, TxnId};

use super::{
    CheckResult, Run,
    evidence::{Evidence, NodeFacts, Place, What},
};

/// The check's name.
pub const NAME: &str = "reads";

/// Judges a run.
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

/// The last write of a key that was decided before this time, if any.
fn last_decided<'a>(evidence: &'a Evidence, key: &Key, before: i64) -> Option<&'a (Place, TxnId)> {
    let decisions = evidence.transactions.decided_by_key.get(key)?;
    let count = decisions.partition_point(|(place, _)| place.time < before);
    decisions[..count].last()
}

/// Follows a replica's locks and applied writes through its journal, and judges what it served.
fn replica(
    node: Node,
    facts: &NodeFacts,
    evidence: &Evidence,
    check_result: &mut CheckResult,
) -> usize {
    let mut served = 0;
    let mut locked: BTreeMap<TxnId, Key> = BTreeMap::new();
    let mut applied: BTreeSet<TxnId> = BTreeSet::new();
    let mut restarts = 0;
    for fact in &facts.facts {
        match &fact.what {
            What::Started { fresh, undecided } => {
                restarts += 1;
                if *fresh {
                    applied.clear();
                }
                locked.clear();
                for (txn, write) in undecided {
                    // A commit that the crash took back.
                    applied.remove(txn);
                    locked.insert(*txn, write.key.clone());
                }
            }
            What::Prepared(txn, write) => {
                locked.insert(*txn, write.key.clone());
            }
            What::Committed(txn) => {
                locked.remove(txn);
                applied.insert(*txn);
            }
            What::Aborted(txn) | What::Vetoed(txn) => {
                locked.remove(txn);
            }
            What::Served(key) => {
                served += 1;
                let place = fact.place;
                let last = last_decided(evidence, key, place.time);
                let holder = locked.iter().find(|(_, locks)| *locks == key).map(|(txn, _)| txn);
                if let Some(holder) = holder {
                    let decided = match last {
                        Some((decided, txn)) if txn == holder => {
                            format!(", which was decided before ({decided})")
                        }
                        _ => String::new(),
                    };
                    let how = if restarts > 1 {
                        "a restart forgot the lock, or a read ignored it"
                    } else {
                        "a read ignored the lock"
                    };
                    check_result.violation(format!(
                        "{node} served {key} ({place}) while it was in doubt about \
                         {holder}{decided}: {how}"
                    ));
                } else if let Some((decided, txn)) = last
                    && !applied.contains(txn)
                {
                    check_result.violation(format!(
                        "{node} served {key} ({place}) without {txn}, decided before \
                         ({decided}), which it has not applied and does not hold locked"
                    ));
                }
            }
            _ => {}
        }
    }
    served
}
