//! Decides a history that lies in a file of any known format: linearizability alone, for a file has
//! no journals. Knows how to name what is wrong, not how it is found.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use serde::Serialize;

use super::{
    Validity,
    certificate::Certificates,
    linearizability::{
        Ask, End, KeyVerdict, Keys, Limits, MalformedHistory, Shown, Spec, Verdict,
        check_keys_telling, explain,
    },
    progress::Meter,
    spill::{Parts, Record},
};
use crate::history::{
    ReadError,
    formats::{self, Format, Sink},
};

/// What to make of a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading<'a> {
    /// Its format; found by content if none is given.
    pub format: Option<Format>,
    /// What its keys are; the format's own if none is given.
    pub spec: Option<Spec>,
    /// What may be spent on a key.
    pub limits: Limits,
    /// Where the certificates of valid verdicts go, if they are wanted.
    pub certificates: Option<&'a Certificates>,
    /// A file that would take more bytes of memory than this is parted by key first. None: no file
    /// is.
    pub memory: Option<u64>,
    /// Is told how far it is.
    pub meter: Option<&'a Meter>,
}

/// What was found in a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// The worst verdict of its keys.
    pub verdict: Validity,
    /// Its format, by name.
    pub format: &'static str,
    /// How many keys it has.
    pub keys: usize,
    /// How many operations.
    pub operations: u64,
    /// How many keys' certificates were verified.
    pub certified: usize,
    /// Why keys are not linearizable: a sentence and a timeline each.
    pub violations: Vec<String>,
    /// Why keys are undecided.
    pub unknown_because: Vec<String>,
    /// How many parts it was decided in, one after the other.
    pub parts: usize,
    /// How long reading took, and deciding, in seconds.
    pub seconds: (f64, f64),
}

/// Decides a file.
///
/// # Errors
/// It cannot be read, or something in it is not what it should be.
pub fn check_file(path: &Path, reading: &Reading<'_>) -> Result<FileReport, ReadError> {
    let format = match reading.format {
        Some(format) => format,
        None => formats::detect(path)?,
    };
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    // In memory a history takes no more than in its file.
    let size = fs::metadata(path).map_err(io)?.len();
    let mut report = match reading.memory {
        Some(memory) if size > memory => check_parted(path, format, reading, memory)?,
        _ => check_whole(path, format, reading)?,
    };
    if report.operations == 0 {
        report.unknown("the history has no operation: nothing was shown".to_owned());
    }
    Ok(report)
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
            parts: 1,
            seconds: (0.0, 0.0),
        }
    }

    fn unknown(&mut self, doubt: String) {
        self.verdict = self.verdict.max(Validity::Unknown);
        self.unknown_because.push(doubt);
    }

    /// Takes in what was found of keys. The operations that are to be shown are looked for by
    /// `find`.
    fn add(
        &mut self,
        keys: &Keys,
        verdicts: Vec<KeyVerdict>,
        certificates: Option<&Certificates>,
        find: impl FnOnce(&mut Named) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        self.keys += keys.keys().len();
        self.operations += keys.operations();
        let mut named = Named::of(&verdicts);
        if !named.wanted.is_empty() {
            find(&mut named)?;
        }
        for KeyVerdict { key, verdict, numbers } in verdicts {
            let key = &keys.keys()[key];
            match verdict {
                Verdict::Valid(order) => {
                    if let (Some(mut order), Some(certificates)) = (order, certificates) {
                        order.iter_mut().for_each(|place| *place = numbers[*place as usize]);
                        certificates.add(&key.name, order).map_err(certificate_lost)?;
                        self.certified += 1;
                    }
                }
                Verdict::Unknown(exhausted) => self.unknown(format!("{}: {exhausted}", key.name)),
                Verdict::Invalid(counterexample) => {
                    self.verdict = Validity::Invalid;
                    let shown = |place: u32| named.shown(numbers[place as usize]);
                    self.violations.push(explain(key, &counterexample, shown).to_string());
                }
            }
        }
        Ok(())
    }
}

fn certificate_lost(source: io::Error) -> ReadError {
    ReadError::Io { path: "the file of certificates".into(), source }
}

/// Reads a file as it is, counting.
fn stream(
    path: &Path,
    format: Format,
    sink: &mut dyn Sink,
    meter: Option<&Meter>,
) -> Result<(), ReadError> {
    let Some(meter) = meter else { return formats::stream(path, format, sink) };
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let file = meter.counted(File::open(path).map_err(io)?);
    formats::stream_from(&mut BufReader::with_capacity(1 << 18, file), format, sink, path)
}

fn decide_all(keys: &Keys, reading: &Reading<'_>) -> Vec<KeyVerdict> {
    if let Some(meter) = reading.meter {
        meter.keys(keys.keys().len());
    }
    check_keys_telling(keys, &reading.limits, reading.certificates.is_some(), &|| {
        if let Some(meter) = reading.meter {
            meter.key_done();
        }
    })
}

/// Decides a file that fits into memory.
fn check_whole(
    path: &Path,
    format: Format,
    reading: &Reading<'_>,
) -> Result<FileReport, ReadError> {
    let start = Instant::now();
    let mut keys = Keys::new(reading.spec.unwrap_or(format.spec()));
    stream(path, format, &mut keys, reading.meter)?;
    let read = start.elapsed();
    let verdicts = decide_all(&keys, reading);
    let decided = start.elapsed() - read;
    let mut report = FileReport::new(path, format);
    report.seconds = (read.as_secs_f64(), decided.as_secs_f64());
    report
        .add(&keys, verdicts, reading.certificates, |named| formats::stream(path, format, named))?;
    Ok(report)
}

/// Decides a file that does not: parted by key, as many parts at a time as fit.
fn check_parted(
    path: &Path,
    format: Format,
    reading: &Reading<'_>,
    memory: u64,
) -> Result<FileReport, ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let start = Instant::now();
    let mut parts = Parts::beside(path).map_err(io)?;
    let parted = stream(path, format, &mut parts, reading.meter);
    parts.close().map_err(io)?;
    parted?;
    let read = start.elapsed();
    let parts = &parts;
    let spec = reading.spec.unwrap_or(format.spec());
    let fits = |part: &usize| parts.parts()[*part].memory() <= memory;
    let (small, large): (Vec<usize>, Vec<usize>) = (0..parts.parts().len()).partition(fits);
    let greatest = small.iter().map(|part| parts.parts()[*part].memory()).max().unwrap_or(0);
    let at_a_time = (memory / greatest.max(1)).min(small.len() as u64);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let workers = usize::try_from(at_a_time).unwrap_or(cores).clamp(1, cores);
    let limits =
        Limits { configurations: reading.limits.configurations / workers, ..reading.limits };
    let reading = &Reading { limits, ..*reading };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(part) = small.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut report = FileReport::new(path, format);
            let found = check_part(parts, *part, spec, reading, &mut report).map(|()| report);
            done.push((*part, found));
        }
        done
    };
    let mut done: Vec<(usize, Result<FileReport, ReadError>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|why| std::panic::resume_unwind(why)))
            .collect()
    });
    let mut whole = FileReport::new(path, format);
    whole.parts = parts.parts().len();
    done.sort_by_key(|(part, _)| *part);
    for (_, part) in done {
        let part = part?;
        whole.verdict = whole.verdict.max(part.verdict);
        whole.keys += part.keys;
        whole.certified += part.certified;
        whole.violations.extend(part.violations);
        whole.unknown_because.extend(part.unknown_because);
    }
    for part in large.into_iter().map(|part| &parts.parts()[part]) {
        whole.keys += part.keys();
        whole.unknown(format!(
            "{}: {} operations would take about {} MiB to decide; {} MiB are allowed (--memory)",
            part.some_keys(),
            part.operations,
            part.memory().div_ceil(1 << 20),
            memory >> 20
        ));
    }
    whole.operations = parts.operations();
    whole.seconds = (read.as_secs_f64(), (start.elapsed() - read).as_secs_f64());
    Ok(whole)
}

fn check_part(
    parts: &Parts,
    part: usize,
    spec: Spec,
    reading: &Reading<'_>,
    report: &mut FileReport,
) -> Result<(), ReadError> {
    let path = report.path.clone();
    let io = |source| ReadError::Io { path: path.clone(), source };
    let mut keys = Keys::new(spec);
    let taken = parts.read(part, |record| {
        // Processes have one operation at a time, so its number can stand for the process.
        let taken = match record {
            Record::Invoke { number, key, ask, .. } => {
                keys.invoke_numbered(number, number, key, ask)
            }
            Record::End { number, end } => keys.end(number, end),
        };
        taken.map_err(io::Error::other)
    });
    taken.map_err(io)?;
    let verdicts = decide_all(&keys, reading);
    report.add(&keys, verdicts, reading.certificates, |named| {
        let read = parts.read(part, |record| {
            match record {
                Record::Invoke { number, process, ask, .. } => named.begin(number, process, ask),
                Record::End { number, end } => named.finish(number, end),
            }
            Ok(())
        });
        read.map_err(io)
    })
}

/// Looks, in a history that is read once more, for the few operations that are to be shown.
#[derive(Default)]
struct Named {
    wanted: HashMap<u64, Option<Shown>>,
    /// The operation under way of each process.
    under_way: HashMap<u64, u64>,
    operations: u64,
    events: u64,
}

impl Named {
    fn of(verdicts: &[KeyVerdict]) -> Self {
        let mut named = Named::default();
        for KeyVerdict { verdict, numbers, .. } in verdicts {
            let Verdict::Invalid(counterexample) = verdict else { continue };
            let number = |place: u32| (u64::from(numbers[place as usize]), None);
            named.wanted.extend(counterexample.named().map(number));
        }
        named
    }

    fn shown(&self, number: u32) -> Shown {
        let shown = self.wanted.get(&number.into()).cloned().flatten();
        shown.expect("every operation that is named was asked for, and the file is the same")
    }

    fn begin(&mut self, number: u64, process: u64, ask: Ask<'_>) {
        let invoked = self.events;
        self.events += 1;
        if let Some(shown) = self.wanted.get_mut(&number) {
            let or_nothing = |value: Option<&str>| value.unwrap_or("nothing").to_owned();
            let text = match ask {
                Ask::Get => "get".to_owned(),
                Ask::Put(value) => format!("put {value}"),
                Ask::Del => "del".to_owned(),
                Ask::Cas(from, to) => format!("cas {} {}", or_nothing(from), or_nothing(to)),
                Ask::Append(text) => format!("append {text}"),
            };
            let number = u32::try_from(number).expect("numbers that are wanted fit in 32 bits");
            let process = Some(process);
            *shown = Some(Shown { number, process, text, invoked, returned: None });
        }
    }

    fn finish(&mut self, number: u64, end: End<'_>) {
        let now = self.events;
        self.events += 1;
        let Some(Some(shown)) = self.wanted.get_mut(&number) else { return };
        match end {
            End::Ok(found) => {
                shown.returned = Some(now);
                if shown.text == "get" {
                    shown.text = format!("get = {}", found.unwrap_or("nothing"));
                }
            }
            End::Differs => {
                shown.returned = Some(now);
                shown.text.push_str(": differs");
            }
            End::Fail | End::Info => {}
        }
    }
}

impl Sink for Named {
    fn invoke(&mut self, process: u64, _key: &str, ask: Ask<'_>) -> Result<(), MalformedHistory> {
        self.begin(self.operations, process, ask);
        self.under_way.insert(process, self.operations);
        self.operations += 1;
        Ok(())
    }

    fn end(&mut self, process: u64, end: End<'_>) -> Result<(), MalformedHistory> {
        if let Some(number) = self.under_way.remove(&process) {
            self.finish(number, end);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_without_operations_shows_nothing() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("history");
        let kill = r#"{"index":0,"time":1,"process":"nemesis","type":"info","f":"kill"}"#;
        let torn = r#"{"index":0,"time":1,"process":1,"type":"inv"#;
        for text in ["", &format!("{kill}\n"), torn, "[]", "{:process :nemesis}"] {
            fs::write(&path, text).expect("the disk has room");
            for memory in [None, Some(0)] {
                let reading = Reading { memory, ..Reading::default() };
                let report = check_file(&path, &reading).expect("well formed");
                assert_eq!(report.verdict, Validity::Unknown, "{text}");
                assert_eq!(
                    report.unknown_because,
                    ["the history has no operation: nothing was shown"]
                );
            }
        }
    }
}
