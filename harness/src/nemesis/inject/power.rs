//! The part of the hand that reaches into the nodes' disks: holds them at a point, and cuts their
//! power.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value as Json, json};
use system::protocol::{Node, TxnId};
use tokio::time::timeout;

use super::{Moment, Nemesis, NemesisError, REACH_DEADLINE, millis};
use crate::{
    disk::{DiskPoint, Dropped},
    nemesis::{Injection, Precondition, Whom},
};

/// A restart makes its first sync within this time.
const FIRST_SYNC_DEADLINE: Duration = Duration::from_secs(5);

impl Nemesis<'_> {
    /// Waits until the disk of a node holds a request at a point, of a restart if that is the precondition.
    /// An error in words if it was not reached.
    pub(super) async fn hold(
        &mut self,
        node: Node,
        point: DiskPoint,
        precondition: Precondition,
    ) -> Result<Result<(), String>, NemesisError> {
        if precondition == Precondition::RestartVictim {
            self.cluster.kill(node).await;
            if let Some(device) = self.cluster.device(node) {
                device.arm(point);
            }
            self.cluster.start(node).await?;
        }
        Ok(self.held(node, point, precondition == Precondition::RestartVictim).await)
    }

    /// The same, of a node that runs; whether the point is armed already.
    async fn held(&mut self, node: Node, point: DiskPoint, armed: bool) -> Result<(), String> {
        let gone = || format!("{node} does not run");
        let device = self.cluster.device(node).ok_or("the disks cannot be held")?;
        let process = self.cluster.process(node).ok_or_else(gone)?;
        if process.state().ended().is_some() {
            return Err(gone());
        }
        if !armed {
            device.arm(point);
        }
        let mut follow = process.follow();
        let reached = tokio::select! {
            () = device.until_reached() => true,
            () = tokio::time::sleep(REACH_DEADLINE) => false,
            _ = follow.wait_for(|state| state.ended().is_some()) => false,
            _ = self.ending.wait_for(|ending| *ending) => false,
        };
        // It may have been reached just now.
        if reached || device.disarm() { Ok(()) } else { Err(self.too_late()) }
    }

    /// Why a point was not reached, in words.
    pub(super) fn too_late(&self) -> String {
        if *self.ending.borrow() { super::ENDED } else { super::NOT_REACHED }.to_owned()
    }

    pub(super) async fn cut(
        &mut self,
        strike: &Injection,
        moment: Moment,
        mut facts: Json,
        (lying, down): (Duration, Duration),
        (whom, part): (Whom, Option<u64>),
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        if self.cluster.device(strike.target).is_none() {
            facts["why"] = json!("the disks cannot lose power");
            self.note("miss", &facts)?;
            return Ok(None);
        }
        let nodes: Vec<_> = match whom {
            Whom::Target => vec![strike.target],
            Whom::Replicas => self.cluster.replicas().chain([strike.target]).collect(),
            Whom::Everyone => self.cluster.nodes().collect(),
        };
        let nodes: Vec<_> = self.cluster.nodes().filter(|node| nodes.contains(node)).collect();
        let mut doubted = Vec::new();
        if moment.lies {
            doubted = self.unknown(moment.txn, &mut facts).await;
        }
        facts["lies_ms"] = millis(lying);
        facts["down_ms"] = millis(down);
        if !lying.is_zero() {
            self.note("hold", &facts)?;
            self.outage(lying, strike, &mut doubted).await?;
        }
        let dropped = self.cluster.cut(&nodes, part).await?;
        if !moment.lies {
            doubted = self.unknown(moment.txn, &mut facts).await;
        }
        tell(&mut facts, &dropped, part);
        self.note("power-loss", &facts)?;
        self.outage(down, strike, &mut doubted).await?;
        let mut after = json!({ "node": strike.target, "nodes": nodes });
        self.unknown(moment.txn, &mut after).await;
        for node in nodes {
            self.cluster.start(node).await?;
        }
        self.note("restart", &after)?;
        self.release(strike, moment.snare).await?;
        Ok(Some(doubted))
    }

    /// Kills the target where it is, and cuts its power when its next start makes its first sync:
    /// what the kill left and no sync covered is then gone after all.
    pub(super) async fn relapse(
        &mut self,
        strike: &Injection,
        mut facts: Json,
        (lying, down): (Duration, Duration),
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let node = strike.target;
        let mut doubted = self.unknown(None, &mut facts).await;
        self.cluster.kill(node).await;
        self.note("kill", &facts)?;
        let role = system::node::Role::from(node).name();
        let point = format!("{role}:before-disk-sync:log");
        if let (Some(device), Ok(point)) = (self.cluster.device(node), point.parse()) {
            device.arm(point);
        }
        self.cluster.start(node).await?;
        self.note("restart", &json!({ "node": node }))?;
        let Some(device) = self.cluster.device(node) else { return Ok(Some(doubted)) };
        let held = timeout(FIRST_SYNC_DEADLINE, device.until_reached()).await.is_ok();
        if held || device.disarm() {
            let mut facts = json!({ "fault": strike.fault.name(), "node": node, "at": point });
            doubted.extend(self.unknown(None, &mut facts).await);
            facts["lies_ms"] = millis(lying);
            facts["down_ms"] = millis(down);
            // Time for a node that acts too early to do so.
            self.rest(lying).await;
            let dropped = self.cluster.cut(&[node], None).await?;
            tell(&mut facts, &dropped, None);
            self.note("power-loss", &facts)?;
            self.rest(down).await;
            self.cluster.start(node).await?;
            self.note("restart", &json!({ "node": node }))?;
        }
        Ok(Some(doubted))
    }
}

/// Adds to the facts what was lost.
fn tell(facts: &mut Json, dropped: &BTreeMap<Node, Dropped>, part: Option<u64>) {
    let lost = |(node, lost): (&Node, &Dropped)| {
        let told = json!({ "pages": lost.pages, "entries": lost.entries, "kept": lost.kept });
        (node.to_string(), told)
    };
    facts["nodes"] = json!(dropped.keys().collect::<Vec<_>>());
    facts["in_part"] = json!(part.is_some());
    facts["dropped"] = Json::Object(dropped.iter().map(lost).collect());
}
