//! Which cells of the crash matrix were reached, counted from the events of a history.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use history::{
    NemesisEvent,
    nemesis::{Injected, InjectionKind},
};
use serde::{Deserialize, Serialize};
use system::protocol::CommitMode;

use super::{CrashAction, MatrixCell, cells};
use crate::faults::{Capabilities, FaultName};

/// The cells that were reached in a run or in a series of runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// The reachable cells, and how often each was reached.
    pub(super) reachable: BTreeMap<MatrixCell, u64>,
    /// The cells that are never reached, and why.
    unreachable: BTreeMap<MatrixCell, &'static str>,
    /// The cells whose point was armed and not reached.
    missed: BTreeSet<MatrixCell>,
}

/// The event `matrix`, which describes the matrix of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatrixDescription {
    /// The number of replicas.
    pub replicas: u8,
    /// Whether there are disks that can lose power.
    pub disks: bool,
    /// The commit mode. Records without this field are from the time when there was only one.
    #[serde(default)]
    pub commit: CommitMode,
    /// The shard of the run.
    #[serde(alias = "part")]
    pub shard: String,
}

impl MatrixDescription {
    /// The kind of the event.
    const EVENT: &str = "matrix";

    /// The matrix of a run.
    #[must_use]
    pub fn new(replicas: u8, Capabilities { disks, shard, commit }: Capabilities) -> Self {
        MatrixDescription { replicas, disks, commit, shard: shard.to_string() }
    }

    /// The event that records it.
    #[must_use]
    pub fn event(&self) -> NemesisEvent {
        let value = serde_json::to_value(self).expect("the fields are plain data");
        NemesisEvent::Other { f: MatrixDescription::EVENT.to_owned(), value }
    }

    fn read(event: &NemesisEvent) -> Option<Self> {
        match event {
            NemesisEvent::Other { f, value } if f == MatrixDescription::EVENT => {
                MatrixDescription::deserialize(value).ok()
            }
            _ => None,
        }
    }
}

/// The cell at a point and with the action that an event records. Points of earlier versions get
/// their present names.
fn cell(injected: &Injected, kind: InjectionKind) -> Option<MatrixCell> {
    let action = CrashAction::ALL.into_iter().find(|action| action.kind() == kind)?;
    let of_matrix = injected.fault.as_deref() == Some(FaultName::CrashMatrix.name());
    let point = injected.at.as_ref().filter(|_| of_matrix)?.parse().ok()?;
    Some(MatrixCell { point, action })
}

impl Coverage {
    /// Counts an event of the history.
    pub fn add(&mut self, event: &NemesisEvent) {
        if let Some(matrix) = MatrixDescription::read(event) {
            return self.add_matrix(&matrix);
        }
        match event {
            NemesisEvent::Injected(kind, injected) => {
                if let Some(cell) = cell(injected, *kind) {
                    *self.reachable.entry(cell).or_default() += 1;
                }
            }
            NemesisEvent::Missed(missed) if missed.load_ended == Some(false) => {
                let kind = missed.action.as_deref().and_then(InjectionKind::find);
                self.missed.extend(kind.and_then(|kind| cell(&missed.injected, kind)));
            }
            _ => {}
        }
    }

    fn add_matrix(&mut self, matrix: &MatrixDescription) {
        for (cell, reachability) in cells(matrix.replicas, matrix.disks, matrix.commit) {
            match reachability {
                Ok(_) => {
                    self.reachable.entry(cell).or_default();
                }
                Err(why) => {
                    self.unreachable.insert(cell, why);
                }
            }
        }
    }

    /// Adds the coverage of another run.
    pub fn merge(&mut self, other: Coverage) {
        for (cell, times) in other.reachable {
            *self.reachable.entry(cell).or_default() += times;
        }
        self.unreachable.extend(other.unreachable);
        self.missed.extend(other.missed);
    }

    /// Whether no run had a crash matrix.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reachable.is_empty()
    }

    /// The cells whose point was armed but never reached.
    pub fn vacuous(&self) -> impl Iterator<Item = &MatrixCell> {
        let reached =
            |cell: &&MatrixCell| self.reachable.get(*cell).is_some_and(|times| *times > 0);
        self.missed.iter().filter(move |cell| !reached(cell))
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LISTED_MAX: usize = 30;
        let reached = self.reachable.values().filter(|times| **times > 0).count();
        let all = self.reachable.len();
        let share = 100.0 * reached as f64 / all.max(1) as f64;
        writeln!(f, "Crash matrix: {reached} of {all} cells reached ({share:.1} %)")?;
        let open: Vec<_> = self.reachable.iter().filter(|(_, times)| **times == 0).collect();
        // After a short run the list would be most of the matrix.
        for (cell, _) in open.iter().filter(|_| open.len() <= LISTED_MAX) {
            writeln!(f, "  not reached: {cell}")?;
        }
        let mut reasons: BTreeMap<&str, (usize, BTreeSet<String>)> = BTreeMap::new();
        for (cell, reason) in &self.unreachable {
            let (count, points) = reasons.entry(reason).or_default();
            *count += 1;
            points.insert(cell.point.to_string());
        }
        for (reason, (count, points)) in reasons {
            let points = points.into_iter().collect::<Vec<_>>().join(", ");
            writeln!(f, "  {count} unreachable cells: {reason} ({points})")?;
        }
        Ok(())
    }
}
