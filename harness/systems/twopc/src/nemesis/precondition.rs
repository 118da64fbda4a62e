//! Brings a node to a crash point: arms the point, and creates the situation that rare points need.

use std::time::Duration;

use futures::future::select_all;
use lab::process::ProcessState;
use system::{
    node::{Point, Role, Side, Site},
    protocol::{Node, TxnId},
};
use tokio::time::Instant;

use super::{
    Nemesis, NemesisError,
    trigger::{Miss, REACH_DEADLINE},
};
use crate::faults::Precondition;

/// The master's point after it has sent Prepare to one replica and not to the others.
const FIRST_PREPARE: Point =
    Point { role: Role::Master, side: Side::After, site: Site::Send, kind: "prepare", n: 1 };

/// Longer than three unanswered inquiries of a replica and the answer of its peers.
const PEER_INQUIRY_TIME: Duration = Duration::from_millis(2_600);

/// How long a node has to confirm that it disarmed a point.
const DISARM_DEADLINE: Duration = Duration::from_secs(5);

/// The node that reached a point and the transaction that it reported, or why none did.
type Reached = Result<(Node, Option<TxnId>), Miss>;

impl Nemesis<'_> {
    /// Waits until the target, or another node in its place, has stopped at a point.
    pub(super) async fn reach_point(
        &mut self,
        target: Node,
        point: Point,
        precondition: Precondition,
    ) -> Result<Reached, NemesisError> {
        match precondition {
            Precondition::Load => {
                Ok(self.arm_and_wait(target, point).await.map(|txn| (target, txn)))
            }
            Precondition::RestartTarget => {
                self.cluster.kill(target).await;
                self.cluster.start_armed(target, Some(&point.to_string())).await?;
                Ok(self.first_stopped(&[target], REACH_DEADLINE).await)
            }
            Precondition::RestartMaster => {
                self.cluster.kill(Node::Master).await;
                let armed = self.arm(&[target], point);
                self.cluster.start(Node::Master).await?;
                match armed {
                    Ok(()) => Ok(self.first_stopped(&[target], REACH_DEADLINE).await),
                    Err(miss) => Ok(Err(miss)),
                }
            }
            Precondition::VoteTimeout => Ok(self.reach_by_vote_timeout(target, point).await),
            Precondition::PeerInquiry => Ok(self.reach_by_peer_inquiry(target, point).await),
        }
    }

    /// Pauses another replica, so that its vote is missing.
    async fn reach_by_vote_timeout(&mut self, target: Node, point: Point) -> Reached {
        let Some(other) = self.cluster.replicas().find(|node| *node != target) else {
            return Err(Miss::NoOtherReplica);
        };
        self.arm(&[target], point)?;
        self.cluster.pause(other).await;
        let reached = self.first_stopped(&[target], REACH_DEADLINE).await;
        self.cluster.resume(other).await;
        reached
    }

    /// Pauses the master after it has sent Prepare to one replica, until that replica has asked its
    /// peers and they have refused for good. Then the master continues and asks them too.
    async fn reach_by_peer_inquiry(&mut self, target: Node, point: Point) -> Reached {
        self.arm_and_wait(Node::Master, FIRST_PREPARE).await?;
        let reached = if target == Node::Master {
            self.wait(PEER_INQUIRY_TIME).await;
            self.arm(&[target], point)?;
            self.cluster.resume(target).await;
            self.first_stopped(&[target], REACH_DEADLINE).await
        } else {
            let replicas: Vec<_> = self.cluster.replicas().collect();
            self.arm(&replicas, point)?;
            let started = Instant::now();
            let reached = self.first_stopped(&replicas, PEER_INQUIRY_TIME).await;
            if reached.is_ok() {
                reached
            } else {
                // The point may be reached when the master continues.
                self.arm(&replicas, point)?;
                self.wait(PEER_INQUIRY_TIME.saturating_sub(started.elapsed())).await;
                self.cluster.resume(Node::Master).await;
                self.first_stopped(&replicas, REACH_DEADLINE).await
            }
        };
        self.cluster.resume(Node::Master).await;
        reached
    }

    /// Arms a point and waits until the node has stopped there. Returns the transaction that the node
    /// reported; the error says why the point was not reached.
    async fn arm_and_wait(&mut self, node: Node, point: Point) -> Result<Option<TxnId>, Miss> {
        self.arm(&[node], point)?;
        self.first_stopped(&[node], REACH_DEADLINE).await.map(|(_, txn)| txn)
    }

    /// Arms a point at these nodes.
    fn arm(&self, nodes: &[Node], point: Point) -> Result<(), Miss> {
        for node in nodes {
            let gone = Miss::NotRunning(*node);
            let process = self.cluster.process(*node).ok_or_else(|| gone.clone())?;
            process.arm(&point.to_string()).map_err(|_| gone)?;
        }
        Ok(())
    }

    /// Waits until one of the nodes has stopped at the point that is armed at all of them. At the
    /// others it is disarmed, and those that have reached it as well continue.
    async fn first_stopped(&mut self, nodes: &[Node], deadline: Duration) -> Reached {
        let processes: Vec<_> =
            nodes.iter().filter_map(|node| Some((*node, self.cluster.process(*node)?))).collect();
        if processes.is_empty() {
            return Err(Miss::NoneRunning);
        }
        let waits = processes.iter().map(|(node, process)| {
            Box::pin(async move { process.wait_until(deadline, decided).await.map(|_| *node) })
        });
        let first = tokio::select! {
            (first, ..) = select_all(waits) => first,
            _ = self.load_ended.wait_for(|ended| *ended) => None,
        };
        let mut reached = Err(self.why_not_reached());
        for (node, process) in processes {
            let mut state = process.state();
            if !decided(&state) {
                // The node may still reach the point before it reads that it is disarmed.
                state = match process.disarm(DISARM_DEADLINE).await {
                    Ok(Some(state)) => state,
                    Ok(None) => return Err(Miss::NoAnswer(node)),
                    Err(_) => return Err(Miss::NotRunning(node)),
                };
            }
            if let Some(why) = state.arm_error {
                reached = Err(Miss::NotArmed(why));
            } else if let (true, Some(point)) = (state.is_stopped_at_point(), &state.reached) {
                if reached.is_ok() || first.is_some_and(|first| first != node) {
                    self.cluster.resume(node).await;
                } else {
                    let txn = point.detail("txn").and_then(|txn| txn.parse().ok());
                    reached = Ok((node, txn));
                }
            } else if state.exit_status().is_some() && nodes.len() == 1 {
                reached = Err(Miss::NotRunning(node));
            }
        }
        reached
    }
}

/// Whether it is known what becomes of an armed point.
fn decided(state: &ProcessState) -> bool {
    state.is_stopped_at_point() || state.arm_error.is_some() || state.exit_status().is_some()
}
