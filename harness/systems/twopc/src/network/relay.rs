//! One relay: a server in front of a node, and a stream to that node for each stream that it
//! accepts. Does not know what messages mean.

use std::{io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use proto::v1::{
    self as pb,
    peer_client::PeerClient,
    peer_server::{Peer, PeerServer},
};
use system::{protocol::Node, tls::Role, wire};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};
use tower::service_fn;

use super::{
    Link,
    connections::{self, CertifiedCaller},
    router::Router,
};
use crate::certificates::Certificates;

/// How many batches may wait on a stream before the sender has to wait, as it would without a relay.
const BATCHES: usize = 64;

/// How long to try to connect to a node.
const DIAL_DEADLINE: Duration = Duration::from_secs(2);

/// How long a caller has to identify itself.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// HTTP/2 flow-control window: the same as between nodes.
const WINDOW_BYTES: u32 = 4 << 20;

/// Listens immediately and returns a future that serves until it is dropped. With certificates, callers and the node
/// see TLS, and the relay has the identity of whom it stands for.
pub(super) fn serve(
    router: Arc<Router>,
    node: Node,
    listen: SocketAddr,
    target: SocketAddr,
    certificates: Option<Arc<Certificates>>,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    let listener = socket.listen(64)?;
    let tls = certificates.as_ref().map(|all| all.identity(Role::Node(node)));
    let (accepted, incoming) = connections::queue();
    let endpoint = Endpoint::from_shared(format!("http://{target}"))
        .map_err(io::Error::other)?
        .connect_timeout(DIAL_DEADLINE)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    let relay = Relay { router, node, target, endpoint, certificates };
    let server = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .add_service(PeerServer::new(relay).max_decoding_message_size(usize::MAX))
        .serve_with_incoming(ReceiverStream::new(incoming));
    Ok(async move {
        tokio::select! {
            () = connections::accept(listener, tls, accepted) => {}
            served = server => if let Err(error) = served {
                tracing::error!("the relay in front of {node} failed: {error}");
            }
        }
    })
}

struct Relay {
    router: Arc<Router>,
    node: Node,
    target: SocketAddr,
    endpoint: Endpoint,
    certificates: Option<Arc<Certificates>>,
}

impl Relay {
    /// Connects to the node, as whoever the caller is.
    async fn dial(&self, from: Node) -> Result<Channel, tonic::transport::Error> {
        let Some(certificates) = &self.certificates else { return self.endpoint.connect().await };
        let (tls, node, target) = (certificates.identity(Role::Node(from)), self.node, self.target);
        let connector = service_fn(move |_| {
            let tls = tls.clone();
            async move {
                let stream = TcpStream::connect(target).await?;
                stream.set_nodelay(true)?;
                tls.connect(stream, Some(node)).await.map(TokioIo::new)
            }
        });
        self.endpoint.connect_with_connector(connector).await
    }
}

#[tonic::async_trait]
impl Peer for Relay {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<pb::Batch, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::Batch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let caller = request.extensions().get::<CertifiedCaller>().copied();
        let mut from_caller = request.into_inner();
        let hello = timeout(HELLO_DEADLINE, from_caller.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the caller did not identify itself"))??
            .ok_or_else(|| Status::invalid_argument("the caller did not identify itself"))?;
        let from = wire::node_from_wire(hello.from)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        // The node sees the relay's certificate for the caller, so the relay must not lend it to anybody else.
        if !caller.is_none_or(|caller| caller.may_speak_as(from)) {
            return Err(Status::permission_denied(format!(
                "the caller is not certified as {from}"
            )));
        }
        let channel =
            self.dial(from).await.map_err(|error| Status::unavailable(error.to_string()))?;
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
                () = forward(&router, (from, node), from_caller, to_node, true) => {}
                () = forward(&router, (node, from), from_node, to_caller, false) => {}
                () = disconnected => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(returning).map(Ok))))
    }
}

/// Forwards batches until one end is gone. Messages that wait for a stream follow the hello, which may have passed
/// already: one that came before it would end the stream.
async fn forward(
    router: &Arc<Router>,
    link: Link,
    mut incoming: Streaming<pb::Batch>,
    outgoing: mpsc::Sender<pb::Batch>,
    mut is_greeted: bool,
) {
    if is_greeted {
        router.register(link, &outgoing);
    }
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
        if !is_greeted {
            is_greeted = true;
            router.register(link, &outgoing);
        }
    }
}
