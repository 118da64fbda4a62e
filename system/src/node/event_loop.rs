//! The event loop: gathers events (`inputs`), passes them to the machine, and performs the resulting
//! effects in order (`effects`). The only user of the machine and the store.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};

use super::{
    NodeError, effects::Outgoing, inputs::Inputs, kv_service::ResponseHandle, peers::Peers,
    server::Health, timers::Timers,
};
use crate::{
    hooks::{Hooks, Side},
    meter::Meter,
    protocol::{CallId, Config, Effect, Event, Machine, Record},
    store::Store,
};

/// The minimum interval between updates of the health service.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// How the loop ended, and the store, which is still open.
pub(super) struct LoopExit {
    pub(super) store: Store,
    pub(super) result: Result<(), NodeError>,
}

/// A call that the machine has not answered yet.
pub(super) struct PendingCall {
    pub(super) handle: ResponseHandle,
    pub(super) meter: Arc<Meter>,
    /// Released with the call.
    pub(super) _permit: OwnedSemaphorePermit,
}

pub(super) struct EventLoop<'a> {
    pub(super) machine: Machine,
    pub(super) store: Store,
    pub(super) peers: &'a Peers,
    pub(super) hooks: Hooks,
    pub(super) health: Health,
    health_due: Instant,
    pub(super) timers: Timers,
    pub(super) pending_calls: HashMap<CallId, PendingCall, RandomState>,
    pub(super) last_call: CallId,
    /// Events for the next iteration.
    pub(super) events: Vec<Event>,
    /// Effects that are not performed yet.
    pub(super) effects: Vec<Effect>,
    pub(super) outgoing: Outgoing,
}

impl<'a> EventLoop<'a> {
    /// Recovers the machine from its records. The first iteration performs the resulting effects.
    pub(super) fn recover(
        config: Config,
        records: Vec<Record>,
        store: Store,
        peers: &'a Peers,
        mut hooks: Hooks,
        health: Health,
    ) -> Self {
        let outgoing = Outgoing::new(config.replicas);
        let (machine, effects) = Machine::recover(config.clone(), &records);
        hooks.recovered(config, records, &effects);
        EventLoop {
            machine,
            store,
            peers,
            hooks,
            health,
            health_due: Instant::now(),
            timers: Timers::new(Instant::now()),
            pending_calls: HashMap::default(),
            last_call: 0,
            events: Vec::new(),
            effects,
            outgoing,
        }
    }

    /// Runs until `stop` completes, and then until no call is in flight, for at most `grace`.
    pub(super) async fn run(
        mut self,
        mut inputs: Inputs,
        stop: impl Future<Output = ()>,
        stopping: &AtomicBool,
        grace: Duration,
    ) -> LoopExit {
        let result = self.iterate(&mut inputs, stop, stopping, grace).await;
        self.drain().await;
        LoopExit { store: self.store, result }
    }

    async fn iterate(
        &mut self,
        inputs: &mut Inputs,
        stop: impl Future<Output = ()>,
        stopping: &AtomicBool,
        grace: Duration,
    ) -> Result<(), NodeError> {
        let mut stop = std::pin::pin!(stop);
        let mut until: Option<Instant> = None;
        // Kept across iterations, because most of them end before it fires.
        let mut wakeup = std::pin::pin!(sleep_until(Instant::now()));
        self.perform_effects().await?;
        loop {
            if let Some(until) = until
                && (Instant::now() >= until
                    || self.pending_calls.is_empty() && inputs.calls.is_empty())
            {
                return Ok(());
            }
            self.report_health().await;
            let wake = [self.timers.next(), until].into_iter().flatten().min();
            if let Some(wake) = wake.filter(|wake| *wake != wakeup.deadline()) {
                wakeup.as_mut().reset(wake);
            }
            tokio::select! {
                biased;
                () = &mut stop, if until.is_none() => {
                    stopping.store(true, Ordering::Relaxed);
                    until = Some(Instant::now() + grace);
                }
                Some(report) = inputs.persisted.recv() => self.on_persisted(report, inputs)?,
                Some(batch) = inputs.inbound.recv() => self.on_inbound(batch),
                Some(call) = inputs.calls.recv() => self.on_call(call),
                Some(request) = inputs.inspections.recv() => self.on_inspection(request),
                () = &mut wakeup, if wake.is_some() => {}
            }
            self.gather(inputs)?;
            self.process_events().await?;
        }
    }

    /// Passes the gathered events to the machine, then performs its effects.
    async fn process_events(&mut self) -> Result<(), NodeError> {
        self.hooks.iteration();
        let mut events = mem::take(&mut self.events);
        for event in events.drain(..) {
            let crossing = self.hooks.receiving(&event);
            if let Some(hit) = self.hooks.hit(Side::Before, &crossing) {
                self.perform_effects().await?;
                self.stop_at(hit).await;
            }
            let from = self.effects.len();
            self.hooks.event(&event);
            self.machine.step(event, &mut self.effects);
            self.hooks.effects(&self.effects[from..]);
            if matches!(self.effects.last(), Some(Effect::Halt { .. })) {
                break;
            }
            if let Some(hit) = self.hooks.hit(Side::After, &crossing) {
                self.perform_effects().await?;
                self.stop_at(hit).await;
            }
        }
        self.perform_effects().await?;
        events.clear();
        self.events = events;
        Ok(())
    }

    async fn report_health(&mut self) {
        let now = Instant::now();
        if now >= self.health_due {
            self.health_due = now + HEALTH_INTERVAL;
            self.health.report(self.machine.status().ready).await;
        }
    }
}
