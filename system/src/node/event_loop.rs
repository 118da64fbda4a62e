//! The event loop: takes events to the machine, turn by turn, and performs what it wants, in
//! order. The only user of the machine, the store and the journal.

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
    kv::{Call, ResponseHandle},
    peers::{Arrival, Peers},
    points::{self, Place, Points, Reached, Side},
    serve::{Health, Question},
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

/// Events that a turn takes at most, so that no effect waits for ever more of them.
const TURN_EVENTS: usize = 1024;
/// How long a node that stops at a point, or for good, waits for the kernel to take what it sends.
const DRAIN: Duration = Duration::from_millis(100);
/// How often at most the health service is told how the node stands.
const HEALTH: Duration = Duration::from_millis(100);

/// Where events come from, besides timers.
pub(super) struct Inputs {
    pub(super) persisted: mpsc::UnboundedReceiver<Result<Lsn, Arc<StoreError>>>,
    pub(super) arrivals: mpsc::Receiver<Arrival>,
    pub(super) called: mpsc::Receiver<Call>,
    pub(super) asked: mpsc::Receiver<Question>,
}

/// How the loop ended, and the store, which is still to be closed.
pub(super) struct End {
    pub(super) store: Store,
    pub(super) how: Result<(), NodeError>,
}

/// A call that the machine has not answered yet.
struct Caller {
    reply: ResponseHandle,
    meter: Arc<Meter>,
    _slot: OwnedSemaphorePermit,
}

pub(super) struct EventLoop<'a> {
    machine: Machine,
    store: Store,
    journal: Option<(journal::Writer, PathBuf)>,
    peers: &'a Peers,
    points: Arc<Points>,
    health: Health,
    health_due: Instant,
    timers: Timers,
    callers: HashMap<CallId, Caller, RandomState>,
    last_call: CallId,
    /// Events that wait for their turn.
    events: Vec<Event>,
    /// What the machine wants done, and has not been done yet.
    effects: Vec<Effect>,
    /// What is done of it at the end of a turn: the greatest force, and the messages for each
    /// peer, by wire number.
    force: Lsn,
    sending: Vec<Vec<pb::Envelope>>,
    /// Answers that were given in this turn, as the count at which their connection's meter shows
    /// them gone. Kept only while a point is armed.
    replied: Vec<(Arc<Meter>, u64)>,
}

impl<'a> EventLoop<'a> {
    /// Starts the machine from what its store has kept. The effects of that come with the first
    /// turn.
    pub(super) fn recover(
        config: Config,
        records: Vec<Record>,
        store: Store,
        mut journal: Option<(journal::Writer, PathBuf)>,
        peers: &'a Peers,
        points: Arc<Points>,
        health: Health,
    ) -> Self {
        let sending = vec![Vec::new(); usize::from(config.replicas) + 1];
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
            points,
            health,
            health_due: Instant::now(),
            timers: Timers::new(Instant::now()),
            callers: HashMap::default(),
            last_call: 0,
            events: Vec::new(),
            effects,
            force: 0,
            sending,
            replied: Vec::new(),
        }
    }

    /// Turns until told to stop, and then until no call is in flight, for at most `patience`.
    pub(super) async fn run(
        mut self,
        mut inputs: Inputs,
        stop: impl Future<Output = ()>,
        stopping: &AtomicBool,
        patience: Duration,
    ) -> End {
        let how = self.turns(&mut inputs, stop, stopping, patience).await;
        self.drain().await;
        End { store: self.store, how }
    }

    async fn turns(
        &mut self,
        inputs: &mut Inputs,
        stop: impl Future<Output = ()>,
        stopping: &AtomicBool,
        patience: Duration,
    ) -> Result<(), NodeError> {
        let mut stop = std::pin::pin!(stop);
        let mut until: Option<Instant> = None;
        // Kept, for most turns end before it and leave it as it is.
        let mut alarm = std::pin::pin!(sleep_until(Instant::now()));
        self.settle().await?;
        loop {
            if let Some(until) = until
                && (Instant::now() >= until || self.callers.is_empty() && inputs.called.is_empty())
            {
                return Ok(());
            }
            self.tell_health().await;
            let timer = self.timers.next();
            let wake = [timer, until].into_iter().flatten().min();
            if let Some(wake) = wake.filter(|wake| *wake != alarm.deadline()) {
                alarm.as_mut().reset(wake);
            }
            tokio::select! {
                biased;
                () = &mut stop, if until.is_none() => {
                    stopping.store(true, Ordering::Relaxed);
                    until = Some(Instant::now() + patience);
                }
                Some(report) = inputs.persisted.recv() => self.persisted(report, inputs)?,
                Some(arrival) = inputs.arrivals.recv() => self.arrived(arrival),
                Some(call) = inputs.called.recv() => self.called(call),
                Some(question) = inputs.asked.recv() => self.asked(question),
                () = &mut alarm, if wake.is_some() => {}
            }
            self.gather(inputs)?;
            self.turn().await?;
        }
    }

    /// Takes in what else is there already, up to a full turn. What others wait for comes first.
    fn gather(&mut self, inputs: &mut Inputs) -> Result<(), NodeError> {
        if let Ok(report) = inputs.persisted.try_recv() {
            self.persisted(report, inputs)?;
        }
        let now = Instant::now();
        while let Some(timer) = self.timers.take(now) {
            self.events.push(Event::Timer(timer));
        }
        while self.events.len() < TURN_EVENTS {
            let Ok(arrival) = inputs.arrivals.try_recv() else { break };
            self.arrived(arrival);
        }
        while self.events.len() < TURN_EVENTS {
            let Ok(call) = inputs.called.try_recv() else { break };
            self.called(call);
        }
        Ok(())
    }

    /// Of several reports the last says everything.
    fn persisted(
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

    fn arrived(&mut self, (from, messages): Arrival) {
        self.events.extend(messages.into_iter().map(|message| Event::Message { from, message }));
    }

    fn called(&mut self, call: Call) {
        let Call { request, reply, meter, _slot } = call;
        self.last_call += 1;
        self.callers.insert(self.last_call, Caller { reply, meter, _slot });
        self.events.push(Event::Client { call: self.last_call, request });
    }

    fn asked(&mut self, question: Question) {
        // Whoever has asked may be gone.
        match question {
            Question::Status(reply) => {
                let _ = reply.send(self.machine.status());
            }
            Question::Dump(reply) => {
                let _ = reply.send(self.store.entries());
            }
        }
    }

    async fn tell_health(&mut self) {
        let now = Instant::now();
        if now >= self.health_due {
            self.health_due = now + HEALTH;
            let ready = self.machine.status().ready;
            self.health.tell(ready).await;
        }
    }

    /// Lets the machine step through the events, then does what it wants.
    async fn turn(&mut self) -> Result<(), NodeError> {
        self.replied.clear();
        let mut events = mem::take(&mut self.events);
        let t = if self.journal.is_some() { monotonic_ns() } else { 0 };
        for event in events.drain(..) {
            let passing = self.points.watches(Place::Receive).then(|| received(&event)).flatten();
            if let Some((kind, txn)) = passing
                && let Some(reached) = self.points.pass(Side::Before, Place::Receive, kind, txn)
            {
                self.settle().await?;
                self.stop_at(reached).await;
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
            if let Some((kind, txn)) = passing
                && let Some(reached) = self.points.pass(Side::After, Place::Receive, kind, txn)
            {
                self.settle().await?;
                self.stop_at(reached).await;
            }
        }
        self.settle().await?;
        events.clear();
        self.events = events;
        Ok(())
    }

    /// Performs every effect that is wanted, in order, behind the journal.
    async fn settle(&mut self) -> Result<(), NodeError> {
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
        let passing = self
            .points
            .watches(Place::Send)
            .then(|| (message.body.kind(), message.body.txns().first().copied()));
        self.pass(Side::Before, Place::Send, passing).await;
        match self.sending.get_mut(wire::node_to_wire(to) as usize) {
            Some(sending) => sending.push(wire::to_wire(message)),
            None => tracing::error!("a message for {to}, which is no peer: {message:?}"),
        }
        self.pass(Side::After, Place::Send, passing).await;
    }

    async fn reply(&mut self, call: CallId, outcome: Reply) {
        let passing = self
            .points
            .watches(Place::Reply)
            .then(|| (outcome.kind(), points::outcome_txn(&outcome)));
        self.pass(Side::Before, Place::Reply, passing).await;
        if let Some(Caller { reply, meter, _slot }) = self.callers.remove(&call) {
            // A client that has gone will never know; its transaction went on without it.
            if reply.send(outcome) && self.points.any() {
                let before = self.replied.iter().rfind(|(it, _)| Arc::ptr_eq(it, &meter));
                let gone = before.map_or(0, |(_, gone)| *gone).max(meter.ended()) + 1;
                self.replied.push((meter, gone));
            }
        }
        self.pass(Side::After, Place::Reply, passing).await;
    }

    /// Hands over what the turn has gathered: one force, one batch a peer.
    fn flush(&mut self) {
        if self.force > 0 {
            self.store.force(mem::take(&mut self.force));
        }
        for (n, outbox) in self.peers.outboxes() {
            outbox.send(&mut self.sending[n]);
        }
    }

    /// Stops if what passes here meets the point that is armed.
    async fn pass(&mut self, side: Side, place: Place, passing: Option<Passing>) {
        if let Some((kind, txn)) = passing
            && let Some(reached) = self.points.pass(side, place, kind, txn)
        {
            self.stop_at(reached).await;
        }
    }

    async fn stop_at(&mut self, reached: Reached) {
        self.drain().await;
        reached.stop();
    }

    /// Lets all that was done so far come as far as the kernel, if it can be soon.
    async fn drain(&mut self) {
        self.flush();
        let until = Instant::now() + DRAIN;
        let gone = |this: &Self| {
            this.peers.outboxes().all(|(_, outbox)| outbox.drained())
                && this.replied.iter().all(|(meter, gone)| meter.ended() >= *gone)
        };
        while !gone(self) && Instant::now() < until {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What passes a point: its kind, and the transaction that it is about.
type Passing = (&'static str, Option<TxnId>);

/// What a point would call this event, if it is one that is received.
fn received(event: &Event) -> Option<Passing> {
    match event {
        Event::Message { message, .. } => {
            Some((message.body.kind(), message.body.txns().first().copied()))
        }
        Event::Client { request, .. } => Some((request.kind(), None)),
        Event::Persisted(_) | Event::Timer(_) | Event::ReadResult { .. } => None,
    }
}

/// The clock that all processes of a machine share.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock");
    u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX)
}
