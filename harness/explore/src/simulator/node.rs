//! A node in virtual time: its host, its process's timers and its disk, and what becomes of the
//! effects of a step.

use std::{collections::BTreeMap, mem};

use protocol::{Body, CallId, Effect, Event, Lsn, Message, Node, Record, Reply, TimerId, TxnId};
use rand::RngExt as _;

use super::{engine::Engine, queue::SimEvent, run::MachineInput};
use crate::schedule::{Observation, ReplicaDisks, ScheduleHost, Step, StepEffects, TimedEffect};

/// A record that nobody waits for is forced after this time.
const LAZY_FORCE_DELAY: u64 = 10_000_000;

/// A node and its process.
pub(super) struct SimulatedNode {
    pub(super) host: ScheduleHost,
    /// The number of processes that have ended. Events that were scheduled for an earlier one are
    /// void.
    pub(super) generation: u64,
    /// The pause that is in effect.
    pub(super) paused: Option<u64>,
    /// Events that wait for the end of the pause.
    pub(super) deferred: Vec<SimEvent>,
    /// The disk of the process, and of its second instance.
    pub(super) disks: [Disk; 2],
    /// By instance and timer: which setting of the timer is the last.
    pub(super) timers: BTreeMap<(bool, TimerId), u64>,
}

/// The forces of one process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Disk {
    /// A force is in progress.
    busy: bool,
    /// Another force was requested meanwhile.
    requested: bool,
}

impl SimulatedNode {
    pub(super) fn new(host: ScheduleHost) -> Self {
        SimulatedNode {
            host,
            generation: 0,
            paused: None,
            deferred: Vec::new(),
            disks: [Disk::default(); 2],
            timers: BTreeMap::new(),
        }
    }

    /// The process has ended: everything in memory is lost.
    pub(super) fn end_process(&mut self) {
        self.generation += 1;
        self.paused = None;
        self.deferred.clear();
        self.disks = [Disk::default(); 2];
        self.timers.clear();
    }
}

/// The index of a node.
pub(super) fn node_index(node: Node) -> usize {
    match node {
        Node::Master => 0,
        Node::Replica(slot) => slot.into(),
    }
}

/// The replicas' disks, for the invariant checker.
pub(super) struct NodeDisks<'a>(pub(super) &'a [SimulatedNode]);

impl NodeDisks<'_> {
    fn is_durable(&self, slot: u8, txn: TxnId, vote_suffices: bool) -> bool {
        // While the cluster starts, some nodes do not exist yet.
        let Some(node) = self.0.get(usize::from(slot)) else { return true };
        if !node.host.intact() {
            return true;
        }
        let durable = node.host.store().durable();
        match durable.facts().of_txn(txn) {
            Some(Record::Prepare { .. }) => vote_suffices,
            Some(Record::Commit { .. }) => true,
            _ => txn < durable.facts().watermark(),
        }
    }
}

impl ReplicaDisks for NodeDisks<'_> {
    fn has_vote(&self, slot: u8, txn: TxnId) -> bool {
        self.is_durable(slot, txn, true)
    }

    fn has_commit(&self, slot: u8, txn: TxnId) -> bool {
        self.is_durable(slot, txn, false)
    }
}

impl Engine<'_> {
    /// The number of processes of a node that have ended.
    pub(super) fn generation(&self, node: Node) -> u64 {
        // While the cluster starts, some nodes do not exist yet.
        self.nodes.get(node_index(node)).map_or(0, |node| node.generation)
    }

    /// Takes up what a machine's step did: checks the invariants, then schedules what takes time and
    /// sends the messages; or crashes the process before all of that has happened.
    pub(super) fn perform(
        &mut self,
        node: Node,
        second_instance: bool,
        input: Option<MachineInput>,
        step_effects: StepEffects,
    ) {
        self.counters.machine_steps += 1;
        let StepEffects { sent, observations, effects, reads, timed } = step_effects;
        self.record_machine_step(node, input, &effects);
        for (event, effects) in reads {
            self.record_machine_step(node, Some(MachineInput::Event(event)), &effects);
        }
        if !observations.is_empty() {
            let disks = NodeDisks(&self.nodes);
            self.checker.observe(node, &observations, &disks, self.plan.setup.replicas);
        }
        self.check_reads(node, &observations, &sent);
        if self.crashes_mid_step(node, &effects) {
            return self.crash_mid_step(node, timed, sent);
        }
        self.schedule_timed(node, second_instance, timed);
        for (to, message) in sent {
            self.send(node, to, message);
        }
    }

    fn schedule_timed(&mut self, node: Node, second_instance: bool, timed: Vec<TimedEffect>) {
        let index = node_index(node);
        let generation = self.nodes[index].generation;
        let mut appended = false;
        for effect in timed {
            match effect {
                TimedEffect::Append => appended = true,
                TimedEffect::Force => self.force(node, second_instance),
                TimedEffect::SetTimer { id, after } => {
                    let set = self.queue.sequence;
                    self.nodes[index].timers.insert((second_instance, id), set);
                    let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX / 4);
                    let timer = SimEvent::Timer { node, second_instance, id, generation, set };
                    self.queue.schedule(after, timer);
                }
                TimedEffect::Reply { call, reply } => self.send_reply(call, reply),
                TimedEffect::Halt => {
                    if !self.nodes[index].host.up() {
                        self.process_ended(node);
                    }
                }
            }
        }
        if appended && !self.nodes[index].disks[usize::from(second_instance)].busy {
            let lazy_force = SimEvent::LazyForce { node, second_instance, generation };
            self.queue.schedule(LAZY_FORCE_DELAY, lazy_force);
        }
    }

    pub(super) fn expire_timer(
        &mut self,
        node: Node,
        second_instance: bool,
        id: TimerId,
        generation: u64,
        set: u64,
    ) {
        let simulated = &mut self.nodes[node_index(node)];
        if simulated.generation != generation
            || simulated.timers.get(&(second_instance, id)) != Some(&set)
        {
            return;
        }
        simulated.timers.remove(&(second_instance, id));
        if let Some(step_effects) =
            simulated.host.expire_timer(&self.plan.setup, id, second_instance)
        {
            self.record_step(|| Step::Timer { node, id, second_instance });
            let input = MachineInput::Event(Event::Timer(id));
            self.perform(node, second_instance, Some(input), step_effects);
        }
    }

    // ---- Disks ----

    /// Starts a force of everything appended so far, or notes that one is requested.
    pub(super) fn force(&mut self, node: Node, second_instance: bool) {
        let index = node_index(node);
        let simulated = &mut self.nodes[index];
        let disk = &mut simulated.disks[usize::from(second_instance)];
        if disk.busy {
            disk.requested = true;
            return;
        }
        let upto = simulated.host.forceable(second_instance);
        if upto == 0 {
            return;
        }
        *disk = Disk { busy: true, requested: false };
        let generation = simulated.generation;
        let slow = self.plan.slow_disk.is_some_and(|slow| usize::from(slow) == index);
        let (least, most) = self.plan.force_time;
        let after = self.draw(least, most) * if slow { 10 } else { 1 };
        self.queue.schedule(after, SimEvent::Forced { node, second_instance, generation, upto });
    }

    /// A force completes.
    pub(super) fn forced(&mut self, node: Node, second_instance: bool, generation: u64, upto: Lsn) {
        let simulated = &mut self.nodes[node_index(node)];
        if simulated.generation != generation {
            return;
        }
        let disk = mem::take(&mut simulated.disks[usize::from(second_instance)]);
        let lsn = simulated.host.durable_position(second_instance) + upto;
        if let Some(step_effects) = simulated.host.force(&self.plan.setup, upto, second_instance) {
            self.record_step(|| Step::Force { node, upto, second_instance });
            let input = MachineInput::Event(Event::Persisted(lsn));
            self.perform(node, second_instance, Some(input), step_effects);
        }
        if disk.requested {
            self.force(node, second_instance);
        } else if self.nodes[node_index(node)].host.forceable(second_instance) > 0 {
            let lazy_force = SimEvent::LazyForce { node, second_instance, generation };
            self.queue.schedule(LAZY_FORCE_DELAY, lazy_force);
        }
    }

    // ---- Invariants between steps ----

    /// Checks R1 where it may have changed: at a replica that has settled a transaction or starts to
    /// serve, and at all replicas when a write is decided.
    fn check_reads(&mut self, node: Node, observations: &[Observation], sent: &[(Node, Message)]) {
        for observation in observations {
            let (txn, everywhere) = match observation {
                Observation::Decided(txn) | Observation::Published(txn) => (*txn, true),
                Observation::Settled { txn, .. } => (*txn, false),
                _ => continue,
            };
            let Some(key) = self.checker.key_of(txn).cloned() else { continue };
            for replica in self.nodes.iter().skip(1) {
                if everywhere || replica.host.node() == node {
                    self.checker.check_read(&key, replica.host.readable_version(&key));
                }
            }
        }
        if sent.iter().any(|(_, message)| matches!(message.body, Body::FenceOk { .. })) {
            let host = &self.nodes[node_index(node)].host;
            for key in &self.keys {
                self.checker.check_read(key, host.readable_version(key));
            }
        }
    }

    // ---- Crashes in the middle of a step ----

    /// Whether the process crashes before the effects of this step have all happened. Only steps with
    /// a critical effect are considered: a record, a reply, a vote, a decision.
    fn crashes_mid_step(&mut self, node: Node, effects: &[Effect]) -> bool {
        let is_critical = |effect: &Effect| match effect {
            Effect::Append(_) | Effect::Reply { .. } => true,
            Effect::Send { message, .. } => matches!(
                message.body,
                Body::VoteYes { .. }
                    | Body::Decide { .. }
                    | Body::Ack { .. }
                    | Body::FenceOk { .. }
                    | Body::PeerAnswer { .. }
            ),
            _ => false,
        };
        let host = &self.nodes[node_index(node)].host;
        self.plan.mid_step_crashes > 0
            && self.under_load
            && host.up()
            && !host.has_second_instance()
            && effects.iter().any(is_critical)
            && self.chance(self.plan.mid_step_crashes, 10_000)
    }

    /// Crashes the process after some of its replies and messages have left.
    fn crash_mid_step(&mut self, node: Node, timed: Vec<TimedEffect>, sent: Vec<(Node, Message)>) {
        let replies = timed.into_iter().filter_map(|effect| match effect {
            TimedEffect::Reply { call, reply } => Some((call, reply)),
            _ => None,
        });
        for (call, reply) in replies {
            if self.chance(1, 2) {
                self.send_reply(call, reply);
            }
        }
        let count = self.rng.random_range(0..=sent.len());
        for (to, message) in sent.into_iter().take(count) {
            self.send(node, to, message);
        }
        self.counters.mid_step_crashes += 1;
        let power = self.chance(1, 2);
        self.crash(node, power);
    }

    fn send_reply(&mut self, call: CallId, reply: Reply) {
        let after = self.message_delay();
        self.queue.schedule(after, SimEvent::Reply { call, reply: Some(reply) });
    }
}
