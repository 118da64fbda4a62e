//! A disk that a node uses and that the harness can switch off: an image, whether there is power,
//! and requests that are held back at a point or because the power is gone. Knows nothing of FUSE
//! and mounts; what a request does and how it is answered is handed in.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsStr,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use system::node::Side;
use tokio::sync::watch;

use super::{
    image::{Dropped, Image, Owner},
    points::{DiskPoint, Kept, Part, Verb},
};

/// How long a sync takes: a quick disk, not an instant one, so that what is not synced yet can be
/// met by a cut.
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
    /// Requests that wait, in order: while there is one, those that change anything queue behind.
    held: VecDeque<Held>,
}

/// What requests work on.
#[derive(Debug)]
pub(super) struct Medium {
    pub(super) image: Image,
    /// The files that have or had a name that matters.
    kept: BTreeMap<u64, Kept>,
}

impl Medium {
    /// A file has been given a name.
    pub(super) fn named(&mut self, number: u64, name: &OsStr) {
        if let Some(kept) = Kept::named(name) {
            self.kept.insert(number, kept);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    /// Gone, and whoever uses the disk does not know it yet: nothing is done, nothing answered.
    Off,
    /// Gone, and its user is being ended: everything is refused.
    Refused,
}

#[derive(Debug)]
struct Armed {
    point: DiskPoint,
    seen: u32,
}

enum Held {
    Request(Request),
    Answer(Answer),
}

/// Tells the kernel how a request ended; false means that it failed for want of power.
pub(super) type Answer = Box<dyn FnOnce(bool) + Send>;

/// What a request does, if there is power to do it with, and how it is answered.
pub(super) type Deed = Box<dyn FnOnce(Option<&mut Medium>) -> Answer + Send>;

/// Something that changes the disk.
pub(super) struct Request {
    pub(super) what: What,
    /// Does it, or not if there is no power to do it with.
    pub(super) deed: Deed,
}

/// What of a request points are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A write to a file from an offset on.
    Write { file: u64, offset: u64 },
    /// A sync of a file or a directory.
    Sync { number: u64 },
    /// Anything else.
    Other,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let State { power, armed, held, .. } = self;
        write!(f, "State {{ {power:?}, {armed:?}, {} held }}", held.len())
    }
}

impl Device {
    /// An empty disk, switched on.
    #[must_use]
    pub fn new(owner: Owner) -> Self {
        let medium = Medium { image: Image::new(owner), kept: BTreeMap::new() };
        let (power, armed, held) = (Power::On, None, VecDeque::new());
        Device {
            state: Mutex::new(State { medium, power, armed, held }),
            reached: watch::Sender::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every request is done whole or not at all.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what the disk holds.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Image) -> T) -> T {
        look(&self.lock().medium.image)
    }

    /// Does what is asked, now or when it is let go.
    pub(super) fn handle(&self, request: Request) {
        let mut state = self.lock();
        if state.must_wait() {
            return state.put_off(request);
        }
        let seen = state.classify(request.what);
        if let Some(point) = state.pass(Side::Before, seen) {
            state.held.push_back(Held::Request(request));
            self.reached.send_replace(Some(point));
            return;
        }
        if matches!(request.what, What::Sync { .. }) {
            drop(state);
            thread::sleep(SYNC_TIME);
            state = self.lock();
            if state.must_wait() {
                return state.put_off(request);
            }
        }
        let answer = (request.deed)(Some(&mut state.medium));
        if let Some(point) = state.pass(Side::After, seen) {
            state.held.push_back(Held::Answer(answer));
            self.reached.send_replace(Some(point));
            return;
        }
        drop(state);
        answer(true);
    }

    /// Holds back what reaches this point, once, and everything that comes after it.
    pub fn arm(&self, point: DiskPoint) {
        self.reached.send_replace(None);
        self.lock().armed = Some(Armed { point, seen: 0 });
    }

    /// Takes an armed point back; says whether it was reached before.
    pub fn disarm(&self) -> bool {
        let mut state = self.lock();
        state.armed = None;
        !state.held.is_empty()
    }

    /// Waits until the armed point is reached.
    pub async fn until_reached(&self) {
        // The sender lives in `self`.
        let _ = self.reached.subscribe().wait_for(Option::is_some).await;
    }

    /// Does everything that was held back, as if nothing had been.
    pub fn release(&self) {
        let mut state = self.lock();
        while let Some(held) = state.held.pop_front() {
            match held {
                Held::Request(request) => (request.deed)(Some(&mut state.medium))(true),
                Held::Answer(answer) => answer(true),
            }
        }
        self.reached.send_replace(None);
    }

    /// Forgets everything that was held back: who asked for it is being ended.
    pub fn abandon(&self) {
        let mut state = self.lock();
        state.armed = None;
        state.refuse();
        self.reached.send_replace(None);
    }

    /// The power goes: from this moment nothing is written or synced, and nobody told.
    pub fn power_off(&self) {
        self.lock().power = Power::Off;
    }

    /// Refuses whatever waits and whatever comes. To be called when a signal to end is on its way
    /// to whoever uses the disk, so that it cannot act on the refusals.
    pub fn refuse(&self) {
        let mut state = self.lock();
        state.power = Power::Refused;
        state.armed = None;
        state.refuse();
        self.reached.send_replace(None);
    }

    /// Loses what was not synced, all or a part that the seed chooses, and is switched on again.
    /// Nobody may be using the disk.
    pub fn lose(&self, part: Option<u64>) -> Dropped {
        let mut state = self.lock();
        let mut chance = part.map(ChaCha8Rng::seed_from_u64);
        state.power = Power::On;
        state.medium.image.cut(chance.as_mut())
    }
}

impl State {
    fn must_wait(&self) -> bool {
        self.power != Power::On || !self.held.is_empty()
    }

    fn put_off(&mut self, request: Request) {
        if self.power == Power::Refused {
            (request.deed)(None)(false);
        } else {
            self.held.push_back(Held::Request(request));
        }
    }

    fn refuse(&mut self) {
        for held in self.held.drain(..) {
            match held {
                Held::Request(request) => (request.deed)(None)(false),
                Held::Answer(answer) => answer(false),
            }
        }
    }

    fn classify(&self, what: What) -> Option<(Verb, Part)> {
        let Medium { image, kept } = &self.medium;
        match what {
            What::Write { file, offset } => {
                Some((Verb::Write, kept.get(&file)?.part_of_write(offset)))
            }
            What::Sync { number } => {
                let part = kept.get(&number)?.part_of_sync(image.unsynced(number)?)?;
                Some((Verb::Sync, part))
            }
            What::Other => None,
        }
    }

    /// Counts an occurrence; the point, if it is the one that is armed.
    fn pass(&mut self, side: Side, seen: Option<(Verb, Part)>) -> Option<DiskPoint> {
        let (armed, (verb, part)) = (self.armed.as_mut()?, seen?);
        let point = armed.point;
        if (point.side, point.verb, point.part) != (side, verb, part) {
            return None;
        }
        armed.seen += 1;
        if armed.seen < point.n {
            return None;
        }
        self.armed = None;
        Some(point)
    }
}
