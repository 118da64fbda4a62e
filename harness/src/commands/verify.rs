//! The command `verify`: verifies certificates.

use std::{io::Write, path::PathBuf};

use checker::{
    Spec, Validity,
    certificate::{Verified, verify_file},
};
use clap::Args;
use history::formats::Format;
use twopc::checks::LoadError;

use super::{CommandError, history_file};

/// Arguments of `verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// A run directory or a history file.
    #[arg(value_name = "PATH")]
    pub history: PathBuf,

    /// The file that `harness check --certify` wrote for it.
    #[arg(value_name = "CERTIFICATES")]
    pub certificates: PathBuf,

    /// Format of the file, as for `harness check`; detected from the content by default.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,

    /// Value that its registers begin with, as for `harness check`.
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub initial: Option<String>,

    /// Specification of its keys: register (put, del, get, cas) or append.
    #[arg(long, value_name = "SPEC")]
    pub spec: Option<Spec>,
}

/// Verifies certificates with a verifier that shares no code with the checker.
///
/// # Errors
/// A file cannot be read.
pub fn verify(args: &VerifyArgs, out: &mut impl Write) -> Result<Validity, CommandError> {
    let VerifyArgs { history, certificates, format, initial, spec } = args;
    let path = history_file(history)?;
    let verified = verify_file(&path, *format, *spec, initial.as_deref(), certificates)
        .map_err(LoadError::History)?;
    let name = certificates.display();
    Ok(match verified {
        Verified::Accepted { keys: 0, .. } => {
            writeln!(out, "unknown: {name}: the history contains no operations")?;
            Validity::Unknown
        }
        Verified::Accepted { keys, operations } => {
            writeln!(out, "valid: {name}: {keys} keys, {operations} operations in order")?;
            Validity::Valid
        }
        Verified::Rejected { key, reason } => {
            writeln!(out, "invalid: {name}: {key}: {reason}")?;
            Validity::Invalid
        }
    })
}
