//! `harness replay SCHEDULE`: replays a schedule and prints it.

use std::{io::Write, path::Path};

use anyhow::Context as _;
use checker::Validity;
use explore::schedule::{Property, Schedule};

/// Replays a schedule file, prints one line per step and the properties that are violated at its
/// end. The result is invalid if there are any.
///
/// # Errors
/// The file cannot be read, a step is not possible in the state in which it stands, or the output
/// cannot be written.
pub fn replay(path: &Path, out: &mut impl Write) -> anyhow::Result<Validity> {
    let name = path.display();
    let schedule = Schedule::read(path).with_context(|| name.to_string())?;
    let (lines, cluster) = schedule.trace().with_context(|| name.to_string())?;
    for line in lines {
        writeln!(out, "{line}")?;
    }
    let violated: Vec<_> =
        Property::ALL.iter().filter(|property| cluster.violates(**property)).collect();
    for property in &violated {
        writeln!(out, "✗ {property}: {}", property.claim())?;
    }
    if violated.is_empty() {
        writeln!(out, "every property holds at the end")?;
    }
    for property in &schedule.violated {
        if !violated.contains(&property) {
            writeln!(out, "{property} is recorded as violated by this schedule, but holds")?;
        }
    }
    Ok(if violated.is_empty() { Validity::Valid } else { Validity::Invalid })
}
