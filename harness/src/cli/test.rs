//! The command `test`: makes runs, judges each, and prints the results.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use checker::{Limits, Results};
use clap::{Args, ValueEnum, builder::RangedU64ValueParser};
use history::Shard;
use lab::{
    disk::{self, NameDurability},
    duration::parse_duration,
    fault::{Fault, parse_faults},
    nemesis::INTERVAL,
    seeds::{options_rng, run_seeds},
    signals::follow_signals,
    workload::Mix,
    workloads::LoadShape,
};
use rand::RngExt as _;
use report::summary::Tally;
use tokio::{runtime::Runtime, sync::watch};
use twopc::{
    CommitMode, Mutation, TLS_AVAILABLE, Timings, TlsError, checks,
    commands::{
        blocking::{BlockingArgs, blocking},
        rules, run_with_progress,
    },
    deployment::find_programs,
    faults::{FaultName, Faults},
    matrix::Coverage,
    page,
    run::{CompletedRun, FailFast, RunOptions, Variation},
};

use super::{
    Exit, Failure,
    described::{self, LabKind, SubjectRun, SystemCommand},
    output::{Output, OutputArgs, Told},
    record::{self, RecordArgs},
    require_effect,
    shards::{Done, Part, ShardArgs},
    soak::{self, SoakArgs},
    stdout,
    subject::{Subject, SubjectOptions},
};
use crate::commands::progress;

/// The usual number of replicas.
const DEFAULT_REPLICAS: u8 = 3;

/// The options of a test run.
#[derive(Clone, Debug, Args)]
pub(super) struct TestArgs {
    /// Faults to inject: none, all, or a comma-separated list (see below).
    #[arg(long, value_name = "A,B", default_value = "none")]
    faults: FaultsArg,

    /// Duration of the load, for example 20s, 500ms or 2m. Of the system twopc, it goes on for up to as long again until
    /// each fault was injected.
    #[arg(long, visible_alias = "time", value_name = "TIME", default_value = "20s", value_parser = parse_duration)]
    time_limit: Duration,

    /// Number of concurrent clients. Default: 10; with --faults all, 10, 30 or 100, as the seed says.
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(1..=10_000))]
    concurrency: Option<u32>,

    /// Operations per second of all clients together; 0 for as fast as answers arrive. Default: 0; with --faults
    /// all, 0, 150 or 500, as the seed says.
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    rate: Option<f64>,

    /// Number of keys. Default: 16; with --faults all, 16, 400 or 1,000, as the seed says.
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000_000))]
    keys: Option<u32>,

    /// Number of replicas.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_REPLICAS,
          value_parser = RangedU64ValueParser::<u8>::new().range(1..=32))]
    replicas: u8,

    /// What makes a commit: logged (a record in the master's log) or votes (a yes vote of every
    /// replica).
    #[arg(long, value_name = "MODE", default_value_t)]
    commit: CommitMode,

    /// Share of each operation, as weights. In registers of another system than twopc, whatever is no get is a write.
    #[arg(long, value_name = "WEIGHTS", default_value_t = Mix::default())]
    mix: Mix,

    /// Seed of all random choices: the requests, and the faults with their targets and times. If it
    /// is not given, a random seed is used and printed. The seed does not determine the scheduling
    /// of the operating system.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Make N runs with seeds derived from the first, and stop at the first run that is not valid; a shard goes on
    /// after one that is unknown. With the fault
    /// crash-matrix, each run covers a shard of the matrix, and the coverage of all is printed at the end.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = RangedU64ValueParser::<u32>::new().range(1..))]
    test_count: u32,

    /// Directory for run records.
    #[arg(long, value_name = "DIR", default_value = "histories")]
    store: PathBuf,

    /// System under test: twopc, the store of this repository; etcd, redis, postgresql or nats, with a
    /// configuration and a version as in etcd:cluster@3.5.1; or the path of a file that describes another
    /// one (see below).
    #[arg(long, value_name = "NAME|FILE", default_value = "twopc")]
    system: String,

    /// A program of a built-in system, for example etcd=/opt/etcd/etcd. May be repeated.
    #[arg(long = "program", value_name = "NAME=PATH", value_parser = parse_program)]
    programs: Vec<(String, PathBuf)>,

    /// What the clients of a built-in system ask of reads, for example serializable (etcd) or replica
    /// (redis).
    #[arg(long, value_name = "LEVEL")]
    reads: Option<String>,

    /// The isolation that the clients of a built-in system ask for, for example read-committed
    /// (postgresql).
    #[arg(long, value_name = "LEVEL")]
    isolation: Option<String>,

    /// What the clients of another system than twopc do: register, cas-register, set, counter, queue, log,
    /// bank, lock, append or rw.
    #[arg(long, value_name = "NAME", default_value = "register")]
    workload: String,

    /// Judge another system than twopc by this level instead of the one that it claims, for example
    /// linearizable or none.
    #[arg(long, value_name = "LEVEL")]
    claim: Option<String>,

    /// The longest time in which another system than twopc is left alone before a fault, and in which a node stays
    /// killed.
    #[arg(long, value_name = "TIME", default_value = "2.5s", value_parser = parse_duration)]
    fault_interval: Duration,

    /// What the disks of another system than twopc promise for names of files, where a fault needs such disks: ext4
    /// (a sync that commits the journal makes all earlier changes of names durable) or posix (only a sync
    /// of the directory does).
    #[arg(long, value_name = "KIND", default_value = "ext4", value_parser = parse_disk)]
    disk: NameDurability,

    /// Where the nodes of another system than twopc run: local (at loopback addresses) or netns (in a virtual
    /// network in which the harness is the switch; needs /dev/net/tun, and root or a user namespace). Default:
    /// netns if a fault or the system needs it, local otherwise.
    #[arg(long, value_name = "KIND", value_enum, hide_possible_values = true)]
    lab: Option<LabKind>,

    /// Write the packets of a part of the load to network.pcap in the run directory, for example 5s..8s; with
    /// --lab netns.
    #[arg(long, value_name = "FROM..TO", value_parser = parse_part)]
    pcap: Option<(Duration, Duration)>,

    /// End a run of another system than twopc early, as unknown, when its record is larger than this many bytes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_run_bytes: Option<u64>,

    /// Replace keys and values by keyed digests in the history and the logs of a run of another system than
    /// twopc, at its end. Equal ones stay equal. The key is not kept.
    #[arg(long)]
    redact: bool,

    /// Run the programs `master` and `replica` in this directory instead of the nodes that are built
    /// into the harness.
    #[arg(long, value_name = "DIR", value_parser = find_programs)]
    system_bin: Option<PathBuf>,

    /// Switch off a rule of the protocol or of the store, or syncs of the store (store-syncs,
    /// store-meta-syncs), or make a mistake, to see which check detects it. Several are separated by
    /// commas.
    #[arg(long = "break", value_name = "RULE|MISTAKE,...", value_delimiter = ',')]
    mutations: Vec<Mutation>,

    /// End the run at the first violation that shows while it lasts: the history of the clients cannot become
    /// linearizable any more, or the journals of the nodes contradict each other or a promise of the protocol.
    /// Without this option, the run continues, and the summary states when clients first saw a violation.
    #[arg(long)]
    fail_fast: bool,

    /// Timing parameters of the nodes, as in their configuration file, for example
    /// inquiry_timeout_ms=100,peer_inquiry_after=1. Default: none; with --faults all, the seed may choose some.
    #[arg(long = "timing", value_name = "NAME=N,...")]
    timings: Option<Timings>,

    /// Route messages between the nodes through relays even if no fault needs them, to measure the
    /// cost.
    #[arg(long)]
    relay: bool,

    /// Whether all connections have mutual TLS, with certificates of a CA that the run makes: yes, no or seed, which
    /// leaves it to the seed. Default: seed where the harness is built with the feature tls, no otherwise.
    #[arg(long, value_name = "WHEN", num_args = 0..=1, default_missing_value = "yes")]
    tls: Option<TlsChoice>,

    /// Number the transactions of each epoch of the master from N + 1 on, to reach numbers that take days of load.
    /// Default: 0; with --faults all, 0 or a little below 2^32, as the seed says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..1 << 55))]
    sequence_above: Option<u64>,

    /// Take options from a TOML file: faults = ["partition"], time-limit = "60s", fail-fast = true. Those on the
    /// command line come first.
    #[arg(long, value_name = "FILE")]
    options: Option<PathBuf>,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    shards: ShardArgs,

    /// Record unknown outcomes as failures: a defect of the harness, which the checks must find.
    #[arg(long, alias = "lie", hide = true)]
    misreport_unknown: bool,
}

/// Whether runs have TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TlsChoice {
    Yes,
    No,
    /// In about half of the runs.
    Seed,
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
            (Err(why), Err(other)) => Err(match text.contains([':', '@', '+', '>']) {
                true => other.clone(),
                false => why.clone(),
            }),
            _ => Ok(FaultsArg { ours, any }),
        }
    }
}

/// Whether a system is described by a file.
pub(super) fn is_file(system: &str) -> bool {
    system.ends_with(".toml") || system.contains('/')
}

fn parse_program(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text
        .split_once('=')
        .ok_or_else(|| format!("'{text}': expected NAME=PATH, for example etcd=/opt/etcd/etcd"))?;
    Ok((name.to_owned(), path.into()))
}

fn parse_disk(text: &str) -> Result<NameDurability, String> {
    let found = NameDurability::ALL.into_iter().find(|kind| kind.name() == text);
    found.ok_or_else(|| "expected ext4 or posix".to_owned())
}

fn parse_part(text: &str) -> Result<(Duration, Duration), String> {
    let (from, to) = text
        .split_once("..")
        .ok_or_else(|| format!("'{text}': expected FROM..TO, for example 5s..8s"))?;
    let (from, to) = (parse_duration(from)?, parse_duration(to)?);
    match from < to {
        true => Ok((from, to)),
        false => Err(format!("'{text}': the end must be after the beginning")),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0).ok_or_else(|| {
        format!("'{text}' is not a rate: expected a number of operations per second, at least 0")
    })
}

impl TestArgs {
    /// Whether the run with this seed has TLS.
    fn has_tls(&self, seed: u64) -> bool {
        // Separate programs may have been built without it.
        let drawn = TLS_AVAILABLE && self.system_bin.is_none();
        match self.tls {
            Some(TlsChoice::Yes) => true,
            Some(TlsChoice::No) => false,
            Some(TlsChoice::Seed) => options_rng(seed).random(),
            None => drawn && options_rng(seed).random(),
        }
    }

    fn options(&self, faults: &Faults, disks: bool, shard: Shard, seed: u64) -> RunOptions {
        // Separate programs may have been built without what a variation needs.
        let variation = match self.system_bin {
            None => Variation::of(faults, seed),
            Some(_) => Variation::USUAL,
        };
        RunOptions {
            faults: faults.clone(),
            time_limit: self.time_limit,
            concurrency: self.concurrency.unwrap_or(variation.concurrency),
            rate: self.rate.unwrap_or(variation.rate),
            keys: self.keys.unwrap_or(variation.keys),
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
            fail_fast: if self.fail_fast { FailFast::AnyViolation } else { FailFast::Never },
            timings: self.timings.clone().unwrap_or_else(|| variation.timings()),
            relay: self.relay,
            tls: self.has_tls(seed),
            sequence_above: self.sequence_above.unwrap_or(variation.sequence_above),
            misreport_unknown: self.misreport_unknown,
            schedule: None,
            script: None,
        }
    }
}

/// Makes the runs, or those of a shard, and stops at the first one that is not valid.
pub(super) fn test(args: &TestArgs) -> Result<Exit, Failure> {
    // Of a single run, a shard is one of the crash matrix.
    if args.test_count == 1 && args.shards.of_matrix().is_some() {
        return make_runs(args, None).map(|done| done.exit_of_all("runs"));
    }
    let file = is_file(&args.system).then(|| PathBuf::from(&args.system));
    args.shards.run("runs", file.as_slice(), |part| {
        let Some(part) = part else { return make_runs(args, None) };
        if args.seed.is_none() {
            return Err(Failure::arguments(anyhow::anyhow!(
                "--seed: the shards of a campaign have to agree on the first seed; give one, such as --seed 1"
            )));
        }
        make_runs(&TestArgs { store: part.store.clone(), ..args.clone() }, Some(part))
    })
}

/// The numbers and seeds of the runs to make. Those that failed before come first; they have the number 1.
pub(super) fn planned(
    part: Option<&Part>,
    first_seed: u64,
    count: u32,
) -> impl Iterator<Item = (u32, u64)> {
    let shard = part.map_or(Shard::WHOLE, |part| part.shard);
    let (from, to) = shard.slice(0, count.into());
    let first = part.map_or_else(Vec::new, |part| part.first.clone());
    let seeds = (1..).zip(run_seeds(first_seed, count));
    let of_shard = seeds.skip(from as usize).take((to - from) as usize);
    first.into_iter().map(|seed| (1, seed)).chain(of_shard)
}

/// The number of runs to make.
pub(super) fn planned_count(part: Option<&Part>, count: u32) -> u32 {
    let Some(part) = part else { return count };
    let (from, to) = part.shard.slice(0, count.into());
    u32::try_from(to - from + part.first.len() as u64).unwrap_or(u32::MAX)
}

fn make_runs(args: &TestArgs, part: Option<&Part>) -> Result<Done, Failure> {
    if args.system != "twopc" {
        return test_subject(args, part);
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
    let mut output = Output::new(&args.output, planned_count(part, args.test_count));
    let mut last = None;
    let mut interrupted = false;
    let mut coverage = Coverage::default();
    for (number, seed) in planned(part, first_seed, args.test_count) {
        let shard = match args.shards.of_matrix().filter(|_| part.is_none()) {
            Some(shard) => shard,
            None if matrix => Shard { number, of: args.test_count },
            None => Shard::WHOLE,
        };
        let options = args.options(&faults, disks, shard, seed);
        let started = Instant::now();
        let command = options.command();
        output.begins(seed, &command);
        let run = runtime
            .block_on(run_with_progress(&options, interrupt.clone()))
            .map_err(Failure::harness)?;
        let JudgedRun { completed, tally, coverage: covered, results } = judge(run)?;
        output.run(&Told {
            directory: &completed.directory,
            seed,
            command,
            elapsed: started.elapsed(),
            tally: &tally,
            claim: None,
            remark: unnoticed(&args.mutations),
            results: &results,
        })?;
        coverage.merge(covered);
        interrupted = completed.interrupted;
        last = Some(completed.directory);
        if output.is_over(results.verdict, interrupted, part) {
            break;
        }
    }
    let coverage = if coverage.is_empty() { String::new() } else { coverage.to_string() };
    output.finish(last.as_deref(), &coverage, interrupted)
}

/// What is said of a valid run of a system in which something is broken.
fn unnoticed(mutations: &[Mutation]) -> Option<String> {
    let first = mutations.first()?;
    let names: Vec<&str> = mutations.iter().map(|mutation| mutation.name()).collect();
    let advice = match rules::shown_by(*first) {
        Some("none") => "a longer run may show it".to_owned(),
        Some(faults) => format!("try --faults {faults}"),
        None => "`harness rules --list` says why".to_owned(),
    };
    Some(format!("{} is broken, and nobody noticed: {advice}", names.join(", ")))
}

/// Makes the runs of another system than twopc.
fn test_subject(args: &TestArgs, part: Option<&Part>) -> Result<Done, Failure> {
    let run = args.subject_run(&args.store)?;
    let (runtime, interrupt) = runtime()?;
    described::test_subject(&run, part, &runtime, &interrupt)
}

/// The command `record`.
pub(super) fn record(args: RecordArgs, shards: &ShardArgs) -> Result<Exit, Failure> {
    let (runtime, interrupt) = runtime()?;
    shards.run("rows", &[], |part| record::record(&args, part, &runtime, &interrupt))
}

/// The command `soak`.
pub(super) fn soak(args: &SoakArgs) -> Result<Exit, Failure> {
    let (runtime, interrupt) = runtime()?;
    soak::soak(args, &runtime, &interrupt)
}

/// The command `system`.
pub(super) fn system_command(command: &SystemCommand) -> Result<Exit, Failure> {
    let (runtime, _) = runtime()?;
    described::system_command(command, &runtime)
}

impl TestArgs {
    /// The runs of another system than twopc, recorded below `store`.
    pub(super) fn subject_run<'a>(&'a self, store: &'a Path) -> Result<SubjectRun<'a>, Failure> {
        let faults = self.faults.any.clone();
        let faults = faults.map_err(|why| {
            Failure::arguments(anyhow::anyhow!("--faults: {why}; other faults are those of twopc"))
        })?;
        let is_of_matrix = self.test_count == 1 && self.shards.of_matrix().is_some();
        if !self.mutations.is_empty()
            || is_of_matrix
            || self.system_bin.is_some()
            || self.relay
            || self.tls.is_some()
            || self.sequence_above.is_some()
            || self.timings.is_some()
            || self.replicas != DEFAULT_REPLICAS
            || self.commit != CommitMode::default()
            || self.fail_fast
        {
            return Err(Failure::arguments(anyhow::anyhow!(
                "--break, --system-bin, --relay, --tls, --timing, --sequence-above, --replicas, --commit and --fail-fast \
                 are for the system twopc, and so is --shard without --test-count or --campaign"
            )));
        }
        let has_registers = matches!(&*self.workload, "register" | "cas-register");
        if self.mix != Mix::default() && !has_registers {
            return Err(Failure::arguments(anyhow::anyhow!(
                "--mix is for registers; the mix of the workload {} is fixed",
                self.workload
            )));
        }
        let subject = Subject::find(&SubjectOptions {
            system: &self.system,
            reads: self.reads.as_deref(),
            isolation: self.isolation.as_deref(),
            programs: &self.programs,
        })?;
        let usual = LoadShape::default();
        let load = LoadShape {
            concurrency: self.concurrency.unwrap_or(usual.concurrency),
            keys: self.keys.unwrap_or(usual.keys),
            rate: self.rate.unwrap_or(usual.rate),
            reads: self.mix.percent_of_reads(),
        };
        Ok(SubjectRun {
            subject,
            workload: &self.workload,
            claim: self.claim.as_deref(),
            faults,
            time_limit: self.time_limit,
            load,
            interval: self.fault_interval,
            disk: self.disk,
            lab: self.lab,
            capture: self.pcap,
            seed: self.seed,
            count: self.test_count,
            max_bytes: self.max_run_bytes,
            redact: self.redact,
            output: &self.output,
            store,
        })
    }

    /// Rejects combinations of options that make no sense.
    fn validate(&self, faults: &Faults) -> Result<(), Failure> {
        let is_plain = self.workload == "register"
            && self.claim.is_none()
            && self.reads.is_none()
            && self.isolation.is_none()
            && self.programs.is_empty()
            && self.lab.is_none()
            && self.pcap.is_none()
            && self.fault_interval == INTERVAL
            && self.max_run_bytes.is_none()
            && !self.redact;
        if !is_plain {
            return Err(Failure::arguments(anyhow::anyhow!(
                "--workload, --claim, --reads, --isolation, --program, --lab, --pcap, --fault-interval, \
                 --max-run-bytes and --redact are for other systems than twopc: --system NAME or FILE"
            )));
        }
        if !TLS_AVAILABLE && self.tls.is_some_and(|tls| tls != TlsChoice::No) {
            return Err(Failure::arguments(anyhow::anyhow!("--tls: {}", TlsError::NotBuilt)));
        }
        let built_in = self.mutations.iter().find(|mutation| mutation.needs_built_in_nodes());
        if let (Some(_), Some(mutation)) = (&self.system_bin, built_in) {
            return Err(Failure::arguments(anyhow::anyhow!(
                "--break {mutation}: the system's programs keep every rule of the store and every sync; \
                 leave out --system-bin"
            )));
        }
        let rules = self.mutations.iter().filter_map(|mutation| match mutation {
            Mutation::Rule(rule) => Some(*rule),
            _ => None,
        });
        require_effect(&rules.collect::<Vec<_>>(), &[self.commit])?;
        let is_of_matrix = self.test_count == 1 && self.shards.of_matrix().is_some();
        if is_of_matrix && !faults.names().contains(&FaultName::CrashMatrix) {
            return Err(Failure::arguments(anyhow::anyhow!(
                "--shard: of a single run, only the crash matrix has shards; add crash-matrix to --faults, divide \
                 several runs (--test-count), or leave out --shard"
            )));
        }
        Ok(())
    }
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

/// The faults that are possible on this machine, and whether the nodes have disks that the harness serves.
/// Without such disks, a fault of theirs that was asked for by name is an error. Those that were only a part
/// of `all` are left out with a warning.
fn with_disks(faults: &Faults) -> Result<(Faults, bool), Failure> {
    if !faults.use_disks() {
        return Ok((faults.clone(), false));
    }
    let Err(error) = disk::available() else {
        return Ok((faults.clone(), true));
    };
    let why =
        format!("faults of disks mount file systems, which needs root and /dev/fuse ({error})");
    let required = faults.require_disks();
    if !required.is_empty() {
        let names: Vec<&str> = required.iter().map(|fault| fault.name()).collect();
        let why = format!("{}: {why}; every other fault works without it", names.join(", "));
        return Err(Failure::arguments(NotPossibleHere(why)));
    }
    eprintln!("harness: warning: running without power loss and other faults of disks: {why}");
    Ok((faults.clone().without_disks(), false))
}

/// This machine lacks something that a run needs.
#[derive(Debug, thiserror::Error)]
#[error("not possible here: {0}")]
pub(super) struct NotPossibleHere(String);

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
