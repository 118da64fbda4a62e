//! master-uncertainty: the master stops inside the window of uncertainty, when replicas have voted yes
//! and not all of them know the decision. Then it is killed or continued.

use std::time::Duration;

use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::{
    node::{Point, Role, Side, Site},
    protocol::{CommitMode, Node},
};

use super::{FaultAction, FaultName, Injection, OutageLength, Trigger};
use crate::CrashPoint;

/// What happens to a master that has stopped in the window.
#[derive(Clone, Copy, Debug)]
enum Continuation {
    /// Killed at once, and down for a while: its peers cannot reach it.
    KilledAtOnce,
    /// Killed after a while, and restarted at once: its peers have waited for an answer meanwhile.
    KilledLater,
    /// Continued after a while, with its memory intact.
    Continued,
}

#[derive(Debug)]
pub(super) struct MasterUncertainty {
    points: ShuffledBag<CrashPoint>,
    continuations: ShuffledBag<Continuation>,
    outages: ShuffledBag<OutageLength>,
}

/// The master's crash points inside the window of uncertainty, for a cluster with `replicas`
/// replicas.
#[must_use]
pub fn uncertainty_points(replicas: u8, commit: CommitMode) -> Vec<CrashPoint> {
    let (site, kind) = match commit {
        CommitMode::Logged => (Site::Persist, "commit"),
        // The master forces nothing. All replicas have voted, and neither they nor the client know
        // the decision.
        CommitMode::Votes => (Site::Reply, "ok"),
    };
    let first = [Side::Before, Side::After].map(|side| CrashPoint::master(side, site, kind));
    // Once the decision was sent to all but the last replica, one is in doubt. A single replica is
    // in doubt until it has received the decision.
    let (role, side, site) = (Role::Master, Side::After, Site::Send);
    let sent = (1..u32::from(replicas.max(2)))
        .map(|n| CrashPoint::Process(Point { role, side, site, kind: "decide", n }));
    first.into_iter().chain(sent).collect()
}

impl MasterUncertainty {
    pub(super) fn new(replicas: u8, commit: CommitMode) -> Self {
        MasterUncertainty {
            points: ShuffledBag::new(uncertainty_points(replicas, commit)),
            continuations: ShuffledBag::new(vec![
                Continuation::KilledAtOnce,
                Continuation::KilledLater,
                Continuation::Continued,
            ]),
            outages: OutageLength::bag(),
        }
    }
}

impl FaultSource<Injection> for MasterUncertainty {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let point = self.points.draw(rng);
        let outage = self.outages.draw(rng).draw(rng);
        Injection::new(
            FaultName::MasterUncertainty,
            Duration::from_millis(rng.random_range(5..200)),
            Node::Master,
            Trigger::point(point),
            match self.continuations.draw(rng) {
                Continuation::KilledAtOnce => {
                    FaultAction::Kill { paused: Duration::ZERO, down: outage }
                }
                Continuation::KilledLater => {
                    FaultAction::Kill { paused: outage, down: Duration::ZERO }
                }
                Continuation::Continued => FaultAction::Pause { paused: outage },
            },
        )
    }
}
