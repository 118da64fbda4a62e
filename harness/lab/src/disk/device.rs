//! A disk whose power the harness controls: an image, the power state, and requests that are
//! deferred at an armed point or because the power is off. Does not know FUSE or mounts: what a
//! request does and how it is answered is handed in.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsStr,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;

use super::{
    image::{Image, LostWrites, Owner},
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

/// Performs a request, or not if there is no medium because the power is off; returns its answer.
pub(super) type Operation = Box<dyn FnOnce(Option<&mut Medium>) -> Answer + Send>;

/// A request that changes the disk.
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
    /// Anything else.
    Other,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { power, armed, deferred, .. } = self;
        write!(f, "State {{ {power:?}, {armed:?}, {} deferred }}", deferred.len())
    }
}

impl Device {
    /// An empty disk with its power on. `layouts` are the files that have points.
    #[must_use]
    pub fn new(owner: Owner, layouts: &'static [FileLayout]) -> Self {
        let medium = Medium { image: Image::new(owner), layouts, tracked: BTreeMap::new() };
        let (power, armed, deferred) = (Power::On, None, VecDeque::new());
        Device {
            state: Mutex::new(State { medium, power, armed, deferred }),
            reached: watch::Sender::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every request is performed as a whole or not at all, so a poisoned state is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads from the image, also while requests are deferred.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Image) -> T) -> T {
        read(&self.lock().medium.image)
    }

    /// Performs a request, now or when it is released.
    pub(super) fn handle(&self, request: Request) {
        let mut state = self.lock();
        if state.must_wait() {
            return state.defer(request);
        }
        let access = state.classify(request.kind);
        if let Some(point) = state.hit(Side::Before, access) {
            state.deferred.push_back(Deferred::Request(request));
            self.reached.send_replace(Some(point));
            return;
        }
        if matches!(request.kind, RequestKind::Sync { .. }) {
            drop(state);
            thread::sleep(SYNC_TIME);
            state = self.lock();
            if state.must_wait() {
                return state.defer(request);
            }
        }
        let answer = (request.operation)(Some(&mut state.medium));
        if let Some(point) = state.hit(Side::After, access) {
            state.deferred.push_back(Deferred::Answer(answer));
            self.reached.send_replace(Some(point));
            return;
        }
        drop(state);
        answer(true);
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
                Deferred::Request(request) => (request.operation)(Some(&mut state.medium))(true),
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
    fn must_wait(&self) -> bool {
        self.power != Power::On || !self.deferred.is_empty()
    }

    fn defer(&mut self, request: Request) {
        if self.power == Power::Failing {
            (request.operation)(None)(false);
        } else {
            self.deferred.push_back(Deferred::Request(request));
        }
    }

    fn fail_deferred(&mut self) {
        for deferred in self.deferred.drain(..) {
            match deferred {
                Deferred::Request(request) => (request.operation)(None)(false),
                Deferred::Answer(answer) => answer(false),
            }
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
            RequestKind::Other => None,
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
