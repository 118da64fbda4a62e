//! The crash points of a cluster: those of a node's process, and those inside its disk.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};
use system::node::{Point, Role, Side, Site};

use crate::disk::DiskPoint;

/// Where a node can be stopped. Its text is that of the point: `master:after-persist:commit`,
/// `replica:before-disk-sync:log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CrashPoint {
    /// A point of the process, which stops itself there.
    Process(Point),
    /// A point inside the disk, which holds the request there.
    Disk(DiskPoint),
}

impl CrashPoint {
    /// A point of the master's process, for its first occurrence.
    pub(crate) const fn master(side: Side, site: Site, kind: &'static str) -> Self {
        CrashPoint::Process(Point { role: Role::Master, side, site, kind, n: 1 })
    }

    /// A point of a replica's process, for its first occurrence.
    pub(crate) const fn replica(side: Side, site: Site, kind: &'static str) -> Self {
        CrashPoint::Process(Point { role: Role::Replica, side, site, kind, n: 1 })
    }

    /// The role of the node that has the point.
    #[must_use]
    pub fn role(self) -> Role {
        match self {
            CrashPoint::Process(point) => point.role,
            CrashPoint::Disk(point) => point.role,
        }
    }
}

impl From<Point> for CrashPoint {
    fn from(point: Point) -> Self {
        CrashPoint::Process(point)
    }
}

impl From<DiskPoint> for CrashPoint {
    fn from(point: DiskPoint) -> Self {
        CrashPoint::Disk(point)
    }
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CrashPoint::Process(point) => point.fmt(f),
            CrashPoint::Disk(point) => point.fmt(f),
        }
    }
}

impl Serialize for CrashPoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for CrashPoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(point) => Ok(CrashPoint::Disk(point)),
            Err(_) => text.parse().map(CrashPoint::Process),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_parsed_from_its_text() {
        let mut count = 0;
        for role in [Role::Master, Role::Replica] {
            let points = Point::all(role).map(CrashPoint::from);
            for point in points.chain(DiskPoint::all(role).map(CrashPoint::from)) {
                assert_eq!(point.to_string().parse(), Ok(point));
                assert_eq!(point.role(), role);
                count += 1;
            }
        }
        assert!(count > 100, "{count}");
        assert!("master:before-lunch:commit".parse::<CrashPoint>().is_err());
    }
}
