//! wipe-replica: a replica is killed and started on an empty directory, as after the loss of its
//! disk, with and without `--bootstrap`. It must be refused, because it has forgotten its votes. Then
//! it gets its own directory back.

use std::time::Duration;

use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

use super::{FaultAction, FaultName, Injection, Trigger, replicas};

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

impl FaultSource<Injection> for WipeReplica {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        Injection::new(
            FaultName::WipeReplica,
            Duration::from_millis(rng.random_range(5..200)),
            self.targets.draw(rng),
            Trigger::Now,
            FaultAction::Wipe { bootstrap: self.bootstraps.draw(rng) },
        )
    }
}
