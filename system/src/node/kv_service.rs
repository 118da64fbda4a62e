//! The service `Kv`. Calls of clients become inputs of the event loop, and replies of the machine
//! become gRPC responses. Calls are frequent, so they are read from HTTP/2 and answered directly,
//! without a task or a tower service in between. Decides nothing about transactions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::FutureExt as _;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use prost::Message;
use proto::v1 as pb;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};
use tonic::{Code, Status};

use crate::{
    answer::{self, ReasonKind},
    config::NodeLimits,
    meter::Meter,
    protocol::{self, Blob, Reply, Write},
    store::Limits,
    wire,
};

/// The name of the service.
pub(super) const SERVICE: &str = pb::kv_server::SERVICE_NAME;

/// The size that a request may have beyond the maximum value size. A larger request is refused
/// before it is read.
const REQUEST_OVERHEAD_BYTES_MAX: usize = 16 << 20;
/// The gRPC prefix of a message: a compression flag and the length.
const PREFIX_BYTES: usize = 5;

/// A client's call on its way to the event loop.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: protocol::Request,
    pub(super) handle: ResponseHandle,
    /// When the client gives up, if it said so. A write that has not begun by then must not begin.
    pub(super) deadline: Option<Instant>,
    /// The meter of the client's connection.
    pub(super) meter: Arc<Meter>,
    /// Held while the call is in progress, whether or not the client still waits.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// The methods of the service.
#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    Put,
    Del,
    Get,
}

impl Method {
    /// The method that the path of a request names.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path.strip_prefix('/')?.strip_prefix(SERVICE)? {
            "/Put" => Some(Method::Put),
            "/Del" => Some(Method::Del),
            "/Get" => Some(Method::Get),
            _ => None,
        }
    }
}

/// Receives calls.
pub(super) struct KvService {
    calls: mpsc::Sender<Call>,
    permits: Arc<Semaphore>,
    /// Set when no more calls are accepted.
    stopping: Arc<AtomicBool>,
    limits: NodeLimits,
    sizes: Limits,
}

impl KvService {
    /// Creates the service. It passes calls to the event loop, up to the limit of calls in flight.
    pub(super) fn new(
        calls: mpsc::Sender<Call>,
        stopping: Arc<AtomicBool>,
        limits: NodeLimits,
        sizes: Limits,
    ) -> Self {
        KvService {
            calls,
            permits: Arc::new(Semaphore::new(limits.max_inflight)),
            stopping,
            limits,
            sizes,
        }
    }

    /// Receives a call: immediately if it is complete, as it nearly always is, and otherwise in a
    /// separate task. From then on the transaction proceeds even if the client disconnects.
    pub(super) fn take(
        self: &Arc<Self>,
        method: Method,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        meter: &Arc<Meter>,
    ) {
        let handle = ResponseHandle { method, respond: Some(respond) };
        let mut reading = Box::pin(self.clone().read(request, handle, meter.clone()));
        if reading.as_mut().now_or_never().is_none() {
            tokio::spawn(reading);
        }
    }

    async fn read(
        self: Arc<Self>,
        request: Request<RecvStream>,
        handle: ResponseHandle,
        meter: Arc<Meter>,
    ) {
        let (head, mut body) = request.into_parts();
        let timeout = grpc_timeout(&head.headers);
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let message_bytes_max =
            self.sizes.value_bytes_max.saturating_add(REQUEST_OVERHEAD_BYTES_MAX);
        let read = match read_message(&mut body, message_bytes_max).await {
            Ok(message) => self.request(handle.method, message, timeout),
            Err(status) => Err(status),
        };
        match read.and_then(|request| Ok((request, self.permit()?))) {
            Ok((request, permit)) => {
                let call = Call { request, handle, deadline, meter, _permit: permit };
                // The queue has room for as many calls as there are permits, so this fails only if
                // it is closed.
                if let Err(call) = self.calls.try_send(call) {
                    call.into_inner().handle.refuse(stopping());
                }
            }
            Err(status) => handle.refuse(status),
        }
    }

    /// Decodes the request.
    fn request(
        &self,
        method: Method,
        message: Bytes,
        timeout: Option<Duration>,
    ) -> Result<protocol::Request, Status> {
        let (key, value) = match method {
            Method::Put => {
                let pb::PutRequest { key, value } = decode(message)?;
                (key, Some(wire::blob_from_wire(&value)))
            }
            Method::Del => (decode::<pb::DelRequest>(message)?.key, None),
            Method::Get => (decode::<pb::GetRequest>(message)?.key, None),
        };
        let key = wire::blob_from_wire(&key);
        self.sizes.check(key.as_bytes(), value.as_ref().map(Blob::as_bytes)).map_err(|error| {
            answer::refusal(Code::InvalidArgument, ReasonKind::Invalid, error.to_string(), [])
        })?;
        Ok(match method {
            Method::Put | Method::Del => protocol::Request::Write(Write { key, value }),
            Method::Get => {
                let deadline = timeout
                    .unwrap_or(Duration::from_millis(self.limits.get_deadline_ms))
                    .min(Duration::from_millis(self.limits.get_deadline_max_ms));
                protocol::Request::Get { key, choice: rand::random(), deadline }
            }
        })
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(stopping());
        }
        self.permits.clone().try_acquire_owned().map_err(|_| {
            let text =
                format!("{} calls are in flight, which is the limit", self.limits.max_inflight);
            answer::refusal(Code::ResourceExhausted, ReasonKind::Overloaded, text, [])
        })
    }
}

impl Call {
    /// Whether it is a write whose client has already given up. The client may have told its user that the write
    /// failed, or have written something else since.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        matches!(self.request, protocol::Request::Write(_))
            && self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Refuses a call that has expired, which had no effect.
    pub(super) fn refuse_expired(self) {
        let text = "the deadline of the call passed before the write began".to_owned();
        self.handle.refuse(answer::refusal(Code::DeadlineExceeded, ReasonKind::Expired, text, []));
    }
}

/// The handle for the response to a call. If it is dropped, the call ends without our `ErrorInfo`:
/// it was accepted, and its outcome is unknown.
#[derive(Debug)]
pub(super) struct ResponseHandle {
    method: Method,
    respond: Option<SendResponse<Bytes>>,
}

impl ResponseHandle {
    /// Sends the reply. Returns whether the client is still there.
    pub(super) fn send(mut self, reply: Reply) -> bool {
        let Some(respond) = self.respond.take() else { return false };
        match message(self.method, reply) {
            Ok(message) => finish(respond, message).is_ok(),
            Err(status) => refuse(respond, status).is_ok(),
        }
    }

    fn refuse(mut self, status: Status) {
        if let Some(respond) = self.respond.take() {
            // The client may have disconnected.
            let _ = refuse(respond, status);
        }
    }
}

impl Drop for ResponseHandle {
    fn drop(&mut self) {
        if let Some(respond) = self.respond.take() {
            let _ = refuse(
                respond,
                Status::unavailable("the node stopped before the call was answered"),
            );
        }
    }
}

/// The response message for a reply, or the error status.
fn message(method: Method, reply: Reply) -> Result<Bytes, Status> {
    match (method, reply) {
        (Method::Put, Reply::Committed { version }) => {
            Ok(encode(&pb::PutResponse { version: Some(wire::txn_to_wire(version)) }))
        }
        (Method::Del, Reply::Committed { version }) => {
            Ok(encode(&pb::DelResponse { version: Some(wire::txn_to_wire(version)) }))
        }
        (Method::Put | Method::Del, Reply::Aborted(reason)) => Err(answer::aborted(&reason)),
        (Method::Get, Reply::Value(found)) => {
            Ok(encode(&pb::GetResponse { found: wire::found_to_wire(found) }))
        }
        (Method::Get, Reply::Unavailable) => {
            let text = "no replica answered in time".to_owned();
            Err(answer::refusal(Code::Unavailable, ReasonKind::Unavailable, text, []))
        }
        (method, reply) => Err(Status::internal(format!(
            "a {method:?} request got a reply of kind {}",
            reply.kind()
        ))),
    }
}

fn finish(mut respond: SendResponse<Bytes>, message: Bytes) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    let grpc = HeaderValue::from_static("application/grpc");
    head.headers_mut().insert(CONTENT_TYPE, grpc);
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    let mut body = respond.send_response(head, false)?;
    body.send_data(message, false)?;
    body.send_trailers(trailers)
}

fn refuse(mut respond: SendResponse<Bytes>, status: Status) -> Result<(), h2::Error> {
    respond.send_response(status.into_http(), true).map(drop)
}

fn stopping() -> Status {
    let text = "the node is stopping".to_owned();
    answer::refusal(Code::Unavailable, ReasonKind::Stopping, text, [])
}

/// Reads the single message of a request, of at most `bytes_max` bytes.
async fn read_message(body: &mut RecvStream, bytes_max: usize) -> Result<Bytes, Status> {
    let first = next_chunk(body).await?.unwrap_or_default();
    let mut message = match next_chunk(body).await? {
        None => first,
        Some(second) => {
            let mut parts = BytesMut::from(first);
            let mut next = Some(second);
            while let Some(more) = next {
                parts.extend_from_slice(&more);
                if parts.len() > PREFIX_BYTES + bytes_max {
                    let text = format!("a request has at most {bytes_max} bytes");
                    let (code, kind) = (Code::InvalidArgument, ReasonKind::Invalid);
                    return Err(answer::refusal(code, kind, text, []));
                }
                next = next_chunk(body).await?;
            }
            parts.freeze()
        }
    };
    let cut = |_| Status::internal("the request is truncated");
    let compressed = message.try_get_u8().map_err(cut)?;
    let length = message.try_get_u32().map_err(cut)?;
    if compressed != 0 {
        return Err(Status::unimplemented("compressed requests are not supported"));
    }
    if usize::try_from(length) != Ok(message.len()) {
        return Err(Status::internal("the request must be exactly one message"));
    }
    Ok(message)
}

/// The next chunk of a body. Releases its flow-control capacity.
async fn next_chunk(body: &mut RecvStream) -> Result<Option<Bytes>, Status> {
    let broken = |error: h2::Error| Status::cancelled(error.to_string());
    let Some(part) = body.data().await.transpose().map_err(broken)? else { return Ok(None) };
    body.flow_control().release_capacity(part.len()).map_err(broken)?;
    Ok(Some(part))
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| Status::internal(error.to_string()))
}

fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    // Values are limited to far less than 4 GiB.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode(&mut bytes).expect("there is room for it");
    bytes.freeze()
}

/// The remaining time of the caller, from the `grpc-timeout` header: at most eight digits and a
/// unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
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

#[cfg(test)]
mod tests {
    use std::future;

    use h2::{SendStream, client};

    use super::*;
    use crate::{node::http2, protocol::Version};

    type Answer = Result<Bytes, Status>;

    /// A connection to the service, and the calls that it passes on.
    async fn connected() -> (client::SendRequest<Bytes>, mpsc::Receiver<Call>) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (calls, called) = mpsc::channel(16);
        let sizes = Limits { value_bytes_max: 100 };
        let service = Arc::new(KvService::new(calls, Arc::default(), NodeLimits::default(), sizes));
        tokio::spawn(async move {
            let take = |request: Request<RecvStream>, respond| {
                let method = Method::of(request.uri().path()).expect("a method");
                service.take(method, request, respond, &Arc::default());
            };
            let builder = h2::server::Builder::new();
            http2::serve(&builder, far, take, future::pending()).await
        });
        let (sender, connection) = client::handshake(near).await.expect("speaks HTTP/2");
        tokio::spawn(connection);
        (sender, called)
    }

    fn begin(
        sender: &mut client::SendRequest<Bytes>,
        path: &str,
    ) -> (client::ResponseFuture, SendStream<Bytes>) {
        let uri = format!("http://here{path}");
        let head = Request::post(uri).body(()).expect("a request");
        sender.send_request(head, false).expect("is sent")
    }

    async fn end(answer: client::ResponseFuture) -> Answer {
        let (head, mut body) = answer.await.expect("is answered").into_parts();
        let status = |headers: &HeaderMap| Status::from_header_map(headers).expect("a status");
        if head.headers.contains_key(Status::GRPC_STATUS) {
            return Err(status(&head.headers));
        }
        let message = read_message(&mut body, usize::MAX >> 1).await.expect("one message");
        let trailers = body.trailers().await.expect("no error").expect("trailers");
        assert_eq!(status(&trailers).code(), Code::Ok);
        Ok(message)
    }

    fn put() -> Bytes {
        encode(&pb::PutRequest { key: "k".into(), value: "some value".into() })
    }

    #[tokio::test]
    async fn requests_split_anywhere_are_read() {
        let (mut sender, mut called) = connected().await;
        for at in 0..put().len() {
            let (answer, mut body) = begin(&mut sender, "/twopc.v1.Kv/Put");
            let (first, second) = (put().slice(..at), put().slice(at..));
            body.send_data(first, false).expect("is sent");
            // The server sees the first part alone, or both together. The result must be the same.
            tokio::task::yield_now().await;
            body.send_data(second, true).expect("is sent");
            let mut answer = Box::pin(end(answer));
            let call = tokio::select! {
                call = called.recv() => call.expect("a call"),
                answer = &mut answer => panic!("not taken: {answer:?}"),
            };
            let protocol::Request::Write(write) = call.request else { panic!("no write") };
            assert_eq!(write.key.as_bytes(), b"k");
            assert_eq!(write.value.expect("a value").as_bytes(), b"some value");
            assert!(call.handle.send(Reply::Committed { version: Version::new(1, 7) }));
            let message = answer.await.expect("ok");
            let put: pb::PutResponse = decode(message).expect("a message");
            assert_eq!(put.version, Some(pb::TxnId { epoch: 1, seq: 7 }));
        }
    }

    #[tokio::test]
    async fn malformed_requests_are_refused_with_a_status() {
        let (mut sender, mut called) = connected().await;
        let mut compressed = put().to_vec();
        compressed[0] = 1;
        let short = put().slice(..put().len() - 1);
        let two = [put(), put()].concat();
        let foreign = [&[0, 0, 0, 0, 3][..], &[0xff; 3]].concat();
        let large = vec![0; REQUEST_OVERHEAD_BYTES_MAX + 200];
        let cases: [(Bytes, Code); 6] = [
            (Bytes::new(), Code::Internal),
            (compressed.into(), Code::Unimplemented),
            (short, Code::Internal),
            (two.into(), Code::Internal),
            (foreign.into(), Code::Internal),
            (large.into(), Code::InvalidArgument),
        ];
        for (request, code) in cases {
            let (answer, mut body) = begin(&mut sender, "/twopc.v1.Kv/Put");
            body.send_data(request, true).expect("is sent");
            let status = tokio::select! {
                answer = end(answer) => answer.expect_err("is refused"),
                _ = called.recv() => panic!("is taken"),
            };
            assert_eq!(status.code(), code, "{status}");
            // A request that is too large certainly had no effect, like a value that is.
            let reason = answer::reason(&status).map(|reason| reason.kind);
            let certain = (code == Code::InvalidArgument).then_some(ReasonKind::Invalid);
            assert_eq!(reason, certain, "{status}");
        }
    }

    #[tokio::test]
    async fn a_value_larger_than_the_flow_control_windows_is_sent() {
        let (mut sender, mut called) = connected().await;
        let (answer, mut body) = begin(&mut sender, "/twopc.v1.Kv/Get");
        let request = pb::GetRequest { key: "k".into() };
        body.send_data(encode(&request), true).expect("is sent");
        let call = called.recv().await.expect("a call");
        let value = protocol::Value::from(vec![7; 1 << 20]);
        assert!(call.handle.send(Reply::Value(Some((Version::new(1, 7), value)))));
        let message = end(answer).await.expect("ok");
        let got: pb::GetResponse = decode(message).expect("a message");
        assert_eq!(got.found.expect("a value").value, vec![7; 1 << 20]);
    }

    #[tokio::test]
    async fn an_unanswered_call_ends_without_error_info() {
        let (mut sender, mut called) = connected().await;
        let (answer, mut body) = begin(&mut sender, "/twopc.v1.Kv/Put");
        body.send_data(put(), true).expect("is sent");
        drop(called.recv().await.expect("a call"));
        let status = end(answer).await.expect_err("no answer");
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(answer::reason(&status), None);
    }

    #[tokio::test]
    async fn replies_report_whether_the_client_is_still_there() {
        let (mut sender, mut called) = connected().await;
        let (gone, mut body) = begin(&mut sender, "/twopc.v1.Kv/Put");
        body.send_data(put(), true).expect("is sent");
        let first = called.recv().await.expect("a call");
        drop((gone, body));
        let (_there, mut body) = begin(&mut sender, "/twopc.v1.Kv/Put");
        body.send_data(put(), true).expect("is sent");
        let second = called.recv().await.expect("a call");
        let reply = Reply::Committed { version: Version::new(1, 7) };
        assert!(!first.handle.send(reply.clone()));
        assert!(second.handle.send(reply));
    }

    #[tokio::test]
    async fn a_write_whose_deadline_has_passed_is_refused() {
        let (mut sender, mut called) = connected().await;
        let timeout = Duration::from_millis(150);
        for (path, waited, expired) in [
            ("/twopc.v1.Kv/Put", timeout, true),
            ("/twopc.v1.Kv/Put", Duration::from_millis(149), false),
            // A get has no effect, and its machine limits its time.
            ("/twopc.v1.Kv/Get", timeout, false),
        ] {
            let head = Request::post(format!("http://here{path}")).header("grpc-timeout", "150m");
            let (answer, mut body) =
                sender.send_request(head.body(()).expect("a request"), false).expect("is sent");
            let get = encode(&pb::GetRequest { key: "k".into() });
            body.send_data(if path.ends_with("Put") { put() } else { get }, true).expect("is sent");
            let call = called.recv().await.expect("a call");
            let received = call.deadline.expect("it has one") - timeout;
            assert_eq!(call.is_expired(received + waited), expired, "{path} after {waited:?}");
            if expired {
                call.refuse_expired();
                let status = end(answer).await.expect_err("is refused");
                let reason = answer::reason(&status).expect("certainly without effect").kind;
                assert_eq!((status.code(), reason), (Code::DeadlineExceeded, ReasonKind::Expired));
            }
        }
    }

    #[test]
    fn grpc_timeouts_are_parsed() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("ascii"));
            grpc_timeout(&headers)
        };
        assert_eq!(read("150m"), Some(Duration::from_millis(150)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("7n"), Some(Duration::from_nanos(7)));
        for wrong in ["", "m", "5", "123456789m", "-1m", "1 m", "5x"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }
}
