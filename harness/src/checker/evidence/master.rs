//! The facts of a master's journal. Knows nothing of replicas' journals.

use std::collections::{BTreeSet, HashMap, HashSet};

use system::protocol::{
    Body, CallId, CommitMode, Config, Decision, Effect, Event, Key, Message, Node, Record, Reply,
    Request, TxnId,
};

use super::{Follow, Pending, Sink, Told, What};

/// A master as its journal tells it.
#[derive(Debug)]
pub(super) struct Scan {
    replicas: u8,
    pending: Pending<(TxnId, Key)>,
    /// Transactions whose COMMIT is durable, until they end.
    durable: HashSet<TxnId>,
    /// Transactions that every replica has acknowledged: for the master they are unknown again,
    /// and a late question is rightly answered with the presumed abort.
    ended: HashSet<TxnId>,
    /// Transactions that this incarnation began and has not ended, and whose yes has arrived.
    voting: HashMap<TxnId, BTreeSet<Node>>,
    /// The latest start of each replica that this incarnation has heard of: a handshake of an
    /// earlier one counts for nothing.
    incarnations: HashMap<Node, u64>,
    /// The write call that the current event brought, until its transaction is known.
    arriving: Option<CallId>,
    calls: HashMap<CallId, TxnId>,
    /// Where the votes decide: the keys of transactions that are under way, and who has acknowledged
    /// those that are committed.
    votes: Option<Votes>,
}

#[derive(Debug, Default)]
struct Votes {
    keys: HashMap<TxnId, Key>,
    acknowledged: HashMap<TxnId, BTreeSet<Node>>,
}

impl Scan {
    pub(super) fn new(replicas: u8) -> Self {
        Scan {
            replicas,
            pending: Pending::default(),
            durable: HashSet::new(),
            ended: HashSet::new(),
            voting: HashMap::new(),
            incarnations: HashMap::new(),
            arriving: None,
            calls: HashMap::new(),
            votes: None,
        }
    }

    /// Where the votes decide, telling anybody of a commit is what a durable COMMIT is elsewhere.
    fn publishes(&mut self, txn: TxnId, out: &mut Sink<'_>) {
        if self.durable.contains(&txn) || self.ended.contains(&txn) {
            return;
        }
        let Some(key) = self.votes.as_mut().and_then(|votes| votes.keys.remove(&txn)) else {
            return;
        };
        if let Some(yes) = self.voting.remove(&txn) {
            out.fact(What::DecisionAppended { txn, missing: self.missing(&yes) });
        }
        self.durable.insert(txn);
        out.fact(What::Decided(txn, key));
    }

    fn acknowledged(&mut self, node: Node, txn: TxnId, out: &mut Sink<'_>) {
        let Some(votes) = self.votes.as_mut().filter(|_| self.durable.contains(&txn)) else {
            return;
        };
        let by = votes.acknowledged.entry(txn).or_default();
        by.insert(node);
        if by.len() == usize::from(self.replicas) {
            votes.acknowledged.remove(&txn);
            self.durable.remove(&txn);
            self.ended.insert(txn);
            out.fact(What::Ended(txn));
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

    /// A decision is told to a replica, by itself or with a Prepare or a Read.
    fn told(&mut self, to: Node, txn: TxnId, decision: Decision, out: &mut Sink<'_>) {
        if self.ended.contains(&txn) {
            return;
        }
        if decision == Decision::Commit {
            self.publishes(txn, out);
        }
        match decision {
            Decision::Commit if !self.durable.contains(&txn) => {
                out.fact(What::EarlyDecide(txn, to));
            }
            Decision::Commit => {}
            Decision::Abort => self.aborted(txn, Told::Replica(to), out),
        }
    }

    fn aborted(&mut self, txn: TxnId, to: Told, out: &mut Sink<'_>) {
        let yes = self.voting.remove(&txn);
        // Where the votes decide: said again, or presumed of one that all have settled, in answer to a
        // question that came late.
        if self.votes.as_mut().is_some_and(|votes| votes.keys.remove(&txn).is_none()) {
            return;
        }
        let all_yes = yes.is_some_and(|yes| yes.len() == usize::from(self.replicas));
        out.fact(What::AbortTold { txn, to, all_yes });
    }
}

impl Follow for Scan {
    fn started(&mut self, config: &Config, records: Vec<Record>, _out: &mut Sink<'_>) {
        self.votes = (config.commit == CommitMode::Votes).then(Votes::default);
        self.pending.restart();
        self.durable.clear();
        self.voting.clear();
        self.incarnations.clear();
        self.calls.clear();
        self.arriving = None;
        for record in records {
            if let Record::Decided { txn, key } = record {
                self.pending.recovered((txn, key));
            }
        }
    }

    fn event(&mut self, event: Event, out: &mut Sink<'_>) {
        self.arriving = None;
        match event {
            Event::Message { from, message: Message { body, .. } } => match body {
                Body::VoteYes { txn } | Body::Inquire { txn } => self.voted_yes(from, txn),
                Body::Ack { txns } => {
                    for txn in txns {
                        self.acknowledged(from, txn, out);
                    }
                }
                Body::Alive { incarnation } => {
                    let latest = self.incarnations.entry(from).or_default();
                    *latest = incarnation.max(*latest);
                }
                // What a replica is in doubt about it has voted yes on.
                Body::FenceOk { incarnation, in_doubt } => {
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
                    out.fact(What::Decided(txn, key));
                }
            }
            Event::Client { .. } | Event::Timer(_) | Event::ReadResult { .. } => {}
        }
    }

    fn effect(&mut self, effect: Effect, out: &mut Sink<'_>) {
        match effect {
            Effect::Append(Record::Decided { txn, key }) => {
                let yes = self.voting.remove(&txn).unwrap_or_default();
                let missing = self.missing(&yes);
                out.fact(What::DecisionAppended { txn, missing });
                self.pending.append(Some((txn, key)));
            }
            Effect::Append(record) => {
                self.pending.append(None);
                if let Record::End { txn } = record {
                    self.durable.remove(&txn);
                    self.ended.insert(txn);
                    out.fact(What::Ended(txn));
                }
            }
            Effect::Send { to, message: Message { body, .. } } => match body {
                Body::Prepare { txn, piggybacked, write } => {
                    if let Some(votes) = &mut self.votes {
                        votes.keys.insert(txn, write.key);
                    }
                    if let Some(call) = self.arriving.take() {
                        self.calls.insert(call, txn);
                    }
                    for (txn, decision) in piggybacked {
                        self.told(to, txn, decision, out);
                    }
                    self.voting.entry(txn).or_default();
                }
                Body::Read { piggybacked, .. } => {
                    for (txn, decision) in piggybacked {
                        self.told(to, txn, decision, out);
                    }
                }
                // A yes counts no more.
                Body::Veto { txn } => {
                    self.voting.remove(&txn);
                }
                Body::Decide { txn, decision } => self.told(to, txn, decision, out),
                _ => {}
            },
            Effect::Reply { call, reply } => {
                let txn = self.calls.remove(&call);
                match reply {
                    Reply::Committed { version: txn } => {
                        self.publishes(txn, out);
                        let durable = self.durable.contains(&txn) || self.ended.contains(&txn);
                        out.fact(What::OkTold { txn, durable });
                    }
                    Reply::Aborted(reason) => {
                        if let Some(txn) = txn {
                            self.aborted(txn, Told::Client(reason), out);
                        }
                    }
                    Reply::Value(_) | Reply::Unavailable => {}
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use system::protocol::{StoreId, Write};

    use super::{
        super::{Fact, Place},
        *,
    };

    #[test]
    fn a_handshake_that_names_a_transaction_is_a_yes() {
        let txn = TxnId::new(4, 120);
        let key = Key::from("k4");
        let message = |body| Message { store: StoreId(1), epoch: 4, watermark: txn, body };
        let write = Write { key: key.clone(), value: None };
        let prepare = message(Body::Prepare { txn, write, piggybacked: Vec::new() });
        let handshake = |in_doubt| message(Body::FenceOk { incarnation: 3, in_doubt });
        for (in_doubt, missing) in
            [(vec![(txn, key.clone())], Vec::new()), (Vec::new(), vec![Node::Replica(1)])]
        {
            let mut scan = Scan::new(1);
            let mut facts = Vec::new();
            let place = Place { node: Node::Master, line: 1, time: 0 };
            let mut out = Sink { facts: &mut facts, place };
            scan.effect(Effect::Send { to: Node::Replica(1), message: prepare.clone() }, &mut out);
            let from = Node::Replica(1);
            scan.event(Event::Message { from, message: handshake(in_doubt) }, &mut out);
            let decided = Record::Decided { txn, key: key.clone() };
            scan.effect(Effect::Append(decided), &mut out);
            assert_eq!(facts, [Fact { place, what: What::DecisionAppended { txn, missing } }]);
        }
    }
}
