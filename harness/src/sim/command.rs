//! `harness sim`: seeds in parallel, what they came to, and the first bad one kept.

use std::{
    io::Write,
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use system::protocol::{CommitMode, Rule, Rules};

use super::{Count, Plan, Verdict, keep, schedule, try_seed};
use crate::{checker::Validity, progress::Progress, schedule::shrink};

/// Run the machines of a cluster in virtual time, under weather that a seed draws.
#[derive(Args, Clone, Debug)]
pub struct SimArgs {
    /// Seeds, from A up to but not including B.
    #[arg(long, value_name = "A..B", default_value = "0..1000")]
    pub seeds: Seeds,
    /// What makes a commit: logged (the master's log) or votes.
    #[arg(long, value_name = "MODE", default_value_t)]
    pub commit: CommitMode,
    /// Break a rule of the protocol.
    #[arg(long = "break", value_name = "RULE")]
    pub broken: Vec<Rule>,
    /// Runs side by side; as many as there are processors by default.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Judge each run by every check of recorded runs too, from its journals.
    #[arg(long)]
    pub thorough: bool,
    /// Go on after a bad seed.
    #[arg(long)]
    pub keep_going: bool,
    /// Keep the run of the first bad seed in this directory, as a real run is kept.
    #[arg(long, value_name = "DIR", default_value = "histories")]
    pub store: PathBuf,
}

/// A range of seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    /// The first.
    pub from: u64,
    /// The one after the last.
    pub to: u64,
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once("..")
            .and_then(|(from, to)| Some(Seeds { from: from.parse().ok()?, to: to.parse().ok()? }))
            .filter(|seeds| seeds.from < seeds.to)
            .ok_or_else(|| format!("'{text}': want a range of seeds, as 0..1000"))
    }
}

/// What a range of seeds came to.
#[derive(Debug, Default)]
pub struct Tried {
    /// Seeds that were run.
    pub seeds: u64,
    /// What happened in them how often.
    pub count: Count,
    /// The bad ones, the first first.
    pub bad: Vec<(u64, Verdict)>,
    /// The first seed of all.
    from: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// The first bad seed.
#[derive(Debug)]
pub struct First {
    /// How many seeds it took, itself among them.
    pub after: u64,
    /// Who found something wrong with it.
    pub names: Vec<String>,
}

impl Tried {
    /// The first bad seed, if there is one.
    #[must_use]
    pub fn first(&self) -> Option<First> {
        let (seed, verdict) = self.bad.first()?;
        Some(First { after: seed - self.from + 1, names: verdict.names() })
    }
}

/// Runs seeds in parallel. Unless it is to go on, none is begun after a bad one was found; those
/// before it are all run, so that the first bad one is the first there is.
#[must_use]
pub fn try_seeds(
    seeds: Seeds,
    commit: CommitMode,
    rules: Rules,
    threads: usize,
    thorough: bool,
    keep_going: bool,
    progress: impl Fn(u64, usize) + Sync,
) -> Tried {
    let start = Instant::now();
    let next = AtomicU64::new(seeds.from);
    let stop = AtomicBool::new(false);
    let tried = Mutex::new(Tried::default());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.to {
                        return;
                    }
                    let verdict = try_seed(seed, commit, rules, thorough);
                    let mut tried = tried.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    tried.seeds += 1;
                    tried.count += verdict.count;
                    if verdict.validity() != Validity::Valid {
                        tried.bad.push((seed, verdict));
                        stop.fetch_or(!keep_going, Ordering::Relaxed);
                    }
                    progress(tried.seeds, tried.bad.len());
                }
            });
        }
    });
    let mut tried = tried.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    tried.bad.sort_by_key(|(seed, _)| *seed);
    (tried.from, tried.elapsed) = (seeds.from, start.elapsed());
    tried
}

/// Says what was run: in all, and a second.
fn tell(tried: &Tried, out: &mut impl Write) -> std::io::Result<()> {
    let Count {
        operations,
        ok,
        info,
        crashes,
        other_faults,
        at_points,
        in_doubt,
        unknown_because,
        messages,
        steps,
    } = tried.count;
    let seconds = tried.elapsed.as_secs_f64().max(0.001);
    let minute = operations as f64 * 60.0 / seconds;
    writeln!(out, "{} seeds in {seconds:.1} s; {minute:.0} operations a minute", tried.seeds)?;
    writeln!(out, "{:>14}  {:>10}", "in all", "a second")?;
    for (count, what) in [
        (tried.seeds, "seeds"),
        (operations, "operations of clients"),
        (ok, "answered with success"),
        (info, "writes whose outcome the client never learnt"),
        (crashes, "crashes: kills and losses of power"),
        (at_points, "of these in the middle of a step"),
        (in_doubt, "of these with some replica in doubt"),
        (unknown_because, "transactions in doubt at a replica when the master crashed"),
        (other_faults, "pauses and partitions"),
        (messages, "messages"),
        (steps, "steps of machines"),
    ] {
        writeln!(out, "{count:>14}  {:>10.0}  {what}", count as f64 / seconds)?;
    }
    Ok(())
}

/// Runs what was asked for and says what it came to.
///
/// # Errors
/// The schedule cannot be written, or standard output is closed.
pub fn run(args: &SimArgs, out: &mut impl Write) -> anyhow::Result<Validity> {
    let rules = args.broken.iter().fold(Rules::ALL, |rules, rule| rules.without(*rule));
    let threads = args
        .threads
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let total = args.seeds.to - args.seeds.from;
    let done = Arc::new([const { AtomicU64::new(0) }; 2]);
    let far = done.clone();
    let progress = Progress::show(move |elapsed| {
        let [seeds, bad] = [&far[0], &far[1]].map(|count| count.load(Ordering::Relaxed));
        format!("{:.0} s: {seeds} of {total} seeds, {bad} bad", elapsed.as_secs_f64())
    });
    let count = |seeds: u64, bad: usize| {
        done[0].store(seeds, Ordering::Relaxed);
        done[1].store(bad as u64, Ordering::Relaxed);
    };
    let SimArgs { commit, seeds, thorough, keep_going, .. } = *args;
    let tried = try_seeds(seeds, commit, rules, threads, thorough, keep_going, count);
    drop(progress);
    tell(&tried, out)?;
    for (seed, verdict) in tried.bad.iter().take(20) {
        writeln!(out, "seed {seed}: {}: {}", verdict.validity(), verdict.names().join(", "))?;
        let checks = verdict.checks.iter().flat_map(|results| &results.checks);
        for check_result in std::iter::once(&verdict.history).chain(checks) {
            for sentence in
                check_result.violations.iter().chain(&check_result.unknown_because).take(3)
            {
                writeln!(out, "  {}: {sentence}", check_result.check)?;
            }
        }
    }
    let Some((seed, verdict)) = tried.bad.first() else {
        writeln!(out, "no seed is bad")?;
        return Ok(Validity::Valid);
    };
    let plan = Plan::of(*seed, commit, rules);
    let ran = super::run(&plan, true);
    if let Some(broken) = verdict.broken.first() {
        writeln!(out, "seed {seed}: {broken} is broken; shrinking its {} steps", ran.steps.len())?;
        out.flush()?;
    }
    let small = verdict.broken.first().map(|it| shrink(schedule(&plan, &ran, *it), *it));
    if let Some(small) = &small {
        let (lines, _) = small.tell().context("the shrunk schedule cannot be run again")?;
        writeln!(
            out,
            "\nseed {seed}, shrunk from {} steps to {}:",
            ran.steps.len(),
            small.steps.len()
        )?;
        for line in lines {
            writeln!(out, "{line}")?;
        }
    }
    let directory = keep::keep(&args.store, &plan, &ran, verdict, small.as_ref())?;
    writeln!(out, "\nagain: {}", keep::command(*seed, commit, rules))?;
    if small.is_some() {
        writeln!(out, "schedule: harness replay {}", directory.join("schedule.json").display())?;
    }
    writeln!(out, "{}: {}", verdict.validity(), directory.display())?;
    Ok(verdict.validity())
}
