//! The hosts, messages and invariant checkers that an exploration has met, each stored once under a
//! number, and the transitions of each host, each computed once. A state of the cluster is then a
//! handful of numbers. Transitions stay pure: they depend on the host and the step alone.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher},
    sync::{Arc, Mutex, OnceLock},
};

use ahash::RandomState;
use dashmap::DashMap;
use protocol::{CallId, Key, Lsn, Message, Node, Request, TimerId};

pub(super) use super::intern_table::Id;
use super::{
    inert::Replies,
    intern_table::{InternTable, lock},
    symmetry::{permutations, rename},
};
use crate::schedule::{
    HostView, InvariantChecker, Observation, ScheduleHost, ScheduleSetup, Step, StepEffects,
};

/// A message with its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Envelope {
    pub(super) from: Node,
    pub(super) to: Node,
    pub(super) message: Message,
}

/// A step of one host that needs no input from others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum LocalStep {
    Force { upto: Lsn, second_instance: bool },
    Timer { id: TimerId, second_instance: bool },
    Kill { keep: usize },
    PowerLoss { keep: usize },
    Restart,
    SecondInstance,
    Wipe,
    Damage { key: Key },
}

impl LocalStep {
    /// The step of a schedule.
    pub(super) fn at(self, node: Node) -> Step {
        match self {
            LocalStep::Force { upto, second_instance } => {
                Step::Force { node, upto, second_instance }
            }
            LocalStep::Timer { id, second_instance } => Step::Timer { node, id, second_instance },
            LocalStep::Kill { keep } => Step::Kill { node, keep },
            LocalStep::PowerLoss { keep } => Step::PowerLoss { node, keep },
            LocalStep::Restart => Step::Restart { node },
            LocalStep::SecondInstance => Step::SecondInstance { node },
            LocalStep::Wipe => Step::Wipe { node },
            // A replica that is up finds it: a read that finds it is a later step of the same replica.
            LocalStep::Damage { key } => Step::Damage { node, key, found: true },
        }
    }
}

/// The result of a step of a host.
#[derive(Debug)]
pub(super) struct Transition {
    /// The host after it.
    pub(super) host: Id,
    /// The messages that it sent, ascending.
    pub(super) sent: Box<[Id]>,
    pub(super) observations: Box<[Observation]>,
}

impl Transition {
    /// Whether the step has no effect on a host.
    fn is_empty(&self, before: Id) -> bool {
        self.host == before && self.sent.is_empty() && self.observations.is_empty()
    }
}

/// An interned host, with what is derived from it alone.
pub(super) struct HostEntry {
    pub(super) host: ScheduleHost,
    pub(super) view: HostView,
    /// Its hash under each renaming of the replicas.
    pub(super) hashes: Box<[u64]>,
    local_steps: OnceLock<Box<[(LocalStep, Transition)]>>,
    lazily_forced: OnceLock<Id>,
}

/// Everything met so far.
pub(super) struct Interner {
    pub(super) setup: ScheduleSetup,
    keys: Vec<Key>,
    /// Whether entries may rot.
    damages: bool,
    /// Renamings of the replicas, each as the new slot of each slot; the first is the identity.
    renamings: Vec<Vec<u8>>,
    hasher: RandomState,
    hosts: InternTable<ScheduleHost, HostEntry>,
    messages: InternTable<Envelope, (Envelope, Box<[u64]>)>,
    checkers: InternTable<InvariantChecker, (InvariantChecker, u64)>,
    deliveries: DashMap<(Id, Id, bool), Option<Arc<Transition>>, RandomState>,
    calls: Mutex<HashMap<(Id, CallId, u64), Arc<Transition>>>,
    /// By message and receiver, and whether the receiver may crash.
    pub(super) inert: DashMap<(Id, Id, bool), Replies, RandomState>,
}

impl Interner {
    pub(super) fn new(setup: ScheduleSetup, keys: Vec<Key>, symmetry: bool, damages: bool) -> Self {
        let mut renamings = vec![(1..=setup.replicas).collect::<Vec<_>>()];
        if symmetry {
            renamings = permutations(setup.replicas);
        }
        Interner {
            setup,
            keys,
            damages,
            renamings,
            hasher: RandomState::with_seeds(1, 2, 3, 4),
            hosts: InternTable::default(),
            messages: InternTable::default(),
            checkers: InternTable::default(),
            deliveries: DashMap::with_hasher(RandomState::with_seeds(5, 6, 7, 8)),
            calls: Mutex::default(),
            inert: DashMap::with_hasher(RandomState::with_seeds(13, 14, 15, 16)),
        }
    }

    /// How many renamings there are.
    pub(super) fn renamings(&self) -> usize {
        self.renamings.len()
    }

    pub(super) fn host(&self, id: Id) -> &HostEntry {
        self.hosts.get(id)
    }

    pub(super) fn envelope(&self, id: Id) -> &Envelope {
        &self.messages.get(id).0
    }

    pub(super) fn message_hash(&self, id: Id, renaming: usize) -> u64 {
        self.messages.get(id).1[renaming]
    }

    pub(super) fn checker(&self, id: Id) -> &InvariantChecker {
        &self.checkers.get(id).0
    }

    pub(super) fn checker_hash(&self, id: Id) -> u64 {
        self.checkers.get(id).1
    }

    /// How many distinct hosts, messages and invariant checkers were met.
    pub(super) fn distinct(&self) -> [usize; 3] {
        [self.hosts.len(), self.messages.len(), self.checkers.len()]
    }

    pub(super) fn intern_checker(&self, checker: InvariantChecker) -> Id {
        self.checkers.intern(checker, |checker| {
            let hash = self.hasher.hash_one(checker);
            (checker.clone(), hash)
        })
    }

    pub(super) fn intern_host(&self, host: ScheduleHost) -> Id {
        self.hosts.intern(host, |host| {
            let hash = |renaming: &Vec<u8>| {
                let mut hasher = self.hasher.build_hasher();
                host.hash_renamed(renaming, &mut hasher);
                hasher.finish()
            };
            HostEntry {
                view: HostView::of(host, &self.keys),
                hashes: self.renamings.iter().map(hash).collect(),
                host: host.clone(),
                local_steps: OnceLock::new(),
                lazily_forced: OnceLock::new(),
            }
        })
    }

    pub(super) fn intern_message(&self, envelope: Envelope) -> Id {
        self.messages.intern(envelope, |envelope| {
            let hash = |renaming: &Vec<u8>| self.hasher.hash_one(rename(envelope, renaming));
            (envelope.clone(), self.renamings.iter().map(hash).collect())
        })
    }

    /// The numbers of messages that a node sent, ascending.
    pub(super) fn intern_sent(&self, from: Node, sent: Vec<(Node, Message)>) -> Vec<Id> {
        let intern = |(to, message)| self.intern_message(Envelope { from, to, message });
        let mut ids: Vec<_> = sent.into_iter().map(intern).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The index of a message's receiver among the hosts.
    pub(super) fn receiver(&self, message: Id) -> usize {
        match self.envelope(message).to {
            Node::Master => 0,
            Node::Replica(slot) => slot.into(),
        }
    }

    /// The transition of a host by the delivery of a message; `None` if it is not possible, or has no
    /// effect.
    pub(super) fn deliver(
        &self,
        host: Id,
        message: Id,
        second_instance: bool,
    ) -> Option<Arc<Transition>> {
        let key = (host, message, second_instance);
        if let Some(known) = self.deliveries.get(&key) {
            return known.clone();
        }
        let Envelope { from, message: content, .. } = self.envelope(message);
        let mut after = self.host(host).host.clone();
        let transition = after
            .deliver(&self.setup, *from, content, second_instance)
            .map(|step_effects| Arc::new(self.transition(after, step_effects)))
            .filter(|transition| !transition.is_empty(host));
        self.deliveries.insert(key, transition.clone());
        transition
    }

    /// The transition of the master by a client's call.
    pub(super) fn call(
        &self,
        host: Id,
        call: CallId,
        choice: u64,
        request: &Request,
    ) -> Option<Arc<Transition>> {
        let key = (host, call, choice);
        let known = lock(&self.calls).get(&key).cloned();
        if known.is_some() {
            return known;
        }
        let mut after = self.host(host).host.clone();
        let step_effects = after.call(&self.setup, call, request)?;
        let transition = Arc::new(self.transition(after, step_effects));
        lock(&self.calls).insert(key, transition.clone());
        Some(transition)
    }

    /// Every local step of a host that has an effect, whether or not the budget of an exploration
    /// allows it.
    pub(super) fn local_steps(&self, id: Id) -> &[(LocalStep, Transition)] {
        let entry = self.host(id);
        entry.local_steps.get_or_init(|| {
            let host = &entry.host;
            let mut steps = Vec::new();
            let mut add = |local: LocalStep| {
                if let Some(transition) = self.local_transition(host, &local)
                    && !transition.is_empty(id)
                {
                    steps.push((local, transition));
                }
            };
            for second_instance in [false, true] {
                (1..=host.forceable(second_instance))
                    .for_each(|upto| add(LocalStep::Force { upto, second_instance }));
                host.timers(second_instance)
                    .for_each(|id| add(LocalStep::Timer { id, second_instance }));
            }
            add(LocalStep::Restart);
            add(LocalStep::SecondInstance);
            for keep in 0..=host.unforced() {
                add(LocalStep::PowerLoss { keep });
                // A kill that leaves nothing is the same as a loss of power that leaves nothing.
                if keep > 0 {
                    add(LocalStep::Kill { keep });
                }
            }
            if host.intact() && host.node() != Node::Master {
                add(LocalStep::Wipe);
            }
            if self.damages && host.node() != Node::Master {
                for key in &self.keys {
                    add(LocalStep::Damage { key: key.clone() });
                }
            }
            steps.into()
        })
    }

    fn local_transition(&self, host: &ScheduleHost, local: &LocalStep) -> Option<Transition> {
        let setup = &self.setup;
        let mut after = host.clone();
        let step_effects = match local {
            LocalStep::Force { upto, second_instance } => {
                after.force(setup, *upto, *second_instance)
            }
            LocalStep::Timer { id, second_instance } => {
                after.expire_timer(setup, *id, *second_instance)
            }
            LocalStep::Kill { keep } => after.kill(*keep),
            LocalStep::PowerLoss { keep } => after.power_loss(*keep),
            LocalStep::Restart => after.restart(setup),
            LocalStep::SecondInstance => after.start_second_instance(setup),
            LocalStep::Wipe => after.wipe(),
            LocalStep::Damage { key } => after.damage(setup, key, true),
        };
        step_effects.map(|step_effects| self.transition(after, step_effects))
    }

    /// The host with every record forced, if nothing waits for their durability. Where no crash is
    /// possible any more it behaves as before.
    pub(super) fn lazily_forced(&self, id: Id) -> Id {
        let entry = self.host(id);
        *entry.lazily_forced.get_or_init(|| {
            let mut host = entry.host.clone();
            let all = host.forceable(false);
            match host.force(&self.setup, all, false) {
                Some(step_effects)
                    if step_effects.effects.is_empty() && step_effects.observations.is_empty() =>
                {
                    self.intern_host(host)
                }
                _ => id,
            }
        })
    }

    fn transition(&self, host: ScheduleHost, step_effects: StepEffects) -> Transition {
        let sent = self.intern_sent(host.node(), step_effects.sent).into();
        let observations = step_effects.observations.into();
        Transition { host: self.intern_host(host), sent, observations }
    }
}
