//! The faults by name, and the lists that `--faults` takes.

use std::{fmt, str::FromStr};

use lab::injection::Lane;

/// A fault, by the name that `--faults` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultName {
    /// SIGKILL of the master at random times.
    KillMaster,
    /// SIGKILL of a replica at random times.
    KillReplica,
    /// SIGSTOP of the master at random times, SIGCONT later.
    PauseMaster,
    /// SIGSTOP of a replica at random times, SIGCONT later.
    PauseReplica,
    /// SIGTERM of the master at random times and in the middle of a commit, and a restart.
    RestartMaster,
    /// The same for a replica.
    RestartReplica,
    /// SIGKILL of the master when it has answered its first Ok.
    FirstCommit,
    /// The master stops inside the window of uncertainty, and is killed or continued.
    MasterUncertainty,
    /// A replica stops around its vote or around the decision, and is killed or continued.
    ReplicaUncertainty,
    /// Nodes cannot reach each other, in one direction or both.
    Partition,
    /// Messages are lost, delayed, repeated, reordered, or held across a restart.
    Messages,
    /// A second master is started on the store of a paused one.
    SecondMaster,
    /// A replica is started on an empty directory.
    WipeReplica,
    /// Nodes lose the writes that they have not synced.
    PowerLoss,
    /// A disk has no free space for a while.
    DiskFull,
    /// Writes and syncs of a disk fail for a while.
    DiskError,
    /// The syncs of a disk are slow for a while.
    DiskSlow,
    /// A disk answers nothing for a while.
    DiskStall,
    /// Bits of a stopped node's disk flip.
    BitFlip,
    /// A node is started on an older copy of its disk.
    RestoredCopy,
    /// Clients that flood a node, take no answers, or leave their requests unfinished.
    HostileClients,
    /// Every crash point in turn, and every way to crash there.
    CrashMatrix,
}

/// Names of earlier versions, which records and command lines may still have, and today's names.
pub const RENAMED_FAULTS: &[(&str, &str)] = &[("twin-master", "second-master")];

impl FaultName {
    /// Every fault.
    pub const ALL: &[FaultName] = &[
        FaultName::KillMaster,
        FaultName::KillReplica,
        FaultName::PauseMaster,
        FaultName::PauseReplica,
        FaultName::RestartMaster,
        FaultName::RestartReplica,
        FaultName::FirstCommit,
        FaultName::MasterUncertainty,
        FaultName::ReplicaUncertainty,
        FaultName::Partition,
        FaultName::Messages,
        FaultName::SecondMaster,
        FaultName::WipeReplica,
        FaultName::PowerLoss,
        FaultName::DiskFull,
        FaultName::DiskError,
        FaultName::DiskSlow,
        FaultName::DiskStall,
        FaultName::BitFlip,
        FaultName::RestoredCopy,
        FaultName::HostileClients,
        FaultName::CrashMatrix,
    ];

    /// The faults that `all` stands for: every one.
    #[must_use]
    pub fn all() -> Vec<FaultName> {
        FaultName::ALL.to_vec()
    }

    /// Whether it is impossible without disks that the harness serves.
    #[must_use]
    pub fn needs_disks(self) -> bool {
        matches!(
            self,
            FaultName::PowerLoss
                | FaultName::DiskFull
                | FaultName::DiskError
                | FaultName::DiskSlow
                | FaultName::DiskStall
                | FaultName::BitFlip
                | FaultName::RestoredCopy
        )
    }

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FaultName::KillMaster => "kill-master",
            FaultName::KillReplica => "kill-replica",
            FaultName::PauseMaster => "pause-master",
            FaultName::PauseReplica => "pause-replica",
            FaultName::RestartMaster => "restart-master",
            FaultName::RestartReplica => "restart-replica",
            FaultName::FirstCommit => "first-commit",
            FaultName::MasterUncertainty => "master-uncertainty",
            FaultName::ReplicaUncertainty => "replica-uncertainty",
            FaultName::Partition => "partition",
            FaultName::Messages => "messages",
            FaultName::SecondMaster => "second-master",
            FaultName::WipeReplica => "wipe-replica",
            FaultName::PowerLoss => "power-loss",
            FaultName::DiskFull => "disk-full",
            FaultName::DiskError => "disk-error",
            FaultName::DiskSlow => "disk-slow",
            FaultName::DiskStall => "disk-stall",
            FaultName::BitFlip => "bit-flip",
            FaultName::RestoredCopy => "restored-copy",
            FaultName::HostileClients => "hostile-clients",
            FaultName::CrashMatrix => "crash-matrix",
        }
    }

    /// The fault of this name, which may be one of an earlier version.
    #[must_use]
    pub fn find(name: &str) -> Option<FaultName> {
        let renamed = RENAMED_FAULTS.iter().find(|(old, _)| *old == name);
        let name = renamed.map_or(name, |(_, new)| new);
        FaultName::ALL.iter().copied().find(|fault| fault.name() == name)
    }

    /// Whether it needs nothing of the cluster and is soon over, so that it can accompany another.
    pub(super) fn at_any_time(self) -> bool {
        matches!(
            self,
            FaultName::KillMaster
                | FaultName::KillReplica
                | FaultName::PauseMaster
                | FaultName::PauseReplica
        )
    }

    /// Whether it needs relays between the nodes.
    #[must_use]
    pub fn needs_network(self) -> bool {
        matches!(self, FaultName::Partition | FaultName::Messages)
    }

    /// Whether it has injections in this lane.
    pub(super) fn is_in(self, lane: Lane) -> bool {
        match self {
            FaultName::Partition | FaultName::HostileClients => lane == Lane::Network,
            FaultName::Messages => true,
            _ => lane == Lane::Nodes,
        }
    }
}

impl fmt::Display for FaultName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A list of faults: `none`, `all`, `all-but-FAULT`, or comma-separated names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<FaultName>);

impl Faults {
    /// The faults in the order of their definition, each once.
    #[must_use]
    pub fn names(&self) -> &[FaultName] {
        &self.0
    }

    /// Whether a fault makes use of disks that the harness serves.
    #[must_use]
    pub fn use_disks(&self) -> bool {
        self.0.iter().any(|fault| fault.needs_disks() || *fault == FaultName::CrashMatrix)
    }

    /// The faults that are impossible without such disks and were asked for by name, rather than as part of
    /// `all`.
    #[must_use]
    pub fn require_disks(&self) -> Vec<FaultName> {
        let is_all = self.0 == FaultName::all();
        self.0.iter().copied().filter(|fault| fault.needs_disks() && !is_all).collect()
    }

    /// These faults without those that are impossible without such disks.
    #[must_use]
    pub fn without_disks(mut self) -> Faults {
        self.0.retain(|fault| !fault.needs_disks());
        self
    }

    /// Whether these are all faults, at least all that need no such disks.
    #[must_use]
    pub fn are_all(&self) -> bool {
        let all = FaultName::all();
        all.iter().all(|fault| fault.needs_disks() || self.0.contains(fault))
    }

    /// The only fault that is missing, if exactly one is.
    fn all_but(&self) -> Option<FaultName> {
        let all = FaultName::all();
        let mut missing = all.iter().filter(|fault| !self.0.contains(fault));
        missing.next().copied().filter(|_| missing.next().is_none())
    }

    /// The list as a part of the name of a run directory.
    #[must_use]
    pub fn label(&self) -> String {
        match self.0.as_slice() {
            [] => "none".to_owned(),
            all if all == FaultName::all() => "all".to_owned(),
            some => match self.all_but() {
                Some(missing) => format!("all-but-{missing}"),
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
            match (name, name.strip_prefix("all-but-")) {
                ("none", _) => none = true,
                ("all", _) => faults.extend(FaultName::all()),
                (_, Some(excluded)) => {
                    let excluded = FaultName::find(excluded).ok_or_else(|| unknown(name))?;
                    faults.extend(FaultName::all().into_iter().filter(|fault| *fault != excluded));
                }
                (_, None) => faults.push(FaultName::find(name).ok_or_else(|| unknown(name))?),
            }
        }
        if none && !faults.is_empty() {
            return Err(format!("'{text}': 'none' cannot be combined with another fault"));
        }
        faults.sort_unstable();
        faults.dedup();
        Ok(Faults(faults))
    }
}

fn unknown(name: &str) -> String {
    let names: Vec<_> = FaultName::ALL.iter().map(|fault| fault.name()).collect();
    format!(
        "'{name}' is not a fault: expected none, all, all-but-FAULT, or some of {}",
        names.join(", ")
    )
}
