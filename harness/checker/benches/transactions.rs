//! Time and memory to judge transactions on lists: `cargo bench -p checker --bench transactions`.
//!
//! Synthetic histories of about four micro-operations a transaction, on ten keys at a time with 32 appends
//! each: strictly serializable; with one write skew planted; and of databases that are only serializable,
//! snapshot isolated or read committed, whose anomalies are everywhere. Each is measured in a process of its
//! own. Reading a history packs it, and is timed apart; so is putting what was found into words. Memory is
//! the highest resident size while a history is judged, the packed history included.
//!
//! `OPERATIONS=1000000` judges one size instead of 0.1, 1 and 10 million micro-operations. `HISTORY=FILES`,
//! paths separated by colons, judges files of any format instead, five times each; of histories on registers
//! also each level of Biswas and Enea alone.

use std::{env, fs, io, process::Command, time::Instant};

use checker::transactions::{
    AxiomaticLevel, BaseLevel, Level, Order, Standing, TransactionHistory, judge, judge_axiomatic,
    report, verify,
};
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

/// The histories, by name.
const HISTORIES: [(&str, Isolation, Option<PlantedAnomaly>); 5] = [
    ("strictly serializable", Isolation::StrictSerializable, None),
    ("one write skew", Isolation::StrictSerializable, Some(PlantedAnomaly::WriteSkew)),
    ("serializable", Isolation::Serializable, None),
    ("snapshot isolation", Isolation::Snapshot, None),
    ("read committed", Isolation::ReadCommitted, None),
];

fn measure(operations: u64, name: &str, isolation: Isolation, anomaly: Option<PlantedAnomaly>) {
    let options = TransactionOptions {
        transactions: operations / 4,
        keys: 10,
        writes_per_key: 32,
        steps: 7,
        concurrency: 10,
        indeterminate: 0.001,
        workload: SyntheticWorkload::Append,
        isolation,
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
    let is_strict = isolation == Isolation::StrictSerializable && anomaly.is_none();
    assert_eq!(holds, is_strict, "{operations} operations, {name}");
    if let Some(certificate) = &judged.certificate {
        verify(&history, &certificate.order, certificate.level.order).expect("a certificate");
    }
    let telling = cpu_seconds();
    let told = report(&history, &judged, None);
    let telling = cpu_seconds() - telling;
    println!(
        "{:>9} operations, {:>8} transactions, {name:>21}: read in {read:6.2} s, judged in {seconds:6.3} s \
         ({cpu:6.3} s of CPU time), told in {telling:6.3} s, {bytes:5.1} bytes an operation; {}",
        history.micro_ops(),
        history.len(),
        told.strongest.join(", ")
    );
}

/// Reads and judges a file five times, and prints the best times.
fn measure_file(path: &str) {
    let path = std::path::Path::new(path);
    let format = history::formats::detect(path).unwrap_or_else(|error| panic!("{error}"));
    let mut best = [f64::MAX; 5];
    let mut told = String::new();
    for _ in 0..5 {
        let start = cpu_seconds();
        let mut history = TransactionHistory::default();
        history::formats::stream(path, format, &mut history)
            .unwrap_or_else(|error| panic!("{error}"));
        history.seal();
        let read = cpu_seconds();
        let judged = judge(&mut history).expect("it can be judged");
        let end = cpu_seconds();
        best[0] = best[0].min(read - start);
        best[1] = best[1].min(end - read);
        for level in AxiomaticLevel::ALL {
            let start = cpu_seconds();
            if judge_axiomatic(&mut history, level).is_ok() {
                let best = &mut best[2 + level as usize];
                *best = best.min(cpu_seconds() - start);
            }
        }
        let standings =
            judged.standings.iter().map(|(level, standing)| (level.to_string(), standing));
        let axiomatic = AxiomaticLevel::ALL.into_iter().filter_map(|level| {
            Some((checker::levels::Level::Axiomatic(level).name(), judged.axiomatic(level)?))
        });
        let short = |standing: &Standing| match standing {
            Standing::Holds => "yes",
            Standing::RuledOut => "no",
            Standing::Unknown(_) => "unknown",
        };
        let levels = standings.chain(axiomatic).map(|(name, it)| format!("{name}: {}", short(it)));
        told = format!("{} transactions; {}", history.len(), levels.collect::<Vec<_>>().join(", "));
    }
    println!(
        "{}: read in {:.4} s, judged in {:.4} s of CPU time (each level of Biswas and Enea alone: {:.4}, \
         {:.4} and {:.4} s); {told}",
        path.display(),
        best[0],
        best[1],
        best[2],
        best[3],
        best[4]
    );
}

/// The arguments of a process that measures one history: its position, and the number of operations.
const ONE: &str = "--one";

fn main() {
    let arguments: Vec<String> = env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == ONE) {
        let number = |at: usize| arguments[at].parse::<u64>().expect("a number");
        let (name, isolation, anomaly) = HISTORIES[number(at + 1) as usize];
        return measure(number(at + 2), name, isolation, anomaly);
    }
    if let Ok(paths) = env::var("HISTORY") {
        return paths.split(':').for_each(measure_file);
    }
    let sizes = match env::var("OPERATIONS") {
        Ok(text) => vec![text.parse().expect("OPERATIONS is a number")],
        Err(_) => vec![100_000, 1_000_000, 10_000_000_u64],
    };
    let program = env::current_exe().expect("the path of this program");
    for operations in sizes {
        for (at, (name, ..)) in HISTORIES.iter().enumerate() {
            let numbers = [at.to_string(), operations.to_string()];
            let status = Command::new(&program).arg(ONE).args(numbers).status();
            assert!(status.expect("it starts").success(), "{name}");
        }
    }
}
