//! The disk that loses power, by itself: what the kernel makes of it, and what LMDB does on it. The
//! tests need /dev/fuse and the right to mount; without these they say so and test nothing.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use harness::{
    disk::{self, DiskPoint, Disks, points::Part},
    supervisor::Supervisor,
};
use nix::fcntl::{Flock, FlockArg, OFlag};
use system::{
    node::Role,
    protocol::Node,
    store::{Database, StoreOptions, SyncMode},
};
use tempfile::TempDir;

/// Whose disk it is, in all of these tests.
const NODE: Node = Node::Master;

/// A disk, mounted for what runs in the supervisor's thread.
struct Mounted {
    supervisor: Supervisor,
    disks: Disks,
    at: PathBuf,
    _directory: TempDir,
}

impl Mounted {
    /// None where disks cannot be had.
    async fn new() -> Option<Mounted> {
        if let Err(why) = disk::available() {
            eprintln!("skipped: {why}");
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory for the test");
        let at = directory.path().join("disk");
        let supervisor = Supervisor::start().expect("a thread");
        let disks = Disks::mount(&supervisor, BTreeMap::from([(NODE, at.clone())]))
            .await
            .expect("disks are available");
        Some(Mounted { supervisor, disks, at, _directory: directory })
    }

    /// Does something on the disk.
    async fn on<T: Send + 'static>(&self, job: impl FnOnce(&Path) -> T + Send + 'static) -> T {
        let at = self.at.clone();
        self.supervisor.run(move || job(&at)).await.expect("the thread lives")
    }

    /// Cuts the power while nothing uses the disk.
    async fn cut(&self, part: Option<u64>) -> disk::Dropped {
        self.disks.lose(&self.supervisor, NODE, part).await.expect("it is mounted again")
    }

    async fn end(self) {
        self.disks.unmount(&self.supervisor).await.expect("nobody uses it");
    }
}

#[tokio::test]
async fn a_cut_takes_what_was_not_synced_and_the_cache_with_it() {
    let Some(mounted) = Mounted::new().await else { return };
    mounted
        .on(|at| {
            let mut file = File::create(at.join("f")).expect("a new file");
            file.write_all(b"synced").expect("there is room");
            file.sync_all().expect("a sync");
            File::open(at).and_then(|root| root.sync_all()).expect("a sync");
            file.write_all(b" and not").expect("there is room");
            assert_eq!(fs::read(at.join("f")).expect("it is there"), b"synced and not");
            File::create(at.join("nameless")).and_then(|file| file.sync_all()).expect("a sync");
        })
        .await;
    let dropped = mounted.cut(None).await;
    assert_eq!((dropped.pages, dropped.entries), ([("f".to_owned(), 1)].into(), 1));
    mounted
        .on(|at| {
            assert_eq!(fs::read(at.join("f")).expect("it is there"), b"synced");
            assert!(!at.join("nameless").exists());
        })
        .await;
    // Outside of the namespace there is no such file system.
    assert_eq!(fs::read_dir(&mounted.at).expect("a directory").count(), 0);
    mounted.end().await;
}

#[tokio::test]
async fn a_dsync_write_is_durable_and_locks_hold() {
    let Some(mounted) = Mounted::new().await else { return };
    mounted
        .on(|at| {
            let path = at.join("f");
            let flags = OFlag::O_DSYNC.bits();
            let file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .custom_flags(flags)
                .open(&path)
                .expect("a new file");
            File::open(at).and_then(|root| root.sync_all()).expect("a sync");
            file.write_at(b"durable", 4096).expect("there is room");
            let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).expect("nobody has it");
            let other = File::open(&path).expect("it is there");
            assert!(Flock::lock(other, FlockArg::LockExclusiveNonblock).is_err());
            drop(lock);
        })
        .await;
    assert_eq!(mounted.cut(None).await, disk::Dropped::default());
    mounted
        .on(|at| {
            let read = fs::read(at.join("f")).expect("it is there");
            assert_eq!((read.len(), &read[4096..]), (4103, &b"durable"[..]));
        })
        .await;
    mounted.end().await;
}

/// With a log that holds three puts: every fourth takes all to the tables.
fn options(create: bool, syncs: SyncMode) -> StoreOptions {
    StoreOptions {
        create,
        sync_mode: syncs,
        map_bytes: 16 << 20,
        wal_bytes: 16 << 10,
        ..StoreOptions::default()
    }
}

fn value(n: u32) -> Vec<u8> {
    format!("{n}-").repeat(600 + n as usize).into_bytes()
}

/// Puts keys until the disk fails; how many were acknowledged.
fn put_until_the_end(at: &Path, syncs: SyncMode, count: u32) -> u32 {
    let database = Database::open(&at.join("store"), options(true, syncs)).expect("a store");
    (0..count).find(|n| database.put(&n.to_be_bytes(), &value(*n)).is_err()).unwrap_or(count)
}

/// How many of the keys are there, all before the first that is not. An error if the store says
/// that it is not whole.
fn found(at: &Path) -> Result<u32, String> {
    let database = Database::open(&at.join("store"), options(false, SyncMode::All))
        .map_err(|error| error.to_string())?;
    let mut n = 0;
    while let Some((_, read)) = database.get(&u32::to_be_bytes(n)).map_err(|e| e.to_string())? {
        assert_eq!(read[..], value(n)[..], "key {n}");
        n += 1;
    }
    Ok(n)
}

/// Cuts the power at a point in the midst of puts, and reads what is left: how many puts were
/// acknowledged, and how many are found. None if the point was not reached.
async fn cut_at(
    mounted: &Mounted,
    point: DiskPoint,
    syncs: SyncMode,
    part: Option<u64>,
) -> Option<(u32, Result<u32, String>)> {
    // The store is whole before the point counts.
    mounted.on(move |at| put_until_the_end(at, SyncMode::All, 0)).await;
    mounted.cut(None).await;
    let device = mounted.disks.device(NODE);
    device.arm(point);
    let puts = mounted.on(move |at| put_until_the_end(at, syncs, 12));
    tokio::pin!(puts);
    let acknowledged = tokio::select! {
        () = device.until_reached() => {
            device.power_off();
            device.refuse();
            puts.await
        }
        _ = &mut puts => return None,
    };
    mounted.cut(part).await;
    Some((acknowledged, mounted.on(found).await))
}

#[tokio::test]
async fn a_store_keeps_what_it_acknowledged_wherever_the_power_goes() {
    let mut reached = 0;
    for (seed, point) in (0..).zip(DiskPoint::all(Role::Master)) {
        let every = if point.part == Part::Log { 3 } else { 1 };
        for (part, n) in [(None, 1), (Some(seed), 2), (Some(seed + 100), 3)] {
            let Some(mounted) = Mounted::new().await else { return };
            let point = DiskPoint { n: every * n, ..point };
            let (acknowledged, found) = cut_at(&mounted, point, SyncMode::All, part)
                .await
                .unwrap_or_else(|| panic!("{point} was not reached"));
            let found = found.unwrap_or_else(|why| panic!("{point}, part {part:?}: {why}"));
            // The put that was under way may have become durable.
            assert!(
                (acknowledged..=acknowledged + 1).contains(&found),
                "{point}, part {part:?}: {acknowledged} acknowledged, {found} found"
            );
            reached += 1;
            mounted.end().await;
        }
    }
    assert_eq!(reached, 36);
}

#[tokio::test]
async fn a_store_that_skips_its_syncs_loses_what_it_acknowledged() {
    // LMDB writes its meta page through the descriptor with O_DSYNC, unless told not to.
    for (syncs, reaches) in
        [(SyncMode::All, true), (SyncMode::NoMeta, false), (SyncMode::None, false)]
    {
        let Some(mounted) = Mounted::new().await else { return };
        let point = "master:before-disk-sync:meta:2".parse().expect("a point");
        let reached = cut_at(&mounted, point, syncs, None).await.is_some();
        assert_eq!(reached, reaches, "{syncs:?}");
        mounted.end().await;
    }
    // Without the meta page's sync it is the tables' next commit that makes the last one durable,
    // and the log that it was made of is overwritten meanwhile.
    for (syncs, point) in [
        (SyncMode::NoMeta, "master:before-disk-sync:data:2"),
        (SyncMode::None, "master:after-disk-write:log:6"),
    ] {
        let Some(mounted) = Mounted::new().await else { return };
        let point = point.parse().expect("a point");
        let (acknowledged, found) = cut_at(&mounted, point, syncs, None).await.expect("it commits");
        let kept = found.is_ok_and(|found| found >= acknowledged);
        assert!(!kept, "{syncs:?}: all {acknowledged} are there");
        mounted.end().await;
    }
}
