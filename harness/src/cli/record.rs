//! The command `record`: a table of what was found in databases, printed from runs that it makes. Each row has
//! a run in which a violation must be found, and beside it a twin that must be valid. What each run showed is kept, so
//! that a record which was interrupted goes on where it was.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::anyhow;
use campaign::ShardFailure;
use checker::{Results, Validity};
use clap::{Args, Parser, builder::RangedU64ValueParser};
use history::Shard;
use lab::fault::Fault;
use serde::{Deserialize, Serialize};
use tokio::{runtime::Runtime, sync::watch};

use super::{
    Exit, Failure, described,
    shards::{self, Done, Part},
    stdout,
    test::TestArgs,
};

/// Options of the command `record`.
#[derive(Clone, Debug, Args)]
pub(super) struct RecordArgs {
    /// Only the rows of this database: etcd, redis, postgresql or nats, or one of its configurations, such as
    /// redis:replicas.
    #[arg(long, value_name = "NAME")]
    system: Option<String>,

    /// Only this row, such as redis-everysec. May be repeated.
    #[arg(long = "row", value_name = "NAME")]
    rows: Vec<String>,

    /// Make all runs, also those whose results an earlier `record` has kept in the store.
    #[arg(long)]
    again: bool,

    /// Runs of each command, with seeds 1 to N.
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = RangedU64ValueParser::<u64>::new().range(1..=1000))]
    runs: u64,

    /// Directory for run records.
    #[arg(long, value_name = "DIR", default_value = "histories")]
    store: PathBuf,
}

/// A row of the table.
struct Row {
    /// Its name, for --row.
    name: &'static str,
    /// The options of a run in which something is to be found.
    found: &'static str,
    /// Those of a run in which nothing is.
    valid: &'static str,
}

/// The rows. Where a level is asked for with --claim, the database does not claim it.
const ROWS: [Row; 18] = [
    Row {
        name: "etcd-serializable-reads",
        found: "--system etcd --reads serializable --claim linearizable --faults pause,kill",
        valid: "--system etcd --faults pause,kill",
    },
    Row {
        name: "etcd-serializable-append",
        found: "--system etcd --workload append --reads serializable --claim strict-serializable --faults \
                pause,kill",
        valid: "--system etcd --workload append --faults pause,kill",
    },
    Row {
        name: "etcd-serializable-power-loss",
        found: "--system etcd --reads serializable --claim linearizable --faults pause,power-loss",
        valid: "--system etcd --faults power-loss,power-loss:all",
    },
    Row {
        name: "etcd-lock",
        found: "--system etcd --workload lock --claim mutual-exclusion --faults pause --time-limit 40s",
        valid: "--system etcd --workload lock --faults pause --time-limit 40s",
    },
    Row {
        name: "redis-everysec",
        found: "--system redis:everysec --workload set --faults power-loss --time-limit 10s",
        valid: "--system redis --workload set --faults power-loss --time-limit 10s",
    },
    Row {
        name: "redis-replica-reads",
        found: "--system redis:replicas --reads replica --claim linearizable --faults pause --time-limit 10s",
        valid: "--system redis:replicas --faults pause --time-limit 10s",
    },
    Row {
        name: "redis-sentinel-pause",
        found: "--system redis:sentinel-sticky --workload set --faults pause:leader",
        valid: "--system redis:replicas --workload set --faults pause:leader",
    },
    // The primary is cut off from everything but its clients. How many writes are lost is told, so that the two rows
    // can be compared.
    Row {
        name: "redis-sentinel-partition",
        found: "--system redis:sentinel-sticky --workload set --faults partition:leader",
        valid: "--system etcd --workload set --faults partition:leader",
    },
    Row {
        name: "redis-min-replicas",
        found: "--system redis:sentinel-sticky-min-replicas --workload set --faults partition:leader",
        valid: "--system redis:replicas --workload set --faults partition:leader",
    },
    Row {
        name: "postgresql-asynchronous-kill",
        found: "--system postgresql:asynchronous-commit --workload set --faults kill --time-limit 10s",
        valid: "--system postgresql --workload set --faults kill --time-limit 10s",
    },
    Row {
        name: "postgresql-asynchronous-power-loss",
        found: "--system postgresql:asynchronous-commit --workload set --faults power-loss --time-limit 10s",
        valid: "--system postgresql --workload set --faults power-loss --time-limit 10s",
    },
    Row {
        name: "postgresql-standby",
        found: "--system postgresql:standby --workload set --faults pause:followers+kill:leader",
        valid: "--system postgresql:synchronous-standby --workload set --faults pause:followers+kill:leader",
    },
    Row {
        name: "postgresql-bank",
        found: "--system postgresql --workload bank --isolation read-committed --claim serializable \
                --time-limit 10s",
        valid: "--system postgresql --workload bank --time-limit 10s",
    },
    Row {
        name: "postgresql-read-committed",
        found: "--system postgresql --workload append --isolation read-committed --claim serializable \
                --time-limit 10s",
        valid: "--system postgresql --workload append --isolation read-committed --time-limit 10s",
    },
    Row {
        name: "postgresql-repeatable-read",
        found: "--system postgresql --workload append --isolation repeatable-read --claim serializable \
                --time-limit 10s",
        valid: "--system postgresql --workload append --time-limit 10s",
    },
    // Only a later version than Debian's knows `sync_interval: always`.
    Row {
        name: "nats-set",
        found: "--system nats --workload set --faults power-loss:all",
        valid: "--system nats:always@2.12.1 --workload set --faults power-loss:all",
    },
    Row {
        name: "nats-log",
        found: "--system nats@2.12.1 --workload log --faults power-loss:all --lab netns",
        valid: "--system nats:always@2.12.1 --workload log --faults power-loss:all --lab netns",
    },
    Row {
        name: "nats-queue",
        found: "--system nats@2.12.1 --workload queue --faults power-loss:all",
        valid: "--system nats@2.12.1 --workload queue --faults kill",
    },
];

/// The options of a row, as the command line reads them.
#[derive(Parser)]
struct RowOptions {
    #[command(flatten)]
    test: TestArgs,
}

/// What a run showed, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptRun {
    /// The version of the harness.
    harness: String,
    /// The command that repeats it.
    command: String,
    /// The version that the system says it is.
    version: String,
    verdict: Validity,
    seconds: f64,
    /// What was found, by name.
    anomalies: Vec<String>,
    /// How many acknowledged writes were lost, if any were.
    lost: Option<f64>,
    /// The run.
    directory: PathBuf,
}

/// What the runs of one command showed. Numbers are medians where they are printed.
struct Made {
    version: String,
    claim: String,
    faults: String,
    /// What was found, by name.
    anomalies: BTreeSet<String>,
    verdicts: Vec<Validity>,
    seconds: Vec<f64>,
    /// The number of lost writes of each run that lost some.
    lost: Vec<f64>,
}

/// Makes the runs and prints the table, or the rows of a shard.
pub(super) fn record(
    args: &RecordArgs,
    part: Option<&Part>,
    runtime: &Runtime,
    interrupt: &watch::Receiver<bool>,
) -> Result<Done, Failure> {
    let is_wanted = |row: &&Row| {
        let configured = row.found.split(' ').nth(1).unwrap_or_default();
        let name = configured.split([':', '@']).next().unwrap_or_default();
        args.system.as_deref().is_none_or(|system| system == name || system == configured)
            && (args.rows.is_empty() || args.rows.iter().any(|name| name == row.name))
    };
    if let Some(unknown) = args.rows.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        let names = ROWS.map(|row| row.name).join(", ");
        return Err(Failure::arguments(anyhow!(
            "--row: there is no row '{unknown}': expected {names}"
        )));
    }
    let rows: Vec<&Row> = ROWS.iter().filter(is_wanted).collect();
    if rows.is_empty() && !args.rows.is_empty() {
        return Err(Failure::arguments(anyhow!("--row: no row of --system has this name")));
    }
    if rows.is_empty() {
        let system = args.system.as_deref().unwrap_or_default();
        return Err(Failure::arguments(anyhow!("--system: the record has no rows of '{system}'")));
    }
    let shard = part.map_or(Shard::WHOLE, |part| part.shard);
    let rows = (0..).zip(rows).filter(|(position, _)| shard.has(*position)).map(|(_, row)| row);
    let rows: Vec<&Row> = rows.collect();
    let planned = rows.len() as u64;
    let mut args = args.clone();
    if let Some(part) = part {
        args.store.clone_from(&part.store);
    }
    let args = &args;
    writeln!(
        stdout(),
        "| row | system | claim | fault | found | runs | seconds | command | valid twin |\n\
         |---|---|---|---|---|---|---|---|---|"
    )?;
    let mut exit = Exit::Valid;
    let (mut count, mut failures) = (0, Vec::new());
    for row in rows {
        let both =
            made(args, (row.name, "found", row.found), runtime, interrupt).and_then(|found| {
                Ok((found, made(args, (row.name, "valid", row.valid), runtime, interrupt)?))
            });
        let (found, valid) = match both {
            Err(Failure { error: Some(error), .. })
                if part.is_none() && described::is_not_possible_here(&error) =>
            {
                writeln!(stdout(), "skipped: {error}")?;
                continue;
            }
            both => both?,
        };
        if *interrupt.borrow() {
            // A row without all of its runs says nothing.
            break;
        }
        count += 1;
        let of = |made: &Made, wanted| made.verdicts.iter().filter(|one| **one == wanted).count();
        let (hits, kept) = (of(&found, Validity::Invalid), of(&valid, Validity::Valid));
        let system = row.found.split([' ', '@']).nth(1).unwrap_or_default();
        let mut anomalies: Vec<String> = found.anomalies.iter().cloned().collect();
        if !found.lost.is_empty() {
            anomalies.push(format!("{:.0} lost writes", median(&found.lost)));
        }
        writeln!(
            stdout(),
            "| {} | {system} {} | {} | {} | {} | {hits} of {} | {:.0} | `harness {}` | `harness {}`: {kept} of {} |",
            row.name,
            found.version,
            found.claim,
            found.faults,
            anomalies.join(", "),
            args.runs,
            median(&found.seconds),
            row.found,
            row.valid,
            args.runs,
        )?;
        let verdict = match () {
            () if of(&valid, Validity::Invalid) > 0 => Validity::Invalid,
            () if hits == 0 || kept < valid.verdicts.len() => Validity::Unknown,
            () => Validity::Valid,
        };
        exit = match (verdict, exit) {
            (Validity::Valid, exit) | (Validity::Unknown, exit @ Exit::Invalid) => exit,
            (verdict, _) => verdict.into(),
        };
        if verdict != Validity::Valid {
            let wrong = if verdict == Validity::Invalid { row.valid } else { row.found };
            failures.push(ShardFailure {
                signature: format!(
                    "{system}: {}",
                    if hits == 0 { "not found" } else { "twin not valid" }
                ),
                verdict,
                seed: None,
                command: format!("harness {wrong}"),
                directory: None,
                why: format!(
                    "found in {hits} of {} runs; the twin was valid in {kept} of {}",
                    args.runs, args.runs
                ),
            });
        }
    }
    // Every row was skipped, and nothing was tested.
    if count == 0 && planned > 0 {
        exit = Exit::Unknown;
    }
    Ok(Done { exit, interrupted: *interrupt.borrow(), count, planned, failures })
}

/// Makes the runs of one command.
fn made(
    args: &RecordArgs,
    (row, twin, options): (&str, &str, &str),
    runtime: &Runtime,
    interrupt: &watch::Receiver<bool>,
) -> Result<Made, Failure> {
    let words = std::iter::once("harness").chain(options.split(' '));
    let parsed = RowOptions::try_parse_from(words).map_err(Failure::harness)?.test;
    let run = parsed.subject_run(&args.store)?;
    let task = run.prepare()?;
    let faults: Vec<&str> = run.faults.iter().map(Fault::name).collect();
    let mut made = Made {
        version: String::new(),
        claim: match run.claim {
            Some(_) => format!("asked: {}", task.claim),
            None => task.claim.to_string(),
        },
        faults: if faults.is_empty() { "none".to_owned() } else { faults.join(", ") },
        anomalies: BTreeSet::new(),
        verdicts: Vec::new(),
        seconds: Vec::new(),
        lost: Vec::new(),
    };
    let version = runtime.block_on(run.subject.ask_version())?;
    for seed in 1..=args.runs {
        let place = args.store.join(".record").join(row).join(format!("{twin}-{seed}.json"));
        let command = run.command(seed);
        let kept = if args.again { None } else { kept(&place, &command, &version)? };
        let kept = match kept {
            Some(kept) => {
                eprintln!("harness: {} is there: {}", place.display(), kept.verdict);
                kept
            }
            // What is not there when a signal comes is made the next time.
            None if *interrupt.borrow() => break,
            None => {
                let started = Instant::now();
                let judged = run.judge(&task, seed, runtime, interrupt)?;
                let results = &judged.checked.results;
                let new = KeptRun {
                    harness: env!("CARGO_PKG_VERSION").to_owned(),
                    command,
                    version: judged.version.clone().unwrap_or_default(),
                    verdict: results.verdict,
                    seconds: started.elapsed().as_secs_f64(),
                    anomalies: anomalies(results),
                    lost: lost(results),
                    directory: judged.directory.clone(),
                };
                // A run that a signal has ended shows nothing.
                if !judged.interrupted {
                    keep(&place, &new)?;
                }
                new
            }
        };
        made.version = kept.version;
        made.verdicts.push(kept.verdict);
        if kept.verdict == Validity::Invalid {
            made.seconds.push(kept.seconds);
            made.anomalies.extend(kept.anomalies);
            made.lost.extend(kept.lost);
        }
    }
    Ok(made)
}

/// The result of a run that was made before, if it is that of this command, with this version of the system.
fn kept(place: &Path, command: &str, version: &str) -> Result<Option<KeptRun>, Failure> {
    let text = match fs::read(place) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::arguments(anyhow!("{}: {error}", place.display()))),
    };
    let kept: KeptRun = serde_json::from_slice(&text).map_err(|error| {
        Failure::arguments(anyhow!("{}: {error}; --again makes the run again", place.display()))
    })?;
    let is_this = kept.command == command
        && kept.version == version
        && kept.harness == env!("CARGO_PKG_VERSION");
    Ok(is_this.then_some(kept))
}

/// Keeps the result of a run.
fn keep(place: &Path, run: &KeptRun) -> Result<(), Failure> {
    let directory = place.parent().unwrap_or(place);
    fs::create_dir_all(directory).map_err(|error| {
        Failure::harness(anyhow!(error).context(directory.display().to_string()))
    })?;
    let mut text = serde_json::to_vec_pretty(run).map_err(Failure::harness)?;
    text.push(b'\n');
    campaign::write_whole(place, &text).map_err(shards::refused)
}

/// The checks that failed; of transactions, the names of the anomalies.
fn anomalies(results: &Results) -> Vec<String> {
    let mut names = Vec::new();
    for check in results.checks.iter().filter(|check| check.verdict == Validity::Invalid) {
        match check.measured.get("anomalies").and_then(|anomalies| anomalies.as_object()) {
            Some(anomalies) => names.extend(anomalies.keys().cloned()),
            None => names.push(check.check.clone()),
        }
    }
    names
}

/// How many acknowledged writes were lost, if any were.
fn lost(results: &Results) -> Option<f64> {
    let counts = results.checks.iter().filter_map(|check| check.measured.get("lost")?.as_f64());
    Some(counts.sum()).filter(|lost| *lost > 0.0)
}

/// The median; 0 of nothing.
fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
