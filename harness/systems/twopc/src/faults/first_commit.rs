//! first-commit: the master dies when it has answered its first Ok. At the beginning of a run that is the
//! first commit of a cluster, and of its members; later it is the first one after a restart. What the answer
//! relies on has to be durable by then: a kill shows what was not written yet, and where the disks can lose
//! power, that shows what was not synced.

use std::time::Duration;

use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::{
    node::{Side, Site},
    protocol::Node,
};

use super::{
    FaultAction, FaultName, Injection, OutageLength, PowerLossScope, Precondition, Trigger,
};
use crate::CrashPoint;

/// Where it dies.
const POINT: CrashPoint = CrashPoint::master(Side::After, Site::Reply, "ok");

#[derive(Debug)]
pub(super) struct FirstCommit {
    /// Whether it loses power, or is killed.
    loses_power: ShuffledBag<bool>,
    /// Whether the cluster has had its first commit.
    is_later: bool,
}

impl FirstCommit {
    pub(super) fn new(disks: bool) -> Self {
        let loses_power = if disks { vec![true, false] } else { vec![false] };
        FirstCommit { loses_power: ShuffledBag::new(loses_power), is_later: false }
    }
}

impl FaultSource<Injection> for FirstCommit {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let (delay, precondition) = match self.is_later {
            false => (Duration::ZERO, Precondition::Load),
            true => {
                let delay = Duration::from_millis(rng.random_range(5..300));
                (delay, Precondition::RestartTarget)
            }
        };
        let (paused, down) = (Duration::ZERO, OutageLength::Short.draw(rng));
        let action = match self.loses_power.draw(rng) {
            true => {
                let (scope, partial) = (PowerLossScope::Target, None);
                FaultAction::PowerLoss { paused, down, scope, partial }
            }
            false => FaultAction::Kill { paused, down },
        };
        let trigger = Trigger::Point { point: POINT, precondition };
        Injection::new(FaultName::FirstCommit, delay, Node::Master, trigger, action)
    }

    fn report(&mut self, injected: bool) {
        self.is_later |= injected;
    }
}
