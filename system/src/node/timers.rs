//! The timers of a machine. Does not know their purpose.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::protocol::TimerId;

/// The resolution at which an idle node wakes up for timers, so that it does not wake for each of
/// thousands that no longer matter.
const TICK: Duration = Duration::from_millis(10);

/// A set of timers.
///
/// There are many timers of few different durations, and most no longer matter when they expire. So
/// the timers of each duration are in a queue, in which they expire in the order in which they were
/// set.
#[derive(Debug)]
pub(crate) struct Timers {
    /// The origin of the ticks.
    origin: Instant,
    /// The expiry of each timer. Ordered, because timers of neighbouring transactions are set and
    /// expire close together, which is good for the cache.
    ends: BTreeMap<TimerId, Instant>,
    /// By duration. An entry whose expiry differs from the one in `ends` was set again since.
    queues: BTreeMap<Duration, VecDeque<(Instant, TimerId)>>,
}

impl Timers {
    /// Creates an empty set. `now` is the origin of the ticks.
    pub(crate) fn new(now: Instant) -> Self {
        Timers { origin: now, ends: BTreeMap::new(), queues: BTreeMap::new() }
    }

    /// Sets a timer, or resets it. `now` must not decrease.
    pub(crate) fn set(&mut self, id: TimerId, now: Instant, after: Duration) {
        let end = now + after;
        self.ends.insert(id, end);
        self.queues.entry(after).or_default().push_back((end, id));
    }

    /// When to check for expired timers: at most one tick after the next one expires.
    pub(crate) fn next(&self) -> Option<Instant> {
        let end = self.queues.values().filter_map(|queue| Some(queue.front()?.0)).min()?;
        let ticks = (end - self.origin).as_millis() / TICK.as_millis() + 1;
        let since = u64::try_from(ticks * TICK.as_millis()).unwrap_or(u64::MAX);
        Some(self.origin + Duration::from_millis(since))
    }

    /// Removes and returns an expired timer, the earliest first.
    pub(crate) fn take(&mut self, now: Instant) -> Option<TimerId> {
        loop {
            let fronts = self.queues.values_mut().filter(|queue| !queue.is_empty());
            let queue = fronts.min_by_key(|queue| queue[0])?;
            let (end, id) = queue[0];
            if end > now {
                return None;
            }
            queue.pop_front();
            if self.ends.get(&id) == Some(&end) {
                self.ends.remove(&id);
                return Some(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::TxnId;

    #[test]
    fn timers_expire_in_order_and_can_be_reset() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let [a, b] = [1, 2].map(|seq| TimerId::VoteTimeout(TxnId::new(1, seq)));
        let mut timers = Timers::new(start);
        timers.set(a, start, ms(10));
        timers.set(b, start, ms(20));
        timers.set(TimerId::Heartbeat, start, ms(15));
        timers.set(a, start, ms(30));
        assert_eq!(timers.take(start + ms(14)), None);
        assert_eq!(timers.next(), Some(start + ms(20)), "one wake-up for both timers of this tick");
        assert_eq!(timers.take(start + ms(25)), Some(TimerId::Heartbeat));
        assert_eq!(timers.take(start + ms(25)), Some(b));
        assert_eq!(timers.take(start + ms(25)), None);
        assert_eq!(timers.take(start + ms(30)), Some(a));
        assert_eq!(timers.next(), None);
    }
}
