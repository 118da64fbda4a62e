//! The messages between nodes, and the requests and replies of clients. Receivers tolerate loss,
//! duplication, reordering and unbounded delay, so no transport has to guarantee more.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    config::{CommitMode, is_zero},
    types::{
        ClusterId, Decision, HealId, Key, Node, Nonce, Query, RangeSummary, ReadId, ScrubId, Seen,
        Snapshot, StoreId, TxnId, Value, Version, Write,
    },
};

/// A message between two nodes, with the fields that every message carries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Message {
    /// The sender's cluster; unknown to a replica that no master has fenced yet.
    #[serde(default, skip_serializing_if = "ClusterId::is_unknown")]
    pub cluster: ClusterId,
    /// The sender's store. A node that lost its directory comes back with a different one.
    pub store: StoreId,
    /// From the master, its own epoch; from a replica, the promised epoch.
    pub epoch: u64,
    /// The nonce of the start of the master that the epoch counts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nonce: Nonce,
    /// From the master, its watermark: every transaction below it is aborted, or committed and
    /// acknowledged by all. From a replica, the greatest watermark that it has received.
    #[serde(alias = "floor")]
    pub watermark: TxnId,
    /// Logged mode: how many commits are decided, durably, as far as the sender knows. The master counts
    /// them; a replica tells the greatest number that it has heard.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub decisions: u64,
    /// The content.
    pub body: Body,
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Master to replica: promise this epoch, if it names the receiver's store. At the beginning of the
    /// cluster it names none, and asks the receiver to make itself known with `Alive`.
    Fence {
        /// The store id that is durably recorded for the receiver's slot.
        member: Option<StoreId>,
        /// What makes a commit.
        #[serde(default, skip_serializing_if = "CommitMode::is_logged")]
        commit: CommitMode,
        /// The stores of all replicas, in the order of the slots; none if they are not recorded yet.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        members: Vec<StoreId>,
        /// The promise that this one supersedes: an epoch and the nonce of its master. A replica
        /// with another promise answers with `Alive`, which names it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        supersedes: Option<(u64, Nonce)>,
        /// What the receiver's store is known to hold. A store that holds less is an older copy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<Seen>,
        /// Logged mode: the number of commits that the master's store has decided. A replica that knows
        /// of more promises nothing, and answers with `Alive`, which says how many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decided: Option<u64>,
    },
    /// Replica to master: the epoch is durably promised.
    FenceOk {
        /// The incarnation of the replica.
        #[serde(alias = "boot")]
        incarnation: u64,
        /// Transactions that are prepared without a decision, and the keys that they lock.
        in_doubt: Vec<(TxnId, Key)>,
        /// The nonce of this start of the replica.
        #[serde(default, skip_serializing_if = "is_zero")]
        start: Nonce,
        /// The number of commits that are durable here.
        #[serde(default, skip_serializing_if = "is_zero")]
        commits: u64,
    },
    /// Master to replica: vote on this write.
    Prepare {
        /// The transaction.
        txn: TxnId,
        /// What it writes.
        write: Write,
        /// Piggybacked decisions about this key, which the replica may not have received; applied
        /// first.
        #[serde(alias = "resolves")]
        piggybacked: Vec<(TxnId, Decision)>,
    },
    /// Replica to master: durably prepared. Also an inquiry about the decision.
    VoteYes {
        /// The transaction.
        txn: TxnId,
    },
    /// Replica to master: not prepared here, and never will be.
    VoteNo {
        /// The transaction.
        txn: TxnId,
        /// Why.
        reason: NoReason,
    },
    /// Master to replica: the decision.
    Decide {
        /// The transaction.
        txn: TxnId,
        /// Its outcome.
        decision: Decision,
    },
    /// Replica to master: these decisions are durable here and need not be sent again.
    Ack {
        /// The transactions whose outcomes are durable.
        txns: Vec<TxnId>,
        /// The number of commits that are durable here.
        #[serde(default, skip_serializing_if = "is_zero")]
        commits: u64,
    },
    /// Replica to master: in doubt, asks for the decision.
    Inquire {
        /// The transaction.
        txn: TxnId,
    },
    /// Master to replica: not decided yet.
    Pending {
        /// The transaction.
        txn: TxnId,
    },
    /// Master to replica: read a key.
    Read {
        /// Echoed in the answer.
        read: ReadId,
        /// What to read.
        key: Key,
        /// Piggybacked decisions about this key, which the replica may not have received; applied
        /// first.
        #[serde(alias = "resolves")]
        piggybacked: Vec<(TxnId, Decision)>,
        /// How long to wait for a locked key.
        wait: Duration,
    },
    /// Replica to master: the answer to a read.
    Value {
        /// The read that is answered.
        read: ReadId,
        /// The last committed write of the key, or none if it is absent.
        found: Option<(Version, Value)>,
    },
    /// Master to replica: read several keys, or a page of a range, as one snapshot.
    Query {
        /// Echoed in the answer.
        read: ReadId,
        /// What to read.
        query: Query,
        /// Piggybacked decisions about these keys, which the replica may not have received; applied
        /// first.
        piggybacked: Vec<(TxnId, Decision)>,
        /// How long to wait while a key is locked.
        wait: Duration,
    },
    /// Replica to master: the answer to a query. The watermark of the message is the snapshot's: every
    /// commit below is in it.
    Snapshot {
        /// The query that is answered.
        read: ReadId,
        /// What was read.
        snapshot: Snapshot,
    },
    /// Replica to master: the key stayed locked.
    Busy {
        /// The read that is answered.
        read: ReadId,
        /// The transaction that holds the lock.
        txn: TxnId,
    },
    /// Replica to master: not serving, because there was no handshake since this replica started.
    NotServing {
        /// The read that is answered.
        read: ReadId,
    },
    /// Master to replica: the master is alive.
    Heartbeat,
    /// Replica to master: the replica is alive. Sent in answer to a heartbeat, in answer to a `Fence`
    /// that names no store, and once after a start.
    Alive {
        /// The incarnation of the replica.
        #[serde(alias = "boot")]
        incarnation: u64,
        /// The nonce of this start of the replica.
        #[serde(default, skip_serializing_if = "is_zero")]
        start: Nonce,
        /// In answer to a `Fence` that names another promise: this replica's promise, an epoch and
        /// the nonce of its master.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        promised: Option<(u64, Nonce)>,
        /// How long its oldest force has been under way; zero if there is none, or not for long.
        #[serde(default, skip_serializing_if = "Duration::is_zero")]
        force_age: Duration,
        /// In answer to a `Fence` of a master that has decided fewer: the number of commits that this
        /// replica knows of. Zero otherwise.
        #[serde(default, skip_serializing_if = "is_zero")]
        applied: u64,
    },
    /// Replica to master: this replica stops, by order. Nobody has to wait for it.
    Leaving {
        /// The incarnation of the replica.
        incarnation: u64,
    },
    /// Replica to master: a newer master has fenced the receiver off.
    Stale {
        /// The promised epoch.
        promised: u64,
    },
    /// Master to replica, votes mode: votes are missing; veto this transaction unless the yes vote
    /// is final.
    Veto {
        /// The transaction.
        txn: TxnId,
    },
    /// Replica to replica: in doubt, and the master does not answer; asks for the outcome. In votes
    /// mode also master to replica, about a transaction of an earlier master.
    PeerInquire {
        /// The transaction.
        txn: TxnId,
    },
    /// The answer to `PeerInquire` or `Veto`. Once true, it stays true.
    PeerAnswer {
        /// The transaction.
        txn: TxnId,
        /// What the replica knows.
        answer: PeerKnowledge,
    },
    /// Replica to replica: the sender's entry of this key is damaged; asks for the receiver's.
    HealRequest {
        /// Echoed in the answer.
        heal: HealId,
        /// The key.
        key: Key,
    },
    /// The answer to `HealRequest`, from a replica at which the key was unlocked: its last committed write
    /// at that moment.
    HealAnswer {
        /// The request that is answered.
        heal: HealId,
        /// The key.
        key: Key,
        /// The last committed write of the key, or none if it is absent.
        found: Option<(Version, Value)>,
    },
    /// Replica to replica, from the scrub: what does the receiver hold in the range of keys that begins
    /// here?
    ScrubRequest {
        /// Echoed in the answer.
        scrub: ScrubId,
        /// The range begins after this key, or with the first one.
        after: Option<Key>,
        /// It ends after this many rows.
        rows_max: u32,
        /// Every transaction below is finished, and contained in the tables of the sender.
        below: TxnId,
    },
    /// The answer to `ScrubRequest`.
    ScrubAnswer {
        /// The request that is answered.
        scrub: ScrubId,
        /// Entries with versions below this one count. Every transaction below is contained in the tables of
        /// both.
        below: TxnId,
        /// What the sender holds. If its last key is locked there, the key has no version.
        summary: RangeSummary,
    },
}

/// The reason for a no vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoReason {
    /// The key is locked by another transaction.
    Locked {
        /// The transaction that holds the lock.
        holder: TxnId,
    },
    /// The transaction is already aborted here.
    Aborted,
    /// The store has no room for the value.
    Full,
}

/// What a replica knows about a transaction when another node inquires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerKnowledge {
    /// It is committed.
    Commit,
    /// It is aborted, or can never be prepared here and so never commits.
    Abort,
    /// In doubt as well.
    Uncertain,
    /// In doubt as well, votes mode: the yes vote is final, and no veto can follow it.
    Final,
}

/// A client's request to the master.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Put a value, or delete the key.
    Write(Write),
    /// Read a key at one replica.
    Get {
        /// What to read.
        key: Key,
        /// A random number that selects the replica. It is part of the request, so that the machine
        /// is deterministic.
        choice: u64,
        /// How long the client waits for the answer.
        deadline: Duration,
    },
    /// Read several keys, or a page of a range, at one replica and at one instant.
    Snapshot {
        /// What to read.
        query: Query,
        /// A random number that selects the replica, as for a get.
        choice: u64,
        /// How long the client waits for the answer.
        deadline: Duration,
    },
}

/// The answer to a client. Without an answer the outcome is indeterminate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The write is committed, and durable at every replica.
    Committed {
        /// The transaction, which is now the key's version.
        version: Version,
    },
    /// The write had no effect and never will.
    Aborted(AbortReason),
    /// The answer to a get: the last committed write, or none if the key is absent.
    Value(Option<(Version, Value)>),
    /// The answer to a snapshot.
    Snapshot {
        /// What was read.
        snapshot: Snapshot,
        /// The watermark of the replica that has answered: every commit below is in the snapshot.
        watermark: TxnId,
    },
    /// No replica could answer the get or the snapshot in time.
    Unavailable,
}

/// Why a write was aborted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbortReason {
    /// Another write of the key is in progress.
    Conflict {
        /// The transaction that holds the key.
        holder: TxnId,
    },
    /// A replica voted no.
    Refused {
        /// The replica.
        by: Node,
        /// The reason of the no vote.
        reason: NoReason,
    },
    /// A replica is not live, or a starting master has not resolved the earlier transactions yet.
    /// Nothing was sent.
    Unavailable {
        /// The replicas that are not live.
        missing: Vec<Node>,
    },
    /// Votes were missing when the vote timeout expired.
    Timeout {
        /// The replicas that had not voted.
        missing: Vec<Node>,
    },
}

impl Body {
    /// The transactions that the message is about: one, or those of an acknowledgement. Does not
    /// include piggybacked decisions, or the transactions that a handshake lists.
    #[must_use]
    pub fn txns(&self) -> &[TxnId] {
        match self {
            Body::Prepare { txn, .. }
            | Body::VoteYes { txn }
            | Body::VoteNo { txn, .. }
            | Body::Decide { txn, .. }
            | Body::Inquire { txn }
            | Body::Pending { txn }
            | Body::Busy { txn, .. }
            | Body::Veto { txn }
            | Body::PeerInquire { txn }
            | Body::PeerAnswer { txn, .. } => std::slice::from_ref(txn),
            Body::Ack { txns, .. } => txns,
            Body::Fence { .. }
            | Body::FenceOk { .. }
            | Body::Read { .. }
            | Body::Value { .. }
            | Body::Query { .. }
            | Body::Snapshot { .. }
            | Body::NotServing { .. }
            | Body::Heartbeat
            | Body::Alive { .. }
            | Body::Leaving { .. }
            | Body::Stale { .. }
            | Body::HealRequest { .. }
            | Body::HealAnswer { .. }
            | Body::ScrubRequest { .. }
            | Body::ScrubAnswer { .. } => &[],
        }
    }

    /// The name of the message kind, as in crash points and reports. An abort decision has a name
    /// of its own, because only a commit can be in the window of uncertainty.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Body::Fence { .. } => "fence",
            Body::FenceOk { .. } => "fence-ok",
            Body::Prepare { .. } => "prepare",
            Body::VoteYes { .. } => "vote-yes",
            Body::VoteNo { .. } => "vote-no",
            Body::Decide { decision: Decision::Commit, .. } => "decide",
            Body::Decide { decision: Decision::Abort, .. } => "decide-abort",
            Body::Ack { .. } => "ack",
            Body::Inquire { .. } => "inquire",
            Body::Pending { .. } => "pending",
            Body::Read { .. } => "read",
            Body::Value { .. } => "value",
            Body::Query { .. } => "query",
            Body::Snapshot { .. } => "snapshot",
            Body::Busy { .. } => "busy",
            Body::NotServing { .. } => "not-serving",
            Body::Heartbeat => "heartbeat",
            Body::Alive { .. } => "alive",
            Body::Leaving { .. } => "leaving",
            Body::Stale { .. } => "stale",
            Body::Veto { .. } => "veto",
            Body::PeerInquire { .. } => "peer-inquire",
            Body::PeerAnswer { .. } => "peer-answer",
            Body::HealRequest { .. } => "heal-request",
            Body::HealAnswer { .. } => "heal-answer",
            Body::ScrubRequest { .. } => "scrub-request",
            Body::ScrubAnswer { .. } => "scrub-answer",
        }
    }
}

impl Request {
    /// The name of the request kind: `put`, `del`, `get`, `read` (of several keys) or `range`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Request::Write(Write { value: Some(_), .. }) => "put",
            Request::Write(Write { value: None, .. }) => "del",
            Request::Get { .. } => "get",
            Request::Snapshot { query: Query::Keys(_), .. } => "read",
            Request::Snapshot { query: Query::Range(_), .. } => "range",
        }
    }
}

impl Reply {
    /// The name of the reply kind: `ok`, `aborted`, `value`, `snapshot` or `unavailable`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Reply::Committed { .. } => "ok",
            Reply::Aborted(_) => "aborted",
            Reply::Value(_) => "value",
            Reply::Snapshot { .. } => "snapshot",
            Reply::Unavailable => "unavailable",
        }
    }
}
