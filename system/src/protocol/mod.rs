//! Two-phase commit as two machines that touch nothing: the coordinator and the participant.

mod config;
mod coordinator;
mod event;
mod message;
mod participant;
mod record;
mod rules;
mod types;

pub use config::{Config, Timing};
pub use coordinator::Coordinator;
pub use event::{Effect, Event, HaltKind, TimerId};
pub use message::{AbortReason, Body, Message, NoReason, Outcome, PeerKnowledge, Request};
pub use participant::Participant;
pub use record::Record;
pub use rules::{Rule, Rules};
pub use types::{
    Blob, CallId, Decision, Key, Lsn, Node, ReadId, Replicas, StoreId, TxnId, Value, Version, Write,
};

/// The machine of a node: the coordinator at the master, the participant at a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Machine {
    /// The master's.
    Coordinator(Coordinator),
    /// A replica's.
    Participant(Participant),
}

impl Machine {
    /// Starts the machine of `config.node` from what its store kept; nothing else starts one.
    #[must_use]
    pub fn recover(config: Config, records: &[Record]) -> (Self, Vec<Effect>) {
        match config.node {
            Node::Master => {
                let (machine, effects) = Coordinator::recover(config, records);
                (Machine::Coordinator(machine), effects)
            }
            Node::Replica(_) => {
                let (machine, effects) = Participant::recover(config, records);
                (Machine::Participant(machine), effects)
            }
        }
    }

    /// Takes in an event, and adds what is to be done about it to `effects`.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match self {
            Machine::Coordinator(machine) => machine.step(event, effects),
            Machine::Participant(machine) => machine.step(event, effects),
        }
        if let Some(end) = effects.iter().position(|it| matches!(it, Effect::Halt { .. })) {
            effects.truncate(end + 1);
        }
    }

    /// A message of this node, with the facts that go with each: for what the driver sends in the
    /// machine's name, the answer to [`Effect::Serve`].
    #[must_use]
    pub fn message(&self, body: Body) -> Message {
        match self {
            Machine::Coordinator(machine) => machine.message(body),
            Machine::Participant(machine) => machine.message(body),
        }
    }

    /// What an onlooker may know of the machine.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Machine::Coordinator(machine) => machine.status(),
            Machine::Participant(machine) => machine.status(),
        }
    }
}

/// What a node tells onlookers about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which node.
    pub node: Node,
    /// Master: its epoch. Replica: the epoch that it promised.
    pub epoch: u64,
    /// Replica: which start this is. Master: the same as the epoch.
    pub boot: u64,
    /// Everything below is settled everywhere.
    pub floor: TxnId,
    /// Master: every replica is live, so that writes are taken. Replica: a master has fenced this
    /// start of it, so that reads are served.
    pub ready: bool,
    /// Master: the replicas that are live.
    pub live: Vec<Node>,
    /// Transactions without an end. Master: from the first Prepare to the last acknowledgement.
    /// Replica: appended or prepared without a decision, that is, in doubt; their keys are locked.
    pub unsettled: Vec<(TxnId, Key)>,
}
