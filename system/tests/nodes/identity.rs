//! Who is who between real nodes: streams are not taken over, other versions are refused by name, a store
//! that is put back from an older copy does not serve, and a replica that is told to stop says so.

use std::{fs, path::Path, time::Instant};

use nix::sys::signal::Signal;
use proto::v1::{self as pb, peer_client::PeerClient};
use system::{
    client::{ReasonKind, WriteOutcome},
    protocol::Node,
};
use tonic::{Code, Status};

use crate::support::{Cluster, DEADLINE, within};

const MASTER: Node = Node::Master;
const R1: Node = Node::Replica(1);

/// A greeting of somebody who claims to be the master.
fn greeting(wire_version: u32, store: u64) -> Option<pb::Greeting> {
    let program = "9.9.9".to_owned();
    Some(pb::Greeting { wire_version, program, store, cluster_id: 0 })
}

async fn dial(cluster: &Cluster, greeting: Option<pb::Greeting>) -> Result<(), Status> {
    let address = format!("http://{}", cluster.address(R1));
    let mut peer = PeerClient::connect(address).await.expect("connected");
    let name = "test".to_owned();
    let batch = pb::Batch { to: 1, cluster: name, greeting, ..pb::Batch::default() };
    peer.exchange(tokio_stream::once(batch)).await.map(|_| ())
}

async fn committed(cluster: &Cluster, key: &str, value: &str) {
    let outcome = cluster.client().put(key, value).await;
    assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_does_not_take_over_the_masters_stream() {
    // Only a lost stream could make the master fence the replica again.
    let cluster = Cluster::started(1, "").await;
    for n in 0..20 {
        for (greeting, why) in [
            (greeting(6, 77), "belongs to a cluster whose master has another store"),
            (None, "master speaks wire version 1 and r1 (program 0.1.0) speaks 6: upgrade master"),
            (
                greeting(7, 77),
                "master (program 9.9.9) speaks wire version 7 and r1 (program 0.1.0) speaks 6: \
                 upgrade r1",
            ),
        ] {
            let refused = dial(&cluster, greeting).await.expect_err("refused");
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
            assert!(refused.message().contains(why), "{refused}");
        }
        committed(&cluster, "k", &n.to_string()).await;
    }
    assert!(!cluster.log(MASTER).contains("closed the stream"), "{}", cluster.log(MASTER));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a store") {
        let entry = entry.expect("a file");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

async fn a_restored_copy_does_not_serve(commit: &str) {
    let mut cluster = Cluster::started(2, &format!("commit = \"{commit}\"")).await;
    committed(&cluster, "k", "old").await;
    cluster.stop(R1);
    let (store, kept) = (cluster.file(R1, ""), cluster.file(R1, "-kept"));
    copy(&store, &kept);
    cluster.start(R1, &[]);
    cluster.ready().await;
    committed(&cluster, "k", "new").await;
    cluster.settled().await;
    cluster.stop(R1);
    fs::remove_dir_all(&store).expect("removed");
    copy(&kept, &store);
    cluster.start(R1, &[]);
    assert_eq!(cluster.ended(R1).code(), Some(2), "{}", cluster.log(R1));
    assert!(cluster.log(R1).contains("is an older copy"), "{}", cluster.log(R1));
    // The others go on.
    let (_, value) = cluster.client().get("k").await.expect("answered").expect("present");
    assert_eq!(value.as_bytes(), b"new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_copy_does_not_serve_logged() {
    a_restored_copy_does_not_serve("logged").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_copy_does_not_serve_votes() {
    a_restored_copy_does_not_serve("votes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_replica_that_was_told_to_stop() {
    // Without its word, the master would take it for live for 80 seconds, and writes would wait for
    // its votes as long.
    let timing = "[timing]\nheartbeat_ms = 20000\nvote_timeout_ms = 80000";
    let mut cluster = Cluster::started(2, timing).await;
    committed(&cluster, "k", "v").await;
    cluster.signal(R1, Signal::SIGTERM);
    let since = Instant::now();
    loop {
        match cluster.client().put("k", "w").await {
            WriteOutcome::Aborted(reason) if reason.kind == ReasonKind::Unavailable => break,
            // A write under way when the replica left.
            WriteOutcome::Aborted(_) | WriteOutcome::Committed { .. } => {}
            WriteOutcome::Unknown(why) => panic!("{why}"),
        }
        assert!(since.elapsed() < DEADLINE);
    }
    assert!(since.elapsed() < DEADLINE, "{:?}", since.elapsed());
    within("its end", || cluster.log(R1).contains("shut down").then_some(()));
    cluster.ended(R1);
    cluster.start(R1, &[]);
    cluster.ready().await;
    committed(&cluster, "k", "x").await;
}
