//! `harness replay SCHEDULE`: runs a schedule again and tells it.

use std::{io::Write, path::Path};

use anyhow::Context as _;

use super::{Property, Schedule};
use crate::checker::Validity;

/// Runs a schedule file again, a line a step, and says which properties do not hold at its end:
/// invalid if any.
///
/// # Errors
/// The file cannot be read, holds a step that is not possible where it stands, or what was found
/// cannot be printed.
pub fn replay(path: &Path, out: &mut impl Write) -> anyhow::Result<Validity> {
    let name = path.display();
    let schedule = Schedule::read(path).with_context(|| name.to_string())?;
    let (lines, cluster) = schedule.tell().with_context(|| name.to_string())?;
    for line in lines {
        writeln!(out, "{line}")?;
    }
    let broken: Vec<_> =
        Property::ALL.iter().filter(|property| cluster.breaks(**property)).collect();
    for property in &broken {
        writeln!(out, "✗ {property}: {}", property.claim())?;
    }
    if broken.is_empty() {
        writeln!(out, "every property holds at the end")?;
    }
    for property in &schedule.broken {
        if !broken.contains(&property) {
            writeln!(out, "{property}, which this schedule is said to break, holds")?;
        }
    }
    Ok(if broken.is_empty() { Validity::Valid } else { Validity::Invalid })
}
