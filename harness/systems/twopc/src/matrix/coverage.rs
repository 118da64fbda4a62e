//! Which cells of the crash matrix were reached, counted from the events of a history.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::{Value as Json, json};
use system::node::Point;

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

/// The name of the event that describes the matrix of a run.
pub const EVENT: &str = "matrix";

/// The fields of that event.
#[must_use]
pub fn description(replicas: u8, Capabilities { disks, shard, commit }: Capabilities) -> Json {
    json!({ "replicas": replicas, "disks": disks, "shard": shard.to_string(), "commit": commit })
}

/// The cell at a point and with the action that an event records. Points of earlier versions get
/// their present names.
fn cell(point: &str, event: &str) -> Option<MatrixCell> {
    let action = CrashAction::ALL.into_iter().find(|action| action.event() == event)?;
    let point = point.parse().map_or_else(|_| point.to_owned(), |point: Point| point.to_string());
    Some(MatrixCell { point, action })
}

impl Coverage {
    /// Counts an event of the history: its name and its fields.
    pub fn add(&mut self, event: &str, fields: &Json) {
        if event == EVENT {
            return self.add_matrix(fields);
        }
        let text = |name: &str| fields.get(name).and_then(Json::as_str);
        if text("fault") != Some(FaultName::CrashMatrix.name()) {
            return;
        }
        let Some(point) = text("at") else { return };
        if let Some(cell) = cell(point, event) {
            *self.reachable.entry(cell).or_default() += 1;
        } else if event == "miss"
            // `over`, `harm`: the names in records of earlier versions.
            && [fields.get("load_ended"), fields.get("over")].contains(&Some(&Json::Bool(false)))
            && let Some(cell) =
                text("action").or_else(|| text("harm")).and_then(|action| cell(point, action))
        {
            self.missed.insert(cell);
        }
    }

    fn add_matrix(&mut self, fields: &Json) {
        let replicas = fields.get("replicas").and_then(Json::as_u64).unwrap_or_default();
        let replicas = u8::try_from(replicas).unwrap_or_default();
        let disks = fields.get("disks").and_then(Json::as_bool).unwrap_or_default();
        // Records without this field are from the time when there was only the default mode.
        let commit = fields.get("commit").and_then(Json::as_str);
        let commit = commit.and_then(|mode| mode.parse().ok()).unwrap_or_default();
        for (cell, _, reachability) in cells(replicas, disks, commit) {
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
        let mut reasons: BTreeMap<&str, (usize, BTreeSet<&str>)> = BTreeMap::new();
        for (cell, reason) in &self.unreachable {
            let (count, points) = reasons.entry(reason).or_default();
            *count += 1;
            points.insert(&cell.point);
        }
        for (reason, (count, points)) in reasons {
            let points = points.into_iter().collect::<Vec<_>>().join(", ");
            writeln!(f, "  {count} unreachable cells: {reason} ({points})")?;
        }
        Ok(())
    }
}
