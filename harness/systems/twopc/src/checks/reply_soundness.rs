//! Reply soundness: what was reported to clients is true. Ok means committed, a failure means that
//! there is never an effect, and a version is the transaction that wrote the value. From the
//! history and the journals.

use std::collections::{BTreeMap, HashMap, HashSet};

use checker::{CheckResult, Finding, finding};
use history::{Function, Operation, Outcome};
use system::protocol::{Node, TxnId};

use super::{
    Run,
    evidence::{AbortRecipient, FactKind, Transaction},
    version_of,
};

/// The name of the check.
pub const NAME: &str = "reply-soundness";

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let complete = run.evidence.complete(&mut check_result);
    replies(run, &mut check_result);
    let puts = Puts::of(run);
    let mut replies_checked = 0;
    for operation in run.operations.iter().filter(|operation| operation.f.is_write()) {
        replies_checked += usize::from(operation.outcome != Outcome::Info);
        match operation.outcome {
            Outcome::Ok if complete => ok(run, &puts, operation, &mut check_result),
            Outcome::Fail => fail(run, &puts, operation, &mut check_result),
            Outcome::Ok | Outcome::Info => {}
        }
    }
    only_requested_writes(run, &mut check_result);
    check_result.measure("answers", replies_checked);
    check_result
}

/// Nothing was committed that no client requested. Deletes of a key cannot be told apart, so they
/// are counted: no more may be committed than completed with ok or have an unknown outcome, or a
/// failed one took effect.
///
/// A truncated history lacks its last lines but none in between: an invocation is recorded before
/// its request leaves. So nothing is concluded about transactions that began after its last event.
fn only_requested_writes(run: &Run, check_result: &mut CheckResult) {
    let recorded_until = match (&run.final_state, run.events.last()) {
        (None, Some(last)) => i64::try_from(last.time).unwrap_or(i64::MAX),
        (None, None) => i64::MIN,
        (Some(_), _) => i64::MAX,
    };
    let mut unrecorded = 0;
    let mut puts: HashSet<(&str, &str)> = HashSet::new();
    let mut dels: HashMap<&str, (usize, usize)> = HashMap::new();
    for operation in run.operations.iter().filter(|operation| operation.f.is_write()) {
        match &operation.value {
            Some(value) => {
                puts.insert((&operation.key, value));
            }
            None => {
                let (possible, failed) = dels.entry(&operation.key).or_default();
                *(if operation.outcome == Outcome::Fail { failed } else { possible }) += 1;
            }
        }
    }
    let mut committed_dels: BTreeMap<String, usize> = BTreeMap::new();
    for (txn, transaction) in &run.evidence.transactions.by_id {
        let (Some(write), Some(commit)) = (&transaction.write, transaction.commit()) else {
            continue;
        };
        if transaction.first_seen().is_some_and(|first| first > recorded_until) {
            unrecorded += 1;
            continue;
        }
        let key = write.key.to_string();
        match &write.value {
            Some(value) if !puts.contains(&(key.as_str(), value.to_string().as_str())) => {
                check_result.violation(finding!(
                    transaction(txn), key(key), line(commit);
                    "{txn} committed put {key} = {value} ({commit}), which no client requested"
                ));
            }
            Some(_) => {}
            None => *committed_dels.entry(key).or_default() += 1,
        }
    }
    for (key, committed) in committed_dels {
        let (possible, failed) = dels.get(key.as_str()).copied().unwrap_or_default();
        if committed > possible {
            check_result.violation(finding!(
                key(key);
                "deletes of {key}: {committed} committed, but only {possible} answered Ok or \
                 unknown, and {failed} failed"
            ));
        }
    }
    if unrecorded > 0 {
        check_result.unknown(format!(
            "the history ends before the first trace of {unrecorded} committed writes, so their \
             requests are unknown"
        ));
    }
}

/// By value: the transaction that wrote it, from the journals, and the get that read it, from the
/// clients.
struct Puts<'a> {
    by_value: HashMap<(String, String), TxnId>,
    seen: BTreeMap<(&'a str, &'a str), &'a Operation>,
}

impl<'a> Puts<'a> {
    fn of(run: &'a Run) -> Self {
        let by_value = run.evidence.transactions.writers();
        let seen = run
            .operations
            .iter()
            .filter(|operation| operation.f == Function::Get && operation.outcome == Outcome::Ok)
            .filter_map(|get| Some(((get.key.as_str(), get.value.as_deref()?), get)))
            .collect();
        Puts { by_value, seen }
    }

    fn txn(&self, put: &Operation) -> Option<TxnId> {
        let value = put.value.clone()?;
        self.by_value.get(&(put.key.clone(), value)).copied()
    }
}

/// Compares the master's replies with the journals.
fn replies(run: &Run, check_result: &mut CheckResult) {
    let transactions = &run.evidence.transactions.by_id;
    let Some(master) = run.evidence.nodes.get(&Node::Master) else { return };
    for fact in &master.facts {
        let position = fact.position;
        match &fact.kind {
            FactKind::OkReported { txn, durable } => {
                if !durable {
                    check_result.violation(finding!(
                        transaction(txn), line(position);
                        "the master answered Ok for {txn} ({position}) before COMMIT was durable"
                    ));
                }
                let aborted = transactions.get(txn).and_then(|found| found.aborted.first());
                if let Some(abort) = aborted {
                    check_result.violation(finding!(
                        transaction(txn), line(position), line(aborted = abort.position);
                        "the master answered Ok for {txn} ({position}), but it was aborted ({aborted})"
                    ));
                }
            }
            FactKind::AbortReported { txn, to: AbortRecipient::Client(_), .. } => {
                let commit = transactions.get(txn).and_then(Transaction::commit);
                if let Some(commit) = commit {
                    check_result.violation(finding!(
                        transaction(txn), line(position), line(commit);
                        "the master answered Aborted for {txn} ({position}), but it was committed \
                         ({commit})"
                    ));
                }
            }
            _ => {}
        }
    }
}

/// Checks a write that completed with ok.
fn ok(run: &Run, puts: &Puts<'_>, operation: &Operation, check_result: &mut CheckResult) {
    let write_text = write_text(operation);
    let Some(version) = version_of(operation) else {
        check_result.violation(
            finding!(nested(write_text); "{write_text} was answered Ok without a version"),
        );
        return;
    };
    let Some(transaction) = run.evidence.transactions.by_id.get(&version) else {
        check_result.violation(finding!(
            nested(write_text), transaction(version);
            "{write_text} was answered Ok as {version}, which no journal knows"
        ));
        return;
    };
    if transaction.commit().is_none() {
        check_result.violation(finding!(
            nested(write_text), transaction(version);
            "{write_text} was answered Ok as {version}, which nobody has committed"
        ));
    }
    let Some(write) = &transaction.write else { return };
    let wrote = write.value.as_ref().map(ToString::to_string);
    if write.key.to_string() != operation.key || wrote != operation.value {
        let other = puts.txn(operation);
        let other = match other {
            Some(txn) => finding!(transaction(txn); "{txn}"),
            None => "no transaction".into(),
        };
        check_result.violation(finding!(
            nested(write_text), transaction(version), nested(other);
            "{write_text} was answered Ok as {version}, but {other} has written that"
        ));
    }
}

/// Checks a write that failed.
fn fail(run: &Run, puts: &Puts<'_>, operation: &Operation, check_result: &mut CheckResult) {
    let Some(value) = &operation.value else { return };
    let write_text = write_text(operation);
    let committed = puts
        .txn(operation)
        .and_then(|txn| Some((txn, run.evidence.transactions.by_id.get(&txn)?.commit()?)));
    if let Some((txn, commit)) = committed {
        check_result.violation(finding!(
            nested(write_text), transaction(txn), line(commit);
            "{write_text} failed, but {txn} committed it ({commit})"
        ));
    }
    if let Some(get) = puts.seen.get(&(operation.key.as_str(), value.as_str())) {
        check_result.violation(finding!(
            nested(write_text), operation(index = get.invoked_index);
            "{write_text} failed, but process {} read that value (index {index})",
            get.process
        ));
    }
}

/// A write in words.
fn write_text(write: &Operation) -> Finding {
    match &write.value {
        Some(value) => finding!(
            key(key = write.key), operation(index = write.invoked_index);
            "put {key} = {value} (index {index})"
        ),
        None => finding!(
            key(key = write.key), operation(index = write.invoked_index);
            "del {key} (index {index})"
        ),
    }
}
