//! The streams between nodes: who dials whom, who is admitted, and which messages arrive. Does not
//! know what the messages mean.

use std::{
    collections::BTreeMap,
    fmt::Display,
    future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures::{StreamExt as _, stream};
use proto::v1::{self as pb, peer_client::PeerClient};
use tokio::{
    sync::{mpsc, oneshot},
    time,
};
use tonic::{Code, Status, Streaming};

use super::send_buffer::{BatchStream, SendBuffer};
use crate::{
    config::{Address, ClusterConfig},
    connection::Connection,
    excerpt::excerpt,
    meter::Meter,
    protocol::{ClusterId, Message, Node, Record, StoreId},
    store::Limits,
    tls::Tls,
    wire,
};

/// The version of the protocol between nodes. A node talks to none of another version.
///
/// Version 1, of the builds before there were versions, has no greeting and no identities.
const WIRE_VERSION: u32 = 6;
/// The number of batches that may wait for the event loop before senders are held back.
const INBOX_BATCHES: usize = 64;
/// The timeout of a dial.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// The time in which a caller must identify itself.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages that arrived together, and their sender.
pub(super) type InboundBatch = (Node, Vec<Message>);

/// How often refused messages are reported, at most.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);

/// What this node has refused: messages, and with TLS connections and calls. Counts all of them, and reports one in a while: whoever
/// can connect can send any number.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    count: AtomicU64,
    reported: Mutex<Option<Instant>>,
}

impl Refusals {
    /// Counts something that was refused.
    pub(super) fn add(&self, what: impl Display, why: &str) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_none_or(|at| now.duration_since(at) >= REFUSAL_INTERVAL) {
            *reported = Some(now);
            let why = excerpt(why);
            tracing::warn!("refused {what}: {why} ({count} refused in all)");
        }
    }

    /// The number of messages, calls and connections refused since the node started.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// What this node knows about who is who. The state machine learns it, and records it.
#[derive(Debug, Default)]
struct Identities {
    cluster: ClusterId,
    stores: BTreeMap<Node, StoreId>,
}

/// The connections to the other nodes.
pub(super) struct Peers {
    me: Node,
    /// The identity of this node's store.
    store: StoreId,
    cluster: String,
    identities: Mutex<Identities>,
    /// By wire number. None for this node and for nodes that it never exchanges messages with.
    send_buffers: Vec<Option<Arc<SendBuffer>>>,
    inbox: mpsc::Sender<InboundBatch>,
    reconnect: Duration,
    reconnect_max: Duration,
    /// The sizes of keys and values.
    sizes: Limits,
    /// The largest batch that a peer can send: it has to fit into a send buffer.
    batch_bytes_max: usize,
    refusals: Refusals,
    tls: Option<Arc<Tls>>,
}

impl Peers {
    /// Creates the peers of a node, and the queue in which their messages arrive.
    pub(super) fn new(
        me: Node,
        store: StoreId,
        cluster: &ClusterConfig,
        tls: Option<Arc<Tls>>,
    ) -> (Arc<Self>, mpsc::Receiver<InboundBatch>) {
        let (inbox, inbound) = mpsc::channel(INBOX_BATCHES);
        let number = wire::node_to_wire(me);
        let send_buffers = (0..=u32::from(cluster.replica_count()))
            .map(|to| {
                let buffer = || {
                    SendBuffer::new(
                        number,
                        to,
                        cluster.name.clone(),
                        cluster.node.send_buffer_bytes,
                    )
                };
                (to != number).then(|| Arc::new(buffer()))
            })
            .collect();
        let peers = Peers {
            me,
            store,
            cluster: cluster.name.clone(),
            identities: Mutex::default(),
            send_buffers,
            inbox,
            reconnect: Duration::from_millis(cluster.node.reconnect_ms),
            reconnect_max: Duration::from_millis(cluster.node.reconnect_max_ms),
            sizes: Limits { value_bytes_max: cluster.store.max_value_bytes },
            batch_bytes_max: cluster.node.send_buffer_bytes,
            refusals: Refusals::default(),
            tls,
        };
        (Arc::new(peers), inbound)
    }

    /// This node.
    pub(super) fn me(&self) -> Node {
        self.me
    }

    /// Takes over what the state machine knows when the node starts.
    pub(super) fn know(&self, cluster: ClusterId, stores: Vec<(Node, StoreId)>) {
        *self.identities() = Identities { cluster, stores: stores.into_iter().collect() };
    }

    /// Takes over what the state machine has learned, from the record that it appends.
    pub(super) fn learn(&self, record: &Record) {
        match record {
            Record::Member { node, store } => {
                self.identities().stores.insert(*node, *store);
            }
            Record::Cluster { id } => self.identities().cluster = *id,
            _ => {}
        }
    }

    fn identities(&self) -> MutexGuard<'_, Identities> {
        // No code panics while the identities are inconsistent.
        self.identities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the certificate of this node expires, if it has one.
    pub(super) fn certificate_expires(&self) -> Option<SystemTime> {
        self.tls.as_ref().map(|tls| tls.expires())
    }

    /// What this node has refused.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The size of the largest batch that a peer can send.
    pub(super) fn batch_bytes_max(&self) -> usize {
        self.batch_bytes_max
    }

    /// The send buffer for a node, if it is a peer.
    pub(super) fn send_buffer(&self, to: Node) -> Option<&Arc<SendBuffer>> {
        self.send_buffers.get(wire::node_to_wire(to) as usize)?.as_ref()
    }

    /// Every send buffer, with the wire number of its node.
    pub(super) fn send_buffers(&self) -> impl Iterator<Item = (usize, &Arc<SendBuffer>)> {
        self.send_buffers.iter().enumerate().filter_map(|(n, buffer)| Some((n, buffer.as_ref()?)))
    }

    /// Ends every stream, so that its connection can close.
    pub(super) fn close(&self) {
        for (_, buffer) in self.send_buffers() {
            buffer.close();
        }
    }

    /// The nodes that this node dials. Each pair has one stream: the master dials the replicas, and
    /// a replica dials those of higher slots.
    pub(super) fn dialed(&self) -> impl Iterator<Item = Node> {
        let last = self.send_buffers.len() - 1;
        (1..=u8::try_from(last).unwrap_or(u8::MAX)).map(Node::Replica).filter(|to| *to > self.me)
    }

    /// Maintains a stream to a node forever: redials when it ends.
    pub(super) async fn maintain_stream(self: Arc<Self>, to: Node, address: Address) {
        let mut wait = self.reconnect;
        let mut reported = String::new();
        loop {
            match self.dial(to, &address).await {
                Ok(()) => {
                    tracing::info!("{to} at {address} closed the stream");
                    wait = self.reconnect;
                    reported.clear();
                }
                Err(status) if status.code() == Code::FailedPrecondition => {
                    // Needs the operator, so do not retry fast.
                    let why = excerpt(status.message());
                    tracing::warn!("{to} at {address} and this node refuse each other: {why}");
                    wait = self.reconnect_max;
                }
                Err(status) => {
                    let why = excerpt(status.message());
                    if why == reported {
                        tracing::debug!("still no stream to {to} at {address}: {why}");
                    } else {
                        tracing::warn!("no stream to {to} at {address}: {why}");
                        reported = why;
                    }
                }
            }
            time::sleep(wait).await;
            wait = (wait * 2).min(self.reconnect_max);
        }
    }

    async fn dial(&self, to: Node, address: &Address) -> Result<(), Status> {
        let buffer = self.send_buffer(to).ok_or_else(|| Status::internal("not a peer"))?;
        let connection =
            time::timeout(DIAL_TIMEOUT, Connection::open(address, self.tls.as_deref(), Some(to)))
                .await
                .map_err(|_| Status::unavailable("the peer does not answer"))?
                .map_err(|error| Status::unavailable(error.to_string()))?;
        // Messages follow the greeting only when the node at the other end has identified itself.
        let (identified, stream) = oneshot::channel::<BatchStream>();
        let messages = stream::once(stream).filter_map(|stream| future::ready(stream.ok()));
        let greeting = buffer.greeting(self.greeting());
        let outgoing = stream::once(future::ready(greeting)).chain(messages.flatten());
        let mut peer = PeerClient::with_origin(connection.request_handle(), connection.origin())
            .max_decoding_message_size(self.batch_bytes_max);
        let mut incoming = peer.exchange(Box::pin(outgoing)).await?.into_inner();
        let greeting = incoming
            .message()
            .await?
            .ok_or_else(|| Status::cancelled("the peer closed the stream"))?;
        self.check(&greeting, Some(to))?;
        self.check_greeting(&greeting, to)?;
        let stream = buffer.attach(connection.meter().clone(), None);
        let _detach = stream.detach_guard();
        // If the call has ended already, so will `receive`.
        let _ = identified.send(stream);
        tracing::info!("stream to {to} at {address} established");
        self.deliver(to, greeting).await?;
        // The stream was established, however it ends.
        self.receive(to, incoming).await;
        Ok(())
    }

    /// Admits a caller, or refuses it with the reason. A separate task then receives its messages. `certified` is the
    /// node that the caller's certificate names, if it has one.
    pub(super) async fn accept(
        self: &Arc<Self>,
        mut incoming: Streaming<pb::Batch>,
        meter: Arc<Meter>,
        certified: Option<Node>,
    ) -> Result<BatchStream, Status> {
        let greeting = time::timeout(GREETING_TIMEOUT, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the caller did not identify itself"))??
            .ok_or_else(|| Status::invalid_argument("the caller did not identify itself"))?;
        let (from, buffer) = self.admit(&greeting, certified).inspect_err(|status| {
            self.refusals.count.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("refused a caller: {}", excerpt(status.message()));
        })?;
        let stream = buffer.attach(meter, Some(buffer.greeting(self.greeting())));
        let detach = stream.detach_guard();
        tracing::info!("stream from {from} established");
        let peers = self.clone();
        tokio::spawn(async move {
            let _detach = detach;
            match peers.deliver(from, greeting).await {
                Ok(()) => peers.receive(from, incoming).await,
                Err(status) => {
                    tracing::warn!("malformed message from {from}: {}", excerpt(status.message()));
                }
            }
        });
        Ok(stream)
    }

    async fn receive(&self, from: Node, mut incoming: Streaming<pb::Batch>) {
        loop {
            let taken = match incoming.message().await {
                Ok(None) => return,
                Ok(Some(batch)) => match self.check(&batch, Some(from)) {
                    Ok(_) => self.deliver(from, batch).await,
                    Err(status) => Err(status),
                },
                Err(status) => {
                    tracing::debug!("stream with {from} failed: {}", excerpt(&status.to_string()));
                    return;
                }
            };
            if let Err(status) = taken {
                tracing::warn!("closed the stream with {from}: {}", excerpt(status.message()));
                return;
            }
        }
    }

    /// The caller and its send buffer, if its greeting says what only the node can know that it claims
    /// to be. If this node does not know the caller's store yet, it takes no stream away from another. A caller with a
    /// certificate speaks as the node that it names, and as no other.
    fn admit(
        &self,
        greeting: &pb::Batch,
        certified: Option<Node>,
    ) -> Result<(Node, &Arc<SendBuffer>), Status> {
        let from = self.check(greeting, None)?;
        if let Some(certified) = certified.filter(|node| *node != from) {
            return Err(Status::permission_denied(format!(
                "the caller has the certificate of {certified}, and says that it is {from}"
            )));
        }
        let store = self.check_greeting(greeting, from)?;
        let buffer = self.send_buffer(from).ok_or_else(|| Status::internal("not a peer"))?;
        match self.identities().stores.get(&from) {
            Some(known) if *known != store => Err(Status::failed_precondition(format!(
                "this {} belongs to a cluster whose {from} has another store",
                self.me
            ))),
            None if buffer.is_attached() => Err(Status::failed_precondition(format!(
                "{} has a stream with {from} already, and does not know yet whose store is whose",
                self.me
            ))),
            _ => Ok((from, buffer)),
        }
    }

    /// How this node identifies itself.
    fn greeting(&self) -> pb::Greeting {
        pb::Greeting {
            wire_version: WIRE_VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            store: self.store.0,
            cluster_id: self.identities().cluster.0,
        }
    }

    /// Checks that the sender of a greeting speaks this version and is of this cluster. Returns its
    /// store, which it still has to prove.
    fn check_greeting(&self, batch: &pb::Batch, from: Node) -> Result<StoreId, Status> {
        // Builds of the first version send none.
        let greeting = batch.greeting.clone().unwrap_or_default();
        let version = greeting.wire_version.max(1);
        if version != WIRE_VERSION {
            let older = if version < WIRE_VERSION { from } else { self.me };
            let program = match excerpt(&greeting.program) {
                program if program.is_empty() => String::new(),
                program => format!(" (program {program})"),
            };
            return Err(Status::failed_precondition(format!(
                "{from}{program} speaks wire version {version} and {} (program {}) speaks \
                 {WIRE_VERSION}: upgrade {older}",
                self.me,
                env!("CARGO_PKG_VERSION")
            )));
        }
        let (cluster, known) = (ClusterId(greeting.cluster_id), self.identities().cluster);
        if cluster != known && !cluster.is_unknown() && !known.is_unknown() {
            return Err(Status::failed_precondition(format!(
                "{from} and {} are of different clusters, both called '{}'",
                self.me, self.cluster
            )));
        }
        Ok(StoreId(greeting.store))
    }

    /// The sender of a batch, if it may send to this node.
    fn check(&self, batch: &pb::Batch, expected: Option<Node>) -> Result<Node, Status> {
        if batch.cluster != self.cluster {
            return Err(Status::failed_precondition(format!(
                "this is {} of cluster '{}', not of cluster '{}'",
                self.me,
                self.cluster,
                excerpt(&batch.cluster)
            )));
        }
        let from = wire::node_from_wire(batch.from).map_err(malformed)?;
        let to = wire::node_from_wire(batch.to).map_err(malformed)?;
        if to != self.me {
            return Err(Status::failed_precondition(format!(
                "this is {}, but {from} expects {to}: the configurations differ",
                self.me
            )));
        }
        let allowed = match expected {
            Some(expected) => from == expected,
            // Nodes that dial this one.
            None => from < self.me && self.send_buffer(from).is_some(),
        };
        if !allowed {
            return Err(Status::failed_precondition(format!(
                "{from} must not connect to {}: the configurations differ",
                self.me
            )));
        }
        Ok(from)
    }

    async fn deliver(&self, from: Node, mut batch: pb::Batch) -> Result<(), Status> {
        if batch.envelopes.is_empty() {
            return Ok(());
        }
        wire::expand(&mut batch.envelopes);
        let messages = batch.envelopes.into_iter().map(wire::from_wire);
        let mut messages = messages.collect::<Result<Vec<_>, _>>().map_err(malformed)?;
        messages.retain(|message| {
            let checked = wire::check_bounds(message, &self.sizes);
            let refused =
                |why: &String| self.refusals.add(format_args!("a message from {from}"), why);
            checked.inspect_err(refused).is_ok()
        });
        // If the queue is full, flow control of the stream holds the sender back.
        let gone = |_| Status::unavailable("this node is stopping");
        self.inbox.send((from, messages)).await.map_err(gone)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(error: wire::Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}
