//! Logs: what was appended and acknowledged is read by a consumer that reads to the end after all faults;
//! an offset holds one element, for ever and for every reader. That an element stands at two offsets is
//! wrong only if the log claims exactly-once.

use std::collections::{BTreeMap, BTreeSet};

use history::{Function, Operation, Outcome};
use serde_json::Value as Json;

use super::{Named, Run, failed_value, is_ok, lost_data};
use crate::{CheckResult, levels::Level};

/// The name of the check.
const NAME: &str = "log";

pub(super) fn check(run: &Run<'_>, claim: Level) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let (mut lost, mut twice) = (0_u64, 0_u64);
    for (key, operations) in run.by_key() {
        let appends: BTreeMap<String, &Operation> = operations
            .iter()
            .filter(|operation| operation.f == Function::Append)
            .filter_map(|operation| Some((operation.value.clone()?, *operation)))
            .collect();
        let polls = polls(&operations);
        let offsets = one_element_each(&polls, &appends, &mut check_result);
        for (value, at) in &offsets {
            if at.len() > 1 {
                twice += 1;
                if claim == Level::ExactlyOnce {
                    check_result.violation(format!("{value} is in {key} at the offsets {at:?}"));
                }
            }
        }
        let (read_at_end, complete) = read_at_end(run, &polls);
        if !complete {
            check_result
                .unknown(format!("nobody read {key} to its end after the end of all faults"));
            continue;
        }
        for (value, append) in &appends {
            if append.outcome != Outcome::Ok {
                continue;
            }
            misplaced(value, append, &offsets, &mut check_result);
            if !read_at_end.contains(value) {
                lost += 1;
                check_result.violation(lost_data(format!(
                    "{value} is lost: the {} was acknowledged, and no consumer that reads {key} to its end \
                     finds it",
                    Named(append)
                )));
            }
        }
    }
    check_result.measure("lost", lost);
    check_result.measure("duplicates", twice);
    check_result
}

type Poll<'a> = (&'a Operation, Vec<(u64, String)>);

fn polls<'a>(operations: &[&'a Operation]) -> Vec<Poll<'a>> {
    let polls = operations.iter().filter(|operation| is_ok(operation, Function::Poll));
    polls
        .filter_map(|poll| {
            let records: Vec<(u64, Json)> = serde_json::from_value(poll.json()?).ok()?;
            Some((*poll, records.into_iter().map(|(at, value)| (at, value.to_string())).collect()))
        })
        .collect()
}

/// Reports offsets that hold different elements, and elements that nobody appended. Returns where each
/// element was seen.
fn one_element_each(
    polls: &[Poll<'_>],
    appends: &BTreeMap<String, &Operation>,
    check_result: &mut CheckResult,
) -> BTreeMap<String, BTreeSet<u64>> {
    let mut elements: BTreeMap<u64, (&str, &Operation)> = BTreeMap::new();
    let mut offsets: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for (poll, records) in polls {
        if records.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            check_result.violation(format!("{} returned offsets that do not grow", Named(poll)));
        }
        for (at, value) in records {
            let (first, by) = *elements.entry(*at).or_insert((value, poll));
            if first != value {
                check_result.violation(format!(
                    "offset {at} holds {first} for the {}, and {value} for the {}",
                    Named(by),
                    Named(poll)
                ));
            }
            if !offsets.entry(value.clone()).or_default().insert(*at) {
                continue;
            }
            match appends.get(value) {
                None => check_result
                    .violation(format!("{} returned {value}, which nobody appended", Named(poll))),
                Some(append) if append.outcome == Outcome::Fail => {
                    check_result.violation(failed_value(value, append, poll));
                }
                Some(_) => {}
            }
        }
    }
    offsets
}

/// Reports an element that is not at the offset that was acknowledged.
fn misplaced(
    value: &str,
    append: &Operation,
    offsets: &BTreeMap<String, BTreeSet<u64>>,
    check_result: &mut CheckResult,
) {
    let acknowledged = append.version.as_ref().and_then(history::Version::parse::<u64>);
    if let (Some(acknowledged), Some(seen)) = (acknowledged, offsets.get(value))
        && !seen.contains(&acknowledged)
    {
        check_result.violation(format!(
            "the {} was acknowledged at offset {acknowledged}, but {value} is at {seen:?}",
            Named(append)
        ));
    }
}

/// The elements that consumers found after the end of all faults, and whether one of them read to the end.
fn read_at_end(run: &Run<'_>, polls: &[Poll<'_>]) -> (BTreeSet<String>, bool) {
    let last = polls.iter().filter(|(poll, _)| run.is_final(poll));
    let complete = last.clone().any(|(_, records)| records.is_empty());
    let values = last.flat_map(|(_, records)| records.iter().map(|(_, value)| value.clone()));
    (values.collect(), complete)
}
