//! The command `blocking`: measures the blocking of two-phase commit. The master is killed inside the
//! window of uncertainty; how long do keys stay locked, with and without the replicas asking each
//! other? Makes real runs, which are judged like any other, and reads from their journals how long
//! every lock was held.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use checker::{Limits, Validity};
use clap::{Args, builder::RangedU64ValueParser};
use history::{Shard, nemesis::InjectionKind};
use lab::duration::{duration_text, parse_duration};
use serde::Serialize;
use system::protocol::{CommitMode, Node};
use tokio::sync::watch;

use super::run_progress::run_with_progress;
use crate::{
    CrashPoint,
    checks::{self, LoadError, Run},
    faults::{FaultAction, FaultName, Faults, Injection, Trigger, uncertainty_points},
    page,
    run::{FailFast, RunError, RunOptions},
};

/// The arguments of `harness blocking`.
#[derive(Clone, Debug, Args)]
pub struct BlockingArgs {
    /// How long the master is down each time, for example 5s or 800ms.
    #[arg(long, alias = "gone", value_name = "TIME", default_value = "5s",
          value_parser = parse_duration)]
    pub down: Duration,

    /// How often the master is killed at each point, with and without inquiries among the replicas.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=1000))]
    pub rounds: u32,

    /// Number of replicas.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = RangedU64ValueParser::<u8>::new().range(1..=32))]
    pub replicas: u8,

    /// What makes a commit: logged (a record in the master's log) or votes (a yes vote of every
    /// replica).
    #[arg(long, value_name = "MODE", default_value_t)]
    pub commit: CommitMode,

    /// Seed of the clients' requests.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Directory for run records.
    #[arg(long, value_name = "DIR", default_value = "histories")]
    pub store: PathBuf,

    /// Print the rows as JSON, one object per line.
    #[arg(long)]
    pub json: bool,
}

/// How long the cluster is left alone before each kill.
const DELAY: Duration = Duration::from_millis(300);

/// Why the measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum BlockingError {
    /// A run cannot be made.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A run cannot be judged.
    #[error(transparent)]
    Judge(#[from] LoadError),
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// The measurements of the kills at one point.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    /// The crash point.
    point: CrashPoint,
    /// Whether the replicas asked each other.
    peers: bool,
    /// The number of kills.
    times: usize,
    /// The number of locks that replicas held in doubt at that moment.
    locks: usize,
    /// How many of them were released before the master was back.
    freed: usize,
    /// How long after the kill these were released, in milliseconds.
    freed_ms: Vec<u64>,
    /// How long after the kill the others were released, in milliseconds.
    blocked_ms: Vec<u64>,
}

/// Measures, prints a table, and returns the worst verdict of the runs.
///
/// # Errors
/// A run cannot be made or judged.
pub async fn blocking(
    args: &BlockingArgs,
    interrupt: watch::Receiver<bool>,
    out: &mut impl Write,
) -> Result<Validity, BlockingError> {
    let mut worst = Validity::Valid;
    let mut verdicts = Vec::new();
    let mut rows = Vec::new();
    for peers in [true, false] {
        let options = args.options(peers);
        let completed = run_with_progress(&options, interrupt.clone()).await?;
        let (run, results) = checks::check_run(&completed.directory, &Limits::default())?;
        page::write(&completed.directory, &run, &results)?;
        worst = worst.max(results.verdict);
        verdicts.push(format!("{}: {}", results.verdict, completed.directory.display()));
        rows.extend(measure(&run, args, peers));
        if completed.interrupted {
            break;
        }
    }
    if args.json {
        for row in &rows {
            serde_json::to_writer(&mut *out, row).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        return Ok(worst);
    }
    writeln!(
        out,
        "Locks held in doubt when the master was killed, down for {} each time:\n\n\
         | master killed at | peers asked | kills | locks | released while down | after | others released after |\n\
         |---|---|---|---|---|---|---|",
        duration_text(args.down)
    )?;
    for Row { point, peers, times, locks, freed, freed_ms, blocked_ms } in &rows {
        let asked = if *peers { "yes" } else { "no" };
        writeln!(
            out,
            "| `{point}` | {asked} | {times} | {locks} | {freed} | {} | {} |",
            median(freed_ms),
            median(blocked_ms)
        )?;
    }
    writeln!(out, "\n{}", verdicts.join("\n"))?;
    Ok(worst)
}

/// The median and the maximum of some durations in milliseconds.
fn median(ms: &[u64]) -> String {
    let mut ms = ms.to_vec();
    ms.sort_unstable();
    match (ms.get(ms.len() / 2), ms.last()) {
        (Some(median), Some(max)) => format!("{median} ms (max {max})"),
        _ => "–".to_owned(),
    }
}

impl BlockingArgs {
    /// The crash points at which the master is killed.
    fn points(&self) -> Vec<CrashPoint> {
        uncertainty_points(self.replicas, self.commit)
    }

    fn options(&self, peers: bool) -> RunOptions {
        let script: Vec<Injection> = (0..self.rounds)
            .flat_map(|_| self.points())
            .map(|point| {
                Injection::new(
                    FaultName::MasterUncertainty,
                    DELAY,
                    Node::Master,
                    Trigger::point(point),
                    FaultAction::Kill { paused: Duration::ZERO, down: self.down },
                )
            })
            .collect();
        let each = self.down + Duration::from_secs(2);
        RunOptions {
            faults: "master-uncertainty".parse::<Faults>().expect("it is valid"),
            time_limit: each * u32::try_from(script.len()).unwrap_or(u32::MAX),
            concurrency: 10,
            rate: 0.0,
            keys: 16,
            replicas: self.replicas,
            commit: self.commit,
            mix: "put=100".parse().expect("it is valid"),
            seed: self.seed,
            store: self.store.clone(),
            system: "twopc".to_owned(),
            system_bin: None,
            mutations: Vec::new(),
            sequence_above: 0,
            disks: false,
            shard: Shard::WHOLE,
            // So many inquiries that no replica gets to ask its peers.
            timings: if peers { "" } else { "peer_inquiry_after=255" }.parse().expect("timings"),
            relay: false,
            tls: false,
            misreport_unknown: false,
            fail_fast: FailFast::Never,
            schedule: None,
            script: Some(script),
        }
    }
}

/// How long locks were held that were in doubt when the master was killed.
fn measure(run: &Run, args: &BlockingArgs, peers: bool) -> Vec<Row> {
    let (intervals, locks) = page::locks(run);
    args.points()
        .into_iter()
        .map(|point| {
            let kills = intervals.iter().filter(|interval| {
                interval.action == InjectionKind::Kill.name()
                    && interval.at.as_ref().is_some_and(|at| at.parse() == Ok(point))
            });
            let mut row = Row {
                point,
                peers,
                times: 0,
                locks: 0,
                freed: 0,
                freed_ms: Vec::new(),
                blocked_ms: Vec::new(),
            };
            for kill in kills {
                row.times += 1;
                let [from, to] = [kill.from, kill.to].map(u64::cast_signed);
                let held = locks.iter().filter(|lock| {
                    lock.node != Node::Master
                        && lock.in_doubt_from.is_some_and(|since| since <= from)
                });
                for lock in held.filter(|lock| lock.to > from) {
                    row.locks += 1;
                    let ms = (lock.to - from).cast_unsigned() / 1_000_000;
                    if lock.to < to {
                        row.freed += 1;
                        row.freed_ms.push(ms);
                    } else {
                        row.blocked_ms.push(ms);
                    }
                }
            }
            row
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use lab::injection::Action as _;

    use super::*;

    #[test]
    fn the_median_is_an_element() {
        assert_eq!(median(&[]), "–");
        assert_eq!(median(&[3, 9, 1]), "3 ms (max 9)");
    }

    #[test]
    fn every_point_has_the_same_number_of_kills() {
        let args = BlockingArgs {
            down: Duration::from_secs(5),
            rounds: 2,
            replicas: 3,
            commit: CommitMode::Votes,
            seed: 0,
            store: PathBuf::new(),
            json: false,
        };
        let options = args.options(false);
        let script = options.script.expect("a script");
        assert_eq!(script.len(), 8);
        assert_eq!((options.commit, args.points().len()), (CommitMode::Votes, 4));
        assert!(options.timings.to_string().contains("255") && options.time_limit >= args.down * 8);
        assert!(script.iter().all(|injection| injection.action.outage() == args.down));
    }
}
