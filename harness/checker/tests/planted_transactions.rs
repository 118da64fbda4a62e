//! Synthetic histories of transactions: of their level by construction, and each planted anomaly is
//! found, with nothing reported that it does not imply.
//!
//! `PLANTED_TRANSACTIONS=1000000 cargo test --release -p checker --test planted_transactions` plants in
//! larger ones.

use std::{env, io};

use checker::transactions::{
    AnomalyKind, BaseLevel, Judged, Level, Order, Standing, TransactionHistory, judge, report,
    verify,
};
use history::synthetic::transactions::{
    Isolation, PlantedAnomaly, SyntheticWorkload, TransactionOptions, generate,
};

fn options(transactions: u64) -> TransactionOptions {
    TransactionOptions {
        transactions,
        keys: 8,
        writes_per_key: 32,
        steps: 5,
        concurrency: 8,
        indeterminate: 0.02,
        workload: SyntheticWorkload::Append,
        isolation: Isolation::StrictSerializable,
        seed: 7,
        anomaly: None,
    }
}

fn judged(options: &TransactionOptions) -> (TransactionHistory, Judged) {
    let mut history = TransactionHistory::default();
    generate(options, |event| {
        event.pass_on(options.workload, &mut history).map_err(io::Error::other)
    })
    .expect("well formed");
    let judged = judge(&mut history).expect("it can be judged");
    (history, judged)
}

fn size() -> u64 {
    env::var("PLANTED_TRANSACTIONS").map_or(3_000, |text| text.parse().expect("a number"))
}

#[test]
fn a_simulated_database_has_its_level() {
    use BaseLevel::{ReadCommitted, Serializable, SnapshotIsolation};
    for (isolation, base, order) in [
        (Isolation::ReadCommitted, ReadCommitted, Order::RealTime),
        (Isolation::Snapshot, SnapshotIsolation, Order::RealTime),
        (Isolation::Serializable, Serializable, Order::Dependencies),
        (Isolation::StrictSerializable, Serializable, Order::RealTime),
    ] {
        for seed in 0..8 {
            // The order of the versions of registers is not seen, so snapshot isolation stays unknown.
            let is_seen = seed < 4 || isolation == Isolation::Snapshot;
            let workload =
                if is_seen { SyntheticWorkload::Append } else { SyntheticWorkload::Registers };
            let options = TransactionOptions { isolation, seed, workload, ..options(2_000) };
            let (history, judged) = judged(&options);
            let level = Level { base, order };
            // Without real time, the search for an order of writes to registers may be too long.
            if workload == SyntheticWorkload::Registers && isolation == Isolation::Serializable {
                assert_ne!(judged.standing(level), &Standing::RuledOut, "{seed}");
                continue;
            }
            assert_eq!(judged.standing(level), &Standing::Holds, "{isolation:?} {seed}");
            // None of the weaker ones is a stronger one by accident.
            let strict = Level { base: Serializable, order: Order::RealTime };
            let is_strict = *judged.standing(strict) == Standing::Holds;
            assert_eq!(
                is_strict,
                isolation == Isolation::StrictSerializable,
                "{isolation:?} {seed}"
            );
            if base == Serializable {
                let certificate = judged.certificate.as_ref().expect("it is serializable");
                verify(&history, &certificate.order, order).expect("a certificate");
            }
        }
    }
}

/// What a planted anomaly is reported as, with its order, and the number of transactions in its cycle.
fn expected(anomaly: PlantedAnomaly) -> (AnomalyKind, Order, Option<usize>) {
    use AnomalyKind as A;
    let plain = |kind| (kind, Order::Dependencies, None);
    let cycle = |kind, length| (kind, Order::Dependencies, Some(length));
    match anomaly {
        PlantedAnomaly::G0 => cycle(A::G0, 2),
        PlantedAnomaly::G1a => plain(A::G1a),
        PlantedAnomaly::G1b => plain(A::G1b),
        PlantedAnomaly::G1c => cycle(A::G1c, 2),
        PlantedAnomaly::Internal => plain(A::Internal),
        PlantedAnomaly::Duplicate => plain(A::DuplicateElements),
        PlantedAnomaly::IncompatibleOrder => plain(A::IncompatibleOrder),
        PlantedAnomaly::GarbageRead => plain(A::GarbageRead),
        PlantedAnomaly::FutureRead => plain(A::FutureRead),
        PlantedAnomaly::DirtyUpdate => plain(A::DirtyUpdate),
        PlantedAnomaly::LostUpdate => plain(A::LostUpdate),
        PlantedAnomaly::GSingle => cycle(A::GSingle, 2),
        PlantedAnomaly::GNonadjacent => cycle(A::GNonadjacent, 4),
        PlantedAnomaly::LongFork => cycle(A::LongFork, 4),
        PlantedAnomaly::WriteSkew => cycle(A::G2Item, 2),
        PlantedAnomaly::StaleSession => (A::GSingle, Order::Process, Some(2)),
        PlantedAnomaly::StaleRead | PlantedAnomaly::LostWrite => {
            (A::GSingle, Order::RealTime, Some(2))
        }
    }
}

#[test]
fn each_planted_anomaly_is_found_and_nothing_that_it_does_not_imply() {
    let of_registers = PlantedAnomaly::ALL.into_iter().filter(|anomaly| anomaly.is_of_registers());
    let all = PlantedAnomaly::ALL.into_iter().map(|anomaly| (SyntheticWorkload::Append, anomaly));
    for (workload, anomaly) in
        all.chain(of_registers.map(|anomaly| (SyntheticWorkload::Registers, anomaly)))
    {
        for workers in [2, 8] {
            let options = TransactionOptions {
                anomaly: Some(anomaly),
                concurrency: workers,
                workload,
                ..options(size())
            };
            let (history, judged) = judged(&options);
            let (kind, order, length) = expected(anomaly);
            let found = judged.anomalies();
            assert!(
                found.iter().any(|(found, with, _)| *found == kind && *with == order),
                "{anomaly}: {found:?}"
            );
            for (other, with, _) in &found {
                for base in BaseLevel::ALL {
                    let is_implied = base.forbids(kind) && *with >= order;
                    assert!(!base.forbids(*other) || is_implied, "{anomaly}: {found:?}");
                }
            }
            let told = report(&history, &judged, None);
            assert_eq!(
                told.lost.len(),
                usize::from(anomaly == PlantedAnomaly::LostWrite),
                "{anomaly}"
            );
            if let Some(length) = length {
                let shown = &told.anomalies.iter().find(|told| told.name.starts_with(kind.name()));
                let shown = shown.expect("it was found");
                assert_eq!(shown.transactions.len(), length, "{anomaly}: {}", shown.text);
                assert!(shown.text.contains("none is shorter"), "{}", shown.text);
            }
        }
    }
}
