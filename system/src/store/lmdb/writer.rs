//! What is queued for the disk, with the state that it leaves, and the one thread that writes: it
//! takes everything that is queued, makes it durable in one frame of the log, tells so, and begins
//! again. When the log is full the tables take up the state instead. What is queued while a commit
//! is under way goes into the next one. Knows nothing of who appends or why.

use std::{
    collections::hash_map::Entry,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    super::{StoreError, fold::Facts},
    SyncMode,
    environment::Environment,
    log::Log,
    tables::{Change, Changed, Tables},
};
use crate::protocol::{Key, Lsn, Record, Version, Write};

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
    /// Appended, and not taken by the writer yet.
    records: Vec<Record>,
    /// The last position appended.
    appended: Lsn,
    /// Everything up to here is to be durable as soon as possible.
    forced: Lsn,
    /// When the first of the records was appended.
    since: Option<Instant>,
    /// The store wants no more.
    closing: bool,
    /// The writer sleeps until it is woken, or for a while.
    asleep: bool,
    /// It does so for a while only, and needs not be woken for what nobody forces.
    dozing: bool,
    /// What all appended records say.
    facts: Facts,
    /// The entries that appended commits changed since the tables were written last.
    changed: Changed,
    /// Those that are being written to the tables.
    writing: Arc<Changed>,
    /// What was appended cannot be: a transaction, and the version that its key has already.
    late: Option<(Version, Version)>,
}

/// What the tables are to have, with all that was appended up to a position.
pub(super) struct Snapshot {
    upto: Lsn,
    facts: Facts,
    changed: Arc<Changed>,
}

impl Shared {
    /// Begins with the facts that the tables hold, and the records of the log that they do not have.
    pub(super) fn new(facts: Facts, logged: &[Record]) -> Self {
        let mut queue = Queue { facts, ..Queue::default() };
        logged.iter().for_each(|record| queue.apply(record));
        Shared {
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            durable: AtomicU64::new(0),
            failed: OnceLock::new(),
        }
    }

    /// What all records say, in canonical order.
    pub(super) fn facts(&self) -> Vec<Record> {
        self.queue().facts.records().cloned().collect()
    }

    /// Queues a record, and says its position.
    ///
    /// # Panics
    /// On a commit of what is not prepared.
    pub(super) fn append(&self, record: Record) -> Lsn {
        let mut queue = self.queue();
        queue.apply(&record);
        queue.appended += 1;
        queue.records.push(record);
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

    /// What became of a key that the tables may not have as it is now.
    pub(super) fn changed(&self, key: &Key) -> Option<Change> {
        let queue = self.queue();
        queue.changed.get(key).or_else(|| queue.writing.get(key)).cloned()
    }

    /// All keys of which the tables may not have what they are now.
    pub(super) fn all_changed(&self) -> Changed {
        let queue = self.queue();
        let mut all = (*queue.writing).clone();
        all.extend(queue.changed.iter().map(|(key, change)| (key.clone(), change.clone())));
        all
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
    fn take(&self, batch: &mut Vec<Record>, idle: Duration) -> Option<Lsn> {
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
                    let first = queue.appended + 1 - queue.records.len() as Lsn;
                    if queue.closing || queue.forced >= first || wait.is_zero() {
                        mem::swap(&mut queue.records, batch);
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

    /// Adds what was queued since to a batch, and says what all of it leaves. Until it is
    /// [`written`](Shared::written), reads find there what is being written.
    fn snapshot(&self, batch: &mut Vec<Record>) -> Snapshot {
        let mut queue = self.queue();
        batch.append(&mut queue.records);
        queue.since = None;
        queue.writing = Arc::new(mem::take(&mut queue.changed));
        Snapshot {
            upto: queue.appended,
            facts: queue.facts.clone(),
            changed: queue.writing.clone(),
        }
    }

    /// The tables have the entries of the last snapshot, which still holds them: there may be too
    /// many to be dropped under the lock.
    fn written(&self) {
        self.queue().writing = Arc::default();
    }

    /// Refuses when what was appended cannot be.
    pub(super) fn in_order(&self, environment: &Environment) -> Result<(), StoreError> {
        match self.queue().late {
            Some((txn, version)) => {
                let dir = environment.dir().to_owned();
                Err(StoreError::VersionOrder { dir, txn, version })
            }
            None => Ok(()),
        }
    }
}

impl Queue {
    /// Takes a record into the state. Whether a version grows is seen here as far as the tables do
    /// not have the last one; as for these, when they are written.
    fn apply(&mut self, record: &Record) {
        let Some((version, Write { key, value })) = self.facts.apply(record) else { return };
        let change = (version, value);
        let before = match self.changed.entry(key) {
            Entry::Occupied(mut changed) => live(&changed.insert(change)),
            Entry::Vacant(vacant) => {
                let before = self.writing.get(vacant.key()).and_then(live);
                vacant.insert(change);
                before
            }
        };
        if let Some(before) = before.filter(|before| *before >= version) {
            self.late.get_or_insert((version, before));
        }
    }
}

/// The version of a key that a change has left live.
fn live((version, value): &Change) -> Option<Version> {
    value.as_ref().map(|_| *version)
}

/// The body of the writer's thread.
pub(super) struct Writer {
    pub(super) environment: Arc<Environment>,
    pub(super) log: Log,
    pub(super) tables: Tables,
    pub(super) syncs: SyncMode,
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
        let mut batch = Vec::new();
        let mut settled = false;
        while let Some(lsn) = self.shared.take(&mut batch, self.idle) {
            if !mem::replace(&mut settled, true) {
                self.settle()?;
            }
            let lsn = self.commit(&mut batch, lsn)?;
            batch.clear();
            self.shared.durable.store(lsn, Ordering::Release);
            (self.persisted)(Ok(lsn));
        }
        // The next start has nothing to do then.
        if self.log.is_empty() { Ok(()) } else { self.apply(&self.shared.snapshot(&mut batch)) }
    }

    /// A process that was killed may have left more than it had made durable, in the log and in the
    /// tables. It is durable before anything is written over or behind it.
    fn settle(&self) -> Result<(), StoreError> {
        self.log.sync()?;
        if self.syncs == SyncMode::All { self.environment.sync() } else { Ok(()) }
    }

    /// Makes a batch durable, as a whole: so a crash keeps a prefix. Where the tables take it up
    /// they take up with it what was queued meanwhile. Says the last position that is durable.
    fn commit(&mut self, batch: &mut Vec<Record>, lsn: Lsn) -> Result<Lsn, StoreError> {
        let snapshot = if self.log.frame(batch) { None } else { Some(self.shared.snapshot(batch)) };
        self.shared.in_order(&self.environment)?;
        if let Some(observer) = &mut self.observer {
            observer.before(batch);
        }
        let durable = match &snapshot {
            None => {
                self.log.append()?;
                lsn
            }
            Some(snapshot) => {
                self.apply(snapshot)?;
                snapshot.upto
            }
        };
        if let Some(observer) = &mut self.observer {
            observer.after(batch);
        }
        Ok(durable)
    }

    /// Brings the tables up to date, durably, and begins the log anew.
    fn apply(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.tables.write(&snapshot.facts, &snapshot.changed, self.log.generation())?;
        self.log.restart();
        self.shared.written();
        Ok(())
    }
}
