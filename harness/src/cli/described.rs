//! Runs of a system that a file describes or that is built in, and the command `system`.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use checker::{Limits, levels::Level};
use clap::{Args, Subcommand, ValueEnum};
use history::RunDescription;
use lab::{
    CompletedRun, RunSettings,
    clock::{self, ClockError},
    disk::{self, NameDurability},
    duration::{duration_text, parse_duration},
    fault::Fault,
    nemesis::INTERVAL,
    network::{self, Network, NetworkError},
    worker::ClientTimeouts,
    workloads::{self, LoadShape, Workload},
};
use report::summary::Tally;
use serde_json::json;
use system_file::{
    SystemSpec,
    overhead::{self, Overhead},
    scaffold,
    spec::Netns,
    trial,
};
use tokio::{runtime::Runtime, sync::watch};
use twopc::commands::Progress;

use super::{
    Exit, Failure,
    output::{Output, OutputArgs, Told},
    shards::{Done, Part},
    stdout,
    subject::{MissingProgram, Subject},
    test::{NotPossibleHere, planned, planned_count},
};
use crate::commands::{self, CheckedRun};

/// The command `system`.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum SystemCommand {
    /// Check a system file: start its nodes, and ask its client for each operation once.
    Check {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Measure what the harness itself costs an operation, with clients that answer at once.
    Bench(BenchArgs),
    /// Write a commented system file and a client in Python to begin with.
    New(NewArgs),
}

/// Arguments of `system bench`.
#[derive(Clone, Debug, Args)]
pub(super) struct BenchArgs {
    /// How long each client sends requests.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    time_limit: Duration,
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
        SystemCommand::Bench(BenchArgs { time_limit }) => {
            let keeper = own_program()?;
            let measured = runtime.block_on(async {
                let builtin = overhead::of_builtin(&keeper, *time_limit).await?;
                Ok::<_, String>((builtin, overhead::of_child(&keeper, *time_limit).await?))
            });
            let (builtin, child) =
                measured.map_err(|why| Failure::harness(anyhow!("the bench: {why}")))?;
            print_overhead("10 clients in this process", &builtin, 20_000.0, None)?;
            print_overhead("1 client in Python, JSON lines", &child, 5_000.0, Some(50.0))?;
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

/// Prints what was measured of a client beside the aims.
fn print_overhead(
    client: &str,
    overhead: &Overhead,
    rate_min: f64,
    cpu_us_max: Option<f64>,
) -> Result<(), Failure> {
    let Overhead { operations_per_second, cpu_us } = *overhead;
    let is_met = operations_per_second >= rate_min && cpu_us_max.is_none_or(|most| cpu_us <= most);
    let most = cpu_us_max.map_or(String::new(), |most| format!(", at most {most:.0} us"));
    writeln!(
        stdout(),
        "{client}: {operations_per_second:.0} operations/s, {cpu_us:.1} us of CPU of the harness an \
         operation (aim: at least {rate_min:.0}/s{most}){}",
        if is_met { "" } else { ": short of the aim" }
    )?;
    Ok(())
}

/// This program, which is also the keeper of nodes.
pub(super) fn own_program() -> Result<PathBuf, Failure> {
    env::current_exe().context("the path of this program is not known").map_err(Failure::harness)
}

/// The options of runs of a system other than twopc.
pub(super) struct SubjectRun<'a> {
    /// The system.
    pub(super) subject: Subject,
    /// The name of the workload.
    pub(super) workload: &'a str,
    /// The level that is judged instead of the one that the system claims.
    pub(super) claim: Option<&'a str>,
    pub(super) faults: Vec<Fault>,
    /// Where the nodes run. `None`: where the faults and the system need it.
    pub(super) lab: Option<LabKind>,
    pub(super) time_limit: Duration,
    pub(super) load: LoadShape,
    /// The longest time in which the system is left alone before a fault.
    pub(super) interval: Duration,
    /// When names of files become durable on the nodes' disks.
    pub(super) disk: NameDurability,
    pub(super) seed: Option<u64>,
    pub(super) count: u32,
    /// The part of the load whose packets are kept.
    pub(super) capture: Option<(Duration, Duration)>,
    /// How large a record may become.
    pub(super) max_bytes: Option<u64>,
    /// Whether keys and values are replaced by digests in what is kept.
    pub(super) redact: bool,
    pub(super) output: &'a OutputArgs,
    pub(super) store: &'a Path,
}

/// Where nodes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LabKind {
    /// At loopback addresses of this machine.
    Local,
    /// In a virtual network, in which the harness is the switch.
    Netns,
}

/// What is run and judged.
pub(super) struct Prepared {
    workload: &'static dyn Workload,
    lab: LabKind,
    /// The level that is judged.
    pub(super) claim: Level,
}

/// A run and the results of its checks.
pub(super) struct JudgedRun {
    pub(super) directory: PathBuf,
    pub(super) interrupted: bool,
    /// What the system says of its version.
    pub(super) version: Option<String>,
    pub(super) checked: CheckedRun,
}

/// A fault needs disks that this machine does not let the harness serve.
#[derive(Debug, thiserror::Error)]
#[error("--faults {fault}: it mounts file systems, which needs root and /dev/fuse ({why})")]
struct NoDisks {
    fault: String,
    why: String,
}

/// Whether an error says that this machine lacks something that a run needs: a program, disks, or a network.
pub(super) fn is_not_possible_here(error: &anyhow::Error) -> bool {
    error.is::<MissingProgram>()
        || error.is::<NoDisks>()
        || error.is::<NetworkError>()
        || error.is::<ClockError>()
        || error.is::<NotPossibleHere>()
}

/// Makes the runs, or those of a shard, until one of them ends the command.
pub(super) fn test_subject(
    args: &SubjectRun<'_>,
    part: Option<&Part>,
    runtime: &Runtime,
    interrupt: &watch::Receiver<bool>,
) -> Result<Done, Failure> {
    let prepared = args.prepare()?;
    let first_seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let mut output = Output::new(args.output, planned_count(part, args.count));
    let mut last = None;
    let mut is_interrupted = false;
    for (_, seed) in planned(part, first_seed, args.count) {
        let started = Instant::now();
        let command = args.command(seed);
        output.begins(seed, &command);
        let JudgedRun { directory, interrupted, checked, .. } =
            args.judge(&prepared, seed, runtime, interrupt)?;
        let workload = prepared.workload.name();
        output.run(&Told {
            directory: &directory,
            seed,
            command,
            elapsed: started.elapsed(),
            tally: &Tally::of(&checked.events),
            claim: Some(format!("Judged: {} of the workload {workload}", prepared.claim)),
            remark: None,
            results: &checked.results,
        })?;
        is_interrupted = interrupted;
        last = Some(directory);
        if output.is_over(checked.results.verdict, interrupted, part) {
            break;
        }
    }
    output.finish(last.as_deref(), "", is_interrupted)
}

impl SubjectRun<'_> {
    /// Checks the options before anything is started.
    pub(super) fn prepare(&self) -> Result<Prepared, Failure> {
        let workload = workloads::find(self.workload).ok_or_else(|| {
            let names = workloads::names();
            Failure::arguments(anyhow!(
                "--workload: there is no workload '{}'; the workloads are {names}",
                self.workload
            ))
        })?;
        let claim = claim(self)?;
        for fault in &self.faults {
            let why = fault.parts().find_map(|(action, _)| self.subject.excluded(action));
            if let Some(why) = why {
                return Err(Failure::arguments(anyhow!("--faults {fault}: {why}")));
            }
        }
        if let Some(fault) = self.faults.iter().find(|fault| fault.needs_disk()) {
            disk::available()
                .map_err(|why| Failure::arguments(NoDisks { fault: fault.to_string(), why }))?;
        }
        if let Some(fault) = self.faults.iter().find(|fault| fault.needs_clock()) {
            clock::available(&own_program()?).map_err(|error| {
                Failure::arguments(anyhow::Error::new(error).context(format!("--faults {fault}")))
            })?;
        }
        fs::create_dir_all(self.store)
            .with_context(|| format!("--store {}", self.store.display()))
            .map_err(Failure::arguments)?;
        Ok(Prepared { workload, claim, lab: self.lab()? })
    }

    /// Where the nodes run, which must be possible.
    fn lab(&self) -> Result<LabKind, Failure> {
        let fault = self.faults.iter().find(|fault| fault.needs_network()).map(Fault::name);
        let fault = fault.or(self.capture.map(|_| "--pcap"));
        let netns = self.subject.netns();
        match (self.lab, fault, netns) {
            (Some(LabKind::Local), Some(what), _) => {
                return Err(Failure::arguments(anyhow!(
                    "--lab local: {what} needs the virtual network; leave the option out, or say --lab netns"
                )));
            }
            (Some(LabKind::Local), None, Netns::Required) => {
                return Err(Failure::arguments(anyhow!(
                    "--lab local: the system file says netns = \"required\""
                )));
            }
            (Some(LabKind::Local), None, _) | (None, None, Netns::Optional) => {
                return Ok(LabKind::Local);
            }
            (Some(LabKind::Netns) | None, ..) => {}
        }
        match network::available(&own_program()?) {
            Ok(()) => Ok(LabKind::Netns),
            // Here it is only better to have one.
            Err(_) if self.lab.is_none() && fault.is_none() && netns == Netns::Best => {
                Ok(LabKind::Local)
            }
            Err(error) => Err(Failure::arguments(error)),
        }
    }

    /// Makes one run, checks it, and writes its page.
    pub(super) fn judge(
        &self,
        prepared: &Prepared,
        seed: u64,
        runtime: &Runtime,
        interrupt: &watch::Receiver<bool>,
    ) -> Result<JudgedRun, Failure> {
        let made = make(self, prepared, seed, interrupt);
        let (CompletedRun { directory, interrupted }, version) = runtime.block_on(made)?;
        let checked = {
            let _line = commands::progress::checking_run(&directory);
            commands::check_workload_run(&directory, &Limits::default())
        };
        let checked = checked.map_err(Failure::harness)?;
        Ok(JudgedRun { directory, interrupted, version, checked })
    }
}

/// The level that is judged: what the option says, or else what the system claims.
fn claim(args: &SubjectRun<'_>) -> Result<Level, Failure> {
    match args.claim {
        Some(name) => Level::of(name, args.workload)
            .map_err(|why| Failure::arguments(anyhow!("--claim: {why}"))),
        None => args.subject.claim(args.workload).map_err(|why| Failure::arguments(anyhow!(why))),
    }
}

/// Makes one run. Returns it, and the version of the system.
async fn make(
    args: &SubjectRun<'_>,
    &Prepared { workload, claim, lab }: &Prepared,
    seed: u64,
    interrupt: &watch::Receiver<bool>,
) -> Result<(CompletedRun, Option<String>), Failure> {
    let keeper = own_program()?;
    let network = match lab {
        LabKind::Local => None,
        LabKind::Netns => {
            let (nodes, clients) = (args.subject.nodes(), args.load.concurrency);
            let network = Network::start(&keeper, &nodes, clients, seed);
            Some(Arc::new(network.map_err(Failure::arguments)?))
        }
    };
    let deployed = args.subject.deploy(workload, claim, seed, (keeper, network)).await?;
    let progress = Arc::new(Progress::new(args.time_limit));
    let mut options = workload.options();
    options.extend(args.subject.options());
    options.insert("version".to_owned(), json!(deployed.version));
    options.insert("time_limit_ms".to_owned(), json!(args.time_limit.as_millis() as u64));
    options.insert("keys".to_owned(), json!(args.load.keys));
    options.insert("rate".to_owned(), json!(args.load.rate));
    if lab == LabKind::Netns {
        options.insert("lab".to_owned(), json!("netns"));
    }
    if args.redact {
        options.insert("redacted".to_owned(), json!(true));
    }
    if args.uses_disks() {
        options.insert("disk".to_owned(), json!(args.disk.name()));
    }
    let settings = RunSettings {
        seed,
        time_limit: args.time_limit,
        load: args.load,
        interval: args.interval,
        disk: args.disk,
        capture: args.capture,
        max_bytes: args.max_bytes,
        redact: args.redact,
        timeouts: ClientTimeouts { write: Duration::from_secs(1), get: Duration::from_secs(1) },
        description: RunDescription {
            system: Some(args.subject.name().to_owned()),
            command: Some(args.command(seed)),
            claim: Some(claim.name()),
            options,
            ..RunDescription::default()
        },
        interrupt: interrupt.clone(),
        progress: progress.clone(),
        ..RunSettings::new(args.subject.name(), args.store)
    };
    let run = lab::run(deployed.system, workload, &args.faults, &settings).await;
    progress.finish();
    run.map(|run| (run, deployed.version)).map_err(|error| match error {
        lab::RunError::NoSuchNode { .. } => Failure::arguments(anyhow!("--faults: {error}")),
        lab::RunError::NotReady { .. } | lab::RunError::SetUp(_) => Failure::arguments(error),
        other => Failure::harness(other),
    })
}

impl SubjectRun<'_> {
    fn uses_disks(&self) -> bool {
        self.faults.iter().any(Fault::needs_disk)
    }

    /// The command that repeats a run.
    pub(super) fn command(&self, seed: u64) -> String {
        let mut command =
            format!("harness {} --workload {}", self.subject.arguments(), self.workload);
        let faults: Vec<&str> = self.faults.iter().map(Fault::name).collect();
        if !faults.is_empty() {
            command += &format!(" --faults '{}'", faults.join(","));
        }
        if let Some(claim) = self.claim {
            command += &format!(" --claim {claim}");
        }
        if self.uses_disks() {
            command += &format!(" --disk {}", self.disk.name());
        }
        match self.lab {
            Some(LabKind::Netns) => command += " --lab netns",
            Some(LabKind::Local) => command += " --lab local",
            None => {}
        }
        if let Some((from, to)) = self.capture {
            command += &format!(" --pcap {}..{}", duration_text(from), duration_text(to));
        }
        if let Some(bytes) = self.max_bytes {
            command += &format!(" --max-run-bytes {bytes}");
        }
        if self.redact {
            command += " --redact";
        }
        if self.interval != INTERVAL {
            command += &format!(" --fault-interval {}", duration_text(self.interval));
        }
        let LoadShape { concurrency, keys, rate, reads } = self.load;
        if reads != LoadShape::default().reads {
            command += &format!(" --mix get={reads},put={}", 100 - reads);
        }
        let time = duration_text(self.time_limit);
        command
            + &format!(
                " --time-limit {time} --concurrency {concurrency} --keys {keys} --rate {rate} --seed {seed}"
            )
    }
}
