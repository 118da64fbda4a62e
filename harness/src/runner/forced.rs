//! A schedule of the model or the simulator on real processes, step by step: messages wait in the
//! relays until the schedule delivers them, processes stop themselves or are held by their disks
//! where a record is to be lost, and each step is seen in the journals before the next. What cannot be
//! brought about is said.
//! Knows how to bring a step about, not what it is good for.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;
use system::{
    journal::Entry,
    node::{Place, Role},
    protocol::{Body, Effect, Event, Lsn, Message, Node, Request, Rule, TimerId, Timing, Write},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    Made, RunError, RunOptions, Stage, cluster::Attempt, cluster::Trial, io_error, note,
    progress::Progress, worker::Worker,
};
use crate::{
    disk::{self, DiskPoint},
    generator::{ClientRequest, Mix},
    nemesis::matrix::Part,
    network::{Deed, InterceptRule, Pattern},
    schedule::{self, Schedule, Step},
    supervisor::{Activity, Process, State},
    systems::{Break, Timings},
};

/// What a step does is seen in a journal within this time, or it does not happen.
const STEP_DEADLINE: Duration = Duration::from_millis(1_500);

/// Beyond a timer's own period, it has run out by then.
const TIMER_SLACK: Duration = Duration::from_millis(1_500);

/// How often the journals are looked at.
const POLL_PERIOD: Duration = Duration::from_millis(5);

/// Periods of timers that the schedule wants to run out, in milliseconds.
const SOON: [(&str, u64); 3] =
    [("vote_timeout_ms", 1_500), ("retransmit_ms", 900), ("inquiry_timeout_ms", 700)];

/// Periods of those that it does not want: beyond the schedule, and within what a cluster has to
/// come to rest afterwards.
const LATE: [(&str, u64); 3] =
    [("vote_timeout_ms", 4_000), ("retransmit_ms", 2_500), ("inquiry_timeout_ms", 2_500)];

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forced {
    /// It was brought about.
    Done,
    /// It came by itself, as it does in a process that nobody holds.
    Itself,
    /// It could not be brought about, in words.
    Not(String),
}

impl fmt::Display for Forced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Forced::Done => f.write_str("forced"),
            Forced::Itself => f.write_str("came by itself"),
            Forced::Not(why) => write!(f, "NOT FORCED: {why}"),
        }
    }
}

fn not<T>(why: impl Into<String>) -> Result<T, String> {
    Err(why.into())
}

/// What a run that forces this schedule is told.
///
/// # Errors
/// In words: real processes cannot do what the schedule is about.
pub fn options(schedule: &Schedule, path: &Path, store: PathBuf) -> Result<RunOptions, String> {
    let schedule::ScheduleSetup { replicas, commit, rules, timing, .. } = &schedule.setup;
    let wanted = |name: &str| {
        schedule.steps.iter().any(|step| match step {
            Step::Timer { id: TimerId::VoteTimeout(_), .. } => name == "vote_timeout_ms",
            Step::Timer { id: TimerId::Retransmit { .. }, .. } => name == "retransmit_ms",
            Step::Timer { id: TimerId::InquiryTimeout(_), .. } => name == "inquiry_timeout_ms",
            _ => false,
        })
    };
    Rule::check(&rules.broken().collect::<Vec<_>>(), &[*commit])?;
    let cuts = schedule.steps.iter().any(|step| matches!(step, Step::PowerLoss { .. }));
    let Timing { peer_inquiry_after, watermark_batch, .. } = timing;
    let mut periods =
        vec![format!("peer_inquiry_after={peer_inquiry_after},watermark_batch={watermark_batch}")];
    for ((name, soon), (_, late)) in SOON.iter().zip(LATE) {
        periods.push(format!("{name}={}", if wanted(name) { *soon } else { late }));
    }
    Ok(RunOptions {
        faults: "none".parse()?,
        time_limit: Duration::ZERO,
        concurrency: 1,
        rate: 0.0,
        keys: 1,
        replicas: *replicas,
        commit: *commit,
        mix: Mix::default(),
        seed: 0,
        store,
        system: "twopc".to_owned(),
        system_bin: None,
        broken: rules.broken().map(Break::Rule).collect(),
        disks: cuts && disk::available().is_ok(),
        part: Part::WHOLE,
        timing: periods.join(",").parse::<Timings>()?,
        relay: true,
        lie: false,
        schedule: Some(path.to_owned()),
        fail_fast: false,
        script: None,
    })
}

/// Forces a schedule on a cluster of processes, tells what became of each step as it goes, and
/// makes a run of it.
///
/// # Errors
/// The harness cannot do its part.
pub async fn run(
    schedule: &Schedule,
    options: &RunOptions,
    interrupt: watch::Receiver<bool>,
    mut tell: impl FnMut(usize, &Step, &Forced),
) -> Result<Made, RunError> {
    let progress = Progress::new(Duration::ZERO, true);
    let stage = Stage::set_up(options, &progress).await?;
    let kept = stage.directory.path().join("schedule.json");
    schedule.write(&kept).map_err(io_error(format!("cannot write {}", kept.display())))?;
    let network = stage.scene.network.clone().expect("the options ask for relays");
    let kinds = [Role::Master, Role::Replica].map(|role| role.kinds(Place::Send).iter().copied());
    // Those by which nodes know of each other, and nothing else.
    let kinds = kinds.into_iter().flatten().filter(|kind| !["heartbeat", "alive"].contains(kind));
    let everything = Pattern { kinds: kinds.collect(), ..Pattern::default() };
    // From empty stores the handshake is a part of the schedule.
    let early = (!schedule.setup.handshaken).then(|| network.lay(everything.clone(), Deed::Hold));
    let held = match early {
        Some(held) => held,
        None => {
            stage.until_ready().await?;
            network.lay(everything, Deed::Hold)
        }
    };
    let mut director = Director {
        journals: journals(&stage),
        stage: &stage,
        held,
        losses: losses(schedule),
        lost: BTreeMap::new(),
        clients: JoinSet::new(),
        second_instance: None,
        keys: Vec::new(),
    };
    for (number, step) in schedule.steps.iter().enumerate() {
        if *interrupt.borrow() {
            break;
        }
        director.arm(number).await;
        let mut became = director.force(number, step).await;
        if let Err(why) = director.lies(number).await {
            became = Err(why);
        }
        let forced = became.unwrap_or_else(Forced::Not);
        let value = json!({ "step": step.to_string(), "became": forced.to_string() });
        note(&stage.scene.recorder, "step", value)?;
        tell(number, step, &forced);
    }
    let Director { held, clients, keys, second_instance, .. } = director;
    if let Some(second_instance) = second_instance {
        second_instance.process.kill().await;
    }
    held.discard();
    for done in clients.join_all().await {
        done.map_err(io_error("cannot write the history"))?;
    }
    let worker = worker(&stage, 1_000_000)?;
    let directory = stage.close(worker, keys, &progress).await?;
    Ok(Made { directory, interrupted: *interrupt.borrow() })
}

fn worker(stage: &Stage, number: u32) -> Result<Worker, RunError> {
    let client = stage.scene.cluster.system().client().map_err(io_error("cannot make a client"))?;
    Ok(Worker::new(number, 1_000, client, stage.scene.recorder.clone()))
}

/// A record that is to be lost: where, of which kind, how many of the kind come before it in the
/// step that appends it, and what keeps it from becoming durable.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Loss {
    node: Node,
    kind: &'static str,
    before: u32,
    hold: Hold,
}

/// What is stopped so that a record does not become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// The process, before it has written the record.
    Process,
    /// The disk, when the record is written and not synced: a kill leaves it, a loss of power does
    /// not.
    Written,
    /// The disk, at the first sync of a start, while the process goes on.
    FirstSync,
}

impl Hold {
    /// The point of a node's disk, if it is the disk that stops.
    fn point(self, node: Node) -> Option<DiskPoint> {
        let place = match self {
            Hold::Process => return None,
            Hold::Written => "after-disk-write:log",
            Hold::FirstSync => "before-disk-sync:log",
        };
        format!("{}:{place}", Role::from(node).name()).parse().ok()
    }
}

/// What is not durable at a node, by the schedule.
#[derive(Default)]
struct Unforced {
    /// Each record, with the step that appends it.
    records: VecDeque<(usize, Loss)>,
    /// How many of them a process has left that was killed since.
    inherited: usize,
}

/// By the number of the step that appends it, the first record that each crash is to lose. If the
/// power takes what a kill has left, then also what the next start appends first.
fn losses(schedule: &Schedule) -> BTreeMap<usize, Loss> {
    let mut losses = BTreeMap::new();
    let mut cluster = schedule::Cluster::new(schedule.setup.clone());
    let mut unforced: BTreeMap<Node, Unforced> = BTreeMap::new();
    for (number, step) in schedule.steps.iter().enumerate() {
        let Ok(effects) = cluster.apply(step) else { return losses };
        let node = step.node();
        let Unforced { records, inherited } = unforced.entry(node).or_default();
        let starts = |at: usize| matches!(schedule.steps[at], Step::Restart { .. });
        match step {
            Step::Force { upto, second_instance: false, .. } => {
                let upto = *inherited + usize::try_from(*upto).unwrap_or(usize::MAX);
                records.drain(..upto.min(records.len()));
                *inherited = 0;
            }
            Step::Kill { keep, .. } => {
                if let Some((at, loss)) = records.get(*keep) {
                    losses.insert(*at, loss.clone());
                }
                records.truncate(*keep);
                *inherited = records.len();
            }
            Step::PowerLoss { keep, .. } => {
                let first = records.get(*keep).filter(|_| *keep < *inherited);
                if let Some((at, loss)) = first {
                    losses.insert(*at, Loss { hold: Hold::Written, ..loss.clone() });
                }
                let own = records.get(*keep.max(inherited));
                if let Some((at, loss)) = own {
                    let hold = if starts(*at) { Hold::FirstSync } else { Hold::Process };
                    losses.insert(*at, Loss { hold, ..loss.clone() });
                }
                *records = VecDeque::new();
                *inherited = 0;
            }
            Step::Wipe { .. } => {
                *records = VecDeque::new();
                *inherited = 0;
            }
            _ => {}
        }
        if of_second_instance(step) {
            continue;
        }
        let mut seen: BTreeMap<&'static str, u32> = BTreeMap::new();
        for effect in &effects {
            if let Effect::Append(record) = effect {
                let kind = record.kind();
                let before = seen.entry(kind).or_default();
                let loss = Loss { node, kind, before: *before, hold: Hold::Process };
                records.push_back((number, loss));
                *before += 1;
            }
        }
    }
    losses
}

/// Whether it is the second process of the node to which a step happens.
fn of_second_instance(step: &Step) -> bool {
    match step {
        Step::Deliver { second_instance, .. }
        | Step::Force { second_instance, .. }
        | Step::Timer { second_instance, .. } => *second_instance,
        Step::SecondInstance { .. } => true,
        _ => false,
    }
}

/// A journal that is read as it grows.
struct Tail {
    path: PathBuf,
    read: u64,
    /// Appended since the last start, and how many of them are durable.
    appended: Lsn,
    durable: Lsn,
    entries: Vec<Entry>,
    /// Entries up to here belong to earlier steps.
    told: usize,
}

fn journals(stage: &Stage) -> BTreeMap<(Node, bool), Tail> {
    let nodes = stage.scene.cluster.nodes().flat_map(|node| [(node, false), (node, true)]);
    let tail = |(node, second_instance): (Node, bool)| {
        let name = if second_instance { "foreign.jsonl" } else { "journal.jsonl" };
        let path = stage.directory.path().join("nodes").join(node.to_string()).join(name);
        let mut tail =
            Tail { path, read: 0, appended: 0, durable: 0, entries: Vec::new(), told: 0 };
        tail.follow();
        tail.told = tail.entries.len();
        ((node, second_instance), tail)
    };
    nodes.map(tail).collect()
}

impl Tail {
    /// Takes in the whole lines that were added.
    fn follow(&mut self) {
        let Ok(mut file) = File::open(&self.path) else { return };
        let mut text = Vec::new();
        if file.seek(SeekFrom::Start(self.read)).is_err() || file.read_to_end(&mut text).is_err() {
            return;
        }
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Ok(entry) = serde_json::from_slice::<Entry>(line) else { continue };
            match &entry {
                Entry::Start { .. } => (self.appended, self.durable) = (0, 0),
                Entry::Effect(Effect::Append(_)) => self.appended += 1,
                Entry::Event { event: Event::Persisted(lsn), .. } => self.durable = *lsn,
                _ => {}
            }
            self.entries.push(entry);
        }
    }

    /// Whether such an event has come since the last one that was waited for; what came up to it
    /// is then told.
    fn saw(&mut self, which: impl Fn(&Event) -> bool) -> bool {
        self.follow();
        let found = self.entries[self.told..]
            .iter()
            .position(|entry| matches!(entry, Entry::Event { event, .. } if which(event)));
        if let Some(found) = found {
            self.told += found + 1;
        }
        found.is_some()
    }
}

/// Brings steps about.
struct Director<'a> {
    stage: &'a Stage,
    held: InterceptRule,
    journals: BTreeMap<(Node, bool), Tail>,
    losses: BTreeMap<usize, Loss>,
    /// Nodes that lie with a record that is to be lost.
    lost: BTreeMap<Node, &'static str>,
    clients: JoinSet<std::io::Result<()>>,
    /// The second process of the master. One of the two acts, and the other lies stopped, for the
    /// replicas speak with whoever has dialed last.
    second_instance: Option<SecondInstance>,
    keys: Vec<String>,
}

struct SecondInstance {
    process: Process,
    acts: bool,
}

impl Director<'_> {
    /// Arms the point at which a process or its disk must stop, if this step appends what it is to
    /// lose.
    async fn arm(&mut self, number: usize) {
        let Some(Loss { node, kind, before, hold }) = self.losses.get(&number).cloned() else {
            return;
        };
        if let Some(point) = hold.point(node) {
            if hold == Hold::Written {
                // What was appended before is not to be taken for it.
                let _ = self.durable(node, false).await;
            }
            if let Some(device) = self.stage.scene.cluster.device(node) {
                device.arm(point);
            }
            return;
        }
        let point = format!("{}:before-persist:{kind}:{}", Role::from(node).name(), before + 1);
        if let Some(process) = self.stage.scene.cluster.process(node) {
            // One that cannot be armed will not be seen lying.
            let _ = process.arm(&point);
        }
    }

    /// Waits until the process or its disk lies where it must, if this step was to make it so.
    async fn lies(&mut self, number: usize) -> Result<(), String> {
        let Some(Loss { node, kind, hold, .. }) = self.losses.get(&number).cloned() else {
            return Ok(());
        };
        if hold != Hold::Process {
            // Without such a disk it is the loss of power that is not forced.
            let Some(device) = self.stage.scene.cluster.device(node) else { return Ok(()) };
            let held = timeout(STEP_DEADLINE, device.until_reached()).await.is_ok();
            return if held || device.disarm() {
                Ok(())
            } else {
                not(format!("the disk of {node} did not stop before its {kind} became durable"))
            };
        }
        let why = format!("{node} did not stop before its {kind} became durable");
        let Some(process) = self.stage.scene.cluster.process(node) else { return Err(why) };
        match process.wait_until(STEP_DEADLINE, State::lies_at_point).await {
            Some(_) => {
                self.lost.insert(node, kind);
                Ok(())
            }
            None => Err(why),
        }
    }

    async fn force(&mut self, number: usize, step: &Step) -> Result<Forced, String> {
        let node = step.node();
        let crash = matches!(step, Step::Kill { .. } | Step::PowerLoss { .. } | Step::Wipe { .. });
        if let (Some(kind), false) = (self.lost.get(&node), crash) {
            return not(format!("{node} lies stopped, lest its {kind} become durable"));
        }
        if node == Node::Master && !crash && !matches!(step, Step::SecondInstance { .. }) {
            self.let_act(of_second_instance(step)).await?;
        }
        match step {
            Step::Client { request, .. } => self.ask(request).await,
            Step::Deliver { from, to, message, second_instance } => {
                self.deliver(*from, *to, message, *second_instance).await
            }
            Step::Force { node, second_instance, .. } => {
                self.durable(*node, *second_instance).await
            }
            Step::Timer { node, id, second_instance } => {
                self.timer(*node, *id, *second_instance).await
            }
            Step::Kill { node, .. } => Ok(self.crash(*node).await),
            Step::PowerLoss { node, .. } => self.cut(*node, number).await,
            Step::Restart { node } => {
                self.stage.scene.cluster.start(*node).await.map_err(|error| error.to_string())?;
                Ok(Forced::Done)
            }
            Step::SecondInstance { node } => self.start_second_instance(*node).await,
            Step::Wipe { node } => {
                self.crash(*node).await;
                let system = self.stage.scene.cluster.system();
                let empty = system.spare_directory(*node).map_err(|error| error.to_string())?;
                system.adopt(*node, empty);
                Ok(Forced::Done)
            }
        }
    }

    async fn crash(&mut self, node: Node) -> Forced {
        if let Some(second_instance) = self.second_instance.take_if(|_| node == Node::Master) {
            second_instance.process.kill().await;
        }
        self.stage.scene.cluster.kill(node).await;
        self.lost.remove(&node);
        Forced::Done
    }

    async fn cut(&mut self, node: Node, number: usize) -> Result<Forced, String> {
        let done = self.crash(node).await;
        let cluster = &self.stage.scene.cluster;
        if cluster.device(node).is_some() {
            cluster.cut(&[node], None).await.map_err(|error| error.to_string())?;
            return Ok(done);
        }
        let taken = self
            .losses
            .range(..number)
            .any(|(_, loss)| loss.node == node && loss.hold != Hold::Process);
        if taken {
            let why = disk::available().err().unwrap_or_default();
            return not(format!("killed instead, no disk can lose power here: {why}"));
        }
        // What never reached the disk is lost by a kill as well.
        Ok(done)
    }

    /// Of the two masters, if there are two, lets this one act and stops the other.
    async fn let_act(&mut self, second_instance_acts: bool) -> Result<(), String> {
        match &self.second_instance {
            None if second_instance_acts => return not("there is no second instance"),
            Some(second_instance) if second_instance.acts != second_instance_acts => {
                self.between_commits(second_instance.acts).await
            }
            _ => return Ok(()),
        }
        let cluster = &self.stage.scene.cluster;
        let Some(second_instance) = self.second_instance.as_mut() else { return Ok(()) };
        second_instance.acts = second_instance_acts;
        let turned = if second_instance_acts {
            cluster.pause(Node::Master).await && second_instance.process.signal(Signal::SIGCONT)
        } else {
            let stopped = |state: &State| state.activity == Activity::Stopped;
            second_instance.process.signal(Signal::SIGSTOP);
            second_instance.process.wait_until(STEP_DEADLINE, stopped).await.is_some()
                && cluster.resume(Node::Master).await
        };
        self.hang_up();
        if turned { Ok(()) } else { not("the other master could not be stopped") }
    }

    /// Waits until the master, or its second instance, has nothing to commit: stopped in a commit, it would keep
    /// the other from its own, for LMDB lets one at a time write.
    async fn between_commits(&mut self, second_instance: bool) {
        // Somebody who never gets there is seen by what follows.
        let _ = self.durable(Node::Master, second_instance).await;
    }

    /// Has whichever master acts dial the replicas anew.
    fn hang_up(&self) {
        if let Some(network) = &self.stage.scene.network {
            network.hang_up();
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Forced, String> {
        let (Request::Write(Write { key, .. }) | Request::Get { key, .. }) = request;
        let key = key.to_string();
        let operation = match request {
            Request::Write(Write { value: Some(value), .. }) => {
                ClientRequest::Put { key: key.clone(), value: value.to_string() }
            }
            Request::Write(Write { value: None, .. }) => ClientRequest::Del { key: key.clone() },
            Request::Get { .. } => ClientRequest::Get { key: key.clone() },
        };
        let number = u32::try_from(self.clients.len()).unwrap_or(u32::MAX);
        let mut worker = worker(self.stage, number).map_err(|error| error.to_string())?;
        self.clients.spawn(async move { worker.ask(&operation).await });
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
        let kind = request.kind();
        let arrived = |event: &Event| matches!(event, Event::Client { request, .. } if request.kind() == kind);
        self.until(Node::Master, false, STEP_DEADLINE, arrived, "the call did not arrive").await?;
        Ok(Forced::Done)
    }

    async fn deliver(
        &mut self,
        from: Node,
        to: Node,
        message: &Message,
        second_instance: bool,
    ) -> Result<Forced, String> {
        let wanted = message.body.clone();
        // Of two masters it is the epoch that tells whose message it is.
        let epoch =
            (from == Node::Master && self.second_instance.is_some()).then_some(message.epoch);
        let same = |held: &Message| {
            alike(&held.body, &wanted) && epoch.is_none_or(|epoch| held.epoch == epoch)
        };
        let arrived = |event: &Event| matches!(event, Event::Message { from: by, message } if *by == from && alike(&message.body, &wanted));
        if matches!(wanted, Body::Heartbeat | Body::Alive { .. }) {
            self.until(to, second_instance, STEP_DEADLINE, arrived, "none came in time").await?;
            return Ok(Forced::Itself);
        }
        let deadline = Instant::now() + STEP_DEADLINE;
        while !self.held.deliver((from, to), same, STEP_DEADLINE).await {
            if Instant::now() >= deadline {
                return not("no such message was sent");
            }
            sleep(POLL_PERIOD).await;
        }
        self.until(
            to,
            second_instance,
            STEP_DEADLINE,
            arrived,
            "it was sent on, and did not arrive",
        )
        .await?;
        Ok(Forced::Done)
    }

    /// A process forces what it wants forced without being asked.
    async fn durable(&mut self, node: Node, second_instance: bool) -> Result<Forced, String> {
        let deadline = Instant::now() + STEP_DEADLINE;
        loop {
            let tail = self.journals.get_mut(&(node, second_instance)).expect("every node has one");
            tail.follow();
            if tail.durable > 0 && tail.durable >= tail.appended {
                return Ok(Forced::Itself);
            }
            if Instant::now() >= deadline {
                return not(format!("{} of {} records are durable", tail.durable, tail.appended));
            }
            sleep(POLL_PERIOD).await;
        }
    }

    async fn timer(
        &mut self,
        node: Node,
        id: TimerId,
        second_instance: bool,
    ) -> Result<Forced, String> {
        let period = SOON.iter().map(|(_, period)| Duration::from_millis(*period)).max();
        let patience = period.unwrap_or_default() + TIMER_SLACK;
        let ran_out = |event: &Event| matches!(event, Event::Timer(timer) if *timer == id);
        self.until(node, second_instance, patience, ran_out, "it did not run out in time").await?;
        Ok(Forced::Itself)
    }

    async fn start_second_instance(&mut self, node: Node) -> Result<Forced, String> {
        self.between_commits(false).await;
        self.stage.scene.cluster.pause(node).await;
        self.hang_up();
        let attempt = self.stage.scene.cluster.attempt(node, Attempt::SecondInstance).await;
        let became = match attempt.map_err(|error| error.to_string())? {
            Trial::Admitted(process) => {
                self.second_instance = Some(SecondInstance { process, acts: true });
                Ok(Forced::Done)
            }
            Trial::Refused { said, .. } => not(format!("it was refused: {said}")),
            Trial::Ended { status, said } => not(format!("it ended, {status}: {said}")),
            Trial::Undecided => not("it did not come up in time"),
        };
        if became.is_err() {
            self.stage.scene.cluster.resume(node).await;
        }
        became
    }

    /// Waits until a node has met such an event.
    async fn until(
        &mut self,
        node: Node,
        second_instance: bool,
        patience: Duration,
        which: impl Fn(&Event) -> bool,
        why: &str,
    ) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            let tail = self.journals.get_mut(&(node, second_instance)).expect("every node has one");
            if tail.saw(&which) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return not(why);
            }
            sleep(POLL_PERIOD).await;
        }
    }
}

/// Whether two messages say the same, though they speak of other stores, starts or waits.
fn alike(real: &Body, wanted: &Body) -> bool {
    match (real, wanted) {
        (Body::Fence { .. }, Body::Fence { .. }) | (Body::Alive { .. }, Body::Alive { .. }) => true,
        // An inquiry is a yes said again, and schedules may not tell them apart.
        (Body::Inquire { txn }, Body::VoteYes { txn: other }) => txn == other,
        (Body::FenceOk { in_doubt: ours, .. }, Body::FenceOk { in_doubt: theirs, .. }) => {
            ours == theirs
        }
        (Body::Read { read: ours, key, .. }, Body::Read { read: theirs, key: other, .. }) => {
            (ours, key) == (theirs, other)
        }
        (Body::Prepare { txn, write, .. }, Body::Prepare { txn: other, write: theirs, .. }) => {
            (txn, write) == (other, theirs)
        }
        (Body::Ack { txns: ours }, Body::Ack { txns: theirs }) => {
            theirs.iter().all(|txn| ours.contains(txn))
        }
        _ => real == wanted,
    }
}

#[cfg(test)]
mod tests {
    use system::protocol::{CommitMode, Key, Rule, Rules, TxnId, Value};

    use super::*;
    use crate::schedule::ScheduleSetup;

    fn setup() -> ScheduleSetup {
        ScheduleSetup {
            replicas: 1,
            rules: Rules::ALL.without(Rule::VoteForced),
            commit: CommitMode::Logged,
            timing: Timing::default(),
            peers: true,
            handshaken: true,
            canonical: false,
        }
    }

    #[test]
    fn a_crash_that_loses_a_record_is_prepared_for_where_the_record_is_appended() {
        let write = Write { key: Key::from("k"), value: Some(Value::from("v")) };
        let client = Step::Client { call: 1, request: Request::Write(write) };
        let mut cluster = schedule::Cluster::new(setup());
        cluster.apply(&client).expect("a client may ask");
        let (from, to, message) = cluster.in_flight().next().expect("a Prepare").clone();
        let steps = vec![
            client,
            Step::Deliver { from, to, message, second_instance: false },
            Step::Kill { node: Node::Replica(1), keep: 0 },
            Step::Restart { node: Node::Replica(1) },
        ];
        let schedule =
            Schedule { setup: setup(), steps, violated: Vec::new(), origin: String::new() };
        let node = Node::Replica(1);
        let loss = Loss { node, kind: "prepare", before: 0, hold: Hold::Process };
        assert_eq!(losses(&schedule), [(1, loss)].into());
        let options =
            options(&schedule, "s.json".as_ref(), "histories".into()).expect("it can be forced");
        assert_eq!(options.broken, [Break::Rule(Rule::VoteForced)]);
        assert_eq!(options.label(), "twopc-schedule-without-vote-forced");
        assert_eq!(options.command(), "harness replay --real s.json");
        assert!(options.timing.to_string().contains("vote_timeout_ms=4000"), "{}", options.timing);
    }

    #[test]
    fn what_a_kill_leaves_and_a_loss_of_power_takes_is_held_by_the_disk() {
        let node = Node::Replica(1);
        let write = Write { key: Key::from("k"), value: Some(Value::from("v")) };
        let client = Step::Client { call: 1, request: Request::Write(write) };
        let mut cluster = schedule::Cluster::new(setup());
        cluster.apply(&client).expect("a client may ask");
        let (from, to, message) = cluster.in_flight().next().expect("a Prepare").clone();
        let deliver = Step::Deliver { from, to, message, second_instance: false };
        let steps = |keep| {
            let restart = Step::Restart { node };
            let kill = Step::Kill { node, keep: 1 };
            vec![client.clone(), deliver.clone(), kill, restart, Step::PowerLoss { node, keep }]
        };
        let losses_of = |keep| {
            let (violated, origin) = (Vec::new(), String::new());
            losses(&Schedule { setup: setup(), steps: steps(keep), violated, origin })
        };
        let prepare = Loss { node, kind: "prepare", before: 0, hold: Hold::Written };
        let incarnation = Loss { node, kind: "incarnation", before: 0, hold: Hold::FirstSync };
        assert_eq!(losses_of(0), [(1, prepare), (3, incarnation.clone())].into());
        // What the kill has left survives: only the start is undone.
        assert_eq!(losses_of(1), [(3, incarnation)].into());
        assert_eq!(losses_of(2), BTreeMap::new());
        let point = |hold: Hold| hold.point(node).map(|point| point.to_string());
        assert_eq!(point(Hold::Written).as_deref(), Some("replica:after-disk-write:log"));
        assert_eq!(point(Hold::FirstSync).as_deref(), Some("replica:before-disk-sync:log"));
        assert_eq!(point(Hold::Process), None);
    }

    #[test]
    fn messages_are_alike_whatever_store_they_come_from() {
        let txn = TxnId::new(1, 1);
        assert!(alike(
            &Body::Ack { txns: vec![txn, TxnId::new(1, 2)] },
            &Body::Ack { txns: vec![txn] }
        ));
        assert!(!alike(&Body::VoteYes { txn }, &Body::Inquire { txn }));
        assert!(alike(&Body::Inquire { txn }, &Body::VoteYes { txn }));
        assert!(alike(&Body::Alive { incarnation: 2 }, &Body::Alive { incarnation: 6 }));
        assert!(alike(
            &Body::Fence { member: None, commit: CommitMode::Logged },
            &Body::Fence { member: Some(system::protocol::StoreId(3)), commit: CommitMode::Logged }
        ));
    }
}
