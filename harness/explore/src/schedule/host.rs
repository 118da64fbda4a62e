//! A schedule host: one node's store and, while it is up, its process, without time. Every step of a
//! schedule is a method that returns what the world can see of it.

use std::collections::BTreeSet;

use protocol::{
    Body, CallId, Config, Event, Key, Lsn, Machine, Message, Node, Record, Request, Rule, StoreId,
    TimerId, Version,
    driver::{self, Halt},
};
use records::Memory;

use super::{
    ScheduleSetup,
    canonical::{WIPED, initial_store, remove_idle_timers},
    environment::{HostEnvironment, StepEffects, TimedEffect},
    observation::{Observation, decided},
    panics::catch_panic,
};

/// A node of a cluster without time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScheduleHost {
    node: Node,
    /// The id of the store; a wiped node has another.
    pub(super) store_id: StoreId,
    store: Memory,
    process: Option<Process>,
    /// The machine stopped its process, and would do so again after a restart.
    stopped: bool,
    /// The number of processes that have started, from which their nonces follow. Not counted in
    /// canonical form: no store is copied, so nothing depends on the nonces.
    starts: u64,
    /// A second process on the same store, which each takes for its own.
    second_instance: Option<(Process, Memory)>,
}

/// A process that is up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) machine: Machine,
    /// The timers that are set. A schedule says when each expires.
    pub(super) timers: BTreeSet<TimerId>,
}

impl ScheduleHost {
    /// A node with an empty store that is allowed to bootstrap, its process started.
    #[must_use]
    pub fn fresh(setup: &ScheduleSetup, node: Node) -> (Self, StepEffects) {
        let mut host = ScheduleHost {
            node,
            store_id: initial_store(node),
            store: Memory::new(),
            process: None,
            stopped: false,
            starts: 0,
            second_instance: None,
        };
        let step_effects = host.restart(setup).expect("the process is not up yet");
        (host, step_effects)
    }

    // ---- State ----

    /// The node.
    #[must_use]
    pub fn node(&self) -> Node {
        self.node
    }

    /// Whether the process is up.
    #[must_use]
    pub fn up(&self) -> bool {
        self.process.is_some()
    }

    /// Whether the machine stopped its process.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Whether a second instance is up.
    #[must_use]
    pub fn has_second_instance(&self) -> bool {
        self.second_instance.is_some()
    }

    /// Whether the node has the store that it started with.
    #[must_use]
    pub fn intact(&self) -> bool {
        self.store_id == initial_store(self.node)
    }

    /// The machine, while the process is up.
    #[must_use]
    pub fn machine(&self) -> Option<&Machine> {
        self.process.as_ref().map(|process| &process.machine)
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Memory {
        &self.store
    }

    /// The process, if it is up, and its store; then the second instance, if there is one.
    pub(super) fn instances(&self) -> impl Iterator<Item = (Option<&Process>, &Memory)> {
        let second = self.second_instance.iter().map(|(process, store)| (Some(process), store));
        std::iter::once((self.process.as_ref(), &self.store)).chain(second)
    }

    fn process(&self, second_instance: bool) -> Option<&Process> {
        if second_instance {
            self.second_instance.as_ref().map(|(process, _)| process)
        } else {
            self.process.as_ref()
        }
    }

    fn process_mut(&mut self, second_instance: bool) -> Option<&mut Process> {
        if second_instance {
            self.second_instance.as_mut().map(|(process, _)| process)
        } else {
            self.process.as_mut()
        }
    }

    /// The timers that are set at the process or its second instance.
    pub fn timers(&self, second_instance: bool) -> impl Iterator<Item = TimerId> {
        let process = self.process(second_instance);
        process.into_iter().flat_map(|process| process.timers.iter().copied())
    }

    /// How many records are not durable.
    #[must_use]
    pub fn unforced(&self) -> usize {
        let (inherited, own) = self.store.tail();
        inherited.len() + own.len()
    }

    /// Whether the process acts: it is up, and the record that its start depends on is durable.
    #[must_use]
    pub fn acts(&self) -> bool {
        let starts =
            |record: &Record| matches!(record, Record::Epoch { .. } | Record::Incarnation { .. });
        self.up() && !self.store.tail().1.iter().any(starts)
    }

    /// How many records the process, or its second instance, has appended since its last force.
    #[must_use]
    pub fn forceable(&self, second_instance: bool) -> Lsn {
        let store = if second_instance {
            self.second_instance.as_ref().map(|(_, store)| store)
        } else {
            Some(&self.store)
        };
        store.map_or(0, |store| store.last() - store.synced())
    }

    /// The last durable position of the process, or of its second instance.
    #[must_use]
    pub fn durable_position(&self, second_instance: bool) -> Lsn {
        match &self.second_instance {
            Some((_, store)) if second_instance => store.synced(),
            _ => self.store.synced(),
        }
    }

    /// The version that a read of a key would return at this replica now, if it would be served.
    pub(crate) fn readable_version(&self, key: &Key) -> Option<Option<Version>> {
        let served = self.machine()?.serves(key) && !self.store.is_damaged(key);
        served.then(|| self.store.get(key).map(|(version, _)| *version))
    }

    /// The configuration that the process starts with.
    #[must_use]
    pub fn config(&self, setup: &ScheduleSetup) -> Config {
        setup.config(self.node, self.store_id, self.starts)
    }

    // ---- Steps. Each returns `None`, and changes nothing, if it is not possible. ----

    /// Delivers a message.
    pub fn deliver(
        &mut self,
        setup: &ScheduleSetup,
        from: Node,
        message: &Message,
        second_instance: bool,
    ) -> Option<StepEffects> {
        self.step(setup, Event::Message { from, message: message.clone() }, second_instance)
    }

    /// Takes a client's request.
    pub fn call(
        &mut self,
        setup: &ScheduleSetup,
        call: CallId,
        request: &Request,
    ) -> Option<StepEffects> {
        let event = Event::Client { call, request: request.clone() };
        let mut step_effects = self.step(setup, event, false)?;
        let started =
            step_effects.sent.iter().find_map(|(_, message)| match (&message.body, request) {
                (Body::Prepare { txn, .. }, Request::Write(_)) => Some(*txn),
                _ => None,
            });
        if let Some(txn) = started {
            step_effects.observations.insert(0, Observation::Started(call, txn));
        }
        step_effects.observations.insert(0, Observation::Invoked(call, request.clone()));
        Some(step_effects)
    }

    /// Makes the first `upto` records since the last force durable, and with them the inherited ones.
    pub fn force(
        &mut self,
        setup: &ScheduleSetup,
        upto: Lsn,
        second_instance: bool,
    ) -> Option<StepEffects> {
        if upto == 0 || upto > self.forceable(second_instance) {
            return None;
        }
        let store =
            if second_instance { &mut self.second_instance.as_mut()?.1 } else { &mut self.store };
        let (inherited, own) = store.tail();
        let count = inherited.len() + usize::try_from(upto).ok()?;
        let decided = decided(inherited.iter().chain(own).take(count));
        let lsn = store.synced() + upto;
        let synced = catch_panic(|| store.sync_up_to(lsn));
        if synced.is_err() {
            return Some(StepEffects::default().with_panic(synced));
        }
        if setup.canonical {
            store.rebase();
        }
        let mut step_effects = self.step(setup, Event::Persisted(lsn), second_instance)?;
        if setup.canonical
            && let Some(process) = self.process_mut(second_instance)
        {
            process.machine.rebase(lsn);
        }
        step_effects.observations.splice(0..0, decided);
        Some(step_effects)
    }

    /// Expires a timer.
    pub fn expire_timer(
        &mut self,
        setup: &ScheduleSetup,
        id: TimerId,
        second_instance: bool,
    ) -> Option<StepEffects> {
        if !self.process_mut(second_instance)?.timers.remove(&id) {
            return None;
        }
        self.step(setup, Event::Timer(id), second_instance)
    }

    /// Kills the process by SIGKILL. Of the records that are not durable the first `keep` stay with
    /// the operating system.
    pub fn kill(&mut self, keep: usize) -> Option<StepEffects> {
        if self.process.is_none() || keep > self.unforced() {
            return None;
        }
        let inherited = self.store.tail().0.len();
        if keep < inherited {
            // The operating system already has what the last crash left.
            return None;
        }
        self.store.write_up_to(self.store.synced() + (keep - inherited) as Lsn);
        self.store.kill();
        self.process = None;
        self.second_instance = None;
        Some(StepEffects::default())
    }

    /// Cuts the power. Of the records that are not durable the first `keep` survive.
    pub fn power_loss(&mut self, keep: usize) -> Option<StepEffects> {
        if self.process.is_none() || keep > self.unforced() {
            return None;
        }
        self.store.write_up_to(self.store.last());
        let (inherited, own) = self.store.tail();
        let observations = decided(inherited.iter().chain(own).take(keep));
        let lost = catch_panic(|| self.store.power_loss(keep));
        self.process = None;
        self.second_instance = None;
        Some(StepEffects { observations, ..StepEffects::default() }.with_panic(lost))
    }

    /// Starts the process on what the store retained.
    pub fn restart(&mut self, setup: &ScheduleSetup) -> Option<StepEffects> {
        if self.process.is_some() {
            return None;
        }
        self.starts += u64::from(!setup.canonical);
        let started = catch_panic(|| {
            let records = self.store.records();
            Machine::recover(self.config(setup), &records)
        });
        let (machine, effects) = match started {
            Ok(started) => started,
            Err(message) => {
                return Some(StepEffects::default().with_panic::<()>(Err(message)));
            }
        };
        self.process = Some(Process { machine, timers: BTreeSet::new() });
        self.stopped = false;
        let mut step_effects = StepEffects { effects, ..StepEffects::default() };
        let performed = catch_panic(|| self.perform(setup, &mut step_effects, false));
        Some(step_effects.with_panic(performed))
    }

    /// Starts a second process on the store of the first, as far as that has been written.
    pub fn start_second_instance(&mut self, setup: &ScheduleSetup) -> Option<StepEffects> {
        if self.second_instance.is_some()
            || self.process.is_none()
            || setup.rules.keep(Rule::ExclusiveStore)
        {
            return None;
        }
        self.starts += u64::from(!setup.canonical);
        let mut store = self.store.clone();
        store.write_up_to(store.last());
        store.kill();
        let records = store.records();
        let (machine, effects) = Machine::recover(self.config(setup), &records);
        self.second_instance = Some((Process { machine, timers: BTreeSet::new() }, store));
        let mut step_effects = StepEffects { effects, ..StepEffects::default() };
        let performed = catch_panic(|| self.perform(setup, &mut step_effects, true));
        Some(step_effects.with_panic(performed))
    }

    /// Ends the process and replaces its store by an empty one with another id.
    pub fn wipe(&mut self) -> Option<StepEffects> {
        self.store_id = StoreId(self.store_id.0 + WIPED);
        self.store = Memory::new();
        self.process = None;
        self.stopped = false;
        self.second_instance = None;
        Some(StepEffects::default())
    }

    /// Damages the entry of a key on the disk. With `found` the process finds it, if it is up.
    pub fn damage(&mut self, setup: &ScheduleSetup, key: &Key, found: bool) -> Option<StepEffects> {
        if self.second_instance.is_some() || !self.store.damage(key) {
            return None;
        }
        let found = found && self.up();
        let event = Event::Damaged { key: key.clone() };
        if found { self.step(setup, event, false) } else { Some(StepEffects::default()) }
    }

    // ---- Effects ----

    fn step(
        &mut self,
        setup: &ScheduleSetup,
        event: Event,
        second_instance: bool,
    ) -> Option<StepEffects> {
        let process = self.process_mut(second_instance)?;
        let mut step_effects = StepEffects::default();
        let stepped = catch_panic(|| process.machine.step(event, &mut step_effects.effects));
        let performed = stepped
            .and_then(|()| catch_panic(|| self.perform(setup, &mut step_effects, second_instance)));
        Some(step_effects.with_panic(performed))
    }

    fn perform(
        &mut self,
        setup: &ScheduleSetup,
        step_effects: &mut StepEffects,
        second_instance: bool,
    ) {
        let node = self.node;
        let (process, store) = match &mut self.second_instance {
            Some((process, store)) if second_instance => (process, store),
            _ => (self.process.as_mut().expect("it has just stepped"), &mut self.store),
        };
        let Process { machine, timers } = process;
        let effects = step_effects.effects.clone();
        let mut environment = HostEnvironment { setup, node, store, timers, step_effects };
        let halt = driver::perform_all(machine, effects, &mut environment);
        let halt = halt.expect("a damaged entry is reported to the machine");
        if setup.canonical {
            remove_idle_timers(process);
        }
        if let Some(Halt { kind, why }) = halt {
            step_effects.observations.push(Observation::Halted(kind, why));
            step_effects.timed.push(TimedEffect::Halt);
            if second_instance {
                self.second_instance = None;
            } else {
                store.write_up_to(store.last());
                store.kill();
                self.process = None;
                self.stopped = true;
            }
        }
    }
}

impl ScheduleSetup {
    /// The configuration of a node's machine, for one of its starts.
    fn config(&self, node: Node, store: StoreId, starts: u64) -> Config {
        Config {
            node,
            replicas: self.replicas,
            store,
            nonce: starts,
            bootstrap: true,
            commit: self.commit,
            rules: self.rules,
            timing: self.timing.clone(),
            scrub_interval: self.scrub_interval,
            sequence_above: 0,
        }
    }

    /// Every node: the master, then the replicas.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + use<> {
        std::iter::once(Node::Master).chain((1..=self.replicas).map(Node::Replica))
    }
}
