//! The environment of a node's machine: the store, the peers, the timers and the clients. An append
//! and a reply take place at once. Forces and messages are gathered and handed over together, one
//! force to the store and one batch to each peer. Does not know the machine.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
    time::Duration,
};

use ahash::RandomState;
use proto::v1 as pb;
use tokio::time::{Instant, sleep};

use super::{
    NodeError,
    forces::Forces,
    kv_service::{Held, ResponseHandle},
    limits::Account,
    metrics::ReplyCounts,
    peers::Peers,
    timers::Timers,
};
use crate::{
    hooks::{Crossing, Hit, Hooks, Side},
    protocol::{
        CallId, Effect, Key, Lsn, Message, Node, Record, Reply, TimerId, Value, Version,
        driver::{self, Clients, Environment, Network, Operator, Storage},
    },
    store::{Store, StoreError},
    wire,
};

/// How long a node waits for the kernel to accept its messages before it stops, at a crash point or
/// for good.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// A call that the machine has not answered yet.
pub(super) struct PendingCall {
    pub(super) handle: ResponseHandle,
    pub(super) account: Arc<Account>,
    pub(super) held: Held,
}

/// Everything outside a node's machine.
pub(super) struct NodeEnvironment<'a> {
    pub(super) store: Store,
    pub(super) timers: Timers,
    pub(super) pending_calls: HashMap<CallId, PendingCall, RandomState>,
    pub(super) hooks: Hooks,
    pub(super) forces: Forces,
    pub(super) replies: ReplyCounts,
    peers: &'a Peers,
    /// The time from which timers count.
    pub(super) now: Instant,
    /// The greatest force that was not handed over, or 0.
    force: Lsn,
    /// The messages that were not handed over, by wire number of their receiver.
    messages: Vec<Vec<pb::Envelope>>,
    /// The keys whose entries were found damaged since the start. Each is reported once.
    damaged: HashSet<Key, RandomState>,
}

impl<'a> NodeEnvironment<'a> {
    pub(super) fn new(store: Store, peers: &'a Peers, hooks: Hooks, replicas: u8) -> Self {
        let now = Instant::now();
        NodeEnvironment {
            store,
            timers: Timers::new(now),
            pending_calls: HashMap::default(),
            hooks,
            forces: Forces::default(),
            replies: ReplyCounts::default(),
            peers,
            now,
            force: 0,
            messages: vec![Vec::new(); usize::from(replicas) + 1],
            damaged: HashSet::default(),
        }
    }

    /// Writes the journal if one of these effects takes place at once. What is gathered need not be in
    /// the journal before it is handed over, so an iteration that only serves reads writes once.
    ///
    /// # Errors
    /// The journal cannot be written, so the effects must not be performed.
    pub(super) fn journal_before(&mut self, effects: &[Effect]) -> Result<(), NodeError> {
        let at_once = |effect: &Effect| matches!(effect, Effect::Append(_) | Effect::Reply { .. });
        if effects.iter().any(at_once) { self.hooks.write_journal() } else { Ok(()) }
    }

    /// Hands over the forces and messages that were gathered.
    ///
    /// # Errors
    /// The journal cannot be written. Nothing is handed over.
    pub(super) fn hand_over(&mut self) -> Result<(), NodeError> {
        self.hooks.write_journal()?;
        if self.force > 0 {
            self.forces.begin(self.force, self.now);
            self.store.force(mem::take(&mut self.force));
        }
        for (n, buffer) in self.peers.send_buffers() {
            buffer.send(&mut self.messages[n]);
        }
        Ok(())
    }

    /// Hands over what was gathered, and waits, for a short time, until the kernel has accepted
    /// everything sent so far.
    ///
    /// # Errors
    /// The journal cannot be written. Nothing is handed over.
    pub(super) async fn drain(&mut self) -> Result<(), NodeError> {
        self.hand_over()?;
        let until = Instant::now() + DRAIN_TIMEOUT;
        let accepted = |this: &Self| {
            this.peers.send_buffers().all(|(_, buffer)| buffer.is_drained())
                && this.hooks.replies_accepted()
        };
        while !accepted(self) && Instant::now() < until {
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Stops the process if the armed crash point is hit on this side of a site.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(super) async fn stop_if_hit(
        &mut self,
        side: Side,
        crossing: &Crossing,
    ) -> Result<(), NodeError> {
        match self.hooks.hit(side, crossing) {
            Some(hit) => self.stop_at(hit).await,
            None => Ok(()),
        }
    }

    /// Stops the process at a crash point, once everything sent so far has left it.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(super) async fn stop_at(&mut self, hit: Hit) -> Result<(), NodeError> {
        self.drain().await?;
        hit.stop();
        Ok(())
    }
}

impl Storage for NodeEnvironment<'_> {
    type Error = StoreError;

    fn append(&mut self, record: Record) {
        self.peers.learn(&record);
        self.store.append(record);
    }

    fn force(&mut self, upto: Lsn) {
        self.force = self.force.max(upto);
    }

    fn get(&mut self, key: &Key) -> Result<Option<(Version, Value)>, StoreError> {
        let found = self.store.get(key);
        if let Err(error) = &found
            && Self::is_damaged_entry(error)
            && self.damaged.insert(key.clone())
        {
            let count = self.damaged.len();
            tracing::error!(
                "{error}; gets of it go to other replicas (damaged keys so far: {count})"
            );
        }
        found
    }

    fn is_damaged_entry(error: &StoreError) -> bool {
        matches!(error, StoreError::DamagedEntry { .. })
    }
}

impl Network for NodeEnvironment<'_> {
    fn send(&mut self, to: Node, message: Message) {
        match self.messages.get_mut(wire::node_to_wire(to) as usize) {
            Some(messages) => messages.push(wire::to_wire(message)),
            None => tracing::error!("dropped a message for {to}, which is not a peer: {message:?}"),
        }
    }
}

impl driver::Timers for NodeEnvironment<'_> {
    fn set_timer(&mut self, id: TimerId, after: Duration) {
        self.timers.set(id, self.now, after);
    }
}

impl Clients for NodeEnvironment<'_> {
    fn reply(&mut self, call: CallId, reply: Reply) {
        self.replies.count(&reply);
        if let Some(PendingCall { handle, account, held }) = self.pending_calls.remove(&call) {
            // A client that has disconnected does not get its answer; its transaction proceeded
            // without it.
            if handle.send(reply, held, &account) {
                self.hooks.replied(account.meter.clone());
            }
        }
    }
}

impl Operator for NodeEnvironment<'_> {
    fn warn(&mut self, message: &str) {
        tracing::warn!("{message}");
    }

    fn refused(&mut self, from: Node, why: &str) {
        self.peers.refusals().add(from, why);
    }
}

impl Environment for NodeEnvironment<'_> {}
