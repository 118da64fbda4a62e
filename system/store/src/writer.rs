//! The queue of records with the newest state, and the writer thread. The thread takes all queued
//! records, makes them durable in one frame of the WAL, and reports that. When the WAL is full, it
//! checkpoints the newest state to the tables instead. Records that arrive during a sync go into
//! the next group. Does not know who appends or why.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    Lsn, Schema, StoreError, SyncMode,
    checkpoint::Checkpointer,
    environment::Environment,
    memtable::{Change, Changes, Memtable},
    wal::Wal,
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
    /// The writer waits on `wake`.
    waiting: bool,
    /// The writer waits with a timeout, and need not be woken for records that are not forced.
    timed_wait: bool,
    /// The state after every appended record.
    memtable: Memtable<S>,
}

/// The state to checkpoint, after every record up to a position.
struct Snapshot<S: Schema> {
    upto: Lsn,
    facts: S::Facts,
    changed: Arc<Changes<S>>,
}

impl<S: Schema> Shared<S> {
    /// Starts from the facts in the tables and the records in the WAL that the tables do not
    /// contain.
    pub(crate) fn new(facts: S::Facts, logged: &[S::Record]) -> Self {
        let mut memtable = Memtable::new(facts);
        logged.iter().for_each(|record| memtable.apply(record));
        let queue = Queue {
            records: Vec::new(),
            appended: 0,
            forced: 0,
            since: None,
            closing: false,
            waiting: false,
            timed_wait: false,
            memtable,
        };
        Shared {
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            durable: AtomicU64::new(0),
            checkpoints: AtomicU64::new(0),
            failed: OnceLock::new(),
        }
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

    /// Requests that every record up to a position become durable.
    pub(crate) fn force(&self, lsn: Lsn) {
        let mut queue = self.queue();
        if lsn > queue.forced {
            queue.forced = lsn;
            self.wake(queue);
        }
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
    /// `flush_interval`. Swaps them with the empty `batch` and returns the last position. Returns
    /// none when the store is closed and no record is left.
    fn next_batch(&self, batch: &mut Vec<S::Record>, flush_interval: Duration) -> Option<Lsn> {
        let mut queue = self.queue();
        // After a group another one is likely soon, so the first wait has a timeout.
        let mut active = true;
        loop {
            let wait = match queue.since {
                None if queue.closing => return None,
                None => active.then_some(flush_interval),
                Some(since) => {
                    let wait = flush_interval.saturating_sub(since.elapsed());
                    // A forced record was either taken before or is in this batch.
                    let first = queue.appended + 1 - queue.records.len() as Lsn;
                    if queue.closing || queue.forced >= first || wait.is_zero() {
                        mem::swap(&mut queue.records, batch);
                        queue.since = None;
                        return Some(queue.appended);
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
        Snapshot {
            upto: queue.appended,
            changed: queue.memtable.begin_checkpoint(),
            facts: queue.memtable.facts().clone(),
        }
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
    pub(crate) checkpointer: Checkpointer,
    pub(crate) sync_mode: SyncMode,
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) flush_interval: Duration,
    pub(crate) observer: Option<Box<dyn Observer<S::Record>>>,
    pub(crate) persisted: OnPersisted,
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
    }

    fn commits(&mut self) -> Result<(), StoreError> {
        let mut batch = Vec::new();
        let mut inherited_synced = false;
        while let Some(lsn) = self.shared.next_batch(&mut batch, self.flush_interval) {
            if !mem::replace(&mut inherited_synced, true) {
                self.sync_inherited()?;
            }
            let lsn = self.commit(&mut batch, lsn)?;
            batch.clear();
            self.shared.durable.store(lsn, Ordering::Release);
            (self.persisted)(Ok(lsn));
        }
        // A checkpoint at the end leaves the next start nothing to replay.
        if self.wal.is_empty() {
            Ok(())
        } else {
            self.checkpoint(&self.shared.snapshot(&mut batch))
        }
    }

    /// A killed process may have left data in the WAL and in the tables that it had not made
    /// durable. Makes it durable before anything is overwritten or appended.
    fn sync_inherited(&self) -> Result<(), StoreError> {
        self.wal.sync()?;
        if self.sync_mode == SyncMode::All { self.environment.sync() } else { Ok(()) }
    }

    /// Makes a group durable atomically, so that a crash keeps a prefix of the records. A
    /// checkpoint includes the records queued meanwhile. Returns the last durable position.
    fn commit(&mut self, batch: &mut Vec<S::Record>, lsn: Lsn) -> Result<Lsn, StoreError> {
        let snapshot = if self.wal.prepare_frame::<S>(batch) {
            None
        } else {
            Some(self.shared.snapshot(batch))
        };
        self.shared.check_versions(&self.environment)?;
        if let Some(observer) = &mut self.observer {
            observer.before(batch);
        }
        let durable = match &snapshot {
            None => {
                self.wal.append_frame()?;
                lsn
            }
            Some(snapshot) => {
                self.checkpoint(snapshot)?;
                snapshot.upto
            }
        };
        if let Some(observer) = &mut self.observer {
            observer.after(batch);
        }
        Ok(durable)
    }

    /// Checkpoints to the tables and starts the next WAL generation.
    fn checkpoint(&mut self, snapshot: &Snapshot<S>) -> Result<(), StoreError> {
        self.checkpointer.write::<S>(&snapshot.facts, &snapshot.changed, self.wal.generation())?;
        self.wal.start_next_generation();
        self.shared.checkpoints.fetch_add(1, Ordering::Relaxed);
        self.shared.queue().memtable.checkpoint_done();
        Ok(())
    }
}
