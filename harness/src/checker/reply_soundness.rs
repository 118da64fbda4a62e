//! What clients were told is true: Ok means committed, a failure means no effect ever, a version
//! is the transaction that wrote the value. From the history and the journals.

use std::collections::{BTreeMap, HashMap, HashSet};

use system::protocol::{Node, TxnId};

use super::{
    CheckResult, Run,
    evidence::{Told, Transaction, What},
};
use crate::history::{Function, Operation, Outcome};

/// The check's name.
pub const NAME: &str = "reply-soundness";

/// Judges a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let complete = run.evidence.complete(&mut check_result);
    answers(run, &mut check_result);
    let puts = Puts::of(run);
    let mut checked = 0;
    for operation in run.operations.iter().filter(|operation| operation.f.is_write()) {
        checked += usize::from(operation.outcome != Outcome::Info);
        match operation.outcome {
            Outcome::Ok if complete => ok(run, &puts, operation, &mut check_result),
            Outcome::Fail => fail(run, &puts, operation, &mut check_result),
            Outcome::Ok | Outcome::Info => {}
        }
    }
    asked_for(run, &mut check_result);
    check_result.measure("answers", checked);
    check_result
}

/// Nothing was committed that no client asked for. Deletes look alike: of each key no more may have
/// been committed than were answered Ok or left open, or one that failed took effect.
///
/// A history that breaks off may lack its last lines, but none between others: an invocation is
/// recorded before its request leaves. So of what began later than its last event nothing is said.
fn asked_for(run: &Run, check_result: &mut CheckResult) {
    let recorded_until = match (&run.remained, run.events.last()) {
        (None, Some(last)) => i64::try_from(last.time).unwrap_or(i64::MAX),
        (None, None) => i64::MIN,
        (Some(_), _) => i64::MAX,
    };
    let mut unseen = 0;
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
        if transaction.begun().is_some_and(|begun| begun > recorded_until) {
            unseen += 1;
            continue;
        }
        let key = write.key.to_string();
        match &write.value {
            Some(value) if !puts.contains(&(key.as_str(), value.to_string().as_str())) => {
                check_result.violation(format!(
                    "{txn} committed put {key} = {value} ({commit}), which no client asked for"
                ));
            }
            Some(_) => {}
            None => *committed_dels.entry(key).or_default() += 1,
        }
    }
    for (key, committed) in committed_dels {
        let (possible, failed) = dels.get(key.as_str()).copied().unwrap_or_default();
        if committed > possible {
            check_result.violation(format!(
                "deletes of {key}: {committed} committed, but only {possible} answered Ok or left \
                 open, and {failed} failed"
            ));
        }
    }
    if unseen > 0 {
        check_result.unknown(format!(
            "the history breaks off before the first sign of {unseen} committed writes: who asked for \
             them is not known"
        ));
    }
}

/// Which transaction wrote which value, by journals; and which get saw which value, by clients.
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

/// What the master told its clients, against the journals.
fn answers(run: &Run, check_result: &mut CheckResult) {
    let transactions = &run.evidence.transactions.by_id;
    let Some(master) = run.evidence.nodes.get(&Node::Master) else { return };
    for fact in &master.facts {
        let place = fact.place;
        match &fact.what {
            What::OkTold { txn, durable } => {
                if !durable {
                    check_result.violation(format!(
                        "the master answered Ok for {txn} ({place}) before COMMIT was durable"
                    ));
                }
                let aborted = transactions.get(txn).and_then(|found| found.aborted.first());
                if let Some(abort) = aborted {
                    check_result.violation(format!(
                        "the master answered Ok for {txn} ({place}), but it was aborted ({})",
                        abort.place
                    ));
                }
            }
            What::AbortTold { txn, to: Told::Client(_), .. } => {
                let commit = transactions.get(txn).and_then(Transaction::commit);
                if let Some(commit) = commit {
                    check_result.violation(format!(
                        "the master answered Aborted for {txn} ({place}), but it was committed \
                         ({commit})"
                    ));
                }
            }
            _ => {}
        }
    }
}

/// A write that was answered Ok.
fn ok(run: &Run, puts: &Puts<'_>, operation: &Operation, check_result: &mut CheckResult) {
    let said = said(operation);
    let Some(version) = operation.version else {
        check_result.violation(format!("{said} was answered Ok without a version"));
        return;
    };
    let Some(transaction) = run.evidence.transactions.by_id.get(&version) else {
        check_result
            .violation(format!("{said} was answered Ok as {version}, which no journal knows"));
        return;
    };
    if transaction.commit().is_none() {
        check_result
            .violation(format!("{said} was answered Ok as {version}, which nobody has committed"));
    }
    let Some(write) = &transaction.write else { return };
    let wrote = write.value.as_ref().map(ToString::to_string);
    if write.key.to_string() != operation.key || wrote != operation.value {
        let other = puts.txn(operation);
        let other = other.map_or_else(|| "no transaction".to_owned(), |txn| txn.to_string());
        check_result.violation(format!(
            "{said} was answered Ok as {version}, but {other} has written that"
        ));
    }
}

/// A write that was answered with a failure.
fn fail(run: &Run, puts: &Puts<'_>, operation: &Operation, check_result: &mut CheckResult) {
    let Some(value) = &operation.value else { return };
    let said = said(operation);
    let committed = puts
        .txn(operation)
        .and_then(|txn| Some((txn, run.evidence.transactions.by_id.get(&txn)?.commit()?)));
    if let Some((txn, commit)) = committed {
        check_result.violation(format!("{said} failed, but {txn} committed it ({commit})"));
    }
    if let Some(get) = puts.seen.get(&(operation.key.as_str(), value.as_str())) {
        check_result.violation(format!(
            "{said} failed, but process {} read that value (index {})",
            get.process, get.invoked_index
        ));
    }
}

/// A write, in words.
fn said(write: &Operation) -> String {
    let index = write.invoked_index;
    match &write.value {
        Some(value) => format!("put {} = {value} (index {index})", write.key),
        None => format!("del {} (index {index})", write.key),
    }
}
