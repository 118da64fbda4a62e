//! Crash points: a node stops itself exactly where it was told to, and goes on, or is killed there.

use nix::sys::signal::Signal;
use system::{
    client::WriteOutcome,
    journal::Entry,
    protocol::{Body, Decision, Event, Message, Node, Record, TxnId},
};

use crate::support::{Cluster, within};

const MASTER: Node = Node::Master;
const R1: Node = Node::Replica(1);
/// A decision that a node is stopped over is not repeated either.
const PATIENT: &str = "[timing]\nvote = 30000\nmissed_heartbeats_max = 200\nresend = 20000";

/// Which replicas have taken in a commit decision about a transaction, by their journals.
fn decided(cluster: &Cluster, txn: TxnId) -> Vec<Node> {
    let decide = Body::Decide { txn, decision: Decision::Commit };
    let mut nodes = cluster.names();
    nodes.retain(|node| {
        cluster.journal(*node).iter().any(|entry| {
            matches!(entry, Entry::Event { event: Event::Message { message: Message { body, .. }, .. }, .. }
                if *body == decide)
        })
    });
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_at_a_point_and_goes_on_when_continued() {
    let mut cluster = Cluster::begun(2, PATIENT).await;
    for point in [
        "master:before-receive:put",
        "master:after-receive:put",
        "master:before-send:prepare:2",
        "master:after-send:prepare",
        "master:before-persist:commit",
        "master:after-persist:commit",
        "master:before-reply:ok",
        "master:after-reply:ok",
        "master:before-send:decide",
        "master:after-send:decide:2",
        "master:before-receive:ack",
        "master:after-persist:end",
    ] {
        cluster.arm(MASTER, point);
        let client = cluster.client();
        let put = tokio::spawn(async move { client.put("k", "v").await });
        let txn = cluster.reached(MASTER, point);
        cluster.signal(MASTER, Signal::SIGCONT);
        match put.await.expect("no panic") {
            // A request has no transaction yet; an END may be that of the put before.
            WriteOutcome::Committed { .. } if txn.is_empty() || point.ends_with(":end") => {}
            WriteOutcome::Committed { version } => assert_eq!(txn, format!("txn={version}")),
            outcome => panic!("at {point}: {outcome:?}"),
        }
        cluster.settled().await;
    }
    for point in [
        "replica:before-receive:prepare",
        "replica:before-persist:prepare",
        "replica:after-persist:prepare",
        "replica:after-send:vote-yes",
        "replica:after-receive:decide",
        "replica:before-persist:commit",
        "replica:after-send:ack",
    ] {
        cluster.arm(R1, point);
        let client = cluster.client();
        let put = tokio::spawn(async move { client.put("k", "v").await });
        cluster.reached(R1, point);
        cluster.signal(R1, Signal::SIGCONT);
        assert!(matches!(put.await.expect("no panic"), WriteOutcome::Committed { .. }), "{point}");
        cluster.settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_send_means_that_one_replica_knows_and_no_other() {
    let mut cluster = Cluster::begun(3, PATIENT).await;
    cluster.arm(MASTER, "master:after-send:decide:1");
    let client = cluster.client();
    let put = tokio::spawn(async move { client.put("k", "v").await });
    let txn = cluster.reached(MASTER, "master:after-send:decide:1");
    let txn: TxnId = txn.strip_prefix("txn=").and_then(|txn| txn.parse().ok()).expect("its id");
    // The master is stopped, so whoever has it by now got it before.
    let knows = within("the one decision", || {
        let knows = decided(&cluster, txn);
        (!knows.is_empty()).then_some(knows)
    });
    assert_eq!(knows.len(), 1, "{knows:?}");
    for slot in 1..=3 {
        let replica = Node::Replica(slot);
        let in_doubt = !knows.contains(&replica);
        cluster.until(replica, |status| status.unsettled.is_empty() != in_doubt).await;
    }
    assert_eq!(decided(&cluster, txn), knows);

    // The answer to the client came before the decision was sent, and it was the truth.
    assert_eq!(put.await.expect("no panic"), WriteOutcome::Committed { version: txn });
    cluster.kill(MASTER);
    cluster.start(MASTER, &[]);
    cluster.settled().await;
    assert_eq!(cluster.client().get("k").await, Ok(Some((txn, "v".into()))));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_reply_means_that_the_client_has_its_answer() {
    let mut cluster = Cluster::begun(2, PATIENT).await;
    for (point, key) in [("master:after-reply:ok", "k"), ("master:before-send:decide", "l")] {
        cluster.arm(MASTER, point);
        // The client ends although the master does not move.
        let put = cluster.client_program(["put", key, "v"]).output().expect("ends");
        assert!(put.status.success(), "{put:?}");
        cluster.reached(MASTER, point);
        cluster.signal(MASTER, Signal::SIGCONT);
        cluster.settled().await;
    }
    cluster.arm(MASTER, "master:after-reply:aborted");
    cluster.arm(MASTER, "master:after-reply:value");
    let get = cluster.client_program(["get", "k"]).output().expect("ends");
    assert!(get.status.success(), "{get:?}");
    cluster.reached(MASTER, "master:after-reply:value");
    cluster.signal(MASTER, Signal::SIGCONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_durable_after_its_persist_and_not_before() {
    let mut cluster = Cluster::begun(2, PATIENT).await;
    // With the first commit the membership is durable, too.
    assert!(matches!(cluster.client().put("k", "v").await, WriteOutcome::Committed { .. }));
    for (point, survives) in
        [("master:before-persist:commit", false), ("master:after-persist:commit", true)]
    {
        cluster.arm(MASTER, point);
        let client = cluster.client();
        let put = tokio::spawn(async move { client.put(point, "v").await });
        let txn = cluster.reached(MASTER, point);
        cluster.kill(MASTER);
        let outcome = put.await.expect("no panic");
        assert!(matches!(outcome, WriteOutcome::Unknown(_)), "{outcome:?}");
        cluster.start(MASTER, &[]);
        cluster.settled().await;
        let Some(Entry::Start { records, .. }) =
            cluster.journal(MASTER).into_iter().rfind(|entry| matches!(entry, Entry::Start { .. }))
        else {
            panic!("a start without its entry");
        };
        let kept = records.iter().any(
            |record| matches!(record, Record::Decided { txn: it, .. } if txn == format!("txn={it}")),
        );
        assert_eq!(kept, survives, "{point}");
        let found = cluster.client().get(point).await.expect("reads");
        assert_eq!(found.is_some(), survives, "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_point_is_told_and_a_disarmed_one_is_passed() {
    let mut cluster = Cluster::begun(1, "").await;
    cluster.tell(MASTER, "arm master:after-persist:comit");
    let bad = cluster.line(MASTER);
    assert!(
        bad.starts_with("bad master:after-persist:comit 'comit' is no master persist"),
        "{bad}"
    );
    cluster.tell(MASTER, "arm replica:after-persist:commit");
    assert_eq!(cluster.line(MASTER), "bad replica:after-persist:commit this is a master");
    cluster.arm(MASTER, "master:after-persist:commit");
    cluster.tell(MASTER, "disarm");
    assert_eq!(cluster.line(MASTER), "disarmed");
    assert!(matches!(cluster.client().put("k", "v").await, WriteOutcome::Committed { .. }));
}
