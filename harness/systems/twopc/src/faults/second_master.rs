//! second-master: the master is paused while votes are on their way to it, and a second process is
//! started on its store. The second process must be refused. If it were admitted, both would decide
//! the same transactions once the first is continued.

use std::time::Duration;

use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::{
    node::{Point, Role, Side, Site},
    protocol::{CommitMode, Node},
};

use super::{FaultAction, FaultName, Injection, Trigger, uncertainty_points};
use crate::CrashPoint;

#[derive(Debug)]
pub(super) struct SecondMaster {
    points: ShuffledBag<Option<CrashPoint>>,
}

impl SecondMaster {
    pub(super) fn new(replicas: u8, commit: CommitMode) -> Self {
        // All replicas have voted, and nobody knows the decision.
        let voted = uncertainty_points(replicas, commit).swap_remove(0);
        let (role, side, site) = (Role::Master, Side::After, Site::Send);
        let prepared = Point { role, side, site, kind: "prepare", n: replicas.into() }.into();
        SecondMaster {
            points: ShuffledBag::new(vec![Some(prepared), Some(prepared), Some(voted), None]),
        }
    }
}

impl FaultSource<Injection> for SecondMaster {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        Injection::new(
            FaultName::SecondMaster,
            Duration::from_millis(rng.random_range(5..200)),
            Node::Master,
            self.points.draw(rng).map_or(Trigger::Now, Trigger::point),
            FaultAction::SecondInstance {
                overlap: Duration::from_millis(rng.random_range(200..800)),
            },
        )
    }
}
