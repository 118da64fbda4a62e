//! Certificates in files, and a verifier that shares no code with the algorithms that made them: it
//! reads the history, keeps invocations and results as texts, and applies the operations in the order
//! of the certificate.
//!
//! The certificate of a history of transactions is one line with a level and the transactions in their
//! order: `{"level":"strict-serializable","order":[0,2,1]}`.
//!
//! A certificate file has one JSON object a line and key: `{"key":"k0","order":[0,2,1]}`. The order
//! lists the operations that took effect, by number in the history (from 0, in the order of the
//! invocations), in the order of their linearization points.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use history::{Completion, Invocation, MalformedHistory, ReadError, Sink, formats::Format};
use serde::{Deserialize, Serialize};

use crate::{
    initial::{InitialValue, initial_value, is_possible},
    linearizability::{
        Spec,
        verify::{Rejection, verify},
    },
    reading::Reading,
    transactions::{self, BaseLevel, Level, Rejected, TransactionHistory},
};

/// A line of a certificate file.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    key: std::borrow::Cow<'a, str>,
    order: Vec<u32>,
}

/// The line of a history of transactions.
#[derive(Serialize, Deserialize)]
struct TransactionLine {
    level: String,
    order: Vec<u32>,
}

/// Writes a certificate file.
#[derive(Debug)]
pub struct Certificates {
    out: Mutex<BufWriter<File>>,
}

impl Certificates {
    /// Creates the file.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path) -> io::Result<Certificates> {
        Ok(Certificates { out: Mutex::new(BufWriter::new(File::create(path)?)) })
    }

    /// Adds the certificate of a key.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn add(&self, key: &str, order: Vec<u32>) -> io::Result<()> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_writer(&mut *out, &Line { key: key.into(), order })?;
        out.write_all(b"\n")
    }

    /// Adds the certificate of a history of transactions.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn add_transactions(
        &self,
        certificate: &transactions::Certificate,
    ) -> io::Result<()> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let level = certificate.level.to_string();
        serde_json::to_writer(
            &mut *out,
            &TransactionLine { level, order: certificate.order.clone() },
        )?;
        out.write_all(b"\n")
    }

    /// Flushes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> io::Result<()> {
        self.out.into_inner().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

/// The result of a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Every key of the history has a correct certificate.
    Accepted {
        /// Number of keys.
        keys: usize,
        /// Number of operations in their certificates.
        operations: usize,
    },
    /// A certificate is wrong or missing.
    Rejected {
        /// The key.
        key: String,
        /// Why.
        reason: String,
    },
}

/// Verifies the certificates of a history. Holds the history in memory, texts included.
///
/// # Errors
/// One of the files cannot be read or is malformed.
pub fn verify_file(
    history: &Path,
    format: Option<Format>,
    spec: Option<Spec>,
    initial: Option<&str>,
    certificates: &Path,
) -> Result<Verified, ReadError> {
    let mut reading = Reading::new(history, format, spec, initial)?;
    if reading.is_of_transactions(history)? {
        return verify_transactions(history, &reading, certificates);
    }
    if initial.is_none()
        && reading.spec == Spec::Register
        && is_possible(reading.format)
        && let InitialValue::Shown(value) = initial_value(history, reading.format)?
    {
        reading.initial = Some(value);
    }
    let mut recorded = RecordedCalls::default();
    reading.stream(history, &mut recorded, None)?;
    if recorded.has_appends {
        reading = reading.with_appends(spec).unwrap_or(reading);
    }
    let mut keys: Vec<Vec<RecordedCall>> = Vec::new();
    keys.resize_with(recorded.keys.len(), Vec::new);
    for call in recorded.calls {
        keys[call.key].push(call);
    }
    let mut operations = 0;
    let mut missing: HashMap<String, usize> = recorded.keys;
    for line in lines(certificates)? {
        let (key, order) = line?;
        let rejected =
            |reason: &str| Ok(Verified::Rejected { key: key.clone(), reason: reason.to_owned() });
        let Some(at) = missing.remove(&key) else {
            return rejected("the key is not in the history, or has two certificates");
        };
        operations += order.len();
        if let Err(reason) = verify_key(&keys[at], &order, &reading) {
            return rejected(&reason);
        }
    }
    Ok(match missing.into_keys().min() {
        Some(key) => Verified::Rejected { key, reason: "the key has no certificate".to_owned() },
        None => Verified::Accepted { keys: keys.len(), operations },
    })
}

/// Verifies the certificate of a history of transactions.
fn verify_transactions(
    path: &Path,
    reading: &Reading,
    certificates: &Path,
) -> Result<Verified, ReadError> {
    let io = |source| ReadError::Io { path: certificates.to_owned(), source };
    let text = fs::read_to_string(certificates).map_err(io)?;
    let malformed = |reason: String| {
        let path = certificates.to_owned();
        ReadError::Malformed { path, line: 1, column: 1, reason }
    };
    if text.trim().is_empty() {
        let reason = "it has no certificate".to_owned();
        return Ok(Verified::Rejected { key: "the history".to_owned(), reason });
    }
    let line: TransactionLine = serde_json::from_str(&text).map_err(|error| {
        malformed(format!("not the certificate of a history of transactions: {error}"))
    })?;
    let level: Level = line.level.parse().map_err(malformed)?;
    if level.base != BaseLevel::Serializable {
        return Err(malformed(format!("an order shows no {level}, only kinds of serializability")));
    }
    let mut history = TransactionHistory::default();
    reading.stream(path, &mut history, None)?;
    Ok(match transactions::verify(&history, &line.order, level.order) {
        Ok(()) => Verified::Accepted { keys: history.keys(), operations: line.order.len() },
        Err(Rejected { transaction, reason }) => {
            let key = transaction
                .map_or("the order".to_owned(), |number| format!("transaction {number}"));
            Verified::Rejected { key, reason }
        }
    })
}

type KeyAndOrder = (String, Vec<u32>);

fn lines(path: &Path) -> Result<impl Iterator<Item = Result<KeyAndOrder, ReadError>>, ReadError> {
    let owned: PathBuf = path.to_owned();
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let file = BufReader::new(File::open(path).map_err(io)?);
    Ok((1..).zip(file.split(b'\n')).map(move |(number, line)| {
        let line = line.map_err(|source| ReadError::Io { path: owned.clone(), source })?;
        let line: Line<'_> = serde_json::from_slice(&line).map_err(|error| {
            let reason = format!("not a line of a certificate file: {error}");
            let reason = reason.split(" at line ").next().unwrap_or(&reason).to_owned();
            let column = error.column().max(1);
            ReadError::Malformed { path: owned.clone(), line: number, column, reason }
        })?;
        Ok((line.key.into_owned(), line.order))
    }))
}

/// An operation as it was observed.
struct RecordedCall {
    number: u32,
    key: usize,
    op: RecordedOp,
    invoked: u64,
    returned: Option<u64>,
}

/// What an operation did and observed.
enum RecordedOp {
    Get(Option<String>),
    Put(Option<String>),
    /// Expected value, new value, and whether the expected value was found.
    Cas(Option<String>, Option<String>, bool),
    Append(String),
    /// A failed operation.
    Failed,
}

/// Collects the operations of a history.
#[derive(Default)]
struct RecordedCalls {
    calls: Vec<RecordedCall>,
    keys: HashMap<String, usize>,
    /// The open operation of each process.
    open: HashMap<u64, usize>,
    events: u64,
    has_appends: bool,
}

impl Sink for RecordedCalls {
    fn invoke(
        &mut self,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        let count = self.keys.len();
        let key = *self.keys.entry(key.to_owned()).or_insert(count);
        let op = match invocation {
            Invocation::Get => RecordedOp::Get(None),
            Invocation::Put(value) => RecordedOp::Put(Some(value.to_owned())),
            Invocation::Del => RecordedOp::Put(None),
            Invocation::Cas(from, to) => {
                RecordedOp::Cas(from.map(str::to_owned), to.map(str::to_owned), true)
            }
            Invocation::Append(text) => {
                self.has_appends = true;
                RecordedOp::Append(text.to_owned())
            }
        };
        if self.open.insert(process, self.calls.len()).is_some() {
            return Err(MalformedHistory::not_idle(process, false));
        }
        let number = u32::try_from(self.calls.len())
            .map_err(|_| MalformedHistory("more than 2^32 operations".to_owned()))?;
        self.calls.push(RecordedCall { number, key, op, invoked: self.events, returned: None });
        self.events += 1;
        Ok(())
    }

    fn complete(
        &mut self,
        process: u64,
        completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        let Some(at) = self.open.remove(&process) else {
            return Err(MalformedHistory::not_invoked(process));
        };
        let call = &mut self.calls[at];
        match (&mut call.op, completion) {
            (_, Completion::Info) => {}
            (_, Completion::Fail) => call.op = RecordedOp::Failed,
            (RecordedOp::Get(read), Completion::Ok(value)) => *read = value.map(str::to_owned),
            (RecordedOp::Cas(_, _, same), Completion::Mismatch) => *same = false,
            _ => {}
        }
        call.returned = (completion != Completion::Info).then_some(self.events);
        self.events += 1;
        Ok(())
    }
}

/// Verifies the order of one key's operations, given by number in the history.
fn verify_key(calls: &[RecordedCall], order: &[u32], reading: &Reading) -> Result<(), String> {
    let may_take_effect = |call: &&RecordedCall| match call.op {
        RecordedOp::Failed => false,
        RecordedOp::Get(_) => call.returned.is_some(),
        _ => true,
    };
    let calls: Vec<&RecordedCall> = calls.iter().filter(may_take_effect).collect();
    let positions = order.iter().map(|number| {
        let at = calls.binary_search_by_key(number, |call| call.number);
        at.map_err(|_| format!("operation {number} did not take effect on this key"))
    });
    let positions: Vec<u32> =
        positions.map(|at| at.map(|at| at as u32)).collect::<Result<_, String>>()?;
    // Without appends a key can be absent; what it holds at first is another question.
    let absent = (reading.spec == Spec::Append).then(String::new);
    let mut held: Option<String> = reading.initial.clone().or_else(|| absent.clone());
    let times = calls.iter().map(|call| (call.invoked, call.returned));
    verify(times, &positions, |position| match &calls[position as usize].op {
        RecordedOp::Put(value) => {
            held = value.clone().or_else(|| absent.clone());
            true
        }
        RecordedOp::Append(text) => {
            held.get_or_insert_default().push_str(text);
            true
        }
        RecordedOp::Get(read) => held == read.clone().or_else(|| absent.clone()),
        RecordedOp::Cas(from, to, true) => {
            let same = held == from.clone().or_else(|| absent.clone());
            held = to.clone().or_else(|| absent.clone());
            same
        }
        RecordedOp::Cas(from, _, false) => held != from.clone().or_else(|| absent.clone()),
        RecordedOp::Failed => false,
    })
    .map_err(|Rejection { position, reason }| {
        let call = calls.get(position as usize).expect("every position belongs to a call");
        format!("operation {} {reason}", call.number)
    })
}
