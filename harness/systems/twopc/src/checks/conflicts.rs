//! An abort for a conflict needs a conflict: another write of the key that was open at the same
//! time. From the history, and from the journals for the time at which an indeterminate write
//! ended. And whoever refuses a write names the transaction that holds the key: it must hold it, by
//! the journal of the node that refused. The master avoids refusals by commits that a replica has not heard of: it
//! repeats them with the next write of the key.

use std::collections::HashMap;

use checker::{CheckResult, Finding, finding};
use history::{ErrorCode, Operation, Outcome};
use system::protocol::TxnId;

use super::{
    Run,
    evidence::{FactKind, JournalPosition},
};

/// The name of the check.
pub const NAME: &str = "conflicts";

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let mut writes_of: HashMap<&str, Vec<&Operation>> = HashMap::new();
    for operation in run.operations.iter().filter(|operation| may_hold(operation)) {
        writes_of.entry(&operation.key).or_default().push(operation);
    }
    let ends = EndTimes { run, writers: run.evidence.transactions.writers() };
    let writes_of: HashMap<&str, ConcurrentWrites<'_>> = writes_of
        .into_iter()
        .map(|(key, writes)| (key, ConcurrentWrites::of(writes, |write| ends.end(write))))
        .collect();
    let mut conflicts = 0;
    for operation in &run.operations {
        let Some(error) = conflict(operation) else { continue };
        conflicts += 1;
        if !writes_of.get(operation.key.as_str()).is_some_and(|writes| writes.overlap(operation)) {
            check_result.violation(finding!(
                key(key = operation.key), operation(index = operation.invoked_index);
                "{} {key} of process {} (index {index}) was aborted with '{error}', but no other \
                 write of the key was open",
                operation.f, operation.process
            ));
        }
    }
    for fact in run.evidence.nodes.values().flat_map(|node| &node.facts) {
        match &fact.kind {
            FactKind::FalseRefusal { txn, holder } => {
                check_result.violation(false_refusal(fact.position, *txn, *holder));
            }
            FactKind::DecisionOmitted { txn, omitted, to } => {
                let position = fact.position;
                check_result.violation(finding!(
                    line(position), transaction(txn), transaction(omitted);
                    "the master asked {to} to vote on {txn} ({position}) without telling it of the commit of {omitted} \
                     on the same key, which {to} had not acknowledged: it must refuse, though no write of the key is open"
                ));
            }
            _ => {}
        }
    }
    check_result.measure("conflicts", conflicts);
    check_result
}

/// A refusal because of a transaction that does not hold the key.
fn false_refusal(position: JournalPosition, txn: Option<TxnId>, holder: TxnId) -> Finding {
    let node = position.node;
    match txn {
        Some(txn) => finding!(
            line(position), transaction(txn), transaction(holder);
            "{node} voted no on {txn} ({position}) because {holder} locks the key, which is neither pending nor \
             prepared there"
        ),
        None => finding!(
            line(position), transaction(holder);
            "the master refused a write ({position}) because of {holder}, which does not hold the key: it is \
             of another key, or decided"
        ),
    }
}

/// The error of a write that was aborted because of a conflict.
fn conflict(operation: &Operation) -> Option<&str> {
    let error = operation.error.as_deref().filter(|_| operation.f.is_write())?;
    let conflict = matches!(ErrorCode::of(error), Some(ErrorCode::Conflict | ErrorCode::Locked));
    (conflict && operation.outcome == Outcome::Fail).then_some(error)
}

/// Whether a write may have held its key. A write that was rejected before it was prepared has not.
fn may_hold(operation: &Operation) -> bool {
    let error = operation.error.as_deref().and_then(ErrorCode::of);
    operation.f.is_write()
        && !(operation.outcome == Outcome::Fail
            && matches!(error, Some(ErrorCode::Conflict | ErrorCode::Unavailable)))
}

/// Determines when writes ended.
struct EndTimes<'a> {
    run: &'a Run,
    writers: HashMap<(String, String), TxnId>,
}

impl EndTimes<'_> {
    /// The time of the completion. For an indeterminate put that the journals contain, the time at
    /// which its transaction had finished. Otherwise never: several deletes of a key, for instance,
    /// cannot be told apart.
    fn end(&self, write: &Operation) -> u64 {
        let finished = || {
            let put = (write.key.clone(), write.value.clone()?);
            let evidence = &self.run.evidence;
            let transaction = evidence.transactions.by_id.get(self.writers.get(&put)?)?;
            let finished = transaction.finished_at().filter(|_| evidence.missing.is_empty())?;
            u64::try_from(finished).ok()
        };
        write.returned.or_else(finished).unwrap_or(u64::MAX)
    }
}

/// The writes of one key in the order of their invocations, with the latest end of each prefix.
struct ConcurrentWrites<'a> {
    writes: Vec<&'a Operation>,
    /// For each prefix: the latest end and the second latest, each with the position of its write.
    /// `u64::MAX` stands for an operation that is open for ever.
    ends: Vec<[(u64, usize); 2]>,
}

impl<'a> ConcurrentWrites<'a> {
    fn of(mut writes: Vec<&'a Operation>, ends_at: impl Fn(&Operation) -> u64) -> Self {
        writes.sort_by_key(|write| write.invoked);
        let mut ends = Vec::with_capacity(writes.len());
        let mut latest = [(0, usize::MAX); 2];
        for (position, write) in writes.iter().enumerate() {
            let end = (ends_at(write), position);
            if latest[0].1 == usize::MAX || end.0 >= latest[0].0 {
                latest = [end, latest[0]];
            } else if latest[1].1 == usize::MAX || end.0 > latest[1].0 {
                latest[1] = end;
            }
            ends.push(latest);
        }
        ConcurrentWrites { writes, ends }
    }

    /// Whether another write was open while this one was.
    fn overlap(&self, operation: &Operation) -> bool {
        let end = operation.returned.unwrap_or(u64::MAX);
        let invoked = self.writes.partition_point(|write| write.invoked <= end);
        invoked > 0
            && self.ends[invoked - 1].iter().any(|(latest, position)| {
                self.writes.get(*position).is_some_and(|write| {
                    write.invoked_index != operation.invoked_index && *latest >= operation.invoked
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use history::Function;

    fn write(index: u64, invoked: u64, returned: Option<u64>) -> Operation {
        Operation {
            process: index,
            f: Function::Put,
            key: "a".into(),
            value: Some(index.to_string()),
            outcome: if returned.is_some() { Outcome::Ok } else { Outcome::Info },
            version: None,
            error: None,
            node: None,
            invoked_index: index,
            invoked,
            returned,
            returned_index: None,
        }
    }

    #[test]
    fn overlap_agrees_with_its_definition() {
        // Every arrangement of three intervals on a small time line.
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
                let writes = ConcurrentWrites::of(ops.iter().collect(), |op| {
                    op.returned.unwrap_or(u64::MAX)
                });
                for op in &ops {
                    let expected = ops
                        .iter()
                        .any(|other| other.invoked_index != op.invoked_index && op.overlaps(other));
                    assert_eq!(writes.overlap(op), expected, "{op:?} among {ops:?}");
                }
            }
        }
    }
}
