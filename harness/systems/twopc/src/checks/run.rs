//! A run directory as the checks read it: the description, the recorded events, the journals and
//! the final states. Knows where files are and what they contain, not what they should contain.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use history::{
    Action, Event, NemesisEvent, Operation, PairError, ReadError, RecordedHistory, RunDescription,
};
use serde::{Deserialize, Serialize};
use system::protocol::{Key, Node, TxnId, Value, Version};

use super::evidence::Evidence;

/// The part of `test.json` without which a run cannot be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunParameters {
    /// The names of the requested faults, without `none`.
    pub faults: Vec<String>,
    /// Number of replicas.
    pub replicas: u8,
    /// The monotonic clock at time 0 of the history, in nanoseconds.
    pub clock_origin: u64,
    /// The deadline after the last heal by which every transaction must be decided, in
    /// milliseconds.
    pub convergence_deadline_ms: u64,
}

impl RunParameters {
    /// Takes the parameters from the description of a run.
    ///
    /// # Errors
    /// A field is missing; the message names it.
    pub fn of(description: &RunDescription) -> Result<Self, String> {
        fn present<T: Copy>(field: Option<T>, name: &str) -> Result<T, String> {
            field.ok_or_else(|| format!("missing field `{name}`"))
        }
        Ok(RunParameters {
            faults: description.real_faults().map(str::to_owned).collect(),
            replicas: present(description.replicas, "replicas")?,
            clock_origin: present(description.clock_origin, "clock_origin")?,
            convergence_deadline_ms: present(
                description.convergence_deadline_ms,
                "convergence_deadline_ms",
            )?,
        })
    }
}

/// `final.json`: what every node held at the end, after the last heal, when the load had ended and
/// the nodes had had time to converge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalState {
    /// When it was read, in nanoseconds of the history.
    pub time: u64,
    /// The replicas that answered.
    pub replicas: BTreeMap<Node, FinalReplicaState>,
    /// Transactions that the master had not finished, and their keys. `None` if it did not answer.
    pub master_unsettled: Option<Vec<(TxnId, Key)>>,
    /// Violations found by a monitor that checks invariants in every state during the run, as the
    /// simulator's does. The records need not show them. `None` if there was no monitor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(alias = "watched")]
    pub invariant_violations: Option<Vec<String>>,
}

/// What a replica held at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalReplicaState {
    /// Every key with its version and value, sorted by key.
    pub entries: Vec<(Key, Version, Value)>,
    /// Prepared transactions without a decision, and the keys that they locked.
    pub in_doubt: Vec<(TxnId, Key)>,
}

/// A recorded run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What the run was.
    pub parameters: RunParameters,
    /// The events of the history.
    pub events: Vec<Event>,
    /// Whether the history ends in a torn line, as after a kill of the harness.
    pub torn: bool,
    /// The operations of the history.
    pub operations: Vec<Operation>,
    /// What the journals of the nodes prove.
    pub evidence: Evidence,
    /// The final states, `None` if the run ended before they were read.
    pub final_state: Option<FinalState>,
}

/// Why a run cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A directory is not that of a run.
    #[error("{}: not a run directory: it contains no history.jsonl", path.display())]
    NoRun {
        /// The directory.
        path: PathBuf,
    },
    /// The history cannot be read.
    #[error(transparent)]
    History(#[from] ReadError),
    /// The events of the history cannot be paired into operations.
    #[error("{}:{}: {}", path.display(), error.position + 1, error.reason)]
    Pair {
        /// The history.
        path: PathBuf,
        /// The event and what is wrong with it.
        error: PairError,
    },
    /// Another file of the run cannot be read or is malformed.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl Run {
    /// Reads a run directory.
    ///
    /// # Errors
    /// The history or `test.json` is missing, or a file cannot be read or is malformed.
    pub fn load(directory: &Path) -> Result<Run, LoadError> {
        let path = directory.join("history.jsonl");
        let RecordedHistory { events, torn } = history::read(&path)?;
        let paired = require_versions(&events).and_then(|()| history::pair(&events));
        let operations = paired.map_err(|error| LoadError::Pair { path, error })?;
        let path = directory.join("test.json");
        let parameters = RunParameters::of(&read_json(&path)?).map_err(|why| {
            let source = io::Error::new(io::ErrorKind::InvalidData, why);
            LoadError::File { path, source }
        })?;
        let path = directory.join("final.json");
        let final_state = if path.exists() { Some(read_json(&path)?) } else { None };
        let journals = find_journals(directory)?;
        let evidence = Evidence::read(&journals, parameters.replicas, parameters.clock_origin)
            .map_err(|source| LoadError::File { path: directory.join("nodes"), source })?;
        Ok(Run { parameters, events, torn, operations, evidence, final_state })
    }

    /// Why the final state of a replica is not known: that it did not report it, and why, if that was recorded.
    pub(super) fn unreported(&self, replica: Node) -> String {
        let name = replica.to_string();
        let why = self.events.iter().rev().find_map(|event| match &event.action {
            Action::Nemesis(NemesisEvent::DumpFailed(failed)) if failed.node == name => {
                Some(failed.error.as_str())
            }
            _ => None,
        });
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        format!("{name} did not report its final state{why}")
    }

    /// Every replica of the cluster.
    pub fn replicas(&self) -> impl Iterator<Item = Node> + use<> {
        (1..=self.parameters.replicas).map(Node::Replica)
    }
}

/// Checks that every version is a transaction id, as this system writes them.
fn require_versions(events: &[Event]) -> Result<(), PairError> {
    for (position, event) in events.iter().enumerate() {
        let Action::Client(client) = &event.action else { continue };
        if let Some(version) = &client.version
            && version.parse::<TxnId>().is_none()
        {
            let reason = format!("version {version} is not a transaction id");
            return Err(PairError { index: event.index, position, reason });
        }
    }
    Ok(())
}

/// The version that an operation wrote or read, as a transaction id.
#[must_use]
pub fn version_of(operation: &Operation) -> Option<TxnId> {
    operation.version.as_ref()?.parse()
}

/// The file with the journal of a node, in the node's directory of a run.
pub const JOURNAL: &str = "journal.bin";

/// The file with the journal of a second process that was started in place of a node.
pub const SECOND_INSTANCE_JOURNAL: &str = "second-instance.bin";

/// The name of a journal in runs that earlier versions recorded: lines that are not compressed.
const PLAIN_JOURNAL: &str = "journal.jsonl";

/// Finds the journals of a run directory: `nodes/<name>/journal.bin`.
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
        let node = item.file_name().to_str().and_then(|name| name.parse::<Node>().ok());
        let mut paths = [JOURNAL, PLAIN_JOURNAL].into_iter().map(|name| item.path().join(name));
        if let (Some(node), Some(path)) = (node, paths.find(|path| path.exists())) {
            journals.insert(node, path);
        }
    }
    Ok(journals)
}

/// Reads a file with one JSON value.
///
/// # Errors
/// The file cannot be read or is malformed.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, LoadError> {
    let file = |source| LoadError::File { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(file)?;
    serde_json::from_str(&text)
        .map_err(|error| file(io::Error::new(io::ErrorKind::InvalidData, error)))
}
