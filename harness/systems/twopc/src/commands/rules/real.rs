//! The kill matrix for real processes: each rule is switched off, and each mistake is made, in runs with the faults
//! that show it, until a check reports a violation; then the same runs follow with the rule in
//! force, and the controls. Knows which faults a rule needs, not how they are injected.

use std::{collections::BTreeMap, fs, io::Write, path::PathBuf, sync::Arc, time::Instant};

use super::{MatrixOutcome, RulesArgs};
use crate::{
    Mutation,
    checks::check_run,
    faults::Faults,
    run::{self, FailFast, RunOptions, Variation},
};
use anyhow::Context as _;
use checker::{Limits, Validity};
use history::Shard;
use lab::{disk, progress::NoProgress, signals::follow_signals, workload::Mix};
use system::{
    protocol::{CommitMode, Mistake, Rule},
    store,
};
use tokio::{runtime::Runtime, sync::watch};

/// The kind of run in which a mutation is to be detected.
#[derive(Clone, Copy, Debug)]
struct RunProfile {
    faults: &'static str,
    /// The load, and the parameters of the nodes.
    shape: Variation,
    /// The duration of the load, as a multiple of the usual one.
    length: u32,
}

impl RunProfile {
    const fn of(faults: &'static str) -> Self {
        RunProfile { faults, shape: Variation::USUAL, length: 1 }
    }

    /// All faults, in runs twice as long.
    const fn all() -> Self {
        RunProfile { length: 2, ..RunProfile::of("all") }
    }

    const fn with(self, shape: Variation) -> Self {
        RunProfile { shape, ..self }
    }

    const fn timed(self, timings: &'static str) -> Self {
        self.with(Variation { timings, ..Variation::USUAL })
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
            RunProfile::of("master-uncertainty").timed(IMPATIENT)
        }
        Rule::VoteForced | Rule::AckAfterDurable => RunProfile::of("replica-uncertainty"),
        // A read must meet the key of a write that waits for a vote. This needs many readers, and a
        // vote timeout longer than the pause of one replica while another restarts.
        Rule::RelockOnRecovery => RunProfile::of("kill-replica,pause-replica").with(Variation {
            concurrency: 30,
            timings: "vote_timeout_ms=4000",
            ..Variation::USUAL
        }),
        Rule::ReadsRespectLocks => RunProfile::of("master-uncertainty,messages"),
        // A replica must be asked for an outcome that it has dropped while the master, which knows
        // it, is paused.
        Rule::KeepOutcomeUntilWatermark => RunProfile::of("master-uncertainty").timed(IMPATIENT),
        Rule::ForgetAfterAllAcks
        | Rule::WatermarkWaitsForAcks
        | Rule::CommitIsFinal
        | Rule::PiggybackOnPrepare => RunProfile::of("messages"),
        // Keys must stay locked for long, and others be written meanwhile.
        Rule::SnapshotAtOneInstant | Rule::RangeSeesAbsentLocks => RunProfile::of("messages"),
        Rule::RefuseBeforePeerAbort => RunProfile::of("messages").timed(LONG_VOTES),
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
        Rule::FreezeBeforeAnswer => RunProfile::of("messages,partition").timed(IMPATIENT),
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

/// The runs that show a rule of the store, if any fault does.
fn store_rule_profile(rule: store::Rule) -> Option<RunProfile> {
    match rule {
        store::Rule::PageChecksum => Some(RunProfile::of("bit-flip")),
        store::Rule::ReuseAfterSync => Some(RunProfile::of("power-loss,disk-error")),
        store::Rule::YesReservesSpace => Some(RunProfile::of("disk-full")),
        _ => None,
    }
}

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
            let numbers = Variation { sequence_above: (1 << 32) - 200, ..Variation::USUAL };
            RunProfile::of("none").with(numbers)
        }
        // A share is told from luck after some thousand gets.
        Mistake::ReadsByThreeBits => RunProfile { length: 2, ..RunProfile::of("none") },
        // Every write and read of a key repeats its unacknowledged decisions, so each key must rest.
        Mistake::DecisionNotRepeated => {
            let resting = Variation { keys: 400, rate: 100.0, ..Variation::USUAL };
            RunProfile { length: 2, ..RunProfile::of("partition").with(resting) }
        }
        // A replica that is paused for longer than the timeout, and for too short to be given up.
        Mistake::VoteTimeoutTenfold => {
            RunProfile::of("pause-replica").timed("vote_timeout_ms=100,heartbeat_ms=500")
        }
        Mistake::InquiryTenfold => RunProfile::of("kill-master").timed(IMPATIENT),
        Mistake::LockAfterAbort => RunProfile { length: 2, ..RunProfile::all() },
        // Keys must rest, or a write or a read comes before the scrub.
        Mistake::ScrubComparesNothing => {
            let resting = Variation { keys: 400, rate: 150.0, ..Variation::USUAL };
            RunProfile::of("bit-flip").with(resting)
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
        Mutation::StoreRule(rule) => store_rule_profile(rule).map(|profile| profile.faults),
        Mutation::Mistake(mistake) => Some(mistake_profile(mistake).faults),
        Mutation::StoreMistake(mistake) => Some(store_mistake_profile(mistake).faults),
        Mutation::SyncMode(_) => Some(SYNC_PROFILE.faults),
    }
}

/// The runs that show that syncs are missing.
const SYNC_PROFILE: RunProfile = RunProfile { length: 3, ..RunProfile::of("power-loss") };

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

/// A row of the matrix: runs of one kind, and what is to come of them.
#[derive(Clone, Debug)]
struct Row {
    name: &'static str,
    mutation: Option<Mutation>,
    misreports: bool,
    profile: RunProfile,
    /// How many runs in a row may fail to detect it.
    tries: u32,
    must_be_detected: bool,
    /// Whether the same runs follow with nothing broken.
    has_twin: bool,
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
    for mutation in args.asked() {
        match experiments.row(mutation) {
            Some(Ok(row)) => experiments.make(&row, outcome, out)?,
            Some(Err(why)) if outcome.takes_next() => {
                writeln!(out, "{:<30}skipped: {why}", mutation.name())?;
            }
            Some(Err(_)) | None => {}
        }
    }
    if args.mutations.is_empty() {
        for row in experiments.controls() {
            experiments.make(&row, outcome, out)?;
        }
    }
    outcome.interrupted = experiments.interrupted();
    Ok(())
}

impl MatrixOutcome {
    fn score(&mut self, of: &Experiments<'_>, row: &Row, verdict: Validity, score: &Score) {
        let Score { detected, missed, unknown, runs, .. } = score;
        let why = format!(
            "detected {} times, missed {missed} times, {unknown} of {runs} runs unknown",
            detected.len()
        );
        let mut command = format!("--real --commit {}", of.commit);
        if let Some(faults) = &of.args.faults {
            command.push_str(&format!(" --faults {faults}"));
        }
        // The rows that no mutation names are part of the whole matrix only.
        if let Some(mutation) = row.mutation {
            command.push_str(&format!(" {mutation}"));
        }
        self.add(row.name, verdict, why, &command);
    }
}

/// A harmless change: every timing parameter differs, and outcomes are dropped as soon as possible.
const OTHER_TIMINGS: &str = "vote_timeout_ms=600,retransmit_ms=60,inquiry_timeout_ms=150,peer_inquiry_after=1,heartbeat_ms=100,watermark_batch=1";

impl Experiments<'_> {
    /// The row of a mutation. `None`: it has no effect in this commit mode. `Err`: why no fault shows it.
    fn row(&self, mutation: Mutation) -> Option<Result<Row, &'static str>> {
        let mut row = Row {
            name: mutation.name(),
            mutation: Some(mutation),
            misreports: false,
            profile: SYNC_PROFILE,
            tries: self.args.tries,
            must_be_detected: true,
            // With the same faults everywhere, one row without a mutation stands for all.
            has_twin: self.args.faults.is_none(),
        };
        match mutation {
            Mutation::Rule(rule) if !rule.applies_to(self.commit) => return None,
            Mutation::Rule(rule) => {
                if let Some(why) = not_shown(rule, self.commit) {
                    return Some(Err(why));
                }
                row.profile = profile(rule);
                if rule.is_equivalent(self.commit) && !super::only_against_copies(rule) {
                    // It must survive as many runs as another one has for its detection.
                    row = Row { tries: 1, must_be_detected: false, ..row };
                }
            }
            Mutation::Mistake(mistake) => row.profile = mistake_profile(mistake),
            Mutation::StoreMistake(mistake) => row.profile = store_mistake_profile(mistake),
            Mutation::StoreRule(rule) => match store_rule_profile(rule) {
                Some(profile) => row.profile = profile,
                None => return Some(Err("the tests of the store show it")),
            },
            Mutation::SyncMode(_) => {}
        }
        Some(Ok(row))
    }

    /// Runs with nothing broken, or only the harness.
    fn controls(&self) -> Vec<Row> {
        let harmless = Row {
            name: "(other timings)",
            mutation: None,
            misreports: false,
            profile: RunProfile::all().timed(OTHER_TIMINGS),
            tries: 1,
            must_be_detected: false,
            has_twin: false,
        };
        if self.args.faults.is_some() {
            return vec![Row { name: "(nothing)", ..harmless }];
        }
        let misreporting = Row {
            name: "(misreporting harness)",
            misreports: true,
            profile: RunProfile::of("kill-master"),
            tries: self.args.tries,
            must_be_detected: true,
            ..harmless.clone()
        };
        vec![harmless, misreporting]
    }

    /// Makes the runs of a row and prints it, if the shard has it.
    fn make(
        &self,
        row: &Row,
        outcome: &mut MatrixOutcome,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        if !outcome.takes_next() {
            return Ok(());
        }
        if self.interrupted() {
            // The rows that are left are unknown.
            outcome.verdict = outcome.verdict.max(Validity::Unknown);
            outcome.left += 1;
            return Ok(());
        }
        let options = self.options(row);
        if let Err(why) = &self.disks
            && self.faults(row.profile).names().iter().all(|fault| fault.needs_disks())
        {
            let faults = row.profile.faults;
            writeln!(out, "{:<30}skipped: {faults} needs root and FUSE ({why})", row.name)?;
            return Ok(());
        }
        let score = self.score(&options, row.tries)?;
        let twin = RunOptions { mutations: Vec::new(), ..options.clone() };
        let twin = row.has_twin.then(|| self.score(&twin, 1)).transpose()?;
        let mut verdict = score.verdict(row.must_be_detected);
        if let Some(twin) = &twin {
            verdict = verdict.max(twin.verdict(false));
        }
        outcome.score(self, row, verdict, &score);
        print_row(row.name, &options.faults.to_string(), &score, twin.as_ref(), out)
    }

    fn interrupted(&self) -> bool {
        *self.interrupt.borrow()
    }

    /// The faults of a row.
    fn faults(&self, profile: RunProfile) -> Faults {
        let asked = self.args.faults.clone();
        asked.unwrap_or_else(|| profile.faults.parse().expect("these faults exist"))
    }

    fn options(&self, row: &Row) -> RunOptions {
        let profile = row.profile;
        let mut faults = self.faults(profile);
        if self.disks.is_err() {
            faults = faults.without_disks();
        }
        let disks = self.disks.is_ok() && faults.use_disks();
        let length = if self.args.faults.is_some() { 1 } else { profile.length };
        RunOptions {
            faults,
            time_limit: self.args.time * length,
            concurrency: profile.shape.concurrency,
            rate: profile.shape.rate,
            keys: profile.shape.keys,
            replicas: 3,
            commit: self.commit,
            mix: Mix::default(),
            seed: 0,
            store: self.args.store.clone(),
            system: "twopc".to_owned(),
            system_bin: None,
            mutations: row.mutation.into_iter().collect(),
            disks,
            shard: Shard::WHOLE,
            timings: profile.shape.timings(),
            relay: false,
            tls: false,
            sequence_above: profile.shape.sequence_above,
            misreport_unknown: row.misreports,
            schedule: None,
            // What clients see is counted as well, not only what the journals show first.
            fail_fast: FailFast::ClientsSeeIt,
            script: None,
        }
    }

    /// The options of the run with this seed. Runs with the faults that the user named have the load that any
    /// run with these faults has.
    fn seeded(&self, options: &RunOptions, seed: u64) -> RunOptions {
        let mut options = RunOptions { seed, ..options.clone() };
        if let Some(faults) = &self.args.faults {
            options = options.shaped(Variation::of(faults, seed));
        }
        options
    }

    /// Makes runs until the mutation was detected as often as asked for, each time within at most
    /// `tries` runs. Of the runs that detect it, the last one is kept.
    fn score(&self, options: &RunOptions, tries: u32) -> anyhow::Result<Score> {
        let mut score = Score::default();
        let mut kept: Option<PathBuf> = None;
        // Consecutive seeds, so that each series meets every variation of a run of all faults.
        let mut seeds = self.args.seed..;
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
                let options = self.seeded(options, seed);
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
    use super::*;

    #[test]
    fn every_profile_can_be_used() {
        let of_rules = Rule::ALL.iter().map(|rule| profile(*rule));
        let of_nodes = Mistake::ALL.iter().map(|mistake| mistake_profile(*mistake));
        let of_store = store::Mistake::ALL.iter().map(|mistake| store_mistake_profile(*mistake));
        let of_store_rules = store::Rule::ALL.iter().filter_map(|rule| store_rule_profile(*rule));
        let others = [SYNC_PROFILE, RunProfile::all().timed(OTHER_TIMINGS)];
        let all = of_rules.chain(of_nodes).chain(of_store).chain(of_store_rules).chain(others);
        for profile in all {
            profile.faults.parse::<Faults>().expect(profile.faults);
            assert_eq!(profile.shape.timings().to_string(), profile.shape.timings);
        }
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
