//! The state that all relays share: the rules in force, and the stream that serves each link.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use proto::v1 as pb;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use system::{protocol::Node, wire};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{Intercepted, Link, MessageAction, MessageSummary, Pattern};

/// How long a held or delayed message waits for a stream to its receiver. Then it is lost, as every
/// message may be.
const STREAM_DEADLINE: Duration = Duration::from_secs(10);

/// How many intercepted messages of a rule are listed one by one.
const LISTED_MAX: usize = 12;

/// What all relays share.
#[derive(Debug)]
pub(super) struct Router {
    cluster: String,
    /// The number of rules in force. Without any, messages are forwarded without being decoded.
    pub(super) rules: AtomicUsize,
    state: Mutex<State>,
    /// How often the master's streams were ended.
    pub(super) disconnects: watch::Sender<u64>,
}

#[derive(Debug)]
pub(super) struct State {
    rng: ChaCha8Rng,
    pub(super) next_rule: u64,
    /// The rules in force, by number: an older rule sees a message first.
    pub(super) rules: BTreeMap<u64, ActiveRule>,
    /// The stream that serves each link, if any.
    pub(super) streams: BTreeMap<Link, watch::Sender<Option<mpsc::WeakSender<pb::Batch>>>>,
}

/// A rule in force.
#[derive(Debug)]
pub(super) struct ActiveRule {
    pattern: Pattern,
    action: MessageAction,
    skipped: u64,
    pub(super) intercepted: Intercepted,
    pub(super) held: Vec<(Link, pb::Envelope)>,
    /// Publishes the number of intercepted messages.
    counter: watch::Sender<u64>,
}

impl Router {
    pub(super) fn new(cluster: String, rng: ChaCha8Rng) -> Self {
        let (rules, streams) = (BTreeMap::new(), BTreeMap::new());
        Router {
            cluster,
            rules: AtomicUsize::new(0),
            state: Mutex::new(State { rng, next_rule: 0, rules, streams }),
            disconnects: watch::Sender::new(0),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes when a stream dialed by this node must be ended. Only the master's streams are.
    pub(super) fn until_disconnected(
        &self,
        node: Node,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut disconnects = self.disconnects.subscribe();
        async move {
            if node != Node::Master || disconnects.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// Makes this stream the one that serves a link.
    pub(super) fn register(&self, link: Link, stream: &mpsc::Sender<pb::Batch>) {
        let mut state = self.lock();
        let stream = stream.downgrade();
        state
            .streams
            .entry(link)
            .or_insert_with(|| watch::Sender::new(None))
            .send_replace(Some(stream));
    }

    /// Applies the rules to a batch: removes from it the messages that must not pass now.
    pub(super) fn filter(self: &Arc<Self>, link: Link, batch: &mut pb::Batch) {
        if self.rules.load(Ordering::Acquire) == 0 {
            return;
        }
        wire::expand(&mut batch.envelopes);
        let mut state = self.lock();
        let State { rng, rules, .. } = &mut *state;
        batch.envelopes.retain(|envelope| {
            let Some(summary) = MessageSummary::of(link.0, link.1, envelope) else { return true };
            let mut rules = rules.values_mut();
            let Some(rule) = rules.find_map(|rule| rule.matches(&summary, rng).then_some(rule))
            else {
                return true;
            };
            rule.count(summary);
            match &rule.action {
                MessageAction::Drop => false,
                MessageAction::Hold => {
                    rule.held.push((link, envelope.clone()));
                    false
                }
                MessageAction::HoldCopy => {
                    rule.held.push((link, envelope.clone()));
                    true
                }
                MessageAction::Delay(by) => {
                    self.send_later(link, envelope.clone(), rng.random_range(by.clone()));
                    false
                }
                MessageAction::Repeat(by) => {
                    self.send_later(link, envelope.clone(), rng.random_range(by.clone()));
                    true
                }
            }
        });
    }

    fn send_later(self: &Arc<Self>, link: Link, envelope: pb::Envelope, delay: Duration) {
        let router = self.clone();
        tokio::spawn(async move {
            sleep(delay).await;
            router.send(link, envelope).await;
        });
    }

    /// Sends a message on the stream that serves its link, as soon as there is one.
    pub(super) async fn send(&self, link: Link, envelope: pb::Envelope) {
        let mut streams = {
            let mut state = self.lock();
            state.streams.entry(link).or_insert_with(|| watch::Sender::new(None)).subscribe()
        };
        let sent = async {
            loop {
                let stream =
                    streams.borrow_and_update().as_ref().and_then(mpsc::WeakSender::upgrade);
                if let Some(stream) = stream {
                    let batch = pb::Batch {
                        from: wire::node_to_wire(link.0),
                        to: wire::node_to_wire(link.1),
                        cluster: self.cluster.clone(),
                        envelopes: vec![envelope.clone()],
                        greeting: None,
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
        // After the deadline the message is lost, as every message may be.
        let _ = timeout(STREAM_DEADLINE, sent).await;
    }
}

impl ActiveRule {
    pub(super) fn new(
        pattern: Pattern,
        action: MessageAction,
        counter: watch::Sender<u64>,
    ) -> Self {
        let (intercepted, held) = (Intercepted::default(), Vec::new());
        ActiveRule { pattern, action, skipped: 0, intercepted, held, counter }
    }

    /// Whether the rule applies to a message; counts skipped messages.
    pub(super) fn matches(&mut self, message: &MessageSummary, rng: &mut ChaCha8Rng) -> bool {
        let Pattern { skip, most, share, .. } = self.pattern;
        let exhausted = most.is_some_and(|most| self.intercepted.messages >= most);
        if exhausted || !self.pattern.describes(message) {
            return false;
        }
        if self.skipped < skip {
            self.skipped += 1;
            return false;
        }
        share >= 1.0 || rng.random_bool(share)
    }

    /// Counts an intercepted message.
    pub(super) fn count(&mut self, message: MessageSummary) {
        let Intercepted { messages, kinds, first } = &mut self.intercepted;
        *messages += 1;
        *kinds.entry(message.kind).or_default() += 1;
        if first.len() < LISTED_MAX {
            first.push(message);
        }
        self.counter.send_replace(*messages);
    }
}
