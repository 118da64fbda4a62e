//! Carries a strike out: waits for its moment, does the action, undoes it, and watches the cluster
//! come back. Records every step; decides nothing that the strike does not say.

use std::{collections::BTreeSet, io, time::Duration};

use serde_json::{Value as Json, json};
use system::protocol::TxnId;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{FaultAction, Injection, ROOM_MIN, Schedule, Trigger};
use crate::{
    history::{Action, NemesisEvent, Recorder},
    network::{Deed, InterceptRule, Network, Pattern},
    runner::cluster::{Attempt, Cluster, ClusterError, Trial},
};

mod power;
mod precondition;

/// A node reaches an armed point within this time, or the strike has missed.
const REACH_DEADLINE: Duration = Duration::from_secs(4);

/// A message of the kind that is waited for is sent within this time, or the strike has missed.
const MESSAGE_DEADLINE: Duration = Duration::from_millis(1_500);

/// A node answers its control pipe within this time.
const DISARM_DEADLINE: Duration = Duration::from_secs(5);

/// Why a strike missed: the point was not passed.
const NOT_REACHED: &str = "it was not reached in time";

/// Why a strike missed: the run came to its end before.
const ENDED: &str = "the load ended before it was reached";

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

/// Messages that were held have this long to reach their receiver before it is continued.
const RELEASE_DEADLINE: Duration = Duration::from_millis(300);

/// After a message was held, what was sent beside it has this long to arrive before the target is
/// stopped.
const BESIDE: Duration = Duration::from_millis(20);

/// A hand of the nemesis.
pub struct Nemesis<'a> {
    /// Whom it strikes.
    pub cluster: &'a Cluster,
    /// The network between the nodes, if it is in the harness's lanes.
    pub network: Option<&'a Network>,
    /// Where it says so.
    pub recorder: &'a Recorder,
    /// True when the load ends: what is under way is brought to its end without delay.
    pub ending: watch::Receiver<bool>,
    /// After a strike the cluster is given this long to come back before the next; none if it is
    /// not waited for.
    pub recovery_deadline: Option<Duration>,
}

/// The moment at which a strike begins.
#[derive(Default)]
struct Moment {
    /// The target lies stopped, or its disk is held.
    lies: bool,
    /// The transaction that it is about.
    txn: Option<TxnId>,
    /// A message is held.
    snare: Option<InterceptRule>,
}

impl Nemesis<'_> {
    /// Strikes until the load ends.
    ///
    /// # Errors
    /// A node cannot be started again, or the history cannot be written.
    pub async fn run(mut self, mut schedule: Schedule) -> Result<(), NemesisError> {
        while let Some(strike) = schedule.next() {
            if self.rest(strike.calm).await {
                break;
            }
            let struck = self.single(&strike).await?;
            schedule.report(strike.fault, struck);
        }
        Ok(())
    }

    /// Carries a strike out, and watches the cluster come back; says whether it found its mark.
    async fn single(&mut self, strike: &Injection) -> Result<bool, NemesisError> {
        let Some(mut doubted) = self.strike(strike).await? else { return Ok(false) };
        if let Some(then) = &strike.then
            && !self.rest(then.calm).await
        {
            doubted.extend(self.strike(then).await?.unwrap_or_default());
        }
        if let Some(deadline) = self.recovery_deadline.filter(|_| !strike.hasty) {
            self.recovery(strike, &doubted, deadline).await?;
        }
        Ok(true)
    }

    /// Does the action and undoes it. The transactions in doubt at the time, or none if the strike
    /// missed.
    async fn strike(&mut self, strike: &Injection) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let mut facts = json!({ "fault": strike.fault.name(), "node": strike.target });
        // Whom it hits may turn out only when somebody has reached the point.
        let strike = &mut strike.clone();
        let moment = match self.moment(strike, &mut facts).await? {
            Ok(moment) => moment,
            Err(why) => {
                facts["action"] = json!(strike.action.event());
                // If the run was over before, nothing is said of the point.
                facts["over"] = json!(why == ENDED);
                facts["why"] = json!(why);
                self.note("miss", &facts)?;
                return Ok(None);
            }
        };
        let strike = &*strike;
        match &strike.action {
            FaultAction::Kill { lies, down } => {
                self.kill(strike, moment, facts, *lies, *down).await.map(Some)
            }
            FaultAction::Pause { lies } => self.pause(strike, moment, facts, *lies).await.map(Some),
            FaultAction::Cut { lies, down, whom, part } => {
                self.cut(strike, moment, facts, (*lies, *down), (*whom, *part)).await
            }
            FaultAction::Relapse { lies, down } => {
                self.relapse(strike, facts, (*lies, *down)).await
            }
            FaultAction::SecondInstance { beside } => {
                self.second_instance(strike, facts, *beside).await
            }
            FaultAction::Wipe { bootstrap } => self.wipe(strike, facts, *bootstrap).await,
            FaultAction::Network { snares, lasts } => {
                self.disturb(strike, moment, facts, snares, *lasts).await
            }
        }
    }

    /// Waits for the moment to strike, and adds to the facts what there is to say of it. An error
    /// in words if it does not come.
    async fn moment(
        &mut self,
        strike: &mut Injection,
        facts: &mut Json,
    ) -> Result<Result<Moment, String>, NemesisError> {
        let mut moment = Moment::default();
        match &strike.trigger.clone() {
            Trigger::Now => {}
            Trigger::Point(point) => {
                facts["at"] = json!(point);
                let caught = match point.parse() {
                    Ok(point) => {
                        let held = self.hold(strike.target, point, strike.precondition).await?;
                        held.map(|()| (strike.target, None))
                    }
                    Err(_) => self.entice(strike.target, point, strike.precondition).await?,
                };
                match caught {
                    Ok((node, txn)) => {
                        strike.target = node;
                        facts["node"] = json!(node);
                        moment = Moment { lies: true, txn, snare: None };
                    }
                    Err(why) => return Ok(Err(why)),
                }
            }
            Trigger::Message(pattern, deed) => match self.catch(pattern, deed).await {
                Ok(snare) => {
                    let first = snare.struck().first;
                    moment.txn = first.first().and_then(|seen| seen.txns.first().copied());
                    facts["message"] = json!(first.first());
                    facts["did"] = json!(deed.to_string());
                    moment.snare = Some(snare);
                    self.note("caught", facts)?;
                    self.rest(BESIDE).await;
                }
                Err(why) => return Ok(Err(why)),
            },
        }
        if let Some(txn) = moment.txn {
            facts["txn"] = json!(txn);
        }
        if matches!(strike.action, FaultAction::Pause { .. } | FaultAction::SecondInstance { .. })
            && !moment.lies
        {
            moment.lies = self.cluster.pause(strike.target).await;
            if !moment.lies {
                return Ok(Err(format!("{} does not run", strike.target)));
            }
        }
        Ok(Ok(moment))
    }

    async fn kill(
        &mut self,
        strike: &Injection,
        moment: Moment,
        mut facts: Json,
        lying: Duration,
        down: Duration,
    ) -> Result<Vec<TxnId>, NemesisError> {
        let node = strike.target;
        let Moment { lies, txn, snare } = moment;
        let mut doubted = Vec::new();
        if lies {
            doubted = self.unknown(txn, &mut facts).await;
        }
        facts["lies_ms"] = millis(lying);
        facts["down_ms"] = millis(down);
        if !lying.is_zero() {
            self.note("hold", &facts)?;
            self.outage(lying, strike, &mut doubted).await?;
        }
        self.cluster.kill(node).await;
        if !lies {
            doubted = self.unknown(txn, &mut facts).await;
        }
        self.note("kill", &facts)?;
        self.outage(down, strike, &mut doubted).await?;
        let mut after = json!({ "node": node });
        self.unknown(txn, &mut after).await;
        self.cluster.start(node).await?;
        self.note("restart", &after)?;
        // Now for the new incarnation, or from the old one.
        self.release(strike, snare).await?;
        Ok(doubted)
    }

    async fn pause(
        &mut self,
        strike: &Injection,
        moment: Moment,
        mut facts: Json,
        lying: Duration,
    ) -> Result<Vec<TxnId>, NemesisError> {
        let node = strike.target;
        let Moment { txn, snare, .. } = moment;
        let mut doubted = self.unknown(txn, &mut facts).await;
        facts["lies_ms"] = millis(lying);
        self.note("pause", &facts)?;
        self.outage(lying, strike, &mut doubted).await?;
        let mut after = json!({ "node": node });
        self.unknown(txn, &mut after).await;
        self.release(strike, snare).await?;
        if let Some(device) = self.cluster.device(node) {
            // If it was held at a point of its disk.
            device.release();
        }
        self.cluster.resume(node).await;
        self.note("resume", &after)?;
        Ok(doubted)
    }

    /// Starts a second process on the store of the target, which lies stopped.
    async fn second_instance(
        &mut self,
        strike: &Injection,
        mut facts: Json,
        beside: Duration,
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let node = strike.target;
        let doubted = self.unknown(None, &mut facts).await;
        self.note("hold", &facts)?;
        let trial = self.cluster.attempt(node, Attempt::SecondInstance).await?;
        trial.tell(&mut facts);
        self.note(strike.fault.name(), &facts)?;
        let decided = !matches!(trial, Trial::Undecided);
        if let Trial::Admitted(second_instance) = trial {
            // The action is done while both of them are there.
            self.rest(beside).await;
            self.cluster.resume(node).await;
            self.note("resume", &json!({ "node": node }))?;
            self.rest(beside).await;
            second_instance.kill().await;
        } else {
            self.cluster.resume(node).await;
            self.note("resume", &json!({ "node": node }))?;
        }
        Ok(decided.then_some(doubted))
    }

    /// Starts the target on an empty directory; if it is let in, that is its own from then on.
    async fn wipe(
        &mut self,
        strike: &Injection,
        mut facts: Json,
        bootstrap: bool,
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let node = strike.target;
        self.cluster.kill(node).await;
        let doubted = self.unknown(None, &mut facts).await;
        facts["bootstrap"] = json!(bootstrap);
        let trial = self.cluster.attempt(node, Attempt::Wiped { bootstrap }).await?;
        trial.tell(&mut facts);
        let decided = !matches!(trial, Trial::Undecided);
        self.note(strike.fault.name(), &facts)?;
        drop(trial);
        self.cluster.start(node).await?;
        self.note("restart", &json!({ "node": node }))?;
        Ok(decided.then_some(doubted))
    }

    /// Strikes messages for a while. None if there were none to strike.
    async fn disturb(
        &mut self,
        strike: &Injection,
        moment: Moment,
        mut facts: Json,
        snares: &[(Pattern, Deed)],
        lasts: Duration,
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let Some(network) = self.network else {
            facts["why"] = json!("the nodes speak with each other directly");
            self.note("miss", &facts)?;
            return Ok(None);
        };
        let told =
            |(pattern, deed): &(Pattern, Deed)| json!({ "what": pattern, "is": deed.to_string() });
        facts["messages"] = snares.iter().map(told).collect();
        facts["lasts_ms"] = millis(lasts);
        let laid: Vec<_> = snares
            .iter()
            .map(|(pattern, deed)| network.lay(pattern.clone(), deed.clone()))
            .collect();
        self.note("disturb", &facts)?;
        let mut doubted = Vec::new();
        self.outage(lasts, strike, &mut doubted).await?;
        let mut after = json!({});
        doubted.extend(self.unknown(None, &mut after).await);
        let mut struck = self.release(strike, moment.snare).await?;
        for snare in laid {
            struck |= self.release(strike, Some(snare)).await?;
        }
        Ok(struck.then_some(doubted))
    }

    /// Waits until a message is caught. An error in words if there is none.
    async fn catch(&mut self, pattern: &Pattern, deed: &Deed) -> Result<InterceptRule, String> {
        let network = self.network.ok_or("the nodes speak with each other directly")?;
        let mut snare = network.lay(pattern.clone(), deed.clone());
        let caught = tokio::select! {
            caught = snare.springs(MESSAGE_DEADLINE) => caught,
            _ = self.ending.wait_for(|ending| *ending) => false,
        };
        if caught { Ok(snare) } else { Err("there was no such message in time".to_owned()) }
    }

    /// Lets messages pass again, and those that were held go on; says whether there were any.
    async fn release(
        &self,
        strike: &Injection,
        snare: Option<InterceptRule>,
    ) -> Result<bool, NemesisError> {
        let Some(snare) = snare else { return Ok(false) };
        let struck = snare.lift(RELEASE_DEADLINE).await;
        self.note(
            "mend",
            &json!({ "fault": strike.fault.name(), "node": strike.target, "struck": struck }),
        )?;
        Ok(struck.messages > 0)
    }

    /// Leaves the target as it is for a time, in which the second strike finds its place if there
    /// is one and there is room.
    async fn outage(
        &mut self,
        time: Duration,
        strike: &Injection,
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

    /// Adds to the facts how many replicas are in doubt: about this transaction, or about any if
    /// the strike is not about one. Returns all transactions in doubt anywhere.
    async fn unknown(&self, txn: Option<TxnId>, facts: &mut Json) -> Vec<TxnId> {
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
    async fn recovery(
        &self,
        strike: &Injection,
        doubted: &[TxnId],
        deadline: Duration,
    ) -> Result<(), NemesisError> {
        let started = Instant::now();
        let mut deaths = self.cluster.deaths();
        let back = async {
            let resolved = self.cluster.until_resolved(doubted, deadline).await;
            let left = deadline.saturating_sub(started.elapsed());
            let ready = self.cluster.until_ready(left).await.map(|_| started.elapsed());
            (resolved, ready)
        };
        let (resolved, ready) = tokio::select! {
            back = back => back,
            // It will not come back from that.
            _ = deaths.wait_for(|deaths| *deaths > 0) => (None, None),
        };
        self.note(
            "recovered",
            &json!({
                "fault": strike.fault.name(),
                "node": strike.target,
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
