//! Counters: increments and decrements, and reads of the value.

use history::Function;
use rand::RngExt;

use super::{Dice, FinalRead, LoadShape, Workload, objects, paced};
use crate::{request::Request, workload::RequestSource};

pub(super) struct Counter;

impl Workload for Counter {
    fn name(&self) -> &'static str {
        "counter"
    }

    fn functions(&self) -> &'static [Function] {
        &[Function::Inc, Function::Read]
    }

    fn source(&self, seed: u64, worker: u32, load: &LoadShape) -> Box<dyn RequestSource> {
        Box::new(Source { dice: Dice::new(seed, worker, load) })
    }

    fn final_reads(&self, load: &LoadShape) -> Vec<FinalRead> {
        let read = |key| FinalRead::at_each_node(Request::new(Function::Read, key));
        objects("c", load).map(read).collect()
    }
}

struct Source {
    dice: Dice,
}

impl RequestSource for Source {
    fn next_request(&mut self, _process: u64) -> Request {
        let key = self.dice.object("c");
        if self.dice.percent(50) {
            return Request::new(Function::Read, key);
        }
        let amount: i64 = self.dice.rng.random_range(1..=5);
        let amount = if self.dice.percent(20) { -amount } else { amount };
        Request::with(Function::Inc, key, amount)
    }

    paced!();
}
