//! The command `test`: makes runs, judges each, and prints the results.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use checker::{Limits, Results, Validity};
use clap::{Args, builder::RangedU64ValueParser};
use lab::{
    disk,
    duration::parse_duration,
    fault::{Fault, parse_faults},
    seeds::run_seeds,
    signals::follow_signals,
    workload::Mix,
    workloads::LoadShape,
};
use report::summary::Tally;
use tokio::{runtime::Runtime, sync::watch};
use twopc::{
    CommitMode, Mutation, Timings, checks,
    commands::{
        blocking::{BlockingArgs, blocking},
        run_with_progress,
    },
    deployment::find_programs,
    faults::{FaultName, Faults},
    matrix::{Coverage, Shard},
    page,
    run::{CompletedRun, RunOptions},
};

use super::{
    Exit, Failure,
    described::{self, FileRun, SystemCommand},
    require_effect, stdout,
};
use crate::commands::{self, progress};

/// The options of a test run.
#[derive(Clone, Debug, Args)]
pub(super) struct TestArgs {
    /// Faults to inject: none, all, or a comma-separated list (see below).
    #[arg(long, value_name = "A,B", default_value = "none")]
    faults: FaultsArg,

    /// Duration of the load, for example 20s, 500ms or 2m.
    #[arg(long, visible_alias = "time", value_name = "TIME", default_value = "20s", value_parser = parse_duration)]
    time_limit: Duration,

    /// Number of concurrent clients.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=10_000))]
    concurrency: u32,

    /// Operations per second of all clients together; 0 for as fast as answers arrive.
    #[arg(long, value_name = "N", default_value_t = 0.0, value_parser = parse_rate)]
    rate: f64,

    /// Number of keys.
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000_000))]
    keys: u32,

    /// Number of replicas.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = RangedU64ValueParser::<u8>::new().range(1..=32))]
    replicas: u8,

    /// What makes a commit: logged (a record in the master's log) or votes (a yes vote of every
    /// replica).
    #[arg(long, value_name = "MODE", default_value_t)]
    commit: CommitMode,

    /// Share of each operation, as weights.
    #[arg(long, value_name = "WEIGHTS", default_value_t = Mix::default())]
    mix: Mix,

    /// Seed of all random choices: the requests, and the faults with their targets and times. If it
    /// is not given, a random seed is used and printed. The seed does not determine the scheduling
    /// of the operating system.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Make N runs with seeds derived from the first, and stop at the first run that is not valid.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = RangedU64ValueParser::<u32>::new().range(1..))]
    test_count: u32,

    /// Cover the K-th of N shards of the crash matrix. With --test-count N and without this option,
    /// each run covers its own shard, and the coverage of all runs is printed at the end.
    #[arg(long, alias = "part", value_name = "K/N")]
    shard: Option<Shard>,

    /// Directory for run records.
    #[arg(long, value_name = "DIR", default_value = "histories")]
    store: PathBuf,

    /// System under test: twopc, the store of this repository, or the path of a file that describes
    /// another one (see below).
    #[arg(long, value_name = "NAME|FILE", default_value = "twopc", value_parser = parse_system)]
    system: String,

    /// What the clients of a described system do: register, cas-register, set, counter, queue, log, bank
    /// or lock.
    #[arg(long, value_name = "NAME", default_value = "register")]
    workload: String,

    /// Judge a described system by this level instead of the one that its file claims, for example
    /// linearizable or none.
    #[arg(long, value_name = "LEVEL")]
    claim: Option<String>,

    /// Run the programs `master` and `replica` in this directory instead of the nodes that are built
    /// into the harness.
    #[arg(long, value_name = "DIR", value_parser = find_programs)]
    system_bin: Option<PathBuf>,

    /// Switch off a rule of the protocol, or syncs of the store (store-syncs, store-meta-syncs), to
    /// see which check detects it. May be repeated.
    #[arg(long = "break", value_name = "RULE")]
    mutations: Vec<Mutation>,

    /// End the run as soon as the history cannot become linearizable any more. Without this option,
    /// the run continues and the summary states when that happened.
    #[arg(long)]
    fail_fast: bool,

    /// Timing parameters of the nodes, as in their configuration file, for example
    /// inquiry_timeout_ms=100,peer_inquiry_after=1.
    #[arg(long = "timing", value_name = "NAME=N,...", default_value_t = Timings::default())]
    timings: Timings,

    /// Route messages between the nodes through relays even if no fault needs them, to measure the
    /// cost.
    #[arg(long)]
    relay: bool,

    /// Record unknown outcomes as failures: a defect of the harness, which the checks must find.
    #[arg(long, alias = "lie", hide = true)]
    misreport_unknown: bool,
}

/// The faults of a run, of our own store or of any system: which of the two is known once the system is.
#[derive(Clone, Debug)]
struct FaultsArg {
    ours: Result<Faults, String>,
    any: Result<Vec<Fault>, String>,
}

impl FromStr for FaultsArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ours, any) = (text.parse::<Faults>(), parse_faults(text));
        match (&ours, &any) {
            (Err(why), Err(other)) => Err(match text.contains([':', '@']) {
                true => other.clone(),
                false => why.clone(),
            }),
            _ => Ok(FaultsArg { ours, any }),
        }
    }
}

/// Whether a system is described by a file.
fn is_file(system: &str) -> bool {
    system.ends_with(".toml") || system.contains('/')
}

fn parse_system(text: &str) -> Result<String, String> {
    if text == "twopc" || is_file(text) {
        return Ok(text.to_owned());
    }
    Err("expected twopc, or the path of a system file such as ./mykv.toml".to_owned())
}

fn parse_rate(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0).ok_or_else(|| {
        format!("'{text}' is not a rate: expected a number of operations per second, at least 0")
    })
}

impl TestArgs {
    fn options(&self, faults: &Faults, disks: bool, shard: Shard, seed: u64) -> RunOptions {
        RunOptions {
            faults: faults.clone(),
            time_limit: self.time_limit,
            concurrency: self.concurrency,
            rate: self.rate,
            keys: self.keys,
            replicas: self.replicas,
            commit: self.commit,
            mix: self.mix,
            seed,
            store: self.store.clone(),
            system: self.system.clone(),
            system_bin: self.system_bin.clone(),
            mutations: self.mutations.clone(),
            disks,
            shard,
            fail_fast: self.fail_fast,
            timings: self.timings.clone(),
            relay: self.relay,
            misreport_unknown: self.misreport_unknown,
            schedule: None,
            script: None,
        }
    }
}

/// Makes the runs, and stops at the first one that is not valid.
pub(super) fn test(args: &TestArgs) -> Result<Exit, Failure> {
    if is_file(&args.system) {
        return test_described(args);
    }
    let asked = args.faults.ours.clone();
    let asked = asked.map_err(|why| Failure::arguments(anyhow::anyhow!("--faults: {why}")))?;
    fs::create_dir_all(&args.store)
        .with_context(|| format!("--store {}", args.store.display()))
        .map_err(Failure::arguments)?;
    args.validate(&asked)?;
    let matrix = asked.names().contains(&FaultName::CrashMatrix);
    let (faults, disks) = with_disks(&asked)?;
    let (runtime, interrupt) = runtime()?;
    let first_seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let many = args.test_count > 1;
    let mut last = None;
    let mut coverage = Coverage::default();
    for (seed, number) in run_seeds(first_seed, args.test_count).zip(1..) {
        let shard = match args.shard {
            Some(shard) => shard,
            None if matrix => Shard { number, of: args.test_count },
            None => Shard::WHOLE,
        };
        let options = args.options(&faults, disks, shard, seed);
        let started = Instant::now();
        if !many {
            eprintln!("Seed {seed}. To repeat this run: {}", options.command());
        }
        let run = runtime
            .block_on(run_with_progress(&options, interrupt.clone()))
            .map_err(Failure::harness)?;
        let run = judge(run)?;
        if many {
            print_line(&run, number, args.test_count, seed, started.elapsed())?;
        }
        if run.results.verdict != Validity::Valid || !many {
            let mut out = stdout();
            write!(out, "{}", run.tally)?;
            commands::print_results(&run.results, &run.completed.directory, &mut out)?;
            return Ok(run.results.verdict.into());
        }
        coverage.merge(run.coverage.clone());
        let interrupted = run.completed.interrupted;
        last = Some(run);
        if interrupted {
            break;
        }
    }
    if !coverage.is_empty() {
        write!(stdout(), "{coverage}")?;
    }
    if let Some(run) = last {
        let directory = run.completed.directory.display();
        writeln!(stdout(), "{}: {directory}", run.results.verdict)?;
    }
    Ok(Exit::Valid)
}

/// Makes the runs of a system that a file describes.
fn test_described(args: &TestArgs) -> Result<Exit, Failure> {
    let faults = args.faults.any.clone();
    let faults = faults.map_err(|why| {
        Failure::arguments(anyhow::anyhow!("--faults: {why}; other faults are those of twopc"))
    })?;
    if !args.mutations.is_empty() || args.shard.is_some() || args.system_bin.is_some() || args.relay
    {
        return Err(Failure::arguments(anyhow::anyhow!(
            "--break, --shard, --system-bin and --relay are for the system twopc"
        )));
    }
    let (runtime, interrupt) = runtime()?;
    let (concurrency, keys, rate) = (args.concurrency, args.keys, args.rate);
    let run = FileRun {
        file: args.system.as_ref(),
        workload: &args.workload,
        claim: args.claim.as_deref(),
        faults,
        time_limit: args.time_limit,
        load: LoadShape { concurrency, keys, rate },
        seed: args.seed,
        count: args.test_count,
        store: &args.store,
    };
    described::test_file(&run, &runtime, &interrupt)
}

/// The command `system`.
pub(super) fn system_command(command: &SystemCommand) -> Result<Exit, Failure> {
    let (runtime, _) = runtime()?;
    described::system_command(command, &runtime)
}

impl TestArgs {
    /// Rejects combinations of options that make no sense.
    fn validate(&self, faults: &Faults) -> Result<(), Failure> {
        if self.workload != "register" || self.claim.is_some() {
            return Err(Failure::arguments(anyhow::anyhow!(
                "--workload and --claim are for systems that a file describes: --system FILE"
            )));
        }
        let skips_syncs =
            self.mutations.iter().any(|mutation| matches!(mutation, Mutation::SyncMode(_)));
        if self.system_bin.is_some() && skips_syncs {
            return Err(Failure::arguments(anyhow::anyhow!(
                "--system-bin: the system's programs cannot skip syncs; leave out --system-bin"
            )));
        }
        let rules = self.mutations.iter().filter_map(|mutation| match mutation {
            Mutation::Rule(rule) => Some(*rule),
            Mutation::SyncMode(_) => None,
        });
        require_effect(&rules.collect::<Vec<_>>(), &[self.commit])?;
        if self.shard.is_some() && !faults.names().contains(&FaultName::CrashMatrix) {
            return Err(Failure::arguments(anyhow::anyhow!(
                "--shard: only the crash matrix has shards; add crash-matrix to --faults, or leave \
                 out --shard"
            )));
        }
        Ok(())
    }
}

/// Prints the result of one run of many.
fn print_line(
    run: &JudgedRun,
    number: u32,
    count: u32,
    seed: u64,
    elapsed: Duration,
) -> io::Result<()> {
    let JudgedRun { completed, tally, results, .. } = run;
    writeln!(
        stdout(),
        "run {number} of {count}: {}, seed {seed}, {:.1} s, {} operations, {} injections, {}, {}",
        results.verdict,
        elapsed.as_secs_f64(),
        tally.invoked(),
        tally.injections(),
        tally.recovery(),
        completed.directory.display()
    )
}

/// The command `blocking`.
pub(super) fn blocking_test(args: &BlockingArgs) -> Result<Exit, Failure> {
    let (runtime, interrupt) = runtime()?;
    match runtime.block_on(blocking(args, interrupt, &mut stdout())) {
        Ok(verdict) => Ok(verdict.into()),
        Err(error) => Err(Failure::harness(error)),
    }
}

/// The runtime for runs, and a flag that turns true at the first termination signal.
fn runtime() -> Result<(Runtime, watch::Receiver<bool>), Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
            Failure::harness(anyhow::Error::new(error).context("cannot start a runtime"))
        })?;
    let interrupt = runtime.block_on(async { follow_signals() }).map_err(|error| {
        Failure::harness(anyhow::Error::new(error).context("cannot handle signals"))
    })?;
    Ok((runtime, interrupt))
}

/// The faults that are possible on this machine, and whether the disks can lose power. Without such
/// disks, a power loss that was asked for by name is an error. If it was only a part of `all`, it is
/// left out with a warning.
fn with_disks(faults: &Faults) -> Result<(Faults, bool), Failure> {
    if !faults.use_disks() {
        return Ok((faults.clone(), false));
    }
    let Err(error) = disk::available() else {
        return Ok((faults.clone(), true));
    };
    let why = format!("it mounts file systems, which needs root and /dev/fuse ({error})");
    if faults.require_disks() {
        let refusal = anyhow::anyhow!(
            "power-loss is not possible here: {why}; every other fault works without it"
        );
        return Err(Failure::arguments(refusal));
    }
    eprintln!("harness: warning: running without power-loss: {why}");
    Ok((faults.clone().without_disks(), false))
}

/// A run and the results of its checks.
struct JudgedRun {
    completed: CompletedRun,
    tally: Tally,
    coverage: Coverage,
    results: Results,
}

/// Judges a run that was just made, and writes its report.
fn judge(completed: CompletedRun) -> Result<JudgedRun, Failure> {
    let judging = progress::checking_run(&completed.directory);
    // A record that this harness has just written and cannot read is a failure of the harness.
    let (record, results) =
        checks::check_run(&completed.directory, &Limits::default()).map_err(Failure::harness)?;
    page::write(&completed.directory, &record, &results).map_err(Failure::harness)?;
    drop(judging);
    let (tally, coverage) = (page::summary(&record.events), page::coverage(&record.events));
    Ok(JudgedRun { completed, tally, coverage, results })
}
