//! What strangers can do to a node: whoever can connect can send anything, and whoever starts a node may not
//! read its log.

use std::{
    fs::{self, File},
    io::Read as _,
    process::{Child, Command, Stdio},
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use proto::v1::{self as pb, peer_client::PeerClient};
use system::{
    client::{Inspector, WriteOutcome},
    protocol::Node,
};
use tokio::{net::TcpStream, time::timeout};
use tonic::Code;

use crate::support::{Cluster, DEADLINE, FAST_HEARTBEATS, within};

const R1: Node = Node::Replica(1);

/// A node that the test started itself. Killed with the test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    fn stop(&self) {
        let pid = i32::try_from(self.0.id()).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn connected(cluster: &Cluster, node: Node) -> Inspector {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match Inspector::connect(cluster.address(node)).await {
            Ok(inspector) => return inspector,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// The command that starts a node with a soft and a hard limit of open files.
pub(crate) fn limited(command: &Command, soft: u32, hard: u32) -> Command {
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\""));
    limited.arg(command.get_program()).args(command.get_args()).arg("--bootstrap");
    limited.env_remove("TWOPC_LOG").env_remove("RUST_LOG").stdin(Stdio::null());
    limited
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_keep_nobody_out() {
    let cluster = Cluster::new(2, FAST_HEARTBEATS);
    let mut nodes = Vec::new();
    let mut idle = Vec::new();
    // Each node is full before the others look for it.
    for node in [R1, Node::Replica(2), Node::Master] {
        let log = File::create(cluster.file(node, ".log")).expect("a log");
        let mut command = limited(&cluster.command(node), 100, 200);
        nodes.push((node, Running(command.stderr(log).spawn().expect("the program starts"))));
        drop(connected(&cluster, node).await);
        for _ in 0..400 {
            let address = cluster.address(node).as_str();
            idle.push(TcpStream::connect(address).await.expect("the kernel accepts"));
        }
    }
    cluster.ready().await;
    let outcome = cluster.client().put("k", "v").await;
    assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
    assert!(cluster.client().get("k").await.expect("answered").is_some());
    for (node, running) in &nodes {
        let limits = fs::read_to_string(format!("/proc/{}/limits", running.0.id()));
        let limits = limits.expect("the node runs");
        let files = limits.lines().find(|line| line.starts_with("Max open files"));
        let words: Vec<_> = files.expect("a limit").split_whitespace().collect();
        assert_eq!(words[3..5], ["200", "200"], "{node}: {limits}");
        let open = fs::read_dir(format!("/proc/{}/fd", running.0.id())).expect("it runs").count();
        assert!((100..200).contains(&open), "{node}: {open} open files");
        let line = "silent for longest";
        within(line, || cluster.log(*node).contains(line).then_some(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_nothing() {
    let cluster = Cluster::new(1, "");
    let mut command = cluster.command(R1);
    command.arg("--bootstrap").stdin(Stdio::null()).stderr(Stdio::piped());
    let mut node = Running(command.spawn().expect("the program starts"));
    let mut inspector = connected(&cluster, R1).await;
    let mut peer =
        PeerClient::connect(format!("http://{}", cluster.address(R1))).await.expect("connected");
    // One name nearly fills the pipe if it is logged whole, and the others do if one of them waits. A longer one is
    // refused by its size.
    let names = std::iter::once("\u{1b}[2J".repeat(15 << 10))
        .chain((0..600).map(|n| format!("\u{1b}[2J\nvalid {n} {}", "x".repeat(400))));
    for cluster in names {
        let greeting = pb::Batch { cluster, ..pb::Batch::default() };
        let refused = timeout(DEADLINE, peer.exchange(tokio_stream::once(greeting)));
        let refused = refused.await.expect("the node answers").expect_err("another cluster");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().len() < 1000, "{} bytes", refused.message().len());
    }
    timeout(DEADLINE, inspector.status()).await.expect("the node answers").expect("its status");
    drop((inspector, peer));
    node.stop();
    let ended = within("its end", || node.0.try_wait().expect("is a child"));
    assert!(ended.success(), "{ended}");
    // What is in the pipe, and nothing more.
    let mut log = String::new();
    node.0.stderr.take().expect("piped").read_to_string(&mut log).expect("text");
    assert!(log.contains("not of cluster '\\u{1b}[2J"), "{log}");
    assert!(!log.contains('\u{1b}') && log.lines().all(|line| line.len() < 1000), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("valid")), "{log}");
}
