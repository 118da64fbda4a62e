//! The facts of a replica's journal. Does not know the journal of the master.

use std::collections::{BTreeMap, HashMap, HashSet};

use system::protocol::{
    Body, CommitMode, Config, Effect, Event, Key, KeyRange, Message, PeerKnowledge, Record, TxnId,
    Write,
};

use super::{FactKind, FactSink, JournalVisitor, Pending};

/// A record whose durability matters.
#[derive(Debug, PartialEq, Eq)]
enum Durable {
    Prepare(TxnId),
    Commit(TxnId),
    Refused(TxnId),
}

/// The state of a replica as far as its journal shows it.
#[derive(Debug, Default)]
pub(super) struct ReplicaScan {
    pending: Pending<Durable>,
    /// Appended or recovered in this incarnation, and not durable yet.
    unforced_prepares: HashSet<TxnId>,
    unforced_commits: HashSet<TxnId>,
    /// Aborted, or durably refused, as far as this incarnation knows.
    aborted: HashSet<TxnId>,
    /// Yes votes known to be durable. A restart does not repeat them.
    voted: HashSet<TxnId>,
    commit: CommitMode,
    /// How many entries this incarnation has found damaged.
    detections: u64,
    /// Commit mode votes: prepared transactions without an outcome.
    locked: HashMap<TxnId, Key>,
}

impl ReplicaScan {
    /// Commit mode votes: this replica acts on the decision that the votes made.
    fn decided_by_votes(&mut self, txn: TxnId, out: &mut FactSink<'_>) {
        if let Some(key) = self.locked.remove(&txn) {
            out.fact(FactKind::Decided(txn, key));
        }
    }
}

impl JournalVisitor for ReplicaScan {
    fn started(&mut self, config: &Config, records: Vec<Record>, out: &mut FactSink<'_>) {
        self.commit = config.commit;
        self.locked.clear();
        self.detections = 0;
        self.pending.restart();
        self.unforced_prepares.clear();
        self.unforced_commits.clear();
        self.aborted.clear();
        let mut undecided: BTreeMap<TxnId, Write> = BTreeMap::new();
        let mut decided: HashSet<TxnId> = HashSet::new();
        let mut fresh = true;
        for record in records {
            match record {
                Record::Prepare { txn, write } => {
                    undecided.insert(txn, write);
                    self.pending.recovered(Durable::Prepare(txn));
                    self.unforced_prepares.insert(txn);
                }
                Record::Commit { txn } => {
                    decided.insert(txn);
                    self.pending.recovered(Durable::Commit(txn));
                    self.unforced_commits.insert(txn);
                }
                Record::Refused { txn } => {
                    decided.insert(txn);
                    self.aborted.insert(txn);
                    self.pending.recovered(Durable::Refused(txn));
                }
                Record::Abort { txn } => {
                    decided.insert(txn);
                    self.aborted.insert(txn);
                }
                Record::Incarnation { .. } => fresh = false,
                _ => {}
            }
        }
        undecided.retain(|txn, _| !decided.contains(txn));
        if self.commit == CommitMode::Votes {
            self.locked = undecided.iter().map(|(txn, write)| (*txn, write.key.clone())).collect();
        }
        out.fact(FactKind::Started { fresh, undecided: undecided.into_iter().collect() });
    }

    fn event(&mut self, event: Event, out: &mut FactSink<'_>) {
        let Event::Persisted(lsn) = event else { return };
        for durable in self.pending.persisted(lsn) {
            match durable {
                Durable::Prepare(txn) => {
                    self.unforced_prepares.remove(&txn);
                    if self.voted.insert(txn) {
                        out.fact(FactKind::Voted(txn));
                    }
                }
                Durable::Commit(txn) => {
                    self.unforced_commits.remove(&txn);
                }
                Durable::Refused(txn) => {
                    self.aborted.insert(txn);
                    out.fact(FactKind::Refused(txn));
                }
            }
        }
    }

    fn effect(&mut self, effect: Effect, out: &mut FactSink<'_>) {
        match effect {
            Effect::Append(Record::Prepare { txn, write }) => {
                self.pending.append(Some(Durable::Prepare(txn)));
                self.unforced_prepares.insert(txn);
                if self.commit == CommitMode::Votes {
                    self.locked.insert(txn, write.key.clone());
                }
                out.fact(FactKind::Prepared(txn, write));
            }
            Effect::Append(Record::Commit { txn }) => {
                self.pending.append(Some(Durable::Commit(txn)));
                self.unforced_commits.insert(txn);
                self.decided_by_votes(txn, out);
                out.fact(FactKind::Committed(txn));
            }
            Effect::Append(Record::Abort { txn }) => {
                self.pending.append(None);
                self.locked.remove(&txn);
                self.aborted.insert(txn);
                out.fact(FactKind::Aborted(txn));
            }
            Effect::Append(Record::Refused { txn }) => {
                self.pending.append(Some(Durable::Refused(txn)));
                if self.locked.remove(&txn).is_some() {
                    out.fact(FactKind::Vetoed(txn));
                }
            }
            Effect::Append(Record::Heal { key, version, value }) => {
                self.pending.append(None);
                out.fact(FactKind::Healed { key, version, value });
            }
            Effect::Append(_) => self.pending.append(None),
            Effect::Lost { key, .. } => out.fact(FactKind::Lost(key)),
            Effect::Serve { key, .. } => out.fact(FactKind::Served(key)),
            Effect::ServeKeys { keys, .. } => {
                keys.into_iter().for_each(|key| out.fact(FactKind::Served(key)));
            }
            Effect::ServePage { range, before, .. } => {
                let to = before.or(range.to);
                out.fact(FactKind::ServedPage(KeyRange { to, ..range }));
            }
            Effect::Send { to, message: Message { body, watermark, .. } } => match body {
                Body::VoteYes { txn } if self.unforced_prepares.contains(&txn) => {
                    out.fact(FactKind::EarlyVote(txn));
                }
                // Below the watermark no commit is unacknowledged, so who is in doubt may abort.
                Body::PeerAnswer { txn, answer: PeerKnowledge::Abort }
                    if txn >= watermark && !self.aborted.contains(&txn) =>
                {
                    out.fact(FactKind::EarlyAbort(txn, to));
                }
                // It is repeated under the same number.
                Body::HealRequest { heal, key } if heal.n > self.detections => {
                    self.detections = heal.n;
                    out.fact(FactKind::Damaged(key));
                }
                Body::Ack { txns, .. } => {
                    for txn in txns {
                        if self.unforced_commits.contains(&txn) {
                            out.fact(FactKind::EarlyAck(txn));
                        }
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }
}
