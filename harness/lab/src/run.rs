//! Makes a run of any system, from the start of the first process to the exit of the last: nodes come up,
//! clients send the requests of a workload and faults are injected; then everything is healed, read once
//! more, and stopped. The result is a run directory. Does not judge it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use history::{
    Action, NemesisEvent, Recorder, RunDescription,
    nemesis::{Died, EndedEarly, FinalReads, Healed, Settled},
};
use rand_chacha::ChaCha8Rng;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use crate::{
    cluster::{Cluster, ClusterError},
    disk::{DiskPlace, NameDurability},
    events::EventLog,
    fault::{Fault, Target},
    nemesis::{INTERVAL, Nemesis, NemesisError},
    network::{Network, NetworkHealth},
    node::NodeName,
    progress::{NoProgress, RunProgress},
    redaction,
    run_directory::{RunDirectory, utc},
    seeds::nemesis_rng,
    system::System,
    worker::{ClientTimeouts, Worker},
    workloads::{FinalReader, LoadShape, Workload},
};

/// How often the progress line is updated.
const TICK_PERIOD: Duration = Duration::from_millis(200);

/// How long all final reads together may take. After that, each remaining one is tried once.
const READS_DEADLINE: Duration = Duration::from_secs(20);

/// How long the nodes have to become ready after the last fault was undone.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);

/// How a run is made.
#[derive(Clone)]
pub struct RunSettings {
    /// What everything random is drawn from.
    pub seed: u64,
    /// How long clients send requests.
    pub time_limit: Duration,
    /// The load: clients, keys, and operations per second.
    pub load: LoadShape,
    /// The directory of run directories.
    pub store: PathBuf,
    /// How long a client waits for an answer.
    pub timeouts: ClientTimeouts,
    /// How long the nodes have to become ready after the first start.
    pub ready_deadline: Duration,
    /// The longest time in which the system is left alone before an injection, and in which a node stays killed.
    pub interval: Duration,
    /// When names of files become durable on the nodes' disks, if faults need these.
    pub disk: NameDurability,
    /// The part of the load of which the packets of the virtual network are written to `network.pcap`: from, to.
    pub capture: Option<(Duration, Duration)>,
    /// How large the run directory may become, in bytes, before the load is ended.
    pub max_bytes: Option<u64>,
    /// Whether keys and values are replaced by digests in what is kept: see [`history::Redactor`].
    pub redact: bool,
    /// What `test.json` says besides: the name of the system, the claim, the command.
    pub description: RunDescription,
    /// Turns true when the run must end early; it then ends in order.
    pub interrupt: watch::Receiver<bool>,
    /// Follows the run.
    pub progress: Arc<dyn RunProgress>,
}

impl RunSettings {
    /// Settings for a run of 20 seconds by ten clients, recorded in a directory below `store`. `system` is
    /// the name of the system in the record.
    #[must_use]
    pub fn new(system: &str, store: &Path) -> Self {
        RunSettings {
            seed: 0,
            time_limit: Duration::from_secs(20),
            load: LoadShape::default(),
            store: store.to_owned(),
            timeouts: ClientTimeouts { write: Duration::from_secs(1), get: Duration::from_secs(1) },
            ready_deadline: Duration::from_secs(60),
            interval: INTERVAL,
            disk: NameDurability::Ext4,
            capture: None,
            max_bytes: None,
            redact: false,
            description: RunDescription {
                system: Some(system.to_owned()),
                ..RunDescription::default()
            },
            // Without a sender it never turns true.
            interrupt: watch::channel(false).1,
            progress: Arc::new(NoProgress),
        }
    }
}

/// What kept the lab from making a run. A failure of the system under test is not an error, unless it
/// never comes up.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The operating system refuses something.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// The error.
        source: io::Error,
    },
    /// The nodes cannot be run.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Faults cannot be injected.
    #[error(transparent)]
    Nemesis(#[from] NemesisError),
    /// A fault names a node that there is not.
    #[error("{fault}: there is no node '{node}'; the nodes are {nodes}")]
    NoSuchNode {
        /// The fault.
        fault: String,
        /// The name.
        node: String,
        /// The names of the nodes.
        nodes: String,
    },
    /// A fault needs a disk, and the system does not say what would be on it.
    #[error("{fault}: the system names no directories of node {node} that are on its disk")]
    NoDisk {
        /// The fault.
        fault: String,
        /// The node.
        node: String,
    },
    /// A fault needs a network of the lab, and the system is in none.
    #[error("{fault}: the nodes are in no virtual network; run them in one with --lab netns")]
    NoNetwork {
        /// The fault.
        fault: String,
    },
    /// The system does not become ready, though no fault was injected.
    #[error(
        "the nodes were not ready within {deadline:?}: {which}; see their logs in {}{log}", nodes.display()
    )]
    NotReady {
        /// How long they had.
        deadline: Duration,
        /// The nodes that were not.
        which: String,
        /// The directory of the logs.
        nodes: PathBuf,
        /// The end of the first one's log.
        log: String,
    },
    /// What the system does after its first start failed.
    #[error("the system cannot be set up: {0}")]
    SetUp(String),
    /// A task of the lab panicked.
    #[error("a task of the harness failed: {0}")]
    Panicked(#[from] JoinError),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> RunError {
    let what = what.into();
    move |source| RunError::Io { what, source }
}

/// A run that was made.
#[derive(Clone, Debug)]
pub struct CompletedRun {
    /// The run directory.
    pub directory: PathBuf,
    /// Whether it was interrupted.
    pub interrupted: bool,
}

impl CompletedRun {
    /// The file with the recorded history.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.directory.join("history.jsonl")
    }
}

/// Makes a run of a system that was set up for it. Nothing but the run directory outlives this call, if
/// the system has a [keeper](crate::keeper).
///
/// ```
/// # use std::{process::Command, sync::{Arc, Mutex}, time::Duration, collections::HashMap};
/// # use futures::future::{BoxFuture, ready};
/// use lab::{NodeName, RunSettings, StartOptions, System, client::{Answer, Client}, request::Request};
///
/// /// A store in this process, with a process beside it that stands for the server.
/// struct Store(Vec<NodeName>, Arc<Mutex<HashMap<String, String>>>);
/// struct StoreClient(Arc<Mutex<HashMap<String, String>>>);
///
/// impl System for Store {
///     fn nodes(&self) -> &[NodeName] { &self.0 }
///     fn command(&self, _: &NodeName, _: &StartOptions) -> Command {
///         let mut command = Command::new("sleep");
///         command.arg("60");
///         command
///     }
///     fn is_ready<'a>(&'a self, _: &'a NodeName) -> BoxFuture<'a, bool> { Box::pin(ready(true)) }
///     fn client(&self, _worker: u32) -> Box<dyn Client> { Box::new(StoreClient(self.1.clone())) }
/// }
///
/// impl Client for StoreClient {
///     fn perform<'a>(&'a mut self, r: &'a Request, _: Duration) -> BoxFuture<'a, Answer> {
///         let mut store = self.0.lock().unwrap();
///         if let Some(value) = &r.value { store.insert(r.key.clone(), value.clone()); }
///         let value = store.get(&r.key).cloned();
///         Box::pin(ready(Answer::Ok { version: None, value }))
///     }
/// }
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let store = tempfile::tempdir()?;
/// let system = Store(vec![NodeName::new("n1")], Arc::default());
/// let settings = RunSettings { time_limit: Duration::from_secs(1), ..RunSettings::new("store", store.path()) };
/// let workload = lab::workloads::find("register").expect("it is built in");
/// let faults = lab::fault::parse_faults("kill,pause").expect("well formed");
/// let run = lab::run(Arc::new(system), workload, &faults, &settings).await?;
/// let operations = history::pair(&history::read(&run.history())?.events)?;
/// let result = checker::linearizability::check(&operations, &checker::Limits::default());
/// assert_eq!(result.verdict, checker::Validity::Valid);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The lab cannot do its part, or the system does not come up. What was recorded so far is kept.
pub async fn run(
    system: Arc<dyn System>,
    workload: &dyn Workload,
    faults: &[Fault],
    settings: &RunSettings,
) -> Result<CompletedRun, RunError> {
    require_nodes(faults, &*system)?;
    if let Some(fault) = faults.iter().find(|fault| fault.needs_network())
        && system.network().is_none()
    {
        return Err(RunError::NoNetwork { fault: fault.name().to_owned() });
    }
    let mut testbed = Testbed::set_up(system, workload, faults, settings)?;
    let mounted = testbed.mount_disks(faults, settings).await;
    let made = match mounted {
        Ok(()) => testbed.make(workload, faults, settings).await,
        Err(error) => Err(error),
    };
    // Also after an error, nothing may be left running.
    let stopped = testbed.stop().await;
    if settings.redact {
        redaction::redact(&testbed.directory).map_err(io_error("cannot redact the run"))?;
    }
    if let Err(error) = made.as_ref().and(stopped.as_ref()) {
        testbed.directory.record_failure(error);
    }
    made?;
    stopped?;
    let interrupted = *settings.interrupt.borrow();
    Ok(CompletedRun { directory: testbed.directory.path().to_owned(), interrupted })
}

fn require_nodes(faults: &[Fault], system: &dyn System) -> Result<(), RunError> {
    for fault in faults {
        let unknown = fault.parts().find_map(|(_, target)| match target {
            Target::Node(node) if !system.nodes().contains(node) => Some(node),
            _ => None,
        });
        if let Some(node) = unknown {
            let names: Vec<_> = system.nodes().iter().map(NodeName::as_str).collect();
            return Err(RunError::NoSuchNode {
                fault: fault.name().to_owned(),
                node: node.to_string(),
                nodes: names.join(", "),
            });
        }
    }
    Ok(())
}

/// The name of the directory of a run's group: the system, the workload and the faults.
fn label(system: &str, workload: &str, faults: &[Fault]) -> String {
    let mut label = format!("{system}-{workload}");
    for fault in faults {
        label.push('-');
        label.push_str(fault.name());
    }
    if faults.is_empty() {
        label.push_str("-none");
    }
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    label.chars().map(|letter| if fits(letter) { letter } else { '-' }).take(80).collect()
}

/// Everything that a run needs while it lasts.
struct Testbed {
    directory: RunDirectory,
    cluster: Cluster,
    recorder: Recorder,
    events: EventLog,
    progress: Arc<dyn RunProgress>,
}

impl Testbed {
    fn set_up(
        system: Arc<dyn System>,
        workload: &dyn Workload,
        faults: &[Fault],
        settings: &RunSettings,
    ) -> Result<Testbed, RunError> {
        let started = SystemTime::now();
        let name = settings.description.system.as_deref().unwrap_or("system");
        let label = label(name, workload.name(), faults);
        fs::create_dir_all(&settings.store)
            .map_err(io_error(format!("cannot create {}", settings.store.display())))?;
        let directory = RunDirectory::create(&settings.store, &label, started)
            .map_err(io_error("cannot create the run directory"))?;
        let path = directory.history();
        let recorder = Recorder::create(&path)
            .map_err(io_error(format!("cannot create {}", path.display())))?;
        let description = RunDescription {
            name: Some(label),
            started: Some(utc(started)),
            seed: Some(settings.seed),
            faults: faults.iter().map(|fault| fault.name().to_owned()).collect(),
            concurrency: Some(settings.load.concurrency.into()),
            clock_origin: Some(recorder.origin()),
            workload: Some(workload.name().to_owned()),
            nodes: system.nodes().iter().map(ToString::to_string).collect(),
            ..settings.description.clone()
        };
        write_json(&directory.test(), &description)?;
        let progress = settings.progress.clone();
        recorder.observe({
            let progress = progress.clone();
            move |event| progress.event(event)
        });
        let events = EventLog::new({
            let recorder = recorder.clone();
            move |event| recorder.record(Action::Nemesis(event)).map(|_| ())
        });
        system.begin(directory.path());
        let scratch = system.scratch().to_owned();
        let mut logs = std::collections::BTreeMap::new();
        for node in system.nodes() {
            let path =
                directory.node(node.as_str()).map_err(io_error("cannot create directories"))?;
            logs.insert(node.clone(), path.join("log"));
        }
        let cluster = Cluster::new(system, events.clone(), logs, scratch)?;
        Ok(Testbed { directory, cluster, recorder, events, progress })
    }

    /// Gives each node a disk that can fail, if a fault needs that.
    async fn mount_disks(
        &mut self,
        faults: &[Fault],
        settings: &RunSettings,
    ) -> Result<(), RunError> {
        let Some(fault) = faults.iter().find(|fault| fault.needs_disk()) else {
            return Ok(());
        };
        let system = self.cluster.system();
        let mut places = std::collections::BTreeMap::new();
        for node in system.nodes() {
            let directories = system.disk_directories(node);
            if directories.is_empty() {
                let (fault, node) = (fault.name().to_owned(), node.to_string());
                return Err(RunError::NoDisk { fault, node });
            }
            let directories =
                (0..).zip(directories).map(|(n, at)| (PathBuf::from(format!("{n}")), at));
            let at = system.scratch().join(format!("{node}.disk"));
            places.insert(node.clone(), DiskPlace { at, directories: directories.collect() });
        }
        Ok(self.cluster.mount_disks(places, settings.disk).await?)
    }

    async fn make(
        &self,
        workload: &dyn Workload,
        faults: &[Fault],
        settings: &RunSettings,
    ) -> Result<(), RunError> {
        self.start(settings).await?;
        let workers = self.load(workload, faults, settings).await?;
        self.finish(workload, workers, settings).await
    }

    /// Starts every node, and then waits until all are ready: one may need the others for that.
    async fn start(&self, settings: &RunSettings) -> Result<(), RunError> {
        self.progress.phase("starting the nodes");
        for node in self.cluster.nodes() {
            self.cluster.start(node).await?;
        }
        let mut exits = self.cluster.unexpected_exits();
        let ready = tokio::select! {
            ready = self.cluster.until_ready(settings.ready_deadline) => ready,
            _ = exits.wait_for(|exits| *exits > 0) => None,
        };
        if ready.is_none() {
            return Err(self.not_ready(settings.ready_deadline).await);
        }
        self.cluster.system().after_start().await.map_err(RunError::SetUp)
    }

    async fn not_ready(&self, deadline: Duration) -> RunError {
        let mut which = Vec::new();
        let mut log = String::new();
        for node in self.cluster.nodes() {
            let is_running = self.cluster.is_running(node);
            if is_running && self.cluster.system().is_ready(node).await {
                continue;
            }
            which.push(format!("{node} {}", if is_running { "is not" } else { "has exited" }));
            if log.is_empty() {
                log = self.cluster.log_end(node);
            }
        }
        let nodes = self.directory.path().join("nodes");
        RunError::NotReady { deadline, which: which.join(", "), nodes, log }
    }

    async fn load(
        &self,
        workload: &dyn Workload,
        faults: &[Fault],
        settings: &RunSettings,
    ) -> Result<Vec<Worker>, RunError> {
        self.progress.phase("starting the clients");
        let (end, load_ended) = watch::channel(false);
        let LoadShape { concurrency, .. } = settings.load;
        let mut prepared: Vec<Worker> = (0..concurrency)
            .map(|number| {
                let client = self.cluster.system().client(number);
                let recorder = self.recorder.clone();
                Worker::new(number, concurrency, client, recorder, settings.timeouts)
            })
            .collect();
        let opened = futures::future::join_all(prepared.iter_mut().map(Worker::prepare)).await;
        opened
            .into_iter()
            .collect::<io::Result<()>>()
            .map_err(io_error("cannot write the history"))?;
        self.progress.phase("load");
        let mut workers = JoinSet::new();
        for (number, worker) in (0..).zip(prepared) {
            let source = workload.source(settings.seed, number, &settings.load);
            workers.spawn(worker.work(source, load_ended.clone()));
        }
        let rng: ChaCha8Rng = nemesis_rng(settings.seed);
        let capturing = self.capture(settings.capture, load_ended.clone());
        let (cluster, events, interval) = (&self.cluster, &self.events, settings.interval);
        let nemesis = Nemesis { cluster, events, load_ended, rng, interval };
        let injecting = nemesis.run(faults.to_vec());
        let ending = async {
            let early = self.until_end(settings).await;
            end.send_replace(true);
            early
        };
        let (injected, early, captured) = tokio::join!(injecting, ending, capturing);
        captured.map_err(io_error("cannot write network.pcap"))?;
        if let Some(why) = early {
            self.record(NemesisEvent::EndedEarly(EndedEarly { why }))?;
        }
        match injected {
            // That a node does not start again is a fact about the system, and recorded as such.
            Ok(()) | Err(NemesisError::Cluster(ClusterError::Start { .. })) => {}
            Err(error) => return Err(error.into()),
        }
        self.progress.phase("ending the load");
        let mut finished = Vec::new();
        while let Some(worker) = workers.join_next().await {
            finished.push(worker?.map_err(io_error("cannot write the history"))?);
        }
        finished.sort_by_key(Worker::number);
        Ok(finished)
    }

    /// Writes the packets of a part of the load to a file.
    async fn capture(
        &self,
        part: Option<(Duration, Duration)>,
        mut load_ended: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let (Some((from, to)), Some(network)) = (part, self.cluster.system().network()) else {
            return Ok(());
        };
        let mut ended_within = async |time| {
            let ended = load_ended.wait_for(|ended| *ended);
            tokio::time::timeout(time, ended).await.is_ok()
        };
        if ended_within(from).await {
            return Ok(());
        }
        network.begin_capture(&self.directory.path().join("network.pcap"))?;
        ended_within(to.saturating_sub(from)).await;
        network.end_capture().map(drop)
    }

    /// Waits for the end of the load. Returns why it comes before its time, if it does.
    async fn until_end(&self, settings: &RunSettings) -> Option<String> {
        let end = Instant::now() + settings.time_limit;
        let mut ticks = tokio::time::interval(TICK_PERIOD);
        let mut interrupt = settings.interrupt.clone();
        loop {
            tokio::select! {
                () = sleep_until(end) => return None,
                // Without a sender it is pending for ever.
                true = async { interrupt.wait_for(|interrupt| *interrupt).await.is_ok() } => {
                    return Some("a signal interrupted the run".to_owned());
                }
                _ = ticks.tick() => {
                    self.progress.tick();
                    if settings.max_bytes.is_some_and(|most| self.directory.bytes() > most) {
                        let why = "the run directory has become larger than --max-run-bytes allows";
                        return Some(why.to_owned());
                    }
                    let network = self.cluster.system().network();
                    if let Some(why) = network.and_then(Network::failed) {
                        return Some(format!("the virtual network failed: {why}"));
                    }
                    // A worker ends before the load only if the history cannot be written.
                    if self.recorder.flush().is_err() {
                        return None;
                    }
                }
            }
        }
    }

    /// Heals everything, and lets clients read what there is.
    async fn finish(
        &self,
        workload: &dyn Workload,
        mut workers: Vec<Worker>,
        settings: &RunSettings,
    ) -> Result<(), RunError> {
        self.progress.phase("healing");
        if let Some(network) = self.cluster.system().network() {
            network.heal();
        }
        let healed = match self.cluster.heal().await {
            Ok(healed) => {
                let healed = healed.iter().map(|(node, did)| (node.to_string(), (*did).to_owned()));
                Healed { nodes: Some(healed.collect()), failed: None }
            }
            Err(error) => Healed { nodes: None, failed: Some(error.to_string()) },
        };
        self.record(NemesisEvent::Healed(healed))?;
        let settled = self.cluster.until_ready(SETTLE_DEADLINE).await;
        let ms = settled.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.record(NemesisEvent::Settled(Settled { ms, ..Settled::default() }))?;
        if settled.is_some()
            && let Some(compared) = self.cluster.system().compare()
        {
            self.record(NemesisEvent::Compared(compared.await))?;
        }
        self.progress.phase("reading everything");
        let unread = self.read_everything(workload, &mut workers, settings).await?;
        self.record(NemesisEvent::FinalReads(FinalReads { unread }))?;
        for worker in workers {
            worker.close().await.map_err(io_error("cannot write the history"))?;
        }
        self.report_network()
    }

    /// Records how well the network itself was. One that failed has ended the run, at the latest now.
    fn report_network(&self) -> Result<(), RunError> {
        let Some(network) = self.cluster.system().network() else { return Ok(()) };
        match network.health() {
            Ok(NetworkHealth { dropped, longest_stall }) => {
                let longest_stall_ms = u64::try_from(longest_stall.as_millis()).unwrap_or(u64::MAX);
                self.record(NemesisEvent::NetworkHealth(history::nemesis::NetworkHealth {
                    dropped,
                    longest_stall_ms,
                }))
            }
            Err(why) => {
                let why = format!("the virtual network failed: {why}");
                self.record(NemesisEvent::EndedEarly(EndedEarly { why }))
            }
        }
    }

    /// Makes the final reads of the workload, by a worker at each node or by one of them. Returns what
    /// could not be read.
    async fn read_everything(
        &self,
        workload: &dyn Workload,
        workers: &mut [Worker],
        settings: &RunSettings,
    ) -> Result<Vec<String>, RunError> {
        let deadline = Instant::now() + READS_DEADLINE;
        let mut unread = Vec::new();
        let mut seen: Vec<Option<NodeName>> = Vec::new();
        for worker in workers {
            let node = worker.node().cloned();
            if seen.contains(&node) {
                continue;
            }
            let is_first = seen.is_empty();
            seen.push(node.clone());
            for read in workload.final_reads(&settings.load) {
                if read.reader == FinalReader::One && !is_first {
                    continue;
                }
                let mut request = read.request.clone();
                loop {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let read_value = worker.retry(&request, left).await;
                    let read_value = read_value.map_err(io_error("cannot write the history"))?;
                    self.progress.tick();
                    match (read_value, read.next) {
                        (Ok(value), Some(next)) => match next(&request, value.as_deref()) {
                            Some(following) => request = following,
                            None => break,
                        },
                        (Ok(_), None) => break,
                        (Err(_), _) => {
                            let at =
                                node.as_ref().map_or(String::new(), |node| format!(" at {node}"));
                            unread.push(format!("{}{at}", request.key));
                            break;
                        }
                    }
                }
            }
        }
        Ok(unread)
    }

    fn record(&self, event: NemesisEvent) -> Result<(), RunError> {
        self.events.record(event).map_err(io_error("cannot write the history"))
    }

    async fn stop(&self) -> Result<(), RunError> {
        self.progress.phase("stopping the nodes");
        // An error may have ended the run in the middle of a fault.
        self.cluster.heal_disks();
        for node in self.cluster.stop().await {
            // A program that ignores SIGTERM has broken no promise.
            let (node, status) = (node.to_string(), "it did not exit after SIGTERM".to_owned());
            if self.cluster.system().announces_address() {
                self.record(NemesisEvent::Died(Died { node, status, log: String::new() }))?;
            }
        }
        self.cluster.unmount_disks().await?;
        self.recorder.flush().map_err(io_error("cannot write the history"))
    }
}

/// Writes a file that contains one JSON value, indented for people.
fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), RunError> {
    let cannot = || io_error(format!("cannot write {}", path.display()));
    let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::from).map_err(cannot())?;
    text.push(b'\n');
    fs::write(path, text).map_err(cannot())
}
