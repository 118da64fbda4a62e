//! Transactions: votes, decisions, locks and acknowledgements.

use super::{
    AbortBasis, Body, Decision, Deferred, Effect, HaltKind, Key, Mistake, NoReason, Node,
    Participant, Record, Rule, TimerId, TxnId, TxnState, Write,
};

impl Participant {
    pub(super) fn on_prepare(
        &mut self,
        txn: TxnId,
        write: Write,
        piggybacked: Vec<(TxnId, Decision)>,
        effects: &mut Vec<Effect>,
    ) {
        // The decisions come first, so that reads waiting for the key are answered before the new
        // lock. Otherwise a client that writes one key continuously would starve its readers.
        for (txn, decision) in piggybacked {
            self.on_decision(txn, decision, effects);
        }
        match self.txns.get(&txn) {
            None if txn < self.watermark => {}
            None => self.prepare_new(txn, write, effects),
            Some(TxnState::Prepared { .. }) => {
                self.send(Node::Master, Body::VoteYes { txn }, effects);
            }
            // The veto is not durable yet; the master asks again.
            Some(TxnState::Aborted(AbortBasis::Refusing)) if self.votes_decide() => {}
            Some(TxnState::Aborted(_)) => {
                let reason = NoReason::Aborted;
                self.send(Node::Master, Body::VoteNo { txn, reason }, effects);
            }
            Some(TxnState::Pending { .. } | TxnState::Committed { .. }) => {}
        }
    }

    /// Locks the key and appends PREPARE, or votes no if the key is locked or there is no room.
    fn prepare_new(&mut self, txn: TxnId, write: Write, effects: &mut Vec<Effect>) {
        let rules = self.config.rules;
        let holder = self.locks.get(&write.key).filter(|_| rules.keep(Rule::ReplicaLock));
        let refused = match holder {
            Some(&holder) => Some(NoReason::Locked { holder }),
            // A yes vote promises that the write can be applied.
            None if self.full && write.value.is_some() => Some(NoReason::Full),
            None => None,
        };
        if let Some(reason) = refused {
            let no = Body::VoteNo { txn, reason };
            if self.votes_decide() && rules.keep(Rule::VetoForced) {
                return self.refuse(txn, Node::Master, no, effects);
            }
            self.txns.insert(txn, TxnState::Aborted(AbortBasis::Voted));
            return self.send(Node::Master, no, effects);
        }
        if !self.config.scrub_interval.is_zero() {
            self.scrub.begin();
        }
        let key = write.key.clone();
        self.locks.insert(key.clone(), txn);
        let lsn = self.append(Record::Prepare { txn, write }, effects);
        if rules.keep(Rule::VoteForced) {
            self.txns.insert(txn, TxnState::Pending { key });
            self.deferred.push_back((lsn, Deferred::Prepare(txn)));
        } else {
            self.txns.insert(txn, TxnState::prepared(key));
            self.send(Node::Master, Body::VoteYes { txn }, effects);
        }
        effects.push(Effect::Force(lsn));
        let after = self.config.timing.inquiry_timeout;
        effects.push(Effect::SetTimer { id: TimerId::InquiryTimeout(txn), after });
    }

    /// PREPARE is durable: votes yes. The transaction is in doubt from now on.
    pub(super) fn on_prepare_durable(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let Some(state) = self.txns.get_mut(&txn) else { return };
        if let TxnState::Pending { key } = state {
            *state = TxnState::prepared(key.clone());
            self.note_durable_vote(txn);
            self.send(Node::Master, Body::VoteYes { txn }, effects);
        }
    }

    /// Handles the master's decision, sent by itself or piggybacked on a later message about the
    /// key.
    pub(super) fn on_decision(
        &mut self,
        txn: TxnId,
        decision: Decision,
        effects: &mut Vec<Effect>,
    ) {
        let rules = self.config.rules;
        match (decision, self.txns.get(&txn)) {
            (_, None) if txn < self.watermark => self.acknowledge(vec![txn], effects),
            (Decision::Commit, Some(TxnState::Prepared { .. })) => self.commit(txn, effects),
            (Decision::Commit, Some(TxnState::Committed { durable })) => {
                if *durable {
                    self.acknowledge(vec![txn], effects);
                }
            }
            // With the rule broken, an unknown transaction is taken for an acknowledged one.
            (Decision::Commit, None) if !rules.keep(Rule::KeepOutcomeUntilWatermark) => {
                self.acknowledge(vec![txn], effects);
            }
            (Decision::Commit, state) => {
                let state = match state {
                    None => "without a record",
                    Some(TxnState::Pending { .. }) => "not durably prepared",
                    _ => "aborted",
                };
                // Replay compares this text with the journal, so kept journals fix its words.
                let why = format!("told to commit {txn}, which is {state} here");
                self.halt(HaltKind::Violation, why, effects);
            }
            (Decision::Abort, Some(TxnState::Committed { .. })) => {
                // This is a presumed abort: the answer to an inquiry that reached the master after
                // it had forgotten the commit.
                if !rules.keep(Rule::CommitIsFinal) {
                    self.append(Record::Abort { txn }, effects);
                    self.txns.insert(txn, TxnState::Aborted(AbortBasis::Decided));
                }
                self.acknowledge(vec![txn], effects);
            }
            (
                Decision::Abort,
                Some(TxnState::Aborted(AbortBasis::Decided | AbortBasis::Refused)),
            ) => {
                self.acknowledge(vec![txn], effects);
            }
            // The master retransmits; REFUSED is durable by then.
            (Decision::Abort, Some(TxnState::Aborted(AbortBasis::Refusing))) => {}
            (Decision::Abort, Some(TxnState::Aborted(AbortBasis::Deciding))) => {
                self.acknowledge_abort(txn, effects);
            }
            // With no record here the abort leaves a tombstone, or a late Prepare would lock the
            // key.
            (
                Decision::Abort,
                None
                | Some(
                    TxnState::Pending { .. }
                    | TxnState::Prepared { .. }
                    | TxnState::Aborted(AbortBasis::Voted),
                ),
            ) => {
                self.abort(txn, effects);
                self.acknowledge_abort(txn, effects);
            }
        }
    }

    /// Acknowledges an abort once its record is durable. If it acknowledged earlier, a crash could
    /// restore the lock after the master had forgotten the transaction.
    pub(super) fn acknowledge_abort(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        if !self.config.rules.keep(Rule::AckAfterDurable) {
            return self.acknowledge(vec![txn], effects);
        }
        let due = self.deferred.iter_mut().find_map(|(_, deferred)| match deferred {
            Deferred::Abort { txn: aborted, acknowledge } if *aborted == txn => Some(acknowledge),
            _ => None,
        });
        *due.expect("ABORT is appended and not durable yet") = true;
    }

    /// Applies a prepared write and unlocks its key, in one step with respect to reads.
    pub(super) fn commit(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let mut lsn = self.append(Record::Commit { txn }, effects);
        if self.counts_commits() {
            // After COMMIT, so that what a crash keeps never counts a commit that it lost: the master
            // would be taken for a copy. Acknowledged when both are durable.
            self.commits += 1;
            let (count, decisions) = (self.commits, self.decisions);
            lsn = self.append(Record::Commits { count, decisions }, effects);
        }
        let state = self.txns.insert(txn, TxnState::Committed { durable: false });
        self.deferred.push_back((lsn, Deferred::Commit(txn)));
        if !self.config.rules.keep(Rule::AckAfterDurable) {
            self.acknowledge(vec![txn], effects);
        }
        let Some(TxnState::Prepared { key, .. }) = state else {
            panic!("{txn} is committed but was not prepared")
        };
        self.healing.written(&key);
        self.scrub.written(&key);
        self.unlock(&key, txn, effects);
    }

    pub(super) fn abort(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let lsn = self.append(Record::Abort { txn }, effects);
        self.deferred.push_back((lsn, Deferred::Abort { txn, acknowledge: false }));
        let state = self.txns.insert(txn, TxnState::Aborted(AbortBasis::Deciding));
        let keeps = self.config.rules.makes(Mistake::LockAfterAbort);
        let keeps = keeps && matches!(state, Some(TxnState::Pending { .. }));
        if let Some(key) = state.as_ref().and_then(TxnState::undecided_key).filter(|_| !keeps) {
            self.unlock(key, txn, effects);
        }
    }

    pub(super) fn unlock(&mut self, key: &Key, txn: TxnId, effects: &mut Vec<Effect>) {
        if self.locks.get(key) != Some(&txn) {
            let rules = self.config.rules;
            let lost = !rules.keep(Rule::RelockOnRecovery) || !rules.keep(Rule::ReplicaLock);
            assert!(lost, "{txn} unlocks a key that it does not lock");
            return;
        }
        self.locks.remove(key);
        for read in self.waiting_reads.remove(key).unwrap_or_default() {
            if self.queries.contains_key(&read) {
                self.try_query(read, effects);
            } else {
                self.serve(read, key.clone(), effects);
            }
        }
    }

    pub(super) fn acknowledge(&mut self, txns: Vec<TxnId>, effects: &mut Vec<Effect>) {
        if !self.config.rules.keep(Rule::KeepOutcomeUntilWatermark) {
            for txn in &txns {
                self.txns.remove(txn);
            }
        }
        let commits = self.durable_commits;
        self.send(Node::Master, Body::Ack { txns, commits }, effects);
    }

    /// Handles a watermark: every transaction below it is finished at every node.
    pub(super) fn raise_watermark(&mut self, watermark: TxnId, effects: &mut Vec<Effect>) {
        if watermark <= self.watermark || self.halted {
            return;
        }
        let passed = self.txns.range(self.watermark..watermark);
        // A commit that this replica has not acknowledged would hold the watermark back, so what is
        // undecided below it was aborted.
        let undecided: Vec<_> = passed
            .filter(|(_, state)| state.undecided_key().is_some())
            .map(|(txn, _)| *txn)
            .collect();
        for txn in undecided {
            self.abort(txn, effects);
        }
        let before = std::mem::replace(&mut self.watermark, watermark);
        let batch = self.config.timing.watermark_batch;
        // Counting takes time linear in the number of outcomes, so do not count at every advance of
        // the watermark.
        let step = u64::from(batch / 4).max(1);
        let far = (before.epoch, before.seq / step) != (watermark.epoch, watermark.seq / step);
        let batch = batch as usize;
        if far && self.txns.len() >= batch && self.txns.range(..watermark).count() >= batch {
            self.append(Record::Watermark { watermark }, effects);
            self.txns = self.txns.split_off(&watermark);
        }
    }
}
