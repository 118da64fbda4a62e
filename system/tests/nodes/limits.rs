//! One connection must not exhaust a node: what it holds without taking or finishing anything is bounded in calls,
//! bytes and time, and the node goes on serving others.

use std::{
    fs,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, client};
use http::{HeaderMap, Request};
use prost::Message;
use proto::v1 as pb;
use system::{
    client::{ReasonKind, WriteOutcome},
    protocol::Node,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tonic::{Code, Status};

use crate::support::{Cluster, DEADLINE};

const R1: Node = Node::Replica(1);

/// A connection, and its end.
struct Attacker {
    sender: client::SendRequest<Bytes>,
    end: JoinHandle<Result<(), h2::Error>>,
}

impl Attacker {
    /// Connects, and lets the node send this much of each answer.
    async fn connect(cluster: &Cluster, node: Node, window: u32) -> Self {
        let address = cluster.address(node).as_str();
        let stream = TcpStream::connect(address).await.expect("the node listens");
        let builder = client::Builder::new().initial_window_size(window).clone();
        let (sender, connection) = builder.handshake(stream).await.expect("speaks HTTP/2");
        Attacker { sender, end: tokio::spawn(connection) }
    }

    async fn begin(&mut self, path: &str) -> (client::ResponseFuture, h2::SendStream<Bytes>) {
        let head = Request::post(format!("http://here{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        self.sender = self.sender.clone().ready().await.expect("the connection is open");
        self.sender.send_request(head.body(()).expect("a request"), false).expect("is sent")
    }
}

fn framed(message: &impl Message) -> Bytes {
    let length = u32::try_from(message.encoded_len()).expect("short").to_be_bytes();
    [&[0][..], &length, &message.encode_to_vec()].concat().into()
}

/// Anonymous memory of a node, in bytes.
fn memory(cluster: &mut Cluster, node: Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.pid(node)));
    let status = status.expect("the node runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a number");
    line.split_whitespace().next().expect("a number").parse::<u64>().expect("a number") << 10
}

fn status(headers: &HeaderMap) -> Status {
    Status::from_header_map(headers).expect("a status")
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_are_bounded_in_bytes_and_time() {
    let mut cluster = Cluster::started(1, "[node]\nanswer_timeout_ms = 1000").await;
    let value = vec![7; 1 << 20];
    let outcome = cluster.client().put("k", value).await;
    assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
    let idle = memory(&mut cluster, Node::Master);
    let mut attacker = Attacker::connect(&cluster, Node::Master, 0).await;
    let get = framed(&pb::GetRequest { key: "k".into() });
    let mut answers = Vec::new();
    for _ in 0..400 {
        let (answer, mut body) = attacker.begin("/twopc.v1.Kv/Get").await;
        body.send_data(get.clone(), true).expect("is sent");
        answers.push(tokio::spawn(answer));
    }
    let (mut served, mut refused) = (0, 0);
    let mut kept = Vec::new();
    for answer in answers {
        let answer = timeout(DEADLINE, answer).await.expect("in time").expect("no panic");
        let answer = answer.expect("is answered");
        if answer.headers().contains_key("grpc-status") {
            // Either its answer did not fit, or the replica was too slow for so many.
            let code = status(answer.headers()).code();
            assert!(matches!(code, Code::ResourceExhausted | Code::Unavailable), "{code:?}");
            refused += 1;
        } else {
            served += 1;
            kept.push(answer);
        }
    }
    let more = memory(&mut cluster, Node::Master).saturating_sub(idle);
    assert!(served <= 32 && refused >= 368, "{served} served, {refused} refused");
    assert!(more < 128 << 20, "{more} bytes more");
    // Others are served meanwhile, and the connection is closed in the end.
    assert!(cluster.client().get("k").await.expect("answered").is_some());
    let ended = timeout(DEADLINE, attacker.end).await.expect("the node closes the connection");
    drop(ended.expect("no panic"));
    assert!(cluster.log(Node::Master).contains("do not take their answers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_do_not_arrive_are_bounded_in_bytes_and_time() {
    let mut cluster = Cluster::started(1, "[node]\nrequest_timeout_ms = 1000").await;
    let idle = memory(&mut cluster, Node::Master);
    let mut attacker = Attacker::connect(&cluster, Node::Master, 1 << 16).await;
    let mut unfinished = Vec::new();
    for _ in 0..64 {
        let (answer, mut body) = attacker.begin("/twopc.v1.Kv/Put").await;
        let length = (1_u32 << 20).to_be_bytes();
        let begun = [&[0][..], &length, &[7; (1 << 20) - 1]].concat();
        // Refused ones are reset before all of it is sent.
        let _ = body.send_data(begun.into(), false);
        unfinished.push((answer, body));
    }
    let (mut expired, mut refused) = (0, 0);
    for (answer, _) in unfinished {
        let answer = timeout(DEADLINE, answer).await.expect("in time").expect("is answered");
        match status(answer.headers()).code() {
            Code::DeadlineExceeded => expired += 1,
            Code::ResourceExhausted => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    let more = memory(&mut cluster, Node::Master).saturating_sub(idle);
    assert!(expired <= 16 && refused >= 48, "{expired} expired, {refused} refused");
    assert!(more < 64 << 20, "{more} bytes more");
    let outcome = cluster.client().put("k", "v").await;
    assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_reserves_no_memory_at_any_service() {
    let cluster = Cluster::started(1, "").await;
    for path in [
        "/twopc.v1.Peer/Exchange",
        "/twopc.v1.Inspect/Status",
        "/twopc.v1.Inspect/Dump",
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        let mut attacker = Attacker::connect(&cluster, R1, 1 << 16).await;
        let (answer, mut body) = attacker.begin(path).await;
        body.send_data(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]), false).expect("is sent");
        let answer = timeout(DEADLINE, answer).await.expect("in time").expect("is answered");
        let refused = if answer.headers().contains_key("grpc-status") {
            status(answer.headers())
        } else {
            let mut body = answer.into_body();
            while body.data().await.is_some() {}
            status(&body.trailers().await.expect("no error").expect("trailers"))
        };
        // Reflection takes any error for the end of the requests.
        let code = if path.contains("reflection") { Code::Ok } else { Code::ResourceExhausted };
        assert_eq!(refused.code(), code, "{path}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resets_its_calls_over_and_over_has_to_go() {
    let cluster = Cluster::started(1, "").await;
    let mut attacker = Attacker::connect(&cluster, Node::Master, 1 << 16).await;
    let get = framed(&pb::GetRequest { key: "k".into() });
    let deadline = Instant::now() + DEADLINE;
    let mut reset = 0;
    while !attacker.end.is_finished() && Instant::now() < deadline {
        let Ok(ready) = attacker.sender.clone().ready().await else { break };
        attacker.sender = ready;
        let head = Request::post("http://here/twopc.v1.Kv/Get").body(()).expect("a request");
        let Ok((_, mut body)) = attacker.sender.send_request(head, false) else { break };
        let _ = body.send_data(get.clone(), true);
        body.send_reset(Reason::CANCEL);
        reset += 1;
    }
    let end =
        timeout(DEADLINE, attacker.end).await.expect("the connection ends").expect("no panic");
    let why = end.expect_err("it is told to go");
    assert_eq!(why.reason(), Some(Reason::ENHANCE_YOUR_CALM), "{why} after {reset}");
    assert!(why.is_go_away() && why.is_remote(), "{why}");
    let outcome = cluster.client().put("k", "v").await;
    assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_are_closed() {
    let limits = "[node]\nhandshake_timeout_ms = 200\nidle_timeout_ms = 1000";
    let cluster = Cluster::started(1, limits).await;
    let address = cluster.address(Node::Master).as_str();
    // Before the handshake, and within it.
    for begun in ["", "PRI * HTTP/2.0\r\n"] {
        let mut silent = TcpStream::connect(address).await.expect("the node listens");
        silent.write_all(begun.as_bytes()).await.expect("is sent");
        let mut answer = Vec::new();
        let end = timeout(DEADLINE, silent.read_to_end(&mut answer)).await;
        // Closed, or reset because the node has not read all.
        drop(end.expect("the node closes the connection"));
    }
    let idle = Attacker::connect(&cluster, Node::Master, 1 << 16).await;
    let end = timeout(DEADLINE, idle.end).await.expect("the node closes the connection");
    assert!(end.expect("no panic").is_ok(), "in order");
    // The streams of peers stay, and so does the cluster; a client connects again.
    let client = cluster.client();
    for _ in 0..3 {
        let outcome = client.put("k", "v").await;
        assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert_eq!(cluster.log(R1).matches("stream from master established").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_beyond_the_budget_are_refused_and_had_no_effect() {
    let cluster =
        Cluster::started(1, "[node]\nwrite_bytes_max = 1\nconnection_write_bytes_max = 1").await;
    let client = cluster.client();
    let puts = (0..16).map(|n| {
        let (client, value) = (client.clone(), vec![n; 1 << 20]);
        tokio::spawn(async move { client.put(format!("k{n}").as_str(), value).await })
    });
    let puts: Vec<_> = puts.collect();
    let mut refused = 0;
    for (n, put) in puts.into_iter().enumerate() {
        let outcome = put.await.expect("no panic");
        let found = client.get(format!("k{n}").as_str()).await.expect("answered");
        match outcome {
            WriteOutcome::Committed { version } => assert_eq!(found.map(|it| it.0), Some(version)),
            WriteOutcome::Aborted(reason) => {
                assert_eq!(reason.kind, ReasonKind::Overloaded, "{reason}");
                assert!(reason.retry_after.is_some(), "{reason}");
                assert_eq!(found, None);
                refused += 1;
            }
            WriteOutcome::Unknown(why) => panic!("{why}"),
        }
    }
    assert!((1..16).contains(&refused), "{refused} refused");
}
