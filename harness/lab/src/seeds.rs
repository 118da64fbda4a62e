//! Random number streams derived from the seed of a run. Each consumer has a stream of its own, so
//! that more faults do not change what the clients do.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The stream of worker `worker`. Streams of one cipher do not overlap.
#[must_use]
pub fn worker_rng(seed: u64, worker: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(worker);
    rng
}

/// The stream of fault injection into the nodes.
#[must_use]
pub fn nemesis_rng(seed: u64) -> ChaCha8Rng {
    worker_rng(seed, u64::MAX)
}

/// The stream of fault injection into the network.
#[must_use]
pub fn network_rng(seed: u64) -> ChaCha8Rng {
    worker_rng(seed, u64::MAX - 2)
}

/// The stream of the options of a run that are left to its seed.
#[must_use]
pub fn options_rng(seed: u64) -> ChaCha8Rng {
    worker_rng(seed, u64::MAX - 3)
}

/// The stream that chooses the sizes of a worker's values, and what they consist of.
#[must_use]
pub fn payload_rng(seed: u64, worker: u32) -> ChaCha8Rng {
    worker_rng(seed, PAYLOAD_STREAMS | u64::from(worker))
}

/// The first of the streams of [`payload_rng`].
const PAYLOAD_STREAMS: u64 = 1 << 32;

/// The seeds of `count` consecutive runs. The first is `seed` itself, so that a single run equals
/// the first of many.
pub fn run_seeds(seed: u64, count: u32) -> impl Iterator<Item = u64> {
    let mut rng = worker_rng(seed, u64::MAX - 1);
    (0..count).map(move |run| if run == 0 { seed } else { u64::from(rng.random::<u32>()) })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_single_run_equals_the_first_of_many() {
        let seeds: Vec<_> = run_seeds(99, 20).collect();
        assert_eq!(seeds[0], 99);
        assert_eq!(seeds, run_seeds(99, 20).collect::<Vec<_>>());
        assert_eq!(seeds.iter().collect::<HashSet<_>>().len(), 20);
    }
}
