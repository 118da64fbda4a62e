//! Locks: a process certainly holds a lock from when its acquire returned ok until it invokes the release.
//! No two processes may hold one lock at a time; that a lease has expired is no excuse. Fencing tokens
//! grow.
//!
//! A lock that is *fenced* claims less: a release that fails says that the lock was lost, and what its holder
//! did under it is void. Then only holdings that a release confirmed must not overlap with each other.

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
    /// A release of it succeeded.
    is_confirmed: bool,
}

pub(super) fn check(run: &Run<'_>, claim: Level) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let is_exclusive = matches!(claim, Level::Linearizable | Level::Fenced);
    let (mut overlaps, mut holdings_total, mut confirmed_total) = (0_u64, 0_usize, 0_usize);
    for (key, operations) in run.by_key() {
        let mut holdings = holdings(&operations);
        holdings.sort_by_key(|holding| holding.from);
        holdings_total += holdings.len();
        confirmed_total += holdings.iter().filter(|holding| holding.is_confirmed).count();
        let counts = |holding: &&Holding<'_>| claim != Level::Fenced || holding.is_confirmed;
        let mut last: Option<&Holding<'_>> = None;
        for holding in holdings.iter().filter(counts) {
            if let Some(last) = last
                && holding.from < last.to
            {
                overlaps += 1;
                if is_exclusive {
                    let to = match last.to {
                        u64::MAX => "and did not release it".to_owned(),
                        to => format!("to {to}"),
                    };
                    check_result.violation(format!(
                        "{key} is held twice: process {} took it (event {}) while process {} held it, from \
                         event {} {to}",
                        holding.acquire.process, holding.from, last.acquire.process, last.from,
                    ));
                }
            }
            if last.is_none_or(|last| last.to < holding.to) {
                last = Some(holding);
            }
        }
        tokens(&holdings, &mut check_result);
    }
    if !is_exclusive {
        check_result.unknown(
            "without the claim mutual-exclusion or fenced, only the order of tokens is judged",
        );
    }
    if claim == Level::Fenced && confirmed_total == 0 && holdings_total > 0 {
        check_result.unknown("no release succeeded, so no holding is confirmed");
    }
    check_result.measure("overlaps", overlaps);
    check_result.measure("holdings", holdings_total);
    check_result.measure("confirmed", confirmed_total);
    check_result
}

fn holdings<'a>(operations: &[&'a Operation]) -> Vec<Holding<'a>> {
    // The next release of each process ends its holding, and the first that succeeds confirms it.
    let mut holdings: Vec<Holding<'a>> = Vec::new();
    let mut open: BTreeMap<u64, usize> = BTreeMap::new();
    for operation in operations {
        match operation.f {
            Function::Lock if is_ok(operation, Function::Lock) => {
                let from = operation.returned_index.unwrap_or(operation.invoked_index);
                // Taken once more by its holder, it still has one holder, and the next release ends it.
                if let Some(before) = open.insert(operation.process, holdings.len()) {
                    holdings[before].to = holdings[before].to.min(from);
                }
                let to = u64::MAX;
                holdings.push(Holding { acquire: operation, from, to, is_confirmed: false });
            }
            Function::Unlock => {
                if let Some(at) = open.get(&operation.process) {
                    let holding = &mut holdings[*at];
                    holding.to = holding.to.min(operation.invoked_index);
                    holding.is_confirmed |= is_ok(operation, Function::Unlock);
                }
            }
            _ => {}
        }
    }
    holdings
}

/// Reports a token that is not greater than those of all holders that certainly had the lock before.
fn tokens(holdings: &[Holding<'_>], check_result: &mut CheckResult) {
    let token = |operation: &Operation| operation.version.as_ref()?.parse::<u64>();
    // They are in the order in which they returned.
    let tokens: Vec<(&Operation, u64)> = holdings
        .iter()
        .filter_map(|holding| Some((holding.acquire, token(holding.acquire)?)))
        .collect();
    // Of those up to each one, the greatest.
    let mut greatest: Vec<(&Operation, u64)> = Vec::with_capacity(tokens.len());
    for acquire in &tokens {
        let before = greatest.last().filter(|(_, token)| *token >= acquire.1);
        greatest.push(*before.unwrap_or(acquire));
    }
    for (acquire, token) in &tokens {
        let is_before = |(other, _): &(&Operation, u64)| precedes(other, acquire);
        let Some(last) = tokens.partition_point(is_before).checked_sub(1) else { continue };
        let (before, other) = greatest[last];
        if *token <= other {
            check_result.violation(format!(
                "the token {token} of the {} is not greater than {other}, that of the {} before it",
                Named(acquire),
                Named(before)
            ));
        }
    }
}
