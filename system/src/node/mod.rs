//! A node: the only part that performs input and output. It passes events to a machine and performs
//! the resulting effects, in order. Does not know why the machine asks for them.
//!
//! One event loop per process owns the machine and the store. Calls of clients, messages of peers,
//! expired timers and reports of the store's writer thread wait in queues. An *iteration* of the
//! loop takes what is queued, lets the machine process it, writes the journal, performs the
//! effects, and hands over one batch for each peer and one force to the store. Events that arrive
//! during an iteration or a force are processed together in the next one, so the cost per event
//! decreases under load. The loop never waits for a disk, a peer or a client.

mod control;
mod crash_points;
mod event_loop;
mod http2;
mod kv_service;
mod peers;
mod send_buffer;
mod server;
mod timers;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};

pub use self::crash_points::{Point, Role, Side, Site};
use self::{
    crash_points::{CrashPoints, PersistHooks, print_control_line},
    event_loop::{EventLoop, Inputs, LoopExit},
    peers::Peers,
    server::{Health, Services},
};
use crate::{
    config::{Address, ClusterConfig},
    journal,
    protocol::{self, HaltKind, Lsn, Node, Rule, Rules},
    store::{self, Limits, Store, StoreError, SyncMode},
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
    /// The rules in force: all of them, except in tests.
    pub rules: Rules,
    /// The journal to append to.
    pub journal: Option<PathBuf>,
    /// Whether to take commands from standard input, and stop when it is closed.
    pub control: bool,
    /// A crash point that is armed before anything else happens.
    pub arm: Option<String>,
    /// What a commit of the store waits for: all syncs, except in tests.
    pub sync_mode: SyncMode,
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
    #[error("store: {0}")]
    Store(Arc<StoreError>),
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
            NodeError::Halted { kind: HaltKind::Refused, .. } | NodeError::NoSuchNode { .. } => 2,
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
/// The system is out of threads or descriptors.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().event_interval(EVENT_INTERVAL).build()
}

/// Runs a node until `stop` completes or, under control, standard input is closed. Then it accepts
/// no more calls, finishes those in flight, and closes its store.
///
/// The node could not start, or failed.
pub async fn run(options: NodeOptions, stop: impl Future<Output = ()>) -> Result<(), NodeError> {
    let NodeOptions {
        cluster,
        node,
        dir,
        bootstrap,
        listen,
        rules,
        journal,
        control,
        arm,
        sync_mode,
    } = options;
    let replicas = cluster.replica_count();
    let address = cluster.address(node).ok_or(NodeError::NoSuchNode { node, replicas })?;
    let address = listen.unwrap_or_else(|| address.clone());
    for rule in rules.broken() {
        tracing::warn!("RULE BROKEN: this node {}; its data is not safe", rule.without());
    }

    if sync_mode != SyncMode::All {
        tracing::warn!("SYNCS SKIPPED: the data of this node is not safe");
    }

    let crash_points = Arc::new(CrashPoints::default());
    if let Some(point) = arm
        && let Err(why) = crash_points.arm(&point, node.into())
    {
        print_control_line(&format!("error {point} {why}"));
    }
    let (control_ended, control_end) = oneshot::channel();
    if control {
        control::listen(crash_points.clone(), node.into(), control_ended)
            .map_err(|cause| NodeError::Process { doing: "start the control thread", cause })?;
    }

    let sizes = Limits { value_bytes_max: cluster.store.max_value_bytes };
    let store_options = store::StoreOptions {
        create: bootstrap || !rules.keep(Rule::EmptyStoreRefused),
        exclusive: rules.keep(Rule::ExclusiveStore),
        map_bytes: cluster.store.map_bytes,
        wal_bytes: cluster.store.wal_bytes,
        limits: sizes,
        sync_mode,
        ..store::StoreOptions::default()
    };
    // Unbounded, because the writer thread must not wait for the loop. It never holds more than one
    // report for each commit since the last iteration.
    let (reports, persisted) = mpsc::unbounded_channel::<Result<Lsn, Arc<StoreError>>>();
    let report = Box::new(move |report| {
        // The loop may have ended.
        let _ = reports.send(report);
    });
    let observer: Option<Box<dyn store::Observer>> =
        if control { Some(Box::new(PersistHooks(crash_points.clone()))) } else { None };
    let store::Opened { store, id, records } =
        Store::open_observed(&dir, store_options, report, observer)?;

    let listener = TcpListener::bind(address.as_str())
        .await
        .map_err(|cause| NodeError::Listen { address: address.clone(), cause })?;
    // Port 0 was replaced by a free port.
    let address = listener.local_addr().map_or(address.to_string(), |address| address.to_string());
    tracing::info!("{node} of cluster '{}' with store {id} listens on {address}", cluster.name);
    if control {
        print_control_line(&format!("listening {address}"));
    }

    let (peers, inbound) = Peers::new(node, &cluster);
    let (calls, incoming_calls) = mpsc::channel(cluster.node.max_inflight);
    let (inspections, requests) = mpsc::channel(INSPECTIONS_MAX);
    let stopping = Arc::new(AtomicBool::new(false));
    let (health, health_service) = Health::new(node == Node::Master);
    let services = Services {
        calls,
        inspections,
        stopping: stopping.clone(),
        peers: peers.clone(),
        limits: cluster.node.clone(),
        sizes,
        cluster: cluster.name.clone(),
    };
    let (close, closed) = oneshot::channel::<()>();
    let mut server = tokio::spawn(server::serve(listener, services, health_service, async {
        // Sending and dropping have the same meaning.
        let _ = closed.await;
    }));
    let mut dialers = tokio::task::JoinSet::new();
    for to in peers.dialed() {
        if let Some(address) = cluster.address(to) {
            dialers.spawn(peers.clone().maintain_stream(to, address.clone()));
        }
    }

    let config = protocol::Config {
        node,
        replicas,
        store: id,
        bootstrap,
        commit: cluster.commit,
        rules,
        timing: cluster.timing.clone(),
    };
    let journal = journal
        .map(|path| match journal::Writer::open(&path) {
            Ok(writer) => Ok((writer, path)),
            Err(cause) => Err(NodeError::Journal { path, cause }),
        })
        .transpose()?;
    let inputs = Inputs { persisted, inbound, calls: incoming_calls, inspections: requests };
    let event_loop =
        EventLoop::recover(config, records, store, journal, &peers, crash_points, health);
    let stop = async {
        tokio::select! {
            () = stop => tracing::info!("received a stop signal"),
            Ok(()) = control_end => tracing::info!("standard input was closed"),
        }
    };
    let LoopExit { store, result } = tokio::select! {
        end = event_loop.run(inputs, stop, &stopping, Duration::from_millis(cluster.node.shutdown_grace_ms))
            => end,
        served = &mut server => {
            let cause = served.map_or_else(Into::into, |()| io::ErrorKind::BrokenPipe.into());
            return Err(NodeError::Process { doing: "serve", cause });
        }
    };

    dialers.shutdown().await;
    drop(close);
    peers.close();
    if tokio::time::timeout(CLOSE_TIMEOUT, &mut server).await.is_err() {
        // A client that keeps its connection open must not keep the node running.
        server.abort();
    }
    if let Err(error) = &result {
        tracing::error!("{node} failed: {error}");
    }
    let closed = store.close();
    result?;
    closed?;
    tracing::info!("{node} shut down");
    Ok(())
}
