//! What can be wrong with a disk while it is in use, and what came of it.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::image::PAGE_BYTES;

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// No page is free, apart from so many: what needs another one fails with ENOSPC, and statfs says so.
    Full {
        /// The pages that are left, rounded down.
        free_bytes: u64,
    },
    /// Requests fail with EIO. After a failed sync, what it should have made durable stays visible, counts
    /// as clean, and is saved by no later sync.
    Error {
        /// Whether writes fail.
        writes: bool,
        /// Whether syncs fail.
        syncs: bool,
    },
    /// Each sync takes a time between these.
    Slow {
        /// The shortest.
        shortest: Duration,
        /// The longest.
        longest: Duration,
        /// Chooses the times.
        seed: u64,
    },
    /// No request is performed or answered.
    Stall,
}

impl DiskFault {
    /// The pages that a full disk has left.
    pub(super) fn free_pages(self) -> Option<u64> {
        match self {
            DiskFault::Full { free_bytes } => Some(free_bytes / PAGE_BYTES),
            _ => None,
        }
    }
}

/// What came of a fault: how many requests it affected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskEffects {
    /// Requests that found no room.
    pub refused: u64,
    /// Questions for free space that were answered with next to nothing.
    pub reported_full: u64,
    /// Writes that failed.
    pub failed_writes: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// Pages that failed syncs gave up.
    pub given_up: u64,
    /// Syncs that were slow.
    pub slow_syncs: u64,
    /// Requests that hung.
    pub stalled: u64,
    /// Syncs among them.
    pub stalled_syncs: u64,
}

impl DiskEffects {
    /// The effects by name, without those that did not occur.
    #[must_use]
    pub fn named(&self) -> BTreeMap<String, u64> {
        let all = [
            ("refused", self.refused),
            ("reported_full", self.reported_full),
            ("failed_writes", self.failed_writes),
            ("failed_syncs", self.failed_syncs),
            ("given_up_pages", self.given_up),
            ("slow_syncs", self.slow_syncs),
            ("stalled_requests", self.stalled),
            ("stalled_syncs", self.stalled_syncs),
        ];
        let occurred = all.into_iter().filter(|(_, count)| *count > 0);
        occurred.map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

impl fmt::Display for DiskFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskFault::Full { free_bytes } => write!(f, "{free_bytes} bytes are free"),
            DiskFault::Error { writes: true, syncs: true } => f.write_str("writes and syncs fail"),
            DiskFault::Error { writes: true, .. } => f.write_str("writes fail"),
            DiskFault::Error { .. } => f.write_str("syncs fail"),
            DiskFault::Slow { shortest, longest, .. } => {
                write!(f, "syncs take {} to {} ms", shortest.as_millis(), longest.as_millis())
            }
            DiskFault::Stall => f.write_str("no request is answered"),
        }
    }
}
