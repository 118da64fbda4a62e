use std::collections::BTreeSet;

use history::Shard;
use lab::{injection::Lane, seeds::nemesis_rng};
use system::{
    node::{Point, Role},
    protocol::CommitMode,
};

use super::*;

fn injections(faults: &str, replicas: u8, seed: u64, count: usize) -> Vec<Injection> {
    injections_in(CommitMode::Logged, faults, replicas, seed, count)
}

fn injections_in(
    commit: CommitMode,
    faults: &str,
    replicas: u8,
    seed: u64,
    count: usize,
) -> Vec<Injection> {
    let faults = faults.parse().expect("a list of faults");
    let capabilities = Capabilities { disks: true, shard: Shard::WHOLE, commit };
    let schedule = schedule(&faults, replicas, capabilities, Lane::Nodes, nemesis_rng(seed));
    let mut schedule = schedule.expect("faults");
    let injected = std::iter::from_fn(|| {
        let injection = schedule.next()?;
        schedule.report(injection.fault, true);
        Some(injection)
    });
    injected.take(count).collect()
}

#[test]
fn a_seed_repeats_its_injections() {
    assert_eq!(injections("all", 3, 5, 60), injections("all", 3, 5, 60));
    assert_ne!(injections("all", 3, 5, 60), injections("all", 3, 6, 60));
}

#[test]
fn every_fault_of_a_list_is_injected_in_every_round() {
    for seed in 0..20 {
        let count = FaultName::all().iter().filter(|fault| fault.is_in(Lane::Nodes)).count();
        let injections = injections("all", 3, seed, 1 + 3 * count);
        assert_eq!(injections[0].fault, FaultName::FirstCommit, "it begins the run");
        for round in injections[1..].chunks_exact(count) {
            let injected: BTreeSet<_> = round.iter().map(|injection| injection.fault).collect();
            assert_eq!(injected.len(), count);
        }
    }
}

#[test]
fn every_uncertainty_point_is_among_the_first_injections() {
    for seed in 0..20 {
        for replicas in 1..=5u8 {
            let points: BTreeSet<_> =
                injections("master-uncertainty", replicas, seed, 2 + usize::from(replicas))
                    .into_iter()
                    .filter_map(|injection| match injection.trigger {
                        Trigger::Point { point, .. } => Some(point),
                        _ => None,
                    })
                    .collect();
            let last = format!("master:after-send:decide:{}", replicas.max(2) - 1);
            for point in [
                "master:before-persist:commit",
                "master:after-persist:commit",
                "master:after-send:decide:1",
                &last,
            ] {
                let point = point.parse().expect("it is a crash point");
                assert!(points.contains(&point), "{point}");
            }
        }
    }
}

#[test]
fn every_point_applies_to_the_commit_mode_of_the_cluster() {
    for commit in CommitMode::ALL {
        let injections = injections_in(commit, "all", 3, 3, 2000);
        let points = injections.iter().filter_map(|injection| match &injection.trigger {
            Trigger::Point { point: CrashPoint::Process(point), .. } => {
                Some((injection.fault, *point))
            }
            _ => None,
        });
        let points: Vec<_> = points.collect();
        for (fault, point) in &points {
            let first = Point { n: 1, ..*point };
            assert!(Point::all(point.role).any(|known| known == first), "{fault} at {point}");
            assert!(point.applies_to(commit), "{fault} at {point}, commit = {commit}");
        }
        for fault in [FaultName::PowerLoss, FaultName::CrashMatrix] {
            let other = CommitMode::ALL.into_iter().find(|mode| *mode != commit).expect("one");
            let own = |(of, point): &(FaultName, Point)| *of == fault && !point.applies_to(other);
            assert!(points.iter().any(own), "{fault} has no point specific to commit = {commit}");
        }
    }
}

#[test]
fn targets_exist_and_have_the_role_of_their_fault() {
    for injection in injections("all", 2, 3, 200) {
        let name = injection.fault.name();
        match injection.target {
            Node::Master => assert!(!name.contains("replica")),
            Node::Replica(slot) => {
                assert!((1..=2).contains(&slot));
                assert!(!name.contains("master"));
            }
        }
        if let Trigger::Point { point, .. } = &injection.trigger {
            assert_eq!(point.role(), Role::from(injection.target), "{point}");
        }
    }
}

#[test]
fn injections_of_different_faults_overlap_on_different_nodes() {
    let doubled: Vec<_> =
        injections("all", 3, 9, 300).into_iter().filter(|it| it.meanwhile.is_some()).collect();
    assert!(doubled.len() > 20, "{}", doubled.len());
    for injection in doubled {
        let second = injection.meanwhile.expect("filtered");
        assert_ne!(second.target, injection.target);
        assert_eq!(second.trigger, Trigger::Now);
        assert_ne!(second.fault, injection.fault);
        assert!(second.action.outage() < Duration::from_millis(500));
        assert!(second.meanwhile.is_none());
    }
    assert!(injections("kill-replica", 3, 9, 100).iter().all(|it| it.meanwhile.is_none()));
}

#[test]
fn lists_of_faults_are_parsed_from_their_text() {
    for (text, label) in [
        ("none", "none"),
        ("kill-master", "kill-master"),
        ("pause-replica,kill-master,kill-master", "kill-master+pause-replica"),
        ("all", "all"),
        ("all-but-messages", "all-but-messages"),
        // The name of earlier versions.
        ("twin-master", "second-master"),
    ] {
        let faults: Faults = text.parse().expect(text);
        assert_eq!(faults.label(), label);
        assert_eq!(faults.to_string().parse(), Ok(faults));
    }
    assert!("kill-mister".parse::<Faults>().expect_err("no fault").contains("kill-master"));
    assert!("all-but-kill-mister".parse::<Faults>().is_err());
    assert!("none,kill-master".parse::<Faults>().is_err());
    assert!("".parse::<Faults>().is_err());
}
