//! pause-master and pause-replica: SIGSTOP at a random time, SIGCONT from a moment to longer than
//! any timeout later.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{Fault, FaultAction, FaultName, Injection, ShuffledBag, Span, Trigger, replicas};

#[derive(Debug)]
pub(super) struct Pause {
    fault: FaultName,
    targets: ShuffledBag<Node>,
    lies: ShuffledBag<Span>,
}

impl Pause {
    pub(super) fn master() -> Self {
        let targets = ShuffledBag::new(vec![Node::Master]);
        Pause { fault: FaultName::PauseMaster, targets, lies: Span::bag() }
    }

    pub(super) fn replica(count: u8) -> Self {
        Pause { fault: FaultName::PauseReplica, targets: replicas(count), lies: Span::bag() }
    }
}

impl Fault for Pause {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        Injection::of(
            self.fault,
            Duration::from_millis(rng.random_range(20..900)),
            self.targets.deal(rng),
            Trigger::Now,
            FaultAction::Pause { lies: self.lies.deal(rng).draw(rng) },
        )
    }
}
