//! The content of a simulated disk: what programs see now, and what survives a power loss. Pure:
//! no mount, no clock. Does not know what the files mean.
//!
//! # Durability
//!
//! - **File content** and the file's size become durable when the file is synced (`fsync`,
//!   `fdatasync`, or a write through a descriptor with `O_DSYNC`, which the kernel turns into a
//!   write and a sync). Until then each 4 KiB page may be lost independently. Pages are never torn.
//! - **Directory entries** (create, rename, remove) become durable when the *directory* is synced.
//!   Syncing a file does not make its name durable. A power loss keeps a prefix of the changes to
//!   one directory; a change that spans two directories, as a rename may, is kept or lost as a
//!   whole. A sync also makes durable the earlier changes that it depends on.
//! - **Owner and mode** are always durable. Times are not stored.
//!
//! These rules are at the strict end of what file systems promise, so a missing sync shows.

mod file;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
};

use nix::errno::Errno;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use self::file::File;

/// The unit in which unsynced writes are lost.
pub const PAGE_BYTES: u64 = 4096;

/// The inode number of the root directory.
pub const ROOT: u64 = 1;

/// The files and directories of a disk.
#[derive(Clone, Debug)]
pub struct Image {
    inodes: BTreeMap<u64, Inode>,
    /// Directory changes that are not durable, oldest first.
    changes: Vec<Change>,
    next_inode: u64,
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

#[derive(Clone, Debug)]
struct Inode {
    owner: Owner,
    kind: InodeKind,
}

#[derive(Clone, Debug)]
enum InodeKind {
    File(File),
    Directory(Directory),
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

/// The attributes of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Whether it is a directory.
    pub directory: bool,
    /// Size in bytes; 0 for a directory.
    pub size: u64,
    /// Owner and permissions.
    pub owner: Owner,
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
    pub fn new(owner: Owner) -> Self {
        let root = Directory { parent: ROOT, ..Directory::default() };
        let root = Inode { owner, kind: InodeKind::Directory(root) };
        Image { inodes: [(ROOT, root)].into(), changes: Vec::new(), next_inode: ROOT + 1 }
    }

    fn inode(&self, number: u64) -> Result<&Inode, Errno> {
        self.inodes.get(&number).ok_or(Errno::ENOENT)
    }

    fn file(&self, number: u64) -> Result<&File, Errno> {
        match &self.inode(number)?.kind {
            InodeKind::File(file) => Ok(file),
            InodeKind::Directory(_) => Err(Errno::EISDIR),
        }
    }

    fn file_mut(&mut self, number: u64) -> Result<&mut File, Errno> {
        match &mut self.inodes.get_mut(&number).ok_or(Errno::ENOENT)?.kind {
            InodeKind::File(file) => Ok(file),
            InodeKind::Directory(_) => Err(Errno::EISDIR),
        }
    }

    fn directory(&self, number: u64) -> Result<&Directory, Errno> {
        match &self.inode(number)?.kind {
            InodeKind::Directory(directory) => Ok(directory),
            InodeKind::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn directory_mut(&mut self, number: u64) -> Option<&mut Directory> {
        match &mut self.inodes.get_mut(&number)?.kind {
            InodeKind::Directory(directory) => Some(directory),
            InodeKind::File(_) => None,
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
        let Inode { owner, kind } = self.inode(number)?;
        let (directory, size) = match kind {
            InodeKind::File(file) => (false, file.size()),
            InodeKind::Directory(_) => (true, 0),
        };
        Ok(Attributes { directory, size, owner: *owner })
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

    /// Creates a file or a directory.
    ///
    /// # Errors
    /// The name exists, or the parent directory does not.
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
        let number = self.next_inode;
        self.next_inode += 1;
        let kind = if directory {
            InodeKind::Directory(Directory { parent, ..Directory::default() })
        } else {
            InodeKind::File(File::default())
        };
        self.inodes.insert(number, Inode { owner, kind });
        self.change(vec![(parent, name.to_owned(), Some(number))]);
        Ok(number)
    }

    /// Sets the permission bits, durably.
    ///
    /// # Errors
    /// The inode does not exist.
    pub fn set_mode(&mut self, number: u64, mode: u16) -> Result<(), Errno> {
        self.inodes.get_mut(&number).ok_or(Errno::ENOENT)?.owner.mode = mode;
        Ok(())
    }

    /// Removes the name of a file or of an empty directory.
    ///
    /// # Errors
    /// The name does not exist or is of the other kind, or the directory is not empty.
    pub fn remove(&mut self, parent: u64, name: &OsStr, directory: bool) -> Result<(), Errno> {
        let number = self.lookup(parent, name)?;
        match (&self.inode(number)?.kind, directory) {
            (InodeKind::File(_), true) => return Err(Errno::ENOTDIR),
            (InodeKind::Directory(_), false) => return Err(Errno::EISDIR),
            (InodeKind::Directory(directory), true) if !directory.now.is_empty() => {
                return Err(Errno::ENOTEMPTY);
            }
            _ => {}
        }
        self.change(vec![(parent, name.to_owned(), None)]);
        Ok(())
    }

    /// Renames a file or directory, replacing what has the new name.
    ///
    /// # Errors
    /// The name does not exist, or what has the new name cannot be replaced.
    pub fn rename(
        &mut self,
        (parent, name): (u64, &OsStr),
        (to, as_name): (u64, &OsStr),
    ) -> Result<(), Errno> {
        let number = self.lookup(parent, name)?;
        let moved = matches!(self.inode(number)?.kind, InodeKind::Directory(_));
        if let Ok(before) = self.lookup(to, as_name) {
            match (&self.inode(before)?.kind, moved) {
                _ if before == number => return Ok(()),
                (InodeKind::Directory(_), false) => return Err(Errno::EISDIR),
                (InodeKind::File(_), true) => return Err(Errno::ENOTDIR),
                (InodeKind::Directory(directory), true) if !directory.now.is_empty() => {
                    return Err(Errno::ENOTEMPTY);
                }
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
    /// The file does not exist or would become too long.
    pub fn write(&mut self, number: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.file_mut(number)?.write(offset, data)
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

    /// Syncs a file's content and size, or a directory's entries.
    ///
    /// # Errors
    /// The inode does not exist.
    pub fn sync(&mut self, number: u64) -> Result<(), Errno> {
        if let InodeKind::Directory(_) = self.inode(number)?.kind {
            self.sync_directory(number);
            return Ok(());
        }
        self.file_mut(number)?.sync();
        Ok(())
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
            let mut lost = BTreeSet::new();
            let mut durable = Vec::new();
            for (at, change) in self.changes.iter().enumerate() {
                let whole = !change.iter().any(|(directory, ..)| lost.contains(directory));
                if whole && rng.random_bool(0.5) {
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

    /// Removes inodes that no directory entry refers to.
    fn remove_unreachable(&mut self) {
        let mut found = BTreeSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(number) = open.pop() {
            let Ok(directory) = self.directory(number) else { continue };
            open.extend(directory.now.values().copied().filter(|child| found.insert(*child)));
        }
        self.inodes.retain(|number, _| found.contains(number));
        let parents: Vec<_> = found
            .iter()
            .filter_map(|number| Some((*number, self.directory(*number).ok()?)))
            .flat_map(|(number, directory)| {
                directory.now.values().map(move |child| (*child, number))
            })
            .collect();
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

fn set(entries: &mut BTreeMap<OsString, u64>, name: &OsStr, number: Option<u64>) {
    match number {
        Some(number) => entries.insert(name.to_owned(), number),
        None => entries.remove(name),
    };
}
