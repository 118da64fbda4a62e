//! Checks a history in a file of any known format: operations on single keys for linearizability,
//! transactions for isolation levels, sets, counters, queues and banks by what they are. A history of operations that is larger than the memory limit is
//! partitioned first.

mod objects;

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use history::{
    ReadError, Shard,
    formats::{self, Ambiguous, Format},
};
use serde::Serialize;

use crate::{
    Validity,
    certificate::Certificates,
    initial::{self, InitialValue},
    levels::Level,
    linearizability::{
        KeyVerdict, Limits, Observations, Spec, Verdict, check_keys_with, explain, in_parallel,
    },
    named_operations::NamedOperations,
    partition::{PartitionEvent, Partitions},
    progress::ProgressObserver,
    reading::{Reading, sorted_bytes},
    transactions::{
        self, Certificate, Components, Order, ShardSink, Standing, TransactionHistory,
        TransactionReport,
    },
};

/// How to check a file.
#[derive(Clone, Copy, Default)]
pub struct FileCheckOptions<'a> {
    /// The file's format, detected from its content if `None`.
    pub format: Option<Format>,
    /// The specification of its keys. `None`: the format's own, or appends if the history has some.
    pub spec: Option<Spec>,
    /// The value that registers hold at first, written as in the format; `nil` or `null`: they are
    /// absent. `None`: absent too, unless the history shows another value.
    pub initial: Option<&'a str>,
    /// Limits for each key.
    pub limits: Limits,
    /// Where to write the certificates of valid verdicts. `None`: no certificates.
    pub certificates: Option<&'a Certificates>,
    /// Memory in bytes. A larger file is partitioned by key. `None`: no limit.
    pub memory: Option<u64>,
    /// The level that the history is judged by. `None`: operations on single keys by linearizability; of
    /// transactions is reported what they satisfy; sets and queues by durability, counters by linearizability,
    /// banks by serializability.
    pub claim: Option<Level>,
    /// Notified of the progress.
    pub progress: Option<&'a dyn ProgressObserver>,
    /// The shard that is checked: some of the keys, or of the components of transactions; of an object that is read
    /// whole, the first shard has all. The greatest verdict of all shards is that on the whole. `None`: the whole.
    pub shard: Option<Shard>,
}

/// The result of checking a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// The greatest verdict of its keys.
    pub verdict: Validity,
    /// The name of its format.
    pub format: &'static str,
    /// Number of keys.
    pub keys: usize,
    /// Number of operations.
    pub operations: u64,
    /// Number of keys with a certificate.
    pub certified: usize,
    /// Why keys are not linearizable: a sentence and a timeline each.
    pub violations: Vec<String>,
    /// Why keys are undecided.
    pub unknown_because: Vec<String>,
    /// What was assumed, or can be said about the history.
    pub notes: Vec<String>,
    /// Number of partitions that were decided one after the other.
    pub partitions: usize,
    /// What was found in a history of transactions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transactions: Option<TransactionReport>,
    /// Time to read the file and time to decide, in seconds.
    pub seconds: (f64, f64),
    /// Number of operations of which the history does not say whether they may have happened.
    #[serde(skip)]
    ambiguous: u64,
    /// Other shards have operations: a shard without any proves nothing, and hides nothing.
    #[serde(skip)]
    is_elsewhere: bool,
}

/// Checks the history in a file.
///
/// # Errors
/// The file cannot be read or is malformed.
pub fn check_file(path: &Path, options: &FileCheckOptions<'_>) -> Result<FileReport, ReadError> {
    let mut reading = Reading::new(path, options.format, options.spec, options.initial)?;
    if reading.is_of_transactions(path)? {
        return check_transactions(path, &reading, options);
    }
    if reading.is_of_objects(path)? {
        return objects::check(path, &reading, options);
    }
    if let Some(claim) = options.claim
        && claim != Level::Linearizable
    {
        let mut report = FileReport::new(path, reading.format);
        report.unknown(format!(
            "operations on single keys are judged as {}, not as {claim}",
            Level::Linearizable
        ));
        return Ok(report);
    }
    let asks = options.initial.is_none()
        && reading.spec == Spec::Register
        && initial::is_possible(reading.format);
    // Certificates are written while keys are decided, so what they depend on is found before. So is what all shards
    // have to agree on.
    let mut shown = InitialValue::Absent;
    let is_found_before = options.certificates.is_some() || options.shard.is_some();
    if asks && is_found_before {
        shown = initial::initial_value(path, reading.format)?;
    }
    if let InitialValue::Shown(value) = &shown {
        reading.initial = Some(value.clone());
    }
    let mut report = match (check_as(path, &reading, options), reading.with_appends(options.spec)) {
        (Err(error), Some(appends)) => {
            let report = check_as(path, &appends, options);
            let report = report.map_err(|again| later_of(error, again))?;
            reading = appends;
            report
        }
        (report, _) => report?,
    };
    if asks && !is_found_before && report.verdict == Validity::Invalid {
        shown = initial::initial_value(path, reading.format)?;
        if let InitialValue::Shown(value) = &shown {
            reading.initial = Some(value.clone());
            report = check_as(path, &reading, options)?;
        }
    }
    if report.ambiguous > 0 && report.verdict == Validity::Invalid {
        report = settle_ambiguous(path, &mut reading, options, report)?;
    }
    match shown {
        InitialValue::Shown(value) => report.notes.push(format!(
            "the registers begin with {value}: it was read before any write and never written; \
             --initial nil says that they begin absent"
        )),
        InitialValue::Suggested(value) if report.verdict == Validity::Invalid => {
            report.notes.push(format!(
                "{value} was read before any write: if the registers begin with it, say so with \
                 --initial '{value}'"
            ));
        }
        _ => {}
    }
    if report.operations == 0 && !report.is_elsewhere && report.unknown_because.is_empty() {
        report.unknown("the history contains no operations".to_owned());
    }
    Ok(report)
}

/// Checks a history of transactions.
fn check_transactions(
    path: &Path,
    reading: &Reading,
    options: &FileCheckOptions<'_>,
) -> Result<FileReport, ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let mut report = FileReport::new(path, reading.format);
    let start = Instant::now();
    let mut size = formats::open(path).map_err(io)?.bytes;
    let keys = match options.shard {
        None => None,
        Some(shard) => {
            let mut components = Components::new(sessions_count(options.claim));
            reading.stream(path, &mut components, None)?;
            let keys = components.distribute(shard.of);
            size = share(size, keys.micro_ops[shard.number as usize], keys.micro_ops.iter().sum());
            Some((shard, keys))
        }
    };
    if let Some(memory) = options.memory
        && size > memory
    {
        report.unknown(format!(
            "transactions are judged in memory, which takes about {} MiB; the limit is {} MiB \
             (--memory)",
            size.div_ceil(1 << 20),
            memory >> 20
        ));
        return Ok(report);
    }
    let mut history = TransactionHistory::default();
    match &keys {
        None => reading.stream(path, &mut history, options.progress)?,
        Some((shard, keys)) => {
            let mut sink = ShardSink::new(&mut history, keys, *shard);
            reading.stream(path, &mut sink, options.progress)?
        }
    };
    history.seal();
    let read = start.elapsed();
    report.keys = history.keys();
    report.operations = history.len() as u64;
    if let Some((shard, keys)) = &keys {
        report.notes.push(format!(
            "shard {shard}: {} of {} transactions; the history has {} components without a key in common",
            history.len(),
            keys.transactions,
            keys.components
        ));
    }
    // Nothing is claimed of no transactions; that there are some, other shards show.
    report.is_elsewhere = keys.as_ref().is_some_and(|(_, keys)| keys.transactions > 0);
    if history.is_empty() && report.is_elsewhere {
        return Ok(report);
    }
    let judged = match transactions::judge(&mut history) {
        Ok(judged) => judged,
        Err(reason) => {
            report.unknown(reason);
            return Ok(report);
        }
    };
    let claim = match options.claim {
        Some(Level::Isolation(level)) => Some(level),
        None => None,
        Some(Level::Durable) => {
            if let Some(why) = transactions::durability_unknown_because(&history) {
                report.unknown(why);
            }
            None
        }
        Some(Level::Axiomatic(level)) => {
            match judged.axiomatic(level) {
                Some(Standing::Holds) => {}
                Some(Standing::RuledOut) => report.verdict = Validity::Invalid,
                Some(Standing::Unknown(why)) => report.unknown(why.clone()),
                None => report.unknown(format!(
                    "{} is a level of transactions on registers, and these are on lists",
                    Level::Axiomatic(level)
                )),
            }
            None
        }
        Some(other) => {
            report.unknown(format!(
                "transactions are judged as durable or by an isolation level, not as {other}"
            ));
            None
        }
    };
    let mut judgement = transactions::report(&history, &judged, claim);
    judgement.claim = options.claim.map(|claim| claim.to_string());
    report.verdict = report.verdict.max(judgement.verdict);
    report.seconds = (read.as_secs_f64(), (start.elapsed() - read).as_secs_f64());
    if let (Some(certificates), Some(found)) = (options.certificates, &judged.certificate) {
        certify(&mut report, &history, found, certificates)?;
    }
    report.transactions = Some(judgement);
    if history.is_empty() {
        report.unknown("the history contains no transactions".to_owned());
    }
    Ok(report)
}

/// Writes the certificate of a history of transactions, if it is one: the order was found by one algorithm and is
/// replayed by another.
fn certify(
    report: &mut FileReport,
    history: &TransactionHistory,
    found: &Certificate,
    certificates: &Certificates,
) -> Result<(), ReadError> {
    let Certificate { level, order } = found;
    if let Err(why) = transactions::verify(history, order, level.order) {
        report.unknown(format!("the order that was found is wrong: {why}"));
        return Ok(());
    }
    certificates.add_transactions(found).map_err(certificate_error)?;
    report.notes.push(format!("certified: {} transactions are {level}", order.len()));
    Ok(())
}

/// Whether the order of each session counts for a level. Real time implies it, and is local.
fn sessions_count(claim: Option<Level>) -> bool {
    match claim {
        Some(Level::Isolation(level)) => level.order == Order::Process,
        Some(Level::Axiomatic(_)) => true,
        _ => false,
    }
}

/// The share of a size that a part of the whole has.
fn share(size: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(size) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(size)
}

/// The error that is further into the file: the other reading got past the first one.
fn later_of(one: ReadError, other: ReadError) -> ReadError {
    let position = |error: &ReadError| match error {
        ReadError::Malformed { line, column, .. } => (*line, *column),
        ReadError::Io { .. } => (usize::MAX, 0),
    };
    if position(&other) > position(&one) { other } else { one }
}

/// Decides a history that is not linearizable if its operations that are not ok did not happen. They
/// may have happened.
fn settle_ambiguous(
    path: &Path,
    reading: &mut Reading,
    options: &FileCheckOptions<'_>,
    strict: FileReport,
) -> Result<FileReport, ReadError> {
    reading.ambiguous = Ambiguous::Info;
    let options = FileCheckOptions { certificates: None, ..*options };
    let lenient = check_as(path, reading, &options)?;
    if lenient.verdict != Validity::Valid {
        return Ok(lenient);
    }
    let mut report = FileReport { verdict: Validity::Valid, violations: Vec::new(), ..strict };
    report.unknown(format!(
        "linearizable only if some of the {} operations with ok: false took effect; write \"fail\" \
         (it did not happen) or \"info\" (unknown) instead of false",
        report.ambiguous
    ));
    Ok(report)
}

/// Checks the history in a file with one reading of it.
fn check_as(
    path: &Path,
    reading: &Reading,
    options: &FileCheckOptions<'_>,
) -> Result<FileReport, ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    // A history takes no more space in memory than in its file.
    let size = fs::metadata(path).map_err(io)?.len();
    let sorted = size * sorted_bytes(reading.format);
    match options.memory {
        Some(memory) if sorted > memory => {
            let mut report = FileReport::new(path, reading.format);
            report.unknown(format!(
                "operations with start and end are sorted in memory, which takes about {} MiB; the limit \
                 is {} MiB (--memory)",
                sorted.div_ceil(1 << 20),
                memory >> 20
            ));
            Ok(report)
        }
        Some(memory) if size > memory => check_partitioned(path, reading, options, memory),
        _ if options.shard.is_some() => check_partitioned(path, reading, options, u64::MAX),
        _ => check_in_memory(path, reading, options),
    }
}

impl FileReport {
    fn new(path: &Path, format: Format) -> Self {
        FileReport {
            path: path.to_owned(),
            verdict: Validity::Valid,
            format: format.name(),
            keys: 0,
            operations: 0,
            certified: 0,
            violations: Vec::new(),
            unknown_because: Vec::new(),
            notes: Vec::new(),
            partitions: 1,
            transactions: None,
            seconds: (0.0, 0.0),
            ambiguous: 0,
            is_elsewhere: false,
        }
    }

    fn unknown(&mut self, reason: String) {
        self.verdict = self.verdict.max(Validity::Unknown);
        self.unknown_because.push(reason);
    }

    /// Adds the verdicts on keys. `find` looks up the operations that are to be shown.
    fn add(
        &mut self,
        observations: &Observations,
        verdicts: Vec<KeyVerdict>,
        certificates: Option<&Certificates>,
        find: impl FnOnce(&mut NamedOperations) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        self.keys += observations.keys().len();
        self.operations += observations.operations();
        let mut named = NamedOperations::of(&verdicts);
        if !named.is_empty() {
            find(&mut named)?;
        }
        for KeyVerdict { key, verdict, numbers } in verdicts {
            let key = &observations.keys()[key];
            match verdict {
                Verdict::Valid(order) => {
                    if let (Some(mut order), Some(certificates)) = (order, certificates) {
                        order.iter_mut().for_each(|number| *number = numbers[*number as usize]);
                        certificates.add(&key.name, order).map_err(certificate_error)?;
                        self.certified += 1;
                    }
                }
                Verdict::Unknown(limit) => self.unknown(format!("{}: {limit}", key.name)),
                Verdict::Invalid(counterexample) => {
                    self.verdict = Validity::Invalid;
                    let shown = |position: u32| named.shown(numbers[position as usize]);
                    self.violations.push(explain(key, &counterexample, shown).to_string());
                }
            }
        }
        Ok(())
    }

    /// Adds the report on a partition.
    fn merge(&mut self, partition: FileReport) {
        self.verdict = self.verdict.max(partition.verdict);
        self.keys += partition.keys;
        self.certified += partition.certified;
        self.violations.extend(partition.violations);
        self.unknown_because.extend(partition.unknown_because);
    }
}

fn certificate_error(source: io::Error) -> ReadError {
    ReadError::Io { path: "the certificate file".into(), source }
}

fn decide_all(observations: &Observations, options: &FileCheckOptions<'_>) -> Vec<KeyVerdict> {
    let FileCheckOptions { limits, certificates, progress, .. } = options;
    if let Some(progress) = progress {
        progress.keys_found(observations.keys().len());
    }
    check_keys_with(observations, limits, certificates.is_some(), &|| {
        if let Some(progress) = progress {
            progress.key_decided();
        }
    })
}

/// Checks a file that fits in memory.
fn check_in_memory(
    path: &Path,
    reading: &Reading,
    options: &FileCheckOptions<'_>,
) -> Result<FileReport, ReadError> {
    let start = Instant::now();
    let mut observations = reading.observations();
    let summary = reading.stream(path, &mut observations, options.progress)?;
    let read = start.elapsed();
    let verdicts = decide_all(&observations, options);
    let decided = start.elapsed() - read;
    let mut report = FileReport::new(path, reading.format);
    report.ambiguous = summary.ambiguous;
    report.seconds = (read.as_secs_f64(), decided.as_secs_f64());
    report.add(&observations, verdicts, options.certificates, |named| {
        reading.stream(path, named, None).map(drop)
    })?;
    Ok(report)
}

/// Checks a file that does not fit in memory, or a shard of a file: partitions it by key, and decides as many
/// partitions at a time as fit.
fn check_partitioned(
    path: &Path,
    reading: &Reading,
    options: &FileCheckOptions<'_>,
    memory: u64,
) -> Result<FileReport, ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let start = Instant::now();
    let shard = options.shard.unwrap_or_default();
    let mut partitions = Partitions::beside(path, shard).map_err(io)?;
    let streamed = reading.stream(path, &mut partitions, options.progress);
    // A write error explains why the reader stopped, so it is reported first.
    partitions.close().map_err(io)?;
    let summary = streamed?;
    // All shards read the history in the same way.
    if partitions.has_appends() && reading.spec == Spec::Register {
        return Err(io(io::Error::other("a register has no append: use --spec append")));
    }
    let read = start.elapsed();
    let all = partitions.partitions();
    let fits = |at: &usize| all[*at].memory() <= memory;
    let (small, large): (Vec<usize>, Vec<usize>) = (0..all.len()).partition(fits);
    let largest = small.iter().map(|at| all[*at].memory()).max().unwrap_or(0);
    let at_a_time = (memory / largest.max(1)).min(small.len() as u64);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let workers = usize::try_from(at_a_time).unwrap_or(cores).clamp(1, cores);
    let limits =
        Limits { configurations: options.limits.configurations / workers, ..options.limits };
    let options = &FileCheckOptions { limits, ..*options };
    let reports = in_parallel(workers, small.len(), |at| {
        let mut report = FileReport::new(path, reading.format);
        check_partition(&partitions, small[at], reading, options, &mut report).map(|()| report)
    });
    let mut report = FileReport::new(path, reading.format);
    report.ambiguous = summary.ambiguous;
    report.partitions = all.len();
    for partition in reports {
        report.merge(partition?);
    }
    for partition in large.into_iter().map(|at| &all[at]) {
        report.keys += partition.keys();
        report.unknown(format!(
            "{}: deciding {} operations takes about {} MiB; the limit is {} MiB (--memory)",
            partition.some_keys(),
            partition.operations,
            partition.memory().div_ceil(1 << 20),
            memory >> 20
        ));
    }
    report.operations = partitions.operations();
    report.is_elsewhere = partitions.all_operations() > 0;
    report.seconds = (read.as_secs_f64(), (start.elapsed() - read).as_secs_f64());
    Ok(report)
}

fn check_partition(
    partitions: &Partitions,
    at: usize,
    reading: &Reading,
    options: &FileCheckOptions<'_>,
    report: &mut FileReport,
) -> Result<(), ReadError> {
    let path = report.path.clone();
    let io = |source| ReadError::Io { path: path.clone(), source };
    let mut observations = reading.observations();
    let read = partitions.read(at, |event| {
        // Each operation gets a process of its own: the order of events is all that matters here.
        let observed = match event {
            PartitionEvent::Invoke { number, key, invocation, .. } => {
                observations.invoke_numbered(number, number, key, invocation)
            }
            PartitionEvent::Complete { number, completion } => {
                observations.complete(number, completion)
            }
        };
        observed.map_err(io::Error::other)
    });
    read.map_err(io)?;
    let verdicts = decide_all(&observations, options);
    report.add(&observations, verdicts, options.certificates, |named| {
        let read = partitions.read(at, |event| {
            match event {
                PartitionEvent::Invoke { number, process, invocation, .. } => {
                    named.invoked(number, process, invocation);
                }
                PartitionEvent::Complete { number, completion } => {
                    named.completed(number, completion);
                }
            }
            Ok(())
        });
        read.map_err(io)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_without_operations_is_unknown() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("history");
        let kill = r#"{"index":0,"time":1,"process":"nemesis","type":"info","f":"kill"}"#;
        let torn = r#"{"index":0,"time":1,"process":1,"type":"inv"#;
        for text in ["", &format!("{kill}\n"), torn, "[]", "{:process :nemesis}"] {
            fs::write(&path, text).expect("the disk has room");
            for memory in [None, Some(0)] {
                let options = FileCheckOptions { memory, ..FileCheckOptions::default() };
                let report = check_file(&path, &options).expect("well formed");
                assert_eq!(report.verdict, Validity::Unknown, "{text}");
                assert_eq!(report.unknown_because, ["the history contains no operations"]);
            }
        }
    }
}
