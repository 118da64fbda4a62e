//! The description of a run, `test.json`. Does not know a system: its own options are JSON.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

/// What was run, and how to run it again. A field that a run has no use for is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunDescription {
    /// The name of the run: the system and its faults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The system under test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// When the run began, in UTC: `20260131T235959Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// The command that repeats the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The seed from which everything random was drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The names of the requested faults. `none` is the same as no name.
    #[serde(default)]
    pub faults: Vec<String>,
    /// What was broken on purpose, by the names of the option `--break`.
    #[serde(default)]
    pub broken: Vec<String>,
    /// The number of concurrent clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
    /// The number of replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u8>,
    /// The workload, if the run was of a system that the harness does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// The level that the history is checked for, such as `linearizable`. `None`: only that
    /// acknowledged operations are not lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// The nodes, if the run was of a system that the harness does not know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// The monotonic clock at time 0 of the history, in nanoseconds. Subtracted from the times of
    /// the nodes, it gives times of the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_origin: Option<u64>,
    /// The time after the last heal by which the nodes must have settled, in milliseconds.
    #[serde(alias = "resolution_deadline_ms", default, skip_serializing_if = "Option::is_none")]
    pub convergence_deadline_ms: Option<u64>,
    /// The options of the run and of the system under test, by name.
    #[serde(flatten)]
    pub options: Map<String, Json>,
}

/// Why a run could not be made: the content of [`FailedRun::FILE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRun {
    /// Why, in words.
    pub why: String,
}

impl FailedRun {
    /// The name of the file in the run directory.
    pub const FILE: &str = "failed.json";
}

impl RunDescription {
    /// The requested faults, without `none`.
    pub fn real_faults(&self) -> impl Iterator<Item = &str> {
        self.faults.iter().map(String::as_str).filter(|fault| *fault != "none")
    }
}
