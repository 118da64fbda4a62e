//! One relay: a server in front of a node, and a stream to that node for each stream that it
//! accepts. Does not know what messages mean.

use std::{io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use proto::v1::{
    self as pb,
    peer_client::PeerClient,
    peer_server::{Peer, PeerServer},
};
use system::{protocol::Node, wire};
use tokio::{net::TcpSocket, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Endpoint, Server, server::TcpIncoming},
};

use super::{Link, router::Router};

/// How many batches may wait on a stream before the sender has to wait, as it would without a relay.
const BATCHES: usize = 64;

/// How long to try to connect to a node.
const DIAL_DEADLINE: Duration = Duration::from_secs(2);

/// How long a caller has to identify itself.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// HTTP/2 flow-control window: the same as between nodes.
const WINDOW_BYTES: u32 = 4 << 20;

/// Listens immediately and returns a future that serves until it is dropped.
pub(super) fn serve(
    router: Arc<Router>,
    node: Node,
    listen: SocketAddr,
    target: SocketAddr,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    let incoming = TcpIncoming::from(socket.listen(64)?).with_nodelay(Some(true));
    let target = Endpoint::from_shared(format!("http://{target}"))
        .map_err(io::Error::other)?
        .connect_timeout(DIAL_DEADLINE)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    let relay = Relay { router, node, target };
    let server = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .add_service(PeerServer::new(relay).max_decoding_message_size(usize::MAX))
        .serve_with_incoming(incoming);
    Ok(async move {
        if let Err(error) = server.await {
            tracing::error!("the relay in front of {node} failed: {error}");
        }
    })
}

struct Relay {
    router: Arc<Router>,
    node: Node,
    target: Endpoint,
}

#[tonic::async_trait]
impl Peer for Relay {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<pb::Batch, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::Batch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut from_caller = request.into_inner();
        let hello = timeout(HELLO_DEADLINE, from_caller.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the caller did not identify itself"))??
            .ok_or_else(|| Status::invalid_argument("the caller did not identify itself"))?;
        let from = wire::node_from_wire(hello.from)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let channel =
            self.target.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (to_node, outgoing) = mpsc::channel(BATCHES);
        // The channel is new, so the hello is its first message.
        let _ = to_node.send(hello).await;
        let mut peer = PeerClient::new(channel).max_decoding_message_size(usize::MAX);
        let from_node = peer.exchange(ReceiverStream::new(outgoing)).await?.into_inner();
        let (to_caller, returning) = mpsc::channel(BATCHES);
        let router = self.router.clone();
        let node = self.node;
        let disconnected = router.until_disconnected(from);
        tokio::spawn(async move {
            // When one direction ends, so does the other.
            tokio::select! {
                () = forward(&router, (from, node), from_caller, to_node) => {}
                () = forward(&router, (node, from), from_node, to_caller) => {}
                () = disconnected => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(returning).map(Ok))))
    }
}

/// Forwards batches until one end is gone.
async fn forward(
    router: &Arc<Router>,
    link: Link,
    mut incoming: Streaming<pb::Batch>,
    outgoing: mpsc::Sender<pb::Batch>,
) {
    router.register(link, &outgoing);
    loop {
        let mut batch = tokio::select! {
            () = outgoing.closed() => return,
            batch = incoming.message() => match batch {
                Ok(Some(batch)) => batch,
                Ok(None) | Err(_) => return,
            },
        };
        // A batch without messages is a hello.
        let is_hello = batch.envelopes.is_empty();
        router.filter(link, &mut batch);
        if (is_hello || !batch.envelopes.is_empty()) && outgoing.send(batch).await.is_err() {
            return;
        }
    }
}
