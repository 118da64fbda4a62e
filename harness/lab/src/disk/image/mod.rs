//! The content of a simulated disk: what programs see now, and what survives a power loss. Pure:
//! no mount, no clock. Does not know what the files mean.
//!
//! # Durability
//!
//! - **File content** and the file's size become durable when the file is synced (`fsync`,
//!   `fdatasync`, or a write through a descriptor with `O_DSYNC`, which the kernel turns into a
//!   write and a sync). Until then each 4 KiB page may be lost independently. Pages are never torn.
//! - **Directory entries** (create, rename, link, remove) become durable as [`NameDurability`] says.
//! - **Owner, mode and times** are always durable, and so are names that were durable before.
//! - **A failed sync** leaves what it should have made durable visible, and gives it up: it counts as
//!   clean, so that no later sync saves it, unless it is written again. Linux does the same.

mod damage;
mod file;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    time::SystemTime,
};

use nix::errno::Errno;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

pub use self::damage::FlippedBit;
use self::file::File;

/// The unit in which unsynced writes are lost.
pub const PAGE_BYTES: u64 = 4096;

/// The inode number of the root directory.
pub const ROOT: u64 = 1;

/// The pages of a disk by default: 64 GiB.
const CAPACITY_PAGES: u64 = (64 << 30) / PAGE_BYTES;

/// When a directory entry becomes durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameDurability {
    /// When its *directory* is synced; syncing a file does not make its name durable. A power loss keeps a
    /// prefix of the changes to one directory; a change that spans two directories, as a rename may, is
    /// kept or lost as a whole. A sync also makes durable the earlier changes that it depends on. This is
    /// the strict end of what file systems promise, so a missing sync shows.
    #[default]
    Posix,
    /// When anything is synced that commits the journal: a directory, or a file whose size, extents or name
    /// have changed. All earlier changes of names become durable with it. A power loss keeps a prefix of
    /// the later ones. This is what ext4 does.
    Ext4,
}

impl NameDurability {
    /// Every kind.
    pub const ALL: [NameDurability; 2] = [NameDurability::Ext4, NameDurability::Posix];

    /// The name in options and records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            NameDurability::Posix => "posix",
            NameDurability::Ext4 => "ext4",
        }
    }
}

/// The files and directories of a disk.
#[derive(Clone, Debug)]
pub struct Image {
    inodes: BTreeMap<u64, Inode>,
    /// Directory changes that are not durable, oldest first.
    changes: Vec<Change>,
    next_inode: u64,
    names: NameDurability,
    /// How many pages there are for files and inodes.
    capacity: u64,
}

/// Owner and permissions of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Permission bits.
    pub mode: u16,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// When something was read, written and changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The last access, as far as a program has set it.
    pub accessed: SystemTime,
    /// The last change of the content.
    pub modified: SystemTime,
    /// The last change of the content or of the attributes.
    pub changed: SystemTime,
}

impl Default for Times {
    fn default() -> Self {
        let start = SystemTime::UNIX_EPOCH;
        Times { accessed: start, modified: start, changed: start }
    }
}

/// What is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewInode {
    /// An empty file.
    File,
    /// An empty directory.
    Directory,
    /// A symbolic link to a path.
    Symlink(OsString),
    /// A named pipe.
    Fifo,
    /// The name of a socket.
    Socket,
}

#[derive(Clone, Debug)]
struct Inode {
    owner: Owner,
    times: Times,
    /// The number of names that it has now.
    links: u32,
    kind: InodeKind,
}

#[derive(Clone, Debug)]
enum InodeKind {
    File(File),
    Directory(Directory),
    Symlink(OsString),
    Fifo,
    Socket,
}

#[derive(Clone, Debug, Default)]
struct Directory {
    parent: u64,
    now: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
}

/// An atomic change of one or two directories: the directory, the name, and the inode that the name
/// refers to afterwards, if any.
type Change = Vec<(u64, OsString, Option<u64>)>;

/// What a name may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InodeType {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// The name of a socket.
    Socket,
}

/// The attributes of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub kind: InodeType,
    /// Size in bytes; 0 for a directory.
    pub size: u64,
    /// The pages that it occupies.
    pub pages: u64,
    /// The number of its names.
    pub links: u32,
    /// Owner and permissions.
    pub owner: Owner,
    /// Times.
    pub times: Times,
}

/// What a power loss undid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostWrites {
    /// The number of pages, by file, that reverted to their last synced content.
    pub pages: BTreeMap<String, usize>,
    /// The number of unsynced pages that survived nevertheless.
    pub kept: usize,
    /// The number of directory changes that were undone.
    pub entries: usize,
}

impl Image {
    /// An empty disk.
    #[must_use]
    pub fn new(owner: Owner, names: NameDurability) -> Self {
        let root = InodeKind::Directory(Directory { parent: ROOT, ..Directory::default() });
        let root = Inode { owner, times: Times::default(), links: 1, kind: root };
        Image {
            inodes: [(ROOT, root)].into(),
            changes: Vec::new(),
            next_inode: ROOT + 1,
            names,
            capacity: CAPACITY_PAGES,
        }
    }

    /// When the names on this disk become durable.
    #[must_use]
    pub fn names(&self) -> NameDurability {
        self.names
    }

    /// How many pages there are, and how many of them are free.
    #[must_use]
    pub fn capacity(&self) -> (u64, u64) {
        (self.capacity, self.capacity.saturating_sub(self.used()))
    }

    /// Makes the disk so small that this many pages are free, or as large as it was at first.
    pub fn set_free_pages(&mut self, free: Option<u64>) {
        self.capacity = free.map_or(CAPACITY_PAGES, |free| self.used().saturating_add(free));
    }

    /// The pages that are in use: those of files, and one for each inode.
    fn used(&self) -> u64 {
        let pages = |inode: &Inode| match &inode.kind {
            InodeKind::File(file) => file.pages(),
            _ => 0,
        };
        self.inodes.values().map(|inode| 1 + pages(inode)).sum()
    }

    fn require_room(&self, pages: u64) -> Result<(), Errno> {
        if pages == 0 || self.capacity().1 >= pages { Ok(()) } else { Err(Errno::ENOSPC) }
    }

    fn inode(&self, number: u64) -> Result<&Inode, Errno> {
        self.inodes.get(&number).ok_or(Errno::ENOENT)
    }

    fn inode_mut(&mut self, number: u64) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&number).ok_or(Errno::ENOENT)
    }

    fn file(&self, number: u64) -> Result<&File, Errno> {
        match &self.inode(number)?.kind {
            InodeKind::File(file) => Ok(file),
            InodeKind::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    fn file_mut(&mut self, number: u64) -> Result<&mut File, Errno> {
        match &mut self.inode_mut(number)?.kind {
            InodeKind::File(file) => Ok(file),
            InodeKind::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    fn directory(&self, number: u64) -> Result<&Directory, Errno> {
        match &self.inode(number)?.kind {
            InodeKind::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn directory_mut(&mut self, number: u64) -> Option<&mut Directory> {
        match &mut self.inodes.get_mut(&number)?.kind {
            InodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Resolves a name in a directory.
    ///
    /// # Errors
    /// The name or the directory does not exist.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        self.directory(parent)?.now.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// The attributes of a file or directory.
    ///
    /// # Errors
    /// The inode does not exist.
    pub fn attributes(&self, number: u64) -> Result<Attributes, Errno> {
        let Inode { owner, times, links, kind } = self.inode(number)?;
        let is_directory =
            |child: &&u64| self.inode(**child).is_ok_and(|it| it.type_of() == InodeType::Directory);
        let (size, pages, links) = match kind {
            InodeKind::File(file) => (file.size(), file.pages(), *links),
            // Its name, its own `.`, and the `..` of each child.
            InodeKind::Directory(directory) => {
                let children = directory.now.values().filter(is_directory).count();
                (0, 0, u32::try_from(children).map_or(u32::MAX, |children| children + 2))
            }
            InodeKind::Symlink(target) => (target.len() as u64, 0, *links),
            InodeKind::Fifo | InodeKind::Socket => (0, 0, *links),
        };
        let kind = self.inode(number)?.type_of();
        Ok(Attributes { kind, size, pages, links, owner: *owner, times: *times })
    }

    /// Where a symbolic link points.
    ///
    /// # Errors
    /// It is none.
    pub fn link_target(&self, number: u64) -> Result<&OsStr, Errno> {
        match &self.inode(number)?.kind {
            InodeKind::Symlink(target) => Ok(target),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The entries of a directory, including `.` and `..`.
    ///
    /// # Errors
    /// The directory does not exist.
    pub fn entries(&self, number: u64) -> Result<Vec<(OsString, u64)>, Errno> {
        let directory = self.directory(number)?;
        let own = [(".".into(), number), ("..".into(), directory.parent)];
        let names = directory.now.iter().map(|(name, number)| (name.clone(), *number));
        Ok(own.into_iter().chain(names).collect())
    }

    /// Creates a file, a directory, or something else that has a name.
    ///
    /// # Errors
    /// The name exists, the parent directory does not, or the disk is full.
    pub fn create(
        &mut self,
        parent: u64,
        name: &OsStr,
        new: NewInode,
        owner: Owner,
    ) -> Result<u64, Errno> {
        if self.directory(parent)?.now.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.require_room(1)?;
        let number = self.next_inode;
        self.next_inode += 1;
        let kind = match new {
            NewInode::File => InodeKind::File(File::default()),
            NewInode::Directory => {
                InodeKind::Directory(Directory { parent, ..Directory::default() })
            }
            NewInode::Symlink(target) => InodeKind::Symlink(target),
            NewInode::Fifo => InodeKind::Fifo,
            NewInode::Socket => InodeKind::Socket,
        };
        self.inodes.insert(number, Inode { owner, times: Times::default(), links: 0, kind });
        self.change(vec![(parent, name.to_owned(), Some(number))]);
        Ok(number)
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// The name exists, or the file is a directory or does not exist.
    pub fn link(&mut self, number: u64, parent: u64, name: &OsStr) -> Result<(), Errno> {
        if self.inode(number)?.type_of() == InodeType::Directory {
            return Err(Errno::EPERM);
        }
        if self.directory(parent)?.now.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.change(vec![(parent, name.to_owned(), Some(number))]);
        Ok(())
    }

    /// Sets the permission bits and the owner, durably, as far as they are given.
    ///
    /// # Errors
    /// The inode does not exist.
    pub fn set_owner(
        &mut self,
        number: u64,
        mode: Option<u16>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), Errno> {
        let owner = &mut self.inode_mut(number)?.owner;
        *owner = Owner {
            mode: mode.unwrap_or(owner.mode),
            uid: uid.unwrap_or(owner.uid),
            gid: gid.unwrap_or(owner.gid),
        };
        Ok(())
    }

    /// The times of a file, to be changed.
    ///
    /// # Errors
    /// The inode does not exist.
    pub fn times_mut(&mut self, number: u64) -> Result<&mut Times, Errno> {
        Ok(&mut self.inode_mut(number)?.times)
    }

    /// Takes note that a file was changed.
    pub fn touch(&mut self, number: u64, now: SystemTime) {
        if let Ok(times) = self.times_mut(number) {
            (times.modified, times.changed) = (now, now);
        }
    }

    /// Removes the name of a file or of an empty directory.
    ///
    /// # Errors
    /// The name does not exist or is of the other kind, or the directory is not empty.
    pub fn remove(&mut self, parent: u64, name: &OsStr, directory: bool) -> Result<(), Errno> {
        let number = self.lookup(parent, name)?;
        match (&self.inode(number)?.kind, directory) {
            (InodeKind::Directory(_), false) => return Err(Errno::EISDIR),
            (InodeKind::Directory(directory), true) if !directory.now.is_empty() => {
                return Err(Errno::ENOTEMPTY);
            }
            (InodeKind::Directory(_), true) => {}
            (_, true) => return Err(Errno::ENOTDIR),
            (_, false) => {}
        }
        self.change(vec![(parent, name.to_owned(), None)]);
        Ok(())
    }

    /// Renames a file or directory, replacing what has the new name if that is allowed.
    ///
    /// # Errors
    /// The name does not exist, or what has the new name cannot be replaced.
    pub fn rename(
        &mut self,
        (parent, name): (u64, &OsStr),
        (to, as_name): (u64, &OsStr),
        may_replace: bool,
    ) -> Result<(), Errno> {
        let number = self.lookup(parent, name)?;
        let moved = self.inode(number)?.type_of() == InodeType::Directory;
        if let Ok(before) = self.lookup(to, as_name) {
            if !may_replace {
                return Err(Errno::EEXIST);
            }
            match (&self.inode(before)?.kind, moved) {
                _ if before == number => return Ok(()),
                (InodeKind::Directory(_), false) => return Err(Errno::EISDIR),
                (InodeKind::Directory(directory), true) if !directory.now.is_empty() => {
                    return Err(Errno::ENOTEMPTY);
                }
                (InodeKind::Directory(_), true) => {}
                (_, true) => return Err(Errno::ENOTDIR),
                (_, false) => {}
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
            let Some(directory) = self.directory_mut(*directory) else { continue };
            let before = directory.now.get(name).copied();
            set(&mut directory.now, name, *number);
            self.count_link(before, u32::saturating_sub);
            self.count_link(*number, u32::saturating_add);
        }
        self.changes.push(change);
    }

    fn count_link(&mut self, number: Option<u64>, count: fn(u32, u32) -> u32) {
        if let Some(inode) = number.and_then(|number| self.inodes.get_mut(&number)) {
            inode.links = count(inode.links, 1);
        }
    }

    /// Reads up to `bytes` bytes from `offset`; fewer at the end of the file.
    ///
    /// # Errors
    /// The file does not exist.
    pub fn read(&self, number: u64, offset: u64, bytes: usize) -> Result<Vec<u8>, Errno> {
        Ok(self.file(number)?.read(offset, bytes))
    }

    /// Writes to a file.
    ///
    /// # Errors
    /// The file does not exist or would become too long, or the disk is full.
    pub fn write(&mut self, number: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.require_room(self.file(number)?.pages_to_add(offset, data.len() as u64))?;
        self.file_mut(number)?.write(offset, data)
    }

    /// Reserves space for a range of a file. The file grows to hold it unless `keep_size`.
    ///
    /// # Errors
    /// The file does not exist or would become too long, or the disk is full.
    pub fn reserve(
        &mut self,
        number: u64,
        offset: u64,
        bytes: u64,
        keep_size: bool,
    ) -> Result<(), Errno> {
        let end = offset.checked_add(bytes).ok_or(Errno::EFBIG)?;
        let file = self.file(number)?;
        // Beyond the size there is nothing that a page could belong to.
        let end = if keep_size { end.min(file.size()) } else { end };
        self.require_room(file.pages_to_add(offset, end.saturating_sub(offset)))?;
        let file = self.file_mut(number)?;
        if file.size() < end {
            file.set_size(end);
        }
        file.reserve(offset, end);
        Ok(())
    }

    /// Makes a range of a file read as zeros; the size stays.
    ///
    /// # Errors
    /// The file does not exist.
    pub fn zero(&mut self, number: u64, offset: u64, bytes: u64) -> Result<(), Errno> {
        self.file_mut(number)?.zero(offset, offset.saturating_add(bytes));
        Ok(())
    }

    /// Truncates a file, or extends it with zeros.
    ///
    /// # Errors
    /// The file does not exist.
    pub fn set_size(&mut self, number: u64, size: u64) -> Result<(), Errno> {
        self.file_mut(number)?.set_size(size);
        Ok(())
    }

    /// The pages of a file that were written since its last sync.
    #[must_use]
    pub fn unsynced(&self, number: u64) -> Option<&BTreeSet<u64>> {
        self.file(number).ok().map(File::unsynced)
    }

    /// Syncs a file's content and size, or a directory's entries. `data_only`: nothing else of the file, as
    /// `fdatasync` does.
    ///
    /// # Errors
    /// The inode does not exist.
    pub fn sync(&mut self, number: u64, data_only: bool) -> Result<(), Errno> {
        let is_new = |change: &Change| change.iter().any(|(.., named)| *named == Some(number));
        let commits = match &self.inode(number)?.kind {
            InodeKind::File(file) => {
                !data_only || file.is_longer_or_elsewhere() || self.changes.iter().any(is_new)
            }
            _ => true,
        };
        match (self.names, &mut self.inode_mut(number)?.kind) {
            (NameDurability::Posix, InodeKind::Directory(_)) => self.sync_directory(number),
            (_, InodeKind::File(file)) => file.sync(),
            _ => {}
        }
        if self.names == NameDurability::Ext4 && commits {
            let all: Vec<usize> = (0..self.changes.len()).collect();
            self.make_durable(&all);
        }
        Ok(())
    }

    /// A sync that fails. Returns how many pages of the file no later sync will save.
    pub fn fail_sync(&mut self, number: u64) -> usize {
        self.file_mut(number).map_or(0, File::fail_sync)
    }

    fn sync_directory(&mut self, number: u64) {
        // Newest first: a change depends on the earlier changes of each directory that it touches.
        let mut needed = BTreeSet::from([number]);
        let mut durable = Vec::new();
        for (at, change) in self.changes.iter().enumerate().rev() {
            if change.iter().any(|(directory, ..)| needed.contains(directory)) {
                needed.extend(change.iter().map(|(directory, ..)| *directory));
                durable.push(at);
            }
        }
        durable.reverse();
        self.make_durable(&durable);
    }

    /// Makes the directory changes at these positions durable.
    fn make_durable(&mut self, durable: &[usize]) {
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

    /// Applies a power loss. Without `partial`, everything unsynced is lost. With it, each unsynced
    /// page and directory change is lost with probability 1/2, because a disk may have written some
    /// of what it was given.
    pub fn lose_power(&mut self, mut partial: Option<&mut ChaCha8Rng>) -> LostWrites {
        let mut lost_writes = LostWrites::default();
        let names = self.file_paths();
        for (number, inode) in &mut self.inodes {
            let InodeKind::File(file) = &mut inode.kind else { continue };
            let (lost, kept) = file.lose_power(partial.as_deref_mut());
            lost_writes.kept += kept;
            // An unlinked file is gone anyway.
            if let (true, Some(name)) = (lost > 0, names.get(number)) {
                lost_writes.pages.insert(name.clone(), lost);
            }
        }
        if let Some(rng) = partial {
            let first_lost = match self.names {
                NameDurability::Posix => usize::MAX,
                NameDurability::Ext4 => rng.random_range(0..=self.changes.len()),
            };
            let mut lost = BTreeSet::new();
            let mut durable = Vec::new();
            for (at, change) in self.changes.iter().enumerate() {
                let whole = !change.iter().any(|(directory, ..)| lost.contains(directory));
                let is_kept = match self.names {
                    NameDurability::Posix => whole && rng.random_bool(0.5),
                    NameDurability::Ext4 => at < first_lost,
                };
                if is_kept {
                    durable.push(at);
                } else {
                    lost.extend(change.iter().map(|(directory, ..)| *directory));
                }
            }
            self.make_durable(&durable);
        }
        lost_writes.entries = self.changes.len();
        self.changes.clear();
        for inode in self.inodes.values_mut() {
            if let InodeKind::Directory(directory) = &mut inode.kind {
                directory.now.clone_from(&directory.durable);
            }
        }
        self.remove_unreachable();
        lost_writes
    }

    /// Removes the inodes that have no name, now and after a power loss. No process may have them open.
    pub fn remove_orphans(&mut self) {
        let changes = self.changes.iter().flatten().filter_map(|(.., number)| *number);
        let mut found: BTreeSet<u64> = changes.chain([ROOT]).collect();
        let mut open: Vec<u64> = found.iter().copied().collect();
        while let Some(number) = open.pop() {
            let Ok(Directory { now, durable, .. }) = self.directory(number) else { continue };
            let children = now.values().chain(durable.values()).copied();
            open.extend(children.filter(|child| found.insert(*child)));
        }
        self.inodes.retain(|number, _| found.contains(number));
    }

    /// A file is not used by any process any more. Without a name it is gone.
    pub fn forget(&mut self, number: u64) {
        if self.inode(number).is_ok_and(|inode| inode.links == 0) {
            self.remove_orphans();
        }
    }

    /// Removes inodes that no directory entry refers to, and counts the names of the others.
    fn remove_unreachable(&mut self) {
        let mut links = BTreeMap::from([(ROOT, 1)]);
        let mut open = vec![ROOT];
        let mut parents = Vec::new();
        while let Some(number) = open.pop() {
            let Ok(directory) = self.directory(number) else { continue };
            for child in directory.now.values().copied() {
                *links.entry(child).or_insert(0) += 1;
                if links[&child] == 1 {
                    open.push(child);
                }
                parents.push((child, number));
            }
        }
        self.inodes.retain(|number, _| links.contains_key(number));
        for (number, inode) in &mut self.inodes {
            inode.links = links[number];
        }
        for (child, parent) in parents {
            if let Some(directory) = self.directory_mut(child) {
                directory.parent = parent;
            }
        }
    }

    /// The path of every linked file, by inode.
    fn file_paths(&self) -> BTreeMap<u64, String> {
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

impl Inode {
    fn type_of(&self) -> InodeType {
        match self.kind {
            InodeKind::File(_) => InodeType::File,
            InodeKind::Directory(_) => InodeType::Directory,
            InodeKind::Symlink(_) => InodeType::Symlink,
            InodeKind::Fifo => InodeType::Fifo,
            InodeKind::Socket => InodeType::Socket,
        }
    }
}

fn set(entries: &mut BTreeMap<OsString, u64>, name: &OsStr, number: Option<u64>) {
    match number {
        Some(number) => entries.insert(name.to_owned(), number),
        None => entries.remove(name),
    };
}
