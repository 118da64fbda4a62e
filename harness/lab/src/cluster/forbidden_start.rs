//! Starts that the system must refuse.

use std::time::Duration;

use history::nemesis::{self, Exit};
use tokio::time::{Instant, sleep};

use super::{Cluster, ClusterError, POLL_PERIOD, io_error, log_tail};
use crate::{
    node::NodeName,
    process::Process,
    system::{ForbiddenStart, StartOptions},
};

/// How long a forbidden start has to be refused. Longer than a partition, because it may take
/// another node to refuse it.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(8);

/// The result of a forbidden start.
#[derive(Debug)]
pub enum ForbiddenStartResult {
    /// The process exited and reported the refusal.
    Refused(Exit),
    /// The process exited in another way, which is not a refusal.
    Exited(Exit),
    /// The system let it in: a second instance has opened the store, or a node on an empty
    /// directory is ready.
    Admitted(Process),
    /// Neither happened in time; the process was killed.
    Undecided,
}

impl ForbiddenStartResult {
    /// The result as a history records it.
    #[must_use]
    pub fn record(&self) -> nemesis::ForbiddenStart {
        match self {
            ForbiddenStartResult::Refused(exit) => nemesis::ForbiddenStart::Refused(exit.clone()),
            ForbiddenStartResult::Exited(exit) => nemesis::ForbiddenStart::Exited(exit.clone()),
            ForbiddenStartResult::Admitted(_) => nemesis::ForbiddenStart::Admitted,
            ForbiddenStartResult::Undecided => nemesis::ForbiddenStart::Undecided {
                why: format!("neither refused nor admitted within {REFUSAL_DEADLINE:?}"),
            },
        }
    }
}

impl Cluster {
    /// Starts a node in a forbidden way and waits until it is refused or admitted. A node that is
    /// admitted on an empty directory keeps that directory, and its process is killed.
    ///
    /// # Errors
    /// The program cannot be started.
    pub async fn try_forbidden_start(
        &self,
        node: &NodeName,
        start: ForbiddenStart,
    ) -> Result<ForbiddenStartResult, ClusterError> {
        let options = match start {
            ForbiddenStart::SecondInstance => {
                StartOptions { second_instance: true, ..StartOptions::default() }
            }
            ForbiddenStart::RestoredCopy => {
                StartOptions { restored_copy: true, ..StartOptions::default() }
            }
            ForbiddenStart::EmptyDirectory { bootstrap } => {
                let empty = self.system.create_empty_directory(node);
                let empty = empty.map_err(io_error("cannot create an empty directory"))?;
                StartOptions { bootstrap, directory: Some(empty), ..StartOptions::default() }
            }
        };
        let process = self.spawn(node, &options).await?;
        let deadline = Instant::now() + REFUSAL_DEADLINE;
        loop {
            let state = process.state();
            if let Some(status) = state.exit_status() {
                let tail = log_tail(&self.member(node).log, &self.scratch);
                let last_log_line = tail.lines().last().unwrap_or_default().trim().to_owned();
                let refused = self.system.is_refusal(&options, status, &last_log_line);
                let exit = Exit { status: status.to_string(), last_log_line };
                return Ok(if refused {
                    ForbiddenStartResult::Refused(exit)
                } else {
                    ForbiddenStartResult::Exited(exit)
                });
            }
            let admitted = state.listening.is_some()
                && match start {
                    // A process listens only after it has opened its store.
                    ForbiddenStart::SecondInstance => true,
                    ForbiddenStart::EmptyDirectory { .. } | ForbiddenStart::RestoredCopy => {
                        self.system.is_ready(node).await
                    }
                };
            if admitted {
                if let Some(directory) = options.directory {
                    self.system.set_directory(node, directory);
                    process.kill().await;
                }
                return Ok(ForbiddenStartResult::Admitted(process));
            }
            if Instant::now() > deadline {
                process.kill().await;
                return Ok(ForbiddenStartResult::Undecided);
            }
            sleep(POLL_PERIOD).await;
        }
    }
}
