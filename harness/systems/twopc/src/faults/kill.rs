//! kill-master and kill-replica: SIGKILL at a random time, and a restart later.

use std::time::Duration;

use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{FaultAction, FaultName, Injection, OutageLength, Trigger, replicas};

#[derive(Debug)]
pub(super) struct Kill {
    fault: FaultName,
    targets: ShuffledBag<Node>,
    down: ShuffledBag<OutageLength>,
}

impl Kill {
    pub(super) fn master() -> Self {
        let targets = ShuffledBag::new(vec![Node::Master]);
        Kill { fault: FaultName::KillMaster, targets, down: OutageLength::bag() }
    }

    pub(super) fn replica(count: u8) -> Self {
        Kill { fault: FaultName::KillReplica, targets: replicas(count), down: OutageLength::bag() }
    }
}

impl FaultSource<Injection> for Kill {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        Injection::new(
            self.fault,
            Duration::from_millis(rng.random_range(20..900)),
            self.targets.draw(rng),
            Trigger::Now,
            FaultAction::Kill { paused: Duration::ZERO, down: self.down.draw(rng).draw(rng) },
        )
    }
}
