//! Durability: a write that completed with ok is there at the end, at every replica, or was
//! overwritten by a later version.

use checker::{CheckResult, Finding, Impact, Reference, finding};
use history::{Function, Operation, Outcome};
use system::protocol::{Key, TxnId, Write};

use super::{
    Run,
    atomicity::{by_key, held},
    version_of,
};

/// The name of the check.
pub const NAME: &str = "durability";

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let Some(final_state) = &run.final_state else {
        check_result.unknown("the run ended before the final states were read");
        return check_result;
    };
    let is_acknowledged = |op: &&Operation| op.f.is_write() && op.outcome == Outcome::Ok;
    let writes: Vec<&Operation> = run.operations.iter().filter(is_acknowledged).collect();
    check_result.measure("acknowledged_writes", writes.len());
    let last = run.evidence.transactions.last_commits();
    let journals = run.evidence.missing.is_empty();
    for node in run.replicas() {
        let Some(replica) = final_state.replicas.get(&node) else {
            check_result.unknown(run.unreported(node));
            continue;
        };
        let state = by_key(&replica.entries);
        for write in &writes {
            let acknowledged = acknowledged(write);
            let Some(version) = version_of(write) else {
                check_result.unknown(finding!(
                    nested(acknowledged);
                    "{acknowledged} without a version, so later writes cannot be told from earlier \
                     ones"
                ));
                return check_result;
            };
            let Ok(key) = write.key.parse::<Key>() else {
                check_result.unknown(finding!(
                    nested(acknowledged);
                    "{acknowledged}, but {} is not a key", write.key
                ));
                continue;
            };
            let found = state.get(&key);
            let kept = match found {
                Some((at, _)) if *at > version => true,
                Some((at, value)) => {
                    *at == version && write.value.as_deref() == Some(value.to_string().as_str())
                }
                None if write.f == Function::Del => true,
                None if journals => deleted_later(last.get(&key), version),
                None => may_be_deleted(run, write, version),
            };
            if !kept {
                let finding = finding!(
                    nested(acknowledged), nested(found = held(found));
                    "{acknowledged}, but {node} has {found}"
                );
                check_result.violation(finding.about([Reference::Node(node.to_string())]));
            }
        }
    }
    check_result.with_impact(Impact::DataLost)
}

/// An acknowledged write, in words.
fn acknowledged(write: &Operation) -> Finding {
    let version = match version_of(write) {
        Some(version) => finding!(transaction(version); "{version}"),
        None => "no version".into(),
    };
    match &write.value {
        Some(value) => finding!(
            key(key = write.key), nested(version);
            "put {key} = '{value}' was answered Ok as {version}"
        ),
        None => finding!(
            key(key = write.key), nested(version);
            "del {key} was answered Ok as {version}"
        ),
    }
}

/// Whether the last commit of the key is a later delete.
fn deleted_later(last: Option<&(TxnId, &Write)>, version: TxnId) -> bool {
    last.is_some_and(|(txn, write)| *txn > version && write.value.is_none())
}

/// Without journals: whether a client's delete may have taken effect later.
fn may_be_deleted(run: &Run, write: &Operation, version: TxnId) -> bool {
    run.operations.iter().any(|op| {
        op.f == Function::Del
            && op.key == write.key
            && match op.outcome {
                Outcome::Ok => version_of(op).is_none_or(|later| later > version),
                Outcome::Info => true,
                Outcome::Fail => false,
            }
    })
}
