//! The coordinator in votes mode: a transaction is committed when PREPARE is durable at every
//! replica and none has vetoed it. The master's log records nothing about it. This module decides
//! when an abort may be announced, and what a master that takes over has to find out.
//!
//! There are three ways to conclude commit, which cannot contradict each other: every yes vote
//! arrived before any replica was asked for a veto; every replica has reported that its yes is
//! final; or another node has concluded it before. There is one way to conclude abort: some replica
//! has vetoed durably. Invariants, between steps:
//!
//! - No client has been sent and no node Abort, before a veto was durable at some replica.
//! - A starting master first completes its takeover: a handshake with every replica, and an outcome
//!   for every transaction that they were in doubt about. Until then it presumes no abort, takes no
//!   writes, and its watermark is one that the replicas reported.

use super::{
    AbortReason, Body, CommitMode, Coordinator, Effect, Key, PeerKnowledge, Phase, Replicas, Rule,
    Txn, TxnId,
};

/// The takeover from earlier masters, which left no log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Takeover {
    /// Replicas that have completed the handshake with this master.
    handshaken: Replicas,
    /// The greatest watermark that a replica reported.
    watermark: TxnId,
    /// Every replica has completed the handshake, and every reported transaction has an outcome.
    complete: bool,
}

impl Takeover {
    pub(super) fn rename(&mut self, slot: &impl Fn(u8) -> u8) {
        self.handshaken = self.handshaken.renamed(slot);
    }
}

impl Coordinator {
    pub(super) fn votes_decide(&self) -> bool {
        self.config.commit == CommitMode::Votes
    }

    /// Whether no replica can be in doubt about a transaction of an earlier master that this one
    /// does not know. In logged mode the log names them all.
    pub(super) fn takeover_complete(&self) -> bool {
        self.takeover.as_ref().is_none_or(|takeover| takeover.complete)
    }

    /// The watermark of the earlier masters, while this master cannot know a greater one.
    pub(super) fn takeover_watermark(&self) -> Option<TxnId> {
        let takeover = self.takeover.as_ref().filter(|takeover| !takeover.complete)?;
        self.config.rules.keep(Rule::WatermarkWaitsForHandshakes).then_some(takeover.watermark)
    }

    /// Whether a transaction that is not in progress here, and that a replica is in doubt about,
    /// was aborted. One that this master began has ended with a veto. For an earlier master's
    /// transactions the takeover must be complete.
    pub(super) fn presumes_abort(&self, txn: TxnId) -> bool {
        self.takeover_complete()
            || txn.epoch == self.epoch
            || self.takeover.as_ref().is_some_and(|takeover| txn < takeover.watermark)
            || !self.config.rules.keep(Rule::NoPresumption)
    }

    /// Votes are missing. They may be durable all the same, so an abort needs a veto, which any
    /// replica can give whose yes is not final. From now on a plain yes vote does not count: the
    /// replica may have vetoed since.
    pub(super) fn request_vetoes(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let all = self.all();
        let rules = self.config.rules;
        let Some(Txn { phase, .. }) = self.txns.get_mut(&txn) else { return };
        let Phase::Voting { call, yes, .. } = phase else { return };
        let final_votes = if rules.keep(Rule::LateYesIsVoid) { Replicas::default() } else { *yes };
        *phase = Phase::Terminating { call: Some(*call), no_vote: all.without(*yes), final_votes };
        self.send_inquiry(txn, self.live(), effects);
        self.set_retransmit_timer(txn, 0, effects);
    }

    /// Adopts a transaction of an earlier master that a replica reported in its handshake. Asks the
    /// other replicas now; `record_handshake` asks the reporting one.
    pub(super) fn adopt(&mut self, slot: u8, txn: TxnId, key: Key, effects: &mut Vec<Effect>) {
        let none = Replicas::default();
        let phase = Phase::Terminating { call: None, no_vote: none, final_votes: none };
        self.txns.insert(txn, Txn { key, phase });
        let mut others = self.live();
        others.remove(slot);
        self.send_inquiry(txn, others, effects);
    }

    /// Asks replicas for their state of a transaction, if it is terminating. A transaction of an
    /// earlier master must not be vetoed, because it may have been committed.
    pub(super) fn send_inquiry(&self, txn: TxnId, to: Replicas, effects: &mut Vec<Effect>) -> bool {
        let body = match self.txns.get(&txn).map(|txn| &txn.phase) {
            Some(Phase::Terminating { call: Some(_), .. }) => Body::Veto { txn },
            Some(Phase::Terminating { call: None, .. }) => Body::PeerInquire { txn },
            _ => return false,
        };
        self.send_to(to, body, effects);
        true
    }

    /// A replica reports its state of a transaction.
    pub(super) fn on_peer_answer(
        &mut self,
        slot: u8,
        txn: TxnId,
        answer: PeerKnowledge,
        effects: &mut Vec<Effect>,
    ) {
        let all = self.config.replicas;
        let Some(Txn { phase: Phase::Terminating { no_vote, final_votes, .. }, .. }) =
            self.txns.get_mut(&txn)
        else {
            return;
        };
        match answer {
            PeerKnowledge::Commit => self.publish_commit(txn, effects),
            PeerKnowledge::Abort => {
                let missing = no_vote.nodes();
                self.abort(txn, AbortReason::Timeout { missing }, effects);
            }
            PeerKnowledge::Final => {
                final_votes.insert(slot);
                if final_votes.len() == all {
                    self.publish_commit(txn, effects);
                }
            }
            PeerKnowledge::Uncertain => {}
        }
        self.update_takeover();
    }

    /// Records a replica's handshake and the watermark that it reported, and asks it about every
    /// transaction that is terminating.
    pub(super) fn record_handshake(
        &mut self,
        slot: u8,
        watermark: TxnId,
        effects: &mut Vec<Effect>,
    ) {
        let Some(takeover) = &mut self.takeover else { return };
        takeover.handshaken.insert(slot);
        takeover.watermark = takeover.watermark.max(watermark);
        let asking: Vec<_> = self
            .txns
            .iter()
            .filter(
                |(_, txn)| matches!(txn.phase, Phase::Terminating { final_votes, .. } if !final_votes.contains(slot)),
            )
            .map(|(txn, _)| *txn)
            .collect();
        let mut to = Replicas::default();
        to.insert(slot);
        for txn in asking {
            self.send_inquiry(txn, to, effects);
            self.set_retransmit_timer(txn, 0, effects);
        }
        self.update_takeover();
    }

    /// Checks whether the takeover is complete.
    fn update_takeover(&mut self) {
        let all = self.config.replicas;
        let inherited = |txn: &Txn| matches!(txn.phase, Phase::Terminating { call: None, .. });
        if let Some(takeover) = self.takeover.as_mut().filter(|takeover| !takeover.complete) {
            takeover.complete =
                takeover.handshaken.len() == all && !self.txns.values().any(inherited);
        }
    }
}
