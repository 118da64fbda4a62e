//! What can go wrong with a store, in words for the person who has to do something about it: what
//! is wrong, where, and what to do.

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;

use super::LimitError;
use crate::protocol::{StoreId, TxnId};

/// A store that cannot be opened, read or written. None of these loses anything that was durable.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no store yet, and none was to be created.
    #[error(
        "{}: there is no store here; if this node is new, let it create one (--bootstrap), and if \
         it is not, check the path or restore its directory", dir.display()
    )]
    Absent {
        /// The directory, which is missing or empty.
        dir: PathBuf,
    },
    /// Another process has the store open.
    #[error(
        "{}: another process has this store open; stop it first, or give each node a directory of \
         its own", dir.display()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The path is that of a file.
    #[error("{}: this is not a directory; give the path of a store's directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory is used for something else.
    #[error(
        "{}: this directory is not a store's ({found}); give an empty directory or a store's own, \
         nothing here was changed", dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// What tells.
        found: String,
    },
    /// The directory is a store's, and its data are not there.
    #[error(
        "{}: the data file of store {store} is {state}; restore it from a copy, or, if it is lost, \
         remove the directory and let the node begin anew", file.display()
    )]
    DataLost {
        /// The data file.
        file: PathBuf,
        /// The store that it belongs to.
        store: StoreId,
        /// Missing, or empty.
        state: &'static str,
    },
    /// The data file is of another store than the directory.
    #[error(
        "{}: this is the data file of store {found}, but the directory is that of store {expected}; \
         put the right file back", file.display()
    )]
    Swapped {
        /// The data file.
        file: PathBuf,
        /// The store that the file says it belongs to.
        found: StoreId,
        /// The store of the directory.
        expected: StoreId,
    },
    /// The data file is none of LMDB's.
    #[error(
        "{}: this is not an LMDB file ({why}); put the store's own file back, nothing here was \
         changed", file.display()
    )]
    NotLmdb {
        /// The data file.
        file: PathBuf,
        /// What tells.
        why: String,
    },
    /// The data file lacks pages that are in use.
    #[error(
        "{}: the file ends after {len} bytes, but page {page} is in use, which ends at {want}; the \
         file was cut short: restore it from a copy, or remove the directory and let the node \
         begin anew", file.display()
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
        "{}: the store is damaged: {what}; nothing was changed: restore the directory from a copy, \
         or remove it and let the node begin anew", file.display()
    )]
    Damaged {
        /// The data file.
        file: PathBuf,
        /// What is wrong, and where in the file.
        what: String,
    },
    /// The store was written by another version of this program.
    #[error(
        "{}: the store has format {found}, this program reads format {expected}; use the program \
         that wrote it", file.display()
    )]
    Format {
        /// The data file.
        file: PathBuf,
        /// The format of the store.
        found: u32,
        /// The format that this program reads.
        expected: u32,
    },
    /// The store holds what a cluster's node wrote, and was opened as a plain database, or the
    /// other way round.
    #[error("{}: this store belongs to {owner}; it cannot be used as {wanted}", dir.display())]
    Purpose {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        owner: &'static str,
        /// What it was opened as.
        wanted: &'static str,
    },
    /// The memory map is full.
    #[error(
        "{}: the store is full: it may take {map_bytes} bytes; what was durable is safe: start \
         again with a larger map size", dir.display()
    )]
    MapFull {
        /// The directory.
        dir: PathBuf,
        /// The size of the map in bytes.
        map_bytes: u64,
    },
    /// The disk is full, or a quota or a limit of file sizes is reached.
    #[error(
        "{}: the disk is full, {doing}: {source}; what was durable is safe: make room and start \
         again", dir.display()
    )]
    DiskFull {
        /// The directory.
        dir: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The operating system's word.
        source: io::Error,
    },
    /// The operating system refused something.
    #[error("{}: {doing}: {source}{}", path.display(), advice(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The operating system's word.
        source: io::Error,
    },
    /// LMDB refused something that it should not refuse.
    #[error("{}: {doing}: LMDB says: {why}; what was durable is safe: start again", dir.display())]
    Lmdb {
        /// The directory.
        dir: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// LMDB's word.
        why: String,
    },
    /// A write would take a live key back to an earlier version.
    #[error(
        "{}: a write of transaction {txn} came to a key that already has version {version}; \
         refused: the protocol was violated, or another process writes to the store",
        dir.display()
    )]
    VersionOrder {
        /// The directory.
        dir: PathBuf,
        /// The write that came too late.
        txn: TxnId,
        /// The key's version.
        version: TxnId,
    },
    /// The key or the value is out of bounds.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A write failed before, and nothing is done since.
    #[error("the store takes nothing any more, since a write has failed: {0}")]
    Failed(Arc<StoreError>),
    /// The writer thread ended by a fault of the program.
    #[error("{}: the store's writer ended by a fault of this program; start again", dir.display())]
    WriterPanicked {
        /// The directory.
        dir: PathBuf,
    },
}

/// What to do about an error of the operating system, where that is not plain.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; let the user of this process read and write the directory and all files in it"
        }
        _ if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => {
            "; the disk fails, or a file may not grow any more: what was durable is safe"
        }
        _ => "",
    }
}
