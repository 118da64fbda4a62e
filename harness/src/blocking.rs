//! What two-phase commit cannot do, measured: with the master gone in the window of uncertainty,
//! how long do keys stay locked, with the replicas asking each other and without? Makes real runs of
//! its own, judged like any other, and reads from their journals how long every lock was held.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, builder::RangedU64ValueParser};
use serde::Serialize;
use system::protocol::{CommitMode, Node};
use tokio::sync::watch;

use crate::{
    checker::{
        Run, Validity,
        command::{self, CommandError},
        linearizability::Limits,
    },
    nemesis::{FaultAction, Faults, Injection, matrix::Part, window},
    report_twopc,
    runner::{self, RunError, RunOptions, duration_text, parse_duration},
};

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct BlockingArgs {
    /// How long the master is gone each time: 5s, 800ms.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub gone: Duration,

    /// How often it goes at each point of the window, with the peers' help and without.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=1000))]
    pub rounds: u32,

    /// How many replicas the system has.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = RangedU64ValueParser::<u8>::new().range(1..=32))]
    pub replicas: u8,

    /// What makes a commit: logged (it is in the master's log) or votes (all replicas have voted).
    #[arg(long, value_name = "MODE", default_value_t)]
    pub commit: CommitMode,

    /// What the clients' choices come from.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Where the runs are kept.
    #[arg(long, value_name = "DIR", default_value = "histories")]
    pub store: PathBuf,

    /// Print the rows as JSON, one object a line.
    #[arg(long)]
    pub json: bool,
}

/// Why it cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum BlockingError {
    /// A run cannot be made.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A run cannot be judged.
    #[error(transparent)]
    Judge(#[from] CommandError),
    /// What was measured cannot be said.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// What came of the master's absences at one point.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    /// Where it went.
    point: String,
    /// Whether replicas asked each other.
    peers: bool,
    /// How often it went.
    times: usize,
    /// Locks that replicas held in doubt at that moment.
    locks: usize,
    /// Of them, those that were let go before the master was back.
    freed: usize,
    /// How long after the kill these were let go, in milliseconds.
    freed_ms: Vec<u64>,
    /// How long after the kill the others were let go.
    blocked_ms: Vec<u64>,
}

/// Measures, prints a table, and returns the worst verdict on the runs that were made for it.
///
/// # Errors
/// A run cannot be made or judged.
pub async fn blocking(
    args: &BlockingArgs,
    interrupt: watch::Receiver<bool>,
    out: &mut impl Write,
) -> Result<Validity, BlockingError> {
    let mut worst = Validity::Valid;
    let mut judged = Vec::new();
    let mut rows = Vec::new();
    for peers in [true, false] {
        let options = args.options(peers);
        let made = runner::run(&options, interrupt.clone(), false).await?;
        let (run, results) = command::judge(&made.directory, &Limits::default())?;
        report_twopc::write(&made.directory, &run, &results).map_err(CommandError::Load)?;
        worst = worst.max(results.verdict);
        judged.push(format!("{}: {}", results.verdict, made.directory.display()));
        rows.extend(measured(&run, args, peers));
        if made.interrupted {
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
        "Locks held in doubt when the master was killed, gone for {} each time:\n\n\
         | the master dies at | peers asked | times | locks | let go meanwhile | after | the others, after |\n\
         |---|---|---|---|---|---|---|",
        duration_text(args.gone)
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
    writeln!(out, "\n{}", judged.join("\n"))?;
    Ok(worst)
}

/// The median and the greatest of some milliseconds.
fn median(ms: &[u64]) -> String {
    let mut ms = ms.to_vec();
    ms.sort_unstable();
    match (ms.get(ms.len() / 2), ms.last()) {
        (Some(median), Some(most)) => format!("{median} ms (at most {most})"),
        _ => "–".to_owned(),
    }
}

impl BlockingArgs {
    /// The points of the window.
    fn points(&self) -> Vec<String> {
        window(self.replicas, self.commit)
    }

    fn options(&self, peers: bool) -> RunOptions {
        let script: Vec<Injection> = (0..self.rounds)
            .flat_map(|_| self.points())
            .map(|point| {
                let action = FaultAction::Kill { lies: Duration::ZERO, down: self.gone };
                Injection::in_the_window(point, Duration::from_millis(300), action)
            })
            .collect();
        let each = self.gone + Duration::from_secs(2);
        RunOptions {
            faults: "master-uncertainty".parse::<Faults>().expect("it is one"),
            time_limit: each * u32::try_from(script.len()).unwrap_or(u32::MAX),
            concurrency: 10,
            rate: 0.0,
            keys: 16,
            replicas: self.replicas,
            commit: self.commit,
            mix: "put=100".parse().expect("it is one"),
            seed: self.seed,
            store: self.store.clone(),
            system: "twopc".to_owned(),
            system_bin: None,
            broken: Vec::new(),
            disks: false,
            part: Part::WHOLE,
            // Nobody waits for the most inquiries that can be had.
            timing: if peers { "" } else { "peer_inquiry_after=255" }.parse().expect("timings"),
            relay: false,
            lie: false,
            fail_fast: false,
            schedule: None,
            script: Some(script),
        }
    }
}

/// How long locks were held that were in doubt when the master went.
fn measured(run: &Run, args: &BlockingArgs, peers: bool) -> Vec<Row> {
    let (absences, locks) = report_twopc::locks(run);
    args.points()
        .into_iter()
        .map(|point| {
            let of_it = absences
                .iter()
                .filter(|absence| absence.action == "kill" && absence.at.as_ref() == Some(&point));
            let mut row = Row {
                point: point.clone(),
                peers,
                times: 0,
                locks: 0,
                freed: 0,
                freed_ms: Vec::new(),
                blocked_ms: Vec::new(),
            };
            for absence in of_it {
                row.times += 1;
                let [from, to] = [absence.from, absence.to].map(u64::cast_signed);
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
    use super::*;

    #[test]
    fn a_median_is_one_of_them() {
        assert_eq!(median(&[]), "–");
        assert_eq!(median(&[3, 9, 1]), "3 ms (at most 9)");
    }

    #[test]
    fn every_point_of_the_window_has_its_turns() {
        let args = BlockingArgs {
            gone: Duration::from_secs(5),
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
        assert!(options.timing.to_string().contains("255") && options.time_limit >= args.gone * 8);
        assert!(script.iter().all(|strike| strike.action.outage() == args.gone));
    }
}
