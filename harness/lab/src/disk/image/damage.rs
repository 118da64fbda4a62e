//! Damage to what was durable: bits that flip, and an older state that comes back.

use rand::{RngExt as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;

use super::{Image, InodeKind, PAGE_BYTES};

/// A bit that was flipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlippedBit {
    /// The path of the file.
    pub file: String,
    /// The byte.
    pub offset: u64,
    /// The bit of the byte, from 0.
    pub bit: u8,
}

impl Image {
    /// The paths of the files.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let paths = self.file_paths();
        paths
            .into_iter()
            .filter(|(number, _)| self.file(*number).is_ok())
            .map(|(_, path)| path)
            .collect()
    }

    fn find(&self, path: &str) -> Option<u64> {
        self.file_paths().into_iter().find(|(_, found)| found == path).map(|(number, _)| number)
    }

    /// The pages of a file that a power loss would not change, with their content.
    #[must_use]
    pub fn synced_pages(&self, path: &str) -> Vec<(u64, &[u8])> {
        let file = self.find(path).and_then(|number| self.file(number).ok());
        let pages = file.into_iter().flat_map(|file| {
            file.synced_pages().into_iter().filter_map(|page| Some((page, file.synced_page(page)?)))
        });
        pages.collect()
    }

    /// Flips bits in what is durable. Bits of pages that are not synced stay as they are. Flipped again,
    /// they are what they were. No process may be using the disk.
    pub fn flip(&mut self, bits: &[FlippedBit]) {
        for FlippedBit { file, offset, bit } in bits {
            if let Some(number) = self.find(file)
                && let Ok(file) = self.file_mut(number)
            {
                file.flip_bit(*offset, *bit);
            }
        }
    }

    /// Draws a bit of the synced content of the files that `which` selects: each file is as likely, and each
    /// page of it, and a byte that is not zero is preferred. `None` if nothing is synced.
    #[must_use]
    pub fn draw_bit(
        &self,
        rng: &mut ChaCha8Rng,
        which: impl Fn(&str) -> bool,
    ) -> Option<FlippedBit> {
        let mut files = self.paths();
        files.retain(|file| which(file) && !self.synced_pages(file).is_empty());
        let file = files.choose(rng)?.clone();
        let pages = self.synced_pages(&file);
        let (page, bytes) = pages.choose(rng)?;
        let filled: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let within = filled.choose(rng).copied().unwrap_or(0);
        let bit = rng.random_range(0..8);
        Some(FlippedBit { file, offset: page * PAGE_BYTES + within as u64, bit })
    }

    /// A copy of the disk as programs see it now, in which everything is durable.
    #[must_use]
    pub fn snapshot(&self) -> Image {
        let mut copy = self.clone();
        for inode in copy.inodes.values_mut() {
            match &mut inode.kind {
                InodeKind::File(file) => file.settle(),
                InodeKind::Directory(directory) => directory.durable.clone_from(&directory.now),
                _ => {}
            }
        }
        copy.changes.clear();
        copy.remove_unreachable();
        copy
    }

    /// Whether programs read the same on both disks, apart from times and owners.
    #[must_use]
    pub fn reads_like(&self, other: &Image) -> bool {
        let is_alike = |one: &InodeKind, other: &InodeKind| match (one, other) {
            (InodeKind::File(one), InodeKind::File(other)) => one.reads_like(other),
            (InodeKind::Directory(one), InodeKind::Directory(other)) => one.now == other.now,
            (InodeKind::Symlink(one), InodeKind::Symlink(other)) => one == other,
            (InodeKind::Fifo, InodeKind::Fifo) | (InodeKind::Socket, InodeKind::Socket) => true,
            _ => false,
        };
        let mut pairs = self.inodes.iter().zip(&other.inodes);
        self.inodes.len() == other.inodes.len()
            && pairs.all(|((number, one), (other_number, other))| {
                number == other_number && is_alike(&one.kind, &other.kind)
            })
    }

    /// Replaces everything by an older state of this disk. No process may be using it.
    pub fn restore(&mut self, snapshot: Image) {
        // A number that was used since must not come to mean another file.
        let next_inode = self.next_inode.max(snapshot.next_inode);
        *self = Image { next_inode, capacity: self.capacity, ..snapshot };
    }
}
