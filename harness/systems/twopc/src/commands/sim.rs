//! `harness sim`: runs seeds in parallel, prints a summary, and keeps the run of the first bad seed.

use std::{
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::Context as _;
use checker::Validity;
use clap::Args;
use explore::{schedule::shrink, simulator::SimulationPlan};
use report::progress::Progress;
use system::protocol::{CommitMode, Rule, Rules};

use crate::simulation::{self, SeedRange, SeedResults, SeedVerdict, keep, run_seeds, schedule};

/// Run the machines of a cluster in virtual time, with a chaos profile that each seed selects.
#[derive(Args, Clone, Debug)]
pub struct SimArgs {
    /// The seeds, from A up to but not including B.
    #[arg(long, value_name = "A..B", default_value = "0..1000")]
    pub seeds: SeedRange,
    /// What makes a commit: logged (the master's log) or votes.
    #[arg(long, value_name = "MODE", default_value_t)]
    pub commit: CommitMode,
    /// Break a rule of the protocol.
    #[arg(long = "break", value_name = "RULE")]
    pub broken: Vec<Rule>,
    /// The number of concurrent runs. The default is the number of processors.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Also judge each run by every check of recorded runs, from its journals.
    #[arg(long)]
    pub thorough: bool,
    /// Continue after a bad seed.
    #[arg(long)]
    pub keep_going: bool,
    /// Where to keep the run of the first bad seed, in the form of a real run.
    #[arg(long, value_name = "DIR", default_value = "histories")]
    pub store: PathBuf,
    /// Seeds to run before those of the range.
    #[arg(skip)]
    pub first: Vec<u64>,
}

/// What the seeds showed.
#[derive(Debug)]
pub struct SimOutcome {
    /// The greatest verdict on a seed.
    pub verdict: Validity,
    /// The number of seeds that were run.
    pub seeds: u64,
    /// The bad seeds. The run of the first is kept.
    pub bad: Vec<BadSeed>,
}

/// A seed that is not valid.
#[derive(Debug)]
pub struct BadSeed {
    /// The seed.
    pub seed: u64,
    /// The verdict.
    pub verdict: Validity,
    /// The properties and checks that are violated, or that are undecided if none is violated.
    pub checks: Vec<String>,
    /// The first sentence on it.
    pub why: String,
    /// The command that runs it again.
    pub command: String,
    /// Where its run is kept.
    pub directory: Option<PathBuf>,
}

/// Prints how often what happened, in total and per second.
fn print_summary(results: &SeedResults, out: &mut impl Write) -> std::io::Result<()> {
    let counters = results.counters;
    let seconds = results.elapsed.as_secs_f64().max(0.001);
    let per_minute = counters.operations as f64 * 60.0 / seconds;
    let seeds = results.seeds;
    writeln!(out, "{seeds} seeds in {seconds:.1} s; {per_minute:.0} client operations per minute")?;
    writeln!(out, "{:>14}  {:>10}", "total", "per second")?;
    for (count, name) in [
        (seeds, "seeds"),
        (counters.operations, "client operations"),
        (counters.ok, "successful"),
        (counters.info, "writes with an unknown outcome"),
        (counters.crashes, "crashes: kills and losses of power"),
        (counters.mid_step_crashes, "of these, in the middle of a step"),
        (counters.crashes_in_doubt, "of these, with some replica in doubt"),
        (counters.in_doubt_transactions, "transactions in doubt at a replica in a master crash"),
        (counters.other_faults, "pauses and partitions"),
        (counters.messages, "messages"),
        (counters.machine_steps, "steps of machines"),
    ] {
        writeln!(out, "{count:>14}  {:>10.0}  {name}", count as f64 / seconds)?;
    }
    Ok(())
}

/// Runs the seeds and prints the report.
///
/// # Errors
/// The run of the bad seed cannot be kept, or the output cannot be written.
pub fn run(args: &SimArgs, out: &mut impl Write) -> anyhow::Result<SimOutcome> {
    let rules = args.broken.iter().fold(Rules::ALL, |rules, rule| rules.without(*rule));
    let threads = args
        .threads
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let total = args.seeds.to - args.seeds.from + args.first.len() as u64;
    let counts = Arc::new([const { AtomicU64::new(0) }; 2]);
    let shown = counts.clone();
    let progress = Progress::show(move |elapsed| {
        let [seeds, bad] = [&shown[0], &shown[1]].map(|count| count.load(Ordering::Relaxed));
        format!("{:.0} s: {seeds} of {total} seeds, {bad} bad", elapsed.as_secs_f64())
    });
    let SimArgs { commit, thorough, keep_going, .. } = *args;
    let mut results = SeedResults::default();
    for seeds in args.first.iter().map(|seed| SeedRange::of(*seed)).chain([args.seeds]) {
        let (seeds_before, bad_before) = (results.seeds, results.bad.len());
        let count = |seeds: u64, bad: usize| {
            counts[0].store(seeds_before + seeds, Ordering::Relaxed);
            counts[1].store((bad_before + bad) as u64, Ordering::Relaxed);
        };
        results.add(run_seeds(seeds, commit, rules, threads, thorough, keep_going, count));
        if !results.bad.is_empty() && !keep_going {
            break;
        }
    }
    drop(progress);
    print_summary(&results, out)?;
    for (seed, verdict) in results.bad.iter().take(20) {
        let violated = verdict.violated().join(", ");
        writeln!(out, "seed {seed}: {}: {violated}", verdict.validity())?;
        for result in verdict.check_results() {
            for sentence in result.violations.iter().chain(&result.unknown_because).take(3) {
                writeln!(out, "  {}: {sentence}", result.check)?;
            }
        }
    }
    let mut bad: Vec<BadSeed> =
        results.bad.iter().map(|(seed, verdict)| bad_seed(args, rules, *seed, verdict)).collect();
    match results.bad.first() {
        None => writeln!(out, "no seed is bad")?,
        Some((seed, verdict)) => {
            bad[0].directory = Some(keep_first_failure(args, rules, *seed, verdict, out)?);
        }
    }
    let verdict = bad.iter().map(|seed| seed.verdict).fold(Validity::Valid, Validity::max);
    Ok(SimOutcome { verdict, seeds: results.seeds, bad })
}

/// What is told of a bad seed.
fn bad_seed(args: &SimArgs, rules: Rules, seed: u64, verdict: &SeedVerdict) -> BadSeed {
    let mut checks = verdict.violated();
    if checks.is_empty() {
        let undecided = verdict.check_results().filter(|result| result.verdict != Validity::Valid);
        checks = undecided.map(|result| result.check.clone()).collect();
    }
    let of_property = verdict.violations.first().map(|property| property.claim().to_owned());
    let of_check = || {
        let mut findings = verdict
            .check_results()
            .flat_map(|result| result.violations.iter().chain(&result.unknown_because));
        findings.next().map(|finding| finding.split_first_line().0.text().to_owned())
    };
    BadSeed {
        seed,
        verdict: verdict.validity(),
        checks,
        why: of_property.or_else(of_check).unwrap_or_default(),
        command: keep::command(seed, args.commit, rules)
            + if args.thorough { " --thorough" } else { "" },
        directory: None,
    }
}

/// Runs a bad seed again, minimizes its schedule, and keeps both.
fn keep_first_failure(
    args: &SimArgs,
    rules: Rules,
    seed: u64,
    verdict: &SeedVerdict,
    out: &mut impl Write,
) -> anyhow::Result<PathBuf> {
    let plan = SimulationPlan::of(seed, args.commit, rules);
    let run = simulation::run(&plan, true);
    let all = run.steps.len();
    let mut minimized = None;
    if let Some(property) = verdict.violations.first() {
        writeln!(out, "seed {seed}: {property} is violated; shrinking its {all} steps")?;
        out.flush()?;
        let schedule = shrink(schedule(&plan, &run, *property), *property);
        let (lines, _) = schedule.trace().context("the shrunk schedule cannot be replayed")?;
        let few = schedule.steps.len();
        writeln!(out, "\nseed {seed}: counterexample of {few} steps, shrunk from {all}:")?;
        for line in lines {
            writeln!(out, "{line}")?;
        }
        minimized = Some(schedule);
    }
    let directory = keep::keep(&args.store, &plan, &run, verdict, minimized.as_ref())?;
    writeln!(out, "\nagain: {}", keep::command(seed, args.commit, rules))?;
    if minimized.is_some() {
        writeln!(out, "schedule: harness replay {}", directory.join("schedule.json").display())?;
    }
    writeln!(out, "{}: {}", verdict.validity(), directory.display())?;
    Ok(directory)
}
