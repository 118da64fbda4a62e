//! The facts of a master's journal. Does not know the journals of replicas.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use system::protocol::{
    Body, CallId, CommitMode, Config, Decision, Effect, Event, Key, Message, Node, Record, Reply,
    Request, TxnId,
};

use super::{AbortRecipient, FactKind, FactSink, JournalVisitor, Pending};

/// The state of a master as far as its journal shows it.
#[derive(Debug)]
pub(super) struct MasterScan {
    replicas: u8,
    pending: Pending<(TxnId, Key)>,
    /// Transactions whose COMMIT is durable, until they end.
    durable: HashSet<TxnId>,
    unacknowledged: Unacknowledged,
    /// Transactions that every replica has acknowledged. The master has forgotten them, so it
    /// correctly answers a late inquiry with the presumed abort.
    ended: HashSet<TxnId>,
    /// By transaction that this incarnation began and has not ended: the replicas whose yes vote
    /// has arrived.
    voting: HashMap<TxnId, BTreeSet<Node>>,
    /// The latest incarnation of each replica that this incarnation has heard of. A handshake of an
    /// earlier one is ignored.
    incarnations: HashMap<Node, u64>,
    /// The write call of the current event, until its transaction is known.
    arriving: Option<CallId>,
    calls: HashMap<CallId, TxnId>,
    /// Commit mode votes: the keys of open transactions, and who has acknowledged the committed
    /// ones.
    votes: Option<Votes>,
}

#[derive(Debug, Default)]
struct Votes {
    keys: HashMap<TxnId, Key>,
    acknowledged: HashMap<TxnId, BTreeSet<Node>>,
}

/// Logged mode: the commits that have not ended, and who has acknowledged them to this incarnation.
#[derive(Debug, Default)]
struct Unacknowledged {
    commits: BTreeMap<TxnId, (Key, BTreeSet<Node>)>,
    /// Those that the watermark has passed.
    passed: BTreeSet<TxnId>,
    by_key: HashMap<Key, BTreeSet<TxnId>>,
}

impl Unacknowledged {
    fn committed(&mut self, txn: TxnId, key: &Key) {
        self.commits.insert(txn, (key.clone(), BTreeSet::new()));
        self.by_key.entry(key.clone()).or_default().insert(txn);
    }

    fn acknowledged(&mut self, node: Node, txn: TxnId) {
        if let Some((_, by)) = self.commits.get_mut(&txn) {
            by.insert(node);
        }
    }

    /// A commit has ended. Returns who has acknowledged it, if it is known.
    fn ended(&mut self, txn: TxnId) -> Option<BTreeSet<Node>> {
        let (key, by) = self.commits.remove(&txn)?;
        if let Some(commits) = self.by_key.get_mut(&key) {
            commits.remove(&txn);
        }
        Some(by)
    }

    /// The commits that the watermark passes here for the first time.
    fn passes(&mut self, watermark: TxnId) -> Vec<TxnId> {
        let below = self.commits.range(..watermark).map(|(txn, _)| *txn);
        below.filter(|txn| self.passed.insert(*txn)).collect()
    }

    /// The commits on a key that a node has not acknowledged.
    fn of(&self, key: &Key, node: Node) -> impl Iterator<Item = TxnId> {
        let commits = self.by_key.get(key).into_iter().flatten().copied();
        commits.filter(move |txn| self.commits.get(txn).is_some_and(|(_, by)| !by.contains(&node)))
    }
}

impl MasterScan {
    pub(super) fn new(replicas: u8) -> Self {
        MasterScan {
            replicas,
            pending: Pending::default(),
            durable: HashSet::new(),
            unacknowledged: Unacknowledged::default(),
            ended: HashSet::new(),
            voting: HashMap::new(),
            incarnations: HashMap::new(),
            arriving: None,
            calls: HashMap::new(),
            votes: None,
        }
    }

    /// In commit mode votes, the first report of a commit is the commit point, as a durable COMMIT
    /// is in commit mode logged.
    fn commit_reported(&mut self, txn: TxnId, out: &mut FactSink<'_>) {
        if self.durable.contains(&txn) || self.ended.contains(&txn) {
            return;
        }
        let Some(key) = self.votes.as_mut().and_then(|votes| votes.keys.remove(&txn)) else {
            return;
        };
        if let Some(yes) = self.voting.remove(&txn) {
            out.fact(FactKind::DecisionAppended { txn, missing: self.missing(&yes) });
        }
        self.durable.insert(txn);
        out.fact(FactKind::Decided(txn, key));
    }

    fn acknowledge(&mut self, node: Node, txn: TxnId, out: &mut FactSink<'_>) {
        let Some(votes) = self.votes.as_mut().filter(|_| self.durable.contains(&txn)) else {
            return;
        };
        let by = votes.acknowledged.entry(txn).or_default();
        by.insert(node);
        if by.len() == usize::from(self.replicas) {
            votes.acknowledged.remove(&txn);
            self.durable.remove(&txn);
            self.ended.insert(txn);
            out.fact(FactKind::Ended(txn));
        }
    }

    /// A Prepare repeats the commits on its key that its receiver has not acknowledged.
    fn prepare_sent(
        &self,
        to: Node,
        (txn, key): (TxnId, &Key),
        piggybacked: &[(TxnId, Decision)],
        out: &mut FactSink<'_>,
    ) {
        for omitted in self.unacknowledged.of(key, to) {
            let is_told = piggybacked.iter().any(|(told, _)| *told == omitted);
            if self.durable.contains(&omitted) && !is_told {
                out.fact(FactKind::DecisionOmitted { txn, omitted, to });
            }
        }
    }

    fn sent(&mut self, to: Node, body: Body, out: &mut FactSink<'_>) {
        match body {
            Body::Prepare { txn, piggybacked, write } => {
                self.prepare_sent(to, (txn, &write.key), &piggybacked, out);
                if let Some(votes) = &mut self.votes {
                    votes.keys.insert(txn, write.key);
                }
                if let Some(call) = self.arriving.take() {
                    self.calls.insert(call, txn);
                }
                for (txn, decision) in piggybacked {
                    self.decision_sent(to, txn, decision, out);
                }
                self.voting.entry(txn).or_default();
            }
            Body::Read { piggybacked, .. } | Body::Query { piggybacked, .. } => {
                for (txn, decision) in piggybacked {
                    self.decision_sent(to, txn, decision, out);
                }
            }
            // A yes vote counts no longer.
            Body::Veto { txn } => {
                self.voting.remove(&txn);
            }
            Body::Decide { txn, decision } => self.decision_sent(to, txn, decision, out),
            _ => {}
        }
    }

    fn missing(&self, yes: &BTreeSet<Node>) -> Vec<Node> {
        (1..=self.replicas).map(Node::Replica).filter(|node| !yes.contains(node)).collect()
    }

    fn voted_yes(&mut self, node: Node, txn: TxnId) {
        if let Some(yes) = self.voting.get_mut(&txn) {
            yes.insert(node);
        }
    }

    /// A decision is sent to a replica, by itself or piggybacked on a Prepare or a Read.
    fn decision_sent(&mut self, to: Node, txn: TxnId, decision: Decision, out: &mut FactSink<'_>) {
        if self.ended.contains(&txn) {
            return;
        }
        if decision == Decision::Commit {
            self.commit_reported(txn, out);
        }
        match decision {
            Decision::Commit if !self.durable.contains(&txn) => {
                out.fact(FactKind::EarlyDecide(txn, to));
            }
            Decision::Commit => {}
            Decision::Abort => self.abort_reported(txn, AbortRecipient::Replica(to), out),
        }
    }

    fn abort_reported(&mut self, txn: TxnId, to: AbortRecipient, out: &mut FactSink<'_>) {
        let yes = self.voting.remove(&txn);
        // Commit mode votes: the abort is repeated, or presumed for a transaction that all have
        // settled, in answer to a late inquiry.
        if self.votes.as_mut().is_some_and(|votes| votes.keys.remove(&txn).is_none()) {
            return;
        }
        let all_yes = yes.is_some_and(|yes| yes.len() == usize::from(self.replicas));
        out.fact(FactKind::AbortReported { txn, to, all_yes });
    }
}

impl JournalVisitor for MasterScan {
    fn started(&mut self, config: &Config, records: Vec<Record>, _out: &mut FactSink<'_>) {
        self.votes = (config.commit == CommitMode::Votes).then(Votes::default);
        self.pending.restart();
        self.durable.clear();
        self.unacknowledged = Unacknowledged::default();
        self.voting.clear();
        self.incarnations.clear();
        self.calls.clear();
        self.arriving = None;
        for record in records {
            if let Record::CommitDecision { txn, key } = record {
                self.unacknowledged.committed(txn, &key);
                self.pending.recovered((txn, key));
            }
        }
    }

    fn event(&mut self, event: Event, out: &mut FactSink<'_>) {
        self.arriving = None;
        match event {
            Event::Message { from, message: Message { body, .. } } => match body {
                Body::VoteYes { txn } | Body::Inquire { txn } => self.voted_yes(from, txn),
                Body::Ack { txns, .. } => {
                    for txn in txns {
                        self.unacknowledged.acknowledged(from, txn);
                        self.acknowledge(from, txn, out);
                    }
                }
                Body::Alive { incarnation, .. } => {
                    let latest = self.incarnations.entry(from).or_default();
                    *latest = incarnation.max(*latest);
                }
                // A replica that is in doubt about a transaction has voted yes on it.
                Body::FenceOk { incarnation, in_doubt, .. } => {
                    let latest = self.incarnations.entry(from).or_default();
                    if incarnation >= *latest {
                        *latest = incarnation;
                        for (txn, key) in in_doubt {
                            self.voted_yes(from, txn);
                            if let Some(votes) = &mut self.votes {
                                votes.keys.insert(txn, key);
                            }
                        }
                    }
                }
                _ => {}
            },
            Event::Client { call, request: Request::Write(_) } => self.arriving = Some(call),
            Event::Persisted(lsn) => {
                for (txn, key) in self.pending.persisted(lsn) {
                    self.durable.insert(txn);
                    out.fact(FactKind::Decided(txn, key));
                }
            }
            Event::Client { .. }
            | Event::Timer(_)
            | Event::ForceAge(_)
            | Event::Leave
            | Event::ReadResult { .. }
            | Event::ReadFailed { .. }
            | Event::KeysRead { .. }
            | Event::PageRead { .. }
            | Event::Damaged { .. }
            | Event::Copied { .. }
            | Event::Checkpointed { .. }
            | Event::Summarized { .. }
            | Event::Checked { .. }
            | Event::Room { .. } => {}
        }
    }

    fn effect(&mut self, effect: Effect, out: &mut FactSink<'_>) {
        match effect {
            Effect::Append(Record::CommitDecision { txn, key }) => {
                let yes = self.voting.remove(&txn).unwrap_or_default();
                let missing = self.missing(&yes);
                out.fact(FactKind::DecisionAppended { txn, missing });
                self.unacknowledged.committed(txn, &key);
                self.pending.append(Some((txn, key)));
            }
            Effect::Append(record) => {
                self.pending.append(None);
                if let Record::End { txn } = record {
                    self.durable.remove(&txn);
                    let by = self.unacknowledged.ended(txn);
                    let missing = by.map_or_else(Vec::new, |by| self.missing(&by));
                    if !missing.is_empty() {
                        out.fact(FactKind::EarlyEnd { txn, missing });
                    }
                    self.ended.insert(txn);
                    out.fact(FactKind::Ended(txn));
                }
            }
            Effect::Send { to, message: Message { body, watermark, .. } } => {
                for txn in self.unacknowledged.passes(watermark) {
                    out.fact(FactKind::EarlyWatermark { txn, watermark });
                }
                self.sent(to, body, out);
            }
            Effect::Reply { call, reply } => {
                let txn = self.calls.remove(&call);
                match reply {
                    Reply::Committed { version: txn } => {
                        self.commit_reported(txn, out);
                        let durable = self.durable.contains(&txn) || self.ended.contains(&txn);
                        out.fact(FactKind::OkReported { txn, durable });
                    }
                    Reply::Aborted(reason) => {
                        if let Some(txn) = txn {
                            self.abort_reported(txn, AbortRecipient::Client(reason), out);
                        }
                    }
                    Reply::Value(_) | Reply::Snapshot { .. } | Reply::Unavailable => {}
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use system::protocol::{ClusterId, StoreId, Write};

    use super::{
        super::{Fact, JournalPosition},
        *,
    };

    #[test]
    fn a_handshake_that_names_a_transaction_is_a_yes() {
        let txn = TxnId::new(4, 120);
        let key = Key::from("k4");
        let message = |body| Message {
            cluster: ClusterId(0),
            store: StoreId(1),
            epoch: 4,
            nonce: 0,
            watermark: txn,
            decisions: 0,
            body,
        };
        let write = Write { key: key.clone(), value: None };
        let prepare = message(Body::Prepare { txn, write, piggybacked: Vec::new() });
        let handshake =
            |in_doubt| message(Body::FenceOk { incarnation: 3, in_doubt, start: 0, commits: 0 });
        for (in_doubt, missing) in
            [(vec![(txn, key.clone())], Vec::new()), (Vec::new(), vec![Node::Replica(1)])]
        {
            let mut scan = MasterScan::new(1);
            let mut facts = Vec::new();
            let position = JournalPosition { node: Node::Master, line: 1, time: 0 };
            let mut out = FactSink { facts: &mut facts, position };
            scan.effect(Effect::Send { to: Node::Replica(1), message: prepare.clone() }, &mut out);
            let from = Node::Replica(1);
            scan.event(Event::Message { from, message: handshake(in_doubt) }, &mut out);
            let decided = Record::CommitDecision { txn, key: key.clone() };
            scan.effect(Effect::Append(decided), &mut out);
            assert_eq!(
                facts,
                [Fact { position, kind: FactKind::DecisionAppended { txn, missing } }]
            );
        }
    }
}
