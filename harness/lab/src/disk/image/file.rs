//! The content of one file, now and after a power loss.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nix::errno::Errno;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::PAGE_BYTES;

type Page = Arc<[u8; PAGE_BYTES as usize]>;

/// A file: its current content, its durable content, and the pages in which they may differ.
#[derive(Clone, Debug, Default)]
pub(super) struct File {
    now: Content,
    durable: Content,
    /// Pages written since the last sync.
    dirty: BTreeSet<u64>,
    /// Pages that a failed sync has given up, and that were not written again: they are visible, and no
    /// later sync makes them durable.
    given_up: BTreeSet<u64>,
}

/// The bytes of a file. Missing pages and everything beyond the size are zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    size: u64,
    pages: BTreeMap<u64, Page>,
}

impl Content {
    fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(bytes as u64));
        let mut data = Vec::new();
        let mut at = offset;
        while at < end {
            let within = (at % PAGE_BYTES) as usize;
            let length = (end - at).min(PAGE_BYTES - within as u64) as usize;
            match self.pages.get(&(at / PAGE_BYTES)) {
                Some(page) => data.extend_from_slice(&page[within..within + length]),
                None => data.resize(data.len() + length, 0),
            }
            at += length as u64;
        }
        data
    }

    /// A page for writing; zeros if it does not exist yet.
    fn page_mut(&mut self, page: u64) -> &mut [u8; PAGE_BYTES as usize] {
        let page = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES as usize]));
        Arc::make_mut(page)
    }

    fn put(&mut self, page: u64, content: Option<&Page>) {
        match content {
            Some(content) => self.pages.insert(page, content.clone()),
            None => self.pages.remove(&page),
        };
    }

    fn page(&self, page: u64) -> Option<&Page> {
        self.pages.get(&page)
    }

    /// Zeroes everything beyond the size.
    fn trim(&mut self) {
        let (last, within) = (self.size / PAGE_BYTES, (self.size % PAGE_BYTES) as usize);
        self.pages.split_off(&(last + u64::from(within > 0)));
        if within > 0 && self.pages.contains_key(&last) {
            self.page_mut(last)[within..].fill(0);
        }
    }
}

impl File {
    /// Whether programs read the same in both.
    pub(super) fn reads_like(&self, other: &File) -> bool {
        self.now == other.now
    }

    pub(super) fn size(&self) -> u64 {
        self.now.size
    }

    pub(super) fn unsynced(&self) -> &BTreeSet<u64> {
        &self.dirty
    }

    pub(super) fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        self.now.read(offset, bytes)
    }

    /// The number of pages that it occupies.
    pub(super) fn pages(&self) -> u64 {
        self.now.pages.len() as u64
    }

    /// How many pages a write or a reservation of this range adds.
    pub(super) fn pages_to_add(&self, offset: u64, bytes: u64) -> u64 {
        let Some(last) = bytes.checked_sub(1).and_then(|more| offset.checked_add(more)) else {
            return 0;
        };
        let (first, last) = (offset / PAGE_BYTES, last / PAGE_BYTES);
        last - first + 1 - self.now.pages.range(first..=last).count() as u64
    }

    /// Reserves pages for a range, without changing what it reads.
    pub(super) fn reserve(&mut self, offset: u64, end: u64) {
        for page in offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES) {
            if self.now.page(page).is_none() {
                self.now.page_mut(page);
                self.mark_dirty(page);
            }
        }
    }

    /// Makes a range read as zeros, within the size.
    pub(super) fn zero(&mut self, offset: u64, end: u64) {
        let end = end.min(self.now.size);
        let mut at = offset;
        while at < end {
            let (page, within) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let length = (end - at).min(PAGE_BYTES - within as u64) as usize;
            if self.now.page(page).is_some() {
                self.now.page_mut(page)[within..within + length].fill(0);
                self.mark_dirty(page);
            }
            at += length as u64;
        }
    }

    fn mark_dirty(&mut self, page: u64) {
        self.dirty.insert(page);
        self.given_up.remove(&page);
    }

    /// Whether a sync of the data alone has to record where they are.
    pub(super) fn is_longer_or_elsewhere(&self) -> bool {
        self.now.size != self.durable.size
            || self
                .dirty
                .iter()
                .any(|page| self.now.page(*page).is_some() != self.durable.page(*page).is_some())
    }

    /// The content of a page that a power loss would not change.
    pub(super) fn synced_page(&self, page: u64) -> Option<&[u8]> {
        let is_synced = !self.dirty.contains(&page) && !self.given_up.contains(&page);
        self.durable.page(page).filter(|_| is_synced).map(|page| &page[..])
    }

    /// The numbers of the pages that a power loss would not change.
    pub(super) fn synced_pages(&self) -> Vec<u64> {
        let pages = self.durable.pages.keys().copied();
        pages.filter(|page| self.synced_page(*page).is_some()).collect()
    }

    /// Flips one bit of a synced page.
    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) {
        let (page, within) = (offset / PAGE_BYTES, (offset % PAGE_BYTES) as usize);
        if self.synced_page(page).is_some() {
            self.durable.page_mut(page)[within] ^= 1 << (bit % 8);
            let rotten = self.durable.page(page).cloned();
            self.now.put(page, rotten.as_ref());
        }
    }

    /// Makes everything durable.
    pub(super) fn settle(&mut self) {
        self.durable = self.now.clone();
        self.dirty.clear();
        self.given_up.clear();
    }

    /// A sync that fails: what was not synced stays visible, and no later sync makes it durable. Returns how
    /// many pages that are.
    pub(super) fn fail_sync(&mut self) -> usize {
        let given_up = std::mem::take(&mut self.dirty);
        let count = given_up.len();
        self.given_up.extend(given_up);
        count
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let end = offset.checked_add(data.len() as u64).ok_or(Errno::EFBIG)?;
        let mut at = offset;
        while at < end {
            let (page, within) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let length = (end - at).min(PAGE_BYTES - within as u64) as usize;
            let from = (at - offset) as usize;
            self.now.page_mut(page)[within..within + length]
                .copy_from_slice(&data[from..from + length]);
            self.mark_dirty(page);
            at += length as u64;
        }
        if !data.is_empty() {
            self.now.size = self.now.size.max(end);
        }
        Ok(())
    }

    pub(super) fn set_size(&mut self, size: u64) {
        let first = size / PAGE_BYTES;
        let changed: Vec<u64> = self.now.pages.range(first..).map(|(page, _)| *page).collect();
        changed.into_iter().for_each(|page| self.mark_dirty(page));
        self.now.size = size;
        self.now.trim();
    }

    pub(super) fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty) {
            self.durable.put(page, self.now.pages.get(&page));
        }
        self.durable.size = self.now.size;
    }

    /// Reverts to the synced content, in part if `partial`. Returns the numbers of pages that were
    /// lost and that were kept.
    pub(super) fn lose_power(&mut self, mut partial: Option<&mut ChaCha8Rng>) -> (usize, usize) {
        let (mut lost, mut kept) = (0, 0);
        let mut keep = || partial.as_mut().is_some_and(|rng| rng.random_bool(0.5));
        // Losing a page that equals its synced content changes nothing.
        let changed = |page: &u64| self.now.pages.get(page) != self.durable.pages.get(page);
        let changed: Vec<_> = self.dirty.iter().copied().filter(changed).collect();
        let resized = self.now.size != self.durable.size;
        let mut size = if resized && keep() { self.now.size } else { self.durable.size };
        for page in changed {
            if !keep() {
                lost += 1;
                continue;
            }
            kept += 1;
            let content = self.now.pages.get(&page);
            if content.is_some() {
                // A page that survives belongs to the file, so the size covers it.
                size = size.max(self.now.size.min((page + 1) * PAGE_BYTES));
            }
            self.durable.put(page, content);
        }
        // The error of a failed sync was about these.
        let differs = |page: &&u64| self.now.pages.get(page) != self.durable.pages.get(page);
        lost += self.given_up.iter().filter(differs).count();
        self.durable.size = size;
        self.durable.trim();
        self.now = self.durable.clone();
        self.dirty.clear();
        self.given_up.clear();
        (lost, kept)
    }
}
