//! What happens to a machine, and what a machine wants done: the whole of its contact with the
//! world.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    message::{Message, Reply, Request},
    record::Record,
    types::{CallId, Key, Lsn, Node, ReadId, TxnId, Value, Version},
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A message arrived.
    Message {
        /// Who sent it.
        from: Node,
        /// What it says.
        message: Message,
    },
    /// A client asks (master only).
    Client {
        /// Names the call in the reply.
        call: CallId,
        /// What is asked.
        request: Request,
    },
    /// Every record appended up to this one is durable.
    Persisted(Lsn),
    /// A timer that was set has run out.
    Timer(TimerId),
    /// The result of a read that was requested with [`Effect::Serve`]. It does not change the machine.
    ReadResult {
        /// The read.
        read: ReadId,
        /// The version and value of the key; `None` if it is absent.
        found: Option<(Version, Value)>,
    },
}

/// Something to do, in the order in which the machine says it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Append a record; reads see it at once. It takes the next [`Lsn`] of this incarnation,
    /// counted from 1, and becomes durable with the next force, or after a while without one.
    Append(Record),
    /// Make every record up to this one durable as soon as possible, then say `Persisted`.
    Force(Lsn),
    /// Send a message.
    Send {
        /// To whom.
        to: Node,
        /// What.
        message: Message,
    },
    /// Answer a client (master only).
    Reply {
        /// The call that is answered.
        call: CallId,
        /// The answer.
        #[serde(alias = "outcome")]
        reply: Reply,
    },
    /// Read the key in the store as it stands now, and say [`Event::ReadResult`] before the next
    /// effect (replica only). This is the read's linearization point.
    Serve {
        /// The read to answer.
        read: ReadId,
        /// What to read.
        key: Key,
    },
    /// Say `Timer(id)` after this time. Setting a timer again starts it anew. Timers are never
    /// cancelled: a machine ignores those that no longer concern it.
    SetTimer {
        /// The timer.
        id: TimerId,
        /// The time from now.
        after: Duration,
    },
    /// Tell the operator something that needs a person.
    Warn(String),
    /// Stop the process, having performed all effects before this one.
    Halt {
        /// What kind of end this is.
        kind: HaltKind,
        /// In words.
        why: String,
    },
}

/// Why a machine stops its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HaltKind {
    /// The configuration or the directory is not one to start with.
    Refused,
    /// A newer master has taken over.
    Superseded,
    /// Something happened that the protocol rules out: a broken rule, a lost record.
    Violation,
}

/// The timers of both machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimerId {
    /// Master: votes are missing; abort.
    #[serde(alias = "vote")]
    VoteTimeout(TxnId),
    /// Master: repeat what was not answered: a Prepare without a vote, a decision without an
    /// acknowledgement.
    #[serde(alias = "resend")]
    Retransmit {
        /// The transaction.
        txn: TxnId,
        /// How often it was repeated before: the waits grow with it.
        round: u8,
    },
    /// Master: this attempt of a read was not answered; try another replica.
    Attempt(ReadId),
    /// Master: send heartbeats, count the silent.
    Heartbeat,
    /// Replica: in doubt for too long; ask.
    #[serde(alias = "inquire")]
    InquiryTimeout(TxnId),
    /// Replica: this read has waited long enough for a lock.
    ReadWait(ReadId),
}
