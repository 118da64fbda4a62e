//! The replicas: admission, the handshake, and who is live.

use super::{
    Aborted, Body, Coordinator, Decision, Effect, HaltKind, Key, Member, Node, Phase, Record,
    Replicas, Rule, StoreId, TimerId, Timing, Txn, TxnId,
};

impl Coordinator {
    /// Checks that the sender is the replica that it claims to be. A new replica is admitted with
    /// its handshake, if this master may begin a membership.
    pub(super) fn admit(
        &mut self,
        slot: u8,
        id: StoreId,
        epoch: u64,
        body: &Body,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(member) = usize::from(slot).checked_sub(1).and_then(|n| self.members.get_mut(n))
        else {
            return false;
        };
        let refusal = match member.store {
            Some(known) if known != id => {
                format!("store {known} is recorded; a replica that lost its data must not rejoin")
            }
            None if !self.config.bootstrap => {
                "it is not a member; if the cluster is new, start the master with --bootstrap"
                    .to_owned()
            }
            // A replica of this cluster that was never admitted cannot have promised a later epoch.
            None if epoch > self.epoch => {
                format!("it has promised epoch {epoch}: it belongs to another, older cluster")
            }
            Some(_) => return true,
            None => {
                if let Body::FenceOk { .. } = body {
                    member.store = Some(id);
                    let node = Node::Replica(slot);
                    self.append(Record::Member { node, store: id }, effects);
                }
                return true;
            }
        };
        if !self.config.rules.keep(Rule::EmptyStoreRefused) {
            *member = Member { store: Some(id), ..Member::default() };
            return true;
        }
        if !member.warned {
            member.warned = true;
            effects.push(Effect::Warn(format!("refused r{slot} with store {id}: {refusal}")));
        }
        false
    }

    /// A replica has promised this epoch. Resolves the transactions that it is in doubt about, and
    /// sends it every decision that it has not acknowledged.
    pub(super) fn on_fence_ok(
        &mut self,
        slot: u8,
        incarnation: u64,
        in_doubt: Vec<(TxnId, Key)>,
        watermark: TxnId,
        effects: &mut Vec<Effect>,
    ) {
        let member = &mut self.members[usize::from(slot) - 1];
        // The answer is from an earlier incarnation, or a duplicate. The replica itself inquires
        // about transactions that came into doubt since.
        if incarnation < member.incarnation || (member.live && incarnation == member.incarnation) {
            return;
        }
        member.incarnation = incarnation;
        member.live = true;
        for (txn, key) in in_doubt {
            match self.txns.get(&txn) {
                // Sent below, with every commit that this replica has not acknowledged.
                Some(Txn { phase: Phase::Committed { .. }, .. }) => {}
                Some(_) => self.on_vote_yes(slot, txn, true, effects),
                None if !self.presumes_abort(txn) => self.adopt(slot, txn, key, effects),
                None => self.abort_orphan(slot, txn, key, effects),
            }
        }
        // These Prepares were lost with the connection or with the previous incarnation.
        let not_voted = self.txns.iter().filter(
            |(_, Txn { phase, .. })| matches!(phase, Phase::Voting { yes, .. } if !yes.contains(slot)),
        );
        let mut to = Replicas::default();
        to.insert(slot);
        for txn in not_voted.map(|(txn, _)| *txn).collect::<Vec<_>>() {
            self.send_prepare(txn, to, effects);
        }
        let committed = self.txns.iter().filter_map(|(txn, Txn { phase, .. })| match phase {
            Phase::Committed { unacked } if unacked.contains(slot) => {
                Some((*txn, Decision::Commit))
            }
            _ => None,
        });
        let aborted = self
            .aborted
            .iter()
            .filter(|(_, Aborted { unacked, .. })| unacked.contains(slot))
            .map(|(txn, _)| (*txn, Decision::Abort));
        let decisions: Vec<_> = committed.chain(aborted).collect();
        for (txn, decision) in decisions {
            self.send(slot, Body::Decide { txn, decision }, effects);
            self.set_retransmit_timer(txn, 0, effects);
        }
        self.record_handshake(slot, watermark, effects);
    }

    pub(super) fn superseded(&mut self, epoch: u64, effects: &mut Vec<Effect>) {
        // Replay compares this text with the journal, so kept journals fix its words.
        let why = format!("a master of epoch {epoch} has taken over from this one, {}", self.epoch);
        self.halt(HaltKind::Superseded, why, effects);
    }

    pub(super) fn on_heartbeat_timer(&mut self, effects: &mut Vec<Effect>) {
        let Timing { heartbeat_interval, missed_heartbeats_max, .. } = self.config.timing;
        for slot in self.all().slots() {
            let member = &mut self.members[usize::from(slot) - 1];
            member.missed_heartbeats =
                member.missed_heartbeats.saturating_add(1).min(missed_heartbeats_max);
            member.live &= member.missed_heartbeats < missed_heartbeats_max;
            if member.live {
                self.send(slot, Body::Heartbeat, effects);
            } else {
                self.send_fence(slot, effects);
            }
        }
        effects.push(Effect::SetTimer { id: TimerId::Heartbeat, after: heartbeat_interval });
    }

    pub(super) fn live(&self) -> Replicas {
        let mut live = Replicas::default();
        for (slot, member) in (1..).zip(&self.members) {
            if member.live {
                live.insert(slot);
            }
        }
        live
    }

    pub(super) fn send_fence(&self, slot: u8, effects: &mut Vec<Effect>) {
        let member = self.members[usize::from(slot) - 1].store;
        let commit = self.config.commit;
        self.send(slot, Body::Fence { member, commit }, effects);
    }
}
