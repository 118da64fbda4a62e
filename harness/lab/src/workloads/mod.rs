//! The workloads that any system can be tested with: what clients do, drawn from the seed, and what is
//! read at the end. Pure: without clock, client or history. What a correct answer is, only the checks
//! know.

mod bank;
mod counter;
mod lock;
mod log;
mod queue;
mod register;
mod set;
mod transactions;

use std::time::Duration;

use history::Function;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value as Json};

use crate::{request::Request, seeds::worker_rng, workload::RequestSource};

pub use self::bank::{ACCOUNTS, OPENING_BALANCE};

/// The load of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadShape {
    /// The number of clients.
    pub concurrency: u32,
    /// The number of keys, or of other objects.
    pub keys: u32,
    /// Operations per second of all clients together, 0 for as fast as answers arrive.
    pub rate: f64,
    /// How many percent of the operations on registers are reads.
    pub reads: u32,
}

impl Default for LoadShape {
    fn default() -> Self {
        LoadShape { concurrency: 10, keys: 16, rate: 0.0, reads: 50 }
    }
}

/// Who makes a final read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalReader {
    /// A client of each node.
    EachNode,
    /// One client.
    One,
}

/// The request that follows an answer, given the value of the answer if it was ok. `None`: there is no other.
pub type NextRequest = fn(&Request, Option<&str>) -> Option<Request>;

/// What is asked once everything is healed.
#[derive(Clone, Debug)]
pub struct FinalRead {
    /// The first request.
    pub request: Request,
    /// Who sends it.
    pub reader: FinalReader,
    /// The request that follows an answer. `None`: there is only the first one.
    pub next: Option<NextRequest>,
}

impl FinalRead {
    fn at_each_node(request: Request) -> Self {
        FinalRead { request, reader: FinalReader::EachNode, next: None }
    }
}

/// A workload.
pub trait Workload: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// What clients must be able to do.
    fn functions(&self) -> &'static [Function];

    /// The requests of one worker.
    fn source(&self, seed: u64, worker: u32, load: &LoadShape) -> Box<dyn RequestSource>;

    /// What is read at the end.
    fn final_reads(&self, load: &LoadShape) -> Vec<FinalRead>;

    /// What a client must know to prepare the system, such as opening balances.
    fn options(&self) -> Map<String, Json> {
        Map::new()
    }
}

/// Every workload.
pub const ALL: [&dyn Workload; 10] = [
    &register::Register { with_cas: false },
    &register::Register { with_cas: true },
    &set::Set,
    &counter::Counter,
    &queue::Queue,
    &log::Log,
    &bank::Bank,
    &lock::Lock,
    &transactions::Transactions { on_registers: false },
    &transactions::Transactions { on_registers: true },
];

/// The workload of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static dyn Workload> {
    ALL.into_iter().find(|workload| workload.name() == name)
}

/// The names of all workloads, for messages.
#[must_use]
pub fn names() -> String {
    ALL.map(Workload::name).join(", ")
}

impl RequestSource for Box<dyn RequestSource> {
    fn next_request(&mut self, process: u64) -> Request {
        (**self).next_request(process)
    }

    fn observe(&mut self, request: &Request, answer: &crate::client::Answer) {
        (**self).observe(request, answer);
    }

    fn pause(&mut self) -> Duration {
        (**self).pause()
    }

    fn backoff(&mut self) -> Duration {
        (**self).backoff()
    }
}

/// What every source draws from.
struct Dice {
    rng: ChaCha8Rng,
    load: LoadShape,
    worker: u32,
    /// Unique numbers drawn so far.
    drawn: u64,
}

impl Dice {
    fn new(seed: u64, worker: u32, load: &LoadShape) -> Self {
        Dice { rng: worker_rng(seed, worker.into()), load: *load, worker, drawn: 0 }
    }

    /// The name of a random object.
    fn object(&mut self, prefix: &str) -> String {
        format!("{prefix}{}", self.rng.random_range(0..self.load.keys))
    }

    /// A number that no other draw of any worker returns, from 1.
    fn unique(&mut self) -> u64 {
        let unique = self.drawn * u64::from(self.load.concurrency) + u64::from(self.worker) + 1;
        self.drawn += 1;
        unique
    }

    /// Whether something of this many percent happens.
    fn percent(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// How long to wait before the next request: uniform around the mean, so that workers do not move in
    /// lockstep.
    fn pause(&mut self) -> Duration {
        if self.load.rate <= 0.0 {
            return Duration::ZERO;
        }
        let mean = Duration::from_secs_f64(f64::from(self.load.concurrency) / self.load.rate);
        mean.mul_f64(self.rng.random_range(0.0..2.0))
    }

    fn backoff(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(20..80))
    }
}

/// The names of all objects.
fn objects(prefix: &'static str, load: &LoadShape) -> impl Iterator<Item = String> {
    (0..load.keys).map(move |n| format!("{prefix}{n}"))
}

/// Implements what sources have in common.
macro_rules! paced {
    () => {
        fn pause(&mut self) -> std::time::Duration {
            self.dice.pause()
        }

        fn backoff(&mut self) -> std::time::Duration {
            self.dice.backoff()
        }
    };
}
use paced;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::client::Answer;

    fn take(workload: &dyn Workload, seed: u64, worker: u32, count: usize) -> Vec<Request> {
        let load = LoadShape { concurrency: 12, ..LoadShape::default() };
        let mut source = workload.source(seed, worker, &load);
        (0..count)
            .map(|n| {
                let request = source.next_request(worker.into());
                let value = request.f.returns_value().then(|| "null".to_owned());
                let answer = match n % 3 {
                    0 => Answer::info("lost"),
                    1 => Answer::Fail { error: "no".to_owned(), unavailable: false },
                    _ => Answer::Ok { version: None, value },
                };
                source.observe(&request, &answer);
                request
            })
            .collect()
    }

    proptest! {
        #[test]
        fn a_seed_repeats_its_requests_and_another_does_not(seed: u64, worker in 0u32..4) {
            for workload in ALL {
                let requests = take(workload, seed, worker, 60);
                prop_assert_eq!(&requests, &take(workload, seed, worker, 60));
                prop_assert_ne!(&requests, &take(workload, seed.wrapping_add(1), worker, 60));
                for request in requests {
                    prop_assert!(workload.functions().contains(&request.f), "{:?}", request);
                    prop_assert!(!request.f.needs_value() || request.value.is_some());
                }
            }
        }

        #[test]
        fn what_is_written_is_unique(seed: u64) {
            for name in ["register", "set", "queue", "log"] {
                let workload = find(name).expect("it is built in");
                let mut written = BTreeSet::new();
                for worker in 0..4 {
                    for request in take(workload, seed, worker, 100) {
                        if request.f.needs_value() {
                            prop_assert!(written.insert(request.value), "{name}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_workload_draws_each_of_its_functions() {
        for workload in ALL {
            let drawn: BTreeSet<Function> =
                take(workload, 1, 0, 300).into_iter().map(|request| request.f).collect();
            let finally = workload.final_reads(&LoadShape::default());
            let all: BTreeSet<Function> =
                drawn.into_iter().chain(finally.into_iter().map(|read| read.request.f)).collect();
            assert_eq!(all, workload.functions().iter().copied().collect(), "{}", workload.name());
        }
    }
}
