//! The invariant checker: follows the observations of a run and checks the properties of the
//! protocol after each. Does not look at messages.

use std::{collections::BTreeMap, fmt};

use protocol::{
    AbortReason, CallId, Decision, HaltKind, Key, NoReason, Node, Query, ReadId, Reply, Request,
    Snapshot, TxnId, Version,
};

use super::{
    client_history::ClientHistory,
    observation::Observation,
    property::Property,
    view::{HostView, ReplicaDisks},
};

/// The state that has to be remembered of a run to check its properties.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct InvariantChecker {
    calls: BTreeMap<CallId, CallRecord>,
    txns: BTreeMap<TxnId, TxnRecord>,
    /// The last committed write of each key: its version, and whether it is a put.
    last: BTreeMap<Key, (Version, bool)>,
    /// The queries that the master has sent.
    queries: BTreeMap<ReadId, Query>,
    /// The clients' history, if it is checked.
    history: Option<ClientHistory>,
    /// The properties that were violated, one bit each.
    violated: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CallRecord {
    request: Request,
    txn: Option<TxnId>,
    completion: Option<Completion>,
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Completion {
    Ok,
    Aborted,
    Read,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TxnRecord {
    call: CallId,
    /// The master has decided to commit.
    decided: bool,
    /// A replica has committed it. Set together with `decided`, which is the stronger of the two.
    committed: bool,
    /// A replica has aborted it.
    aborted: bool,
}

impl InvariantChecker {
    /// The checker of a run that has not started. With `history` it also tests the clients' history
    /// for linearizability, which is expensive.
    #[must_use]
    pub fn new(history: bool) -> Self {
        InvariantChecker {
            history: history.then(ClientHistory::default),
            ..InvariantChecker::default()
        }
    }

    /// The properties that were violated.
    #[must_use]
    pub fn violations(&self) -> Vec<Property> {
        Property::ALL.iter().copied().filter(|property| self.is_violated(*property)).collect()
    }

    /// Whether a property was violated.
    #[must_use]
    pub fn is_violated(&self, property: Property) -> bool {
        self.violated & 1 << property as u16 != 0
    }

    /// Records that a property was violated.
    pub fn record_violation(&mut self, property: Property) {
        self.violated |= 1 << property as u16;
    }

    /// Whether no property was violated.
    #[must_use]
    pub fn all_hold(&self) -> bool {
        self.violated == 0
    }

    /// Records a violation unless the property holds.
    fn require(&mut self, property: Property, holds: bool) {
        if !holds {
            self.record_violation(property);
        }
    }

    /// Takes in what was observed at a node. `disks` is the state after it.
    pub fn observe(
        &mut self,
        node: Node,
        observations: &[Observation],
        disks: &impl ReplicaDisks,
        replicas: u8,
    ) {
        for observation in observations {
            match observation {
                Observation::Invoked(call, request) => self.invoked(*call, request),
                Observation::Started(call, txn) => self.started(*call, *txn),
                Observation::Replied(call, reply) => self.replied(*call, reply),
                Observation::Decided(txn) => self.decided(*txn),
                Observation::Published(txn) => {
                    self.decided(*txn);
                    let voted = (1..=replicas).all(|slot| disks.has_vote(slot, *txn));
                    self.require(Property::Ac3, voted);
                }
                Observation::Settled { txn, decision, reversed } => {
                    self.require(Property::Ac2, !reversed);
                    self.settled(*txn, *decision);
                }
                Observation::StaleApply(_) => self.record_violation(Property::MonotonicVersions),
                Observation::Ended(txn) => {
                    let durable = (1..=replicas).all(|slot| disks.has_commit(slot, *txn));
                    self.require(Property::CommitRetention, durable);
                }
                Observation::Served(key, found) => {
                    let version = found.as_ref().map(|(version, _)| *version);
                    let is_last = version == self.last_version(key) || node == Node::Master;
                    self.require(Property::R1, is_last);
                }
                Observation::Asked(read, query) => {
                    self.queries.insert(*read, query.clone());
                }
                Observation::Answered(read, snapshot) => {
                    let is_current = self.is_current(*read, snapshot);
                    self.require(Property::R1, is_current);
                }
                Observation::Halted(HaltKind::Violation, _) | Observation::Panicked(_) => {
                    self.record_violation(Property::MachineInvariants);
                }
                Observation::Halted(..) => {}
            }
        }
    }

    /// Checks the properties of the cluster's current state.
    pub fn check_state<'a>(&mut self, replica: impl Fn(u8) -> &'a HostView, replicas: u8) {
        let current = self.reads_are_current(&replica, replicas);
        self.require(Property::R1, current);
        let durable = self.commits_are_durable(&replica, replicas);
        self.require(Property::Durability, durable);
    }

    /// R1 for one key at one replica. `readable` is the version that a read would return there, if it
    /// would be served.
    pub fn check_read(&mut self, key: &Key, readable: Option<Option<Version>>) {
        let current = readable.is_none_or(|version| version == self.last_version(key));
        self.require(Property::R1, current);
    }

    /// The key that a transaction writes, if it is known.
    #[must_use]
    pub fn key_of(&self, txn: TxnId) -> Option<&Key> {
        match &self.calls.get(&self.txns.get(&txn)?.call)?.request {
            Request::Write(write) => Some(&write.key),
            Request::Get { .. } | Request::Snapshot { .. } => None,
        }
    }

    /// R1 for several keys at once: the snapshot shows the last committed write of each, and all that its range
    /// has up to the end of the page.
    fn is_current(&self, read: ReadId, snapshot: &Snapshot) -> bool {
        match (self.queries.get(&read), snapshot) {
            (Some(Query::Keys(keys)), Snapshot::Keys(found)) => {
                let versions =
                    found.iter().map(|found| found.as_ref().map(|(version, _)| *version));
                keys.iter().map(|key| self.last_version(key)).eq(versions)
            }
            (Some(Query::Range(range)), Snapshot::Page(page)) => {
                let shown = page.entries.iter().map(|(key, version, _)| (key, Some(*version)));
                let covered = |key: &&Key| {
                    range.contains(key) && page.end.as_ref().is_none_or(|end| *key < end)
                };
                let last = self.last.keys().filter(covered);
                let last = last.map(|key| (key, self.last_version(key)));
                last.filter(|(_, version)| version.is_some()).eq(shown)
            }
            _ => false,
        }
    }

    /// R1, in one state.
    pub fn reads_are_current<'a>(
        &self,
        replica: &impl Fn(u8) -> &'a HostView,
        replicas: u8,
    ) -> bool {
        (1..=replicas).all(|slot| {
            let mut readable = replica(slot).readable.iter();
            readable.all(|(key, version)| *version == self.last_version(key))
        })
    }

    /// Durability, in one state.
    pub fn commits_are_durable<'a>(
        &self,
        replica: &impl Fn(u8) -> &'a HostView,
        replicas: u8,
    ) -> bool {
        let mut committed = self.txns.iter().filter(|(_, record)| record.decided);
        committed.all(|(txn, _)| (1..=replicas).all(|slot| replica.has_vote(slot, *txn)))
    }

    /// Whether some transaction was committed.
    #[must_use]
    pub fn saw_commit(&self) -> bool {
        self.txns.values().any(|txn| txn.decided)
    }

    /// Whether some client was told Aborted about a write that had started.
    #[must_use]
    pub fn saw_abort(&self) -> bool {
        let mut calls = self.calls.values();
        calls.any(|call| call.txn.is_some() && call.completion == Some(Completion::Aborted))
    }

    /// Whether the client was told Ok for a transaction.
    #[must_use]
    pub fn acknowledged(&self, txn: TxnId) -> bool {
        self.completion(txn) == Some(Completion::Ok)
    }

    fn completion(&self, txn: TxnId) -> Option<Completion> {
        self.calls.get(&self.txns.get(&txn)?.call)?.completion
    }

    /// The version of the last committed write of a key; `None` if that was a del.
    fn last_version(&self, key: &Key) -> Option<Version> {
        self.last.get(key).filter(|(_, is_put)| *is_put).map(|(version, _)| *version)
    }

    fn invoked(&mut self, call: CallId, request: &Request) {
        let mut request = request.clone();
        if let Request::Get { choice, .. } | Request::Snapshot { choice, .. } = &mut request {
            // The choice of a replica is not part of the operation.
            *choice = 0;
        }
        if let Some(history) = &mut self.history {
            history.invoke(call, &request);
        }
        self.calls.insert(call, CallRecord { request, txn: None, completion: None });
    }

    fn started(&mut self, call: CallId, txn: TxnId) {
        let record = TxnRecord { call, decided: false, committed: false, aborted: false };
        self.txns.insert(txn, record);
        if let Some(call) = self.calls.get_mut(&call) {
            call.txn = Some(txn);
        }
    }

    fn decided(&mut self, txn: TxnId) {
        let Some(record) = self.txns.get_mut(&txn) else {
            // A decision about a transaction that was never started.
            return self.record_violation(Property::MachineInvariants);
        };
        if record.decided {
            return;
        }
        (record.decided, record.committed) = (true, true);
        if let Some(CallRecord { request: Request::Write(write), .. }) =
            self.calls.get(&record.call)
        {
            let last = self.last.entry(write.key.clone()).or_insert((txn, false));
            if last.0 <= txn {
                *last = (txn, write.value.is_some());
            }
        }
        self.check_decision(txn);
    }

    fn settled(&mut self, txn: TxnId, decision: Decision) {
        let Some(record) = self.txns.get_mut(&txn) else { return };
        match decision {
            Decision::Commit => record.committed = true,
            Decision::Abort => record.aborted = true,
        }
        self.check_decision(txn);
    }

    fn replied(&mut self, call: CallId, reply: &Reply) {
        if let Some(holder) = conflicting_txn(reply) {
            self.require(Property::Conflicts, self.completion(holder).is_none());
        }
        let Some(record) = self.calls.get_mut(&call) else { return };
        record.completion = Some(match reply {
            Reply::Committed { .. } => Completion::Ok,
            Reply::Aborted(_) => Completion::Aborted,
            Reply::Value(_) | Reply::Snapshot { .. } | Reply::Unavailable => Completion::Read,
        });
        let txn = record.txn;
        if let Some(history) = &mut self.history {
            let linearizable = history.complete(call, &record.request, reply);
            self.require(Property::Linearizability, linearizable);
        }
        if let Some(txn) = txn {
            self.check_decision(txn);
        }
    }

    /// Compares the decisions about a transaction with each other and with what the client was told.
    fn check_decision(&mut self, txn: TxnId) {
        let TxnRecord { committed, aborted, .. } = self.txns[&txn];
        self.require(Property::Ac1, !(committed && aborted));
        let sound = match self.completion(txn) {
            Some(Completion::Ok) => !aborted,
            Some(Completion::Aborted) => !committed,
            Some(Completion::Read) | None => true,
        };
        self.require(Property::ReplySoundness, sound);
    }
}

/// The transaction that holds the lock, if the reply is a conflict.
fn conflicting_txn(reply: &Reply) -> Option<TxnId> {
    match reply {
        Reply::Aborted(
            AbortReason::Conflict { holder }
            | AbortReason::Refused { reason: NoReason::Locked { holder }, .. },
        ) => Some(*holder),
        _ => None,
    }
}

impl fmt::Display for InvariantChecker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, call) in &self.calls {
            write!(f, "call {number}: {}", call.request)?;
            if let Some(txn) = call.txn {
                write!(f, " as {txn}")?;
                let record = &self.txns[&txn];
                let at_replica = record.committed && !record.decided;
                for (applies, text) in [
                    (record.decided, ", commit decided"),
                    (at_replica, ", committed by a replica"),
                    (record.aborted, ", aborted by a replica"),
                ] {
                    f.write_str(if applies { text } else { "" })?;
                }
            }
            let completion = match call.completion {
                None => "no reply yet",
                Some(Completion::Ok) => "replied Ok",
                Some(Completion::Aborted) => "replied Aborted",
                Some(Completion::Read) => "replied with a value",
            };
            writeln!(f, ", {completion}")?;
        }
        for property in self.violations() {
            writeln!(f, "✗ {property}: {}", property.claim())?;
        }
        Ok(())
    }
}
