//! One run of a cluster in virtual time. Everything that happens is drawn from the seed, in one
//! order, so that a seed is a run, bit for bit. Knows the machines through [`Host`] alone.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use system::{
    journal::Entry,
    protocol::{
        AbortReason, Body, CallId, Effect, Event, Key, Lsn, Message, Node, Record, Reply, Request,
        TimerId, TxnId, Value, Write,
    },
};

use super::plan::{Fault, Plan};
use crate::{
    generator::{ClientRequest, Generator, nemesis_rng},
    history::{Action, ClientEvent, Event as Observed, Function, Kind, NemesisEvent, error_of},
    schedule::{Disks, Fact, Host, Judge, Outcome, Property, Step, View, at_rest},
};

/// A lazy record is forced after this at the latest.
const IDLE: u64 = 10_000_000;
/// When all is repaired, everything must be settled within this.
const CONVERGENCE: u64 = 30_000_000_000;

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    /// What clients saw, and what befell the nodes.
    pub history: Vec<Observed>,
    /// What each node was told and wanted; empty unless it was to be recorded.
    pub journals: BTreeMap<Node, Vec<(usize, Entry)>>,
    /// What happened, as a schedule; empty unless it was to be recorded.
    pub steps: Vec<Step>,
    /// The nodes at the end.
    pub hosts: Vec<Host>,
    /// What was found broken on the way and at the end.
    pub broken: Vec<Property>,
    /// When it ended, in nanoseconds of its own time.
    pub ended: u64,
    /// What happened how often.
    pub count: Count,
}

/// What happened how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Operations of clients.
    pub operations: u64,
    /// Of these, those that were answered with success.
    pub ok: u64,
    /// Of these, those whose outcome the client never learnt.
    pub info: u64,
    /// Crashes and losses of power.
    pub crashes: u64,
    /// Pauses and partitions.
    pub other_faults: u64,
    /// Of the crashes those that struck in the middle of a step on which something rests.
    pub at_points: u64,
    /// Crashes that left some replica in doubt.
    pub in_doubt: u64,
    /// Transactions that replicas were in doubt about at crashes of the master, each at each.
    pub unknown_because: u64,
    /// Messages sent.
    pub messages: u64,
    /// Steps of machines.
    pub steps: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        let Count {
            operations,
            ok,
            info,
            crashes,
            other_faults,
            at_points,
            in_doubt,
            unknown_because,
            messages,
            steps,
        } = other;
        self.operations += operations;
        self.ok += ok;
        self.info += info;
        self.crashes += crashes;
        self.other_faults += other_faults;
        self.at_points += at_points;
        self.in_doubt += in_doubt;
        self.unknown_because += unknown_because;
        self.messages += messages;
        self.steps += steps;
    }
}

/// What is to happen.
#[derive(Clone, Debug)]
enum What {
    Arrive {
        from: Node,
        to: Node,
        /// The lives of the two when it was sent.
        lives: (u64, u64),
        message: Box<Message>,
    },
    Timer {
        node: Node,
        second_instance: bool,
        id: TimerId,
        life: u64,
        set: u64,
    },
    Forced {
        node: Node,
        second_instance: bool,
        life: u64,
        upto: Lsn,
    },
    /// Lazy records have waited long enough.
    Idle {
        node: Node,
        second_instance: bool,
        life: u64,
    },
    /// A client asks its next question.
    Think {
        client: usize,
    },
    /// A call reaches the master.
    Call {
        call: CallId,
    },
    /// An answer reaches its client; none if the connection was cut.
    Answer {
        call: CallId,
        reply: Option<Reply>,
    },
    /// A client has waited long enough.
    GiveUp {
        call: CallId,
    },
    Injection(Fault),
    /// A process that has just started loses power again.
    Relapse {
        node: Node,
        life: u64,
    },
    Restart {
        node: Node,
    },
    Resume {
        node: Node,
        pause: u64,
    },
    Heal {
        from: Node,
        to: Node,
    },
}

/// When, and in which order of being planned.
#[derive(Clone, Debug)]
struct Planned {
    at: u64,
    order: u64,
    what: What,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A node and the machine that it runs on.
struct Place {
    host: Host,
    /// Counts the processes that it had: what was planned for an earlier one is void.
    life: u64,
    /// Counts pauses; it stands still while some are open.
    paused: Option<u64>,
    /// What happened to it meanwhile.
    missed: Vec<What>,
    /// By process (the second instance is the second): a force is under way, and one is wanted.
    disk: [(bool, bool); 2],
    /// By process: when each timer was set last.
    timers: BTreeMap<(bool, TimerId), u64>,
}

struct Client {
    process: u64,
    generator: Generator,
}

struct Call {
    client: usize,
    request: Request,
    process: u64,
    /// It has reached the master.
    arrived: bool,
    /// The client no longer waits.
    over: bool,
    /// Nobody could be reached who might have taken the call.
    nobody: bool,
}

/// The replicas' disks, for the judge.
struct Hosts<'a>(&'a [Place]);

impl Hosts<'_> {
    fn look(&self, slot: u8, txn: TxnId, also_prepared: bool) -> bool {
        let Some(place) = self.0.get(usize::from(slot)) else { return true };
        if !place.host.intact() {
            return true;
        }
        let durable = place.host.store().durable();
        match durable.facts().of_txn(txn) {
            Some(Record::Prepare { .. }) => also_prepared,
            Some(Record::Commit { .. }) => true,
            _ => txn < durable.facts().watermark(),
        }
    }
}

impl Disks for Hosts<'_> {
    fn holds(&self, slot: u8, txn: TxnId) -> bool {
        self.look(slot, txn, true)
    }

    fn has(&self, slot: u8, txn: TxnId) -> bool {
        self.look(slot, txn, false)
    }
}

/// A run under way.
pub(super) struct Engine<'a> {
    plan: &'a Plan,
    record: bool,
    rng: ChaCha8Rng,
    now: u64,
    order: u64,
    queue: BinaryHeap<Reverse<Planned>>,
    places: Vec<Place>,
    /// One-way cuts, and how often each was made.
    cuts: BTreeMap<(Node, Node), u32>,
    clients: Vec<Client>,
    calls: Vec<Call>,
    /// Calls whose clients still wait.
    open: u32,
    keys: Vec<Key>,
    judge: Judge,
    /// Clients ask and faults strike.
    loaded: bool,
    history: Vec<Observed>,
    journals: BTreeMap<Node, Vec<(usize, Entry)>>,
    steps: Vec<Step>,
    count: Count,
}

impl<'a> Engine<'a> {
    pub(super) fn new(plan: &'a Plan, record: bool) -> Self {
        Engine {
            plan,
            record,
            rng: nemesis_rng(plan.seed),
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            places: Vec::new(),
            cuts: BTreeMap::new(),
            clients: Vec::new(),
            calls: Vec::new(),
            open: 0,
            keys: (0..plan.keys).map(|n| Key::from(format!("k{n}").as_str())).collect(),
            judge: Judge::new(false),
            loaded: true,
            history: Vec::new(),
            journals: BTreeMap::new(),
            steps: Vec::new(),
            count: Count::default(),
        }
    }

    pub(super) fn run(mut self) -> Ran {
        self.begin();
        self.go_on(|it| it.now >= it.plan.load);
        self.repair();
        let repaired = self.now;
        self.go_on(|it| it.now > repaired + CONVERGENCE || it.at_rest());
        if !self.at_rest() {
            self.judge.condemn(Property::Settles);
        }
        self.read_everything();
        self.inspect();
        Ran {
            history: self.history,
            journals: self.journals,
            steps: self.steps,
            hosts: self.places.into_iter().map(|place| place.host).collect(),
            broken: self.judge.broken(),
            ended: self.now,
            count: self.count,
        }
    }

    // ---- The course of a run ----

    fn begin(&mut self) {
        let nodes: Vec<_> = self.plan.setup.nodes().collect();
        for node in nodes {
            let (host, outcome) = Host::fresh(&self.plan.setup, node);
            let disk = [(false, false); 2];
            let timers = BTreeMap::new();
            self.places.push(Place {
                host,
                life: 0,
                paused: None,
                missed: Vec::new(),
                disk,
                timers,
            });
            self.note_start(node, &[]);
            self.take(node, false, None, outcome);
        }
        for client in 0..self.plan.clients {
            let Plan { seed, clients, keys, .. } = *self.plan;
            let mix = self.plan.weights();
            let generator = Generator::new(seed, client, clients, mix, keys, 0.0);
            self.clients.push(Client { process: client.into(), generator });
            let after = self.draw(0, self.plan.think);
            self.later(after, What::Think { client: client as usize });
        }
        for (fault, mean) in &self.plan.faults {
            let after = self.draw(0, 2 * mean);
            self.later(after, What::Injection(*fault));
        }
    }

    fn go_on(&mut self, until: impl Fn(&Self) -> bool) {
        while !until(self) {
            let Some(Reverse(Planned { at, what, .. })) = self.queue.pop() else { return };
            self.now = self.now.max(at);
            self.happen(what);
        }
    }

    /// Ends every fault. What was planned goes on.
    fn repair(&mut self) {
        self.loaded = false;
        self.cuts.clear();
        self.nemesis("heal", None);
        for at in 0..self.places.len() {
            let node = self.places[at].host.node();
            if let Some(pause) = self.places[at].paused {
                self.later(0, What::Resume { node, pause });
            }
            if self.places[at].host.has_second_instance() {
                self.crash(node, false);
            }
            if !self.places[at].host.up() {
                self.later(0, What::Restart { node });
            }
        }
    }

    fn at_rest(&self) -> bool {
        self.open == 0 && self.places.iter().all(|place| at_rest(&place.host))
    }

    /// Reads every key through the master, as a client that comes last.
    fn read_everything(&mut self) {
        for key in 0..self.plan.keys {
            let client = self.clients.len();
            let process = 1_000_000 + u64::from(key);
            let Plan { seed, clients, keys, .. } = *self.plan;
            let generator =
                Generator::new(seed, clients + key, clients, self.plan.weights(), keys, 0.0);
            self.clients.push(Client { process, generator });
            let request = self.get(self.keys[key as usize].clone());
            let call = self.ask(client, request);
            self.go_on(|it| it.calls[call].over);
        }
    }

    /// What remains at the end: the same everywhere, and what was decided last.
    fn inspect(&mut self) {
        let views: Vec<_> =
            self.places.iter().map(|place| View::of(&place.host, &self.keys)).collect();
        let settled = !self.judge.found(Property::Settles);
        self.judge.inspect(|slot| &views[usize::from(slot)], self.plan.setup.replicas);
        let entries = |place: &Place| -> Vec<(Key, TxnId, Value)> {
            let all = place.host.store().entries();
            all.map(|(key, (version, value))| (key.clone(), *version, value.clone())).collect()
        };
        let mut replicas = self.places.iter().skip(1).filter(|place| place.host.intact());
        let first = replicas.next().map(entries);
        if settled && !replicas.all(|place| Some(entries(place)) == first) {
            self.judge.condemn(Property::Ac1);
        }
    }

    // ---- What happens ----

    fn happen(&mut self, what: What) {
        let node = match &what {
            What::Arrive { to, .. } => Some(*to),
            What::Timer { node, .. } | What::Forced { node, .. } | What::Idle { node, .. } => {
                Some(*node)
            }
            What::Call { .. } => Some(Node::Master),
            _ => None,
        };
        if let Some(node) = node {
            let place = &mut self.places[place_of(node)];
            // The second instance runs while the first process stands still.
            let second_instances = place.host.has_second_instance();
            let for_second_instance = match &what {
                What::Timer { second_instance, .. }
                | What::Forced { second_instance, .. }
                | What::Idle { second_instance, .. } => *second_instance,
                _ => second_instances,
            };
            if place.paused.is_some() && !for_second_instance {
                place.missed.push(what);
                return;
            }
        }
        match what {
            What::Arrive { from, to, lives, message } => {
                // What a process leaves in its connections when it dies may go with it.
                let held = lives.0 == u64::MAX;
                let torn = !held && lives != (self.life(from), self.life(to));
                if torn && self.chance(self.plan.torn, 1000) {
                    return;
                }
                let message = *message;
                let second_instance = self.picks_second_instance(to);
                let done = self.places[place_of(to)].host.receive(
                    &self.plan.setup,
                    from,
                    &message,
                    second_instance,
                );
                if let Some(outcome) = done {
                    if self.record {
                        let message = message.clone();
                        self.steps.push(Step::Deliver { from, to, message, second_instance });
                    }
                    self.take(to, second_instance, Some(Event::Message { from, message }), outcome);
                }
            }
            What::Timer { node, second_instance, id, life, set } => {
                let place = &mut self.places[place_of(node)];
                if place.life != life || place.timers.get(&(second_instance, id)) != Some(&set) {
                    return;
                }
                place.timers.remove(&(second_instance, id));
                if let Some(outcome) = place.host.timer(&self.plan.setup, id, second_instance) {
                    self.step(Step::Timer { node, id, second_instance });
                    self.take(node, second_instance, Some(Event::Timer(id)), outcome);
                }
            }
            What::Forced { node, second_instance, life, upto } => {
                self.forced(node, second_instance, life, upto)
            }
            What::Idle { node, second_instance, life } => {
                if self.places[place_of(node)].life == life {
                    self.force(node, second_instance);
                }
            }
            What::Think { client } => self.think(client),
            What::Call { call } => self.call(call),
            What::Answer { call, reply } => self.answer(call, reply),
            What::GiveUp { call } => self.answer(call, None),
            What::Injection(fault) => self.strike(fault),
            What::Relapse { node, life } => {
                if self.loaded && self.life(node) == life {
                    self.crash(node, true);
                }
            }
            What::Restart { node } => self.restart(node),
            What::Resume { node, pause } => {
                let place = &mut self.places[place_of(node)];
                if place.paused == Some(pause) {
                    place.paused = None;
                    let missed = std::mem::take(&mut place.missed);
                    self.nemesis("resume", Some(node));
                    missed.into_iter().for_each(|what| self.later(0, what));
                }
            }
            What::Heal { from, to } => {
                if let Some(count) = self.cuts.get_mut(&(from, to)) {
                    *count -= 1;
                    if *count == 0 {
                        self.cuts.remove(&(from, to));
                    }
                }
            }
        }
    }

    /// Whether what arrives at a node arrives at its second instance.
    fn picks_second_instance(&mut self, node: Node) -> bool {
        let place = &self.places[place_of(node)];
        place.host.has_second_instance() && (place.paused.is_some() || self.rng.random_bool(0.5))
    }

    /// Takes up what a machine made of an event.
    fn take(&mut self, node: Node, second_instance: bool, event: Option<Event>, outcome: Outcome) {
        self.count.steps += 1;
        let Outcome { sent, facts, effects } = outcome;
        if self.record {
            let journal = self.journals.entry(node).or_default();
            if let Some(event) = event {
                journal.push((journal.len() + 1, Entry::Event { t: self.now, event }));
            }
            for effect in &effects {
                journal.push((journal.len() + 1, Entry::Effect(effect.clone())));
            }
        }
        if !facts.is_empty() {
            let disks = Hosts(&self.places);
            self.judge.observe(node, &facts, &disks, self.plan.setup.replicas);
        }
        self.watch_reads(node, &facts, &sent);
        if self.strikes_here(node, &effects) {
            return self.break_off(node, effects, sent);
        }
        let at = place_of(node);
        let life = self.places[at].life;
        let mut appended = false;
        for effect in effects {
            match effect {
                Effect::Force(_) => self.force(node, second_instance),
                Effect::Append(_) => appended = true,
                Effect::SetTimer { id, after } => {
                    let set = self.order;
                    self.places[at].timers.insert((second_instance, id), set);
                    let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX / 4);
                    self.later(after, What::Timer { node, second_instance, id, life, set });
                }
                Effect::Reply { call, reply } => self.reply(call, reply),
                Effect::Halt { .. } => {
                    if !self.places[at].host.up() {
                        self.down(node);
                    }
                }
                Effect::Send { .. } | Effect::Serve { .. } | Effect::Warn(_) => {}
            }
        }
        if appended && !self.places[at].disk[usize::from(second_instance)].0 {
            self.later(IDLE, What::Idle { node, second_instance, life });
        }
        for (to, message) in sent {
            self.send(node, to, message);
        }
    }

    /// Judges what could be read where it may have changed: at a replica that has settled something
    /// or begins to serve, and everywhere when a write is decided.
    fn watch_reads(&mut self, node: Node, facts: &[Fact], sent: &[(Node, Message)]) {
        for fact in facts {
            let (txn, everywhere) = match fact {
                Fact::Decided(txn) | Fact::Published(txn) => (*txn, true),
                Fact::Settled { txn, .. } => (*txn, false),
                _ => continue,
            };
            let Some(key) = self.judge.key_of(txn).cloned() else { continue };
            for place in self.places.iter().skip(1) {
                if everywhere || place.host.node() == node {
                    self.judge.would_read(&key, place.host.would_read(&key));
                }
            }
        }
        if sent.iter().any(|(_, message)| matches!(message.body, Body::FenceOk { .. })) {
            let host = &self.places[place_of(node)].host;
            for key in &self.keys {
                self.judge.would_read(key, host.would_read(key));
            }
        }
    }

    /// Whether a process ends in the middle of a step.
    fn strikes_here(&mut self, node: Node, effects: &[Effect]) -> bool {
        let rests = |effect: &Effect| match effect {
            Effect::Append(_) | Effect::Reply { .. } => true,
            Effect::Send { message, .. } => matches!(
                message.body,
                Body::VoteYes { .. }
                    | Body::Decide { .. }
                    | Body::Ack { .. }
                    | Body::FenceOk { .. }
                    | Body::PeerAnswer { .. }
            ),
            _ => false,
        };
        let place = &self.places[place_of(node)];
        self.plan.points > 0
            && self.loaded
            && place.host.up()
            && !place.host.has_second_instance()
            && effects.iter().any(rests)
            && self.chance(self.plan.points, 10_000)
    }

    /// The process ends when it has done some of what it wanted.
    fn break_off(&mut self, node: Node, effects: Vec<Effect>, sent: Vec<(Node, Message)>) {
        let replies = effects.into_iter().filter_map(|effect| match effect {
            Effect::Reply { call, reply } => Some((call, reply)),
            _ => None,
        });
        for (call, outcome) in replies {
            if self.chance(1, 2) {
                self.reply(call, outcome);
            }
        }
        let said = self.rng.random_range(0..=sent.len());
        for (to, message) in sent.into_iter().take(said) {
            self.send(node, to, message);
        }
        self.count.at_points += 1;
        let power = self.chance(1, 2);
        self.crash(node, power);
    }

    fn reply(&mut self, call: CallId, outcome: Reply) {
        let after = self.delay();
        self.later(after, What::Answer { call, reply: Some(outcome) });
    }

    // ---- Disks and the network ----

    fn force(&mut self, node: Node, second_instance: bool) {
        let at = place_of(node);
        let place = &mut self.places[at];
        let (under_way, wanted) = &mut place.disk[usize::from(second_instance)];
        if *under_way {
            *wanted = true;
            return;
        }
        let upto = place.host.forceable(second_instance);
        if upto == 0 {
            return;
        }
        (*under_way, *wanted) = (true, false);
        let life = place.life;
        let slow = self.plan.slow_disk.is_some_and(|slow| usize::from(slow) == at);
        let after = self.draw(self.plan.disk.0, self.plan.disk.1) * if slow { 10 } else { 1 };
        self.later(after, What::Forced { node, second_instance, life, upto });
    }

    fn forced(&mut self, node: Node, second_instance: bool, life: u64, upto: Lsn) {
        let place = &mut self.places[place_of(node)];
        if place.life != life {
            return;
        }
        let wanted = std::mem::take(&mut place.disk[usize::from(second_instance)]).1;
        let lsn = place.host.position(second_instance) + upto;
        if let Some(outcome) = place.host.force(&self.plan.setup, upto, second_instance) {
            self.step(Step::Force { node, upto, second_instance });
            self.take(node, second_instance, Some(Event::Persisted(lsn)), outcome);
        }
        if wanted {
            self.force(node, second_instance);
        } else if self.places[place_of(node)].host.forceable(second_instance) > 0 {
            self.later(IDLE, What::Idle { node, second_instance, life });
        }
    }

    fn send(&mut self, from: Node, to: Node, message: Message) {
        self.count.messages += 1;
        let Plan { loss, repeats, held, .. } = *self.plan;
        if self.cuts.contains_key(&(from, to)) || (self.loaded && self.chance(loss, 1000)) {
            return;
        }
        let lives = (self.life(from), self.life(to));
        let message = Box::new(message);
        if self.loaded && self.chance(repeats, 1000) {
            let after = self.delay() * 3;
            self.later(after, What::Arrive { from, to, lives, message: message.clone() });
        }
        if self.loaded && self.chance(held, 1000) {
            // Somebody else holds it, past whatever happens to the two.
            let after = self.draw(0, 4_000_000_000);
            let lives = (u64::MAX, u64::MAX);
            return self.later(after, What::Arrive { from, to, lives, message });
        }
        let after = self.delay();
        self.later(after, What::Arrive { from, to, lives, message });
    }

    fn life(&self, node: Node) -> u64 {
        // At the very beginning some are still to come.
        self.places.get(place_of(node)).map_or(0, |place| place.life)
    }

    fn delay(&mut self) -> u64 {
        self.draw(self.plan.delay.0, self.plan.delay.1)
    }

    // ---- Clients ----

    fn think(&mut self, client: usize) {
        if !self.loaded {
            return;
        }
        let process = self.clients[client].process;
        let write = |key: String, value: Option<String>| {
            Request::Write(Write {
                key: key.as_str().into(),
                value: value.as_deref().map(Value::from),
            })
        };
        let request = match self.clients[client].generator.next(process) {
            ClientRequest::Get { key } => self.get(key.as_str().into()),
            ClientRequest::Put { key, value } => write(key, Some(value)),
            ClientRequest::Del { key } => write(key, None),
        };
        self.ask(client, request);
    }

    fn get(&mut self, key: Key) -> Request {
        let deadline = std::time::Duration::from_nanos(self.plan.patience);
        Request::Get { key, choice: self.rng.random(), deadline }
    }

    fn ask(&mut self, client: usize, request: Request) -> usize {
        let process = self.clients[client].process;
        self.count.operations += 1;
        let call = self.calls.len();
        self.observe(process, &request, Kind::Invoke, None, None);
        let (arrived, over, nobody) = (false, false, false);
        self.calls.push(Call { client, request, process, arrived, over, nobody });
        self.open += 1;
        let after = self.delay();
        self.later(after, What::Call { call: call as CallId });
        self.later(self.plan.patience, What::GiveUp { call: call as CallId });
        call
    }

    fn call(&mut self, call: CallId) {
        let known = &self.calls[call as usize];
        if known.over && !self.chance(self.plan.late, 1000) {
            return;
        }
        let known = &mut self.calls[call as usize];
        let request = known.request.clone();
        let second_instance = self.places[0].paused.is_some();
        if !self.places[0].host.up() || second_instance {
            known.nobody = true;
            // Refused at the door: it has certainly had no effect.
            let reply = match request {
                Request::Write(_) => {
                    Reply::Aborted(AbortReason::Unavailable { missing: Vec::new() })
                }
                Request::Get { .. } => Reply::Unavailable,
            };
            return self.answer(call, Some(reply));
        }
        known.arrived = true;
        if let Some(outcome) = self.places[0].host.ask(&self.plan.setup, call, &request) {
            self.step(Step::Client { call, request: request.clone() });
            self.take(Node::Master, false, Some(Event::Client { call, request }), outcome);
        }
    }

    fn answer(&mut self, call: CallId, reply: Option<Reply>) {
        let Some(known) = self.calls.get_mut(call as usize) else { return };
        if std::mem::replace(&mut known.over, true) {
            return;
        }
        self.open -= 1;
        let (client, process, nobody) = (known.client, known.process, known.nobody);
        let request = known.request.clone();
        let get = matches!(request, Request::Get { .. });
        let (kind, error) = match &reply {
            Some(Reply::Committed { .. } | Reply::Value(_)) => (Kind::Ok, None),
            Some(Reply::Aborted(reason)) => (Kind::Fail, Some(error_of(reason))),
            Some(Reply::Unavailable) => {
                (Kind::Fail, Some("unavailable: nobody answered".to_owned()))
            }
            None if get => (Kind::Fail, Some("timeout: no answer".to_owned())),
            // A write that never reached the master may still do so.
            None => (Kind::Info, Some("timeout: no answer".to_owned())),
        };
        match kind {
            Kind::Ok => self.count.ok += 1,
            Kind::Info => self.count.info += 1,
            Kind::Invoke | Kind::Fail => {}
        }
        self.observe(process, &request, kind, reply.as_ref(), error);
        if kind == Kind::Info {
            self.clients[client].process += u64::from(self.plan.clients);
        }
        let mut after = self.draw(0, self.plan.think);
        let unavailable = |reason: &AbortReason| matches!(reason, AbortReason::Unavailable { .. });
        if nobody || matches!(&reply, Some(Reply::Aborted(reason)) if unavailable(reason)) {
            // As the clients of real runs do.
            let pause = self.clients[client].generator.backoff();
            after = after.max(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX));
        }
        self.later(after, What::Think { client });
    }

    fn observe(
        &mut self,
        process: u64,
        request: &Request,
        kind: Kind,
        reply: Option<&Reply>,
        error: Option<String>,
    ) {
        let (f, key, asked) = match request {
            Request::Get { key, .. } => (Function::Get, key, None),
            Request::Write(Write { key, value: None }) => (Function::Del, key, None),
            Request::Write(Write { key, value: Some(value) }) => {
                (Function::Put, key, Some(value.to_string()))
            }
        };
        let (value, version) = match reply {
            Some(Reply::Committed { version }) => (asked, Some(*version)),
            Some(Reply::Value(Some((version, value)))) => (Some(value.to_string()), Some(*version)),
            _ => (asked, None),
        };
        self.event(Action::Client(ClientEvent {
            process,
            kind,
            f,
            key: key.to_string(),
            value,
            version,
            error,
        }));
    }

    // ---- Faults ----

    fn strike(&mut self, fault: Fault) {
        if !self.loaded {
            return;
        }
        if let Some((_, mean)) = self.plan.faults.iter().find(|(kind, _)| *kind == fault) {
            let after = self.draw(0, 2 * mean);
            self.later(after, What::Injection(fault));
        }
        let replica = Node::Replica(self.rng.random_range(1..=self.plan.setup.replicas));
        match fault {
            Fault::KillMaster => self.crash(Node::Master, false),
            Fault::KillReplica => self.crash(replica, false),
            Fault::PowerMaster => self.crash(Node::Master, true),
            Fault::PowerReplica => self.crash(replica, true),
            Fault::PauseMaster => self.pause(Node::Master),
            Fault::PauseReplica => self.pause(replica),
            Fault::Partition => {
                let from = self.rng.random_range(0..self.places.len());
                let to = self.rng.random_range(0..self.places.len());
                let (from, to) = (self.places[from].host.node(), self.places[to].host.node());
                if from != to {
                    self.count.other_faults += 1;
                    *self.cuts.entry((from, to)).or_default() += 1;
                    let after = self.draw(0, 2_000_000_000);
                    self.later(after, What::Heal { from, to });
                }
            }
            Fault::Wipe => {
                self.places[place_of(replica)].host.wipe();
                self.step(Step::Wipe { node: replica });
                self.nemesis("wipe", Some(replica));
                self.down(replica);
            }
            Fault::SecondInstance => self.second_instance(),
        }
    }

    fn second_instance(&mut self) {
        if self.places[0].paused.is_none() {
            self.pause(Node::Master);
        }
        let life = self.places[0].life;
        if let Some(outcome) = self.places[0].host.start_second_instance(&self.plan.setup) {
            self.step(Step::SecondInstance { node: Node::Master });
            self.nemesis("second_instance", Some(Node::Master));
            self.places[0].disk[1] = (false, false);
            debug_assert_eq!(life, self.places[0].life);
            self.take(Node::Master, true, None, outcome);
        }
    }

    fn crash(&mut self, node: Node, power: bool) {
        let host = &mut self.places[place_of(node)].host;
        if !host.up() {
            return;
        }
        let (inherited, own) = host.store().tail();
        let (least, most) = (inherited.len(), inherited.len() + own.len());
        let keep = self.rng.random_range(if power { 0..=most } else { least..=most });
        let done = if power { host.power_loss(keep) } else { host.kill(keep) };
        let Some(outcome) = done else { return };
        self.step(if power { Step::PowerLoss { node, keep } } else { Step::Kill { node, keep } });
        let machines = self.places.iter().skip(1).filter_map(|place| place.host.machine());
        let unknown_because: usize = machines.map(|machine| machine.status().unsettled.len()).sum();
        self.count.crashes += 1;
        self.count.in_doubt += u64::from(unknown_because > 0);
        if node == Node::Master {
            self.count.unknown_because += unknown_because as u64;
        }
        self.nemesis(if power { "power-loss" } else { "kill" }, Some(node));
        self.judge.observe(node, &outcome.facts, &Hosts(&self.places), self.plan.setup.replicas);
        self.down(node);
    }

    /// A process has ended: what it had in hand is lost, and it is started again after a while.
    fn down(&mut self, node: Node) {
        let place = &mut self.places[place_of(node)];
        place.life += 1;
        place.paused = None;
        place.missed.clear();
        place.disk = [(false, false); 2];
        place.timers.clear();
        if node == Node::Master {
            let cut: Vec<_> = (0..)
                .zip(&self.calls)
                .filter(|(_, call)| call.arrived && !call.over)
                .map(|(number, _)| number)
                .collect();
            for call in cut {
                let after = self.delay();
                self.later(after, What::Answer { call, reply: None });
            }
        }
        let after = self.draw(1_000_000, self.plan.downtime);
        self.later(after, What::Restart { node });
    }

    fn restart(&mut self, node: Node) {
        let records = self.places[place_of(node)].host.store().records();
        if let Some(outcome) = self.places[place_of(node)].host.restart(&self.plan.setup) {
            self.step(Step::Restart { node });
            self.nemesis("restart", Some(node));
            self.note_start(node, &records);
            self.take(node, false, None, outcome);
            if self.chance(self.plan.relapses, 1000) {
                let after = self.draw(0, 4 * self.plan.disk.1);
                self.later(after, What::Relapse { node, life: self.life(node) });
            }
        }
    }

    fn pause(&mut self, node: Node) {
        let place = &mut self.places[place_of(node)];
        if place.paused.is_some() || !place.host.up() {
            return;
        }
        let pause = self.order;
        place.paused = Some(pause);
        self.count.other_faults += 1;
        self.nemesis("pause", Some(node));
        let after = self.draw(1_000_000, 3_000_000_000);
        self.later(after, What::Resume { node, pause });
    }

    // ---- Records of the run ----

    fn note_start(&mut self, node: Node, records: &[Record]) {
        if self.record {
            let config = self.places[place_of(node)].host.config(&self.plan.setup);
            let journal = self.journals.entry(node).or_default();
            let entry = Entry::Start { t: self.now, config, records: records.to_vec() };
            journal.push((journal.len() + 1, entry));
        }
    }

    fn step(&mut self, step: Step) {
        if self.record {
            self.steps.push(step);
        }
    }

    fn nemesis(&mut self, f: &str, node: Option<Node>) {
        let value = node.map_or(
            serde_json::Value::Null,
            |node| serde_json::json!({ "node": node.to_string() }),
        );
        self.event(Action::Nemesis(NemesisEvent { f: f.to_owned(), value }));
    }

    fn event(&mut self, action: Action) {
        let index = self.history.len() as u64;
        self.history.push(Observed { index, time: self.now, action });
    }

    // ---- Chance and time ----

    fn draw(&mut self, least: u64, most: u64) -> u64 {
        if most > least { self.rng.random_range(least..most) } else { least }
    }

    /// Whether a die says yes, `of` so many times `in_all`. What never happens costs no throw.
    fn chance(&mut self, of: u32, in_all: u32) -> bool {
        of > 0 && self.rng.random_range(0..in_all) < of
    }

    fn later(&mut self, after: u64, what: What) {
        self.order += 1;
        let at = self.now.saturating_add(after);
        self.queue.push(Reverse(Planned { at, order: self.order, what }));
    }
}

/// The place of a node among the places.
fn place_of(node: Node) -> usize {
    match node {
        Node::Master => 0,
        Node::Replica(slot) => slot.into(),
    }
}
