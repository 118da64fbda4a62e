//! Schedules: what happened to a cluster, step by step, as data. A model's counterexample, a
//! simulator's failing run and what a person wrote down are all of this form, and all can be run
//! again. Knows the machines and their stores; knows nothing of time, sockets or processes.
//!
//! # The file
//!
//! One JSON object: `setup` ([`ScheduleSetup`]: the cluster), `steps` (a list of [`Step`]s), `broken` (the
//! names of the properties that do not hold at its end) and `origin` (the command that found it). A
//! step is an object with one field, its kind, such as
//!
//! ```json
//! {"client": {"call": 0, "request": {"write": {"key": "k1", "value": "v1"}}}}
//! {"deliver": {"from": "master", "to": "r1", "message": {"store": "0000000000000000", "epoch": 1,
//!   "watermark": "1.1", "body": {"prepare": {"txn": "1.1", "write": {"key": "k1", "value": "v1"},
//!   "piggybacked": []}}}}}
//! {"force": {"node": "r1", "upto": 1}}
//! {"timer": {"node": "master", "id": {"vote": "1.1"}}}
//! {"kill": {"node": "r1", "keep": 0}}
//! {"power_loss": {"node": "r1", "keep": 1}}
//! {"restart": {"node": "r1"}}
//! ```
//!
//! - Messages are named by all that they say, as the journals of nodes write them; `deliver` needs
//!   that it was sent before, and may come again. What is never delivered was lost.
//! - `upto` counts the records that the process has appended since its last force; `keep` those that
//!   are not durable, from the first on, whether the process that ends appended them or one before it.
//! - `kill` (SIGKILL) leaves what it keeps with the operating system, where a loss of power can still
//!   take it; what `power_loss` keeps is durable. `wipe` takes all. None of them starts the process
//!   again: `restart` does.
//! - With `second_instance` a step is about the second process on the master's store, which `second_instance` starts.
//! - A cluster that is `settled` has started, forced and handshaken before the first step; in one that
//!   is `bare` messages lack what no receiver acts on.

mod cluster;
pub mod command;
mod host;
mod judge;
mod rename;
mod shrink;

use std::{fmt, fs, io, path::Path};

use serde::{Deserialize, Serialize};
use system::protocol::{CallId, CommitMode, Lsn, Message, Node, Request, Rules, TimerId, Timing};

pub use cluster::{Cluster, NotPossible};
pub(crate) use cluster::{FAIR_ROUNDS, at_rest};
pub(crate) use host::rename_store;
pub use host::{Fact, Host, Outcome, refused};
pub use judge::{Disks, Judge, Property, View};
pub use shrink::shrink;

/// A cluster and what happens to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The cluster.
    pub setup: ScheduleSetup,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// The properties that do not hold at the end, by name.
    #[serde(default)]
    pub broken: Vec<Property>,
    /// How this schedule was found: the command that finds it again.
    #[serde(default)]
    pub origin: String,
}

/// A cluster, as far as the machines can tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScheduleSetup {
    /// How many replicas there are.
    pub replicas: u8,
    /// What makes a commit.
    #[serde(default, skip_serializing_if = "CommitMode::is_logged")]
    pub commit: CommitMode,
    /// The rules that are kept.
    pub rules: Rules,
    /// The periods and bounds.
    pub timing: Timing,
    /// Whether replicas may ask each other.
    pub peers: bool,
    /// Whether the schedule begins with a cluster that has handshaken; otherwise with empty stores.
    pub settled: bool,
    /// Whether messages lose what no receiver acts on (as the model needs, which compares states).
    pub bare: bool,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A client asks.
    Client {
        /// Names the call.
        call: CallId,
        /// What is asked.
        request: Request,
    },
    /// A message that was sent before arrives; it may arrive again later, or never.
    Deliver {
        /// Who sent it.
        from: Node,
        /// Where it arrives.
        to: Node,
        /// What it says.
        message: Message,
        /// It arrives at the second instance of the node.
        #[serde(default, alias = "twin", skip_serializing_if = "std::ops::Not::not")]
        second_instance: bool,
    },
    /// Records become durable, and the machine hears of it.
    Force {
        /// Where.
        node: Node,
        /// Up to which position, counted from the last durable record.
        upto: Lsn,
        /// At the second instance of the node.
        #[serde(default, alias = "twin", skip_serializing_if = "std::ops::Not::not")]
        second_instance: bool,
    },
    /// A timer runs out.
    Timer {
        /// Where.
        node: Node,
        /// Which.
        id: TimerId,
        /// At the second instance of the node.
        #[serde(default, alias = "twin", skip_serializing_if = "std::ops::Not::not")]
        second_instance: bool,
    },
    /// The process ends by SIGKILL.
    Kill {
        /// Whose.
        node: Node,
        /// How many records that are not durable the operating system has.
        keep: usize,
    },
    /// The power fails.
    PowerLoss {
        /// Where.
        node: Node,
        /// How many records that were not forced survive all the same.
        keep: usize,
    },
    /// The process starts again on what its store kept.
    Restart {
        /// Whose.
        node: Node,
    },
    /// A second process starts on the store of the first.
    #[serde(alias = "twin")]
    SecondInstance {
        /// Whose.
        node: Node,
    },
    /// The process ends and its store is replaced by an empty one.
    Wipe {
        /// Whose.
        node: Node,
    },
}

impl Step {
    /// The node to which it happens.
    #[must_use]
    pub fn node(&self) -> Node {
        match self {
            Step::Client { .. } => Node::Master,
            Step::Deliver { to: node, .. }
            | Step::Force { node, .. }
            | Step::Timer { node, .. }
            | Step::Kill { node, .. }
            | Step::PowerLoss { node, .. }
            | Step::Restart { node }
            | Step::SecondInstance { node }
            | Step::Wipe { node } => *node,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |second_instance: bool| if second_instance { " (second instance)" } else { "" };
        match self {
            Step::Client { call, request } => write!(f, "client call {call}: {request}"),
            Step::Deliver { from, to, message, second_instance } => {
                let epoch = message.epoch;
                write!(f, "{to}{} receives from {from}: {}", of(*second_instance), message.body)?;
                match from {
                    Node::Master => write!(f, " [epoch {epoch}, watermark {}]", message.watermark),
                    Node::Replica(_) => Ok(()),
                }
            }
            Step::Force { node, upto, second_instance } => {
                write!(f, "{node}{} forces {upto} record{}", of(*second_instance), plural(*upto))
            }
            Step::Timer { node, id, second_instance } => {
                write!(f, "{node}{} timer: {id}", of(*second_instance))
            }
            Step::Kill { node, keep } => {
                write!(f, "{node} is killed; {keep} unforced record{} stay", plural(*keep as u64))
            }
            Step::PowerLoss { node, keep } => write!(
                f,
                "{node} loses power; {keep} unforced record{} survive",
                plural(*keep as u64)
            ),
            Step::Restart { node } => write!(f, "{node} starts again"),
            Step::SecondInstance { node } => {
                write!(f, "a second instance of {node} starts on the same store")
            }
            Step::Wipe { node } => write!(f, "{node} comes back with an empty store"),
        }
    }
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

impl Schedule {
    /// Reads a schedule file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no schedule.
    pub fn read(path: &Path) -> io::Result<Schedule> {
        serde_json::from_str(&fs::read_to_string(path)?).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("line {line}, column {column}: no schedule: {error}"),
            )
        })
    }

    /// Writes the schedule to a file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self).expect("a schedule has a JSON form");
        text.push('\n');
        fs::write(path, text)
    }

    /// Runs the schedule and tells it: a line a step, with what the machine did about it.
    ///
    /// # Errors
    /// A step is not possible where it stands.
    pub fn tell(&self) -> Result<(Vec<String>, Cluster), NotPossible> {
        let mut cluster = Cluster::new(self.setup.clone());
        let mut lines = Vec::new();
        for (number, step) in (1..).zip(&self.steps) {
            let before = cluster.judge().broken();
            let done = cluster.apply(step)?;
            let mut line = format!("{number:>3}. {step}");
            let effects: Vec<_> = done.iter().map(ToString::to_string).collect();
            if !effects.is_empty() {
                line = format!("{line}\n       → {}", effects.join("; "));
            }
            for property in cluster.judge().broken() {
                if !before.contains(&property) {
                    line = format!("{line}\n       ✗ {}: {}", property, property.claim());
                }
            }
            lines.push(line);
        }
        Ok((lines, cluster))
    }
}
