//! second-master: the master lies stopped, with votes on their way to it, and a second process is
//! started on its store. It must be refused; if it were not, it would decide what the first one,
//! once continued, decides as well.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::{CommitMode, Node};

use super::{Fault, FaultAction, FaultName, Injection, ShuffledBag, Trigger, window};

#[derive(Debug)]
pub(super) struct SecondMaster {
    triggers: ShuffledBag<Option<String>>,
}

impl SecondMaster {
    pub(super) fn new(replicas: u8, commit: CommitMode) -> Self {
        // All have voted, and nobody has been told.
        let voted = window(replicas, commit).swap_remove(0);
        SecondMaster {
            triggers: ShuffledBag::new(vec![
                Some(format!("master:after-send:prepare:{replicas}")),
                Some(format!("master:after-send:prepare:{replicas}")),
                Some(voted),
                None,
            ]),
        }
    }
}

impl Fault for SecondMaster {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        Injection::of(
            FaultName::SecondMaster,
            Duration::from_millis(rng.random_range(5..200)),
            Node::Master,
            self.triggers.deal(rng).map_or(Trigger::Now, Trigger::Point),
            FaultAction::SecondInstance {
                beside: Duration::from_millis(rng.random_range(200..800)),
            },
        )
    }
}
