//! The participant, one at each replica: votes on writes, holds the locks, and applies decisions.
//! Does not know about clients, values, files, sockets or clocks.
//!
//! A transaction has no state here (it has no record, and is at or above the watermark), or it is
//! *pending* (PREPARE is appended, not durable), *prepared* (voted yes, in doubt until the decision
//! arrives), *committed* or *aborted*. Below the watermark it is *forgotten*. Invariants, between
//! steps:
//!
//! - A key is locked exactly while a transaction that writes it is pending or prepared.
//! - A yes vote, an Abort sent to a peer, and an acknowledgement are sent only after the record
//!   that they rest on is durable.
//! - A prepared transaction is resolved only by the decision, from a node that knows it.

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
    /// The last record appended by this incarnation.
    lsn: Lsn,
    /// Counts the starts of this replica, from 1.
    incarnation: u64,
    /// INCARNATION is durable, so the machine may act.
    active: bool,
    /// The machine has halted and ignores events.
    halted: bool,
    /// The promised epoch; messages of a lower one are refused.
    promised: u64,
    /// The handshake of the promised epoch is complete in this incarnation.
    fenced: bool,
    /// The master's store, once a master has fenced this replica.
    master_store: Option<StoreId>,
    /// The operator has been warned about a master with a different store.
    warned: bool,
    /// The greatest watermark received.
    watermark: TxnId,
    txns: BTreeMap<TxnId, TxnState>,
    /// The transaction that locks each locked key.
    locks: BTreeMap<Key, TxnId>,
    /// Reads that wait for a locked key.
    waiting_reads: BTreeMap<Key, BTreeSet<ReadId>>,
    /// Work that waits for a record to become durable, in the order of the records.
    deferred: VecDeque<(Lsn, Deferred)>,
    /// Votes mode only: which yes votes are final.
    frozen: votes::Frozen,
}

/// The state of a transaction at a participant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum TxnState {
    /// PREPARE is appended and not yet known to be durable.
    Pending { key: Key },
    /// Voted yes.
    Prepared {
        key: Key,
        /// Consecutive inquiries that the master has not answered.
        inquiries: u8,
        /// Peers that are prepared as well. In votes mode, those whose yes is final. In logged
        /// mode, those that are uncertain; they are counted only if the rule `no-guess-in-doubt` is
        /// broken.
        prepared_peers: Replicas,
    },
    /// Applied. `durable`: COMMIT is durable.
    Committed { durable: bool },
    /// Never takes effect here.
    Aborted(AbortBasis),
}

/// The reason why an aborted transaction stays aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AbortBasis {
    /// A no vote, which no record keeps: a vote, not a decision.
    Voted,
    /// The decision; ABORT is not durable yet, and a crash would restore the lock.
    Deciding,
    /// The decision; ABORT is durable.
    Decided,
    /// A refusal; REFUSED is not durable yet.
    Refusing,
    /// A refusal; REFUSED is durable.
    Refused,
}

/// Work that waits for a record to become durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Deferred {
    /// INCARNATION: activate the machine.
    Incarnation,
    /// PROMISE: answer the Fence of this epoch.
    Promise(u64),
    /// PREPARE: vote yes.
    Prepare(TxnId),
    /// COMMIT: acknowledge.
    Commit(TxnId),
    /// ABORT: acknowledge, if the master sent the decision.
    Abort { txn: TxnId, acknowledge: bool },
    /// REFUSED: send this answer to this node.
    Refused { txn: TxnId, to: Node, body: Body },
    /// FROZEN: answer this peer about the transaction; if the node is this replica itself, ask the
    /// peers.
    Frozen(TxnId, Node),
}

impl Participant {
    /// Recovers the participant from the records in its store. It acts once INCARNATION is durable.
    /// Forcing INCARNATION also makes the recovered records durable.
    ///
    /// # Panics
    /// If `config.node` is not a replica.
    #[must_use]
    pub fn recover(config: Config, records: &[Record]) -> (Self, Vec<Effect>) {
        assert!(config.node != Node::Master, "a participant runs at a replica");
        let mut effects = Vec::new();
        let mut this = Participant {
            lsn: 0,
            incarnation: 0,
            active: false,
            halted: false,
            promised: 0,
            fenced: false,
            master_store: None,
            warned: false,
            watermark: TxnId::default(),
            txns: BTreeMap::new(),
            locks: BTreeMap::new(),
            waiting_reads: BTreeMap::new(),
            deferred: VecDeque::new(),
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
            this.deferred.push_back((lsn, Deferred::Incarnation));
        } else {
            this.activate(&mut effects);
        }
        (this, effects)
    }

    /// Processes an event and appends the resulting effects to `effects`.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        if let Event::ReadResult { read, found } = event {
            // Even if the step that served the read has halted the machine: the read came first.
            return self.send(Node::Master, Body::Value { read, found }, effects);
        }
        if self.halted {
            return;
        }
        match event {
            Event::Persisted(lsn) => self.on_persisted(lsn, effects),
            // Before INCARNATION is durable the recovered records may still be lost, so no message
            // may rely on them. Senders retransmit.
            _ if !self.active => {}
            Event::Message { from: Node::Master, message } => {
                self.on_master_message(message, effects)
            }
            Event::Message { from: Node::Replica(slot), message } => {
                self.on_peer_message(slot, message, effects);
            }
            Event::Timer(TimerId::InquiryTimeout(txn)) => self.on_inquiry_timeout(txn, effects),
            Event::Timer(TimerId::ReadWait(read)) => self.on_read_wait_timeout(read, effects),
            Event::Timer(_) | Event::Client { .. } | Event::ReadResult { .. } => {
                unreachable!("a replica has no clients and never sets this timer: {event:?}")
            }
        }
    }

    /// Wraps a body into a message from this node, with the fields that every message carries.
    #[must_use]
    pub fn message(&self, body: Body) -> Message {
        Message { store: self.config.store, epoch: self.promised, watermark: self.watermark, body }
    }

    /// The state that monitoring may see.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            node: self.config.node,
            epoch: self.promised,
            incarnation: self.incarnation,
            watermark: self.watermark,
            ready: self.active && self.fenced && !self.halted,
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
        self.deferred.iter_mut().for_each(|(lsn, _)| *lsn -= durable);
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
            if let TxnState::Prepared { prepared_peers, .. } = state {
                *prepared_peers = prepared_peers.renamed(slot);
            }
        }
        for (_, deferred) in &mut this.deferred {
            if let Deferred::Refused { to: Node::Replica(peer), .. }
            | Deferred::Frozen(_, Node::Replica(peer)) = deferred
            {
                *peer = slot(*peer);
            }
        }
        this
    }

    // ---- Recovery ----

    /// Restores the state in the records, and locks the keys of undecided transactions again.
    fn replay(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Promise { epoch } => self.promised = self.promised.max(*epoch),
                Record::Incarnation { incarnation } => {
                    self.incarnation = self.incarnation.max(*incarnation)
                }
                Record::Watermark { watermark } => self.watermark = self.watermark.max(*watermark),
                Record::Member { node: Node::Master, store } => self.master_store = Some(*store),
                Record::Member { .. } | Record::Votes => {}
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
                Record::Epoch { .. } | Record::CommitDecision { .. } | Record::End { .. } => {
                    unreachable!("a replica's store cannot hold {record:?}")
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

    fn replay_abort(&mut self, txn: TxnId, basis: AbortBasis) {
        if !matches!(self.txns.get(&txn), Some(TxnState::Committed { .. })) {
            self.txns.insert(txn, TxnState::Aborted(basis));
        }
    }

    /// Checks that this store may be this replica's; the error is for the operator.
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

    /// INCARNATION is durable: reports to the master, and inquires about every transaction in
    /// doubt.
    fn activate(&mut self, effects: &mut Vec<Effect>) {
        self.active = true;
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

    fn on_persisted(&mut self, lsn: Lsn, effects: &mut Vec<Effect>) {
        assert!(lsn <= self.lsn, "record {lsn} is durable but was never appended");
        let mut acks = Vec::new();
        while let Some((due, _)) = self.deferred.front()
            && *due <= lsn
        {
            let (_, deferred) = self.deferred.pop_front().expect("front() returned it");
            match deferred {
                Deferred::Incarnation => self.activate(effects),
                Deferred::Promise(epoch) if epoch == self.promised => {
                    self.complete_handshake(effects)
                }
                Deferred::Promise(_) => {}
                Deferred::Prepare(txn) => self.on_prepare_durable(txn, effects),
                Deferred::Commit(txn) => {
                    if let Some(TxnState::Committed { durable }) = self.txns.get_mut(&txn) {
                        *durable = true;
                        acks.push(txn);
                    }
                }
                Deferred::Abort { txn, acknowledge } => {
                    let state = self.txns.get_mut(&txn);
                    if let Some(TxnState::Aborted(basis @ AbortBasis::Deciding)) = state {
                        *basis = AbortBasis::Decided;
                    }
                    if acknowledge {
                        acks.push(txn);
                    }
                }
                Deferred::Refused { txn, to, body } => {
                    let state = self.txns.get_mut(&txn);
                    if let Some(TxnState::Aborted(basis @ AbortBasis::Refusing)) = state {
                        *basis = AbortBasis::Refused;
                    }
                    self.send(to, body, effects);
                }
                Deferred::Frozen(txn, asker) => self.on_frozen_durable(txn, asker, effects),
            }
        }
        if !acks.is_empty() && self.config.rules.keep(Rule::AckAfterDurable) {
            self.acknowledge(acks, effects);
        }
    }

    /// PREPARE is durable: votes yes. The transaction is in doubt from now on.
    fn on_prepare_durable(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let Some(state) = self.txns.get_mut(&txn) else { return };
        if let TxnState::Pending { key } = state {
            *state = TxnState::prepared(key.clone());
            self.send(Node::Master, Body::VoteYes { txn }, effects);
        }
    }

    // ---- Messages from the master ----

    fn on_master_message(&mut self, message: Message, effects: &mut Vec<Effect>) {
        let Message { store, epoch, watermark, body } = message;
        let rules = self.config.rules;
        if self.master_store.is_some_and(|known| known != store)
            && rules.keep(Rule::EmptyStoreRefused)
        {
            if !self.warned {
                self.warned = true;
                let known = self.master_store.expect("it is Some in this branch");
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
            self.on_fence(store, epoch, member, commit, effects);
        } else if epoch > self.promised {
            // This master has not fenced the replica yet, so the message was reordered.
            return;
        }
        self.raise_watermark(watermark, effects);
        match body {
            Body::Prepare { txn, write, piggybacked } => {
                self.on_prepare(txn, write, piggybacked, effects)
            }
            Body::Decide { txn, decision } => self.on_decision(txn, decision, effects),
            Body::Pending { txn } => {
                if let Some(TxnState::Prepared { inquiries, .. }) = self.txns.get_mut(&txn) {
                    *inquiries = 0;
                }
            }
            Body::Read { read, key, piggybacked, wait } => {
                for (txn, decision) in piggybacked {
                    self.on_decision(txn, decision, effects);
                }
                if self.serves(&key) {
                    effects.push(Effect::Serve { read, key });
                } else if self.fenced || !rules.keep(Rule::HandshakeBeforeServing) {
                    self.waiting_reads.entry(key).or_default().insert(read);
                    effects.push(Effect::SetTimer { id: TimerId::ReadWait(read), after: wait });
                } else {
                    self.send(Node::Master, Body::NotServing { read }, effects);
                }
            }
            Body::Heartbeat => {
                self.send(Node::Master, Body::Alive { incarnation: self.incarnation }, effects)
            }
            Body::Veto { txn } => self.answer_inquiry(txn, Node::Master, true, effects),
            Body::PeerInquire { txn } => self.answer_inquiry(txn, Node::Master, false, effects),
            // Handled above, or not a message that masters send.
            _ => {}
        }
    }

    /// Handles a master's Fence: promises its epoch durably, then reports the transactions in
    /// doubt.
    fn on_fence(
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
                "the master runs with commit = {commit} and {} with commit = {}: all nodes of a \
                 cluster must use the same mode",
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
        if self.master_store.is_none() {
            self.master_store = Some(store);
            self.append(Record::Member { node: Node::Master, store }, effects);
        }
        if epoch > self.promised {
            self.promised = epoch;
            self.fenced = false;
            let lsn = self.append(Record::Promise { epoch }, effects);
            effects.push(Effect::Force(lsn));
            self.deferred.push_back((lsn, Deferred::Promise(epoch)));
        } else if !self
            .deferred
            .iter()
            .any(|(_, deferred)| matches!(deferred, Deferred::Promise(_)))
        {
            self.complete_handshake(effects);
        }
    }

    /// Completes the handshake. What was pending before PROMISE is prepared by now, so the master
    /// of the new epoch learns about every lock that an earlier epoch left here.
    fn complete_handshake(&mut self, effects: &mut Vec<Effect>) {
        if self.votes_decide() && self.must_wait_for_commits(effects) {
            return;
        }
        self.fenced = true;
        let in_doubt = self.in_doubt().map(|(txn, key)| (txn, key.clone())).collect();
        self.send(Node::Master, Body::FenceOk { incarnation: self.incarnation, in_doubt }, effects);
    }

    fn on_prepare(
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
                    self.txns.insert(txn, TxnState::Aborted(AbortBasis::Voted));
                    return self.send(Node::Master, no, effects);
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

    /// Handles the master's decision, sent by itself or piggybacked on a later message about the
    /// key.
    fn on_decision(&mut self, txn: TxnId, decision: Decision, effects: &mut Vec<Effect>) {
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
    fn acknowledge_abort(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        if !self.config.rules.keep(Rule::AckAfterDurable) {
            return self.acknowledge(vec![txn], effects);
        }
        let due = self.deferred.iter_mut().find_map(|(_, deferred)| match deferred {
            Deferred::Abort { txn: aborted, acknowledge } if *aborted == txn => Some(acknowledge),
            _ => None,
        });
        *due.expect("ABORT is appended and not durable yet") = true;
    }

    // ---- Outcomes ----

    /// Applies a prepared write and unlocks its key, in one step with respect to reads.
    fn commit(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let lsn = self.append(Record::Commit { txn }, effects);
        let state = self.txns.insert(txn, TxnState::Committed { durable: false });
        self.deferred.push_back((lsn, Deferred::Commit(txn)));
        if !self.config.rules.keep(Rule::AckAfterDurable) {
            self.acknowledge(vec![txn], effects);
        }
        let Some(TxnState::Prepared { key, .. }) = state else {
            panic!("{txn} is committed but was not prepared")
        };
        self.unlock(&key, txn, effects);
    }

    fn abort(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let lsn = self.append(Record::Abort { txn }, effects);
        self.deferred.push_back((lsn, Deferred::Abort { txn, acknowledge: false }));
        let state = self.txns.insert(txn, TxnState::Aborted(AbortBasis::Deciding));
        if let Some(key) = state.as_ref().and_then(TxnState::undecided_key) {
            self.unlock(key, txn, effects);
        }
    }

    fn unlock(&mut self, key: &Key, txn: TxnId, effects: &mut Vec<Effect>) {
        if self.locks.get(key) != Some(&txn) {
            let rules = self.config.rules;
            let lost = !rules.keep(Rule::RelockOnRecovery) || !rules.keep(Rule::ReplicaLock);
            assert!(lost, "{txn} unlocks a key that it does not lock");
            return;
        }
        self.locks.remove(key);
        for read in self.waiting_reads.remove(key).unwrap_or_default() {
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

    /// Handles a watermark: every transaction below it is finished at every node.
    fn raise_watermark(&mut self, watermark: TxnId, effects: &mut Vec<Effect>) {
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
        let before = mem::replace(&mut self.watermark, watermark);
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

    // ---- Termination: inquiries and peers ----

    fn on_inquiry_timeout(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let Config { rules, timing, .. } = &self.config;
        let after = timing.inquiry_timeout;
        let mut ask_peers = false;
        match self.txns.get_mut(&txn) {
            Some(TxnState::Pending { .. }) => {}
            Some(TxnState::Prepared { .. }) if !rules.keep(Rule::PreparedWaits) => {
                return self.abort(txn, effects);
            }
            Some(TxnState::Prepared { inquiries, .. }) => {
                ask_peers = *inquiries >= timing.peer_inquiry_after;
                *inquiries = inquiries.saturating_add(1).min(timing.peer_inquiry_after);
                self.send(Node::Master, Body::Inquire { txn }, effects);
            }
            _ => return,
        }
        if ask_peers && (!self.votes_decide() || self.may_ask_peers(txn, effects)) {
            self.ask_peers(txn, effects);
        }
        effects.push(Effect::SetTimer { id: TimerId::InquiryTimeout(txn), after });
    }

    fn ask_peers(&self, txn: TxnId, effects: &mut Vec<Effect>) {
        for peer in self.config.replica_nodes().filter(|peer| *peer != self.config.node) {
            self.send(peer, Body::PeerInquire { txn }, effects);
        }
    }

    fn on_peer_message(&mut self, slot: u8, message: Message, effects: &mut Vec<Effect>) {
        match message.body {
            // The asker prepared the transaction in an epoch that every replica had promised by
            // then. A replica that has not promised it has lost its state and knows nothing.
            Body::PeerInquire { txn } if txn.epoch <= self.promised => {
                self.answer_inquiry(txn, Node::Replica(slot), false, effects);
            }
            Body::PeerAnswer { txn, answer } => {
                let Some(TxnState::Prepared { prepared_peers, .. }) = self.txns.get_mut(&txn)
                else {
                    return;
                };
                match answer {
                    PeerKnowledge::Commit => self.commit(txn, effects),
                    PeerKnowledge::Abort => self.abort(txn, effects),
                    PeerKnowledge::Uncertain if self.config.rules.keep(Rule::NoGuessInDoubt) => {}
                    // In votes mode no replica can veto any more, including this one, which froze
                    // its vote before it asked.
                    PeerKnowledge::Final | PeerKnowledge::Uncertain => {
                        prepared_peers.insert(slot);
                        if prepared_peers.len() == self.config.replicas - 1 {
                            self.commit(txn, effects);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// Answers an inquiry about a transaction, from a node that is in doubt about it, or from a
    /// master whose votes are missing and which wants a veto (`veto`).
    fn answer_inquiry(&mut self, txn: TxnId, by: Node, veto: bool, effects: &mut Vec<Effect>) {
        let answer = match self.txns.get(&txn) {
            Some(TxnState::Committed { .. }) => PeerKnowledge::Commit,
            Some(TxnState::Pending { .. } | TxnState::Prepared { .. }) if self.votes_decide() => {
                return self.answer_in_doubt(txn, by, veto, effects);
            }
            Some(TxnState::Pending { .. } | TxnState::Prepared { .. }) => PeerKnowledge::Uncertain,
            Some(TxnState::Aborted(
                AbortBasis::Deciding | AbortBasis::Decided | AbortBasis::Refused,
            )) => PeerKnowledge::Abort,
            // The asker retransmits; REFUSED is durable by then.
            Some(TxnState::Aborted(AbortBasis::Refusing)) => return,
            // Forgotten. Only because the asker is in doubt can this replica conclude abort: a
            // commit that the asker had not acknowledged would have held the watermark back.
            None if txn < self.watermark => PeerKnowledge::Abort,
            None | Some(TxnState::Aborted(AbortBasis::Voted)) => {
                let answer = PeerKnowledge::Abort;
                if self.config.rules.keep(Rule::RefuseBeforePeerAbort) {
                    return self.refuse(txn, by, Body::PeerAnswer { txn, answer }, effects);
                }
                answer
            }
        };
        self.send(by, Body::PeerAnswer { txn, answer }, effects);
    }

    /// Promises never to prepare a transaction (in votes mode: vetoes it), and sends `body` once
    /// the promise is durable.
    fn refuse(&mut self, txn: TxnId, to: Node, body: Body, effects: &mut Vec<Effect>) {
        let lsn = self.append(Record::Refused { txn }, effects);
        effects.push(Effect::Force(lsn));
        let state = self.txns.insert(txn, TxnState::Aborted(AbortBasis::Refusing));
        self.deferred.push_back((lsn, Deferred::Refused { txn, to, body }));
        if let Some(key) = state.as_ref().and_then(TxnState::undecided_key) {
            self.unlock(key, txn, effects);
        }
    }

    // ---- Reads ----

    /// Whether a read of the key would be served in the current state.
    #[must_use]
    pub fn serves(&self, key: &Key) -> bool {
        let rules = self.config.rules;
        self.active
            && (self.fenced || !rules.keep(Rule::HandshakeBeforeServing))
            && (!self.locks.contains_key(key) || !rules.keep(Rule::ReadsRespectLocks))
    }

    fn on_read_wait_timeout(&mut self, read: ReadId, effects: &mut Vec<Effect>) {
        let waits = self.waiting_reads.iter().find(|(_, reads)| reads.contains(&read));
        let Some(key) = waits.map(|(key, _)| key.clone()) else { return };
        let reads = self.waiting_reads.get_mut(&key).expect("just found");
        reads.remove(&read);
        if reads.is_empty() {
            self.waiting_reads.remove(&key);
        }
        let txn = *self.locks.get(&key).expect("reads wait for locked keys only");
        self.send(Node::Master, Body::Busy { read, txn }, effects);
    }

    // ---- Helpers ----

    fn in_doubt(&self) -> impl Iterator<Item = (TxnId, &Key)> {
        self.txns.iter().filter_map(|(txn, state)| match state {
            TxnState::Prepared { key, .. } => Some((*txn, key)),
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

impl TxnState {
    fn prepared(key: Key) -> Self {
        TxnState::Prepared { key, inquiries: 0, prepared_peers: Replicas::default() }
    }

    /// The key that the transaction locks, if it is pending or prepared.
    fn undecided_key(&self) -> Option<&Key> {
        match self {
            TxnState::Pending { key } | TxnState::Prepared { key, .. } => Some(key),
            TxnState::Committed { .. } | TxnState::Aborted(_) => None,
        }
    }
}
