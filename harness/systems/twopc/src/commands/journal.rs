//! `inspect --journal`: the journal of a node as lines.

use std::{
    io::{self, Write},
    path::Path,
};

use report::{inspect::InspectError, terminal::Escaped};
use system::journal;

use crate::checks::find_journals;

/// Prints the journal of a node in a run directory: a JSON object per line.
///
/// # Errors
/// The run has no journal of that node, the journal cannot be read, or the output cannot be written.
pub fn print_journal(run: &Path, node: &str, out: &mut impl Write) -> Result<(), InspectError> {
    let unreadable = |path: &Path, source| InspectError::File { path: path.to_owned(), source };
    let journals = find_journals(run).map_err(|error| unreadable(run, io::Error::other(error)))?;
    let journal = journals.iter().find(|(name, _)| name.to_string() == node);
    let Some((_, path)) = journal else {
        let names: Vec<_> = journals.keys().map(ToString::to_string).collect();
        let reason = match names.is_empty() {
            true => "the run has no journals; expected nodes/<name>/journal.bin".to_owned(),
            false => format!("no journal of '{node}'; there are those of {}", names.join(", ")),
        };
        return Err(unreadable(run, io::Error::new(io::ErrorKind::NotFound, reason)));
    };
    let mut out = Escaped::new(out);
    let mut lines = journal::Lines::open(path).map_err(|error| unreadable(path, error))?;
    while let Some((_, line)) = lines.next_line().map_err(|error| unreadable(path, error))? {
        out.write_all(line)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
