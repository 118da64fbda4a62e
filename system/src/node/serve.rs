//! The services that a node offers, and the connections that they are reached by: what is asked
//! becomes questions to the event loop, and its answers become gRPC answers. Nothing here decides
//! anything about a transaction.

use std::{
    pin::{Pin, pin},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use h2::{RecvStream, server::SendResponse};
use http::Request;
use proto::v1::{
    self as pb,
    inspect_server::{Inspect, InspectServer},
    peer_server::{Peer, PeerServer},
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    http2,
    kv::{self, Call, KvDesk, Method},
    peers::Peers,
};
use crate::{
    config::NodeLimits,
    connection::{self, CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
    meter::{Meter, Metered},
    protocol,
    store::{Entries, Limits, StoreError},
    wire,
};

/// The headers of a request are at most so large, by HTTP/2's way to count them.
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// A part of a dump is sent when it has grown to this.
const DUMP_PART_BYTES: usize = 256 << 10;
/// So many dumps at once. Each keeps what it reads from being reused while it lasts, and takes one
/// of the store's places for readers.
const DUMPS_MAX: usize = 4;
/// A dump whose receiver takes nothing for so long is broken off.
const DUMP_PATIENCE: Duration = Duration::from_secs(30);

/// What an onlooker asks of the event loop.
pub(super) enum Question {
    Status(oneshot::Sender<protocol::Status>),
    Dump(oneshot::Sender<Result<Entries, StoreError>>),
}

/// What all services of a node hold on to.
pub(super) struct Desk {
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) questions: mpsc::Sender<Question>,
    /// Set when no more calls are taken.
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) peers: Arc<Peers>,
    pub(super) limits: NodeLimits,
    pub(super) sizes: Limits,
    pub(super) cluster: String,
}

/// Serves until told to stop, and then until every connection has ended.
pub(super) async fn serve(
    listener: TcpListener,
    desk: Desk,
    health: HealthService,
    stop: impl Future<Output = ()>,
) {
    let is_master = desk.peers.me() == protocol::Node::Master;
    let streams = u32::try_from(desk.limits.max_inflight).unwrap_or(u32::MAX).saturating_add(64);
    let Desk { calls, questions, stopping, peers, limits, sizes, cluster } = desk;
    let kv = is_master.then(|| Arc::new(KvDesk::new(calls, stopping, limits, sizes)));
    let peer = (!is_master)
        .then(|| PeerServer::new(PeerDesk(peers)).max_decoding_message_size(usize::MAX));
    let inspect = InspectDesk { questions, cluster, dumps: Arc::new(Semaphore::new(DUMPS_MAX)) };
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let reflection = reflection.build_v1().expect("the descriptors are those that were compiled");
    let rest = Routes::new(InspectServer::new(inspect))
        .add_service(health)
        .add_service(reflection)
        .prepare();
    let front = Front { kv, peer, rest };
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_concurrent_streams(streams)
        // Clients whose time was up while this process lay still withdraw their calls all at once.
        // By default that ends their connections, as an attack.
        .max_pending_accept_reset_streams(streams as usize);
    let builder = Arc::new(builder);

    let mut stop = pin!(stop);
    let (stopping, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut stop => break,
            stream = accept(&listener) => {
                connections.spawn(keep(builder.clone(), stream, front.clone(), stopped.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop((listener, stopping));
    while connections.join_next().await.is_some() {}
}

/// Serves a connection until it ends, and takes no new calls from it once the node stops.
async fn keep(
    builder: Arc<h2::server::Builder>,
    stream: Metered<TcpStream>,
    front: Front,
    mut stopped: watch::Receiver<()>,
) {
    let meter = stream.meter();
    let stopped = async {
        // Nothing is ever sent: the sender goes.
        let _ = stopped.changed().await;
    };
    let take = |request, respond| front.take(request, respond, &meter);
    if let Err(error) = http2::serve(&builder, stream, take, stopped).await {
        tracing::debug!("a connection has failed: {error}");
    }
}

/// Where requests go.
#[derive(Clone)]
struct Front {
    kv: Option<Arc<KvDesk>>,
    peer: Option<PeerServer<PeerDesk>>,
    rest: Routes,
}

impl Front {
    fn take(
        &self,
        mut request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        meter: &Arc<Meter>,
    ) {
        let path = request.uri().path();
        if let (Some(kv), Some(method)) = (&self.kv, Method::of(path)) {
            kv.take(method, request, respond, meter);
            return;
        }
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        match (service, &self.peer) {
            (Some((PEER, _)), Some(peer)) => {
                request.extensions_mut().insert(meter.clone());
                tokio::spawn(http2::pass(peer.clone(), request, respond));
            }
            _ => {
                tokio::spawn(http2::pass(self.rest.clone(), request, respond));
            }
        }
    }
}

const PEER: &str = pb::peer_server::SERVICE_NAME;

/// The health service, and the hand that sets it.
pub(super) type HealthService =
    tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService>;

/// What the health service says: the process as a whole serves while it runs; of the service that
/// matters here, `twopc.v1.Kv` at the master and `twopc.v1.Peer` at a replica, it says whether the
/// node is ready.
pub(super) struct Health {
    reporter: HealthReporter,
    service: &'static str,
    told: Option<bool>,
}

impl Health {
    pub(super) fn new(is_master: bool) -> (Self, HealthService) {
        let reporter = HealthReporter::new();
        let service = HealthService::new(
            tonic_health::server::HealthService::from_health_reporter(reporter.clone()),
        );
        let name = if is_master { kv::SERVICE } else { PEER };
        (Health { reporter, service: name, told: None }, service)
    }

    pub(super) async fn tell(&mut self, ready: bool) {
        if self.told.replace(ready) != Some(ready) {
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            self.reporter.set_service_status(self.service, status).await;
        }
    }
}

/// The next connection that arrives, metered. A connection that cannot be accepted costs only
/// itself.
async fn accept(listener: &TcpListener) -> Metered<TcpStream> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match connection::set_up(&stream) {
                Ok(()) => return Metered::server(stream),
                Err(error) => tracing::debug!("a connection is gone already: {error}"),
            },
            Err(error) => {
                // Out of file descriptors, most likely: that takes a while to mend.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

struct PeerDesk(Arc<Peers>);

#[tonic::async_trait]
impl Peer for PeerDesk {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<pb::Batch, Status>> + Send>>;

    async fn exchange(
        &self,
        request: tonic::Request<tonic::Streaming<pb::Batch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let meter = request.extensions().get::<Arc<Meter>>().cloned();
        let meter = meter.ok_or_else(|| Status::internal("no connection"))?;
        let link = self.0.accept(request.into_inner(), meter).await?;
        Ok(Response::new(Box::pin(link.map(Ok))))
    }
}

struct InspectDesk {
    questions: mpsc::Sender<Question>,
    cluster: String,
    dumps: Arc<Semaphore>,
}

impl InspectDesk {
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Status> {
        let gone = || Status::unavailable("the node is about to end");
        let (reply, answer) = oneshot::channel();
        self.questions.send(ask(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

#[tonic::async_trait]
impl Inspect for InspectDesk {
    async fn status(
        &self,
        _: tonic::Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let status = self.ask(Question::Status).await?;
        let unsettled = status.unsettled.into_iter().map(|(txn, key)| pb::Unsettled {
            txn: Some(wire::txn_to_wire(txn)),
            key: wire::blob_to_wire(key),
        });
        Ok(Response::new(pb::StatusResponse {
            node: wire::node_to_wire(status.node),
            cluster: self.cluster.clone(),
            epoch: status.epoch,
            incarnation: status.incarnation,
            watermark: Some(wire::txn_to_wire(status.watermark)),
            ready: status.ready,
            live: status.live.into_iter().map(wire::node_to_wire).collect(),
            unsettled: unsettled.collect(),
        }))
    }

    type DumpStream = ReceiverStream<Result<pb::DumpResponse, Status>>;

    async fn dump(
        &self,
        _: tonic::Request<pb::DumpRequest>,
    ) -> Result<Response<Self::DumpStream>, Status> {
        let place = self.dumps.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{DUMPS_MAX} dumps are under way: try later"))
        })?;
        let entries = self.ask(Question::Dump).await?.map_err(internal)?;
        let (parts, answer) = mpsc::channel(4);
        let runtime = Handle::current();
        // Reads the disk: not in the event loop's thread.
        tokio::task::spawn_blocking(move || {
            dump(entries, |part| {
                let sent = parts.send_timeout(part, DUMP_PATIENCE);
                runtime.block_on(sent).is_ok()
            });
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(answer)))
    }
}

/// Sends entries in parts, until one is not taken.
fn dump(entries: Entries, send: impl Fn(Result<pb::DumpResponse, Status>) -> bool) {
    let mut part = pb::DumpResponse::default();
    let mut bytes = 0;
    for entry in entries {
        let (key, version, value) = match entry {
            Ok(entry) => entry,
            Err(error) => {
                send(Err(internal(error)));
                return;
            }
        };
        bytes += key.as_bytes().len() + value.as_bytes().len();
        let found = wire::found_to_wire(Some((version, value)));
        part.entries.push(pb::Entry { key: wire::blob_to_wire(key), found });
        if bytes >= DUMP_PART_BYTES {
            if !send(Ok(std::mem::take(&mut part))) {
                return;
            }
            bytes = 0;
        }
    }
    send(Ok(part));
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn internal(error: StoreError) -> Status {
    Status::internal(error.to_string())
}
