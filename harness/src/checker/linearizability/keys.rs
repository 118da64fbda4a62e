//! Sorts what clients observed into the histories of keys, packed, event by event. Knows neither
//! files nor verdicts.

use std::collections::HashMap;

use ahash::RandomState;

use super::{
    frontier::{self, Step},
    key::{KeyHistory, NOTHING, OPEN, Op, What},
};

/// What a client asks of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// What is there?
    Get,
    /// Let this be there.
    Put(&'a str),
    /// Let nothing be there.
    Del,
    /// If the first is there, let the second be; none is nothing.
    Cas(Option<&'a str>, Option<&'a str>),
    /// Let this be added at the end.
    Append(&'a str),
}

/// How a client's operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// It happened; a get found this, none if nothing.
    Ok(Option<&'a str>),
    /// It certainly did not happen.
    Fail,
    /// A cas found something else there.
    Differs,
    /// Nobody knows.
    Info,
}

/// Which object a key is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spec {
    /// A register with put, del and get, and cas, that holds nothing at first.
    #[default]
    Register,
    /// A text that can be put, appended to and read, empty at first.
    Append,
}

impl std::str::FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "register" => Ok(Spec::Register),
            "append" => Ok(Spec::Append),
            _ => Err(format!("'{text}' is no specification: want register or append")),
        }
    }
}

/// What cannot be an observation. The caller knows where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedHistory(pub String);

impl MalformedHistory {
    /// A process begins an operation though it has one under way, or is retired.
    pub(in crate::checker) fn begun(process: u64, retired: bool) -> MalformedHistory {
        MalformedHistory(if retired {
            format!("process {process} was retired by an info")
        } else {
            format!("process {process} has an operation under way")
        })
    }

    /// A process ends an operation though it has none under way.
    pub(in crate::checker) fn not_begun(process: u64) -> MalformedHistory {
        MalformedHistory(format!("process {process} ends what it has not begun"))
    }
}

/// Histories of keys as they grow. Each process has one operation at a time.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    spec: Spec,
    by_name: HashMap<Box<str>, usize, RandomState>,
    keys: Vec<Key>,
    /// The operation under way of each process: key and place; none if it is retired.
    under_way: HashMap<u64, Option<(usize, usize)>, RandomState>,
    operations: u64,
}

/// One key, as it grows.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: Box<str>,
    /// Events so far.
    clock: u32,
    ops: Vec<Op>,
    /// Steps that are no plain writes and reads, by place. Their ops are writes.
    special: HashMap<u32, Step>,
    /// By place: the number of the operation in the whole history, from 0.
    numbers: Vec<u32>,
    values: HashMap<Box<str>, u32, RandomState>,
    /// By value: whether only failed writes wrote it, so far.
    failed: Vec<bool>,
}

/// The place of an operation that is not to be considered.
const DROPPED: What = What::Read(OPEN);

impl Key {
    fn new(name: &str, spec: Spec) -> Self {
        let mut values = HashMap::default();
        if spec == Spec::Append {
            values.insert("".into(), NOTHING);
        }
        Key {
            name: name.into(),
            clock: 0,
            ops: Vec::new(),
            special: HashMap::new(),
            numbers: Vec::new(),
            values,
            failed: vec![false],
        }
    }

    fn value(&mut self, text: &str) -> u32 {
        if let Some(value) = self.values.get(text) {
            return *value;
        }
        let value = u32::try_from(self.failed.len()).expect("fewer values than events");
        self.values.insert(text.into(), value);
        self.failed.push(false);
        value
    }

    fn tick(&mut self) -> Result<u32, MalformedHistory> {
        let now = self.clock;
        self.clock = now.checked_add(1).filter(|clock| *clock < OPEN).ok_or_else(|| {
            MalformedHistory(format!("key {} has more than 2^32 events", self.name))
        })?;
        Ok(now)
    }

    fn invoke(&mut self, ask: Ask<'_>, number: u32) -> Result<usize, MalformedHistory> {
        let invoked = self.tick()?;
        let place = self.ops.len();
        let what = match ask {
            Ask::Get => DROPPED,
            Ask::Del => What::Write(NOTHING),
            Ask::Put(value) => What::Write(self.value(value)),
            Ask::Cas(from, to) => {
                let [from, to] =
                    [from, to].map(|value| value.map_or(NOTHING, |value| self.value(value)));
                self.specially(place, Step::Cas(from, to));
                What::Write(to)
            }
            Ask::Append(text) => {
                let text = self.value(text);
                self.specially(place, Step::Append(text));
                What::Write(text)
            }
        };
        self.ops.push(Op { invoked, returned: OPEN, what });
        self.numbers.push(number);
        Ok(place)
    }

    fn specially(&mut self, place: usize, step: Step) {
        self.special.insert(u32::try_from(place).expect("places fit in 32 bits"), step);
    }

    fn end(&mut self, place: usize, end: End<'_>) -> Result<(), MalformedHistory> {
        let returned = self.tick()?;
        let special = u32::try_from(place).expect("places fit in 32 bits");
        match end {
            End::Info => {}
            End::Ok(found) => {
                if self.ops[place].what == DROPPED {
                    let value = found.map_or(NOTHING, |found| self.value(found));
                    self.ops[place].what = What::Read(value);
                }
                self.ops[place].returned = returned;
            }
            End::Fail => {
                if let What::Write(value) = self.ops[place].what {
                    self.failed[value as usize] = true;
                }
                self.special.remove(&special);
                self.ops[place].what = DROPPED;
            }
            End::Differs => match self.special.get_mut(&special) {
                Some(step @ Step::Cas(..)) => {
                    let Step::Cas(from, _) = *step else { unreachable!("it was just matched") };
                    *step = Step::Differs(from);
                    self.ops[place].returned = returned;
                }
                _ => return Err(MalformedHistory("only a cas can find something else".to_owned())),
            },
        }
        Ok(())
    }

    /// The key's history as it stands: what is under way may or may not have happened.
    #[must_use]
    pub fn history(&self, spec: Spec) -> Packed {
        let kept: Vec<u32> = (0_u32..)
            .zip(&self.ops)
            .filter(|(_, op)| op.what != DROPPED)
            .map(|(place, _)| place)
            .collect();
        let numbers = kept.iter().map(|place| self.numbers[*place as usize]).collect();
        let ops = kept.iter().map(|place| self.ops[*place as usize]);
        // A text to which nothing was ever appended is a register that holds the empty text first.
        let plain = self.special.is_empty();
        let shape = if plain {
            Shape::Plain(KeyHistory::new(ops.collect()))
        } else {
            let step = |place: &u32, op: Op| match (self.special.get(place), op.what) {
                (Some(step), _) => *step,
                (None, What::Write(value)) => Step::Write(value),
                (None, What::Read(value)) => Step::Read(value),
            };
            let operations = kept.iter().zip(ops).map(|(place, op)| frontier::Operation {
                invoked: op.invoked,
                returned: op.returned,
                step: step(place, op),
            });
            Shape::General(operations.collect(), self.states(spec))
        };
        Packed { shape, numbers }
    }

    fn states(&self, spec: Spec) -> frontier::States {
        if spec == Spec::Register {
            return frontier::States::default();
        }
        let mut texts: Vec<(&str, u32)> =
            self.values.iter().map(|(text, number)| (&**text, *number)).collect();
        texts.sort_unstable_by_key(|(_, number)| *number);
        let mut states = frontier::States::with_texts();
        for (text, _) in texts {
            states.number(text.as_bytes());
        }
        states
    }

    /// The text of a value, none for nothing.
    #[must_use]
    pub fn text(&self, value: u32) -> Option<&str> {
        self.values.iter().find(|(_, number)| **number == value).map(|(text, _)| &**text)
    }

    /// The operation of this number, and what it does where its key cannot say it.
    pub(super) fn operation(&self, number: u32) -> (Op, Option<Step>) {
        let at = self.numbers.partition_point(|other| *other < number);
        let step = u32::try_from(at).ok().and_then(|place| self.special.get(&place));
        (self.ops[at], step.copied())
    }

    /// Whether a write of this value has failed.
    #[must_use]
    pub fn has_failed(&self, value: u32) -> bool {
        self.failed.get(value as usize).is_some_and(|failed| *failed)
    }
}

/// A key's history in the form in which it is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The operations.
    pub shape: Shape,
    /// By place: the number of the operation in the whole history, from 0 in the order of the
    /// invocations.
    pub numbers: Vec<u32>,
}

/// Plain, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Puts, deletes and gets of a register.
    Plain(KeyHistory),
    /// Anything.
    General(Vec<frontier::Operation>, frontier::States),
}

impl Keys {
    /// No observations yet, of keys that are such objects.
    #[must_use]
    pub fn new(spec: Spec) -> Self {
        Keys { spec, ..Keys::default() }
    }

    /// Which objects the keys are.
    #[must_use]
    pub fn spec(&self) -> Spec {
        self.spec
    }

    /// A process begins an operation.
    ///
    /// # Errors
    /// It has one under way, or is retired.
    pub fn invoke(
        &mut self,
        process: u64,
        key: &str,
        ask: Ask<'_>,
    ) -> Result<(), MalformedHistory> {
        self.invoke_numbered(self.operations, process, key, ask)
    }

    /// A process begins an operation that has this number in a greater history.
    ///
    /// # Errors
    /// It has one under way, or is retired.
    pub(in crate::checker) fn invoke_numbered(
        &mut self,
        number: u64,
        process: u64,
        key: &str,
        ask: Ask<'_>,
    ) -> Result<(), MalformedHistory> {
        if let Some(known) = self.under_way.get(&process) {
            return Err(MalformedHistory::begun(process, known.is_none()));
        }
        let number = u32::try_from(number)
            .map_err(|_| MalformedHistory("more than 2^32 operations".to_owned()))?;
        self.operations += 1;
        let at = match self.by_name.get(key) {
            Some(at) => *at,
            None => {
                self.by_name.insert(key.into(), self.keys.len());
                self.keys.push(Key::new(key, self.spec));
                self.keys.len() - 1
            }
        };
        if matches!(ask, Ask::Append(_)) && self.spec == Spec::Register {
            return Err(MalformedHistory(
                "a register takes no append: want --spec append".to_owned(),
            ));
        }
        let place = self.keys[at].invoke(ask, number)?;
        self.under_way.insert(process, Some((at, place)));
        Ok(())
    }

    /// A process's operation ends. After [`End::Info`] the process is retired.
    ///
    /// # Errors
    /// It has none under way, or the end is not one of it.
    pub fn end(&mut self, process: u64, end: End<'_>) -> Result<(), MalformedHistory> {
        let Some(Some((key, place))) = self.under_way.remove(&process) else {
            return Err(MalformedHistory::not_begun(process));
        };
        if end == End::Info {
            self.under_way.insert(process, None);
        }
        self.keys[key].end(place, end)
    }

    /// Every key so far, in the order in which they appeared.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// How many operations were begun.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations
    }
}
