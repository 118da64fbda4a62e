//! A bank: money is transferred between accounts, and all balances are read at once.

use history::Function;
use rand::RngExt;
use serde_json::{Map, Value as Json, json};

use super::{Dice, FinalRead, LoadShape, Workload, paced};
use crate::{request::Request, workload::RequestSource};

/// The number of accounts, named from `a0` on.
pub const ACCOUNTS: u32 = 8;

/// What each account holds at first.
pub const OPENING_BALANCE: i64 = 50;

/// The name of the object.
const BANK: &str = "bank";

pub(super) struct Bank;

impl Workload for Bank {
    fn name(&self) -> &'static str {
        "bank"
    }

    fn functions(&self) -> &'static [Function] {
        &[Function::Transfer, Function::Read]
    }

    fn source(&self, seed: u64, worker: u32, load: &LoadShape) -> Box<dyn RequestSource> {
        Box::new(Source { dice: Dice::new(seed, worker, load) })
    }

    fn final_reads(&self, _load: &LoadShape) -> Vec<FinalRead> {
        vec![FinalRead::at_each_node(Request::new(Function::Read, BANK))]
    }

    fn options(&self) -> Map<String, Json> {
        let accounts: Vec<String> = (0..ACCOUNTS).map(|n| format!("a{n}")).collect();
        let options = [("accounts", json!(accounts)), ("opening_balance", json!(OPENING_BALANCE))];
        options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

struct Source {
    dice: Dice,
}

impl RequestSource for Source {
    fn next_request(&mut self, _process: u64) -> Request {
        if self.dice.percent(40) {
            return Request::new(Function::Read, BANK);
        }
        let from = self.dice.rng.random_range(0..ACCOUNTS);
        let to = (from + self.dice.rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
        let amount = self.dice.rng.random_range(1..=5);
        let transfer =
            json!({ "from": format!("a{from}"), "to": format!("a{to}"), "amount": amount });
        Request::with(Function::Transfer, BANK, transfer)
    }

    paced!();
}
