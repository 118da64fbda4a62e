//! Crash points: a node stops itself exactly where it was told to, and continues or is killed
//! there.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use system::{
    client::WriteOutcome,
    journal::Entry,
    protocol::{Body, Decision, Effect, Event, Message, Node, Record, TxnId},
};

use crate::support::{Cluster, within};

const MASTER: Node = Node::Master;
const R1: Node = Node::Replica(1);
/// Long timeouts; a decision is not retransmitted while its node is stopped.
const LONG_TIMEOUTS: &str =
    "[timing]\nvote_timeout_ms = 30000\nmissed_heartbeats_max = 200\nretransmit_ms = 20000";

/// The replicas that have received a commit decision about a transaction, according to their
/// journals.
fn replicas_with_decision(cluster: &Cluster, txn: TxnId) -> Vec<Node> {
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
async fn a_node_stops_at_a_crash_point_and_continues() {
    let mut cluster = Cluster::started(2, LONG_TIMEOUTS).await;
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
        let txn = cluster.wait_for_hit(MASTER, point);
        cluster.signal(MASTER, Signal::SIGCONT);
        match put.await.expect("no panic") {
            // A request has no transaction yet, and an END may belong to the previous put.
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
        cluster.wait_for_hit(R1, point);
        cluster.signal(R1, Signal::SIGCONT);
        assert!(matches!(put.await.expect("no panic"), WriteOutcome::Committed { .. }), "{point}");
        cluster.settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_send_one_replica_has_the_decision() {
    let mut cluster = Cluster::started(3, LONG_TIMEOUTS).await;
    cluster.arm(MASTER, "master:after-send:decide:1");
    let client = cluster.client();
    let put = tokio::spawn(async move { client.put("k", "v").await });
    let txn = cluster.wait_for_hit(MASTER, "master:after-send:decide:1");
    let txn: TxnId = txn.strip_prefix("txn=").and_then(|txn| txn.parse().ok()).expect("its id");
    // The master is stopped, so no further replica can receive the decision.
    let knows = within("the decision", || {
        let knows = replicas_with_decision(&cluster, txn);
        (!knows.is_empty()).then_some(knows)
    });
    assert_eq!(knows.len(), 1, "{knows:?}");
    for slot in 1..=3 {
        let replica = Node::Replica(slot);
        let in_doubt = !knows.contains(&replica);
        cluster.until(replica, |status| status.unsettled.is_empty() != in_doubt).await;
    }
    assert_eq!(replicas_with_decision(&cluster, txn), knows);

    // The client was answered before the decision was sent.
    assert_eq!(put.await.expect("no panic"), WriteOutcome::Committed { version: txn });
    cluster.kill(MASTER);
    cluster.start(MASTER, &[]);
    cluster.settled().await;
    assert_eq!(cluster.client().get("k").await, Ok(Some((txn, "v".into()))));
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_that_arrive_while_the_master_does_not_run_are_in_time() {
    const VOTE_TIMEOUT: Duration = Duration::from_millis(500);
    let timing = "[timing]\nvote_timeout_ms = 500\nmissed_heartbeats_max = 200";
    let mut cluster = Cluster::started(2, timing).await;
    let point = "master:after-send:prepare:2";
    cluster.arm(MASTER, point);
    let client = cluster.client();
    let put = tokio::spawn(async move { client.put("k", "v").await });
    cluster.wait_for_hit(MASTER, point);
    let stopped = Instant::now();
    for slot in 1..=2 {
        within("a vote", || {
            let journal = cluster.journal(Node::Replica(slot));
            let votes = |entry: &Entry| matches!(entry, Entry::Effect(Effect::Send { message, .. }) if matches!(message.body, Body::VoteYes { .. }));
            journal.iter().any(votes).then_some(())
        });
    }
    // When the master goes on, the time for votes is over, and the votes are there.
    tokio::time::sleep_until((stopped + VOTE_TIMEOUT + VOTE_TIMEOUT / 5).into()).await;
    cluster.signal(MASTER, Signal::SIGCONT);
    assert!(matches!(put.await.expect("no panic"), WriteOutcome::Committed { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_reply_the_client_has_its_answer() {
    let mut cluster = Cluster::started(2, LONG_TIMEOUTS).await;
    for (point, key) in [("master:after-reply:ok", "k"), ("master:before-send:decide", "l")] {
        cluster.arm(MASTER, point);
        // The client finishes although the master is stopped.
        let put = cluster.client_program(["put", key, "v"]).output().expect("the program ends");
        assert!(put.status.success(), "{put:?}");
        cluster.wait_for_hit(MASTER, point);
        cluster.signal(MASTER, Signal::SIGCONT);
        cluster.settled().await;
    }
    cluster.arm(MASTER, "master:after-reply:aborted");
    cluster.arm(MASTER, "master:after-reply:value");
    let get = cluster.client_program(["get", "k"]).output().expect("the program ends");
    assert!(get.status.success(), "{get:?}");
    cluster.wait_for_hit(MASTER, "master:after-reply:value");
    cluster.signal(MASTER, Signal::SIGCONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_durable_after_persist_and_not_before() {
    let mut cluster = Cluster::started(2, LONG_TIMEOUTS).await;
    // The first commit also makes the membership durable.
    assert!(matches!(cluster.client().put("k", "v").await, WriteOutcome::Committed { .. }));
    for (point, survives) in
        [("master:before-persist:commit", false), ("master:after-persist:commit", true)]
    {
        cluster.arm(MASTER, point);
        let client = cluster.client();
        let put = tokio::spawn(async move { client.put(point, "v").await });
        let txn = cluster.wait_for_hit(MASTER, point);
        cluster.kill(MASTER);
        let outcome = put.await.expect("no panic");
        assert!(matches!(outcome, WriteOutcome::Unknown(_)), "{outcome:?}");
        cluster.start(MASTER, &[]);
        cluster.settled().await;
        let Some(Entry::Start { records, .. }) =
            cluster.journal(MASTER).into_iter().rfind(|entry| matches!(entry, Entry::Start { .. }))
        else {
            panic!("the journal has no start entry");
        };
        let kept = records.iter().any(
            |record| matches!(record, Record::CommitDecision { txn: id, .. } if txn == format!("txn={id}")),
        );
        assert_eq!(kept, survives, "{point}");
        let found = cluster.client().get(point).await.expect("reads");
        assert_eq!(found.is_some(), survives, "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_points_are_rejected_and_a_disarmed_one_is_ignored() {
    let mut cluster = Cluster::started(1, "").await;
    cluster.send_command(MASTER, "arm master:after-persist:comit");
    let error = cluster.line(MASTER);
    assert!(
        error.starts_with(
            "error master:after-persist:comit unknown kind 'comit' for master persist"
        ),
        "{error}"
    );
    cluster.send_command(MASTER, "arm replica:after-persist:commit");
    assert_eq!(cluster.line(MASTER), "error replica:after-persist:commit this node is a master");
    cluster.arm(MASTER, "master:after-persist:commit");
    cluster.send_command(MASTER, "disarm");
    assert_eq!(cluster.line(MASTER), "disarmed");
    assert!(matches!(cluster.client().put("k", "v").await, WriteOutcome::Committed { .. }));
}
