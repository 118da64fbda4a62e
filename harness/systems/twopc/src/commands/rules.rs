//! The kill matrix: every rule of the protocol is switched off in turn, and every mistake is made, and the model, the
//! simulator or real processes must find a violation. Knows which cluster each rule needs to matter, not how
//! clusters are explored.

mod real;

use std::{
    io::{self, Write},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use checker::Validity;
use clap::Args;
use explore::{
    model::{Exploration, ExplorationLimits, ModelOptions, explore, script, snapshot},
    schedule::Property,
};
use history::Shard;
use lab::duration::parse_duration;
use system::protocol::{CommitMode, Mistake, Request, Rule, Rules};

use crate::{
    Mutation,
    faults::Faults,
    shortest::ShortestSchedules,
    simulation::{SeedRange, SeedResults, run_seeds},
};

/// The arguments of `harness rules`.
#[derive(Args, Clone, Debug)]
pub struct RulesArgs {
    /// Test only these rules and mistakes.
    #[arg(value_name = "RULE|MISTAKE")]
    pub mutations: Vec<Mutation>,
    /// Test only this commit mode: logged or votes. The default is both; with --real, logged.
    #[arg(long, value_name = "MODE")]
    pub commit: Option<CommitMode>,
    /// Limit each exploration of the model to this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub time_limit: u64,
    /// Number of threads of each exploration. With one thread, counterexamples are shortest.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Number of seeds for the simulator to find each mutation, three times over; 0 skips the simulator.
    #[arg(long, default_value_t = 5000)]
    pub seeds: u64,
    /// Print what each rule and each mistake is, and the faults that show it on real processes, and test nothing.
    #[arg(long, conflicts_with = "real")]
    pub list: bool,
    /// Write the shortest counterexample that the model finds for each rule to this file, as a JSON object of
    /// schedules by rule.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["list", "real"])]
    pub schedules: Option<PathBuf>,
    /// Test on real processes instead. Each rule is switched off, and each mistake is made, in runs with the faults
    /// that show it, until a check finds a violation, --runs times; then as many runs follow with
    /// the rule in force. Two controls: a harmless change of timing, which must not be reported, and
    /// a harness that misreports unknown outcomes, which must be.
    #[arg(long)]
    pub real: bool,
    /// With --real: make every run with these faults, instead of those that show the mutation. One row without any
    /// mutation follows.
    #[arg(long, value_name = "FAULT,...", requires = "real")]
    pub faults: Option<Faults>,
    /// With --real: how many times each mutation must be detected.
    #[arg(long, value_name = "N", default_value_t = 5, requires = "real",
          value_parser = clap::builder::RangedU64ValueParser::<u32>::new().range(1..))]
    pub runs: u32,
    /// With --real: how many runs in a row to try before a mutation counts as not detected.
    #[arg(long, value_name = "N", default_value_t = 6, requires = "real",
          value_parser = clap::builder::RangedU64ValueParser::<u32>::new().range(1..))]
    pub tries: u32,
    /// With --real: the duration of the load of each run.
    #[arg(long, value_name = "TIME", default_value = "6s", requires = "real",
          value_parser = parse_duration)]
    pub time: Duration,
    /// With --real: the first seed. The other seeds are derived from it.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "real")]
    pub seed: u64,
    /// With --real: the directory for run records. Valid runs are removed; of the runs that detect a
    /// mutation, the last one is kept.
    #[arg(long, value_name = "DIR", default_value = "histories", requires = "real")]
    pub store: PathBuf,
    /// The shard of the rows that is tested.
    #[arg(skip)]
    pub shard: Shard,
}

/// What the kill matrix shows.
#[derive(Debug)]
pub struct MatrixOutcome {
    /// The greatest verdict on a row.
    pub verdict: Validity,
    /// The number of rows that are tested.
    pub rows: u64,
    /// The rows that are not as expected.
    pub bad: Vec<BadRow>,
    /// Whether a signal ended it before the last row.
    pub interrupted: bool,
    /// The number of these rows that were not tested because of the signal.
    pub left: u64,
    shard: Shard,
    /// The number of rows, those of other shards included.
    position: u64,
}

/// A row that is not as expected.
#[derive(Debug)]
pub struct BadRow {
    /// What is broken in it.
    pub name: String,
    /// The verdict.
    pub verdict: Validity,
    /// What was found.
    pub why: String,
    /// The command that tests it again.
    pub command: String,
}

impl MatrixOutcome {
    fn new(shard: Shard) -> Self {
        MatrixOutcome {
            verdict: Validity::Valid,
            rows: 0,
            bad: Vec::new(),
            interrupted: false,
            left: 0,
            shard,
            position: 0,
        }
    }

    /// Whether the next row is one of this shard.
    fn takes_next(&mut self) -> bool {
        self.position += 1;
        let takes = self.shard.has(self.position - 1);
        self.rows += u64::from(takes);
        takes
    }

    /// Adds the verdict on a row. The command is what follows `harness rules`.
    fn add(&mut self, name: &str, verdict: Validity, why: impl Into<String>, command: &str) {
        self.verdict = self.verdict.max(verdict);
        if verdict != Validity::Valid {
            let command = format!("harness rules {command}");
            self.bad.push(BadRow { name: name.to_owned(), verdict, why: why.into(), command });
        }
    }
}

impl RulesArgs {
    /// What to break, one after the other.
    fn asked(&self) -> Vec<Mutation> {
        if self.mutations.is_empty() { Mutation::all().collect() } else { self.mutations.clone() }
    }

    /// The rules of the protocol to test.
    #[must_use]
    pub fn rules(&self) -> Vec<Rule> {
        let rule = |mutation| match mutation {
            Mutation::Rule(rule) => Some(rule),
            _ => None,
        };
        self.asked().into_iter().filter_map(rule).collect()
    }

    /// The mistakes to make that are made by the state machines.
    fn mistakes(&self) -> Vec<Mistake> {
        let of_machine = |mutation| match mutation {
            Mutation::Mistake(mistake) if mistake.is_of_machine() => Some(mistake),
            _ => None,
        };
        self.asked().into_iter().filter_map(of_machine).collect()
    }

    /// The commit modes to test.
    #[must_use]
    pub fn modes(&self) -> Vec<CommitMode> {
        match self.commit {
            Some(mode) => vec![mode],
            None if self.real => vec![CommitMode::default()],
            None => CommitMode::ALL.to_vec(),
        }
    }
}

/// How often the simulator searches for each mutation, each time with other seeds.
const TRIES: u64 = 3;

/// The small clusters in which a rule matters, smallest first. An equivalent mutant is explored in
/// each of them; for any other rule the first one suffices.
fn clusters(rule: Rule, commit: CommitMode) -> Vec<ModelOptions> {
    let writes = |replicas, transactions| {
        let mut options = ModelOptions::of(replicas, script(transactions, 0, 1));
        options.setup.commit = commit;
        options
    };
    let one = writes(2, 1);
    let replica_crashes = |crashes| ModelOptions { replica_crashes: crashes, ..one.clone() };
    let master_crashes = |crashes| ModelOptions { master_crashes: crashes, ..one.clone() };
    // From empty stores on.
    let beginning = |mut options: ModelOptions| {
        options.setup.handshaken = false;
        options
    };
    match rule {
        Rule::DecisionForced => vec![master_crashes(1)],
        Rule::VoteForced | Rule::RelockOnRecovery | Rule::AckAfterDurable => {
            vec![replica_crashes(1)]
        }
        Rule::SnapshotAtOneInstant => vec![with_snapshot(false, commit)],
        Rule::RangeSeesAbsentLocks => vec![with_snapshot(true, commit)],
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
            // A replica that drops outcomes immediately has none to change.
            let mut options = one;
            options.setup.timing.watermark_batch = 256;
            vec![options]
        }
        Rule::WriteAll => vec![writes(3, 1)],
        Rule::ExclusiveStore => vec![ModelOptions { second_instances: 1, ..one }],
        Rule::PiggybackOnPrepare => vec![writes(2, 2)],
        Rule::EmptyStoreRefused => vec![ModelOptions { wipes: 1, ..one }],
        Rule::MemberBeforePromise => vec![beginning(ModelOptions { wipes: 1, ..one })],
        Rule::MembersDurableBeforeWrite => {
            let lost = |options| beginning(ModelOptions { master_crashes: 1, wipes: 1, ..options });
            let larger = commit.is_logged().then(|| lost(one.clone()));
            std::iter::once(lost(writes(1, 1))).chain(larger).collect()
        }
        // The copy is asked for before the second write of the key, and arrives after it.
        Rule::LateHealDropped => vec![ModelOptions { damages: 1, ..writes(2, 2) }],
        // A round of the scrub has too many steps for a model.
        Rule::ScrubComparesSettled => vec![ModelOptions { damages: 1, ..one }],
        Rule::VetoBeforeAbort | Rule::LateYesIsVoid | Rule::FreezeBeforeAnswer => vec![one],
        Rule::VetoForced => vec![replica_crashes(1)],
        Rule::NoPresumption | Rule::WatermarkWaitsForHandshakes => vec![master_crashes(1)],
        Rule::HandshakeAfterCommits => {
            vec![ModelOptions { master_crashes: 1, replica_crashes: 1, ..one.clone() }]
        }
        // Nobody forges a message or copies a store: the unit tests of the protocol do.
        Rule::NonceOnEveryMessage
        | Rule::FenceNamesSuperseded
        | Rule::DecisionNumberChecked
        | Rule::DecisionsBeforePromise
        | Rule::DecisionsInEveryMessage
        | Rule::RestoredStoreRefused
        | Rule::HandshakeBeforeObeying
        | Rule::PeerIdChecked => vec![master_crashes(1), replica_crashes(1)],
        Rule::EpochCheck if commit == CommitMode::Votes => vec![master_crashes(1)],
        Rule::EpochCheck | Rule::HandshakeBeforeServing | Rule::ReplicaLock => vec![
            writes(2, 2),
            ModelOptions { master_crashes: 1, replica_crashes: 1, ..one.clone() },
            ModelOptions { master_crashes: 1, ..writes(2, 2) },
        ],
    }
}

/// A write of each of two keys, and a snapshot of both, as a list or as a range.
fn with_snapshot(as_range: bool, commit: CommitMode) -> ModelOptions {
    let mut requests = script(2, 0, 2);
    requests.push(snapshot(2, as_range));
    let mut options = ModelOptions::of(1, requests);
    options.setup.commit = commit;
    options
}

/// The small cluster in which a mistake of the state machines could matter.
fn mistake_cluster(mistake: Mistake, commit: CommitMode) -> ModelOptions {
    let (transactions, reads) = match mistake {
        Mistake::ConflictAfterDecision => (2, 0),
        Mistake::VersionBefore | Mistake::ReadsByThreeBits => (1, 1),
        _ => (1, 0),
    };
    let mut options = ModelOptions::of(2, script(transactions, reads, 1));
    options.setup.commit = commit;
    options
}

/// Whether the model or the simulator has a property that a mistake violates. The others concern time, chance, orders
/// to stop, or the version that a get tells, none of which the two look at.
fn is_explored(mistake: Mistake) -> bool {
    matches!(
        mistake,
        Mistake::ConflictAfterDecision | Mistake::DecisionNotRepeated | Mistake::LockAfterAbort
    )
}

/// Whether a rule concerns only forged messages and copied stores. Model and simulator make none; tests of
/// the state machines and of the nodes do.
fn only_against_strangers(rule: Rule) -> bool {
    matches!(rule, Rule::NonceOnEveryMessage | Rule::FenceNamesSuperseded | Rule::PeerIdChecked)
        || only_against_copies(rule)
}

/// Whether a rule concerns older copies of a store, which the fault `restored-copy` makes on real processes.
fn only_against_copies(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::DecisionNumberChecked
            | Rule::DecisionsBeforePromise
            | Rule::DecisionsInEveryMessage
            | Rule::RestoredStoreRefused
            | Rule::HandshakeBeforeObeying
    )
}

/// The property to report for a rule, where a weaker one is violated sooner: a cluster that does not
/// settle is stuck, but one that violates AC1 is wrong.
fn reported_property(rule: Rule) -> Option<Property> {
    (rule == Rule::IncarnationForced).then_some(Property::Ac1)
}

/// Whether the simulator cannot tell the protocol without this rule from the protocol. It has a scrub, which the
/// model has not.
fn is_equivalent_to_seeds(rule: Rule, commit: CommitMode) -> bool {
    rule != Rule::ScrubComparesSettled && rule.is_equivalent(commit)
}

/// Why the simulator's seeds do not show a violation, if they do not. The faults on real processes do
/// not show it either, for the same reason.
fn not_simulated(rule: Rule, commit: CommitMode) -> Option<&'static str> {
    match rule {
        rule if only_against_strangers(rule) => Some("no fault forges a message or copies a store"),
        // All replicas must vote for a master that is gone, and settle the transaction among
        // themselves before the first message of the next master arrives.
        Rule::EpochCheck if commit == CommitMode::Votes => {
            Some("only the model shows it: too rare")
        }
        // The simulator takes no store from a cluster that refuses empty ones: what matters would be
        // a loss at the beginning, and any later one leaves the cluster waiting for its operator.
        Rule::MemberBeforePromise => Some("only the model loses a store at the beginning"),
        Rule::MembersDurableBeforeWrite if commit == CommitMode::Votes => {
            Some("only the model loses a store at the beginning")
        }
        _ => None,
    }
}

/// Prints the kill matrix. It is valid if every mutation is detected except the equivalent mutants,
/// and if no violation is found with every rule in force.
///
/// # Errors
/// The output cannot be written, or, on real processes, the runs cannot be made.
pub fn run(args: &RulesArgs, out: &mut impl Write) -> anyhow::Result<MatrixOutcome> {
    let mut outcome = MatrixOutcome::new(args.shard);
    if args.list {
        list(args, out)?;
        return Ok(outcome);
    }
    if args.real {
        real::run(args, &mut outcome, out)?;
        return Ok(outcome);
    }
    let limits = ExplorationLimits {
        time: Some(Duration::from_secs(args.time_limit)),
        threads: args.threads,
        ..ExplorationLimits::default()
    };
    let mut shortest = ShortestSchedules::default();
    for commit in args.modes() {
        kill_matrix(args, commit, limits, &mut shortest, &mut outcome, out)?;
    }
    if let Some(path) = &args.schedules {
        shortest.write(path).with_context(|| path.display().to_string())?;
    }
    Ok(outcome)
}

/// The faults that show a mutation on real processes, if any does.
#[must_use]
pub fn shown_by(mutation: Mutation) -> Option<&'static str> {
    real::shown_by(mutation)
}

/// Prints what mutations are.
fn list(args: &RulesArgs, out: &mut impl Write) -> io::Result<()> {
    for mutation in args.asked() {
        writeln!(out, "{mutation}")?;
        writeln!(out, "    The system that is broken in this way {}.", mutation.does())?;
        match shown_by(mutation) {
            Some("none") => writeln!(out, "    Shown without a fault.")?,
            Some(faults) => writeln!(out, "    Shown by --faults {faults}.")?,
            None => writeln!(out, "    No fault shows it; see system/DESIGN.md, Rules.")?,
        }
    }
    Ok(())
}

/// The kill matrix of one commit mode.
fn kill_matrix(
    args: &RulesArgs,
    commit: CommitMode,
    limits: ExplorationLimits,
    shortest: &mut ShortestSchedules,
    outcome: &mut MatrixOutcome,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let rules = args.rules();
    let mut row = |rule: &str, model: &str, states: &str, time: &str, sim: &str| {
        writeln!(out, "{rule:<31}{model:<48}{states:>9}{time:>9}  {sim}").and_then(|()| out.flush())
    };
    let title = format!("commit = {commit}, without");
    row(&title, "the model finds", "states", "time", "the simulator finds")?;
    let mut controls: Vec<ModelOptions> = Vec::new();
    for rule in rules.into_iter().filter(|rule| rule.applies_to(commit)) {
        if !outcome.takes_next() {
            continue;
        }
        let command = format!("--commit {commit} {rule}");
        let broken = Rules::ALL.without(rule);
        let mut sim = String::new();
        if args.seeds > 0 {
            let tried = simulated(commit, broken, args.seeds, TRIES);
            let (found, description) = judge_seeds(rule, commit, &tried);
            outcome.add(rule.name(), found, format!("the simulator: {description}"), &command);
            sim = description;
        }
        let mut name = rule.name();
        for clean in clusters(rule, commit) {
            let mut options = clean.clone();
            options.setup.rules = broken;
            options.until = reported_property(rule);
            let found = explore(&options, limits, |_, _| {});
            let detected = detected_by(rule, commit, &found);
            let judged = judge(rule, commit, &found);
            outcome.add(rule.name(), judged, format!("the model finds {detected}"), &command);
            if let Some((_, schedule)) = found.violations.first() {
                shortest.add(rule, schedule);
            }
            let time = format!("{:.1} s", found.elapsed.as_secs_f64());
            row(name, &detected, &found.unique.to_string(), &time, &sim)?;
            (name, sim) = ("", String::new());
            if !controls.contains(&clean) {
                controls.push(clean);
            }
        }
    }
    for mistake in args.mistakes() {
        if !outcome.takes_next() {
            continue;
        }
        let rules = Rules::ALL.with(mistake);
        let mut sim = String::new();
        let mut found_by_sim = false;
        if args.seeds > 0 {
            let tried = simulated(commit, rules, args.seeds.min(500), 1);
            found_by_sim = tried.iter().any(|tried| tried.first_failure().is_some());
            sim = judge_seeds(Rule::HandshakeBeforeServing, commit, &tried).1;
            sim = sim.replace(": equivalent, as expected", "");
        }
        let clean = mistake_cluster(mistake, commit);
        let mut options = clean.clone();
        options.setup.rules = rules;
        let found = explore(&options, limits, |_, _| {});
        let by_model = !found.violations.is_empty();
        let model = match found.violations.is_empty() {
            true => "nothing".to_owned(),
            false => detected_by(Rule::WriteAll, commit, &found),
        };
        // A mistake that neither shows is one of time, or of what is not modelled.
        let is_expected = is_explored(mistake) == (by_model || found_by_sim) || args.seeds == 0;
        let judged = if is_expected { Validity::Valid } else { Validity::Unknown };
        let why = format!("the model finds {model}; the simulator: {sim}");
        outcome.add(mistake.name(), judged, why, &format!("--commit {commit} {mistake}"));
        let time = format!("{:.1} s", found.elapsed.as_secs_f64());
        row(mistake.name(), &model, &found.unique.to_string(), &time, &sim)?;
        if !controls.contains(&clean) {
            controls.push(clean);
        }
    }
    let command = format!("--commit {commit}");
    let control = "every rule in force";
    let mut sim = String::new();
    // A shard without rows has no controls, either.
    if args.seeds > 0 && !controls.is_empty() {
        let clean = simulated(commit, Rules::ALL, args.seeds, TRIES);
        let bad: usize = clean.iter().map(|tried| tried.bad.len()).sum();
        let judged = if bad > 0 { Validity::Invalid } else { Validity::Valid };
        outcome.add(control, judged, format!("the simulator finds {bad} bad seeds"), &command);
        sim = format!("{bad} bad of {} seeds", clean.iter().map(|tried| tried.seeds).sum::<u64>());
    }
    let mut name = control;
    for options in controls {
        let clean = explore(&options, limits, |_, _| {});
        let time = format!("{:.1} s", clean.elapsed.as_secs_f64());
        let description = format!("{}: {}", describe(&options), holds(&clean));
        outcome.add(control, judge_clean(&clean), description.as_str(), &command);
        row(name, &description, &clean.unique.to_string(), &time, &sim)?;
        (name, sim) = ("", String::new());
    }
    Ok(())
}

/// Searches with the simulator, each time until the first seed that violates a property.
fn simulated(commit: CommitMode, rules: Rules, seeds: u64, tries: u64) -> Vec<SeedResults> {
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let search = |n: u64| {
        let from = n * 1_000_000;
        let seeds = SeedRange { from, to: from + seeds };
        run_seeds(seeds, commit, rules, threads, false, false, |_, _| {})
    };
    (0..tries).map(search).collect()
}

/// Judges the simulator's findings and describes them: the violated properties, and the median number
/// of seeds and time until the first violation. Finding nothing proves nothing, so the verdict for a
/// mutation that is not equivalent is then unknown.
fn judge_seeds(rule: Rule, commit: CommitMode, tried: &[SeedResults]) -> (Validity, String) {
    let mut found: Vec<_> =
        tried.iter().filter_map(|tried| Some((tried.first_failure()?, tried))).collect();
    found.sort_by_key(|(first, _)| first.seeds);
    let Some((first, middle)) = found.get(found.len() / 2) else {
        let seeds: u64 = tried.iter().map(|tried| tried.seeds).sum();
        let description = format!("nothing in {seeds} seeds");
        if let Some(why) = not_simulated(rule, commit) {
            return (Validity::Valid, format!("{description}: {why}"));
        }
        return if is_equivalent_to_seeds(rule, commit) {
            (Validity::Valid, description + ": equivalent, as expected")
        } else {
            (Validity::Unknown, description)
        };
    };
    let found_in = if found.len() < tried.len() {
        format!(", in {} of {} tries", found.len(), tried.len())
    } else {
        String::new()
    };
    let seeds = if first.seeds == 1 { "seed" } else { "seeds" };
    let description = format!(
        "{} after {} {seeds}, {:.1} s{found_in}",
        first.violated.join(", "),
        first.seeds,
        middle.elapsed.as_secs_f64(),
    );
    let validity = match (is_equivalent_to_seeds(rule, commit), found.len() == tried.len()) {
        (false, false) if not_simulated(rule, commit).is_some() => Validity::Valid,
        (true, _) => Validity::Invalid,
        (false, true) => Validity::Valid,
        (false, false) => Validity::Unknown,
    };
    (validity, description)
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

/// The violated properties, and the length of the counterexamples.
fn detected_by(rule: Rule, commit: CommitMode, found: &Exploration) -> String {
    if found.violations.is_empty() {
        return match (rule.is_equivalent(commit), found.complete) {
            (true, true) if only_against_strangers(rule) => {
                "nothing in any state: no strangers, no copies".to_owned()
            }
            (true, true) => "nothing in any state: equivalent".to_owned(),
            (false, true) => "nothing: NOT DETECTED".to_owned(),
            (_, false) => "nothing within the time limit".to_owned(),
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
    // Longer counterexamples were found in passing, unless the search was for a particular property,
    // which is then the last one.
    let shown = reported_property(rule).map_or(1, |_| parts.len());
    let parts = parts.iter().take(shown);
    parts
        .map(|(steps, names)| format!("{} in {steps} steps", names.join(", ")))
        .collect::<Vec<_>>()
        .join("; ")
}

fn holds(clean: &Exploration) -> String {
    match clean.violations.first() {
        Some((property, _)) => format!("✗ {property}"),
        None if clean.complete => "holds".to_owned(),
        None => "holds within the time limit".to_owned(),
    }
}

/// A short description of a cluster.
fn describe(options: &ModelOptions) -> String {
    let writes =
        options.script.iter().filter(|request| matches!(request, Request::Write(_))).count();
    let mut description =
        format!("{} replicas, {writes} write{}", options.setup.replicas, plural(writes));
    for (count, what) in [
        (options.master_crashes, "master crash"),
        (options.replica_crashes, "replica crash"),
        (options.wipes, "wiped replica"),
        (options.second_instances, "second instance"),
        (options.damages, "damaged entry"),
    ] {
        if count > 0 {
            description += &format!(", {count} {what}");
        }
    }
    if options.setup.timing.watermark_batch > 1 {
        description += ", outcomes kept";
    }
    if !options.setup.handshaken {
        description += ", from empty stores";
    }
    description
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, thread};

    use super::*;

    /// A small version of what `harness rules` shows.
    #[test]
    fn the_model_detects_every_mutation_but_the_equivalent_ones() {
        for_every_rule(|rule, commit| {
            let mut options = clusters(rule, commit).swap_remove(0);
            options.setup.rules = Rules::ALL.without(rule);
            options.until = reported_property(rule);
            let found = explore(&options, ExplorationLimits::default(), |_, _| {});
            let detected = detected_by(rule, commit, &found);
            assert_eq!(
                judge(rule, commit, &found),
                Validity::Valid,
                "{commit}, {rule}: {detected}"
            );
        });
    }

    /// Every rule in every commit mode to which it applies, on all processors: some rules take as long as ten others.
    fn for_every_rule(check: impl Fn(Rule, CommitMode) + Sync) {
        let rules = CommitMode::ALL.into_iter().flat_map(|commit| {
            let rules = Rule::ALL.iter().filter(move |rule| rule.applies_to(commit));
            rules.map(move |rule| (*rule, commit))
        });
        let rules = Mutex::new(rules);
        let next = || rules.lock().expect("no check holds it").next();
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, std::num::NonZero::get) {
                scope.spawn(|| {
                    while let Some((rule, commit)) = next() {
                        check(rule, commit);
                    }
                });
            }
        });
    }

    #[test]
    fn the_simulator_detects_every_mutation_but_the_equivalent_ones() {
        for_every_rule(|rule, commit| {
            let rare =
                is_equivalent_to_seeds(rule, commit) || not_simulated(rule, commit).is_some();
            let seeds = if rare { 50 } else { 5000 };
            let tried = simulated(commit, Rules::ALL.without(rule), seeds, 1);
            let (verdict, description) = judge_seeds(rule, commit, &tried);
            assert_eq!(verdict, Validity::Valid, "{commit}, {rule}: {description}");
        });
    }
}
