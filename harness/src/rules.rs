//! The kill matrix: every rule of the protocol broken in turn, and who notices. Knows the model, the
//! simulator and what each rule needs to matter; nothing of how they explore.

mod real;

use std::{io::Write, path::PathBuf, thread, time::Duration};

use clap::Args;
use system::protocol::{CommitMode, Request, Rule, Rules};

use crate::{
    checker::Validity,
    model::{
        ModelOptions,
        command::script,
        explore::{Exploration, ExplorationLimits, explore},
    },
    runner::parse_duration,
    schedule::Property,
    sim::command::{SeedRange, SeedResults, run_seeds},
};

/// Break every rule in turn, and see who notices.
#[derive(Args, Clone, Debug)]
pub struct RulesArgs {
    /// Only these rules.
    #[arg(value_name = "RULE")]
    pub rules: Vec<Rule>,
    /// Only where this makes a commit: logged (the master's log) or votes; both by default, with
    /// --real logged.
    #[arg(long, value_name = "MODE")]
    pub commit: Option<CommitMode>,
    /// Spend at most so many seconds on each exploration.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub time_limit: u64,
    /// Threads of each exploration; with one the schedules are the shortest.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Give the simulator so many seeds to find each broken rule, three times over; 0 leaves it out.
    #[arg(long, default_value_t = 5000)]
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

impl RulesArgs {
    /// Where commits are made as asked for.
    #[must_use]
    pub fn modes(&self) -> Vec<CommitMode> {
        match self.commit {
            Some(mode) => vec![mode],
            None if self.real => vec![CommitMode::default()],
            None => CommitMode::ALL.to_vec(),
        }
    }
}

/// How often the simulator looks for a broken rule, each time among other seeds.
const TRIES: u64 = 3;

/// What a rule needs to matter: small clusters, smallest first. A rule that another covers for is
/// explored in each; of any other the first is enough.
fn clusters(rule: Rule, commit: CommitMode) -> Vec<ModelOptions> {
    let writes = |replicas, transactions| {
        let mut options = ModelOptions::of(replicas, script(transactions, 0, 1));
        options.setup.commit = commit;
        options
    };
    let one = writes(2, 1);
    let replica_crashes = |crashes| ModelOptions { replica_crashes: crashes, ..one.clone() };
    let master_crashes = |crashes| ModelOptions { master_crashes: crashes, ..one.clone() };
    match rule {
        Rule::DecisionForced => vec![master_crashes(1)],
        Rule::VoteForced | Rule::RelockOnRecovery | Rule::AckAfterDurable => {
            vec![replica_crashes(1)]
        }
        Rule::ReadsRespectLocks
        | Rule::PreparedWaits
        | Rule::ForgetAfterAllAcks
        | Rule::RefuseBeforePeerAbort
        | Rule::KeepOutcomeUntilWatermark
        | Rule::WatermarkWaitsForAcks
        | Rule::NoGuessInDoubt => vec![one],
        Rule::EpochForced => vec![master_crashes(2)],
        Rule::IncarnationForced => vec![replica_crashes(2)],
        Rule::CommitIsFinal => {
            // A replica that drops its outcomes at once has nothing to change.
            let mut options = one;
            options.setup.timing.watermark_batch = 256;
            vec![options]
        }
        Rule::WriteAll => vec![writes(3, 1)],
        Rule::ExclusiveStore => vec![ModelOptions { second_instances: 1, ..one }],
        Rule::PiggybackOnPrepare => vec![writes(2, 2)],
        Rule::EmptyStoreRefused => vec![ModelOptions { wipes: 1, ..one }],
        Rule::VetoBeforeAbort | Rule::LateYesIsVoid | Rule::FreezeBeforeAnswer => vec![one],
        Rule::VetoForced => vec![replica_crashes(1)],
        Rule::NoPresumption | Rule::WatermarkWaitsForHandshakes => vec![master_crashes(1)],
        Rule::HandshakeAfterCommits => {
            vec![ModelOptions { master_crashes: 1, replica_crashes: 1, ..one.clone() }]
        }
        Rule::EpochCheck if commit == CommitMode::Votes => vec![master_crashes(1)],
        Rule::EpochCheck | Rule::HandshakeBeforeServing | Rule::ReplicaLock => vec![
            writes(2, 2),
            ModelOptions { master_crashes: 1, replica_crashes: 1, ..one.clone() },
            ModelOptions { master_crashes: 1, ..writes(2, 2) },
        ],
    }
}

/// The property that speaks for a rule, where another notices sooner that tells less: a cluster that
/// does not settle is stuck, one that breaks AC1 is wrong.
fn telling(rule: Rule) -> Option<Property> {
    (rule == Rule::IncarnationForced).then_some(Property::Ac1)
}

/// Whether so much must come together to break something that the simulator's seeds do not show it:
/// without its epoch check a replica must vote for a master that is gone, and so must all others,
/// and they must settle it among each other before the next master's first word arrives.
fn too_rare(rule: Rule, commit: CommitMode) -> bool {
    rule == Rule::EpochCheck && commit == CommitMode::Votes
}

/// Prints the kill matrix: valid if every rule that is not redundant is caught, the redundant ones
/// are not, and nothing is caught where no rule is broken.
///
/// # Errors
/// It cannot be printed, or, on real processes, the runs cannot be made.
pub fn run(args: &RulesArgs, out: &mut impl Write) -> anyhow::Result<Validity> {
    if args.real {
        return real::run(args, out);
    }
    let bounds = ExplorationLimits {
        time: Some(Duration::from_secs(args.time_limit)),
        threads: args.threads,
        ..ExplorationLimits::default()
    };
    let mut verdict = Validity::Valid;
    for commit in args.modes() {
        verdict = verdict.max(kill_matrix(args, commit, bounds, out)?);
    }
    Ok(verdict)
}

/// The kill matrix of one mode.
fn kill_matrix(
    args: &RulesArgs,
    commit: CommitMode,
    bounds: ExplorationLimits,
    out: &mut impl Write,
) -> anyhow::Result<Validity> {
    let rules = if args.rules.is_empty() { Rule::ALL } else { &args.rules };
    let mut verdict = Validity::Valid;
    let mut row = |rule: &str, model: &str, states: &str, time: &str, sim: &str| {
        writeln!(out, "{rule:<26}{model:<48}{states:>9}{time:>9}  {sim}").and_then(|()| out.flush())
    };
    let title = format!("commit = {commit}, without");
    row(&title, "the model finds", "states", "time", "the simulator finds")?;
    let mut beside: Vec<ModelOptions> = Vec::new();
    for &rule in rules.iter().filter(|rule| rule.applies_to(commit)) {
        let broken = Rules::ALL.without(rule);
        let mut sim = String::new();
        if args.seeds > 0 {
            let (found, words) =
                judge_seeds(rule, commit, &simulated(commit, broken, args.seeds, TRIES));
            verdict = verdict.max(found);
            sim = words;
        }
        let mut name = rule.name();
        for clean in clusters(rule, commit) {
            let mut options = clean.clone();
            options.setup.rules = broken;
            options.until = telling(rule);
            let found = explore(&options, bounds, |_, _| {});
            verdict = verdict.max(judge(rule, commit, &found));
            let time = format!("{:.1} s", found.elapsed.as_secs_f64());
            row(name, &caught(rule, commit, &found), &found.unique.to_string(), &time, &sim)?;
            (name, sim) = ("", String::new());
            if !beside.contains(&clean) {
                beside.push(clean);
            }
        }
    }
    let mut sim = String::new();
    if args.seeds > 0 {
        let clean = simulated(commit, Rules::ALL, args.seeds, TRIES);
        let bad: usize = clean.iter().map(|tried| tried.bad.len()).sum();
        verdict = verdict.max(if bad > 0 { Validity::Invalid } else { Validity::Valid });
        sim = format!("{bad} bad of {} seeds", clean.iter().map(|tried| tried.seeds).sum::<u64>());
    }
    let mut name = "with every rule";
    for options in beside {
        let clean = explore(&options, bounds, |_, _| {});
        verdict = verdict.max(judge_clean(&clean));
        let time = format!("{:.1} s", clean.elapsed.as_secs_f64());
        let words = format!("{}: {}", described(&options), holds(&clean));
        row(name, &words, &clean.unique.to_string(), &time, &sim)?;
        (name, sim) = ("", String::new());
    }
    Ok(verdict)
}

/// Lets the simulator look for what is broken, each time until the first bad seed.
fn simulated(commit: CommitMode, rules: Rules, seeds: u64, tries: u64) -> Vec<SeedResults> {
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let look = |n: u64| {
        let from = n * 1_000_000;
        let seeds = SeedRange { from, to: from + seeds };
        run_seeds(seeds, commit, rules, threads, false, false, |_, _| {})
    };
    (0..tries).map(look).collect()
}

/// Whether what the simulator found is right, and that in words: by which properties, and the median
/// of the seeds and of the time that it took. That it finds nothing proves nothing, so a rule that is
/// not redundant stays unknown then.
fn judge_seeds(rule: Rule, commit: CommitMode, tried: &[SeedResults]) -> (Validity, String) {
    let mut found: Vec<_> =
        tried.iter().filter_map(|tried| Some((tried.first_failure()?, tried))).collect();
    found.sort_by_key(|(first, _)| first.seeds);
    let Some((first, middle)) = found.get(found.len() / 2) else {
        let seeds: u64 = tried.iter().map(|tried| tried.seeds).sum();
        let words = format!("nothing in {seeds} seeds");
        if too_rare(rule, commit) {
            return (Validity::Valid, words + ": the model alone");
        }
        return if rule.is_equivalent(commit) {
            (Validity::Valid, words + ": redundant, as it should be")
        } else {
            (Validity::Unknown, words)
        };
    };
    let found_in = if found.len() < tried.len() {
        format!(", in {} of {} tries", found.len(), tried.len())
    } else {
        String::new()
    };
    let seeds = if first.seeds == 1 { "seed" } else { "seeds" };
    let words = format!(
        "{} after {} {seeds}, {:.1} s{found_in}",
        first.violated.join(", "),
        first.seeds,
        middle.elapsed.as_secs_f64(),
    );
    let validity = match (rule.is_equivalent(commit), found.len() == tried.len()) {
        (false, false) if too_rare(rule, commit) => Validity::Valid,
        (true, _) => Validity::Invalid,
        (false, true) => Validity::Valid,
        (false, false) => Validity::Unknown,
    };
    (validity, words)
}

fn judge(rule: Rule, commit: CommitMode, found: &Exploration) -> Validity {
    match (rule.is_equivalent(commit), found.violations.is_empty(), found.complete) {
        (false, false, _) | (true, true, true) => Validity::Valid,
        (true, true, false) => Validity::Unknown,
        (false, true, _) | (true, false, _) => Validity::Invalid,
    }
}

fn judge_clean(clean: &Exploration) -> Validity {
    match (clean.violations.is_empty(), clean.complete) {
        (true, true) => Validity::Valid,
        (true, false) => Validity::Unknown,
        (false, _) => Validity::Invalid,
    }
}

/// Who noticed, and after how many steps.
fn caught(rule: Rule, commit: CommitMode, found: &Exploration) -> String {
    if found.violations.is_empty() {
        return match (rule.is_equivalent(commit), found.complete) {
            (true, true) => "nothing in any state: redundant".to_owned(),
            (false, true) => "nothing: NOT CAUGHT".to_owned(),
            (_, false) => "nothing in the time allowed".to_owned(),
        };
    }
    let mut parts: Vec<(usize, Vec<&str>)> = Vec::new();
    for (property, schedule) in &found.violations {
        let steps = schedule.steps.len();
        match parts.iter_mut().find(|part| part.0 == steps) {
            Some((_, names)) => names.push(property.name()),
            None => parts.push((steps, vec![property.name()])),
        }
    }
    // Those that took longer were met by the way; one that was looked for stands at the end.
    let last = telling(rule).map_or(1, |_| parts.len());
    let told = parts.iter().take(last);
    told.map(|(steps, names)| format!("{} in {steps} steps", names.join(", ")))
        .collect::<Vec<_>>()
        .join("; ")
}

fn holds(clean: &Exploration) -> String {
    match clean.violations.first() {
        Some((property, _)) => format!("✗ {property}"),
        None if clean.complete => "holds".to_owned(),
        None => "holds, then the time was up".to_owned(),
    }
}

/// A cluster in a few words.
fn described(options: &ModelOptions) -> String {
    let writes = options.script.iter().filter(|it| matches!(it, Request::Write(_))).count();
    let mut words =
        format!("{} replicas, {writes} write{}", options.setup.replicas, plural(writes));
    for (count, what) in [
        (options.master_crashes, "master crash"),
        (options.replica_crashes, "replica crash"),
        (options.wipes, "wiped replica"),
        (options.second_instances, "second_instance"),
    ] {
        if count > 0 {
            words += &format!(", {count} {what}");
        }
    }
    if options.setup.timing.watermark_batch > 1 {
        words += ", outcomes kept";
    }
    words
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kill matrix in small: what the command `harness rules` shows in full.
    #[test]
    fn the_model_catches_every_rule_but_the_redundant() {
        for (rule, commit) in every() {
            let mut options = clusters(rule, commit).swap_remove(0);
            options.setup.rules = Rules::ALL.without(rule);
            options.until = telling(rule);
            let found = explore(&options, ExplorationLimits::default(), |_, _| {});
            let words = caught(rule, commit, &found);
            assert_eq!(judge(rule, commit, &found), Validity::Valid, "{commit}, {rule}: {words}");
        }
    }

    /// Every rule in every mode that it concerns.
    fn every() -> impl Iterator<Item = (Rule, CommitMode)> {
        CommitMode::ALL.into_iter().flat_map(|commit| {
            let rules = Rule::ALL.iter().filter(move |rule| rule.applies_to(commit));
            rules.map(move |rule| (*rule, commit))
        })
    }

    #[test]
    fn the_simulator_catches_every_rule_but_the_redundant() {
        for (rule, commit) in every() {
            let rare = rule.is_equivalent(commit) || too_rare(rule, commit);
            let seeds = if rare { 50 } else { 5000 };
            let tried = simulated(commit, Rules::ALL.without(rule), seeds, 1);
            let (verdict, words) = judge_seeds(rule, commit, &tried);
            assert_eq!(verdict, Validity::Valid, "{commit}, {rule}: {words}");
        }
    }
}
