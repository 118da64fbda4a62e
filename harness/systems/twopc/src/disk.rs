//! Crash points inside a node's disk: around the writes and syncs of its WAL and of its LMDB data
//! file. No crash point of the node itself can tell these apart.
//!
//! A commit is a write of the WAL and a sync. When the WAL is full, the store checkpoints to LMDB,
//! which commits (data version 1) in three steps: it writes the pages of the transaction, syncs
//! them, and then writes one of the first two pages, the meta pages, through a descriptor with
//! `O_DSYNC`, which is a write and a sync. The other files hold locks, which mean nothing after a
//! restart.

use std::{fmt, str::FromStr};

use lab::disk::{self, Access, FileLayout, Region, Side};
use system::node::Role;

/// The WAL.
pub const LOG: Region = Region("log");
/// The pages of an LMDB transaction.
pub const DATA: Region = Region("data");
/// LMDB's meta pages, which make a transaction visible.
pub const META: Region = Region("meta");

/// LMDB's meta pages are the first pages of its data file.
const META_PAGES: u64 = 2;

/// The files of a node whose writes and syncs have crash points.
pub const LAYOUTS: &[FileLayout] = &[
    FileLayout { name: "wal-0", regions: &[(0, LOG)] },
    FileLayout { name: "wal-1", regions: &[(0, LOG)] },
    FileLayout { name: "data.mdb", regions: &[(0, META), (META_PAGES, DATA)] },
];

/// A crash point inside the disk of a role: `<role>:<point>`, for example
/// `master:before-disk-sync:meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskPoint {
    /// The role of the node that the disk belongs to.
    pub role: Role,
    /// The point.
    pub at: disk::DiskPoint,
}

impl DiskPoint {
    /// Every point of a role's disk, each for its first occurrence.
    pub fn all(role: Role) -> impl Iterator<Item = DiskPoint> {
        disk::DiskPoint::all(&[LOG, DATA, META]).map(move |at| DiskPoint { role, at })
    }

    /// Before or after the first access of this kind to a role's WAL.
    #[must_use]
    pub const fn of_wal(role: Role, side: Side, access: Access) -> Self {
        DiskPoint { role, at: disk::DiskPoint { side, access, region: LOG, n: 1 } }
    }

    /// The same point for its `n`-th occurrence, from 1.
    #[must_use]
    pub fn occurrence(self, n: u32) -> Self {
        DiskPoint { at: disk::DiskPoint { n, ..self.at }, ..self }
    }
}

impl fmt::Display for DiskPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.role.name(), self.at)
    }
}

impl FromStr for DiskPoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, n) = match text.rsplit_once(':').map(|(first, n)| (first, n.parse())) {
            Some((first, Ok(n))) => (first, n),
            _ => (text, 1),
        };
        [Role::Master, Role::Replica]
            .into_iter()
            .flat_map(DiskPoint::all)
            .find(|point| point.to_string() == first && n > 0)
            .map(|point| point.occurrence(n))
            .ok_or_else(|| format!("'{text}' is not a disk point"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_parsed_from_their_text() {
        for role in [Role::Master, Role::Replica] {
            assert_eq!(DiskPoint::all(role).count(), 12);
            for point in DiskPoint::all(role) {
                for n in [1, 7] {
                    let point = point.occurrence(n);
                    assert_eq!(point.to_string().parse(), Ok(point));
                }
            }
        }
        assert_eq!(
            "master:before-disk-sync:meta".parse::<DiskPoint>().map(|point| point.at.region),
            Ok(META)
        );
        for wrong in ["", "master:before-persist:commit", "master:before-disk-sync:meta:0"] {
            assert!(wrong.parse::<DiskPoint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_sync_of_meta_pages_alone_is_the_second_sync_of_a_commit() {
        let [first, second, tables] = LAYOUTS else { panic!("there are three files") };
        for (segment, name) in [(first, "wal-0"), (second, "wal-1")] {
            assert_eq!((segment.name, segment.regions), (name, &[(0, LOG)][..]));
        }
        assert_eq!((tables.name, tables.regions), ("data.mdb", &[(0, META), (2, DATA)][..]));
    }
}
