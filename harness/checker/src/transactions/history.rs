//! Transactions as they were observed, packed into numbers.
//!
//! A read of a list is compared with the longest list that was read of its key so far, and kept as a
//! length; only a read that disagrees keeps its elements. Does not know what a history should look
//! like.

use std::collections::HashMap;

use ahash::RandomState;
use hashbrown::HashTable;
use history::{
    Completion, Invocation, MalformedHistory, MicroFunction, MicroOp, NumberKind, Outcome, Sink,
    Value,
};

use super::{
    derive::{Rule, applies},
    given::Given,
};

/// No transaction, no position, no event.
pub(super) const NONE: u32 = u32::MAX;
/// A read whose result is not known.
const UNREAD: u32 = u32::MAX;
/// Arguments of reads from here on, except [`UNREAD`], are numbers of [`Divergence`]s.
const DIVERGENT: u32 = 1 << 31;

/// A transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transaction {
    /// Number of the event that invokes it.
    pub(super) invoked: u32,
    /// Number of the event that completes it; [`NONE`] if it never completes.
    pub(super) returned: u32,
    /// Its process: a position in [`TransactionHistory::processes`].
    pub(super) process: u32,
    /// Its first micro-operation. They end where those of the next transaction begin.
    first_op: u32,
    /// How it completed; `Info` if it never does.
    pub(super) outcome: Outcome,
}

/// A micro-operation: key and function, and an element, a length or a value.
#[derive(Clone, Copy, Debug)]
struct PackedOp {
    key_and_function: u32,
    argument: u32,
}

/// A micro-operation as it was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Appends an element.
    Append {
        /// Number of the key.
        key: u32,
        /// Number of the element.
        element: u32,
    },
    /// Writes a value.
    Write {
        /// Number of the key.
        key: u32,
        /// Number of the value.
        value: u32,
    },
    /// Reads the first elements of the longest list of the key.
    List {
        /// Number of the key.
        key: u32,
        /// Number of elements.
        length: u32,
    },
    /// Reads a list that disagrees with others.
    Divergent {
        /// Number of the key.
        key: u32,
        /// Position in [`TransactionHistory::divergences`].
        at: u32,
    },
    /// Reads the value of a register.
    Register {
        /// Number of the key.
        key: u32,
        /// Number of the value, `None` if there is none.
        value: Option<u32>,
    },
    /// A read whose result is unknown.
    Unread {
        /// Number of the key.
        key: u32,
    },
}

/// A read that is no prefix of the list of its key, nor an extension of it.
#[derive(Clone, Debug)]
pub(super) struct Divergence {
    /// Number of the key.
    pub(super) key: u32,
    /// The transaction that read it.
    pub(super) transaction: u32,
    /// Number of elements that it shares with the list of its key.
    pub(super) common: u32,
    /// What was read: numbers of elements.
    pub(super) elements: Vec<u32>,
}

/// An element of a list, or a value of a register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Element {
    /// How it is written: see [`Texts`].
    value: u64,
    /// Number of the key.
    pub(super) key: u32,
    /// The transaction that writes it; [`NONE`] if nobody does.
    pub(super) writer: u32,
}

/// What the transactions of a history do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// They append to lists and read them.
    ListAppend,
    /// They write registers and read them.
    Registers,
}

/// Values as numbers. Most are small integers; all others are kept once.
#[derive(Debug, Default)]
struct Texts {
    numbers: HashMap<String, u64, RandomState>,
    texts: Vec<String>,
}

/// Marks of what a number stands for: an integer, a text that is one, or a text kept in [`Texts`].
const TEXT_OF_DIGITS: u64 = 1 << 62;
const KEPT: u64 = 1 << 63;

impl Texts {
    fn number(&mut self, value: &Value<'_>) -> u64 {
        match value {
            Value::Number(NumberKind::Integer, digits) => {
                if let Some(number) = small(digits) {
                    return number;
                }
            }
            Value::Text(text) => {
                if let Some(number) = small(text) {
                    return number | TEXT_OF_DIGITS;
                }
            }
            _ => {}
        }
        // Displayed values are equal exactly if the values are.
        let text = value.to_string();
        if let Some(number) = self.numbers.get(&text) {
            return *number;
        }
        let number = KEPT | self.texts.len() as u64;
        let shown = match value {
            Value::Text(name) | Value::Keyword(name) | Value::Symbol(name) => name.to_string(),
            _ => text.clone(),
        };
        self.texts.push(shown);
        self.numbers.insert(text, number);
        number
    }

    fn shown(&self, number: u64) -> String {
        match number & KEPT {
            0 => (number & !TEXT_OF_DIGITS).to_string(),
            _ => self.texts[(number & !KEPT) as usize].clone(),
        }
    }
}

/// The number that a text stands for, if it is written in no other way.
fn small(text: &str) -> Option<u64> {
    let is_canonical = text == "0"
        || (text.len() <= 18
            && !text.starts_with('0')
            && !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_digit()));
    is_canonical.then(|| text.parse().ok()).flatten()
}

/// The transactions of a history. Implements [`Sink`]: readers of files pass their events on to it.
#[derive(Debug, Default)]
pub struct TransactionHistory {
    pub(super) workload: Option<Workload>,
    pub(super) transactions: Vec<Transaction>,
    ops: Vec<PackedOp>,
    /// Transactions that are ok, in the order in which they returned.
    pub(super) returns: Vec<u32>,
    /// Number of the next event.
    events: u32,
    /// Process numbers of the history.
    pub(super) processes: Vec<u64>,
    pub(super) process_names: HashMap<u64, String, RandomState>,
    /// The open transaction of each process; [`NONE`] if an info has retired it.
    open: HashMap<u64, (u32, u32), RandomState>,
    texts: Texts,
    key_numbers: HashMap<u64, u32, RandomState>,
    keys: Vec<u64>,
    /// By key: the longest list that was read.
    pub(super) lists: Vec<Vec<u32>>,
    pub(super) elements: Vec<Element>,
    element_numbers: HashTable<u32>,
    hasher: RandomState,
    /// Elements that are written again, and the transactions that do so.
    pub(super) rewritten: Vec<(u32, u32)>,
    /// Keys with an element that nobody knows the writer of: found once a history is judged.
    pub(super) unusable: Vec<u32>,
    pub(super) divergences: Vec<Divergence>,
    /// By value: the version that the system told first. Shorter if the last ones have none.
    pub(super) given: Vec<Given>,
    /// Values of which it told another version later.
    pub(super) given_again: Vec<(u32, Given)>,
    /// The history does not say which transactions returned before others were invoked.
    lacks_real_time: bool,
}

impl TransactionHistory {
    /// Number of transactions, those that failed or are of unknown outcome included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.transactions.len()
    }

    /// Whether there are no transactions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }

    /// Number of micro-operations.
    #[must_use]
    pub fn micro_ops(&self) -> usize {
        self.ops.len()
    }

    /// Whether the history says which transactions returned before others were invoked.
    #[must_use]
    pub fn has_real_time(&self) -> bool {
        !self.lacks_real_time
    }

    /// Number of keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// What the transactions do; `None` if they only read.
    #[must_use]
    pub fn workload(&self) -> Option<Workload> {
        self.workload
    }

    /// Frees what only a growing history needs.
    pub fn seal(&mut self) {
        self.element_numbers = HashTable::new();
        self.key_numbers = HashMap::default();
        self.texts.numbers = HashMap::default();
        self.open = HashMap::default();
        self.transactions.shrink_to_fit();
        self.ops.shrink_to_fit();
        self.elements.shrink_to_fit();
        self.returns.shrink_to_fit();
        self.lists.iter_mut().for_each(Vec::shrink_to_fit);
    }

    /// The name of a key.
    pub(super) fn key_name(&self, key: u32) -> String {
        self.texts.shown(self.keys[key as usize])
    }

    /// An element as text.
    pub(super) fn element_text(&self, element: u32) -> String {
        self.texts.shown(self.elements[element as usize].value)
    }

    /// The steps of a transaction.
    pub(super) fn steps(&self, transaction: u32) -> impl DoubleEndedIterator<Item = Step> + '_ {
        let at = transaction as usize;
        let start = self.transactions[at].first_op as usize;
        let end =
            self.transactions.get(at + 1).map_or(self.ops.len(), |next| next.first_op as usize);
        let is_list = self.workload != Some(Workload::Registers);
        self.ops[start..end].iter().map(move |op| op.step(is_list))
    }

    fn key(&mut self, value: &Value<'_>) -> u32 {
        let number = self.texts.number(value);
        let next = self.keys.len() as u32;
        let key = *self.key_numbers.entry(number).or_insert(next);
        if key == next {
            self.keys.push(number);
            self.lists.push(Vec::new());
        }
        key
    }

    /// The number of an element of a key.
    fn element(&mut self, key: u32, value: u64) -> u32 {
        let TransactionHistory { elements, element_numbers, hasher, .. } = self;
        let hash = hasher.hash_one((key, value));
        let is_it = |number: &u32| {
            let element = elements[*number as usize];
            element.key == key && element.value == value
        };
        if let Some(number) = element_numbers.find(hash, is_it) {
            return *number;
        }
        let number = elements.len() as u32;
        elements.push(Element { value, key, writer: NONE });
        element_numbers.insert_unique(hash, number, |number| {
            let element = elements[*number as usize];
            hasher.hash_one((element.key, element.value))
        });
        number
    }

    fn works_on(&mut self, workload: Workload) -> Result<(), MalformedHistory> {
        match *self.workload.get_or_insert(workload) {
            before if before == workload => Ok(()),
            _ => Err(mixed()),
        }
    }

    fn write(&mut self, transaction: u32, key: u32, value: &Value<'_>) -> u32 {
        let number = self.texts.number(value);
        let element = self.element(key, number);
        let writer = &mut self.elements[element as usize].writer;
        if *writer == NONE {
            *writer = transaction;
        } else {
            self.rewritten.push((element, transaction));
        }
        element
    }

    /// Takes what a read returned, and returns its argument.
    fn read(
        &mut self,
        transaction: u32,
        key: u32,
        value: &Value<'_>,
    ) -> Result<u32, MalformedHistory> {
        match (value, self.workload) {
            (Value::Nil, _) => Ok(0),
            (Value::List(elements), None | Some(Workload::ListAppend)) => {
                self.workload = Some(Workload::ListAppend);
                Ok(self.read_list(transaction, key, elements))
            }
            (value, Some(Workload::ListAppend)) => {
                Err(MalformedHistory(format!("a read of a list returned {value}")))
            }
            (value, _) => {
                self.workload = Some(Workload::Registers);
                let number = self.texts.number(value);
                Ok(self.element(key, number) + 1)
            }
        }
    }

    fn read_list(&mut self, transaction: u32, key: u32, read: &[Value<'_>]) -> u32 {
        let known = self.lists[key as usize].len();
        for (at, value) in read.iter().enumerate() {
            let number = self.texts.number(value);
            if at >= known {
                let element = self.element(key, number);
                self.lists[key as usize].push(element);
                continue;
            }
            let listed = self.lists[key as usize][at];
            if self.elements[listed as usize].value != number {
                return self.diverge(transaction, key, at, read);
            }
        }
        read.len() as u32
    }

    /// Takes the version of a step of a transaction that is ok. Those of lists tell nothing that the lists do
    /// not; what was never written, or written by the same transaction before, has none.
    fn versioned(&mut self, transaction: u32, op: PackedOp, version: u64) {
        if self.workload != Some(Workload::Registers) {
            return;
        }
        let given = Given { version, to: transaction };
        match op.step(false) {
            Step::Write { value, .. } if applies(Rule::VersionOfWrite) => self.give(value, given),
            Step::Register { value: Some(value), .. }
                if self.elements[value as usize].writer != transaction
                    && applies(Rule::VersionOfRead) =>
            {
                self.give(value, given);
            }
            _ => {}
        }
    }

    fn diverge(&mut self, transaction: u32, key: u32, common: usize, read: &[Value<'_>]) -> u32 {
        let mut elements = Vec::with_capacity(read.len());
        for value in read {
            let number = self.texts.number(value);
            elements.push(self.element(key, number));
        }
        let common = common as u32;
        self.divergences.push(Divergence { key, transaction, common, elements });
        DIVERGENT | (self.divergences.len() - 1) as u32
    }
}

impl PackedOp {
    fn new(key: u32, f: MicroFunction, argument: u32) -> Self {
        PackedOp { key_and_function: key << 1 | u32::from(f != MicroFunction::Read), argument }
    }

    fn step(self, is_list: bool) -> Step {
        let key = self.key_and_function >> 1;
        let argument = self.argument;
        match (self.key_and_function & 1 == 1, is_list) {
            (true, true) => Step::Append { key, element: argument },
            (true, false) => Step::Write { key, value: argument },
            (false, _) if argument == UNREAD => Step::Unread { key },
            (false, true) if argument & DIVERGENT != 0 => {
                Step::Divergent { key, at: argument & !DIVERGENT }
            }
            (false, true) => Step::List { key, length: argument },
            (false, false) => Step::Register { key, value: argument.checked_sub(1) },
        }
    }
}

/// Transactions append to lists, and others write registers.
pub(super) fn mixed() -> MalformedHistory {
    MalformedHistory(
        "transactions on lists and on registers in one history: check them apart".to_owned(),
    )
}

/// The most keys, elements and micro-operations: they are numbered with 31 bits.
const NUMBERED_MAX: usize = (1 << 31) - 1;

impl Sink for TransactionHistory {
    fn name_process(&mut self, process: u64, name: &str) {
        self.process_names.entry(process).or_insert_with(|| name.to_owned());
    }

    fn number_event(&mut self, index: u64) {
        // Numbers that do not fit are those of no history that fits in memory.
        self.events = u32::try_from(index).unwrap_or(self.events);
    }

    fn without_real_time(&mut self) {
        self.lacks_real_time = true;
    }

    fn invoke(
        &mut self,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        Err(MalformedHistory(format!(
            "{invocation:?} of {key} by process {process} is no transaction, and the history has \
             transactions: check them apart"
        )))
    }

    fn complete(
        &mut self,
        process: u64,
        _completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        Err(MalformedHistory::not_invoked(process))
    }

    fn invoke_transaction(
        &mut self,
        process: u64,
        ops: &[MicroOp<'_, '_>],
    ) -> Result<(), MalformedHistory> {
        if self.ops.len() + ops.len() > NUMBERED_MAX || self.elements.len() > NUMBERED_MAX / 2 {
            return Err(MalformedHistory("more than 2^31 micro-operations".to_owned()));
        }
        let transaction = self.transactions.len() as u32;
        let next = self.processes.len() as u32;
        let (number, open) = self.open.entry(process).or_insert((next, NONE));
        match *open {
            NONE => *open = transaction,
            RETIRED => return Err(MalformedHistory::not_idle(process, true)),
            _ => return Err(MalformedHistory::not_idle(process, false)),
        }
        let number = *number;
        if number == next {
            self.processes.push(process);
        }
        self.transactions.push(Transaction {
            invoked: self.events,
            returned: NONE,
            process: number,
            first_op: self.ops.len() as u32,
            outcome: Outcome::Info,
        });
        self.events += 1;
        for MicroOp { f, key, value, .. } in ops {
            let key = self.key(key);
            let argument = match f {
                MicroFunction::Read => UNREAD,
                MicroFunction::Append | MicroFunction::Write => {
                    self.works_on(match f {
                        MicroFunction::Append => Workload::ListAppend,
                        _ => Workload::Registers,
                    })?;
                    self.write(transaction, key, value)
                }
            };
            self.ops.push(PackedOp::new(key, *f, argument));
        }
        Ok(())
    }

    fn complete_transaction(
        &mut self,
        process: u64,
        ops: &[MicroOp<'_, '_>],
        outcome: Outcome,
    ) -> Result<(), MalformedHistory> {
        let transaction = match self.open.get_mut(&process) {
            Some((_, open)) if *open < RETIRED => {
                std::mem::replace(open, if outcome == Outcome::Info { RETIRED } else { NONE })
            }
            _ => return Err(MalformedHistory::not_invoked(process)),
        };
        if outcome == Outcome::Ok && ops.len() != self.steps(transaction).count() {
            return Err(MalformedHistory(format!(
                "process {process} completes a transaction of another length than it invoked"
            )));
        }
        let observed = &mut self.transactions[transaction as usize];
        observed.returned = self.events;
        observed.outcome = outcome;
        self.events += 1;
        if outcome != Outcome::Ok {
            return Ok(());
        }
        self.returns.push(transaction);
        let first = self.transactions[transaction as usize].first_op as usize;
        for (at, MicroOp { f, value, version, .. }) in ops.iter().enumerate() {
            if *f == MicroFunction::Read {
                let key = self.ops[first + at].key_and_function >> 1;
                self.ops[first + at].argument = self.read(transaction, key, value)?;
            }
            if let Some(version) = version {
                self.versioned(transaction, self.ops[first + at], *version);
            }
        }
        Ok(())
    }
}

/// A process that an info has retired, in place of its open transaction.
const RETIRED: u32 = u32::MAX - 1;
