//! What the client library is certain of, and what it is not.

use std::time::Duration;

use nix::sys::signal::Signal;
use system::{
    client::{Client, ReadError, ReasonKind, WriteOutcome},
    protocol::Node,
};

use crate::support::{Cluster, PATIENT, text};

const MASTER: Node = Node::Master;

fn unreached(outcome: &WriteOutcome) -> bool {
    matches!(outcome, WriteOutcome::Aborted(reason) if reason.kind == ReasonKind::Unreachable)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_cannot_have_left_had_no_effect() {
    let mut cluster = Cluster::new(1, PATIENT);
    let client = cluster.client();
    assert!(unreached(&client.put("k", "v").await), "nobody listens");
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
    // The connection of the put is dead, and this side may or may not have noticed.
    let outcome = client.put("k", "w").await;
    assert!(unreached(&outcome) || matches!(outcome, WriteOutcome::Unknown(_)), "{outcome:?}");
    assert!(unreached(&client.put("k", "w").await));
    cluster.start(MASTER, &[]);
    cluster.ready().await;
    assert!(matches!(client.put("k", "x").await, WriteOutcome::Committed { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_leaves_the_outcome_open() {
    let mut cluster = Cluster::begun(1, PATIENT).await;
    let client = cluster.client().timeout(Duration::from_millis(300));
    assert!(matches!(client.put("k", "v").await, WriteOutcome::Committed { .. }));
    cluster.signal(MASTER, Signal::SIGSTOP);
    let outcome = client.put("k", "w").await;
    assert!(matches!(&outcome, WriteOutcome::Unknown(why) if why == "no answer within 300ms"));
    // The next one needs a connection, which a stopped process does not make: it never left.
    assert!(unreached(&client.put("k", "x").await));
    cluster.signal(MASTER, Signal::SIGCONT);
    let patient = cluster.client();
    // The write that was given up took effect or did not: it may even have been withdrawn.
    let (_, found) = patient.get("k").await.expect("reads").expect("is there");
    assert!([b"v", b"w"].iter().any(|value| found.as_bytes() == *value), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_share_a_connection() {
    let cluster = Cluster::begun(2, PATIENT).await;
    let client = Client::connect(cluster.address(MASTER).clone()).await.expect("it listens");
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
async fn the_program_shows_and_loads_a_cluster() {
    let mut cluster = Cluster::begun(2, PATIENT).await;
    let run = |args: &[&str]| text(&cluster.client_program(args).output().expect("ends"));
    let (code, said) =
        run(&["load", "--clients", "8", "--ops", "500", "--keys", "10", "--seed", "1"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.starts_with("8 clients, 10 keys, values of 100 bytes: 500 operations in"),
        "{said}"
    );
    assert_eq!(run(&["put", "two words", "\\x00"]).0, Some(0));
    let (code, said) = run(&["status"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.lines().filter(|line| line.contains(" ready, epoch 1")).count() == 3, "{said}");
    let (code, said) = run(&["dump", "--replica", "r2"]);
    assert_eq!(code, Some(0), "{said}");
    let entry = said.lines().last().expect("an entry");
    assert!(entry.starts_with("two words\t1.") && entry.ends_with("\t\\x00"), "{entry}");
    assert_eq!(run(&["dump", "--replica", "r3"]).0, Some(2));
    // Into a pipe that nobody reads any more, as behind `head`: it ends, and has nothing to add.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut unheard = cluster.client_program(["dump", "--replica", "r2"]);
    assert_eq!(text(&unheard.stdout(writer).output().expect("ends")), (Some(0), String::new()));
    assert_eq!(
        run(&["put", "", "v"]),
        (Some(1), "aborted INVALID: the key is empty: a key has 1 to 511 bytes".to_owned())
    );
    cluster.stop(MASTER);
    let run = |args: &[&str]| text(&cluster.client_program(args).output().expect("ends"));
    let (code, said) = run(&["put", "k", "v"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("aborted UNREACHABLE: "), "{said}");
    let (code, said) = run(&["status"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("unreachable"), "{said}");
    let (code, said) = run(&["load", "--ops", "5"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.starts_with("client: cannot reach the master at"), "{said}");
}
