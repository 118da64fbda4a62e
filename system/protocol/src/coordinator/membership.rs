//! The replicas: admission, the handshake, and who is live.
//!
//! A cluster begins in this order: the master's Fence names no store, and each replica answers by
//! making itself known. When the master has met all of them, it forces its records of their stores.
//! Only then does it name them, and each replica promises and completes the handshake. The first
//! Prepare follows the last handshake. So a write is only made in a cluster whose master, in
//! whatever state it starts again, recognizes a replica that has lost its store; and a replica that
//! has lost its store has promised nothing, in whatever order the messages of the beginning arrive.

use super::{
    Aborted, Body, Coordinator, Decision, Deferred, Effect, HaltKind, Key, Member, Mistake, Node,
    Nonce, Phase, Record, Replicas, Rule, Seen, StoreId, TimerId, Timing, Txn, TxnId,
};

impl Coordinator {
    /// Checks that the sender is the replica that it claims to be. A new replica is admitted when it
    /// makes itself known, if this master may begin a membership. (Replicas of earlier versions do so
    /// with their handshake.)
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
                let introduces = match body {
                    Body::FenceOk { .. } => true,
                    Body::Alive { .. } => self.config.rules.keep(Rule::MemberBeforePromise),
                    _ => false,
                };
                if introduces {
                    self.record_member(slot, id, effects);
                }
                return true;
            }
        };
        if !self.config.rules.keep(Rule::EmptyStoreRefused) {
            *member = Member { store: Some(id), ..Member::default() };
            // A master that lets anybody rejoin records nothing that could become durable.
            self.members_durable |= self.all_known();
            return true;
        }
        if !member.warned {
            member.warned = true;
            effects.push(Effect::Warn(format!("refused r{slot} with store {id}: {refusal}")));
        }
        false
    }

    /// Records the store of a new replica. If it was the last unknown one, forces the records.
    fn record_member(&mut self, slot: u8, store: StoreId, effects: &mut Vec<Effect>) {
        self.members[usize::from(slot) - 1].store = Some(store);
        let lsn = self.append(Record::Member { node: Node::Replica(slot), store }, effects);
        if self.all_known() && !self.names_members() {
            effects.push(Effect::Force(lsn));
            self.deferred.push_back((lsn, Deferred::Members));
        }
    }

    /// Whether the store of every replica is recorded.
    pub(super) fn all_known(&self) -> bool {
        self.members.iter().all(|member| member.store.is_some())
    }

    /// Whether this master may name the stores of the replicas in its Fence.
    pub(super) fn names_members(&self) -> bool {
        self.members_durable || !self.config.rules.keep(Rule::MembersDurableBeforeWrite)
    }

    /// The records of all stores are durable: names them, and so begins the handshakes.
    pub(super) fn on_members_durable(&mut self, effects: &mut Vec<Effect>) {
        self.members_durable = true;
        for slot in self.all().slots() {
            self.send_fence(slot, effects);
        }
    }

    /// A replica has promised this epoch. Resolves the transactions that it is in doubt about, and
    /// sends it every decision that it has not acknowledged.
    pub(super) fn on_fence_ok(
        &mut self,
        slot: u8,
        (incarnation, start, commits): (u64, Nonce, u64),
        in_doubt: Vec<(TxnId, Key)>,
        watermark: TxnId,
        effects: &mut Vec<Effect>,
    ) {
        if self.halts_without_commits(slot, commits, effects) {
            return;
        }
        // A replica of an earlier version, which promises without being named. It is asked again
        // when the records of all stores are durable.
        if !self.names_members() {
            return;
        }
        let member = &mut self.members[usize::from(slot) - 1];
        // The answer is from an earlier incarnation, or a duplicate. The replica itself inquires
        // about transactions that came into doubt since.
        if incarnation < member.incarnation || (member.live && incarnation == member.incarnation) {
            return;
        }
        if self.is_other_start(slot, incarnation, start) {
            return;
        }
        let remembers_stores = self.remembers_stores();
        let member = &mut self.members[usize::from(slot) - 1];
        member.incarnation = incarnation;
        member.live = true;
        if remembers_stores {
            let Seen { voted, commits: seen, .. } = &mut member.seen;
            *voted = in_doubt.last().map_or(*voted, |(txn, _)| (*voted).max(*txn));
            *seen = (*seen).max(commits);
            // A copy that lacks no commit is harmless, so a start alone is not worth a record.
            if *seen > member.recorded {
                self.record_seen(slot, effects);
            }
        }
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

    /// A replica stops by order. It is not live any more, and no write waits for its vote.
    pub(super) fn on_leaving(&mut self, slot: u8, incarnation: u64, effects: &mut Vec<Effect>) {
        let member = &mut self.members[usize::from(slot) - 1];
        if incarnation != member.incarnation || !member.live {
            return;
        }
        member.live = false;
        let waiting = self.txns.iter().filter(
            |(_, Txn { phase, .. })| matches!(phase, Phase::Voting { yes, .. } if !yes.contains(slot)),
        );
        for txn in waiting.map(|(txn, _)| *txn).collect::<Vec<_>>() {
            self.on_vote_timeout(txn, effects);
        }
    }

    pub(super) fn superseded(&mut self, epoch: u64, effects: &mut Vec<Effect>) {
        // Replay compares this text with the journal, so kept journals fix its words.
        let why = format!("a master of epoch {epoch} has taken over from this one, {}", self.epoch);
        self.halt(HaltKind::Superseded, why, effects);
    }

    pub(super) fn on_heartbeat_timer(&mut self, effects: &mut Vec<Effect>) {
        let Timing { heartbeat_interval, missed_heartbeats_max, .. } = self.config.timing;
        let keeps = self.config.rules.makes(Mistake::SilentReplicaKept);
        for slot in self.all().slots() {
            let member = &mut self.members[usize::from(slot) - 1];
            member.missed_heartbeats =
                member.missed_heartbeats.saturating_add(1).min(missed_heartbeats_max);
            member.live &= member.missed_heartbeats < missed_heartbeats_max || keeps;
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

    /// The live replicas whose disks do not hang.
    pub(super) fn in_service(&self) -> Replicas {
        let mut in_service = self.live();
        for (slot, member) in (1..).zip(&self.members) {
            if member.stalled {
                in_service.remove(slot);
            }
        }
        in_service
    }

    /// The disk of this node hangs.
    pub(super) fn is_stalled(&self) -> bool {
        self.force_age > self.config.timing.force_age_max
    }

    pub(super) fn send_fence(&self, slot: u8, effects: &mut Vec<Effect>) {
        let member = self.members[usize::from(slot) - 1].store.filter(|_| self.names_members());
        let lists = member.is_some() && self.config.rules.keep(Rule::PeerIdChecked);
        let stores: Option<Vec<_>> = self.members.iter().map(|member| member.store).collect();
        let members = stores.filter(|_| lists).unwrap_or_default();
        let (supersedes, seen) = (self.superseded_promise(slot), self.seen(slot));
        let (commit, decided) = (self.config.commit, self.decided());
        let fence = Body::Fence { member, commit, members, supersedes, seen, decided };
        self.send(slot, fence, effects);
    }
}
