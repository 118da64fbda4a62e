//! The nodes' disks, and the loss of power.

use std::{collections::BTreeMap, path::PathBuf};

use nix::sys::signal::Signal;

use super::{Cluster, ClusterError, io_error};
use crate::{
    disk::{Device, Disks, LostWrites},
    node::NodeName,
};

impl Cluster {
    /// Gives each node a disk that can lose power, mounted at a directory. Call it before the first
    /// start.
    ///
    /// # Errors
    /// The operating system refuses the mounts.
    pub async fn mount_disks(
        &mut self,
        directories: BTreeMap<NodeName, PathBuf>,
    ) -> Result<(), ClusterError> {
        let layouts = self.system.disk_layouts();
        let mounted = Disks::mount(&self.supervisor, directories, layouts).await;
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
    /// have lost unsynced writes, all or a part chosen by the seed. Returns what each disk lost.
    ///
    /// # Errors
    /// A disk cannot be mounted again.
    pub async fn lose_power(
        &self,
        nodes: &[NodeName],
        partial: Option<u64>,
    ) -> Result<BTreeMap<NodeName, LostWrites>, ClusterError> {
        let Some(disks) = &self.disks else { return Ok(BTreeMap::new()) };
        // All disks stop first, so that no node acts on another's absence before it loses its own.
        for node in nodes {
            disks.device(node).power_off();
        }
        let processes: Vec<_> = nodes.iter().filter_map(|node| self.process(node)).collect();
        for process in &processes {
            process.expect_exit();
            process.signal(Signal::SIGKILL);
        }
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
}
