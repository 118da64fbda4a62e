//! An LMDB environment and its write-ahead log in a directory: creation, which is atomic; locking;
//! verification before the file is mapped; and opening. Maps every failure to a [`StoreError`].
//! Knows the tables, but not records, queues or threads.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use heed::{
    CommitOrAbort, EnvFlags, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls,
    types::Bytes as RawBytes,
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::{
    Rule, Schema, StoreError, StoreId, StoreOptions, SyncMode, codec, verify,
    wal::{self, Anchor, Wal, WalOptions, legacy},
};

/// The version of the row format, independent of LMDB's version.
const FORMAT: u32 = 5;
/// The format before, which is upgraded: one log file, whose frames have no salt.
const FORMAT_ONE_LOG: u32 = 4;
/// The key of the row that identifies the store: format and store id. It has no checksum, because a
/// store of another format need not have one there, and damage to it shows in the values.
const IDENTITY: &[u8] = b"\0store";
/// The key of the row with the anchor of the WAL.
const ANCHOR: &[u8] = b"\0log";
/// The table of the key/value entries.
const ENTRIES: &str = "kv";

const LOCK_FILE: &str = "LOCK";
const DATA_FILE: &str = "data.mdb";
const LMDB_LOCK_FILE: &str = "lock.mdb";
/// The directory in which a new environment is created before its files are moved into place.
const CREATING: &str = "creating";
/// The text of the lock file before the store id.
const LOCK_WORDS: &str = "two-phase commit store ";

type Env = heed::Env<WithoutTls>;

/// A table that maps bytes to bytes.
pub(crate) type Table = AnyTable<'static>;
type AnyTable<'e> = heed::Database<'e, RawBytes, RawBytes>;

/// A key and its value.
type Row<'t> = (&'t [u8], &'t [u8]);

/// An environment, open and locked while this lives.
#[derive(Debug)]
pub(crate) struct Environment {
    env: Env,
    /// The facts and the identity. They are in LMDB's unnamed table, so that a commit that changes
    /// no entry does not write a page for the root of a named table.
    pub(crate) facts: Table,
    /// The key/value data.
    pub(crate) entries: Table,
    /// The store's identity.
    pub(crate) id: StoreId,
    dir: PathBuf,
    map_bytes: u64,
    /// Fields drop in order: the lock is released last.
    _lock: Option<Flock<File>>,
}

impl Environment {
    /// Opens the environment of a directory and its WAL, or creates them if the options say so.
    /// Returns the records in the WAL that the tables do not contain.
    pub(crate) fn open<S: Schema>(
        dir: &Path,
        options: &StoreOptions,
    ) -> Result<(Environment, Log, Vec<S::Record>), StoreError> {
        let contents = DirContents::scan(dir)?;
        if !contents.data && !contents.lock && !options.create {
            return Err(StoreError::Absent { dir: dir.to_owned() });
        }
        if !contents.directory {
            private_directory()
                .recursive(true)
                .create(dir)
                .map_err(io(dir, "cannot create the directory"))?;
        }
        let mut lock = LockFile::open(dir, options.exclusive)?;
        let opened = Environment::open_locked::<S>(dir, options, &mut lock);
        if opened.is_err() && !contents.lock {
            lock.remove();
        }
        let (Mapped { env, facts, entries, id, .. }, log, records) = opened?;
        let environment = Environment {
            env,
            facts,
            entries,
            id,
            dir: dir.to_owned(),
            map_bytes: options.map_bytes,
            _lock: lock.held,
        };
        Ok((environment, log, records))
    }

    fn open_locked<S: Schema>(
        dir: &Path,
        options: &StoreOptions,
        lock: &mut LockFile,
    ) -> Result<(Mapped, Log, Vec<S::Record>), StoreError> {
        let file = dir.join(DATA_FILE);
        let len = match fs::metadata(&file) {
            Ok(data) => Some(data.len()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(io(&file, "cannot inspect the data file")(error)),
        };
        match (len, lock.store) {
            (None | Some(0), Some(store)) => {
                let state = if len.is_none() { "missing" } else { "empty" };
                return Err(StoreError::DataLost { file, store, state });
            }
            (None, None) if options.create => create(dir, options)?,
            // An interrupted creation left the lock file.
            (None, None) => return Err(StoreError::Absent { dir: dir.to_owned() }),
            // Without the lock another process may be writing to the file, so it cannot be
            // verified.
            _ if options.exclusive => verify::verify(&file)?,
            _ => {}
        }
        let mapped = map(dir, options, None)?;
        let id = mapped.id;
        if let Some(expected) = lock.store.filter(|expected| *expected != id) {
            return Err(StoreError::Swapped { file, found: id, expected });
        }
        let (log, records) = open_log::<S>(dir, options, &mapped)?;
        if lock.store.is_none() {
            lock.write_store_id(dir, id)?;
        }
        Ok((mapped, log, records))
    }

    /// Makes the data file durable, including what an earlier process wrote. The meta pages are written once
    /// more before: if the sync of one has failed, it can be read, but counts as clean. Other pages of a
    /// commit that has failed are not in use. There must be no write transaction.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let path = self.dir.join(DATA_FILE);
        let meta_bytes = {
            let txn = self.read()?;
            let stat = self.facts.stat(&txn).map_err(self.error("cannot inspect"))?;
            verify::META_PAGES as usize * stat.page_size as usize
        };
        let rewritten = File::options().read(true).write(true).open(&path).and_then(|file| {
            let mut meta = vec![0; meta_bytes];
            file.read_exact_at(&mut meta, 0)?;
            file.write_all_at(&meta, 0)
        });
        rewritten.map_err(io(&path, "cannot write the meta pages"))?;
        self.env.force_sync().map_err(self.error("cannot sync"))
    }

    /// Records that the tables contain everything up to the generation of an anchor.
    pub(crate) fn set_anchor(
        &self,
        txn: &mut RwTxn<'_>,
        anchor: &Anchor,
    ) -> Result<(), StoreError> {
        put_anchor(self.facts, txn, anchor).map_err(self.error("cannot write"))
    }

    /// Records that the store has the current format.
    pub(crate) fn set_format(&self, txn: &mut RwTxn<'_>) -> Result<(), StoreError> {
        put_identity(self.facts, txn, self.id).map_err(self.error("cannot write"))
    }

    /// Begins to read, from the last commit.
    pub(crate) fn read(&self) -> Result<RoTxn<'_, WithoutTls>, StoreError> {
        self.env.read_txn().map_err(self.error("cannot start a read transaction"))
    }

    /// Starts a read transaction on the last commit with no borrow of the environment.
    pub(crate) fn read_static(&self) -> Result<RoTxn<'static, WithoutTls>, StoreError> {
        self.env.clone().static_read_txn().map_err(self.error("cannot start a read transaction"))
    }

    /// Starts a write transaction. LMDB allows one at a time.
    pub(crate) fn write(&self) -> Result<RwTxn<'_>, StoreError> {
        self.env.write_txn().map_err(self.error("cannot start a write transaction"))
    }

    /// The rows of all facts: the unnamed table without the metadata rows and the named tables.
    pub(crate) fn facts<'t>(
        &self,
        txn: &'t RoTxn<'_>,
    ) -> Result<impl Iterator<Item = heed::Result<Row<'t>>> + use<'t>, StoreError> {
        let rows = self.facts.iter(txn).map_err(self.error("cannot read the records"))?;
        Ok(rows.filter(
            |row| !matches!(row, Ok((key, _)) if [IDENTITY, ANCHOR, ENTRIES.as_bytes()].contains(key)),
        ))
    }

    /// The size of the entries, in bytes.
    pub(crate) fn entry_bytes(&self) -> Result<u64, StoreError> {
        let txn = self.read()?;
        let stat = self.entries.stat(&txn).map_err(self.error("cannot inspect"))?;
        let pages = stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
        Ok((pages as u64).saturating_mul(stat.page_size.into()))
    }

    /// The size of all tables, and of the file as far as it was ever allocated, in bytes.
    pub(crate) fn sizes(&self) -> Result<(u64, u64), StoreError> {
        let txn = self.read()?;
        let stat = self.facts.stat(&txn).map_err(self.error("cannot inspect"))?;
        let pages = stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
        let page_bytes = u64::from(stat.page_size);
        let used = (pages as u64 + verify::META_PAGES) * page_bytes + self.entry_bytes()?;
        Ok((used, (self.env.info().last_page_number as u64 + 1) * page_bytes))
    }

    /// The largest size of the data file, in bytes.
    pub(crate) fn map_bytes(&self) -> u64 {
        self.map_bytes
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The error for records of another schema.
    pub(crate) fn foreign_records(&self) -> StoreError {
        StoreError::ForeignRecords { dir: self.dir.clone() }
    }

    /// The error for a write with a version that does not increase.
    pub(crate) fn version_order(
        &self,
        write: &impl ToString,
        current: &impl ToString,
    ) -> StoreError {
        let (write, current) = (write.to_string(), current.to_string());
        StoreError::VersionOrder { dir: self.dir.clone(), write, current }
    }

    /// The error for a damaged row.
    pub(crate) fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { file: self.dir.join(DATA_FILE), what }
    }

    /// The error for a damaged entry.
    pub(crate) fn damaged_entry(&self, key: &[u8], why: &'static str) -> StoreError {
        let (file, key) = (self.dir.join(DATA_FILE), key.to_vec());
        StoreError::DamagedEntry { file, key, why }
    }

    /// Puts an error of LMDB into words.
    pub(crate) fn error(&self, doing: &'static str) -> impl Fn(heed::Error) -> StoreError {
        move |error| store_error(&self.dir, self.map_bytes, doing, error)
    }
}

/// The files found in a directory.
struct DirContents {
    directory: bool,
    lock: bool,
    data: bool,
}

impl DirContents {
    fn scan(dir: &Path) -> Result<DirContents, StoreError> {
        let mut contents = DirContents { directory: true, lock: false, data: false };
        let names = match fs::read_dir(dir) {
            Ok(names) => names,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(DirContents { directory: false, ..contents });
            }
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                return Err(StoreError::NotADirectory { path: dir.to_owned() });
            }
            Err(error) => return Err(io(dir, "cannot read the directory")(error)),
        };
        let mut foreign = None;
        for name in names {
            let name = name.map_err(io(dir, "cannot read the directory"))?.file_name();
            match name.to_str() {
                Some(LOCK_FILE) => contents.lock = true,
                Some(DATA_FILE) => contents.data = true,
                Some(LMDB_LOCK_FILE | legacy::LOG_FILE | CREATING) => {}
                Some(name) if wal::SEGMENT_FILES.contains(&name) => {}
                _ => foreign = Some(name),
            }
        }
        match foreign {
            // Unknown files beside a store's data file, such as an operator's note, are tolerated.
            Some(name) if !contents.data => Err(StoreError::Foreign {
                dir: dir.to_owned(),
                found: format!("it contains {} but no {DATA_FILE}", name.display()),
            }),
            _ => Ok(contents),
        }
    }
}

/// The lock file. It is locked while the store is open. Once the store is created, it holds the
/// store id.
struct LockFile {
    path: PathBuf,
    store: Option<StoreId>,
    /// None if the store was opened without the lock.
    held: Option<Flock<File>>,
}

impl LockFile {
    fn open(dir: &Path, exclusive: bool) -> Result<LockFile, StoreError> {
        let path = dir.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .mode(PRIVATE_FILE)
            .truncate(false)
            .open(&path)
            .map_err(io(&path, "cannot open the lock file"))?;
        let mut words = Vec::new();
        file.read_to_end(&mut words).map_err(io(&path, "cannot read the lock file"))?;
        // Flipped bits need not leave text.
        let words = String::from_utf8_lossy(&words);
        let store = match words.trim_end().strip_prefix(LOCK_WORDS) {
            Some(id) => id.parse().ok(),
            None => None,
        };
        if store.is_none() && !words.is_empty() {
            let found = format!("its {LOCK_FILE} file does not name a store");
            return Err(StoreError::Foreign { dir: dir.to_owned(), found });
        }
        let held = if exclusive {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(held) => Some(held),
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(StoreError::Locked { dir: dir.to_owned() });
                }
                Err((_, errno)) => return Err(io(&path, "cannot lock")(errno.into())),
            }
        } else {
            None
        };
        Ok(LockFile { path, store, held })
    }

    /// Writes the store id to the lock file. From now on a missing data file means data loss.
    fn write_store_id(&mut self, dir: &Path, store: StoreId) -> Result<(), StoreError> {
        // Without the lock nothing is written.
        let Some(file) = &mut self.held else { return Ok(()) };
        file.rewind()
            .and_then(|()| file.set_len(0))
            .and_then(|()| writeln!(file, "{LOCK_WORDS}{store}"))
            .and_then(|()| file.sync_all())
            .and_then(|()| sync_directory(dir))
            .map_err(io(&self.path, "cannot write the lock file"))?;
        self.store = Some(store);
        Ok(())
    }

    /// Removes the lock file that a failed open has created.
    fn remove(&self) {
        // The error that is being reported is more important than one here.
        let _ = fs::remove_file(&self.path);
    }
}

/// The permissions of the files of a store: they hold its data, so they are for its owner alone. LMDB's have the
/// same, set by heed.
pub(crate) const PRIVATE_FILE: u32 = 0o600;

/// Creates directories for their owner alone.
fn private_directory() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// Creates a new environment in a subdirectory, and moves it into place once it is complete and
/// durable, the data file last. So a data file that is in place is complete and has its WAL.
fn create(dir: &Path, options: &StoreOptions) -> Result<(), StoreError> {
    let temporary = dir.join(CREATING);
    match fs::remove_dir_all(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(io(&temporary, "cannot remove the remains of an interrupted creation")(
                error,
            ));
        }
        _ => {}
    }
    let created = private_directory().create(&temporary);
    created.map_err(io(&temporary, "cannot create the directory"))?;
    let id = StoreId(rand::random_range(1..=u64::MAX));
    drop(map(&temporary, options, Some(id))?);
    wal::create(&temporary, id, options.wal_bytes)?;
    for name in wal::SEGMENT_FILES.into_iter().chain([DATA_FILE]) {
        let (from, to) = (temporary.join(name), dir.join(name));
        fs::rename(&from, &to).map_err(io(&to, "cannot move the new file into place"))?;
    }
    fs::remove_dir_all(&temporary).map_err(io(&temporary, "cannot remove"))?;
    sync_directory(dir)
        .and_then(|()| match dir.canonicalize()?.parent() {
            Some(parent) => sync_directory(parent),
            None => Ok(()),
        })
        .map_err(io(dir, "cannot sync the new directory"))
}

/// A mapped environment: its two tables, and what its identity says.
struct Mapped {
    env: Env,
    facts: Table,
    entries: Table,
    id: StoreId,
    format: u32,
}

/// The log of a store.
pub(crate) enum Log {
    /// The write-ahead log.
    Current(Box<Wal>),
    /// The log of format 4, of which the tables contain everything up to a generation.
    Old(u64),
}

/// Opens the log of a store and reads the records that the tables do not contain.
fn open_log<S: Schema>(
    dir: &Path,
    options: &StoreOptions,
    mapped: &Mapped,
) -> Result<(Log, Vec<S::Record>), StoreError> {
    let Mapped { env, facts, id, format, .. } = mapped;
    let failed = |error| store_error(dir, options.map_bytes, "cannot read the records", error);
    let txn = env.read_txn().map_err(failed)?;
    let row = facts.get(&txn, ANCHOR).map_err(failed)?.ok_or("missing");
    let damaged = |why| {
        let what = format!("the row that joins the tables to the WAL is invalid: {why}");
        StoreError::Damaged { file: dir.join(DATA_FILE), what }
    };
    if *format == FORMAT_ONE_LOG {
        let applied = row.and_then(|row| codec::decode_generation(ANCHOR, row)).map_err(damaged)?;
        return Ok((Log::Old(applied), legacy::read::<S>(dir, *id, applied)?));
    }
    let anchor = row.and_then(|row| codec::decode_anchor(ANCHOR, row)).map_err(damaged)?;
    let StoreOptions { exclusive, sync_mode, rules, .. } = *options;
    let (wal, records) =
        Wal::open::<S>(dir, *id, anchor, WalOptions { append: exclusive, sync_mode, rules })?;
    Ok((Log::Current(Box::new(wal)), records))
}

fn put_anchor(facts: AnyTable<'_>, txn: &mut RwTxn<'_>, anchor: &Anchor) -> heed::Result<()> {
    let mut row = Vec::new();
    codec::encode_anchor(ANCHOR, anchor, &mut row);
    facts.put(txn, ANCHOR, &row)
}

fn put_identity(facts: AnyTable<'_>, txn: &mut RwTxn<'_>, id: StoreId) -> heed::Result<()> {
    let mut identity = FORMAT.to_be_bytes().to_vec();
    identity.extend_from_slice(&id.0.to_be_bytes());
    facts.put(txn, IDENTITY, &identity)
}

/// Maps the environment in `dir`. Creates it if `new` gives its id.
fn map(dir: &Path, options: &StoreOptions, new: Option<StoreId>) -> Result<Mapped, StoreError> {
    let doing = "cannot open the environment";
    let explained = |error| store_error(dir, options.map_bytes, doing, error);
    let mut open = EnvOpenOptions::new().read_txn_without_tls();
    open.map_size(whole_pages(options.map_bytes)).max_dbs(1).max_readers(READERS_MAX);
    if let Some(flag) = match options.sync_mode {
        SyncMode::All if !options.rules.keep(Rule::ReuseAfterSync) => Some(EnvFlags::NO_META_SYNC),
        SyncMode::All => None,
        SyncMode::NoMeta => Some(EnvFlags::NO_META_SYNC),
        SyncMode::None => Some(EnvFlags::NO_SYNC),
    } {
        // SAFETY: these flags are unsafe because of what a loss of power may leave in the file.
        // That is what a test asks for here, and the file is verified before it is mapped again.
        #[allow(unsafe_code)]
        unsafe {
            open.flags(flag)
        };
    }
    // SAFETY: a mapped file must not be modified by others. The file belongs to the store. The lock
    // in its directory, held as long as the map, keeps every other process of this program out (or
    // LMDB's own lock file synchronises with it, if it is opened
    // without the lock). No other flag of LMDB is set: no NOLOCK, no WRITEMAP.
    #[allow(unsafe_code)]
    let env = unsafe { open.open(dir) }.map_err(explained)?;

    if let Some(id) = new {
        let (facts, entries) = env
            .create_databases_and_commit(env.write_txn().map_err(explained)?, |create, txn| {
                let facts = create.create_database::<RawBytes, RawBytes>(txn, None)?;
                let entries = create.create_database::<RawBytes, RawBytes>(txn, Some(ENTRIES))?;
                put_identity(facts, txn, id)?;
                put_anchor(facts, txn, &Anchor::new(0))?;
                Ok(CommitOrAbort::<_, ()>::Commit((facts, entries)))
            })
            .map_err(explained)?
            .unwrap_commit();
        return Ok(Mapped { env, facts, entries, id, format: FORMAT });
    }

    let file = dir.join(DATA_FILE);
    let tables = env
        .open_databases_and_commit(env.read_txn().map_err(explained)?, |open, txn| {
            let options = || open.database_options().types::<RawBytes, RawBytes>();
            let facts = options().open(txn)?;
            let identity = match &facts {
                Some(facts) => facts.get(txn, IDENTITY)?.map(<[u8]>::to_vec),
                None => None,
            };
            let entries = match &identity {
                Some(_) => options().name(ENTRIES).open(txn)?,
                None => None,
            };
            Ok(CommitOrAbort::<_, ()>::Commit((facts.zip(entries), Identity(identity))))
        })
        .map_err(explained)?
        .unwrap_commit();
    let (tables, Identity(identity)) = tables;
    let foreign = || StoreError::Foreign {
        dir: dir.to_owned(),
        found: format!("its {DATA_FILE} belongs to another program"),
    };
    let identity = identity.ok_or_else(foreign)?;
    let (format, id) = identity.split_first_chunk().ok_or_else(foreign)?;
    let format = u32::from_be_bytes(*format);
    // Only the owner of the directory's lock may upgrade a store.
    if format != FORMAT && !(format == FORMAT_ONE_LOG && options.exclusive) {
        return Err(StoreError::Format { file, found: format, expected: FORMAT });
    }
    let id = id.try_into().map(u64::from_be_bytes).map(StoreId).map_err(|_| foreign())?;
    let (facts, entries) = tables.ok_or_else(|| StoreError::Damaged {
        file,
        what: format!("the table '{ENTRIES}' is missing"),
    })?;
    Ok(Mapped { env, facts, entries, id, format })
}

/// The maximum number of concurrent readers. LMDB's default is low for a library.
const READERS_MAX: u32 = 1024;

/// The bytes of the identity row, carried out of the transaction that reads them.
struct Identity(Option<Vec<u8>>);

impl heed::OnCommit for Identity {
    type Committed = Identity;

    fn on_commit(self, _: &heed::CommitToken) -> Identity {
        self
    }
}

/// Rounds up to a multiple of every page size in use.
fn whole_pages(bytes: u64) -> usize {
    const LARGEST_PAGE: usize = 1 << 16;
    usize::try_from(bytes).unwrap_or(usize::MAX - LARGEST_PAGE).next_multiple_of(LARGEST_PAGE)
}

/// Makes the names of the files in a directory durable.
pub(crate) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Maps an error of the operating system.
pub(crate) fn io(path: &Path, doing: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            StoreError::DiskFull { dir: path.to_owned(), doing, source }
        }
        _ => StoreError::Io { path: path.to_owned(), doing, source },
    }
}

/// Puts an error of LMDB into words.
fn store_error(dir: &Path, map_bytes: u64, doing: &'static str, error: heed::Error) -> StoreError {
    let dir = dir.to_owned();
    match error {
        heed::Error::Io(source) => {
            // LMDB reports a short write, as on a full disk, as EIO.
            let cut_short = source.raw_os_error() == Some(Errno::EIO as i32) && is_full(&dir);
            if cut_short {
                StoreError::DiskFull { dir, doing, source: Errno::ENOSPC.into() }
            } else {
                io(&dir, doing)(source)
            }
        }
        heed::Error::Mdb(MdbError::MapFull) => StoreError::MapFull { dir, map_bytes },
        heed::Error::Mdb(
            why @ (MdbError::Corrupted
            | MdbError::PageNotFound
            | MdbError::Invalid
            | MdbError::VersionMismatch),
        ) => StoreError::Damaged { file: dir.join(DATA_FILE), what: format!("{doing}: {why}") },
        heed::Error::EnvAlreadyOpened => StoreError::Locked { dir },
        other => StoreError::Lmdb { dir, doing, why: other.to_string() },
    }
}

/// Whether the disk is almost full.
fn is_full(dir: &Path) -> bool {
    const LITTLE: u64 = 1 << 20;
    nix::sys::statvfs::statvfs(dir)
        .is_ok_and(|disk| disk.blocks_available().saturating_mul(disk.fragment_size()) < LITTLE)
}
