//! Serves an HTTP/2 connection. Requests are passed on as they arrive, and one task writes all
//! answers. Does not know what is requested.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::{Status, body::Body, codegen::Service};

use crate::meter::Meter;

/// The prefix of a gRPC message: a compression flag and the length.
pub(super) const PREFIX_BYTES: usize = 5;
/// Streams that a client may reset in a second, besides those that it may reset at once.
const RESETS_PER_SECOND: f64 = 1000.0;
/// Calls that a new connection may reset at once. It may reset more when it is older: a flood must not begin anew with
/// each connection.
const FIRST_RESETS: f64 = 200.0;
/// How long nothing is read from a connection that reset too many calls, before it is closed.
const PENALTY: Duration = Duration::from_secs(1);
/// How long a client that is told to go away may take to read that.
const GO_AWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("{0}")]
    Http2(#[from] h2::Error),
    #[error("the handshake was not completed in time")]
    Handshake,
    #[error("the client reset too many calls")]
    Resets,
}

/// Serves a connection until it closes, and accepts no new requests once `stopped` completes.
/// `take` runs in the connection's own task.
pub(super) async fn serve(
    builder: &Builder,
    io: impl AsyncRead + AsyncWrite + Unpin,
    meter: &Meter,
    handshake_until: Instant,
    mut resets: Resets,
    mut take: impl FnMut(Request<RecvStream>, SendResponse<Bytes>),
    stopped: impl Future<Output = ()>,
) -> Result<(), ConnectionError> {
    let mut stopped = pin!(stopped);
    let mut connection = tokio::select! {
        connection = timeout_at(handshake_until, builder.handshake(io)) => {
            connection.map_err(|_| ConnectionError::Handshake)??
        }
        () = &mut stopped => return Ok(()),
    };
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            request = connection.accept() => match request.transpose()? {
                Some((request, respond)) => take(request, respond),
                None => return Ok(()),
            },
            () = &mut stopped, if !stopping => {
                stopping = true;
                connection.graceful_shutdown();
            }
        }
        if resets.are_too_many(meter.resets(), Instant::now) {
            // Nothing is read from it meanwhile, so it cannot go on at the cost of others.
            tokio::select! {
                () = sleep(PENALTY) => {}
                () = &mut stopped, if !stopping => {}
            }
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            // What it still asks for is not served.
            let refused = async { while let Some(Ok(_)) = connection.accept().await {} };
            let _ = timeout(GO_AWAY_TIMEOUT, refused).await;
            return Err(ConnectionError::Resets);
        }
    }
}

/// Whether a client resets more calls than one that only gives up some of its own. Each reset call costs the node as
/// much as one that is answered, and the client next to nothing.
#[derive(Debug)]
pub(super) struct Resets {
    /// How many may be reset at once: a client whose node was paused gives up all that it had in progress.
    burst: f64,
    left: f64,
    counted: u64,
    at: Instant,
}

impl Resets {
    /// Allows a client to reset this many calls at once, when its connection is not new any more.
    pub(super) fn new(burst: usize) -> Self {
        let burst = f64::from(u32::try_from(burst).unwrap_or(u32::MAX));
        Resets { burst, left: burst.min(FIRST_RESETS), counted: 0, at: Instant::now() }
    }

    fn are_too_many(&mut self, total: u64, now: impl FnOnce() -> Instant) -> bool {
        if total == self.counted {
            return false;
        }
        let more = u32::try_from(total - mem::replace(&mut self.counted, total));
        let now = now();
        let since = now - mem::replace(&mut self.at, now);
        self.left = (self.left + since.as_secs_f64() * RESETS_PER_SECOND).min(self.burst)
            - f64::from(more.unwrap_or(u32::MAX));
        self.left < 0.0
    }
}

/// What a tower service takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceLimits {
    /// The size of the first message of a request, in bytes.
    pub(super) first_message_bytes_max: u32,
    /// The time until the service answers, in which a unary request has to arrive.
    pub(super) timeout: Duration,
}

/// Forwards a request to a tower service, and gives up when the client resets the stream.
pub(super) async fn forward<S>(
    mut service: S,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    limits: ServiceLimits,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    let first = Some(Prefix::new(limits.first_message_bytes_max));
    let answer = service.call(request.map(|body| Incoming { body, first }));
    let response = tokio::select! {
        answer = timeout(limits.timeout, answer) => match answer {
            Ok(Ok(response)) => response,
            Err(_) => Status::deadline_exceeded("the request did not arrive in time").into_http(),
        },
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    if let Err(error) = send(response, respond).await {
        tracing::debug!("the client did not take the answer: {error}");
    }
}

async fn send(response: Response<Body>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let (head, mut body) = response.into_parts();
    let ends = body.is_end_stream();
    let mut stream = respond.send_response(Response::from_parts(head, ()), ends)?;
    if ends {
        return Ok(());
    }
    loop {
        let frame = tokio::select! {
            frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)) => frame,
            reason = poll_fn(|cx| stream.poll_reset(cx)) => return Err(reason?.into()),
        };
        let Some(frame) = frame else { return stream.send_data(Bytes::new(), true) };
        let Ok(frame) = frame else {
            stream.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        };
        match frame.into_data() {
            Ok(data) => {
                wait_for_capacity(&mut stream).await?;
                stream.send_data(data, false)?;
            }
            Err(frame) => {
                return stream.send_trailers(frame.into_trailers().unwrap_or_default());
            }
        }
    }
}

/// Waits for flow-control capacity. The amount available is only known byte by byte, and data sent
/// beyond it is buffered in the connection. So at most one frame is ever buffered there.
async fn wait_for_capacity(stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(capacity) => capacity?,
            None => return Err(Reason::CANCEL.into()),
        };
    }
    Ok(())
}

/// The prefix of the first message of a request: a compression flag and the length.
#[derive(Debug)]
struct Prefix {
    bytes: [u8; PREFIX_BYTES],
    filled: usize,
    message_bytes_max: u32,
}

impl Prefix {
    fn new(message_bytes_max: u32) -> Self {
        Prefix { bytes: [0; PREFIX_BYTES], filled: 0, message_bytes_max }
    }

    /// Takes the first bytes of a request. Returns whether the announced length is within the limit, once it is known.
    fn take(&mut self, data: &[u8]) -> Option<bool> {
        let n = data.len().min(PREFIX_BYTES - self.filled);
        self.bytes[self.filled..self.filled + n].copy_from_slice(&data[..n]);
        self.filled += n;
        let [_, a, b, c, d] = self.bytes;
        (self.filled == PREFIX_BYTES)
            .then(|| u32::from_be_bytes([a, b, c, d]) <= self.message_bytes_max)
    }
}

/// The body of a request, for tower services. Reading it releases flow-control capacity. Services reserve memory for
/// a message as its prefix announces it, so the prefix of the first message is checked here.
pub(super) struct Incoming {
    body: RecvStream,
    /// Until it has arrived.
    first: Option<Prefix>,
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Incoming { body, first } = &mut *self;
        let broken = |error: h2::Error| Status::cancelled(error.to_string());
        if let Some(data) = ready!(body.poll_data(cx)) {
            let data = data.map_err(broken)?;
            body.flow_control().release_capacity(data.len()).map_err(broken)?;
            match first.as_mut().and_then(|first| first.take(&data)) {
                Some(true) => *first = None,
                Some(false) => {
                    let text = "the first message is larger than this service takes";
                    return Poll::Ready(Some(Err(Status::resource_exhausted(text))));
                }
                None => {}
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let trailers: Option<HeaderMap> = ready!(body.poll_trailers(cx)).map_err(broken)?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_checked_however_they_are_split() {
        for (length, fits) in [(0, true), (1000, true), (1001, false), (u32::MAX, false)] {
            let bytes = [&[0][..], &u32::to_be_bytes(length), b"rest"].concat();
            for size in 1..bytes.len() {
                let mut prefix = Prefix::new(1000);
                let verdict = bytes.chunks(size).find_map(|part| prefix.take(part));
                assert_eq!(verdict, Some(fits), "{length} in pieces of {size}");
            }
        }
        assert_eq!(Prefix::new(1000).take(&[0, 0, 0, 4]), None);
    }

    #[test]
    fn a_client_may_give_up_its_calls_but_not_more() {
        let ms = |ms| move || Instant::now() + Duration::from_millis(ms);
        let mut resets = Resets::new(100);
        assert!(!resets.are_too_many(0, ms(0)));
        assert!(!resets.are_too_many(100, ms(0)), "all at once");
        assert!(!resets.are_too_many(200, ms(200)), "as many later");
        assert!(resets.are_too_many(1000, ms(200)));
        let mut new = Resets::new(5000);
        assert!(!new.are_too_many(200, ms(0)));
        assert!(new.are_too_many(1000, ms(0)), "a new connection");
        let mut older = Resets::new(5000);
        assert!(!older.are_too_many(5000, ms(6000)));
        let mut patient = Resets::new(100);
        for n in 1..=10_000 {
            assert!(!patient.are_too_many(n, ms(n + 10)));
        }
    }
}
