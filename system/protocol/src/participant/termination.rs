//! Termination: a participant in doubt inquires at the master and then at its peers, and answers its
//! peers.

use super::{
    AbortBasis, Body, Config, Deferred, Effect, Message, Mistake, Node, Participant, PeerKnowledge,
    Record, Rule, TimerId, TxnId, TxnState, bounds,
};

impl Participant {
    pub(super) fn on_inquiry_timeout(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let Config { rules, timing, .. } = &self.config;
        let times = if rules.makes(Mistake::InquiryTenfold) { 10 } else { 1 };
        let after = timing.inquiry_timeout * times;
        let mut ask_peers = false;
        match self.txns.get_mut(&txn) {
            Some(TxnState::Pending { .. }) => {}
            Some(TxnState::Prepared { .. }) if !rules.keep(Rule::PreparedWaits) => {
                return self.abort(txn, effects);
            }
            Some(TxnState::Prepared { inquiries, .. }) => {
                ask_peers = *inquiries >= timing.peer_inquiry_after;
                *inquiries = inquiries.saturating_add(1).min(timing.peer_inquiry_after);
                self.send(Node::Master, Body::Inquire { txn }, effects);
            }
            _ => return,
        }
        if ask_peers && (!self.votes_decide() || self.may_ask_peers(txn, effects)) {
            self.ask_peers(txn, effects);
        }
        effects.push(Effect::SetTimer { id: TimerId::InquiryTimeout(txn), after });
    }

    pub(super) fn ask_peers(&self, txn: TxnId, effects: &mut Vec<Effect>) {
        for peer in self.config.replica_nodes().filter(|peer| *peer != self.config.node) {
            self.send(peer, Body::PeerInquire { txn }, effects);
        }
    }

    pub(super) fn on_peer_message(
        &mut self,
        slot: u8,
        message: Message,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_from_peer(slot, &message, effects) {
            return;
        }
        if self.is_far_ahead(&message) {
            let why = "a transaction that is too far ahead";
            return effects.push(bounds::refuse(Node::Replica(slot), why));
        }
        self.hear_decisions(message.decisions);
        match message.body {
            // The asker prepared the transaction in an epoch that every replica had promised by
            // then. A replica that has not promised it has lost its state and knows nothing.
            Body::PeerInquire { txn } if txn.epoch <= self.promised => {
                self.answer_inquiry(txn, Node::Replica(slot), false, effects);
            }
            Body::PeerAnswer { txn, answer } => {
                let Some(TxnState::Prepared { prepared_peers, .. }) = self.txns.get_mut(&txn)
                else {
                    return;
                };
                match answer {
                    PeerKnowledge::Commit => self.commit(txn, effects),
                    PeerKnowledge::Abort => self.abort(txn, effects),
                    PeerKnowledge::Uncertain if self.config.rules.keep(Rule::NoGuessInDoubt) => {}
                    // In votes mode no replica can veto any more, including this one, which froze
                    // its vote before it asked.
                    PeerKnowledge::Final | PeerKnowledge::Uncertain => {
                        prepared_peers.insert(slot);
                        if prepared_peers.len() == self.config.replicas - 1 {
                            self.commit(txn, effects);
                        }
                    }
                }
            }
            Body::HealRequest { heal, key } => {
                self.on_heal_request(Node::Replica(slot), heal, key, effects);
            }
            Body::HealAnswer { heal, key, found } => {
                self.on_heal_answer(heal, key, found, effects);
            }
            Body::ScrubRequest { scrub, after, rows_max, below } => {
                let by = Node::Replica(slot);
                self.on_scrub_request(by, scrub, after, rows_max, below, effects);
            }
            Body::ScrubAnswer { scrub, below, summary } => {
                self.on_scrub_answer(slot, scrub, below, summary, effects);
            }
            _ => {}
        }
    }

    /// Answers an inquiry about a transaction, from a node that is in doubt about it, or from a
    /// master whose votes are missing and which wants a veto (`veto`).
    pub(super) fn answer_inquiry(
        &mut self,
        txn: TxnId,
        by: Node,
        veto: bool,
        effects: &mut Vec<Effect>,
    ) {
        let answer = match self.txns.get(&txn) {
            Some(TxnState::Committed { .. }) => PeerKnowledge::Commit,
            Some(TxnState::Pending { .. } | TxnState::Prepared { .. }) if self.votes_decide() => {
                return self.answer_in_doubt(txn, by, veto, effects);
            }
            Some(TxnState::Pending { .. } | TxnState::Prepared { .. }) => PeerKnowledge::Uncertain,
            Some(TxnState::Aborted(
                AbortBasis::Deciding | AbortBasis::Decided | AbortBasis::Refused,
            )) => PeerKnowledge::Abort,
            // The asker retransmits; REFUSED is durable by then.
            Some(TxnState::Aborted(AbortBasis::Refusing)) => return,
            // Forgotten. Only because the asker is in doubt can this replica conclude abort: a
            // commit that the asker had not acknowledged would have held the watermark back.
            None if txn < self.watermark => PeerKnowledge::Abort,
            None | Some(TxnState::Aborted(AbortBasis::Voted)) => {
                let answer = PeerKnowledge::Abort;
                if self.config.rules.keep(Rule::RefuseBeforePeerAbort) {
                    return self.refuse(txn, by, Body::PeerAnswer { txn, answer }, effects);
                }
                answer
            }
        };
        self.send(by, Body::PeerAnswer { txn, answer }, effects);
    }

    /// Promises never to prepare a transaction (in votes mode: vetoes it), and sends `body` once
    /// the promise is durable.
    pub(super) fn refuse(&mut self, txn: TxnId, to: Node, body: Body, effects: &mut Vec<Effect>) {
        let lsn = self.append(Record::Refused { txn }, effects);
        effects.push(Effect::Force(lsn));
        let state = self.txns.insert(txn, TxnState::Aborted(AbortBasis::Refusing));
        self.deferred.push_back((lsn, Deferred::Refused { txn, to, body }));
        if let Some(key) = state.as_ref().and_then(TxnState::undecided_key) {
            self.unlock(key, txn, effects);
        }
    }
}
