//! What the kernel asks of a disk, and how it is answered. Knows FUSE; nothing of power.
//!
//! Reads and writes go through the kernel's page cache, which memory maps need; every write comes
//! here before its caller goes on, because the write-back cache is not asked for. Dirty pages of
//! shared maps come when the kernel likes. Locks stay in the kernel.

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
    device::{Answer, Device, Medium, Request, What},
    image::{Attributes, Owner, PAGE_BYTES},
};

/// Nobody else changes the disk, so the kernel may keep what it was told for as long as it likes.
const TTL: Duration = Duration::from_secs(3600);

/// What statfs tells of a disk that has no bounds of its own: 64 GiB.
const BLOCKS: u64 = (64 << 30) / PAGE_BYTES;

/// The requests of one mount.
pub(super) struct Requests(pub(super) Arc<Device>);

type Outcome<T> = Result<T, nix::errno::Errno>;

impl Requests {
    /// Has the device do something, and answers with what came of it.
    fn change<T: Send + 'static, R: Send + 'static>(
        &self,
        what: What,
        reply: R,
        deed: impl FnOnce(&mut Medium) -> Outcome<T> + Send + 'static,
        tell: fn(R, Result<T, Errno>),
    ) {
        let deed = move |medium: Option<&mut Medium>| -> Answer {
            let done = medium.map_or(Err(nix::errno::Errno::EIO), deed);
            Box::new(move |power| {
                let done = if power { done } else { Err(nix::errno::Errno::EIO) };
                tell(reply, done.map_err(errno));
            })
        };
        self.0.handle(Request { what, deed: Box::new(deed) });
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

fn tell_empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn tell_attr(reply: ReplyAttr, done: Result<(u64, Attributes), Errno>) {
    match done {
        Ok((number, it)) => reply.attr(&TTL, &attr(number, it)),
        Err(error) => reply.error(error),
    }
}

fn tell_entry(reply: ReplyEntry, done: Result<(u64, Attributes), Errno>) {
    match done {
        Ok((number, it)) => reply.entry(&TTL, &attr(number, it), Generation(0)),
        Err(error) => reply.error(error),
    }
}

/// Makes a file or a directory.
fn make(
    medium: &mut Medium,
    parent: INodeNo,
    name: &OsStr,
    directory: bool,
    owner: Owner,
) -> Outcome<(u64, Attributes)> {
    let number = medium.image.create(parent.0, name, directory, owner)?;
    medium.named(number, name);
    Ok((number, medium.image.attributes(number)?))
}

impl Filesystem for Requests {
    fn lookup(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.0.look(|image| {
            let number = image.lookup(parent.0, name)?;
            Ok((number, image.attributes(number)?))
        });
        tell_entry(reply, found.map_err(errno));
    }

    fn getattr(
        &self,
        _: &fuser::Request,
        number: INodeNo,
        _: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let found = self.0.look(|image| Ok((number.0, image.attributes(number.0)?)));
        tell_attr(reply, found.map_err(errno));
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
        let deed = move |medium: &mut Medium| {
            if let Some(mode) = mode {
                medium.image.set_mode(number.0, (mode & 0o7777) as u16)?;
            }
            if let Some(size) = size {
                medium.image.set_size(number.0, size)?;
            }
            Ok((number.0, medium.image.attributes(number.0)?))
        };
        self.change(What::Other, reply, deed, tell_attr);
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
        let deed = move |medium: &mut Medium| make(medium, parent, &name, true, owner);
        self.change(What::Other, reply, deed, tell_entry);
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
        let deed = move |medium: &mut Medium| make(medium, parent, &name, false, owner);
        self.change(What::Other, reply, deed, |reply, done| match done {
            Ok((number, it)) => reply.created(
                &TTL,
                &attr(number, it),
                Generation(0),
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE,
            ),
            Err(error) => reply.error(error),
        });
    }

    fn unlink(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        let deed = move |medium: &mut Medium| medium.image.remove(parent.0, &name, false);
        self.change(What::Other, reply, deed, tell_empty);
    }

    fn rmdir(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        let deed = move |medium: &mut Medium| medium.image.remove(parent.0, &name, true);
        self.change(What::Other, reply, deed, tell_empty);
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
        let deed = move |medium: &mut Medium| {
            medium.image.rename((parent.0, &name), (to.0, &as_name))?;
            let number = medium.image.lookup(to.0, &as_name)?;
            medium.named(number, &as_name);
            Ok(())
        };
        self.change(What::Other, reply, deed, tell_empty);
    }

    fn open(&self, _: &fuser::Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nobody but this kernel changes the file: what it has cached stays good.
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
        match self.0.look(|image| image.read(number.0, offset, size as usize)) {
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
        let deed = move |medium: &mut Medium| {
            medium.image.write(number.0, offset, &data)?;
            Ok(data.len() as u32)
        };
        let what = What::Write { file: number.0, offset };
        self.change(what, reply, deed, |reply: ReplyWrite, done| match done {
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
        // Closing a file makes nothing durable.
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
        let what = What::Sync { number: number.0 };
        self.change(what, reply, move |medium| medium.image.sync(number.0), tell_empty);
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
        let listed = self.0.look(|image| {
            let entries = image.entries(number.0)?;
            let kind = |number| Ok(image.attributes(number)?.directory);
            entries
                .into_iter()
                .map(|(name, it)| Ok((name, it, kind(it)?)))
                .collect::<Outcome<Vec<_>>>()
        });
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => return reply.error(errno(error)),
        };
        for ((name, number, directory), next) in listed.into_iter().zip(1..).skip(offset as usize) {
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
