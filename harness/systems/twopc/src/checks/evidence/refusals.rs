//! Refusals of writes: the transaction that a refusal names as the holder of the key must hold it.

use std::collections::{HashMap, HashSet};

use system::protocol::{
    AbortReason, Body, CommitMode, Config, Decision, Effect, Event, Key, NoReason, Node, Record,
    Reply, Request, TxnId,
};

use super::{FactKind, FactSink};

/// Who holds which key at one node.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    is_master: bool,
    epoch: u64,
    /// Replica: transactions that are pending or prepared. Master: those that it has begun and not decided.
    holders: HashMap<TxnId, Key>,
    /// Replica, commit mode votes: a no is sent when the veto is durable. The vetoes that the holder was there for.
    justified: HashSet<(TxnId, TxnId)>,
    votes: bool,
    /// The write of the current event.
    arriving: Option<(Option<TxnId>, Key)>,
}

impl Refusals {
    pub(super) fn started(&mut self, config: &Config, records: &[Record]) {
        let (is_master, votes) = (config.node == Node::Master, config.commit == CommitMode::Votes);
        *self = Refusals { is_master, votes, ..Refusals::default() };
        for record in records {
            match record {
                Record::Prepare { txn, write } => {
                    self.holders.insert(*txn, write.key.clone());
                }
                Record::Epoch { epoch, .. } => self.epoch = *epoch,
                _ => {}
            }
        }
    }

    pub(super) fn event(&mut self, event: &Event) {
        self.arriving = match event {
            Event::Message { message, .. } => match &message.body {
                Body::Prepare { txn, write, .. } => Some((Some(*txn), write.key.clone())),
                _ => None,
            },
            Event::Client { request: Request::Write(write), .. } => Some((None, write.key.clone())),
            _ => None,
        };
    }

    pub(super) fn effect(&mut self, effect: &Effect, out: &mut FactSink<'_>) {
        match effect {
            Effect::Append(record) => self.append(record),
            Effect::Send { message, .. } => match &message.body {
                Body::Prepare { txn, write, .. } => {
                    self.holders.insert(*txn, write.key.clone());
                }
                Body::Decide { txn, decision: Decision::Abort | Decision::Commit }
                    if self.is_master =>
                {
                    self.holders.remove(txn);
                }
                Body::VoteNo { txn, reason: NoReason::Locked { holder } } => {
                    let justified = self.holders.contains_key(holder)
                        || self.justified.remove(&(*txn, *holder));
                    if !justified {
                        out.fact(FactKind::FalseRefusal { txn: Some(*txn), holder: *holder });
                    }
                }
                _ => {}
            },
            // What an earlier master has begun is not in this journal.
            Effect::Reply { reply: Reply::Aborted(AbortReason::Conflict { holder }), .. }
                if holder.epoch == self.epoch =>
            {
                let key = self.arriving.as_ref().map(|(_, key)| key);
                let held = self.holders.get(holder);
                if held.is_none() || (key.is_some() && held != key) {
                    out.fact(FactKind::FalseRefusal { txn: None, holder: *holder });
                }
            }
            _ => {}
        }
    }

    fn append(&mut self, record: &Record) {
        match record {
            Record::Epoch { epoch, .. } => self.epoch = *epoch,
            Record::Prepare { txn, write } => {
                self.holders.insert(*txn, write.key.clone());
            }
            Record::Refused { txn } => {
                self.holders.remove(txn);
                if let Some((Some(arriving), key)) = self.arriving.as_ref().filter(|_| self.votes)
                    && arriving == txn
                {
                    let holders = self.holders.iter().filter(|(_, held)| *held == key);
                    self.justified.extend(holders.map(|(holder, _)| (*txn, *holder)));
                }
            }
            Record::Commit { txn } | Record::Abort { txn } => {
                self.holders.remove(txn);
            }
            _ => {}
        }
    }
}
