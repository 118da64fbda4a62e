//! A cluster that runs a schedule: hosts, every message that was ever sent, and a judge. It
//! refuses a step that is not possible where it stands.

use std::collections::BTreeSet;

use system::protocol::{Body, Effect, Key, Message, Node, Request};

use super::{
    ScheduleSetup, Step,
    host::{Host, Outcome},
    judge::{Judge, Property, View},
};

/// A cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    setup: ScheduleSetup,
    /// The master, then the replicas.
    hosts: Vec<Host>,
    views: Vec<View>,
    /// Every message sent: from, to, what.
    sent: BTreeSet<(Node, Node, Message)>,
    judge: Judge,
    /// The keys that clients have asked about.
    keys: Vec<Key>,
}

/// A step that cannot happen where it stands in its schedule.
#[derive(Debug, thiserror::Error)]
#[error("not possible here: {step}: {why}")]
pub struct NotPossible {
    step: String,
    why: &'static str,
}

impl Cluster {
    /// A cluster as its setup says: of empty stores, or one that has handshaken.
    #[must_use]
    pub fn new(setup: ScheduleSetup) -> Self {
        let mut this = Cluster {
            hosts: Vec::new(),
            views: Vec::new(),
            sent: BTreeSet::new(),
            judge: Judge::new(true),
            keys: Vec::new(),
            setup,
        };
        let nodes: Vec<_> = this.setup.nodes().collect();
        for node in nodes {
            let (host, outcome) = Host::fresh(&this.setup, node);
            this.views.push(View::of(&host, &this.keys));
            this.hosts.push(host);
            this.take(node, outcome);
        }
        if this.setup.settled {
            this.settle_in();
        }
        this
    }

    /// The hosts: the master, then the replicas.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Every message sent: from, to, what.
    pub fn under_way(&self) -> impl Iterator<Item = &(Node, Node, Message)> {
        self.sent.iter()
    }

    /// The judge.
    #[must_use]
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// Does a step, and says what the machine wanted done about it.
    ///
    /// # Errors
    /// The step cannot happen here; nothing has changed.
    pub fn apply(&mut self, step: &Step) -> Result<Vec<Effect>, NotPossible> {
        let not = |why| NotPossible { step: step.to_string(), why };
        let node = step.node();
        let at = place(node);
        let setup = &self.setup;
        let host = self.hosts.get_mut(at).ok_or_else(|| not("there is no such node"))?;
        let known = self.keys.len();
        let outcome = match step {
            Step::Client { call, request } => {
                let (Request::Write(system::protocol::Write { key, .. })
                | Request::Get { key, .. }) = request;
                if !self.keys.contains(key) {
                    self.keys.push(key.clone());
                }
                host.ask(setup, *call, request)
            }
            Step::Deliver { from, to, message, second_instance } => {
                let message = self.find(*from, *to, message);
                let message = message.ok_or_else(|| not("no such message was sent"))?;
                self.hosts[at].receive(&self.setup, *from, &message, *second_instance)
            }
            Step::Force { upto, second_instance, .. } => host.force(setup, *upto, *second_instance),
            Step::Timer { id, second_instance, .. } => host.timer(setup, *id, *second_instance),
            Step::Kill { keep, .. } => host.kill(*keep),
            Step::PowerLoss { keep, .. } => host.power_loss(*keep),
            Step::Restart { .. } => host.restart(setup),
            Step::SecondInstance { .. } => host.start_second_instance(setup),
            Step::Wipe { .. } => host.wipe(),
        };
        let outcome = outcome.ok_or_else(|| not("the node is not in a state for it"))?;
        if self.keys.len() > known {
            self.views = self.hosts.iter().map(|host| View::of(host, &self.keys)).collect();
        }
        Ok(self.take(node, outcome))
    }

    /// A message as it was sent; or else the last one that says the same, though with another watermark
    /// or epoch, or in a handshake of another start: a schedule from which steps were left out may
    /// change no more than that.
    fn find(&self, from: Node, to: Node, message: &Message) -> Option<Message> {
        if self.sent.contains(&(from, to, message.clone())) {
            return Some(message.clone());
        }
        let same = |sent: &Body| match (sent, &message.body) {
            (Body::FenceOk { in_doubt: one, .. }, Body::FenceOk { in_doubt: other, .. }) => {
                one == other
            }
            (Body::Alive { .. }, Body::Alive { .. }) => true,
            (one, other) => one == other,
        };
        let alike =
            |sent: &&(Node, Node, Message)| sent.0 == from && sent.1 == to && same(&sent.2.body);
        self.sent.iter().filter(alike).map(|sent| sent.2.clone()).next_back()
    }

    /// Lets every message arrive once and every record be forced, until nothing is under way.
    fn settle_in(&mut self) {
        let mut delivered = BTreeSet::new();
        loop {
            let force = self.hosts.iter().find(|host| host.forceable(false) > 0);
            let step = if let Some(host) = force {
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
            // A node that is down hears nothing.
            let _ = self.apply(&step);
        }
        self.sent.clear();
    }

    /// Repairs everything and lets fair time pass, no message of the past arriving any more:
    /// whether nothing is locked then, and the master is done with everything.
    #[must_use]
    pub fn settles(&self) -> bool {
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
            after.settle_in();
            if after.hosts.iter().all(at_rest) {
                return true;
            }
        }
        false
    }

    fn take(&mut self, node: Node, outcome: Outcome) -> Vec<Effect> {
        let Outcome { sent, facts, effects } = outcome;
        self.sent.extend(sent.into_iter().map(|(to, message)| (node, to, message)));
        let at = place(node);
        if let (Some(view), Some(host)) = (self.views.get_mut(at), self.hosts.get(at)) {
            *view = View::of(host, &self.keys);
        }
        if self.hosts.len() > usize::from(self.setup.replicas) {
            let views = &self.views;
            let replica = |slot: u8| &views[usize::from(slot)];
            self.judge.observe(node, &facts, &replica, self.setup.replicas);
            self.judge.inspect(replica, self.setup.replicas);
        }
        effects
    }

    /// Whether a property does not hold, the fair future included.
    #[must_use]
    pub fn breaks(&self, property: Property) -> bool {
        if property == Property::Settles { !self.settles() } else { self.judge.found(property) }
    }
}

/// The place of a node among the hosts.
fn place(node: Node) -> usize {
    match node {
        Node::Master => 0,
        Node::Replica(slot) => slot.into(),
    }
}

/// Rounds of fair time after which everything must have settled: as many as the longest chain of
/// timers and handshakes takes, twice.
pub(crate) const FAIR_ROUNDS: usize = 16;

/// Whether a host is up, has handshaken, and has nothing unsettled.
pub(crate) fn at_rest(host: &Host) -> bool {
    host.machine().is_some_and(|machine| {
        let status = machine.status();
        status.ready && status.unsettled.is_empty()
    })
}
