//! The room that is left for the tables, and what the records that were appended will need there. A store that
//! accepts no write without room for it never fails at a checkpoint, and a full one still deletes.
//!
//! A checkpoint copies every page that it changes before it frees the old one. So each row may need its
//! leaf page and a branch page again, up to as many pages as there are, besides the space of its value; and
//! that twice, because a write is a record first and an entry later. What deletes need, and what the
//! estimate misses, comes out of a reserve.

use std::{
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::{resource, statvfs};

use crate::{
    Rule, Rules, StoreError,
    environment::{Environment, io},
};

const PAGE_BYTES: u64 = 4096;
/// Values from this size on have pages of their own.
const OVERFLOW_BYTES: u64 = 1024;

/// What records need in the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Rows that are written.
    rows: u64,
    /// The space of their content.
    bytes: u64,
}

impl Need {
    /// The need of one write of this many bytes of key and value.
    pub(crate) fn of(bytes: u64) -> Need {
        let bytes = if bytes < OVERFLOW_BYTES {
            // A page is at least half full.
            2 * (bytes + 64)
        } else {
            (bytes + 64).next_multiple_of(PAGE_BYTES) + PAGE_BYTES
        };
        Need { rows: 1, bytes }
    }

    pub(crate) fn add(&mut self, other: Need) {
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

/// How long an answer of the disk is believed.
const FRESH: Duration = Duration::from_millis(10);

/// How long an answer of the disk is waited for.
const PATIENCE: Duration = Duration::from_millis(5);

/// The space of a store.
#[derive(Debug)]
pub(crate) struct Space {
    disk: FreeSpace,
    /// The size that the data file may have.
    limit: u64,
    reserve: u64,
    rules: Rules,
    /// The size of the tables, and of the data file as far as it is allocated, in the last commit.
    used: AtomicU64,
    allocated: AtomicU64,
    /// Something was refused since the writer last asked.
    refused: AtomicBool,
}

impl Space {
    pub(crate) fn new(environment: &Environment, rules: Rules) -> Result<Space, StoreError> {
        // The size limit of the process holds for the data file too.
        let file = resource::getrlimit(resource::Resource::RLIMIT_FSIZE);
        let limit = environment.map_bytes().min(file.map_or(u64::MAX, |(soft, _)| soft));
        let space = Space {
            disk: FreeSpace::new(of_disk(environment.dir().to_owned()))
                .map_err(io(environment.dir(), "starting a thread"))?,
            limit,
            reserve: (limit / 32).clamp(16 * PAGE_BYTES, 256 << 20),
            rules,
            used: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
            refused: AtomicBool::new(false),
        };
        space.measure(environment)?;
        Ok(space)
    }

    /// Looks at the tables after a commit.
    pub(crate) fn measure(&self, environment: &Environment) -> Result<(), StoreError> {
        let (used, allocated) = environment.sizes()?;
        self.used.store(used, Ordering::Relaxed);
        self.allocated.store(allocated, Ordering::Relaxed);
        Ok(())
    }

    /// Whether there is room for what records need.
    pub(crate) fn has_room_for(&self, need: Need) -> bool {
        if !self.rules.keep(Rule::YesReservesSpace) {
            return true;
        }
        let used = self.used.load(Ordering::Relaxed);
        let free_inside = self.allocated.load(Ordering::Relaxed).saturating_sub(used);
        let room = self.limit.saturating_sub(used).min(free_inside.saturating_add(self.disk.get()));
        let copies = (2 * PAGE_BYTES).saturating_mul(need.rows).min(used);
        let need = copies.saturating_add(need.bytes.saturating_mul(2));
        let fits = need.saturating_add(self.reserve) <= room;
        if !fits {
            self.refused.store(true, Ordering::Relaxed);
        }
        fits
    }

    /// Whether something was refused since this was last asked. A checkpoint then shows what deletes have
    /// freed, and needs nothing any more.
    pub(crate) fn take_refused(&self) -> bool {
        self.refused.swap(false, Ordering::Relaxed)
    }
}

/// Asks for the free bytes of the disk that has a directory.
fn of_disk(dir: PathBuf) -> impl Fn() -> u64 + Send + 'static {
    move || {
        // If the file system does not tell, a checkpoint will.
        statvfs::statvfs(&dir)
            .map_or(u64::MAX, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()))
    }
}

/// The free space of a disk. A thread of its own asks for it: a disk that hangs must not hold up who wants to
/// know, because that is the event loop of a node, which is to notice that the disk hangs.
#[derive(Debug)]
struct FreeSpace {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<Answer>,
    changed: Condvar,
}

/// What the disk has answered.
#[derive(Debug)]
struct Answer {
    bytes: u64,
    at: Instant,
    /// Somebody wants to know again.
    is_asked: bool,
    /// Nobody will ask any more.
    is_closed: bool,
}

impl FreeSpace {
    fn new(ask: impl Fn() -> u64 + Send + 'static) -> std::io::Result<FreeSpace> {
        let (bytes, at) = (ask(), Instant::now());
        let state = Answer { bytes, at, is_asked: false, is_closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let answering = shared.clone();
        thread::Builder::new()
            .name("free space".to_owned())
            .spawn(move || answering.answer(&ask))?;
        Ok(FreeSpace { shared })
    }

    /// The free bytes. If the disk does not answer in time, those of its last answer.
    fn get(&self) -> u64 {
        let mut state = self.shared.lock();
        if state.at.elapsed() < FRESH {
            return state.bytes;
        }
        // A disk that has not answered the last time is not waited for again.
        if !std::mem::replace(&mut state.is_asked, true) {
            self.shared.changed.notify_all();
            let waited = self.shared.changed.wait_timeout_while(state, PATIENCE, |it| it.is_asked);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.bytes
    }
}

impl Drop for FreeSpace {
    fn drop(&mut self) {
        // The thread is not waited for: the disk may hang.
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Answer> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, ask: &impl Fn() -> u64) {
        let mut state = self.lock();
        loop {
            let idle = |state: &mut Answer| !state.is_asked && !state.is_closed;
            let woken = self.changed.wait_while(state, idle);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            if state.is_closed {
                return;
            }
            drop(state);
            let bytes = ask();
            state = self.lock();
            (state.bytes, state.at, state.is_asked) = (bytes, Instant::now(), false);
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_disk_that_hangs_holds_nobody_up() {
        let (answers, disk) = mpsc::channel();
        answers.send(7).unwrap();
        let space = FreeSpace::new(move || disk.recv().unwrap_or(0)).unwrap();
        thread::sleep(FRESH);
        // The disk hangs: there is no answer, and the second call does not even wait for it.
        let begun = Instant::now();
        let asked: Vec<u64> = (0..1000).map(|_| space.get()).collect();
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(asked.iter().all(|bytes| *bytes == 7));
        answers.send(9).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while space.get() != 9 {
            assert!(Instant::now() < deadline, "the disk has answered");
        }
    }
}
