//! The end of a run: everything is healed and settles, every key is written and read once more by a client, and
//! the contents of each replica are read directly.

use std::time::Duration;

use history::{
    Function, NemesisEvent, monotonic_ns,
    nemesis::{DiskRestored, DumpFailed, FinalReads, Healed, Settled},
};
use lab::{
    client::Answer, cluster::ClusterError, request::Request, seeds::nemesis_rng, worker::Worker,
};
use rand::{RngExt as _, seq::IteratorRandom as _};
use system::protocol::{Key, Node, TxnId};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{CONVERGENCE_DEADLINE, RunError, Testbed, resources, write_json};
use crate::{
    checks::{
        FinalReplicaState, FinalState,
        disks::{UNHEALED, UNSCRUBBED},
        faults::DAMAGED_ENTRIES,
    },
    cluster::Cluster,
    faults::FaultName,
    nemesis::{Nemesis, NemesisError},
    payload::{key_name, settled_value, value_name},
};

/// How long after a failed attempt to replace an entry the next one follows.
const REPAIR_PERIOD: Duration = Duration::from_millis(20);

/// What a node logs once for each entry that it finds damaged.
const DAMAGED_ENTRY: &str = "the entry of key '";

/// What a node says when a peer's copy has replaced a damaged entry.
const HEALED_ENTRY: &str = "is replaced by a copy";

/// How long the scrub may take to compare everything.
const SCRUB_DEADLINE: Duration = Duration::from_secs(30);

/// How long all final reads together may take. After that, each remaining key is tried once.
const READS_DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn run(
    testbed: &Testbed,
    mut worker: Worker,
    keys: Vec<String>,
) -> Result<(), RunError> {
    let Testbed { cluster, progress, .. } = testbed;
    match cluster.processes().heal().await {
        Ok(healed) => {
            rot_at_rest(testbed).await?;
            let healed =
                healed.iter().map(|(node, action)| (node.to_string(), (*action).to_owned()));
            let nodes = Some(healed.collect());
            testbed.record(NemesisEvent::Healed(Healed { nodes, failed: None }))?;
        }
        Err(error @ ClusterError::Start { .. }) => {
            // The system cannot be repaired. The checks judge what is there.
            let failed = Some(error.to_string());
            testbed.record(NemesisEvent::Healed(Healed { nodes: None, failed }))?;
        }
        Err(error) => return Err(error.into()),
    }
    if let Some(repaired) = repair(testbed, &mut worker, &keys).await? {
        testbed.record(repaired)?;
    }
    let settled = cluster.until_settled(CONVERGENCE_DEADLINE).await;
    testbed.record(settled_event(testbed, settled))?;

    progress.phase("writing every key");
    write_all(testbed, &mut worker, &keys).await?;
    progress.phase("reading every key");
    let deadline = Instant::now() + patience(testbed);
    let mut unread = Vec::new();
    for key in keys {
        let left = deadline.saturating_duration_since(Instant::now());
        let read = worker.retry(&Request::new(Function::Get, key.as_str()), left).await;
        if read.map_err(RunError::io("cannot write the history"))?.is_err() {
            unread.push(key);
        }
        progress.tick();
    }
    // The last writes are answered before every replica has acknowledged them.
    if settled.is_some() && cluster.until_settled(CONVERGENCE_DEADLINE).await.is_none() {
        testbed.record(settled_event(testbed, None))?;
    }
    write_json(&testbed.directory.final_state(), &final_state(testbed).await?)?;
    testbed.record(NemesisEvent::FinalReads(FinalReads { unread }))?;
    testbed.record(resources::measure(cluster, true).await.event())
}

fn settled_event(testbed: &Testbed, time: Option<Duration>) -> NemesisEvent {
    NemesisEvent::Settled(Settled {
        ms: time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        ended: testbed.cluster.ended().map(|node| node.to_string()).collect(),
    })
}

/// How long operations on all keys together may be repeated. While a node is down, repeating them is in vain.
fn patience(testbed: &Testbed) -> Duration {
    match testbed.cluster.ended().next() {
        None => READS_DEADLINE,
        Some(_) => Duration::ZERO,
    }
}

/// Writes every key until it is written, with values of all sizes, for as long as there is time. The checks judge what
/// is refused.
async fn write_all(
    testbed: &Testbed,
    worker: &mut Worker,
    keys: &[String],
) -> Result<(), RunError> {
    let deadline = Instant::now() + patience(testbed);
    for (number, key) in keys.iter().enumerate() {
        for attempt in 0.. {
            if Instant::now() > deadline {
                return Ok(());
            }
            let value = settled_value(number, attempt);
            let answer = worker.send(&Request::with(Function::Put, key.as_str(), value)).await;
            let answer = answer.map_err(RunError::io("cannot write the history"))?;
            if matches!(answer, Some(Answer::Ok { .. })) {
                break;
            }
            sleep(REPAIR_PERIOD).await;
        }
    }
    Ok(())
}

/// In runs with flipped bits: one more, of an entry that is in the tables by then, and that no later write replaces.
/// Where keys are written all the time, the scrub would never be needed.
async fn rot_at_rest(testbed: &Testbed) -> Result<(), RunError> {
    let cluster = &testbed.cluster;
    let Some(seed) = testbed.rots else { return Ok(()) };
    if cluster.until_settled(CONVERGENCE_DEADLINE).await.is_none()
        || cluster.ended().next().is_some()
    {
        return Ok(());
    }
    testbed.progress.phase("flipping a bit at rest");
    // Each round begins with a checkpoint. A second one may have begun before the first.
    scrub_rounds(cluster, 2).await;
    let mut rng = nemesis_rng(seed);
    let replica = cluster.replicas().choose(&mut rng).expect("there are replicas");
    let mut nemesis = Nemesis {
        cluster,
        network: testbed.network.as_deref(),
        events: &testbed.events,
        load_ended: watch::channel(true).1,
        covered: watch::channel(true).0,
        recovery_deadline: None,
    };
    match nemesis.rot_at_rest(replica, rng.random()).await {
        // That a node does not start again is a fact about the system, and recorded as such.
        Ok(()) | Err(NemesisError::Cluster(ClusterError::Start { .. })) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until every replica has made so many more rounds of the scrub. Returns how many have not in time.
async fn scrub_rounds(cluster: &Cluster, rounds: u64) -> usize {
    let scrubs = async |node| {
        let status = cluster.deployment().observe(node).await;
        status.map_or(0, |status| status.scrubs)
    };
    let deadline = Instant::now() + SCRUB_DEADLINE;
    let mut before = Vec::new();
    for node in cluster.replicas() {
        before.push(scrubs(node).await);
    }
    let mut late = 0;
    for (node, before) in cluster.replicas().zip(before) {
        while scrubs(node).await < before + rounds && Instant::now() < deadline {
            sleep(REPAIR_PERIOD).await;
        }
        late += usize::from(scrubs(node).await < before + rounds);
    }
    late
}

/// Waits until every replica has compared its entries with each peer, beginning now. Returns how many have not in
/// time, and how many hold something else than the first of the others, or entries that are still damaged.
async fn scrub(testbed: &Testbed) -> Result<[(&'static str, usize); 2], RunError> {
    let cluster = &testbed.cluster;
    let replicas: Vec<Node> = cluster.replicas().collect();
    // A round that has begun before does not count, and each compares with one peer.
    let late = scrub_rounds(cluster, replicas.len() as u64 + 1).await;
    let (mut differ, mut first) = (0, None);
    for node in replicas {
        let dump = cluster.deployment().dump(node).await;
        if let Err(error) = &dump {
            let (node, error) = (node.to_string(), error.clone());
            testbed.record(NemesisEvent::DumpFailed(DumpFailed { node, error }))?;
        }
        let dump = dump.ok().map(|dump| dump.entries);
        differ += usize::from(match (dump, &first) {
            (None, _) => true,
            (Some(entries), Some(first)) => entries != *first,
            (Some(entries), None) => {
                first = Some(entries);
                false
            }
        });
    }
    Ok([(UNSCRUBBED, late), (UNHEALED, differ)])
}

/// After bits were flipped: waits for the scrub, counts the damaged entries that the nodes report, and writes every
/// key once, which replaces what was not healed. Returns the event that says so.
async fn repair(
    testbed: &Testbed,
    worker: &mut Worker,
    keys: &[String],
) -> Result<Option<NemesisEvent>, RunError> {
    if testbed.rots.is_none() {
        return Ok(None);
    }
    testbed.progress.phase("waiting for the scrub");
    let scrubbed = match testbed.cluster.until_settled(CONVERGENCE_DEADLINE).await {
        Some(_) => scrub(testbed).await?,
        // The checks judge why it has not settled.
        None => [(UNSCRUBBED, 0), (UNHEALED, 0)],
    };
    testbed.progress.phase("replacing damaged entries");
    let deadline = Instant::now() + patience(testbed);
    for key in keys {
        for attempt in 0.. {
            // No client of the load writes such a value.
            let value = format!("repair-{key}-{attempt}");
            let answer = worker.send(&Request::with(Function::Put, key.as_str(), value)).await;
            let answer = answer.map_err(RunError::io("cannot write the history"))?;
            if matches!(answer, Some(Answer::Ok { .. })) || Instant::now() > deadline {
                break;
            }
            sleep(REPAIR_PERIOD).await;
        }
    }
    let (mut found, mut healed) = (0, 0);
    for node in testbed.cluster.nodes() {
        let log = testbed.cluster.processes().log(&crate::node_name(node));
        let log = std::fs::read_to_string(log).unwrap_or_default();
        found += log.lines().filter(|line| line.contains(DAMAGED_ENTRY)).count();
        healed += log.lines().filter(|line| line.contains(HEALED_ENTRY)).count();
    }
    let effects = [(DAMAGED_ENTRIES, found), ("healed_entries", healed)];
    let effects = effects.into_iter().chain(scrubbed).filter(|(_, count)| *count > 0);
    Ok(Some(NemesisEvent::DiskRestored(DiskRestored {
        fault: Some(FaultName::BitFlip.to_string()),
        effects: effects.map(|(name, count)| (name.to_owned(), count as u64)).collect(),
        ..DiskRestored::default()
    })))
}

/// Reads the contents of each replica and the master's unfinished transactions.
async fn final_state(testbed: &Testbed) -> Result<FinalState, RunError> {
    let Testbed { cluster, recorder, .. } = testbed;
    let deployment = cluster.deployment();
    let mut state = FinalState::default();
    for node in cluster.replicas() {
        match deployment.dump(node).await {
            Ok(dump) => {
                let mut replica =
                    FinalReplicaState { entries: dump.entries, in_doubt: dump.in_doubt };
                for (key, _, value) in &mut replica.entries {
                    (*key, *value) = (key_name(key), value_name(value));
                }
                name_keys(&mut replica.in_doubt);
                state.replicas.insert(node, replica);
            }
            Err(error) => {
                let node = node.to_string();
                testbed.record(NemesisEvent::DumpFailed(DumpFailed { node, error }))?;
            }
        }
    }
    let master = deployment.observe(Node::Master).await;
    state.master_unsettled = master.ok().map(|status| status.unsettled);
    state.master_unsettled.iter_mut().for_each(|unsettled| name_keys(unsettled));
    state.time = monotonic_ns().saturating_sub(recorder.origin());
    Ok(state)
}

fn name_keys(unsettled: &mut [(TxnId, Key)]) {
    for (_, key) in unsettled {
        *key = key_name(key);
    }
}
