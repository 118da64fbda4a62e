//! A replica's answers to a master. The test acts as the master, over the wire.

use std::{collections::VecDeque, time::Duration};

use proto::v1::{self as pb, peer_client::PeerClient};
use system::{
    protocol::{
        Body, ClusterId, CommitMode, Decision, Message, NoReason, Node, StoreId, TxnId, Write,
    },
    wire,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::support::{Cluster, DEADLINE, within};

const R1: Node = Node::Replica(1);
const STORE: StoreId = StoreId(77);
const CLUSTER: ClusterId = ClusterId(7);

/// A master, as seen by the replica.
struct Master {
    batches: mpsc::Sender<pb::Batch>,
    incoming: Streaming<pb::Batch>,
    received: VecDeque<Body>,
    /// The replica's store, once it has made itself known.
    member: Option<StoreId>,
}

impl Master {
    async fn dial(cluster: &Cluster, name: &str, to: u32) -> Result<Self, Status> {
        let address = format!("http://{}", cluster.address(R1));
        let mut peer = PeerClient::connect(address).await.expect("connected");
        let (batches, outgoing) = mpsc::channel(16);
        let greeting = pb::Greeting { wire_version: 6, store: STORE.0, ..pb::Greeting::default() };
        let greeting = Some(greeting);
        let greeting = pb::Batch { to, cluster: name.to_owned(), greeting, ..pb::Batch::default() };
        batches.send(greeting).await.expect("there is room");
        let incoming = peer.exchange(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Master { batches, incoming, received: VecDeque::new(), member: None })
    }

    /// Sends messages in one batch.
    async fn send(&mut self, bodies: impl IntoIterator<Item = Body>) {
        let messages = bodies.into_iter().map(|body| Message {
            cluster: CLUSTER,
            store: STORE,
            epoch: 1,
            nonce: 5,
            watermark: TxnId::new(1, 1),
            decisions: 0,
            body,
        });
        let envelopes = messages.map(wire::to_wire).collect();
        let cluster = "test".to_owned();
        let batch = pb::Batch { to: 1, cluster, envelopes, ..pb::Batch::default() };
        self.batches.send(batch).await.expect("the replica listens");
    }

    /// The next message.
    async fn next_of_any_kind(&mut self) -> Body {
        loop {
            if let Some(body) = self.received.pop_front() {
                return body;
            }
            let mut batch = self.incoming.message().await.expect("no error").expect("no end");
            wire::expand(&mut batch.envelopes);
            for message in batch.envelopes.into_iter().map(wire::from_wire) {
                let Message { store, body, .. } = message.expect("well-formed");
                self.member = Some(store);
                self.received.push_back(body);
            }
        }
    }

    /// The next message that is not part of a handshake.
    async fn next(&mut self) -> Body {
        loop {
            match timeout(DEADLINE, self.next_of_any_kind()).await.expect("an answer in time") {
                Body::Alive { .. } | Body::FenceOk { .. } => {}
                body => return body,
            }
        }
    }

    /// Retransmits as a master does: a replica that has just started may not be listening yet. It
    /// promises nothing until the master names its store.
    async fn fence(&mut self) {
        loop {
            let member = self.member;
            let fence = Body::Fence {
                member,
                commit: CommitMode::Logged,
                members: member.into_iter().collect(),
                supersedes: Some((0, 0)),
                seen: None,
                decided: None,
            };
            self.send([fence]).await;
            let answer = timeout(Duration::from_millis(100), async {
                while !matches!(self.next_of_any_kind().await, Body::FenceOk { .. }) {}
            });
            if answer.await.is_ok() {
                break;
            }
        }
    }
}

fn prepare(seq: u64, key: &str) -> Body {
    let write = Write { key: key.into(), value: Some("v".into()) };
    Body::Prepare { txn: TxnId::new(1, seq), write, piggybacked: Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_of_two_prepares_of_a_key_is_voted_no() {
    let mut cluster = Cluster::new(1, "");
    cluster.start(R1, &["--bootstrap"]);
    let mut master = Master::dial(&cluster, "test", 1).await.expect("admitted");
    master.fence().await;
    let [first, second] = [1, 2].map(|seq| TxnId::new(1, seq));
    master.send([prepare(1, "k"), prepare(2, "k")]).await;
    let no = Body::VoteNo { txn: second, reason: NoReason::Locked { holder: first } };
    assert_eq!(master.next().await, no);
    assert_eq!(master.next().await, Body::VoteYes { txn: first });
    // The first one commits regardless of the second.
    master.send([Body::Decide { txn: first, decision: Decision::Commit }]).await;
    assert_eq!(master.next().await, Body::Ack { txns: vec![first], commits: 1 });
    assert_eq!(cluster.dump(R1).await, vec![("k".into(), first, "v".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn prepares_of_different_keys_share_a_force() {
    let mut cluster = Cluster::new(1, "");
    cluster.start(R1, &["--bootstrap"]);
    let mut master = Master::dial(&cluster, "test", 1).await.expect("admitted");
    master.fence().await;
    master.send((1..=20).map(|seq| prepare(seq, &format!("k{seq}")))).await;
    for seq in 1..=20 {
        assert_eq!(master.next().await, Body::VoteYes { txn: TxnId::new(1, seq) });
    }

    // Stopped after the first force of twenty more, then killed: all of them were in that force.
    cluster.arm(R1, "replica:after-persist:prepare");
    master.send((21..=40).map(|seq| prepare(seq, &format!("k{seq}")))).await;
    cluster.wait_for_hit(R1, "replica:after-persist:prepare");
    cluster.kill(R1);
    cluster.start(R1, &[]);
    let in_doubt = cluster.until(R1, |status| status.incarnation == 2).await.unsettled;
    assert_eq!(in_doubt.len(), 40, "{in_doubt:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_master_is_refused() {
    let mut cluster = Cluster::new(1, "");
    cluster.start(R1, &["--bootstrap"]);
    for (name, to, why) in [
        ("other", 1, "this is r1 of cluster 'test', not of cluster 'other'"),
        ("test", 2, "this is r1, but master expects r2: the configurations differ"),
    ] {
        let refused = Master::dial(&cluster, name, to).await.err().expect("refused");
        assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, why));
        within("the refusal", || cluster.log(R1).contains(why).then_some(()));
    }
    Master::dial(&cluster, "test", 1).await.expect("admitted");
}
