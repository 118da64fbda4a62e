//! Logs: unique elements are appended, and consumers read from an offset on.

use std::collections::BTreeMap;

use history::Function;
use serde_json::Value as Json;

use super::{Dice, FinalRead, FinalReader, LoadShape, Workload, objects, paced};
use crate::{client::Answer, request::Request, workload::RequestSource};

pub(super) struct Log;

impl Workload for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn functions(&self) -> &'static [Function] {
        &[Function::Append, Function::Poll]
    }

    fn source(&self, seed: u64, worker: u32, load: &LoadShape) -> Box<dyn RequestSource> {
        Box::new(Source { dice: Dice::new(seed, worker, load), next: BTreeMap::new() })
    }

    fn final_reads(&self, load: &LoadShape) -> Vec<FinalRead> {
        let read = |key| FinalRead {
            request: Request::with(Function::Poll, key, 0),
            reader: FinalReader::EachNode,
            next: Some(|request, value| {
                let next = next_offset(value?)?;
                Some(Request::with(Function::Poll, request.key.clone(), next))
            }),
        };
        objects("l", load).map(read).collect()
    }
}

/// The offset after the last record of an answer. `None` if there is none.
fn next_offset(records: &str) -> Option<u64> {
    let records: Vec<(u64, Json)> = serde_json::from_str(records).ok()?;
    records.iter().map(|(offset, _)| offset + 1).max()
}

struct Source {
    dice: Dice,
    /// The offset from which this worker reads next.
    next: BTreeMap<String, u64>,
}

impl RequestSource for Source {
    fn next_request(&mut self, _process: u64) -> Request {
        let key = self.dice.object("l");
        if self.dice.percent(60) {
            return Request::with(Function::Append, key, self.dice.unique());
        }
        let from = self.next.get(&key).copied().unwrap_or(0);
        Request::with(Function::Poll, key, from)
    }

    fn observe(&mut self, request: &Request, answer: &Answer) {
        if let (Function::Poll, Answer::Ok { value: Some(records), .. }) = (request.f, answer)
            && let Some(next) = next_offset(records)
        {
            self.next.insert(request.key.clone(), next);
        }
    }

    paced!();
}
