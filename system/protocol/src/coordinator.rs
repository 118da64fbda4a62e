//! The coordinator, one at the master: numbers the writes, collects votes, decides, and remembers
//! each commit until every replica has acknowledged it. Does not know about stored values, files,
//! sockets or clocks.
//!
//! A transaction is first *voting*. It then becomes *aborted*, which no record says (a transaction
//! that the log does not name is presumed aborted), or *deciding*: COMMIT is appended and the
//! decision is irrevocable, but it must not be published yet. When COMMIT is durable the
//! transaction is *committed* until every replica has acknowledged it. Invariants, between steps:
//!
//! - No node and no client has been sent Commit or Ok before COMMIT was durable.
//! - A key has at most one transaction that is voting or deciding, its *holder*.
//! - Every committed or aborted transaction that some replica has not acknowledged is
//!   *unacknowledged* under its key, and the next Prepare of that key piggybacks the decision.
//! - The watermark is the least transaction that is voting, deciding or committed.
//!
//! Two commit modes share this code. The places that differ are `decide_commit` and
//! `answer_unknown`, which rely on the master's log, and the module `takeover`, for clusters in which
//! the replicas' votes make the commit.

mod identity;
mod membership;
mod reads;
mod recovery;
mod takeover;
mod writes;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    AbortReason, Body, CallId, ClusterId, CommitMode, Config, Decision, Effect, Event, HaltKind,
    Key, Lsn, Message, Mistake, NoReason, Node, Nonce, PeerKnowledge, Query, ReadId, Record,
    Replicas, Reply, Request, Rule, Seen, Snapshot, Status, StoreId, TimerId, Timing, TxnId, Value,
    Version, Write, bounds, record,
};

/// How often the retransmission interval doubles before it stays constant.
const RETRANSMIT_ROUNDS_MAX: u8 = 3;

/// The coordinator of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    config: Config,
    /// The last record appended by this incarnation.
    lsn: Lsn,
    epoch: u64,
    /// How long the oldest force at the master has been under way.
    force_age: Duration,
    /// The identity of the cluster.
    cluster: ClusterId,
    /// The nonces of this master's earlier epochs.
    earlier_starts: BTreeMap<u64, Nonce>,
    /// Logged mode: the number of commits that this master and the earlier ones have decided.
    commits: u64,
    /// How many of them are durable.
    durable_commits: u64,
    /// EPOCH is durable, so the machine may act.
    active: bool,
    /// The machine has halted and ignores events.
    halted: bool,
    /// The sequence number of the last transaction begun in this epoch.
    last_seq: u64,
    /// The number of the last get begun in this epoch.
    last_read: u64,
    /// The replicas; slot N is at index N - 1.
    members: Vec<Member>,
    /// The stores of all replicas are recorded durably, so that a Fence may name them. Until then
    /// the cluster is at its beginning, and no replica is live.
    members_durable: bool,
    /// Transactions that are voting, deciding or committed.
    txns: BTreeMap<TxnId, Txn>,
    /// Aborted transactions that some replica has not acknowledged.
    aborted: BTreeMap<TxnId, Aborted>,
    /// Keys that have a holder or unacknowledged transactions.
    keys: BTreeMap<Key, KeyState>,
    /// Gets in progress, by number.
    gets: BTreeMap<u64, Get>,
    /// Work that waits for a record to become durable, in the order of the records.
    deferred: VecDeque<(Lsn, Deferred)>,
    /// Votes mode only: what this master has learned about the transactions of earlier masters.
    takeover: Option<takeover::Takeover>,
}

/// What the coordinator knows about one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Member {
    /// The store recorded for the slot, if the replica has been admitted.
    store: Option<StoreId>,
    /// The latest incarnation that the replica has reported.
    incarnation: u64,
    /// Has completed the handshake of this epoch, and answers heartbeats.
    live: bool,
    /// Reports that its oldest force takes too long. It is heard, and keeps its handshake, but nothing is asked of it.
    stalled: bool,
    /// Heartbeats sent since the last message from the replica.
    missed_heartbeats: u8,
    /// The operator has been warned about a different store in this slot.
    warned: bool,
    /// The replica has sent the identity of the cluster, so it knows it.
    knows_cluster: bool,
    /// The promise that the replica has reported, if any: an epoch and its nonce.
    promise: Option<(u64, Nonce)>,
    /// What the replica's store is known to hold.
    seen: Seen,
    /// The number of commits in the last SEEN.
    recorded: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Txn {
    key: Key,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Prepare is sent; `yes` are the replicas that have voted yes.
    Voting { call: CallId, value: Option<Value>, yes: Replicas },
    /// Every replica has voted yes; COMMIT is appended and not durable yet.
    Deciding { call: CallId },
    /// Votes mode only: not every vote arrived in time, so the replicas are asked for their state.
    Terminating {
        /// The client's call, if this master began the transaction; replicas are then asked for a
        /// veto. None for a transaction adopted from an earlier master.
        call: Option<CallId>,
        /// Replicas whose votes were missing when the vote timeout expired.
        no_vote: Replicas,
        /// Replicas whose yes vote is final.
        final_votes: Replicas,
    },
    /// The decision is made; `unacked` are the replicas that have not acknowledged it.
    Committed { unacked: Replicas },
}

impl Phase {
    /// The client call that waits for the outcome.
    fn call(&self) -> Option<CallId> {
        match self {
            Phase::Voting { call, .. } | Phase::Deciding { call } => Some(*call),
            Phase::Terminating { call, .. } => *call,
            Phase::Committed { .. } => None,
        }
    }
}

/// An aborted transaction that some replica has not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Aborted {
    key: Key,
    unacked: Replicas,
}

/// The transactions that may lock a key at some replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct KeyState {
    holder: Option<TxnId>,
    unacknowledged: BTreeMap<TxnId, Decision>,
}

/// A get or a snapshot in progress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Get {
    call: CallId,
    asks: Asked,
    /// The client's random number, which selects the first replica to ask.
    choice: u64,
    attempt: u32,
    /// The number of attempts that fit into the client's deadline.
    attempts_max: u32,
}

/// What a client reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Asked {
    /// One key.
    Key(Key),
    /// Several keys as one snapshot.
    Query(Query),
}

/// Work that waits for a record to become durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Deferred {
    /// EPOCH: activate the machine.
    Epoch,
    /// The last MEMBER: name their stores to all replicas.
    Members,
    /// COMMIT: publish the decision.
    Commit(TxnId),
}

impl Coordinator {
    /// Recovers the coordinator from the records in its store. It acts once EPOCH is durable. Forcing
    /// EPOCH also makes the recovered records durable.
    ///
    /// # Panics
    /// If `config.node` is not the master, or has more replicas than [`Replicas::MAX`].
    pub(super) fn recover(config: Config, records: &[Record]) -> (Self, Vec<Effect>) {
        assert_eq!(config.node, Node::Master, "a coordinator runs at the master");
        let mut effects = Vec::new();
        let mut this = Coordinator {
            lsn: 0,
            epoch: 0,
            force_age: Duration::ZERO,
            cluster: ClusterId::default(),
            earlier_starts: BTreeMap::new(),
            commits: 0,
            durable_commits: 0,
            active: false,
            halted: false,
            last_seq: config.sequence_above,
            last_read: 0,
            members: vec![Member::default(); usize::from(config.replicas)],
            members_durable: false,
            txns: BTreeMap::new(),
            aborted: BTreeMap::new(),
            keys: BTreeMap::new(),
            gets: BTreeMap::new(),
            deferred: VecDeque::new(),
            takeover: (config.commit == CommitMode::Votes).then(takeover::Takeover::default),
            config,
        };
        if let Err(why) = this.check_identity(records) {
            this.halt(HaltKind::Refused, why, &mut effects);
            return (this, effects);
        }
        this.replay(records);
        if this.epoch == 0 {
            let member = Record::Member { node: Node::Master, store: this.config.store };
            this.append(member, &mut effects);
            if this.votes_decide() {
                this.append(Record::Votes, &mut effects);
            }
        }
        this.epoch += 1;
        this.record_start(records, &mut effects);
        let epoch = Record::Epoch { epoch: this.epoch, replicas: this.config.replicas };
        let lsn = this.append(epoch, &mut effects);
        effects.push(Effect::Force(lsn));
        if this.config.rules.keep(Rule::EpochForced) {
            this.deferred.push_back((lsn, Deferred::Epoch));
        } else {
            this.activate(&mut effects);
        }
        (this, effects)
    }

    /// Processes an event and appends the resulting effects to `effects`.
    pub(super) fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        if self.halted {
            return;
        }
        match event {
            Event::Client { call, request: Request::Write(write) } => {
                self.begin_write(call, write, effects);
            }
            Event::Client { call, request: Request::Get { key, choice, deadline } } => {
                self.begin_read(call, Asked::Key(key), choice, deadline, effects);
            }
            Event::Client { call, request: Request::Snapshot { query, choice, deadline } } => {
                self.begin_read(call, Asked::Query(query), choice, deadline, effects);
            }
            Event::Persisted(lsn) => self.on_persisted(lsn, effects),
            Event::ForceAge(age) => self.force_age = age,
            // The driver accepts no more calls, and waits for those in progress.
            Event::Leave => {
                if self.config.rules.makes(Mistake::StopReportsAbort) {
                    self.report_aborts(effects);
                }
            }
            // Before EPOCH is durable the recovered records may still be lost, so no answer may
            // rely on them. Senders retransmit.
            _ if !self.active => {}
            Event::Message { from: Node::Replica(slot), message } => {
                self.on_message(slot, message, effects);
            }
            Event::Timer(TimerId::VoteTimeout(txn)) => self.on_vote_timeout(txn, effects),
            Event::Timer(TimerId::Retransmit { txn, round }) => {
                self.on_retransmit_timer(txn, round, effects);
            }
            Event::Timer(TimerId::Attempt(read)) => self.retry_get(read, effects),
            Event::Timer(TimerId::Heartbeat) => self.on_heartbeat_timer(effects),
            Event::Message { from: Node::Master, .. }
            | Event::Timer(_)
            | Event::Room { .. }
            | Event::ReadResult { .. }
            | Event::KeysRead { .. }
            | Event::PageRead { .. }
            | Event::ReadFailed { .. }
            | Event::Damaged { .. }
            | Event::Copied { .. }
            | Event::Checkpointed { .. }
            | Event::Summarized { .. }
            | Event::Checked { .. } => {
                unreachable!(
                    "the master has no master, never sets this timer and serves no read: {event:?}"
                )
            }
        }
    }

    /// Wraps a body into a message from this node, with the fields that every message carries.
    fn message(&self, body: Body) -> Message {
        Message {
            cluster: self.cluster,
            store: self.config.store,
            epoch: self.epoch,
            nonce: self.config.nonce,
            watermark: self.watermark(),
            decisions: self.decisions(),
            body,
        }
    }

    /// The state that monitoring may see.
    pub(super) fn status(&self) -> Status {
        let txns = self.txns.iter().map(|(txn, Txn { key, .. })| (*txn, key.clone()));
        let aborted = self.aborted.iter().map(|(txn, Aborted { key, .. })| (*txn, key.clone()));
        Status {
            node: Node::Master,
            epoch: self.epoch,
            incarnation: self.epoch,
            watermark: self.watermark(),
            ready: self.takes_writes() && !self.halted,
            live: self.in_service().nodes(),
            force_age: self.force_age,
            stalled: self.live().without(self.in_service()).nodes(),
            scrubs: 0,
            unsettled: txns.chain(aborted).collect(),
        }
    }

    /// See [`Machine::rebase`](super::Machine::rebase).
    pub(super) fn rebase(&mut self, durable: Lsn) {
        self.lsn -= durable;
        self.deferred.iter_mut().for_each(|(lsn, _)| *lsn -= durable);
    }

    /// See [`Machine::renamed`](super::Machine::renamed).
    pub(super) fn renamed(
        &self,
        slot: &impl Fn(u8) -> u8,
        store: &impl Fn(StoreId) -> StoreId,
    ) -> Self {
        let mut this = self.clone();
        for (old, member) in (1..).zip(&self.members) {
            let member = Member { store: member.store.map(store), ..member.clone() };
            this.members[usize::from(slot(old)) - 1] = member;
        }
        for Txn { phase, .. } in this.txns.values_mut() {
            match phase {
                Phase::Voting { yes: set, .. } | Phase::Committed { unacked: set } => {
                    *set = set.renamed(slot);
                }
                Phase::Terminating { no_vote, final_votes, .. } => {
                    *no_vote = no_vote.renamed(slot);
                    *final_votes = final_votes.renamed(slot);
                }
                Phase::Deciding { .. } => {}
            }
        }
        for Aborted { unacked, .. } in this.aborted.values_mut() {
            *unacked = unacked.renamed(slot);
        }
        if let Some(takeover) = &mut this.takeover {
            takeover.rename(slot);
        }
        this
    }

    fn on_persisted(&mut self, lsn: Lsn, effects: &mut Vec<Effect>) {
        assert!(lsn <= self.lsn, "record {lsn} is durable but was never appended");
        self.note_durable_commits(lsn);
        while let Some((due, _)) = self.deferred.front()
            && *due <= lsn
        {
            match self.deferred.pop_front().expect("front() returned it").1 {
                Deferred::Epoch => self.activate(effects),
                Deferred::Members => self.on_members_durable(effects),
                Deferred::Commit(txn) => self.publish_commit(txn, effects),
            }
        }
    }

    fn on_message(&mut self, slot: u8, message: Message, effects: &mut Vec<Effect>) {
        let out_of_bounds = self.out_of_bounds(&message);
        let Message { cluster, store, epoch, nonce, watermark, decisions, body } = message;
        if !self.admit(slot, store, epoch, &body, effects) {
            return;
        }
        if self.is_of_other_cluster(slot, cluster, &body) {
            return effects.push(bounds::refuse(Node::Replica(slot), "it is of another cluster"));
        }
        // Before the bounds: to a copy of an earlier epoch, what the replicas have heard from the original
        // is out of bounds.
        if epoch <= self.epoch && self.halts_as_copy(slot, epoch, nonce, effects) {
            return;
        }
        if let Some(why) = out_of_bounds {
            return effects.push(bounds::refuse(Node::Replica(slot), why));
        }
        if epoch > self.epoch {
            return self.superseded(epoch, effects);
        }
        if self.halts_without_commits(slot, decisions, effects) {
            return;
        }
        self.note_vote(slot, &body);
        self.members[usize::from(slot) - 1].missed_heartbeats = 0;
        match body {
            Body::FenceOk { incarnation, in_doubt, start, commits } if epoch == self.epoch => {
                let replica = (incarnation, start, commits);
                self.on_fence_ok(slot, replica, in_doubt, watermark, effects);
            }
            Body::Alive { incarnation, start, promised, force_age, applied } => {
                if self.halts_without_commits(slot, applied, effects) {
                    return;
                }
                let stalled = force_age > self.config.timing.force_age_max;
                let member = &mut self.members[usize::from(slot) - 1];
                member.promise = promised.or(member.promise);
                member.stalled = stalled;
                if incarnation > member.incarnation {
                    member.incarnation = incarnation;
                    member.live = false;
                }
                if self.is_other_start(slot, incarnation, start) {
                    // The Fence tells it.
                    self.members[usize::from(slot) - 1].live = false;
                }
                let member = &self.members[usize::from(slot) - 1];
                // At the beginning of the cluster a Fence would only be answered by another Alive.
                if incarnation == member.incarnation && !member.live && self.names_members() {
                    self.send_fence(slot, effects);
                }
            }
            Body::Leaving { incarnation } => self.on_leaving(slot, incarnation, effects),
            Body::VoteYes { txn } => self.on_vote_yes(slot, txn, false, effects),
            Body::Inquire { txn } => self.on_vote_yes(slot, txn, true, effects),
            Body::VoteNo { txn, reason } => self.on_vote_no(slot, txn, reason, effects),
            Body::PeerAnswer { txn, answer } => self.on_peer_answer(slot, txn, answer, effects),
            Body::Ack { txns, commits } => {
                self.note_commits(slot, commits, effects);
                for txn in txns {
                    self.on_ack(slot, txn, effects);
                }
            }
            Body::Value { read, found } if read.epoch == self.epoch => {
                self.on_value(read, found, effects);
            }
            Body::Snapshot { read, snapshot } if read.epoch == self.epoch => {
                self.on_snapshot(slot, read, snapshot, watermark, effects);
            }
            Body::Busy { read, .. } | Body::NotServing { read } if read.epoch == self.epoch => {
                self.retry_get(read, effects);
            }
            Body::Stale { promised } if promised > self.epoch => {
                self.superseded(promised, effects);
            }
            // The answer is for an earlier master, or the message is not one that replicas send.
            _ => {}
        }
    }

    /// What no replica can have learned from this master or from an earlier one.
    fn out_of_bounds(&self, message: &Message) -> Option<&'static str> {
        let promised = match message.body {
            Body::Stale { promised } => promised.max(message.epoch),
            _ => message.epoch,
        };
        if bounds::is_epoch_too_far_ahead(promised, self.epoch) {
            return Some("an epoch that is too far ahead");
        }
        let next = TxnId::new(self.epoch, self.last_seq + 1);
        if message.epoch > self.epoch {
            // Of a later master.
            return None;
        }
        if message.watermark > next {
            return Some("a watermark above every transaction of this master");
        }
        let unknown = |txn: TxnId| txn >= next;
        let txns = message.watermark_and_txns().skip(1);
        txns.into_iter().any(unknown).then_some("a transaction that this master has not begun")
    }

    /// Every transaction below it is aborted, or committed and acknowledged by every replica.
    fn watermark(&self) -> TxnId {
        if let Some(watermark) = self.takeover_watermark() {
            return watermark;
        }
        let waits = self.config.rules.keep(Rule::WatermarkWaitsForAcks);
        let mut unfinished = self
            .txns
            .iter()
            .filter(|(_, txn)| waits || !matches!(txn.phase, Phase::Committed { .. }));
        let next = TxnId::new(self.epoch, self.last_seq + 1);
        let least = unfinished.next().map_or(next, |(txn, _)| *txn);
        let stops = self.config.rules.makes(Mistake::WatermarkStops);
        let least = if stops {
            least.min(TxnId::new(self.epoch, self.config.sequence_above + 300))
        } else {
            least
        };
        let is_cut = self.config.rules.makes(Mistake::WatermarkIn32Bits);
        if is_cut { TxnId::new(least.epoch, least.seq & 0xffff_ffff) } else { least }
    }

    fn all(&self) -> Replicas {
        Replicas::first(self.config.replicas)
    }

    fn append(&mut self, record: Record, effects: &mut Vec<Effect>) -> Lsn {
        self.lsn += 1;
        effects.push(Effect::Append(record));
        self.lsn
    }

    fn send_to(&self, slots: Replicas, body: Body, effects: &mut Vec<Effect>) {
        let message = self.message(body);
        for to in slots.nodes() {
            effects.push(Effect::Send { to, message: message.clone() });
        }
    }

    fn send(&self, slot: u8, body: Body, effects: &mut Vec<Effect>) {
        effects.push(Effect::Send { to: Node::Replica(slot), message: self.message(body) });
    }

    fn halt(&mut self, kind: HaltKind, why: String, effects: &mut Vec<Effect>) {
        self.halted = true;
        effects.push(Effect::Halt { kind, why });
    }
}

fn reply(call: CallId, reply: Reply, effects: &mut Vec<Effect>) {
    effects.push(Effect::Reply { call, reply });
}
