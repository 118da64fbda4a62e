//! The canonical form of hosts and messages, for exploration that compares states: everything is
//! removed that no receiver acts on and that no later step depends on, so that equivalent states are
//! equal. Also the renaming of replicas under which states are symmetric.

use std::hash::{Hash, Hasher};

use protocol::{Body, Event, Message, Node, PeerKnowledge, Record, Rule, StoreId, TimerId, TxnId};

use super::{
    ScheduleSetup,
    host::{Process, ScheduleHost},
    panics::catch_panic,
};

/// A node's store id grows by this when its store is replaced.
pub(super) const WIPED: u64 = 1 << 8;

/// The id of the store that a node starts with.
pub(super) fn initial_store(node: Node) -> StoreId {
    StoreId(match node {
        Node::Master => 0,
        Node::Replica(slot) => slot.into(),
    })
}

/// A store id after each replica is given the slot that the renaming maps it to.
pub(crate) fn rename_store(renaming: &[u8], StoreId(id): StoreId) -> StoreId {
    let (slot, wiped) = (id % WIPED, id - id % WIPED);
    let slot = usize::try_from(slot).ok().and_then(|slot| slot.checked_sub(1));
    match slot.and_then(|slot| renaming.get(slot)) {
        Some(new) => StoreId(wiped + u64::from(*new)),
        None => StoreId(id),
    }
}

impl ScheduleHost {
    /// Hashes the host as it would be if each replica had the slot that the renaming maps it to.
    pub fn hash_renamed(&self, renaming: &[u8], hasher: &mut impl Hasher) {
        let slot = |slot: u8| renaming[usize::from(slot) - 1];
        let store_id = |id| rename_store(renaming, id);
        let node = |node| match node {
            Node::Master => node,
            Node::Replica(old) => Node::Replica(slot(old)),
        };
        let record = |record: &Record| match record {
            Record::Member { node: member, store: id } => {
                Record::Member { node: node(*member), store: store_id(*id) }
            }
            Record::Seen { slot: of, seen } => Record::Seen { slot: slot(*of), seen: *seen },
            record => record.clone(),
        };
        (node(self.node()), store_id(self.store_id), self.stopped()).hash(hasher);
        for (process, store) in self.instances() {
            if let Some(Process { machine, timers }) = process {
                machine.renamed(&slot, &store_id).hash(hasher);
                timers.hash(hasher);
            }
            let mut durable: Vec<_> = store.durable().records().map(record).collect();
            durable.sort_unstable();
            durable.hash(hasher);
            store.durable().entries().for_each(|entry| entry.hash(hasher));
            store.durable().damaged().for_each(|key| key.hash(hasher));
            let (inherited, own) = store.tail();
            inherited.iter().map(record).collect::<Vec<_>>().hash(hasher);
            own.iter().map(record).collect::<Vec<_>>().hash(hasher);
        }
    }
}

impl ScheduleSetup {
    /// The messages that a send puts on the network. Replicas that may not inquire of peers do not.
    /// In a canonical setup messages differ only where a receiver acts on the difference:
    ///
    /// - a replica's watermark is removed, and its epoch except in a handshake (an epoch above the
    ///   master's own can only come from a second instance);
    /// - replies that change nothing are not sent;
    /// - each transaction is acknowledged in a message of its own.
    pub(super) fn messages(&self, from: Node, to: Node, mut message: Message) -> Vec<Message> {
        let inquires = matches!(message.body, Body::PeerInquire { .. });
        if !self.peers && inquires && from != Node::Master {
            return Vec::new();
        }
        if !self.canonical {
            return vec![message];
        }
        let second_instances = !self.rules.keep(Rule::ExclusiveStore);
        match &message.body {
            // An inquiry is a yes vote that expects a reply, and the reply "pending" changes nothing
            // if unanswered inquiries are not counted.
            Body::Inquire { txn } if self.timing.peer_inquiry_after == 0 => {
                message.body = Body::VoteYes { txn: *txn };
            }
            Body::Pending { .. } if self.timing.peer_inquiry_after == 0 => return Vec::new(),
            Body::PeerAnswer { answer: PeerKnowledge::Uncertain, .. }
                if self.rules.keep(Rule::NoGuessInDoubt) =>
            {
                return Vec::new();
            }
            Body::Stale { .. } if !second_instances => return Vec::new(),
            _ => {}
        }
        // A healthy store holds all that is known of it, so no receiver acts on these. The simulator
        // checks that.
        match &mut message.body {
            Body::Fence { seen, .. } => *seen = None,
            Body::FenceOk { commits, .. } | Body::Ack { commits, .. } => *commits = 0,
            _ => {}
        }
        if from != Node::Master {
            let handshake = matches!(message.body, Body::FenceOk { .. });
            if !handshake || self.commit.is_logged() {
                message.watermark = TxnId::default();
            }
            if !handshake && (to != Node::Master || !second_instances) {
                message.epoch = 0;
            }
        }
        match &message.body {
            Body::Ack { txns, commits } if txns.len() > 1 => {
                let single = |txn: &TxnId| Message {
                    body: Body::Ack { txns: vec![*txn], commits: *commits },
                    ..message.clone()
                };
                txns.iter().map(single).collect()
            }
            _ => vec![message],
        }
    }
}

/// A timer without the number of its round, which only determines the wait.
pub(super) fn without_round(id: TimerId) -> TimerId {
    match id {
        TimerId::Retransmit { txn, .. } => TimerId::Retransmit { txn, round: 0 },
        id => id,
    }
}

/// Removes the timers whose expiry would do nothing.
pub(super) fn remove_idle_timers(process: &mut Process) {
    let Process { machine, timers } = process;
    timers.retain(|id| {
        let mut after = machine.clone();
        let mut effects = Vec::new();
        let result = catch_panic(|| after.step(Event::Timer(*id), &mut effects));
        result.is_err() || !effects.is_empty() || after != *machine
    });
}
