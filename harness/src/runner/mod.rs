//! One run from its first process to its last: nodes up, clients asking, faults striking; then
//! everything healed, read once more, and stopped. What comes of it lies in the run directory;
//! judging it is the checkers' work.

mod address;
pub mod cluster;
mod final_phase;
pub mod forced;
mod options;
mod progress;
pub(crate) mod rundir;
mod scratch;
mod signals;
mod worker;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::json;
use system::protocol::Node;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet, spawn_blocking},
    time::{Instant, interval, sleep, sleep_until},
};

pub use self::options::{CONVERGENCE_DEADLINE, RunOptions, duration_text, parse_duration};
pub use self::signals::follow_signals;
use self::{
    address::Address,
    cluster::{Cluster, ClusterError},
    progress::Progress,
    rundir::RunDir,
    scratch::Scratch,
    worker::Worker,
};
use crate::{
    checker::{linearizability::Limits, online::OnlineCheck},
    generator::{Generator, nemesis_rng, network_rng},
    history::{Action, NemesisEvent, Recorder},
    nemesis::{
        FaultName, Lane, Means, Schedule,
        inject::{Nemesis, NemesisError},
        matrix,
    },
    network::Network,
    systems::{
        System,
        twopc::{ClusterSpec, Places, Twopc},
    },
};

/// The cluster is ready this soon after its start.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// After a strike the cluster is given this long before the next: more than any timeout of the
/// protocol and any number of its repetitions.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(15);

/// How often a short history is looked at while it grows.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

/// What kept the harness from making a run. Whatever the system under test does is no such thing.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something that the harness needs of the operating system cannot be had.
    #[error("{what}: {source}")]
    Io {
        /// What was to be done.
        what: String,
        /// Why it cannot be done.
        source: io::Error,
    },
    /// The nodes cannot be run.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The faults cannot be done.
    #[error(transparent)]
    Nemesis(#[from] NemesisError),
    /// The cluster does not come up, though nothing was done to it.
    #[error("the cluster was not ready {READY_DEADLINE:?} after its start; the nodes' logs lie in {}", nodes.display())]
    NotReady {
        /// Where the logs are.
        nodes: PathBuf,
    },
    /// A part of the harness panicked.
    #[error("a part of the harness failed: {0}")]
    Panicked(#[from] JoinError),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> RunError {
    let what = what.into();
    move |source| RunError::Io { what, source }
}

/// A run that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Where it lies.
    pub directory: PathBuf,
    /// Somebody wanted it to end early.
    pub interrupted: bool,
}

/// Makes a run. `interrupt` turns true when somebody wants it to end; it then ends in order.
/// Nothing of the run outlives this call but its directory, whatever the result. `quiet`: says
/// nothing while it goes on.
///
/// # Errors
/// The harness cannot do its part. What was recorded so far stays.
pub async fn run(
    options: &RunOptions,
    interrupt: watch::Receiver<bool>,
    quiet: bool,
) -> Result<Made, RunError> {
    let progress = Progress::new(options.time_limit, quiet);
    let made = make(options, interrupt, &progress).await;
    progress.finish();
    made
}

async fn make(
    options: &RunOptions,
    mut interrupt: watch::Receiver<bool>,
    progress: &Progress,
) -> Result<Made, RunError> {
    let stage = Stage::set_up(options, progress).await?;
    stage.until_ready().await?;
    progress.phase("load");
    let online = stage.online.clone();
    let worker = load(options, &stage.scene, online, &mut interrupt, progress).await?;
    let keys = (0..options.keys).map(|n| format!("k{n}")).collect();
    let directory = stage.close(worker, keys, progress).await?;
    Ok(Made { directory, interrupted: *interrupt.borrow() })
}

/// All that a run stands on, while it lasts.
struct Stage {
    directory: RunDir,
    scene: Scene,
    online: OnlineCheck,
    _scratch: Scratch,
    _address: Address,
}

impl Stage {
    /// Makes the run's directory and starts its nodes.
    async fn set_up(options: &RunOptions, progress: &Progress) -> Result<Self, RunError> {
        let started = SystemTime::now();
        fs::create_dir_all(&options.store)
            .map_err(io_error(format!("cannot make {}", options.store.display())))?;
        let directory = RunDir::create(&options.store, &options.label(), started)
            .map_err(io_error("cannot make the run directory"))?;
        let scratch = Scratch::create(&std::env::temp_dir()).map_err(io_error(format!(
            "cannot make a directory for the nodes' data in {}",
            std::env::temp_dir().display()
        )))?;
        let relayed =
            options.relay || options.faults.names().iter().any(|fault| fault.needs_network());
        // The nodes, a second process of one of them, and a relay before each replica.
        let replicas = u16::from(options.replicas);
        let address = Address::claim(2 * replicas + 2)
            .map_err(io_error("no loopback address with free ports was found"))?;
        let mut places = Places {
            addresses: BTreeMap::new(),
            relays: BTreeMap::new(),
            beside: address.node(replicas + 1),
            scratch: scratch.path().to_owned(),
            records: BTreeMap::new(),
        };
        for n in 0..=options.replicas {
            let node = if n == 0 { Node::Master } else { Node::Replica(n) };
            places.addresses.insert(node, address.node(n.into()));
            if relayed && node != Node::Master {
                places.relays.insert(node, address.node(replicas + 1 + u16::from(n)));
            }
            let records =
                directory.node(&node.to_string()).map_err(io_error("cannot make directories"))?;
            places.records.insert(node, records);
        }
        let setup = ClusterSpec {
            replicas: options.replicas,
            commit: options.commit,
            programs: options.system_bin.clone(),
            timings: options.timing.clone(),
            broken: options.broken.clone(),
        };
        let logs = places.records.iter().map(|(node, path)| (*node, path.join("log"))).collect();
        let system: Arc<dyn System> =
            Arc::new(Twopc::set_up(&setup, &places).map_err(io_error("cannot set the system up"))?);
        let history = directory.history();
        let recorder = Recorder::create(&history)
            .map_err(io_error(format!("cannot create {}", history.display())))?;
        write_json(&directory.test(), &options.to_json(&rundir::utc(started), recorder.origin()))?;
        let online = OnlineCheck::default();
        recorder.observe({
            let (progress, online) = (progress.clone(), online.clone());
            move |event| {
                progress.count(event);
                // Should it not understand the history, it sees nothing; the check afterwards
                // tells.
                let _ = online.observe(event);
            }
        });

        let relays = places.relays.iter().map(|(node, at)| (*node, (*at, places.addresses[node])));
        let network = relayed
            .then(|| Network::start(places.cluster(), relays.collect(), options.seed))
            .transpose()
            .map_err(io_error("cannot put relays between the nodes"))?
            .map(Arc::new);

        let base = scratch.path().to_owned();
        let mut cluster = Cluster::new(system.clone(), recorder.clone(), logs, base)?;
        if options.disks {
            let at = |node: &Node| (*node, scratch.path().join(node.to_string()));
            cluster.mount_disks(system.nodes().iter().map(at).collect()).await?;
        }
        let cluster = Arc::new(cluster);
        let scene = Scene { cluster: cluster.clone(), network, recorder };
        let stage = Stage { directory, scene, online, _scratch: scratch, _address: address };
        progress.phase("starting the nodes");
        for node in cluster.nodes().collect::<Vec<_>>() {
            cluster.start(node).await?;
        }
        Ok(stage)
    }

    async fn until_ready(&self) -> Result<(), RunError> {
        match self.scene.cluster.until_ready(READY_DEADLINE).await {
            Some(_) => Ok(()),
            None => Err(RunError::NotReady { nodes: self.directory.path().join("nodes") }),
        }
    }

    /// Heals everything, reads everything, and ends the nodes; the run's directory.
    async fn close(
        self,
        worker: Worker,
        keys: Vec<String>,
        progress: &Progress,
    ) -> Result<PathBuf, RunError> {
        let Scene { cluster, recorder, .. } = &self.scene;
        progress.phase("healing");
        final_phase::settle(cluster, recorder, worker, keys, &self.directory, progress).await?;
        progress.phase("stopping the nodes");
        for node in cluster.stop().await {
            let value = json!({ "node": node, "status": "it did not end when told to" });
            note(recorder, "died", value)?;
        }
        cluster.unmount_disks().await?;
        recorder.flush().map_err(io_error("cannot write the history"))?;
        Ok(self.directory.path().to_owned())
    }
}

/// What the nemesis acts on.
#[derive(Clone)]
struct Scene {
    cluster: Arc<Cluster>,
    network: Option<Arc<Network>>,
    recorder: Recorder,
}

/// Lets clients ask and faults strike until the time is up, somebody wants an end, a node has died
/// by itself, or the history is beyond repair and that is to be the end. Gives back a worker for the
/// last reads.
async fn load(
    options: &RunOptions,
    scene: &Scene,
    online: OnlineCheck,
    interrupt: &mut watch::Receiver<bool>,
    progress: &Progress,
) -> Result<Worker, RunError> {
    let Scene { cluster, recorder, .. } = scene;
    let (end, ending) = watch::channel(false);
    let mut workers = JoinSet::new();
    for number in 0..options.concurrency {
        let client = cluster.system().client().map_err(io_error("cannot make a client"))?;
        let worker = Worker::new(number, options.concurrency, client, recorder.clone());
        let worker = if options.lie { worker.lying() } else { worker };
        let generator = Generator::new(
            options.seed,
            number,
            options.concurrency,
            options.mix,
            options.keys,
            options.rate,
        );
        workers.spawn(worker.work(generator, ending.clone()));
    }
    let RunOptions { disks, part, commit, .. } = *options;
    let means = Means { disks, part, commit };
    if options.faults.names().contains(&FaultName::CrashMatrix) {
        let facts = matrix::facts(options.replicas, means);
        note(recorder, matrix::EVENT, facts)?;
    }
    let lanes =
        [(Lane::Nodes, nemesis_rng(options.seed)), (Lane::Network, network_rng(options.seed))];
    let lanes = lanes.map(|(lane, rng)| {
        let schedule = Schedule::new(&options.faults, options.replicas, means, lane, rng);
        schedule.map(|schedule| (lane, schedule))
    });
    let lanes: Vec<_> = match &options.script {
        Some(script) => {
            let rng = nemesis_rng(options.seed);
            vec![(Lane::Nodes, Schedule::scripted(script.clone(), rng))]
        }
        None => lanes.into_iter().flatten().collect(),
    };
    let alone = lanes.len() == 1;
    let lanes: Vec<_> = lanes
        .into_iter()
        .map(|(lane, schedule)| {
            let (scene, ending) = (scene.clone(), ending.clone());
            // Beside a lane that kills nodes nobody can say what the cluster comes back from.
            let waits = alone || lane == Lane::Nodes;
            tokio::spawn(async move {
                let nemesis = Nemesis {
                    cluster: &scene.cluster,
                    network: scene.network.as_deref(),
                    recorder: &scene.recorder,
                    ending,
                    recovery_deadline: waits.then_some(RECOVERY_DEADLINE),
                };
                nemesis.run(schedule).await
            })
        })
        .collect();

    let mut deaths = cluster.deaths();
    let mut ticks = interval(Duration::from_millis(200));
    let over = sleep_until(Instant::now() + options.time_limit);
    tokio::pin!(over);
    let beyond_repair = beyond_repair(online);
    tokio::pin!(beyond_repair);
    let mut first_back = None;
    let mut is_broken = false;
    loop {
        tokio::select! {
            () = &mut over => break,
            _ = interrupt.wait_for(|wanted| *wanted) => break,
            _ = deaths.wait_for(|deaths| *deaths > 0) => break,
            key = &mut beyond_repair, if !is_broken => {
                is_broken = true;
                note(recorder, "broken", json!({ "key": key, "ended": options.fail_fast }))?;
                if options.fail_fast {
                    break;
                }
            }
            // A worker comes back before the end only if it cannot record.
            Some(back) = workers.join_next() => {
                first_back = Some(back);
                break;
            }
            _ = ticks.tick() => progress.tick(),
        }
    }
    end.send_replace(true);
    progress.phase("ending the load");

    let mut chosen = None;
    let mut back = first_back;
    if back.is_none() {
        back = workers.join_next().await;
    }
    while let Some(worker) = back {
        let worker = worker?.map_err(io_error("cannot write the history"))?;
        chosen.get_or_insert(worker);
        back = workers.join_next().await;
    }
    for lane in lanes {
        match lane.await? {
            // That a node does not start again is a fact about the system, and on record.
            Ok(()) | Err(NemesisError::Cluster(ClusterError::Start { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(chosen.expect("there is at least one worker"))
}

/// Waits until the history of some key is not linearizable, whatever may come; which key.
async fn beyond_repair(online: OnlineCheck) -> String {
    let mut pause = WATCH_PERIOD;
    loop {
        sleep(pause).await;
        let began = Instant::now();
        let online = online.clone();
        let broken = spawn_blocking(move || online.violation(&Limits::default())).await;
        if let Ok(Some(key)) = broken {
            return key;
        }
        // The longer the history, the longer it takes: the clients are to have the machine.
        pause = WATCH_PERIOD.max(began.elapsed() * 20);
    }
}

/// Records something about the run that no client did.
fn note(recorder: &Recorder, f: &str, value: serde_json::Value) -> Result<(), RunError> {
    let event = NemesisEvent { f: f.to_owned(), value };
    recorder
        .record(Action::Nemesis(event))
        .map(|_| ())
        .map_err(io_error("cannot write the history"))
}

/// Writes a file that holds one JSON value, for people to read as well.
fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), RunError> {
    let cannot = || io_error(format!("cannot write {}", path.display()));
    let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::from).map_err(cannot())?;
    text.push(b'\n');
    fs::write(path, text).map_err(cannot())
}
