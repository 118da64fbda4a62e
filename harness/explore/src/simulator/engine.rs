//! One run of a cluster in virtual time. Everything random is drawn from the seed, in one order, so
//! that a seed determines its run bit for bit: a draw that is added, removed or moved changes every
//! run.

use std::collections::BTreeMap;

use protocol::{Key, Node, TxnId, Value};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    clients::{Call, Client, Workload},
    node::{SimulatedNode, node_index},
    plan::SimulationPlan,
    queue::{EventQueue, SimEvent},
    run::{Counters, FaultEvent, MachineInput, MachineStep, RunEvent, RunEventKind, SimulatedRun},
};
use crate::schedule::{
    HostView, InvariantChecker, Property, ScheduleHost, ScheduleSetup, Step, is_quiescent,
};

/// After all failures are repaired, every transaction must terminate within this time.
const TERMINATION_DEADLINE: u64 = 30_000_000_000;

/// The stream of the seed that drives the run, apart from those that drive the clients: more faults
/// must not change what the clients request.
const STREAM: u64 = u64::MAX;

/// A run in progress.
pub(super) struct Engine<'a> {
    pub(super) plan: &'a SimulationPlan,
    pub(super) workload: &'a Workload,
    /// Whether machine steps and the schedule are recorded.
    record: bool,
    pub(super) rng: ChaCha8Rng,
    pub(super) queue: EventQueue,
    /// The master, then the replicas.
    pub(super) nodes: Vec<SimulatedNode>,
    /// One-way partitions, and how many of each are in effect.
    pub(super) partitions: BTreeMap<(Node, Node), u32>,
    pub(super) clients: Vec<Client>,
    pub(super) calls: Vec<Call>,
    /// The number of calls whose clients are still waiting.
    pub(super) open_calls: u32,
    pub(super) keys: Vec<Key>,
    pub(super) checker: InvariantChecker,
    /// Clients send requests and faults are injected.
    pub(super) under_load: bool,
    history: Vec<RunEvent>,
    machine_steps: BTreeMap<Node, Vec<MachineStep>>,
    steps: Vec<Step>,
    pub(super) counters: Counters,
}

impl<'a> Engine<'a> {
    pub(super) fn new(plan: &'a SimulationPlan, workload: &'a Workload, record: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
        rng.set_stream(STREAM);
        Engine {
            plan,
            workload,
            record,
            rng,
            queue: EventQueue::default(),
            nodes: Vec::new(),
            partitions: BTreeMap::new(),
            clients: Vec::new(),
            calls: Vec::new(),
            open_calls: 0,
            keys: (0..plan.keys).map(|n| Key::from(format!("k{n}").as_str())).collect(),
            checker: InvariantChecker::new(false),
            under_load: true,
            history: Vec::new(),
            machine_steps: BTreeMap::new(),
            steps: Vec::new(),
            counters: Counters::default(),
        }
    }

    pub(super) fn run(mut self) -> SimulatedRun {
        self.start();
        self.run_until(|engine| engine.queue.now >= engine.plan.load_time);
        self.repair();
        let repaired = self.queue.now;
        self.run_until(|engine| {
            engine.queue.now > repaired + TERMINATION_DEADLINE || engine.is_quiescent()
        });
        if !self.is_quiescent() {
            self.checker.record_violation(Property::Termination);
        }
        self.scrub();
        self.read_every_key();
        self.check_final_state();
        SimulatedRun {
            history: self.history,
            machine_steps: self.machine_steps,
            steps: self.steps,
            hosts: self.nodes.into_iter().map(|node| node.host).collect(),
            violations: self.checker.violations(),
            ended: self.queue.now,
            counters: self.counters,
        }
    }

    // ---- Phases of a run ----

    fn start(&mut self) {
        let nodes: Vec<_> = self.plan.setup.nodes().collect();
        for node in nodes {
            let (host, step_effects) = ScheduleHost::fresh(&self.plan.setup, node);
            let config = host.config(&self.plan.setup);
            self.nodes.push(SimulatedNode::new(host));
            let input = MachineInput::Start { config, records: Vec::new() };
            self.perform(node, false, Some(input), step_effects);
        }
        for client in 0..self.plan.clients {
            self.add_client(client, client.into());
            let after = self.draw(0, self.plan.think_time_max);
            self.queue.schedule(after, SimEvent::NextRequest { client: client as usize });
        }
        for (fault, mean) in &self.plan.faults {
            let after = self.draw(0, 2 * mean);
            self.queue.schedule(after, SimEvent::Inject(*fault));
        }
    }

    pub(super) fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let Some(event) = self.queue.pop() else { return };
            self.dispatch(event);
        }
    }

    /// Ends every fault and the load. What is scheduled already still happens.
    fn repair(&mut self) {
        self.under_load = false;
        self.partitions.clear();
        self.fault_event(FaultEvent::Heal, None);
        for index in 0..self.nodes.len() {
            let node = self.nodes[index].host.node();
            if let Some(pause) = self.nodes[index].paused {
                self.queue.schedule(0, SimEvent::Resume { node, pause });
            }
            if self.nodes[index].host.has_second_instance() {
                self.crash(node, false);
            }
            if !self.nodes[index].host.up() {
                self.queue.schedule(0, SimEvent::Restart { node });
            }
        }
    }

    fn is_quiescent(&self) -> bool {
        self.open_calls == 0 && self.nodes.iter().all(|node| is_quiescent(&node.host))
    }

    /// Where there is a scrub, waits until it has found and healed what has rotted, however rarely it is read.
    fn scrub(&mut self) {
        let ScheduleSetup { scrub_interval, peers, .. } = self.plan.setup;
        let runs = self.nodes.iter().all(|node| node.host.intact() && node.host.up());
        if scrub_interval.is_zero() || !peers || !runs || !self.checker.all_hold() {
            return;
        }
        let until = self.queue.now + TERMINATION_DEADLINE;
        self.run_until(|engine| engine.queue.now > until || engine.is_healed());
        if !self.is_healed() {
            self.checker.record_violation(Property::Termination);
        }
    }

    /// Whether no entry is damaged that is intact at another replica.
    fn is_healed(&self) -> bool {
        let damaged = |node: &SimulatedNode, key: &Key| node.host.store().is_damaged(key);
        let replicas = &self.nodes[1..];
        self.keys.iter().all(|key| {
            let count = replicas.iter().filter(|node| damaged(node, key)).count();
            count == 0 || count == replicas.len()
        })
    }

    /// Reads every key through the master, after all other operations.
    fn read_every_key(&mut self) {
        for key in 0..self.plan.keys {
            let client = self.clients.len();
            self.add_client(self.plan.clients + key, 1_000_000 + u64::from(key));
            let request = self.get_request(self.keys[key as usize].clone());
            let call = self.invoke(client, request);
            self.run_until(|engine| engine.calls[call].completed);
        }
    }

    /// Checks the final state: every replica has the same data, and it is the last committed.
    fn check_final_state(&mut self) {
        let views: Vec<_> =
            self.nodes.iter().map(|node| HostView::of(&node.host, &self.keys)).collect();
        let terminated = !self.checker.is_violated(Property::Termination);
        let replicas = self.plan.setup.replicas;
        self.checker.check_state(|slot| &views[usize::from(slot)], replicas);
        let entries = |node: &SimulatedNode| -> Vec<(Key, TxnId, Value)> {
            let entries = node.host.store().entries();
            entries.map(|(key, (version, value))| (key.clone(), *version, value.clone())).collect()
        };
        let mut intact = self.nodes.iter().skip(1).filter(|node| node.host.intact());
        let first = intact.next().map(entries);
        if terminated && !intact.all(|node| Some(entries(node)) == first) {
            self.checker.record_violation(Property::Ac1);
        }
    }

    // ---- Events ----

    fn dispatch(&mut self, event: SimEvent) {
        let Some(event) = self.defer_if_paused(event) else { return };
        match event {
            SimEvent::Arrival { from, to, generations, message } => {
                self.arrive(from, to, generations, *message);
            }
            SimEvent::Timer { node, second_instance, id, generation, set } => {
                self.expire_timer(node, second_instance, id, generation, set);
            }
            SimEvent::Forced { node, second_instance, generation, upto } => {
                self.forced(node, second_instance, generation, upto);
            }
            SimEvent::LazyForce { node, second_instance, generation } => {
                if self.generation(node) == generation {
                    self.force(node, second_instance);
                }
            }
            SimEvent::NextRequest { client } => self.next_request(client),
            SimEvent::Call { call } => self.call(call),
            SimEvent::Reply { call, reply } => self.complete(call, reply),
            SimEvent::ClientTimeout { call } => self.complete(call, None),
            SimEvent::Inject(fault) => self.inject(fault),
            SimEvent::EarlyPowerLoss { node, generation } => {
                if self.under_load && self.generation(node) == generation {
                    self.crash(node, true);
                }
            }
            SimEvent::Restart { node } => self.restart(node),
            SimEvent::Resume { node, pause } => self.resume(node, pause),
            SimEvent::Heal { from, to } => self.heal(from, to),
        }
    }

    /// An event for a paused process waits until it resumes. A second instance runs while the first
    /// process is paused.
    fn defer_if_paused(&mut self, event: SimEvent) -> Option<SimEvent> {
        let (node, second_instance) = match &event {
            SimEvent::Arrival { to, .. } => (*to, None),
            SimEvent::Call { .. } => (Node::Master, None),
            SimEvent::Timer { node, second_instance, .. }
            | SimEvent::Forced { node, second_instance, .. }
            | SimEvent::LazyForce { node, second_instance, .. } => (*node, Some(*second_instance)),
            _ => return Some(event),
        };
        let node = &mut self.nodes[node_index(node)];
        let for_second_instance =
            second_instance.unwrap_or_else(|| node.host.has_second_instance());
        if node.paused.is_some() && !for_second_instance {
            node.deferred.push(event);
            return None;
        }
        Some(event)
    }

    // ---- The record of the run ----

    pub(super) fn record_step(&mut self, step: impl FnOnce() -> Step) {
        if self.record {
            self.steps.push(step());
        }
    }

    pub(super) fn record_machine_step(
        &mut self,
        node: Node,
        input: Option<MachineInput>,
        effects: &[protocol::Effect],
    ) {
        if self.record {
            let step = MachineStep { time: self.queue.now, input, effects: effects.to_vec() };
            self.machine_steps.entry(node).or_default().push(step);
        }
    }

    pub(super) fn fault_event(&mut self, fault: FaultEvent, node: Option<Node>) {
        self.event(RunEventKind::Fault { fault, node });
    }

    pub(super) fn event(&mut self, kind: RunEventKind) {
        self.history.push(RunEvent { time: self.queue.now, kind });
    }

    // ---- Randomness ----

    pub(super) fn draw(&mut self, least: u64, most: u64) -> u64 {
        if most > least { self.rng.random_range(least..most) } else { least }
    }

    /// True in `favourable` of `all` cases. A chance of zero draws nothing.
    pub(super) fn chance(&mut self, favourable: u32, all: u32) -> bool {
        favourable > 0 && self.rng.random_range(0..all) < favourable
    }
}
