//! The one thread that writes: takes everything that is queued, makes it durable in one frame of the
//! log, tells so, and begins again. When the log is full the tables take up everything instead. What
//! is queued while a commit is under way goes into the next one. Knows nothing of what a change does,
//! nor of who appends or why.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    super::{StoreError, fold::Change},
    Syncs,
    environment::Environment,
    log::Log,
    tables::Tables,
};
use crate::protocol::{Key, Lsn, Record, Version};

/// Told of each group of records around its commit, in the writer's thread. A process that is
/// stopped in `before` has committed none of them, in `after` all of them, and in neither has anyone
/// been told.
pub trait Observer: Send {
    /// The records are about to be committed.
    fn before(&mut self, batch: &[Record]);
    /// The records are durable, and nobody knows it yet.
    fn after(&mut self, batch: &[Record]);
}

/// Told, in the writer's thread, that every record up to a position is durable, or, once and for
/// all, that writing has failed.
pub type Persisted = Box<dyn FnMut(Result<Lsn, Arc<StoreError>>) + Send>;

/// What the writer and the store that feeds it have in common.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Everything up to here is durable.
    durable: AtomicU64,
    /// Why nothing more becomes durable.
    failed: OnceLock<Arc<StoreError>>,
}

#[derive(Default)]
struct Queue {
    batch: Batch,
    /// The last position appended.
    appended: Lsn,
    /// Everything up to here is to be durable as soon as possible.
    forced: Lsn,
    /// When the first of the batch was appended.
    since: Option<Instant>,
    /// The store wants no more.
    closing: bool,
    /// The writer sleeps until it is woken, or for a while.
    asleep: bool,
    /// It does so for a while only, and needs not be woken for what nobody forces.
    dozing: bool,
    /// What the key/value table has, durably, and nobody was told of.
    applied: Vec<(Key, Version)>,
}

#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    /// The records that made the changes.
    records: Vec<Record>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            durable: AtomicU64::new(0),
            failed: OnceLock::new(),
        }
    }

    /// Queues a change, and says its position. Adds to `applied` what the key/value table has now.
    pub(super) fn append(
        &self,
        record: Record,
        change: Change,
        applied: &mut Vec<(Key, Version)>,
    ) -> Lsn {
        let mut queue = self.queue();
        applied.append(&mut queue.applied);
        queue.appended += 1;
        queue.batch.changes.push(change);
        queue.batch.records.push(record);
        let lsn = queue.appended;
        if queue.since.is_none() {
            queue.since = Some(Instant::now());
            // Most appends are followed by a force, which wakes it.
            if !queue.dozing {
                self.wake(queue);
            }
        }
        lsn
    }

    /// Wants everything up to a position to be durable as soon as possible.
    pub(super) fn force(&self, lsn: Lsn) {
        let mut queue = self.queue();
        if lsn > queue.forced {
            queue.forced = lsn;
            self.wake(queue);
        }
    }

    /// Wants everything to be durable and the writer to end.
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        queue.closing = true;
        self.wake(queue);
    }

    /// Everything up to here is durable.
    pub(super) fn durable(&self) -> Lsn {
        self.durable.load(Ordering::Acquire)
    }

    /// Refuses when writing has failed.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.failed.get() {
            Some(cause) => Err(StoreError::Failed(cause.clone())),
            None => Ok(()),
        }
    }

    /// A panic while the queue is held leaves it whole: nothing in there panics half-way.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        if mem::take(&mut queue.asleep) {
            drop(queue);
            self.wake.notify_one();
        }
    }

    /// Waits for something to commit: something that is forced, or that has been lying for as long
    /// as `idle`. Swaps it with the empty batch that is given, and says its last position; or
    /// nothing, when the store is closed and nothing is left.
    fn take(&self, batch: &mut Batch, idle: Duration) -> Option<Lsn> {
        let mut queue = self.queue();
        // Where there was something just now there will be more soon.
        let mut active = true;
        loop {
            let wait = match queue.since {
                None if queue.closing => return None,
                None => active.then_some(idle),
                Some(since) => {
                    let wait = idle.saturating_sub(since.elapsed());
                    // What is forced has either been taken before or is in this batch.
                    let first = queue.appended + 1 - queue.batch.changes.len() as Lsn;
                    if queue.closing || queue.forced >= first || wait.is_zero() {
                        mem::swap(&mut queue.batch, batch);
                        queue.since = None;
                        return Some(queue.appended);
                    }
                    Some(wait)
                }
            };
            queue.asleep = true;
            queue.dozing = wait.is_some();
            queue = match wait {
                None => self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    let woken = self.wake.wait_timeout(queue, wait);
                    let (queue, waited) = woken.unwrap_or_else(PoisonError::into_inner);
                    active &= !waited.timed_out();
                    queue
                }
            };
            queue.asleep = false;
            queue.dozing = false;
        }
    }
}

/// The body of the writer's thread.
pub(super) struct Writer {
    pub(super) environment: Arc<Environment>,
    pub(super) log: Log,
    pub(super) tables: Tables,
    pub(super) syncs: Syncs,
    pub(super) shared: Arc<Shared>,
    pub(super) idle: Duration,
    pub(super) observer: Option<Box<dyn Observer>>,
    pub(super) persisted: Persisted,
}

impl Writer {
    /// Writes until the store is closed, or until writing fails.
    pub(super) fn run(mut self) {
        let end = catch_unwind(AssertUnwindSafe(|| self.commits())).unwrap_or_else(|_| {
            Err(StoreError::WriterPanicked { dir: self.environment.dir().to_owned() })
        });
        if let Err(error) = end {
            let error = Arc::new(error);
            // Only this thread sets it, and once.
            let _ = self.shared.failed.set(error.clone());
            (self.persisted)(Err(error));
        }
    }

    fn commits(&mut self) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        let mut settled = false;
        while let Some(lsn) = self.shared.take(&mut batch, self.idle) {
            if !mem::replace(&mut settled, true) {
                self.settle()?;
            }
            self.commit(&batch)?;
            batch.changes.clear();
            batch.records.clear();
            self.shared.durable.store(lsn, Ordering::Release);
            (self.persisted)(Ok(lsn));
        }
        // The next start has nothing to do then.
        if self.log.is_empty() { Ok(()) } else { self.apply() }
    }

    /// A process that was killed may have left more than it had made durable, in the log and in the
    /// tables. It is durable before anything is written over or behind it.
    fn settle(&self) -> Result<(), StoreError> {
        self.log.sync()?;
        if self.syncs == Syncs::All { self.environment.sync() } else { Ok(()) }
    }

    /// Makes a batch durable, as a whole: so a crash keeps a prefix.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.tables.take(&batch.changes)?;
        if let Some(observer) = &mut self.observer {
            observer.before(&batch.records);
        }
        if !self.log.append(&batch.records)? {
            self.apply()?;
        }
        if let Some(observer) = &mut self.observer {
            observer.after(&batch.records);
        }
        Ok(())
    }

    /// Brings the tables up to date, durably, and begins the log anew.
    fn apply(&mut self) -> Result<(), StoreError> {
        let written = self.tables.write(self.log.generation())?;
        self.log.restart();
        self.shared.queue().applied.extend(written);
        Ok(())
    }
}
