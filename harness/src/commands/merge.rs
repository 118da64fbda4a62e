//! The command `merge`: what the shards of a campaign say together.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use campaign::{FailureGroup, FoundFailure, Merged, MissingShards};
use checker::Validity;
use clap::Args;

use super::{CommandError, print_json};

/// Arguments of `merge`.
#[derive(Clone, Debug, Args)]
pub struct MergeArgs {
    /// The directory of a campaign; with several, its shards are in all of them, as machines without a common file
    /// system leave them. merged.json and report.html are written into the first.
    #[arg(value_name = "DIR", required = true)]
    pub directories: Vec<PathBuf>,

    /// Print the result as one JSON object, that of merged.json.
    #[arg(long)]
    pub json: bool,
}

/// Failures of one kind, and reasons for doubt, that are printed. The page has all.
const SHOWN_MAX: usize = 5;

/// Merges a campaign, prints what its shards say together, and writes its page. `again` makes the command that does a
/// shard again: of the command of the campaign, the shard, and the directory.
///
/// # Errors
/// The directories hold no campaign, or something cannot be written.
pub fn merge(
    args: &MergeArgs,
    again: impl Fn(&str, &str, &Path) -> String,
    out: &mut impl Write,
) -> Result<Validity, CommandError> {
    let merged = campaign::merge(&args.directories)?;
    let directory = &args.directories[0];
    let page = directory.join(report::PAGE);
    let command = merged.commands.first().map(|(command, _)| command.as_str());
    let missing: Vec<Missing> = merged
        .missing
        .iter()
        .map(|missing| {
            let again = command.map(|command| match missing.first == missing.last {
                true => again(command, &merged.shard(missing.first), directory),
                false => {
                    let each = again(command, &format!("$i/{}", merged.of), directory);
                    format!("for i in $(seq {} {}); do {each}; done", missing.first, missing.last)
                }
            });
            (missing.clone(), again)
        })
        .collect();
    let name = directory.display().to_string();
    campaign::write_whole(&page, report::campaign::page(&name, &merged, &missing).as_bytes())?;
    if args.json {
        print_json(&merged, out)?;
    } else {
        print(&merged, &missing, directory, out)?;
        writeln!(out, "page: {}", page.display())?;
        writeln!(out, "{}: {}", merged.verdict, directory.display())?;
    }
    Ok(merged.verdict)
}

/// Shards that are missing, with the command that does them where it is known.
type Missing = (MissingShards, Option<String>);

fn print(
    merged: &Merged,
    missing: &[Missing],
    directory: &Path,
    out: &mut impl Write,
) -> io::Result<()> {
    let done: Vec<String> =
        merged.done.iter().map(|(unit, count)| format!("{count} {unit}")).collect();
    writeln!(
        out,
        "{} of {} shards: {} in {:.1} s of all machines together",
        merged.shards.len(),
        merged.of,
        done.join(", "),
        merged.seconds
    )?;
    if merged.commands.len() > 1 {
        writeln!(out, "the shards are not of one command:")?;
        for (command, count) in &merged.commands {
            writeln!(out, "  {count} of {command}")?;
        }
    }
    for (MissingShards { first, last, why }, again) in missing {
        let which = match first == last {
            true => format!("shard {first}"),
            false => format!("shards {first} to {last}"),
        };
        writeln!(out, "missing: {which}: {}", why.replace('\n', "\n    "))?;
        if let Some(again) = again {
            writeln!(out, "  again: {again}")?;
        }
    }
    for why in merged.unknown_because.iter().take(SHOWN_MAX) {
        writeln!(out, "unknown because: {why}")?;
    }
    if merged.unknown_because.len() > SHOWN_MAX {
        writeln!(out, "  and {} more", merged.unknown_because.len() - SHOWN_MAX)?;
    }
    for FailureGroup { signature, verdict, failures } in &merged.failures {
        writeln!(out, "{verdict}: {signature}: {} times", failures.len())?;
        for FoundFailure { shard, record, failure } in failures.iter().take(SHOWN_MAX) {
            let seed = failure.seed.map_or_else(String::new, |seed| format!("seed {seed}, "));
            writeln!(out, "  {seed}shard {shard}: {}", failure.why.replace('\n', "\n    "))?;
            writeln!(out, "    again: {}", failure.command)?;
            if let Some(record) = record {
                writeln!(out, "    record: {}", directory.join(record).display())?;
            }
        }
        if failures.len() > SHOWN_MAX {
            writeln!(out, "  and {} more", failures.len() - SHOWN_MAX)?;
        }
    }
    Ok(())
}
