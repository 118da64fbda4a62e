//! Starting the participant from its records.

use super::{
    AbortBasis, Body, Config, Effect, Node, Participant, Record, Rule, TimerId, TxnId, TxnState,
    record,
};

impl Participant {
    /// Restores the state in the records, and locks the keys of undecided transactions again.
    pub(super) fn replay(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Promise { epoch } => self.promised = self.promised.max(*epoch),
                Record::Incarnation { incarnation } => {
                    self.incarnation = self.incarnation.max(*incarnation);
                }
                Record::Watermark { watermark } => self.watermark = self.watermark.max(*watermark),
                Record::Member { node: Node::Master, store } => self.master_store = Some(*store),
                Record::Member { node: Node::Replica(slot), store } => {
                    if let Some(known) = self.stores.get_mut(usize::from(*slot) - 1) {
                        *known = Some(*store);
                    }
                }
                Record::Cluster { id } => self.cluster = *id,
                Record::Commits { count, decisions } => {
                    self.commits = self.commits.max(*count);
                    self.durable_commits = self.commits;
                    self.decisions = self.decisions.max(*decisions);
                }
                // See below.
                Record::Start { .. } | Record::Votes => {}
                Record::Frozen { upto } => self.frozen.recovered(*upto),
                Record::Prepare { txn, write } => {
                    self.txns.entry(*txn).or_insert_with(|| TxnState::prepared(write.key.clone()));
                }
                Record::Commit { txn } => {
                    self.txns.insert(*txn, TxnState::Committed { durable: true });
                }
                // An outcome overrides PREPARE, and COMMIT overrides every other outcome, in
                // whatever order the records come.
                Record::Abort { txn } => self.replay_abort(*txn, AbortBasis::Decided),
                Record::Refused { txn } => self.replay_abort(*txn, AbortBasis::Refused),
                Record::Epoch { .. }
                | Record::CommitDecision { .. }
                | Record::End { .. }
                | Record::Seen { .. }
                | Record::Heal { .. } => {
                    unreachable!("a replica's store cannot hold {record:?}")
                }
            }
        }
        let has_begun = self.watermark > TxnId::default() || !self.txns.is_empty();
        if has_begun && !self.config.scrub_interval.is_zero() {
            self.scrub.begin();
        }
        self.promised_nonce = record::nonce_of(records, self.promised);
        let last = self.txns.last_key_value().map(|(txn, _)| *txn);
        self.note_durable_vote(self.watermark.max(last.unwrap_or_default()));
        if self.config.rules.keep(Rule::RelockOnRecovery) {
            for (txn, state) in &self.txns {
                if let Some(key) = state.undecided_key() {
                    self.locks.insert(key.clone(), *txn);
                }
            }
        }
    }

    pub(super) fn replay_abort(&mut self, txn: TxnId, basis: AbortBasis) {
        if !matches!(self.txns.get(&txn), Some(TxnState::Committed { .. })) {
            self.txns.insert(txn, TxnState::Aborted(basis));
        }
    }

    /// Checks that this store may be this replica's; the error is for the operator.
    pub(super) fn check_identity(&self, records: &[Record]) -> Result<(), String> {
        if !self.config.rules.keep(Rule::EmptyStoreRefused) {
            return Ok(());
        }
        let Config { node, store, bootstrap, commit, .. } = self.config;
        record::check_mode(records, commit)?;
        match record::owner(records, store)? {
            Some(owner) if owner != node => {
                return Err(format!("this store belongs to {owner}; it cannot serve as {node}"));
            }
            _ => {}
        }
        let started = records.iter().any(|record| matches!(record, Record::Incarnation { .. }));
        if !started && !bootstrap {
            return Err(format!(
                "the store of {node} is empty; if the cluster is new, start it with --bootstrap; \
                 if it is not, this replica's data is lost and it must not rejoin empty"
            ));
        }
        Ok(())
    }

    /// INCARNATION is durable: reports to the master, and inquires about every transaction in
    /// doubt.
    pub(super) fn activate(&mut self, effects: &mut Vec<Effect>) {
        self.active = true;
        self.set_scrub_timer(effects);
        self.send(Node::Master, self.alive(), effects);
        let in_doubt: Vec<_> = self.in_doubt().map(|(txn, _)| txn).collect();
        for txn in in_doubt {
            if txn < self.watermark {
                self.abort(txn, effects);
            } else {
                self.send(Node::Master, Body::Inquire { txn }, effects);
                let after = self.config.timing.inquiry_timeout;
                effects.push(Effect::SetTimer { id: TimerId::InquiryTimeout(txn), after });
            }
        }
    }
}
