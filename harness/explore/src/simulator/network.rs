//! The network between the nodes: delay, loss, duplication, long delays, partitions, and connections
//! that are reset when a process ends.

use protocol::{Event, Message, Node};
use rand::RngExt as _;

use super::{engine::Engine, node::node_index, queue::SimEvent, run::MachineInput};
use crate::schedule::Step;

/// The longest of the long delays, in nanoseconds.
const LONG_DELAY_MAX: u64 = 4_000_000_000;

impl Engine<'_> {
    pub(super) fn message_delay(&mut self) -> u64 {
        let (least, most) = self.plan.message_delay;
        self.draw(least, most)
    }

    pub(super) fn send(&mut self, from: Node, to: Node, message: Message) {
        self.counters.messages += 1;
        let (loss, duplication) = (self.plan.loss, self.plan.duplication);
        let partitioned = self.partitions.contains_key(&(from, to));
        if partitioned || (self.under_load && self.chance(loss, 1000)) {
            return;
        }
        let generations = Some((self.generation(from), self.generation(to)));
        let message = Box::new(message);
        if self.under_load && self.chance(duplication, 1000) {
            let after = self.message_delay() * 3;
            let message = message.clone();
            self.queue.schedule(after, SimEvent::Arrival { from, to, generations, message });
        }
        if self.under_load && self.chance(self.plan.long_delays, 1000) {
            // The network holds it, whatever happens to sender and receiver.
            let after = self.draw(0, LONG_DELAY_MAX);
            let arrival = SimEvent::Arrival { from, to, generations: None, message };
            return self.queue.schedule(after, arrival);
        }
        let after = self.message_delay();
        self.queue.schedule(after, SimEvent::Arrival { from, to, generations, message });
    }

    /// A message arrives, unless it was lost with a connection.
    pub(super) fn arrive(
        &mut self,
        from: Node,
        to: Node,
        generations: Option<(u64, u64)>,
        message: Message,
    ) {
        let current = (self.generation(from), self.generation(to));
        let connection_lost = generations.is_some_and(|sent_in| sent_in != current);
        if connection_lost && self.chance(self.plan.lost_with_connection, 1000) {
            return;
        }
        let second_instance = self.is_for_second_instance(to);
        let host = &mut self.nodes[node_index(to)].host;
        let Some(step_effects) = host.deliver(&self.plan.setup, from, &message, second_instance)
        else {
            return;
        };
        self.record_step(|| {
            let message = message.clone();
            Step::Deliver { from, to, message, second_instance }
        });
        let input = MachineInput::Event(Event::Message { from, message });
        self.perform(to, second_instance, Some(input), step_effects);
    }

    /// Whether a message to a node goes to its second instance. With both running, either may get it.
    fn is_for_second_instance(&mut self, node: Node) -> bool {
        let node = &self.nodes[node_index(node)];
        node.host.has_second_instance() && (node.paused.is_some() || self.rng.random_bool(0.5))
    }

    /// Starts a one-way partition between two random nodes.
    pub(super) fn partition(&mut self) {
        let from = self.rng.random_range(0..self.nodes.len());
        let to = self.rng.random_range(0..self.nodes.len());
        let (from, to) = (self.nodes[from].host.node(), self.nodes[to].host.node());
        if from != to {
            self.counters.other_faults += 1;
            *self.partitions.entry((from, to)).or_default() += 1;
            let after = self.draw(0, 2_000_000_000);
            self.queue.schedule(after, SimEvent::Heal { from, to });
        }
    }

    pub(super) fn heal(&mut self, from: Node, to: Node) {
        if let Some(count) = self.partitions.get_mut(&(from, to)) {
            *count -= 1;
            if *count == 0 {
                self.partitions.remove(&(from, to));
            }
        }
    }
}
