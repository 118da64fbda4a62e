//! The commands on recorded histories and runs: `check`, `verify`, `export`, `generate`, `inspect`,
//! `merge`, `serve`, `runs` and `replay`, one module each. They print results; the crates [`checker`], [`history`] and
//! [`report`], and the checks in [`twopc`](twopc::checks), compute them.

mod check;
mod ci;
mod export;
mod generate;
mod inspect;
mod merge;
pub mod progress;
mod replay;
mod runs;
mod serve;
mod verify;
mod workload_run;

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use campaign::CampaignError;
use history::export::ExportError;
use nix::errno::Errno;
use twopc::checks::{LoadError, replay::ReplayError};

pub(crate) use self::runs::remove_links;
pub use self::{
    check::{CheckArgs, Checked, FileFailure, check, print_results},
    ci::{CiArgs, CiOutput},
    export::{ExportArgs, export},
    generate::{GenerateArgs, generate},
    inspect::{InspectArgs, inspect},
    merge::{MergeArgs, merge},
    replay::{ReplayArgs, replay},
    runs::{RunsArgs, runs},
    serve::{ServeArgs, ServeFailure, serve},
    verify::{VerifyArgs, verify},
    workload_run::{CheckedRun, check_workload_run, is_workload_run},
};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A history or a run cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A journal cannot be replayed.
    #[error("{}: {source}", path.display())]
    Replay {
        /// The journal.
        path: PathBuf,
        /// The reason.
        source: ReplayError,
    },
    /// A path does not contain what the command works on.
    #[error("{}: {reason}", path.display())]
    Nothing {
        /// The path.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// A history cannot be expressed in the format to export.
    #[error("{}: {source}", path.display())]
    Export {
        /// The history.
        path: PathBuf,
        /// The reason.
        source: ExportError,
    },
    /// The page of a run cannot be written.
    #[error(transparent)]
    Report(#[from] report::ReportError),
    /// A campaign cannot be merged.
    #[error(transparent)]
    Campaign(#[from] CampaignError),
    /// The arguments contradict each other.
    #[error("{0}")]
    Arguments(&'static str),
    /// An argument is invalid.
    #[error("{0}")]
    Invalid(String),
    /// A certificate file cannot be written.
    #[error("{}: {source}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Whether an error is one of this machine, which another one may not have: it lacks space, memory or descriptors, or
/// its medium fails.
#[must_use]
pub fn is_of_machine(error: &(dyn Error + 'static)) -> bool {
    const OF_MACHINE: [Errno; 7] = [
        Errno::ENOSPC,
        Errno::EDQUOT,
        Errno::EIO,
        Errno::ESTALE,
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ENOMEM,
    ];
    let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    number.is_some_and(|number| OF_MACHINE.contains(&Errno::from_raw(number)))
        || error.source().is_some_and(is_of_machine)
}

/// Prints a value as a line of JSON.
fn print_json(value: &impl serde::Serialize, out: &mut impl io::Write) -> Result<(), CommandError> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// The history files in a directory, in the order in which they are looked for: our own, and those of
/// Jepsen's store.
const HISTORY_FILES: [&str; 4] = ["history.jsonl", "history.edn", "history.txt", "jepsen.log"];

/// The history in a directory of a run or of Jepsen's store.
fn history_in(directory: &Path) -> Option<PathBuf> {
    HISTORY_FILES.iter().map(|name| directory.join(name)).find(|file| file.is_file())
}

/// The history file that a path names: the file itself, or the history in a directory.
fn history_file(path: &Path) -> Result<PathBuf, CommandError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    history_in(path).ok_or_else(|| {
        let reason = "the directory contains neither history.jsonl nor history.edn, history.txt or \
                      jepsen.log";
        CommandError::Nothing { path: path.to_owned(), reason }
    })
}

/// A history on disk.
struct History {
    /// The file, or the directory of a run.
    path: PathBuf,
    /// Whether it is a run of this harness, with records besides the history.
    is_run: bool,
}

impl History {
    /// The file with the clients' history.
    fn file(self) -> PathBuf {
        if self.is_run { self.path.join(HISTORY_FILES[0]) } else { self.path }
    }
}

/// The histories that paths name: files, directories of runs and of Jepsen's store, and everything in
/// other directories.
fn histories(paths: &[PathBuf]) -> Result<Vec<History>, CommandError> {
    let mut found = Vec::new();
    for path in paths {
        let before = found.len();
        add_histories(path, &mut found)?;
        if found.len() == before {
            let reason = "the directory contains no history: neither history.jsonl nor history.edn, \
                          history.txt or any other file";
            return Err(CommandError::Nothing { path: path.clone(), reason });
        }
    }
    Ok(found)
}

fn add_histories(path: &Path, found: &mut Vec<History>) -> Result<(), CommandError> {
    if !path.is_dir() || history::formats::is_directory_history(path) {
        found.push(History { path: path.to_owned(), is_run: false });
        return Ok(());
    }
    if path.join("test.json").exists() {
        found.push(History { path: path.to_owned(), is_run: true });
        return Ok(());
    }
    if let Some(path) = history_in(path) {
        found.push(History { path, is_run: false });
        return Ok(());
    }
    let unreadable = |source| LoadError::File { path: path.to_owned(), source };
    let entries = fs::read_dir(path).map_err(unreadable)?;
    let mut inside: Vec<fs::DirEntry> = entries.collect::<Result<_, _>>().map_err(unreadable)?;
    inside.sort_unstable_by_key(fs::DirEntry::file_name);
    for entry in inside {
        // Hidden files are of tools.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type().map_err(unreadable)?;
        let path = entry.path();
        if kind.is_file() {
            found.push(History { path, is_run: false });
        } else if !(kind.is_symlink() && path.is_dir()) {
            // Links to directories, such as latest, are to what is here anyway.
            add_histories(&path, found)?;
        }
    }
    Ok(())
}
