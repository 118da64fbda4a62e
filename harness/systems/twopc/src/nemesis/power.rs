//! The actions against the nodes' disks: holding a disk at a point, and power loss.

use std::{collections::BTreeMap, time::Duration};

use lab::disk::LostWrites;
use serde_json::{Value as Json, json};
use system::protocol::{Node, TxnId};
use tokio::time::timeout;

use super::{
    Nemesis, NemesisError, millis,
    trigger::{REACH_DEADLINE, Triggered},
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
    ) -> Result<Result<(), String>, NemesisError> {
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
    async fn until_held(
        &mut self,
        node: Node,
        point: DiskPoint,
        armed: bool,
    ) -> Result<(), String> {
        let gone = || format!("{node} is not running");
        let device = self.cluster.device(node).ok_or("the disks cannot be held")?;
        let process = self.cluster.process(node).ok_or_else(gone)?;
        if process.state().exit_status().is_some() {
            return Err(gone());
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
        mut fields: Json,
        (paused, down): (Duration, Duration),
        (scope, partial): (PowerLossScope, Option<u64>),
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let Triggered { stopped, txn, held } = triggered;
        if self.cluster.device(injection.target).is_none() {
            fields["why"] = json!("the disks cannot lose power");
            self.record("miss", &fields)?;
            return Ok(None);
        }
        let nodes = self.nodes_in(scope, injection.target);
        let mut in_doubt = Vec::new();
        if stopped {
            in_doubt = self.observe_in_doubt(txn, &mut fields).await;
        }
        fields["paused_ms"] = millis(paused);
        fields["down_ms"] = millis(down);
        if !paused.is_zero() {
            self.record("hold", &fields)?;
            self.outage(paused, injection, &mut in_doubt).await?;
        }
        let lost = self.cluster.lose_power(&nodes, partial).await?;
        if !stopped {
            in_doubt = self.observe_in_doubt(txn, &mut fields).await;
        }
        describe(&mut fields, &lost, partial);
        self.record("power-loss", &fields)?;
        self.outage(down, injection, &mut in_doubt).await?;
        let mut restarted = json!({ "node": injection.target, "nodes": nodes });
        self.observe_in_doubt(txn, &mut restarted).await;
        for node in nodes {
            self.cluster.start(node).await?;
        }
        self.record("restart", &restarted)?;
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
        mut fields: Json,
        (paused, down): (Duration, Duration),
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let node = injection.target;
        let mut in_doubt = self.observe_in_doubt(None, &mut fields).await;
        self.cluster.kill(node).await;
        self.record("kill", &fields)?;
        let role = system::node::Role::from(node).name();
        let point = format!("{role}:before-disk-sync:log");
        if let (Some(device), Ok(DiskPoint { at, .. })) = (self.cluster.device(node), point.parse())
        {
            device.arm(at);
        }
        self.cluster.start(node).await?;
        self.record("restart", &json!({ "node": node }))?;
        let Some(device) = self.cluster.device(node) else { return Ok(Some(in_doubt)) };
        let held = timeout(FIRST_SYNC_DEADLINE, device.until_reached()).await.is_ok();
        if held || device.disarm() {
            let mut fields = json!({ "fault": injection.fault.name(), "node": node, "at": point });
            in_doubt.extend(self.observe_in_doubt(None, &mut fields).await);
            fields["paused_ms"] = millis(paused);
            fields["down_ms"] = millis(down);
            // A node that acts before its first sync is durable has time to do so.
            self.wait(paused).await;
            let lost = self.cluster.lose_power(&[node], None).await?;
            describe(&mut fields, &lost, None);
            self.record("power-loss", &fields)?;
            self.wait(down).await;
            self.cluster.start(node).await?;
            self.record("restart", &json!({ "node": node }))?;
        }
        Ok(Some(in_doubt))
    }
}

/// Adds to an event's fields what was lost.
fn describe(fields: &mut Json, lost: &BTreeMap<Node, LostWrites>, partial: Option<u64>) {
    let described = |(node, lost): (&Node, &LostWrites)| {
        let writes = json!({ "pages": lost.pages, "entries": lost.entries, "kept": lost.kept });
        (node.to_string(), writes)
    };
    fields["nodes"] = json!(lost.keys().collect::<Vec<_>>());
    fields["partial"] = json!(partial.is_some());
    fields["dropped"] = Json::Object(lost.iter().map(described).collect());
}
