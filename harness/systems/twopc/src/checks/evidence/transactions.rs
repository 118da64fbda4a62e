//! The facts of all nodes, combined by transaction and by key. Does not know what a violation is.

use std::collections::{BTreeMap, HashMap};

use system::protocol::{Key, Node, TxnId, Write};

use super::{AbortRecipient, Fact, FactKind, JournalPosition, NodeFacts};

/// What the journals prove about one transaction. Lists are in the order of the journals, the
/// master's first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The write, from a PREPARE.
    pub write: Option<Write>,
    /// Where a PREPARE was appended.
    pub prepared: Vec<JournalPosition>,
    /// Where a PREPARE became durable: the yes votes.
    pub voted: Vec<JournalPosition>,
    /// Where the master appended COMMIT, and whose yes vote had not arrived by then.
    pub decision_appended: Option<(JournalPosition, Vec<Node>)>,
    /// The commit point: where COMMIT became durable at the master. In commit mode votes: where a
    /// node first acted on the commit.
    pub decided: Option<JournalPosition>,
    /// Where the last acknowledgement of the commit reached the master.
    pub ended: Option<JournalPosition>,
    /// Where replicas appended commits.
    pub committed: Vec<JournalPosition>,
    /// Where the master answered the client Ok.
    pub answered_ok: Option<JournalPosition>,
    /// The decisions to abort.
    pub aborted: Vec<Abort>,
}

/// A decision to abort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Where.
    pub position: JournalPosition,
    /// To whom the master reported it, `None` for an abort by a replica.
    pub recipient: Option<AbortRecipient>,
    /// Whether the master had every replica's yes vote by then.
    pub all_yes: bool,
}

impl Transaction {
    /// Where it was first committed, at the master or else at a replica. `None` if nowhere.
    #[must_use]
    pub fn commit(&self) -> Option<JournalPosition> {
        self.decided.or_else(|| self.committed.first().copied())
    }

    /// The first time at which a journal mentions it, in nanoseconds of the history.
    #[must_use]
    pub fn first_seen(&self) -> Option<i64> {
        let master =
            self.decision_appended.iter().map(|(position, _)| position).chain(&self.decided);
        let replicas = [&self.prepared, &self.voted, &self.committed].into_iter().flatten();
        master.chain(replicas).map(|position| position.time).min()
    }

    /// The last time at which a journal mentions it, in nanoseconds of the history. `None` while
    /// the master may still work on it or a replica may still lock its key.
    #[must_use]
    pub fn finished_at(&self) -> Option<i64> {
        let outcomes = || {
            let aborts = self.aborted.iter().map(|abort| abort.position);
            self.committed.iter().copied().chain(aborts)
        };
        let released = |held: &JournalPosition| {
            outcomes().any(|end| end.node == held.node && end.line > held.line)
        };
        let master = |position: JournalPosition| position.node == Node::Master;
        let finished = self.ended.is_some() || outcomes().any(master);
        let all_released = self.prepared.iter().all(released);
        let last = outcomes().chain(self.ended).map(|position| position.time).max();
        last.filter(|_| finished && all_released)
    }

    /// Whether this replica applied it.
    #[must_use]
    pub fn committed_at(&self, node: Node) -> bool {
        self.committed.iter().any(|position| position.node == node)
    }
}

/// Every transaction that a journal mentions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transactions {
    /// By id.
    pub by_id: BTreeMap<TxnId, Transaction>,
    /// By key: the commit points of its writes, in order.
    pub decided_by_key: BTreeMap<Key, Vec<(JournalPosition, TxnId)>>,
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

    /// By key: the last committed transaction that wrote it, and the write.
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

    /// By key and value: the transaction that wrote it. The generator never writes a value twice.
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
        let position = fact.position;
        match &fact.kind {
            FactKind::Prepared(txn, write) => {
                let transaction = self.of_id(*txn);
                transaction.write.get_or_insert_with(|| write.clone());
                transaction.prepared.push(position);
            }
            FactKind::Voted(txn) => self.of_id(*txn).voted.push(position),
            FactKind::Committed(txn) => self.of_id(*txn).committed.push(position),
            FactKind::Aborted(txn) => {
                // A tombstone for a transaction that was never prepared here decides nothing: no
                // vote was given.
                let transaction = self.of_id(*txn);
                if transaction.prepared.iter().any(|prepared| prepared.node == node) {
                    transaction.aborted.push(Abort { position, recipient: None, all_yes: false });
                }
            }
            FactKind::Refused(txn) => {
                self.of_id(*txn).aborted.push(Abort { position, recipient: None, all_yes: false });
            }
            FactKind::DecisionAppended { txn, missing } => {
                let transaction = self.of_id(*txn);
                transaction.decision_appended.get_or_insert((position, missing.clone()));
            }
            FactKind::Decided(txn, key) => {
                let decided = &mut self.of_id(*txn).decided;
                match decided.replace(position) {
                    None => {
                        self.decided_by_key.entry(key.clone()).or_default().push((position, *txn));
                    }
                    Some(before) if before.time <= position.time => *decided = Some(before),
                    Some(before) => {
                        let decisions = self.decided_by_key.entry(key.clone()).or_default();
                        decisions.retain(|decision| *decision != (before, *txn));
                        decisions.push((position, *txn));
                    }
                }
            }
            FactKind::AbortReported { txn, to, all_yes } => {
                let recipient = Some(to.clone());
                self.of_id(*txn).aborted.push(Abort { position, recipient, all_yes: *all_yes });
            }
            FactKind::OkReported { txn, .. } => {
                self.of_id(*txn).answered_ok.get_or_insert(position);
            }
            FactKind::Ended(txn) => self.of_id(*txn).ended = Some(position),
            FactKind::LongForce { .. }
            | FactKind::Started { .. }
            | FactKind::Served(_)
            | FactKind::ServedPage(_)
            | FactKind::Damaged(_)
            | FactKind::Lost(_)
            | FactKind::Healed { .. }
            | FactKind::Vetoed(_)
            | FactKind::EarlyVote(_)
            | FactKind::EarlyAck(_)
            | FactKind::EarlyAbort(..)
            | FactKind::DecisionOmitted { .. }
            | FactKind::EarlyEnd { .. }
            | FactKind::EarlyWatermark { .. }
            | FactKind::EarlyDecide(..)
            | FactKind::Unkept(_)
            | FactKind::Overdue(_)
            | FactKind::FalseRefusal { .. }
            | FactKind::Halted { .. } => {}
        }
    }
}
