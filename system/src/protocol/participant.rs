//! The participant: votes on writes, holds the locks, and obeys decisions. One at each replica.
//! Knows nothing of clients, values, files, sockets or clocks.
//!
//! A transaction has no state here (no record, at or above the watermark), or is
//! *pending* (PREPARE appended, not durable), *prepared* (voted yes: in doubt until somebody says
//! how it ended), *committed* or *aborted*; below the watermark it is *gone*. Invariants, wherever the
//! machine rests:
//!
//! - a key is locked exactly while a transaction that writes it is pending or prepared;
//! - a yes vote, an Abort told to a peer, and an acknowledgement have left only after the record
//!   that they rest on was durable;
//! - no prepared transaction is settled but by a decision, somebody's who knows it.

mod votes;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
};

use super::{
    Body, CommitMode, Config, Decision, Effect, Event, HaltKind, Key, Lsn, Message, NoReason, Node,
    PeerKnowledge, ReadId, Record, Replicas, Rule, Status, StoreId, TimerId, TxnId, Write, record,
};

/// The participant of one replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Participant {
    config: Config,
    /// The last record that this incarnation appended.
    lsn: Lsn,
    /// Which start this is.
    incarnation: u64,
    /// INCARNATION is durable: the machine acts.
    up: bool,
    /// The machine has stopped.
    halted: bool,
    /// Messages of lesser epochs are refused.
    promised: u64,
    /// A handshake of the promised epoch is complete in this incarnation.
    fenced: bool,
    /// The master's store, once met.
    master: Option<StoreId>,
    /// A master with another store was reported to the operator.
    warned: bool,
    /// The greatest watermark heard of.
    watermark: TxnId,
    txns: BTreeMap<TxnId, State>,
    /// Who holds each locked key.
    locks: BTreeMap<Key, TxnId>,
    /// Reads that wait for a lock.
    waiting: BTreeMap<Key, BTreeSet<ReadId>>,
    /// What is to be done when a record is durable, in the order of the records.
    parked: VecDeque<(Lsn, Parked)>,
    /// Where the votes decide: which of them are final.
    frozen: votes::Frozen,
}

/// What a participant knows of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    /// PREPARE is appended, and not known to be durable.
    Pending { key: Key },
    /// Voted yes.
    Prepared {
        key: Key,
        /// Inquiries of the master in a row that were not answered.
        inquiries: u8,
        /// Peers that are prepared too: where the votes decide those whose yes is final, otherwise
        /// those that are uncertain, who are counted only where guessing is allowed.
        alike: Replicas,
    },
    /// Applied; whether COMMIT is durable.
    Committed { durable: bool },
    /// Without effect here, for ever.
    Aborted(Aborted),
}

/// On what an abort rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Aborted {
    /// On a no vote, which nothing recorded: a vote, not a decision.
    Voted,
    /// On the decision, whose record is not durable yet: a crash would bring the lock back.
    Deciding,
    /// On the decision.
    Decided,
    /// On REFUSED, which is not durable yet.
    Refusing,
    /// On REFUSED.
    Refused,
}

/// What waits for a record to be durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Parked {
    /// INCARNATION: begin to act.
    Incarnation,
    /// PROMISE: answer the fence of this epoch.
    Promise(u64),
    /// PREPARE: vote yes.
    Prepare(TxnId),
    /// COMMIT: acknowledge.
    Commit(TxnId),
    /// ABORT: acknowledge, if the master said so.
    Abort { txn: TxnId, acknowledge: bool },
    /// REFUSED: tell this node so.
    Refused { txn: TxnId, to: Node, body: Body },
    /// FROZEN: answer this peer about the transaction, or, if it is oneself, ask the peers.
    Frozen(TxnId, Node),
}

impl Participant {
    /// Starts the participant from what its store kept. It acts when INCARNATION is durable, which forces
    /// the surviving records with it.
    ///
    /// # Panics
    /// If `config.node` is no replica.
    #[must_use]
    pub fn recover(config: Config, records: &[Record]) -> (Self, Vec<Effect>) {
        assert!(config.node != Node::Master, "a participant runs at a replica");
        let mut effects = Vec::new();
        let mut this = Participant {
            lsn: 0,
            incarnation: 0,
            up: false,
            halted: false,
            promised: 0,
            fenced: false,
            master: None,
            warned: false,
            watermark: TxnId::default(),
            txns: BTreeMap::new(),
            locks: BTreeMap::new(),
            waiting: BTreeMap::new(),
            parked: VecDeque::new(),
            frozen: votes::Frozen::default(),
            config,
        };
        if let Err(why) = this.check_identity(records) {
            this.halt(HaltKind::Refused, why, &mut effects);
            return (this, effects);
        }
        this.replay(records);
        if this.incarnation == 0 {
            let member = Record::Member { node: this.config.node, store: this.config.store };
            this.append(member, &mut effects);
            if this.votes_decide() {
                this.append(Record::Votes, &mut effects);
            }
        }
        this.incarnation += 1;
        let lsn = this.append(Record::Incarnation { incarnation: this.incarnation }, &mut effects);
        effects.push(Effect::Force(lsn));
        if this.config.rules.keep(Rule::IncarnationForced) {
            this.parked.push_back((lsn, Parked::Incarnation));
        } else {
            this.begin(&mut effects);
        }
        (this, effects)
    }

    /// Takes in an event, and adds what is to be done about it to `effects`.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        if let Event::ReadResult { read, found } = event {
            // Even if the step that served the read has halted the machine: the read came first.
            return self.send(Node::Master, Body::Value { read, found }, effects);
        }
        if self.halted {
            return;
        }
        match event {
            Event::Persisted(lsn) => self.persisted(lsn, effects),
            // Before INCARNATION is durable the surviving records may still be lost: nothing may be said
            // that rests on them. Whoever asks will ask again.
            _ if !self.up => {}
            Event::Message { from: Node::Master, message } => self.heard_master(message, effects),
            Event::Message { from: Node::Replica(slot), message } => {
                self.heard_peer(slot, message, effects);
            }
            Event::Timer(TimerId::InquiryTimeout(txn)) => self.long_in_doubt(txn, effects),
            Event::Timer(TimerId::ReadWait(read)) => self.waited_for_lock(read, effects),
            Event::Timer(_) | Event::Client { .. } | Event::ReadResult { .. } => {
                unreachable!("a replica sets no such timer and has no clients: {event:?}")
            }
        }
    }

    /// A message of this node, with the facts that go with each.
    #[must_use]
    pub fn message(&self, body: Body) -> Message {
        Message { store: self.config.store, epoch: self.promised, watermark: self.watermark, body }
    }

    /// What an onlooker may know.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            node: self.config.node,
            epoch: self.promised,
            incarnation: self.incarnation,
            watermark: self.watermark,
            ready: self.up && self.fenced && !self.halted,
            live: Vec::new(),
            unsettled: self
                .txns
                .iter()
                .filter_map(|(txn, state)| Some((*txn, state.undecided_key()?.clone())))
                .collect(),
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
        if let Node::Replica(own) = self.config.node {
            this.config.node = Node::Replica(slot(own));
        }
        this.config.store = store(self.config.store);
        for state in this.txns.values_mut() {
            if let State::Prepared { alike, .. } = state {
                *alike = alike.renamed(slot);
            }
        }
        for (_, parked) in &mut this.parked {
            if let Parked::Refused { to: Node::Replica(peer), .. }
            | Parked::Frozen(_, Node::Replica(peer)) = parked
            {
                *peer = slot(*peer);
            }
        }
        this
    }

    // ---- Recovery ----

    /// Brings back what the records say, and locks again what was locked.
    fn replay(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Promise { epoch } => self.promised = self.promised.max(*epoch),
                Record::Incarnation { incarnation } => {
                    self.incarnation = self.incarnation.max(*incarnation)
                }
                Record::Watermark { watermark } => self.watermark = self.watermark.max(*watermark),
                Record::Member { node: Node::Master, store } => self.master = Some(*store),
                Record::Member { .. } | Record::Votes => {}
                Record::Frozen { upto } => self.frozen.recovered(*upto),
                Record::Prepare { txn, write } => {
                    self.txns.entry(*txn).or_insert_with(|| State::prepared(write.key.clone()));
                }
                Record::Commit { txn } => {
                    self.txns.insert(*txn, State::Committed { durable: true });
                }
                // An outcome outweighs PREPARE, and a commit outweighs all, in whatever order the
                // records come.
                Record::Abort { txn } => self.replay_abort(*txn, Aborted::Decided),
                Record::Refused { txn } => self.replay_abort(*txn, Aborted::Refused),
                Record::Epoch { .. } | Record::Decided { .. } | Record::End { .. } => {
                    unreachable!("a master's record in a replica's store: {record:?}")
                }
            }
        }
        if self.config.rules.keep(Rule::RelockOnRecovery) {
            for (txn, state) in &self.txns {
                if let Some(key) = state.undecided_key() {
                    self.locks.insert(key.clone(), *txn);
                }
            }
        }
    }

    fn replay_abort(&mut self, txn: TxnId, why: Aborted) {
        if !matches!(self.txns.get(&txn), Some(State::Committed { .. })) {
            self.txns.insert(txn, State::Aborted(why));
        }
    }

    /// Whether this store may be this replica's, in words if not.
    fn check_identity(&self, records: &[Record]) -> Result<(), String> {
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

    /// INCARNATION is durable: make oneself known, and ask about all that is in doubt.
    fn begin(&mut self, effects: &mut Vec<Effect>) {
        self.up = true;
        self.send(Node::Master, Body::Alive { incarnation: self.incarnation }, effects);
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

    // ---- Durability ----

    fn persisted(&mut self, lsn: Lsn, effects: &mut Vec<Effect>) {
        assert!(lsn <= self.lsn, "a record that was never appended is durable");
        let mut acks = Vec::new();
        while let Some((due, _)) = self.parked.front()
            && *due <= lsn
        {
            let (_, parked) = self.parked.pop_front().expect("it was just seen");
            match parked {
                Parked::Incarnation => self.begin(effects),
                Parked::Promise(epoch) if epoch == self.promised => self.welcome(effects),
                Parked::Promise(_) => {}
                Parked::Prepare(txn) => self.prepared(txn, effects),
                Parked::Commit(txn) => {
                    if let Some(State::Committed { durable }) = self.txns.get_mut(&txn) {
                        *durable = true;
                        acks.push(txn);
                    }
                }
                Parked::Abort { txn, acknowledge } => {
                    let state = self.txns.get_mut(&txn);
                    if let Some(State::Aborted(why @ Aborted::Deciding)) = state {
                        *why = Aborted::Decided;
                    }
                    if acknowledge {
                        acks.push(txn);
                    }
                }
                Parked::Refused { txn, to, body } => {
                    let state = self.txns.get_mut(&txn);
                    if let Some(State::Aborted(why @ Aborted::Refusing)) = state {
                        *why = Aborted::Refused;
                    }
                    self.send(to, body, effects);
                }
                Parked::Frozen(txn, whom) => self.is_frozen(txn, whom, effects),
            }
        }
        if !acks.is_empty() && self.config.rules.keep(Rule::AckAfterDurable) {
            self.acknowledge(acks, effects);
        }
    }

    /// PREPARE is durable: the transaction is in doubt from here on.
    fn prepared(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let Some(state) = self.txns.get_mut(&txn) else { return };
        if let State::Pending { key } = state {
            *state = State::prepared(key.clone());
            self.send(Node::Master, Body::VoteYes { txn }, effects);
        }
    }

    // ---- Messages from the master ----

    fn heard_master(&mut self, message: Message, effects: &mut Vec<Effect>) {
        let Message { store, epoch, watermark, body } = message;
        let rules = self.config.rules;
        if self.master.is_some_and(|known| known != store) && rules.keep(Rule::EmptyStoreRefused) {
            if !self.warned {
                self.warned = true;
                let known = self.master.expect("it was just compared");
                effects.push(Effect::Warn(format!(
                    "refused a master with store {store}: this replica belongs to the master \
                     with store {known}"
                )));
            }
            return;
        }
        let prepares = matches!(body, Body::Prepare { .. });
        if epoch < self.promised && (rules.keep(Rule::EpochCheck) || !prepares) {
            self.send(Node::Master, Body::Stale { promised: self.promised }, effects);
            return;
        }
        if let Body::Fence { member, commit } = body {
            self.fence(store, epoch, member, commit, effects);
        } else if epoch > self.promised {
            // Of a master that has not fenced this replica: only a stray can come so early.
            return;
        }
        self.raise_watermark(watermark, effects);
        match body {
            Body::Prepare { txn, write, piggybacked } => {
                self.prepare(txn, write, piggybacked, effects)
            }
            Body::Decide { txn, decision } => self.decide(txn, decision, effects),
            Body::Pending { txn } => {
                if let Some(State::Prepared { inquiries, .. }) = self.txns.get_mut(&txn) {
                    *inquiries = 0;
                }
            }
            Body::Read { read, key, piggybacked, wait } => {
                for (txn, decision) in piggybacked {
                    self.decide(txn, decision, effects);
                }
                if self.serves(&key) {
                    effects.push(Effect::Serve { read, key });
                } else if self.fenced || !rules.keep(Rule::HandshakeBeforeServing) {
                    self.waiting.entry(key).or_default().insert(read);
                    effects.push(Effect::SetTimer { id: TimerId::ReadWait(read), after: wait });
                } else {
                    self.send(Node::Master, Body::NotServing { read }, effects);
                }
            }
            Body::Heartbeat => {
                self.send(Node::Master, Body::Alive { incarnation: self.incarnation }, effects)
            }
            Body::Veto { txn } => self.asked(txn, Node::Master, true, effects),
            Body::PeerInquire { txn } => self.asked(txn, Node::Master, false, effects),
            // Taken care of above, or not a master's to say.
            _ => {}
        }
    }

    /// A master takes over: promise its epoch, durably, and tell it what is in doubt.
    fn fence(
        &mut self,
        store: StoreId,
        epoch: u64,
        member: Option<StoreId>,
        commit: CommitMode,
        effects: &mut Vec<Effect>,
    ) {
        let own = self.config.store;
        if commit != self.config.commit {
            let why = format!(
                "the master goes by commit = {commit} and {} by commit = {}: all nodes of a \
                 cluster must go by one",
                self.config.node, self.config.commit
            );
            return self.halt(HaltKind::Refused, why, effects);
        }
        if let Some(known) = member
            && known != own
            && self.config.rules.keep(Rule::EmptyStoreRefused)
        {
            let node = self.config.node;
            let why = format!(
                "the cluster knows {node} by store {known}, this is store {own}: a replica that \
                 lost its data must not rejoin"
            );
            return self.halt(HaltKind::Refused, why, effects);
        }
        if self.master.is_none() {
            self.master = Some(store);
            self.append(Record::Member { node: Node::Master, store }, effects);
        }
        if epoch > self.promised {
            self.promised = epoch;
            self.fenced = false;
            let lsn = self.append(Record::Promise { epoch }, effects);
            effects.push(Effect::Force(lsn));
            self.parked.push_back((lsn, Parked::Promise(epoch)));
        } else if !self.parked.iter().any(|(_, parked)| matches!(parked, Parked::Promise(_))) {
            self.welcome(effects);
        }
    }

    /// The handshake is complete. What was pending before PROMISE is prepared by now, so a master
    /// of a new epoch learns of every lock that an old one left here.
    fn welcome(&mut self, effects: &mut Vec<Effect>) {
        if self.votes_decide() && self.waits_for_commits(effects) {
            return;
        }
        self.fenced = true;
        let in_doubt = self.in_doubt().map(|(txn, key)| (txn, key.clone())).collect();
        self.send(Node::Master, Body::FenceOk { incarnation: self.incarnation, in_doubt }, effects);
    }

    fn prepare(
        &mut self,
        txn: TxnId,
        write: Write,
        piggybacked: Vec<(TxnId, Decision)>,
        effects: &mut Vec<Effect>,
    ) {
        // First, so that parked reads of the key are answered before the new lock: else a client
        // that writes one key without pause would starve its readers.
        for (txn, decision) in piggybacked {
            self.decide(txn, decision, effects);
        }
        match self.txns.get(&txn) {
            None if txn < self.watermark => {}
            None => {
                let rules = self.config.rules;
                if let Some(&holder) = self.locks.get(&write.key)
                    && rules.keep(Rule::ReplicaLock)
                {
                    let reason = NoReason::Locked { holder };
                    let no = Body::VoteNo { txn, reason };
                    if self.votes_decide() && rules.keep(Rule::VetoForced) {
                        return self.refuse(txn, Node::Master, no, effects);
                    }
                    self.txns.insert(txn, State::Aborted(Aborted::Voted));
                    return self.send(Node::Master, no, effects);
                }
                let key = write.key.clone();
                self.locks.insert(key.clone(), txn);
                let lsn = self.append(Record::Prepare { txn, write }, effects);
                if rules.keep(Rule::VoteForced) {
                    self.txns.insert(txn, State::Pending { key });
                    self.parked.push_back((lsn, Parked::Prepare(txn)));
                } else {
                    self.txns.insert(txn, State::prepared(key));
                    self.send(Node::Master, Body::VoteYes { txn }, effects);
                }
                effects.push(Effect::Force(lsn));
                let after = self.config.timing.inquiry_timeout;
                effects.push(Effect::SetTimer { id: TimerId::InquiryTimeout(txn), after });
            }
            Some(State::Prepared { .. }) => {
                self.send(Node::Master, Body::VoteYes { txn }, effects);
            }
            // A veto that is no veto yet; the master asks again.
            Some(State::Aborted(Aborted::Refusing)) if self.votes_decide() => {}
            Some(State::Aborted(_)) => {
                let reason = NoReason::Aborted;
                self.send(Node::Master, Body::VoteNo { txn, reason }, effects);
            }
            Some(State::Pending { .. } | State::Committed { .. }) => {}
        }
    }

    /// The master's decision, sent for itself or with a later message about the same key.
    fn decide(&mut self, txn: TxnId, decision: Decision, effects: &mut Vec<Effect>) {
        let rules = self.config.rules;
        match (decision, self.txns.get(&txn)) {
            (_, None) if txn < self.watermark => self.acknowledge(vec![txn], effects),
            (Decision::Commit, Some(State::Prepared { .. })) => self.commit(txn, effects),
            (Decision::Commit, Some(State::Committed { durable })) => {
                if *durable {
                    self.acknowledge(vec![txn], effects);
                }
            }
            // One that drops its outcomes too early takes the unknown for the acknowledged.
            (Decision::Commit, None) if !rules.keep(Rule::KeepOutcomeUntilWatermark) => {
                self.acknowledge(vec![txn], effects);
            }
            (Decision::Commit, state) => {
                let state = match state {
                    None => "without a record",
                    Some(State::Pending { .. }) => "not durably prepared",
                    _ => "aborted",
                };
                let why = format!("told to commit {txn}, which is {state} here");
                self.halt(HaltKind::Violation, why, effects);
            }
            (Decision::Abort, Some(State::Committed { .. })) => {
                // A presumed abort: the answer to an inquiry that the master met only after it
                // had forgotten the commit.
                if !rules.keep(Rule::CommitIsFinal) {
                    self.append(Record::Abort { txn }, effects);
                    self.txns.insert(txn, State::Aborted(Aborted::Decided));
                }
                self.acknowledge(vec![txn], effects);
            }
            (Decision::Abort, Some(State::Aborted(Aborted::Decided | Aborted::Refused))) => {
                self.acknowledge(vec![txn], effects);
            }
            // The master says it again; by then REFUSED is durable.
            (Decision::Abort, Some(State::Aborted(Aborted::Refusing))) => {}
            (Decision::Abort, Some(State::Aborted(Aborted::Deciding))) => {
                self.acknowledge_abort(txn, effects);
            }
            // Without a record, the abort leaves a tombstone: a late Prepare must not lock the key.
            (
                Decision::Abort,
                None
                | Some(
                    State::Pending { .. } | State::Prepared { .. } | State::Aborted(Aborted::Voted),
                ),
            ) => {
                self.abort(txn, effects);
                self.acknowledge_abort(txn, effects);
            }
        }
    }

    /// Acknowledges an abort when its record is durable. Before, a crash could bring the lock back,
    /// and the master would have forgotten what it was for.
    fn acknowledge_abort(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        if !self.config.rules.keep(Rule::AckAfterDurable) {
            return self.acknowledge(vec![txn], effects);
        }
        let due = self.parked.iter_mut().find_map(|(_, parked)| match parked {
            Parked::Abort { txn: aborted, acknowledge } if *aborted == txn => Some(acknowledge),
            _ => None,
        });
        *due.expect("ABORT is under way to the disk") = true;
    }

    // ---- Outcomes ----

    /// Applies a prepared write and unlocks its key, in one step with respect to reads.
    fn commit(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let lsn = self.append(Record::Commit { txn }, effects);
        let state = self.txns.insert(txn, State::Committed { durable: false });
        self.parked.push_back((lsn, Parked::Commit(txn)));
        if !self.config.rules.keep(Rule::AckAfterDurable) {
            self.acknowledge(vec![txn], effects);
        }
        let Some(State::Prepared { key, .. }) = state else {
            panic!("{txn} is committed without being prepared")
        };
        self.unlock(&key, txn, effects);
    }

    fn abort(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let lsn = self.append(Record::Abort { txn }, effects);
        self.parked.push_back((lsn, Parked::Abort { txn, acknowledge: false }));
        let state = self.txns.insert(txn, State::Aborted(Aborted::Deciding));
        if let Some(key) = state.as_ref().and_then(State::undecided_key) {
            self.unlock(key, txn, effects);
        }
    }

    fn unlock(&mut self, key: &Key, txn: TxnId, effects: &mut Vec<Effect>) {
        if self.locks.get(key) != Some(&txn) {
            let rules = self.config.rules;
            let lost = !rules.keep(Rule::RelockOnRecovery) || !rules.keep(Rule::ReplicaLock);
            assert!(lost, "{txn} does not hold the lock that it gives up");
            return;
        }
        self.locks.remove(key);
        for read in self.waiting.remove(key).unwrap_or_default() {
            effects.push(Effect::Serve { read, key: key.clone() });
        }
    }

    fn acknowledge(&mut self, txns: Vec<TxnId>, effects: &mut Vec<Effect>) {
        if !self.config.rules.keep(Rule::KeepOutcomeUntilWatermark) {
            for txn in &txns {
                self.txns.remove(txn);
            }
        }
        self.send(Node::Master, Body::Ack { txns }, effects);
    }

    /// Takes note that everything below `watermark` is settled everywhere.
    fn raise_watermark(&mut self, watermark: TxnId, effects: &mut Vec<Effect>) {
        if watermark <= self.watermark || self.halted {
            return;
        }
        let passed = self.txns.range(self.watermark..watermark);
        // A transaction that this replica has not acknowledged holds the watermark back if it is
        // committed: so it was aborted.
        let undecided: Vec<_> = passed
            .filter(|(_, state)| state.undecided_key().is_some())
            .map(|(txn, _)| *txn)
            .collect();
        for txn in undecided {
            self.abort(txn, effects);
        }
        let before = mem::replace(&mut self.watermark, watermark);
        let batch = self.config.timing.watermark_batch;
        // Counting them takes as long as there are many: not at every step of the watermark.
        let step = u64::from(batch / 4).max(1);
        let far = (before.epoch, before.seq / step) != (watermark.epoch, watermark.seq / step);
        let batch = batch as usize;
        if far && self.txns.len() >= batch && self.txns.range(..watermark).count() >= batch {
            self.append(Record::Watermark { watermark }, effects);
            self.txns = self.txns.split_off(&watermark);
        }
    }

    // ---- Doubt, and what the peers know ----

    fn long_in_doubt(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let Config { rules, timing, .. } = &self.config;
        let after = timing.inquiry_timeout;
        let mut ask_peers = false;
        match self.txns.get_mut(&txn) {
            Some(State::Pending { .. }) => {}
            Some(State::Prepared { .. }) if !rules.keep(Rule::PreparedWaits) => {
                return self.abort(txn, effects);
            }
            Some(State::Prepared { inquiries, .. }) => {
                ask_peers = *inquiries >= timing.peer_inquiry_after;
                *inquiries = inquiries.saturating_add(1).min(timing.peer_inquiry_after);
                self.send(Node::Master, Body::Inquire { txn }, effects);
            }
            _ => return,
        }
        if ask_peers && (!self.votes_decide() || self.may_ask(txn, effects)) {
            self.ask_peers(txn, effects);
        }
        effects.push(Effect::SetTimer { id: TimerId::InquiryTimeout(txn), after });
    }

    fn ask_peers(&self, txn: TxnId, effects: &mut Vec<Effect>) {
        for peer in self.config.replica_nodes().filter(|peer| *peer != self.config.node) {
            self.send(peer, Body::PeerInquire { txn }, effects);
        }
    }

    fn heard_peer(&mut self, slot: u8, message: Message, effects: &mut Vec<Effect>) {
        match message.body {
            // Who asks was prepared in an epoch that every replica had promised by then. One that
            // has not is not the replica that it was, and knows nothing.
            Body::PeerInquire { txn } if txn.epoch <= self.promised => {
                self.asked(txn, Node::Replica(slot), false, effects);
            }
            Body::PeerAnswer { txn, answer } => {
                let Some(State::Prepared { alike, .. }) = self.txns.get_mut(&txn) else {
                    return;
                };
                match answer {
                    PeerKnowledge::Commit => self.commit(txn, effects),
                    PeerKnowledge::Abort => self.abort(txn, effects),
                    PeerKnowledge::Uncertain if self.config.rules.keep(Rule::NoGuessInDoubt) => {}
                    // Where the votes decide: none can veto any more, this replica neither, which
                    // gave that up before it asked.
                    PeerKnowledge::Final | PeerKnowledge::Uncertain => {
                        alike.insert(slot);
                        if alike.len() == self.config.replicas - 1 {
                            self.commit(txn, effects);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// Somebody asks how a transaction stands here: one who is in doubt about it, or a master whose
    /// votes are missing, which wants it vetoed.
    fn asked(&mut self, txn: TxnId, by: Node, veto: bool, effects: &mut Vec<Effect>) {
        let answer = match self.txns.get(&txn) {
            Some(State::Committed { .. }) => PeerKnowledge::Commit,
            Some(State::Pending { .. } | State::Prepared { .. }) if self.votes_decide() => {
                return self.asked_in_doubt(txn, by, veto, effects);
            }
            Some(State::Pending { .. } | State::Prepared { .. }) => PeerKnowledge::Uncertain,
            Some(State::Aborted(Aborted::Deciding | Aborted::Decided | Aborted::Refused)) => {
                PeerKnowledge::Abort
            }
            // The asker repeats its question; by then REFUSED is durable.
            Some(State::Aborted(Aborted::Refusing)) => return,
            // Gone: only an asker in doubt may conclude so, for a commit that it had not
            // acknowledged would have held the watermark back.
            None if txn < self.watermark => PeerKnowledge::Abort,
            None | Some(State::Aborted(Aborted::Voted)) => {
                let answer = PeerKnowledge::Abort;
                if self.config.rules.keep(Rule::RefuseBeforePeerAbort) {
                    return self.refuse(txn, by, Body::PeerAnswer { txn, answer }, effects);
                }
                answer
            }
        };
        self.send(by, Body::PeerAnswer { txn, answer }, effects);
    }

    /// Promises never to prepare a transaction, or, where the votes decide, vetoes it; and tells
    /// somebody so when that is durable.
    fn refuse(&mut self, txn: TxnId, to: Node, body: Body, effects: &mut Vec<Effect>) {
        let lsn = self.append(Record::Refused { txn }, effects);
        effects.push(Effect::Force(lsn));
        let state = self.txns.insert(txn, State::Aborted(Aborted::Refusing));
        self.parked.push_back((lsn, Parked::Refused { txn, to, body }));
        if let Some(key) = state.as_ref().and_then(State::undecided_key) {
            self.unlock(key, txn, effects);
        }
    }

    // ---- Reads ----

    /// Whether a read of the key would be served as things stand.
    #[must_use]
    pub fn serves(&self, key: &Key) -> bool {
        let rules = self.config.rules;
        self.up
            && (self.fenced || !rules.keep(Rule::HandshakeBeforeServing))
            && (!self.locks.contains_key(key) || !rules.keep(Rule::ReadsRespectLocks))
    }

    fn waited_for_lock(&mut self, read: ReadId, effects: &mut Vec<Effect>) {
        let waits = self.waiting.iter().find(|(_, reads)| reads.contains(&read));
        let Some(key) = waits.map(|(key, _)| key.clone()) else { return };
        let reads = self.waiting.get_mut(&key).expect("it was just found");
        reads.remove(&read);
        if reads.is_empty() {
            self.waiting.remove(&key);
        }
        let txn = *self.locks.get(&key).expect("reads wait only for locked keys");
        self.send(Node::Master, Body::Busy { read, txn }, effects);
    }

    // ---- Small things ----

    fn in_doubt(&self) -> impl Iterator<Item = (TxnId, &Key)> {
        self.txns.iter().filter_map(|(txn, state)| match state {
            State::Prepared { key, .. } => Some((*txn, key)),
            _ => None,
        })
    }

    fn append(&mut self, record: Record, effects: &mut Vec<Effect>) -> Lsn {
        self.lsn += 1;
        effects.push(Effect::Append(record));
        self.lsn
    }

    fn send(&self, to: Node, body: Body, effects: &mut Vec<Effect>) {
        effects.push(Effect::Send { to, message: self.message(body) });
    }

    fn halt(&mut self, kind: HaltKind, why: String, effects: &mut Vec<Effect>) {
        self.halted = true;
        effects.push(Effect::Halt { kind, why });
    }
}

impl State {
    fn prepared(key: Key) -> Self {
        State::Prepared { key, inquiries: 0, alike: Replicas::default() }
    }

    /// The key that the transaction locks, if it is pending or prepared.
    fn undecided_key(&self) -> Option<&Key> {
        match self {
            State::Pending { key } | State::Prepared { key, .. } => Some(key),
            State::Committed { .. } | State::Aborted(_) => None,
        }
    }
}
