//! Counters: a read lies between what must have been counted when it began and what may have been counted
//! when it returned. An increment with an unknown outcome may be counted at any later time, for ever. Reads
//! after the end of all faults are always judged, the others if the counter claims to be linearizable.

use history::{Function, Operation, Outcome};

use super::{Named, Run, is_ok};
use crate::{CheckResult, levels::Level};

/// The name of the check.
const NAME: &str = "counter";

pub(super) fn check(run: &Run<'_>, claim: Level) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let (mut wrong, mut final_reads) = (0_u64, 0_u64);
    for (key, operations) in run.by_key() {
        let increments = operations
            .iter()
            .filter(|operation| operation.f == Function::Inc && operation.outcome != Outcome::Fail);
        let sums = Sums::new(
            increments.filter_map(|operation| Some((*operation, operation.json()?.as_i64()?))),
        );
        let mut is_read = false;
        for read in operations.iter().filter(|operation| is_ok(operation, Function::Read)) {
            let is_final = run.is_final(read);
            is_read |= is_final;
            final_reads += u64::from(is_final);
            let Some(value) = read.json().and_then(|value| value.as_i64()) else {
                check_result.violation(format!("{} returned no integer", Named(read)));
                continue;
            };
            let (low, high) = sums.bounds(read);
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

/// What increments may have added, by when.
struct Sums {
    /// After these events increments had returned: the sums of their increases and decreases.
    certain: Vec<(u64, [i128; 2])>,
    /// After these events increments had been invoked.
    possible: Vec<(u64, [i128; 2])>,
}

impl Sums {
    fn new<'a>(increments: impl Iterator<Item = (&'a Operation, i64)> + Clone) -> Self {
        let certain = increments.clone().filter_map(|(increment, amount)| {
            let returned = increment.returned_index?;
            (increment.outcome == Outcome::Ok).then_some((returned, amount))
        });
        let possible = increments.map(|(increment, amount)| (increment.invoked_index, amount));
        Sums { certain: running(certain.collect()), possible: running(possible.collect()) }
    }

    /// The least and the greatest value that a read may return. Increases raise the least value once they are
    /// certain, decreases lower it once they are possible.
    fn bounds(&self, read: &Operation) -> (i128, i128) {
        let [certain_up, certain_down] = before(&self.certain, read.invoked_index);
        let returned = read.returned_index.unwrap_or(u64::MAX);
        let [possible_up, possible_down] = before(&self.possible, returned);
        (certain_up + possible_down, possible_up + certain_down)
    }
}

/// Running sums of increases and decreases, by event.
fn running(mut amounts: Vec<(u64, i64)>) -> Vec<(u64, [i128; 2])> {
    amounts.sort_unstable_by_key(|(event, _)| *event);
    let mut sums = [0; 2];
    let add = |(event, amount): (u64, i64)| {
        sums[usize::from(amount < 0)] += i128::from(amount);
        (event, sums)
    };
    amounts.into_iter().map(add).collect()
}

/// The sums of what was before an event.
fn before(sums: &[(u64, [i128; 2])], event: u64) -> [i128; 2] {
    let count = sums.partition_point(|(at, _)| *at < event);
    count.checked_sub(1).map_or([0; 2], |last| sums[last].1)
}
