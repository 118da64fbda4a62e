//! The queue of records with the newest state, and the writer thread. The thread takes all queued
//! records, makes them durable in one frame of the WAL, and reports that. Records that arrive during a
//! sync go into the next group. Does not know who appends or why.
//!
//! When a segment of the WAL is nearly full, the state is frozen with the group that is taken next.
//! That group is the segment's last, and the frozen state is checkpointed in the background while
//! frames go to the other segment. If that one fills up before the checkpoint is done, the writer
//! waits. A group that does not fit in its segment is checkpointed at once, instead of being logged.

use std::{
    mem,
    ops::Bound,
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    Lsn, Rule, Rules, Schema, StoreError, SyncMode,
    checkpoint::Checkpointer,
    environment::Environment,
    memtable::{Change, Changes, Memtable},
    space::{Need, Space},
    wal::{Anchor, Retired, Wal},
};

/// Called with each group of records before and after it becomes durable, in the writer thread. If
/// the process stops in `before`, none of the records is durable. If it stops in `after`, all of
/// them are. In neither case has anything been reported as persisted.
pub trait Observer<R>: Send {
    /// The records are about to become durable.
    fn before(&mut self, batch: &[R]);
    /// The records are durable, and not yet reported.
    fn after(&mut self, batch: &[R]);
}

/// Called in the writer thread when every record up to a position is durable; or once, when writing
/// has failed.
pub type OnPersisted = Box<dyn FnMut(Result<Lsn, Arc<StoreError>>) + Send>;

/// The state shared by the store and its writer thread.
pub(crate) struct Shared<S: Schema> {
    queue: Mutex<Queue<S>>,
    wake: Condvar,
    /// Everything up to here is durable.
    durable: AtomicU64,
    /// The number of checkpoints since the store was opened.
    checkpoints: AtomicU64,
    /// The tables contain everything up to here, and everything from before, if a checkpoint is done.
    contained: AtomicU64,
    /// The error that stopped the writer.
    failed: OnceLock<Arc<StoreError>>,
}

struct Queue<S: Schema> {
    /// Records that the writer has not taken yet.
    records: Vec<S::Record>,
    /// The last appended position.
    appended: Lsn,
    /// The position up to which durability is requested.
    forced: Lsn,
    /// The time when the first of `records` was appended.
    since: Option<Instant>,
    /// The store is being closed.
    closing: bool,
    /// A checkpoint is to begin, although no segment is full.
    checkpoint_wanted: bool,
    /// The writer waits on `wake`.
    waiting: bool,
    /// The writer waits with a timeout, and need not be woken for records that are not forced.
    timed_wait: bool,
    /// The state after every appended record.
    memtable: Memtable<S>,
    /// What the records need in the tables that no checkpoint has begun to write.
    need: Need,
    /// What the running checkpoint needs.
    frozen_need: Need,
}

/// What the writer has to do next.
enum Work<S: Schema> {
    /// Make the group of records up to a position durable. If the state after it was to be frozen, with
    /// that state.
    Commit(Lsn, Option<Snapshot<S>>),
    /// Nothing came for a while: seal the last frame.
    Seal,
    /// A checkpoint is wanted, and there is no group to make it with.
    Checkpoint(Snapshot<S>),
}

/// The state to checkpoint, after every record up to a position.
struct Snapshot<S: Schema> {
    upto: Lsn,
    facts: S::Facts,
    changed: Arc<Changes<S>>,
}

impl<S: Schema> Queue<S> {
    /// Begins a checkpoint of the state after every appended record.
    fn freeze(&mut self) -> Snapshot<S> {
        self.frozen_need.add(mem::take(&mut self.need));
        // What is not applied yet will be written once more.
        S::records(self.memtable.facts()).for_each(|record| self.need.add(need_of::<S>(record)));
        Snapshot {
            upto: self.appended,
            changed: self.memtable.begin_checkpoint(),
            facts: self.memtable.facts().clone(),
        }
    }
}

/// What a record needs in the tables.
fn need_of<S: Schema>(record: &S::Record) -> Need {
    S::growth(record).map_or_else(Need::default, |bytes| Need::of(bytes as u64))
}

impl<S: Schema> Shared<S> {
    /// Starts from the facts in the tables and the records in the WAL that the tables do not
    /// contain.
    ///
    /// # Errors
    /// A record cannot follow the earlier ones.
    pub(crate) fn new(facts: S::Facts, logged: &[S::Record]) -> Result<Self, &'static str> {
        let mut memtable = Memtable::new(facts);
        let mut need = Need::default();
        for record in logged {
            need.add(need_of::<S>(record));
            S::check(memtable.facts(), record)?;
            memtable.apply(record);
        }
        let queue = Queue {
            records: Vec::new(),
            appended: 0,
            forced: 0,
            since: None,
            closing: false,
            checkpoint_wanted: false,
            waiting: false,
            timed_wait: false,
            memtable,
            need,
            frozen_need: Need::default(),
        };
        Ok(Shared {
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            durable: AtomicU64::new(0),
            checkpoints: AtomicU64::new(0),
            contained: AtomicU64::new(0),
            failed: OnceLock::new(),
        })
    }

    /// Every fact, in canonical order.
    pub(crate) fn facts(&self) -> Vec<S::Record> {
        S::records(self.queue().memtable.facts()).cloned().collect()
    }

    /// Queues a record and returns its position.
    ///
    /// # Panics
    /// As [`Schema::apply`].
    pub(crate) fn append(&self, record: S::Record) -> Lsn {
        let mut queue = self.queue();
        queue.memtable.apply(&record);
        queue.need.add(need_of::<S>(&record));
        queue.appended += 1;
        queue.records.push(record);
        let lsn = queue.appended;
        if queue.since.is_none() {
            queue.since = Some(Instant::now());
            // Most appends are followed by a force, which wakes the writer.
            if !queue.timed_wait {
                self.wake(queue);
            }
        }
        lsn
    }

    /// The last write of a key, if the tables may not contain it.
    pub(crate) fn changed(&self, key: &S::Key) -> Option<Change<S>> {
        self.queue().memtable.get(key).cloned()
    }

    /// The last writes that the tables may not contain.
    pub(crate) fn changes(&self) -> Changes<S> {
        self.queue().memtable.changes()
    }

    /// The last writes of keys in a range that the tables may not contain: see [`Memtable::changes_in`].
    pub(crate) fn changes_in(
        &self,
        start: Bound<&S::Key>,
        to: Option<&S::Key>,
        live: usize,
    ) -> Vec<(S::Key, Change<S>)> {
        self.queue().memtable.changes_in(start, to, live)
    }

    /// Requests that every record up to a position become durable.
    pub(crate) fn force(&self, lsn: Lsn) {
        let mut queue = self.queue();
        if lsn > queue.forced {
            queue.forced = lsn;
            self.wake(queue);
        }
    }

    /// Requests that the tables contain every record up to a position. Returns whether they do.
    pub(crate) fn checkpoint(&self, lsn: Lsn) -> bool {
        if self.contained.load(Ordering::Acquire) >= lsn {
            return true;
        }
        let mut queue = self.queue();
        queue.checkpoint_wanted = true;
        self.wake(queue);
        false
    }

    /// Requests that every record become durable and the writer end.
    pub(crate) fn close(&self) {
        let mut queue = self.queue();
        queue.closing = true;
        self.wake(queue);
    }

    /// Everything up to here is durable.
    pub(crate) fn durable(&self) -> Lsn {
        self.durable.load(Ordering::Acquire)
    }

    /// The number of checkpoints since the store was opened.
    pub(crate) fn checkpoints(&self) -> u64 {
        self.checkpoints.load(Ordering::Relaxed)
    }

    /// Fails if the writer has failed.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self.failed.get() {
            Some(cause) => Err(StoreError::Failed(cause.clone())),
            None => Ok(()),
        }
    }

    /// Ignores poisoning: no code panics while the queue is in an intermediate state.
    fn queue(&self) -> MutexGuard<'_, Queue<S>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue<S>>) {
        if mem::take(&mut queue.waiting) {
            drop(queue);
            self.wake.notify_one();
        }
    }

    /// Waits for the next group: records that are forced, or that have been queued for
    /// `flush_interval`. Swaps them with the empty `batch`, and freezes the state after them if
    /// `freeze`, or if a checkpoint is wanted and none is running (`idle`). If the last frame is
    /// `unsealed`, waits for `flush_interval` at most. Returns none when
    /// the store is closed and no record is left.
    fn next_work(
        &self,
        batch: &mut Vec<S::Record>,
        flush_interval: Duration,
        unsealed: bool,
        freeze: bool,
        idle: impl Fn() -> bool,
    ) -> Option<Work<S>> {
        let mut queue = self.queue();
        // After a group another one is likely soon, so the first wait has a timeout.
        let mut active = true;
        loop {
            let wanted = queue.checkpoint_wanted && idle();
            let wait = match queue.since {
                None if wanted && !queue.closing => {
                    queue.checkpoint_wanted = false;
                    return Some(Work::Checkpoint(queue.freeze()));
                }
                None if queue.closing => return None,
                None if unsealed && !active => return Some(Work::Seal),
                None => active.then_some(flush_interval),
                Some(since) => {
                    let wait = flush_interval.saturating_sub(since.elapsed());
                    // A forced record was either taken before or is in this batch.
                    let first = queue.appended + 1 - queue.records.len() as Lsn;
                    if queue.closing || queue.forced >= first || wait.is_zero() {
                        mem::swap(&mut queue.records, batch);
                        queue.since = None;
                        queue.checkpoint_wanted &= !wanted;
                        let frozen = (freeze || wanted).then(|| queue.freeze());
                        return Some(Work::Commit(queue.appended, frozen));
                    }
                    Some(wait)
                }
            };
            queue.waiting = true;
            queue.timed_wait = wait.is_some();
            queue = match wait {
                None => self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    let woken = self.wake.wait_timeout(queue, wait);
                    let (queue, waited) = woken.unwrap_or_else(PoisonError::into_inner);
                    active &= !waited.timed_out();
                    queue
                }
            };
            queue.waiting = false;
            queue.timed_wait = false;
        }
    }

    /// Adds the records queued since to `batch`, begins a checkpoint, and returns the state after all
    /// records.
    fn snapshot(&self, batch: &mut Vec<S::Record>) -> Snapshot<S> {
        let mut queue = self.queue();
        batch.append(&mut queue.records);
        queue.since = None;
        queue.freeze()
    }

    /// The state as it is by now, instead of one that was frozen.
    fn freeze_again(&self, frozen: Snapshot<S>) -> Snapshot<S> {
        let mut queue = self.queue();
        queue.memtable.thaw();
        drop(frozen);
        queue.freeze()
    }

    /// The tables contain the frozen state. The caller should still hold it, because dropping that
    /// much under a lock could take long.
    fn checkpoint_done(&self, upto: Lsn) {
        // Dropped after the lock, which is declared later.
        let _keys;
        let mut queue = self.queue();
        _keys = queue.memtable.checkpoint_done();
        queue.frozen_need = Need::default();
        self.contained.store(upto, Ordering::Release);
        self.checkpoints.fetch_add(1, Ordering::Relaxed);
    }

    /// What all records need that the tables do not contain.
    pub(crate) fn need(&self) -> Need {
        let queue = self.queue();
        let mut need = queue.need;
        need.add(queue.frozen_need);
        need
    }

    /// Checkpoints the state after all records, before there is a writer.
    pub(crate) fn checkpoint_now(
        &self,
        write: impl FnOnce(&S::Facts, &Changes<S>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let snapshot = self.snapshot(&mut Vec::new());
        write(&snapshot.facts, &snapshot.changed)?;
        self.checkpoint_done(snapshot.upto);
        Ok(())
    }

    /// Fails if an appended write has a version that does not increase.
    pub(crate) fn check_versions(&self, environment: &Environment) -> Result<(), StoreError> {
        match self.queue().memtable.version_conflict() {
            Some((write, current)) => Err(environment.version_order(&write, &current)),
            None => Ok(()),
        }
    }
}

/// The writer thread.
pub(crate) struct Writer<S: Schema> {
    pub(crate) environment: Arc<Environment>,
    pub(crate) wal: Wal,
    pub(crate) background: Background,
    pub(crate) space: Arc<Space>,
    pub(crate) sync_mode: SyncMode,
    /// The size of a segment at least.
    pub(crate) wal_bytes: u64,
    pub(crate) rules: Rules,
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) flush_interval: Duration,
    pub(crate) observer: Option<Box<dyn Observer<S::Record>>>,
    pub(crate) persisted: OnPersisted,
}

/// The size of a segment for entries of some size. A checkpoint writes each page that it changes, so the
/// larger the data, the more writes must share one checkpoint to share its pages too. At most 8 times
/// the configured size, which bounds the memory of the frozen state and the time of a restart.
pub(crate) fn segment_bytes(wal_bytes: u64, entry_bytes: u64) -> u64 {
    let doublings = (0..3).take_while(|n| wal_bytes << n < entry_bytes / 4).count();
    wal_bytes << doublings
}

/// Who has the tables.
pub(crate) enum Background {
    /// Nobody.
    Idle(Checkpointer),
    /// A thread that checkpoints a generation, with the anchor that it writes. It then has the tables
    /// no more, and has enlarged the generation's segment if they have grown.
    Running(Anchor, JoinHandle<(Checkpointer, Result<Retired, StoreError>)>),
    /// The writer, between two of the others, or for good because a checkpoint has failed.
    Taken,
}

impl Background {
    /// Whether no checkpoint is running. The thread of the last one may wait to be joined.
    fn is_idle(&self) -> bool {
        match self {
            Background::Idle(_) => true,
            Background::Running(_, thread) => thread.is_finished(),
            Background::Taken => false,
        }
    }
}

impl<S: Schema> Writer<S> {
    /// Runs until the store is closed or writing fails.
    pub(crate) fn run(mut self) {
        let end = catch_unwind(AssertUnwindSafe(|| self.commits())).unwrap_or_else(|_| {
            Err(StoreError::WriterPanicked { dir: self.environment.dir().to_owned() })
        });
        if let Err(error) = end {
            let error = Arc::new(error);
            // Only this thread sets it, once.
            let _ = self.shared.failed.set(error.clone());
            (self.persisted)(Err(error));
        }
        // The directory must not be unlocked while a thread still writes to the tables.
        if let Background::Running(_, thread) =
            mem::replace(&mut self.background, Background::Taken)
        {
            let _ = thread.join();
        }
    }

    fn commits(&mut self) -> Result<(), StoreError> {
        let mut batch = Vec::new();
        let mut begun = false;
        loop {
            let unsealed = self.wal.is_unsealed();
            let freeze = self.is_to_freeze()?;
            let idle = || self.background.is_idle();
            let work =
                self.shared.next_work(&mut batch, self.flush_interval, unsealed, freeze, idle);
            let Some(work) = work else { break };
            if !mem::replace(&mut begun, true) {
                self.begin()?;
            }
            match work {
                Work::Seal => self.wal.seal()?,
                Work::Checkpoint(frozen) => {
                    self.shared.check_versions(&self.environment)?;
                    self.end_background()?;
                    if self.wal.is_empty() {
                        self.shared.checkpoint_done(frozen.upto);
                    } else {
                        self.start_background(frozen)?;
                    }
                }
                Work::Commit(lsn, frozen) => {
                    let lsn = self.commit(&mut batch, lsn, frozen)?;
                    batch.clear();
                    self.shared.durable.store(lsn, Ordering::Release);
                    (self.persisted)(Ok(lsn));
                }
            }
        }
        // A checkpoint at the end leaves the next start nothing to replay.
        self.end_background()?;
        if self.wal.is_empty() {
            Ok(())
        } else {
            self.checkpoint(&self.shared.snapshot(&mut batch))
        }
    }

    /// A killed process may have left data in the WAL and in the tables that it had not made
    /// durable. Makes it durable before anything is overwritten or appended.
    fn begin(&mut self) -> Result<(), StoreError> {
        self.wal.begin()?;
        if self.sync_mode == SyncMode::All && self.rules.keep(Rule::ReuseAfterSync) {
            self.environment.sync()?;
        }
        Ok(())
    }

    /// Whether the next group is the last of its segment, because it is nearly full or because the space of
    /// the tables is. If the checkpoint of the other segment is
    /// still running, waits for it: there is nowhere to go on.
    fn is_to_freeze(&mut self) -> Result<bool, StoreError> {
        let running = !self.background.is_idle();
        let full = self.wal.is_nearly_full();
        if full || !running {
            self.end_background()?;
        }
        Ok(full || !running && self.space.take_refused())
    }

    /// Makes a group durable atomically, so that a crash keeps a prefix of the records. A
    /// checkpoint includes the records queued meanwhile. Returns the last durable position.
    fn commit(
        &mut self,
        batch: &mut Vec<S::Record>,
        lsn: Lsn,
        frozen: Option<Snapshot<S>>,
    ) -> Result<Lsn, StoreError> {
        let fits = self.wal.prepare_frame::<S>(batch);
        if frozen.is_some() || !fits {
            self.end_background()?;
        }
        let frozen = frozen.or_else(|| (!fits).then(|| self.shared.snapshot(batch)));
        self.shared.check_versions(&self.environment)?;
        if let Some(observer) = &mut self.observer {
            observer.before(batch);
        }
        let durable = match frozen {
            Some(snapshot) if !fits => {
                self.checkpoint(&snapshot)?;
                snapshot.upto
            }
            frozen => {
                self.wal.append_frame()?;
                if let Some(snapshot) = frozen {
                    self.start_background(snapshot)?;
                }
                lsn
            }
        };
        if let Some(observer) = &mut self.observer {
            observer.after(batch);
        }
        Ok(durable)
    }

    /// Checkpoints to the tables and starts the next WAL generation.
    fn checkpoint(&mut self, snapshot: &Snapshot<S>) -> Result<(), StoreError> {
        let Background::Idle(checkpointer) = &mut self.background else {
            unreachable!("a checkpoint waits for the one before")
        };
        let anchor = self.wal.next_anchor();
        checkpointer.write::<S>(&snapshot.facts, &snapshot.changed, &anchor)?;
        self.space.measure(&self.environment)?;
        self.wal.start_next_generation(&anchor)?;
        self.wal.set_next_salt(&anchor);
        self.shared.checkpoint_done(snapshot.upto);
        Ok(())
    }

    /// Goes on in the other segment, and checkpoints the state after this one in a thread.
    fn start_background(&mut self, frozen: Snapshot<S>) -> Result<(), StoreError> {
        let Background::Idle(mut checkpointer) =
            mem::replace(&mut self.background, Background::Taken)
        else {
            unreachable!("a checkpoint waits for the one before")
        };
        let frozen = if self.rules.keep(Rule::CheckpointAtBoundary) {
            frozen
        } else {
            self.shared.freeze_again(frozen)
        };
        let anchor = self.wal.next_anchor();
        let retired = self.wal.retire();
        self.wal.start_next_generation(&anchor)?;
        let (shared, environment) = (self.shared.clone(), self.environment.clone());
        let (wal_bytes, space) = (self.wal_bytes, self.space.clone());
        let thread = thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            let written = checkpointer.write::<S>(&frozen.facts, &frozen.changed, &anchor);
            let result = written.and_then(|()| {
                space.measure(&environment)?;
                shared.checkpoint_done(frozen.upto);
                let mut retired = retired;
                retired.enlarge(segment_bytes(wal_bytes, environment.entry_bytes()?))?;
                Ok(retired)
            });
            (checkpointer, result)
        });
        let thread = thread.map_err(|source| {
            let doing = "cannot start the checkpoint thread";
            StoreError::Io { path: self.environment.dir().to_owned(), doing, source }
        })?;
        self.background = Background::Running(anchor, thread);
        Ok(())
    }

    /// Waits until no checkpoint is running.
    fn end_background(&mut self) -> Result<(), StoreError> {
        match mem::replace(&mut self.background, Background::Taken) {
            Background::Running(anchor, thread) => {
                let (checkpointer, result) =
                    thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
                self.wal.resized(&result?);
                self.wal.set_next_salt(&anchor);
                self.background = Background::Idle(checkpointer);
            }
            idle => self.background = idle,
        }
        Ok(())
    }
}
