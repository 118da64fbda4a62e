//! Shows recorded runs and their check results: a [summary], [results](verdict) and an [inspection](inspect) for
//! a terminal, an
//! HTML page with plots, and a [web server](serve). Reads verdicts and never makes one.
//!
//! The history and the check results of a run of any system suffice for its page. What a system records
//! besides, such as journals of its nodes, is added by its implementation of [`SystemEvidence`], as plain
//! data: see [`sections`]. Does not know any system by name.
//!
//! # Example
//!
//! Writing the page of a run of a system that records nothing but the history:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use report::{NoEvidence, RecordedRun};
//!
//! let directory = Path::new("histories/latest"); // with history.jsonl and test.json
//! let recorded = history::read(&directory.join("history.jsonl"))?;
//! let operations = history::pair(&recorded.events)?;
//! let check = checker::linearizability::check(&operations, &checker::Limits::default());
//! let run = RecordedRun {
//!     directory,
//!     events: &recorded.events,
//!     operations: &operations,
//!     torn: recorded.torn,
//!     results: &checker::Results::new(vec![check]),
//!     transactions: None,
//! };
//! report::write(&run, &NoEvidence)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod campaign;
pub mod ci;
mod columns;
pub mod compare;
mod counterexample;
mod fault_intervals;
pub mod inspect;
mod links;
mod node_lanes;
mod packed;
mod page;
mod page_data;
mod plots;
pub mod progress;
mod sample;
pub mod sections;
pub mod serve;
pub mod store;
pub mod summary;
pub mod terminal;
pub mod transactions;
pub mod verdict;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use checker::{Results, transactions::TransactionReport};
use history::{Event, Operation};
use serde::de::DeserializeOwned;

use self::page::verdict_mark;
use self::page_data::PageData;
pub use self::{
    fault_intervals::{FaultInterval, fault_intervals},
    node_lanes::NodeLanes,
    page::check_property,
    sample::Sample,
    sections::{NoEvidence, SectionRequest, SystemEvidence, SystemSections},
};

/// The name of the page in a run directory.
pub const PAGE: &str = "report.html";

/// A recorded run and its check results.
#[derive(Clone, Copy, Debug)]
pub struct RecordedRun<'a> {
    /// The run directory.
    pub directory: &'a Path,
    /// The events of the history.
    pub events: &'a [Event],
    /// The operations that they form.
    pub operations: &'a [Operation],
    /// Whether the history is truncated.
    pub torn: bool,
    /// The check results.
    pub results: &'a Results,
    /// Of a run of transactions: what was found in them.
    pub transactions: Option<&'a TransactionReport>,
}

impl RecordedRun<'_> {
    /// The time of the last event, in nanoseconds of the history.
    fn end(&self) -> u64 {
        self.events.last().map_or(0, |event| event.time)
    }

    /// The time of an event, by its index.
    fn time_of(&self, index: u64) -> u64 {
        let at = self.events.binary_search_by_key(&index, |event| event.index);
        at.map_or(0, |at| self.events[at].time)
    }

    /// The time of the completion event of an operation, including `info`.
    fn completion(&self, operation: &Operation) -> Option<u64> {
        operation.returned_index.map(|index| self.time_of(index))
    }
}

/// Why the page of a run cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file of the run cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl ReportError {
    /// Names the file that an error is about.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ReportError {
        let path = path.into();
        |source| ReportError::File { path, source }
    }
}

/// Reads a file that contains one JSON value.
fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Writes the page and the plots of a run into its directory. Existing ones are replaced.
///
/// # Errors
/// A file of the run cannot be read, or the page or a plot cannot be written.
pub fn write(run: &RecordedRun<'_>, evidence: &dyn SystemEvidence) -> Result<(), ReportError> {
    let data = PageData::collect(run, evidence)?;
    let plots = plots::plots(run, &data.faults, &data.sections.charts).map_err(|error| {
        ReportError::file(run.directory.join("latency.svg"))(io::Error::other(error.to_string()))
    })?;
    for plot in &plots {
        let path = run.directory.join(plot.file);
        fs::write(&path, &plot.svg).map_err(ReportError::file(path))?;
    }
    let path = run.directory.join(PAGE);
    let page = page::page(&data, &plots, evidence).map_err(ReportError::file(&path))?;
    fs::write(&path, page).map_err(ReportError::file(path))
}
