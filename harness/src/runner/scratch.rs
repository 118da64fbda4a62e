//! The directory in which the nodes of a run keep their data: outside the run directory, gone when
//! the run is over, and swept by the next run if this one was killed. Knows nothing of what lies
//! in it.
//!
//! A directory is somebody's while its lock is held, and the system gives the lock back however
//! its holder dies, so an unlocked directory is rubbish, with no guess about process ids.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

/// What the names of all scratch directories begin with.
const PREFIX: &str = "twopc-harness-";

/// A scratch directory of this process.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Scratch {
    /// Sweeps what dead runs left in `parent` and makes a directory there.
    ///
    /// # Errors
    /// The directory cannot be made or locked.
    pub(super) fn create(parent: &Path) -> io::Result<Self> {
        sweep(parent);
        loop {
            let path = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?.keep();
            // Between making and locking another run may have swept it: then make another.
            if let Some(lock) = lock(&path) {
                return Ok(Scratch { path, _lock: lock });
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Locks a directory, if it is nobody's and still there.
fn lock(path: &Path) -> Option<Flock<File>> {
    let directory = File::open(path).ok()?;
    let opened = directory.metadata().ok()?;
    let lock = Flock::lock(directory, FlockArg::LockExclusiveNonblock).ok()?;
    let found = fs::metadata(path).ok()?;
    ((found.dev(), found.ino()) == (opened.dev(), opened.ino())).then_some(lock)
}

/// Removes the scratch directories in `parent` that are nobody's.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Some(_lock) = lock(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_run_left_is_swept_and_what_lives_is_not() -> io::Result<()> {
        let parent = tempfile::tempdir()?;
        let left = parent.path().join(format!("{PREFIX}left"));
        fs::create_dir(&left)?;
        fs::write(left.join("data"), "x")?;
        fs::create_dir(parent.path().join("not-ours"))?;

        let first = Scratch::create(parent.path())?;
        assert!(!left.exists());
        let second = Scratch::create(parent.path())?;
        assert!(first.path().exists() && second.path().exists());
        assert!(parent.path().join("not-ours").exists());

        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists());
        assert!(second.path().exists());
        Ok(())
    }
}
