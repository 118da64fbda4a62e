//! power-loss: nodes lose the writes that they have not synced: one node, all replicas, or all nodes,
//! at random times, at crash points, inside a commit to disk, and again when a restart has not yet
//! made durable what it found.

use std::time::Duration;

use lab::{
    bag::ShuffledBag,
    disk::{self, Access},
    injection::FaultSource,
};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::{
    node::{Role, Side, Site},
    protocol::{CommitMode, Node},
};

use super::{
    FaultAction, FaultName, Injection, OutageLength, PowerLossScope, Precondition, Trigger,
    replicas,
};
use crate::{
    CrashPoint,
    disk::DiskPoint,
    matrix::{disk_reachability, reachability},
};

/// Points around what the master and the replicas must not forget, in either commit mode.
const POINTS: [CrashPoint; 11] = [
    CrashPoint::master(Side::Before, Site::Persist, "commit"),
    CrashPoint::master(Side::After, Site::Persist, "commit"),
    CrashPoint::master(Side::After, Site::Send, "decide"),
    CrashPoint::master(Side::After, Site::Reply, "ok"),
    CrashPoint::replica(Side::After, Site::Persist, "prepare"),
    CrashPoint::replica(Side::After, Site::Send, "vote-yes"),
    CrashPoint::replica(Side::After, Site::Receive, "decide"),
    CrashPoint::replica(Side::After, Site::Send, "ack"),
    CrashPoint::replica(Side::After, Site::Receive, "veto"),
    CrashPoint::replica(Side::After, Site::Persist, "frozen"),
    CrashPoint::master(Side::After, Site::Receive, "peer-answer"),
];

/// A point that can be reached, and how.
#[derive(Clone, Debug)]
struct ReachablePoint {
    point: CrashPoint,
    precondition: Precondition,
}

impl ReachablePoint {
    /// `None` if the point does not apply to the commit mode, or is never reached.
    fn of(point: CrashPoint, commit: CommitMode) -> Option<Self> {
        let reachability = match point {
            CrashPoint::Process(point) if !point.applies_to(commit) => return None,
            CrashPoint::Process(point) => reachability(point, commit),
            CrashPoint::Disk(point) => disk_reachability(point, commit),
        };
        Some(ReachablePoint { point, precondition: reachability.ok()? })
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
fn unsynced(role: Role) -> CrashPoint {
    DiskPoint::of_wal(role, disk::Side::After, Access::Write).into()
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
        let reachable = |point: CrashPoint| ReachablePoint::of(point, commit);
        let disk = roles.into_iter().flat_map(DiskPoint::all).map(CrashPoint::from);
        let points = disk.chain(POINTS).filter_map(reachable);
        let mut moments: Vec<_> = points.map(Moment::AtPoint).collect();
        let unsynced = roles.into_iter().map(unsynced).filter_map(reachable);
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
            let (point, precondition) = (unsynced(Role::Replica), Precondition::Load);
            moment = Moment::AtPoint(ReachablePoint { point, precondition });
            partial = false;
        }
        let master = match &moment {
            Moment::AtAnyTime => self.masters.draw(rng),
            Moment::AtPoint(ReachablePoint { point, .. })
            | Moment::OnRestart(ReachablePoint { point, .. }) => point.role() == Role::Master,
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
