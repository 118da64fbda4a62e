//! Clients that do harm: what one of them can do to a node over its connections. Used as a fault of a
//! run, and by the benchmark that measures what it costs the other clients.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, SendStream, client};
use http::Request;
use prost::Message;
use proto::v1 as pb;
use system::tls::Tls;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    task::{JoinHandle, yield_now},
    time::timeout,
};

/// The largest request that a node takes by default, in bytes.
const LARGE_REQUEST_BYTES: usize = 1 << 20;
/// The window that lets a node send answers of a usual size.
const USUAL_WINDOW_BYTES: u32 = 1 << 16;
/// After this time without room for another call, the attacker begins no more.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// What an attacker does on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Asks 3,000 times for a value, and lets the node send nothing.
    UntakenAnswers,
    /// The same, with windows that let the node send everything, but reads nothing.
    UnreadSocket,
    /// Begins 64 requests of 16 MiB, which is more than the node takes.
    OversizeRequests,
    /// Begins 1,000 requests of the largest size, and finishes none.
    UnfinishedRequests,
    /// Announces messages of 4 GiB to the service for peers.
    PeerPrefix,
    /// Asks 1,000 times for the status, and takes nothing.
    UntakenStatus,
    /// Begins calls and resets them, as fast as it can, with a new connection whenever it has to.
    Resets,
    /// Opens 2,000 connections, or as many as its own limit of descriptors lets it, and says nothing.
    IdleConnections,
}

impl Attack {
    /// Every attack.
    pub const ALL: [Attack; 8] = [
        Attack::UntakenAnswers,
        Attack::UnreadSocket,
        Attack::OversizeRequests,
        Attack::UnfinishedRequests,
        Attack::PeerPrefix,
        Attack::UntakenStatus,
        Attack::Resets,
        Attack::IdleConnections,
    ];

    /// The name in histories.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Attack::UntakenAnswers => "untaken answers",
            Attack::UnreadSocket => "unread socket",
            Attack::OversizeRequests => "oversize requests",
            Attack::UnfinishedRequests => "unfinished requests",
            Attack::PeerPrefix => "peer prefix",
            Attack::UntakenStatus => "untaken status",
            Attack::Resets => "resets",
            Attack::IdleConnections => "idle connections",
        }
    }

    /// How many attackers do it at the same time, on a connection each. One alone is stopped by what a connection may
    /// hold, and several by what a node has for all.
    #[must_use]
    pub fn attackers(self) -> usize {
        match self {
            Attack::UntakenAnswers
            | Attack::UnreadSocket
            | Attack::OversizeRequests
            | Attack::UnfinishedRequests
            | Attack::UntakenStatus => 16,
            // One already uses up the descriptors of the harness, or a core.
            Attack::PeerPrefix | Attack::Resets | Attack::IdleConnections => 1,
        }
    }

    /// Whether it attacks a service that only replicas have.
    #[must_use]
    pub fn is_for_replicas(self) -> bool {
        self == Attack::PeerPrefix
    }

    /// Attacks the node at this address, and asks for the value of `key`, until `stop` turns true or
    /// its sender is gone. Counts the calls and connections that it begins. With an identity, calls are
    /// made over TLS.
    ///
    /// # Errors
    /// The node accepts no connection.
    pub async fn run(
        self,
        address: &str,
        key: &[u8],
        tls: Option<&Tls>,
        begun: &AtomicU64,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let stopped = async { drop(stop.wait_for(|stop| *stop).await) };
        tokio::select! {
            result = self.attack(Target { address, key, tls, begun }) => result,
            () = stopped => Ok(()),
        }
    }

    async fn attack(self, target: Target<'_>) -> io::Result<()> {
        let get = framed(&pb::GetRequest { key: Bytes::copy_from_slice(target.key) });
        match self {
            Attack::UntakenAnswers => {
                target.connect(0).await?.flood("/twopc.v1.Kv/Get", &get, 3000).await
            }
            Attack::UnreadSocket => {
                let window = (1 << 31) - 1;
                target.connect(window).await?.flood("/twopc.v1.Kv/Get", &get, 3000).await
            }
            Attack::OversizeRequests => target.begin_requests(64, 16 << 20).await,
            Attack::UnfinishedRequests => target.begin_requests(1000, LARGE_REQUEST_BYTES).await,
            Attack::PeerPrefix => {
                let mut attacker = target.connect(USUAL_WINDOW_BYTES).await?;
                let prefix = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]);
                let mut open = Vec::new();
                for _ in 0..32 {
                    open.extend(
                        attacker.begin("/twopc.v1.Peer/Exchange", prefix.clone(), false).await,
                    );
                }
                until_stopped().await
            }
            Attack::UntakenStatus => {
                let status = framed(&pb::StatusRequest {});
                target.connect(0).await?.flood("/twopc.v1.Inspect/Status", &status, 1000).await
            }
            Attack::Resets => loop {
                let mut attacker = target.connect(USUAL_WINDOW_BYTES).await?;
                while !attacker.connection.is_finished() {
                    let begun = attacker.begin("/twopc.v1.Kv/Get", get.clone(), true).await;
                    let Some((_, mut body)) = begun else { break };
                    body.send_reset(Reason::CANCEL);
                    yield_now().await;
                }
            },
            Attack::IdleConnections => {
                let mut idle = vec![target.open().await?];
                while idle.len() < 2000 {
                    // Without a descriptor of its own it keeps those that it has.
                    let Ok(stream) = target.open().await else { break };
                    idle.push(stream);
                }
                until_stopped().await
            }
        }
    }
}

/// Waits until the attack is cancelled.
async fn until_stopped() -> io::Result<()> {
    std::future::pending().await
}

/// What is attacked.
#[derive(Clone, Copy)]
struct Target<'a> {
    address: &'a str,
    key: &'a [u8],
    tls: Option<&'a Tls>,
    begun: &'a AtomicU64,
}

impl<'a> Target<'a> {
    async fn open(self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        self.begun.fetch_add(1, Ordering::Relaxed);
        Ok(stream)
    }

    /// Connects, and lets the node send this much of each answer.
    async fn connect(self, window: u32) -> io::Result<Attacker<'a>> {
        let stream = self.open().await?;
        match self.tls {
            None => self.speak(stream, window).await,
            Some(tls) => self.speak(tls.connect(stream, None).await?, window).await,
        }
    }

    async fn speak<T>(self, stream: T, window: u32) -> io::Result<Attacker<'a>>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = client::Builder::new();
        builder
            .initial_window_size(window)
            .initial_connection_window_size(window.max(USUAL_WINDOW_BYTES));
        let (sender, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(async { drop(connection.await) });
        Ok(Attacker { sender, connection, begun: self.begun })
    }

    /// Begins requests of a size, sends all of each but its last byte as far as the node lets it, and
    /// finishes none.
    async fn begin_requests(self, requests: usize, size: usize) -> io::Result<()> {
        let mut attacker = self.connect(USUAL_WINDOW_BYTES).await?;
        let length = u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes();
        let begun = Bytes::from([&[0][..], &length, &vec![7; size - 1]].concat());
        let mut open = Vec::new();
        for _ in 0..requests {
            open.extend(attacker.begin("/twopc.v1.Kv/Put", begun.clone(), false).await);
        }
        until_stopped().await
    }
}

/// A hostile connection. It is closed when this is dropped.
struct Attacker<'a> {
    sender: client::SendRequest<Bytes>,
    connection: JoinHandle<()>,
    begun: &'a AtomicU64,
}

impl Drop for Attacker<'_> {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Attacker<'_> {
    async fn begin(
        &mut self,
        path: &str,
        data: Bytes,
        end: bool,
    ) -> Option<(client::ResponseFuture, SendStream<Bytes>)> {
        let head = Request::post(format!("http://here{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        self.sender = self.sender.clone().ready().await.ok()?;
        let (answer, mut body) = self.sender.send_request(head.body(()).ok()?, false).ok()?;
        body.send_data(data, end).ok()?;
        self.begun.fetch_add(1, Ordering::Relaxed);
        Some((answer, body))
    }

    /// Begins calls, of which it takes no answer.
    async fn flood(&mut self, path: &str, request: &Bytes, calls: usize) -> io::Result<()> {
        let mut open = Vec::new();
        for _ in 0..calls {
            match timeout(CALL_TIMEOUT, self.begin(path, request.clone(), true)).await {
                Ok(Some(call)) => open.push(call),
                // The node lets it begin no more, or has closed the connection.
                _ => break,
            }
        }
        until_stopped().await
    }
}

/// A message with the prefix of gRPC.
fn framed(message: &impl Message) -> Bytes {
    let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0][..], &length, &message.encode_to_vec()].concat().into()
}
