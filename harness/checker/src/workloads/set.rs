//! Sets: an element is *known* from when its add returned ok, or a read that returned it was over. It is
//! lost if no node returns it in its last read after the end of all faults, nor in one that was concurrent with
//! that. If the set claims to be linearizable, every read that begins after an element is known returns it, and
//! of two reads one has all elements of the other.

use std::collections::{BTreeMap, BTreeSet};

use history::{Function, Operation, Outcome};
use serde_json::Value as Json;

use super::{Named, Run, failed_value, is_ok, lost_data};
use crate::{CheckResult, levels::Level};

/// The name of the check.
const NAME: &str = "set";

/// An element of a set.
struct Element<'a> {
    add: &'a Operation,
    /// The event after which it is known to be in the set.
    known: Option<u64>,
}

pub(super) fn check(run: &Run<'_>, claim: Level) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let (mut lost, mut stale, mut unread) = (0_u64, 0_u64, 0_u64);
    for operations in run.by_key().into_values() {
        let reads: Vec<(&Operation, Vec<Json>)> = reads(&operations);
        let mut elements = elements(&operations);
        for (read, values) in &reads {
            returned(read, values, &mut elements, &mut check_result);
        }
        let sets: Vec<(&Operation, BTreeSet<String>)> = reads
            .iter()
            .map(|(read, values)| (*read, values.iter().map(ToString::to_string).collect()))
            .collect();
        let last = last_of_each_node(run, &sets);
        if claim == Level::Linearizable {
            incomparable(&sets, &mut check_result);
        }
        for (value, element) in &elements {
            let Some(known) = element.known else { continue };
            if last.iter().any(|(_, set)| set.contains(value)) {
                continue;
            }
            let after: Vec<_> =
                last.iter().filter(|(read, _)| read.invoked_index > known).collect();
            if after.is_empty() {
                unread += 1;
            } else {
                lost += 1;
                check_result.violation(lost_data(format!(
                    "{value} is lost: it was in the set after event {known} ({}), and is not in the \
                     last {}",
                    Named(element.add),
                    Named(after[0].0)
                )));
            }
        }
        stale += stale_reads(&sets, &elements, claim, &mut check_result);
    }
    if unread > 0 {
        check_result.unknown(format!(
            "{unread} elements were not looked for after the end of all faults: no read of their set \
             succeeded"
        ));
    }
    check_result.measure("lost", lost);
    check_result.measure("stale_reads", stale);
    check_result
}

fn reads<'a>(operations: &[&'a Operation]) -> Vec<(&'a Operation, Vec<Json>)> {
    let reads = operations.iter().filter(|operation| is_ok(operation, Function::Read));
    reads.filter_map(|read| Some((*read, read.json()?.as_array()?.clone()))).collect()
}

/// Each element that was added, or may have been. Of several adds of one element, the first that may have
/// had an effect counts; it is known once one of them returned ok.
fn elements<'a>(operations: &[&'a Operation]) -> BTreeMap<String, Element<'a>> {
    let mut elements: BTreeMap<String, Element<'a>> = BTreeMap::new();
    for add in operations.iter().filter(|operation| operation.f == Function::Add) {
        let known = add.returned_index.filter(|_| add.outcome == Outcome::Ok);
        let element =
            elements.entry(add.value.clone().unwrap_or_default()).or_insert(Element { add, known });
        let order = |add: &Operation| (add.outcome == Outcome::Fail, add.invoked_index);
        if order(add) < order(element.add) {
            element.add = add;
        }
        element.known = element.known.into_iter().chain(known).min();
    }
    elements
}

/// Takes note of what a read returned, and reports what it cannot have returned.
fn returned(
    read: &Operation,
    values: &[Json],
    elements: &mut BTreeMap<String, Element<'_>>,
    check_result: &mut CheckResult,
) {
    let mut seen = BTreeSet::new();
    for value in values.iter().map(ToString::to_string) {
        if !seen.insert(value.clone()) {
            check_result.violation(format!("{} returned {value} twice", Named(read)));
            continue;
        }
        let Some(element) = elements.get_mut(&value) else {
            let sentence = format!("{} returned {value}, which nobody has added", Named(read));
            check_result.violation(sentence);
            continue;
        };
        if element.add.outcome == Outcome::Fail {
            check_result.violation(failed_value(&value, element.add, read));
        } else if read.returned_index < Some(element.add.invoked_index) {
            check_result.violation(format!(
                "{} returned {value} before the {} was invoked",
                Named(read),
                Named(element.add)
            ));
        }
        if element.known.is_none_or(|known| Some(known) > read.returned_index) {
            element.known = read.returned_index;
        }
    }
}

type Set<'a> = (&'a Operation, BTreeSet<String>);

/// The reads after the end of all faults that are certainly not followed by another one at their node.
fn last_of_each_node<'s, 'a>(run: &Run<'_>, sets: &'s [Set<'a>]) -> Vec<&'s Set<'a>> {
    let finals = || sets.iter().filter(|(read, _)| run.is_final(read));
    let mut invoked: BTreeMap<Option<&str>, u64> = BTreeMap::new();
    for (read, _) in finals() {
        let last = invoked.entry(read.node.as_deref()).or_default();
        *last = read.invoked_index.max(*last);
    }
    let is_last = |(read, _): &&Set<'_>| {
        let last = invoked.get(&read.node.as_deref()).copied();
        read.returned_index >= last
    };
    finals().filter(is_last).collect()
}

/// Reports reads of which neither has all elements of the other: in no order does the set only grow.
fn incomparable(sets: &[Set<'_>], check_result: &mut CheckResult) {
    let mut by_size: Vec<&Set<'_>> = sets.iter().collect();
    by_size.sort_by_key(|(_, set)| set.len());
    for pair in by_size.windows(2) {
        let [(small, elements), (large, others)] = [pair[0], pair[1]];
        let (Some(one), Some(other)) =
            (elements.difference(others).next(), others.difference(elements).next())
        else {
            continue;
        };
        check_result.violation(format!(
            "{} returned {one} without {other}, and the {} returned {other} without {one}",
            Named(small),
            Named(large)
        ));
    }
}

/// Reads that lack an element that was known when they began. One of each read is reported.
fn stale_reads(
    sets: &[Set<'_>],
    elements: &BTreeMap<String, Element<'_>>,
    claim: Level,
    check_result: &mut CheckResult,
) -> u64 {
    let mut stale = 0;
    for (read, set) in sets {
        let lacks = |(value, element): &(&String, &Element<'_>)| {
            element.known.is_some_and(|known| known < read.invoked_index) && !set.contains(*value)
        };
        let Some((value, element)) = elements.iter().find(lacks) else { continue };
        stale += 1;
        if claim == Level::Linearizable {
            check_result.violation(format!(
                "stale read: {} lacks {value}, which was in the set after event {} ({})",
                Named(read),
                element.known.unwrap_or_default(),
                Named(element.add)
            ));
        }
    }
    stale
}
