//! The beginning of a cluster: the master is killed as soon as it has answered the first write.

use std::fs;

use nix::sys::signal::Signal;
use system::{
    client::{ReasonKind, WriteOutcome},
    protocol::Node,
};

use crate::support::Cluster;

const MASTER: Node = Node::Master;
const R1: Node = Node::Replica(1);
const R2: Node = Node::Replica(2);

/// The master must know its replicas then, and refuse one that has lost its store.
async fn knows_its_replicas_after_the_first_write(commit: &str) {
    let mut cluster = Cluster::new(2, &format!("commit = \"{commit}\""));
    for node in cluster.names() {
        cluster.start(node, &["--bootstrap"]);
    }
    let point = "master:after-reply:ok";
    cluster.arm(MASTER, point);
    // Without waiting until the cluster is ready: that would give lazy records the time to become
    // durable.
    loop {
        match cluster.client().put("k", "v").await {
            WriteOutcome::Committed { .. } => break,
            WriteOutcome::Aborted(reason) if reason.kind == ReasonKind::Unavailable => {}
            outcome => panic!("{outcome:?}"),
        }
    }
    cluster.wait_for_hit(MASTER, point);
    for node in [MASTER, R1] {
        cluster.signal(node, Signal::SIGKILL);
        cluster.ended(node);
    }
    fs::remove_dir_all(cluster.file(R1, "")).expect("r1's store is removed");

    cluster.start(R1, &["--bootstrap"]);
    cluster.start(MASTER, &[]);
    assert_eq!(cluster.ended(R1).code(), Some(2), "{}", cluster.log(R1));
    let why = "a replica that lost its data must not rejoin";
    assert!(cluster.log(R1).contains(why), "{}", cluster.log(R1));
    cluster.until(MASTER, |status| status.live == [R2]).await;
    // Where the votes decide, the key may stay locked at r2: only r1 could tell that it has not
    // vetoed.
    match cluster.client().get("k").await {
        Ok(found) => assert_eq!(found.expect("it was committed").1.as_bytes(), b"v"),
        Err(why) => assert_eq!(commit, "votes", "{why:?}"),
    }
    let outcome = cluster.client().put("k", "w").await;
    assert!(matches!(&outcome, WriteOutcome::Aborted(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logged_master_knows_its_replicas_after_the_first_write() {
    knows_its_replicas_after_the_first_write("logged").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voting_master_knows_its_replicas_after_the_first_write() {
    knows_its_replicas_after_the_first_write("votes").await;
}
