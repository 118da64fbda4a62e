//! Reads the frames of one generation, and says how they end: where the log ends, where a frame was
//! not written completely, or where something that was durable is damaged. Changes nothing.
//!
//! A frame is written only when the one before it is durable. So a crash leaves whole frames and at
//! most one that is torn, the last, of which some pages are what they were before. Whatever follows a
//! frame proves that it was durable: a later frame, a seal, or a frame of the next generation.

use std::path::Path;

use super::{
    body,
    page::{self, Header, PAGE, Page, SEAL_PAGES, Salt, payload, write_frame},
    segment::FRAMES_AT,
};
use crate::{Mistake, RowError, Rule, Rules, Schema, StoreError};

/// A generation in the bytes of its segment.
pub(super) struct Generation<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) path: &'a Path,
    pub(super) number: u64,
    pub(super) salt: Salt,
    pub(super) rules: Rules,
}

/// What the segment of the next generation says about the end of this one.
#[derive(Clone, Copy, Default)]
pub(super) struct Successor {
    /// It holds a page of the next generation, or its first page may have been one. Then every frame of
    /// this one was durable.
    in_use: bool,
    /// The last checksum of this generation, as its first frame has it.
    previous: Option<u32>,
}

/// Where a generation ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// The offset of the next frame.
    pub(super) offset: u64,
    /// The number of the next frame.
    pub(super) frame: u64,
    /// The checksum of the last page.
    pub(super) chain: u32,
    /// The end of what a torn frame left behind `offset`.
    pub(super) torn_until: u64,
    /// The last frame holds records, and no seal follows it.
    pub(super) unsealed: bool,
}

impl Generation<'_> {
    /// What this generation says about the one before.
    pub(super) fn as_successor(&self) -> Successor {
        let mut offsets = (FRAMES_AT..self.bytes.len() as u64).step_by(PAGE);
        // The only frame may be damaged. If other pages than its first are, and none is intact, it is torn.
        let in_use = matches!(self.page(FRAMES_AT), Some(Page::Damaged))
            || offsets.any(|at| matches!(self.page(at), Some(Page::Current(..))));
        let previous = match self.page(FRAMES_AT) {
            Some(Page::Current(Header { frame: 0, index: 0, previous, .. }, _)) => Some(previous),
            _ => None,
        };
        Successor { in_use, previous }
    }

    /// The offsets of the pages that look as if they had been written in a later generation and damaged.
    pub(super) fn rotten(&self) -> Vec<u64> {
        let offsets = (FRAMES_AT..self.bytes.len() as u64).step_by(PAGE);
        offsets.filter(|at| matches!(self.page(*at), Some(Page::Damaged | Page::Foreign))).collect()
    }

    /// Reads the records, given the checksum of the last page of the generation before.
    pub(super) fn read<S: Schema>(
        &self,
        chain: u32,
        successor: Successor,
        records: &mut Vec<S::Record>,
    ) -> Result<End, StoreError> {
        let mut end = End { offset: FRAMES_AT, frame: 0, chain, torn_until: 0, unsealed: false };
        let mut body = Vec::new();
        loop {
            if let Some((pages, sum)) = self.frame(&end, &mut body) {
                let before = records.len();
                self.decode::<S>(end.offset, &body, records)?;
                if self.rules.makes(Mistake::FrameEndForgotten) && records.len() > before + 1 {
                    records.pop();
                }
                end.unsealed = !body.is_empty();
                end.chain = sum;
                end.offset += (pages * PAGE) as u64;
            } else if let Some(sum) = self.lost_seal(&end, successor) {
                end.unsealed = false;
                end.chain = sum;
                end.offset += (SEAL_PAGES * PAGE) as u64;
            } else {
                break;
            }
            end.frame += 1;
        }
        self.check_end(&mut end, successor)?;
        Ok(end)
    }

    /// Whether a generation continues in the next segment.
    pub(super) fn continues(successor: Successor) -> bool {
        successor.in_use
    }

    fn decode<S: Schema>(
        &self,
        offset: u64,
        body: &[u8],
        records: &mut Vec<S::Record>,
    ) -> Result<(), StoreError> {
        body::decode::<S>(body, records).map_err(|error| match error {
            RowError::Foreign => {
                let dir = self.path.parent().unwrap_or(self.path).to_owned();
                StoreError::ForeignRecords { dir }
            }
            RowError::Invalid(why) => {
                self.damaged(format!("the frame at byte {offset} is invalid: {why}"))
            }
        })
    }

    fn page(&self, at: u64) -> Option<Page> {
        let at = usize::try_from(at).ok()?;
        let page = self.bytes.get(at..at + PAGE)?;
        Some(page::read(page, self.number, self.salt, self.rules))
    }

    /// Reads the body of the next frame, if the frame is whole. Returns the number of its pages and the
    /// checksum of the last one.
    fn frame(&self, end: &End, body: &mut Vec<u8>) -> Option<(usize, u32)> {
        body.clear();
        let (mut previous, mut count, mut index) = (end.chain, 1, 0);
        while index < count {
            let at = end.offset + (index * PAGE) as u64;
            let Some(Page::Current(header, sum)) = self.page(at) else { return None };
            let follows = header.frame == end.frame
                && header.index as usize == index
                && (header.previous == previous || self.ignores_chain(end, index));
            if !follows {
                return None;
            }
            count = header.pages();
            let at = usize::try_from(at).ok()?;
            body.extend_from_slice(payload(&self.bytes[at..at + PAGE]));
            if index + 1 == count {
                body.truncate(header.body_bytes as usize);
            }
            previous = sum;
            index += 1;
        }
        Some((count, previous))
    }

    fn ignores_chain(&self, end: &End, index: usize) -> bool {
        (end.frame, index) == (0, 0) && !self.rules.keep(Rule::ChainAcrossSegments)
    }

    /// The checksum of the seal that was in the next pages, if what follows proves that there was one.
    /// A seal holds nothing, so its damage loses nothing.
    fn lost_seal(&self, end: &End, successor: Successor) -> Option<u32> {
        let mut pages = [0; SEAL_PAGES * PAGE];
        let sum = write_frame(&mut pages, self.seal(end), &[]);
        let next = end.offset + (SEAL_PAGES * PAGE) as u64;
        match self.page(next) {
            Some(Page::Current(Header { frame, index: 0, previous, .. }, _))
                if frame == end.frame + 1 && previous == sum =>
            {
                Some(sum)
            }
            _ => successor.previous.filter(|previous| *previous == sum),
        }
    }

    fn seal(&self, end: &End) -> Header {
        Header {
            generation: self.number,
            salt: self.salt,
            frame: end.frame,
            index: 0,
            previous: end.chain,
            body_bytes: 0,
        }
    }

    /// Checks that nothing is missing at the end of the whole frames.
    fn check_end(&self, end: &mut End, successor: Successor) -> Result<(), StoreError> {
        let known = self.torn_frame(end)?;
        if successor.in_use {
            if !self.rules.keep(Rule::ChainAcrossSegments) {
                return Ok(());
            }
            let last = successor.previous.unwrap_or(end.chain);
            if known.is_some() || last != end.chain {
                return Err(self.damaged(format!(
                    "the frame at byte {} is missing or damaged, but the next segment continues it",
                    end.offset
                )));
            }
            return Ok(());
        }
        let count = known.map_or(1, |header| header.pages());
        if known.is_some_and(|header| header.body_bytes == 0) {
            return Ok(());
        }
        let pages = (0..count).map(|index| self.page(end.offset + (index * PAGE) as u64));
        // A page that is what it was before: the sync of this frame has not returned.
        let unsynced = pages.fold(false, |unsynced, page| {
            unsynced | matches!(page, None | Some(Page::Zero | Page::Older))
        });
        if unsynced {
            return Ok(());
        }
        Err(self.damaged(format!(
            "the frame at byte {} is damaged: it was written whole, and its checksums do not match",
            end.offset
        )))
    }

    /// Looks behind the whole frames for pages of the next frame. Notes where they end, and returns what
    /// one of them says.
    fn torn_frame(&self, end: &mut End) -> Result<Option<Header>, StoreError> {
        let mut known = None;
        for at in (end.offset..self.bytes.len() as u64).step_by(PAGE) {
            match self.page(at) {
                Some(Page::Newer(newer)) => {
                    let (ahead, applied) = (newer - 1, self.number - 1);
                    return Err(self.damaged(format!(
                        "it continues from generation {ahead}, but the tables contain generation \
                         {applied}: the records in between are lost"
                    )));
                }
                Some(Page::Current(header, _)) if header.frame > end.frame => {
                    return Err(self.damaged(format!(
                        "the frame at byte {} is damaged, but a later one at byte {at} is intact",
                        end.offset
                    )));
                }
                Some(Page::Current(header, _)) => {
                    end.torn_until = at + PAGE as u64;
                    let begins = at.checked_sub(u64::from(header.index) * PAGE as u64);
                    if header.frame == end.frame && begins == Some(end.offset) {
                        known = Some(header);
                    }
                }
                Some(Page::Damaged | Page::Foreign) => end.torn_until = at + PAGE as u64,
                Some(Page::Zero | Page::Older) | None => {}
            }
        }
        Ok(known)
    }

    fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { file: self.path.to_owned(), what }
    }
}
