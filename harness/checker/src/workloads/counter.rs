//! Counters: a read lies between what must have been counted when it began and what may have been counted
//! when it returned. An increment with an unknown outcome may be counted at any later time, for ever. Reads
//! after the end of all faults are always judged, the others if the counter claims to be linearizable. Then a
//! counter that only grows does not go back either.

use history::{Function, Number, Operation, Outcome};

use super::{Named, Run, is_ok};
use crate::{CheckResult, levels::Level};

/// The name of the check.
const NAME: &str = "counter";

pub(super) fn check(run: &Run<'_>, claim: Level) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let (mut wrong, mut final_reads) = (0_u64, 0_u64);
    for (key, operations) in run.by_key() {
        let is_read = |operation: &&&Operation| is_ok(operation, Function::Read);
        let reads: Vec<&Operation> = operations.iter().filter(is_read).copied().collect();
        let finals = reads.iter().filter(|read| run.is_final(read)).count();
        final_reads += finals as u64;
        if finals == 0 {
            check_result.unknown(format!("{key} was not read after the end of all faults"));
        }
        match amounts(&operations) {
            Ok(amounts) => wrong += judge(run, claim, &reads, &amounts, &mut check_result),
            Err(increment) => check_result.unknown(format!(
                "{key} is not judged: the {} adds no integer of at most 96 bits",
                Named(increment)
            )),
        }
    }
    check_result.measure("wrong_reads", wrong);
    check_result.measure("final_reads", final_reads);
    check_result
}

/// What each increment that may have had an effect adds.
///
/// # Errors
/// The first one that adds no integer: what reads should return is not known then.
fn amounts<'a>(operations: &[&'a Operation]) -> Result<Vec<(&'a Operation, i128)>, &'a Operation> {
    let may_count = |operation: &&&Operation| {
        operation.f == Function::Inc && operation.outcome != Outcome::Fail
    };
    let amount = |increment: &&'a Operation| match number(increment) {
        Some(Number::Integer(amount)) => Ok((*increment, amount)),
        Some(Number::Other) | None => Err(*increment),
    };
    operations.iter().filter(may_count).map(amount).collect()
}

fn number(operation: &Operation) -> Option<Number> {
    Number::of(&operation.json()?)
}

/// Judges the reads of a counter. Returns how many are wrong.
fn judge(
    run: &Run<'_>,
    claim: Level,
    reads: &[&Operation],
    amounts: &[(&Operation, i128)],
    check_result: &mut CheckResult,
) -> u64 {
    let sums = Sums::new(amounts);
    let mut wrong = 0;
    let mut possible: Vec<(&Operation, i128)> = Vec::new();
    let mut inexact: Vec<&Operation> = Vec::new();
    for read in reads {
        let value = match number(read) {
            Some(Number::Integer(value)) => value,
            Some(Number::Other) => {
                inexact.push(read);
                continue;
            }
            None => {
                check_result.violation(format!("{} returned no integer", Named(read)));
                continue;
            }
        };
        let (low, high) = sums.bounds(read);
        if (low..=high).contains(&value) {
            possible.push((read, value));
            continue;
        }
        wrong += 1;
        if run.is_final(read) || claim == Level::Linearizable {
            check_result.violation(format!(
                "{} returned {value}; with what had returned before and what had been invoked, it \
                 must be from {low} to {high}",
                Named(read)
            ));
        }
    }
    if let Some(first) = inexact.first() {
        check_result.unknown(format!(
            "{} reads returned a number that is no integer of at most 96 bits; one is the {}",
            inexact.len(),
            Named(first)
        ));
    }
    match direction(amounts) {
        Some(sign) if claim == Level::Linearizable => {
            wrong + gone_back(&possible, sign, check_result)
        }
        _ => wrong,
    }
}

/// The sign of all amounts. `None`: they have both.
fn direction(amounts: &[(&Operation, i128)]) -> Option<i128> {
    let [rises, falls] = [
        amounts.iter().any(|(_, amount)| *amount > 0),
        amounts.iter().any(|(_, amount)| *amount < 0),
    ];
    match (rises, falls) {
        (true, true) => None,
        (false, true) => Some(-1),
        (_, false) => Some(1),
    }
}

/// Reports reads that return less, in the direction in which the counter moves, than one that was over when they
/// began. Returns how many there are.
fn gone_back(reads: &[(&Operation, i128)], sign: i128, check_result: &mut CheckResult) -> u64 {
    let mut over = reads.to_vec();
    over.sort_by_key(|(read, _)| read.returned_index);
    // Of those up to each one, the read that returned most.
    let mut furthest: Vec<(&Operation, i128)> = Vec::with_capacity(over.len());
    for read in &over {
        let before = furthest.last().filter(|before| before.1 * sign >= read.1 * sign);
        furthest.push(*before.unwrap_or(read));
    }
    let mut count = 0;
    for (read, value) in reads {
        let is_before =
            |(other, _): &(&Operation, i128)| other.returned_index < Some(read.invoked_index);
        let Some(last) = over.partition_point(is_before).checked_sub(1) else { continue };
        let (before, earlier) = furthest[last];
        if earlier * sign > value * sign {
            count += 1;
            check_result.violation(format!(
                "{} returned {value}, which is older than {earlier}, which the {} had returned before",
                Named(read),
                Named(before)
            ));
        }
    }
    count
}

/// What increments may have added, by when.
struct Sums {
    /// After these events increments had returned: the sums of their increases and decreases.
    certain: Vec<(u64, [i128; 2])>,
    /// After these events increments had been invoked.
    possible: Vec<(u64, [i128; 2])>,
}

impl Sums {
    fn new(amounts: &[(&Operation, i128)]) -> Self {
        let certain = amounts.iter().filter_map(|(increment, amount)| {
            let returned = increment.returned_index?;
            (increment.outcome == Outcome::Ok).then_some((returned, *amount))
        });
        let possible = amounts.iter().map(|(increment, amount)| (increment.invoked_index, *amount));
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
fn running(mut amounts: Vec<(u64, i128)>) -> Vec<(u64, [i128; 2])> {
    amounts.sort_unstable_by_key(|(event, _)| *event);
    let mut sums = [0; 2];
    let add = |(event, amount): (u64, i128)| {
        sums[usize::from(amount < 0)] += amount;
        (event, sums)
    };
    amounts.into_iter().map(add).collect()
}

/// The sums of what was before an event.
fn before(sums: &[(u64, [i128; 2])], event: u64) -> [i128; 2] {
    let count = sums.partition_point(|(at, _)| *at < event);
    count.checked_sub(1).map_or([0; 2], |last| sums[last].1)
}
