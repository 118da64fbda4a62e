//! A run directory as its checks see it: what was asked for, what was recorded, what remained.
//! Knows where things lie and what they are, nothing of what they should be.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use system::protocol::{Key, Node, TxnId, Value, Version};

use super::evidence::Evidence;
use crate::history::{self, Event, Operation, PairError, ReadError};

/// What `test.json` says about a run; the file may say more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDescription {
    /// The faults that were asked for, by name; `none` and no name at all are the same.
    pub faults: Vec<String>,
    /// How many replicas the system had.
    pub replicas: u8,
    /// The monotonic clock at time 0 of the history, in nanoseconds: subtracted from the times of
    /// journals, it makes them times of the history.
    pub clock_origin: u64,
    /// After the last heal, everything must be decided within this many milliseconds.
    #[serde(alias = "resolution_deadline_ms")]
    pub convergence_deadline_ms: u64,
}

impl RunDescription {
    /// The faults that were asked for, without `none`.
    pub fn real_faults(&self) -> impl Iterator<Item = &str> {
        self.faults.iter().map(String::as_str).filter(|fault| *fault != "none")
    }
}

/// `final.json`: what every node held after the last heal, when the load had ended and the system
/// had had its time to settle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Final {
    /// When it was read, in nanoseconds of the history.
    pub time: u64,
    /// The replicas that answered.
    pub replicas: BTreeMap<Node, FinalReplica>,
    /// Transactions that the master had not finished with, and their keys. None if it did not
    /// answer.
    pub master_unsettled: Option<Vec<(TxnId, Key)>>,
    /// The invariants that a monitor of every state saw broken as the run went on, as the simulator's does:
    /// the record alone need not show it. None if there was no monitor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(alias = "watched")]
    pub invariant_violations: Option<Vec<String>>,
}

/// What a replica held at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalReplica {
    /// Every key with its version and value, in the order of the keys.
    pub entries: Vec<(Key, Version, Value)>,
    /// Transactions that were prepared without a decision, and the keys that they locked.
    pub in_doubt: Vec<(TxnId, Key)>,
}

/// A run as it was recorded.
#[derive(Clone, Debug)]
pub struct Run {
    /// What was asked for.
    pub setup: RunDescription,
    /// The history's events.
    pub events: Vec<Event>,
    /// Whether the history breaks off, as after a kill of the harness.
    pub torn: bool,
    /// The operations that they make.
    pub operations: Vec<Operation>,
    /// What the journals of the nodes prove.
    pub evidence: Evidence,
    /// What remained at the end; none if the run did not get that far.
    pub remained: Option<Final>,
}

/// Why a run cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The history cannot be read.
    #[error(transparent)]
    History(#[from] ReadError),
    /// The history's events make no operations.
    #[error("{}:{}: {}", path.display(), error.position + 1, error.reason)]
    Pair {
        /// The history.
        path: PathBuf,
        /// The event and what is wrong with it.
        error: PairError,
    },
    /// Another file of the run cannot be read, or is not what it should be.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
}

impl Run {
    /// Reads a run directory.
    ///
    /// # Errors
    /// A file is missing that every run has (the history and `test.json`), or one cannot be read.
    pub fn load(directory: &Path) -> Result<Run, LoadError> {
        let path = directory.join("history.jsonl");
        let history::Whole { events, torn } = history::read(&path)?;
        let operations = history::pair(&events).map_err(|error| LoadError::Pair { path, error })?;
        let setup: RunDescription = read_json(&directory.join("test.json"))?;
        let path = directory.join("final.json");
        let remained = if path.exists() { Some(read_json(&path)?) } else { None };
        let journals = find_journals(directory)?;
        let evidence = Evidence::read(&journals, setup.replicas, setup.clock_origin)
            .map_err(|source| LoadError::File { path: directory.join("nodes"), source })?;
        Ok(Run { setup, events, torn, operations, evidence, remained })
    }

    /// Every replica of the system.
    pub fn replicas(&self) -> impl Iterator<Item = Node> + use<> {
        (1..=self.setup.replicas).map(Node::Replica)
    }
}

/// Finds the journals of a run directory: `nodes/<name>/journal.jsonl`.
///
/// # Errors
/// The directory of nodes cannot be read.
pub fn find_journals(directory: &Path) -> Result<BTreeMap<Node, PathBuf>, LoadError> {
    let mut journals = BTreeMap::new();
    let nodes = directory.join("nodes");
    if !nodes.exists() {
        return Ok(journals);
    }
    let file = |source| LoadError::File { path: nodes.clone(), source };
    for item in fs::read_dir(&nodes).map_err(file)? {
        let item = item.map_err(file)?;
        let path = item.path().join("journal.jsonl");
        let node = item.file_name().to_str().and_then(|name| name.parse::<Node>().ok());
        if let (Some(node), true) = (node, path.exists()) {
            journals.insert(node, path);
        }
    }
    Ok(journals)
}

/// Reads a file that holds one JSON value.
pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, LoadError> {
    let file = |source| LoadError::File { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(file)?;
    serde_json::from_str(&text)
        .map_err(|error| file(io::Error::new(io::ErrorKind::InvalidData, error)))
}
