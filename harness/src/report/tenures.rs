//! From when to when each replica held a lock, and in which phase of its transaction; and what the
//! master made of each transaction. Knows what the journals prove, not what should have been.

use std::collections::{BTreeMap, HashMap};

use system::protocol::{Key, Node, TxnId};

use super::windows::Window;
use crate::twopc::evidence::{Evidence, FactKind, NodeFacts};

/// How a lock was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Release {
    /// It never was.
    Open,
    /// The write was applied.
    Applied,
    /// The transaction was aborted.
    Aborted,
    /// The node went down with it; what was durable is locked again when it comes back.
    Down,
}

/// A lock that a replica held for a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tenure {
    pub(super) txn: TxnId,
    pub(super) key: Key,
    /// When PREPARE was appended, or when the replica came back with it; nanoseconds of the history.
    pub(super) from: i64,
    /// When PREPARE was durable: in doubt from here on. None if it never was.
    pub(super) voted: Option<i64>,
    pub(super) to: i64,
    pub(super) outcome: Release,
}

impl Tenure {
    fn begun(txn: TxnId, key: &Key, from: i64, voted: Option<i64>) -> Self {
        Tenure { txn, key: key.clone(), from, voted, to: from, outcome: Release::Open }
    }

    /// How long it was in doubt.
    pub(super) fn unknown(&self) -> i64 {
        self.voted.map_or(0, |voted| self.to - voted)
    }
}

/// What the master made of a transaction; nanoseconds of the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reign {
    pub(super) begun: Option<i64>,
    pub(super) appended: Option<i64>,
    pub(super) decided: Option<i64>,
    pub(super) ended: Option<i64>,
    pub(super) aborted: Option<i64>,
}

/// The locks of every replica, in the order in which they were taken.
pub(super) fn tenures(evidence: &Evidence, windows: &[Window]) -> BTreeMap<Node, Vec<Tenure>> {
    evidence.replicas().map(|(node, facts)| (node, of_replica(node, facts, windows))).collect()
}

fn of_replica(node: Node, facts: &NodeFacts, windows: &[Window]) -> Vec<Tenure> {
    let name = node.to_string();
    let mut all: Vec<Tenure> = Vec::new();
    let mut open: HashMap<TxnId, usize> = HashMap::new();
    let mut last = i64::MIN;
    for fact in &facts.facts {
        let t = fact.position.time;
        match &fact.kind {
            FactKind::Started { undecided, .. } => {
                // It went down at the last kill before this start, if one is on record.
                let kills = windows.iter().filter(|w| w.silent && w.nodes.contains(&name));
                let kills = kills.map(|w| i64::try_from(w.from).unwrap_or(i64::MAX));
                let down = kills.filter(|kill| (last..=t).contains(kill)).max().unwrap_or(t);
                for (_, at) in std::mem::take(&mut open) {
                    all[at].outcome = Release::Down;
                    all[at].to = down.max(all[at].from);
                    all[at].voted = all[at].voted.filter(|voted| *voted <= all[at].to);
                }
                for (txn, write) in undecided {
                    open.insert(*txn, all.len());
                    all.push(Tenure::begun(*txn, &write.key, t, Some(t)));
                }
            }
            FactKind::Prepared(txn, write) => {
                open.insert(*txn, all.len());
                all.push(Tenure::begun(*txn, &write.key, t, None));
            }
            FactKind::Voted(txn) => {
                if let Some(at) = open.get(txn) {
                    all[*at].voted.get_or_insert(t);
                }
            }
            FactKind::Committed(txn) | FactKind::Aborted(txn) => {
                if let Some(at) = open.remove(txn) {
                    let commits = matches!(fact.kind, FactKind::Committed(_));
                    all[at].outcome = if commits { Release::Applied } else { Release::Aborted };
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

/// What the master made of every transaction.
pub(super) fn reigns(evidence: &Evidence, begun: &HashMap<TxnId, i64>) -> BTreeMap<TxnId, Reign> {
    let mut all: BTreeMap<TxnId, Reign> = BTreeMap::new();
    for (txn, t) in begun {
        all.entry(*txn).or_default().begun = Some(*t);
    }
    let facts = evidence.nodes.get(&Node::Master).map_or(&[][..], |node| node.facts.as_slice());
    for fact in facts {
        let t = fact.position.time;
        match &fact.kind {
            FactKind::DecisionAppended { txn, .. } => {
                all.entry(*txn).or_default().appended.get_or_insert(t);
            }
            FactKind::Decided(txn, _) => {
                all.entry(*txn).or_default().decided.get_or_insert(t);
            }
            FactKind::Ended(txn) => {
                all.entry(*txn).or_default().ended.get_or_insert(t);
            }
            FactKind::AbortReported { txn, .. } => {
                all.entry(*txn).or_default().aborted.get_or_insert(t);
            }
            _ => {}
        }
    }
    all
}
