//! Locks: workers take locks and release them.

use std::ops::Range;

use history::Function;
use rand::RngExt as _;

use super::{Dice, FinalRead, LoadShape, Workload};
use crate::{client::Answer, request::Request, workload::RequestSource};

/// How long a lock is held now and then, in milliseconds.
const HELD_LONG_MS: Range<u64> = 1_000..6_000;
/// Of how many percent of the holdings.
const HELD_LONG_PERCENT: u32 = 20;

pub(super) struct Lock;

impl Workload for Lock {
    fn name(&self) -> &'static str {
        "lock"
    }

    fn functions(&self) -> &'static [Function] {
        &[Function::Lock, Function::Unlock]
    }

    fn source(&self, seed: u64, worker: u32, load: &LoadShape) -> Box<dyn RequestSource> {
        // More locks than half the clients would never meet two of them.
        let keys = load.keys.min((load.concurrency / 3).max(1));
        let load = LoadShape { keys, ..*load };
        Box::new(Source { dice: Dice::new(seed, worker, &load), held: None })
    }

    fn final_reads(&self, _load: &LoadShape) -> Vec<FinalRead> {
        Vec::new()
    }
}

struct Source {
    dice: Dice,
    /// The lock that this worker holds.
    held: Option<String>,
}

impl RequestSource for Source {
    fn next_request(&mut self, _process: u64) -> Request {
        match &self.held {
            Some(key) => Request::new(Function::Unlock, key.clone()),
            None => Request::new(Function::Lock, self.dice.object("m")),
        }
    }

    fn observe(&mut self, request: &Request, answer: &Answer) {
        match (request.f, answer) {
            (Function::Lock, Answer::Ok { .. }) => self.held = Some(request.key.clone()),
            // After an unknown outcome the worker goes on as another process, which holds nothing.
            (_, Answer::Info { .. }) | (Function::Unlock, Answer::Ok { .. }) => self.held = None,
            // It may be that the lock was lost, so that it can never be released.
            (Function::Unlock, Answer::Fail { unavailable: false, .. }) => self.held = None,
            _ => {}
        }
    }

    fn pause(&mut self) -> std::time::Duration {
        // A lock is held for a while, so that others find it held; now and then for so long that a lease runs
        // out that is not kept alive, as by a holder that is stopped.
        let held = match self.held {
            None => 0,
            Some(_) if self.dice.percent(HELD_LONG_PERCENT) => {
                self.dice.rng.random_range(HELD_LONG_MS)
            }
            Some(_) => 5,
        };
        self.dice.pause().max(std::time::Duration::from_millis(held))
    }

    fn backoff(&mut self) -> std::time::Duration {
        self.dice.backoff()
    }
}
