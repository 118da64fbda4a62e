//! The command `replay` for journals: runs them through the state machines again.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use checker::Validity;
use clap::Args;
use twopc::checks::{
    find_journals,
    replay::{Difference, Replay, replay as replay_journal},
};

use super::CommandError;

/// Arguments of `replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// Run directories, journals, or schedules of the model and the simulator (.json).
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Replays every journal of each path and prints the results. Returns `Invalid` if one differs.
///
/// # Errors
/// A journal cannot be read, or there is none.
pub fn replay(args: &ReplayArgs, out: &mut impl Write) -> Result<Validity, CommandError> {
    let mut verdict = Validity::Valid;
    for path in &args.paths {
        let journals: Vec<PathBuf> = if path.is_dir() {
            find_journals(path)?.into_values().collect()
        } else {
            vec![path.clone()]
        };
        if journals.is_empty() {
            let reason = "no journal: expected nodes/<name>/journal.bin in the directory";
            return Err(CommandError::Nothing { path: path.clone(), reason });
        }
        for path in journals {
            let replayed = replay_journal(&path)
                .map_err(|source| CommandError::Replay { path: path.clone(), source })?;
            match replayed {
                Replay::Same {
                    starts,
                    events,
                    effects,
                    reads_without_result,
                    earlier_beginning,
                } => {
                    let path = path.display();
                    write!(
                        out,
                        "{path}: same: {starts} starts, {events} events, {effects} effects"
                    )?;
                    if reads_without_result > 0 {
                        write!(out, ", {reads_without_result} reads without a recorded result")?;
                    }
                    if earlier_beginning {
                        write!(out, ", a beginning as in earlier versions")?;
                    }
                    writeln!(out)?;
                }
                Replay::Different(difference) => {
                    verdict = Validity::Invalid;
                    print_difference(&path, &difference, out)?;
                }
            }
        }
    }
    Ok(verdict)
}

fn print_difference(path: &Path, difference: &Difference, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}: different: {difference}", path.display())?;
    writeln!(
        out,
        "  A journal that another version of the node wrote may differ without being wrong."
    )
}
