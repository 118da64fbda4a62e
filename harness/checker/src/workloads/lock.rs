//! Locks: a process certainly holds a lock from when its acquire returned ok until it invokes the release.
//! No two processes may hold one lock at a time; that a lease has expired is no excuse. Fencing tokens
//! grow.

use std::collections::BTreeMap;

use history::{Function, Operation};

use super::{Named, Run, is_ok, precedes};
use crate::{CheckResult, levels::Level};

/// The name of the check.
const NAME: &str = "lock";

/// A lock that was certainly held.
struct Holding<'a> {
    acquire: &'a Operation,
    /// The event at which it began, and the one at which it ended.
    from: u64,
    to: u64,
}

pub(super) fn check(run: &Run<'_>, claim: Level) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let (mut overlaps, mut holdings_total) = (0_u64, 0_usize);
    for (key, operations) in run.by_key() {
        let mut holdings = holdings(&operations);
        holdings.sort_by_key(|holding| holding.from);
        holdings_total += holdings.len();
        let mut last: Option<&Holding<'_>> = None;
        for holding in &holdings {
            if let Some(last) = last
                && holding.from < last.to
            {
                overlaps += 1;
                if claim == Level::Linearizable {
                    check_result.violation(format!(
                        "{key} is held twice: process {} took it (event {}) while process {} held it, from \
                         event {} to {}",
                        holding.acquire.process,
                        holding.from,
                        last.acquire.process,
                        last.from,
                        last.to
                    ));
                }
            }
            if last.is_none_or(|last| last.to < holding.to) {
                last = Some(holding);
            }
        }
        tokens(&holdings, &mut check_result);
    }
    if claim != Level::Linearizable {
        check_result
            .unknown("without the claim mutual-exclusion, only the order of tokens is judged");
    }
    check_result.measure("overlaps", overlaps);
    check_result.measure("holdings", holdings_total);
    check_result
}

fn holdings<'a>(operations: &[&'a Operation]) -> Vec<Holding<'a>> {
    // The next release of each process ends its holding.
    let mut holdings: Vec<Holding<'a>> = Vec::new();
    let mut open: BTreeMap<u64, usize> = BTreeMap::new();
    for operation in operations {
        match operation.f {
            Function::Lock if is_ok(operation, Function::Lock) => {
                open.insert(operation.process, holdings.len());
                let from = operation.returned_index.unwrap_or(operation.invoked_index);
                holdings.push(Holding { acquire: operation, from, to: u64::MAX });
            }
            Function::Unlock => {
                if let Some(at) = open.remove(&operation.process) {
                    holdings[at].to = operation.invoked_index;
                }
            }
            _ => {}
        }
    }
    holdings
}

/// Reports a token that is not greater than that of an earlier holder.
fn tokens(holdings: &[Holding<'_>], check_result: &mut CheckResult) {
    let token = |operation: &Operation| operation.version.as_ref()?.parse::<u64>();
    let tokens: Vec<(&Operation, u64)> = holdings
        .iter()
        .filter_map(|holding| Some((holding.acquire, token(holding.acquire)?)))
        .collect();
    let mut greatest: Option<(&Operation, u64)> = None;
    for (acquire, token) in tokens {
        if let Some((before, other)) = greatest
            && precedes(before, acquire)
            && token <= other
        {
            check_result.violation(format!(
                "the token {token} of the {} is not greater than {other}, that of the {} before it",
                Named(acquire),
                Named(before)
            ));
        }
        if greatest.is_none_or(|(_, other)| other < token) {
            greatest = Some((acquire, token));
        }
    }
}
