//! Durability of registers: after the end of all faults, a read returns the last acknowledged write, or
//! one that is not certainly older. A value that an acknowledged later write has replaced is a lost
//! write.

use std::collections::BTreeMap;

use history::{Function, Operation, Outcome};

use super::{Named, Run, is_ok, precedes};
use crate::CheckResult;

/// The name of the check.
pub(super) const NAME: &str = "durability";

pub(super) fn check(run: &Run<'_>) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let mut reads = 0_u64;
    let mut acknowledged = 0_usize;
    for (key, operations) in run.by_key() {
        let writes: Vec<&Operation> = operations
            .iter()
            .copied()
            .filter(|operation| operation.f.is_write() && operation.outcome != Outcome::Fail)
            .collect();
        acknowledged += writes.iter().filter(|write| write.outcome == Outcome::Ok).count();
        let mut is_read = false;
        for read in operations.iter().filter(|op| is_ok(op, Function::Get) && run.is_final(op)) {
            reads += 1;
            is_read = true;
            if let Some(why) = lost(read, &writes) {
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

/// Why a final read shows that an acknowledged write is lost.
fn lost(read: &Operation, writes: &[&Operation]) -> Option<String> {
    let shown = read.value.as_deref().unwrap_or("nothing");
    // Several writes of one value, as a cas may make, leave open which of them was read.
    let written = written_values(writes);
    let sources = written.get(&read.value).map_or(&[][..], Vec::as_slice);
    let replaced_by = |source: Option<&Operation>| {
        let later = |write: &&&Operation| {
            write.outcome == Outcome::Ok && source.is_none_or(|source| precedes(source, write))
        };
        writes.iter().rfind(later).copied()
    };
    let replaced = match sources {
        // The value that the key began with: any acknowledged write has replaced it.
        [] if read.value.is_none() => replaced_by(None),
        // A value that nobody wrote is for the check of linearizability.
        [] => return None,
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
fn written_values<'a>(writes: &[&'a Operation]) -> BTreeMap<Option<String>, Vec<&'a Operation>> {
    let mut written: BTreeMap<Option<String>, Vec<&Operation>> = BTreeMap::new();
    for write in writes {
        let value = match write.f {
            Function::Cas => write.cas().and_then(|(_, new)| new),
            _ => write.value.clone(),
        };
        written.entry(value).or_default().push(write);
    }
    written
}
