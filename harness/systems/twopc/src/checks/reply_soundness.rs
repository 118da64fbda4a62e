//! Reply soundness: what was reported to clients is true. Ok means committed, a failure means that
//! there is never an effect, a version is the transaction that wrote the value, to a get as to a put,
//! and a put is committed once. From the
//! history and the journals.

use std::collections::{BTreeMap, HashMap};

use checker::{CheckResult, Finding, Impact, finding};
use history::{Function, Operation, Outcome};
use system::protocol::{Node, TxnId};

use super::{
    Run,
    evidence::{Abort, AbortRecipient, FactKind, Transaction},
    version_of,
};
use crate::snapshots;

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
    for get in run.operations.iter().filter(|operation| operation.f == Function::Get) {
        if get.outcome == Outcome::Ok && complete {
            found(run, &puts, get, &mut check_result);
        }
    }
    let snapshots = snapshots::reads(&run.operations);
    for get in snapshots.iter().flat_map(|read| &read.gets).filter(|_| complete) {
        found(run, &puts, get, &mut check_result);
    }
    only_requested_writes(run, &mut check_result);
    check_result.measure("answers", replies_checked);
    check_result.with_impact(Impact::WrongAnswer)
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
    // By key and value: how many puts may be committed, and how many are.
    let mut puts: HashMap<(String, String), (usize, usize)> = HashMap::new();
    let mut dels: HashMap<&str, (usize, usize)> = HashMap::new();
    for operation in run.operations.iter().filter(|operation| operation.f.is_write()) {
        match &operation.value {
            Some(value) => {
                let (possible, _) = puts.entry((operation.key.clone(), value.clone())).or_default();
                *possible += usize::from(operation.outcome != Outcome::Fail);
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
            Some(value) => {
                match puts.get_mut(&(key.clone(), value.to_string())) {
                    None => check_result.violation(finding!(
                        transaction(txn), key(key), line(commit);
                        "{txn} committed put {key} = '{value}' ({commit}), which no client requested"
                    )),
                    Some((possible, committed)) => {
                        *committed += 1;
                        // That a failed put was committed is reported with the put.
                        if *committed > (*possible).max(1) {
                            check_result.violation(finding!(
                                transaction(txn), key(key), line(commit);
                                "{txn} committed put {key} = '{value}' ({commit}), which was committed \
                                 before: {committed} commits of {possible} puts"
                            ));
                        }
                    }
                }
            }
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
                    let finding = finding!(
                        transaction(txn), line(position);
                        "the master answered Ok for {txn} ({position}) before COMMIT was durable"
                    );
                    check_result.violation(finding.with_impact(Impact::BrokenPromise));
                }
                let aborted = transactions.get(txn).and_then(|found| found.aborted.first());
                if let Some(Abort {
                    recipient: Some(AbortRecipient::Client(_)),
                    position: other,
                    ..
                }) = aborted
                {
                    check_result.violation(finding!(
                        transaction(txn), line(position), line(other);
                        "the master answered the client of {txn} twice: Aborted ({other}) and Ok ({position})"
                    ));
                } else if let Some(abort) = aborted {
                    check_result.violation(finding!(
                        transaction(txn), line(position), line(aborted = abort.position);
                        "the master answered Ok for {txn} ({position}), but it was aborted ({aborted})"
                    ));
                }
            }
            FactKind::AbortReported { txn, to: AbortRecipient::Client(_), .. } => {
                let transaction = transactions.get(txn);
                let is_second = transaction.is_some_and(|found| found.answered_ok.is_some());
                let commit = transaction.and_then(Transaction::commit);
                if let Some(commit) = commit.filter(|_| !is_second) {
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

/// Checks a get: the version that it tells is the transaction that wrote what it found.
fn found(run: &Run, puts: &Puts<'_>, get: &Operation, check_result: &mut CheckResult) {
    let (Some(value), Some(version)) = (&get.value, version_of(get)) else { return };
    let transaction = run.evidence.transactions.by_id.get(&version);
    let write = transaction.and_then(|transaction| transaction.write.as_ref());
    let wrote = write.and_then(|write| write.value.as_ref());
    let is_of_it = write.is_some_and(|write| write.key.to_string() == get.key)
        && wrote.is_some_and(|wrote| wrote.to_string() == *value);
    if !is_of_it {
        let wrote = match write.map(|write| (&write.key, &write.value)) {
            Some((key, Some(value))) => format!(": it is of put {key} = '{value}'"),
            Some((key, None)) => format!(": it is of del {key}"),
            None => String::new(),
        };
        let writer = match puts.txn(get) {
            Some(txn) => finding!(transaction(txn); "; the writer is {txn}"),
            None => Finding::default(),
        };
        check_result.violation(finding!(
            key(key = get.key), operation(index = get.invoked_index), transaction(version), nested(writer);
            "get {key} = '{value}' (index {index}) was told the version {version}, which has not written \
             that{wrote}{writer}"
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
            "put {key} = '{value}' (index {index})"
        ),
        None => finding!(
            key(key = write.key), operation(index = write.invoked_index);
            "del {key} (index {index})"
        ),
    }
}
