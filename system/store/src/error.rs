//! The errors of a store. Each message tells the operator what is wrong, where, and what to do.

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;

use crate::{LimitError, StoreId};

/// A store cannot be opened, read or written. No error loses data that was durable.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no store, and none was to be created.
    #[error(
        "{}: there is no store here, and none was to be created; check the path or restore the \
         directory", dir.display()
    )]
    Absent {
        /// The directory, which is missing or empty.
        dir: PathBuf,
    },
    /// Another process has the store open.
    #[error(
        "{}: another process has this store open; stop that process, or use a different \
         directory", dir.display()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The path names a file.
    #[error("{}: not a directory; specify the directory of a store", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory is used for something else.
    #[error(
        "{}: this directory does not belong to a store ({found}); specify an empty directory or \
         one that belongs to a store; nothing was changed", dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// The evidence.
        found: String,
    },
    /// The directory belongs to a store whose data file is gone.
    #[error(
        "{}: the data file of store {store} is {state}; nothing was changed", file.display()
    )]
    DataLost {
        /// The data file.
        file: PathBuf,
        /// The store that it belongs to.
        store: StoreId,
        /// `missing` or `empty`.
        state: &'static str,
    },
    /// The data file belongs to a different store than the directory.
    #[error(
        "{}: this file belongs to store {found}, but the directory belongs to store {expected}; \
         restore the right file", file.display()
    )]
    Swapped {
        /// The data file.
        file: PathBuf,
        /// The store that the file names.
        found: StoreId,
        /// The store of the directory.
        expected: StoreId,
    },
    /// The data file is not an LMDB file.
    #[error(
        "{}: not an LMDB file ({why}); restore the store's own file; nothing was changed",
        file.display()
    )]
    NotLmdb {
        /// The data file.
        file: PathBuf,
        /// The evidence.
        why: String,
    },
    /// The data file lacks pages that are in use.
    #[error(
        "{}: the file is truncated: it has {len} bytes, but page {page} is in use and ends at byte \
         {want}; nothing was changed",
        file.display()
    )]
    Truncated {
        /// The data file.
        file: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// A page that is missing.
        page: u64,
        /// The least length that would hold the page, in bytes.
        want: u64,
    },
    /// The data file is damaged: a page, a row or a checksum is wrong.
    #[error(
        "{}: the store is damaged: {what}; nothing was changed", file.display()
    )]
    Damaged {
        /// The data file.
        file: PathBuf,
        /// What is wrong, and where in the file.
        what: String,
    },
    /// The entry of one key is damaged. The store goes on with all others.
    #[error(
        "{}: the entry of key '{}' is damaged: {why}; the next write of the key replaces it",
        file.display(), key.escape_ascii()
    )]
    DamagedEntry {
        /// The data file.
        file: PathBuf,
        /// The key.
        key: Vec<u8>,
        /// What is wrong.
        why: &'static str,
    },
    /// The store was written by another version of this program.
    #[error(
        "{}: the store has format {found}, and this program supports format {expected}; use the \
         version of the program that wrote it", file.display()
    )]
    Format {
        /// The data file.
        file: PathBuf,
        /// The format of the store.
        found: u32,
        /// The format that this program reads.
        expected: u32,
    },
    /// The records of the store belong to another application.
    #[error("{}: this store was written by another application, and cannot be used here", dir.display())]
    ForeignRecords {
        /// The directory.
        dir: PathBuf,
    },
    /// The memory map is full.
    #[error(
        "{}: the store has reached its maximum size of {map_bytes} bytes; durable data is safe; \
         increase map_bytes and restart", dir.display()
    )]
    MapFull {
        /// The directory.
        dir: PathBuf,
        /// The size of the map in bytes.
        map_bytes: u64,
    },
    /// There is no room for a write that stores a value.
    #[error(
        "{}: there is no room for this write; durable data is safe, and deletes go on; delete something, \
         free some space or increase map_bytes", dir.display()
    )]
    NearlyFull {
        /// The directory.
        dir: PathBuf,
    },
    /// The disk is full, or a quota or a limit of file sizes is reached.
    #[error(
        "{}: the disk is full ({doing}: {source}); durable data is safe; free some space and \
         restart", dir.display()
    )]
    DiskFull {
        /// The directory.
        dir: PathBuf,
        /// The operation that failed.
        doing: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// An operation of the operating system failed.
    #[error("{}: {doing}: {source}{}", path.display(), advice(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operation that failed.
        doing: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// An operation of LMDB failed unexpectedly.
    #[error("{}: {doing}: LMDB error: {why}; durable data is safe; restart", dir.display())]
    Lmdb {
        /// The directory.
        dir: PathBuf,
        /// The operation that failed.
        doing: &'static str,
        /// The error of LMDB.
        why: String,
    },
    /// A write has a version that is not above that of the live entry of its key.
    #[error(
        "{}: refused a write of version {write}: the key already has version {current}; the \
         application wrote out of order, or another process writes to the store", dir.display()
    )]
    VersionOrder {
        /// The directory.
        dir: PathBuf,
        /// The version of the write.
        write: String,
        /// The version of the key.
        current: String,
    },
    /// The key or the value is out of bounds.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// An earlier write failed; the store refuses all further work.
    #[error("the store has stopped because a write failed: {0}")]
    Failed(Arc<StoreError>),
    /// The writer thread panicked.
    #[error("{}: the writer thread of the store panicked, which is a bug; restart", dir.display())]
    WriterPanicked {
        /// The directory.
        dir: PathBuf,
    },
}

/// Advice for an error of the operating system, where it is not obvious.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; grant the user of this process read and write access to the directory and its files"
        }
        _ if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => {
            "; the disk is failing or a file size limit is reached; durable data is safe"
        }
        _ => "",
    }
}
