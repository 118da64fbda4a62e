//! twin-master: the master lies stopped, with votes on their way to it, and a second process is
//! started on its store. It must be refused; if it were not, it would decide what the first one,
//! once continued, decides as well.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::{CommitMode, Node};

use super::{Deck, Fault, FaultName, Harm, Strike, Trigger, window};

#[derive(Debug)]
pub(super) struct TwinMaster {
    triggers: Deck<Option<String>>,
}

impl TwinMaster {
    pub(super) fn new(replicas: u8, commit: CommitMode) -> Self {
        // All have voted, and nobody has been told.
        let voted = window(replicas, commit).swap_remove(0);
        TwinMaster {
            triggers: Deck::new(vec![
                Some(format!("master:after-send:prepare:{replicas}")),
                Some(format!("master:after-send:prepare:{replicas}")),
                Some(voted),
                None,
            ]),
        }
    }
}

impl Fault for TwinMaster {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Strike {
        Strike::of(
            FaultName::TwinMaster,
            Duration::from_millis(rng.random_range(5..200)),
            Node::Master,
            self.triggers.deal(rng).map_or(Trigger::Now, Trigger::Point),
            Harm::Twin { beside: Duration::from_millis(rng.random_range(200..800)) },
        )
    }
}
