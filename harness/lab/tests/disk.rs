//! The disk that loses power and fails, with the kernel on top of it. The tests need root and `/dev/fuse`;
//! without these they print that they were skipped.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use lab::{
    NodeName,
    disk::{
        self, DiskEffects, DiskFault, DiskPlace, Disks, FileLayout, LostWrites, NameDurability,
    },
    supervisor::Supervisor,
};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, Flock, FlockArg, OFlag, RenameFlags, fallocate, renameat2},
    sys::{
        stat::{Mode, SFlag, mknod},
        statvfs::statvfs,
    },
};
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
        let prepared = directory.path().join("data");
        fs::create_dir(&prepared).expect("a new directory");
        fs::write(prepared.join("prepared"), "before").expect("a new file");
        let directories = vec![(PathBuf::from("data"), prepared)];
        let place = DiskPlace { at: at.clone(), directories };
        let places = BTreeMap::from([(node.clone(), place)]);
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

    /// Does something while something is wrong with the disk. Returns what came of the fault.
    async fn during<T: Send + 'static>(
        &self,
        fault: DiskFault,
        job: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> (T, DiskEffects) {
        let device = self.disks.device(&self.node);
        device.inject(fault);
        let result = self.on(job).await;
        (result, device.heal())
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

/// A file whose name is durable.
fn durable_file(at: &Path, name: &str) -> File {
    let path = at.join(name);
    let file = File::options().create(true).truncate(true).read(true).write(true).open(path);
    let file = file.expect("a new file");
    file.write_all_at(b"before", 0).expect("there is room");
    file.sync_all().expect("a sync");
    File::open(at).and_then(|root| root.sync_all()).expect("a sync");
    file
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Errno {
    Errno::from_raw(result.expect_err("it fails").raw_os_error().expect("an error of the kernel"))
}

#[tokio::test]
async fn a_full_disk_says_so_and_takes_what_needs_no_space() {
    let Some(mounted) = Mounted::new().await else { return };
    let ((), effects) = mounted
        .during(DiskFault::Full { free_bytes: 8192 }, |at| {
            let space = statvfs(at).expect("it answers");
            assert_eq!(space.blocks_available() * space.fragment_size(), 8192);
            let file = durable_file(at, "f");
            file.write_all_at(b"again", 0).expect("the page is there");
            assert_eq!(errno(file.write_all_at(&[1; 8192], 0)), Errno::ENOSPC);
            assert_eq!(errno(File::create(at.join("g"))), Errno::ENOSPC);
            assert_eq!(statvfs(at).expect("it answers").blocks_available(), 0);
            fs::remove_file(at.join("f")).expect("a name less");
        })
        .await;
    assert_eq!((effects.refused, effects.reported_full), (2, 2), "{effects:?}");
    mounted.on(|at| fs::write(at.join("g"), vec![1; 1 << 20]).expect("there is room again")).await;
    mounted.unmount().await;
}

#[tokio::test]
async fn a_failed_sync_gives_up_what_it_should_have_saved() {
    let Some(mounted) = Mounted::new().await else { return };
    let all = DiskFault::Error { writes: true, syncs: true };
    let ((), effects) = mounted
        .during(DiskFault::Error { writes: false, syncs: true }, |at| {
            let file = File::create(at.join("f")).expect("a new file");
            file.write_all_at(b"lost", 0).expect("writes succeed");
            assert_eq!(errno(file.sync_all()), Errno::EIO);
        })
        .await;
    assert_eq!((effects.failed_syncs, effects.given_up, effects.failed_writes), (1, 1, 0));
    let ((), effects) = mounted
        .during(all, |at| {
            let file = File::options().write(true).open(at.join("f")).expect("it is there");
            assert_eq!(errno(file.write_all_at(b"x", 0)), Errno::EIO);
        })
        .await;
    assert_eq!((effects.failed_syncs, effects.failed_writes), (0, 1));
    mounted
        .on(|at| {
            let file = File::options().write(true).open(at.join("f")).expect("it is there");
            file.sync_all().expect("it saves what is dirty: nothing");
            File::open(at).and_then(|root| root.sync_all()).expect("a sync");
            assert_eq!(fs::read(at.join("f")).expect("readable"), b"lost");
        })
        .await;
    mounted.lose_power(None).await;
    mounted.on(|at| assert_eq!(fs::read(at.join("f")).expect("readable"), [0; 4])).await;
    mounted.unmount().await;
}

#[tokio::test]
async fn syncs_of_a_slow_disk_take_their_time_and_nothing_else_does() {
    let Some(mounted) = Mounted::new().await else { return };
    let (shortest, longest) = (Duration::from_millis(300), Duration::from_millis(400));
    let ((), effects) = mounted
        .during(DiskFault::Slow { shortest, longest, seed: 1 }, move |at| {
            let file = File::create(at.join("f")).expect("a new file");
            let syncing = std::thread::spawn(move || {
                let begun = Instant::now();
                file.sync_all().map(|()| begun.elapsed())
            });
            let begun = Instant::now();
            while !syncing.is_finished() && begun.elapsed() < shortest / 2 {
                fs::write(at.join("g"), "meanwhile").expect("writes go on");
            }
            assert!(!syncing.is_finished(), "the sync takes longer than a write");
            let took = syncing.join().expect("no panic").expect("it succeeds");
            assert!(took >= shortest, "{took:?}");
        })
        .await;
    assert_eq!(effects.slow_syncs, 1);
    mounted.unmount().await;
}

#[tokio::test]
async fn a_stalled_disk_answers_nothing_until_it_is_well() {
    let Some(mounted) = Mounted::new().await else { return };
    mounted.on(|at| drop(durable_file(at, "f"))).await;
    let device = mounted.disks.device(&mounted.node);
    device.inject(DiskFault::Stall);
    let stalled = async {
        mounted
            .on(|at| {
                let begun = Instant::now();
                let file = File::options().write(true).open(at.join("f")).expect("it is there");
                file.write_all_at(b"after", 0).expect("in the end");
                file.sync_all().expect("in the end");
                begun.elapsed()
            })
            .await
    };
    let time = Duration::from_millis(300);
    let heal = async {
        tokio::time::sleep(time).await;
        device.heal()
    };
    let (took, effects) = tokio::join!(stalled, heal);
    assert!(took >= time && effects.stalled > 0, "{took:?} {effects:?}");
    mounted.on(|at| assert_eq!(fs::read(at.join("f")).expect("readable"), b"aftere")).await;
    mounted.unmount().await;
}

#[tokio::test]
async fn flipped_bits_and_older_copies_are_seen_after_a_remount() {
    let Some(mounted) = Mounted::new().await else { return };
    let content = |at: &Path| fs::read(at.join("f")).expect("readable");
    mounted.on(|at| drop(durable_file(at, "f"))).await;
    let device = mounted.disks.device(&mounted.node);
    let copy = device.with_image(|image| image.snapshot());
    let flipped = mounted
        .disks
        .change(&mounted.supervisor, &mounted.node, |image| {
            let mut rng = rand::SeedableRng::seed_from_u64(3);
            let bit = image.draw_bit(&mut rng, |file| file == "f").expect("it is synced");
            image.flip(std::slice::from_ref(&bit));
            bit
        })
        .await
        .expect("it is mounted again");
    let mut expected = b"before".to_vec();
    expected[usize::try_from(flipped.offset).expect("small")] ^= 1 << flipped.bit;
    assert_eq!(mounted.on(content).await, expected);
    let restored =
        mounted.disks.change(&mounted.supervisor, &mounted.node, |image| image.restore(copy));
    restored.await.expect("it is mounted again");
    assert_eq!(mounted.on(content).await, b"before");
    mounted.unmount().await;
}

/// What programs of others need of a file system.
#[tokio::test]
async fn it_is_a_file_system_for_any_program() {
    let Some(mounted) = Mounted::new().await else { return };
    mounted
        .on(|at| {
            let (f, g, link) = (at.join("f"), at.join("g"), at.join("link"));
            drop(durable_file(at, "f"));
            assert_eq!(fs::read(at.join("data/prepared")).expect("it was there"), b"before");
            fs::hard_link(&f, &g).expect("a second name");
            assert_eq!(g.metadata().expect("it is there").nlink(), 2);
            symlink("f", &link).expect("a new name");
            assert_eq!(fs::read_link(&link).expect("a link"), Path::new("f"));
            assert_eq!(fs::read(&link).expect("it leads to f"), b"before");
            chown(&f, Some(65534), Some(65534)).expect("root may");
            assert_eq!(g.metadata().expect("it is there").uid(), 65534);
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            let file = File::options().write(true).open(&f).expect("it is there");
            file.set_modified(time).expect("it is its owner");
            assert_eq!(f.metadata().expect("it is there").modified().expect("a time"), time);
            file.write_all_at(b"x", 0).expect("there is room");
            assert!(f.metadata().expect("it is there").modified().expect("a time") > time);
            fallocate(&file, FallocateFlags::empty(), 0, 1 << 16).expect("there is room");
            assert_eq!(f.metadata().expect("it is there").len(), 1 << 16);
            fallocate(&file, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, 4096).expect_err("no");
            mknod(&at.join("pipe"), SFlag::S_IFIFO, Mode::S_IRUSR, 0).expect("a pipe");
            let cwd = nix::fcntl::AT_FDCWD;
            let rename = |flags| renameat2(cwd, &f, cwd, &g, flags);
            assert_eq!(rename(RenameFlags::RENAME_NOREPLACE), Err(Errno::EEXIST));
            fs::remove_file(&g).expect("one name less");
            rename(RenameFlags::RENAME_NOREPLACE).expect("nothing has the name");
            // Of a directory that is read while files are removed from it, none is left out.
            for n in 0..300 {
                fs::write(at.join(format!("data/{n:0200}")), "x").expect("there is room");
            }
            fs::remove_dir_all(at.join("data")).expect("it removes everything");
            let before = statvfs(at).expect("it answers").blocks_available();
            fs::write(at.join("large"), vec![1; 1 << 20]).expect("there is room");
            let open = File::open(at.join("large")).expect("it is there");
            fs::remove_file(at.join("large")).expect("it is there");
            File::open(at).and_then(|root| root.sync_all()).expect("a sync");
            assert!(statvfs(at).expect("it answers").blocks_available() < before - 255);
            drop(open);
        })
        .await;
    mounted.unmount().await;
}
