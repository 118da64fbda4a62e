//! restart-master and restart-replica: SIGTERM at a random time, or when the target has stopped in the
//! middle of a commit, and a restart. What a node leaves unfinished when it is asked to exit has to be
//! finished by its next start, and its peers learn at once that it leaves.

use std::time::Duration;

use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::{CommitMode, Node};

use super::{
    FaultAction, FaultName, Injection, OutageLength, Trigger, replica_uncertainty, replicas,
    uncertainty_points,
};
use crate::CrashPoint;

#[derive(Debug)]
pub(super) struct Restart {
    fault: FaultName,
    targets: ShuffledBag<Node>,
    points: ShuffledBag<CrashPoint>,
    /// Whether it waits for a point.
    waits: ShuffledBag<bool>,
}

impl Restart {
    pub(super) fn master(replicas: u8, commit: CommitMode) -> Self {
        let points = uncertainty_points(replicas, commit);
        Restart::new(FaultName::RestartMaster, ShuffledBag::new(vec![Node::Master]), points)
    }

    pub(super) fn replica(count: u8) -> Self {
        let points = replica_uncertainty::POINTS.to_vec();
        Restart::new(FaultName::RestartReplica, replicas(count), points)
    }

    fn new(fault: FaultName, targets: ShuffledBag<Node>, points: Vec<CrashPoint>) -> Self {
        let waits = ShuffledBag::new(vec![true, true, false]);
        Restart { fault, targets, points: ShuffledBag::new(points), waits }
    }
}

impl FaultSource<Injection> for Restart {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let trigger = match self.waits.draw(rng) {
            true => Trigger::point(self.points.draw(rng)),
            false => Trigger::Now,
        };
        Injection::new(
            self.fault,
            Duration::from_millis(rng.random_range(20..600)),
            self.targets.draw(rng),
            trigger,
            FaultAction::Terminate { down: OutageLength::Short.draw(rng) },
        )
    }
}
