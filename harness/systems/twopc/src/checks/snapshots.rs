//! Snapshots: what a client has read of several keys at once is a state that the store has had. While the
//! client waited there was an instant at which the last decided write of each key was the one that it was
//! shown. Writes take effect in the order of their decisions, each while its client waits. So if every
//! snapshot has such an instant, the history is strictly serializable. From the history and the journals.
//!
//! That each key by itself is read as a register is read is for linearizability, to which a snapshot is a
//! get of each of its keys.

use checker::{CheckResult, Impact, finding};
use history::Operation;
use system::protocol::{Key, TxnId};

use super::{Run, evidence::Evidence, version_of};
use crate::snapshots;

/// The name of the check.
pub const NAME: &str = "snapshots";

/// From one time to another, both included.
type Interval = (i64, i64);

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let reads = snapshots::reads(&run.operations);
    if reads.is_empty() {
        return check_result;
    }
    let complete = run.evidence.complete(&mut check_result);
    let mut keys = 0;
    for read in reads.iter().filter(|_| complete) {
        keys += read.gets.len();
        let time = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        let until = read.operation.returned.map_or(i64::MAX, time);
        let mut possible = vec![(time(read.operation.invoked), until)];
        for get in &read.gets {
            let current = current(&run.evidence, get);
            let left = both(&possible, &current);
            if left.is_empty() {
                let index = read.operation.invoked_index;
                let shown = match &get.value {
                    Some(value) => format!("'{value}'"),
                    None => "absent".to_owned(),
                };
                let others = read.gets.len() - 1;
                let finding = match version_of(get) {
                    Some(version) => finding!(
                        operation(index), key(key = get.key), transaction(version);
                        "the snapshot of process {process} (index {index}) shows {key} = {shown} of {version}, which \
                         at no instant while the client waited was the last decided write of {key} and what it shows \
                         of {others} other keys was theirs",
                        process = get.process
                    ),
                    None => finding!(
                        operation(index), key(key = get.key);
                        "the snapshot of process {process} (index {index}) shows {key} {shown}, which at no instant \
                         while the client waited was true together with what it shows of {others} other keys",
                        process = get.process
                    ),
                };
                check_result.violation(finding);
                break;
            }
            possible = left;
        }
    }
    check_result.measure("snapshots", reads.len());
    check_result.measure("keys", keys);
    check_result.with_impact(Impact::WrongAnswer)
}

/// When what a get has shown was the last decided write of its key.
fn current(evidence: &Evidence, get: &Operation) -> Vec<Interval> {
    let decisions = evidence.transactions.decided_by_key.get(&Key::from(get.key.as_str()));
    let decisions = decisions.map(Vec::as_slice).unwrap_or_default();
    let shown = version_of(get);
    let is_put = |txn: &TxnId| {
        let transaction = evidence.transactions.by_id.get(txn);
        transaction.and_then(|found| found.write.as_ref()).is_none_or(|write| write.value.is_some())
    };
    let first = decisions.first().map_or(i64::MAX, |(position, _)| position.time);
    let before = shown.is_none().then_some((i64::MIN, first));
    let after = decisions.iter().enumerate().filter_map(|(at, (position, txn))| {
        let is_it = match shown {
            Some(version) => version == *txn,
            None => !is_put(txn),
        };
        let end = decisions.get(at + 1).map_or(i64::MAX, |(position, _)| position.time);
        is_it.then_some((position.time, end))
    });
    before.into_iter().chain(after).collect()
}

/// What two lists of intervals share.
fn both(ours: &[Interval], theirs: &[Interval]) -> Vec<Interval> {
    let pairs = ours.iter().flat_map(|one| theirs.iter().map(move |other| (one, other)));
    let shared = pairs.map(|(one, other)| (one.0.max(other.0), one.1.min(other.1)));
    shared.filter(|(from, to)| from <= to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_intersected() {
        assert_eq!(
            both(&[(0, 10)], &[(i64::MIN, 3), (5, 5), (7, i64::MAX)]),
            [(0, 3), (5, 5), (7, 10)]
        );
        assert_eq!(both(&[(0, 10)], &[(11, 12)]), []);
        assert_eq!(both(&[(0, 10)], &[]), []);
    }
}
