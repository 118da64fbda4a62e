//! Events, the input of a machine, and effects, its output. A machine has no other contact with the
//! outside.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    message::{Message, Reply, Request},
    record::Record,
    types::{
        CallId, HealId, Key, KeyRange, Lsn, Node, Page, RangeSummary, ReadId, ScrubId, TxnId,
        Value, Version,
    },
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
    /// The result of [`Effect::ServeKeys`].
    KeysRead {
        /// The query.
        read: ReadId,
        /// Of each key, its version and value; `None` if it is absent. None at all if together they are
        /// too long for an answer.
        found: Option<Vec<Option<(Version, Value)>>>,
    },
    /// The result of [`Effect::ServePage`].
    PageRead {
        /// The query.
        read: ReadId,
        /// The page. Empty with an end if nothing is before the key where it had to end.
        page: Page,
    },
    /// Whether the store has no room for further values (replica only). From then on, writes that store a
    /// value are refused, or accepted again.
    Room {
        /// There is none.
        full: bool,
    },
    /// A read that was requested with [`Effect::Serve`], [`Effect::ServeKeys`] or [`Effect::ServePage`]
    /// met a damaged entry: what the store holds under its key is not known.
    ReadFailed {
        /// The read.
        read: ReadId,
        /// The key. Earlier versions did not record it, and healed nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Key>,
    },
    /// The store has found that the entry of a key is damaged (replica only).
    Damaged {
        /// The key.
        key: Key,
    },
    /// The result of [`Effect::Copy`]. It does not change the machine.
    Copied {
        /// The replica that has asked.
        to: Node,
        /// The request.
        heal: HealId,
        /// The key.
        key: Key,
        /// Its version and value; `None` if it is absent.
        found: Option<(Version, Value)>,
    },
    /// The tables contain what [`Effect::Checkpoint`] has asked for.
    Checkpointed {
        /// Every record up to this one.
        upto: Lsn,
    },
    /// The result of [`Effect::Summarize`].
    Summarized {
        /// The question.
        scrub: ScrubId,
        /// The replica that asks.
        by: Node,
        /// Entries with versions below this one count.
        below: TxnId,
        /// What this node holds.
        summary: RangeSummary,
    },
    /// The result of [`Effect::Check`].
    Checked {
        /// The key.
        key: Key,
        /// The version that a peer has.
        version: Version,
        /// The version that is here; `None` if the key is absent.
        found: Option<Version>,
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
    /// Read these keys in the store in its current state, all at one instant, and step the machine with
    /// [`Event::KeysRead`] before the next effect, or with [`Event::ReadFailed`] if an entry is damaged
    /// (replica only).
    ServeKeys {
        /// The query to answer.
        read: ReadId,
        /// The keys to read.
        keys: Vec<Key>,
    },
    /// Read a page of a range in the store in its current state, at one instant, and step the machine with
    /// [`Event::PageRead`] before the next effect, or with [`Event::ReadFailed`] if an entry is damaged
    /// (replica only).
    ServePage {
        /// The query to answer.
        read: ReadId,
        /// The range.
        range: KeyRange,
        /// The page ends before this key of the range, whether or not it is in the store.
        before: Option<Key>,
    },
    /// Read the key in the store in its current state for another replica, whose own entry is damaged, and
    /// step the machine with [`Event::Copied`] before the next effect, or with [`Event::Damaged`] if the
    /// entry is damaged here too (replica only).
    Copy {
        /// The replica that has asked.
        to: Node,
        /// The request.
        heal: HealId,
        /// The key to read.
        key: Key,
    },
    /// Have the tables contain every record up to this one, some time soon and in the background. If they do
    /// already, step the machine with [`Event::Checkpointed`] before the next effect (replica only).
    Checkpoint {
        /// The last record.
        upto: Lsn,
    },
    /// Summarize the entries in a range of the tables that no later write has changed, and step the machine
    /// with [`Event::Summarized`] before the next effect (replica only).
    Summarize {
        /// The question.
        scrub: ScrubId,
        /// The replica that asks.
        by: Node,
        /// The range begins after this key, or with the first one.
        after: Option<Key>,
        /// Its last key. Without one it ends where `rows_max` says.
        upto: Option<Key>,
        /// How many rows may be read. The range ends there, unless `upto` says where.
        rows_max: u32,
        /// Entries with versions below this one count.
        below: TxnId,
    },
    /// Read the key in the store in its current state, and step the machine with [`Event::Checked`] before
    /// the next effect, or with [`Event::Damaged`] if the entry is damaged (replica only).
    Check {
        /// The key.
        key: Key,
        /// The version that a peer has.
        version: Version,
    },
    /// Tell the operator that an entry was lost, which no checksum shows: the peers have it (replica only).
    /// The driver counts it with the damaged ones.
    Lost {
        /// The key.
        key: Key,
        /// The version that the peers have.
        version: Version,
        /// The older version that is here; `None` if the key is absent.
        found: Option<Version>,
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
    /// Replica: peers that were asked for the copy of a damaged entry have not answered.
    Heal,
    /// Replica: the next turn of the scrub.
    Scrub,
}
