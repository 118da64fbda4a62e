//! File descriptors: how many the node may have, and how many connections leave enough of them for its store and
//! its peers.

use std::{io, sync::Arc, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    task::{AbortHandle, yield_now},
    time::Instant,
};

use crate::meter::Meter;

/// The descriptors that are not for accepted connections: the store, the journal, the log, the runtime, and a
/// connection to each peer, twice while one replaces another.
const RESERVED: u64 = 64;
/// The maximum number of accepted connections, with any number of descriptors: each takes memory.
const CONNECTIONS_MAX: u64 = 16 << 10;
/// How often closed connections are reported at most.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Raises the limit of this process to the highest that it may have. The usual limit is low for the sake of
/// programs that use `select`, which this one does not.
///
/// # Errors
/// The system refuses, or cannot tell the limit.
pub(crate) fn raise_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// The number of connections that the node accepts, with this many peers.
pub(super) fn connections_max(peers: usize) -> usize {
    // Without a known limit there is the least that a system has.
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(256, |(soft, _)| soft);
    share(limit, peers)
}

fn share(limit: u64, peers: usize) -> usize {
    let reserved = RESERVED + 2 * peers as u64;
    // At least one for each peer, one for a client, and one for whoever looks.
    let least = peers as u64 + 2;
    let most = limit.saturating_sub(reserved).min(CONNECTIONS_MAX).max(least);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// The accepted connections.
pub(super) struct Connections {
    max: usize,
    open: Vec<(AbortHandle, Arc<Meter>)>,
    /// Closed for others since the last report.
    closed: u64,
    reported: Option<Instant>,
}

impl Connections {
    pub(super) fn new(max: usize) -> Self {
        Connections { max, open: Vec::new(), closed: 0, reported: None }
    }

    /// Makes room for another connection: closes the one that has been silent for longest if there are too many.
    /// Peers are never silent for long, and connections that nobody uses always are. So nobody can keep a peer or
    /// a client out with connections that it only opens.
    pub(super) async fn make_room(&mut self) {
        self.open.retain(|(task, _)| !task.is_finished());
        while self.open.len() >= self.max {
            let silent =
                self.open.iter().enumerate().min_by_key(|(_, (_, meter))| meter.last_heard());
            let Some((at, _)) = silent else { return };
            self.open.swap_remove(at).0.abort();
            self.closed += 1;
            // The task lets go of its descriptor before another connection takes one.
            yield_now().await;
        }
        let now = Instant::now();
        if self.closed > 0 && self.reported.is_none_or(|at| now >= at + REPORT_INTERVAL) {
            let (closed, max) = (std::mem::take(&mut self.closed), self.max);
            self.reported = Some(now);
            tracing::warn!(
                "closed {closed} connections, those that were silent for longest: this node accepts {max}"
            );
        }
    }

    pub(super) fn add(&mut self, task: AbortHandle, meter: Arc<Meter>) {
        self.open.push((task, meter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_node_and_its_peers() {
        assert_eq!(share(1024, 3), 1024 - 64 - 6);
        assert_eq!(share(1 << 30, 3), 16 << 10);
        // With too few descriptors there is room for the peers all the same.
        assert_eq!(share(20, 3), 5);
    }

    #[tokio::test]
    async fn the_most_silent_connection_makes_room() {
        let mut connections = Connections::new(3);
        let mut tasks = Vec::new();
        for _ in 0..3 {
            connections.make_room().await;
            let task = tokio::spawn(std::future::pending::<()>());
            let meter = Arc::<Meter>::default();
            connections.add(task.abort_handle(), meter.clone());
            tasks.push((task, meter));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tasks[0].1.set_heard();
        connections.make_room().await;
        let closed = [0, 1, 2].map(|at: usize| at == 1);
        assert_eq!([0, 1, 2].map(|at| tasks[at].0.is_finished()), closed);
        // A connection that has ended by itself makes room as well.
        connections.add(tokio::spawn(async {}).abort_handle(), Arc::default());
        tokio::task::yield_now().await;
        connections.make_room().await;
        assert_eq!(connections.open.len(), 2);
        assert!(!tasks[0].0.is_finished() && !tasks[2].0.is_finished());
    }
}
