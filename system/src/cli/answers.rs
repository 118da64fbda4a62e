//! What the program `client` says and how it ends: lines on standard output, an exit status. Knows
//! nothing of operations.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// How well something went, in the order of the exit statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Went {
    Well,
    Refused,
    Misused,
    Unknown,
}

impl From<Went> for ExitCode {
    fn from(went: Went) -> Self {
        ExitCode::from(went as u8)
    }
}

/// Why a client ends before it has said everything.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Early {
    /// Whoever read standard output has read enough, as `head` does.
    Unheard,
    /// It cannot go on, and why.
    Failed(String),
}

impl From<String> for Early {
    fn from(why: String) -> Self {
        Early::Failed(why)
    }
}

impl From<io::Error> for Early {
    /// An error of standard output.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Early::Unheard,
            _ => Early::Failed(format!("standard output: {error}")),
        }
    }
}

/// Says one line, at once.
pub(super) fn say(line: &str) -> Result<(), Early> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
