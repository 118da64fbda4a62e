//! messages: single messages are held back past a restart of their sender or receiver, and then
//! reach whoever is there; and for a while many are lost, late, doubled or out of order.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{
    Fault, FaultAction, FaultName, Injection, ShuffledBag, Span, Trigger,
    partition::{everyone, ways},
    replicas,
};
use crate::network::{Deed, Pattern};

/// What happens while a message is held.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Its sender is killed and starts again.
    Sender,
    /// Its receiver is killed and starts again.
    Receiver,
    /// The master lies until the replicas ask each other, and is continued when the message has
    /// arrived.
    MasterLies,
}

/// Messages of the master that are held.
const FROM_MASTER: &[&str] = &["prepare", "decide", "read"];

/// Messages of a replica that are held.
const FROM_REPLICA: &[&str] = &["vote-yes", "ack", "value"];

/// One message is held, and something happens meanwhile.
#[derive(Debug)]
pub(super) struct Held {
    held: ShuffledBag<(&'static str, End)>,
    replicas: ShuffledBag<Node>,
    down: ShuffledBag<Span>,
    /// Whether a message is held, or goes on and a copy of it is held.
    copies: ShuffledBag<bool>,
}

impl Held {
    pub(super) fn new(count: u8) -> Self {
        let kinds = FROM_MASTER.iter().chain(FROM_REPLICA);
        let mut held: Vec<_> =
            kinds.flat_map(|kind| [(*kind, End::Sender), (*kind, End::Receiver)]).collect();
        held.extend([("prepare", End::MasterLies); 3]);
        Held {
            held: ShuffledBag::new(held),
            replicas: replicas(count),
            down: Span::bag(),
            copies: ShuffledBag::new(vec![true, false, false]),
        }
    }
}

impl Fault for Held {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let (kind, end) = self.held.deal(rng);
        let replica = self.replicas.deal(rng);
        let (from, to) = if FROM_MASTER.contains(&kind) {
            (Node::Master, replica)
        } else {
            (replica, Node::Master)
        };
        let deed = if self.copies.deal(rng) { Deed::HoldCopy } else { Deed::Hold };
        let kill = FaultAction::Kill { lies: Duration::ZERO, down: self.down.deal(rng).draw(rng) };
        let (target, action, deed) = match end {
            End::Sender => (from, kill, deed),
            End::Receiver => (to, kill, deed),
            End::MasterLies => {
                // Beyond the third unanswered inquiry.
                let lies = Duration::from_millis(rng.random_range(2_100..2_900));
                (Node::Master, FaultAction::Pause { lies }, Deed::Hold)
            }
        };
        Injection::of(
            FaultName::Messages,
            Duration::from_millis(rng.random_range(5..200)),
            target,
            Trigger::Message(Pattern::first(kind, from, to), deed),
            action,
        )
    }
}

/// How messages fare for a while.
#[derive(Clone, Copy, Debug)]
enum Sky {
    /// Some are lost, everywhere.
    Loss,
    /// All of one kind are lost on one way.
    LossOf(&'static str),
    /// They overtake each other, everywhere.
    Disorder,
    /// All of one kind are late on one way.
    LateOf(&'static str),
    /// Some arrive again, everywhere.
    Echo,
    /// All of one kind arrive again on one way.
    EchoOf(&'static str),
    /// One way is blocked, and then everything arrives at once.
    Jam,
    /// One replica is not asked to vote until those that have voted have given the master up, and
    /// have asked the others instead.
    Rumour,
}

/// Many messages are struck for a while.
#[derive(Debug)]
pub(super) struct Weather {
    nodes: Vec<Node>,
    skies: ShuffledBag<Sky>,
    replicas: ShuffledBag<Node>,
    from_master: ShuffledBag<bool>,
}

impl Weather {
    pub(super) fn new(count: u8) -> Self {
        let mut skies =
            vec![Sky::Loss, Sky::Loss, Sky::Disorder, Sky::Disorder, Sky::Echo, Sky::Jam];
        skies.extend([Sky::Rumour; 3]);
        skies.extend(["prepare", "decide", "vote-yes", "ack"].map(Sky::LossOf));
        skies.extend(["decide", "decide", "vote-yes", "ack"].map(Sky::LateOf));
        skies.extend([Sky::EchoOf("vote-yes"); 4]);
        skies.extend(["prepare", "decide"].map(Sky::EchoOf));
        Weather {
            nodes: everyone(count),
            skies: ShuffledBag::new(skies),
            replicas: replicas(count),
            from_master: ShuffledBag::new(vec![true, false]),
        }
    }

    /// All messages of one kind between the master and one replica.
    fn all_of(&mut self, kind: &'static str, rng: &mut ChaCha8Rng) -> (Node, Pattern) {
        let replica = self.replicas.deal(rng);
        let way = if FROM_MASTER.contains(&kind) {
            (Node::Master, replica)
        } else {
            (replica, Node::Master)
        };
        (replica, Pattern { kinds: [kind].into(), ..Pattern::ways([way]) })
    }

    /// Some of the messages on every way.
    fn some(&self, share: f64) -> (Node, Pattern) {
        let everywhere: BTreeSet<_> = ways(&self.nodes).collect();
        (Node::Master, Pattern { share, ..Pattern::ways(everywhere) })
    }
}

fn between(range: Range<u64>) -> Range<Duration> {
    Duration::from_millis(range.start)..Duration::from_millis(range.end)
}

impl Fault for Weather {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let share = rng.random_range(0.02..0.3);
        let calm = Duration::from_millis(rng.random_range(20..500));
        let ((target, pattern), deed) = match self.skies.deal(rng) {
            Sky::Rumour => {
                let (target, unasked) = self.all_of("prepare", rng);
                let questions = Pattern {
                    kinds: ["inquire", "pending"].into(),
                    ..Pattern::ways(ways(&self.nodes))
                };
                return Injection::of(
                    FaultName::Messages,
                    calm,
                    target,
                    Trigger::Message(unasked, Deed::Hold),
                    FaultAction::Network {
                        snares: vec![(questions, Deed::Drop)],
                        // Within the vote timeout, so that the vote, once it comes, still counts.
                        lasts: Duration::from_millis(rng.random_range(400..800)),
                    },
                );
            }
            Sky::Loss => (self.some(share), Deed::Drop),
            Sky::LossOf(kind) => (self.all_of(kind, rng), Deed::Drop),
            Sky::Disorder => (self.some(1.0), Deed::Delay(between(0..40))),
            Sky::LateOf(kind) => (self.all_of(kind, rng), Deed::Delay(between(10..200))),
            Sky::Echo => (self.some(share), Deed::Repeat(between(0..400))),
            Sky::EchoOf(kind) => (self.all_of(kind, rng), Deed::Repeat(between(20..250))),
            Sky::Jam => {
                let replica = self.replicas.deal(rng);
                let way = if self.from_master.deal(rng) {
                    (Node::Master, replica)
                } else {
                    (replica, Node::Master)
                };
                ((replica, Pattern::ways([way])), Deed::Hold)
            }
        };
        Injection::of(
            FaultName::Messages,
            calm,
            target,
            Trigger::Now,
            FaultAction::Network {
                snares: vec![(pattern, deed)],
                lasts: Duration::from_millis(rng.random_range(150..1_200)),
            },
        )
    }
}
