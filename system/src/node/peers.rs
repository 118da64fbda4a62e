//! The streams between nodes: who dials whom, who is let in, and what arrives. Knows nothing of
//! what the messages mean.

use std::{sync::Arc, time::Duration};

use proto::v1::{self as pb, peer_client::PeerClient};
use tokio::{sync::mpsc, time};
use tonic::{Code, Status, Streaming};

use super::outbox::{Link, Outbox};
use crate::{
    config::{Address, ClusterConfig},
    connection::Connection,
    meter::Meter,
    protocol::{Message, Node},
    wire,
};

/// Batches that may wait for the event loop; then the senders wait.
const INBOX_BATCHES: usize = 64;
/// A dial that takes longer is given up and begun anew.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// A caller that has not said who it is after this is sent away.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages that arrived together.
pub(super) type Arrival = (Node, Vec<Message>);

/// The other nodes that this one speaks with.
pub(super) struct Peers {
    me: Node,
    cluster: String,
    /// By the nodes' wire numbers; none for this node and for those that it never speaks with.
    outboxes: Vec<Option<Arc<Outbox>>>,
    inbox: mpsc::Sender<Arrival>,
    reconnect: Duration,
    reconnect_max: Duration,
}

impl Peers {
    /// All peers of a node, and where their messages arrive.
    pub(super) fn new(me: Node, cluster: &ClusterConfig) -> (Arc<Self>, mpsc::Receiver<Arrival>) {
        let (inbox, arrivals) = mpsc::channel(INBOX_BATCHES);
        let number = wire::node_to_wire(me);
        let outboxes = (0..=u32::from(cluster.replica_count()))
            .map(|to| {
                let outbox = || {
                    Outbox::new(number, to, cluster.name.clone(), cluster.node.send_buffer_bytes)
                };
                (to != number).then(|| Arc::new(outbox()))
            })
            .collect();
        let peers = Peers {
            me,
            cluster: cluster.name.clone(),
            outboxes,
            inbox,
            reconnect: Duration::from_millis(cluster.node.reconnect_ms),
            reconnect_max: Duration::from_millis(cluster.node.reconnect_max_ms),
        };
        (Arc::new(peers), arrivals)
    }

    /// This node.
    pub(super) fn me(&self) -> Node {
        self.me
    }

    /// The outbox for a node, if it is a peer.
    pub(super) fn outbox(&self, to: Node) -> Option<&Arc<Outbox>> {
        self.outboxes.get(wire::node_to_wire(to) as usize)?.as_ref()
    }

    /// Every outbox, with its node's wire number.
    pub(super) fn outboxes(&self) -> impl Iterator<Item = (usize, &Arc<Outbox>)> {
        self.outboxes.iter().enumerate().filter_map(|(n, outbox)| Some((n, outbox.as_ref()?)))
    }

    /// Ends every stream, so that its connection can end.
    pub(super) fn hang_up(&self) {
        for (_, outbox) in self.outboxes() {
            outbox.close();
        }
    }

    /// The nodes that this one dials, so that each pair has one stream: the master dials the
    /// replicas, a replica those of higher slots.
    pub(super) fn dialed(&self) -> impl Iterator<Item = Node> {
        let last = self.outboxes.len() - 1;
        (1..=u8::try_from(last).unwrap_or(u8::MAX)).map(Node::Replica).filter(|to| *to > self.me)
    }

    /// Keeps a stream to a node, for ever.
    pub(super) async fn keep(self: Arc<Self>, to: Node, address: Address) {
        let mut wait = self.reconnect;
        let mut told = String::new();
        loop {
            match self.dial(to, &address).await {
                Ok(()) => {
                    tracing::info!("{to} at {address} has hung up");
                    wait = self.reconnect;
                    told.clear();
                }
                Err(status) if status.code() == Code::FailedPrecondition => {
                    // Needs a person; a higher pace would not bring one sooner.
                    let why = status.message();
                    tracing::warn!("{to} at {address} refuses this node: {why}");
                    wait = self.reconnect_max;
                }
                Err(status) => {
                    let why = status.message().to_owned();
                    if why == told {
                        tracing::debug!("still no stream to {to} at {address}: {why}");
                    } else {
                        tracing::warn!("no stream to {to} at {address}: {why}");
                        told = why;
                    }
                }
            }
            time::sleep(wait).await;
            wait = (wait * 2).min(self.reconnect_max);
        }
    }

    async fn dial(&self, to: Node, address: &Address) -> Result<(), Status> {
        let outbox = self.outbox(to).ok_or_else(|| Status::internal("no peer"))?;
        let connection = time::timeout(DIAL_TIMEOUT, Connection::open(address))
            .await
            .map_err(|_| Status::unavailable("no answer"))?
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let link = outbox.attach(connection.meter().clone());
        let _unlink = link.hook();
        let mut peer = PeerClient::with_origin(connection.courier(), connection.origin())
            .max_decoding_message_size(usize::MAX);
        let mut arriving = peer.exchange(link).await?.into_inner();
        tracing::info!("stream to {to} at {address}");
        let greeting = arriving.message().await?.ok_or_else(|| Status::cancelled("hung up"))?;
        self.check(&greeting, Some(to))?;
        self.take(to, greeting).await?;
        // From here on it was a stream, however it ends.
        self.receive(to, arriving).await;
        Ok(())
    }

    /// Lets a caller in, or says why not; what it sends is then taken in by a task of its own.
    pub(super) async fn accept(
        self: &Arc<Self>,
        mut arriving: Streaming<pb::Batch>,
        meter: Arc<Meter>,
    ) -> Result<Link, Status> {
        let greeting = time::timeout(GREETING_TIMEOUT, arriving.message())
            .await
            .map_err(|_| Status::deadline_exceeded("nobody has said who calls"))??
            .ok_or_else(|| Status::invalid_argument("nobody has said who calls"))?;
        let from = self.check(&greeting, None).inspect_err(|status| {
            tracing::warn!("a caller is refused: {}", status.message());
        })?;
        let outbox = self.outbox(from).ok_or_else(|| Status::internal("no peer"))?;
        let link = outbox.attach(meter);
        let unlink = link.hook();
        tracing::info!("stream from {from}");
        let peers = self.clone();
        tokio::spawn(async move {
            let _unlink = unlink;
            match peers.take(from, greeting).await {
                Ok(()) => peers.receive(from, arriving).await,
                Err(status) => tracing::warn!("{from} is not understood: {}", status.message()),
            }
        });
        Ok(link)
    }

    async fn receive(&self, from: Node, mut arriving: Streaming<pb::Batch>) {
        loop {
            let taken = match arriving.message().await {
                Ok(None) => return,
                Ok(Some(batch)) => match self.check(&batch, Some(from)) {
                    Ok(_) => self.take(from, batch).await,
                    Err(status) => Err(status),
                },
                Err(status) => {
                    tracing::debug!("stream with {from} is cut: {status}");
                    return;
                }
            };
            if let Err(status) = taken {
                tracing::warn!("stream with {from} is given up: {}", status.message());
                return;
            }
        }
    }

    /// Who says this, if it is someone who may.
    fn check(&self, batch: &pb::Batch, expected: Option<Node>) -> Result<Node, Status> {
        if batch.cluster != self.cluster {
            return Err(Status::failed_precondition(format!(
                "this is {} of cluster '{}', and not of '{}'",
                self.me, self.cluster, batch.cluster
            )));
        }
        let from = wire::node_from_wire(batch.from).map_err(malformed)?;
        let to = wire::node_from_wire(batch.to).map_err(malformed)?;
        if to != self.me {
            return Err(Status::failed_precondition(format!(
                "this is {}, and not {to}, which {from} wants: the configurations differ",
                self.me
            )));
        }
        let right = match expected {
            Some(expected) => from == expected,
            // Those who dial this node.
            None => from < self.me && self.outbox(from).is_some(),
        };
        if !right {
            return Err(Status::failed_precondition(format!(
                "{from} is not expected here, at {}: the configurations differ",
                self.me
            )));
        }
        Ok(from)
    }

    async fn take(&self, from: Node, mut batch: pb::Batch) -> Result<(), Status> {
        if batch.envelopes.is_empty() {
            return Ok(());
        }
        wire::spread(&mut batch.envelopes);
        let messages = batch.envelopes.into_iter().map(wire::from_wire);
        let messages = messages.collect::<Result<Vec<_>, _>>().map_err(malformed)?;
        // Full, it makes the sender wait, by the flow control of its stream.
        let gone = |_| Status::unavailable("this node is about to end");
        self.inbox.send((from, messages)).await.map_err(gone)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(error: wire::Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}
