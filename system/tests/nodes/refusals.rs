//! Nodes that must not run, and requests that must be refused.

use std::{fs::File, process::Stdio, time::Instant};

use futures::StreamExt as _;
use nix::sys::signal::Signal;
use prost::Message as _;
use proto::v1::{self as pb, kv_client::KvClient};
use system::{
    client::{Inspector, ReasonKind, WriteOutcome},
    protocol::Node,
};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_reflection::pb::v1alpha::{
    self, server_reflection_client::ServerReflectionClient as ServerReflectionClientV1Alpha,
};
use tonic_types::StatusExt as _;

use crate::support::{Cluster, DEADLINE, FAST_HEARTBEATS, LONG_TIMEOUTS, text, within};

const MASTER: Node = Node::Master;
const R1: Node = Node::Replica(1);

#[test]
fn an_empty_directory_needs_bootstrap() {
    let cluster = Cluster::new(1, "");
    for node in cluster.names() {
        let (code, stderr) = text(&cluster.command(node).output().expect("the program ends"));
        assert_eq!(code, Some(2), "{stderr}");
        assert!(
            stderr.contains("there is no store here") && stderr.contains("--bootstrap"),
            "{stderr}"
        );
    }
}

#[test]
fn configuration_errors_name_the_position() {
    let cluster = Cluster::new(1, "[timing]\nvote = \"soon\"");
    let (code, stderr) = text(&cluster.command(MASTER).output().expect("the program ends"));
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.starts_with("master: ") && stderr.contains("cluster.toml:5:8: "), "{stderr}");
    let cluster = Cluster::new(1, "");
    let (code, stderr) =
        text(&cluster.command(Node::Replica(2)).output().expect("the program ends"));
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("the configuration has no r2: its replicas are r1 to r1"), "{stderr}");
}

#[test]
fn other_machines_cannot_connect_unless_the_operator_says_so() {
    let cluster = Cluster::new(1, "");
    let flags = ["--bootstrap", "--listen", "0.0.0.0:0"];
    let refused = cluster.command(R1).args(flags).output().expect("the program ends");
    let (code, stderr) = text(&refused);
    assert_eq!(code, Some(2), "{stderr}");
    let why = "refuses to listen on 0.0.0.0:0: 0.0.0.0 is not a loopback address";
    assert!(stderr.contains(why) && stderr.contains("--insecure"), "{stderr}");
    assert!(!cluster.file(R1, "").exists(), "it has created a store");
    let log = File::create(cluster.file(R1, ".log")).expect("a log");
    let mut command = cluster.command(R1);
    let mut node = command.args(flags).arg("--insecure").stderr(log).spawn().expect("it starts");
    within("its address", || cluster.log(R1).contains("listens on 0.0.0.0:").then_some(()));
    node.kill().expect("it runs");
    node.wait().expect("a child");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_open_in_one_process() {
    let mut cluster = Cluster::started(1, "").await;
    let second = cluster
        .command(MASTER)
        .args(["--listen", "127.0.0.1:0"])
        .output()
        .expect("the program ends");
    let (code, stderr) = text(&second);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("another process has this store open"), "{stderr}");
    cluster.stop(MASTER);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_belongs_to_one_node() {
    let mut cluster = Cluster::started(1, LONG_TIMEOUTS).await;
    cluster.stop(MASTER);
    cluster.stop(R1);
    // Each node on the other's directory, and both on one that no node has written.
    let used = cluster.dir.path().join("used");
    let options = system::store::StoreOptions { create: true, ..Default::default() };
    let store = system::store::Database::open(&used, options).expect("an empty directory");
    store.put(b"k", b"v").expect("it is written");
    drop(store);
    for (node, other) in [(MASTER, R1), (R1, MASTER)] {
        for (dir, why) in [
            (cluster.file(other, ""), format!("this store belongs to {other}")),
            (used.clone(), "not written by a node".to_owned()),
        ] {
            let mut command = cluster.command_at(node, &dir);
            let (code, stderr) =
                text(&command.arg("--bootstrap").output().expect("the program ends"));
            assert_eq!(code, Some(2), "{node}: {stderr}");
            assert!(stderr.contains(&why), "{node}: {stderr}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_dumps_are_limited() {
    let cluster = Cluster::started(1, LONG_TIMEOUTS).await;
    let client = cluster.client();
    for n in 0..12 {
        let value = vec![b'v'; 1 << 20];
        let outcome = client.put(format!("k{n}").as_str(), value).await;
        assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
    }
    // More data than the buffers hold, and no reader.
    let mut held = Vec::new();
    let refused = loop {
        let mut inspector = Inspector::connect(cluster.address(R1)).await.expect("connected");
        match inspector.dump().await {
            Ok(entries) => held.push((inspector, entries)),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!((1..=4).contains(&held.len()), "{} dumps", held.len());
    assert!(client.get("k0").await.expect("gets continue").is_some());
    drop(held);
    let deadline = Instant::now() + DEADLINE;
    let mut inspector = Inspector::connect(cluster.address(R1)).await.expect("connected");
    let entries = loop {
        match inspector.dump().await {
            Ok(entries) => break entries,
            Err(refused) => assert!(Instant::now() < deadline, "{refused}"),
        }
    };
    assert_eq!(entries.count().await, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_master_exits() {
    let mut cluster = Cluster::started(1, FAST_HEARTBEATS).await;
    // A second instance on the same store, which only a broken rule allows.
    let listen = format!("{}:7100", cluster.address(MASTER).as_str().trim_end_matches(":7000"));
    let mut second = cluster
        .command(MASTER)
        .args(["--break", "exclusive-store", "--listen", &listen])
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let ended = cluster.ended(MASTER);
    second.kill().and_then(|()| second.wait()).expect("the process runs");
    assert_eq!(ended.code(), Some(3), "{}", cluster.log(MASTER));
}

#[test]
fn a_controlled_node_needs_its_parent() {
    let cluster = Cluster::new(1, "");
    let output = cluster
        .command(R1)
        .args(["--bootstrap", "--control", "--parent", "1"])
        .output()
        .expect("the program ends");
    let (code, stderr) = text(&output);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("the parent process is not 1"), "{stderr}");
}

#[test]
fn a_rule_without_effect_cannot_be_broken() {
    let cluster = Cluster::new(1, "");
    let break_rule = |more: &[&str]| {
        let command = &mut cluster.command(R1);
        text(
            &command
                .args(["--bootstrap", "--break", "veto-forced"])
                .args(more)
                .output()
                .expect("the program ends"),
        )
    };
    let (code, stderr) = break_rule(&[]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("use --commit votes"), "{stderr}");
    // With the other mode it gets further, and fails because its parent is wrong.
    let (code, stderr) = break_rule(&["--commit", "votes", "--control", "--parent", "1"]);
    assert_eq!(code, Some(1), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_different_clusters_refuse_each_other() {
    let mut cluster = Cluster::new(1, "");
    cluster.start(R1, &["--bootstrap"]);
    let config = std::fs::read_to_string(&cluster.config).expect("a file");
    std::fs::write(&cluster.config, config.replace("\"test\"", "\"other\"")).expect("a file");
    cluster.start(MASTER, &["--bootstrap"]);
    let why = "this is r1 of cluster 'test', not of cluster 'other'";
    within("the refusal at the master", || cluster.log(MASTER).contains(why).then_some(()));
    within("the refusal at r1", || cluster.log(R1).contains(why).then_some(()));
    match cluster.client().put("k", "v").await {
        WriteOutcome::Aborted(reason) => assert_eq!(reason.kind, ReasonKind::Unavailable),
        outcome => panic!("{outcome:?}"),
    }
}

fn code_and_reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info().expect("our ErrorInfo");
    assert_eq!(info.domain, "twopc");
    (status.code(), info.reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_carry_reasons() {
    let limits = "[node]\nmax_inflight = 2\n[store]\nmax_value_bytes = 1000";
    let mut cluster = Cluster::started(2, &format!("{LONG_TIMEOUTS}\n{limits}")).await;
    let mut kv =
        KvClient::connect(format!("http://{}", cluster.address(MASTER))).await.expect("connected");
    let put = |key: &str, len: usize| pb::PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: vec![0; len].into(),
    };
    for request in [put("", 1), put(&"k".repeat(512), 1), put("k", 1001)] {
        let status = kv.put(request).await.expect_err("refused");
        assert_eq!(code_and_reason(&status), (Code::InvalidArgument, "INVALID".to_owned()));
    }
    let status = kv.get(pb::GetRequest::default()).await.expect_err("refused");
    assert_eq!(code_and_reason(&status), (Code::InvalidArgument, "INVALID".to_owned()));

    // One put waits for a vote, and another one of its key conflicts with it.
    cluster.arm(R1, "replica:before-send:vote-yes");
    let hanging = tokio::spawn({
        let (mut kv, request) = (kv.clone(), put("k", 1000));
        async move { kv.put(request).await }
    });
    cluster.wait_for_hit(R1, "replica:before-send:vote-yes");
    let status = kv.put(put("k", 1)).await.expect_err("refused");
    assert_eq!(code_and_reason(&status), (Code::Aborted, "CONFLICT".to_owned()));
    // A second put waits as well, and a third exceeds the limit.
    let second = tokio::spawn({
        let (mut kv, request) = (kv.clone(), put("l", 1));
        async move { kv.put(request).await }
    });
    cluster.until(MASTER, |status| status.unsettled.len() == 2).await;
    let status = kv.put(put("m", 1)).await.expect_err("refused");
    assert_eq!(code_and_reason(&status), (Code::ResourceExhausted, "OVERLOADED".to_owned()));
    cluster.signal(R1, Signal::SIGCONT);
    hanging.await.expect("no panic").expect("committed");
    second.await.expect("no panic").expect("committed");
    // Calls are accepted again.
    kv.put(put("m", 1)).await.expect("committed");

    // A read that no replica answers.
    for slot in 1..=2 {
        cluster.signal(Node::Replica(slot), Signal::SIGSTOP);
    }
    let status = kv.get(pb::GetRequest { key: "k".into() }).await.expect_err("unanswered");
    assert_eq!(code_and_reason(&status), (Code::Unavailable, "UNAVAILABLE".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_work() {
    let mut cluster = Cluster::started(1, FAST_HEARTBEATS).await;
    let channel = tonic::transport::Endpoint::new(format!("http://{}", cluster.address(MASTER)))
        .expect("an address")
        .connect()
        .await
        .expect("connected");
    let mut health = HealthClient::new(channel.clone());
    let process = health.check(HealthCheckRequest::default()).await.expect("answered");
    assert_eq!(process.into_inner().status().as_str_name(), "SERVING");
    let of_kv = HealthCheckRequest { service: "twopc.v1.Kv".to_owned() };
    let mut watch = health.watch(of_kv).await.expect("answered").into_inner();
    let mut until = async |wanted: &str| {
        loop {
            let status = watch.message().await.expect("no error").expect("no end").status();
            if status.as_str_name() == wanted {
                break;
            }
        }
    };
    until("SERVING").await;
    cluster.kill(R1);
    until("NOT_SERVING").await;

    let mut reflection = ServerReflectionClient::new(channel.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("answered")
        .into_inner();
    let answer = answers.message().await.expect("no error").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["twopc.v1.Kv", "twopc.v1.Peer", "twopc.v1.Inspect", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }

    // The older version, which clients of some languages still ask first or only.
    let mut older = ServerReflectionClientV1Alpha::new(channel);
    let symbol = v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
        "twopc.v1.Kv".to_owned(),
    );
    let request =
        v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(symbol) };
    let answers = older.server_reflection_info(tokio_stream::once(request)).await;
    let answer = answers.expect("answered").into_inner().message().await;
    let answer = answer.expect("no error").expect("an answer").message_response;
    let Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(files)) =
        answer
    else {
        panic!("{answer:?}");
    };
    assert!(!files.file_descriptor_proto.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_after_its_deadline_has_no_effect() {
    let cluster = Cluster::started(1, LONG_TIMEOUTS).await;
    // Over HTTP/2 itself: tonic's client would give up before it asks.
    let stream = tokio::net::TcpStream::connect(cluster.address(MASTER).as_str()).await;
    let (mut sender, connection) =
        h2::client::handshake(stream.expect("connected")).await.expect("HTTP/2");
    tokio::spawn(connection);
    let message = pb::PutRequest { key: "k".into(), value: "late".into() }.encode_to_vec();
    let length = u32::try_from(message.len()).expect("short");
    let body = [&[0][..], &length.to_be_bytes(), &message].concat();
    for (timeout, refused) in [("0n", true), ("1n", true), ("30S", false)] {
        let head =
            http::Request::post("http://here/twopc.v1.Kv/Put").header("grpc-timeout", timeout);
        let head = head.body(()).expect("a request");
        let (answer, mut sending) = sender.send_request(head, false).expect("sent");
        sending.send_data(body.clone().into(), true).expect("sent");
        let answer = answer.await.expect("answered");
        let status = Status::from_header_map(answer.headers());
        let refusal = status.as_ref().map(code_and_reason);
        let expected = refused.then(|| (Code::DeadlineExceeded, "EXPIRED".to_owned()));
        assert_eq!(refusal, expected, "{timeout}: {status:?}");
        if refused {
            let entries = cluster.dump(R1).await;
            assert!(entries.is_empty(), "{timeout}: {entries:?}");
        }
    }
}
