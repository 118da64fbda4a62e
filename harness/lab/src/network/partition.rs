//! Partitions: which hosts cannot reach which. Shapes are as in Jepsen; who leads and who is drawn is given.

use std::{collections::BTreeSet, fmt};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::Host;
use crate::node::NodeName;

/// The shape of a partition between nodes. Clients go on reaching their nodes, unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Any of those between nodes, drawn each time.
    Any,
    /// The nodes in two halves.
    Halves,
    /// The leader with fewer than half of the nodes, and the others.
    MinorityWithLeader,
    /// Each node hears a majority, and no two the same.
    Ring,
    /// Two halves, and a node that reaches both.
    Bridge,
    /// A node that hears the others and is not heard, or the other way round.
    OneWay,
    /// Each node alone.
    Isolated,
    /// A client, and the node that it uses.
    Client,
}

impl Shape {
    /// Every shape that has a name of its own.
    pub const NAMED: [Shape; 7] = [
        Shape::Halves,
        Shape::MinorityWithLeader,
        Shape::Ring,
        Shape::Bridge,
        Shape::OneWay,
        Shape::Isolated,
        Shape::Client,
    ];

    /// The name in options and histories.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Shape::Any => "any",
            Shape::Halves => "halves",
            Shape::MinorityWithLeader => "minority-with-leader",
            Shape::Ring => "ring",
            Shape::Bridge => "bridge",
            Shape::OneWay => "one-way",
            Shape::Isolated => "isolated",
            Shape::Client => "client",
        }
    }

    /// Whether it depends on who leads.
    #[must_use]
    pub fn needs_leader(self) -> bool {
        self == Shape::MinorityWithLeader
    }

    /// One of the shapes, if this is any.
    #[must_use]
    pub fn draw(self, rng: &mut ChaCha8Rng) -> Shape {
        let between_nodes = [
            Shape::Halves,
            Shape::MinorityWithLeader,
            Shape::Ring,
            Shape::Bridge,
            Shape::OneWay,
            Shape::Isolated,
        ];
        match self {
            Shape::Any => between_nodes[rng.random_range(0..between_nodes.len())],
            shape => shape,
        }
    }
}

/// Ordered pairs of hosts between which nothing passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// What it is, in words: `n1, n2 | n3`.
    pub words: String,
    /// The pairs: from, to.
    pub links: BTreeSet<(Host, Host)>,
}

impl Partition {
    /// A partition of a shape. `order` has all nodes as they are drawn, the leader where it is known; `clients` is
    /// the number of hosts for clients, of which number w uses node w modulo the number of nodes.
    #[must_use]
    pub fn of(
        shape: Shape,
        order: &[NodeName],
        leader: Option<&NodeName>,
        (nodes, clients): (&[NodeName], u32),
        rng: &mut ChaCha8Rng,
    ) -> Partition {
        let half = order.len() / 2;
        match shape {
            Shape::Any | Shape::Halves => Partition::between(&order[..half], &order[half..]),
            Shape::MinorityWithLeader => {
                let mut order = order.to_vec();
                if let Some(at) = leader.and_then(|leader| order.iter().position(|n| n == leader)) {
                    order.swap(0, at);
                }
                let (minority, others) = order.split_at(minority(order.len()));
                Partition::between(minority, others)
            }
            Shape::Ring => Partition::ring(order),
            Shape::Bridge => {
                let (bridge, sides) = order.split_at(order.len().min(1));
                let (one, other) = sides.split_at(sides.len() / 2);
                let mut partition = Partition::between(one, other);
                partition.words += &format!(", {} reaches all", list(bridge));
                partition
            }
            Shape::OneWay => {
                let (one, others) = order.split_at(order.len().min(1));
                let is_heard = rng.random();
                let mut links = BTreeSet::new();
                for other in others {
                    let [from, to] = if is_heard { [other, &one[0]] } else { [&one[0], other] };
                    links.insert((Host::Node(from.clone()), Host::Node(to.clone())));
                }
                let what = if is_heard { "hears nobody" } else { "is not heard" };
                Partition { words: format!("{} {what}", list(one)), links }
            }
            Shape::Isolated => {
                let mut links = BTreeSet::new();
                for (from, to) in pairs(order) {
                    links.insert((Host::Node(from.clone()), Host::Node(to.clone())));
                }
                Partition { words: "each node alone".to_owned(), links }
            }
            Shape::Client => {
                let number = rng.random_range(0..clients.max(1));
                let client = Host::Client(number);
                let node = Host::Node(nodes[number as usize % nodes.len()].clone());
                let words = format!("{client} | {node}");
                let links = BTreeSet::from([(client.clone(), node.clone()), (node, client)]);
                Partition { words, links }
            }
        }
    }

    /// A partition between two groups of nodes.
    #[must_use]
    pub fn between(one: &[NodeName], other: &[NodeName]) -> Partition {
        let mut links = BTreeSet::new();
        for (one, other) in one.iter().flat_map(|one| other.iter().map(move |other| (one, other))) {
            let [one, other] = [one, other].map(|node| Host::Node(node.clone()));
            links.insert((one.clone(), other.clone()));
            links.insert((other, one));
        }
        Partition { words: format!("{} | {}", list(one), list(other)), links }
    }

    /// Each node hears itself and those around it, a majority in all.
    fn ring(order: &[NodeName]) -> Partition {
        let count = order.len();
        let majority = count / 2 + 1;
        let mut links = BTreeSet::new();
        for (at, node) in order.iter().enumerate() {
            // The others are so far ahead, counted around the ring.
            for ahead in majority / 2 + 1..count - (majority - 1) / 2 {
                let from = Host::Node(order[(at + ahead) % count].clone());
                links.insert((from, Host::Node(node.clone())));
            }
        }
        Partition { words: format!("ring {}", list(order)), links }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// How many nodes are fewer than half, and at least one.
fn minority(count: usize) -> usize {
    (count.saturating_sub(1) / 2).max(1).min(count)
}

fn pairs(nodes: &[NodeName]) -> impl Iterator<Item = (&NodeName, &NodeName)> {
    let all = nodes.iter().flat_map(move |from| nodes.iter().map(move |to| (from, to)));
    all.filter(|(from, to)| from != to)
}

fn list(nodes: &[NodeName]) -> String {
    nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}
