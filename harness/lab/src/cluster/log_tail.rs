//! Excerpts of a node's log for error messages.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

const BYTES_MAX: u64 = 4096;
const LINES_MAX: usize = 6;

/// The last lines of a log, each preceded by a line break and an indent; empty if there are none.
/// Paths below `scratch` are shortened, because that directory does not survive the run.
pub(super) fn log_tail(path: &Path, scratch: &Path) -> String {
    let text = read_end(path).unwrap_or_default().replace(&format!("{}/", scratch.display()), "");
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_MAX)..]
        .iter()
        .map(|line| format!("\n    {line}"))
        .collect()
}

fn read_end(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
