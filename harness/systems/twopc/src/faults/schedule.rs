//! The schedule of a run: which faults it injects in each lane.

use history::Shard;
use lab::injection::{FaultSource, Lane, ScheduledFault};
use rand_chacha::ChaCha8Rng;
use system::protocol::CommitMode;

use super::{
    FaultName, Faults, Injection, Schedule,
    disk::DiskFaults,
    first_commit::FirstCommit,
    hostile_clients::HostileClients,
    kill::Kill,
    master_uncertainty::MasterUncertainty,
    messages::{HeldMessage, MessageChaos},
    partition::Partition,
    pause::Pause,
    power_loss::PowerLoss,
    replica_uncertainty::ReplicaUncertainty,
    restart::Restart,
    second_master::SecondMaster,
    wipe::WipeReplica,
};
use crate::matrix::CrashMatrix;

/// What the cluster under test offers to the faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether the nodes' disks can lose power.
    pub disks: bool,
    /// The shard of the crash matrix that the run covers.
    pub shard: Shard,
    /// What makes a commit in the cluster.
    pub commit: CommitMode,
}

/// The schedule of one lane for a cluster with `replicas` replicas; `None` if no fault has injections
/// in it.
#[must_use]
pub fn schedule(
    faults: &Faults,
    replicas: u8,
    capabilities: Capabilities,
    lane: Lane,
    rng: ChaCha8Rng,
) -> Option<Schedule> {
    let in_lane = faults.names().iter().copied().filter(|fault| fault.is_in(lane));
    let alone = faults.names().len() == 1;
    let scheduled = in_lane.map(|fault| ScheduledFault {
        fault,
        source: source(fault, replicas, capabilities, lane, alone),
        at_any_time: fault.at_any_time(),
        comes_first: fault == FaultName::FirstCommit,
    });
    Schedule::new(scheduled.collect(), faults.names().len(), rng)
}

fn source(
    fault: FaultName,
    replicas: u8,
    capabilities: Capabilities,
    lane: Lane,
    alone: bool,
) -> Box<dyn FaultSource<Injection>> {
    let Capabilities { commit, disks, .. } = capabilities;
    match fault {
        FaultName::KillMaster => Box::new(Kill::master()),
        FaultName::KillReplica => Box::new(Kill::replica(replicas)),
        FaultName::PauseMaster => Box::new(Pause::master()),
        FaultName::PauseReplica => Box::new(Pause::replica(replicas)),
        FaultName::RestartMaster => Box::new(Restart::master(replicas, commit)),
        FaultName::RestartReplica => Box::new(Restart::replica(replicas)),
        FaultName::FirstCommit => Box::new(FirstCommit::new(disks)),
        FaultName::MasterUncertainty => Box::new(MasterUncertainty::new(replicas, commit)),
        FaultName::ReplicaUncertainty => Box::new(ReplicaUncertainty::new(replicas)),
        FaultName::Partition => Box::new(Partition::new(replicas)),
        FaultName::Messages if lane == Lane::Nodes => Box::new(HeldMessage::new(replicas)),
        FaultName::Messages => Box::new(MessageChaos::new(replicas)),
        FaultName::SecondMaster => Box::new(SecondMaster::new(replicas, commit)),
        FaultName::WipeReplica => Box::new(WipeReplica::new(replicas)),
        FaultName::PowerLoss => Box::new(PowerLoss::new(replicas, commit)),
        FaultName::DiskFull
        | FaultName::DiskError
        | FaultName::DiskSlow
        | FaultName::DiskStall
        | FaultName::BitFlip
        | FaultName::RestoredCopy => Box::new(DiskFaults::new(fault, replicas, commit, alone)),
        FaultName::HostileClients => Box::new(HostileClients::new(replicas)),
        FaultName::CrashMatrix => Box::new(CrashMatrix::new(replicas, capabilities)),
    }
}
