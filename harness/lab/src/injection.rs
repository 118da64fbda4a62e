//! Fault injections as data, and the order in which a run applies them. Everything is drawn from
//! the seed. Does not know which faults there are: a system brings its own
//! [sources](FaultSource), triggers and actions.

use std::{collections::BTreeSet, time::Duration};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::bag::ShuffledBag;

/// The shortest outage that has room for a second injection.
pub const SECOND_INJECTION_MIN: Duration = Duration::from_millis(250);

/// How many injections are drawn to find one that can accompany another.
const DRAWS_MAX: usize = 6;

/// With more faults than this, a run begins with a quick round of as many injections as there are
/// faults, so that a short run meets them all.
const MANY_FAULTS: usize = 4;

/// The longest delay before, and the longest outage of, an injection of the quick round.
const QUICK: Duration = Duration::from_millis(120);

/// What is done to the target of an injection.
pub trait Action {
    /// How long the target is out of service while another injection may happen. Zero if there is
    /// no room for one.
    fn outage(&self) -> Duration;

    /// Limits every duration of the action.
    fn shorten(&mut self, max: Duration);

    /// Makes the action fit into the outage of another one.
    fn accompany(&mut self, rng: &mut ChaCha8Rng);
}

/// One injection of a fault `F` against a node `N`.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection<F, N, T, A> {
    /// The fault of which this is a case.
    pub fault: F,
    /// How long the cluster is left alone first.
    pub delay: Duration,
    /// The node that it acts on.
    pub target: N,
    /// The moment at which it acts.
    pub trigger: T,
    /// What it does.
    pub action: A,
    /// Another injection, against another node, during the outage of this one: recovery from one
    /// failure must withstand a second one.
    pub meanwhile: Option<Box<Self>>,
    /// Another injection, after this one is undone and before the cluster has recovered.
    pub then: Option<Box<Self>>,
    /// Whether the next injection follows without waiting for recovery.
    pub skip_recovery: bool,
}

impl<F, N, T, A> Injection<F, N, T, A> {
    /// An injection without another one beside it.
    #[must_use]
    pub fn new(fault: F, delay: Duration, target: N, trigger: T, action: A) -> Self {
        let (meanwhile, then, skip_recovery) = (None, None, false);
        Injection { fault, delay, target, trigger, action, meanwhile, then, skip_recovery }
    }
}

/// A fault: an endless source of injections.
pub trait FaultSource<I>: Send {
    /// The next injection.
    fn next(&mut self, rng: &mut ChaCha8Rng) -> I;

    /// Takes note of whether the last injection happened.
    fn report(&mut self, _injected: bool) {}
}

/// A fixed sequence of injections, repeated without end.
struct Script<I> {
    injections: Vec<I>,
    at: usize,
}

impl<I: Clone + Send> FaultSource<I> for Script<I> {
    fn next(&mut self, _rng: &mut ChaCha8Rng) -> I {
        let injection = self.injections[self.at % self.injections.len()].clone();
        self.at += 1;
        injection
    }
}

/// Injections run in two lanes at the same time, so that the network fails while nodes are killed
/// and come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Starts, stops and kills processes.
    Nodes,
    /// Disturbs the network only.
    Network,
}

/// A fault of a schedule.
pub struct ScheduledFault<F, N, T, A> {
    /// The fault.
    pub fault: F,
    /// The source of its injections.
    pub source: Box<dyn FaultSource<Injection<F, N, T, A>>>,
    /// Whether it needs nothing of the cluster and is soon over, so that it can accompany another
    /// injection.
    pub at_any_time: bool,
    /// Whether a run begins with it: what it waits for happens at the beginning only.
    pub comes_first: bool,
}

/// The injections of one lane, in rounds: each fault occurs once per round, in seeded order. With
/// several faults, one may be injected during the outage of another or during the recovery from it.
pub struct Schedule<F, N, T, A> {
    faults: Vec<ScheduledFault<F, N, T, A>>,
    round: ShuffledBag<usize>,
    /// How many injections of the quick round are left.
    quick: usize,
    /// Faults that come next: those that a run begins with, and those that missed before they were
    /// injected at all.
    retry: Vec<usize>,
    injected: BTreeSet<F>,
    /// The faults that can accompany another one, if there are several faults.
    accompanying: Option<ShuffledBag<usize>>,
    rng: ChaCha8Rng,
}

impl<F: Copy + Ord, N: PartialEq, T, A: Action> Schedule<F, N, T, A> {
    /// The schedule of one lane; `None` if it has no faults. `total` is the number of faults of
    /// both lanes.
    #[must_use]
    pub fn new(
        faults: Vec<ScheduledFault<F, N, T, A>>,
        total: usize,
        rng: ChaCha8Rng,
    ) -> Option<Self> {
        let quick = if total > MANY_FAULTS { total } else { 0 };
        let at_any_time: Vec<_> = (0..faults.len()).filter(|n| faults[*n].at_any_time).collect();
        let accompanying =
            (faults.len() > 1 && !at_any_time.is_empty()).then(|| ShuffledBag::new(at_any_time));
        let round = (!faults.is_empty()).then(|| ShuffledBag::new((0..faults.len()).collect()))?;
        let retry = (0..faults.len()).filter(|n| faults[*n].comes_first).collect();
        let injected = BTreeSet::new();
        Some(Schedule { faults, round, quick, retry, injected, accompanying, rng })
    }

    /// A schedule that repeats these injections in order.
    ///
    /// # Panics
    /// If there are none.
    #[must_use]
    pub fn scripted(injections: Vec<Injection<F, N, T, A>>, rng: ChaCha8Rng) -> Self
    where
        Injection<F, N, T, A>: Clone + Send + 'static,
    {
        let fault = injections.first().expect("a script has at least one injection").fault;
        let source = Box::new(Script { injections, at: 0 });
        let faults = vec![ScheduledFault { fault, source, at_any_time: false, comes_first: false }];
        let (round, accompanying) = (ShuffledBag::new(vec![0]), None);
        let (retry, injected) = (Vec::new(), BTreeSet::new());
        Schedule { faults, round, quick: 0, retry, injected, accompanying, rng }
    }

    /// Takes note of whether an injection of this fault happened. A fault that never happened and
    /// misses is tried again before the others, because a short run would end without it.
    pub fn report(&mut self, fault: F, injected: bool) {
        let position = self.faults.iter().position(|scheduled| scheduled.fault == fault);
        if let Some(position) = position {
            self.faults[position].source.report(injected);
        }
        if injected {
            self.injected.insert(fault);
        } else if !self.injected.contains(&fault) {
            self.retry.extend(position);
        }
    }

    /// Whether each fault was injected at least once.
    #[must_use]
    pub fn has_injected_all(&self) -> bool {
        self.injected.len() == self.faults.len()
    }

    /// A short injection of another fault against another node, to happen during the outage of the
    /// first or during the recovery from it. `None` if the faults of the run have none to offer.
    fn second(&mut self, first: &Injection<F, N, T, A>) -> Option<Injection<F, N, T, A>> {
        let accompanying = self.accompanying.as_mut()?;
        let mut second = (0..DRAWS_MAX).find_map(|_| {
            let fault = accompanying.draw(&mut self.rng);
            let injection = self.faults[fault].source.next(&mut self.rng);
            let differs = injection.fault != first.fault && injection.target != first.target;
            differs.then_some(injection)
        })?;
        second.delay = Duration::from_millis(self.rng.random_range(0..150));
        second.action.accompany(&mut self.rng);
        Some(second)
    }
}

impl<F: Copy + Ord, N: PartialEq, T, A: Action> Iterator for Schedule<F, N, T, A> {
    type Item = Injection<F, N, T, A>;

    fn next(&mut self) -> Option<Self::Item> {
        let fault = self.retry.pop().unwrap_or_else(|| self.round.draw(&mut self.rng));
        let mut injection = self.faults[fault].source.next(&mut self.rng);
        if self.quick > 0 {
            self.quick -= 1;
            injection.skip_recovery = true;
            injection.action.shorten(QUICK);
            if self.faults.len() > MANY_FAULTS {
                injection.delay = QUICK.min(injection.delay);
            }
        } else if injection.action.outage() >= SECOND_INJECTION_MIN && self.rng.random_bool(0.75) {
            injection.meanwhile = self.second(&injection).map(Box::new);
        } else if self.rng.random_bool(0.25) {
            injection.then = self.second(&injection).map(Box::new);
        }
        Some(injection)
    }
}
