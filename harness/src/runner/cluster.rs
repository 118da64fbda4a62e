//! The nodes of a run as processes: started, found ready, stopped, continued, killed and started
//! again. Knows how to do these things, not when.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;
use system::protocol::{Node, TxnId};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    disk::{Device, Disks, Dropped},
    history::{Action, NemesisEvent, Recorder},
    supervisor::{Activity, Process, Supervisor},
    systems::{Observation, Start, System},
};

/// A node that starts says where it listens within this time.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// A node that is asked to end does so within this time.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// It is clear by then whether a node that must be refused is, also if it takes another node to
/// refuse it, which is cut off for a while.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(8);

/// How often a condition of the cluster is looked at.
const POLL_PERIOD: Duration = Duration::from_millis(10);

/// What keeps a cluster from being run.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Something that the harness needs of the operating system cannot be had.
    #[error("{what}: {source}")]
    Io {
        /// What was to be done.
        what: String,
        /// Why it cannot be done.
        source: io::Error,
    },
    /// A node does not start.
    #[error("{node} does not start: {why}{log}")]
    Start {
        /// Which node.
        node: Node,
        /// What was seen.
        why: String,
        /// The end of its log, on lines of its own.
        log: String,
    },
}

/// The processes of the system under test.
pub struct Cluster {
    system: Arc<dyn System>,
    supervisor: Supervisor,
    members: BTreeMap<Node, Member>,
    /// A directory that ends with the run, and is no part of what is told of the nodes' words.
    scratch: PathBuf,
    /// Where the nodes' data lie, if they are to lose power.
    disks: Option<Disks>,
    recorder: Recorder,
    /// How many nodes have ended though nobody asked them to.
    deaths: watch::Sender<usize>,
    watchers: Mutex<Vec<JoinHandle<()>>>,
}

/// A start of a node that must not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Beside the process that has the store.
    SecondInstance,
    /// On an empty directory.
    Wiped {
        /// As if the cluster were new.
        bootstrap: bool,
    },
}

/// What became of such a start.
#[derive(Debug)]
pub enum Trial {
    /// The process ended of itself, and said that it was refused.
    Refused {
        /// How it ended.
        status: String,
        /// Its last words.
        said: String,
    },
    /// It ended of itself in another way, which is no refusal.
    Ended {
        /// How it ended.
        status: String,
        /// Its last words.
        said: String,
    },
    /// It is up: a second process listens and so has the store, a wiped node does a node's work.
    Admitted(Process),
    /// Neither, in the time that it was given; it was killed.
    Undecided,
}

impl Trial {
    /// Adds to the facts of an event what became of it.
    pub fn tell(&self, facts: &mut serde_json::Value) {
        facts["refused"] = json!(matches!(self, Trial::Refused { .. }));
        match self {
            Trial::Refused { status, said } | Trial::Ended { status, said } => {
                facts["status"] = json!(status);
                facts["said"] = json!(said);
            }
            Trial::Admitted(_) => facts["admitted"] = json!(true),
            Trial::Undecided => facts["undecided"] = json!("neither refused nor let in in time"),
        }
    }
}

struct Member {
    log: PathBuf,
    process: Mutex<Option<Arc<Process>>>,
}

impl Cluster {
    /// A cluster of which nothing runs yet. `logs` gives the file for each node's log, `scratch` the
    /// directory below which the nodes' own lie.
    ///
    /// # Errors
    /// The system gives no thread to supervise the nodes from.
    pub fn new(
        system: Arc<dyn System>,
        recorder: Recorder,
        logs: BTreeMap<Node, PathBuf>,
        scratch: PathBuf,
    ) -> Result<Self, ClusterError> {
        let supervisor = Supervisor::start().map_err(|source| ClusterError::Io {
            what: "cannot start the supervising thread".to_owned(),
            source,
        })?;
        let members = logs
            .into_iter()
            .map(|(node, log)| (node, Member { log, process: Mutex::new(None) }))
            .collect();
        Ok(Cluster {
            system,
            supervisor,
            members,
            scratch,
            disks: None,
            recorder,
            deaths: watch::Sender::new(0),
            watchers: Mutex::default(),
        })
    }

    /// Gives each node a disk that can lose power, mounted at a directory. Before the first start.
    ///
    /// # Errors
    /// The operating system does not let file systems be mounted.
    pub async fn mount_disks(
        &mut self,
        directories: BTreeMap<Node, PathBuf>,
    ) -> Result<(), ClusterError> {
        let mounted = Disks::mount(&self.supervisor, directories).await;
        self.disks = Some(mounted.map_err(disk_error("cannot mount the nodes' disks"))?);
        Ok(())
    }

    /// Takes the nodes' disks away, if they have any. After the last of them has ended.
    ///
    /// # Errors
    /// One is still in use.
    pub async fn unmount_disks(&self) -> Result<(), ClusterError> {
        let Some(disks) = &self.disks else { return Ok(()) };
        let unmounted = disks.unmount(&self.supervisor).await;
        unmounted.map_err(disk_error("cannot unmount the nodes' disks"))
    }

    /// The disk of a node, if it can lose power.
    #[must_use]
    pub fn device(&self, node: Node) -> Option<&Device> {
        self.disks.as_ref().map(|disks| disks.device(node))
    }

    /// The power of these nodes goes, of all of them at once: they are gone, and their disks have
    /// lost what was not synced, or a part of it that the seed chooses. What each has lost.
    ///
    /// # Errors
    /// A disk cannot be mounted again.
    pub async fn cut(
        &self,
        nodes: &[Node],
        part: Option<u64>,
    ) -> Result<BTreeMap<Node, Dropped>, ClusterError> {
        let Some(disks) = &self.disks else { return Ok(BTreeMap::new()) };
        for node in nodes {
            disks.device(*node).power_off();
        }
        let processes: Vec<_> = nodes.iter().filter_map(|node| self.process(*node)).collect();
        for process in &processes {
            process.expect_end();
            process.signal(Signal::SIGKILL);
        }
        for node in nodes {
            disks.device(*node).refuse();
        }
        for process in &processes {
            process.kill().await;
        }
        let mut dropped = BTreeMap::new();
        for (node, n) in nodes.iter().zip(0..) {
            let part = part.map(|seed| seed.wrapping_add(n));
            let lost = disks.lose(&self.supervisor, *node, part).await;
            let lost = lost.map_err(disk_error("cannot mount a disk again"))?;
            dropped.insert(*node, lost);
        }
        Ok(dropped)
    }

    /// The system that the nodes are of.
    #[must_use]
    pub fn system(&self) -> &dyn System {
        &*self.system
    }

    /// The nodes.
    pub fn nodes(&self) -> impl Iterator<Item = Node> {
        self.system.nodes().iter().copied()
    }

    /// The replicas among the nodes.
    pub fn replicas(&self) -> impl Iterator<Item = Node> {
        self.nodes().filter(|node| *node != Node::Master)
    }

    /// Counts the nodes that ended unasked.
    #[must_use]
    pub fn deaths(&self) -> watch::Receiver<usize> {
        self.deaths.subscribe()
    }

    fn member(&self, node: Node) -> &Member {
        self.members.get(&node).expect("the cluster's nodes do not change")
    }

    /// The process that a node is or was last, if it was ever started.
    #[must_use]
    pub fn process(&self, node: Node) -> Option<Arc<Process>> {
        self.member(node).process.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts a node and waits until it listens. A node that runs is left alone.
    ///
    /// # Errors
    /// The program cannot be started, or ends, or does not listen in time.
    pub async fn start(&self, node: Node) -> Result<(), ClusterError> {
        self.start_armed(node, None).await
    }

    /// Starts a node that is to stop itself at a point, armed before it does anything, and waits
    /// until it lies there or listens.
    ///
    /// # Errors
    /// As for [`Cluster::start`].
    pub async fn start_armed(&self, node: Node, arm: Option<&str>) -> Result<(), ClusterError> {
        let member = self.member(node);
        let before = self.process(node);
        if before.as_ref().is_some_and(|process| process.state().ended().is_none()) {
            return Ok(());
        }
        let io = |what: String| move |source| ClusterError::Io { what, source };
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&member.log)
            .map_err(io(format!("cannot open {}", member.log.display())))?;
        let arm = arm.map(str::to_owned);
        let start = Start { bootstrap: before.is_none(), arm, ..Start::default() };
        let command = self.system.command(node, &start);
        let program = command.get_program().to_string_lossy().into_owned();
        let process = self
            .supervisor
            .spawn(command, log)
            .await
            .map_err(io(format!("cannot start {program}")))?;
        let process = Arc::new(process);
        *member.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process.clone());
        let up = process
            .wait_until(START_DEADLINE, |state| {
                state.listening.is_some() || state.lies_at_point() || state.ended().is_some()
            })
            .await;
        match up {
            Some(state) if state.ended().is_none() => {
                self.watch_over(node, &process);
                Ok(())
            }
            state => {
                let why = match state.and_then(|state| state.ended()) {
                    Some(status) => format!("it ended with {status}"),
                    None => format!("it did not listen within {START_DEADLINE:?}"),
                };
                process.kill().await;
                let log = log_tail(&member.log, &self.scratch);
                let value = json!({ "node": node, "status": why, "log": log.trim() });
                let _ = self.recorder.record(died(value));
                self.deaths.send_modify(|deaths| *deaths += 1);
                Err(ClusterError::Start { node, why, log })
            }
        }
    }

    /// Records it when the process ends though nobody asked it to, or in another way.
    fn watch_over(&self, node: Node, process: &Arc<Process>) {
        let mut follow = process.follow();
        let recorder = self.recorder.clone();
        let deaths = self.deaths.clone();
        let (log, scratch) = (self.member(node).log.clone(), self.scratch.clone());
        let watcher = tokio::spawn(async move {
            let Ok(state) = follow.wait_for(|state| state.ended().is_some()).await else { return };
            let (asked, status) = (state.end_expected, state.ended());
            drop(state);
            let Some(status) = status else { return };
            // A node that fails while it is being killed or stopped has failed nevertheless.
            let killed = status.signal() == Some(Signal::SIGKILL as i32);
            if asked && (killed || status.success()) {
                return;
            }
            let log = log_tail(&log, &scratch);
            let value = json!({ "node": node, "status": status.to_string(), "log": log.trim() });
            // The next caller of the recorder learns that the history cannot be written.
            let _ = recorder.record(died(value));
            deaths.send_modify(|deaths| *deaths += 1);
        });
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(watcher);
    }

    /// Starts a node in a way that must be refused, and waits until it is clear whether it is. A
    /// wiped node that is let in keeps its new directory, and its process is ended.
    ///
    /// # Errors
    /// The program cannot be started.
    pub async fn attempt(&self, node: Node, attempt: Attempt) -> Result<Trial, ClusterError> {
        let io = |what: String| move |source| ClusterError::Io { what, source };
        let log = &self.member(node).log;
        let out = OpenOptions::new().create(true).append(true).open(log);
        let out = out.map_err(io(format!("cannot open {}", log.display())))?;
        let start = match attempt {
            Attempt::SecondInstance => Start { beside: true, ..Start::default() },
            Attempt::Wiped { bootstrap } => {
                let empty = self.system.spare_directory(node);
                let empty = empty.map_err(io("cannot make an empty directory".to_owned()))?;
                Start { bootstrap, directory: Some(empty), ..Start::default() }
            }
        };
        let command = self.system.command(node, &start);
        let program = command.get_program().to_string_lossy().into_owned();
        let process = self.supervisor.spawn(command, out).await;
        let process = process.map_err(io(format!("cannot start {program}")))?;
        let deadline = Instant::now() + ATTEMPT_DEADLINE;
        loop {
            let state = process.state();
            if let Some(status) = state.ended() {
                let tail = log_tail(log, &self.scratch);
                let said = tail.lines().last().unwrap_or_default().trim().to_owned();
                let refused = self.system.is_refusal(&start, status, &said);
                let status = status.to_string();
                return Ok(if refused {
                    Trial::Refused { status, said }
                } else {
                    Trial::Ended { status, said }
                });
            }
            let admitted = state.listening.is_some()
                && match attempt {
                    // Who listens has opened its store.
                    Attempt::SecondInstance => true,
                    Attempt::Wiped { .. } => {
                        self.system.observe(node).await.is_ok_and(|observed| observed.ready)
                    }
                };
            if admitted {
                if let Some(directory) = start.directory {
                    self.system.adopt(node, directory);
                    process.kill().await;
                }
                return Ok(Trial::Admitted(process));
            }
            if Instant::now() > deadline {
                process.kill().await;
                return Ok(Trial::Undecided);
            }
            sleep(POLL_PERIOD).await;
        }
    }

    /// Kills a node as a power switch would.
    pub async fn kill(&self, node: Node) {
        if let Some(process) = self.process(node) {
            process.expect_end();
            process.signal(Signal::SIGKILL);
            if let Some(device) = self.device(node) {
                // Who waits for its disk cannot end before it has an answer.
                device.abandon();
            }
            process.kill().await;
        }
    }

    /// Stops a node's process, and waits until it lies still; says whether it does.
    pub async fn pause(&self, node: Node) -> bool {
        let Some(process) = self.process(node) else { return false };
        process.signal(Signal::SIGSTOP)
            && process
                .wait_until(STOP_DEADLINE, |state| state.activity != Activity::Running)
                .await
                .is_some_and(|state| state.activity == Activity::Stopped)
    }

    /// Continues a node's process, and waits until it runs; says whether it does.
    pub async fn resume(&self, node: Node) -> bool {
        let Some(process) = self.process(node) else { return false };
        process.signal(Signal::SIGCONT)
            && process
                .wait_until(STOP_DEADLINE, |state| state.activity != Activity::Stopped)
                .await
                .is_some_and(|state| state.activity == Activity::Running)
    }

    /// Repairs what can be: continues what lies still and starts what has ended. What was done to
    /// which node, in words.
    ///
    /// # Errors
    /// A node does not start.
    pub async fn heal(&self) -> Result<Vec<(Node, &'static str)>, ClusterError> {
        let mut done = Vec::new();
        for node in self.nodes().collect::<Vec<_>>() {
            let Some(process) = self.process(node) else { continue };
            match process.state().activity {
                Activity::Running => {}
                Activity::Stopped => {
                    self.resume(node).await;
                    done.push((node, "resumed"));
                }
                Activity::Ended(_) => {
                    self.start(node).await?;
                    done.push((node, "restarted"));
                }
            }
        }
        Ok(done)
    }

    /// What all of these nodes say of themselves, asked at the same time; those that do not answer
    /// are left out. Nodes that lie still or are gone are not asked, so that nobody waits for them.
    pub async fn observe(
        &self,
        nodes: impl IntoIterator<Item = Node>,
    ) -> BTreeMap<Node, Observation> {
        let runs = |node: &Node| {
            self.process(*node).is_some_and(|it| it.state().activity == Activity::Running)
        };
        let asked = nodes.into_iter().filter(runs).map(|node| async move {
            self.system.observe(node).await.ok().map(|observed| (node, observed))
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Waits until every node is ready; how long it took, or none if it is not so in time.
    pub async fn until_ready(&self, deadline: Duration) -> Option<Duration> {
        self.until(deadline, |observed| observed.ready).await
    }

    /// Waits until every node is ready and has nothing unsettled; how long it took, or none if it
    /// is not so in time.
    pub async fn until_settled(&self, deadline: Duration) -> Option<Duration> {
        self.until(deadline, |observed| observed.ready && observed.unsettled.is_empty()).await
    }

    /// Waits until none of these transactions is in doubt at any replica; how long it took, or
    /// none if it is not so in time. A replica that does not answer may be in doubt.
    pub async fn until_resolved(&self, txns: &[TxnId], deadline: Duration) -> Option<Duration> {
        let started = Instant::now();
        let replicas: Vec<_> = self.replicas().collect();
        loop {
            let observed = self.observe(replicas.iter().copied()).await;
            let open = |observed: &Observation| {
                observed.unsettled.iter().any(|(txn, _)| txns.contains(txn))
            };
            if observed.len() == replicas.len() && !observed.values().any(open) {
                return Some(started.elapsed());
            }
            if started.elapsed() >= deadline {
                return None;
            }
            sleep(POLL_PERIOD).await;
        }
    }

    async fn until(
        &self,
        deadline: Duration,
        wanted: impl Fn(&Observation) -> bool,
    ) -> Option<Duration> {
        let started = Instant::now();
        let nodes: Vec<_> = self.nodes().collect();
        loop {
            let observed = self.observe(nodes.iter().copied()).await;
            if observed.len() == nodes.len() && observed.values().all(&wanted) {
                return Some(started.elapsed());
            }
            if started.elapsed() >= deadline {
                return None;
            }
            sleep(POLL_PERIOD).await;
        }
    }

    /// Ends every node in order, the master first, and waits until all that is to be said of their
    /// ends is recorded. A node that does not end is killed, and returned.
    pub async fn stop(&self) -> Vec<Node> {
        let mut hung = Vec::new();
        for node in self.nodes().collect::<Vec<_>>().into_iter().rev() {
            let Some(process) = self.process(node) else { continue };
            process.expect_end();
            process.signal(Signal::SIGTERM);
            let ended = process.wait_until(STOP_DEADLINE, |state| state.ended().is_some()).await;
            if ended.is_none() {
                process.kill().await;
                hung.push(node);
            }
        }
        let watchers =
            std::mem::take(&mut *self.watchers.lock().unwrap_or_else(PoisonError::into_inner));
        futures::future::join_all(watchers).await;
        hung
    }
}

fn disk_error(what: &str) -> impl FnOnce(io::Error) -> ClusterError {
    move |source| ClusterError::Io { what: what.to_owned(), source }
}

/// The event of a node that ended, or never came up, though nothing was done to it.
fn died(value: serde_json::Value) -> Action {
    Action::Nemesis(NemesisEvent { f: "died".to_owned(), value })
}

/// The last lines of a log, each on a line of its own after a line break; empty if there is none.
/// Paths below the scratch directory, which nobody will find again, are told from there.
fn log_tail(path: &Path, scratch: &Path) -> String {
    const BYTES_MAX: u64 = 4096;
    const LINES_MAX: usize = 6;
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default().replace(&format!("{}/", scratch.display()), "");
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_MAX)..]
        .iter()
        .map(|line| format!("\n    {line}"))
        .collect()
}
