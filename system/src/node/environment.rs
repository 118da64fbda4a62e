//! The environment of a node's machine: the store, the peers, the timers and the clients. An append
//! and a reply take place at once. Forces and messages are gathered and handed over together, one
//! force to the store and one batch to each peer. Does not know the machine.

use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
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
        Body, CallId, Effect, Key, KeyRange, Lsn, Message, Mistake, Node, Page, RangeSummary,
        Record, Reply, Rules, TimerId, TxnId, Value, Version,
        driver::{self, Clients, Environment, Network, Operator, Range, Storage},
    },
    store::{PageSize, Store, StoreError, page, range_summary},
    wire,
};

/// How long a node waits for the kernel to accept its messages before it stops, at a crash point or
/// for good.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// What a page may have even if no value may be as long, in bytes. Less than what an answer may have beyond the
/// longest value.
const PAGE_BYTES: usize = 32 << 10;

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
    rules: Rules,
    /// The time from which timers count.
    pub(super) now: Instant,
    /// The greatest force that was not handed over, or 0.
    force: Lsn,
    /// The messages that were not handed over, by wire number of their receiver.
    messages: Vec<Vec<pb::Envelope>>,
    /// The keys whose entries were found damaged, until a peer's copy replaces them. Each is reported once.
    damaged: HashSet<Key, RandomState>,
    pub(super) damage: DamageCounts,
}

/// What became of damaged entries since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DamageCounts {
    pub(super) found: u64,
    pub(super) healed: u64,
    /// Ranges that were read to compare them.
    pub(super) scrubbed: u64,
}

impl<'a> NodeEnvironment<'a> {
    pub(super) fn new(
        store: Store,
        peers: &'a Peers,
        hooks: Hooks,
        replicas: u8,
        rules: Rules,
    ) -> Self {
        let now = Instant::now();
        NodeEnvironment {
            store,
            timers: Timers::new(now),
            pending_calls: HashMap::default(),
            hooks,
            forces: Forces::default(),
            replies: ReplyCounts::default(),
            peers,
            rules,
            now,
            force: 0,
            messages: vec![Vec::new(); usize::from(replicas) + 1],
            damaged: HashSet::default(),
            damage: DamageCounts::default(),
        }
    }

    /// Reports a damaged entry, once.
    pub(super) fn report_damage(&mut self, key: &Key, what: impl Display) {
        if self.damaged.insert(key.clone()) {
            self.damage.found += 1;
            let count = self.damage.found;
            tracing::error!(
                "{what}; gets of it go to other replicas, and one of them is asked for its copy \
                 (damaged keys so far: {count})"
            );
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
        if let Record::Heal { key, version, .. } = &record {
            self.damage.healed += 1;
            self.damaged.remove(key);
            tracing::info!(
                "the damaged entry of key '{key}' is replaced by a copy (version {version})"
            );
        }
        self.store.append(record);
    }

    fn force(&mut self, upto: Lsn) {
        self.force = self.force.max(upto);
    }

    fn get(&mut self, key: &Key) -> Result<Option<(Version, Value)>, StoreError> {
        let found = self.store.get(key);
        if let Err(error) = &found
            && Self::is_damaged_entry(error)
        {
            self.report_damage(key, error);
        }
        found
    }

    fn answer_bytes_max(&self) -> usize {
        self.store.limits().value_bytes_max
    }

    fn page(&mut self, range: &KeyRange) -> Result<Page, StoreError> {
        let size = PageSize {
            entries_max: range.limit as usize,
            bytes_max: self.store.limits().value_bytes_max.max(PAGE_BYTES),
        };
        let found = self.store.page(range.start(), range.to.as_ref(), size);
        if let Err(error @ StoreError::DamagedEntry { key, .. }) = &found {
            self.report_damage(&Key::from(&key[..]), error);
        }
        found.map(page)
    }

    fn damaged_key(error: &StoreError) -> Option<Key> {
        match error {
            StoreError::DamagedEntry { key, .. } => Some(Key::from(&key[..])),
            _ => None,
        }
    }

    fn checkpoint(&mut self, upto: Lsn) -> bool {
        self.store.checkpoint(upto)
    }

    fn summarize(&mut self, range: &Range, below: TxnId) -> Result<RangeSummary, StoreError> {
        let Range { after, upto, rows_max } = range;
        let rows_max = *rows_max as usize;
        self.damage.scrubbed += 1;
        let rows = self.store.summarize(after.as_ref(), upto.as_ref(), rows_max, below)?;
        Ok(range_summary(rows))
    }

    fn is_damaged_entry(error: &StoreError) -> bool {
        matches!(error, StoreError::DamagedEntry { .. })
    }
}

impl Network for NodeEnvironment<'_> {
    fn send(&mut self, to: Node, message: Message) {
        if let Body::VoteYes { txn } = message.body
            && self.rules.makes(Mistake::VoteDropped)
            && txn.seq % 64 == 0
        {
            return;
        }
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
        self.peers.refusals().add(format_args!("a message from {from}"), why);
    }

    fn lost(&mut self, key: &Key, version: Version, found: Option<Version>) {
        let here = found.map_or_else(|| "absent".to_owned(), |found| format!("of version {found}"));
        let what = format_args!(
            "the entry of key '{key}' is lost: it is {here} here, and of version {version} at other replicas"
        );
        self.report_damage(key, what);
    }
}

impl Environment for NodeEnvironment<'_> {}
