//! HTTP/2 frames at the client port of a master that runs, with one replica, in this process. Called
//! by libFuzzer and by `tests/fuzz_targets.rs`.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    panic,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use system::{
    config::ClusterConfig,
    hooks::HookOptions,
    node::{self, NodeOptions},
    protocol::Node,
};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// What every HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The type of the frame that a server sends first, behind the three bytes of its length.
const SETTINGS: u8 = 4;
/// What calls take on a machine that is not busy, and then some.
const PAUSE: Duration = Duration::from_millis(2);
/// Far beyond what a node takes to answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether anything in this process has panicked: a task that does ends without a word.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// Whatever a client sends, the node greets it, ends the connection once the client does, and goes on.
pub(crate) fn target(bytes: &[u8]) {
    let master = CLUSTER.with(|cluster| cluster.master);
    let mut stream = TcpStream::connect(master).expect("the node listens");
    // A node may hang up before it has read everything.
    let _ = stream.write_all(PREFACE).and_then(|()| stream.write_all(bytes));
    let mut answer = Vec::new();
    // Time for calls to be answered, for those that wait are given up with the connection.
    let ended = read(&mut stream, &mut answer, PAUSE);
    let _ = stream.shutdown(Shutdown::Write);
    assert!(ended || read(&mut stream, &mut answer, PATIENCE), "the connection does not end");
    // A connection that is reset may lose what the node has sent.
    assert!(answer.get(3).is_none_or(|kind| *kind == SETTINGS), "no greeting: {answer:?}");
    assert!(!PANICKED.load(Ordering::Relaxed), "something has panicked");
}

/// Reads until the connection ends, or nothing arrives for this long: whether it has ended.
fn read(stream: &mut TcpStream, into: &mut Vec<u8>, patience: Duration) -> bool {
    stream.set_read_timeout(Some(patience)).expect("a timeout can be set");
    match stream.read_to_end(into) {
        Ok(_) => true,
        Err(error) => match error.kind() {
            ErrorKind::ConnectionReset => true,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => false,
            _ => panic!("cannot read: {error}"),
        },
    }
}

/// A master and a replica. They end with the thread that has called the target, and leave nothing behind.
struct Cluster {
    master: SocketAddr,
    /// Dropped to stop the nodes.
    stop: Vec<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    _directory: TempDir,
}

thread_local! {
    static CLUSTER: Cluster = Cluster::start();
}

impl Cluster {
    fn start() -> Self {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICKED.store(true, Ordering::Relaxed);
            hook(panic);
        }));
        let [master, replica] = free_addresses();
        let text =
            format!("cluster = \"fuzz\"\nmaster = \"{master}\"\nreplicas = [\"{replica}\"]\n");
        let cluster =
            ClusterConfig::parse(&text, Path::new("cluster.toml")).expect("a configuration");
        let directory = tempfile::tempdir().expect("a directory");
        let (stop, threads) = [(Node::Master, "master"), (Node::Replica(1), "r1")]
            .map(|(node, name)| {
                let options = NodeOptions {
                    cluster: cluster.clone(),
                    node,
                    dir: directory.path().join(name),
                    bootstrap: true,
                    listen: None,
                    metrics: None,
                    insecure: false,
                    tls: None,
                    hooks: HookOptions::default(),
                };
                let (stop, stopped) = oneshot::channel();
                let thread = thread::spawn(move || {
                    let stopped = async { drop(stopped.await) };
                    let end =
                        node::runtime().expect("a runtime").block_on(node::run(options, stopped));
                    assert!(end.is_ok(), "{node} has ended: {end:?}");
                });
                (stop, thread)
            })
            .into_iter()
            .unzip();
        for address in [master, replica] {
            let begun = Instant::now();
            while TcpStream::connect(address).is_err() {
                assert!(begun.elapsed() < PATIENCE, "nothing listens at {address}");
                thread::sleep(Duration::from_millis(5));
            }
        }
        Self { master, stop, threads, _directory: directory }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.clear();
        for thread in self.threads.drain(..) {
            // A node that panics has been told by the panic itself, and fails the call under way.
            let _ = thread.join();
        }
    }
}

/// Addresses that nobody listens at.
fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("a bound address"))
}
