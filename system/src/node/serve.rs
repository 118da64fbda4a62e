//! The services that a node offers: calls become inputs of the event loop, and its answers become
//! gRPC statuses. Nothing here decides anything about a transaction.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use proto::v1::{
    self as pb,
    inspect_server::{Inspect, InspectServer},
    kv_server::{Kv, KvServer},
    peer_server::{Peer, PeerServer},
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status, body::Body, codegen::Service as _, metadata::MetadataMap,
    service::Routes,
};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::peers::Peers;
use crate::{
    answer::{self, ReasonKind},
    config::NodeLimits,
    connection::{self, CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
    meter::{Meter, Metered},
    protocol::{self, Outcome, Write},
    store::{Entries, Limits, StoreError},
    wire,
};

/// What a request may be larger than its value and key: beyond it the transport refuses the
/// request before anybody can say why.
const REQUEST_SLACK_BYTES: usize = 16 << 20;
/// A part of a dump is sent when it has grown to this.
const DUMP_PART_BYTES: usize = 256 << 10;
/// So many dumps at once. Each keeps what it reads from being reused while it lasts, and takes one
/// of the store's places for readers.
const DUMPS_MAX: usize = 4;
/// A dump whose receiver takes nothing for so long is broken off.
const DUMP_PATIENCE: Duration = Duration::from_secs(30);

/// A client's call, on its way to the event loop.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: protocol::Request,
    pub(super) reply: oneshot::Sender<Outcome>,
    /// The connection that it came by.
    pub(super) meter: Option<Arc<Meter>>,
    /// Held as long as the call is under way, whether or not the client still waits.
    pub(super) _slot: OwnedSemaphorePermit,
}

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
    let request_bytes = desk.sizes.value_bytes_max.saturating_add(REQUEST_SLACK_BYTES);
    let streams = u32::try_from(desk.limits.calls).unwrap_or(u32::MAX).saturating_add(64);
    let desk = Arc::new(desk);
    let kv = is_master.then(|| {
        let slots = Arc::new(Semaphore::new(desk.limits.calls));
        KvServer::new(KvDesk { desk: desk.clone(), slots }).max_decoding_message_size(request_bytes)
    });
    let peer = (!is_master).then(|| {
        PeerServer::new(PeerDesk(desk.peers.clone())).max_decoding_message_size(usize::MAX)
    });
    let inspect = InspectDesk { desk, dumps: Arc::new(Semaphore::new(DUMPS_MAX)) };
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let reflection = reflection.build_v1().expect("the descriptors are those that were compiled");
    let rest = Routes::new(InspectServer::new(inspect))
        .add_service(health)
        .add_service(reflection)
        .prepare();
    let front = Front { kv, peer, rest };
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(streams)
        // Clients whose time was up while this process lay still withdraw their calls all at once.
        // By default that ends their connections, as an attack.
        .max_pending_accept_reset_streams(Some(streams as usize));

    let mut stop = pin!(stop);
    let (stopping, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut stop => break,
            stream = accept(&listener) => {
                let caller = Caller { front: front.clone(), meter: stream.meter() };
                let connection = http2.serve_connection(TokioIo::new(stream), caller);
                connections.spawn(keep(connection, stopped.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop((listener, stopping));
    while connections.join_next().await.is_some() {}
}

/// Serves a connection until it ends, and takes no new calls from it once the node stops.
async fn keep(
    connection: http2::Connection<TokioIo<Metered<TcpStream>>, Caller, TokioExecutor>,
    mut stopped: watch::Receiver<()>,
) {
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        // Nothing is ever sent: the sender goes.
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection has failed: {error}");
    }
}

/// Where requests go.
#[derive(Clone)]
struct Front {
    kv: Option<KvServer<KvDesk>>,
    peer: Option<PeerServer<PeerDesk>>,
    rest: Routes,
}

/// The requests of one connection. What comes by the thousand goes straight to its service: a
/// general server's layers and router take as long as the rest of a call.
struct Caller {
    front: Front,
    meter: Arc<Meter>,
}

impl hyper::service::Service<http::Request<Incoming>> for Caller {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: http::Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.meter.clone());
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        match (service, &self.front) {
            (Some((KV, _)), Front { kv: Some(kv), .. }) => kv.clone().call(request),
            (Some((PEER, _)), Front { peer: Some(peer), .. }) => peer.clone().call(request),
            (_, Front { rest, .. }) => Box::pin(rest.clone().call(request)),
        }
    }
}

const KV: &str = proto::v1::kv_server::SERVICE_NAME;
const PEER: &str = proto::v1::peer_server::SERVICE_NAME;

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
        let name = if is_master { KV } else { PEER };
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

fn meter<T>(request: &Request<T>) -> Option<Arc<Meter>> {
    request.extensions().get::<Arc<Meter>>().cloned()
}

struct KvDesk {
    desk: Arc<Desk>,
    slots: Arc<Semaphore>,
}

impl KvDesk {
    /// Hands a request to the machine and waits for its answer. If this future is dropped because
    /// the client has gone, the transaction goes on.
    async fn call(
        &self,
        request: protocol::Request,
        meter: Option<Arc<Meter>>,
    ) -> Result<Outcome, Status> {
        if self.desk.stopping.load(Ordering::Relaxed) {
            return Err(stopping());
        }
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| {
            let text =
                format!("{} calls are in flight, which is the bound", self.desk.limits.calls);
            answer::refusal(Code::ResourceExhausted, ReasonKind::Overloaded, text, [])
        })?;
        let (reply, outcome) = oneshot::channel();
        let call = Call { request, reply, meter, _slot: slot };
        // There is room for as many calls as there are slots, so it can only be closed.
        self.desk.calls.try_send(call).map_err(|_| stopping())?;
        // Without our ErrorInfo: the call was taken, and nobody knows how it ended.
        outcome.await.map_err(|_| Status::unavailable("the node ended before the call did"))
    }

    async fn write(
        &self,
        write: Write,
        meter: Option<Arc<Meter>>,
    ) -> Result<Option<pb::TxnId>, Status> {
        self.desk.sizes.check(&write.key, write.value.as_ref()).map_err(|error| {
            answer::refusal(Code::InvalidArgument, ReasonKind::Invalid, error.to_string(), [])
        })?;
        match self.call(protocol::Request::Write(write), meter).await? {
            Outcome::Committed { version } => Ok(Some(wire::txn_to_wire(version))),
            Outcome::Aborted(reason) => Err(answer::aborted(&reason)),
            outcome @ (Outcome::Value(_) | Outcome::Unavailable) => {
                Err(Status::internal(format!("a write was answered {}", outcome.kind())))
            }
        }
    }
}

fn stopping() -> Status {
    let text = "the node is about to end".to_owned();
    answer::refusal(Code::Unavailable, ReasonKind::Stopping, text, [])
}

#[tonic::async_trait]
impl Kv for KvDesk {
    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let meter = meter(&request);
        let put = request.into_inner();
        let key = wire::blob_from_wire(&put.key);
        let value = Some(wire::blob_from_wire(&put.value));
        drop(put);
        let version = self.write(Write { key, value }, meter).await?;
        Ok(Response::new(pb::PutResponse { version }))
    }

    async fn del(
        &self,
        request: Request<pb::DelRequest>,
    ) -> Result<Response<pb::DelResponse>, Status> {
        let meter = meter(&request);
        let key = wire::blob_from_wire(&request.into_inner().key);
        let version = self.write(Write { key, value: None }, meter).await?;
        Ok(Response::new(pb::DelResponse { version }))
    }

    async fn get(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::GetResponse>, Status> {
        let meter = meter(&request);
        let limits = &self.desk.limits;
        let deadline = grpc_timeout(request.metadata())
            .unwrap_or(Duration::from_millis(limits.get_deadline))
            .min(Duration::from_millis(limits.get_deadline_max));
        let key = wire::blob_from_wire(&request.into_inner().key);
        self.desk.sizes.check(&key, None).map_err(|error| {
            answer::refusal(Code::InvalidArgument, ReasonKind::Invalid, error.to_string(), [])
        })?;
        let get = protocol::Request::Get { key, choice: rand::random(), deadline };
        match self.call(get, meter).await? {
            Outcome::Value(found) => {
                Ok(Response::new(pb::GetResponse { found: wire::found_to_wire(found) }))
            }
            Outcome::Unavailable => {
                let text = "no replica could answer in time".to_owned();
                Err(answer::refusal(Code::Unavailable, ReasonKind::Unavailable, text, []))
            }
            outcome @ (Outcome::Committed { .. } | Outcome::Aborted(_)) => {
                Err(Status::internal(format!("a get was answered {}", outcome.kind())))
            }
        }
    }
}

/// The time that a caller has left, by the header that gRPC has for it: at most eight digits and a
/// unit.
fn grpc_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

struct PeerDesk(Arc<Peers>);

#[tonic::async_trait]
impl Peer for PeerDesk {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<pb::Batch, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<tonic::Streaming<pb::Batch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let meter = meter(&request).ok_or_else(|| Status::internal("no connection"))?;
        let link = self.0.accept(request.into_inner(), meter).await?;
        Ok(Response::new(Box::pin(link.map(Ok))))
    }
}

struct InspectDesk {
    desk: Arc<Desk>,
    dumps: Arc<Semaphore>,
}

impl InspectDesk {
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Status> {
        let gone = || Status::unavailable("the node is about to end");
        let (reply, answer) = oneshot::channel();
        self.desk.questions.send(ask(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

#[tonic::async_trait]
impl Inspect for InspectDesk {
    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let status = self.ask(Question::Status).await?;
        let unsettled = status.unsettled.into_iter().map(|(txn, key)| pb::Unsettled {
            txn: Some(wire::txn_to_wire(txn)),
            key: wire::blob_to_wire(key),
        });
        Ok(Response::new(pb::StatusResponse {
            node: wire::node_to_wire(status.node),
            cluster: self.desk.cluster.clone(),
            epoch: status.epoch,
            boot: status.boot,
            floor: Some(wire::txn_to_wire(status.floor)),
            ready: status.ready,
            live: status.live.into_iter().map(wire::node_to_wire).collect(),
            unsettled: unsettled.collect(),
        }))
    }

    type DumpStream = ReceiverStream<Result<pb::DumpResponse, Status>>;

    async fn dump(
        &self,
        _: Request<pb::DumpRequest>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read() {
        let read = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("ascii"));
            grpc_timeout(&metadata)
        };
        assert_eq!(read("150m"), Some(Duration::from_millis(150)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("7n"), Some(Duration::from_nanos(7)));
        for wrong in ["", "m", "5", "123456789m", "-1m", "1 m", "5x"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(grpc_timeout(&MetadataMap::new()), None);
    }
}
