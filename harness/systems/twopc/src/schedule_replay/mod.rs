//! Replays a schedule of the model or the simulator on real processes, step by step. Messages wait in
//! the relays until the schedule delivers them. Where a record is to be lost, the process stops
//! itself or its disk holds the write. Each step must show in the journals before the next one
//! begins. A step that cannot be forced is reported.

mod driver;
mod journal;
mod lost_records;

use std::{fmt, path::Path, path::PathBuf, sync::Arc, time::Duration};

pub use explore::schedule::Schedule;
use explore::schedule::{ScheduleSetup, Step};
use history::{NemesisEvent, Shard, nemesis};
use lab::{disk, progress::NoProgress, worker::Worker, workload::Mix};
use system::{
    node::{Role, Site},
    protocol::{Rule, TimerId, Timing},
};
use tokio::sync::watch;

use self::driver::Driver;
use crate::{
    Mutation, Timings,
    network::{InterceptRule, MessageAction, Network, Pattern},
    run::{CompletedRun, FailFast, RunError, RunOptions, Testbed},
};

/// Timers that the schedule fires, and their periods in milliseconds.
const EARLY_TIMERS: [(&str, u64); 3] =
    [("vote_timeout_ms", 1_500), ("retransmit_ms", 900), ("inquiry_timeout_ms", 700)];

/// The periods of timers that the schedule does not fire: longer than the schedule, and shorter than
/// the time that the cluster has to settle afterwards.
const LATE_TIMERS: [(&str, u64); 3] =
    [("vote_timeout_ms", 4_000), ("retransmit_ms", 2_500), ("inquiry_timeout_ms", 2_500)];

/// The worker number of the final reads: higher than that of any client of a schedule.
const FINAL_WORKER: u32 = 1_000_000;

/// More than any schedule has clients, so that their processes have different numbers.
const CONCURRENCY: u32 = 1_000;

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepResult {
    /// The step was forced.
    Forced,
    /// The step happened by itself, as it does in a process that is not held.
    Spontaneous,
    /// The step could not be forced; the text says why.
    NotForced(String),
}

impl fmt::Display for StepResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepResult::Forced => f.write_str("forced"),
            StepResult::Spontaneous => f.write_str("happened by itself"),
            StepResult::NotForced(why) => write!(f, "NOT FORCED: {why}"),
        }
    }
}

/// The options of a run that replays this schedule.
///
/// # Errors
/// Real processes cannot do what the schedule is about; the text says why.
pub fn options(schedule: &Schedule, path: &Path, store: PathBuf) -> Result<RunOptions, String> {
    let ScheduleSetup { replicas, commit, rules, .. } = &schedule.setup;
    Rule::check(&rules.broken().collect::<Vec<_>>(), &[*commit])?;
    let loses_power = schedule.steps.iter().any(|step| matches!(step, Step::PowerLoss { .. }));
    Ok(RunOptions {
        faults: "none".parse()?,
        time_limit: Duration::ZERO,
        concurrency: 1,
        rate: 0.0,
        keys: 1,
        replicas: *replicas,
        commit: *commit,
        mix: Mix::default(),
        seed: 0,
        store,
        system: "twopc".to_owned(),
        system_bin: None,
        mutations: rules
            .broken()
            .map(Mutation::Rule)
            .chain(rules.made().map(Mutation::Mistake))
            .collect(),
        disks: loses_power && disk::available().is_ok(),
        shard: Shard::WHOLE,
        timings: timings(schedule)?,
        relay: true,
        tls: false,
        sequence_above: 0,
        misreport_unknown: false,
        schedule: Some(path.to_owned()),
        fail_fast: FailFast::Never,
        script: None,
    })
}

/// Short periods for the timers that the schedule fires, long ones for the others.
fn timings(schedule: &Schedule) -> Result<Timings, String> {
    let fires = |name: &str| {
        schedule.steps.iter().any(|step| match step {
            Step::Timer { id: TimerId::VoteTimeout(_), .. } => name == "vote_timeout_ms",
            Step::Timer { id: TimerId::Retransmit { .. }, .. } => name == "retransmit_ms",
            Step::Timer { id: TimerId::InquiryTimeout(_), .. } => name == "inquiry_timeout_ms",
            _ => false,
        })
    };
    let Timing { peer_inquiry_after, watermark_batch, .. } = schedule.setup.timing;
    let mut entries =
        vec![format!("peer_inquiry_after={peer_inquiry_after},watermark_batch={watermark_batch}")];
    for ((name, early), (_, late)) in EARLY_TIMERS.iter().zip(LATE_TIMERS) {
        entries.push(format!("{name}={}", if fires(name) { *early } else { late }));
    }
    entries.join(",").parse()
}

/// Replays a schedule on a cluster of processes and reports the result of each step. The result is a
/// run directory.
///
/// # Errors
/// The harness cannot do its part.
pub async fn run(
    schedule: &Schedule,
    options: &RunOptions,
    interrupt: watch::Receiver<bool>,
    mut report: impl FnMut(usize, &Step, &StepResult),
) -> Result<CompletedRun, RunError> {
    let testbed = Testbed::set_up(options, Arc::new(NoProgress)).await?;
    let copy = testbed.directory().join("schedule.json");
    let written = schedule.write(&copy);
    written.map_err(RunError::io(format!("cannot write {}", copy.display())))?;
    let network = testbed.network().expect("the options ask for relays");
    let held = hold_messages(schedule, &testbed, network).await?;
    let mut driver = Driver::new(&testbed, held, schedule);
    for (number, step) in schedule.steps.iter().enumerate() {
        if *interrupt.borrow() {
            break;
        }
        let result = driver.step(number, step).await;
        let (words, forced) = (step.to_string(), result.to_string());
        testbed.record(NemesisEvent::Step(nemesis::Step { step: words, result: forced }))?;
        report(number, step, &result);
    }
    let keys = driver.finish().await?;
    let worker = worker(&testbed, FINAL_WORKER);
    let directory = testbed.close(worker, keys).await?;
    Ok(CompletedRun { directory, interrupted: *interrupt.borrow() })
}

/// Holds every message between the nodes, except those that only show that a node is alive. If the
/// schedule begins with empty stores, the handshake belongs to it; otherwise the cluster becomes
/// ready first.
async fn hold_messages(
    schedule: &Schedule,
    testbed: &Testbed,
    network: &Network,
) -> Result<InterceptRule, RunError> {
    if schedule.setup.handshaken {
        testbed.until_ready().await?;
    }
    let kinds = [Role::Master, Role::Replica].map(|role| role.kinds(Site::Send).iter().copied());
    let kinds = kinds.into_iter().flatten().filter(|kind| !["heartbeat", "alive"].contains(kind));
    let everything = Pattern { kinds: kinds.collect(), ..Pattern::default() };
    Ok(network.intercept(everything, MessageAction::Hold))
}

fn worker(testbed: &Testbed, number: u32) -> Worker {
    testbed.worker(number, CONCURRENCY)
}

/// An error that says why a step cannot be forced.
fn not_forced<T>(why: impl Into<String>) -> Result<T, String> {
    Err(why.into())
}
