//! The command lines of `master` and `replica`.

use std::{io, path::PathBuf, process::ExitCode};

use clap::Args;
use nix::{
    libc,
    sys::{prctl, signal::Signal},
    unistd::getppid,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{Address, ClusterConfig},
    node::{self, NodeError, NodeOptions},
    protocol::{CommitMode, Node, Rule, Rules},
    store::SyncMode,
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

    /// Break a rule of the protocol, so that a test can show that it is detected. May be repeated
    #[arg(long = "break", value_name = "RULE", hide = true, value_parser = rule)]
    pub break_rules: Vec<Rule>,

    /// Append every event and effect of the node's machine to this file
    #[arg(long, value_name = "FILE", hide = true)]
    pub journal: Option<PathBuf>,

    /// Arm this crash point before anything else happens
    #[arg(long, value_name = "POINT", hide = true, requires = "control")]
    pub arm: Option<String>,

    /// Take commands (arm POINT, disarm) from standard input, and stop when it is closed
    #[arg(long, hide = true)]
    pub control: bool,

    /// The process id of the controlling process; end when it is not, or no longer, the parent
    #[arg(long, value_name = "PID", hide = true, requires = "control")]
    pub parent: Option<i32>,
}

/// Parses a rule, and warns if the name is an earlier one.
fn rule(text: &str) -> Result<Rule, String> {
    if let Some(name) = Rule::renamed(text) {
        eprintln!("warning: rule '{text}' is now called '{name}'");
    }
    text.parse()
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
    /// Runs the master until it is stopped. Takes over the process: its log, its signals, and under
    /// control its standard input and output.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.run_with(SyncMode::All)
    }

    /// Runs the master with a sync mode for its store, for a test.
    #[must_use]
    pub fn run_with(self, sync_mode: SyncMode) -> ExitCode {
        self.node.run(Node::Master, sync_mode)
    }
}

impl ReplicaArgs {
    /// Runs the replica until it is stopped. Takes over the process: its log, its signals, and
    /// under control its standard input and output.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.run_with(SyncMode::All)
    }

    /// Runs the replica with a sync mode for its store, for a test.
    #[must_use]
    pub fn run_with(self, sync_mode: SyncMode) -> ExitCode {
        self.node.run(Node::Replica(self.slot), sync_mode)
    }
}

impl NodeArgs {
    fn run(self, node: Node, sync_mode: SyncMode) -> ExitCode {
        super::log();
        if self.control
            && let Err(why) = die_with_parent(self.parent)
        {
            eprintln!("{node}: {why}");
            return ExitCode::FAILURE;
        }
        let mut cluster = match ClusterConfig::load(&self.config) {
            Ok(cluster) => cluster,
            Err(error) => {
                eprintln!("{node}: {error}");
                return ExitCode::from(2);
            }
        };
        cluster.commit = self.commit.unwrap_or(cluster.commit);
        if let Err(why) = Rule::check(&self.break_rules, &[cluster.commit]) {
            eprintln!("{node}: {why}");
            return ExitCode::from(2);
        }
        let options = NodeOptions {
            cluster,
            node,
            dir: self.dir,
            bootstrap: self.bootstrap,
            listen: self.listen,
            rules: self.break_rules.into_iter().fold(Rules::ALL, Rules::without),
            journal: self.journal,
            control: self.control,
            arm: self.arm,
            sync_mode,
        };
        match run(options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{node}: {error}");
                ExitCode::from(error.exit_status())
            }
        }
    }
}

fn run(options: NodeOptions) -> Result<(), NodeError> {
    if options.cluster.node.sched_batch
        && let Err(cause) = use_sched_batch()
    {
        tracing::warn!("cannot use SCHED_BATCH: {cause}");
    }
    let failed = |doing| move |cause: io::Error| NodeError::Process { doing, cause };
    let runtime = node::runtime().map_err(failed("start the runtime"))?;
    runtime.block_on(async {
        let mut term =
            signal(SignalKind::terminate()).map_err(failed("install a signal handler"))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(failed("install a signal handler"))?;
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

/// Asks the kernel to kill this process when its parent ends.
fn die_with_parent(parent: Option<i32>) -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| format!("cannot set the parent-death signal: {error}"))?;
    // The parent may have ended before the call.
    match parent {
        Some(parent) if parent != getppid().as_raw() => {
            Err(format!("the parent process is not {parent}, the controlling process"))
        }
        _ => Ok(()),
    }
}
