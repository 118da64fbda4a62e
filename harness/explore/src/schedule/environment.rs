//! The environment of a machine in a schedule: the memory model of the store, a network that takes
//! every message, and timers that expire when the schedule says so. What takes time in a real node is
//! passed on to the caller, for drivers with a clock.

use std::{collections::BTreeSet, time::Duration};

use protocol::{
    CallId, Effect, Event, Key, KeyRange, Lsn, Message, Node, Page, RangeSummary, Record, Reply,
    Rule, TimerId, TxnId, Value, Version,
    driver::{Clients, Environment, Network, Operator, Range, Storage, Timers},
};
use records::{Memory, PageSize};

use super::{
    ScheduleSetup,
    canonical::without_round,
    observation::{Observation, observe_append, observe_send},
};

/// What a step did that is visible outside the host, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepEffects {
    /// Messages that this node sent, with their receivers.
    pub sent: Vec<(Node, Message)>,
    /// What the invariant checker is told.
    pub observations: Vec<Observation>,
    /// Every effect that the machine requested.
    pub effects: Vec<Effect>,
    /// The read results that returned to the machine within the step, each with the effects that it
    /// requested in turn.
    pub reads: Vec<(Event, Vec<Effect>)>,
    /// The effects that were performed and take time, for a driver with a clock.
    pub timed: Vec<TimedEffect>,
}

/// An effect that takes time, or whose consequences do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimedEffect {
    /// A record was appended. It must become durable some time.
    Append,
    /// The records appended so far must become durable soon.
    Force,
    /// A timer was set.
    SetTimer {
        /// The timer.
        id: TimerId,
        /// When it expires, from now.
        after: Duration,
    },
    /// A client was replied to.
    Reply {
        /// The call.
        call: CallId,
        /// The reply.
        reply: Reply,
    },
    /// The machine stopped its process.
    Halt,
}

impl StepEffects {
    /// Adds the panic, if there was one.
    ///
    /// What a machine requests in a step that panics means nothing. A simulation goes on nevertheless,
    /// and everything that was requested takes its time.
    pub(super) fn with_panic<T>(mut self, result: Result<T, String>) -> Self {
        if let Err(message) = result {
            self.observations.push(Observation::Panicked(message));
            self.timed = self.effects.iter().filter_map(TimedEffect::of).collect();
        }
        self
    }
}

impl TimedEffect {
    /// The effect, if it is one that takes time.
    fn of(effect: &Effect) -> Option<Self> {
        match effect.clone() {
            Effect::Append(_) => Some(TimedEffect::Append),
            Effect::Force(_) => Some(TimedEffect::Force),
            Effect::SetTimer { id, after } => Some(TimedEffect::SetTimer { id, after }),
            Effect::Reply { call, reply } => Some(TimedEffect::Reply { call, reply }),
            Effect::Halt { .. } => Some(TimedEffect::Halt),
            Effect::Send { .. }
            | Effect::Serve { .. }
            | Effect::ServeKeys { .. }
            | Effect::ServePage { .. }
            | Effect::Copy { .. }
            | Effect::Checkpoint { .. }
            | Effect::Summarize { .. }
            | Effect::Check { .. }
            | Effect::Lost { .. }
            | Effect::Refuse { .. }
            | Effect::Warn(_) => None,
        }
    }
}

/// The entry of a key is damaged.
#[derive(Debug)]
pub(super) struct DamagedEntry(Key);

/// The environment of one process of a host.
pub(super) struct HostEnvironment<'a> {
    pub(super) setup: &'a ScheduleSetup,
    pub(super) node: Node,
    pub(super) store: &'a mut Memory,
    pub(super) timers: &'a mut BTreeSet<TimerId>,
    pub(super) step_effects: &'a mut StepEffects,
}

impl Storage for HostEnvironment<'_> {
    type Error = DamagedEntry;

    fn append(&mut self, record: Record) {
        let StepEffects { observations, timed, .. } = &mut *self.step_effects;
        if let Record::Heal { key, .. } = &record
            && self.setup.rules.keep(Rule::LateHealDropped)
        {
            assert!(self.store.is_damaged(key), "an entry is replaced that is not damaged: {key}");
        }
        observe_append(&record, self.store, self.setup.commit, observations);
        self.store.append(record);
        timed.push(TimedEffect::Append);
    }

    /// A schedule says when, and how far: `Step::Force`.
    fn force(&mut self, _: Lsn) {
        self.step_effects.timed.push(TimedEffect::Force);
    }

    fn get(&mut self, key: &Key) -> Result<Option<(Version, Value)>, DamagedEntry> {
        if self.store.is_damaged(key) {
            return Err(DamagedEntry(key.clone()));
        }
        let found = self.store.get(key).cloned();
        self.step_effects.observations.push(Observation::Served(key.clone(), found.clone()));
        Ok(found)
    }

    fn page(&mut self, range: &KeyRange) -> Result<Page, DamagedEntry> {
        let size = PageSize { entries_max: range.limit as usize, bytes_max: usize::MAX };
        let page = self.store.current().page(range.start(), range.to.as_ref(), size);
        let page = records::page(page.map_err(DamagedEntry)?);
        let found = page.entries.iter().map(|(key, version, value)| {
            Observation::Served(key.clone(), Some((*version, value.clone())))
        });
        self.step_effects.observations.extend(found);
        Ok(page)
    }

    fn damaged_key(DamagedEntry(key): &DamagedEntry) -> Option<Key> {
        Some(key.clone())
    }

    /// The tables are what is durable.
    fn checkpoint(&mut self, upto: Lsn) -> bool {
        self.store.synced() >= upto
    }

    fn summarize(&mut self, range: &Range, below: TxnId) -> Result<RangeSummary, DamagedEntry> {
        let Range { after, upto, rows_max } = range;
        let rows_max = *rows_max as usize;
        let rows = self.store.current().summarize(after.as_ref(), upto.as_ref(), rows_max, below);
        Ok(records::range_summary(rows))
    }

    fn is_damaged_entry(_: &DamagedEntry) -> bool {
        true
    }
}

impl Network for HostEnvironment<'_> {
    fn send(&mut self, to: Node, message: Message) {
        let StepEffects { sent, observations, .. } = &mut *self.step_effects;
        observe_send(&message.body, observations);
        let messages = self.setup.messages(self.node, to, message);
        sent.extend(messages.into_iter().map(|message| (to, message)));
    }
}

impl Timers for HostEnvironment<'_> {
    fn set_timer(&mut self, id: TimerId, after: Duration) {
        self.timers.insert(if self.setup.canonical { without_round(id) } else { id });
        self.step_effects.timed.push(TimedEffect::SetTimer { id, after });
    }
}

impl Clients for HostEnvironment<'_> {
    fn reply(&mut self, call: CallId, reply: Reply) {
        let StepEffects { observations, timed, .. } = &mut *self.step_effects;
        if let Reply::Committed { version } = reply {
            observations.push(Observation::Published(version));
        }
        observations.push(Observation::Replied(call, reply.clone()));
        timed.push(TimedEffect::Reply { call, reply });
    }
}

impl Operator for HostEnvironment<'_> {
    /// Entries rot here, and each read shows it; none is lost otherwise.
    fn lost(&mut self, key: &Key, version: Version, _: Option<Version>) {
        panic!("an entry is taken for lost that is not: {key} of version {version}");
    }
}

impl Environment for HostEnvironment<'_> {
    fn stepped(&mut self, event: &Event, effects: &[Effect]) {
        self.step_effects.reads.push((event.clone(), effects.to_vec()));
    }
}
