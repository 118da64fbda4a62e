//! Runs of a system that a file describes, and the command `system`.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use checker::{Limits, Validity, levels::Level};
use clap::{Args, Subcommand};
use history::RunDescription;
use lab::{
    CompletedRun, RunSettings,
    duration::duration_text,
    fault::Fault,
    seeds::run_seeds,
    worker::ClientTimeouts,
    workloads::{self, LoadShape, Workload},
};
use report::summary::Tally;
use serde_json::json;
use system_file::{Deployment, SystemSpec, Task, scaffold, trial};
use tokio::{runtime::Runtime, sync::watch};
use twopc::commands::Progress;

use super::{Exit, Failure, stdout};
use crate::commands;

/// The command `system`.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum SystemCommand {
    /// Check a system file: start its nodes, and ask its client for each operation once.
    Check {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Write a commented system file and a client in Python to begin with.
    New(NewArgs),
}

/// Arguments of `system new`.
#[derive(Clone, Debug, Args)]
pub(super) struct NewArgs {
    /// The name of the system. NAME.toml and NAME-client.py are written into the current directory.
    #[arg(value_name = "NAME")]
    name: String,
}

/// Executes the command `system`.
pub(super) fn system_command(command: &SystemCommand, runtime: &Runtime) -> Result<Exit, Failure> {
    match command {
        SystemCommand::New(NewArgs { name }) => {
            let written = scaffold::write(name, Path::new(".")).map_err(Failure::arguments)?;
            for path in written {
                writeln!(stdout(), "{}", path.display())?;
            }
            writeln!(stdout(), "next: harness system check {name}.toml")?;
            Ok(Exit::Valid)
        }
        SystemCommand::Check { file } => {
            let spec = Arc::new(SystemSpec::load(file).map_err(Failure::arguments)?);
            let keeper = own_program()?;
            let mut line = |text: &str| drop(writeln!(stdout(), "{text}"));
            match runtime.block_on(trial::run(spec, &keeper, &mut line)) {
                Ok(()) => {
                    writeln!(stdout(), "{}: usable", file.display())?;
                    Ok(Exit::Valid)
                }
                Err(why) => Err(Failure::arguments(anyhow!("{}: {why}", file.display()))),
            }
        }
    }
}

/// This program, which is also the keeper of nodes.
fn own_program() -> Result<PathBuf, Failure> {
    env::current_exe().context("the path of this program is not known").map_err(Failure::harness)
}

/// The options of runs of a system that a file describes.
pub(super) struct FileRun<'a> {
    /// The file.
    pub(super) file: &'a Path,
    /// The name of the workload.
    pub(super) workload: &'a str,
    /// The level that is judged instead of the one that the file claims.
    pub(super) claim: Option<&'a str>,
    pub(super) faults: Vec<Fault>,
    pub(super) time_limit: Duration,
    pub(super) load: LoadShape,
    pub(super) seed: Option<u64>,
    pub(super) count: u32,
    pub(super) store: &'a Path,
}

/// Makes the runs, and stops at the first one that is not valid.
pub(super) fn test_file(
    args: &FileRun<'_>,
    runtime: &Runtime,
    interrupt: &watch::Receiver<bool>,
) -> Result<Exit, Failure> {
    let spec = Arc::new(SystemSpec::load(args.file).map_err(Failure::arguments)?);
    let workload = workloads::find(args.workload).ok_or_else(|| {
        let names = workloads::names();
        Failure::arguments(anyhow!(
            "--workload: there is no workload '{}'; the workloads are {names}",
            args.workload
        ))
    })?;
    let claim = claim(args, &spec)?;
    for fault in &args.faults {
        if spec.excluded.contains(&fault.action) {
            return Err(Failure::arguments(anyhow!(
                "--faults {fault}: {} says that the system does not stand {}",
                args.file.display(),
                fault.action.name()
            )));
        }
    }
    fs::create_dir_all(args.store)
        .with_context(|| format!("--store {}", args.store.display()))
        .map_err(Failure::arguments)?;
    let first_seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let mut last = None;
    for (seed, number) in run_seeds(first_seed, args.count).zip(1..) {
        let started = Instant::now();
        if args.count == 1 {
            eprintln!("Seed {seed}. To repeat this run: {}", args.command(seed));
        }
        let made = make(args, &spec, workload, claim, seed, interrupt);
        let CompletedRun { directory, interrupted } = runtime.block_on(made)?;
        let checked = {
            let _line = commands::progress::checking_run(&directory);
            commands::check_workload_run(&directory, &Limits::default())
        };
        let checked = checked.map_err(Failure::harness)?;
        let (tally, verdict) = (Tally::of(&checked.events), checked.results.verdict);
        if args.count > 1 {
            writeln!(
                stdout(),
                "run {number} of {}: {verdict}, seed {seed}, {:.1} s, {} operations, {} injections, {}",
                args.count,
                started.elapsed().as_secs_f64(),
                tally.invoked(),
                tally.injections(),
                directory.display()
            )?;
        }
        if verdict != Validity::Valid || args.count == 1 {
            let mut out = stdout();
            write!(out, "{tally}")?;
            writeln!(out, "Judged: {} of the workload {}", claim, workload.name())?;
            commands::print_results(&checked.results, &directory, &mut out)?;
            return Ok(verdict.into());
        }
        last = Some(directory);
        if interrupted {
            break;
        }
    }
    if let Some(directory) = last {
        writeln!(stdout(), "valid: {}", directory.display())?;
    }
    Ok(Exit::Valid)
}

/// The level that is judged: what the option says, or else what the file claims.
fn claim(args: &FileRun<'_>, spec: &SystemSpec) -> Result<Level, Failure> {
    match args.claim {
        Some(name) => Level::of(name, args.workload)
            .map_err(|why| Failure::arguments(anyhow!("--claim: {why}"))),
        None => Ok(spec.claims.get(args.workload).copied().unwrap_or(Level::Durable)),
    }
}

/// Makes one run.
async fn make(
    args: &FileRun<'_>,
    spec: &Arc<SystemSpec>,
    workload: &dyn Workload,
    claim: Level,
    seed: u64,
    interrupt: &watch::Receiver<bool>,
) -> Result<CompletedRun, Failure> {
    let task = Task { workload, claim: claim.name().to_owned(), seed, keeper: own_program()? };
    // What fails here is in the file or in the system, not in the harness.
    let deployment = Deployment::set_up(spec.clone(), &task).await.map_err(Failure::arguments)?;
    let progress = Arc::new(Progress::new(args.time_limit));
    let mut options = workload.options();
    options.insert("version".to_owned(), json!(deployment.version()));
    options.insert("system_file".to_owned(), json!(spec.path));
    options.insert("time_limit_ms".to_owned(), json!(args.time_limit.as_millis() as u64));
    options.insert("keys".to_owned(), json!(args.load.keys));
    options.insert("rate".to_owned(), json!(args.load.rate));
    let settings = RunSettings {
        seed,
        time_limit: args.time_limit,
        load: args.load,
        timeouts: ClientTimeouts { write: Duration::from_secs(1), get: Duration::from_secs(1) },
        description: RunDescription {
            system: Some(spec.name.clone()),
            command: Some(args.command(seed)),
            claim: Some(claim.name().to_owned()),
            options,
            ..RunDescription::default()
        },
        interrupt: interrupt.clone(),
        progress: progress.clone(),
        ..RunSettings::new(&spec.name, args.store)
    };
    let run = lab::run(Arc::new(deployment), workload, &args.faults, &settings).await;
    progress.finish();
    run.map_err(|error| match error {
        lab::RunError::NoSuchNode { .. } => Failure::arguments(anyhow!("--faults: {error}")),
        lab::RunError::NotReady { .. } | lab::RunError::SetUp(_) => Failure::arguments(error),
        other => Failure::harness(other),
    })
}

impl FileRun<'_> {
    /// The command that repeats a run.
    fn command(&self, seed: u64) -> String {
        let mut command =
            format!("harness --system {} --workload {}", self.file.display(), self.workload);
        let faults: Vec<&str> = self.faults.iter().map(Fault::name).collect();
        if !faults.is_empty() {
            command += &format!(" --faults '{}'", faults.join(","));
        }
        if let Some(claim) = self.claim {
            command += &format!(" --claim {claim}");
        }
        let LoadShape { concurrency, keys, rate } = self.load;
        let time = duration_text(self.time_limit);
        command
            + &format!(
                " --time-limit {time} --concurrency {concurrency} --keys {keys} --rate {rate} --seed {seed}"
            )
    }
}
