//! power-loss: nodes lose what they have not synced, one of them, all replicas, or everything at
//! once: at random times, at points of their work, inside of a commit to disk, and once more while
//! a restart has not yet made durable what it found.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::{
    node::{Point, Role},
    protocol::{CommitMode, Node},
};

use super::{
    Fault, FaultAction, FaultName, Injection, Precondition, ShuffledBag, Span, Trigger, Whom,
    matrix::{Reach, reach, reach_disk},
    replicas,
};
use crate::disk::DiskPoint;

/// Around what the master and the replicas must not forget, in either mode.
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

/// A point, and what it takes to be reached.
#[derive(Clone, Debug)]
struct Mark {
    role: Role,
    at: String,
    precondition: Precondition,
}

impl Mark {
    /// None if it is never reached.
    fn of(role: Role, at: impl ToString, reach: Reach) -> Option<Self> {
        Some(Mark { role, at: at.to_string(), precondition: reach.ok()? })
    }

    fn of_disk(point: DiskPoint, commit: CommitMode) -> Option<Self> {
        Mark::of(point.role, point, reach_disk(point, commit))
    }
}

#[derive(Clone, Debug)]
enum Moment {
    Any,
    Point(Mark),
    /// Killed between a write of the log and its sync, and cut when the restart makes its first sync.
    Relapse(Mark),
}

/// After a write that no sync covers yet.
fn unsynced(role: Role) -> DiskPoint {
    format!("{}:after-disk-write:log", role.name()).parse().expect("it is a point")
}

#[derive(Debug)]
pub(super) struct PowerLoss {
    moments: ShuffledBag<Moment>,
    replicas: ShuffledBag<Node>,
    masters: ShuffledBag<bool>,
    whom: ShuffledBag<Whom>,
    in_part: ShuffledBag<bool>,
    spans: ShuffledBag<Span>,
    /// It has struck.
    struck: bool,
}

impl PowerLoss {
    pub(super) fn new(count: u8, commit: CommitMode) -> Self {
        let roles = [Role::Master, Role::Replica];
        let disk = roles.into_iter().flat_map(DiskPoint::all);
        let disk = disk.filter_map(|point| Mark::of_disk(point, commit));
        let points = POINTS.iter().map(|point| point.parse::<Point>().expect("it is a point"));
        let points = points.filter(|point| point.applies_to(commit));
        let points = points.filter_map(|it| Mark::of(it.role, it, reach(it, commit)));
        let mut moments: Vec<_> = disk.chain(points).map(Moment::Point).collect();
        let unsynced = roles.into_iter().filter_map(|it| Mark::of_disk(unsynced(it), commit));
        // Many, for each meets but what was under way when the node was killed.
        moments.extend(unsynced.flat_map(|mark| vec![Moment::Relapse(mark); 8]));
        moments.extend(vec![Moment::Any; 8]);
        PowerLoss {
            moments: ShuffledBag::new(moments),
            replicas: replicas(count),
            masters: ShuffledBag::new(vec![true, false]),
            whom: ShuffledBag::new(vec![
                Whom::Target,
                Whom::Target,
                Whom::Replicas,
                Whom::Everyone,
            ]),
            in_part: ShuffledBag::new(vec![true, true, false]),
            spans: Span::bag(),
            struck: false,
        }
    }
}

impl Fault for PowerLoss {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let mut moment = self.moments.deal(rng);
        let mut in_part = self.in_part.deal(rng);
        if !self.struck {
            // However short the run, something is lost: what a commit has written and not synced. A
            // store that never syncs comes there, too.
            let (role, precondition) = (Role::Replica, Precondition::Load);
            let mark = Mark { role, at: unsynced(role).to_string(), precondition };
            (moment, in_part) = (Moment::Point(mark), false);
        }
        let master = match &moment {
            Moment::Any => self.masters.deal(rng),
            Moment::Point(mark) | Moment::Relapse(mark) => mark.role == Role::Master,
        };
        let target = if master { Node::Master } else { self.replicas.deal(rng) };
        let part = in_part.then(|| rng.random());
        let down = self.spans.deal(rng).draw(rng);
        // The master finds a replica again, and settles with it what was open, within this time.
        let lies = Duration::from_millis(rng.random_range(50..700));
        let whom = self.whom.deal(rng);
        let cut = FaultAction::Cut { lies: Duration::ZERO, down, whom, part };
        let (trigger, precondition, action, calm) = match moment {
            Moment::Any => (Trigger::Now, Precondition::Load, cut, 20..600),
            Moment::Point(Mark { at, precondition, .. }) => {
                (Trigger::Point(at), precondition, cut, 5..200)
            }
            Moment::Relapse(Mark { at, precondition, .. }) => {
                (Trigger::Point(at), precondition, FaultAction::Relapse { lies, down }, 5..200)
            }
        };
        let calm = Duration::from_millis(rng.random_range(calm));
        Injection {
            precondition,
            ..Injection::of(FaultName::PowerLoss, calm, target, trigger, action)
        }
    }

    fn report(&mut self, struck: bool) {
        self.struck |= struck;
    }
}
