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
        FaultName::MasterUncertainty,
        FaultName::ReplicaUncertainty,
        FaultName::Partition,
        FaultName::Messages,
        FaultName::SecondMaster,
        FaultName::WipeReplica,
        FaultName::PowerLoss,
        FaultName::CrashMatrix,
    ];

    /// The name on the command line.
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
            FaultName::Partition => lane == Lane::Network,
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

    /// Whether a fault makes use of disks that can lose power.
    #[must_use]
    pub fn use_disks(&self) -> bool {
        let uses =
            |fault: &FaultName| matches!(fault, FaultName::PowerLoss | FaultName::CrashMatrix);
        self.0.iter().any(uses)
    }

    /// Whether a fault that is impossible without such disks was asked for by name, rather than as
    /// part of `all`.
    #[must_use]
    pub fn require_disks(&self) -> bool {
        self.0.contains(&FaultName::PowerLoss) && self.0 != FaultName::ALL
    }

    /// These faults without those that are impossible without disks that can lose power.
    #[must_use]
    pub fn without_disks(mut self) -> Faults {
        self.0.retain(|fault| *fault != FaultName::PowerLoss);
        self
    }

    /// The only fault that is missing, if exactly one is.
    fn all_but(&self) -> Option<FaultName> {
        let mut missing = FaultName::ALL.iter().filter(|fault| !self.0.contains(fault));
        missing.next().copied().filter(|_| missing.next().is_none())
    }

    /// The list as a part of the name of a run directory.
    #[must_use]
    pub fn label(&self) -> String {
        match self.0.as_slice() {
            [] => "none".to_owned(),
            all if all == FaultName::ALL => "all".to_owned(),
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
                ("all", _) => faults.extend_from_slice(FaultName::ALL),
                (_, Some(excluded)) => {
                    let excluded = FaultName::find(excluded).ok_or_else(|| unknown(name))?;
                    faults.extend(FaultName::ALL.iter().filter(|fault| **fault != excluded));
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
