//! An abort for conflict needs a conflict: another write of the key, under way at the same time.
//! From the history, and for how long an indeterminate write was under way, from the journals.

use std::collections::HashMap;

use system::protocol::TxnId;

use super::{CheckResult, Run};
use crate::history::{ErrorCode, Operation, Outcome};

/// The check's name.
pub const NAME: &str = "conflicts";

/// Judges a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let mut rivals: HashMap<&str, Vec<&Operation>> = HashMap::new();
    for operation in run.operations.iter().filter(|operation| may_hold(operation)) {
        rivals.entry(&operation.key).or_default().push(operation);
    }
    let ends = Ends { run, writers: run.evidence.transactions.writers() };
    let rivals: HashMap<&str, Rivals<'_>> = rivals
        .into_iter()
        .map(|(key, writes)| (key, Rivals::of(writes, |write| ends.end(write))))
        .collect();
    let mut conflicts = 0;
    for operation in &run.operations {
        let Some(error) = conflict(operation) else { continue };
        conflicts += 1;
        if !rivals.get(operation.key.as_str()).is_some_and(|rivals| rivals.overlap(operation)) {
            check_result.violation(format!(
                "{} {} of process {} (index {}) was aborted with '{error}', but no other write of \
                 the key was under way",
                operation.f, operation.key, operation.process, operation.invoked_index
            ));
        }
    }
    check_result.measure("conflicts", conflicts);
    check_result
}

/// The error of a write that was aborted for conflict.
fn conflict(operation: &Operation) -> Option<&str> {
    let error = operation.error.as_deref().filter(|_| operation.f.is_write())?;
    let conflict = matches!(ErrorCode::of(error), Some(ErrorCode::Conflict | ErrorCode::Locked));
    (conflict && operation.outcome == Outcome::Fail).then_some(error)
}

/// Whether a write may have held its key for a while: one that was turned away at the door has
/// not.
fn may_hold(operation: &Operation) -> bool {
    let error = operation.error.as_deref().and_then(ErrorCode::of);
    operation.f.is_write()
        && !(operation.outcome == Outcome::Fail
            && matches!(error, Some(ErrorCode::Conflict | ErrorCode::Unavailable)))
}

/// When writes ended.
struct Ends<'a> {
    run: &'a Run,
    writers: HashMap<(String, String), TxnId>,
}

impl Ends<'_> {
    /// When the client had its answer; or, of an indeterminate put that the journals know, when its
    /// transaction was over. Otherwise it never ended: deletes, for instance, look alike.
    fn end(&self, write: &Operation) -> u64 {
        let over = || {
            let put = (write.key.clone(), write.value.clone()?);
            let evidence = &self.run.evidence;
            let transaction = evidence.transactions.by_id.get(self.writers.get(&put)?)?;
            let over = transaction.over().filter(|_| evidence.missing.is_empty())?;
            u64::try_from(over).ok()
        };
        write.returned.or_else(over).unwrap_or(u64::MAX)
    }
}

/// The writes of one key, in the order of their invocations, with the latest end of each prefix.
struct Rivals<'a> {
    writes: Vec<&'a Operation>,
    /// Of the writes up to here: the latest end, and the latest end of all others than that one.
    /// `u64::MAX` is an open end.
    ends: Vec<[(u64, usize); 2]>,
}

impl<'a> Rivals<'a> {
    fn of(mut writes: Vec<&'a Operation>, ends_at: impl Fn(&Operation) -> u64) -> Self {
        writes.sort_by_key(|write| write.invoked);
        let mut ends = Vec::with_capacity(writes.len());
        let mut latest = [(0, usize::MAX); 2];
        for (place, write) in writes.iter().enumerate() {
            let end = (ends_at(write), place);
            if latest[0].1 == usize::MAX || end.0 >= latest[0].0 {
                latest = [end, latest[0]];
            } else if latest[1].1 == usize::MAX || end.0 > latest[1].0 {
                latest[1] = end;
            }
            ends.push(latest);
        }
        Rivals { writes, ends }
    }

    /// Whether a write other than this one was under way while this one was.
    fn overlap(&self, operation: &Operation) -> bool {
        let end = operation.returned.unwrap_or(u64::MAX);
        let begun = self.writes.partition_point(|write| write.invoked <= end);
        begun > 0
            && self.ends[begun - 1].iter().any(|(latest, place)| {
                self.writes.get(*place).is_some_and(|write| {
                    write.invoked_index != operation.invoked_index && *latest >= operation.invoked
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Function;

    fn write(index: u64, invoked: u64, returned: Option<u64>) -> Operation {
        Operation {
            process: index,
            f: Function::Put,
            key: "a".into(),
            value: Some(index.to_string()),
            outcome: if returned.is_some() { Outcome::Ok } else { Outcome::Info },
            version: None,
            error: None,
            invoked_index: index,
            invoked,
            returned,
            returned_index: None,
        }
    }

    #[test]
    fn overlaps_are_those_of_the_definition() {
        // Every arrangement of three intervals on a small line of time.
        let ends = [Some(1), Some(3), Some(5), None];
        for starts in 0..64_u64 {
            for which in 0..64_usize {
                let ops: Vec<_> = (0..3_u32)
                    .map(|n| {
                        let invoked = starts / 4_u64.pow(n) % 4;
                        let end = ends[which / 4_usize.pow(n) % 4];
                        write(n.into(), invoked, end.map(|end: u64| end.max(invoked)))
                    })
                    .collect();
                let rivals = Rivals::of(ops.iter().collect(), |op| op.returned.unwrap_or(u64::MAX));
                for op in &ops {
                    let expected = ops
                        .iter()
                        .any(|other| other.invoked_index != op.invoked_index && op.overlaps(other));
                    assert_eq!(rivals.overlap(op), expected, "{op:?} among {ops:?}");
                }
            }
        }
    }
}
