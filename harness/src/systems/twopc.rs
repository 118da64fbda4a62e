//! Our own store under test: a master and its replicas, the same code as in production, started
//! from the harness's own executable or from separately built programs.

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{TryStreamExt as _, future::BoxFuture};
use system::{
    client::{self, Inspector, Reason, ReasonKind, WriteOutcome},
    config::Address,
    protocol::{CommitMode, Node},
};
use tokio::time::timeout;

use super::{Answer, Break, Client, Observation, Start, System, Timings};
use crate::{generator::ClientRequest, history::ErrorCode, twopc::FinalReplicaState};

/// A node that does not say how it stands within this time is not there.
const OBSERVE_DEADLINE: Duration = Duration::from_millis(400);

/// All that a replica holds is told within this time.
const DUMP_DEADLINE: Duration = Duration::from_secs(20);

/// A cluster of ours.
pub struct Twopc {
    nodes: Vec<Node>,
    addresses: BTreeMap<Node, Address>,
    programs: Programs,
    config: PathBuf,
    scratch: PathBuf,
    /// Each node's directory.
    directories: Mutex<BTreeMap<Node, PathBuf>>,
    /// Where a second process of a node listens.
    beside: Address,
    journals: BTreeMap<Node, PathBuf>,
    broken: Vec<Break>,
    /// Connections to nodes that answered before.
    inspectors: Mutex<BTreeMap<Node, Inspector>>,
}

/// Where the nodes' programs are.
enum Programs {
    /// The harness is both of them.
    Own,
    /// `master` and `replica` in this directory.
    In(PathBuf),
}

/// What a cluster is to be.
pub struct ClusterSpec {
    /// How many replicas it has.
    pub replicas: u8,
    /// What makes a commit in it.
    pub commit: CommitMode,
    /// Where its programs `master` and `replica` are; none: they are the harness itself.
    pub programs: Option<PathBuf>,
    /// Its periods that are not the usual ones.
    pub timings: Timings,
    /// What is broken on purpose.
    pub broken: Vec<Break>,
}

/// Where the nodes of a run listen and keep what they write.
pub struct Places {
    /// Where each node listens.
    pub addresses: BTreeMap<Node, SocketAddr>,
    /// Where the other nodes find each, if not there.
    pub relays: BTreeMap<Node, SocketAddr>,
    /// Where a second process of a node listens.
    pub beside: SocketAddr,
    /// A directory for the nodes' configuration and data, which ends with the run.
    pub scratch: PathBuf,
    /// A directory for each node's journal, which stays.
    pub records: BTreeMap<Node, PathBuf>,
}

impl Places {
    /// A name for the cluster that no other run of this moment has.
    #[must_use]
    pub fn cluster(&self) -> String {
        format!("run-{}", self.addresses[&Node::Master].ip())
    }
}

/// The log of each store: so small that it is full, and taken up by the tables, several times a
/// second.
const LOG_BYTES: u64 = 16 << 10;

impl Twopc {
    /// Sets a cluster up: writes its configuration, starts nothing.
    ///
    /// # Errors
    /// The configuration cannot be written.
    pub fn set_up(setup: &ClusterSpec, places: &Places) -> io::Result<Self> {
        let replicas = (1..=setup.replicas).map(Node::Replica);
        let nodes: Vec<_> = replicas.clone().chain([Node::Master]).collect();
        let config = places.scratch.join("cluster.toml");
        let found = |node| places.relays.get(&node).unwrap_or(&places.addresses[&node]);
        let listed: Vec<_> = replicas.map(|node| format!("\"{}\"", found(node))).collect();
        let master = places.addresses[&Node::Master];
        let text = format!(
            "cluster = \"{}\"\nmaster = \"{master}\"\nreplicas = [{}]\ncommit = \"{}\"\n\
             {}[store]\nwal_bytes = {LOG_BYTES}\n",
            places.cluster(),
            listed.join(", "),
            setup.commit,
            setup.timings.table()
        );
        fs::write(&config, text)?;
        let address =
            |address: &SocketAddr| address.to_string().parse::<Address>().map_err(io::Error::other);
        let addresses = places
            .addresses
            .iter()
            .map(|(node, at)| Ok((*node, address(at)?)))
            .collect::<io::Result<_>>()?;
        let programs = match &setup.programs {
            None => Programs::Own,
            Some(directory) => Programs::In(directory.clone()),
        };
        Ok(Twopc {
            nodes,
            addresses,
            programs,
            config,
            scratch: places.scratch.clone(),
            directories: Mutex::new(
                places
                    .addresses
                    .keys()
                    .map(|node| (*node, places.scratch.join(node.to_string()).join("store")))
                    .collect(),
            ),
            beside: address(&places.beside)?,
            journals: places
                .records
                .iter()
                .map(|(node, directory)| (*node, directory.join("journal.jsonl")))
                .collect(),
            broken: setup.broken.clone(),
            inspectors: Mutex::default(),
        })
    }

    fn known_inspector(&self, node: Node) -> Option<Inspector> {
        self.inspectors.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    fn keep_inspector(&self, node: Node, inspector: Option<Inspector>) {
        let mut known = self.inspectors.lock().unwrap_or_else(PoisonError::into_inner);
        match inspector {
            Some(inspector) => known.insert(node, inspector),
            None => known.remove(&node),
        };
    }

    /// Asks a node, on a connection that is there already if it is still good.
    async fn inspector(&self, node: Node) -> Result<Inspector, String> {
        match self.known_inspector(node) {
            Some(inspector) => Ok(inspector),
            None => Inspector::connect(&self.addresses[&node]).await.map_err(|e| e.to_string()),
        }
    }

    async fn status(&self, node: Node) -> Result<Observation, String> {
        let mut inspector = self.inspector(node).await?;
        let status = inspector.status().await.map_err(|status| status.to_string())?;
        self.keep_inspector(node, Some(inspector));
        Ok(Observation { ready: status.machine.ready, unsettled: status.machine.unsettled })
    }

    async fn entries(&self, node: Node) -> Result<FinalReplicaState, String> {
        let mut inspector = self.inspector(node).await?;
        let status = inspector.status().await.map_err(|status| status.to_string())?;
        let entries = inspector.dump().await.map_err(|status| status.to_string())?;
        let entries = entries.try_collect().await.map_err(|status| status.to_string())?;
        Ok(FinalReplicaState { entries, in_doubt: status.machine.unsettled })
    }
}

/// The directory of separately built programs, as a path that holds wherever a node is started.
///
/// # Errors
/// In words: a program is not in it.
pub fn find_programs(directory: &str) -> Result<PathBuf, String> {
    for program in ["master", "replica"] {
        let path = Path::new(directory).join(program);
        if !path.is_file() {
            return Err(format!("there is no program {}", path.display()));
        }
    }
    Path::new(directory).canonicalize().map_err(|error| format!("{directory}: {error}"))
}

impl System for Twopc {
    fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    fn command(&self, node: Node, start: &Start) -> Command {
        let role = match node {
            Node::Master => "master",
            Node::Replica(_) => "replica",
        };
        let mut command = match &self.programs {
            Programs::Own => {
                // The file that runs now, even if another has taken its name since.
                let mut command = Command::new("/proc/self/exe");
                command.arg0("harness").args(["node", role]);
                command
            }
            Programs::In(directory) => Command::new(directory.join(role)),
        };
        // What the user has set for clusters of his own must not reach this one.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("TWOPC_") && name != "TWOPC_LOG" {
                command.env_remove(name);
            }
        }
        command.arg("--config").arg(&self.config);
        let directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        command.arg("--dir").arg(start.directory.as_ref().unwrap_or(&directories[&node]));
        drop(directories);
        // What a process does that is none of the cluster's is no part of the node's record.
        let journal = &self.journals[&node];
        command.arg("--journal").arg(if start.is_foreign() {
            journal.with_file_name("foreign.jsonl")
        } else {
            journal.clone()
        });
        if let Node::Replica(slot) = node {
            command.args(["--slot", &slot.to_string()]);
        }
        let at = if start.beside { &self.beside } else { &self.addresses[&node] };
        command.arg("--listen").arg(at.as_str());
        if start.bootstrap {
            command.arg("--bootstrap");
        }
        for broken in &self.broken {
            match broken {
                Break::Rule(rule) => command.args(["--break", rule.name()]),
                Break::SyncMode(_) => command.args(["--without", broken.name()]),
            };
        }
        if let Some(point) = &start.arm {
            command.args(["--arm", point]);
        }
        command.args(["--control", "--parent", &std::process::id().to_string()]);
        command
    }

    fn client(&self) -> io::Result<Box<dyn Client>> {
        Ok(Box::new(Teller { client: client::Client::new(self.addresses[&Node::Master].clone()) }))
    }

    fn observe(&self, node: Node) -> BoxFuture<'_, Result<Observation, String>> {
        Box::pin(async move {
            let observed = timeout(OBSERVE_DEADLINE, self.status(node))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {OBSERVE_DEADLINE:?}")));
            if observed.is_err() {
                self.keep_inspector(node, None);
            }
            observed
        })
    }

    fn is_refusal(&self, start: &Start, status: ExitStatus, said: &str) -> bool {
        ends_as_refused(start, status, said)
    }

    fn spare_directory(&self, node: Node) -> io::Result<PathBuf> {
        let name = format!("{node}-empty-");
        Ok(tempfile::Builder::new().prefix(&name).tempdir_in(&self.scratch)?.keep())
    }

    fn adopt(&self, node: Node, directory: PathBuf) {
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        directories.insert(node, directory);
    }

    fn dump(&self, node: Node) -> BoxFuture<'_, Result<FinalReplicaState, String>> {
        Box::pin(async move {
            timeout(DUMP_DEADLINE, self.entries(node))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {DUMP_DEADLINE:?}")))
        })
    }
}

/// Whether it is with the status and the words of a node that is refused as it must be.
fn ends_as_refused(start: &Start, status: ExitStatus, said: &str) -> bool {
    let (code, words) = match start {
        Start { beside: true, .. } => (1, "another process has this store open"),
        Start { bootstrap: false, .. } => (2, "there is no store here"),
        Start { bootstrap: true, .. } => (2, "a replica that lost its data must not rejoin"),
    };
    status.code() == Some(code) && said.contains(words)
}

/// A client that tells answers in the words of a history.
struct Teller {
    client: client::Client,
}

impl Client for Teller {
    fn perform<'a>(
        &'a mut self,
        operation: &'a ClientRequest,
        deadline: Duration,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let client = self.client.clone().timeout(deadline);
            match operation {
                ClientRequest::Put { key, value } => {
                    written(client.put(key.as_str(), value.as_str()).await)
                }
                ClientRequest::Del { key } => written(client.del(key.as_str()).await),
                ClientRequest::Get { key } => match client.get(key.as_str()).await {
                    Ok(Some((version, value))) => {
                        Answer::Ok { version: Some(version), value: Some(value.to_string()) }
                    }
                    Ok(None) => Answer::Ok { version: None, value: None },
                    Err(client::ReadError::Refused(reason)) => refused(&reason),
                    Err(client::ReadError::Failed(why)) => {
                        Answer::Fail { error: format!("lost: {why}"), nobody: false }
                    }
                },
            }
        })
    }
}

fn written(outcome: WriteOutcome) -> Answer {
    match outcome {
        WriteOutcome::Committed { version } => Answer::Ok { version: Some(version), value: None },
        WriteOutcome::Aborted(reason) => refused(&reason),
        WriteOutcome::Unknown(why) => Answer::Info { error: format!("lost: {why}") },
    }
}

/// A call that had no effect: why, in the words of [`ErrorCode`] where there is one.
fn refused(reason: &Reason) -> Answer {
    let fact = |name: &str| reason.facts.get(name).map_or("?", String::as_str);
    let (code, detail) = match reason.kind {
        ReasonKind::Conflict => {
            (ErrorCode::Conflict.name(), format!("{} was first", fact("holder")))
        }
        ReasonKind::Refused if fact("why") == "locked" => {
            let (by, holder) = (fact("by"), fact("holder"));
            (ErrorCode::Locked.name(), format!("{by} holds the key for {holder}"))
        }
        ReasonKind::Refused => (ErrorCode::Refused.name(), reason.text.clone()),
        ReasonKind::Timeout => (ErrorCode::Timeout.name(), fact("missing").to_owned()),
        ReasonKind::Unavailable => (ErrorCode::Unavailable.name(), reason.text.clone()),
        ReasonKind::Overloaded => ("overloaded", reason.text.clone()),
        ReasonKind::Stopping => ("stopping", reason.text.clone()),
        ReasonKind::Invalid => ("invalid", reason.text.clone()),
        ReasonKind::Unreachable => ("unreachable", reason.text.clone()),
    };
    let nobody = matches!(
        reason.kind,
        ReasonKind::Unavailable
            | ReasonKind::Overloaded
            | ReasonKind::Stopping
            | ReasonKind::Unreachable
    );
    Answer::Fail { error: format!("{code}: {detail}"), nobody }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use system::store::StoreError;

    use super::*;

    #[test]
    fn a_refusal_is_told_from_any_other_end() {
        let dir = PathBuf::from("store");
        let second_instance = Start { beside: true, ..Start::default() };
        let wiped = Start { directory: Some(dir.clone()), ..Start::default() };
        let begun = Start { bootstrap: true, ..wiped.clone() };
        let told = "r3: the cluster knows r3 by store 8c963e66dbaceb72, this is store \
                    52bd5db975ddeca9: a replica that lost its data must not rejoin";
        let refusals = [
            (&second_instance, 1, StoreError::Locked { dir: dir.clone() }.to_string()),
            (&wiped, 2, StoreError::Absent { dir }.to_string()),
            (&begun, 2, told.to_owned()),
        ];
        for (start, code, said) in &refusals {
            // Another status, a signal, or the words of another refusal.
            let is = |status: ExitStatus, said: &str| ends_as_refused(start, status, said);
            assert!(is(ExitStatus::from_raw(code << 8), said), "{said}");
            assert!(!is(ExitStatus::from_raw((code + 1) << 8), said));
            assert!(!is(ExitStatus::from_raw(6), said));
            for (_, _, other) in refusals.iter().filter(|(_, _, other)| other != said) {
                assert!(!is(ExitStatus::from_raw(code << 8), other), "{other}");
            }
        }
    }
}
