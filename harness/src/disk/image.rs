//! What a disk holds: what programs see now, and what would be left if the power went. Pure: no
//! mount, no clock. Knows files, directories and pages; nothing of what is kept in them.
//!
//! What is durable, and when:
//!
//! - **What is written to a file**, and its size, when the file is synced (`fsync`, `fdatasync`, or
//!   a write through a descriptor with `O_DSYNC`, which the kernel turns into a write and a sync).
//!   Until then each page of 4 KiB may be lost by itself; a page is never torn.
//! - **The entries of a directory** (made, renamed, removed) when that *directory* is synced.
//!   Syncing a file does not make its name durable. Of the changes to one directory a cut keeps the
//!   first so many, and a change of two directories, which a rename may be, as a whole or not at all;
//!   whatever is synced takes with it the earlier changes that this needs.
//! - **Owner and mode** always; times are not kept.
//!
//! That is at the strict end of what file systems promise, so that what a program forgets to sync
//! is missed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    sync::Arc,
};

use nix::errno::Errno;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The unit in which unsynced writes are lost.
pub const PAGE_BYTES: u64 = 4096;

/// The number of the root directory.
pub const ROOT: u64 = 1;

type Page = Arc<[u8; PAGE_BYTES as usize]>;

/// The files and directories of a disk.
#[derive(Clone, Debug)]
pub struct Image {
    nodes: BTreeMap<u64, Inode>,
    /// Changes of directories that are not durable, in order.
    changes: Vec<Change>,
    next: u64,
}

/// Whose a file or directory is, and who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Permission bits.
    pub mode: u16,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

#[derive(Clone, Debug)]
struct Inode {
    owner: Owner,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    File(File),
    Directory(Directory),
}

#[derive(Clone, Debug, Default)]
struct File {
    now: Content,
    durable: Content,
    /// Pages written since the last sync.
    dirty: BTreeSet<u64>,
}

/// The bytes of a file. Pages that are not there, and what lies beyond the size, are zeros.
#[derive(Clone, Debug, Default)]
struct Content {
    size: u64,
    pages: BTreeMap<u64, Page>,
}

#[derive(Clone, Debug, Default)]
struct Directory {
    parent: u64,
    now: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
}

/// One step of one or two directories: in which, which name, and what it names from then on.
type Change = Vec<(u64, OsString, Option<u64>)>;

/// What a file or directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// It is a directory.
    pub directory: bool,
    /// The size in bytes, of a file.
    pub size: u64,
    /// Whose it is.
    pub owner: Owner,
}

/// What a loss of power took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// How many pages of which file went back to what they were when it was last synced.
    pub pages: BTreeMap<String, usize>,
    /// How many unsynced pages the disk had written nevertheless.
    pub kept: usize,
    /// How many changes of directories were undone.
    pub entries: usize,
}

impl Image {
    /// An empty disk.
    #[must_use]
    pub fn new(owner: Owner) -> Self {
        let root = Directory { parent: ROOT, ..Directory::default() };
        let root = Inode { owner, body: Body::Directory(root) };
        Image { nodes: [(ROOT, root)].into(), changes: Vec::new(), next: ROOT + 1 }
    }

    fn node(&self, number: u64) -> Result<&Inode, Errno> {
        self.nodes.get(&number).ok_or(Errno::ENOENT)
    }

    fn file(&self, number: u64) -> Result<&File, Errno> {
        match &self.node(number)?.body {
            Body::File(file) => Ok(file),
            Body::Directory(_) => Err(Errno::EISDIR),
        }
    }

    fn file_mut(&mut self, number: u64) -> Result<&mut File, Errno> {
        match &mut self.nodes.get_mut(&number).ok_or(Errno::ENOENT)?.body {
            Body::File(file) => Ok(file),
            Body::Directory(_) => Err(Errno::EISDIR),
        }
    }

    fn directory(&self, number: u64) -> Result<&Directory, Errno> {
        match &self.node(number)?.body {
            Body::Directory(directory) => Ok(directory),
            Body::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn directory_mut(&mut self, number: u64) -> Option<&mut Directory> {
        match &mut self.nodes.get_mut(&number)?.body {
            Body::Directory(directory) => Some(directory),
            Body::File(_) => None,
        }
    }

    /// What a name in a directory leads to.
    ///
    /// # Errors
    /// There is no such name, or no such directory.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        self.directory(parent)?.now.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// What a file or directory is.
    ///
    /// # Errors
    /// There is none of this number.
    pub fn attributes(&self, number: u64) -> Result<Attributes, Errno> {
        let Inode { owner, body } = self.node(number)?;
        let (directory, size) = match body {
            Body::File(file) => (false, file.now.size),
            Body::Directory(_) => (true, 0),
        };
        Ok(Attributes { directory, size, owner: *owner })
    }

    /// The names in a directory, with its own and its parent's.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn entries(&self, number: u64) -> Result<Vec<(OsString, u64)>, Errno> {
        let directory = self.directory(number)?;
        let own = [(".".into(), number), ("..".into(), directory.parent)];
        let names = directory.now.iter().map(|(name, number)| (name.clone(), *number));
        Ok(own.into_iter().chain(names).collect())
    }

    /// Makes a file or a directory.
    ///
    /// # Errors
    /// The name is taken, or there is no such directory.
    pub fn create(
        &mut self,
        parent: u64,
        name: &OsStr,
        directory: bool,
        owner: Owner,
    ) -> Result<u64, Errno> {
        if self.directory(parent)?.now.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let number = self.next;
        self.next += 1;
        let body = if directory {
            Body::Directory(Directory { parent, ..Directory::default() })
        } else {
            Body::File(File::default())
        };
        self.nodes.insert(number, Inode { owner, body });
        self.change(vec![(parent, name.to_owned(), Some(number))]);
        Ok(number)
    }

    /// Changes a file's or directory's mode, for good.
    ///
    /// # Errors
    /// There is none of this number.
    pub fn set_mode(&mut self, number: u64, mode: u16) -> Result<(), Errno> {
        self.nodes.get_mut(&number).ok_or(Errno::ENOENT)?.owner.mode = mode;
        Ok(())
    }

    /// Takes a file's name away, or an empty directory's.
    ///
    /// # Errors
    /// There is no such name, or it is the other kind of thing, or the directory is not empty.
    pub fn remove(&mut self, parent: u64, name: &OsStr, directory: bool) -> Result<(), Errno> {
        let number = self.lookup(parent, name)?;
        match (&self.node(number)?.body, directory) {
            (Body::File(_), true) => return Err(Errno::ENOTDIR),
            (Body::Directory(_), false) => return Err(Errno::EISDIR),
            (Body::Directory(it), true) if !it.now.is_empty() => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        self.change(vec![(parent, name.to_owned(), None)]);
        Ok(())
    }

    /// Gives a file or directory another name, maybe in another directory, in place of what had it.
    ///
    /// # Errors
    /// There is no such name, or what has the new one is in the way.
    pub fn rename(
        &mut self,
        (parent, name): (u64, &OsStr),
        (to, as_name): (u64, &OsStr),
    ) -> Result<(), Errno> {
        let number = self.lookup(parent, name)?;
        let moved = matches!(self.node(number)?.body, Body::Directory(_));
        if let Ok(before) = self.lookup(to, as_name) {
            match (&self.node(before)?.body, moved) {
                _ if before == number => return Ok(()),
                (Body::Directory(_), false) => return Err(Errno::EISDIR),
                (Body::File(_), true) => return Err(Errno::ENOTDIR),
                (Body::Directory(it), true) if !it.now.is_empty() => return Err(Errno::ENOTEMPTY),
                _ => {}
            }
        }
        self.directory(to)?;
        if let Some(directory) = self.directory_mut(number) {
            directory.parent = to;
        }
        self.change(vec![(parent, name.to_owned(), None), (to, as_name.to_owned(), Some(number))]);
        Ok(())
    }

    fn change(&mut self, change: Change) {
        for (directory, name, number) in &change {
            if let Some(directory) = self.directory_mut(*directory) {
                set(&mut directory.now, name, *number);
            }
        }
        self.changes.push(change);
    }

    /// What a file holds from an offset on: so many bytes, or fewer at its end.
    ///
    /// # Errors
    /// There is no such file.
    pub fn read(&self, number: u64, offset: u64, bytes: usize) -> Result<Vec<u8>, Errno> {
        Ok(self.file(number)?.now.read(offset, bytes))
    }

    /// Writes to a file.
    ///
    /// # Errors
    /// There is no such file, or it would become too long.
    pub fn write(&mut self, number: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let file = self.file_mut(number)?;
        let end = offset.checked_add(data.len() as u64).ok_or(Errno::EFBIG)?;
        let mut at = offset;
        while at < end {
            let (page, within) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let length = (end - at).min(PAGE_BYTES - within as u64) as usize;
            let from = (at - offset) as usize;
            file.now.page(page)[within..within + length]
                .copy_from_slice(&data[from..from + length]);
            file.dirty.insert(page);
            at += length as u64;
        }
        if !data.is_empty() {
            file.now.size = file.now.size.max(end);
        }
        Ok(())
    }

    /// Cuts a file short, or lengthens it by zeros.
    ///
    /// # Errors
    /// There is no such file.
    pub fn set_size(&mut self, number: u64, size: u64) -> Result<(), Errno> {
        let file = self.file_mut(number)?;
        let first = size / PAGE_BYTES;
        file.dirty.extend(file.now.pages.range(first..).map(|(page, _)| *page));
        file.now.size = size;
        file.now.trim();
        Ok(())
    }

    /// The pages of a file that were written since it was synced last.
    #[must_use]
    pub fn unsynced(&self, number: u64) -> Option<&BTreeSet<u64>> {
        self.file(number).ok().map(|file| &file.dirty)
    }

    /// Makes durable what a file holds, or a directory's entries.
    ///
    /// # Errors
    /// There is none of this number.
    pub fn sync(&mut self, number: u64) -> Result<(), Errno> {
        if let Body::Directory(_) = self.node(number)?.body {
            self.sync_directory(number);
            return Ok(());
        }
        let file = self.file_mut(number)?;
        for page in std::mem::take(&mut file.dirty) {
            file.durable.put(page, file.now.pages.get(&page));
        }
        file.durable.size = file.now.size;
        Ok(())
    }

    fn sync_directory(&mut self, number: u64) {
        // From the last to the first: a change that is needed needs the earlier ones of each
        // directory that it touches.
        let mut needed = BTreeSet::from([number]);
        let mut durable = Vec::new();
        for (at, change) in self.changes.iter().enumerate().rev() {
            if change.iter().any(|(directory, ..)| needed.contains(directory)) {
                needed.extend(change.iter().map(|(directory, ..)| *directory));
                durable.push(at);
            }
        }
        durable.reverse();
        self.keep(&durable);
    }

    /// Makes these changes of directories durable.
    fn keep(&mut self, durable: &[usize]) {
        let mut kept = durable.iter().peekable();
        let mut rest = Vec::new();
        for (at, change) in std::mem::take(&mut self.changes).into_iter().enumerate() {
            if kept.next_if_eq(&&at).is_none() {
                rest.push(change);
                continue;
            }
            for (directory, name, number) in &change {
                if let Some(directory) = self.directory_mut(*directory) {
                    set(&mut directory.durable, name, *number);
                }
            }
        }
        self.changes = rest;
    }

    /// The power goes. What was not synced is lost: all of it, or, with a source of chance, about
    /// half, page by page and change by change, as a disk may have written some of what it was
    /// given.
    pub fn cut(&mut self, mut chance: Option<&mut ChaCha8Rng>) -> Dropped {
        let mut dropped = Dropped::default();
        let names = self.paths();
        for (number, inode) in &mut self.nodes {
            let Body::File(file) = &mut inode.body else { continue };
            let (lost, kept) = file.cut(chance.as_deref_mut());
            dropped.kept += kept;
            // A file without a name has nothing to lose.
            if let (true, Some(name)) = (lost > 0, names.get(number)) {
                dropped.pages.insert(name.clone(), lost);
            }
        }
        if let Some(chance) = chance {
            let mut lost = BTreeSet::new();
            let mut durable = Vec::new();
            for (at, change) in self.changes.iter().enumerate() {
                let whole = !change.iter().any(|(directory, ..)| lost.contains(directory));
                if whole && chance.random_bool(0.5) {
                    durable.push(at);
                } else {
                    lost.extend(change.iter().map(|(directory, ..)| *directory));
                }
            }
            self.keep(&durable);
        }
        dropped.entries = self.changes.len();
        self.changes.clear();
        for inode in self.nodes.values_mut() {
            if let Body::Directory(directory) = &mut inode.body {
                directory.now.clone_from(&directory.durable);
            }
        }
        self.sweep();
        dropped
    }

    /// Removes what nothing leads to.
    fn sweep(&mut self) {
        let mut found = BTreeSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(number) = open.pop() {
            let Ok(directory) = self.directory(number) else { continue };
            open.extend(directory.now.values().copied().filter(|child| found.insert(*child)));
        }
        self.nodes.retain(|number, _| found.contains(number));
        let parents: Vec<_> = found
            .iter()
            .filter_map(|number| Some((*number, self.directory(*number).ok()?)))
            .flat_map(|(number, it)| it.now.values().map(move |child| (*child, number)))
            .collect();
        for (child, parent) in parents {
            if let Some(directory) = self.directory_mut(child) {
                directory.parent = parent;
            }
        }
    }

    /// Every file that has a name, by its path from the root.
    fn paths(&self) -> BTreeMap<u64, String> {
        let mut paths = BTreeMap::new();
        let mut open = vec![(ROOT, String::new())];
        while let Some((number, path)) = open.pop() {
            match self.directory(number) {
                Ok(directory) => open.extend(directory.now.iter().map(|(name, child)| {
                    let slash = if path.is_empty() { "" } else { "/" };
                    (*child, format!("{path}{slash}{}", name.to_string_lossy()))
                })),
                Err(_) => {
                    paths.insert(number, path);
                }
            }
        }
        paths
    }
}

fn set(entries: &mut BTreeMap<OsString, u64>, name: &OsStr, number: Option<u64>) {
    match number {
        Some(number) => entries.insert(name.to_owned(), number),
        None => entries.remove(name),
    };
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

    /// A page, to be written to.
    fn page(&mut self, page: u64) -> &mut [u8; PAGE_BYTES as usize] {
        let page = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES as usize]));
        Arc::make_mut(page)
    }

    fn put(&mut self, page: u64, content: Option<&Page>) {
        match content {
            Some(content) => self.pages.insert(page, content.clone()),
            None => self.pages.remove(&page),
        };
    }

    /// Makes everything beyond the size zeros.
    fn trim(&mut self) {
        let (last, within) = (self.size / PAGE_BYTES, (self.size % PAGE_BYTES) as usize);
        self.pages.split_off(&(last + u64::from(within > 0)));
        if within > 0 && self.pages.contains_key(&last) {
            self.page(last)[within..].fill(0);
        }
    }
}

impl File {
    /// Loses what was not synced; how many pages are lost and how many kept.
    fn cut(&mut self, mut chance: Option<&mut ChaCha8Rng>) -> (usize, usize) {
        let (mut lost, mut kept) = (0, 0);
        let mut keep = || chance.as_mut().is_some_and(|chance| chance.random_bool(0.5));
        // A page that says what it said when it was synced cannot be lost.
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
                // What the disk has of a page, the file has as well.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;

    use super::*;

    const OWNER: Owner = Owner { mode: 0o755, uid: 0, gid: 0 };

    fn disk() -> Image {
        Image::new(OWNER)
    }

    fn name(name: &str) -> &OsStr {
        OsStr::new(name)
    }

    /// A file whose name is durable.
    fn with_file() -> (Image, u64) {
        let mut disk = disk();
        let file = disk.create(ROOT, name("f"), false, OWNER).expect("a new name");
        disk.sync(ROOT).expect("the root is there");
        (disk, file)
    }

    #[test]
    fn a_cut_takes_what_was_not_synced() -> Result<(), Errno> {
        let (mut disk, file) = with_file();
        disk.write(file, 0, b"synced")?;
        disk.sync(file)?;
        disk.write(file, 3, b"cut")?;
        disk.write(file, 9000, b"far")?;
        assert_eq!(disk.read(file, 0, 6)?, b"syncut");
        let dropped = disk.cut(None);
        assert_eq!(dropped.pages, [("f".to_owned(), 2)].into());
        assert_eq!(disk.read(file, 0, 99)?, b"synced");
        assert_eq!(disk.cut(None), Dropped::default());
        Ok(())
    }

    #[test]
    fn a_name_is_durable_with_its_directory_alone() -> Result<(), Errno> {
        let mut disk = disk();
        let file = disk.create(ROOT, name("f"), false, OWNER)?;
        disk.write(file, 0, b"x")?;
        disk.sync(file)?;
        assert_eq!(disk.clone().cut(None).entries, 1);
        let mut lost = disk.clone();
        lost.cut(None);
        assert_eq!(lost.lookup(ROOT, name("f")), Err(Errno::ENOENT));
        disk.sync(ROOT)?;
        disk.cut(None);
        assert_eq!(disk.read(disk.lookup(ROOT, name("f"))?, 0, 9)?, b"x");
        Ok(())
    }

    #[test]
    fn a_rename_happens_in_both_directories_or_in_none() -> Result<(), Errno> {
        let mut disk = disk();
        let making = disk.create(ROOT, name("making"), true, OWNER)?;
        let file = disk.create(making, name("data"), false, OWNER)?;
        disk.write(file, 0, b"x")?;
        disk.sync(file)?;
        disk.rename((making, name("data")), (ROOT, name("data")))?;
        disk.remove(ROOT, name("making"), true)?;
        for seed in 0..64 {
            let mut cut = disk.clone();
            cut.cut(Some(&mut ChaCha8Rng::seed_from_u64(seed)));
            let there = cut.lookup(ROOT, name("data")).is_ok();
            let before =
                cut.lookup(ROOT, name("making")).is_ok_and(|d| cut.lookup(d, name("data")).is_ok());
            assert!(!(there && before), "seed {seed}");
        }
        disk.sync(ROOT)?;
        disk.cut(None);
        assert_eq!(disk.entries(ROOT)?.len(), 3);
        assert_eq!(disk.read(disk.lookup(ROOT, name("data"))?, 0, 9)?, b"x");
        Ok(())
    }

    #[test]
    fn names_are_refused_as_a_file_system_does() -> Result<(), Errno> {
        let (mut disk, file) = with_file();
        let directory = disk.create(ROOT, name("d"), true, OWNER)?;
        disk.create(directory, name("in"), false, OWNER)?;
        assert_eq!(disk.create(ROOT, name("f"), true, OWNER), Err(Errno::EEXIST));
        assert_eq!(disk.remove(ROOT, name("f"), true), Err(Errno::ENOTDIR));
        assert_eq!(disk.remove(ROOT, name("d"), false), Err(Errno::EISDIR));
        assert_eq!(disk.remove(ROOT, name("d"), true), Err(Errno::ENOTEMPTY));
        assert_eq!(disk.rename((ROOT, name("f")), (ROOT, name("d"))), Err(Errno::EISDIR));
        assert_eq!(disk.rename((ROOT, name("d")), (ROOT, name("f"))), Err(Errno::ENOTDIR));
        assert_eq!(disk.lookup(file, name("x")), Err(Errno::ENOTDIR));
        assert_eq!(disk.write(directory, 0, b"x"), Err(Errno::EISDIR));
        assert_eq!(disk.sync(99), Err(Errno::ENOENT));
        Ok(())
    }

    /// What can be done to the one file.
    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        Resize(u64),
        Sync,
        Cut,
        CutInPart(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let at = || 0..5 * PAGE_BYTES;
        let data = || {
            prop_oneof![
                prop::collection::vec(1u8.., 0..64),
                (1u8.., 4000usize..9000).prop_map(|(byte, length)| vec![byte; length]),
            ]
        };
        prop::collection::vec(
            prop_oneof![
                4 => (at(), data()).prop_map(|(at, data)| Step::Write(at, data)),
                1 => at().prop_map(Step::Resize),
                2 => Just(Step::Sync),
                1 => Just(Step::Cut),
                2 => any::<u64>().prop_map(Step::CutInPart),
            ],
            1..40,
        )
    }

    /// Bytes, with zeros where there are none.
    fn page(bytes: &[u8], page: usize) -> Vec<u8> {
        let at = |n: usize| bytes.get(n).copied().unwrap_or(0);
        let start = page * PAGE_BYTES as usize;
        (start..start + PAGE_BYTES as usize).map(at).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 128 } else { 1024 }))]

        /// Against a vector of bytes, and a copy of it made at each sync.
        #[test]
        fn a_file_is_what_was_written_and_after_a_cut_what_was_synced(steps in steps()) {
            let (mut disk, file) = with_file();
            let (mut now, mut durable) = (Vec::<u8>::new(), Vec::<u8>::new());
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        disk.write(file, at, &data).expect("there is room");
                        let at = usize::try_from(at).expect("small");
                        if !data.is_empty() {
                            now.resize(now.len().max(at + data.len()), 0);
                            now[at..at + data.len()].copy_from_slice(&data);
                        }
                    }
                    Step::Resize(size) => {
                        disk.set_size(file, size).expect("it is there");
                        now.resize(usize::try_from(size).expect("small"), 0);
                    }
                    Step::Sync => {
                        disk.sync(file).expect("it is there");
                        durable = now.clone();
                    }
                    Step::Cut => {
                        disk.cut(None);
                        now = durable.clone();
                    }
                    Step::CutInPart(seed) => {
                        disk.cut(Some(&mut ChaCha8Rng::seed_from_u64(seed)));
                        let left = disk.read(file, 0, usize::MAX).expect("it is there");
                        let shortest = now.len().min(durable.len());
                        prop_assert!((shortest..=now.len().max(durable.len())).contains(&left.len()));
                        for n in 0..=left.len() / PAGE_BYTES as usize {
                            // Each page is the one or the other, as far as the file goes.
                            let cut = |bytes: &[u8]| page(&bytes[..bytes.len().min(left.len())], n);
                            let is = page(&left, n);
                            prop_assert!(is == cut(&now) || is == cut(&durable), "page {n}");
                        }
                        now = left.clone();
                        durable = left;
                    }
                }
                prop_assert_eq!(&disk.read(file, 0, usize::MAX).expect("it is there"), &now);
                prop_assert_eq!(disk.attributes(file).expect("it is there").size, now.len() as u64);
                let mut cut = disk.clone();
                cut.cut(None);
                prop_assert_eq!(&cut.read(file, 0, usize::MAX).expect("it is there"), &durable);
            }
        }
    }
}
