//! Anomalies to plant: small histories on keys of their own. Transactions of a group are concurrent; a
//! group begins when the one before has ended. The last group reads the keys, so that the order of
//! their elements is known.

use std::{fmt, io, str::FromStr};

use super::{SyntheticEvent, SyntheticStep};
use crate::Outcome;

/// The anomalies that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlantedAnomaly {
    /// Dirty write.
    G0,
    /// Aborted read.
    G1a,
    /// Intermediate read.
    G1b,
    /// Circular information flow.
    G1c,
    /// A transaction does not see its own write.
    Internal,
    /// An element occurs twice.
    Duplicate,
    /// Reads disagree on the order.
    IncompatibleOrder,
    /// A read of what nobody wrote.
    GarbageRead,
    /// A read of what the transaction writes later.
    FutureRead,
    /// A write on top of an aborted one.
    DirtyUpdate,
    /// Lost update.
    LostUpdate,
    /// Read skew.
    GSingle,
    /// Anti-dependencies that are not next to each other.
    GNonadjacent,
    /// Long fork.
    LongFork,
    /// Write skew.
    WriteSkew,
    /// A process does not see its own earlier write.
    StaleSession,
    /// A read misses a write that returned before.
    StaleRead,
    /// An acknowledged write is never seen.
    LostWrite,
}

impl PlantedAnomaly {
    /// Every anomaly.
    pub const ALL: [PlantedAnomaly; 18] = [
        PlantedAnomaly::G0,
        PlantedAnomaly::G1a,
        PlantedAnomaly::G1b,
        PlantedAnomaly::G1c,
        PlantedAnomaly::Internal,
        PlantedAnomaly::Duplicate,
        PlantedAnomaly::IncompatibleOrder,
        PlantedAnomaly::GarbageRead,
        PlantedAnomaly::FutureRead,
        PlantedAnomaly::DirtyUpdate,
        PlantedAnomaly::LostUpdate,
        PlantedAnomaly::GSingle,
        PlantedAnomaly::GNonadjacent,
        PlantedAnomaly::LongFork,
        PlantedAnomaly::WriteSkew,
        PlantedAnomaly::StaleSession,
        PlantedAnomaly::StaleRead,
        PlantedAnomaly::LostWrite,
    ];

    /// The name, as typed after `--violate`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PlantedAnomaly::G0 => "g0",
            PlantedAnomaly::G1a => "g1a",
            PlantedAnomaly::G1b => "g1b",
            PlantedAnomaly::G1c => "g1c",
            PlantedAnomaly::Internal => "internal",
            PlantedAnomaly::Duplicate => "duplicate-elements",
            PlantedAnomaly::IncompatibleOrder => "incompatible-order",
            PlantedAnomaly::GarbageRead => "garbage-read",
            PlantedAnomaly::FutureRead => "future-read",
            PlantedAnomaly::DirtyUpdate => "dirty-update",
            PlantedAnomaly::LostUpdate => "lost-update",
            PlantedAnomaly::GSingle => "g-single",
            PlantedAnomaly::GNonadjacent => "g-nonadjacent",
            PlantedAnomaly::LongFork => "long-fork",
            PlantedAnomaly::WriteSkew => "g2-item",
            PlantedAnomaly::StaleSession => "g-single-process",
            PlantedAnomaly::StaleRead => "g-single-realtime",
            PlantedAnomaly::LostWrite => "lost-write",
        }
    }

    /// Whether it shows where only the last element of a list is read.
    #[must_use]
    pub fn is_of_registers(self) -> bool {
        !matches!(
            self,
            PlantedAnomaly::Duplicate
                | PlantedAnomaly::IncompatibleOrder
                | PlantedAnomaly::DirtyUpdate
                | PlantedAnomaly::G0
                | PlantedAnomaly::GNonadjacent
                | PlantedAnomaly::LostWrite
        )
    }
}

impl fmt::Display for PlantedAnomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PlantedAnomaly {
    type Err = String;

    /// Takes a name in any case.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_lowercase();
        PlantedAnomaly::ALL.into_iter().find(|one| one.name() == name).ok_or_else(|| {
            let names: Vec<_> = PlantedAnomaly::ALL.iter().map(|one| one.name()).collect();
            format!("unknown anomaly '{text}': expected one of {}", names.join(", "))
        })
    }
}

/// The keys of planted transactions, which no other uses.
const X: u32 = u32::MAX / 4;
const Y: u32 = X + 1;

fn write(key: u32, element: u32) -> SyntheticStep {
    SyntheticStep::Write(key, element)
}

fn read(key: u32, list: &[u32]) -> SyntheticStep {
    SyntheticStep::Read(key, list.to_vec())
}

type Steps = Vec<SyntheticStep>;

/// The groups of an anomaly: transactions that are ok, except a first one that fails.
fn groups(anomaly: PlantedAnomaly) -> Vec<Vec<Steps>> {
    match anomaly {
        PlantedAnomaly::G0 => vec![
            vec![vec![write(X, 1), write(Y, 1)], vec![write(X, 2), write(Y, 2)]],
            vec![vec![read(X, &[1, 2]), read(Y, &[2, 1])]],
        ],
        PlantedAnomaly::G1a => vec![vec![vec![write(X, 1)]], vec![vec![read(X, &[1])]]],
        PlantedAnomaly::G1b => vec![
            vec![vec![write(X, 1), write(X, 2)], vec![read(X, &[1])]],
            vec![vec![read(X, &[1, 2])]],
        ],
        PlantedAnomaly::G1c => vec![
            vec![vec![write(X, 1), read(Y, &[1])], vec![write(Y, 1), read(X, &[1])]],
            vec![vec![read(X, &[1]), read(Y, &[1])]],
        ],
        PlantedAnomaly::Internal => {
            vec![vec![vec![write(X, 1), read(X, &[])]], vec![vec![read(X, &[1])]]]
        }
        PlantedAnomaly::Duplicate => {
            vec![vec![vec![write(X, 1)]], vec![vec![read(X, &[1, 1])]]]
        }
        PlantedAnomaly::IncompatibleOrder => vec![
            vec![
                vec![write(X, 1)],
                vec![write(X, 2)],
                vec![read(X, &[1, 2])],
                vec![read(X, &[2, 1])],
            ],
            vec![vec![read(X, &[1, 2])]],
        ],
        PlantedAnomaly::GarbageRead => vec![vec![vec![read(X, &[99])]]],
        PlantedAnomaly::FutureRead => {
            vec![vec![vec![read(X, &[1]), write(X, 1)]], vec![vec![read(X, &[1])]]]
        }
        PlantedAnomaly::DirtyUpdate => {
            vec![vec![vec![write(X, 1)], vec![write(X, 2)]], vec![vec![read(X, &[1, 2])]]]
        }
        PlantedAnomaly::LostUpdate => vec![
            vec![vec![write(X, 1)]],
            vec![vec![read(X, &[1]), write(X, 2)], vec![read(X, &[1]), write(X, 3)]],
            vec![vec![read(X, &[1, 2, 3])]],
        ],
        PlantedAnomaly::GSingle => vec![
            vec![vec![write(X, 1), write(Y, 1)], vec![read(X, &[1]), read(Y, &[])]],
            vec![vec![read(X, &[1]), read(Y, &[1])]],
        ],
        PlantedAnomaly::GNonadjacent => vec![
            vec![
                vec![write(X, 1)],
                vec![write(X, 2), read(Y, &[])],
                vec![write(Y, 1)],
                vec![read(Y, &[1]), read(X, &[])],
            ],
            vec![vec![read(X, &[1, 2]), read(Y, &[1])]],
        ],
        PlantedAnomaly::LongFork => vec![
            vec![
                vec![write(X, 1)],
                vec![write(Y, 1)],
                vec![read(X, &[1]), read(Y, &[])],
                vec![read(X, &[]), read(Y, &[1])],
            ],
            vec![vec![read(X, &[1]), read(Y, &[1])]],
        ],
        PlantedAnomaly::WriteSkew => vec![
            vec![vec![read(X, &[]), write(Y, 1)], vec![read(Y, &[]), write(X, 1)]],
            vec![vec![read(X, &[1]), read(Y, &[1])]],
        ],
        PlantedAnomaly::StaleSession | PlantedAnomaly::StaleRead => {
            vec![vec![vec![write(X, 1)]], vec![vec![read(X, &[])]], vec![vec![read(X, &[1])]]]
        }
        PlantedAnomaly::LostWrite => vec![vec![vec![write(X, 1)]], vec![vec![read(X, &[])]]],
    }
}

/// Plants an anomaly, with processes from a number on. Returns the next one.
pub(super) fn plant(
    anomaly: PlantedAnomaly,
    first: u64,
    out: &mut impl FnMut(&SyntheticEvent<'_>) -> io::Result<()>,
) -> io::Result<u64> {
    let fails = matches!(anomaly, PlantedAnomaly::G1a | PlantedAnomaly::DirtyUpdate);
    let in_one_process = anomaly == PlantedAnomaly::StaleSession;
    let mut process = first;
    let mut is_first = true;
    for group in groups(anomaly) {
        let processes: Vec<u64> = (process..).take(group.len()).collect();
        for (steps, process) in group.iter().zip(&processes) {
            out(&SyntheticEvent { process: *process, outcome: None, steps })?;
        }
        for (steps, process) in group.iter().zip(&processes) {
            let outcome = if fails && is_first { Outcome::Fail } else { Outcome::Ok };
            is_first = false;
            out(&SyntheticEvent { process: *process, outcome: Some(outcome), steps })?;
        }
        if !in_one_process {
            process += group.len() as u64;
        }
    }
    Ok(process + 1)
}
