//! How fast histories are decided: `cargo bench -p benches --bench checker`. The histories are long, so
//! there is no sampling: each is decided three times, and the best time is printed.

use std::{
    fs,
    hint::black_box,
    io::{BufWriter, Write},
    time::{Duration, Instant},
};

use checker::{
    file::{FileCheckOptions, check_file},
    linearizability::{
        Encoding, Limits, PackedHistory, Verdict, decide,
        frontier::{self, FrontierResult, States},
        packed::{ABSENT, Access, OPEN, PackedOp, RegisterHistory},
        timed_steps,
    },
};
use history::synthetic::{self, SyntheticOptions};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// Parameters of the history of a key.
#[derive(Clone, Copy)]
struct HistoryShape {
    ops: u32,
    concurrency: usize,
    /// Number of values that puts draw from. `None`: every put has a value of its own.
    values: Option<u32>,
    /// Puts and deletes, in thousandths of the operations.
    puts: u32,
    deletes: u32,
    /// Writes that never return, in thousandths.
    open: u32,
}

/// A valid history: a simulated register with random linearization points.
fn simulate(shape: HistoryShape, seed: u64) -> RegisterHistory {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut ops: Vec<PackedOp> = Vec::with_capacity(shape.ops as usize);
    let mut open: Vec<(usize, bool)> = Vec::new();
    let (mut state, mut fresh, mut time) = (ABSENT, 0, 0);
    while ops.len() < shape.ops as usize || !open.is_empty() {
        let invoke = ops.len() < shape.ops as usize
            && (open.is_empty() || open.len() < shape.concurrency && rng.random_ratio(1, 2));
        if invoke {
            let access = match rng.random_range(0..1000) {
                n if n < shape.puts => {
                    fresh += 1;
                    Access::Write(shape.values.map_or(fresh, |values| rng.random_range(1..=values)))
                }
                n if n < shape.puts + shape.deletes => Access::Write(ABSENT),
                _ => Access::Read(ABSENT),
            };
            open.push((ops.len(), false));
            ops.push(PackedOp { invoked: time, returned: OPEN, access });
            time += 1;
            continue;
        }
        let pick = rng.random_range(0..open.len());
        let (at, took_effect) = open[pick];
        if !took_effect {
            match &mut ops[at].access {
                Access::Write(value) => state = *value,
                Access::Read(found) => *found = state,
            }
            open[pick].1 = true;
            if rng.random_ratio(1, 2) {
                continue;
            }
        }
        open.swap_remove(pick);
        let write = matches!(ops[at].access, Access::Write(_));
        if !(write && rng.random_range(0..1000) < shape.open) {
            ops[at].returned = time;
            time += 1;
        }
    }
    RegisterHistory::new(ops)
}

fn best_of_three(mut run: impl FnMut()) -> Duration {
    (0..3)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}

/// Peak resident memory of this process since the last reset, in bytes.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn reset_peak() {
    // If the kernel does not allow the reset, the figure is too large, never too small.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Tier 1, on one core.
fn zones(name: &str, keys: u32, ops: u32) {
    let shape = HistoryShape {
        ops: ops / keys,
        concurrency: 10,
        values: None,
        puts: 450,
        deletes: 100,
        open: 10,
    };
    let histories: Vec<RegisterHistory> =
        (0..keys).map(|key| simulate(shape, u64::from(key))).collect();
    let total: u64 = histories.iter().map(|history| history.ops.len() as u64).sum();
    let mut packed: Vec<PackedHistory> = histories
        .into_iter()
        .map(|history| PackedHistory { encoding: Encoding::Register(history), numbers: Vec::new() })
        .collect();
    reset_peak();
    let before = peak_bytes();
    let time = best_of_three(|| {
        for key in &mut packed {
            let verdict = decide(key, &Limits::default(), false);
            assert!(matches!(verdict, Verdict::Valid(_)), "{verdict:?}");
        }
    });
    // The operations take sixteen bytes each and were allocated before.
    let bytes = (peak_bytes().saturating_sub(before)) / total + 16;
    println!("{name}: {total} operations, {time:.3?}, {bytes} bytes per operation");
}

/// Tier 2.
fn frontier(name: &str, ops: u32, concurrency: usize, values: Option<u32>) {
    let shape = HistoryShape { ops, concurrency, values, puts: 500, deletes: 0, open: 0 };
    let operations = timed_steps(&simulate(shape, 42));
    let time = best_of_three(|| {
        let mut states = States::default();
        let result = frontier::check(&operations, &mut states, &Limits::default(), false);
        assert!(matches!(black_box(result), FrontierResult::Valid(_)));
    });
    println!("{name}: {ops} operations, concurrency {concurrency}, {time:.3?}");
}

/// From the file to the verdict.
fn file(ops: u64) {
    let directory = tempfile::tempdir().expect("a directory for the bench");
    let path = directory.path().join("history.jsonl");
    let options = SyntheticOptions {
        ops,
        keys: 16,
        concurrency: 10,
        indeterminate: 0.01,
        puts: 45,
        deletes: 10,
        seed: 1,
        violation: None,
    };
    let mut out = BufWriter::new(fs::File::create(&path).expect("a new file"));
    synthetic::generate(&options, |event| {
        serde_json::to_writer(&mut out, event)?;
        out.write_all(b"\n")
    })
    .and_then(|()| out.flush())
    .expect("the disk has room");
    reset_peak();
    let mut decided = 0.0;
    let time = best_of_three(|| {
        let report = check_file(&path, &FileCheckOptions::default()).expect("well formed");
        assert!(report.violations.is_empty() && report.unknown_because.is_empty());
        decided = report.seconds.1;
    });
    println!(
        "file to verdict: {ops} operations as JSON lines, {time:.3?} of which deciding {decided:.3} \
         s, peak {} MiB",
        peak_bytes() >> 20
    );
}

fn main() {
    zones("tier 1, 16 keys", 16, 10_000_000);
    zones("tier 1, one key", 1, 10_000_000);
    zones("tier 1, one key", 1, 10_000);
    frontier("tier 2, unique values", 10_000, 10, None);
    frontier("tier 2, 5 values", 10_000, 10, Some(5));
    frontier("tier 2, 5 values", 10_000, 20, Some(5));
    frontier("tier 2, 5 values", 10_000, 40, Some(5));
    file(1_000_000);
}
