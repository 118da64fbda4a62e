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
//! `answer_unknown`, which rely on the master's log, and the module `votes`, for clusters in which
//! the replicas' votes make the commit.

mod votes;

use std::collections::{BTreeMap, VecDeque};

use super::{
    AbortReason, Body, CallId, CommitMode, Config, Decision, Effect, Event, HaltKind, Key, Lsn,
    Message, NoReason, Node, PeerKnowledge, ReadId, Record, Replicas, Reply, Request, Rule, Status,
    StoreId, TimerId, Timing, TxnId, Value, Version, Write, record,
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
    takeover: Option<votes::Takeover>,
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
    /// Heartbeats sent since the last message from the replica.
    missed_heartbeats: u8,
    /// The operator has been warned about a different store in this slot.
    warned: bool,
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

/// A get in progress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Get {
    call: CallId,
    key: Key,
    /// The client's random number, which selects the first replica to ask.
    choice: u64,
    attempt: u32,
    /// The number of attempts that fit into the client's deadline.
    attempts_max: u32,
}

/// Work that waits for a record to become durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Deferred {
    /// EPOCH: activate the machine.
    Epoch,
    /// COMMIT: publish the decision.
    Commit(TxnId),
}

impl Coordinator {
    /// Recovers the coordinator from the records in its store. It acts once EPOCH is durable. Forcing
    /// EPOCH also makes the recovered records durable.
    ///
    /// # Panics
    /// If `config.node` is not the master, or has more replicas than [`Replicas::MAX`].
    #[must_use]
    pub fn recover(config: Config, records: &[Record]) -> (Self, Vec<Effect>) {
        assert_eq!(config.node, Node::Master, "a coordinator runs at the master");
        let mut effects = Vec::new();
        let mut this = Coordinator {
            lsn: 0,
            epoch: 0,
            active: false,
            halted: false,
            last_seq: 0,
            last_read: 0,
            members: vec![Member::default(); usize::from(config.replicas)],
            txns: BTreeMap::new(),
            aborted: BTreeMap::new(),
            keys: BTreeMap::new(),
            gets: BTreeMap::new(),
            deferred: VecDeque::new(),
            takeover: (config.commit == CommitMode::Votes).then(votes::Takeover::default),
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
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        if self.halted {
            return;
        }
        match event {
            Event::Client { call, request: Request::Write(write) } => {
                self.begin_write(call, write, effects);
            }
            Event::Client { call, request: Request::Get { key, choice, deadline } } => {
                let Timing { read_wait, read_slack, .. } = self.config.timing;
                let attempt = (read_wait + read_slack).as_millis().max(1);
                let attempts_max = (deadline.as_millis() / attempt).clamp(1, u32::MAX.into());
                let attempts_max = u32::try_from(attempts_max).expect("it is clamped to u32");
                let get = Get { call, key, choice, attempt: 0, attempts_max };
                self.last_read += 1;
                self.send_read(self.last_read, get, effects);
            }
            Event::Persisted(lsn) => self.on_persisted(lsn, effects),
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
            | Event::ReadResult { .. } => {
                unreachable!(
                    "the master has no master, never sets this timer and serves no read: {event:?}"
                )
            }
        }
    }

    /// Wraps a body into a message from this node, with the fields that every message carries.
    #[must_use]
    pub fn message(&self, body: Body) -> Message {
        Message { store: self.config.store, epoch: self.epoch, watermark: self.watermark(), body }
    }

    /// The state that monitoring may see.
    #[must_use]
    pub fn status(&self) -> Status {
        let txns = self.txns.iter().map(|(txn, Txn { key, .. })| (*txn, key.clone()));
        let aborted = self.aborted.iter().map(|(txn, Aborted { key, .. })| (*txn, key.clone()));
        Status {
            node: Node::Master,
            epoch: self.epoch,
            incarnation: self.epoch,
            watermark: self.watermark(),
            ready: self.takes_writes() && !self.halted,
            live: self.live().nodes(),
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

    // ---- Recovery ----

    /// Checks that this store may be the master's; the error is for the operator.
    fn check_identity(&self, records: &[Record]) -> Result<(), String> {
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
    fn replay(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Epoch { epoch, .. } => self.epoch = self.epoch.max(*epoch),
                Record::Member { node: Node::Replica(slot), store } => {
                    self.members[usize::from(*slot) - 1].store = Some(*store);
                }
                Record::Member { node: Node::Master, .. } | Record::Votes => {}
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
                | Record::Watermark { .. } => {
                    unreachable!("a master's store cannot hold {record:?}")
                }
            }
        }
    }

    /// EPOCH is durable: fences the replicas off from every earlier master.
    fn activate(&mut self, effects: &mut Vec<Effect>) {
        self.active = true;
        for slot in self.all().slots() {
            self.send_fence(slot, effects);
        }
        let after = self.config.timing.heartbeat_interval;
        effects.push(Effect::SetTimer { id: TimerId::Heartbeat, after });
    }

    // ---- Writes ----

    fn begin_write(&mut self, call: CallId, write: Write, effects: &mut Vec<Effect>) {
        if !self.takes_writes() {
            let missing = self.all().without(self.live());
            let reason = AbortReason::Unavailable { missing: missing.nodes() };
            return reply(call, Reply::Aborted(reason), effects);
        }
        let state = self.keys.entry(write.key.clone()).or_default();
        if let Some(holder) = state.holder {
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
        let after = self.config.timing.vote_timeout;
        effects.push(Effect::SetTimer { id: TimerId::VoteTimeout(txn), after });
        self.set_retransmit_timer(txn, 0, effects);
    }

    /// Whether every replica is live and every transaction of earlier masters is resolved.
    fn takes_writes(&self) -> bool {
        self.active && self.live().len() == self.config.replicas && self.takeover_complete()
    }

    /// Requests votes on a transaction. The message piggybacks every unacknowledged decision on the
    /// same key.
    fn send_prepare(&self, txn: TxnId, to: Replicas, effects: &mut Vec<Effect>) {
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
    fn unacknowledged(&self, key: &Key) -> Vec<(TxnId, Decision)> {
        let unacknowledged = self.keys.get(key).map(|state| &state.unacknowledged);
        unacknowledged.into_iter().flatten().map(|(txn, decision)| (*txn, *decision)).collect()
    }

    /// Handles a yes vote, or an inquiry, which is a yes vote that asks for the decision.
    fn on_vote_yes(&mut self, slot: u8, txn: TxnId, inquires: bool, effects: &mut Vec<Effect>) {
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

    fn on_vote_no(&mut self, slot: u8, txn: TxnId, reason: NoReason, effects: &mut Vec<Effect>) {
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

    fn on_vote_timeout(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
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
    fn decide_commit(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        if self.votes_decide() {
            return self.publish_commit(txn, effects);
        }
        let Some(Txn { key, phase }) = self.txns.get_mut(&txn) else {
            panic!("{txn} is decided but was never begun")
        };
        let Phase::Voting { call, .. } = phase else { panic!("{txn} is decided twice") };
        *phase = Phase::Deciding { call: *call };
        let record = Record::CommitDecision { txn, key: key.clone() };
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
    fn answer_unknown(&mut self, slot: u8, txn: TxnId, effects: &mut Vec<Effect>) {
        if !self.presumes_abort(txn) {
            return self.send(slot, Body::Pending { txn }, effects);
        }
        let decision = Decision::Abort;
        self.send(slot, Body::Decide { txn, decision }, effects);
    }

    /// Publishes a commit to the client and to every replica.
    fn publish_commit(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
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
    fn abort(&mut self, txn: TxnId, reason: AbortReason, effects: &mut Vec<Effect>) {
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
    fn abort_orphan(&mut self, slot: u8, txn: TxnId, key: Key, effects: &mut Vec<Effect>) {
        self.mark_unacknowledged(key.clone(), txn, Decision::Abort);
        let aborted = Aborted { key, unacked: Replicas::default() };
        self.aborted.entry(txn).or_insert(aborted).unacked.insert(slot);
        self.send(slot, Body::Decide { txn, decision: Decision::Abort }, effects);
        self.set_retransmit_timer(txn, 0, effects);
    }

    /// Records that a decided transaction no longer holds its key, but may still lock it at some
    /// replica.
    fn mark_unacknowledged(&mut self, key: Key, txn: TxnId, decision: Decision) {
        let state = self.keys.entry(key).or_default();
        if state.holder == Some(txn) {
            state.holder = None;
        }
        state.unacknowledged.insert(txn, decision);
    }

    fn on_ack(&mut self, slot: u8, txn: TxnId, effects: &mut Vec<Effect>) {
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
    fn clear_unacknowledged(&mut self, key: &Key, txn: TxnId) {
        let state = self.keys.get_mut(key).expect("an unacknowledged transaction has a key state");
        state.unacknowledged.remove(&txn);
        if state.unacknowledged.is_empty() && state.holder.is_none() {
            self.keys.remove(key);
        }
    }

    fn on_persisted(&mut self, lsn: Lsn, effects: &mut Vec<Effect>) {
        assert!(lsn <= self.lsn, "record {lsn} is durable but was never appended");
        while let Some((due, _)) = self.deferred.front()
            && *due <= lsn
        {
            match self.deferred.pop_front().expect("front() returned it").1 {
                Deferred::Epoch => self.activate(effects),
                Deferred::Commit(txn) => self.publish_commit(txn, effects),
            }
        }
    }

    // ---- Messages from replicas ----

    fn on_message(&mut self, slot: u8, message: Message, effects: &mut Vec<Effect>) {
        let Message { store, epoch, watermark, body } = message;
        if !self.admit(slot, store, epoch, &body, effects) {
            return;
        }
        if epoch > self.epoch {
            return self.superseded(epoch, effects);
        }
        self.members[usize::from(slot) - 1].missed_heartbeats = 0;
        match body {
            Body::FenceOk { incarnation, in_doubt } if epoch == self.epoch => {
                self.on_fence_ok(slot, incarnation, in_doubt, watermark, effects);
            }
            Body::Alive { incarnation } => {
                let member = &mut self.members[usize::from(slot) - 1];
                if incarnation > member.incarnation {
                    member.incarnation = incarnation;
                    member.live = false;
                }
                if incarnation == member.incarnation && !member.live {
                    self.send_fence(slot, effects);
                }
            }
            Body::VoteYes { txn } => self.on_vote_yes(slot, txn, false, effects),
            Body::Inquire { txn } => self.on_vote_yes(slot, txn, true, effects),
            Body::VoteNo { txn, reason } => self.on_vote_no(slot, txn, reason, effects),
            Body::PeerAnswer { txn, answer } => self.on_peer_answer(slot, txn, answer, effects),
            Body::Ack { txns } => {
                for txn in txns {
                    self.on_ack(slot, txn, effects);
                }
            }
            Body::Value { read, found } if read.epoch == self.epoch => {
                self.on_value(read, found, effects);
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

    /// Checks that the sender is the replica that it claims to be. A new replica is admitted with
    /// its handshake, if this master may begin a membership.
    fn admit(
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
    fn on_fence_ok(
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

    fn superseded(&mut self, epoch: u64, effects: &mut Vec<Effect>) {
        // Replay compares this text with the journal, so kept journals fix its words.
        let why = format!("a master of epoch {epoch} has taken over from this one, {}", self.epoch);
        self.halt(HaltKind::Superseded, why, effects);
    }

    // ---- Gets ----

    /// Sends a read to one of the live replicas: the first is the client's random choice, and each
    /// further attempt goes to the next one.
    fn send_read(&mut self, n: u64, get: Get, effects: &mut Vec<Effect>) {
        let live = self.live().nodes();
        if !self.active || live.is_empty() || get.attempt >= get.attempts_max {
            self.gets.remove(&n);
            return reply(get.call, Reply::Unavailable, effects);
        }
        let index = get.choice.wrapping_add(get.attempt.into()) % live.len() as u64;
        let to = live[usize::try_from(index).expect("less than the number of replicas")];
        let read = ReadId { epoch: self.epoch, n, attempt: get.attempt };
        let piggybacked = self.unacknowledged(&get.key);
        let Timing { read_wait: wait, read_slack, .. } = self.config.timing;
        let body = Body::Read { read, key: get.key.clone(), piggybacked, wait };
        effects.push(Effect::Send { to, message: self.message(body) });
        effects.push(Effect::SetTimer { id: TimerId::Attempt(read), after: wait + read_slack });
        self.gets.insert(n, get);
    }

    fn retry_get(&mut self, read: ReadId, effects: &mut Vec<Effect>) {
        let Some(get) = self.gets.get(&read.n) else { return };
        if get.attempt == read.attempt {
            let get = Get { attempt: get.attempt + 1, ..get.clone() };
            self.send_read(read.n, get, effects);
        }
    }

    /// Accepts the answer of any attempt: each was served after the client had asked.
    fn on_value(
        &mut self,
        read: ReadId,
        found: Option<(Version, Value)>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(Get { call, .. }) = self.gets.remove(&read.n) {
            reply(call, Reply::Value(found), effects);
        }
    }

    // ---- Time ----

    fn on_heartbeat_timer(&mut self, effects: &mut Vec<Effect>) {
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

    /// Repeats unanswered messages to the live replicas. The others receive them with their next
    /// handshake.
    fn on_retransmit_timer(&mut self, txn: TxnId, round: u8, effects: &mut Vec<Effect>) {
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
        if to.is_empty() {
            return;
        }
        match decision {
            None if !self.send_inquiry(txn, to, effects) => self.send_prepare(txn, to, effects),
            None => {}
            Some(decision) => self.send_to(to, Body::Decide { txn, decision }, effects),
        }
        self.set_retransmit_timer(txn, (round + 1).min(RETRANSMIT_ROUNDS_MAX), effects);
    }

    fn set_retransmit_timer(&self, txn: TxnId, round: u8, effects: &mut Vec<Effect>) {
        let after = self.config.timing.retransmit * (1 << round);
        effects.push(Effect::SetTimer { id: TimerId::Retransmit { txn, round }, after });
    }

    // ---- Helpers ----

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
        unfinished.next().map_or(next, |(txn, _)| *txn)
    }

    fn all(&self) -> Replicas {
        Replicas::first(self.config.replicas)
    }

    fn live(&self) -> Replicas {
        let mut live = Replicas::default();
        for (slot, member) in (1..).zip(&self.members) {
            if member.live {
                live.insert(slot);
            }
        }
        live
    }

    fn append(&mut self, record: Record, effects: &mut Vec<Effect>) -> Lsn {
        self.lsn += 1;
        effects.push(Effect::Append(record));
        self.lsn
    }

    fn send_fence(&self, slot: u8, effects: &mut Vec<Effect>) {
        let member = self.members[usize::from(slot) - 1].store;
        let commit = self.config.commit;
        self.send(slot, Body::Fence { member, commit }, effects);
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
