//! What the seed varies in runs of all faults, besides the faults. Some defects show only with impatient timers, with
//! keys that nobody touches for a while, with many clients, or with large numbers. Does not know what the user asks for.

use crate::{Timings, faults::Faults};

/// The load of a run and the parameters of its nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variation {
    /// The number of concurrent clients.
    pub concurrency: u32,
    /// The number of keys.
    pub keys: u32,
    /// Operations per second of all clients together, 0 for no limit.
    pub rate: f64,
    /// Timing parameters of the nodes that differ from the defaults, as on the command line.
    pub timings: &'static str,
    /// The transactions of each epoch are numbered from the next number on.
    pub sequence_above: u64,
}

/// Seeds take turns, so that as many consecutive ones as there are variations meet all.
const VARIATIONS: [Variation; 4] = [
    Variation::USUAL,
    // Replicas ask each other while votes are still waited for, and reads meet many locks. Numbers pass 2^32 early
    // in the run, and so does each half of them that is 16 bits wide.
    Variation {
        concurrency: 30,
        timings: "inquiry_timeout_ms=100,peer_inquiry_after=1,vote_timeout_ms=4000",
        sequence_above: (1 << 32) - 200,
        ..Variation::USUAL
    },
    // Each write and read of a key repeats what its replicas have not acknowledged, so keys must rest. A replica can
    // be paused for longer than the vote timeout, and for too short to be given up.
    Variation {
        keys: 400,
        rate: 150.0,
        timings: "vote_timeout_ms=100,heartbeat_ms=500",
        ..Variation::USUAL
    },
    // With as many requests as 100 clients can send, the machine would be busy with them and not with faults.
    Variation { concurrency: 100, keys: 1_000, rate: 500.0, ..Variation::USUAL },
];

impl Variation {
    /// What a run has if its seed varies nothing.
    pub const USUAL: Variation =
        Variation { concurrency: 10, keys: 16, rate: 0.0, timings: "", sequence_above: 0 };

    /// The variation of a run with these faults and this seed: only runs of all faults vary.
    #[must_use]
    pub fn of(faults: &Faults, seed: u64) -> Variation {
        if faults.are_all() { Variation::of_seed(seed) } else { Variation::USUAL }
    }

    fn of_seed(seed: u64) -> Variation {
        VARIATIONS[usize::try_from(seed % VARIATIONS.len() as u64).expect("an index")]
    }

    /// The timing parameters.
    ///
    /// # Panics
    /// They do not exist, which a test of each place that names some rules out.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.timings.parse().expect("these parameters exist")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variation_can_be_used() {
        for seed in 0..VARIATIONS.len() as u64 {
            let variation = Variation::of_seed(seed);
            assert_eq!(variation.timings().to_string(), variation.timings);
        }
        assert_eq!(Variation::of_seed(4), Variation::USUAL);
        // Timings parse what the user may write, so a variation is equal to the same options by hand.
        assert_ne!(Variation::of_seed(1).timings(), Timings::default());
    }
}
