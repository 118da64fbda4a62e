//! The service `Kv`: clients' calls become inputs of the event loop, and its answers become gRPC
//! answers. Calls come by the thousand, so they are read from HTTP/2, and answered into it, without
//! a task or a service in between. Nothing here decides anything about a transaction.

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::{Code, Status};

use crate::{
    answer::{self, ReasonKind},
    config::NodeLimits,
    meter::Meter,
    protocol::{self, Reply, Write},
    store::Limits,
    wire,
};

/// The service's name.
pub(super) const SERVICE: &str = pb::kv_server::SERVICE_NAME;

/// What a request may be larger than its value and key: beyond it the request is refused before it
/// is read, without saying what is wrong with it.
const REQUEST_SLACK_BYTES: usize = 16 << 20;
/// What gRPC puts before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A client's call, on its way to the event loop.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: protocol::Request,
    pub(super) reply: ResponseHandle,
    /// The connection that it came by.
    pub(super) meter: Arc<Meter>,
    /// Held as long as the call is under way, whether or not the client still waits.
    pub(super) _slot: OwnedSemaphorePermit,
}

/// What can be called.
#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    Put,
    Del,
    Get,
}

impl Method {
    /// The method that a request's path names, if it is one of these.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path.strip_prefix('/')?.strip_prefix(SERVICE)? {
            "/Put" => Some(Method::Put),
            "/Del" => Some(Method::Del),
            "/Get" => Some(Method::Get),
            _ => None,
        }
    }
}

/// Where calls are taken in.
pub(super) struct KvDesk {
    calls: mpsc::Sender<Call>,
    slots: Arc<Semaphore>,
    /// Set when no more calls are taken.
    stopping: Arc<AtomicBool>,
    limits: NodeLimits,
    sizes: Limits,
}

impl KvDesk {
    /// Hands calls to the event loop, as many at once as the limits allow.
    pub(super) fn new(
        calls: mpsc::Sender<Call>,
        stopping: Arc<AtomicBool>,
        limits: NodeLimits,
        sizes: Limits,
    ) -> Self {
        KvDesk {
            calls,
            slots: Arc::new(Semaphore::new(limits.max_inflight)),
            stopping,
            limits,
            sizes,
        }
    }

    /// Takes a call in: at once if all of it is there, as it nearly always is. From then on the
    /// transaction goes on even if the client goes.
    pub(super) fn take(
        self: &Arc<Self>,
        method: Method,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        meter: &Arc<Meter>,
    ) {
        let reply = ResponseHandle { method, respond: Some(respond) };
        let mut taking = Box::pin(self.clone().read(request, reply, meter.clone()));
        if taking.as_mut().now_or_never().is_none() {
            tokio::spawn(taking);
        }
    }

    async fn read(
        self: Arc<Self>,
        request: Request<RecvStream>,
        reply: ResponseHandle,
        meter: Arc<Meter>,
    ) {
        let (head, mut body) = request.into_parts();
        let message_bytes_max = self.sizes.value_bytes_max.saturating_add(REQUEST_SLACK_BYTES);
        let read = match whole(&mut body, message_bytes_max).await {
            Ok(message) => self.request(reply.method, message, &head.headers),
            Err(status) => Err(status),
        };
        match read.and_then(|request| Ok((request, self.slot()?))) {
            Ok((request, slot)) => {
                let call = Call { request, reply, meter, _slot: slot };
                // There is room for as many calls as there are slots, so it can only be closed.
                if let Err(call) = self.calls.try_send(call) {
                    call.into_inner().reply.refuse(stopping());
                }
            }
            Err(status) => reply.refuse(status),
        }
    }

    /// What a message asks for.
    fn request(
        &self,
        method: Method,
        message: Bytes,
        headers: &HeaderMap,
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
        self.sizes.check(&key, value.as_ref()).map_err(|error| {
            answer::refusal(Code::InvalidArgument, ReasonKind::Invalid, error.to_string(), [])
        })?;
        Ok(match method {
            Method::Put | Method::Del => protocol::Request::Write(Write { key, value }),
            Method::Get => {
                let deadline = grpc_timeout(headers)
                    .unwrap_or(Duration::from_millis(self.limits.get_deadline_ms))
                    .min(Duration::from_millis(self.limits.get_deadline_max_ms));
                protocol::Request::Get { key, choice: rand::random(), deadline }
            }
        })
    }

    fn slot(&self) -> Result<OwnedSemaphorePermit, Status> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(stopping());
        }
        self.slots.clone().try_acquire_owned().map_err(|_| {
            let text =
                format!("{} calls are in flight, which is the bound", self.limits.max_inflight);
            answer::refusal(Code::ResourceExhausted, ReasonKind::Overloaded, text, [])
        })
    }
}

/// Where the answer to a call goes. One that is dropped ends the call without our `ErrorInfo`: it
/// was taken, and nobody knows how it ended.
#[derive(Debug)]
pub(super) struct ResponseHandle {
    method: Method,
    respond: Option<SendResponse<Bytes>>,
}

impl ResponseHandle {
    /// Answers, and says whether there still is a client to be told.
    pub(super) fn send(mut self, outcome: Reply) -> bool {
        let Some(respond) = self.respond.take() else { return false };
        match message(self.method, outcome) {
            Ok(message) => finish(respond, message).is_ok(),
            Err(status) => refuse(respond, status).is_ok(),
        }
    }

    fn refuse(mut self, status: Status) {
        if let Some(respond) = self.respond.take() {
            // Whoever has called may be gone.
            let _ = refuse(respond, status);
        }
    }
}

impl Drop for ResponseHandle {
    fn drop(&mut self) {
        if let Some(respond) = self.respond.take() {
            let _ = refuse(respond, Status::unavailable("the node ended before the call did"));
        }
    }
}

/// The message that tells of an outcome, or the status that does.
fn message(method: Method, outcome: Reply) -> Result<Bytes, Status> {
    match (method, outcome) {
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
            let text = "no replica could answer in time".to_owned();
            Err(answer::refusal(Code::Unavailable, ReasonKind::Unavailable, text, []))
        }
        (method, outcome) => {
            Err(Status::internal(format!("a {method:?} was answered {}", outcome.kind())))
        }
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
    let text = "the node is about to end".to_owned();
    answer::refusal(Code::Unavailable, ReasonKind::Stopping, text, [])
}

/// The one message of a request, of at most so many bytes.
async fn whole(body: &mut RecvStream, bytes_max: usize) -> Result<Bytes, Status> {
    let first = part(body).await?.unwrap_or_default();
    let mut message = match part(body).await? {
        None => first,
        Some(second) => {
            let mut parts = BytesMut::from(first);
            let mut next = Some(second);
            while let Some(more) = next {
                parts.extend_from_slice(&more);
                if parts.len() > PREFIX_BYTES + bytes_max {
                    let text = format!("a request has at most {bytes_max} bytes");
                    return Err(Status::out_of_range(text));
                }
                next = part(body).await?;
            }
            parts.freeze()
        }
    };
    let cut = |_| Status::internal("a request without a whole message");
    let compressed = message.try_get_u8().map_err(cut)?;
    let length = message.try_get_u32().map_err(cut)?;
    if compressed != 0 {
        return Err(Status::unimplemented("requests are not taken compressed"));
    }
    if usize::try_from(length) != Ok(message.len()) {
        return Err(Status::internal("a request that is not one message"));
    }
    Ok(message)
}

/// The next part of a body; then there is room for another.
async fn part(body: &mut RecvStream) -> Result<Option<Bytes>, Status> {
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
    // A value is bounded far below what fits.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode(&mut bytes).expect("there is room for it");
    bytes.freeze()
}

/// The time that a caller has left, by the header that gRPC has for it: at most eight digits and a
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

    /// A connection to a desk, and the calls that it hands on.
    async fn connected() -> (client::SendRequest<Bytes>, mpsc::Receiver<Call>) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (calls, called) = mpsc::channel(16);
        let sizes = Limits { value_bytes_max: 100 };
        let desk = Arc::new(KvDesk::new(calls, Arc::default(), NodeLimits::default(), sizes));
        tokio::spawn(async move {
            let take = |request: Request<RecvStream>, respond| {
                let method = Method::of(request.uri().path()).expect("a method");
                desk.take(method, request, respond, &Arc::default());
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
        let told = |headers: &HeaderMap| Status::from_header_map(headers).expect("a status");
        if head.headers.contains_key(Status::GRPC_STATUS) {
            return Err(told(&head.headers));
        }
        let message = whole(&mut body, usize::MAX >> 1).await.expect("one message");
        let trailers = body.trailers().await.expect("no error").expect("trailers");
        assert_eq!(told(&trailers).code(), Code::Ok);
        Ok(message)
    }

    fn put() -> Bytes {
        encode(&pb::PutRequest { key: "k".into(), value: "some value".into() })
    }

    #[tokio::test]
    async fn a_request_is_taken_in_whole_however_it_comes() {
        let (mut sender, mut called) = connected().await;
        for at in 0..put().len() {
            let (answer, mut body) = begin(&mut sender, "/twopc.v1.Kv/Put");
            let (first, second) = (put().slice(..at), put().slice(at..));
            body.send_data(first, false).expect("is sent");
            // The other side sees the first part alone, or both: the same must come of it.
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
            assert!(call.reply.send(Reply::Committed { version: Version::new(1, 7) }));
            let message = answer.await.expect("ok");
            let put: pb::PutResponse = decode(message).expect("a message");
            assert_eq!(put.version, Some(pb::TxnId { epoch: 1, seq: 7 }));
        }
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused_with_a_status() {
        let (mut sender, mut called) = connected().await;
        let mut compressed = put().to_vec();
        compressed[0] = 1;
        let short = put().slice(..put().len() - 1);
        let two = [put(), put()].concat();
        let foreign = [&[0, 0, 0, 0, 3][..], &[0xff; 3]].concat();
        let large = vec![0; REQUEST_SLACK_BYTES + 200];
        let cases: [(Bytes, Code); 6] = [
            (Bytes::new(), Code::Internal),
            (compressed.into(), Code::Unimplemented),
            (short, Code::Internal),
            (two.into(), Code::Internal),
            (foreign.into(), Code::Internal),
            (large.into(), Code::OutOfRange),
        ];
        for (request, code) in cases {
            let (answer, mut body) = begin(&mut sender, "/twopc.v1.Kv/Put");
            body.send_data(request, true).expect("is sent");
            let status = tokio::select! {
                answer = end(answer) => answer.expect_err("is refused"),
                _ = called.recv() => panic!("is taken"),
            };
            assert_eq!(status.code(), code, "{status}");
        }
    }

    #[tokio::test]
    async fn a_value_beyond_every_window_is_told_whole() {
        let (mut sender, mut called) = connected().await;
        let (answer, mut body) = begin(&mut sender, "/twopc.v1.Kv/Get");
        let request = pb::GetRequest { key: "k".into() };
        body.send_data(encode(&request), true).expect("is sent");
        let call = called.recv().await.expect("a call");
        let value = protocol::Value::from(vec![7; 1 << 20]);
        assert!(call.reply.send(Reply::Value(Some((Version::new(1, 7), value)))));
        let message = end(answer).await.expect("ok");
        let got: pb::GetResponse = decode(message).expect("a message");
        assert_eq!(got.found.expect("a value").value, vec![7; 1 << 20]);
    }

    #[tokio::test]
    async fn a_call_that_nobody_answers_ends_without_certainty() {
        let (mut sender, mut called) = connected().await;
        let (answer, mut body) = begin(&mut sender, "/twopc.v1.Kv/Put");
        body.send_data(put(), true).expect("is sent");
        drop(called.recv().await.expect("a call"));
        let status = end(answer).await.expect_err("no answer");
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(answer::reason(&status), None);
    }

    #[tokio::test]
    async fn a_client_that_has_gone_is_told_nothing() {
        let (mut sender, mut called) = connected().await;
        let (gone, mut body) = begin(&mut sender, "/twopc.v1.Kv/Put");
        body.send_data(put(), true).expect("is sent");
        let first = called.recv().await.expect("a call");
        drop((gone, body));
        let (_there, mut body) = begin(&mut sender, "/twopc.v1.Kv/Put");
        body.send_data(put(), true).expect("is sent");
        let second = called.recv().await.expect("a call");
        let outcome = Reply::Committed { version: Version::new(1, 7) };
        assert!(!first.reply.send(outcome.clone()));
        assert!(second.reply.send(outcome));
    }

    #[test]
    fn grpc_timeouts_are_read() {
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
