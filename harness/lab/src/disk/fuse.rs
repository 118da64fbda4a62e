//! The FUSE file system of a disk: turns kernel requests into operations of the [`Device`]. Does not
//! know about power.
//!
//! Reads and writes go through the kernel's page cache, which memory maps need. The write-back
//! cache is disabled, so every write arrives here before its caller returns. Dirty pages of shared
//! maps arrive when the kernel writes them back. File locks stay in the kernel.

use std::{
    ffi::OsStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, TimeOrNow, WriteFlags,
};

use super::{
    device::{Answer, Device, Medium, Request, RequestKind},
    image::{Attributes, Owner, PAGE_BYTES},
};

/// How long the kernel may cache attributes: only this kernel changes the disk.
const TTL: Duration = Duration::from_secs(3600);

/// The size that statfs reports for a disk without a limit: 64 GiB.
const BLOCKS: u64 = (64 << 30) / PAGE_BYTES;

/// Serves the requests of one mount.
pub(super) struct Requests(pub(super) Arc<Device>);

type FsResult<T> = Result<T, nix::errno::Errno>;

impl Requests {
    /// Has the device perform an operation, and replies with its result.
    fn perform<T: Send + 'static, R: Send + 'static>(
        &self,
        kind: RequestKind,
        reply: R,
        operation: impl FnOnce(&mut Medium) -> FsResult<T> + Send + 'static,
        send: fn(R, Result<T, Errno>),
    ) {
        let operation = move |medium: Option<&mut Medium>| -> Answer {
            let result = medium.map_or(Err(nix::errno::Errno::EIO), operation);
            Box::new(move |powered| {
                let result = if powered { result } else { Err(nix::errno::Errno::EIO) };
                send(reply, result.map_err(errno));
            })
        };
        self.0.handle(Request { kind, operation: Box::new(operation) });
    }
}

fn errno(errno: nix::errno::Errno) -> Errno {
    Errno::from_i32(errno as i32)
}

fn attr(number: u64, Attributes { directory, size, owner }: Attributes) -> FileAttr {
    let Owner { mode, uid, gid } = owner;
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if directory { FileType::Directory } else { FileType::RegularFile },
        perm: mode,
        nlink: if directory { 2 } else { 1 },
        uid,
        gid,
        rdev: 0,
        blksize: PAGE_BYTES as u32,
        flags: 0,
    }
}

fn owner(request: &fuser::Request, mode: u32, umask: u32) -> Owner {
    let mode = (mode & !umask & 0o7777) as u16;
    Owner { mode, uid: request.uid(), gid: request.gid() }
}

fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn reply_attr(reply: ReplyAttr, result: Result<(u64, Attributes), Errno>) {
    match result {
        Ok((number, attributes)) => reply.attr(&TTL, &attr(number, attributes)),
        Err(error) => reply.error(error),
    }
}

fn reply_entry(reply: ReplyEntry, result: Result<(u64, Attributes), Errno>) {
    match result {
        Ok((number, attributes)) => reply.entry(&TTL, &attr(number, attributes), Generation(0)),
        Err(error) => reply.error(error),
    }
}

/// Creates a file or a directory.
fn create_inode(
    medium: &mut Medium,
    parent: INodeNo,
    name: &OsStr,
    directory: bool,
    owner: Owner,
) -> FsResult<(u64, Attributes)> {
    let number = medium.image.create(parent.0, name, directory, owner)?;
    medium.named(number, name);
    Ok((number, medium.image.attributes(number)?))
}

impl Filesystem for Requests {
    fn lookup(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.0.read(|image| {
            let number = image.lookup(parent.0, name)?;
            Ok((number, image.attributes(number)?))
        });
        reply_entry(reply, found.map_err(errno));
    }

    fn getattr(
        &self,
        _: &fuser::Request,
        number: INodeNo,
        _: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let found = self.0.read(|image| Ok((number.0, image.attributes(number.0)?)));
        reply_attr(reply, found.map_err(errno));
    }

    fn setattr(
        &self,
        _: &fuser::Request,
        number: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let operation = move |medium: &mut Medium| {
            if let Some(mode) = mode {
                medium.image.set_mode(number.0, (mode & 0o7777) as u16)?;
            }
            if let Some(size) = size {
                medium.image.set_size(number.0, size)?;
            }
            Ok((number.0, medium.image.attributes(number.0)?))
        };
        self.perform(RequestKind::Other, reply, operation, reply_attr);
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
        let (name, owner) = (name.to_owned(), owner(request, mode, umask));
        let operation = move |medium: &mut Medium| create_inode(medium, parent, &name, true, owner);
        self.perform(RequestKind::Other, reply, operation, reply_entry);
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
            move |medium: &mut Medium| create_inode(medium, parent, &name, false, owner);
        self.perform(RequestKind::Other, reply, operation, |reply, result| match result {
            Ok((number, attributes)) => reply.created(
                &TTL,
                &attr(number, attributes),
                Generation(0),
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE,
            ),
            Err(error) => reply.error(error),
        });
    }

    fn unlink(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        let operation = move |medium: &mut Medium| medium.image.remove(parent.0, &name, false);
        self.perform(RequestKind::Other, reply, operation, reply_empty);
    }

    fn rmdir(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        let operation = move |medium: &mut Medium| medium.image.remove(parent.0, &name, true);
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
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let (name, as_name) = (name.to_owned(), as_name.to_owned());
        let operation = move |medium: &mut Medium| {
            medium.image.rename((parent.0, &name), (to.0, &as_name))?;
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
        match self.0.read(|image| image.read(number.0, offset, size as usize)) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(errno(error)),
        }
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
        _: bool,
        reply: ReplyEmpty,
    ) {
        let kind = RequestKind::Sync { inode: number.0 };
        self.perform(kind, reply, move |medium| medium.image.sync(number.0), reply_empty);
    }

    fn fsyncdir(
        &self,
        request: &fuser::Request,
        number: INodeNo,
        handle: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(request, number, handle, datasync, reply);
    }

    fn readdir(
        &self,
        _: &fuser::Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = self.0.read(|image| {
            let entries = image.entries(number.0)?;
            let is_directory = |number| Ok(image.attributes(number)?.directory);
            entries
                .into_iter()
                .map(|(name, inode)| Ok((name, inode, is_directory(inode)?)))
                .collect::<FsResult<Vec<_>>>()
        });
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => return reply.error(errno(error)),
        };
        for ((name, number, directory), next) in entries.into_iter().zip(1..).skip(offset as usize)
        {
            let kind = if directory { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(number), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &fuser::Request, _: INodeNo, reply: ReplyStatfs) {
        let block = PAGE_BYTES as u32;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, 1 << 20, 1 << 20, block, 255, block);
    }
}
