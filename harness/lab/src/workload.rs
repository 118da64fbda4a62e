//! The workload of a run: a stream of client requests per worker, determined by the seed alone. Pure:
//! without clock, client or history, so that a seed repeats its requests.

use std::{fmt, str::FromStr, time::Duration};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::{client::Answer, request::Request, seeds::worker_rng};

/// A request of a client to the system under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientRequest {
    /// Reads a key.
    Get {
        /// The key to read.
        key: String,
    },
    /// Writes a value that no other request of the run writes.
    Put {
        /// The key to write.
        key: String,
        /// The value, `<process>-<n>`.
        value: String,
    },
    /// Deletes a key.
    Del {
        /// The key to delete.
        key: String,
    },
}

/// A stream of requests for one worker. Pure: what it has seen of the answers and the seed determine
/// it.
pub trait RequestSource: Send {
    /// The next request, to be sent by `process`.
    fn next_request(&mut self, process: u64) -> Request;

    /// Takes note of an answer.
    fn observe(&mut self, _request: &Request, _answer: &Answer) {}

    /// How long to wait before the next request.
    fn pause(&mut self) -> Duration;

    /// How long to wait after a request that found the system unavailable, so that refusals do not
    /// fill the history.
    fn backoff(&mut self) -> Duration;
}

impl RequestSource for Generator {
    fn next_request(&mut self, process: u64) -> Request {
        self.next(process).into()
    }

    fn pause(&mut self) -> Duration {
        Generator::pause(self)
    }

    fn backoff(&mut self) -> Duration {
        Generator::backoff(self)
    }
}

/// The share of each operation in the workload, as weights: `get=50,put=40,del=10`.
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

impl Mix {
    /// How many percent of the operations are reads.
    #[must_use]
    pub fn percent_of_reads(&self) -> u32 {
        100 * self.get / (self.get + self.put + self.del)
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
            let (name, weight) = part.split_once('=').ok_or_else(|| {
                format!("'{part}': expected NAME=WEIGHT, for example get=50,put=40,del=10")
            })?;
            let weight = weight
                .trim()
                .parse()
                .ok()
                .filter(|weight| *weight <= 1_000_000)
                .ok_or_else(|| format!("'{part}': a weight is an integer from 0 to 1000000"))?;
            match name.trim() {
                "get" => mix.get = weight,
                "put" => mix.put = weight,
                "del" => mix.del = weight,
                other => {
                    return Err(format!("'{other}' is not an operation: expected get, put or del"));
                }
            }
        }
        if mix.get + mix.put + mix.del == 0 {
            return Err(format!("'{text}': at least one weight must be greater than 0"));
        }
        Ok(mix)
    }
}

/// The requests of one worker.
#[derive(Clone, Debug)]
pub struct Generator {
    rng: ChaCha8Rng,
    mix: Mix,
    keys: u32,
    /// The mean time between two requests of this worker; `None` for as fast as answers arrive.
    interval: Option<Duration>,
    written: u64,
}

impl Generator {
    /// The generator of one of `concurrency` workers. `rate` is the number of operations per second
    /// of all workers together, 0 for no limit.
    #[must_use]
    pub fn new(seed: u64, worker: u32, concurrency: u32, mix: Mix, keys: u32, rate: f64) -> Self {
        let interval = (rate > 0.0).then(|| Duration::from_secs_f64(f64::from(concurrency) / rate));
        Generator { rng: worker_rng(seed, u64::from(worker)), mix, keys, interval, written: 0 }
    }

    /// The next request, to be sent by `process`. No two workers share a process number, so
    /// `<process>-<n>` is written once in a run.
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

    /// How long to wait before the next request: uniform around the mean, so that workers do not
    /// move in lockstep.
    pub fn pause(&mut self) -> Duration {
        self.interval.map_or(Duration::ZERO, |mean| mean.mul_f64(self.rng.random_range(0.0..2.0)))
    }

    /// How long to wait after a request that found the system unavailable, so that refusals do not
    /// fill the history.
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
        fn a_seed_repeats_its_requests(seed: u64, worker in 0u32..64) {
            prop_assert_eq!(take(seed, worker, 50), take(seed, worker, 50));
        }

        #[test]
        fn workers_and_seeds_have_different_requests(seed: u64, worker in 0u32..64) {
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
                for number in 0..200 {
                    if number % retire_every == 0 {
                        process += u64::from(concurrency);
                    }
                    if let ClientRequest::Put { value, .. } = generator.next(process) {
                        prop_assert!(values.insert(value));
                    }
                }
            }
        }

        #[test]
        fn only_operations_of_the_mix_occur(seed: u64, get in 0u32..3, put in 0u32..3, del in 1u32..3) {
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
        fn a_mix_is_parsed_from_its_text(get in 0u32..100, put in 0u32..100, del in 1u32..100) {
            let mix = Mix { get, put, del };
            prop_assert_eq!(mix.to_string().parse::<Mix>(), Ok(mix));
        }
    }

    #[test]
    fn many_requests_follow_the_mix() {
        let requests = take(7, 0, 10_000);
        let gets = requests.iter().filter(|op| matches!(op, ClientRequest::Get { .. })).count();
        let dels = requests.iter().filter(|op| matches!(op, ClientRequest::Del { .. })).count();
        assert!((4700..5300).contains(&gets), "{gets} gets of 10000");
        assert!((800..1200).contains(&dels), "{dels} dels of 10000");
    }

    #[test]
    fn the_rate_determines_the_mean_pause() {
        let mut generator = Generator::new(7, 0, 10, Mix::default(), 16, 100.0);
        let total: Duration = (0..1000).map(|_| generator.pause()).sum();
        assert!((90..110).contains(&total.as_secs()), "1000 operations in {total:?}");
        let mut unlimited = Generator::new(7, 0, 10, Mix::default(), 16, 0.0);
        assert_eq!(unlimited.pause(), Duration::ZERO);
    }

    #[test]
    fn an_invalid_mix_is_explained() {
        for (text, part) in [
            ("get", "NAME=WEIGHT"),
            ("cas=3", "'cas'"),
            ("get=-1", "get=-1"),
            ("get=0", "greater than 0"),
        ] {
            let error = text.parse::<Mix>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
