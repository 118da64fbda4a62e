//! The load phase: clients send requests and faults are injected.

use std::time::Duration;

use checker::{Limits, online::OnlineCheck};
use history::{
    NemesisEvent,
    nemesis::{EndedEarly, Violated},
};
use lab::{
    cluster::ClusterError,
    injection::Lane,
    seeds::{nemesis_rng, network_rng, payload_rng},
    worker::Worker,
    workload::Generator,
};
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle, JoinSet, spawn_blocking},
    time::{Instant, interval, sleep, timeout},
};

use super::{FailFast, RunError, RunOptions, Testbed};
use crate::{
    checks::{atomicity, evidence::Evidence, find_journals},
    faults::{Capabilities, FaultName, Schedule, schedule},
    matrix::MatrixDescription,
    nemesis::{Nemesis, NemesisError},
    payload::ShapedRequests,
};

/// How long the cluster has to recover from an injection before the next one: longer than any
/// timeout of the protocol and any number of its retries.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(15);

/// How often a short history is checked while it grows.
const ONLINE_CHECK_PERIOD: Duration = Duration::from_millis(500);

/// How often the progress line is updated.
const TICK_PERIOD: Duration = Duration::from_millis(200);

type Finished = Result<std::io::Result<Worker>, JoinError>;

/// Runs clients and faults until the time is up, the run is interrupted, a node has exited
/// unexpectedly, or (with `fail_fast`) the history cannot become linearizable any more or the journals show a
/// violation. An end before the time is recorded with its reason. Returns a worker for the final reads.
pub(super) async fn run(
    options: &RunOptions,
    testbed: &Testbed,
    interrupt: &mut watch::Receiver<bool>,
) -> Result<Worker, RunError> {
    testbed.progress.phase("load");
    let (end, load_ended) = watch::channel(false);
    let mut workers = start_workers(options, testbed, &load_ended);
    let (lanes, covered) = start_nemesis(options, testbed, &load_ended)?;
    let time_up = time_up(options.time_limit, covered);
    let first = until_end(options, testbed, interrupt, &mut workers, time_up).await?;
    end.send_replace(true);
    testbed.progress.phase("ending the load");
    let worker = join_workers(workers, first).await?;
    for lane in lanes {
        match lane.await? {
            // That a node does not start again is a fact about the system, and recorded as such.
            Ok(()) | Err(NemesisError::Cluster(ClusterError::Start { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(worker)
}

fn start_workers(
    options: &RunOptions,
    testbed: &Testbed,
    load_ended: &watch::Receiver<bool>,
) -> JoinSet<std::io::Result<Worker>> {
    let RunOptions { seed, concurrency, mix, keys, rate, .. } = *options;
    let mut workers = JoinSet::new();
    for number in 0..concurrency {
        let worker = testbed.worker(number, concurrency);
        let worker = if options.misreport_unknown { worker.misreporting() } else { worker };
        let generator = Generator::new(seed, number, concurrency, mix, keys, rate);
        let requests = ShapedRequests::new(generator, payload_rng(seed, number), keys);
        workers.spawn(worker.work(requests, load_ended.clone()));
    }
    workers
}

/// Fault injection in a lane.
type NemesisTask = JoinHandle<Result<(), NemesisError>>;

/// Starts fault injection in each lane that has faults. Returns also whether each has injected all its faults.
fn start_nemesis(
    options: &RunOptions,
    testbed: &Testbed,
    load_ended: &watch::Receiver<bool>,
) -> Result<(Vec<NemesisTask>, Vec<watch::Receiver<bool>>), RunError> {
    let RunOptions { disks, shard, commit, .. } = *options;
    let capabilities = Capabilities { disks, shard, commit };
    if options.faults.names().contains(&FaultName::CrashMatrix) {
        testbed.record(MatrixDescription::new(options.replicas, capabilities).event())?;
    }
    let schedules = schedules(options, capabilities);
    let only_lane = schedules.len() == 1;
    let start = |(lane, schedule): (Lane, Schedule)| {
        let (cluster, network) = (testbed.cluster.clone(), testbed.network.clone());
        let (events, load_ended) = (testbed.events.clone(), load_ended.clone());
        let (covered, is_covered) = watch::channel(false);
        // While the other lane kills nodes, recovery cannot be attributed to a network fault.
        let waits = only_lane || lane == Lane::Nodes;
        let task = tokio::spawn(async move {
            let nemesis = Nemesis {
                cluster: &cluster,
                network: network.as_deref(),
                events: &events,
                load_ended,
                covered,
                recovery_deadline: waits.then_some(RECOVERY_DEADLINE),
            };
            nemesis.run(schedule).await
        });
        (task, is_covered)
    };
    Ok(schedules.into_iter().map(start).unzip())
}

/// The end of the load: after its time, or up to as long again until each fault was injected at least once. On a busy
/// machine a run would end without some, and prove nothing about them.
async fn time_up(time_limit: Duration, covered: Vec<watch::Receiver<bool>>) {
    sleep(time_limit).await;
    let all_injected = async {
        for mut lane in covered {
            // A lane that has ended injects nothing more.
            let _ = lane.wait_for(|covered| *covered).await;
        }
    };
    let _ = timeout(time_limit, all_injected).await;
}

fn schedules(options: &RunOptions, capabilities: Capabilities) -> Vec<(Lane, Schedule)> {
    if let Some(script) = &options.script {
        let schedule = Schedule::scripted(script.clone(), nemesis_rng(options.seed));
        return vec![(Lane::Nodes, schedule)];
    }
    let lanes =
        [(Lane::Nodes, nemesis_rng(options.seed)), (Lane::Network, network_rng(options.seed))];
    let schedule_of = |(lane, rng)| {
        let schedule = schedule(&options.faults, options.replicas, capabilities, lane, rng)?;
        Some((lane, schedule))
    };
    lanes.into_iter().filter_map(schedule_of).collect()
}

/// Waits until the load must end. Returns a worker that has already finished, if any.
async fn until_end(
    options: &RunOptions,
    testbed: &Testbed,
    interrupt: &mut watch::Receiver<bool>,
    workers: &mut JoinSet<std::io::Result<Worker>>,
    time_up: impl Future<Output = ()>,
) -> Result<Option<Finished>, RunError> {
    let mut exits = testbed.cluster.unexpected_exits();
    let mut ticks = interval(TICK_PERIOD);
    tokio::pin!(time_up);
    let violation = until_violation(testbed.online.clone());
    tokio::pin!(violation);
    let in_journals = until_violation_in_journals(options, testbed);
    tokio::pin!(in_journals);
    let mut is_violated = false;
    loop {
        tokio::select! {
            () = &mut time_up => return Ok(None),
            _ = interrupt.wait_for(|wanted| *wanted) => {
                end_early(testbed, "a signal interrupted the run")?;
                return Ok(None);
            }
            _ = exits.wait_for(|exits| *exits > 0) => {
                end_early(testbed, "a node exited by itself")?;
                return Ok(None);
            }
            key = &mut violation, if !is_violated => {
                is_violated = true;
                let ended = options.fail_fast != FailFast::Never;
                testbed.record(NemesisEvent::Violated(Violated { key, found: None, ended }))?;
                if ended {
                    return Ok(None);
                }
            }
            found = &mut in_journals, if options.fail_fast == FailFast::AnyViolation => {
                let violated = Violated { key: String::new(), found: Some(found), ended: true };
                testbed.record(NemesisEvent::Violated(violated))?;
                return Ok(None);
            }
            // A worker finishes before the end only if it cannot write the history.
            Some(finished) = workers.join_next() => return Ok(Some(finished)),
            _ = ticks.tick() => testbed.progress.tick(),
        }
    }
}

/// Records why the load ends before its time.
fn end_early(testbed: &Testbed, why: &str) -> Result<(), RunError> {
    testbed.record(NemesisEvent::EndedEarly(EndedEarly { why: why.to_owned() }))
}

/// Waits until all workers have finished and returns the first of them.
async fn join_workers(
    mut workers: JoinSet<std::io::Result<Worker>>,
    first: Option<Finished>,
) -> Result<Worker, RunError> {
    let mut chosen = None;
    let mut next = match first {
        Some(first) => Some(first),
        None => workers.join_next().await,
    };
    while let Some(finished) = next {
        let worker = finished?.map_err(RunError::io("cannot write the history"))?;
        chosen.get_or_insert(worker);
        next = workers.join_next().await;
    }
    Ok(chosen.expect("there is at least one worker"))
}

/// Waits until the history of a key is not linearizable, whatever follows. Returns the key.
async fn until_violation(online: OnlineCheck) -> String {
    let mut pause = ONLINE_CHECK_PERIOD;
    loop {
        sleep(pause).await;
        let started = Instant::now();
        let online = online.clone();
        let violated = spawn_blocking(move || online.violation(&Limits::default())).await;
        if let Ok(Some(key)) = violated {
            return key;
        }
        // A longer history takes longer to check: at most a twentieth of one core, so that the
        // clients keep the machine.
        pause = ONLINE_CHECK_PERIOD.max(started.elapsed() * 20);
    }
}

/// How often the journals are read while they are short.
const JOURNAL_CHECK_PERIOD: Duration = Duration::from_secs(1);

/// Waits until the journals show a violation that no later entry can explain. Returns it. A journal that cannot be
/// read now, for example while it is being created, is read again.
async fn until_violation_in_journals(options: &RunOptions, testbed: &Testbed) -> String {
    let mut pause = JOURNAL_CHECK_PERIOD;
    loop {
        sleep(pause).await;
        let started = Instant::now();
        let (directory, replicas) = (testbed.directory().to_owned(), options.replicas);
        let origin = testbed.clock_origin();
        let found = spawn_blocking(move || {
            let journals = find_journals(&directory).ok()?;
            let evidence = Evidence::read(&journals, replicas, origin).ok()?;
            Some(atomicity::certain_violation(&evidence)?.text().to_owned())
        });
        if let Ok(Some(found)) = found.await {
            return found;
        }
        pause = JOURNAL_CHECK_PERIOD.max(started.elapsed() * 20);
    }
}
