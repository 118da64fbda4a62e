//! The end of a run: everything is healed and settles, every key is read once more by a client, and
//! the contents of each replica are read directly.

use std::time::Duration;

use history::monotonic_ns;
use lab::{cluster::ClusterError, worker::Worker};
use serde_json::json;
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
            let healed: Vec<_> =
                healed.iter().map(|(node, action)| (node.as_str(), *action)).collect();
            testbed.record("heal", json!({ "nodes": healed }))?;
        }
        Err(error @ ClusterError::Start { .. }) => {
            // The system cannot be repaired. The checks judge what is there.
            testbed.record("heal", json!({ "failed": error.to_string() }))?;
        }
        Err(error) => return Err(error.into()),
    }
    let settled = cluster.until_settled(CONVERGENCE_DEADLINE).await;
    let settled_ms = settled.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    testbed.record("settled", json!({ "ms": settled_ms }))?;

    progress.phase("reading every key");
    let deadline = Instant::now() + READS_DEADLINE;
    let mut unread = Vec::new();
    for key in keys {
        let left = deadline.saturating_duration_since(Instant::now());
        let read = worker.read(&key, left).await;
        if read.map_err(RunError::io("cannot write the history"))?.is_err() {
            unread.push(key);
        }
        progress.tick();
    }
    write_json(&testbed.directory.final_state(), &final_state(testbed).await?)?;
    testbed.record("final", json!({ "unread": unread }))
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
                testbed.record("dump-failed", json!({ "node": node, "error": error }))?;
            }
        }
    }
    let master = deployment.observe(Node::Master).await;
    state.master_unsettled = master.ok().map(|status| status.unsettled);
    state.time = monotonic_ns().saturating_sub(recorder.origin());
    Ok(state)
}
