//! The command `check`: checks recorded runs and history files.

mod files;
mod transactions;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use checker::{
    CheckResult, Limits, Results, Spec, linearizability::frontier::CONFIGURATION_BYTES,
    transactions::Level,
};
use clap::Args;
use history::formats::Format;
use lab::duration::parse_duration;
use twopc::{checks, page};

pub use self::files::Checked;
use super::{
    CommandError, History, check_workload_run, histories, is_workload_run, progress::checking_run,
};

/// Arguments of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Run directories, such as histories/latest; history files, of this harness, Jepsen, Porcupine or
    /// your own, in any format that the README of the crate history lists; Jepsen's store
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

    /// Format of files: jsonl, edn, jepsen-log, jepsen-txt, json, porcupine, intervals or csv; detected
    /// from the content by default.
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

    /// Isolation level that transactions are judged by, for example serializable, snapshot-isolation,
    /// strict-serializable or PL-2. It decides the exit status. Without it, the levels and anomalies
    /// of transactions are reported, and only lost appends make them invalid.
    #[arg(long, value_name = "LEVEL")]
    pub claim: Option<Level>,

    /// Write a certificate for every linearizable key to this file: an order of its operations that
    /// shows it. `harness verify` verifies such files. Takes one history.
    #[arg(long, value_name = "FILE")]
    pub certify: Option<PathBuf>,

    /// With several files, print a line and the counterexamples of each. By default, valid files are
    /// only counted, and counterexamples are printed for the first few.
    #[arg(long)]
    pub each: bool,

    /// Print results as JSON, one object for each path.
    #[arg(long)]
    pub json: bool,
}

impl CheckArgs {
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
pub fn check(args: &CheckArgs, out: &mut impl Write) -> Result<Checked, CommandError> {
    if args.certify.is_some() && args.paths.len() > 1 {
        return Err(CommandError::Arguments("--certify goes with one PATH"));
    }
    let all = histories(&args.paths)?;
    if args.certify.is_some() && all.len() > 1 {
        return Err(CommandError::Arguments("--certify goes with one history"));
    }
    let (runs, files): (Vec<History>, Vec<History>) =
        all.into_iter().partition(|history| history.is_run && args.certify.is_none());
    let mut checked = Checked::default();
    let total = runs.len() + files.len();
    for History { path, .. } in runs {
        match check_and_report(&path, args) {
            Ok(results) => {
                checked.count(results.verdict);
                if args.json {
                    print_json(&results, out)?;
                } else {
                    print_results(&results, &path, out)?;
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
    files::check_files(&files, total, args, &mut checked, out)?;
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

fn print_json(results: &impl serde::Serialize, out: &mut impl Write) -> Result<(), CommandError> {
    serde_json::to_writer(&mut *out, results).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Prints the results of a run: a line for each check, a sentence for each violation and each reason
/// why a check is undecided, and in the last line the verdict with the path of the run.
///
/// # Errors
/// The output cannot be written.
pub fn print_results(results: &Results, path: &Path, out: &mut impl Write) -> io::Result<()> {
    for check_result in &results.checks {
        print_check_result(check_result, out)?;
    }
    let page = path.join(report::PAGE);
    if page.exists() {
        writeln!(out, "page: {}", page.display())?;
    }
    writeln!(out, "{}: {}", results.verdict, path.display())
}

/// The most violations of a check that are printed.
const PRINTED_MAX: usize = 6;

fn print_check_result(check_result: &CheckResult, out: &mut impl Write) -> io::Result<()> {
    let CheckResult { check, verdict, violations, violations_total, unknown_because, .. } =
        check_result;
    writeln!(out, "  {check:<16} {verdict}")?;
    let printed = violations.len().min(PRINTED_MAX);
    for sentence in &violations[..printed] {
        writeln!(out, "    {}", sentence.trim_end().replace('\n', "\n      "))?;
    }
    if *violations_total > printed {
        let more = violations_total - printed;
        let kept = violations.len();
        writeln!(out, "    and {more} more; results.json has the first {kept}")?;
    }
    for sentence in unknown_because {
        writeln!(out, "    {}", sentence.to_string().replace('\n', "\n      "))?;
    }
    Ok(())
}
