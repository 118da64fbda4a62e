//! Registers: reads and writes of unique values, and compare-and-set in the workload `cas-register`.

use std::collections::BTreeMap;

use history::Function;
use serde_json::json;

use super::{Dice, FinalRead, LoadShape, Workload, objects, paced};
use crate::{client::Answer, request::Request, workload::RequestSource};

pub(super) struct Register {
    pub(super) with_cas: bool,
}

impl Workload for Register {
    fn name(&self) -> &'static str {
        if self.with_cas { "cas-register" } else { "register" }
    }

    fn functions(&self) -> &'static [Function] {
        match self.with_cas {
            true => &[Function::Get, Function::Put, Function::Cas],
            false => &[Function::Get, Function::Put],
        }
    }

    fn source(&self, seed: u64, worker: u32, load: &LoadShape) -> Box<dyn RequestSource> {
        let dice = Dice::new(seed, worker, load);
        Box::new(Source { dice, with_cas: self.with_cas, seen: BTreeMap::new() })
    }

    fn final_reads(&self, load: &LoadShape) -> Vec<FinalRead> {
        let read = |key| FinalRead::at_each_node(Request::new(Function::Get, key));
        objects("k", load).map(read).collect()
    }
}

struct Source {
    dice: Dice,
    with_cas: bool,
    /// The value that this worker last saw in each key: a good guess of what a cas may expect.
    seen: BTreeMap<String, String>,
}

impl RequestSource for Source {
    fn next_request(&mut self, _process: u64) -> Request {
        let key = self.dice.object("k");
        if self.dice.percent(self.dice.load.reads) {
            return Request::new(Function::Get, key);
        }
        let value = self.dice.unique().to_string();
        if self.with_cas && self.dice.percent(60) {
            let expected = self.seen.get(&key);
            let pair = json!([expected, value]);
            return Request::with(Function::Cas, key, pair);
        }
        Request::with(Function::Put, key, value)
    }

    fn observe(&mut self, request: &Request, answer: &Answer) {
        let Answer::Ok { value, .. } = answer else { return };
        let seen = match request.f {
            Function::Get => value.clone(),
            Function::Put => request.value.clone(),
            Function::Cas => {
                let pair =
                    request.value.as_deref().map(serde_json::from_str::<[Option<String>; 2]>);
                pair.and_then(Result::ok).and_then(|[_, new]| new)
            }
            _ => None,
        };
        match seen {
            Some(value) => drop(self.seen.insert(request.key.clone(), value)),
            None => drop(self.seen.remove(&request.key)),
        }
    }

    paced!();
}
