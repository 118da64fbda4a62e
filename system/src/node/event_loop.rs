//! The event loop: passes events to the machine, one iteration after the other, and performs the
//! resulting effects in order. The only user of the machine, the store and the journal.

use std::{
    collections::HashMap,
    mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use nix::time::{ClockId, clock_gettime};
use proto::v1 as pb;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep, sleep_until},
};

use super::{
    NodeError,
    crash_points::{self, CrashPoints, Hit, Side, Site},
    kv_service::{Call, ResponseHandle},
    peers::{InboundBatch, Peers},
    server::{Health, InspectRequest},
    timers::Timers,
};
use crate::{
    journal,
    meter::Meter,
    protocol::{
        Body, CallId, Config, Effect, Event, Lsn, Machine, Message, Node, Record, Reply, TxnId,
    },
    store::{Store, StoreError},
    wire,
};

/// The maximum number of events in an iteration, so that effects are not delayed indefinitely.
const ITERATION_EVENTS_MAX: usize = 1024;
/// How long a node waits for the kernel to accept its messages before it stops, at a crash point or
/// for good.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);
/// The minimum interval between updates of the health service.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// The sources of events, besides timers.
pub(super) struct Inputs {
    pub(super) persisted: mpsc::UnboundedReceiver<Result<Lsn, Arc<StoreError>>>,
    pub(super) inbound: mpsc::Receiver<InboundBatch>,
    pub(super) calls: mpsc::Receiver<Call>,
    pub(super) inspections: mpsc::Receiver<InspectRequest>,
}

/// How the loop ended, and the store, which is still open.
pub(super) struct LoopExit {
    pub(super) store: Store,
    pub(super) result: Result<(), NodeError>,
}

/// A call that the machine has not answered yet.
struct PendingCall {
    handle: ResponseHandle,
    meter: Arc<Meter>,
    _permit: OwnedSemaphorePermit,
}

pub(super) struct EventLoop<'a> {
    machine: Machine,
    store: Store,
    journal: Option<(journal::Writer, PathBuf)>,
    peers: &'a Peers,
    crash_points: Arc<CrashPoints>,
    health: Health,
    health_due: Instant,
    timers: Timers,
    pending_calls: HashMap<CallId, PendingCall, RandomState>,
    last_call: CallId,
    /// Events for the next iteration.
    events: Vec<Event>,
    /// Effects that are not performed yet.
    effects: Vec<Effect>,
    /// Gathered during an iteration and handed over at its end: the greatest force, and the
    /// messages for each peer, by wire number.
    force: Lsn,
    outgoing: Vec<Vec<pb::Envelope>>,
    /// Replies of this iteration, each with the value of its connection's meter once the kernel has
    /// accepted it. Only tracked while a crash point is armed.
    replied: Vec<(Arc<Meter>, u64)>,
}

impl<'a> EventLoop<'a> {
    /// Recovers the machine from its records. The first iteration performs the resulting effects.
    pub(super) fn recover(
        config: Config,
        records: Vec<Record>,
        store: Store,
        mut journal: Option<(journal::Writer, PathBuf)>,
        peers: &'a Peers,
        crash_points: Arc<CrashPoints>,
        health: Health,
    ) -> Self {
        let outgoing = vec![Vec::new(); usize::from(config.replicas) + 1];
        let (machine, effects) = Machine::recover(config.clone(), &records);
        if let Some((journal, _)) = &mut journal {
            journal.add(&journal::Entry::Start { t: monotonic_ns(), config, records });
            for effect in &effects {
                journal.add(&journal::Entry::Effect(effect.clone()));
            }
        }
        EventLoop {
            machine,
            store,
            journal,
            peers,
            crash_points,
            health,
            health_due: Instant::now(),
            timers: Timers::new(Instant::now()),
            pending_calls: HashMap::default(),
            last_call: 0,
            events: Vec::new(),
            effects,
            force: 0,
            outgoing,
            replied: Vec::new(),
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
            let timer = self.timers.next();
            let wake = [timer, until].into_iter().flatten().min();
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
                Some(arrival) = inputs.inbound.recv() => self.on_inbound(arrival),
                Some(call) = inputs.calls.recv() => self.on_call(call),
                Some(inspections) = inputs.inspections.recv() => self.on_inspection(inspections),
                () = &mut wakeup, if wake.is_some() => {}
            }
            self.gather(inputs)?;
            self.process_events().await?;
        }
    }

    /// Gathers the events that are already available, up to the maximum. Those that others wait for
    /// come first.
    fn gather(&mut self, inputs: &mut Inputs) -> Result<(), NodeError> {
        if let Ok(report) = inputs.persisted.try_recv() {
            self.on_persisted(report, inputs)?;
        }
        let now = Instant::now();
        while let Some(timer) = self.timers.take(now) {
            self.events.push(Event::Timer(timer));
        }
        while self.events.len() < ITERATION_EVENTS_MAX {
            let Ok(arrival) = inputs.inbound.try_recv() else { break };
            self.on_inbound(arrival);
        }
        while self.events.len() < ITERATION_EVENTS_MAX {
            let Ok(call) = inputs.calls.try_recv() else { break };
            self.on_call(call);
        }
        Ok(())
    }

    /// Handles a report of the store. Of several, the last one covers the others.
    fn on_persisted(
        &mut self,
        mut report: Result<Lsn, Arc<StoreError>>,
        inputs: &mut Inputs,
    ) -> Result<(), NodeError> {
        while report.is_ok()
            && let Ok(later) = inputs.persisted.try_recv()
        {
            report = later;
        }
        let lsn = report.map_err(NodeError::Store)?;
        self.events.push(Event::Persisted(lsn));
        Ok(())
    }

    fn on_inbound(&mut self, (from, messages): InboundBatch) {
        self.events.extend(messages.into_iter().map(|message| Event::Message { from, message }));
    }

    fn on_call(&mut self, call: Call) {
        let Call { request, handle, meter, _permit } = call;
        self.last_call += 1;
        self.pending_calls.insert(self.last_call, PendingCall { handle, meter, _permit });
        self.events.push(Event::Client { call: self.last_call, request });
    }

    fn on_inspection(&mut self, inspections: InspectRequest) {
        // The caller may have disconnected.
        match inspections {
            InspectRequest::Status(reply) => {
                let _ = reply.send(self.machine.status());
            }
            InspectRequest::Dump(reply) => {
                let _ = reply.send(self.store.entries());
            }
        }
    }

    async fn report_health(&mut self) {
        let now = Instant::now();
        if now >= self.health_due {
            self.health_due = now + HEALTH_INTERVAL;
            let ready = self.machine.status().ready;
            self.health.report(ready).await;
        }
    }

    /// Passes the gathered events to the machine, then performs its effects.
    async fn process_events(&mut self) -> Result<(), NodeError> {
        self.replied.clear();
        let mut events = mem::take(&mut self.events);
        let t = if self.journal.is_some() { monotonic_ns() } else { 0 };
        for event in events.drain(..) {
            let crossing =
                self.crash_points.is_armed_at(Site::Receive).then(|| crossing_of(&event)).flatten();
            if let Some((kind, txn)) = crossing
                && let Some(hit) = self.crash_points.hit(Side::Before, Site::Receive, kind, txn)
            {
                self.perform_effects().await?;
                self.stop_at(hit).await;
            }
            let from = self.effects.len();
            if let Some((journal, _)) = &mut self.journal {
                journal.add(&journal::Entry::Event { t, event: event.clone() });
            }
            self.machine.step(event, &mut self.effects);
            if let Some((journal, _)) = &mut self.journal {
                for effect in &self.effects[from..] {
                    journal.add(&journal::Entry::Effect(effect.clone()));
                }
            }
            if matches!(self.effects.last(), Some(Effect::Halt { .. })) {
                break;
            }
            if let Some((kind, txn)) = crossing
                && let Some(hit) = self.crash_points.hit(Side::After, Site::Receive, kind, txn)
            {
                self.perform_effects().await?;
                self.stop_at(hit).await;
            }
        }
        self.perform_effects().await?;
        events.clear();
        self.events = events;
        Ok(())
    }

    /// Performs every pending effect in order, after writing the journal.
    async fn perform_effects(&mut self) -> Result<(), NodeError> {
        if let Some((journal, path)) = &mut self.journal {
            journal.write().map_err(|cause| NodeError::Journal { path: path.clone(), cause })?;
        }
        let mut effects = mem::take(&mut self.effects);
        let now = Instant::now();
        for effect in effects.drain(..) {
            match effect {
                Effect::Append(record) => {
                    self.store.append(record);
                }
                Effect::Force(lsn) => self.force = self.force.max(lsn),
                Effect::Send { to, message } => self.send(to, message).await,
                Effect::Reply { call, reply } => self.reply(call, reply).await,
                Effect::Serve { read, key } => {
                    let found = self.store.get(&key)?;
                    let message = self.machine.message(Body::Value { read, found });
                    self.send(Node::Master, message).await;
                }
                Effect::SetTimer { id, after } => self.timers.set(id, now, after),
                Effect::Warn(text) => tracing::warn!("{text}"),
                Effect::Halt { kind, why } => {
                    self.flush();
                    return Err(NodeError::Halted { kind, why });
                }
            }
        }
        self.effects = effects;
        self.flush();
        Ok(())
    }

    async fn send(&mut self, to: Node, message: Message) {
        let crossing = self
            .crash_points
            .is_armed_at(Site::Send)
            .then(|| (message.body.kind(), message.body.txns().first().copied()));
        self.stop_if_hit(Side::Before, Site::Send, crossing).await;
        match self.outgoing.get_mut(wire::node_to_wire(to) as usize) {
            Some(outgoing) => outgoing.push(wire::to_wire(message)),
            None => tracing::error!("dropped a message for {to}, which is not a peer: {message:?}"),
        }
        self.stop_if_hit(Side::After, Site::Send, crossing).await;
    }

    async fn reply(&mut self, call: CallId, reply: Reply) {
        let crossing = self
            .crash_points
            .is_armed_at(Site::Reply)
            .then(|| (reply.kind(), crash_points::txn_of_reply(&reply)));
        self.stop_if_hit(Side::Before, Site::Reply, crossing).await;
        if let Some(PendingCall { handle, meter, _permit }) = self.pending_calls.remove(&call) {
            // A client that has disconnected does not get its answer; its transaction proceeded
            // without it.
            if handle.send(reply) && self.crash_points.is_armed() {
                let before = self.replied.iter().rfind(|(other, _)| Arc::ptr_eq(other, &meter));
                let gone = before.map_or(0, |(_, gone)| *gone).max(meter.ended()) + 1;
                self.replied.push((meter, gone));
            }
        }
        self.stop_if_hit(Side::After, Site::Reply, crossing).await;
    }

    /// Hands over what was gathered: one force, and one batch for each peer.
    fn flush(&mut self) {
        if self.force > 0 {
            self.store.force(mem::take(&mut self.force));
        }
        for (n, buffer) in self.peers.send_buffers() {
            buffer.send(&mut self.outgoing[n]);
        }
    }

    /// Stops the process if the armed crash point is hit.
    async fn stop_if_hit(&mut self, side: Side, site: Site, crossing: Option<Crossing>) {
        if let Some((kind, txn)) = crossing
            && let Some(hit) = self.crash_points.hit(side, site, kind, txn)
        {
            self.stop_at(hit).await;
        }
    }

    async fn stop_at(&mut self, hit: Hit) {
        self.drain().await;
        hit.stop();
    }

    /// Waits, for a short time, until the kernel has accepted everything sent so far.
    async fn drain(&mut self) {
        self.flush();
        let until = Instant::now() + DRAIN_TIMEOUT;
        let all_taken = |this: &Self| {
            this.peers.send_buffers().all(|(_, buffer)| buffer.is_drained())
                && this.replied.iter().all(|(meter, gone)| meter.ended() >= *gone)
        };
        while !all_taken(self) && Instant::now() < until {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What crosses a site: its kind, and the transaction that it is about.
type Crossing = (&'static str, Option<TxnId>);

/// The kind and transaction of an event, if it is a received message or request.
fn crossing_of(event: &Event) -> Option<Crossing> {
    match event {
        Event::Message { message, .. } => {
            Some((message.body.kind(), message.body.txns().first().copied()))
        }
        Event::Client { request, .. } => Some((request.kind(), None)),
        Event::Persisted(_) | Event::Timer(_) | Event::ReadResult { .. } => None,
    }
}

/// The monotonic clock, which all processes of a machine share.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists");
    u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX)
}
