//! One relay: a server before a node, and for each stream that it accepts a stream to that node.
//! Knows nothing of the messages.

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

use super::{Switch, Way};

/// Batches that may wait on a stream; then the sender waits, as it would without a relay.
const BATCHES: usize = 64;

/// A node that is not reached within this is not there.
const DIAL_DEADLINE: Duration = Duration::from_secs(2);

/// A caller that has not said who it is after this is sent away.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);

/// What HTTP/2 lets be under way: as much as between nodes.
const WINDOW_BYTES: u32 = 4 << 20;

/// Listens at once; the future serves until it is dropped.
pub(super) fn serve(
    switch: Arc<Switch>,
    node: Node,
    at: SocketAddr,
    to: SocketAddr,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    let incoming = TcpIncoming::from(socket.listen(64)?).with_nodelay(Some(true));
    let target = Endpoint::from_shared(format!("http://{to}"))
        .map_err(io::Error::other)?
        .connect_timeout(DIAL_DEADLINE)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    let desk = Desk { switch, node, target };
    let server = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .add_service(PeerServer::new(desk).max_decoding_message_size(usize::MAX))
        .serve_with_incoming(incoming);
    Ok(async move {
        if let Err(error) = server.await {
            tracing::error!("the relay before {node} has failed: {error}");
        }
    })
}

struct Desk {
    switch: Arc<Switch>,
    node: Node,
    target: Endpoint,
}

#[tonic::async_trait]
impl Peer for Desk {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<pb::Batch, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::Batch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut going = request.into_inner();
        let greeting = timeout(GREETING_DEADLINE, going.message())
            .await
            .map_err(|_| Status::deadline_exceeded("nobody has said who calls"))??
            .ok_or_else(|| Status::invalid_argument("nobody has said who calls"))?;
        let from = wire::node_from_wire(greeting.from)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let channel =
            self.target.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (there, gone) = mpsc::channel(BATCHES);
        // The greeting is the first to go, for the channel is new.
        let _ = there.send(greeting).await;
        let mut peer = PeerClient::new(channel).max_decoding_message_size(usize::MAX);
        let coming = peer.exchange(ReceiverStream::new(gone)).await?.into_inner();
        let (back, came) = mpsc::channel(BATCHES);
        let switch = self.switch.clone();
        let node = self.node;
        let hung_up = switch.until_hung_up(from);
        tokio::spawn(async move {
            // Whichever direction ends first, the other ends with it.
            tokio::select! {
                () = forward(&switch, (from, node), going, there) => {}
                () = forward(&switch, (node, from), coming, back) => {}
                () = hung_up => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(came).map(Ok))))
    }
}

/// Forwards what comes until one end is gone.
async fn forward(
    switch: &Arc<Switch>,
    way: Way,
    mut coming: Streaming<pb::Batch>,
    going: mpsc::Sender<pb::Batch>,
) {
    switch.join(way, &going);
    loop {
        let mut batch = tokio::select! {
            () = going.closed() => return,
            batch = coming.message() => match batch {
                Ok(Some(batch)) => batch,
                Ok(None) | Err(_) => return,
            },
        };
        // A batch without messages is a greeting.
        let greets = batch.envelopes.is_empty();
        switch.pass(way, &mut batch);
        if (greets || !batch.envelopes.is_empty()) && going.send(batch).await.is_err() {
            return;
        }
    }
}
