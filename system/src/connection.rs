//! An HTTP/2 connection to a node. It is made eagerly and never re-established implicitly, so that
//! it is known for each request whether it may have been sent. Does not know what is called.

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
    meter::{Meter, Metered, Transport},
    protocol::Node,
    tls::Tls,
};

/// The HTTP/2 window of a stream: several values of the default maximum size.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The HTTP/2 window of a connection.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// TCP keepalive: the kernel probes an idle connection after this time, and then at this interval,
/// until `KEEPALIVE_PROBES` probes have failed. A paused process is not affected, because its
/// kernel answers. A host that lost power says nothing when it comes back, and without keepalive
/// this side would wait forever.
const KEEPALIVE: Duration = Duration::from_secs(1);
const KEEPALIVE_PROBES: u32 = 4;
/// A connection is dead if sent data is not acknowledged by the other kernel for this time.
const UNHEARD_MAX: Duration = Duration::from_secs(5);

/// Configures the socket of a connection, on either side: small messages are sent immediately, and
/// a dead host is detected.
pub(crate) fn set_up(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNHEARD_MAX))?;
    stream.set_nodelay(true)
}

/// A connection. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    sender: http2::SendRequest<Body>,
    origin: http::Uri,
    meter: Arc<Meter>,
}

impl Connection {
    /// Dials and waits until the other side has sent HTTP/2 data. A stopped process, whose kernel
    /// still accepts connections, does not count as reachable. Sends no request. With TLS, the other
    /// side has then accepted this one's certificate, and is the node that was meant.
    pub(crate) async fn open(
        address: &Address,
        tls: Option<&Tls>,
        node: Option<Node>,
    ) -> io::Result<Self> {
        let origin = http::Uri::builder()
            .scheme(if tls.is_some() { "https" } else { "http" })
            .authority(address.as_str())
            .path_and_query("/")
            .build()
            .map_err(io::Error::other)?;
        let stream = TcpStream::connect(address.as_str()).await?;
        set_up(&stream)?;
        match tls {
            None => Connection::on(stream, origin).await,
            Some(tls) => Connection::on(tls.connect(stream, node).await?, origin).await,
        }
    }

    /// Speaks HTTP/2 on a new connection.
    async fn on(stream: impl Transport + Send + 'static, origin: http::Uri) -> io::Result<Self> {
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
                Ok(Err(error)) => {
                    io::Error::other(causes(&error))
                }
                Ok(Ok(())) | Err(_) => io::ErrorKind::ConnectionAborted.into(),
            }),
        }
    }

    /// Whether the connection is known to be closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// The origin for requests on this connection.
    pub(crate) fn origin(&self) -> http::Uri {
        self.origin.clone()
    }

    /// The meter of the connection's socket.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// A handle for one request, or for a client that makes several.
    pub(crate) fn request_handle(&self) -> RequestHandle {
        RequestHandle { sender: self.sender.clone(), unsent: Arc::default() }
    }
}

/// An error with its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Sends requests over a connection, and knows if one was certainly not sent.
#[derive(Clone, Debug)]
pub(crate) struct RequestHandle {
    sender: http2::SendRequest<Body>,
    unsent: Arc<AtomicBool>,
}

impl RequestHandle {
    /// A flag that is set if a request could not be handed to the connection: no byte of it was
    /// sent.
    pub(crate) fn unsent(&self) -> Arc<AtomicBool> {
        self.unsent.clone()
    }
}

impl tower::Service<http::Request<Body>> for RequestHandle {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // A closed connection is detected in `call`, which can report it.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.sender.try_send_request(request);
        let unsent = self.unsent.clone();
        Box::pin(async move {
            answer.await.map_err(|failure| {
                // hyper returns the request only if no part of it was written.
                if failure.message().is_some() {
                    unsent.store(true, Ordering::Release);
                }
                failure.into_error()
            })
        })
    }
}
