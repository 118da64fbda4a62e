//! A relay between a caller and a node that only collects messages: which messages arrive.

use std::{io::Write as _, net::Ipv4Addr, pin::Pin};

use futures::{Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use proto::v1::{
    peer_client::PeerClient,
    peer_server::{Peer, PeerServer},
};
use system::{
    protocol::{Body, ClusterId, Decision, Message, StoreId, TxnId},
    tls::Role,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{self, Runtime},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Endpoint, Server},
};
use tower::service_fn;

use proto::v1 as pb;
use tokio::sync::mpsc;

use super::*;
use crate::TLS_AVAILABLE;

const REPLICA: Node = Node::Replica(1);

/// A generous limit for anything that is expected to happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// A node that collects the batches that it receives.
struct Collector(mpsc::UnboundedSender<pb::Batch>);

#[tonic::async_trait]
impl Peer for Collector {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<pb::Batch, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::Batch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut arriving = request.into_inner();
        let (answer, answers) = mpsc::channel(4);
        let _ = answer.send(batch(REPLICA, Node::Master, Vec::new())).await;
        let batches = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(batch)) = arriving.message().await {
                let _ = batches.send(batch);
            }
            drop(answer);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers).map(Ok))))
    }
}

fn batch(from: Node, to: Node, envelopes: Vec<pb::Envelope>) -> pb::Batch {
    let (from, to) = (wire::node_to_wire(from), wire::node_to_wire(to));
    pb::Batch { from, to, cluster: "c".to_owned(), envelopes, greeting: None }
}

fn decide(seq: u64) -> pb::Envelope {
    let txn = TxnId::new(1, seq);
    let body = Body::Decide { txn, decision: Decision::Commit };
    wire::to_wire(Message {
        cluster: ClusterId(0),
        store: StoreId(1),
        epoch: 1,
        nonce: 0,
        watermark: txn,
        decisions: 0,
        body,
    })
}

fn heartbeat() -> pb::Envelope {
    let watermark = TxnId::default();
    wire::to_wire(Message {
        cluster: ClusterId(0),
        store: StoreId(1),
        epoch: 1,
        nonce: 0,
        watermark,
        decisions: 0,
        body: Body::Heartbeat,
    })
}

struct Testbed {
    network: Network,
    relay: SocketAddr,
    node: SocketAddr,
    received: mpsc::UnboundedReceiver<pb::Batch>,
    batches: mpsc::UnboundedSender<pb::Batch>,
    /// The node's own runtime: shutting it down ends everything that the node started.
    server: Option<Runtime>,
}

impl Testbed {
    async fn new() -> Self {
        let free = || async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            listener.local_addr().expect("it is bound")
        };
        let (relay, node) = (free().await, free().await);
        let network = Network::start("c".to_owned(), [(REPLICA, (relay, node))].into(), 1, None);
        let (batches, received) = mpsc::unbounded_channel();
        let network = network.expect("the port is free");
        let mut testbed = Testbed { network, relay, node, received, batches, server: None };
        testbed.start().await;
        testbed
    }

    /// Starts the node, or a new incarnation of it.
    async fn start(&mut self) {
        let listener = TcpListener::bind(self.node).await.expect("the port is free again");
        let listener = listener.into_std().expect("it was just bound");
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread");
        let collector = Collector(self.batches.clone());
        runtime.spawn(async {
            let listener = TcpListener::from_std(listener).expect("it does not block");
            Server::builder()
                .add_service(PeerServer::new(collector))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
        });
        self.server = Some(runtime);
    }

    fn kill(&mut self) {
        self.server.take().expect("it runs").shutdown_background();
    }

    /// A stream from the master through the relay, after the exchange of hellos.
    async fn call(&self) -> (mpsc::Sender<pb::Batch>, Streaming<pb::Batch>) {
        let calling = async {
            loop {
                let (send, sent) = mpsc::channel(16);
                send.send(batch(Node::Master, REPLICA, Vec::new())).await.expect("there is room");
                let address = format!("http://{}", self.relay);
                let Ok(mut peer) = PeerClient::connect(address).await else { continue };
                if let Ok(answered) = peer.exchange(ReceiverStream::new(sent)).await {
                    let mut answers = answered.into_inner();
                    if let Ok(Some(hello)) = answers.message().await {
                        assert!(hello.envelopes.is_empty());
                        return (send, answers);
                    }
                }
            }
        };
        timeout(DEADLINE, calling).await.expect("the node is there")
    }

    /// Waits until `count` decisions have arrived and returns them.
    async fn decisions(&mut self, count: usize) -> Vec<u64> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let batch = timeout(DEADLINE, self.received.recv()).await.expect("it arrives");
            for envelope in batch.expect("the channel is open").envelopes {
                if let Body::Decide { txn, .. } = wire::from_wire(envelope).expect("ours").body {
                    seen.push(txn.seq);
                }
            }
        }
        seen
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

async fn send(stream: &mpsc::Sender<pb::Batch>, envelopes: Vec<pb::Envelope>) {
    stream.send(batch(Node::Master, REPLICA, envelopes)).await.expect("the stream is open");
}

fn decisions() -> Pattern {
    Pattern { kinds: ["decide"].into(), ..Pattern::on_links([(Node::Master, REPLICA)]) }
}

#[tokio::test]
async fn only_matching_messages_are_intercepted() {
    let mut testbed = Testbed::new().await;
    let (stream, _answers) = testbed.call().await;
    send(&stream, vec![decide(1), heartbeat()]).await;
    assert_eq!(testbed.decisions(1).await, [1]);

    let second = Pattern { txn: Some(TxnId::new(1, 2)), ..decisions() };
    let mut rule = testbed.network.intercept(second, MessageAction::Drop);
    send(&stream, vec![decide(2), heartbeat(), decide(3)]).await;
    assert_eq!(testbed.decisions(1).await, [3]);
    assert!(rule.until_matched(DEADLINE).await);
    let intercepted = rule.remove(DEADLINE).await;
    assert_eq!((intercepted.messages, intercepted.kinds["decide"]), (1, 1));
    assert_eq!(intercepted.first[0].to_string(), "decide master > r1 1.2");
    send(&stream, vec![decide(4)]).await;
    assert_eq!(testbed.decisions(1).await, [4]);

    let reverse =
        Pattern { kinds: ["decide"].into(), ..Pattern::on_links([(REPLICA, Node::Master)]) };
    let rule = testbed.network.intercept(reverse, MessageAction::Drop);
    send(&stream, vec![decide(5)]).await;
    assert_eq!(testbed.decisions(1).await, [5]);
    assert_eq!(rule.remove(DEADLINE).await, Intercepted::default());
}

#[tokio::test]
async fn a_held_message_reaches_the_next_incarnation() {
    let mut testbed = Testbed::new().await;
    let (stream, mut answers) = testbed.call().await;
    let held = Pattern { most: Some(1), ..decisions() };
    let mut rule = testbed.network.intercept(held, MessageAction::Hold);
    send(&stream, vec![decide(1), decide(2)]).await;
    assert_eq!(testbed.decisions(1).await, [2]);
    assert!(rule.until_matched(DEADLINE).await);

    // The node dies, and the caller's stream ends.
    testbed.kill();
    let ended = timeout(DEADLINE, answers.message()).await.expect("the stream ends");
    assert!(!matches!(ended, Ok(Some(_))));
    testbed.start().await;
    let removing = tokio::spawn(rule.remove(DEADLINE));
    let (_stream, _answers) = testbed.call().await;
    assert_eq!(testbed.decisions(1).await, [1]);
    assert_eq!(removing.await.expect("it is released").messages, 1);
}

#[tokio::test]
async fn a_held_message_waits_for_the_stream_after_a_disconnect() {
    let mut testbed = Testbed::new().await;
    let (stream, mut answers) = testbed.call().await;
    let mut rule = testbed.network.intercept(decisions(), MessageAction::Hold);
    send(&stream, vec![decide(1)]).await;
    assert!(rule.until_matched(DEADLINE).await);
    testbed.network.disconnect_master();
    let ended = timeout(DEADLINE, answers.message()).await.expect("the stream ends");
    assert!(!matches!(ended, Ok(Some(_))));
    let removing = tokio::spawn(rule.remove(DEADLINE));
    let (stream, _answers) = testbed.call().await;
    send(&stream, vec![decide(2)]).await;
    let mut arrived = testbed.decisions(2).await;
    arrived.sort_unstable();
    assert_eq!(arrived, [1, 2]);
    assert_eq!(removing.await.expect("it is released").messages, 1);
}

#[tokio::test]
async fn messages_are_repeated_and_overtaken() {
    let mut testbed = Testbed::new().await;
    let (stream, _answers) = testbed.call().await;
    let soon = Duration::from_millis(10)..Duration::from_millis(20);
    let rule = testbed.network.intercept(decisions(), MessageAction::Repeat(soon.clone()));
    send(&stream, vec![decide(1)]).await;
    assert_eq!(testbed.decisions(2).await, [1, 1]);
    rule.discard();

    let first = Pattern { most: Some(1), ..decisions() };
    let rule = testbed.network.intercept(first, MessageAction::Delay(soon));
    send(&stream, vec![decide(1), decide(2)]).await;
    assert_eq!(testbed.decisions(2).await, [2, 1]);
    rule.discard();

    let rule = testbed.network.intercept(decisions(), MessageAction::HoldCopy);
    send(&stream, vec![decide(7)]).await;
    assert_eq!(testbed.decisions(1).await, [7]);
    for _ in 0..2 {
        let link = (Node::Master, REPLICA);
        assert!(rule.deliver(link, |message| message.epoch == 1, DEADLINE).await);
        assert_eq!(testbed.decisions(1).await, [7]);
        assert!(!rule.deliver(link, |message| message.epoch == 2, DEADLINE).await);
    }
    rule.remove(DEADLINE).await;
    assert_eq!(testbed.decisions(1).await, [7]);
}

#[tokio::test]
async fn a_relay_lends_its_certificates_to_nobody_else() {
    if !TLS_AVAILABLE {
        let _ = writeln!(io::stderr(), "skipped: this build has no TLS (--features tls)");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let nodes = [Node::Master, REPLICA, Node::Replica(2)];
    let certificates = Certificates::create(directory.path().join("certs"), nodes);
    let certificates = certificates.expect("certificates");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let relay = listener.local_addr().expect("it is bound");
    drop(listener);
    // Nobody listens behind the relay.
    let behind = (relay, (Ipv4Addr::LOCALHOST, 1).into());
    let network =
        Network::start("c".to_owned(), [(REPLICA, behind)].into(), 1, Some(&certificates));
    let _network = network.expect("the port is free");
    for (role, code) in [
        (Role::Node(Node::Master), Code::Unavailable),
        (Role::Node(Node::Replica(2)), Code::PermissionDenied),
        (Role::Client, Code::PermissionDenied),
    ] {
        let tls = certificates.identity(role);
        let connector = service_fn(move |_| {
            let tls = tls.clone();
            async move {
                let stream = TcpStream::connect(relay).await?;
                tls.connect(stream, Some(REPLICA)).await.map(TokioIo::new)
            }
        });
        let channel = Endpoint::from_static("http://relay").connect_with_connector(connector).await;
        let mut peer = PeerClient::new(channel.expect("the relay listens"));
        let hello = tokio_stream::once(batch(Node::Master, REPLICA, Vec::new()));
        let refused = peer.exchange(hello).await.expect_err("nobody is behind it");
        assert_eq!(refused.code(), code, "{role} as the master: {refused}");
    }
}

#[test]
fn share_skip_and_most_limit_the_matches() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let rule = |pattern| ActiveRule::new(pattern, MessageAction::Drop, watch::Sender::new(0));
    let message =
        MessageSummary { from: Node::Master, to: REPLICA, kind: "decide", txns: Vec::new() };
    let mut half = rule(Pattern { share: 0.5, ..Pattern::default() });
    let matched = (0..1000).filter(|_| half.matches(&message, &mut rng)).count();
    assert!((400..600).contains(&matched), "{matched}");
    let mut third = rule(Pattern { skip: 2, most: Some(1), ..Pattern::default() });
    let matched: Vec<_> = (0..5)
        .filter(|_| {
            let matched = third.matches(&message, &mut rng);
            if matched {
                third.count(message.clone());
            }
            matched
        })
        .collect();
    assert_eq!(matched, [2]);
}
