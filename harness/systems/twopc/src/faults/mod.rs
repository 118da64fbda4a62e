//! The faults: which there are, what each injects next, and in which order a run injects them. All of
//! it is data drawn from the seed; [`crate::nemesis`] carries it out.

mod disk;
mod first_commit;
mod hostile_clients;
mod kill;
mod master_uncertainty;
mod messages;
mod names;
mod partition;
mod pause;
mod power_loss;
mod replica_uncertainty;
mod restart;
mod schedule;
mod second_master;
#[cfg(test)]
mod tests;
mod wipe;

use std::time::Duration;

use history::nemesis::InjectionKind;
use lab::{
    bag::ShuffledBag,
    disk::DiskFault,
    injection::{self, Action},
};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::Node;

pub use self::{
    master_uncertainty::uncertainty_points,
    names::{FaultName, Faults, RENAMED_FAULTS},
    schedule::{Capabilities, schedule},
};
use crate::{
    CrashPoint,
    attack::Attack,
    network::{MessageAction, Pattern},
};

/// One injection into a cluster.
pub type Injection = injection::Injection<FaultName, Node, Trigger, FaultAction>;

/// The injections of one lane of a run.
pub type Schedule = injection::Schedule<FaultName, Node, Trigger, FaultAction>;

/// The moment at which an injection acts.
#[derive(Clone, Debug, PartialEq)]
pub enum Trigger {
    /// Immediately.
    Now,
    /// The target reaches this crash point and stops there.
    Point {
        /// The point.
        point: CrashPoint,
        /// What is done so that the target reaches it.
        precondition: Precondition,
    },
    /// A message is intercepted. A held message is released when the injection is over.
    Message(Pattern, MessageAction),
}

impl Trigger {
    /// A crash point that the load reaches by itself.
    #[must_use]
    pub fn point(point: impl Into<CrashPoint>) -> Self {
        Trigger::Point { point: point.into(), precondition: Precondition::Load }
    }
}

/// What is done so that a node reaches a crash point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing: the load suffices.
    Load,
    /// The target is killed and restarted with the point armed.
    RestartTarget,
    /// The master is killed and restarted.
    RestartMaster,
    /// Another replica is paused until the master times out on its votes.
    VoteTimeout,
    /// The master is paused after it has sent the first Prepare of a transaction, until the replicas
    /// have asked each other for the outcome, and is then continued. Any replica may be the one that
    /// reaches the point.
    PeerInquiry,
}

/// What is done to the target.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultAction {
    /// SIGKILL, and a restart on the same data and address.
    Kill {
        /// How long the target stays stopped at its crash point before it is killed.
        paused: Duration,
        /// How long it is down.
        down: Duration,
    },
    /// SIGSTOP, and SIGCONT later.
    Pause {
        /// How long the target is stopped.
        paused: Duration,
    },
    /// SIGTERM, and a restart after the exit. A target that is stopped at a crash point continues first.
    Terminate {
        /// How long it is down after its exit.
        down: Duration,
    },
    /// A second process is started on the store of the paused target, which is then continued.
    SecondInstance {
        /// How long both processes run side by side if the second one is admitted.
        overlap: Duration,
    },
    /// The target is killed and started on an empty directory. Once refused, it is started on its own
    /// directory again.
    Wipe {
        /// Whether the start on the empty directory claims that the cluster is new.
        bootstrap: bool,
    },
    /// The target, and possibly other nodes, lose their unsynced writes and are restarted on the
    /// rest.
    PowerLoss {
        /// How long the target stays stopped at its crash point before.
        paused: Duration,
        /// How long the nodes are down.
        down: Duration,
        /// Which nodes lose power.
        scope: PowerLossScope,
        /// The seed that chooses which unsynced writes are lost; `None` for all of them.
        partial: Option<u64>,
    },
    /// The target is killed and restarted, and loses power when the new process makes its first sync:
    /// everything that the killed process left unsynced is lost.
    PowerLossOnRestart {
        /// How long the first sync is held before.
        paused: Duration,
        /// How long the target is down.
        down: Duration,
    },
    /// Something is wrong with the target's disk for a while.
    Disk {
        /// What.
        fault: DiskFault,
        /// How long.
        duration: Duration,
        /// What follows.
        ending: DiskFaultEnding,
    },
    /// The target is killed, bits of its disk are flipped, and it is started. If it refuses the store, the
    /// bits are flipped back, and it is started again.
    BitFlip {
        /// Which bits.
        rot: Rot,
        /// Chooses them.
        seed: u64,
    },
    /// The target is killed and started on a copy of its disk, which it must refuse. Then it gets its own
    /// disk back.
    RestoredCopy {
        /// How long before the kill the copy is made.
        age: Duration,
        /// The master starts again in between, so that the copy lacks an epoch. Otherwise a copy of the
        /// master lacks a commit.
        lacks_epoch: bool,
    },
    /// A client does harm to the target.
    Attack {
        /// What it does.
        attack: Attack,
        /// How long.
        duration: Duration,
    },
    /// Messages between the nodes are intercepted.
    Network {
        /// Which messages, and what is done to them.
        rules: Vec<(Pattern, MessageAction)>,
        /// How long.
        duration: Duration,
    },
}

/// How a time with a faulty disk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFaultEnding {
    /// The disk is well again. A node that has exited is started.
    GoOn,
    /// The node is killed while the disk is faulty.
    Kill,
    /// A node that has exited is started, and loses power after this sync of its WAL, from 1.
    PowerLoss(u32),
}

/// Which bits of a disk flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// One in every copy of the value of one key, outside of the WAL.
    Value,
    /// One in every copy of a key beside its value, outside of the WAL, such that the order of the keys stays
    /// what it is: no start notices it.
    Key,
    /// One of the newest generation of the WAL.
    Wal,
    /// Any one.
    Any,
}

/// The nodes that lose power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerLossScope {
    /// The target.
    Target,
    /// The target and all replicas.
    Replicas,
    /// All nodes.
    Cluster,
}

impl FaultAction {
    /// The kind of event that records the action.
    #[must_use]
    pub fn kind(&self) -> InjectionKind {
        match self {
            FaultAction::Kill { .. } | FaultAction::PowerLossOnRestart { .. } => {
                InjectionKind::Kill
            }
            FaultAction::Pause { .. } => InjectionKind::Pause,
            FaultAction::Terminate { .. } => InjectionKind::Terminate,
            FaultAction::Attack { .. } => InjectionKind::HostileClient,
            FaultAction::PowerLoss { .. } => InjectionKind::PowerLoss,
            FaultAction::SecondInstance { .. } => InjectionKind::SecondInstance,
            FaultAction::Wipe { .. } => InjectionKind::Wipe,
            FaultAction::Network { .. } => InjectionKind::NetworkFault,
            FaultAction::Disk { fault, .. } => match fault {
                DiskFault::Full { .. } => InjectionKind::DiskFull,
                DiskFault::Error { .. } => InjectionKind::DiskError,
                DiskFault::Slow { .. } => InjectionKind::DiskSlow,
                DiskFault::Stall => InjectionKind::DiskStall,
            },
            FaultAction::BitFlip { .. } => InjectionKind::BitFlip,
            FaultAction::RestoredCopy { .. } => InjectionKind::RestoredCopy,
        }
    }
}

impl Action for FaultAction {
    fn outage(&self) -> Duration {
        match self {
            FaultAction::Kill { paused, down }
            | FaultAction::PowerLoss { paused, down, scope: PowerLossScope::Target, .. } => {
                *paused + *down
            }
            FaultAction::Pause { paused } => *paused,
            FaultAction::Terminate { down } => *down,
            FaultAction::Network { duration, .. } | FaultAction::Attack { duration, .. } => {
                *duration
            }
            FaultAction::SecondInstance { .. }
            | FaultAction::Wipe { .. }
            | FaultAction::Disk { .. }
            | FaultAction::BitFlip { .. }
            | FaultAction::RestoredCopy { .. }
            | FaultAction::PowerLoss { .. }
            | FaultAction::PowerLossOnRestart { .. } => Duration::ZERO,
        }
    }

    fn shorten(&mut self, max: Duration) {
        match self {
            FaultAction::Kill { paused, down }
            | FaultAction::PowerLoss { paused, down, .. }
            | FaultAction::PowerLossOnRestart { paused, down } => {
                *paused = max.min(*paused);
                *down = max.min(*down);
            }
            FaultAction::Pause { paused } => *paused = max.min(*paused),
            FaultAction::Terminate { down } => *down = max.min(*down),
            FaultAction::Network { duration, .. }
            | FaultAction::Disk { duration, .. }
            | FaultAction::Attack { duration, .. } => *duration = max.min(*duration),
            // The copy has to lack something.
            FaultAction::RestoredCopy { .. }
            | FaultAction::BitFlip { .. }
            | FaultAction::SecondInstance { .. }
            | FaultAction::Wipe { .. } => {}
        }
    }

    fn accompany(&mut self, rng: &mut ChaCha8Rng) {
        match self {
            // Back while the first target is still out: what was undecided at the kill still is.
            FaultAction::Kill { down, .. } | FaultAction::Terminate { down } => {
                *down = Duration::from_millis(rng.random_range(0..50));
            }
            FaultAction::Pause { paused } => {
                *paused = Duration::from_millis(rng.random_range(5..500));
            }
            FaultAction::SecondInstance { .. }
            | FaultAction::Wipe { .. }
            | FaultAction::Network { .. }
            | FaultAction::Disk { .. }
            | FaultAction::BitFlip { .. }
            | FaultAction::RestoredCopy { .. }
            | FaultAction::Attack { .. }
            | FaultAction::PowerLoss { .. }
            | FaultAction::PowerLossOnRestart { .. } => {}
        }
    }
}

/// The length of an outage, by the timeouts that it exceeds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OutageLength {
    /// None: over before any timeout.
    Short,
    /// A retransmission and the first inquiry.
    Medium,
    /// The vote timeout, the time after which a silent node counts as dead, and the inquiries that a
    /// replica makes before it asks its peers.
    Long,
}

impl OutageLength {
    /// Mostly short outages, so that a run has many, and a long one in each round.
    fn bag() -> ShuffledBag<OutageLength> {
        use OutageLength::{Long, Medium, Short};
        ShuffledBag::new(vec![Short, Short, Short, Medium, Medium, Long])
    }

    pub(crate) fn draw(self, rng: &mut ChaCha8Rng) -> Duration {
        Duration::from_millis(rng.random_range(match self {
            OutageLength::Short => 5..150,
            OutageLength::Medium => 250..800,
            OutageLength::Long => 1_300..2_800,
        }))
    }
}

/// Every replica of a cluster with `count` replicas.
pub(crate) fn replicas(count: u8) -> ShuffledBag<Node> {
    ShuffledBag::new((1..=count).map(Node::Replica).collect())
}
