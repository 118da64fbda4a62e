//! The kill matrix's column for real processes: each rule broken in runs with the faults that it
//! guards against, until a check notices; the same runs with the rule kept; and the controls.
//! Knows which faults a rule needs; nothing of how they are made.

use std::{collections::BTreeMap, fs, io::Write, path::PathBuf, time::Instant};

use anyhow::Context as _;
use system::protocol::{CommitMode, Rule};
use tokio::{runtime::Runtime, sync::watch};

use super::RulesArgs;
use crate::{
    checker::{Validity, linearizability::Limits},
    commands::check_run,
    disk,
    generator::{Mix, run_seeds},
    nemesis::{Faults, matrix::Part},
    runner::{self, RunOptions, follow_signals},
    systems::Break,
};

/// The runs in which something is to be noticed.
#[derive(Clone, Copy, Debug)]
struct Scene {
    faults: &'static str,
    concurrency: u32,
    timing: &'static str,
    /// How many times as long as others.
    length: u32,
}

impl Scene {
    const fn of(faults: &'static str) -> Self {
        Scene { faults, concurrency: 10, timing: "", length: 1 }
    }

    /// Everything takes its time.
    const fn all() -> Self {
        Scene { length: 2, ..Scene::of("all") }
    }
}

/// Replicas that turn to their peers within the vote timeout.
const IMPATIENT: &str = "inquiry_timeout_ms=100,peer_inquiry_after=1";

/// The same, with votes that count even after the longest wait.
const LONG_VOTES: &str = "inquiry_timeout_ms=100,peer_inquiry_after=1,vote_timeout_ms=4000";

/// What a rule needs to matter, as far as runs can give it.
fn scene(rule: Rule) -> Scene {
    match rule {
        Rule::DecisionForced => Scene::of("master-uncertainty"),
        Rule::NoGuessInDoubt | Rule::PreparedWaits => {
            Scene { timing: IMPATIENT, ..Scene::of("master-uncertainty") }
        }
        Rule::VoteForced | Rule::AckAfterDurable => Scene::of("replica-uncertainty"),
        // A read must meet the key of a write that waits for a vote, so it takes many readers, and
        // votes that are waited for as long as a replica lies while another comes back.
        Rule::RelockOnRecovery => Scene {
            concurrency: 30,
            timing: "vote_timeout_ms=4000",
            ..Scene::of("kill-replica,pause-replica")
        },
        Rule::ReadsRespectLocks => Scene::of("master-uncertainty,messages"),
        // Somebody must be asked what it has dropped, while the master lies that could tell.
        Rule::KeepOutcomeUntilWatermark => {
            Scene { timing: IMPATIENT, ..Scene::of("master-uncertainty") }
        }
        Rule::ForgetAfterAllAcks
        | Rule::WatermarkWaitsForAcks
        | Rule::CommitIsFinal
        | Rule::PiggybackOnPrepare => Scene::of("messages"),
        Rule::RefuseBeforePeerAbort => Scene { timing: LONG_VOTES, ..Scene::of("messages") },
        Rule::WriteAll => Scene::of("kill-replica,partition"),
        Rule::ExclusiveStore => Scene::of("second-master"),
        Rule::EmptyStoreRefused => Scene::of("wipe-replica"),
        // What a restart finds can be lost again only by a loss of power.
        Rule::EpochForced | Rule::IncarnationForced => {
            Scene { length: 3, ..Scene::of("power-loss") }
        }
        Rule::VetoBeforeAbort | Rule::LateYesIsVoid => Scene::of("messages"),
        Rule::VetoForced => Scene::of("power-loss,messages"),
        Rule::FreezeBeforeAnswer => Scene { timing: IMPATIENT, ..Scene::of("messages,partition") },
        Rule::NoPresumption => Scene::of("master-uncertainty"),
        Rule::WatermarkWaitsForHandshakes | Rule::HandshakeAfterCommits => Scene::all(),
        Rule::EpochCheck | Rule::HandshakeBeforeServing | Rule::ReplicaLock => Scene::all(),
    }
}

/// What came of trying to have something noticed.
#[derive(Debug, Default)]
struct Score {
    /// For each time that it was: after how many runs, and seconds.
    caught: Vec<(u32, f64)>,
    /// How many times it was not, in all the runs that it was given.
    missed: u32,
    /// Which checks noticed it, how many times.
    by: BTreeMap<String, u32>,
    /// Runs that were neither valid nor invalid.
    unknown: u32,
    runs: u32,
}

/// Makes runs and judges them.
struct Bench<'a> {
    args: &'a RulesArgs,
    commit: CommitMode,
    runtime: Runtime,
    interrupt: watch::Receiver<bool>,
    /// Whether the nodes' disks can lose power, and why not.
    disks: Result<(), String>,
}

/// Prints the column: valid if every rule that can be caught is, the redundant ones are not, no
/// run with every rule kept is anything but valid, and the controls end as they should.
///
/// # Errors
/// The runs cannot be made, or it cannot be printed.
pub(super) fn run(args: &RulesArgs, out: &mut impl Write) -> anyhow::Result<Validity> {
    let commit = args.commit.unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let interrupt = runtime.block_on(async { follow_signals() })?;
    let bench = Bench { args, commit, runtime, interrupt, disks: disk::available() };
    writeln!(
        out,
        "{:<26}{:<24}{:>8}{:>8}{:>9}  by, and the same runs with the rule kept",
        "rule", "faults", "caught", "runs", "seconds"
    )?;
    let mut verdict = Validity::Valid;
    let rules = if args.rules.is_empty() { Rule::ALL } else { &args.rules };
    // Of the rules of the other mode runs of this one tell nothing.
    for rule in rules.iter().filter(|rule| rule.applies_to(commit)) {
        if bench.interrupted() {
            return Ok(verdict.max(Validity::Unknown));
        }
        let scene = scene(*rule);
        if let (Err(why), "power-loss") = (&bench.disks, scene.faults) {
            writeln!(out, "{:<26}not here: power-loss takes FUSE, and root ({why})", rule.name())?;
            continue;
        }
        let broken = bench.options(scene, Some(*rule));
        // What must not be noticed gets as many runs as what must.
        let tries = if rule.is_equivalent(commit) { 1 } else { args.tries };
        let score = bench.score(&broken, tries)?;
        let clean = bench.score(&bench.options(scene, None), 1)?;
        verdict = verdict.max(score.verdict(!rule.is_equivalent(commit))).max(clean.verdict(false));
        show(rule.name(), scene.faults, &score, Some(&clean), out)?;
    }
    if args.rules.is_empty() {
        let other = Scene { timing: OTHER_TIMING, ..Scene::all() };
        let score = bench.score(&bench.options(other, None), 1)?;
        verdict = verdict.max(score.verdict(false));
        show("(other periods)", other.faults, &score, None, out)?;
        let lying = Scene::of("kill-master");
        let lying = RunOptions { lie: true, ..bench.options(lying, None) };
        let score = bench.score(&lying, args.tries)?;
        verdict = verdict.max(score.verdict(true));
        show("(a lying harness)", "kill-master", &score, None, out)?;
    }
    Ok(verdict)
}

/// A change that is none: every period is another, and outcomes are dropped as soon as they may be.
const OTHER_TIMING: &str = "vote_timeout_ms=600,retransmit_ms=60,inquiry_timeout_ms=150,peer_inquiry_after=1,heartbeat_ms=100,watermark_batch=1";

impl Bench<'_> {
    fn interrupted(&self) -> bool {
        *self.interrupt.borrow()
    }

    fn options(&self, scene: Scene, broken: Option<Rule>) -> RunOptions {
        let mut faults: Faults = scene.faults.parse().expect("these faults exist");
        if self.disks.is_err() {
            faults = faults.without_disks();
        }
        let disks = self.disks.is_ok() && faults.want_disks();
        RunOptions {
            faults,
            time_limit: self.args.time * scene.length,
            concurrency: scene.concurrency,
            rate: 0.0,
            keys: 16,
            replicas: 3,
            commit: self.commit,
            mix: Mix::default(),
            seed: 0,
            store: self.args.store.clone(),
            system: "twopc".to_owned(),
            system_bin: None,
            broken: broken.into_iter().map(Break::Rule).collect(),
            disks,
            part: Part::WHOLE,
            timing: scene.timing.parse().expect("these periods exist"),
            relay: false,
            lie: false,
            schedule: None,
            fail_fast: true,
            script: None,
        }
    }

    /// Makes runs until something was noticed as often as it was asked for, each time in at most
    /// so many runs. Of what was noticed the last run is kept.
    fn score(&self, options: &RunOptions, tries: u32) -> anyhow::Result<Score> {
        let mut score = Score::default();
        let mut kept: Option<PathBuf> = None;
        let mut seeds = run_seeds(self.args.seed, self.args.runs.saturating_mul(tries));
        for _ in 0..self.args.runs {
            let began = Instant::now();
            let mut after = 0;
            let caught = loop {
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
                let made =
                    self.runtime.block_on(runner::run(&options, self.interrupt.clone(), true))?;
                let (_, results) = check_run(&made.directory, &Limits::default())?;
                match results.verdict {
                    Validity::Valid => remove(made.directory)?,
                    Validity::Unknown => score.unknown += 1,
                    Validity::Invalid => {
                        let found = results.checks.iter();
                        for check in found.filter(|check| check.verdict == Validity::Invalid) {
                            *score.by.entry(check.check.clone()).or_default() += 1;
                        }
                        if let Some(before) = kept.replace(made.directory) {
                            remove(before)?;
                        }
                        break true;
                    }
                }
            };
            if caught {
                score.caught.push((after, began.elapsed().as_secs_f64()));
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
    /// Whether this is as it should be.
    fn verdict(&self, to_be_caught: bool) -> Validity {
        match (to_be_caught, self.caught.is_empty(), self.missed, self.unknown) {
            (true, true, ..) | (false, false, ..) => Validity::Invalid,
            (true, false, 0, _) | (false, true, _, 0) => Validity::Valid,
            (true, false, ..) | (false, true, ..) => Validity::Unknown,
        }
    }

    fn medians(&self) -> Option<(u32, f64)> {
        let mut runs: Vec<_> = self.caught.iter().map(|(runs, _)| *runs).collect();
        let mut seconds: Vec<_> = self.caught.iter().map(|(_, seconds)| *seconds).collect();
        runs.sort_unstable();
        seconds.sort_by(f64::total_cmp);
        Some((*runs.get(runs.len() / 2)?, *seconds.get(seconds.len() / 2)?))
    }
}

/// A line of the column.
fn show(
    name: &str,
    faults: &str,
    score: &Score,
    clean: Option<&Score>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let caught = format!("{} of {}", score.caught.len(), score.caught.len() as u32 + score.missed);
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
        by.push_str(&match (clean.caught.len(), clean.unknown) {
            (0, 0) => format!("; kept: {} runs, all valid", clean.runs),
            (alarms, unknown) => {
                format!("; kept: {} runs, {alarms} FALSE ALARMS, {unknown} unknown", clean.runs)
            }
        });
    }
    writeln!(out, "{name:<26}{faults:<24}{caught:>8}{runs:>8}{seconds:>9}  {by}")?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systems::Timings;

    #[test]
    fn every_rule_has_a_scene() {
        for rule in Rule::ALL {
            let scene = scene(*rule);
            scene.faults.parse::<Faults>().expect(scene.faults);
            scene.timing.parse::<Timings>().expect(scene.timing);
        }
        OTHER_TIMING.parse::<Timings>().expect(OTHER_TIMING);
    }

    #[test]
    fn what_must_be_caught_and_what_must_not() {
        let seen = Score { caught: vec![(2, 9.0), (1, 5.0), (4, 30.0)], ..Score::default() };
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
