//! partition: nodes are cut off from each other for a while, both ways or one: what is sent is
//! lost, and nobody is told.

use std::{collections::BTreeSet, time::Duration};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{Fault, FaultAction, FaultName, Injection, ShuffledBag, Span, Trigger, replicas};
use crate::network::{Deed, Pattern, Way};

/// Who cannot reach whom.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// One replica is alone.
    Replica,
    /// One replica hears nobody.
    ReplicaDeaf,
    /// Nobody hears one replica.
    ReplicaMute,
    /// One replica and the master do not reach each other; the replicas do.
    MasterAndReplica,
    /// The master is alone, and the replicas have each other.
    Master,
    /// The master hears nobody.
    MasterDeaf,
    /// Nobody hears the master.
    MasterMute,
    /// Everybody is alone.
    All,
}

#[derive(Debug)]
pub(super) struct Partition {
    nodes: Vec<Node>,
    cuts: ShuffledBag<Cut>,
    targets: ShuffledBag<Node>,
    spans: ShuffledBag<Span>,
}

impl Partition {
    pub(super) fn new(count: u8) -> Self {
        use Cut::{
            All, Master, MasterAndReplica, MasterDeaf, MasterMute, Replica, ReplicaDeaf,
            ReplicaMute,
        };
        let cuts = vec![
            Replica,
            ReplicaDeaf,
            ReplicaMute,
            MasterAndReplica,
            Master,
            MasterDeaf,
            MasterMute,
            All,
        ];
        Partition {
            nodes: everyone(count),
            cuts: ShuffledBag::new(cuts),
            targets: replicas(count),
            spans: Span::bag(),
        }
    }
}

/// Every node of a cluster of so many replicas.
pub(super) fn everyone(replicas: u8) -> Vec<Node> {
    std::iter::once(Node::Master).chain((1..=replicas).map(Node::Replica)).collect()
}

/// Every way between two of these nodes.
pub(super) fn ways(nodes: &[Node]) -> impl Iterator<Item = Way> {
    nodes
        .iter()
        .flat_map(|from| nodes.iter().filter(move |to| *to != from).map(move |to| (*from, *to)))
}

impl Fault for Partition {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let cut = self.cuts.deal(rng);
        let replica = self.targets.deal(rng);
        let lost = |(from, to): &Way| match cut {
            Cut::Replica => *from == replica || *to == replica,
            Cut::ReplicaDeaf => *to == replica,
            Cut::ReplicaMute => *from == replica,
            Cut::MasterAndReplica => {
                [(Node::Master, replica), (replica, Node::Master)].contains(&(*from, *to))
            }
            Cut::Master => *from == Node::Master || *to == Node::Master,
            Cut::MasterDeaf => *to == Node::Master,
            Cut::MasterMute => *from == Node::Master,
            Cut::All => true,
        };
        let lost: BTreeSet<_> = ways(&self.nodes).filter(lost).collect();
        let target = match cut {
            Cut::Replica | Cut::ReplicaDeaf | Cut::ReplicaMute | Cut::MasterAndReplica => replica,
            Cut::Master | Cut::MasterDeaf | Cut::MasterMute | Cut::All => Node::Master,
        };
        Injection::of(
            FaultName::Partition,
            Duration::from_millis(rng.random_range(100..900)),
            target,
            Trigger::Now,
            FaultAction::Network {
                snares: vec![(Pattern::ways(lost), Deed::Drop)],
                lasts: self.spans.deal(rng).draw(rng),
            },
        )
    }
}
