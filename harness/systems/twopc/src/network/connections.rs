//! The connections that a relay accepts, with TLS or without. With TLS the relay is the node to its callers, by that
//! node's certificate, and learns from theirs who they are.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use system::{
    protocol::Node,
    tls::{Caller, Role, Tls, TlsStream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tonic::transport::server::Connected;

/// How many connections may wait until they are served.
const WAITING_MAX: usize = 16;

/// A connection to a relay.
#[derive(Debug)]
pub(super) enum RelayStream {
    Plain(TcpStream),
    Tls(Box<TlsStream>, Caller),
}

/// Whom the certificate of a caller names; none where nobody has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CertifiedCaller(pub(super) Option<Caller>);

impl CertifiedCaller {
    /// Whether the caller may speak as this node.
    pub(super) fn may_speak_as(self, node: Node) -> bool {
        self.0.is_none_or(|caller| caller == Caller::Known(Role::Node(node)))
    }
}

/// Accepts connections until the receiver of them is gone. A handshake holds up no other.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    accepted: mpsc::Sender<io::Result<RelayStream>>,
) {
    let mut handshakes = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = listener.accept() => stream,
            Some(_) = handshakes.join_next() => continue,
            () = accepted.closed() => return,
        };
        // A failed accept affects only that connection.
        let Ok((stream, _)) = stream else { continue };
        // Fails only if the connection has failed already.
        let _ = stream.set_nodelay(true);
        let (tls, accepted) = (tls.clone(), accepted.clone());
        handshakes.spawn(async move {
            let stream = match tls {
                None => RelayStream::Plain(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok((stream, caller)) => RelayStream::Tls(Box::new(stream), caller),
                    Err(error) => {
                        tracing::debug!("a relay refused a connection: {error}");
                        return;
                    }
                },
            };
            // The relay may have been closed.
            let _ = accepted.send(Ok(stream)).await;
        });
    }
}

/// A queue for accepted connections.
pub(super) fn queue()
-> (mpsc::Sender<io::Result<RelayStream>>, mpsc::Receiver<io::Result<RelayStream>>) {
    mpsc::channel(WAITING_MAX)
}

impl Connected for RelayStream {
    type ConnectInfo = CertifiedCaller;

    fn connect_info(&self) -> CertifiedCaller {
        CertifiedCaller(match self {
            RelayStream::Plain(_) => None,
            RelayStream::Tls(_, caller) => Some(*caller),
        })
    }
}

impl AsyncRead for RelayStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            RelayStream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            RelayStream::Tls(stream, _) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for RelayStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            RelayStream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            RelayStream::Tls(stream, _) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            RelayStream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            RelayStream::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            RelayStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            RelayStream::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
