//! A bank: transfers move money and make none, so every read of all balances has the same total. Judged if
//! the bank claims to be serializable.

use history::Function;

use super::{Named, Run, is_ok};
use crate::{CheckResult, levels::Level};

/// The name of the check.
const NAME: &str = "bank";

pub(super) fn check(run: &Run<'_>, claim: Level) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let options = &run.description.options;
    let accounts = options.get("accounts").and_then(|accounts| accounts.as_array());
    let opening = options.get("opening_balance").and_then(serde_json::Value::as_i64);
    let (Some(accounts), Some(opening)) = (accounts, opening) else {
        check_result.unknown("test.json names neither the accounts nor their opening balance");
        return check_result;
    };
    // Balances come from outside, so their sum may be any.
    let total = accounts.len() as i128 * i128::from(opening);
    let (mut wrong, mut reads) = (0_u64, 0_u64);
    for read in run.operations.iter().filter(|operation| is_ok(operation, Function::Read)) {
        reads += 1;
        let balances = read.json();
        let balances = balances.as_ref().and_then(|balances| balances.as_object());
        let integer = |balance: &serde_json::Value| balance.as_i64().map(i128::from);
        let sum =
            balances.and_then(|balances| balances.values().map(integer).sum::<Option<i128>>());
        let sentence = match sum {
            Some(sum) if sum == total => continue,
            Some(sum) => format!("{} adds up to {sum} instead of {total}", Named(read)),
            None => format!("{} returned no integers as balances", Named(read)),
        };
        wrong += 1;
        if claim == Level::Serializable {
            check_result.violation(sentence);
        }
    }
    if claim != Level::Serializable {
        check_result.unknown("without the claim serializable, nothing of a bank is judged");
    }
    check_result.measure("reads", reads);
    check_result.measure("wrong_totals", wrong);
    check_result
}
