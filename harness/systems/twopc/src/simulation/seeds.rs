//! Many seeds in parallel, and their results together.

use std::{
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use checker::Validity;
use explore::simulator::Counters;
use history::Shard;
use system::protocol::{CommitMode, Rules};

use super::{SeedVerdict, check_seed};

/// A range of seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeedRange {
    /// The first seed.
    pub from: u64,
    /// The seed after the last.
    pub to: u64,
}

impl SeedRange {
    /// A single seed.
    #[must_use]
    pub fn of(seed: u64) -> SeedRange {
        SeedRange { from: seed, to: seed.saturating_add(1) }
    }

    /// The seeds of a shard. There are none if there are more shards than seeds.
    #[must_use]
    pub fn shard(self, shard: Shard) -> SeedRange {
        let (from, to) = shard.slice(self.from, self.to);
        SeedRange { from, to }
    }
}

impl FromStr for SeedRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once("..")
            .and_then(|(from, to)| {
                Some(SeedRange { from: from.parse().ok()?, to: to.parse().ok()? })
            })
            .filter(|seeds| seeds.from < seeds.to)
            .ok_or_else(|| format!("'{text}': expected a range of seeds such as 0..1000"))
    }
}

/// The results of a range of seeds.
#[derive(Debug, Default)]
pub struct SeedResults {
    /// How many seeds were run.
    pub seeds: u64,
    /// How often what happened in them.
    pub counters: Counters,
    /// The bad seeds, ascending.
    pub bad: Vec<(u64, SeedVerdict)>,
    /// The first seed of the range.
    from: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// The first bad seed of a range.
#[derive(Debug)]
pub struct FirstFailure {
    /// How many seeds were needed to find it, itself included.
    pub seeds: u64,
    /// The properties and checks that are violated.
    pub violated: Vec<String>,
}

impl SeedResults {
    /// Adds the results of other seeds. The first bad seed of all is the first that was run.
    pub fn add(&mut self, other: SeedResults) {
        self.seeds += other.seeds;
        self.counters += other.counters;
        self.bad.extend(other.bad);
        self.elapsed += other.elapsed;
    }

    /// The first bad seed, if there is one.
    #[must_use]
    pub fn first_failure(&self) -> Option<FirstFailure> {
        let (seed, verdict) = self.bad.first()?;
        Some(FirstFailure { seeds: seed - self.from + 1, violated: verdict.violated() })
    }
}

/// Runs seeds in parallel. Unless `keep_going`, no seed is started once a bad one was found; those
/// before it are completed, so that the first bad seed of the result is the first there is.
#[must_use]
pub fn run_seeds(
    seeds: SeedRange,
    commit: CommitMode,
    rules: Rules,
    threads: usize,
    thorough: bool,
    keep_going: bool,
    progress: impl Fn(u64, usize) + Sync,
) -> SeedResults {
    let start = Instant::now();
    let next = AtomicU64::new(seeds.from);
    let stop = AtomicBool::new(false);
    let results = Mutex::new(SeedResults::default());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.to {
                        return;
                    }
                    let verdict = check_seed(seed, commit, rules, thorough);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.seeds += 1;
                    results.counters += verdict.counters;
                    if verdict.validity() != Validity::Valid {
                        results.bad.push((seed, verdict));
                        stop.fetch_or(!keep_going, Ordering::Relaxed);
                    }
                    progress(results.seeds, results.bad.len());
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.bad.sort_by_key(|(seed, _)| *seed);
    (results.from, results.elapsed) = (seeds.from, start.elapsed());
    results
}
