//! The commands `check` and `replay`: recorded runs are judged again, journals are run through the
//! machines again. Knows how to say what was found, not how to find it.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

use super::{
    Judgement, LoadError, Results, Run, Validity, find_journals,
    linearizability::Bounds,
    replay::{Difference, Replay, ReplayError, replay as replay_journal},
};

/// What to check, and how much to spend on it.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Run directories, such as histories/latest.
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,

    /// Spend at most so many seconds on one key; beyond that the verdict is unknown.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,

    /// Spend at most so many MiB on one key.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub memory: usize,

    /// Print what was found as JSON, one object for each path.
    #[arg(long)]
    pub json: bool,
}

impl CheckArgs {
    fn bounds(&self) -> Bounds {
        Bounds { time: Duration::from_secs(self.timeout), memory: self.memory << 20 }
    }
}

/// Which journals to replay.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// Run directories, journals, or schedules of the model and the simulator (.json).
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A record cannot be judged.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A journal cannot be replayed.
    #[error("{}: {source}", path.display())]
    Replay {
        /// The journal.
        path: PathBuf,
        /// Why.
        source: ReplayError,
    },
    /// There is nothing to look at.
    #[error("{}: {reason}", path.display())]
    Nothing {
        /// Where.
        path: PathBuf,
        /// What was missing.
        reason: &'static str,
    },
    /// What was found cannot be said.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Judges each run again, says what was found, and returns the worst verdict. Where the run may be
/// written to, `results.json` is written anew.
///
/// # Errors
/// A record cannot be read: nothing is said of the paths after it.
pub fn check(args: &CheckArgs, out: &mut impl Write) -> Result<Validity, CommandError> {
    let mut worst = Validity::Valid;
    for path in &args.paths {
        let results = judge(path, &args.bounds())?;
        worst = worst.max(results.verdict);
        if args.json {
            serde_json::to_writer(&mut *out, &results).map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            say(&results, path, out)?;
        }
    }
    Ok(worst)
}

/// Judges a run directory and writes its `results.json`.
///
/// # Errors
/// The record cannot be read, or the results cannot be written.
pub fn judge(directory: &Path, bounds: &Bounds) -> Result<Results, CommandError> {
    if !directory.join("history.jsonl").exists() {
        let reason = "no run directory: it has no history.jsonl";
        return Err(CommandError::Nothing { path: directory.to_owned(), reason });
    }
    let run = Run::load(directory)?;
    let results = super::check(&run, bounds);
    let mut text = serde_json::to_string_pretty(&results).map_err(io::Error::from)?;
    text.push('\n');
    let path = directory.join("results.json");
    fs::write(&path, text).map_err(|source| LoadError::File { path, source })?;
    Ok(results)
}

/// Says what was found: a line for each check, a sentence for each violation and each doubt, and
/// the verdict with the place of the run in the last line.
///
/// # Errors
/// It cannot be written.
pub fn say(results: &Results, path: &Path, out: &mut impl Write) -> io::Result<()> {
    for judgement in &results.checks {
        say_judgement(judgement, out)?;
    }
    writeln!(out, "{}: {}", results.verdict, path.display())
}

fn say_judgement(judgement: &Judgement, out: &mut impl Write) -> io::Result<()> {
    let Judgement { check, verdict, violations, violations_total, doubts, .. } = judgement;
    writeln!(out, "  {check:<16} {verdict}")?;
    for sentence in violations {
        writeln!(out, "    {sentence}")?;
    }
    if *violations_total > violations.len() {
        writeln!(out, "    and {} more", violations_total - violations.len())?;
    }
    for sentence in doubts {
        writeln!(out, "    {sentence}")?;
    }
    Ok(())
}

/// Replays every journal of each path, says how it went, and returns `Invalid` if one differs.
///
/// # Errors
/// A journal cannot be read, or there is none.
pub fn replay(args: &ReplayArgs, out: &mut impl Write) -> Result<Validity, CommandError> {
    let mut verdict = Validity::Valid;
    for path in &args.paths {
        let journals: Vec<PathBuf> = if path.is_dir() {
            find_journals(path)?.into_values().collect()
        } else {
            vec![path.clone()]
        };
        if journals.is_empty() {
            let reason = "no journal: want nodes/<name>/journal.jsonl in it";
            return Err(CommandError::Nothing { path: path.clone(), reason });
        }
        for path in journals {
            let replayed = replay_journal(&path)
                .map_err(|source| CommandError::Replay { path: path.clone(), source })?;
            match replayed {
                Replay::Same { starts, events, effects } => writeln!(
                    out,
                    "{}: same: {starts} starts, {events} events, {effects} effects",
                    path.display()
                )?,
                Replay::Different(difference) => {
                    verdict = Validity::Invalid;
                    say_difference(&path, &difference, out)?;
                }
            }
        }
    }
    Ok(verdict)
}

fn say_difference(path: &Path, difference: &Difference, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}: different: {difference}", path.display())
}
