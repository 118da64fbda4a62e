//! Two-phase commit as two machines that touch nothing: no clock, no randomness, no input or
//! output, no order that depends on a hash. The node drives them in production, the model checker
//! explores them, the simulator shakes them: the same code.
//!
//! # How a write is made
//!
//! A client asks the master to put a value. The [`Coordinator`] gives the write a number, its
//! [`TxnId`], and sends `Prepare` to all N replicas. Each [`Participant`] locks the key, appends
//! PREPARE, and votes yes when that record is *forced*, that is, durable. With all N yes votes the
//! coordinator appends COMMIT to the master's log. The moment when that record is durable is the
//! *commit point*: before it the write has not happened, after it the write cannot be undone. The
//! client is told Ok, and `Decide` goes out behind the answer. A replica that learns the decision
//! appends COMMIT, applies the write and unlocks the key in one step; its acknowledgement waits
//! until that is durable, and with the last acknowledgement the master forgets the transaction.
//!
//! Two forces, then, stand on a write's path, one after the other: PREPARE at all replicas at once,
//! COMMIT at the master.
//!
//! # What is presumed
//!
//! Nothing is written about a transaction that aborts. The master's log names every commit until
//! all replicas have it, so whatever the log does not name is aborted: *presumed abort*
//! (Mohan, Lindsay and Obermarck 1986). That is why a starting master replays its whole log, and
//! makes it durable, before it says a word.
//!
//! # The window of uncertainty
//!
//! Between its yes vote and the decision a participant is *in doubt*. It may not abort, for the
//! master may have committed; it may not commit, for the master may have given up on the votes
//! and told the client Aborted. It keeps the lock, across restarts too, and asks: the master
//! first, then its peers. One that knows the outcome ends the doubt, and so does one that has not
//! voted, by durably refusing to (*cooperative termination*; Bernstein, Hadzilacos and Goodman
//! 1987, chapter 7). If the master is gone and every replica is in doubt, all wait. No protocol
//! of this kind can do better.
//!
//! # What a read may see
//!
//! A get goes to one replica, and is served only if its key is unlocked there. The rule behind it:
//! *a key that is unlocked at a serving replica has there its last decided-committed write.* For
//! that write had the yes vote of this replica, so the key was locked here, durably, before the
//! decision; and only the decision unlocks it. So a get takes effect when it is served, and a
//! write when it is decided.
//!
//! # Numbers that only grow
//!
//! The *epoch* counts the starts of the master. A replica that has promised one obeys no lesser,
//! which fences off whatever an earlier master has left in the network. The *watermark* says below
//! which transaction everything is settled everywhere; every message of the master carries it.
//! Replicas drop what they remember below it, and conclude from it: one that is in doubt about a
//! transaction below the watermark knows that it was aborted, for a commit that it has not
//! acknowledged would have held the watermark back.
//!
//! # Caveats
//!
//! - Writes need every replica. With one down, writes are refused at once and reads go on.
//! - Gets go through the master: with it down, there are none.
//! - The membership is static, and a replica that lost its disk cannot come back empty.
//! - Receivers assume that messages are lost, doubled, reordered and delayed at will, also past a
//!   restart, but not that they are forged.

mod config;
mod coordinator;
pub mod driver;
mod event;
mod message;
mod participant;
mod record;
mod rules;
mod text;
mod types;

pub use config::{CommitMode, Config, Timing};
pub use coordinator::Coordinator;
pub use event::{Effect, Event, HaltKind, TimerId};
pub use message::{AbortReason, Body, Message, NoReason, PeerKnowledge, Reply, Request};
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
        let from = effects.len();
        match self {
            Machine::Coordinator(machine) => machine.step(event, effects),
            Machine::Participant(machine) => machine.step(event, effects),
        }
        let mut new = effects[from..].iter();
        if let Some(end) = new.position(|it| matches!(it, Effect::Halt { .. })) {
            effects.truncate(from + end + 1);
        }
    }

    /// Whether a read of the key would be served here as things stand; never by the master.
    #[must_use]
    pub fn serves(&self, key: &Key) -> bool {
        match self {
            Machine::Coordinator(_) => false,
            Machine::Participant(machine) => machine.serves(key),
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

    /// Counts records from `durable` on, which is durable: a machine then does not differ from
    /// another for having appended more in its life. For drivers that compare machines as states;
    /// such a driver says `Persisted` in the new count.
    pub fn rebase(&mut self, durable: Lsn) {
        match self {
            Machine::Coordinator(machine) => machine.rebase(durable),
            Machine::Participant(machine) => machine.rebase(durable),
        }
    }

    /// The machine as it would be if each replica, with its store, had the slot (and the store id)
    /// that the renaming gives it: the protocol treats all replicas alike, so exploration may take
    /// states for the same that differ in names alone. Gets under way keep their choice, which is
    /// a number of a slot: leave them out, or do not rename.
    #[must_use]
    pub fn renamed(&self, slot: &impl Fn(u8) -> u8, store: &impl Fn(StoreId) -> StoreId) -> Self {
        match self {
            Machine::Coordinator(machine) => Machine::Coordinator(machine.renamed(slot, store)),
            Machine::Participant(machine) => Machine::Participant(machine.renamed(slot, store)),
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
    pub incarnation: u64,
    /// Everything below is settled everywhere.
    pub watermark: TxnId,
    /// Master: every replica is live, so that writes are taken. Replica: a master has fenced this
    /// start of it, so that reads are served.
    pub ready: bool,
    /// Master: the replicas that are live.
    pub live: Vec<Node>,
    /// Transactions without an end. Master: from the first Prepare to the last acknowledgement.
    /// Replica: appended or prepared without a decision, that is, in doubt; their keys are locked.
    pub unsettled: Vec<(TxnId, Key)>,
}
