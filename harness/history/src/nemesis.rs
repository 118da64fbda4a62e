//! What the nemesis did, and what the harness saw of the nodes: the events of a history that are not
//! operations of clients. Does not know a system: nodes, faults, crash points and transactions are
//! names as the system under test writes them.
//!
//! In a history the field `f` names the kind of event, and `value` has its fields. Kinds that this
//! version does not know are [kept as they are](NemesisEvent::Other). The fields of a kind that it
//! knows must have their form: an event that a check relies on is never skipped because it cannot be
//! read.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

/// An event of a history that is not an operation of a client.
#[derive(Clone, Debug, PartialEq)]
pub enum NemesisEvent {
    /// A fault was injected, or a step towards it was taken.
    Injected(InjectionKind, Box<Injected>),
    /// Nodes that were stopped or down run again.
    Returned(ReturnKind, Returned),
    /// Messages are no longer disturbed.
    NetworkRestored(NetworkRestored),
    /// How well the virtual network itself was.
    NetworkHealth(NetworkHealth),
    /// A disk is well again.
    DiskRestored(DiskRestored),
    /// A clock is right again.
    ClockRestored(ClockRestored),
    /// An injection did not happen.
    Missed(Box<Missed>),
    /// The cluster had time to recover from an injection.
    Recovered(Recovered),
    /// The load ended before its time, for the sake of the harness.
    EndedEarly(EndedEarly),
    /// Every fault was undone, at the end of the load.
    Healed(Healed),
    /// The nodes had time to settle after the last fault was undone.
    Settled(Settled),
    /// The nodes were asked what they hold, to be compared.
    Compared(Compared),
    /// Every key was read once more.
    FinalReads(FinalReads),
    /// The contents of a node could not be read at the end.
    DumpFailed(DumpFailed),
    /// A node exited, or did not start, and nobody had told it to.
    Died(Died),
    /// A violation was found while the run was in progress.
    Violated(Violated),
    /// A client broke the rules of clients: nothing that it says can be relied on.
    ClientFailed(ClientFailed),
    /// Connections of clients could not be opened.
    OpensFailed(OpensFailed),
    /// A step of a schedule was forced onto the cluster.
    Step(Step),
    /// An event of the system under test, or of a kind that this version does not know.
    Other {
        /// The kind.
        f: String,
        /// Its fields.
        value: Json,
    },
}

/// What an injection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InjectionKind {
    /// A node was stopped, or stopped at a crash point, and something is done to it next.
    Hold,
    /// A node was killed.
    Kill,
    /// A node was asked to exit, by SIGTERM.
    Terminate,
    /// A node was stopped, and is to be continued.
    Pause,
    /// Nodes lost what they had not synced.
    PowerLoss,
    /// A node was started on an empty directory.
    Wipe,
    /// A second process was started on the store of a node.
    SecondInstance,
    /// A message was intercepted, and something is done next.
    Intercept,
    /// Messages are disturbed for a while.
    NetworkFault,
    /// A disk has no free space for a while.
    DiskFull,
    /// A disk fails requests for a while.
    DiskError,
    /// A disk is slow for a while.
    DiskSlow,
    /// A disk does not answer for a while.
    DiskStall,
    /// A node was stopped, and bits of its disk were flipped.
    BitFlip,
    /// A node was stopped, and an older copy of its disk was put back.
    RestoredCopy,
    /// A client does harm for a while.
    HostileClient,
    /// A node was removed from the cluster, and is to be added again without its data.
    Replace,
    /// A node was made the leader.
    Promote,
    /// The wall clock of a node is wrong for a while.
    Clock,
}

impl InjectionKind {
    /// Every kind, its name in histories, and the names that earlier versions gave it.
    const NAMES: [(InjectionKind, &str, &[&str]); 19] = [
        (InjectionKind::Hold, "hold", &[]),
        (InjectionKind::Kill, "kill", &[]),
        (InjectionKind::Terminate, "terminate", &[]),
        (InjectionKind::Pause, "pause", &[]),
        (InjectionKind::PowerLoss, "power-loss", &[]),
        (InjectionKind::Wipe, "wipe-replica", &["wipe"]),
        (InjectionKind::SecondInstance, "second-master", &["twin-master", "second_instance"]),
        (InjectionKind::Intercept, "intercepted", &["caught"]),
        (InjectionKind::NetworkFault, "network-fault", &["disturb"]),
        (InjectionKind::DiskFull, "disk-full", &[]),
        (InjectionKind::DiskError, "disk-error", &[]),
        (InjectionKind::DiskSlow, "disk-slow", &[]),
        (InjectionKind::DiskStall, "disk-stall", &[]),
        (InjectionKind::BitFlip, "bit-flip", &[]),
        (InjectionKind::RestoredCopy, "restored-copy", &[]),
        (InjectionKind::HostileClient, "hostile-client", &[]),
        (InjectionKind::Replace, "replace", &[]),
        (InjectionKind::Promote, "promote", &[]),
        (InjectionKind::Clock, "clock", &[]),
    ];

    /// The name in histories.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = InjectionKind::NAMES.into_iter().find(|(kind, ..)| *kind == self);
        found.expect("every kind has a name").1
    }

    /// The kind of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<InjectionKind> {
        let mut all = InjectionKind::NAMES.into_iter();
        let found = all.find(|(_, now, before)| *now == name || before.contains(&name));
        found.map(|(kind, ..)| kind)
    }

    /// Whether one node is out of service from here until it [returns](NemesisEvent::Returned).
    #[must_use]
    pub fn is_outage(self) -> bool {
        matches!(
            self,
            InjectionKind::Kill
                | InjectionKind::Terminate
                | InjectionKind::Pause
                | InjectionKind::Replace
        )
    }

    /// Whether the node does not run until it [returns](NemesisEvent::Returned).
    #[must_use]
    pub fn stops_node(self) -> bool {
        !matches!(
            self,
            InjectionKind::Intercept
                | InjectionKind::NetworkFault
                | InjectionKind::HostileClient
                | InjectionKind::Promote
                | InjectionKind::Clock
        ) && !self.is_disk_fault()
    }

    /// Whether something is wrong with a disk from here until it is [restored](NemesisEvent::DiskRestored).
    #[must_use]
    pub fn is_disk_fault(self) -> bool {
        matches!(
            self,
            InjectionKind::DiskFull
                | InjectionKind::DiskError
                | InjectionKind::DiskSlow
                | InjectionKind::DiskStall
        )
    }
}

/// How a node came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnKind {
    /// It was started again.
    Restart,
    /// It was continued.
    Resume,
}

impl ReturnKind {
    /// The name in histories.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ReturnKind::Restart => "restart",
            ReturnKind::Resume => "resume",
        }
    }
}

/// Which replicas were in doubt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InDoubt {
    /// How many. `None` if it was not observed.
    #[serde(rename = "in_doubt", default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Their names.
    #[serde(rename = "in_doubt_at", default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

/// The fields of an injection. Which of them it has depends on its kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Injected {
    /// The fault of which this is a case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Of a fault that consists of two: which of them this is, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<u8>,
    /// The node that it acts on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Power loss: every node that lost power.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// The crash point at which it happened. `None` if at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The intercepted message at which it happened, in the form of the system under test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Json>,
    /// What was done to that message.
    #[serde(alias = "did", default, skip_serializing_if = "Option::is_none")]
    pub message_action: Option<String>,
    /// The transaction that was at the crash point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn: Option<String>,
    /// Which replicas were in doubt at that time.
    #[serde(flatten)]
    pub in_doubt: InDoubt,
    /// How long the node stays stopped, in milliseconds.
    #[serde(alias = "lies_ms", default, skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<u64>,
    /// How long the node is down, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_ms: Option<u64>,
    /// Power loss: whether some of the writes that were not synced survived.
    #[serde(alias = "in_part", default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<bool>,
    /// Power loss: what each node lost.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, LostWrites>,
    /// Network fault: which messages are disturbed, and how.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<MessageRule>,
    /// Disk fault: what is wrong, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Flipped bits: which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flipped: Vec<FlippedBit>,
    /// It happened after the load, when nobody used what it acts on, so it does not count for the load.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub after_load: bool,
    /// Restored copy: its age, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Clock: what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockShift>,
    /// Hostile client: what it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attack: Option<String>,
    /// Network fault, disk fault, clock or hostile client: how long it lasts, in milliseconds.
    #[serde(alias = "lasts_ms", default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Start on an empty directory: whether it claimed that the cluster is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<bool>,
    /// What became of a start that the system must refuse.
    #[serde(flatten)]
    pub start: ForbiddenStart,
}

impl Injected {
    /// Every node that it acts on.
    #[must_use]
    pub fn all_nodes(&self) -> Vec<String> {
        all_nodes(self.node.as_ref(), &self.nodes)
    }
}

/// What is wrong with a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockShift {
    /// How far it is ahead from the beginning, in milliseconds. Negative: behind.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub jump_ms: i64,
    /// How much faster it runs, in millionths. Negative: slower.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drift_ppm: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl fmt::Display for ClockShift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ClockShift { jump_ms, drift_ppm } = *self;
        let seconds = jump_ms.unsigned_abs() as f64 / 1e3;
        let percent = drift_ppm.unsigned_abs() as f64 / 1e4;
        match jump_ms.signum() {
            0 => {}
            1 => write!(f, "the clock is {seconds} s ahead")?,
            _ => write!(f, "the clock is {seconds} s behind")?,
        }
        let subject = if jump_ms == 0 { "the clock" } else { " and" };
        match drift_ppm.signum() {
            0 if jump_ms == 0 => f.write_str("the clock is right"),
            0 => Ok(()),
            1 => write!(f, "{subject} runs {percent} % fast"),
            _ => write!(f, "{subject} runs {percent} % slow"),
        }
    }
}

/// A process whose clock was wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShiftedProcess {
    /// Its number.
    pub pid: i32,
    /// The name of its program.
    pub name: String,
}

/// A bit that was flipped on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlippedBit {
    /// The path of the file on the disk.
    pub file: String,
    /// The byte.
    pub offset: u64,
    /// The bit of the byte, from 0.
    pub bit: u8,
}

/// What a node lost with its power.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostWrites {
    /// Pages of each file that were lost.
    pub pages: BTreeMap<String, u64>,
    /// Changes of directories that were lost.
    pub entries: u64,
    /// Writes that survived although they were not synced.
    pub kept: u64,
}

/// Messages, and what is done to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageRule {
    /// Which messages, in the form of the system under test.
    #[serde(alias = "what")]
    pub pattern: Json,
    /// What is done to them.
    #[serde(alias = "is")]
    pub action: String,
}

/// What became of a start that the system must refuse.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ForbiddenStartFields", into = "ForbiddenStartFields")]
pub enum ForbiddenStart {
    /// There was no such start.
    #[default]
    None,
    /// The process exited and said that it was refused.
    Refused(Exit),
    /// The process exited otherwise.
    Exited(Exit),
    /// The system let it in.
    Admitted,
    /// Neither was observed in time.
    Undecided {
        /// What was waited for.
        why: String,
    },
}

/// How a process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit status.
    pub status: String,
    /// The last line of its log.
    #[serde(default)]
    pub last_log_line: String,
}

/// The fields of [`ForbiddenStart`] in JSON.
#[derive(Default, Serialize, Deserialize)]
struct ForbiddenStartFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admitted: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    undecided: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(alias = "said", default, skip_serializing_if = "Option::is_none")]
    last_log_line: Option<String>,
}

impl TryFrom<ForbiddenStartFields> for ForbiddenStart {
    type Error = &'static str;

    fn try_from(fields: ForbiddenStartFields) -> Result<Self, Self::Error> {
        let ForbiddenStartFields { refused, admitted, undecided, status, last_log_line } = fields;
        let exit =
            status.map(|status| Exit { status, last_log_line: last_log_line.unwrap_or_default() });
        match (refused, admitted, undecided, exit) {
            (None, None, None, None) => Ok(ForbiddenStart::None),
            (Some(true), None, None, Some(exit)) => Ok(ForbiddenStart::Refused(exit)),
            (Some(false), None, None, Some(exit)) => Ok(ForbiddenStart::Exited(exit)),
            (Some(false), Some(true), None, None) => Ok(ForbiddenStart::Admitted),
            (Some(false), None, Some(why), None) => Ok(ForbiddenStart::Undecided { why }),
            _ => Err("refused, admitted, undecided and status contradict each other"),
        }
    }
}

impl From<ForbiddenStart> for ForbiddenStartFields {
    fn from(start: ForbiddenStart) -> Self {
        let refused = Some(matches!(start, ForbiddenStart::Refused(_)));
        let fields = ForbiddenStartFields { refused, ..ForbiddenStartFields::default() };
        match start {
            ForbiddenStart::None => ForbiddenStartFields::default(),
            ForbiddenStart::Refused(exit) | ForbiddenStart::Exited(exit) => ForbiddenStartFields {
                status: Some(exit.status),
                last_log_line: Some(exit.last_log_line),
                ..fields
            },
            ForbiddenStart::Admitted => ForbiddenStartFields { admitted: Some(true), ..fields },
            ForbiddenStart::Undecided { why } => {
                ForbiddenStartFields { undecided: Some(why), ..fields }
            }
        }
    }
}

/// Nodes that run again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returned {
    /// The node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// After a power loss: every node that lost power.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Which replicas were in doubt just before.
    #[serde(flatten)]
    pub in_doubt: InDoubt,
}

impl Returned {
    /// Every node that returned.
    #[must_use]
    pub fn all_nodes(&self) -> Vec<String> {
        all_nodes(self.node.as_ref(), &self.nodes)
    }
}

/// The end of a network fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkRestored {
    /// The fault of which it was a case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The node that it acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The messages that were disturbed.
    #[serde(alias = "struck", default)]
    pub intercepted: Intercepted,
}

/// How well the virtual network itself was during the run, whatever faults it had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkHealth {
    /// How many packets were lost because the harness did not take them.
    pub dropped: u64,
    /// How long the harness was kept from forwarding packets, at most, in milliseconds.
    pub longest_stall_ms: u64,
}

/// The end of a disk fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRestored {
    /// The fault of which it was a case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The node whose disk it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How long the disk was certainly faulty after the injection was recorded, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<u64>,
    /// How many requests the fault affected, by what became of them. Nothing if nobody noticed it.
    #[serde(default)]
    pub effects: BTreeMap<String, u64>,
    /// How the node's process ended because of it. `None` if it went on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

/// The end of a wrong clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockRestored {
    /// The fault of which it was a case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The node whose clock it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How long the clock was certainly wrong, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<u64>,
    /// The processes that had the wrong clock. Nothing if none could be given it.
    #[serde(default)]
    pub processes: Vec<ShiftedProcess>,
    /// The programs whose clock stayed right, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<(String, String)>,
}

/// Messages that were disturbed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Intercepted {
    /// How many.
    pub messages: u64,
    /// How many of each kind.
    #[serde(default)]
    pub kinds: BTreeMap<String, u64>,
    /// The first of them, in the form of the system under test.
    #[serde(default)]
    pub first: Vec<Json>,
}

/// An injection that did not happen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Missed {
    /// What the injection would have been.
    #[serde(flatten)]
    pub injected: Injected,
    /// The kind of event that would have recorded it.
    #[serde(alias = "harm", default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Whether the load ended first. The miss then says nothing about the crash point.
    #[serde(alias = "over", default, skip_serializing_if = "Option::is_none")]
    pub load_ended: Option<bool>,
    /// The reason.
    pub why: String,
}

/// The recovery from an injection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The node that it acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The number of transactions that were in doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_doubt: Option<u64>,
    /// Milliseconds until none of them was in doubt, `None` if that did not happen in time.
    #[serde(deserialize_with = "Option::deserialize")]
    pub resolved_ms: Option<u64>,
    /// Milliseconds until every node was ready, `None` if that did not happen in time.
    #[serde(deserialize_with = "Option::deserialize")]
    pub ready_ms: Option<u64>,
}

/// An end of the load before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedEarly {
    /// The reason.
    pub why: String,
}

/// The end of all faults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Healed {
    /// The nodes for which something was undone, each with what was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<(String, String)>>,
    /// Why the cluster cannot be healed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// How long the nodes took to settle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// Milliseconds until every node was ready without open transactions, `None` if that did not
    /// happen in time.
    #[serde(deserialize_with = "Option::deserialize")]
    pub ms: Option<u64>,
    /// The nodes that had ended, so that waiting was in vain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<String>,
}

/// What nodes hold that must hold the same, each as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// The moment in the history of the system that all were asked about, in its own words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub at: String,
    /// What each node says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, NodeState>,
    /// Why they could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// What a node holds, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// A hash of what it held at the moment in question: the same for all nodes.
    pub hash: String,
    /// How far the node is, for people. It may differ.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
}

/// The last reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalReads {
    /// The keys that could not be read.
    pub unread: Vec<String>,
}

/// A node whose contents could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpFailed {
    /// The node.
    pub node: String,
    /// The reason.
    pub error: String,
}

/// An unexpected exit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Died {
    /// The node.
    pub node: String,
    /// Its exit status, or what it did not do.
    pub status: String,
    /// The end of its log.
    #[serde(default)]
    pub log: String,
}

/// A violation that was found during the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violated {
    /// The key whose history is not linearizable. Empty if something else was found.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// What else was found, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// Whether the load was ended because of it.
    pub ended: bool,
}

impl Violated {
    /// What was found, in words.
    #[must_use]
    pub fn what(&self) -> String {
        let key = || format!("the history of {} is not linearizable", self.key);
        self.found.clone().unwrap_or_else(key)
    }
}

/// A client that broke the rules of clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFailed {
    /// The process that it worked for.
    pub process: u64,
    /// What it did.
    pub why: String,
}

/// Connections that could not be opened by one worker during the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpensFailed {
    /// The node that it connects to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How many.
    pub count: u64,
    /// Why the last of them failed.
    pub error: String,
}

/// A step of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The step, in words.
    pub step: String,
    /// Whether it could be forced, in words.
    pub result: String,
}

fn all_nodes(node: Option<&String>, nodes: &[String]) -> Vec<String> {
    let mut all: Vec<String> = node.into_iter().chain(nodes).cloned().collect();
    all.sort();
    all.dedup();
    all
}

impl NemesisEvent {
    /// The kind, as the field `f` of a history has it.
    #[must_use]
    pub fn f(&self) -> &str {
        match self {
            NemesisEvent::Injected(kind, _) => kind.name(),
            NemesisEvent::Returned(kind, _) => kind.name(),
            NemesisEvent::NetworkRestored(_) => "network-restored",
            NemesisEvent::NetworkHealth(_) => "network-health",
            NemesisEvent::DiskRestored(_) => "disk-restored",
            NemesisEvent::ClockRestored(_) => "clock-restored",
            NemesisEvent::Missed(_) => "miss",
            NemesisEvent::Recovered(_) => "recovered",
            NemesisEvent::EndedEarly(_) => "ended-early",
            NemesisEvent::Healed(_) => "heal",
            NemesisEvent::Settled(_) => "settled",
            NemesisEvent::Compared(_) => "compared",
            NemesisEvent::FinalReads(_) => "final",
            NemesisEvent::DumpFailed(_) => "dump-failed",
            NemesisEvent::Died(_) => "died",
            NemesisEvent::Violated(_) => "broken",
            NemesisEvent::ClientFailed(_) => "client-failed",
            NemesisEvent::OpensFailed(_) => "opens-failed",
            NemesisEvent::Step(_) => "step",
            NemesisEvent::Other { f, .. } => f,
        }
    }

    /// The fields, as the field `value` of a history has them. `null` if there are none.
    #[must_use]
    pub fn value(&self) -> Json {
        let value = match self {
            NemesisEvent::Injected(_, fields) => serde_json::to_value(fields),
            NemesisEvent::Returned(_, fields) => serde_json::to_value(fields),
            NemesisEvent::NetworkRestored(fields) => serde_json::to_value(fields),
            NemesisEvent::NetworkHealth(fields) => serde_json::to_value(fields),
            NemesisEvent::DiskRestored(fields) => serde_json::to_value(fields),
            NemesisEvent::ClockRestored(fields) => serde_json::to_value(fields),
            NemesisEvent::Missed(fields) => serde_json::to_value(fields),
            NemesisEvent::Recovered(fields) => serde_json::to_value(fields),
            NemesisEvent::EndedEarly(fields) => serde_json::to_value(fields),
            NemesisEvent::Healed(fields) => serde_json::to_value(fields),
            NemesisEvent::Settled(fields) => serde_json::to_value(fields),
            NemesisEvent::Compared(fields) => serde_json::to_value(fields),
            NemesisEvent::FinalReads(fields) => serde_json::to_value(fields),
            NemesisEvent::DumpFailed(fields) => serde_json::to_value(fields),
            NemesisEvent::Died(fields) => serde_json::to_value(fields),
            NemesisEvent::Violated(fields) => serde_json::to_value(fields),
            NemesisEvent::ClientFailed(fields) => serde_json::to_value(fields),
            NemesisEvent::OpensFailed(fields) => serde_json::to_value(fields),
            NemesisEvent::Step(fields) => serde_json::to_value(fields),
            NemesisEvent::Other { value, .. } => Ok(value.clone()),
        };
        let value = value.expect("the fields are plain data");
        if value.as_object().is_some_and(serde_json::Map::is_empty) { Json::Null } else { value }
    }

    /// The event with this kind and these fields.
    ///
    /// # Errors
    /// The fields do not have the form of the kind. The message says why.
    pub fn new(f: &str, value: Json) -> Result<NemesisEvent, String> {
        let value = if value.is_null() { Json::Object(serde_json::Map::new()) } else { value };
        if let Some(kind) = InjectionKind::find(f) {
            return Ok(NemesisEvent::Injected(kind, fields(f, value)?));
        }
        Ok(match f {
            "restart" => NemesisEvent::Returned(ReturnKind::Restart, fields(f, value)?),
            "resume" => NemesisEvent::Returned(ReturnKind::Resume, fields(f, value)?),
            // The second and the third name are those of earlier versions.
            "network-restored" | "mend" | "restore" => {
                NemesisEvent::NetworkRestored(fields(f, value)?)
            }
            "network-health" => NemesisEvent::NetworkHealth(fields(f, value)?),
            "disk-restored" => NemesisEvent::DiskRestored(fields(f, value)?),
            "clock-restored" => NemesisEvent::ClockRestored(fields(f, value)?),
            "miss" => NemesisEvent::Missed(fields(f, value)?),
            "client-failed" => NemesisEvent::ClientFailed(fields(f, value)?),
            "opens-failed" => NemesisEvent::OpensFailed(fields(f, value)?),
            "recovered" => NemesisEvent::Recovered(fields(f, value)?),
            "ended-early" => NemesisEvent::EndedEarly(fields(f, value)?),
            "heal" => NemesisEvent::Healed(fields(f, value)?),
            "settled" => NemesisEvent::Settled(fields(f, value)?),
            "compared" => NemesisEvent::Compared(fields(f, value)?),
            "final" => NemesisEvent::FinalReads(fields(f, value)?),
            // The second name is that of earlier versions.
            "dump-failed" | "unseen" => NemesisEvent::DumpFailed(fields(f, value)?),
            "died" => NemesisEvent::Died(fields(f, value)?),
            "broken" => NemesisEvent::Violated(fields(f, value)?),
            "step" => NemesisEvent::Step(fields(f, value)?),
            _ if value.as_object().is_some_and(serde_json::Map::is_empty) => {
                NemesisEvent::Other { f: f.to_owned(), value: Json::Null }
            }
            _ => NemesisEvent::Other { f: f.to_owned(), value },
        })
    }
}

fn fields<T: DeserializeOwned>(f: &str, value: Json) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| format!("event '{f}' of the nemesis: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(f: &str, value: Json) -> NemesisEvent {
        NemesisEvent::new(f, value).unwrap_or_else(|why| panic!("{why}"))
    }

    #[test]
    fn every_kind_has_a_name_of_its_own_and_is_found_by_all_its_names() {
        for (kind, name, former) in InjectionKind::NAMES {
            for name in [&[name][..], former].concat() {
                assert_eq!(InjectionKind::find(name), Some(kind));
                assert_eq!(read(name, Json::Null).f(), kind.name());
            }
        }
    }

    #[test]
    fn events_come_back_as_they_were_written() {
        let exit = json!({ "refused": true, "status": "exit status: 2", "last_log_line": "no" });
        let in_doubt = json!({ "node": "r1", "in_doubt": 1, "in_doubt_at": ["r1"] });
        let dropped = json!({ "r1": { "pages": { "wal": 3 }, "entries": 1, "kept": 0 } });
        let rule = json!({ "pattern": { "share": 1.0 }, "action": "dropped" });
        let intercepted = json!({ "messages": 2, "kinds": { "ack": 2 }, "first": [] });
        for (f, value) in [
            ("kill", json!({ "fault": "kill-master", "node": "master", "down_ms": 7 })),
            ("pause", in_doubt.clone()),
            ("power-loss", json!({ "nodes": ["r1"], "partial": true, "dropped": dropped })),
            ("second-master", exit.clone()),
            ("wipe-replica", json!({ "refused": false, "admitted": true, "bootstrap": true })),
            ("wipe-replica", json!({ "refused": false, "undecided": "8 s" })),
            ("network-fault", json!({ "messages": [rule], "duration_ms": 9 })),
            ("restart", in_doubt),
            ("resume", Json::Null),
            ("network-restored", json!({ "fault": "partition", "intercepted": intercepted })),
            ("disk-error", json!({ "node": "r1", "disk": "syncs fail", "duration_ms": 9 })),
            (
                "bit-flip",
                json!({ "node": "r1", "flipped": [{ "file": "f", "offset": 7, "bit": 0 }] }),
            ),
            (
                "disk-restored",
                json!({ "node": "r1", "effects": { "failed_syncs": 1 }, "exit": {
                "status": "exit status: 1", "last_log_line": "oh" } }),
            ),
            ("clock", json!({ "node": "n1", "clock": { "jump_ms": -7 }, "duration_ms": 9 })),
            ("clock", json!({ "node": "n1", "clock": { "drift_ppm": 1000 } })),
            (
                "clock-restored",
                json!({ "node": "n1", "held_ms": 8, "processes": [{ "pid": 7, "name": "etcd" }],
                    "refused": [["cat", "no"]] }),
            ),
            ("miss", json!({ "fault": "x", "action": "kill", "load_ended": false, "why": "no" })),
            ("recovered", json!({ "fault": "x", "resolved_ms": 3, "ready_ms": null })),
            ("ended-early", json!({ "why": "enough" })),
            ("heal", json!({ "nodes": [["r1", "resumed"]] })),
            ("heal", json!({ "failed": "r1 does not start" })),
            ("settled", json!({ "ms": null })),
            ("compared", json!({ "at": "revision 7", "nodes": { "n1": { "hash": "1" } } })),
            ("compared", json!({ "failed": "n1 does not answer" })),
            ("final", json!({ "unread": ["k1"] })),
            ("dump-failed", json!({ "node": "r1", "error": "gone" })),
            ("died", json!({ "node": "r1", "status": "signal: 6", "log": "oh" })),
            ("broken", json!({ "key": "k1", "ended": true })),
            ("step", json!({ "step": "kill r1", "result": "forced" })),
            ("matrix", json!({ "replicas": 3 })),
            ("anything", Json::Null),
            ("anything", json!([1, "two"])),
        ] {
            let event = read(f, value.clone());
            assert_eq!((event.f(), event.value()), (f, value));
        }
    }

    #[test]
    fn what_is_wrong_with_a_clock_is_told_in_words() {
        let words = |jump_ms, drift_ppm| ClockShift { jump_ms, drift_ppm }.to_string();
        assert_eq!(words(3_600_500, 0), "the clock is 3600.5 s ahead");
        assert_eq!(words(-20, 0), "the clock is 0.02 s behind");
        assert_eq!(words(0, 25_000), "the clock runs 2.5 % fast");
        assert_eq!(words(-1_000, -1), "the clock is 1 s behind and runs 0.0001 % slow");
        assert_eq!(words(0, 0), "the clock is right");
    }

    #[test]
    fn names_of_earlier_versions_are_read() {
        let kill = read("kill", json!({ "node": "r1", "lies_ms": 4, "did": "held" }));
        assert_eq!(kill.value(), json!({ "node": "r1", "paused_ms": 4, "message_action": "held" }));
        let restored = read("mend", json!({ "struck": { "messages": 3 } }));
        let NemesisEvent::NetworkRestored(NetworkRestored { intercepted, .. }) = restored else {
            panic!("{restored:?}")
        };
        assert_eq!(intercepted.messages, 3);
        let fault =
            read("disturb", json!({ "messages": [{ "what": 1, "is": "lost" }], "lasts_ms": 5 }));
        let rule = json!({ "pattern": 1, "action": "lost" });
        assert_eq!(fault.value(), json!({ "messages": [rule], "duration_ms": 5 }));
        let start = json!({ "refused": true, "status": "2", "said": "no" });
        let start = read("twin-master", start);
        assert_eq!(start.f(), "second-master");
        assert_eq!(start.value()["last_log_line"], "no");
    }

    #[test]
    fn fields_of_another_form_are_an_error_that_names_the_kind() {
        for (f, value) in [
            ("died", json!({ "status": "signal: 6" })),
            ("kill", json!({ "node": 3 })),
            ("settled", Json::Null),
            ("final", json!({ "unread": "k1" })),
            ("second-master", json!({ "refused": true, "admitted": true })),
            ("second-master", json!({ "refused": true })),
        ] {
            let why = NemesisEvent::new(f, value).expect_err("it is malformed");
            assert!(why.starts_with(&format!("event '{f}' of the nemesis: ")), "{why}");
        }
    }
}
