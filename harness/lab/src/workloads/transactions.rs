//! Transactions on several keys: on lists (`append`), which show the order of their writes, or on registers
//! (`rw`).
//!
//! Lists are to stay short, since they are read as a whole. So keys are used for a while and then left: in
//! its n-th *epoch* a worker draws from the n-th group of keys.

use history::Function;
use rand::RngExt;
use serde_json::{Value as Json, json};

use super::{Dice, FinalRead, LoadShape, Workload, paced};
use crate::{request::Request, workload::RequestSource};

/// The most steps of a transaction.
const STEPS_MAX: u32 = 4;

/// How often a key is written, about, before it is left.
const WRITES_PER_KEY: u32 = 32;

/// How many keys a final read returns at once. Systems limit the size of a transaction.
const KEYS_AT_ONCE: u32 = 64;

/// What histories have as the key of a transaction.
const KEY: &str = "txn";

pub(super) struct Transactions {
    pub(super) on_registers: bool,
}

impl Workload for Transactions {
    fn name(&self) -> &'static str {
        if self.on_registers { "rw" } else { "append" }
    }

    fn functions(&self) -> &'static [Function] {
        &[Function::Txn]
    }

    fn source(&self, seed: u64, worker: u32, load: &LoadShape) -> Box<dyn RequestSource> {
        let write = if self.on_registers { "w" } else { "append" };
        // Half of the steps write, and a transaction has two and a half.
        let writes = WRITES_PER_KEY * load.keys * 4 / 5;
        let transactions_per_epoch = (writes / load.concurrency).max(1);
        let dice = Dice::new(seed, worker, load);
        Box::new(Source { dice, write, transactions: 0, transactions_per_epoch })
    }

    fn final_reads(&self, _load: &LoadShape) -> Vec<FinalRead> {
        let reads = FinalRead::at_each_node(reads(0));
        vec![FinalRead { next: Some(following_reads), ..reads }]
    }
}

fn key(number: u32) -> String {
    format!("k{number}")
}

/// Reads of keys from this one on.
fn reads(first: u32) -> Request {
    let steps: Json = (first..first + KEYS_AT_ONCE).map(|n| json!(["r", key(n), null])).collect();
    Request::with(Function::Txn, KEY, steps)
}

/// The reads that follow, unless none of these keys has a value. If so many keys in a row have lost all of
/// theirs, that is found, and what comes after them is not needed to see it.
fn following_reads(request: &Request, value: Option<&str>) -> Option<Request> {
    let steps: Vec<(String, String, Json)> = serde_json::from_str(value?).ok()?;
    let is_empty = |value: &Json| value.as_array().map_or(value.is_null(), Vec::is_empty);
    if steps.iter().all(|(_, _, value)| is_empty(value)) {
        return None;
    }
    let asked: Vec<(String, String, Json)> =
        serde_json::from_str(request.value.as_deref()?).ok()?;
    let first: u32 = asked.first()?.1.strip_prefix('k')?.parse().ok()?;
    Some(reads(first.checked_add(KEYS_AT_ONCE)?))
}

struct Source {
    dice: Dice,
    /// The name of a write.
    write: &'static str,
    /// Transactions drawn so far.
    transactions: u32,
    transactions_per_epoch: u32,
}

impl RequestSource for Source {
    fn next_request(&mut self, _process: u64) -> Request {
        let keys = self.dice.load.keys;
        let first = self.transactions / self.transactions_per_epoch * keys;
        self.transactions += 1;
        let steps = self.dice.rng.random_range(1..=STEPS_MAX);
        let steps: Json = (0..steps)
            .map(|_| {
                let key = key(first + self.dice.rng.random_range(0..keys));
                match self.dice.percent(50) {
                    true => json!(["r", key, null]),
                    false => json!([self.write, key, self.dice.unique()]),
                }
            })
            .collect();
        Request::with(Function::Txn, KEY, steps)
    }

    paced!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_reads_go_on_until_nothing_is_found() {
        let answer = |values: &[Json]| {
            let steps: Vec<Json> = values.iter().map(|value| json!(["r", "k0", value])).collect();
            json!(steps).to_string()
        };
        let first = reads(0);
        let next = following_reads(&first, Some(&answer(&[json!([]), json!([1])])));
        assert_eq!(next, Some(reads(KEYS_AT_ONCE)));
        assert_eq!(following_reads(&first, Some(&answer(&[json!([]), json!(null)]))), None);
        assert_eq!(following_reads(&first, None), None);
    }
}
