//! A cluster that executes schedules: the hosts, every message that was ever sent, and an invariant
//! checker. Rejects a step that is not possible in the current state.

use std::collections::BTreeSet;

use protocol::{Body, Effect, Key, Message, Node, Query, Request, Write};

use super::{
    ScheduleSetup, Step, environment::StepEffects, host::ScheduleHost,
    invariants::InvariantChecker, property::Property, view::HostView,
};

/// A cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    setup: ScheduleSetup,
    /// The master, then the replicas.
    hosts: Vec<ScheduleHost>,
    views: Vec<HostView>,
    /// Every message sent: sender, receiver, message.
    sent: BTreeSet<(Node, Node, Message)>,
    checker: InvariantChecker,
    /// The keys in clients' requests so far.
    keys: Vec<Key>,
}

/// A step that is not possible in the state in which it stands.
#[derive(Debug, thiserror::Error)]
#[error("not possible here: {step}: {reason}")]
pub struct ImpossibleStep {
    step: String,
    reason: &'static str,
}

/// The keys that a request names. Those of a range are named by writes.
#[must_use]
pub fn keys_of(request: &Request) -> &[Key] {
    match request {
        Request::Write(Write { key, .. }) | Request::Get { key, .. } => std::slice::from_ref(key),
        Request::Snapshot { query: Query::Keys(keys), .. } => keys,
        Request::Snapshot { query: Query::Range(_), .. } => &[],
    }
}

impl Cluster {
    /// A cluster as its setup describes it: with empty stores, or one that has handshaken.
    #[must_use]
    pub fn new(setup: ScheduleSetup) -> Self {
        let mut cluster = Cluster {
            hosts: Vec::new(),
            views: Vec::new(),
            sent: BTreeSet::new(),
            checker: InvariantChecker::new(true),
            keys: Vec::new(),
            setup,
        };
        let nodes: Vec<_> = cluster.setup.nodes().collect();
        for node in nodes {
            let (host, step_effects) = ScheduleHost::fresh(&cluster.setup, node);
            cluster.views.push(HostView::of(&host, &cluster.keys));
            cluster.hosts.push(host);
            cluster.record(node, step_effects);
        }
        if cluster.setup.handshaken {
            cluster.run_to_quiescence();
        }
        cluster
    }

    /// The hosts: the master, then the replicas.
    #[must_use]
    pub fn hosts(&self) -> &[ScheduleHost] {
        &self.hosts
    }

    /// Every message sent: sender, receiver, message.
    pub fn in_flight(&self) -> impl Iterator<Item = &(Node, Node, Message)> {
        self.sent.iter()
    }

    /// The invariant checker.
    #[must_use]
    pub fn checker(&self) -> &InvariantChecker {
        &self.checker
    }

    /// Executes a step. Returns the effects that the machine requested, those of reads at the end.
    ///
    /// # Errors
    /// The step is not possible; the cluster is unchanged.
    pub fn apply(&mut self, step: &Step) -> Result<Vec<Effect>, ImpossibleStep> {
        let impossible = |reason| ImpossibleStep { step: step.to_string(), reason };
        let node = step.node();
        let index = host_index(node);
        let setup = &self.setup;
        let host = self.hosts.get_mut(index).ok_or_else(|| impossible("there is no such node"))?;
        let known_keys = self.keys.len();
        let step_effects = match step {
            Step::Client { call, request } => {
                for key in keys_of(request) {
                    if !self.keys.contains(key) {
                        self.keys.push(key.clone());
                    }
                }
                host.call(setup, *call, request)
            }
            Step::Deliver { from, to, message, second_instance } => {
                let message = self.find(*from, *to, message);
                let message = message.ok_or_else(|| impossible("no such message was sent"))?;
                self.hosts[index].deliver(&self.setup, *from, &message, *second_instance)
            }
            Step::Force { upto, second_instance, .. } => host.force(setup, *upto, *second_instance),
            Step::Timer { id, second_instance, .. } => {
                host.expire_timer(setup, *id, *second_instance)
            }
            Step::Kill { keep, .. } => host.kill(*keep),
            Step::PowerLoss { keep, .. } => host.power_loss(*keep),
            Step::Restart { .. } => host.restart(setup),
            Step::SecondInstance { .. } => host.start_second_instance(setup),
            Step::Wipe { .. } => host.wipe(),
            Step::Damage { key, found, .. } => host.damage(setup, key, *found),
        };
        let step_effects =
            step_effects.ok_or_else(|| impossible("the node is not in a state for it"))?;
        if self.keys.len() > known_keys {
            self.views = self.hosts.iter().map(|host| HostView::of(host, &self.keys)).collect();
        }
        Ok(self.record(node, step_effects))
    }

    /// The message as it was sent. If there is none, the last one with the same content but another
    /// watermark or epoch, or from a handshake of another incarnation: removing steps from a schedule
    /// may change that much of a message and no more.
    fn find(&self, from: Node, to: Node, message: &Message) -> Option<Message> {
        if self.sent.contains(&(from, to, message.clone())) {
            return Some(message.clone());
        }
        let same_body = |sent: &Body| match (sent, &message.body) {
            (Body::FenceOk { in_doubt: one, .. }, Body::FenceOk { in_doubt: other, .. }) => {
                one == other
            }
            (Body::Alive { .. }, Body::Alive { .. }) | (Body::Fence { .. }, Body::Fence { .. }) => {
                true
            }
            (Body::Ack { txns: one, .. }, Body::Ack { txns: other, .. }) => one == other,
            (one, other) => one == other,
        };
        let matches = |sent: &&(Node, Node, Message)| {
            sent.0 == from && sent.1 == to && same_body(&sent.2.body)
        };
        self.sent.iter().filter(matches).map(|sent| sent.2.clone()).next_back()
    }

    /// Delivers every message once and forces every record, until nothing is in flight.
    fn run_to_quiescence(&mut self) {
        let mut delivered = BTreeSet::new();
        loop {
            let unforced = self.hosts.iter().find(|host| host.forceable(false) > 0);
            let step = if let Some(host) = unforced {
                Step::Force {
                    node: host.node(),
                    upto: host.forceable(false),
                    second_instance: false,
                }
            } else if let Some((from, to, message)) =
                self.sent.iter().find(|message| !delivered.contains(*message)).cloned()
            {
                delivered.insert((from, to, message.clone()));
                Step::Deliver { from, to, message, second_instance: false }
            } else {
                break;
            };
            // Messages to a node that is down are lost.
            let _ = self.apply(&step);
        }
        self.sent.clear();
    }

    /// Whether the protocol terminates once all failures are repaired: with every node up, and fair
    /// timers and delivery, no key stays locked and the master completes every transaction. Messages
    /// that were sent before the repair are lost.
    #[must_use]
    pub fn terminates(&self) -> bool {
        let mut after = self.clone();
        after.sent.clear();
        for _ in 0..FAIR_ROUNDS {
            let mut steps = Vec::new();
            for host in &after.hosts {
                let node = host.node();
                if !host.up() {
                    steps.push(Step::Restart { node });
                }
                steps.extend(host.timers(false).map(|id| Step::Timer {
                    node,
                    id,
                    second_instance: false,
                }));
            }
            for step in &steps {
                let _ = after.apply(step);
            }
            after.run_to_quiescence();
            if after.hosts.iter().all(is_quiescent) {
                return true;
            }
        }
        false
    }

    /// Puts what was sent in flight and checks the invariants. Returns the effects.
    fn record(&mut self, node: Node, step_effects: StepEffects) -> Vec<Effect> {
        let StepEffects { sent, observations, mut effects, reads, .. } = step_effects;
        effects.extend(reads.into_iter().flat_map(|(_, effects)| effects));
        self.sent.extend(sent.into_iter().map(|(to, message)| (node, to, message)));
        let index = host_index(node);
        if let (Some(view), Some(host)) = (self.views.get_mut(index), self.hosts.get(index)) {
            *view = HostView::of(host, &self.keys);
        }
        if self.hosts.len() > usize::from(self.setup.replicas) {
            let views = &self.views;
            let replica = |slot: u8| &views[usize::from(slot)];
            self.checker.observe(node, &observations, &replica, self.setup.replicas);
            self.checker.check_state(replica, self.setup.replicas);
        }
        effects
    }

    /// Whether a property is violated; for [`Property::Termination`] the fair future is tried.
    #[must_use]
    pub fn violates(&self, property: Property) -> bool {
        if property == Property::Termination {
            !self.terminates()
        } else {
            self.checker.is_violated(property)
        }
    }
}

/// The index of a node's host.
fn host_index(node: Node) -> usize {
    match node {
        Node::Master => 0,
        Node::Replica(slot) => slot.into(),
    }
}

/// Rounds of fair scheduling after which every transaction must have terminated: twice the length of
/// the longest chain of timers and handshakes.
pub(crate) const FAIR_ROUNDS: usize = 16;

/// Whether a host is up, has handshaken, and has no unsettled transaction.
pub(crate) fn is_quiescent(host: &ScheduleHost) -> bool {
    host.machine().is_some_and(|machine| {
        let status = machine.status();
        status.ready && status.unsettled.is_empty()
    })
}
