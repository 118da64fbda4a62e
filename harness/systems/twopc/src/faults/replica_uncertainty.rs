//! replica-uncertainty: a replica stops around its vote or around the decision, when it is about to
//! be, is, or just was in doubt. Then it is killed or continued.

use std::time::Duration;

use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{FaultAction, FaultName, Injection, OutageLength, Trigger, replicas};

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
    outages: ShuffledBag<OutageLength>,
}

impl ReplicaUncertainty {
    pub(super) fn new(count: u8) -> Self {
        ReplicaUncertainty {
            points: ShuffledBag::new(POINTS.to_vec()),
            targets: replicas(count),
            kills: ShuffledBag::new(vec![true, true, false]),
            outages: OutageLength::bag(),
        }
    }
}

impl FaultSource<Injection> for ReplicaUncertainty {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let point = self.points.draw(rng);
        let outage = self.outages.draw(rng).draw(rng);
        Injection::new(
            FaultName::ReplicaUncertainty,
            Duration::from_millis(rng.random_range(5..200)),
            self.targets.draw(rng),
            Trigger::point(point),
            if self.kills.draw(rng) {
                FaultAction::Kill { paused: Duration::ZERO, down: outage }
            } else {
                FaultAction::Pause { paused: outage }
            },
        )
    }
}
