//! One node of a cluster without time: its store, its process if it is up, and what each event
//! makes of them. The only place outside production that performs a machine's effects.

use std::{
    cell::Cell,
    collections::BTreeSet,
    fmt,
    hash::{Hash, Hasher},
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

use system::{
    protocol::{
        AbortReason, Body, CallId, CommitMode, Config, Decision, Effect, Event, HaltKind, Key, Lsn,
        Machine, Message, NoReason, Node, PeerKnowledge, Record, Reply, Request, Rule, StoreId,
        TimerId, TxnId, Value, Version,
    },
    store::Memory,
};

use super::ScheduleSetup;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    node: Node,
    /// The identity of the store; a wiped node has another.
    store_id: StoreId,
    store: Memory,
    process: Option<Process>,
    /// The process ended of itself, which no restart mends.
    stopped: bool,
    /// A second process, which believes that the store is its own.
    second_instance: Option<(Process, Memory)>,
}

/// A process that is up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    machine: Machine,
    /// The timers that are set; a schedule says when each runs out.
    timers: BTreeSet<TimerId>,
}

/// What a step brought about that the world can see, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Messages that were sent, from this node.
    pub sent: Vec<(Node, Message)>,
    /// What matters to a judge.
    pub facts: Vec<Fact>,
    /// Everything that the machine wanted, as it wanted it.
    pub effects: Vec<Effect>,
}

/// Something that a judge has to know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// A client asked.
    Asked(CallId, Request),
    /// The master began to work on a client's write.
    Begun(CallId, TxnId),
    /// A client was answered.
    Answered(CallId, Reply),
    /// The master told somebody of a commit; where the votes decide also: a replica commits.
    Published(TxnId),
    /// The master's COMMIT is durable.
    Decided(TxnId),
    /// A replica settled a transaction, and whether against what it had settled before.
    Settled {
        /// Which transaction.
        txn: TxnId,
        /// How.
        decision: Decision,
        /// It had settled it the other way.
        reversed: bool,
    },
    /// A replica applied a write over one that is not older.
    Backwards(TxnId),
    /// The master let go of a commit.
    Forgot(TxnId),
    /// A replica read a key for a client.
    Served(Key, Option<(Version, Value)>),
    /// A machine stopped its process.
    Halted(HaltKind, String),
    /// A machine or a store met an impossible state.
    Panicked(String),
}

/// Whether a process of the node can do this at all.
pub(super) type Possible<T> = Option<T>;

impl Host {
    /// A node with an empty store that is allowed to begin, its process started.
    #[must_use]
    pub fn fresh(setup: &ScheduleSetup, node: Node) -> (Self, Outcome) {
        let store_id = first_store(node);
        let mut host = Host {
            node,
            store_id,
            store: Memory::new(),
            process: None,
            stopped: false,
            second_instance: None,
        };
        let outcome = host.restart(setup).expect("it is not running yet");
        (host, outcome)
    }

    /// Which node.
    #[must_use]
    pub fn node(&self) -> Node {
        self.node
    }

    /// Whether the process is up.
    #[must_use]
    pub fn up(&self) -> bool {
        self.process.is_some()
    }

    /// Whether the process ended of itself.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Whether a second instance is up.
    #[must_use]
    pub fn has_second_instance(&self) -> bool {
        self.second_instance.is_some()
    }

    /// Whether the node still has the store that it began with.
    #[must_use]
    pub fn intact(&self) -> bool {
        self.store_id == first_store(self.node)
    }

    /// The machine, while the process is up.
    #[must_use]
    pub fn machine(&self) -> Option<&Machine> {
        self.process.as_ref().map(|process| &process.machine)
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Memory {
        &self.store
    }

    /// The timers that are set at the process or its second instance.
    pub fn timers(&self, second_instance: bool) -> impl Iterator<Item = TimerId> {
        let process = if second_instance {
            self.second_instance.as_ref().map(|it| &it.0)
        } else {
            self.process.as_ref()
        };
        process.into_iter().flat_map(|process| process.timers.iter().copied())
    }

    /// How many records are not durable.
    #[must_use]
    pub fn unforced(&self) -> usize {
        let (inherited, own) = self.store.tail();
        inherited.len() + own.len()
    }

    /// Whether the process acts: it is up, and what it says first at a start is durable.
    #[must_use]
    pub fn acts(&self) -> bool {
        let first =
            |record: &Record| matches!(record, Record::Epoch { .. } | Record::Incarnation { .. });
        self.up() && !self.store.tail().1.iter().any(first)
    }

    /// Up to how many records the process, or its second instance, has appended since the last force.
    #[must_use]
    pub fn forceable(&self, second_instance: bool) -> Lsn {
        let store = if second_instance {
            self.second_instance.as_ref().map(|it| &it.1)
        } else {
            Some(&self.store)
        };
        store.map_or(0, |store| store.last() - store.synced())
    }

    /// Hashes the host as it would be if each replica had the slot that the renaming gives it.
    pub fn hash_renamed(&self, renaming: &[u8], hasher: &mut impl Hasher) {
        let slot = |slot: u8| renaming[usize::from(slot) - 1];
        let store = |id| rename_store(renaming, id);
        let node = |node| match node {
            Node::Master => node,
            Node::Replica(old) => Node::Replica(slot(old)),
        };
        let record = |record: &Record| match record {
            Record::Member { node: whose, store: id } => {
                Record::Member { node: node(*whose), store: store(*id) }
            }
            record => record.clone(),
        };
        (node(self.node), store(self.store_id), self.stopped).hash(hasher);
        let mut hash_process = |process: Option<&Process>, kept: &Memory| {
            if let Some(Process { machine, timers }) = process {
                machine.renamed(&slot, &store).hash(hasher);
                timers.hash(hasher);
            }
            let mut durable: Vec<_> = kept.durable().records().map(record).collect();
            durable.sort_unstable();
            durable.hash(hasher);
            kept.durable().entries().for_each(|entry| entry.hash(hasher));
            let (inherited, own) = kept.tail();
            inherited.iter().map(record).collect::<Vec<_>>().hash(hasher);
            own.iter().map(record).collect::<Vec<_>>().hash(hasher);
        };
        hash_process(self.process.as_ref(), &self.store);
        if let Some((process, kept)) = &self.second_instance {
            hash_process(Some(process), kept);
        }
    }

    /// The last position of the process, or its second instance, that is durable.
    #[must_use]
    pub fn position(&self, second_instance: bool) -> Lsn {
        match &self.second_instance {
            Some((_, store)) if second_instance => store.synced(),
            _ => self.store.synced(),
        }
    }

    /// What the process is told about itself when it starts.
    #[must_use]
    pub fn config(&self, setup: &ScheduleSetup) -> Config {
        setup.config(self.node, self.store_id)
    }

    // ---- Steps ----

    /// A message arrives.
    pub fn receive(
        &mut self,
        setup: &ScheduleSetup,
        from: Node,
        message: &Message,
        second_instance: bool,
    ) -> Possible<Outcome> {
        self.step(setup, Event::Message { from, message: message.clone() }, second_instance)
    }

    /// A client asks.
    pub fn ask(
        &mut self,
        setup: &ScheduleSetup,
        call: CallId,
        request: &Request,
    ) -> Possible<Outcome> {
        let event = Event::Client { call, request: request.clone() };
        let mut outcome = self.step(setup, event, false)?;
        let begun = outcome.sent.iter().find_map(|(_, message)| match (&message.body, request) {
            (Body::Prepare { txn, .. }, Request::Write(_)) => Some(*txn),
            _ => None,
        });
        if let Some(txn) = begun {
            outcome.facts.insert(0, Fact::Begun(call, txn));
        }
        outcome.facts.insert(0, Fact::Asked(call, request.clone()));
        Some(outcome)
    }

    /// The first `upto` records since the last force become durable, and what was inherited with
    /// them.
    pub fn force(
        &mut self,
        setup: &ScheduleSetup,
        upto: Lsn,
        second_instance: bool,
    ) -> Possible<Outcome> {
        if upto == 0 || upto > self.forceable(second_instance) {
            return None;
        }
        let store =
            if second_instance { &mut self.second_instance.as_mut()?.1 } else { &mut self.store };
        let (inherited, own) = store.tail();
        let settled = inherited.len() + usize::try_from(upto).ok()?;
        let decided = decisions(inherited.iter().chain(own).take(settled));
        let lsn = store.synced() + upto;
        let mut facts = Vec::new();
        if let Err(why) = quietly(|| store.sync_up_to(lsn)) {
            facts.push(Fact::Panicked(why));
            return Some(Outcome { facts, ..Outcome::default() });
        }
        facts.extend(decided);
        if setup.bare {
            store.rebase();
        }
        let mut outcome = self.step(setup, Event::Persisted(lsn), second_instance)?;
        if setup.bare {
            let process = if second_instance {
                self.second_instance.as_mut().map(|it| &mut it.0)
            } else {
                self.process.as_mut()
            };
            if let Some(process) = process {
                process.machine.rebase(lsn);
            }
        }
        outcome.facts.splice(0..0, facts);
        Some(outcome)
    }

    /// A timer runs out.
    pub fn timer(
        &mut self,
        setup: &ScheduleSetup,
        id: TimerId,
        second_instance: bool,
    ) -> Possible<Outcome> {
        let process = if second_instance {
            &mut self.second_instance.as_mut()?.0
        } else {
            self.process.as_mut()?
        };
        if !process.timers.remove(&id) {
            return None;
        }
        self.step(setup, Event::Timer(id), second_instance)
    }

    /// The process ends by SIGKILL; of the records that are not durable the first `keep` stay with
    /// the operating system.
    pub fn kill(&mut self, keep: usize) -> Possible<Outcome> {
        if self.process.is_none() || keep > self.unforced() {
            return None;
        }
        let inherited = self.store.tail().0.len();
        if keep < inherited {
            // What the last crash left is with the operating system already.
            return None;
        }
        self.store.write_up_to(self.store.synced() + (keep - inherited) as Lsn);
        self.store.kill();
        self.process = None;
        self.second_instance = None;
        Some(Outcome::default())
    }

    /// The power fails: of the records that are not durable the first `keep` survive.
    pub fn power_loss(&mut self, keep: usize) -> Possible<Outcome> {
        if self.process.is_none() || keep > self.unforced() {
            return None;
        }
        self.store.write_up_to(self.store.last());
        let (inherited, own) = self.store.tail();
        let facts = decisions(inherited.iter().chain(own).take(keep));
        let kept = quietly(|| self.store.power_loss(keep));
        self.process = None;
        self.second_instance = None;
        Some(Outcome { facts, ..Outcome::default() }.and(kept))
    }

    /// The process starts on what the store kept.
    pub fn restart(&mut self, setup: &ScheduleSetup) -> Possible<Outcome> {
        if self.process.is_some() {
            return None;
        }
        let started = quietly(|| {
            let records = self.store.records();
            Machine::recover(setup.config(self.node, self.store_id), &records)
        });
        let (machine, effects) = match started {
            Ok(started) => started,
            Err(why) => return Some(Outcome::default().and::<()>(Err(why))),
        };
        self.process = Some(Process { machine, timers: BTreeSet::new() });
        self.stopped = false;
        let mut outcome = Outcome { effects, ..Outcome::default() };
        self.perform(setup, &mut outcome, false);
        Some(outcome)
    }

    /// A second process starts on the store of the first, as far as that is written.
    pub fn start_second_instance(&mut self, setup: &ScheduleSetup) -> Possible<Outcome> {
        if self.second_instance.is_some()
            || self.process.is_none()
            || setup.rules.keep(Rule::ExclusiveStore)
        {
            return None;
        }
        let mut store = self.store.clone();
        store.write_up_to(store.last());
        store.kill();
        let records = store.records();
        let (machine, effects) = Machine::recover(setup.config(self.node, self.store_id), &records);
        self.second_instance = Some((Process { machine, timers: BTreeSet::new() }, store));
        let mut outcome = Outcome { effects, ..Outcome::default() };
        self.perform(setup, &mut outcome, true);
        Some(outcome)
    }

    /// The process ends, and its store is replaced by an empty one that has another identity.
    pub fn wipe(&mut self) -> Possible<Outcome> {
        self.store_id = StoreId(self.store_id.0 + WIPED);
        self.store = Memory::new();
        self.process = None;
        self.stopped = false;
        self.second_instance = None;
        Some(Outcome::default())
    }

    // ---- What a machine wants done ----

    fn step(
        &mut self,
        setup: &ScheduleSetup,
        event: Event,
        second_instance: bool,
    ) -> Possible<Outcome> {
        let process = if second_instance {
            &mut self.second_instance.as_mut()?.0
        } else {
            self.process.as_mut()?
        };
        let mut outcome = Outcome::default();
        let done = quietly(|| process.machine.step(event, &mut outcome.effects));
        if done.is_ok() {
            self.perform(setup, &mut outcome, second_instance);
        }
        Some(outcome.and(done))
    }

    fn perform(&mut self, setup: &ScheduleSetup, outcome: &mut Outcome, second_instance: bool) {
        let done = quietly(|| self.perform_all(setup, outcome, second_instance));
        if let Err(why) = done {
            outcome.facts.push(Fact::Panicked(why));
        }
    }

    fn perform_all(&mut self, setup: &ScheduleSetup, outcome: &mut Outcome, second_instance: bool) {
        let Outcome { sent, facts, effects } = outcome;
        let (process, store) = match &mut self.second_instance {
            Some((process, store)) if second_instance => (process, store),
            _ => (self.process.as_mut().expect("it has just stepped"), &mut self.store),
        };
        let mut halted = false;
        for effect in effects.iter() {
            match effect {
                Effect::Append(record) => {
                    note_record(record, store, setup.commit, facts);
                    store.append(record.clone());
                }
                Effect::Force(_) | Effect::Warn(_) => {}
                Effect::Send { to, message } => {
                    note_sent(&message.body, facts);
                    setup.send(self.node, *to, message.clone(), sent);
                }
                Effect::Reply { call, reply } => {
                    if let Reply::Committed { version } = reply {
                        facts.push(Fact::Published(*version));
                    }
                    facts.push(Fact::Answered(*call, reply.clone()));
                }
                Effect::Serve { read, key } => {
                    let found = store.get(key).cloned();
                    facts.push(Fact::Served(key.clone(), found.clone()));
                    let message = process.machine.message(Body::Value { read: *read, found });
                    setup.send(self.node, Node::Master, message, sent);
                }
                Effect::SetTimer { id, .. } => {
                    process.timers.insert(if setup.bare { first_round(*id) } else { *id });
                }
                Effect::Halt { kind, why } => {
                    halted = true;
                    facts.push(Fact::Halted(*kind, why.clone()));
                }
            }
        }
        if setup.bare {
            forget_idle_timers(process);
        }
        if halted {
            if second_instance {
                self.second_instance = None;
            } else {
                store.write_up_to(store.last());
                store.kill();
                self.process = None;
                self.stopped = true;
            }
        }
    }
}

impl Outcome {
    /// With what went wrong, if something did.
    fn and<T>(mut self, done: Result<T, String>) -> Self {
        if let Err(why) = done {
            self.facts.push(Fact::Panicked(why));
        }
        self
    }
}

/// What becomes a node's store id when its store is replaced: this much is added.
const WIPED: u64 = 1 << 8;

/// A store id, when each replica has the slot that the renaming gives it.
pub(crate) fn rename_store(renaming: &[u8], StoreId(id): StoreId) -> StoreId {
    let (slot, wiped) = (id % WIPED, id - id % WIPED);
    let slot = usize::try_from(slot).ok().and_then(|slot| slot.checked_sub(1));
    match slot.and_then(|slot| renaming.get(slot)) {
        Some(new) => StoreId(wiped + u64::from(*new)),
        None => StoreId(id),
    }
}

/// The identity of the store that a node begins with.
fn first_store(node: Node) -> StoreId {
    StoreId(match node {
        Node::Master => 0,
        Node::Replica(slot) => slot.into(),
    })
}

impl ScheduleSetup {
    /// What a machine is told about itself.
    fn config(&self, node: Node, store: StoreId) -> Config {
        Config {
            node,
            replicas: self.replicas,
            store,
            bootstrap: true,
            commit: self.commit,
            rules: self.rules,
            timing: self.timing.clone(),
        }
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + use<> {
        std::iter::once(Node::Master).chain((1..=self.replicas).map(Node::Replica))
    }

    /// Sends a message. A *bare* setup, which compares states, leaves out what no receiver acts
    /// on, so that messages differ only where it matters: a replica's watermark, and its epoch but in
    /// a handshake (an epoch above the master's own can only come of a second instance); answers that change
    /// nothing; and it sends each acknowledgement for itself.
    fn send(&self, from: Node, to: Node, mut message: Message, sent: &mut Vec<(Node, Message)>) {
        let asks = matches!(message.body, Body::PeerInquire { .. });
        if !self.peers && asks && from != Node::Master {
            return;
        }
        if !self.bare {
            sent.push((to, message));
            return;
        }
        let second_instances = !self.rules.keep(Rule::ExclusiveStore);
        match &message.body {
            // An inquiry is a yes vote that wants an answer, and the answer "pending" changes
            // nothing where nobody counts.
            Body::Inquire { txn } if self.timing.peer_inquiry_after == 0 => {
                message.body = Body::VoteYes { txn: *txn };
            }
            Body::Pending { .. } if self.timing.peer_inquiry_after == 0 => return,
            Body::PeerAnswer { answer: PeerKnowledge::Uncertain, .. }
                if self.rules.keep(Rule::NoGuessInDoubt) =>
            {
                return;
            }
            Body::Stale { .. } if !second_instances => return,
            _ => {}
        }
        if from != Node::Master {
            let handshake = matches!(message.body, Body::FenceOk { .. });
            if !handshake || self.commit.is_logged() {
                message.watermark = TxnId::default();
            }
            if !handshake && (to != Node::Master || !second_instances) {
                message.epoch = 0;
            }
        }
        if let Body::Ack { txns } = &message.body
            && txns.len() > 1
        {
            for txn in txns {
                let body = Body::Ack { txns: vec![*txn] };
                sent.push((to, Message { body, ..message.clone() }));
            }
            return;
        }
        sent.push((to, message));
    }
}

/// A timer whose number of repeats does not count: it only sets the wait.
fn first_round(id: TimerId) -> TimerId {
    match id {
        TimerId::Retransmit { txn, .. } => TimerId::Retransmit { txn, round: 0 },
        id => id,
    }
}

/// Takes out the timers that would do nothing if they ran out now: they are as good as run out.
fn forget_idle_timers(process: &mut Process) {
    let Process { machine, timers } = process;
    timers.retain(|id| {
        let mut after = machine.clone();
        let mut effects = Vec::new();
        let done = quietly(|| after.step(Event::Timer(*id), &mut effects));
        done.is_err() || !effects.is_empty() || after != *machine
    });
}

fn decisions<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<Fact> {
    let decided = records.filter_map(|record| match record {
        Record::CommitDecision { txn, .. } => Some(Fact::Decided(*txn)),
        _ => None,
    });
    decided.collect()
}

fn note_record(record: &Record, store: &Memory, commit: CommitMode, facts: &mut Vec<Fact>) {
    let (txn, decision) = match record {
        Record::Commit { txn } => {
            // Nobody need have told it.
            if commit == CommitMode::Votes {
                facts.push(Fact::Published(*txn));
            }
            (*txn, Decision::Commit)
        }
        Record::Abort { txn } => (*txn, Decision::Abort),
        Record::End { txn } => return facts.push(Fact::Forgot(*txn)),
        _ => return,
    };
    let held = store.current().facts().of_txn(txn);
    let reversed = match held {
        Some(Record::Commit { .. }) => decision == Decision::Abort,
        Some(Record::Abort { .. } | Record::Refused { .. }) => decision == Decision::Commit,
        _ => false,
    };
    facts.push(Fact::Settled { txn, decision, reversed });
    if let Some(Record::Prepare { write, .. }) = held
        && decision == Decision::Commit
        && store.get(&write.key).is_some_and(|(version, _)| *version >= txn)
    {
        facts.push(Fact::Backwards(txn));
    }
}

fn note_sent(body: &Body, facts: &mut Vec<Fact>) {
    let mut publish = |txn: TxnId| {
        let fact = Fact::Published(txn);
        if !facts.contains(&fact) {
            facts.push(fact);
        }
    };
    match body {
        Body::Decide { txn, decision: Decision::Commit } => publish(*txn),
        Body::Prepare { piggybacked, .. } | Body::Read { piggybacked, .. } => {
            piggybacked
                .iter()
                .filter(|(_, decision)| *decision == Decision::Commit)
                .for_each(|(txn, _)| publish(*txn));
        }
        _ => {}
    }
}

thread_local! {
    /// Whether a panic on this thread is expected, and is caught.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a machine or a store, which stop at impossible states by a panic; with a rule broken that
/// is a finding like another, and nothing to print.
fn quietly<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                usual(info);
            }
        }));
    });
    let outer = EXPECTED.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(run));
    EXPECTED.set(outer);
    done.map_err(|panic| match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        (None, None) => "a panic without words".to_owned(),
    })
}

/// Whether a conflict was said of a transaction, and which.
pub(super) fn conflict(reply: &Reply) -> Option<TxnId> {
    match reply {
        Reply::Aborted(
            AbortReason::Conflict { holder }
            | AbortReason::Refused { reason: NoReason::Locked { holder }, .. },
        ) => Some(*holder),
        _ => None,
    }
}

/// Whether a reply says that nothing was done, and nothing was kept.
#[must_use]
pub fn refused(reply: &Reply) -> bool {
    matches!(
        reply,
        Reply::Aborted(AbortReason::Conflict { .. } | AbortReason::Unavailable { .. })
            | Reply::Unavailable
    )
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::Panicked(why) => write!(f, "panic: {why}"),
            fact => write!(f, "{fact:?}"),
        }
    }
}

impl Host {
    /// What a read of a key would find at this replica now, if it would be served at all.
    pub(crate) fn would_read(&self, key: &Key) -> Option<Option<Version>> {
        let served = self.machine()?.serves(key);
        served.then(|| self.store.get(key).map(|(version, _)| *version))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.node)?;
        let process = |f: &mut fmt::Formatter<'_>, process: &Process| {
            let status = process.machine.status();
            write!(f, " epoch {}, incarnation {}", status.epoch, status.incarnation)?;
            write!(f, ", watermark {}", status.watermark)?;
            write!(f, "{}", if status.ready { ", ready" } else { ", not ready" })?;
            for (txn, key) in &status.unsettled {
                write!(f, ", {txn} of {key} unsettled")?;
            }
            let timers: Vec<_> = process.timers.iter().map(ToString::to_string).collect();
            if timers.is_empty() { Ok(()) } else { write!(f, "; timers: {}", timers.join(", ")) }
        };
        match &self.process {
            Some(it) => process(f, it)?,
            None if self.stopped => write!(f, " stopped of itself")?,
            None => write!(f, " down")?,
        }
        let list = |records: &mut dyn Iterator<Item = &Record>| {
            records.map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let (inherited, own) = self.store.tail();
        write!(f, "\n  durable: {}", list(&mut self.store.durable().records()))?;
        if self.unforced() > 0 {
            write!(f, "\n  not durable: {}", list(&mut inherited.iter().chain(own)))?;
        }
        for (key, (version, value)) in self.store.entries() {
            write!(f, "\n  {key} = {value} (version {version})")?;
        }
        if let Some((second_instance, _)) = &self.second_instance {
            write!(f, "\n  second instance:")?;
            process(f, second_instance)?;
        }
        Ok(())
    }
}
