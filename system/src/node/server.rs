//! The gRPC server of a node: its services and their connections. Requests for inspection become
//! requests to the event loop. Decides nothing about transactions.

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
    descriptors::{Connections, connections_max},
    http2,
    kv_service::{self, Call, KvService, Method},
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

/// The maximum size of request headers, as HTTP/2 counts it.
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// The size at which a chunk of a dump is sent.
const DUMP_CHUNK_BYTES: usize = 256 << 10;
/// The maximum number of concurrent dumps. Each prevents the reuse of the pages that it reads, and
/// takes one of the store's reader slots.
const DUMPS_MAX: usize = 4;
/// A dump is cancelled if its receiver takes nothing for this time.
const DUMP_SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// A request for inspection to the event loop.
pub(super) enum InspectRequest {
    Status(oneshot::Sender<protocol::Status>),
    Dump(oneshot::Sender<Result<Entries, StoreError>>),
}

/// The state that the services of a node share.
pub(super) struct Services {
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) inspections: mpsc::Sender<InspectRequest>,
    /// Set when no more calls are accepted.
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) peers: Arc<Peers>,
    pub(super) limits: NodeLimits,
    pub(super) sizes: Limits,
    pub(super) cluster: String,
}

/// Serves until `stop` completes, and then until every connection has closed.
pub(super) async fn serve(
    listener: TcpListener,
    services: Services,
    health: HealthService,
    stop: impl Future<Output = ()>,
) {
    let mut accepted = Connections::new(connections_max(services.peers.send_buffers().count()));
    let is_master = services.peers.me() == protocol::Node::Master;
    let streams =
        u32::try_from(services.limits.max_inflight).unwrap_or(u32::MAX).saturating_add(64);
    let Services { calls, inspections, stopping, peers, limits, sizes, cluster } = services;
    let kv = is_master.then(|| Arc::new(KvService::new(calls, stopping, limits, sizes)));
    let peer = (!is_master).then(|| {
        let bytes_max = peers.batch_bytes_max();
        PeerServer::new(PeerService(peers.clone())).max_decoding_message_size(bytes_max)
    });
    let dumps = Arc::new(Semaphore::new(DUMPS_MAX));
    let inspect = InspectService { inspections, cluster, dumps, peers };
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let current = reflection().build_v1().expect("the descriptors are generated");
    // Clients of some languages know only the older version, Python's among them.
    let older = reflection().build_v1alpha().expect("the descriptors are generated");
    let rest = Routes::new(InspectServer::new(inspect))
        .add_service(health)
        .add_service(current)
        .add_service(older)
        .prepare();
    let router = Router { kv, peer, rest };
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_concurrent_streams(streams)
        // Clients that time out while this process is paused reset their calls all at once. By
        // default h2 takes that for an attack and closes their connections.
        .max_pending_accept_reset_streams(streams as usize);
    let builder = Arc::new(builder);

    let mut stop = pin!(stop);
    let (stopping, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut stop => break,
            stream = accept(&listener) => {
                let meter = stream.meter();
                accepted.make_room().await;
                let served = serve_connection(builder.clone(), stream, router.clone(), stopped.clone());
                accepted.add(connections.spawn(served), meter);
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop((listener, stopping));
    while connections.join_next().await.is_some() {}
}

/// Serves a connection until it closes, and accepts no new calls once the node stops.
async fn serve_connection(
    builder: Arc<h2::server::Builder>,
    stream: Metered<TcpStream>,
    router: Router,
    mut stopped: watch::Receiver<()>,
) {
    let meter = stream.meter();
    let stopped = async {
        // Nothing is ever sent: the sender is dropped.
        let _ = stopped.changed().await;
    };
    let take = |request, respond| router.take(request, respond, &meter);
    if let Err(error) = http2::serve(&builder, stream, take, stopped).await {
        tracing::debug!("a connection failed: {error}");
    }
}

/// Routes requests to services.
#[derive(Clone)]
struct Router {
    kv: Option<Arc<KvService>>,
    peer: Option<PeerServer<PeerService>>,
    rest: Routes,
}

impl Router {
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
                tokio::spawn(http2::forward(peer.clone(), request, respond));
            }
            _ => {
                tokio::spawn(http2::forward(self.rest.clone(), request, respond));
            }
        }
    }
}

const PEER: &str = pb::peer_server::SERVICE_NAME;

/// The gRPC health service.
pub(super) type HealthService =
    tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService>;

/// Updates the health service. The process as a whole is reported as serving while it runs. The
/// service that depends on the state of the node, `twopc.v1.Kv` at the master and `twopc.v1.Peer`
/// at a replica, is reported as serving while the node is ready.
pub(super) struct Health {
    reporter: HealthReporter,
    service: &'static str,
    reported: Option<bool>,
}

impl Health {
    pub(super) fn new(is_master: bool) -> (Self, HealthService) {
        let reporter = HealthReporter::new();
        let service = HealthService::new(
            tonic_health::server::HealthService::from_health_reporter(reporter.clone()),
        );
        let name = if is_master { kv_service::SERVICE } else { PEER };
        (Health { reporter, service: name, reported: None }, service)
    }

    pub(super) async fn report(&mut self, ready: bool) {
        if self.reported.replace(ready) != Some(ready) {
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            self.reporter.set_service_status(self.service, status).await;
        }
    }
}

/// Accepts the next connection and meters it. A failed accept affects only that connection.
async fn accept(listener: &TcpListener) -> Metered<TcpStream> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match connection::set_up(&stream) {
                Ok(()) => return Metered::server(stream),
                Err(error) => tracing::debug!("a new connection is already closed: {error}"),
            },
            Err(error) => {
                // Most likely out of file descriptors, which takes a while to resolve.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

struct PeerService(Arc<Peers>);

#[tonic::async_trait]
impl Peer for PeerService {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<pb::Batch, Status>> + Send>>;

    async fn exchange(
        &self,
        request: tonic::Request<tonic::Streaming<pb::Batch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let meter = request.extensions().get::<Arc<Meter>>().cloned();
        let meter = meter.ok_or_else(|| Status::internal("the connection is unknown"))?;
        let stream = self.0.accept(request.into_inner(), meter).await?;
        Ok(Response::new(Box::pin(stream.map(Ok))))
    }
}

struct InspectService {
    inspections: mpsc::Sender<InspectRequest>,
    cluster: String,
    dumps: Arc<Semaphore>,
    peers: Arc<Peers>,
}

impl InspectService {
    async fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<T>) -> InspectRequest,
    ) -> Result<T, Status> {
        let gone = || Status::unavailable("the node is stopping");
        let (reply, answer) = oneshot::channel();
        self.inspections.send(ask(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

#[tonic::async_trait]
impl Inspect for InspectService {
    async fn status(
        &self,
        _: tonic::Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let status = self.ask(InspectRequest::Status).await?;
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
            refused: self.peers.refusals().count(),
        }))
    }

    type DumpStream = ReceiverStream<Result<pb::DumpResponse, Status>>;

    async fn dump(
        &self,
        _: tonic::Request<pb::DumpRequest>,
    ) -> Result<Response<Self::DumpStream>, Status> {
        let permit = self.dumps.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{DUMPS_MAX} dumps are in progress: try again later"
            ))
        })?;
        let entries = self.ask(InspectRequest::Dump).await?.map_err(internal)?;
        let (chunks, answer) = mpsc::channel(4);
        let runtime = Handle::current();
        // Reads the disk, so not in the event loop's thread.
        tokio::task::spawn_blocking(move || {
            dump(entries, |chunk| {
                let sent = chunks.send_timeout(chunk, DUMP_SEND_TIMEOUT);
                runtime.block_on(sent).is_ok()
            });
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(answer)))
    }
}

/// Sends entries in chunks, until one is not accepted.
fn dump(entries: Entries, send: impl Fn(Result<pb::DumpResponse, Status>) -> bool) {
    let mut chunk = pb::DumpResponse::default();
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
        chunk.entries.push(pb::Entry { key: wire::blob_to_wire(key), found });
        if bytes >= DUMP_CHUNK_BYTES {
            if !send(Ok(std::mem::take(&mut chunk))) {
                return;
            }
            bytes = 0;
        }
    }
    send(Ok(chunk));
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn internal(error: StoreError) -> Status {
    Status::internal(error.to_string())
}
