//! Makes a run, from the start of the first process to the exit of the last: the nodes come up, clients
//! send requests and faults are injected; then everything is healed, read once more, and stopped. The
//! result is a run directory. Judging it is the work of the [checks](crate::checks).

mod final_phase;
mod load;
mod options;
pub(crate) mod resources;
mod testbed;
mod variation;

use std::{fs, io, path::Path, path::PathBuf, sync::Arc, time::Duration};

use history::{Action, Recorder};
use lab::{EventLog, cluster::ClusterError, progress::RunProgress};
use tokio::{sync::watch, task::JoinError};

pub use self::{
    options::{CONVERGENCE_DEADLINE, FailFast, RunOptions},
    testbed::Testbed,
    variation::Variation,
};
use crate::{nemesis::NemesisError, payload};

/// How long a new cluster has to become ready.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// What kept the harness from making a run. A failure of the system under test is not an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The operating system refuses something.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// The error.
        source: io::Error,
    },
    /// The nodes cannot be run.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Faults cannot be injected.
    #[error(transparent)]
    Nemesis(#[from] NemesisError),
    /// The cluster does not become ready, though no fault was injected.
    #[error("the cluster was not ready within {READY_DEADLINE:?}; see the nodes' logs in {}", nodes.display())]
    NotReady {
        /// The directory of the logs.
        nodes: PathBuf,
    },
    /// A task of the harness panicked.
    #[error("a task of the harness failed: {0}")]
    Panicked(#[from] JoinError),
}

impl RunError {
    /// Turns an error of the operating system into one that says what was attempted.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> RunError {
        let what = what.into();
        move |source| RunError::Io { what, source }
    }
}

/// A run that was made.
#[derive(Clone, Debug)]
pub struct CompletedRun {
    /// The run directory.
    pub directory: PathBuf,
    /// Whether the run was interrupted by a signal.
    pub interrupted: bool,
}

/// Makes a run. `interrupt` turns true when the run should end early; it then ends in order. Nothing
/// but the run directory outlives this call.
///
/// # Errors
/// The harness cannot do its part. What was recorded so far is kept.
pub async fn run(
    options: &RunOptions,
    mut interrupt: watch::Receiver<bool>,
    progress: Arc<dyn RunProgress>,
) -> Result<CompletedRun, RunError> {
    let testbed = Testbed::set_up(options, progress).await?;
    testbed.until_ready().await?;
    testbed.record(resources::measure(&testbed.cluster, false).await.event())?;
    let worker = load::run(options, &testbed, &mut interrupt).await?;
    let keys = (0..options.keys).map(payload::numbered_key).collect();
    let directory = testbed.close(worker, keys).await?;
    Ok(CompletedRun { directory, interrupted: *interrupt.borrow() })
}

/// The history as the lab and the nemesis see it.
fn event_log(recorder: &Recorder) -> EventLog {
    let recorder = recorder.clone();
    EventLog::new(move |event| recorder.record(Action::Nemesis(event)).map(|_| ()))
}

/// Writes a file that contains one JSON value, indented for people.
fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), RunError> {
    let cannot = || RunError::io(format!("cannot write {}", path.display()));
    let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::from).map_err(cannot())?;
    text.push(b'\n');
    fs::write(path, text).map_err(cannot())
}
