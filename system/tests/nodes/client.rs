//! What the client library reports as certain, and what as unknown.

use std::time::Duration;

use nix::sys::signal::Signal;
use system::{
    client::{Client, ReadError, ReasonKind, WriteOutcome},
    protocol::Node,
};

use crate::support::{Cluster, LONG_TIMEOUTS, text};

const MASTER: Node = Node::Master;

fn unreachable(outcome: &WriteOutcome) -> bool {
    matches!(outcome, WriteOutcome::Aborted(reason) if reason.kind == ReasonKind::Unreachable)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_not_sent_had_no_effect() {
    let mut cluster = Cluster::new(1, LONG_TIMEOUTS);
    let client = cluster.client();
    assert!(unreachable(&client.put("k", "v").await), "no process listens");
    let read = client.get("k").await;
    assert!(
        matches!(read, Err(ReadError::Refused(reason)) if reason.kind == ReasonKind::Unreachable)
    );

    for node in cluster.names() {
        cluster.start(node, &["--bootstrap"]);
    }
    cluster.ready().await;
    assert!(matches!(client.put("k", "v").await, WriteOutcome::Committed { .. }));
    cluster.kill(MASTER);
    // The connection is dead, which this side may or may not have noticed.
    let outcome = client.put("k", "w").await;
    assert!(unreachable(&outcome) || matches!(outcome, WriteOutcome::Unknown(_)), "{outcome:?}");
    assert!(unreachable(&client.put("k", "w").await));
    cluster.start(MASTER, &[]);
    cluster.ready().await;
    assert!(matches!(client.put("k", "x").await, WriteOutcome::Committed { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_leaves_the_outcome_unknown() {
    let mut cluster = Cluster::started(1, LONG_TIMEOUTS).await;
    let client = cluster.client().timeout(Duration::from_millis(300));
    assert!(matches!(client.put("k", "v").await, WriteOutcome::Committed { .. }));
    cluster.signal(MASTER, Signal::SIGSTOP);
    let outcome = client.put("k", "w").await;
    assert!(matches!(&outcome, WriteOutcome::Unknown(why) if why == "no answer within 300ms"));
    // The next write needs a new connection, which a stopped process does not complete, so it is
    // not sent.
    assert!(unreachable(&client.put("k", "x").await));
    cluster.signal(MASTER, Signal::SIGCONT);
    let client = cluster.client();
    // The timed-out write may or may not have taken effect; it may even have been withdrawn.
    let (_, found) = client.get("k").await.expect("the read succeeds").expect("the key exists");
    assert!([b"v", b"w"].iter().any(|value| found.as_bytes() == *value), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_share_a_connection() {
    let cluster = Cluster::started(2, LONG_TIMEOUTS).await;
    let client = Client::new(cluster.address(MASTER).clone());
    client.connect().await.expect("connected");
    let puts = (0..500).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.put(format!("k{n}").as_str(), "v").await })
    });
    for outcome in futures::future::join_all(puts).await {
        let outcome = outcome.expect("no panic");
        assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
    }
    cluster.settled().await;
    assert_eq!(cluster.dump(Node::Replica(2)).await.len(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_inspects_and_loads_a_cluster() {
    let mut cluster = Cluster::started(2, LONG_TIMEOUTS).await;
    let run =
        |args: &[&str]| text(&cluster.client_program(args).output().expect("the program ends"));
    let (code, output) =
        run(&["load", "--clients", "8", "--ops", "500", "--keys", "10", "--seed", "1"]);
    assert_eq!(code, Some(0), "{output}");
    assert!(
        output.starts_with("8 clients, 10 keys, values of 100 bytes: 500 operations in"),
        "{output}"
    );
    assert_eq!(run(&["put", "two words", "\\x00"]).0, Some(0));
    let (code, output) = run(&["status"]);
    assert_eq!(code, Some(0), "{output}");
    assert!(
        output.lines().filter(|line| line.contains(" ready, epoch 1")).count() == 3,
        "{output}"
    );
    let (code, output) = run(&["dump", "--replica", "r2"]);
    assert_eq!(code, Some(0), "{output}");
    let entry = output.lines().last().expect("an entry");
    assert!(entry.starts_with("two words\t1.") && entry.ends_with("\t\\x00"), "{entry}");
    assert_eq!(run(&["dump", "--replica", "r3"]).0, Some(2));
    // Into a closed pipe, as behind `head`: the program ends without an error.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut closed = cluster.client_program(["dump", "--replica", "r2"]);
    assert_eq!(
        text(&closed.stdout(writer).output().expect("the program ends")),
        (Some(0), String::new())
    );
    assert_eq!(
        run(&["put", "", "v"]),
        (Some(1), "aborted INVALID: the key is empty: a key has 1 to 511 bytes".to_owned())
    );
    cluster.stop(MASTER);
    let run =
        |args: &[&str]| text(&cluster.client_program(args).output().expect("the program ends"));
    let (code, output) = run(&["put", "k", "v"]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.starts_with("aborted UNREACHABLE: "), "{output}");
    let (code, output) = run(&["status"]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("unreachable"), "{output}");
    let (code, output) = run(&["load", "--ops", "5"]);
    assert_eq!(code, Some(2), "{output}");
    assert!(output.starts_with("client: cannot reach the master at"), "{output}");
}
