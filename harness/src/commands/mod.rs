//! The commands on recorded histories and runs: `check`, `verify`, `export`, `generate`, `inspect`,
//! `serve` and `replay`, one module each. They print results; the crates [`checker`], [`history`] and
//! [`report`], and the checks in [`twopc`](twopc::checks), compute them.

mod check;
mod export;
mod generate;
mod inspect;
pub mod progress;
mod replay;
mod serve;
mod verify;

use std::{
    io,
    path::{Path, PathBuf},
};

use history::export::ExportError;
use twopc::checks::{LoadError, replay::ReplayError};

pub use self::{
    check::{CheckArgs, check, check_run, print_results},
    export::{ExportArgs, export},
    generate::{GenerateArgs, generate},
    inspect::{InspectArgs, inspect},
    replay::{ReplayArgs, replay},
    serve::{ServeArgs, ServeFailure, serve},
    verify::{VerifyArgs, verify},
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
    /// The arguments contradict each other.
    #[error("{0}")]
    Arguments(&'static str),
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

/// The history file that a path names: the file itself, or the history in a directory.
fn history_file(path: &Path) -> Result<PathBuf, CommandError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let inside = ["history.jsonl", "history.edn"].map(|name| path.join(name));
    inside.into_iter().find(|file| file.exists()).ok_or_else(|| {
        let reason = "the directory contains neither history.jsonl nor history.edn";
        CommandError::Nothing { path: path.to_owned(), reason }
    })
}
