//! The temporary directory of a run: outside the run directory, removed when the run ends, and
//! removed by the next run if this one was killed. Does not know about its contents.
//!
//! A directory is in use while its lock is held. The kernel releases the lock however the holder
//! dies, so an unlocked directory is garbage, without any guess about process ids.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

/// The prefix of every scratch directory's name.
const PREFIX: &str = "harness-run-";

/// A scratch directory owned by this process. Dropping it removes the directory.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Scratch {
    /// Removes what dead runs left in `parent` and creates a directory there.
    ///
    /// # Errors
    /// The directory cannot be created or locked.
    pub fn create(parent: &Path) -> io::Result<Self> {
        remove_abandoned(parent);
        loop {
            let path = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?.keep();
            // Another run may have removed it before it was locked: create another one.
            if let Some(lock) = try_lock(&path) {
                return Ok(Scratch { path, _lock: lock });
            }
        }
    }

    /// The directory's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next run removes what cannot be removed now.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Locks a directory unless another process holds it or it is gone.
fn try_lock(path: &Path) -> Option<Flock<File>> {
    let directory = File::open(path).ok()?;
    let opened = directory.metadata().ok()?;
    let lock = Flock::lock(directory, FlockArg::LockExclusiveNonblock).ok()?;
    // The name may refer to another directory by now.
    let found = fs::metadata(path).ok()?;
    ((found.dev(), found.ino()) == (opened.dev(), opened.ino())).then_some(lock)
}

/// Removes the scratch directories in `parent` that no process holds.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Some(_lock) = try_lock(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abandoned_directories_are_removed_and_live_ones_are_kept() -> io::Result<()> {
        let parent = tempfile::tempdir()?;
        let abandoned = parent.path().join(format!("{PREFIX}abandoned"));
        fs::create_dir(&abandoned)?;
        fs::write(abandoned.join("data"), "x")?;
        fs::create_dir(parent.path().join("unrelated"))?;

        let first = Scratch::create(parent.path())?;
        assert!(!abandoned.exists());
        let second = Scratch::create(parent.path())?;
        assert!(first.path().exists() && second.path().exists());
        assert!(parent.path().join("unrelated").exists());

        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists());
        assert!(second.path().exists());
        Ok(())
    }
}
