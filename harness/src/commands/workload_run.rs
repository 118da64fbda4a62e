//! Runs of systems that the harness does not know: their records are the history and the nodes' logs.

use std::{fs, io, path::Path};

use checker::{
    Limits, Results,
    workloads::{self, WorkloadResults, WorkloadRun},
};
use history::{Event, RunDescription};
use report::{NodeLanes, RecordedRun};
use twopc::checks::{LoadError, read_json};

use super::CommandError;

/// A run and the results of its checks.
#[derive(Clone, Debug)]
pub struct CheckedRun {
    /// The events of the history.
    pub events: Vec<Event>,
    /// The results.
    pub results: Results,
}

/// Whether a directory has the record of such a run: its description names a workload.
///
/// # Errors
/// The description cannot be read.
pub fn is_workload_run(directory: &Path) -> Result<bool, CommandError> {
    let path = directory.join("test.json");
    if !path.exists() {
        return Ok(false);
    }
    Ok(read_json::<RunDescription>(&path)?.workload.is_some())
}

/// Checks a run, and writes its `results.json` and its page.
///
/// # Errors
/// The run cannot be read, or the results or the page cannot be written.
pub fn check_workload_run(directory: &Path, limits: &Limits) -> Result<CheckedRun, CommandError> {
    let path = directory.join("test.json");
    let description: RunDescription = read_json(&path)?;
    let history = directory.join("history.jsonl");
    let recorded = history::read(&history).map_err(LoadError::from)?;
    let operations = history::pair(&recorded.events)
        .map_err(|error| LoadError::Pair { path: history, error })?;
    let run = WorkloadRun {
        description: &description,
        events: &recorded.events,
        operations: &operations,
    };
    let checked = workloads::check(&run, limits).map_err(|why| {
        let source = io::Error::new(io::ErrorKind::InvalidData, why);
        LoadError::File { path, source }
    })?;
    let WorkloadResults { results, transactions } = checked;
    let mut text = serde_json::to_string_pretty(&results).map_err(io::Error::from)?;
    text.push('\n');
    let path = directory.join("results.json");
    fs::write(&path, text).map_err(|source| LoadError::File { path, source })?;
    let recorded_run = RecordedRun {
        directory,
        events: &recorded.events,
        operations: &operations,
        torn: recorded.torn,
        results: &results,
        transactions: transactions.as_ref(),
    };
    report::write(&recorded_run, &NodeLanes::new(&description.nodes, &operations))?;
    Ok(CheckedRun { events: recorded.events, results })
}
