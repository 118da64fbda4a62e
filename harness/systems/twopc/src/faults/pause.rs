//! pause-master and pause-replica: SIGSTOP at a random time, and SIGCONT between a few milliseconds
//! and longer than every timeout later.

use std::time::Duration;

use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{FaultAction, FaultName, Injection, OutageLength, Trigger, replicas};

#[derive(Debug)]
pub(super) struct Pause {
    fault: FaultName,
    targets: ShuffledBag<Node>,
    paused: ShuffledBag<OutageLength>,
}

impl Pause {
    pub(super) fn master() -> Self {
        let targets = ShuffledBag::new(vec![Node::Master]);
        Pause { fault: FaultName::PauseMaster, targets, paused: OutageLength::bag() }
    }

    pub(super) fn replica(count: u8) -> Self {
        let (targets, paused) = (replicas(count), OutageLength::bag());
        Pause { fault: FaultName::PauseReplica, targets, paused }
    }
}

impl FaultSource<Injection> for Pause {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        Injection::new(
            self.fault,
            Duration::from_millis(rng.random_range(20..900)),
            self.targets.draw(rng),
            Trigger::Now,
            FaultAction::Pause { paused: self.paused.draw(rng).draw(rng) },
        )
    }
}
