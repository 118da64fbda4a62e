//! What small models hold, to the state: a change that is not seen in these numbers has changed
//! nothing, and one that is has to be looked at.

use std::collections::BTreeMap;

use system::protocol::{Rule, Rules};

use super::{
    Options,
    command::script,
    explore::{Bounds, Explored, explore},
};
use crate::schedule::{Property, Schedule};

fn writes(replicas: u8, transactions: u8) -> Options {
    Options::of(replicas, script(transactions, 0, 1))
}

fn all_of(options: &Options) -> Explored {
    let explored = explore(options, Bounds::default(), |_, _| {});
    let told = explored.broken.first().map(|(_, schedule)| schedule.tell());
    assert!(explored.complete, "{:?}: {told:#?}", explored.broken);
    explored
}

#[track_caller]
fn holds_in(options: &Options, states: usize) -> BTreeMap<&'static str, usize> {
    let explored = all_of(options);
    let reached =
        explored.situations.iter().map(|(name, steps)| (*name, steps.expect(name))).collect();
    assert_eq!(explored.unique, states);
    reached
}

#[test]
fn one_write_and_nothing_fails() {
    let reached = holds_in(&writes(2, 1), 133);
    assert_eq!(reached["commit"], 8, "ask, two prepares, two forces, two votes, force");
    assert_eq!(reached["abort"], 2, "ask, votes missing");
    holds_in(&Options { setup: without_peers(), ..writes(2, 1) }, 68);
}

fn without_peers() -> crate::schedule::Setup {
    crate::schedule::Setup { peers: false, ..writes(2, 1).setup }
}

#[test]
fn crashes_anywhere() {
    let reached = holds_in(&Options { master_crashes: 1, ..writes(2, 1) }, 2805);
    assert_eq!(reached["truly blocked"], 9, "commit, and the master is down");
    holds_in(&Options { replica_crashes: 1, ..writes(2, 1) }, 6082);
}

#[test]
fn two_writes_of_one_key() {
    holds_in(&writes(2, 2), 31430);
}

#[test]
fn three_replicas() {
    holds_in(&writes(3, 1), 906);
}

#[test]
fn symmetry_loses_nothing() {
    let with = all_of(&Options { replica_crashes: 1, ..writes(2, 1) });
    let without = all_of(&Options { replica_crashes: 1, symmetry: false, ..writes(2, 1) });
    assert!(without.unique > with.unique && without.unique < 2 * with.unique);
    assert_eq!(with.situations, without.situations);
}

#[test]
fn a_broken_rule_is_caught_and_its_schedule_shows_it_again() {
    for (rule, options, property, steps) in [
        (Rule::ReadsRespectLocks, writes(2, 1), Property::R1, 8),
        (Rule::PreparedWaits, writes(2, 1), Property::R1, 9),
        (Rule::WriteAll, writes(3, 1), Property::R1, 8),
        (Rule::RefuseBeforePeerAbort, writes(2, 1), Property::Truthfulness, 11),
    ] {
        let mut broken = options;
        broken.setup.rules = Rules::ALL.without(rule);
        let explored = explore(&broken, Bounds::default(), |_, _| {});
        let (_, schedule) = explored
            .broken
            .iter()
            .find(|(found, _)| *found == property)
            .unwrap_or_else(|| panic!("{rule} was not caught by {property}"));
        assert!(schedule.steps.len() <= steps, "{rule}: {} steps", schedule.steps.len());
        let text = serde_json::to_string(schedule).expect("a schedule has a JSON form");
        let read: Schedule = serde_json::from_str(&text).expect("it was just written");
        let (_, cluster) = read.tell().expect("every step is possible");
        assert!(cluster.breaks(property), "{rule} is not caught when the schedule is run again");
    }
}
