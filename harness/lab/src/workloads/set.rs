//! Sets: unique elements are added and whole sets read.

use history::Function;

use super::{Dice, FinalRead, LoadShape, Workload, objects, paced};
use crate::{request::Request, workload::RequestSource};

pub(super) struct Set;

impl Workload for Set {
    fn name(&self) -> &'static str {
        "set"
    }

    fn functions(&self) -> &'static [Function] {
        &[Function::Add, Function::Read]
    }

    fn source(&self, seed: u64, worker: u32, load: &LoadShape) -> Box<dyn RequestSource> {
        Box::new(Source { dice: Dice::new(seed, worker, load) })
    }

    fn final_reads(&self, load: &LoadShape) -> Vec<FinalRead> {
        let read = |key| FinalRead::at_each_node(Request::new(Function::Read, key));
        objects("s", load).map(read).collect()
    }
}

struct Source {
    dice: Dice,
}

impl RequestSource for Source {
    fn next_request(&mut self, _process: u64) -> Request {
        let key = self.dice.object("s");
        // Reads return everything, so they are few.
        match self.dice.percent(96) {
            true => Request::with(Function::Add, key, self.dice.unique()),
            false => Request::new(Function::Read, key),
        }
    }

    paced!();
}
