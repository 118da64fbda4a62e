//! partition: nodes cannot reach each other for a while, in both directions or one. Messages between
//! them are lost without an error.

use std::{collections::BTreeSet, time::Duration};

use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{FaultAction, FaultName, Injection, OutageLength, Trigger, replicas};
use crate::network::{Link, MessageAction, Pattern};

/// Which links fail.
#[derive(Clone, Copy, Debug)]
enum Split {
    /// All links of one replica.
    Replica,
    /// All links to one replica.
    ToReplica,
    /// All links from one replica.
    FromReplica,
    /// The links between one replica and the master; the replicas still reach each other.
    MasterAndReplica,
    /// All links of the master; the replicas still reach each other.
    Master,
    /// All links to the master.
    ToMaster,
    /// All links from the master.
    FromMaster,
    /// All links.
    All,
}

#[derive(Debug)]
pub(super) struct Partition {
    nodes: Vec<Node>,
    splits: ShuffledBag<Split>,
    targets: ShuffledBag<Node>,
    outages: ShuffledBag<OutageLength>,
}

impl Partition {
    pub(super) fn new(count: u8) -> Self {
        let splits = vec![
            Split::Replica,
            Split::ToReplica,
            Split::FromReplica,
            Split::MasterAndReplica,
            Split::Master,
            Split::ToMaster,
            Split::FromMaster,
            Split::All,
        ];
        Partition {
            nodes: all_nodes(count),
            splits: ShuffledBag::new(splits),
            targets: replicas(count),
            outages: OutageLength::bag(),
        }
    }
}

/// Every node of a cluster with `replicas` replicas.
pub(super) fn all_nodes(replicas: u8) -> Vec<Node> {
    std::iter::once(Node::Master).chain((1..=replicas).map(Node::Replica)).collect()
}

/// Every link between two of these nodes.
pub(super) fn all_links(nodes: &[Node]) -> impl Iterator<Item = Link> {
    nodes
        .iter()
        .flat_map(|from| nodes.iter().filter(move |to| *to != from).map(move |to| (*from, *to)))
}

impl FaultSource<Injection> for Partition {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let split = self.splits.draw(rng);
        let replica = self.targets.draw(rng);
        let fails = |(from, to): &Link| match split {
            Split::Replica => *from == replica || *to == replica,
            Split::ToReplica => *to == replica,
            Split::FromReplica => *from == replica,
            Split::MasterAndReplica => {
                [(Node::Master, replica), (replica, Node::Master)].contains(&(*from, *to))
            }
            Split::Master => *from == Node::Master || *to == Node::Master,
            Split::ToMaster => *to == Node::Master,
            Split::FromMaster => *from == Node::Master,
            Split::All => true,
        };
        let failed: BTreeSet<_> = all_links(&self.nodes).filter(fails).collect();
        let target = match split {
            Split::Replica | Split::ToReplica | Split::FromReplica | Split::MasterAndReplica => {
                replica
            }
            Split::Master | Split::ToMaster | Split::FromMaster | Split::All => Node::Master,
        };
        Injection::new(
            FaultName::Partition,
            Duration::from_millis(rng.random_range(100..900)),
            target,
            Trigger::Now,
            FaultAction::Network {
                rules: vec![(Pattern::on_links(failed), MessageAction::Drop)],
                duration: self.outages.draw(rng).draw(rng),
            },
        )
    }
}
