//! A system of a file, set up for one run: addresses, directories, commands.

use std::{
    collections::BTreeMap,
    env, fs,
    fs::File,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use lab::{
    MemberChange, NodeName, StartOptions, System,
    address::{self, Address},
    client::Client,
    keeper::{self, Account},
    network::{Dialer, Host, Network},
    scratch::Scratch,
    supervisor::Supervisor,
    workloads::Workload,
};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use crate::{
    exec::{ExecClient, Shared},
    hooks,
    http::{self, HttpClient},
    probe,
    spec::{ClientSpec, Ready, Role, SystemSpec},
    template::{Facts, NodeFacts, Template},
};

/// How long a hook may take.
const HOOK_DEADLINE: Duration = Duration::from_secs(120);

/// How long the hook that asks for the leader may take.
const LEADER_DEADLINE: Duration = Duration::from_secs(2);

/// How long a readiness command may take.
const READY_DEADLINE: Duration = Duration::from_secs(5);

/// How long the command that prints the version may take.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);

/// What clients of a run are to do.
pub struct Task<'a> {
    /// The workload.
    pub workload: &'a dyn Workload,
    /// The level that is judged, by name.
    pub claim: String,
    /// The seed of the run.
    pub seed: u64,
    /// The program that keeps processes together: see [`lab::keeper`].
    pub keeper: PathBuf,
    /// The virtual network of the nodes and their clients. `None`: they have addresses of this machine.
    pub network: Option<Arc<Network>>,
}

/// Why a system cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// The operating system refuses something.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// The error.
        source: io::Error,
    },
    /// A command of the file fails.
    #[error("{path}: {what}: {why}")]
    Hook {
        /// The file.
        path: String,
        /// Which command.
        what: &'static str,
        /// Why.
        why: String,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> SetUpError {
    let what = what.into();
    move |source| SetUpError::Io { what, source }
}

/// What all clients of a run have in common.
enum Clients {
    Exec(Arc<Shared>),
    Http(Arc<http::Shared>),
}

/// A system, set up for one run.
pub struct Deployment {
    spec: Arc<SystemSpec>,
    names: Vec<NodeName>,
    facts: Vec<NodeFacts>,
    /// The position of each node's role.
    roles: Vec<usize>,
    home: String,
    keeper: PathBuf,
    network: Option<Arc<Network>>,
    /// The log of each node, and where its current process began to write.
    logs: Mutex<BTreeMap<NodeName, (PathBuf, u64)>>,
    clients: Clients,
    /// What the system says of its version.
    version: Option<String>,
    scratch: Scratch,
    _addresses: Vec<Address>,
}

impl Deployment {
    /// Reserves addresses, creates the nodes' directories and files, and runs the hook `prepare`.
    ///
    /// # Errors
    /// The operating system refuses something, or a command of the file fails.
    pub async fn set_up(spec: Arc<SystemSpec>, task: &Task<'_>) -> Result<Deployment, SetUpError> {
        let temporary = env::temp_dir();
        let scratch = Scratch::create(&temporary).map_err(io_error(format!(
            "cannot create a directory for the nodes' data in {}",
            temporary.display()
        )))?;
        let network = task.network.clone();
        let (facts, roles, addresses) = place(&spec, scratch.path(), network.as_deref())?;
        let home = spec.home.display().to_string();
        write_files(&spec, &facts, (&facts, &roles), &home)?;
        give_directories(&spec, scratch.path(), &facts, &roles)?;
        let clients = match &spec.client {
            ClientSpec::Exec { command, env } => {
                Clients::Exec(Arc::new(exec_clients(&spec, command, env, &facts, task, &home)?))
            }
            ClientSpec::Http { port, operations } => Clients::Http(Arc::new(http::Shared {
                operations: operations.clone(),
                nodes: facts.clone(),
                home: home.clone(),
                port: port.clone(),
                network: network.clone(),
            })),
        };
        let names = facts.iter().map(|node| NodeName::new(&node.name)).collect();
        let mut deployment = Deployment {
            names,
            facts,
            roles,
            home,
            keeper: task.keeper.clone(),
            network,
            logs: Mutex::default(),
            clients,
            version: None,
            scratch,
            _addresses: addresses,
            spec,
        };
        deployment.version = deployment.ask_version().await?;
        deployment.hook(deployment.spec.hooks.prepare.as_deref(), "prepare").await?;
        Ok(deployment)
    }

    /// What the system says of its version: the first line that the command of the file prints.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    async fn ask_version(&self) -> Result<Option<String>, SetUpError> {
        let Some(words) = &self.spec.version_cmd else { return Ok(None) };
        let command = hooks::command(&self.fill(words, None), &self.spec.home);
        let printed = hooks::output(command, VERSION_DEADLINE).await;
        let printed = printed.map_err(|why| self.hook_error("version_cmd", why))?;
        Ok(printed.lines().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned()))
    }

    fn hook_error(&self, what: &'static str, why: String) -> SetUpError {
        SetUpError::Hook { path: self.spec.path.display().to_string(), what, why }
    }

    async fn hook(&self, words: Option<&[Template]>, what: &'static str) -> Result<(), SetUpError> {
        let Some(words) = words else { return Ok(()) };
        let printed = hooks::output(self.kept(words, None), HOOK_DEADLINE).await;
        printed.map(drop).map_err(|why| self.hook_error(what, why))
    }

    /// A command of the file under a keeper, where all nodes can be reached whatever is cut.
    fn kept(&self, words: &[Template], node: Option<usize>) -> Command {
        let command = hooks::command(&self.fill(words, node), &self.spec.home);
        let namespaces = self.network.as_ref().map(|network| network.namespaces(&Host::Control));
        keeper::keep(&self.keeper, &command, true, None, namespaces.as_ref())
    }

    /// The same without a keeper, where no network makes it necessary: for what is asked often.
    fn watching(&self, words: &[Template], node: usize) -> Command {
        match self.network {
            Some(_) => self.kept(words, Some(node)),
            None => hooks::command(&self.fill(words, Some(node)), &self.spec.home),
        }
    }

    fn dialer(&self) -> Dialer {
        Dialer::of_control(self.network.as_ref())
    }

    fn fill(&self, words: &[Template], node: Option<usize>) -> Vec<String> {
        let facts = Facts { nodes: &self.facts, node, home: &self.home, request: None };
        words.iter().map(|word| word.fill(&facts)).collect()
    }

    fn position(&self, node: &NodeName) -> usize {
        let found = self.names.iter().position(|name| name == node);
        found.expect("the nodes do not change")
    }

    fn role(&self, at: usize) -> &Role {
        &self.spec.roles[self.roles[at]]
    }

    fn port(&self, at: usize, name: &str) -> Option<u16> {
        self.facts[at].ports.iter().find(|(port, _)| port == name).map(|(_, number)| *number)
    }

    async fn ready(&self, node: &NodeName) -> bool {
        let at = self.position(node);
        let facts = Facts { nodes: &self.facts, node: Some(at), home: &self.home, request: None };
        match &self.role(at).ready {
            Ready::Tcp(name) => {
                let Some(port) = self.port(at, name) else { return false };
                probe::accepts(&self.dialer(), &format!("{}:{port}", self.facts[at].ip)).await
            }
            Ready::Http(url, contains) => {
                probe::serves(&self.dialer(), &url.fill(&facts), contains.as_deref()).await
            }
            Ready::Log(regex) => {
                let log = self.lock_logs().get(node).cloned();
                log.is_some_and(|log| probe::logged(&log, regex))
            }
            Ready::Command(words) => {
                hooks::output(self.watching(words, at), READY_DEADLINE).await.is_ok()
            }
        }
    }

    fn lock_logs(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeName, (PathBuf, u64)>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who leads, as one node says.
    async fn leader_by(&self, at: usize, words: &[Template]) -> Option<Leader> {
        let printed = hooks::output(self.watching(words, at), LEADER_DEADLINE).await.ok()?;
        let leader: Leader = serde_json::from_str(printed.trim()).ok()?;
        self.names.iter().any(|name| name.as_str() == leader.leader).then_some(leader)
    }

    fn exec_client(&self, shared: &Arc<Shared>, worker: u32) -> ExecClient {
        let at = worker as usize % self.names.len();
        ExecClient::new(shared.clone(), worker, self.names[at].clone(), self.address(at))
    }

    /// A node as clients are told of it.
    fn address(&self, at: usize) -> Json {
        address_of(&self.facts[at])
    }
}

/// What the hook `leader` prints.
#[derive(Deserialize)]
struct Leader {
    leader: String,
    #[serde(default)]
    term: u64,
}

fn address_of(node: &NodeFacts) -> Json {
    let ports: Map<String, Json> =
        node.ports.iter().map(|(name, number)| (name.clone(), json!(number))).collect();
    json!({ "name": node.name, "ip": node.ip, "ports": ports })
}

type Placement = (Vec<NodeFacts>, Vec<usize>, Vec<Address>);

/// Finds an address for each node and creates its directory. Without a network, addresses are reserved.
fn place(
    spec: &SystemSpec,
    scratch: &Path,
    network: Option<&Network>,
) -> Result<Placement, SetUpError> {
    let (mut facts, mut roles, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    let mut numbers: BTreeMap<usize, u32> = BTreeMap::new();
    for (name, at) in spec.node_names() {
        let role = &spec.roles[at];
        let count = u16::try_from(role.ports.len()).unwrap_or(u16::MAX);
        let first = match network {
            Some(network) => {
                let ip = network.address(&Host::Node(NodeName::new(&name)));
                SocketAddr::from((ip, address::FIRST_PORT))
            }
            None => {
                let address = Address::claim(count)
                    .map_err(io_error("no loopback address with free ports was found"))?;
                let first = address.socket(0);
                addresses.push(address);
                first
            }
        };
        let directory = scratch.join(&name);
        fs::create_dir(&directory)
            .map_err(io_error(format!("cannot create {}", directory.display())))?;
        let number = numbers.entry(at).or_default();
        *number += 1;
        facts.push(NodeFacts {
            number: *number,
            role: role.name.clone(),
            ip: first.ip().to_string(),
            ports: role.ports.iter().cloned().zip(first.port()..).collect(),
            directory: directory.display().to_string(),
            name,
        });
        roles.push(at);
    }
    Ok((facts, roles, addresses))
}

/// Deletes what is in a directory. Directories that are disks of their own stay, without what is in them.
fn clear(directory: &Path, disks: &[PathBuf]) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if disks.iter().any(|disk| disk.starts_with(&path)) {
            clear(&path, disks)?;
        } else if entry.file_type()?.is_dir() {
            fs::remove_dir_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Writes the files of some of the nodes.
fn write_files(
    spec: &SystemSpec,
    nodes: &[NodeFacts],
    (written, roles): (&[NodeFacts], &[usize]),
    home: &str,
) -> Result<(), SetUpError> {
    let places =
        written.iter().filter_map(|one| nodes.iter().position(|node| node.name == one.name));
    for (at, role) in places.zip(roles) {
        for file in &spec.files {
            if file.role.as_ref().is_some_and(|name| *name != spec.roles[*role].name) {
                continue;
            }
            let facts = Facts { nodes, node: Some(at), home, request: None };
            let path = PathBuf::from(file.path.fill(&facts));
            let cannot = || io_error(format!("cannot write {}", path.display()));
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(cannot())?;
            }
            fs::write(&path, file.template.fill(&facts)).map_err(cannot())?;
        }
    }
    Ok(())
}

/// Gives the directories of nodes, with the files in them, to the accounts of their programs.
fn give_directories(
    spec: &SystemSpec,
    scratch: &Path,
    nodes: &[NodeFacts],
    roles: &[usize],
) -> Result<(), SetUpError> {
    for (node, role) in nodes.iter().zip(roles) {
        if let Some(account) = spec.roles[*role].account {
            account
                .reach(scratch)
                .and_then(|()| account.own_tree(Path::new(&node.directory)))
                .map_err(io_error(format!(
                    "cannot give {} to the user of {}",
                    node.directory, node.name
                )))?;
        }
    }
    Ok(())
}

/// What all clients have in common, if they are programs.
fn exec_clients(
    spec: &SystemSpec,
    command: &[Template],
    env: &[(String, Template)],
    nodes: &[NodeFacts],
    task: &Task<'_>,
    home: &str,
) -> Result<Shared, SetUpError> {
    let facts = Facts { nodes, node: None, home, request: None };
    let words: Vec<String> = command.iter().map(|word| word.fill(&facts)).collect();
    let env: Vec<(String, String)> =
        env.iter().map(|(name, value)| (name.clone(), value.fill(&facts))).collect();
    let (directory, program) = (spec.home.clone(), task.keeper.clone());
    let network = task.network.clone();
    let log = Arc::new(OnceLock::new());
    let hello = json!({
        "hello": 1,
        "protocol": 1,
        "workload": task.workload.name(),
        "claim": task.claim,
        "options": task.workload.options(),
        "seed": task.seed,
        "nodes": nodes.iter().map(address_of).collect::<Vec<_>>(),
    });
    Ok(Shared {
        supervisor: Supervisor::start().map_err(io_error("cannot start the supervisor thread"))?,
        log: log.clone(),
        command: Box::new(move |worker| {
            let mut command = hooks::command(&words, &directory);
            command.envs(env.iter().map(|(name, value)| (name, value)));
            let namespaces =
                network.as_ref().map(|network| network.namespaces(&network.client(worker)));
            let mut kept = keeper::keep(&program, &command, true, None, namespaces.as_ref());
            if let Some(path) = log.get() {
                kept.stderr(File::options().create(true).append(true).open::<&PathBuf>(path)?);
            }
            Ok(kept)
        }),
        hello,
        functions: task.workload.functions().to_vec(),
    })
}

impl System for Deployment {
    fn nodes(&self) -> &[NodeName] {
        &self.names
    }

    fn command(&self, node: &NodeName, start: &StartOptions) -> Command {
        let at = self.position(node);
        let role = self.role(at);
        let words = match &role.first_start {
            Some(first) if start.bootstrap => first,
            _ => match &role.join_start {
                Some(join) if start.joins => join,
                _ => &role.start,
            },
        };
        let mut command = hooks::command(&self.fill(words, Some(at)), &self.spec.home);
        let facts = Facts { nodes: &self.facts, node: Some(at), home: &self.home, request: None };
        command.envs(role.env.iter().map(|(name, value)| (name, value.fill(&facts))));
        command.current_dir(&self.facts[at].directory);
        command
    }

    fn is_ready<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, bool> {
        Box::pin(self.ready(node))
    }

    fn client(&self, worker: u32) -> Box<dyn Client> {
        match &self.clients {
            Clients::Exec(shared) => Box::new(self.exec_client(shared, worker)),
            Clients::Http(shared) => {
                let at = worker as usize % self.names.len();
                Box::new(HttpClient::new(shared.clone(), worker, at))
            }
        }
    }

    fn keeper(&self) -> Option<&Path> {
        Some(&self.keeper)
    }

    fn network(&self) -> Option<&Network> {
        self.network.as_deref()
    }

    fn account(&self, node: &NodeName) -> Option<Account> {
        self.role(self.position(node)).account
    }

    fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn disk_directories(&self, node: &NodeName) -> Vec<PathBuf> {
        let own = Path::new(&self.facts[self.position(node)].directory);
        self.spec.power.iter().map(|directory| own.join(directory)).collect()
    }

    fn begin(&self, directory: &Path) {
        // All children append whole lines to one file.
        if let Clients::Exec(shared) = &self.clients {
            let _ = shared.log.set(directory.join("clients.log"));
        }
    }

    fn starting(&self, node: &NodeName, log: &Path, offset: u64) {
        self.lock_logs().insert(node.clone(), (log.to_owned(), offset));
    }

    fn after_start(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let hook = self.hook(self.spec.hooks.after_start.as_deref(), "after_start");
            hook.await.map_err(|error| error.to_string())?;
            match &self.clients {
                Clients::Exec(shared) => self.exec_client(shared, 0).set_up().await,
                // There is no request that prepares anything; that is what the hook is for.
                Clients::Http(_) => Ok(()),
            }
        })
    }

    fn change_member<'a>(
        &'a self,
        change: MemberChange,
        node: &'a NodeName,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let (words, what) = match change {
                MemberChange::Remove => (&self.spec.hooks.member_remove, "member_remove"),
                MemberChange::Add => (&self.spec.hooks.member_add, "member_add"),
                MemberChange::Promote => (&self.spec.hooks.promote, "promote"),
            };
            let words = words.as_deref().ok_or_else(|| format!("there is no hook {what}"))?;
            let kept = self.kept(words, Some(self.position(node)));
            let printed = hooks::output(kept, HOOK_DEADLINE).await;
            printed.map(drop).map_err(|why| self.hook_error(what, why).to_string())
        })
    }

    fn clear(&self, node: &NodeName) -> io::Result<()> {
        let at = self.position(node);
        clear(Path::new(&self.facts[at].directory), &self.disk_directories(node))?;
        let own = (&self.facts[at..=at], &self.roles[at..=at]);
        write_files(&self.spec, &self.facts, own, &self.home)
            .and_then(|()| give_directories(&self.spec, self.scratch.path(), own.0, own.1))
            .map_err(io::Error::other)
    }

    fn leader(&self) -> BoxFuture<'_, Option<NodeName>> {
        Box::pin(async move {
            let words = self.spec.hooks.leader.as_deref()?;
            let asked = (0..self.names.len()).map(|at| self.leader_by(at, words));
            let leaders = join_all(asked).await.into_iter().flatten();
            let latest = leaders.max_by_key(|leader| leader.term)?;
            Some(NodeName::new(&latest.leader))
        })
    }
}
