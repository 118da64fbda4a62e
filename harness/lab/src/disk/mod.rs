//! Disks that lose unsynced writes when their power fails: one in-memory file system per node,
//! served to the kernel over FUSE from this process. Needs root and `/dev/fuse`; [`available`] tells
//! whether they are there.
//!
//! SIGKILL ends a process but leaves the kernel's page cache, so it never reveals a missing sync. A
//! power loss does. The disk stops in the middle of whatever it is doing, its users are killed, the
//! file system is unmounted (which discards the page cache), unsynced writes are dropped, and the
//! rest is mounted again.
//!
//! The mounts live in a mount namespace of their own. Only the supervisor thread and the processes
//! that it spawns are in it. However this process ends, its threads and the nodes end with it, and
//! so do the namespace and the mounts: there is nothing to clean up. The threads that serve requests
//! are plain threads outside of any runtime, and never wait for a node.

mod device;
mod fault;
mod fuse;
pub mod image;
mod import;
mod point;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use fuser::{BackgroundSession, Config, Session, SessionACL};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::{getgid, getuid},
};
use tokio::task::spawn_blocking;

pub use self::{
    device::Device,
    fault::{DiskEffects, DiskFault},
    image::{FlippedBit, Image, LostWrites, NameDurability},
    point::{Access, DiskPoint, FileLayout, Region, Side},
};
use self::{fuse::Requests, image::Owner};
use crate::{node::NodeName, supervisor::Supervisor};

/// The device through which FUSE file systems are served.
const FUSE: &str = "/dev/fuse";

/// How long to retry unmounting a file system whose users have exited.
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(5);

/// Where a node sees its disk.
#[derive(Clone, Debug)]
pub struct DiskPlace {
    /// The directory at which the whole disk is mounted.
    pub at: PathBuf,
    /// Directories of the disk that are also mounted elsewhere: the path on the disk, and the directory,
    /// whose content is on the disk from the beginning.
    pub directories: Vec<(PathBuf, PathBuf)>,
}

impl From<PathBuf> for DiskPlace {
    fn from(at: PathBuf) -> Self {
        DiskPlace { at, directories: Vec::new() }
    }
}

/// The disks of a cluster, one per node.
#[derive(Debug)]
pub struct Disks {
    disks: BTreeMap<NodeName, Disk>,
}

#[derive(Debug)]
struct Disk {
    device: Arc<Device>,
    place: DiskPlace,
    /// Present while it is mounted.
    session: Mutex<Option<BackgroundSession>>,
}

impl Disks {
    /// Creates a disk for each node, and mounts it at its place for every process that the supervisor spawns
    /// from now on. `layouts` are the files that have points.
    ///
    /// # Errors
    /// The operating system refuses the mount, or a directory cannot be copied onto its disk.
    pub async fn mount(
        supervisor: &Supervisor,
        places: BTreeMap<NodeName, DiskPlace>,
        names: NameDurability,
        layouts: &'static [FileLayout],
    ) -> io::Result<Disks> {
        supervisor.run(enter_namespace).await??;
        let mut disks = BTreeMap::new();
        for (node, place) in places {
            fs::create_dir_all(&place.at)?;
            let device = Arc::new(Device::new(owner(), names, layouts));
            for (path, directory) in &place.directories {
                fs::create_dir_all(directory)?;
                device.with_image(|image| import::import(image, path, directory))?;
            }
            let disk = Disk { device, place, session: Mutex::default() };
            disk.mount(supervisor).await?;
            disks.insert(node, disk);
        }
        Ok(Disks { disks })
    }

    fn disk(&self, node: &NodeName) -> &Disk {
        self.disks.get(node).expect("every node has a disk")
    }

    /// The device of a node's disk.
    ///
    /// # Panics
    /// If the node is not one of those that the disks were mounted for.
    #[must_use]
    pub fn device(&self, node: &NodeName) -> &Device {
        &self.disk(node).device
    }

    /// Unmounts a node's disk, drops unsynced writes, all or a part chosen by a seed, and mounts the
    /// rest. No process may be using it.
    ///
    /// # Errors
    /// The operating system refuses the mount.
    pub async fn lose_power(
        &self,
        supervisor: &Supervisor,
        node: &NodeName,
        partial: Option<u64>,
    ) -> io::Result<LostWrites> {
        let disk = self.disk(node);
        disk.unmount(supervisor).await?;
        let lost = disk.device.lose_power(partial);
        disk.mount(supervisor).await?;
        Ok(lost)
    }

    /// Unmounts a node's disk, so that the kernel forgets what it has read of it, changes it, and mounts it
    /// again. No process may be using it.
    ///
    /// # Errors
    /// The operating system refuses the mount.
    pub async fn change<T>(
        &self,
        supervisor: &Supervisor,
        node: &NodeName,
        change: impl FnOnce(&mut Image) -> T,
    ) -> io::Result<T> {
        let disk = self.disk(node);
        disk.unmount(supervisor).await?;
        let result = disk.device.with_image(|image| {
            image.remove_orphans();
            change(image)
        });
        disk.mount(supervisor).await?;
        Ok(result)
    }

    /// Unmounts all disks. No process may be using them.
    ///
    /// # Errors
    /// A disk cannot be unmounted.
    pub async fn unmount(&self, supervisor: &Supervisor) -> io::Result<()> {
        for disk in self.disks.values() {
            disk.unmount(supervisor).await?;
        }
        Ok(())
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        // A process that waits for its disk cannot exit, whatever signal it received.
        for disk in self.disks.values() {
            disk.device.fail_requests();
        }
    }
}

impl Disk {
    async fn mount(&self, supervisor: &Supervisor) -> io::Result<()> {
        let fuse = open_fuse()?;
        let (kept, at) = (fuse.try_clone()?, self.place.at.clone());
        supervisor.run(move || mount_fuse(&fuse, &at)).await??;
        let requests = Requests::new(self.device.clone());
        // Served from a thread outside of the mount namespace: a namespace lives as long as its
        // threads, and this one must end with the supervisor.
        let session = spawn_blocking(move || serve(requests, kept)).await??;
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        let DiskPlace { at, directories } = self.place.clone();
        let bind = move || directories.iter().try_for_each(|(path, to)| bind(&at.join(path), to));
        supervisor.run(bind).await?
    }

    async fn unmount(&self, supervisor: &Supervisor) -> io::Result<()> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(session) = session else { return Ok(()) };
        let DiskPlace { at, directories } = self.place.clone();
        let all = move || {
            directories.iter().try_for_each(|(_, directory)| unmount(directory))?;
            unmount(&at)
        };
        supervisor.run(all).await??;
        spawn_blocking(move || join(session)).await?
    }
}

/// Checks whether this machine can mount disks that lose power.
///
/// # Errors
/// Why not, as a sentence for people.
pub fn available() -> Result<(), String> {
    let because = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    let fuse = open_fuse().map_err(because(FUSE))?;
    let kept = fuse.try_clone().map_err(because(FUSE))?;
    let directory = tempfile::tempdir().map_err(because("cannot create a temporary directory"))?;
    let at = directory.path().to_owned();
    // The namespace ends with the thread.
    let probe = thread::spawn(move || {
        enter_namespace().map_err(because("cannot create a mount namespace"))?;
        mount_fuse(&fuse, &at).map_err(because("mount"))?;
        let requests = Requests::new(Arc::new(Device::new(owner(), NameDurability::Posix, &[])));
        let session = thread::spawn(move || serve(requests, kept))
            .join()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
            .map_err(because(FUSE))?;
        fs::write(at.join("file"), "x").map_err(because("a file on FUSE"))?;
        unmount(&at).map_err(because("unmount"))?;
        join(session).map_err(because(FUSE))
    });
    probe.join().unwrap_or_else(|_| Err("the probe thread panicked".to_owned()))
}

/// Owner of a disk's root directory: the user that runs the harness.
fn owner() -> Owner {
    Owner { mode: 0o755, uid: getuid().as_raw(), gid: getgid().as_raw() }
}

fn open_fuse() -> io::Result<File> {
    File::options().read(true).write(true).open(FUSE)
}

/// Moves the calling thread into a mount namespace of its own. Its mounts are visible only to the
/// thread and the processes that it spawns, and end with them.
fn enter_namespace() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    Ok(())
}

fn mount_fuse(fuse: &File, at: &Path) -> io::Result<()> {
    let (fd, uid, gid) = (fuse.as_raw_fd(), getuid(), getgid());
    // Nodes may run as other users than the harness.
    let data = format!(
        "fd={fd},rootmode=40755,user_id={uid},group_id={gid},default_permissions,allow_other"
    );
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some("lab-disk"), at, Some("fuse"), flags, Some(data.as_str()))?;
    Ok(())
}

/// Mounts a directory of a disk at another place.
fn bind(directory: &Path, at: &Path) -> io::Result<()> {
    mount(Some(directory), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

fn serve(requests: Requests, fuse: File) -> io::Result<BackgroundSession> {
    Session::from_fd(requests, fuse.into(), SessionACL::All, Config::default())?.spawn()
}

/// Waits until the kernel has released an unmounted file system and its cached pages.
fn join(session: BackgroundSession) -> io::Result<()> {
    match session.join() {
        // The connection was closed while a request was being read.
        Err(error) if error.raw_os_error() == Some(Errno::ECONNABORTED as i32) => Ok(()),
        result => result,
    }
}

fn unmount(at: &Path) -> io::Result<()> {
    let give_up = Instant::now() + UNMOUNT_DEADLINE;
    loop {
        match umount2(at, MntFlags::empty()) {
            // A process that has exited is still being torn down.
            Err(Errno::EBUSY) if Instant::now() < give_up => {
                thread::sleep(Duration::from_millis(2));
            }
            result => return Ok(result?),
        }
    }
}
