//! What a worker asks next: a stream of operations that is a function of the seed alone.
//! Pure: knows no clock, no client and no history, so that a seed repeats what was asked.

use std::{fmt, str::FromStr, time::Duration};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One thing to ask of the system under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientRequest {
    /// Read a key.
    Get {
        /// What to read.
        key: String,
    },
    /// Write a value that no other operation of the run writes.
    Put {
        /// What to write.
        key: String,
        /// `<process>-<n>`.
        value: String,
    },
    /// Delete a key.
    Del {
        /// What to delete.
        key: String,
    },
}

/// How often each kind of operation is asked, as weights: `get=50,put=40,del=10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// The weight of gets.
    pub get: u32,
    /// The weight of puts.
    pub put: u32,
    /// The weight of dels.
    pub del: u32,
}

impl Default for Mix {
    fn default() -> Self {
        Mix { get: 50, put: 40, del: 10 }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "get={},put={},del={}", self.get, self.put, self.del)
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut mix = Mix { get: 0, put: 0, del: 0 };
        for part in text.split(',') {
            let (name, weight) = part
                .split_once('=')
                .ok_or_else(|| format!("'{part}': want NAME=WEIGHT, as in get=50,put=40,del=10"))?;
            let weight = weight
                .trim()
                .parse()
                .ok()
                .filter(|weight| *weight <= 1_000_000)
                .ok_or_else(|| format!("'{part}': a weight is a number from 0 to 1000000"))?;
            match name.trim() {
                "get" => mix.get = weight,
                "put" => mix.put = weight,
                "del" => mix.del = weight,
                other => return Err(format!("'{other}' is no operation: want get, put or del")),
            }
        }
        if mix.get + mix.put + mix.del == 0 {
            return Err(format!("'{text}': at least one weight must be above 0"));
        }
        Ok(mix)
    }
}

/// The share of the seed that drives worker `worker`: streams of one cipher, so that they do not
/// overlap.
#[must_use]
pub fn worker_rng(seed: u64, worker: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(worker);
    rng
}

/// The share of the seed that drives the nemesis, apart from that of every worker: more faults
/// must not change what the clients ask.
#[must_use]
pub fn nemesis_rng(seed: u64) -> ChaCha8Rng {
    worker_rng(seed, u64::MAX)
}

/// The same for what is done to the network, beside what is done to the nodes.
#[must_use]
pub fn network_rng(seed: u64) -> ChaCha8Rng {
    worker_rng(seed, u64::MAX - 2)
}

/// The seeds of `count` runs in a row: the first is the given seed itself, so that one run and the
/// first of many are the same.
pub fn run_seeds(seed: u64, count: u32) -> impl Iterator<Item = u64> {
    let mut rng = worker_rng(seed, u64::MAX - 1);
    (0..count).map(move |run| if run == 0 { seed } else { u64::from(rng.random::<u32>()) })
}

/// The operations of one worker.
#[derive(Clone, Debug)]
pub struct Generator {
    rng: ChaCha8Rng,
    mix: Mix,
    keys: u32,
    /// The mean time between two operations of this worker, none for as fast as answers come.
    interval: Option<Duration>,
    written: u64,
}

impl Generator {
    /// The generator of one of `concurrency` workers. `rate` is in operations a second of all
    /// workers together, 0 for no limit.
    #[must_use]
    pub fn new(seed: u64, worker: u32, concurrency: u32, mix: Mix, keys: u32, rate: f64) -> Self {
        let interval = (rate > 0.0).then(|| Duration::from_secs_f64(f64::from(concurrency) / rate));
        Generator { rng: worker_rng(seed, u64::from(worker)), mix, keys, interval, written: 0 }
    }

    /// The next operation, to be asked as `process`. A worker never asks under the process number
    /// of another, so `<process>-<n>` is written once in a run.
    pub fn next(&mut self, process: u64) -> ClientRequest {
        let key = format!("k{}", self.rng.random_range(0..self.keys));
        let Mix { get, put, del } = self.mix;
        let pick = self.rng.random_range(0..get + put + del);
        if pick < get {
            ClientRequest::Get { key }
        } else if pick < get + put {
            let value = format!("{process}-{}", self.written);
            self.written += 1;
            ClientRequest::Put { key, value }
        } else {
            ClientRequest::Del { key }
        }
    }

    /// How long to wait before the next operation: uniform around the mean, so that workers do not
    /// march in step.
    pub fn pause(&mut self) -> Duration {
        self.interval.map_or(Duration::ZERO, |mean| mean.mul_f64(self.rng.random_range(0.0..2.0)))
    }

    /// How long to wait before asking again a system that could not be reached: long enough not to
    /// fill the history with refusals.
    pub fn backoff(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(20..80))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn take(seed: u64, worker: u32, count: usize) -> Vec<ClientRequest> {
        let mut generator = Generator::new(seed, worker, 4, Mix::default(), 16, 0.0);
        (0..count).map(|_| generator.next(u64::from(worker))).collect()
    }

    proptest! {
        #[test]
        fn a_seed_repeats_its_operations(seed: u64, worker in 0u32..64) {
            prop_assert_eq!(take(seed, worker, 50), take(seed, worker, 50));
        }

        #[test]
        fn workers_and_seeds_ask_different_things(seed: u64, worker in 0u32..64) {
            prop_assert_ne!(take(seed, worker, 50), take(seed, worker + 1, 50));
            prop_assert_ne!(take(seed, worker, 50), take(seed.wrapping_add(1), worker, 50));
        }

        #[test]
        fn no_value_is_written_twice(seed: u64, retire_every in 1usize..20) {
            let concurrency = 5;
            let mut values = HashSet::new();
            for worker in 0..concurrency {
                let mut process = u64::from(worker);
                let mut generator = Generator::new(seed, worker, concurrency, Mix::default(), 3, 0.0);
                for asked in 0..200 {
                    if asked % retire_every == 0 {
                        process += u64::from(concurrency);
                    }
                    if let ClientRequest::Put { value, .. } = generator.next(process) {
                        prop_assert!(values.insert(value));
                    }
                }
            }
        }

        #[test]
        fn only_what_the_mix_names_is_asked(seed: u64, get in 0u32..3, put in 0u32..3, del in 1u32..3) {
            let mut generator = Generator::new(seed, 0, 1, Mix { get, put, del }, 2, 0.0);
            for _ in 0..100 {
                match generator.next(0) {
                    ClientRequest::Get { .. } => prop_assert!(get > 0),
                    ClientRequest::Put { .. } => prop_assert!(put > 0),
                    ClientRequest::Del { .. } => prop_assert!(del > 0),
                }
            }
        }

        #[test]
        fn a_mix_survives_its_text(get in 0u32..100, put in 0u32..100, del in 1u32..100) {
            let mix = Mix { get, put, del };
            prop_assert_eq!(mix.to_string().parse::<Mix>(), Ok(mix));
        }
    }

    #[test]
    fn the_mix_is_kept_in_the_long_run() {
        let asked = take(7, 0, 10_000);
        let gets = asked.iter().filter(|op| matches!(op, ClientRequest::Get { .. })).count();
        let dels = asked.iter().filter(|op| matches!(op, ClientRequest::Del { .. })).count();
        assert!((4700..5300).contains(&gets), "{gets} gets of 10000");
        assert!((800..1200).contains(&dels), "{dels} dels of 10000");
    }

    #[test]
    fn a_rate_sets_the_mean_pause() {
        let mut generator = Generator::new(7, 0, 10, Mix::default(), 16, 100.0);
        let total: Duration = (0..1000).map(|_| generator.pause()).sum();
        assert!((90..110).contains(&total.as_secs()), "1000 operations in {total:?}");
        let mut unlimited = Generator::new(7, 0, 10, Mix::default(), 16, 0.0);
        assert_eq!(unlimited.pause(), Duration::ZERO);
    }

    #[test]
    fn the_first_of_many_runs_is_the_single_run() {
        let seeds: Vec<_> = run_seeds(99, 20).collect();
        assert_eq!(seeds[0], 99);
        assert_eq!(seeds, run_seeds(99, 20).collect::<Vec<_>>());
        assert_eq!(seeds.iter().collect::<HashSet<_>>().len(), 20);
    }

    #[test]
    fn a_wrong_mix_is_explained() {
        for (text, part) in
            [("get", "NAME=WEIGHT"), ("cas=3", "'cas'"), ("get=-1", "get=-1"), ("get=0", "above 0")]
        {
            let error = text.parse::<Mix>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
