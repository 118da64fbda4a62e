//! Fault injection: kills, losses of power, pauses, partitions, wiped stores, second instances.

use std::mem;

use protocol::{Event, Node};
use rand::RngExt as _;

use super::{
    engine::Engine,
    node::{Disk, NodeDisks, node_index},
    plan::Fault,
    queue::SimEvent,
    run::{FaultEvent, MachineInput},
};
use crate::schedule::Step;

const MILLISECOND: u64 = 1_000_000;

impl Engine<'_> {
    /// Injects a fault and schedules the next one of its kind.
    pub(super) fn inject(&mut self, fault: Fault) {
        if !self.under_load {
            return;
        }
        if let Some((_, mean)) = self.plan.faults.iter().find(|(kind, _)| *kind == fault) {
            let after = self.draw(0, 2 * mean);
            self.queue.schedule(after, SimEvent::Inject(fault));
        }
        let replica = Node::Replica(self.rng.random_range(1..=self.plan.setup.replicas));
        match fault {
            Fault::KillMaster => self.crash(Node::Master, false),
            Fault::KillReplica => self.crash(replica, false),
            Fault::PowerMaster => self.crash(Node::Master, true),
            Fault::PowerReplica => self.crash(replica, true),
            Fault::PauseMaster => self.pause(Node::Master),
            Fault::PauseReplica => self.pause(replica),
            Fault::Partition => self.partition(),
            Fault::Wipe => {
                self.nodes[node_index(replica)].host.wipe();
                self.record_step(|| Step::Wipe { node: replica });
                self.fault_event(FaultEvent::Wipe, Some(replica));
                self.process_ended(replica);
            }
            Fault::SecondInstance => self.start_second_instance(),
            Fault::Damage => self.damage(replica),
        }
    }

    /// Damages the entry of a key. Half of the time the replica finds it at once, and else when the key is
    /// read.
    fn damage(&mut self, node: Node) {
        let key = self.keys[self.rng.random_range(0..self.keys.len())].clone();
        let found = self.chance(1, 2) && self.nodes[node_index(node)].paused.is_none();
        let is_found = found && self.nodes[node_index(node)].host.up();
        let host = &mut self.nodes[node_index(node)].host;
        let Some(step_effects) = host.damage(&self.plan.setup, &key, found) else { return };
        self.counters.damages += 1;
        self.record_step(|| Step::Damage { node, key: key.clone(), found });
        self.fault_event(FaultEvent::Damage, Some(node));
        if is_found {
            let input = MachineInput::Event(Event::Damaged { key });
            self.perform(node, false, Some(input), step_effects);
        }
    }

    /// Pauses the master and starts a second instance on its store.
    fn start_second_instance(&mut self) {
        if self.nodes[0].paused.is_none() {
            self.pause(Node::Master);
        }
        let started = self.nodes[0].host.start_second_instance(&self.plan.setup);
        if let Some(step_effects) = started {
            self.record_step(|| Step::SecondInstance { node: Node::Master });
            self.fault_event(FaultEvent::SecondInstance, Some(Node::Master));
            self.nodes[0].disks[1] = Disk::default();
            self.perform(Node::Master, true, None, step_effects);
        }
    }

    /// Kills a process, or cuts the power of its node. How many unforced records survive is random.
    pub(super) fn crash(&mut self, node: Node, power: bool) {
        let host = &mut self.nodes[node_index(node)].host;
        if !host.up() {
            return;
        }
        let (inherited, own) = host.store().tail();
        // A kill leaves what the operating system already has.
        let (least, most) = (inherited.len(), inherited.len() + own.len());
        let keep = self.rng.random_range(if power { 0..=most } else { least..=most });
        let crashed = if power { host.power_loss(keep) } else { host.kill(keep) };
        let Some(step_effects) = crashed else { return };
        self.record_step(|| {
            if power { Step::PowerLoss { node, keep } } else { Step::Kill { node, keep } }
        });
        let machines = self.nodes.iter().skip(1).filter_map(|replica| replica.host.machine());
        let in_doubt: usize = machines.map(|machine| machine.status().unsettled.len()).sum();
        self.counters.crashes += 1;
        self.counters.crashes_in_doubt += u64::from(in_doubt > 0);
        if node == Node::Master {
            self.counters.in_doubt_transactions += in_doubt as u64;
        }
        let fault = if power { FaultEvent::PowerLoss } else { FaultEvent::Kill };
        self.fault_event(fault, Some(node));
        let (disks, replicas) = (NodeDisks(&self.nodes), self.plan.setup.replicas);
        self.checker.observe(node, &step_effects.observations, &disks, replicas);
        self.process_ended(node);
    }

    /// A process has ended: its memory is lost, its connections are reset, and it restarts after a
    /// while.
    pub(super) fn process_ended(&mut self, node: Node) {
        self.nodes[node_index(node)].end_process();
        if node == Node::Master {
            let reset: Vec<_> = (0..)
                .zip(&self.calls)
                .filter(|(_, call)| call.arrived && !call.completed)
                .map(|(number, _)| number)
                .collect();
            for call in reset {
                let after = self.message_delay();
                self.queue.schedule(after, SimEvent::Reply { call, reply: None });
            }
        }
        let after = self.draw(MILLISECOND, self.plan.downtime_max);
        self.queue.schedule(after, SimEvent::Restart { node });
    }

    pub(super) fn restart(&mut self, node: Node) {
        let host = &mut self.nodes[node_index(node)].host;
        let records = host.store().records();
        let Some(step_effects) = host.restart(&self.plan.setup) else { return };
        let config = host.config(&self.plan.setup);
        self.record_step(|| Step::Restart { node });
        self.fault_event(FaultEvent::Restart, Some(node));
        let input = MachineInput::Start { config, records };
        self.perform(node, false, Some(input), step_effects);
        if self.chance(self.plan.early_power_losses, 1000) {
            let after = self.draw(0, 4 * self.plan.force_time.1);
            let generation = self.generation(node);
            self.queue.schedule(after, SimEvent::EarlyPowerLoss { node, generation });
        }
    }

    pub(super) fn pause(&mut self, node: Node) {
        let simulated = &mut self.nodes[node_index(node)];
        if simulated.paused.is_some() || !simulated.host.up() {
            return;
        }
        let pause = self.queue.sequence;
        simulated.paused = Some(pause);
        self.counters.other_faults += 1;
        self.fault_event(FaultEvent::Pause, Some(node));
        let after = self.draw(MILLISECOND, 3_000_000_000);
        self.queue.schedule(after, SimEvent::Resume { node, pause });
    }

    pub(super) fn resume(&mut self, node: Node, pause: u64) {
        let simulated = &mut self.nodes[node_index(node)];
        if simulated.paused != Some(pause) {
            return;
        }
        simulated.paused = None;
        let deferred = mem::take(&mut simulated.deferred);
        self.fault_event(FaultEvent::Resume, Some(node));
        for event in deferred {
            self.queue.schedule(0, event);
        }
    }
}
