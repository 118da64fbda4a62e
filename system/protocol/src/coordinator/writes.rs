//! Writes: from the client's request over votes and decision to the last acknowledgement.

use super::{
    AbortReason, Aborted, Body, CallId, Coordinator, Decision, Deferred, Effect, Key, Mistake,
    NoReason, Node, PeerKnowledge, Phase, RETRANSMIT_ROUNDS_MAX, Record, Replicas, Reply, Rule,
    TimerId, Txn, TxnId, Write, reply,
};

impl Coordinator {
    pub(super) fn begin_write(&mut self, call: CallId, write: Write, effects: &mut Vec<Effect>) {
        if !self.takes_writes() {
            let mut missing = self.all().without(self.in_service()).nodes();
            if self.is_stalled() {
                missing.insert(0, Node::Master);
            }
            let reason = AbortReason::Unavailable { missing };
            return reply(call, Reply::Aborted(reason), effects);
        }
        let state = self.keys.entry(write.key.clone()).or_default();
        let decided = self.config.rules.makes(Mistake::ConflictAfterDecision);
        let decided = state.unacknowledged.last_key_value().filter(|_| decided);
        if let Some(holder) = state.holder.or(decided.map(|(txn, _)| *txn)) {
            let reason = AbortReason::Conflict { holder };
            return reply(call, Reply::Aborted(reason), effects);
        }
        self.last_seq += 1;
        let txn = TxnId::new(self.epoch, self.last_seq);
        state.holder = Some(txn);
        let Write { key, value } = write;
        let phase = Phase::Voting { call, value, yes: Replicas::default() };
        self.txns.insert(txn, Txn { key, phase });
        self.send_prepare(txn, self.all(), effects);
        let tenfold = self.config.rules.makes(Mistake::VoteTimeoutTenfold);
        let after = self.config.timing.vote_timeout * if tenfold { 10 } else { 1 };
        effects.push(Effect::SetTimer { id: TimerId::VoteTimeout(txn), after });
        self.set_retransmit_timer(txn, 0, effects);
    }

    /// The mistake [`Mistake::StopReportsAbort`]: tells each client that its write was aborted, which is not so.
    pub(super) fn report_aborts(&self, effects: &mut Vec<Effect>) {
        let calls = self.txns.values().filter_map(|txn| txn.phase.call());
        let missing = Vec::new();
        for call in calls {
            let reason = AbortReason::Timeout { missing: missing.clone() };
            reply(call, Reply::Aborted(reason), effects);
        }
    }

    /// Whether every replica is live and every transaction of earlier masters is resolved.
    pub(super) fn takes_writes(&self) -> bool {
        self.active
            && self.in_service().len() == self.config.replicas
            && !self.is_stalled()
            && self.takeover_complete()
    }

    /// Requests votes on a transaction. The message piggybacks every unacknowledged decision on the
    /// same key.
    pub(super) fn send_prepare(&self, txn: TxnId, to: Replicas, effects: &mut Vec<Effect>) {
        let Some(Txn { key, phase: Phase::Voting { value, .. } }) = self.txns.get(&txn) else {
            panic!("cannot request votes on {txn}: it is not voting")
        };
        let piggybacked = if self.config.rules.keep(Rule::PiggybackOnPrepare) {
            self.unacknowledged(key)
        } else {
            Vec::new()
        };
        let write = Write { key: key.clone(), value: value.clone() };
        self.send_to(to, Body::Prepare { txn, write, piggybacked }, effects);
    }

    /// The decisions about a key that some replica may not have received.
    pub(super) fn unacknowledged(&self, key: &Key) -> Vec<(TxnId, Decision)> {
        let unacknowledged = self.keys.get(key).map(|state| &state.unacknowledged);
        unacknowledged.into_iter().flatten().map(|(txn, decision)| (*txn, *decision)).collect()
    }

    /// Handles a yes vote, or an inquiry, which is a yes vote that asks for the decision.
    pub(super) fn on_vote_yes(
        &mut self,
        slot: u8,
        txn: TxnId,
        inquires: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Txn { phase, .. }) = self.txns.get_mut(&txn) else {
            return self.answer_unknown(slot, txn, effects);
        };
        match phase {
            Phase::Voting { yes, .. } => {
                yes.insert(slot);
                let all = self.config.replicas;
                let quorum = if self.config.rules.keep(Rule::WriteAll) { all } else { all / 2 + 1 };
                if yes.len() >= quorum {
                    self.decide_commit(txn, effects);
                } else if inquires {
                    self.send(slot, Body::Pending { txn }, effects);
                }
            }
            Phase::Terminating { .. } if !self.config.rules.keep(Rule::LateYesIsVoid) => {
                self.on_peer_answer(slot, txn, PeerKnowledge::Final, effects);
            }
            Phase::Deciding { .. } | Phase::Terminating { .. } if inquires => {
                self.send(slot, Body::Pending { txn }, effects);
            }
            Phase::Deciding { .. } | Phase::Terminating { .. } => {}
            Phase::Committed { .. } => {
                let decision = Decision::Commit;
                self.send(slot, Body::Decide { txn, decision }, effects);
            }
        }
    }

    pub(super) fn on_vote_no(
        &mut self,
        slot: u8,
        txn: TxnId,
        reason: NoReason,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Txn { key, phase: Phase::Voting { .. } }) = self.txns.get(&txn) else { return };
        let key = key.clone();
        let by = Node::Replica(slot);
        self.abort(txn, AbortReason::Refused { by, reason }, effects);
        // This master does not know the holder: its Prepare arrived long after the transaction had
        // been aborted. Release the lock, or every later write of the key would conflict with it.
        if let NoReason::Locked { holder } = reason
            && !self.txns.contains_key(&holder)
        {
            self.abort_orphan(slot, holder, key, effects);
        }
    }

    pub(super) fn on_vote_timeout(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        if let Some(Txn { phase: Phase::Voting { yes, .. }, .. }) = self.txns.get(&txn) {
            if self.votes_decide() && self.config.rules.keep(Rule::VetoBeforeAbort) {
                return self.request_vetoes(txn, effects);
            }
            let missing = self.all().without(*yes).nodes();
            self.abort(txn, AbortReason::Timeout { missing }, effects);
        }
    }

    /// The commit point starts here. In logged mode the decision is appended now and published when
    /// it is durable. In votes mode the votes have already made it.
    pub(super) fn decide_commit(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        if self.votes_decide() {
            return self.publish_commit(txn, effects);
        }
        let Some(Txn { key, phase }) = self.txns.get_mut(&txn) else {
            panic!("{txn} is decided but was never begun")
        };
        let Phase::Voting { call, .. } = phase else { panic!("{txn} is decided twice") };
        *phase = Phase::Deciding { call: *call };
        let record = Record::CommitDecision { txn, key: key.clone() };
        if self.counts_commits() {
            // Before COMMIT, so that what a crash keeps counts every commit in it.
            self.commits += 1;
            self.append(Record::Commits { count: self.commits, decisions: 0 }, effects);
        }
        let lsn = self.append(record, effects);
        if self.config.rules.keep(Rule::DecisionForced) {
            self.deferred.push_back((lsn, Deferred::Commit(txn)));
        } else {
            self.publish_commit(txn, effects);
        }
        effects.push(Effect::Force(lsn));
    }

    /// Answers for a transaction that is neither in progress nor in the log. The log is replayed in
    /// full before the first message is processed. So the transaction either aborted, or it
    /// committed and this replica has acknowledged it and will ignore the answer.
    pub(super) fn answer_unknown(&mut self, slot: u8, txn: TxnId, effects: &mut Vec<Effect>) {
        if !self.presumes_abort(txn) {
            return self.send(slot, Body::Pending { txn }, effects);
        }
        let decision = Decision::Abort;
        self.send(slot, Body::Decide { txn, decision }, effects);
    }

    /// Publishes a commit to the client and to every replica.
    pub(super) fn publish_commit(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let unacked = self.all();
        let Some(Txn { key, phase }) = self.txns.get_mut(&txn) else {
            panic!("{txn} is published but was never decided")
        };
        assert!(!matches!(phase, Phase::Committed { .. }), "{txn} is published twice");
        let call = phase.call();
        *phase = Phase::Committed { unacked };
        let key = key.clone();
        self.mark_unacknowledged(key, txn, Decision::Commit);
        if let Some(call) = call {
            reply(call, Reply::Committed { version: txn }, effects);
        }
        self.send_to(unacked, Body::Decide { txn, decision: Decision::Commit }, effects);
        self.set_retransmit_timer(txn, 0, effects);
    }

    /// Aborts a transaction that is voting. No record is appended: in logged mode the absence of
    /// COMMIT means abort, in votes mode a replica's veto does.
    pub(super) fn abort(&mut self, txn: TxnId, reason: AbortReason, effects: &mut Vec<Effect>) {
        let Some(Txn { key, phase: phase @ (Phase::Voting { .. } | Phase::Terminating { .. }) }) =
            self.txns.remove(&txn)
        else {
            panic!("{txn} is aborted but is not voting")
        };
        let unacked = self.all();
        self.mark_unacknowledged(key.clone(), txn, Decision::Abort);
        self.aborted.insert(txn, Aborted { key, unacked });
        if let Some(call) = phase.call() {
            reply(call, Reply::Aborted(reason), effects);
        }
        self.send_to(unacked, Body::Decide { txn, decision: Decision::Abort }, effects);
        self.set_retransmit_timer(txn, 0, effects);
    }

    /// A replica holds a lock for a transaction that was aborted and forgotten, by this master or an
    /// earlier one. Sends it the abort, which the next Prepare of the key also piggybacks.
    pub(super) fn abort_orphan(
        &mut self,
        slot: u8,
        txn: TxnId,
        key: Key,
        effects: &mut Vec<Effect>,
    ) {
        // One transaction has one key, whatever the replica says.
        let key = self.aborted.get(&txn).map_or(key, |aborted| aborted.key.clone());
        self.mark_unacknowledged(key.clone(), txn, Decision::Abort);
        let aborted = Aborted { key, unacked: Replicas::default() };
        self.aborted.entry(txn).or_insert(aborted).unacked.insert(slot);
        self.send(slot, Body::Decide { txn, decision: Decision::Abort }, effects);
        self.set_retransmit_timer(txn, 0, effects);
    }

    /// Records that a decided transaction no longer holds its key, but may still lock it at some
    /// replica.
    pub(super) fn mark_unacknowledged(&mut self, key: Key, txn: TxnId, decision: Decision) {
        let state = self.keys.entry(key).or_default();
        if state.holder == Some(txn) {
            state.holder = None;
        }
        state.unacknowledged.insert(txn, decision);
    }

    pub(super) fn on_ack(&mut self, slot: u8, txn: TxnId, effects: &mut Vec<Effect>) {
        if let Some(Txn { phase: Phase::Committed { unacked }, .. }) = self.txns.get_mut(&txn) {
            unacked.remove(slot);
            if unacked.is_empty() || !self.config.rules.keep(Rule::ForgetAfterAllAcks) {
                let Txn { key, .. } = self.txns.remove(&txn).expect("present: just looked up");
                self.clear_unacknowledged(&key, txn);
                if !self.votes_decide() {
                    self.append(Record::End { txn }, effects);
                }
            }
        } else if let Some(Aborted { unacked, .. }) = self.aborted.get_mut(&txn) {
            unacked.remove(slot);
            if unacked.is_empty() {
                let Aborted { key, .. } =
                    self.aborted.remove(&txn).expect("present: just looked up");
                self.clear_unacknowledged(&key, txn);
            }
        }
    }

    /// Every replica has acknowledged the decision about this key.
    pub(super) fn clear_unacknowledged(&mut self, key: &Key, txn: TxnId) {
        let state = self.keys.get_mut(key).expect("an unacknowledged transaction has a key state");
        state.unacknowledged.remove(&txn);
        if state.unacknowledged.is_empty() && state.holder.is_none() {
            self.keys.remove(key);
        }
    }

    /// Repeats unanswered messages to the live replicas. The others receive them with their next
    /// handshake.
    pub(super) fn on_retransmit_timer(&mut self, txn: TxnId, round: u8, effects: &mut Vec<Effect>) {
        let down = self.all().without(self.live());
        let (waiting, decision) = match (self.txns.get(&txn), self.aborted.get(&txn)) {
            (Some(Txn { phase: Phase::Voting { yes, .. }, .. }), _) => {
                (self.all().without(*yes), None)
            }
            (Some(Txn { phase: Phase::Terminating { final_votes, .. }, .. }), _) => {
                (self.all().without(*final_votes), None)
            }
            (Some(Txn { phase: Phase::Committed { unacked }, .. }), _) => {
                (*unacked, Some(Decision::Commit))
            }
            (_, Some(Aborted { unacked, .. })) => (*unacked, Some(Decision::Abort)),
            _ => return,
        };
        let to = waiting.without(down);
        let once = self.config.rules.makes(Mistake::DecisionNotRepeated) && decision.is_some();
        if to.is_empty() || once {
            return;
        }
        match decision {
            None if !self.send_inquiry(txn, to, effects) => self.send_prepare(txn, to, effects),
            None => {}
            Some(decision) => self.send_to(to, Body::Decide { txn, decision }, effects),
        }
        self.set_retransmit_timer(txn, (round + 1).min(RETRANSMIT_ROUNDS_MAX), effects);
    }

    pub(super) fn set_retransmit_timer(&self, txn: TxnId, round: u8, effects: &mut Vec<Effect>) {
        let after = self.config.timing.retransmit * (1 << round);
        effects.push(Effect::SetTimer { id: TimerId::Retransmit { txn, round }, after });
    }
}
