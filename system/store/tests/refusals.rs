//! What a store refuses to open, or fails on, with which message, whoever has written it. A refusal
//! must leave the directory unchanged, and none may crash the process.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use store::{Database, StoreError, StoreOptions};
use tempfile::TempDir;

const PAGE: usize = 4096;
/// Names the directory for a child process, which runs one of these tests.
const CHILD: &str = "STORE_TEST_CHILD";

fn open(dir: &Path, options: StoreOptions) -> Result<Database, StoreError> {
    Database::open(dir, options)
}

fn create() -> StoreOptions {
    StoreOptions { create: true, ..no_wal() }
}

/// Without a WAL, every group is written to the tables.
fn no_wal() -> StoreOptions {
    StoreOptions { wal_bytes: 0, ..StoreOptions::default() }
}

/// Opens the store, which must fail, and checks that the directory is unchanged.
fn refusal(dir: &Path, options: StoreOptions) -> StoreError {
    let before = contents(dir);
    let error = open(dir, options).expect_err("must be refused");
    assert_eq!(contents(dir), before, "a refusal must not change anything");
    let message = error.to_string();
    assert!(message.starts_with(&dir.display().to_string()), "names the place: {message}");
    error
}

/// Every file in a directory except LMDB's own lock file, whose content does not matter.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let Ok(names) = fs::read_dir(dir) else { return BTreeMap::new() };
    names
        .map(|name| name.unwrap().path())
        .filter(|path| !path.ends_with("lock.mdb"))
        .map(|path| (path.clone(), fs::read(path).ok()))
        .collect()
}

fn data(dir: &TempDir) -> PathBuf {
    dir.path().join("data.mdb")
}

#[test]
fn what_a_store_creates_is_for_its_owner_alone() {
    let dir = TempDir::new().unwrap();
    // Missing directories above the store as well.
    let path = dir.path().join("above/store");
    let store = open(&path, StoreOptions { create: true, ..StoreOptions::default() }).unwrap();
    store.put(b"k", b"v").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o700));
    let mut files: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap()).collect();
    files.sort_by_key(fs::DirEntry::file_name);
    let modes: Vec<_> = files.iter().map(|file| mode(&file.path())).collect();
    assert_eq!(files.len(), 5, "{files:?}");
    assert_eq!(modes, [0o600; 5], "{files:?}");
}

#[test]
fn a_missing_or_empty_directory_is_refused_unless_create_is_set() {
    let dir = TempDir::new().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("a/b")] {
        let error = refusal(&path, StoreOptions::default());
        assert!(matches!(error, StoreError::Absent { .. }), "{error}");
        assert!(error.to_string().contains("none was to be created"), "{error}");
    }
    assert!(!dir.path().join("a").exists());
    open(&dir.path().join("a/b"), create()).unwrap();
    open(&dir.path().join("a/b"), StoreOptions::default()).unwrap();
}

#[test]
fn a_file_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "text").unwrap();
    for options in [StoreOptions::default(), create()] {
        let error = refusal(&path, options);
        assert!(matches!(error, StoreError::NotADirectory { .. }), "{error}");
    }
}

#[test]
fn a_foreign_directory_is_left_unchanged() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("letter.txt"), "dear reader").unwrap();
    for options in [StoreOptions::default(), create()] {
        let error = refusal(dir.path(), options);
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("letter.txt"), "{error}");
    }

    // Other databases use a lock file of this name too.
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("LOCK"), "pid 17").unwrap();
    let error = refusal(dir.path(), create());
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
}

#[test]
fn an_lmdb_environment_of_another_program_is_left_unchanged() {
    let dir = TempDir::new().unwrap();
    // SAFETY: the file is this test's own.
    #[allow(unsafe_code)]
    let env = unsafe { heed::EnvOpenOptions::new().map_size(1 << 20).open(dir.path()) }.unwrap();
    let mut txn = env.write_txn().unwrap();
    env.create_databases_and_commit(txn, |create, txn| {
        let table = create.create_database::<heed::types::Str, heed::types::Str>(txn, None)?;
        table.put(txn, "colour", "blue")?;
        Ok::<_, heed::Error>(heed::CommitOrAbort::<_, ()>::Commit(()))
    })
    .unwrap();
    txn = env.write_txn().unwrap();
    txn.abort();
    drop(env);
    for options in [StoreOptions::default(), create()] {
        let error = refusal(dir.path(), options);
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    }
}

#[test]
fn a_data_file_that_is_not_lmdb_is_left_unchanged() {
    for bytes in [&b"short"[..], &[0; 3 * PAGE], "a long text ".repeat(1000).as_bytes()] {
        for locked in [false, true] {
            let dir = TempDir::new().unwrap();
            fs::write(data(&dir), bytes).unwrap();
            if locked {
                fs::write(dir.path().join("LOCK"), "").unwrap();
            }
            for options in [StoreOptions::default(), create()] {
                let error = refusal(dir.path(), options);
                assert!(matches!(error, StoreError::NotLmdb { .. }), "{error}");
            }
        }
    }
}

#[test]
fn an_interrupted_creation_is_repeated() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("LOCK"), "").unwrap();
    fs::create_dir(dir.path().join("creating")).unwrap();
    fs::write(dir.path().join("creating/data.mdb"), "half a pa").unwrap();
    let error = refusal(dir.path(), StoreOptions::default());
    assert!(matches!(error, StoreError::Absent { .. }), "{error}");
    open(dir.path(), create()).unwrap();
    assert!(!dir.path().join("creating").exists());

    // The data file was in place, but the store id was not in the lock file yet.
    let lock = || fs::read_to_string(dir.path().join("LOCK")).unwrap();
    let id = lock();
    assert!(id.trim_end().len() > 16, "'{id}' has an id of 16 digits");
    fs::write(dir.path().join("LOCK"), "").unwrap();
    open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(lock(), id);
}

/// In a child process with a file size limit: puts until it fails, and prints how many puts
/// succeeded and the error.
#[test]
fn child_that_fills_the_disk() {
    let Some(dir) = env::var_os(CHILD) else { return };
    let database = Database::open(Path::new(&dir), create()).unwrap();
    for n in 1.. {
        if let Err(error) = database.put(format!("key{n}").as_bytes(), &[b'v'; 1000]) {
            println!("\nfailed after {}: {error}", n - 1);
            return;
        }
    }
}

#[test]
fn a_full_disk_stops_the_store_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    // The shell's file size limit (in blocks) stands in for a small disk. The write beyond it is
    // short or fails. The signal is ignored, so the process survives to report it.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 400 && exec \"$0\" \"$@\""])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "child_that_fills_the_disk", "--nocapture"])
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    let failed = output.lines().find_map(|line| line.strip_prefix("failed after "));
    let (durable, why) = failed.and_then(|failed| failed.split_once(": ")).expect(&output);
    assert!(why.contains("durable data is safe"), "{why}");
    let durable: usize = durable.parse().unwrap();
    assert!(durable > 20, "only {durable} fit");

    let database = Database::open(dir.path(), StoreOptions::default()).unwrap();
    let found = database.entries().unwrap().map(Result::unwrap).count();
    // The failed put has no effect either: its commit had no meta page.
    assert_eq!(found, durable);
    database.put(b"there is", b"room again").unwrap();
}
