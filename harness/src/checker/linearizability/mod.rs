//! Whether clients could have seen what they saw if every operation had taken effect at one moment
//! between its invocation and its return. Black box: operations in, a verdict out. Knows nothing
//! of nodes, journals or versions.
//!
//! Keys are decided apart, as many at a time as there are cores: linearizability is local. A key
//! whose puts write values that nothing else writes is decided by [`zones`] (tier 1), any other by
//! [`frontier`] (tier 2); [`search`] (tier 0) is the oracle that both are held against.

mod counterexample;
mod decide;
pub mod frontier;
pub mod key;
mod keys;
pub mod order;
mod register;
mod search;
mod show;
mod slots;
pub mod verify;
pub mod zones;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

pub use counterexample::{Counterexample, Start, Why};
pub use decide::{Certificate, Exhausted, Verdict, accept, decide, general};
pub use frontier::Limits;
pub use keys::{Ask, End, Key, Keys, MalformedHistory, Packed, Shape, Spec};
pub use register::{Register, RegisterOp, RegisterRet};
pub use search::{Bounds, Call, Found, search};
pub use show::{Explanation, Shown, explain, timeline};

use super::{CheckResult, Run};
use crate::history::{Function, Operation, Outcome};

/// The check's name.
pub const NAME: &str = "linearizability";

/// The verdict on one key.
#[derive(Clone, Debug)]
pub struct KeyVerdict {
    /// Its place among the keys.
    pub key: usize,
    /// The verdict.
    pub verdict: Verdict,
    /// By place: the number of the operation in the whole history.
    pub numbers: Vec<u32>,
}

impl KeyVerdict {
    /// Why the key is not linearizable, to be shown to people; none if it is, or if nobody knows.
    #[must_use]
    pub fn explain(&self, keys: &Keys) -> Option<Explanation> {
        let Verdict::Invalid(counterexample) = &self.verdict else { return None };
        let key = &keys.keys()[self.key];
        Some(explain(key, counterexample, |place| Shown::of(key, self.numbers[place as usize])))
    }
}

/// Decides every key, side by side. With `certify`, valid verdicts come with their certificates,
/// which the independent verifier has accepted.
///
/// # Panics
/// If the verifier does not accept a certificate: then this checker is wrong.
#[must_use]
pub fn check_keys(keys: &Keys, limits: &Limits, certify: bool) -> Vec<KeyVerdict> {
    check_keys_telling(keys, limits, certify, &|| {})
}

/// The same, telling whenever a key is done.
pub(super) fn check_keys_telling(
    keys: &Keys,
    limits: &Limits,
    certify: bool,
    done: &(dyn Fn() + Sync),
) -> Vec<KeyVerdict> {
    let all = keys.keys();
    let verdict_of = |key: usize, limits: &Limits| {
        let history = &all[key];
        let mut packed = history.history(keys.spec());
        let verdict = decide(&mut packed, limits, certify);
        if let Verdict::Valid(Some(order)) = &verdict
            && let Err(why) = accept(&packed, order)
        {
            panic!("the certificate of key {} is wrong: {why}", history.name);
        }
        KeyVerdict { key, verdict, numbers: packed.numbers }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(all.len());
    // What is allowed is shared by the keys that are decided at a time.
    let share = Limits { configurations: limits.configurations / workers.max(1), ..*limits };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut verdicts = Vec::new();
        loop {
            let key = next.fetch_add(1, Ordering::Relaxed);
            if key >= all.len() {
                return verdicts;
            }
            verdicts.push(verdict_of(key, &share));
            done();
        }
    };
    let mut verdicts: Vec<KeyVerdict> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|why| std::panic::resume_unwind(why)))
            .collect()
    });
    verdicts.sort_by_key(|verdict| verdict.key);
    // A key that its share was too small for has everything to itself once more.
    for verdict in verdicts.iter_mut().filter(|_| workers > 1) {
        if matches!(verdict.verdict, Verdict::Unknown(Exhausted::Configurations(_))) {
            *verdict = verdict_of(verdict.key, limits);
        }
    }
    verdicts
}

/// Judges a run.
#[must_use]
pub fn check(run: &Run, limits: &Limits) -> CheckResult {
    judge(&run.operations, limits)
}

/// Judges operations on any number of keys, in the order of their invocations.
#[must_use]
pub fn judge(operations: &[Operation], limits: &Limits) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let keys = match keys_of(operations) {
        Ok(keys) => keys,
        Err(nonsense) => {
            check_result.unknown(nonsense.to_string());
            return check_result;
        }
    };
    for KeyVerdict { key, verdict, numbers } in check_keys(&keys, limits, false) {
        let key = &keys.keys()[key];
        match verdict {
            Verdict::Valid(_) => {}
            Verdict::Unknown(exhausted) => {
                check_result.unknown(format!("{}: {exhausted}", key.name))
            }
            Verdict::Invalid(counterexample) => {
                let explained = explained(key, &counterexample, &numbers, operations);
                check_result.violation(explained.to_string());
            }
        }
    }
    check_result.measure("keys", keys.keys().len());
    check_result.measure("operations", operations.len());
    check_result
}

fn explained(
    key: &Key,
    counterexample: &Counterexample,
    numbers: &[u32],
    operations: &[Operation],
) -> Explanation {
    explain(key, counterexample, |place| {
        let number = numbers[place as usize];
        shown(number, &operations[number as usize])
    })
}

/// A key without an order, and how far it had one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What cannot be ordered, and why.
    pub explanation: Explanation,
    /// The operation at whose return the order ends; by its number in the whole history, like all
    /// operations here.
    pub breaks_at: u32,
    /// Up to just before that return, the operations of the key that took effect, in the order of
    /// their linearization points: the longest prefix that has an order. Empty if finding it would
    /// take more than the limits.
    pub prefix: Vec<u32>,
}

/// Every key without an order, for people to look at.
#[must_use]
pub fn broken(operations: &[Operation], limits: &Limits) -> Vec<Broken> {
    let Ok(keys) = keys_of(operations) else { return Vec::new() };
    let mut all = Vec::new();
    for KeyVerdict { key, verdict, numbers } in check_keys(&keys, limits, false) {
        let Verdict::Invalid(counterexample) = verdict else { continue };
        let key = &keys.keys()[key];
        let explanation = explained(key, &counterexample, &numbers, operations);
        let breaks_at = numbers[counterexample.breaks_at as usize];
        let prefix = longest_prefix(operations, &key.name, breaks_at, limits);
        all.push(Broken { explanation, breaks_at, prefix });
    }
    all
}

/// An order of what a key's clients had seen before an operation returned.
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
    let Ok(keys) = keys_of(&before) else { return Vec::new() };
    match check_keys(&keys, limits, true).as_slice() {
        [KeyVerdict { verdict: Verdict::Valid(Some(order)), numbers: of_key, .. }] => {
            let number = |place: &u32| numbers[of_key[*place as usize] as usize];
            order.iter().map(number).collect()
        }
        _ => Vec::new(),
    }
}

/// The events of operations, sorted into keys.
fn keys_of(operations: &[Operation]) -> Result<Keys, MalformedHistory> {
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * operations.len());
    for (at, operation) in operations.iter().enumerate() {
        events.push((operation.invoked_index, false, at));
        events.extend(operation.returned_index.map(|index| (index, true, at)));
    }
    events.sort_unstable();
    let mut keys = Keys::default();
    for (_, is_end, at) in events {
        let operation = &operations[at];
        if !is_end {
            let ask = match (operation.f, &operation.value) {
                (Function::Get, _) => Ask::Get,
                (Function::Put, Some(value)) => Ask::Put(value),
                (Function::Put | Function::Del, _) => Ask::Del,
            };
            keys.invoke(operation.process, &operation.key, ask)?;
            continue;
        }
        let end = match operation.outcome {
            Outcome::Ok if operation.f == Function::Get => End::Ok(operation.value.as_deref()),
            Outcome::Ok => End::Ok(None),
            Outcome::Fail => End::Fail,
            Outcome::Info => End::Info,
        };
        keys.end(operation.process, end)?;
    }
    Ok(keys)
}

/// An operation of a recorded history as people are shown it.
fn shown(number: u32, operation: &Operation) -> Shown {
    let Operation { process, f, value, .. } = operation;
    let text = match (f, value) {
        (Function::Put, Some(value)) => format!("put {value}"),
        (Function::Get, Some(value)) => format!("get = {value}"),
        (Function::Get, None) => "get = nothing".to_owned(),
        _ => f.to_string(),
    };
    Shown {
        number,
        process: Some(*process),
        text,
        invoked: operation.invoked_index,
        returned: operation.returned.and(operation.returned_index),
    }
}

/// A deadline that is not looked at too often.
#[derive(Debug)]
struct Clock {
    start: Instant,
    limit: Duration,
    countdown: u32,
}

impl Clock {
    fn new(limit: Duration) -> Self {
        Clock { start: Instant::now(), limit, countdown: 0 }
    }

    /// Whether the time is up.
    fn is_up(&mut self) -> bool {
        if self.countdown > 0 {
            self.countdown -= 1;
            return false;
        }
        self.countdown = 1 << 12;
        self.start.elapsed() >= self.limit
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
        let broken = broken(&operations, &Limits::default());
        let [Broken { explanation, breaks_at, prefix }] = broken.as_slice() else {
            panic!("{broken:?}")
        };
        assert_eq!((explanation.key.as_str(), *breaks_at), ("k", 1));
        // The get that never found anything may have happened at any time, or not at all.
        let puts: Vec<_> = prefix.iter().copied().filter(|n| n % 2 == 0).collect();
        assert_eq!(puts, [0, 2]);
    }
}
