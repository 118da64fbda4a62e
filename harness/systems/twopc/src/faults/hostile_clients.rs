//! hostile-clients: a client floods a node, takes no answers, leaves its requests unfinished, or keeps
//! connections that it does not use. The node has to refuse it before it costs the others their service.

use std::time::Duration;

use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{FaultAction, FaultName, Injection, Trigger, replicas};
use crate::attack::Attack;

#[derive(Debug)]
pub(super) struct HostileClients {
    attacks: ShuffledBag<Attack>,
    replicas: ShuffledBag<Node>,
}

impl HostileClients {
    pub(super) fn new(count: u8) -> Self {
        HostileClients {
            attacks: ShuffledBag::new(Attack::ALL.to_vec()),
            replicas: replicas(count),
        }
    }
}

impl FaultSource<Injection> for HostileClients {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let attack = self.attacks.draw(rng);
        let target = match attack.is_for_replicas() {
            true => self.replicas.draw(rng),
            false => Node::Master,
        };
        Injection::new(
            FaultName::HostileClients,
            Duration::from_millis(rng.random_range(20..400)),
            target,
            Trigger::Now,
            FaultAction::Attack {
                attack,
                duration: Duration::from_millis(rng.random_range(200..900)),
            },
        )
    }
}
