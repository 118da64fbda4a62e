//! The processes of a system under test: start, wait until ready, pause, resume, kill, cut the
//! power, restart. Knows how to do these things, not when.

mod clock;
mod forbidden_start;
mod log_tail;
mod power;

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use history::{
    NemesisEvent,
    nemesis::{Died, Exit},
};
use nix::sys::signal::Signal;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use self::log_tail::log_tail;
pub use self::{forbidden_start::ForbiddenStartResult, power::DiskFaultEnd};
use crate::{
    disk::Disks,
    events::EventLog,
    keeper,
    network::Host,
    node::NodeName,
    process::{Activity, Process},
    supervisor::Supervisor,
    system::{MemberChange, StartOptions, System},
};

/// How long a started node has to report its address.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// How long a node has to exit after SIGTERM, and a signal to take effect.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How often a condition of the cluster is polled.
const POLL_PERIOD: Duration = Duration::from_millis(10);

/// How long the system may refuse to add a node that was removed: it may just have lost its leader.
const ADD_DEADLINE: Duration = Duration::from_secs(30);

/// How often it is asked to.
const ADD_PERIOD: Duration = Duration::from_millis(500);

/// Why the cluster cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The operating system refuses something.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// The error.
        source: io::Error,
    },
    /// A node that was removed from the cluster cannot be added again.
    #[error("{node} was removed and cannot be added again: {why}")]
    Member {
        /// The node.
        node: NodeName,
        /// Why.
        why: String,
    },
    /// A node does not start.
    #[error("{node} does not start: {why}{log}")]
    Start {
        /// The node.
        node: NodeName,
        /// What was observed.
        why: String,
        /// The end of its log, each line on a line of its own.
        log: String,
    },
}

/// The processes of the system under test.
pub struct Cluster {
    system: Arc<dyn System>,
    supervisor: Supervisor,
    members: BTreeMap<NodeName, Member>,
    /// The temporary directory of the run, which log excerpts must not mention.
    scratch: PathBuf,
    /// The nodes' disks, if they can lose power.
    disks: Option<Disks>,
    events: EventLog,
    /// How many nodes have exited unexpectedly.
    unexpected_exits: watch::Sender<usize>,
    exit_watchers: Mutex<Vec<JoinHandle<()>>>,
}

struct Member {
    log: PathBuf,
    process: Mutex<Option<Arc<Process>>>,
}

impl Cluster {
    /// A cluster whose nodes are not running yet. `logs` gives the file for each node's log,
    /// `scratch` the temporary directory that contains the nodes' directories.
    ///
    /// # Errors
    /// The supervisor thread cannot be started.
    pub fn new(
        system: Arc<dyn System>,
        events: EventLog,
        logs: BTreeMap<NodeName, PathBuf>,
        scratch: PathBuf,
    ) -> Result<Self, ClusterError> {
        let supervisor =
            Supervisor::start().map_err(io_error("cannot start the supervisor thread"))?;
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
            events,
            unexpected_exits: watch::Sender::new(0),
            exit_watchers: Mutex::default(),
        })
    }

    /// The system that the nodes belong to.
    #[must_use]
    pub fn system(&self) -> &dyn System {
        &*self.system
    }

    /// The nodes, in the order in which they are started.
    #[must_use]
    pub fn nodes(&self) -> &[NodeName] {
        self.system.nodes()
    }

    /// The number of unexpected exits so far.
    #[must_use]
    pub fn unexpected_exits(&self) -> watch::Receiver<usize> {
        self.unexpected_exits.subscribe()
    }

    fn member(&self, node: &NodeName) -> &Member {
        self.members.get(node).expect("the cluster's nodes do not change")
    }

    /// The file of the node's log.
    #[must_use]
    pub fn log(&self, node: &NodeName) -> PathBuf {
        self.member(node).log.clone()
    }

    /// The last lines of the node's log.
    #[must_use]
    pub fn log_end(&self, node: &NodeName) -> String {
        log_tail(&self.member(node).log, &self.scratch)
    }

    /// The thread that spawns the processes of the run.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// The node's latest process, which may have exited; `None` if it was never started.
    #[must_use]
    pub fn process(&self, node: &NodeName) -> Option<Arc<Process>> {
        self.member(node).process.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the node's process exists and is not stopped.
    #[must_use]
    pub fn is_running(&self, node: &NodeName) -> bool {
        self.process(node).is_some_and(|process| process.state().activity == Activity::Running)
    }

    /// Whether the node's process has exited, or was never started.
    #[must_use]
    pub fn has_exited(&self, node: &NodeName) -> bool {
        self.process(node).is_none_or(|process| process.state().exit_status().is_some())
    }

    /// Starts a node and waits until it listens. Does nothing if it is running.
    ///
    /// # Errors
    /// The program cannot be started, exits, or does not listen in time.
    pub async fn start(&self, node: &NodeName) -> Result<(), ClusterError> {
        self.start_armed(node, None).await
    }

    /// Starts a node with a crash point armed, and waits until it has stopped there, is held at a point of its disk, or
    /// listens.
    ///
    /// # Errors
    /// As for [`Cluster::start`].
    pub async fn start_armed(
        &self,
        node: &NodeName,
        point: Option<&str>,
    ) -> Result<(), ClusterError> {
        let previous = self.process(node);
        if previous.as_ref().is_some_and(|process| process.state().exit_status().is_none()) {
            return Ok(());
        }
        let arm = point.map(str::to_owned);
        let start = StartOptions { bootstrap: previous.is_none(), arm, ..StartOptions::default() };
        self.start_with(node, &start).await
    }

    /// Removes a running node from the cluster, and kills it.
    ///
    /// # Errors
    /// The system refuses, in words; then the node runs as before.
    pub async fn remove_member(&self, node: &NodeName) -> Result<(), String> {
        // It may exit as soon as it is no member any more.
        let tolerate = |is_tolerated| {
            self.process(node).inspect(|process| process.tolerate_exit(is_tolerated));
        };
        tolerate(true);
        let removed = self.system.change_member(MemberChange::Remove, node).await;
        match removed {
            Ok(()) => self.kill(node).await,
            Err(_) => tolerate(false),
        }
        removed
    }

    /// Adds a node that was removed, without its data, and starts it.
    ///
    /// # Errors
    /// Its data cannot be deleted, the system refuses for long, or as for [`Cluster::start`].
    pub async fn add_member(&self, node: &NodeName) -> Result<(), ClusterError> {
        let member = |why: String| ClusterError::Member { node: node.clone(), why };
        self.system.clear(node).map_err(|error| member(format!("its data stays: {error}")))?;
        let end = Instant::now() + ADD_DEADLINE;
        while let Err(why) = self.system.change_member(MemberChange::Add, node).await {
            if Instant::now() >= end {
                return Err(member(why));
            }
            sleep(ADD_PERIOD).await;
        }
        self.start_with(node, &StartOptions { joins: true, ..StartOptions::default() }).await
    }

    async fn start_with(&self, node: &NodeName, start: &StartOptions) -> Result<(), ClusterError> {
        let process = Arc::new(self.spawn(node, start).await?);
        let member = self.member(node);
        *member.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process.clone());
        if !self.system.announces_address() {
            self.watch_exit(node, &process);
            return Ok(());
        }
        let is_up = process.wait_until(START_DEADLINE, |state| {
            state.listening.is_some()
                || state.is_stopped_at_point()
                || state.exit_status().is_some()
        });
        let up = tokio::select! {
            up = is_up => up,
            // It would not listen before it has an answer.
            () = self.until_held(node) => Some(process.state()),
        };
        match up {
            Some(state) if state.exit_status().is_none() => {
                self.watch_exit(node, &process);
                Ok(())
            }
            state => {
                let why = match state.and_then(|state| state.exit_status()) {
                    Some(status) => format!("it exited with {status}"),
                    None => format!("it did not listen within {START_DEADLINE:?}"),
                };
                self.kill(node).await;
                let log = log_tail(&member.log, &self.scratch);
                let _ = self.events.record(died(node, &why, &log));
                self.unexpected_exits.send_modify(|exits| *exits += 1);
                Err(ClusterError::Start { node: node.clone(), why, log })
            }
        }
    }

    /// Waits until a request to the node's disk is held at the point that is armed there.
    async fn until_held(&self, node: &NodeName) {
        match self.device(node) {
            Some(device) => device.until_reached().await,
            None => std::future::pending().await,
        }
    }

    /// Starts a node that may refuse to start. Returns how it ended, or `None` if it is ready, or listens and
    /// does not become ready in time, for which it may need others.
    ///
    /// # Errors
    /// The program cannot be started.
    pub async fn try_start(&self, node: &NodeName) -> Result<Option<Exit>, ClusterError> {
        let process = Arc::new(self.spawn(node, &StartOptions::default()).await?);
        process.tolerate_exit(true);
        let member = self.member(node);
        *member.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process.clone());
        let decided = poll(START_DEADLINE, || async {
            process.state().exit_status().is_some() || self.system.is_ready(node).await
        });
        let is_ready = decided.await.is_some() || process.state().listening.is_some();
        let log = log_tail(&member.log, &self.scratch);
        let last_log_line = log.lines().last().unwrap_or_default().trim().to_owned();
        if let Some(status) = process.state().exit_status() {
            return Ok(Some(Exit { status: status.to_string(), last_log_line }));
        }
        if is_ready {
            process.tolerate_exit(false);
            self.watch_exit(node, &process);
            return Ok(None);
        }
        self.kill(node).await;
        Ok(Some(Exit { status: "it did not become ready".to_owned(), last_log_line }))
    }

    /// Spawns the process of a node; its standard error is appended to the node's log.
    async fn spawn(&self, node: &NodeName, start: &StartOptions) -> Result<Process, ClusterError> {
        let path = &self.member(node).log;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(io_error(format!("cannot open {}", path.display())))?;
        let offset = log.metadata().map_or(0, |metadata| metadata.len());
        let host = Host::Node(node.clone());
        if let Some(network) = self.system.network() {
            let on = network.power_on(&host);
            on.map_err(io_error(format!("{node} has lost its power and cannot have it back")))?;
        }
        self.system.starting(node, path, offset);
        let command = self.system.command(node, start);
        let program = command.get_program().to_string_lossy().into_owned();
        let spawned = match self.system.keeper() {
            Some(keeper) => {
                let namespaces = self.system.network();
                let namespaces = namespaces.map(|network| network.namespaces(&host));
                let account = self.system.account(node);
                let kept = keeper::keep(keeper, &command, false, account, namespaces.as_ref());
                self.supervisor.spawn_keeper(kept, log).await
            }
            None => self.supervisor.spawn(command, log).await,
        };
        spawned.map_err(io_error(format!("cannot start {program}")))
    }

    /// Records the exit of the process unless it was asked for and succeeded or was a SIGKILL.
    fn watch_exit(&self, node: &NodeName, process: &Arc<Process>) {
        let mut states = process.subscribe();
        let (node, events) = (node.clone(), self.events.clone());
        let unexpected_exits = self.unexpected_exits.clone();
        let (log, scratch) = (self.member(&node).log.clone(), self.scratch.clone());
        let is_foreign = !self.system.announces_address();
        let watcher = tokio::spawn(async move {
            let exited = states.wait_for(|state| state.exit_status().is_some()).await;
            let Ok(state) = exited else { return };
            let (expected, status) = (state.exit_expected, state.exit_status());
            let is_tolerated = state.exit_tolerated;
            drop(state);
            let Some(status) = status.filter(|_| !is_tolerated) else { return };
            // A node that fails while it is being stopped has failed nevertheless. How a program that
            // is not ours answers SIGTERM is its own affair.
            let killed = status.signal() == Some(Signal::SIGKILL as i32);
            if expected && (killed || status.success() || is_foreign) {
                return;
            }
            let log = log_tail(&log, &scratch);
            // If the history cannot be written, the next caller of the log learns that.
            let _ = events.record(died(&node, &status.to_string(), &log));
            unexpected_exits.send_modify(|exits| *exits += 1);
        });
        self.exit_watchers.lock().unwrap_or_else(PoisonError::into_inner).push(watcher);
    }

    /// Sends SIGKILL to a node and waits until it is gone.
    pub async fn kill(&self, node: &NodeName) {
        if let Some(process) = self.process(node) {
            process.expect_exit();
            process.signal(Signal::SIGKILL);
            if let Some(device) = self.device(node) {
                power::delivered(&process).await;
                // A process that waits for its disk cannot exit before it has an answer, nor one whose
                // last pages a stalled disk does not take.
                if device.is_stalled() {
                    device.fail_requests();
                    process.kill().await;
                    device.power_on();
                    return;
                }
                device.abandon();
            }
            process.kill().await;
        }
    }

    /// Sends SIGTERM to a node and waits until it has exited. A node that does not exit in time is
    /// killed; returns whether it exited by itself.
    pub async fn terminate(&self, node: &NodeName) -> bool {
        let Some(process) = self.process(node) else { return true };
        process.expect_exit();
        process.signal(Signal::SIGTERM);
        // One that is stopped takes note of it when it continues.
        process.signal(Signal::SIGCONT);
        let exited = process.wait_until(STOP_DEADLINE, |state| state.exit_status().is_some()).await;
        if exited.is_none() {
            self.kill(node).await;
        }
        exited.is_some()
    }

    /// Sends SIGSTOP to a node and waits until it is stopped. Returns whether it is.
    pub async fn pause(&self, node: &NodeName) -> bool {
        let Some(process) = self.process(node) else { return false };
        process.signal(Signal::SIGSTOP)
            && process
                .wait_until(STOP_DEADLINE, |state| state.activity != Activity::Running)
                .await
                .is_some_and(|state| state.activity == Activity::Stopped)
    }

    /// Sends SIGCONT to a node and waits until it runs. Returns whether it does.
    pub async fn resume(&self, node: &NodeName) -> bool {
        let Some(process) = self.process(node) else { return false };
        process.signal(Signal::SIGCONT)
            && process
                .wait_until(STOP_DEADLINE, |state| state.activity != Activity::Stopped)
                .await
                .is_some_and(|state| state.activity == Activity::Running)
    }

    /// Resumes every stopped node and restarts every exited one. Returns the nodes and what was
    /// done to each.
    ///
    /// # Errors
    /// A node does not start.
    pub async fn heal(&self) -> Result<Vec<(NodeName, &'static str)>, ClusterError> {
        let mut healed = Vec::new();
        for node in self.nodes() {
            let Some(process) = self.process(node) else { continue };
            match process.state().activity {
                Activity::Running => {}
                Activity::Stopped => {
                    self.resume(node).await;
                    healed.push((node.clone(), "resumed"));
                }
                Activity::Exited(_) => {
                    self.start(node).await?;
                    healed.push((node.clone(), "restarted"));
                }
            }
        }
        Ok(healed)
    }

    /// Waits until every node is ready. Returns how long that took, or `None` after `deadline`.
    pub async fn until_ready(&self, deadline: Duration) -> Option<Duration> {
        poll(deadline, || async {
            let ready = self.nodes().iter().map(|node| async move {
                // A node that is stopped cannot answer: asking it would cost the timeout.
                self.is_running(node) && self.system.is_ready(node).await
            });
            futures::future::join_all(ready).await.into_iter().all(|ready| ready)
        })
        .await
    }

    /// Stops every node with SIGTERM, in reverse order of their start, and waits until their exits
    /// are recorded. A node that does not exit in time is killed and returned.
    pub async fn stop(&self) -> Vec<NodeName> {
        let mut hung = Vec::new();
        for node in self.nodes().iter().rev() {
            if !self.terminate(node).await {
                hung.push(node.clone());
            }
        }
        let watchers =
            std::mem::take(&mut *self.exit_watchers.lock().unwrap_or_else(PoisonError::into_inner));
        futures::future::join_all(watchers).await;
        hung
    }
}

/// Polls a condition until it holds. Returns how long that took, or `None` after `deadline`. The
/// condition is checked at least once.
pub async fn poll<F: Future<Output = bool>>(
    deadline: Duration,
    mut condition: impl FnMut() -> F,
) -> Option<Duration> {
    let started = Instant::now();
    loop {
        if condition().await {
            return Some(started.elapsed());
        }
        if started.elapsed() >= deadline {
            return None;
        }
        sleep(POLL_PERIOD).await;
    }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ClusterError {
    let what = what.into();
    move |source| ClusterError::Io { what, source }
}

/// The event for a node that exited unexpectedly or did not start.
fn died(node: &NodeName, status: &str, log: &str) -> NemesisEvent {
    NemesisEvent::Died(Died {
        node: node.as_str().to_owned(),
        status: status.to_owned(),
        log: log.trim().to_owned(),
    })
}
