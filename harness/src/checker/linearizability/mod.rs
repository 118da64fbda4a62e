//! Whether clients could have seen what they saw if every operation had taken effect at one moment
//! between its invocation and its return. Black box: operations in, a verdict out. Knows nothing
//! of nodes, journals or versions.

mod prepare;
mod register;
mod search;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

pub use prepare::{Defect, prepare};
pub use register::{Register, RegisterOp, RegisterRet};
pub use search::{Call, search};

use super::{Judgement, Run, Validity};
use crate::history::{Fate, Function, Operation};

/// The check's name.
pub const NAME: &str = "linearizability";

/// What may be spent on one key before the answer is "unknown".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Time.
    pub time: Duration,
    /// Memory for what was seen before, in bytes.
    pub memory: usize,
}

impl Default for Bounds {
    /// A minute and 1 GiB.
    fn default() -> Self {
        Bounds { time: Duration::from_secs(60), memory: 1 << 30 }
    }
}

/// The answer to "is it linearizable?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes: the operations that took effect, by their place in the input, in an order that shows
    /// it.
    Valid(Vec<usize>),
    /// No.
    Invalid(Counterexample),
    /// It would take more than the bounds allow.
    Unknown(Exhausted),
}

/// Why there is no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// The operation, by its place in the input, whose return ends the shortest prefix of the
    /// history that is not linearizable.
    pub breaks_at: usize,
    /// An order of all the operations that had returned before: so far it is linearizable.
    pub prefix: Vec<usize>,
}

/// Which bound was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// The time.
    Time(Duration),
    /// The memory, in bytes.
    Memory(usize),
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exhausted::Time(limit) => write!(f, "no answer within {limit:?}"),
            Exhausted::Memory(limit) => write!(f, "no answer within {} MiB", limit >> 20),
        }
    }
}

/// Judges a run: each key by itself, for linearizability is local, as many at a time as there are
/// cores.
#[must_use]
pub fn check(run: &Run, bounds: &Bounds) -> Judgement {
    judge(&run.operations, bounds)
}

/// Judges operations on any number of keys.
#[must_use]
pub fn judge(operations: &[Operation], bounds: &Bounds) -> Judgement {
    let mut judgement = Judgement::new(NAME);
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    let keys: Vec<(&str, Vec<&Operation>)> = keys.into_iter().collect();
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(keys.len());
    let mut answers: Vec<(usize, Answer)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = Vec::new();
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some((key, operations)) = keys.get(at) else { return answers };
                        answers.push((at, check_key(key, operations, bounds)));
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a check of a key does not panic"))
            .collect()
    });
    answers.sort_by_key(|(at, _)| *at);
    for (_, answer) in answers {
        match answer {
            Ok(()) => {}
            Err((Validity::Invalid, sentence)) => judgement.violation(sentence),
            Err((_, sentence)) => judgement.doubt(sentence),
        }
    }
    judgement.measure("keys", keys.len());
    judgement.measure("operations", operations.len());
    judgement
}

/// What is wrong with a key, or why that cannot be said.
type Answer = Result<(), (Validity, String)>;

/// Judges the operations of one key, in the order of their invocations.
fn check_key(key: &str, operations: &[&Operation], bounds: &Bounds) -> Answer {
    let (calls, places) = calls(operations);
    let prepared = match prepare(&calls) {
        Ok(prepared) => prepared,
        Err(defect) => {
            let sentence = match defect {
                Defect::AbortedRead { get, put } => format!(
                    "{key}: {} read what {} wrote, which failed",
                    said(operations[places[get]]),
                    said(operations[places[put]])
                ),
                Defect::NoWriter { get } => {
                    format!("{key}: {} read what nobody had written", said(operations[places[get]]))
                }
            };
            return Err((Validity::Invalid, sentence));
        }
    };
    let kept: Vec<_> = prepared.iter().map(|(_, call)| call.clone()).collect();
    match search(&Register::default(), &kept, bounds) {
        Verdict::Valid(_) => Ok(()),
        Verdict::Unknown(exhausted) => Err((Validity::Unknown, format!("{key}: {exhausted}"))),
        Verdict::Invalid(counterexample) => {
            let place = |call: usize| operations[places[prepared[call].0]];
            let last = counterexample.prefix.last();
            Err((
                Validity::Invalid,
                format!(
                    "{key}: there is no order in which {} can have happened; the {} operations \
                     before it have one{}",
                    said(place(counterexample.breaks_at)),
                    counterexample.prefix.len(),
                    last.map_or_else(String::new, |last| format!(
                        ", which may end with {}",
                        said(place(*last))
                    ))
                ),
            ))
        }
    }
}

/// An operation in words.
fn said(operation: &Operation) -> String {
    let Operation { process, f, invoked_index, value, .. } = operation;
    let value = match (f, value) {
        (Function::Put, Some(value)) => format!(" {value}"),
        (Function::Get, Some(value)) => format!(" = {value}"),
        (Function::Get, None) => " = nothing".to_owned(),
        _ => String::new(),
    };
    format!("{f}{value} of process {process} (index {invoked_index})")
}

/// The operations of a key as calls of a register, with times that are places in the order of
/// events. Beside each its place in the input: what did not happen and says nothing is left out.
fn calls(operations: &[&Operation]) -> (Vec<Call<RegisterOp, RegisterRet>>, Vec<usize>) {
    let mut values: HashMap<&str, u32> = HashMap::new();
    let mut calls = Vec::with_capacity(operations.len());
    let mut places = Vec::with_capacity(operations.len());
    for (place, operation) in operations.iter().enumerate() {
        let mut number = |value: &'_ Option<String>| {
            let value = operation.value.as_deref().filter(|_| value.is_some())?;
            let next = u32::try_from(values.len()).expect("fewer operations than 2^32");
            Some(*values.entry(value).or_insert(next))
        };
        let (op, ret) = match (operation.f, operation.fate) {
            (Function::Get, Fate::Ok) => {
                (RegisterOp::Get, RegisterRet::Found(number(&operation.value)))
            }
            (Function::Get, _) | (Function::Del, Fate::Fail) => continue,
            (Function::Del, _) => (RegisterOp::Del, RegisterRet::Done),
            (Function::Put, _) => match number(&operation.value) {
                Some(value) => (RegisterOp::Put(value), RegisterRet::Done),
                None => continue,
            },
        };
        let failed = operation.fate == Fate::Fail;
        calls.push(Call {
            op,
            ret: (operation.fate == Fate::Ok).then_some(ret),
            failed,
            invoked: operation.invoked_index,
            returned: if failed { None } else { operation.returned.and(operation.returned_index) },
        });
        places.push(place);
    }
    (calls, places)
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
