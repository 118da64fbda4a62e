//! The nodes' disks, what goes wrong with them, and the loss of power.

use std::{collections::BTreeMap, time::Duration};

use history::nemesis::Exit;
use nix::sys::signal::Signal;

use super::{Cluster, ClusterError, io_error, log_tail, poll};
use crate::{
    disk::{Device, DiskEffects, DiskFault, DiskPlace, Disks, Image, LostWrites, NameDurability},
    network::Host,
    node::NodeName,
    process::Process,
};

/// How long a SIGKILL may take to reach every process of a tree.
const KILL_DELIVERY: Duration = Duration::from_millis(150);

/// How long a process has to exit because of errors of its disk.
const EXIT_DEADLINE: Duration = Duration::from_secs(3);

/// The same where it is not known how a program meets them: PostgreSQL first tries to recover, and may give up
/// seconds later.
const FOREIGN_EXIT_DEADLINE: Duration = Duration::from_secs(15);

/// How a time with a faulty disk ended.
#[derive(Clone, Debug)]
pub struct DiskFaultEnd {
    /// What came of the fault.
    pub effects: DiskEffects,
    /// How the node's process ended, if it did.
    pub exit: Option<Exit>,
}

impl Cluster {
    /// Gives each node a disk that can lose power and fail. Call it before the first start.
    ///
    /// # Errors
    /// The operating system refuses the mounts.
    pub async fn mount_disks(
        &mut self,
        places: BTreeMap<NodeName, DiskPlace>,
        names: NameDurability,
    ) -> Result<(), ClusterError> {
        let layouts = self.system.disk_layouts();
        let mounted = Disks::mount(&self.supervisor, places, names, layouts).await;
        self.disks = Some(mounted.map_err(io_error("cannot mount the nodes' disks"))?);
        Ok(())
    }

    /// Unmounts the nodes' disks, if they have any. Call it after the last node has exited.
    ///
    /// # Errors
    /// A disk is still in use.
    pub async fn unmount_disks(&self) -> Result<(), ClusterError> {
        let Some(disks) = &self.disks else { return Ok(()) };
        let unmounted = disks.unmount(&self.supervisor).await;
        unmounted.map_err(io_error("cannot unmount the nodes' disks"))
    }

    /// The disk of a node, if it can lose power.
    #[must_use]
    pub fn device(&self, node: &NodeName) -> Option<&Device> {
        self.disks.as_ref().map(|disks| disks.device(node))
    }

    /// Cuts the power of these nodes at the same moment: their processes are gone, and their disks
    /// have lost unsynced writes, all or a part chosen by the seed. In a virtual network no packet tells of it, and
    /// they are silent until they are started again. Returns what each disk lost.
    ///
    /// # Errors
    /// A disk cannot be mounted again.
    pub async fn lose_power(
        &self,
        nodes: &[NodeName],
        partial: Option<u64>,
    ) -> Result<BTreeMap<NodeName, LostWrites>, ClusterError> {
        let Some(disks) = &self.disks else { return Ok(BTreeMap::new()) };
        // Silent, or the kernel would tell every peer of the end of the processes.
        if let Some(network) = self.system.network() {
            let hosts: Vec<Host> = nodes.iter().cloned().map(Host::Node).collect();
            network.power_off(&hosts);
        }
        // All disks stop first, so that no node acts on another's absence before it loses its own.
        for node in nodes {
            disks.device(node).power_off();
        }
        let processes: Vec<_> = nodes.iter().filter_map(|node| self.process(node)).collect();
        for process in &processes {
            process.expect_exit();
            process.signal(Signal::SIGKILL);
        }
        futures::future::join_all(processes.iter().map(|process| delivered(process))).await;
        for node in nodes {
            disks.device(node).fail_requests();
        }
        for process in &processes {
            process.kill().await;
        }
        let mut lost = BTreeMap::new();
        for (node, n) in nodes.iter().zip(0..) {
            let partial = partial.map(|seed| seed.wrapping_add(n));
            let writes = disks.lose_power(&self.supervisor, node, partial).await;
            let writes = writes.map_err(io_error("cannot mount a disk again"))?;
            lost.insert(node.clone(), writes);
        }
        Ok(lost)
    }

    /// From now on something is wrong with a node's disk. If its process exits because of that, it is not
    /// recorded as unexpected: [`end_disk_fault`](Cluster::end_disk_fault) tells.
    pub fn begin_disk_fault(&self, node: &NodeName, fault: DiskFault) {
        if let Some(process) = self.process(node) {
            process.tolerate_exit(true);
        }
        if let Some(device) = self.device(node) {
            device.inject(fault);
        }
    }

    /// A node's disk is well again. If errors were answered that its process may end of, and `may_exit`, it
    /// has time to do so, until it is ready.
    pub async fn end_disk_fault(&self, node: &NodeName, may_exit: bool) -> DiskFaultEnd {
        let effects = self.device(node).map(Device::heal).unwrap_or_default();
        let mut exit = None;
        if let Some(process) = self.process(node) {
            let DiskEffects { refused, failed_writes, failed_syncs, .. } = effects;
            let is_foreign = !self.system.announces_address();
            let patience =
                match (may_exit && refused + failed_writes + failed_syncs > 0, is_foreign) {
                    (true, true) => FOREIGN_EXIT_DEADLINE,
                    (true, false) => EXIT_DEADLINE,
                    (false, _) => Duration::ZERO,
                };
            let has_exited = || process.state().exit_status().is_some();
            // A node of ours is ready all the time.
            poll(patience, || async {
                has_exited() || is_foreign && self.system.is_ready(node).await
            })
            .await;
            process.tolerate_exit(false);
            exit = process.state().exit_status().map(|status| {
                let tail = log_tail(&self.member(node).log, &self.scratch);
                let last_log_line = tail.lines().last().unwrap_or_default().trim().to_owned();
                Exit { status: status.to_string(), last_log_line }
            });
        }
        DiskFaultEnd { effects, exit }
    }

    /// The disks of all nodes are well again. A process cannot exit that waits for one that answers nothing.
    pub fn heal_disks(&self) {
        for device in self.nodes().iter().filter_map(|node| self.device(node)) {
            device.heal();
        }
    }

    /// Changes the disk of a node that does not run. The kernel forgets what it has read of it.
    ///
    /// # Errors
    /// The disk cannot be mounted again.
    pub async fn change_disk<T>(
        &self,
        node: &NodeName,
        change: impl FnOnce(&mut Image) -> T,
    ) -> Result<Option<T>, ClusterError> {
        let Some(disks) = &self.disks else { return Ok(None) };
        let changed = disks.change(&self.supervisor, node, change).await;
        changed.map(Some).map_err(io_error("cannot mount a disk again"))
    }
}

/// Waits until a SIGKILL has reached a process and all that it has started. They cannot exit while they wait
/// for a disk, but they do nothing any more.
pub(super) async fn delivered(process: &Process) {
    if process.is_keeper() {
        process.wait_until(KILL_DELIVERY, |state| state.exit_status().is_some()).await;
    }
}
