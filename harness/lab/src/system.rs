//! What the lab must know of a system under test to run its processes.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use futures::future::BoxFuture;
use history::nemesis::Compared;

use crate::{client::Client, disk::FileLayout, keeper::Account, network::Network, node::NodeName};

/// A system under test, as it was set up for one run.
pub trait System: Send + Sync {
    /// The nodes, in the order in which they are started.
    fn nodes(&self) -> &[NodeName];

    /// The command that starts a node.
    fn command(&self, node: &NodeName, start: &StartOptions) -> Command;

    /// Whether a node reports that it does its full work. False if it does not answer in time.
    fn is_ready<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, bool>;

    /// A client for a worker, connected to no node yet. The worker is numbered from 0.
    fn client(&self, worker: u32) -> Box<dyn Client>;

    /// Whether a started process writes `listening ADDRESS` to its standard output, and is not up
    /// before. Otherwise a start is not waited for, and only [`is_ready`](System::is_ready) is asked.
    fn announces_address(&self) -> bool {
        false
    }

    /// The program that keeps the processes of a node together: one that calls
    /// [`keeper::main`](crate::keeper::main) for [`keeper::COMMAND`](crate::keeper::COMMAND). Without
    /// one, a node is one process.
    fn keeper(&self) -> Option<&Path> {
        None
    }

    /// The account of a node's program. `None`: that of the harness. Needs a [keeper](Self::keeper).
    fn account(&self, _node: &NodeName) -> Option<Account> {
        None
    }

    /// The virtual network that the nodes are in. `None`: they have addresses of this machine. Needs a
    /// [keeper](Self::keeper).
    fn network(&self) -> Option<&Network> {
        None
    }

    /// The temporary directory of the nodes, which excerpts of their logs do not mention.
    fn scratch(&self) -> &Path {
        Path::new("/nonexistent")
    }

    /// The run begins, and is recorded in this directory.
    fn begin(&self, _directory: &Path) {}

    /// A process of a node is about to start; what it writes follows `offset` of its log.
    fn starting(&self, _node: &NodeName, _log: &Path, _offset: u64) {}

    /// Called once, after the first start, when every node is ready.
    fn after_start(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Which node leads. `None` if nobody says so.
    fn leader(&self) -> BoxFuture<'_, Option<NodeName>> {
        Box::pin(std::future::ready(None))
    }

    /// Changes what a node is in the cluster, when it runs or, to add it, before it starts.
    fn change_member<'a>(
        &'a self,
        change: MemberChange,
        _node: &'a NodeName,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(std::future::ready(Err(format!("the system cannot {} nodes", change.name()))))
    }

    /// Deletes all data of a node that does not run, so that it is as before its first start.
    ///
    /// # Errors
    /// Some of it stays.
    fn clear(&self, _node: &NodeName) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// What the nodes hold that must hold the same: asked when all are ready, while clients go on. `None`: the
    /// system offers no such comparison.
    fn compare(&self) -> Option<BoxFuture<'_, Compared>> {
        None
    }

    /// Whether a process exited because the system refused this [forbidden](ForbiddenStart) start,
    /// judged by its exit status and the last line of its log.
    fn is_refusal(&self, _start: &StartOptions, _status: ExitStatus, _last_log_line: &str) -> bool {
        false
    }

    /// Creates an empty directory on which a node can be started.
    ///
    /// # Errors
    /// The directory cannot be created.
    fn create_empty_directory(&self, _node: &NodeName) -> io::Result<PathBuf> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// Makes this the directory of the node from now on.
    fn set_directory(&self, _node: &NodeName, _directory: PathBuf) {}

    /// The directories of a node that are on its disk, if faults need one. They are absolute, and what they
    /// contain before the first start is on the disk.
    fn disk_directories(&self, _node: &NodeName) -> Vec<PathBuf> {
        Vec::new()
    }

    /// The files whose writes and syncs have crash points.
    fn disk_layouts(&self) -> &'static [FileLayout] {
        &[]
    }
}

/// What becomes of a node in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// It is no member any more.
    Remove,
    /// It is a member again.
    Add,
    /// It leads.
    Promote,
}

impl MemberChange {
    /// What is done, as a verb.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            MemberChange::Remove => "remove",
            MemberChange::Add => "add",
            MemberChange::Promote => "promote",
        }
    }
}

/// How a node is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// The node may begin with an empty disk; otherwise it must find what earlier starts left.
    pub bootstrap: bool,
    /// Use this directory instead of the node's own.
    pub directory: Option<PathBuf>,
    /// Start beside a running process of the same node, on another address.
    pub second_instance: bool,
    /// The disk is an older copy of the node's own.
    pub restored_copy: bool,
    /// The node was added to a cluster that runs, and has no data yet.
    pub joins: bool,
    /// The crash point to arm before the node does anything.
    pub arm: Option<String>,
}

impl StartOptions {
    /// Whether this start does not belong to the cluster's own life and must be refused.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.directory.is_some() || self.second_instance || self.restored_copy
    }
}

/// A start that the system must refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForbiddenStart {
    /// A second process on the store of a node whose process has it open.
    SecondInstance,
    /// A node on an older copy of its disk.
    RestoredCopy,
    /// A node on an empty directory, though the cluster knows it.
    EmptyDirectory {
        /// Whether the start claims that the cluster is new.
        bootstrap: bool,
    },
}
