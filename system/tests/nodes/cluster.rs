//! The behaviour of a whole cluster towards its clients.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
};

use nix::{libc, sys::signal::Signal};
use system::{
    client::{ReasonKind, WriteOutcome},
    protocol::{Node, Value},
};

use crate::support::{Cluster, FAST_HEARTBEATS, LONG_TIMEOUTS, text, within};

const R1: Node = Node::Replica(1);

fn committed(outcome: WriteOutcome) -> system::protocol::Version {
    match outcome {
        WriteOutcome::Committed { version } => version,
        outcome => panic!("not committed: {outcome:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn put_get_and_del_work_end_to_end() {
    let cluster = Cluster::started(3, LONG_TIMEOUTS).await;
    let client = cluster.client();
    assert_eq!(client.get("k").await, Ok(None));
    let first = committed(client.put("k", "one").await);
    assert_eq!(client.get("k").await, Ok(Some((first, "one".into()))));
    let second = committed(client.put("k", "two").await);
    assert!(second > first);
    assert_eq!(client.get("k").await, Ok(Some((second, "two".into()))));
    let other = committed(client.put("other", "").await);
    assert!(committed(client.del("k").await) > second);
    assert_eq!(client.get("k").await, Ok(None));
    committed(client.del("k").await);

    let large = Value::from(vec![0xA5; 1 << 20]);
    let longest = vec![b'k'; 511];
    let version = committed(client.put(longest.clone(), large.clone()).await);
    assert_eq!(client.get(longest.clone()).await, Ok(Some((version, large.clone()))));

    cluster.settled().await;
    let entries = vec![(longest.into(), version, large), ("other".into(), other, "".into())];
    for slot in 1..=3 {
        assert_eq!(cluster.dump(Node::Replica(slot)).await, entries);
    }
}

/// The scheduling policies of all threads of a node, from proc(5).
fn policies(cluster: &mut Cluster, node: Node) -> BTreeSet<i32> {
    let tasks = format!("/proc/{}/task", cluster.pid(node));
    let policies = fs::read_dir(tasks).expect("the node runs").filter_map(|task| {
        // The thread may have ended.
        let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        // The third field follows the name, which ends with the last parenthesis.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let policy = fields.split_whitespace().nth(41 - 3).expect("a policy");
        Some(policy.parse().expect("a number"))
    });
    policies.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheduling_policy_follows_the_configuration() {
    for (extra, policy) in
        [("", libc::SCHED_BATCH), ("[node]\nsched_batch = false", libc::SCHED_OTHER)]
    {
        let mut cluster = Cluster::started(1, extra).await;
        for node in cluster.names() {
            assert_eq!(policies(&mut cluster, node), BTreeSet::from([policy]), "{node}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_concurrent_puts_of_a_key_the_first_proceeds() {
    // The vote of one replica is held back, so no timeout may expire.
    let mut cluster = Cluster::started(3, LONG_TIMEOUTS).await;
    cluster.arm(R1, "replica:before-send:vote-yes");
    let first = cluster.client_program(["put", "k", "first"]).spawn().expect("the program starts");
    let txn = cluster.wait_for_hit(R1, "replica:before-send:vote-yes");

    let second = cluster.client_program(["put", "k", "second"]).output().expect("the program ends");
    let holder = txn.strip_prefix("txn=").expect("a transaction");
    let why =
        format!("aborted CONFLICT: another write of the key is in progress: transaction {holder}");
    assert_eq!(text(&second), (Some(1), why));
    let elsewhere = cluster.client_program(["get", "other"]).output().expect("the program ends");
    assert_eq!(text(&elsewhere), (Some(0), "ok absent".to_owned()));

    cluster.signal(R1, Signal::SIGCONT);
    let first = first.wait_with_output().expect("the program ends");
    assert_eq!(text(&first), (Some(0), format!("ok {holder}")));
    let read = cluster.client_program(["get", "k"]).output().expect("the program ends");
    assert_eq!(text(&read), (Some(0), format!("ok {holder} first")));
}

#[tokio::test(flavor = "multi_thread")]
async fn consecutive_puts_of_one_client_never_conflict() {
    let cluster = Cluster::started(3, LONG_TIMEOUTS).await;
    let mut program = cluster
        .client_program(["stream"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = program.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || {
        for n in 1..=1000 {
            writeln!(lines, "put k {n}").expect("the program reads");
        }
        writeln!(lines, "what\nget k").expect("the program reads");
    });
    let answers = BufReader::new(program.stdout.take().expect("piped")).lines();
    let answers: Vec<String> = answers.map(|line| line.expect("text")).collect();
    writer.join().expect("no panic");
    assert_eq!(answers.len(), 1002);
    let (puts, rest) = answers.split_at(1000);
    if let Some(bad) = puts.iter().find(|answer| !answer.starts_with("ok ")) {
        panic!("{bad}");
    }
    assert!(rest[0].starts_with("error: line 1001: unknown operation 'what'"), "{}", rest[0]);
    assert!(rest[1].ends_with(" 1000"), "{}", rest[1]);
    assert_eq!(program.wait().expect("the program ends").code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_writes_survive_a_kill_of_every_node() {
    let mut cluster = Cluster::started(3, LONG_TIMEOUTS).await;
    let client = cluster.client();
    let mut entries = Vec::new();
    for n in 10..30 {
        let version = committed(client.put(format!("k{n}").as_str(), "v").await);
        entries.push((format!("k{n}").as_str().into(), version, "v".into()));
    }
    for node in cluster.names() {
        cluster.kill(node);
    }
    for node in cluster.names() {
        cluster.start(node, &[]);
    }
    cluster.settled().await;
    for slot in 1..=3 {
        assert_eq!(cluster.dump(Node::Replica(slot)).await, entries);
    }
    let later = committed(cluster.client().put("k10", "w").await);
    assert_eq!(later.epoch, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_replica_down_reads_continue_and_writes_are_refused() {
    let mut cluster = Cluster::started(3, FAST_HEARTBEATS).await;
    let client = cluster.client();
    let version = committed(client.put("k", "v").await);
    cluster.kill(R1);
    cluster.until(Node::Master, |status| !status.ready).await;
    for _ in 0..20 {
        assert_eq!(client.get("k").await, Ok(Some((version, "v".into()))));
    }
    match client.put("k", "w").await {
        WriteOutcome::Aborted(reason) => {
            assert_eq!(reason.kind, ReasonKind::Unavailable);
            assert_eq!(reason.facts.get("missing").map(String::as_str), Some("r1"));
        }
        outcome => panic!("{outcome:?}"),
    }
    cluster.start(R1, &[]);
    cluster.ready().await;
    committed(client.put("k", "w").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_shut_down_gracefully() {
    let mut cluster =
        Cluster::started(2, &format!("{LONG_TIMEOUTS}\n[node]\nshutdown_grace_ms = 60000")).await;
    // The master is stopped while a call is in flight, and finishes it.
    cluster.arm(R1, "replica:before-send:vote-yes");
    let client = cluster.client();
    let put = tokio::spawn(async move { client.put("k", "v").await });
    cluster.wait_for_hit(R1, "replica:before-send:vote-yes");
    cluster.signal(Node::Master, Signal::SIGTERM);
    within("the refusal of new calls", || {
        cluster.log(Node::Master).contains("received a stop signal").then_some(())
    });
    match cluster.client().put("other", "w").await {
        WriteOutcome::Aborted(reason) => assert_eq!(reason.kind, ReasonKind::Stopping),
        outcome => panic!("{outcome:?}"),
    }
    cluster.signal(R1, Signal::SIGCONT);
    committed(put.await.expect("no panic"));
    assert!(cluster.ended(Node::Master).success());
    // A controlled node also stops when its standard input is closed.
    cluster.close_stdin(R1);
    assert!(cluster.ended(R1).success());
    cluster.stop(Node::Replica(2));
    assert!(cluster.log(R1).contains("shut down"));
}
