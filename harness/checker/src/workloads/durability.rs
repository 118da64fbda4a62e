//! Durability of registers: after the end of all faults, a read returns the last acknowledged write, or
//! one that is not certainly older. A value that an acknowledged later write has replaced is a lost
//! write, and one that nobody can have written is no value of the register.

use std::collections::BTreeMap;

use history::{Function, Operation, Outcome};

use super::{Named, Run, failed_value, is_ok, precedes};
use crate::{CheckResult, Finding, Impact};

/// The name of the check.
pub(super) const NAME: &str = "durability";

pub(super) fn check(run: &Run<'_>) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let mut reads = 0_u64;
    let mut acknowledged = 0_usize;
    for (key, operations) in run.by_key() {
        let (failed, writes): (Vec<&Operation>, Vec<&Operation>) = operations
            .iter()
            .filter(|operation| operation.f.is_write())
            .partition(|write| write.outcome == Outcome::Fail);
        let [failed, written] = [&failed, &writes].map(|writes| written_values(writes));
        acknowledged += writes.iter().filter(|write| write.outcome == Outcome::Ok).count();
        let mut is_read = false;
        for read in operations.iter().filter(|op| is_ok(op, Function::Get) && run.is_final(op)) {
            reads += 1;
            is_read = true;
            if let Some(why) = unwritten(read, &written, &failed) {
                check_result.violation(Finding::from(why).with_impact(Impact::WrongAnswer));
            } else if let Some(why) = lost(read, &writes, &written) {
                check_result.violation(why);
            }
        }
        if !is_read {
            check_result.unknown(format!("{key} was not read after the end of all faults"));
        }
    }
    check_result.measure("acknowledged_writes", acknowledged);
    check_result.measure("final_reads", reads);
    check_result
}

/// Why a final read returned a value that nobody can have written.
fn unwritten(read: &Operation, written: &Written<'_>, failed: &Written<'_>) -> Option<String> {
    let value = read.value.as_deref()?;
    let may_be_seen = |write: &&Operation| read.returned_index > Some(write.invoked_index);
    if written.get(&read.value).is_some_and(|writes| writes.iter().any(may_be_seen)) {
        return None;
    }
    Some(match failed.get(&read.value).and_then(|writes| writes.first()) {
        Some(write) => failed_value(&value, write, read),
        None => format!("{} returned {value}, which nobody had written", Named(read)),
    })
}

/// Why a final read shows that an acknowledged write is lost.
fn lost(read: &Operation, writes: &[&Operation], written: &Written<'_>) -> Option<String> {
    let shown = read.value.as_deref().unwrap_or("nothing");
    // Several writes of one value, as a cas may make, leave open which of them was read.
    let sources = written.get(&read.value).map_or(&[][..], Vec::as_slice);
    let replaced_by = |source: Option<&Operation>| {
        let later = |write: &&&Operation| {
            write.outcome == Outcome::Ok && source.is_none_or(|source| precedes(source, write))
        };
        writes.iter().rfind(later).copied()
    };
    let replaced = match sources {
        // The value that the key began with: any acknowledged write has replaced it.
        [] => replaced_by(None),
        sources => {
            let each: Option<Vec<&Operation>> =
                sources.iter().map(|source| replaced_by(Some(source))).collect();
            each.and_then(|each| each.first().copied())
        }
    }?;
    Some(format!(
        "the {} is lost: it was acknowledged, and the last {} returned {shown}, which is older",
        Named(replaced),
        Named(read)
    ))
}

/// The writes of each value.
type Written<'a> = BTreeMap<Option<String>, Vec<&'a Operation>>;

fn written_values<'a>(writes: &[&'a Operation]) -> Written<'a> {
    let mut written = Written::new();
    for write in writes {
        let value = match write.f {
            Function::Cas => write.cas().and_then(|(_, new)| new),
            _ => write.value.clone(),
        };
        written.entry(value).or_default().push(write);
    }
    written
}
