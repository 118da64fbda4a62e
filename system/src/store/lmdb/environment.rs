//! One LMDB environment and its log in one directory: created whole or not at all, locked, looked
//! through before it is mapped, and opened. Turns everything that can be wrong with it into a
//! [`StoreError`]. Knows the tables and nothing of records, queues or threads.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Seek as _, Write as _},
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

use super::{super::StoreError, StoreOptions, SyncMode, log::Log, pages, rows};
use crate::protocol::{Record, StoreId};

/// Names the program's own format of rows, apart from LMDB's version.
const FORMAT: u32 = 4;
/// The key of the row that says whose the file is: format, store id. It has no checksum: a store of
/// another format need not have one there, and what is wrong with it shows.
const IDENTITY: &[u8] = b"\0store";
/// The key of the row that says which generation of the log the tables have come to.
const APPLIED: &[u8] = b"\0log";
/// The table of the key/value data.
const ENTRIES: &str = "kv";

const LOCK_FILE: &str = "LOCK";
const DATA_FILE: &str = "data.mdb";
const LMDB_LOCK_FILE: &str = "lock.mdb";
const LOG_FILE: &str = "log";
/// A directory in which a new environment is made, before its files are moved into place.
const CREATING: &str = "creating";
/// What the lock file says before the store's id.
const LOCK_WORDS: &str = "two-phase commit store ";

type Env = heed::Env<WithoutTls>;

/// A table of bytes by bytes.
pub(super) type Table = heed::Database<'static, RawBytes, RawBytes>;

/// A key and what is stored under it.
type Row<'t> = (&'t [u8], &'t [u8]);

/// An environment, open and locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Environment {
    env: Env,
    /// The facts that records leave, and the identity. LMDB's unnamed table, so that a commit that
    /// changes no entry writes no page for a table's root.
    pub(super) facts: Table,
    /// The key/value data.
    pub(super) entries: Table,
    /// The store's identity.
    pub(super) id: StoreId,
    dir: PathBuf,
    map_bytes: u64,
    /// Released last.
    _lock: Option<Flock<File>>,
}

impl Environment {
    /// Opens the environment of a directory, or creates it there if that is asked for; and its log,
    /// with the records that the tables do not have.
    pub(super) fn open(
        dir: &Path,
        options: &StoreOptions,
    ) -> Result<(Environment, Log, Vec<Record>), StoreError> {
        let found = Found::look(dir)?;
        if !found.data && !found.lock && !options.create {
            return Err(StoreError::Absent { dir: dir.to_owned() });
        }
        if !found.directory {
            fs::create_dir_all(dir).map_err(io(dir, "cannot create the directory"))?;
        }
        let mut lock = LockFile::open(dir, options.exclusive)?;
        let opened = Environment::open_locked(dir, options, &mut lock);
        if opened.is_err() && !found.lock {
            lock.remove();
        }
        let ((env, facts, entries, id), log, records) = opened?;
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

    fn open_locked(
        dir: &Path,
        options: &StoreOptions,
        lock: &mut LockFile,
    ) -> Result<(Mapped, Log, Vec<Record>), StoreError> {
        let file = dir.join(DATA_FILE);
        let len = match fs::metadata(&file) {
            Ok(data) => Some(data.len()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(io(&file, "cannot look at the data file")(error)),
        };
        match (len, lock.store) {
            (None | Some(0), Some(store)) => {
                let state = if len.is_none() { "missing" } else { "empty" };
                return Err(StoreError::DataLost { file, store, state });
            }
            (None, None) if options.create => create(dir, options)?,
            // What a creation that was cut short has left.
            (None, None) => return Err(StoreError::Absent { dir: dir.to_owned() }),
            // Without the lock its owner may be writing to it.
            _ if options.exclusive => pages::inspect(&file)?,
            _ => {}
        }
        let mapped = map(dir, options, None)?;
        let (env, facts, _, id) = &mapped;
        let id = *id;
        if let Some(expected) = lock.store.filter(|expected| *expected != id) {
            return Err(StoreError::Swapped { file, found: id, expected });
        }
        let applied = {
            let failed = |error| explain(dir, options.map_bytes, "cannot read the records", error);
            let txn = env.read_txn().map_err(failed)?;
            let row = facts.get(&txn, APPLIED).map_err(failed)?.ok_or("it is missing");
            row.and_then(|row| rows::decode_applied(APPLIED, row)).map_err(|why| {
                let what = format!("the row that says how far the log is applied is bad: {why}");
                StoreError::Damaged { file, what }
            })?
        };
        let log = dir.join(LOG_FILE);
        let (log, records) = Log::open(&log, id, applied, options.exclusive, options.syncs)?;
        if lock.store.is_none() {
            lock.sign(dir, id)?;
        }
        Ok((mapped, log, records))
    }

    /// Makes durable what is in the data file, whoever has written it.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.env.force_sync().map_err(self.error("cannot sync"))
    }

    /// Notes that a generation of the log is applied, with all before it.
    pub(super) fn set_applied(
        &self,
        txn: &mut RwTxn<'_>,
        generation: u64,
    ) -> Result<(), StoreError> {
        let mut row = Vec::new();
        rows::encode_applied(APPLIED, generation, &mut row);
        self.facts.put(txn, APPLIED, &row).map_err(self.error("cannot write"))
    }

    /// Begins to read, from the last commit.
    pub(super) fn read(&self) -> Result<RoTxn<'_, WithoutTls>, StoreError> {
        self.env.read_txn().map_err(self.error("cannot begin to read"))
    }

    /// Begins to read, from the last commit, for as long as the reader likes.
    pub(super) fn read_on(&self) -> Result<RoTxn<'static, WithoutTls>, StoreError> {
        self.env.clone().static_read_txn().map_err(self.error("cannot begin to read"))
    }

    /// Begins to write. There is one writer at a time.
    pub(super) fn write(&self) -> Result<RwTxn<'_>, StoreError> {
        self.env.write_txn().map_err(self.error("cannot begin to write"))
    }

    /// The rows of all facts: all of the unnamed table but what is said of the whole, and the named
    /// tables.
    pub(super) fn facts<'t>(
        &self,
        txn: &'t RoTxn<'_>,
    ) -> Result<impl Iterator<Item = heed::Result<Row<'t>>> + use<'t>, StoreError> {
        let rows = self.facts.iter(txn).map_err(self.error("cannot read the records"))?;
        Ok(rows.filter(
            |row| !matches!(row, Ok((key, _)) if [IDENTITY, APPLIED, ENTRIES.as_bytes()].contains(key)),
        ))
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is wrong with a row.
    pub(super) fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { file: self.dir.join(DATA_FILE), what }
    }

    /// Puts an error of LMDB into words.
    pub(super) fn error(&self, doing: &'static str) -> impl Fn(heed::Error) -> StoreError {
        move |error| explain(&self.dir, self.map_bytes, doing, error)
    }
}

/// What lies in a directory.
struct Found {
    directory: bool,
    lock: bool,
    data: bool,
}

impl Found {
    fn look(dir: &Path) -> Result<Found, StoreError> {
        let mut found = Found { directory: true, lock: false, data: false };
        let names = match fs::read_dir(dir) {
            Ok(names) => names,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Found { directory: false, ..found });
            }
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                return Err(StoreError::NotADirectory { path: dir.to_owned() });
            }
            Err(error) => return Err(io(dir, "cannot read the directory")(error)),
        };
        let mut stranger = None;
        for name in names {
            let name = name.map_err(io(dir, "cannot read the directory"))?.file_name();
            match name.to_str() {
                Some(LOCK_FILE) => found.lock = true,
                Some(DATA_FILE) => found.data = true,
                Some(LMDB_LOCK_FILE | LOG_FILE | CREATING) => {}
                _ => stranger = Some(name),
            }
        }
        match stranger {
            // A file beside a store's own, such as an operator's note, does no harm.
            Some(name) if !found.data => Err(StoreError::Foreign {
                dir: dir.to_owned(),
                found: format!("it has no {DATA_FILE}, but {}", name.display()),
            }),
            _ => Ok(found),
        }
    }
}

/// The file that is locked while the store is open, and that tells, once the store is created,
/// which one it is.
struct LockFile {
    path: PathBuf,
    store: Option<StoreId>,
    /// Nothing when the lock is not to be held.
    held: Option<Flock<File>>,
}

impl LockFile {
    fn open(dir: &Path, exclusive: bool) -> Result<LockFile, StoreError> {
        let path = dir.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io(&path, "cannot open the lock file"))?;
        let mut words = String::new();
        file.read_to_string(&mut words).map_err(io(&path, "cannot read the lock file"))?;
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

    /// Writes down which store this is: from now on a missing data file is a loss.
    fn sign(&mut self, dir: &Path, store: StoreId) -> Result<(), StoreError> {
        // Whoever does not hold the lock writes nothing.
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

    /// Takes the file away again that a failed opening has made.
    fn remove(&self) {
        // The error that is being reported matters more than one here.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a new environment beside its place, and moves it there when it is whole and durable, the
/// data file last. So a data file that is in its place is never a half-made one, and has its log.
fn create(dir: &Path, options: &StoreOptions) -> Result<(), StoreError> {
    let making = dir.join(CREATING);
    match fs::remove_dir_all(&making) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(io(&making, "cannot remove what an earlier start has left")(error));
        }
        _ => {}
    }
    fs::create_dir(&making).map_err(io(&making, "cannot create the directory"))?;
    let id = StoreId(rand::random_range(1..=u64::MAX));
    drop(map(&making, options, Some(id))?);
    Log::create(&making.join(LOG_FILE), id, options.wal_bytes)?;
    for name in [LOG_FILE, DATA_FILE] {
        let (from, to) = (making.join(name), dir.join(name));
        fs::rename(&from, &to).map_err(io(&to, "cannot move the new file here"))?;
    }
    fs::remove_dir_all(&making).map_err(io(&making, "cannot remove"))?;
    sync_directory(dir)
        .and_then(|()| match dir.canonicalize()?.parent() {
            Some(parent) => sync_directory(parent),
            None => Ok(()),
        })
        .map_err(io(dir, "cannot make the new directory durable"))
}

/// An environment that is mapped, its tables, and its identity.
type Mapped = (Env, Table, Table, StoreId);

/// Maps the environment in `dir`; makes it anew when given its identity.
fn map(dir: &Path, options: &StoreOptions, new: Option<StoreId>) -> Result<Mapped, StoreError> {
    let doing = "cannot open the environment";
    let explained = |error| explain(dir, options.map_bytes, doing, error);
    let mut open = EnvOpenOptions::new().read_txn_without_tls();
    open.map_size(whole_pages(options.map_bytes)).max_dbs(1).max_readers(READERS_MAX);
    if let Some(flag) = match options.syncs {
        SyncMode::All => None,
        SyncMode::NoMeta => Some(EnvFlags::NO_META_SYNC),
        SyncMode::None => Some(EnvFlags::NO_SYNC),
    } {
        // SAFETY: these flags are unsafe for what a loss of power may leave in the file. That is
        // what they are asked for here, and what is left is looked through before it is mapped.
        #[allow(unsafe_code)]
        unsafe {
            open.flags(flag)
        };
    }
    // SAFETY: a memory map may not be changed behind its reader's back. The file is the store's
    // own: the lock in its directory, held for as long as the map, keeps every other process of
    // this program out (or LMDB's own lock file synchronises with it, when the rule
    // `exclusive-store` is broken on purpose). No other flag of LMDB is set: no NOLOCK, no
    // WRITEMAP.
    #[allow(unsafe_code)]
    let env = unsafe { open.open(dir) }.map_err(explained)?;

    if let Some(id) = new {
        let (facts, entries) = env
            .create_databases_and_commit(env.write_txn().map_err(explained)?, |create, txn| {
                let facts = create.create_database::<RawBytes, RawBytes>(txn, None)?;
                let entries = create.create_database::<RawBytes, RawBytes>(txn, Some(ENTRIES))?;
                let mut identity = FORMAT.to_be_bytes().to_vec();
                identity.extend_from_slice(&id.0.to_be_bytes());
                facts.put(txn, IDENTITY, &identity)?;
                let mut applied = Vec::new();
                rows::encode_applied(APPLIED, 0, &mut applied);
                facts.put(txn, APPLIED, &applied)?;
                Ok(CommitOrAbort::<_, ()>::Commit((facts, entries)))
            })
            .map_err(explained)?
            .unwrap_commit();
        return Ok((env, facts, entries, id));
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
        found: format!("its {DATA_FILE} is an LMDB environment of another program"),
    };
    let identity = identity.ok_or_else(foreign)?;
    let (format, id) = identity.split_first_chunk().ok_or_else(foreign)?;
    match u32::from_be_bytes(*format) {
        FORMAT => {}
        found => return Err(StoreError::Format { file, found, expected: FORMAT }),
    }
    let id = id.try_into().map(u64::from_be_bytes).map(StoreId).map_err(|_| foreign())?;
    let (facts, entries) = tables.ok_or_else(|| StoreError::Damaged {
        file,
        what: format!("the table '{ENTRIES}' is missing"),
    })?;
    Ok((env, facts, entries, id))
}

/// The most threads that read at the same time. LMDB's own default is few for a library.
const READERS_MAX: u32 = 1024;

/// The bytes of the identity, carried out of the transaction that reads them.
struct Identity(Option<Vec<u8>>);

impl heed::OnCommit for Identity {
    type Committed = Identity;

    fn on_commit(self, _: &heed::CommitToken) -> Identity {
        self
    }
}

/// The next multiple of any page size that machines have.
fn whole_pages(bytes: u64) -> usize {
    const LARGEST_PAGE: usize = 1 << 16;
    usize::try_from(bytes).unwrap_or(usize::MAX - LARGEST_PAGE).next_multiple_of(LARGEST_PAGE)
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Puts an error of the operating system into words.
pub(super) fn io(path: &Path, doing: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            StoreError::DiskFull { dir: path.to_owned(), doing, source }
        }
        _ => StoreError::Io { path: path.to_owned(), doing, source },
    }
}

/// Puts an error of LMDB into words.
fn explain(dir: &Path, map_bytes: u64, doing: &'static str, error: heed::Error) -> StoreError {
    let dir = dir.to_owned();
    match error {
        heed::Error::Io(source) => {
            // LMDB reports a write that was cut short, as on a full disk, as EIO.
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

/// Whether the disk has next to no room.
fn is_full(dir: &Path) -> bool {
    const LITTLE: u64 = 1 << 20;
    nix::sys::statvfs::statvfs(dir)
        .is_ok_and(|disk| disk.blocks_available().saturating_mul(disk.fragment_size()) < LITTLE)
}
