//! A seed is a run; clean runs are clean; broken rules are found, and shrink to schedules that show
//! them again.

use system::protocol::{Rule, Rules};

use super::{Plan, run, schedule, try_seed};
use crate::{checker::Validity, schedule::shrink};

#[test]
fn a_seed_is_a_run_bit_for_bit() {
    for seed in 0..20 {
        let plan = Plan::of(seed, Rules::ALL);
        let (one, other) = (run(&plan, true), run(&plan, true));
        assert_eq!(one.history, other.history, "seed {seed}");
        assert_eq!(one.journals, other.journals, "seed {seed}");
        assert_eq!(one.count, other.count, "seed {seed}");
    }
}

#[test]
fn recording_changes_nothing() {
    let plan = Plan::of(3, Rules::ALL);
    assert_eq!(run(&plan, true).history, run(&plan, false).history);
}

#[test]
fn the_clean_protocol_is_clean_by_every_check() {
    let mut worked = 0;
    for seed in 0..20 {
        let verdict = try_seed(seed, Rules::ALL, true);
        assert_eq!(verdict.validity(), Validity::Valid, "seed {seed}: {verdict:#?}");
        let checks = verdict.checks.expect("they were asked");
        worked += usize::from(checks.verdict == Validity::Valid);
    }
    assert!(worked >= 10, "in only {worked} of 20 seeds a write or a get came through");
}

#[test]
fn a_broken_rule_is_found_and_shrinks() {
    let rules = Rules::ALL.without(Rule::KeepOutcomeUntilFloor);
    let (seed, property) = (0..50)
        .find_map(|seed| Some((seed, *try_seed(seed, rules, false).broken.first()?)))
        .expect("a seed of these shows it");
    let plan = Plan::of(seed, rules);
    let whole = schedule(&plan, &run(&plan, true), property);
    let small = shrink(whole.clone(), property);
    let (few, all) = (small.steps.len(), whole.steps.len());
    assert!(few * 10 < all, "{few} of {all} steps are left");
    let (_, cluster) = small.tell().expect("every step is possible");
    assert!(cluster.breaks(property), "the shrunk schedule of seed {seed} shows nothing");
}
