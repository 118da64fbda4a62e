//! Two-phase commit as two state machines without input or output: no clock, no randomness, no
//! socket, no file, and no order that depends on a hash. A driver feeds events in and performs the
//! effects that come out. The node drives the machines in production, the model checker explores
//! them, and the simulator tests them at random: the same code each time.
//!
//! # How a write is made
//!
//! A client asks the master to put a value. The [`Coordinator`] assigns the write a number, its
//! [`TxnId`], and sends `Prepare` to all N replicas. Each [`Participant`] locks the key, appends
//! PREPARE, and votes yes once that record is *forced*, that is, durable. With all N yes votes the
//! coordinator appends COMMIT to the master's log. The moment when that record is durable is the
//! *commit point*: before it the write has not happened, after it the write cannot be undone. The
//! client is answered Ok, and `Decide` follows the answer. A replica that learns the decision
//! appends COMMIT, applies the write and unlocks the key in one step. It acknowledges once COMMIT
//! is durable. With the last acknowledgement the master forgets the transaction.
//!
//! A write therefore waits for two forces, one after the other: PREPARE at all replicas in
//! parallel, then COMMIT at the master.
//!
//! # Presumed abort
//!
//! No record is written about a transaction that aborts. The master's log names every commit until
//! all replicas have acknowledged it, so a transaction that the log does not name is aborted:
//! *presumed abort* (Mohan, Lindsay and Obermarck 1986). That is why a starting master replays its
//! whole log, and makes it durable, before it sends anything.
//!
//! # The window of uncertainty
//!
//! Between its yes vote and the decision a participant is *in doubt*. It must not abort, because
//! the master may have committed. It must not commit, because the master may have timed out on the
//! votes and told the client Aborted. It keeps the lock, also across restarts, and inquires: first
//! at the master, then at its peers. A peer that knows the outcome resolves the doubt. So does a
//! peer that has not voted, by durably refusing to (*cooperative termination*; Bernstein,
//! Hadzilacos and Goodman 1987, chapter 7). If the master is down and every replica is in doubt,
//! all of them wait. No protocol of this kind can avoid that.
//!
//! # What a read may see
//!
//! A get goes to one replica, which serves it only if the key is unlocked there. The rule behind
//! it: *at a serving replica, an unlocked key holds its last decided and committed write.* That
//! write needed this replica's yes vote, so the key was locked here, durably, before the decision,
//! and only the decision unlocks it. A get therefore takes effect when it is served, and a write
//! when it is decided.
//!
//! # Epochs and the watermark
//!
//! The *epoch* counts the starts of the master. A replica that has promised an epoch obeys no lower
//! one, which fences off every message that an earlier master left in the network. The *watermark*
//! is a transaction id: every transaction below it is finished at every node. Every message of the
//! master carries it. Replicas drop their records below it, and draw a conclusion from it: a
//! transaction below the watermark that is still in doubt was aborted, because a commit that this
//! replica had not acknowledged would have held the watermark back.
//!
//! # The beginning of a cluster
//!
//! The master first meets all replicas and makes its records of their stores durable. Then it names
//! each replica's store, and only then does the replica promise an epoch. The first write follows the
//! last promise. So the master always recognizes a replica that has lost its store, and such a replica
//! neither votes nor serves, whatever messages of the beginning are still on their way.
//!
//! # Caveats
//!
//! - A write needs every replica. With one down, writes are refused immediately and reads continue.
//! - Gets go through the master: while it is down, there are none.
//! - The membership is static, and a replica that lost its disk cannot rejoin with an empty one.
//! - Receivers tolerate messages that are lost, duplicated, reordered and delayed without bound,
//!   also across restarts. Who knows the identities of the cluster and of its stores can forge
//!   messages: they are secrets only as long as nobody listens.

mod bounds;
mod config;
mod coordinator;
pub mod driver;
mod event;
mod facts;
mod message;
mod mistakes;
mod participant;
mod record;
mod rules;
mod text;
mod types;

use std::time::Duration;

pub use bounds::{EPOCHS_AHEAD_MAX, OutOfBounds, SEQ_MAX, STARTS_MAX, TXNS_AHEAD_MAX};
pub use config::{CommitMode, Config, Timing};
pub use coordinator::Coordinator;
pub use event::{Effect, Event, HaltKind, TimerId};
pub use facts::Facts;
pub use message::{AbortReason, Body, Message, NoReason, PeerKnowledge, Reply, Request};
pub use mistakes::Mistake;
pub use participant::Participant;
pub use record::Record;
pub use rules::{Rule, Rules};
pub use types::{
    Blob, CallId, ClusterId, Decision, HealId, Key, KeyRange, Lsn, Node, Nonce, Page, Query,
    RangeSummary, ReadId, Replicas, ScrubId, Seen, Snapshot, StoreId, TxnId, Value, Version, Write,
};

/// The state machine of a node: the coordinator at the master, the participant at a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Machine {
    /// The master's.
    Coordinator(Coordinator),
    /// A replica's.
    Participant(Participant),
}

impl Machine {
    /// Recovers the machine of `config.node` from the records in its store. This is the only way to
    /// start one.
    ///
    /// # Panics
    /// If there are more replicas than [`Replicas::MAX`].
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

    /// Processes an event and appends the resulting effects to `effects`. A `Halt` is the last of
    /// them.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        let from = effects.len();
        match self {
            Machine::Coordinator(machine) => machine.step(event, effects),
            Machine::Participant(machine) => machine.step(event, effects),
        }
        let mut new = effects[from..].iter();
        if let Some(halt) = new.position(|effect| matches!(effect, Effect::Halt { .. })) {
            effects.truncate(from + halt + 1);
        }
    }

    /// Whether a read of the key would be served in the current state. Always false at the master.
    #[must_use]
    pub fn serves(&self, key: &Key) -> bool {
        match self {
            Machine::Coordinator(_) => false,
            Machine::Participant(machine) => machine.serves(key),
        }
    }

    /// Renumbers records so that the count starts after `durable`, which must be durable. Two
    /// machines that differ only in how many records they have appended then compare equal. For
    /// drivers that compare machines as states; afterwards such a driver reports `Persisted` in the
    /// new numbering.
    pub fn rebase(&mut self, durable: Lsn) {
        match self {
            Machine::Coordinator(machine) => machine.rebase(durable),
            Machine::Participant(machine) => machine.rebase(durable),
        }
    }

    /// The identities that the node knows, which other nodes have to prove: of the cluster, and of
    /// each node's store.
    #[must_use]
    pub fn identities(&self) -> (ClusterId, Vec<(Node, StoreId)>) {
        match self {
            Machine::Coordinator(machine) => machine.identities(),
            Machine::Participant(machine) => machine.identities(),
        }
    }

    /// The machine after a permutation of the replicas: each replica and its store get the slot and
    /// the store id that the functions map them to. The protocol treats all replicas alike, so
    /// exploration may identify states that differ only by a permutation (symmetry reduction). Gets
    /// in progress keep their `choice`, which selects a slot; do not permute states that have any.
    #[must_use]
    pub fn renamed(&self, slot: &impl Fn(u8) -> u8, store: &impl Fn(StoreId) -> StoreId) -> Self {
        match self {
            Machine::Coordinator(machine) => Machine::Coordinator(machine.renamed(slot, store)),
            Machine::Participant(machine) => Machine::Participant(machine.renamed(slot, store)),
        }
    }

    /// The state that monitoring may see.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Machine::Coordinator(machine) => machine.status(),
            Machine::Participant(machine) => machine.status(),
        }
    }
}

/// The state of a node that monitoring may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The node.
    pub node: Node,
    /// Master: its epoch. Replica: the promised epoch.
    pub epoch: u64,
    /// Replica: the number of starts. Master: the same as the epoch.
    pub incarnation: u64,
    /// Every transaction below it is finished at every node.
    pub watermark: TxnId,
    /// Master: every replica is live, and writes are accepted. Replica: a master has fenced this
    /// incarnation, and reads are served.
    pub ready: bool,
    /// Master: the replicas that are live.
    pub live: Vec<Node>,
    /// How long the oldest force of the node has been under way; zero if there is none, or not for long.
    pub force_age: Duration,
    /// Master: the replicas that are not live because a force takes too long there.
    pub stalled: Vec<Node>,
    /// Replica: how often it has compared all of its entries with those of its peers since it was started.
    pub scrubs: u64,
    /// Unfinished transactions. Master: from the first Prepare to the last acknowledgement.
    /// Replica: pending or in doubt, with their keys locked.
    pub unsettled: Vec<(TxnId, Key)>,
}
