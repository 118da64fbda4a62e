//! Copies a directory of the machine onto a disk, so that a program finds there what was prepared for it.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use super::image::{Image, NewInode, Owner, ROOT, Times};

/// Makes a directory with this path on the disk, with everything that the directory `from` contains, all of
/// it durable.
pub(super) fn import(image: &mut Image, path: &Path, from: &Path) -> io::Result<()> {
    let mut at = ROOT;
    for name in path {
        at = match image.lookup(at, name) {
            Ok(found) => found,
            Err(_) => {
                let number =
                    image.create(at, name, NewInode::Directory, owner(&from.metadata()?))?;
                image.times_mut(number).map(|times| *times = Times::default())?;
                number
            }
        };
    }
    copy_entries(image, at, from)?;
    *image = image.snapshot();
    Ok(())
}

fn owner(metadata: &fs::Metadata) -> Owner {
    let mode = (metadata.mode() & 0o7777) as u16;
    Owner { mode, uid: metadata.uid(), gid: metadata.gid() }
}

fn copy_entries(image: &mut Image, parent: u64, from: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(image, parent, &entry.file_name(), &entry.path())?;
    }
    Ok(())
}

fn copy(image: &mut Image, parent: u64, name: &OsStr, from: &Path) -> io::Result<()> {
    let metadata = from.symlink_metadata()?;
    let kind = metadata.file_type();
    let new = if kind.is_dir() {
        NewInode::Directory
    } else if kind.is_symlink() {
        NewInode::Symlink(fs::read_link(from)?.into_os_string())
    } else if kind.is_fifo() {
        NewInode::Fifo
    } else if kind.is_socket() {
        NewInode::Socket
    } else {
        NewInode::File
    };
    let number = image.create(parent, name, new.clone(), owner(&metadata))?;
    match new {
        NewInode::Directory => copy_entries(image, number, from)?,
        NewInode::File => image.write(number, 0, &fs::read(from)?)?,
        NewInode::Symlink(_) | NewInode::Fifo | NewInode::Socket => {}
    }
    let (accessed, modified) = (metadata.accessed()?, metadata.modified()?);
    *image.times_mut(number)? = Times { accessed, modified, changed: modified };
    Ok(())
}
