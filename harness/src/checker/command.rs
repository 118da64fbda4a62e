//! The commands `check` and `replay`: recorded runs are judged again, journals are run through the
//! machines again. Knows how to say what was found, not how to find it.

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

use clap::Args;

use super::{
    CheckResult, LoadError, Results, Run, Validity,
    certificate::{Certificates, Verified, verify_file},
    file::{FileReport, Reading, check_file},
    find_journals,
    linearizability::{Limits, Spec, frontier::CONFIGURATION_BYTES},
    progress::{Meter, checking, judging},
    replay::{Difference, Replay, ReplayError, replay as replay_journal},
};

use crate::{
    history::{
        ReadError,
        export::{self, ExportError, Target},
        formats::Format,
        synthetic::{self, Plant, SyntheticOptions},
    },
    report_twopc,
};

/// What to check, and how much to spend on it.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Run directories, such as histories/latest, or histories in files: our own, Jepsen's EDN or
    /// log lines, Porcupine's key/value data.
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,

    /// Spend at most so many seconds on one key; beyond that the verdict is unknown.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,

    /// Take at most about so many MiB. A file that is larger is parted by key first, into temporary
    /// files beside it; a key that is too large by itself is unknown, and how much it would take is
    /// said.
    #[arg(long, value_name = "MIB", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(16..))]
    pub memory: u32,

    /// What files are: jsonl, edn, jepsen-log or porcupine; found by content if not given.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,

    /// What the keys of files are: register (put, del, get, cas) or append.
    #[arg(long, value_name = "SPEC")]
    pub spec: Option<Spec>,

    /// Write a certificate for every key that is linearizable into this file: an order of its
    /// operations that shows it. `harness verify` judges such files. Goes with one history.
    #[arg(long, value_name = "FILE")]
    pub certify: Option<PathBuf>,

    /// Print what was found as JSON, one object for each path.
    #[arg(long)]
    pub json: bool,
}

/// What to verify.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// A run directory, or a history in a file.
    #[arg(value_name = "PATH")]
    pub history: PathBuf,

    /// What `harness check --certify` wrote of it.
    #[arg(value_name = "CERTIFICATES")]
    pub certificates: PathBuf,

    /// What the file is: jsonl, edn, jepsen-log or porcupine; found by content if not given.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,

    /// What its keys are: register (put, del, get, cas) or append.
    #[arg(long, value_name = "SPEC")]
    pub spec: Option<Spec>,
}

/// Verifies certificates, by a verifier that shares nothing with the checker.
///
/// # Errors
/// A file cannot be read.
pub fn verify(args: &VerifyArgs, out: &mut impl Write) -> Result<Validity, CommandError> {
    let VerifyArgs { history, certificates, format, spec } = args;
    let path = file_of(history)?;
    let verified = verify_file(&path, *format, *spec, certificates).map_err(LoadError::History)?;
    let name = certificates.display();
    Ok(match verified {
        Verified::Accepted { keys: 0, .. } => {
            writeln!(out, "unknown: {name}: the history has no operation: nothing was shown")?;
            Validity::Unknown
        }
        Verified::Accepted { keys, operations } => {
            writeln!(out, "valid: {name}: {keys} keys, {operations} operations in order")?;
            Validity::Valid
        }
        Verified::Refused { key, reason } => {
            writeln!(out, "invalid: {name}: {key}: {reason}")?;
            Validity::Invalid
        }
    })
}

/// What to export.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// A run directory, or a history of our own in a file.
    #[arg(value_name = "PATH", default_value = "histories/latest")]
    pub path: PathBuf,

    /// As what: edn (Jepsen's history.edn) or porcupine (its key/value data).
    #[arg(long, value_name = "FORMAT")]
    pub format: Target,
}

/// Writes a recorded history in the words of another tool.
///
/// # Errors
/// It cannot be read, or the other tool has no words for it.
pub fn export(args: &ExportArgs, out: &mut impl Write) -> Result<Validity, CommandError> {
    let path = file_of(&args.path)?;
    let mut out = io::BufWriter::with_capacity(1 << 18, out);
    export::export(&path, args.format, &mut out).map_err(|error| match error {
        ExportError::Write(error) => CommandError::Write(error),
        ExportError::Read(error) => CommandError::Load(LoadError::History(error)),
        ExportError::EmptyText { .. } => CommandError::Export { path: path.clone(), source: error },
    })?;
    out.flush()?;
    Ok(Validity::Valid)
}

/// What to generate.
#[derive(Clone, Debug, Args)]
pub struct GenerateArgs {
    /// How many operations.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub ops: u64,

    /// On how many keys.
    #[arg(long, value_name = "K", default_value_t = 16)]
    pub keys: u32,

    /// How many operations are under way at a time.
    #[arg(long, value_name = "C", default_value_t = 10)]
    pub concurrency: u32,

    /// The share of writes whose end is unknown, from 0 to 1.
    #[arg(long, value_name = "P", default_value_t = 0.01)]
    pub indeterminate: f64,

    /// What all random choices come from.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,

    /// Plant one violation: stale-read, lost-write, aborted-read, resurrected-delete,
    /// double-effect or future-read.
    #[arg(long, value_name = "KIND")]
    pub violate: Option<Plant>,
}

/// Writes a synthetic history: valid by construction, or with one planted violation.
///
/// # Errors
/// It cannot be written.
pub fn generate(args: &GenerateArgs, out: &mut impl Write) -> Result<Validity, CommandError> {
    let options = SyntheticOptions {
        ops: args.ops,
        keys: args.keys,
        concurrency: args.concurrency,
        indeterminate: args.indeterminate,
        puts: 45,
        deletes: 10,
        seed: args.seed,
        plant: args.violate,
    };
    let mut out = io::BufWriter::with_capacity(1 << 18, out);
    synthetic::generate(&options, |event| {
        serde_json::to_writer(&mut out, event)?;
        out.write_all(b"\n")
    })?;
    out.flush()?;
    Ok(Validity::Valid)
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
    /// A history cannot be said in another tool's words.
    #[error("{}: {source}", path.display())]
    Export {
        /// The history.
        path: PathBuf,
        /// Why.
        source: ExportError,
    },
    /// What was asked does not go together.
    #[error("{0}")]
    Arguments(&'static str),
    /// A file of certificates cannot be written.
    #[error("{}: {source}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was found cannot be said.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Judges each run again and decides each file, says what was found, and returns the worst verdict.
/// `results.json` and the page of a run are
/// written anew. Several files are decided side by side, and have a line
/// each and a total.
///
/// # Errors
/// A record cannot be read: nothing is said of the paths after it.
pub fn check(args: &CheckArgs, out: &mut impl Write) -> Result<Validity, CommandError> {
    let mut worst = Validity::Valid;
    let is_run = |path: &&PathBuf| args.certify.is_none() && path.join("test.json").exists();
    let (runs, files): (Vec<&PathBuf>, Vec<&PathBuf>) = args.paths.iter().partition(is_run);
    if args.certify.is_some() && args.paths.len() > 1 {
        return Err(CommandError::Arguments("--certify goes with one PATH"));
    }
    for path in runs {
        let judging = judging(path);
        let (run, results) = judge(path, &args.limits())?;
        report_twopc::write(path, &run, &results)?;
        drop(judging);
        worst = worst.max(results.verdict);
        if args.json {
            serde_json::to_writer(&mut *out, &results).map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            say(&results, path, out)?;
        }
    }
    let files: Vec<PathBuf> =
        files.into_iter().map(|path| file_of(path)).collect::<Result<_, _>>()?;
    let mut counts = [0_usize; 3];
    let certificates = args.certify.as_deref().map(|path| {
        let io = |source| CommandError::Certificates { path: path.to_owned(), source };
        Certificates::create(path).map_err(io).map(|open| (path, open))
    });
    let certificates = certificates.transpose()?;
    let reports = check_files(&files, args, certificates.as_ref().map(|(_, open)| open));
    if let Some((path, open)) = certificates {
        let io = |source| CommandError::Certificates { path: path.to_owned(), source };
        open.finish().map_err(io)?;
    }
    for report in reports {
        let report = report.map_err(LoadError::History)?;
        worst = worst.max(report.verdict);
        counts[report.verdict as usize] += 1;
        if args.json {
            serde_json::to_writer(&mut *out, &report).map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            say_file(&report, out)?;
        }
    }
    if files.len() > 1 && !args.json {
        let [valid, unknown, invalid] = counts;
        let total = files.len();
        writeln!(out, "{total} files: {valid} valid, {invalid} invalid, {unknown} unknown")?;
    }
    Ok(worst)
}

/// The history that a path means.
fn file_of(path: &Path) -> Result<PathBuf, CommandError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let inside = ["history.jsonl", "history.edn"].map(|name| path.join(name));
    inside.into_iter().find(|file| file.exists()).ok_or_else(|| {
        let reason = "no run: it has neither history.jsonl nor history.edn";
        CommandError::Nothing { path: path.to_owned(), reason }
    })
}

/// Decides files, as many at a time as there are cores; what was found in their order.
fn check_files(
    files: &[PathBuf],
    args: &CheckArgs,
    certificates: Option<&Certificates>,
) -> Vec<Result<FileReport, ReadError>> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(files.len()).max(1);
    let Limits { time, configurations } = args.limits();
    let meter = Arc::new(Meter::default());
    let bytes = files.iter().filter_map(|file| Some(fs::metadata(file).ok()?.len())).sum();
    let _progress = checking(&meter, files.len(), bytes);
    let reading = Reading {
        format: args.format,
        spec: args.spec,
        limits: Limits { time, configurations: configurations / workers },
        certificates,
        memory: Some(args.memory_bytes() / workers as u64),
        meter: Some(&meter),
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut reports = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = files.get(at) else { return reports };
            reports.push((at, check_file(path, &reading)));
            meter.file_done();
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

fn say_file(report: &FileReport, out: &mut impl Write) -> io::Result<()> {
    let FileReport { path, verdict, keys, operations, certified, parts, seconds, .. } = report;
    for sentence in report.violations.iter().chain(&report.unknown_because) {
        writeln!(out, "  {}", sentence.trim_end().replace('\n', "\n    "))?;
    }
    let mut rest = String::new();
    if *parts > 1 {
        rest.push_str(&format!(", in {parts} parts"));
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

/// Judges a run directory and writes its `results.json`.
///
/// # Errors
/// The record cannot be read, or the results cannot be written.
pub fn judge(directory: &Path, limits: &Limits) -> Result<(Run, Results), CommandError> {
    if !directory.join("history.jsonl").exists() {
        let reason = "no run directory: it has no history.jsonl";
        return Err(CommandError::Nothing { path: directory.to_owned(), reason });
    }
    let run = Run::load(directory)?;
    let results = super::check(&run, limits);
    let mut text = serde_json::to_string_pretty(&results).map_err(io::Error::from)?;
    text.push('\n');
    let path = directory.join("results.json");
    fs::write(&path, text).map_err(|source| LoadError::File { path, source })?;
    Ok((run, results))
}

/// Says what was found: a line for each check, a sentence for each violation and each doubt, and
/// the verdict with the place of the run in the last line.
///
/// # Errors
/// It cannot be written.
pub fn say(results: &Results, path: &Path, out: &mut impl Write) -> io::Result<()> {
    for check_result in &results.checks {
        say_judgement(check_result, out)?;
    }
    writeln!(out, "{}: {}", results.verdict, path.display())
}

/// Violations that a check is given room for in a terminal.
const SAID_MAX: usize = 6;

fn say_judgement(check_result: &CheckResult, out: &mut impl Write) -> io::Result<()> {
    let CheckResult { check, verdict, violations, violations_total, unknown_because, .. } =
        check_result;
    writeln!(out, "  {check:<16} {verdict}")?;
    let said = violations.len().min(SAID_MAX);
    for sentence in &violations[..said] {
        writeln!(out, "    {}", sentence.trim_end().replace('\n', "\n      "))?;
    }
    if *violations_total > said {
        writeln!(out, "    and {} more; results.json has the first", violations_total - said)?;
    }
    for sentence in unknown_because {
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
