//! Injects [faults](crate::fault) into the processes of any system, one after the other, until the load
//! ends. What it draws depends on the seed alone.

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
    fault::{Fault, FaultAction, Target, Trigger},
    node::NodeName,
};

/// How long the system is left alone before an injection: between these.
const DELAY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(2500));

/// The same in the first round, so that a short run has time for its faults.
const FIRST_DELAY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(1000));

/// How long a node stays killed.
const DOWN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(2000));

/// How long a node stays paused: shorter and longer than the timeouts of common systems.
const PAUSED: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(5000));

/// How long a log has to write a line that a fault waits for.
const LOG_DEADLINE: Duration = Duration::from_secs(10);

/// How often logs are read.
const LOG_PERIOD: Duration = Duration::from_millis(5);

/// How long the system has to become ready after an injection, before the next one.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(15);

/// The same in the first round.
const QUICK_RECOVERY: Duration = Duration::from_secs(1);

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

/// The nodes that an injection hits.
struct Victims {
    nodes: Vec<NodeName>,
    /// What else is known of the choice.
    note: Option<String>,
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
            let wait = self.between(if is_first_round { FIRST_DELAY } else { DELAY });
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

    async fn load_ends_within(&mut self, time: Duration) -> bool {
        timeout(time, self.load_ended.wait_for(|ended| *ended)).await.is_ok()
    }

    async fn inject(&mut self, fault: &Fault, is_quick: bool) -> Result<(), NemesisError> {
        // The choices come first, so that the seed gives the same ones whatever the system does.
        let order = {
            let mut order = self.cluster.nodes().to_vec();
            order.shuffle(&mut self.rng);
            order
        };
        let (mut down, mut paused) = (self.between(DOWN), self.between(PAUSED));
        let mut recovery = RECOVERY_DEADLINE;
        if is_quick {
            (down, paused) = (down.min(QUICK_OUTAGE), paused.min(QUICK_OUTAGE));
            recovery = QUICK_RECOVERY;
        }
        let at = match &fault.trigger {
            Trigger::Random => None,
            Trigger::Log(regex) => match self.until_logged(regex).await {
                Some(()) => Some(format!("a log line like {}", regex.as_str())),
                None => {
                    let injected = injected(fault, None, None);
                    let why = "no node wrote a line that matches".to_owned();
                    let load_ended = Some(*self.load_ended.borrow());
                    let action = Some(fault.action.name().to_owned());
                    let missed = Missed { injected, action, load_ended, why };
                    return Ok(self.events.record(NemesisEvent::Missed(Box::new(missed)))?);
                }
            },
        };
        let victims = self.victims(&fault.target, order).await;
        let at = at.or(victims.note);
        let nodes = victims.nodes;
        for node in &nodes {
            let mut record = injected(fault, Some(node), at.clone());
            let kind = match fault.action {
                FaultAction::Kill => {
                    record.down_ms = Some(milliseconds(down));
                    InjectionKind::Kill
                }
                FaultAction::Pause => {
                    record.paused_ms = Some(milliseconds(paused));
                    InjectionKind::Pause
                }
                FaultAction::Restart => InjectionKind::Terminate,
            };
            // Recorded before it happens: then the recorded outage contains the real one.
            self.events.record(NemesisEvent::Injected(kind, Box::new(record)))?;
        }
        for node in self.hit(fault.action, &nodes).await {
            let injected = injected(fault, Some(&node), None);
            let action = Some(fault.action.name().to_owned());
            let why = "it did not stop in time".to_owned();
            let missed = Missed { injected, action, load_ended: Some(false), why };
            self.events.record(NemesisEvent::Missed(Box::new(missed)))?;
        }
        match fault.action {
            FaultAction::Kill => drop(self.load_ends_within(down).await),
            FaultAction::Pause => drop(self.load_ends_within(paused).await),
            FaultAction::Restart => {}
        }
        self.undo(fault.action, &nodes).await?;
        let ready = self.cluster.until_ready(recovery).await.map(milliseconds);
        self.events.record(NemesisEvent::Recovered(Recovered {
            fault: Some(fault.name().to_owned()),
            node: nodes.first().map(ToString::to_string),
            in_doubt: None,
            resolved_ms: None,
            ready_ms: ready,
        }))?;
        Ok(())
    }

    /// Does it to all nodes at the same moment. Returns those that went on all the same.
    async fn hit(&self, action: FaultAction, nodes: &[NodeName]) -> Vec<NodeName> {
        let each = nodes.iter().map(|node| async move {
            let went_on = match action {
                FaultAction::Kill => {
                    self.cluster.kill(node).await;
                    false
                }
                FaultAction::Pause => !self.cluster.pause(node).await,
                FaultAction::Restart => {
                    // A node that ignores SIGTERM is killed, which is a fault too.
                    self.cluster.terminate(node).await;
                    false
                }
            };
            went_on.then(|| node.clone())
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
                FaultAction::Kill | FaultAction::Restart => {
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
            Target::Leader | Target::Followers => {
                let leader = self.cluster.system().leader().await;
                if leader.is_none() {
                    note = Some("no node says who leads: chosen at random".to_owned());
                }
                let leader = leader.unwrap_or_else(|| order[0].clone());
                if *target == Target::Leader {
                    vec![leader]
                } else {
                    order.retain(|node| *node != leader);
                    order
                }
            }
        };
        Victims { nodes, note }
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

fn injected(fault: &Fault, node: Option<&NodeName>, at: Option<String>) -> Injected {
    let (fault, node) = (Some(fault.name().to_owned()), node.map(ToString::to_string));
    Injected { fault, node, at, ..Injected::default() }
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
