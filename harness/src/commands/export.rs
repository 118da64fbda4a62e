//! The command `export`: writes a recorded history in the format of another tool.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use checker::Validity;
use clap::Args;
use history::export::{self, ExportError, ExportFormat};
use twopc::checks::LoadError;

use super::{CommandError, history_file};

/// Arguments of `export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// A run directory or a recorded history file.
    #[arg(value_name = "PATH", default_value = "histories/latest")]
    pub path: PathBuf,

    /// Format to write: edn (Jepsen's history.edn) or porcupine (its key/value data).
    #[arg(long, value_name = "FORMAT")]
    pub format: ExportFormat,
}

/// Writes a recorded history in the format of another tool.
///
/// # Errors
/// The history cannot be read or expressed in the format.
pub fn export(args: &ExportArgs, out: &mut impl Write) -> Result<Validity, CommandError> {
    let path = history_file(&args.path)?;
    let mut out = io::BufWriter::with_capacity(1 << 18, out);
    export::export(&path, args.format, &mut out).map_err(|error| match error {
        ExportError::Write(error) => CommandError::Write(error),
        ExportError::Read(error) => CommandError::Load(LoadError::History(error)),
        ExportError::EmptyValue { .. } | ExportError::Function { .. } => {
            CommandError::Export { path: path.clone(), source: error }
        }
    })?;
    out.flush()?;
    Ok(Validity::Valid)
}
