//! A bank: transfers move money and make none, so every read of all balances has the same total. Judged if
//! the bank claims an isolation level that forbids read skew, which shows other totals.

use history::{Function, Number, Operation};
use serde_json::Value as Json;

use super::{End, Named, Run, is_ok};
use crate::{CheckResult, levels::Level};

/// The name of the check.
const NAME: &str = "bank";

/// Why nothing is known of a bank.
const NO_READ: &str = "no read of the balances succeeded";

/// What a read returned.
#[derive(Clone, Copy)]
enum Balances {
    /// Their sum. They come from outside, so it may be any.
    Sum(i128),
    /// Numbers of which some are no integers, whose sum is not exact.
    Inexact,
    /// Something else than numbers.
    Malformed,
}

pub(super) fn check(run: &Run<'_>, claim: Level) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let is_judged = matches!(claim, Level::Isolation(_));
    let (mut reads, mut wrong) = (0_usize, 0_u64);
    let banks = run.by_key();
    if banks.is_empty() {
        check_result.unknown(NO_READ);
    }
    for (key, operations) in banks {
        let of_bank = operations.iter().filter(|operation| is_ok(operation, Function::Read));
        let of_bank: Vec<(&Operation, Balances)> =
            of_bank.map(|read| (*read, balances(read))).collect();
        reads += of_bank.len();
        match total(run, &of_bank) {
            Ok(total) => wrong += judge(&of_bank, &total, is_judged, &mut check_result),
            Err(why) => check_result.unknown(format!("{key}: {why}")),
        }
    }
    if !is_judged {
        check_result.unknown("without the claim of an isolation level such as serializable, nothing of a bank is judged");
    }
    check_result.measure("reads", reads);
    check_result.measure("wrong_totals", wrong);
    check_result
}

/// Compares the reads of a bank with its total. Returns how many are wrong.
fn judge(
    reads: &[(&Operation, Balances)],
    total: &Total,
    is_judged: bool,
    check_result: &mut CheckResult,
) -> u64 {
    let Total { total, whence } = total;
    let mut wrong = 0;
    let mut inexact: Vec<&Operation> = Vec::new();
    for (read, balances) in reads {
        let sentence = match balances {
            Balances::Sum(sum) if sum == total => continue,
            Balances::Sum(sum) => {
                format!("{} adds up to {sum} instead of {total}{whence}", Named(read))
            }
            Balances::Inexact => {
                inexact.push(read);
                continue;
            }
            Balances::Malformed => format!("{} returned no integers as balances", Named(read)),
        };
        wrong += 1;
        if is_judged {
            check_result.violation(sentence);
        }
    }
    if let Some(first) = inexact.first() {
        check_result.unknown(format!(
            "{} reads returned balances that are no integers of at most 96 bits; one is the {}",
            inexact.len(),
            Named(first)
        ));
    }
    wrong
}

/// The balances that a read returned, by account or in a row.
fn balances(read: &Operation) -> Balances {
    let numbers: Option<Vec<Number>> = match read.json() {
        Some(Json::Object(balances)) => balances.values().map(Number::of).collect(),
        Some(Json::Array(balances)) => balances.iter().map(Number::of).collect(),
        _ => None,
    };
    let Some(numbers) = numbers else { return Balances::Malformed };
    let integer = |number: &Number| match number {
        Number::Integer(balance) => Some(*balance),
        Number::Other => None,
    };
    numbers.iter().map(integer).sum::<Option<i128>>().map_or(Balances::Inexact, Balances::Sum)
}

/// What all balances add up to, and how that is known.
struct Total {
    total: i128,
    whence: String,
}

/// The total of a bank: its accounts are opened so, or were first read so.
///
/// # Errors
/// It is not known, or was never read.
fn total(run: &Run<'_>, reads: &[(&Operation, Balances)]) -> Result<Total, &'static str> {
    if reads.is_empty() {
        return Err(NO_READ);
    }
    if let End::Untold { .. } = run.end {
        let first = reads.iter().find_map(|(read, balances)| match balances {
            Balances::Sum(sum) => Some((*read, *sum)),
            Balances::Inexact | Balances::Malformed => None,
        });
        let (read, total) = first.ok_or("no read returned integers as balances")?;
        return Ok(Total { total, whence: format!(", to which the {} does", Named(read)) });
    }
    let options = &run.description.options;
    let accounts = options.get("accounts").and_then(Json::as_array);
    let opening = options.get("opening_balance").and_then(Json::as_i64);
    let (Some(accounts), Some(opening)) = (accounts, opening) else {
        return Err("test.json names neither the accounts nor their opening balance");
    };
    Ok(Total { total: accounts.len() as i128 * i128::from(opening), whence: String::new() })
}
