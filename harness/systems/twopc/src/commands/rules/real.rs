//! The kill matrix for real processes: each rule is switched off, and each mistake is made, in runs with the faults
//! that show it, until a check reports a violation; then the same runs follow with the rule in
//! force, and the controls. Knows which faults a rule needs, not how they are injected.

use std::{collections::BTreeMap, fs, io::Write, path::PathBuf, sync::Arc, time::Instant};

use super::{MatrixOutcome, RulesArgs};
use crate::{
    Mutation,
    checks::check_run,
    faults::Faults,
    run::{self, FailFast, RunOptions},
};
use anyhow::Context as _;
use checker::{Limits, Validity};
use history::Shard;
use lab::{disk, progress::NoProgress, seeds::run_seeds, signals::follow_signals, workload::Mix};
use system::{
    protocol::{CommitMode, Mistake, Rule},
    store,
};
use tokio::{runtime::Runtime, sync::watch};

/// The kind of run in which a mutation is to be detected.
#[derive(Clone, Copy, Debug)]
struct RunProfile {
    faults: &'static str,
    concurrency: u32,
    keys: u32,
    /// Operations each second, of all clients together; 0: as many as possible.
    rate: f64,
    timings: &'static str,
    /// The duration of the load, as a multiple of the usual one.
    length: u32,
    sequence_above: u64,
}

impl RunProfile {
    const fn of(faults: &'static str) -> Self {
        RunProfile {
            faults,
            concurrency: 10,
            keys: 16,
            rate: 0.0,
            timings: "",
            length: 1,
            sequence_above: 0,
        }
    }

    /// All faults, in runs twice as long.
    const fn all() -> Self {
        RunProfile { length: 2, ..RunProfile::of("all") }
    }
}

/// Replicas ask their peers within the vote timeout.
const IMPATIENT: &str = "inquiry_timeout_ms=100,peer_inquiry_after=1";

/// The same, with a vote timeout that no outage exceeds.
const LONG_VOTES: &str = "inquiry_timeout_ms=100,peer_inquiry_after=1,vote_timeout_ms=4000";

/// The runs in which a rule matters, as far as faults can bring that about.
fn profile(rule: Rule) -> RunProfile {
    match rule {
        Rule::DecisionForced => RunProfile::of("master-uncertainty"),
        Rule::NoGuessInDoubt | Rule::PreparedWaits => {
            RunProfile { timings: IMPATIENT, ..RunProfile::of("master-uncertainty") }
        }
        Rule::VoteForced | Rule::AckAfterDurable => RunProfile::of("replica-uncertainty"),
        // A read must meet the key of a write that waits for a vote. This needs many readers, and a
        // vote timeout longer than the pause of one replica while another restarts.
        Rule::RelockOnRecovery => RunProfile {
            concurrency: 30,
            timings: "vote_timeout_ms=4000",
            ..RunProfile::of("kill-replica,pause-replica")
        },
        Rule::ReadsRespectLocks => RunProfile::of("master-uncertainty,messages"),
        // A replica must be asked for an outcome that it has dropped while the master, which knows
        // it, is paused.
        Rule::KeepOutcomeUntilWatermark => {
            RunProfile { timings: IMPATIENT, ..RunProfile::of("master-uncertainty") }
        }
        Rule::ForgetAfterAllAcks
        | Rule::WatermarkWaitsForAcks
        | Rule::CommitIsFinal
        | Rule::PiggybackOnPrepare => RunProfile::of("messages"),
        Rule::RefuseBeforePeerAbort => {
            RunProfile { timings: LONG_VOTES, ..RunProfile::of("messages") }
        }
        Rule::WriteAll => RunProfile::of("kill-replica,partition"),
        Rule::ExclusiveStore => RunProfile::of("second-master"),
        Rule::EmptyStoreRefused | Rule::MemberBeforePromise | Rule::MembersDurableBeforeWrite => {
            RunProfile::of("wipe-replica")
        }
        // Only a power loss can take what a restart has found.
        Rule::EpochForced | Rule::IncarnationForced => {
            RunProfile { length: 3, ..RunProfile::of("power-loss") }
        }
        Rule::VetoBeforeAbort | Rule::LateYesIsVoid => RunProfile::of("messages"),
        Rule::VetoForced => RunProfile::of("power-loss,messages"),
        Rule::FreezeBeforeAnswer => {
            RunProfile { timings: IMPATIENT, ..RunProfile::of("messages,partition") }
        }
        Rule::NoPresumption => RunProfile::of("master-uncertainty"),
        Rule::WatermarkWaitsForHandshakes | Rule::HandshakeAfterCommits => RunProfile::all(),
        Rule::EpochCheck | Rule::HandshakeBeforeServing | Rule::ReplicaLock => RunProfile::all(),
        Rule::LateHealDropped => RunProfile::of("bit-flip"),
        Rule::ScrubComparesSettled => RunProfile::of("messages"),
        // No fault forges a message.
        Rule::NonceOnEveryMessage | Rule::FenceNamesSuperseded | Rule::PeerIdChecked => {
            RunProfile::all()
        }
        Rule::DecisionNumberChecked
        | Rule::DecisionsBeforePromise
        | Rule::DecisionsInEveryMessage
        | Rule::HandshakeBeforeObeying
        | Rule::RestoredStoreRefused => RunProfile { length: 2, ..RunProfile::of("restored-copy") },
    }
}

/// Why the faults do not show that a rule is broken, if they do not.
fn not_shown(rule: Rule, commit: CommitMode) -> Option<&'static str> {
    match rule {
        Rule::LateHealDropped => Some("a write would have to overtake a copy that is on its way"),
        Rule::ScrubComparesSettled => {
            Some("a delete would have to be applied between two messages of the scrub")
        }
        Rule::DecisionsInEveryMessage => Some(
            "a replica would have to apply the later of two commits alone, and the copy to have the earlier one",
        ),
        Rule::HandshakeBeforeObeying => {
            Some("a Prepare would have to reach the copy before the Fence")
        }
        rule if super::only_against_copies(rule) => None,
        rule => super::not_simulated(rule, commit),
    }
}

/// The rules of the store that a fault of disks shows, and the fault.
const STORE_RULES: [(store::Rule, &str); 3] = [
    (store::Rule::PageChecksum, "bit-flip"),
    (store::Rule::ReuseAfterSync, "power-loss,disk-error"),
    (store::Rule::YesReservesSpace, "disk-full"),
];

/// The runs that show a mistake of a node.
fn mistake_profile(mistake: Mistake) -> RunProfile {
    match mistake {
        Mistake::VersionBefore
        | Mistake::ConflictAfterDecision
        | Mistake::WatermarkStops
        | Mistake::VoteDropped
        | Mistake::WriteRepeated
        | Mistake::DescriptorLeaked
        | Mistake::LoopSpins => RunProfile::of("none"),
        // The number of a transaction exceeds 32 bits in the middle of the run.
        Mistake::WatermarkIn32Bits => {
            RunProfile { sequence_above: (1 << 32) - 200, ..RunProfile::of("none") }
        }
        // A share is told from luck after some thousand gets.
        Mistake::ReadsByThreeBits => RunProfile { length: 2, ..RunProfile::of("none") },
        // Every write and read of a key repeats its unacknowledged decisions, so each key must rest.
        Mistake::DecisionNotRepeated => {
            RunProfile { keys: 400, rate: 100.0, length: 2, ..RunProfile::of("partition") }
        }
        // A replica that is paused for longer than the timeout, and for too short to be given up.
        Mistake::VoteTimeoutTenfold => RunProfile {
            timings: "vote_timeout_ms=100,heartbeat_ms=500",
            ..RunProfile::of("pause-replica")
        },
        Mistake::InquiryTenfold => {
            RunProfile { timings: IMPATIENT, ..RunProfile::of("kill-master") }
        }
        Mistake::LockAfterAbort => RunProfile { length: 2, ..RunProfile::all() },
        // Keys must rest, or a write or a read comes before the scrub.
        Mistake::ScrubComparesNothing => {
            RunProfile { keys: 400, rate: 150.0, ..RunProfile::of("bit-flip") }
        }
        Mistake::SilentReplicaKept => RunProfile::of("pause-replica,partition"),
        Mistake::StopReportsAbort => RunProfile::of("restart-master"),
    }
}

/// The faults that show a mutation, as far as any does.
pub(super) fn shown_by(mutation: Mutation) -> Option<&'static str> {
    match mutation {
        Mutation::Rule(rule) => {
            let modes = CommitMode::ALL.iter().filter(|mode| rule.applies_to(**mode));
            let is_shown = modes.into_iter().any(|mode| not_shown(rule, *mode).is_none());
            is_shown.then(|| profile(rule).faults)
        }
        Mutation::StoreRule(rule) => {
            STORE_RULES.iter().find(|(shown, _)| *shown == rule).map(|(_, faults)| *faults)
        }
        Mutation::Mistake(mistake) => Some(mistake_profile(mistake).faults),
        Mutation::StoreMistake(mistake) => Some(store_mistake_profile(mistake).faults),
        Mutation::SyncMode(_) => Some("power-loss"),
    }
}

/// The runs that show a mistake of the store.
fn store_mistake_profile(mistake: store::Mistake) -> RunProfile {
    match mistake {
        store::Mistake::FrameEndForgotten => RunProfile::of("kill-master,kill-replica"),
        store::Mistake::ValueLengthInSixteenBits
        | store::Mistake::KeyLengthInEightBits
        | store::Mistake::DeleteReadAsEmpty => RunProfile::of("none"),
    }
}

/// How often a mutation was detected.
#[derive(Debug, Default)]
struct Score {
    /// For each detection: the number of runs until then, and seconds.
    detected: Vec<(u32, f64)>,
    /// How often it was not detected within the allowed number of runs.
    missed: u32,
    /// The checks that detected it, and how often.
    by: BTreeMap<String, u32>,
    /// The number of runs with the verdict unknown.
    unknown: u32,
    /// The number of runs.
    runs: u32,
}

/// Makes runs and judges them.
struct Experiments<'a> {
    args: &'a RulesArgs,
    commit: CommitMode,
    runtime: Runtime,
    interrupt: watch::Receiver<bool>,
    /// Whether the nodes' disks can lose power, or why not.
    disks: Result<(), String>,
}

/// Prints the kill matrix. It is valid if every mutation is detected except the equivalent mutants,
/// every run with all rules in force is valid, and the controls end as expected.
///
/// # Errors
/// The runs cannot be made, or the output cannot be written.
pub(super) fn run(
    args: &RulesArgs,
    outcome: &mut MatrixOutcome,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let commit = args.commit.unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let interrupt = runtime.block_on(async { follow_signals() })?;
    let experiments = Experiments { args, commit, runtime, interrupt, disks: disk::available() };
    writeln!(
        out,
        "{:<30}{:<24}{:>9}{:>8}{:>9}  by, and the same runs with the rule in force",
        "without", "faults", "detected", "runs", "seconds"
    )?;
    let rules = args.rules();
    // A rule of the other commit mode has no effect in this one.
    for rule in rules.iter().filter(|rule| rule.applies_to(commit)) {
        if !outcome.takes_next() {
            continue;
        }
        if experiments.interrupted() {
            outcome.interrupt();
            return Ok(());
        }
        let is_of_copies = super::only_against_copies(*rule);
        if let Some(why) = not_shown(*rule, commit) {
            writeln!(out, "{:<30}skipped: {why}", rule.name())?;
            continue;
        }
        let profile = profile(*rule);
        if experiments.skips(rule.name(), profile, out)? {
            continue;
        }
        let mutated = experiments.options(profile, Some(Mutation::Rule(*rule)));
        // An equivalent mutant must survive as many runs as another one has for its detection.
        let survives = rule.is_equivalent(commit) && !is_of_copies;
        let tries = if survives { 1 } else { args.tries };
        let score = experiments.score(&mutated, tries)?;
        let clean = experiments.score(&experiments.options(profile, None), 1)?;
        outcome.score(
            commit,
            rule.name(),
            score.verdict(!survives).max(clean.verdict(false)),
            &score,
        );
        print_row(rule.name(), profile.faults, &score, Some(&clean), out)?;
    }
    for (mutation, profile) in experiments.mistakes() {
        if !outcome.takes_next() {
            continue;
        }
        if experiments.interrupted() {
            outcome.interrupt();
            return Ok(());
        }
        if experiments.skips(mutation.name(), profile, out)? {
            continue;
        }
        let mutated = experiments.options(profile, Some(mutation));
        let score = experiments.score(&mutated, args.tries)?;
        let clean = experiments.score(&experiments.options(profile, None), 1)?;
        outcome.score(
            commit,
            mutation.name(),
            score.verdict(true).max(clean.verdict(false)),
            &score,
        );
        print_row(mutation.name(), profile.faults, &score, Some(&clean), out)?;
    }
    if args.mutations.is_empty() {
        for (rule, faults) in STORE_RULES {
            if !outcome.takes_next() {
                continue;
            }
            let profile = RunProfile::of(faults);
            if experiments.skips(rule.name(), profile, out)? {
                continue;
            }
            let mutated = experiments.options(profile, Some(Mutation::StoreRule(rule)));
            let score = experiments.score(&mutated, args.tries)?;
            let clean = experiments.score(&experiments.options(profile, None), 1)?;
            outcome.score(
                commit,
                rule.name(),
                score.verdict(true).max(clean.verdict(false)),
                &score,
            );
            print_row(rule.name(), faults, &score, Some(&clean), out)?;
        }
        if outcome.takes_next() {
            let other = RunProfile { timings: OTHER_TIMINGS, ..RunProfile::all() };
            let score = experiments.score(&experiments.options(other, None), 1)?;
            outcome.score(commit, "(other timings)", score.verdict(false), &score);
            print_row("(other timings)", other.faults, &score, None, out)?;
        }
        if outcome.takes_next() {
            let misreporting = RunProfile::of("kill-master");
            let misreporting =
                RunOptions { misreport_unknown: true, ..experiments.options(misreporting, None) };
            let score = experiments.score(&misreporting, args.tries)?;
            outcome.score(commit, "(misreporting harness)", score.verdict(true), &score);
            print_row("(misreporting harness)", "kill-master", &score, None, out)?;
        }
    }
    outcome.interrupted = experiments.interrupted();
    Ok(())
}

impl MatrixOutcome {
    /// A signal ends it: the rows that are left are unknown.
    fn interrupt(&mut self) {
        self.interrupted = true;
        self.verdict = self.verdict.max(Validity::Unknown);
    }

    fn score(&mut self, commit: CommitMode, name: &str, verdict: Validity, score: &Score) {
        let Score { detected, missed, unknown, runs, .. } = score;
        let why = format!(
            "detected {} times, missed {missed} times, {unknown} of {runs} runs unknown",
            detected.len()
        );
        // The rows that no rule names are part of the whole matrix only.
        let named = if name.parse::<Mutation>().is_ok() { name } else { "" };
        let command = format!("--real --commit {commit} {named}");
        self.add(name, verdict, why, command.trim_end());
    }
}

/// A harmless change: every timing parameter differs, and outcomes are dropped as soon as possible.
const OTHER_TIMINGS: &str = "vote_timeout_ms=600,retransmit_ms=60,inquiry_timeout_ms=150,peer_inquiry_after=1,heartbeat_ms=100,watermark_batch=1";

impl Experiments<'_> {
    /// The mistakes to make, and the runs that show them.
    fn mistakes(&self) -> Vec<(Mutation, RunProfile)> {
        let of_nodes = Mistake::ALL.iter();
        let of_nodes = of_nodes.map(|it| (Mutation::Mistake(*it), mistake_profile(*it)));
        let of_store = store::Mistake::ALL.iter();
        let of_store = of_store.map(|it| (Mutation::StoreMistake(*it), store_mistake_profile(*it)));
        let asked = &self.args.mutations;
        let is_asked =
            |(mutation, _): &(Mutation, RunProfile)| asked.is_empty() || asked.contains(mutation);
        of_nodes.chain(of_store).filter(is_asked).collect()
    }

    fn interrupted(&self) -> bool {
        *self.interrupt.borrow()
    }

    /// Says so if the faults of a profile are impossible here.
    fn skips(&self, rule: &str, profile: RunProfile, out: &mut impl Write) -> anyhow::Result<bool> {
        let faults: Faults = profile.faults.parse().expect("these faults exist");
        let Err(why) = &self.disks else { return Ok(false) };
        if !faults.names().iter().all(|fault| fault.needs_disks()) {
            return Ok(false);
        }
        writeln!(out, "{rule:<30}skipped: {} needs root and FUSE ({why})", profile.faults)?;
        Ok(true)
    }

    fn options(&self, profile: RunProfile, mutation: Option<Mutation>) -> RunOptions {
        let mut faults: Faults = profile.faults.parse().expect("these faults exist");
        if self.disks.is_err() {
            faults = faults.without_disks();
        }
        let disks = self.disks.is_ok() && faults.use_disks();
        RunOptions {
            faults,
            time_limit: self.args.time * profile.length,
            concurrency: profile.concurrency,
            rate: profile.rate,
            keys: profile.keys,
            replicas: 3,
            commit: self.commit,
            mix: Mix::default(),
            seed: 0,
            store: self.args.store.clone(),
            system: "twopc".to_owned(),
            system_bin: None,
            mutations: mutation.into_iter().collect(),
            disks,
            shard: Shard::WHOLE,
            timings: profile.timings.parse().expect("these parameters exist"),
            relay: false,
            tls: false,
            sequence_above: profile.sequence_above,
            misreport_unknown: false,
            schedule: None,
            // What clients see is counted as well, not only what the journals show first.
            fail_fast: FailFast::ClientsSeeIt,
            script: None,
        }
    }

    /// Makes runs until the mutation was detected as often as asked for, each time within at most
    /// `tries` runs. Of the runs that detect it, the last one is kept.
    fn score(&self, options: &RunOptions, tries: u32) -> anyhow::Result<Score> {
        let mut score = Score::default();
        let mut kept: Option<PathBuf> = None;
        let mut seeds = run_seeds(self.args.seed, self.args.runs.saturating_mul(tries));
        for _ in 0..self.args.runs {
            let started = Instant::now();
            let mut after = 0;
            let detected = loop {
                if after == tries {
                    break false;
                }
                let Some(seed) = seeds.next() else { break false };
                if self.interrupted() {
                    return Ok(score);
                }
                after += 1;
                score.runs += 1;
                let options = RunOptions { seed, ..options.clone() };
                let run = self.runtime.block_on(run::run(
                    &options,
                    self.interrupt.clone(),
                    Arc::new(NoProgress),
                ))?;
                let (_, results) = check_run(&run.directory, &Limits::default())?;
                match results.verdict {
                    Validity::Valid => remove(run.directory)?,
                    Validity::Unknown => score.unknown += 1,
                    Validity::Invalid => {
                        let checks = results.checks.iter();
                        for check in checks.filter(|check| check.verdict == Validity::Invalid) {
                            *score.by.entry(check.check.clone()).or_default() += 1;
                        }
                        if let Some(previous) = kept.replace(run.directory) {
                            remove(previous)?;
                        }
                        break true;
                    }
                }
            };
            if detected {
                score.detected.push((after, started.elapsed().as_secs_f64()));
            } else {
                score.missed += 1;
            }
        }
        Ok(score)
    }
}

fn remove(directory: PathBuf) -> anyhow::Result<()> {
    fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())
}

impl Score {
    /// Whether the mutation was detected as expected.
    fn verdict(&self, must_be_detected: bool) -> Validity {
        match (must_be_detected, self.detected.is_empty(), self.missed, self.unknown) {
            (true, true, ..) | (false, false, ..) => Validity::Invalid,
            (true, false, 0, _) | (false, true, _, 0) => Validity::Valid,
            (true, false, ..) | (false, true, ..) => Validity::Unknown,
        }
    }

    fn medians(&self) -> Option<(u32, f64)> {
        let mut runs: Vec<_> = self.detected.iter().map(|(runs, _)| *runs).collect();
        let mut seconds: Vec<_> = self.detected.iter().map(|(_, seconds)| *seconds).collect();
        runs.sort_unstable();
        seconds.sort_by(f64::total_cmp);
        Some((*runs.get(runs.len() / 2)?, *seconds.get(seconds.len() / 2)?))
    }
}

/// Prints a row of the matrix.
fn print_row(
    name: &str,
    faults: &str,
    score: &Score,
    clean: Option<&Score>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let (detected, missed) = (score.detected.len(), score.missed as usize);
    let detected = format!("{detected} of {}", detected + missed);
    let (runs, seconds) = score.medians().map_or_else(
        || (String::from("-"), String::from("-")),
        |(runs, seconds)| (runs.to_string(), format!("{seconds:.1}")),
    );
    let mut by: Vec<_> = score.by.iter().collect();
    by.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
    let by: Vec<_> = by.iter().map(|(check, times)| format!("{check} {times}")).collect();
    let mut by = if by.is_empty() { "nothing".to_owned() } else { by.join(", ") };
    if score.unknown > 0 {
        by.push_str(&format!("; {} of {} runs unknown", score.unknown, score.runs));
    }
    if let Some(clean) = clean {
        by.push_str(&match (clean.detected.len(), clean.unknown) {
            (0, 0) => format!("; in force: {} runs, all valid", clean.runs),
            (alarms, unknown) => {
                format!("; in force: {} runs, {alarms} FALSE ALARMS, {unknown} unknown", clean.runs)
            }
        });
    }
    writeln!(out, "{name:<30}{faults:<24}{detected:>9}{runs:>8}{seconds:>9}  {by}")?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::Timings;

    use super::*;

    #[test]
    fn every_rule_has_a_run_profile() {
        for rule in Rule::ALL {
            let profile = profile(*rule);
            profile.faults.parse::<Faults>().expect(profile.faults);
            profile.timings.parse::<Timings>().expect(profile.timings);
        }
        let of_nodes = Mistake::ALL.iter().map(|mistake| mistake_profile(*mistake));
        let of_store = store::Mistake::ALL.iter().map(|mistake| store_mistake_profile(*mistake));
        for profile in of_nodes.chain(of_store) {
            profile.faults.parse::<Faults>().expect(profile.faults);
            profile.timings.parse::<Timings>().expect(profile.timings);
        }
        OTHER_TIMINGS.parse::<Timings>().expect(OTHER_TIMINGS);
    }

    #[test]
    fn the_verdict_depends_on_whether_detection_is_expected() {
        let seen = Score { detected: vec![(2, 9.0), (1, 5.0), (4, 30.0)], ..Score::default() };
        assert_eq!(seen.medians(), Some((2, 9.0)));
        assert_eq!(seen.verdict(true), Validity::Valid);
        assert_eq!(seen.verdict(false), Validity::Invalid);
        let unseen = Score { missed: 3, ..Score::default() };
        assert_eq!(unseen.verdict(true), Validity::Invalid);
        assert_eq!(unseen.verdict(false), Validity::Valid);
        assert_eq!(Score { unknown: 1, ..unseen }.verdict(false), Validity::Unknown);
        assert_eq!(Score { missed: 1, ..seen }.verdict(true), Validity::Unknown);
    }
}
