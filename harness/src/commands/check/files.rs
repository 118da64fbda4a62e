//! Checks history files, in parallel, and prints what was found.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use checker::{
    CheckResult, Finding, Limits, Validity,
    certificate::Certificates,
    file::{FileCheckOptions, FileReport, check_file},
};
use history::ReadError;
use report::ci::Judged;
use twopc::checks::LoadError;

use super::{
    super::{
        is_of_machine, print_json,
        progress::{CheckProgress, checking_files},
    },
    CheckArgs, CiOutput, CommandError, transactions,
};

/// How many histories got which verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// By verdict: the number of histories.
    counts: [usize; 3],
    /// The number of files that cannot be read as a history.
    pub unreadable: usize,
    /// The number of operations in files, or in a shard of each.
    pub operations: u64,
    /// What is not valid in files.
    pub failures: Vec<FileFailure>,
}

/// Something in a file that is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFailure {
    /// The file.
    pub path: PathBuf,
    /// Invalid or unknown.
    pub verdict: Validity,
    /// What is wrong, in a sentence.
    pub why: String,
}

impl Checked {
    /// Counts a history.
    pub(super) fn count(&mut self, verdict: Validity) {
        self.counts[verdict as usize] += 1;
    }

    /// The number of histories with a verdict.
    #[must_use]
    pub fn of(&self, verdict: Validity) -> usize {
        self.counts[verdict as usize]
    }

    /// The greatest verdict. Files that cannot be read have none.
    #[must_use]
    pub fn worst(&self) -> Validity {
        [Validity::Invalid, Validity::Unknown]
            .into_iter()
            .find(|verdict| self.of(*verdict) > 0)
            .unwrap_or(Validity::Valid)
    }
}

/// Files that are not valid whose counterexamples or reasons are printed without `--each`.
const EXPLAINED_MAX: usize = 10;

/// Checks files, which are all or some of a number of histories, and prints the results. If there is
/// one history, it must be readable.
pub(super) fn check_files(
    files: &[PathBuf],
    total: usize,
    args: &CheckArgs,
    checked: &mut Checked,
    ci: &mut CiOutput<'_>,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let certificates = args.certify.as_deref().map(|path| {
        let io = |source| CommandError::Certificates { path: path.to_owned(), source };
        Certificates::create(path).map_err(io).map(|open| (path, open))
    });
    let certificates = certificates.transpose()?;
    let mut printer = Printer { args, total, explained: 0, checked, ci, out };
    let open = certificates.as_ref().map(|(_, open)| open);
    check_in_parallel(files, args, open, |report| printer.print(report))?;
    printer.finish()?;
    if let Some((path, open)) = certificates {
        let io = |source| CommandError::Certificates { path: path.to_owned(), source };
        open.finish().map_err(io)?;
    }
    Ok(())
}

/// Checks as many files at a time as there are cores, and calls `each` with the reports in the order
/// of the files.
fn check_in_parallel(
    files: &[PathBuf],
    args: &CheckArgs,
    certificates: Option<&Certificates>,
    mut each: impl FnMut(Result<FileReport, ReadError>) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(files.len()).max(1);
    let Limits { time, configurations } = args.limits();
    let progress = Arc::new(CheckProgress::default());
    let bytes = files.iter().filter_map(|file| Some(fs::metadata(file).ok()?.len())).sum();
    let _line = checking_files(&progress, files.len(), bytes);
    // Files that are checked at the same time share the limits.
    let options = FileCheckOptions {
        format: args.format,
        spec: args.spec,
        initial: args.initial.as_deref(),
        limits: Limits { time, configurations: configurations / workers },
        certificates,
        memory: Some(args.memory_bytes() / workers as u64),
        progress: Some(&*progress),
        claim: args.claim,
        shard: args.shard,
    };
    let next = AtomicUsize::new(0);
    let (sender, reports) = mpsc::channel();
    let work = |sender: mpsc::Sender<_>| {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = files.get(at) else { return };
            let report = check_file(path, &options);
            progress.file_done();
            // Nobody receives once the output cannot be written.
            if sender.send((at, report)).is_err() {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            let sender = sender.clone();
            scope.spawn(|| work(sender));
        }
        drop(sender);
        let mut waiting = BTreeMap::new();
        let mut printed = 0;
        for (at, report) in reports {
            waiting.insert(at, report);
            while let Some(report) = waiting.remove(&printed) {
                each(report)?;
                printed += 1;
            }
        }
        Ok(())
    })
}

/// Prints reports and counts verdicts.
struct Printer<'p, 'c, W> {
    args: &'p CheckArgs,
    /// Number of histories.
    total: usize,
    /// Number of files that were explained.
    explained: usize,
    checked: &'p mut Checked,
    ci: &'p mut CiOutput<'c>,
    out: &'p mut W,
}

impl<W: Write> Printer<'_, '_, W> {
    fn print(&mut self, report: Result<FileReport, ReadError>) -> Result<(), CommandError> {
        match report {
            Ok(report) => {
                self.checked.count(report.verdict);
                let judged = judged(&report);
                self.checked.operations += report.operations;
                self.checked.failures.extend(failures(&report, &judged));
                self.ci.add(judged)?;
                if let Some(page) = &self.args.page {
                    write_page(&report, page)?;
                }
                if self.args.json {
                    return print_json(&report, self.out);
                }
                Ok(self.print_report(&report)?)
            }
            Err(error) if self.total == 1 => Err(LoadError::History(error).into()),
            // Another machine may be able to read it, and do the shard.
            Err(error) if self.args.shard.is_some() && is_of_machine(&error) => {
                Err(LoadError::History(error).into())
            }
            Err(error) => {
                self.checked.unreadable += 1;
                let path = error.path().to_owned();
                print_unreadable(&path, &error, self.args.json, self.out)
            }
        }
    }

    fn print_report(&mut self, report: &FileReport) -> io::Result<()> {
        let is_alone = self.total == 1 || self.args.each;
        if report.verdict == Validity::Valid && !is_alone {
            return Ok(());
        }
        if is_alone || self.explained < EXPLAINED_MAX {
            self.explained += 1;
            if let Some(transactions) = &report.transactions {
                transactions::print(transactions, self.out)?;
            }
            let FileReport { violations, unknown_because, notes, .. } = report;
            for sentence in violations.iter().chain(unknown_because).chain(notes) {
                writeln!(self.out, "  {}", sentence.trim_end().replace('\n', "\n    "))?;
            }
        }
        print_line(report, self.out)
    }

    fn finish(self) -> Result<(), CommandError> {
        let Printer { args, total, explained, checked, out, .. } = self;
        if total < 2 || args.json {
            return Ok(());
        }
        let [valid, unknown, invalid] = checked.counts;
        write!(out, "{total} files: {valid} valid, {invalid} invalid, {unknown} unknown")?;
        if checked.unreadable > 0 {
            write!(out, ", {} unreadable", checked.unreadable)?;
        }
        writeln!(out)?;
        if explained == EXPLAINED_MAX && invalid + unknown > EXPLAINED_MAX && !args.each {
            writeln!(out, "(the first {EXPLAINED_MAX} are explained; --each explains all)")?;
        }
        Ok(())
    }
}

/// A report as that of one check, for CI services.
fn judged(report: &FileReport) -> Judged {
    let FileReport { path, verdict, violations, unknown_because, seconds, .. } = report;
    let mut check = CheckResult::new("history");
    check.verdict = *verdict;
    let anomalies = report.transactions.iter().flat_map(|report| {
        report.anomalies.iter().map(|anomaly| format!("{}: {}", anomaly.name, anomaly.text))
    });
    let lost = report.transactions.iter().flat_map(|report| &report.lost).cloned();
    if *verdict == Validity::Invalid {
        violations.iter().cloned().chain(anomalies).chain(lost).for_each(|it| check.violation(it));
    }
    check.unknown_because = unknown_because.iter().cloned().map(Finding::from).collect();
    Judged {
        name: path.display().to_string(),
        seconds: seconds.0 + seconds.1,
        command: None,
        checks: vec![check],
    }
}

/// What is not valid in a file: each violation, or each reason why it is undecided.
fn failures(report: &FileReport, judged: &Judged) -> Vec<FileFailure> {
    let sentences = judged.checks.iter().flat_map(|check| match report.verdict {
        Validity::Invalid => check.violations.as_slice(),
        _ => &check.unknown_because,
    });
    let failure = |finding: &Finding| FileFailure {
        path: report.path.clone(),
        verdict: report.verdict,
        why: finding.split_first_line().0.text().to_owned(),
    };
    let mut failures: Vec<FileFailure> = sentences.map(failure).collect();
    if failures.is_empty() && report.verdict != Validity::Valid {
        let why = "the claim does not hold, or is undecided".to_owned();
        failures.push(FileFailure { path: report.path.clone(), verdict: report.verdict, why });
    }
    failures
}

/// Writes the page on a history of transactions.
fn write_page(report: &FileReport, page: &Path) -> Result<(), CommandError> {
    let Some(transactions) = &report.transactions else {
        return Err(CommandError::Arguments("--page goes with a history of transactions"));
    };
    let name = report.path.file_stem().unwrap_or_default().to_string_lossy();
    let text = report::transactions::page(&name, report.verdict, transactions);
    fs::write(page, text)
        .map_err(|source| CommandError::Invalid(format!("{}: {source}", page.display())))
}

/// Prints a line on a history that cannot be read.
pub(super) fn print_unreadable(
    path: &Path,
    error: &impl ToString,
    json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let error = error.to_string();
    if json {
        let unreadable = serde_json::json!({ "path": path, "verdict": null, "error": error });
        return print_json(&unreadable, out);
    }
    Ok(writeln!(out, "unreadable: {}", error.replace('\n', "\n    "))?)
}

fn print_line(report: &FileReport, out: &mut impl Write) -> io::Result<()> {
    let FileReport { path, verdict, keys, operations, certified, partitions, seconds, .. } = report;
    let mut rest = String::new();
    if *partitions > 1 {
        rest.push_str(&format!(", in {partitions} partitions"));
    }
    if *certified > 0 {
        rest.push_str(&format!(", {certified} of {keys} keys certified"));
    }
    let operation = if report.transactions.is_some() { "transactions" } else { "operations" };
    writeln!(
        out,
        "{verdict}: {}: {operations} {operation} on {keys} keys, read in {:.3} s, decided in {:.3} s\
         {rest}",
        path.display(),
        seconds.0,
        seconds.1
    )
}
