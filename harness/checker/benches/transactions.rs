//! Time and memory to judge transactions on lists: `cargo bench -p checker --bench transactions`.
//!
//! Synthetic histories of about four micro-operations a transaction, on ten keys at a time with 32 appends
//! each: strictly serializable, and with a write skew planted. Reading a history packs it, and is timed
//! apart. Memory is the highest resident size while it is judged, the packed history included.
//!
//! `OPERATIONS=1000000` judges one size instead of 0.1, 1 and 10 million micro-operations.

use std::{env, fs, io, time::Instant};

use checker::transactions::{BaseLevel, Level, Order, Standing, TransactionHistory, judge, verify};
use history::synthetic::transactions::{
    Isolation, PlantedAnomaly, SyntheticWorkload, TransactionOptions, generate,
};

/// A number of bytes from `/proc/self/status`.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib =
        line.and_then(|line| line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// The time that this thread has run, in seconds: on a shared machine the clock shows more.
fn cpu_seconds() -> f64 {
    let statistics = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds = statistics.split(' ').next().and_then(|first| first.parse::<f64>().ok());
    nanoseconds.unwrap_or(0.0) / 1e9
}

fn measure(operations: u64, anomaly: Option<PlantedAnomaly>) {
    let options = TransactionOptions {
        transactions: operations / 4,
        keys: 10,
        writes_per_key: 32,
        steps: 7,
        concurrency: 10,
        indeterminate: 0.001,
        workload: SyntheticWorkload::Append,
        isolation: Isolation::StrictSerializable,
        seed: 1,
        anomaly,
    };
    let before = memory("VmRSS");
    let start = Instant::now();
    let mut history = TransactionHistory::default();
    generate(&options, |event| {
        event.pass_on(options.workload, &mut history).map_err(io::Error::other)
    })
    .expect("well formed");
    history.seal();
    let read = start.elapsed().as_secs_f64();
    // Forgets the peak of the reading.
    let _ = fs::write("/proc/self/clear_refs", "5");
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let judged = judge(&mut history).expect("it can be judged");
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    let bytes = memory("VmHWM").saturating_sub(before) as f64 / history.micro_ops() as f64;
    let level = Level { base: BaseLevel::Serializable, order: Order::RealTime };
    let holds = *judged.standing(level) == Standing::Holds;
    assert_eq!(holds, anomaly.is_none(), "{operations} operations with {anomaly:?}");
    if let Some(certificate) = &judged.certificate {
        verify(&history, &certificate.order, certificate.level.order).expect("a certificate");
    }
    println!(
        "{:>9} operations, {:>8} transactions, {:>13}: read in {read:6.2} s, judged in {seconds:6.3} s \
         ({cpu:6.3} s of CPU time), {bytes:5.1} bytes an operation",
        history.micro_ops(),
        history.len(),
        anomaly.map_or("strict", PlantedAnomaly::name)
    );
}

fn main() {
    let sizes = match env::var("OPERATIONS") {
        Ok(text) => vec![text.parse().expect("OPERATIONS is a number")],
        Err(_) => vec![100_000, 1_000_000, 10_000_000],
    };
    for operations in sizes {
        measure(operations, None);
        measure(operations, Some(PlantedAnomaly::WriteSkew));
    }
}
