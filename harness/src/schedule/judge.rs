//! What must hold of a cluster, judged as it runs: the properties of the protocol by name, and the
//! little that has to be remembered of the past to judge them. Knows facts, never messages.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use system::protocol::{
    CallId, Decision, HaltKind, Key, Node, Record, Reply, Request, Status, TxnId, Value, Version,
};

use super::host::{Fact, Host, conflict};

macro_rules! properties {
    ($($(#[$doc:meta])* $variant:ident = $name:literal : $claim:literal),* $(,)?) => {
        /// What must always hold.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(rename_all = "kebab-case")]
        pub enum Property { $($(#[$doc])* $variant),* }

        impl Property {
            /// Every property.
            pub const ALL: &[Property] = &[$(Property::$variant),*];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Property::$variant => $name),* }
            }

            /// What it claims.
            #[must_use]
            pub fn claim(self) -> &'static str {
                match self { $(Property::$variant => $claim),* }
            }
        }
    };
}

properties! {
    /// AC1.
    Ac1 = "AC1": "all that decide, decide alike",
    /// AC2.
    Ac2 = "AC2": "no decision is reversed",
    /// AC3.
    Ac3 = "AC3": "commit only if all have durably voted yes",
    /// Answers are true.
    ReplySoundness = "reply-soundness": "Ok means committed, Aborted means without effect",
    /// What is committed stays at every replica.
    Durability = "durability": "a committed write is durable at every replica, applied or locked",
    /// R1.
    R1 = "R1": "what can be read is the last committed write",
    /// The master keeps a commit until it is safe to forget.
    Forgetting = "forgetting": "the master forgot a commit, so it is durable at all",
    /// Versions grow.
    Versions = "versions": "the version of a key grows",
    /// Nothing impossible happens.
    NoHalt = "no-halt": "no machine meets an impossible state",
    /// No spurious conflict.
    Conflicts = "conflicts": "a conflict is with a write that is under way",
    /// The history of the clients.
    Linearizability = "linearizability": "the clients' history is linearizable",
    /// AC4 and AC5.
    Settles = "settles": "when all is repaired, nothing stays locked",
}

impl FromStr for Property {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Property::ALL.iter().find(|it| it.name().eq_ignore_ascii_case(text));
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Property::ALL.iter().map(|it| it.name()).collect();
            format!("'{text}' is no property: want one of {}", names.join(", "))
        })
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a judge looks up at a node. Of equal hosts it is equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The process is up.
    pub up: bool,
    /// What the machine says of itself; none if it is down.
    pub status: Option<Status>,
    /// Some records are not durable.
    pub unforced: bool,
    /// The store is the one that the node began with.
    pub intact: bool,
    /// For each key in question, if a read would be served now: the version it would find.
    pub readable: Vec<(Key, Option<Version>)>,
    /// Transactions that are durably prepared here without an outcome.
    prepared: Vec<TxnId>,
    /// Transactions that are durably committed here.
    committed: Vec<TxnId>,
    /// Outcomes below this are durably dropped.
    watermark: TxnId,
    /// Durably: the master's epoch, or the epoch that a replica has promised. What is sent to it in
    /// an earlier one is not obeyed.
    pub barred: u64,
}

impl View {
    /// Looks at a host; which of the keys can be read is found by trying.
    #[must_use]
    pub fn of(host: &Host, keys: &[Key]) -> View {
        let mut view = View {
            up: host.up(),
            status: host.machine().map(system::protocol::Machine::status),
            unforced: host.unforced() > 0,
            intact: host.intact(),
            ..View::default()
        };
        for record in host.store().durable().records() {
            match record {
                Record::Prepare { txn, .. } => view.prepared.push(*txn),
                Record::Commit { txn } => view.committed.push(*txn),
                Record::Watermark { watermark } => view.watermark = *watermark,
                Record::Epoch { epoch, .. } | Record::Promise { epoch } => view.barred = *epoch,
                _ => {}
            }
        }
        if host.node() != Node::Master {
            for key in keys {
                if let Some(found) = host.would_read(key) {
                    view.readable.push((key.clone(), found));
                }
            }
        }
        view
    }

    /// Whether the yes vote for a transaction is durable here, or what came of it.
    fn holds(&self, txn: TxnId) -> bool {
        self.prepared.contains(&txn) || self.has(txn)
    }

    /// Whether a commit is durable here.
    fn has(&self, txn: TxnId) -> bool {
        self.committed.contains(&txn) || (txn < self.watermark && !self.prepared.contains(&txn))
    }

    /// Transactions whose key is locked here, as far as the machine knows.
    pub fn in_doubt(&self) -> impl Iterator<Item = TxnId> {
        self.status.iter().flat_map(|status| status.unsettled.iter().map(|(txn, _)| *txn))
    }
}

/// What a judge needs to know of the replicas' disks. A replica that has lost its store is excused:
/// it says yes.
pub trait Disks {
    /// Whether the yes vote for a transaction is durable at a replica, or what came of it.
    fn holds(&self, slot: u8, txn: TxnId) -> bool;
    /// Whether a commit is durable at a replica.
    fn has(&self, slot: u8, txn: TxnId) -> bool;
}

impl<'a, F: Fn(u8) -> &'a View> Disks for F {
    fn holds(&self, slot: u8, txn: TxnId) -> bool {
        let view = self(slot);
        !view.intact || view.holds(txn)
    }

    fn has(&self, slot: u8, txn: TxnId) -> bool {
        let view = self(slot);
        !view.intact || view.has(txn)
    }
}

/// What is remembered of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Judge {
    /// Calls of clients, by number.
    calls: BTreeMap<CallId, Call>,
    txns: BTreeMap<TxnId, Txn>,
    /// The last decided write of each key: its version, and whether the key lives.
    last: BTreeMap<Key, (Version, bool)>,
    /// The client's history of each key, where it is judged.
    histories: Option<BTreeMap<Key, LinearizabilityTester<CallId, Register>>>,
    /// A bit for each property that was found broken.
    broken: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Call {
    request: Request,
    txn: Option<TxnId>,
    answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Ok,
    Aborted,
    Read,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Txn {
    call: CallId,
    /// The master has decided to commit.
    decided: bool,
    /// A replica has settled it by a commit. Set with `decided`, which outweighs it.
    committed: bool,
    /// A replica has settled it by an abort.
    aborted: bool,
}

impl Judge {
    /// A judge of a run that has not begun; it judges the clients' history too if `histories`,
    /// which is dear.
    #[must_use]
    pub fn new(histories: bool) -> Self {
        Judge { histories: histories.then(BTreeMap::new), ..Judge::default() }
    }

    /// The properties that were found broken.
    #[must_use]
    pub fn broken(&self) -> Vec<Property> {
        Property::ALL.iter().copied().filter(|it| self.broken & 1 << *it as u16 != 0).collect()
    }

    /// Whether a property was found broken.
    #[must_use]
    pub fn found(&self, property: Property) -> bool {
        self.broken & 1 << property as u16 != 0
    }

    /// Takes note that a property is broken.
    pub fn condemn(&mut self, property: Property) {
        self.broken |= 1 << property as u16;
    }

    /// Whether nothing was found broken.
    #[must_use]
    pub fn content(&self) -> bool {
        self.broken == 0
    }

    /// Takes up what happened at a node, given what the replicas' disks held after it.
    pub fn observe(&mut self, node: Node, facts: &[Fact], disks: &impl Disks, replicas: u8) {
        for fact in facts {
            match fact {
                Fact::Asked(call, request) => {
                    let mut request = request.clone();
                    if let Request::Get { choice, .. } = &mut request {
                        // Who was asked is no part of what was asked.
                        *choice = 0;
                    }
                    self.invoke(*call, &request);
                    self.calls.insert(*call, Call { request, txn: None, answer: None });
                }
                Fact::Begun(call, txn) => {
                    let begun =
                        Txn { call: *call, decided: false, committed: false, aborted: false };
                    self.txns.insert(*txn, begun);
                    if let Some(call) = self.calls.get_mut(call) {
                        call.txn = Some(*txn);
                    }
                }
                Fact::Answered(call, reply) => self.answered(*call, reply),
                Fact::Decided(txn) => self.decided(*txn),
                Fact::Published(txn) => {
                    self.decided(*txn);
                    if !(1..=replicas).all(|slot| disks.holds(slot, *txn)) {
                        self.condemn(Property::Ac3);
                    }
                }
                Fact::Settled { txn, decision, reversed } => {
                    if *reversed {
                        self.condemn(Property::Ac2);
                    }
                    if let Some(known) = self.txns.get_mut(txn) {
                        match decision {
                            Decision::Commit => known.committed = true,
                            Decision::Abort => known.aborted = true,
                        }
                        self.weigh(*txn);
                    }
                }
                Fact::Backwards(_) => self.condemn(Property::Versions),
                Fact::Forgot(txn) => {
                    if !(1..=replicas).all(|slot| disks.has(slot, *txn)) {
                        self.condemn(Property::Forgetting);
                    }
                }
                Fact::Served(key, found) => {
                    let version = found.as_ref().map(|(version, _)| *version);
                    if version != self.last(key) && node != Node::Master {
                        self.condemn(Property::R1);
                    }
                }
                Fact::Halted(HaltKind::Violation, _) | Fact::Panicked(_) => {
                    self.condemn(Property::NoHalt);
                }
                Fact::Halted(..) => {}
            }
        }
    }

    /// Judges how the cluster stands.
    pub fn inspect<'a>(&mut self, replica: impl Fn(u8) -> &'a View, replicas: u8) {
        if !self.readable_is_last(&replica, replicas) {
            self.condemn(Property::R1);
        }
        if !self.committed_is_durable(&replica, replicas) {
            self.condemn(Property::Durability);
        }
    }

    /// R1, of one key at one replica: `found` is what a read would find there, if it was served.
    pub fn would_read(&mut self, key: &Key, found: Option<Option<Version>>) {
        if found.is_some_and(|version| version != self.last(key)) {
            self.condemn(Property::R1);
        }
    }

    /// The key that a transaction writes, if it is known.
    #[must_use]
    pub fn key_of(&self, txn: TxnId) -> Option<&Key> {
        match &self.calls.get(&self.txns.get(&txn)?.call)?.request {
            Request::Write(write) => Some(&write.key),
            Request::Get { .. } => None,
        }
    }

    /// R1, of one state.
    pub fn readable_is_last<'a>(&self, replica: &impl Fn(u8) -> &'a View, replicas: u8) -> bool {
        (1..=replicas).all(|slot| {
            replica(slot).readable.iter().all(|(key, version)| *version == self.last(key))
        })
    }

    /// Durability, of one state.
    pub fn committed_is_durable<'a>(
        &self,
        replica: &impl Fn(u8) -> &'a View,
        replicas: u8,
    ) -> bool {
        self.txns.iter().filter(|(_, known)| known.decided).all(|(txn, _)| {
            (1..=replicas).all(|slot| !replica(slot).intact || replica(slot).holds(*txn))
        })
    }

    /// Whether the clients' history is linearizable so far, where that is judged.
    #[must_use]
    pub fn linearizable(&self) -> bool {
        self.histories.iter().flatten().all(|(_, history)| history.is_consistent())
    }

    /// Whether some transaction was committed.
    #[must_use]
    pub fn saw_commit(&self) -> bool {
        self.txns.values().any(|txn| txn.decided)
    }

    /// Whether some client was told that a write which had begun was aborted.
    #[must_use]
    pub fn saw_abort(&self) -> bool {
        self.calls.values().any(|call| call.txn.is_some() && call.answer == Some(Answer::Aborted))
    }

    /// Whether the client was told Ok for a transaction.
    #[must_use]
    pub fn said_ok(&self, txn: TxnId) -> bool {
        self.answer(txn) == Some(Answer::Ok)
    }

    /// How many calls clients have made.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    fn answer(&self, txn: TxnId) -> Option<Answer> {
        self.calls.get(&self.txns.get(&txn)?.call)?.answer
    }

    /// The version of the last decided write of a key, none if that was a del.
    fn last(&self, key: &Key) -> Option<Version> {
        self.last.get(key).filter(|(_, lives)| *lives).map(|(version, _)| *version)
    }

    fn decided(&mut self, txn: TxnId) {
        let Some(known) = self.txns.get_mut(&txn) else {
            // Of a transaction that nobody began.
            return self.condemn(Property::NoHalt);
        };
        if known.decided {
            return;
        }
        (known.decided, known.committed) = (true, true);
        if let Some(Call { request: Request::Write(write), .. }) = self.calls.get(&known.call) {
            let last = self.last.entry(write.key.clone()).or_insert((txn, false));
            if last.0 <= txn {
                *last = (txn, write.value.is_some());
            }
        }
        self.weigh(txn);
    }

    fn answered(&mut self, call: CallId, reply: &Reply) {
        if let Some(holder) = conflict(reply)
            && self.answer(holder).is_some()
        {
            self.condemn(Property::Conflicts);
        }
        let Some(known) = self.calls.get_mut(&call) else { return };
        known.answer = Some(match reply {
            Reply::Committed { .. } => Answer::Ok,
            Reply::Aborted(_) => Answer::Aborted,
            Reply::Value(_) | Reply::Unavailable => Answer::Read,
        });
        let (txn, request) = (known.txn, known.request.clone());
        if let Some(txn) = txn {
            self.weigh(txn);
        }
        self.returned(call, &request, reply);
    }

    /// Compares what was decided about a transaction, and what was said.
    fn weigh(&mut self, txn: TxnId) {
        let known = &self.txns[&txn];
        let (commit, aborted, answer) = (known.committed, known.aborted, self.answer(txn));
        if commit && aborted {
            self.condemn(Property::Ac1);
        }
        match answer {
            Some(Answer::Ok) if aborted => self.condemn(Property::ReplySoundness),
            Some(Answer::Aborted) if commit => self.condemn(Property::ReplySoundness),
            _ => {}
        }
    }

    fn invoke(&mut self, call: CallId, request: &Request) {
        if let Some(histories) = &mut self.histories {
            let (key, op) = register_op(request);
            let history = histories
                .entry(key.clone())
                .or_insert_with(|| LinearizabilityTester::new(Register(None)));
            // Each call is a thread of its own, so that it cannot be invoked out of turn.
            let _ = history.on_invoke(call, op);
        }
    }

    fn returned(&mut self, call: CallId, request: &Request, reply: &Reply) {
        if let Some(histories) = &mut self.histories {
            let (key, _) = register_op(request);
            let ret = match reply {
                Reply::Committed { .. } => Ret::Written,
                Reply::Aborted(_) | Reply::Unavailable => Ret::Nothing,
                Reply::Value(found) => Ret::Found(found.as_ref().map(|(_, value)| value.clone())),
            };
            if let Some(history) = histories.get_mut(key) {
                let _ = history.on_return(call, ret);
                if !history.is_consistent() {
                    self.condemn(Property::Linearizability);
                }
            }
        }
    }
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, call) in &self.calls {
            write!(f, "call {number}: {}", call.request)?;
            if let Some(txn) = call.txn {
                write!(f, " as {txn}")?;
                let known = &self.txns[&txn];
                let said = |what, text| if what { text } else { "" };
                f.write_str(said(known.decided, ", decided to commit"))?;
                let replica = known.committed && !known.decided;
                f.write_str(said(replica, ", committed by a replica"))?;
                f.write_str(said(known.aborted, ", aborted by a replica"))?;
            }
            writeln!(
                f,
                ", {}",
                match call.answer {
                    None => "not answered",
                    Some(Answer::Ok) => "answered Ok",
                    Some(Answer::Aborted) => "answered Aborted",
                    Some(Answer::Read) => "answered with a value",
                }
            )?;
        }
        for property in self.broken() {
            writeln!(f, "✗ {property}: {}", property.claim())?;
        }
        Ok(())
    }
}

/// A key as a register: what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Register(Option<Value>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Op {
    Read,
    Write(Option<Value>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Ret {
    Written,
    /// No effect.
    Nothing,
    Found(Option<Value>),
}

impl SequentialSpec for Register {
    type Op = Op;
    type Ret = Ret;

    fn invoke(&mut self, op: &Op) -> Ret {
        match op {
            Op::Read => Ret::Found(self.0.clone()),
            Op::Write(value) => {
                self.0.clone_from(value);
                Ret::Written
            }
        }
    }

    fn is_valid_step(&mut self, op: &Op, ret: &Ret) -> bool {
        *ret == Ret::Nothing || self.invoke(op) == *ret
    }
}

fn register_op(request: &Request) -> (&Key, Op) {
    match request {
        Request::Write(write) => (&write.key, Op::Write(write.value.clone())),
        Request::Get { key, .. } => (key, Op::Read),
    }
}
