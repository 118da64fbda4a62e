//! Carries injections out: waits for the trigger, performs the action, undoes it, and waits until the
//! cluster has recovered. Records every step in the history. Decides nothing that the injection does
//! not say.

mod actions;
mod copy;
mod disk;
mod power;
mod precondition;
mod trigger;

use std::{collections::BTreeSet, io, time::Duration};

use history::{
    NemesisEvent,
    nemesis::{InDoubt, Injected, InjectionKind, Missed, Recovered, ReturnKind, Returned},
};
use lab::{EventLog, cluster::ClusterError, injection::SECOND_INJECTION_MIN};
use system::protocol::{Node, TxnId};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use self::trigger::Miss;
use crate::{
    cluster::Cluster,
    faults::{FaultAction, Injection, Schedule},
    network::Network,
};

/// Why fault injection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NemesisError {
    /// A node cannot be restarted.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The history cannot be written.
    #[error("cannot write the history: {0}")]
    History(#[from] io::Error),
}

/// One lane of fault injection.
pub struct Nemesis<'a> {
    /// The cluster under test.
    pub cluster: &'a Cluster,
    /// The relays between the nodes, if there are any.
    pub network: Option<&'a Network>,
    /// The history.
    pub events: &'a EventLog,
    /// Turns true when the load ends. An injection in progress is then undone without delay.
    pub load_ended: watch::Receiver<bool>,
    /// Becomes true once each fault of the schedule was injected.
    pub covered: watch::Sender<bool>,
    /// How long the cluster has to recover from an injection before the next one; `None` to inject
    /// without waiting.
    pub recovery_deadline: Option<Duration>,
}

impl Nemesis<'_> {
    /// Injects faults until the load ends.
    ///
    /// # Errors
    /// A node cannot be restarted, or the history cannot be written.
    pub async fn run(mut self, mut schedule: Schedule) -> Result<(), NemesisError> {
        while let Some(injection) = schedule.next() {
            if self.wait(injection.delay).await {
                break;
            }
            let injected = self.inject_and_recover(&injection).await?;
            schedule.report(injection.fault, injected);
            self.covered.send_replace(schedule.has_injected_all());
        }
        Ok(())
    }

    /// Carries an injection out and waits for recovery. Returns whether the injection happened.
    async fn inject_and_recover(&mut self, injection: &Injection) -> Result<bool, NemesisError> {
        let Some(mut in_doubt) = self.inject(injection).await? else { return Ok(false) };
        if let Some(then) = &injection.then
            && !self.wait(then.delay).await
        {
            in_doubt.extend(self.inject(then).await?.unwrap_or_default());
        }
        if let Some(deadline) = self.recovery_deadline.filter(|_| !injection.skip_recovery) {
            self.recovery(injection, &in_doubt, deadline).await?;
        }
        Ok(true)
    }

    /// Performs the action of an injection and undoes it. Returns the transactions that were in
    /// doubt at that time, or `None` if the injection did not happen.
    async fn inject(&mut self, injection: &Injection) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let mut fields = described(injection);
        // Some triggers determine the target: the node that reaches the point first.
        let injection = &mut injection.clone();
        let triggered = match self.wait_for_trigger(injection, &mut fields).await? {
            Ok(triggered) => triggered,
            Err(miss) => {
                // When the load has ended, the miss says nothing about the point.
                let load_ended = Some(matches!(miss, Miss::LoadEnded));
                self.missed(injection, fields, load_ended, miss.to_string())?;
                return Ok(None);
            }
        };
        let injection = &*injection;
        match &injection.action {
            FaultAction::Kill { paused, down } => {
                self.kill(injection, triggered, fields, *paused, *down).await.map(Some)
            }
            FaultAction::Pause { paused } => {
                self.pause(injection, triggered, fields, *paused).await.map(Some)
            }
            FaultAction::Terminate { down } => {
                self.terminate(injection, triggered, fields, *down).await.map(Some)
            }
            FaultAction::Attack { attack, duration } => {
                self.attack(injection, fields, *attack, *duration).await
            }
            FaultAction::PowerLoss { paused, down, scope, partial } => {
                let times = (*paused, *down);
                self.power_loss(injection, triggered, fields, times, (*scope, *partial)).await
            }
            FaultAction::PowerLossOnRestart { paused, down } => {
                self.power_loss_on_restart(injection, fields, (*paused, *down)).await
            }
            FaultAction::SecondInstance { overlap } => {
                self.second_instance(injection, fields, *overlap).await
            }
            FaultAction::Disk { fault, duration, ending } => {
                self.disk_fault(injection, fields, *fault, (*duration, *ending)).await
            }
            FaultAction::BitFlip { rot, seed } => {
                self.bit_flip(injection, fields, *rot, *seed).await
            }
            FaultAction::RestoredCopy { age, lacks_epoch } => {
                self.restored_copy(injection, fields, *age, *lacks_epoch).await
            }
            FaultAction::Wipe { bootstrap } => self.wipe(injection, fields, *bootstrap).await,
            FaultAction::Network { rules, duration } => {
                self.network_fault(injection, triggered, fields, rules, *duration).await
            }
        }
    }

    /// Leaves the target out of service for a time, during which the second injection happens if
    /// there is one and there is room for it.
    async fn outage(
        &mut self,
        time: Duration,
        injection: &Injection,
        in_doubt: &mut Vec<TxnId>,
    ) -> Result<(), NemesisError> {
        let started = Instant::now();
        let second = injection.meanwhile.as_deref().filter(|_| time >= SECOND_INJECTION_MIN);
        if let Some(second) = second
            && !self.wait(second.delay).await
        {
            let also = Box::pin(self.inject(second)).await?;
            in_doubt.extend(also.unwrap_or_default());
        }
        self.wait(time.saturating_sub(started.elapsed())).await;
        Ok(())
    }

    /// Observes which replicas are in doubt: about this transaction, or about any if the injection
    /// does not concern one. Returns every transaction that is in doubt anywhere, too.
    async fn observe_in_doubt(&self, txn: Option<TxnId>) -> (InDoubt, Vec<TxnId>) {
        let statuses = self.cluster.observe(self.cluster.replicas()).await;
        let concerns = |(open, _): &(TxnId, _)| txn.is_none_or(|txn| *open == txn);
        let nodes: Vec<_> = statuses
            .iter()
            .filter(|(_, status)| status.unsettled.iter().any(concerns))
            .map(|(node, _)| node.to_string())
            .collect();
        let txns: BTreeSet<_> = statuses
            .values()
            .flat_map(|status| status.unsettled.iter().map(|(txn, _)| *txn))
            .chain(txn)
            .collect();
        (InDoubt { count: Some(nodes.len() as u64), nodes }, txns.into_iter().collect())
    }

    /// Waits until the cluster has recovered, and records how long that took.
    async fn recovery(
        &self,
        injection: &Injection,
        in_doubt: &[TxnId],
        deadline: Duration,
    ) -> Result<(), NemesisError> {
        let started = Instant::now();
        let mut exits = self.cluster.unexpected_exits();
        let recovered = async {
            let resolved = self.cluster.until_resolved(in_doubt, deadline).await;
            let left = deadline.saturating_sub(started.elapsed());
            let ready = self.cluster.processes().until_ready(left).await;
            (resolved, ready.map(|_| started.elapsed()))
        };
        let (resolved, ready) = tokio::select! {
            times = recovered => times,
            // A cluster does not recover from an unexpected exit.
            _ = exits.wait_for(|exits| *exits > 0) => (None, None),
        };
        self.record(NemesisEvent::Recovered(Recovered {
            fault: Some(injection.fault.to_string()),
            node: Some(injection.target.to_string()),
            in_doubt: Some(in_doubt.len() as u64),
            resolved_ms: resolved.map(millis),
            ready_ms: ready.map(millis),
        }))
    }

    fn record(&self, event: NemesisEvent) -> Result<(), NemesisError> {
        Ok(self.events.record(event)?)
    }

    /// Records an injection, or a step towards one.
    fn injected(&self, kind: InjectionKind, fields: &Injected) -> Result<(), NemesisError> {
        self.record(NemesisEvent::Injected(kind, Box::new(fields.clone())))
    }

    /// Records that the target runs again, and which replicas were in doubt just before.
    fn returned(
        &self,
        kind: ReturnKind,
        node: Node,
        in_doubt: InDoubt,
    ) -> Result<(), NemesisError> {
        let (node, nodes) = (Some(node.to_string()), Vec::new());
        self.record(NemesisEvent::Returned(kind, Returned { node, nodes, in_doubt }))
    }

    /// Records that an injection did not happen.
    fn missed(
        &self,
        injection: &Injection,
        injected: Injected,
        load_ended: Option<bool>,
        why: impl Into<String>,
    ) -> Result<(), NemesisError> {
        let action = Some(injection.action.kind().name().to_owned());
        let missed = Missed { injected, action, load_ended, why: why.into() };
        self.record(NemesisEvent::Missed(Box::new(missed)))
    }

    /// Waits for a time, but not beyond the end of the load. Returns whether the load has ended.
    async fn wait(&mut self, time: Duration) -> bool {
        let _ = timeout(time, self.load_ended.wait_for(|ended| *ended)).await;
        *self.load_ended.borrow()
    }
}

/// The fields that every injection has.
fn described(injection: &Injection) -> Injected {
    Injected {
        fault: Some(injection.fault.to_string()),
        node: Some(injection.target.to_string()),
        ..Injected::default()
    }
}

/// Milliseconds, as events state them.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
