//! The file that describes a system: its tables as types, and what is checked of them before anything is
//! started.

mod raw;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Component, Path, PathBuf},
};

use checker::levels::Level;
use history::Function;
use lab::{NodeName, fault::FaultAction, keeper::Account, workloads};
use regex_lite::Regex;
use toml::Spanned;

use self::raw::{
    File, RawClient, RawFaults, RawFile, RawHooks, RawOperation, RawReady, RawRole, Text,
};
use crate::{
    http::{Operation, Place},
    template::{self, Template},
};

/// What is wrong with a file: where, and what to do.
#[derive(Debug)]
pub struct SpecError {
    path: PathBuf,
    /// The line, from 1. `None` if it is about the whole file.
    line: Option<usize>,
    what: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for SpecError {}

/// A system as a file describes it.
#[derive(Debug)]
pub struct SystemSpec {
    /// The file.
    pub path: PathBuf,
    /// Its directory, absolute: programs and clients are looked for there.
    pub home: PathBuf,
    /// The name of the system.
    pub name: String,
    /// The command that prints the version of the system.
    pub version_cmd: Option<Vec<Template>>,
    /// Whether the nodes need a virtual network.
    pub netns: Netns,
    /// The roles, in the order of their names.
    pub roles: Vec<Role>,
    /// Files that are written for each node before it starts.
    pub files: Vec<FileTemplate>,
    /// Commands that are run around a run.
    pub hooks: Hooks,
    /// The client.
    pub client: ClientSpec,
    /// What the system claims, by workload.
    pub claims: BTreeMap<String, Level>,
    /// The faults that it cannot stand, and which are therefore not injected.
    pub excluded: Vec<FaultAction>,
    /// The directories of a node, relative to its own, that are on a disk which can fail.
    pub power: Vec<PathBuf>,
}

/// Whether the nodes of a system need a virtual network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Netns {
    /// Only faults need one.
    #[default]
    Optional,
    /// They have one where that is possible.
    Best,
    /// They cannot do without: their ports are fixed, or they know only one address of a machine.
    Required,
}

/// Nodes of one kind.
#[derive(Debug)]
pub struct Role {
    /// The name of the role.
    pub name: String,
    /// The number of nodes.
    pub count: u32,
    /// The command that starts a node.
    pub start: Vec<Template>,
    /// The command that starts a node for the first time, if it is another one.
    pub first_start: Option<Vec<Template>>,
    /// The command that starts a node that was added to the running cluster, if it is another one.
    pub join_start: Option<Vec<Template>>,
    /// Environment variables.
    pub env: Vec<(String, Template)>,
    /// The names of the ports of a node.
    pub ports: Vec<String>,
    /// When a node is ready.
    pub ready: Ready,
    /// The account of its programs, if it is not that of the harness.
    pub account: Option<Account>,
}

/// When a node is ready.
#[derive(Debug)]
pub enum Ready {
    /// The port with this name accepts connections.
    Tcp(String),
    /// A GET of this URL is answered with status 200, and the answer contains a text.
    Http(Template, Option<String>),
    /// A line of the log, since the last start, matches.
    Log(Regex),
    /// A command exits with status 0.
    Command(Vec<Template>),
}

/// A file that is written for a node.
#[derive(Debug)]
pub struct FileTemplate {
    /// The role whose nodes get it. `None`: all.
    pub role: Option<String>,
    /// Where it is.
    pub path: Template,
    /// What it contains.
    pub template: Template,
}

/// Commands that are run around a run.
#[derive(Debug, Default)]
pub struct Hooks {
    /// Before the first start of any node.
    pub prepare: Option<Vec<Template>>,
    /// When all nodes are ready for the first time.
    pub after_start: Option<Vec<Template>>,
    /// Run for each node: prints `{"leader": NAME, "term": N}`.
    pub leader: Option<Vec<Template>>,
    /// Removes a node from the cluster, while it runs.
    pub member_remove: Option<Vec<Template>>,
    /// Adds a node to the cluster that has no data and does not run.
    pub member_add: Option<Vec<Template>>,
    /// Makes a node the leader.
    pub promote: Option<Vec<Template>>,
}

/// The client.
#[derive(Debug)]
pub enum ClientSpec {
    /// A program that speaks JSON lines.
    Exec {
        /// The command.
        command: Vec<Template>,
        /// Environment variables.
        env: Vec<(String, Template)>,
    },
    /// HTTP requests.
    Http {
        /// The port that they are sent to.
        port: String,
        /// How each operation is asked for.
        operations: BTreeMap<Function, Operation>,
    },
}

/// The text of a file, which turns positions into lines.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
    home: PathBuf,
    package: Option<String>,
}

impl Source<'_> {
    fn error(&self, at: usize, what: impl Into<String>) -> SpecError {
        let line = self.text[..at.min(self.text.len())].matches('\n').count() + 1;
        SpecError { path: self.path.to_owned(), line: Some(line), what: what.into() }
    }

    fn template(&self, text: &Text, scope: &template::Scope) -> Result<Template, SpecError> {
        Template::parse(text.get_ref(), scope).map_err(|why| self.error(text.span().start, why))
    }

    /// A command, whose program must exist.
    fn command(
        &self,
        words: &Spanned<Vec<Text>>,
        scope: &template::Scope,
    ) -> Result<Vec<Template>, SpecError> {
        let Some(program) = words.get_ref().first() else {
            let why = "a command needs at least a program: [\"program\", \"argument\"]";
            return Err(self.error(words.span().start, why));
        };
        if !program.get_ref().contains('{') && !program_exists(program.get_ref(), &self.home) {
            let name = program.get_ref();
            let remedy = match (&self.package, name.contains('/')) {
                (Some(package), false) => format!("install {package}, for example with apt-get"),
                (None, false) => "install it, or write its path".to_owned(),
                (_, true) => format!("paths are relative to {}", self.home.display()),
            };
            let what = format!("the program '{name}' is not found: {remedy}");
            return Err(self.error(program.span().start, what));
        }
        words.get_ref().iter().map(|word| self.template(word, scope)).collect()
    }

    fn command_of(
        &self,
        words: Option<&Spanned<Vec<Text>>>,
        scope: &template::Scope,
    ) -> Result<Option<Vec<Template>>, SpecError> {
        words.map(|words| self.command(words, scope)).transpose()
    }
}

/// Whether a program is a file below the directory, or in the search path.
fn program_exists(program: &str, home: &Path) -> bool {
    if program.contains('/') {
        return home.join(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// The most nodes of one role.
const COUNT_MAX: u32 = 99;

impl SystemSpec {
    /// Reads a file and checks everything that can be checked without starting anything.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong.
    pub fn load(path: &Path) -> Result<SystemSpec, SpecError> {
        let whole = |what: String| SpecError { path: path.to_owned(), line: None, what };
        let text = fs::read_to_string(path).map_err(|error| whole(reading(&error)))?;
        let absolute = path.canonicalize().map_err(|error| whole(error.to_string()))?;
        let home = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        let mut source = Source { path, text: &text, home, package: None };
        let file: File = toml::from_str(&text).map_err(|error| {
            let what = error.message().trim_end().to_owned();
            match error.span() {
                Some(span) => source.error(span.start, what),
                None => whole(what),
            }
        })?;
        source.package.clone_from(&file.system.package);
        source.system(file)
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeName> {
        self.node_names().iter().map(|(name, _)| NodeName::new(name)).collect()
    }

    /// The name of each node and the position of its role.
    #[must_use]
    pub fn node_names(&self) -> Vec<(String, usize)> {
        let mut names = Vec::new();
        for (at, role) in self.roles.iter().enumerate() {
            // Nodes of the only role have short names, and the only node of a role has its name.
            let name = |n| match (self.roles.len(), role.count) {
                (1, _) => format!("n{n}"),
                (_, 1) => role.name.clone(),
                _ => format!("{}{n}", role.name),
            };
            names.extend((1..=role.count).map(|n| (name(n), at)));
        }
        names
    }
}

fn reading(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file; `harness system new NAME` writes one \
                                    to begin with"
            .to_owned(),
        io::ErrorKind::InvalidData => "not UTF-8: a system file is TOML".to_owned(),
        _ => error.to_string(),
    }
}

impl Source<'_> {
    fn system(&self, file: File) -> Result<SystemSpec, SpecError> {
        let name = file.system.name.get_ref();
        let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if name.is_empty() || !name.chars().all(fits) {
            let why = format!(
                "name '{name}': run directories have this name; use letters, digits, '-', '_' and '.'"
            );
            return Err(self.error(file.system.name.span().start, why));
        }
        if file.roles.is_empty() {
            return Err(self.error(
                0,
                "there are no nodes: add a table [roles.node] with count, start, \
                                      ports and ready",
            ));
        }
        let ports = file.roles.values().flat_map(|role| &role.ports);
        let ports: Vec<String> = ports.map(|port| port.get_ref().clone()).collect();
        let roles = file.roles.keys().cloned().collect();
        let scope = template::Scope { ports, roles, of_node: true, of_request: false };
        let global = template::Scope { of_node: false, ..scope.clone() };
        let roles = file.roles.iter().map(|(name, role)| self.role(name, role, &scope));
        let roles = roles.collect::<Result<Vec<Role>, SpecError>>()?;
        let version_cmd = file.system.version_cmd.map(|words| {
            words.iter().map(|word| self.template(word, &global)).collect::<Result<_, _>>()
        });
        Ok(SystemSpec {
            path: self.path.to_owned(),
            home: self.home.clone(),
            name: name.clone(),
            version_cmd: version_cmd.transpose()?,
            netns: self.netns(file.system.netns.as_ref())?,
            files: self.files(&file.files, &file.roles, &scope)?,
            hooks: Hooks {
                prepare: self.command_of(file.hooks.prepare.as_ref(), &global)?,
                after_start: self.command_of(file.hooks.after_start.as_ref(), &global)?,
                leader: self.command_of(file.hooks.leader.as_ref(), &scope)?,
                member_remove: self.command_of(file.hooks.member_remove.as_ref(), &scope)?,
                member_add: self.command_of(file.hooks.member_add.as_ref(), &scope)?,
                promote: self.command_of(file.hooks.promote.as_ref(), &scope)?,
            },
            client: self.client(&file.client, &global)?,
            claims: self.claims(&file.claims)?,
            excluded: excluded(&file.faults, &self.member_hooks(&file.hooks)?),
            power: self.power(&file.faults)?,
            roles,
        })
    }

    fn netns(&self, text: Option<&Text>) -> Result<Netns, SpecError> {
        match text.map(|text| (text, text.get_ref().as_str())) {
            None => Ok(Netns::Optional),
            Some((_, "best")) => Ok(Netns::Best),
            Some((_, "required")) => Ok(Netns::Required),
            Some((text, other)) => {
                let why = format!("netns = '{other}': expected required or best");
                Err(self.error(text.span().start, why))
            }
        }
    }

    fn role(&self, name: &str, role: &RawRole, scope: &template::Scope) -> Result<Role, SpecError> {
        let count = *role.count.get_ref();
        if !(1..=COUNT_MAX).contains(&count) {
            let why = format!("count = {count}: a role has from 1 to {COUNT_MAX} nodes");
            return Err(self.error(role.count.span().start, why));
        }
        let mut own: Vec<String> = Vec::new();
        for port in &role.ports {
            if own.contains(port.get_ref()) {
                let why = format!("the port '{}' is named twice", port.get_ref());
                return Err(self.error(port.span().start, why));
            }
            own.push(port.get_ref().clone());
        }
        let env = role.env.iter().map(|(name, value)| {
            self.template(value, scope).map(|template| (name.clone(), template))
        });
        let account = role.user.as_ref().map(|user| {
            Account::named(user.get_ref())
                .map_err(|why| self.error(user.span().start, format!("user: {why}")))
        });
        Ok(Role {
            account: account.transpose()?,
            name: name.to_owned(),
            count,
            start: self.command(&role.start, scope)?,
            first_start: self.command_of(role.first_start.as_ref(), scope)?,
            join_start: self.command_of(role.join_start.as_ref(), scope)?,
            env: env.collect::<Result<_, _>>()?,
            ready: self.ready(&role.ready, &own, scope)?,
            ports: own,
        })
    }

    fn ready(
        &self,
        ready: &Spanned<RawReady>,
        ports: &[String],
        scope: &template::Scope,
    ) -> Result<Ready, SpecError> {
        let at = ready.span().start;
        let RawReady { tcp, http, contains, log, cmd } = ready.get_ref();
        if contains.is_some() && http.is_none() {
            return Err(self.error(at, "contains goes with http"));
        }
        match (tcp, http, log, cmd) {
            (Some(port), None, None, None) => {
                if !ports.contains(port.get_ref()) {
                    let why = format!(
                        "tcp = '{}': the role has no such port; its ports are {}",
                        port.get_ref(),
                        ports.join(", ")
                    );
                    return Err(self.error(port.span().start, why));
                }
                Ok(Ready::Tcp(port.get_ref().clone()))
            }
            (None, Some(url), None, None) => {
                if !url.get_ref().starts_with("http://") {
                    let why = "http: expected a URL that begins with http://";
                    return Err(self.error(url.span().start, why));
                }
                Ok(Ready::Http(self.template(url, scope)?, contains.clone()))
            }
            (None, None, Some(regex), None) => {
                let compiled = Regex::new(regex.get_ref());
                compiled.map(Ready::Log).map_err(|error| {
                    self.error(regex.span().start, format!("log = '{}': {error}", regex.get_ref()))
                })
            }
            (None, None, None, Some(command)) => Ok(Ready::Command(self.command(command, scope)?)),
            _ => Err(self.error(
                at,
                "ready needs exactly one of tcp (a port), http (a URL), log (a regular expression) \
                 and cmd (a command)",
            )),
        }
    }

    fn files(
        &self,
        files: &[RawFile],
        roles: &BTreeMap<String, RawRole>,
        scope: &template::Scope,
    ) -> Result<Vec<FileTemplate>, SpecError> {
        let mut templates = Vec::new();
        for file in files {
            if let Some(role) = &file.role
                && !roles.contains_key(role.get_ref())
            {
                let names: Vec<&str> = roles.keys().map(String::as_str).collect();
                let why = format!(
                    "role = '{}': there is no such role; the roles are {}",
                    role.get_ref(),
                    names.join(", ")
                );
                return Err(self.error(role.span().start, why));
            }
            if !file.path.get_ref().starts_with("{dir}/") {
                let why = "path: files are written into the directory of a node; begin with {dir}/";
                return Err(self.error(file.path.span().start, why));
            }
            templates.push(FileTemplate {
                role: file.role.as_ref().map(|role| role.get_ref().clone()),
                path: self.template(&file.path, scope)?,
                template: self.template(&file.template, scope)?,
            });
        }
        Ok(templates)
    }

    fn client(
        &self,
        client: &Spanned<RawClient>,
        scope: &template::Scope,
    ) -> Result<ClientSpec, SpecError> {
        let raw = client.get_ref();
        match raw.kind.get_ref().as_str() {
            "exec" => {
                let Some(command) = &raw.command else {
                    let why = "kind = 'exec' needs a command: [\"python3\", \"{home}/client.py\"]";
                    return Err(self.error(client.span().start, why));
                };
                let env = raw.env.iter().map(|(name, value)| {
                    self.template(value, scope).map(|template| (name.clone(), template))
                });
                Ok(ClientSpec::Exec {
                    command: self.command(command, scope)?,
                    env: env.collect::<Result<_, _>>()?,
                })
            }
            "http" => self.http_client(client, scope),
            other => {
                let why = format!("kind = '{other}': expected exec or http");
                Err(self.error(raw.kind.span().start, why))
            }
        }
    }

    fn http_client(
        &self,
        client: &Spanned<RawClient>,
        scope: &template::Scope,
    ) -> Result<ClientSpec, SpecError> {
        let raw = client.get_ref();
        let Some(port) = &raw.port else {
            return Err(self.error(client.span().start, "kind = 'http' needs the name of a port"));
        };
        if !scope.ports.contains(port.get_ref()) {
            let why = format!(
                "port = '{}': there is no such port; the ports are {}",
                port.get_ref(),
                scope.ports.join(", ")
            );
            return Err(self.error(port.span().start, why));
        }
        let scope = template::Scope { of_node: true, of_request: true, ..scope.clone() };
        let mut operations = BTreeMap::new();
        for (name, operation) in &raw.ops {
            let f = function(name.get_ref()).map_err(|why| self.error(name.span().start, why))?;
            operations.insert(f, self.operation(f, operation.get_ref(), &scope)?);
        }
        if operations.is_empty() {
            let why =
                "kind = 'http' needs operations: [client.ops.read], [client.ops.write] and others";
            return Err(self.error(client.span().start, why));
        }
        Ok(ClientSpec::Http { port: port.get_ref().clone(), operations })
    }

    fn operation(
        &self,
        f: Function,
        raw: &RawOperation,
        scope: &template::Scope,
    ) -> Result<Operation, SpecError> {
        let method = raw.method.get_ref().parse().map_err(|_| {
            let why =
                format!("method = '{}': expected GET, PUT, POST or another", raw.method.get_ref());
            self.error(raw.method.span().start, why)
        })?;
        if !raw.path.get_ref().starts_with('/') {
            return Err(self.error(raw.path.span().start, "a path begins with /"));
        }
        let value = match &raw.value {
            None if f.returns_value() => {
                let why = "value is missing: body, or a JSON pointer such as /node/value";
                return Err(self.error(raw.method.span().start, why));
            }
            None => None,
            Some(text) if text.get_ref() == "body" => Some(Place::Body),
            Some(text) if text.get_ref().starts_with('/') => {
                Some(Place::Pointer(text.get_ref().clone()))
            }
            Some(text) => {
                let why = format!("value = '{}': expected body or a JSON pointer", text.get_ref());
                return Err(self.error(text.span().start, why));
            }
        };
        let headers = raw.headers.iter().map(|(name, value)| {
            self.template(value, scope).map(|template| (name.clone(), template))
        });
        Ok(Operation {
            method,
            path: self.template(&raw.path, scope)?,
            headers: headers.collect::<Result<_, _>>()?,
            body: raw.body.as_ref().map(|body| self.template(body, scope)).transpose()?,
            ok: raw.ok.clone(),
            fail: raw.fail.clone(),
            absent: raw.absent.clone(),
            value,
            succeeded: raw.succeeded.as_ref().map(|text| text.get_ref().clone()),
            base64: raw.base64,
        })
    }

    /// The faults that hooks make possible.
    fn member_hooks(&self, hooks: &RawHooks) -> Result<Vec<FaultAction>, SpecError> {
        let mut possible = Vec::new();
        match (&hooks.member_remove, &hooks.member_add) {
            (Some(_), Some(_)) => possible.push(FaultAction::Replace),
            (Some(one), None) | (None, Some(one)) => {
                let why = "member_remove and member_add belong together: who removes a node has to add it again";
                return Err(self.error(one.span().start, why));
            }
            (None, None) => {}
        }
        possible.extend(hooks.promote.is_some().then_some(FaultAction::Promote));
        Ok(possible)
    }

    fn power(&self, faults: &RawFaults) -> Result<Vec<PathBuf>, SpecError> {
        let mut directories: Vec<PathBuf> = Vec::new();
        for directory in &faults.power {
            let path = Path::new(directory.get_ref());
            let is_plain = |part| matches!(part, Component::Normal(_));
            let explain = |why: &str| {
                let what = format!("power = '{}': {why}", directory.get_ref());
                Err(self.error(directory.span().start, what))
            };
            if path.as_os_str().is_empty() || !path.components().all(is_plain) {
                return explain("expected a directory below that of the node, such as \"data\"");
            }
            if directories.iter().any(|other| other.starts_with(path) || path.starts_with(other)) {
                return explain("the directory is named twice, or contains another one");
            }
            directories.push(path.to_owned());
        }
        Ok(directories)
    }

    fn claims(&self, claims: &BTreeMap<Text, Text>) -> Result<BTreeMap<String, Level>, SpecError> {
        let mut levels = BTreeMap::new();
        for (workload, level) in claims {
            let name = workload.get_ref();
            if workloads::find(name).is_none() {
                let why = format!(
                    "there is no workload '{name}'; the workloads are {}",
                    workloads::names()
                );
                return Err(self.error(workload.span().start, why));
            }
            let level = Level::of(level.get_ref(), name)
                .map_err(|why| self.error(level.span().start, why))?;
            levels.insert(name.clone(), level);
        }
        Ok(levels)
    }
}

/// The function of this name in the protocol of clients.
fn function(name: &str) -> Result<Function, String> {
    match name {
        "read" => Ok(Function::Get),
        "write" => Ok(Function::Put),
        "del" => Ok(Function::Del),
        "cas" => Ok(Function::Cas),
        other => Err(format!(
            "ops.{other}: HTTP templates know read, write, del and cas; for others, write a client \
             (kind = 'exec')"
        )),
    }
}

fn excluded(faults: &RawFaults, by_hooks: &[FaultAction]) -> Vec<FaultAction> {
    let RawFaults { kill, pause, restart, partition, packet, reset, clock, power } = faults;
    let stands = |action: &FaultAction| match action {
        FaultAction::Kill => *kill,
        FaultAction::Pause => *pause,
        FaultAction::Restart => *restart,
        FaultAction::Partition => *partition,
        FaultAction::Packet => *packet,
        FaultAction::Reset => *reset,
        FaultAction::Clock => *clock,
        FaultAction::Replace | FaultAction::Promote => by_hooks.contains(action),
        _ => !power.is_empty(),
    };
    FaultAction::ALL.into_iter().filter(|action| !stands(action)).collect()
}
