//! Carries a strike out: waits for its moment, does the harm, undoes it, and watches the cluster
//! come back. Records every step; decides nothing that the strike does not say.

use std::{collections::BTreeSet, io, time::Duration};

use serde_json::{Value as Json, json};
use system::protocol::{Node, TxnId};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{Harm, ROOM_MIN, Strike, Trigger};
use crate::{
    history::{Action, NemesisEvent, Recorder},
    runner::cluster::{Cluster, ClusterError},
    supervisor::State,
};

/// A node reaches an armed point within this time, or the strike has missed.
const REACH_DEADLINE: Duration = Duration::from_secs(4);

/// A node answers its control pipe within this time.
const DISARM_DEADLINE: Duration = Duration::from_secs(5);

/// What keeps the nemesis from its work.
#[derive(Debug, thiserror::Error)]
pub enum NemesisError {
    /// A node cannot be started again.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The history cannot be written.
    #[error("cannot write the history: {0}")]
    History(#[from] io::Error),
}

/// The hand that strikes.
pub struct Nemesis<'a> {
    /// Whom it strikes.
    pub cluster: &'a Cluster,
    /// Where it says so.
    pub recorder: &'a Recorder,
    /// True when the load ends: what is under way is brought to its end without delay.
    pub ending: watch::Receiver<bool>,
    /// After a strike the cluster is given this long to come back before the next.
    pub recovery_deadline: Duration,
}

impl Nemesis<'_> {
    /// Strikes until the load ends.
    ///
    /// # Errors
    /// A node cannot be started again, or the history cannot be written.
    pub async fn run(mut self, schedule: impl Iterator<Item = Strike>) -> Result<(), NemesisError> {
        for strike in schedule {
            if self.rest(strike.calm).await {
                break;
            }
            self.single(&strike).await?;
        }
        Ok(())
    }

    /// Carries a strike out, and watches the cluster come back.
    async fn single(&mut self, strike: &Strike) -> Result<(), NemesisError> {
        match self.strike(strike).await? {
            Some(doubted) => self.recovery(strike, &doubted).await,
            None => Ok(()),
        }
    }

    /// Does the harm and undoes it. The transactions in doubt at the time, or none if the strike
    /// missed.
    async fn strike(&mut self, strike: &Strike) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let node = strike.victim;
        let mut facts = json!({ "fault": strike.fault.name(), "node": node });
        let mut txn = None;
        let mut doubted = Vec::new();
        let lies = match &strike.trigger {
            Trigger::Point(point) => {
                facts["at"] = json!(point);
                match self.lure(node, point).await {
                    Ok(about) => txn = about,
                    Err(why) => {
                        facts["why"] = json!(why);
                        self.note("miss", &facts)?;
                        return Ok(None);
                    }
                }
                if let Some(txn) = txn {
                    facts["txn"] = json!(txn);
                }
                true
            }
            Trigger::Now => {
                let pause = matches!(strike.harm, Harm::Pause { .. });
                if pause && !self.cluster.pause(node).await {
                    facts["why"] = json!(format!("{node} does not run"));
                    self.note("miss", &facts)?;
                    return Ok(None);
                }
                pause
            }
        };
        if lies {
            doubted = self.doubt(txn, &mut facts).await;
        }
        match strike.harm {
            Harm::Kill { lies: lying, down } => {
                facts["lies_ms"] = millis(lying);
                facts["down_ms"] = millis(down);
                if !lying.is_zero() {
                    self.note("hold", &facts)?;
                    self.outage(lying, strike, &mut doubted).await?;
                }
                self.cluster.kill(node).await;
                if !lies {
                    doubted = self.doubt(txn, &mut facts).await;
                }
                self.note("kill", &facts)?;
                self.outage(down, strike, &mut doubted).await?;
                let mut after = json!({ "node": node });
                self.doubt(txn, &mut after).await;
                self.cluster.start(node).await?;
                self.note("restart", &after)?;
            }
            Harm::Pause { lies: lying } => {
                facts["lies_ms"] = millis(lying);
                self.note("pause", &facts)?;
                self.outage(lying, strike, &mut doubted).await?;
                let mut after = json!({ "node": node });
                self.doubt(txn, &mut after).await;
                self.cluster.resume(node).await;
                self.note("resume", &after)?;
            }
        }
        Ok(Some(doubted))
    }

    /// Leaves the victim as it is for a time, in which the second strike finds its place if there
    /// is one and there is room.
    async fn outage(
        &mut self,
        time: Duration,
        strike: &Strike,
        doubted: &mut Vec<TxnId>,
    ) -> Result<(), NemesisError> {
        let began = Instant::now();
        if let Some(second) = strike.meanwhile.as_deref().filter(|_| time >= ROOM_MIN)
            && !self.rest(second.calm).await
        {
            let also = Box::pin(self.strike(second)).await?;
            doubted.extend(also.unwrap_or_default());
        }
        self.rest(time.saturating_sub(began.elapsed())).await;
        Ok(())
    }

    /// Arms a point and waits until the node lies there; the transaction that it was about, if it
    /// said so. An error in words if it was not reached.
    async fn lure(&mut self, node: Node, point: &str) -> Result<Option<TxnId>, String> {
        let gone = || format!("{node} does not run");
        let process = self.cluster.process(node).ok_or_else(gone)?;
        process.arm(point).map_err(|_| gone())?;
        let settled = process.wait_until(REACH_DEADLINE, |state| {
            state.lies_at_point() || state.refused.is_some() || state.ended().is_some()
        });
        let state = tokio::select! {
            state = settled => state,
            _ = self.ending.wait_for(|ending| *ending) => None,
        };
        let state = match state {
            Some(state) => Some(state),
            // Too late, unless it gets there before it hears that it need not.
            None => process.disarm(DISARM_DEADLINE).await.map_err(|_| gone())?,
        };
        match state {
            Some(State { refused: Some(why), .. }) => Err(why),
            Some(state) if state.lies_at_point() => {
                let reached = state.reached.as_ref();
                Ok(reached.and_then(|at| at.detail("txn")).and_then(|txn| txn.parse().ok()))
            }
            Some(state) if state.ended().is_some() => Err(gone()),
            Some(_) => Err("it was not reached in time".to_owned()),
            None => Err(format!("{node} does not answer")),
        }
    }

    /// Adds to the facts how many replicas are in doubt: about this transaction, or about any if
    /// the strike is not about one. Returns all transactions in doubt anywhere.
    async fn doubt(&self, txn: Option<TxnId>, facts: &mut Json) -> Vec<TxnId> {
        let observed = self.cluster.observe(self.cluster.replicas()).await;
        let concerns = |(open, _): &(TxnId, _)| txn.is_none_or(|txn| *open == txn);
        let in_doubt: Vec<_> = observed
            .iter()
            .filter(|(_, observed)| observed.unsettled.iter().any(concerns))
            .map(|(node, _)| *node)
            .collect();
        facts["in_doubt"] = json!(in_doubt.len());
        facts["in_doubt_at"] = json!(in_doubt);
        let all: BTreeSet<_> = observed
            .values()
            .flat_map(|observed| observed.unsettled.iter().map(|(txn, _)| *txn))
            .chain(txn)
            .collect();
        all.into_iter().collect()
    }

    /// Watches the cluster come back, and records how long it took.
    async fn recovery(&self, strike: &Strike, doubted: &[TxnId]) -> Result<(), NemesisError> {
        let started = Instant::now();
        let resolved = self.cluster.until_resolved(doubted, self.recovery_deadline).await;
        let left = self.recovery_deadline.saturating_sub(started.elapsed());
        let ready = self.cluster.until_ready(left).await.map(|_| started.elapsed());
        self.note(
            "recovered",
            &json!({
                "fault": strike.fault.name(),
                "node": strike.victim,
                "in_doubt": doubted.len(),
                "resolved_ms": resolved.map(millis),
                "ready_ms": ready.map(millis),
            }),
        )
    }

    fn note(&self, f: &str, value: &Json) -> Result<(), NemesisError> {
        let event = NemesisEvent { f: f.to_owned(), value: value.clone() };
        self.recorder.record(Action::Nemesis(event))?;
        Ok(())
    }

    /// Waits, but not beyond the end of the load; says whether the load ends.
    async fn rest(&mut self, time: Duration) -> bool {
        let _ = timeout(time, self.ending.wait_for(|ending| *ending)).await;
        *self.ending.borrow()
    }
}

/// Milliseconds, as events carry them.
fn millis(time: Duration) -> Json {
    json!(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
