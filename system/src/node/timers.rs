//! The timers of a machine, by the clock. Knows nothing of what they are for.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::protocol::TimerId;

/// Timers that have run out are looked for this often at most, if nothing else is to be done: a
/// node does not wake for each of thousands that nobody needs any more.
const TICK: Duration = Duration::from_millis(10);

/// Timers that are set, each once.
///
/// There are many, of few different periods, and hardly one runs out before nobody needs it any
/// more: so those of one period wait in a queue, in which they run out in the order in which they
/// were set.
#[derive(Debug)]
pub(crate) struct Timers {
    /// Ticks count from here.
    origin: Instant,
    /// Ordered, for timers of neighbouring transactions are set and run out one after the other:
    /// so what is touched is nearly always at hand.
    ends: BTreeMap<TimerId, Instant>,
    /// By period. What is not in `ends` with the same end was set anew since.
    queues: BTreeMap<Duration, VecDeque<(Instant, TimerId)>>,
}

impl Timers {
    /// No timer is set. Ticks count from `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Timers { origin: now, ends: BTreeMap::new(), queues: BTreeMap::new() }
    }

    /// Sets a timer, anew if it was set. `now` never goes back.
    pub(crate) fn set(&mut self, id: TimerId, now: Instant, after: Duration) {
        let end = now + after;
        self.ends.insert(id, end);
        self.queues.entry(after).or_default().push_back((end, id));
    }

    /// When to look for the next timer that has run out: none does so more than a tick before.
    pub(crate) fn next(&self) -> Option<Instant> {
        let end = self.queues.values().filter_map(|queue| Some(queue.front()?.0)).min()?;
        let ticks = (end - self.origin).as_millis() / TICK.as_millis() + 1;
        let since = u64::try_from(ticks * TICK.as_millis()).unwrap_or(u64::MAX);
        Some(self.origin + Duration::from_millis(since))
    }

    /// Takes a timer that has run out, the earliest first.
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
    fn timers_run_out_in_order_and_can_be_set_anew() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let [a, b] = [1, 2].map(|seq| TimerId::VoteTimeout(TxnId::new(1, seq)));
        let mut timers = Timers::new(start);
        timers.set(a, start, ms(10));
        timers.set(b, start, ms(20));
        timers.set(TimerId::Heartbeat, start, ms(15));
        timers.set(a, start, ms(30));
        assert_eq!(timers.take(start + ms(14)), None);
        assert_eq!(timers.next(), Some(start + ms(20)), "one look for both of this tick");
        assert_eq!(timers.take(start + ms(25)), Some(TimerId::Heartbeat));
        assert_eq!(timers.take(start + ms(25)), Some(b));
        assert_eq!(timers.take(start + ms(25)), None);
        assert_eq!(timers.take(start + ms(30)), Some(a));
        assert_eq!(timers.next(), None);
    }
}
