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

/// What every node is told.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// The cluster's configuration, a TOML file that all its nodes share.
    #[arg(long, env = "TWOPC_CONFIG", value_name = "FILE")]
    pub config: PathBuf,

    /// The directory of this node's store, which no other node may share.
    #[arg(long, env = "TWOPC_DIR", value_name = "DIR")]
    pub dir: PathBuf,

    /// Lets a missing or empty directory become a store and begin a new membership. Without it a
    /// node whose data are gone is refused, rather than let in to forget what it promised.
    #[arg(long, env = "TWOPC_BOOTSTRAP")]
    pub bootstrap: bool,

    /// What makes a commit, instead of what the configuration says: logged or votes. All nodes of a
    /// cluster must go by one, for ever.
    #[arg(long, env = "TWOPC_COMMIT", value_name = "MODE")]
    pub commit: Option<CommitMode>,

    /// Listen here instead of at the address that the configuration has for this node.
    #[arg(long, env = "TWOPC_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<Address>,

    /// Breaks a rule of the protocol, so that a harness can be seen to notice. May be repeated.
    #[arg(long = "break", value_name = "RULE", hide = true)]
    pub break_rules: Vec<Rule>,

    /// Appends everything that the node's machine is told and wants to this file.
    #[arg(long, value_name = "FILE", hide = true)]
    pub journal: Option<PathBuf>,

    /// Stops at this crash point, once: as if it had been armed before anything else happens.
    #[arg(long, value_name = "POINT", hide = true, requires = "control")]
    pub arm: Option<String>,

    /// Takes commands (arm POINT, disarm) from standard input, and ends when it ends.
    #[arg(long, hide = true)]
    pub control: bool,

    /// The process that controls this one: ends if that is not, or no longer, the parent.
    #[arg(long, value_name = "PID", hide = true, requires = "control")]
    pub parent: Option<i32>,
}

/// The command line of a master.
#[derive(Args, Clone, Debug)]
pub struct MasterArgs {
    /// What every node is told.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// The command line of a replica.
#[derive(Args, Clone, Debug)]
pub struct ReplicaArgs {
    /// Which of the configuration's replicas this is, counted from 1.
    #[arg(long, env = "TWOPC_SLOT", value_name = "N",
          value_parser = clap::value_parser!(u8).range(1..))]
    pub slot: u8,

    /// What every node is told.
    #[command(flatten)]
    pub node: NodeArgs,
}

impl MasterArgs {
    /// Runs the master until it is told to stop. Takes over the process: its log, its signals,
    /// and under control its standard input and output.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.run_with(SyncMode::All)
    }

    /// Runs the master on a store that syncs as told, for a harness.
    #[must_use]
    pub fn run_with(self, syncs: SyncMode) -> ExitCode {
        self.node.run(Node::Master, syncs)
    }
}

impl ReplicaArgs {
    /// Runs the replica until it is told to stop. Takes over the process: its log, its signals,
    /// and under control its standard input and output.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.run_with(SyncMode::All)
    }

    /// Runs the replica on a store that syncs as told, for a harness.
    #[must_use]
    pub fn run_with(self, syncs: SyncMode) -> ExitCode {
        self.node.run(Node::Replica(self.slot), syncs)
    }
}

impl NodeArgs {
    fn run(self, node: Node, syncs: SyncMode) -> ExitCode {
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
            syncs,
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
        && let Err(cause) = run_as_batch()
    {
        tracing::warn!("this node interrupts others to run: {cause}");
    }
    let failed = |doing| move |cause: io::Error| NodeError::Process { doing, cause };
    let runtime = node::runtime().map_err(failed("start the runtime"))?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).map_err(failed("wait for signals"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("wait for signals"))?;
        let stop = async {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        node::run(options, stop).await
    })
}

/// Has the kernel let whoever runs go on when a thread of this process has something to do: on the
/// processors that a node shares with other nodes, each turn is then finished before the next
/// begins, and what comes meanwhile is taken in together. For this thread, and those that it starts.
fn run_as_batch() -> io::Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the parameter, which lives until it has, and nothing else.
    #[allow(unsafe_code)]
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel kill this process when its parent ends, however that ends.
fn die_with_parent(parent: Option<i32>) -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| format!("cannot be tied to the parent process: {error}"))?;
    // The parent may have ended before it was asked for.
    match parent {
        Some(parent) if parent != getppid().as_raw() => {
            Err(format!("the parent process is not {parent}, which was to control this one"))
        }
        _ => Ok(()),
    }
}
