//! What a run leaves behind.

use std::collections::BTreeMap;

use protocol::{Config, Effect, Event, Node, Record, Reply, Request, Snapshot};

use crate::schedule::{Property, ScheduleHost, Step};

/// The result of a run.
#[derive(Debug)]
pub struct SimulatedRun {
    /// The clients' operations and the faults, in order.
    pub history: Vec<RunEvent>,
    /// The steps of each node's machine. Empty unless recorded.
    pub machine_steps: BTreeMap<Node, Vec<MachineStep>>,
    /// The run as the steps of a schedule. Empty unless recorded.
    pub steps: Vec<Step>,
    /// The nodes at the end: the master, then the replicas.
    pub hosts: Vec<ScheduleHost>,
    /// The properties that were violated during the run or at its end.
    pub violations: Vec<Property>,
    /// When the run ended, in nanoseconds of virtual time.
    pub ended: u64,
    /// How often what happened.
    pub counters: Counters,
}

/// An event that a client or the fault injection can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEvent {
    /// Nanoseconds of virtual time since the run began.
    pub time: u64,
    /// What happened.
    pub kind: RunEventKind,
}

/// What a [`RunEvent`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEventKind {
    /// A client invokes an operation.
    Invoke {
        /// The client. A client whose operation ends as unknown goes on as another process.
        process: u64,
        /// The operation.
        request: Request,
    },
    /// An operation completes.
    Complete {
        /// The client.
        process: u64,
        /// The operation.
        request: Request,
        /// The reply; `None` if the client received none.
        reply: Option<Reply>,
    },
    /// A fault was injected, or ended.
    Fault {
        /// The fault.
        fault: FaultEvent,
        /// Where, if it concerns one node.
        node: Option<Node>,
    },
}

/// What happened to a node or to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultEvent {
    /// The process was killed.
    Kill,
    /// The node lost power.
    PowerLoss,
    /// The process ended and its store was replaced by an empty one.
    Wipe,
    /// A second instance of the node was started.
    SecondInstance,
    /// An entry rotted on the disk.
    Damage,
    /// The process was paused.
    Pause,
    /// The process was resumed.
    Resume,
    /// The process was restarted.
    Restart,
    /// All partitions ended.
    Heal,
}

/// How certain a client is of an operation's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionKind {
    /// It took effect.
    Ok,
    /// It had no effect and never will.
    Fail,
    /// It may have taken effect, or may take effect later.
    Info,
}

impl CompletionKind {
    /// The kind of a completion with this reply, or without one.
    #[must_use]
    pub fn of(request: &Request, reply: Option<&Reply>) -> Self {
        match (reply, request) {
            (Some(Reply::Snapshot { snapshot: Snapshot::TooLarge, .. }), _) => CompletionKind::Fail,
            (Some(Reply::Committed { .. } | Reply::Value(_) | Reply::Snapshot { .. }), _) => {
                CompletionKind::Ok
            }
            (Some(Reply::Aborted(_) | Reply::Unavailable), _) => CompletionKind::Fail,
            (None, Request::Get { .. } | Request::Snapshot { .. }) => CompletionKind::Fail,
            // A write that has not reached the master yet may still do so.
            (None, Request::Write(_)) => CompletionKind::Info,
        }
    }
}

/// One step of a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineStep {
    /// Nanoseconds of virtual time since the run began.
    pub time: u64,
    /// What the machine was given; `None` for the start of a second instance.
    pub input: Option<MachineInput>,
    /// What the machine requested.
    pub effects: Vec<Effect>,
}

/// What a machine is given.
#[derive(Clone, Debug, PartialEq)]
pub enum MachineInput {
    /// The machine is recovered from its store.
    Start {
        /// The configuration.
        config: Config,
        /// The records that the store retained.
        records: Vec<Record>,
    },
    /// The machine is stepped with an event.
    Event(Event),
}

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// How often what happened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $field: u64),* }

        impl std::ops::AddAssign for Counters {
            fn add_assign(&mut self, other: Counters) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

counters! {
    /// Operations of clients.
    operations,
    /// Of these, operations that succeeded.
    ok,
    /// Of these, operations whose outcome the client never learnt.
    info,
    /// Kills and losses of power.
    crashes,
    /// Pauses and partitions.
    other_faults,
    /// Entries that rotted.
    damages,
    /// Of the crashes, those in the middle of a critical step.
    mid_step_crashes,
    /// Of the crashes, those that left some replica in doubt.
    crashes_in_doubt,
    /// Transactions that a replica was in doubt about when the master crashed, summed over replicas
    /// and crashes.
    in_doubt_transactions,
    /// Messages sent.
    messages,
    /// Steps of machines.
    machine_steps,
}
