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
}

/// The bytes of a file. Missing pages and everything beyond the size are zeros.
#[derive(Clone, Debug, Default)]
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
    pub(super) fn size(&self) -> u64 {
        self.now.size
    }

    pub(super) fn unsynced(&self) -> &BTreeSet<u64> {
        &self.dirty
    }

    pub(super) fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        self.now.read(offset, bytes)
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
            self.dirty.insert(page);
            at += length as u64;
        }
        if !data.is_empty() {
            self.now.size = self.now.size.max(end);
        }
        Ok(())
    }

    pub(super) fn set_size(&mut self, size: u64) {
        let first = size / PAGE_BYTES;
        self.dirty.extend(self.now.pages.range(first..).map(|(page, _)| *page));
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
        self.durable.size = size;
        self.durable.trim();
        self.now = self.durable.clone();
        self.dirty.clear();
        (lost, kept)
    }
}
