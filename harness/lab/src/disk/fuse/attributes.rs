//! Attributes of the image as the kernel is told of them, and the answers that carry them.

use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry, TimeOrNow,
};

use super::super::image::{Attributes, InodeType, Owner, PAGE_BYTES};

/// How long the kernel may cache attributes: only this kernel changes the disk.
pub(super) const TTL: Duration = Duration::from_secs(3600);

/// The blocks in which attributes count the space of a file.
const BLOCK_BYTES: u64 = 512;

/// Attributes whose change was asked for.
pub(super) struct NewAttributes {
    pub(super) mode: Option<u16>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) accessed: Option<SystemTime>,
    pub(super) modified: Option<SystemTime>,
}

pub(super) fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

pub(super) fn errno(errno: nix::errno::Errno) -> Errno {
    Errno::from_i32(errno as i32)
}

pub(super) fn file_type(kind: InodeType) -> FileType {
    match kind {
        InodeType::File => FileType::RegularFile,
        InodeType::Directory => FileType::Directory,
        InodeType::Symlink => FileType::Symlink,
        InodeType::Fifo => FileType::NamedPipe,
        InodeType::Socket => FileType::Socket,
    }
}

pub(super) fn attr(number: u64, attributes: Attributes) -> FileAttr {
    let Attributes { kind, size, pages, links, owner, times } = attributes;
    let Owner { mode, uid, gid } = owner;
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: pages * (PAGE_BYTES / BLOCK_BYTES),
        atime: times.accessed,
        mtime: times.modified,
        ctime: times.changed,
        crtime: times.changed,
        kind: file_type(kind),
        perm: mode,
        nlink: links,
        uid,
        gid,
        rdev: 0,
        blksize: PAGE_BYTES as u32,
        flags: 0,
    }
}

pub(super) fn owner(request: &fuser::Request, mode: u32, umask: u32) -> Owner {
    let mode = (mode & !umask & 0o7777) as u16;
    Owner { mode, uid: request.uid(), gid: request.gid() }
}

pub(super) fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

pub(super) fn reply_attr(reply: ReplyAttr, result: Result<(u64, Attributes), Errno>) {
    match result {
        Ok((number, attributes)) => reply.attr(&TTL, &attr(number, attributes)),
        Err(error) => reply.error(error),
    }
}

pub(super) fn reply_entry(reply: ReplyEntry, result: Result<(u64, Attributes), Errno>) {
    match result {
        Ok((number, attributes)) => reply.entry(&TTL, &attr(number, attributes), Generation(0)),
        Err(error) => reply.error(error),
    }
}
