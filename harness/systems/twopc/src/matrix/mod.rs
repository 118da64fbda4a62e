//! crash-matrix: every crash point of a node and of its disk, and at each a kill, a power loss, and a
//! pause longer than every timeout. This module enumerates the cells, says what each takes to be
//! reached or why it never is, and draws them in seeded order. [`Coverage`] counts those that were
//! reached.

mod coverage;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, fmt, time::Duration};

use history::nemesis::InjectionKind;
use lab::{bag::ShuffledBag, injection::FaultSource};
use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use system::{
    node::{Point, Role, Site},
    protocol::{CommitMode, Node},
};

pub use self::coverage::{Coverage, MatrixDescription};
use crate::{
    CrashPoint,
    disk::{DiskPoint, LOG},
    faults::{
        Capabilities, FaultAction, FaultName, Injection, OutageLength, PowerLossScope,
        Precondition, Trigger, replicas,
    },
};

/// What is done to a node that has reached its crash point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CrashAction {
    /// SIGKILL.
    Kill,
    /// A power loss.
    PowerLoss,
    /// A pause longer than every timeout.
    Pause,
}

impl CrashAction {
    const ALL: [CrashAction; 3] = [CrashAction::Kill, CrashAction::PowerLoss, CrashAction::Pause];

    /// The kind of event that records the action.
    fn kind(self) -> InjectionKind {
        match self {
            CrashAction::Kill => InjectionKind::Kill,
            CrashAction::PowerLoss => InjectionKind::PowerLoss,
            CrashAction::Pause => InjectionKind::Pause,
        }
    }
}

/// A cell of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MatrixCell {
    /// The crash point.
    pub point: CrashPoint,
    /// What is done there.
    pub action: CrashAction,
}

impl fmt::Display for MatrixCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.action.kind().name(), self.point)
    }
}

/// How a point is reached, or why it never is.
pub(crate) type Reachability = Result<Precondition, &'static str>;

const ONLY_AT_BOOTSTRAP: &str = "reached only when a cluster is created, before it stores anything";
const NEEDS_REPLACED_MASTER: &str =
    "needs a master that was replaced while it was alive, which the store's lock prevents";
const NEEDS_EARLY_READ: &str =
    "needs a read between a replica's restart and its handshake, when the master sends none";
const WAL_NEVER_FULL: &str =
    "when votes decide, the master logs one record per start, so its WAL is never checkpointed";

/// How a crash point is reached; the point must apply to the commit mode.
pub(crate) fn reachability(
    Point { role, site, kind, .. }: Point,
    commit: CommitMode,
) -> Reachability {
    use Precondition::{Load, PeerInquiry, RestartMaster, RestartTarget, VoteTimeout};
    match (role, site, kind) {
        (_, Site::Persist, "member" | "votes") => Err(ONLY_AT_BOOTSTRAP),
        (_, _, "stale") => Err(NEEDS_REPLACED_MASTER),
        (_, _, "not-serving") => Err(NEEDS_EARLY_READ),
        (Role::Master, Site::Persist, "epoch")
        // A restarted master asks about whatever was in progress at the replicas when it was killed.
        | (Role::Master, _, "fence" | "fence-ok" | "peer-inquire")
        | (Role::Replica, Site::Persist, "incarnation") => Ok(RestartTarget),
        (Role::Replica, Site::Persist, "promise") | (Role::Replica, _, "fence" | "fence-ok") => {
            Ok(RestartMaster)
        }
        // When votes decide, a replica that is asked for a veto gives it, and has nothing to abort.
        (Role::Replica, Site::Persist, "abort") if commit == CommitMode::Votes => Ok(PeerInquiry),
        (_, _, "veto") | (Role::Master, _, "peer-answer") => Ok(VoteTimeout),
        (Role::Replica, Site::Persist, "refused" | "frozen")
        | (_, _, "vote-no" | "peer-inquire" | "peer-answer") => Ok(PeerInquiry),
        (Role::Replica, Site::Persist, "abort")
        | (Role::Master, Site::Reply, "unavailable")
        | (_, _, "decide-abort" | "pending" | "inquire" | "busy") => Ok(VoteTimeout),
        _ => Ok(Load),
    }
}

/// How a point of a disk is reached.
pub(crate) fn disk_reachability(
    DiskPoint { role, at }: DiskPoint,
    commit: CommitMode,
) -> Reachability {
    match (role, commit) {
        (Role::Master, CommitMode::Votes) if at.region == LOG => Ok(Precondition::RestartTarget),
        (Role::Master, CommitMode::Votes) => Err(WAL_NEVER_FULL),
        _ => Ok(Precondition::Load),
    }
}

/// How many occurrences of a point are distinguished: what happens once per replica has a first, a
/// second and so on.
fn occurrences(Point { role, site, kind, .. }: Point, replicas: u8) -> u32 {
    let per_replica = match (role, site) {
        (Role::Master, Site::Send) => ["prepare", "decide", "veto"].contains(&kind),
        (Role::Master, Site::Receive) => ["vote-yes", "ack", "peer-answer"].contains(&kind),
        _ => false,
    };
    if per_replica { replicas.into() } else { 1 }
}

/// Every cell for a cluster with this many replicas and this commit mode. Cells that need disks that
/// can lose power are included only with `disks`.
fn cells(replicas: u8, disks: bool, commit: CommitMode) -> Vec<(MatrixCell, Reachability)> {
    let mut points: Vec<(CrashPoint, Reachability)> = Vec::new();
    for role in [Role::Master, Role::Replica] {
        for point in Point::all(role).filter(|point| point.applies_to(commit)) {
            let reachability = reachability(point, commit);
            let occurrences = 1..=occurrences(point, replicas);
            points.extend(occurrences.map(|n| (Point { n, ..point }.into(), reachability)));
        }
        let disk = DiskPoint::all(role).filter(|_| disks);
        points.extend(disk.map(|point| (point.into(), disk_reachability(point, commit))));
    }
    let possible = |action: &CrashAction| disks || *action != CrashAction::PowerLoss;
    let actions: Vec<_> = CrashAction::ALL.into_iter().filter(possible).collect();
    let cells = points.into_iter().flat_map(|(point, reachability)| {
        let cell =
            move |action: &CrashAction| (MatrixCell { point, action: *action }, reachability);
        actions.iter().map(cell).collect::<Vec<_>>()
    });
    cells.collect()
}

/// The fault.
#[derive(Debug)]
pub(crate) struct CrashMatrix {
    cells: Vec<(MatrixCell, Precondition)>,
    /// The cells left in this round, each with the number of its next try.
    left: VecDeque<(usize, u32)>,
    last: Option<(usize, u32)>,
    /// Whether the first round has begun.
    begun: bool,
    replicas: ShuffledBag<Node>,
    down: ShuffledBag<OutageLength>,
}

/// How often a cell is tried in a round until it is reached.
const TRIES: u32 = 4;

impl CrashMatrix {
    pub(crate) fn new(count: u8, Capabilities { disks, shard, commit }: Capabilities) -> Self {
        use OutageLength::{Medium, Short};
        let cells = cells(count, disks, commit).into_iter();
        let reachable = cells.filter_map(|(cell, reachability)| Some((cell, reachability.ok()?)));
        let of_shard = (0..).zip(reachable).filter(|(position, _)| shard.has(*position));
        CrashMatrix {
            cells: of_shard.map(|(_, cell)| cell).collect(),
            left: VecDeque::new(),
            last: None,
            begun: false,
            replicas: replicas(count),
            down: ShuffledBag::new(vec![Short, Short, Short, Medium]),
        }
    }

    fn begin_round(&mut self, rng: &mut ChaCha8Rng) {
        let mut round: Vec<_> = (0..self.cells.len()).collect();
        round.shuffle(rng);
        if !std::mem::replace(&mut self.begun, true) {
            // A run that has other faults as well begins with a cell that is reached quickly.
            let quick = round.iter().position(|cell| self.cells[*cell].1 == Precondition::Load);
            round.swap(0, quick.unwrap_or(0));
        }
        self.left = round.into_iter().map(|cell| (cell, 1)).collect();
    }
}

impl FaultSource<Injection> for CrashMatrix {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        if self.left.is_empty() {
            self.begin_round(rng);
        }
        self.last = self.left.pop_front();
        let (MatrixCell { point, action }, precondition) =
            self.cells[self.last.map_or(0, |(cell, _)| cell)];
        let target =
            if point.role() == Role::Master { Node::Master } else { self.replicas.draw(rng) };
        let down = self.down.draw(rng).draw(rng);
        let action = match action {
            CrashAction::Kill => FaultAction::Kill { paused: Duration::ZERO, down },
            CrashAction::PowerLoss => {
                let partial = rng.random_bool(0.5).then(|| rng.random());
                let scope = PowerLossScope::Target;
                FaultAction::PowerLoss { paused: Duration::ZERO, down, scope, partial }
            }
            CrashAction::Pause => FaultAction::Pause { paused: OutageLength::Long.draw(rng) },
        };
        let delay = Duration::from_millis(rng.random_range(5..60));
        let trigger = Trigger::Point { point, precondition };
        Injection::new(FaultName::CrashMatrix, delay, target, trigger, action)
    }

    fn report(&mut self, injected: bool) {
        if let Some((cell, tries)) = self.last.take()
            && !injected
            && tries < TRIES
        {
            // Not immediately: what keeps the point from being reached may pass.
            let position = self.left.len().min(3);
            self.left.insert(position, (cell, tries + 1));
        }
    }
}
