//! The gRPC server of a node: its services and their connections. Requests for inspection become
//! requests to the event loop. Decides nothing about transactions.

use std::{
    os::fd::AsFd as _,
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
    sync::{Notify, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    access::{self, PEER},
    connections::{Connections, SWEEP_INTERVAL},
    descriptors::connections_max,
    http2::{self, Resets, ServiceLimits},
    kv_service::{self, Call, KvService, Method},
    limits::{Account, Budgets, Resource},
    metrics::Snapshot,
    peers::Peers,
};
use crate::{
    config::NodeLimits,
    connection::{self, CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
    meter::{Meter, Metered, Transport},
    protocol::{self, Key, Mistake, Rules, TxnId},
    store::{Entries, Limits, StoreError},
    tls::{Caller, Role, Tls},
    wire,
};

/// The maximum size of request headers, as HTTP/2 counts it.
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// The maximum size of a request of any service but `Kv`, and of the greeting of a peer.
const SMALL_REQUEST_BYTES_MAX: u32 = 64 << 10;
/// The size at which a chunk of a dump is sent.
const DUMP_CHUNK_BYTES: usize = 256 << 10;
/// The number of chunks that wait for the receiver of a dump.
const DUMP_CHUNKS: usize = 4;
/// The maximum number of concurrent dumps. Each prevents the reuse of the pages that it reads, and
/// takes one of the store's reader slots.
const DUMPS_MAX: usize = 4;
/// A dump is cancelled if its receiver takes nothing for this time.
const DUMP_SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// A request for inspection to the event loop.
pub(super) enum InspectRequest {
    Status(oneshot::Sender<protocol::Status>),
    /// The watermark, and the entries after a key.
    Dump {
        after: Option<Key>,
        reply: oneshot::Sender<Result<(TxnId, Entries), StoreError>>,
    },
    Metrics(oneshot::Sender<Snapshot>),
}

/// The state that the services of a node share.
pub(super) struct Services {
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) inspections: mpsc::Sender<InspectRequest>,
    /// Set when no more calls are accepted.
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) peers: Arc<Peers>,
    pub(super) budgets: Arc<Budgets>,
    pub(super) limits: NodeLimits,
    pub(super) sizes: Limits,
    pub(super) cluster: String,
    pub(super) rules: Rules,
    /// What connections prove themselves with, if they have to.
    pub(super) tls: Option<Arc<Tls>>,
}

/// Serves until `stop` completes, and then until every connection has closed.
pub(super) async fn serve(
    listener: TcpListener,
    services: Services,
    health: HealthService,
    stop: impl Future<Output = ()>,
) {
    let Services {
        calls,
        inspections,
        stopping,
        peers,
        budgets,
        limits,
        sizes,
        cluster,
        rules,
        tls,
    } = services;
    let mut accepted = Connections::new(connections_max(peers.send_buffers().count()), &limits);
    let streams_max = budgets.connection_calls_max();
    let is_master = peers.me() == protocol::Node::Master;
    let kv = is_master.then(|| Arc::new(KvService::new(calls, stopping, limits.clone(), sizes)));
    let peer = (!is_master).then(|| {
        let bytes_max = peers.batch_bytes_max();
        PeerServer::new(PeerService(peers.clone())).max_decoding_message_size(bytes_max)
    });
    let dump_timeout = Duration::from_millis(limits.dump_timeout_ms);
    let dumps = Arc::new(Semaphore::new(DUMPS_MAX));
    let inspect =
        InspectService { inspections, cluster, dump_timeout, dumps, peers: peers.clone() };
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let small = SMALL_REQUEST_BYTES_MAX as usize;
    let current = reflection().build_v1().expect("the descriptors are generated");
    // Clients of some languages know only the older version, Python's among them.
    let older = reflection().build_v1alpha().expect("the descriptors are generated");
    let rest = Routes::new(InspectServer::new(inspect).max_decoding_message_size(small))
        .add_service(health.max_decoding_message_size(small))
        .add_service(current.max_decoding_message_size(small))
        .add_service(older.max_decoding_message_size(small))
        .prepare();
    let within = Duration::from_millis;
    let service_limits = ServiceLimits {
        first_message_bytes_max: SMALL_REQUEST_BYTES_MAX,
        timeout: within(limits.request_timeout_ms),
    };
    let router = Router { kv, peer, rest, service_limits, peers };
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_concurrent_streams(u32::try_from(streams_max).unwrap_or(u32::MAX))
        // Requests are refused while their bodies arrive. The rest of a body that belongs to no known stream would
        // be taken for an error of the client.
        .max_concurrent_reset_streams(streams_max)
        // Clients that time out while this process is paused reset their calls all at once. By
        // default h2 takes that for an attack and closes their connections.
        .max_pending_accept_reset_streams(streams_max);
    let serving = Arc::new(Serving {
        tls,
        builder,
        router,
        handshake_timeout: within(limits.handshake_timeout_ms),
        resets_max: 2 * streams_max,
    });

    let mut stop = pin!(stop);
    let (stopping, stopped) = watch::channel(());
    let leaks = rules.makes(Mistake::DescriptorLeaked);
    let mut connections = JoinSet::new();
    let mut sweep = interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut stop => break,
            stream = accept(&listener) => {
                if leaks && let Ok(copy) = stream.as_fd().try_clone_to_owned() {
                    std::mem::forget(copy);
                }
                let account = Account::new(budgets.clone(), Arc::default());
                let close = Arc::new(Notify::new());
                accepted.make_room().await;
                let ended = ended(stopped.clone(), close.clone());
                let served = serving.clone().serve(stream, account.clone(), ended);
                accepted.add(connections.spawn(served), account, close);
            }
            Some(_) = connections.join_next() => {}
            now = sweep.tick() => accepted.sweep(now),
        }
    }
    drop((listener, stopping));
    while connections.join_next().await.is_some() {}
}

/// Completes when a connection is to accept no new calls: the node stops, or nobody uses the connection.
async fn ended(mut stopped: watch::Receiver<()>, close: Arc<Notify>) {
    tokio::select! {
        // Nothing is ever sent: the sender is dropped.
        _ = stopped.changed() => {}
        () = close.notified() => {}
    }
}

/// How connections are served.
struct Serving {
    tls: Option<Arc<Tls>>,
    builder: h2::server::Builder,
    router: Router,
    handshake_timeout: Duration,
    /// Calls that the client of a connection may reset at once.
    resets_max: usize,
}

impl Serving {
    /// Serves a connection until it closes, and accepts no new calls once `ended` completes. The handshakes of TLS and
    /// HTTP/2 share one timeout.
    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        account: Arc<Account>,
        ended: impl Future<Output = ()>,
    ) {
        let until = Instant::now() + self.handshake_timeout;
        let mut ended = pin!(ended);
        // A client that says nothing costs a socket, and no buffers.
        tokio::select! {
            said = timeout_at(until, stream.readable()) => match said {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            },
            () = &mut ended => return,
        }
        let Some(tls) = &self.tls else {
            account.identify(Caller::Anybody);
            return self.speak(stream, &account, until, ended).await;
        };
        let from = stream.peer_addr();
        let handshake = tokio::select! {
            handshake = timeout_at(until, tls.accept(stream)) => handshake,
            () = &mut ended => return,
        };
        let why = match handshake {
            Ok(Ok((stream, caller))) => {
                account.identify(caller);
                return self.speak(stream, &account, until, ended).await;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the TLS handshake was not completed in time".to_owned(),
        };
        let from = from.map_or_else(|_| "somebody".to_owned(), |from| from.to_string());
        self.router.peers.refusals().add(format_args!("a connection from {from}"), &why);
    }

    /// Speaks HTTP/2 on a connection.
    async fn speak(
        &self,
        stream: impl Transport,
        account: &Arc<Account>,
        handshake_until: Instant,
        ended: impl Future<Output = ()>,
    ) {
        let Serving { builder, router, resets_max, .. } = self;
        let (meter, stream) = (&account.meter, Metered::server(stream, account.meter.clone()));
        let take = |request, respond| router.take(request, respond, account);
        let resets = Resets::new(*resets_max);
        let served =
            http2::serve(builder, stream, meter, handshake_until, resets, take, ended).await;
        if let Err(error) = served {
            tracing::debug!("a connection failed: {error}");
        }
    }
}

/// Routes requests to services.
#[derive(Clone)]
struct Router {
    kv: Option<Arc<KvService>>,
    peer: Option<PeerServer<PeerService>>,
    rest: Routes,
    service_limits: ServiceLimits,
    /// Counts refused calls.
    peers: Arc<Peers>,
}

impl Router {
    fn take(
        &self,
        mut request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        account: &Arc<Account>,
    ) {
        let path = request.uri().path();
        let caller = account.caller();
        if let Err(denied) = access::check(caller, path) {
            self.peers.refusals().add("a call", denied.message());
            // The client may have disconnected.
            let _ = respond.send_response(denied.into_http(), true);
            return;
        }
        if let (Some(kv), Some(method)) = (&self.kv, Method::of(path)) {
            kv.take(method, request, respond, account);
            return;
        }
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let is_peer = self.peer.is_some() && matches!(service, Some((PEER, _)));
        let kind = if is_peer { Resource::PeerCalls } else { Resource::OtherCalls };
        let slot = match account.take(kind, 1) {
            Ok(slot) => slot,
            Err(why) => {
                let refusal = Status::resource_exhausted(why.to_string()).into_http();
                // The client may have disconnected.
                let _ = respond.send_response(refusal, true);
                return;
            }
        };
        let (peer, rest, limits) = (self.peer.clone(), self.rest.clone(), self.service_limits);
        request.extensions_mut().insert(account.meter.clone());
        request.extensions_mut().insert(caller);
        tokio::spawn(async move {
            match peer.filter(|_| is_peer) {
                Some(peer) => http2::forward(peer, request, respond, limits).await,
                None => http2::forward(rest, request, respond, limits).await,
            }
            drop(slot);
        });
    }
}

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

/// Accepts the next connection. A failed accept affects only that connection.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match connection::set_up(&stream) {
                Ok(()) => return stream,
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
        // With TLS, only nodes call this service.
        let certified = match request.extensions().get() {
            Some(Caller::Known(Role::Node(node))) => Some(*node),
            _ => None,
        };
        let stream = self.0.accept(request.into_inner(), meter, certified).await?;
        Ok(Response::new(Box::pin(stream.map(Ok))))
    }
}

struct InspectService {
    inspections: mpsc::Sender<InspectRequest>,
    cluster: String,
    /// How long a dump may keep the store from using its space again.
    dump_timeout: Duration,
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
            force_age_ms: wire::ms(status.force_age),
            stalled: status.stalled.into_iter().map(wire::node_to_wire).collect(),
            scrubs: status.scrubs,
        }))
    }

    type DumpStream = ReceiverStream<Result<pb::DumpResponse, Status>>;

    async fn dump(
        &self,
        request: tonic::Request<pb::DumpRequest>,
    ) -> Result<Response<Self::DumpStream>, Status> {
        let after = request.into_inner().after;
        let after = (!after.is_empty()).then(|| wire::blob_from_wire(&after));
        let permit = self.dumps.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{DUMPS_MAX} dumps are in progress: try again later"
            ))
        })?;
        let dumped = self.ask(|reply| InspectRequest::Dump { after, reply }).await?;
        let (watermark, entries) = dumped.map_err(internal)?;
        let until = Instant::now() + self.dump_timeout;
        let (chunks, answer) = mpsc::channel(DUMP_CHUNKS);
        let runtime = Handle::current();
        // Reads the disk, so not in the event loop's thread.
        tokio::task::spawn_blocking(move || {
            let wait = |end: Instant| end.min(Instant::now() + DUMP_SEND_TIMEOUT);
            let send = |chunk, end| {
                runtime
                    .block_on(timeout_at(wait(end), chunks.send(chunk)))
                    .is_ok_and(|it| it.is_ok())
            };
            let last = dump(entries, watermark, until, |chunk| send(Ok(chunk), until));
            // The entries are dropped, and with them the claim to the pages that they read. The receiver may take its
            // time now to learn why no more of them come.
            if let Err(status) = last {
                send(Err(status), Instant::now() + DUMP_SEND_TIMEOUT);
            }
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(answer)))
    }
}

/// Sends entries in chunks, until one is not accepted.
///
/// # Errors
/// The entries cannot be read, or the time is over.
fn dump(
    entries: Entries,
    watermark: TxnId,
    until: Instant,
    send: impl Fn(pb::DumpResponse) -> bool,
) -> Result<(), Status> {
    let watermark = Some(wire::txn_to_wire(watermark));
    let mut chunk = pb::DumpResponse { watermark, ..pb::DumpResponse::default() };
    let mut bytes = 0;
    let mut after = None;
    let late = |after: Option<Key>| {
        let after = after.map_or_else(String::new, |key: Key| format!(" after key '{key}'"));
        let text = format!(
            "the dump took too long and was ended{after}: it keeps the store from using its space again; begin \
             another one after the last key, or take the entries faster (dump_timeout_ms)"
        );
        Status::deadline_exceeded(text)
    };
    for entry in entries {
        let (key, version, value) = entry.map_err(internal)?;
        bytes += key.as_bytes().len() + value.as_bytes().len();
        let found = wire::found_to_wire(Some((version, value)));
        chunk.entries.push(pb::Entry { key: wire::blob_to_wire(key.clone()), found });
        if bytes >= DUMP_CHUNK_BYTES {
            // If the receiver is gone, nobody reads the error.
            if !send(std::mem::take(&mut chunk)) {
                return Err(late(after));
            }
            bytes = 0;
            after = Some(key);
        }
        if Instant::now() >= until {
            return Err(late(after));
        }
    }
    if send(chunk) { Ok(()) } else { Err(late(after)) }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn internal(error: StoreError) -> Status {
    Status::internal(error.to_string())
}
