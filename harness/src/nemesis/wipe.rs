//! wipe-replica: a replica is killed and started on an empty directory, as after the loss of its
//! disk: without `--bootstrap`, or with it by mistake. It must be refused, for it has forgotten what
//! it promised; then it gets its own directory back.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{Fault, FaultAction, FaultName, Injection, ShuffledBag, Trigger, replicas};

#[derive(Debug)]
pub(super) struct WipeReplica {
    targets: ShuffledBag<Node>,
    bootstraps: ShuffledBag<bool>,
}

impl WipeReplica {
    pub(super) fn new(count: u8) -> Self {
        WipeReplica { targets: replicas(count), bootstraps: ShuffledBag::new(vec![true, false]) }
    }
}

impl Fault for WipeReplica {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        Injection::of(
            FaultName::WipeReplica,
            Duration::from_millis(rng.random_range(5..200)),
            self.targets.deal(rng),
            Trigger::Now,
            FaultAction::Wipe { bootstrap: self.bootstraps.deal(rng) },
        )
    }
}
