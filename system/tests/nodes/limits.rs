//! One connection must not exhaust a node: what it holds without taking or finishing anything is bounded in calls,
//! bytes and time, and the node goes on serving others.

use std::{
    fs,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt as _;
use h2::{Reason, RecvStream, client};
use http::{HeaderMap, Request, Response};
use nix::{sys::ptrace, unistd::Pid};
use prost::Message;
use proto::v1 as pb;
use system::{
    client::{Inspector, ReasonKind, WriteOutcome},
    protocol::Node,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tonic::{Code, Status};

use crate::support::{Cluster, DEADLINE, LONG_TIMEOUTS, within};

const R1: Node = Node::Replica(1);

/// A configuration with these limits of a node, in which no write is given up on a busy machine.
fn patient(limits: &str) -> String {
    format!("{LONG_TIMEOUTS}\n[node]\n{limits}")
}

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

/// A cluster with a value of a megabyte, and a connection that asks for it a number of times and takes no answer.
async fn ask_and_take_nothing(
    limits: &str,
    count: usize,
) -> (Cluster, Attacker, u64, Vec<JoinHandle<Result<Response<RecvStream>, h2::Error>>>) {
    let mut cluster = Cluster::started(1, &patient(limits)).await;
    // A letter takes one byte in the journals of the nodes, and other bytes up to six.
    let value = vec![b'v'; 1 << 20];
    let outcome = cluster.client().put("k", value).await;
    assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
    let idle = memory(&mut cluster, Node::Master);
    let mut attacker = Attacker::connect(&cluster, Node::Master, 0).await;
    let get = framed(&pb::GetRequest { key: "k".into() });
    let mut answers = Vec::new();
    for _ in 0..count {
        let (answer, mut body) = attacker.begin("/twopc.v1.Kv/Get").await;
        body.send_data(get.clone(), true).expect("is sent");
        answers.push(tokio::spawn(answer));
    }
    (cluster, attacker, idle, answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_are_bounded_in_bytes() {
    // Not many: their journals hold each value several times. The connection is not closed while they are answered,
    // however long that takes.
    let limits = "answer_timeout_ms = 600000\nconnection_answer_bytes_max = 4000000";
    let (mut cluster, _attacker, idle, answers) = ask_and_take_nothing(limits, 16).await;
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
    assert!(served <= 4 && refused >= 12, "{served} served, {refused} refused");
    assert!(more < 64 << 20, "{more} bytes more");
    // Others are served meanwhile.
    assert!(cluster.client().get("k").await.expect("answered").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_answers_wait_is_closed_in_the_end() {
    // When it is closed, only some of the gets may have been answered.
    let (cluster, attacker, _, _answers) =
        ask_and_take_nothing("answer_timeout_ms = 1000", 4).await;
    let ended = timeout(DEADLINE, attacker.end).await.expect("the node closes the connection");
    drop(ended.expect("no panic"));
    let why = "do not take their answers";
    within(why, || cluster.log(Node::Master).contains(why).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_do_not_arrive_are_bounded_in_bytes_and_time() {
    let mut cluster = Cluster::started(1, &patient("request_timeout_ms = 1000")).await;
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
    let cluster = Cluster::started(1, &patient("")).await;
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
    // Whoever still sends may see the end of the connection before it has read why.
    assert!(why.is_io() || why.reason() == Some(Reason::ENHANCE_YOUR_CALM), "{why}");
    // Some may be given up; those that fill the buffers until it has to go are not read.
    assert!((200..1_000_000).contains(&reset), "{reset} resets");
    let outcome = cluster.client().put("k", "v").await;
    assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_are_closed() {
    let limits = patient("handshake_timeout_ms = 200\nidle_timeout_ms = 1000");
    let cluster = Cluster::started(1, &limits).await;
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
    let limits = patient("write_bytes_max = 1\nconnection_write_bytes_max = 1");
    let cluster = Cluster::started(1, &limits).await;
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

/// Stops one thread of a node, so that it seems to hang in the kernel, until this is dropped.
struct HungThread {
    release: Option<std::sync::mpsc::Sender<()>>,
    tracer: Option<std::thread::JoinHandle<()>>,
}

impl HungThread {
    /// Stops the thread that writes to the disk. Only the thread that attaches to it may let it go.
    fn writer(pid: nix::unistd::Pid) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the node runs");
        let id = tasks.flatten().find(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "store")
        });
        let name = id.expect("a writer thread").file_name().into_string().expect("a number");
        let tid = Pid::from_raw(name.parse().expect("a number"));
        let (release, released) = std::sync::mpsc::channel();
        let (stopped, stop) = std::sync::mpsc::channel();
        let tracer = std::thread::spawn(move || {
            ptrace::seize(tid, ptrace::Options::empty()).expect("a thread of a child");
            ptrace::interrupt(tid).expect("a thread that is traced");
            stopped.send(()).expect("the test waits");
            // Ends when the test lets go, or ends itself.
            let _ = released.recv();
            // The stop takes effect when the thread next leaves the kernel.
            crate::support::within("the thread to be let go", || ptrace::detach(tid, None).ok());
        });
        stop.recv().expect("the thread is stopped");
        HungThread { release: Some(release), tracer: Some(tracer) }
    }
}

impl Drop for HungThread {
    fn drop(&mut self) {
        drop(self.release.take());
        let ended = self.tracer.take().expect("it is dropped once").join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

async fn health(cluster: &Cluster, node: Node) -> tonic_health::ServingStatus {
    let address = format!("http://{}", cluster.address(node));
    let channel = tonic::transport::Channel::from_shared(address).expect("an address");
    let channel = channel.connect().await.expect("the node listens");
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    let service = if node == Node::Master { "twopc.v1.Kv" } else { "twopc.v1.Peer" };
    let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
    let status = client.check(request).await.expect("answered").into_inner().status;
    if status == tonic_health::pb::health_check_response::ServingStatus::Serving as i32 {
        tonic_health::ServingStatus::Serving
    } else {
        tonic_health::ServingStatus::NotServing
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_is_noticed_and_comes_back() {
    let timing = "[timing]\nforce_age_max_ms = 500\nheartbeat_ms = 100\nmissed_heartbeats_max = 50";
    for node in [R1, Node::Master] {
        let mut cluster = Cluster::started(2, timing).await;
        let client = cluster.client().timeout(Duration::from_secs(5));
        let outcome = client.put("k", "before").await;
        assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
        let pid = cluster.pid(node);
        let hung = HungThread::writer(pid);
        // This one still waits for the force that does not end.
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.put("other", "v").await }
        });
        cluster.until(node, |status| status.force_age > Duration::from_millis(500)).await;
        let status = cluster.until(Node::Master, |status| !status.ready).await;
        if node == R1 {
            assert_eq!((status.live, status.stalled), (vec![Node::Replica(2)], vec![R1]));
        }
        let begun = Instant::now();
        let outcome = client.put("k", "meanwhile").await;
        let WriteOutcome::Aborted(reason) = outcome else { panic!("{outcome:?}") };
        assert_eq!(reason.kind, ReasonKind::Unavailable, "{reason}");
        assert_eq!(reason.facts["missing"], node.to_string());
        assert!(begun.elapsed() < Duration::from_millis(900), "not at the vote timeout");
        let found = client.get("k").await.expect("gets go on").expect("present");
        assert_eq!(found.1.as_bytes(), b"before");
        for unhealthy in [node, Node::Master] {
            crate::support::eventually("health", async || {
                health(&cluster, unhealthy).await == tonic_health::ServingStatus::NotServing
            })
            .await;
        }
        drop(hung);
        cluster.settled().await;
        drop(waiting.await.expect("no panic"));
        let outcome = client.put("k", "after").await;
        assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
        for line in ["the disk hangs", "the disk goes on"] {
            within(line, || cluster.log(node).contains(line).then_some(()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_takes_too_long_is_ended_and_another_goes_on() {
    let cluster = Cluster::started(1, &patient("dump_timeout_ms = 500")).await;
    let client = cluster.client();
    for n in 10..40 {
        let outcome = client.put(format!("k{n}").as_str(), vec![b'v'; 1 << 20]).await;
        assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
    }
    let mut inspector = Inspector::connect(cluster.address(R1)).await.expect("connected");
    let mut entries = std::pin::pin!(inspector.dump().await.expect("it answers"));
    let mut keys = Vec::new();
    // More than the buffers hold, and nobody takes it in time.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ended = loop {
        match timeout(DEADLINE, entries.next()).await.expect("in time").expect("an end") {
            Ok((key, ..)) => keys.push(key),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended}");
    assert!(ended.message().contains("begin another one after the last key"), "{ended}");
    assert!(!keys.is_empty() && keys.len() < 30, "{} keys", keys.len());
    while keys.len() < 30 {
        let last = keys.last().cloned();
        let mut rest = std::pin::pin!(inspector.dump_after(last).await.expect("it answers"));
        while let Some(Ok((key, ..))) = rest.next().await {
            keys.push(key);
        }
    }
    let expected: Vec<_> = (10..40).map(|n| format!("k{n}").as_str().into()).collect();
    assert_eq!(keys, expected, "each once, in order");
}

/// Asks for a page over HTTP/1.1.
async fn page(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("somebody listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("is sent");
    let mut answer = String::new();
    let read = timeout(DEADLINE, stream.read_to_string(&mut answer));
    read.await.expect("the connection is closed").expect("text");
    answer
}

/// The value of a metric.
fn value(page: &str, metric: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {metric} in {page}")).parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_a_node_does() {
    let mut cluster = Cluster::new(1, LONG_TIMEOUTS);
    let host = cluster.address(R1).as_str().trim_end_matches(":7001").to_owned();
    let [master, replica] = [7200, 7201].map(|port| format!("{host}:{port}"));
    let flags = |address| ["--bootstrap", "--log-format", "json", "--metrics", address];
    cluster.start(Node::Master, &flags(&master));
    cluster.start(R1, &flags(&replica));
    cluster.ready().await;
    let client = cluster.client();
    for n in 0..3 {
        let outcome = client.put("k", vec![n; 7 << 20 >> 3]).await;
        assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
    }
    client.get("k").await.expect("answered");
    let stranger = pb::Batch { cluster: "another".into(), ..pb::Batch::default() };
    let mut attacker = Attacker::connect(&cluster, R1, 1 << 16).await;
    let (answer, mut body) = attacker.begin("/twopc.v1.Peer/Exchange").await;
    body.send_data(framed(&stranger), true).expect("is sent");
    answer.await.expect("is refused");

    let text = page(&master, "/metrics").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    for (metric, expected) in [
        ("twopc_ready", 1.0),
        ("twopc_live_replicas", 1.0),
        ("twopc_replies_total{outcome=\"committed\"}", 3.0),
        ("twopc_replies_total{outcome=\"value\"}", 1.0),
        ("twopc_replies_total{outcome=\"aborted\",reason=\"conflict\"}", 0.0),
        ("twopc_calls", 0.0),
        ("twopc_bytes_in_flight{of=\"writes\"}", 0.0),
        ("twopc_oldest_force_seconds", 0.0),
        ("twopc_refused_messages_total", 0.0),
        ("twopc_dropped_log_lines_total", 0.0),
    ] {
        assert_eq!(value(&text, metric), expected, "{metric}");
    }
    assert!(value(&text, "twopc_force_seconds_count") >= 3.0, "{text}");
    assert!(value(&text, "twopc_force_seconds_sum") > 0.0, "{text}");
    let text = page(&replica, "/metrics").await;
    assert_eq!(value(&text, "twopc_refused_messages_total"), 1.0);
    assert!(value(&text, "twopc_file_bytes{file=\"wal-0\"}") > 0.0, "{text}");
    assert!(value(&text, "twopc_file_bytes{file=\"data.mdb\"}") > 0.0, "{text}");
    assert_eq!(value(&text, "twopc_map_bytes"), f64::from(16) * f64::from(1 << 30));
    assert!(page(&replica, "/").await.starts_with("HTTP/1.1 404"));

    // More scrapers than are allowed, none of which asks for anything: one gets no answer, and nobody else suffers.
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(TcpStream::connect(&replica).await.expect("somebody listens"));
    }
    let mut refused = TcpStream::connect(&replica).await.expect("somebody listens");
    let mut nothing = Vec::new();
    let end = timeout(DEADLINE, refused.read_to_end(&mut nothing)).await;
    drop(end.expect("the connection is closed"));
    assert!(nothing.is_empty());
    assert!(client.get("k").await.expect("answered").is_some());
    drop(idle);
    for line in cluster.log(R1).lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    }
    let line = "\"message\":\"refused a caller";
    within(line, || cluster.log(R1).contains(line).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_last_keep_no_peer_out() {
    let mut cluster = Cluster::started(1, "[timing]\nheartbeat_ms = 100").await;
    let watch = framed(&tonic_health::pb::HealthCheckRequest::default());
    let mut attackers = Vec::new();
    let (mut served, mut refused) = (0, 0);
    for _ in 0..10 {
        let mut attacker = Attacker::connect(&cluster, R1, 1 << 16).await;
        for _ in 0..40 {
            let (answer, mut body) = attacker.begin("/grpc.health.v1.Health/Watch").await;
            // One that is refused takes nothing more.
            let _ = body.send_data(watch.clone(), true);
            let answer = timeout(DEADLINE, answer).await.expect("in time").expect("is answered");
            if answer.headers().contains_key("grpc-status") {
                assert_eq!(status(answer.headers()).code(), Code::ResourceExhausted);
                refused += 1;
            } else {
                served += 1;
                attackers.push((attacker.sender.clone(), answer));
            }
        }
    }
    assert!(served <= 256 && refused >= 144, "{served} served, {refused} refused");
    // The master comes back, and finds its replica.
    cluster.stop(Node::Master);
    cluster.start(Node::Master, &[]);
    cluster.ready().await;
    drop(attackers);
}
