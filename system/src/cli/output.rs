//! The output and the exit status of the program `client`. Does not know about operations.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// The result of an operation, in the order of the exit statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ExitStatus {
    Ok,
    Refused,
    Usage,
    Unknown,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        ExitCode::from(status as u8)
    }
}

/// The reason why a client ends early.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClientError {
    /// Standard output was closed, as `head` does when it has read enough.
    OutputClosed,
    /// An error, with its description.
    Failed(String),
}

impl From<String> for ClientError {
    fn from(why: String) -> Self {
        ClientError::Failed(why)
    }
}

impl From<io::Error> for ClientError {
    /// An error of standard output.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => ClientError::OutputClosed,
            _ => ClientError::Failed(format!("standard output: {error}")),
        }
    }
}

/// Prints one line and flushes it.
pub(super) fn print_line(line: &str) -> Result<(), ClientError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
