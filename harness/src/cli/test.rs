//! The command `test`: makes runs, judges each, and says what came of them.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Args, builder::RangedU64ValueParser};
use system::protocol::CommitMode;
use tokio::{runtime::Runtime, sync::watch};

use super::{Exit, Problem, with_rules};
use crate::{
    blocking::{BlockingArgs, blocking},
    checker::{Results, Validity, command, linearizability::Limits, progress},
    disk,
    generator::{Mix, run_seeds},
    nemesis::{
        FaultName, Faults,
        matrix::{Coverage, Part},
    },
    report::summary::Tally,
    report_twopc,
    runner::{self, Made, RunOptions, follow_signals, parse_duration},
    systems::{Break, Timings, twopc::find_programs},
};

/// The options of a test run.
#[derive(Clone, Debug, Args)]
pub(super) struct TestArgs {
    /// What to do to the system: none, all, or names with commas between (see below).
    #[arg(long, value_name = "A,B", default_value = "none")]
    faults: Faults,

    /// How long clients ask and faults strike: 20s, 500ms, 2m.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parse_duration)]
    time_limit: Duration,

    /// How many clients ask at a time.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=10_000))]
    concurrency: u32,

    /// Operations a second of all clients together; 0 for as fast as answers come.
    #[arg(long, value_name = "N", default_value_t = 0.0, value_parser = parse_rate)]
    rate: f64,

    /// How many keys there are.
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000_000))]
    keys: u32,

    /// How many replicas the system has.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = RangedU64ValueParser::<u8>::new().range(1..=32))]
    replicas: u8,

    /// What makes a commit: logged (it is in the master's log) or votes (all replicas have voted).
    #[arg(long, value_name = "MODE", default_value_t)]
    commit: CommitMode,

    /// How often each operation is asked, as weights.
    #[arg(long, value_name = "WEIGHTS", default_value_t = Mix::default())]
    mix: Mix,

    /// What all random choices come from: what is asked, what is struck, when and how. Drawn at
    /// random and told if it is not given. The timing of the machine stays its own.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// So many runs, with seeds that follow from the first; ends at the first that is not valid.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = RangedU64ValueParser::<u32>::new().range(1..))]
    test_count: u32,

    /// Do the K-th of N parts of the crash matrix. With --test-count N every run does its own
    /// part if none is given, and what all of them reached is told at the end.
    #[arg(long, value_name = "K/N")]
    part: Option<Part>,

    /// Where runs are kept.
    #[arg(long, value_name = "DIR", default_value = "histories")]
    store: PathBuf,

    /// The system under test.
    #[arg(long, value_name = "NAME", default_value = "twopc", value_parser = ["twopc"])]
    system: String,

    /// Run the programs `master` and `replica` of this directory instead of the nodes that are
    /// built into the harness.
    #[arg(long, value_name = "DIR", value_parser = find_programs)]
    system_bin: Option<PathBuf>,

    /// Switch off a rule of the protocol, or the syncs of the store (store-syncs,
    /// store-meta-syncs), to see who notices. May be given more than once.
    #[arg(long = "break", value_name = "RULE")]
    broken: Vec<Break>,

    /// End the run as soon as what clients saw cannot become right any more. Without this the run
    /// goes on, and it is told when that was.
    #[arg(long)]
    fail_fast: bool,

    /// Other periods for the nodes, as in their configuration: inquiry_timeout_ms=100,peer_inquiry_after=1.
    #[arg(long, value_name = "NAME=N,...", default_value_t = Timings::default())]
    timing: Timings,

    /// Let the messages between the nodes pass through the harness though no fault asks for it, to
    /// see what that costs.
    #[arg(long)]
    relay: bool,

    /// Record unknown outcomes as failures: a harness that lies, which the checks must find out.
    #[arg(long, hide = true)]
    lie: bool,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate: &f64| rate.is_finite() && *rate >= 0.0)
        .ok_or_else(|| format!("'{text}' is no rate: want a number of operations a second, from 0"))
}

impl TestArgs {
    fn options(&self, faults: &Faults, disks: bool, part: Part, seed: u64) -> RunOptions {
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
            broken: self.broken.clone(),
            disks,
            part,
            fail_fast: self.fail_fast,
            timing: self.timing.clone(),
            relay: self.relay,
            lie: self.lie,
            schedule: None,
            script: None,
        }
    }
}

/// Makes the runs that were asked for. Ends at the first that is not valid.
pub(super) fn test(args: &TestArgs) -> Result<Exit, Problem> {
    fs::create_dir_all(&args.store)
        .with_context(|| format!("--store {}", args.store.display()))
        .map_err(Problem::arguments)?;
    if args.system_bin.is_some() && args.broken.iter().any(|it| matches!(it, Break::SyncMode(_))) {
        return Err(Problem::arguments(anyhow::anyhow!(
            "--system-bin: no program of the system can be told to skip its syncs; leave it out"
        )));
    }
    let rules = args.broken.iter().filter_map(|broken| match broken {
        Break::Rule(rule) => Some(*rule),
        Break::SyncMode(_) => None,
    });
    with_rules(&rules.collect::<Vec<_>>(), &[args.commit])?;
    let matrix = args.faults.names().contains(&FaultName::CrashMatrix);
    if args.part.is_some() && !matrix {
        return Err(Problem::arguments(anyhow::anyhow!(
            "--part: it is the crash matrix that has parts; add crash-matrix to --faults, or leave \
             --part out"
        )));
    }
    let (faults, disks) = with_disks(&args.faults)?;
    let (runtime, interrupt) = runtime()?;
    let first_seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let mut last = None;
    let mut coverage = Coverage::default();
    for (seed, number) in run_seeds(first_seed, args.test_count).zip(1..) {
        let part = match args.part {
            Some(part) => part,
            None if matrix => Part { number, of: args.test_count },
            None => Part::WHOLE,
        };
        let options = args.options(&faults, disks, part, seed);
        let started = Instant::now();
        let many = args.test_count > 1;
        if !many {
            eprintln!("Seed {seed}. {}", options.command());
        }
        let made = runtime
            .block_on(runner::run(&options, interrupt.clone(), false))
            .map_err(Problem::failed)?;
        let run = judge(made)?;
        let tally = &run.tally;
        let shown = run.results.verdict != Validity::Valid || !many;
        let mut out = io::stdout().lock();
        if many {
            writeln!(
                out,
                "run {number} of {}: {}, seed {seed}, {:.1} s, {} operations, {} injections, {}, {}",
                args.test_count,
                run.results.verdict,
                started.elapsed().as_secs_f64(),
                tally.invoked(),
                tally.injections(),
                tally.recovery(),
                run.made.directory.display()
            )?;
        }
        if shown {
            write!(out, "{tally}")?;
            command::say(&run.results, &run.made.directory, &mut out)?;
            return Ok(run.results.verdict.into());
        }
        let interrupted = run.made.interrupted;
        coverage.merge(run.coverage.clone());
        last = Some(run);
        if interrupted {
            break;
        }
    }
    if !coverage.is_empty() {
        write!(io::stdout(), "{coverage}")?;
    }
    if let Some(run) = last {
        writeln!(io::stdout(), "{}: {}", run.results.verdict, run.made.directory.display())?;
    }
    Ok(Exit::Valid)
}

/// Measures how long keys stay locked with the master gone.
pub(super) fn blocked(args: &BlockingArgs) -> Result<Exit, Problem> {
    let (runtime, interrupt) = runtime()?;
    match runtime.block_on(blocking(args, interrupt, &mut io::stdout().lock())) {
        Ok(verdict) => Ok(verdict.into()),
        Err(error) => Err(Problem::failed(error)),
    }
}

/// What runs are made on, and what turns true when somebody wants an end.
fn runtime() -> Result<(Runtime, watch::Receiver<bool>), Problem> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::failed(anyhow::Error::new(error).context("no runtime")))?;
    let interrupt = runtime
        .block_on(async { follow_signals() })
        .map_err(|error| Problem::failed(anyhow::Error::new(error).context("no signals")))?;
    Ok((runtime, interrupt))
}

/// The faults that can be done here, and whether disks that lose power are there for them. Without
/// such disks a loss of power that was asked for by name is a mistake; what else asks for it goes
/// without, and says so.
fn with_disks(faults: &Faults) -> Result<(Faults, bool), Problem> {
    if !faults.want_disks() {
        return Ok((faults.clone(), false));
    }
    let Err(error) = disk::available() else {
        return Ok((faults.clone(), true));
    };
    let why = format!("it mounts file systems, which takes root and /dev/fuse ({error})");
    if faults.need_disks() {
        let refusal = anyhow::anyhow!("no power-loss here: {why}; every other fault does without");
        return Err(Problem::arguments(refusal));
    }
    eprintln!("harness: without power-loss: {why}");
    Ok((faults.clone().without_disks(), false))
}

/// A run and what was found in it.
struct Judged {
    made: Made,
    tally: Tally,
    coverage: Coverage,
    results: Results,
}

/// Judges a run that was just made.
fn judge(made: Made) -> Result<Judged, Problem> {
    let judging = progress::judging(&made.directory);
    // What this harness has just written it can read; if not, it has failed.
    let (run, results) =
        command::judge(&made.directory, &Limits::default()).map_err(Problem::failed)?;
    report_twopc::write(&made.directory, &run, &results).map_err(Problem::failed)?;
    drop(judging);
    let (tally, coverage) =
        (report_twopc::summary(&run.events), report_twopc::coverage(&run.events));
    Ok(Judged { made, tally, coverage, results })
}
