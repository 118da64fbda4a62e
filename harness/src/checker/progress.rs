//! How far long checks are. Knows what is counted, not how it is shown.

use std::{
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use indicatif::DecimalBytes;

use crate::progress::Progress;

/// Counts of what is done; shared by all who do it.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    keys: AtomicUsize,
    keys_done: AtomicUsize,
    files_done: AtomicUsize,
}

impl Meter {
    /// So many keys are to be decided, too.
    pub(super) fn keys(&self, count: usize) {
        self.keys.fetch_add(count, Relaxed);
    }

    /// A key is decided.
    pub(super) fn key_done(&self) {
        self.keys_done.fetch_add(1, Relaxed);
    }

    /// A file is.
    pub(super) fn file_done(&self) {
        self.files_done.fetch_add(1, Relaxed);
    }

    /// A file whose bytes are counted as they are read.
    pub(super) fn counted<R: Read>(&self, input: R) -> Counted<'_, R> {
        Counted { input, meter: self }
    }
}

/// Counts what is read.
pub(super) struct Counted<'m, R> {
    input: R,
    meter: &'m Meter,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.meter.bytes.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}

/// Says how far a check of so many files is, that have so many bytes.
pub(super) fn checking(meter: &Arc<Meter>, files: usize, bytes: u64) -> Progress {
    let meter = meter.clone();
    Progress::telling(move |elapsed| meter.told(elapsed, files, bytes))
}

/// Says that a run is being judged, of which nobody knows how long it takes.
#[must_use]
pub fn judging(run: &Path) -> Progress {
    let run = run.display().to_string();
    Progress::telling(move |elapsed| format!("judging {run}, {:.0} s", elapsed.as_secs_f64()))
}

impl Meter {
    fn told(&self, elapsed: Duration, files: usize, bytes: u64) -> String {
        let mut text = format!("checking, {:.0} s: ", elapsed.as_secs_f64());
        if files > 1 {
            text.push_str(&format!("{} of {files} files, ", self.files_done.load(Relaxed)));
        }
        let read = self.bytes.load(Relaxed).min(bytes);
        text.push_str(&format!("{} of {} read", DecimalBytes(read), DecimalBytes(bytes)));
        let keys = self.keys.load(Relaxed);
        if keys > 0 {
            text.push_str(&format!(", {} of {keys} keys decided", self.keys_done.load(Relaxed)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_far_it_is() {
        let meter = Meter::default();
        let mut counted = meter.counted(&[0_u8; 1500][..]);
        io::copy(&mut counted, &mut io::sink()).expect("memory can be read");
        meter.keys(3);
        meter.key_done();
        meter.file_done();
        let told = meter.told(Duration::from_secs(7), 2, 3000);
        assert_eq!(
            told,
            "checking, 7 s: 1 of 2 files, 1.50 kB of 3.00 kB read, 1 of 3 keys decided"
        );
    }
}
