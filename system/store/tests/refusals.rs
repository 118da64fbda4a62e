//! What a store refuses to open, or fails on, with which message, whoever has written it. A refusal
//! must leave the directory unchanged, and none may crash the process.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use store::{Database, Rule, Rules, StoreError, StoreOptions};
use tempfile::TempDir;

const PAGE: usize = 4096;
/// Names the directory for a child process, which runs one of these tests.
const CHILD: &str = "STORE_TEST_CHILD";
/// Names the rule that it breaks.
const BROKEN: &str = "STORE_TEST_BROKEN";

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

    // Other databases use a lock file of this name too, and flipped bits need not leave text.
    for words in [&b"pid 17"[..], b"two-phase \xe3ommit store 0123456789abcdef\n"] {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("LOCK"), words).unwrap();
        let error = refusal(dir.path(), create());
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    }
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

fn numbered(n: u32) -> Vec<u8> {
    format!("key{n}").into_bytes()
}

/// Puts until that fails, deletes everything, and puts again. Prints how far each went.
fn fill(dir: &Path, options: StoreOptions) {
    let database = Database::open(dir, options).unwrap();
    let put = |n| database.put(&numbered(n), &[b'v'; 1000]);
    let (durable, error) =
        (0..).find_map(|n| put(n).err().map(|error| (n, error))).expect("it fails");
    println!("\nfailed after {durable}: {error}");
    let deleted = (0..durable).take_while(|n| database.del(&numbered(*n)).is_ok()).count();
    println!("deleted {deleted}, put again {}", put(0).is_ok());
}

/// In a child process with a file size limit.
#[test]
fn child_that_fills_the_disk() {
    let Some(dir) = env::var_os(CHILD) else { return };
    let rules = match env::var(BROKEN) {
        Ok(rule) => Rules::ALL.without(rule.parse().unwrap()),
        Err(_) => Rules::ALL,
    };
    fill(Path::new(&dir), StoreOptions { rules, ..create() });
}

/// Fills a small disk in a child process. Returns its output: the number of puts that were durable and why the
/// next one failed, and what came after.
fn filled(dir: &TempDir, broken: Option<Rule>) -> (usize, String, String) {
    // The shell's file size limit (in blocks) stands in for a small disk. The write beyond it is
    // short or fails. The signal is ignored, so the process survives to report it.
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 400 && exec \"$0\" \"$@\""])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "child_that_fills_the_disk", "--nocapture"])
        .env(CHILD, dir.path());
    if let Some(rule) = broken {
        command.env(BROKEN, rule.name());
    }
    let output = command.output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    let failed = output.lines().find_map(|line| line.strip_prefix("failed after "));
    let (durable, why) = failed.and_then(|failed| failed.split_once(": ")).expect(&output);
    let after = output.lines().find(|line| line.starts_with("deleted ")).expect(&output);
    (durable.parse().unwrap(), why.to_owned(), after.to_owned())
}

#[test]
fn a_full_disk_refuses_values_and_goes_on() {
    let dir = TempDir::new().unwrap();
    let (durable, why, after) = filled(&dir, None);
    assert!(
        why.contains("no room for this write; durable data is safe, and deletes go on"),
        "{why}"
    );
    assert!(durable > 20, "only {durable} fit");
    assert_eq!(after, format!("deleted {durable}, put again true"));
    let database = Database::open(dir.path(), StoreOptions::default()).unwrap();
    let found = database.entries().unwrap().map(|entry| entry.unwrap().0.to_vec());
    assert_eq!(found.collect::<Vec<_>>(), [numbered(0)]);
}

#[test]
fn a_store_without_a_reserve_ends_when_the_disk_is_full_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let (durable, why, after) = filled(&dir, Some(Rule::YesReservesSpace));
    assert!(why.contains("durable data is safe"), "{why}");
    assert!(durable > 20, "only {durable} fit");
    assert_eq!(after, "deleted 0, put again false");

    let database = Database::open(dir.path(), StoreOptions::default()).unwrap();
    let found = database.entries().unwrap().map(Result::unwrap).count();
    // The failed put has no effect either: its commit had no meta page.
    assert_eq!(found, durable);
    database.put(b"there is", b"room again").unwrap();
}

#[test]
fn a_full_map_refuses_values_and_goes_on_with_a_wal_too() {
    let dir = TempDir::new().unwrap();
    let options = StoreOptions { map_bytes: 1 << 20, wal_bytes: 64 << 10, ..create() };
    let database = Database::open(dir.path(), options).unwrap();
    for round in 0..3 {
        let put = |n: u32| {
            // Short ones, and long ones that have pages of their own.
            database.put(&numbered(n), &vec![b'v'; if n.is_multiple_of(3) { 9000 } else { 300 }])
        };
        let (durable, error) =
            (0..).find_map(|n| put(n).err().map(|error| (n, error))).expect("it fails");
        assert!(matches!(error, StoreError::NearlyFull { .. }), "{error}");
        assert!(durable > 20, "only {durable} fit in round {round}");
        for n in 0..durable {
            database.del(&numbered(n)).unwrap();
        }
    }
    database.close().unwrap();
}
