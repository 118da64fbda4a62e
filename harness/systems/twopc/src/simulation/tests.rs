//! A seed determines its run; the protocol with every rule kept passes every check; a broken rule is
//! found, and its schedule shrinks to one that still shows it.

use checker::Validity;
use explore::{schedule::shrink, simulator::SimulationPlan};
use system::protocol::{CommitMode, Rule, Rules};

use super::{check_seed, run, schedule};

/// Seeds, each in both commit modes.
fn seeds() -> impl Iterator<Item = (u64, CommitMode)> {
    (0..20).flat_map(|seed| CommitMode::ALL.map(|commit| (seed, commit)))
}

#[test]
fn a_seed_determines_its_run_bit_for_bit() {
    for (seed, commit) in seeds() {
        let plan = SimulationPlan::of(seed, commit, Rules::ALL);
        let (one, other) = (run(&plan, true), run(&plan, true));
        assert_eq!(one.history, other.history, "seed {seed}");
        assert_eq!(one.machine_steps, other.machine_steps, "seed {seed}");
        assert_eq!(one.counters, other.counters, "seed {seed}");
    }
}

#[test]
fn recording_changes_nothing() {
    let plan = SimulationPlan::of(3, CommitMode::Logged, Rules::ALL);
    assert_eq!(run(&plan, true).history, run(&plan, false).history);
}

#[test]
fn the_protocol_passes_every_check() {
    let mut worked = 0;
    for (seed, commit) in seeds() {
        let verdict = check_seed(seed, commit, Rules::ALL, true);
        assert_eq!(verdict.validity(), Validity::Valid, "{commit}, seed {seed}: {verdict:#?}");
        let checks = verdict.checks.expect("they were requested");
        worked += usize::from(checks.verdict == Validity::Valid);
    }
    assert!(worked >= 20, "in only {worked} of 40 runs an operation succeeded");
}

#[test]
fn a_broken_rule_is_found_and_its_schedule_shrinks() {
    let rules = Rules::ALL.without(Rule::KeepOutcomeUntilWatermark);
    let (seed, property) = (0..50)
        .find_map(|seed| {
            let verdict = check_seed(seed, CommitMode::Logged, rules, false);
            Some((seed, *verdict.violations.first()?))
        })
        .expect("one of these seeds shows it");
    let plan = SimulationPlan::of(seed, CommitMode::Logged, rules);
    let whole = schedule(&plan, &run(&plan, true), property);
    let small = shrink(whole.clone(), property);
    let (few, all) = (small.steps.len(), whole.steps.len());
    assert!(few * 10 < all, "{few} of {all} steps are left");
    let (_, cluster) = small.trace().expect("every step is possible");
    assert!(cluster.violates(property), "the minimized schedule of seed {seed} shows nothing");
}
