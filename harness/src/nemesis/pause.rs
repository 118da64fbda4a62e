//! pause-master and pause-replica: SIGSTOP at a random time, SIGCONT from a moment to longer than
//! any timeout later.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{Deck, Fault, FaultName, Harm, Span, Strike, Trigger, replicas};

#[derive(Debug)]
pub(super) struct Pause {
    fault: FaultName,
    victims: Deck<Node>,
    lies: Deck<Span>,
}

impl Pause {
    pub(super) fn master() -> Self {
        let victims = Deck::new(vec![Node::Master]);
        Pause { fault: FaultName::PauseMaster, victims, lies: Span::deck() }
    }

    pub(super) fn replica(count: u8) -> Self {
        Pause { fault: FaultName::PauseReplica, victims: replicas(count), lies: Span::deck() }
    }
}

impl Fault for Pause {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Strike {
        Strike::of(
            self.fault,
            Duration::from_millis(rng.random_range(20..900)),
            self.victims.deal(rng),
            Trigger::Now,
            Harm::Pause { lies: self.lies.deal(rng).draw(rng) },
        )
    }
}
