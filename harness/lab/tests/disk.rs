//! The disk that loses power, with the kernel on top of it. The tests need root and `/dev/fuse`;
//! without these they print that they were skipped.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use lab::{
    NodeName,
    disk::{self, Disks, FileLayout, LostWrites},
    supervisor::Supervisor,
};
use nix::fcntl::{Flock, FlockArg, OFlag};
use tempfile::TempDir;

/// No file has crash points.
const LAYOUTS: &[FileLayout] = &[];

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
            let _ = writeln!(std::io::stderr(), "skipped: power loss: {why}");
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory for the test");
        let at = directory.path().join("disk");
        let node = NodeName::new("n");
        let supervisor = Supervisor::start().expect("a thread");
        let directories = BTreeMap::from([(node.clone(), at.clone())]);
        let disks = Disks::mount(&supervisor, directories, LAYOUTS).await;
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

#[tokio::test]
async fn a_power_loss_undoes_unsynced_writes_and_discards_the_page_cache() {
    let Some(mounted) = Mounted::new().await else { return };
    mounted
        .on(|at| {
            let mut file = File::create(at.join("f")).expect("a new file");
            file.write_all(b"synced").expect("there is room");
            file.sync_all().expect("a sync");
            File::open(at).and_then(|root| root.sync_all()).expect("a sync");
            file.write_all(b" and not").expect("there is room");
            assert_eq!(fs::read(at.join("f")).expect("it is there"), b"synced and not");
            File::create(at.join("unsynced-name"))
                .and_then(|file| file.sync_all())
                .expect("a sync");
        })
        .await;
    let lost = mounted.lose_power(None).await;
    assert_eq!((lost.pages, lost.entries), ([("f".to_owned(), 1)].into(), 1));
    mounted
        .on(|at| {
            assert_eq!(fs::read(at.join("f")).expect("it is there"), b"synced");
            assert!(!at.join("unsynced-name").exists());
        })
        .await;
    // The file system is invisible outside of its mount namespace.
    assert_eq!(fs::read_dir(&mounted.at).expect("a directory").count(), 0);
    mounted.unmount().await;
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
            let lock =
                Flock::lock(file, FlockArg::LockExclusiveNonblock).expect("nothing holds it");
            let other = File::open(&path).expect("it is there");
            assert!(Flock::lock(other, FlockArg::LockExclusiveNonblock).is_err());
            drop(lock);
        })
        .await;
    assert_eq!(mounted.lose_power(None).await, LostWrites::default());
    mounted
        .on(|at| {
            let read = fs::read(at.join("f")).expect("it is there");
            assert_eq!((read.len(), &read[4096..]), (4103, &b"durable"[..]));
        })
        .await;
    mounted.unmount().await;
}
