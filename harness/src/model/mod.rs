//! The model: the machines of the protocol, with their stores, explored exhaustively by stateright.
//! No second description of the protocol: every step is the real machine's. Knows nothing of time,
//! processes or sockets.
//!
//! A cluster's state is what its nodes are, every message ever sent (so that loss, repetition and
//! any order of arrival come for free), and what a judge remembers. Delivering, forcing, timers,
//! crashes and restarts are steps of their own: merging them hides bugs. What is left out, and why
//! that loses nothing, stands where it is left out: `ScheduleSetup::bare`, [`ModelOptions`], `allowed`.

pub mod command;
pub mod explore;
mod fair;
mod state;
#[cfg(test)]
mod tests;
mod world;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use stateright::{Model, Property as Claim};
use system::protocol::{Body, CommitMode, Key, Node, Request, Rules, TimerId, Timing, Write};

use crate::schedule::{Cluster, Fact, Host, Judge, Property, ScheduleSetup, Step, View, refused};
use state::Left;
pub use state::{Action, State};
use world::{Done, Envelope, Id, Local, World};

/// What is explored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelOptions {
    /// The cluster.
    pub setup: ScheduleSetup,
    /// What clients ask, in this order; the next may ask before the last has its answer.
    pub script: Vec<Request>,
    /// How often the master may crash.
    pub master_crashes: u8,
    /// How often replicas may crash, all together.
    pub replica_crashes: u8,
    /// How often replicas may lose their stores, all together.
    pub wipes: u8,
    /// How often a second instance of the master may start on its store; a machine room that keeps
    /// `exclusive-store` has none.
    pub second_instances: u8,
    /// Whether clusters that differ in the replicas' names alone count as one.
    pub symmetry: bool,
    /// Whether messages that can change nothing any more are left out; without it there are more
    /// states, and nothing else is found.
    pub reduced: bool,
    /// Whether the master's heartbeat may run out, by which it gives up every replica at once.
    pub heartbeats: bool,
    /// Whether the clients' history is judged, not only R1.
    pub histories: bool,
    /// Go on until this property is found broken, past others that are; none to end at the first.
    pub until: Option<Property>,
}

impl ModelOptions {
    /// A cluster in which nothing fails and replicas ask each other, and what clients ask of it.
    #[must_use]
    pub fn of(replicas: u8, script: Vec<Request>) -> Self {
        // Nothing is counted and nothing waits for a number of repeats: one step of a timer stands
        // for any number of them.
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
            settled: true,
            bare: true,
        };
        ModelOptions {
            setup,
            script,
            master_crashes: 0,
            replica_crashes: 0,
            wipes: 0,
            second_instances: 0,
            symmetry: true,
            reduced: true,
            heartbeats: false,
            histories: false,
            until: None,
        }
    }
}

/// The model.
pub struct TwoPhase {
    options: ModelOptions,
    world: Arc<World>,
    fair: fair::Verdicts,
    /// The state in which each property was first found broken, and each situation reached.
    first: Vec<OnceLock<u64>>,
    /// Nothing more is to be explored.
    stop: Arc<AtomicBool>,
}

impl TwoPhase {
    /// A model of this.
    #[must_use]
    pub fn new(options: ModelOptions) -> Self {
        let mut keys: Vec<_> = options.script.iter().map(key).cloned().collect();
        keys.sort();
        keys.dedup();
        let first = (0..Property::ALL.len() + SITUATIONS.len()).map(|_| OnceLock::new()).collect();
        let world = World::new(options.setup.clone(), keys, options.symmetry);
        TwoPhase {
            options,
            world: Arc::new(world),
            fair: fair::Verdicts::default(),
            first,
            stop: Arc::default(),
        }
    }

    /// What is explored.
    #[must_use]
    pub fn options(&self) -> &ModelOptions {
        &self.options
    }

    /// How many different hosts, messages and judges were met so far.
    #[must_use]
    pub fn met(&self) -> [usize; 3] {
        self.world.met()
    }

    /// A step in the words of schedules; none for a call beyond the script.
    #[must_use]
    pub fn step_of(&self, state: &State, action: Action) -> Option<Step> {
        Some(match action {
            Action::Deliver { message, second_instance } => self.arrival(message, second_instance),
            Action::Call { choice } => Step::Client {
                call: state.left.next_call.into(),
                request: self.request(state.left.next_call, choice)?,
            },
            Action::Local { host, item, .. } => self.local(host, item),
        })
    }

    /// What follows when an action is taken: the steps that follow by themselves among it.
    #[must_use]
    pub fn steps_of(&self, state: &State, action: Action) -> Vec<Step> {
        let Some(step) = self.step_of(state, action) else { return Vec::new() };
        let mut steps = vec![step];
        if let Some((_, implied)) = self.take(state, action, true) {
            steps.extend(implied);
        }
        steps
    }

    fn local(&self, host: Id, item: u8) -> Step {
        let (local, _) = &self.world.menu(host)[usize::from(item)];
        local.clone().at(self.world.host(host).host.node())
    }

    fn arrival(&self, message: Id, second_instance: bool) -> Step {
        let Envelope { from, to, message } = self.world.envelope(message).clone();
        Step::Deliver { from, to, message, second_instance }
    }

    fn request(&self, call: u8, choice: u8) -> Option<Request> {
        let mut request = self.options.script.get(usize::from(call))?.clone();
        if let Request::Get { choice: it, .. } = &mut request {
            *it = choice.into();
        }
        Some(request)
    }

    /// Whether the bounds allow something to happen to a node, and what is left after it.
    fn allowed(&self, host: &Host, local: &Local, left: Left) -> Option<Left> {
        let mut after = left;
        let node = host.node();
        let crashes = match node {
            Node::Master => &mut after.master_crashes,
            Node::Replica(_) => &mut after.replica_crashes,
        };
        match local {
            Local::Force { .. } => {}
            Local::Timer { id: TimerId::Heartbeat, .. } if !self.options.heartbeats => return None,
            Local::Timer { .. } => {}
            // What a kill leaves unforced differs from what a loss of power leaves only for a
            // later crash of the same kind.
            Local::Kill { .. } if *crashes < 2 => return None,
            Local::Kill { .. } | Local::PowerLoss { .. } => *crashes = crashes.checked_sub(1)?,
            // A process that ended of itself would do so again, for ever; but one that gave way to
            // its second instance may be taken for dead by whoever looks after it.
            Local::Restart if host.stopped() && !host.has_second_instance() => return None,
            Local::Restart => {}
            Local::SecondInstance if node != Node::Master => return None,
            Local::SecondInstance => {
                after.second_instances = after.second_instances.checked_sub(1)?
            }
            Local::Wipe => after.wipes = after.wipes.checked_sub(1)?,
        }
        Some(after)
    }

    /// The state after something was done to a node, and after all that follows by itself.
    fn after(
        &self,
        state: &State,
        node: usize,
        done: &Done,
        left: Left,
        tell: bool,
    ) -> (State, Vec<Step>) {
        let mut next = Next {
            model: self,
            hosts: state.hosts.clone(),
            sent: state.sent.to_vec(),
            judge: state.judge,
            tell,
            implied: Vec::new(),
        };
        next.hosts[node] = done.host;
        next.observe(done);
        next.saturate(node, &done.sent);
        next.tidy(left);
        let Next { hosts, sent, judge, implied, .. } = next;
        (State::new(self.world.clone(), hosts, sent.into(), judge, left), implied)
    }

    /// Takes an action, and with `tell` says what else follows by itself. None if the action cannot
    /// be taken, or makes no difference.
    fn take(&self, state: &State, action: Action, tell: bool) -> Option<(State, Vec<Step>)> {
        match action {
            Action::Deliver { message, second_instance } => {
                let to = self.world.to(message);
                let done = self.world.deliver(state.hosts[to], message, second_instance)?;
                if done.host == state.hosts[to] {
                    return None;
                }
                Some(self.after(state, to, &done, state.left, tell))
            }
            Action::Local { node, host, item } => {
                let (local, done) = &self.world.menu(host)[usize::from(item)];
                if done.host == host {
                    return None;
                }
                let left = self.allowed(&self.world.host(host).host, local, state.left)?;
                Some(self.after(state, usize::from(node), done, left, tell))
            }
            Action::Call { choice } => {
                let call = state.left.next_call;
                let request = self.request(call, choice)?;
                let master = state.hosts[0];
                let done = self.world.call(master, call.into(), choice.into(), &request)?;
                let left = Left { next_call: call + 1, ..state.left };
                let after = self.after(state, 0, &done, left, tell);
                // A call that is refused at once leaves no trace: a shorter script shows the rest.
                let refusal = done
                    .facts
                    .iter()
                    .any(|fact| matches!(fact, Fact::Answered(_, reply) if refused(reply)));
                (!refusal || !self.judge(&after.0).content()).then_some(after)
            }
        }
    }

    /// Whether messages are left out that can change nothing any more: the argument for it needs
    /// the rules, or all but those that others cover for, and replicas that nobody suspects.
    fn reduces(&self) -> bool {
        let ModelOptions { reduced, heartbeats, setup, .. } = &self.options;
        *reduced && !heartbeats && setup.rules.broken().all(|rule| rule.is_equivalent(setup.commit))
    }

    /// Whether nothing more is to be learnt where something was found broken.
    fn is_over(&self, judge: &Judge) -> bool {
        match self.options.until {
            None => !judge.content(),
            // What a machine does past an impossible state means nothing.
            Some(property) => judge.found(property) || judge.found(Property::NoHalt),
        }
    }

    fn view<'a>(&'a self, state: &'a State, node: u8) -> &'a View {
        &self.world.host(state.hosts[usize::from(node)]).view
    }

    fn views<'a>(&'a self, state: &'a State) -> impl Iterator<Item = &'a View> {
        state.hosts.iter().map(|id| &self.world.host(*id).view)
    }

    fn judge<'a>(&'a self, state: &'a State) -> &'a Judge {
        self.world.judge(state.judge)
    }

    /// Whether this is the first of the states that the checker found to be so, which lies on a
    /// shortest path. Stateright would report the last of them.
    fn first(&self, claim: usize, state: &State) -> bool {
        *self.first[claim].get_or_init(|| state.hash) == state.hash
    }

    /// Whether some other state was found to be so before.
    fn later(&self, claim: usize, state: &State) -> bool {
        self.first[claim].get().is_some_and(|first| *first != state.hash)
    }

    fn holds(&self, state: &State, property: Property) -> bool {
        let judge = self.judge(state);
        let replicas = self.options.setup.replicas;
        match property {
            Property::R1 => {
                !judge.found(property)
                    && judge.readable_is_last(&|slot| self.view(state, slot), replicas)
            }
            Property::Durability => {
                judge.committed_is_durable(&|slot| self.view(state, slot), replicas)
            }
            Property::Settles => self.settles(state),
            _ => !judge.found(property),
        }
    }

    /// The master is down, and every replica is up and in doubt.
    fn all_in_doubt(&self, state: &State) -> bool {
        !self.view(state, 0).up
            && self.views(state).skip(1).all(|view| view.up && view.in_doubt().next().is_some())
    }
}

/// A state in the making.
struct Next<'a> {
    model: &'a TwoPhase,
    hosts: Box<[Id]>,
    sent: Vec<Id>,
    judge: Id,
    /// Whether to tell what follows by itself, and that.
    tell: bool,
    implied: Vec<Step>,
}

impl Next<'_> {
    /// Lets everybody say what they can say without being changed by it: answer a message that
    /// asks, repeat what a timer repeats. A message that is there need not arrive, so saying it at
    /// once takes away no schedule; and each such state is reached by really saying it at once.
    fn saturate(&mut self, changed: usize, said: &[Id]) {
        let world = &self.model.world;
        let mut fresh: Vec<Id> = Vec::new();
        self.learn(said, &mut fresh);
        let mut old: Vec<Id> =
            self.sent.iter().copied().filter(|id| world.to(*id) == changed).collect();
        for (local, done) in world.menu(self.hosts[changed]) {
            let heartbeat = matches!(local, Local::Timer { id: TimerId::Heartbeat, .. });
            if done.host == self.hosts[changed] && !heartbeat {
                if self.tell {
                    self.implied.push(local.clone().at(world.host(done.host).host.node()));
                }
                self.observe(done);
                self.learn(&done.sent, &mut fresh);
            }
        }
        while let Some(message) = old.pop().or_else(|| fresh.pop()) {
            let to = world.to(message);
            let second_instances = to == 0 && world.host(self.hosts[0]).host.has_second_instance();
            for second_instance in [false, true].into_iter().take(1 + usize::from(second_instances))
            {
                if let Some(done) = world.deliver(self.hosts[to], message, second_instance)
                    && done.host == self.hosts[to]
                {
                    if self.tell {
                        self.implied.push(self.model.arrival(message, second_instance));
                    }
                    self.observe(&done);
                    self.learn(&done.sent, &mut fresh);
                }
            }
        }
    }

    /// Adds messages to those that were sent; `fresh` takes those that are new.
    fn learn(&mut self, said: &[Id], fresh: &mut Vec<Id>) {
        for id in said {
            if let Err(at) = self.sent.binary_search(id) {
                self.sent.insert(at, *id);
                fresh.push(*id);
            }
        }
    }

    fn observe(&mut self, done: &Done) {
        if done.facts.is_empty() {
            return;
        }
        let world = &self.model.world;
        let mut judge = world.judge(self.judge).clone();
        let replica = |slot: u8| &world.host(self.hosts[usize::from(slot)]).view;
        let node = world.host(done.host).host.node();
        judge.observe(node, &done.facts, &replica, self.model.options.setup.replicas);
        self.judge = world.keep_judge(judge);
    }

    /// Takes out what makes no difference any more.
    fn tidy(&mut self, left: Left) {
        let world = &self.model.world;
        for (node, id) in self.hosts.iter_mut().enumerate() {
            let crashes = if node == 0 { left.master_crashes } else { left.replica_crashes };
            let tidied = if crashes == 0 && left.wipes == 0 { world.tidied(*id) } else { *id };
            if tidied != *id && self.tell {
                let host = &world.host(*id).host;
                let (node, upto) = (host.node(), host.forceable(false));
                self.implied.push(Step::Force { node, upto, second_instance: false });
            }
            *id = tidied;
        }
        if left.wipes > 0 || self.model.options.second_instances > 0 {
            return;
        }
        let hosts = &self.hosts;
        self.sent.retain(|id| !world.barred(*id, hosts[world.to(*id)]));
        if self.model.reduces() {
            let crashes = [left.master_crashes > 0, left.replica_crashes > 0];
            let sent = self.sent.clone();
            self.sent.retain(|id| !world.spent(*id, hosts, &sent, crashes));
        }
    }
}

/// The key that a request is about.
fn key(request: &Request) -> &Key {
    match request {
        Request::Write(Write { key, .. }) | Request::Get { key, .. } => key,
    }
}

/// A situation that a model has to reach, or its properties may hold for want of events.
struct Situation {
    name: &'static str,
    /// Whether it can be reached at all.
    possible: fn(&ModelOptions) -> bool,
    reached: fn(&TwoPhase, &State) -> bool,
}

const SITUATIONS: [Situation; 6] = [
    Situation {
        name: "commit",
        possible: writes,
        reached: |model, state| model.judge(state).saw_commit(),
    },
    Situation {
        name: "abort",
        possible: writes,
        reached: |model, state| model.judge(state).saw_abort(),
    },
    Situation {
        name: "Ok while a replica is locked",
        possible: writes,
        reached: |model, state| {
            let mut locked = model.views(state).skip(1).flat_map(View::in_doubt);
            locked.any(|txn| model.judge(state).said_ok(txn))
        },
    },
    Situation {
        name: "all in doubt with the master down",
        possible: |options| writes(options) && options.master_crashes > 0,
        reached: TwoPhase::all_in_doubt,
    },
    // The client has its Ok, and nobody who is up can know.
    Situation {
        name: "truly blocked",
        possible: |options| {
            let blocks = options.setup.commit == CommitMode::Logged;
            blocks && writes(options) && options.master_crashes > 0
        },
        reached: |model, state| {
            let mut unknown_because = model.view(state, 1).in_doubt();
            model.all_in_doubt(state) && unknown_because.any(|txn| model.judge(state).said_ok(txn))
        },
    },
    Situation {
        name: "peers resolve",
        possible: |options| writes(options) && options.setup.peers,
        reached: |model, state| {
            let told = |id: &&Id| {
                matches!(model.world.envelope(**id).message.body, Body::PeerAnswer { .. })
            };
            let helps = |id: &Id| {
                let to = state.hosts[model.world.to(*id)];
                model.world.deliver(to, *id, false).is_some_and(|done| done.host != to)
            };
            state.sent.iter().filter(told).any(helps)
        },
    },
];

fn writes(options: &ModelOptions) -> bool {
    options.script.iter().any(|request| matches!(request, Request::Write(_)))
}

impl Model for TwoPhase {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let cluster = Cluster::new(self.options.setup.clone());
        let hosts = cluster.hosts().iter().map(|host| self.world.keep_host(host.clone()));
        let sent = cluster.under_way().map(|(from, to, message)| {
            self.world.keep_message(Envelope { from: *from, to: *to, message: message.clone() })
        });
        let mut sent: Vec<_> = sent.collect();
        sent.sort_unstable();
        let judge = self.world.keep_judge(Judge::new(self.options.histories));
        let ModelOptions { master_crashes, replica_crashes, wipes, second_instances, .. } =
            self.options;
        let left = Left { next_call: 0, master_crashes, replica_crashes, wipes, second_instances };
        vec![State::new(self.world.clone(), hosts.collect(), sent.into(), judge, left)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.is_over(self.judge(state)) || self.stop.load(Ordering::Relaxed) {
            return;
        }
        let second_instance = self.world.host(state.hosts[0]).host.has_second_instance();
        for &message in &state.sent {
            actions.push(Action::Deliver { message, second_instance: false });
            if second_instance && self.world.envelope(message).to == Node::Master {
                actions.push(Action::Deliver { message, second_instance: true });
            }
        }
        for (node, &host) in (0..).zip(&state.hosts) {
            let known = self.world.host(host);
            for (item, (local, _)) in (0..).zip(self.world.menu(host)) {
                if self.allowed(&known.host, local, state.left).is_some() {
                    actions.push(Action::Local { node, host, item });
                }
            }
        }
        if let Some(request) = self.options.script.get(usize::from(state.left.next_call)) {
            // Any number that picks a replica will do, one for each.
            let choices = match request {
                Request::Get { .. } => self.options.setup.replicas,
                Request::Write(_) => 1,
            };
            actions.extend((0..choices).map(|choice| Action::Call { choice }));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.take(state, action, false).map(|(after, _)| after)
    }

    fn format_action(&self, action: &Action) -> String {
        match *action {
            Action::Deliver { message, second_instance } => {
                self.arrival(message, second_instance).to_string()
            }
            Action::Local { host, item, .. } => self.local(host, item).to_string(),
            Action::Call { .. } => "a client makes the next call".to_owned(),
        }
    }

    fn format_step(&self, state: &State, action: Action) -> Option<String> {
        let step = self.step_of(state, action)?;
        let after = self.next_state(state, action)?;
        Some(format!("{step}\n\n{after:?}"))
    }

    fn properties(&self) -> Vec<Claim<Self>> {
        macro_rules! always {
            ($($property:ident),*) => {
                vec![$(Claim::always(Property::$property.name(), |model: &Self, state| {
                    let property = Property::$property;
                    model.holds(state, property) || !model.first(property as usize, state)
                })),*]
            };
        }
        let mut claims = always!(
            Ac1,
            Ac2,
            Ac3,
            ReplySoundness,
            Durability,
            R1,
            Forgetting,
            Versions,
            NoHalt,
            Conflicts,
            Linearizability,
            Settles
        );
        macro_rules! sometimes {
            ($($at:literal),*) => {
                [$(Claim::sometimes(SITUATIONS[$at].name, |model: &Self, state| {
                    let claim = Property::ALL.len() + $at;
                    !model.later(claim, state)
                        && (SITUATIONS[$at].reached)(model, state)
                        && model.first(claim, state)
                })),*]
            };
        }
        let situations = sometimes!(0, 1, 2, 3, 4, 5);
        claims.extend(
            situations
                .into_iter()
                .zip(SITUATIONS)
                .filter(|(_, it)| (it.possible)(&self.options))
                .map(|(claim, _)| claim),
        );
        claims
    }
}
