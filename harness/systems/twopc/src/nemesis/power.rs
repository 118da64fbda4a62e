//! The actions against the nodes' disks: holding a disk at a point, and power loss.

use std::{collections::BTreeMap, time::Duration};

use history::{
    NemesisEvent,
    nemesis::{self, InDoubt, Injected, InjectionKind, ReturnKind, Returned},
};
use lab::disk::{Access, LostWrites, Side};
use system::{
    node::Role,
    protocol::{Node, TxnId},
};
use tokio::time::timeout;

use super::{
    Nemesis, NemesisError, described, millis,
    trigger::{Miss, REACH_DEADLINE, Triggered},
};
use crate::{
    disk::DiskPoint,
    faults::{Injection, PowerLossScope, Precondition},
};

/// How long a restarted node has to make its first sync.
const FIRST_SYNC_DEADLINE: Duration = Duration::from_secs(5);

impl Nemesis<'_> {
    /// Waits until the disk of a node holds a request at a point: a request of the restarted node if
    /// that is the precondition. The inner error says why the point was not reached.
    pub(super) async fn reach_disk_point(
        &mut self,
        node: Node,
        point: DiskPoint,
        precondition: Precondition,
    ) -> Result<Result<(), Miss>, NemesisError> {
        let restart = precondition == Precondition::RestartTarget;
        if restart {
            self.cluster.kill(node).await;
            if let Some(device) = self.cluster.device(node) {
                device.arm(point.at);
            }
            self.cluster.start(node).await?;
        }
        Ok(self.until_held(node, point, restart).await)
    }

    /// Waits until the disk of a running node holds a request. `armed`: the point is armed already.
    async fn until_held(&mut self, node: Node, point: DiskPoint, armed: bool) -> Result<(), Miss> {
        let device = self.cluster.device(node).ok_or(Miss::NoDisks)?;
        let process = self.cluster.process(node).ok_or(Miss::NotRunning(node))?;
        if process.state().exit_status().is_some() {
            return Err(Miss::NotRunning(node));
        }
        if !armed {
            device.arm(point.at);
        }
        let mut states = process.subscribe();
        let reached = tokio::select! {
            () = device.until_reached() => true,
            () = tokio::time::sleep(REACH_DEADLINE) => false,
            _ = states.wait_for(|state| state.exit_status().is_some()) => false,
            _ = self.load_ended.wait_for(|ended| *ended) => false,
        };
        // Disarming tells whether the point was reached at the last moment.
        if reached || device.disarm() { Ok(()) } else { Err(self.why_not_reached()) }
    }

    /// Cuts the power of the target, and of other nodes with it, and restarts them.
    pub(super) async fn power_loss(
        &mut self,
        injection: &Injection,
        triggered: Triggered,
        mut fields: Injected,
        (paused, down): (Duration, Duration),
        (scope, partial): (PowerLossScope, Option<u64>),
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let Triggered { stopped, txn, held } = triggered;
        if self.cluster.device(injection.target).is_none() {
            self.missed(injection, fields, None, "the disks cannot lose power")?;
            return Ok(None);
        }
        let nodes = self.nodes_in(scope, injection.target);
        let mut in_doubt = Vec::new();
        if stopped {
            (fields.in_doubt, in_doubt) = self.observe_in_doubt(txn).await;
        }
        fields.paused_ms = Some(millis(paused));
        fields.down_ms = Some(millis(down));
        if !paused.is_zero() {
            self.injected(InjectionKind::Hold, &fields)?;
            self.outage(paused, injection, &mut in_doubt).await?;
        }
        let lost = self.cluster.lose_power(&nodes, partial).await?;
        if !stopped {
            (fields.in_doubt, in_doubt) = self.observe_in_doubt(txn).await;
        }
        describe(&mut fields, &lost, partial);
        self.injected(InjectionKind::PowerLoss, &fields)?;
        self.outage(down, injection, &mut in_doubt).await?;
        let (before, _) = self.observe_in_doubt(txn).await;
        for node in &nodes {
            self.cluster.start(*node).await?;
        }
        let restarted = Returned {
            node: Some(injection.target.to_string()),
            nodes: nodes.iter().map(ToString::to_string).collect(),
            in_doubt: before,
        };
        self.record(NemesisEvent::Returned(ReturnKind::Restart, restarted))?;
        self.release(injection, held).await?;
        Ok(Some(in_doubt))
    }

    /// The nodes that lose power, in the order in which they are started.
    fn nodes_in(&self, scope: PowerLossScope, target: Node) -> Vec<Node> {
        let loses_power = |node: &Node| match scope {
            PowerLossScope::Target => *node == target,
            PowerLossScope::Replicas => *node == target || *node != Node::Master,
            PowerLossScope::Cluster => true,
        };
        self.cluster.nodes().filter(loses_power).collect()
    }

    /// Kills the target and restarts it, and cuts its power when the new process makes its first
    /// sync: what the killed process left unsynced is then lost after all.
    pub(super) async fn power_loss_on_restart(
        &mut self,
        injection: &Injection,
        mut fields: Injected,
        (paused, down): (Duration, Duration),
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let node = injection.target;
        let (observed, mut in_doubt) = self.observe_in_doubt(None).await;
        fields.in_doubt = observed;
        self.cluster.kill(node).await;
        self.injected(InjectionKind::Kill, &fields)?;
        let first_sync = DiskPoint::of_wal(Role::from(node), Side::Before, Access::Sync);
        if let Some(device) = self.cluster.device(node) {
            device.arm(first_sync.at);
        }
        self.cluster.start(node).await?;
        self.returned(ReturnKind::Restart, node, InDoubt::default())?;
        let Some(device) = self.cluster.device(node) else { return Ok(Some(in_doubt)) };
        let held = timeout(FIRST_SYNC_DEADLINE, device.until_reached()).await.is_ok();
        if held || device.disarm() {
            let mut fields = described(injection);
            fields.at = Some(first_sync.to_string());
            let (observed, more) = self.observe_in_doubt(None).await;
            fields.in_doubt = observed;
            in_doubt.extend(more);
            fields.paused_ms = Some(millis(paused));
            fields.down_ms = Some(millis(down));
            // A node that acts before its first sync is durable has time to do so.
            self.wait(paused).await;
            let lost = self.cluster.lose_power(&[node], None).await?;
            describe(&mut fields, &lost, None);
            self.injected(InjectionKind::PowerLoss, &fields)?;
            self.wait(down).await;
            self.cluster.start(node).await?;
            self.returned(ReturnKind::Restart, node, InDoubt::default())?;
        }
        Ok(Some(in_doubt))
    }
}

/// Adds to an event's fields what was lost.
pub(super) fn describe(
    fields: &mut Injected,
    lost: &BTreeMap<Node, LostWrites>,
    partial: Option<u64>,
) {
    let described = |(node, lost): (&Node, &LostWrites)| {
        let pages = lost.pages.iter().map(|(file, pages)| (file.clone(), *pages as u64)).collect();
        let (entries, kept) = (lost.entries as u64, lost.kept as u64);
        (node.to_string(), nemesis::LostWrites { pages, entries, kept })
    };
    fields.nodes = lost.keys().map(ToString::to_string).collect();
    fields.partial = Some(partial.is_some());
    fields.dropped = lost.iter().map(described).collect();
}
