//! Writes a history as it happens, from many threads, so that the order of the lines is the order
//! of observation and a killed process leaves whole lines. Knows nothing of who observes.

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

/// How long an event may lie in the buffer.
const FLUSH_PERIOD: Duration = Duration::from_millis(50);

/// The buffer is written when it is as long as this, in bytes.
const BUFFER_BYTES_MAX: usize = 1 << 16;

/// The system's monotonic clock, the same for all processes, in nanoseconds: the clock of node
/// journals.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    let [seconds, nanos] = [now.tv_sec(), now.tv_nsec()]
        .map(|part| u64::try_from(part).expect("counts from incarnation"));
    seconds * 1_000_000_000 + nanos
}

/// Appends events to a history. A cheap handle; clones append to the same history.
///
/// An event gets its index and its time under the lock that orders the lines, so all three
/// orders are one. Lines reach the operating system at the latest 50 ms after they were recorded,
/// so a kill of this process loses no more than that, and only the last line can be torn.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Mutex<Shared>>,
    origin: u64,
}

/// Sees every event as it is recorded, in order.
type Observer = Box<dyn FnMut(&Event) + Send>;

struct Shared {
    file: File,
    buffer: Vec<u8>,
    next_index: u64,
    observer: Option<Observer>,
    /// What kept the buffer from being written in the background; told to the next caller.
    error: Option<io::Error>,
}

impl Recorder {
    /// Begins a history in a new file; its time counts from now.
    ///
    /// # Errors
    /// The file exists or cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create_new(path)?;
        let shared = Arc::new(Mutex::new(Shared {
            file,
            buffer: Vec::with_capacity(2 * BUFFER_BYTES_MAX),
            next_index: 0,
            observer: None,
            error: None,
        }));
        let weak = Arc::downgrade(&shared);
        thread::Builder::new().name("recorder".into()).spawn(move || {
            // Ends with the last handle.
            while let Some(shared) = weak.upgrade() {
                let mut shared = lock(&shared);
                if let Err(error) = shared.flush() {
                    shared.error = Some(error);
                }
                drop(shared);
                thread::sleep(FLUSH_PERIOD);
            }
        })?;
        Ok(Recorder { shared, origin: monotonic_ns() })
    }

    /// The monotonic clock's reading at time 0 of this history, in nanoseconds: what to subtract
    /// from the times of node journals.
    #[must_use]
    pub fn origin(&self) -> u64 {
        self.origin
    }

    /// Lets someone see every event from now on as it is recorded, before `record` returns.
    pub fn observe(&self, observer: impl FnMut(&Event) + Send + 'static) {
        lock(&self.shared).observer = Some(Box::new(observer));
    }

    /// Records that something was observed just now, and returns its index.
    ///
    /// An invocation is recorded before its request leaves, a completion after its answer came.
    ///
    /// # Errors
    /// The history could not be written, now or in the background before: the run must end, for
    /// it would go on unseen.
    pub fn record(&self, action: Action) -> io::Result<u64> {
        let mut shared = lock(&self.shared);
        if let Some(error) = shared.error.take() {
            return Err(error);
        }
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

    /// Hands every line recorded so far to the operating system.
    ///
    /// # Errors
    /// The history could not be written, now or in the background before.
    pub fn flush(&self) -> io::Result<()> {
        let mut shared = lock(&self.shared);
        match shared.error.take() {
            Some(error) => Err(error),
            None => shared.flush(),
        }
    }
}

impl Shared {
    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Nobody is left to tell; who needs to know has called `flush`.
        let _ = self.flush();
    }
}

/// A worker that panicked while it recorded leaves a buffer that ends with its event or before.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{NemesisEvent, read};

    #[test]
    fn many_threads_make_one_order() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).expect("a new file");
        thread::scope(|scope| {
            for worker in 0..8 {
                let recorder = recorder.clone();
                scope.spawn(move || {
                    for n in 0..500 {
                        let event = NemesisEvent { f: format!("{worker}-{n}"), value: ().into() };
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
    fn lines_reach_the_file_unasked() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).expect("a new file");
        let event = NemesisEvent { f: "heal".into(), value: ().into() };
        recorder.record(Action::Nemesis(event)).expect("the disk has room");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while read(&path).expect("whole lines only").events.is_empty() {
            assert!(std::time::Instant::now() < deadline, "not flushed in 10 s");
            thread::yield_now();
        }
        drop(recorder);
    }
}
