//! Reads the log of format 4, which had one file, `log`, with frames that carry a checksum but no
//! salt. It is only read: a store of that format is upgraded when it is opened.
//!
//! After a page that names the store, each frame has the CRC-32 of its rest (4 bytes), the length of
//! its body (4), its generation (8), the CRC-32 of the frame before or 0 (4), and the body, padded to
//! whole pages.

use std::{io::ErrorKind, ops::RangeBounds, path::Path};

use super::{body, page::PAGE};
use crate::{RowError, Schema, StoreError, StoreId, environment};

/// The name of the file.
pub(crate) const LOG_FILE: &str = "log";
const MAGIC: [u8; 8] = *b"2pc log\0";
/// Magic, store id, checksum of both.
const HEAD_BYTES: usize = 8 + 8 + 4;
/// Checksum, body length, generation, checksum of the previous frame.
const FRAME_HEAD_BYTES: usize = 4 + 4 + 8 + 4;

/// Reads the records of a log whose tables contain everything up to generation `applied`.
pub(crate) fn read<S: Schema>(
    dir: &Path,
    id: StoreId,
    applied: u64,
) -> Result<Vec<S::Record>, StoreError> {
    let path = &dir.join(LOG_FILE);
    let lost = |state| StoreError::DataLost { file: path.clone(), store: id, state };
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(lost("missing")),
        read => read.map_err(environment::io(path, "cannot read the log"))?,
    };
    let damaged = |what: String| StoreError::Damaged { file: path.clone(), what };
    if bytes.is_empty() {
        return Err(lost("empty"));
    }
    match store_of(&bytes) {
        None => return Err(damaged("it does not name the store that it belongs to".into())),
        Some(found) if found != id => {
            return Err(StoreError::Swapped { file: path.clone(), found, expected: id });
        }
        Some(_) => {}
    }

    let generation = applied + 1;
    let (mut records, mut offset, mut last_sum) = (Vec::new(), PAGE, 0);
    while let Some(frame) = frame_at(&bytes, offset, generation..) {
        if frame.generation > generation {
            let ahead = frame.generation - 1;
            return Err(damaged(format!(
                "it continues from generation {ahead}, but the tables contain generation \
                 {applied}: the records in between are lost"
            )));
        }
        if frame.previous_sum != last_sum {
            break;
        }
        body::decode::<S>(frame.body, &mut records).map_err(|error| match error {
            RowError::Foreign => StoreError::ForeignRecords { dir: dir.to_owned() },
            RowError::Invalid(why) => {
                damaged(format!("the frame at byte {offset} is invalid: {why}"))
            }
        })?;
        last_sum = frame.sum;
        offset += frame.len;
    }
    let mut later = (offset..bytes.len()).step_by(PAGE).skip(1);
    match later.find(|at| frame_at(&bytes, *at, generation..=generation).is_some()) {
        Some(at) => Err(damaged(format!(
            "the frame at byte {offset} is torn, but a later one at byte {at} is intact"
        ))),
        None => Ok(records),
    }
}

/// The store that the file belongs to, if it is a log.
fn store_of(bytes: &[u8]) -> Option<StoreId> {
    let (identity, sum) = bytes.get(..HEAD_BYTES)?.split_at(HEAD_BYTES - 4);
    let id = identity.strip_prefix(&MAGIC)?;
    let intact = crc32fast::hash(identity).to_be_bytes() == sum;
    intact.then(|| id.try_into().map(u64::from_be_bytes).map(StoreId).ok())?
}

struct Frame<'a> {
    sum: u32,
    generation: u64,
    previous_sum: u32,
    body: &'a [u8],
    /// The length with padding.
    len: usize,
}

/// The frame at an offset, if it is intact and of one of these generations.
fn frame_at(bytes: &[u8], at: usize, generations: impl RangeBounds<u64>) -> Option<Frame<'_>> {
    let rest = bytes.get(at..)?;
    let (sum, rest) =
        rest.split_first_chunk().map(|(sum, rest)| (u32::from_be_bytes(*sum), rest))?;
    let (len, fields) = rest.split_first_chunk()?;
    let len = u32::from_be_bytes(*len) as usize;
    let (generation, fields) = fields.split_first_chunk()?;
    let (previous_sum, fields) = fields.split_first_chunk()?;
    let generation = u64::from_be_bytes(*generation);
    let body = fields.get(..len).filter(|_| generations.contains(&generation))?;
    let intact = crc32fast::hash(&rest[..FRAME_HEAD_BYTES - 4 + len]) == sum;
    intact.then(|| Frame {
        sum,
        generation,
        previous_sum: u32::from_be_bytes(*previous_sum),
        body,
        len: (FRAME_HEAD_BYTES + len).next_multiple_of(PAGE),
    })
}
