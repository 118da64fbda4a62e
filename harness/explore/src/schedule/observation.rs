//! What the invariant checker is told about a step: events of the protocol that its properties are
//! about, derived from a machine's effects and the state of its store.

use std::fmt;

use protocol::{
    AbortReason, Body, CallId, CommitMode, Decision, HaltKind, Key, Query, ReadId, Record, Reply,
    Request, Snapshot, TxnId, Value, Version,
};
use records::Memory;

/// An event that the properties of the protocol are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Observation {
    /// A client's request reached the master.
    Invoked(CallId, Request),
    /// The master started a transaction for a client's write.
    Started(CallId, TxnId),
    /// The master replied to a client.
    Replied(CallId, Reply),
    /// The master told somebody about a commit; where the votes decide, also: a replica commits.
    Published(TxnId),
    /// The master's COMMIT is durable.
    Decided(TxnId),
    /// A replica settled a transaction.
    Settled {
        /// The transaction.
        txn: TxnId,
        /// The decision.
        decision: Decision,
        /// The replica had settled it with the opposite decision.
        reversed: bool,
    },
    /// A replica applied a write over a version that is not older.
    StaleApply(TxnId),
    /// The master appended END: it forgets a commit.
    Ended(TxnId),
    /// A replica served a read.
    Served(Key, Option<(Version, Value)>),
    /// The master sent a query.
    Asked(ReadId, Query),
    /// A replica answered a query, with what it had read at this moment.
    Answered(ReadId, Snapshot),
    /// A machine stopped its process.
    Halted(HaltKind, String),
    /// A machine or a store panicked on a violated invariant.
    Panicked(String),
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Observation::Panicked(message) => write!(f, "panic: {message}"),
            observation => write!(f, "{observation:?}"),
        }
    }
}

/// The commits among records that become durable.
pub(super) fn decided<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<Observation> {
    let decided = records.filter_map(|record| match record {
        Record::CommitDecision { txn, .. } => Some(Observation::Decided(*txn)),
        _ => None,
    });
    decided.collect()
}

/// Observes a record that is about to be appended to this store.
pub(super) fn observe_append(
    record: &Record,
    store: &Memory,
    commit: CommitMode,
    observations: &mut Vec<Observation>,
) {
    let (txn, decision) = match record {
        Record::Commit { txn } => {
            // A replica may have reached the decision without being told.
            if commit == CommitMode::Votes {
                observations.push(Observation::Published(*txn));
            }
            (*txn, Decision::Commit)
        }
        Record::Abort { txn } => (*txn, Decision::Abort),
        Record::End { txn } => return observations.push(Observation::Ended(*txn)),
        _ => return,
    };
    let current = store.current().facts().of_txn(txn);
    let reversed = match current {
        Some(Record::Commit { .. }) => decision == Decision::Abort,
        Some(Record::Abort { .. } | Record::Refused { .. }) => decision == Decision::Commit,
        _ => false,
    };
    observations.push(Observation::Settled { txn, decision, reversed });
    if let Some(Record::Prepare { write, .. }) = current
        && decision == Decision::Commit
        && store.get(&write.key).is_some_and(|(version, _)| *version >= txn)
    {
        observations.push(Observation::StaleApply(txn));
    }
}

/// Observes the commits that a message publishes.
pub(super) fn observe_send(body: &Body, observations: &mut Vec<Observation>) {
    if let Body::Query { read, query, .. } = body {
        observations.push(Observation::Asked(*read, query.clone()));
    }
    let mut publish = |txn: TxnId| {
        let observation = Observation::Published(txn);
        if !observations.contains(&observation) {
            observations.push(observation);
        }
    };
    match body {
        Body::Decide { txn, decision: Decision::Commit } => publish(*txn),
        Body::Snapshot { read, snapshot } => {
            observations.push(Observation::Answered(*read, snapshot.clone()));
        }
        Body::Prepare { piggybacked, .. }
        | Body::Read { piggybacked, .. }
        | Body::Query { piggybacked, .. } => {
            piggybacked
                .iter()
                .filter(|(_, decision)| *decision == Decision::Commit)
                .for_each(|(txn, _)| publish(*txn));
        }
        _ => {}
    }
}

/// Whether a reply rejects a request at once: nothing was done, and nothing is remembered.
#[must_use]
pub fn is_refusal(reply: &Reply) -> bool {
    matches!(
        reply,
        Reply::Aborted(AbortReason::Conflict { .. } | AbortReason::Unavailable { .. })
            | Reply::Unavailable
    )
}
