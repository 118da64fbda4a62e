//! Clusters of processes for the tests. Each has its own directory and addresses, and each node is
//! controlled by the test that started it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
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
#[cfg(feature = "tls")]
use system::tls::{Authority, CertificateRequest, Role, TlsFiles};
use system::{
    client::{Client, Inspector},
    config::Address,
    journal::{self, Entry},
    protocol::{Key, Node, Status, Value, Version},
    tls::Tls,
};
use tempfile::TempDir;

/// The longest time that a test waits for anything, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Timeouts that do not expire while a test has stopped a node, or on a busy machine.
pub(crate) const LONG_TIMEOUTS: &str =
    "[timing]\nvote_timeout_ms = 30000\nmissed_heartbeats_max = 200";

/// Heartbeats that soon detect a node that is down.
pub(crate) const FAST_HEARTBEATS: &str =
    "[timing]\nvote_timeout_ms = 30000\nheartbeat_ms = 100\nmissed_heartbeats_max = 20";

/// How long certificates are valid.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A cluster: its directory, its addresses and its running nodes.
pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    pub(crate) config: PathBuf,
    /// The identities of a client and of an administrator, if the cluster has TLS.
    identities: Option<[Arc<Tls>; 2]>,
    addresses: BTreeMap<Node, Address>,
    nodes: BTreeMap<Node, Process>,
}

/// A node that is running, or that has ended without the test noticing yet.
pub(crate) struct Process {
    pub(crate) child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Cluster {
    /// Creates a cluster without starting its nodes. `extra` is appended to its configuration.
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
        Cluster { dir, config, identities: None, addresses, nodes: BTreeMap::new() }
    }

    /// Creates a cluster with TLS, and its certificates, without starting its nodes.
    #[cfg(feature = "tls")]
    pub(crate) fn secured(replicas: u8, extra: &str) -> Self {
        let tls = "[tls]\nca = \"certs/ca.crt\"\ncertificate = \"certs/{name}.crt\"\n\
                   key = \"certs/{name}.key\"\n";
        let mut cluster = Cluster::new(replicas, &format!("{extra}\n{tls}"));
        let authority = Authority::create(&cluster.certs(), DAY).expect("a CA");
        let nodes = cluster.names().into_iter().map(Role::Node);
        for role in nodes.chain([Role::Client, Role::Admin]) {
            let request =
                CertificateRequest { name: role.to_string(), role, hosts: vec![], validity: DAY };
            authority.issue(&request).expect("a certificate");
        }
        cluster.identities = Some([Role::Client, Role::Admin].map(|role| cluster.identity(role)));
        cluster
    }

    /// The directory of the certificates.
    pub(crate) fn certs(&self) -> PathBuf {
        self.dir.path().join("certs")
    }

    /// The identity of a role, from the files of the cluster.
    #[cfg(feature = "tls")]
    pub(crate) fn identity(&self, role: Role) -> Arc<Tls> {
        let file = |ending| self.certs().join(format!("{role}.{ending}"));
        let files = TlsFiles {
            ca: self.certs().join("ca.crt"),
            certificate: file("crt"),
            key: file("key"),
        };
        Tls::load(files, Some(role)).expect("an identity")
    }

    fn tls(&self, at: usize) -> Option<Arc<Tls>> {
        self.identities.as_ref().map(|identities| identities[at].clone())
    }

    async fn inspector(&self, node: Node) -> std::io::Result<Inspector> {
        let tls = self.tls(1);
        Inspector::connect_with_tls(self.address(node), tls.as_deref(), Some(node)).await
    }

    /// Creates a cluster and starts every node. Returns when it accepts writes.
    pub(crate) async fn started(replicas: u8, extra: &str) -> Self {
        let mut cluster = Cluster::new(replicas, extra);
        cluster.start_all().await;
        cluster
    }

    /// Starts every node. Returns when the cluster accepts writes.
    pub(crate) async fn start_all(&mut self) {
        for node in self.names() {
            self.start(node, &["--bootstrap"]);
        }
        self.ready().await;
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

    /// The command that starts a node on a given directory.
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

    /// The next line of a node's standard output.
    pub(crate) fn line(&mut self, node: Node) -> String {
        self.process(node).lines.recv_timeout(DEADLINE).unwrap_or_else(|_| {
            panic!("{node} printed nothing; its log:\n{}", self.log(node));
        })
    }

    pub(crate) fn log(&self, node: Node) -> String {
        fs::read_to_string(self.file(node, ".log")).expect("a log")
    }

    pub(crate) fn send_command(&mut self, node: Node, command: &str) {
        let stdin = self.process(node).stdin.as_mut().expect("is open");
        writeln!(stdin, "{command}").expect("the node reads");
    }

    pub(crate) fn arm(&mut self, node: Node, point: &str) {
        self.send_command(node, &format!("arm {point}"));
        assert_eq!(self.line(node), format!("armed {point}"));
    }

    /// Waits until a node has stopped itself at a crash point, and returns the details that it
    /// printed.
    pub(crate) fn wait_for_hit(&mut self, node: Node, point: &str) -> String {
        let line = self.line(node);
        let details = line.strip_prefix(&format!("hit {point}"));
        let details =
            details.unwrap_or_else(|| panic!("{node} printed '{line}'")).trim().to_owned();
        let stopped = waitid(Id::Pid(self.pid(node)), WaitPidFlag::WSTOPPED).expect("is a child");
        assert_eq!(stopped, WaitStatus::Stopped(self.pid(node), Signal::SIGSTOP));
        details
    }

    pub(crate) fn signal(&mut self, node: Node, signal: Signal) {
        kill(self.pid(node), signal).expect("it runs");
    }

    /// Closes a node's standard input.
    pub(crate) fn close_stdin(&mut self, node: Node) {
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

    /// Stops a node gracefully.
    pub(crate) fn stop(&mut self, node: Node) {
        self.signal(node, Signal::SIGTERM);
        assert!(self.ended(node).success(), "{}", self.log(node));
    }

    pub(crate) fn client(&self) -> Client {
        Client::with_tls(self.address(Node::Master).clone(), self.tls(0)).timeout(DEADLINE)
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
        let mut inspector = self.inspector(node).await.map_err(|error| error.to_string())?;
        let status = inspector.status().await.map_err(|status| status.to_string())?;
        assert_eq!(status.cluster, "test");
        Ok(status.machine)
    }

    /// Waits until a node's status satisfies a condition.
    pub(crate) async fn until(&self, node: Node, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + DEADLINE;
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
        let mut inspector = self.inspector(node).await.expect("it listens");
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
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn text(output: &Output) -> (Option<i32>, String) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text").trim_end().to_owned())
}

/// Waits for a condition that takes a call to look at.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
