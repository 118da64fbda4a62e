//! kill-master and kill-replica: SIGKILL at a random time, down for a while, started again.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{Deck, Fault, FaultName, Harm, Span, Strike, Trigger, replicas};

#[derive(Debug)]
pub(super) struct Kill {
    fault: FaultName,
    victims: Deck<Node>,
    down: Deck<Span>,
}

impl Kill {
    pub(super) fn master() -> Self {
        let victims = Deck::new(vec![Node::Master]);
        Kill { fault: FaultName::KillMaster, victims, down: Span::deck() }
    }

    pub(super) fn replica(count: u8) -> Self {
        Kill { fault: FaultName::KillReplica, victims: replicas(count), down: Span::deck() }
    }
}

impl Fault for Kill {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Strike {
        Strike::of(
            self.fault,
            Duration::from_millis(rng.random_range(20..900)),
            self.victims.deal(rng),
            Trigger::Now,
            Harm::Kill { lies: Duration::ZERO, down: self.down.deal(rng).draw(rng) },
        )
    }
}
