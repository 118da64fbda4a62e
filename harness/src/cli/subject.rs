//! What is put under test besides twopc: a system that a file describes, or a database that is built in.

use std::{path::PathBuf, sync::Arc};

use anyhow::anyhow;
use checker::levels::Level;
use lab::{
    NodeName, System,
    fault::FaultAction,
    network::Network,
    workloads::{self, Workload},
};
use serde_json::{Map, Value as Json, json};
use system_file::{Deployment, SystemSpec, Task, spec::Netns};

use super::Failure;

/// The options that name a system and how it is used.
#[derive(Clone, Debug, Default)]
pub(super) struct SubjectOptions<'a> {
    /// The file, or the database with its configuration and version.
    pub(super) system: &'a str,
    /// What consistency clients ask of reads.
    pub(super) reads: Option<&'a str>,
    /// What isolation clients ask for.
    pub(super) isolation: Option<&'a str>,
    /// Programs to use, by name.
    pub(super) programs: &'a [(String, PathBuf)],
}

/// A system under test.
pub(super) enum Subject {
    /// One that a file describes.
    File(Arc<SystemSpec>),
    /// A database.
    #[cfg(feature = "databases")]
    Database(databases::Choice),
}

/// A program of a database is not installed.
#[derive(Debug, thiserror::Error)]
#[error("--system: {0}")]
pub(super) struct MissingProgram(String);

/// A system, set up for one run.
pub(super) struct Deployed {
    pub(super) system: Arc<dyn System>,
    /// What it says of its version.
    pub(super) version: Option<String>,
}

impl Subject {
    /// Finds the system.
    pub(super) fn find(options: &SubjectOptions<'_>) -> Result<Subject, Failure> {
        if super::test::is_file(options.system) {
            if options.reads.is_some()
                || options.isolation.is_some()
                || !options.programs.is_empty()
            {
                return Err(Failure::arguments(anyhow!(
                    "--reads, --isolation and --program are for databases that are built in; a file says \
                     them itself"
                )));
            }
            let spec = SystemSpec::load(options.system.as_ref()).map_err(Failure::arguments)?;
            return Ok(Subject::File(Arc::new(spec)));
        }
        database(options)
    }

    /// The name in the record.
    pub(super) fn name(&self) -> &str {
        match self {
            Subject::File(spec) => &spec.name,
            #[cfg(feature = "databases")]
            Subject::Database(choice) => choice.name(),
        }
    }

    /// The names of the nodes.
    pub(super) fn nodes(&self) -> Vec<NodeName> {
        match self {
            Subject::File(spec) => spec.nodes(),
            #[cfg(feature = "databases")]
            Subject::Database(choice) => choice.nodes(),
        }
    }

    /// Whether the nodes need a virtual network.
    pub(super) fn netns(&self) -> Netns {
        match self {
            Subject::File(spec) => spec.netns,
            #[cfg(feature = "databases")]
            Subject::Database(_) => Netns::Optional,
        }
    }

    /// The options that name the system again.
    pub(super) fn arguments(&self) -> String {
        match self {
            Subject::File(spec) => format!("--system {}", spec.path.display()),
            #[cfg(feature = "databases")]
            Subject::Database(choice) => choice.arguments(),
        }
    }

    /// What it claims for a workload. The error says why there is no run with it.
    pub(super) fn claim(&self, workload: &str) -> Result<Level, String> {
        match self {
            Subject::File(spec) => Ok(spec.claims.get(workload).copied().unwrap_or(Level::Durable)),
            #[cfg(feature = "databases")]
            Subject::Database(choice) => choice.claim(workload),
        }
    }

    /// The workloads that a run can have: of a database all that it knows, of a file those that it claims something for.
    pub(super) fn workloads(&self) -> Vec<String> {
        let all = workloads::ALL.iter().map(|workload| workload.name());
        let has = |name: &&str| match self {
            Subject::File(spec) => spec.claims.contains_key(*name),
            #[cfg(feature = "databases")]
            Subject::Database(choice) => choice.claim(name).is_ok(),
        };
        all.filter(has).map(str::to_owned).collect()
    }

    /// Why it is not meant to stand a fault.
    pub(super) fn excluded(&self, action: FaultAction) -> Option<String> {
        match self {
            Subject::File(spec) if action.changes_members() => {
                spec.excluded.contains(&action).then(|| {
                    let hooks = match action {
                        FaultAction::Promote => "promote",
                        _ => "member_remove and member_add",
                    };
                    format!(
                        "{} does not say how: add {hooks} to its table [hooks]",
                        spec.path.display()
                    )
                })
            }
            Subject::File(spec) => spec.excluded.contains(&action).then(|| match action {
                FaultAction::Clock => format!(
                    "{} does not say that the system is to stand wrong clocks: add clock = true to its table \
                     [faults]",
                    spec.path.display()
                ),
                action if action.needs_disk() => format!(
                    "{} does not say which directories are on a node's disk: add power = [\"data\"] to its \
                     table [faults]",
                    spec.path.display()
                ),
                action => format!(
                    "{} says that the system does not stand {}",
                    spec.path.display(),
                    action.name()
                ),
            }),
            #[cfg(feature = "databases")]
            Subject::Database(choice) => choice.excluded(action).map(str::to_owned),
        }
    }

    /// What the record says of it.
    pub(super) fn options(&self) -> Map<String, Json> {
        match self {
            Subject::File(spec) => {
                [("system_file".to_owned(), json!(spec.path))].into_iter().collect()
            }
            #[cfg(feature = "databases")]
            Subject::Database(choice) => choice.options(),
        }
    }

    /// The version that its program says it is, before a run. Nothing of a file, which is asked when it is set up.
    pub(super) async fn ask_version(&self) -> Result<String, Failure> {
        match self {
            Subject::File(_) => Ok(String::new()),
            #[cfg(feature = "databases")]
            Subject::Database(choice) => choice.ask_version().await.map_err(Failure::arguments),
        }
    }

    /// Sets it up for a run. What fails here is in the file or in the system, not in the harness.
    pub(super) async fn deploy(
        &self,
        workload: &dyn Workload,
        claim: Level,
        seed: u64,
        (keeper, network): (PathBuf, Option<Arc<Network>>),
    ) -> Result<Deployed, Failure> {
        match self {
            Subject::File(spec) => {
                let claim = claim.name();
                let task = Task { workload, claim, seed, keeper, network };
                let deployment = Deployment::set_up(spec.clone(), &task).await;
                let deployment = deployment.map_err(Failure::arguments)?;
                let version = deployment.version().map(str::to_owned);
                Ok(Deployed { system: Arc::new(deployment), version })
            }
            #[cfg(feature = "databases")]
            Subject::Database(choice) => {
                let task = databases::Task { workload, keeper, network };
                let deployed = choice.deploy(&task).await.map_err(refused)?;
                Ok(Deployed { system: deployed.system, version: Some(deployed.version) })
            }
        }
    }
}

#[cfg(feature = "databases")]
fn database(options: &SubjectOptions<'_>) -> Result<Subject, Failure> {
    let request = databases::Request {
        system: options.system,
        reads: options.reads,
        isolation: options.isolation,
        programs: options.programs.iter().cloned().collect(),
    };
    databases::Choice::find(&request).map(Subject::Database).map_err(refused)
}

#[cfg(feature = "databases")]
fn refused(error: databases::DatabaseError) -> Failure {
    let text = error.to_string();
    match error.is_missing_program() {
        true => Failure::arguments(MissingProgram(text)),
        false => Failure::arguments(anyhow!("--system: {text}")),
    }
}

#[cfg(not(feature = "databases"))]
fn database(options: &SubjectOptions<'_>) -> Result<Subject, Failure> {
    let name = options.system.split([':', '@']).next().unwrap_or_default();
    let feature = ["etcd", "redis", "postgresql", "nats"].into_iter().find(|known| *known == name);
    Err(Failure::arguments(match feature {
        Some(feature) => anyhow!(
            "--system: {name} is not compiled in: cargo run -p harness --features {feature} -- --system \
             {}",
            options.system
        ),
        None => anyhow!(
            "--system: there is no system '{}': expected twopc, etcd, redis, postgresql, nats, or the path of a \
             file such as ./mykv.toml",
            options.system
        ),
    }))
}
