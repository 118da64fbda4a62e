//! The facts of all nodes, put together by transaction and by key. Knows nothing of verdicts.

use std::collections::{BTreeMap, HashMap};

use system::protocol::{Key, Node, TxnId, Write};

use super::{Fact, NodeFacts, Place, Told, What};

/// What the journals prove about one transaction. Every list is in the order of the journals it
/// comes from, the master's first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What it writes, from a PREPARE.
    pub write: Option<Write>,
    /// Where a PREPARE was appended.
    pub prepared: Vec<Place>,
    /// Where a PREPARE became durable: the yes votes.
    pub voted: Vec<Place>,
    /// Where the master appended COMMIT, and whose yes it had not heard by then.
    pub decision_appended: Option<(Place, Vec<Node>)>,
    /// Where COMMIT was durable at the master: the commit point. Where the votes decide: who acted on
    /// it first.
    pub decided: Option<Place>,
    /// Where the master had every acknowledgement of the commit.
    pub ended: Option<Place>,
    /// Where replicas appended commits.
    pub committed: Vec<Place>,
    /// Who decided to abort, where.
    pub aborted: Vec<Abort>,
}

/// A decision to abort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Where.
    pub place: Place,
    /// By the master: who was told. By a replica: none.
    pub told: Option<Told>,
    /// Whether the master had every replica's yes by then.
    pub all_yes: bool,
}

impl Transaction {
    /// Whether somebody committed it, and who was first to: the master, or else a replica.
    #[must_use]
    pub fn commit(&self) -> Option<Place> {
        self.decided.or_else(|| self.committed.first().copied())
    }

    /// When it was known to be under way: the first that any journal tells of it, in nanoseconds of
    /// the history.
    #[must_use]
    pub fn begun(&self) -> Option<i64> {
        let master = self.decision_appended.iter().map(|(place, _)| place).chain(&self.decided);
        let replicas = [&self.prepared, &self.voted, &self.committed].into_iter().flatten();
        master.chain(replicas).map(|place| place.time).min()
    }

    /// When it was over: the last that any journal tells of it, in nanoseconds of the history.
    /// None while the master may still work on it or a replica may still hold its key.
    #[must_use]
    pub fn over(&self) -> Option<i64> {
        let outcomes = || {
            let aborts = self.aborted.iter().map(|abort| abort.place);
            self.committed.iter().copied().chain(aborts)
        };
        let released =
            |held: &Place| outcomes().any(|end| end.node == held.node && end.line > held.line);
        let master = |place: Place| place.node == Node::Master;
        let finished = self.ended.is_some() || outcomes().any(master);
        let over = finished && self.prepared.iter().all(released);
        let last = outcomes().chain(self.ended).map(|place| place.time).max();
        last.filter(|_| over)
    }

    /// Whether this replica applied it.
    #[must_use]
    pub fn committed_at(&self, node: Node) -> bool {
        self.committed.iter().any(|place| place.node == node)
    }
}

/// Every transaction that a journal names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transactions {
    /// By id.
    pub by_id: BTreeMap<TxnId, Transaction>,
    /// The commit points of each key's writes, in the order in which they were.
    pub decided_by_key: BTreeMap<Key, Vec<(Place, TxnId)>>,
}

impl Transactions {
    pub(super) fn of(nodes: &BTreeMap<Node, NodeFacts>) -> Transactions {
        let mut all = Transactions::default();
        for (node, facts) in nodes {
            for fact in &facts.facts {
                all.add(*node, fact);
            }
        }
        for decisions in all.decided_by_key.values_mut() {
            decisions.sort();
        }
        all
    }

    /// The committed transactions that wrote each key, and what.
    #[must_use]
    pub fn last_commits(&self) -> BTreeMap<&Key, (TxnId, &Write)> {
        let mut last = BTreeMap::new();
        for (txn, transaction) in &self.by_id {
            if let (Some(write), Some(_)) = (&transaction.write, transaction.commit()) {
                last.insert(&write.key, (*txn, write));
            }
        }
        last
    }

    /// The transaction that wrote each value to each key, where no two wrote the same.
    #[must_use]
    pub fn writers(&self) -> HashMap<(String, String), TxnId> {
        let mut writers = HashMap::new();
        for (txn, transaction) in &self.by_id {
            let Some(Write { key, value: Some(value) }) = &transaction.write else { continue };
            writers.insert((key.to_string(), value.to_string()), *txn);
        }
        writers
    }

    fn of_id(&mut self, txn: TxnId) -> &mut Transaction {
        self.by_id.entry(txn).or_default()
    }

    fn add(&mut self, node: Node, fact: &Fact) {
        let place = fact.place;
        match &fact.what {
            What::Prepared(txn, write) => {
                let transaction = self.of_id(*txn);
                transaction.write.get_or_insert_with(|| write.clone());
                transaction.prepared.push(place);
            }
            What::Voted(txn) => self.of_id(*txn).voted.push(place),
            What::Committed(txn) => self.of_id(*txn).committed.push(place),
            What::Aborted(txn) => {
                // A tombstone for what was never prepared here decides nothing: no vote was given.
                let transaction = self.of_id(*txn);
                if transaction.prepared.iter().any(|prepared| prepared.node == node) {
                    transaction.aborted.push(Abort { place, told: None, all_yes: false });
                }
            }
            What::Refused(txn) => {
                self.of_id(*txn).aborted.push(Abort { place, told: None, all_yes: false });
            }
            What::DecisionAppended { txn, missing } => {
                let transaction = self.of_id(*txn);
                transaction.decision_appended.get_or_insert((place, missing.clone()));
            }
            What::Decided(txn, key) => {
                let decided = &mut self.of_id(*txn).decided;
                match decided.replace(place) {
                    None => {
                        self.decided_by_key.entry(key.clone()).or_default().push((place, *txn));
                    }
                    Some(before) if before.time <= place.time => *decided = Some(before),
                    Some(before) => {
                        let decisions = self.decided_by_key.entry(key.clone()).or_default();
                        decisions.retain(|decision| *decision != (before, *txn));
                        decisions.push((place, *txn));
                    }
                }
            }
            What::AbortTold { txn, to, all_yes } => {
                let told = Some(to.clone());
                self.of_id(*txn).aborted.push(Abort { place, told, all_yes: *all_yes });
            }
            What::Ended(txn) => self.of_id(*txn).ended = Some(place),
            What::Started { .. }
            | What::Served(_)
            | What::Vetoed(_)
            | What::EarlyVote(_)
            | What::EarlyAck(_)
            | What::EarlyDecide(..)
            | What::OkTold { .. }
            | What::Halted(..) => {}
        }
    }
}
