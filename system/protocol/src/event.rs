//! Events, the input of a machine, and effects, its output. A machine has no other contact with the
//! outside.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    message::{Message, Reply, Request},
    record::Record,
    types::{CallId, Key, Lsn, Node, ReadId, TxnId, Value, Version},
};

/// An input of a machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A message arrived.
    Message {
        /// The sender.
        from: Node,
        /// The message.
        message: Message,
    },
    /// A client's request arrived (master only).
    Client {
        /// Identifies the call in the reply.
        call: CallId,
        /// The request.
        request: Request,
    },
    /// Every record up to this one is durable.
    Persisted(Lsn),
    /// A timer expired.
    Timer(TimerId),
    /// The oldest force that is not done has been under way for this time; zero if there is none, or not for long.
    /// Reported when it has changed.
    ForceAge(Duration),
    /// The process is about to stop, by order. The machine says so and then takes no more events.
    Leave,
    /// The result of a read that was requested with [`Effect::Serve`]. It does not change the machine.
    ReadResult {
        /// The read.
        read: ReadId,
        /// The version and value of the key; `None` if it is absent.
        found: Option<(Version, Value)>,
    },
    /// Whether the store has no room for further values (replica only). From then on, writes that store a
    /// value are refused, or accepted again.
    Room {
        /// There is none.
        full: bool,
    },
    /// A read that was requested with [`Effect::Serve`] met a damaged entry: what the store holds under
    /// its key is not known. It does not change the machine.
    ReadFailed {
        /// The read.
        read: ReadId,
    },
}

/// An output of a machine: something that the driver must do, in the given order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Append a record; reads see it immediately. It takes the next [`Lsn`] of this incarnation,
    /// counted from 1. It becomes durable with the next force, or without one after a short while.
    Append(Record),
    /// Make every record up to this one durable as soon as possible, then report `Persisted`.
    Force(Lsn),
    /// Send a message.
    Send {
        /// The receiver.
        to: Node,
        /// The message.
        message: Message,
    },
    /// Answer a client (master only).
    Reply {
        /// The call to answer.
        call: CallId,
        /// The answer.
        #[serde(alias = "outcome")]
        reply: Reply,
    },
    /// Read the key in the store in its current state, and step the machine with
    /// [`Event::ReadResult`] before the next effect (replica only). This is the linearization point
    /// of the read.
    Serve {
        /// The read to answer.
        read: ReadId,
        /// The key to read.
        key: Key,
    },
    /// Report `Timer(id)` after this time. Setting a timer again restarts it. Timers are never
    /// cancelled: a machine ignores those that no longer matter.
    SetTimer {
        /// The timer.
        id: TimerId,
        /// The time from now.
        after: Duration,
    },
    /// A message was refused: it is out of bounds, or its sender is not the node that it claims to
    /// be. It has changed nothing. The driver counts refusals.
    Refuse {
        /// The sender, as the message has it.
        from: Node,
        /// The reason, for the operator.
        why: String,
    },
    /// Warn the operator about something that needs attention.
    Warn(String),
    /// Stop the process, after all effects before this one have been performed.
    Halt {
        /// The kind of stop.
        kind: HaltKind,
        /// The reason, for the operator.
        why: String,
    },
}

/// Why a machine stops its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HaltKind {
    /// The configuration or the store must not be used to start this node.
    Refused,
    /// A newer master has taken over.
    Superseded,
    /// A violation of the protocol: a broken rule, or a lost record.
    Violation,
}

/// The timers of both machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimerId {
    /// Master: votes are missing; abort.
    #[serde(alias = "vote")]
    VoteTimeout(TxnId),
    /// Master: retransmit what was not answered, a Prepare without a vote or a decision without an
    /// acknowledgement.
    #[serde(alias = "resend")]
    Retransmit {
        /// The transaction.
        txn: TxnId,
        /// The number of earlier retransmissions, from which the interval follows.
        round: u8,
    },
    /// Master: this attempt of a read was not answered; retry at another replica.
    Attempt(ReadId),
    /// Master: send heartbeats, and count the missed ones.
    Heartbeat,
    /// Replica: in doubt for too long; inquire.
    #[serde(alias = "inquire")]
    InquiryTimeout(TxnId),
    /// Replica: this read has waited for a lock for too long.
    ReadWait(ReadId),
}
