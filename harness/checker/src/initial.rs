//! The value that the registers of a history begin with, where the history shows it.
//!
//! Registers are absent at first, unless the user says otherwise. Other testers begin with a value,
//! often 0, and their histories do not name it. A history is taken to show it if at least two
//! operations observed the value, one of them a read that completed before any write of its key was
//! invoked; if nobody ever writes it, not even in vain; and if no such early read found something else.
//! One early read of a value that nobody wrote shows nothing: it is what a violation looks like.
//!
//! This is an assumption, not a proof: a system that answers early reads with the same invented value
//! looks alike. So the report states it, and `--initial nil` withdraws it.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use ahash::RandomState;
use history::{
    Completion, Invocation, MalformedHistory, ReadError, Sink,
    formats::{self, Format},
};

/// What a history shows of the value that its registers begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InitialValue {
    /// It is this one.
    Shown(String),
    /// It may be this one.
    Suggested(String),
    /// Nothing.
    Absent,
}

/// What the history in a file shows.
///
/// # Errors
/// The file cannot be read or is malformed.
pub(crate) fn initial_value(path: &Path, format: Format) -> Result<InitialValue, ReadError> {
    let mut evidence = Evidence::default();
    formats::stream(path, format, &mut evidence)?;
    Ok(evidence.conclusion())
}

/// Whether histories of this format may begin with a value. Our own say `null` for an absent key, and
/// the texts of Porcupine's data begin empty.
pub(crate) fn is_possible(format: Format) -> bool {
    !matches!(format, Format::Jsonl | Format::Porcupine)
}

/// An open operation.
enum Open {
    /// A get, and its key if nothing had written it.
    Get(Option<usize>),
    /// A cas that expects this value.
    Cas(String),
    Other,
}

/// Collects what operations observed.
#[derive(Default)]
struct Evidence {
    keys: HashMap<String, usize, RandomState>,
    /// By key: whether a write of it was invoked.
    is_written: Vec<bool>,
    open: HashMap<u64, Open, RandomState>,
    hasher: RandomState,
    /// Hashes of the values that were written. A collision can only hide evidence.
    written: HashSet<u64, RandomState>,
    /// Observations of values that nobody had written before.
    observed: HashMap<String, u64, RandomState>,
    /// What early reads found.
    early: Option<String>,
    /// Early reads found different values, or nothing.
    contradicts: bool,
}

impl Evidence {
    fn write(&mut self, key: usize, value: Option<&str>) {
        self.is_written[key] = true;
        if let Some(value) = value {
            self.written.insert(self.hasher.hash_one(value));
        }
    }

    fn observe(&mut self, value: &str) {
        if !self.written.contains(&self.hasher.hash_one(value)) {
            *self.observed.entry(value.to_owned()).or_default() += 1;
        }
    }

    fn observe_early(&mut self, value: Option<&str>) {
        match (&self.early, value) {
            (None, Some(value)) => self.early = Some(value.to_owned()),
            (Some(early), Some(value)) if early == value => {}
            _ => self.contradicts = true,
        }
    }

    fn conclusion(self) -> InitialValue {
        match self.early {
            Some(value) if !self.contradicts => {
                let is_written = self.written.contains(&self.hasher.hash_one(&value));
                let count = self.observed.get(&value).copied().unwrap_or(0);
                if is_written || count < 2 {
                    InitialValue::Suggested(value)
                } else {
                    InitialValue::Shown(value)
                }
            }
            _ => InitialValue::Absent,
        }
    }
}

impl Sink for Evidence {
    fn invoke(
        &mut self,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        let key = match self.keys.get(key) {
            Some(key) => *key,
            None => {
                self.keys.insert(key.to_owned(), self.is_written.len());
                self.is_written.push(false);
                self.is_written.len() - 1
            }
        };
        let open = match invocation {
            Invocation::Get => Open::Get((!self.is_written[key]).then_some(key)),
            Invocation::Put(value) | Invocation::Append(value) => {
                self.write(key, Some(value));
                Open::Other
            }
            Invocation::Del => {
                self.write(key, None);
                Open::Other
            }
            Invocation::Cas(from, to) => {
                self.write(key, to);
                from.map_or(Open::Other, |from| Open::Cas(from.to_owned()))
            }
        };
        self.open.insert(process, open);
        Ok(())
    }

    fn complete(
        &mut self,
        process: u64,
        completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        match (self.open.remove(&process), completion) {
            (Some(Open::Get(key)), Completion::Ok(value)) => {
                if let Some(value) = value {
                    self.observe(value);
                }
                if key.is_some_and(|key| !self.is_written[key]) {
                    self.observe_early(value);
                }
            }
            (Some(Open::Cas(from)), Completion::Ok(_)) => self.observe(&from),
            _ => {}
        }
        Ok(())
    }
}
