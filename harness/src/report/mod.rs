//! Shows recorded runs and their check results: a summary for a terminal, an HTML page, plots. Reads
//! verdicts and never makes one.

mod citations;
mod columns;
mod counterexample;
pub mod fault_intervals;
pub mod inspect;
mod journals;
mod lock_intervals;
mod page;
mod page_data;
mod plots;
pub mod summary;

use std::{fs, io, path::Path};

pub(crate) use self::page::{THEME, check_property, linked, verdict_mark};
use system::protocol::Node;

use self::{fault_intervals::FaultInterval, page_data::PageData};
use crate::{
    checker::Results,
    twopc::{LoadError, Run},
};

/// An interval during which a replica held a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaLock {
    /// The replica.
    pub node: Node,
    /// When the transaction became in doubt, in nanoseconds of the history. `None` if it never was.
    pub in_doubt_from: Option<i64>,
    /// When the lock was released or the replica crashed, in nanoseconds of the history.
    pub to: i64,
}

/// The fault intervals of a run, and every lock interval of every replica.
#[must_use]
pub fn locks(run: &Run) -> (Vec<FaultInterval>, Vec<ReplicaLock>) {
    let faults = fault_intervals::fault_intervals(&run.events);
    let mut locks = Vec::new();
    for (node, intervals) in lock_intervals::lock_intervals(&run.evidence, &faults) {
        locks.extend(intervals.into_iter().map(|lock| ReplicaLock {
            node,
            in_doubt_from: lock.in_doubt_from,
            to: lock.to,
        }));
    }
    (faults, locks)
}

/// The name of the page in a run directory.
pub const PAGE: &str = "report.html";

/// Writes the page and the plots of a run into its directory. Existing ones are replaced.
///
/// # Errors
/// A file of the run cannot be read, or the page or a plot cannot be written.
pub fn write(directory: &Path, run: &Run, results: &Results) -> Result<(), LoadError> {
    let data = PageData::of(directory, run, results)?;
    let file = |name: &str| {
        let path = directory.join(name);
        move |source| LoadError::File { path: path.clone(), source }
    };
    let completions = data.completions();
    let last = run.events.last().map_or(0, |event| event.time);
    let plots = plots::plots(&run.operations, &completions, &data.faults, &data.locks, last)
        .map_err(|error| file("latency.svg")(io::Error::other(error.to_string())))?;
    for plot in &plots {
        fs::write(directory.join(plot.file), &plot.svg).map_err(file(plot.file))?;
    }
    fs::write(directory.join(PAGE), page::page(&data, &plots)).map_err(file(PAGE))
}
