//! The network between the nodes of a run, in the harness's lanes: a relay before each replica that
//! speaks the peers' protocol, forwards what it is given, and does to the messages that match a
//! [`Pattern`] what it was told to. Rewrites nothing. Knows what messages look like; nothing of why
//! one is struck.
//!
//! Nodes find the relays' addresses in their configuration and listen at addresses of their own. A
//! stream through a relay is two streams, joined: when one side ends, so does the other. What is
//! held back belongs to no stream: it waits in its [`InterceptRule`] and goes out, when it is released, by
//! whichever stream then leads to its receiver.

mod pattern;
mod relay;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    future::pending,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proto::v1 as pb;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use system::{
    protocol::{Message, Node},
    wire,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

pub use self::pattern::{Deed, Pattern, Seen, Way};

/// A message that was held or delayed waits this long for a stream to its receiver; then it is
/// lost, as messages may be.
const STREAM_DEADLINE: Duration = Duration::from_secs(10);

/// So many of the messages that a snare has caught are told one by one.
const TOLD_MAX: usize = 12;

/// The relays of a run. Dropping it closes them.
#[derive(Debug)]
pub struct Network {
    switch: Arc<Switch>,
    _relays: JoinSet<()>,
}

/// What all relays share.
#[derive(Debug)]
struct Switch {
    cluster: String,
    /// How many snares are laid: with none, messages are forwarded unseen.
    laid: AtomicUsize,
    state: Mutex<State>,
    /// How often the streams of the master were ended.
    hung_up: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    rng: ChaCha8Rng,
    next: u64,
    /// The snares by number: an earlier one sees a message first.
    snares: BTreeMap<u64, Laid>,
    /// The stream that leads from one node to another, if any.
    ways: BTreeMap<Way, watch::Sender<Option<mpsc::WeakSender<pb::Batch>>>>,
}

#[derive(Debug)]
struct Laid {
    pattern: Pattern,
    deed: Deed,
    skipped: u64,
    struck: Struck,
    held: Vec<(Way, pb::Envelope)>,
    /// Told of each message that is caught.
    caught: watch::Sender<u64>,
}

/// What a snare has caught.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Struck {
    /// How many messages.
    pub messages: u64,
    /// How many of each kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// The first of them.
    pub first: Vec<Seen>,
}

/// A pattern that is in force until it is lifted, or dropped.
#[derive(Debug)]
pub struct InterceptRule {
    switch: Arc<Switch>,
    number: u64,
    caught: watch::Receiver<u64>,
}

impl Network {
    /// Puts a relay before each of these nodes: it listens at the first address and forwards to the
    /// second. The seed decides what is left to chance in a snare.
    ///
    /// # Errors
    /// An address cannot be listened at.
    pub fn start(
        cluster: String,
        relays: BTreeMap<Node, (SocketAddr, SocketAddr)>,
        seed: u64,
    ) -> io::Result<Self> {
        let state = State {
            rng: ChaCha8Rng::seed_from_u64(seed),
            next: 0,
            snares: BTreeMap::new(),
            ways: BTreeMap::new(),
        };
        let (laid, state) = (AtomicUsize::new(0), Mutex::new(state));
        let hung_up = watch::Sender::new(0);
        let switch = Arc::new(Switch { cluster, laid, state, hung_up });
        let mut running = JoinSet::new();
        for (node, (at, to)) in relays {
            running.spawn(relay::serve(switch.clone(), node, at, to)?);
        }
        Ok(Network { switch, _relays: running })
    }

    /// Does this to the messages that match, from now on.
    #[must_use]
    pub fn lay(&self, pattern: Pattern, deed: Deed) -> InterceptRule {
        let mut state = self.switch.lock();
        let number = state.next;
        state.next += 1;
        let (told, caught) = watch::channel(0);
        let laid = Laid {
            pattern,
            deed,
            skipped: 0,
            struck: Struck::default(),
            held: Vec::new(),
            caught: told,
        };
        state.snares.insert(number, laid);
        self.switch.laid.store(state.snares.len(), Ordering::Release);
        InterceptRule { switch: self.switch.clone(), number, caught }
    }

    /// Ends every stream of the master. Whoever is the master may dial again, and what is to be sent
    /// to it waits until then.
    pub fn hang_up(&self) {
        let mut state = self.switch.lock();
        for ((from, to), stream) in &mut state.ways {
            if [from, to].contains(&&Node::Master) {
                stream.send_replace(None);
            }
        }
        self.switch.hung_up.send_modify(|times| *times += 1);
    }
}

impl InterceptRule {
    /// Waits until a message is caught; says whether one is before the deadline.
    pub async fn springs(&mut self, deadline: Duration) -> bool {
        matches!(timeout(deadline, self.caught.wait_for(|caught| *caught > 0)).await, Ok(Ok(_)))
    }

    /// What was caught so far.
    #[must_use]
    pub fn struck(&self) -> Struck {
        let state = self.switch.lock();
        state.snares.get(&self.number).map(|laid| laid.struck.clone()).unwrap_or_default()
    }

    /// Lets messages pass again and what is held go on, in its order, and waits until it has gone,
    /// or has found no way for so long. What was caught in all.
    pub async fn lift(mut self, patience: Duration) -> Struck {
        let Some((struck, sending)) = self.take() else { return Struck::default() };
        // It goes on by itself if it takes longer.
        let _ = timeout(patience, sending).await;
        struck
    }

    /// Sends on, to be seen arriving once more, the last held message on a way of which this is
    /// true. It stays held. False if there is none, or it finds no stream in time.
    pub async fn deliver(
        &self,
        way: Way,
        which: impl Fn(&Message) -> bool,
        patience: Duration,
    ) -> bool {
        let held = {
            let state = self.switch.lock();
            let held = state.snares.get(&self.number).map(|laid| laid.held.iter().rev());
            let mut on_way = held.into_iter().flatten().filter(|(on, _)| *on == way);
            on_way.find_map(|(_, envelope)| {
                let message = wire::from_wire(envelope.clone()).ok()?;
                which(&message).then(|| envelope.clone())
            })
        };
        let Some(envelope) = held else { return false };
        timeout(patience, self.switch.send(way, envelope)).await.is_ok()
    }

    /// Lets messages pass again, and loses those that are held.
    pub fn discard(self) {
        let mut state = self.switch.lock();
        if let Some(laid) = state.snares.get_mut(&self.number) {
            laid.held.clear();
        }
    }

    fn take(&mut self) -> Option<(Struck, tokio::task::JoinHandle<()>)> {
        let mut state = self.switch.lock();
        let laid = state.snares.remove(&self.number)?;
        self.switch.laid.store(state.snares.len(), Ordering::Release);
        drop(state);
        let switch = self.switch.clone();
        let sending = tokio::spawn(async move {
            for (way, envelope) in laid.held {
                switch.send(way, envelope).await;
            }
        });
        Some((laid.struck, sending))
    }
}

impl Drop for InterceptRule {
    fn drop(&mut self) {
        self.take();
    }
}

impl Switch {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes to its end when a stream that this node has dialed now is to end before its time.
    fn until_hung_up(&self, node: Node) -> impl Future<Output = ()> + Send + 'static {
        let mut times = self.hung_up.subscribe();
        async move {
            if node != Node::Master || times.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// From now on this stream leads along the way.
    fn join(&self, way: Way, stream: &mpsc::Sender<pb::Batch>) {
        let mut state = self.lock();
        let stream = stream.downgrade();
        state
            .ways
            .entry(way)
            .or_insert_with(|| watch::Sender::new(None))
            .send_replace(Some(stream));
    }

    /// Takes out of a batch what is caught.
    fn pass(self: &Arc<Self>, way: Way, batch: &mut pb::Batch) {
        if self.laid.load(Ordering::Acquire) == 0 {
            return;
        }
        wire::expand(&mut batch.envelopes);
        let mut state = self.lock();
        let State { rng, snares, .. } = &mut *state;
        batch.envelopes.retain(|envelope| {
            let Some(seen) = Seen::of(way.0, way.1, envelope) else { return true };
            let mut laid = snares.values_mut();
            let Some(laid) = laid.find_map(|laid| laid.catches(&seen, rng).then_some(laid)) else {
                return true;
            };
            laid.note(seen);
            match &laid.deed {
                Deed::Drop => false,
                Deed::Hold => {
                    laid.held.push((way, envelope.clone()));
                    false
                }
                Deed::HoldCopy => {
                    laid.held.push((way, envelope.clone()));
                    true
                }
                Deed::Delay(by) => {
                    self.send_later(way, envelope.clone(), rng.random_range(by.clone()));
                    false
                }
                Deed::Repeat(by) => {
                    self.send_later(way, envelope.clone(), rng.random_range(by.clone()));
                    true
                }
            }
        });
    }

    fn send_later(self: &Arc<Self>, way: Way, envelope: pb::Envelope, after: Duration) {
        let switch = self.clone();
        tokio::spawn(async move {
            sleep(after).await;
            switch.send(way, envelope).await;
        });
    }

    /// Sends a message by whatever stream leads along its way, once there is one.
    async fn send(&self, way: Way, envelope: pb::Envelope) {
        let mut streams = {
            let mut state = self.lock();
            state.ways.entry(way).or_insert_with(|| watch::Sender::new(None)).subscribe()
        };
        let sent = async {
            loop {
                let stream =
                    streams.borrow_and_update().as_ref().and_then(mpsc::WeakSender::upgrade);
                if let Some(stream) = stream {
                    let batch = pb::Batch {
                        from: wire::node_to_wire(way.0),
                        to: wire::node_to_wire(way.1),
                        cluster: self.cluster.clone(),
                        envelopes: vec![envelope.clone()],
                    };
                    if stream.send(batch).await.is_ok() {
                        return;
                    }
                }
                if streams.changed().await.is_err() {
                    return;
                }
            }
        };
        // Not delivered, it is lost, as every message may be.
        let _ = timeout(STREAM_DEADLINE, sent).await;
    }
}

impl Laid {
    fn catches(&mut self, seen: &Seen, rng: &mut ChaCha8Rng) -> bool {
        let Pattern { skip, most, share, .. } = self.pattern;
        if most.is_some_and(|most| self.struck.messages >= most) || !self.pattern.describes(seen) {
            return false;
        }
        if self.skipped < skip {
            self.skipped += 1;
            return false;
        }
        share >= 1.0 || rng.random_bool(share)
    }

    fn note(&mut self, seen: Seen) {
        let Struck { messages, kinds, first } = &mut self.struck;
        *messages += 1;
        *kinds.entry(seen.kind).or_default() += 1;
        if first.len() < TOLD_MAX {
            first.push(seen);
        }
        self.caught.send_replace(*messages);
    }
}
