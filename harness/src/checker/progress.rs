//! What long checks say while they go on: one live line on a terminal, a plain line now and then in
//! a pipe, nothing at all of what is quick. To standard error, so that standard output has the
//! verdicts alone.

use std::{
    io::{self, IsTerminal as _, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use indicatif::{DecimalBytes, ProgressBar};

/// How often the live line changes, and how often a pipe gets a line.
const REDRAW_PERIOD: Duration = Duration::from_millis(200);
const LINE_PERIOD: Duration = Duration::from_secs(5);

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

/// Says how far a check is until it is dropped.
pub(super) struct Progress {
    end: Option<mpsc::Sender<()>>,
    teller: Option<JoinHandle<()>>,
}

impl Progress {
    /// Of a check of so many files that have so many bytes.
    pub(super) fn of(meter: &Arc<Meter>, files: usize, bytes: u64) -> Progress {
        let meter = meter.clone();
        let (end, ended) = mpsc::channel();
        let is_terminal = io::stderr().is_terminal();
        let period = if is_terminal { REDRAW_PERIOD } else { LINE_PERIOD };
        let teller = thread::spawn(move || {
            let started = Instant::now();
            let mut bar: Option<ProgressBar> = None;
            while ended.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                let text = meter.told(started.elapsed(), files, bytes);
                if is_terminal {
                    bar.get_or_insert_with(ProgressBar::new_spinner).set_message(text);
                } else {
                    eprintln!("{text}");
                }
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        });
        Progress { end: Some(end), teller: Some(teller) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(teller) = self.teller.take() {
            // A teller that panicked has nothing more to say.
            let _ = teller.join();
        }
    }
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
