//! How fast histories are decided: `cargo bench -p benches --bench checker`. Figures, not samples:
//! the histories are long, each is decided three times and the best time is printed.

use std::{
    fs,
    hint::black_box,
    io::{BufWriter, Write},
    time::{Duration, Instant},
};

use harness::{
    checker::{
        file::{Reading, check_file},
        linearizability::{
            Limits, Packed, Shape, Verdict, decide,
            frontier::{self, Answer, States},
            general,
            key::{KeyHistory, NOTHING, OPEN, Op, What},
        },
    },
    history::synthetic::{self, SyntheticOptions},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// What the history of a key looks like.
#[derive(Clone, Copy)]
struct Shaped {
    ops: u32,
    concurrency: usize,
    /// Values are drawn from so many; none: every put has its own.
    values: Option<u32>,
    /// Of a thousand operations.
    puts: u32,
    deletes: u32,
    /// Of a thousand writes.
    open: u32,
}

/// A valid history: a simulated register with random linearization points.
fn simulate(shape: Shaped, seed: u64) -> KeyHistory {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut ops: Vec<Op> = Vec::with_capacity(shape.ops as usize);
    let mut under_way: Vec<(usize, bool)> = Vec::new();
    let (mut state, mut fresh, mut time) = (NOTHING, 0, 0);
    while ops.len() < shape.ops as usize || !under_way.is_empty() {
        let begin = ops.len() < shape.ops as usize
            && (under_way.is_empty()
                || under_way.len() < shape.concurrency && rng.random_ratio(1, 2));
        if begin {
            let what = match rng.random_range(0..1000) {
                n if n < shape.puts => {
                    fresh += 1;
                    What::Write(shape.values.map_or(fresh, |values| rng.random_range(1..=values)))
                }
                n if n < shape.puts + shape.deletes => What::Write(NOTHING),
                _ => What::Read(NOTHING),
            };
            under_way.push((ops.len(), false));
            ops.push(Op { invoked: time, returned: OPEN, what });
            time += 1;
            continue;
        }
        let pick = rng.random_range(0..under_way.len());
        let (at, done) = under_way[pick];
        if !done {
            match &mut ops[at].what {
                What::Write(value) => state = *value,
                What::Read(found) => *found = state,
            }
            under_way[pick].1 = true;
            if rng.random_ratio(1, 2) {
                continue;
            }
        }
        under_way.swap_remove(pick);
        let write = matches!(ops[at].what, What::Write(_));
        if !(write && rng.random_range(0..1000) < shape.open) {
            ops[at].returned = time;
            time += 1;
        }
    }
    KeyHistory::new(ops)
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

/// The greatest resident size of this process since it was last reset, in bytes.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn reset_peak() {
    // Where the kernel does not allow it the figure is too great, never too small.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Tier 1, on one core.
fn zones(name: &str, keys: u32, ops: u32) {
    let shape = Shaped {
        ops: ops / keys,
        concurrency: 10,
        values: None,
        puts: 450,
        deletes: 100,
        open: 10,
    };
    let histories: Vec<KeyHistory> = (0..keys).map(|key| simulate(shape, u64::from(key))).collect();
    let total: u64 = histories.iter().map(|history| history.ops.len() as u64).sum();
    let mut packed: Vec<Packed> = histories
        .into_iter()
        .map(|history| Packed { shape: Shape::Plain(history), numbers: Vec::new() })
        .collect();
    reset_peak();
    let before = peak_bytes();
    let time = best_of_three(|| {
        for key in &mut packed {
            let verdict = decide(key, &Limits::default(), false);
            assert!(matches!(verdict, Verdict::Valid(_)), "{verdict:?}");
        }
    });
    // The operations themselves take sixteen bytes each, and were there before.
    let bytes = (peak_bytes().saturating_sub(before)) / total + 16;
    println!("{name}: {total} operations, {time:.3?}, {bytes} bytes an operation");
}

/// Tier 2.
fn frontier(name: &str, ops: u32, concurrency: usize, values: Option<u32>) {
    let shape = Shaped { ops, concurrency, values, puts: 500, deletes: 0, open: 0 };
    let operations = general(&simulate(shape, 42));
    let time = best_of_three(|| {
        let mut states = States::default();
        let answer = frontier::check(&operations, &mut states, &Limits::default(), false);
        assert!(matches!(black_box(answer), Answer::Valid(_)));
    });
    println!("{name}: {ops} operations, concurrency {concurrency}, {time:.3?}");
}

/// From a file to the verdict.
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
        plant: None,
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
        let report = check_file(&path, &Reading::default()).expect("well formed");
        assert!(report.violations.is_empty() && report.unknown_because.is_empty());
        decided = report.seconds.1;
    });
    println!(
        "file to verdict: {ops} operations as JSON lines, {time:.3?} of which deciding {decided:.3} \
         s, {} MiB at most",
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
