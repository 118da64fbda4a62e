//! What an exploration has met so far of hosts, messages and judges, each kept once under a number,
//! and what each step makes of them, worked out once. A cluster's state is then a handful of
//! numbers. Steps stay pure: a host's answer depends on the host and the step alone.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use ahash::RandomState;
use dashmap::DashMap;
use system::protocol::{Body, CallId, Key, Lsn, Message, Node, Request, TimerId};

use crate::schedule::{Fact, Host, Judge, Outcome, ScheduleSetup, Step, View, rename_store};

/// A number under which something is kept.
pub(super) type Id = u32;

/// A message with its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Envelope {
    pub(super) from: Node,
    pub(super) to: Node,
    pub(super) message: Message,
}

/// What can happen to a host but for a message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Local {
    Force { upto: Lsn, second_instance: bool },
    Timer { id: TimerId, second_instance: bool },
    Kill { keep: usize },
    PowerLoss { keep: usize },
    Restart,
    SecondInstance,
    Wipe,
}

impl Local {
    /// It, at a node, in the words of schedules.
    pub(super) fn at(self, node: Node) -> Step {
        match self {
            Local::Force { upto, second_instance } => Step::Force { node, upto, second_instance },
            Local::Timer { id, second_instance } => Step::Timer { node, id, second_instance },
            Local::Kill { keep } => Step::Kill { node, keep },
            Local::PowerLoss { keep } => Step::PowerLoss { node, keep },
            Local::Restart => Step::Restart { node },
            Local::SecondInstance => Step::SecondInstance { node },
            Local::Wipe => Step::Wipe { node },
        }
    }
}

/// What a step makes of a host.
#[derive(Debug)]
pub(super) struct Done {
    /// The host after it.
    pub(super) host: Id,
    /// The messages that it sent, ascending.
    pub(super) sent: Box<[Id]>,
    pub(super) facts: Box<[Fact]>,
}

/// If a message changes nothing any more: what is answered to it.
type Spent = Option<Arc<[Id]>>;

/// A host, with all that is worked out about it alone.
pub(super) struct Known {
    pub(super) host: Host,
    pub(super) view: View,
    /// Its hash under each renaming of the replicas.
    pub(super) hashes: Box<[u64]>,
    /// What can happen to it, and what that makes of it.
    menu: OnceLock<Box<[(Local, Done)]>>,
    /// It, with everything forced for which nobody waits.
    tidied: OnceLock<Id>,
}

/// Everything met so far.
pub(super) struct World {
    pub(super) setup: ScheduleSetup,
    pub(super) keys: Vec<Key>,
    /// Renamings of the replicas, each as the new slot of each slot; the first changes nothing.
    renamings: Vec<Vec<u8>>,
    hasher: RandomState,
    hosts: Table<Host, Known>,
    messages: Table<Envelope, (Envelope, Box<[u64]>)>,
    judges: Table<Judge, (Judge, u64)>,
    deliveries: DashMap<(Id, Id, bool), Option<Arc<Done>>, RandomState>,
    calls: Mutex<HashMap<(Id, CallId, u64), Arc<Done>>>,
    /// By message and receiver, and whether that may crash: if it changes nothing any more, what is
    /// answered to it.
    spent: DashMap<(Id, Id, bool), Spent, RandomState>,
}

impl World {
    pub(super) fn new(setup: ScheduleSetup, keys: Vec<Key>, symmetry: bool) -> Self {
        let mut renamings = vec![(1..=setup.replicas).collect::<Vec<_>>()];
        if symmetry {
            renamings = permutations(setup.replicas);
        }
        World {
            setup,
            keys,
            renamings,
            hasher: RandomState::with_seeds(1, 2, 3, 4),
            hosts: Table::default(),
            messages: Table::default(),
            judges: Table::default(),
            deliveries: DashMap::with_hasher(RandomState::with_seeds(5, 6, 7, 8)),
            calls: Mutex::default(),
            spent: DashMap::with_hasher(RandomState::with_seeds(13, 14, 15, 16)),
        }
    }

    /// How many renamings there are.
    pub(super) fn renamings(&self) -> usize {
        self.renamings.len()
    }

    pub(super) fn host(&self, id: Id) -> &Known {
        self.hosts.get(id)
    }

    pub(super) fn envelope(&self, id: Id) -> &Envelope {
        &self.messages.get(id).0
    }

    pub(super) fn message_hash(&self, id: Id, renaming: usize) -> u64 {
        self.messages.get(id).1[renaming]
    }

    pub(super) fn judge(&self, id: Id) -> &Judge {
        &self.judges.get(id).0
    }

    pub(super) fn judge_hash(&self, id: Id) -> u64 {
        self.judges.get(id).1
    }

    /// How many hosts, messages and judges were met.
    pub(super) fn met(&self) -> [usize; 3] {
        [self.hosts.len(), self.messages.len(), self.judges.len()]
    }

    pub(super) fn keep_judge(&self, judge: Judge) -> Id {
        self.judges.keep(judge, |judge| {
            let hash = self.hasher.hash_one(judge);
            (judge.clone(), hash)
        })
    }

    pub(super) fn keep_host(&self, host: Host) -> Id {
        self.hosts.keep(host, |host| {
            let hash = |renaming: &Vec<u8>| {
                let mut hasher = self.hasher.build_hasher();
                host.hash_renamed(renaming, &mut hasher);
                hasher.finish()
            };
            Known {
                view: View::of(host, &self.keys),
                hashes: self.renamings.iter().map(hash).collect(),
                host: host.clone(),
                menu: OnceLock::new(),
                tidied: OnceLock::new(),
            }
        })
    }

    /// The place of a message's receiver among the hosts.
    pub(super) fn to(&self, message: Id) -> usize {
        match self.envelope(message).to {
            Node::Master => 0,
            Node::Replica(slot) => slot.into(),
        }
    }

    pub(super) fn keep_message(&self, envelope: Envelope) -> Id {
        self.messages.keep(envelope, |envelope| {
            let hash = |renaming: &Vec<u8>| self.hasher.hash_one(rename(envelope, renaming));
            (envelope.clone(), self.renamings.iter().map(hash).collect())
        })
    }

    /// What becomes of a host when a message arrives; none if it cannot, or changes nothing.
    pub(super) fn deliver(
        &self,
        host: Id,
        message: Id,
        second_instance: bool,
    ) -> Option<Arc<Done>> {
        let key = (host, message, second_instance);
        if let Some(done) = self.deliveries.get(&key) {
            return done.clone();
        }
        let Envelope { from, message: content, .. } = self.envelope(message);
        let mut after = self.host(host).host.clone();
        let done = after
            .receive(&self.setup, *from, content, second_instance)
            .map(|outcome| Arc::new(self.done(after, outcome)))
            .filter(|done| done.host != host || !done.sent.is_empty() || !done.facts.is_empty());
        self.deliveries.insert(key, done.clone());
        done
    }

    /// What a client's call makes of the master.
    pub(super) fn call(
        &self,
        host: Id,
        call: CallId,
        choice: u64,
        request: &Request,
    ) -> Option<Arc<Done>> {
        let key = (host, call, choice);
        let known = lock(&self.calls).get(&key).cloned();
        if known.is_some() {
            return known;
        }
        let mut after = self.host(host).host.clone();
        let outcome = after.ask(&self.setup, call, request)?;
        let done = Arc::new(self.done(after, outcome));
        lock(&self.calls).insert(key, done.clone());
        Some(done)
    }

    /// Everything that can happen to a host by itself, whether or not the bounds of an exploration
    /// allow it.
    pub(super) fn menu(&self, id: Id) -> &[(Local, Done)] {
        let known = self.host(id);
        known.menu.get_or_init(|| {
            let host = &known.host;
            let mut menu = Vec::new();
            let mut add = |local: Local| {
                let mut after = host.clone();
                let setup = &self.setup;
                let outcome = match &local {
                    Local::Force { upto, second_instance } => {
                        after.force(setup, *upto, *second_instance)
                    }
                    Local::Timer { id, second_instance } => {
                        after.timer(setup, *id, *second_instance)
                    }
                    Local::Kill { keep } => after.kill(*keep),
                    Local::PowerLoss { keep } => after.power_loss(*keep),
                    Local::Restart => after.restart(setup),
                    Local::SecondInstance => after.start_second_instance(setup),
                    Local::Wipe => after.wipe(),
                };
                if let Some(outcome) = outcome {
                    let done = self.done(after, outcome);
                    if done.host != id || !done.sent.is_empty() || !done.facts.is_empty() {
                        menu.push((local, done));
                    }
                }
            };
            for second_instance in [false, true] {
                (1..=host.forceable(second_instance))
                    .for_each(|upto| add(Local::Force { upto, second_instance }));
                host.timers(second_instance)
                    .for_each(|id| add(Local::Timer { id, second_instance }));
            }
            add(Local::Restart);
            add(Local::SecondInstance);
            for keep in 0..=host.unforced() {
                add(Local::PowerLoss { keep });
                // With nothing kept, or nothing to lose, it is the loss of power over again.
                if keep > 0 {
                    add(Local::Kill { keep });
                }
            }
            if host.intact() && host.node() != Node::Master {
                add(Local::Wipe);
            }
            menu.into()
        })
    }

    /// The host with the records forced whose durability nobody waits for. Where no crash can come
    /// any more it behaves as before.
    pub(super) fn tidied(&self, id: Id) -> Id {
        let known = self.host(id);
        *known.tidied.get_or_init(|| {
            let mut host = known.host.clone();
            let all = host.forceable(false);
            match host.force(&self.setup, all, false) {
                Some(outcome) if outcome.effects.is_empty() && outcome.facts.is_empty() => {
                    self.keep_host(host)
                }
                _ => id,
            }
        })
    }

    /// Whether a message can change nothing any more because a durable promise bars it. Second instances, who
    /// might still care to hear so, and lost stores excepted.
    pub(super) fn barred(&self, message: Id, receiver: Id) -> bool {
        let Envelope { from, message, .. } = self.envelope(message);
        let barred = self.host(receiver).view.barred;
        match message.body {
            Body::Value { read, .. } | Body::Busy { read, .. } | Body::NotServing { read } => {
                read.epoch < barred
            }
            Body::FenceOk { .. } => message.epoch < barred,
            Body::PeerAnswer { .. } => false,
            _ => *from == Node::Master && message.epoch < barred,
        }
    }

    /// Whether a message can change nothing any more because what it is about is settled: where its
    /// receiver stands, and wherever a crash can throw it back to, it changes nothing, and whatever
    /// is answered has been said (is among `sent`) or is spent itself. `crashes` says whether the
    /// master, and whether replicas, may still crash.
    ///
    /// That it changes nothing now means that it never will, for these kinds of messages: a
    /// transaction that is no longer voting is not voted on again, one that is settled stays so, and
    /// a handshake is once for each start of a replica.
    pub(super) fn spent(&self, message: Id, hosts: &[Id], sent: &[Id], crashes: [bool; 2]) -> bool {
        let to = self.to(message);
        let may_crash = crashes[usize::from(to > 0)];
        let answers = self.answers_if_spent(message, hosts[to], may_crash);
        answers.is_some_and(|answers| {
            answers.iter().all(|answer| {
                sent.binary_search(answer).is_ok() || self.spent(*answer, hosts, sent, crashes)
            })
        })
    }

    /// If a message changes nothing, now or after a crash: what is answered to it.
    fn answers_if_spent(&self, message: Id, host: Id, may_crash: bool) -> Spent {
        let key = (message, host, may_crash);
        if let Some(known) = self.spent.get(&key) {
            return known.clone();
        }
        let answers = self.work_out_spent(message, host, may_crash).map(Arc::from);
        self.spent.insert(key, answers.clone());
        answers
    }

    fn work_out_spent(&self, message: Id, host: Id, may_crash: bool) -> Option<Vec<Id>> {
        let Envelope { from, message, .. } = self.envelope(message);
        let about = match &message.body {
            Body::Prepare { txn, .. } | Body::Decide { txn, .. } | Body::PeerAnswer { txn, .. } => {
                Some(*txn)
            }
            Body::VoteNo { .. } | Body::FenceOk { .. } => None,
            _ => return None,
        };
        let host = &self.host(host).host;
        let mut stands = Vec::new();
        if host.up() {
            stands.push(host.clone());
        }
        if may_crash || !host.up() {
            for keep in 0..=host.unforced() {
                let mut back = host.clone();
                if back.up() {
                    back.power_loss(keep)?;
                }
                back.restart(&self.setup)?;
                back.force(&self.setup, back.forceable(false), false)?;
                stands.push(back);
            }
        }
        let mut answers = Vec::new();
        for stand in stands {
            let status = stand.machine()?.status();
            let undecided = |txn| status.unsettled.iter().any(|(held, _)| *held == txn);
            // Of an epoch that is not promised yet, it is not heeded yet.
            let early = *from == Node::Master && message.epoch > status.epoch;
            // A master that does not know yet, or may start anew, may have to ask.
            let open = stand.node() == Node::Master
                && matches!(message.body, Body::PeerAnswer { .. })
                && (may_crash || !status.ready);
            if early || open || !stand.acts() || about.is_some_and(undecided) {
                return None;
            }
            let mut after = stand.clone();
            let outcome = after.receive(&self.setup, *from, message, false)?;
            if after != stand || !outcome.facts.is_empty() {
                return None;
            }
            answers.extend(self.said(stand.node(), outcome.sent));
        }
        answers.sort_unstable();
        answers.dedup();
        Some(answers)
    }

    fn done(&self, host: Host, outcome: Outcome) -> Done {
        let sent = self.said(host.node(), outcome.sent).into();
        Done { host: self.keep_host(host), sent, facts: outcome.facts.into() }
    }

    /// Messages under their numbers, ascending.
    fn said(&self, from: Node, sent: Vec<(Node, Message)>) -> Vec<Id> {
        let keep = |(to, message)| self.keep_message(Envelope { from, to, message });
        let mut said: Vec<_> = sent.into_iter().map(keep).collect();
        said.sort_unstable();
        said.dedup();
        said
    }
}

/// Things of one kind, each kept once, with what is worked out about each. Looking up a number takes
/// no lock: what is kept never moves.
struct Table<K, V> {
    numbers: Mutex<HashMap<K, Id, RandomState>>,
    /// The `n`-th holds `FIRST << n` items.
    chunks: [OnceLock<Box<[OnceLock<V>]>>; CHUNKS],
}

const FIRST: usize = 256;
const CHUNKS: usize = 24;

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        let numbers = HashMap::with_hasher(RandomState::with_seeds(9, 10, 11, 12));
        Table { numbers: Mutex::new(numbers), chunks: [const { OnceLock::new() }; CHUNKS] }
    }
}

impl<K: Hash + Eq, V> Table<K, V> {
    fn keep(&self, key: K, work_out: impl FnOnce(&K) -> V) -> Id {
        if let Some(id) = lock(&self.numbers).get(&key) {
            return *id;
        }
        let value = work_out(&key);
        let mut numbers = lock(&self.numbers);
        let next = numbers.len();
        let id = *numbers.entry(key).or_insert(next as Id);
        if id as usize == next {
            let (chunk, at) = place(next);
            let chunk = self.chunks[chunk]
                .get_or_init(|| (0..FIRST << chunk).map(|_| OnceLock::new()).collect());
            assert!(chunk[at].set(value).is_ok(), "a number is given once");
        }
        id
    }

    fn get(&self, id: Id) -> &V {
        let (chunk, at) = place(id as usize);
        self.chunks[chunk]
            .get()
            .and_then(|chunk| chunk[at].get())
            .expect("a number was given for something that is kept")
    }

    fn len(&self) -> usize {
        lock(&self.numbers).len()
    }
}

/// In which chunk a number lies, and where in it.
fn place(number: usize) -> (usize, usize) {
    let chunk = (number / FIRST + 1).ilog2() as usize;
    (chunk, number - FIRST * ((1 << chunk) - 1))
}

/// A panic in another thread is reported there; what is kept stays whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every order of the slots from 1 to `count`, the usual one first.
fn permutations(count: u8) -> Vec<Vec<u8>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in permutations(count - 1) {
        for at in (0..=shorter.len()).rev() {
            let mut longer = shorter.clone();
            longer.insert(at, count);
            all.push(longer);
        }
    }
    all
}

fn rename(envelope: &Envelope, renaming: &[u8]) -> Envelope {
    let node = |node| match node {
        Node::Master => Node::Master,
        Node::Replica(slot) => Node::Replica(renaming[usize::from(slot) - 1]),
    };
    let Envelope { from, to, message } = envelope;
    let mut message = message.clone();
    message.store = rename_store(renaming, message.store);
    if let Body::Fence { member: Some(store), .. } = &mut message.body {
        *store = rename_store(renaming, *store);
    }
    Envelope { from: node(*from), to: node(*to), message }
}
