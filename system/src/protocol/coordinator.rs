//! The coordinator: numbers the writes, collects votes, decides, and remembers each commit until
//! every replica has it. One at the master. Knows nothing of values that are stored, of files,
//! sockets or clocks.
//!
//! A transaction is *voting*, then either *aborted* (which nothing records: whatever the log does
//! not name is presumed aborted) or *deciding* (COMMIT appended: irrevocable, but nobody may be
//! told yet), then *committed* until all have acknowledged. Invariants, wherever the machine rests:
//!
//! - nobody has been told Ok or Commit before COMMIT was durable;
//! - a key has at most one transaction that is voting or deciding, its *holder*;
//! - every transaction that is committed or aborted and not yet acknowledged by all is *draining*
//!   under its key, and rides on the next Prepare of that key;
//! - the watermark is the least transaction that is voting, deciding or committed.
//!
//! Where a decision lives is decided in few places: in `decide_commit` and `outcome_unknown`, which
//! know the master's log, and in the file `votes`, for a cluster in which the votes decide.

mod votes;

use std::collections::{BTreeMap, VecDeque};

use super::{
    AbortReason, Body, CallId, CommitMode, Config, Decision, Effect, Event, HaltKind, Key, Lsn,
    Message, NoReason, Node, PeerKnowledge, ReadId, Record, Replicas, Reply, Request, Rule, Status,
    StoreId, TimerId, Timing, TxnId, Value, Version, Write, record,
};

/// Doublings of the wait between repeats of a decision.
const RESEND_ROUNDS_MAX: u8 = 3;

/// The coordinator of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    config: Config,
    /// The last record that this incarnation appended.
    lsn: Lsn,
    epoch: u64,
    /// EPOCH is durable: the machine acts.
    up: bool,
    /// The machine has stopped.
    halted: bool,
    /// The last transaction begun in this epoch.
    last_seq: u64,
    /// The last get begun in this epoch.
    last_read: u64,
    /// What is known of the replicas, by slot from 1.
    members: Vec<Member>,
    /// Transactions that are voting, deciding or committed.
    txns: BTreeMap<TxnId, Txn>,
    /// Aborted transactions, and the replicas that have not acknowledged.
    aborted: BTreeMap<TxnId, Aborted>,
    /// Keys with a holder or something draining.
    keys: BTreeMap<Key, KeyState>,
    /// Gets under way, by number.
    gets: BTreeMap<u64, Get>,
    /// What is to be done when a record is durable, in the order of the records.
    parked: VecDeque<(Lsn, Parked)>,
    /// Where the votes decide: what this master has learnt of its predecessors.
    heritage: Option<votes::Heritage>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Member {
    /// The store recorded for the slot.
    store: Option<StoreId>,
    /// The latest start heard of.
    incarnation: u64,
    /// Has handshaken with this epoch, and was heard since.
    live: bool,
    /// Heartbeats since it was heard.
    silent: u8,
    /// A stranger in this slot was reported to the operator.
    warned: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Txn {
    key: Key,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Prepare is sent; these have voted yes.
    Voting { call: CallId, value: Option<Value>, yes: Replicas },
    /// All have voted yes, and COMMIT is not durable yet.
    Deciding { call: CallId },
    /// Where the votes decide: they were not all heard, and the replicas are asked how they stand.
    Asking {
        /// The client of one that this master has begun, which wants it vetoed; none of one that
        /// it has inherited.
        call: Option<CallId>,
        /// Whose votes were missing when the time was up.
        unheard: Replicas,
        /// Whose yes is final.
        last: Replicas,
    },
    /// The decision stands; these have not acknowledged it.
    Committed { missing: Replicas },
}

impl Phase {
    /// The client that waits for the outcome.
    fn call(&self) -> Option<CallId> {
        match self {
            Phase::Voting { call, .. } | Phase::Deciding { call } => Some(*call),
            Phase::Asking { call, .. } => *call,
            Phase::Committed { .. } => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Aborted {
    key: Key,
    missing: Replicas,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct KeyState {
    holder: Option<TxnId>,
    draining: BTreeMap<TxnId, Decision>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Get {
    call: CallId,
    key: Key,
    choice: u64,
    attempt: u32,
    /// Attempts that the client's deadline has room for.
    attempts_max: u32,
}

/// What waits for a record to be durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Parked {
    /// EPOCH: begin to act.
    Epoch,
    /// COMMIT: publish the decision.
    Commit(TxnId),
}

impl Coordinator {
    /// Starts the coordinator from what its store kept. It acts when EPOCH is durable, which
    /// forces the surviving records with it.
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
            up: false,
            halted: false,
            last_seq: 0,
            last_read: 0,
            members: vec![Member::default(); usize::from(config.replicas)],
            txns: BTreeMap::new(),
            aborted: BTreeMap::new(),
            keys: BTreeMap::new(),
            gets: BTreeMap::new(),
            parked: VecDeque::new(),
            heritage: (config.commit == CommitMode::Votes).then(votes::Heritage::default),
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
            this.parked.push_back((lsn, Parked::Epoch));
        } else {
            this.begin(&mut effects);
        }
        (this, effects)
    }

    /// Takes in an event, and adds what is to be done about it to `effects`.
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
                let attempts_max = u32::try_from(attempts_max).expect("it was clamped");
                let get = Get { call, key, choice, attempt: 0, attempts_max };
                self.last_read += 1;
                self.try_replica(self.last_read, get, effects);
            }
            Event::Persisted(lsn) => self.persisted(lsn, effects),
            // Before EPOCH is durable the surviving records may still be lost: nothing may be said
            // that rests on them. Whoever asks will ask again.
            _ if !self.up => {}
            Event::Message { from: Node::Replica(slot), message } => {
                self.heard(slot, message, effects);
            }
            Event::Timer(TimerId::VoteTimeout(txn)) => self.votes_missing(txn, effects),
            Event::Timer(TimerId::Retransmit { txn, round }) => self.resend(txn, round, effects),
            Event::Timer(TimerId::Attempt(read)) => self.try_another(read, effects),
            Event::Timer(TimerId::Heartbeat) => self.heartbeat(effects),
            Event::Message { from: Node::Master, .. }
            | Event::Timer(_)
            | Event::ReadResult { .. } => {
                unreachable!(
                    "a master has no master, sets no such timer and serves no read: {event:?}"
                )
            }
        }
    }

    /// A message of this node, with the facts that go with each.
    #[must_use]
    pub fn message(&self, body: Body) -> Message {
        Message { store: self.config.store, epoch: self.epoch, watermark: self.watermark(), body }
    }

    /// What an onlooker may know.
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
        self.parked.iter_mut().for_each(|(lsn, _)| *lsn -= durable);
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
                Phase::Voting { yes: set, .. } | Phase::Committed { missing: set } => {
                    *set = set.renamed(slot);
                }
                Phase::Asking { unheard, last, .. } => {
                    *unheard = unheard.renamed(slot);
                    *last = last.renamed(slot);
                }
                Phase::Deciding { .. } => {}
            }
        }
        for Aborted { missing, .. } in this.aborted.values_mut() {
            *missing = missing.renamed(slot);
        }
        if let Some(heritage) = &mut this.heritage {
            heritage.rename(slot);
        }
        this
    }

    // ---- Recovery ----

    /// Whether this store may be the master's, in words if not.
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
                        "the cluster was made with {recorded} replicas and the configuration \
                         names {replicas}: the membership is static"
                    ));
                }
                Record::Epoch { .. } => empty = false,
                _ => {}
            }
        }
        if empty && !bootstrap {
            return Err("the master's store is empty; if the cluster is new, start it with \
                        --bootstrap; if it is not, the master's log is lost and an empty one \
                        would take every commit for aborted"
                .to_owned());
        }
        Ok(())
    }

    /// Brings back what the records say: every commit that somebody may not have.
    fn replay(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Epoch { epoch, .. } => self.epoch = self.epoch.max(*epoch),
                Record::Member { node: Node::Replica(slot), store } => {
                    self.members[usize::from(*slot) - 1].store = Some(*store);
                }
                Record::Member { node: Node::Master, .. } | Record::Votes => {}
                Record::Decided { txn, key } => {
                    let phase = Phase::Committed { missing: self.all() };
                    self.txns.insert(*txn, Txn { key: key.clone(), phase });
                    self.drain(key.clone(), *txn, Decision::Commit);
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
                    unreachable!("erased, or of a replica, yet in a master's store: {record:?}")
                }
            }
        }
    }

    /// EPOCH is durable: fence the replicas off from every earlier master.
    fn begin(&mut self, effects: &mut Vec<Effect>) {
        self.up = true;
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
        self.set_resend(txn, 0, effects);
    }

    /// Whether every replica is live and nothing is left to settle that this master has found.
    fn takes_writes(&self) -> bool {
        self.up && self.live().len() == self.config.replicas && self.settled()
    }

    /// Asks for the votes on a transaction, with all that its key still waits for.
    fn send_prepare(&self, txn: TxnId, to: Replicas, effects: &mut Vec<Effect>) {
        let Some(Txn { key, phase: Phase::Voting { value, .. } }) = self.txns.get(&txn) else {
            panic!("votes are asked for on {txn}, which is not voting")
        };
        let piggybacked = if self.config.rules.keep(Rule::PiggybackOnPrepare) {
            self.draining(key)
        } else {
            Vec::new()
        };
        let write = Write { key: key.clone(), value: value.clone() };
        self.send_to(to, Body::Prepare { txn, write, piggybacked }, effects);
    }

    /// The decisions about a key that some replica may not have heard of.
    fn draining(&self, key: &Key) -> Vec<(TxnId, Decision)> {
        let draining = self.keys.get(key).map(|state| &state.draining);
        draining.into_iter().flatten().map(|(txn, decision)| (*txn, *decision)).collect()
    }

    /// A yes vote, or an inquiry, which is a yes vote that asks for an answer.
    fn voted_yes(&mut self, slot: u8, txn: TxnId, inquires: bool, effects: &mut Vec<Effect>) {
        let Some(Txn { phase, .. }) = self.txns.get_mut(&txn) else {
            return self.outcome_unknown(slot, txn, effects);
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
            Phase::Asking { .. } if !self.config.rules.keep(Rule::LateYesIsVoid) => {
                self.testified(slot, txn, PeerKnowledge::Final, effects);
            }
            Phase::Deciding { .. } | Phase::Asking { .. } if inquires => {
                self.send(slot, Body::Pending { txn }, effects);
            }
            Phase::Deciding { .. } | Phase::Asking { .. } => {}
            Phase::Committed { .. } => {
                let decision = Decision::Commit;
                self.send(slot, Body::Decide { txn, decision }, effects);
            }
        }
    }

    fn voted_no(&mut self, slot: u8, txn: TxnId, reason: NoReason, effects: &mut Vec<Effect>) {
        let Some(Txn { key, phase: Phase::Voting { .. } }) = self.txns.get(&txn) else { return };
        let key = key.clone();
        let by = Node::Replica(slot);
        self.abort(txn, AbortReason::Refused { by, reason }, effects);
        // A lock that this master knows nothing of: a Prepare that arrived long after its
        // transaction was aborted. Have it released, or each write of the key would meet it.
        if let NoReason::Locked { holder } = reason
            && !self.txns.contains_key(&holder)
        {
            self.abort_remnant(slot, holder, key, effects);
        }
    }

    fn votes_missing(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        if let Some(Txn { phase: Phase::Voting { yes, .. }, .. }) = self.txns.get(&txn) {
            if self.votes_decide() && self.config.rules.keep(Rule::VetoBeforeAbort) {
                return self.ask_for_vetoes(txn, effects);
            }
            let missing = self.all().without(*yes).nodes();
            self.abort(txn, AbortReason::Timeout { missing }, effects);
        }
    }

    /// The commit point begins here: the decision is appended, and stands when it is durable. Where
    /// the votes decide it stands already.
    fn decide_commit(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        if self.votes_decide() {
            return self.publish_commit(txn, effects);
        }
        let Some(Txn { key, phase }) = self.txns.get_mut(&txn) else {
            panic!("{txn} is decided without having been begun")
        };
        let Phase::Voting { call, .. } = phase else { panic!("{txn} is decided twice") };
        *phase = Phase::Deciding { call: *call };
        let record = Record::Decided { txn, key: key.clone() };
        let lsn = self.append(record, effects);
        if self.config.rules.keep(Rule::DecisionForced) {
            self.parked.push_back((lsn, Parked::Commit(txn)));
        } else {
            self.publish_commit(txn, effects);
        }
        effects.push(Effect::Force(lsn));
    }

    /// Somebody asks about a transaction that is neither under way nor in the log. The log is
    /// replayed in full before anybody is heard, so it was aborted, or it was committed and this
    /// replica has acknowledged that and will ignore the answer.
    fn outcome_unknown(&mut self, slot: u8, txn: TxnId, effects: &mut Vec<Effect>) {
        if !self.presumes_abort(txn) {
            return self.send(slot, Body::Pending { txn }, effects);
        }
        let decision = Decision::Abort;
        self.send(slot, Body::Decide { txn, decision }, effects);
    }

    /// The decision stands: tell everybody.
    fn publish_commit(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let missing = self.all();
        let Some(Txn { key, phase }) = self.txns.get_mut(&txn) else {
            panic!("{txn} is published without having been decided")
        };
        assert!(!matches!(phase, Phase::Committed { .. }), "{txn} is published twice");
        let call = phase.call();
        *phase = Phase::Committed { missing };
        let key = key.clone();
        self.drain(key, txn, Decision::Commit);
        if let Some(call) = call {
            reply(call, Reply::Committed { version: txn }, effects);
        }
        self.send_to(missing, Body::Decide { txn, decision: Decision::Commit }, effects);
        self.set_resend(txn, 0, effects);
    }

    /// Ends a transaction that is voting. Nothing is recorded: abort is what the log's silence
    /// means, or a replica's veto.
    fn abort(&mut self, txn: TxnId, reason: AbortReason, effects: &mut Vec<Effect>) {
        let Some(Txn { key, phase: phase @ (Phase::Voting { .. } | Phase::Asking { .. }) }) =
            self.txns.remove(&txn)
        else {
            panic!("{txn} is aborted though it is not voting")
        };
        let missing = self.all();
        self.drain(key.clone(), txn, Decision::Abort);
        self.aborted.insert(txn, Aborted { key, missing });
        if let Some(call) = phase.call() {
            reply(call, Reply::Aborted(reason), effects);
        }
        self.send_to(missing, Body::Decide { txn, decision: Decision::Abort }, effects);
        self.set_resend(txn, 0, effects);
    }

    /// A replica holds a lock for a transaction that was aborted and forgotten, here or by an
    /// earlier master: have it released, and let the next Prepare of the key say so as well.
    fn abort_remnant(&mut self, slot: u8, txn: TxnId, key: Key, effects: &mut Vec<Effect>) {
        self.drain(key.clone(), txn, Decision::Abort);
        let none = Aborted { key, missing: Replicas::default() };
        self.aborted.entry(txn).or_insert(none).missing.insert(slot);
        self.send(slot, Body::Decide { txn, decision: Decision::Abort }, effects);
        self.set_resend(txn, 0, effects);
    }

    /// The transaction no longer holds its key, but may still lock it at some replica.
    fn drain(&mut self, key: Key, txn: TxnId, decision: Decision) {
        let state = self.keys.entry(key).or_default();
        if state.holder == Some(txn) {
            state.holder = None;
        }
        state.draining.insert(txn, decision);
    }

    fn acknowledged(&mut self, slot: u8, txn: TxnId, effects: &mut Vec<Effect>) {
        if let Some(Txn { phase: Phase::Committed { missing }, .. }) = self.txns.get_mut(&txn) {
            missing.remove(slot);
            if missing.is_empty() || !self.config.rules.keep(Rule::ForgetAfterAllAcks) {
                let Txn { key, .. } = self.txns.remove(&txn).expect("it was just found");
                self.drained(&key, txn);
                if !self.votes_decide() {
                    self.append(Record::End { txn }, effects);
                }
            }
        } else if let Some(Aborted { missing, .. }) = self.aborted.get_mut(&txn) {
            missing.remove(slot);
            if missing.is_empty() {
                let Aborted { key, .. } = self.aborted.remove(&txn).expect("it was just found");
                self.drained(&key, txn);
            }
        }
    }

    fn drained(&mut self, key: &Key, txn: TxnId) {
        let state = self.keys.get_mut(key).expect("what drains is in its key's state");
        state.draining.remove(&txn);
        if state.draining.is_empty() && state.holder.is_none() {
            self.keys.remove(key);
        }
    }

    fn persisted(&mut self, lsn: Lsn, effects: &mut Vec<Effect>) {
        assert!(lsn <= self.lsn, "a record that was never appended is durable");
        while let Some((due, _)) = self.parked.front()
            && *due <= lsn
        {
            match self.parked.pop_front().expect("it was just seen").1 {
                Parked::Epoch => self.begin(effects),
                Parked::Commit(txn) => self.publish_commit(txn, effects),
            }
        }
    }

    // ---- Messages from replicas ----

    fn heard(&mut self, slot: u8, message: Message, effects: &mut Vec<Effect>) {
        let Message { store, epoch, watermark, body } = message;
        if !self.admit(slot, store, epoch, &body, effects) {
            return;
        }
        if epoch > self.epoch {
            return self.superseded(epoch, effects);
        }
        self.members[usize::from(slot) - 1].silent = 0;
        match body {
            Body::FenceOk { incarnation, in_doubt } if epoch == self.epoch => {
                self.fenced(slot, incarnation, in_doubt, watermark, effects);
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
            Body::VoteYes { txn } => self.voted_yes(slot, txn, false, effects),
            Body::Inquire { txn } => self.voted_yes(slot, txn, true, effects),
            Body::VoteNo { txn, reason } => self.voted_no(slot, txn, reason, effects),
            Body::PeerAnswer { txn, answer } => self.testified(slot, txn, answer, effects),
            Body::Ack { txns } => {
                for txn in txns {
                    self.acknowledged(slot, txn, effects);
                }
            }
            Body::Value { read, found } if read.epoch == self.epoch => {
                self.answered(read, found, effects);
            }
            Body::Busy { read, .. } | Body::NotServing { read } if read.epoch == self.epoch => {
                self.try_another(read, effects);
            }
            Body::Stale { promised } if promised > self.epoch => {
                self.superseded(promised, effects);
            }
            // An answer to an earlier master, or not a replica's to say.
            _ => {}
        }
    }

    /// Whether the sender is the replica that it says it is. A replica met for the first time is
    /// admitted with its handshake, by a master that may begin a membership.
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
        let stranger = match member.store {
            Some(known) if known != id => {
                format!("known by store {known}; a replica that lost its data must not rejoin")
            }
            None if !self.config.bootstrap => {
                "not a member yet; if the cluster is new, start the master with --bootstrap"
                    .to_owned()
            }
            // No replica of this cluster that has not been met yet has promised more than this epoch.
            None if epoch > self.epoch => {
                format!("it obeys a master of epoch {epoch}: it is of another, older cluster")
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
            effects.push(Effect::Warn(format!("refused r{slot} with store {id}: {stranger}")));
        }
        false
    }

    /// A replica has promised this epoch: settle what it is in doubt about, and tell it every
    /// decision that it has not acknowledged.
    fn fenced(
        &mut self,
        slot: u8,
        incarnation: u64,
        in_doubt: Vec<(TxnId, Key)>,
        watermark: TxnId,
        effects: &mut Vec<Effect>,
    ) {
        let member = &mut self.members[usize::from(slot) - 1];
        // Of an earlier start, or said again: what came into doubt since the replica asks about itself.
        if incarnation < member.incarnation || (member.live && incarnation == member.incarnation) {
            return;
        }
        member.incarnation = incarnation;
        member.live = true;
        for (txn, key) in in_doubt {
            match self.txns.get(&txn) {
                // Told below, with every commit that this replica has not acknowledged.
                Some(Txn { phase: Phase::Committed { .. }, .. }) => {}
                Some(_) => self.voted_yes(slot, txn, true, effects),
                None if !self.presumes_abort(txn) => self.inherit(slot, txn, key, effects),
                None => self.abort_remnant(slot, txn, key, effects),
            }
        }
        // A Prepare that was lost with the connection, or with the replica's last start.
        let unasked = self.txns.iter().filter(
            |(_, Txn { phase, .. })| matches!(phase, Phase::Voting { yes, .. } if !yes.contains(slot)),
        );
        let mut to = Replicas::default();
        to.insert(slot);
        for txn in unasked.map(|(txn, _)| *txn).collect::<Vec<_>>() {
            self.send_prepare(txn, to, effects);
        }
        let committed = self.txns.iter().filter_map(|(txn, Txn { phase, .. })| match phase {
            Phase::Committed { missing } if missing.contains(slot) => {
                Some((*txn, Decision::Commit))
            }
            _ => None,
        });
        let aborted = self
            .aborted
            .iter()
            .filter(|(_, Aborted { missing, .. })| missing.contains(slot))
            .map(|(txn, _)| (*txn, Decision::Abort));
        let decisions: Vec<_> = committed.chain(aborted).collect();
        for (txn, decision) in decisions {
            self.send(slot, Body::Decide { txn, decision }, effects);
            self.set_resend(txn, 0, effects);
        }
        self.inherits(slot, watermark, effects);
    }

    fn superseded(&mut self, epoch: u64, effects: &mut Vec<Effect>) {
        let why = format!("a master of epoch {epoch} has taken over from this one, {}", self.epoch);
        self.halt(HaltKind::Superseded, why, effects);
    }

    // ---- Gets ----

    /// Asks one of the live replicas: which one is the caller's random choice, and another with
    /// each attempt.
    fn try_replica(&mut self, n: u64, get: Get, effects: &mut Vec<Effect>) {
        let live = self.live().nodes();
        if !self.up || live.is_empty() || get.attempt >= get.attempts_max {
            self.gets.remove(&n);
            return reply(get.call, Reply::Unavailable, effects);
        }
        let turn = get.choice.wrapping_add(get.attempt.into()) % live.len() as u64;
        let to = live[usize::try_from(turn).expect("less than the number of replicas")];
        let read = ReadId { epoch: self.epoch, n, attempt: get.attempt };
        let piggybacked = self.draining(&get.key);
        let Timing { read_wait: wait, read_slack, .. } = self.config.timing;
        let body = Body::Read { read, key: get.key.clone(), piggybacked, wait };
        effects.push(Effect::Send { to, message: self.message(body) });
        effects.push(Effect::SetTimer { id: TimerId::Attempt(read), after: wait + read_slack });
        self.gets.insert(n, get);
    }

    fn try_another(&mut self, read: ReadId, effects: &mut Vec<Effect>) {
        let Some(get) = self.gets.get(&read.n) else { return };
        if get.attempt == read.attempt {
            let get = Get { attempt: get.attempt + 1, ..get.clone() };
            self.try_replica(read.n, get, effects);
        }
    }

    /// Any attempt's answer will do: it was served after the client asked.
    fn answered(
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

    fn heartbeat(&mut self, effects: &mut Vec<Effect>) {
        let Timing { heartbeat_interval, missed_heartbeats_max, .. } = self.config.timing;
        for slot in self.all().slots() {
            let member = &mut self.members[usize::from(slot) - 1];
            member.silent = member.silent.saturating_add(1).min(missed_heartbeats_max);
            member.live &= member.silent < missed_heartbeats_max;
            if member.live {
                self.send(slot, Body::Heartbeat, effects);
            } else {
                self.send_fence(slot, effects);
            }
        }
        effects.push(Effect::SetTimer { id: TimerId::Heartbeat, after: heartbeat_interval });
    }

    /// Repeats what was not answered to those that could hear it. Those that could not are told
    /// with their next handshake.
    fn resend(&mut self, txn: TxnId, round: u8, effects: &mut Vec<Effect>) {
        let dead = self.all().without(self.live());
        let (missing, decision) = match (self.txns.get(&txn), self.aborted.get(&txn)) {
            (Some(Txn { phase: Phase::Voting { yes, .. }, .. }), _) => {
                (self.all().without(*yes), None)
            }
            (Some(Txn { phase: Phase::Asking { last, .. }, .. }), _) => {
                (self.all().without(*last), None)
            }
            (Some(Txn { phase: Phase::Committed { missing }, .. }), _) => {
                (*missing, Some(Decision::Commit))
            }
            (_, Some(Aborted { missing, .. })) => (*missing, Some(Decision::Abort)),
            _ => return,
        };
        let to = missing.without(dead);
        if to.is_empty() {
            return;
        }
        match decision {
            None if !self.ask(txn, to, effects) => self.send_prepare(txn, to, effects),
            None => {}
            Some(decision) => self.send_to(to, Body::Decide { txn, decision }, effects),
        }
        self.set_resend(txn, (round + 1).min(RESEND_ROUNDS_MAX), effects);
    }

    fn set_resend(&self, txn: TxnId, round: u8, effects: &mut Vec<Effect>) {
        let after = self.config.timing.retransmit * (1 << round);
        effects.push(Effect::SetTimer { id: TimerId::Retransmit { txn, round }, after });
    }

    // ---- Small things ----

    /// Everything below is aborted, or committed and acknowledged by all.
    fn watermark(&self) -> TxnId {
        if let Some(watermark) = self.inherited_watermark() {
            return watermark;
        }
        let waits = self.config.rules.keep(Rule::WatermarkWaitsForAcks);
        let mut holding = self
            .txns
            .iter()
            .filter(|(_, txn)| waits || !matches!(txn.phase, Phase::Committed { .. }));
        let next = TxnId::new(self.epoch, self.last_seq + 1);
        holding.next().map_or(next, |(txn, _)| *txn)
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
