//! The lock intervals of every replica, and the times at which the master advanced each transaction,
//! as the journals prove them.

use std::collections::{BTreeMap, HashMap};

use report::FaultInterval;
use system::protocol::{Key, Node, TxnId};

use crate::twopc::evidence::{Evidence, FactKind, NodeFacts};

/// How a lock interval ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Release {
    /// The lock was still held at the end of the journal.
    Held,
    /// The write was applied.
    Applied,
    /// The transaction was aborted.
    Aborted,
    /// The node crashed. A durable PREPARE takes the lock again at the restart.
    Crashed,
}

/// An interval during which a replica held the lock on a key for a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LockInterval {
    pub(super) txn: TxnId,
    pub(super) key: Key,
    /// When PREPARE was appended or recovered, in nanoseconds of the history.
    pub(super) from: i64,
    /// When PREPARE became durable: the transaction is in doubt from then on. `None` if it never was.
    pub(super) in_doubt_from: Option<i64>,
    pub(super) to: i64,
    pub(super) release: Release,
}

impl LockInterval {
    fn new(txn: TxnId, key: &Key, from: i64, in_doubt_from: Option<i64>) -> Self {
        LockInterval {
            txn,
            key: key.clone(),
            from,
            in_doubt_from,
            to: from,
            release: Release::Held,
        }
    }

    /// How long the transaction was in doubt, in nanoseconds.
    pub(super) fn time_in_doubt(&self) -> i64 {
        self.in_doubt_from.map_or(0, |from| self.to - from)
    }
}

/// When the master advanced a transaction, in nanoseconds of the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MasterTimes {
    /// The first Prepare was sent.
    pub(super) begun: Option<i64>,
    /// COMMIT was appended.
    pub(super) commit_appended: Option<i64>,
    /// COMMIT was durable: the commit point.
    pub(super) committed: Option<i64>,
    /// Every replica had acknowledged the commit.
    pub(super) acknowledged: Option<i64>,
    /// A client or a replica was told of the abort.
    pub(super) aborted: Option<i64>,
}

/// The lock intervals of every replica, in the order in which they began.
pub(super) fn lock_intervals(
    evidence: &Evidence,
    faults: &[FaultInterval],
) -> BTreeMap<Node, Vec<LockInterval>> {
    evidence.replicas().map(|(node, facts)| (node, of_replica(node, facts, faults))).collect()
}

fn of_replica(node: Node, facts: &NodeFacts, faults: &[FaultInterval]) -> Vec<LockInterval> {
    let name = node.to_string();
    let mut all: Vec<LockInterval> = Vec::new();
    let mut open: HashMap<TxnId, usize> = HashMap::new();
    let mut last = i64::MIN;
    for fact in &facts.facts {
        let t = fact.position.time;
        match &fact.kind {
            FactKind::Started { undecided, .. } => {
                // The crash was at the last recorded kill before this start, if there is one.
                let kills =
                    faults.iter().filter(|fault| fault.inactive && fault.nodes.contains(&name));
                let kills = kills.map(|fault| i64::try_from(fault.from).unwrap_or(i64::MAX));
                let crash = kills.filter(|kill| (last..=t).contains(kill)).max().unwrap_or(t);
                for (_, at) in std::mem::take(&mut open) {
                    all[at].release = Release::Crashed;
                    all[at].to = crash.max(all[at].from);
                    all[at].in_doubt_from =
                        all[at].in_doubt_from.filter(|from| *from <= all[at].to);
                }
                for (txn, write) in undecided {
                    open.insert(*txn, all.len());
                    all.push(LockInterval::new(*txn, &write.key, t, Some(t)));
                }
            }
            FactKind::Prepared(txn, write) => {
                open.insert(*txn, all.len());
                all.push(LockInterval::new(*txn, &write.key, t, None));
            }
            FactKind::Voted(txn) => {
                if let Some(at) = open.get(txn) {
                    all[*at].in_doubt_from.get_or_insert(t);
                }
            }
            FactKind::Committed(txn) | FactKind::Aborted(txn) => {
                if let Some(at) = open.remove(txn) {
                    let commits = matches!(fact.kind, FactKind::Committed(_));
                    all[at].release = if commits { Release::Applied } else { Release::Aborted };
                    all[at].to = t;
                }
            }
            _ => {}
        }
        last = t;
    }
    for at in open.into_values() {
        all[at].to = facts.last_time.max(all[at].from);
    }
    all
}

/// When the master advanced each transaction.
pub(super) fn master_times(
    evidence: &Evidence,
    begun: &HashMap<TxnId, i64>,
) -> BTreeMap<TxnId, MasterTimes> {
    let mut all: BTreeMap<TxnId, MasterTimes> = BTreeMap::new();
    for (txn, t) in begun {
        all.entry(*txn).or_default().begun = Some(*t);
    }
    let facts = evidence.nodes.get(&Node::Master).map_or(&[][..], |node| node.facts.as_slice());
    for fact in facts {
        let t = fact.position.time;
        match &fact.kind {
            FactKind::DecisionAppended { txn, .. } => {
                all.entry(*txn).or_default().commit_appended.get_or_insert(t);
            }
            FactKind::Decided(txn, _) => {
                all.entry(*txn).or_default().committed.get_or_insert(t);
            }
            FactKind::Ended(txn) => {
                all.entry(*txn).or_default().acknowledged.get_or_insert(t);
            }
            FactKind::AbortReported { txn, .. } => {
                all.entry(*txn).or_default().aborted.get_or_insert(t);
            }
            _ => {}
        }
    }
    all
}
