//! The command `check`: checks recorded runs and history files.

mod files;
mod transactions;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use checker::{
    Limits, Results, Spec, levels::Level, linearizability::frontier::CONFIGURATION_BYTES,
};
use clap::Args;
use history::{Shard, formats::Format};
use lab::duration::parse_duration;
use report::{
    ci::Judged,
    terminal::Escaped,
    verdict::{Detail, write_results},
};
use twopc::{checks, page};

pub use self::files::{Checked, FileFailure};
use super::{
    CiArgs, CiOutput, CommandError, History, check_workload_run, histories, is_workload_run,
    print_json, progress::checking_run,
};

/// Arguments of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Run directories, such as histories/latest; history files, of this harness, Jepsen, Porcupine,
    /// AWDIT, dbcop, PolySI, Cobra or your own, in any format that the README of the crate history lists; Jepsen's store
    /// directories; or directories of these. The results.json and report.html of a run are written
    /// anew.
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,

    /// The longest time to spend on each key, for example 60s or 2m, or a number of seconds; beyond
    /// that the verdict is unknown.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,

    /// Memory limit in MiB, approximate. A larger file is partitioned by key into temporary files
    /// beside it. A key that does not fit by itself is unknown, and its memory is printed.
    #[arg(long, value_name = "MIB", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(16..))]
    pub memory: u32,

    /// Format of files: jsonl, edn, jepsen-log, jepsen-txt, json, porcupine, intervals, csv, plume,
    /// awdit, dbcop or cobra; detected from the content by default.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,

    /// Specification of the keys of files: register (put, del, get, cas) or append.
    #[arg(long, value_name = "SPEC")]
    pub spec: Option<Spec>,

    /// Value that the registers of files begin with, written as in the file; nil if they begin absent.
    /// By default they begin absent, unless at least two operations observed a value that nobody
    /// writes, and a read did so before any write.
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub initial: Option<String>,

    /// Level that files are judged by: of transactions an isolation level, for example serializable,
    /// snapshot-isolation, strict-serializable or PL-2, or durable; of operations on single keys
    /// linearizable; of sets, counters, queues and banks those of runs. It decides the exit status. Without it,
    /// the levels and anomalies of transactions are reported, and only lost appends make them invalid; sets
    /// and queues are judged as durable, counters as linearizable, banks as serializable.
    #[arg(long, value_name = "LEVEL")]
    pub claim: Option<Level>,

    /// Write a certificate for every linearizable key to this file: an order of its operations that
    /// shows it. `harness verify` verifies such files. Takes one history.
    #[arg(long, value_name = "FILE")]
    pub certify: Option<PathBuf>,

    /// Write a page on the transactions of a history to this file: each anomaly with a drawing, its
    /// meaning, and the levels that it rules out. Takes one history file.
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,

    /// With several files, print a line and the counterexamples of each. By default, valid files are
    /// only counted, and counterexamples are printed for the first few.
    #[arg(long)]
    pub each: bool,

    /// Print results as JSON, one object for each path.
    #[arg(long)]
    pub json: bool,

    /// Print all violations that are kept of each check of a run, and what it measured.
    #[arg(long, short, conflicts_with = "json")]
    pub verbose: bool,

    /// What is told to CI services.
    #[command(flatten)]
    pub ci: CiArgs,

    /// The shard of each history that is checked.
    #[arg(skip)]
    pub shard: Option<Shard>,
}

impl CheckArgs {
    fn detail(&self) -> Detail {
        if self.verbose { Detail::Verbose } else { Detail::Usual }
    }

    fn memory_bytes(&self) -> u64 {
        u64::from(self.memory) << 20
    }

    fn limits(&self) -> Limits {
        Limits {
            time: self.timeout,
            configurations: usize::try_from(self.memory_bytes() / 2).unwrap_or(usize::MAX)
                / CONFIGURATION_BYTES,
        }
    }
}

/// Checks each run and each file, prints the results, and returns the greatest verdict. Rewrites
/// `results.json` and the report of a run. Several files are checked in parallel; those that are not
/// valid get a line each, and all together a total.
///
/// # Errors
/// A path that is given by name, alone, cannot be read; or the output cannot be written.
pub fn check(args: &CheckArgs, out: &mut Escaped<impl Write>) -> Result<Checked, CommandError> {
    if args.certify.is_some() && args.paths.len() > 1 {
        return Err(CommandError::Arguments("--certify goes with one PATH"));
    }
    let all = histories(&args.paths)?;
    if args.certify.is_some() && all.len() > 1 {
        return Err(CommandError::Arguments("--certify goes with one history"));
    }
    if args.page.is_some() && (all.len() > 1 || all.iter().any(|history| history.is_run)) {
        return Err(CommandError::Arguments(
            "--page goes with one history file; a run has its own page",
        ));
    }
    if args.shard.is_some() {
        if args.certify.is_some() || args.page.is_some() {
            return Err(CommandError::Arguments(
                "--certify and --page are for a whole history: leave out --shard and --campaign",
            ));
        }
        if let Some(run) = all.iter().find(|history| history.is_run) {
            return Err(CommandError::Nothing {
                path: run.path.clone(),
                reason: "a run is checked as a whole; a shard is one of a history: name its history.jsonl",
            });
        }
    }
    let (runs, files): (Vec<History>, Vec<History>) =
        all.into_iter().partition(|history| history.is_run && args.certify.is_none());
    let mut checked = Checked::default();
    let mut ci = CiOutput::new(&args.ci);
    let total = runs.len() + files.len();
    for History { path, .. } in runs {
        let start = Instant::now();
        match check_and_report(&path, args) {
            Ok(results) => {
                checked.count(results.verdict);
                ci.add(Judged {
                    name: path.display().to_string(),
                    seconds: start.elapsed().as_secs_f64(),
                    command: None,
                    checks: results.checks.clone(),
                })?;
                if args.json {
                    print_json(&results, out)?;
                } else {
                    print_results(&results, args.detail(), &path, out)?;
                }
            }
            Err(error @ (CommandError::Load(_) | CommandError::Nothing { .. })) if total > 1 => {
                checked.unreadable += 1;
                files::print_unreadable(&path, &error, args.json, out)?;
            }
            Err(error) => return Err(error),
        }
    }
    let files: Vec<PathBuf> = files.into_iter().map(History::file).collect();
    files::check_files(&files, total, args, &mut checked, &mut ci, out)?;
    ci.finish()?;
    Ok(checked)
}

/// Checks a run and rewrites its report.
fn check_and_report(path: &Path, args: &CheckArgs) -> Result<Results, CommandError> {
    let _line = checking_run(path);
    if is_workload_run(path)? {
        return Ok(check_workload_run(path, &args.limits())?.results);
    }
    let (run, results) = checks::check_run(path, &args.limits())?;
    page::write(path, &run, &results)?;
    Ok(results)
}

/// Prints the results of a run: what an invalid verdict comes from, a line for each check, a sentence for each
/// violation and each reason why a check is undecided, and in the last line the verdict with the path of the run.
///
/// # Errors
/// The output cannot be written.
pub fn print_results(
    results: &Results,
    detail: Detail,
    path: &Path,
    out: &mut Escaped<impl Write>,
) -> io::Result<()> {
    write_results(results, detail, page::terms, out)?;
    let page = path.join(report::PAGE);
    if page.exists() {
        writeln!(out, "page: {}", page.display())?;
    }
    writeln!(out, "{}: {}", results.verdict, path.display())
}
