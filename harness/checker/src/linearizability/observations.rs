//! Sorts the events of a history by key and packs them. Does not know files or verdicts.

use std::collections::HashMap;

use ahash::RandomState;
use history::{Completion, Invocation, MalformedHistory, Sink, formats::Format};

use super::{
    frontier::{self, Step},
    packed::{ABSENT, Access, OPEN, PackedOp, RegisterHistory},
};

/// The sequential specification that every key of a history has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spec {
    /// A register with put, del, get and cas. Absent at first.
    #[default]
    Register,
    /// A text with put, append and get. Empty at first.
    Append,
}

impl Spec {
    /// The specification of a format's histories, unless the user chooses another one.
    #[must_use]
    pub fn of_format(format: Format) -> Self {
        if format == Format::Porcupine { Spec::Append } else { Spec::Register }
    }
}

impl std::str::FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "register" => Ok(Spec::Register),
            "append" => Ok(Spec::Append),
            _ => Err(format!("unknown specification '{text}': expected register or append")),
        }
    }
}

/// The observations of all clients, sorted by key. Each process has one open operation at a time.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    spec: Spec,
    by_name: HashMap<Box<str>, usize, RandomState>,
    keys: Vec<ObservedKey>,
    /// The open operation of each process, by key and position. `None` if the process is retired.
    open: HashMap<u64, Option<(usize, usize)>, RandomState>,
    operations: u64,
}

/// The observations of one key.
#[derive(Clone, Debug)]
pub struct ObservedKey {
    /// The key's name.
    pub name: Box<str>,
    /// Number of events so far.
    clock: u32,
    ops: Vec<PackedOp>,
    /// Steps other than plain writes and reads, by position. In `ops` they are writes.
    steps: HashMap<u32, Step>,
    /// By position: the number of the operation in the whole history, from 0.
    numbers: Vec<u32>,
    values: HashMap<Box<str>, u32, RandomState>,
    /// By value: whether a write of it failed.
    failed: Vec<bool>,
}

/// The access of operations that are left out: failed ones, and gets without a result.
const IGNORED: Access = Access::Read(OPEN);

impl ObservedKey {
    fn new(name: &str, spec: Spec) -> Self {
        let mut values = HashMap::default();
        if spec == Spec::Append {
            values.insert("".into(), ABSENT);
        }
        ObservedKey {
            name: name.into(),
            clock: 0,
            ops: Vec::new(),
            steps: HashMap::new(),
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

    fn invoke(
        &mut self,
        invocation: Invocation<'_>,
        number: u32,
    ) -> Result<usize, MalformedHistory> {
        let invoked = self.tick()?;
        let position = self.ops.len();
        let access = match invocation {
            Invocation::Get => IGNORED,
            Invocation::Del => Access::Write(ABSENT),
            Invocation::Put(value) => Access::Write(self.value(value)),
            Invocation::Cas(from, to) => {
                let [from, to] =
                    [from, to].map(|value| value.map_or(ABSENT, |value| self.value(value)));
                self.set_step(position, Step::Cas(from, to));
                Access::Write(to)
            }
            Invocation::Append(text) => {
                let text = self.value(text);
                self.set_step(position, Step::Append(text));
                Access::Write(text)
            }
        };
        self.ops.push(PackedOp { invoked, returned: OPEN, access });
        self.numbers.push(number);
        Ok(position)
    }

    fn set_step(&mut self, position: usize, step: Step) {
        self.steps.insert(u32::try_from(position).expect("positions fit in 32 bits"), step);
    }

    fn complete(
        &mut self,
        position: usize,
        completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        let returned = self.tick()?;
        let step_key = u32::try_from(position).expect("positions fit in 32 bits");
        match completion {
            Completion::Info => {}
            Completion::Ok(value) => {
                if self.ops[position].access == IGNORED {
                    let value = value.map_or(ABSENT, |value| self.value(value));
                    self.ops[position].access = Access::Read(value);
                }
                self.ops[position].returned = returned;
            }
            Completion::Fail => {
                if let Access::Write(value) = self.ops[position].access {
                    self.failed[value as usize] = true;
                }
                self.steps.remove(&step_key);
                self.ops[position].access = IGNORED;
            }
            Completion::Mismatch => match self.steps.get_mut(&step_key) {
                Some(step @ Step::Cas(..)) => {
                    let Step::Cas(from, _) = *step else { unreachable!("it was just matched") };
                    *step = Step::Mismatch(from);
                    self.ops[position].returned = returned;
                }
                _ => {
                    return Err(MalformedHistory(
                        "only a cas can complete with a mismatch".to_owned(),
                    ));
                }
            },
        }
        Ok(())
    }

    /// Number of operations invoked so far.
    pub(super) fn len(&self) -> usize {
        self.ops.len()
    }

    /// The key's history so far. Open operations may or may not have taken effect.
    #[must_use]
    pub fn history(&self, spec: Spec) -> PackedHistory {
        let kept: Vec<u32> = (0_u32..)
            .zip(&self.ops)
            .filter(|(_, op)| op.access != IGNORED)
            .map(|(position, _)| position)
            .collect();
        let numbers = kept.iter().map(|position| self.numbers[*position as usize]).collect();
        let ops = kept.iter().map(|position| self.ops[*position as usize]);
        // Without appends a text is a register that holds the empty text at first.
        let is_register = self.steps.is_empty();
        let encoding = if is_register {
            Encoding::Register(RegisterHistory::new(ops.collect()))
        } else {
            let step = |position: &u32, op: PackedOp| match (self.steps.get(position), op.access) {
                (Some(step), _) => *step,
                (None, Access::Write(value)) => Step::Write(value),
                (None, Access::Read(value)) => Step::Read(value),
            };
            let operations = kept.iter().zip(ops).map(|(position, op)| frontier::TimedStep {
                invoked: op.invoked,
                returned: op.returned,
                step: step(position, op),
            });
            Encoding::Steps(operations.collect(), self.states(spec))
        };
        PackedHistory { encoding, numbers }
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

    /// The text of a value, `None` for the absent value.
    #[must_use]
    pub fn text(&self, value: u32) -> Option<&str> {
        self.values.iter().find(|(_, number)| **number == value).map(|(text, _)| &**text)
    }

    /// The operation with this number, and its step if it is not a plain write or read.
    pub(super) fn operation(&self, number: u32) -> (PackedOp, Option<Step>) {
        let at = self.numbers.partition_point(|other| *other < number);
        let step = u32::try_from(at).ok().and_then(|position| self.steps.get(&position));
        (self.ops[at], step.copied())
    }

    /// Whether a write of this value failed.
    #[must_use]
    pub fn has_failed(&self, value: u32) -> bool {
        self.failed.get(value as usize).is_some_and(|failed| *failed)
    }
}

/// A key's history as the tiers decide it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedHistory {
    /// The operations.
    pub encoding: Encoding,
    /// By position: the number of the operation in the whole history, from 0 in the order of the
    /// invocations.
    pub numbers: Vec<u32>,
}

/// The operations in the encoding of a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Puts, deletes and gets of a register.
    Register(RegisterHistory),
    /// Steps of any kind, and their states.
    Steps(Vec<frontier::TimedStep>, frontier::States),
}

impl Observations {
    /// No observations so far.
    #[must_use]
    pub fn new(spec: Spec) -> Self {
        Observations { spec, ..Observations::default() }
    }

    /// The specification of the keys.
    #[must_use]
    pub fn spec(&self) -> Spec {
        self.spec
    }

    /// A process invokes an operation.
    ///
    /// # Errors
    /// The process has an open operation or is retired, or the specification has no such operation.
    pub fn invoke(
        &mut self,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        self.invoke_numbered(self.operations, process, key, invocation)
    }

    /// A process invokes an operation that has this number in a larger history.
    ///
    /// # Errors
    /// The process has an open operation or is retired, or the specification has no such operation.
    pub(crate) fn invoke_numbered(
        &mut self,
        number: u64,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        if let Some(open) = self.open.get(&process) {
            return Err(MalformedHistory::not_idle(process, open.is_none()));
        }
        let number = u32::try_from(number)
            .map_err(|_| MalformedHistory("more than 2^32 operations".to_owned()))?;
        self.operations += 1;
        let at = match self.by_name.get(key) {
            Some(at) => *at,
            None => {
                self.by_name.insert(key.into(), self.keys.len());
                self.keys.push(ObservedKey::new(key, self.spec));
                self.keys.len() - 1
            }
        };
        if matches!(invocation, Invocation::Append(_)) && self.spec == Spec::Register {
            return Err(MalformedHistory("a register has no append: use --spec append".to_owned()));
        }
        let position = self.keys[at].invoke(invocation, number)?;
        self.open.insert(process, Some((at, position)));
        Ok(())
    }

    /// The open operation of a process completes. After [`Completion::Info`] the process is
    /// retired.
    ///
    /// # Errors
    /// The process has no open operation, or the operation cannot complete like this.
    pub fn complete(
        &mut self,
        process: u64,
        completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        let Some(Some((key, position))) = self.open.remove(&process) else {
            return Err(MalformedHistory::not_invoked(process));
        };
        if completion == Completion::Info {
            self.open.insert(process, None);
        }
        self.keys[key].complete(position, completion)
    }

    /// Every key so far, in the order of first appearance.
    #[must_use]
    pub fn keys(&self) -> &[ObservedKey] {
        &self.keys
    }

    /// Number of operations invoked so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations
    }
}

impl Sink for Observations {
    fn invoke(
        &mut self,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        Observations::invoke(self, process, key, invocation)
    }

    fn complete(
        &mut self,
        process: u64,
        completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        Observations::complete(self, process, completion)
    }
}
