//! Crash points inside a node's disk: around the writes and syncs of its log and of its LMDB data
//! file, which no point of the node itself can tell apart. Knows that a commit is a write of the log
//! and a sync, and how LMDB commits (data version 1) when the log is full: it writes the pages of a
//! transaction, syncs them, and then writes one of the first two pages, the meta pages, through a
//! descriptor with `O_DSYNC`, which is a write and a sync. Knows nothing of mounts.

use std::{collections::BTreeSet, ffi::OsStr, fmt, str::FromStr};

use system::node::{Role, Side};

use super::image::PAGE_BYTES;

/// The meta pages come first.
const META_PAGES: u64 = 2;

/// What is done at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// A write, which the disk may still lose.
    Write,
    /// A sync, after which it may not.
    Sync,
}

/// To which part of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The log.
    Log,
    /// The pages of the transaction.
    Data,
    /// The meta page alone, which makes the transaction count.
    Meta,
}

impl Verb {
    const ALL: [Verb; 2] = [Verb::Write, Verb::Sync];

    fn name(self) -> &'static str {
        match self {
            Verb::Write => "disk-write",
            Verb::Sync => "disk-sync",
        }
    }
}

impl Part {
    const ALL: [Part; 3] = [Part::Log, Part::Data, Part::Meta];

    fn name(self) -> &'static str {
        match self {
            Part::Log => "log",
            Part::Data => "data",
            Part::Meta => "meta",
        }
    }
}

/// A point inside a disk: `<role>:<before|after>-<disk-write|disk-sync>:<log|data|meta>[:<n>]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskPoint {
    /// Whose disk it is.
    pub role: Role,
    /// Before it is done, or when it is done and the node does not know yet.
    pub side: Side,
    /// What is done.
    pub verb: Verb,
    /// To what.
    pub part: Part,
    /// Which occurrence since the point was armed, from 1.
    pub n: u32,
}

impl DiskPoint {
    /// Every point of a role's disk, each for the first occurrence.
    pub fn all(role: Role) -> impl Iterator<Item = DiskPoint> {
        Part::ALL.into_iter().flat_map(move |part| {
            Verb::ALL.into_iter().flat_map(move |verb| {
                Side::ALL.into_iter().map(move |side| DiskPoint { role, side, verb, part, n: 1 })
            })
        })
    }
}

impl fmt::Display for DiskPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DiskPoint { role, side, verb, part, n } = self;
        write!(f, "{}:{}-{}:{}", role.name(), side.name(), verb.name(), part.name())?;
        if *n == 1 { Ok(()) } else { write!(f, ":{n}") }
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
            .map(|point| DiskPoint { n, ..point })
            .ok_or_else(|| format!("'{text}' is no point of a disk"))
    }
}

/// A file in which a node keeps what is durable. Its other files hold locks, which mean nothing
/// later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The log.
    Log,
    /// LMDB's tables.
    Tables,
}

impl Kept {
    /// The file of this name, if it is one that matters here.
    pub(super) fn named(name: &OsStr) -> Option<Kept> {
        match name.to_str()? {
            "log" => Some(Kept::Log),
            "data.mdb" => Some(Kept::Tables),
            _ => None,
        }
    }

    /// Which part of a commit a write at this offset is.
    pub(super) fn part_of_write(self, offset: u64) -> Part {
        match self {
            Kept::Log => Part::Log,
            Kept::Tables if offset < META_PAGES * PAGE_BYTES => Part::Meta,
            Kept::Tables => Part::Data,
        }
    }

    /// Which part of a commit a sync of these pages is; none if there is nothing to sync.
    pub(super) fn part_of_sync(self, unsynced: &BTreeSet<u64>) -> Option<Part> {
        let last = unsynced.last()?;
        Some(match self {
            Kept::Log => Part::Log,
            Kept::Tables if *last < META_PAGES => Part::Meta,
            Kept::Tables => Part::Data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_as_they_are_written() {
        for role in [Role::Master, Role::Replica] {
            assert_eq!(DiskPoint::all(role).count(), 12);
            for point in DiskPoint::all(role) {
                for n in [1, 7] {
                    let point = DiskPoint { n, ..point };
                    assert_eq!(point.to_string().parse(), Ok(point));
                }
            }
        }
        assert_eq!(
            "master:before-disk-sync:meta".parse::<DiskPoint>().map(|point| point.part),
            Ok(Part::Meta)
        );
        for wrong in ["", "master:before-persist:commit", "master:before-disk-sync:meta:0"] {
            assert!(wrong.parse::<DiskPoint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_sync_of_meta_pages_alone_is_the_second_of_a_commit() {
        let tables = Kept::named("data.mdb".as_ref()).expect("it matters");
        assert_eq!(tables.part_of_sync(&[].into()), None);
        assert_eq!(tables.part_of_sync(&[1].into()), Some(Part::Meta));
        assert_eq!(tables.part_of_sync(&[0, 1, 7].into()), Some(Part::Data));
        let parts = (tables.part_of_write(4096), tables.part_of_write(8192));
        assert_eq!(parts, (Part::Meta, Part::Data));
        let log = Kept::named("log".as_ref()).expect("it matters");
        assert_eq!(log.part_of_sync(&[0].into()), Some(Part::Log));
        assert_eq!(log.part_of_write(0), Part::Log);
        assert_eq!(Kept::named("lock.mdb".as_ref()), None);
    }
}
