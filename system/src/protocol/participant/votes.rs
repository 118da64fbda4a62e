//! The participant where the votes decide: a yes vote can be taken back by a durable veto, which
//! the master may ask for while it has not heard all, until the replica has *frozen* it, durably.
//! Knows when a veto is possible, and what has to be durable before somebody relies on it.
//!
//! A frozen yes is final. So of a transaction whose votes are all final everybody knows that it is
//! committed, and nobody need ask the master: a participant freezes its own vote before it asks its
//! peers, and when it is asked by one.

use super::{
    Aborted, Body, CommitMode, Effect, Node, Parked, Participant, PeerKnowledge, Record, Rule,
    State, TxnId,
};

/// Which yes votes are final: those on transactions up to one. That more are frozen than somebody
/// asked about costs little, and spares a record of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Frozen {
    /// FROZEN is appended: no veto follows.
    upto: TxnId,
    /// FROZEN is durable: others may be told.
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

    /// Somebody asks about a transaction that is pending or prepared here. A master that wants a
    /// veto gets it if the vote is not frozen; anybody else gets it frozen.
    pub(super) fn asked_in_doubt(
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
            let state = self.txns.insert(txn, State::Aborted(Aborted::Voted));
            if let Some(key) = state.as_ref().and_then(State::undecided_key) {
                self.unlock(key, txn, effects);
            }
            return self.send(by, body, effects);
        }
        // No vote yet: who asks will ask again.
        let voted = matches!(self.txns.get(&txn), Some(State::Prepared { .. }));
        if voted && self.freeze(txn, by, effects) {
            let answer = PeerKnowledge::Final;
            self.send(by, Body::PeerAnswer { txn, answer }, effects);
        }
    }

    /// Whether this participant may ask its peers about a transaction now: it may conclude from
    /// their answers what its own veto would contradict. If not, it asks when it may.
    pub(super) fn may_ask(&mut self, txn: TxnId, effects: &mut Vec<Effect>) -> bool {
        self.freeze(txn, self.config.node, effects)
    }

    /// Whether the vote on a transaction is final, durably. If not it is made so, for whom it is
    /// then said to.
    fn freeze(&mut self, txn: TxnId, whom: Node, effects: &mut Vec<Effect>) -> bool {
        if !self.config.rules.keep(Rule::FreezeBeforeAnswer) {
            return true;
        }
        if txn > self.frozen.upto {
            self.frozen.upto = txn;
            let lsn = self.append(Record::Frozen { upto: txn }, effects);
            effects.push(Effect::Force(lsn));
            self.parked.push_back((lsn, Parked::Frozen(txn, whom)));
        }
        txn <= self.frozen.durable
    }

    /// FROZEN is durable: do what waited for it, as things stand now.
    pub(super) fn is_frozen(&mut self, txn: TxnId, whom: Node, effects: &mut Vec<Effect>) {
        self.frozen.durable = txn;
        if whom != self.config.node {
            self.asked(txn, whom, false, effects);
        } else if matches!(self.txns.get(&txn), Some(State::Prepared { .. })) {
            self.ask_peers(txn, effects);
        }
    }

    /// Whether the handshake has to wait: a commit that is not durable could come into doubt again
    /// after it, when the master believes that it knows of all that is in doubt.
    pub(super) fn waits_for_commits(&mut self, effects: &mut Vec<Effect>) -> bool {
        let unsafe_commit = |state: &State| matches!(state, State::Committed { durable: false });
        let waits = self.config.rules.keep(Rule::HandshakeAfterCommits)
            && self.txns.values().any(unsafe_commit);
        if waits {
            effects.push(Effect::Force(self.lsn));
            self.parked.push_back((self.lsn, Parked::Promise(self.promised)));
        }
        waits
    }
}
