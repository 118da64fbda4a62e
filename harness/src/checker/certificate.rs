//! Certificates in files, and the verifier that needs nothing of the checker that made them: it
//! reads the history, keeps what was asked and answered as it was written, and does the operations
//! in the order that the certificate says.
//!
//! A certificate has a JSON object a line, one for each key: `{"key":"k0","order":[0,2,1]}`, the
//! operations that took effect, by their numbers in the history (from 0, in the order of their
//! invocations), in an order that shows that the key is linearizable.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::linearizability::{
    Ask, End, MalformedHistory, Spec,
    verify::{Refusal, verify},
};
use crate::history::{
    ReadError,
    formats::{self, Format, Sink},
};

/// A line of a certificate.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    key: std::borrow::Cow<'a, str>,
    order: Vec<u32>,
}

/// A file of certificates that is being written.
#[derive(Debug)]
pub struct Certificates {
    out: Mutex<BufWriter<File>>,
}

impl Certificates {
    /// Begins a file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> io::Result<Certificates> {
        Ok(Certificates { out: Mutex::new(BufWriter::new(File::create(path)?)) })
    }

    /// Adds a key.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn add(&self, key: &str, order: Vec<u32>) -> io::Result<()> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_writer(&mut *out, &Line { key: key.into(), order })?;
        out.write_all(b"\n")
    }

    /// Ends the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(self) -> io::Result<()> {
        self.out.into_inner().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

/// What a verifier found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Every key of the history has a certificate that shows that it is linearizable.
    Accepted {
        /// How many keys.
        keys: usize,
        /// How many operations their certificates have.
        operations: usize,
    },
    /// A certificate does not show it, or is missing.
    Refused {
        /// The key.
        key: String,
        /// Why.
        reason: String,
    },
}

/// Verifies the certificates of a history. The history is held in memory as it is, texts and all.
///
/// # Errors
/// One of the files cannot be read.
pub fn verify_file(
    history: &Path,
    format: Option<Format>,
    spec: Option<Spec>,
    certificates: &Path,
) -> Result<Verified, ReadError> {
    let format = format.map_or_else(|| formats::detect(history), Ok)?;
    let mut seen = Seen::default();
    formats::stream(history, format, &mut seen)?;
    let mut keys: Vec<Vec<Call>> = Vec::new();
    keys.resize_with(seen.keys.len(), Vec::new);
    for call in seen.calls {
        keys[call.key].push(call);
    }
    let spec = spec.unwrap_or(format.spec());
    let mut operations = 0;
    let mut missing: HashMap<String, usize> = seen.keys;
    for line in lines(certificates)? {
        let (key, order) = line?;
        let refused =
            |reason: &str| Ok(Verified::Refused { key: key.clone(), reason: reason.to_owned() });
        let Some(at) = missing.remove(&key) else {
            return refused("the history has no such key, or it is certified twice");
        };
        operations += order.len();
        if let Err(reason) = accept(&keys[at], &order, spec) {
            return refused(&reason);
        }
    }
    Ok(match missing.into_keys().min() {
        Some(key) => Verified::Refused { key, reason: "it has no certificate".to_owned() },
        None => Verified::Accepted { keys: keys.len(), operations },
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
            let reason = format!("no line of a certificate: {error}");
            let reason = reason.split(" at line ").next().unwrap_or(&reason).to_owned();
            let column = error.column().max(1);
            ReadError::Malformed { path: owned.clone(), line: number, column, reason }
        })?;
        Ok((line.key.into_owned(), line.order))
    }))
}

/// An operation as it was observed, in words.
struct Call {
    number: u32,
    key: usize,
    what: What,
    invoked: u64,
    returned: Option<u64>,
}

enum What {
    Get(Option<String>),
    Put(Option<String>),
    /// It found the first, or something else, and put the second.
    Cas(Option<String>, Option<String>, bool),
    Append(String),
    /// It did not happen, or was a get whose answer nobody knows.
    Nothing,
}

/// A history, as it is read.
#[derive(Default)]
struct Seen {
    calls: Vec<Call>,
    keys: HashMap<String, usize>,
    /// The operation under way of each process.
    under_way: HashMap<u64, usize>,
    events: u64,
}

impl Sink for Seen {
    fn invoke(&mut self, process: u64, key: &str, ask: Ask<'_>) -> Result<(), MalformedHistory> {
        let count = self.keys.len();
        let key = *self.keys.entry(key.to_owned()).or_insert(count);
        let what = match ask {
            Ask::Get => What::Get(None),
            Ask::Put(value) => What::Put(Some(value.to_owned())),
            Ask::Del => What::Put(None),
            Ask::Cas(from, to) => What::Cas(from.map(str::to_owned), to.map(str::to_owned), true),
            Ask::Append(text) => What::Append(text.to_owned()),
        };
        if self.under_way.insert(process, self.calls.len()).is_some() {
            return Err(MalformedHistory(format!("process {process} has an operation under way")));
        }
        let number = u32::try_from(self.calls.len())
            .map_err(|_| MalformedHistory("more than 2^32 operations".to_owned()))?;
        self.calls.push(Call { number, key, what, invoked: self.events, returned: None });
        self.events += 1;
        Ok(())
    }

    fn end(&mut self, process: u64, end: End<'_>) -> Result<(), MalformedHistory> {
        let Some(at) = self.under_way.remove(&process) else {
            return Err(MalformedHistory(format!("process {process} ends what it has not begun")));
        };
        let call = &mut self.calls[at];
        match (&mut call.what, end) {
            (_, End::Info) => {}
            (_, End::Fail) => call.what = What::Nothing,
            (What::Get(found), End::Ok(answer)) => *found = answer.map(str::to_owned),
            (What::Cas(_, _, same), End::Differs) => *same = false,
            _ => {}
        }
        call.returned = (end != End::Info).then_some(self.events);
        self.events += 1;
        Ok(())
    }
}

/// Judges the order of one key's operations, by their numbers in the history.
fn accept(calls: &[Call], order: &[u32], spec: Spec) -> Result<(), String> {
    let counts = |call: &&Call| match call.what {
        What::Nothing => false,
        What::Get(_) => call.returned.is_some(),
        _ => true,
    };
    let calls: Vec<&Call> = calls.iter().filter(counts).collect();
    let places = order.iter().map(|number| {
        let at = calls.binary_search_by_key(number, |call| call.number);
        at.map_err(|_| format!("operation {number} is none that took effect on this key"))
    });
    let places: Vec<u32> =
        places.map(|at| at.map(|at| at as u32)).collect::<Result<_, String>>()?;
    let first = (spec == Spec::Append).then(String::new);
    let mut held: Option<String> = first.clone();
    let times = calls.iter().map(|call| (call.invoked, call.returned));
    verify(times, &places, |place| match &calls[place as usize].what {
        What::Put(value) => {
            held = value.clone().or_else(|| first.clone());
            true
        }
        What::Append(text) => {
            held.get_or_insert_default().push_str(text);
            true
        }
        What::Get(found) => held == found.clone().or_else(|| first.clone()),
        What::Cas(from, to, true) => {
            let same = held == *from;
            held.clone_from(to);
            same
        }
        What::Cas(from, _, false) => held != *from,
        What::Nothing => false,
    })
    .map_err(|Refusal { place, reason }| {
        let call = calls.get(place as usize).expect("every place is one of a call");
        format!("operation {} {reason}", call.number)
    })
}
