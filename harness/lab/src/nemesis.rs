//! Injects [faults](crate::fault) into the processes of any system, one after the other, until the load
//! ends. What it draws depends on the seed alone.

mod clock;
mod disk;
mod members;
mod network;

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use history::{
    NemesisEvent,
    nemesis::{Injected, InjectionKind, Missed, Recovered, ReturnKind, Returned},
};
use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use regex_lite::Regex;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    bag::ShuffledBag,
    cluster::{Cluster, ClusterError},
    events::EventLog,
    fault::{Fault, FaultAction, Moment, Second, Target, Trigger},
    node::NodeName,
};

/// The usual [interval](Nemesis::interval).
pub const INTERVAL: Duration = Duration::from_millis(2500);

/// How long the system is left alone before an injection: between these.
const DELAY: (Duration, Duration) = (Duration::from_millis(200), INTERVAL);

/// The same in the first round, so that a short run has time for its faults.
const FIRST_DELAY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(1000));

/// How long a node stays killed.
const DOWN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(2000));

/// How long a node stays paused: shorter and longer than the timeouts of common systems.
const PAUSED: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(5000));

/// How soon the second of two faults follows the first.
const SOON: (Duration, Duration) = (Duration::ZERO, Duration::from_millis(300));

/// How long a log has to write a line that a fault waits for.
const LOG_DEADLINE: Duration = Duration::from_secs(10);

/// How often logs are read.
const LOG_PERIOD: Duration = Duration::from_millis(5);

/// How long the system has to become ready after an injection, before the next one.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(15);

/// The same in the first round.
const QUICK_RECOVERY: Duration = Duration::from_secs(1);

/// Why a fault is not injected that has nobody to hit, such as the followers of a single node.
const NO_NODE: &str = "no node is what it is to hit";

/// The longest outage in the first round.
const QUICK_OUTAGE: Duration = Duration::from_millis(1500);

/// The nemesis of a run.
pub struct Nemesis<'a> {
    /// The nodes.
    pub cluster: &'a Cluster,
    /// The history.
    pub events: &'a EventLog,
    /// Turns true when the load ends.
    pub load_ended: watch::Receiver<bool>,
    /// The source of all choices.
    pub rng: ChaCha8Rng,
    /// The longest time in which the system is left alone before an injection, and in which a node stays killed.
    pub interval: Duration,
}

/// Why faults cannot be injected any more.
#[derive(Debug, thiserror::Error)]
pub enum NemesisError {
    /// The history cannot be written.
    #[error("cannot write the history: {0}")]
    History(#[from] io::Error),
    /// A node does not start again.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// What is chosen for an injection before anything is known of the system.
struct Draw {
    /// The nodes in the order in which they are chosen from.
    order: Vec<NodeName>,
    /// How long a node is down, if it is killed.
    down: Duration,
    /// How long it is paused, if it is paused.
    paused: Duration,
    /// How long it waits after what it follows.
    soon: Duration,
    /// Of a part that overlaps another one: its nodes. They are chosen before the first is injected, because
    /// with its followers stopped a leader is not told.
    chosen: Option<Victims>,
}

/// The nodes that an injection hits.
#[derive(Clone)]
struct Victims {
    nodes: Vec<NodeName>,
    /// What else is known of the choice.
    note: Option<String>,
    /// Of a fault that consists of two: which of them hits these.
    part: Option<u8>,
}

impl Nemesis<'_> {
    /// Injects the faults in shuffled rounds until the load ends.
    ///
    /// # Errors
    /// The history cannot be written, or a node does not start again.
    pub async fn run(mut self, faults: Vec<Fault>) -> Result<(), NemesisError> {
        if faults.is_empty() {
            return Ok(());
        }
        let mut round = ShuffledBag::new((0..faults.len()).collect());
        for number in 0.. {
            // A short run has to meet every fault: the first round is quick.
            let is_first_round = number < faults.len();
            let fault = &faults[round.draw(&mut self.rng)];
            let wait = self.within_interval(if is_first_round { FIRST_DELAY } else { DELAY });
            if self.load_ends_within(wait).await {
                return Ok(());
            }
            self.inject(fault, is_first_round).await?;
        }
        Ok(())
    }

    fn between(&mut self, (from, to): (Duration, Duration)) -> Duration {
        self.rng.random_range(from..to)
    }

    /// A time between these, and not longer than the interval.
    fn within_interval(&mut self, (from, to): (Duration, Duration)) -> Duration {
        let to = to.min(self.interval);
        self.between((from.min(to / 2), to))
    }

    async fn load_ends_within(&mut self, time: Duration) -> bool {
        timeout(time, self.load_ended.wait_for(|ended| *ended)).await.is_ok()
    }

    async fn inject(&mut self, fault: &Fault, is_quick: bool) -> Result<(), NemesisError> {
        // The choices come first, so that the seed gives the same ones whatever the system does.
        let draw = self.draw(is_quick);
        let target = self.drawn_target(&fault.target);
        let mut second_draw = fault.second.is_some().then(|| {
            let draw = self.draw(is_quick);
            Draw { soon: self.between(SOON), ..draw }
        });
        let recovery = if is_quick { QUICK_RECOVERY } else { RECOVERY_DEADLINE };
        let at = match &fault.trigger {
            Trigger::Random => None,
            Trigger::Log(regex) => match self.until_logged(regex).await {
                Some(()) => Some(format!("a log line like {}", regex.as_str())),
                None => {
                    let nobody = Victims { nodes: Vec::new(), note: None, part: None };
                    let why = "no node wrote a line that matches".to_owned();
                    return self.missed(fault, &nobody, None, why);
                }
            },
        };
        let mut victims = self.victims(&target, draw.order.clone()).await;
        victims.note = at.or(victims.note);
        victims.part = fault.second.as_ref().map(|_| 1);
        if victims.nodes.is_empty() {
            return self.missed(fault, &victims, None, NO_NODE.to_owned());
        }
        if let (Some(second), Some(draw)) = (&fault.second, &mut second_draw)
            && second.moment == Moment::During
        {
            let chosen = self.second_victims(fault, second, draw, &victims.nodes).await;
            if chosen.nodes.is_empty() {
                let why = "the first part hits every node of the second, or there is none";
                return self.missed(fault, &chosen, None, why.to_owned());
            }
            draw.chosen = Some(chosen);
        }
        if fault.needs_disk() {
            self.inject_into_disks(fault, &victims, draw.down, second_draw.as_ref()).await?;
            self.follow(fault, second_draw.as_ref(), &victims.nodes).await?;
            return self.recovery(fault, &victims.nodes, recovery).await;
        }
        if fault.needs_network() {
            let what = (&target, is_quick);
            self.inject_into_network(fault, what, &victims, second_draw.as_ref()).await?;
            self.follow(fault, second_draw.as_ref(), &victims.nodes).await?;
            return self.recovery(fault, &victims.nodes, recovery).await;
        }
        if fault.needs_clock() {
            self.wrong_clocks(fault, &victims, is_quick, second_draw.as_ref()).await?;
            self.follow(fault, second_draw.as_ref(), &victims.nodes).await?;
            return self.recovery(fault, &victims.nodes, recovery).await;
        }
        if fault.action.changes_members() {
            self.change_members(fault, &victims).await?;
            return self.recovery(fault, &victims.nodes, RECOVERY_DEADLINE).await;
        }
        self.stop(fault, fault.action, &victims, &draw).await?;
        let (first, draw) = (&victims.nodes, second_draw.as_ref());
        let second = self.second(fault, Moment::During, draw, first).await?;
        self.undo(fault.action, first).await?;
        if let Some((action, nodes)) = second {
            self.undo(action, &nodes).await?;
        }
        self.follow(fault, draw, first).await?;
        self.recovery(fault, &victims.nodes, recovery).await
    }

    /// Injects the second part of a fault if this is its moment, and waits for the time that it lasts. Returns
    /// what was done, to be undone.
    async fn second(
        &mut self,
        fault: &Fault,
        moment: Moment,
        draw: Option<&Draw>,
        first: &[NodeName],
    ) -> Result<Option<(FaultAction, Vec<NodeName>)>, NemesisError> {
        let Some(second) = fault.second.as_ref().filter(|second| second.moment == moment) else {
            return Ok(None);
        };
        let Some(draw) = draw else { return Ok(None) };
        let victims = match &draw.chosen {
            Some(chosen) => chosen.clone(),
            None => self.second_victims(fault, second, draw, first).await,
        };
        if victims.nodes.is_empty() {
            self.missed(fault, &victims, None, NO_NODE.to_owned())?;
            return Ok(None);
        }
        self.stop(fault, second.action, &victims, draw).await?;
        Ok(Some((second.action, victims.nodes)))
    }

    /// The nodes that the second part of a fault hits.
    async fn second_victims(
        &self,
        fault: &Fault,
        second: &Second,
        draw: &Draw,
        first: &[NodeName],
    ) -> Victims {
        let mut victims = match &second.target {
            Target::Same => Victims { nodes: first.to_vec(), note: None, part: None },
            target => self.victims(target, draw.order.clone()).await,
        };
        // A node that is stopped already is not stopped again.
        let is_stopped = second.moment == Moment::During && fault.action.stops_nodes();
        victims.nodes.retain(|node| !is_stopped || !first.contains(node));
        Victims { part: Some(2), ..victims }
    }

    /// Records that a fault was not injected or, at a node, that its injection had no effect.
    fn missed(
        &self,
        fault: &Fault,
        victims: &Victims,
        node: Option<&NodeName>,
        why: String,
    ) -> Result<(), NemesisError> {
        let action = match (&fault.second, victims.part) {
            (Some(second), Some(2)) => second.action,
            _ => fault.action,
        };
        let missed = Missed {
            injected: Injected { at: None, ..injected(fault, node, victims) },
            action: Some(action.name().to_owned()),
            load_ended: Some(*self.load_ended.borrow()),
            why,
        };
        Ok(self.events.record(NemesisEvent::Missed(Box::new(missed)))?)
    }

    /// Injects the second part of a fault that follows the first, soon, and undoes it.
    async fn follow(
        &mut self,
        fault: &Fault,
        draw: Option<&Draw>,
        first: &[NodeName],
    ) -> Result<(), NemesisError> {
        if let Some(draw) = draw
            && fault.second.as_ref().is_some_and(|second| second.moment == Moment::After)
        {
            self.load_ends_within(draw.soon).await;
        }
        match self.second(fault, Moment::After, draw, first).await? {
            Some((action, nodes)) => self.undo(action, &nodes).await,
            None => Ok(()),
        }
    }

    fn draw(&mut self, is_quick: bool) -> Draw {
        let mut order = self.cluster.nodes().to_vec();
        order.shuffle(&mut self.rng);
        let (mut down, mut paused) = (self.within_interval(DOWN), self.between(PAUSED));
        if is_quick {
            (down, paused) = (down.min(QUICK_OUTAGE), paused.min(QUICK_OUTAGE));
        }
        Draw { order, down, paused, soon: Duration::ZERO, chosen: None }
    }

    /// Records an injection, does it, and waits for the time that it lasts.
    async fn stop(
        &mut self,
        fault: &Fault,
        action: FaultAction,
        victims: &Victims,
        draw: &Draw,
    ) -> Result<(), NemesisError> {
        let nodes = &victims.nodes;
        for node in nodes {
            let mut record = injected(fault, Some(node), victims);
            let kind = match action {
                FaultAction::Kill => {
                    record.down_ms = Some(milliseconds(draw.down));
                    InjectionKind::Kill
                }
                FaultAction::Pause => {
                    record.paused_ms = Some(milliseconds(draw.paused));
                    InjectionKind::Pause
                }
                _ => InjectionKind::Terminate,
            };
            // Recorded before it happens: then the recorded outage contains the real one.
            self.events.record(NemesisEvent::Injected(kind, Box::new(record)))?;
        }
        for (node, why) in self.hit(action, nodes).await {
            self.missed(fault, victims, Some(&node), why.to_owned())?;
        }
        match action {
            FaultAction::Kill => drop(self.load_ends_within(draw.down).await),
            FaultAction::Pause => drop(self.load_ends_within(draw.paused).await),
            _ => {}
        }
        Ok(())
    }

    /// Waits until every node is ready again, records how long that took, and compares the nodes.
    async fn recovery(
        &self,
        fault: &Fault,
        nodes: &[NodeName],
        recovery: Duration,
    ) -> Result<(), NemesisError> {
        let ready = self.cluster.until_ready(recovery).await.map(milliseconds);
        self.events.record(NemesisEvent::Recovered(Recovered {
            fault: Some(fault.name().to_owned()),
            node: nodes.first().map(ToString::to_string),
            in_doubt: None,
            resolved_ms: None,
            ready_ms: ready,
        }))?;
        if ready.is_some()
            && let Some(compared) = self.cluster.system().compare()
        {
            self.events.record(NemesisEvent::Compared(compared.await))?;
        }
        Ok(())
    }

    /// Does it to all nodes at the same moment. Returns those to which it did not happen, each with the reason.
    async fn hit(&self, action: FaultAction, nodes: &[NodeName]) -> Vec<(NodeName, &'static str)> {
        let each = nodes.iter().map(|node| async move {
            let had_exited = self.cluster.has_exited(node);
            let has_stopped = match action {
                FaultAction::Kill => {
                    self.cluster.kill(node).await;
                    true
                }
                FaultAction::Pause => self.cluster.pause(node).await,
                _ => {
                    // A node that ignores SIGTERM is killed, which is a fault too.
                    self.cluster.terminate(node).await;
                    true
                }
            };
            match (had_exited, has_stopped) {
                (true, _) => Some((node.clone(), "it had exited before")),
                (false, true) => None,
                (false, false) => Some((node.clone(), "it did not stop in time")),
            }
        });
        futures::future::join_all(each).await.into_iter().flatten().collect()
    }

    async fn undo(&self, action: FaultAction, nodes: &[NodeName]) -> Result<(), NemesisError> {
        for node in nodes {
            let kind = match action {
                FaultAction::Pause => {
                    self.cluster.resume(node).await;
                    ReturnKind::Resume
                }
                _ => {
                    self.cluster.start(node).await?;
                    ReturnKind::Restart
                }
            };
            let returned = Returned { node: Some(node.to_string()), ..Returned::default() };
            self.events.record(NemesisEvent::Returned(kind, returned))?;
        }
        Ok(())
    }

    /// The nodes of a target, from the nodes in seeded order.
    async fn victims(&self, target: &Target, mut order: Vec<NodeName>) -> Victims {
        let count = order.len();
        let mut note = None;
        let nodes = match target {
            Target::All => order,
            Target::One => order.into_iter().take(1).collect(),
            Target::Minority => {
                order.into_iter().take((count.saturating_sub(1) / 2).max(1)).collect()
            }
            Target::Majority => order.into_iter().take(count / 2 + 1).collect(),
            Target::Node(node) => vec![node.clone()],
            // It is resolved where the first fault is known.
            Target::Same => Vec::new(),
            // Nodes with a place of their own in it, the leader first where that matters.
            Target::Shape(shape) if !shape.needs_leader() => order,
            Target::Leader | Target::Followers | Target::Shape(_) => {
                let leader = self.cluster.system().leader().await;
                if leader.is_none() {
                    note = Some("no node says who leads: chosen at random".to_owned());
                }
                let leader = leader.unwrap_or_else(|| order[0].clone());
                if *target == Target::Leader {
                    vec![leader]
                } else if let Target::Shape(_) = target {
                    order.retain(|node| *node != leader);
                    [vec![leader], order].concat()
                } else {
                    order.retain(|node| *node != leader);
                    order
                }
            }
        };
        Victims { nodes, note, part: None }
    }

    /// Waits until a node writes a line that matches, from now on.
    async fn until_logged(&mut self, regex: &Regex) -> Option<()> {
        let logs = self.cluster.nodes().iter().map(|node| self.cluster.log(node));
        let mut tails: Vec<Tail> = logs.map(Tail::at_end).collect();
        let end = Instant::now() + LOG_DEADLINE;
        while Instant::now() < end && !*self.load_ended.borrow() {
            if tails.iter_mut().flat_map(Tail::lines).any(|line| regex.is_match(&line)) {
                return Some(());
            }
            sleep(LOG_PERIOD).await;
        }
        None
    }
}

/// The fields that every injection at one of these nodes has.
fn injected(fault: &Fault, node: Option<&NodeName>, victims: &Victims) -> Injected {
    let (fault, node) = (Some(fault.name().to_owned()), node.map(ToString::to_string));
    let (at, part) = (victims.note.clone(), victims.part);
    Injected { fault, part, node, at, ..Injected::default() }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The end of a file that grows.
struct Tail {
    path: PathBuf,
    offset: u64,
    partial: Vec<u8>,
}

impl Tail {
    fn at_end(path: PathBuf) -> Self {
        let offset = path.metadata().map_or(0, |metadata| metadata.len());
        Tail { path, offset, partial: Vec::new() }
    }

    /// The lines that were completed since the last call.
    fn lines(&mut self) -> Vec<String> {
        let mut new = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_to_end(&mut new)
        });
        self.offset += read.unwrap_or(0) as u64;
        self.partial.extend(new);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let complete: Vec<u8> = self.partial.drain(..=end).collect();
        String::from_utf8_lossy(&complete).lines().map(str::to_owned).collect()
    }
}
