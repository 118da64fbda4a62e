//! Queues: unique elements are put in and taken out, and at the end everything is taken out.

use history::Function;

use super::{Dice, FinalRead, FinalReader, LoadShape, Workload, objects, paced};
use crate::{request::Request, workload::RequestSource};

pub(super) struct Queue;

impl Workload for Queue {
    fn name(&self) -> &'static str {
        "queue"
    }

    fn functions(&self) -> &'static [Function] {
        &[Function::Enqueue, Function::Dequeue]
    }

    fn source(&self, seed: u64, worker: u32, load: &LoadShape) -> Box<dyn RequestSource> {
        Box::new(Source { dice: Dice::new(seed, worker, load) })
    }

    fn final_reads(&self, load: &LoadShape) -> Vec<FinalRead> {
        let drain = |key| FinalRead {
            request: Request::new(Function::Dequeue, key),
            reader: FinalReader::One,
            // Until the queue says that it is empty.
            next: Some(|request, value| match value {
                None | Some("null") => None,
                Some(_) => Some(request.clone()),
            }),
        };
        objects("q", load).map(drain).collect()
    }
}

struct Source {
    dice: Dice,
}

impl RequestSource for Source {
    fn next_request(&mut self, _process: u64) -> Request {
        let key = self.dice.object("q");
        match self.dice.percent(55) {
            true => Request::with(Function::Enqueue, key, self.dice.unique()),
            false => Request::new(Function::Dequeue, key),
        }
    }

    paced!();
}
