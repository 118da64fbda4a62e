//! File descriptors: how many the node may have, and how many connections leave enough of them for its store and
//! its peers.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The descriptors that are not for accepted connections: the store, the journal, the log, the runtime, and a
/// connection to each peer, twice while one replaces another.
const RESERVED: u64 = 64;
/// The maximum number of accepted connections, with any number of descriptors: each takes memory.
const CONNECTIONS_MAX: u64 = 16 << 10;

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
}
