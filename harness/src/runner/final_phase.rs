//! The end of a run: everything healed and settled, every key read once more through the front
//! door, and everything that each replica holds read directly.

use std::time::Duration;

use serde_json::json;
use system::protocol::Node;
use tokio::time::Instant;

use super::{
    CONVERGENCE_DEADLINE, RunError,
    cluster::{Cluster, ClusterError},
    note,
    progress::Progress,
    rundir::RunDir,
    worker::Worker,
    write_json,
};
use crate::{
    history::{Recorder, monotonic_ns},
    twopc::FinalState,
};

/// All last reads together are given this long; after it, each key that is left is tried once.
const READS_DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn settle(
    cluster: &Cluster,
    recorder: &Recorder,
    mut worker: Worker,
    keys: Vec<String>,
    directory: &RunDir,
    progress: &Progress,
) -> Result<(), RunError> {
    match cluster.heal().await {
        Ok(healed) => note(recorder, "heal", json!({ "nodes": healed }))?,
        Err(error @ ClusterError::Start { .. }) => {
            // The system cannot be repaired: that is for the verdict, with what is there.
            note(recorder, "heal", json!({ "failed": error.to_string() }))?;
        }
        Err(error) => return Err(error.into()),
    }
    let settled = cluster.until_settled(CONVERGENCE_DEADLINE).await;
    let settled_ms = settled.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    note(recorder, "settled", json!({ "ms": settled_ms }))?;

    progress.phase("reading every key");
    let give_up = Instant::now() + READS_DEADLINE;
    let mut unread = Vec::new();
    for key in keys {
        let left = give_up.saturating_duration_since(Instant::now());
        let read = worker.read(&key, left).await;
        if read.map_err(super::io_error("cannot write the history"))?.is_err() {
            unread.push(key);
        }
        progress.tick();
    }

    let mut last = FinalState { time: 0, ..FinalState::default() };
    for node in cluster.replicas().collect::<Vec<_>>() {
        match cluster.system().dump(node).await {
            Ok(held) => {
                last.replicas.insert(node, held);
            }
            Err(error) => note(recorder, "unseen", json!({ "node": node, "error": error }))?,
        }
    }
    last.master_unsettled =
        cluster.system().observe(Node::Master).await.ok().map(|observed| observed.unsettled);
    last.time = monotonic_ns().saturating_sub(recorder.origin());
    write_json(&directory.final_state(), &last)?;
    note(recorder, "final", json!({ "unread": unread }))
}
