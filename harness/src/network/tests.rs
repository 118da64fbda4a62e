//! A relay between a caller and a node that is only a mailbox: what arrives, and what does not.

use std::{net::Ipv4Addr, pin::Pin};

use futures::{Stream, StreamExt as _};
use proto::v1::{
    peer_client::PeerClient,
    peer_server::{Peer, PeerServer},
};
use system::protocol::{Body, Decision, Message, StoreId, TxnId};
use tokio::{
    net::TcpListener,
    runtime::{self, Runtime},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::*;

const REPLICA: Node = Node::Replica(1);

/// Far beyond what should take long.
const DEADLINE: Duration = Duration::from_secs(20);

/// A node that puts away what it hears.
struct Mailbox(mpsc::UnboundedSender<pb::Batch>);

#[tonic::async_trait]
impl Peer for Mailbox {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<pb::Batch, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::Batch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut arriving = request.into_inner();
        let (answer, answers) = mpsc::channel(4);
        let _ = answer.send(batch(REPLICA, Node::Master, Vec::new())).await;
        let mailbox = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(batch)) = arriving.message().await {
                let _ = mailbox.send(batch);
            }
            drop(answer);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers).map(Ok))))
    }
}

fn batch(from: Node, to: Node, envelopes: Vec<pb::Envelope>) -> pb::Batch {
    let (from, to) = (wire::node_to_wire(from), wire::node_to_wire(to));
    pb::Batch { from, to, cluster: "c".to_owned(), envelopes }
}

fn decide(seq: u64) -> pb::Envelope {
    let txn = TxnId::new(1, seq);
    let body = Body::Decide { txn, decision: Decision::Commit };
    wire::to_wire(Message { store: StoreId(1), epoch: 1, watermark: txn, body })
}

fn heartbeat() -> pb::Envelope {
    let watermark = TxnId::default();
    wire::to_wire(Message { store: StoreId(1), epoch: 1, watermark, body: Body::Heartbeat })
}

struct Scene {
    network: Network,
    relay: SocketAddr,
    node: SocketAddr,
    heard: mpsc::UnboundedReceiver<pb::Batch>,
    mailbox: mpsc::UnboundedSender<pb::Batch>,
    /// A runtime of its own, so that it can end with all that it has begun.
    server: Option<Runtime>,
}

impl Scene {
    async fn new() -> Self {
        let free = || async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            listener.local_addr().expect("it is bound")
        };
        let (relay, node) = (free().await, free().await);
        let network = Network::start("c".to_owned(), [(REPLICA, (relay, node))].into(), 1);
        let (mailbox, heard) = mpsc::unbounded_channel();
        let network = network.expect("the port is free");
        let mut scene = Scene { network, relay, node, heard, mailbox, server: None };
        scene.start().await;
        scene
    }

    /// Starts the node, or a new incarnation of it.
    async fn start(&mut self) {
        let listener = TcpListener::bind(self.node).await.expect("the port is free again");
        let listener = listener.into_std().expect("it was just bound");
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread");
        let mailbox = Mailbox(self.mailbox.clone());
        runtime.spawn(async {
            let listener = TcpListener::from_std(listener).expect("it does not block");
            Server::builder()
                .add_service(PeerServer::new(mailbox))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
        });
        self.server = Some(runtime);
    }

    fn kill(&mut self) {
        self.server.take().expect("it runs").shutdown_background();
    }

    /// A stream from the master, through the relay: greeted, and answered.
    async fn call(&self) -> (mpsc::Sender<pb::Batch>, Streaming<pb::Batch>) {
        let calling = async {
            loop {
                let (send, sent) = mpsc::channel(16);
                send.send(batch(Node::Master, REPLICA, Vec::new())).await.expect("there is room");
                let address = format!("http://{}", self.relay);
                let Ok(mut peer) = PeerClient::connect(address).await else { continue };
                if let Ok(answered) = peer.exchange(ReceiverStream::new(sent)).await {
                    let mut answers = answered.into_inner();
                    if let Ok(Some(greeting)) = answers.message().await {
                        assert!(greeting.envelopes.is_empty());
                        return (send, answers);
                    }
                }
            }
        };
        timeout(DEADLINE, calling).await.expect("the node is there")
    }

    /// The decisions that have arrived, until so many have.
    async fn decisions(&mut self, count: usize) -> Vec<u64> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let batch = timeout(DEADLINE, self.heard.recv()).await.expect("it arrives");
            for envelope in batch.expect("the mailbox is open").envelopes {
                if let Body::Decide { txn, .. } = wire::from_wire(envelope).expect("ours").body {
                    seen.push(txn.seq);
                }
            }
        }
        seen
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

async fn say(stream: &mpsc::Sender<pb::Batch>, envelopes: Vec<pb::Envelope>) {
    stream.send(batch(Node::Master, REPLICA, envelopes)).await.expect("the stream is open");
}

fn decisions() -> Pattern {
    Pattern { kinds: ["decide"].into(), ..Pattern::ways([(Node::Master, REPLICA)]) }
}

#[tokio::test]
async fn what_is_not_meant_passes_and_what_is_meant_does_not() {
    let mut scene = Scene::new().await;
    let (stream, _answers) = scene.call().await;
    say(&stream, vec![decide(1), heartbeat()]).await;
    assert_eq!(scene.decisions(1).await, [1]);

    let second = Pattern { txn: Some(TxnId::new(1, 2)), ..decisions() };
    let mut snare = scene.network.lay(second, Deed::Drop);
    say(&stream, vec![decide(2), heartbeat(), decide(3)]).await;
    assert_eq!(scene.decisions(1).await, [3]);
    assert!(snare.springs(DEADLINE).await);
    let struck = snare.lift(DEADLINE).await;
    assert_eq!((struck.messages, struck.kinds["decide"]), (1, 1));
    assert_eq!(struck.first[0].to_string(), "decide master > r1 1.2");
    say(&stream, vec![decide(4)]).await;
    assert_eq!(scene.decisions(1).await, [4]);

    let other_way =
        Pattern { kinds: ["decide"].into(), ..Pattern::ways([(REPLICA, Node::Master)]) };
    let snare = scene.network.lay(other_way, Deed::Drop);
    say(&stream, vec![decide(5)]).await;
    assert_eq!(scene.decisions(1).await, [5]);
    assert_eq!(snare.lift(DEADLINE).await, Struck::default());
}

#[tokio::test]
async fn a_held_message_reaches_the_next_incarnation() {
    let mut scene = Scene::new().await;
    let (stream, mut answers) = scene.call().await;
    let held = Pattern { most: Some(1), ..decisions() };
    let mut snare = scene.network.lay(held, Deed::Hold);
    say(&stream, vec![decide(1), decide(2)]).await;
    assert_eq!(scene.decisions(1).await, [2]);
    assert!(snare.springs(DEADLINE).await);

    // The node dies, and its caller hears of it.
    scene.kill();
    let ended = timeout(DEADLINE, answers.message()).await.expect("the stream ends");
    assert!(!matches!(ended, Ok(Some(_))));
    scene.start().await;
    let lifting = tokio::spawn(snare.lift(DEADLINE));
    let (_stream, _answers) = scene.call().await;
    assert_eq!(scene.decisions(1).await, [1]);
    assert_eq!(lifting.await.expect("it is released").messages, 1);
}

#[tokio::test]
async fn a_held_message_waits_for_the_stream_that_comes_after_a_hang_up() {
    let mut scene = Scene::new().await;
    let (stream, mut answers) = scene.call().await;
    let mut snare = scene.network.lay(decisions(), Deed::Hold);
    say(&stream, vec![decide(1)]).await;
    assert!(snare.springs(DEADLINE).await);
    scene.network.hang_up();
    let ended = timeout(DEADLINE, answers.message()).await.expect("the stream ends");
    assert!(!matches!(ended, Ok(Some(_))));
    let lifting = tokio::spawn(snare.lift(DEADLINE));
    let (stream, _answers) = scene.call().await;
    say(&stream, vec![decide(2)]).await;
    let mut arrived = scene.decisions(2).await;
    arrived.sort_unstable();
    assert_eq!(arrived, [1, 2]);
    assert_eq!(lifting.await.expect("it is released").messages, 1);
}

#[tokio::test]
async fn messages_are_doubled_and_overtaken() {
    let mut scene = Scene::new().await;
    let (stream, _answers) = scene.call().await;
    let soon = Duration::from_millis(10)..Duration::from_millis(20);
    let snare = scene.network.lay(decisions(), Deed::Repeat(soon.clone()));
    say(&stream, vec![decide(1)]).await;
    assert_eq!(scene.decisions(2).await, [1, 1]);
    snare.discard();

    let first = Pattern { most: Some(1), ..decisions() };
    let snare = scene.network.lay(first, Deed::Delay(soon));
    say(&stream, vec![decide(1), decide(2)]).await;
    assert_eq!(scene.decisions(2).await, [2, 1]);
    snare.discard();

    let snare = scene.network.lay(decisions(), Deed::HoldCopy);
    say(&stream, vec![decide(7)]).await;
    assert_eq!(scene.decisions(1).await, [7]);
    for _ in 0..2 {
        let way = (Node::Master, REPLICA);
        assert!(snare.deliver(way, |message| message.epoch == 1, DEADLINE).await);
        assert_eq!(scene.decisions(1).await, [7]);
        assert!(!snare.deliver(way, |message| message.epoch == 2, DEADLINE).await);
    }
    snare.lift(DEADLINE).await;
    assert_eq!(scene.decisions(1).await, [7]);
}

#[test]
fn a_share_and_a_number_of_messages() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let laid = |pattern| Laid {
        pattern,
        deed: Deed::Drop,
        skipped: 0,
        struck: Struck::default(),
        held: Vec::new(),
        caught: watch::Sender::new(0),
    };
    let seen = Seen { from: Node::Master, to: REPLICA, kind: "decide", txns: Vec::new() };
    let mut half = laid(Pattern { share: 0.5, ..Pattern::default() });
    let caught = (0..1000).filter(|_| half.catches(&seen, &mut rng)).count();
    assert!((400..600).contains(&caught), "{caught}");
    let mut third = laid(Pattern { skip: 2, most: Some(1), ..Pattern::default() });
    let caught: Vec<_> = (0..5)
        .filter(|_| {
            let caught = third.catches(&seen, &mut rng);
            if caught {
                third.note(seen.clone());
            }
            caught
        })
        .collect();
    assert_eq!(caught, [2]);
}
