//! A node: the only place that touches the world. It brings events to a machine and performs the
//! effects that the machine asks for, in order. Knows nothing of why the machine asks.
//!
//! One event loop a process owns the machine and the store. Calls of clients, messages of peers,
//! timers that ran out and reports of the store's writer thread wait in queues; a *turn* of the
//! loop takes what is there, lets the machine step through it, writes the journal, performs the
//! effects, and sends one batch to each peer and one force to the store. So what arrives while a
//! turn or a force is under way is dealt with together in the next one, and the more there is to
//! do, the less each thing costs. Nothing in the loop waits for a disk, a peer or a client.

mod control;
mod event_loop;
mod http2;
mod kv;
mod outbox;
mod peers;
mod points;
mod serve;
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

pub use self::points::{Place, Point, Role, Side};
use self::{
    event_loop::{End, EventLoop, Inputs},
    peers::Peers,
    points::{PersistPoints, Points, say},
    serve::{Desk, Health},
};
use crate::{
    config::{Address, ClusterConfig},
    journal,
    protocol::{self, HaltKind, Lsn, Node, Rule, Rules},
    store::{self, Limits, Store, StoreError, SyncMode},
};

/// Inspections that may wait for the event loop.
const QUESTIONS: usize = 16;
/// Steps of tasks between two looks at the sockets while there is work: one for each of a few
/// hundred connections, so that what comes meanwhile is taken in together.
const STEPS: u32 = 255;
/// How long a connection may take to end when the node does.
const HANG_UP: Duration = Duration::from_millis(500);

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The cluster that it belongs to.
    pub cluster: ClusterConfig,
    /// Which node of the cluster it is.
    pub node: Node,
    /// Its store's directory.
    pub dir: PathBuf,
    /// Whether an empty or missing directory may become a store, and begin a new membership.
    pub bootstrap: bool,
    /// Where to listen instead of the address that the configuration has for the node.
    pub listen: Option<Address>,
    /// The rules that are kept: all, but for a harness that breaks one.
    pub rules: Rules,
    /// A journal to append to.
    pub journal: Option<PathBuf>,
    /// Whether to take commands from standard input, and end when it does.
    pub control: bool,
    /// A crash point to stop at, armed before anything else happens.
    pub arm: Option<String>,
    /// What a commit of the store waits for: all of it, but for a harness.
    pub syncs: SyncMode,
}

/// A node could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no such node in the configuration.
    #[error("the configuration has replicas r1 to r{replicas}, and no {node}")]
    NoSuchNode {
        /// The node.
        node: Node,
        /// How many replicas there are.
        replicas: u8,
    },
    /// The store cannot be opened, or has failed.
    #[error("the store: {0}")]
    Store(Arc<StoreError>),
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {cause}")]
    Listen {
        /// The address.
        address: Address,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The journal cannot be written, so nothing may be done any more.
    #[error("the journal {}: {cause}", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The process cannot be set up.
    #[error("cannot {doing}: {cause}")]
    Process {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
    /// The machine stopped the node.
    #[error("{why}")]
    Halted {
        /// What kind of end this is.
        kind: HaltKind,
        /// In words.
        why: String,
    },
}

impl From<StoreError> for NodeError {
    fn from(error: StoreError) -> Self {
        NodeError::Store(Arc::new(error))
    }
}

impl NodeError {
    /// The exit status of a process that ends by this: 2 it was refused, as to configuration or
    /// directory, 3 a newer master has taken over, 4 the protocol was violated, 1 anything else.
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

/// The runtime of a node. One thread: a node's work is in its event loop, and on a machine that
/// it shares with other nodes more threads would only pass it around.
///
/// # Errors
/// The system has no threads or descriptors left.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().event_interval(STEPS).build()
}

/// Runs a node until `stop` is done, or, under control, standard input ends. Then it takes no more
/// calls, finishes those in flight, and closes its store.
///
/// # Errors
/// The node could not start, or could not go on.
pub async fn run(options: NodeOptions, stop: impl Future<Output = ()>) -> Result<(), NodeError> {
    let NodeOptions { cluster, node, dir, bootstrap, listen, rules, journal, control, arm, syncs } =
        options;
    let replicas = cluster.replica_count();
    let address = cluster.address(node).ok_or(NodeError::NoSuchNode { node, replicas })?;
    let address = listen.unwrap_or_else(|| address.clone());
    for rule in rules.broken() {
        tracing::warn!("RULE BROKEN: this node {}; its data are not safe", rule.without());
    }

    if syncs != SyncMode::All {
        tracing::warn!("SYNCS SKIPPED: the data of this node are not safe");
    }

    let points = Arc::new(Points::default());
    if let Some(point) = arm
        && let Err(why) = points.arm(&point, node.into())
    {
        say(&format!("bad {point} {why}"));
    }
    let (orders, ordered) = oneshot::channel();
    if control {
        control::listen(points.clone(), node.into(), orders)
            .map_err(|cause| NodeError::Process { doing: "start a thread", cause })?;
    }

    let sizes = Limits { value_bytes_max: cluster.store.max_value_bytes };
    let store_options = store::StoreOptions {
        create: bootstrap || !rules.keep(Rule::EmptyStoreRefused),
        exclusive: rules.keep(Rule::ExclusiveStore),
        map_bytes: cluster.store.map_bytes,
        wal_bytes: cluster.store.wal_bytes,
        limits: sizes,
        syncs,
        ..store::StoreOptions::default()
    };
    // Unbounded, for the writer thread must not wait for the loop; there is never more in it than
    // there were commits since the last turn.
    let (reports, persisted) = mpsc::unbounded_channel::<Result<Lsn, Arc<StoreError>>>();
    let report = Box::new(move |report| {
        // When the loop is gone nobody needs to know.
        let _ = reports.send(report);
    });
    let observer: Option<Box<dyn store::Observer>> =
        if control { Some(Box::new(PersistPoints(points.clone()))) } else { None };
    let store::Opened { store, id, records } =
        Store::open_observed(&dir, store_options, report, observer)?;

    let listener = TcpListener::bind(address.as_str())
        .await
        .map_err(|cause| NodeError::Listen { address: address.clone(), cause })?;
    // Port 0 has become another by now.
    let address = listener.local_addr().map_or(address.to_string(), |address| address.to_string());
    tracing::info!("{node} of cluster '{}', store {id}, listens at {address}", cluster.name);
    if control {
        say(&format!("listening {address}"));
    }

    let (peers, arrivals) = Peers::new(node, &cluster);
    let (calls, called) = mpsc::channel(cluster.node.max_inflight);
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let stopping = Arc::new(AtomicBool::new(false));
    let (health, health_service) = Health::new(node == Node::Master);
    let desk = Desk {
        calls,
        questions,
        stopping: stopping.clone(),
        peers: peers.clone(),
        limits: cluster.node.clone(),
        sizes,
        cluster: cluster.name.clone(),
    };
    let (close, closed) = oneshot::channel::<()>();
    let mut server = tokio::spawn(serve::serve(listener, desk, health_service, async {
        // Told or dropped, it means the same.
        let _ = closed.await;
    }));
    let mut dialers = tokio::task::JoinSet::new();
    for to in peers.dialed() {
        if let Some(address) = cluster.address(to) {
            dialers.spawn(peers.clone().keep(to, address.clone()));
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
    let inputs = Inputs { persisted, arrivals, called, asked };
    let event_loop = EventLoop::recover(config, records, store, journal, &peers, points, health);
    let stop = async {
        tokio::select! {
            () = stop => tracing::info!("told to stop"),
            Ok(()) = ordered => tracing::info!("standard input has ended"),
        }
    };
    let End { store, how } = tokio::select! {
        end = event_loop.run(inputs, stop, &stopping, Duration::from_millis(cluster.node.shutdown_grace_ms))
            => end,
        served = &mut server => {
            let cause = served.map_or_else(Into::into, |()| io::ErrorKind::BrokenPipe.into());
            return Err(NodeError::Process { doing: "serve", cause });
        }
    };

    dialers.shutdown().await;
    drop(close);
    peers.hang_up();
    if tokio::time::timeout(HANG_UP, &mut server).await.is_err() {
        // A client that keeps its connection does not keep the node.
        server.abort();
    }
    if let Err(error) = &how {
        tracing::error!("{node} ends: {error}");
    }
    let closed = store.close();
    how?;
    closed?;
    tracing::info!("{node} has ended in order");
    Ok(())
}
