//! The event loop: gathers events (`inputs`), passes them to the machine, and performs the resulting
//! effects in order on its environment (`environment`). The only user of the machine and the store,
//! and the only place at which a process can be stopped *between* two effects: the crash points of
//! events, messages and replies are here.

use std::{
    collections::VecDeque,
    mem,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::{
    NodeError, environment::NodeEnvironment, inputs::Inputs, peers::Peers, server::Health,
};
use crate::{
    hooks::{Hooks, Side},
    protocol::{
        Body, CallId, Config, Effect, Event, Machine, Mistake, Record, Request, Rules, Write,
        driver::{self, Halt, Performed},
    },
    store::Store,
};

/// The minimum interval between updates of the health service.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// A node runs late if a timer has been overdue for longer than this.
const LATE: Duration = Duration::from_millis(50);

/// How the loop ended, and the store, which is still open.
pub(super) struct LoopExit {
    pub(super) store: Store,
    pub(super) result: Result<(), NodeError>,
}

pub(super) struct EventLoop<'a> {
    pub(super) machine: Machine,
    /// Everything outside the machine.
    pub(super) environment: NodeEnvironment<'a>,
    pub(super) health: Health,
    health_due: Instant,
    /// A force under way for longer means that the disk hangs.
    force_age_max: Duration,
    stalled: bool,
    pub(super) last_call: CallId,
    /// Since when expired timers wait for messages that have arrived.
    pub(super) timers_wait: Option<Instant>,
    /// Events for the next iteration.
    pub(super) events: Vec<Event>,
    /// Effects that are not performed yet.
    effects: Vec<Effect>,
    /// The machine was told that there is no room.
    full: bool,
    rules: Rules,
    /// The writes that the mistake [`Mistake::WriteRepeated`] begins again.
    repeated: VecDeque<Request>,
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
        let (replicas, rules) = (config.replicas, config.rules);
        let force_age_max = config.timing.force_age_max;
        let (machine, effects) = Machine::recover(config.clone(), &records);
        let (cluster, stores) = machine.identities();
        peers.know(cluster, stores);
        hooks.recovered(config, records, &effects);
        EventLoop {
            machine,
            environment: NodeEnvironment::new(store, peers, hooks, replicas, rules),
            health,
            health_due: Instant::now(),
            force_age_max,
            stalled: false,
            last_call: 0,
            timers_wait: None,
            events: Vec::new(),
            effects,
            full: false,
            rules,
            repeated: VecDeque::new(),
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
        let mut result = self.iterate(&mut inputs, stop, stopping, grace).await;
        // Without a journal no effect may be performed, not even one that was gathered.
        if !matches!(result, Err(NodeError::Journal { .. })) {
            let drained = self.environment.drain().await;
            result = result.and(drained);
        }
        LoopExit { store: self.environment.store, result }
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
                    || self.environment.pending_calls.is_empty() && inputs.calls.is_empty())
            {
                return Ok(());
            }
            self.report_health().await;
            let wake = [self.environment.timers.next(), until].into_iter().flatten().min();
            if let Some(wake) = wake.filter(|wake| *wake != wakeup.deadline()) {
                wakeup.as_mut().reset(wake);
            }
            tokio::select! {
                biased;
                () = &mut stop, if until.is_none() => {
                    stopping.store(true, Ordering::Relaxed);
                    until = Some(Instant::now() + grace);
                    self.events.push(Event::Leave);
                }
                Some(report) = inputs.persisted.recv() => self.on_persisted(report, inputs)?,
                Some(batch) = inputs.inbound.recv() => self.on_inbound(batch),
                Some(call) = inputs.calls.recv() => self.on_call(call),
                Some(request) = inputs.inspections.recv() => self.on_inspection(request, inputs),
                () = &mut wakeup, if wake.is_some() => {}
                () = yield_now(), if self.rules.makes(Mistake::LoopSpins) => {}
            }
            if wake.is_some_and(|wake| Instant::now() > wake + LATE) {
                // What has arrived meanwhile is still in the sockets. At the first yield the runtime notices that, and at
                // the second the tasks have run that read it.
                yield_now().await;
                yield_now().await;
            }
            self.gather(inputs)?;
            self.process_events().await?;
        }
    }

    /// Passes the gathered events to the machine, then performs its effects.
    async fn process_events(&mut self) -> Result<(), NodeError> {
        self.environment.hooks.iteration();
        self.check_room();
        let mut events = mem::take(&mut self.events);
        for event in events.drain(..) {
            let crossing = self.environment.hooks.receiving(&event);
            if let Some(hit) = self.environment.hooks.hit(Side::Before, &crossing) {
                self.perform_effects().await?;
                self.environment.stop_at(hit).await?;
            }
            step(&mut self.machine, &mut self.environment.hooks, event, &mut self.effects);
            if matches!(self.effects.last(), Some(Effect::Halt { .. })) {
                break;
            }
            if let Some(hit) = self.environment.hooks.hit(Side::After, &crossing) {
                self.perform_effects().await?;
                self.environment.stop_at(hit).await?;
            }
        }
        self.perform_effects().await?;
        events.clear();
        self.events = events;
        Ok(())
    }

    /// Tells a replica's machine whether its store has room for the values that this iteration may
    /// prepare or take over, if that has changed.
    fn check_room(&mut self) {
        let (mut writes, mut bytes) = (0, 0);
        for event in &self.events {
            let Event::Message { message, .. } = event else { continue };
            let (key, value) = match &message.body {
                Body::Prepare { write: Write { key, value: Some(value) }, .. } => (key, value),
                Body::HealAnswer { key, found: Some((_, value)), .. } => (key, value),
                _ => continue,
            };
            writes += 1;
            bytes += key.as_bytes().len() + value.as_bytes().len();
        }
        if writes == 0 {
            return;
        }
        let room = self.environment.store.check_room(writes, bytes);
        if room.is_err() == self.full {
            return;
        }
        self.full = room.is_err();
        self.events.insert(0, Event::Room { full: self.full });
        match room {
            Ok(()) => tracing::info!("there is room for values again"),
            Err(error) => tracing::warn!("values are refused from now on: {error}"),
        }
    }

    /// Performs every pending effect in order, and hands over what that gathered. If an effect leads
    /// to a step of the machine, the effects of that step come before the next one.
    async fn perform_effects(&mut self) -> Result<(), NodeError> {
        self.environment.now = Instant::now();
        self.environment.journal_before(&self.effects)?;
        let mut effects = mem::take(&mut self.effects);
        let mut pending = effects.drain(..);
        // The effects of nested steps, the next one last.
        let mut nested = Vec::new();
        while let Some(effect) = nested.pop().or_else(|| pending.next()) {
            let crossing = self.environment.hooks.performing(&effect);
            self.environment.stop_if_hit(Side::Before, &crossing).await?;
            match driver::perform(effect, &mut self.environment)? {
                Performed::Done => {}
                Performed::Event(event) => {
                    let from = nested.len();
                    step(&mut self.machine, &mut self.environment.hooks, event, &mut nested);
                    self.environment.journal_before(&nested[from..])?;
                    nested[from..].reverse();
                }
                Performed::Halted(Halt { kind, why }) => {
                    self.environment.hand_over()?;
                    return Err(NodeError::Halted { kind, why });
                }
            }
            self.environment.stop_if_hit(Side::After, &crossing).await?;
        }
        drop(pending);
        self.effects = effects;
        self.environment.hand_over()
    }

    /// The mistake [`Mistake::WriteRepeated`]: each 16th write begins again 40 writes later, for nobody.
    pub(super) fn repeat_write(&mut self, request: &Request) {
        const LATER: usize = 40;
        if !self.rules.makes(Mistake::WriteRepeated) || !matches!(request, Request::Write(_)) {
            return;
        }
        self.repeated.push_back(request.clone());
        if self.repeated.len() > LATER
            && let Some(request) = self.repeated.pop_front()
            && self.last_call.is_multiple_of(16)
        {
            let call = CallId::MAX - self.last_call;
            self.events.push(Event::Client { call, request });
        }
    }

    /// Tells the operator when the disk begins to hang, and when it goes on.
    pub(super) fn report_force_age(&mut self, age: Duration) {
        let stalled = age > self.force_age_max;
        if stalled && !self.stalled {
            tracing::warn!(
                "the disk hangs: a force has been under way for {age:?}; until it ends, this node is not live"
            );
        } else if self.stalled && !stalled {
            tracing::info!("the disk goes on");
        }
        self.stalled = stalled;
    }

    async fn report_health(&mut self) {
        let now = Instant::now();
        if now >= self.health_due {
            self.health_due = now + HEALTH_INTERVAL;
            self.health.report(self.machine.status().ready).await;
        }
    }
}

/// Steps the machine, and adds the step to the journal.
fn step(machine: &mut Machine, hooks: &mut Hooks, event: Event, effects: &mut Vec<Effect>) {
    let from = effects.len();
    hooks.event(&event);
    machine.step(event, effects);
    hooks.effects(&effects[from..]);
}
