//! Schedules: what happens to a cluster, step by step, as data. A counterexample of the model, a
//! failing run of the simulator and a hand-written scenario all have this form and can be replayed.
//! Does not know about time, sockets or processes.
//!
//! # The file
//!
//! One JSON object with four fields: `setup` ([`ScheduleSetup`]: the cluster), `steps` (a list of
//! [`Step`]s), `violated` (the names of the properties that are violated at the end) and `origin`
//! (the command that found the schedule). A step is an object with one field, its kind:
//!
//! ```json
//! {"client": {"call": 0, "request": {"write": {"key": "k1", "value": "v1"}}}}
//! {"deliver": {"from": "master", "to": "r1", "message": {"store": "0000000000000000", "epoch": 1,
//!   "watermark": "1.1", "body": {"prepare": {"txn": "1.1", "write": {"key": "k1", "value": "v1"},
//!   "piggybacked": []}}}}}
//! {"force": {"node": "r1", "upto": 1}}
//! {"timer": {"node": "master", "id": {"vote_timeout": "1.1"}}}
//! {"kill": {"node": "r1", "keep": 0}}
//! {"power_loss": {"node": "r1", "keep": 1}}
//! {"restart": {"node": "r1"}}
//! ```
//!
//! - A message is identified by its full content, in the form that journals use. `deliver` requires
//!   that the message was sent before; the same message may be delivered again. A message that is
//!   never delivered was lost.
//! - `upto` counts the records that the process has appended since its last force. `keep` counts
//!   records that are not durable, in append order, including those that an earlier process left.
//! - `kill` (SIGKILL) leaves the records that it keeps with the operating system, where a later loss
//!   of power can still take them. Records that `power_loss` keeps are durable. `wipe` removes all.
//!   None of the three restarts the process: `restart` does.
//! - `damage` makes the entry of a key rot on a replica's disk. With `found` the replica finds it at once;
//!   a read of the key does so as well.
//! - `second_instance` starts a second process on the master's store. A step with the field
//!   `second_instance` applies to that process.
//! - With `handshaken` the cluster has started, forced and handshaken before the first step. With
//!   `canonical` messages lack the fields that no receiver acts on.
//!
//! The old names of fields and properties (`broken`, `settled`, `bare`, `twin`, `forgetting`, ...)
//! are accepted when a file is read.

mod canonical;
mod client_history;
mod cluster;
mod environment;
mod host;
mod invariants;
mod observation;
mod panics;
mod property;
mod renumber;
mod show;
mod shrink;
mod view;

use std::{fmt, fs, io, path::Path, time::Duration};

use protocol::{CallId, CommitMode, Key, Lsn, Message, Node, Request, Rules, TimerId, Timing};
use serde::{Deserialize, Serialize};

pub(crate) use canonical::rename_store;
pub use cluster::{Cluster, ImpossibleStep, keys_of};
pub(crate) use cluster::{FAIR_ROUNDS, is_quiescent};
pub use environment::{StepEffects, TimedEffect};
pub use host::ScheduleHost;
pub use invariants::InvariantChecker;
pub use observation::{Observation, is_refusal};
pub use property::Property;
pub use shrink::shrink;
pub use view::{HostView, ReplicaDisks};

/// A cluster and the steps that happen to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The cluster.
    pub setup: ScheduleSetup,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The properties that are violated at the end.
    #[serde(default, alias = "broken")]
    pub violated: Vec<Property>,
    /// The command that finds this schedule again.
    #[serde(default)]
    pub origin: String,
}

/// The configuration of a cluster, as far as the protocol depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScheduleSetup {
    /// The number of replicas.
    pub replicas: u8,
    /// What makes a commit.
    #[serde(default, skip_serializing_if = "CommitMode::is_logged")]
    pub commit: CommitMode,
    /// The rules that the machines keep.
    pub rules: Rules,
    /// The protocol's periods and limits.
    pub timing: Timing,
    /// Whether replicas may inquire of each other.
    pub peers: bool,
    /// Whether the schedule starts with a cluster that has handshaken; otherwise with empty stores.
    #[serde(alias = "settled")]
    pub handshaken: bool,
    /// Whether hosts and messages are kept in canonical form, without the fields that no receiver
    /// acts on. The model needs it, because it compares states.
    #[serde(alias = "bare")]
    pub canonical: bool,
    /// How long after each other a replica's turns of the scrub follow. Zero: there is none.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    pub scrub_interval: Duration,
}

/// One step of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A client's request reaches the master.
    Client {
        /// Identifies the call.
        call: CallId,
        /// The request.
        request: Request,
    },
    /// A message that was sent before is delivered. It may be delivered again, or never.
    Deliver {
        /// The sender.
        from: Node,
        /// The receiver.
        to: Node,
        /// The message.
        message: Message,
        /// It is delivered to the second instance of the node.
        #[serde(default, alias = "twin", skip_serializing_if = "std::ops::Not::not")]
        second_instance: bool,
    },
    /// Records become durable, and the machine is notified.
    Force {
        /// The node.
        node: Node,
        /// Up to which position, counted from the last durable record.
        upto: Lsn,
        /// At the second instance of the node.
        #[serde(default, alias = "twin", skip_serializing_if = "std::ops::Not::not")]
        second_instance: bool,
    },
    /// A timer expires.
    Timer {
        /// The node.
        node: Node,
        /// The timer.
        id: TimerId,
        /// At the second instance of the node.
        #[serde(default, alias = "twin", skip_serializing_if = "std::ops::Not::not")]
        second_instance: bool,
    },
    /// The process is killed by SIGKILL.
    Kill {
        /// The node.
        node: Node,
        /// How many records that are not durable the operating system holds.
        keep: usize,
    },
    /// The node loses power.
    PowerLoss {
        /// The node.
        node: Node,
        /// How many records that were not forced survive nevertheless.
        keep: usize,
    },
    /// The process restarts on what its store retained.
    Restart {
        /// The node.
        node: Node,
    },
    /// A second process starts on the store of the first.
    #[serde(alias = "twin")]
    SecondInstance {
        /// The node.
        node: Node,
    },
    /// The process ends and its store is replaced by an empty one.
    Wipe {
        /// The node.
        node: Node,
    },
    /// The entry of a key rots on the node's disk.
    Damage {
        /// The node.
        node: Node,
        /// The key.
        key: Key,
        /// The node finds it at once, if it is up. Otherwise a read of the key does.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        found: bool,
    },
}

impl Step {
    /// The node that the step applies to.
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
            | Step::Wipe { node }
            | Step::Damage { node, .. } => *node,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix =
            |second_instance: bool| if second_instance { " (second instance)" } else { "" };
        match self {
            Step::Client { call, request } => write!(f, "client call {call}: {request}"),
            Step::Deliver { from, to, message, second_instance } => {
                let epoch = message.epoch;
                let suffix = suffix(*second_instance);
                write!(f, "{to}{suffix} receives from {from}: {}", message.body)?;
                match from {
                    Node::Master => write!(f, " [epoch {epoch}, watermark {}]", message.watermark),
                    Node::Replica(_) => Ok(()),
                }
            }
            Step::Force { node, upto, second_instance } => {
                write!(f, "{node}{} forces {}", suffix(*second_instance), records(*upto))
            }
            Step::Timer { node, id, second_instance } => {
                write!(f, "{node}{} timer expires: {id}", suffix(*second_instance))
            }
            Step::Kill { node, keep } => {
                write!(f, "{node} is killed; the OS keeps {} unforced", records(*keep as u64))
            }
            Step::PowerLoss { node, keep } => {
                write!(f, "{node} loses power; {} unforced survive", records(*keep as u64))
            }
            Step::Restart { node } => write!(f, "{node} restarts"),
            Step::SecondInstance { node } => {
                write!(f, "a second instance of {node} starts on the same store")
            }
            Step::Wipe { node } => write!(f, "{node}'s store is replaced by an empty one"),
            Step::Damage { node, key, found } => {
                let found = if *found { ", which finds it" } else { "" };
                write!(f, "the entry of {key} rots at {node}{found}")
            }
        }
    }
}

/// A number of records, in words.
fn records(count: u64) -> String {
    format!("{count} record{}", if count == 1 { "" } else { "s" })
}

impl Schedule {
    /// Reads a schedule file.
    ///
    /// # Errors
    /// The file cannot be read, or is not a schedule.
    pub fn read(path: &Path) -> io::Result<Schedule> {
        serde_json::from_str(&fs::read_to_string(path)?).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("line {line}, column {column}: not a schedule: {error}"),
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

    /// Replays the schedule. Returns one line per step, with the effects of the machine and the
    /// properties that the step violates, and the cluster at the end.
    ///
    /// # Errors
    /// A step is not possible in the state in which it stands.
    pub fn trace(&self) -> Result<(Vec<String>, Cluster), ImpossibleStep> {
        let mut cluster = Cluster::new(self.setup.clone());
        let mut lines = Vec::new();
        for (number, step) in (1..).zip(&self.steps) {
            let before = cluster.checker().violations();
            let effects = cluster.apply(step)?;
            let mut line = format!("{number:>3}. {step}");
            let effects: Vec<_> = effects.iter().map(ToString::to_string).collect();
            if !effects.is_empty() {
                line = format!("{line}\n       → {}", effects.join("; "));
            }
            for property in cluster.checker().violations() {
                if !before.contains(&property) {
                    line = format!("{line}\n       ✗ {}: {}", property, property.claim());
                }
            }
            lines.push(line);
        }
        Ok((lines, cluster))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_field_names_are_accepted() {
        let setup = ScheduleSetup {
            replicas: 2,
            commit: CommitMode::Logged,
            rules: Rules::ALL,
            timing: Timing::default(),
            peers: true,
            handshaken: true,
            canonical: true,
            scrub_interval: Duration::ZERO,
        };
        let steps = vec![Step::SecondInstance { node: Node::Master }];
        let violated = vec![Property::CommitRetention, Property::MachineInvariants];
        let schedule = Schedule { setup, steps, violated, origin: String::new() };
        let mut text = serde_json::to_string(&schedule).expect("a schedule has a JSON form");
        for (new, old) in [
            ("handshaken", "settled"),
            ("canonical", "bare"),
            ("violated", "broken"),
            ("second_instance", "twin"),
            ("commit-retention", "forgetting"),
            ("machine-invariants", "no-halt"),
        ] {
            let replaced = text.replace(&format!("\"{new}\""), &format!("\"{old}\""));
            assert_ne!(replaced, text, "{new} is part of the schedule");
            text = replaced;
        }
        assert_eq!(serde_json::from_str::<Schedule>(&text).expect("old names"), schedule);
    }
}
