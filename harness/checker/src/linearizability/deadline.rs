//! A deadline that is cheap to test in an inner loop.

use std::time::{Duration, Instant};

/// Tests between two readings of the clock.
const TESTS_PER_READING: u32 = 1 << 12;

/// A time limit that counts from its creation.
#[derive(Debug)]
pub(super) struct Deadline {
    start: Instant,
    limit: Duration,
    countdown: u32,
}

impl Deadline {
    pub(super) fn new(limit: Duration) -> Self {
        Deadline { start: Instant::now(), limit, countdown: 0 }
    }

    /// Whether the time is up. Reads the clock at the first call and then rarely.
    pub(super) fn has_passed(&mut self) -> bool {
        if self.countdown > 0 {
            self.countdown -= 1;
            return false;
        }
        self.countdown = TESTS_PER_READING;
        self.start.elapsed() >= self.limit
    }
}
