//! The command `replay`: journals through the nodes' machines, schedules on machines or on real
//! processes.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use checker::{Limits, Validity};
use lab::signals::follow_signals;
use report::verdict::Detail;
use twopc::{
    checks,
    commands::schedule,
    page,
    run::CompletedRun,
    schedule_replay::{self, Schedule, StepResult},
};

use super::{Exit, Failure, checked, stdout};
use crate::commands::{self, ReplayArgs};

/// Replays journals, and schedules, which are the files whose names end in `.json`.
pub(super) fn replay(args: &ReplayArgs) -> Result<Exit, Failure> {
    let is_schedule =
        |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let (schedules, paths): (Vec<_>, Vec<_>) = args.paths.iter().partition(is_schedule);
    let mut verdict = Validity::Valid;
    let mut out = stdout();
    for path in schedules {
        let found = schedule::replay(path, &mut out).map_err(Failure::arguments)?;
        verdict = verdict.max(found);
    }
    if paths.is_empty() {
        return Ok(verdict.into());
    }
    let journals = ReplayArgs { paths: paths.into_iter().cloned().collect() };
    checked(commands::replay(&journals, &mut out).map(|found| found.max(verdict)))
}

/// Replays schedules on real processes, and judges the runs.
pub(super) fn replay_on_processes(args: &ReplayArgs, store: &Path) -> Result<Exit, Failure> {
    let mut verdict = Validity::Valid;
    for path in &args.paths {
        let run = force(path, store)?;
        let results = checks::check_run(&run.directory, &Limits::default());
        let (record, results) = results.map_err(Failure::harness)?;
        page::write(&run.directory, &record, &results).map_err(Failure::harness)?;
        commands::print_results(&results, Detail::Usual, &run.directory, &mut stdout())?;
        verdict = verdict.max(results.verdict);
    }
    Ok(verdict.into())
}

/// Replays one schedule, and prints the result of each step.
fn force(path: &Path, store: &Path) -> Result<CompletedRun, Failure> {
    let name = || path.display().to_string();
    let schedule = Schedule::read(path).with_context(name).map_err(Failure::arguments)?;
    let options = schedule_replay::options(&schedule, path, store.to_owned());
    let options = options.map_err(anyhow::Error::msg).with_context(name);
    let options = options.map_err(Failure::arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut out = stdout();
    let (mut not_forced, mut written) = (0, Ok(()));
    let run = runtime.block_on(async {
        let interrupt = follow_signals().map_err(Failure::harness)?;
        let print = |number: usize, step: &_, result: &StepResult| {
            not_forced += u32::from(matches!(result, StepResult::NotForced(_)));
            let line = writeln!(out, "{:>3}. {step}\n       {result}", number + 1);
            written = std::mem::replace(&mut written, Ok(())).and(line);
        };
        schedule_replay::run(&schedule, &options, interrupt, print).await.map_err(Failure::harness)
    })?;
    written?;
    writeln!(out, "{} steps, {not_forced} of them not forced", schedule.steps.len())?;
    Ok(run)
}
