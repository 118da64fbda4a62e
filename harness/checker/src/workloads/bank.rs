//! A bank: transfers move money and make none, so every read of all balances has the same total. Judged if
//! the bank claims an isolation level that forbids read skew, which shows other totals.

use history::{Function, Operation};
use serde_json::Value as Json;

use super::{End, Named, Run, is_ok};
use crate::{CheckResult, levels::Level};

/// The name of the check.
const NAME: &str = "bank";

pub(super) fn check(run: &Run<'_>, claim: Level) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let is_judged = matches!(claim, Level::Isolation(_));
    let reads = run.operations.iter().filter(|operation| is_ok(operation, Function::Read));
    let reads: Vec<(&Operation, Option<i128>)> = reads.map(|read| (read, sum(read))).collect();
    let Some((total, whence)) = total(run, &reads) else {
        check_result.unknown(match run.end {
            End::Recorded { .. } => {
                "test.json names neither the accounts nor their opening balance"
            }
            End::Untold { .. } => "no read of the balances succeeded",
        });
        return check_result;
    };
    let mut wrong = 0_u64;
    for (read, sum) in &reads {
        let sentence = match sum {
            Some(sum) if *sum == total => continue,
            Some(sum) => format!("{} adds up to {sum} instead of {total}{whence}", Named(read)),
            None => format!("{} returned no integers as balances", Named(read)),
        };
        wrong += 1;
        if is_judged {
            check_result.violation(sentence);
        }
    }
    if !is_judged {
        check_result.unknown("without the claim of an isolation level such as serializable, nothing of a bank is judged");
    }
    check_result.measure("reads", reads.len());
    check_result.measure("wrong_totals", wrong);
    check_result
}

/// The sum of the balances that a read returned, by account or in a row. They come from outside, so it may be any.
fn sum(read: &Operation) -> Option<i128> {
    let integer = |balance: &Json| balance.as_i64().map(i128::from);
    match read.json()? {
        Json::Object(balances) => balances.values().map(integer).sum(),
        Json::Array(balances) => balances.iter().map(integer).sum(),
        _ => None,
    }
}

/// What all balances add up to, and how that is known: they are opened so, or were first read so.
fn total(run: &Run<'_>, reads: &[(&Operation, Option<i128>)]) -> Option<(i128, String)> {
    if let End::Untold { .. } = run.end {
        let (read, sum) = reads.iter().find_map(|(read, sum)| Some((*read, (*sum)?)))?;
        return Some((sum, format!(", to which the {} does", Named(read))));
    }
    let options = &run.description.options;
    let accounts = options.get("accounts")?.as_array()?;
    let opening = options.get("opening_balance")?.as_i64()?;
    Some((accounts.len() as i128 * i128::from(opening), String::new()))
}
