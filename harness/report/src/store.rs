//! A store of runs: lists runs, and resolves requested names to files inside the store. A name never
//! resolves to a file outside, whether by `..`, by an absolute path, or by a symbolic link.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use checker::{Results, Validity};
use history::{FailedRun, RunDescription};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// A directory of runs: `GROUP/TIME/`.
#[derive(Clone, Debug)]
pub struct Store {
    /// The canonical path.
    root: PathBuf,
}

/// A run, by the names of its two directories.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId {
    /// The system and the faults.
    pub group: String,
    /// The time at which it began.
    pub name: String,
}

impl RunId {
    /// The path of the run, in the store and in URLs.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }
}

/// The UTC time in the name of a run as people write it: `20260131T235959Z` is 31 Jan 2026, 23:59:59. Other names
/// are returned as they are, and the suffix of a name stays.
#[must_use]
pub fn readable_time(name: &str) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let part = |from: usize, to: usize| {
        let digits = name.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(digits)
    };
    let readable = || {
        let [year, month, day] = [part(0, 4)?, part(4, 6)?, part(6, 8)?];
        let [hour, minute, second] = [part(9, 11)?, part(11, 13)?, part(13, 15)?];
        let month = MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?)?;
        let suffix = name.get(8..9)?.eq("T").then(|| name.get(15..)?.strip_prefix('Z'))??;
        let day = day.trim_start_matches('0');
        Some(format!("{day} {month} {year}, {hour}:{minute}:{second}{suffix}"))
    };
    readable().unwrap_or_else(|| name.to_owned())
}

/// What the list of runs shows of a run.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// Which run it is.
    pub id: RunId,
    /// `test.json`. Empty if it cannot be read.
    pub test: RunDescription,
    /// `results.json`. `None` if the run was not checked.
    pub results: Option<Results>,
    /// Whether the run was not checked yet and its history is growing.
    pub running: bool,
    /// Whether the run is being checked, or its page is being written.
    pub judging: bool,
    /// Why the run could not be made.
    pub failed: Option<String>,
}

/// The mark of a run that is being judged: a lock on its description, which ends with the process that holds it.
/// A reader of the store that only looks whether the lock is held takes it for an instant.
#[derive(Debug)]
pub struct JudgingMark {
    _lock: Option<Flock<File>>,
}

impl JudgingMark {
    /// Marks the run in a directory. A directory where that is impossible has no mark.
    #[must_use]
    pub fn set(directory: &Path) -> JudgingMark {
        let file = File::open(directory.join(DESCRIPTION)).ok();
        let lock = file.and_then(|file| Flock::lock(file, FlockArg::LockExclusive).ok());
        JudgingMark { _lock: lock }
    }

    /// Whether somebody has marked the run in a directory.
    pub(crate) fn is_set(directory: &Path) -> bool {
        let Ok(file) = File::open(directory.join(DESCRIPTION)) else { return false };
        matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
    }
}

/// The description of a run, in its directory.
const DESCRIPTION: &str = "test.json";

impl RunSummary {
    /// The option of `test.json` that has the name that somebody gave the run.
    pub const LABEL: &str = "label";

    /// The name that somebody gave the run.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.test.options.get(Self::LABEL)?.as_str()
    }

    /// The verdict. `None` if the run was not checked.
    #[must_use]
    pub fn verdict(&self) -> Option<Validity> {
        self.results.as_ref().map(|results| results.verdict)
    }

    /// A measurement of the statistics.
    #[must_use]
    pub fn measured(&self, path: &[&str]) -> Option<f64> {
        let statistics = self.results.as_ref()?.check("statistics")?;
        let (first, rest) = path.split_first()?;
        let start = statistics.measured.get(*first)?;
        rest.iter().try_fold(start, |value, name| value.get(name))?.as_f64()
    }

    /// The number of completed operations.
    #[must_use]
    pub fn operations(&self) -> Option<f64> {
        let counts =
            ["ok", "fail", "info"].map(|outcome| self.measured(&["counts", "all", outcome]));
        counts.iter().any(Option::is_some).then(|| counts.into_iter().flatten().sum())
    }
}

/// A run whose history has not grown for this long is not running. The end of a run waits longer than most others
/// until the nodes have settled, and records nothing meanwhile.
const RUNNING_TIMEOUT: Duration = Duration::from_secs(30);

impl Store {
    /// Opens the store in a directory.
    ///
    /// # Errors
    /// The directory does not exist.
    pub fn open(directory: &Path) -> io::Result<Store> {
        let root = fs::canonicalize(directory)?;
        if !root.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "not a directory"));
        }
        Ok(Store { root })
    }

    /// The runs, latest first. Other directories are ignored.
    #[must_use]
    pub fn runs(&self) -> Vec<RunSummary> {
        let mut runs = Vec::new();
        for group in names(&self.root) {
            for name in names(&self.root.join(&group)) {
                let id = RunId { group: group.clone(), name };
                runs.extend(self.run(&id));
            }
        }
        runs.sort_by(|a, b| (&b.id.name, &b.id.group).cmp(&(&a.id.name, &a.id.group)));
        runs
    }

    /// The summary of a run. `None` if there is no such run.
    #[must_use]
    pub fn run(&self, id: &RunId) -> Option<RunSummary> {
        let directory = self.directory(id)?;
        let read = |name: &str| fs::read(directory.join(name)).ok();
        let failed = read(FailedRun::FILE)
            .and_then(|bytes| serde_json::from_slice::<FailedRun>(&bytes).ok());
        let test = read(DESCRIPTION).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let history = fs::metadata(directory.join("history.jsonl"));
        if history.is_err() && failed.is_none() {
            return None;
        }
        let results = read("results.json").and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let changed = history.and_then(|history| history.modified()).ok();
        let unchanged = changed.and_then(|at| SystemTime::now().duration_since(at).ok());
        let judging = JudgingMark::is_set(&directory);
        let running = results.is_none()
            && !judging
            && failed.is_none()
            && unchanged.is_none_or(|time| time < RUNNING_TIMEOUT);
        Some(RunSummary {
            id: id.clone(),
            test: test.unwrap_or_default(),
            results,
            running,
            judging,
            failed: failed.map(|failed| failed.why),
        })
    }

    /// The directory of a run.
    #[must_use]
    pub fn directory(&self, id: &RunId) -> Option<PathBuf> {
        if !is_name(&id.group) || !is_name(&id.name) {
            return None;
        }
        let path = fs::canonicalize(self.root.join(&id.group).join(&id.name)).ok()?;
        // A symbolic link may lead to another run of the store, but not elsewhere.
        let inside = path.strip_prefix(&self.root).ok()?;
        (path.is_dir() && inside.components().count() == 2).then_some(path)
    }

    /// The names of the plots of a run, sorted.
    #[must_use]
    pub fn plots(&self, id: &RunId) -> Vec<String> {
        let files = self.directory(id).and_then(|directory| fs::read_dir(directory).ok());
        let names = files.into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let mut plots: Vec<String> =
            names.filter(|name| is_name(name) && name.ends_with(".svg")).collect();
        plots.sort();
        plots
    }

    /// A file or directory of a run, by its path in the run.
    #[must_use]
    pub fn file(&self, id: &RunId, path: &str) -> Option<PathBuf> {
        let directory = self.directory(id)?;
        let mut requested = directory.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if !is_name(name) {
                return None;
            }
            requested.push(name);
        }
        let found = fs::canonicalize(requested).ok()?;
        found.starts_with(&directory).then_some(found)
    }
}

/// The names of the visible subdirectories, without symbolic links.
fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_name(name))
        .collect()
}

/// Whether a text is a single, visible path component.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-_.,".contains(c))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn times_are_written_as_people_write_them() {
        for (name, readable) in [
            ("20260131T235959Z", "31 Jan 2026, 23:59:59"),
            ("20261207T000102Z-2", "7 Dec 2026, 00:01:02-2"),
            ("20261307T000102Z", "20261307T000102Z"),
            ("20261207X000102Z", "20261207X000102Z"),
            ("2026", "2026"),
            ("größe-zwölf", "größe-zwölf"),
        ] {
            assert_eq!(readable_time(name), readable);
        }
    }

    #[test]
    fn a_run_is_being_judged_until_its_mark_is_dropped() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let run = directory.path().join("twopc-none/20260101T000000Z");
        fs::create_dir_all(&run)?;
        for file in [DESCRIPTION, "history.jsonl"] {
            fs::write(run.join(file), "{}")?;
        }
        let store = Store::open(directory.path())?;
        let state = || store.runs().first().map(|run| (run.running, run.judging));
        assert_eq!(state(), Some((true, false)));
        let mark = JudgingMark::set(&run);
        assert_eq!(state(), Some((false, true)));
        drop(mark);
        assert_eq!(state(), Some((true, false)));
        Ok(())
    }

    #[test]
    fn no_name_resolves_to_a_file_outside_the_store() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let root = directory.path().join("store");
        let run = root.join("twopc-none/20260101T000000Z");
        fs::create_dir_all(run.join("nodes/r1"))?;
        fs::write(run.join("history.jsonl"), "")?;
        fs::write(run.join("test.json"), "{}")?;
        fs::write(run.join("nodes/r1/log"), "l")?;
        fs::create_dir_all(directory.path().join("outside/run"))?;
        fs::write(directory.path().join("outside/run/history.jsonl"), "secret")?;
        symlink(directory.path().join("outside/run"), root.join("twopc-none/leak"))?;
        symlink(directory.path().join("outside"), root.join("group"))?;
        symlink(directory.path().join("outside/run/history.jsonl"), run.join("leak.jsonl"))?;
        symlink("20260101T000000Z", root.join("twopc-none/latest"))?;
        symlink("test.json", run.join("also.json"))?;

        let store = Store::open(&root)?;
        let id = |group: &str, name: &str| RunId { group: group.into(), name: name.into() };
        let run = id("twopc-none", "20260101T000000Z");
        assert_eq!(
            store.runs().into_iter().map(|run| run.id).collect::<Vec<_>>(),
            std::slice::from_ref(&run)
        );
        assert!(
            store.run(&id("twopc-none", "latest")).is_some(),
            "a symbolic link within the store"
        );
        for bad in [
            id("twopc-none", "leak"),
            id("group", "run"),
            id("..", "outside"),
            id("twopc-none", ".."),
            id("twopc-none", ""),
            id("", "twopc-none"),
            id("../outside", "run"),
            id("twopc-none/..", "twopc-none"),
            id("twopc-none", "20260101T000000Z/nodes"),
            id("twopc-none", "2026\0"),
        ] {
            assert!(store.directory(&bad).is_none(), "{bad:?}");
        }
        for good in ["test.json", "nodes/r1/log", "nodes", "also.json", "/nodes//r1/log"] {
            assert!(store.file(&run, good).is_some(), "{good}");
        }
        for bad in [
            "..",
            "../latest/test.json",
            "nodes/../test.json",
            "leak.jsonl",
            "%2e%2e",
            ".",
            "nodes/r1/log/../../../test.json",
            "no.json",
            "nodes\\r1",
            "/etc/passwd",
        ] {
            assert!(store.file(&run, bad).is_none(), "{bad}");
        }
        Ok(())
    }
}
