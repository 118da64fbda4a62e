//! replica-uncertainty: a replica stops around its vote or around the decision, when it is about to
//! be, is, or just was in doubt. Then it is killed or continued.

use std::time::Duration;

use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::{
    node::{Side, Site},
    protocol::Node,
};

use super::{FaultAction, FaultName, Injection, OutageLength, Trigger, replicas};
use crate::CrashPoint;

/// From the first record of a transaction to its acknowledgement.
pub(super) const POINTS: [CrashPoint; 8] = [
    CrashPoint::replica(Side::Before, Site::Persist, "prepare"),
    CrashPoint::replica(Side::After, Site::Persist, "prepare"),
    CrashPoint::replica(Side::After, Site::Send, "vote-yes"),
    CrashPoint::replica(Side::Before, Site::Receive, "decide"),
    CrashPoint::replica(Side::After, Site::Receive, "decide"),
    CrashPoint::replica(Side::Before, Site::Persist, "commit"),
    CrashPoint::replica(Side::After, Site::Persist, "commit"),
    CrashPoint::replica(Side::After, Site::Send, "ack"),
];

#[derive(Debug)]
pub(super) struct ReplicaUncertainty {
    points: ShuffledBag<CrashPoint>,
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
