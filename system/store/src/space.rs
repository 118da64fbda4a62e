//! The room that is left for the tables, and what the records that were appended will need there. A store that
//! accepts no write without room for it never fails at a checkpoint, and a full one still deletes.
//!
//! A checkpoint copies every page that it changes before it frees the old one. So each row may need its
//! leaf page and a branch page again, up to as many pages as there are, besides the space of its value; and
//! that twice, because a write is a record first and an entry later. What deletes need, and what the
//! estimate misses, comes out of a reserve.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use nix::sys::{resource, statvfs};

use crate::{Rule, Rules, StoreError, environment::Environment};

const PAGE_BYTES: u64 = 4096;
/// Values from this size on have pages of their own.
const OVERFLOW_BYTES: u64 = 1024;

/// What records need in the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Rows that are written.
    rows: u64,
    /// The space of their content.
    bytes: u64,
}

impl Need {
    /// The need of one write of this many bytes of key and value.
    pub(crate) fn of(bytes: u64) -> Need {
        let bytes = if bytes < OVERFLOW_BYTES {
            // A page is at least half full.
            2 * (bytes + 64)
        } else {
            (bytes + 64).next_multiple_of(PAGE_BYTES) + PAGE_BYTES
        };
        Need { rows: 1, bytes }
    }

    pub(crate) fn add(&mut self, other: Need) {
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

/// The space of a store.
#[derive(Debug)]
pub(crate) struct Space {
    dir: PathBuf,
    /// The size that the data file may have.
    limit: u64,
    reserve: u64,
    rules: Rules,
    /// The size of the tables, and of the data file as far as it is allocated, in the last commit.
    used: AtomicU64,
    allocated: AtomicU64,
    /// Something was refused since the writer last asked.
    refused: AtomicBool,
}

impl Space {
    pub(crate) fn new(environment: &Environment, rules: Rules) -> Result<Space, StoreError> {
        // The size limit of the process holds for the data file too.
        let file = resource::getrlimit(resource::Resource::RLIMIT_FSIZE);
        let limit = environment.map_bytes().min(file.map_or(u64::MAX, |(soft, _)| soft));
        let space = Space {
            dir: environment.dir().to_owned(),
            limit,
            reserve: (limit / 32).clamp(16 * PAGE_BYTES, 256 << 20),
            rules,
            used: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
            refused: AtomicBool::new(false),
        };
        space.measure(environment)?;
        Ok(space)
    }

    /// Looks at the tables after a commit.
    pub(crate) fn measure(&self, environment: &Environment) -> Result<(), StoreError> {
        let (used, allocated) = environment.sizes()?;
        self.used.store(used, Ordering::Relaxed);
        self.allocated.store(allocated, Ordering::Relaxed);
        Ok(())
    }

    /// Whether there is room for what records need.
    pub(crate) fn has_room_for(&self, need: Need) -> bool {
        if !self.rules.keep(Rule::YesReservesSpace) {
            return true;
        }
        let used = self.used.load(Ordering::Relaxed);
        let free_inside = self.allocated.load(Ordering::Relaxed).saturating_sub(used);
        // If the file system does not tell, a checkpoint will.
        let disk = statvfs::statvfs(&self.dir)
            .map_or(u64::MAX, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()));
        let room = self.limit.saturating_sub(used).min(free_inside.saturating_add(disk));
        let copies = (2 * PAGE_BYTES).saturating_mul(need.rows).min(used);
        let need = copies.saturating_add(need.bytes.saturating_mul(2));
        let fits = need.saturating_add(self.reserve) <= room;
        if !fits {
            self.refused.store(true, Ordering::Relaxed);
        }
        fits
    }

    /// Whether something was refused since this was last asked. A checkpoint then shows what deletes have
    /// freed, and needs nothing any more.
    pub(crate) fn take_refused(&self) -> bool {
        self.refused.swap(false, Ordering::Relaxed)
    }
}
