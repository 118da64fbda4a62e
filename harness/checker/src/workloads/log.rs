//! Logs: what was appended and acknowledged is read by a consumer that reads to the end after all faults;
//! an offset holds one element, for ever and for every reader. That an element stands at more offsets than it
//! was appended times is wrong only if the log claims exactly-once.

use std::collections::{BTreeMap, BTreeSet};

use history::{Function, Operation, Outcome};
use serde_json::Value as Json;

use super::{Named, Run, is_ok, lost_data, may_return};
use crate::{CheckResult, levels::Level};

/// The name of the check.
const NAME: &str = "log";

pub(super) fn check(run: &Run<'_>, claim: Level) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let (mut lost, mut twice) = (0_usize, 0_u64);
    for (key, operations) in run.by_key() {
        let appends = appends(&operations);
        let polls = polls(&operations);
        let seen = one_element_each(&polls, &mut check_result);
        for (value, seen) in &seen {
            let appends = appends.get(value).map_or(&[][..], Vec::as_slice);
            if let Err(sentence) = may_return(value, seen.first, appends, "appended") {
                check_result.violation(sentence);
            }
            let times = appends.iter().filter(|append| append.outcome != Outcome::Fail).count();
            if seen.offsets.len() > times.max(1) {
                twice += 1;
                if claim == Level::ExactlyOnce {
                    check_result.violation(format!(
                        "{value} is in {key} at the offsets {:?}",
                        seen.offsets
                    ));
                }
            }
        }
        let Some(end) = End::of(run, &polls) else {
            check_result
                .unknown(format!("nobody read {key} to its end after the end of all faults"));
            continue;
        };
        lost += missing(key, &appends, &seen, &end, &mut check_result);
        lost += vanished(key, &polls, &appends, &end, &mut check_result);
    }
    check_result.measure("lost", lost);
    check_result.measure("duplicates", twice);
    check_result
}

type Appends<'a> = BTreeMap<String, Vec<&'a Operation>>;

/// The appends of each element. One may be appended several times.
fn appends<'a>(operations: &[&'a Operation]) -> Appends<'a> {
    let mut appends = Appends::new();
    for append in operations.iter().filter(|operation| operation.f == Function::Append) {
        if let Some(value) = &append.value {
            appends.entry(value.clone()).or_default().push(append);
        }
    }
    appends
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

/// Where an element was seen, and the poll that was over first of those that returned it.
struct Seen<'a> {
    offsets: BTreeSet<u64>,
    first: &'a Operation,
}

/// Reports offsets that hold different elements. Returns where each element was seen.
fn one_element_each<'a>(
    polls: &[Poll<'a>],
    check_result: &mut CheckResult,
) -> BTreeMap<String, Seen<'a>> {
    let mut elements: BTreeMap<u64, (&str, &Operation)> = BTreeMap::new();
    let mut seen: BTreeMap<String, Seen<'_>> = BTreeMap::new();
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
            let element = seen
                .entry(value.clone())
                .or_insert_with(|| Seen { offsets: BTreeSet::new(), first: poll });
            element.offsets.insert(*at);
            if poll.returned_index < element.first.returned_index {
                element.first = poll;
            }
        }
    }
    seen
}

/// What consumers found after the end of all faults.
struct End {
    /// How often each element.
    elements: BTreeMap<String, usize>,
    offsets: BTreeSet<u64>,
    /// When the first of them began.
    began: u64,
}

impl End {
    /// `None`: no consumer read to the end.
    fn of(run: &Run<'_>, polls: &[Poll<'_>]) -> Option<End> {
        let last = polls.iter().filter(|(poll, _)| run.is_final(poll));
        let began = last.clone().map(|(poll, _)| poll.invoked_index).min()?;
        if !last.clone().any(|(_, records)| records.is_empty()) {
            return None;
        }
        let records: BTreeSet<&(u64, String)> = last.flat_map(|(_, records)| records).collect();
        let mut elements: BTreeMap<String, usize> = BTreeMap::new();
        for (_, value) in &records {
            *elements.entry(value.clone()).or_default() += 1;
        }
        Some(End { elements, offsets: records.iter().map(|(at, _)| *at).collect(), began })
    }

    fn times(&self, value: &str) -> usize {
        self.elements.get(value).copied().unwrap_or(0)
    }
}

/// How many records the acknowledged appends of an element made: those at one offset made one.
fn acknowledged(appends: &[&Operation]) -> usize {
    let appends = appends.iter().filter(|append| append.outcome == Outcome::Ok);
    let (with, without): (Vec<_>, Vec<_>) =
        appends.map(|append| append.version.as_ref()).partition(Option::is_some);
    let offsets: BTreeSet<String> = with.into_iter().flatten().map(ToString::to_string).collect();
    offsets.len() + without.len()
}

/// Reports acknowledged elements that are not at the end, or not where they should be. Returns how many are lost.
fn missing(
    key: &str,
    appends: &Appends<'_>,
    seen: &BTreeMap<String, Seen<'_>>,
    end: &End,
    check_result: &mut CheckResult,
) -> usize {
    let mut lost = 0;
    for (value, appends) in appends {
        let ok = || appends.iter().filter(|append| append.outcome == Outcome::Ok);
        ok().for_each(|append| misplaced(value, append, seen, check_result));
        let (expected, found) = (acknowledged(appends), end.times(value));
        let Some(append) = ok().next().filter(|_| found < expected) else { continue };
        lost += expected - found;
        check_result.violation(lost_data(match found {
            0 => format!(
                "{value} is lost: the {} was acknowledged, and no consumer that reads {key} to its end \
                 finds it",
                Named(append)
            ),
            _ => format!(
                "{value} is lost: it was appended to {key} and acknowledged {expected} times, first by \
                 the {}, and is there {found} times at the end",
                Named(append)
            ),
        }));
    }
    lost
}

/// Reports an element that is not at the offset that was acknowledged.
fn misplaced(
    value: &str,
    append: &Operation,
    seen: &BTreeMap<String, Seen<'_>>,
    check_result: &mut CheckResult,
) {
    let acknowledged = append.version.as_ref().and_then(history::Version::parse::<u64>);
    if let (Some(acknowledged), Some(Seen { offsets, .. })) = (acknowledged, seen.get(value))
        && !offsets.contains(&acknowledged)
    {
        check_result.violation(format!(
            "the {} was acknowledged at offset {acknowledged}, but {value} is at {offsets:?}",
            Named(append)
        ));
    }
}

/// Reports offsets that held an element for a poll, and that nobody finds at the end. Returns how many there are.
fn vanished(
    key: &str,
    polls: &[Poll<'_>],
    appends: &Appends<'_>,
    end: &End,
    check_result: &mut CheckResult,
) -> usize {
    // A poll that was not over when the consumers began may have seen what came after them.
    let before = polls.iter().filter(|(poll, _)| poll.returned_index < Some(end.began));
    let mut gone: BTreeMap<u64, (&str, &Operation)> = BTreeMap::new();
    for (poll, records) in before {
        for (at, value) in records.iter().filter(|(at, _)| !end.offsets.contains(at)) {
            // An acknowledged element that is lost is reported as such.
            let appends = appends.get(value).map_or(&[][..], Vec::as_slice);
            if end.times(value) >= acknowledged(appends) {
                gone.entry(*at).or_insert((value, poll));
            }
        }
    }
    for (at, (value, poll)) in &gone {
        check_result.violation(lost_data(format!(
            "offset {at} of {key} is lost: it held {value} for the {}, and no consumer that reads {key} \
             to its end finds it",
            Named(poll)
        )));
    }
    gone.len()
}
