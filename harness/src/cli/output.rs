//! What runs print: text or JSON, and what they write for CI services.

use std::{
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use campaign::{ShardFailure, signature_of};
use checker::{Results, Validity};
use clap::Args;
use report::{ci::Judged, summary::Tally, verdict::Detail};
use serde::Serialize;

use super::{
    Failure,
    shards::{Done, Part},
    stdout,
};
use crate::commands::{self, CiArgs, CiOutput};

/// Options of how results are told.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct OutputArgs {
    /// Print a JSON object for each run instead of text: its directory, verdict, seed, command and the result
    /// of each check.
    #[arg(long)]
    json: bool,

    /// Print only the verdict and what is wrong.
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,

    /// Print all violations that are kept of each check, and what it measured.
    #[arg(long, short, conflicts_with_all = ["json", "quiet"])]
    verbose: bool,

    #[command(flatten)]
    ci: CiArgs,
}

/// A run that was judged.
pub(super) struct Told<'a> {
    pub(super) directory: &'a Path,
    pub(super) seed: u64,
    /// The command that repeats it.
    pub(super) command: String,
    pub(super) elapsed: Duration,
    pub(super) tally: &'a Tally,
    /// What was judged, in a sentence.
    pub(super) claim: Option<String>,
    /// What is said below a valid verdict.
    pub(super) remark: Option<String>,
    pub(super) results: &'a Results,
}

/// Tells of runs, in their order.
pub(super) struct Output<'a> {
    args: &'a OutputArgs,
    /// Number of runs that were asked for.
    count: u32,
    told: u32,
    /// The greatest verdict on a run.
    verdict: Validity,
    /// The runs that are not valid.
    failures: Vec<ShardFailure>,
    ci: CiOutput<'a>,
}

impl<'a> Output<'a> {
    pub(super) fn new(args: &'a OutputArgs, count: u32) -> Self {
        let (verdict, failures) = (Validity::Valid, Vec::new());
        Output { args, count, told: 0, verdict, failures, ci: CiOutput::new(&args.ci) }
    }

    /// Says how to repeat a run that begins.
    pub(super) fn begins(&self, seed: u64, command: &str) {
        if self.count == 1 {
            eprintln!("Seed {seed}. To repeat this run: {command}");
        }
    }

    /// Tells of a run. Of many runs, each is a line, and the last one is told in full if it is not valid.
    pub(super) fn run(&mut self, run: &Told<'_>) -> Result<(), Failure> {
        self.told += 1;
        let Told { directory, command, results, .. } = run;
        self.verdict = self.verdict.max(results.verdict);
        self.failures.extend(failure(run));
        self.ci.add(Judged {
            name: directory.display().to_string(),
            seconds: run.elapsed.as_secs_f64(),
            command: Some(command.clone()),
            checks: results.checks.clone(),
        })?;
        if self.args.json {
            return Ok(self.json(run)?);
        }
        if self.count > 1 && !self.args.quiet {
            self.line(run)?;
        }
        if self.count == 1 || results.verdict != Validity::Valid {
            self.in_full(run)?;
        }
        Ok(())
    }

    fn line(&self, run: &Told<'_>) -> io::Result<()> {
        let Told { directory, seed, elapsed, tally, results, .. } = run;
        writeln!(
            stdout(),
            "run {} of {}: {}, seed {seed}, {:.1} s, {} operations, {} injections, {}, {}",
            self.told,
            self.count,
            results.verdict,
            elapsed.as_secs_f64(),
            tally.invoked(),
            tally.injections(),
            tally.recovery(),
            directory.display()
        )
    }

    fn in_full(&self, run: &Told<'_>) -> io::Result<()> {
        let Told { directory, tally, claim, remark, results, .. } = run;
        let mut out = stdout();
        if self.args.quiet {
            return commands::print_results(results, Detail::Quiet, directory, &mut out);
        }
        write!(out, "{tally}")?;
        if let Some(claim) = claim {
            writeln!(out, "{claim}")?;
        }
        let detail = if self.args.verbose { Detail::Verbose } else { Detail::Usual };
        commands::print_results(results, detail, directory, &mut out)?;
        match remark {
            Some(remark) if results.verdict == Validity::Valid => writeln!(out, "{remark}"),
            _ => Ok(()),
        }
    }

    fn json(&self, run: &Told<'_>) -> io::Result<()> {
        /// A run as JSON.
        #[derive(Serialize)]
        struct Run<'r> {
            directory: &'r Path,
            seed: u64,
            command: &'r str,
            seconds: f64,
            #[serde(flatten)]
            results: &'r Results,
        }
        let Told { directory, seed, command, elapsed, results, .. } = run;
        let seconds = elapsed.as_secs_f64();
        let run = Run { directory, seed: *seed, command, seconds, results };
        let mut out = stdout();
        serde_json::to_writer(&mut out, &run)?;
        writeln!(out)
    }

    /// Whether no run follows one with this verdict: somebody looks at a run that is not valid before more are made.
    /// A shard goes on after one that is undecided, since what it does not do nobody does.
    pub(super) fn is_over(
        &self,
        verdict: Validity,
        interrupted: bool,
        part: Option<&Part>,
    ) -> bool {
        interrupted
            || match verdict {
                Validity::Valid => false,
                Validity::Unknown => part.is_none(),
                Validity::Invalid => true,
            }
    }

    /// Tells what follows all runs if they are valid, and writes what is written at the end. `last` is the last run,
    /// `more` what all runs say together; `interrupted` says whether a signal ended them.
    pub(super) fn finish(
        self,
        last: Option<&Path>,
        more: &str,
        interrupted: bool,
    ) -> Result<Done, Failure> {
        let (count, planned) = (self.told.into(), self.count.into());
        let is_whole = self.verdict == Validity::Valid && count == planned;
        if let Some(last) = last.filter(|_| is_whole && !self.args.json && planned > 1) {
            write!(stdout(), "{more}")?;
            writeln!(stdout(), "{}: {}", Validity::Valid, last.display())?;
        }
        self.ci.finish().map_err(Failure::arguments)?;
        let exit = self.verdict.into();
        Ok(Done { exit, interrupted, count, planned, failures: self.failures })
    }
}

/// The first violation, or the first reason why the verdict is unknown: the check, and the sentence.
pub(super) fn first_finding(results: &Results) -> Option<(&str, &str)> {
    match &results.cause {
        Some(cause) => Some((cause.first.check.as_str(), cause.finding.text())),
        None => results.checks.iter().find_map(|check| {
            let first = check.violations.iter().chain(&check.unknown_because).next()?;
            Some((check.check.as_str(), first.text()))
        }),
    }
}

/// What a merge is told of a run that is not valid.
fn failure(run: &Told<'_>) -> Option<ShardFailure> {
    let Told { directory, seed, command, results, .. } = run;
    let (check, sentence) = first_finding(results).unwrap_or_default();
    (results.verdict != Validity::Valid).then(|| ShardFailure {
        signature: format!("{check}: {}", signature_of(sentence)),
        verdict: results.verdict,
        seed: Some(*seed),
        command: command.clone(),
        directory: Some(directory.to_path_buf()),
        why: sentence.lines().next().unwrap_or_default().to_owned(),
    })
}
