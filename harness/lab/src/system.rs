//! What the lab must know of a system under test to run its processes.

use std::{
    io,
    path::PathBuf,
    process::{Command, ExitStatus},
};

use futures::future::BoxFuture;

use crate::{disk::FileLayout, node::NodeName};

/// A system under test, as it was set up for one run.
pub trait System: Send + Sync {
    /// The nodes, in the order in which they are started.
    fn nodes(&self) -> &[NodeName];

    /// The command that starts a node.
    fn command(&self, node: &NodeName, start: &StartOptions) -> Command;

    /// Whether a node reports that it does its full work. False if it does not answer in time.
    fn is_ready<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, bool>;

    /// Whether a process exited because the system refused this [forbidden](ForbiddenStart) start,
    /// judged by its exit status and the last line of its log.
    fn is_refusal(&self, start: &StartOptions, status: ExitStatus, last_log_line: &str) -> bool;

    /// Creates an empty directory on which a node can be started.
    ///
    /// # Errors
    /// The directory cannot be created.
    fn create_empty_directory(&self, node: &NodeName) -> io::Result<PathBuf>;

    /// Makes this the directory of the node from now on.
    fn set_directory(&self, node: &NodeName, directory: PathBuf);

    /// The files whose writes and syncs have crash points.
    fn disk_layouts(&self) -> &'static [FileLayout] {
        &[]
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
    /// The crash point to arm before the node does anything.
    pub arm: Option<String>,
}

impl StartOptions {
    /// Whether this start does not belong to the cluster's own life and must be refused.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.directory.is_some() || self.second_instance
    }
}

/// A start that the system must refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForbiddenStart {
    /// A second process on the store of a node whose process has it open.
    SecondInstance,
    /// A node on an empty directory, though the cluster knows it.
    EmptyDirectory {
        /// Whether the start claims that the cluster is new.
        bootstrap: bool,
    },
}
