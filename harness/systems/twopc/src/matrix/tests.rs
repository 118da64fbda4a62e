use std::collections::BTreeSet;

use history::{NemesisEvent, Shard};
use rand::SeedableRng as _;
use serde_json::{Value as Json, json};

use super::*;

const LOGGED: CommitMode = CommitMode::Logged;

fn capabilities(disks: bool, shard: Shard) -> Capabilities {
    Capabilities { disks, shard, commit: LOGGED }
}

fn event(f: &str, value: Json) -> NemesisEvent {
    NemesisEvent::new(f, value).unwrap_or_else(|why| panic!("{why}"))
}

#[test]
fn every_point_that_applies_has_its_cells_and_most_are_reachable() {
    // Exact numbers, so that no change of a node's points goes unnoticed.
    for (commit, total, reachable) in [(LOGGED, 462, 426), (CommitMode::Votes, 516, 444)] {
        let cells = cells(3, true, commit);
        let distinct: BTreeSet<_> = cells.iter().map(|(cell, ..)| cell).collect();
        assert_eq!(distinct.len(), cells.len());
        for role in [Role::Master, Role::Replica] {
            for point in Point::all(role) {
                for action in CrashAction::ALL {
                    let cell = MatrixCell { point: point.into(), action };
                    let exists = distinct.contains(&cell);
                    assert_eq!(exists, point.applies_to(commit), "{commit}: {cell}");
                }
            }
        }
        let third = "master:after-send:decide:3".parse().expect("it is a crash point");
        let cell = MatrixCell { point: third, action: CrashAction::PowerLoss };
        assert!(distinct.contains(&cell));
        let count = cells.iter().filter(|(.., reachability)| reachability.is_ok()).count();
        assert_eq!((cells.len(), count), (total, reachable), "{commit}");
    }
}

#[test]
fn the_shards_cover_the_matrix_and_each_round_draws_every_cell() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut drawn = BTreeSet::new();
    for number in 1..=5 {
        let mut matrix = CrashMatrix::new(3, capabilities(true, Shard { number, of: 5 }));
        for _ in 0..matrix.cells.len() {
            let injection = matrix.next(&mut rng);
            matrix.report(true);
            let Trigger::Point { point, .. } = injection.trigger else { panic!("{injection:?}") };
            let action = match injection.action {
                FaultAction::Kill { .. } => CrashAction::Kill,
                FaultAction::Pause { .. } => CrashAction::Pause,
                _ => CrashAction::PowerLoss,
            };
            assert!(drawn.insert(MatrixCell { point, action }));
        }
    }
    let cells = cells(3, true, LOGGED).into_iter();
    let reachable = cells.filter(|(.., reachability)| reachability.is_ok());
    assert_eq!(drawn, reachable.map(|(cell, ..)| cell).collect());
}

#[test]
fn a_cell_that_was_missed_is_tried_again() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut matrix = CrashMatrix::new(1, capabilities(false, Shard { number: 1, of: 200 }));
    let first = matrix.next(&mut rng).trigger;
    let rest = matrix.left.len();
    matrix.report(false);
    let again = (0..=rest).map(|_| {
        let trigger = matrix.next(&mut rng).trigger;
        matrix.report(true);
        trigger
    });
    assert!(again.collect::<Vec<_>>().contains(&first));
}

#[test]
fn coverage_lists_what_was_reached_what_was_not_and_what_cannot_be() {
    let mut coverage = Coverage::default();
    coverage.add(&MatrixDescription::new(3, capabilities(true, Shard::WHOLE)).event());
    let point = "master:before-persist:commit";
    coverage.add(&event("kill", json!({ "fault": "crash-matrix", "at": point })));
    coverage.add(&event("kill", json!({ "fault": "kill-master" })));
    let miss = |point: &str, load_ended: bool| {
        let fields = json!({
            "fault": "crash-matrix", "at": point, "action": "kill", "load_ended": load_ended,
            "why": "late",
        });
        event("miss", fields)
    };
    coverage.add(&miss(point, false));
    assert_eq!(coverage.vacuous().count(), 0, "it was reached another time");
    coverage.add(&miss("master:after-send:read", true));
    assert_eq!(coverage.vacuous().count(), 0, "the load had ended");
    coverage.add(&miss("master:after-send:read", false));
    assert_eq!(coverage.vacuous().count(), 1);
    let text = coverage.to_string();
    let all = coverage.reachable.len();
    assert!(text.contains(&format!("1 of {all} cells")), "{text}");
    assert!(text.contains("only when a cluster is created"), "{text}");
    let mut both = coverage.clone();
    both.merge(coverage);
    let cell = MatrixCell {
        point: point.parse().expect("it is a crash point"),
        action: CrashAction::Kill,
    };
    assert_eq!(both.reachable[&cell], 2);
}

#[test]
fn coverage_reads_records_of_earlier_versions() {
    let mut coverage = Coverage::default();
    coverage.add(&event("matrix", json!({ "replicas": 3, "disks": true, "part": "7/60" })));
    let all = coverage.reachable.len();
    let boot = "replica:after-persist:boot";
    coverage.add(&event("kill", json!({ "fault": "crash-matrix", "at": boot })));
    assert_eq!(coverage.reachable.len(), all, "it is the point of the incarnation");
    let miss = json!({
        "fault": "crash-matrix", "at": "master:after-send:read", "harm": "kill", "over": false,
        "why": "late",
    });
    coverage.add(&event("miss", miss));
    assert_eq!(coverage.vacuous().count(), 1);
}
