//! What nodes say to each other, and what clients ask and are told.
//! Receivers assume loss, duplication, reordering and unbounded delay; nothing here may assume
//! more of a transport.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    config::CommitMode,
    types::{Decision, Key, Node, ReadId, StoreId, TxnId, Value, Version, Write},
};

/// A message between two nodes, with the facts that every message carries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Message {
    /// The sender's store: a node that lost its directory is not the node that it was.
    pub store: StoreId,
    /// From the master its own epoch, from a replica the epoch that it promised.
    pub epoch: u64,
    /// From the master its watermark: every transaction below it is aborted, or committed and
    /// acknowledged by all. From a replica the greatest watermark that it has heard of.
    #[serde(alias = "floor")]
    pub watermark: TxnId,
    /// What is said.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Master to replica: promise this epoch; and the store that I take you for, if I know you.
    Fence {
        /// The store id recorded for the receiver's slot.
        member: Option<StoreId>,
        /// What makes a commit.
        #[serde(default, skip_serializing_if = "CommitMode::is_logged")]
        commit: CommitMode,
    },
    /// Replica to master: the epoch is promised, durably.
    FenceOk {
        /// Which start of the replica answers.
        #[serde(alias = "boot")]
        incarnation: u64,
        /// Transactions that are prepared here without a decision, and the keys that they lock.
        in_doubt: Vec<(TxnId, Key)>,
    },
    /// Master to replica: vote on this write.
    Prepare {
        /// The transaction.
        txn: TxnId,
        /// What it writes.
        write: Write,
        /// Decisions about this key that the replica may not have heard of; applied first.
        #[serde(alias = "resolves")]
        piggybacked: Vec<(TxnId, Decision)>,
    },
    /// Replica to master: prepared, durably; also an inquiry about the decision.
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
    /// Replica to master: these decisions are recorded here and need not be sent again.
    Ack {
        /// Their outcomes are durable here.
        txns: Vec<TxnId>,
    },
    /// Replica to master: in doubt, what was decided?
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
        /// Decisions about this key that the replica may not have heard of; applied first.
        #[serde(alias = "resolves")]
        piggybacked: Vec<(TxnId, Decision)>,
        /// How long to wait for a locked key.
        wait: Duration,
    },
    /// Replica to master: the answer to a read.
    Value {
        /// The read that is answered.
        read: ReadId,
        /// The last committed write of the key, none if it is absent.
        found: Option<(Version, Value)>,
    },
    /// Replica to master: the key stayed locked.
    Busy {
        /// The read that is answered.
        read: ReadId,
        /// Who holds the lock.
        txn: TxnId,
    },
    /// Replica to master: no handshake since this replica started.
    NotServing {
        /// The read that is answered.
        read: ReadId,
    },
    /// Master to replica: I live.
    Heartbeat,
    /// Replica to master: I live. Sent in answer to a heartbeat, and unasked after a start.
    Alive {
        /// Which start of the replica this is.
        #[serde(alias = "boot")]
        incarnation: u64,
    },
    /// Replica to master: a newer master has fenced you off.
    Stale {
        /// The epoch promised to it.
        promised: u64,
    },
    /// Master to replica, where the votes decide: votes are missing; veto this transaction, unless
    /// your yes is final.
    Veto {
        /// The transaction.
        txn: TxnId,
    },
    /// Replica to replica: in doubt and the master is silent; do you know the outcome? Where the
    /// votes decide also master to replica, about what an earlier master has begun.
    PeerInquire {
        /// The transaction.
        txn: TxnId,
    },
    /// The answer to `PeerInquire`, or to `Veto`. Once true it stays true.
    PeerAnswer {
        /// The transaction.
        txn: TxnId,
        /// What the peer knows.
        answer: PeerKnowledge,
    },
}

/// Why a replica votes no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoReason {
    /// The key is locked by another transaction.
    Locked {
        /// The transaction that holds the lock.
        holder: TxnId,
    },
    /// The transaction is aborted here already.
    Aborted,
}

/// What a replica knows of a transaction that a peer asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerKnowledge {
    /// It is committed.
    Commit,
    /// It is aborted, or can never be prepared here and so never commits.
    Abort,
    /// In doubt as well.
    Uncertain,
    /// In doubt as well, where the votes decide: the yes vote is final, no veto follows it.
    Final,
}

/// What a client asks of the master.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Put a value, or delete the key.
    Write(Write),
    /// Read a key at one replica.
    Get {
        /// What to read.
        key: Key,
        /// A random number: picks the replica. Data, so that the machine stays a function.
        choice: u64,
        /// How long the client waits.
        deadline: Duration,
    },
}

/// What a client is told. No answer at all means that the outcome is indeterminate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The write is committed, durable at every replica.
    Committed {
        /// The transaction, which is the key's version from now on.
        version: Version,
    },
    /// The write took no effect and never will.
    Aborted(AbortReason),
    /// The answer to a get: the last committed write, none if the key is absent.
    Value(Option<(Version, Value)>),
    /// No replica could answer the get in time.
    Unavailable,
}

/// Why a write was aborted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbortReason {
    /// Another write of the key is under way.
    Conflict {
        /// The transaction that was first.
        holder: TxnId,
    },
    /// A replica voted no.
    Refused {
        /// The replica.
        by: Node,
        /// Its reason.
        reason: NoReason,
    },
    /// A replica is not live, or the master has just started and not settled yet what it found;
    /// nothing was sent.
    Unavailable {
        /// The replicas that are not live.
        missing: Vec<Node>,
    },
    /// Votes were missing when the time was up.
    Timeout {
        /// The replicas that had not voted.
        missing: Vec<Node>,
    },
}

impl Body {
    /// The transactions that the message is about: one, or those of an acknowledgement. What only
    /// rides on it (`piggybacked`), or what a handshake tells of, is not among them.
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
            Body::Ack { txns } => txns,
            Body::Fence { .. }
            | Body::FenceOk { .. }
            | Body::Read { .. }
            | Body::Value { .. }
            | Body::NotServing { .. }
            | Body::Heartbeat
            | Body::Alive { .. }
            | Body::Stale { .. } => &[],
        }
    }

    /// The message's name, as crash points and reports use it. The abort decision has a name of
    /// its own: only a commit can be in the window of uncertainty.
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
            Body::Busy { .. } => "busy",
            Body::NotServing { .. } => "not-serving",
            Body::Heartbeat => "heartbeat",
            Body::Alive { .. } => "alive",
            Body::Stale { .. } => "stale",
            Body::Veto { .. } => "veto",
            Body::PeerInquire { .. } => "peer-inquire",
            Body::PeerAnswer { .. } => "peer-answer",
        }
    }
}

impl Request {
    /// The request's name: `put`, `del` or `get`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Request::Write(Write { value: Some(_), .. }) => "put",
            Request::Write(Write { value: None, .. }) => "del",
            Request::Get { .. } => "get",
        }
    }
}

impl Reply {
    /// The answer's name: `ok`, `aborted`, `value` or `unavailable`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Reply::Committed { .. } => "ok",
            Reply::Aborted(_) => "aborted",
            Reply::Value(_) => "value",
            Reply::Unavailable => "unavailable",
        }
    }
}
