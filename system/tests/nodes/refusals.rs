//! Nodes that must not run, and requests that must not be taken.

use std::{process::Stdio, time::Instant};

use futures::StreamExt as _;
use nix::sys::signal::Signal;
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
use tonic_types::StatusExt as _;

use crate::support::{Cluster, PATIENCE, PATIENT, WATCHFUL, text, within};

const MASTER: Node = Node::Master;
const R1: Node = Node::Replica(1);

#[test]
fn an_empty_directory_is_not_joined_unasked() {
    let cluster = Cluster::new(1, "");
    for node in cluster.names() {
        let (code, said) = text(&cluster.command(node).output().expect("ends"));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("there is no store here") && said.contains("--bootstrap"), "{said}");
    }
}

#[test]
fn a_wrong_configuration_is_told_by_place() {
    let cluster = Cluster::new(1, "[timing]\nvote = \"soon\"");
    let (code, said) = text(&cluster.command(MASTER).output().expect("ends"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.starts_with("master: ") && said.contains("cluster.toml:5:8: "), "{said}");
    let cluster = Cluster::new(1, "");
    let (code, said) = text(&cluster.command(Node::Replica(2)).output().expect("ends"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the configuration has replicas r1 to r1, and no r2"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_has_the_store_at_a_time() {
    let mut cluster = Cluster::begun(1, "").await;
    let second = cluster.command(MASTER).args(["--listen", "127.0.0.1:0"]).output().expect("ends");
    let (code, said) = text(&second);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another process has this store open"), "{said}");
    cluster.stop(MASTER);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_serves_its_own_role() {
    let mut cluster = Cluster::begun(1, PATIENT).await;
    cluster.stop(MASTER);
    cluster.stop(R1);
    // Each on the other's directory, and both on one that is no node's.
    let used = cluster.dir.path().join("used");
    let options = system::store::StoreOptions { create: true, ..Default::default() };
    let store = system::store::Database::open(&used, options).expect("an empty directory");
    store.put(b"k", b"v").expect("it is written");
    drop(store);
    for (node, other) in [(MASTER, R1), (R1, MASTER)] {
        for (dir, why) in [
            (cluster.file(other, ""), format!("this store belongs to {other}")),
            (used.clone(), "used by something else than a node".to_owned()),
        ] {
            let mut command = cluster.command_at(node, &dir);
            let (code, said) = text(&command.arg("--bootstrap").output().expect("ends"));
            assert_eq!(code, Some(2), "{node}: {said}");
            assert!(said.contains(&why), "{node}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_dumps_go_on_at_once() {
    let cluster = Cluster::begun(1, PATIENT).await;
    let client = cluster.client();
    for n in 0..12 {
        let value = vec![b'v'; 1 << 20];
        let outcome = client.put(format!("k{n}").as_str(), value).await;
        assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
    }
    // More than the buffers on the way hold, and nobody reads.
    let mut held = Vec::new();
    let refused = loop {
        let mut inspector = Inspector::connect(cluster.address(R1)).await.expect("it listens");
        match inspector.dump().await {
            Ok(entries) => held.push((inspector, entries)),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!((1..=4).contains(&held.len()), "{} dumps", held.len());
    assert!(client.get("k0").await.expect("gets go on").is_some());
    drop(held);
    let deadline = Instant::now() + PATIENCE;
    let mut inspector = Inspector::connect(cluster.address(R1)).await.expect("it listens");
    let entries = loop {
        match inspector.dump().await {
            Ok(entries) => break entries,
            Err(refused) => assert!(Instant::now() < deadline, "{refused}"),
        }
    };
    assert_eq!(entries.count().await, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_was_superseded_ends() {
    let mut cluster = Cluster::begun(1, WATCHFUL).await;
    // A second instance on the same store, as nothing but a broken rule lets it start.
    let listen = format!("{}:7100", cluster.address(MASTER).as_str().trim_end_matches(":7000"));
    let mut second = cluster
        .command(MASTER)
        .args(["--break", "exclusive-store", "--listen", &listen])
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let ended = cluster.ended(MASTER);
    second.kill().and_then(|()| second.wait()).expect("it runs");
    assert_eq!(ended.code(), Some(3), "{}", cluster.log(MASTER));
}

#[test]
fn a_node_under_control_wants_its_parent() {
    let cluster = Cluster::new(1, "");
    let strays = cluster
        .command(R1)
        .args(["--bootstrap", "--control", "--parent", "1"])
        .output()
        .expect("ends");
    let (code, said) = text(&strays);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the parent process is not 1"), "{said}");
}

#[test]
fn a_rule_of_the_other_mode_is_none_to_break() {
    let cluster = Cluster::new(1, "");
    let breaks = |more: &[&str]| {
        let command = &mut cluster.command(R1);
        text(
            &command
                .args(["--bootstrap", "--break", "veto-forced"])
                .args(more)
                .output()
                .expect("ends"),
        )
    };
    let (code, said) = breaks(&[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("say --commit votes"), "{said}");
    // Further: under control it wants a parent that is its own.
    let (code, said) = breaks(&["--commit", "votes", "--control", "--parent", "1"]);
    assert_eq!(code, Some(1), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_another_cluster_are_refused_on_both_sides() {
    let mut cluster = Cluster::new(1, "");
    cluster.start(R1, &["--bootstrap"]);
    let config = std::fs::read_to_string(&cluster.config).expect("a file");
    std::fs::write(&cluster.config, config.replace("\"test\"", "\"other\"")).expect("a file");
    cluster.start(MASTER, &["--bootstrap"]);
    let why = "this is r1 of cluster 'test', and not of 'other'";
    within("the refusal at the master", || cluster.log(MASTER).contains(why).then_some(()));
    assert!(cluster.log(R1).contains(why));
    match cluster.client().put("k", "v").await {
        WriteOutcome::Aborted(reason) => assert_eq!(reason.kind, ReasonKind::Unavailable),
        outcome => panic!("{outcome:?}"),
    }
}

fn told(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info().expect("our word");
    assert_eq!(info.domain, "twopc");
    (status.code(), info.reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_say_what_is_certain() {
    let limits = "[node]\nmax_inflight = 2\n[store]\nmax_value_bytes = 1000";
    let mut cluster = Cluster::begun(2, &format!("{PATIENT}\n{limits}")).await;
    let mut kv =
        KvClient::connect(format!("http://{}", cluster.address(MASTER))).await.expect("it listens");
    let put = |key: &str, len: usize| pb::PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: vec![0; len].into(),
    };
    for request in [put("", 1), put(&"k".repeat(512), 1), put("k", 1001)] {
        let status = kv.put(request).await.expect_err("is refused");
        assert_eq!(told(&status), (Code::InvalidArgument, "INVALID".to_owned()));
    }
    let status = kv.get(pb::GetRequest::default()).await.expect_err("is refused");
    assert_eq!(told(&status), (Code::InvalidArgument, "INVALID".to_owned()));

    // One put hangs on a vote, and another one of its key is in conflict with it.
    cluster.arm(R1, "replica:before-send:vote-yes");
    let hanging = tokio::spawn({
        let (mut kv, request) = (kv.clone(), put("k", 1000));
        async move { kv.put(request).await }
    });
    cluster.reached(R1, "replica:before-send:vote-yes");
    let status = kv.put(put("k", 1)).await.expect_err("is refused");
    assert_eq!(told(&status), (Code::Aborted, "CONFLICT".to_owned()));
    // Another one hangs as well, and a third is more than may be in flight.
    let second = tokio::spawn({
        let (mut kv, request) = (kv.clone(), put("l", 1));
        async move { kv.put(request).await }
    });
    cluster.until(MASTER, |status| status.unsettled.len() == 2).await;
    let status = kv.put(put("m", 1)).await.expect_err("is refused");
    assert_eq!(told(&status), (Code::ResourceExhausted, "OVERLOADED".to_owned()));
    cluster.signal(R1, Signal::SIGCONT);
    hanging.await.expect("no panic").expect("is committed");
    second.await.expect("no panic").expect("is committed");
    // Places are free again.
    kv.put(put("m", 1)).await.expect("is committed");

    // A read that no replica answers.
    for slot in 1..=2 {
        cluster.signal(Node::Replica(slot), Signal::SIGSTOP);
    }
    let status = kv.get(pb::GetRequest { key: "k".into() }).await.expect_err("is not answered");
    assert_eq!(told(&status), (Code::Unavailable, "UNAVAILABLE".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    let mut cluster = Cluster::begun(1, WATCHFUL).await;
    let channel = tonic::transport::Endpoint::new(format!("http://{}", cluster.address(MASTER)))
        .expect("an address")
        .connect()
        .await
        .expect("it listens");
    let mut health = HealthClient::new(channel.clone());
    let whole = health.check(HealthCheckRequest::default()).await.expect("answers");
    assert_eq!(whole.into_inner().status().as_str_name(), "SERVING");
    let of_kv = HealthCheckRequest { service: "twopc.v1.Kv".to_owned() };
    let mut watch = health.watch(of_kv).await.expect("answers").into_inner();
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

    let mut reflection = ServerReflectionClient::new(channel);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("answers")
        .into_inner();
    let answer = answers.message().await.expect("no error").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["twopc.v1.Kv", "twopc.v1.Peer", "twopc.v1.Inspect", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
}
