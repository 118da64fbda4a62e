//! messages: single messages are held across a restart of their sender or receiver and then reach the
//! new process; and for a while, many messages are lost, delayed, repeated or reordered.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{
    FaultAction, FaultName, Injection, OutageLength, Trigger,
    partition::{all_links, all_nodes},
    replicas,
};
use crate::network::{Link, MessageAction, Pattern};

/// What happens while a message is held.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    /// Its sender is killed and restarted.
    SenderRestarts,
    /// Its receiver is killed and restarted.
    ReceiverRestarts,
    /// The master is paused until the replicas ask each other, and is continued when the message has
    /// arrived.
    MasterPaused,
}

/// Messages of the master that are held.
const FROM_MASTER: &[&str] = &["prepare", "decide", "read"];

/// Messages of a replica that are held.
const FROM_REPLICA: &[&str] = &["vote-yes", "ack", "value"];

/// The link of a message of this kind between the master and a replica.
fn link_of(kind: &str, replica: Node) -> Link {
    if FROM_MASTER.contains(&kind) { (Node::Master, replica) } else { (replica, Node::Master) }
}

/// One message is held while something else happens.
#[derive(Debug)]
pub(super) struct HeldMessage {
    cases: ShuffledBag<(&'static str, Meanwhile)>,
    replicas: ShuffledBag<Node>,
    down: ShuffledBag<OutageLength>,
    /// Whether the message passes and a copy of it is held.
    copies: ShuffledBag<bool>,
}

impl HeldMessage {
    pub(super) fn new(count: u8) -> Self {
        let kinds = FROM_MASTER.iter().chain(FROM_REPLICA);
        let restarts = |kind: &&'static str| {
            [(*kind, Meanwhile::SenderRestarts), (*kind, Meanwhile::ReceiverRestarts)]
        };
        let mut cases: Vec<_> = kinds.flat_map(restarts).collect();
        cases.extend([("prepare", Meanwhile::MasterPaused); 3]);
        HeldMessage {
            cases: ShuffledBag::new(cases),
            replicas: replicas(count),
            down: OutageLength::bag(),
            copies: ShuffledBag::new(vec![true, false, false]),
        }
    }
}

impl FaultSource<Injection> for HeldMessage {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let (kind, meanwhile) = self.cases.draw(rng);
        let (from, to) = link_of(kind, self.replicas.draw(rng));
        let hold =
            if self.copies.draw(rng) { MessageAction::HoldCopy } else { MessageAction::Hold };
        let down = self.down.draw(rng).draw(rng);
        let kill = FaultAction::Kill { paused: Duration::ZERO, down };
        let (target, action, hold) = match meanwhile {
            Meanwhile::SenderRestarts => (from, kill, hold),
            Meanwhile::ReceiverRestarts => (to, kill, hold),
            Meanwhile::MasterPaused => {
                // Longer than three unanswered inquiries.
                let paused = Duration::from_millis(rng.random_range(2_100..2_900));
                (Node::Master, FaultAction::Pause { paused }, MessageAction::Hold)
            }
        };
        Injection::new(
            FaultName::Messages,
            Duration::from_millis(rng.random_range(5..200)),
            target,
            Trigger::Message(Pattern::first(kind, from, to), hold),
            action,
        )
    }
}

/// A chaos profile: how messages are disturbed for a while.
#[derive(Clone, Copy, Debug)]
enum Profile {
    /// Some messages are lost, on every link.
    Loss,
    /// All messages of one kind are lost on one link.
    LossOf(&'static str),
    /// Messages overtake each other, on every link.
    Reordering,
    /// All messages of one kind are delayed on one link.
    DelayOf(&'static str),
    /// Some messages arrive twice, on every link.
    Repetition,
    /// All messages of one kind arrive twice on one link.
    RepetitionOf(&'static str),
    /// One link is blocked, and then everything arrives at once.
    Blocked,
    /// One replica receives no Prepare until those that have voted have given up on the master and
    /// have asked the other replicas instead.
    LatePrepare,
}

/// Many messages are disturbed for a while.
#[derive(Debug)]
pub(super) struct MessageChaos {
    nodes: Vec<Node>,
    profiles: ShuffledBag<Profile>,
    replicas: ShuffledBag<Node>,
    from_master: ShuffledBag<bool>,
}

impl MessageChaos {
    pub(super) fn new(count: u8) -> Self {
        let mut profiles = vec![
            Profile::Loss,
            Profile::Loss,
            Profile::Reordering,
            Profile::Reordering,
            Profile::Repetition,
            Profile::Blocked,
        ];
        profiles.extend([Profile::LatePrepare; 3]);
        profiles.extend(["prepare", "decide", "vote-yes", "ack"].map(Profile::LossOf));
        profiles.extend(["decide", "decide", "vote-yes", "ack"].map(Profile::DelayOf));
        profiles.extend([Profile::RepetitionOf("vote-yes"); 4]);
        profiles.extend(["prepare", "decide"].map(Profile::RepetitionOf));
        MessageChaos {
            nodes: all_nodes(count),
            profiles: ShuffledBag::new(profiles),
            replicas: replicas(count),
            from_master: ShuffledBag::new(vec![true, false]),
        }
    }

    /// All messages of one kind between the master and one replica.
    fn all_of(&mut self, kind: &'static str, rng: &mut ChaCha8Rng) -> (Node, Pattern) {
        let replica = self.replicas.draw(rng);
        let links = [link_of(kind, replica)];
        (replica, Pattern { kinds: [kind].into(), ..Pattern::on_links(links) })
    }

    /// A share of the messages on every link.
    fn some(&self, share: f64) -> (Node, Pattern) {
        let everywhere: BTreeSet<_> = all_links(&self.nodes).collect();
        (Node::Master, Pattern { share, ..Pattern::on_links(everywhere) })
    }

    /// All messages on one link between the master and one replica.
    fn one_link(&mut self, rng: &mut ChaCha8Rng) -> (Node, Pattern) {
        let replica = self.replicas.draw(rng);
        let link = if self.from_master.draw(rng) {
            (Node::Master, replica)
        } else {
            (replica, Node::Master)
        };
        (replica, Pattern::on_links([link]))
    }

    /// Holds the Prepare to one replica, and drops inquiries to the master and its answers meanwhile.
    fn late_prepare(&mut self, delay: Duration, rng: &mut ChaCha8Rng) -> Injection {
        let (target, prepare) = self.all_of("prepare", rng);
        let inquiries = Pattern {
            kinds: ["inquire", "pending"].into(),
            ..Pattern::on_links(all_links(&self.nodes))
        };
        Injection::new(
            FaultName::Messages,
            delay,
            target,
            Trigger::Message(prepare, MessageAction::Hold),
            FaultAction::Network {
                rules: vec![(inquiries, MessageAction::Drop)],
                // Shorter than the vote timeout, so that the late vote still counts.
                duration: Duration::from_millis(rng.random_range(400..800)),
            },
        )
    }
}

fn millis(range: Range<u64>) -> Range<Duration> {
    Duration::from_millis(range.start)..Duration::from_millis(range.end)
}

impl FaultSource<Injection> for MessageChaos {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let share = rng.random_range(0.02..0.3);
        let delay = Duration::from_millis(rng.random_range(20..500));
        let ((target, pattern), action) = match self.profiles.draw(rng) {
            Profile::LatePrepare => return self.late_prepare(delay, rng),
            Profile::Loss => (self.some(share), MessageAction::Drop),
            Profile::LossOf(kind) => (self.all_of(kind, rng), MessageAction::Drop),
            Profile::Reordering => (self.some(1.0), MessageAction::Delay(millis(0..40))),
            Profile::DelayOf(kind) => {
                (self.all_of(kind, rng), MessageAction::Delay(millis(10..200)))
            }
            Profile::Repetition => (self.some(share), MessageAction::Repeat(millis(0..400))),
            Profile::RepetitionOf(kind) => {
                (self.all_of(kind, rng), MessageAction::Repeat(millis(20..250)))
            }
            Profile::Blocked => (self.one_link(rng), MessageAction::Hold),
        };
        Injection::new(
            FaultName::Messages,
            delay,
            target,
            Trigger::Now,
            FaultAction::Network {
                rules: vec![(pattern, action)],
                duration: Duration::from_millis(rng.random_range(150..1_200)),
            },
        )
    }
}
