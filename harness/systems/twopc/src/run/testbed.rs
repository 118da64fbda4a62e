//! Everything that a run needs while it lasts: the run directory, the nodes, the relays between
//! them, and the history.

use std::{
    collections::BTreeMap, env, fs, io, path::Path, path::PathBuf, sync::Arc, time::SystemTime,
};

use checker::online::OnlineCheck;
use history::{NemesisEvent, Recorder, nemesis::Died};
use lab::{
    EventLog,
    address::Address,
    progress::RunProgress,
    run_directory::{RunDirectory, utc},
    scratch::Scratch,
    worker::Worker,
};
use system::protocol::Node;

use super::{
    READY_DEADLINE, RunError, RunOptions, event_log, final_phase, options::CLIENT_TIMEOUTS,
    write_json,
};
use crate::{
    certificates::Certificates,
    cluster::Cluster,
    deployment::{ClusterSpec, Deployment, Placement},
    faults::FaultName,
    network::Network,
};

/// The testbed of a run.
pub struct Testbed {
    pub(super) directory: RunDirectory,
    pub(super) cluster: Arc<Cluster>,
    pub(super) network: Option<Arc<Network>>,
    pub(super) recorder: Recorder,
    pub(super) events: EventLog,
    /// Checks the history while it grows.
    pub(super) online: OnlineCheck,
    pub(super) progress: Arc<dyn RunProgress>,
    /// If bits of the disks are flipped: what determines the choices of the last one.
    pub(super) rots: Option<u64>,
    _scratch: Scratch,
    _address: Address,
}

impl Testbed {
    /// Creates the run directory and starts the nodes.
    ///
    /// # Errors
    /// The operating system refuses something, or a node does not start.
    pub async fn set_up(
        options: &RunOptions,
        progress: Arc<dyn RunProgress>,
    ) -> Result<Self, RunError> {
        let started = SystemTime::now();
        fs::create_dir_all(&options.store)
            .map_err(RunError::io(format!("cannot create {}", options.store.display())))?;
        let directory = RunDirectory::create(&options.store, &options.label(), started)
            .map_err(RunError::io("cannot create the run directory"))?;
        let testbed = Self::set_up_in(directory.clone(), options, started, progress).await;
        testbed.inspect_err(|error| directory.record_failure(error))
    }

    async fn set_up_in(
        directory: RunDirectory,
        options: &RunOptions,
        started: SystemTime,
        progress: Arc<dyn RunProgress>,
    ) -> Result<Self, RunError> {
        let temporary = env::temp_dir();
        let scratch = Scratch::create(&temporary).map_err(RunError::io(format!(
            "cannot create a directory for the nodes' data in {}",
            temporary.display()
        )))?;
        let (address, placement) = place(options, &directory, &scratch)?;
        let spec = ClusterSpec {
            replicas: options.replicas,
            commit: options.commit,
            programs: options.system_bin.clone(),
            timings: options.timings.clone(),
            mutations: options.mutations.clone(),
            sequence_above: options.sequence_above,
        };
        let deployment = Deployment::set_up(&spec, &placement)
            .map_err(RunError::io("cannot write the cluster's configuration"))?;
        let (recorder, online) = begin_history(options, &directory, started, &progress)?;
        let network = connect(options, &placement)?;
        let cluster = create_cluster(options, deployment, &placement, event_log(&recorder)).await?;
        let testbed = Testbed {
            directory,
            cluster: Arc::new(cluster),
            network,
            events: event_log(&recorder),
            recorder,
            online,
            progress,
            rots: options.faults.names().contains(&FaultName::BitFlip).then_some(options.seed),
            _scratch: scratch,
            _address: address,
        };
        testbed.progress.phase("starting the nodes");
        for node in testbed.cluster.nodes() {
            testbed.cluster.start(node).await?;
        }
        Ok(testbed)
    }

    /// Waits until every node is ready.
    ///
    /// # Errors
    /// The cluster does not become ready in time.
    pub async fn until_ready(&self) -> Result<(), RunError> {
        match self.cluster.processes().until_ready(READY_DEADLINE).await {
            Some(_) => Ok(()),
            None => {
                let error = RunError::NotReady { nodes: self.directory.path().join("nodes") };
                self.directory.record_failure(&error);
                Err(error)
            }
        }
    }

    /// The run directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The monotonic clock at time 0 of the history, in nanoseconds.
    pub(super) fn clock_origin(&self) -> u64 {
        self.recorder.origin()
    }

    /// The nodes.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The relays between the nodes, if the run has any.
    #[must_use]
    pub fn network(&self) -> Option<&Network> {
        self.network.as_deref()
    }

    /// A worker with a client of its own. Its processes are numbered `number`,
    /// `number + concurrency` and so on.
    #[must_use]
    pub fn worker(&self, number: u32, concurrency: u32) -> Worker {
        let client = self.cluster.processes().system().client(number);
        Worker::new(number, concurrency, client, self.recorder.clone(), CLIENT_TIMEOUTS)
    }

    /// Records an event that is not an operation of a client.
    ///
    /// # Errors
    /// The history cannot be written.
    pub fn record(&self, event: NemesisEvent) -> Result<(), RunError> {
        self.events.record(event).map_err(RunError::io("cannot write the history"))
    }

    /// Heals everything, reads these keys, and stops the nodes. Returns the run directory.
    ///
    /// # Errors
    /// The history or another file cannot be written, or a disk cannot be unmounted.
    pub async fn close(self, worker: Worker, keys: Vec<String>) -> Result<PathBuf, RunError> {
        self.progress.phase("healing");
        final_phase::run(&self, worker, keys).await?;
        self.progress.phase("stopping the nodes");
        for node in self.cluster.processes().stop().await {
            self.record(NemesisEvent::Died(Died {
                node: node.as_str().to_owned(),
                status: "it did not exit after SIGTERM".to_owned(),
                log: String::new(),
            }))?;
        }
        self.cluster.processes().unmount_disks().await?;
        self.recorder.flush().map_err(RunError::io("cannot write the history"))?;
        Ok(self.directory.path().to_owned())
    }
}

fn is_relayed(options: &RunOptions) -> bool {
    options.relay || options.faults.names().iter().any(|fault| fault.needs_network())
}

/// Reserves addresses and creates directories for the nodes.
fn place(
    options: &RunOptions,
    directory: &RunDirectory,
    scratch: &Scratch,
) -> Result<(Address, Placement), RunError> {
    // The nodes, a second instance of one of them, and a relay in front of each replica.
    let node = |n: u8| if n == 0 { Node::Master } else { Node::Replica(n) };
    let replicas = u16::from(options.replicas);
    let address = Address::claim(2 * replicas + 2)
        .map_err(RunError::io("no loopback address with free ports was found"))?;
    let mut placement = Placement {
        addresses: BTreeMap::new(),
        relays: BTreeMap::new(),
        second_instance: address.socket(replicas + 1),
        scratch: scratch.path().to_owned(),
        records: BTreeMap::new(),
        certificates: None,
    };
    if options.tls {
        let nodes = (0..=options.replicas).map(node);
        let certificates = Certificates::create(scratch.path().join("certs"), nodes);
        let failed = RunError::io("cannot make the certificates of the run");
        placement.certificates = Some(certificates.map_err(io::Error::other).map_err(failed)?);
    }
    for n in 0..=options.replicas {
        let node = node(n);
        placement.addresses.insert(node, address.socket(n.into()));
        if is_relayed(options) && node != Node::Master {
            placement.relays.insert(node, address.socket(replicas + 1 + u16::from(n)));
        }
        let records =
            directory.node(&node.to_string()).map_err(RunError::io("cannot create directories"))?;
        placement.records.insert(node, records);
    }
    Ok((address, placement))
}

/// Creates the history and `test.json`, and lets the progress output and the online check see every
/// event.
fn begin_history(
    options: &RunOptions,
    directory: &RunDirectory,
    started: SystemTime,
    progress: &Arc<dyn RunProgress>,
) -> Result<(Recorder, OnlineCheck), RunError> {
    let history = directory.history();
    let recorder = Recorder::create(&history)
        .map_err(RunError::io(format!("cannot create {}", history.display())))?;
    write_json(&directory.test(), &options.describe(utc(started), recorder.origin()))?;
    let online = OnlineCheck::default();
    recorder.observe({
        let (progress, online) = (progress.clone(), online.clone());
        move |event| {
            progress.event(event);
            // The check after the run reports a history that this one cannot read.
            let _ = online.observe(event);
        }
    });
    Ok((recorder, online))
}

/// Starts the relays, if the run needs any.
fn connect(options: &RunOptions, placement: &Placement) -> Result<Option<Arc<Network>>, RunError> {
    if !is_relayed(options) {
        return Ok(None);
    }
    let target = |node: &Node| placement.addresses[node];
    let relays = placement.relays.iter().map(|(node, at)| (*node, (*at, target(node))));
    let certificates = placement.certificates.as_ref();
    let network =
        Network::start(placement.cluster_name(), relays.collect(), options.seed, certificates);
    let network = network.map_err(RunError::io("cannot start the relays between the nodes"))?;
    Ok(Some(Arc::new(network)))
}

async fn create_cluster(
    options: &RunOptions,
    deployment: Deployment,
    placement: &Placement,
    events: EventLog,
) -> Result<Cluster, RunError> {
    let logs = placement.records.iter().map(|(node, path)| (*node, path.join("log"))).collect();
    let scratch = &placement.scratch;
    let nodes = deployment.nodes().to_vec();
    let mut cluster = Cluster::new(Arc::new(deployment), events, logs, scratch.clone())?;
    if options.disks {
        let directory = |node: Node| (node, scratch.join(node.to_string()));
        cluster.mount_disks(nodes.into_iter().map(directory).collect()).await?;
    }
    Ok(cluster)
}
