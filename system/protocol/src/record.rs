//! The records that nodes make durable. Recovery sees the records of a surviving prefix, without
//! those that later records made obsolete. The order in which it sees them does not matter.

use serde::{Deserialize, Serialize};

use super::{
    config::{CommitMode, is_zero},
    types::{ClusterId, Key, Node, Nonce, Seen, StoreId, TxnId, Value, Version, Write},
};

/// A durable record of one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// Master: this epoch is taken. Forced before any message of the epoch is sent. The greatest
    /// counts.
    Epoch {
        /// The epoch.
        epoch: u64,
        /// The number of replicas in the cluster; the membership is static.
        replicas: u8,
    },
    /// Both: the node of this role and slot has this store. A node records its own with the first
    /// record of its store. The master's records of all replicas are forced before any `Fence` names
    /// them; a replica's record of the master is forced before its first `FenceOk`. Hence all are
    /// durable before the first `Prepare`.
    Member {
        /// The owner of the store.
        node: Node,
        /// The store's identity.
        store: StoreId,
    },
    /// Both: the identity of the cluster. The master draws it with the first record of its store, or
    /// at its first start after an upgrade. A replica records it with its first `FenceOk`.
    Cluster {
        /// The identity.
        id: ClusterId,
    },
    /// Both: the nonce of the master's start that an epoch counts. The master keeps one for each of
    /// its epochs, appended before EPOCH; a replica before PROMISE.
    Start {
        /// The epoch.
        epoch: u64,
        /// The nonce of the start.
        nonce: Nonce,
    },
    /// Both, logged mode at the master: how many commits this node has decided (master) or applied
    /// (replica). The master appends it before each COMMIT, and so never counts too few; a replica
    /// after, and so never counts too many. The greatest counts.
    Commits {
        /// The number.
        count: u64,
        /// Replica: how many commits were decided, as far as it knows. Others may have applied some
        /// that it has not.
        #[serde(default, skip_serializing_if = "is_zero")]
        decisions: u64,
    },
    /// Master: what a replica's store was known to hold. Lazy: losing it only weakens the detection
    /// of a store that was replaced by an older copy.
    Seen {
        /// The replica.
        slot: u8,
        /// What it had made durable.
        seen: Seen,
    },
    /// Both: the cluster runs in votes mode. Appended with the first records of the store. Without
    /// it the cluster runs in logged mode.
    Votes,
    /// Master, logged mode: the commit point of a transaction. Forced before Ok and any decision is
    /// sent.
    #[serde(alias = "decided")]
    CommitDecision {
        /// The transaction.
        txn: TxnId,
        /// The key that it writes.
        key: Key,
    },
    /// Master: every replica has acknowledged the commit. Lazy; erases `CommitDecision`.
    End {
        /// The transaction.
        txn: TxnId,
    },
    /// Replica: no message of a lower epoch is obeyed. Forced before `FenceOk`. The greatest
    /// counts.
    Promise {
        /// The epoch.
        epoch: u64,
    },
    /// Replica: counts the starts. Forced before anything else is done. The greatest counts.
    #[serde(alias = "boot")]
    Incarnation {
        /// The number of this start, from 1.
        #[serde(alias = "boot")]
        incarnation: u64,
    },
    /// Replica: ready to commit or abort, and the key is locked. Forced before `VoteYes`.
    Prepare {
        /// The transaction.
        txn: TxnId,
        /// The write.
        write: Write,
    },
    /// Replica: the prepared write took effect. Lazy, but durable before it is acknowledged.
    Commit {
        /// The transaction.
        txn: TxnId,
    },
    /// Replica: the transaction has no effect here. Lazy, but durable before it is acknowledged.
    Abort {
        /// The transaction.
        txn: TxnId,
    },
    /// Replica: a promise never to prepare the transaction. Forced before a peer is sent Abort. In
    /// votes mode this is the veto, which overrides PREPARE and is forced before any node is told.
    Refused {
        /// The transaction.
        txn: TxnId,
    },
    /// Replica, votes mode: yes votes on transactions up to this one are final, and no veto
    /// follows. Forced before another node is told. The greatest counts.
    Frozen {
        /// The last transaction whose yes vote is final.
        upto: TxnId,
    },
    /// Replica: every transaction below is finished at every node. Erases `Commit`, `Abort`,
    /// `Refused` (and any remaining `Prepare`) of transactions below. Lazy. The greatest counts.
    #[serde(alias = "floor")]
    Watermark {
        /// The least transaction that is kept.
        #[serde(alias = "floor")]
        watermark: TxnId,
    },
    /// Replica: the damaged entry of a key is replaced by the copy of a peer, which is the write that was
    /// damaged. Forced before the key is served again. Recovery does not see it.
    Heal {
        /// The key.
        key: Key,
        /// The version of the entry.
        version: Version,
        /// The value.
        value: Value,
    },
}

/// The owner of the store according to its records; none if it is empty.
///
/// # Errors
/// The store holds records and none names an owner: no node of a cluster has written it.
pub(super) fn owner(records: &[Record], store: StoreId) -> Result<Option<Node>, String> {
    let own = records.iter().find_map(|record| match record {
        Record::Member { node, store: id } if *id == store => Some(*node),
        _ => None,
    });
    if own.is_none() && !records.is_empty() {
        return Err("this store was not written by a node of a cluster".into());
    }
    Ok(own)
}

/// The nonce of an epoch; 0 if the records do not hold it.
pub(super) fn nonce_of(records: &[Record], epoch: u64) -> Nonce {
    let nonce = records.iter().find_map(|record| match record {
        Record::Start { epoch: of, nonce } if *of == epoch => Some(*nonce),
        _ => None,
    });
    nonce.unwrap_or_default()
}

/// Checks that the cluster of these records uses this commit mode; the error is for the operator. A
/// store that does not name a mode, and has never been started, may still begin with either.
pub(super) fn check_mode(records: &[Record], commit: CommitMode) -> Result<(), String> {
    let votes = records.contains(&Record::Votes);
    let start =
        |record: &Record| matches!(record, Record::Epoch { .. } | Record::Incarnation { .. });
    let recorded = if votes { CommitMode::Votes } else { CommitMode::Logged };
    if recorded == commit || !(votes || records.iter().any(start)) {
        return Ok(());
    }
    Err(format!(
        "the cluster was created with commit = {recorded} and is started with commit = {commit}: \
         the commit mode cannot change"
    ))
}

impl Record {
    /// The name of the record kind, as in crash points and reports.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Record::Epoch { .. } => "epoch",
            Record::Member { .. } => "member",
            Record::Cluster { .. } => "cluster",
            Record::Start { .. } => "start",
            Record::Commits { .. } => "commits",
            Record::Seen { .. } => "seen",
            Record::Votes => "votes",
            Record::CommitDecision { .. } | Record::Commit { .. } => "commit",
            Record::End { .. } => "end",
            Record::Promise { .. } => "promise",
            Record::Incarnation { .. } => "incarnation",
            Record::Prepare { .. } => "prepare",
            Record::Abort { .. } => "abort",
            Record::Refused { .. } => "refused",
            Record::Frozen { .. } => "frozen",
            Record::Watermark { .. } => "watermark",
            Record::Heal { .. } => "heal",
        }
    }
}
