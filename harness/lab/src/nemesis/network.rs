//! Faults of the virtual network.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use history::{
    NemesisEvent,
    nemesis::{Injected, InjectionKind, Intercepted, MessageRule, NetworkRestored},
};
use rand::RngExt as _;
use serde_json::json;

use super::{Draw, Nemesis, NemesisError, Victims, injected, milliseconds};
use crate::{
    fault::{Fault, FaultAction, Moment, Target},
    network::{Cut, Delay, Host, LinkCounts, LinkRule, Network, Partition, Shape},
    node::NodeName,
};

/// How long a partition lasts: between these. A shorter one is only delay to a stream.
const PARTITIONED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(6));

/// The longest partition of the first round.
const QUICK_PARTITION: Duration = Duration::from_millis(2500);

/// How long a network is bad.
const BAD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// The longest delay of a bad network.
const DELAY_MAX: Duration = Duration::from_millis(200);

/// The greatest share of packets that a bad network loses, repeats or reorders.
const SHARE_MAX: f64 = 0.3;

/// What is done to links for a while.
struct Disturbance {
    /// In words: where, and what.
    words: String,
    links: BTreeSet<(Host, Host)>,
    rule: LinkRule,
    messages: Vec<MessageRule>,
}

impl Nemesis<'_> {
    /// The target, if it was left open what shape a partition has.
    pub(super) fn drawn_target(&mut self, target: &Target) -> Target {
        match target {
            Target::Shape(shape) => Target::Shape(shape.draw(&mut self.rng)),
            other => other.clone(),
        }
    }

    /// Injects a fault of the network at these nodes, and undoes it.
    pub(super) async fn inject_into_network(
        &mut self,
        fault: &Fault,
        (target, is_quick): (&Target, bool),
        victims: &Victims,
        second: Option<&Draw>,
    ) -> Result<(), NemesisError> {
        let cluster = self.cluster;
        let Some(network) = cluster.system().network() else {
            let why = "the nodes are in no virtual network".to_owned();
            return self.missed(fault, victims, None, why);
        };
        match fault.action {
            FaultAction::Reset => self.reset(fault, network, victims),
            FaultAction::Packet => {
                let time = self.between(BAD);
                let bad = self.bad_network(network, victims);
                self.disturb(fault, (network, bad, time), victims, second).await
            }
            _ => {
                let time = self.between(PARTITIONED);
                let time = if is_quick { time.min(QUICK_PARTITION) } else { time };
                let partition = self.drawn_partition(network, target, victims);
                let cut = Disturbance {
                    messages: partition.links.iter().map(cut_in_record).collect(),
                    words: partition.words,
                    links: partition.links,
                    rule: LinkRule { cut: Some(Cut::BlackHole), ..LinkRule::default() },
                };
                self.disturb(fault, (network, cut, time), victims, second).await
            }
        }
    }

    /// Disturbs links for a while.
    async fn disturb(
        &mut self,
        fault: &Fault,
        (network, disturbance, time): (&Network, Disturbance, Duration),
        victims: &Victims,
        second: Option<&Draw>,
    ) -> Result<(), NemesisError> {
        let Disturbance { words, links, rule, messages } = disturbance;
        let node = victims.nodes.first();
        let at = victims.note.iter().cloned().chain([words]).collect::<Vec<_>>().join(": ");
        let fields = Injected {
            nodes: nodes_of(&links),
            messages,
            duration_ms: Some(milliseconds(time)),
            at: Some(at),
            ..injected(fault, node, victims)
        };
        // Recorded before it happens: then the recorded fault contains the real one.
        let kind = InjectionKind::NetworkFault;
        self.events.record(NemesisEvent::Injected(kind, Box::new(fields)))?;
        let before = effects(network, &links);
        let both = || links.iter().map(|(from, to)| (from, to));
        network.set(both(), rule);
        self.load_ends_within(time).await;
        let second = self.second(fault, Moment::During, second, &victims.nodes).await?;
        network.set(both(), LinkRule::default());
        let mut kinds = effects(network, &links);
        for (kind, count) in &mut kinds {
            *count = count.saturating_sub(before.get(kind).copied().unwrap_or(0));
        }
        kinds.retain(|_, count| *count > 0);
        let messages = kinds.values().sum();
        if messages == 0 {
            let why = match rule.cut {
                Some(_) => "no packet was sent over the links that were cut",
                None => "no packet was disturbed",
            };
            self.missed(fault, victims, node, why.to_owned())?;
        }
        let (fault, node) = (Some(fault.name().to_owned()), node.map(ToString::to_string));
        let intercepted = Intercepted { messages, kinds, first: Vec::new() };
        let restored = NetworkRestored { fault, node, intercepted };
        self.events.record(NemesisEvent::NetworkRestored(restored))?;
        let (action, stopped) = second.unwrap_or((FaultAction::Pause, Vec::new()));
        self.undo(action, &stopped).await
    }

    /// Resets every connection of the nodes.
    fn reset(
        &self,
        fault: &Fault,
        network: &Network,
        victims: &Victims,
    ) -> Result<(), NemesisError> {
        let node = victims.nodes.first();
        let links = links_of(network, &victims.nodes);
        let fields = Injected { nodes: nodes_of(&links), ..injected(fault, node, victims) };
        let kind = InjectionKind::NetworkFault;
        self.events.record(NemesisEvent::Injected(kind, Box::new(fields)))?;
        let mut kinds = BTreeMap::new();
        for (from, to) in &links {
            // A connection is between both directions: the first that finds it resets it.
            let count = network.reset(from, to)? as u64;
            if count > 0 {
                *kinds.entry(format!("{from} to {to}")).or_default() += count;
            }
        }
        let messages = kinds.values().sum();
        if messages == 0 {
            self.missed(fault, victims, node, "there was no connection".to_owned())?;
        }
        let (fault, node) = (Some(fault.name().to_owned()), node.map(ToString::to_string));
        let intercepted = Intercepted { messages, kinds, first: Vec::new() };
        let restored = NetworkRestored { fault, node, intercepted };
        Ok(self.events.record(NemesisEvent::NetworkRestored(restored))?)
    }

    /// A network that delays, loses, repeats and reorders the packets of nodes, or some of that.
    fn bad_network(&mut self, network: &Network, victims: &Victims) -> Disturbance {
        // All are drawn, so that the seed gives the same ones whichever apply.
        let [loss, duplication, reordering] =
            [(); 3].map(|()| (self.rng.random_bool(0.5), self.rng.random_range(0.01..SHARE_MAX)));
        let share = |(applies, share): (bool, f64)| if applies { share } else { 0.0 };
        let longest = self.rng.random_range(Duration::from_millis(1)..DELAY_MAX);
        let delay = match self.rng.random_range(0..3) {
            0 => Delay::Uniform { shortest: Duration::ZERO, longest },
            1 => Delay::constant(longest),
            _ => Delay::Exponential { shortest: Duration::ZERO, mean: longest / 4 },
        };
        let rule = LinkRule {
            delay: Some(delay),
            loss: share(loss),
            duplication: share(duplication),
            reordering: share(reordering),
            ..LinkRule::default()
        };
        let what = rule.to_string();
        let in_record = |node: &NodeName| {
            let pattern = json!({ "host": node.as_str() });
            MessageRule { pattern, action: what.clone() }
        };
        let messages = victims.nodes.iter().map(in_record).collect();
        let links = links_of(network, &victims.nodes);
        Disturbance { words: what, links, rule, messages }
    }

    fn drawn_partition(
        &mut self,
        network: &Network,
        target: &Target,
        victims: &Victims,
    ) -> Partition {
        let nodes = self.cluster.nodes();
        let hosts = (nodes, network.clients());
        match target {
            Target::Shape(shape) => Partition::of(*shape, &victims.nodes, hosts, &mut self.rng),
            Target::All => Partition::of(Shape::Isolated, &victims.nodes, hosts, &mut self.rng),
            _ => {
                let others = nodes.iter().filter(|node| !victims.nodes.contains(node));
                Partition::between(&victims.nodes, &others.cloned().collect::<Vec<_>>())
            }
        }
    }
}

/// The links between nodes and all other hosts, in both directions.
fn links_of(network: &Network, nodes: &[NodeName]) -> BTreeSet<(Host, Host)> {
    let mut links = BTreeSet::new();
    for node in nodes.iter().cloned().map(Host::Node) {
        let others = network.hosts().iter().filter(|host| **host != node);
        for other in others.filter(|host| **host != Host::Control) {
            links.insert((node.clone(), other.clone()));
            links.insert((other.clone(), node.clone()));
        }
    }
    links
}

/// The names of the nodes that have links among these.
fn nodes_of(links: &BTreeSet<(Host, Host)>) -> Vec<String> {
    let hosts = links.iter().flat_map(|(from, to)| [from, to]);
    let nodes: BTreeSet<String> =
        hosts.filter(|host| matches!(host, Host::Node(_))).map(ToString::to_string).collect();
    nodes.into_iter().collect()
}

fn cut_in_record((from, to): &(Host, Host)) -> MessageRule {
    let pattern = json!({ "from": from.to_string(), "to": to.to_string() });
    MessageRule { pattern, action: "cut".to_owned() }
}

/// How many packets of links were disturbed so far: those that met a cut by link, the others by what became of
/// them.
fn effects(network: &Network, links: &BTreeSet<(Host, Host)>) -> BTreeMap<String, u64> {
    let mut effects = BTreeMap::new();
    for (from, to) in links {
        let LinkCounts { cut, lost, duplicated, reordered, delayed, .. } = network.counts(from, to);
        effects.insert(format!("{from} to {to}"), cut);
        let others = [
            ("lost", lost),
            ("repeated", duplicated),
            ("reordered", reordered),
            ("delayed", delayed),
        ];
        for (effect, count) in others {
            *effects.entry(effect.to_owned()).or_default() += count;
        }
    }
    effects
}
