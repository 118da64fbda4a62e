//! Checks recorded operations, and explains verdicts in terms of them.

use history::{Completion, Function, Invocation, MalformedHistory, Operation, Outcome};

use super::{
    Counterexample, Explanation, KeyVerdict, Limits, NAME, Observations, ObservedKey,
    ShownOperation, Verdict, check_keys, explain,
};
use crate::{CheckResult, Finding, Impact, Reference, finding};

/// Checks operations on any number of keys, which must be in the order of their invocations. Snapshots are left
/// out: what they say about keys, the system under test knows.
#[must_use]
pub fn check(operations: &[Operation], limits: &Limits) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let observations = match observe(operations) {
        Ok(observations) => observations,
        Err(malformed) => {
            check_result.unknown(malformed.to_string());
            return check_result;
        }
    };
    for KeyVerdict { key, verdict, numbers } in check_keys(&observations, limits, false) {
        let key = &observations.keys()[key];
        match verdict {
            Verdict::Valid(_) => {}
            Verdict::Unknown(limit) => {
                check_result.unknown(finding!(key(key = key.name); "{key}: {limit}"));
            }
            Verdict::Invalid(counterexample) => {
                let explanation = explanation(key, &counterexample, &numbers, operations);
                let stuck = &operations[numbers[counterexample.breaks_at as usize] as usize];
                let at = stuck.returned.and_then(|at| i64::try_from(at).ok());
                let shown = explanation.operations.iter().map(|shown| Reference::Operation {
                    index: operations[shown.number as usize].invoked_index,
                });
                let finding = Finding::from(&explanation).with_time(at).about(shown);
                check_result.violation(finding.with_impact(Impact::WrongAnswer));
            }
        }
    }
    check_result.measure("keys", observations.keys().len());
    check_result.measure("operations", operations.len());
    check_result
}

fn explanation(
    key: &ObservedKey,
    counterexample: &Counterexample,
    numbers: &[u32],
    operations: &[Operation],
) -> Explanation {
    explain(key, counterexample, |position| {
        let number = numbers[position as usize];
        shown(number, &operations[number as usize])
    })
}

/// A key that is not linearizable, and the longest prefix of its history that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonLinearizableKey {
    /// The operations that have no order, and why.
    pub explanation: Explanation,
    /// The operation at whose return the history stops being linearizable. Operations are given by
    /// their number in the whole history.
    pub breaks_at: u32,
    /// The operations of the key that took effect until right before that return, in the order of
    /// their linearization points. Empty if finding it takes more than the limits allow.
    pub prefix: Vec<u32>,
}

/// Finds every key that is not linearizable, for display.
#[must_use]
pub fn non_linearizable_keys(operations: &[Operation], limits: &Limits) -> Vec<NonLinearizableKey> {
    let Ok(observations) = observe(operations) else { return Vec::new() };
    let mut found = Vec::new();
    for KeyVerdict { key, verdict, numbers } in check_keys(&observations, limits, false) {
        let Verdict::Invalid(counterexample) = verdict else { continue };
        let key = &observations.keys()[key];
        let explanation = explanation(key, &counterexample, &numbers, operations);
        let breaks_at = numbers[counterexample.breaks_at as usize];
        let prefix = longest_prefix(operations, &key.name, breaks_at, limits);
        found.push(NonLinearizableKey { explanation, breaks_at, prefix });
    }
    found
}

/// A linearization of what the clients of a key had observed right before an operation returned.
fn longest_prefix(
    operations: &[Operation],
    key: &str,
    breaks_at: u32,
    limits: &Limits,
) -> Vec<u32> {
    let until = operations[breaks_at as usize].returned_index.unwrap_or(u64::MAX);
    let (mut numbers, mut before) = (Vec::new(), Vec::new());
    let of_key = (0_u32..).zip(operations).filter(|(_, op)| &*op.key == key);
    for (number, operation) in of_key.filter(|(_, op)| op.invoked_index < until) {
        let mut operation = operation.clone();
        if operation.returned_index.is_some_and(|index| index >= until) {
            operation.outcome = Outcome::Info;
            (operation.returned, operation.returned_index) = (None, None);
        }
        numbers.push(number);
        before.push(operation);
    }
    let Ok(observations) = observe(&before) else { return Vec::new() };
    match check_keys(&observations, limits, true).as_slice() {
        [KeyVerdict { verdict: Verdict::Valid(Some(order)), numbers: of_key, .. }] => {
            let number = |position: &u32| numbers[of_key[*position as usize] as usize];
            order.iter().map(number).collect()
        }
        _ => Vec::new(),
    }
}

/// The invocations and completions of operations, sorted by key.
fn observe(operations: &[Operation]) -> Result<Observations, MalformedHistory> {
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * operations.len());
    let on_keys = |(_, operation): &(usize, &Operation)| operation.f != Function::Snapshot;
    for (at, operation) in operations.iter().enumerate().filter(on_keys) {
        events.push((operation.invoked_index, false, at));
        events.extend(operation.returned_index.map(|index| (index, true, at)));
    }
    events.sort_unstable();
    let mut observations = Observations::default();
    for (_, is_completion, at) in events {
        let operation = &operations[at];
        if !is_completion {
            invoke(&mut observations, operation)?;
            continue;
        }
        let completion = match operation.outcome {
            Outcome::Ok if operation.f == Function::Get => {
                Completion::Ok(operation.value.as_deref())
            }
            Outcome::Ok => Completion::Ok(None),
            Outcome::Fail => Completion::Fail,
            Outcome::Info => Completion::Info,
        };
        observations.complete(operation.process, completion)?;
    }
    Ok(observations)
}

/// Adds the invocation of an operation on a register.
fn invoke(observations: &mut Observations, operation: &Operation) -> Result<(), MalformedHistory> {
    let Operation { process, f, key, value, .. } = operation;
    let pair;
    let invocation = match (f, value) {
        (Function::Get, _) => Invocation::Get,
        (Function::Put, Some(value)) => Invocation::Put(value),
        (Function::Put | Function::Del, _) => Invocation::Del,
        (Function::Cas, _) => {
            pair = operation.cas().ok_or_else(|| {
                MalformedHistory(
                    "a cas needs [expected, new], texts or null, as its value".to_owned(),
                )
            })?;
            Invocation::Cas(pair.0.as_deref(), pair.1.as_deref())
        }
        _ => {
            return Err(MalformedHistory(format!(
                "{f} of {key}: linearizability is checked of get, put, del and cas"
            )));
        }
    };
    observations.invoke(*process, key, invocation)
}

/// A recorded operation in the form shown to people.
fn shown(number: u32, operation: &Operation) -> ShownOperation {
    let Operation { process, f, value, .. } = operation;
    let text = match (f, value) {
        (Function::Put, Some(value)) => format!("put {value}"),
        (Function::Get, Some(value)) => format!("get = {value}"),
        (Function::Get, None) => "get = nothing".to_owned(),
        (Function::Cas, Some(pair)) => format!("cas {pair}"),
        _ => f.to_string(),
    };
    ShownOperation {
        number,
        process: Some(*process),
        text,
        invoked: operation.invoked_index,
        returned: operation.returned.and(operation.returned_index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_before_the_break_has_an_order() {
        let operation = |n: u64, f, value: Option<&str>, span: (u64, u64)| Operation {
            process: n,
            f,
            key: "k".to_owned(),
            value: value.map(str::to_owned),
            outcome: Outcome::Ok,
            version: None,
            error: None,
            node: None,
            invoked_index: span.0,
            invoked: span.0,
            returned: Some(span.1),
            returned_index: Some(span.1),
        };
        let operations = [
            operation(0, Function::Put, Some("a"), (0, 1)),
            operation(1, Function::Get, None, (2, 6)),
            operation(2, Function::Put, Some("b"), (3, 4)),
            operation(3, Function::Get, Some("b"), (5, 7)),
        ];
        let keys = non_linearizable_keys(&operations, &Limits::default());
        let [NonLinearizableKey { explanation, breaks_at, prefix }] = keys.as_slice() else {
            panic!("{keys:?}")
        };
        assert_eq!((explanation.key.as_str(), *breaks_at), ("k", 1));
        // The open get may have taken effect at any time or not at all.
        let puts: Vec<_> = prefix.iter().copied().filter(|n| n % 2 == 0).collect();
        assert_eq!(puts, [0, 2]);
    }
}
