//! The command `generate`: writes a synthetic history.

use std::io::{self, Write};

use checker::Validity;
use clap::Args;
use history::synthetic::{self, PlantedViolation, SyntheticOptions};

use super::CommandError;

/// Arguments of `generate`.
#[derive(Clone, Debug, Args)]
pub struct GenerateArgs {
    /// Number of operations.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub ops: u64,

    /// Number of keys.
    #[arg(long, value_name = "K", default_value_t = 16)]
    pub keys: u32,

    /// Number of operations that are open at a time.
    #[arg(long, value_name = "C", default_value_t = 10)]
    pub concurrency: u32,

    /// Share of writes whose outcome is unknown, from 0 to 1.
    #[arg(long, value_name = "P", default_value_t = 0.01)]
    pub indeterminate: f64,

    /// Seed of all random choices.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,

    /// Plant one violation: stale-read, lost-write, aborted-read, resurrected-delete,
    /// double-effect or future-read.
    #[arg(long, value_name = "KIND")]
    pub violate: Option<PlantedViolation>,
}

/// Writes a synthetic history, linearizable except for the violation that is planted on request.
///
/// # Errors
/// The output cannot be written.
pub fn generate(args: &GenerateArgs, out: &mut impl Write) -> Result<Validity, CommandError> {
    let options = SyntheticOptions {
        ops: args.ops,
        keys: args.keys,
        concurrency: args.concurrency,
        indeterminate: args.indeterminate,
        puts: 45,
        deletes: 10,
        seed: args.seed,
        violation: args.violate,
    };
    let mut out = io::BufWriter::with_capacity(1 << 18, out);
    synthetic::generate(&options, |event| {
        serde_json::to_writer(&mut out, event)?;
        out.write_all(b"\n")
    })?;
    out.flush()?;
    Ok(Validity::Valid)
}
