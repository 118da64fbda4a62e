//! Databases that are built in as systems under test: how their nodes are started, who leads, and clients.
//! Each is behind a feature of its name. Does not know what is correct.
//!
//! A database has *configurations*: named ways to set it up, each with its own claims by workload. What a
//! client asks for (reads, isolation) is chosen beside the configuration, and claims depend on it too.
//!
//! Clients never send a request twice. An error that leaves open whether a request took effect is `info`;
//! only what the server refuses for certain is `fail`.

// What the databases share, some of them do without.
#![cfg_attr(
    not(all(feature = "etcd", feature = "nats", feature = "redis", feature = "postgresql")),
    allow(dead_code, unused_imports)
)]

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "postgresql")]
mod postgresql;
#[cfg(feature = "redis")]
mod redis;
mod site;
#[cfg(any(feature = "etcd", feature = "postgresql"))]
mod steps;

use std::{
    collections::BTreeMap,
    env, io,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use checker::levels::Level;
use lab::{NodeName, System, fault::FaultAction, network::Network, workloads::Workload};
use serde_json::{Map, Value as Json, json};
use system_file::hooks;

use self::site::Site;

/// The names of all databases, whether they are compiled in or not. Each is the name of its feature.
pub const NAMES: [&str; 4] = ["etcd", "redis", "postgresql", "nats"];

/// How long a program may take to print its version.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);

/// A database that is built in.
trait Database: Sync {
    fn name(&self) -> &'static str;

    /// The programs that are needed, the one that is asked for its version first, with the directories
    /// besides the search path where they may be.
    fn programs(&self) -> Programs;

    /// The configurations, the default one first.
    fn configurations(&self) -> &'static [Configuration];

    /// What clients may ask for.
    fn asks(&self) -> Option<Asks> {
        None
    }

    /// What is claimed, by the configuration and what clients ask for. `None`: durability only.
    fn claim(&self, choice: &Choice, workload: &str) -> Option<&'static str>;

    /// Why a workload cannot be run, if it cannot.
    fn refuses(&self, choice: &Choice, workload: &str) -> Option<String>;

    /// Whether it is to stand wrong clocks: it does not wait in the kernel for a moment of the real time, which stays
    /// true there.
    fn stands_clocks(&self) -> bool {
        false
    }

    /// Why a version of the program cannot be run, if it cannot.
    fn refuses_version(&self, _choice: &Choice, _version: &str) -> Option<String> {
        None
    }

    /// Sets the nodes up.
    fn deploy(
        &self,
        choice: &Choice,
        site: Site,
        task: &Task<'_>,
    ) -> Result<Arc<dyn System>, String>;
}

/// The programs of a database.
struct Programs {
    /// Their names.
    names: &'static [&'static str],
    /// Where they may be besides the search path.
    directories: &'static [&'static str],
    /// The Debian package that has them.
    package: &'static str,
}

/// A way to set a database up.
#[derive(Debug, PartialEq, Eq)]
struct Configuration {
    name: &'static str,
    /// What it is, in a line.
    about: &'static str,
    /// The names of the nodes.
    nodes: &'static [&'static str],
    /// Faults that it is not meant to stand, and why.
    excluded: &'static [(FaultAction, &'static str)],
}

/// What clients may ask for: an option and its values, the default one first.
struct Asks {
    option: &'static str,
    values: &'static [&'static str],
}

const fn databases() -> &'static [&'static dyn Database] {
    &[
        #[cfg(feature = "etcd")]
        &etcd::Etcd,
        #[cfg(feature = "redis")]
        &redis::Redis,
        #[cfg(feature = "postgresql")]
        &postgresql::Postgresql,
        #[cfg(feature = "nats")]
        &nats::Nats,
    ]
}

/// What the command line says of a database.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// `NAME[:CONFIGURATION][@VERSION]`.
    pub system: &'a str,
    /// The option `--reads`.
    pub reads: Option<&'a str>,
    /// The option `--isolation`.
    pub isolation: Option<&'a str>,
    /// Programs to use instead of those that are found, by name.
    pub programs: BTreeMap<String, PathBuf>,
}

/// A database with a configuration, and what clients ask for.
#[derive(Clone)]
pub struct Choice {
    database: &'static dyn Database,
    configuration: &'static Configuration,
    ask: &'static str,
    /// The version that the program must say it is.
    version: Option<String>,
    /// Programs by name.
    programs: BTreeMap<&'static str, PathBuf>,
    /// Those of them that were named.
    named: BTreeMap<String, PathBuf>,
}

/// What clients of a run are to do.
pub struct Task<'a> {
    /// The workload.
    pub workload: &'a dyn Workload,
    /// The program that keeps processes together: see [`lab::keeper`].
    pub keeper: PathBuf,
    /// The virtual network of the nodes and their clients. `None`: they have addresses of this machine.
    pub network: Option<Arc<Network>>,
}

/// A database, set up for one run.
pub struct Deployed {
    /// The nodes.
    pub system: Arc<dyn System>,
    /// The version that the program says it is.
    pub version: String,
}

/// Why a database cannot be tested.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// A program is missing.
    #[error(
        "{name} is not installed: apt-get install {package}, or name the program with --program \
         {name}=PATH"
    )]
    NotInstalled {
        /// The program.
        name: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The program is of another version than the one that was asked for.
    #[error(
        "{} is version {found}, and {wanted} was asked for: name the program with --program {name}=PATH, or call \
         it {name}-{wanted} where programs are",
        path.display()
    )]
    OtherVersion {
        /// The program.
        name: &'static str,
        /// Where it is.
        path: PathBuf,
        /// The version that it says it is.
        found: String,
        /// The version that was asked for.
        wanted: String,
    },
    /// Something else, in words.
    #[error("{0}")]
    Other(String),
}

impl DatabaseError {
    /// Whether this machine lacks the program.
    #[must_use]
    pub fn is_missing_program(&self) -> bool {
        !matches!(self, DatabaseError::Other(_))
    }
}

impl From<String> for DatabaseError {
    fn from(why: String) -> Self {
        DatabaseError::Other(why)
    }
}

impl Choice {
    /// Finds what the command line names.
    ///
    /// # Errors
    /// There is no such database, configuration or program; in words.
    pub fn find(request: &Request<'_>) -> Result<Choice, DatabaseError> {
        let (rest, version) = match request.system.split_once('@') {
            Some((rest, version)) => (rest, Some(version.to_owned())),
            None => (request.system, None),
        };
        let (name, configuration) = match rest.split_once(':') {
            Some((name, configuration)) => (name, Some(configuration)),
            None => (rest, None),
        };
        let database = databases().iter().copied().find(|database| database.name() == name);
        let database = database.ok_or_else(|| not_compiled(name))?;
        let all = database.configurations();
        let found = match configuration {
            None => all.first(),
            Some(wanted) => all.iter().find(|configuration| configuration.name == wanted),
        };
        let configuration = found.ok_or_else(|| {
            let names: Vec<String> =
                all.iter().map(|one| format!("{} ({})", one.name, one.about)).collect();
            format!(
                "{name} has no configuration '{}': expected {}",
                configuration.unwrap_or_default(),
                names.join(", ")
            )
        })?;
        let ask = ask(database, request)?;
        let programs = programs(database, version.as_deref(), &request.programs)?;
        let named = request.programs.clone();
        Ok(Choice { database, configuration, ask, version, programs, named })
    }

    /// The name of the database.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.database.name()
    }

    /// The name of the configuration, and what clients ask for.
    #[must_use]
    pub fn configuration(&self) -> (&'static str, &'static str) {
        (self.configuration.name, self.ask)
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeName> {
        self.configuration.nodes.iter().map(|name| NodeName::new(name)).collect()
    }

    /// What is claimed for a workload.
    ///
    /// # Errors
    /// The workload is not possible, or there is no check of the claim, which must not become a weaker one; in
    /// words.
    pub fn claim(&self, workload: &str) -> Result<Level, String> {
        if let Some(why) = self.database.refuses(self, workload) {
            return Err(why);
        }
        let claim = self.database.claim(self, workload);
        claim.map_or(Ok(Level::Durable), |claim| Level::of(claim, workload))
    }

    /// Why the configuration is not meant to stand a fault.
    #[must_use]
    pub fn excluded(&self, action: FaultAction) -> Option<&'static str> {
        if action.changes_members() {
            return Some(
                "members of built-in databases are not changed: a system file has hooks for that",
            );
        }
        if action == FaultAction::Clock && !self.database.stands_clocks() {
            return Some("it is not known to stand wrong clocks");
        }
        let excluded = self.configuration.excluded.iter();
        excluded.filter(|(other, _)| *other == action).map(|(_, why)| *why).next()
    }

    /// The options that choose this again.
    #[must_use]
    pub fn arguments(&self) -> String {
        let mut text = format!("--system {}:{}", self.name(), self.configuration.name);
        if let Some(version) = &self.version {
            text += &format!("@{version}");
        }
        for (name, path) in &self.named {
            text += &format!(" --program {name}={}", path.display());
        }
        if let Some(asks) = self.database.asks() {
            text += &format!(" --{} {}", asks.option, self.ask);
        }
        text
    }

    /// What the record says of it.
    #[must_use]
    pub fn options(&self) -> Map<String, Json> {
        let mut options = Map::new();
        options.insert("configuration".to_owned(), json!(self.configuration.name));
        if let Some(asks) = self.database.asks() {
            options.insert(asks.option.to_owned(), json!(self.ask));
        }
        options
    }

    /// Sets it up for a run.
    ///
    /// # Errors
    /// The workload is not possible, the program is not of the version that was asked for, or the operating
    /// system refuses something.
    pub async fn deploy(&self, task: &Task<'_>) -> Result<Deployed, DatabaseError> {
        if let Some(why) = self.database.refuses(self, task.workload.name()) {
            return Err(why.into());
        }
        let version = self.ask_version().await?;
        if let Some(why) = self.database.refuses_version(self, &version) {
            return Err(why.into());
        }
        let site = Site::new(self.configuration.nodes, &task.keeper, task.network.clone())
            .map_err(|error| {
                format!("cannot reserve addresses and directories for the nodes: {error}")
            })?;
        let system = self.database.deploy(self, site, task)?;
        Ok(Deployed { system, version })
    }

    /// The version that the program says it is.
    ///
    /// # Errors
    /// It says none, or another one than was asked for; in words.
    pub async fn ask_version(&self) -> Result<String, DatabaseError> {
        let name = self.database.programs().names[0];
        let program = &self.programs[name];
        let mut command = Command::new(program);
        command.arg("--version");
        let printed = hooks::output(command, VERSION_DEADLINE).await?;
        let is_version = |word: &&str| {
            word.contains('.') && word.starts_with(|letter: char| letter.is_ascii_digit())
        };
        let words = printed.split([' ', '\n', '=']).map(|word| word.trim_start_matches('v'));
        let found = words.into_iter().find(is_version).ok_or_else(|| {
            format!("{} --version prints no version: {}", program.display(), printed.trim())
        })?;
        match &self.version {
            Some(wanted) if wanted != found => Err(DatabaseError::OtherVersion {
                name,
                path: program.clone(),
                found: found.to_owned(),
                wanted: wanted.clone(),
            }),
            _ => Ok(found.to_owned()),
        }
    }

    /// A program of the database.
    fn program(&self, name: &str) -> &Path {
        &self.programs[name]
    }
}

impl std::fmt::Debug for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.arguments())
    }
}

fn not_compiled(name: &str) -> DatabaseError {
    DatabaseError::Other(if NAMES.contains(&name) {
        format!(
            "{name} is not compiled in: cargo run -p harness --features {name} -- --system {name}"
        )
    } else {
        format!(
            "there is no system '{name}': expected twopc, {}, or the path of a file",
            NAMES.join(", ")
        )
    })
}

/// What clients ask for.
fn ask(database: &dyn Database, request: &Request<'_>) -> Result<&'static str, String> {
    let asks = database.asks();
    for (option, value) in [("reads", request.reads), ("isolation", request.isolation)] {
        if value.is_some() && asks.as_ref().is_none_or(|asks| asks.option != option) {
            return Err(format!("--{option}: clients of {} have no such choice", database.name()));
        }
    }
    let Some(Asks { option, values }) = asks else { return Ok("") };
    let Some(wanted) = request.reads.or(request.isolation) else { return Ok(values[0]) };
    values.iter().copied().find(|value| *value == wanted).ok_or_else(|| {
        format!("--{option}: '{wanted}' is not known: expected {}", values.join(" or "))
    })
}

/// The programs of a database: those that are named, or else `NAME-VERSION` or `NAME` where programs are.
fn programs(
    database: &dyn Database,
    version: Option<&str>,
    named: &BTreeMap<String, PathBuf>,
) -> Result<BTreeMap<&'static str, PathBuf>, DatabaseError> {
    let Programs { names, directories, package } = database.programs();
    if let Some(other) = named.keys().find(|name| !names.contains(&name.as_str())) {
        let names = names.join(", ");
        return Err(DatabaseError::Other(format!(
            "--program: {} has no program '{other}': its programs are {names}",
            database.name()
        )));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> =
        env::split_paths(&path).chain(directories.iter().map(PathBuf::from)).collect();
    let find = |name: &str| {
        let candidates = version.map(|version| format!("{name}-{version}"));
        let candidates = candidates.into_iter().chain([name.to_owned()]);
        candidates
            .flat_map(|name| places.iter().map(move |place| place.join(&name)))
            .find(|at| at.is_file())
    };
    names
        .iter()
        .map(|name| match named.get(*name) {
            Some(path) if path.is_file() => Ok((*name, absolute(path)?)),
            Some(path) => {
                Err(DatabaseError::Other(format!("--program: there is no file {}", path.display())))
            }
            None => match find(name) {
                Some(path) => Ok((*name, path)),
                None => Err(DatabaseError::NotInstalled { name, package }),
            },
        })
        .collect()
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    path.canonicalize().map_err(|error: io::Error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
