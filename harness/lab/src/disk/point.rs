//! Crash points inside a disk: before or after a write or a sync of one region of a file. Which
//! files and regions there are is the system's [`FileLayout`]; this module does not know them.

use std::{collections::BTreeSet, ffi::OsStr, fmt};

use super::image::PAGE_BYTES;

/// A named region of a file, such as `meta`. The name appears in the names of points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(pub &'static str);

/// A file whose writes and syncs have points, and the regions that it consists of.
///
/// A write belongs to the region in which it begins. A sync belongs to the region of the last page
/// that it makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLayout {
    /// The file's name, without its directory.
    pub name: &'static str,
    /// The first page of each region and the region, in ascending order, from page 0.
    pub regions: &'static [(u64, Region)],
}

impl FileLayout {
    /// The layout of the file with this name, if it has points.
    pub(super) fn find<'a>(layouts: &'a [FileLayout], name: &OsStr) -> Option<&'a FileLayout> {
        layouts.iter().find(|layout| name == layout.name)
    }

    fn region_of_page(&self, page: u64) -> Option<Region> {
        let at_or_before = self.regions.iter().take_while(|(first, _)| *first <= page);
        at_or_before.last().map(|(_, region)| *region)
    }

    /// The region of a write that begins at `offset`.
    pub(super) fn region_written(&self, offset: u64) -> Option<Region> {
        self.region_of_page(offset / PAGE_BYTES)
    }

    /// The region of a sync of these pages; `None` if there are none.
    pub(super) fn region_synced(&self, unsynced: &BTreeSet<u64>) -> Option<Region> {
        self.region_of_page(*unsynced.last()?)
    }
}

/// On which side of an access a point lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The access has not been performed.
    Before,
    /// The access was performed, and the process has not been told.
    After,
}

impl Side {
    /// Both sides.
    pub const ALL: [Side; 2] = [Side::Before, Side::After];

    /// The name that points use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Side::Before => "before",
            Side::After => "after",
        }
    }
}

/// The kind of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// A write, which a power loss may still undo.
    Write,
    /// A sync, which makes earlier writes durable.
    Sync,
}

impl Access {
    /// Both kinds.
    pub const ALL: [Access; 2] = [Access::Write, Access::Sync];

    fn name(self) -> &'static str {
        match self {
            Access::Write => "disk-write",
            Access::Sync => "disk-sync",
        }
    }
}

/// A crash point inside a disk: `<before|after>-<disk-write|disk-sync>:<region>[:<n>]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskPoint {
    /// Before or after the access.
    pub side: Side,
    /// The kind of access.
    pub access: Access,
    /// The region that is accessed.
    pub region: Region,
    /// Which occurrence since the point was armed, from 1.
    pub n: u32,
}

impl DiskPoint {
    /// Every point of these regions, each for its first occurrence.
    pub fn all(regions: &'static [Region]) -> impl Iterator<Item = DiskPoint> {
        regions.iter().flat_map(|region| {
            Access::ALL.into_iter().flat_map(move |access| {
                Side::ALL.into_iter().map(move |side| DiskPoint {
                    side,
                    access,
                    region: *region,
                    n: 1,
                })
            })
        })
    }
}

impl fmt::Display for DiskPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DiskPoint { side, access, region, n } = self;
        write!(f, "{}-{}:{}", side.name(), access.name(), region.0)?;
        if *n == 1 { Ok(()) } else { write!(f, ":{n}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Region = Region("head");
    const BODY: Region = Region("body");
    const FILE: FileLayout = FileLayout { name: "f", regions: &[(0, HEAD), (2, BODY)] };

    #[test]
    fn a_write_belongs_to_the_region_in_which_it_begins() {
        assert_eq!(FILE.region_written(0), Some(HEAD));
        assert_eq!(FILE.region_written(2 * PAGE_BYTES - 1), Some(HEAD));
        assert_eq!(FILE.region_written(2 * PAGE_BYTES), Some(BODY));
    }

    #[test]
    fn a_sync_belongs_to_the_region_of_its_last_page() {
        assert_eq!(FILE.region_synced(&[].into()), None);
        assert_eq!(FILE.region_synced(&[1].into()), Some(HEAD));
        assert_eq!(FILE.region_synced(&[0, 1, 7].into()), Some(BODY));
    }

    #[test]
    fn only_files_with_a_layout_have_points() {
        let found = |name: &str| FileLayout::find(&[FILE], name.as_ref()).is_some();
        assert!(found("f") && !found("lock"));
    }

    #[test]
    fn points_are_named_after_access_and_region() {
        let names: Vec<_> = DiskPoint::all(&[HEAD]).map(|point| point.to_string()).collect();
        assert_eq!(
            names,
            [
                "before-disk-write:head",
                "after-disk-write:head",
                "before-disk-sync:head",
                "after-disk-sync:head"
            ]
        );
        let first = DiskPoint::all(&[HEAD]).next().expect("there are four");
        assert_eq!(DiskPoint { n: 7, ..first }.to_string(), "before-disk-write:head:7");
    }
}
