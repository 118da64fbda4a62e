//! A node: the only part that performs input and output. It passes events to a machine and performs
//! the resulting effects, in order. Does not know why the machine asks for them.
//!
//! One event loop per process owns the machine and the store. Calls of clients, messages of peers,
//! expired timers and reports of the store's writer thread wait in queues. An *iteration* of the
//! loop takes what is queued, lets the machine process it, performs the effects, and hands over one
//! batch for each peer and one force to the store. Events that arrive during an iteration or a force
//! are processed together in the next one, so the cost per event decreases under load. The loop never
//! waits for a disk, a peer or a client. If there is a journal, an entry is written before its effect
//! leaves the process.

mod access;
mod connections;
pub(crate) mod descriptors;
mod environment;
mod event_loop;
mod forces;
mod http2;
mod inputs;
mod kv_service;
mod limits;
mod metrics;
mod peers;
mod send_buffer;
mod server;
mod timers;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, lookup_host},
    sync::{mpsc, oneshot},
    task::{JoinError, JoinHandle, JoinSet},
};

pub use self::metrics::MetricsOptions;
use self::{
    event_loop::{EventLoop, LoopExit},
    inputs::Inputs,
    kv_service::message_bytes_max,
    limits::Budgets,
    peers::Peers,
    server::{Health, InspectRequest, Services},
};
#[cfg(feature = "test-hooks")]
pub use crate::hooks::{Point, Role, Side, Site};
use crate::{
    config::{Address, ClusterConfig},
    hooks::{HookOptions, Hooks},
    protocol::{self, HaltKind, Lsn, Node, Rule, Rules, StoreId},
    records,
    store::{Limits, Opened, Store, StoreError, StoreOptions},
    tls::Tls,
};

/// The number of inspections that may wait for the event loop.
const INSPECTIONS_MAX: usize = 16;
/// The number of task polls between two polls of the sockets under load. Enough for a few hundred
/// connections, so that requests that arrive meanwhile are processed together.
const EVENT_INTERVAL: u32 = 255;
/// How long connections may take to close when the node stops.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How to start a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The configuration of the cluster.
    pub cluster: ClusterConfig,
    /// The node to run.
    pub node: Node,
    /// Its store's directory.
    pub dir: PathBuf,
    /// Whether to create a store in an empty or missing directory and join a new cluster.
    pub bootstrap: bool,
    /// The address to listen on, instead of the configured one.
    pub listen: Option<Address>,
    /// Where to offer metrics, if anywhere.
    pub metrics: Option<MetricsOptions>,
    /// Whether the address may be one that other machines can reach, although nothing is authenticated.
    pub insecure: bool,
    /// The identity with which connections are made and accepted; without one, they have no TLS.
    pub tls: Option<Arc<Tls>>,
    /// Options for tests.
    pub hooks: HookOptions,
}

/// A node could not start, or failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration has no such node.
    #[error("the configuration has no {node}: its replicas are r1 to r{replicas}")]
    NoSuchNode {
        /// The node.
        node: Node,
        /// The number of replicas.
        replicas: u8,
    },
    /// The store cannot be opened, or has failed.
    #[error("store: {error}{}", store_advice(.0), error = .0)]
    Store(Arc<StoreError>),
    /// The node would listen on an address that other machines can reach.
    #[error(
        "refuses to listen on {address}: {ip} is not a loopback address, and whoever can connect can read \
         and change everything, because nothing is authenticated or encrypted. Give the node a certificate \
         (`client cert --help`; metrics have none), or, if only trusted machines can connect, start it with \
         --insecure"
    )]
    Exposed {
        /// The address.
        address: Address,
        /// What it resolves to.
        ip: IpAddr,
    },
    /// The node cannot listen on its address.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: Address,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The journal cannot be written, so no effect may be performed.
    #[error("journal {}: {cause}", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The process cannot be set up.
    #[error("cannot {doing}: {cause}")]
    Process {
        /// The operation that failed.
        doing: &'static str,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The machine stopped the node.
    #[error("{why}")]
    Halted {
        /// The kind of stop.
        kind: HaltKind,
        /// The reason.
        why: String,
    },
}

impl From<StoreError> for NodeError {
    fn from(error: StoreError) -> Self {
        NodeError::Store(Arc::new(error))
    }
}

impl NodeError {
    /// The exit status of the process: 2 if it was refused because of its configuration or
    /// directory, 3 if a newer master has taken over, 4 if the protocol was violated, 1 for
    /// anything else.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            NodeError::Halted { kind: HaltKind::Refused, .. }
            | NodeError::NoSuchNode { .. }
            | NodeError::Exposed { .. } => 2,
            NodeError::Halted { kind: HaltKind::Superseded, .. } => 3,
            NodeError::Halted { kind: HaltKind::Violation, .. } => 4,
            NodeError::Store(error) => match **error {
                StoreError::Absent { .. } => 2,
                _ => 1,
            },
            NodeError::Listen { .. } | NodeError::Journal { .. } | NodeError::Process { .. } => 1,
        }
    }
}

/// Creates the runtime of a node, with one thread. The work of a node is in its event loop; on a
/// machine shared with other nodes, more threads would only move it between cores.
///
/// # Errors
/// The system is out of threads or descriptors.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().event_interval(EVENT_INTERVAL).build()
}

/// What the operator of a node can do about an error of its store, besides what the error says.
fn store_advice(error: &StoreError) -> &'static str {
    match error {
        StoreError::Absent { .. } => "; if this node is new, start it with --bootstrap",
        StoreError::DataLost { .. } | StoreError::Truncated { .. } | StoreError::Damaged { .. } => {
            "; put the original files back if they are elsewhere (an older copy is refused), or replace this node"
        }
        _ => "",
    }
}

/// Runs a node until `stop` completes or, under control of a test, standard input is closed. Then it
/// accepts no more calls, finishes those in flight, and closes its store.
///
/// # Errors
/// The node could not start, or failed.
pub async fn run(options: NodeOptions, stop: impl Future<Output = ()>) -> Result<(), NodeError> {
    let NodeOptions { cluster, node, dir, bootstrap, listen, insecure, tls, metrics, hooks } =
        options;
    let replicas = cluster.replica_count();
    let address = cluster.address(node).ok_or(NodeError::NoSuchNode { node, replicas })?;
    let address = listen.unwrap_or_else(|| address.clone());
    let addresses = resolve(&address, insecure || tls.is_some()).await?;
    let (rules, sequence_above) = (hooks.rules(), hooks.sequence_above());
    let store_options = store_options(&cluster, bootstrap, &hooks);
    let (mut hooks, control_closed) = Hooks::new(hooks, node)?;
    let (Opened { store, id, records }, persisted) = open_store(&dir, store_options, &hooks)?;

    let listener = bind(&address, &addresses)?;
    let metrics = match metrics {
        Some(options) => {
            let addresses = resolve(&options.address, insecure).await?;
            Some((bind(&options.address, &addresses)?, options))
        }
        None => None,
    };
    // Port 0 was replaced by a free port.
    let address = listener.local_addr().map_or(address.to_string(), |address| address.to_string());
    tracing::info!("{node} of cluster '{}' with store {id} listens on {address}", cluster.name);
    hooks.listening(&address);

    let identity = records::store_id(id);
    let (mut network, inputs, health) =
        Network::start(node, identity, &cluster, rules, tls, listener, persisted);
    if let Some((listener, options)) = metrics {
        network.offer_metrics(listener, options, dir, cluster.store.map_bytes);
    }
    let config = protocol::Config {
        node,
        replicas,
        store: identity,
        nonce: rand::random_range(1..=u64::MAX),
        bootstrap,
        commit: cluster.commit,
        rules,
        timing: cluster.timing.clone(),
        scrub_interval: Duration::from_millis(cluster.node.scrub_ms),
        sequence_above,
    };
    hooks.open_journal()?;
    let event_loop = EventLoop::recover(config, records, store, &network.peers, hooks, health);
    let stop = async {
        tokio::select! {
            () = stop => tracing::info!("received a stop signal"),
            () = control_closed => tracing::info!("standard input was closed"),
        }
    };
    let grace = Duration::from_millis(cluster.node.shutdown_grace_ms);
    let LoopExit { store, result } = tokio::select! {
        exit = event_loop.run(inputs, stop, &network.stopping, grace) => exit,
        cause = failure_of(&mut network.server) => return Err(NodeError::Process { doing: "serve", cause }),
    };
    network.close().await;
    if let Err(error) = &result {
        tracing::error!("{node} failed: {error}");
    }
    let closed = store.close();
    result?;
    closed?;
    tracing::info!("{node} shut down");
    Ok(())
}

/// How many connections wait in the kernel to be accepted. With fewer, a burst of them makes the kernel
/// ignore those of others, which then try again after a second.
const BACKLOG: u32 = 4096;

fn bind(address: &Address, addresses: &[SocketAddr]) -> Result<TcpListener, NodeError> {
    let failed = |cause| NodeError::Listen { address: address.clone(), cause };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match listen(*address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A node that was killed must be able to listen again at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What an address resolves to, unless other machines can reach it and must not.
async fn resolve(address: &Address, insecure: bool) -> Result<Vec<SocketAddr>, NodeError> {
    let found = lookup_host(address.as_str()).await;
    let found = found.map_err(|cause| NodeError::Listen { address: address.clone(), cause })?;
    let addresses: Vec<_> = found.collect();
    match addresses.iter().map(SocketAddr::ip).find(|ip| !ip.is_loopback()) {
        Some(ip) if !insecure => Err(NodeError::Exposed { address: address.clone(), ip }),
        _ => Ok(addresses),
    }
}

fn store_options(cluster: &ClusterConfig, bootstrap: bool, hooks: &HookOptions) -> StoreOptions {
    let rules = hooks.rules();
    StoreOptions {
        create: bootstrap || !rules.keep(Rule::EmptyStoreRefused),
        exclusive: rules.keep(Rule::ExclusiveStore),
        map_bytes: cluster.store.map_bytes,
        wal_bytes: cluster.store.wal_bytes,
        limits: Limits { value_bytes_max: cluster.store.max_value_bytes },
        sync_mode: hooks.sync_mode(),
        rules: hooks.store_rules(),
        ..StoreOptions::default()
    }
}

/// Reports of the store's writer.
type Persisted = mpsc::UnboundedReceiver<Result<Lsn, Arc<StoreError>>>;

fn open_store(
    dir: &Path,
    options: StoreOptions,
    hooks: &Hooks,
) -> Result<(Opened, Persisted), StoreError> {
    // Unbounded, because the writer thread must not wait for the loop. It never holds more than one
    // report for each commit since the last iteration.
    let (reports, persisted) = mpsc::unbounded_channel();
    let report = Box::new(move |report| {
        // The loop may have ended.
        let _ = reports.send(report);
    });
    Ok((Store::open_observed(dir, options, report, hooks.observer())?, persisted))
}

/// The tasks that serve and dial connections.
struct Network {
    peers: Arc<Peers>,
    /// Set when no more calls are accepted.
    stopping: Arc<AtomicBool>,
    server: JoinHandle<()>,
    /// The tasks that dial peers and serve scrapers.
    others: JoinSet<()>,
    budgets: Arc<Budgets>,
    inspections: mpsc::Sender<InspectRequest>,
    /// Ends the server when dropped.
    close: oneshot::Sender<()>,
}

impl Network {
    fn start(
        node: Node,
        store: StoreId,
        cluster: &ClusterConfig,
        rules: Rules,
        tls: Option<Arc<Tls>>,
        listener: TcpListener,
        persisted: Persisted,
    ) -> (Self, Inputs, Health) {
        let (peers, inbound) = Peers::new(node, store, cluster, tls.clone());
        let (calls, incoming_calls) = mpsc::channel(cluster.node.max_inflight);
        let (inspections, incoming_inspections) = mpsc::channel(INSPECTIONS_MAX);
        let stopping = Arc::new(AtomicBool::new(false));
        let (health, health_service) = Health::new(node == Node::Master);
        let sizes = Limits { value_bytes_max: cluster.store.max_value_bytes };
        let budgets = Arc::new(Budgets::new(&cluster.node, message_bytes_max(sizes)));
        let services = Services {
            calls,
            inspections: inspections.clone(),
            budgets: budgets.clone(),
            stopping: stopping.clone(),
            peers: peers.clone(),
            limits: cluster.node.clone(),
            sizes,
            cluster: cluster.name.clone(),
            rules,
            tls,
        };
        let (close, closed) = oneshot::channel::<()>();
        let server = tokio::spawn(server::serve(listener, services, health_service, async {
            // Sending and dropping have the same meaning.
            let _ = closed.await;
        }));
        let mut others = JoinSet::new();
        for to in peers.dialed() {
            if let Some(address) = cluster.address(to) {
                others.spawn(peers.clone().maintain_stream(to, address.clone()));
            }
        }
        let inputs =
            Inputs { persisted, inbound, calls: incoming_calls, inspections: incoming_inspections };
        let network = Network { peers, stopping, server, others, budgets, inspections, close };
        (network, inputs, health)
    }

    fn offer_metrics(
        &mut self,
        listener: TcpListener,
        options: MetricsOptions,
        dir: PathBuf,
        map_bytes: u64,
    ) {
        let sources = metrics::Sources {
            inspections: self.inspections.clone(),
            budgets: self.budgets.clone(),
            peers: self.peers.clone(),
            dir,
            map_bytes,
            dropped_log_lines: options.dropped_log_lines,
        };
        if let Ok(address) = listener.local_addr() {
            tracing::info!("metrics are at http://{address}/metrics");
        }
        self.others.spawn(metrics::serve(listener, sources));
    }

    /// Closes every connection.
    async fn close(mut self) {
        self.others.shutdown().await;
        drop(self.close);
        self.peers.close();
        if tokio::time::timeout(CLOSE_TIMEOUT, &mut self.server).await.is_err() {
            // A client that keeps its connection open must not keep the node running.
            self.server.abort();
        }
    }
}

/// Waits until the server ends by itself, which it should not.
async fn failure_of(server: &mut JoinHandle<()>) -> io::Error {
    let ended: Result<(), JoinError> = server.await;
    ended.map_or_else(Into::into, |()| io::ErrorKind::BrokenPipe.into())
}
