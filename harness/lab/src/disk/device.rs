//! A disk whose power the harness controls: an image, the power state, what is wrong with the disk, and
//! requests that are deferred at an armed point, by a stall, or because the power is off. Does not know
//! FUSE or mounts: what a request does and how it is answered is handed in.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsStr,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::errno::Errno;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;

use super::{
    fault::{DiskEffects, DiskFault},
    image::{Image, LostWrites, NameDurability, Owner},
    point::{Access, DiskPoint, FileLayout, Region, Side},
};

/// How long a sync takes: a fast disk, but not an instant one, so that a power loss can fall between
/// a write and its sync.
const SYNC_TIME: Duration = Duration::from_micros(400);

/// One disk.
#[derive(Debug)]
pub struct Device {
    state: Mutex<State>,
    /// The point that was reached, while requests are held there.
    reached: watch::Sender<Option<DiskPoint>>,
}

struct State {
    medium: Medium,
    power: Power,
    armed: Option<Armed>,
    /// Requests that wait, oldest first. While there is one, every request that changes the disk
    /// queues behind it.
    deferred: VecDeque<Deferred>,
    /// Slow syncs that are under way, by a number of their own.
    slow: BTreeMap<u64, Request>,
    next_slow: u64,
    fault: Option<DiskFault>,
    /// What has come of the fault.
    effects: DiskEffects,
    /// Chooses the times of slow syncs.
    rng: ChaCha8Rng,
}

/// What requests operate on.
#[derive(Debug)]
pub(super) struct Medium {
    pub(super) image: Image,
    layouts: &'static [FileLayout],
    /// The inodes that have, or had, a name with a layout.
    tracked: BTreeMap<u64, &'static FileLayout>,
}

impl Medium {
    /// Records that a file was given a name.
    pub(super) fn named(&mut self, inode: u64, name: &OsStr) {
        if let Some(layout) = FileLayout::find(self.layouts, name) {
            self.tracked.insert(inode, layout);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    /// Off, and the users of the disk do not know yet: nothing is performed, nothing is answered.
    Off,
    /// Off, and the users of the disk are being killed: every request fails.
    Failing,
}

#[derive(Debug)]
struct Armed {
    point: DiskPoint,
    hits: u32,
}

enum Deferred {
    /// Not performed yet.
    Request(Request),
    /// Performed, but not answered yet.
    Answer(Answer),
}

/// Tells the kernel the result of a request; `false` means that it failed because of the power loss.
pub(super) type Answer = Box<dyn FnOnce(bool) + Send>;

/// Performs a request, or not if there is no medium because the disk fails; returns its answer.
pub(super) type Operation = Box<dyn FnOnce(Option<&mut Medium>) -> Outcome + Send>;

/// A request that was performed.
pub(super) struct Outcome {
    pub(super) answer: Answer,
    /// The error that it ended with.
    pub(super) error: Option<Errno>,
}

/// A request to the disk.
pub(super) struct Request {
    pub(super) kind: RequestKind,
    pub(super) operation: Operation,
}

/// The part of a request that determines its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// A write to a file from an offset on.
    Write { file: u64, offset: u64 },
    /// A sync of a file or a directory.
    Sync { inode: u64 },
    /// Anything else that changes the disk.
    Other,
    /// It changes nothing.
    Query,
    /// It asks for the free space.
    Space,
}

impl Outcome {
    /// Answers that it failed because of the power loss.
    fn fail(self) {
        (self.answer)(false);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { power, armed, deferred, fault, .. } = self;
        write!(f, "State {{ {power:?}, {armed:?}, {fault:?}, {} deferred }}", deferred.len())
    }
}

impl Device {
    /// An empty disk with its power on. `layouts` are the files that have points.
    #[must_use]
    pub fn new(owner: Owner, names: NameDurability, layouts: &'static [FileLayout]) -> Self {
        let image = Image::new(owner, names);
        let state = State {
            medium: Medium { image, layouts, tracked: BTreeMap::new() },
            power: Power::On,
            armed: None,
            deferred: VecDeque::new(),
            slow: BTreeMap::new(),
            next_slow: 0,
            fault: None,
            effects: DiskEffects::default(),
            rng: ChaCha8Rng::seed_from_u64(0),
        };
        Device { state: Mutex::new(state), reached: watch::Sender::new(None) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every request is performed as a whole or not at all, so a poisoned state is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the image, or changes it by hand. No process may depend on what is changed.
    pub fn with_image<T>(&self, job: impl FnOnce(&mut Image) -> T) -> T {
        job(&mut self.lock().medium.image)
    }

    /// Performs a request, now or when it is released.
    pub(super) fn handle(self: &Arc<Self>, request: Request) {
        let mut state = self.lock();
        if state.must_wait(request.kind) {
            return state.defer(request);
        }
        if matches!(request.kind, RequestKind::Query | RequestKind::Space) {
            let answer = state.perform(request);
            drop(state);
            return answer(true);
        }
        let access = state.classify(request.kind);
        if let Some(point) = state.hit(Side::Before, access) {
            state.deferred.push_back(Deferred::Request(request));
            self.reached.send_replace(Some(point));
            return;
        }
        if matches!(request.kind, RequestKind::Sync { .. }) {
            if let Some(DiskFault::Slow { shortest, longest, .. }) = state.fault {
                let time = state.rng.random_range(shortest..=longest);
                return self.perform_later(state, request, time);
            }
            drop(state);
            thread::sleep(SYNC_TIME);
            state = self.lock();
            if state.must_wait(request.kind) {
                return state.defer(request);
            }
        }
        let answer = state.perform(request);
        if let Some(point) = state.hit(Side::After, access) {
            state.deferred.push_back(Deferred::Answer(answer));
            self.reached.send_replace(Some(point));
            return;
        }
        drop(state);
        answer(true);
    }

    /// Performs a sync after a time, during which other requests go on.
    fn perform_later(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        request: Request,
        time: Duration,
    ) {
        state.effects.slow_syncs += 1;
        let number = state.next_slow;
        state.next_slow += 1;
        state.slow.insert(number, request);
        drop(state);
        let device = Arc::downgrade(self);
        thread::spawn(move || {
            thread::sleep(time);
            let Some(device) = device.upgrade() else { return };
            let mut state = device.lock();
            // It may have failed meanwhile.
            let Some(request) = state.slow.remove(&number) else { return };
            if state.must_wait(request.kind) {
                return state.defer(request);
            }
            let answer = state.perform(request);
            drop(state);
            answer(true);
        });
    }

    /// From now on, until [`heal`](Device::heal), this is wrong with the disk.
    pub fn inject(&self, fault: DiskFault) {
        let mut state = self.lock();
        state.effects = DiskEffects::default();
        if let DiskFault::Slow { seed, .. } = fault {
            state.rng = ChaCha8Rng::seed_from_u64(seed);
        }
        state.medium.image.set_free_pages(fault.free_pages());
        state.fault = Some(fault);
    }

    /// What has come of the present fault, or of the last one.
    #[must_use]
    pub fn effects(&self) -> DiskEffects {
        self.lock().effects
    }

    /// The disk is well again; what hung is performed and answered. Returns what came of the fault.
    pub fn heal(&self) -> DiskEffects {
        let mut state = self.lock();
        state.medium.image.set_free_pages(None);
        let fault = state.fault.take();
        let effects = state.effects;
        drop(state);
        if fault == Some(DiskFault::Stall) {
            self.release();
        }
        effects
    }

    /// Arms a point. The request that reaches it is held, once, and so is every later request that
    /// changes the disk.
    pub fn arm(&self, point: DiskPoint) {
        self.reached.send_replace(None);
        self.lock().armed = Some(Armed { point, hits: 0 });
    }

    /// Disarms the point. Returns whether it was reached before.
    pub fn disarm(&self) -> bool {
        let mut state = self.lock();
        state.armed = None;
        !state.deferred.is_empty()
    }

    /// Waits until the armed point is reached.
    pub async fn until_reached(&self) {
        // `self` owns the sender, so the wait cannot fail.
        let _ = self.reached.subscribe().wait_for(Option::is_some).await;
    }

    /// Performs and answers everything that was held at a point.
    pub fn release(&self) {
        let mut state = self.lock();
        while let Some(deferred) = state.deferred.pop_front() {
            match deferred {
                Deferred::Request(request) => state.perform(request)(true),
                Deferred::Answer(answer) => answer(true),
            }
        }
        self.reached.send_replace(None);
    }

    /// Fails everything that was held at a point: its process is being killed.
    pub fn abandon(&self) {
        let mut state = self.lock();
        state.armed = None;
        state.fail_deferred();
        self.reached.send_replace(None);
    }

    /// Switches the power off: from now on nothing is performed and nothing is answered.
    pub fn power_off(&self) {
        self.lock().power = Power::Off;
    }

    /// Fails deferred and new requests, so that the kernel lets the disk's users exit. Call it only
    /// after SIGKILL was sent to them, so that none can act on the errors.
    pub fn fail_requests(&self) {
        let mut state = self.lock();
        state.power = Power::Failing;
        state.armed = None;
        state.fail_deferred();
        self.reached.send_replace(None);
    }

    /// Switches the power on again without a loss, once the users of the disk are gone.
    pub fn power_on(&self) {
        self.lock().power = Power::On;
    }

    /// Whether requests hang.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.lock().fault == Some(DiskFault::Stall)
    }

    /// Drops unsynced changes, all or a part chosen by the seed, and switches the power on again.
    /// No process may be using the disk.
    pub fn lose_power(&self, partial: Option<u64>) -> LostWrites {
        let mut state = self.lock();
        let mut rng = partial.map(ChaCha8Rng::seed_from_u64);
        state.power = Power::On;
        state.medium.image.lose_power(rng.as_mut())
    }
}

impl State {
    fn must_wait(&self, kind: RequestKind) -> bool {
        // A point, or a power loss, holds what changes the disk. Nothing passes a stall.
        let changes = !matches!(kind, RequestKind::Query | RequestKind::Space);
        let is_held = self.power != Power::On || !self.deferred.is_empty();
        self.fault == Some(DiskFault::Stall) || changes && is_held
    }

    fn defer(&mut self, request: Request) {
        if self.power == Power::Failing {
            return (request.operation)(None).fail();
        }
        if self.fault == Some(DiskFault::Stall) {
            self.effects.stalled += 1;
            let is_sync = matches!(request.kind, RequestKind::Sync { .. });
            self.effects.stalled_syncs += u64::from(is_sync);
        }
        self.deferred.push_back(Deferred::Request(request));
    }

    /// Performs a request as the fault allows it.
    fn perform(&mut self, request: Request) -> Answer {
        let Request { kind, operation } = request;
        match (self.fault, kind) {
            (Some(DiskFault::Error { writes: true, .. }), RequestKind::Write { .. }) => {
                self.effects.failed_writes += 1;
                return operation(None).answer;
            }
            (Some(DiskFault::Error { syncs: true, .. }), RequestKind::Sync { inode }) => {
                self.effects.failed_syncs += 1;
                self.effects.given_up += self.medium.image.fail_sync(inode) as u64;
                return operation(None).answer;
            }
            (Some(DiskFault::Full { .. }), RequestKind::Space) => self.effects.reported_full += 1,
            _ => {}
        }
        let outcome = operation(Some(&mut self.medium));
        if outcome.error == Some(Errno::ENOSPC) {
            self.effects.refused += 1;
        }
        outcome.answer
    }

    fn fail_deferred(&mut self) {
        for deferred in self.deferred.drain(..) {
            match deferred {
                Deferred::Request(request) => (request.operation)(None).fail(),
                Deferred::Answer(answer) => answer(false),
            }
        }
        for request in std::mem::take(&mut self.slow).into_values() {
            (request.operation)(None).fail();
        }
    }

    fn classify(&self, kind: RequestKind) -> Option<(Access, Region)> {
        let Medium { image, tracked, .. } = &self.medium;
        match kind {
            RequestKind::Write { file, offset } => {
                Some((Access::Write, tracked.get(&file)?.region_written(offset)?))
            }
            RequestKind::Sync { inode } => {
                let region = tracked.get(&inode)?.region_synced(image.unsynced(inode)?)?;
                Some((Access::Sync, region))
            }
            RequestKind::Other | RequestKind::Query | RequestKind::Space => None,
        }
    }

    /// Counts an access. Returns the armed point if this is the occurrence that it names.
    fn hit(&mut self, side: Side, access: Option<(Access, Region)>) -> Option<DiskPoint> {
        let (armed, (access, region)) = (self.armed.as_mut()?, access?);
        let point = armed.point;
        if (point.side, point.access, point.region) != (side, access, region) {
            return None;
        }
        armed.hits += 1;
        if armed.hits < point.n {
            return None;
        }
        self.armed = None;
        Some(point)
    }
}
