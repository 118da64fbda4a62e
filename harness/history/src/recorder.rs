//! Writes a history while it happens, from many threads. The order of the lines is the order of
//! observation, and a killed process leaves at most one torn line, the last. Does not know who
//! observes.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

use super::{Action, Event};

/// An event stays in the buffer at most this long.
const FLUSH_PERIOD: Duration = Duration::from_millis(50);

/// The buffer is written when it reaches this size, in bytes.
const BUFFER_BYTES_MAX: usize = 1 << 16;

/// The system's monotonic clock in nanoseconds. It is the same for all processes of a machine, so
/// it relates histories to the logs of other processes.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    let [seconds, nanos] = [now.tv_sec(), now.tv_nsec()]
        .map(|part| u64::try_from(part).expect("the clock counts up from boot"));
    seconds * 1_000_000_000 + nanos
}

/// Appends events to a history. A cheap handle: clones append to the same history.
///
/// An event gets its index and its time under the lock that orders the lines, so the three orders
/// agree. Lines reach the operating system within 50 ms, so a kill of this process loses no more
/// than that.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Mutex<Shared>>,
    origin: u64,
}

/// Called with every event as it is recorded, in order.
type Observer = Box<dyn FnMut(&Event) + Send>;

struct Shared {
    file: File,
    buffer: Vec<u8>,
    next_index: u64,
    observer: Option<Observer>,
    /// Why the history cannot be written: every caller learns of it, since a caller may not be able to tell.
    failed: Option<(io::ErrorKind, String)>,
}

impl Recorder {
    /// Creates the file of a new history, whose time counts from now.
    ///
    /// # Errors
    /// The file exists or cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        Recorder::start(File::create_new(path)?)
    }

    fn start(file: File) -> io::Result<Self> {
        let shared = Arc::new(Mutex::new(Shared {
            file,
            buffer: Vec::with_capacity(2 * BUFFER_BYTES_MAX),
            next_index: 0,
            observer: None,
            failed: None,
        }));
        let weak = Arc::downgrade(&shared);
        thread::Builder::new().name("recorder".into()).spawn(move || {
            // The thread ends with the last handle.
            while let Some(shared) = weak.upgrade() {
                // The next caller learns of an error.
                let _ = lock(&shared).flush();
                drop(shared);
                thread::sleep(FLUSH_PERIOD);
            }
        })?;
        Ok(Recorder { shared, origin: monotonic_ns() })
    }

    /// The monotonic clock at time 0 of this history, in nanoseconds. Subtract it from the times of
    /// other logs to get times of the history.
    #[must_use]
    pub fn origin(&self) -> u64 {
        self.origin
    }

    /// Calls `observer` with every further event as it is recorded, before `record` returns.
    pub fn observe(&self, observer: impl FnMut(&Event) + Send + 'static) {
        lock(&self.shared).observer = Some(Box::new(observer));
    }

    /// Records an observation made just now and returns its index.
    ///
    /// Record an invocation before its request leaves, and a completion after its reply has
    /// arrived: then the recorded interval contains the real one.
    ///
    /// # Errors
    /// The history could not be written, now or earlier in the background. The run has to end,
    /// since it would continue unrecorded.
    pub fn record(&self, action: Action) -> io::Result<u64> {
        let mut shared = lock(&self.shared);
        shared.require_intact()?;
        let event = Event {
            index: shared.next_index,
            time: monotonic_ns().saturating_sub(self.origin),
            action,
        };
        shared.next_index += 1;
        serde_json::to_writer(&mut shared.buffer, &event)?;
        shared.buffer.push(b'\n');
        if let Some(observer) = &mut shared.observer {
            observer(&event);
        }
        if shared.buffer.len() >= BUFFER_BYTES_MAX {
            shared.flush()?;
        }
        Ok(event.index)
    }

    /// Writes every line recorded so far to the file.
    ///
    /// # Errors
    /// The history could not be written, now or earlier in the background.
    pub fn flush(&self) -> io::Result<()> {
        lock(&self.shared).flush()
    }
}

impl Shared {
    fn flush(&mut self) -> io::Result<()> {
        self.require_intact()?;
        if !self.buffer.is_empty() {
            if let Err(error) = self.file.write_all(&self.buffer) {
                // A part of it may have been written: what followed would stand behind a torn line.
                self.failed = Some((error.kind(), error.to_string()));
                return Err(error);
            }
            self.buffer.clear();
        }
        Ok(())
    }

    fn require_intact(&self) -> io::Result<()> {
        match &self.failed {
            Some((kind, why)) => Err(io::Error::new(*kind, why.clone())),
            None => Ok(()),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Nobody is left to report an error to. Callers who need to know have called `flush`.
        let _ = self.flush();
    }
}

/// A panic while recording leaves a buffer that ends before or after a whole event.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NemesisEvent, nemesis::Healed, read};

    #[test]
    fn many_threads_record_in_one_order() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).expect("a new file");
        thread::scope(|scope| {
            for worker in 0..8 {
                let recorder = recorder.clone();
                scope.spawn(move || {
                    for n in 0..500 {
                        let f = format!("{worker}-{n}");
                        let event = NemesisEvent::Other { f, value: ().into() };
                        recorder.record(Action::Nemesis(event)).expect("the disk has room");
                    }
                });
            }
        });
        recorder.flush().expect("the disk has room");
        let events = read(&path).expect("it was just written").events;
        assert_eq!(events.len(), 4000);
        assert!(events.iter().enumerate().all(|(at, event)| event.index == at as u64));
        assert!(events.is_sorted_by_key(|event| event.time));
    }

    #[test]
    fn a_history_that_cannot_be_written_stays_so() {
        let full = File::options().write(true).open("/dev/full").expect("every Linux has it");
        let recorder = Recorder::start(full).expect("a thread");
        let event = || Action::Nemesis(NemesisEvent::Healed(Healed::default()));
        recorder.record(event()).expect("it is buffered");
        for _ in 0..3 {
            let error = recorder.flush().expect_err("the disk is full");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            recorder.record(event()).expect_err("what was before is not written");
        }
    }

    #[test]
    fn lines_are_flushed_in_the_background() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).expect("a new file");
        let event = NemesisEvent::Healed(Healed::default());
        recorder.record(Action::Nemesis(event)).expect("the disk has room");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while read(&path).expect("complete lines only").events.is_empty() {
            assert!(std::time::Instant::now() < deadline, "not flushed in 10 s");
            thread::yield_now();
        }
        drop(recorder);
    }
}
