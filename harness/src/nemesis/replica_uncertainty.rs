//! replica-uncertainty: a replica stops itself around its vote or around the decision, when it is
//! about to be, or is, or was just in doubt; then it is killed or continued.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{Fault, FaultAction, FaultName, Injection, ShuffledBag, Span, Trigger, replicas};

/// From the first record of a transaction to its acknowledgement.
const POINTS: &[&str] = &[
    "replica:before-persist:prepare",
    "replica:after-persist:prepare",
    "replica:after-send:vote-yes",
    "replica:before-receive:decide",
    "replica:after-receive:decide",
    "replica:before-persist:commit",
    "replica:after-persist:commit",
    "replica:after-send:ack",
];

#[derive(Debug)]
pub(super) struct ReplicaUncertainty {
    points: ShuffledBag<&'static str>,
    targets: ShuffledBag<Node>,
    kills: ShuffledBag<bool>,
    spans: ShuffledBag<Span>,
}

impl ReplicaUncertainty {
    pub(super) fn new(count: u8) -> Self {
        ReplicaUncertainty {
            points: ShuffledBag::new(POINTS.to_vec()),
            targets: replicas(count),
            kills: ShuffledBag::new(vec![true, true, false]),
            spans: Span::bag(),
        }
    }
}

impl Fault for ReplicaUncertainty {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let point = self.points.deal(rng);
        let span = self.spans.deal(rng).draw(rng);
        Injection::of(
            FaultName::ReplicaUncertainty,
            Duration::from_millis(rng.random_range(5..200)),
            self.targets.deal(rng),
            Trigger::Point(point.to_owned()),
            if self.kills.deal(rng) {
                FaultAction::Kill { lies: Duration::ZERO, down: span }
            } else {
                FaultAction::Pause { lies: span }
            },
        )
    }
}
