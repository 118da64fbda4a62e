//! Shards of commands: which one this process does, and what it hands to the merge.

use std::{
    env,
    ffi::OsString,
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::anyhow;
use campaign::{
    Attempt, Begun, CampaignError, MERGED, ShardFailure, ShardSummary, Work, scheduler,
};
use checker::Validity;
use clap::Args;
use history::Shard;

use super::{Exit, Failure, describe, options_file, stdout};
use crate::commands;

/// Options of commands whose work can be divided.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Shards")]
pub(super) struct ShardArgs {
    /// Do the I-th of N shards of the work (see `harness merge --help`). With --campaign and without this option, what
    /// the scheduler says: Slurm, Kubernetes, AWS Batch or GNU parallel. Of a single run with the fault crash-matrix,
    /// cover the I-th of N shards of the matrix.
    #[arg(long, alias = "part", value_name = "I/N")]
    shard: Option<Shard>,

    /// Directory of the campaign, in which each shard gets a directory. By default, with --shard: campaign.
    #[arg(long, value_name = "DIR")]
    campaign: Option<PathBuf>,

    /// Try the seeds that failed in this campaign first, shared among the shards. `harness merge` must have merged it.
    #[arg(long, value_name = "DIR")]
    failed_first: Option<PathBuf>,
}

/// The options that say which shard a command does, and so are no part of what all shards do. Each has a value.
const SHARD_OPTIONS: [&str; 3] = ["--shard", "--part", "--campaign"];

/// The part of the work that this process does.
pub(super) struct Part {
    pub(super) shard: Shard,
    /// Where its records are kept.
    pub(super) store: PathBuf,
    /// Seeds to try before the others.
    pub(super) first: Vec<u64>,
}

/// What was done.
pub(super) struct Done {
    pub(super) exit: Exit,
    /// Whether a signal ended it before all was done.
    pub(super) interrupted: bool,
    pub(super) count: u64,
    /// How much there was to do.
    pub(super) planned: u64,
    pub(super) failures: Vec<ShardFailure>,
}

impl Done {
    /// The exit status of work that is not a shard: what a signal ended before all was done is not valid.
    pub(super) fn exit_of_all(self, unit: &str) -> Exit {
        let Done { exit, interrupted, count, planned, .. } = self;
        if !interrupted || count >= planned {
            return exit;
        }
        eprintln!("harness: a signal ended it after {count} of {planned} {unit}");
        if exit == Exit::Valid { Exit::Unknown } else { exit }
    }
}

impl ShardArgs {
    /// The shard of a single run: of the crash matrix.
    pub(super) fn of_matrix(&self) -> Option<Shard> {
        self.shard.filter(|_| self.campaign.is_none())
    }

    /// Does the work: all of it, or the part that the options or the scheduler ask for. Its summary is printed as the
    /// last line. `unit` is what the work is counted in, and `inputs` are the files and directories that it reads.
    pub(super) fn run(
        &self,
        unit: &'static str,
        inputs: &[PathBuf],
        work: impl FnOnce(Option<&Part>) -> Result<Done, Failure>,
    ) -> Result<Exit, Failure> {
        let Some((shard, campaign)) = self.asked()? else {
            if self.failed_first.is_some() {
                return Err(Failure::arguments(anyhow!(
                    "--failed-first goes with --shard or --campaign"
                )));
            }
            return Ok(work(None)?.exit_of_all(unit));
        };
        let first = self.failed_seeds(shard, unit)?;
        let all = self.work(inputs)?;
        let attempt = match Attempt::begin(&campaign, shard, &all).map_err(refused)? {
            Begun::Attempt(attempt) => attempt,
            Begun::Whole(summary) => {
                eprintln!("harness: shard {shard} is there: {}", campaign.display());
                return told(&summary);
            }
        };
        let started = Instant::now();
        let part = Part { shard, store: attempt.store(), first };
        let done = match work(Some(&part)) {
            Ok(done) => done,
            Err(failure) => {
                let failure = failure.of_machine();
                attempt.fail(&failure.error.as_ref().map(describe).unwrap_or_default());
                return Err(failure);
            }
        };
        // A violation that was found before the signal was found.
        if done.interrupted && done.exit != Exit::Invalid {
            let why = "a signal ended it before all was done";
            attempt.fail(why);
            return Err(Failure {
                exit: Exit::Elsewhere,
                error: Some(anyhow!("shard {shard}: {why}")),
            });
        }
        let Some(verdict) = done.exit.verdict() else {
            attempt.fail("it has no verdict: the output says why");
            return Ok(done.exit);
        };
        let failures = done.failures.into_iter().map(|failure| {
            let within = |path: PathBuf| attempt.within(&path).to_owned();
            ShardFailure { directory: failure.directory.map(within), ..failure }
        });
        let summary = ShardSummary {
            shard: shard.number,
            of: shard.of,
            work: all,
            verdict,
            done: done.count,
            planned: done.planned,
            unit: unit.to_owned(),
            failures: failures.collect(),
            seconds: started.elapsed().as_secs_f64(),
            host: String::new(),
        };
        told(&attempt.publish(summary).map_err(refused)?)
    }

    /// What all shards do, from files and directories.
    fn work(&self, inputs: &[PathBuf]) -> Result<Work, Failure> {
        let seeds = self.failed_first.iter().map(|directory| directory.join(MERGED));
        let inputs: Vec<PathBuf> = inputs.iter().cloned().chain(seeds).collect();
        Work::of(&own_command(), env!("CARGO_PKG_VERSION"), &inputs)
            .map_err(|error| Failure::arguments(error).of_machine())
    }

    /// The shard to do, and the directory of the campaign.
    fn asked(&self) -> Result<Option<(Shard, PathBuf)>, Failure> {
        let campaign = || self.campaign.clone().unwrap_or_else(|| PathBuf::from("campaign"));
        if let Some(shard) = self.shard {
            return Ok(Some((shard, campaign())));
        }
        let variable = |name: &str| env::var(name).ok();
        let Some(directory) = &self.campaign else {
            let is_set = |name: &&str| variable(name).is_some();
            if let Some(index) = scheduler::index_variables().into_iter().find(is_set)
                && scheduler::shard(variable).is_ok_and(|shard| shard.is_some())
            {
                eprintln!(
                    "harness: warning: {index} is set, but this does all of the work: --campaign DIR makes it do a \
                     shard"
                );
            }
            return Ok(None);
        };
        match scheduler::shard(variable).map_err(refused)? {
            Some(shard) => Ok(Some((shard, directory.clone()))),
            None => Err(Failure::arguments(anyhow!(
                "--campaign {}: which shard is this? Give --shard I/N; of the variables of schedulers, none is set: {}",
                directory.display(),
                scheduler::index_variables().join(", ")
            ))),
        }
    }

    /// The seeds that failed before and that this shard tries first.
    fn failed_seeds(&self, shard: Shard, unit: &str) -> Result<Vec<u64>, Failure> {
        let Some(directory) = &self.failed_first else { return Ok(Vec::new()) };
        if !["seeds", "runs"].contains(&unit) {
            return Err(Failure::arguments(anyhow!(
                "--failed-first: {unit} have no seeds; it is for sim, and for runs with --test-count"
            )));
        }
        let seeds = campaign::failed_seeds(directory).map_err(refused)?;
        let of_shard = (0..).zip(seeds).filter(|(position, _)| shard.has(*position));
        Ok(of_shard.map(|(_, seed)| seed).collect())
    }
}

impl Exit {
    /// The verdict that it stands for.
    fn verdict(self) -> Option<Validity> {
        match self {
            Exit::Valid => Some(Validity::Valid),
            Exit::Invalid => Some(Validity::Invalid),
            Exit::Unknown => Some(Validity::Unknown),
            Exit::Elsewhere | Exit::BadArguments | Exit::Failed => None,
        }
    }
}

impl Failure {
    /// The failure of a shard: what the operating system refuses, or what is not installed, another machine may have.
    fn of_machine(self) -> Failure {
        let Some(error) = &self.error else { return self };
        let is_refused = error.chain().any(<dyn std::error::Error>::is::<std::io::Error>);
        let is_of_machine = match self.exit {
            Exit::Failed | Exit::Unknown => is_refused,
            Exit::BadArguments => {
                super::described::is_not_possible_here(error)
                    || commands::is_of_machine(error.as_ref())
            }
            _ => false,
        };
        Failure { exit: if is_of_machine { Exit::Elsewhere } else { self.exit }, ..self }
    }
}

/// The failure to use the directory of a campaign.
pub(super) fn refused(error: CampaignError) -> Failure {
    match error {
        CampaignError::File { .. } => Failure { exit: Exit::Elsewhere, error: Some(error.into()) },
        CampaignError::Refused(_) => Failure::arguments(error),
    }
}

/// Prints the summary of a shard as one line of JSON.
fn told(summary: &ShardSummary) -> Result<Exit, Failure> {
    let line = serde_json::to_string(summary).map_err(Failure::harness)?;
    writeln!(stdout(), "{line}")?;
    Ok(summary.greatest().into())
}

/// The command that this process executes, without the options that say which shard it does.
pub(super) fn own_command() -> String {
    let given: Vec<OsString> = env::args_os().collect();
    // What a file of options says counts, and not its name. That it can be read was seen before.
    let arguments = options_file::expand(given.clone()).unwrap_or(given);
    command_line(arguments.iter().skip(1).map(|word| word.to_string_lossy().into_owned()))
}

/// The command of these arguments, without the options that say which shard it does.
fn command_line(arguments: impl IntoIterator<Item = String>) -> String {
    let mut command = "harness".to_owned();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (argument.as_str(), None),
        };
        if SHARD_OPTIONS.contains(&name) {
            if value.is_none() {
                arguments.next();
            }
            continue;
        }
        command.push(' ');
        command.push_str(&quoted(&argument));
    }
    command
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./,:=@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The command that does a shard again.
pub(super) fn shard_command(command: &str, shard: &str, campaign: &Path) -> String {
    let campaign = quoted(&campaign.display().to_string());
    format!("{command} --shard {shard} --campaign {campaign}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_of_a_campaign_does_not_name_the_shard() {
        let command = |line: &str| command_line(line.split(' ').map(str::to_owned));
        for line in [
            "sim --seeds 0..9 --shard 3/10 --campaign a",
            "sim --shard=3/10 --campaign=b --seeds 0..9",
            "sim --part 4/10 --seeds 0..9",
        ] {
            assert_eq!(command(line), "harness sim --seeds 0..9", "{line}");
        }
        assert_eq!(command("check it's.edn"), "harness check 'it'\\''s.edn'");
        assert_eq!(command("--faults pause>kill:same"), "harness --faults 'pause>kill:same'");
    }
}
