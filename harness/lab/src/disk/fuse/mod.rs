//! The FUSE file system of a disk: turns kernel requests into operations of the [`Device`]. Does not
//! know about power.
//!
//! Reads and writes go through the kernel's page cache, which memory maps need. The write-back
//! cache is disabled, so every write arrives here before its caller returns. Dirty pages of shared
//! maps arrive when the kernel writes them back. File locks stay in the kernel.

mod attributes;

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use fuser::{
    BsdFileFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, TimeOrNow, WriteFlags,
};
use nix::{fcntl::FallocateFlags, libc, sys::stat::SFlag};

use self::attributes::{
    NewAttributes, TTL, attr, errno, file_type, owner, reply_attr, reply_empty, reply_entry, time,
};
use super::{
    device::{Device, Medium, Outcome, Request, RequestKind},
    image::{Attributes, NewInode, Owner, PAGE_BYTES},
};

/// The number of inodes that statfs reports as free.
const FREE_INODES: u64 = 1 << 20;

/// The names of a directory when it was opened.
type Listing = Arc<Vec<(OsString, u64, FileType)>>;

/// Serves the requests of one mount.
pub(super) struct Requests {
    device: Arc<Device>,
    /// How often the kernel was told of each inode and has not forgotten it.
    known: Arc<Mutex<HashMap<u64, u64>>>,
    /// The directories that are open. What is removed meanwhile must not shift the rest.
    open: Arc<Mutex<HashMap<u64, Listing>>>,
    next_handle: AtomicU64,
}

type FsResult<T> = Result<T, nix::errno::Errno>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Requests {
    pub(super) fn new(device: Arc<Device>) -> Self {
        let (known, open) = (Arc::default(), Arc::default());
        Requests { device, known, open, next_handle: AtomicU64::new(1) }
    }

    /// Has the device perform an operation, and replies with its result.
    fn perform<T: Send + 'static, R: Send + 'static>(
        &self,
        kind: RequestKind,
        reply: R,
        operation: impl FnOnce(&mut Medium) -> FsResult<T> + Send + 'static,
        send: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) {
        let operation = move |medium: Option<&mut Medium>| -> Outcome {
            let result = medium.map_or(Err(nix::errno::Errno::EIO), operation);
            let error = result.as_ref().err().copied();
            let answer = Box::new(move |powered| {
                let result = if powered { result } else { Err(nix::errno::Errno::EIO) };
                send(reply, result.map_err(errno));
            });
            Outcome { answer, error }
        };
        self.device.handle(Request { kind, operation: Box::new(operation) });
    }

    /// Performs an operation whose result makes an inode known to the kernel.
    fn perform_entry(
        &self,
        kind: RequestKind,
        reply: ReplyEntry,
        operation: impl FnOnce(&mut Medium) -> FsResult<(u64, Attributes)> + Send + 'static,
    ) {
        let known = self.known.clone();
        self.perform(kind, reply, operation, move |reply, result| {
            if let Ok((number, _)) = &result {
                *lock(&known).entry(*number).or_default() += 1;
            }
            reply_entry(reply, result);
        });
    }

    /// Creates something that has a name.
    fn make(&self, parent: INodeNo, name: &OsStr, new: NewInode, owner: Owner, reply: ReplyEntry) {
        let name = name.to_owned();
        self.perform_entry(RequestKind::Other, reply, move |medium| {
            create_inode(medium, parent, &name, new, owner)
        });
    }
}

/// Creates an inode with a name.
fn create_inode(
    medium: &mut Medium,
    parent: INodeNo,
    name: &OsStr,
    new: NewInode,
    owner: Owner,
) -> FsResult<(u64, Attributes)> {
    let number = medium.image.create(parent.0, name, new, owner)?;
    medium.named(number, name);
    let now = SystemTime::now();
    medium.image.times_mut(number)?.accessed = now;
    medium.image.touch(number, now);
    medium.image.touch(parent.0, now);
    Ok((number, medium.image.attributes(number)?))
}

fn set_attributes(
    medium: &mut Medium,
    number: u64,
    new: &NewAttributes,
) -> FsResult<(u64, Attributes)> {
    let NewAttributes { mode, uid, gid, size, accessed, modified } = *new;
    let image = &mut medium.image;
    image.set_owner(number, mode, uid, gid)?;
    let now = SystemTime::now();
    if let Some(size) = size {
        image.set_size(number, size)?;
        image.touch(number, now);
    }
    let times = image.times_mut(number)?;
    times.accessed = accessed.unwrap_or(times.accessed);
    times.modified = modified.unwrap_or(times.modified);
    times.changed = now;
    Ok((number, image.attributes(number)?))
}

impl Filesystem for Requests {
    fn lookup(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.perform_entry(RequestKind::Query, reply, move |medium| {
            let number = medium.image.lookup(parent.0, &name)?;
            Ok((number, medium.image.attributes(number)?))
        });
    }

    fn forget(&self, _: &fuser::Request, number: INodeNo, times: u64) {
        let mut known = lock(&self.known);
        let left = known.get(&number.0).copied().unwrap_or(0).saturating_sub(times);
        if left > 0 {
            known.insert(number.0, left);
        } else {
            known.remove(&number.0);
            drop(known);
            self.device.with_image(|image| image.forget(number.0));
        }
    }

    fn getattr(
        &self,
        _: &fuser::Request,
        number: INodeNo,
        _: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let found = move |medium: &mut Medium| Ok((number.0, medium.image.attributes(number.0)?));
        self.perform(RequestKind::Query, reply, found, reply_attr);
    }

    fn setattr(
        &self,
        _: &fuser::Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mode = mode.map(|mode| (mode & 0o7777) as u16);
        let (accessed, modified) = (accessed.map(time), modified.map(time));
        let new = NewAttributes { mode, uid, gid, size, accessed, modified };
        let operation = move |medium: &mut Medium| set_attributes(medium, number.0, &new);
        self.perform(RequestKind::Other, reply, operation, reply_attr);
    }

    fn readlink(&self, _: &fuser::Request, number: INodeNo, reply: ReplyData) {
        let target =
            move |medium: &mut Medium| medium.image.link_target(number.0).map(OsStr::to_owned);
        self.perform(RequestKind::Query, reply, target, |reply, result| match result {
            Ok(target) => reply.data(target.as_encoded_bytes()),
            Err(error) => reply.error(error),
        });
    }

    fn mknod(
        &self,
        request: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let new = match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => NewInode::File,
            SFlag::S_IFIFO => NewInode::Fifo,
            SFlag::S_IFSOCK => NewInode::Socket,
            // The mounts have no devices.
            _ => return reply.error(Errno::EPERM),
        };
        self.make(parent, name, new, owner(request, mode, umask), reply);
    }

    fn symlink(
        &self,
        request: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let new = NewInode::Symlink(target.as_os_str().to_owned());
        self.make(parent, name, new, owner(request, 0o777, 0), reply);
    }

    fn link(
        &self,
        _: &fuser::Request,
        number: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let name = name.to_owned();
        self.perform_entry(RequestKind::Other, reply, move |medium| {
            medium.image.link(number.0, parent.0, &name)?;
            medium.named(number.0, &name);
            let now = SystemTime::now();
            medium.image.times_mut(number.0)?.changed = now;
            medium.image.touch(parent.0, now);
            Ok((number.0, medium.image.attributes(number.0)?))
        });
    }

    fn mkdir(
        &self,
        request: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.make(parent, name, NewInode::Directory, owner(request, mode, umask), reply);
    }

    fn create(
        &self,
        request: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let (name, owner) = (name.to_owned(), owner(request, mode, umask));
        let operation =
            move |medium: &mut Medium| create_inode(medium, parent, &name, NewInode::File, owner);
        let known = self.known.clone();
        self.perform(RequestKind::Other, reply, operation, move |reply: ReplyCreate, result| {
            match result {
                Ok((number, attributes)) => {
                    *lock(&known).entry(number).or_default() += 1;
                    let (attr, cache) = (attr(number, attributes), FopenFlags::FOPEN_KEEP_CACHE);
                    reply.created(&TTL, &attr, Generation(0), FileHandle(0), cache);
                }
                Err(error) => reply.error(error),
            }
        });
    }

    fn unlink(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        let operation = move |medium: &mut Medium| {
            medium.image.touch(parent.0, SystemTime::now());
            medium.image.remove(parent.0, &name, false)
        };
        self.perform(RequestKind::Other, reply, operation, reply_empty);
    }

    fn rmdir(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        let operation = move |medium: &mut Medium| {
            medium.image.touch(parent.0, SystemTime::now());
            medium.image.remove(parent.0, &name, true)
        };
        self.perform(RequestKind::Other, reply, operation, reply_empty);
    }

    fn rename(
        &self,
        _: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        as_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
            return reply.error(Errno::EINVAL);
        }
        let (name, as_name) = (name.to_owned(), as_name.to_owned());
        let operation = move |medium: &mut Medium| {
            let now = SystemTime::now();
            medium.image.touch(parent.0, now);
            medium.image.touch(to.0, now);
            medium.image.rename((parent.0, &name), (to.0, &as_name), flags.is_empty())?;
            let number = medium.image.lookup(to.0, &as_name)?;
            medium.named(number, &as_name);
            Ok(())
        };
        self.perform(RequestKind::Other, reply, operation, reply_empty);
    }

    fn open(&self, _: &fuser::Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Only this kernel changes the file, so its cached pages stay valid.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &fuser::Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = move |medium: &mut Medium| medium.image.read(number.0, offset, size as usize);
        self.perform(RequestKind::Query, reply, read, |reply: ReplyData, result| match result {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        });
    }

    fn write(
        &self,
        _: &fuser::Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        let operation = move |medium: &mut Medium| {
            medium.image.write(number.0, offset, &data)?;
            medium.image.touch(number.0, SystemTime::now());
            Ok(data.len() as u32)
        };
        let kind = RequestKind::Write { file: number.0, offset };
        self.perform(kind, reply, operation, |reply: ReplyWrite, result| match result {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        });
    }

    fn flush(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Closing a file does not sync it.
        reply.ok();
    }

    fn fsync(
        &self,
        _: &fuser::Request,
        number: INodeNo,
        _: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let kind = RequestKind::Sync { inode: number.0 };
        let operation = move |medium: &mut Medium| medium.image.sync(number.0, data_only);
        self.perform(kind, reply, operation, reply_empty);
    }

    fn fsyncdir(
        &self,
        request: &fuser::Request,
        number: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(request, number, handle, data_only, reply);
    }

    fn fallocate(
        &self,
        _: &fuser::Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (keep, punch, zero) = (
            FallocateFlags::FALLOC_FL_KEEP_SIZE,
            FallocateFlags::FALLOC_FL_PUNCH_HOLE,
            FallocateFlags::FALLOC_FL_ZERO_RANGE,
        );
        let Some(mode) = FallocateFlags::from_bits(mode) else {
            return reply.error(Errno::from_i32(libc::EOPNOTSUPP));
        };
        if !(keep | punch | zero).contains(mode) {
            return reply.error(Errno::from_i32(libc::EOPNOTSUPP));
        }
        let operation = move |medium: &mut Medium| {
            if mode.intersects(punch | zero) {
                medium.image.zero(number.0, offset, bytes)?;
            }
            if !mode.contains(punch) {
                medium.image.reserve(number.0, offset, bytes, mode.contains(keep))?;
            }
            medium.image.touch(number.0, SystemTime::now());
            Ok(())
        };
        self.perform(RequestKind::Other, reply, operation, reply_empty);
    }

    fn opendir(&self, _: &fuser::Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let open = self.open.clone();
        let list = move |medium: &mut Medium| {
            let image = &medium.image;
            let entry =
                |(name, number)| Ok((name, number, file_type(image.attributes(number)?.kind)));
            image.entries(number.0)?.into_iter().map(entry).collect::<FsResult<Vec<_>>>()
        };
        self.perform(RequestKind::Query, reply, list, move |reply, result| match result {
            Ok(entries) => {
                lock(&open).insert(handle, Arc::new(entries));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        });
    }

    fn readdir(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(entries) = lock(&self.open).get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        for ((name, number, kind), next) in entries.iter().zip(1..).skip(offset as usize) {
            if reply.add(INodeNo(*number), next, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        lock(&self.open).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &fuser::Request, _: INodeNo, reply: ReplyStatfs) {
        let capacity = |medium: &mut Medium| Ok(medium.image.capacity());
        self.perform(RequestKind::Space, reply, capacity, |reply: ReplyStatfs, result| {
            let block = PAGE_BYTES as u32;
            match result {
                Ok((pages, free)) => {
                    let inodes = FREE_INODES.min(free);
                    reply.statfs(pages, free, free, FREE_INODES, inodes, block, 255, block);
                }
                Err(error) => reply.error(error),
            }
        });
    }
}
