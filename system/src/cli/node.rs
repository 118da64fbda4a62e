//! The command lines of `master` and `replica`.

use std::{fmt::Display, io, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Args;
use nix::libc;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    TlsArgs,
    log::{Log, LogFormat},
};
use crate::{
    config::{Address, ClusterConfig},
    hooks::HookArgs,
    node::{self, MetricsOptions, NodeError, NodeOptions, descriptors::raise_limit},
    protocol::{CommitMode, Node},
    tls::{Role, Tls},
};

/// The flags of every node.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// The cluster's configuration, a TOML file that all of its nodes share
    #[arg(long, env = "TWOPC_CONFIG", value_name = "FILE")]
    pub config: PathBuf,

    /// The directory of this node's store, which no other node may share
    #[arg(long, env = "TWOPC_DIR", value_name = "DIR")]
    pub dir: PathBuf,

    /// Create a store in a missing or empty directory and join a new cluster. Without it, a node
    /// whose data is lost is refused, because it has forgotten its promises
    #[arg(long, env = "TWOPC_BOOTSTRAP")]
    pub bootstrap: bool,

    /// The commit mode, instead of the one in the configuration: logged or votes. All nodes of a
    /// cluster must use the same mode, and it never changes
    #[arg(long, env = "TWOPC_COMMIT", value_name = "MODE")]
    pub commit: Option<CommitMode>,

    /// Listen on this address instead of the one in the configuration
    #[arg(long, env = "TWOPC_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<Address>,

    /// The form of the log on standard error
    #[arg(long, env = "TWOPC_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Offer metrics for Prometheus on this address, at /metrics
    #[arg(long, env = "TWOPC_METRICS", value_name = "HOST:PORT")]
    pub metrics: Option<Address>,

    /// Listen on an address that other machines can reach without TLS. Nothing is authenticated or encrypted:
    /// whoever can connect can read and change everything
    #[arg(long, env = "TWOPC_INSECURE")]
    pub insecure: bool,

    /// The files for TLS.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// Flags for tests.
    #[command(flatten)]
    pub hooks: HookArgs,
}

/// The command line of a master.
#[derive(Args, Clone, Debug)]
pub struct MasterArgs {
    /// The flags of every node.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// The command line of a replica.
#[derive(Args, Clone, Debug)]
pub struct ReplicaArgs {
    /// The slot of this replica in the configuration, counted from 1
    #[arg(long, env = "TWOPC_SLOT", value_name = "N",
          value_parser = clap::value_parser!(u8).range(1..))]
    pub slot: u8,

    /// The flags of every node.
    #[command(flatten)]
    pub node: NodeArgs,
}

impl MasterArgs {
    /// Runs the master until it is stopped. Takes over the process: its log and its signals.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.node.run(Node::Master)
    }
}

impl ReplicaArgs {
    /// Runs the replica until it is stopped. Takes over the process: its log and its signals.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.node.run(Node::Replica(self.slot))
    }
}

impl NodeArgs {
    fn run(self, node: Node) -> ExitCode {
        let log = Log::new(io::stderr(), self.log_format);
        let lines = log.clone();
        super::log_to(move || lines.clone(), self.log_format);
        let status = self.run_logged(node, &log);
        log.flush();
        status
    }

    fn run_logged(self, node: Node, log: &Log) -> ExitCode {
        // Through the log as well: a write of its own could wait forever, and come before earlier lines.
        let fail = |error: &dyn Display, status: u8| {
            log.line(&format!("{node}: {error}"));
            ExitCode::from(status)
        };
        if let Err(why) = self.hooks.tie_to_parent() {
            return fail(&why, 1);
        }
        let mut cluster = match ClusterConfig::load(&self.config) {
            Ok(cluster) => cluster,
            Err(error) => return fail(&error, 2),
        };
        cluster.commit = self.commit.unwrap_or(cluster.commit);
        let hooks = match self.hooks.options(cluster.commit) {
            Ok(hooks) => hooks,
            Err(why) => return fail(&why, 2),
        };
        let NodeArgs { dir, bootstrap, listen, insecure, metrics, tls, .. } = self;
        let tls = match identity(tls, &cluster, node) {
            Ok(tls) => tls,
            Err(why) => return fail(&why, 2),
        };
        let dropped_log_lines = log.dropped_lines();
        let metrics = metrics.map(|address| MetricsOptions { address, dropped_log_lines });
        match run(
            NodeOptions { cluster, node, dir, bootstrap, listen, insecure, tls, metrics, hooks },
            log,
        ) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, error.exit_status()),
        }
    }
}

/// The identity of a node for TLS, if it is configured.
fn identity(
    args: TlsArgs,
    cluster: &ClusterConfig,
    node: Node,
) -> Result<Option<Arc<Tls>>, String> {
    let files = args.files(Some(&cluster.tls), &node.to_string())?;
    let tls = files.map(|files| Tls::load(files, Some(Role::Node(node)))).transpose();
    let tls = tls.map_err(|error| format!("TLS: {error}"))?;
    if let Some(tls) = &tls {
        tracing::info!("TLS: {}", tls.describe());
    }
    Ok(tls)
}

/// Loads the files of an identity again at each SIGHUP, for as long as the node runs.
async fn reload_at_hangup(tls: Arc<Tls>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        match tls.reload() {
            Ok(()) => tracing::info!("TLS: loaded {}", tls.describe()),
            Err(error) => {
                tracing::error!("TLS: {error}; still in use: {}", tls.describe());
            }
        }
    }
}

fn run(options: NodeOptions, log: &Log) -> Result<(), NodeError> {
    if options.cluster.node.sched_batch
        && let Err(cause) = use_sched_batch()
    {
        tracing::warn!("cannot use SCHED_BATCH: {cause}");
    }
    if let Err(cause) = raise_limit() {
        tracing::warn!("cannot raise the limit of open files: {cause}");
    }
    let failed = |doing| move |cause: io::Error| NodeError::Process { doing, cause };
    log.start().map_err(failed("start the thread that writes the log"))?;
    let runtime = node::runtime().map_err(failed("start the runtime"))?;
    runtime.block_on(async {
        let mut term =
            signal(SignalKind::terminate()).map_err(failed("install a signal handler"))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(failed("install a signal handler"))?;
        if let Some(tls) = options.tls.clone() {
            let hangup =
                signal(SignalKind::hangup()).map_err(failed("install a signal handler"))?;
            tokio::spawn(reload_at_hangup(tls, hangup));
        }
        let stop = async {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        node::run(options, stop).await
    })
}

/// Runs this thread, and the threads that it starts, under SCHED_BATCH: a wake-up does not preempt
/// the running process. On cores that nodes share, each event-loop iteration then completes before
/// the next process runs, and messages that arrive meanwhile are processed together.
fn use_sched_batch() -> io::Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel only reads the parameter, which outlives the call.
    #[allow(unsafe_code)]
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
