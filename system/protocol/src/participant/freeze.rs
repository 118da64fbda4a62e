//! The participant in votes mode: a yes vote can be taken back by a durable veto, which the master
//! requests when votes are missing, until the replica has durably *frozen* the vote. This module
//! decides when a veto is possible, and what must be durable before another node may rely on it.
//!
//! A frozen yes is final. So if the votes on a transaction are all final, every replica knows that
//! it is committed without asking the master. A participant freezes its vote before it asks its
//! peers, and before it answers one.

use super::{
    AbortBasis, Body, CommitMode, Deferred, Effect, Node, Participant, PeerKnowledge, Record, Rule,
    TxnId, TxnState,
};

/// Which yes votes are final: those on transactions up to `upto`. Freezing more transactions than
/// was asked for costs little and saves a record for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Frozen {
    /// The last FROZEN appended: no veto follows.
    upto: TxnId,
    /// The last FROZEN known to be durable: other nodes may be told.
    durable: TxnId,
}

impl Frozen {
    pub(super) fn recovered(&mut self, upto: TxnId) {
        *self = Frozen { upto, durable: upto };
    }
}

impl Participant {
    pub(super) fn votes_decide(&self) -> bool {
        self.config.commit == CommitMode::Votes
    }

    /// Answers an inquiry about a transaction that is pending or prepared here. A master that
    /// requests a veto gets one if the vote is not frozen. Every other asker gets a final vote.
    pub(super) fn answer_in_doubt(
        &mut self,
        txn: TxnId,
        by: Node,
        veto: bool,
        effects: &mut Vec<Effect>,
    ) {
        let rules = self.config.rules;
        if veto && txn > self.frozen.upto {
            let answer = PeerKnowledge::Abort;
            let body = Body::PeerAnswer { txn, answer };
            if rules.keep(Rule::VetoForced) {
                return self.refuse(txn, by, body, effects);
            }
            let state = self.txns.insert(txn, TxnState::Aborted(AbortBasis::Voted));
            if let Some(key) = state.as_ref().and_then(TxnState::undecided_key) {
                self.unlock(key, txn, effects);
            }
            return self.send(by, body, effects);
        }
        // Not voted yet; the asker retransmits.
        let voted = matches!(self.txns.get(&txn), Some(TxnState::Prepared { .. }));
        if voted && self.freeze(txn, by, effects) {
            let answer = PeerKnowledge::Final;
            self.send(by, Body::PeerAnswer { txn, answer }, effects);
        }
    }

    /// Whether this participant may ask its peers about a transaction now. It may conclude commit
    /// from their answers, which its own veto would contradict, so its vote must be final first. If
    /// it is not, the question is sent once FROZEN is durable.
    pub(super) fn may_ask_peers(&mut self, txn: TxnId, effects: &mut Vec<Effect>) -> bool {
        self.freeze(txn, self.config.node, effects)
    }

    /// Whether the vote on a transaction is durably final. If not, appends and forces FROZEN, and
    /// then answers `asker`.
    fn freeze(&mut self, txn: TxnId, asker: Node, effects: &mut Vec<Effect>) -> bool {
        if !self.config.rules.keep(Rule::FreezeBeforeAnswer) {
            return true;
        }
        if txn > self.frozen.upto {
            self.frozen.upto = txn;
            let lsn = self.append(Record::Frozen { upto: txn }, effects);
            effects.push(Effect::Force(lsn));
            self.deferred.push_back((lsn, Deferred::Frozen(txn, asker)));
        }
        txn <= self.frozen.durable
    }

    /// FROZEN is durable: continues what waited for it, in the current state.
    pub(super) fn on_frozen_durable(&mut self, txn: TxnId, asker: Node, effects: &mut Vec<Effect>) {
        self.frozen.durable = txn;
        if asker != self.config.node {
            self.answer_inquiry(txn, asker, false, effects);
        } else if matches!(self.txns.get(&txn), Some(TxnState::Prepared { .. })) {
            self.ask_peers(txn, effects);
        }
    }

    /// Whether the handshake must wait until this replica's commits are durable. A crash after the
    /// handshake would put a lazy commit in doubt again, while the master believes that it knows
    /// every transaction in doubt.
    pub(super) fn must_wait_for_commits(&mut self, effects: &mut Vec<Effect>) -> bool {
        let lazy_commit =
            |state: &TxnState| matches!(state, TxnState::Committed { durable: false });
        let waits = self.config.rules.keep(Rule::HandshakeAfterCommits)
            && self.txns.values().any(lazy_commit);
        if waits {
            effects.push(Effect::Force(self.lsn));
            self.deferred.push_back((self.lsn, Deferred::Promise(self.promised)));
        }
        waits
    }
}
