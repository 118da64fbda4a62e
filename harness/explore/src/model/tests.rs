//! The exact number of states of small models. A change of the protocol that leaves these numbers
//! alone has most likely changed nothing; one that alters them has to be understood.

use std::collections::{BTreeMap, HashSet};

use protocol::{CommitMode, Rule, Rules};
use stateright::Model as _;

use super::{
    ClusterModel, ModelOptions, State,
    exploration::{Exploration, ExplorationLimits, explore},
    script, snapshot,
};
use crate::schedule::{Property, Schedule, ScheduleSetup};

fn writes(replicas: u8, transactions: u8) -> ModelOptions {
    ModelOptions::of(replicas, script(transactions, 0, 1))
}

fn explore_all(options: &ModelOptions) -> Exploration {
    let exploration = explore(options, ExplorationLimits::default(), |_, _| {});
    let trace = exploration.violations.first().map(|(_, schedule)| schedule.trace());
    assert!(exploration.complete, "{:?}: {trace:#?}", exploration.violations);
    exploration
}

/// Explores a model in which every property holds, and returns the steps to each situation.
#[track_caller]
fn holds_in(options: &ModelOptions, states: usize) -> BTreeMap<&'static str, usize> {
    let exploration = explore_all(options);
    let reached =
        exploration.situations.iter().map(|(name, steps)| (*name, steps.expect(name))).collect();
    assert_eq!(exploration.unique, states);
    reached
}

#[test]
fn one_write_without_faults() {
    let reached = holds_in(&writes(2, 1), 97);
    assert_eq!(reached["commit"], 8, "call, two prepares, two forces, two votes, force");
    assert_eq!(reached["abort"], 2, "call, vote timeout");
    let without_peers = ScheduleSetup { peers: false, ..writes(2, 1).setup };
    holds_in(&ModelOptions { setup: without_peers, ..writes(2, 1) }, 68);
}

#[test]
fn crashes_anywhere() {
    let reached = holds_in(&ModelOptions { master_crashes: 1, ..writes(2, 1) }, 1603);
    let blocked = reached["blocked after acknowledging a commit"];
    assert_eq!(blocked, 9, "commit, then the master crashes");
    holds_in(&ModelOptions { replica_crashes: 1, ..writes(2, 1) }, 3159);
}

fn votes(options: ModelOptions) -> ModelOptions {
    let setup = ScheduleSetup { commit: CommitMode::Votes, ..options.setup };
    ModelOptions { setup, ..options }
}

#[test]
fn votes_make_the_commit() {
    let one = votes(writes(2, 1));
    let reached = holds_in(&one, 684);
    assert_eq!(reached["commit"], 7, "call, two prepares, two forces, two votes");
    assert_eq!(reached["abort"], 5, "call, vote timeout, veto requested, forced, received");
    holds_in(&ModelOptions { master_crashes: 1, ..one.clone() }, 12871);
    holds_in(&ModelOptions { replica_crashes: 1, ..one.clone() }, 28957);
    holds_in(&votes(writes(3, 1)), 10186);
}

/// From empty stores on.
fn beginning(options: ModelOptions) -> ModelOptions {
    let setup = ScheduleSetup { handshaken: false, ..options.setup };
    ModelOptions { setup, ..options }
}

/// At the beginning of a cluster a replica may lose its store while messages to it are on their way,
/// and the master may start again before its records are durable.
#[test]
fn a_store_that_is_lost_at_the_beginning_does_not_rejoin() {
    let wiped = |replicas, master_crashes| {
        beginning(ModelOptions { master_crashes, wipes: 1, ..writes(replicas, 1) })
    };
    // 2361, 17988 and 95000 before a Fence listed the stores of all replicas. A replica that knows
    // its peers differs from one that does not, and answers nobody else.
    let reached = holds_in(&wiped(2, 0), 2421);
    assert_eq!(reached["commit"], 20, "12 to begin, then 8 as in a cluster that has handshaken");
    holds_in(&votes(wiped(2, 0)), 18051);
    holds_in(&wiped(2, 1), 96872);
    // A single replica has no peers to ask.
    let alone = |mut options: ModelOptions| {
        options.setup.peers = false;
        options
    };
    holds_in(&alone(wiped(1, 1)), 3699);
    holds_in(&alone(votes(wiped(1, 1))), 5164);
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
    let with = explore_all(&ModelOptions { replica_crashes: 1, ..writes(2, 1) });
    let without =
        explore_all(&ModelOptions { replica_crashes: 1, symmetry: false, ..writes(2, 1) });
    assert!(without.unique > with.unique && without.unique < 2 * with.unique);
    assert_eq!(with.situations, without.situations);
}

/// The reachable states without the messages in flight: hosts, invariant checker and budget.
fn reachable_clusters(options: ModelOptions) -> HashSet<u64> {
    let model = ClusterModel::new(ModelOptions { symmetry: false, ..options });
    let cluster = |state: &State| {
        let hosts = state.hosts.iter().map(|id| state.interner.host(*id).hashes[0]);
        let cluster = hosts.fold(state.interner.checker_hash(state.checker), u64::wrapping_add);
        cluster
            ^ u64::from(state.budget.next_call)
            ^ u64::from(state.budget.replica_crashes) << 8
            ^ u64::from(state.budget.master_crashes) << 16
    };
    let mut reached = HashSet::new();
    let mut seen = HashSet::new();
    let mut pending = model.init_states();
    let mut actions = Vec::new();
    while let Some(state) = pending.pop() {
        assert!(model.checker_of(&state).all_hold());
        reached.insert(cluster(&state));
        model.actions(&state, &mut actions);
        for action in actions.drain(..) {
            let next = model.next_state(&state, action);
            pending.extend(next.filter(|next| seen.insert(next.hash)));
        }
    }
    reached
}

#[test]
fn removing_inert_messages_loses_nothing() {
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
        let all = reachable_clusters(ModelOptions { reduced: false, ..options.clone() });
        let fewer = reachable_clusters(options.clone());
        assert!(all == fewer, "{} of {} in {options:?}", fewer.len(), all.len());
    }
}

#[test]
fn gets_are_linearizable() {
    let requests = |writes, gets| ModelOptions {
        histories: true,
        ..ModelOptions::of(2, script(writes, gets, 1))
    };
    holds_in(&requests(1, 1), 2802);
    holds_in(&ModelOptions { master_crashes: 1, ..requests(1, 1) }, 25193);
}

/// A write of one key, and both keys as a list, or as a range.
#[test]
fn snapshots_are_of_one_instant() {
    let counts = [false, true].map(|as_range| {
        let mut requests = script(1, 0, 2);
        requests.push(snapshot(2, as_range));
        let options = ModelOptions { histories: true, ..ModelOptions::of(2, requests) };
        explore_all(&options).unique
    });
    assert_eq!(counts, [2802, 2256]);
}

/// Writes of two keys, and then a snapshot of both.
fn with_snapshot(replicas: u8, as_range: bool) -> ModelOptions {
    let mut requests = script(2, 0, 2);
    requests.push(snapshot(2, as_range));
    ModelOptions { histories: true, ..ModelOptions::of(replicas, requests) }
}

/// One message may end both writes: what the second was locked for is not there yet when the first is applied.
#[test]
fn snapshots_beside_two_writes_are_of_one_instant() {
    for as_range in [false, true] {
        explore_all(&with_snapshot(1, as_range));
    }
}

/// An entry rots at any time, and is replaced by the peer's copy unless a write comes first.
#[test]
fn damaged_entries_are_healed() {
    let one = ModelOptions { damages: 1, ..writes(2, 1) };
    let reached = holds_in(&one, 161);
    assert_eq!(reached["a damaged entry is healed"], 12, "commit, Decide at both, force, damage");
    holds_in(&ModelOptions { replica_crashes: 1, ..one.clone() }, 5413);
    holds_in(&votes(one), 1906);
    holds_in(&ModelOptions { damages: 1, ..writes(2, 2) }, 35455);
}

#[test]
fn a_broken_rule_is_caught_and_the_counterexample_can_be_replayed() {
    for (rule, options, property, steps) in [
        (Rule::ReadsRespectLocks, writes(2, 1), Property::R1, 8),
        (Rule::PreparedWaits, writes(2, 1), Property::R1, 9),
        (Rule::WriteAll, writes(3, 1), Property::R1, 8),
        (
            Rule::LateHealDropped,
            // The second write is a delete, and the copy brings the first one back.
            ModelOptions { damages: 1, ..writes(2, 2) },
            Property::R1,
            30,
        ),
        (Rule::SnapshotAtOneInstant, with_snapshot(1, false), Property::R1, 14),
        (Rule::RangeSeesAbsentLocks, with_snapshot(1, true), Property::R1, 10),
        (Rule::RefuseBeforePeerAbort, writes(2, 1), Property::ReplySoundness, 11),
        (
            Rule::MemberBeforePromise,
            beginning(ModelOptions { wipes: 1, ..writes(2, 1) }),
            Property::R1,
            25,
        ),
        (
            Rule::MembersDurableBeforeWrite,
            votes(beginning(ModelOptions { master_crashes: 1, wipes: 1, ..writes(1, 1) })),
            Property::R1,
            19,
        ),
    ] {
        let mut broken = options;
        broken.setup.rules = Rules::ALL.without(rule);
        let exploration = explore(&broken, ExplorationLimits::default(), |_, _| {});
        let (_, schedule) = exploration
            .violations
            .iter()
            .find(|(violated, _)| *violated == property)
            .unwrap_or_else(|| panic!("{rule} was not caught by {property}"));
        assert!(schedule.steps.len() <= steps, "{rule}: {} steps", schedule.steps.len());
        let text = serde_json::to_string(schedule).expect("a schedule has a JSON form");
        let read: Schedule = serde_json::from_str(&text).expect("it was just written");
        let (_, cluster) = read.trace().expect("every step is possible");
        assert!(cluster.violates(property), "the counterexample for {rule} does not replay");
    }
}
