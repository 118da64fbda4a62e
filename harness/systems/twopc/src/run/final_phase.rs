//! The end of a run: everything is healed and settles, every key is read once more by a client, and
//! the contents of each replica are read directly.

use std::time::Duration;

use history::{
    Function, NemesisEvent, monotonic_ns,
    nemesis::{DumpFailed, FinalReads, Healed, Settled},
};
use lab::{cluster::ClusterError, request::Request, worker::Worker};
use system::protocol::Node;
use tokio::time::Instant;

use super::{CONVERGENCE_DEADLINE, RunError, Testbed, write_json};
use crate::checks::{FinalReplicaState, FinalState};

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
    let settled = cluster.until_settled(CONVERGENCE_DEADLINE).await;
    let ms = settled.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    testbed.record(NemesisEvent::Settled(Settled { ms }))?;

    progress.phase("reading every key");
    let deadline = Instant::now() + READS_DEADLINE;
    let mut unread = Vec::new();
    for key in keys {
        let left = deadline.saturating_duration_since(Instant::now());
        let read = worker.retry(&Request::new(Function::Get, key.as_str()), left).await;
        if read.map_err(RunError::io("cannot write the history"))?.is_err() {
            unread.push(key);
        }
        progress.tick();
    }
    write_json(&testbed.directory.final_state(), &final_state(testbed).await?)?;
    testbed.record(NemesisEvent::FinalReads(FinalReads { unread }))
}

/// Reads the contents of each replica and the master's unfinished transactions.
async fn final_state(testbed: &Testbed) -> Result<FinalState, RunError> {
    let Testbed { cluster, recorder, .. } = testbed;
    let deployment = cluster.deployment();
    let mut state = FinalState::default();
    for node in cluster.replicas() {
        match deployment.dump(node).await {
            Ok(dump) => {
                let replica = FinalReplicaState { entries: dump.entries, in_doubt: dump.in_doubt };
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
    state.time = monotonic_ns().saturating_sub(recorder.origin());
    Ok(state)
}
