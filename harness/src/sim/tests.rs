//! A seed is a run; clean runs are clean; broken rules are found, and shrink to schedules that show
//! them again.

use system::protocol::{CommitMode, Rule, Rules};

use super::{Plan, run, schedule, try_seed};
use crate::{checker::Validity, schedule::shrink};

/// Seeds, each in both modes.
fn seeds() -> impl Iterator<Item = (u64, CommitMode)> {
    (0..20).flat_map(|seed| CommitMode::ALL.map(|commit| (seed, commit)))
}

#[test]
fn a_seed_is_a_run_bit_for_bit() {
    for (seed, commit) in seeds() {
        let plan = Plan::of(seed, commit, Rules::ALL);
        let (one, other) = (run(&plan, true), run(&plan, true));
        assert_eq!(one.history, other.history, "seed {seed}");
        assert_eq!(one.journals, other.journals, "seed {seed}");
        assert_eq!(one.count, other.count, "seed {seed}");
    }
}

#[test]
fn recording_changes_nothing() {
    let plan = Plan::of(3, CommitMode::Logged, Rules::ALL);
    assert_eq!(run(&plan, true).history, run(&plan, false).history);
}

#[test]
fn the_clean_protocol_is_clean_by_every_check() {
    let mut worked = 0;
    for (seed, commit) in seeds() {
        let verdict = try_seed(seed, commit, Rules::ALL, true);
        assert_eq!(verdict.validity(), Validity::Valid, "{commit}, seed {seed}: {verdict:#?}");
        let checks = verdict.checks.expect("they were asked");
        worked += usize::from(checks.verdict == Validity::Valid);
    }
    assert!(worked >= 20, "in only {worked} of 40 runs a write or a get came through");
}

#[test]
fn a_broken_rule_is_found_and_shrinks() {
    let rules = Rules::ALL.without(Rule::KeepOutcomeUntilWatermark);
    let (seed, property) = (0..50)
        .find_map(|seed| {
            Some((seed, *try_seed(seed, CommitMode::Logged, rules, false).broken.first()?))
        })
        .expect("a seed of these shows it");
    let plan = Plan::of(seed, CommitMode::Logged, rules);
    let whole = schedule(&plan, &run(&plan, true), property);
    let small = shrink(whole.clone(), property);
    let (few, all) = (small.steps.len(), whole.steps.len());
    assert!(few * 10 < all, "{few} of {all} steps are left");
    let (_, cluster) = small.tell().expect("every step is possible");
    assert!(cluster.breaks(property), "the shrunk schedule of seed {seed} shows nothing");
}
