//! The scoreboard: every rule of the protocol broken in turn, and who notices. Knows the model and
//! what each rule needs to matter; nothing of how the model explores.

mod real;

use std::{
    io::Write,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use system::protocol::{Rule, Rules};

use crate::{
    checker::Validity,
    model::{
        Options,
        command::script,
        explore::{Bounds, Explored, explore},
    },
    runner::parse_duration,
    sim::command::{Seeds, try_seeds},
};

/// Break every rule in turn, and see who notices.
#[derive(Args, Clone, Debug)]
pub struct RulesArgs {
    /// Only these rules.
    #[arg(value_name = "RULE")]
    pub rules: Vec<Rule>,
    /// Spend at most so many seconds on each exploration.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub time_limit: u64,
    /// Threads of each exploration; with one the schedules are the shortest.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Give the simulator so many seeds to find each broken rule; none leaves it out.
    #[arg(long, default_value_t = 500)]
    pub seeds: u64,
    /// On real processes instead: each rule with the faults that it guards against, until it is
    /// caught, so many times; then as many runs with the rule kept. And two controls: a change
    /// that is none, which must not be caught, and a harness that lies, which must be.
    #[arg(long)]
    pub real: bool,
    /// With --real: catch each rule so many times.
    #[arg(long, value_name = "N", default_value_t = 5, requires = "real",
          value_parser = clap::builder::RangedU64ValueParser::<u32>::new().range(1..))]
    pub runs: u32,
    /// With --real: give up on catching a rule after so many runs in a row.
    #[arg(long, value_name = "N", default_value_t = 6, requires = "real",
          value_parser = clap::builder::RangedU64ValueParser::<u32>::new().range(1..))]
    pub tries: u32,
    /// With --real: the load of each run takes so long.
    #[arg(long, value_name = "TIME", default_value = "6s", requires = "real",
          value_parser = parse_duration)]
    pub time: Duration,
    /// With --real: the first seed; the others follow from it.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "real")]
    pub seed: u64,
    /// With --real: where runs are kept; of those that end as they should only the last one of
    /// each rule that was caught.
    #[arg(long, value_name = "DIR", default_value = "histories", requires = "real")]
    pub store: PathBuf,
}

/// What a rule needs to matter: small clusters, smallest first.
fn clusters(rule: Rule) -> Vec<Options> {
    let writes = |replicas, transactions| Options::of(replicas, script(transactions, 0, 1));
    let one = writes(2, 1);
    let replica_crashes = |crashes| Options { replica_crashes: crashes, ..one.clone() };
    let master_crashes = |crashes| Options { master_crashes: crashes, ..one.clone() };
    match rule {
        Rule::DecisionForced => vec![master_crashes(1)],
        Rule::VoteForced | Rule::RelockOnRecovery | Rule::AckAfterDurable => {
            vec![replica_crashes(1)]
        }
        Rule::ReadsRespectLocks
        | Rule::PreparedWaits
        | Rule::ForgetAfterAllAcks
        | Rule::RefuseBeforePeerAbort
        | Rule::KeepOutcomeUntilFloor
        | Rule::FloorWaitsForAcks
        | Rule::NoGuessInDoubt => vec![one],
        Rule::MasterBootForces => vec![master_crashes(2)],
        Rule::ReplicaBootForces => vec![replica_crashes(2)],
        Rule::CommitIsFinal => {
            // A replica that drops its outcomes at once has nothing to change.
            let mut options = one;
            options.setup.timing.floor_batch = 256;
            vec![options]
        }
        Rule::WriteAll => vec![writes(3, 1)],
        Rule::ExclusiveStore => vec![Options { twins: 1, ..one }],
        Rule::ResolvesOnPrepare => vec![writes(2, 2)],
        Rule::EmptyStoreRefused => vec![Options { wipes: 1, ..one }],
        Rule::EpochCheck | Rule::HandshakeBeforeServing | Rule::ReplicaLock => vec![
            writes(2, 2),
            Options { master_crashes: 1, replica_crashes: 1, ..one.clone() },
            Options { master_crashes: 1, ..writes(2, 2) },
        ],
    }
}

/// Prints the scoreboard: valid if every rule that is not redundant is caught, the redundant ones
/// are not, and nothing is caught where no rule is broken.
///
/// # Errors
/// It cannot be printed, or, on real processes, the runs cannot be made.
pub fn run(args: &RulesArgs, out: &mut impl Write) -> anyhow::Result<Validity> {
    if args.real {
        return real::run(args, out);
    }
    let bounds = Bounds {
        time: Some(Duration::from_secs(args.time_limit)),
        threads: args.threads,
        ..Bounds::default()
    };
    let rules = if args.rules.is_empty() { Rule::ALL } else { &args.rules };
    let mut verdict = Validity::Valid;
    writeln!(
        out,
        "{:<26}{:<46}{:>10}{:>8}  clean beside it",
        "rule", "without it the model finds", "states", "time"
    )?;
    for &rule in rules {
        if args.seeds > 0 {
            let (found, line) = simulated(rule, args.seeds);
            verdict = verdict.max(found);
            writeln!(out, "{:<26}simulator: {line}", rule.name())?;
        }
        for options in clusters(rule) {
            let mut broken = options.clone();
            broken.setup.rules = Rules::ALL.without(rule);
            let found = explore(&broken, bounds, |_, _| {});
            let clean = explore(&options, bounds, |_, _| {});
            verdict = verdict.max(judge(rule, &found)).max(judge_clean(&clean));
            let Explored { unique, elapsed, .. } = &found;
            writeln!(
                out,
                "{:<26}{:<46}{unique:>10}{:>7.1}s  {}",
                rule.name(),
                caught(rule, &found),
                elapsed.as_secs_f64(),
                beside(&clean),
            )?;
            out.flush()?;
        }
    }
    Ok(verdict)
}

/// What the simulator finds without the rule, and whether that is right. That it finds nothing is
/// no proof, so a rule that is not redundant stays unknown then.
fn simulated(rule: Rule, seeds: u64) -> (Validity, String) {
    let start = Instant::now();
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let range = Seeds { from: 0, to: seeds };
    let tried = try_seeds(range, Rules::ALL.without(rule), threads, false, false, |_, _| {});
    let seconds = start.elapsed().as_secs_f64();
    match (tried.bad.first(), rule.redundant()) {
        (Some((seed, verdict)), redundant) => {
            let found = if redundant { Validity::Invalid } else { Validity::Valid };
            (found, format!("{} in seed {seed}, {seconds:.1} s", verdict.names().join(", ")))
        }
        (None, true) => (Validity::Valid, format!("nothing in {seeds} seeds, as it should be")),
        (None, false) => (Validity::Unknown, format!("nothing in {seeds} seeds")),
    }
}

fn judge(rule: Rule, found: &Explored) -> Validity {
    match (rule.redundant(), found.broken.is_empty(), found.complete) {
        (false, false, _) | (true, true, true) => Validity::Valid,
        (true, true, false) => Validity::Unknown,
        (false, true, _) | (true, false, _) => Validity::Invalid,
    }
}

fn judge_clean(clean: &Explored) -> Validity {
    match (clean.broken.is_empty(), clean.complete) {
        (true, true) => Validity::Valid,
        (true, false) => Validity::Unknown,
        (false, _) => Validity::Invalid,
    }
}

/// Who noticed, and after how many steps.
fn caught(rule: Rule, found: &Explored) -> String {
    let Some((_, first)) = found.broken.first() else {
        return match (rule.redundant(), found.complete) {
            (true, true) => "nothing: redundant, as it should be".to_owned(),
            (false, true) => "nothing: NOT CAUGHT".to_owned(),
            (_, false) => "nothing in the time allowed".to_owned(),
        };
    };
    let steps = first.steps.len();
    let names: Vec<_> = found
        .broken
        .iter()
        .filter(|(_, schedule)| schedule.steps.len() == steps)
        .map(|(property, _)| property.name())
        .collect();
    format!("{} in {steps} steps", names.join(", "))
}

fn beside(clean: &Explored) -> String {
    match clean.broken.first() {
        Some((property, _)) => format!("✗ {property}"),
        None if clean.complete => format!("holds in all {} states", clean.unique),
        None => format!("holds in {} states, then the time was up", clean.unique),
    }
}
