//! Counters: a read lies between what must have been counted when it began and what may have been counted
//! when it returned. An increment with an unknown outcome may be counted at any later time, for ever. Reads
//! after the end of all faults are always judged, the others if the counter claims to be linearizable.

use history::{Function, Operation, Outcome};

use super::{Named, Run, is_ok, precedes};
use crate::{CheckResult, levels::Level};

/// The name of the check.
const NAME: &str = "counter";

pub(super) fn check(run: &Run<'_>, claim: Level) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let (mut wrong, mut final_reads) = (0_u64, 0_u64);
    for (key, operations) in run.by_key() {
        let increments: Vec<(&Operation, i64)> = operations
            .iter()
            .filter(|operation| operation.f == Function::Inc && operation.outcome != Outcome::Fail)
            .filter_map(|operation| Some((*operation, operation.json()?.as_i64()?)))
            .collect();
        let mut is_read = false;
        for read in operations.iter().filter(|operation| is_ok(operation, Function::Read)) {
            let is_final = run.is_final(read);
            is_read |= is_final;
            final_reads += u64::from(is_final);
            let Some(value) = read.json().and_then(|value| value.as_i64()) else {
                check_result.violation(format!("{} returned no integer", Named(read)));
                continue;
            };
            let (low, high) = bounds(read, &increments);
            if (low..=high).contains(&i128::from(value)) {
                continue;
            }
            wrong += 1;
            if is_final || claim == Level::Linearizable {
                check_result.violation(format!(
                    "{} returned {value}; with what had returned before and what had been invoked, it \
                     must be from {low} to {high}",
                    Named(read)
                ));
            }
        }
        if !is_read {
            check_result.unknown(format!("{key} was not read after the end of all faults"));
        }
    }
    check_result.measure("wrong_reads", wrong);
    check_result.measure("final_reads", final_reads);
    check_result
}

/// The least and the greatest value that a read may return.
fn bounds(read: &Operation, increments: &[(&Operation, i64)]) -> (i128, i128) {
    let (mut low, mut high) = (0, 0);
    for (increment, amount) in increments {
        let certain = precedes(increment, read);
        let possible = Some(increment.invoked_index) < read.returned_index;
        let counted = |is_counted: bool| if is_counted { i128::from(*amount) } else { 0 };
        // Increments raise the least value once they are certain, decrements once they are possible.
        low += counted(if *amount > 0 { certain } else { possible });
        high += counted(if *amount > 0 { possible } else { certain });
    }
    (low, high)
}
