//! The model: a cluster of the protocol's machines and their stores, explored exhaustively by
//! stateright. There is no second description of the protocol: every transition is a step of the
//! real machine. Does not know about time, processes or sockets.
//!
//! A state consists of the hosts, every message that was ever sent (so message loss, duplication and
//! reordering need no steps of their own), and the state of the invariant checker. Delivery, force,
//! timer expiry, crash and restart are separate steps: merging them would hide bugs. Reductions of the
//! state space, and why each is sound, are documented where they are made: `ScheduleSetup::canonical`,
//! [`ModelOptions`], `ClusterModel::allowed`, `successor`, `inert`.

mod exploration;
mod inert;
mod intern_table;
mod interner;
mod situations;
mod state;
mod successor;
mod symmetry;
mod termination;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use protocol::{
    CommitMode, Key, KeyRange, Node, Query, Request, Rules, TimerId, Timing, Value, Write,
};
use stateright::{Model, Property as ModelProperty};

use crate::schedule::{
    Cluster, HostView, InvariantChecker, Property, ScheduleHost, ScheduleSetup, Step, keys_of,
};
pub use exploration::{Exploration, ExplorationLimits, explore, serve_explorer};
use interner::{Envelope, Id, Interner, LocalStep};
use situations::SITUATIONS;
use state::Budget;
pub use state::{Action, State};
use termination::TerminationCache;

/// What is explored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelOptions {
    /// The cluster.
    pub setup: ScheduleSetup,
    /// The clients' requests, in this order. A request may be made before the previous one is
    /// answered.
    pub script: Vec<Request>,
    /// How many times the master may crash.
    pub master_crashes: u8,
    /// How many times replicas may crash, in total.
    pub replica_crashes: u8,
    /// How many times replicas may lose their stores, in total.
    pub wipes: u8,
    /// How many entries may rot at replicas, in total.
    pub damages: u8,
    /// How many times a second instance of the master may start on its store. With the rule
    /// `exclusive-store` kept, none can.
    pub second_instances: u8,
    /// Whether states that differ only by a permutation of the replicas count as one.
    pub symmetry: bool,
    /// Whether inert messages, which can change nothing any more, are removed. Without the reduction
    /// there are more states and the same findings.
    pub reduced: bool,
    /// Whether the master's heartbeat timer may expire, upon which it suspects every replica.
    pub heartbeats: bool,
    /// Whether the clients' history is tested for linearizability, in addition to R1.
    pub histories: bool,
    /// Continue past other violations until this property is violated; `None` to stop at the first.
    pub until: Option<Property>,
}

impl ModelOptions {
    /// A cluster without faults whose replicas inquire of each other, and its clients' requests.
    #[must_use]
    pub fn of(replicas: u8, script: Vec<Request>) -> Self {
        // No wait is counted and nothing depends on the number of retries, so that one timer step
        // stands for any number of them.
        let timing = Timing {
            peer_inquiry_after: 0,
            watermark_batch: 1,
            read_wait: Duration::from_millis(1),
            read_slack: Duration::ZERO,
            ..Timing::default()
        };
        let rules = Rules::ALL;
        let commit = CommitMode::default();
        let setup = ScheduleSetup {
            replicas,
            commit,
            rules,
            timing,
            peers: true,
            handshaken: true,
            canonical: true,
            scrub_interval: Duration::ZERO,
        };
        ModelOptions {
            setup,
            script,
            master_crashes: 0,
            replica_crashes: 0,
            wipes: 0,
            damages: 0,
            second_instances: 0,
            symmetry: true,
            reduced: true,
            heartbeats: false,
            histories: false,
            until: None,
        }
    }
}

/// The requests of clients for a small model: puts, spread over the keys, with a del as the last of
/// several writes of one key; then gets.
#[must_use]
pub fn script(transactions: u8, gets: u8, keys: u8) -> Vec<Request> {
    let key = |n: u8| Key::from(format!("k{}", n % keys + 1).as_str());
    let write = |n: u8| {
        let last = n >= keys && n + keys >= transactions;
        let value = (!last).then(|| Value::from(format!("v{}", n + 1).as_str()));
        Request::Write(Write { key: key(n), value })
    };
    // The shortest deadline, so that a get makes one attempt: the model has no time for more.
    let get = |n| Request::Get { key: key(n), choice: 0, deadline: Duration::from_millis(1) };
    (0..transactions).map(write).chain((0..gets).map(get)).collect()
}

/// A request for a snapshot: of all keys as a list, or of the range that has them.
#[must_use]
pub fn snapshot(keys: u8, as_range: bool) -> Request {
    let query = if as_range {
        Query::Range(KeyRange { from: None, after: None, to: None, limit: u32::from(keys) })
    } else {
        Query::Keys((1..=keys).map(|n| Key::from(format!("k{n}").as_str())).collect())
    };
    // As for a get.
    Request::Snapshot { query, choice: 0, deadline: Duration::from_millis(1) }
}

/// The model.
pub struct ClusterModel {
    options: ModelOptions,
    interner: Arc<Interner>,
    termination: TerminationCache,
    /// By property, then by situation: the hash of the state in which it was first found.
    first_found: Vec<OnceLock<u64>>,
    /// Set to end the exploration.
    stop: Arc<AtomicBool>,
}

impl ClusterModel {
    /// A model with these options.
    #[must_use]
    pub fn new(options: ModelOptions) -> Self {
        let mut keys: Vec<_> = options.script.iter().flat_map(keys_of).cloned().collect();
        keys.sort();
        keys.dedup();
        let claims = Property::ALL.len() + SITUATIONS.len();
        // Which peer is asked for a copy depends on its slot.
        let symmetry = options.symmetry && (options.damages == 0 || options.setup.replicas < 3);
        let damages = options.damages > 0;
        let interner = Interner::new(options.setup.clone(), keys, symmetry, damages);
        ClusterModel {
            options,
            interner: Arc::new(interner),
            termination: TerminationCache::default(),
            first_found: (0..claims).map(|_| OnceLock::new()).collect(),
            stop: Arc::default(),
        }
    }

    /// What is explored.
    #[must_use]
    pub fn options(&self) -> &ModelOptions {
        &self.options
    }

    /// How many distinct hosts, messages and invariant checkers have occurred so far.
    #[must_use]
    pub fn distinct(&self) -> [usize; 3] {
        self.interner.distinct()
    }

    /// The schedule step of an action; `None` for a call beyond the script.
    #[must_use]
    pub fn step_of(&self, state: &State, action: Action) -> Option<Step> {
        Some(match action {
            Action::Deliver { message, second_instance } => self.delivery(message, second_instance),
            Action::Call { choice } => Step::Client {
                call: state.budget.next_call.into(),
                request: self.request(state.budget.next_call, choice)?,
            },
            Action::Local { host, item, .. } => self.local_step(host, item),
        })
    }

    /// The schedule steps of an action, including those that are implied.
    #[must_use]
    pub fn steps_of(&self, state: &State, action: Action) -> Vec<Step> {
        let Some(step) = self.step_of(state, action) else { return Vec::new() };
        let mut steps = vec![step];
        if let Some((_, implied)) = self.successor(state, action, true) {
            steps.extend(implied);
        }
        steps
    }

    fn local_step(&self, host: Id, item: u8) -> Step {
        let (local, _) = &self.interner.local_steps(host)[usize::from(item)];
        local.clone().at(self.interner.host(host).host.node())
    }

    fn delivery(&self, message: Id, second_instance: bool) -> Step {
        let Envelope { from, to, message } = self.interner.envelope(message).clone();
        Step::Deliver { from, to, message, second_instance }
    }

    fn request(&self, call: u8, choice: u8) -> Option<Request> {
        let mut request = self.options.script.get(usize::from(call))?.clone();
        if let Request::Get { choice: replica, .. } | Request::Snapshot { choice: replica, .. } =
            &mut request
        {
            *replica = choice.into();
        }
        Some(request)
    }

    /// Whether the budget allows a step of a node, and the budget that remains.
    fn allowed(&self, host: &ScheduleHost, local: &LocalStep, budget: Budget) -> Option<Budget> {
        let mut after = budget;
        let node = host.node();
        let crashes = match node {
            Node::Master => &mut after.master_crashes,
            Node::Replica(_) => &mut after.replica_crashes,
        };
        match local {
            LocalStep::Force { .. } => {}
            LocalStep::Timer { id: TimerId::Heartbeat, .. } if !self.options.heartbeats => {
                return None;
            }
            LocalStep::Timer { .. } => {}
            // A kill and a loss of power leave different unforced records only for a later crash of
            // the same kind of node.
            LocalStep::Kill { .. } if *crashes < 2 => return None,
            LocalStep::Kill { .. } | LocalStep::PowerLoss { .. } => {
                *crashes = crashes.checked_sub(1)?;
            }
            // A process that its machine stopped would stop again after each restart. One that was
            // superseded by its second instance may be restarted by a supervisor that takes it for
            // dead.
            LocalStep::Restart if host.stopped() && !host.has_second_instance() => return None,
            LocalStep::Restart => {}
            LocalStep::SecondInstance if node != Node::Master => return None,
            LocalStep::SecondInstance => {
                after.second_instances = after.second_instances.checked_sub(1)?;
            }
            LocalStep::Wipe => after.wipes = after.wipes.checked_sub(1)?,
            LocalStep::Damage { .. } => after.damages = after.damages.checked_sub(1)?,
        }
        Some(after)
    }

    /// Whether inert messages are removed. The argument that this is sound needs the rules, except
    /// those that others cover for, and replicas that are never suspected.
    fn removes_inert_messages(&self) -> bool {
        let ModelOptions { reduced, heartbeats, setup, .. } = &self.options;
        *reduced && !heartbeats && setup.rules.broken().all(|rule| rule.is_equivalent(setup.commit))
    }

    /// Whether a state with these violations has no successors.
    fn is_terminal(&self, checker: &InvariantChecker) -> bool {
        match self.options.until {
            None => !checker.all_hold(),
            // The behaviour of a machine past a violated invariant of its own means nothing.
            Some(property) => {
                checker.is_violated(property) || checker.is_violated(Property::MachineInvariants)
            }
        }
    }

    fn view<'a>(&'a self, state: &'a State, node: u8) -> &'a HostView {
        &self.interner.host(state.hosts[usize::from(node)]).view
    }

    fn views<'a>(&'a self, state: &'a State) -> impl Iterator<Item = &'a HostView> {
        state.hosts.iter().map(|id| &self.interner.host(*id).view)
    }

    fn checker_of<'a>(&'a self, state: &'a State) -> &'a InvariantChecker {
        self.interner.checker(state.checker)
    }

    /// Whether this is the first state in which a property was found violated, or a situation
    /// reached; it lies on a shortest path. Stateright by itself would report the last one.
    fn is_first_found(&self, claim: usize, state: &State) -> bool {
        *self.first_found[claim].get_or_init(|| state.hash) == state.hash
    }

    /// Whether it was found in another state before.
    fn found_before(&self, claim: usize, state: &State) -> bool {
        self.first_found[claim].get().is_some_and(|first| *first != state.hash)
    }

    fn holds(&self, state: &State, property: Property) -> bool {
        let checker = self.checker_of(state);
        let replicas = self.options.setup.replicas;
        match property {
            Property::R1 => {
                !checker.is_violated(property)
                    && checker.reads_are_current(&|slot| self.view(state, slot), replicas)
            }
            Property::Durability => {
                checker.commits_are_durable(&|slot| self.view(state, slot), replicas)
            }
            Property::Termination => self.terminates(state),
            _ => !checker.is_violated(property),
        }
    }
}

impl Model for ClusterModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let cluster = Cluster::new(self.options.setup.clone());
        let hosts = cluster.hosts().iter().map(|host| self.interner.intern_host(host.clone()));
        let sent = cluster.in_flight().map(|(from, to, message)| {
            self.interner.intern_message(Envelope {
                from: *from,
                to: *to,
                message: message.clone(),
            })
        });
        let mut sent: Vec<_> = sent.collect();
        sent.sort_unstable();
        let checker = InvariantChecker::new(self.options.histories);
        let checker = self.interner.intern_checker(checker);
        let ModelOptions {
            master_crashes, replica_crashes, wipes, second_instances, damages, ..
        } = self.options;
        let budget = Budget {
            next_call: 0,
            master_crashes,
            replica_crashes,
            wipes,
            second_instances,
            damages,
        };
        vec![State::new(self.interner.clone(), hosts.collect(), sent.into(), checker, budget)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.is_terminal(self.checker_of(state)) || self.stop.load(Ordering::Relaxed) {
            return;
        }
        let second_instance = self.interner.host(state.hosts[0]).host.has_second_instance();
        for &message in &state.sent {
            actions.push(Action::Deliver { message, second_instance: false });
            if second_instance && self.interner.envelope(message).to == Node::Master {
                actions.push(Action::Deliver { message, second_instance: true });
            }
        }
        for (node, &host) in (0..).zip(&state.hosts) {
            let entry = self.interner.host(host);
            for (item, (local, _)) in (0..).zip(self.interner.local_steps(host)) {
                if self.allowed(&entry.host, local, state.budget).is_some() {
                    actions.push(Action::Local { node, host, item });
                }
            }
        }
        if let Some(request) = self.options.script.get(usize::from(state.budget.next_call)) {
            // A get may start at any replica.
            let choices = match request {
                Request::Get { .. } | Request::Snapshot { .. } => self.options.setup.replicas,
                Request::Write(_) => 1,
            };
            actions.extend((0..choices).map(|choice| Action::Call { choice }));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.successor(state, action, false).map(|(after, _)| after)
    }

    fn format_action(&self, action: &Action) -> String {
        match *action {
            Action::Deliver { message, second_instance } => {
                self.delivery(message, second_instance).to_string()
            }
            Action::Local { host, item, .. } => self.local_step(host, item).to_string(),
            Action::Call { .. } => "a client makes the next call".to_owned(),
        }
    }

    fn format_step(&self, state: &State, action: Action) -> Option<String> {
        let step = self.step_of(state, action)?;
        let after = self.next_state(state, action)?;
        Some(format!("{step}\n\n{after:?}"))
    }

    // Stateright takes plain functions, which capture nothing: hence one per property.
    fn properties(&self) -> Vec<ModelProperty<Self>> {
        macro_rules! always {
            ($($property:ident),*) => {
                vec![$(ModelProperty::always(Property::$property.name(), |model: &Self, state| {
                    let property = Property::$property;
                    model.holds(state, property) || !model.is_first_found(property as usize, state)
                })),*]
            };
        }
        let mut properties = always!(
            Ac1,
            Ac2,
            Ac3,
            ReplySoundness,
            Durability,
            R1,
            CommitRetention,
            MonotonicVersions,
            MachineInvariants,
            Conflicts,
            Linearizability,
            Termination
        );
        macro_rules! sometimes {
            ($($index:literal),*) => {
                [$(ModelProperty::sometimes(SITUATIONS[$index].name, |model: &Self, state| {
                    let claim = Property::ALL.len() + $index;
                    !model.found_before(claim, state)
                        && (SITUATIONS[$index].reached)(model, state)
                        && model.is_first_found(claim, state)
                })),*]
            };
        }
        let situations = sometimes!(0, 1, 2, 3, 4, 5, 6);
        properties.extend(
            situations
                .into_iter()
                .zip(SITUATIONS)
                .filter(|(_, situation)| (situation.possible)(&self.options))
                .map(|(property, _)| property),
        );
        properties
    }
}
