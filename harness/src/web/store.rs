//! The runs that lie in a store, and the files in them: nothing outside of it, by whatever name it
//! is asked for. Knows nothing of how it is asked.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde_json::Value as Json;

use crate::checker::{Results, Validity};

/// A directory of runs.
#[derive(Clone, Debug)]
pub(super) struct Store {
    /// As the operating system knows it: no link in it.
    root: PathBuf,
}

/// A run, by the names of its two directories.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RunId {
    pub(super) group: String,
    pub(super) name: String,
}

impl RunId {
    /// The run's path in the store and in addresses.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }
}

/// What is known of a run at a glance.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) id: RunId,
    /// `test.json`; null if it cannot be read.
    pub(super) test: Json,
    /// None if it was not judged, or not yet.
    pub(super) results: Option<Results>,
    /// It was not judged, and its history still grows.
    pub(super) running: bool,
}

impl Listed {
    pub(super) fn verdict(&self) -> Option<Validity> {
        self.results.as_ref().map(|results| results.verdict)
    }

    /// A text of `test.json`.
    pub(super) fn text(&self, field: &str) -> String {
        match self.test.get(field) {
            Some(Json::String(text)) => text.clone(),
            Some(Json::Array(list)) => {
                list.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(", ")
            }
            Some(Json::Null) | None => String::new(),
            Some(other) => other.to_string(),
        }
    }

    /// Something that the statistics say.
    pub(super) fn measured(&self, path: &[&str]) -> Option<f64> {
        let statistics = self.results.as_ref()?.check("statistics")?;
        let (first, rest) = path.split_first()?;
        let start = statistics.measured.get(*first)?;
        rest.iter().try_fold(start, |value, name| value.get(name))?.as_f64()
    }

    /// How many operations were asked.
    pub(super) fn operations(&self) -> Option<f64> {
        let ends = ["ok", "fail", "info"].map(|end| self.measured(&["counts", "all", end]));
        ends.iter().any(Option::is_some).then(|| ends.into_iter().flatten().sum())
    }
}

/// A history that has not grown for this long grows no more.
const STILL: Duration = Duration::from_secs(10);

impl Store {
    /// The store in this directory.
    ///
    /// # Errors
    /// There is no such directory.
    pub(super) fn open(directory: &Path) -> io::Result<Store> {
        let root = fs::canonicalize(directory)?;
        if !root.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "not a directory"));
        }
        Ok(Store { root })
    }

    /// The runs, the latest first. What is no run is passed over.
    pub(super) fn runs(&self) -> Vec<Listed> {
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

    /// A run at a glance; none if there is none of this name.
    pub(super) fn run(&self, id: &RunId) -> Option<Listed> {
        let directory = self.directory(id)?;
        let read = |name: &str| fs::read(directory.join(name)).ok();
        let test = read("test.json").and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let history = fs::metadata(directory.join("history.jsonl")).ok()?;
        let results = read("results.json").and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let grew = history.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        let running = results.is_none() && grew.is_none_or(|ago| ago < STILL);
        Some(Listed { id: id.clone(), test: test.unwrap_or(Json::Null), results, running })
    }

    /// The directory of a run.
    pub(super) fn directory(&self, id: &RunId) -> Option<PathBuf> {
        if !is_name(&id.group) || !is_name(&id.name) {
            return None;
        }
        let path = fs::canonicalize(self.root.join(&id.group).join(&id.name)).ok()?;
        // A link may lead to another run of the store, and no further.
        let inside = path.strip_prefix(&self.root).ok()?;
        (path.is_dir() && inside.components().count() == 2).then_some(path)
    }

    /// A file or directory of a run, by its path in the run.
    pub(super) fn file(&self, id: &RunId, path: &str) -> Option<PathBuf> {
        let directory = self.directory(id)?;
        let mut wanted = directory.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if !is_name(name) {
                return None;
            }
            wanted.push(name);
        }
        let found = fs::canonicalize(wanted).ok()?;
        found.starts_with(&directory).then_some(found)
    }
}

/// The directories in a directory that may be seen, without links.
fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_name(name))
        .collect()
}

/// Whether a text is one name in a directory, and no way out of it.
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
    fn nothing_outside_the_store_is_found() -> io::Result<()> {
        let place = tempfile::tempdir()?;
        let root = place.path().join("store");
        let run = root.join("twopc-none/20260101T000000Z");
        fs::create_dir_all(run.join("nodes/r1"))?;
        fs::write(run.join("history.jsonl"), "")?;
        fs::write(run.join("test.json"), "{}")?;
        fs::write(run.join("nodes/r1/log"), "l")?;
        fs::create_dir_all(place.path().join("outside/run"))?;
        fs::write(place.path().join("outside/run/history.jsonl"), "secret")?;
        symlink(place.path().join("outside/run"), root.join("twopc-none/leak"))?;
        symlink(place.path().join("outside"), root.join("group"))?;
        symlink(place.path().join("outside/run/history.jsonl"), run.join("leak.jsonl"))?;
        symlink("20260101T000000Z", root.join("twopc-none/latest"))?;
        symlink("test.json", run.join("also.json"))?;

        let store = Store::open(&root)?;
        let id = |group: &str, name: &str| RunId { group: group.into(), name: name.into() };
        let run = id("twopc-none", "20260101T000000Z");
        assert_eq!(
            store.runs().into_iter().map(|run| run.id).collect::<Vec<_>>(),
            std::slice::from_ref(&run)
        );
        assert!(store.run(&id("twopc-none", "latest")).is_some(), "a link within the store");
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
