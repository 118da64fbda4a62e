//! The write-ahead log: two segments in which a group of records becomes durable with one write and
//! one sync, before the tables contain it. Knows the framing and what a crash or rot can leave of it,
//! but not tables or threads.
//!
//! A segment begins with a page that identifies the store. Frames follow it, each with the records of
//! one group, in whole pages. Each page says which frame of which *generation* it belongs to, carries
//! the generation's *salt*, and has a checksum (`page`). A generation fills one segment; the next one
//! goes to the other. The checksums form one chain over all pages of all generations.
//!
//! The tables hold the *anchor*: the last generation that they contain, the checksum of its last page,
//! and the salts of the next two generations. A salt is therefore durable before its first use, and
//! the commit that makes a segment free also brings the salt under which it is overwritten.
//!
//! Invariants: no frame is written before the previous one is durable, across generations too, so a
//! crash leaves whole frames followed by at most one torn frame. No segment is overwritten before the
//! tables durably contain its generation. The last frame is followed by an empty one, a *seal*, when
//! no other follows soon: what has a successor was durable, and if it is not intact it is damaged.

mod body;
pub(crate) mod legacy;
mod page;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    mem,
    path::{Path, PathBuf},
};

pub(crate) use self::{
    page::Salt,
    segment::{SEGMENT_FILES, create},
};
use self::{
    page::{Header, PAGE, PAYLOAD, SEAL_PAGES, write_frame},
    recovery::{End, Generation},
    segment::{FRAMES_AT, Segment},
};
use crate::{Rule, Rules, Schema, StoreError, StoreId, SyncMode};

/// Where the WAL continues what the tables contain. Stored in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Anchor {
    /// The last generation that the tables contain.
    pub(crate) applied: u64,
    /// The checksum of that generation's last page.
    pub(crate) chain: u32,
    /// The salts of the two generations after it.
    pub(crate) salts: [Salt; 2],
}

impl Anchor {
    /// The anchor of tables that contain everything up to a generation, before a WAL without frames.
    pub(crate) fn new(applied: u64) -> Anchor {
        Anchor { applied, chain: 0, salts: [Salt::random(), Salt::random()] }
    }
}

/// The part of a segment that is kept for its last group.
const NEARLY_FULL: u64 = 8;

/// How to open a WAL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalOptions {
    /// Whether this process may append. If not, no frame fits.
    pub(crate) append: bool,
    pub(crate) sync_mode: SyncMode,
    pub(crate) rules: Rules,
}

/// The write-ahead log of a store, open for appending.
#[derive(Debug)]
pub(crate) struct Wal {
    segments: [Segment; 2],
    options: WalOptions,
    generation: u64,
    salt: Salt,
    /// The salt of the next generation, once the tables contain the one before the current.
    next_salt: Option<Salt>,
    end: End,
    /// The rotten pages of the other segment when the WAL was opened. Behind the last frame of a later generation
    /// they would look like a frame that was durable and is damaged.
    rotten: Vec<u64>,
    /// The length of the largest frame of the generation, in bytes.
    largest_frame: u64,
    /// The body of the next frame.
    body: Vec<u8>,
    /// An aligned buffer for the pages of a frame.
    pages: Vec<u8>,
}

impl Wal {
    /// Opens the WAL of a store with this anchor, and reads the records that the tables do not contain.
    /// Further frames are appended after these.
    pub(crate) fn open<S: Schema>(
        dir: &Path,
        id: StoreId,
        anchor: Anchor,
        options: WalOptions,
    ) -> Result<(Wal, Vec<S::Record>), StoreError> {
        let open = |number| Segment::open(dir, id, number, options.sync_mode);
        let ((first, first_bytes), (second, second_bytes)) = (open(0)?, open(1)?);
        let (segments, bytes) = ([first, second], [first_bytes, second_bytes]);
        let generation = |number, salt| Generation {
            bytes: &bytes[slot(number)],
            path: segments[slot(number)].path(),
            number,
            salt,
            rules: options.rules,
        };
        let number = anchor.applied + 1;
        let current = generation(number, anchor.salts[0]);
        let next = generation(number + 1, anchor.salts[1]);
        let mut records = Vec::new();
        let successor = next.as_successor();
        let end = current.read::<S>(anchor.chain, successor, &mut records)?;
        let continues = Generation::continues(successor);
        let rotten = if continues { current.rotten() } else { next.rotten() };
        let (number, salt, next_salt, end) = if continues {
            let end = next.read::<S>(end.chain, recovery::Successor::default(), &mut records)?;
            (number + 1, anchor.salts[1], None, end)
        } else {
            (number, anchor.salts[0], Some(anchor.salts[1]), end)
        };
        let wal = Wal {
            segments,
            options,
            generation: number,
            salt,
            next_salt,
            end,
            rotten,
            largest_frame: 0,
            body: Vec::new(),
            pages: Vec::new(),
        };
        Ok((wal, records))
    }

    /// Resizes the segments, if none holds frames that the tables do not contain and this process may
    /// append.
    pub(crate) fn resize(&mut self, bytes: u64) -> Result<(), StoreError> {
        if self.is_empty() && self.options.append {
            self.segments.iter_mut().try_for_each(|segment| segment.resize(bytes))?;
        }
        Ok(())
    }

    /// Whether the tables contain everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.end.frame == 0 && self.next_salt.is_some()
    }

    /// Whether the tables do not contain the generation before the current one.
    pub(crate) fn fills_both_segments(&self) -> bool {
        self.next_salt.is_none()
    }

    /// Makes durable what an earlier process wrote, and erases what it did not finish. Must precede the
    /// first frame.
    pub(crate) fn begin(&mut self) -> Result<(), StoreError> {
        self.rewrite_last_frame()?;
        self.segments.iter().try_for_each(Segment::sync)?;
        let len = self.end.torn_until.saturating_sub(self.end.offset);
        if len == 0 || !self.options.append {
            return Ok(());
        }
        // A shorter frame in its place would leave some of its pages behind itself.
        let offset = self.end.offset;
        aligned(&mut self.pages, usize::try_from(len).unwrap_or(usize::MAX)).fill(0);
        self.write_pages(usize::try_from(len).unwrap_or(usize::MAX), offset)?;
        self.end.torn_until = 0;
        Ok(())
    }

    /// Writes the last frame once more. If the sync of an earlier process has failed, its pages can be read, but
    /// count as clean, so that no sync makes them durable unless they are written. Every frame before it was
    /// durable.
    fn rewrite_last_frame(&mut self) -> Result<(), StoreError> {
        if self.end.frame == 0 || !self.options.append {
            return Ok(());
        }
        let segment = &self.segments[slot(self.generation)];
        let last = aligned(&mut self.pages, PAGE);
        segment.read(last, self.end.offset - PAGE as u64)?;
        let len = (page::index(last) as usize + 1) * PAGE;
        let offset = self.end.offset.saturating_sub(len as u64).max(FRAMES_AT);
        let len = usize::try_from(self.end.offset - offset).unwrap_or(usize::MAX);
        let frame = aligned(&mut self.pages, len);
        segment.read(frame, offset)?;
        segment.write(frame, offset)
    }

    /// Builds the body of the next frame from records. Returns false if the frame does not fit with a
    /// seal after it.
    pub(crate) fn prepare_frame<S: Schema>(&mut self, records: &[S::Record]) -> bool {
        let len = if self.options.append { self.segment().len() } else { 0 };
        let pages =
            usize::try_from(len.saturating_sub(self.end.offset)).unwrap_or(usize::MAX) / PAGE;
        let room = pages.saturating_sub(SEAL_PAGES) * PAYLOAD;
        self.body.clear();
        for record in records {
            body::encode_record::<S>(record, &mut self.body);
            if self.body.len() > room {
                return false;
            }
        }
        !self.body.is_empty() && u32::try_from(self.body.len()).is_ok()
    }

    /// Appends the frame built last, and syncs it.
    pub(crate) fn append_frame(&mut self) -> Result<(), StoreError> {
        self.write_frame()?;
        self.end.unsealed = true;
        Ok(())
    }

    /// Whether the last frame has no successor yet.
    pub(crate) fn is_unsealed(&self) -> bool {
        self.end.unsealed && self.options.rules.keep(Rule::SealWhenIdle)
    }

    /// Appends an empty frame, which shows that the one before it was durable.
    pub(crate) fn seal(&mut self) -> Result<(), StoreError> {
        self.body.clear();
        self.write_frame()?;
        self.end.unsealed = false;
        Ok(())
    }

    /// The anchor of tables that contain everything up to the current generation.
    pub(crate) fn next_anchor(&self) -> Anchor {
        let salt = self.next_salt.unwrap_or_else(Salt::random);
        Anchor { applied: self.generation, chain: self.end.chain, salts: [salt, Salt::random()] }
    }

    /// Whether the segment has little room left for more than one group of the usual size.
    pub(crate) fn is_nearly_full(&self) -> bool {
        let len = if self.options.append { self.segment().len() } else { 0 };
        let left = len.saturating_sub(self.end.offset);
        let reserve = (len / NEARLY_FULL).max(2 * self.largest_frame) + (SEAL_PAGES * PAGE) as u64;
        self.end.frame > 0 && left < reserve
    }

    /// Starts the next generation, which continues this one in the other segment. This one's anchor need
    /// not be durable yet, but the one before it must be: nothing in that segment is needed any more.
    pub(crate) fn start_next_generation(&mut self, anchor: &Anchor) -> Result<(), StoreError> {
        let durable = self.options.rules.keep(Rule::SaltBeforeSegment);
        self.generation = anchor.applied + 1;
        self.salt = if durable { anchor.salts[0] } else { Salt::random() };
        self.next_salt = None;
        self.largest_frame = 0;
        self.end = End {
            offset: FRAMES_AT,
            frame: 0,
            chain: anchor.chain,
            torn_until: 0,
            unsealed: false,
        };
        let rotten = mem::take(&mut self.rotten);
        if rotten.is_empty() || !self.options.append {
            return Ok(());
        }
        let segment = &self.segments[slot(self.generation)];
        let zeros = aligned(&mut self.pages, PAGE);
        zeros.fill(0);
        for at in rotten.into_iter().filter(|at| *at < segment.len()) {
            segment.write(zeros, at)?;
        }
        segment.sync()
    }

    /// The anchor of the generation before this one is durable.
    pub(crate) fn set_next_salt(&mut self, anchor: &Anchor) {
        self.next_salt = Some(anchor.salts[1]);
    }

    /// The segment of the current generation, for [`Retired::enlarge`] when the tables contain it.
    pub(crate) fn retire(&self) -> Retired {
        let segment = self.segment();
        let (path, len) = (segment.path().to_owned(), segment.len());
        Retired { slot: slot(self.generation), path, len }
    }

    /// A segment was enlarged.
    pub(crate) fn resized(&mut self, retired: &Retired) {
        self.segments[retired.slot].set_len(retired.len);
    }

    fn segment(&self) -> &Segment {
        &self.segments[slot(self.generation)]
    }

    fn write_frame(&mut self) -> Result<(), StoreError> {
        let header = Header {
            generation: self.generation,
            salt: self.salt,
            frame: self.end.frame,
            index: 0,
            previous: self.end.chain,
            body_bytes: u32::try_from(self.body.len()).expect("checked when it was built"),
        };
        let len = header.pages() * PAGE;
        let sum = write_frame(aligned(&mut self.pages, len), header, &self.body);
        self.write_pages(len, self.end.offset)?;
        self.end.chain = sum;
        self.end.frame += 1;
        self.end.offset += len as u64;
        self.largest_frame = self.largest_frame.max(len as u64);
        Ok(())
    }

    /// Writes and syncs the first bytes of the aligned buffer.
    fn write_pages(&mut self, len: usize, offset: u64) -> Result<(), StoreError> {
        let segment = &self.segments[slot(self.generation)];
        segment.write(aligned(&mut self.pages, len), offset)?;
        segment.sync()
    }
}

/// A segment whose generation the tables contain.
#[derive(Debug)]
pub(crate) struct Retired {
    slot: usize,
    path: PathBuf,
    len: u64,
}

impl Retired {
    /// Makes the segment larger, so that more writes of a page of the tables share a checkpoint.
    pub(crate) fn enlarge(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.len = segment::enlarge(&self.path, self.len, bytes)?;
        Ok(())
    }
}

/// The segment of a generation.
fn slot(generation: u64) -> usize {
    usize::from(generation % 2 == 1)
}

/// The first `len` bytes of a buffer from a page boundary on.
fn aligned(pages: &mut Vec<u8>, len: usize) -> &mut [u8] {
    pages.resize(pages.len().max(len + PAGE), 0);
    let from = pages.as_ptr().align_offset(PAGE);
    &mut pages[from..from + len]
}
