//! Decides a history that lies in a file of any known format: linearizability alone, for a file has
//! no journals. Knows how to name what is wrong, not how it is found.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use serde::Serialize;

use super::{
    Validity,
    linearizability::{
        Ask, End, KeyVerdict, Keys, Limits, Nonsense, Shown, Spec, Verdict, check_keys, explain,
    },
    spill,
};
use crate::history::{
    ReadError,
    formats::{self, Format, Sink},
};

/// What to make of a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Its format; found by content if none is given.
    pub format: Option<Format>,
    /// What its keys are; the format's own if none is given.
    pub spec: Option<Spec>,
    /// What may be spent on a key.
    pub limits: Limits,
    /// Whether valid verdicts are to be certified and verified.
    pub certify: bool,
    /// A file of our own format that would take more bytes of memory than this is parted by key
    /// first. None: no file is.
    pub memory: Option<u64>,
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
    pub doubts: Vec<String>,
    /// How many parts it was decided in, one after the other.
    pub parts: usize,
    /// How long reading took, and deciding, in seconds.
    pub seconds: (f64, f64),
}

/// Decides a file.
///
/// # Errors
/// It cannot be read, or something in it is not what it should be.
pub fn check_file(path: &Path, reading: &Reading) -> Result<FileReport, ReadError> {
    let format = match reading.format {
        Some(format) => format,
        None => formats::detect(path)?,
    };
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let parts = match reading.memory {
        Some(memory) if format == Format::Jsonl => {
            spill::parts_for(fs::metadata(path).map_err(io)?.len(), memory)
        }
        _ => 1,
    };
    if parts == 1 {
        return check_part(path, format, reading);
    }
    let start = Instant::now();
    let parts = spill::part(path, parts).map_err(io)?;
    let parting = start.elapsed().as_secs_f64();
    let mut whole = FileReport::new(path, format);
    whole.parts = parts.files.len();
    whole.seconds.0 = parting;
    for part in &parts.files {
        whole.add(check_part(part, format, reading)?);
    }
    Ok(whole)
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
            doubts: Vec::new(),
            parts: 1,
            seconds: (0.0, 0.0),
        }
    }

    /// Takes in what was found in a part.
    fn add(&mut self, part: FileReport) {
        self.verdict = self.verdict.max(part.verdict);
        self.keys += part.keys;
        self.operations += part.operations;
        self.certified += part.certified;
        self.violations.extend(part.violations);
        self.doubts.extend(part.doubts);
        self.seconds.0 += part.seconds.0;
        self.seconds.1 += part.seconds.1;
    }
}

/// Decides a file that fits into memory.
fn check_part(path: &Path, format: Format, reading: &Reading) -> Result<FileReport, ReadError> {
    let start = Instant::now();
    let mut keys = Keys::new(reading.spec.unwrap_or(format.spec()));
    formats::stream(path, format, &mut keys)?;
    let read = start.elapsed();
    let verdicts = check_keys(&keys, &reading.limits, reading.certify);
    let decided = start.elapsed() - read;
    let mut report = FileReport::new(path, format);
    report.keys = keys.keys().len();
    report.operations = keys.operations();
    report.seconds = (read.as_secs_f64(), decided.as_secs_f64());
    let mut named = Named::of(&verdicts);
    if !named.wanted.is_empty() {
        formats::stream(path, format, &mut named)?;
    }
    for KeyVerdict { key, verdict, numbers } in &verdicts {
        let key = &keys.keys()[*key];
        match verdict {
            Verdict::Valid(certificate) => report.certified += usize::from(certificate.is_some()),
            Verdict::Unknown(exhausted) => {
                report.verdict = report.verdict.max(Validity::Unknown);
                report.doubts.push(format!("{}: {exhausted}", key.name));
            }
            Verdict::Invalid(counterexample) => {
                report.verdict = Validity::Invalid;
                let explained =
                    explain(key, counterexample, |place| named.shown(numbers[place as usize]));
                report.violations.push(format!(
                    "{}: {}\n{}",
                    explained.key, explained.sentence, explained.timeline
                ));
            }
        }
    }
    Ok(report)
}

/// Reads a history once more for the few operations that are to be shown.
#[derive(Default)]
struct Named {
    wanted: HashMap<u32, Option<Shown>>,
    under_way: HashMap<u64, u32>,
    operations: u32,
    events: u64,
}

impl Named {
    fn of(verdicts: &[KeyVerdict]) -> Self {
        let mut named = Named::default();
        for KeyVerdict { verdict, numbers, .. } in verdicts {
            let Verdict::Invalid(counterexample) = verdict else { continue };
            let mut places = counterexample.operations.clone();
            places.push(counterexample.breaks_at);
            places.extend(counterexample.why.named());
            named.wanted.extend(places.iter().map(|place| (numbers[*place as usize], None)));
        }
        named
    }

    fn shown(&self, number: u32) -> Shown {
        let shown = self.wanted.get(&number).cloned().flatten();
        shown.expect("every operation that is named was asked for, and the file is the same")
    }
}

impl Sink for Named {
    fn invoke(&mut self, process: u64, _key: &str, ask: Ask<'_>) -> Result<(), Nonsense> {
        let number = self.operations;
        self.operations += 1;
        let invoked = self.events;
        self.events += 1;
        if let Some(shown) = self.wanted.get_mut(&number) {
            let text = match ask {
                Ask::Get => "get".to_owned(),
                Ask::Put(value) => format!("put {value}"),
                Ask::Del => "del".to_owned(),
                Ask::Cas(from, to) => format!("cas {from} {to}"),
                Ask::Append(text) => format!("append {text}"),
            };
            *shown = Some(Shown { number, process, text, invoked, returned: None });
            self.under_way.insert(process, number);
        }
        Ok(())
    }

    fn end(&mut self, process: u64, end: End<'_>) -> Result<(), Nonsense> {
        let now = self.events;
        self.events += 1;
        let Some(number) = self.under_way.remove(&process) else { return Ok(()) };
        let Some(Some(shown)) = self.wanted.get_mut(&number) else { return Ok(()) };
        match end {
            End::Ok(found) => {
                shown.returned = Some(now);
                if shown.text == "get" {
                    let found = found.unwrap_or("nothing");
                    shown.text = format!("get = {found}");
                }
            }
            End::Differs => {
                shown.returned = Some(now);
                shown.text.push_str(": differs");
            }
            End::Fail | End::Info => {}
        }
        Ok(())
    }
}
