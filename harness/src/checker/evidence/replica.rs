//! The facts of a replica's journal. Knows nothing of the master's.

use std::collections::{BTreeMap, HashMap, HashSet};

use system::protocol::{
    Body, CommitMode, Config, Effect, Event, Key, Message, Record, TxnId, Write,
};

use super::{Follow, Pending, Sink, What};

/// What becomes durable, and matters.
#[derive(Debug, PartialEq, Eq)]
enum Durable {
    Prepare(TxnId),
    Commit(TxnId),
    Refused(TxnId),
}

/// A replica as its journal tells it.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pending: Pending<Durable>,
    /// Appended in this incarnation or recovered by it, and not durable yet.
    unforced_prepares: HashSet<TxnId>,
    unforced_commits: HashSet<TxnId>,
    /// Yes votes already known to be durable: a restart makes no second vote of the first.
    voted: HashSet<TxnId>,
    commit: CommitMode,
    /// Prepared without an outcome, where the votes decide.
    locked: HashMap<TxnId, Key>,
}

impl Scan {
    /// The votes have decided, and this replica acts on it.
    fn commits(&mut self, txn: TxnId, out: &mut Sink<'_>) {
        if let Some(key) = self.locked.remove(&txn) {
            out.fact(What::Decided(txn, key));
        }
    }
}

impl Follow for Scan {
    fn started(&mut self, config: &Config, records: Vec<Record>, out: &mut Sink<'_>) {
        self.commit = config.commit;
        self.locked.clear();
        self.pending.restart();
        self.unforced_prepares.clear();
        self.unforced_commits.clear();
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
                    self.pending.recovered(Durable::Refused(txn));
                }
                Record::Abort { txn } => {
                    decided.insert(txn);
                }
                Record::Incarnation { .. } => fresh = false,
                _ => {}
            }
        }
        undecided.retain(|txn, _| !decided.contains(txn));
        if self.commit == CommitMode::Votes {
            self.locked = undecided.iter().map(|(txn, it)| (*txn, it.key.clone())).collect();
        }
        out.fact(What::Started { fresh, undecided: undecided.into_iter().collect() });
    }

    fn event(&mut self, event: Event, out: &mut Sink<'_>) {
        let Event::Persisted(lsn) = event else { return };
        for durable in self.pending.persisted(lsn) {
            match durable {
                Durable::Prepare(txn) => {
                    self.unforced_prepares.remove(&txn);
                    if self.voted.insert(txn) {
                        out.fact(What::Voted(txn));
                    }
                }
                Durable::Commit(txn) => {
                    self.unforced_commits.remove(&txn);
                }
                Durable::Refused(txn) => out.fact(What::Refused(txn)),
            }
        }
    }

    fn effect(&mut self, effect: Effect, out: &mut Sink<'_>) {
        match effect {
            Effect::Append(Record::Prepare { txn, write }) => {
                self.pending.append(Some(Durable::Prepare(txn)));
                self.unforced_prepares.insert(txn);
                if self.commit == CommitMode::Votes {
                    self.locked.insert(txn, write.key.clone());
                }
                out.fact(What::Prepared(txn, write));
            }
            Effect::Append(Record::Commit { txn }) => {
                self.pending.append(Some(Durable::Commit(txn)));
                self.unforced_commits.insert(txn);
                self.commits(txn, out);
                out.fact(What::Committed(txn));
            }
            Effect::Append(Record::Abort { txn }) => {
                self.pending.append(None);
                self.locked.remove(&txn);
                out.fact(What::Aborted(txn));
            }
            Effect::Append(Record::Refused { txn }) => {
                self.pending.append(Some(Durable::Refused(txn)));
                if self.locked.remove(&txn).is_some() {
                    out.fact(What::Vetoed(txn));
                }
            }
            Effect::Append(_) => self.pending.append(None),
            Effect::Serve { key, .. } => out.fact(What::Served(key)),
            Effect::Send { message: Message { body, .. }, .. } => match body {
                Body::VoteYes { txn } if self.unforced_prepares.contains(&txn) => {
                    out.fact(What::EarlyVote(txn));
                }
                Body::Ack { txns } => {
                    for txn in txns {
                        if self.unforced_commits.contains(&txn) {
                            out.fact(What::EarlyAck(txn));
                        }
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }
}
