//! The nodes of a run as processes, by their typed names, and the transactions that they have not
//! finished.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use history::nemesis::Exit;
use lab::{
    EventLog, ForbiddenStart,
    cluster::{ClusterError, DiskFaultEnd, ForbiddenStartResult, poll},
    disk::{Device, DiskFault, Image, LostWrites, NameDurability},
    process::Process,
};
use system::protocol::{Node, TxnId};
use tokio::sync::watch;

use crate::{
    deployment::{Deployment, NodeStatus},
    node_name,
};

/// The processes of a deployment.
pub struct Cluster {
    processes: lab::cluster::Cluster,
    deployment: Arc<Deployment>,
}

impl Cluster {
    /// A cluster whose nodes are not running yet. `logs` gives the file for each node's log,
    /// `scratch` the temporary directory that contains the nodes' directories.
    ///
    /// # Errors
    /// The supervisor thread cannot be started.
    pub fn new(
        deployment: Arc<Deployment>,
        events: EventLog,
        logs: BTreeMap<Node, PathBuf>,
        scratch: PathBuf,
    ) -> Result<Self, ClusterError> {
        let logs = logs.into_iter().map(|(node, log)| (node_name(node), log)).collect();
        let processes = lab::cluster::Cluster::new(deployment.clone(), events, logs, scratch)?;
        Ok(Cluster { processes, deployment })
    }

    /// Gives each node a disk that can lose power, mounted at a directory. Call it before the first
    /// start.
    ///
    /// # Errors
    /// The operating system refuses the mounts.
    pub async fn mount_disks(
        &mut self,
        directories: BTreeMap<Node, PathBuf>,
    ) -> Result<(), ClusterError> {
        let places = directories.into_iter().map(|(node, at)| (node_name(node), at.into()));
        self.processes.mount_disks(places.collect(), NameDurability::Posix).await
    }

    /// The cluster without typed nodes, for what concerns all nodes alike: `heal`, `stop`,
    /// `until_ready`, `unmount_disks`.
    #[must_use]
    pub fn processes(&self) -> &lab::cluster::Cluster {
        &self.processes
    }

    /// The deployment that the nodes belong to.
    #[must_use]
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// The nodes, in the order in which they are started.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + use<'_> {
        self.deployment.nodes().iter().copied()
    }

    /// The replicas.
    pub fn replicas(&self) -> impl Iterator<Item = Node> + use<'_> {
        self.nodes().filter(|node| *node != Node::Master)
    }

    /// The number of unexpected exits so far.
    #[must_use]
    pub fn unexpected_exits(&self) -> watch::Receiver<usize> {
        self.processes.unexpected_exits()
    }

    /// See [`lab::cluster::Cluster::process`].
    #[must_use]
    pub fn process(&self, node: Node) -> Option<Arc<Process>> {
        self.processes.process(&node_name(node))
    }

    /// See [`lab::cluster::Cluster::device`].
    #[must_use]
    pub fn device(&self, node: Node) -> Option<&Device> {
        self.processes.device(&node_name(node))
    }

    /// See [`lab::cluster::Cluster::start`].
    ///
    /// # Errors
    /// The node does not start.
    pub async fn start(&self, node: Node) -> Result<(), ClusterError> {
        self.processes.start(&node_name(node)).await
    }

    /// See [`lab::cluster::Cluster::start_armed`].
    ///
    /// # Errors
    /// The node does not start.
    pub async fn start_armed(&self, node: Node, point: Option<&str>) -> Result<(), ClusterError> {
        self.processes.start_armed(&node_name(node), point).await
    }

    /// See [`lab::cluster::Cluster::try_forbidden_start`].
    ///
    /// # Errors
    /// The program cannot be started.
    pub async fn try_forbidden_start(
        &self,
        node: Node,
        start: ForbiddenStart,
    ) -> Result<ForbiddenStartResult, ClusterError> {
        self.processes.try_forbidden_start(&node_name(node), start).await
    }

    /// Sends SIGKILL to a node and waits until it is gone.
    pub async fn kill(&self, node: Node) {
        self.processes.kill(&node_name(node)).await;
    }

    /// Sends SIGTERM to a node and waits until it has exited. A node that does not exit in time is
    /// killed; returns whether it exited by itself.
    pub async fn terminate(&self, node: Node) -> bool {
        self.processes.terminate(&node_name(node)).await
    }

    /// Sends SIGSTOP to a node and waits until it is stopped. Returns whether it is.
    pub async fn pause(&self, node: Node) -> bool {
        self.processes.pause(&node_name(node)).await
    }

    /// Sends SIGCONT to a node and waits until it runs. Returns whether it does.
    pub async fn resume(&self, node: Node) -> bool {
        self.processes.resume(&node_name(node)).await
    }

    /// See [`lab::cluster::Cluster::lose_power`].
    ///
    /// # Errors
    /// A disk cannot be mounted again.
    pub async fn lose_power(
        &self,
        nodes: &[Node],
        partial: Option<u64>,
    ) -> Result<BTreeMap<Node, LostWrites>, ClusterError> {
        let names: Vec<_> = nodes.iter().map(|node| node_name(*node)).collect();
        let mut lost = self.processes.lose_power(&names, partial).await?;
        let lost = nodes.iter().filter_map(|node| Some((*node, lost.remove(&node_name(*node))?)));
        Ok(lost.collect())
    }

    /// See [`lab::cluster::Cluster::begin_disk_fault`].
    pub fn begin_disk_fault(&self, node: Node, fault: DiskFault) {
        self.processes.begin_disk_fault(&node_name(node), fault);
    }

    /// See [`lab::cluster::Cluster::end_disk_fault`].
    pub async fn end_disk_fault(&self, node: Node, may_exit: bool) -> DiskFaultEnd {
        self.processes.end_disk_fault(&node_name(node), may_exit).await
    }

    /// See [`lab::cluster::Cluster::change_disk`].
    ///
    /// # Errors
    /// The disk cannot be mounted again.
    pub async fn change_disk<T>(
        &self,
        node: Node,
        change: impl FnOnce(&mut Image) -> T,
    ) -> Result<Option<T>, ClusterError> {
        self.processes.change_disk(&node_name(node), change).await
    }

    /// See [`lab::cluster::Cluster::try_start`].
    ///
    /// # Errors
    /// The program cannot be started.
    pub async fn try_start(&self, node: Node) -> Result<Option<Exit>, ClusterError> {
        self.processes.try_start(&node_name(node)).await
    }

    /// Asks all of these nodes at the same time for their status. Nodes that do not answer are left
    /// out. Nodes that are stopped or gone are not asked, because they would cost the timeout.
    pub async fn observe(
        &self,
        nodes: impl IntoIterator<Item = Node>,
    ) -> BTreeMap<Node, NodeStatus> {
        let running = nodes.into_iter().filter(|node| self.processes.is_running(&node_name(*node)));
        let asked = running.map(|node| async move {
            self.deployment.observe(node).await.ok().map(|status| (node, status))
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Waits until every node is ready and has no unfinished transaction. Returns how long that
    /// took, or `None` after `deadline`, or once a node has ended: nobody starts it again.
    pub async fn until_settled(&self, deadline: Duration) -> Option<Duration> {
        let settled = |status: &NodeStatus| status.ready && status.unsettled.is_empty();
        let took = poll(deadline, || async {
            let statuses = self.observe(self.nodes()).await;
            let all = statuses.len() == self.nodes().count() && statuses.values().all(settled);
            all || self.ended().next().is_some()
        });
        took.await.filter(|_| self.ended().next().is_none())
    }

    /// The nodes whose process has ended.
    pub fn ended(&self) -> impl Iterator<Item = Node> + use<'_> {
        self.nodes().filter(|node| {
            self.process(*node).is_none_or(|process| process.state().exit_status().is_some())
        })
    }

    /// Waits until no replica is in doubt about any of these transactions. Returns how long that
    /// took, or `None` after `deadline`. A replica that does not answer may be in doubt.
    pub async fn until_resolved(&self, txns: &[TxnId], deadline: Duration) -> Option<Duration> {
        let in_doubt =
            |status: &NodeStatus| status.unsettled.iter().any(|(txn, _)| txns.contains(txn));
        poll(deadline, || async {
            let statuses = self.observe(self.replicas()).await;
            statuses.len() == self.replicas().count() && !statuses.values().any(in_doubt)
        })
        .await
    }
}
