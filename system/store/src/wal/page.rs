//! A page of the write-ahead log: a header that says which frame of which generation it belongs to,
//! and a part of the frame's body. Knows what a page tells about itself, but not which pages belong
//! together.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of the rest of the page |
//! | 4 | 4 | index of the page in its frame, from 0 |
//! | 8 | 8 | generation |
//! | 16 | 8 | salt of the generation |
//! | 24 | 8 | number of the frame in its generation, from 0 |
//! | 32 | 4 | checksum of the page before, in this frame or the one before it |
//! | 36 | 4 | length of the frame's body |
//! | 40 | 4056 | the next bytes of the body, and zeros behind its end |
//!
//! Bytes of a client are never at the start of a page, and whoever writes them does not know the
//! salt. So no value can be taken for a page, wherever the medium leaves it.

use std::fmt;

use crate::{Rule, Rules};

/// The unit of writes, in the file and in memory.
pub(super) const PAGE: usize = 4096;
const HEADER_BYTES: usize = 40;
/// The bytes of a frame's body that fit in a page.
pub(super) const PAYLOAD: usize = PAGE - HEADER_BYTES;
/// The pages of a seal. Two, so that rot in one leaves the other to say what it was.
pub(super) const SEAL_PAGES: usize = 2;

/// A random number that every page of a generation carries. Only the tables hold it besides: it must
/// not appear in anything that leaves the directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Salt(pub(crate) u64);

impl Salt {
    /// A new salt.
    pub(crate) fn random() -> Salt {
        Salt(rand::random())
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(secret)")
    }
}

/// What a page says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) generation: u64,
    pub(super) salt: Salt,
    pub(super) frame: u64,
    pub(super) index: u32,
    pub(super) previous: u32,
    pub(super) body_bytes: u32,
}

impl Header {
    /// The number of pages of the frame. An empty frame is a seal.
    pub(super) fn pages(&self) -> usize {
        match self.body_bytes as usize {
            0 => SEAL_PAGES,
            bytes => bytes.div_ceil(PAYLOAD),
        }
    }
}

/// The content of a page, as seen by a reader of one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Never written.
    Zero,
    /// Of an earlier generation. Nothing needs it, so it may be rotten.
    Older,
    /// Of the generation; with the page's checksum.
    Current(Header, u32),
    /// Of a later generation.
    Newer(u64),
    /// Rotten, and may have been of the generation.
    Damaged,
    /// Intact, but not written by this store: the salt is wrong.
    Foreign,
}

/// Writes the header of a page around its payload. Returns the page's checksum.
pub(super) fn write_header(page: &mut [u8], header: &Header) -> u32 {
    page[4..8].copy_from_slice(&header.index.to_be_bytes());
    page[8..16].copy_from_slice(&header.generation.to_be_bytes());
    page[16..24].copy_from_slice(&header.salt.0.to_be_bytes());
    page[24..32].copy_from_slice(&header.frame.to_be_bytes());
    page[32..36].copy_from_slice(&header.previous.to_be_bytes());
    page[36..40].copy_from_slice(&header.body_bytes.to_be_bytes());
    let sum = crc32c::crc32c(&page[4..]);
    page[..4].copy_from_slice(&sum.to_be_bytes());
    sum
}

/// The index of a page in its frame.
pub(super) fn index(page: &[u8]) -> u32 {
    u32::from_be_bytes(page[4..8].try_into().expect("four bytes"))
}

/// Lays out a frame over pages. `first` is the header of its first page. Returns the checksum of the
/// last page.
pub(super) fn write_frame(pages: &mut [u8], first: Header, body: &[u8]) -> u32 {
    let mut header = first;
    let mut parts = body.chunks(PAYLOAD);
    for page in pages.chunks_exact_mut(PAGE) {
        let part = parts.next().unwrap_or_default();
        page[HEADER_BYTES..HEADER_BYTES + part.len()].copy_from_slice(part);
        page[HEADER_BYTES + part.len()..].fill(0);
        header.previous = write_header(page, &header);
        header.index += 1;
    }
    header.previous
}

/// The payload of a page.
pub(super) fn payload(page: &[u8]) -> &[u8] {
    &page[HEADER_BYTES..]
}

/// Reads what a page says about itself to a reader of a generation.
pub(super) fn read(page: &[u8], generation: u64, salt: Salt, rules: Rules) -> Page {
    let u32_at = |at: usize| u32::from_be_bytes(page[at..at + 4].try_into().expect("4 bytes"));
    let u64_at = |at: usize| u64::from_be_bytes(page[at..at + 8].try_into().expect("8 bytes"));
    let sum = u32_at(0);
    if page == [0; PAGE] {
        return Page::Zero;
    }
    let header = Header {
        generation: u64_at(8),
        salt: Salt(u64_at(16)),
        frame: u64_at(24),
        index: u32_at(4),
        previous: u32_at(32),
        body_bytes: u32_at(36),
    };
    if rules.keep(Rule::PageChecksum) && crc32c::crc32c(&page[4..]) != sum {
        // Rot in one place leaves the generation or the salt. No page is of generation 0: zeros in its place are
        // rot too.
        let is_older = (1..generation).contains(&header.generation) && header.salt != salt;
        return if is_older { Page::Older } else { Page::Damaged };
    }
    if header.generation < generation {
        Page::Older
    } else if header.generation > generation {
        Page::Newer(header.generation)
    } else if header.salt == salt || !rules.keep(Rule::PageSalt) {
        Page::Current(header, sum)
    } else {
        Page::Foreign
    }
}
