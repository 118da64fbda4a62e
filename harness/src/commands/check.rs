//! The command `check`: checks recorded runs and history files.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use checker::{
    CheckResult, Limits, Results, Spec, Validity,
    certificate::Certificates,
    file::{FileCheckOptions, FileReport, check_file},
    linearizability::frontier::CONFIGURATION_BYTES,
};
use clap::Args;
use history::{ReadError, formats::Format};
use twopc::{
    checks::{self, LoadError, Run},
    page,
};

use super::{
    CommandError, history_file,
    progress::{CheckProgress, checking_files, checking_run},
};

/// Arguments of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Run directories, such as histories/latest, or history files: recorded ones, Jepsen's EDN or log
    /// lines, Porcupine's key/value data.
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,

    /// Spend at most this many seconds on each key; beyond that the verdict is unknown.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,

    /// Memory limit in MiB, approximate. A larger file is partitioned by key into temporary files
    /// beside it. A key that does not fit by itself is unknown, and its memory is printed.
    #[arg(long, value_name = "MIB", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(16..))]
    pub memory: u32,

    /// Format of files: jsonl, edn, jepsen-log or porcupine; detected from the content by default.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,

    /// Specification of the keys of files: register (put, del, get, cas) or append.
    #[arg(long, value_name = "SPEC")]
    pub spec: Option<Spec>,

    /// Write a certificate for every linearizable key to this file: an order of its operations that
    /// shows it. `harness verify` verifies such files. Takes one history.
    #[arg(long, value_name = "FILE")]
    pub certify: Option<PathBuf>,

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
            time: Duration::from_secs(self.timeout),
            configurations: usize::try_from(self.memory_bytes() / 2).unwrap_or(usize::MAX)
                / CONFIGURATION_BYTES,
        }
    }
}

/// Checks each run and each file, prints the results, and returns the greatest verdict. Rewrites
/// `results.json` and the report of a run. Several files are checked in parallel and get a line each
/// and a total.
///
/// # Errors
/// A history or run cannot be read. Nothing is printed for the paths after it.
pub fn check(args: &CheckArgs, out: &mut impl Write) -> Result<Validity, CommandError> {
    let is_run = |path: &&PathBuf| args.certify.is_none() && path.join("test.json").exists();
    let (runs, files): (Vec<&PathBuf>, Vec<&PathBuf>) = args.paths.iter().partition(is_run);
    if args.certify.is_some() && args.paths.len() > 1 {
        return Err(CommandError::Arguments("--certify goes with one PATH"));
    }
    let mut worst = Validity::Valid;
    for path in runs {
        let progress = checking_run(path);
        let (run, results) = check_run(path, &args.limits())?;
        page::write(path, &run, &results)?;
        drop(progress);
        worst = worst.max(results.verdict);
        if args.json {
            print_json(&results, out)?;
        } else {
            print_results(&results, path, out)?;
        }
    }
    Ok(worst.max(check_history_files(&files, args, out)?))
}

fn print_json(results: &impl serde::Serialize, out: &mut impl Write) -> Result<(), CommandError> {
    serde_json::to_writer(&mut *out, results).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Checks files, prints the results, and returns the greatest verdict.
fn check_history_files(
    files: &[&PathBuf],
    args: &CheckArgs,
    out: &mut impl Write,
) -> Result<Validity, CommandError> {
    let files: Vec<PathBuf> =
        files.iter().map(|path| history_file(path)).collect::<Result<_, _>>()?;
    let certificates = args.certify.as_deref().map(|path| {
        let io = |source| CommandError::Certificates { path: path.to_owned(), source };
        Certificates::create(path).map_err(io).map(|open| (path, open))
    });
    let certificates = certificates.transpose()?;
    let reports = check_in_parallel(&files, args, certificates.as_ref().map(|(_, open)| open));
    if let Some((path, open)) = certificates {
        let io = |source| CommandError::Certificates { path: path.to_owned(), source };
        open.finish().map_err(io)?;
    }
    let mut worst = Validity::Valid;
    let mut counts = [0_usize; 3];
    for report in reports {
        let report = report.map_err(LoadError::History)?;
        worst = worst.max(report.verdict);
        counts[report.verdict as usize] += 1;
        if args.json {
            print_json(&report, out)?;
        } else {
            print_report(&report, out)?;
        }
    }
    if files.len() > 1 && !args.json {
        let [valid, unknown, invalid] = counts;
        let total = files.len();
        writeln!(out, "{total} files: {valid} valid, {invalid} invalid, {unknown} unknown")?;
    }
    Ok(worst)
}

/// Checks as many files at a time as there are cores. Reports are in the order of the files.
fn check_in_parallel(
    files: &[PathBuf],
    args: &CheckArgs,
    certificates: Option<&Certificates>,
) -> Vec<Result<FileReport, ReadError>> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(files.len()).max(1);
    let Limits { time, configurations } = args.limits();
    let progress = Arc::new(CheckProgress::default());
    let bytes = files.iter().filter_map(|file| Some(fs::metadata(file).ok()?.len())).sum();
    let _line = checking_files(&progress, files.len(), bytes);
    // Files that are checked at the same time share the limits.
    let options = FileCheckOptions {
        format: args.format,
        spec: args.spec,
        limits: Limits { time, configurations: configurations / workers },
        certificates,
        memory: Some(args.memory_bytes() / workers as u64),
        progress: Some(&*progress),
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut reports = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = files.get(at) else { return reports };
            reports.push((at, check_file(path, &options)));
            progress.file_done();
        }
    };
    let mut reports: Vec<(usize, Result<FileReport, ReadError>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|why| std::panic::resume_unwind(why)))
            .collect()
    });
    reports.sort_by_key(|(at, _)| *at);
    reports.into_iter().map(|(_, report)| report).collect()
}

fn print_report(report: &FileReport, out: &mut impl Write) -> io::Result<()> {
    let FileReport { path, verdict, keys, operations, certified, partitions, seconds, .. } = report;
    for sentence in report.violations.iter().chain(&report.unknown_because) {
        writeln!(out, "  {}", sentence.trim_end().replace('\n', "\n    "))?;
    }
    let mut rest = String::new();
    if *partitions > 1 {
        rest.push_str(&format!(", in {partitions} partitions"));
    }
    if *certified > 0 {
        rest.push_str(&format!(", {certified} of {keys} keys certified"));
    }
    writeln!(
        out,
        "{verdict}: {}: {operations} operations on {keys} keys, read in {:.3} s, decided in {:.3} s\
         {rest}",
        path.display(),
        seconds.0,
        seconds.1
    )
}

/// Checks a run directory and writes its `results.json`.
///
/// # Errors
/// The run cannot be read, or the results cannot be written.
pub fn check_run(directory: &Path, limits: &Limits) -> Result<(Run, Results), CommandError> {
    if !directory.join("history.jsonl").exists() {
        let reason = "not a run directory: it contains no history.jsonl";
        return Err(CommandError::Nothing { path: directory.to_owned(), reason });
    }
    let run = Run::load(directory)?;
    let results = checks::check(&run, limits);
    let mut text = serde_json::to_string_pretty(&results).map_err(io::Error::from)?;
    text.push('\n');
    let path = directory.join("results.json");
    fs::write(&path, text).map_err(|source| LoadError::File { path, source })?;
    Ok((run, results))
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
        writeln!(out, "    and {more} more; results.json contains the first")?;
    }
    for sentence in unknown_because {
        writeln!(out, "    {sentence}")?;
    }
    Ok(())
}
