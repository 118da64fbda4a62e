//! kill-master and kill-replica: SIGKILL at a random time, down for a while, started again.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{Fault, FaultAction, FaultName, Injection, ShuffledBag, Span, Trigger, replicas};

#[derive(Debug)]
pub(super) struct Kill {
    fault: FaultName,
    targets: ShuffledBag<Node>,
    down: ShuffledBag<Span>,
}

impl Kill {
    pub(super) fn master() -> Self {
        let targets = ShuffledBag::new(vec![Node::Master]);
        Kill { fault: FaultName::KillMaster, targets, down: Span::bag() }
    }

    pub(super) fn replica(count: u8) -> Self {
        Kill { fault: FaultName::KillReplica, targets: replicas(count), down: Span::bag() }
    }
}

impl Fault for Kill {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        Injection::of(
            self.fault,
            Duration::from_millis(rng.random_range(20..900)),
            self.targets.deal(rng),
            Trigger::Now,
            FaultAction::Kill { lies: Duration::ZERO, down: self.down.deal(rng).draw(rng) },
        )
    }
}
