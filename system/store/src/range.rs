//! Ranges of the tables, for a comparison with another store of the same entries.

use std::ops::Bound;

use crate::{Schema, Store, StoreError, codec};

/// How many bytes of rows a range has at most, unless its first row is longer.
const RANGE_BYTES: usize = 256 << 10;

/// What is in a range of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRows<S: Schema> {
    /// The last key that was read; none if there is none.
    pub upto: Option<S::Key>,
    /// The version of the last key, if its row counts.
    pub version: Option<S::Version>,
    /// The number of rows that count.
    pub rows: u64,
    /// A digest of their keys, versions and checksums.
    pub digest: u64,
}

impl<S: Schema> Store<S> {
    /// Summarizes a range of the tables: from behind `after` or the beginning, to `upto`, to the end, or until
    /// `rows_max` intact rows or 256 KiB are read, whichever comes first.
    ///
    /// A row counts if its version is below `below`, no record has written its key since the last checkpoint,
    /// it is intact, and a search for its key finds it. Two stores that contain the same writes below
    /// `below` in their tables have the same rows, but for keys that were written later.
    ///
    /// # Errors
    /// The store cannot be read, or an earlier write failed.
    pub fn summarize(
        &self,
        after: Option<&S::Key>,
        upto: Option<&S::Key>,
        rows_max: usize,
        below: S::Version,
    ) -> Result<RangeRows<S>, StoreError> {
        self.shared.check()?;
        let environment = &self.environment;
        let failed = environment.error("cannot read");
        let txn = environment.read()?;
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_ref()));
        let range = (from, Bound::<&[u8]>::Unbounded);
        let rows = environment.entries.range(&txn, &range).map_err(&failed)?;
        let mut digest = Digest::default();
        let mut summary = RangeRows { upto: None, version: None, rows: 0, digest: 0 };
        let (mut intact, mut bytes) = (0, 0);
        for row in rows {
            let (key, row) = row.map_err(&failed)?;
            if intact >= rows_max || (intact > 0 && bytes >= RANGE_BYTES) {
                break;
            }
            bytes += key.len() + row.len();
            // A key that has rotted says nothing, not even where the range ends.
            let Some(version) = codec::version_of_entry::<S>(key, row) else { continue };
            if upto.is_some_and(|upto| key > upto.as_ref()) {
                break;
            }
            intact += 1;
            let owned = S::Key::from(key);
            let counts = version < below
                && self.shared.changed(&owned).is_none()
                && environment
                    .entries
                    .get(&txn, key)
                    .map_err(&failed)?
                    .is_some_and(|found| found.as_ptr() == row.as_ptr());
            if counts {
                summary.rows += 1;
                digest.add(key, row);
            }
            (summary.upto, summary.version) = (Some(owned), counts.then_some(version));
        }
        summary.digest = digest.finish();
        Ok(summary)
    }
}

/// Two checksums of the same bytes, which no single error changes alike.
#[derive(Default)]
struct Digest {
    crc32: crc32fast::Hasher,
    crc32c: u32,
}

impl Digest {
    /// Adds a row: its key, and of its value the checksum, which covers the rest, and the version.
    fn add(&mut self, key: &[u8], row: &[u8]) {
        let head = &row[..row.len().min(codec::ENTRY_HEAD_BYTES)];
        for part in [&(key.len() as u64).to_be_bytes()[..], key, head] {
            self.crc32.update(part);
            self.crc32c = crc32c::crc32c_append(self.crc32c, part);
        }
    }

    fn finish(self) -> u64 {
        u64::from(self.crc32.finalize()) << 32 | u64::from(self.crc32c)
    }
}
