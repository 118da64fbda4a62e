//! The directory of one run: its path, the links to it, and the names of the files in it. Does not
//! know their contents.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use history::FailedRun;

/// The directory `STORE/<system>-<faults>/<UTC time>/`.
#[derive(Clone, Debug)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Creates the directory of a run and points the `latest` links at it.
    ///
    /// # Errors
    /// A directory or link cannot be created; the error names it.
    pub fn create(store: &Path, name: &str, started: SystemTime) -> io::Result<Self> {
        let group = store.join(name);
        with_path(&group, fs::create_dir_all(&group))?;
        let time = utc(started);
        let mut path = group.join(&time);
        // Runs that start in the same second get a suffix.
        let mut n = 1;
        loop {
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    n += 1;
                    path = group.join(format!("{time}-{n}"));
                }
                created => {
                    with_path(&path, created)?;
                    break;
                }
            }
        }
        let leaf = path.file_name().map(PathBuf::from).unwrap_or_default();
        link(&group.join("latest"), &leaf)?;
        link(&store.join("latest"), &Path::new(name).join(&leaf))?;
        Ok(RunDirectory { path })
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The history, one event per line.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.path.join("history.jsonl")
    }

    /// The description of the run.
    #[must_use]
    pub fn test(&self) -> PathBuf {
        self.path.join("test.json")
    }

    /// What every replica stored at the end.
    #[must_use]
    pub fn final_state(&self) -> PathBuf {
        self.path.join("final.json")
    }

    /// Records why the run could not be made, for who finds the directory. Whoever made it is told by the error
    /// itself, so a failure to record it is not another one.
    pub fn record_failure(&self, error: &dyn std::error::Error) {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !why.contains(&text) {
                why = format!("{why}: {text}");
            }
            source = cause.source();
        }
        if let Ok(text) = serde_json::to_vec(&FailedRun { why }) {
            let _ = fs::write(self.path.join(FailedRun::FILE), text);
        }
    }

    /// The size of everything in it, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        bytes_below(&self.path)
    }

    /// The directory for a node's journal and log, created if it does not exist.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn node(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join("nodes").join(name);
        with_path(&path, fs::create_dir_all(&path))?;
        Ok(path)
    }
}

/// Points a link at a target atomically, replacing an existing link.
fn link(link: &Path, target: &Path) -> io::Result<()> {
    let fresh = link.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&fresh);
    with_path(&fresh, symlink(target, &fresh))?;
    with_path(link, fs::rename(&fresh, link))
}

/// The sizes of all files below a directory, in bytes, as far as they can be read.
#[must_use]
pub fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    };
    entries.map(size).sum()
}

/// Adds the path to an error.
fn with_path<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// A time as `20260131T235959Z`: sortable and valid in file names.
#[must_use]
pub fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The date of a day counted from 1970-01-01. Counts years and months, which is fast enough for once
/// per run.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_formatted_in_utc() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_704_067_199, "20231231T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn runs_of_one_second_get_separate_directories_and_latest_is_the_last() -> io::Result<()> {
        let store = tempfile::tempdir()?;
        let now = SystemTime::now();
        let first = RunDirectory::create(store.path(), "twopc-none", now)?;
        let second = RunDirectory::create(store.path(), "twopc-none", now)?;
        assert_ne!(first.path(), second.path());
        let other = RunDirectory::create(store.path(), "twopc-kill-master", now)?;
        for (link, run) in [("latest", &other), ("twopc-none/latest", &second)] {
            assert_eq!(
                fs::canonicalize(store.path().join(link))?,
                fs::canonicalize(run.path())?,
                "{link}"
            );
        }
        Ok(())
    }
}
