//! The forces that the store has not reported as done. A disk that hangs reports nothing, so their age is the only sign
//! of it. Does not know the store.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::protocol::Lsn;

/// The steps in which the age of the oldest force is reported: a force of a healthy disk takes less than one.
const AGE_STEP: Duration = Duration::from_millis(250);

/// The forces under way, and a count of those that are done.
#[derive(Debug, Default)]
pub(super) struct Forces {
    /// Everything up to here was reported as durable.
    durable: Lsn,
    /// In the order of their positions.
    under_way: VecDeque<(Lsn, Instant)>,
    done: u64,
    /// The time that those took, from the request to the report.
    time: Duration,
    /// The age that was reported last.
    reported: Duration,
}

impl Forces {
    /// A force up to this position was requested. One of what is durable already is never reported as done.
    pub(super) fn begin(&mut self, lsn: Lsn, now: Instant) {
        if lsn > self.durable && self.under_way.back().is_none_or(|(last, _)| *last < lsn) {
            self.under_way.push_back((lsn, now));
        }
    }

    /// Everything up to this position is durable.
    pub(super) fn persisted(&mut self, lsn: Lsn, now: Instant) {
        self.durable = lsn;
        while let Some((_, begun)) = self.under_way.front().filter(|(up_to, _)| *up_to <= lsn) {
            self.done += 1;
            self.time += now.saturating_duration_since(*begun);
            self.under_way.pop_front();
        }
    }

    /// The age of the oldest force in whole steps, if it differs from the one reported last.
    pub(super) fn new_age(&mut self, now: Instant) -> Option<Duration> {
        let oldest = self.under_way.front();
        let age = oldest.map_or(Duration::ZERO, |(_, begun)| now.saturating_duration_since(*begun));
        let steps = u32::try_from(age.as_millis() / AGE_STEP.as_millis()).unwrap_or(u32::MAX);
        let age = AGE_STEP.saturating_mul(steps);
        (std::mem::replace(&mut self.reported, age) != age).then_some(age)
    }

    /// The number of forces that are done, and the time that they took together.
    pub(super) fn done(&self) -> (u64, Duration) {
        (self.done, self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_is_that_of_the_oldest_force_and_is_reported_when_it_changes() {
        let mut forces = Forces::default();
        let begun = Instant::now();
        let ms = |ms| begun + Duration::from_millis(ms);
        assert_eq!(forces.new_age(ms(0)), None);
        forces.begin(7, ms(0));
        forces.begin(9, ms(100));
        assert_eq!(forces.new_age(ms(249)), None, "a healthy disk");
        assert_eq!(forces.new_age(ms(600)), Some(Duration::from_millis(500)));
        assert_eq!(forces.new_age(ms(700)), None);
        forces.persisted(8, ms(700));
        assert_eq!(forces.new_age(ms(701)), None, "the next one is as old");
        forces.persisted(9, ms(800));
        assert_eq!(forces.new_age(ms(900)), Some(Duration::ZERO));
        assert_eq!(forces.done(), (2, Duration::from_millis(1400)));
        forces.begin(9, ms(1000));
        assert_eq!(forces.new_age(ms(9000)), None, "it was durable already");
    }
}
