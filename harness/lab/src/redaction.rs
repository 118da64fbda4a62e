//! Replaces the keys and values of a run by digests, in the files that are kept of it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use history::Redactor;

use crate::run_directory::RunDirectory;

/// Replaces keys and values in the history and in all logs of a run: see [`Redactor`]. What cannot be redacted
/// is removed.
///
/// # Errors
/// A file cannot be read or written.
pub(crate) fn redact(run: &RunDirectory) -> io::Result<()> {
    let mut redactor = Redactor::new();
    let history = run.history();
    replace(&history, redacted(&history, &mut redactor))?;
    for log in logs_below(run.path()) {
        let text = fs::read(&log)
            .map(|bytes| redactor.redact_text(&String::from_utf8_lossy(&bytes)).into_bytes());
        replace(&log, text)?;
    }
    Ok(())
}

/// The history with digests for keys and values.
fn redacted(path: &Path, redactor: &mut Redactor) -> io::Result<Vec<u8>> {
    let mut events = history::read(path).map_err(io::Error::other)?.events;
    events.iter_mut().for_each(|event| redactor.redact(event));
    let mut text = Vec::new();
    for event in &mut events {
        redactor.redact_messages(event);
        serde_json::to_writer(&mut text, event)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// Replaces the content of a file. Without a new one, the file is removed: the old content must not stay,
/// whatever happens.
fn replace(path: &Path, content: io::Result<Vec<u8>>) -> io::Result<()> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    fs::remove_file(path).map_err(named)?;
    fs::write(path, content.map_err(named)?).map_err(named)
}

/// The logs of nodes and clients.
fn logs_below(directory: &Path) -> Vec<PathBuf> {
    let is_log = |name: &str| name == "log" || name.ends_with(".log");
    let mut logs = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            logs.extend(logs_below(&path));
        } else if entry.file_name().to_str().is_some_and(is_log) {
            logs.push(path);
        }
    }
    logs
}
