//! What nodes make durable. A node's recovery sees the records of a surviving prefix, less those
//! that later records made superfluous; the order in which it sees them does not matter.

use serde::{Deserialize, Serialize};

use super::types::{Key, Node, StoreId, TxnId, Write};

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
    /// Master: the commit point of a transaction. Forced before Ok and before any decision is sent.
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
    Boot {
        /// Which start this is, from 1.
        boot: u64,
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
    Refused {
        /// The transaction.
        txn: TxnId,
    },
    /// Replica: everything below is settled everywhere; erases `Commit`, `Abort`, `Refused` (and
    /// what is left of `Prepare`) of transactions below. Lazy. The greatest counts.
    Floor {
        /// The least transaction that is kept.
        floor: TxnId,
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

impl Record {
    /// The record's name, as crash points and reports use it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Record::Epoch { .. } => "epoch",
            Record::Member { .. } => "member",
            Record::Decided { .. } | Record::Commit { .. } => "commit",
            Record::End { .. } => "end",
            Record::Promise { .. } => "promise",
            Record::Boot { .. } => "boot",
            Record::Prepare { .. } => "prepare",
            Record::Abort { .. } => "abort",
            Record::Refused { .. } => "refused",
            Record::Floor { .. } => "floor",
        }
    }
}
