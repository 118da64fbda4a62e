//! Faults: which there are, what each does next, and in which order those of a list come. All of
//! it is data drawn from the seed; [`strike`] is what carries it out on a cluster.

mod bag;
pub mod inject;
mod kill;
mod master_uncertainty;
pub mod matrix;
mod messages;
mod partition;
mod pause;
mod power_loss;
mod replica_uncertainty;
mod second_master;
mod wipe;

use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::{CommitMode, Node};

use self::bag::ShuffledBag;
pub use self::master_uncertainty::window;
use crate::network::{Deed, Pattern};

/// The faults that can be asked for, by the names that `--faults` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultName {
    /// The master is killed at random times.
    KillMaster,
    /// A replica is killed at random times.
    KillReplica,
    /// The master is stopped at random times, and continued later.
    PauseMaster,
    /// A replica is stopped at random times, and continued later.
    PauseReplica,
    /// The master is stopped inside the window of uncertainty, and then killed or continued.
    MasterUncertainty,
    /// A replica is stopped around its vote and around the decision, and then killed or continued.
    ReplicaUncertainty,
    /// Nodes are cut off from each other, one way or both.
    Partition,
    /// Messages are lost, late, doubled, out of order, or held past a restart.
    Messages,
    /// A second master is started on the store of one that lies stopped.
    SecondMaster,
    /// A replica is started on an empty directory.
    WipeReplica,
    /// Nodes lose what they have not synced.
    PowerLoss,
    /// Every point of the nodes' work in turn, and each end there.
    CrashMatrix,
}

impl FaultName {
    /// Every fault.
    pub const ALL: &[FaultName] = &[
        FaultName::KillMaster,
        FaultName::KillReplica,
        FaultName::PauseMaster,
        FaultName::PauseReplica,
        FaultName::MasterUncertainty,
        FaultName::ReplicaUncertainty,
        FaultName::Partition,
        FaultName::Messages,
        FaultName::SecondMaster,
        FaultName::WipeReplica,
        FaultName::PowerLoss,
        FaultName::CrashMatrix,
    ];

    /// The name as typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FaultName::KillMaster => "kill-master",
            FaultName::KillReplica => "kill-replica",
            FaultName::PauseMaster => "pause-master",
            FaultName::PauseReplica => "pause-replica",
            FaultName::MasterUncertainty => "master-uncertainty",
            FaultName::ReplicaUncertainty => "replica-uncertainty",
            FaultName::Partition => "partition",
            FaultName::Messages => "messages",
            FaultName::SecondMaster => "second-master",
            FaultName::WipeReplica => "wipe-replica",
            FaultName::PowerLoss => "power-loss",
            FaultName::CrashMatrix => "crash-matrix",
        }
    }

    /// Whether it strikes whenever it wants and is soon over, so that it can be a second strike.
    fn at_any_time(self) -> bool {
        matches!(
            self,
            FaultName::KillMaster
                | FaultName::KillReplica
                | FaultName::PauseMaster
                | FaultName::PauseReplica
        )
    }

    /// Whether it needs the network between the nodes in the harness's lanes.
    #[must_use]
    pub fn needs_network(self) -> bool {
        matches!(self, FaultName::Partition | FaultName::Messages)
    }

    /// Whether it is the work of this hand.
    fn by(self, hand: Lane) -> bool {
        match self {
            FaultName::Partition => hand == Lane::Network,
            FaultName::Messages => true,
            _ => hand == Lane::Nodes,
        }
    }
}

impl fmt::Display for FaultName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A list of faults: `none`, `all`, or names with commas between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<FaultName>);

impl Faults {
    /// The faults, in the order in which they are defined, each once.
    #[must_use]
    pub fn names(&self) -> &[FaultName] {
        &self.0
    }

    /// Whether some of them make use of disks that can lose power.
    #[must_use]
    pub fn want_disks(&self) -> bool {
        self.0.iter().any(|it| matches!(it, FaultName::PowerLoss | FaultName::CrashMatrix))
    }

    /// Whether a fault that is nothing without them was asked for by name, rather than with all
    /// the others.
    #[must_use]
    pub fn need_disks(&self) -> bool {
        self.0.contains(&FaultName::PowerLoss) && self.0 != FaultName::ALL
    }

    /// These faults without those that are nothing without disks that can lose power.
    #[must_use]
    pub fn without_disks(mut self) -> Faults {
        self.0.retain(|fault| *fault != FaultName::PowerLoss);
        self
    }

    /// The one fault that is not among them, if there is one.
    fn but(&self) -> Option<FaultName> {
        let mut missing = FaultName::ALL.iter().filter(|fault| !self.0.contains(fault));
        missing.next().copied().filter(|_| missing.next().is_none())
    }

    /// The list in the name of a run directory.
    #[must_use]
    pub fn label(&self) -> String {
        match self.0.as_slice() {
            [] => "none".to_owned(),
            all if all == FaultName::ALL => "all".to_owned(),
            some => match self.but() {
                Some(but) => format!("all-but-{but}"),
                None => some.iter().map(|fault| fault.name()).collect::<Vec<_>>().join("+"),
            },
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label().replace('+', ","))
    }
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = Vec::new();
        let mut none = false;
        for name in text.split(',').map(str::trim) {
            // The name that records of earlier versions have.
            let name = if name == "twin-master" { FaultName::SecondMaster.name() } else { name };
            match name {
                "none" => none = true,
                "all" => faults.extend_from_slice(FaultName::ALL),
                _ => match FaultName::ALL
                    .iter()
                    .find(|fault| fault.name() == name.trim_start_matches("all-but-"))
                {
                    Some(but) if name.starts_with("all-but-") => {
                        faults.extend(FaultName::ALL.iter().filter(|fault| *fault != but));
                    }
                    Some(fault) => faults.push(*fault),
                    None => {
                        let names: Vec<_> = FaultName::ALL.iter().map(|f| f.name()).collect();
                        return Err(format!(
                            "'{name}' is no fault: want none, all, or some of {}",
                            names.join(", ")
                        ));
                    }
                },
            }
        }
        if none && !faults.is_empty() {
            return Err(format!("'{text}': 'none' goes with no other fault"));
        }
        faults.sort_unstable();
        faults.dedup();
        Ok(Faults(faults))
    }
}

/// The nemesis has two lanes, which strike at the same time: what happens to the network happens
/// while nodes are killed and come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Starts, stops and ends processes.
    Nodes,
    /// Leaves the processes alone.
    Network,
}

/// What makes a strike begin.
#[derive(Clone, Debug, PartialEq)]
pub enum Trigger {
    /// At once.
    Now,
    /// The target reaches this crash point and stops itself.
    Point(String),
    /// A message is caught, which then waits for the end of the strike.
    Message(Pattern, Deed),
}

/// What it takes to have a node reach a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The load does it.
    Load,
    /// The target is killed and started again with the point armed.
    RestartVictim,
    /// The master is killed and started again.
    RestartMaster,
    /// Another replica lies until the master gives up waiting for its votes.
    Straggler,
    /// The master lies when it has asked one replica to prepare, until the replicas have asked each
    /// other, and then goes on. Any replica may be the one that reaches the point.
    Orphans,
}

/// What is done to the target.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultAction {
    /// It is killed, and started again on the same data and port.
    Kill {
        /// How long it lies at its crash point before it is killed.
        lies: Duration,
        /// How long it is gone.
        down: Duration,
    },
    /// It lies stopped and is then continued.
    Pause {
        /// How long it lies stopped.
        lies: Duration,
    },
    /// It lies stopped, a second process is started on its store, and then it is continued.
    SecondInstance {
        /// How long the second process has, if it is let in.
        beside: Duration,
    },
    /// It is killed, started on an empty directory, and, once refused, on its own again.
    Wipe {
        /// Whether the start on the empty directory is told that the cluster is new.
        bootstrap: bool,
    },
    /// Its power goes, and maybe that of others with it: what was not synced is lost. They are
    /// started again on what is left.
    Cut {
        /// How long it lies at its crash point before.
        lies: Duration,
        /// How long they are gone.
        down: Duration,
        /// Who loses power.
        whom: Whom,
        /// The seed that chooses what of the unsynced is lost; none for all of it.
        part: Option<u64>,
    },
    /// It is killed and started again, and its power goes when it makes its first sync: all that is
    /// not synced is lost.
    Relapse {
        /// How long that sync is held before.
        lies: Duration,
        /// How long it is gone.
        down: Duration,
    },
    /// Messages between the nodes are struck.
    Network {
        /// Which, and how.
        snares: Vec<(Pattern, Deed)>,
        /// How long.
        lasts: Duration,
    },
}

impl FaultAction {
    /// How long it lasts, and leaves room for something else.
    #[must_use]
    pub fn outage(&self) -> Duration {
        match self {
            FaultAction::Kill { lies, down }
            | FaultAction::Cut { lies, down, whom: Whom::Target, .. } => *lies + *down,
            FaultAction::Pause { lies } => *lies,
            FaultAction::Network { lasts, .. } => *lasts,
            FaultAction::SecondInstance { .. }
            | FaultAction::Wipe { .. }
            | FaultAction::Cut { .. }
            | FaultAction::Relapse { .. } => Duration::ZERO,
        }
    }

    /// The event of the history that says that it was done.
    #[must_use]
    pub fn event(&self) -> &'static str {
        match self {
            FaultAction::Kill { .. } | FaultAction::Relapse { .. } => "kill",
            FaultAction::Pause { .. } => "pause",
            FaultAction::Cut { .. } => "power-loss",
            FaultAction::SecondInstance { .. } => FaultName::SecondMaster.name(),
            FaultAction::Wipe { .. } => FaultName::WipeReplica.name(),
            FaultAction::Network { .. } => "disturb",
        }
    }

    /// Makes it no longer than this.
    fn shorten(&mut self, most: Duration) {
        match self {
            FaultAction::Kill { lies, down }
            | FaultAction::Cut { lies, down, .. }
            | FaultAction::Relapse { lies, down } => {
                *lies = most.min(*lies);
                *down = most.min(*down);
            }
            FaultAction::Pause { lies } => *lies = most.min(*lies),
            FaultAction::Network { lasts, .. } => *lasts = most.min(*lasts),
            FaultAction::SecondInstance { .. } | FaultAction::Wipe { .. } => {}
        }
    }
}

/// Who loses power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The target alone.
    Target,
    /// All replicas, and the target.
    Replicas,
    /// All nodes.
    Everyone,
}

/// One blow against one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// The fault that it is a case of.
    pub fault: FaultName,
    /// The cluster is left alone for this long first.
    pub calm: Duration,
    /// Whom it hits.
    pub target: Node,
    /// When.
    pub trigger: Trigger,
    /// What is done to have it reach its point.
    pub precondition: Precondition,
    /// How.
    pub action: FaultAction,
    /// Another blow, against another node, while this one lies or is gone: what recovers from one
    /// failure must stand a second one then.
    pub meanwhile: Option<Box<Injection>>,
    /// Another blow, when this one is over and the cluster has not yet come back from it.
    pub then: Option<Box<Injection>>,
    /// The next strike does not wait until the cluster has come back from this one.
    pub hasty: bool,
}

impl Injection {
    /// A strike with nothing beside it.
    /// The master stops itself at this point of the window of uncertainty, and this is then done
    /// to it.
    #[must_use]
    pub fn in_the_window(point: String, calm: Duration, action: FaultAction) -> Self {
        let trigger = Trigger::Point(point);
        Injection::of(FaultName::MasterUncertainty, calm, Node::Master, trigger, action)
    }

    fn of(
        fault: FaultName,
        calm: Duration,
        target: Node,
        trigger: Trigger,
        action: FaultAction,
    ) -> Self {
        let (precondition, hasty) = (Precondition::Load, false);
        Injection {
            fault,
            calm,
            target,
            trigger,
            precondition,
            action,
            meanwhile: None,
            then: None,
            hasty,
        }
    }
}

/// One fault: a source of strikes without end.
trait Fault: Send {
    /// The next strike.
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection;

    /// Takes note of whether the last strike has found its mark.
    fn report(&mut self, _struck: bool) {}
}

/// Strikes that are known beforehand.
struct Script {
    strikes: Vec<Injection>,
    at: usize,
}

impl Fault for Script {
    fn next(&mut self, _rng: &mut ChaCha8Rng) -> Injection {
        let strike = self.strikes[self.at % self.strikes.len()].clone();
        self.at += 1;
        strike
    }
}

/// The faults of one hand of a run, in rounds: each strikes once in a round, in seeded order. If
/// there are several, one may strike while another's target lies, or has just come back.
pub struct Schedule {
    faults: Vec<Box<dyn Fault>>,
    names: Vec<FaultName>,
    round: ShuffledBag<usize>,
    /// So many strikes are still to be quick ones.
    quick: usize,
    /// Faults that missed before they had struck at all: they come next.
    again: Vec<usize>,
    struck: BTreeSet<FaultName>,
    /// The faults that need nothing of the cluster to strike, if there are others as well.
    doubling: Option<ShuffledBag<usize>>,
    rng: ChaCha8Rng,
}

/// What a schedule may count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// The nodes' disks can lose power.
    pub disks: bool,
    /// The part of the crash matrix that is to be done.
    pub part: matrix::Part,
    /// What makes a commit in the cluster.
    pub commit: CommitMode,
}

/// The shortest outage in which a second strike has room.
const ROOM_MIN: Duration = Duration::from_millis(250);

/// So many strikes are drawn in search of one that can be a second one.
const DRAWS: usize = 6;

/// With more faults than this, both hands begin with a quick round, as many strikes as there are
/// faults, so that a short run meets them all.
const MANY: usize = 4;

/// The longest calm before, and the longest outage of, a strike of a quick round.
const QUICK: Duration = Duration::from_millis(120);

impl Schedule {
    /// What one hand does to a cluster of so many replicas; none if the faults leave it nothing.
    #[must_use]
    pub fn new(
        faults: &Faults,
        replicas: u8,
        means: Means,
        hand: Lane,
        rng: ChaCha8Rng,
    ) -> Option<Self> {
        let quick = if faults.names().len() > MANY { faults.names().len() } else { 0 };
        let names: Vec<_> = faults.names().iter().copied().filter(|fault| fault.by(hand)).collect();
        let faults: Vec<Box<dyn Fault>> = names
            .iter()
            .map(|name| -> Box<dyn Fault> {
                match name {
                    FaultName::KillMaster => Box::new(kill::Kill::master()),
                    FaultName::KillReplica => Box::new(kill::Kill::replica(replicas)),
                    FaultName::PauseMaster => Box::new(pause::Pause::master()),
                    FaultName::PauseReplica => Box::new(pause::Pause::replica(replicas)),
                    FaultName::MasterUncertainty => {
                        Box::new(master_uncertainty::MasterUncertainty::new(replicas, means.commit))
                    }
                    FaultName::ReplicaUncertainty => {
                        Box::new(replica_uncertainty::ReplicaUncertainty::new(replicas))
                    }
                    FaultName::Partition => Box::new(partition::Partition::new(replicas)),
                    FaultName::Messages if hand == Lane::Nodes => {
                        Box::new(messages::Held::new(replicas))
                    }
                    FaultName::Messages => Box::new(messages::Weather::new(replicas)),
                    FaultName::SecondMaster => {
                        Box::new(second_master::SecondMaster::new(replicas, means.commit))
                    }
                    FaultName::WipeReplica => Box::new(wipe::WipeReplica::new(replicas)),
                    FaultName::PowerLoss => {
                        Box::new(power_loss::PowerLoss::new(replicas, means.commit))
                    }
                    FaultName::CrashMatrix => Box::new(matrix::CrashMatrix::new(replicas, means)),
                }
            })
            .collect();
        let at_any_time: Vec<_> = (0..names.len()).filter(|n| names[*n].at_any_time()).collect();
        let doubling =
            (names.len() > 1 && !at_any_time.is_empty()).then(|| ShuffledBag::new(at_any_time));
        let round = (!faults.is_empty()).then(|| ShuffledBag::new((0..faults.len()).collect()))?;
        let (again, struck) = (Vec::new(), BTreeSet::new());
        Some(Schedule { faults, names, round, quick, again, struck, doubling, rng })
    }

    /// These strikes, one after the other, and again from the first.
    ///
    /// # Panics
    /// If there are none.
    #[must_use]
    pub fn scripted(strikes: Vec<Injection>, rng: ChaCha8Rng) -> Self {
        let names = vec![strikes.first().expect("a script has a strike").fault];
        let faults: Vec<Box<dyn Fault>> = vec![Box::new(Script { strikes, at: 0 })];
        let (round, doubling) = (ShuffledBag::new(vec![0]), None);
        let (again, struck) = (Vec::new(), BTreeSet::new());
        Schedule { faults, names, round, quick: 0, again, struck, doubling, rng }
    }

    /// Takes note of whether a strike of this fault has found its mark. A fault that has never
    /// done so and misses is tried again before the others, or a short run would be without it.
    pub fn report(&mut self, fault: FaultName, struck: bool) {
        let place = self.names.iter().position(|name| *name == fault);
        if let Some(place) = place {
            self.faults[place].report(struck);
        }
        if struck {
            self.struck.insert(fault);
        } else if !self.struck.contains(&fault) {
            self.again.extend(place);
        }
    }
}

impl Iterator for Schedule {
    type Item = Injection;

    fn next(&mut self) -> Option<Injection> {
        let fault = self.again.pop().unwrap_or_else(|| self.round.deal(&mut self.rng));
        let mut strike = self.faults[fault].next(&mut self.rng);
        if self.quick > 0 {
            self.quick -= 1;
            strike.hasty = true;
            strike.action.shorten(QUICK);
            if self.names.len() > MANY {
                strike.calm = QUICK.min(strike.calm);
            }
        } else if strike.action.outage() >= ROOM_MIN && self.rng.random_bool(0.75) {
            strike.meanwhile = self.second(&strike).map(Box::new);
        } else if self.rng.random_bool(0.25) {
            strike.then = self.second(&strike).map(Box::new);
        }
        Some(strike)
    }
}

impl Schedule {
    /// A strike of another fault against another node, short, to fall into the outage of this one
    /// or into the recovery from it. None if the faults of the run have none to give.
    fn second(&mut self, first: &Injection) -> Option<Injection> {
        let doubling = self.doubling.as_mut()?;
        let mut second = (0..DRAWS).find_map(|_| {
            let fault = doubling.deal(&mut self.rng);
            let strike = self.faults[fault].next(&mut self.rng);
            (strike.fault != first.fault && strike.target != first.target).then_some(strike)
        })?;
        let rng = &mut self.rng;
        second.calm = Duration::from_millis(rng.random_range(0..150));
        match &mut second.action {
            // Back while the first target still lies: what was not decided when it was killed is
            // not decided yet.
            FaultAction::Kill { down, .. } => {
                *down = Duration::from_millis(rng.random_range(0..50))
            }
            FaultAction::Pause { lies } => *lies = Duration::from_millis(rng.random_range(5..500)),
            FaultAction::SecondInstance { .. }
            | FaultAction::Wipe { .. }
            | FaultAction::Network { .. }
            | FaultAction::Cut { .. }
            | FaultAction::Relapse { .. } => {}
        }
        Some(second)
    }
}

/// How long something lasts, by what it is meant to outlast.
#[derive(Clone, Copy, Debug)]
enum Span {
    /// Nothing: over before anybody takes notice.
    Short,
    /// A resend and the first inquiry.
    Medium,
    /// The vote timeout, the time after which a silent node is taken for dead, and the inquiries
    /// that come before a replica asks its peers.
    Long,
}

impl Span {
    /// Mostly short ones, for the sake of many strikes, and in each round a long one.
    fn bag() -> ShuffledBag<Span> {
        use Span::{Long, Medium, Short};
        ShuffledBag::new(vec![Short, Short, Short, Medium, Medium, Long])
    }

    fn draw(self, rng: &mut ChaCha8Rng) -> Duration {
        Duration::from_millis(rng.random_range(match self {
            Span::Short => 5..150,
            Span::Medium => 250..800,
            Span::Long => 1_300..2_800,
        }))
    }
}

/// Every replica of a cluster of so many.
fn replicas(count: u8) -> ShuffledBag<Node> {
    ShuffledBag::new((1..=count).map(Node::Replica).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use system::node::Point;

    use super::*;
    use crate::generator::nemesis_rng;

    fn strikes(faults: &str, replicas: u8, seed: u64, count: usize) -> Vec<Injection> {
        strikes_in(CommitMode::Logged, faults, replicas, seed, count)
    }

    fn strikes_in(
        commit: CommitMode,
        faults: &str,
        replicas: u8,
        seed: u64,
        count: usize,
    ) -> Vec<Injection> {
        let faults = faults.parse().expect("a list of faults");
        let means = Means { disks: true, part: matrix::Part::WHOLE, commit };
        let schedule = Schedule::new(&faults, replicas, means, Lane::Nodes, nemesis_rng(seed));
        let mut schedule = schedule.expect("faults");
        let struck = std::iter::from_fn(|| {
            let strike = schedule.next()?;
            schedule.report(strike.fault, true);
            Some(strike)
        });
        struck.take(count).collect()
    }

    #[test]
    fn a_seed_repeats_its_strikes() {
        assert_eq!(strikes("all", 3, 5, 60), strikes("all", 3, 5, 60));
        assert_ne!(strikes("all", 3, 5, 60), strikes("all", 3, 6, 60));
    }

    #[test]
    fn every_fault_of_a_list_strikes_in_every_round() {
        for seed in 0..20 {
            let count = FaultName::ALL.iter().filter(|fault| fault.by(Lane::Nodes)).count();
            for round in strikes("all", 3, seed, 60).chunks_exact(count) {
                let struck: BTreeSet<_> = round.iter().map(|strike| strike.fault).collect();
                assert_eq!(struck.len(), count);
            }
        }
    }

    #[test]
    fn every_point_of_the_window_comes_within_the_first_strikes() {
        for seed in 0..20 {
            for replicas in 1..=5u8 {
                let points: BTreeSet<_> =
                    strikes("master-uncertainty", replicas, seed, 2 + usize::from(replicas))
                        .into_iter()
                        .filter_map(|strike| match strike.trigger {
                            Trigger::Point(point) => Some(point),
                            _ => None,
                        })
                        .collect();
                let last = format!("master:after-send:decide:{}", replicas.max(2) - 1);
                for point in [
                    "master:before-persist:commit",
                    "master:after-persist:commit",
                    "master:after-send:decide:1",
                    &last,
                ] {
                    assert!(points.contains(point), "{point}");
                }
            }
        }
    }

    #[test]
    fn every_point_means_something_in_the_mode_of_the_cluster() {
        for commit in CommitMode::ALL {
            let strikes = strikes_in(commit, "all", 3, 3, 2000);
            let points = strikes.iter().filter_map(|strike| match &strike.trigger {
                Trigger::Point(at) => Some((strike.fault, at.parse::<Point>().ok()?)),
                _ => None,
            });
            let points: Vec<_> = points.collect();
            for (fault, point) in &points {
                assert!(point.applies_to(commit), "{fault} at {point}, commit = {commit}");
            }
            for fault in [FaultName::PowerLoss, FaultName::CrashMatrix] {
                let other = CommitMode::ALL.into_iter().find(|it| *it != commit).expect("one");
                let own = |(of, it): &(FaultName, Point)| *of == fault && !it.applies_to(other);
                assert!(points.iter().any(own), "{fault} knows nothing of commit = {commit}");
            }
        }
    }

    #[test]
    fn victims_exist() {
        for strike in strikes("all", 2, 3, 200) {
            let name = strike.fault.name();
            match strike.target {
                Node::Master => assert!(!name.contains("replica")),
                Node::Replica(slot) => {
                    assert!((1..=2).contains(&slot));
                    assert!(!name.contains("master"));
                }
            }
            if let Trigger::Point(point) = &strike.trigger {
                let role = if strike.target == Node::Master { "master:" } else { "replica:" };
                assert!(point.starts_with(role), "{point}");
            }
        }
    }

    #[test]
    fn strikes_of_different_faults_overlap_on_different_nodes() {
        let doubled: Vec<_> =
            strikes("all", 3, 9, 300).into_iter().filter(|s| s.meanwhile.is_some()).collect();
        assert!(doubled.len() > 20, "{}", doubled.len());
        for strike in doubled {
            let second = strike.meanwhile.expect("filtered");
            assert_ne!(second.target, strike.target);
            assert_eq!(second.trigger, Trigger::Now);
            assert_ne!(second.fault, strike.fault);
            assert!(second.action.outage() < Duration::from_millis(500));
            assert!(second.meanwhile.is_none());
        }
        assert!(strikes("kill-replica", 3, 9, 100).iter().all(|s| s.meanwhile.is_none()));
    }

    #[test]
    fn lists_of_faults_are_read_and_written() {
        for (text, label) in [
            ("none", "none"),
            ("kill-master", "kill-master"),
            ("pause-replica,kill-master,kill-master", "kill-master+pause-replica"),
            ("all", "all"),
        ] {
            let faults: Faults = text.parse().expect(text);
            assert_eq!(faults.label(), label);
            assert_eq!(faults.to_string().parse(), Ok(faults));
        }
        assert!("kill-mister".parse::<Faults>().expect_err("no fault").contains("kill-master"));
        assert!("none,kill-master".parse::<Faults>().is_err());
        assert!("".parse::<Faults>().is_err());
    }
}
