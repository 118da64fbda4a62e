//! Disks that lose what was not synced when their power goes: a file system in memory for each
//! node, served to the kernel by FUSE from inside this process, so that a cut is a matter of
//! choice. Knows how to mount, cut and mount again; not when.
//!
//! SIGKILL takes a process away and leaves the kernel's page cache, so it never shows that a sync
//! is missing. A cut does: the disk stops in the middle of whatever it is doing, its users are
//! killed, the file system is unmounted, which ends the page cache, what was not synced is dropped,
//! and the rest is mounted again.
//!
//! The mounts exist in a mount namespace of their own, which only the thread that forks the nodes
//! and the nodes themselves are in. However this process ends, its threads and the nodes end with
//! it, and so do the namespace and the mounts: nothing is left to sweep. The threads that serve
//! requests are plain ones, outside of any runtime, and never wait for a node.

mod device;
mod fuse;
pub mod image;
pub mod points;

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
use system::protocol::Node;
use tokio::task::spawn_blocking;

pub use self::{device::Device, image::Dropped, points::DiskPoint};
use self::{fuse::Requests, image::Owner};
use crate::supervisor::Supervisor;

/// Where the kernel takes file systems from.
const FUSE: &str = "/dev/fuse";

/// A file system whose users have ended can be unmounted within this time.
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(5);

/// The disks of a cluster, one a node.
#[derive(Debug)]
pub struct Disks {
    disks: BTreeMap<Node, Disk>,
}

#[derive(Debug)]
struct Disk {
    device: Arc<Device>,
    at: PathBuf,
    /// While it is mounted.
    session: Mutex<Option<BackgroundSession>>,
}

impl Disks {
    /// Makes an empty disk for each node, and mounts it at the given directory for everything that
    /// the supervisor starts from now on.
    ///
    /// # Errors
    /// The system does not let file systems be mounted.
    pub async fn mount(
        supervisor: &Supervisor,
        directories: BTreeMap<Node, PathBuf>,
    ) -> io::Result<Disks> {
        supervisor.run(enter_namespace).await??;
        let mut disks = BTreeMap::new();
        for (node, at) in directories {
            fs::create_dir_all(&at)?;
            let owner = Owner { mode: 0o755, uid: getuid().as_raw(), gid: getgid().as_raw() };
            let disk = Disk { device: Arc::new(Device::new(owner)), at, session: Mutex::default() };
            disk.mount(supervisor).await?;
            disks.insert(node, disk);
        }
        Ok(Disks { disks })
    }

    fn disk(&self, node: Node) -> &Disk {
        self.disks.get(&node).expect("every node has a disk")
    }

    /// The device of a node's disk.
    #[must_use]
    pub fn device(&self, node: Node) -> &Device {
        &self.disk(node).device
    }

    /// Unmounts a node's disk, drops what was not synced, all or a part that a seed chooses, and
    /// mounts the rest. Nobody may be using it any more.
    ///
    /// # Errors
    /// The system does not let the file system be mounted again.
    pub async fn lose(
        &self,
        supervisor: &Supervisor,
        node: Node,
        part: Option<u64>,
    ) -> io::Result<Dropped> {
        let disk = self.disk(node);
        disk.unmount(supervisor).await?;
        let dropped = disk.device.lose(part);
        disk.mount(supervisor).await?;
        Ok(dropped)
    }

    /// Unmounts all disks. Nobody may be using them any more.
    ///
    /// # Errors
    /// One cannot be unmounted.
    pub async fn unmount(&self, supervisor: &Supervisor) -> io::Result<()> {
        for disk in self.disks.values() {
            disk.unmount(supervisor).await?;
        }
        Ok(())
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        // A process that waits for its disk cannot end, whatever signal it got.
        for disk in self.disks.values() {
            disk.device.refuse();
        }
    }
}

impl Disk {
    async fn mount(&self, supervisor: &Supervisor) -> io::Result<()> {
        let fuse = open_fuse()?;
        let (kept, at) = (fuse.try_clone()?, self.at.clone());
        supervisor.run(move || mount_fuse(&fuse, &at)).await??;
        let requests = Requests(self.device.clone());
        // From a thread outside of the namespace, which would else live as long as its threads.
        let session = spawn_blocking(move || serve(requests, kept)).await??;
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        Ok(())
    }

    async fn unmount(&self, supervisor: &Supervisor) -> io::Result<()> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(session) = session else { return Ok(()) };
        let at = self.at.clone();
        supervisor.run(move || unmount(&at)).await??;
        spawn_blocking(move || ended(session)).await?
    }
}

/// Whether disks can be had here.
///
/// # Errors
/// Why not, in words.
pub fn available() -> Result<(), String> {
    let why = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    let fuse = open_fuse().map_err(why(FUSE))?;
    let kept = fuse.try_clone().map_err(why(FUSE))?;
    let directory = tempfile::tempdir().map_err(why("no directory for temporary files"))?;
    let at = directory.path().to_owned();
    // The namespace ends with the thread.
    let tried = thread::spawn(move || {
        enter_namespace().map_err(why("no mount namespace of one's own"))?;
        mount_fuse(&fuse, &at).map_err(why("mount"))?;
        let owner = Owner { mode: 0o755, uid: getuid().as_raw(), gid: getgid().as_raw() };
        let requests = Requests(Arc::new(Device::new(owner)));
        let session = thread::spawn(move || serve(requests, kept))
            .join()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
            .map_err(why(FUSE))?;
        fs::write(at.join("file"), "x").map_err(why("a file on FUSE"))?;
        unmount(&at).map_err(why("unmount"))?;
        ended(session).map_err(why(FUSE))
    });
    tried.join().unwrap_or_else(|_| Err("the attempt failed".to_owned()))
}

fn open_fuse() -> io::Result<File> {
    File::options().read(true).write(true).open(FUSE)
}

/// Gives the calling thread mounts of its own, which nobody else sees, and which end with it and
/// the processes that it starts.
fn enter_namespace() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    Ok(())
}

fn mount_fuse(fuse: &File, at: &Path) -> io::Result<()> {
    let (fd, uid, gid) = (fuse.as_raw_fd(), getuid(), getgid());
    let data = format!("fd={fd},rootmode=40755,user_id={uid},group_id={gid},default_permissions");
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some("twopc-disk"), at, Some("fuse"), flags, Some(data.as_str()))?;
    Ok(())
}

fn serve(requests: Requests, fuse: File) -> io::Result<BackgroundSession> {
    Session::from_fd(requests, fuse.into(), SessionACL::Owner, Config::default())?.spawn()
}

/// Waits until the kernel has let go of a file system that was unmounted, and of all that it had
/// cached.
fn ended(session: BackgroundSession) -> io::Result<()> {
    match session.join() {
        // It has let go while it was handing a request over.
        Err(error) if error.raw_os_error() == Some(Errno::ECONNABORTED as i32) => Ok(()),
        ended => ended,
    }
}

fn unmount(at: &Path) -> io::Result<()> {
    let give_up = Instant::now() + UNMOUNT_DEADLINE;
    loop {
        match umount2(at, MntFlags::empty()) {
            // Somebody who has ended is still being cleared away.
            Err(Errno::EBUSY) if Instant::now() < give_up => {
                thread::sleep(Duration::from_millis(2));
            }
            done => return Ok(done?),
        }
    }
}
