//! What nodes make durable. A node's recovery sees the records of a surviving prefix, less those
//! that later records made superfluous; the order in which it sees them does not matter.

use serde::{Deserialize, Serialize};

use super::{
    config::CommitMode,
    types::{Key, Node, StoreId, TxnId, Write},
};

/// A durable fact of one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// Master: this epoch is taken. Forced before any message of the epoch. The greatest counts.
    Epoch {
        /// The epoch.
        epoch: u64,
        /// How many replicas the cluster has: the membership is static.
        replicas: u8,
    },
    /// Both: the node of this role and slot has this store. Before the first commit.
    Member {
        /// Whose store.
        node: Node,
        /// The store's identity.
        store: StoreId,
    },
    /// Both: the votes decide what is committed in this cluster. With the first record of the
    /// store; without it the master's log decides.
    Votes,
    /// Master, where its log decides: the commit point of a transaction. Forced before Ok and before any decision is sent.
    Decided {
        /// The transaction.
        txn: TxnId,
        /// The key that it wrote.
        key: Key,
    },
    /// Master: every replica has acknowledged the commit. Lazy; erases `Decided`.
    End {
        /// The transaction.
        txn: TxnId,
    },
    /// Replica: no message of a lesser epoch is obeyed. Forced before `FenceOk`. The greatest
    /// counts.
    Promise {
        /// The epoch.
        epoch: u64,
    },
    /// Replica: counts the starts. Forced before anything else is done. The greatest counts.
    #[serde(alias = "boot")]
    Incarnation {
        /// Which start this is, from 1.
        #[serde(alias = "boot")]
        incarnation: u64,
    },
    /// Replica: ready to commit or abort, and the key is locked. Forced before `VoteYes`.
    Prepare {
        /// The transaction.
        txn: TxnId,
        /// What it writes.
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
    /// Replica: a promise never to prepare the transaction. Forced before a peer is told Abort.
    /// Where the votes decide it is the veto, which outweighs PREPARE, and is forced before
    /// anybody is told of it.
    Refused {
        /// The transaction.
        txn: TxnId,
    },
    /// Replica, where the votes decide: a yes vote on a transaction up to this is final, no veto
    /// follows it. Forced before anybody is told so. The greatest counts.
    Frozen {
        /// The greatest transaction of which it is true.
        upto: TxnId,
    },
    /// Replica: everything below is settled everywhere; erases `Commit`, `Abort`, `Refused` (and
    /// what is left of `Prepare`) of transactions below. Lazy. The greatest counts.
    #[serde(alias = "floor")]
    Watermark {
        /// The least transaction that is kept.
        #[serde(alias = "floor")]
        watermark: TxnId,
    },
}

/// Whose store this is, by its records; none if it is empty.
///
/// # Errors
/// It holds records, and none of them says whose they are: no node of a cluster has written it.
pub(super) fn owner(records: &[Record], store: StoreId) -> Result<Option<Node>, String> {
    let own = records.iter().find_map(|record| match record {
        Record::Member { node, store: id } if *id == store => Some(*node),
        _ => None,
    });
    if own.is_none() && !records.is_empty() {
        return Err("this store has been used by something else than a node of a cluster".into());
    }
    Ok(own)
}

/// Whether the cluster of these records commits in this mode, in words if not. One that has not
/// begun may still begin with either, if it does not say.
pub(super) fn check_mode(records: &[Record], commit: CommitMode) -> Result<(), String> {
    let votes = records.contains(&Record::Votes);
    let begun = |it: &Record| matches!(it, Record::Epoch { .. } | Record::Incarnation { .. });
    let made = if votes { CommitMode::Votes } else { CommitMode::Logged };
    if made == commit || !(votes || records.iter().any(begun)) {
        return Ok(());
    }
    Err(format!(
        "the cluster was made with commit = {made} and is started with commit = {commit}: what \
         makes a commit cannot change"
    ))
}

impl Record {
    /// The record's name, as crash points and reports use it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Record::Epoch { .. } => "epoch",
            Record::Member { .. } => "member",
            Record::Votes => "votes",
            Record::Decided { .. } | Record::Commit { .. } => "commit",
            Record::End { .. } => "end",
            Record::Promise { .. } => "promise",
            Record::Incarnation { .. } => "incarnation",
            Record::Prepare { .. } => "prepare",
            Record::Abort { .. } => "abort",
            Record::Refused { .. } => "refused",
            Record::Frozen { .. } => "frozen",
            Record::Watermark { .. } => "watermark",
        }
    }
}
