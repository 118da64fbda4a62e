//! Crash points inside a node's disk: around the writes and syncs of its WAL and of its LMDB data
//! file. No crash point of the node itself can tell these apart.
//!
//! A commit is a write of the WAL and a sync. When the WAL is full, the store checkpoints to LMDB,
//! which commits (data version 1) in three steps: it writes the pages of the transaction, syncs
//! them, and then writes one of the first two pages, the meta pages, through a descriptor with
//! `O_DSYNC`, which is a write and a sync. The other files hold locks, which mean nothing after a
//! restart.

use std::{fmt, str::FromStr};

use lab::disk::{self, Access, FileLayout, FlippedBit, Image, Region, Side};
use rand::{RngExt as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use system::{
    node::Role,
    protocol::{Key, Value, Version},
};

use crate::faults::Rot;

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

/// The data file of LMDB.
const DATA_FILE: &str = "data.mdb";

/// LMDB's reader table, whose content is meaningless after a restart.
const LOCK_FILE: &str = "lock.mdb";

/// Where a page of the WAL has its generation.
const GENERATION: std::ops::Range<usize> = 8..16;

/// Where a page of the WAL has its part of the frame's body.
const WAL_BODY: usize = 40;

/// The bytes between the start of a key and that of its value in LMDB, besides the key: checksum and version.
const BEFORE_VALUE: usize = 20;

/// The least length of a value that may be in pages of its own.
const LONG: usize = 1024;

/// How much of a value is looked for.
const NEEDLE: usize = 64;

/// A bit of an entry that is to rot.
#[derive(Debug)]
pub(crate) struct RottenEntry {
    key: Key,
    value: Value,
    /// Whether the bit is in the key; otherwise in the value.
    is_in_key: bool,
    /// The byte of the key or of the value.
    byte: usize,
    /// The bit of the byte.
    bit: u8,
}

impl RottenEntry {
    /// A bit of the value of an entry.
    pub(crate) fn value(key: &Key, value: &Value, rng: &mut ChaCha8Rng) -> Self {
        let byte = rng.random_range(0..needle(value).len().max(1));
        let bit = rng.random_range(0..8);
        RottenEntry { key: key.clone(), value: value.clone(), is_in_key: false, byte, bit }
    }

    /// A bit of one of the keys of all entries in key order, such that they stay in order: the search for other
    /// keys goes on as before. None if there is none.
    pub(crate) fn key(entries: &[(Key, Version, Value)], rng: &mut ChaCha8Rng) -> Option<Self> {
        let mut candidates = Vec::new();
        for (n, (key, _, value)) in entries.iter().enumerate() {
            let before = n.checked_sub(1).map(|before| entries[before].0.as_bytes());
            let after = entries.get(n + 1).map(|(after, ..)| after.as_bytes());
            let is_short = !value.as_bytes().is_empty() && value.as_bytes().len() < LONG;
            for at in (0..key.as_bytes().len() * 8).filter(|_| is_short) {
                let (byte, bit) = (at / 8, (at % 8) as u8);
                let mut rotten = key.as_bytes().to_vec();
                rotten[byte] ^= 1 << bit;
                let rotten = rotten.as_slice();
                if before.is_none_or(|key| key < rotten) && after.is_none_or(|key| rotten < key) {
                    candidates.push((key, value, byte, bit));
                }
            }
        }
        let (key, value, byte, bit) = *candidates.choose(rng)?;
        Some(RottenEntry { key: key.clone(), value: value.clone(), is_in_key: true, byte, bit })
    }
}

/// The part of a value that is looked for.
fn needle(value: &Value) -> &[u8] {
    &value.as_bytes()[..value.as_bytes().len().min(NEEDLE)]
}

/// Flips bits of a node's disk. Returns them: none if what was to rot is not on the disk, unless any other bit may rot
/// instead.
pub(crate) fn flip_bits(
    image: &mut Image,
    rot: Rot,
    entry: Option<&RottenEntry>,
    may_be_other: bool,
    rng: &mut ChaCha8Rng,
) -> Vec<FlippedBit> {
    let bits = match (rot, entry) {
        (Rot::Value | Rot::Key, Some(entry)) => bits_of_entry(image, entry),
        (Rot::Wal, _) => bit_of_wal(image, rng).into_iter().collect(),
        _ => Vec::new(),
    };
    let bits = if bits.is_empty() && may_be_other {
        image.draw_bit(rng, |file| !file.ends_with(LOCK_FILE)).into_iter().collect()
    } else {
        bits
    };
    image.flip(&bits);
    bits
}

/// Makes the disk what it was before the bits were flipped.
pub(crate) fn flip_back(image: &mut Image, bits: &[FlippedBit]) {
    image.flip(bits);
}

/// The same bit of every copy of an entry in LMDB's data file: some copies are in pages that are not in use any
/// more.
fn bits_of_entry(image: &Image, entry: &RottenEntry) -> Vec<FlippedBit> {
    let RottenEntry { key, value, is_in_key, byte, bit } = entry;
    let (key, needle) = (key.as_bytes(), needle(value));
    let paths = image.paths();
    let Some(file) = paths.iter().find(|path| path.ends_with(DATA_FILE)) else { return Vec::new() };
    if needle.is_empty() {
        return Vec::new();
    }
    // A long value has pages of its own, without its key.
    let is_long = value.as_bytes().len() >= LONG;
    let mut bits = Vec::new();
    for (page, bytes) in image.synced_pages(file) {
        for (at, _) in bytes.windows(needle.len()).enumerate().filter(|(_, found)| *found == needle)
        {
            let key_at = at.checked_sub(BEFORE_VALUE + key.len());
            let key_at = key_at.filter(|from| bytes[*from..].starts_with(key));
            let from = match key_at {
                Some(key_at) if *is_in_key => key_at,
                None if *is_in_key || !is_long => continue,
                _ => at,
            };
            let offset = page * disk::image::PAGE_BYTES + (from + byte) as u64;
            bits.push(FlippedBit { file: file.clone(), offset, bit: *bit });
        }
    }
    bits
}

/// A bit of the body of a page of the newest generation of the WAL.
fn bit_of_wal(image: &Image, rng: &mut ChaCha8Rng) -> Option<FlippedBit> {
    let paths = image.paths();
    let segments = paths.iter().filter(|path| path.ends_with("wal-0") || path.ends_with("wal-1"));
    let pages: Vec<(&String, u64, &[u8], u64)> = segments
        .flat_map(|file| {
            let pages = image.synced_pages(file).into_iter().filter(|(page, _)| *page > 0);
            pages.map(move |(page, bytes)| (file, page, bytes, generation(bytes)))
        })
        .collect();
    let newest = pages.iter().map(|(.., generation)| *generation).max()?;
    let current: Vec<_> = pages.iter().filter(|(.., it)| *it == newest && newest > 0).collect();
    let (file, page, bytes, _) = current.choose(rng)?;
    let filled: Vec<usize> = (WAL_BODY..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let within = filled.choose(rng).copied().unwrap_or(0);
    let offset = page * disk::image::PAGE_BYTES + within as u64;
    Some(FlippedBit { file: (*file).clone(), offset, bit: rng.random_range(0..8) })
}

fn generation(page: &[u8]) -> u64 {
    let bytes = page.get(GENERATION).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_be_bytes)
}

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
