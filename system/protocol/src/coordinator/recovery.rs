//! Starting the coordinator from its records.

use super::{
    Config, Coordinator, Decision, Effect, Node, Phase, Record, Rule, TimerId, Txn, record,
};

impl Coordinator {
    /// Checks that this store may be the master's; the error is for the operator.
    pub(super) fn check_identity(&self, records: &[Record]) -> Result<(), String> {
        if !self.config.rules.keep(Rule::EmptyStoreRefused) {
            return Ok(());
        }
        let Config { store, replicas, bootstrap, commit, .. } = self.config;
        record::check_mode(records, commit)?;
        match record::owner(records, store)? {
            None | Some(Node::Master) => {}
            Some(node) => {
                return Err(format!("this store belongs to {node}; it cannot serve the master"));
            }
        }
        let mut empty = true;
        for record in records {
            match record {
                Record::Epoch { replicas: recorded, .. } if *recorded != replicas => {
                    return Err(format!(
                        "the cluster was created with {recorded} replicas, but the configuration \
                         names {replicas}: the membership is static"
                    ));
                }
                Record::Epoch { .. } => empty = false,
                _ => {}
            }
        }
        if empty && !bootstrap {
            return Err(
                "the master's store is empty; start a new cluster with --bootstrap; in an \
                        existing cluster the master's log is lost, and an empty log would abort \
                        every committed transaction"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Restores the state in the records: every commit that some replica may not have acknowledged.
    pub(super) fn replay(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Epoch { epoch, .. } => self.epoch = self.epoch.max(*epoch),
                Record::Member { node: Node::Replica(slot), store } => {
                    self.members[usize::from(*slot) - 1].store = Some(*store);
                }
                Record::Member { node: Node::Master, .. } | Record::Votes => {}
                Record::Cluster { id } => self.cluster = *id,
                Record::Start { epoch, nonce } => {
                    self.earlier_starts.insert(*epoch, *nonce);
                }
                Record::Commits { count, .. } => self.commits = self.commits.max(*count),
                Record::Seen { slot, seen } => {
                    if let Some(member) = self.members.get_mut(usize::from(*slot) - 1) {
                        member.seen = member.seen.max(*seen);
                        member.recorded = member.seen.commits;
                    }
                }
                Record::CommitDecision { txn, key } => {
                    let phase = Phase::Committed { unacked: self.all() };
                    self.txns.insert(*txn, Txn { key: key.clone(), phase });
                    self.mark_unacknowledged(key.clone(), *txn, Decision::Commit);
                }
                Record::End { .. }
                | Record::Promise { .. }
                | Record::Incarnation { .. }
                | Record::Prepare { .. }
                | Record::Commit { .. }
                | Record::Abort { .. }
                | Record::Refused { .. }
                | Record::Frozen { .. }
                | Record::Watermark { .. }
                | Record::Heal { .. } => {
                    unreachable!("a master's store cannot hold {record:?}")
                }
            }
        }
        // They are durable when the machine activates, because EPOCH is.
        self.members_durable = self.all_known();
    }

    /// EPOCH is durable: fences the replicas off from every earlier master.
    pub(super) fn activate(&mut self, effects: &mut Vec<Effect>) {
        self.active = true;
        self.durable_commits = self.commits;
        for slot in self.all().slots() {
            self.send_fence(slot, effects);
        }
        let after = self.config.timing.heartbeat_interval;
        effects.push(Effect::SetTimer { id: TimerId::Heartbeat, after });
    }
}
