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
    /// A partition of a shape. `order` has all nodes as they are drawn, the leader first if it matters. Of
    /// `clients` hosts for clients, number w uses node w modulo the number of `nodes`.
    #[must_use]
    pub fn of(
        shape: Shape,
        order: &[NodeName],
        (nodes, clients): (&[NodeName], u32),
        rng: &mut ChaCha8Rng,
    ) -> Partition {
        let half = order.len() / 2;
        match shape {
            Shape::Any | Shape::Halves => Partition::between(&order[..half], &order[half..]),
            Shape::MinorityWithLeader => {
                let (minority, others) = order.split_at(minority(order.len()));
                Partition::between(minority, others)
            }
            Shape::Ring => Partition::ring(order),
            Shape::Bridge => {
                let (bridge, sides) = order.split_at(order.len().min(1));
                let (one, other) = sides.split_at(sides.len() / 2);
                let mut partition = Partition::between(one, other);
                partition.words += &format!(", bridge {}", list(bridge));
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

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn nodes(count: usize) -> Vec<NodeName> {
        (1..=count).map(|n| NodeName::new(&format!("n{n}"))).collect()
    }

    fn of(shape: Shape, count: usize) -> Partition {
        let nodes = nodes(count);
        Partition::of(shape, &nodes, (&nodes, 2), &mut ChaCha8Rng::seed_from_u64(1))
    }

    /// Whom each node hears, by number.
    fn heard(partition: &Partition, count: usize) -> Vec<Vec<usize>> {
        let host = |n: usize| Host::Node(nodes(count)[n].clone());
        let hears = |to: usize, from: usize| !partition.links.contains(&(host(from), host(to)));
        let each = (0..count)
            .map(|to| (0..count).filter(|from| hears(to, *from)).map(|from| from + 1).collect());
        each.collect()
    }

    #[test]
    fn shapes_cut_what_they_say() {
        let halves = [vec![1, 2], vec![1, 2], vec![3, 4, 5], vec![3, 4, 5], vec![3, 4, 5]];
        assert_eq!(heard(&of(Shape::Halves, 5), 5), halves);
        assert_eq!(heard(&of(Shape::MinorityWithLeader, 5), 5), halves);
        let bridge =
            [vec![1, 2, 3, 4, 5], vec![1, 2, 3], vec![1, 2, 3], vec![1, 4, 5], vec![1, 4, 5]];
        assert_eq!(heard(&of(Shape::Bridge, 5), 5), bridge);
        assert_eq!(heard(&of(Shape::Isolated, 3), 3), [[1], [2], [3]]);
        let minority = of(Shape::MinorityWithLeader, 3);
        assert_eq!(minority.words, "n1 | n2, n3");
        assert_eq!(heard(&minority, 3), [vec![1], vec![2, 3], vec![2, 3]]);
    }

    #[test]
    fn in_a_ring_each_node_hears_another_majority() {
        for count in 2..8 {
            let heard = heard(&of(Shape::Ring, count), count);
            let different: BTreeSet<_> = heard.iter().collect();
            assert!(heard.iter().all(|heard| heard.len() == count / 2 + 1), "{count}: {heard:?}");
            assert!(count == 2 || different.len() == count, "{count}: {heard:?}");
            assert!((1..).zip(&heard).all(|(node, heard)| heard.contains(&node)), "{heard:?}");
        }
    }

    #[test]
    fn one_way_cuts_one_direction_of_one_node() {
        let partition = of(Shape::OneWay, 3);
        assert_eq!(partition.links.len(), 2);
        let other_way = |(from, to): &(Host, Host)| (to.clone(), from.clone());
        assert!(partition.links.iter().all(|link| !partition.links.contains(&other_way(link))));
        let n1 = Host::Node(NodeName::new("n1"));
        let is_first = |(from, to): &(Host, Host)| *from == n1 || *to == n1;
        assert!(partition.links.iter().all(is_first), "{partition:?}");
    }

    #[test]
    fn a_client_is_cut_from_the_node_that_it_uses() {
        let partition = of(Shape::Client, 3);
        let pairs = [(Host::Client(0), "n1"), (Host::Client(1), "n2")];
        let of_pair = |(client, node): (Host, &str)| {
            let node = Host::Node(NodeName::new(node));
            BTreeSet::from([(client.clone(), node.clone()), (node, client)])
        };
        assert!(pairs.map(of_pair).contains(&partition.links), "{partition:?}");
    }

    #[test]
    fn a_single_node_has_nothing_to_be_cut_from() {
        for shape in Shape::NAMED.into_iter().filter(|shape| *shape != Shape::Client) {
            assert!(of(shape, 1).links.is_empty(), "{shape:?}");
        }
    }
}
