//! What a whole cluster does for its clients.

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

use crate::support::{Cluster, PATIENT, WATCHFUL, text, within};

const R1: Node = Node::Replica(1);

fn committed(outcome: WriteOutcome) -> system::protocol::Version {
    match outcome {
        WriteOutcome::Committed { version } => version,
        outcome => panic!("not committed: {outcome:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn put_get_and_del_work_end_to_end() {
    let cluster = Cluster::begun(3, PATIENT).await;
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

/// The scheduling policies of all threads of a node, as proc(5) has them.
fn policies(cluster: &mut Cluster, node: Node) -> BTreeSet<i32> {
    let tasks = format!("/proc/{}/task", cluster.pid(node));
    let policies = fs::read_dir(tasks).expect("it runs").filter_map(|task| {
        // A thread may end meanwhile.
        let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        // The third field follows the name, which ends with the last parenthesis.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let policy = fields.split_whitespace().nth(41 - 3).expect("a policy");
        Some(policy.parse().expect("a number"))
    });
    policies.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_interrupt_others_only_where_they_are_told_so() {
    for (told, policy) in
        [("", libc::SCHED_BATCH), ("[node]\nsched_batch = false", libc::SCHED_OTHER)]
    {
        let mut cluster = Cluster::begun(1, told).await;
        for node in cluster.names() {
            assert_eq!(policies(&mut cluster, node), BTreeSet::from([policy]), "{node}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_programs_that_put_one_key_at_once_the_first_proceeds() {
    // The vote of one replica is held back, and nobody may lose patience over it.
    let mut cluster = Cluster::begun(3, PATIENT).await;
    cluster.arm(R1, "replica:before-send:vote-yes");
    let first = cluster.client_program(["put", "k", "first"]).spawn().expect("starts");
    let txn = cluster.reached(R1, "replica:before-send:vote-yes");

    let second = cluster.client_program(["put", "k", "second"]).output().expect("ends");
    let holder = txn.strip_prefix("txn=").expect("a transaction");
    let why =
        format!("aborted CONFLICT: another write of the key is under way: transaction {holder}");
    assert_eq!(text(&second), (Some(1), why));
    let elsewhere = cluster.client_program(["get", "other"]).output().expect("ends");
    assert_eq!(text(&elsewhere), (Some(0), "ok absent".to_owned()));

    cluster.signal(R1, Signal::SIGCONT);
    let first = first.wait_with_output().expect("ends");
    assert_eq!(text(&first), (Some(0), format!("ok {holder}")));
    let read = cluster.client_program(["get", "k"]).output().expect("ends");
    assert_eq!(text(&read), (Some(0), format!("ok {holder} first")));
}

#[tokio::test(flavor = "multi_thread")]
async fn consecutive_puts_of_one_client_never_conflict() {
    let cluster = Cluster::begun(3, PATIENT).await;
    let mut program =
        cluster.client_program(["stream"]).stdin(Stdio::piped()).spawn().expect("starts");
    let mut lines = program.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || {
        for n in 1..=1000 {
            writeln!(lines, "put k {n}").expect("it reads");
        }
        writeln!(lines, "what\nget k").expect("it reads");
    });
    let answers = BufReader::new(program.stdout.take().expect("piped")).lines();
    let answers: Vec<String> = answers.map(|line| line.expect("text")).collect();
    writer.join().expect("no panic");
    assert_eq!(answers.len(), 1002);
    let (puts, rest) = answers.split_at(1000);
    if let Some(bad) = puts.iter().find(|answer| !answer.starts_with("ok ")) {
        panic!("{bad}");
    }
    assert!(rest[0].starts_with("error: line 1001: 'what' is no operation"), "{}", rest[0]);
    assert!(rest[1].ends_with(" 1000"), "{}", rest[1]);
    assert_eq!(program.wait().expect("ends").code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_is_there_after_every_node_was_killed() {
    let mut cluster = Cluster::begun(3, PATIENT).await;
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
async fn with_a_replica_down_reads_go_on_and_writes_are_refused_at_once() {
    let mut cluster = Cluster::begun(3, WATCHFUL).await;
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
async fn nodes_end_in_order_when_they_are_told_to() {
    let mut cluster =
        Cluster::begun(2, &format!("{PATIENT}\n[node]\nshutdown_grace_ms = 60000")).await;
    // The master is told while a call is in flight, and finishes it.
    cluster.arm(R1, "replica:before-send:vote-yes");
    let client = cluster.client();
    let put = tokio::spawn(async move { client.put("k", "v").await });
    cluster.reached(R1, "replica:before-send:vote-yes");
    cluster.signal(Node::Master, Signal::SIGTERM);
    within("the end of new calls", || {
        cluster.log(Node::Master).contains("told to stop").then_some(())
    });
    match cluster.client().put("other", "w").await {
        WriteOutcome::Aborted(reason) => assert_eq!(reason.kind, ReasonKind::Stopping),
        outcome => panic!("{outcome:?}"),
    }
    cluster.signal(R1, Signal::SIGCONT);
    committed(put.await.expect("no panic"));
    assert!(cluster.ended(Node::Master).success());
    // Without standard input a node under control ends as well.
    cluster.let_go(R1);
    assert!(cluster.ended(R1).success());
    cluster.stop(Node::Replica(2));
    assert!(cluster.log(R1).contains("has ended in order"));
}
