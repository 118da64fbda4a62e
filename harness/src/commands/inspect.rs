//! The command `inspect`: shows a recorded run in the terminal.

use std::{io::Write, path::PathBuf};

use checker::Validity;
use clap::Args;
use lab::duration::parse_duration;
use report::inspect::{Filter, Format, InspectError};
use twopc::{commands::print_journal, page};

/// Arguments of `inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// The run directory.
    #[arg(value_name = "PATH", default_value = "histories/latest")]
    pub path: PathBuf,

    /// List only operations on this key, one per line. May be repeated.
    #[arg(long, value_name = "KEY")]
    pub key: Vec<String>,

    /// List only operations of this process, one per line. May be repeated.
    #[arg(long, value_name = "N")]
    pub process: Vec<u64>,

    /// List only operations and faults in progress at or after this time of the history: 1.5s, 800ms.
    #[arg(long, value_name = "TIME", value_parser = nanoseconds)]
    pub from: Option<u64>,

    /// List only operations and faults that began at or before this time of the history.
    #[arg(long, value_name = "TIME", value_parser = nanoseconds)]
    pub to: Option<u64>,

    /// Print the same data as one JSON object.
    #[arg(long)]
    pub json: bool,

    /// Print the journal of this node instead: every input and output of its state machine, one JSON
    /// object per line. `r2 journal line 17` is the 17th line.
    #[arg(long, value_name = "NODE", conflicts_with_all = ["key", "process", "from", "to", "json"])]
    pub journal: Option<String>,
}

fn nanoseconds(text: &str) -> Result<u64, String> {
    parse_duration(text).map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// Prints a run and returns its recorded verdict.
///
/// # Errors
/// A file of the run cannot be read, or the output cannot be written.
pub fn inspect(args: &InspectArgs, out: &mut impl Write) -> Result<Validity, InspectError> {
    if let Some(node) = &args.journal {
        print_journal(&args.path, node, out)?;
        return Ok(Validity::Valid);
    }
    let filter = Filter {
        keys: args.key.clone(),
        processes: args.process.clone(),
        from: args.from,
        to: args.to,
    };
    let format = if args.json { Format::Json } else { Format::Text };
    report::inspect::inspect(&args.path, &filter, format, page::summary, page::terms, out)
}
