//! Processes for the tests: a cluster in a directory of its own, on addresses of its own, each
//! node under control of the test that started it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::{
        atomic::{AtomicU8, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use system::{
    client::{Client, Inspector},
    config::Address,
    journal::{self, Entry},
    protocol::{Key, Node, Status, Value, Version},
};
use tempfile::TempDir;

/// Nothing that a test waits for takes longer on a machine that is merely busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Periods in which nobody loses patience with a node that a test has stopped, or with a machine
/// that is busy.
pub(crate) const PATIENT: &str = "[timing]\nvote = 30000\nmissed_heartbeats_max = 200";

/// Periods in which a node that is gone is soon missed.
pub(crate) const WATCHFUL: &str =
    "[timing]\nvote = 30000\nheartbeat_ms = 100\nmissed_heartbeats_max = 20";

/// A cluster's directory and addresses, and those of its nodes that run.
pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    pub(crate) config: PathBuf,
    addresses: BTreeMap<Node, Address>,
    nodes: BTreeMap<Node, Process>,
}

/// A node that runs, or that has ended without being missed yet.
pub(crate) struct Process {
    pub(crate) child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Cluster {
    /// A cluster of so many replicas, none of which runs yet. `extra` is the rest of its
    /// configuration.
    pub(crate) fn new(replicas: u8, extra: &str) -> Self {
        static CLUSTERS: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let host =
            format!("127.{}.{low}.{}", 128 + high % 100, CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let addresses: BTreeMap<Node, Address> = std::iter::once(Node::Master)
            .chain((1..=replicas).map(Node::Replica))
            .zip(7000_u16..)
            .map(|(node, port)| (node, format!("{host}:{port}").parse().expect("an address")))
            .collect();
        let dir = tempfile::tempdir().expect("a directory");
        let list: Vec<_> =
            addresses.values().skip(1).map(|address| format!("\"{address}\"")).collect();
        let text = format!(
            "cluster = \"test\"\nmaster = \"{}\"\nreplicas = [{}]\n{extra}\n",
            addresses[&Node::Master],
            list.join(", "),
        );
        let config = dir.path().join("cluster.toml");
        fs::write(&config, text).expect("a file");
        Cluster { dir, config, addresses, nodes: BTreeMap::new() }
    }

    /// A cluster that has just begun: every node runs, writes are taken.
    pub(crate) async fn begun(replicas: u8, extra: &str) -> Self {
        let mut cluster = Cluster::new(replicas, extra);
        for node in cluster.names() {
            cluster.start(node, &["--bootstrap"]);
        }
        cluster.ready().await;
        cluster
    }

    pub(crate) fn names(&self) -> Vec<Node> {
        self.addresses.keys().copied().collect()
    }

    pub(crate) fn address(&self, node: Node) -> &Address {
        &self.addresses[&node]
    }

    pub(crate) fn file(&self, node: Node, ending: &str) -> PathBuf {
        self.dir.path().join(format!("{node}{ending}"))
    }

    /// The command that starts a node, without control.
    pub(crate) fn command(&self, node: Node) -> Command {
        self.command_at(node, &self.file(node, ""))
    }

    /// The command that starts a node on a directory that need not be its own.
    pub(crate) fn command_at(&self, node: Node, dir: &Path) -> Command {
        let mut command = match node {
            Node::Master => Command::new(env!("CARGO_BIN_EXE_master")),
            Node::Replica(slot) => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_replica"));
                command.arg("--slot").arg(slot.to_string());
                command
            }
        };
        command.arg("--config").arg(&self.config).arg("--dir").arg(dir);
        command.env_remove("TWOPC_LOG").env_remove("RUST_LOG");
        command
    }

    /// Starts a node, and waits until it listens.
    pub(crate) fn start(&mut self, node: Node, flags: &[&str]) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.file(node, ".log"))
            .expect("a log");
        let mut child = self
            .command(node)
            .arg("--journal")
            .arg(self.file(node, ".journal"))
            .arg("--control")
            .arg("--parent")
            .arg(std::process::id().to_string())
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (line, lines) = mpsc::channel();
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|it| line.send(it)));
        let stdin = child.stdin.take();
        self.nodes.insert(node, Process { child, stdin, lines });
        let listening = self.line(node);
        assert_eq!(listening, format!("listening {}", self.address(node)));
    }

    fn process(&mut self, node: Node) -> &mut Process {
        self.nodes.get_mut(&node).expect("was started")
    }

    pub(crate) fn pid(&mut self, node: Node) -> Pid {
        let id = self.process(node).child.id();
        Pid::from_raw(i32::try_from(id).expect("a process id"))
    }

    /// The next line that a node says.
    pub(crate) fn line(&mut self, node: Node) -> String {
        self.process(node).lines.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!("{node} says nothing; its log:\n{}", self.log(node));
        })
    }

    pub(crate) fn log(&self, node: Node) -> String {
        fs::read_to_string(self.file(node, ".log")).expect("a log")
    }

    pub(crate) fn tell(&mut self, node: Node, command: &str) {
        let stdin = self.process(node).stdin.as_mut().expect("is open");
        writeln!(stdin, "{command}").expect("the node reads");
    }

    pub(crate) fn arm(&mut self, node: Node, point: &str) {
        self.tell(node, &format!("arm {point}"));
        assert_eq!(self.line(node), format!("armed {point}"));
    }

    /// Waits until a node has stopped itself at a point; the rest of what it said about it.
    pub(crate) fn reached(&mut self, node: Node, point: &str) -> String {
        let line = self.line(node);
        let said = line.strip_prefix(&format!("reached {point}"));
        let said = said.unwrap_or_else(|| panic!("{node} says '{line}'")).trim().to_owned();
        let stopped = waitid(Id::Pid(self.pid(node)), WaitPidFlag::WSTOPPED).expect("is a child");
        assert_eq!(stopped, WaitStatus::Stopped(self.pid(node), Signal::SIGSTOP));
        said
    }

    pub(crate) fn signal(&mut self, node: Node, signal: Signal) {
        kill(self.pid(node), signal).expect("it runs");
    }

    /// Closes a node's standard input.
    pub(crate) fn let_go(&mut self, node: Node) {
        self.process(node).stdin = None;
    }

    /// Waits until a node has ended.
    pub(crate) fn ended(&mut self, node: Node) -> ExitStatus {
        let mut process = self.nodes.remove(&node).expect("was started");
        within("its end", || process.child.try_wait().expect("is a child"))
    }

    pub(crate) fn kill(&mut self, node: Node) {
        self.signal(node, Signal::SIGKILL);
        self.ended(node);
    }

    /// Ends a node in order.
    pub(crate) fn stop(&mut self, node: Node) {
        self.signal(node, Signal::SIGTERM);
        assert!(self.ended(node).success(), "{}", self.log(node));
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.address(Node::Master).clone()).timeout(PATIENCE)
    }

    /// The program `client`, with these arguments.
    pub(crate) fn client_program<T: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = T>,
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
        command.arg("--config").arg(&self.config).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) async fn status(&self, node: Node) -> Result<Status, String> {
        let mut inspector =
            Inspector::connect(self.address(node)).await.map_err(|error| error.to_string())?;
        let status = inspector.status().await.map_err(|status| status.to_string())?;
        assert_eq!(status.cluster, "test");
        Ok(status.machine)
    }

    /// Waits until a node's status is as wanted.
    pub(crate) async fn until(&self, node: Node, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(node).await;
            if let Some(status) = status.as_ref().ok().filter(|status| wanted(status)) {
                return status.clone();
            }
            assert!(Instant::now() < deadline, "{node} is {status:?}, {}", self.log(node));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn ready(&self) {
        self.until(Node::Master, |status| status.ready).await;
    }

    pub(crate) async fn settled(&self) {
        for node in self.names() {
            self.until(node, |status| status.ready && status.unsettled.is_empty()).await;
        }
    }

    /// Every entry of a replica.
    pub(crate) async fn dump(&self, node: Node) -> Vec<(Key, Version, Value)> {
        use futures::TryStreamExt as _;
        let mut inspector = Inspector::connect(self.address(node)).await.expect("it listens");
        inspector.dump().await.expect("it answers").try_collect().await.expect("it goes on")
    }

    pub(crate) fn journal(&self, node: Node) -> Vec<Entry> {
        entries(&self.file(node, ".journal"))
    }
}

fn entries(path: &Path) -> Vec<Entry> {
    journal::read(path).expect("a journal").map(|entry| entry.expect("an entry").1).collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.nodes.values_mut() {
            // It may have ended already.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        if thread::panicking() {
            for node in self.addresses.keys() {
                if let Ok(log) = fs::read_to_string(self.file(*node, ".log")) {
                    eprintln!("--- {node}\n{log}");
                }
            }
        }
    }
}

/// Waits for a condition.
pub(crate) fn within<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no sign of {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn text(output: &Output) -> (Option<i32>, String) {
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text").trim_end().to_owned())
}
