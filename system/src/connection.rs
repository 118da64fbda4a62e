//! One HTTP/2 connection to a node, made eagerly and never remade behind its user's back, so that
//! it is known of each request whether it can have left. Knows nothing of what is called.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tonic::body::Body;

use crate::{
    config::Address,
    meter::{Meter, Metered},
};

/// HTTP/2 flow control holds back what does not fit: several of the largest values at once.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The same for all streams of a connection together.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The kernel asks an idle connection's other side whether it still is there after this, and again
/// after as long, so many times in vain until the connection has ended. A process that lies still
/// is no such case: its kernel answers for it. A host that lost its power says nothing when it
/// comes back, and this side would wait for ever.
const KEEPALIVE: Duration = Duration::from_secs(1);
const KEEPALIVE_PROBES: u32 = 4;
/// What was sent and has not reached the other side's kernel for so long has a dead connection.
const UNHEARD_MAX: Duration = Duration::from_secs(5);

/// Sets up the socket of a connection, on either side of it: small messages leave at once, and a
/// host that is gone is noticed.
pub(crate) fn set_up(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNHEARD_MAX))?;
    stream.set_nodelay(true)
}

/// A live connection. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    sender: http2::SendRequest<Body>,
    origin: http::Uri,
    meter: Arc<Meter>,
}

impl Connection {
    /// Dials, and waits until the other side has spoken HTTP/2: a process that is stopped, whose
    /// kernel still accepts for it, does not count as reached. Sends no request.
    pub(crate) async fn open(address: &Address) -> io::Result<Self> {
        let origin = http::Uri::builder()
            .scheme("http")
            .authority(address.as_str())
            .path_and_query("/")
            .build()
            .map_err(io::Error::other)?;
        let stream = TcpStream::connect(address.as_str()).await?;
        set_up(&stream)?;
        let stream = Metered::client(stream);
        let meter = stream.meter();
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let mut driver = tokio::spawn(connection);
        tokio::select! {
            () = meter.heard() => Ok(Connection { sender, origin, meter }),
            ended = &mut driver => Err(match ended {
                Ok(Err(error)) => io::Error::other(error),
                Ok(Ok(())) | Err(_) => io::ErrorKind::ConnectionAborted.into(),
            }),
        }
    }

    /// Whether the connection has ended, as far as this side has noticed.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// What gRPC clients of this connection take for the origin of their requests.
    pub(crate) fn origin(&self) -> http::Uri {
        self.origin.clone()
    }

    /// What the connection's socket has taken.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// A service for one request, or one client of them.
    pub(crate) fn courier(&self) -> Courier {
        Courier { sender: self.sender.clone(), kept: Arc::default() }
    }
}

/// Carries requests over a connection, and knows if one certainly never left.
#[derive(Clone, Debug)]
pub(crate) struct Courier {
    sender: http2::SendRequest<Body>,
    kept: Arc<AtomicBool>,
}

impl Courier {
    /// Set once a request could not be handed to the connection: not one byte of it left.
    pub(crate) fn kept(&self) -> Arc<AtomicBool> {
        self.kept.clone()
    }
}

impl tower::Service<http::Request<Body>> for Courier {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Whether the connection is closed is seen in `call`, which can tell of it.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.sender.try_send_request(request);
        let kept = self.kept.clone();
        Box::pin(async move {
            answer.await.map_err(|failure| {
                // The request comes back only if nothing of it was written anywhere.
                if failure.message().is_some() {
                    kept.store(true, Ordering::Release);
                }
                failure.into_error()
            })
        })
    }
}
