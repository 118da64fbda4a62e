//! The command `generate`: writes a synthetic history.

use std::{
    io::{self, Write},
    str::FromStr,
};

use checker::{Validity, transactions};
use clap::Args;
use history::synthetic::{
    self, SyntheticOptions,
    transactions::{Isolation, LineWriter, PlantedAnomaly, SyntheticWorkload, TransactionOptions},
};

use super::CommandError;

/// Arguments of `generate`.
#[derive(Clone, Debug, Args)]
pub struct GenerateArgs {
    /// Number of operations.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub ops: u64,

    /// Transactions instead of operations on single keys: append (lists) or rw (registers).
    #[arg(long, value_name = "WORKLOAD")]
    pub workload: Option<SyntheticWorkload>,

    /// Number of transactions.
    #[arg(long, value_name = "N", default_value_t = 10_000, requires = "workload")]
    pub txns: u64,

    /// How the simulated database isolates transactions: read-committed, snapshot-isolation,
    /// serializable or strict-serializable.
    #[arg(long, value_name = "LEVEL", default_value = "strict-serializable", requires = "workload",
          value_parser = isolation)]
    pub level: Isolation,

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

    /// Plant one violation: stale-read, lost-write, aborted-read, resurrected-delete, double-effect or
    /// future-read; of transactions g0, g1a, g1b, g1c, internal, duplicate-elements,
    /// incompatible-order, garbage-read, future-read, dirty-update, lost-update, g-single,
    /// g-nonadjacent, long-fork, g2-item, g-single-process, g-single-realtime or lost-write.
    #[arg(long, value_name = "KIND")]
    pub violate: Option<String>,
}

/// Writes a synthetic history, linearizable except for the violation that is planted on request.
///
/// # Errors
/// The violation is none of the history, or the output cannot be written.
pub fn generate(args: &GenerateArgs, out: &mut impl Write) -> Result<Validity, CommandError> {
    let mut out = io::BufWriter::with_capacity(1 << 18, out);
    if let Some(workload) = args.workload {
        write_transactions(args, workload, &mut out)?;
        return Ok(Validity::Valid);
    }
    let options = SyntheticOptions {
        ops: args.ops,
        keys: args.keys,
        concurrency: args.concurrency,
        indeterminate: args.indeterminate,
        puts: 45,
        deletes: 10,
        seed: args.seed,
        violation: violation(args)?,
    };
    synthetic::generate(&options, |event| {
        serde_json::to_writer(&mut out, event)?;
        out.write_all(b"\n")
    })?;
    out.flush()?;
    Ok(Validity::Valid)
}

/// The isolation of the simulated database, by any name that its level has.
fn isolation(name: &str) -> Result<Isolation, String> {
    let level: transactions::Level = name.parse()?;
    let level = level.to_string();
    Isolation::ALL.into_iter().find(|isolation| isolation.name() == level).ok_or_else(|| {
        let names = Isolation::ALL.map(Isolation::name).join(", ");
        format!("{level} is not simulated: expected one of {names}")
    })
}

/// The violation to plant.
fn violation<T: FromStr<Err = String>>(args: &GenerateArgs) -> Result<Option<T>, CommandError> {
    let parsed = args.violate.as_deref().map(str::parse).transpose();
    parsed.map_err(|why| CommandError::Invalid(format!("--violate: {why}")))
}

/// Writes a synthetic history of transactions.
fn write_transactions(
    args: &GenerateArgs,
    workload: SyntheticWorkload,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let anomaly: Option<PlantedAnomaly> = violation(args)?;
    if let Some(anomaly) = anomaly
        && workload == SyntheticWorkload::Registers
        && !anomaly.is_of_registers()
    {
        return Err(CommandError::Invalid(format!(
            "--violate {anomaly}: registers do not show it; --workload append does"
        )));
    }
    let options = TransactionOptions {
        transactions: args.txns,
        keys: args.keys,
        writes_per_key: 32,
        steps: 7,
        concurrency: args.concurrency,
        indeterminate: args.indeterminate,
        workload,
        isolation: args.level,
        seed: args.seed,
        anomaly,
    };
    let mut lines = LineWriter::new(out, workload);
    synthetic::transactions::generate(&options, |event| lines.event(event))?;
    Ok(lines.finish()?)
}
