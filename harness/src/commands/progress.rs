//! Progress of checks on the terminal.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use checker::progress::ProgressObserver;
use indicatif::DecimalBytes;
use report::{progress::Progress, store::JudgingMark};

/// Counters of a check of files, shared by all threads.
#[derive(Debug, Default)]
pub(super) struct CheckProgress {
    bytes: AtomicU64,
    keys: AtomicUsize,
    keys_decided: AtomicUsize,
    files_done: AtomicUsize,
}

impl ProgressObserver for CheckProgress {
    fn bytes_read(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Relaxed);
    }

    fn keys_found(&self, count: usize) {
        self.keys.fetch_add(count, Relaxed);
    }

    fn key_decided(&self) {
        self.keys_decided.fetch_add(1, Relaxed);
    }
}

impl CheckProgress {
    /// A file was checked.
    pub(super) fn file_done(&self) {
        self.files_done.fetch_add(1, Relaxed);
    }

    fn status(&self, elapsed: Duration, files: usize, bytes: u64) -> String {
        let mut text = format!("checking, {:.0} s: ", elapsed.as_secs_f64());
        if files > 1 {
            text.push_str(&format!("{} of {files} files, ", self.files_done.load(Relaxed)));
        }
        let read = self.bytes.load(Relaxed).min(bytes);
        text.push_str(&format!("{} of {} read", DecimalBytes(read), DecimalBytes(bytes)));
        let keys = self.keys.load(Relaxed);
        if keys > 0 {
            text.push_str(&format!(", {} of {keys} keys decided", self.keys_decided.load(Relaxed)));
        }
        text
    }
}

/// Shows the progress of a check of files with a total size in bytes.
pub(super) fn checking_files(progress: &Arc<CheckProgress>, files: usize, bytes: u64) -> Progress {
    let progress = progress.clone();
    Progress::show(move |elapsed| progress.status(elapsed, files, bytes))
}

/// Shows that a run is being checked until it is dropped: on the terminal, and to a server of its store. How long
/// it takes is not known in advance.
#[must_use]
pub struct Checking {
    _progress: Progress,
    _mark: JudgingMark,
}

/// Shows that the run in a directory is being checked.
pub fn checking_run(run: &Path) -> Checking {
    let mark = JudgingMark::set(run);
    let run = run.display().to_string();
    let status = move |elapsed: Duration| format!("checking {run}, {:.0} s", elapsed.as_secs_f64());
    Checking { _progress: Progress::show(status), _mark: mark }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_counts_files_bytes_and_keys() {
        let progress = CheckProgress::default();
        progress.bytes_read(1500);
        progress.keys_found(3);
        progress.key_decided();
        progress.file_done();
        assert_eq!(
            progress.status(Duration::from_secs(7), 2, 3000),
            "checking, 7 s: 1 of 2 files, 1.50 kB of 3.00 kB read, 1 of 3 keys decided"
        );
    }
}
