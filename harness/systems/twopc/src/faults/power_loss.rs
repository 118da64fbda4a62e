//! power-loss: nodes lose the writes that they have not synced: one node, all replicas, or all nodes,
//! at random times, at crash points, inside a commit to disk, and again when a restart has not yet
//! made durable what it found.

use std::time::Duration;

use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::{
    node::{Point, Role},
    protocol::{CommitMode, Node},
};

use super::{
    FaultAction, FaultName, Injection, OutageLength, PowerLossScope, Precondition, Trigger,
    replicas,
};
use crate::{
    disk::DiskPoint,
    matrix::{Reachability, disk_reachability, reachability},
};

/// Points around what the master and the replicas must not forget, in either commit mode.
const POINTS: &[&str] = &[
    "master:before-persist:commit",
    "master:after-persist:commit",
    "master:after-send:decide:1",
    "master:after-reply:ok",
    "replica:after-persist:prepare",
    "replica:after-send:vote-yes",
    "replica:after-receive:decide",
    "replica:after-send:ack",
    "replica:after-receive:veto",
    "replica:after-persist:frozen",
    "master:after-receive:peer-answer",
];

/// A point that can be reached, and how.
#[derive(Clone, Debug)]
struct ReachablePoint {
    role: Role,
    point: String,
    precondition: Precondition,
}

impl ReachablePoint {
    /// `None` if the point is never reached.
    fn of(role: Role, point: impl ToString, reachability: Reachability) -> Option<Self> {
        Some(ReachablePoint { role, point: point.to_string(), precondition: reachability.ok()? })
    }

    fn of_disk(point: DiskPoint, commit: CommitMode) -> Option<Self> {
        ReachablePoint::of(point.role, point, disk_reachability(point, commit))
    }

    fn trigger(self) -> Trigger {
        Trigger::Point { point: self.point, precondition: self.precondition }
    }
}

/// When the power fails.
#[derive(Clone, Debug)]
enum Moment {
    AtAnyTime,
    AtPoint(ReachablePoint),
    /// The node is killed between a write of the WAL and its sync, and the power fails when the
    /// restarted node makes its first sync.
    OnRestart(ReachablePoint),
}

/// After a write of the WAL that is not synced yet.
fn unsynced(role: Role) -> DiskPoint {
    format!("{}:after-disk-write:log", role.name()).parse().expect("it is a disk point")
}

#[derive(Debug)]
pub(super) struct PowerLoss {
    moments: ShuffledBag<Moment>,
    replicas: ShuffledBag<Node>,
    masters: ShuffledBag<bool>,
    scopes: ShuffledBag<PowerLossScope>,
    partial: ShuffledBag<bool>,
    outages: ShuffledBag<OutageLength>,
    /// Whether the fault has been injected once.
    injected: bool,
}

impl PowerLoss {
    pub(super) fn new(count: u8, commit: CommitMode) -> Self {
        let roles = [Role::Master, Role::Replica];
        let disk = roles.into_iter().flat_map(DiskPoint::all);
        let disk = disk.filter_map(|point| ReachablePoint::of_disk(point, commit));
        let points = POINTS.iter().map(|point| point.parse::<Point>().expect("it is a point"));
        let points = points.filter(|point| point.applies_to(commit));
        let points = points
            .filter_map(|point| ReachablePoint::of(point.role, point, reachability(point, commit)));
        let mut moments: Vec<_> = disk.chain(points).map(Moment::AtPoint).collect();
        let unsynced =
            roles.into_iter().filter_map(|role| ReachablePoint::of_disk(unsynced(role), commit));
        // Many of these, because each affects only what was in progress when the node was killed.
        moments.extend(unsynced.flat_map(|point| vec![Moment::OnRestart(point); 8]));
        moments.extend(vec![Moment::AtAnyTime; 8]);
        PowerLoss {
            moments: ShuffledBag::new(moments),
            replicas: replicas(count),
            masters: ShuffledBag::new(vec![true, false]),
            scopes: ShuffledBag::new(vec![
                PowerLossScope::Target,
                PowerLossScope::Target,
                PowerLossScope::Replicas,
                PowerLossScope::Cluster,
            ]),
            partial: ShuffledBag::new(vec![true, true, false]),
            outages: OutageLength::bag(),
            injected: false,
        }
    }
}

impl FaultSource<Injection> for PowerLoss {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let mut moment = self.moments.draw(rng);
        let mut partial = self.partial.draw(rng);
        if !self.injected {
            // A write of a commit that is not synced: even the shortest run loses something. A store
            // that never syncs reaches this point too.
            let (role, precondition) = (Role::Replica, Precondition::Load);
            let point = unsynced(role).to_string();
            moment = Moment::AtPoint(ReachablePoint { role, point, precondition });
            partial = false;
        }
        let master = match &moment {
            Moment::AtAnyTime => self.masters.draw(rng),
            Moment::AtPoint(point) | Moment::OnRestart(point) => point.role == Role::Master,
        };
        let target = if master { Node::Master } else { self.replicas.draw(rng) };
        let partial = partial.then(|| rng.random());
        let down = self.outages.draw(rng).draw(rng);
        // Within this time the master reconnects to a replica and settles open transactions with it.
        let paused = Duration::from_millis(rng.random_range(50..700));
        let scope = self.scopes.draw(rng);
        let power_loss = FaultAction::PowerLoss { paused: Duration::ZERO, down, scope, partial };
        let (trigger, action, delay) = match moment {
            Moment::AtAnyTime => (Trigger::Now, power_loss, 20..600),
            Moment::AtPoint(point) => (point.trigger(), power_loss, 5..200),
            Moment::OnRestart(point) => {
                (point.trigger(), FaultAction::PowerLossOnRestart { paused, down }, 5..200)
            }
        };
        let delay = Duration::from_millis(rng.random_range(delay));
        Injection::new(FaultName::PowerLoss, delay, target, trigger, action)
    }

    fn report(&mut self, injected: bool) {
        self.injected |= injected;
    }
}
