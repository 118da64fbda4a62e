//! The timers of a machine, by the clock. Knows nothing of what they are for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::protocol::TimerId;

/// Timers that are set, each once.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    ends: BTreeMap<TimerId, Instant>,
    queue: BTreeSet<(Instant, TimerId)>,
}

impl Timers {
    /// Sets a timer, anew if it was set.
    pub(crate) fn set(&mut self, id: TimerId, now: Instant, after: Duration) {
        let end = now + after;
        if let Some(before) = self.ends.insert(id, end) {
            self.queue.remove(&(before, id));
        }
        self.queue.insert((end, id));
    }

    /// When the next timer runs out.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(end, _)| *end)
    }

    /// Takes a timer that has run out, the earliest first.
    pub(crate) fn take(&mut self, now: Instant) -> Option<TimerId> {
        let (end, id) = self.queue.first().copied().filter(|(end, _)| *end <= now)?;
        self.queue.remove(&(end, id));
        self.ends.remove(&id);
        Some(id)
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
        let [a, b] = [1, 2].map(|seq| TimerId::Vote(TxnId::new(1, seq)));
        let mut timers = Timers::default();
        timers.set(a, start, ms(10));
        timers.set(b, start, ms(20));
        timers.set(TimerId::Heartbeat, start, ms(15));
        timers.set(a, start, ms(30));
        assert_eq!(timers.next(), Some(start + ms(15)));
        assert_eq!(timers.take(start + ms(14)), None);
        assert_eq!(timers.take(start + ms(25)), Some(TimerId::Heartbeat));
        assert_eq!(timers.take(start + ms(25)), Some(b));
        assert_eq!(timers.take(start + ms(25)), None);
        assert_eq!(timers.take(start + ms(30)), Some(a));
        assert_eq!(timers.next(), None);
    }
}
