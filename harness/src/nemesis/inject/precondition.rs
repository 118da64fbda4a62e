//! How the nemesis brings about what a rare point takes: it restarts who passes it at its start,
//! keeps a vote waiting, or leaves replicas alone with their unknown_because.

use std::time::Duration;

use futures::future::select_all;
use system::protocol::{Node, TxnId};
use tokio::time::Instant;

use super::{DISARM_DEADLINE, Nemesis, NemesisError, REACH_DEADLINE};
use crate::{nemesis::Precondition, supervisor::State};

/// Where the master stops when one replica has been asked to prepare and the others have not.
const FIRST_PREPARE: &str = "master:after-send:prepare";

/// Beyond the third unanswered inquiry of a replica, and the answer of its peers.
const PEERS_ASKED: Duration = Duration::from_millis(2_600);

/// Who reached a point, and about which transaction, or why nobody has.
type Caught = Result<(Node, Option<TxnId>), String>;

impl Nemesis<'_> {
    /// Has the target, or one like it, reach a point.
    pub(super) async fn entice(
        &mut self,
        target: Node,
        point: &str,
        precondition: Precondition,
    ) -> Result<Caught, NemesisError> {
        match precondition {
            Precondition::Load => Ok(self.lure(target, point).await.map(|txn| (target, txn))),
            Precondition::RestartVictim => {
                self.cluster.kill(target).await;
                self.cluster.start_armed(target, Some(point)).await?;
                Ok(self.first_of(&[target], REACH_DEADLINE).await)
            }
            Precondition::RestartMaster => {
                self.cluster.kill(Node::Master).await;
                let armed = self.arm(&[target], point);
                self.cluster.start(Node::Master).await?;
                match armed {
                    Ok(()) => Ok(self.first_of(&[target], REACH_DEADLINE).await),
                    Err(why) => Ok(Err(why)),
                }
            }
            Precondition::Straggler => {
                let Some(other) = self.cluster.replicas().find(|node| *node != target) else {
                    return Ok(Err("there is no other replica".to_owned()));
                };
                if let Err(why) = self.arm(&[target], point) {
                    return Ok(Err(why));
                }
                self.cluster.pause(other).await;
                let caught = self.first_of(&[target], REACH_DEADLINE).await;
                self.cluster.resume(other).await;
                Ok(caught)
            }
            Precondition::Orphans => Ok(self.orphans(target, point).await),
        }
    }

    /// The master lies when it has asked one replica to prepare, until that one has asked the
    /// others and they have refused for good; then it goes on, and asks them too.
    async fn orphans(&mut self, target: Node, point: &str) -> Caught {
        self.lure(Node::Master, FIRST_PREPARE).await?;
        let caught = if target == Node::Master {
            self.rest(PEERS_ASKED).await;
            self.arm(&[target], point)?;
            self.cluster.resume(target).await;
            self.first_of(&[target], REACH_DEADLINE).await
        } else {
            let all: Vec<_> = self.cluster.replicas().collect();
            self.arm(&all, point)?;
            let began = Instant::now();
            let caught = self.first_of(&all, PEERS_ASKED).await;
            if caught.is_ok() {
                caught
            } else {
                // What comes of it when the master goes on.
                self.arm(&all, point)?;
                self.rest(PEERS_ASKED.saturating_sub(began.elapsed())).await;
                self.cluster.resume(Node::Master).await;
                self.first_of(&all, REACH_DEADLINE).await
            }
        };
        self.cluster.resume(Node::Master).await;
        caught
    }

    /// Arms a point and waits until the node lies there; the transaction that it was about, if it
    /// said so. An error in words if it was not reached.
    async fn lure(&mut self, node: Node, point: &str) -> Result<Option<TxnId>, String> {
        self.arm(&[node], point)?;
        self.first_of(&[node], REACH_DEADLINE).await.map(|(_, txn)| txn)
    }

    /// Arms a point at some nodes.
    fn arm(&self, nodes: &[Node], point: &str) -> Result<(), String> {
        for node in nodes {
            let gone = || format!("{node} does not run");
            let process = self.cluster.process(*node).ok_or_else(gone)?;
            process.arm(point).map_err(|_| gone())?;
        }
        Ok(())
    }

    /// Waits until one of the nodes lies at the point that is armed at all of them; at the others
    /// it is taken back, and those that have reached it as well go on.
    async fn first_of(&mut self, nodes: &[Node], deadline: Duration) -> Caught {
        let processes: Vec<_> =
            nodes.iter().filter_map(|node| Some((*node, self.cluster.process(*node)?))).collect();
        if processes.is_empty() {
            return Err("nobody runs".to_owned());
        }
        let waits = processes.iter().map(|(node, process)| {
            Box::pin(async move { process.wait_until(deadline, settled).await.map(|_| *node) })
        });
        let first = tokio::select! {
            (first, ..) = select_all(waits) => first,
            _ = self.ending.wait_for(|ending| *ending) => None,
        };
        let mut caught = Err(self.too_late());
        for (node, process) in processes {
            let gone = || format!("{node} does not run");
            let mut state = process.state();
            if !settled(&state) {
                // Too late, unless it gets there before it hears that it need not.
                state = match process.disarm(DISARM_DEADLINE).await {
                    Ok(Some(state)) => state,
                    Ok(None) => return Err(format!("{node} does not answer")),
                    Err(_) => return Err(gone()),
                };
            }
            if let Some(why) = state.refused {
                caught = Err(why);
            } else if let (true, Some(reached)) = (state.lies_at_point(), &state.reached) {
                if caught.is_ok() || first.is_some_and(|first| first != node) {
                    self.cluster.resume(node).await;
                } else {
                    let txn = reached.detail("txn").and_then(|txn| txn.parse().ok());
                    caught = Ok((node, txn));
                }
            } else if state.ended().is_some() && nodes.len() == 1 {
                caught = Err(gone());
            }
        }
        caught
    }
}

/// Whether it is clear what becomes of an armed point.
fn settled(state: &State) -> bool {
    state.lies_at_point() || state.refused.is_some() || state.ended().is_some()
}
