//! What small models hold, to the state: a change that is not seen in these numbers has changed
//! nothing, and one that is has to be looked at.

use std::collections::{BTreeMap, HashSet};

use stateright::Model as _;
use system::protocol::{CommitMode, Rule, Rules};

use super::{
    ModelOptions, State, TwoPhase,
    command::script,
    explore::{Bounds, Explored, explore},
};
use crate::schedule::{Property, Schedule};

fn writes(replicas: u8, transactions: u8) -> ModelOptions {
    ModelOptions::of(replicas, script(transactions, 0, 1))
}

fn all_of(options: &ModelOptions) -> Explored {
    let explored = explore(options, Bounds::default(), |_, _| {});
    let told = explored.broken.first().map(|(_, schedule)| schedule.tell());
    assert!(explored.complete, "{:?}: {told:#?}", explored.broken);
    explored
}

#[track_caller]
fn holds_in(options: &ModelOptions, states: usize) -> BTreeMap<&'static str, usize> {
    let explored = all_of(options);
    let reached =
        explored.situations.iter().map(|(name, steps)| (*name, steps.expect(name))).collect();
    assert_eq!(explored.unique, states);
    reached
}

#[test]
fn one_write_and_nothing_fails() {
    let reached = holds_in(&writes(2, 1), 97);
    assert_eq!(reached["commit"], 8, "ask, two prepares, two forces, two votes, force");
    assert_eq!(reached["abort"], 2, "ask, votes missing");
    holds_in(&ModelOptions { setup: without_peers(), ..writes(2, 1) }, 68);
}

fn without_peers() -> crate::schedule::ScheduleSetup {
    crate::schedule::ScheduleSetup { peers: false, ..writes(2, 1).setup }
}

#[test]
fn crashes_anywhere() {
    let reached = holds_in(&ModelOptions { master_crashes: 1, ..writes(2, 1) }, 1603);
    assert_eq!(reached["truly blocked"], 9, "commit, and the master is down");
    holds_in(&ModelOptions { replica_crashes: 1, ..writes(2, 1) }, 3159);
}

fn votes(options: ModelOptions) -> ModelOptions {
    let setup = crate::schedule::ScheduleSetup { commit: CommitMode::Votes, ..options.setup };
    ModelOptions { setup, ..options }
}

#[test]
fn where_the_votes_decide() {
    let one = votes(writes(2, 1));
    let reached = holds_in(&one, 684);
    assert_eq!(reached["commit"], 7, "ask, two prepares, two forces, two votes");
    assert_eq!(reached["abort"], 5, "ask, votes missing, a veto asked for, forced, heard");
    holds_in(&ModelOptions { master_crashes: 1, ..one.clone() }, 12871);
    holds_in(&ModelOptions { replica_crashes: 1, ..one.clone() }, 28957);
    holds_in(&votes(writes(3, 1)), 10186);
}

#[test]
fn two_writes_of_one_key() {
    holds_in(&writes(2, 2), 11223);
}

#[test]
fn three_replicas() {
    holds_in(&writes(3, 1), 499);
}

#[test]
fn symmetry_loses_nothing() {
    let with = all_of(&ModelOptions { replica_crashes: 1, ..writes(2, 1) });
    let without = all_of(&ModelOptions { replica_crashes: 1, symmetry: false, ..writes(2, 1) });
    assert!(without.unique > with.unique && without.unique < 2 * with.unique);
    assert_eq!(with.situations, without.situations);
}

/// Every cluster of hosts that is reached, with what the judge remembers and what may still happen,
/// whatever messages are under way.
fn clusters(options: ModelOptions) -> HashSet<u64> {
    let model = TwoPhase::new(ModelOptions { symmetry: false, ..options });
    let standing = |state: &State| {
        let hosts = state.hosts.iter().map(|id| state.world.host(*id).hashes[0]);
        let cluster = hosts.fold(state.world.judge_hash(state.judge), u64::wrapping_add);
        cluster
            ^ u64::from(state.left.next_call)
            ^ u64::from(state.left.replica_crashes) << 8
            ^ u64::from(state.left.master_crashes) << 16
    };
    let mut reached = HashSet::new();
    let mut seen = HashSet::new();
    let mut pending = model.init_states();
    let mut actions = Vec::new();
    while let Some(state) = pending.pop() {
        assert!(model.judge(&state).content());
        reached.insert(standing(&state));
        model.actions(&state, &mut actions);
        for action in actions.drain(..) {
            let next = model.next_state(&state, action);
            pending.extend(next.filter(|next| seen.insert(next.hash)));
        }
    }
    reached
}

#[test]
fn leaving_out_what_is_spent_loses_nothing() {
    let crashes = |master_crashes, replica_crashes| ModelOptions {
        master_crashes,
        replica_crashes,
        ..writes(2, 1)
    };
    let mut kept = writes(2, 2);
    kept.setup.timing.watermark_batch = 256;
    let mut unchecked = crashes(1, 0);
    unchecked.setup.rules = Rules::ALL.without(Rule::EpochCheck);
    let mut unlocked = writes(2, 2);
    unlocked.setup.rules = Rules::ALL.without(Rule::ReplicaLock);
    let voted = [votes(crashes(1, 0)), votes(crashes(0, 1)), votes(writes(3, 1))];
    for options in [writes(2, 2), kept, unlocked, unchecked, crashes(0, 1), writes(3, 1)]
        .into_iter()
        .chain(voted)
    {
        let all = clusters(ModelOptions { reduced: false, ..options.clone() });
        let fewer = clusters(options.clone());
        assert!(all == fewer, "{} of {} in {options:?}", fewer.len(), all.len());
    }
}

#[test]
fn gets_are_linearizable() {
    let asks = |writes, gets| ModelOptions {
        histories: true,
        ..ModelOptions::of(2, script(writes, gets, 1))
    };
    holds_in(&asks(1, 1), 2802);
    holds_in(&ModelOptions { master_crashes: 1, ..asks(1, 1) }, 25193);
}

#[test]
fn a_broken_rule_is_caught_and_its_schedule_shows_it_again() {
    for (rule, options, property, steps) in [
        (Rule::ReadsRespectLocks, writes(2, 1), Property::R1, 8),
        (Rule::PreparedWaits, writes(2, 1), Property::R1, 9),
        (Rule::WriteAll, writes(3, 1), Property::R1, 8),
        (Rule::RefuseBeforePeerAbort, writes(2, 1), Property::ReplySoundness, 11),
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
