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

mod freeze;
mod healing;
mod identity;
mod membership;
mod queries;
mod reads;
mod recovery;
mod scrub;
mod termination;
mod transactions;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{
    Body, ClusterId, CommitMode, Config, Decision, Effect, Event, HaltKind, HealId, Key, KeyRange,
    Lsn, Message, Mistake, NoReason, Node, Nonce, Page, PeerKnowledge, Query, RangeSummary, ReadId,
    Record, Replicas, Rule, ScrubId, Snapshot, Status, StoreId, TimerId, TxnId, Value, Version,
    Write, bounds, record,
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
    /// The nonce of the promised epoch's master.
    promised_nonce: Nonce,
    /// The identity of the cluster, once a master has told it.
    cluster: ClusterId,
    /// The stores of all replicas, in the order of the slots, as the master has named them.
    stores: Vec<Option<StoreId>>,
    /// The greatest transaction whose PREPARE has been durable here.
    voted: TxnId,
    /// The number of commits that are appended here.
    commits: u64,
    /// The number of commits that are durable here.
    durable_commits: u64,
    /// The greatest number of decided commits that a master or another replica has told.
    decisions: u64,
    /// The handshake of the promised epoch is complete in this incarnation.
    fenced: bool,
    /// The master's store, once a master has fenced this replica.
    master_store: Option<StoreId>,
    /// The operator has been warned about a master with a different store.
    warned: bool,
    /// How long the oldest force has been under way.
    force_age: Duration,
    /// The greatest watermark received.
    watermark: TxnId,
    txns: BTreeMap<TxnId, TxnState>,
    /// The transaction that locks each locked key.
    locks: BTreeMap<Key, TxnId>,
    /// Reads that wait for a locked key, of one key and of several.
    waiting_reads: BTreeMap<Key, BTreeSet<ReadId>>,
    /// Of the reads in progress, those of several keys.
    queries: BTreeMap<ReadId, queries::OpenQuery>,
    /// Work that waits for a record to become durable, in the order of the records.
    deferred: VecDeque<(Lsn, Deferred)>,
    /// Votes mode only: which yes votes are final.
    frozen: freeze::Frozen,
    /// The store has no room for further values.
    full: bool,
    /// The damaged entries that were found and are not replaced yet.
    healing: healing::Healing,
    /// How far the comparison with the peers has come.
    scrub: scrub::Scrub,
}

/// The sender of a master's message, as the message has it.
struct Master {
    cluster: ClusterId,
    store: StoreId,
    epoch: u64,
    nonce: Nonce,
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
    /// HEAL of the damaged entry of this key and detection: serve the key again.
    Heal(Key, u64),
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
    pub(super) fn recover(config: Config, records: &[Record]) -> (Self, Vec<Effect>) {
        assert!(config.node != Node::Master, "a participant runs at a replica");
        let mut effects = Vec::new();
        let mut this = Participant {
            lsn: 0,
            incarnation: 0,
            active: false,
            halted: false,
            promised: 0,
            promised_nonce: 0,
            cluster: ClusterId::default(),
            stores: vec![None; usize::from(config.replicas)],
            voted: TxnId::default(),
            commits: 0,
            durable_commits: 0,
            decisions: 0,
            fenced: false,
            master_store: None,
            warned: false,
            force_age: Duration::ZERO,
            watermark: TxnId::default(),
            txns: BTreeMap::new(),
            locks: BTreeMap::new(),
            waiting_reads: BTreeMap::new(),
            queries: BTreeMap::new(),
            deferred: VecDeque::new(),
            frozen: freeze::Frozen::default(),
            full: false,
            healing: healing::Healing::default(),
            scrub: scrub::Scrub::default(),
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
    pub(super) fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        if let Event::ReadResult { read, found } = event {
            let before = |version: TxnId| TxnId::new(version.epoch, version.seq.saturating_sub(1));
            let is_wrong = self.config.rules.makes(Mistake::VersionBefore);
            let version = |version| if is_wrong { before(version) } else { version };
            let found = found.map(|(tells, value)| (version(tells), value));
            // Even if the step that served the read has halted the machine: the read came first.
            return self.send(Node::Master, Body::Value { read, found }, effects);
        }
        if let Event::KeysRead { read, found } = event {
            return self.on_keys_read(read, found, effects);
        }
        if let Event::PageRead { read, page } = event {
            return self.on_page_read(read, page, effects);
        }
        if let Event::ReadFailed { read, .. } = event {
            self.queries.remove(&read);
            // Another replica has a good copy: all of them hold the same writes.
            self.send(Node::Master, Body::NotServing { read }, effects);
        }
        if let Event::Copied { to, heal, key, found } = event {
            return self.send(to, Body::HealAnswer { heal, key, found }, effects);
        }
        if self.halted {
            return;
        }
        match event {
            Event::Persisted(lsn) => self.on_persisted(lsn, effects),
            Event::ForceAge(age) => self.force_age = age,
            Event::Room { full } => self.full = full,
            // Before INCARNATION is durable the recovered records may still be lost, so no message
            // may rely on them. Senders retransmit.
            _ if !self.active => {}
            Event::Message { from: Node::Master, message } => {
                self.on_master_message(message, effects);
            }
            Event::Message { from: Node::Replica(slot), message } => {
                self.on_peer_message(slot, message, effects);
            }
            Event::Leave => {
                // From now on the machine is silent, so that the master does not take it for live.
                let incarnation = self.incarnation;
                self.send(Node::Master, Body::Leaving { incarnation }, effects);
                self.halted = true;
            }
            Event::Timer(TimerId::InquiryTimeout(txn)) => self.on_inquiry_timeout(txn, effects),
            Event::Timer(TimerId::ReadWait(read)) => self.on_read_wait_timeout(read, effects),
            Event::Timer(TimerId::Heal) => self.on_heal_timeout(effects),
            Event::Timer(TimerId::Scrub) => self.on_scrub_timer(effects),
            Event::ReadFailed { key: Some(key), .. } => {
                self.on_damaged(key, Version::default(), effects);
            }
            Event::Damaged { key } => {
                self.on_damaged(key.clone(), Version::default(), effects);
                self.scrub_met_damage(key);
            }
            Event::Checkpointed { upto } => self.on_checkpointed(upto, effects),
            Event::Summarized { scrub, by, below, summary } => {
                self.on_summarized(scrub, by, below, summary, effects);
            }
            Event::Checked { key, version, found } => {
                self.on_checked(key, version, found, effects);
            }
            Event::ReadFailed { key: None, .. } => {}
            Event::Timer(_)
            | Event::Client { .. }
            | Event::ReadResult { .. }
            | Event::KeysRead { .. }
            | Event::PageRead { .. }
            | Event::Copied { .. } => {
                unreachable!("a replica has no clients and never sets this timer: {event:?}")
            }
        }
    }

    /// Wraps a body into a message from this node, with the fields that every message carries.
    fn message(&self, body: Body) -> Message {
        Message {
            cluster: self.cluster,
            store: self.config.store,
            epoch: self.promised,
            nonce: self.promised_nonce,
            watermark: self.watermark,
            decisions: self.decisions,
            body,
        }
    }

    /// The state that monitoring may see.
    pub(super) fn status(&self) -> Status {
        Status {
            node: self.config.node,
            epoch: self.promised,
            incarnation: self.incarnation,
            watermark: self.watermark,
            ready: self.active && self.fenced && !self.halted && !self.is_stalled(),
            live: Vec::new(),
            force_age: self.force_age,
            stalled: Vec::new(),
            scrubs: self.scrub.rounds,
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
        self.scrub.rebase(durable);
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
        for (old, id) in (1..).zip(&self.stores) {
            this.stores[usize::from(slot(old)) - 1] = id.map(store);
        }
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
        this.scrub.rename(slot);
        this
    }

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
                    self.complete_handshake(effects);
                }
                Deferred::Promise(_) => {}
                Deferred::Prepare(txn) => self.on_prepare_durable(txn, effects),
                Deferred::Commit(txn) => {
                    self.durable_commits += u64::from(self.counts_commits());
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
                Deferred::Heal(key, n) => self.on_heal_durable(&key, n),
            }
        }
        if !acks.is_empty() && self.config.rules.keep(Rule::AckAfterDurable) {
            self.acknowledge(acks, effects);
        }
    }

    fn on_master_message(&mut self, message: Message, effects: &mut Vec<Effect>) {
        let far_ahead = self.is_far_ahead(&message);
        let Message { cluster, store, epoch, nonce, watermark, decisions, body } = message;
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
        if let Some(why) = self.contradicts_promise(cluster, epoch, nonce) {
            if cluster == self.cluster {
                // The answer says which promise this replica keeps.
                self.send(Node::Master, Body::Stale { promised: self.promised }, effects);
            }
            return effects.push(bounds::refuse(Node::Master, why));
        }
        let prepares = matches!(body, Body::Prepare { .. });
        if epoch < self.promised && (rules.keep(Rule::EpochCheck) || !prepares) {
            self.send(Node::Master, Body::Stale { promised: self.promised }, effects);
            return;
        }
        if bounds::is_epoch_too_far_ahead(epoch, self.promised) || far_ahead {
            // No master can have come that far since this replica last heard one.
            let why = format!("epoch {epoch} or a transaction in it is too far ahead");
            return effects.push(bounds::refuse(Node::Master, &why));
        }
        if let Body::Fence { .. } = body {
            self.on_fence(Master { cluster, store, epoch, nonce }, &body, effects);
        }
        if epoch > self.promised {
            // This master has not fenced the replica yet: the message was reordered, or it is a
            // Fence that does not name this store.
            return;
        }
        let obeys = self.obeys();
        if obeys {
            self.hear_decisions(decisions);
            self.raise_watermark(watermark, effects);
        }
        match body {
            Body::Heartbeat => {
                self.send(Node::Master, self.alive(), effects);
            }
            Body::Read { read, key, piggybacked, wait } => {
                for (txn, decision) in piggybacked.into_iter().filter(|_| obeys) {
                    self.on_decision(txn, decision, effects);
                }
                self.on_read(read, key, wait, effects);
            }
            Body::Query { read, query, piggybacked, wait } => {
                for (txn, decision) in piggybacked.into_iter().filter(|_| obeys) {
                    self.on_decision(txn, decision, effects);
                }
                self.on_query(read, query, wait, effects);
            }
            // The master repeats it after the handshake.
            _ if !obeys => {}
            Body::Prepare { txn, write, piggybacked } => {
                self.on_prepare(txn, write, piggybacked, effects);
            }
            Body::Decide { txn, decision } => self.on_decision(txn, decision, effects),
            Body::Pending { txn } => {
                if let Some(TxnState::Prepared { inquiries, .. }) = self.txns.get_mut(&txn) {
                    *inquiries = 0;
                }
            }
            Body::Veto { txn } => self.answer_inquiry(txn, Node::Master, true, effects),
            Body::PeerInquire { txn } => self.answer_inquiry(txn, Node::Master, false, effects),
            // Handled above, or not a message that masters send.
            _ => {}
        }
    }

    /// The disk hangs. The master asks for nothing until it goes on.
    fn is_stalled(&self) -> bool {
        self.force_age > self.config.timing.force_age_max
    }

    /// Whether a message names a transaction that no master can have begun since the last one that
    /// this replica knows.
    fn is_far_ahead(&self, message: &Message) -> bool {
        let last = self.txns.last_key_value().map(|(txn, _)| *txn);
        let known = self.watermark.max(last.unwrap_or_default());
        let above = self.config.sequence_above;
        message.watermark_and_txns().any(|txn| bounds::is_too_far_ahead(txn, known, above))
    }

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
