//! Checks a history of objects that are read whole: Jepsen's sets, counters, queues and banks, by the checks
//! of runs of any system.

use std::{collections::BTreeSet, io::BufReader, path::Path, time::Instant};

use history::{ReadError, formats};

use super::{FileCheckOptions, FileReport};
use crate::{Validity, progress::CountingReader, reading::Reading, workloads};

/// Memory for a history and what its reads returned, in bytes for each byte of the file. Measured: sets with
/// many reads take the most.
const BYTES_FOR_EACH: u64 = 20;

pub(super) fn check(
    path: &Path,
    reading: &Reading,
    options: &FileCheckOptions<'_>,
) -> Result<FileReport, ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let mut report = FileReport::new(path, reading.format);
    if options.shard.is_some_and(|shard| shard.number > 1) {
        report.notes.push("an object that is read whole is judged by the first shard".to_owned());
        report.is_elsewhere = true;
        return Ok(report);
    }
    let opened = formats::open(path).map_err(io)?;
    let needed = opened.bytes * BYTES_FOR_EACH;
    if let Some(memory) = options.memory
        && needed > memory
    {
        report.unknown(format!(
            "a history of an object is judged in memory, which takes about {} MiB; the limit is {} MiB \
             (--memory)",
            needed.div_ceil(1 << 20),
            memory >> 20
        ));
        return Ok(report);
    }
    let start = Instant::now();
    let history = match options.progress {
        Some(progress) => {
            let mut input = BufReader::new(CountingReader { input: opened.input, progress });
            formats::objects(&mut input, reading.format, path)
        }
        None => formats::objects(&mut BufReader::new(opened.input), reading.format, path),
    }?;
    let malformed =
        |reason: String| ReadError::Malformed { path: path.to_owned(), line: 1, column: 1, reason };
    let operations =
        history::pair(&history.events).map_err(|error| malformed(error.to_string()))?;
    let read = start.elapsed();
    let keys: BTreeSet<&str> = operations.iter().map(|operation| operation.key.as_str()).collect();
    report.keys = keys.len();
    report.operations = operations.len() as u64;
    let workload = history.workload;
    match workloads::check_objects(workload, &operations, options.claim) {
        Err(reason) => report.unknown(reason),
        Ok(found) => {
            report.verdict = found.verdict;
            let more = found.violations_total.saturating_sub(found.violations.len());
            report.violations = found.violations.iter().map(ToString::to_string).collect();
            if more > 0 {
                report.violations.push(format!("and {more} more"));
            }
            report.unknown_because =
                found.unknown_because.iter().map(ToString::to_string).collect();
            let measured = found.measured.iter().map(|(name, value)| format!("{name} {value}"));
            let measured: Vec<String> = measured.collect();
            report.notes.push(format!("judged as a {workload}: {}", measured.join(", ")));
        }
    }
    if options.certificates.is_some() && report.verdict == Validity::Valid {
        report.notes.push(format!("there are no certificates of a {workload}"));
    }
    report.seconds = (read.as_secs_f64(), (start.elapsed() - read).as_secs_f64());
    Ok(report)
}
