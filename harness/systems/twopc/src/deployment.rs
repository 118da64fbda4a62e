//! A cluster of the store, set up for one run: a master and its replicas, the same code as in
//! production, started from the harness's own executable or from separately built programs.

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{TryStreamExt as _, future::BoxFuture};
use lab::{NodeName, StartOptions, client::Client, disk::FileLayout};
use system::{
    client::Inspector,
    config::Address,
    protocol::{CommitMode, Key, Node, Status, TxnId, Value, Version},
    tls::{Role, Tls},
};
use tokio::time::timeout;

use crate::{
    Mutation, Timings,
    certificates::Certificates,
    checks::{JOURNAL, SECOND_INSTANCE_JOURNAL},
    client::TwopcClient,
    disk::LAYOUTS,
    node_name,
};

/// How long a node has to report its status.
const OBSERVE_DEADLINE: Duration = Duration::from_millis(400);

/// How long a replica has to report everything that it stores.
const DUMP_DEADLINE: Duration = Duration::from_secs(20);

/// The size of each segment of a node's WAL: so small that it fills, and is checkpointed, several times a second.
const WAL_BYTES: u64 = 32 << 10;

/// The time between two turns of the scrub: all entries of a few keys are compared every second or so.
const SCRUB_MS: u64 = 20;

/// A cluster, set up for one run.
pub struct Deployment {
    nodes: Vec<Node>,
    names: Vec<NodeName>,
    addresses: BTreeMap<Node, Address>,
    programs: Programs,
    config: PathBuf,
    scratch: PathBuf,
    /// Each node's data directory.
    directories: Mutex<BTreeMap<Node, PathBuf>>,
    /// Where the second instance of a node listens.
    second_instance: Address,
    journals: BTreeMap<Node, PathBuf>,
    mutations: Vec<Mutation>,
    sequence_above: u64,
    certificates: Option<Arc<Certificates>>,
    /// Connections to nodes that answered before.
    inspectors: Mutex<BTreeMap<Node, Inspector>>,
}

/// Where the nodes' programs are.
enum Programs {
    /// The harness itself, as `harness node master` and `harness node replica`.
    BuiltIn,
    /// `master` and `replica` in this directory.
    Directory(PathBuf),
}

/// What kind of cluster to set up.
pub struct ClusterSpec {
    /// The number of replicas.
    pub replicas: u8,
    /// What makes a commit.
    pub commit: CommitMode,
    /// The directory of the programs `master` and `replica`; `None` for those built into the harness.
    pub programs: Option<PathBuf>,
    /// Timing parameters that differ from the defaults.
    pub timings: Timings,
    /// Deliberate defects.
    pub mutations: Vec<Mutation>,
    /// The transactions of each epoch are numbered from the next number on.
    pub sequence_above: u64,
}

/// The addresses and directories of a run's nodes.
pub struct Placement {
    /// Where each node listens.
    pub addresses: BTreeMap<Node, SocketAddr>,
    /// Where the other nodes reach a node, if not at its own address.
    pub relays: BTreeMap<Node, SocketAddr>,
    /// Where the second instance of a node listens.
    pub second_instance: SocketAddr,
    /// A directory for the nodes' configuration and data, removed at the end of the run.
    pub scratch: PathBuf,
    /// A directory for each node's journal and log, kept after the run.
    pub records: BTreeMap<Node, PathBuf>,
    /// The certificates of the nodes and their callers; `None` for a run without TLS.
    pub certificates: Option<Arc<Certificates>>,
}

impl Placement {
    /// A cluster name that no other run has at this moment.
    #[must_use]
    pub fn cluster_name(&self) -> String {
        format!("run-{}", self.addresses[&Node::Master].ip())
    }
}

/// What a node reports about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// Whether it does its full work.
    pub ready: bool,
    /// Transactions without an outcome, and their keys. At a replica: those in doubt.
    pub unsettled: Vec<(TxnId, Key)>,
    /// Every transaction below it is aborted, or committed and acknowledged by every replica.
    pub watermark: TxnId,
    /// How often it has compared all of its entries with those of its peers since it was started.
    pub scrubs: u64,
}

/// Everything that a replica stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaDump {
    /// Every key with its version and value, in the order of the keys.
    pub entries: Vec<(Key, Version, Value)>,
    /// Prepared transactions without an outcome, and the keys that they lock.
    pub in_doubt: Vec<(TxnId, Key)>,
}

impl Deployment {
    /// Writes the configuration of a cluster. Does not start any process.
    ///
    /// # Errors
    /// The configuration cannot be written.
    pub fn set_up(spec: &ClusterSpec, placement: &Placement) -> io::Result<Self> {
        let replicas = (1..=spec.replicas).map(Node::Replica);
        let nodes: Vec<_> = replicas.chain([Node::Master]).collect();
        let names = nodes.iter().map(|node| node_name(*node)).collect();
        let config = placement.scratch.join("cluster.toml");
        fs::write(&config, config_file(spec, placement))?;
        let address =
            |address: &SocketAddr| address.to_string().parse::<Address>().map_err(io::Error::other);
        let addresses = placement
            .addresses
            .iter()
            .map(|(node, at)| Ok((*node, address(at)?)))
            .collect::<io::Result<_>>()?;
        let programs = match &spec.programs {
            None => Programs::BuiltIn,
            Some(directory) => Programs::Directory(directory.clone()),
        };
        let directory =
            |node: &Node| (*node, placement.scratch.join(node.to_string()).join("store"));
        let journal = |(node, directory): (&Node, &PathBuf)| (*node, directory.join(JOURNAL));
        Ok(Deployment {
            names,
            addresses,
            programs,
            config,
            scratch: placement.scratch.clone(),
            directories: Mutex::new(nodes.iter().map(directory).collect()),
            second_instance: address(&placement.second_instance)?,
            journals: placement.records.iter().map(journal).collect(),
            mutations: spec.mutations.clone(),
            sequence_above: spec.sequence_above,
            certificates: placement.certificates.clone(),
            inspectors: Mutex::default(),
            nodes,
        })
    }

    /// The nodes, in the order in which they are started.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The address at which clients reach the cluster.
    #[must_use]
    pub fn client_address(&self) -> &Address {
        &self.addresses[&Node::Master]
    }

    /// The address of a node itself, with no relay in front of it.
    #[must_use]
    pub fn address(&self, node: Node) -> &Address {
        &self.addresses[&node]
    }

    /// Asks a node for its status.
    ///
    /// # Errors
    /// The node does not answer in time; the text says why.
    pub async fn observe(&self, node: Node) -> Result<NodeStatus, String> {
        let status = timeout(OBSERVE_DEADLINE, self.status(node))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {OBSERVE_DEADLINE:?}")));
        if status.is_err() {
            self.cache_inspector(node, None);
        }
        status
    }

    /// Asks a replica for everything that it stores.
    ///
    /// # Errors
    /// The replica does not answer in time; the text says why.
    pub async fn dump(&self, replica: Node) -> Result<ReplicaDump, String> {
        timeout(DUMP_DEADLINE, self.entries(replica))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {DUMP_DEADLINE:?}")))
    }

    /// Creates an empty directory on which a node can be started.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn create_empty_directory(&self, node: Node) -> io::Result<PathBuf> {
        let name = format!("{node}-empty-");
        Ok(tempfile::Builder::new().prefix(&name).tempdir_in(&self.scratch)?.keep())
    }

    /// Makes this the data directory of the node from now on.
    pub fn set_directory(&self, node: Node, directory: PathBuf) {
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        directories.insert(node, directory);
    }

    fn cached_inspector(&self, node: Node) -> Option<Inspector> {
        self.inspectors.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    fn cache_inspector(&self, node: Node, inspector: Option<Inspector>) {
        let mut cache = self.inspectors.lock().unwrap_or_else(PoisonError::into_inner);
        match inspector {
            Some(inspector) => cache.insert(node, inspector),
            None => cache.remove(&node),
        };
    }

    /// A connection to a node: the cached one if there is one.
    async fn inspector(&self, node: Node) -> Result<Inspector, String> {
        match self.cached_inspector(node) {
            Some(inspector) => Ok(inspector),
            None => {
                let (tls, address) = (self.identity(Role::Admin), &self.addresses[&node]);
                let connected = Inspector::connect_with_tls(address, tls.as_deref(), Some(node));
                connected.await.map_err(|error| error.to_string())
            }
        }
    }

    /// The identity with which the harness connects in a role, if there is TLS.
    pub(crate) fn identity(&self, role: Role) -> Option<Arc<Tls>> {
        self.certificates.as_ref().map(|certificates| certificates.identity(role))
    }

    async fn status(&self, node: Node) -> Result<NodeStatus, String> {
        let mut inspector = self.inspector(node).await?;
        let status = inspector.status().await.map_err(|status| status.to_string())?;
        self.cache_inspector(node, Some(inspector));
        let Status { ready, unsettled, watermark, scrubs, .. } = status.machine;
        Ok(NodeStatus { ready, unsettled, watermark, scrubs })
    }

    async fn entries(&self, node: Node) -> Result<ReplicaDump, String> {
        let mut inspector = self.inspector(node).await?;
        let status = inspector.status().await.map_err(|status| status.to_string())?;
        let entries = inspector.dump().await.map_err(|status| status.to_string())?;
        let entries = entries.try_collect().await.map_err(|status| status.to_string())?;
        Ok(ReplicaDump { entries, in_doubt: status.machine.unsettled })
    }

    fn node(&self, name: &NodeName) -> Node {
        let position = self.names.iter().position(|known| known == name);
        self.nodes[position.expect("the lab knows only this deployment's nodes")]
    }

    fn command(&self, node: Node, start: &StartOptions) -> Command {
        let role = match node {
            Node::Master => "master",
            Node::Replica(_) => "replica",
        };
        let mut command = match &self.programs {
            Programs::BuiltIn => {
                // The file that is running now, even if its name refers to another one since.
                let mut command = Command::new("/proc/self/exe");
                command.arg0("harness").args(["node", role]);
                command
            }
            Programs::Directory(directory) => Command::new(directory.join(role)),
        };
        // Settings that the user has made for other clusters must not reach this one.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("TWOPC_") && name != "TWOPC_LOG" {
                command.env_remove(name);
            }
        }
        command.arg("--config").arg(&self.config);
        let directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        command.arg("--dir").arg(start.directory.as_ref().unwrap_or(&directories[&node]));
        drop(directories);
        // A process that does not belong to the cluster must not write to the node's journal.
        let journal = &self.journals[&node];
        command.arg("--journal").arg(if start.is_forbidden() {
            journal.with_file_name(SECOND_INSTANCE_JOURNAL)
        } else {
            journal.clone()
        });
        if let Node::Replica(slot) = node {
            command.args(["--slot", &slot.to_string()]);
        }
        let listen =
            if start.second_instance { &self.second_instance } else { &self.addresses[&node] };
        command.arg("--listen").arg(listen.as_str());
        if start.bootstrap {
            command.arg("--bootstrap");
        }
        for mutation in &self.mutations {
            match mutation {
                Mutation::Rule(rule) => command.args(["--break", rule.name()]),
                Mutation::Mistake(mistake) => command.args(["--mistake", mistake.name()]),
                Mutation::SyncMode(_) | Mutation::StoreRule(_) | Mutation::StoreMistake(_) => {
                    command.args(["--without", mutation.name()])
                }
            };
        }
        if self.sequence_above > 0 {
            command.args(["--sequence-above", &self.sequence_above.to_string()]);
        }
        if let Some(point) = &start.arm {
            command.args(["--arm", point]);
        }
        command.args(["--control", "--parent", &std::process::id().to_string()]);
        command
    }
}

impl lab::System for Deployment {
    fn nodes(&self) -> &[NodeName] {
        &self.names
    }

    fn command(&self, node: &NodeName, start: &StartOptions) -> Command {
        Deployment::command(self, self.node(node), start)
    }

    fn is_ready<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, bool> {
        Box::pin(async move { self.observe(self.node(node)).await.is_ok_and(|it| it.ready) })
    }

    fn client(&self, _worker: u32) -> Box<dyn Client> {
        Box::new(TwopcClient::new(self.client_address().clone(), self.identity(Role::Client)))
    }

    fn announces_address(&self) -> bool {
        true
    }

    fn is_refusal(&self, start: &StartOptions, status: ExitStatus, last_log_line: &str) -> bool {
        is_refusal(start, status, last_log_line)
    }

    fn create_empty_directory(&self, node: &NodeName) -> io::Result<PathBuf> {
        Deployment::create_empty_directory(self, self.node(node))
    }

    fn set_directory(&self, node: &NodeName, directory: PathBuf) {
        Deployment::set_directory(self, self.node(node), directory);
    }

    fn disk_layouts(&self) -> &'static [FileLayout] {
        LAYOUTS
    }
}

/// The configuration file of a cluster.
fn config_file(spec: &ClusterSpec, placement: &Placement) -> String {
    let reachable = |node| placement.relays.get(&node).unwrap_or(&placement.addresses[&node]);
    let replicas = (1..=spec.replicas).map(Node::Replica);
    let replicas: Vec<_> = replicas.map(|node| format!("\"{}\"", reachable(node))).collect();
    format!(
        "cluster = \"{}\"\nmaster = \"{}\"\nreplicas = [{}]\ncommit = \"{}\"\n\
         {}[node]\nscrub_ms = {SCRUB_MS}\n[store]\nwal_bytes = {WAL_BYTES}\n{}",
        placement.cluster_name(),
        placement.addresses[&Node::Master],
        replicas.join(", "),
        spec.commit,
        spec.timings.table(),
        placement.certificates.as_ref().map(|all| all.config_section()).unwrap_or_default()
    )
}

/// Whether a forbidden start ended with the exit status and the message of its refusal.
fn is_refusal(start: &StartOptions, status: ExitStatus, last_log_line: &str) -> bool {
    let (code, message) = match start {
        // An epoch that this store does not know is one that a later start has taken.
        StartOptions { restored_copy: true, .. } if status.code() == Some(3) => {
            (3, "has taken over from this one")
        }
        // A decision may arrive before the Fence that shows what the copy lacks.
        StartOptions { restored_copy: true, .. } if status.code() == Some(4) => {
            (4, "which is without a record here")
        }
        StartOptions { restored_copy: true, .. } => (2, "copy"),
        StartOptions { second_instance: true, .. } => (1, "another process has this store open"),
        StartOptions { bootstrap: false, .. } => (2, "there is no store here"),
        StartOptions { bootstrap: true, .. } => (2, "a replica that lost its data must not rejoin"),
    };
    status.code() == Some(code) && last_log_line.contains(message)
}

/// Resolves the directory of separately built programs to an absolute path.
///
/// # Errors
/// A program is missing; the text says which.
pub fn find_programs(directory: &str) -> Result<PathBuf, String> {
    for program in ["master", "replica"] {
        let path = Path::new(directory).join(program);
        if !path.is_file() {
            return Err(format!("there is no program {}", path.display()));
        }
    }
    Path::new(directory).canonicalize().map_err(|error| format!("{directory}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use system::store::StoreError;

    use super::*;

    #[test]
    fn a_refusal_is_distinguished_from_any_other_exit() {
        let dir = PathBuf::from("store");
        let second_instance = StartOptions { second_instance: true, ..StartOptions::default() };
        let wiped = StartOptions { directory: Some(dir.clone()), ..StartOptions::default() };
        let bootstrapped = StartOptions { bootstrap: true, ..wiped.clone() };
        let rejoin = "r3: the cluster knows r3 by store 8c963e66dbaceb72, this is store \
                    52bd5db975ddeca9: a replica that lost its data must not rejoin";
        let refusals = [
            (&second_instance, 1, StoreError::Locked { dir: dir.clone() }.to_string()),
            (&wiped, 2, StoreError::Absent { dir }.to_string()),
            (&bootstrapped, 2, rejoin.to_owned()),
        ];
        for (start, code, message) in &refusals {
            // Not with another status, a signal, or the message of another refusal.
            let is = |status: ExitStatus, message: &str| is_refusal(start, status, message);
            assert!(is(ExitStatus::from_raw(code << 8), message), "{message}");
            assert!(!is(ExitStatus::from_raw((code + 1) << 8), message));
            assert!(!is(ExitStatus::from_raw(6), message));
            for (_, _, other) in refusals.iter().filter(|(_, _, other)| other != message) {
                assert!(!is(ExitStatus::from_raw(code << 8), other), "{other}");
            }
        }
    }
}
