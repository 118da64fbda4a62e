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
    sync::mpsc,
    time::{Instant, timeout},
};
use tonic::{Code, Status};

use super::{
    http2::PREFIX_BYTES,
    limits::{Account, Exhausted, Hold, Resource},
};
use crate::{
    answer::{self, ReasonKind},
    config::NodeLimits,
    protocol::{self, Blob, Key, KeyRange, Page, Query, Reply, Snapshot, Write},
    store::Limits,
    wire,
};

/// The name of the service.
pub(super) const SERVICE: &str = pb::kv_server::SERVICE_NAME;

/// The size that a request or an answer may have beyond its value: the key, and what the encoding adds. A larger
/// request is refused before it is read.
const OVERHEAD_BYTES_MAX: usize = 64 << 10;

/// The largest message of a call.
pub(super) fn message_bytes_max(sizes: Limits) -> usize {
    sizes.value_bytes_max.saturating_add(OVERHEAD_BYTES_MAX)
}

/// A client's call on its way to the event loop.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: protocol::Request,
    pub(super) handle: ResponseHandle,
    /// When the client gives up, if it said so. A write that has not begun by then must not begin.
    pub(super) deadline: Option<Instant>,
    /// Of the client's connection.
    pub(super) account: Arc<Account>,
    pub(super) held: Held,
}

/// What a call holds while it is in progress, whether or not the client still waits.
#[derive(Debug)]
pub(super) struct Held {
    /// Until the answer has left.
    slot: Hold,
    /// For a write, its bytes until it is decided; for a read, what its answer is expected to have.
    room: Option<Hold>,
}

/// The methods of the service.
#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    Put,
    Del,
    Get,
    Read,
    Range,
}

impl Method {
    /// The method that the path of a request names.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path.strip_prefix('/')?.strip_prefix(SERVICE)? {
            "/Put" => Some(Method::Put),
            "/Del" => Some(Method::Del),
            "/Get" => Some(Method::Get),
            "/Read" => Some(Method::Read),
            "/Range" => Some(Method::Range),
            _ => None,
        }
    }

    /// Whether it has no effect, and may have a long answer.
    fn is_read(self) -> bool {
        match self {
            Method::Get | Method::Read | Method::Range => true,
            Method::Put | Method::Del => false,
        }
    }
}

/// Receives calls.
pub(super) struct KvService {
    calls: mpsc::Sender<Call>,
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
        KvService { calls, stopping, limits, sizes }
    }

    /// Receives a call: immediately if it is complete, as it nearly always is, and otherwise in a
    /// separate task. From then on the transaction proceeds even if the client disconnects.
    pub(super) fn take(
        self: &Arc<Self>,
        method: Method,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        account: &Arc<Account>,
    ) {
        let handle = ResponseHandle { method, respond: Some(respond), accepted: false };
        let slot = match self.admit(account) {
            Ok(slot) => slot,
            Err(status) => return handle.refuse(status),
        };
        let (head, body) = request.into_parts();
        let limit = grpc_timeout(&head.headers);
        let mut reading = Box::pin(self.clone().read(body, handle, limit, slot, account.clone()));
        if reading.as_mut().now_or_never().is_none() {
            let within = Duration::from_millis(self.limits.request_timeout_ms);
            // A call that is given up before it is accepted tells its client that it had no effect.
            tokio::spawn(timeout(within, reading));
        }
    }

    /// Takes a slot for a call, before anything of it is read.
    fn admit(&self, account: &Arc<Account>) -> Result<Hold, Status> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(stopping());
        }
        account.take(Resource::Calls, 1).map_err(overloaded)
    }

    async fn read(
        self: Arc<Self>,
        mut body: RecvStream,
        mut handle: ResponseHandle,
        timeout: Option<Duration>,
        slot: Hold,
        account: Arc<Account>,
    ) {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let is_write = !handle.method.is_read();
        let read = read_message(&mut body, message_bytes_max(self.sizes), &account).await;
        let admitted = read.and_then(|message| {
            let bytes = message.len();
            let request = self.request(handle.method, message, timeout)?;
            let room = if is_write {
                account.take(Resource::WriteBytes, bytes)
            } else {
                account.expect_answer()
            };
            Ok((request, room.map_err(overloaded)?))
        });
        match admitted {
            Ok((request, room)) => {
                handle.accepted = true;
                let held = Held { slot, room: Some(room) };
                let call = Call { request, handle, deadline, account, held };
                // The queue has room for as many calls as there are slots, so this fails only if
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
            Method::Read => {
                let keys = decode::<pb::ReadRequest>(message)?.keys;
                let query = Query::Keys(keys.iter().map(wire::blob_from_wire).collect());
                return self.snapshot(query, timeout);
            }
            Method::Range => {
                return self.snapshot(Query::Range(range(decode(message)?)?), timeout);
            }
            Method::Put => {
                let pb::PutRequest { key, value } = decode(message)?;
                (key, Some(wire::blob_from_wire(&value)))
            }
            Method::Del => (decode::<pb::DelRequest>(message)?.key, None),
            Method::Get => (decode::<pb::GetRequest>(message)?.key, None),
        };
        let key = wire::blob_from_wire(&key);
        let checked = self.sizes.check(key.as_bytes(), value.as_ref().map(Blob::as_bytes));
        checked.map_err(|error| invalid(error.to_string()))?;
        Ok(if method.is_read() {
            let deadline = self.read_deadline(timeout);
            protocol::Request::Get { key, choice: rand::random(), deadline }
        } else {
            protocol::Request::Write(Write { key, value })
        })
    }

    fn snapshot(
        &self,
        query: Query,
        timeout: Option<Duration>,
    ) -> Result<protocol::Request, Status> {
        wire::check_query(&query, &self.sizes).map_err(invalid)?;
        let deadline = self.read_deadline(timeout);
        Ok(protocol::Request::Snapshot { query, choice: rand::random(), deadline })
    }

    /// How long the master tries to read.
    fn read_deadline(&self, timeout: Option<Duration>) -> Duration {
        timeout
            .unwrap_or(Duration::from_millis(self.limits.get_deadline_ms))
            .min(Duration::from_millis(self.limits.get_deadline_max_ms))
    }
}

/// The range that a request means.
fn range(request: pb::RangeRequest) -> Result<KeyRange, Status> {
    let pb::RangeRequest { from, to, prefix, limit, after } = request;
    let bound = |key: &Bytes| (!key.is_empty()).then(|| wire::blob_from_wire(key));
    let (from, to) = match (bound(&from), bound(&to), bound(&prefix)) {
        (from, to, None) => (from, to),
        (None, None, Some(prefix)) => {
            let end = end_of_prefix(prefix.as_bytes());
            (Some(prefix), end)
        }
        _ => return Err(invalid("a range has a prefix, or bounds, but not both".to_owned())),
    };
    let limit = match limit {
        0 => Query::PAGE_ENTRIES_MAX,
        limit => limit.min(Query::PAGE_ENTRIES_MAX),
    };
    Ok(KeyRange { from, after: bound(&after), to, limit })
}

/// The least key that is greater than all keys with a prefix; none if there is no such key.
fn end_of_prefix(prefix: &[u8]) -> Option<Key> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
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
        self.handle.refuse(expired(text));
    }
}

/// The handle for the response to a call. If it is dropped once the call was accepted, the call ends without our
/// `ErrorInfo`: its outcome is unknown.
#[derive(Debug)]
pub(super) struct ResponseHandle {
    method: Method,
    respond: Option<SendResponse<Bytes>>,
    /// The call is on its way to the event loop, so it may take effect.
    accepted: bool,
}

impl ResponseHandle {
    /// Sends the reply. The call keeps its slot, and its answer a part of the budget, until the kernel has accepted
    /// the answer. Returns whether the client is still there.
    pub(super) fn send(mut self, reply: Reply, mut held: Held, account: &Arc<Account>) -> bool {
        let Some(respond) = self.respond.take() else { return false };
        held.room = None;
        let answer = message(self.method, reply).and_then(|bytes| {
            // Only a read has a long answer. It had no effect, so it may be refused.
            let room = account.take(Resource::AnswerBytes, bytes.len());
            let room = if self.method.is_read() {
                account.count_answer(bytes.len());
                Some(room.map_err(overloaded)?)
            } else {
                room.ok()
            };
            Ok(Bytes::from_owner(Answer { bytes, _slot: held.slot, _room: room }))
        });
        match answer {
            Ok(answer) => finish(respond, answer).is_ok(),
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
            let status = if self.accepted {
                Status::unavailable("the node stopped before the call was answered")
            } else {
                expired("the request did not arrive in time".to_owned())
            };
            let _ = refuse(respond, status);
        }
    }
}

/// An answer on its way: HTTP/2 drops it when the kernel has accepted it, or when the stream is gone.
struct Answer {
    bytes: Bytes,
    _slot: Hold,
    _room: Option<Hold>,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn expired(text: String) -> Status {
    answer::refusal(Code::DeadlineExceeded, ReasonKind::Expired, text, [])
}

fn invalid(text: String) -> Status {
    answer::refusal(Code::InvalidArgument, ReasonKind::Invalid, text, [])
}

fn overloaded(why: Exhausted) -> Status {
    answer::overloaded(why.to_string())
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
        (_, Reply::Snapshot { snapshot, watermark }) => {
            snapshot_message(method, snapshot, wire::txn_to_wire(watermark))
        }
        (Method::Get | Method::Read | Method::Range, Reply::Unavailable) => {
            let text = "no replica answered in time".to_owned();
            Err(answer::refusal(Code::Unavailable, ReasonKind::Unavailable, text, []))
        }
        (method, reply) => Err(unexpected(method, reply.kind())),
    }
}

/// The response message for a snapshot, or the error status.
fn snapshot_message(
    method: Method,
    snapshot: Snapshot,
    watermark: pb::TxnId,
) -> Result<Bytes, Status> {
    let watermark = Some(watermark);
    match (method, snapshot) {
        (Method::Read, Snapshot::Keys(found)) => {
            Ok(encode(&pb::ReadResponse { found: wire::many_to_wire(found), watermark }))
        }
        (Method::Range, Snapshot::Page(Page { entries, end })) => {
            let (entries, end) = (wire::entries_to_wire(entries), end.map(wire::blob_to_wire));
            Ok(encode(&pb::RangeResponse { entries, end, watermark }))
        }
        (Method::Read, Snapshot::TooLarge) => {
            let text = "the values of the keys are too long for one answer: read fewer keys";
            let kind = ReasonKind::TooLarge;
            Err(answer::refusal(Code::ResourceExhausted, kind, text.to_owned(), []))
        }
        (method, _) => Err(unexpected(method, "snapshot")),
    }
}

fn unexpected(method: Method, kind: &str) -> Status {
    Status::internal(format!("a {method:?} request got a reply of kind {kind}"))
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

/// Reads the single message of a request, of at most `bytes_max` bytes. One that is longer, or that does not fit into
/// the budget of its connection, is refused once its prefix has arrived.
async fn read_message(
    body: &mut RecvStream,
    bytes_max: usize,
    account: &Arc<Account>,
) -> Result<Bytes, Status> {
    let mut chunk = next_chunk(body).await?.unwrap_or_default();
    if chunk.len() < PREFIX_BYTES {
        // Copied: a part of a few bytes would keep the buffer in which it arrived.
        let mut parts = BytesMut::from(&chunk[..]);
        while parts.len() < PREFIX_BYTES
            && let Some(more) = next_chunk(body).await?
        {
            parts.extend_from_slice(&more);
        }
        chunk = parts.freeze();
    }
    let cut = || Status::internal("the request is truncated");
    let compressed = chunk.try_get_u8().map_err(|_| cut())?;
    let length = chunk.try_get_u32().map_err(|_| cut())?;
    if compressed != 0 {
        return Err(Status::unimplemented("compressed requests are not supported"));
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > bytes_max {
        let text = format!("a request has at most {bytes_max} bytes");
        return Err(answer::refusal(Code::InvalidArgument, ReasonKind::Invalid, text, []));
    }
    // Until the rest has arrived.
    let mut _room = None;
    if chunk.len() < length {
        _room = Some(account.take(Resource::RequestBytes, length).map_err(overloaded)?);
        let mut message = BytesMut::with_capacity(length);
        message.extend_from_slice(&chunk);
        drop(chunk);
        while message.len() < length {
            let more = next_chunk(body).await?.ok_or_else(cut)?;
            message.extend_from_slice(&more);
        }
        chunk = message.freeze();
    }
    let mut excess = chunk.len() - length;
    while excess == 0
        && let Some(more) = next_chunk(body).await?
    {
        excess = more.len();
    }
    if excess > 0 {
        return Err(Status::internal("the request must be exactly one message"));
    }
    Ok(chunk)
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
    use crate::{
        node::{
            http2,
            limits::{Budgets, RESOURCES},
        },
        protocol::Version,
    };

    type Answer = Result<Bytes, Status>;

    const VALUE_BYTES_MAX: usize = 100;

    /// A connection to the service, and the calls that it passes on.
    async fn connected() -> (client::SendRequest<Bytes>, mpsc::Receiver<Call>) {
        let (sender, called, _) = limited(&NodeLimits::default()).await;
        (sender, called)
    }

    /// A connection to a service with these limits, the calls that it passes on, and the account of the connection.
    async fn limited(
        limits: &NodeLimits,
    ) -> (client::SendRequest<Bytes>, mpsc::Receiver<Call>, Arc<Account>) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (calls, called) = mpsc::channel(16);
        let sizes = Limits { value_bytes_max: VALUE_BYTES_MAX };
        let service = Arc::new(KvService::new(calls, Arc::default(), limits.clone(), sizes));
        let budgets = Arc::new(Budgets::new(limits, message_bytes_max(sizes)));
        let account = Account::new(budgets, Arc::default());
        let connection = account.clone();
        tokio::spawn(async move {
            let take = |request: Request<RecvStream>, respond| {
                let method = Method::of(request.uri().path()).expect("a method");
                service.take(method, request, respond, &connection);
            };
            let builder = h2::server::Builder::new();
            let (meter, resets) = (connection.meter.clone(), http2::Resets::new(1000));
            let until = Instant::now() + Duration::from_secs(60);
            http2::serve(&builder, far, &meter, until, resets, take, future::pending()).await
        });
        let (sender, connection) = client::handshake(near).await.expect("speaks HTTP/2");
        tokio::spawn(connection);
        (sender, called, account)
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
        let account =
            Account::new(Arc::new(Budgets::new(&NodeLimits::default(), 0)), Arc::default());
        let message = read_message(&mut body, 8 << 20, &account).await.expect("one message");
        let trailers = body.trailers().await.expect("no error").expect("trailers");
        assert_eq!(status(&trailers).code(), Code::Ok);
        Ok(message)
    }

    fn reply(call: Call, reply: Reply) -> bool {
        let Call { handle, held, account, .. } = call;
        handle.send(reply, held, &account)
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
            let protocol::Request::Write(write) = &call.request else { panic!("no write") };
            assert_eq!(write.key.as_bytes(), b"k");
            assert_eq!(write.value.as_ref().expect("a value").as_bytes(), b"some value");
            assert!(reply(call, Reply::Committed { version: Version::new(1, 7) }));
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
        let large = [&[0, 0xff, 0xff, 0xff, 0xff][..], &[0; 200]].concat();
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
        assert!(reply(call, Reply::Value(Some((Version::new(1, 7), value)))));
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
        let committed = Reply::Committed { version: Version::new(1, 7) };
        assert!(!reply(first, committed.clone()));
        assert!(reply(second, committed));
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

    async fn get(sender: &mut client::SendRequest<Bytes>) -> client::ResponseFuture {
        let (answer, mut body) = begin(sender, "/twopc.v1.Kv/Get");
        let request = pb::GetRequest { key: "k".into() };
        body.send_data(encode(&request), true).expect("is sent");
        answer
    }

    fn is_overload(status: &Status) -> bool {
        let reason = answer::reason(status).expect("certainly without effect");
        status.code() == Code::ResourceExhausted
            && reason.kind == ReasonKind::Overloaded
            && reason.retry_after.is_some()
    }

    #[tokio::test]
    async fn an_answer_keeps_its_slot_and_its_bytes_until_the_client_takes_it() {
        let size = 1 << 20;
        let limits = NodeLimits {
            connection_max_inflight: 3,
            connection_answer_bytes_max: 5 * size / 2,
            ..NodeLimits::default()
        };
        let (mut sender, mut called, account) = limited(&limits).await;
        let value = Reply::Value(Some((Version::new(1, 7), vec![7; size].into())));
        // More than fits into the window of the connection, so none of it leaves before it is taken.
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(get(&mut sender).await);
        }
        for _ in 0..3 {
            assert!(reply(called.recv().await.expect("a call"), value.clone()));
        }
        let heads = [answers.remove(0).await, answers.remove(0).await].map(|it| it.expect("ok"));
        // The third does not fit any more: it had no effect, and is refused.
        assert!(is_overload(&end(answers.remove(0)).await.expect_err("is refused")));
        assert_eq!(account.used(Resource::Calls), 2);
        assert!(account.used(Resource::AnswerBytes) > 2 * size);
        let another = begin(&mut sender, "/twopc.v1.Kv/Put");
        let fourth = end(begin(&mut sender, "/twopc.v1.Kv/Del").0).await.expect_err("is refused");
        assert!(is_overload(&fourth), "a slot is taken by a call of which nothing has arrived");
        drop(another);
        let [first, second] = heads.map(http::Response::into_body);
        // One stream is given up, the other is read.
        drop(first);
        let mut body = second;
        while let Some(part) = body.data().await {
            let part = part.expect("no error").len();
            body.flow_control().release_capacity(part).expect("was taken");
        }
        body.trailers().await.expect("no error").expect("trailers");
        let nothing = || RESOURCES.iter().all(|resource| account.used(*resource) == 0);
        while !nothing() {
            tokio::task::yield_now().await;
        }
        let next = get(&mut sender).await;
        assert!(reply(called.recv().await.expect("a call"), Reply::Value(None)));
        end(next).await.expect("ok");
    }

    #[tokio::test]
    async fn requests_are_refused_by_their_prefix() {
        let limits = NodeLimits { connection_request_bytes_max: 1, ..NodeLimits::default() };
        let (mut sender, _called, account) = limited(&limits).await;
        // Budgets have room for one request of the largest size.
        let length = u32::try_from(VALUE_BYTES_MAX).expect("small") + (64 << 10);
        let begin_put = |sender: &mut client::SendRequest<Bytes>, length: u32| {
            let (answer, mut body) = begin(sender, "/twopc.v1.Kv/Put");
            let prefix = [&[0][..], &length.to_be_bytes()].concat();
            body.send_data(prefix.into(), false).expect("is sent");
            (answer, body)
        };
        let (unfinished, body) = begin_put(&mut sender, length);
        while account.used(Resource::RequestBytes) == 0 {
            tokio::task::yield_now().await;
        }
        let (refused, _body) = begin_put(&mut sender, length);
        assert!(is_overload(&end(refused).await.expect_err("is refused")));
        let (refused, _body) = begin_put(&mut sender, length + 1);
        let status = end(refused).await.expect_err("is refused");
        assert_eq!(answer::reason(&status).expect("ours").kind, ReasonKind::Invalid, "{status}");
        drop((unfinished, body));
        while account.used(Resource::RequestBytes) > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_request_that_does_not_arrive_is_refused_and_had_no_effect() {
        let limits = NodeLimits { request_timeout_ms: 20, ..NodeLimits::default() };
        let (mut sender, mut called, account) = limited(&limits).await;
        let (answer, mut body) = begin(&mut sender, "/twopc.v1.Kv/Put");
        body.send_data(put().slice(..7), false).expect("is sent");
        let status = end(answer).await.expect_err("is refused");
        assert_eq!(answer::reason(&status).expect("ours").kind, ReasonKind::Expired, "{status}");
        assert!(called.try_recv().is_err());
        assert_eq!(account.used(Resource::Calls), 0);
    }

    #[tokio::test]
    async fn writes_are_admitted_by_bytes() {
        let limits = NodeLimits { write_bytes_max: 1, ..NodeLimits::default() };
        let (mut sender, mut called, account) = limited(&limits).await;
        let value = vec![7; VALUE_BYTES_MAX];
        let large = encode(&pb::PutRequest { key: "k".into(), value: value.into() });
        let held = account.take(Resource::WriteBytes, 64 << 10).expect("there is room");
        let (answer, mut body) = begin(&mut sender, "/twopc.v1.Kv/Put");
        body.send_data(large.clone(), true).expect("is sent");
        assert!(is_overload(&end(answer).await.expect_err("is refused")));
        drop(held);
        let (answer, mut body) = begin(&mut sender, "/twopc.v1.Kv/Put");
        body.send_data(large, true).expect("is sent");
        let call = called.recv().await.expect("a call");
        assert!(account.used(Resource::WriteBytes) > VALUE_BYTES_MAX);
        assert!(reply(call, Reply::Committed { version: Version::new(1, 7) }));
        end(answer).await.expect("ok");
        assert_eq!(account.used(Resource::WriteBytes), 0, "it is decided");
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
