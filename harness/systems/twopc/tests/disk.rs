//! What LMDB and the WAL make of a disk that loses power. The tests need root and `/dev/fuse`; without
//! these they print that they were skipped.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use lab::{
    NodeName,
    disk::{self, DiskFault, Disks, LostWrites, NameDurability},
    supervisor::Supervisor,
};
use system::{
    node::Role,
    store::{Database, Rule, Rules, StoreOptions, SyncMode},
};
use tempfile::TempDir;
use twopc::disk::{DiskPoint, LAYOUTS, LOG};

/// A disk that is mounted for the supervisor thread.
struct Mounted {
    supervisor: Supervisor,
    disks: Disks,
    node: NodeName,
    at: PathBuf,
    _directory: TempDir,
}

impl Mounted {
    /// `None` where disks cannot be mounted.
    async fn new() -> Option<Mounted> {
        if let Err(why) = disk::available() {
            // Past the capture of the test harness, which would hide it.
            let _ = writeln!(io::stderr(), "skipped: power loss: {why}");
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory for the test");
        let at = directory.path().join("disk");
        let node = NodeName::new("n");
        let supervisor = Supervisor::start().expect("a thread");
        let places = BTreeMap::from([(node.clone(), at.clone().into())]);
        let disks = Disks::mount(&supervisor, places, NameDurability::Posix, LAYOUTS).await;
        let disks = disks.expect("disks are available");
        Some(Mounted { supervisor, disks, node, at, _directory: directory })
    }

    /// Runs a closure that can access the disk.
    async fn on<T: Send + 'static>(&self, job: impl FnOnce(&Path) -> T + Send + 'static) -> T {
        let at = self.at.clone();
        self.supervisor.run(move || job(&at)).await.expect("the thread lives")
    }

    /// Cuts the power while nothing uses the disk.
    async fn lose_power(&self, partial: Option<u64>) -> LostWrites {
        let lost = self.disks.lose_power(&self.supervisor, &self.node, partial).await;
        lost.expect("it is mounted again")
    }

    async fn unmount(self) {
        self.disks.unmount(&self.supervisor).await.expect("nothing uses it");
    }
}

/// With a WAL of which each segment holds three puts: every third put begins a checkpoint.
fn options(create: bool, syncs: SyncMode) -> StoreOptions {
    StoreOptions {
        create,
        sync_mode: syncs,
        map_bytes: 16 << 20,
        wal_bytes: 24 << 10,
        ..StoreOptions::default()
    }
}

fn value(n: u32) -> Vec<u8> {
    format!("{n}-").repeat(600 + n as usize).into_bytes()
}

/// Puts keys until the disk fails. Returns the number of acknowledged puts.
fn put_until_failure(at: &Path, options: StoreOptions, count: u32) -> u32 {
    let database = Database::open(&at.join("store"), options).expect("a store");
    (0..count).find(|n| database.put(&n.to_be_bytes(), &value(*n)).is_err()).unwrap_or(count)
}

/// The number of keys before the first missing one. An error if the store reports corruption.
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

/// Cuts the power at a point during puts. Returns the numbers of puts that were acknowledged and that
/// are found afterwards; `None` if the point was not reached.
async fn lose_power_at(
    mounted: &Mounted,
    point: DiskPoint,
    options: StoreOptions,
    partial: Option<u64>,
) -> Option<(u32, Result<u32, String>)> {
    // The store exists before the point is armed.
    let whole = StoreOptions { sync_mode: SyncMode::All, rules: Rules::ALL, ..options };
    mounted.on(move |at| put_until_failure(at, whole, 0)).await;
    mounted.lose_power(None).await;
    let device = mounted.disks.device(&mounted.node);
    device.arm(point.at);
    let puts = mounted.on(move |at| put_until_failure(at, options, 24));
    tokio::pin!(puts);
    let acknowledged = tokio::select! {
        () = device.until_reached() => {
            device.power_off();
            device.fail_requests();
            puts.await
        }
        _ = &mut puts => return None,
    };
    mounted.lose_power(partial).await;
    Some((acknowledged, mounted.on(found).await))
}

#[tokio::test]
async fn a_store_keeps_acknowledged_puts_wherever_the_power_fails() {
    let mut reached = 0;
    for (seed, point) in (0..).zip(DiskPoint::all(Role::Master)) {
        let every = if point.at.region == LOG { 3 } else { 1 };
        for (partial, n) in [(None, 1), (Some(seed), 2), (Some(seed + 100), 3)] {
            let Some(mounted) = Mounted::new().await else { return };
            let point = point.occurrence(every * n);
            let (acknowledged, found) =
                lose_power_at(&mounted, point, options(true, SyncMode::All), partial)
                    .await
                    .unwrap_or_else(|| panic!("{point} was not reached"));
            let found = found.unwrap_or_else(|why| panic!("{point}, partial {partial:?}: {why}"));
            // The put in progress may have become durable.
            assert!(
                (acknowledged..=acknowledged + 1).contains(&found),
                "{point}, partial {partial:?}: {acknowledged} acknowledged, {found} found"
            );
            reached += 1;
            mounted.unmount().await;
        }
    }
    assert_eq!(reached, 36);
}

#[tokio::test]
async fn a_store_that_skips_syncs_loses_acknowledged_puts() {
    // LMDB writes its meta page through the descriptor with O_DSYNC, unless told not to.
    for (syncs, reaches) in
        [(SyncMode::All, true), (SyncMode::NoMeta, false), (SyncMode::None, false)]
    {
        let Some(mounted) = Mounted::new().await else { return };
        let point = "master:before-disk-sync:meta:2".parse().expect("a point");
        let reached = lose_power_at(&mounted, point, options(true, syncs), None).await.is_some();
        assert_eq!(reached, reaches, "{syncs:?}");
        mounted.unmount().await;
    }
    for (options, point) in [
        // Without the sync of the meta page, only the next checkpoint makes the last one durable. The
        // WAL does not hold it meanwhile: here, because there is none.
        (
            StoreOptions { wal_bytes: 0, ..options(true, SyncMode::NoMeta) },
            "before-disk-sync:data:2",
        ),
        (
            StoreOptions {
                wal_bytes: 0,
                rules: Rules::ALL.without(Rule::ReuseAfterSync),
                ..options(true, SyncMode::All)
            },
            "before-disk-sync:data:2",
        ),
        (options(true, SyncMode::None), "after-disk-write:log:6"),
    ] {
        let Some(mounted) = Mounted::new().await else { return };
        let point = format!("master:{point}").parse().expect("a point");
        let (acknowledged, found) =
            lose_power_at(&mounted, point, options, None).await.expect("it commits");
        let kept = found.is_ok_and(|found| found >= acknowledged);
        assert!(!kept, "{options:?}: all {acknowledged} are there");
        mounted.unmount().await;
    }
}

/// A failed sync leaves pages that can be read and count as clean. A store that has found them when it was opened
/// must make them durable before it builds on them.
#[tokio::test]
async fn what_an_opening_finds_is_durable_even_if_a_sync_of_it_has_failed() {
    let mut given_up = 0;
    for puts in 1..8 {
        let Some(mounted) = Mounted::new().await else { return };
        let options = options(true, SyncMode::All);
        let device = mounted.disks.device(&mounted.node);
        let (sender, failing) = std::sync::mpsc::channel();
        let (go_on, wait) = std::sync::mpsc::channel();
        let puts_until_failure = mounted.on(move |at| {
            let database = Database::open(&at.join("store"), options).expect("a store");
            for n in 0..puts {
                database.put(&u32::to_be_bytes(n), &value(n)).expect("the disk is well");
            }
            sender.send(()).expect("it waits");
            wait.recv().expect("it goes on");
            (puts..24).find(|n| database.put(&n.to_be_bytes(), &value(*n)).is_err())
        });
        let fail = async {
            let failing = tokio::task::spawn_blocking(move || failing.recv());
            failing.await.expect("no panic").expect("it sends");
            device.inject(DiskFault::Error { writes: false, syncs: true });
            go_on.send(()).expect("it waits");
        };
        let (failed, ()) = tokio::join!(puts_until_failure, fail);
        assert_eq!(failed, Some(puts), "the first put without a sync fails");
        given_up += device.heal().given_up;
        // Opened again, it acknowledges one more put, and loses power at once.
        let point: DiskPoint = "master:before-disk-write:log:3".parse().expect("a point");
        device.arm(point.at);
        let options = StoreOptions { create: false, ..options };
        let acknowledged = {
            let more = mounted.on(move |at| {
                let database =
                    Database::open(&at.join("store"), options).expect("the store is whole");
                let mut n = 0;
                while database.get(&u32::to_be_bytes(n)).expect("readable").is_some() {
                    n += 1;
                }
                (n..24).find(|n| database.put(&n.to_be_bytes(), &value(*n)).is_err()).unwrap_or(24)
            });
            tokio::pin!(more);
            tokio::select! {
                () = device.until_reached() => {
                    device.power_off();
                    device.fail_requests();
                    more.await
                }
                acknowledged = &mut more => acknowledged,
            }
        };
        assert!(acknowledged > puts, "{acknowledged} of more than {puts}");
        mounted.lose_power(None).await;
        let kept = mounted.on(found).await;
        assert!(kept.as_ref().is_ok_and(|kept| *kept >= acknowledged), "{puts}: {kept:?}");
        mounted.unmount().await;
    }
    assert!(given_up > 0);
}
